"""The interface of a clean-up step, and the words in which it tells what it found and did.

A step works on a batch of instances at once, in three acts:

1. ``look`` reads the step's system once for the whole batch, and tells what the system knows of each
   instance (facts help the other steps, and a retry next day).
2. ``find`` decides: what is the instance's, with the proof that it is, and what is to be left, with the reason.
3. ``remove`` removes what was found. A dry run ends before it, so both kinds of run choose by the same code.

A step object serves one batch: what ``look`` read may be kept on it for ``find`` and ``remove``.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, Protocol, runtime_checkable

from ..errors import DecommissionError, as_errors

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence
    from datetime import datetime

    from ..deadline import Deadline
    from ..identity import Facts, Instance
    from ..templates import Template


@dataclass(frozen=True)
class Removal:
    """One thing that is the instance's and is to go.

    Attributes:
        action: the verb, in the system's own word: delete, update, release, destroy, force-leave, deregister.
        target: the thing, as its system writes it, for example ``A web-1.example.internal. 10.0.0.5``.
        proof: why it is the instance's, in a few words.
        handle: what the step needs to remove it; nobody else reads it.
    """

    action: str
    target: str
    proof: str
    handle: Any = field(default=None, repr=False, compare=False)


@dataclass(frozen=True)
class Left:
    """One thing that was found and is not to be touched: ``reason`` tells whose it is, or why."""

    target: str
    reason: str


@dataclass(frozen=True)
class Finding:
    """What a step found for one instance.

    Attributes:
        removals: in the order in which they are to be removed.
        left: what was found and is not touched.
        notes: what could not be looked for, for example a name template whose value is not known.
        errors: why the step cannot be finished for this instance now; the message is retried. What is in
            ``removals`` is removed all the same. The class of an error tells what is to be done about it; a plain
            text is taken for a ``TransientError``.
    """

    removals: tuple[Removal, ...] = ()
    left: tuple[Left, ...] = ()
    notes: tuple[str, ...] = ()
    errors: tuple[DecommissionError, ...] = ()

    def __post_init__(self) -> None:
        object.__setattr__(self, "errors", as_errors(self.errors))


@dataclass(frozen=True)
class Outcome:
    """What became of the removals of one instance.

    Attributes:
        removed: removed by this run. What was gone already is in none of the lists: that is success.
        left: changed since it was found, and so not the instance's any more.
        errors: why something could not be removed; the message is retried. As in ``Finding``.
    """

    removed: tuple[Removal, ...] = ()
    left: tuple[Left, ...] = ()
    errors: tuple[DecommissionError, ...] = ()

    def __post_init__(self) -> None:
        object.__setattr__(self, "errors", as_errors(self.errors))


@dataclass(frozen=True)
class Interface:
    """A network interface that exists now. ``instance_id`` is None where no instance has it."""

    interface_id: str
    vpc_id: str | None
    instance_id: str | None
    description: str = ""

    @property
    def owner(self) -> str:
        """Who has it, in words."""
        return self.instance_id or f"{self.interface_id} ({self.description or 'network interface'})"


class Living(Protocol):
    """What lives in EC2 now. Answers are read at most once a batch; every call may raise TransientError."""

    def interfaces(self, addresses: Iterable[str]) -> Mapping[str, tuple[Interface, ...]]:
        """The interfaces that have each address now, in any VPC of the account; no entry where none has."""

    def bearers(self, template: Template, names: Iterable[str]) -> Mapping[str, tuple[str, ...]]:
        """For each name the ids of the living instances for which the template renders that name.

        Compared without regard to case; the answer has the names as they were asked for. No entry where none does.
        The batch's own instances are never in it.
        """


@dataclass(frozen=True)
class Batch:
    """The terminated instances that are handled together, and what a step may ask.

    ``instances`` are replaced by the handler between the acts, as facts are learned.

    Attributes:
        ended_at: by when all of them had ended: what was read of a system from then on shows all that they will ever
            have made there. None where it is not known of each.
    """

    instances: Mapping[str, Instance]
    living: Living
    deadline: Deadline
    ended_at: datetime | None = None


class Step(Protocol):
    """A clean-up step. Any act may raise a DecommissionError, which fails the step for the whole batch."""

    name: ClassVar[str]

    def look(self, batch: Batch) -> Mapping[str, Facts]:
        """Reads the system for the batch; facts by instance id, only where there are any."""

    def find(self, batch: Batch) -> Mapping[str, Finding]:
        """Decides for each instance of the batch; every instance id has an entry."""

    def remove(self, batch: Batch, findings: Mapping[str, Finding]) -> Mapping[str, Outcome]:
        """Removes what ``findings`` name; every instance id of ``findings`` has an entry.

        Looks again where its system can tell that something changed since. One instance's failure is no other's.
        """


@runtime_checkable
class ReadsAhead(Protocol):
    """A step whose system takes long to read, and that knows most of what to read before the others have looked."""

    def read_ahead(self, batch: Batch) -> Callable[[], None] | None:
        """What reads it while the others look, for ``find`` to use; None where it is not worth it.

        What fails in it fails in ``find`` again, which tells it.
        """


def owner_in(interfaces: Sequence[Interface], vpc_id: str | None, not_of: str) -> Interface | None:
    """The interface that holds an address now in that VPC (in any, where the VPC is not known).

    An interface of the instance ``not_of`` itself does not count: EC2 lets go of it a little after the end.
    """
    for interface in interfaces:
        if interface.instance_id == not_of:
            continue
        if vpc_id is None or interface.vpc_id is None or interface.vpc_id == vpc_id:
            return interface
    return None
