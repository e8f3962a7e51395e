"""Route 53: record sets as they are listed, and changes that are refused when the record set has changed since."""

from __future__ import annotations

import json
import re
import threading
import zlib
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from functools import lru_cache, partial
from itertools import takewhile
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

from botocore.exceptions import ClientError

from ..errors import DecommissionError, OutOfTime
from .aws import ThrottledError, aws_errors

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence, Set
    from contextlib import AbstractContextManager

    from ..deadline import Deadline
    from .governor import Governor

T = TypeVar("T")

_THROTTLED_CALLS = 4  # each of botocore's four tries
PAGE = 300  # the most record sets that ListResourceRecordSets gives at once
# What was read of a zone serves other batches for so long, and no more of it is kept than so many record sets.
_KEPT = timedelta(minutes=5)
_MOST_KEPT = 60_000
_MANY = 8  # of the names on one page
_ESCAPE = re.compile(r"\\([0-7]{3})")
_UNUSUAL = re.compile(r"[^a-z0-9_.*-]")


def canonical(name: str) -> str:
    """A DNS name as this package compares it: lower case, with the trailing dot, escapes resolved.

    Route 53 lists ``*.example.com`` as ``\\052.example.com.``, and every other unusual character likewise.
    https://docs.aws.amazon.com/Route53/latest/DeveloperGuide/DomainNameFormat.html
    """
    plain = (_ESCAPE.sub(lambda m: chr(int(m[1], 8)), name) if "\\" in name else name).lower()
    return plain if plain.endswith(".") else plain + "."


def is_record_name(name: str) -> bool:
    """Whether Route 53 can hold a record of that canonical name; asked for another, it refuses the request."""
    return len(name) <= 255 and name.isascii() and all(0 < len(label) < 64 for label in name[:-1].split("."))


@dataclass(frozen=True)
class Zone:
    """A hosted zone; ``name`` is canonical.

    Attributes:
        record_sets: how many it held when it was first read: so a zone's size is known, and not more.
    """

    zone_id: str
    name: str
    record_sets: int = field(default=0, compare=False)

    def holds(self, name: str) -> bool:
        """Whether a canonical name lies in the zone."""
        return name == self.name or name.endswith("." + self.name)


@dataclass(frozen=True)
class RecordSet:
    """A record set; ``raw`` is exactly as it was listed, for sending it back."""

    zone_id: str
    name: str
    type: str
    values: tuple[str, ...]
    set_identifier: str | None = None
    alias: bool = False
    traffic_policy: bool = False
    raw: Mapping[str, Any] = field(default_factory=dict, repr=False, compare=False, hash=False)

    @property
    def key(self) -> tuple[str, str, str, str | None]:
        """What Route 53 knows the record set by."""
        return (self.zone_id, self.name, self.type, self.set_identifier)

    def without(self, values: Iterable[str]) -> dict[str, Any]:
        """The raw record set less these values."""
        gone = set(values)
        kept = [r for r in self.raw["ResourceRecords"] if r["Value"] not in gone]
        return {**self.raw, "ResourceRecords": kept}


@dataclass(frozen=True)
class Listing:
    """What was read of a zone.

    Attributes:
        found: all record sets at each name; no entry for a name that has none.
        missed: the names that were not reached in time.
    """

    found: Mapping[str, Sequence[RecordSet]]
    missed: Mapping[str, OutOfTime] = field(default_factory=dict)


class ChangeRefusedError(DecommissionError):
    """InvalidChangeBatch: something in the batch no longer is as it was listed; nothing was changed."""


class Zones(Protocol):
    """What the step asks of Route 53. Every call may raise TransientError, AccessError or ConfigurationError."""

    def zone(self, zone_id: str) -> Zone:
        """The hosted zone of that id."""

    def records(
        self, zone_id: str, names: Iterable[str], until: Deadline | None = None, since: datetime | None = None
    ) -> Listing:
        """All record sets at these canonical names, as many as can be read before ``until``.

        Args:
            since: what was read from that moment on is as good as what is read now. None: nothing is.
        """

    def read_ahead(self, zone_id: str, names: Iterable[str], until: Deadline, since: datetime) -> None:
        """Reads what ``records`` will be asked for, as much of it as is kept until then."""

    def change(self, zone_id: str, changes: Sequence[tuple[str, Mapping[str, Any]]]) -> None:
        """Makes all the changes (``DELETE`` or ``CREATE``, raw record set), or none.

        Raises:
            ChangeRefusedError: one of them does not fit the zone as it is now.
        """


