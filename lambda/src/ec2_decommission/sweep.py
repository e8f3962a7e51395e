"""The sweep of one place: finds missed terminations, and keeps the records of living instances up to date.

What it finds takes the same way as an event: a message in the queue. It does not trust an answer that looks like "all
have ended": an instance that is missing from EC2's list is asked for by id, and only EC2's answer that this id is
terminated or does not exist counts. An error fails the sweep. Above the brake nothing is removed that no operator has
confirmed.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, Protocol

from .chunks import chunks
from .errors import DecommissionError, TransientError
from .instance_filter import excluded
from .inventory import facts_document
from .orphans import Search, confirmed_gone

if TYPE_CHECKING:
    from collections.abc import Callable, Container, Iterable, Iterator, Mapping, Sequence

    from .clients.ec2 import Description, Ec2
    from .config import InstanceFilter, SweepSettings
    from .instance import Instance
    from .inventory import Inventory, Record
    from .orphans import NotAdopted, Orphans
    from .place import Place

# EC2's answers lag behind: a young instance may not be in them yet.
YOUNG = timedelta(minutes=10)
# In a small fleet a fraction says nothing: one of three is a third.
LEAST_ALLOWED = 10
_WRITTEN_AT_ONCE = 100
# Ids in a report: a line of CloudWatch's log holds 256 KB, and the report of a sweep is in it.
LISTED = 2000
_TOLD = 20  # ids in the text of an error
_LISTED_UNADOPTED = 200
_RAN = ("running", "stopping", "stopped")


class Outbox(Protocol):
    """Sends to the module's own queue. May raise TransientError, AccessError or ConfigurationError."""

    def send_terminations(self, instance_ids: Iterable[str], place: Place) -> None:
        """One termination event for each instance."""


@dataclass(frozen=True)
class SweepReport:
    """What a sweep saw and did.

    Attributes:
        living: number of instances that live in EC2 now.
        recorded: number of instances that the inventory records as living, excluded ones left out.
        refreshed: number of records that were brought up to date.
        gone: ids that are recorded as living and have ended.
        allowed: how many of them one sweep may remove.
        unfinished: ids whose end was not finished, and that are taken up again.
        excluded: number of recorded instances that have ended and that ``instance_filter`` excludes.
        adopted: ids that nobody recorded, and that Chef or Consul still hold.
        unadopted: nodes with unknown ids that are left alone.
        braked: why not all was removed, if more have ended than is allowed.
        not_accepted: why an id that an operator has confirmed is not removed, by id.
        errors: what failed, while the rest was done.
    """

    dry_run: bool
    living: int
    recorded: int
    refreshed: int
    gone: tuple[str, ...]
    allowed: int
    unfinished: tuple[str, ...] = ()
    excluded: int = 0
    adopted: tuple[str, ...] = ()
    unadopted: tuple[NotAdopted, ...] = ()
    braked: str | None = None
    not_accepted: Mapping[str, str] = field(default_factory=dict)
    errors: tuple[DecommissionError, ...] = ()

    @property
    def found(self) -> tuple[str, ...]:
        """What counts towards the brake."""
        return (*self.gone, *self.adopted)

    def document(self) -> dict[str, Any]:
        """As JSON. ``left_off`` says how many more there are than a list shows."""
        lists: dict[str, tuple[Sequence[Any], int]] = {
            "gone": (self.gone, LISTED),
            "unfinished": (self.unfinished, LISTED),
            "adopted": (self.adopted, LISTED),
            "not_adopted": ([one.document() for one in self.unadopted], _LISTED_UNADOPTED),
        }
        left_off = {name: len(all_) - most for name, (all_, most) in lists.items() if len(all_) > most}
        return {
            "living": self.living,
            "recorded": self.recorded,
            "refreshed": self.refreshed,
            "allowed": self.allowed,
            "excluded": self.excluded,
            **{name: list(all_[:most]) for name, (all_, most) in lists.items()},
            **({"left_off": left_off} if left_off else {}),
            **({"not_accepted": dict(self.not_accepted)} if self.not_accepted else {}),
        }


@dataclass
class _Recorded:
    """What is kept of each record while the sweep runs: with many instances, memory counts."""

    digest: int
    launch_time: str | None
    tags_known: bool
    excluded: bool


@dataclass
class _Seen:
    """What was seen so far."""

    refreshed: int = 0
    errors: list[DecommissionError] = field(default_factory=list)


