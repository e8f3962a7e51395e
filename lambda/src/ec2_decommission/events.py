"""Parses the function's events: SQS batches, EventBridge events and operators' payloads."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from .errors import MalformedEvent
from .instance import INSTANCE_ID
from .place import Place

if TYPE_CHECKING:
    from .place import Served

STATE_CHANGE = "EC2 Instance State-change Notification"
SWEEP = "EC2 Decommission Sweep"
SOURCE = "ec2-decommission"  # the source of the function's own events

_ACCOUNT_ID = re.compile(r"[0-9]{12}")
_REGION = re.compile(r"[a-z]{2,}(-[a-z]+)+-[0-9]+")


@dataclass(frozen=True)
class Delivery:
    """The SQS message that contained a request. ``sent_at`` is when it was sent to the queue."""

    message_id: str
    receipt_handle: str | None = None
    receive_count: int = 1
    sent_at: datetime | None = None


@dataclass(frozen=True)
class Approved:
    """One action that an operator approved, as named in a dry run's report."""

    step: str
    action: str
    target: str


@dataclass(frozen=True)
class Started:
    """EC2 reports that an instance is running: remember it. ``time`` is when EC2 saw the change."""

    instance_id: str
    place: Place
    time: datetime | None = None
    delivery: Delivery | None = None


@dataclass(frozen=True)
class Terminated:
    """An instance is terminated: decommission it. ``time`` is when EC2, or the sweep, saw it."""

    instance_id: str
    place: Place
    time: datetime | None = None
    delivery: Delivery | None = None


@dataclass(frozen=True)
class OperatorCall:
    """An operator asks to decommission an instance.

    Attributes:
        place_given: whether the payload named an account or a region. If not, the function's own place is used.
        dry_run: None means the module's setting.
        only: the actions that may be taken; None sets no limit.
    """

    instance_id: str
    place: Place
    place_given: bool = False
    dry_run: bool | None = None
    only: frozenset[Approved] | None = None
    delivery: None = None


@dataclass(frozen=True)
class SweepRequest:
    """Search for missed terminations.

    Attributes:
        place: None means every served place.
        accept: the ids that an operator has confirmed to be gone.
    """

    place: Place | None = None
    dry_run: bool | None = None
    accept: tuple[str, ...] = ()
    by_operator: bool = False
    delivery: Delivery | None = None


@dataclass(frozen=True)
class RestoreRequest:
    """An operator asks to restore what was removed for an instance."""

    instance_id: str
    place: Place
    dry_run: bool | None = None
    delivery: None = None


@dataclass(frozen=True)
class Foreign:
    """An instance or a sweep in a place that is not served. Nothing is read or removed for it."""

    place: Place
    instance_id: str = ""
    delivery: Delivery | None = None


@dataclass(frozen=True)
class Ignored:
    """An event that needs no action."""

    reason: str
    instance_id: str = ""
    delivery: Delivery | None = None


Request = Started | Terminated | OperatorCall | SweepRequest | RestoreRequest | Foreign | Ignored


@dataclass(frozen=True)
class MalformedMessage:
    """A message that cannot be parsed. It ends in the dead-letter queue."""

    delivery: Delivery
    error: str


def is_batch(event: Any) -> bool:
    """Returns whether the event is an SQS batch."""
    return isinstance(event, dict) and isinstance(event.get("Records"), list)


def parse_batch(event: dict[str, Any], served: Served) -> tuple[list[Request], list[MalformedMessage]]:
    """Parses an SQS event into requests and malformed messages. A malformed message does not affect the others.

    Raises:
        MalformedEvent: a record is not from SQS and has no message id to report.
    """
    requests: list[Request] = []
    malformed: list[MalformedMessage] = []
    for record in event["Records"]:
        if not isinstance(record, dict) or not isinstance(record.get("messageId"), str):
            raise MalformedEvent("Records holds an entry that is not an SQS message")
        delivery = Delivery(record["messageId"], _text(record.get("receiptHandle")))
        try:
            attributes = record.get("attributes") or {}
            count = int(attributes.get("ApproximateReceiveCount", 1))
            sent_at = _epoch_milliseconds(attributes.get("SentTimestamp"))
            delivery = Delivery(delivery.message_id, delivery.receipt_handle, count, sent_at)
            requests.append(_message(json.loads(record.get("body") or ""), served, delivery))
        except (ValueError, TypeError, AttributeError, MalformedEvent, RecursionError) as error:
            malformed.append(MalformedMessage(delivery, f"the message cannot be parsed: {error}"))
    return requests, malformed


