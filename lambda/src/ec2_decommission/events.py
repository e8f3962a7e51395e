"""What the function is called with, parsed: SQS batches, EventBridge events, and the operator's own payload."""

from __future__ import annotations

import json
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from .errors import MalformedEvent
from .identity import INSTANCE_ID
from .progress import Progress

if TYPE_CHECKING:
    from collections.abc import Mapping

STATE_CHANGE = "EC2 Instance State-change Notification"
SWEEP = "EC2 Decommission Sweep"
SWEEP_SOURCE = "ec2-decommission"


@dataclass(frozen=True)
class Request:
    """One thing to do.

    Attributes:
        kind: ``running``, ``terminated``, ``operator``, ``sweep``, or ``ignored``.
        accept: the ids that an operator confirms to be gone, for a sweep.
        progress: how far a sweep has come that goes on.
        instance_id: of whom; empty for a sweep and for what is ignored.
        message_id: of the SQS message that brought it.
        dry_run: what the operator asked for; None means the module's setting.
        time: when EC2 saw the change.
        ignored: why it is ignored.
    """

    kind: str
    instance_id: str = ""
    message_id: str | None = None
    receipt_handle: str | None = None
    receive_count: int = 1
    account_id: str | None = None
    region: str | None = None
    dry_run: bool | None = None
    time: datetime | None = None
    ignored: str | None = None
    accept: tuple[str, ...] = ()
    progress: Progress | None = None
    by_operator: bool = False


@dataclass(frozen=True)
class BadMessage:
    """A message that cannot be read; it goes to the dead letters."""

    message_id: str
    receipt_handle: str | None
    error: str


def is_batch(event: Any) -> bool:
    """Whether it is an SQS event."""
    return isinstance(event, dict) and isinstance(event.get("Records"), list)


def parse_batch(event: dict[str, Any]) -> tuple[list[Request], list[BadMessage]]:
    """The requests of an SQS event, and the messages that cannot be read: one of these harms no other.

    Raises:
        MalformedEvent: a record that is not from SQS; nothing could be reported about it.
    """
    requests: list[Request] = []
    bad: list[BadMessage] = []
    for record in event["Records"]:
        if not isinstance(record, dict) or not isinstance(record.get("messageId"), str):
            raise MalformedEvent("Records holds an entry that is not an SQS message")
        message_id = record["messageId"]
        handle = _text(record.get("receiptHandle"))
        try:
            body = json.loads(record.get("body") or "")
            attributes = record.get("attributes") or {}
            count = int(attributes.get("ApproximateReceiveCount", 1))
            requests.append(parse(body, message_id=message_id, receipt_handle=handle, receive_count=count))
        except (ValueError, TypeError, AttributeError, MalformedEvent, RecursionError) as error:
            bad.append(BadMessage(message_id, handle, f"the message cannot be read: {error}"))
    return requests, bad


def parse(event: Any, **delivery: Any) -> Request:
    """The request of one EventBridge event or operator's payload.

    Args:
        event: the decoded JSON.
        **delivery: the fields of ``Request`` that tell of the SQS message.

    Raises:
        MalformedEvent: says what is wrong, and what is allowed.
    """
    if not isinstance(event, dict):
        raise MalformedEvent(f"expected a JSON object, found {type(event).__name__}")
    if "detail-type" in event:
        return _event(event, delivery)
    if "instance_id" in event:
        return _operator(event, delivery)
    if "sweep" in event:
        return _operators_sweep(event, delivery)
    raise MalformedEvent(
        'expected an EventBridge event, {"instance_id": "i-...", "dry_run": true or false}, '
        'or {"sweep": true, "dry_run": true or false, "accept": ["i-...", ...]}'
    )


def _event(event: dict[str, Any], delivery: dict[str, Any]) -> Request:
    detail_type, detail = event["detail-type"], event.get("detail")
    if detail_type == SWEEP and event.get("source") == SWEEP_SOURCE:
        if not isinstance(detail, dict) or "progress" not in detail:
            return Request("sweep", **delivery)
        progress = Progress.of(detail["progress"])
        # Where the module has become dry since, its word counts.
        return Request("sweep", progress=progress, dry_run=True if progress.dry_run else None, **delivery)
    if detail_type != STATE_CHANGE or event.get("source") not in ("aws.ec2", SWEEP_SOURCE):
        return Request("ignored", ignored=f"an event of another kind: {str(detail_type)[:80]}", **delivery)
    if not isinstance(detail, dict):
        raise MalformedEvent("the event has no detail")
    instance_id, state = _instance_id(detail.get("instance-id")), detail.get("state")
    if state not in ("running", "terminated"):
        return Request("ignored", instance_id, ignored=f"nothing is done at state {str(state)[:40]}", **delivery)
    return Request(
        str(state),
        instance_id,
        account_id=_text(event.get("account")),
        region=_text(event.get("region")),
        time=_time(event.get("time")),
        **delivery,
    )


def _operator(payload: dict[str, Any], delivery: dict[str, Any]) -> Request:
    dry_run = _dry_run(payload, {"instance_id", "dry_run"})
    return Request("operator", _instance_id(payload["instance_id"]), dry_run=dry_run, by_operator=True, **delivery)


def _operators_sweep(payload: dict[str, Any], delivery: dict[str, Any]) -> Request:
    dry_run = _dry_run(payload, {"sweep", "dry_run", "accept"})
    accept = payload.get("accept", [])
    if payload["sweep"] is not True or not isinstance(accept, list):
        raise MalformedEvent('sweep: expected {"sweep": true}, with accept a list of instance ids')
    return Request(
        "sweep", dry_run=dry_run, accept=tuple(_instance_id(i) for i in accept), by_operator=True, **delivery
    )


def _dry_run(payload: dict[str, Any], known: set[str]) -> bool | None:
    unknown = sorted(set(payload) - known)
    if unknown:
        raise MalformedEvent(f"unknown key {', '.join(unknown)}; known are {', '.join(sorted(known))}")
    dry_run = payload.get("dry_run")
    if dry_run is not None and not isinstance(dry_run, bool):
        raise MalformedEvent(f"dry_run: expected true or false, found {json.dumps(dry_run, default=str)[:40]}")
    return dry_run


def termination(instance_id: str, account_id: str | None, region: str | None, time: datetime) -> dict[str, Any]:
    """The event that EC2 would have sent, in the sweep's own name."""
    return {
        "source": SWEEP_SOURCE,
        "detail-type": STATE_CHANGE,
        "account": account_id,
        "region": region,
        "time": time.isoformat(),
        "detail": {"instance-id": instance_id, "state": "terminated"},
    }


def sweep_on(progress: Mapping[str, Any], time: datetime) -> dict[str, Any]:
    """The event of a sweep that goes on."""
    return {
        "source": SWEEP_SOURCE,
        "detail-type": SWEEP,
        "time": time.isoformat(),
        "detail": {"progress": dict(progress)},
    }


def _instance_id(value: Any) -> str:
    if not isinstance(value, str) or not INSTANCE_ID.fullmatch(value):
        found = json.dumps(value, default=str)[:60]
        raise MalformedEvent(f"instance id: expected i- and hexadecimal digits, found {found}")
    return value


def _text(value: Any) -> str | None:
    return value if isinstance(value, str) and value else None


def _time(value: Any) -> datetime | None:
    try:
        time = datetime.fromisoformat(value)
    except (TypeError, ValueError):
        return None
    return time if time.tzinfo else time.replace(tzinfo=UTC)
