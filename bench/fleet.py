"""Instances with objects on real servers, and the function that removes them."""

from __future__ import annotations

import ipaddress
import json
import random
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, replace
from datetime import timedelta
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from moto.ec2.models import ec2_backends

from bench import environment
from bench.environment import SOURCES, Handled
from ec2_decommission.chunks import chunks
from ec2_decommission.clients.ec2 import BotoEc2
from ec2_decommission.deadline import Deadline, until
from ec2_decommission.instance import Instance
from ec2_decommission.inventory import DynamoInventory
from ec2_decommission.place import Place
from testbed.aws import StrictAws
from testbed.aws_route53 import fill, record_sets
from testbed.chef import ChefServer
from testbed.chef_index import ChefIndex
from testbed.consul import ConsulCluster
from testbed.fault_proxy import FaultProxy
from testbed.inventory import make_inventory_table

ZONE = "example.internal"
REVERSE_ZONE = "0.10.in-addr.arpa"
TABLE = "ec2-decommission-inventory"
TOOL = "ec2-decommission"
CONSUL_RULES = """
node_prefix "" { policy = "write" }
session_prefix "" { policy = "write" }
key_prefix "locks/" { policy = "write" }
operator = "write"
"""


@dataclass(frozen=True)
class Dead:
    """A terminated instance and its event."""

    instance_id: str
    name: str
    private_ip: str
    event: Mapping[str, Any]


