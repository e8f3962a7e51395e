"""A Consul cluster in process, held to the real one's behaviour by tests/conformance/test_consul.py."""

from __future__ import annotations

import base64
import uuid
from collections import Counter
from dataclasses import dataclass, field, fields, replace
from typing import TYPE_CHECKING, Any

from ec2_decommission.clients.consul import (
    MAX_OPS,
    CatalogNode,
    Key,
    Member,
    OpFailure,
    Reading,
    RefusedError,
    Right,
    Session,
)
from ec2_decommission.errors import AccessError, ConfigurationError, DecommissionError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from ec2_decommission.clients.consul import Op

_HELD_BACK = "Permission denied"


@dataclass
class _Session:
    session: Session
    checks: tuple[str, ...]
    lock_delay: float


@dataclass
class _Agent:
    """A member of gossip; ``node`` is as it registers itself."""

    node: CatalogNode
    alive: bool = True


@dataclass
class _Datacenter:
    nodes: dict[str, CatalogNode] = field(default_factory=dict)
    agents: dict[str, _Agent] = field(default_factory=dict)
    sessions: dict[str, _Session] = field(default_factory=dict)
    keys: dict[str, Key] = field(default_factory=dict)
    locked_until: dict[str, float] = field(default_factory=dict)

    def copy(self) -> _Datacenter:
        """As far as operations of a transaction change it: what is put, and taken away."""
        return _Datacenter(*(dict(getattr(self, part.name)) for part in fields(self)))


