"""Route 53's record API as AWS implements it: exact deletes, atomic batches, limits, order, paging and messages.

moto ignores the values in a delete, applies failed batches in part, ignores SetIdentifier in listings, and does not
normalize names.
"""

from __future__ import annotations

import bisect
import copy
import ipaddress
import re
import threading
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from moto.core.responses import ActionResult
from moto.core.utils import utcnow
from moto.route53.exceptions import InvalidInput, Route53ClientError
from moto.route53.models import RecordSet, route53_backends
from moto.route53.responses import Route53

# https://docs.aws.amazon.com/Route53/latest/DeveloperGuide/DNSLimitations.html#limits-api-requests-changeresourcerecordsets
MAX_RECORDS = 1000
MAX_CHARACTERS = 32_000
PAGE = 300

_PLAIN = re.compile(r"[a-z0-9_\-.]")
_ESCAPE = re.compile(r"\\([0-7]{3})")
# Attributes that distinguish record sets with the same name and type.
_ROUTING = ("Weight", "Region", "Failover", "GeoLocation", "MultiValueAnswer")

_lock = threading.Lock()

Key = tuple[str, str, str]
Zone = dict[Key, dict[str, Any]]


def normalized_name(name: str) -> str:
    """The name as Route 53 lists it: lower case, trailing dot, special characters as octal escapes (`*`: `\\052`)."""
    plain = _ESCAPE.sub(lambda match: chr(int(match[1], 8)), name).lower().rstrip(".") + "."
    return "".join(
        char if _PLAIN.match(char) else "".join(f"\\{byte:03o}" for byte in char.encode()) for char in plain
    )


def sort_key(key: Key) -> Key:
    """Route 53's order: by name with reversed labels and a trailing dot, then by type, then by identifier."""
    name, kind, identifier = key
    plain = _ESCAPE.sub(lambda match: chr(int(match[1], 8)), name)
    return ".".join(reversed(plain.rstrip(".").split("."))) + ".", kind, identifier


def change_resource_record_sets(self: Route53) -> ActionResult:
    """Replaces moto's operation."""
    zone = self.backend.get_hosted_zone(self._get_param("HostedZoneId"))
    changes = [
        (change["Action"], _canonical(change["ResourceRecordSet"]))
        for change in self._get_param("ChangeBatch.Changes") or []
    ]
    _check_limits(changes)
    with _lock:
        before = _contents(zone)
        record_sets = dict(before.record_sets)
        errors = _apply(record_sets, changes, normalized_name(zone.name))
        if errors:
            raise _InvalidChangeBatch(errors)
        zone.rrsets = [
            before.of_moto[key] if before.record_sets.get(key) is item else _to_moto(item)
            for key, item in record_sets.items()
        ]
    info = {"Id": "/change/C2682N5HXP0BZ4", "Status": "INSYNC", "SubmittedAt": utcnow()}
    return ActionResult({"ChangeInfo": info})


def list_resource_record_sets(self: Route53) -> ActionResult:
    """Replaces moto's operation."""
    zone = self.backend.get_hosted_zone(self._get_param("HostedZoneId"))
    name = self._get_param("StartRecordName")
    kind = self._get_param("StartRecordType")
    identifier = self._get_param("StartRecordIdentifier")
    if (kind and not name) or (identifier and not kind):
        raise InvalidInput("The input is not valid")
    page = min(self._get_int_param("MaxItems", PAGE), PAGE)
    start = sort_key((normalized_name(name), kind or "", identifier or "")) if name else ("", "", "")
    with _lock:
        contents = _contents(zone)
    first = bisect.bisect_left(contents.order, start, key=lambda entry: entry[0])
    rest = [key for _, key in contents.order[first : first + page + 1]]
    following: Key | tuple[None, None, None] = rest[page] if len(rest) > page else (None, None, None)
    return ActionResult(
        {
            "ResourceRecordSets": [contents.record_sets[key] for key in rest[:page]],
            "IsTruncated": len(rest) > page,
            "NextRecordName": following[0],
            "NextRecordType": following[1],
            "NextRecordIdentifier": following[2] or None,
            "MaxItems": page,
        }
    )


def _zone(zone_id: str) -> Any:
    """The hosted zone with that id, in any account."""
    backends = [route53_backends[account]["aws"] for account in list(route53_backends)]
    return next(backend.zones[zone_id] for backend in backends if zone_id in backend.zones)


