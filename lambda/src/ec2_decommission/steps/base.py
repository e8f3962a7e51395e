"""The interface of a clean-up step, and the words in which it reports what it found and did.

A step handles a batch of instances at once, in three acts:

1. ``identify`` reads what the step's system has under the instances' ids, and returns what it knows of each instance.
   The other steps use these facts, and a retry the next day does.
2. ``plan`` observes the system (all the reading, into a frozen snapshot), asks who has the names and addresses in
   question now, and decides by a pure function: which things go, each with its proof, and which stay, with the
   reason.
3. ``apply`` asks again what must be fresh, plans again on it, and carries out what both plans agree on. A dry run
   ends before it, so both kinds of run choose by the same code.

A step object serves one batch. What it read may be kept on it between the acts.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, Protocol

from ..errors import DecommissionError, as_errors

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from ..deadline import Deadline
    from ..instance import Facts, Instance
    from ..live import Live


@dataclass(frozen=True)
class Removal:
    """One thing that is the instance's and is to go.

    Attributes:
        action: the verb, in the system's own word: delete, update, release, destroy, force-leave, deregister.
        target: the thing, as its system writes it, for example ``A web-1.example.internal. 10.0.0.5``.
        proof: why it is the instance's, in a few words.
        kind: what the thing is, in the audit: ``record_set``, ``chef_node``, ``chef_client``, ``consul_node``,
            ``consul_session``, ``consul_lock``, ``http_item``. Empty if it is not audited.
        object: the whole thing as its system gave it, for the audit. Holds no secret.
        handle: what the step needs to remove it. Nobody else reads it.
    """

    action: str
    target: str
    proof: str
    kind: str = field(default="", compare=False)
    object: Mapping[str, Any] | None = field(default=None, repr=False, compare=False)
    handle: Any = field(default=None, repr=False, compare=False)


@dataclass(frozen=True)
class Left:
    """One thing that was found and stays: ``reason`` says whose it is, or why."""

    target: str
    reason: str


@dataclass(frozen=True)
class Finding:
    """The plan for one instance.

    Attributes:
        removals: in the order in which they are removed.
        left: what was found and stays.
        notes: what could not be looked for, for example because the value of a name template is unknown.
        errors: why the step cannot be finished for this instance now; the message is retried. The ``removals`` are
            removed all the same. The class of an error says what to do about it; plain text counts as a
            ``TransientError``.
    """

    removals: tuple[Removal, ...] = ()
    left: tuple[Left, ...] = ()
    notes: tuple[str, ...] = ()
    errors: tuple[DecommissionError, ...] = ()

    def __post_init__(self) -> None:
        object.__setattr__(self, "errors", as_errors(self.errors))


@dataclass
class Findings:
    """Collects the plan for one instance.

    Example:
        >>> findings = Findings()
        >>> findings.stays("node web-1", "it belongs to i-2")
        >>> findings.finding().left[0].reason
        'it belongs to i-2'
    """

    removals: list[Removal] = field(default_factory=list)
    left: list[Left] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    errors: list[DecommissionError] = field(default_factory=list)

    def stays(self, target: str, reason: str) -> None:
        """Notes one thing that was found and stays."""
        self.left.append(Left(target, reason))

    def finding(self) -> Finding:
        """The plan, each entry once."""
        return Finding(
            tuple(dict.fromkeys(self.removals)),
            tuple(dict.fromkeys(self.left)),
            tuple(dict.fromkeys(self.notes)),
            tuple({str(error): error for error in self.errors}.values()),
        )


@dataclass(frozen=True)
class Outcome:
    """The result of the removals of one instance.

    Attributes:
        removed: removed by this run. What was gone already is in none of the lists: that is success.
        left: changed since it was planned, and so no longer provably the instance's.
        errors: why something could not be removed; the message is retried. As in ``Finding``.
    """

    removed: tuple[Removal, ...] = ()
    left: tuple[Left, ...] = ()
    errors: tuple[DecommissionError, ...] = ()

    def __post_init__(self) -> None:
        object.__setattr__(self, "errors", as_errors(self.errors))


@dataclass
class Outcomes:
    """Collects the results of a batch, by instance id; ``outcomes`` keeps the order of the plan."""

    findings: Mapping[str, Finding]
    _removed: dict[str, list[Removal]] = field(default_factory=dict)
    _left: dict[str, list[Left]] = field(default_factory=dict)
    _errors: dict[str, list[DecommissionError]] = field(default_factory=dict)

    def removed(self, instance_id: str, removal: Removal) -> None:
        self._removed.setdefault(instance_id, []).append(removal)

    def stays(self, instance_id: str, left: Left) -> None:
        self._left.setdefault(instance_id, []).append(left)

    def failed(self, instance_id: str, error: DecommissionError) -> None:
        self._errors.setdefault(instance_id, []).append(error)

    def outcomes(self) -> dict[str, Outcome]:
        """An outcome for every instance of the plan."""
        outcomes = {}
        for instance_id, finding in self.findings.items():
            order = {removal: number for number, removal in enumerate(finding.removals)}
            removed = sorted(self._removed.get(instance_id, ()), key=lambda r: order.get(r, len(order)))
            outcomes[instance_id] = Outcome(
                tuple(dict.fromkeys(removed)),
                tuple(dict.fromkeys(self._left.get(instance_id, ()))),
                tuple({str(error): error for error in self._errors.get(instance_id, ())}.values()),
            )
        return outcomes


def _keep_nothing(instance_id: str, removals: Sequence[Removal]) -> None:
    """No audit is configured."""


@dataclass(frozen=True)
class Batch:
    """The terminated instances that are handled together, and what a step may ask.

    Attributes:
        instances: by id. The runner replaces them between the acts, as facts are learned.
        live: answers who has a name or an address now.
        deadline: when the step's work must end.
        dry_run: whether nothing will be removed.
        keep: writes removals to the audit. The runner calls it for every planned removal before ``apply``. A step
            calls it again for a thing that changed since, before it removes the changed thing. Raises if it cannot
            write; then the thing must stay.
    """

    instances: Mapping[str, Instance]
    live: Live
    deadline: Deadline
    dry_run: bool = False
    keep: Callable[[str, Sequence[Removal]], None] = _keep_nothing


class Step(Protocol):
    """A clean-up step. Any act may raise a DecommissionError, which fails the step for the whole batch."""

    name: ClassVar[str]

    def identify(self, batch: Batch) -> Mapping[str, Facts]:
        """What the system knows about instances, by id; instances that it does not know are left out."""

    def plan(self, batch: Batch) -> Mapping[str, Finding]:
        """Decides for each instance of the batch; every instance id has an entry. Changes nothing."""

    def apply(self, batch: Batch, findings: Mapping[str, Finding]) -> Mapping[str, Outcome]:
        """Removes what ``findings`` and a second plan on fresh answers agree on.

        Every instance id of ``findings`` has an entry. One instance's failure is no other's.
        """
