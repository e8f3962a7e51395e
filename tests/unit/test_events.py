"""What the function is called with."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import Any

import pytest

from ec2_decommission.errors import MalformedEvent
from ec2_decommission.events import is_batch, parse, parse_batch, termination

ID = "i-0123456789abcdef0"


def state_change(**changed: Any) -> dict[str, Any]:
    return {
        "version": "0",
        "id": "7bf73129-1428-4cd3-a780-95db273d1602",
        "detail-type": "EC2 Instance State-change Notification",
        "source": "aws.ec2",
        "account": "123456789012",
        "time": "2026-01-02T03:04:05Z",
        "region": "us-east-1",
        "resources": [f"arn:aws:ec2:us-east-1:123456789012:instance/{ID}"],
        "detail": {"instance-id": ID, "state": "terminated"},
        **changed,
    }


@pytest.mark.parametrize("state", ["running", "terminated"])
def test_a_state_change(state: str) -> None:
    request = parse(state_change(detail={"instance-id": ID, "state": state}))
    assert (request.kind, request.instance_id) == (state, ID)
    assert (request.account_id, request.region) == ("123456789012", "us-east-1")
    assert request.time == datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
    assert (request.dry_run, request.by_operator) == (None, False)


def test_an_id_of_the_old_form() -> None:
    assert parse(state_change(detail={"instance-id": "i-1a2b3c4d", "state": "running"})).instance_id == "i-1a2b3c4d"


@pytest.mark.parametrize(
    "changed",
    [
        {"source": "somebody.else"},
        {"source": None},
        {"detail-type": "EC2 Spot Instance Interruption Warning"},
        {"detail-type": None},
        {"detail-type": "EC2 Decommission Sweep"},
    ],
)
def test_events_of_another_kind_are_ignored(changed: dict[str, Any]) -> None:
    request = parse(state_change(**changed))
    assert request.kind == "ignored"
    assert request.ignored
    assert request.ignored.startswith("an event of another kind")


@pytest.mark.parametrize("state", ["pending", "stopped", "Terminated", "", None, 1, ["terminated"]])
def test_other_states_are_ignored(state: Any) -> None:
    assert parse(state_change(detail={"instance-id": ID, "state": state})).kind == "ignored"


@pytest.mark.parametrize(
    "instance_id",
    [None, "", "i-", "i-XYZ", "I-0123456789abcdef0", f"{ID}\n", f" {ID}", f"{ID}/..", "i-*", 1, [ID], {"a": ID}],
)
def test_an_id_of_no_known_form_is_refused(instance_id: Any) -> None:
    for event in (
        state_change(detail={"instance-id": instance_id, "state": "terminated"}),
        {"instance_id": instance_id},
    ):
        with pytest.raises(MalformedEvent, match="instance id: expected i- and hexadecimal digits"):
            parse(event)


@pytest.mark.parametrize("detail", [None, [], "x", 1])
def test_an_event_without_its_detail_is_refused(detail: Any) -> None:
    with pytest.raises(MalformedEvent, match="no detail"):
        parse(state_change(detail=detail))


@pytest.mark.parametrize("time", [None, 5, "yesterday", "", []])
def test_a_time_that_cannot_be_read_is_not_known(time: Any) -> None:
    assert parse(state_change(time=time)).time is None


@pytest.mark.parametrize("dry_run", [True, False, None])
def test_the_operators_payload(dry_run: bool | None) -> None:
    request = parse({"instance_id": ID, "dry_run": dry_run})
    assert (request.kind, request.instance_id, request.dry_run, request.by_operator) == (
        "operator",
        ID,
        dry_run,
        True,
    )


@pytest.mark.parametrize("dry_run", ["false", 0, 1, "", [], {}])
def test_a_dry_run_that_is_no_boolean_is_refused(dry_run: Any) -> None:
    with pytest.raises(MalformedEvent, match="dry_run: expected true or false"):
        parse({"instance_id": ID, "dry_run": dry_run})


def test_a_misspelt_key_of_the_operator_is_refused() -> None:
    with pytest.raises(MalformedEvent, match="unknown key dryrun; known are dry_run, instance_id"):
        parse({"instance_id": ID, "dryrun": True})


def test_the_sweeps_own_events() -> None:
    sweep = parse({"source": "ec2-decommission", "detail-type": "EC2 Decommission Sweep"})
    assert (sweep.kind, sweep.by_operator) == ("sweep", False)
    found = parse(json.loads(json.dumps(termination(ID, None, "us-east-1", datetime(2026, 1, 1, tzinfo=UTC)))))
    assert (found.kind, found.instance_id, found.account_id, found.region) == ("terminated", ID, None, "us-east-1")


def test_the_operators_sweep() -> None:
    request = parse({"sweep": True, "accept": [ID], "dry_run": True})
    assert (request.kind, request.accept, request.dry_run, request.by_operator) == ("sweep", (ID,), True, True)
    for payload in ({"sweep": False}, {"sweep": "true"}, {"sweep": True, "accept": ID}, {"sweep": True, "x": 1}):
        with pytest.raises(MalformedEvent):
            parse(payload)


@pytest.mark.parametrize("payload", [None, [], "x", 1, {}, {"dry_run": True}])
def test_anything_else_is_refused_and_the_known_are_told(payload: Any) -> None:
    with pytest.raises(MalformedEvent, match="expected"):
        parse(payload)


# SQS


def record(body: Any, message_id: str = "m", **more: Any) -> dict[str, Any]:
    return {
        "messageId": message_id,
        "receiptHandle": f"r-{message_id}",
        "body": body if isinstance(body, str) else json.dumps(body),
        "attributes": {"ApproximateReceiveCount": "3"},
        **more,
    }


def test_a_batch_keeps_what_is_told_of_each_message() -> None:
    (request,), bad = parse_batch({"Records": [record(state_change())]})
    assert bad == []
    assert (request.message_id, request.receipt_handle, request.receive_count) == ("m", "r-m", 3)


@pytest.mark.parametrize(
    "broken",
    [
        record(""),
        record("{"),
        record("null"),
        record("[1]"),
        record({}),
        record("[" * 100_000),
        {**record({}), "body": None},
        {**record({}), "body": 5},
        record(state_change(detail={})),
        record(state_change(), attributes={"ApproximateReceiveCount": "many"}),
        record(state_change(), attributes=[1]),
    ],
)
def test_a_message_that_cannot_be_read_harms_no_other(broken: dict[str, Any]) -> None:
    requests, bad = parse_batch({"Records": [record(state_change(), "a"), broken, record(state_change(), "b")]})
    assert [r.message_id for r in requests] == ["a", "b"]
    assert [(m.message_id, m.receipt_handle) for m in bad] == [("m", "r-m")]
    assert bad[0].error.startswith("the message cannot be read")


@pytest.mark.parametrize("entry", [{"s3": {}}, None, "x", {"messageId": 5}])
def test_records_of_another_service_are_refused(entry: Any) -> None:
    with pytest.raises(MalformedEvent, match="not an SQS message"):
        parse_batch({"Records": [record(state_change()), entry]})


def test_what_a_batch_is() -> None:
    assert is_batch({"Records": []})
    others: list[Any] = [{}, {"Records": {}}, [], None, "Records"]
    assert not any(is_batch(event) for event in others)
