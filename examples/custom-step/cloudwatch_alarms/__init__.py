"""A cleanup step for the CloudWatch alarms of an instance.

Boot scripts and Auto Scaling hooks often create alarms per instance that are never deleted. They stay in
INSUFFICIENT_DATA and cost money. The dimension ``InstanceId`` proves that an alarm belongs to an instance.

Setting: ``alarm_name_prefix``. The step ignores alarms whose names do not begin with it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from ec2_decommission.custom_step import Batch, Facts, Instance, InstanceStep, Left, Living, Removal, StepTools


class CloudWatchAlarms(InstanceStep):
    """Deletes the metric alarms that watch only a terminated instance."""

    def __init__(self, tools: StepTools) -> None:
        super().__init__(tools)
        self._prefix = tools.setting("alarm_name_prefix")
        self._alarms: dict[str, list[Any]] = {}

    def look(self, batch: Batch) -> Mapping[str, Facts]:
        """CloudWatch cannot filter alarms by instance, so this reads all alarms once for the whole batch."""
        pages = self.tools.aws("cloudwatch").get_paginator("describe_alarms")
        for page in pages.paginate(AlarmNamePrefix=self._prefix, AlarmTypes=["MetricAlarm"]):
            for alarm in page["MetricAlarms"]:
                for instance_id in _watched(alarm) & batch.instances.keys():
                    self._alarms.setdefault(instance_id, []).append(alarm)
        return {}

    def find_one(self, instance: Instance, living: Living) -> Iterable[Removal | Left]:
        for alarm in self._alarms.get(instance.instance_id, ()):
            target = f"alarm {alarm['AlarmName']}"
            others = _watched(alarm) - {instance.instance_id}
            if others:
                yield Left(target, f"watches {', '.join(sorted(others))} too")
            else:
                proof = f"its dimension InstanceId is {instance.instance_id}"
                yield Removal("delete", target, proof, handle=alarm["AlarmName"])

    def remove_one(self, instance: Instance, removal: Removal) -> bool | Left:
        """Reads the alarm again first: a replacement may have created an alarm with the same name."""
        cloudwatch = self.tools.aws("cloudwatch")
        alarms = cloudwatch.describe_alarms(AlarmNames=[removal.handle], AlarmTypes=["MetricAlarm"])["MetricAlarms"]
        if not alarms:
            return False
        if _watched(alarms[0]) != {instance.instance_id}:
            return Left(removal.target, "changed meanwhile: it watches another instance")
        cloudwatch.delete_alarms(AlarmNames=[removal.handle])
        return True


def _watched(alarm: Mapping[str, Any]) -> set[str]:
    """The instances in an alarm's dimensions, including those of its metric math."""
    metrics = [query["MetricStat"]["Metric"] for query in alarm.get("Metrics", ()) if "MetricStat" in query]
    return {
        dimension["Value"]
        for metric in [alarm, *metrics]
        for dimension in metric.get("Dimensions", ())
        if dimension["Name"] == "InstanceId"
    }


make_step = CloudWatchAlarms