class BotoZones:
    """Route 53 through boto3.

    Args:
        client: a boto3 ``route53`` client.
        governor: keeps the calls to the module's share of the account's rate; with it a call that is throttled is
            made again, later each time. None leaves the calls to botocore's own retries.
        now: the time.
        lock: makes what a reading of a zone waits at while another is under way.
    """

    def __init__(
        self,
        client: Any,
        governor: Governor | None = None,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
        lock: Callable[[], AbstractContextManager[object]] = threading.Lock,
    ) -> None:
        self._client = client
        self._governor = governor
        self._now = now
        self._zones: dict[str, Zone] = {}
        self._pages: list[_Page] = []  # the newest last
        self._changed: dict[tuple[str, str], datetime] = {}  # when, by zone id and canonical name
        self._lock = lock
        self._asking, self._keeping = lock(), threading.Lock()
        self._reading: dict[str, AbstractContextManager[object]] = {}  # by zone id
        if governor:
            governor.govern(client)

    def zone(self, zone_id: str) -> Zone:
        # A zone's name never changes, so it is asked once for as long as the function stays warm.
        with self._asking:
            if zone_id not in self._zones:
                answer = self._call(
                    f"read hosted zone {zone_id} (route53:GetHostedZone)",
                    lambda: self._client.get_hosted_zone(Id=zone_id),
                )
                raw = answer["HostedZone"]
                size = int(raw.get("ResourceRecordSetCount") or 0)
                self._zones[zone_id] = Zone(zone_id, canonical(raw["Name"]), size)
            return self._zones[zone_id]

    def records(
        self, zone_id: str, names: Iterable[str], until: Deadline | None = None, since: datetime | None = None
    ) -> Listing:
        found: dict[str, list[RecordSet]] = {}
        asked = sorted(dict.fromkeys(names), key=_by_labels)
        position = 0
        with self._reading_of(zone_id):
            try:
                for page, covered in self._walk(zone_id, asked, until, since):
                    for record in page.records(set(covered)):
                        found.setdefault(record.name, []).append(record)
                    position += len(covered)
            except OutOfTime as error:
                if until is None:
                    raise
                return Listing(found, dict.fromkeys(asked[position:], error))
        return Listing(found)

    def read_ahead(self, zone_id: str, names: Iterable[str], until: Deadline, since: datetime) -> None:
        with self._reading_of(zone_id):
            for _ in self._walk(zone_id, sorted(dict.fromkeys(names), key=_by_labels), until, since):
                # What does not fit in would be read twice.
                if sum(page.record_sets for page in list(self._pages) if page.read_at >= since) > _MOST_KEPT - PAGE:
                    return

    def _reading_of(self, zone_id: str) -> AbstractContextManager[object]:
        return self._reading.setdefault(zone_id, self._lock())

    def _walk(
        self, zone_id: str, asked: Sequence[str], until: Deadline | None, since: datetime | None
    ) -> Iterator[tuple[_Page, Sequence[str]]]:
        """The pages that show all that is at these names, and which of them each shows.

        Goes through the zone in its own order and skips what nobody asked for: at most one call for each name, and
        about one for each page of the zone, whichever is less.
        """
        self._forget()
        position = 0
        gapless_from: str | None = None
        while position < len(asked):
            page = self._kept(zone_id, asked[position], since)
            if page is None and gapless_from is not None:
                page = self._read(zone_id, gapless_from, until)
            if page is None or not page.covers(asked[position]):
                page = self._read(zone_id, asked[position], until)
            covered = [asked[position], *takewhile(partial(self._shows, page), asked[position + 1 :])]
            yield page, covered
            position += len(covered)
            # Where many of a page were asked for, the next begins where it ends and not a few names later, which
            # would leave out names that another batch may ask for.
            gapless_from = page.end if len(covered) >= _MANY else None

    def _kept(self, zone_id: str, name: str, since: datetime | None) -> _Page | None:
        """The newest page that shows what is at the name, if one was read late enough for ``since``."""
        if since is None:
            return None
        late = (page for page in reversed(list(self._pages)) if page.read_at >= since)
        return next((page for page in late if page.zone_id == zone_id and self._shows(page, name)), None)

    def _forget(self) -> None:
        oldest = self._now() - _KEPT
        with self._keeping:
            self._pages = [page for page in self._pages if page.read_at > oldest]
            self._changed = {at: changed_at for at, changed_at in self._changed.items() if changed_at > oldest}

    def _shows(self, page: _Page, name: str) -> bool:
        """Whether a page shows all there is at that name, and the function itself has changed nothing there since."""
        changed_at = self._changed.get((page.zone_id, name))
        return page.covers(name) and (changed_at is None or page.read_at >= changed_at)

    def _read(self, zone_id: str, name: str, until: Deadline | None) -> _Page:
        """The page from that name on: all that is at that name, and what else came."""
        if until:
            until.check(1.0, f"a look at {name} in hosted zone {zone_id}")
        read_at = self._now()
        raw: list[Mapping[str, Any]] = []
        # https://docs.aws.amazon.com/Route53/latest/DeveloperGuide/DomainNameFormat.html
        start = {"StartRecordName": _UNUSUAL.sub(lambda m: f"\\{ord(m[0]):03o}", name)}
        while True:
            answer = self._page(zone_id, start)
            raw += answer["ResourceRecordSets"]
            more = answer.get("IsTruncated")
            if not more or canonical(answer["NextRecordName"]) != name:
                break
            start = {"StartRecordName": answer["NextRecordName"], "StartRecordType": answer["NextRecordType"]}
            if answer.get("NextRecordIdentifier"):
                start["StartRecordIdentifier"] = answer["NextRecordIdentifier"]
        end = canonical(raw[-1]["Name"] if raw else name) if more else None
        page = _Page(zone_id, name, end, read_at, len(raw), zlib.compress(json.dumps(raw).encode(), 1))
        with self._keeping:
            self._pages.append(page)
            while sum(page.record_sets for page in self._pages) > _MOST_KEPT:
                del self._pages[0]
        return page

    def _page(self, zone_id: str, start: Mapping[str, str]) -> Any:
        return self._call(
            f"list hosted zone {zone_id} (route53:ListResourceRecordSets)",
            lambda: self._client.list_resource_record_sets(HostedZoneId=zone_id, MaxItems=str(PAGE), **start),
        )

    def change(self, zone_id: str, changes: Sequence[tuple[str, Mapping[str, Any]]]) -> None:
        batch = {"Changes": [{"Action": action, "ResourceRecordSet": dict(raw)} for action, raw in changes]}

        def change() -> None:
            try:
                self._client.change_resource_record_sets(HostedZoneId=zone_id, ChangeBatch=batch)
            except ClientError as error:
                if error.response.get("Error", {}).get("Code") in ("InvalidChangeBatch", "InvalidInput"):
                    raise ChangeRefusedError(error.response["Error"].get("Message", "")) from None
                raise

        try:
            self._call(f"change hosted zone {zone_id} (route53:ChangeResourceRecordSets)", change)
        finally:
            now = self._now()
            with self._keeping:
                self._changed.update({(zone_id, canonical(raw["Name"])): now for _, raw in changes})

    def _call(self, doing: str, call: Callable[[], T]) -> T:
        left = _THROTTLED_CALLS if self._governor else 1
        while True:
            left -= 1
            try:
                with aws_errors(doing):
                    return call()
            except ThrottledError:
                # The governor waits longer after each. What does not end is left to the queue, which waits for less.
                if not left:
                    raise


