"""Caches pages of hosted zones for five minutes: a decorator of ``Zones`` with the same interface.

A page serves a batch only if all instances of the batch had ended before the page was read, because they wrote no
records after that. Nothing else depends on the page being current: a change is refused if a record set differs from
the listing, and live instances are queried right before each change. If someone else writes a record for a dead
instance after the page was read, this batch misses it, as would a batch that ran before the write.
"""

from __future__ import annotations

import json
import time
import zlib
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from .route53 import Page, canonical

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from .route53 import Change, Zone, Zones

_SECONDS = 300.0
_MOST_RECORD_SETS = 60_000
_CLOCKS = 5.0  # seconds: events have whole seconds, and clocks differ


@dataclass(frozen=True)
class KeptPage:
    """A page without its record sets, when reading it began, and the record sets, compressed to a tenth."""

    page: Page
    read_at: float
    record_sets: int
    packed: bytes


class CachedZones:
    """Zones whose pages are cached.

    Args:
        zones: reads the pages that are not cached.
        kept: the cached pages; the same list for every batch of an execution environment.
        ended_at: when the last instance of the batch ended, in seconds since 1970. None: no cached page is used.
        now: returns the time in seconds since 1970.

    Example:
        >>> kept: list[KeptPage] = []
        >>> zones = CachedZones(boto_zones, kept, ended_at=1767225600.0)  # doctest: +SKIP
    """

    def __init__(
        self, zones: Zones, kept: list[KeptPage], ended_at: float | None, now: Callable[[], float] = time.time
    ) -> None:
        self._zones = zones
        self._kept = kept
        self._since = None if ended_at is None else ended_at + _CLOCKS
        self._now = now

    def zone(self, zone_id: str) -> Zone:
        return self._zones.zone(zone_id)

    def page(self, zone_id: str, name: str) -> Page:
        self._kept[:] = [kept for kept in self._kept if kept.read_at > self._now() - _SECONDS]
        for kept in reversed(self._kept):
            late = self._since is not None and kept.read_at >= self._since
            if late and kept.page.zone_id == zone_id and kept.page.shows(name):
                return replace(kept.page, raw=json.loads(zlib.decompress(kept.packed)))
        read_at = self._now()
        page = self._zones.page(zone_id, name)
        packed = zlib.compress(json.dumps(page.raw).encode(), 1)
        self._kept.append(KeptPage(replace(page, raw=()), read_at, len(page.raw), packed))
        while sum(kept.record_sets for kept in self._kept) > _MOST_RECORD_SETS:
            del self._kept[0]
        return page

    def forget(self, zone_id: str, names: Iterable[str]) -> None:
        gone = frozenset(names)
        for position, kept in enumerate(self._kept):
            if kept.page.zone_id == zone_id:
                page = replace(
                    kept.page, changed=kept.page.changed | {name for name in gone if kept.page.shows(name)}
                )
                self._kept[position] = replace(kept, page=page)

    def wait(self, zone_id: str) -> None:
        self._zones.wait(zone_id)

    def change(self, zone_id: str, changes: Sequence[Change], guard: Callable[[], None]) -> None:
        try:
            self._zones.change(zone_id, changes, guard)
        finally:  # also if Route 53 refused the change, or did not answer
            self.forget(zone_id, {canonical(raw["Name"]) for _, raw in changes})
