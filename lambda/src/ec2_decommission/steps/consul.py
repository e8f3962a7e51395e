"""The step ``consul``: releases the instance's locks, destroys its sessions, and deregisters its node.

A node is the instance's when its meta ``instance_id`` says so; else, where it bears no id, when its address was
recorded for the instance and no living interface has it now (nor one of another VPC, unless the node's name tells
them apart); else, where no address was recorded, when it bears the name that ``node_name`` gives and neither name
nor address is a living instance's. Sessions are those of such a node, locks the keys under ``lock_prefixes`` that
such a session holds. While the node's agent lives, nothing goes.

Locks are released before their session is destroyed, because the end of a session shuts each key that it holds for
its lock-delay (15 s by default); one that the session holds outside of the prefixes ends so. A key of a session
with ``behavior=delete`` is deleted, as Consul would do. In a semaphore the contender's own key goes, and the
``.lock`` key is left to the other contenders (https://developer.hashicorp.com/consul/docs/dynamic-app-config/sessions,
and Consul's api/semaphore.go).
"""

from __future__ import annotations

import ipaddress
from collections import defaultdict
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, ClassVar

from ..clients.consul import Right
from ..errors import ConfigurationError, DecommissionError, StillAlive
from ..identity import Facts
from .base import Batch, Finding, Left, Outcome, Removal, owner_in
from .consul_removal import (
    ALIVE,
    SEMAPHORE_FLAGS,
    KeyHandle,
    NodeHandle,
    Remover,
    SessionHandle,
    is_contender,
    same_node,
)

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from ..clients.consul import CatalogNode, ConsulCatalog, Key, Reading, Session
    from ..config import ConsulSettings
    from ..identity import Instance

# So many nodes are read by name, instead of listing all.
_FEW = 24


@dataclass
class _World:
    """What was read of one datacenter. ``sessions`` is None as long as nobody asked.

    Consul compares node names without regard to case: sessions and agents are by folded name.
    """

    datacenter: str
    nodes: dict[str, CatalogNode] = field(default_factory=dict)
    sessions: dict[str, list[Session]] | None = None
    agents: dict[str, str] = field(default_factory=dict)
    keys: tuple[Key, ...] = ()
    complete: bool = False

    @cached_property
    def keys_by_session(self) -> Mapping[str, Sequence[Key]]:
        """The keys that each session holds, or of whose semaphore it is a contender."""
        found: dict[str, list[Key]] = defaultdict(list)
        for key in self.keys:
            if key.session is not None:
                found[key.session].append(key)
            elif key.flags == SEMAPHORE_FLAGS:
                found[key.name.rpartition("/")[2]].append(key)
        return found


@dataclass
class _Case:
    """What was found for one instance, over all datacenters."""

    instance: Instance
    name: str | None
    removals: list[Removal] = field(default_factory=list)
    left: list[Left] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    errors: list[DecommissionError] = field(default_factory=list)

    def finding(self) -> Finding:
        alive = any(isinstance(error, StillAlive) for error in self.errors)
        return Finding(() if alive else tuple(self.removals), tuple(self.left), tuple(self.notes), tuple(self.errors))


@dataclass(frozen=True)
class _Match:
    """A node that is an instance's, with the proof; or, with a reason, one that is not."""

    instance_id: str
    node: CatalogNode
    proof: str = ""
    reason: str = ""


