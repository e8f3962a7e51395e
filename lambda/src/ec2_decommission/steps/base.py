"""The interface of a clean-up step, and the types that report what it found and did.

A step handles a batch of instances together, in three phases:

1. ``identify`` reads what the step's system has under the instances' ids, and returns what it knows about each
   instance. The other steps use these facts, and so does a retry the next day.
2. ``plan`` observes the system (reads everything into a frozen snapshot), finds out who has the names and addresses
   in question now, and decides with a pure function: which objects to remove, each with its proof, and which to keep,
   each with the reason.
3. ``apply`` observes again what must be fresh, plans again, and carries out what both plans agree on. A dry run stops
   before this phase, so both kinds of run decide with the same code.

A step object serves one batch. It may keep what it read between the phases.
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
    """One object that belongs to the instance and is to be removed.

    Attributes:
        action: a verb of the system: delete, update, release, destroy, force-leave, deregister.
        target: the object in its system's notation, for example ``A web-1.example.internal. 10.0.0.5``.
        proof: why it belongs to the instance, in a few words.
        kind: the object's type in the audit: ``record_set``, ``chef_node``, ``chef_client``, ``consul_node``,
            ``consul_session``, ``consul_lock``, ``http_item``. Empty if it is not audited.
        object: the complete object from its system, for the audit. Holds no secret.
        handle: what the step needs to remove it. Only the step reads it.
    """

    action: str
    target: str
    proof: str
    kind: str = field(default="", compare=False)
    object: Mapping[str, Any] | None = field(default=None, repr=False, compare=False)
    handle: Any = field(default=None, repr=False, compare=False)


@dataclass(frozen=True)
class Left:
    """One object that was found and is kept. ``reason`` says who owns it, or why it is kept."""

    target: str
    reason: str


@dataclass(frozen=True)
class Finding:
    """The plan for one instance.

    Attributes:
        removals: in the order in which they are removed.
        left: what was found and is kept.
        notes: what could not be searched for, for example because the value of a name template is unknown.
        errors: why the step cannot finish for this instance now; the message is retried. The ``removals`` are still
            carried out. The class of an error says what to do about it; plain text counts as a
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
        """Adds an object that was found and is kept."""
        self.left.append(Left(target, reason))

    def finding(self) -> Finding:
        """Returns the plan, without duplicates."""
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
        removed: removed by this run. Objects that were already gone are in none of the lists (a success).
        left: changed since the plan, and so no longer provably the instance's.
        errors: why an object could not be removed; the message is retried. As in ``Finding``.
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
        """Returns an outcome for every instance of the plan."""
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
    """Does nothing: no audit is configured."""


@dataclass(frozen=True)
class Batch:
    """Terminated instances that are handled together, and what a step may use.

    Attributes:
        instances: by id. The runner replaces them between the phases, as facts are learned.
        live: finds who has a name or an address now.
        deadline: when the step's work must end.
        dry_run: whether nothing will be removed.
        keep: writes removals to the audit. The runner calls it for every planned removal before ``apply``. If an
            object has changed since, a step calls it again before it removes the object. Raises if it cannot write;
            then the object must be kept.
    """

    instances: Mapping[str, Instance]
    live: Live
    deadline: Deadline
    dry_run: bool = False
    keep: Callable[[str, Sequence[Removal]], None] = _keep_nothing


class Step(Protocol):
    """A clean-up step. Any phase may raise a DecommissionError, which fails the step for the whole batch."""

    name: ClassVar[str]

    def identify(self, batch: Batch) -> Mapping[str, Facts]:
        """Returns what the system knows about instances, by id. Instances unknown to it have no entry."""

    def plan(self, batch: Batch) -> Mapping[str, Finding]:
        """Decides for each instance of the batch; every instance id has an entry. Changes nothing."""

    def apply(self, batch: Batch, findings: Mapping[str, Finding]) -> Mapping[str, Outcome]:
        """Removes what ``findings`` and a second plan on fresh data agree on.

        Every instance id of ``findings`` has an entry. A failure for one instance does not affect the others.
        """
