"""Reads everything that the step ``consul`` needs: nodes, the state of their agents, sessions and keys."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any, TypeVar

from ...clients.consul import Right
from ...errors import DecommissionError

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Mapping, Sequence

    from ...clients.consul import CatalogNode, ConsulCatalog, Key, Member, Session
    from ...config import ConsulSettings

T = TypeVar("T")

# The flags of a semaphore's keys: SemaphoreFlagValue in Consul's api/semaphore.go.
SEMAPHORE_FLAGS = 0xE0F69A2BAA414DE0


def fold(name: str) -> str:
    """Returns a node name as Consul compares it: ignoring case."""
    return name.casefold()


@dataclass(frozen=True)
class Listing:
    """Every node, by datacenter. ``errors`` holds the datacenters that could not be read."""

    nodes: Mapping[str, tuple[CatalogNode, ...]] = field(default_factory=dict)
    errors: Mapping[str, DecommissionError] = field(default_factory=dict)


@dataclass(frozen=True)
class Datacenter:
    """The data of one datacenter that may concern an instance. Mappings are by folded node name.

    Attributes:
        name: as configured; "" is the datacenter of the queried agent.
        nodes: the nodes that may be an instance's.
        agents: the status of serfHealth; no entry for a node without an agent, or with one that has just joined.
        sessions: every session.
        keys: the keys under ``lock_prefixes``; none if no node has a session.
        documents: each node with its services and checks, if needed for an audit, or why it could not be read.
    """

    name: str
    nodes: tuple[CatalogNode, ...] = ()
    agents: Mapping[str, str] = field(default_factory=dict)
    sessions: Mapping[str, tuple[Session, ...]] = field(default_factory=dict)
    keys: tuple[Key, ...] = ()
    documents: Mapping[str, Mapping[str, Any] | DecommissionError] = field(default_factory=dict)

    @cached_property
    def keys_by_session(self) -> Mapping[str, Sequence[Key]]:
        """The keys that each session holds, and its contender keys in semaphores, held or not."""
        found: dict[str, list[Key]] = defaultdict(list)
        for key in self.keys:
            if key.session is not None:
                found[key.session].append(key)
            elif key.flags == SEMAPHORE_FLAGS:
                found[key.name.rpartition("/")[2]].append(key)
        return found


@dataclass(frozen=True)
class Snapshot:
    """What the step knows at one moment. Empty if nothing can be removed.

    Attributes:
        members: gossip's view of the agents in the datacenter of the queried agent, by node id.
        errors: why a datacenter could not be read, by datacenter.
        long_ended: whether all instances ended so long ago that Consul has noticed that their agents are dead.
    """

    datacenters: tuple[Datacenter, ...] = ()
    members: Mapping[str, Member] = field(default_factory=dict)
    errors: Mapping[str, DecommissionError] = field(default_factory=dict)
    long_ended: bool = False


def list_nodes(catalog: ConsulCatalog, settings: ConsulSettings) -> Listing:
    """Lists every node of every configured datacenter."""
    errors: dict[str, DecommissionError] = {}

    def read(datacenter: str) -> tuple[CatalogNode, ...]:
        catalog.prove_rights(datacenter, _rights(settings))
        return catalog.nodes(datacenter)

    return Listing(_each(settings.datacenters or ("",), read, errors), errors)


def observe(
    catalog: ConsulCatalog, settings: ConsulSettings, names: Mapping[str, Collection[str]], *, audit: bool = False
) -> Snapshot:
    """Reads nodes, sessions and keys. Stops early if no node has a session and none is to be deregistered.

    Args:
        names: the names of the nodes that may be an instance's, by datacenter.
        audit: whether nodes to be deregistered are read with their services and checks.
    """
    errors: dict[str, DecommissionError] = {}

    def sessions_of(datacenter: str) -> Mapping[str, tuple[Session, ...]]:
        # Without read permission, Consul silently returns less.
        catalog.prove_rights(datacenter, _rights(settings))
        return _by_node(catalog.sessions(datacenter))

    sessions = _each([datacenter for datacenter, some in names.items() if some], sessions_of, errors)
    busy = {name: any(fold(node) in some for node in names[name]) for name, some in sessions.items()}
    if not any(busy.values()) and not (sessions and settings.deregister_node):
        return Snapshot(errors=errors)

    def read(datacenter: str) -> Datacenter:
        prefixes = settings.lock_prefixes if busy[datacenter] else ()
        reading = catalog.read(datacenter, sorted(names[datacenter]), prefixes)
        return Datacenter(
            datacenter,
            tuple(reading.nodes.values()),
            {fold(name): status for name, status in reading.agents.items()},
            sessions[datacenter],
            reading.keys,
            _documents(catalog, datacenter, reading.nodes) if audit and settings.deregister_node else {},
        )

    datacenters = tuple(_each(sessions, read, errors).values())
    try:
        # Read after the nodes: an agent that joins meanwhile is alive.
        members = {member.node_id: member for member in catalog.members() if member.node_id}
    except DecommissionError as error:
        return Snapshot(errors={**dict.fromkeys(sessions, error), **errors})
    return Snapshot(datacenters, members, errors)


def _each(datacenters: Iterable[str], read: Callable[[str], T], errors: dict[str, DecommissionError]) -> dict[str, T]:
    """Reads each datacenter. The error of one that fails is stored in ``errors`` and does not affect the others."""
    answers: dict[str, T] = {}
    for datacenter in dict.fromkeys(datacenters):
        try:
            answers[datacenter] = read(datacenter)
        except DecommissionError as error:
            errors[datacenter] = error
    return answers


def _rights(settings: ConsulSettings) -> list[Right]:
    prefixes = settings.lock_prefixes
    return [Right("node", "read"), Right("session", "read"), *(Right("key", "read", prefix) for prefix in prefixes)]


def _by_node(sessions: Iterable[Session]) -> Mapping[str, tuple[Session, ...]]:
    found: dict[str, list[Session]] = defaultdict(list)
    for session in sessions:
        found[fold(session.node)].append(session)
    return {name: tuple(some) for name, some in found.items()}


def _documents(
    catalog: ConsulCatalog, datacenter: str, names: Iterable[str]
) -> Mapping[str, Mapping[str, Any] | DecommissionError]:
    names = list(names)
    try:
        catalog.prove_rights(datacenter, [Right("service", "read")])
    except DecommissionError as error:
        return {fold(name): error for name in names}
    documents = catalog.node_documents(datacenter, names)
    return {fold(name): document for name, document in documents.items() if document is not None}
