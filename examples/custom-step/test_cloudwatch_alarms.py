"""Tests the step with moto's CloudWatch: `pytest examples/custom-step` (requires pytest, moto and boto3)."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import boto3
import pytest
from moto import mock_aws

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent.parent / "lambda" / "src"))  # the module's code, which the step imports

from ec2_decommission.custom_step import (  # noqa: E402
    Batch,
    ConfigurationError,
    Deadline,
    Instance,
    Left,
    StepTools,
)

DEAD, ALIVE = "i-0aaaaaaaaaaaaaaaa", "i-0bbbbbbbbbbbbbbbb"


def make_step(tools: StepTools) -> Any:
    """Creates the step as the function does."""
    spec = importlib.util.spec_from_file_location("cloudwatch_alarms", HERE / "cloudwatch_alarms" / "__init__.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.make_step(tools)


@pytest.fixture
def cloudwatch(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    monkeypatch.setenv("AWS_DEFAULT_REGION", "eu-west-1")
    with mock_aws():
        yield boto3.client("cloudwatch")


@pytest.fixture
def step(cloudwatch: Any) -> Any:
    return make_step(StepTools("cloudwatch_alarms", {"alarm_name_prefix": "host-"}, aws=boto3.client))


def put_alarm(cloudwatch: Any, name: str, *instance_ids: str) -> None:
    metric = {"Namespace": "AWS/EC2", "MetricName": "CPUUtilization"}
    rest = {"AlarmName": name, "EvaluationPeriods": 1, "Threshold": 90, "ComparisonOperator": "GreaterThanThreshold"}
    if len(instance_ids) == 1:
        dimensions = [{"Name": "InstanceId", "Value": instance_ids[0]}]
        cloudwatch.put_metric_alarm(**rest, **metric, Dimensions=dimensions, Statistic="Average", Period=60)
        return
    queries = [
        {
            "Id": f"m{n}",
            "ReturnData": n == 0,
            "MetricStat": {
                "Metric": {**metric, "Dimensions": [{"Name": "InstanceId", "Value": instance_id}]},
                "Period": 60,
                "Stat": "Average",
            },
        }
        for n, instance_id in enumerate(instance_ids)
    ]
    cloudwatch.put_metric_alarm(**rest, Metrics=queries)


def names(cloudwatch: Any) -> list[str]:
    return sorted(alarm["AlarmName"] for alarm in cloudwatch.describe_alarms()["MetricAlarms"])


def looked(step: Any, *ids: str) -> Batch:
    """Runs the step on a batch of terminated instances. The step does not query live instances."""
    living: Any = None
    batch = Batch({i: Instance(i) for i in ids}, living, Deadline.after(60))
    assert step.look(batch) == {}
    return batch


def test_the_alarm_of_the_dead_instance_goes_and_no_other(cloudwatch: Any, step: Any) -> None:
    put_alarm(cloudwatch, "host-web-1-cpu", DEAD)
    put_alarm(cloudwatch, "host-web-2-cpu", ALIVE)
    put_alarm(cloudwatch, "billing", DEAD)  # another prefix, so not this step's
    batch = looked(step, DEAD)
    findings = step.find(batch)
    [removal] = findings[DEAD].removals
    assert (removal.action, removal.target) == ("delete", "alarm host-web-1-cpu")
    assert removal.proof == f"its dimension InstanceId is {DEAD}"
    assert names(cloudwatch) == ["billing", "host-web-1-cpu", "host-web-2-cpu"]
    assert step.remove(batch, findings)[DEAD].removed == (removal,)
    assert names(cloudwatch) == ["billing", "host-web-2-cpu"]


def test_an_alarm_that_watches_others_too_is_left(cloudwatch: Any, step: Any) -> None:
    put_alarm(cloudwatch, "host-pair", DEAD, ALIVE)
    finding = step.find(looked(step, DEAD))[DEAD]
    assert finding.removals == ()
    assert finding.left == (Left("alarm host-pair", f"watches {ALIVE} too"),)


def test_two_of_a_batch_keep_to_their_own(cloudwatch: Any, step: Any) -> None:
    put_alarm(cloudwatch, "host-web-1-cpu", DEAD)
    put_alarm(cloudwatch, "host-web-2-cpu", ALIVE)
    findings = step.find(looked(step, DEAD, ALIVE))
    assert [len(findings[i].removals) for i in (DEAD, ALIVE)] == [1, 1]


def test_an_alarm_that_a_replacement_took_over_meanwhile_is_left(cloudwatch: Any, step: Any) -> None:
    put_alarm(cloudwatch, "host-web-1-cpu", DEAD)
    batch = looked(step, DEAD)
    findings = step.find(batch)
    put_alarm(cloudwatch, "host-web-1-cpu", ALIVE)
    outcome = step.remove(batch, findings)[DEAD]
    assert (outcome.removed, outcome.errors) == ((), ())
    assert outcome.left == (Left("alarm host-web-1-cpu", "changed meanwhile: it watches another instance"),)
    assert names(cloudwatch) == ["host-web-1-cpu"]


def test_an_alarm_that_is_gone_already_is_success(cloudwatch: Any, step: Any) -> None:
    put_alarm(cloudwatch, "host-web-1-cpu", DEAD)
    batch = looked(step, DEAD)
    findings = step.find(batch)
    cloudwatch.delete_alarms(AlarmNames=["host-web-1-cpu"])
    outcome = step.remove(batch, findings)[DEAD]
    assert (outcome.removed, outcome.left, outcome.errors) == ((), (), ())


def test_without_its_setting_the_step_says_so() -> None:
    with pytest.raises(ConfigurationError, match="has no alarm_name_prefix, which the step needs"):
        make_step(StepTools("cloudwatch_alarms"))