def fill(zone_id: str, record_sets: Iterable[dict[str, Any]]) -> None:
    """Adds new record sets to the zone without checks: the API is slow for thousands."""
    zone = _zone(zone_id)
    with _lock:
        zone.rrsets = [*zone.rrsets, *(_to_moto(_canonical(record_set)) for record_set in record_sets)]


def record_sets(zone_id: str) -> list[dict[str, Any]]:
    """The zone's record sets, as the API lists them."""
    zone = _zone(zone_id)
    with _lock:
        contents = _contents(zone)
    return [contents.record_sets[key] for _, key in contents.order]


@dataclass(frozen=True)
class _Contents:
    """A zone's record sets, by key and in Route 53's order. Cached until the zone changes."""

    of: list[Any]
    length: int
    record_sets: Zone
    of_moto: dict[Key, Any]
    order: list[tuple[Key, Key]]


def _contents(zone: Any) -> _Contents:
    kept: _Contents | None = getattr(zone, "strict_contents", None)
    if kept is not None and kept.of is zone.rrsets and kept.length == len(zone.rrsets):
        return kept
    known = {id(item): key for key, item in kept.of_moto.items()} if kept else {}
    record_sets: Zone = {}
    of_moto: dict[Key, Any] = {}
    for item in zone.rrsets:
        key = known.get(id(item))
        if kept is not None and key is not None:
            record_sets[key] = kept.record_sets[key]
        else:
            record_set = _of_moto(item)
            key = _key(record_set)
            record_sets[key] = record_set
        of_moto[key] = item
    # Computing a sort key costs more than a comparison, so existing keys are kept.
    places = {key: place for place, key in kept.order} if kept else {}
    order = sorted((places.get(key) or sort_key(key), key) for key in record_sets)
    contents = _Contents(zone.rrsets, len(zone.rrsets), record_sets, of_moto, order)
    zone.strict_contents = contents
    return contents


class _InvalidChangeBatch(Route53ClientError):
    def __init__(self, messages: Iterable[str]) -> None:
        super().__init__("InvalidChangeBatch", f"[{', '.join(messages)}]")


# ---------------------------------------------------------------- record sets


def _key(record_set: dict[str, Any]) -> Key:
    return record_set["Name"], record_set["Type"], record_set.get("SetIdentifier") or ""


def _canonical(record_set: dict[str, Any]) -> dict[str, Any]:
    result = {name: value for name, value in record_set.items() if value is not None and value != []}
    result["Name"] = normalized_name(record_set["Name"])
    if "TTL" in result:
        result["TTL"] = int(result["TTL"])
    if alias := result.get("AliasTarget"):
        result["AliasTarget"] = {**alias, "DNSName": normalized_name(alias["DNSName"])}
    return result


def _of_moto(record_set: RecordSet) -> dict[str, Any]:
    return _canonical(
        {
            "Name": record_set.name,
            "Type": record_set.type,
            "TTL": record_set.ttl,
            # moto stores a new zone's SOA record in the API's form, and all others as plain values.
            "ResourceRecords": [
                value if isinstance(value, dict) else {"Value": value} for value in record_set.records or []
            ],
            "SetIdentifier": record_set.set_identifier,
            "Weight": record_set.weight,
            "Region": record_set.region,
            "HealthCheckId": record_set.health_check_id,
            "AliasTarget": record_set.alias_target,
            "Failover": record_set.failover,
            "GeoLocation": record_set.geo_location,
            "MultiValueAnswer": record_set.multi_value_answer,
        }
    )


def _to_moto(record_set: dict[str, Any]) -> RecordSet:
    # moto's class has abstract methods that only CloudFormation calls.
    return RecordSet({**record_set, "ResourceRecords": _values(record_set)})  # type: ignore[abstract]


def _values(record_set: dict[str, Any]) -> list[str]:
    return [str(record["Value"]) for record in record_set.get("ResourceRecords", [])]


def _comparable(record_set: dict[str, Any]) -> dict[str, Any]:
    """A form for comparing record sets. The order of values does not matter."""
    return {**record_set, "ResourceRecords": sorted(_values(record_set))}


# ---------------------------------------------------------------- changes


def _check_limits(changes: list[tuple[str, dict[str, Any]]]) -> None:
    # An UPSERT counts twice, in both limits.
    weights = [(2 if action == "UPSERT" else 1, _values(record_set)) for action, record_set in changes]
    if sum(weight * len(values) for weight, values in weights) > MAX_RECORDS:
        raise Route53ClientError("InvalidChangeBatch", f"Number of records limit of {MAX_RECORDS} exceeded.")
    if sum(weight * sum(map(len, values)) for weight, values in weights) > MAX_CHARACTERS:
        raise Route53ClientError("InvalidChangeBatch", f"Number of characters limit of {MAX_CHARACTERS} exceeded.")