def _message(body: Any, served: Served, delivery: Delivery) -> Request:
    """Accepts EventBridge events only: operators invoke the function directly."""
    if not isinstance(body, dict) or "detail-type" not in body:
        raise MalformedEvent("expected an EventBridge event")
    return _event(body, served, delivery)


def parse(event: Any, served: Served) -> Request:
    """Parses one EventBridge event or operator's payload.

    Raises:
        MalformedEvent: says what is wrong, and what is allowed.

    Example:
        >>> from ec2_decommission.place import Served
        >>> parse({"instance_id": "i-0abc", "dry_run": True}, Served(Place("111111111111", "eu-west-1"))).dry_run
        True
    """
    if not isinstance(event, dict):
        raise MalformedEvent(f"expected a JSON object, found {type(event).__name__}")
    if "detail-type" in event:
        return _event(event, served, None)
    if "instance_id" in event:
        return _operator_call(event, served)
    if "restore" in event:
        return _restore(event, served)
    if "sweep" in event:
        return _operator_sweep(event, served)
    raise MalformedEvent(
        'expected an EventBridge event, {"instance_id": "i-...", "account_id": "...", "region": "...", '
        '"dry_run": true or false, "only": [{"step": "...", "action": "...", "target": "..."}, ...]}, '
        '{"restore": "i-...", "dry_run": true or false}, '
        'or {"sweep": true, "dry_run": true or false, "accept": ["i-...", ...]}'
    )


def _event(event: dict[str, Any], served: Served, delivery: Delivery | None) -> Request:
    detail_type, source, detail = event["detail-type"], event.get("source"), event.get("detail")
    if detail_type == SWEEP and source == SOURCE:
        if not isinstance(detail, dict):
            raise MalformedEvent("the sweep event has no detail")
        # A sweep takes only its place from a message, never ids or progress.
        place = _place(detail, served.own, "account_id") if {"account_id", "region"} & set(detail) else None
        if place is not None and place not in served:
            return Foreign(place, delivery=delivery)
        return SweepRequest(place, delivery=delivery)
    if detail_type != STATE_CHANGE or source not in ("aws.ec2", SOURCE):
        return Ignored(f"another kind of event: {str(detail_type)[:80]} from {str(source)[:40]}", delivery=delivery)
    if not isinstance(detail, dict):
        raise MalformedEvent("the event has no detail")
    instance_id, state = _instance_id(detail.get("instance-id")), detail.get("state")
    place = _place(event, None, "account")
    if place not in served:
        return Foreign(place, instance_id, delivery)
    match state:
        case "running":
            return Started(instance_id, place, _time(event.get("time")), delivery)
        case "terminated":
            return Terminated(instance_id, place, _time(event.get("time")), delivery)
    return Ignored(f"no action for state {str(state)[:40]}", instance_id, delivery)


def _operator_call(payload: dict[str, Any], served: Served) -> Request:
    dry_run = _dry_run(payload, {"instance_id", "account_id", "region", "dry_run", "only"})
    instance_id, place = _instance_id(payload["instance_id"]), _place(payload, served.own, "account_id")
    only = _only(payload["only"]) if "only" in payload else None
    if place not in served:
        return Foreign(place, instance_id)
    return OperatorCall(instance_id, place, bool({"account_id", "region"} & set(payload)), dry_run, only)


