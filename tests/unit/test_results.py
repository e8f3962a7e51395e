"""Result events: which are sent, how often, and what is in them."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

from ec2_decommission.config import InstanceFilter, SweepSettings
from ec2_decommission.errors import AccessError, TransientError
from ec2_decommission.place import Place
from ec2_decommission.report import Report, StepReport
from ec2_decommission.results import ResultEvents, event_id
from testbed.aws import Answer, AwsError, StrictAws
from tests.fakes.world import HOME, World

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

DONE, FAILED, BRAKED = "EC2 Instance Decommissioned", "EC2 Instance Decommission Failed", "Sweep Braked"
LIMIT = 256 * 1024  # https://docs.aws.amazon.com/eventbridge/latest/APIReference/API_PutEvents.html


@pytest.fixture(scope="module")
def strict() -> Iterator[StrictAws]:
    with StrictAws() as started:
        yield started


@pytest.fixture
def aws(strict: StrictAws) -> StrictAws:
    strict.reset()
    return strict


def announcing(aws: StrictAws, **more: Any) -> World:
    client = aws.client("events")
    return World(results=ResultEvents(lambda: client, "default"), **more)


def sent(aws: StrictAws) -> list[tuple[str, dict[str, Any]]]:
    """The events since the last look, as detail type and detail."""
    entries = [entry for call in aws.history if call.name == "events:PutEvents" for entry in call.params["Entries"]]
    aws.reset_calls()
    assert {(entry["Source"], entry["EventBusName"]) for entry in entries} <= {("ec2-decommission", "default")}
    return [(entry["DetailType"], json.loads(entry["Detail"])) for entry in entries]


def kinds(aws: StrictAws) -> list[str]:
    return [kind for kind, _ in sent(aws)]


def ended(world: World, name: str = "web-1", ip: str | None = None) -> str:
    """An instance that was recorded, and is terminated now."""
    instance_id = world.launch(name, ip)
    world.send_batch(world.running(instance_id))
    world.ec2.terminate(instance_id)
    return instance_id


def down(*_: str) -> None:
    raise TransientError("no connection")


# Which are sent


def test_an_end_is_announced_once_with_the_report_as_detail(aws: StrictAws) -> None:
    world = announcing(aws)
    instance_id = ended(world)
    report = world.send(world.terminated(instance_id))
    [(kind, detail)] = sent(aws)
    assert (kind, {**detail, "id": None, "summary": None}) == (DONE, {**report, "id": None, "summary": None})
    assert detail["summary"].startswith(f"{instance_id} (web-1) in 123456789012/us-east-1: route53 done (A web-1.")
    world.send(world.terminated(instance_id))
    world.operate(instance_id)
    assert sent(aws) == []


def test_an_end_that_was_clean_from_the_start_is_an_event_too(aws: StrictAws) -> None:
    world = announcing(aws)
    world.send(world.terminated("i-0123456789abcdef0"))
    [(kind, detail)] = sent(aws)
    assert (kind, detail["steps"][0]["actions"]) == (DONE, [])


def test_a_failure_is_announced_once_while_its_reason_stays_the_same_and_then_the_end(aws: StrictAws) -> None:
    world = announcing(aws)
    instance_id = ended(world)
    world.zones.fault = down
    ids = []
    for receive_count in (1, 2, 3):
        world.send_batch(world.terminated(instance_id), receive_count=receive_count)
        ids += [detail["id"] for kind, detail in sent(aws) if kind == FAILED]
    assert len(ids) == 1

    def denied(*_: str) -> None:
        raise AccessError("the role lacks route53:ListResourceRecordSets")

    world.zones.fault = denied
    world.send_batch(world.terminated(instance_id), receive_count=4)
    [(kind, detail)] = sent(aws)
    assert (kind, detail["id"] in ids) == (FAILED, False)
    world.zones.fault = lambda *_: None
    world.send_batch(world.terminated(instance_id), receive_count=5)
    assert kinds(aws) == [DONE]


def test_what_fails_before_the_steps_is_announced_once_too(aws: StrictAws) -> None:
    world = announcing(aws)
    recorded = ended(world)
    for instance_id in (recorded, "i-0123456789abcdef0"):
        world.ec2.fault = down
        for receive_count in (1, 2):
            answer = world.send_batch(world.terminated(instance_id), receive_count=receive_count)
            assert len(answer.failed) == 1
        assert kinds(aws) == [FAILED], instance_id
        world.ec2.fault = lambda *_: None
        world.send_batch(world.terminated(instance_id), receive_count=3)
        assert kinds(aws) == [DONE], instance_id


def test_while_the_inventory_cannot_be_read_the_first_receive_speaks_for_the_retries(aws: StrictAws) -> None:
    world = announcing(aws)
    instance_id = ended(world)
    world.inventory.fault = down
    for receive_count in (1, 2, 3):
        world.send_batch(world.terminated(instance_id), receive_count=receive_count)
    assert kinds(aws) == [FAILED]


def test_no_event_without_a_decommission(aws: StrictAws) -> None:
    dry = announcing(aws, dry_run=True)
    dry.send(dry.terminated(ended(dry)))
    world = announcing(aws, instance_filter=InstanceFilter(exclude_tags={"keep": ("*",)}))
    world.operate(ended(world), dry_run=True)
    living = world.launch("web-2")
    world.operate(living)
    excluded = world.launch("web-3", tags={"keep": "yes"})
    world.send(world.running(excluded))
    world.ec2.terminate(excluded)
    world.send(world.terminated(excluded))
    assert sent(aws) == []


def test_a_braked_sweep_is_announced_with_the_same_id_each_time(aws: StrictAws) -> None:
    world = announcing(aws, sweep=SweepSettings(max_instances=1, max_fraction=1))
    world.launch("lives", "10.0.0.9")
    for number in range(2):
        ended(world, f"web-{number}", f"10.0.1.{number + 4}")
    ids = []
    for _ in range(2):
        world.sweep()
        [(kind, detail)] = sent(aws)
        assert (kind, len(detail["sweep"]["gone"])) == (BRAKED, 2)
        ids.append(detail["id"])
    assert len(set(ids)) == 1


# A bus that refuses


def denied(service: str, *_: Any) -> AwsError | None:
    return AwsError("AccessDeniedException", "no", 400) if service == "events" else None


def test_a_refused_event_fails_its_message_and_is_sent_by_the_next_try(aws: StrictAws) -> None:
    world = announcing(aws)
    instance_id = ended(world)
    with aws.fault(denied, everyone=True):
        answer = world.send_batch(world.terminated(instance_id))
    assert len(answer.failed) == 1
    (report,) = answer.reports.values()
    assert "events:PutEvents" in report["errors"][0]
    assert world.a("web-1") is None
    aws.reset_calls()
    assert world.send_batch(world.terminated(instance_id), receive_count=2).failed == ()
    assert kinds(aws) == [DONE]


def test_ten_go_at_once_and_a_refused_entry_fails_its_own_instance_only(aws: StrictAws) -> None:
    world = announcing(aws)
    ids = [ended(world, f"web-{number}", f"10.0.1.{number}") for number in range(12)]

    def third_refused(service: str, _: str, params: Mapping[str, Any]) -> Answer | None:
        entries: list[dict[str, str]] = [{"EventId": str(n)} for n, _ in enumerate(params.get("Entries", ()))]
        if service != "events" or len(entries) < 3:
            return None
        entries[2] = {"ErrorCode": "InternalFailure", "ErrorMessage": "try again"}
        body = json.dumps({"FailedEntryCount": 1, "Entries": entries}).encode()
        headers = {"x-amzn-RequestId": "r", "Content-Type": "application/x-amz-json-1.1"}
        return Answer(200, body, headers)

    with aws.fault(third_refused, everyone=True):
        answer = world.send_batch(*(world.terminated(i) for i in ids), message_ids=ids)
    assert answer.failed == (ids[2],)
    assert "InternalFailure: try again" in answer.reports[ids[2]]["errors"][0]
    assert len(sent(aws)) == 12


def test_an_event_reaches_the_target_of_a_rule(aws: StrictAws) -> None:
    events, sqs = aws.client("events"), aws.client("sqs")
    queue = sqs.create_queue(QueueName="results")["QueueUrl"]
    arn = f"arn:aws:sqs:{aws.region}:{aws.account}:results"
    allow = {"Effect": "Allow", "Principal": {"Service": "events.amazonaws.com"}, "Action": "sqs:*", "Resource": arn}
    policy = json.dumps({"Version": "2012-10-17", "Statement": [allow]})
    sqs.set_queue_attributes(QueueUrl=queue, Attributes={"Policy": policy})
    events.put_rule(Name="done", EventPattern=json.dumps({"source": ["ec2-decommission"], "detail-type": [DONE]}))
    events.put_targets(Rule="done", Targets=[{"Id": "q", "Arn": arn}])
    world = announcing(aws)
    instance_id = ended(world)
    world.send(world.terminated(instance_id))
    (message,) = sqs.receive_message(QueueUrl=queue)["Messages"]
    event = json.loads(message["Body"])
    assert (event["detail-type"], event["detail"]["instance_id"]) == (DONE, instance_id)


def test_summary_is_safe_inside_a_json_string(aws: StrictAws) -> None:
    """EventBridge's input transformer puts it there as it is."""
    reason = 'said "no" in C:\\\\dir\nand\x1b[2J then ' + "x" * 2000
    report = Report("i-1", PLACE, "terminated", False, steps=(StepReport.failed("chef", TransientError(reason)),))
    client = aws.client("events")
    ResultEvents(lambda: client, "default").announce({"i-1": report})
    [(_, detail)] = sent(aws)
    summary = detail["summary"]
    assert json.loads(f'"{summary}"') == summary
    assert summary.startswith("i-1 in 111111111111/eu-west-1: chef failed: said 'no' in C:")
    assert len(summary) == 600


