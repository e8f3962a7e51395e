"""A Consul datacenter on loopback: a server with ACLs enabled, and real agents for nodes.

Measured on Consul 1.8.7. The installed version decides the names of settings that later versions renamed.
"""

from __future__ import annotations

import base64
import ipaddress
import json
import re
import shutil
import subprocess
import time
import uuid
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

import requests
from consul.std import Consul

from testbed.processes import LOOPBACK, Part, Server, can_bind, free_ports, wait_until
from testbed.tools import consul_binary

_REQUEST_TIMEOUT_SECONDS = 10
# Serf's names of the member states, by their numbers in /v1/agent/members.
_MEMBER_STATES = {0: "none", 1: "alive", 2: "leaving", 3: "left", 4: "failed"}

# A killed agent becomes suspect at the next probe, and failed one suspicion time later (2 x 500 ms), after about two
# seconds in total. With shorter times, a busy machine reports false failures.
_GOSSIP = {
    "gossip_interval": "100ms",
    "probe_interval": "500ms",
    "probe_timeout": "250ms",
    "suspicion_mult": 2,
}

# Permissions for an agent to register itself and to see other agents.
_AGENT_RULES = """
node_prefix "" { policy = "write" }
service_prefix "" { policy = "write" }
agent_prefix "" { policy = "write" }
"""

MemberStatus = Literal["alive", "leaving", "left", "failed"]
JsonObject = dict[str, Any]


class TlsFiles(NamedTuple):
    """The CA certificate, and the server's certificate and key, under Consul's names."""

    ca_file: Path
    cert_file: Path
    key_file: Path


class ConsulApiError(RuntimeError):
    """Consul did not answer 2xx. `status` is the HTTP status."""

    def __init__(self, method: str, path: str, status: int, text: str) -> None:
        super().__init__(f"Consul: {method} {path}: {status} {text.strip()}")
        self.status = status


class Agent:
    """A Consul agent in client mode: one node of the datacenter, in its own process."""

    def __init__(
        self, cluster: ConsulCluster, server: Server, node_name: str, address: str, ports: Sequence[int]
    ) -> None:
        self._cluster = cluster
        self.node_name = node_name
        self.address = address
        self.ports = ports
        self.url = f"http://{address}:{ports[0]}"
        self.server = server

    def kill(self) -> None:
        """Kills the agent with SIGKILL. The other agents see the node fail."""
        self.server.kill()

    def leave(self) -> None:
        """Leaves the datacenter gracefully, which deregisters the node, and exits. Takes about four seconds.

        A leaving agent may still synchronize and so register the node again, without its checks, until the leader
        reconciles a minute later. To keep tests deterministic, this method removes such a node.
        """
        self.server.stop()
        self._cluster.api("PUT", "/v1/catalog/deregister", json={"Node": self.node_name})

    def stop(self) -> None:
        """Ends the process as fast as possible at the end of a test."""
        self.server.kill()

    def restart(self) -> None:
        """Restarts an agent with the same name, address and node id."""
        self.server.start()


