"""Applies a plan: queries live instances, plans again, and sends what both plans agree on.

Each change batch is all or nothing. A DELETE repeats the record set as it was listed, so Route 53 refuses it if the
record set has changed since. To remove one value of a set, the batch deletes the set and creates the rest.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias

from ...clients.aws import ThrottledError
from ...clients.route53 import LEAST_SECONDS, ChangeRefusedError
from ...deadline import current, until
from ...errors import DecommissionError, OutOfTime, PermanentError, TransientError, about
from ...live import StaleAnswer
from ..base import Outcomes
from .observe import read_again
from .plan import plan, question

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

    from ...clients.route53 import Change, Key, RecordSet, Zones
    from ...config import Route53Settings
    from ..base import Batch, Finding, Outcome, Removal
    from .observe import Snapshot

# https://docs.aws.amazon.com/Route53/latest/DeveloperGuide/DNSLimitations.html
MAX_RECORDS = 1000
MAX_CHARACTERS = 32_000
_ATTEMPTS = 8  # per batch, if Route 53 throttles it or does not answer


@dataclass(frozen=True)
class Edit:
    """One record set, and the removals of its values by instance id."""

    record: RecordSet
    removals: tuple[tuple[str, Removal], ...]

    @property
    def rest(self) -> RecordSet | None:
        """The record set afterward; None if no value is left."""
        return self.record.without(removal.handle.value for _, removal in self.removals)

    @property
    def changes(self) -> list[Change]:
        """The changes for the change batch."""
        changes: list[Change] = [("DELETE", self.record.raw)]
        return changes if self.rest is None else [*changes, ("CREATE", self.rest.raw)]

    @property
    def needs(self) -> frozenset[Key]:
        """The record sets that must be removed with this one or before it."""
        return frozenset().union(*(removal.handle.needs for _, removal in self.removals))


Group: TypeAlias = tuple[Edit, ...]  # record sets of one zone that are removed together


def apply(
    settings: Route53Settings,
    zones: Zones,
    batch: Batch,
    findings: Mapping[str, Finding],
    snapshot: Snapshot,
) -> Mapping[str, Outcome]:
    """Removes what ``findings`` chose from ``snapshot``, in as few change batches as possible."""
    return _Run(settings, zones, batch, findings, snapshot).carry_out()


class _Run:
    """One ``apply``: the snapshot as currently known, and the outcome of each removal."""

    def __init__(
        self,
        settings: Route53Settings,
        zones: Zones,
        batch: Batch,
        findings: Mapping[str, Finding],
        snapshot: Snapshot,
    ) -> None:
        self._settings = settings
        self._zones = zones
        self._batch = batch
        self._findings = findings
        self._snapshot = snapshot
        self._outcomes = Outcomes(findings)
        self._planned = {_id(i, removal): removal for i, finding in findings.items() for removal in finding.removals}
        # The record sets as written to the audit.
        self._audited = {key: removal.handle.record.raw for key, removal in self._planned.items()}

    def carry_out(self) -> Mapping[str, Outcome]:
        waiting = _groups((i, removal) for (i, _, _), removal in self._planned.items())
        while waiting:
            # A target in another zone is removed before the CNAME that points to it.
            open_keys = {edit.record.key for group in waiting for edit in group}
            ready = [group for group in waiting if not _needs_of_others(group) & open_keys]
            waiting = [group for group in waiting if _needs_of_others(group) & open_keys]
            zone_ids = list(dict.fromkeys(group[0].record.zone_id for group in ready))
            for number, zone_id in enumerate(zone_ids):
                # Share the time, so that a throttled zone leaves time for the others.
                with until(current().share(len(zone_ids) - number, LEAST_SECONDS)):
                    for some in _batches(group for group in ready if group[0].record.zone_id == zone_id):
                        self._send(zone_id, some)
        return self._outcomes.outcomes()

    def _send(self, zone_id: str, groups: Sequence[Group], *, refused: bool = False) -> None:
        """Sends one change batch. Each attempt relies on its own answer about live instances."""
        failure: DecommissionError = TransientError("no attempt was made")
        for _ in range(_ATTEMPTS):
            try:
                self._read_targets(groups)
                self._zones.wait(zone_id)  # before the query, whose answer would grow old
                groups, guard = self._agreed(groups)
                if groups:
                    self._zones.change(zone_id, _changes(groups), guard)
            except ChangeRefusedError as refusal:
                self._refused(zone_id, groups, refusal, again=refused)
                return
            except DecommissionError as error:
                failure = error
                if isinstance(error, StaleAnswer) and len(groups) > 1:
                    # The second plan takes too long for this many groups on this machine.
                    for half in _halves(groups):
                        self._send(zone_id, half, refused=refused)
                    return
                # Throttled, no answer, or the answer about live instances is too old: try again.
                if isinstance(error, OutOfTime) or not isinstance(error, TransientError):
                    break
                if not isinstance(error, ThrottledError | StaleAnswer):
                    refused = False  # it may have taken effect: if the next one is refused, read again
            else:
                for i, removal in _removals(groups):
                    self._outcomes.removed(i, self._planned[_id(i, removal)])
                return
        self._failed(groups, failure)

    def _read_targets(self, groups: Sequence[Group]) -> None:
        """Reads again the names that must be empty before a CNAME is removed. No change batch can check that."""
        targets = set()
        for group in groups:
            keys = {edit.record.key for edit in group}
            for _, removal in _removals([group]):
                handle = removal.handle
                if handle.target and not (handle.needs and handle.needs <= keys):
                    targets.add(handle.target)
        for zone in self._snapshot.zones:
            if names := set(filter(zone.zone.holds, targets)):
                self._read_again(zone.zone.zone_id, names)

    def _read_again(self, zone_id: str, names: set[str]) -> None:
        self._snapshot = read_again(self._snapshot, self._settings, self._zones, zone_id, names)

    def _agreed(self, groups: Sequence[Group]) -> tuple[list[Group], Callable[[], None]]:
        """Returns what a second plan, on fresh answers, chooses of the groups. The rest is kept, failed, or gone."""
        asked_for = [_id(i, removal) for i, removal in _removals(groups)]
        only: dict[Key, set[str]] = {}
        for _, key, value in asked_for:
            only.setdefault(key, set()).add(value)
        ids = {i for i, _, _ in asked_for}
        instances = {i: instance for i, instance in self._batch.instances.items() if i in ids}
        asked = question(self._settings, instances, self._snapshot, only)
        fresh = self._batch.live.ask(asked, gone=self._batch.instances)
        second = plan(self._settings, instances, self._snapshot, fresh.living, only)
        chosen = {_id(i, removal): removal for i, finding in second.items() for removal in finding.removals}
        for removal_id in asked_for:
            if removal_id not in chosen:
                self._not_agreed(removal_id[0], self._planned[removal_id], second[removal_id[0]])
        agreed = _groups((i, removal) for (i, _, _), removal in chosen.items())
        return [group for group in agreed if self._keep(group)], fresh.guard

    def _not_agreed(self, instance_id: str, removal: Removal, second: Finding) -> None:
        for left in second.left:
            if left not in self._findings[instance_id].left:
                self._outcomes.stays(instance_id, left)
        for error in second.errors:
            self._outcomes.failed(instance_id, about(removal.target, error))

    def _keep(self, group: Group) -> bool:
        """Audits record sets that have changed since the first plan. What cannot be written is not removed."""
        for edit in group:
            for i, removal in edit.removals:
                if self._audited[_id(i, removal)] == edit.record.raw:
                    continue
                try:
                    self._batch.keep(i, [removal])
                except DecommissionError as error:
                    self._failed([group], error)
                    return False
                self._audited[_id(i, removal)] = edit.record.raw
        return True

    def _refused(self, zone_id: str, groups: Sequence[Group], refusal: ChangeRefusedError, *, again: bool) -> None:
        """Reads all names of the batch again and sends the rest. If that is refused too, splits the batch.

        If a change took effect but its answer was lost, the next attempt is refused for every record set.
        """
        if not again:
            self._read_again(zone_id, {edit.record.name for group in groups for edit in group})
            self._send(zone_id, groups, refused=True)
        elif len(groups) > 1:
            for part in _parts(groups, str(refusal)):
                self._send(zone_id, part, refused=True)
        else:
            self._failed(groups, PermanentError(f"Route 53 refused the change: {refusal}"))

    def _failed(self, groups: Sequence[Group], error: DecommissionError) -> None:
        for i, removal in _removals(groups):
            self._outcomes.failed(i, about(removal.target, error))


def _id(instance_id: str, removal: Removal) -> tuple[str, Key, str]:
    """Identifies a removal, whatever its proof: the instance, and one value of one record set."""
    return instance_id, removal.handle.record.key, removal.handle.value


def _groups(removals: Iterable[tuple[str, Removal]]) -> list[Group]:
    """Groups the removals by record set, and record sets that need each other."""
    by_record: dict[RecordSet, list[tuple[str, Removal]]] = {}
    for i, removal in removals:
        by_record.setdefault(removal.handle.record, []).append((i, removal))
    edits = [Edit(record, tuple(some)) for record, some in by_record.items()]
    group_of = {edit.record.key: [edit] for edit in edits}
    for edit in edits:
        for key in edit.needs & group_of.keys():
            target, own = group_of[key], group_of[edit.record.key]
            if key[0] == edit.record.zone_id and target is not own:
                target += own
                for other in own:
                    group_of[other.record.key] = target
    return list({id(group): tuple(group) for group in group_of.values()}.values())


def _removals(groups: Iterable[Group]) -> list[tuple[str, Removal]]:
    return [entry for group in groups for edit in group for entry in edit.removals]


def _needs_of_others(group: Group) -> frozenset[Key]:
    """Returns the record sets outside the group that must be removed first."""
    keys = frozenset(edit.record.key for edit in group)
    return frozenset().union(*(edit.needs for edit in group)) - keys


def _changes(groups: Iterable[Group]) -> list[Change]:
    return [change for group in groups for edit in group for change in edit.changes]


def _batches(groups: Iterable[Group]) -> Iterator[list[Group]]:
    """Splits the groups into pieces that each fit into one change batch."""
    piece: list[Group] = []
    count = characters = 0
    for group in groups:
        values = [r["Value"] for _, raw in _changes([group]) for r in raw["ResourceRecords"]]
        number, size = len(values), sum(map(len, values))
        if piece and (count + number > MAX_RECORDS or characters + size > MAX_CHARACTERS):
            yield piece
            piece, count, characters = [], 0, 0
        piece.append(group)
        count += number
        characters += size
    if piece:
        yield piece


def _parts(groups: Sequence[Group], refusal: str) -> list[list[Group]]:
    """Splits a refused batch: what the refusal does not name, and what it names; otherwise halves."""

    def is_named(group: Group) -> bool:
        return any(f"'{edit.record.raw['Name']}'" in refusal for edit in group)

    rest, named = [g for g in groups if not is_named(g)], [g for g in groups if is_named(g)]
    if rest and named:
        return [rest, named]
    return _halves(groups)


def _halves(groups: Sequence[Group]) -> list[list[Group]]:
    half = len(groups) // 2
    return [list(groups[:half]), list(groups[half:])]
