"""Reads the function's log, where the inventory does not know enough."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

from aws import explained

if TYPE_CHECKING:
    from collections.abc import Iterator

    from deployment import Deployment

_PAGES = 50  # of one search; CloudWatch gives empty pages too while it searches
_SWEEPS = (timedelta(hours=2), timedelta(hours=26), timedelta(days=8))  # how far back, one look after the other


def last_error(deployment: Deployment, message_id: str, since: datetime) -> str | None:
    """The last error that the function logged for an SQS message, without its "failed: "."""
    found = None
    for line in _lines(deployment, f'"{message_id}"', since):
        if line.get("level") == "ERROR" and line.get("message_id") == message_id:
            found = str(line.get("message", "")).removeprefix("failed: ")
    return found


def last_sweep(deployment: Deployment) -> dict[str, Any] | None:
    """The last logged report of a sweep, with its ``timestamp`` and ``level``; None where there was none for days."""
    now = datetime.now(UTC)
    for age in _SWEEPS:
        found = None
        for line in _lines(deployment, '"sweep"', now - age):
            report = line.get("report")
            if isinstance(report, dict) and report.get("state") == "sweep":
                found = line
        if found is not None:
            return found
    return None


def _lines(deployment: Deployment, pattern: str, since: datetime) -> Iterator[dict[str, Any]]:
    """The function's own lines that match, the oldest first."""
    group = deployment.log_group_name
    request = {"logGroupName": group, "filterPattern": pattern, "startTime": int(since.timestamp() * 1000)}
    with explained(f"search the log group {group} (logs:FilterLogEvents)"):
        for number, page in enumerate(
            deployment.clients("logs").get_paginator("filter_log_events").paginate(**request)
        ):
            for event in page["events"]:
                try:
                    line = json.loads(event["message"])
                except ValueError:
                    continue  # Lambda's own
                if isinstance(line, dict):
                    yield line
            if number >= _PAGES:
                return
