"""A step with a list of traces, for tests of the runner."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from ec2_decommission.instance import Facts
from ec2_decommission.run import StepFactory
from ec2_decommission.steps.base import Batch, Finding, Outcome, Removal

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping


class FakeStep:
    """Removes ``traces``, by instance id.

    Attributes:
        acts: the acts, with the ids in each call.
        fault: called before each act. It may raise errors.
        facts: the result of ``identify``.
    """

    name: ClassVar[str] = "fake"

    def __init__(self) -> None:
        self.traces: dict[str, list[str]] = {}
        self.acts: list[tuple[str, tuple[str, ...]]] = []
        self.facts: dict[str, Facts] = {}
        self.seen: dict[str, Batch] = {}
        self.fault: Callable[[str], None] = lambda *_: None

    def _act(self, act: str, batch: Batch) -> None:
        self.acts.append((act, tuple(batch.instances)))
        self.seen[act] = batch
        self.fault(act)

    def identify(self, batch: Batch) -> Mapping[str, Facts]:
        self._act("identify", batch)
        return {i: facts for i, facts in self.facts.items() if i in batch.instances}

    def plan(self, batch: Batch) -> Mapping[str, Finding]:
        self._act("plan", batch)
        return {
            i: Finding(tuple(Removal("delete", trace, "it is in the list") for trace in self.traces.get(i, ())))
            for i in batch.instances
        }

    def apply(self, batch: Batch, findings: Mapping[str, Finding]) -> Mapping[str, Outcome]:
        self._act("apply", batch)
        for instance_id, finding in findings.items():
            for removal in finding.removals:
                self.traces[instance_id].remove(removal.target)
        return {i: Outcome(finding.removals) for i, finding in findings.items()}


def factory(step: FakeStep, name: str = "fake") -> StepFactory:
    """A factory that returns the same step for every batch."""
    return StepFactory(name, lambda _: step)
