"""All that the step ``consul`` reads: nodes, the state of their agents, sessions and keys."""

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
    """A node name as Consul compares it: letter case does not count."""
    return name.casefold()


@dataclass(frozen=True)
class Listing:
    """Every node, by datacenter. ``errors`` has the datacenters that could not be read."""

    nodes: Mapping[str, tuple[CatalogNode, ...]] = field(default_factory=dict)
    errors: Mapping[str, DecommissionError] = field(default_factory=dict)


@dataclass(frozen=True)
class Datacenter:
    """What one datacenter has that may be an instance's. Mappings are by folded node name.

    Attributes:
        name: as configured; "" is the datacenter of the agent that is asked.
        nodes: those that may be an instance's.
        agents: the status of serfHealth; no entry for a node without an agent, and for one that has just joined.
        sessions: every session.
        keys: those under ``lock_prefixes``; none if no node has a session.
        documents: each node with its services and checks, if an audit needs them; or why it could not be read.
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
    """The world of the step at one moment. Empty if nothing can be removed.

    Attributes:
        members: gossip's view of the agents in the datacenter of the agent that is asked, by node id.
        errors: by datacenter, why it could not be read.
        long_ended: whether all instances ended so long ago that Consul has noticed the death of their agents.
    """

    datacenters: tuple[Datacenter, ...] = ()
    members: Mapping[str, Member] = field(default_factory=dict)
    errors: Mapping[str, DecommissionError] = field(default_factory=dict)
    long_ended: bool = False


def list_nodes(catalog: ConsulCatalog, settings: ConsulSettings) -> Listing:
    """Every node of every configured datacenter."""
    errors: dict[str, DecommissionError] = {}

    def read(datacenter: str) -> tuple[CatalogNode, ...]:
        catalog.prove_rights(datacenter, _rights(settings))
        return catalog.nodes(datacenter)

    return Listing(_each(settings.datacenters or ("",), read, errors), errors)


def observe(
    catalog: ConsulCatalog, settings: ConsulSettings, names: Mapping[str, Collection[str]], *, audit: bool = False
) -> Snapshot:
    """Reads nodes, and what is theirs. Ends early if none has a session and no node is to be deregistered.

    Args:
        names: of the nodes that may be an instance's, by datacenter.
        audit: whether a node that is to be deregistered has to be read with its services and checks.
    """
    errors: dict[str, DecommissionError] = {}

    def sessions_of(datacenter: str) -> Mapping[str, tuple[Session, ...]]:
        # Without a right to read, Consul answers with less, and says nothing.
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
        # After the nodes: an agent that joins meanwhile is alive.
        members = {member.node_id: member for member in catalog.members() if member.node_id}
    except DecommissionError as error:
        return Snapshot(errors={**dict.fromkeys(sessions, error), **errors})
    return Snapshot(datacenters, members, errors)


def _each(datacenters: Iterable[str], read: Callable[[str], T], errors: dict[str, DecommissionError]) -> dict[str, T]:
    """What each datacenter answers. One that fails has its entry in ``errors`` instead, and fails only itself."""
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