class ConsulCluster(Part):
    """A server agent (ACLs enabled, default deny) and the client agents that join it.

    With `primary`, this becomes a secondary datacenter with ACL policies and tokens replicated from the primary.
    With `tls`, `https_url` serves the HTTP API too, and requires client certificates of that authority
    (verify_incoming).
    """

    def __init__(
        self,
        datacenter: str = "dc1",
        *,
        primary: ConsulCluster | None = None,
        run_directory: Path | None = None,
        tls: TlsFiles | None = None,
    ) -> None:
        super().__init__(f"consul-{datacenter}", run_directory)
        self.datacenter = datacenter
        self.primary = primary
        self.node_name = f"{datacenter}-server"
        self.address = LOOPBACK
        self.management_token: str = primary.management_token if primary else str(uuid.uuid4())
        self.agents: dict[str, Agent] = {}
        self._secondaries: list[ConsulCluster] = []
        self._agent_token = ""
        self._next_address = ipaddress.IPv4Address("127.0.0.2")
        self._http_port, self._rpc_port, self._lan_port, self._wan_port = free_ports(4)
        self.url = f"http://{self.address}:{self._http_port}"
        self._tls = tls
        if tls:
            [self._https_port] = free_ports(1)
            self.https_url = f"https://{self.address}:{self._https_port}"
        self._http = requests.Session()
        # Ignore the user's proxy and .netrc settings: everything is on loopback.
        self._http.trust_env = False
        self.server: Server | None = None

    def _start(self) -> None:
        binary = consul_binary()
        self._version = _version_of(binary)
        self.server = self._prepare_server(binary)
        self.server.start()
        if self.primary is None:
            self._agent_token = self.create_token(_AGENT_RULES)
        else:
            self._agent_token = self.primary._agent_token
            self.primary._secondaries.append(self)
            self._wait_federated(self.primary)

    def _stop(self) -> None:
        for agent in self.agents.values():
            agent.stop()
        if self.primary and self in self.primary._secondaries:
            self.primary._secondaries.remove(self)
        if self.server:
            # Its data is discarded, so there is no need for a graceful stop.
            self.server.kill()

    # Nodes

    def add_agent(
        self,
        node_name: str,
        *,
        meta: Mapping[str, str] | None = None,
        address: str | None = None,
    ) -> Agent:
        """Starts an agent and waits until the catalog shows it alive, with its meta.

        `address` must belong to this machine. By default, each agent gets the next address in 127.0.0.0/8. On macOS,
        which has only 127.0.0.1, agents share it and use different ports.
        """
        agent = self._prepare_agent(node_name, dict(meta or {}), address or self._new_address())
        return self._start_agent(agent)

    def replace_agent(self, old: Agent, *, meta: Mapping[str, str]) -> Agent:
        """Starts an agent for a new machine with the name and the address of a failed one."""
        shutil.rmtree(self.run_directory / old.node_name)  # otherwise, the node id stays the same
        return self._start_agent(self._prepare_agent(old.node_name, dict(meta), old.address, old.ports))

    def _start_agent(self, agent: Agent) -> Agent:
        self.agents[agent.node_name] = agent
        agent.server.start()
        return agent

    def register_node(self, node_name: str, address: str, meta: Mapping[str, str] | None = None) -> None:
        """Registers a node without an agent: it is not a member, and has no serfHealth check."""
        node = {"Node": node_name, "Address": address, "NodeMeta": dict(meta or {})}
        self.api("PUT", "/v1/catalog/register", json=node)

    def node(self, node_name: str) -> JsonObject | None:
        """The node in the catalog (ID, Node, Address, Meta, …), or None."""
        answer = self.api("GET", f"/v1/catalog/node/{node_name}")
        # Later versions answer an object with an empty node instead of null.
        node: JsonObject | None = (answer or {}).get("Node")
        return node

    def nodes(self) -> list[JsonObject]:
        """All nodes in the catalog."""
        nodes: list[JsonObject] = self.api("GET", "/v1/catalog/nodes")
        return nodes

    def member_status(self, node_name: str) -> str | None:
        """The node's status in gossip: alive, leaving, left or failed; None if it is not a member."""
        for member in self.api("GET", "/v1/agent/members"):
            if member["Name"] == node_name:
                return _MEMBER_STATES[member["Status"]]
        return None

    def wait_for_status(self, node_name: str, status: MemberStatus, *, timeout: float = 30) -> float:
        """Waits until gossip and the catalog agree on the status. Returns the seconds waited.

        At "failed", the serfHealth check is critical in the catalog, so sessions that depend on it are gone.
        """
        begin = time.monotonic()
        wait_until(
            lambda: self.member_status(node_name) == status and self._catalog_agrees(node_name, status),
            timeout=timeout,
            what=f"Consul node {node_name} becoming {status} (it is {self.member_status(node_name)})",
        )
        return time.monotonic() - begin

    # Sessions and locks

    def create_session(
        self,
        node: str,
        *,
        behavior: Literal["release", "delete"] = "release",
        checks: Sequence[str] = (),
        lock_delay_seconds: float = 15,
        ttl_seconds: int | None = None,
    ) -> str:
        """Creates a session on the node. Without checks, it lives until it is destroyed. Consul's own default is
        ["serfHealth"], which requires a node with an agent."""
        session: JsonObject = {
            "Node": node,
            "Behavior": behavior,
            "Checks": list(checks),
            # A Go duration; "0s" means none.
            "LockDelay": f"{int(lock_delay_seconds * 1000)}ms",
        }
        if ttl_seconds is not None:
            session["TTL"] = f"{ttl_seconds}s"
        identity: str = self.api("PUT", "/v1/session/create", json=session)["ID"]
        return identity

    def sessions(self, node: str | None = None) -> list[JsonObject]:
        """All sessions, or the sessions of one node."""
        path = f"/v1/session/node/{node}" if node else "/v1/session/list"
        sessions: list[JsonObject] = self.api("GET", path)
        return sessions

    def acquire(self, key: str, session: str, value: bytes = b"", flags: int = 0) -> bool:
        """Acquires the lock. Returns False if it is held, or during its lock delay."""
        return bool(self.api("PUT", f"/v1/kv/{key}", params={"acquire": session, "flags": str(flags)}, data=value))

    def put(self, key: str, value: bytes = b"", flags: int = 0) -> None:
        """Writes a key without a lock."""
        self.api("PUT", f"/v1/kv/{key}", params={"flags": str(flags)}, data=value)

    def kv(self, key: str) -> JsonObject | None:
        """The key as Consul returns it, with `Value` as bytes. A locked key has `Session`."""
        try:
            [entry] = self.api("GET", f"/v1/kv/{key}")
        except ConsulApiError as error:
            if error.status == requests.codes.not_found:
                return None
            raise
        entry["Value"] = base64.b64decode(entry["Value"] or "")
        found: JsonObject = entry
        return found

    # Access

    def create_token(self, rules: str) -> str:
        """Creates a token with these ACL rules (HCL), valid in all federated datacenters. Returns its secret."""
        if self.primary:
            return self.primary.create_token(rules)
        name = f"test-{uuid.uuid4()}"
        self.api("PUT", "/v1/acl/policy", json={"Name": name, "Rules": rules})
        secret: str = self.api("PUT", "/v1/acl/token", json={"Policies": [{"Name": name}]})["SecretID"]
        for secondary in self._secondaries:
            secondary._wait_token(secret)
        return secret

    def change_token(self, secret: str, rules: str) -> None:
        """Replaces the rules of the token's policy."""
        [link] = self.api("GET", "/v1/acl/token/self", token=secret)["Policies"]
        policy = {"ID": link["ID"], "Name": link["Name"], "Rules": rules}
        self.api("PUT", f"/v1/acl/policy/{link['ID']}", json=policy)

    def delete_token(self, secret: str) -> None:
        """Revokes the token."""
        accessor = self.api("GET", "/v1/acl/token/self", token=secret)["AccessorID"]
        self.api("DELETE", f"/v1/acl/token/{accessor}")

    def client(self, token: str | None = None) -> Consul:
        """A python-consul client for this server, by default with the management token.

        The token is set in the HTTP session's headers, because the library omits it in some calls.
        """
        client = Consul(host=self.address, port=self._http_port)
        client.http.session.trust_env = False
        client.http.session.headers["X-Consul-Token"] = token or self.management_token
        return client

    def api(
        self,
        method: str,
        path: str,
        *,
        token: str | None = None,
        params: Mapping[str, str] | None = None,
        json: Any = None,
        data: bytes | None = None,
    ) -> Any:
        """Sends a request to the HTTP API, by default with the management token. Returns the parsed answer.

        Raises ConsulApiError for any status other than 2xx. An empty token means anonymous.
        """
        answer = self._http.request(
            method,
            self.url + path,
            params=params,
            json=json,
            data=data,
            headers={"X-Consul-Token": self.management_token if token is None else token},
            timeout=_REQUEST_TIMEOUT_SECONDS,
        )
        if not answer.ok:
            raise ConsulApiError(method, path, answer.status_code, answer.text)
        return answer.json() if answer.content else None

    # Internals

    def _prepare_server(self, binary: Path) -> Server:
        tokens = {"agent": self.management_token}
        # Renamed in 1.11.
        tokens["initial_management" if self._version >= (1, 11) else "master"] = self.management_token
        configuration = self._common_configuration(self.node_name, self.address) | {
            "server": True,
            "bootstrap": True,
            "ports": self._ports(http=self._http_port, lan=self._lan_port)
            | {"server": self._rpc_port, "serf_wan": self._wan_port},
            "gossip_wan": _GOSSIP,
        }
        if self._tls:
            files = {name: str(path) for name, path in self._tls._asdict().items()}
            configuration |= {**files, "verify_incoming": True}
            configuration["ports"]["https"] = self._https_port
        acl = configuration["acl"]
        acl["tokens"] = tokens
        if self.primary:
            configuration["retry_join_wan"] = [f"{self.primary.address}:{self.primary._wan_port}"]
            configuration["retry_interval_wan"] = "1s"
            acl["enable_token_replication"] = True
            # The secondary replicates tokens from the primary and creates none itself.
            acl["tokens"] = {"agent": self.management_token, "replication": self.management_token}
        return self._consul(binary, self.node_name, configuration, self._server_ready)

    def _prepare_agent(
        self, node_name: str, meta: dict[str, str], address: str, ports: Sequence[int] | None = None
    ) -> Agent:
        if not can_bind(address):
            raise ValueError(f"{address} is not an address of this machine")
        http_port, lan_port, rpc_port = ports = ports or free_ports(3, address)
        configuration = self._common_configuration(node_name, address) | {
            "server": False,
            "retry_join": [f"{self.address}:{self._lan_port}"],
            "retry_interval": "1s",
            "node_meta": meta,
            "ports": self._ports(http=http_port, lan=lan_port) | {"server": rpc_port, "serf_wan": -1},
        }
        configuration["acl"]["tokens"] = {"agent": self._agent_token}
        if self._version < (1, 15):
            # The agent joins before its first synchronization, which avoids a retry seconds later. Later versions
            # deprecate the setting.
            configuration["start_join"] = configuration["retry_join"]

        def ready() -> bool:
            if self.member_status(node_name) != "alive":
                return False
            node = self.node(node_name)
            return (
                node is not None
                and node["Address"] == address
                # The leader registers a new member without these. The agent's first synchronization adds them.
                and bool(node["TaggedAddresses"])
                and meta.items() <= (node["Meta"] or {}).items()
                and self._catalog_agrees(node_name, "alive")
            )

        server = self._consul(consul_binary(), node_name, configuration, ready)
        return Agent(self, server, node_name, address, ports)

    def _common_configuration(self, node_name: str, address: str) -> JsonObject:
        return {
            "node_name": node_name,
            "datacenter": self.datacenter,
            "primary_datacenter": self.primary.datacenter if self.primary else self.datacenter,
            "data_dir": str(self.run_directory / node_name),
            "bind_addr": address,
            "client_addr": address,
            "acl": {"enabled": True, "default_policy": "deny", "down_policy": "extend-cache"},
            "performance": {"raft_multiplier": 1, "leave_drain_time": "0s"},
            "gossip_lan": _GOSSIP,
            "disable_update_check": True,
        }

    def _ports(self, *, http: int, lan: int) -> dict[str, int]:
        ports = {"http": http, "serf_lan": lan, "https": -1, "dns": -1, "grpc": -1}
        if self._version >= (1, 14):
            ports["grpc_tls"] = -1
        return ports

    def _consul(self, binary: Path, node_name: str, configuration: JsonObject, ready: Any) -> Server:
        file = self.run_directory / f"{node_name}.json"
        file.touch(mode=0o600)
        file.write_text(json.dumps(configuration, indent=1))
        return Server(
            node_name,
            [binary, "agent", "-config-file", file],
            run_directory=self.run_directory,
            ready=ready,
            # A leaving agent needs a few seconds to notify the others.
            stop_timeout=20,
            environment={"PATH": "/usr/bin:/bin", "HOME": str(self.run_directory)},
        )

    def _server_ready(self) -> bool:
        try:
            self.api("GET", "/v1/acl/token/self")
            return self._catalog_agrees(self.node_name, "alive")
        except ConsulApiError:
            return False

    def _catalog_agrees(self, node_name: str, status: MemberStatus) -> bool:
        if status == "left":
            return self.node(node_name) is None
        checks = {check["CheckID"]: check["Status"] for check in self.api("GET", f"/v1/health/node/{node_name}")}
        wanted = {"alive": "passing", "failed": "critical"}.get(status)
        return checks.get("serfHealth") == wanted

    def _wait_federated(self, primary: ConsulCluster) -> None:
        def reached() -> bool:
            try:
                seen_there = primary.api("GET", "/v1/catalog/nodes", params={"dc": self.datacenter})
                seen_here = self.api("GET", "/v1/catalog/nodes", params={"dc": primary.datacenter})
            except ConsulApiError:
                return False
            return bool(seen_there and seen_here)

        wait_until(reached, timeout=30, what=f"federation of {self.datacenter} with {primary.datacenter}")
        self._wait_token(self._agent_token)

    def _wait_token(self, secret: str) -> None:
        def known() -> bool:
            try:
                self.api("GET", "/v1/acl/token/self", token=secret)
            except ConsulApiError:
                return False
            return True

        wait_until(known, timeout=30, what=f"the token's replication to {self.datacenter}")

    def _new_address(self) -> str:
        address = str(self._next_address)
        if not can_bind(address):
            return LOOPBACK
        self._next_address += 1
        return address


def _version_of(binary: Path) -> tuple[int, int]:
    output = subprocess.run([binary, "version"], capture_output=True, text=True, check=True).stdout
    match = re.search(r"Consul v(\d+)\.(\d+)", output)
    if match is None:
        raise RuntimeError(f"`consul version` printed no version: {output!r}")
    return int(match[1]), int(match[2])
