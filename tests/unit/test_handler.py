"""The story of an event, from the call to the answer, over the fakes."""

from __future__ import annotations

import json
from contextlib import suppress
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ec2_decommission.clients.aws import CALL_SECONDS, QUICK, READ_TIMEOUT_SECONDS
from ec2_decommission.config import InstanceFilter, QueueSettings, SweepSettings
from ec2_decommission.deadline import current
from ec2_decommission.errors import (
    AccessError,
    ConfigurationError,
    DecommissionError,
    MalformedEvent,
    PermanentError,
    TransientError,
)
from ec2_decommission.handler import FailedError
from ec2_decommission.instance import Facts
from ec2_decommission.place import Place
from ec2_decommission.run import Circumstances, StepFactory
from ec2_decommission.steps.base import Finding
from tests.fakes.ec2 import ACCOUNT
from tests.fakes.steps import FakeStep, factory
from tests.fakes.world import FORWARD, HOME, World, step_of

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from ec2_decommission.steps.base import Batch, Step

DELETED = "A web-1.example.internal. 10.0.0.4"


def ended(world: World, name: str = "web-1", ip: str | None = None) -> str:
    """An instance that was recorded, and is terminated now."""
    instance_id = world.launch(name, ip)
    world.send(world.running(instance_id))
    world.ec2.terminate(instance_id)
    return instance_id


def down(*_: str) -> None:
    raise TransientError("no connection")


def broken(*_: str) -> None:
    raise ZeroDivisionError("a fault of its own")


# A single event


def test_running_is_remembered() -> None:
    world = World()
    instance_id = world.launch("web-1")
    report = world.send(world.running(instance_id))
    assert (report["state"], report["steps"], report["note"]) == ("running", [], "recorded in the inventory")
    assert world.inventory.items[instance_id].facts.private_ips == ("10.0.0.4",)
    assert world.log.messages()[0] == f"instance {instance_id} has entered state running"


def test_terminated_removes_and_reports_as_the_contract_says() -> None:
    world = World()
    instance_id = ended(world)
    report = world.send(world.terminated(instance_id))
    assert (report["instance_id"], report["state"], report["dry_run"]) == (instance_id, "terminated", False)
    (step,) = report["steps"]
    assert set(step) == {"step", "status", "actions", "reason"}
    assert (step["step"], step["status"], step["reason"]) == ("route53", "done", None)
    assert step["actions"][0]["action"] == "delete"
    assert step["actions"][0]["target"] == DELETED
    assert (world.a("web-1"), world.ptr("10.0.0.4")) == (None, None)
    json.dumps(report)


def test_dead_instance_is_distinguished_from_its_replacement() -> None:
    world = World()
    instance_id = ended(world)
    world.launch("web-1", "10.0.0.9")
    report = world.send(world.terminated(instance_id))
    assert world.a("web-1") == ("10.0.0.9",)
    step = step_of(report, "route53")
    assert [a["target"] for a in step["actions"]] == ["PTR 4.0.0.10.in-addr.arpa. web-1.example.internal."]
    assert "not an address or DNS name recorded" in step["reason"]


def test_an_instance_that_nobody_knows_is_reported_not_failed() -> None:
    world = World()
    report = world.send(world.terminated("i-0123456789abcdef0"))
    step = step_of(report, "route53")
    assert step["status"] == "skipped"
    assert "tag:Name is not known" in step["reason"]


def test_ec2_has_forgotten_the_instance() -> None:
    world = World()
    instance_id = ended(world)
    world.ec2.forget(instance_id)
    assert step_of(world.send(world.terminated(instance_id)), "route53")["status"] == "done"


@pytest.mark.parametrize("inventory", [True, False])
def test_an_instance_that_was_never_recorded_leaves_only_what_is_proven_by_id(inventory: bool) -> None:
    world = World(inventory=inventory, record_names=["{tag:Name}.example.internal", "{instance_id}.example.internal"])
    instance_id = world.launch("web-1")
    world.zones.put(FORWARD, f"{instance_id}.example.internal", "A", ["192.0.2.1"])
    if not inventory:
        assert world.send(world.running(instance_id))["note"] == "the inventory is off; nothing was recorded"
    world.ec2.terminate(instance_id)
    step = step_of(world.send(world.terminated(instance_id)), "route53")
    assert [a["target"] for a in step["actions"]] == [f"A {instance_id}.example.internal. 192.0.2.1"]
    assert world.a("web-1") == ("10.0.0.4",)


@pytest.mark.parametrize("state", ["pending", "stopping", "stopped", "shutting-down"])
def test_other_states_are_ignored(state: str) -> None:
    world = World()
    report = world.send(world.event("i-0123456789abcdef0", state))
    assert report["note"] == f"no action for state {state}"
    assert world.ec2.calls.total() == 0


@pytest.mark.parametrize("payload", [{}, [], None, "x", {"detail-type": "EC2 Instance State-change Notification"}])
def test_payloads_outside_the_contract(payload: Any) -> None:
    world = World()
    if isinstance(payload, dict) and payload:
        assert world.send(payload)["note"].startswith("another kind of event")
    else:
        with pytest.raises(MalformedEvent):
            world.send(payload)


