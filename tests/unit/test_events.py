"""What the function is called with."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import Any

import pytest

from ec2_decommission.errors import MalformedEvent
from ec2_decommission.events import (
    Approved,
    Delivery,
    Foreign,
    Ignored,
    OperatorCall,
    RestoreRequest,
    Started,
    SweepRequest,
    Terminated,
    is_batch,
    parse_batch,
    sweep_of,
    termination,
)
from ec2_decommission.events import parse as parse_served
from ec2_decommission.place import Place, Served

ID = "i-0123456789abcdef0"
HOME = Place("123456789012", "us-east-1")
MEMBER = Place("222222222222", "eu-west-1")
SERVED = Served(HOME, {"222222222222": ("eu-west-1",)}, "reader")


def parse(event: Any) -> Any:
    return parse_served(event, SERVED)


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


@pytest.mark.parametrize(("state", "kind"), [("running", Started), ("terminated", Terminated)])
@pytest.mark.parametrize("source", ["aws.ec2", "ec2-decommission"])
@pytest.mark.parametrize("place", [HOME, MEMBER])
def test_a_state_change_of_a_served_place(state: str, kind: type, source: str, place: Place) -> None:
    detail = {"instance-id": ID, "state": state}
    request = parse(state_change(detail=detail, source=source, account=place.account_id, region=place.region))
    assert request == kind(ID, place, datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC))


@pytest.mark.parametrize(
    "place",
    [Place("333333333333", "us-east-1"), Place("123456789012", "eu-west-1"), Place("222222222222", "us-east-1")],
)
def test_anything_of_a_place_that_is_not_served_is_foreign(place: Place) -> None:
    account = {"account_id": place.account_id, "region": place.region}
    for state in ("running", "terminated", "stopped"):
        event = state_change(
            account=place.account_id, region=place.region, detail={"instance-id": ID, "state": state}
        )
        assert parse(event) == Foreign(place, ID)
    assert parse({"instance_id": ID, **account}) == Foreign(place, ID)
    assert parse({"restore": ID, **account}) == Foreign(place, ID)
    assert parse({"sweep": True, **account}) == Foreign(place)
    assert parse(json.loads(json.dumps(sweep_of(place, datetime(2026, 1, 1, tzinfo=UTC))))) == Foreign(place)


@pytest.mark.parametrize(
    "changed",
    [{"account": None}, {"account": "1"}, {"account": 123456789012}, {"region": None}, {"region": "../x"}],
)
def test_an_event_that_does_not_say_where_it_is_from_is_refused(changed: dict[str, Any]) -> None:
    with pytest.raises(MalformedEvent, match=next(iter(changed))):
        parse(state_change(**changed))


def test_short_instance_id() -> None:
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
    assert isinstance(request, Ignored)
    assert request.reason.startswith("another kind of event")


@pytest.mark.parametrize("state", ["pending", "stopped", "Terminated", "", None, 1, ["terminated"]])
def test_other_states_are_ignored(state: Any) -> None:
    assert isinstance(parse(state_change(detail={"instance-id": ID, "state": state})), Ignored)


@pytest.mark.parametrize(
    "instance_id",
    [None, "", "i-", "i-XYZ", "I-0123456789abcdef0", f"{ID}\n", f" {ID}", f"{ID}/..", "i-*", 1, [ID], {"a": ID}],
)
def test_malformed_instance_id_is_refused(instance_id: Any) -> None:
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
    assert parse({"instance_id": ID, "dry_run": dry_run}) == OperatorCall(ID, HOME, False, dry_run)
    assert parse({"instance_id": ID, "region": "us-east-1"}) == OperatorCall(ID, HOME, True)
    member = {"account_id": "222222222222", "region": "eu-west-1"}
    assert parse({"instance_id": ID, **member}) == OperatorCall(ID, MEMBER, True)
    assert parse({"restore": ID, "dry_run": dry_run}) == RestoreRequest(ID, HOME, dry_run)


def test_an_approved_plan_names_each_action() -> None:
    action = {"step": "route53", "action": "delete", "target": "A x. 10.0.0.5"}
    request = parse({"instance_id": ID, "only": [action, action]})
    assert request == OperatorCall(ID, HOME, only=frozenset({Approved("route53", "delete", "A x. 10.0.0.5")}))
    assert parse({"instance_id": ID, "only": []}).only == frozenset()
    assert parse({"instance_id": ID}).only is None


ACTION = {"step": "route53", "action": "delete", "target": "A x"}


@pytest.mark.parametrize(
    "only",
    [
        None,
        {},
        "all",
        True,
        [None],
        ["A x"],
        [[]],
        [ACTION, {**ACTION, "proof": "p"}],
        [{"step": "route53", "action": "delete"}],
        [{**ACTION, "target": ""}],
        [{**ACTION, "target": None}],
        [{**ACTION, "step": ["route53"]}],
    ],
)
def test_an_approved_plan_of_any_other_form_is_refused_as_a_whole(only: Any) -> None:
    """What cannot be read must never mean "everything"."""
    with pytest.raises(MalformedEvent, match="only: expected a list of"):
        parse({"instance_id": ID, "only": only})


@pytest.mark.parametrize("dry_run", ["false", 0, 1, "", [], {}])
def test_a_dry_run_that_is_no_boolean_is_refused(dry_run: Any) -> None:
    with pytest.raises(MalformedEvent, match="dry_run: expected true or false"):
        parse({"instance_id": ID, "dry_run": dry_run})


def test_a_misspelt_key_of_the_operator_is_refused() -> None:
    with pytest.raises(
        MalformedEvent, match="unknown key dryrun; allowed: account_id, dry_run, instance_id, only, region"
    ):
        parse({"instance_id": ID, "dryrun": True})


def test_the_sweeps_own_events() -> None:
    sweep = {"source": "ec2-decommission", "detail-type": "EC2 Decommission Sweep", "detail": {}}
    now = datetime(2026, 1, 1, tzinfo=UTC)
    assert parse(sweep) == SweepRequest()
    assert parse(json.loads(json.dumps(sweep_of(MEMBER, now)))) == SweepRequest(MEMBER)
    assert parse(json.loads(json.dumps(termination(ID, MEMBER, now)))) == Terminated(ID, MEMBER, now)


def test_a_sweep_takes_no_list_of_instances_from_a_message() -> None:
    """The brake and EC2's answer apply to every instance, whoever names it."""
    detail = {"progress": {"gone": [ID]}, "gone": [ID], "accept": [ID]}
    event = {"source": "ec2-decommission", "detail-type": "EC2 Decommission Sweep", "detail": detail}
    assert parse(event) == SweepRequest()
    for body in ({"sweep": True, "accept": [ID]}, {"instance_id": ID}, {"restore": ID}):
        requests, malformed = parse_batch({"Records": [record(body)]}, SERVED)
        assert requests == []
        assert "expected an EventBridge event" in malformed[0].error


