"""Route 53 in process. tests/conformance/test_route53.py compares it with the strict AWS."""

from __future__ import annotations

import re
from bisect import bisect_left
from collections import Counter
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

from botocore.exceptions import ClientError

from ec2_decommission.clients.aws import CALL_SECONDS
from ec2_decommission.clients.route53 import PAGE, ChangeRefusedError, Page, Zone, canonical
from ec2_decommission.deadline import current
from ec2_decommission.errors import ConfigurationError, TransientError
from tests.fakes.copies import plain_copy

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

MAX_RECORDS = 1000
MAX_CHARACTERS = 32_000

_UNUSUAL = re.compile(r"[^a-z0-9_.-]")

Raw = dict[str, Any]
_Key = tuple[str, str | None]
_Content = dict[str, dict[_Key, Raw]]


class FakeZones:
    """Hosted zones and their record sets.

    Attributes:
        fault: called with operation and zone id before each request. It may raise errors or change records.
        calls: requests by operation. ``wait`` counts the waits for a change.
        changes: the accepted change batches, as zone id and changes.
        page_size: record sets per request.
        lost: the number of next changes that take effect without an answer.
    """

    def __init__(self) -> None:
        self.fault: Callable[[str, str], None] = lambda *_: None
        self.calls: Counter[str] = Counter()
        self.changes: list[tuple[str, list[tuple[str, Raw]]]] = []
        self.page_size = PAGE
        self.lost = 0
        self._known: set[str] = set()
        self._zones: dict[str, Zone] = {}
        self._content: dict[str, _Content] = {}
        self._order: dict[str, tuple[frozenset[str], list[tuple[list[str], str]]]] = {}

    # The world

    def add_zone(self, zone_id: str, name: str, record_sets: int = 0, managed_by: str | None = None) -> None:
        """Adds a hosted zone with NS and SOA records. It may claim a larger number of record sets."""
        self._zones[zone_id] = Zone(zone_id, canonical(name), record_sets, managed_by)
        self._content[zone_id] = {}
        self.put(zone_id, name, "NS", ["ns-1.awsdns-01.org."], ttl=172_800)
        soa = "ns-1.awsdns-01.org. awsdns-hostmaster.amazon.com. 1 7200 900 1209600 86400"
        self.put(zone_id, name, "SOA", [soa], ttl=900)

    def put(
        self, zone_id: str, name: str, record_type: str, values: Iterable[str] = (), ttl: int = 300, **more: Any
    ) -> None:
        """Creates or replaces a record set. ``more`` holds other API attributes (``SetIdentifier``, ...)."""
        raw: Raw = {"Name": listed(name), "Type": record_type, **more}
        if "AliasTarget" not in more and "TrafficPolicyInstanceId" not in more:
            raw |= {"TTL": ttl, "ResourceRecords": [{"Value": value} for value in values]}
        self._content[zone_id].setdefault(canonical(name), {})[_key(raw)] = raw

    def take(self, zone_id: str, name: str, record_type: str, set_identifier: str | None = None) -> None:
        """Removes a record set manually."""
        del self._content[zone_id][canonical(name)][record_type, set_identifier]

    def values(
        self, zone_id: str, name: str, record_type: str, set_identifier: str | None = None
    ) -> tuple[str, ...] | None:
        """The values of a record set; None if it does not exist."""
        raw = self._content[zone_id].get(canonical(name), {}).get((record_type, set_identifier))
        return tuple(r["Value"] for r in raw["ResourceRecords"]) if raw else None

    def ttl(self, zone_id: str, name: str, record_type: str) -> int | None:
        """The TTL of a record set."""
        raw = self._content[zone_id].get(canonical(name), {}).get((record_type, None))
        return int(raw["TTL"]) if raw else None

    def everything(self) -> set[tuple[str, ...]]:
        """All record sets: zone id, name, type, set identifier, TTL and values (or the alias)."""
        return {
            (zone_id, name, kind, identifier or "", str(raw.get("TTL", "")), *sorted(_values(raw)))
            for zone_id, content in self._content.items()
            for name, sets in content.items()
            for (kind, identifier), raw in sets.items()
        }

    # The Zones protocol

    def zone(self, zone_id: str) -> Zone:
        if zone_id not in self._known:
            self._request("GetHostedZone", zone_id, f"read hosted zone {zone_id} (route53:GetHostedZone)")
            self._known.add(zone_id)
        return self._zones[zone_id]

    def page(self, zone_id: str, name: str) -> Page:
        doing = f"list hosted zone {zone_id} (route53:ListResourceRecordSets)"
        self._request("ListResourceRecordSets", zone_id, doing)
        order = self._ordered(zone_id)
        raw: list[Raw] = []
        for position in range(bisect_left(order, (_by_labels(name), "")), len(order)):
            there = order[position][1]
            raw += [plain_copy(record) for _, record in sorted(self._content[zone_id][there].items(), key=_order)]
            if len(raw) >= self.page_size:
                end = order[position + 1][1] if position + 1 < len(order) else None
                return Page(zone_id, name, end, tuple(raw))
        return Page(zone_id, name, None, tuple(raw))

    def forget(self, zone_id: str, names: Iterable[str]) -> None:
        """Does nothing, because this fake has no cache."""

    def wait(self, zone_id: str) -> None:
        current().check(CALL_SECONDS)
        self.calls["wait"] += 1
        self.fault("wait", zone_id)

    def change(
        self, zone_id: str, changes: Sequence[tuple[str, Mapping[str, Any]]], guard: Callable[[], None]
    ) -> None:
        doing = f"change hosted zone {zone_id} (route53:ChangeResourceRecordSets)"
        self._request("ChangeResourceRecordSets", zone_id, doing, guard)
        _check_limits(changes)
        content = self._content[zone_id]
        names = {canonical(raw["Name"]) for _, raw in changes}
        trial: _Content = {name: dict(content.get(name, {})) for name in names}
        done: dict[tuple[str, _Key], list[str]] = {}
        errors: list[str] = []
        for action, raw in changes:
            actions = done.setdefault((canonical(raw["Name"]), _key(raw)), [])
            actions.append(action)
            if len(actions) > 1 and actions != ["DELETE", "CREATE"]:
                errors.append(
                    "The request contains an invalid set of changes for a resource record set "
                    f"'{raw['Type']} {listed(raw['Name'])}'"
                )
                continue
            error = _apply(trial, action, raw, self._zones[zone_id].name)
            if error:
                errors.append(error)
        if errors:
            raise ChangeRefusedError(f"[{', '.join(errors)}]")
        for name, sets in trial.items():
            if sets:
                content[name] = sets
            else:
                content.pop(name, None)
        self.changes.append((zone_id, [(action, plain_copy(dict(raw))) for action, raw in changes]))
        if self.lost:
            self.lost -= 1
            raise TransientError(f"could not {doing}: Connection was closed before we received a valid response")

    def _ordered(self, zone_id: str) -> list[tuple[list[str], str]]:
        """The zone's names in Route 53's order. Cached until the names change."""
        names = frozenset(self._content[zone_id])
        known, order = self._order.get(zone_id, (None, []))
        if known != names:
            order = sorted((_by_labels(n), n) for n in names)
            self._order[zone_id] = (names, order)
        return order

    def _request(self, operation: str, zone_id: str, doing: str, guard: Callable[[], None] = lambda: None) -> None:
        current().check(CALL_SECONDS)
        guard()
        self.calls[operation] += 1
        self.fault(operation, zone_id)
        if zone_id not in self._zones:
            raise ConfigurationError(
                f"could not {doing}: the hosted zone does not exist "
                f"(NoSuchHostedZone: No hosted zone found with ID: {zone_id})"
            )