@dataclass(frozen=True)
class _Page:
    """What was read of a zone in one go.

    Attributes:
        start: the first canonical name that it shows.
        end: the first name after it that it does not show, or not all of; None where the zone ends with it.
        read_at: when the reading began.
        packed: the record sets as they were listed, in a tenth of the memory.
    """

    zone_id: str
    start: str
    end: str | None
    read_at: datetime
    record_sets: int
    packed: bytes

    def covers(self, name: str) -> bool:
        """Whether it shows all there is at that name."""
        return name == self.start or _between(self.start, name, self.end)

    def records(self, names: Set[str]) -> Iterator[RecordSet]:
        """The record sets at these names; they may be few of many."""
        listed = json.loads(zlib.decompress(self.packed))
        return (_record_set(self.zone_id, raw) for raw in listed if canonical(raw["Name"]) in names)


def _record_set(zone_id: str, raw: Mapping[str, Any]) -> RecordSet:
    return RecordSet(
        zone_id=zone_id,
        name=canonical(raw["Name"]),
        type=raw["Type"],
        values=tuple(r["Value"] for r in raw.get("ResourceRecords") or ()),
        set_identifier=raw.get("SetIdentifier"),
        alias=bool(raw.get("AliasTarget")),
        traffic_policy=bool(raw.get("TrafficPolicyInstanceId")),
        raw=raw,
    )


# Where a page begins and ends is compared with each name that is looked for.
@lru_cache(maxsize=4096)
def _by_labels(name: str) -> tuple[str, ...]:
    return tuple(reversed(name.split(".")))


@lru_cache(maxsize=4096)
def _by_text(name: str) -> str:
    # https://docs.aws.amazon.com/Route53/latest/APIReference/API_ListResourceRecordSets.html
    return ".".join(reversed(name.rstrip(".").split("."))) + "."


def _between(start: str, name: str, end: str | None) -> bool:
    """Whether a page from ``start`` to ``end`` (None: of the zone) holds all there is at ``name``.

    Route 53's order is documented for plain names only, so both readings of it must agree.
    """
    labels, text = _by_labels, _by_text
    return (
        labels(start) < labels(name)
        and text(start) < text(name)
        and (end is None or (labels(name) < labels(end) and text(name) < text(end)))
    )