class ConsulStep:
    """The step for one batch."""

    name: ClassVar[str] = "consul"

    def __init__(self, settings: ConsulSettings, catalog: ConsulCatalog) -> None:
        self._settings = settings
        self._catalog = catalog
        self._worlds: dict[str, _World] = {}
        self._failed: dict[str, DecommissionError] = {}

    def look(self, batch: Batch) -> Mapping[str, Facts]:
        # Without deregister_node only nodes with sessions matter: these are few, as a rule. But where nothing is
        # known of an instance, a node may tell who it was.
        known = all(instance.private_ips for instance in batch.instances.values())
        by_session = known and not self._settings.deregister_node
        for datacenter in self._settings.datacenters or ("",):
            try:
                self._worlds[datacenter] = self._read(datacenter, by_session=by_session)
            except DecommissionError as error:
                self._failed[datacenter] = error
        if not self._worlds:
            raise _gravest(self._failed.values())
        return self._facts(batch)

    def _read(self, datacenter: str, *, by_session: bool) -> _World:
        prefixes = self._settings.lock_prefixes
        rights = [Right("node", "read"), Right("session", "read"), *(Right("key", "read", p) for p in prefixes)]
        self._catalog.prove_rights(datacenter, rights)
        world = _World(datacenter)
        if by_session:
            world.sessions = self._sessions(datacenter)
            if not world.sessions:
                world.complete = True
                return world
            if len(world.sessions) <= _FEW:
                self._take_in(world, self._catalog.read(datacenter, sorted(world.sessions), prefixes))
                return world
        world.nodes = {node.name: node for node in self._catalog.nodes(datacenter)}
        return world

    def _sessions(self, datacenter: str) -> dict[str, list[Session]]:
        """Sessions by node. All are read: one answer for the batch, of some 300 bytes a session."""
        by_node: dict[str, list[Session]] = defaultdict(list)
        for session in self._catalog.sessions(datacenter):
            by_node[session.node.casefold()].append(session)
        return dict(by_node)

    def _take_in(self, world: _World, reading: Reading) -> None:
        world.nodes = dict(reading.nodes)
        world.agents = {name.casefold(): status for name, status in reading.agents.items()}
        world.keys = reading.keys
        world.complete = True

    def _facts(self, batch: Batch) -> dict[str, Facts]:
        nodes: dict[str, list[CatalogNode]] = defaultdict(list)
        for world in self._worlds.values():
            for node in world.nodes.values():
                if node.instance_id in batch.instances:
                    nodes[node.instance_id or ""].append(node)
        return {instance_id: _facts(own) for instance_id, own in nodes.items()}

    def find(self, batch: Batch) -> Mapping[str, Finding]:
        cases = {i: self._case(instance) for i, instance in batch.instances.items()}
        for error in self._failed.values():
            for case in cases.values():
                case.errors.append(error)
        for world in self._worlds.values():
            try:
                matches = self._matches(batch, cases, world)
                if matches and not world.complete:
                    matches = self._complete(batch, cases, world, matches)
            except DecommissionError as error:
                for case in cases.values():
                    case.errors.append(error)
                continue
            for match in matches:
                self._decide(cases[match.instance_id], world, match)
        return {i: case.finding() for i, case in cases.items()}

    def _case(self, instance: Instance) -> _Case:
        template = self._settings.node_name
        case = _Case(instance, template.render(instance) if template else None)
        if template and case.name is None:
            missing = ", ".join(template.missing(instance))
            case.notes.append(f"node_name {template.text}: {missing} is not known for {instance.instance_id}")
        return case

    def _complete(
        self, batch: Batch, cases: Mapping[str, _Case], world: _World, matches: Sequence[_Match]
    ) -> list[_Match]:
        """Reads what a decision about these nodes needs, and the nodes again, as they are at that moment."""
        if world.sessions is None:
            world.sessions = self._sessions(world.datacenter)
        names = {match.node.name for match in matches}
        busy = {name for name in names if name.casefold() in world.sessions}
        names = names if self._settings.deregister_node else busy
        prefixes = self._settings.lock_prefixes if busy else ()
        if not names:
            world.nodes = {}
            return []
        before = world.nodes
        self._take_in(world, self._catalog.read(world.datacenter, sorted(names), prefixes))
        if all(same_node(before[name], node) for name, node in world.nodes.items()):
            return [
                _Match(m.instance_id, world.nodes[m.node.name], m.proof, m.reason)
                for m in matches
                if m.node.name in world.nodes
            ]
        return self._matches(batch, cases, world)

    # Whose a node is

    def _matches(self, batch: Batch, cases: Mapping[str, _Case], world: _World) -> list[_Match]:
        own = [
            _Match(
                node.instance_id or "", node, proof=f"node {node.name} has the meta instance_id {node.instance_id}"
            )
            for node in world.nodes.values()
            if node.instance_id in cases
        ]
        by_name = {node.name.casefold(): node for node in world.nodes.values()}
        by_address: dict[str, list[CatalogNode]] = defaultdict(list)
        for node in world.nodes.values():
            if node.instance_id is None:
                for address in _addresses(node):
                    by_address[address].append(node)
        here = next((node.datacenter for node in world.nodes.values()), world.datacenter)
        suspects: list[tuple[_Case, CatalogNode]] = []
        for case in cases.values():
            nodes = {node.name: node for address in _recorded(case.instance) for node in by_address.get(address, ())}
            for name in _names(case, here):
                named = by_name.get(name.casefold())
                if named and named.instance_id != case.instance.instance_id:
                    nodes[named.name] = named
            suspects += [(case, node) for node in nodes.values()]
        if not suspects:
            return own
        judge = _Judge(self._settings, batch, suspects)
        return own + [judge(case, node) for case, node in suspects]

    def _decide(self, case: _Case, world: _World, match: _Match) -> None:
        node = match.node
        sessions = (world.sessions or {}).get(node.name.casefold(), [])
        if not sessions and not self._settings.deregister_node:
            return
        if match.reason:
            case.left.append(Left(_target(node), match.reason))
            return
        if world.agents.get(node.name.casefold()) == ALIVE:
            case.errors.append(
                StillAlive(f"{_target(node)}: its Consul agent is alive (serfHealth passing); nothing is removed")
            )
            return
        dc = world.datacenter
        for session in sessions:
            for key in world.keys_by_session.get(session.session_id, ()):
                self._decide_key(case, KeyHandle(dc, node, session, key), match.proof)
        for session in sessions:
            target = f"session {session.session_id} of {node.name} ({node.datacenter})"
            case.removals.append(Removal("destroy", target, match.proof, SessionHandle(dc, node, session)))
        if self._settings.deregister_node:
            case.removals.append(Removal("deregister", _target(node), match.proof, NodeHandle(dc, node)))

    def _decide_key(self, case: _Case, handle: KeyHandle, proof: str) -> None:
        key, session = handle.key, handle.session
        target = f"lock {key.name} ({handle.node.datacenter})"
        proof = f"held by session {session.session_id}; {proof}"
        if key.flags == SEMAPHORE_FLAGS and key.name.endswith("/.lock"):
            case.left.append(Left(target, "it is a semaphore's, which its other contenders share"))
        elif session.behavior == "delete" or is_contender(key, session.session_id):
            case.removals.append(Removal("delete", target, proof, handle))
        else:
            case.removals.append(Removal("release", target, proof, handle))

    def remove(self, batch: Batch, findings: Mapping[str, Finding]) -> Mapping[str, Outcome]:  # noqa: ARG002
        return Remover(self._catalog, findings).outcomes()


