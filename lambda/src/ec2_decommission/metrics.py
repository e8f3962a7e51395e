"""The metrics of an invocation, in CloudWatch's embedded metric format: lines of JSON in the function's own log.

All are in the namespace ``EC2Decommission``, with the dimension ``FunctionName`` alone, or with ``FunctionName`` and
``Step``. They are summed up over the invocation, so it writes one line, and one more for each step that ran, however
many instances its batch held. What did not happen is not written, so an idle month costs nothing: no data point is a
zero, except that of a sweep that failed and then passed.

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
# The format allows a metric a hundred values in one line; at a hundred Powertools prints by itself.
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
    """The metrics of one function; ``flush`` ends those of an invocation.

    Args:
        function_name: the value of the dimension ``FunctionName``.
        write: takes a line; CloudWatch reads those on the standard output.
    """

    def __init__(self, function_name: str, write: Callable[[str], None] = print) -> None:
        self._function_name = function_name
        self._write = write
        self._counts: dict[tuple[str, str], float] = defaultdict(float)
        self._values: dict[tuple[str, str], list[float]] = defaultdict(list)
        self.places: set[str] = set()  # named in the line; a dimension each would cost a metric each

    def count(self, name: str, number: float = 1, step: str = "") -> None:
        """Adds to a sum of the invocation; zero makes a data point too."""
        self._counts[step, name] += number

    def value(self, name: str, value: float, step: str = "") -> None:
        """Adds one value among others, as an age or a duration."""
        self._values[step, name].append(max(0.0, value))

    def failure(self, kind: str, number: int = 1) -> None:
        """Counts errors of a kind, if a person must be notified."""
        if kind in (CONFIGURATION, PERMISSION):
            self.count("ConfigurationErrors", number)
        elif kind == PERMANENT:
            self.count("PermanentErrors", number)

    def instance(self, report: Report, ages: Iterable[float]) -> None:
        """What became of an instance that was to be decommissioned.

        Args:
            report: its report. Of a dry run only the errors are counted, because nothing happened.
            ages: for each termination event, how long ago EC2 sent it, in seconds.
        """
        self.errors(report)
        if report.dry_run:
            return
        for step in report.steps:
            if step.settled_at is None:  # else it was counted by the try before
                self.count(step.status.capitalize(), step=step.step)
        if report.failed:
            self.count("InstancesFailed")
            return
        self.count("InstancesFinished")
        for age in ages:
            self.value("EventAge", age)

    def errors(self, report: Report) -> None:
        """Counts what failed, by kind."""
        for error in report.errors:
            self.failure(error.kind)
        for step in filter(_failed, report.steps):
            self.failure(step.error_kind or TRANSIENT)

    def sweep(self, report: Report, *, braked: bool, is_retry: bool) -> None:
        """What a sweep of one place saw. Of a dry run only the errors are counted.

        Args:
            is_retry: an earlier try of this sweep failed. If this one passes, the alarm's smallest value is 0.
        """
        self.errors(report)
        if report.dry_run:
            return
        # A sweep that was braked did its work: the brake has a metric of its own.
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
        """Writes the lines, and starts from zero."""
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
        # The service of POWERTOOLS_SERVICE_NAME would be one more dimension, by which no alarm asks.
        emf = AmazonCloudWatchEMFProvider(namespace=NAMESPACE, dimension_set=dimensions, service="")
        for name, values in metrics.items():
            for value in values:
                emf.add_metric(name, UNITS[name], value)
        if places:
            emf.add_metadata("places", places[:_MOST_VALUES])
        return json.dumps(emf.serialize_metric_set())


def _failed(step: StepReport) -> bool:
    return step.status == FAILED