def test_a_single_event_raises_after_all_steps_have_run() -> None:
    first, last = FakeStep(), FakeStep()
    first.fault = down
    world = World(more_steps=[factory(first, "first"), factory(last, "last")])
    instance_id = ended(world)
    last.traces[instance_id] = ["x"]
    with pytest.raises(FailedError, match=rf"{instance_id}: first: no connection"):
        world.send(world.terminated(instance_id))
    assert last.traces[instance_id] == []
    assert world.a("web-1") is None


# States only move forward


def test_late_running_event_restores_nothing() -> None:
    world = World()
    instance_id = ended(world)
    world.send(world.terminated(instance_id))
    report = world.send(world.running(instance_id))
    assert report["note"] == "the instance has been terminated since; this event is late and changes nothing"
    assert world.inventory.items[instance_id].state == "terminated"
    world.ec2.forget(instance_id)
    assert world.send(world.running(instance_id))["note"].startswith("the instance has been terminated since")


def test_running_and_terminated_of_one_instance_in_one_batch_in_either_order() -> None:
    for flip in (False, True):
        world = World()
        instance_id = ended(world)
        bodies = [world.running(instance_id), world.terminated(instance_id)]
        assert world.send_batch(*(reversed(bodies) if flip else bodies)).failed == ()
        assert world.a("web-1") is None
        assert world.inventory.items[instance_id].state == "terminated"


def test_a_late_running_of_what_ec2_has_forgotten_records_nothing() -> None:
    world = World()
    instance_id = ended(world)
    world.inventory.items.clear()
    world.ec2.forget(instance_id)
    event = world.running(instance_id)
    world.later(timedelta(hours=1))
    assert world.send(event)["note"].startswith("EC2 no longer shows the instance")
    assert world.inventory.items == {}


def test_a_running_that_ec2_does_not_know_yet_is_retried() -> None:
    world = World()
    assert len(world.send_batch(world.running("i-0123456789abcdef0")).failed) == 1


def test_a_race_with_a_termination_keeps_the_termination() -> None:
    world = World()
    instance_id = world.launch("web-1")
    known = world.inventory.recall([instance_id])
    assert known == {}

    def terminated_meanwhile(operation: str) -> None:
        if operation == "remember_running":
            world.inventory.fault = lambda *_: None
            instance = world.ec2.describe([instance_id])[instance_id].instance()
            world.inventory.remember_terminated([instance], tags_known=True)

    world.inventory.fault = terminated_meanwhile
    assert world.send(world.running(instance_id))["note"] == "already recorded as terminated; not changed"
    assert world.inventory.items[instance_id].state == "terminated"


# What lives


@pytest.mark.parametrize("state", ["pending", "running", "stopping", "stopped"])
def test_event_for_a_live_instance_fails_without_removals(state: str) -> None:
    world = World()
    instance_id = world.launch("web-1")
    world.ec2.set_state(instance_id, state)
    before = world.zones.everything()
    answer = world.send_batch(world.terminated(instance_id))
    assert len(answer.failed) == 1
    (report,) = answer.reports.values()
    assert step_of(report, "route53")["status"] == "failed"
    assert step_of(report, "route53")["reason"] == f"the event says terminated, but EC2 says {state}; will retry"
    assert world.zones.everything() == before
    assert instance_id not in world.inventory.items


@pytest.mark.parametrize("state", ["pending", "running", "stopping", "stopped", "shutting-down"])
@pytest.mark.parametrize("dry_run", [True, False, None])
def test_operator_call_for_a_live_instance_is_skipped(state: str, dry_run: bool | None) -> None:
    world = World()
    instance_id = world.launch("web-1")
    world.ec2.set_state(instance_id, state)
    before = world.zones.everything()
    report = world.operate(instance_id, dry_run=dry_run)
    assert report["state"] == state
    assert report["dry_run"] is bool(dry_run)
    assert step_of(report, "route53")["status"] == "skipped"
    assert step_of(report, "route53")["reason"] == (
        f"{instance_id} is {state}: nothing is removed for a live instance"
    )
    assert world.zones.everything() == before
    assert instance_id not in world.inventory.items


# The operator, and the dry run


def test_an_operators_real_call_removes() -> None:
    world = World()
    instance_id = ended(world)
    assert step_of(world.operate(instance_id), "route53")["status"] == "done"
    assert world.a("web-1") is None


def test_an_operators_call_that_fails_returns_the_report() -> None:
    world = World()
    instance_id = ended(world)
    world.zones.fault = down
    step = step_of(world.operate(instance_id), "route53")
    assert (step["status"], step["reason"]) == ("failed", "no connection")