class FakeConsulCatalog:
    """The world is changed by the methods of the first half; the switches change how it answers.

    Attributes:
        now: the clock of the lock-delays, in seconds.
        token_known: False for a token that was deleted.
        denied: rights that the token lacks on everything, as ``node:read``. Without a right to read, an answer is
            empty, as Consul's is.
        fault: called with operation and object before each request, to raise what is to go wrong.
        calls: requests by operation, as the real client would send them.
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
        self, name: str, address: str, meta: Mapping[str, str] | None = None, datacenter: str | None = None
    ) -> None:
        """An agent joins, and registers its node; one of a dead agent's name takes its node over."""
        world = self._world[datacenter or self._own]
        node = self._register(world, name, address, meta, datacenter, node_id=str(uuid.uuid4()))
        world.agents[name] = _Agent(node)

    def register_node(
        self, name: str, address: str, meta: Mapping[str, str] | None = None, datacenter: str | None = None
    ) -> None:
        """A node without an agent."""
        self._register(self._world[datacenter or self._own], name, address, meta, datacenter, node_id="")

    def _register(
        self,
        world: _Datacenter,
        name: str,
        address: str,
        meta: Mapping[str, str] | None,
        datacenter: str | None,
        node_id: str,
    ) -> CatalogNode:
        self._index += 1
        node = CatalogNode(
            name=name,
            node_id=node_id,
            address=address,
            datacenter=datacenter or self._own,
            modify_index=self._index,
            meta=dict(meta or {}),
        )
        world.nodes[name] = node
        return node

    def kill(self, name: str, datacenter: str | None = None) -> None:
        """The agent dies, and gossip has seen it: the sessions that hang on its check end."""
        world = self._world[datacenter or self._own]
        world.agents[name].alive = False
        for session_id, session in list(world.sessions.items()):
            if session.session.node == name and "serfHealth" in session.checks:
                self._end(world, session_id)

    def sync(self) -> None:
        """What an agent does within a minute: one that lives registers again where its node is missing."""
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
        session = Session(str(uuid.uuid4()), node, behavior)
        world.sessions[session.session_id] = _Session(session, tuple(checks), lock_delay_seconds)
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
        world.keys[key.name] = replace(key, modify_index=self._index)

    def _end(self, world: _Datacenter, session_id: str) -> None:
        """A session ends: its keys are released or deleted, and closed for its lock-delay."""
        session = world.sessions.pop(session_id, None)
        if session is None:
            return
        for key in [key for key in world.keys.values() if key.session == session_id]:
            world.locked_until[key.name] = self.now + session.lock_delay
            if session.session.behavior == "delete":
                del world.keys[key.name]
            else:
                self._put(world, replace(key, session=None))

    def _drop(self, world: _Datacenter, name: str) -> None:
        world.nodes.pop(name, None)
        for session_id in [s for s, session in world.sessions.items() if session.session.node == name]:
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
        return tuple(session.session for session in world.sessions.values())

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
            if wanted - {n.casefold() for n in world.nodes} or wanted - {n.casefold() for n in world.agents}:
                self._request("txn", datacenter)
        blind = "node:read" in self.denied
        nodes = {n: node for n, node in world.nodes.items() if n.casefold() in wanted and not blind}
        agents = {n: "passing" if world.agents[n].alive else "critical" for n in nodes if n in world.agents}
        seen = () if "key:read" in self.denied else world.keys.values()
        return Reading(nodes, agents, tuple(key for key in seen if key.name.startswith(tuple(prefixes))))

    def members(self) -> tuple[Member, ...]:
        world = self._request("members", "")
        return tuple(
            Member(name, agent.node.node_id, alive=agent.alive, failed=not agent.alive)
            for name, agent in world.agents.items()
        )

    def transact(self, datacenter: str, ops: Sequence[Op]) -> tuple[OpFailure, ...]:
        world = self._request("txn", datacenter)
        if len(ops) > MAX_OPS:
            raise RefusedError(f"Transaction contains too many operations ({len(ops)} > {MAX_OPS})")
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

    def release(self, datacenter: str, key: Key) -> bool:
        world = self._request("release", datacenter)
        if "key:write" in self.denied:
            raise AccessError(f"Consul: the token may not release {key.name} (key:write)")
        return self._unlock(world, key.name, key.session, key.value, key.flags) is None

    def destroy_sessions(self, datacenter: str, session_ids: Iterable[str]) -> Mapping[str, DecommissionError | None]:
        def destroy(session_id: str) -> None:
            world = self._request("destroy", datacenter, session_id)
            if session_id in world.sessions and "session:write" in self.denied:
                raise AccessError(f"Consul: the token may not destroy session {session_id} (session:write)")
            self._end(world, session_id)

        return {s: _answer(destroy, s) for s in dict.fromkeys(session_ids)}

    def force_leave(self, names: Iterable[str]) -> Mapping[str, DecommissionError | None]:
        def leave(name: str) -> None:
            world = self._request("force-leave", "", name)
            if "operator:write" in self.denied:
                raise AccessError(f"Consul: the token may not force {name} to leave (operator:write)")
            agent = world.agents.get(name)
            if agent:
                self._drop(world, name)  # a living agent's node too: it is back with `sync`
                if not agent.alive:
                    del world.agents[name]

        return {name: _answer(leave, name) for name in dict.fromkeys(names)}

    def _request(self, operation: str, datacenter: str, name: str = "") -> _Datacenter:
        self.calls[operation] += 1
        if self.fault:
            self.fault(operation, name or datacenter)
        if not self.token_known:
            raise AccessError("Consul does not know the token (secret consul_token)")
        if datacenter and datacenter not in self._world:
            raise ConfigurationError(f"Consul knows no datacenter {datacenter}; it knows {', '.join(self._world)}")
        return self._world[datacenter or self._own]

    def _may_not(self, op: Op) -> bool:
        return ("node:write" if "Node" in op else "key:write") in self.denied

    def _apply(self, world: _Datacenter, op: Op) -> str | None:
        """Carries one operation out, or says why not."""
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
            world.keys.pop(name, None)  # of a key that is gone it makes nothing
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


def _answer(call: Callable[[str], None], name: str) -> DecommissionError | None:
    try:
        call(name)
    except DecommissionError as error:
        return error
    return None
