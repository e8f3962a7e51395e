"""Restore: what was removed comes back, nothing is overwritten. Chef and Consul: tests/servers/test_restore.py."""

from __future__ import annotations

import json
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import pytest

from ec2_decommission.config import QueueSettings, SweepSettings
from ec2_decommission.errors import MalformedEvent, TransientError
from ec2_decommission.place import Place
from testbed.aws import AwsError, StrictAws
from tests.fakes.audited import BUCKET, PREFIX, AuditedWorld
from tests.fakes.steps import FakeStep, factory
from tests.fakes.world import FORWARD, REVERSE, World, step_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

NAME = "web-1.example.internal"


class Killed(BaseException):
    """The invocation ends here, as by a timeout."""


@pytest.fixture(scope="module")
def strict() -> Iterator[StrictAws]:
    with StrictAws() as started:
        yield started


@pytest.fixture
def aws(strict: StrictAws) -> StrictAws:
    strict.reset()
    return strict


def removed(world: AuditedWorld, name: str = "web-1", ip: str | None = None) -> str:
    """An instance whose records were removed."""
    instance_id = world.ended(name, ip)
    report = world.send(world.terminated(instance_id))
    assert step_of(report, "route53")["status"] == "done"
    return instance_id


def actions(report: Mapping[str, Any], step: str = "route53") -> list[tuple[str, str]]:
    return [(action["action"], action["target"]) for action in step_of(report, step)["actions"]]


def killing(world: AuditedWorld, operation: str) -> Callable[..., None]:
    """Ends the invocation at that operation of Route 53 or of the inventory, once."""

    def kill(now: str, *_: object) -> None:
        if now == operation:
            world.zones.fault = lambda *_: None
            world.inventory.fault = lambda *_: None
            raise Killed

    return kill


# The main job


def test_records_are_restored_unchanged(aws: StrictAws) -> None:
    world = AuditedWorld(aws)
    world.launch("web-2", "10.0.0.9")
    world.launch("web-1", "10.0.0.4", records=False)
    world.zones.put(FORWARD, NAME, "A", ["10.0.0.4"], ttl=77, SetIdentifier="blue", Weight=5)
    world.zones.put(REVERSE, "4.0.0.10.in-addr.arpa", "PTR", [f"{NAME}."])
    (instance_id,) = [i for i, machine in world.ec2.machines.items() if machine.tags["Name"] == "web-1"]
    world.send(world.running(instance_id))
    before = world.zones.everything()
    world.ec2.terminate(instance_id)
    gone = [action["target"] for action in step_of(world.send(world.terminated(instance_id)), "route53")["actions"]]
    assert len(gone) == 2
    without = world.zones.everything()

    dry = world.put_back(instance_id, dry_run=True)
    assert actions(dry) == [("create", target) for target in gone]
    assert world.zones.everything() == without
    world.request_id = "request-2"
    report = world.put_back(instance_id)
    assert (report["state"], report["dry_run"], report["request_id"]) == ("restored", False, "request-2")
    step = step_of(report, "route53")
    assert (step["status"], step["actions"]) == ("done", step_of(dry, "route53")["actions"])
    assert "by request request-1" in step["actions"][0]["proof"]
    assert world.zones.everything() == before
    record = world.inventory.items[instance_id]
    assert [entry["target"] for entry in record.restored] == gone
    assert {entry["request_id"] for entry in record.restored} == {"request-2"}


def test_a_second_restore_changes_nothing(aws: StrictAws) -> None:
    world = AuditedWorld(aws)
    instance_id = removed(world)
    world.put_back(instance_id)
    before = world.zones.everything()
    report = world.put_back(instance_id)
    assert (step_of(report, "route53")["status"], actions(report)) == ("clean", [])
    assert world.zones.everything() == before


def test_what_exists_now_is_not_overwritten(aws: StrictAws) -> None:
    world = AuditedWorld(aws)
    instance_id = removed(world)
    world.zones.put(FORWARD, NAME, "A", ["10.0.0.77"])
    for more in ({"dry_run": True}, {}):
        report = world.put_back(instance_id, **more)
        assert [target.split()[0] for _, target in actions(report)] == ["PTR"]
        assert f"{NAME}. is now A 10.0.0.77" in step_of(report, "route53")["reason"]
    assert (world.a("web-1"), world.ptr("10.0.0.4")) == (("10.0.0.77",), (f"{NAME}.",))


