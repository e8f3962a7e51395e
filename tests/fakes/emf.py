"""A strict reader of CloudWatch's embedded metric format."""

from __future__ import annotations

import json
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

_UNITS = {"Count", "Seconds", "Milliseconds"}


@dataclass(frozen=True)
class Point:
    """A metric's values in one log line, for one set of dimensions."""

    namespace: str
    name: str
    dimensions: dict[str, str]
    unit: str
    values: tuple[float, ...]


def is_metrics(line: str) -> bool:
    """Whether CloudWatch reads the log line as metrics."""
    try:
        return "_aws" in json.loads(line)
    except (ValueError, TypeError):
        return False


def read(lines: Iterable[str]) -> list[Point]:
    """The data points of these lines.

    Raises:
        AssertionError: CloudWatch would reject a line, or ignore a part of it.
            https://docs.aws.amazon.com/AmazonCloudWatch/latest/monitoring/CloudWatch_Embedded_Metric_Format_Specification.html
    """
    points = []
    for line in lines:
        demand("\n" not in line.rstrip("\n"), "it is not one line")
        demand(len(line.encode()) < 256 * 1024, "CloudWatch Logs cuts it")
        document = json.loads(line)
        demand(abs(document["_aws"]["Timestamp"] / 1000 - time.time()) < 3600, "its time is not now, in milliseconds")
        for directive in document["_aws"]["CloudWatchMetrics"]:
            demand(len(directive["Metrics"]) <= 100, "it has more than 100 metrics")
            for names in directive["Dimensions"]:
                demand(0 < len(names) <= 30, "it has no dimension, or too many")
                demand(all(isinstance(document[n], str) and document[n] for n in names), "a dimension has no text")
                for metric in directive["Metrics"]:
                    found = document[metric["Name"]]
                    values = found if isinstance(found, list) else [found]
                    demand(0 < len(values) <= 100, f"{metric['Name']} has {len(values)} values")
                    demand(all(type(v) in (int, float) for v in values), f"{metric['Name']} is no number")
                    demand(metric["Unit"] in _UNITS, f"{metric['Name']} has an unknown unit")
                    points.append(
                        Point(
                            directive["Namespace"],
                            metric["Name"],
                            {n: document[n] for n in names},
                            metric["Unit"],
                            tuple(values),
                        )
                    )
    return points


def demand(fine: bool, what: str) -> None:
    """Raises AssertionError unless the condition holds."""
    if not fine:
        raise AssertionError(what)


def sums(points: Iterable[Point], step: str | None = None) -> dict[str, float]:
    """The sum of each metric of a step, or of the metrics without a step."""
    found: dict[str, float] = {}
    for point in points:
        if point.dimensions.get("Step") == step:
            found[point.name] = found.get(point.name, 0) + sum(point.values)
    return found
