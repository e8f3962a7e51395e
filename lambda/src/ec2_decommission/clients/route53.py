"""Route 53: listed record sets, and changes that fail if a record set has changed since."""

from __future__ import annotations

import re
import threading
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from functools import lru_cache, partial
from itertools import takewhile
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

from botocore.exceptions import ClientError

from ..errors import DecommissionError, TransientError
from .aws import CALL_SECONDS, THROTTLED, ThrottledError, aws_errors

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

    from .governor import Governor

T = TypeVar("T")
Key = tuple[str, str, str, str | None]  # zone id, name, type, set identifier
Change = tuple[str, "Mapping[str, Any]"]  # DELETE or CREATE, and the raw record set

PAGE = 300  # the most record sets that ListResourceRecordSets returns
# Zones share the time left. Each gets at least this much; no request starts in its last 8 seconds.
LEAST_SECONDS = 2 * CALL_SECONDS
_THROTTLED_CALLS = 4  # each of botocore's four attempts
_MANY = 8  # names on one page
_HOOKS = "ec2-decommission-governor"
_ESCAPE = re.compile(r"\\([0-7]{3})")
_UNUSUAL = re.compile(r"[^a-z0-9_.*-]")


def canonical(name: str) -> str:
    r"""Returns a DNS name in the form for comparison: lower case, with a trailing dot and without escapes.

    Route 53 lists ``*.example.com`` as ``\052.example.com.``.
    https://docs.aws.amazon.com/Route53/latest/DeveloperGuide/DomainNameFormat.html

    Example:
        >>> canonical("Web-1.Example.com")
        'web-1.example.com.'
    """
    plain = (_ESCAPE.sub(lambda m: chr(int(m[1], 8)), name) if "\\" in name else name).lower()
    return plain if plain.endswith(".") else plain + "."


def is_record_name(name: str) -> bool:
    """Returns whether Route 53 can hold a record of that canonical name. It refuses requests with other names."""
    return len(name) <= 255 and name.isascii() and all(0 < len(label) < 64 for label in name[:-1].split("."))


@dataclass(frozen=True)
class Zone:
    """A hosted zone.

    Attributes:
        name: canonical.
        record_sets: the number of record sets when the zone was first read.
        managed_by: the AWS service that created the zone (Cloud Map, for example); None for all other zones.
    """

    zone_id: str
    name: str
    record_sets: int = field(default=0, compare=False)
    managed_by: str | None = None

    def holds(self, name: str) -> bool:
        """Returns whether a canonical name is in the zone."""
        return name == self.name or name.endswith("." + self.name)


@dataclass(frozen=True)
class RecordSet:
    """A record set. ``raw`` is exactly as listed, to be sent back."""

    zone_id: str
    name: str
    type: str
    values: tuple[str, ...]
    set_identifier: str | None = None
    alias: bool = False
    traffic_policy: bool = False
    raw: Mapping[str, Any] = field(default_factory=dict, repr=False, compare=False, hash=False)

    @classmethod
    def listed(cls, zone_id: str, raw: Mapping[str, Any]) -> RecordSet:
        """Parses a record set from ListResourceRecordSets."""
        return cls(
            zone_id=zone_id,
            name=canonical(raw["Name"]),
            type=raw["Type"],
            values=tuple(r["Value"] for r in raw.get("ResourceRecords") or ()),
            set_identifier=raw.get("SetIdentifier"),
            alias=bool(raw.get("AliasTarget")),
            traffic_policy=bool(raw.get("TrafficPolicyInstanceId")),
            raw=raw,
        )

    @property
    def key(self) -> Key:
        """The identity of the record set in Route 53."""
        return (self.zone_id, self.name, self.type, self.set_identifier)

    def without(self, values: Iterable[str]) -> RecordSet | None:
        """Returns the record set without these values; None if no value is left."""
        gone = set(values)
        kept = [r for r in self.raw["ResourceRecords"] if r["Value"] not in gone]
        return RecordSet.listed(self.zone_id, {**self.raw, "ResourceRecords": kept}) if kept else None


@dataclass(frozen=True)
class Page:
    """Consecutive names of a zone, with all record sets at each of them.

    Attributes:
        start: the first canonical name on the page.
        end: the next name that the page shows not at all or only in part; None at the end of the zone.
        raw: the record sets as listed.
        changed: names whose record sets were changed after the page was read.
    """

    zone_id: str
    start: str
    end: str | None
    raw: Sequence[Mapping[str, Any]] = field(repr=False)
    changed: frozenset[str] = frozenset()

    def shows(self, name: str) -> bool:
        """Returns whether the page shows every record set at that name."""
        return name not in self.changed and (name == self.start or _between(self.start, name, self.end))