@pytest.mark.parametrize(
    ("kind", "more"),
    [("CNAME", {}), ("A", {"SetIdentifier": "blue", "Weight": 1}), ("A", {"AliasTarget": {"DNSName": "lb."}})],
)
def test_conflict_with_an_existing_record_is_reported_before_the_change(
    aws: StrictAws, kind: str, more: dict[str, Any]
) -> None:
    world = AuditedWorld(aws)
    instance_id = removed(world)
    world.zones.put(FORWARD, NAME, kind, ["other.example.internal."], **more)
    report = world.put_back(instance_id, dry_run=True)
    assert [target.split()[0] for _, target in actions(report)] == ["PTR"]
    assert f"is now {kind} " in step_of(report, "route53")["reason"]


def test_record_created_during_a_restore_is_not_overwritten(aws: StrictAws) -> None:
    world = AuditedWorld(aws)
    instance_id = removed(world)

    def come_between(operation: str, _: str) -> None:
        if operation == "wait":
            world.zones.put(FORWARD, NAME, "A", ["10.0.0.77"])

    world.zones.fault = come_between
    report = world.put_back(instance_id)
    assert "Route 53 refused it" in step_of(report, "route53")["reason"]
    assert world.a("web-1") == ("10.0.0.77",)


# Record sets of several values


def shared(world: AuditedWorld, *values: str) -> str:
    """web-1 is 10.0.0.4, in a record set with others; its value was removed."""
    instance_id = world.ended("web-1", "10.0.0.4", records=False)
    world.zones.put(FORWARD, NAME, "A", ["10.0.0.4", *values])
    world.send(world.terminated(instance_id))
    assert world.a("web-1") == (values or None)
    return instance_id


def test_a_value_comes_back_into_the_set_it_was_taken_from(aws: StrictAws) -> None:
    world = AuditedWorld(aws)
    instance_id = shared(world, "10.0.0.8", "10.0.0.9")
    assert actions(world.put_back(instance_id)) == [("create", f"A {NAME}. 10.0.0.4")]
    assert world.a("web-1") == ("10.0.0.4", "10.0.0.8", "10.0.0.9")
    assert actions(world.put_back(instance_id)) == []


def test_a_set_that_has_changed_since_stays_as_it_is(aws: StrictAws) -> None:
    for values, ttl in ((["10.0.0.8", "10.0.0.99"], 300), (["10.0.0.8", "10.0.0.9"], 60)):
        world = AuditedWorld(aws)
        instance_id = shared(world, "10.0.0.8", "10.0.0.9")
        world.zones.put(FORWARD, NAME, "A", values, ttl=ttl)
        report = world.put_back(instance_id)
        assert (actions(report), world.a("web-1")) == ([], tuple(values))
        assert "not overwritten" in step_of(report, "route53")["reason"]
        world.s3.delete_object(Bucket=BUCKET, Key=next(iter(world.kept())))


def test_of_a_set_that_is_gone_by_now_only_the_instances_own_value_comes_back(aws: StrictAws) -> None:
    world = AuditedWorld(aws)
    instance_id = shared(world, "10.0.0.8")
    world.zones.take(FORWARD, NAME, "A")
    world.put_back(instance_id)
    assert world.a("web-1") == ("10.0.0.4",)


# What counts as removed


def test_killed_between_audit_and_removal_nothing_is_restored_and_the_retry_removes(aws: StrictAws) -> None:
    world = AuditedWorld(aws)
    instance_id = world.ended()
    before = world.zones.everything()
    world.zones.fault = killing(world, "ChangeResourceRecordSets")
    with pytest.raises(Killed):
        world.send_batch(world.terminated(instance_id))
    assert len(world.kept()) == 2
    report = world.put_back(instance_id, dry_run=True)
    assert (step_of(report, "route53")["status"], actions(report)) == ("clean", [])
    world.request_id = "request-2"
    assert not world.send_batch(world.terminated(instance_id), receive_count=2).failed
    assert world.a("web-1") is None
    world.put_back(instance_id)
    assert world.zones.everything() == before


