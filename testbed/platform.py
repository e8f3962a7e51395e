"""All systems: AWS, Consul, Chef and Vault, and a fleet of instances with objects in them."""

from __future__ import annotations

import ipaddress
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from moto.ec2.models import ec2_backends

from testbed.aws import LaunchedInstance, StrictAws
from testbed.chef import ChefServer
from testbed.consul import Agent, ConsulCluster
from testbed.lambda_service import EventSourcePoller, LambdaService
from testbed.vault import VaultServer

ZONE = "example.internal"
REVERSE_ZONE = "0.10.in-addr.arpa"
LOCK_PREFIX = "locks/"
TOOL_CLIENT = "ec2-decommission"  # the Chef client that the function signs as

# The minimum permissions of the Consul step, as in the README.
CONSUL_RULES = """
node_prefix "" { policy = "write" }
session_prefix "" { policy = "write" }
key_prefix "locks/" { policy = "write" }
operator = "write"
"""


@dataclass
class Member:
    """An instance of the fleet, and its objects in the systems."""

    name: str
    instance: LaunchedInstance
    agent: Agent
    session: str
    lock: str

    @property
    def id(self) -> str:
        return self.instance.id


@dataclass(frozen=True)
class Trace:
    """An object in a system, and the name of its owner."""

    owner: str
    system: str
    thing: str


