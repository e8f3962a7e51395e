"""The sweep of one place: finds missed terminations, and keeps the records of living instances up to date.

A termination that the sweep finds is handled like an event: as a message in the queue. The sweep does not trust an
answer that looks like "all have ended": it queries EC2 by id about each instance missing from EC2's list, and only
EC2's answer that the id is terminated or does not exist counts. An error fails the sweep. Above the brake, only
instances that an operator has confirmed are decommissioned.
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

# EC2's answers lag: a young instance may not be in them yet.
YOUNG = timedelta(minutes=10)
# In a small fleet, a fraction says little: one of three is already a third.
LEAST_ALLOWED = 10
_WRITTEN_AT_ONCE = 100
# The most ids in a report: a CloudWatch log line holds 256 KB and contains the report.
LISTED = 2000
_TOLD = 20  # the most ids in the text of an error
_LISTED_UNADOPTED = 200
_RAN = ("running", "stopping", "stopped")


class Outbox(Protocol):
    """Sends to the module's own queue. May raise TransientError, AccessError or ConfigurationError."""

    def send_terminations(self, instance_ids: Iterable[str], place: Place) -> None:
        """Sends one termination event for each instance."""


@dataclass(frozen=True)
class SweepReport:
    """What a sweep found and did.

    Attributes:
        living: the number of instances that live in EC2 now.
        recorded: the number of instances recorded as living, without excluded ones.
        refreshed: the number of records that were updated.
        gone: ids that are recorded as living but have ended.
        allowed: how many of them one sweep may decommission.
        unfinished: ids whose end was not finished; they are handled again.
        excluded: the number of recorded instances that have ended and that ``instance_filter`` excludes.
        adopted: ids that were never recorded, and that Chef or Consul still hold.
        unadopted: nodes with unknown ids that are left alone.
        braked: why not all are decommissioned, if more have ended than allowed.
        not_accepted: why an id that an operator has confirmed is not decommissioned, by id.
        errors: what failed while the rest was done.
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
        """The ids that count toward the brake."""
        return (*self.gone, *self.adopted)

    def document(self) -> dict[str, Any]:
        """As JSON. ``left_off`` says how many entries a list leaves out."""
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
    """The part of each record kept during the sweep. It is small, because there may be many instances."""

    digest: int
    launch_time: str | None
    tags_known: bool
    excluded: bool


@dataclass
class _Seen:
    """The results so far."""

    refreshed: int = 0
    errors: list[DecommissionError] = field(default_factory=list)


class Sweep:
    """One sweep of one place.

    Args:
        place: the account and region that ``ec2`` queries.
        orphans: searches for dead instances that were never recorded; None if no source is opted in to.
        visibility_timeout: the time after which the message of a killed invocation is handled again.
        now: returns the current time.
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
            dry_run: list, but change nothing.
            accept: ids that an operator has confirmed to be gone. They are exempt from the brake, if EC2 agrees.

        Raises:
            DecommissionError: EC2 or the inventory could not be read completely.
        """
        accept, seen = tuple(accept), _Seen()
        # The inventory is read first, so that an instance that starts while EC2 is read is not considered gone.
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
        """Returns the ids to decommission. ``known``: EC2 returned at least one instance."""
        found, unconfirmed = list(report.found), set(report.found) - accepted
        if not known and unconfirmed:
            # A wrong account or region would look the same.
            going = [i for i in found if i in accepted]
            doubt = TransientError(
                f"refusing to decommission {len(found)} instances that are gone: EC2 in {self._place} returned no "
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
        """Describes where the limit comes from."""
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
        """Returns why confirmed ids are not among those found gone."""
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

    # Refresh the records of live instances

    def _refresh(self, recorded: Mapping[str, _Recorded], seen: _Seen, dry_run: bool) -> set[str]:
        """Records live instances whose record is missing or outdated: tags are added late, and addresses change.

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
        """Updates records, keeping everything that the instances ever had. Returns how many changed."""
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

    # Handle ended instances

    def _mark_excluded(self, instance_ids: Sequence[str]) -> None:
        """Records the end of excluded instances. Nothing is removed for them, and no sweep finds them again."""
        for some in chunks(instance_ids, _WRITTEN_AT_ONCE):
            records = self._inventory.recall(some)
            instances = {i: record.instance() for i, record in records.items()}
            reasons = {i: excluded(one, self._filter, tags_known=True) or "" for i, one in instances.items()}
            self._inventory.remember_excluded({i: (instances[i], reasons[i]) for i in instances})

    def _is_due(self, record: Record) -> bool:
        """Whether the instance's message is lost: it is neither being handled nor waiting for a retry."""
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
    """Identifies a state of an instance within this process. Leaves out what EC2 does not show."""
    shown = {k: v for k, v in facts_document(instance).items() if k not in ("ran", "known_as", "past_tags")}
    return hash(json.dumps(shown, sort_keys=True))
