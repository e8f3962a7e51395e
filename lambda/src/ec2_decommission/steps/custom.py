"""A user's own step: loaded from the package by its name, and held to the rules that the module's steps keep.

What goes wrong in a user's code fails that step for those instances, with the step's name in the report, and nothing
else.
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, ClassVar, TypeVar

from ..errors import ConfigurationError, TransientError
from ..identity import Facts
from .base import Finding, Outcome

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from ..custom_step import StepTools
    from ..errors import DecommissionError
    from .base import Batch, Step

T = TypeVar("T")


def load(tools: StepTools) -> Step:
    """The step that ``make_step(tools)`` of the package ``custom_steps.<name>`` gives.

    Raises:
        ConfigurationError: the package is not there, cannot be imported, or gives no step.
        DecommissionError: what ``make_step`` raised.
    """
    with _explained(tools):
        try:
            module = importlib.import_module(f"custom_steps.{tools.name}")
        except ImportError as error:
            raise ConfigurationError(
                f"custom step {tools.name}: the package does not hold it, or not all: {error}"
            ) from None
        make_step = getattr(module, "make_step", None)
        if not callable(make_step):
            raise ConfigurationError(f"custom step {tools.name}: its __init__.py has no function make_step(tools)")
        step = make_step(tools)
    lacking = [act for act in ("look", "find", "remove") if not callable(getattr(step, act, None))]
    if lacking:
        raise ConfigurationError(f"custom step {tools.name}: what make_step gives has no {', '.join(lacking)}")
    return CheckedStep(tools, step)


class CheckedStep:
    """Asks the user's step, and believes no answer that breaks the rules: an omission would look like success."""

    name: ClassVar[str] = "custom"

    def __init__(self, tools: StepTools, step: Any) -> None:
        self._tools = tools
        self._step = step

    def look(self, batch: Batch) -> Mapping[str, Facts]:
        with _explained(self._tools):
            told = self._mapping("look", self._step.look(batch) or {}, batch.instances)
        wrong = sorted(i for i, facts in told.items() if not isinstance(facts, Facts))
        if wrong:
            raise ConfigurationError(f"custom step {self._tools.name}: look gave no Facts for {', '.join(wrong)}")
        return told

    def find(self, batch: Batch) -> Mapping[str, Finding]:
        with _explained(self._tools):
            told = self._mapping("find", self._step.find(batch), batch.instances)
        return {i: self._finding(told.get(i)) for i in batch.instances}

    def remove(self, batch: Batch, findings: Mapping[str, Finding]) -> Mapping[str, Outcome]:
        with _explained(self._tools):
            told = self._mapping("remove", self._step.remove(batch, findings), findings)
        return {i: self._outcome(told.get(i), finding) for i, finding in findings.items()}

    def _finding(self, finding: object) -> Finding:
        if not isinstance(finding, Finding):
            return Finding(errors=(self._broken("find gave no Finding for it"),))
        proven = tuple(r for r in finding.removals if r.action.strip() and r.target.strip() and r.proof.strip())
        if len(proven) < len(finding.removals):
            error = self._broken("find gave a removal without action, target or proof; it is not removed")
            return Finding(proven, finding.left, finding.notes, (*finding.errors, error))
        return finding

    def _outcome(self, outcome: object, finding: Finding) -> Outcome:
        if not isinstance(outcome, Outcome):
            return Outcome(errors=(self._broken("remove gave no Outcome for it"),))
        strange = [r.target for r in outcome.removed if r not in finding.removals]
        if strange:
            error = self._broken(f"remove tells of {', '.join(strange)}, which find did not name")
            return Outcome(outcome.removed, outcome.left, (*outcome.errors, error))
        return outcome

    def _mapping(self, act: str, told: object, ids: Iterable[str]) -> Mapping[str, Any]:
        if not isinstance(told, Mapping):
            raise ConfigurationError(
                f"custom step {self._tools.name}: {act} gave a {type(told).__name__}, and is to give a mapping by id"
            )
        return {i: told[i] for i in ids if i in told}

    def _broken(self, what: str) -> DecommissionError:
        return ConfigurationError(f"custom step {self._tools.name}: {what}")


@contextmanager
def _explained(tools: StepTools) -> Iterator[None]:
    try:
        yield
    except SystemExit as error:
        raise TransientError(f"custom step {tools.name} called sys.exit({error.code})") from None
    except Exception as error:
        raise tools.explain(error) from None