def _only(value: Any) -> frozenset[Approved]:
    """Parses the approved actions. An empty list approves nothing. One malformed entry refuses the whole payload."""
    keys = {"step", "action", "target"}
    approved: set[Approved] = set()
    for entry in value if isinstance(value, list) else [value]:
        whole = isinstance(value, list) and isinstance(entry, dict) and set(entry) == keys
        if not whole or not all(_text(part) for part in entry.values()):
            raise MalformedEvent(
                'only: expected a list of {"step": "...", "action": "...", "target": "..."} as a report has them, '
                f"found {_shown(entry)}"
            )
        approved.add(Approved(**entry))
    return frozenset(approved)


def _restore(payload: dict[str, Any], served: Served) -> Request:
    dry_run = _dry_run(payload, {"restore", "account_id", "region", "dry_run"})
    instance_id, place = _instance_id(payload["restore"]), _place(payload, served.own, "account_id")
    return RestoreRequest(instance_id, place, dry_run) if place in served else Foreign(place, instance_id)


def _operator_sweep(payload: dict[str, Any], served: Served) -> Request:
    dry_run = _dry_run(payload, {"sweep", "account_id", "region", "dry_run", "accept"})
    accept, place = payload.get("accept", []), _place(payload, served.own, "account_id")
    if payload["sweep"] is not True or not isinstance(accept, list):
        raise MalformedEvent('sweep: expected {"sweep": true}, with accept a list of instance ids')
    ids = tuple(_instance_id(i) for i in accept)
    return SweepRequest(place, dry_run, ids, by_operator=True) if place in served else Foreign(place)


def _place(holder: dict[str, Any], own: Place | None, account_key: str) -> Place:
    """Parses the account and region of an event or payload. ``own`` fills in missing parts."""
    account_id = holder.get(account_key, own.account_id if own else None)
    region = holder.get("region", own.region if own else None)
    if not isinstance(account_id, str) or not _ACCOUNT_ID.fullmatch(account_id):
        raise MalformedEvent(f"{account_key}: expected 12 digits, found {_shown(account_id)}")
    if not isinstance(region, str) or not _REGION.fullmatch(region):
        raise MalformedEvent(f"region: expected a region such as eu-west-1, found {_shown(region)}")
    return Place(account_id, region)


def _dry_run(payload: dict[str, Any], known: set[str]) -> bool | None:
    unknown = sorted(set(payload) - known)
    if unknown:
        raise MalformedEvent(f"unknown key {', '.join(unknown)}; allowed: {', '.join(sorted(known))}")
    dry_run = payload.get("dry_run")
    if dry_run is not None and not isinstance(dry_run, bool):
        raise MalformedEvent(f"dry_run: expected true or false, found {_shown(dry_run)}")
    return dry_run


def termination(instance_id: str, place: Place, time: datetime) -> dict[str, Any]:
    """Returns the event that EC2 would have sent, with this function as its source."""
    return {
        "source": SOURCE,
        "detail-type": STATE_CHANGE,
        "account": place.account_id,
        "region": place.region,
        "time": time.isoformat(),
        "detail": {"instance-id": instance_id, "state": "terminated"},
    }


def sweep_of(place: Place, time: datetime) -> dict[str, Any]:
    """Returns the event that starts the sweep of one place."""
    return {
        "source": SOURCE,
        "detail-type": SWEEP,
        "time": time.isoformat(),
        "detail": {"account_id": place.account_id, "region": place.region},
    }


def _instance_id(value: Any) -> str:
    if not isinstance(value, str) or not INSTANCE_ID.fullmatch(value):
        raise MalformedEvent(f"instance id: expected i- and hexadecimal digits, found {_shown(value)}")
    return value


def _shown(value: Any) -> str:
    return json.dumps(value, default=str)[:60]


def _text(value: Any) -> str | None:
    return value if isinstance(value, str) and value else None


def _epoch_milliseconds(value: Any) -> datetime | None:
    try:
        return datetime.fromtimestamp(int(value) / 1000, UTC)
    except (TypeError, ValueError, OverflowError, OSError):
        return None


def _time(value: Any) -> datetime | None:
    try:
        time = datetime.fromisoformat(value)
    except (TypeError, ValueError):
        return None
    return time if time.tzinfo else time.replace(tzinfo=UTC)