class Servers:
    """AWS, Chef and Consul. Proxies count the requests to Chef and Consul."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._stack = ExitStack()
        self.index = ChefIndex()
        key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
        # One key for all clients: a Chef server is slow at creating keys.
        self._public_key = key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo).decode()
        self._random = random.Random(1)  # noqa: S311  # the same names in every run

    def __enter__(self) -> Self:
        self.aws = self._stack.enter_context(StrictAws())
        self.chef = self._stack.enter_context(ChefServer(run_directory=self._directory / "chef"))
        self.consul = self._stack.enter_context(ConsulCluster(run_directory=self._directory / "consul"))
        self.chef_door = self._stack.enter_context(FaultProxy(self.chef.url))
        self.chef_door.answers(self.index.answer)
        self.chef_door.watch = self.index.watch
        self.consul_door = self._stack.enter_context(FaultProxy(self.consul.url))
        self._secrets = {
            "chef_client_key": self.chef.create_client(TOOL, admin=True).decode(),
            "consul_token": self.consul.create_token(CONSUL_RULES),
        }
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.close()

    def reset(self, *, other_records: int = 100) -> None:
        """Resets AWS to an empty account with an inventory and two zones, each with other instances' records."""
        self.aws.reset()
        self.zone_id, self.reverse_zone_id = self._zone(ZONE), self._zone(REVERSE_ZONE)
        make_inventory_table(self.aws.client("dynamodb"), TABLE)
        self.inventory = DynamoInventory(self.aws.client("dynamodb"), TABLE, 30)
        names = [self._name() for _ in range(other_records)]
        addresses = self._random.sample(range(128 * 256, 256 * 256), other_records)
        fill(self.zone_id, (_record(f"{n}.{ZONE}", "A", "192.0.2.1") for n in names))
        self._point(zip((f"10.0.{a // 256}.{a % 256}" for a in addresses), names, strict=True))

    def config(self, **more: Any) -> dict[str, Any]:
        """The function's configuration, with all three steps."""
        return {
            "name": TOOL,
            "account_id": self.aws.account,
            "region": self.aws.region,
            "route53": {
                "zones": [{"id": self.zone_id}, {"id": self.reverse_zone_id}],
                "record_names": [f"{{tag:Name}}.{ZONE}"],
                "requests_per_second": 1000,
            },
            "chef": {"server_url": self.chef_door.url, "client_name": TOOL, "node_name": "{tag:Name}"},
            "consul": {"url": self.consul_door.url, "lock_prefixes": ["locks/"]},
            "inventory": {"table_name": TABLE},
            "secrets": ["chef_client_key", "consul_token"],
            "encryption_context": {"FunctionName": TOOL},
            **more,
        }

    def handle(self, event: Any, config: Mapping[str, Any] | None = None, code: Path = SOURCES) -> Handled:
        """Handles an event with a cold function."""
        return environment.handle(event, config or self.config(), self._secrets, self.aws.environ(), code)

    def fleet(self, number: int) -> list[Dead]:
        """Creates terminated instances with DNS records, Chef node and client, and Consul node, session and lock.

        The inventory has recorded them. A single instance also has a dead Consul agent. Larger fleets have only
        Consul nodes, as if gossip had forgotten their agents.
        """
        instances = self.launch(number)
        fill(self.zone_id, (_record(f"{i.tags['Name']}.{ZONE}", "A", i.private_ips[0]) for i in instances))
        self._point((i.private_ips[0], i.tags["Name"]) for i in instances)
        with ThreadPoolExecutor(4) as pool:
            list(pool.map(self._converge, instances))
        if number == 1:
            self._run_agent(instances[0])
        else:
            self._join(instances)
        self.terminate(instances)
        return [
            Dead(i.instance_id, i.tags["Name"], i.private_ips[0], self.aws.state_change(i.instance_id, "terminated"))
            for i in instances
        ]

    def launch(self, number: int) -> list[Instance]:
        """Launches instances in an empty account, a day ago, and records them in the inventory."""
        client, backend = self.aws.client("ec2"), ec2_backends[self.aws.account][self.aws.region]
        kind = {"ImageId": "ami-12c6146b", "InstanceType": "t3.micro", "SubnetId": self.aws.subnet_id}
        for some in chunks(range(number), 500):
            for raw in client.run_instances(**kind, MinCount=len(some), MaxCount=len(some))["Instances"]:
                backend.create_tags([raw["InstanceId"]], {"Name": self._name()})
                backend.get_instance(raw["InstanceId"]).launch_time -= timedelta(days=1)
        living = BotoEc2(lambda: client, Place(self.aws.account, self.aws.region)).living({})
        instances = [replace(description.instance(), ran=True) for description in living]
        with until(Deadline.after(600)):
            self.inventory.remember_running(instances, {}, tags_known=True)
        return instances

    def terminate(self, instances: Iterable[Instance]) -> None:
        """Ends them."""
        for some in chunks((i.instance_id for i in instances), 200):
            self.aws.client("ec2").terminate_instances(InstanceIds=some)

    def left(self, dead: Iterable[Dead]) -> list[str]:
        """Remaining objects of these instances, except Consul nodes, which the function leaves."""
        names = {one.name for one in dead}
        held = [name for name in self.chef.nodes() if name in names]
        held += [f"client {name}" for name in self.chef.clients() if name in names]
        held += [f"session of {s['Node']}" for s in self.consul.sessions() if s["Node"] in names]
        for entry in self.consul.api("GET", "/v1/kv/locks/", params={"recurse": ""}):
            if entry.get("Session") and entry["Key"].removeprefix("locks/") in names:
                held.append(f"lock {entry['Key']}")
        for zone_id in (self.zone_id, self.reverse_zone_id):
            for record in record_sets(zone_id):
                values = [r["Value"] for r in record["ResourceRecords"]]
                if names & {record["Name"].split(".")[0], *(v.split(".")[0] for v in values)}:
                    held.append(f"{record['Type']} {record['Name']}")
        return held

    def reset_calls(self) -> None:
        """Resets the request counts."""
        self.aws.reset_calls()
        self.chef_door.seen.clear()
        self.consul_door.seen.clear()

    @property
    def calls(self) -> dict[str, int]:
        """Requests since the last reset, by system."""
        services = {"dynamodb": "DynamoDB", "ec2": "EC2", "route53": "Route 53", "sqs": "SQS"}
        counts = dict.fromkeys(services.values(), 0)
        for call, number in self.aws.calls.items():
            counts[services[call.partition(":")[0]]] += number
        return {**counts, "Chef": len(self.chef_door.seen), "Consul": len(self.consul_door.seen)}

    def _name(self) -> str:
        # The worst case is names that are spread over the zone: adjacent names are listed together.
        return f"{self._random.getrandbits(48):012x}"

    def _point(self, names_by_address: Iterable[tuple[str, str]]) -> None:
        """Creates PTR records."""
        records = (_record(_pointer(address), "PTR", f"{name}.{ZONE}.") for address, name in names_by_address)
        fill(self.reverse_zone_id, records)

    def _zone(self, name: str) -> str:
        zone = self.aws.client("route53").create_hosted_zone(Name=name, CallerReference=name)["HostedZone"]
        return str(zone["Id"]).rpartition("/")[2]

    def _converge(self, instance: Instance) -> None:
        name = instance.tags["Name"]
        client = {"name": name, "admin": False, "public_key": self._public_key}
        self.chef.api.request("POST", "/clients", json=client)
        address = instance.private_ips[0]
        ec2 = {"instance_id": instance.instance_id, "local_ipv4": address}
        self.chef.create_node(name, ec2=ec2, automatic={"ipaddress": address})
        self.index.nodes[name] = {"ec2": ec2, "ipaddress": address}

    def _run_agent(self, instance: Instance) -> None:
        """Registers a node whose own agent has died."""
        name = instance.tags["Name"]
        agent = self.consul.add_agent(name, meta={"instance_id": instance.instance_id})
        session = self.consul.create_session(name)
        self.consul.acquire(f"locks/{name}", session)
        agent.kill()
        self.consul.wait_for_status(name, "failed")

    def _join(self, instances: Iterable[Instance]) -> None:
        nodes, locks = list[dict[str, Any]](), list[dict[str, Any]]()
        for i in instances:
            node = {"Node": i.tags["Name"], "Address": i.private_ips[0], "Meta": {"instance_id": i.instance_id}}
            nodes.append({"Node": {"Verb": "set", "Node": node}})
        for some in chunks(nodes, 64):
            self.consul.api("PUT", "/v1/txn", json=some)
        for i in instances:
            name = i.tags["Name"]
            session = self.consul.create_session(name)
            locks.append({"KV": {"Verb": "lock", "Key": f"locks/{name}", "Value": "", "Session": session}})
        for some in chunks(locks, 64):
            self.consul.api("PUT", "/v1/txn", json=some)


def batch(events: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
    """An SQS event with these events. A message id is ``m-`` and the instance id."""
    bodies = {event["detail"]["instance-id"]: json.dumps(event) for event in events}
    return {
        "Records": [
            {
                "messageId": f"m-{instance_id}",
                "receiptHandle": f"r-{instance_id}",
                "body": body,
                "attributes": {"ApproximateReceiveCount": "1"},
                "eventSource": "aws:sqs",
            }
            for instance_id, body in bodies.items()
        ]
    }


def _record(name: str, kind: str, value: str) -> dict[str, Any]:
    return {"Name": name, "Type": kind, "TTL": 60, "ResourceRecords": [{"Value": value}]}


def _pointer(address: str) -> str:
    return ipaddress.ip_address(address).reverse_pointer
