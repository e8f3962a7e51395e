"""The names of metrics in alarms.tf and dashboard.tf are those that the function writes."""

from __future__ import annotations

import html
import re
from pathlib import Path

from ec2_decommission.errors import TransientError
from ec2_decommission.metrics import NAMESPACE, UNITS
from tests.fakes.world import World

ROOT = Path(__file__).resolve().parent.parent.parent
OF_STEPS = {"Done", "Clean", "Skipped", "Failed", "StepDuration"}


def text(name: str) -> str:
    return (ROOT / name).read_text()


def test_the_namespace_is_the_functions() -> None:
    assert re.findall(r'metric_namespace = "(\w+)"', text("locals.tf")) == [NAMESPACE]


def test_the_dashboard_shows_every_metric_of_the_function_and_no_other() -> None:
    shown = re.findall(
        r'\[local\.metric_namespace, "(\w+)", "FunctionName", var\.name, ("Step", step, )?\{', text("dashboard.tf")
    )
    assert len(shown) == text("dashboard.tf").count("[local.metric_namespace, ")
    assert {name for name, _ in shown} == set(UNITS)
    assert {name for name, step in shown if step} == OF_STEPS


def test_the_alarms_look_at_metrics_that_the_function_writes() -> None:
    watched = re.findall(r'local\.metric_namespace, metric = "(\w+)"', text("alarms.tf"))
    assert len(watched) == text("alarms.tf").count("local.metric_namespace")
    assert set(watched) <= set(UNITS) - OF_STEPS


def test_the_failures_are_found_by_keys_that_the_function_logs() -> None:
    (query,) = re.findall(r'failures_query = "(.*)"$', text("dashboard.tf"), re.MULTILINE)
    fields = query.split("| fields ")[1].split(" | ")[0]
    asked = set(re.findall(r"[a-z_]+(?:\.[a-z0-9_]+)?", re.sub(r"coalesce|\bas \w+|@\w+", "", fields)))
    assert asked == {"instance_id", "report.state", "error_kinds.0", "message"}
    world = World()
    instance_id = world.launch("web-1")

    def fail(*_: object) -> None:
        raise TransientError("no")

    world.inventory.fault = fail
    world.send_batch(world.running(instance_id))
    line = next(line for line in world.log.lines if line.level == "error")
    assert line.extra["instance_id"] == instance_id
    assert line.extra["report"]["state"] == "running"
    assert line.extra["error_kinds"] == ["transient"]


def test_picture_shows_the_current_widgets_and_labels_example_numbers() -> None:
    """It is drawn by `make dashboard-picture`."""
    picture = html.unescape(text("docs/pictures/dashboard.svg"))
    titles = set(re.findall(r'title += "([^"$]+)"', text("dashboard.tf")))
    assert len(titles) > 10
    # A title that is too long for its widget is cut.
    assert [title for title in titles if f">{title}</text>" not in picture and f">{title[:20]}" not in picture] == []
    assert "Example numbers, not measured" in picture
