"""The audit: written whole, before the removal, and without it nothing goes."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

from ec2_decommission.audit import Kept
from ec2_decommission.clients.aws import AwsClients
from ec2_decommission.errors import TransientError
from testbed.aws import AwsError, Credentials, Hang, StrictAws, unavailable
from tests.fakes.audited import BUCKET, PREFIX, AuditedWorld
from tests.fakes.steps import FakeStep, factory
from tests.fakes.world import FORWARD, REVERSE, step_of

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping


@pytest.fixture(scope="module")
def strict() -> Iterator[StrictAws]:
    with StrictAws() as started:
        yield started


@pytest.fixture
def aws(strict: StrictAws) -> StrictAws:
    strict.reset()
    return strict


def test_every_removal_is_audited_in_full_before_it_is_made(aws: StrictAws) -> None:
    world = AuditedWorld(aws)
    instance_id = world.ended()
    before: list[int] = []
    world.zones.fault = lambda op, _: before.append(len(world.kept())) if op == "ChangeResourceRecordSets" else None
    report = world.send(world.terminated(instance_id))
    assert before == [2, 2]
    actions = {action["target"]: action for action in step_of(report, "route53")["actions"]}
    for key, document in world.kept().items():
        target = actions[document["target"]]
        assert document == {
            "version": 1,
            "instance_id": instance_id,
            "account_id": "123456789012",
            "region": "us-east-1",
            "step": "route53",
            "kind": "record_set",
            **target,
            "object": document["object"],
            "request_id": "request-1",
            "at": world.time.isoformat(),
        }
        assert key.startswith(f"{PREFIX}instances/{instance_id}/2026-03-01-route53-record_set-")
    found = {document["target"].split()[0]: document["object"] for document in world.kept().values()}
    assert found["A"] == {
        "zone_id": FORWARD,
        "record_set": {
            "Name": "web-1.example.internal.",
            "Type": "A",
            "TTL": 300,
            "ResourceRecords": [{"Value": "10.0.0.4"}],
        },
    }
    assert found["PTR"]["zone_id"] == REVERSE


def test_a_retry_writes_no_second_object(aws: StrictAws) -> None:
    world = AuditedWorld(aws)
    instance_id = world.ended()

    def refused(operation: str, _: str) -> None:
        if operation == "ChangeResourceRecordSets":
            raise TransientError("no connection")

    world.zones.fault = refused
    assert world.send_batch(world.terminated(instance_id)).failed
    first = world.kept()
    world.zones.fault = lambda *_: None
    world.request_id = "request-2"
    assert not world.send_batch(world.terminated(instance_id), receive_count=2).failed
    assert world.kept().keys() == first.keys()
    assert {document["request_id"] for document in world.kept().values()} == {"request-2"}


def test_a_dry_run_writes_nothing(aws: StrictAws) -> None:
    world = AuditedWorld(aws)
    world.operate(world.ended(), dry_run=True)
    assert world.kept() == {}


def test_removal_without_an_object_is_audited_too(aws: StrictAws) -> None:
    step = FakeStep()
    world = AuditedWorld(aws, zones=False, more_steps=[factory(step, "a step/..")])
    instance_id = world.ended()
    step.traces[instance_id] = ["host 5"]
    world.send(world.terminated(instance_id))
    [(key, document)] = world.kept().items()
    assert (document["kind"], document["object"], document["target"]) == ("other", None, "host 5")
    assert key.removeprefix(f"{PREFIX}instances/{instance_id}/").startswith("2026-03-01-a_step_..-other-")


# Where nothing can be written, nothing goes


def writer(aws: StrictAws, *resources: str) -> Any:
    """A client that may put these objects only."""
    iam = aws.client("iam")
    iam.create_user(UserName="function")
    statement = {"Effect": "Allow", "Action": "s3:PutObject", "Resource": list(resources)}
    policy = json.dumps({"Version": "2012-10-17", "Statement": [statement]})
    iam.put_user_policy(UserName="function", PolicyName="p", PolicyDocument=policy)
    key = iam.create_access_key(UserName="function")["AccessKey"]
    return aws.client("s3", Credentials(key["AccessKeyId"], key["SecretAccessKey"]))


def test_a_denied_bucket_keeps_everything_and_names_the_missing_permission(aws: StrictAws) -> None:
    world = AuditedWorld(aws, writer(aws, "arn:aws:s3:::another/*"))
    instance_id = world.ended()
    answer = world.send_batch(world.terminated(instance_id))
    assert len(answer.failed) == 1
    (report,) = answer.reports.values()
    step = step_of(report, "route53")
    assert (step["status"], step["error_kind"], step["actions"]) == ("failed", "permission", [])
    assert "nothing is removed without its audit object" in step["reason"]
    assert "s3:PutObject" in step["reason"]
    assert world.zones.changes == []
    world.client = world.s3
    assert not world.send_batch(world.terminated(instance_id), receive_count=2).failed
    assert world.a("web-1") is None


def test_rejected_audit_objects_do_not_block_other_instances(aws: StrictAws) -> None:
    world = AuditedWorld(aws)
    one, other = world.ended(), world.ended("web-2", "10.0.0.5")
    world.client = writer(aws, f"arn:aws:s3:::{BUCKET}/{PREFIX}instances/{other}/*")
    answer = world.send_batch(world.terminated(one), world.terminated(other), message_ids=["one", "other"])
    assert answer.failed == ("one",)
    assert (world.a("web-1"), world.a("web-2")) == (("10.0.0.4",), None)


@pytest.mark.parametrize(
    ("fault", "kind", "words"),
    [
        (AwsError("NoSuchBucket", "The specified bucket does not exist", 404), "configuration", "does not exist"),
        (AwsError("SlowDown", "Please reduce your request rate.", 503), "transient", "SlowDown"),
        (unavailable(), "transient", "ServiceUnavailable"),
    ],
)
def test_s3_errors_have_clear_messages(aws: StrictAws, fault: AwsError, kind: str, words: str) -> None:
    world = AuditedWorld(aws)
    instance_id = world.ended()

    def refused(service: str, operation: str, _: Mapping[str, Any]) -> AwsError | None:
        return fault if (service, operation) == ("s3", "PutObject") else None

    with aws.fault(refused, everyone=True):
        (report,) = world.send_batch(world.terminated(instance_id)).reports.values()
    step = step_of(report, "route53")
    assert (step["status"], step["error_kind"]) == ("failed", kind)
    assert words in step["reason"]
    assert world.a("web-1") == ("10.0.0.4",)


def test_a_slow_bucket_is_left_before_the_invocation_ends(aws: StrictAws, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in aws.environ().items():
        monkeypatch.setenv(name, value)
    world = AuditedWorld(aws, AwsClients()("s3"))
    instance_id = world.ended()

    def slow(service: str, operation: str, _: Mapping[str, Any]) -> Hang | None:
        return Hang(60) if (service, operation) == ("s3", "PutObject") else None

    with aws.fault(slow, everyone=True):
        answer = world.send_batch(world.terminated(instance_id), seconds=26)
    (report,) = answer.reports.values()
    step = step_of(report, "route53")
    assert (len(answer.failed), step["status"], step["error_kind"]) == (1, "failed", "transient")
    assert world.a("web-1") == ("10.0.0.4",)


# What is read back


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"null",
        b"[]",
        b"{}",
        b'{"version": 2}',
        b'{"version": 1}',
        json.dumps({"version": 1, **dict.fromkeys(Kept.__dataclass_fields__, "x"), "account_id": "1"}).encode(),
    ],
)
def test_malformed_audit_object_is_not_a_removal(text: bytes) -> None:
    with pytest.raises(ValueError, match=r"expected|Expecting"):
        Kept.parse(text)
