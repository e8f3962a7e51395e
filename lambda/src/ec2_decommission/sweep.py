"""The sweep: finds terminations whose event never came, and keeps what is recorded of the living up to date.

What it finds gone takes the same way as an event: a message in the queue. It trusts nothing that looks like
"all are dead": who is missing in EC2's list is asked for by id, and only EC2's word that this id is terminated or
does not exist counts; an error fails the sweep; and above the brake it removes nothing that no person has confirmed.

A fleet is looked at piece by piece, by the beginning of the ids, where it is large; and where one invocation has not
time enough, a message in the queue has the next one go on.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, Protocol

from .adoption import Search, confirmed_gone
from .errors import ConfigurationError, DecommissionError, OutOfTime, TransientError
from .inventory import facts_document
from .progress import EVERYBODY, Progress

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

    from .adoption import Adoption, NotAdopted, Place
    from .clients.ec2 import Description, Ec2
    from .config import SweepSettings
    from .identity import Instance
    from .inventory import Inventory
    from .run import Clock

# EC2's answers lag behind: a young instance may not be in them yet.
YOUNG = timedelta(minutes=10)
# Below so many instances a share of the fleet says nothing: one of three is a third.
LEAST_ALLOWED = 10
# More instances than this are looked at in parts: memory is bounded, and a part is what an invocation can end with.
PIECE = 10_000
# So long a beginning of the ids is divided no further.
_LONGEST_PREFIX = len("i-0ab")
# Kept for what comes after the pieces: sending, and reporting.
_RESERVE_SECONDS = 15.0
_WRITTEN_AT_ONCE = 100
# Ids in a report: a line of CloudWatch's log has 256 KB, and the report of a sweep is in it.
LISTED = 2000
_TOLD = 20  # ids in the text of an error
_LISTED_UNADOPTED = 200
_MESSAGE_BYTES = 250_000  # SQS takes 256 KiB


class Outbox(Protocol):
    """Sends to the module's own queue. May raise TransientError, AccessError or ConfigurationError."""

    def send(self, instances: Sequence[Mapping[str, str]]) -> None:
        """One termination event for each instance (``instance_id``, ``account_id``, ``region``)."""

    def go_on(self, progress: Mapping[str, Any]) -> None:
        """A sweep that begins where this one ends."""


@dataclass(frozen=True)
class SweepReport:
    """What a sweep saw and did.

    Attributes:
        living: how many instances live in EC2 now.
        recorded: how many the inventory records as living.
        refreshed: how many records were brought up to date.
        postponed: how many were left to the next sweep, for want of time.
        gone: the ids that are recorded as living and are gone.
        adopted: the ids that nobody recorded, and of which Chef or Consul hold something. As for ``gone``, each is
            now an event in the queue, but in a dry run, above the brake, or where the sweep goes on.
        unadopted: nodes that bear unknown ids and are left alone.
        allowed: how many may go in one sweep.
        braked: why not all was removed, where more is gone than that.
        errors: what failed, while the rest was done.
        goes_on: the next invocation has the rest to do.
        in_parts: this is not the first invocation, or not the last.
    """

    dry_run: bool
    living: int
    recorded: int
    refreshed: int
    gone: tuple[str, ...]
    allowed: int
    adopted: tuple[str, ...] = ()
    unadopted: tuple[NotAdopted, ...] = ()
    more_unadopted: int = 0
    postponed: int = 0
    braked: str | None = None
    errors: tuple[DecommissionError, ...] = ()
    goes_on: bool = False
    in_parts: bool = False

    def document(self) -> dict[str, Any]:
        """As JSON. ``left_off`` tells how many more there are than a list shows."""
        lists: dict[str, tuple[list[Any], int]] = {
            "gone": (list(self.gone[:LISTED]), len(self.gone)),
            "adopted": (list(self.adopted[:LISTED]), len(self.adopted)),
            "not_adopted": (
                [one.document() for one in self.unadopted[:_LISTED_UNADOPTED]],
                len(self.unadopted) + self.more_unadopted,
            ),
        }
        left_off = {name: count - len(shown) for name, (shown, count) in lists.items() if count > len(shown)}
        told = {
            "left_off": left_off,
            "postponed": self.postponed,
            "goes_on": self.goes_on,
            "trouble": "; ".join(map(str, self.errors)),
        }
        return {
            "living": self.living,
            "recorded": self.recorded,
            "refreshed": self.refreshed,
            "allowed": self.allowed,
            **{name: shown for name, (shown, _) in lists.items()},
            **{name: value for name, value in told.items() if value},
        }