def test_the_operators_sweep() -> None:
    request = parse({"sweep": True, "accept": [ID], "dry_run": True})
    assert request == SweepRequest(HOME, True, (ID,), by_operator=True)
    for payload in ({"sweep": False}, {"sweep": "true"}, {"sweep": True, "accept": ID}, {"sweep": True, "x": 1}):
        with pytest.raises(MalformedEvent):
            parse(payload)


@pytest.mark.parametrize("payload", [None, [], "x", 1, {}, {"dry_run": True}])
def test_unknown_payload_is_refused_with_the_known_forms(payload: Any) -> None:
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


def test_batch_keeps_the_delivery_of_each_message() -> None:
    (request,), malformed = parse_batch({"Records": [record(state_change())]}, SERVED)
    assert malformed == []
    assert request.delivery == Delivery("m", "r-m", 3)


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
def test_malformed_message_does_not_affect_others(broken: dict[str, Any]) -> None:
    records = [record(state_change(), "a"), broken, record(state_change(), "b")]
    requests, malformed = parse_batch({"Records": records}, SERVED)
    assert [r.delivery.message_id for r in requests if r.delivery] == ["a", "b"]
    assert [(m.delivery.message_id, m.delivery.receipt_handle) for m in malformed] == [("m", "r-m")]
    assert malformed[0].error.startswith("the message cannot be parsed")


@pytest.mark.parametrize("entry", [{"s3": {}}, None, "x", {"messageId": 5}])
def test_records_of_another_service_are_refused(entry: Any) -> None:
    with pytest.raises(MalformedEvent, match="not an SQS message"):
        parse_batch({"Records": [record(state_change()), entry]}, SERVED)


def test_batch_detection() -> None:
    assert is_batch({"Records": []})
    others: list[Any] = [{}, {"Records": {}}, [], None, "Records"]
    assert not any(is_batch(event) for event in others)