class _Judge:
    """Whose a node is that does not bear the instance's id. Asks EC2 once for the batch."""

    def __init__(self, settings: ConsulSettings, batch: Batch, suspects: Sequence[tuple[_Case, CatalogNode]]) -> None:
        self._template = settings.node_name
        bare = [(case, node) for case, node in suspects if node.instance_id is None]
        addresses = {address for _, node in bare for address in _addresses(node)}
        self._interfaces = batch.living.interfaces(addresses) if addresses else {}
        unknown = {
            node.name
            for case, node in bare
            if not _recorded(case.instance) or any(a in self._interfaces for a in _addresses(node))
        }
        self._bearers = batch.living.bearers(self._template, unknown) if self._template and unknown else {}
        self._claims: dict[str, str] = {}

    def __call__(self, case: _Case, node: CatalogNode) -> _Match:
        instance_id = case.instance.instance_id
        reason = self._against(case, node)
        if reason is None:
            first = self._claims.setdefault(node.name, instance_id)
            if first != instance_id:
                reason = f"it goes with {first}, which bore the same name or address"
        if reason is not None:
            return _Match(instance_id, node, reason=reason)
        address = _shared_address(case.instance, node)
        if address:
            proof = f"{address} is recorded for {instance_id} and no living interface has it"
        else:
            proof = f"node_name gives {instance_id} this name; no living instance has name or address"
        return _Match(instance_id, node, proof=f"node {node.name}: {proof}")

    def _against(self, case: _Case, node: CatalogNode) -> str | None:
        """Why the node is not the instance's."""
        instance = case.instance
        if node.instance_id:
            return f"it is {node.instance_id}'s by its meta instance_id"
        owner = self._owner(case, node)
        recorded = _recorded(instance)
        if recorded and not _shared_address(instance, node):
            told = f" ({owner})" if owner else ""
            return f"its address is none of those recorded for {instance.instance_id}{told}"
        if owner:
            return owner
        if recorded:
            return None
        if self._template is None or case.name is None or case.name.casefold() != node.name.casefold():
            return "it bears no instance_id, no address is on record, and node_name does not give its name"
        if bearers := self._bearers.get(node.name):
            return f"{bearers[0]}, which lives, would bear that name"
        return None

    def _owner(self, case: _Case, node: CatalogNode) -> str | None:
        """In words, who has an address of the node now."""
        instance = case.instance
        for address in _addresses(node):
            interfaces = self._interfaces.get(address, ())
            interface = owner_in(interfaces, instance.vpc_id, instance.instance_id)
            if interface:
                return f"{address} is {interface.owner}'s now"
            # Two VPCs may use the same range: there the name has to tell as well.
            twin = owner_in(interfaces, None, instance.instance_id)
            if twin and (case.name or "").casefold() != node.name.casefold():
                return f"{address} is {twin.owner}'s, in another VPC, and the name is not {instance.instance_id}'s"
            if twin and (bearers := self._bearers.get(node.name)):
                return f"{address} is {twin.owner}'s, in another VPC, and the name {bearers[0]}'s, which lives"
        return None