class _TooMany(Exception):
    """More instances than one piece is to have."""


@dataclass(frozen=True)
class _Recorded:
    """What is kept of a record while a piece is looked at."""

    digest: int
    launch_time: str | None


@dataclass
class _Piece:
    """What a look at the ids of one beginning showed."""

    living: int = 0
    ended: int = 0
    recorded: int = 0
    refreshed: int = 0
    postponed: int = 0
    gone: list[str] = field(default_factory=list)
    adopted: tuple[str, ...] = ()
    unadopted: tuple[NotAdopted, ...] = ()
    errors: list[DecommissionError] = field(default_factory=list)


class Sweep:
    """One sweep.

    Args:
        place: this function's; an inventory that records instances of another is refused.
        wanted: whether an instance is handled at all.
        clock: holds the deadline of the invocation.
        adoption: None where no source is opted in to.
        most: how many instances are looked at in one piece.
    """

    def __init__(
        self,
        settings: SweepSettings,
        ec2: Ec2,
        inventory: Inventory,
        outbox: Outbox,
        wanted: Callable[[Description], bool],
        place: Place,
        clock: Clock,
        adoption: Adoption | None = None,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
        most: int = PIECE,
    ) -> None:
        self._settings = settings
        self._ec2 = ec2
        self._inventory = inventory
        self._outbox = outbox
        self._wanted = wanted
        self._place = place
        self._clock = clock
        self._adoption = adoption
        self._now = now
        self._most = most

    def run(self, *, dry_run: bool, accept: Iterable[str] = (), progress: Progress | None = None) -> SweepReport:
        """Sweeps once, or goes on with a sweep.

        Args:
            dry_run: list, change nothing.
            accept: ids that an operator has confirmed to be gone; they go whatever else is gone.
            progress: how far the invocation before has come, which knows what was accepted.

        Raises:
            ConfigurationError: the inventory is another region's or account's; or too much is to be carried over.
            TransientError: EC2 or the inventory could not be read to the end.
        """
        begun = replace(progress or Progress(accept=tuple(dict.fromkeys(accept))), dry_run=dry_run)
        with self._clock.until(self._clock.deadline.before(_RESERVE_SECONDS)):
            seen, errors, unadopted = self._look_at_pieces(begun)
        report = SweepReport(
            dry_run,
            seen.living,
            seen.recorded,
            seen.refreshed,
            tuple(sorted(seen.gone)),
            self._allowed(seen.recorded),
            tuple(sorted(seen.adopted)),
            tuple(unadopted),
            seen.unadopted - len(unadopted),
            seen.postponed,
            errors=errors,
            goes_on=bool(seen.pending),
            in_parts=bool(seen.pending) or progress is not None,
        )
        if report.goes_on:
            self._go_on(seen)
            return report
        if seen.trouble and not errors:
            report = replace(report, errors=(TransientError(seen.trouble),))
        accepted = set(seen.accept)
        found = [*report.gone, *report.adopted]
        going = found
        if not seen.living and not seen.ended and set(found) - accepted:
            # So it looks from a wrong region or account too.
            going = [instance_id for instance_id in found if instance_id in accepted]
            doubt = TransientError(
                f"EC2 shows no instance that lives, and knows none of the {len(found)} that would be gone: an empty "
                f"answer is not believed; confirm them by accept: {', '.join(found[:_TOLD])}"
            )
            report = replace(report, errors=(*report.errors, doubt))
        if len(set(found) - accepted) > report.allowed:
            going = [instance_id for instance_id in found if instance_id in accepted]
            report = replace(report, braked=self._brake(report, len(going)))
        if going and not dry_run:
            self._outbox.send([self._event(instance_id) for instance_id in going])
        return report

    def _look_at_pieces(self, begun: Progress) -> tuple[Progress, tuple[DecommissionError, ...], list[NotAdopted]]:
        """As many of the pieces as there is time for: what was seen, what failed, and what is not adopted."""
        deadline = self._clock.deadline
        enough = deadline.remaining() / 2
        seen, pending = begun, list(begun.pending)
        errors: list[DecommissionError] = []
        unadopted: list[NotAdopted] = []
        longest = 0.0
        while pending:
            before = deadline.remaining()
            if longest and before < 2 * longest:
                break
            try:
                piece = self._look(pending[0], enough, seen.dry_run, adopt=seen.trouble is None)
            except _TooMany:
                pending[:1] = [pending[0] + digit for digit in "0123456789abcdef"]
                continue
            except OutOfTime:
                if tuple(pending) == begun.pending:
                    raise
                break
            pending = pending[1:]
            longest = max(longest, before - deadline.remaining(), 0.001)
            errors += piece.errors
            unadopted += piece.unadopted
            seen = replace(
                seen,
                living=seen.living + piece.living,
                ended=seen.ended + piece.ended,
                recorded=seen.recorded + piece.recorded,
                refreshed=seen.refreshed + piece.refreshed,
                postponed=seen.postponed + piece.postponed,
                gone=(*seen.gone, *piece.gone),
                adopted=(*seen.adopted, *piece.adopted),
                unadopted=seen.unadopted + len(piece.unadopted),
                trouble=seen.trouble or next((str(error)[:500] for error in piece.errors), None),
            )
            if piece.postponed:
                break  # the next invocation has time for the records of the other pieces
        return replace(seen, pending=tuple(pending)), tuple(errors), unadopted

    def _go_on(self, seen: Progress) -> None:
        size = len(json.dumps(seen.document()))
        if size > _MESSAGE_BYTES:
            raise ConfigurationError(
                f"the sweep has to go on in another invocation, and what it has seen ({len(seen.gone)} gone, "
                f"{len(seen.adopted)} to adopt, {len(seen.accept)} accepted) makes a message of {size} bytes, "
                "which SQS does not take: raise function.timeout, or accept fewer at a time"
            )
        self._outbox.go_on(seen.document())

    def _brake(self, report: SweepReport, going: int) -> str:
        found = [*report.gone, *report.adopted]
        adopted = f", and {len(report.adopted)} to adopt that nobody recorded" if report.adopted else ""
        told = ", ".join(found[:_TOLD])
        if len(found) > _TOLD:
            told += f", and {len(found) - _TOLD} more, as the report lists"
        removed = f"of these only the {going} accepted ones go" if going else "nothing was removed"
        return (
            f"the sweep found {len(report.gone)} of {report.recorded} recorded instances gone{adopted}, and one "
            f"sweep may remove {report.allowed} (max_instances {self._settings.max_instances}, max_fraction "
            f"{self._settings.max_fraction:g}): {removed}; confirm them by accept, or raise the limit: {told}"
        )

    def _allowed(self, recorded: int) -> int:
        share = max(LEAST_ALLOWED, int(recorded * self._settings.max_fraction))
        return min(self._settings.max_instances, share)

    # One piece

    def _look(self, prefix: str, refresh_until: float, dry_run: bool, adopt: bool) -> _Piece:
        """The instances whose ids begin so.

        Args:
            refresh_until: seconds left of the invocation below which records are no longer brought up to date.

        Raises:
            _TooMany: there are more than a piece is to have.
        """
        piece = _Piece()
        # The inventory first: what starts while EC2 is read is then not taken for gone.
        recorded = self._recorded(prefix)
        piece.recorded = len(recorded)
        living = self._refresh(prefix, recorded, piece, refresh_until, dry_run)
        piece.living = len(living)
        missing = [i for i, record in recorded.items() if i not in living and not self._young(record)]
        piece.gone, piece.ended = confirmed_gone(self._ec2, missing)
        if self._adoption is not None and adopt:
            self._adopt(self._adoption, prefix, {*recorded, *living}, piece)
        return piece

    def _recorded(self, prefix: str) -> dict[str, _Recorded]:
        recorded: dict[str, _Recorded] = {}
        for record in self._inventory.living("" if prefix == EVERYBODY else prefix):
            elsewhere = self._place.elsewhere([record.facts.region], [record.facts.account_id])
            if elsewhere:
                raise ConfigurationError(f"the inventory records {record.instance_id}: {elsewhere}")
            self._count(recorded, prefix)
            recorded[record.instance_id] = _Recorded(_digest(record.instance()), record.facts.launch_time)
        return recorded

    def _refresh(
        self, prefix: str, recorded: Mapping[str, _Recorded], piece: _Piece, until: float, dry_run: bool
    ) -> set[str]:
        """Records what lives and is not recorded, or is recorded otherwise: tags come late, addresses change.

        Gives the ids of those that live.
        """
        living: set[str] = set()
        stale: list[Instance] = []

        def write() -> None:
            if not dry_run and stale and self._clock.deadline.remaining() < until:
                piece.postponed += len(stale)
            elif not dry_run and stale:
                results = self._inventory.remember_running(stale)
                errors = [result for result in results.values() if isinstance(result, DecommissionError)]
                piece.errors += errors[:1] if not piece.errors else []
                piece.refreshed += sum(result is True for result in results.values())
            else:
                piece.refreshed += len(stale)
            stale.clear()

        for description in self._living(prefix):
            self._count(living, prefix)
            living.add(description.instance_id)
            record = recorded.get(description.instance_id)
            instance = description.instance()
            if self._wanted(description) and (record is None or record.digest != _digest(instance)):
                stale.append(instance)
                if len(stale) == _WRITTEN_AT_ONCE:
                    write()
        write()
        return living

    def _living(self, prefix: str) -> Iterator[Description]:
        yield from self._ec2.living({} if prefix == EVERYBODY else {"instance-id": [f"{prefix}*"]})

    def _count(self, seen: Mapping[str, object] | set[str], prefix: str) -> None:
        if len(seen) >= self._most and len(prefix) < _LONGEST_PREFIX:
            raise _TooMany

    def _adopt(self, adoption: Adoption, prefix: str, known: set[str], piece: _Piece) -> None:
        try:
            search = adoption.search(prefix, known)
        except OutOfTime as error:
            if len(prefix) < _LONGEST_PREFIX:
                raise _TooMany from None
            search = Search(error=error)
        piece.adopted, piece.unadopted = search.adopted, search.left
        piece.ended += search.ended
        if search.error:
            piece.errors.append(search.error)

    def _young(self, record: _Recorded) -> bool:
        try:
            launched = datetime.fromisoformat(record.launch_time or "")
        except ValueError:
            return False
        launched = launched if launched.tzinfo else launched.replace(tzinfo=UTC)
        return self._now() - launched < YOUNG

    def _event(self, instance_id: str) -> dict[str, str]:
        known = {"instance_id": instance_id, "account_id": self._place.account_id, "region": self._place.region}
        return {key: value for key, value in known.items() if value}


def _digest(instance: Instance) -> int:
    """Tells two states of an instance apart; of this process only."""
    return hash(json.dumps(facts_document(instance), sort_keys=True))