def test_removal_is_restorable_after_a_kill_before_it_was_recorded(aws: StrictAws) -> None:
    world = AuditedWorld(aws)
    instance_id = world.ended()
    before = world.zones.everything()
    world.inventory.fault = killing(world, "remember_results")
    with pytest.raises(Killed):
        world.send_batch(world.terminated(instance_id))
    assert world.inventory.items[instance_id].removed == ()
    world.request_id = "request-2"
    world.send_batch(world.terminated(instance_id), receive_count=2)
    report = world.put_back(instance_id)
    assert "did not record what it removed" in step_of(report, "route53")["actions"][0]["proof"]
    assert world.zones.everything() == before


def test_audited_object_that_was_not_removed_by_the_function_is_not_restored(aws: StrictAws) -> None:
    world = AuditedWorld(aws)
    instance_id = world.ended()

    def replaced(operation: str, _: str) -> None:
        if operation == "ChangeResourceRecordSets" and "10.0.0.4" not in {
            ip for one in world.ec2.network_interfaces.values() for ip in one.private_ips
        }:
            world.launch("web-1", "10.0.0.4")  # the same name and address: the record is its
            raise TransientError("no connection")

    world.zones.fault = replaced
    world.send_batch(world.terminated(instance_id))
    world.zones.fault = lambda *_: None
    world.send_batch(world.terminated(instance_id), receive_count=2)
    assert world.a("web-1") == ("10.0.0.4",)
    world.zones.take(FORWARD, NAME, "A")
    report = world.put_back(instance_id)
    assert actions(report) == []
    assert (
        "was audited at 2026-03-01T12:00:00+00:00, but was not removed then" in step_of(report, "route53")["reason"]
    )
    assert world.a("web-1") is None


@pytest.mark.parametrize("how", ["expired", "off"])
def test_restore_works_from_the_audit_without_a_record(aws: StrictAws, how: str) -> None:
    world = AuditedWorld(aws)
    instance_id = removed(world)
    if how == "expired":
        world.later(timedelta(days=31))
        world.inventory.expire()
        assert world.inventory.items == {}
    else:
        world.configure(inventory=None)
        world.restore_on()
    world.put_back(instance_id)
    assert world.a("web-1") == ("10.0.0.4",)


def test_the_newest_version_of_what_was_removed_comes_back(aws: StrictAws) -> None:
    world = AuditedWorld(aws)
    instance_id = removed(world)
    world.put_back(instance_id)
    world.zones.put(FORWARD, NAME, "A", ["10.0.0.4"], ttl=60)
    world.later(timedelta(days=1))
    world.request_id = "request-2"
    world.operate(instance_id)
    assert world.a("web-1") is None
    world.put_back(instance_id)
    assert world.zones.ttl(FORWARD, NAME, "A") == 60


# What is not put back, and what fails


def test_an_item_of_a_custom_step_cannot_come_back(aws: StrictAws) -> None:
    step = FakeStep()
    world = AuditedWorld(aws, more_steps=[factory(step)])
    instance_id = world.ended()
    step.traces[instance_id] = ["host 5"]
    world.send(world.terminated(instance_id))
    report = world.put_back(instance_id)
    assert step_of(report, "fake")["status"] == "skipped"
    assert "host 5 left: the step fake cannot restore what it removed" in step_of(report, "fake")["reason"]
    assert step_of(report, "route53")["status"] == "done"


def test_an_instance_without_audit_objects_is_clean(aws: StrictAws) -> None:
    world = AuditedWorld(aws)
    report = world.put_back("i-0123456789abcdef0")
    step = step_of(report, "route53")
    assert (step["status"], step["reason"]) == (
        "clean",
        "the audit holds nothing that this step removed for the instance",
    )
    assert world.inventory.items == {}