@dataclass(frozen=True)
class Listing:
    """The record sets at some names of a zone.

    Attributes:
        found: all record sets at each name; no entry for a name without record sets.
        missed: the names that could not be read, with the reason.
    """

    found: Mapping[str, tuple[RecordSet, ...]] = field(default_factory=dict)
    missed: Mapping[str, DecommissionError] = field(default_factory=dict)


class ChangeRefusedError(DecommissionError):
    """InvalidChangeBatch: a change does not fit the zone as it is now. Nothing was changed."""


class Zones(Protocol):
    """Route 53, as the step uses it. Every call may raise a DecommissionError."""

    def zone(self, zone_id: str) -> Zone:
        """Returns the hosted zone with that id."""

    def page(self, zone_id: str, name: str) -> Page:
        """Returns the names of the zone, starting at that canonical name."""

    def forget(self, zone_id: str, names: Iterable[str]) -> None:
        """Marks these names as outdated: the next ``page`` reads them again."""

    def wait(self, zone_id: str) -> None:
        """Waits until the rate allows one change in the zone. ``change`` itself does not wait."""

    def change(self, zone_id: str, changes: Sequence[Change], guard: Callable[[], None]) -> None:
        """Makes all changes or none. Sends one request; if it fails, the caller decides whether to retry.

        Args:
            guard: called right before the request is sent; if it raises, nothing is sent.

        Raises:
            ChangeRefusedError: one of the changes does not fit the zone as it is now.
            TransientError: Route 53 did not say whether the changes were made.
        """


def list_names(zones: Zones, zone_id: str, names: Iterable[str]) -> Listing:
    """Lists all record sets at these canonical names.

    Goes through the zone in Route 53's order and skips other names. Sends at most one request per name, and about one
    per page of the zone, whichever is less.
    """
    asked = sorted(dict.fromkeys(names), key=_by_labels)
    found: dict[str, tuple[RecordSet, ...]] = {}
    position = 0
    gapless_from: str | None = None
    while position < len(asked):
        try:
            page = zones.page(zone_id, gapless_from or asked[position])
            if not page.shows(asked[position]):
                page = zones.page(zone_id, asked[position])
        except DecommissionError as error:
            return Listing(found, dict.fromkeys(asked[position:], error))
        shown = {asked[position], *takewhile(page.shows, asked[position + 1 :])}
        for raw in page.raw:
            if canonical(raw["Name"]) in shown:
                record = RecordSet.listed(zone_id, raw)
                found[record.name] = (*found.get(record.name, ()), record)
        position += len(shown)
        # If many names of a page were requested, the next page begins at its end instead of at the next name: the
        # names in between may be requested next.
        gapless_from = page.end if len(shown) >= _MANY else None
    return Listing(found)


class BotoZones:
    """Route 53 through boto3.

    Args:
        client: returns the boto3 ``route53`` client for a zone id. May raise the errors of assuming the zone's role.
        governor: returns the governor of the account that owns the zone. Every request of the client waits for it,
            including botocore's own retries and requests that others send through the same client.
    """

    def __init__(self, client: Callable[[str], Any], governor: Callable[[str], Governor]) -> None:
        self._make_client = client
        self._governor = governor
        self._zones: dict[str, Zone] = {}
        self._asking = threading.Lock()

    def zone(self, zone_id: str) -> Zone:
        # The name of a zone never changes, so it is read once while the function is warm.
        with self._asking:
            if zone_id not in self._zones:
                answer = self._call(
                    zone_id,
                    f"read hosted zone {zone_id} (route53:GetHostedZone)",
                    lambda client: client.get_hosted_zone(Id=zone_id),
                )
                self._zones[zone_id] = _zone(zone_id, answer["HostedZone"])
            return self._zones[zone_id]

    def page(self, zone_id: str, name: str) -> Page:
        raw: list[Mapping[str, Any]] = []
        # https://docs.aws.amazon.com/Route53/latest/DeveloperGuide/DomainNameFormat.html
        start = {"StartRecordName": _UNUSUAL.sub(lambda m: f"\\{ord(m[0]):03o}", name)}
        while True:
            answer = self._call(
                zone_id,
                f"list hosted zone {zone_id} (route53:ListResourceRecordSets)",
                lambda client, start=start: client.list_resource_record_sets(  # type: ignore[misc]
                    HostedZoneId=zone_id, MaxItems=str(PAGE), **start
                ),
            )
            raw += answer["ResourceRecordSets"]
            more = answer.get("IsTruncated")
            if not more or canonical(answer["NextRecordName"]) != name:
                break
            start = {"StartRecordName": answer["NextRecordName"], "StartRecordType": answer["NextRecordType"]}
            if answer.get("NextRecordIdentifier"):
                start["StartRecordIdentifier"] = answer["NextRecordIdentifier"]
        end = canonical(raw[-1]["Name"] if raw else name) if more else None
        return Page(zone_id, name, end, tuple(raw))

    def forget(self, zone_id: str, names: Iterable[str]) -> None:
        """Does nothing, because nothing is cached here."""

    def wait(self, zone_id: str) -> None:
        self._governor(zone_id).wait()

    def change(self, zone_id: str, changes: Sequence[Change], guard: Callable[[], None]) -> None:
        doing = f"change hosted zone {zone_id} (route53:ChangeResourceRecordSets)"
        batch = {"Changes": [{"Action": action, "ResourceRecordSet": dict(raw)} for action, raw in changes]}
        with aws_errors(doing), _sent_once(_OneAttempt(doing, guard)):
            client = self._client(zone_id)
            try:
                client.change_resource_record_sets(HostedZoneId=zone_id, ChangeBatch=batch)
            except ClientError as error:
                if error.response.get("Error", {}).get("Code") in ("InvalidChangeBatch", "InvalidInput"):
                    raise ChangeRefusedError(error.response["Error"].get("Message", "")) from None
                raise

    def _client(self, zone_id: str) -> Any:
        client, governor = self._make_client(zone_id), self._governor(zone_id)
        client.meta.events.register("before-send", partial(_before_send, governor), unique_id=_HOOKS)
        client.meta.events.register("response-received", partial(_received, governor), unique_id=f"{_HOOKS}-answer")
        return client

    def _call(self, zone_id: str, doing: str, call: Callable[[Any], T]) -> T:
        left = _THROTTLED_CALLS
        while True:
            left -= 1
            try:
                with aws_errors(doing):
                    return call(self._client(zone_id))
            except ThrottledError:
                # The governor waits longer each time. If throttling does not end, the message is retried.
                if not left:
                    raise


