"""The main job of the deployed function: it removes exactly the objects of a terminated instance."""

from __future__ import annotations

import pytest

from tests.deployed.conftest import Deployed, report_of, step_of
from tests.fakes.emf import read, sums

pytestmark = pytest.mark.servers


def test_the_second_plan_is_empty(deployed: Deployed) -> None:
    assert deployed.stack.plan() == "empty"


def test_only_the_terminated_instances_objects_are_removed(deployed: Deployed) -> None:
    dead, living = (deployed.platform.launch(deployed.name()) for _ in range(2))
    deployed.deliver()
    before = deployed.things(living.name)
    report = report_of(deployed.terminate(dead), dead.id)
    assert [step["status"] for step in report["steps"]] == ["done", "done", "done"]
    assert deployed.things(dead.name) == [f"lock {dead.lock} free"]
    assert deployed.things(living.name) == before


def test_first_log_line_names_the_instance_state(deployed: Deployed) -> None:
    dead = deployed.platform.launch(deployed.name())
    deployed.deliver()
    [batch] = deployed.terminate(dead)
    lines = batch.invocation.json_logs()
    assert lines[0]["message"] == f"instance {dead.id} has entered state terminated"
    assert all(line["instance_id"] == dead.id for line in lines)
    assert all(line["message_id"] == batch.message_ids[0] for line in lines)


def test_log_contains_the_metrics(deployed: Deployed) -> None:
    dead = deployed.platform.launch(deployed.name())
    deployed.deliver()
    [batch] = deployed.terminate(dead)
    points = read(batch.invocation.metric_lines())
    assert {point.dimensions["FunctionName"] for point in points} == {"ec2-decommission"}
    assert {step: sums(points, step)["Done"] for step in ("route53", "chef", "consul")} == dict.fromkeys(
        ("route53", "chef", "consul"), 1
    )
    assert sums(points)["InstancesFinished"] == 1
    assert 0 <= sums(points)["EventAge"] < 600


def test_lock_has_no_delay_for_the_next_holder(deployed: Deployed) -> None:
    dead, contender = (deployed.platform.launch(deployed.name()) for _ in range(2))
    deployed.deliver()
    assert not deployed.platform.consul.acquire(dead.lock, contender.session)
    deployed.terminate(dead)
    assert deployed.platform.consul.acquire(dead.lock, contender.session)


def test_duplicate_event_changes_nothing(deployed: Deployed) -> None:
    dead = deployed.platform.launch(deployed.name())
    deployed.deliver()
    deployed.terminate(dead)
    world = deployed.platform.traces()
    deployed.platform.aws.emit(deployed.platform.aws.state_change(dead.id, "terminated"))
    report = report_of(deployed.deliver(), dead.id)
    assert [step["status"] for step in report["steps"]] == ["clean", "clean", "clean"]
    assert deployed.platform.traces() == world


def test_dry_run_predicts_the_real_run(deployed: Deployed) -> None:
    dead = deployed.platform.launch(deployed.name())
    deployed.deliver()
    deployed.platform.kill(dead, emit=False)
    world = deployed.platform.traces()
    dry = deployed.decommission(dead.id, dry_run=True)
    assert deployed.platform.traces() == world
    real = deployed.decommission(dead.id)
    for name in ("route53", "chef", "consul"):
        assert step_of(dry, name)["actions"] == step_of(real, name)["actions"]
    assert deployed.things(dead.name) == [f"lock {dead.lock} free"]


def test_operator_call_for_a_live_instance_removes_nothing(deployed: Deployed) -> None:
    living = deployed.platform.launch(deployed.name())
    deployed.deliver()
    before = deployed.things(living.name)
    report = deployed.decommission(living.id)
    assert {step["status"] for step in report["steps"]} == {"skipped"}
    assert deployed.things(living.name) == before


def test_sweep_finds_a_missed_termination(deployed: Deployed) -> None:
    lost = deployed.platform.launch(deployed.name())
    deployed.deliver()
    deployed.platform.aws.fire_schedule("ec2-decommission-sweep")  # reads the tags, which `instance_filter` needs
    deployed.deliver()
    deployed.platform.kill(lost, emit=False)
    deployed.platform.aws.forget(lost.id)
    deployed.platform.aws.fire_schedule("ec2-decommission-sweep")
    report = report_of(deployed.deliver(), lost.id)
    assert [step["status"] for step in report["steps"]] == ["done", "done", "done"]
    assert deployed.things(lost.name) == [f"lock {lost.lock} free"]


def test_zip_environment_state_and_log_contain_no_secret(deployed: Deployed) -> None:
    dead = deployed.platform.launch(deployed.name())
    deployed.deliver()
    deployed.terminate(dead)
    function = deployed.platform.functions._function("ec2-decommission")
    log = "\n".join(line for ran in deployed.platform.functions.invocations for line in ran.logs)
    places = {
        "zip": function.code_bytes,
        "environment": repr(function.environment_vars).encode(),
        "log": log.encode(),
        "state": b"".join(file.read_bytes() for file in deployed.stack.logs.rglob("*") if file.is_file()),
    }
    key_line = deployed.platform.chef_key.splitlines()[3]
    for place, content in places.items():
        assert key_line not in content, place
        assert deployed.platform.consul_token.encode() not in content, place