@pytest.mark.parametrize(("module", "asked", "dry"), [(True, None, True), (True, False, False), (False, True, True)])
def test_the_operators_dry_run_defaults_to_the_modules(module: bool, asked: bool | None, dry: bool) -> None:
    world = World(dry_run=module)
    instance_id = ended(world)
    report = world.operate(instance_id, dry_run=asked)
    assert report["dry_run"] is dry
    assert step_of(report, "route53")["status"] == "done"
    assert (world.a("web-1") is not None) is dry


def test_a_dry_run_writes_nothing_anywhere() -> None:
    world = World()
    instance_id = ended(world)
    before, items = world.zones.everything(), dict(world.inventory.items)
    world.operate(instance_id, dry_run=True)
    assert world.zones.everything() == before
    assert world.inventory.items == items
    assert world.zones.calls["ChangeResourceRecordSets"] == 0


def test_a_module_in_dry_run_still_remembers_what_runs() -> None:
    world = World(dry_run=True)
    instance_id = ended(world)
    assert world.inventory.items[instance_id].state == "running"
    assert world.send_batch(world.terminated(instance_id)).failed == ()
    assert world.inventory.items[instance_id].state == "running"
    assert world.a("web-1") == ("10.0.0.4",)


names = st.sampled_from(["web-1", "Web-1", "web-2"])
addresses = st.sampled_from(["10.0.0.5", "10.0.0.6", "10.0.0.7", "192.168.0.1"])


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(data=st.data())
def test_the_actions_of_a_dry_run_are_those_of_the_real_run(data: st.DataObject) -> None:
    world = World(
        inventory=data.draw(st.booleans()), record_names=["{tag:Name}.example.internal", "all.example.internal"]
    )
    dead = []
    for name, address in data.draw(
        st.lists(st.tuples(names, addresses), min_size=1, max_size=3, unique_by=lambda pair: pair[1])
    ):
        instance_id = world.launch(name, address, records=False)
        if data.draw(st.booleans()):
            world.send(world.running(instance_id))
        dead.append(instance_id)
    for instance_id in dead:
        world.ec2.terminate(instance_id)
        if data.draw(st.integers(0, 3)) == 0:
            world.ec2.forget(instance_id)
    free = data.draw(st.lists(st.tuples(names, addresses), max_size=2, unique_by=lambda pair: pair[1]))
    for name, address in free:
        world.launch(name, address, records=False)
    for name in ("web-1", "web-2", "all"):
        values = data.draw(st.lists(addresses, max_size=3, unique=True))
        if values:
            world.zones.put(FORWARD, f"{name}.example.internal", "A", values, ttl=data.draw(st.integers(1, 99)))
    instance_id = data.draw(st.sampled_from(dead))
    dry = world.operate(instance_id, dry_run=True)
    real = world.operate(instance_id, dry_run=False)
    assert dry["steps"] == real["steps"]
    assert dry.get("identity") == real.get("identity")


# Batches


def test_malformed_message_is_returned_and_does_not_affect_others() -> None:
    world = World()
    instance_id = ended(world)
    answer = world.send_batch("{", world.terminated(instance_id), "[]", message_ids=["bad", "good", "worse"])
    assert answer.failed == ("bad", "worse")
    assert world.a("web-1") is None
    assert world.queue.delays == {"r-bad": 0, "r-worse": 0}
    assert any("cannot be parsed" in message for message in world.log.messages("error"))


def test_the_same_event_twice_in_one_batch_succeeds_twice_and_writes_once() -> None:
    world = World()
    instance_id = ended(world)
    before = world.inventory.calls.copy()
    answer = world.send_batch(world.terminated(instance_id), world.terminated(instance_id))
    assert answer.failed == ()
    assert len(answer.reports) == 2
    assert [step_of(r, "route53")["status"] for r in answer.reports.values()] == ["done", "done"]
    assert len(world.zones.changes) == 2  # one a zone
    assert (world.inventory.calls - before)["remember_results"] == 1


def test_running_twice_in_one_batch_writes_once() -> None:
    world = World()
    instance_id = world.launch("web-1")
    assert world.send_batch(world.running(instance_id), world.running(instance_id)).failed == ()
    assert world.inventory.calls["remember_running"] == 1


def test_a_batch_asks_each_system_once() -> None:
    world = World()
    ids = [ended(world, f"web-{n}") for n in range(20)]
    ec2, zones = world.ec2.calls.copy(), world.zones.calls.copy()
    assert world.send_batch(*(world.terminated(i) for i in ids)).failed == ()
    # The question about the living is asked for the plan, and again before the one change of each zone.
    assert world.ec2.calls - ec2 == {"DescribeInstances": 1, "DescribeNetworkInterfaces": 3}
    assert world.zones.calls - zones == {
        "GetHostedZone": 2,
        "ListResourceRecordSets": 2,
        "ChangeResourceRecordSets": 2,
        "wait": 2,  # for the governor's permission, before the question about the living
    }
    assert all(world.a(f"web-{n}") is None for n in range(20))


def test_an_empty_batch() -> None:
    world = World()
    assert world.send_batch().failed == ()
    assert world.ec2.calls.total() == 0


