"""A Consul cluster in process. tests/conformance/test_consul.py compares it with a real one."""

from __future__ import annotations

import base64
import json
import uuid
from collections import Counter
from dataclasses import dataclass, field, fields, replace
from typing import TYPE_CHECKING, Any, TypeVar

from ec2_decommission.clients.consul import (
    MAX_OPS,
    MAX_TRANSACTION_BYTES,
    CatalogNode,
    Key,
    Member,
    OpFailure,
    Reading,
    RefusedError,
    Right,
    Session,
    unlock,
)
from ec2_decommission.errors import AccessError, ConfigurationError, DecommissionError, PermanentError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from ec2_decommission.clients.consul import Op
    from ec2_decommission.clients.http import Guard

T = TypeVar("T")

_HELD_BACK = "Permission denied"


@dataclass
class _Agent:
    """A member of gossip. ``node`` is its own registration."""

    node: CatalogNode
    alive: bool = True


@dataclass
class _Datacenter:
    nodes: dict[str, CatalogNode] = field(default_factory=dict)
    agents: dict[str, _Agent] = field(default_factory=dict)
    sessions: dict[str, Session] = field(default_factory=dict)
    keys: dict[str, Key] = field(default_factory=dict)
    registered: dict[str, dict[str, Any]] = field(default_factory=dict)  # services and checks, by node
    locked_until: dict[str, float] = field(default_factory=dict)

    def copy(self) -> _Datacenter:
        """A copy of the data that transactions change."""
        return _Datacenter(*(dict(getattr(self, part.name)) for part in fields(self)))