def put(world: AuditedWorld, instance_id: str, **changes: Any) -> None:
    """An audit object that somebody with write access to the bucket has made."""
    raw = {"Name": f"{NAME}.", "Type": "A", "TTL": 60, "ResourceRecords": [{"Value": "6.6.6.6"}]}
    document = {
        "version": 1,
        "instance_id": instance_id,
        "account_id": "123456789012",
        "region": "us-east-1",
        "step": "route53",
        "kind": "record_set",
        "action": "delete",
        "target": f"A {NAME}. 6.6.6.6",
        "proof": "p",
        "object": {"zone_id": FORWARD, "record_set": {**raw, **changes.pop("record_set", {})}},
        "request_id": "r",
        "at": "2026-03-01T12:00:00+00:00",
        **changes,
    }
    key = f"{PREFIX}instances/i-00000000/2026-03-01-route53-record_set-x.json"
    world.s3.put_object(Bucket=BUCKET, Key=key, Body=json.dumps(document).encode())


@pytest.mark.parametrize(
    ("changes", "status", "words"),
    [
        ({"record_set": {"Type": "NS"}}, "skipped", "does not change such records"),
        ({"record_set": {"AliasTarget": {"DNSName": "x"}}}, "skipped", "does not change such records"),
        ({"object": {"zone_id": "Z0OTHER", "record_set": {"Name": "x.", "Type": "A"}}}, "skipped", "in zone Z0OTHER"),
        ({"object": {"zone_id": FORWARD, "record_set": {}}}, "failed", "does not have everything needed"),
        ({"object": None}, "failed", "does not have everything needed"),
        ({"account_id": "222222222222"}, "skipped", "the audit of i-00000000 is for 222222222222/us-east-1"),
    ],
)
def test_audit_objects_are_validated_like_removals(
    aws: StrictAws, changes: dict[str, Any], status: str, words: str
) -> None:
    world = AuditedWorld(aws)
    before = world.zones.everything()
    put(world, "i-00000000", **changes)
    step = step_of(world.put_back("i-00000000"), "route53")
    assert (step["status"], step["actions"]) == (status, [])
    assert words in step["reason"]
    assert world.zones.everything() == before


def test_an_audit_object_that_cannot_be_read_stops_the_restore(aws: StrictAws) -> None:
    world = AuditedWorld(aws)
    instance_id = removed(world)
    before = world.zones.everything()
    for body in (b"{", json.dumps({"version": 1}).encode()):
        world.s3.put_object(Bucket=BUCKET, Key=f"{PREFIX}instances/{instance_id}/x.json", Body=body)
        report = world.put_back(instance_id)
        assert (report["steps"], report["error_kind"]) == ([], "permanent")
        assert f"{instance_id}/x.json" in report["errors"][0]
    put(world, "i-1")
    assert "is for i-1" in world.put_back("i-00000000")["errors"][0]
    assert world.zones.everything() == before


@pytest.mark.parametrize("operation", ["ListObjectsV2", "GetObject"])
def test_a_bucket_that_denies_reading_is_told_with_the_missing_permission(aws: StrictAws, operation: str) -> None:
    world = AuditedWorld(aws)
    instance_id = removed(world)

    def denied(service: str, now: str, _: Mapping[str, Any]) -> AwsError | None:
        return AwsError("AccessDenied", "Access Denied", 403) if (service, now) == ("s3", operation) else None

    with aws.fault(denied, everyone=True):
        report = world.put_back(instance_id)
    permission = {"ListObjectsV2": "s3:ListBucket", "GetObject": "s3:GetObject"}[operation]
    assert (report["error_kind"], permission in report["errors"][0]) == ("permission", True)
    assert world.a("web-1") is None


@pytest.mark.parametrize("operation", ["recall", "remember_restored"])
def test_an_inventory_that_fails_stops_the_restore_before_it_begins(aws: StrictAws, operation: str) -> None:
    world = AuditedWorld(aws)
    instance_id = removed(world)

    def down(now: str) -> None:
        if now == operation:
            raise TransientError("no connection")

    world.inventory.fault = down
    report = world.put_back(instance_id)
    assert "no connection" in report["errors"][0]
    assert world.a("web-1") is None