def test_every_line_of_the_log_names_instance_and_message() -> None:
    world = World()
    instance_id = ended(world)
    world.log.lines.clear()
    world.send_batch(world.terminated(instance_id), message_ids=["m-x"])
    assert world.log.messages()[0] == f"instance {instance_id} has entered state terminated"
    expected = {"instance_id": instance_id, "message_id": "m-x", "account_id": ACCOUNT, "region": "us-east-1"}
    assert all({key: line.extra[key] for key in expected} == expected for line in world.log.lines)


# Failures, and what they stop


@pytest.mark.parametrize("fault", [down, broken])
@pytest.mark.parametrize("act", ["identify", "plan", "apply"])
def test_step_failure_at_any_point_does_not_stop_other_steps(fault: Callable[..., None], act: str) -> None:
    first, last = FakeStep(), FakeStep()

    def at_that_act(now: str) -> None:
        if now == act:
            fault()

    first.fault = at_that_act
    world = World(more_steps=[factory(first, "first"), factory(last, "last")])
    instance_id = ended(world)
    first.traces[instance_id], last.traces[instance_id] = ["x"], ["y"]
    answer = world.send_batch(world.terminated(instance_id))
    assert len(answer.failed) == 1
    (report,) = answer.reports.values()
    assert [s["status"] for s in report["steps"]] == ["done", "failed", "done"]
    assert (first.traces[instance_id], last.traces[instance_id]) == (["x"], [])
    unexpected = "unexpected ZeroDivisionError: a fault of its own" if fault is broken else "no connection"
    assert step_of(report, "first")["reason"] == unexpected
    assert bool(world.log.messages("exception")) is (fault is broken)


def test_step_that_cannot_be_created_is_reported_as_failed() -> None:
    def make(_: Circumstances) -> Step:
        raise ConfigurationError("the package holds no secret chef_client_key")

    last = FakeStep()
    world = World(more_steps=[StepFactory("first", make), factory(last, "last")])
    instance_id = ended(world)
    with pytest.raises(FailedError, match="first: the package holds no secret"):
        world.send(world.terminated(instance_id))
    assert [act for act, _ in last.acts] == ["identify", "plan"]


def test_with_the_inventory_down_nothing_is_removed_and_the_message_returns() -> None:
    world = World()
    instance_id = ended(world)
    world.inventory.fault = down
    answer = world.send_batch(world.terminated(instance_id))
    assert len(answer.failed) == 1
    (report,) = answer.reports.values()
    assert report["errors"] == ["inventory: no connection"]
    assert report["error_kind"] == "transient"
    assert world.a("web-1") == ("10.0.0.4",)
    world.inventory.fault = lambda *_: None
    assert world.send_batch(world.terminated(instance_id)).failed == ()
    assert world.inventory.items[instance_id].state == "terminated"
    assert world.a("web-1") is None


def test_message_returns_if_the_inventory_rejects_the_results() -> None:
    world = World()
    instance_id = ended(world)
    world.inventory.fault = lambda now: down() if now == "remember_results" else None
    assert len(world.send_batch(world.terminated(instance_id)).failed) == 1
    assert world.a("web-1") is None
    world.inventory.fault = lambda *_: None
    assert world.send_batch(world.terminated(instance_id)).failed == ()
    assert world.inventory.items[instance_id].finished


@pytest.mark.parametrize("operation", ["remember_terminated", "remember_results"])
def test_rejected_inventory_write_returns_only_its_message(operation: str) -> None:
    world = World()
    first, second = ended(world, "web-1"), ended(world, "web-2")
    world.inventory.fault_of = lambda now, about: down() if (now, about) == (operation, second) else None
    answer = world.send_batch(world.terminated(first), world.terminated(second))
    assert len(answer.failed) == 1
    assert {i for i, r in answer.reports.items() if r.get("errors")} == set(answer.failed)


def test_with_the_inventory_down_a_running_returns() -> None:
    world = World()
    instance_id = world.launch("web-1")
    for operation in ("recall", "remember_running"):

        def at_that_operation(now: str, operation: str = operation) -> None:
            if now == operation:
                down()

        world.inventory.fault = at_that_operation
        assert len(world.send_batch(world.running(instance_id)).failed) == 1


def test_with_ec2_down_nothing_is_removed_and_the_message_returns() -> None:
    step = FakeStep()
    world = World(more_steps=[factory(step)])
    instance_id = ended(world)
    before, items = world.zones.everything(), dict(world.inventory.items)
    world.ec2.fault = down
    answer = world.send_batch(world.terminated(instance_id))
    assert len(answer.failed) == 1
    (report,) = answer.reports.values()
    assert {s["status"] for s in report["steps"]} == {"failed"}
    assert "cannot be sure that the instance has ended" in report["steps"][0]["reason"]
    assert step.acts == []
    assert world.zones.everything() == before
    assert world.inventory.items == items
    assert step_of(world.operate(instance_id), "route53")["status"] == "failed"