class FakeConsulCatalog:
    """The methods of the first half change the cluster. The attributes change its answers.

    Attributes:
        now: the clock of the lock delays, in seconds.
        token_known: False for a deleted token.
        denied: permissions that the token lacks, such as ``node:read``. Without a read permission, answers are
            empty, as Consul's are.
        fault: called with operation and object before each request. It may raise errors.
        calls: the real client's requests, by operation.
    """

    def __init__(self, datacenters: Sequence[str] = ("dc1",)) -> None:
        self.now = 0.0
        self.token_known = True
        self.denied: set[str] = set()
        self.fault: Callable[[str, str], None] | None = None
        self.calls: Counter[str] = Counter()
        self._own = datacenters[0]
        self._index = 10
        self._world = {name: _Datacenter() for name in datacenters}
        for name in datacenters:
            self.add_agent(f"{name}-server", "10.255.0.1", datacenter=name)

    # The world

    def add_agent(
        self,
        name: str,
        address: str,
        meta: Mapping[str, str] | None = None,
        datacenter: str | None = None,
        *,
        wan: str = "",
    ) -> None:
        """An agent joins and registers its node. It takes over the node of a dead agent with the same name."""
        tagged = {"lan": address, "wan": wan or address}
        node = self._register(name, address, meta, datacenter, str(uuid.uuid4()), tagged)
        self._world[datacenter or self._own].agents[name] = _Agent(node)

    def register_node(
        self,
        name: str,
        address: str,
        meta: Mapping[str, str] | None = None,
        datacenter: str | None = None,
        *,
        tagged_addresses: Mapping[str, str] | None = None,
    ) -> None:
        """Registers a node without an agent."""
        self._register(name, address, meta, datacenter, "", dict(tagged_addresses or {}))

    def _register(
        self,
        name: str,
        address: str,
        meta: Mapping[str, str] | None,
        datacenter: str | None,
        node_id: str,
        tagged: dict[str, str],
    ) -> CatalogNode:
        row = {
            "ID": node_id,
            "Node": name,
            "Address": address,
            "Datacenter": datacenter or self._own,
            "TaggedAddresses": tagged,
            "Meta": dict(meta or {}),
        }
        return self._put_node(self._world[datacenter or self._own], row)

    def _put_node(self, world: _Datacenter, row: dict[str, Any]) -> CatalogNode:
        self._index += 1
        tagged = row["TaggedAddresses"]
        node = world.nodes[row["Node"]] = CatalogNode(
            name=row["Node"],
            node_id=row["ID"],
            address=row["Address"],
            datacenter=row["Datacenter"],
            modify_index=self._index,
            lan=tagged.get("lan", ""),
            other_addresses=tuple(dict.fromkeys(a for kind, a in tagged.items() if kind != "lan")),
            meta=row["Meta"],
            document={**row, "ModifyIndex": self._index},
        )
        return node

    def register_service(self, node: str, service: str, datacenter: str | None = None) -> None:
        """Registers a service with one check on a node."""
        self._world[datacenter or self._own].registered[node] = {
            "Services": [{"ID": service, "Service": service}],
            "Checks": [{"Node": node, "CheckID": f"service:{service}", "Status": "critical", "ServiceID": service}],
        }

    def kill(self, name: str, datacenter: str | None = None) -> None:
        """Kills an agent. Gossip notices, and the sessions that depend on its check end."""
        world = self._world[datacenter or self._own]
        world.agents[name].alive = False
        for session_id, session in list(world.sessions.items()):
            if session.node == name and "serfHealth" in session.checks:
                self._end(world, session_id)

    def sync(self) -> None:
        """Synchronizes live agents, as they do every minute: they register missing nodes again."""
        for world in self._world.values():
            for agent in world.agents.values():
                if agent.alive and agent.node.name not in world.nodes:
                    self._index += 1
                    world.nodes[agent.node.name] = replace(agent.node, modify_index=self._index)

    def create_session(
        self,
        node: str,
        *,
        behavior: str = "release",
        checks: Sequence[str] = (),
        lock_delay_seconds: float = 15,
        datacenter: str | None = None,
    ) -> str:
        world = self._world[datacenter or self._own]
        assert node in world.nodes, f"Missing node registration {node}"
        identity, delay = str(uuid.uuid4()), int(lock_delay_seconds * 1e9)
        row = {"ID": identity, "Node": node, "Behavior": behavior, "LockDelay": delay, "NodeChecks": list(checks)}
        session = Session(identity, node, behavior, lock_delay_seconds, tuple(checks), row)
        world.sessions[session.session_id] = session
        return session.session_id

    def acquire(
        self, key: str, session: str, value: bytes = b"", flags: int = 0, datacenter: str | None = None
    ) -> bool:
        world = self._world[datacenter or self._own]
        assert session in world.sessions, "invalid session"
        before = world.keys.get(key)
        held = before is not None and before.session not in (None, session)
        if held or world.locked_until.get(key, 0) > self.now:
            return False
        self._put(world, Key(key, 0, _encoded(value), flags, session))
        return True

    def put(self, key: str, value: bytes = b"", flags: int = 0, datacenter: str | None = None) -> None:
        world = self._world[datacenter or self._own]
        before = world.keys.get(key)
        self._put(world, Key(key, 0, _encoded(value), flags, before.session if before else None))

    def key(self, name: str, datacenter: str | None = None) -> Key | None:
        return self._world[datacenter or self._own].keys.get(name)

    def node(self, name: str, datacenter: str | None = None) -> CatalogNode | None:
        return self._world[datacenter or self._own].nodes.get(name)

    def session_ids(self, datacenter: str | None = None) -> set[str]:
        return set(self._world[datacenter or self._own].sessions)

    def _put(self, world: _Datacenter, key: Key) -> None:
        self._index += 1
        row = {"Key": key.name, "Value": key.value, "Flags": key.flags, "ModifyIndex": self._index}
        if key.session:
            row["Session"] = key.session
        world.keys[key.name] = replace(key, modify_index=self._index, document=row)

    def _end(self, world: _Datacenter, session_id: str) -> None:
        """Ends a session: releases or deletes its keys, and starts their lock delay."""
        session = world.sessions.pop(session_id, None)
        if session is None:
            return
        for key in [key for key in world.keys.values() if key.session == session_id]:
            world.locked_until[key.name] = self.now + session.lock_delay_seconds
            if session.behavior == "delete":
                del world.keys[key.name]
            else:
                self._put(world, replace(key, session=None))

    def _drop(self, world: _Datacenter, name: str) -> None:
        world.nodes.pop(name, None)
        world.registered.pop(name, None)
        for session_id in [s for s, session in world.sessions.items() if session.node == name]:
            self._end(world, session_id)

    # The ConsulCatalog protocol

    def prove_rights(self, datacenter: str, rights: Iterable[Right]) -> None:
        wanted = list(dict.fromkeys(rights))
        self._request("authorize", datacenter)
        missing = [right for right in wanted if f"{right.resource}:{right.access}" in self.denied]
        if missing:
            raise AccessError(f"Consul: the token lacks {'; '.join(map(str, missing))}")

    def nodes(self, datacenter: str) -> tuple[CatalogNode, ...]:
        world = self._request("nodes", datacenter)
        if "node:read" in self.denied:
            raise AccessError("Consul: the token sees no node (node:read)")
        return tuple(world.nodes.values())

    def instance_nodes(self, datacenter: str, prefix: str) -> tuple[CatalogNode, ...]:
        world = self._request("nodes", datacenter)
        if "node:read" in self.denied:
            return ()
        return tuple(n for n in world.nodes.values() if n.instance_id and n.instance_id.startswith(prefix))

    def agents(self, datacenter: str) -> Mapping[str, str]:
        world = self._request("checks", datacenter)
        if "node:read" in self.denied:
            return {}
        return {
            name: "passing" if agent.alive else "critical"
            for name, agent in world.agents.items()
            if name in world.nodes
        }

    def sessions(self, datacenter: str) -> tuple[Session, ...]:
        world = self._request("sessions", datacenter)
        if "session:read" in self.denied:
            return ()
        return tuple(world.sessions.values())

    def read(self, datacenter: str, names: Sequence[str], prefixes: Sequence[str]) -> Reading:
        wanted = {name.casefold() for name in names}
        if 2 * len(names) + len(prefixes) > MAX_OPS:
            self.nodes(datacenter)
            self._request("checks", datacenter)
            if prefixes:
                self._request("txn", datacenter)
            world = self._world[datacenter or self._own]
        else:
            world = self._request("txn", datacenter) if names or prefixes else self._world[datacenter or self._own]
            if wanted - set(map(str.casefold, world.nodes)) or wanted - set(map(str.casefold, world.agents)):
                self._request("txn", datacenter)
        blind = "node:read" in self.denied
        nodes = {n: node for n, node in world.nodes.items() if n.casefold() in wanted and not blind}
        agents = {n: "passing" if world.agents[n].alive else "critical" for n in nodes if n in world.agents}
        seen, starts = () if "key:read" in self.denied else world.keys.values(), tuple(prefixes)
        return Reading(nodes, agents, tuple(key for key in seen if key.name.startswith(starts)))

    def members(self) -> tuple[Member, ...]:
        world = self._request("members", "")
        return tuple(
            Member(name, agent.node.node_id, agent.alive, failed=not agent.alive, server=name.endswith("-server"))
            for name, agent in world.agents.items()
        )

    def node_documents(
        self, datacenter: str, names: Iterable[str]
    ) -> Mapping[str, Mapping[str, Any] | DecommissionError | None]:
        def document(name: str) -> Mapping[str, Any] | None:
            world = self._request("node", datacenter, name)
            _addressable("node", name)
            node = world.nodes.get(name)
            if node is None or "node:read" in self.denied:
                return None
            self._request("node checks", datacenter, name)
            others = world.registered.get(name, {"Services": [], "Checks": []})
            services = [] if "service:read" in self.denied else others["Services"]
            return {"Node": node.document, "Services": services, "Checks": others["Checks"]}

        return {name: _answer(document, name) for name in dict.fromkeys(names)}

    def transact(self, datacenter: str, ops: Sequence[Op], guard: Guard | None = None) -> tuple[OpFailure, ...]:
        world = self._request("txn", datacenter, guard=guard)
        if len(ops) > MAX_OPS:
            raise RefusedError(f"Transaction contains too many operations ({len(ops)} > {MAX_OPS})")
        if (size := len(json.dumps(ops, separators=(",", ":")))) > MAX_TRANSACTION_BYTES:
            raise RefusedError(f"Request body({size} bytes) too large, max size: {MAX_TRANSACTION_BYTES} bytes")
        failures = tuple(OpFailure(n, _HELD_BACK) for n, op in enumerate(ops) if self._may_not(op))
        if failures:
            return failures
        before = world.copy()
        failures = tuple(
            OpFailure(number, reason) for number, op in enumerate(ops) if (reason := self._apply(world, op))
        )
        if failures:
            self._world[datacenter or self._own] = before
        return failures

    def release(self, datacenter: str, key: Key, guard: Guard | None = None) -> bool:
        if not self._fits(key):
            world = self._request("release", datacenter, key.name, guard=guard)
            if "key:write" in self.denied:
                raise AccessError(f"Consul: the token may not release {key.name} (key:write)")
            return self._unlock(world, key.name, key.session, key.value, key.flags) is None
        failures = self.transact(datacenter, unlock(key), guard)
        if any(failure.denied for failure in failures):
            raise AccessError(f"Consul: the token may not release {key.name} (key:write)")
        return not failures

    def _fits(self, key: Key) -> bool:
        """Whether the value fits into a transaction. Raises an error if it does not fit into a URL either."""
        fits = len(key.value or "") < MAX_TRANSACTION_BYTES - 1024
        if not fits:
            _addressable("key", key.name)
        return fits

    def destroy_sessions(
        self, datacenter: str, session_ids: Iterable[str], guard: Guard | None = None
    ) -> Mapping[str, DecommissionError | None]:
        def destroy(session_id: str) -> None:
            _addressable("session", session_id)
            world = self._request("destroy", datacenter, session_id, guard=guard)
            if session_id in world.sessions and "session:write" in self.denied:
                raise AccessError(f"Consul: the token may not destroy session {session_id} (session:write)")
            self._end(world, session_id)

        return {s: _answer(destroy, s) for s in dict.fromkeys(session_ids)}

    def force_leave(self, names: Iterable[str], guard: Guard | None = None) -> Mapping[str, DecommissionError | None]:
        def leave(name: str) -> None:
            _addressable("node", name)
            world = self._request("force-leave", "", name, guard=guard)
            if "operator:write" in self.denied:
                raise AccessError(f"Consul: the token may not force {name} to leave (operator:write)")
            agent = world.agents.get(name)
            if agent:
                self._drop(world, name)  # even a live agent's node, which is back after `sync`
                if not agent.alive:
                    del world.agents[name]

        return {name: _answer(leave, name) for name in dict.fromkeys(names)}

    def put_key_if_absent(self, datacenter: str, key: Key, guard: Guard | None = None) -> bool:
        world = self._request("txn" if self._fits(key) else "put", datacenter, key.name, guard=guard)
        if "key:write" in self.denied:
            raise AccessError(f"Consul: the token may not write {key.name} (key:write)")
        if key.name in world.keys:
            return False
        self._put(world, replace(key, session=None))
        return True

    def register_node_if_absent(
        self, datacenter: str, document: Mapping[str, Any], guard: Guard | None = None
    ) -> bool:
        row = document["Node"]
        world = self._request("txn", datacenter, guard=guard)
        if self.denied & {"node:write", "service:write"}:
            raise AccessError(f"Consul: the token may not register node {row['Node']} (node:write, service:write)")
        if row["Node"].casefold() in {name.casefold() for name in world.nodes}:
            return False
        self._put_node(world, {**row, "Datacenter": datacenter or self._own})
        world.registered[row["Node"]] = {name: document[name] for name in ("Services", "Checks")}
        return True

    def _request(self, operation: str, datacenter: str, name: str = "", *, guard: Guard | None = None) -> _Datacenter:
        if guard:
            guard()
        self.calls[operation] += 1
        if self.fault:
            self.fault(operation, name or datacenter)
        if not self.token_known:
            raise AccessError("Consul does not know the token (secret consul_token)")
        if datacenter and datacenter not in self._world:
            known = ", ".join(self._world)
            raise ConfigurationError(f"Consul does not know datacenter {datacenter}; it knows {known}")
        return self._world[datacenter or self._own]

    def _may_not(self, op: Op) -> bool:
        return ("node:write" if "Node" in op else "key:write") in self.denied

    def _apply(self, world: _Datacenter, op: Op) -> str | None:
        """Applies one operation, or returns the reason why it fails."""
        if "Node" in op:
            assert op["Node"]["Verb"] == "delete-cas"
            wanted = op["Node"]["Node"]
            node = world.nodes.get(wanted["Node"])
            if node is None or node.modify_index != wanted["ModifyIndex"]:
                return f'failed to delete node "{wanted["Node"]}", index is stale'
            self._drop(world, node.name)
            return None
        return self._apply_kv(world, op["KV"])

    def _apply_kv(self, world: _Datacenter, op: dict[str, Any]) -> str | None:
        name = op["Key"]
        key = world.keys.get(name)
        if op["Verb"] == "check-index":
            if key is None:
                return f'failed index check for key "{name}", it doesn\'t exist'
            if key.modify_index != op["Index"]:
                return f'failed index check for key "{name}", current modify index {key.modify_index}'
            return None
        if op["Verb"] == "delete-cas":
            if key is not None and key.modify_index != op["Index"]:
                return f'failed to delete key "{name}", index is stale'
            world.keys.pop(name, None)  # a missing key is not an error
            return None
        assert op["Verb"] == "unlock"
        return self._unlock(world, name, op["Session"], op["Value"] or None, op["Flags"])

    def _unlock(
        self, world: _Datacenter, name: str, session: str | None, value: str | None, flags: int
    ) -> str | None:
        key = world.keys.get(name)
        if key is None or key.session is None or key.session != session:
            return f'failed to unlock key "{name}", lock isn\'t held, or is held by another session'
        self._put(world, Key(name, 0, value, flags))
        return None


def _encoded(value: bytes) -> str | None:
    return base64.b64encode(value).decode() if value else None


def _addressable(kind: str, name: str) -> None:
    """Raises PermanentError where the real client could not put the name into a URL."""
    *parents, last = name.split("/")
    if any(part in ("", ".", "..") for part in parents) or last in (".", "..") or not name:
        raise PermanentError(f"{kind} {name!r} is not sent in a URL")


def _answer(call: Callable[[str], T], name: str) -> T | DecommissionError:
    try:
        return call(name)
    except DecommissionError as error:
        return error
