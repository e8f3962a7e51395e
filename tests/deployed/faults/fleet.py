"""Many instances at little cost: their traces are real, their Consul nodes have no agent of their own.

A node without an agent keeps sessions and locks like one whose agent has died, which is the state that matters here.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from moto.ec2.models import ec2_backends

from testbed.platform import LOCK_PREFIX, ZONE, Platform, pointer
from tests.deployed.faults.lane import failures

_numbers = itertools.count(1)


@dataclass(frozen=True)
class Light:
    """An instance and its traces, as `Fleet.world` writes them."""

    id: str
    name: str
    address: str
    node: str
    session: str
    traces: frozenset[str]


@dataclass(frozen=True)
class Family:
    """Instances that will die, and the one that replaces them under the same name and lives on."""

    name: str
    dying: tuple[Light, ...]
    heir: Light


@dataclass
class Fleet:
    """Launches families, and looks at the world they leave their traces in."""

    platform: Platform

    def __post_init__(self) -> None:
        # All clients share one key: making keys is what takes a Chef server's time.
        key = rsa.generate_private_key(65537, 2048).public_key()
        self._public_key = key.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo).decode()

    def family(self, dying: int = 1) -> Family:
        """They share Name tag and DNS name; each has its own Chef node and client, Consul node, session and lock."""
        name = f"light-{next(_numbers)}"
        instances = self._run(name, dying + 1)
        record = f"{name}.{ZONE}"
        addresses = [instance["PrivateIpAddress"] for instance in instances]
        self.platform.change_record("CREATE", self.platform.zone_id, record, "A", *addresses)
        for address in addresses:
            zone_id = self.platform.reverse_zone_id
            self.platform.change_record("CREATE", zone_id, pointer(address), "PTR", f"{record}.")
        # The heir's Chef node has taken over the name.
        nodes = [*(f"{name}-{number}" for number in range(1, dying + 1)), name]
        members = [self._member(name, node, raw) for node, raw in zip(nodes, instances, strict=True)]
        return Family(name, tuple(members[:-1]), members[-1])

    def _run(self, name: str, count: int) -> Sequence[dict[str, Any]]:
        answer = self.platform.aws.client("ec2").run_instances(
            ImageId="ami-12c6146b",
            InstanceType="t3.micro",
            MinCount=count,
            MaxCount=count,
            SubnetId=self.platform.aws.subnet_id,
            TagSpecifications=[{"ResourceType": "instance", "Tags": [{"Key": "Name", "Value": name}]}],
        )
        instances: Sequence[dict[str, Any]] = answer["Instances"]
        backend = ec2_backends[self.platform.aws.account][self.platform.region]
        for instance in instances:
            backend.get_instance(instance["InstanceId"]).launch_time = datetime.now(UTC) - timedelta(hours=1)
        return instances

    def _member(self, name: str, node: str, raw: dict[str, Any]) -> Light:
        instance_id, address = raw["InstanceId"], raw["PrivateIpAddress"]
        chef, consul = self.platform.chef, self.platform.consul
        client = {"name": node, "admin": False, "public_key": self._public_key}
        chef.api.request("POST", "/clients", json=client)
        ec2 = {"instance_id": instance_id, "local_ipv4": address}
        chef.create_node(node, ec2=ec2, automatic={"ipaddress": address})
        consul.register_node(node, address, {"instance_id": instance_id})
        session = consul.create_session(node)
        consul.acquire(f"{LOCK_PREFIX}{node}", session, node.encode())
        traces = {
            f"A {name}.{ZONE}. {address}",
            f"PTR {pointer(address)}. {name}.{ZONE}.",
            f"Chef node {node}",
            f"Chef client {node}",
            f"Consul node {node}",
            f"session {session} of {node}",
            f"lock {LOCK_PREFIX}{node} held by {session}",
        }
        return Light(instance_id, name, address, node, session, frozenset(traces))

    def start(self, count: int, *, dying: int = 1) -> list[Family]:
        """Families that the deployed function knows, whose dying have died: their messages wait in the queue."""
        families = [self.family(dying) for _ in range(count)]
        self.tell((light for family in families for light in (*family.dying, family.heir)), "running")
        for batch in self.platform.poller.drain():
            assert failures(batch) == []
        self.tell((light for family in families for light in family.dying), "terminated")
        return families

    def tell(self, instances: Iterable[Light], state: str) -> None:
        """Emits the event; a terminated one is terminated before."""
        aws = self.platform.aws
        for instance in instances:
            if state == "terminated":
                aws.terminate(instance.id, emit=False)
            aws.emit(aws.state_change(instance.id, state))

    def world(self) -> frozenset[str]:
        """All traces that are there, asked of the servers themselves."""
        platform = self.platform
        found: set[str] = set()
        for zone_id in (platform.zone_id, platform.reverse_zone_id):
            for page in platform.route53.get_paginator("list_resource_record_sets").paginate(HostedZoneId=zone_id):
                for record in page["ResourceRecordSets"]:
                    values = (value["Value"] for value in record.get("ResourceRecords", ()))
                    found |= {f"{record['Type']} {record['Name']} {value}" for value in values}
        found |= {f"Chef node {name}" for name in platform.chef.nodes()}
        found |= {f"Chef client {name}" for name in platform.chef.clients()}
        found |= {f"Consul node {node['Node']}" for node in platform.consul.nodes()}
        found |= {f"session {session['ID']} of {session['Node']}" for session in platform.consul.sessions()}
        for key in platform.consul.api("GET", f"/v1/kv/{LOCK_PREFIX}", params={"recurse": ""}):
            found.add(f"lock {key['Key']} " + (f"held by {key['Session']}" if key.get("Session") else "free"))
        return frozenset(found)