def _names(case: _Case, datacenter: str) -> tuple[str, ...]:
    """The names that the instance's node may have there."""
    recorded = (name.split("/", 1) for name in case.instance.names("consul", "node"))
    names = [name[-1] for name in recorded if len(name) == 1 or name[0] == datacenter]
    return tuple(dict.fromkeys([*([case.name] if case.name else []), *names]))


def _recorded(instance: Instance) -> tuple[str, ...]:
    """The addresses by which a node may be told; public ones pass on to strangers, who cannot be asked for."""
    return tuple(map(_canonical, instance.private_ips + instance.ipv6_addresses))


def _addresses(node: CatalogNode) -> tuple[str, ...]:
    return tuple(dict.fromkeys(map(_canonical, node.own_addresses)))


def _shared_address(instance: Instance, node: CatalogNode) -> str | None:
    recorded = set(_recorded(instance))
    return next((address for address in _addresses(node) if address in recorded), None)


def _canonical(address: str) -> str:
    """An address in its shortest form; what is none (Consul takes a host name too) stays as it is."""
    try:
        return str(ipaddress.ip_address(address))
    except ValueError:
        return address


def _facts(nodes: Iterable[CatalogNode]) -> Facts:
    private: dict[str, None] = {}
    public: dict[str, None] = {}
    ipv6: dict[str, None] = {}
    names: dict[str, None] = {}
    for node in nodes:
        names[f"{node.datacenter}/{node.name}"] = None
        for address in _addresses(node):
            try:
                ip = ipaddress.ip_address(address)
            except ValueError:
                continue
            if ip.is_loopback or ip.is_unspecified or ip.is_link_local:
                continue
            kind = ipv6 if ip.version == 6 else private if ip.is_private else public
            kind[address] = None
    return Facts(
        source="consul",
        private_ips=tuple(private),
        public_ips=tuple(public),
        ipv6_addresses=tuple(ipv6),
        known_as={"consul": {"node": tuple(names)}},
    )


def _target(node: CatalogNode) -> str:
    return f"node {node.name} {node.address} ({node.datacenter})"


def _gravest(errors: Iterable[DecommissionError]) -> DecommissionError:
    """What a person must mend goes before what passes."""
    return sorted(errors, key=lambda error: not isinstance(error, ConfigurationError))[0]