def test_no_step_starts_without_time_and_the_message_returns() -> None:
    step = FakeStep()
    world = World(more_steps=[factory(step)])
    instance_id = ended(world)

    def check(_: str) -> None:
        step.seen["identify"].deadline.timeout(10, "a call")

    step.fault = check
    answer = world.send_batch(world.terminated(instance_id), seconds=2)
    assert len(answer.failed) == 1
    (report,) = answer.reports.values()
    assert step_of(report, "fake")["reason"] == "0 s are left of this invocation, too few to begin a call"


# Retries


def test_a_retry_runs_only_what_is_not_settled() -> None:
    first, last = FakeStep(), FakeStep()
    world = World(more_steps=[factory(first, "first"), factory(last, "last")])
    instance_id = ended(world)
    first.traces[instance_id], last.traces[instance_id] = ["x"], ["y"]
    last.fault = down
    assert len(world.send_batch(world.terminated(instance_id)).failed) == 1
    zones = world.zones.calls.copy()
    acts = len(first.acts)
    last.fault = lambda *_: None
    world.later(timedelta(minutes=1))
    world.cold_start()
    answer = world.send_batch(world.terminated(instance_id), receive_count=2)
    assert answer.failed == ()
    assert world.zones.calls == zones
    assert len(first.acts) == acts
    (report,) = answer.reports.values()
    assert [s["status"] for s in report["steps"]] == ["done", "done", "done"]
    assert [bool(s.get("settled_at")) for s in report["steps"]] == [True, True, False]
    record = world.inventory.items[instance_id]
    assert [(r["step"], r["target"]) for r in record.removed if r["step"] != "route53"] == [
        ("first", "x"),
        ("last", "y"),
    ]
    assert all(step["settled_at"] for step in record.steps.values())


def test_a_second_event_after_all_is_settled_looks_again_and_is_clean() -> None:
    world = World()
    instance_id = ended(world)
    world.send(world.terminated(instance_id))
    changes = list(world.zones.changes)
    for _ in range(2):
        step = step_of(world.send(world.terminated(instance_id)), "route53")
        assert (step["status"], step["actions"]) == ("clean", [])
    assert world.zones.changes == changes
    assert len(world.inventory.items[instance_id].removed) == 2


def test_objects_that_reappear_are_removed_by_a_second_event() -> None:
    world = World()
    instance_id = ended(world)
    world.send(world.terminated(instance_id))
    world.zones.put(FORWARD, "web-1.example.internal", "A", ["10.0.0.4"])
    assert step_of(world.send(world.terminated(instance_id)), "route53")["status"] == "done"


def test_an_operator_runs_all_steps_again() -> None:
    first, last = FakeStep(), FakeStep()
    world = World(more_steps=[factory(first, "first"), factory(last, "last")])
    instance_id = ended(world)
    last.fault = down
    world.send_batch(world.terminated(instance_id))
    acts = len(first.acts)
    world.operate(instance_id)
    assert len(first.acts) > acts


def test_identity_is_remembered_before_anything_is_removed() -> None:
    step = FakeStep()
    world = World(zones=False, inventory=True, more_steps=[factory(step)])
    instance_id = world.launch("web-1")
    world.ec2.terminate(instance_id)
    step.facts[instance_id] = Facts("fake", private_ips=("10.0.0.4",), known_as={"fake": {"node": ("n",)}})
    step.traces[instance_id] = ["x"]
    seen = []

    def check(act: str) -> None:
        if act != "identify":
            seen.append(world.inventory.items[instance_id].facts.private_ips)

    step.fault = check
    report = world.send(world.terminated(instance_id))
    assert seen == [("10.0.0.4",), ("10.0.0.4",)]
    assert world.inventory.items[instance_id].facts.known_as == {"fake": {"node": ("n",)}}
    assert report["identity"]["addresses"] == ["10.0.0.4"]


def test_a_step_that_looked_while_the_identity_was_not_known_looks_again() -> None:
    """Route 53 knows the address only by what another step tells; that one is down at the first try."""
    step = FakeStep()
    world = World(more_steps=[factory(step)])
    instance_id = world.launch("web-1")
    world.ec2.terminate(instance_id)
    world.ec2.forget(instance_id)
    step.facts[instance_id] = Facts("fake", private_ips=("10.0.0.4",), tags={"Name": "web-1"})
    step.fault = down
    assert len(world.send_batch(world.terminated(instance_id)).failed) == 1
    assert world.a("web-1") == ("10.0.0.4",)
    step.fault = lambda *_: None
    assert world.send_batch(world.terminated(instance_id)).failed == ()
    assert world.a("web-1") is None


# The filter


FILTERED = InstanceFilter({"team": ("web", "shop*")}, {"keep": ("yes",)})


