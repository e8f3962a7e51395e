"""Instances that leave traces in the real servers, made by the thousand, and terminated at once."""

from __future__ import annotations

import ipaddress
import json
import random
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self
from urllib.parse import parse_qs, urlsplit

from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from moto.ec2.models import ec2_backends

from bench.door import Door
from bench.environment import Environment
from ec2_decommission.chunks import chunks
from ec2_decommission.instance import Facts, Instance
from ec2_decommission.inventory import DynamoInventory
from testbed.aws import Answer, StrictAws
from testbed.aws_route53 import fill, record_sets
from testbed.chef import ChefServer
from testbed.consul import ConsulCluster
from testbed.fault_proxy import Request
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
    """A terminated instance and the event that tells it."""

    instance_id: str
    name: str
    private_ip: str
    event: Mapping[str, Any]


class ChefIndex:
    """Answers node searches at Chef's door, as the search index of a Chef server does.

    goiardi has no index: it reads all nodes for each term, a third of a second for each with a thousand nodes.
    """

    def __init__(self) -> None:
        self.nodes: dict[str, Mapping[str, Any]] = {}

    def answer(self, request: Request) -> Answer | None:
        """The rows of a partial search by instance id or name; None for any other request."""
        url = urlsplit(request.path)
        if request.method != "POST" or url.path != "/search/node":
            return None
        wanted = set(parse_qs(url.query)["q"][0].replace("\\", "").split(" OR "))
        rows = []
        for name, node in list(self.nodes.items()):
            if wanted & {f"name:{name}", f"ec2_instance_id:{node['ec2']['instance_id']}"}:
                data = {key: _at(node, keys) for key, keys in json.loads(request.body).items()}
                rows.append({"url": f"/nodes/{name}", "data": {**data, "name": name}})
        found = json.dumps({"total": len(rows), "start": 0, "rows": rows}).encode()
        return Answer(200, found, {"Content-Type": "application/json"})

    def passed(self, request: Request) -> None:
        """A node that the server was asked to remove is not found any more."""
        if request.method == "DELETE" and request.path.startswith("/nodes/"):
            self.nodes.pop(request.path.removeprefix("/nodes/"), None)


def _at(node: Any, keys: list[str]) -> Any:
    for key in keys:
        node = node.get(key) if isinstance(node, Mapping) else None
    return node