# The id


PLACE = Place("111111111111", "eu-west-1")


def failed_with(*reasons: str, instance_id: str = "i-1", place: Place = PLACE, step: str = "chef") -> Report:
    steps = tuple(StepReport.failed(step, TransientError(reason)) for reason in reasons)
    return Report(instance_id, place, "terminated", False, "a request", steps)


def test_the_id_of_an_end_depends_on_the_instance_only() -> None:
    clean = StepReport("chef", "clean")
    done = StepReport("chef", "done", ({"action": "delete", "target": "node x", "proof": "p"},))
    reports = [Report("i-1", PLACE, "terminated", False, request, (step,)) for request, step in
               (("r-1", clean), ("r-2", done))]  # fmt: skip
    assert len({event_id(report) for report in reports}) == 1
    others = [Report("i-2", PLACE, "terminated", False), Report("i-1", HOME, "terminated", False)]
    assert len({event_id(report) for report in (*others, reports[0])}) == 3
    assert event_id(failed_with("no")) != event_id(reports[0])


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("12 s are left of this invocation", "3 s are left of this invocation"),
        ("no answer within 10.5 seconds", "no answer within 7 seconds"),
        ("what EC2 said is 5.2 s old", "what EC2 said is 6.0 s old"),
        ("Request ID: 0f3e0f3e-1a2b-3c4d-5e6f-0a1b2c3d4e5f", "Request ID: ffffffff-1a2b-3c4d-5e6f-0a1b2c3d4e5f"),
        (
            "Encoded authorization failure message: " + "aB3_-" * 60,
            "Encoded authorization failure message: " + "z" * 300,
        ),
        ("since 2026-03-01T12:00:00Z", "since 2026-03-02T09:30:00.123456+00:00"),
        ("a; b", "b; a"),
    ],
)
def test_volatile_details_do_not_make_a_new_failure(one: str, other: str) -> None:
    assert event_id(failed_with(one)) == event_id(failed_with(other))


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (failed_with("answered with 503"), failed_with("answered with 500")),
        (failed_with("zone Z1"), failed_with("zone Z2")),
        (failed_with("no"), failed_with("no", step="consul")),
        (failed_with("no"), failed_with("no", instance_id="i-2")),
        (failed_with("no"), failed_with("no", place=HOME)),
        (failed_with("a"), failed_with("a", "b")),
    ],
)
def test_another_reason_makes_a_new_failure(one: Report, other: Report) -> None:
    assert event_id(one) != event_id(other)


def test_a_large_report_is_shortened_until_ten_fit_into_one_call(aws: StrictAws) -> None:
    action = {"action": "delete", "target": "A " + "x" * 900, "proof": "p" * 900}
    steps = tuple(StepReport(f"step-{n}", "failed", (action,) * 200, "r" * 5000) for n in range(12))
    report = Report("i-0123456789abcdef0", PLACE, "terminated", False, "r" * 36, steps)
    client = aws.client("events")
    assert ResultEvents(lambda: client, "default").announce({"i-0123456789abcdef0": report}) == {}
    [(_, detail)] = sent(aws)
    assert len(json.dumps(detail)) * 10 < LIMIT
    assert detail["shortened"] is True
    assert (detail["instance_id"], detail["id"]) == ("i-0123456789abcdef0", event_id(report))
    assert [step["status"] for step in detail["steps"]][:2] == ["failed", "failed"]