@pytest.mark.parametrize(
    ("tags", "handled"),
    [
        ({"team": "web"}, True),
        ({"team": "shop-eu"}, True),
        ({"team": "db"}, False),
        ({}, False),
        ({"team": "web", "keep": "yes"}, False),
        ({"team": "web", "keep": "no"}, True),
    ],
)
def test_the_filter_decides_which_instances_are_handled(tags: dict[str, str], handled: bool) -> None:
    world = World(instance_filter=FILTERED)
    instance_id = world.launch("web-1", tags=tags)
    world.send(world.running(instance_id))
    assert (world.inventory.items[instance_id].excluded is None) is handled
    world.ec2.terminate(instance_id)
    report = world.send(world.terminated(instance_id))
    assert step_of(report, "route53")["status"] == ("done" if handled else "skipped")
    assert (world.a("web-1") is None) is handled
    record = world.inventory.items[instance_id]
    assert (record.state, record.finished, record.excluded is None) == ("terminated", True, handled)
    if not handled:
        assert "instance_filter" in step_of(report, "route53")["reason"]


def test_with_a_filter_an_unknown_instance_is_left_alone() -> None:
    world = World(instance_filter=FILTERED)
    report = world.send(world.terminated("i-0123456789abcdef0"))
    assert step_of(report, "route53")["status"] == "skipped"


@pytest.mark.parametrize("forgotten", ["tags", "instance"])
def test_a_tag_that_was_added_after_running_excludes_even_once_ec2_has_dropped_it(forgotten: str) -> None:
    """Field case 1: unknown tags never mean "not excluded"."""
    world = World(instance_filter=InstanceFilter(exclude_tags={"keep": ("yes",)}))
    instance_id = world.launch("web-1")
    world.send(world.running(instance_id))
    world.ec2.tag(instance_id, keep="yes")
    world.ec2.terminate(instance_id)
    (world.ec2.forget_tags if forgotten == "tags" else world.ec2.forget)(instance_id)
    step = step_of(world.send(world.terminated(instance_id)), "route53")
    assert (step["status"], world.a("web-1")) == ("skipped", ("10.0.0.4",))
    assert "the tags of" in step["reason"]
    assert world.inventory.items[instance_id].finished


def test_complete_tags_at_termination_are_used_in_every_retry() -> None:
    world = World(instance_filter=InstanceFilter(exclude_tags={"keep": ("yes",)}))
    instance_id = ended(world)
    world.zones.fault = down
    assert len(world.send_batch(world.terminated(instance_id)).failed) == 1
    world.ec2.forget(instance_id)
    world.zones.fault = lambda *_: None
    assert world.send_batch(world.terminated(instance_id)).failed == ()
    assert world.a("web-1") is None


# Places


MEMBER = Place("222222222222", "eu-west-1")
STRANGE = Place("333333333333", "us-east-1")


def test_an_instance_of_another_served_place_is_handled_there() -> None:
    world = World(places=[MEMBER])
    instance_id = world.launch("web-1", "10.0.0.5", place=MEMBER)
    world.send(world.running(instance_id))
    assert world.inventory.items[instance_id].place == MEMBER
    world.ec2s[MEMBER].terminate(instance_id)
    report = world.send(world.terminated(instance_id))
    assert (report["account_id"], report["region"]) == ("222222222222", "eu-west-1")
    assert (step_of(report, "route53")["status"], world.a("web-1")) == ("done", None)


@pytest.mark.parametrize("where", ["another VPC", "another region", "another account"])
def test_a_living_instance_elsewhere_with_the_same_name_and_address_keeps_its_record(where: str) -> None:
    place = {"another VPC": HOME, "another region": Place(ACCOUNT, "eu-west-1"), "another account": MEMBER}[where]
    world = World(places=[MEMBER, Place(ACCOUNT, "eu-west-1")])
    instance_id = ended(world, "web-1", "10.0.0.5")
    world.ec2s[place].launch("Web-1", "10.0.0.5", vpc_id="vpc-other")
    report = world.send(world.terminated(instance_id))
    assert (step_of(report, "route53")["status"], world.a("web-1")) == ("skipped", ("10.0.0.5",))


def test_the_same_private_address_elsewhere_under_another_name_protects_nothing() -> None:
    world = World(places=[MEMBER])
    instance_id = ended(world, "web-1", "10.0.0.5")
    world.ec2s[MEMBER].launch("db", "10.0.0.5", vpc_id="vpc-other")
    assert step_of(world.send(world.terminated(instance_id)), "route53")["status"] == "done"


def test_a_place_that_cannot_be_asked_fails_closed_and_is_named() -> None:
    world = World(places=[MEMBER], record_names=["{tag:Name}.example.internal", "{instance_id}.example.internal"])
    instance_id = ended(world, "web-1", "10.0.0.5")
    world.zones.put(FORWARD, f"{instance_id}.example.internal", "A", ["192.0.2.1"])

    def deny(_: str) -> None:
        raise AccessError("no ec2:DescribeNetworkInterfaces with role reader")

    world.ec2s[MEMBER].fault = deny
    answer = world.send_batch(world.terminated(instance_id))
    assert len(answer.failed) == 1
    (report,) = answer.reports.values()
    step = step_of(report, "route53")
    assert step["status"] == "failed"
    assert "222222222222/eu-west-1" in step["reason"]
    assert "ec2:DescribeNetworkInterfaces" in step["reason"]
    assert world.a("web-1") == ("10.0.0.5",)
    assert [a["target"] for a in step["actions"]] == [f"A {instance_id}.example.internal. 192.0.2.1"]