class Route53Client:
    """boto3's client for the fake zones, with an account's rate limit, and botocore's retries and hooks.

    Args:
        throttles: whether Route 53 throttles the current request.
        sleep: waits for a number of seconds.
        seconds: the duration of a request.
    """

    def __init__(
        self, zones: FakeZones, throttles: Callable[[], bool], sleep: Callable[[float], None], seconds: float
    ) -> None:
        self._zones = zones
        self._throttles = throttles
        self._sleep = sleep
        self._seconds = seconds
        self._hooks: dict[str, Callable[..., None]] = {}
        self.meta = SimpleNamespace(events=self)

    def register(self, event: str, hook: Callable[..., None], unique_id: str) -> None:
        self._hooks[event] = hook

    def get_hosted_zone(self, *, Id: str) -> Any:  # noqa: N803  # boto3's names, here and below
        self._send("GetHostedZone")
        held = sum(record[0] == Id for record in self._zones.everything())
        return {"HostedZone": {"Name": self._zones.zone(Id).name, "ResourceRecordSetCount": held}}

    def list_resource_record_sets(self, *, HostedZoneId: str, StartRecordName: str, **_: Any) -> Any:  # noqa: N803
        self._send("ListResourceRecordSets")
        page = self._zones.page(HostedZoneId, StartRecordName)
        return {"ResourceRecordSets": page.raw, "IsTruncated": page.end is not None, "NextRecordName": page.end}

    def change_resource_record_sets(self, *, HostedZoneId: str, ChangeBatch: Mapping[str, Any]) -> None:  # noqa: N803
        self._send("ChangeResourceRecordSets")
        changes = [(change["Action"], change["ResourceRecordSet"]) for change in ChangeBatch["Changes"]]
        self._zones.change(HostedZoneId, changes, lambda: None)

    def _send(self, operation: str) -> None:
        throttled: Any = {"Error": {"Code": "Throttling", "Message": "Rate exceeded"}}
        for attempt in range(4):
            self._hooks["before-send"]()
            self._sleep(self._seconds)
            refused = self._throttles()
            self._hooks["response-received"](parsed_response=throttled if refused else {})
            if not refused:
                return
            self._sleep(2**attempt / 2)
        raise ClientError(throttled, operation)


