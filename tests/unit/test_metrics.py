"""The metrics of an invocation, read as CloudWatch reads them."""

from __future__ import annotations

import json
import re
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from ec2_decommission import entry
from ec2_decommission.config import SweepSettings
from ec2_decommission.errors import AccessError, ConfigurationError, PermanentError, TransientError
from ec2_decommission.events import SOURCE, SWEEP
from ec2_decommission.handler import FailedError
from ec2_decommission.metrics import NAMESPACE, UNITS, Metrics
from ec2_decommission.steps.base import Finding
from tests.fakes.emf import is_metrics, read, sums
from tests.fakes.steps import FakeStep, factory
from tests.fakes.world import World

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ec2_decommission.errors import DecommissionError
    from ec2_decommission.steps.base import Batch


class Failing(FakeStep):
    """Fails for each instance with an error of its own."""

    errors: Mapping[str, DecommissionError] = {}

    def plan(self, batch: Batch) -> Mapping[str, Finding]:
        found = super().plan(batch)
        return {i: Finding(errors=(self.errors[i],)) if i in self.errors else found[i] for i in found}


def fleet(size: int, **more: Any) -> tuple[World, Failing, list[str]]:
    """Terminated instances, recorded, and a step."""
    step = Failing()
    world = World(more_steps=[factory(step)], **more)
    ids = []
    for number in range(size):
        instance_id = world.launch(f"web-{number}")
        world.send(world.running(instance_id))
        world.ec2.terminate(instance_id)
        step.traces[instance_id] = []
        ids.append(instance_id)
    world.metric_lines.clear()
    return world, step, ids


def test_a_batch_is_summed_up_in_one_line_and_one_for_each_step() -> None:
    world, step, ids = fleet(5)
    step.traces[ids[0]] = ["x", "y"]
    step.errors = {ids[1]: TransientError("no"), ids[2]: AccessError("no right"), ids[3]: PermanentError("never")}
    events = [world.terminated(i) for i in ids]
    world.later(timedelta(seconds=90))
    world.send_batch(*events, "{")
    points = read(world.metric_lines)
    assert len(world.metric_lines) == 3
    assert {p.namespace for p in points} == {NAMESPACE}
    assert {p.dimensions["FunctionName"] for p in points} == {"ec2-decommission"}
    assert {frozenset(p.dimensions) for p in points} == {
        frozenset({"FunctionName"}),
        frozenset({"FunctionName", "Step"}),
    }
    assert all(p.unit == UNITS[p.name].value for p in points)
    of_step = sums(points, "fake")
    assert of_step.pop("StepDuration") >= 0
    assert of_step == {"Done": 1, "Clean": 1, "Failed": 3}
    assert sums(points, "route53")["Done"] == 5
    assert sums(points) == {
        "InstancesFinished": 2,
        "InstancesFailed": 3,
        "MalformedMessages": 1,
        "ConfigurationErrors": 1,
        "PermanentErrors": 1,
        "EventAge": 180,
        "UnfinishedAge": 270,
    }


def test_a_retry_counts_only_what_it_does() -> None:
    world, step, (instance_id,) = fleet(1)
    step.errors = {instance_id: TransientError("no")}
    world.send_batch(world.terminated(instance_id))
    world.metric_lines.clear()
    step.errors = {}
    world.send_batch(world.terminated(instance_id), receive_count=2)
    points = read(world.metric_lines)
    assert sums(points, "route53") == {}
    assert sums(points, "fake")["Clean"] == 1
    assert sums(points)["InstancesFinished"] == 1


def test_repeated_failure_reports_its_age() -> None:
    """The age that SQS tells leaves out what was received three times, which is what fails and is tried again."""
    world, step, (dead,) = fleet(1)
    started = world.launch("web-new")
    step.errors = {dead: TransientError("no")}
    events = [world.terminated(dead), world.running(started)]
    world.later(timedelta(hours=2))

    def is_down(operation: str, _: str) -> None:
        if operation == "remember_running":
            raise TransientError("DynamoDB is down")

    world.inventory.fault_of = is_down
    world.send_batch(*events, receive_count=9)
    assert [p.values for p in read(world.metric_lines) if p.name == "UnfinishedAge"] == [(7200, 7200)]
    world.metric_lines.clear()
    world.inventory.fault_of = lambda *_: None
    step.errors = {}
    world.send_batch(*events, receive_count=10)
    assert "UnfinishedAge" not in sums(read(world.metric_lines))


def test_a_large_batch_keeps_to_the_limits_of_the_format() -> None:
    world, _, ids = fleet(250)
    world.send_batch(*(world.terminated(i) for i in ids))
    ages = [p.values for p in read(world.metric_lines) if p.name == "EventAge"]
    assert sum(map(len, ages)) == 250
    assert len(world.metric_lines) == 5


def test_dry_run_counts_only_errors_that_need_a_person() -> None:
    world, step, ids = fleet(3, dry_run=True)
    world.send_batch(*(world.terminated(i) for i in ids))
    assert world.metric_lines == []
    step.errors = {ids[0]: AccessError("no right"), ids[1]: TransientError("no")}
    world.send_batch(*(world.terminated(i) for i in ids))
    assert sums(read(world.metric_lines)) == {"ConfigurationErrors": 1, "UnfinishedAge": 0}


@pytest.mark.parametrize("operation", ["recall", "remember_running"])
def test_denied_recording_of_a_running_instance_is_counted(operation: str) -> None:
    world = World()
    instance_id = world.launch("web-1")

    def deny(now: str) -> None:
        if now == operation:
            raise AccessError("no right to dynamodb")

    world.inventory.fault = deny
    world.send_batch(world.running(instance_id))
    assert sums(read(world.metric_lines)) == {"ConfigurationErrors": 1, "UnfinishedAge": 0}