@pytest.mark.parametrize("state", ["running", "terminated"])
def test_an_event_of_a_place_that_is_not_served_does_nothing_succeeds_and_is_counted(state: str) -> None:
    world = World()
    instance_id = ended(world)
    before, calls = world.zones.everything(), world.ec2.calls.copy()
    answer = world.send_batch(world.event(instance_id, state, STRANGE))
    assert answer.failed == ()
    (report,) = answer.reports.values()
    assert "333333333333/us-east-1 is not served" in report["note"]
    assert (world.zones.everything(), world.ec2.calls) == (before, calls)
    assert any('"ForeignEvents"' in line for line in world.metric_lines)


def test_an_operators_call_for_a_place_that_is_not_served_says_why() -> None:
    world = World()
    instance_id = ended(world)
    report = world.operate(instance_id, place=STRANGE)
    assert all(step["actions"] == [] and "is not served" in step["reason"] for step in report["steps"])
    assert world.a("web-1") == ("10.0.0.4",)


@pytest.mark.parametrize("known_by", ["EC2", "the inventory"])
def test_an_operators_call_without_a_place_names_the_place_that_knows_the_instance(known_by: str) -> None:
    world = World(places=[MEMBER])
    instance_id = world.launch("web-1", "10.0.0.5", place=MEMBER)
    if known_by == "the inventory":
        world.send(world.running(instance_id))
    world.ec2s[MEMBER].terminate(instance_id)
    if known_by == "the inventory":
        world.ec2s[MEMBER].forget(instance_id)
    step = step_of(world.operate(instance_id), "route53")
    assert (step["status"], step["actions"]) == ("skipped", [])
    assert str(MEMBER) in step["reason"]
    assert step_of(world.operate(instance_id, place=MEMBER), "route53")["status"] in ("done", "skipped")


def test_an_operators_call_without_a_place_fails_while_another_place_cannot_say() -> None:
    world = World(places=[MEMBER])
    world.ec2s[MEMBER].fault = down
    assert step_of(world.operate("i-0123456789abcdef0"), "route53")["status"] == "failed"
    assert step_of(world.operate("i-0123456789abcdef0", place=HOME), "route53")["status"] == "skipped"


# Back-off


@pytest.mark.parametrize(
    ("count", "seconds"), [(1, 60), (2, 120), (3, 240), (7, 3600), (20, 3600), (10_000, 3600), (0, 60), (-3, 60)]
)
def test_a_failed_message_waits_longer_with_each_receive(count: int, seconds: int) -> None:
    world = World()
    instance_id = ended(world)
    world.zones.fault = down
    world.send_batch(world.terminated(instance_id), receive_count=count, message_ids=["m"])
    assert world.queue.delays == {"r-m": seconds}


@pytest.mark.parametrize(
    ("errors", "kind", "seconds"),
    [
        ([PermanentError("refused")], "permanent", 60),
        ([PermanentError("refused"), PermanentError("too large")], "permanent", 60),
        ([PermanentError("refused"), TransientError("no")], "transient", 480),
        ([AccessError("no right")], "permission", 480),
    ],
)
def test_permanent_failures_do_not_back_off_long(errors: list[DecommissionError], kind: str, seconds: int) -> None:
    class Failing(FakeStep):
        def plan(self, batch: Batch) -> Mapping[str, Finding]:
            return dict.fromkeys(batch.instances, Finding(errors=tuple(errors)))

    world = World(zones=False, more_steps=[factory(Failing())])
    instance_id = ended(world)
    answer = world.send_batch(world.terminated(instance_id), receive_count=4, message_ids=["m"])
    assert answer.failed == ("m",)
    assert world.queue.delays == {"r-m": seconds}
    line = next(line for line in world.log.lines if line.message.startswith("failed: "))
    assert line.extra["error_kinds"] == [kind]
    assert step_of(line.extra["report"], "fake")["error_kind"] == kind


@pytest.mark.parametrize("part", ["ec2", "inventory"])
@pytest.mark.parametrize("seconds", [30, 32.5, 120])
def test_hanging_system_leaves_time_to_delay_the_message(
    monkeypatch: pytest.MonkeyPatch, part: str, seconds: float
) -> None:
    """Else it would come back after the queue's own time-out, always the same, and use up its tries in hours."""
    now = [1000.0]
    monkeypatch.setattr("ec2_decommission.deadline.time.monotonic", lambda: now[0])
    world = World()
    instance_id = ended(world)

    def hang(*_: str) -> None:
        while True:  # attempt after attempt, as botocore does
            current().check(CALL_SECONDS)
            now[0] += READ_TIMEOUT_SECONDS

    system: Any = getattr(world, part)
    system.fault = hang
    left: list[float] = []
    world.queue.fault = lambda _: left.append(current().remaining())
    answer = world.send_batch(world.terminated(instance_id), seconds=seconds, message_ids=["m"])
    assert answer.failed == ("m",)
    assert left[0] > sum(QUICK["sqs"])


