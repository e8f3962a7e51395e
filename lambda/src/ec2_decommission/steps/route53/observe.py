"""Reads the hosted zones: the record sets at the instances' names, and external-dns's marks."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from ...clients.route53 import LEAST_SECONDS, PAGE, Listing, Zone, list_names
from ...deadline import current, until
from ...errors import DecommissionError
from .names import FORWARD, is_classless, mark_names, own_names

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from ...clients.route53 import RecordSet, Zones
    from ...config import ExternalDns, Route53Settings
    from ...instance import Instance

_SHORT_WALK = 40  # requests


@dataclass(frozen=True)
class ZoneRecords:
    """One hosted zone, as far as it was read.

    Attributes:
        found: all record sets at each name that was read; no entry for a name without record sets.
        missed: the names that could not be read, with the reason.
    """

    zone: Zone
    found: Mapping[str, tuple[RecordSet, ...]] = field(default_factory=dict)
    missed: Mapping[str, DecommissionError] = field(default_factory=dict)

    @property
    def unusable(self) -> str | None:
        """Why the step neither reads nor changes this zone; None for most zones."""
        if self.zone.managed_by:
            return f"{self.zone.managed_by} manages it, and only that service may change its records"
        if is_classless(self.zone.name):
            return "it is a classless reverse zone (RFC 2317), which has no PTR record at an address's own name"
        return None

    def updated(self, listing: Listing, names: Iterable[str] = ()) -> ZoneRecords:
        """Returns the zone with ``listing`` added. Replaces what was known about ``names``."""
        refreshed = frozenset(names)
        return replace(
            self,
            found={**{n: r for n, r in self.found.items() if n not in refreshed}, **listing.found},
            missed={**{n: e for n, e in self.missed.items() if n not in refreshed}, **listing.missed},
        )


@dataclass(frozen=True)
class Snapshot:
    """The hosted zones.

    Attributes:
        zones: the zones whose name is known, in the order of the settings.
        unreadable: the zones whose name could not be read, by id, with the reason. Any name may be in them.
    """

    zones: tuple[ZoneRecords, ...] = ()
    unreadable: Mapping[str, DecommissionError] = field(default_factory=dict)

    def updated(self, zone_id: str, listing: Listing, names: Iterable[str]) -> Snapshot:
        """Returns the snapshot with the names of a zone as in ``listing``."""
        names = frozenset(names)
        zones = (z.updated(listing, names) if z.zone.zone_id == zone_id else z for z in self.zones)
        return replace(self, zones=tuple(zones))


def observe(settings: Route53Settings, zones: Zones, instances: Iterable[Instance]) -> Snapshot:
    """Reads every name of the instances in every zone that contains it. Errors are stored in the result."""
    owns = [own_names(settings.record_names, instance) for instance in instances]
    forward = {name for own in owns for name in own.forward}
    pointers = {name for own in owns for name in own.pointers}
    known: list[Zone] = []
    unreadable: dict[str, DecommissionError] = {}
    for number, zone_id in enumerate(zone.zone_id for zone in settings.zones):
        try:
            with until(current().share(len(settings.zones) - number, LEAST_SECONDS)):
                known.append(zones.zone(zone_id))
        except DecommissionError as error:
            unreadable[zone_id] = error
    read = []
    for number, zone in enumerate(known):
        records = ZoneRecords(zone)
        if not records.unusable:
            with until(current().share(len(known) - number, LEAST_SECONDS)):
                listing = _with_marks(zones, zone, filter(zone.holds, forward), settings.external_dns)
                records = records.updated(listing)
                records = records.updated(list_names(zones, zone.zone_id, filter(zone.holds, pointers)))
        read.append(records)
    return Snapshot(tuple(read), unreadable)


def read_again(
    snapshot: Snapshot, settings: Route53Settings, zones: Zones, zone_id: str, names: Iterable[str]
) -> Snapshot:
    """Returns the snapshot with these names of a zone read again."""
    names = set(names)
    zone = next(records.zone for records in snapshot.zones if records.zone.zone_id == zone_id)
    zones.forget(zone_id, {mark for name in names for mark in mark_names(settings.external_dns, zone, name)})
    listing = _with_marks(zones, zone, names, settings.external_dns)
    return snapshot.updated(zone_id, listing, names)


def _with_marks(zones: Zones, zone: Zone, names: Iterable[str], external_dns: ExternalDns | None) -> Listing:
    """Lists the record sets at the names, and at the marks that external-dns would set for names with a record.

    Reads both in one pass through the zone if that is cheaper; otherwise the marks after the names.
    """
    names = set(names)
    marks = {mark for name in names for mark in mark_names(external_dns, zone, name)}
    if _requests(zone, len(marks)) < min(_SHORT_WALK, 2 * _requests(zone, len(names))):
        return list_names(zones, zone.zone_id, marks)
    listing = list_names(zones, zone.zone_id, names)
    taken = {name for name in names if any(r.type in FORWARD and not r.alias for r in listing.found.get(name, ()))}
    marks = {mark for name in taken for mark in mark_names(external_dns, zone, name)} - names
    more = list_names(zones, zone.zone_id, marks)
    return Listing({**listing.found, **more.found}, {**listing.missed, **more.missed})


def _requests(zone: Zone, names: int) -> float:
    """Estimates the number of requests to read that many names spread over a zone.

    Each request returns a page, and the next one begins at the next name after it.
    """
    return max(1.0, min(names, zone.record_sets / (PAGE + zone.record_sets / max(1, names))))