def _apply(record_sets: Zone, changes: list[tuple[str, dict[str, Any]]], apex: str) -> list[str]:
    """Changes `record_sets` and returns AWS's errors. The caller discards the result if there are any."""
    errors: list[str] = []
    done: dict[Key, list[str]] = {}
    for action, record_set in changes:
        key = _key(record_set)
        done.setdefault(key, []).append(action)
        if len(done[key]) > 1 and done[key] != ["DELETE", "CREATE"]:
            errors.append(
                "The request contains an invalid set of changes for a resource record set "
                f"'{record_set['Type']} {record_set['Name']}'"
            )
            continue
        _check_shape(action, record_set)
        if action == "DELETE":
            error = _delete(record_sets, record_set, apex)
        else:
            error = _put(record_sets, record_set, apex, may_exist=action == "UPSERT")
        if error:
            errors.append(error)
    return errors


def _check_shape(action: str, record_set: dict[str, Any]) -> None:
    if "AliasTarget" in record_set:
        return
    if "TTL" not in record_set or "ResourceRecords" not in record_set:
        raise InvalidInput(
            "Invalid request: Expected exactly one of [AliasTarget, all of [TTL, and ResourceRecords], or "
            f"TrafficPolicyInstanceId], but found none in Change with [Action={action}, "
            f"Name={record_set['Name']}, Type={record_set['Type']}, "
            f"SetIdentifier={record_set.get('SetIdentifier', 'null')}]"
        )


def _described(record_set: dict[str, Any]) -> str:
    identifier = f", set identifier='{record_set['SetIdentifier']}'" if "SetIdentifier" in record_set else ""
    return f"resource record set [name='{record_set['Name']}', type='{record_set['Type']}'{identifier}]"


def _delete(record_sets: Zone, record_set: dict[str, Any], apex: str) -> str | None:
    current = record_sets.get(_key(record_set))
    if current is None:
        return f"Tried to delete {_described(record_set)} but it was not found"
    if _comparable(current) != _comparable(record_set):
        return f"Tried to delete {_described(record_set)} but the values provided do not match the current values"
    if record_set["Name"] == apex and record_set["Type"] in ("NS", "SOA"):
        return f"A HostedZone must contain at least one {record_set['Type']} record for the zone itself."
    del record_sets[_key(record_set)]
    return None


def _put(record_sets: Zone, record_set: dict[str, Any], apex: str, *, may_exist: bool) -> str | None:
    name, kind, identifier = key = _key(record_set)
    if name != apex and not name.endswith(f".{apex}"):
        return f"RRSet with DNS name {name} is not permitted in zone {apex}"
    if error := _value_error(record_set):
        return error
    if key in record_sets and not may_exist:
        return f"Tried to create {_described(record_set)} but it already exists"
    same_name = [other for other in record_sets if other[0] == name]
    if any((other[1] == "CNAME") != (kind == "CNAME") for other in same_name):
        return (
            f"RRSet of type {kind} with DNS name {name} is not permitted as it conflicts with other records "
            f"with the same DNS name in zone {apex}"
        )
    if kind == "CNAME" and name == apex:
        return f"RRSet of type CNAME with DNS name {name} is not permitted at apex in zone {apex}"
    if bool(identifier) != any(routing in record_set for routing in _ROUTING):
        raise InvalidInput(f"Invalid request: SetIdentifier and a routing policy belong together in {name}")
    if any(other[1] == kind and bool(other[2]) != bool(identifier) for other in same_name):
        return (
            f"RRSet with DNS name {name}, type {kind} cannot be created as other RRSets exist with the same "
            "name and type."
        )
    record_sets[key] = copy.deepcopy(record_set)
    return None


def _value_error(record_set: dict[str, Any]) -> str | None:
    values = _values(record_set)
    for value in values:
        if values.count(value) > 1:
            return f"Duplicate Resource Record: '{value}'"
    version = {"A": ipaddress.IPv4Address, "AAAA": ipaddress.IPv6Address}.get(record_set["Type"])
    for value in values if version else []:
        try:
            version(value)  # type: ignore[misc]  # not None inside the loop
        except ValueError:
            ip = "IPv4" if record_set["Type"] == "A" else "IPv6"
            return (
                f"Invalid Resource Record: 'FATAL problem: {record_set['Type']}RRDATAIllegal{ip}Address "
                f"(Value is not a valid {ip} address) encountered with '{value}''"
            )
    return None