def listed(name: str) -> str:
    """A name as Route 53 lists it: lower case, trailing dot, octal escapes."""
    return _UNUSUAL.sub(lambda m: f"\\{ord(m[0]):03o}", canonical(name))


def _key(raw: Mapping[str, Any]) -> _Key:
    return raw["Type"], raw.get("SetIdentifier")


def _order(item: tuple[_Key, Raw]) -> tuple[str, str]:
    return item[0][0], item[0][1] or ""


def _values(raw: Mapping[str, Any]) -> list[str]:
    return [record["Value"] for record in raw.get("ResourceRecords") or ()]


def _by_labels(name: str) -> list[str]:
    return name.split(".")[::-1]


def _check_limits(changes: Sequence[tuple[str, Mapping[str, Any]]]) -> None:
    weights = [(2 if action == "UPSERT" else 1, _values(raw)) for action, raw in changes]
    if sum(weight * len(values) for weight, values in weights) > MAX_RECORDS:
        raise ChangeRefusedError(f"Number of records limit of {MAX_RECORDS} exceeded.")
    if sum(weight * sum(map(len, values)) for weight, values in weights) > MAX_CHARACTERS:
        raise ChangeRefusedError(f"Number of characters limit of {MAX_CHARACTERS} exceeded.")


def _apply(trial: _Content, action: str, raw: Mapping[str, Any], apex: str) -> str | None:
    """Makes one change, or returns AWS's error."""
    name, kind, identifier = canonical(raw["Name"]), raw["Type"], raw.get("SetIdentifier")
    sets = trial[name]
    current = sets.get(_key(raw))
    by_identifier = f", set identifier='{identifier}'" if identifier else ""
    described = f"resource record set [name='{listed(name)}', type='{kind}'{by_identifier}]"
    if action == "DELETE":
        if current is None:
            return f"Tried to delete {described} but it was not found"
        if _comparable(current) != _comparable(raw):
            return f"Tried to delete {described} but the values provided do not match the current values"
        if name == apex and kind in ("NS", "SOA"):
            return f"A HostedZone must contain at least one {kind} record for the zone itself."
        del sets[_key(raw)]
        return None
    if name != apex and not name.endswith("." + apex):
        return f"RRSet with DNS name {listed(name)} is not permitted in zone {apex}"
    if current is not None and action == "CREATE":
        return f"Tried to create {described} but it already exists"
    if any((other == "CNAME") != (kind == "CNAME") for other, _ in sets):
        return (
            f"RRSet of type {kind} with DNS name {listed(name)} is not permitted as it conflicts with other records "
            f"with the same DNS name in zone {apex}"
        )
    sets[_key(raw)] = {**plain_copy(dict(raw)), "Name": listed(name)}
    return None


def _comparable(raw: Mapping[str, Any]) -> dict[str, Any]:
    return {**raw, "Name": canonical(raw["Name"]), "ResourceRecords": sorted(_values(raw))}