def test_successful_messages_are_not_delayed_and_queue_errors_are_harmless() -> None:
    world = World(queue=QueueSettings("https://sqs.example/queue", retry_delay_seconds=5))
    good, bad = ended(world, "web-1"), world.launch("web-2")
    answer = world.send_batch(world.terminated(good), world.terminated(bad), message_ids=["good", "bad"])
    assert answer.failed == ("bad",)
    assert world.queue.delays == {"r-bad": 5}
    world.queue.fault = down
    assert world.send_batch(world.terminated(bad), message_ids=["bad"]).failed == ("bad",)
    assert any("visibility timeout" in message for message in world.log.messages("warning"))


# The sweep


def test_the_sweep_finds_a_missed_termination() -> None:
    world = World(sweep=SweepSettings())
    instance_id = ended(world)
    other = world.launch("web-2", "10.0.0.99")
    world.send(world.running(other))
    world.later(timedelta(hours=1))
    report = world.sweep()
    assert report["sweep"]["gone"] == [instance_id]
    assert world.inventory.items[other].state == "running"
    assert world.send_batch(*world.queue.sent).failed == ()
    assert world.a("web-1") is None
    assert world.a("web-2") is not None


def test_a_sweep_in_a_batch_that_fails_returns_its_message_alone() -> None:
    world = World(sweep=SweepSettings())
    instance_id = ended(world)
    world.inventory.fault = lambda operation: down() if operation == "living" else None
    sweep = {"source": "ec2-decommission", "detail-type": "EC2 Decommission Sweep", "detail": {}}
    answer = world.send_batch(sweep, world.terminated(instance_id), message_ids=["sweep", "event"])
    assert answer.failed == ("sweep",)
    assert world.a("web-1") is None


def test_a_sweep_that_is_off_says_so() -> None:
    assert World().sweep()["note"].startswith("the sweep, or the inventory that it needs, is off")


# Whatever comes


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)
event_like = st.fixed_dictionaries(
    {},
    optional={
        "detail-type": st.sampled_from(["EC2 Instance State-change Notification", "EC2 Decommission Sweep", "x"])
        | json_values,
        "source": st.sampled_from(["aws.ec2", "ec2-decommission", "x"]) | json_values,
        "detail": st.fixed_dictionaries(
            {},
            optional={
                "instance-id": st.sampled_from(["i-00000000000000001", "i-0", "I-1", "i-*"]) | json_values,
                "state": st.sampled_from(["running", "terminated", "stopped"]) | json_values,
            },
        )
        | json_values,
        "time": st.sampled_from(["2026-01-01T00:00:00Z", "0001-01-01T00:00:00+23:59", "9999-12-31T23:59:59-23:59"])
        | json_values,
        "account": st.sampled_from(["123456789012", "333333333333"]) | json_values,
        "account_id": st.sampled_from(["123456789012", "333333333333"]) | json_values,
        "region": st.sampled_from(["us-east-1", "eu-west-1"]) | json_values,
        "restore": json_values,
        "instance_id": st.sampled_from(["i-00000000000000001"]) | json_values,
        "dry_run": json_values,
        "sweep": json_values,
        "accept": json_values,
    },
)


def living_world() -> World:
    world = World(sweep=SweepSettings())
    world.launch("web-1", instance_id="i-00000000000000001")
    return world


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(payload=json_values | event_like)
def test_no_payload_removes_live_objects_or_raises_undocumented_errors(payload: Any) -> None:
    world = living_world()
    before = world.zones.everything()
    with suppress(DecommissionError):
        json.dumps(world.send(payload))
    assert world.zones.everything() == before


record_like = st.fixed_dictionaries(
    {"messageId": st.text(min_size=1, max_size=4)},
    optional={
        "receiptHandle": st.text(max_size=4) | json_values,
        "body": (json_values | event_like).map(json.dumps) | st.text(max_size=20) | json_values,
        "attributes": st.dictionaries(
            st.just("ApproximateReceiveCount"), st.integers(-3, 10**6).map(str) | json_values, max_size=1
        )
        | json_values,
    },
)


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(records=st.lists(record_like, max_size=4))
def test_no_batch_removes_live_objects_or_raises(records: list[Any]) -> None:
    world = living_world()
    before = world.zones.everything()
    answer = world.handle({"Records": records})
    identifiers = {failure["itemIdentifier"] for failure in answer["batchItemFailures"]}
    assert identifiers <= {record["messageId"] for record in records}
    assert all(isinstance(s, int) and 0 <= s <= 43_200 for s in world.queue.delays.values())
    assert world.zones.everything() == before


@settings(max_examples=100, deadline=None)
@given(records=json_values)
def test_other_payloads_raise_documented_errors(records: Any) -> None:
    world = living_world()
    with suppress(DecommissionError):
        world.handle({"Records": records})
    assert world.zones.changes == []
