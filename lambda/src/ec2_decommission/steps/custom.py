"""Custom steps: loads a user's step by name, and enforces the rules of the built-in steps on it.

A fault in a user's code fails only that step for those instances. The report names the step.
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Any, ClassVar

from .. import custom_step
from ..chunks import chunks
from ..errors import ConfigurationError, TransientError
from ..instance import Facts
from .base import Finding, Outcome

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from ..custom_step import StepTools
    from ..errors import DecommissionError
    from .base import Batch, Step

_CHUNK = 20  # instances that are found again, and then removed, together


def load(tools: StepTools) -> Step:
    """Loads the step that ``make_step(tools)`` of the package ``custom_steps.<name>`` returns.

    Raises:
        ConfigurationError: the package does not exist, cannot be imported, or returns no step.
        DecommissionError: the error of ``make_step``.
    """
    with _explained(tools):
        try:
            module = importlib.import_module(f"custom_steps.{tools.name}")
        except ImportError as error:
            raise ConfigurationError(
                f"custom step {tools.name}: the package does not contain the step or a module it imports: {error}"
            ) from None
        make_step = getattr(module, "make_step", None)
        if not callable(make_step):
            raise ConfigurationError(f"custom step {tools.name}: its __init__.py has no function make_step(tools)")
        step = make_step(tools)
    lacking = [act for act in ("look", "find", "remove") if not callable(getattr(step, act, None))]
    if lacking:
        raise ConfigurationError(
            f"custom step {tools.name}: the object that make_step returns has no {', '.join(lacking)}"
        )
    return CheckedStep(tools, step)


class CheckedStep:
    """Calls the user's step, and refuses invalid answers, because an omission would look like success."""

    name: ClassVar[str] = "custom"

    def __init__(self, tools: StepTools, step: Any) -> None:
        self._tools = tools
        self._step = step

    def identify(self, batch: Batch) -> Mapping[str, Facts]:
        with _explained(self._tools):
            told = self._mapping("look", self._step.look(_given(batch)) or {}, batch.instances)
        wrong = sorted(i for i, facts in told.items() if not isinstance(facts, Facts))
        if wrong:
            raise ConfigurationError(f"custom step {self._tools.name}: look returned no Facts for {', '.join(wrong)}")
        return told

    def plan(self, batch: Batch) -> Mapping[str, Finding]:
        with _explained(self._tools):
            told = self._mapping("find", self._step.find(_given(batch)), batch.instances)
        return {i: self._finding(told.get(i)) for i in batch.instances}

    def apply(self, batch: Batch, findings: Mapping[str, Finding]) -> Mapping[str, Outcome]:
        """Finds again for a few instances at a time, and removes what both finds agree on."""
        outcomes: dict[str, Outcome] = {}
        for some in chunks(findings, _CHUNK):
            part = replace(batch, instances={i: batch.instances[i] for i in some})
            agreed, changed = _agreed({i: findings[i] for i in some}, self.plan(part))
            outcomes |= changed
            if agreed:
                with _explained(self._tools):
                    told = self._mapping("remove", self._step.remove(_given(part), agreed), agreed)
                for i, finding in agreed.items():
                    done, before = self._outcome(told.get(i), finding), changed.get(i, Outcome())
                    outcomes[i] = Outcome(done.removed, (*before.left, *done.left), (*before.errors, *done.errors))
        return outcomes

    def _finding(self, finding: object) -> Finding:
        if not isinstance(finding, Finding):
            return Finding(errors=(self._broken("find returned no Finding for this instance"),))
        proven = tuple(r for r in finding.removals if r.action.strip() and r.target.strip() and r.proof.strip())
        if len(proven) < len(finding.removals):
            error = self._broken("find returned a removal without action, target or proof; it is not removed")
            return Finding(proven, finding.left, finding.notes, (*finding.errors, error))
        return finding

    def _outcome(self, outcome: object, finding: Finding) -> Outcome:
        if not isinstance(outcome, Outcome):
            return Outcome(errors=(self._broken("remove returned no Outcome for this instance"),))
        strange = [r.target for r in outcome.removed if r not in finding.removals]
        if strange:
            error = self._broken(f"remove reports {', '.join(strange)}, which find did not return")
            return Outcome(outcome.removed, outcome.left, (*outcome.errors, error))
        return outcome

    def _mapping(self, act: str, told: object, ids: Iterable[str]) -> Mapping[str, Any]:
        if not isinstance(told, Mapping):
            raise ConfigurationError(
                f"custom step {self._tools.name}: {act} returned a {type(told).__name__}; expected a mapping by id"
            )
        return {i: told[i] for i in ids if i in told}

    def _broken(self, what: str) -> DecommissionError:
        return ConfigurationError(f"custom step {self._tools.name}: {what}")


def _given(batch: Batch) -> custom_step.Batch:
    return custom_step.Batch(batch.instances, custom_step.Living(batch.live, batch.instances), batch.deadline)


def _agreed(
    first: Mapping[str, Finding], second: Mapping[str, Finding]
) -> tuple[dict[str, Finding], dict[str, Outcome]]:
    """Returns what both finds agree on, and for each instance what changed in the second."""
    agreed: dict[str, Finding] = {}
    changed: dict[str, Outcome] = {}
    for instance_id, finding in first.items():
        again = second[instance_id]
        removals = tuple(removal for removal in again.removals if removal in finding.removals)
        if removals:
            agreed[instance_id] = replace(again, removals=removals)
        changed[instance_id] = Outcome(left=again.left, errors=again.errors)
    return agreed, changed


@contextmanager
def _explained(tools: StepTools) -> Iterator[None]:
    try:
        yield
    except SystemExit as error:
        raise TransientError(f"custom step {tools.name} called sys.exit({error.code})") from None
    except Exception as error:
        raise tools.explain(error) from None
