"""The health of a deployment on one page."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import log
from aws import explained
from problems import Problem

if TYPE_CHECKING:
    from deployment import Deployment


def read(deployment: Deployment) -> dict[str, Any]:
    """All of it. What these credentials may not read is told under ``unknown``, and hides nothing else."""
    config = deployment.config
    document: dict[str, Any] = {
        "function": {
            "name": deployment.function_name,
            "region": deployment.region,
            "state": deployment.function.get("State"),
            "last_update": deployment.function.get("LastUpdateStatus"),
            "runtime": deployment.function.get("Runtime"),
        },
        "config": {
            "dry_run": bool(config.get("dry_run")),
            "steps": [name for name in ("route53", "chef", "consul") if config.get(name)]
            + sorted(config.get("custom_steps") or {}),
            "inventory": bool(config.get("inventory")),
            "sweep": bool(config.get("sweep")),
        },
    }
    unknown = []
    for name, look in (("queue", _queue), ("dead_letters", _dead_letters), ("alarms", _alarms), ("sweep", _sweep)):
        try:
            document[name] = look(deployment)
        except Problem as problem:
            document[name] = None
            unknown.append(str(problem))
    if unknown:
        document["unknown"] = unknown
    return document


def _queue(deployment: Deployment) -> dict[str, Any]:
    return {**_count(deployment, deployment.queue_url), "oldest_seconds": _oldest(deployment)}


def _dead_letters(deployment: Deployment) -> dict[str, Any]:
    return _count(deployment, deployment.dead_letter_queue_url)


def _count(deployment: Deployment, url: str) -> dict[str, int]:
    with explained(f"read the attributes of {url} (sqs:GetQueueAttributes)"):
        answer = deployment.clients("sqs").get_queue_attributes(QueueUrl=url, AttributeNames=["All"])["Attributes"]
    return {
        "waiting": int(answer.get("ApproximateNumberOfMessages", 0)),
        # Under way, or put off till their next try.
        "taken": int(answer.get("ApproximateNumberOfMessagesNotVisible", 0)),
    }


def _oldest(deployment: Deployment) -> int | None:
    """The age of the oldest message by CloudWatch, which is a few minutes late."""
    now = datetime.now(UTC)
    with explained("read the metrics of the queue (cloudwatch:GetMetricStatistics)"):
        answer = deployment.clients("cloudwatch").get_metric_statistics(
            Namespace="AWS/SQS",
            MetricName="ApproximateAgeOfOldestMessage",
            Dimensions=[{"Name": "QueueName", "Value": deployment.queue_url.rpartition("/")[2]}],
            StartTime=now - timedelta(minutes=15),
            EndTime=now,
            Period=300,
            Statistics=["Maximum"],
        )
    points = sorted(answer["Datapoints"], key=lambda point: point["Timestamp"])
    return int(points[-1]["Maximum"]) if points else None


def _alarms(deployment: Deployment) -> list[dict[str, Any]]:
    """This deployment's alarms: by the beginning of their names, and by what they watch."""
    own = {
        deployment.function_name,
        deployment.queue_url.rpartition("/")[2],
        deployment.dead_letter_queue_url.rpartition("/")[2],
        f"{deployment.function_name}-instance-state",
    }
    prefix = f"{deployment.function_name}-"
    found = []
    with explained("read the alarms (cloudwatch:DescribeAlarms)"):
        pages = deployment.clients("cloudwatch").get_paginator("describe_alarms").paginate(AlarmNamePrefix=prefix)
        for page in pages:
            for alarm in page["MetricAlarms"]:
                if own & {dimension["Value"] for dimension in alarm.get("Dimensions", [])}:
                    found.append(
                        {
                            "name": alarm["AlarmName"],
                            "state": alarm["StateValue"],
                            "since": alarm["StateUpdatedTimestamp"].isoformat(),
                            "meaning": alarm.get("AlarmDescription"),
                        }
                    )
    return found


def _sweep(deployment: Deployment) -> dict[str, Any] | None:
    if not deployment.config.get("sweep"):
        return None
    line = log.last_sweep(deployment)
    if line is None:
        return {"at": None}
    report = line["report"]
    return {
        "at": line.get("timestamp"),
        "dry_run": report.get("dry_run"),
        **(report.get("sweep") or {}),
        "errors": report.get("errors", []),
    }