class Servers:
    """AWS, Chef and Consul, with a door before the latter two; each fleet gets an empty AWS account."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._stack = ExitStack()
        self._fleets = 0
        self.index = ChefIndex()
        key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
        # A Chef server makes a client's key by itself, which takes it longer than all else here.
        self._public_key = key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo).decode()
        self._random = random.Random(1)  # noqa: S311  # the same names at every run

    def __enter__(self) -> Self:
        self.aws = self._stack.enter_context(StrictAws())
        self.chef = self._stack.enter_context(ChefServer(run_directory=self._directory / "chef"))
        self.consul = self._stack.enter_context(ConsulCluster(run_directory=self._directory / "consul"))
        self.chef_door = self._stack.enter_context(Door(self.chef.url, self.index.answer, self.index.passed))
        self.consul_door = self._stack.enter_context(Door(self.consul.url))
        self._secrets = {
            "chef_client_key": self.chef.create_client(TOOL, admin=True).decode(),
            "consul_token": self.consul.create_token(CONSUL_RULES),
        }
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.close()

    def reset(self, *, other_records: int, reverse: bool = True) -> None:
        """An empty account with its zones, each of so many records of nobody of ours, and an inventory."""
        self.aws.reset()
        self.zone_id = self._zone(ZONE)
        self.reverse_zone_id = self._zone(REVERSE_ZONE) if reverse else None
        make_inventory_table(self.aws.client("dynamodb"), TABLE)
        self.inventory = DynamoInventory(self.aws.client("dynamodb"), TABLE, 30)
        names = [self._name() for _ in range(other_records)]
        addresses = self._random.sample(range(128 * 256, 256 * 256), other_records)
        fill(self.zone_id, (_record(f"{n}.{ZONE}", "A", "192.0.2.1") for n in names))
        self._point(zip((f"10.0.{a // 256}.{a % 256}" for a in addresses), names, strict=True))

    def config(self, *, deregister_node: bool = False, **more: Any) -> dict[str, Any]:
        """The function's configuration: all three steps."""
        return {
            "name": TOOL,
            "account_id": self.aws.account,
            "region": self.aws.region,
            "route53": {
                "zone_ids": self._zone_ids,
                "record_names": [f"{{tag:Name}}.{ZONE}"],
                "requests_per_second": 1000,
                "max_requests_per_second": 1000,  # as deployed: a call more to the inventory's table
            },
            "chef": {
                "server_url": self.chef_door.url,
                "client_name": TOOL,
                "node_name": "{tag:Name}",
            },
            "consul": {
                "url": self.consul_door.url,
                "lock_prefixes": ["locks/"],
                "deregister_node": deregister_node,
            },
            "inventory": {"table_name": TABLE},
            "secrets": ["chef_client_key", "consul_token"],
            "encryption_context": {"FunctionName": TOOL},
            **more,
        }

    def environment(self, config: Mapping[str, Any]) -> Environment:
        """A cold execution environment."""
        self._fleets += 1
        directory = self._directory / f"environment-{self._fleets}"
        return Environment(config, self._secrets, self.aws.environ(), directory)

    def fleet(self, number: int) -> list[Dead]:
        """Instances with A and PTR record, a Chef node and client, a Consul node, session and lock each.

        They were recorded in the inventory, and are terminated. One alone has a Consul agent, which has died; of
        many there is only the node, as if gossip had forgotten their agents.
        """
        instances = list(self._launch(number))
        fill(self.zone_id, (_record(f"{i.tags['Name']}.{ZONE}", "A", str(i.private_ip)) for i in instances))
        self._point((str(i.private_ip), i.tags["Name"]) for i in instances)
        with ThreadPoolExecutor(4) as pool:
            list(pool.map(self._converge, instances))
        if number == 1:
            self._run_agent(instances[0])
        else:
            self._join(instances)
        self.inventory.remember_running(instances, {})
        for some in chunks((i.instance_id for i in instances), 200):
            self.aws.client("ec2").terminate_instances(InstanceIds=some)
        return [
            Dead(
                i.instance_id,
                i.tags["Name"],
                str(i.private_ip),
                self.aws.state_change(i.instance_id, "terminated"),
            )
            for i in instances
        ]

    def left(self, dead: Iterable[Dead], *, nodes: bool) -> list[str]:
        """What of these instances is still there: nothing, if the function did its work."""
        names = {one.name for one in dead}
        held = [name for name in self.chef.nodes() if name in names]
        held += [f"client {name}" for name in self.chef.clients() if name in names]
        held += [f"session of {s['Node']}" for s in self.consul.sessions() if s["Node"] in names]
        for entry in self.consul.api("GET", "/v1/kv/locks/", params={"recurse": ""}):
            if entry.get("Session") and entry["Key"].removeprefix("locks/") in names:
                held.append(f"lock {entry['Key']}")
        if nodes:
            held += [f"node {n['Node']}" for n in self.consul.nodes() if n["Node"] in names]
        for zone_id in self._zone_ids:
            for record in record_sets(zone_id):
                values = [r["Value"] for r in record["ResourceRecords"]]
                if names & {record["Name"].split(".")[0], *(v.split(".")[0] for v in values)}:
                    held.append(f"{record['Type']} {record['Name']}")
        return held

    def tidy(self, dead: Iterable[Dead]) -> None:
        """Takes the nodes out of Consul's catalog that the function was to leave there."""
        known = {node["Node"] for node in self.consul.nodes()}
        ops = [{"Node": {"Verb": "delete", "Node": {"Node": one.name}}} for one in dead if one.name in known]
        for some in chunks(ops, 64):
            self.consul.api("PUT", "/v1/txn", json=some)

    def reset_calls(self) -> None:
        """Counts from nought."""
        self.aws.reset_calls()
        self.chef_door.seen.clear()
        self.consul_door.seen.clear()

    def _launch(self, number: int) -> Iterator[Instance]:
        ec2 = self.aws.client("ec2")
        backend = ec2_backends[self.aws.account][self.aws.region]
        for some in chunks(range(number), 500):
            made = ec2.run_instances(
                ImageId="ami-12c6146b",
                InstanceType="t3.micro",
                MinCount=len(some),
                MaxCount=len(some),
                SubnetId=self.aws.subnet_id,
            )
            for raw in made["Instances"]:
                name = self._name()
                backend.create_tags([raw["InstanceId"]], {"Name": name})
                facts = Facts(
                    "ec2",
                    account_id=self.aws.account,
                    region=self.aws.region,
                    vpc_id=raw["VpcId"],
                    private_ips=(raw["PrivateIpAddress"],),
                    private_dns_names=(raw["PrivateDnsName"],),
                    tags={"Name": name},
                )
                yield Instance(raw["InstanceId"], state="running").learn(facts)

    def _name(self) -> str:
        # Spread over the zone, which is the worst case: names in a row are listed together.
        return f"{self._random.getrandbits(48):012x}"

    @property
    def _zone_ids(self) -> list[str]:
        return [zone_id for zone_id in (self.zone_id, self.reverse_zone_id) if zone_id]

    def _point(self, names_by_address: Iterable[tuple[str, str]]) -> None:
        """PTR records, where there is a zone for them."""
        if self.reverse_zone_id:
            records = (_record(_pointer(address), "PTR", f"{name}.{ZONE}.") for address, name in names_by_address)
            fill(self.reverse_zone_id, records)

    def _zone(self, name: str) -> str:
        zone = self.aws.client("route53").create_hosted_zone(Name=name, CallerReference=name)["HostedZone"]
        return str(zone["Id"]).rpartition("/")[2]

    def _converge(self, instance: Instance) -> None:
        name = instance.tags["Name"]
        client = {"name": name, "admin": False, "public_key": self._public_key}
        self.chef.api.request("POST", "/clients", json=client)
        ec2 = {"instance_id": instance.instance_id, "local_ipv4": instance.private_ip}
        self.chef.create_node(name, ec2=ec2, automatic={"ipaddress": instance.private_ip})
        self.index.nodes[name] = {"ec2": ec2, "ipaddress": instance.private_ip}

    def _run_agent(self, instance: Instance) -> None:
        """A node with an agent of its own, which has died."""
        name = instance.tags["Name"]
        agent = self.consul.add_agent(name, meta={"instance_id": instance.instance_id})
        session = self.consul.create_session(name)
        self.consul.acquire(f"locks/{name}", session)
        agent.kill()
        self.consul.wait_for_status(name, "failed")

    def _join(self, instances: Iterable[Instance]) -> None:
        instances = list(instances)
        nodes: list[dict[str, Any]] = [
            {
                "Node": {
                    "Verb": "set",
                    "Node": {
                        "Node": i.tags["Name"],
                        "Address": i.private_ip,
                        "Meta": {"instance_id": i.instance_id},
                    },
                }
            }
            for i in instances
        ]
        for some in chunks(nodes, 64):
            self.consul.api("PUT", "/v1/txn", json=some)
        locks: list[dict[str, Any]] = []
        for instance in instances:
            name = instance.tags["Name"]
            session = self.consul.create_session(name)
            locks.append({"KV": {"Verb": "lock", "Key": f"locks/{name}", "Value": "", "Session": session}})
        for some in chunks(locks, 64):
            self.consul.api("PUT", "/v1/txn", json=some)


def batch(dead: Iterable[Dead]) -> dict[str, Any]:
    """The SQS event of these terminations."""
    return {
        "Records": [
            {
                "messageId": f"m-{one.instance_id}",
                "receiptHandle": f"r-{one.instance_id}",
                "body": json.dumps(one.event),
                "attributes": {"ApproximateReceiveCount": "1"},
                "eventSource": "aws:sqs",
            }
            for one in dead
        ]
    }


def _record(name: str, kind: str, value: str) -> dict[str, Any]:
    return {"Name": name, "Type": kind, "TTL": 60, "ResourceRecords": [{"Value": value}]}


def _pointer(address: str) -> str:
    return ipaddress.ip_address(address).reverse_pointer