@dataclass
class Platform:
    """Starts and stops all systems. `progress` receives a line for each."""

    run_directory: Path
    progress: Callable[[str], None] = lambda _: None
    region: str = "eu-west-1"
    fleet: dict[str, Member] = field(default_factory=dict)

    def start(self) -> Self:
        self._stack = ExitStack()
        try:
            self._start()
        except BaseException:
            self._stack.close()
            raise
        return self

    def _start(self) -> None:
        self.progress("AWS (moto, made strict, IAM enforced)")
        self.aws = self._stack.enter_context(StrictAws(self.region))
        self.consul = ConsulCluster(run_directory=self.run_directory / "consul")
        self.chef = ChefServer(run_directory=self.run_directory / "chef")
        self.vault = VaultServer(run_directory=self.run_directory / "vault")
        servers: dict[str, ConsulCluster | ChefServer | VaultServer] = {
            "Consul (ACLs on)": self.consul,
            "Chef (goiardi, signed requests)": self.chef,
            "Vault (OpenBao)": self.vault,
        }
        with ThreadPoolExecutor() as pool:
            for future in [pool.submit(self._start_server, *server) for server in servers.items()]:
                future.result()
        (self.run_directory / "lambda").mkdir(parents=True, exist_ok=True)
        self.functions = self._stack.enter_context(
            LambdaService(self.aws, run_directory=self.run_directory / "lambda")
        )
        self.poller = EventSourcePoller(self.functions)
        self.route53 = self.aws.client("route53")
        self.zone_id = self._zone(ZONE)
        self.reverse_zone_id = self._zone(REVERSE_ZONE)
        self.chef_key = self.chef.create_client(TOOL_CLIENT, admin=True)
        self.consul_token = self.consul.create_token(CONSUL_RULES)
        self.vault.write_kv2("secret", "ec2-decommission/chef", {"client_key": self.chef_key.decode()})
        self.vault.write_kv2("secret", "ec2-decommission/consul", {"token": self.consul_token})

    def _start_server(self, title: str, server: ConsulCluster | ChefServer | VaultServer) -> None:
        self._stack.enter_context(server)
        self.progress(title)

    def stop(self) -> None:
        self._stack.close()

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def vault_token(self) -> str:
        """A token that can read only the two secrets."""
        return self.vault.create_token("secret/data/ec2-decommission/chef", "secret/data/ec2-decommission/consul")

    def example_variables(self, **more: Any) -> dict[str, Any]:
        """The variables of `examples/complete` for this platform."""
        return {
            "region": self.region,
            "zone_ids": [self.zone_id, self.reverse_zone_id],
            "chef_server_url": self.chef.url,
            "chef_client_name": TOOL_CLIENT,
            "consul_url": self.consul.url,
            "vault_address": self.vault.address,
            "subnet_ids": [self.aws.subnet_id],
            "security_group_ids": [self.aws.security_group_id],
            **more,
        }

    # The fleet

    def launch(
        self,
        name: str,
        private_ip: str | None = None,
        *,
        age: timedelta = timedelta(hours=1),
        replaces: Agent | None = None,
    ) -> Member:
        """Launches an instance with DNS records, a Chef node and client, and a Consul agent that holds a lock.

        The launch time is ``age`` ago, because sweeps ignore instances younger than ten minutes. The agent has a
        loopback address instead of the instance's address, because all agents run on this machine.
        """
        instance = self.aws.launch(name, private_ip, emit=False)
        backend = ec2_backends[self.aws.account][self.region]
        backend.get_instance(instance.id).launch_time = datetime.now(UTC) - age
        self.aws.emit(self.aws.state_change(instance.id, "running"))
        record = f"{name}.{ZONE}"
        self.change_record("UPSERT", self.zone_id, record, "A", instance.private_ip)
        self.change_record("UPSERT", self.reverse_zone_id, pointer(instance.private_ip), "PTR", f"{record}.")
        self.chef.create_client(name)
        ec2 = {"instance_id": instance.id, "local_ipv4": instance.private_ip}
        self.chef.create_node(name, ec2=ec2, automatic={"ipaddress": instance.private_ip})
        meta = {"instance_id": instance.id}
        agent = self.consul.replace_agent(replaces, meta=meta) if replaces else self.consul.add_agent(name, meta=meta)
        session = self.consul.create_session(name)
        lock = f"{LOCK_PREFIX}{name}"
        self.consul.acquire(lock, session, name.encode())
        member = Member(name, instance, agent, session, lock)
        self.fleet[name] = member
        return member

    def replace(self, old: Member) -> Member:
        """Terminates the member without an event, and launches one with the same name, addresses and Chef node."""
        self.kill(old, emit=False)
        self.chef.delete_node(old.name)
        self.chef.delete_client(old.name)
        self.consul.api("PUT", f"/v1/kv/{old.lock}", params={"release": old.session})  # avoids a lock delay
        self.consul.api("PUT", f"/v1/session/destroy/{old.session}")
        return self.launch(old.name, old.instance.private_ip, replaces=old.agent)

    def kill(self, member: Member, *, emit: bool = True) -> None:
        """Terminates the instance, kills its Consul agent, and waits until Consul sees the failure."""
        member.agent.kill()
        self.consul.wait_for_status(member.name, "failed")
        self.aws.terminate(member.id, emit=emit)

    def change_record(self, action: str, zone_id: str, name: str, kind: str, *values: str, ttl: int = 60) -> None:
        """Changes one record set with CREATE, UPSERT or DELETE."""
        record = {
            "Name": name,
            "Type": kind,
            "TTL": ttl,
            "ResourceRecords": [{"Value": value} for value in values],
        }
        self.route53.change_resource_record_sets(
            HostedZoneId=zone_id, ChangeBatch={"Changes": [{"Action": action, "ResourceRecordSet": record}]}
        )

    # Traces

    def traces(self) -> list[Trace]:
        """All of the fleet's objects in the three systems."""
        return [*self._records(), *self._chef_traces(), *self._consul_traces()]

    def _records(self) -> Iterator[Trace]:
        for zone_id in (self.zone_id, self.reverse_zone_id):
            for page in self.route53.get_paginator("list_resource_record_sets").paginate(HostedZoneId=zone_id):
                for record in page["ResourceRecordSets"]:
                    if record["Type"] in ("NS", "SOA"):
                        continue
                    values = ",".join(r["Value"] for r in record["ResourceRecords"])
                    owner = (values if record["Type"] == "PTR" else record["Name"]).split(".")[0]
                    yield Trace(owner, "Route 53", f"{record['Type']} {record['Name']} {values}")

    def _chef_traces(self) -> Iterator[Trace]:
        own = {TOOL_CLIENT, "chef-validator", "chef-webui", self.chef.admin_name}
        yield from (Trace(name, "Chef", f"node {name}") for name in self.chef.nodes())
        yield from (Trace(name, "Chef", f"client {name}") for name in self.chef.clients() if name not in own)

    def _consul_traces(self) -> Iterator[Trace]:
        for node in self.consul.nodes():
            name = node["Node"]
            if name != self.consul.node_name:
                yield Trace(name, "Consul", f"node {name} ({self.consul.member_status(name) or 'no member'})")
        for session in self.consul.sessions():
            yield Trace(session["Node"], "Consul", f"session {session['ID'][:8]} of {session['Node']}")
        for member in self.fleet.values():
            entry = self.consul.kv(member.lock)
            if entry:
                held = f"held by {entry['Session'][:8]}" if entry.get("Session") else "free"
                yield Trace(member.name, "Consul", f"lock {member.lock} {held}")

    def _zone(self, name: str) -> str:
        zone = self.route53.create_hosted_zone(Name=name, CallerReference=name)["HostedZone"]
        return str(zone["Id"]).rpartition("/")[2]


def pointer(address: str) -> str:
    """The PTR record name of an address."""
    return ipaddress.ip_address(address).reverse_pointer