def test_a_zone_that_fails_is_told_and_the_next_restore_goes_on(aws: StrictAws) -> None:
    world = AuditedWorld(aws)
    instance_id = removed(world)

    def down(operation: str, zone_id: str) -> None:
        if (operation, zone_id) == ("ChangeResourceRecordSets", FORWARD):
            raise TransientError("no connection")

    world.zones.fault = down
    report = world.put_back(instance_id)
    assert step_of(report, "route53")["status"] == "failed"
    assert (world.a("web-1"), world.ptr("10.0.0.4")) == (None, (f"{NAME}.",))
    world.zones.fault = lambda *_: None
    assert [target.split()[0] for _, target in actions(world.put_back(instance_id))] == ["A"]


def test_another_place_is_named_and_nothing_is_restored(aws: StrictAws) -> None:
    member = Place("222222222222", "eu-west-1")
    world = AuditedWorld(aws, places=[member])
    instance_id = world.launch("web-1", place=member)
    world.send(world.running(instance_id))
    world.ec2s[member].terminate(instance_id)
    world.send(world.terminated(instance_id))
    report = world.put_back(instance_id)
    assert "222222222222/eu-west-1" in step_of(report, "route53")["reason"]
    assert world.a("web-1") is None
    world.put_back(instance_id, account_id="222222222222", region="eu-west-1")
    assert world.a("web-1") == ("10.0.0.4",)


def test_without_audit_a_restore_names_the_input() -> None:
    with pytest.raises(MalformedEvent, match="audit"):
        World().send({"restore": "i-0123456789abcdef0"})


# What comes after a restore


def test_no_sweep_takes_up_what_was_restored(aws: StrictAws) -> None:
    world = AuditedWorld(aws, sweep=SweepSettings())
    world.launch("lives", "10.0.0.9")
    instance_id = world.ended()

    def reverse_down(_: str, zone_id: str) -> None:
        if zone_id == REVERSE:
            raise TransientError("no connection")

    world.zones.fault = reverse_down
    world.send_batch(world.terminated(instance_id))
    world.zones.fault = lambda *_: None
    world.put_back(instance_id)
    world.later(timedelta(days=40))
    world.inventory.expire()
    world.sweep()
    assert world.queue.sent == []
    assert world.a("web-1") == ("10.0.0.4",)


@pytest.mark.parametrize("how", ["event", "operator"])
def test_a_new_event_or_an_operators_call_takes_it_up_again(aws: StrictAws, how: str) -> None:
    """Also the steps that had settled before the restore."""
    world = AuditedWorld(aws, queue=QueueSettings("https://sqs.example/queue"))
    instance_id = removed(world)
    world.put_back(instance_id)
    world.later(timedelta(minutes=1))
    if how == "event":
        assert world.send_batch(world.terminated(instance_id)).failed == ()
    else:
        world.operate(instance_id)
    assert world.a("web-1") is None


def test_a_message_from_before_the_restore_removes_nothing(aws: StrictAws) -> None:
    step = FakeStep()
    world = AuditedWorld(aws, more_steps=[factory(step)])
    instance_id = world.ended()

    def down(act: str) -> None:
        if act == "plan":
            raise TransientError("no connection")

    step.fault = down
    first = world.time
    assert world.send_batch(world.terminated(instance_id)).failed
    world.later(timedelta(minutes=1))
    world.put_back(instance_id)
    step.fault = lambda _: None
    step.traces[instance_id] = ["host 5"]
    world.later(timedelta(minutes=1))
    answer = world.send_batch(world.terminated(instance_id), receive_count=2, sent_at=first)
    (report,) = answer.reports.values()
    assert (answer.failed, {one["status"] for one in report["steps"]}) == ((), {"skipped"})
    assert "was restored at 2026-03-01T12:01:00+00:00" in report["steps"][0]["reason"]
    assert (step.traces[instance_id], world.a("web-1")) == (["host 5"], ("10.0.0.4",))
    world.send_batch(world.terminated(instance_id))
    assert (step.traces[instance_id], world.a("web-1")) == ([], None)