class Sweep:
    """One sweep of one place.

    Args:
        place: the account and region that ``ec2`` asks.
        orphans: searches for the dead that nobody recorded; None if no source is opted in to.
        visibility_timeout: after which the message of an invocation that was killed is handled again.
        now: the time.
    """

    def __init__(
        self,
        settings: SweepSettings,
        place: Place,
        ec2: Ec2,
        inventory: Inventory,
        outbox: Outbox,
        instance_filter: InstanceFilter,
        orphans: Orphans | None = None,
        visibility_timeout: timedelta = timedelta(minutes=15),
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self._settings = settings
        self._place = place
        self._ec2 = ec2
        self._inventory = inventory
        self._outbox = outbox
        self._filter = instance_filter
        self._orphans = orphans
        self._visibility_timeout = visibility_timeout
        self._now = now

    def run(self, *, dry_run: bool, accept: Iterable[str] = ()) -> SweepReport:
        """Sweeps once.

        Args:
            dry_run: list, change nothing.
            accept: ids that an operator has confirmed to be gone. They go whatever else is gone, if EC2 agrees.

        Raises:
            DecommissionError: EC2 or the inventory could not be read to the end.
        """
        accept, seen = tuple(accept), _Seen()
        # The inventory first: an instance that starts while EC2 is read is then not taken for gone.
        recorded = {record.instance_id: self._brief(record) for record in self._inventory.living(self._place)}
        living = self._refresh(recorded, seen, dry_run)
        missing = [i for i, record in recorded.items() if i not in living and not self._young(record)]
        gone, known_to_ec2 = confirmed_gone(self._ec2, missing)
        left = [i for i in gone if recorded[i].excluded]
        gone = sorted(i for i in gone if not recorded[i].excluded)
        search = self._orphans.search({*recorded, *living}) if self._orphans else Search()
        if search.error:
            seen.errors.append(search.error)
        unfinished = sorted(r.instance_id for r in self._inventory.unfinished(self._place) if self._is_due(r))
        handled = sum(not record.excluded for record in recorded.values())
        report = SweepReport(
            dry_run,
            len(living),
            handled,
            seen.refreshed,
            tuple(gone),
            self._allowed(handled),
            tuple(unfinished),
            len(left),
            search.adopted,
            search.left,
            not_accepted=self._not_accepted(accept, living, {*gone, *search.adopted}, unfinished),
            errors=tuple(seen.errors),
        )
        report, going = self._brake(report, set(accept), known=bool(living) or known_to_ec2 + search.ended > 0)
        if not dry_run:
            self._mark_excluded(left)
            if going or unfinished:
                self._outbox.send_terminations([*going, *unfinished], self._place)
        return report

    def _brake(self, report: SweepReport, accepted: set[str], *, known: bool) -> tuple[SweepReport, list[str]]:
        """The ids that may go. ``known`` says whether EC2 showed anything at all."""
        found, unconfirmed = list(report.found), set(report.found) - accepted
        if not known and unconfirmed:
            # The same as from a wrong account or region.
            going = [i for i in found if i in accepted]
            doubt = TransientError(
                f"refusing to act on {len(found)} instances that are gone: EC2 in {self._place} returned no "
                "instances at all. Is this the right account and region? Confirm them with accept: "
                f"{', '.join(found[:_TOLD])}"
            )
            return replace(report, errors=(*report.errors, doubt)), going
        if len(unconfirmed) > report.allowed:
            going = [i for i in found if i in accepted]
            return replace(report, braked=self._braked(report, len(going))), going
        return report, found

    def _braked(self, report: SweepReport, going: int) -> str:
        adopted = f" and {len(report.adopted)} unrecorded ones to adopt" if report.adopted else ""
        listed = ", ".join(report.found[:_TOLD])
        if len(report.found) > _TOLD:
            listed += f", and {len(report.found) - _TOLD} more, which the report lists"
        removed = f"only the {going} accepted ones are removed" if going else "nothing is removed"
        return (
            f"the sweep of {self._place} found {len(report.gone)} of {report.recorded} recorded instances gone"
            f"{adopted}. {self._limit(report)}. Therefore {removed}. Confirm them with accept, or raise the limit: "
            f"{listed}"
        )

    def _limit(self, report: SweepReport) -> str:
        """Where the limit comes from."""
        most, fraction = self._settings.max_instances, self._settings.max_fraction
        share = int(report.recorded * fraction)
        text = (
            f"One sweep may remove {report.allowed}: sweep.max_fraction {fraction:g} of {report.recorded} is {share}"
        )
        if share < LEAST_ALLOWED:
            text += f", raised to {LEAST_ALLOWED}, the minimum for small fleets"
        if report.allowed == most:
            text += f"; sweep.max_instances allows no more than {most}"
        return text

    def _not_accepted(
        self, accept: Iterable[str], living: Container[str], found: Container[str], unfinished: Container[str]
    ) -> dict[str, str]:
        """Why confirmed ids are not among those that the sweep found gone."""
        reasons = {}
        for instance_id in accept:
            if instance_id in living:
                reasons[instance_id] = f"it is live: EC2 in {self._place} lists it"
            elif instance_id in unfinished:
                reasons[instance_id] = (
                    "it is retried without confirmation, because its decommissioning did not finish"
                )
            elif instance_id not in found:
                reasons[instance_id] = f"it is not recorded as live in {self._place}, is too new, or is excluded"
        return reasons

    def _allowed(self, recorded: int) -> int:
        share = max(LEAST_ALLOWED, int(recorded * self._settings.max_fraction))
        return min(self._settings.max_instances, share)

    # What lives

    def _refresh(self, recorded: Mapping[str, _Recorded], seen: _Seen, dry_run: bool) -> set[str]:
        """Records living instances that are not recorded, or recorded otherwise: tags come late, addresses change.

        Returns their ids.
        """
        living: set[str] = set()

        def stale() -> Iterator[Description]:
            for description in self._ec2.living({}):
                living.add(description.instance_id)
                record = recorded.get(description.instance_id)
                fresh = record and record.tags_known and record.digest == _digest(description.instance())
                if description.state in _RAN and not fresh:
                    yield description

        for some in chunks(stale(), _WRITTEN_AT_ONCE):
            try:
                seen.refreshed += self._write(some, dry_run)
            except DecommissionError as error:
                seen.errors.append(error)
        return living

    def _write(self, descriptions: Sequence[Description], dry_run: bool) -> int:
        """Brings records up to date; they keep everything that the instance ever had. Returns how many changed."""
        records = self._inventory.recall([d.instance_id for d in descriptions])
        changed: list[Instance] = []
        reasons: dict[str, str] = {}
        for description in descriptions:
            record = records.get(description.instance_id)
            instance = replace(description.instance(), ran=True)
            if record:
                instance = instance.learn(record.facts)
            same = record and record.tags_known_at and facts_document(record.instance()) == facts_document(instance)
            if not same:
                changed.append(instance)
                if reason := excluded(instance, self._filter, tags_known=True):
                    reasons[instance.instance_id] = reason
        if dry_run or not changed:
            return len(changed)
        results = self._inventory.remember_running(changed, reasons, tags_known=True)
        for result in results.values():
            if isinstance(result, DecommissionError):
                raise result
        return sum(result is True for result in results.values())

    def _brief(self, record: Record) -> _Recorded:
        instance = record.instance()
        left = excluded(instance, self._filter, tags_known=True) is not None
        return _Recorded(_digest(instance), record.facts.launch_time, bool(record.tags_known_at), left)

    # What ended

    def _mark_excluded(self, instance_ids: Sequence[str]) -> None:
        """Marks the end of excluded instances: nothing of them is removed, and no sweep sees them again."""
        for some in chunks(instance_ids, _WRITTEN_AT_ONCE):
            records = self._inventory.recall(some)
            instances = {i: record.instance() for i, record in records.items()}
            reasons = {i: excluded(one, self._filter, tags_known=True) or "" for i, one in instances.items()}
            self._inventory.remember_excluded({i: (instances[i], reasons[i]) for i in instances})

    def _is_due(self, record: Record) -> bool:
        """Whether the instance's message is lost: it is neither being handled nor waiting for its retry."""
        due = _time(record.next_try_at)
        if due is None:
            ended = _time(record.terminated_at)
            due = ended + self._visibility_timeout if ended else None
        return due is None or self._now() >= due

    def _young(self, record: _Recorded) -> bool:
        launched = _time(record.launch_time)
        return launched is not None and self._now() - launched < YOUNG


def _time(text: str | None) -> datetime | None:
    try:
        time = datetime.fromisoformat(text or "")
    except ValueError:
        return None
    return time if time.tzinfo else time.replace(tzinfo=UTC)


def _digest(instance: Instance) -> int:
    """Tells two states of an instance apart, in this process only. Leaves out what EC2 does not show."""
    shown = {k: v for k, v in facts_document(instance).items() if k not in ("ran", "known_as", "past_tags")}
    return hash(json.dumps(shown, sort_keys=True))