def test_an_invocation_that_fails_writes_its_metrics_too() -> None:
    world, step, (instance_id,) = fleet(1)
    step.errors = {instance_id: ConfigurationError("wrong")}
    with pytest.raises(FailedError):
        world.send(world.terminated(instance_id))
    assert sums(read(world.metric_lines)) == {"InstancesFailed": 1, "ConfigurationErrors": 1, "UnfinishedAge": 0}


def test_a_queue_that_may_not_be_written_is_counted() -> None:
    world, step, (instance_id,) = fleet(1)
    step.errors = {instance_id: TransientError("no")}

    def deny(_: str) -> None:
        raise AccessError("sqs:ChangeMessageVisibility")

    world.queue.fault = deny
    world.send_batch(world.terminated(instance_id))
    assert sums(read(world.metric_lines))["ConfigurationErrors"] == 1


def test_sweep_metrics() -> None:
    world = World(sweep=SweepSettings(max_instances=1))
    ids = [world.launch(f"web-{n}") for n in range(4)]
    for instance_id in ids:
        world.send(world.running(instance_id))
    world.later(timedelta(hours=1))
    world.ec2.terminate(ids[0])
    world.metric_lines.clear()
    world.sweep()
    assert sums(read(world.metric_lines)) == {"SweepGone": 1}
    world.ec2.terminate(ids[1])
    world.metric_lines.clear()
    world.sweep()
    braked = sums(read(world.metric_lines))
    assert braked == {"SweepBraked": 1, "SweepGone": 2}

    def fail(_: str) -> None:
        raise AccessError("dynamodb:Query")

    world.inventory.fault = fail
    world.metric_lines.clear()
    world.sweep()
    assert sums(read(world.metric_lines)) == {"SweepFailed": 1, "ConfigurationErrors": 1}
    world.metric_lines.clear()
    world.send({"sweep": True, "dry_run": True})
    assert sums(read(world.metric_lines)) == {"ConfigurationErrors": 1}


@pytest.mark.parametrize(("receive_count", "written"), [(1, {}), (2, {"SweepFailed": 0})])
def test_only_a_sweep_that_failed_before_says_that_it_passed(receive_count: int, written: dict[str, int]) -> None:
    world = World(sweep=SweepSettings())
    body = {"source": SOURCE, "detail-type": SWEEP, "detail": {}, "time": world.time.isoformat()}
    assert world.send_batch(body, receive_count=receive_count).failed == ()
    assert sums(read(world.metric_lines)) == written


def test_metrics_that_cannot_be_written_fail_nothing() -> None:
    world, _, (instance_id,) = fleet(1)

    class Full(list[str]):
        def append(self, line: str) -> None:
            raise OSError(f"no space left for {line}")

    world.metric_lines = Full()
    world.cold_start()
    assert world.send_batch(world.terminated(instance_id)).failed == ()
    assert any("no space left" in message for message in world.log.messages("warning"))


def test_each_invocation_writes_its_own(capsys: pytest.CaptureFixture[str]) -> None:
    metrics = Metrics("f")
    metrics.count("Done", 2, "chef")
    metrics.flush()
    metrics.flush()
    (line,) = capsys.readouterr().out.splitlines()
    assert is_metrics(line)
    assert sums(read([line]), "chef") == {"Done": 2}


def test_a_service_name_in_the_environment_is_no_dimension(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("POWERTOOLS_SERVICE_NAME", "mine")
    lines: list[str] = []
    metrics = Metrics("f", lines.append)
    metrics.count("ConfigurationErrors")
    metrics.flush()
    assert read(lines)[0].dimensions == {"FunctionName": "f"}


class Context:
    """Lambda's, as far as it is used."""

    aws_request_id = "request-1"

    def get_remaining_time_in_millis(self) -> int:
        return 300_000


@pytest.mark.parametrize("event", [{"Records": [{"messageId": "a", "body": "{}"}]}, {"instance_id": "i-0abc"}])
def test_a_function_that_cannot_start_says_so_in_its_metrics(
    event: dict[str, Any], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    entry._start.cache_clear()
    monkeypatch.setenv("DECOMMISSION_CONFIG", "{}")
    monkeypatch.setenv("AWS_LAMBDA_FUNCTION_NAME", "mine")
    if "Records" in event:
        assert entry.handle(event, Context())["batchItemFailures"] == [{"itemIdentifier": "a"}]
    else:
        with pytest.raises(ConfigurationError):
            entry.handle(event, Context())
    lines = [line for line in capsys.readouterr().out.splitlines() if is_metrics(line)]
    (point,) = read(lines)
    assert (point.name, point.values, point.dimensions) == ("ConfigurationErrors", (1.0,), {"FunctionName": "mine"})
    assert json.loads(lines[0])["ConfigurationErrors"] == [1.0]


def test_the_documentation_has_every_metric_with_its_unit() -> None:
    text = (Path(__file__).parents[2] / "docs" / "architecture.md").read_text()
    section = text.partition("## Metrics")[2].partition("\n## ")[0]
    rows = [row.split("|")[1:3] for row in section.splitlines() if row.startswith("| `")]
    told = {name: unit.split(",")[0].strip() for names, unit in rows for name in re.findall(r"`(\w+)`", names)}
    assert told == {name: unit.value for name, unit in UNITS.items()}
