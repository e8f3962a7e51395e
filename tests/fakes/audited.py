"""The world with restore, and with an audit in the strict AWS's S3."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from ec2_decommission.audit import S3Audit
from ec2_decommission.clients.s3 import S3Bucket
from ec2_decommission.restore import Restorer, chef_objects, consul_objects, record_sets
from tests.fakes.world import FORWARD, REVERSE, World

if TYPE_CHECKING:
    from ec2_decommission.restore import System
    from testbed.aws import StrictAws

BUCKET, PREFIX = "audit", "decommission/"


class AuditedWorld(World):
    """Writes the audit to ``BUCKET``.

    Args:
        client: a boto3 ``s3`` client for the function, by default for the strict AWS's administrator.
    """

    def __init__(self, aws: StrictAws, client: Any = None, **more: Any) -> None:
        super().__init__(**more)
        self.s3 = aws.client("s3")
        if BUCKET not in {bucket["Name"] for bucket in self.s3.list_buckets()["Buckets"]}:
            self.s3.create_bucket(Bucket=BUCKET)
        self.client = client or self.s3
        self.restore_on()

    def restore_on(self) -> None:
        """Creates audit and restore from the configuration."""
        audit = S3Audit(S3Bucket(lambda: self.client, BUCKET), PREFIX, lambda: self.time)
        systems: dict[str, System] = {}
        if self.config.route53:
            systems["route53"] = lambda gone: record_sets(self.zones, [FORWARD, REVERSE], gone)
        if self.config.chef:
            systems["chef"] = lambda gone: chef_objects(self.chef, gone)
        if consul := self.config.consul:
            systems["consul"] = lambda gone: consul_objects(self.consul, consul, gone)
        steps = [*systems, *(step.name for step in self.more_steps)]
        inventory = self.inventory if self.config.inventory else None
        self.audit = audit
        self.restore = Restorer(audit, inventory, systems, steps, lambda: self.time)
        self.cold_start()

    def ended(self, name: str = "web-1", ip: str | None = None, **more: Any) -> str:
        """A recorded and terminated instance."""
        instance_id = self.launch(name, ip, **more)
        self.send(self.running(instance_id))
        self.ec2.terminate(instance_id)
        return instance_id

    def kept(self) -> dict[str, dict[str, Any]]:
        """All audit objects, by key."""
        keys = [entry["Key"] for entry in self.s3.list_objects_v2(Bucket=BUCKET).get("Contents", ())]
        return {key: json.loads(self.s3.get_object(Bucket=BUCKET, Key=key)["Body"].read()) for key in keys}

    def put_back(self, instance_id: str, **more: Any) -> dict[str, Any]:
        """Makes the operator's call for a restore."""
        return self.send({"restore": instance_id, **more})