class _OneAttempt:
    """A change request that is sent once, right after ``guard``; botocore's own retry becomes an error.

    A retry would rely on the first attempt's answer about live instances.
    """

    def __init__(self, doing: str, guard: Callable[[], None]) -> None:
        self._doing = doing
        self._guard = guard
        self._failure: DecommissionError | None = None

    def before_send(self) -> None:
        if self._failure:
            raise self._failure
        self._guard()

    def received(self, code: str | None, message: object) -> None:
        kind = ThrottledError if code in THROTTLED else TransientError
        self._failure = kind(f"could not {self._doing}: {f'{code}: ' if code else ''}{message}")


_attempt: ContextVar[_OneAttempt | None] = ContextVar("attempt", default=None)


@contextmanager
def _sent_once(attempt: _OneAttempt) -> Iterator[None]:
    token = _attempt.set(attempt)
    try:
        yield
    finally:
        _attempt.reset(token)


# boto3's hooks, called around each attempt of a request


def _before_send(governor: Governor, **_: object) -> None:
    if attempt := _attempt.get():
        attempt.before_send()  # the caller of `change` has already waited
    else:
        governor.wait()


def _received(governor: Governor, parsed_response: Any = None, exception: object = None, **_: object) -> None:
    error = (parsed_response or {}).get("Error") or {}
    if attempt := _attempt.get():
        attempt.received(error.get("Code"), error.get("Message") or exception or "no answer")
    if error.get("Code") in THROTTLED:
        governor.throttled()
    elif parsed_response is not None:  # without an answer, the rate is unknown
        governor.answered()


def _zone(zone_id: str, raw: Mapping[str, Any]) -> Zone:
    linked = raw.get("LinkedService") or {}
    return Zone(
        zone_id,
        canonical(raw["Name"]),
        int(raw.get("ResourceRecordSetCount") or 0),
        (linked.get("Description") or linked.get("ServicePrincipal") or "another AWS service") if linked else None,
    )


# Cached, because the start and end of a page are compared with every requested name.
@lru_cache(maxsize=4096)
def _by_labels(name: str) -> tuple[str, ...]:
    return tuple(reversed(name.split(".")))


@lru_cache(maxsize=4096)
def _by_text(name: str) -> str:
    # https://docs.aws.amazon.com/Route53/latest/APIReference/API_ListResourceRecordSets.html
    return ".".join(reversed(name.rstrip(".").split("."))) + "."


def _between(start: str, name: str, end: str | None) -> bool:
    """Returns whether a page from ``start`` to ``end`` (None: the end of the zone) holds everything at ``name``.

    Route 53 documents its order for plain names only, so two interpretations of it must agree.
    """
    labels, text = _by_labels, _by_text
    return (
        labels(start) < labels(name)
        and text(start) < text(name)
        and (end is None or (labels(name) < labels(end) and text(name) < text(end)))
    )
