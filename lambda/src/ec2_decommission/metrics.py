"""The metrics of an invocation, in CloudWatch's embedded metric format: lines of JSON in the function's own log.

All metrics are in the namespace ``EC2Decommission``, with the dimension ``FunctionName`` alone, or with
``FunctionName`` and ``Step``. They are summed over the invocation. An invocation writes one line, and one more for
each step that ran, whatever the batch size. Zeros are not written, so an idle month costs nothing. The one exception
is a sweep that failed and then succeeded.

https://docs.aws.amazon.com/AmazonCloudWatch/latest/monitoring/CloudWatch_Embedded_Metric_Format_Specification.html
"""

from __future__ import annotations

import json
from collections import defaultdict
from typing import TYPE_CHECKING, Any

from aws_lambda_powertools.metrics import MetricUnit
from aws_lambda_powertools.metrics.provider.cloudwatch_emf.cloudwatch import AmazonCloudWatchEMFProvider

from .errors import CONFIGURATION, PERMANENT, PERMISSION, TRANSIENT
from .report import FAILED

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from .report import Report, StepReport

NAMESPACE = "EC2Decommission"
# A line may hold a hundred values per metric, and Powertools prints by itself at a hundred.
_MOST_VALUES = 99

UNITS = {
    "Done": MetricUnit.Count,
    "Clean": MetricUnit.Count,
    "Skipped": MetricUnit.Count,
    "Failed": MetricUnit.Count,
    "StepDuration": MetricUnit.Milliseconds,
    "InstancesFinished": MetricUnit.Count,
    "InstancesFailed": MetricUnit.Count,
    "MalformedMessages": MetricUnit.Count,
    "ForeignEvents": MetricUnit.Count,
    "ConfigurationErrors": MetricUnit.Count,
    "PermanentErrors": MetricUnit.Count,
    "EventAge": MetricUnit.Seconds,
    "UnfinishedAge": MetricUnit.Seconds,
    "SweepGone": MetricUnit.Count,
    "SweepBraked": MetricUnit.Count,
    "SweepAdopted": MetricUnit.Count,
    "SweepFailed": MetricUnit.Count,
}


class Metrics:
    """The metrics of one function. ``flush`` writes those of an invocation.

    Args:
        function_name: the value of the dimension ``FunctionName``.
        write: writes a line; CloudWatch reads standard output.
    """

    def __init__(self, function_name: str, write: Callable[[str], None] = print) -> None:
        self._function_name = function_name
        self._write = write
        self._counts: dict[tuple[str, str], float] = defaultdict(float)
        self._values: dict[tuple[str, str], list[float]] = defaultdict(list)
        self.places: set[str] = set()  # metadata of the line; a dimension would cost a metric per place

    def count(self, name: str, number: float = 1, step: str = "") -> None:
        """Adds to a sum of the invocation. Adding zero also creates a data point."""
        self._counts[step, name] += number

    def value(self, name: str, value: float, step: str = "") -> None:
        """Adds one value to a list of values, such as ages or durations."""
        self._values[step, name].append(max(0.0, value))

    def failure(self, kind: str, number: int = 1) -> None:
        """Counts errors of the kinds that a person must act on."""
        if kind in (CONFIGURATION, PERMISSION):
            self.count("ConfigurationErrors", number)
        elif kind == PERMANENT:
            self.count("PermanentErrors", number)

    def instance(self, report: Report, ages: Iterable[float]) -> None:
        """Counts the outcome of an instance that was to be decommissioned.

        Args:
            report: its report. A dry run counts only errors, because nothing happened.
            ages: for each termination event, its age in seconds.
        """
        self.errors(report)
        if report.dry_run:
            return
        for step in report.steps:
            if step.settled_at is None:  # otherwise an earlier try has counted it
                self.count(step.status.capitalize(), step=step.step)
        if report.failed:
            self.count("InstancesFailed")
            return
        self.count("InstancesFinished")
        for age in ages:
            self.value("EventAge", age)

    def errors(self, report: Report) -> None:
        """Counts the errors, by kind."""
        for error in report.errors:
            self.failure(error.kind)
        for step in filter(_failed, report.steps):
            self.failure(step.error_kind or TRANSIENT)

    def sweep(self, report: Report, *, braked: bool, is_retry: bool) -> None:
        """Counts what a sweep of one place found. A dry run counts only errors.

        Args:
            is_retry: an earlier try of this sweep failed. If this one succeeds, a zero clears the alarm.
        """
        self.errors(report)
        if report.dry_run:
            return
        # A braked sweep did its work. The brake has its own metric.
        failed = report.failed and not braked
        if failed or is_retry:
            self.count("SweepFailed", int(failed))
        seen: Mapping[str, Any] = report.sweep or {}
        more = seen.get("left_off", {})
        found = {
            f"Sweep{what.capitalize()}": len(seen.get(what, ())) + more.get(what, 0) for what in ("gone", "adopted")
        }
        for name, number in {**found, "SweepBraked": int(braked)}.items():
            if number:
                self.count(name, number)

    def flush(self) -> None:
        """Writes the lines and starts again from zero."""
        counts, values, places = self._counts, self._values, sorted(self.places)
        self._counts, self._values, self.places = defaultdict(float), defaultdict(list), set()
        metrics: dict[str, dict[str, list[float]]] = defaultdict(dict)
        for (step, name), number in counts.items():
            metrics[step][name] = [number]
        for (step, name), several in values.items():
            metrics[step][name] = several
        for step, of_step in metrics.items():
            for start in range(0, max(map(len, of_step.values())), _MOST_VALUES):
                pieces = {name: several[start : start + _MOST_VALUES] for name, several in of_step.items()}
                self._write(self._line(step, {name: piece for name, piece in pieces.items() if piece}, places))

    def _line(self, step: str, metrics: Mapping[str, Iterable[float]], places: list[str]) -> str:
        dimensions = {"FunctionName": self._function_name, **({"Step": step} if step else {})}
        # The service of POWERTOOLS_SERVICE_NAME would add a dimension that no alarm uses.
        emf = AmazonCloudWatchEMFProvider(namespace=NAMESPACE, dimension_set=dimensions, service="")
        for name, values in metrics.items():
            for value in values:
                emf.add_metric(name, UNITS[name], value)
        if places:
            emf.add_metadata("places", places[:_MOST_VALUES])
        return json.dumps(emf.serialize_metric_set())


def _failed(step: StepReport) -> bool:
    return step.status == FAILED
