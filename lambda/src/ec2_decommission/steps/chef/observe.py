"""Reads the Chef server: everything that the step needs to decide, in one frozen snapshot."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, field, replace
from functools import cached_property
from operator import itemgetter
from typing import TYPE_CHECKING, Any, TypeVar

from ...clients.chef import ChefClient, ChefNode
from ...errors import DecommissionError, about
from .plan import Case, short

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence, Set

    from ...clients.chef import ChefServer, NodeSearch
    from ...config import ChefSettings
    from ...instance import Instance
    from ..base import Finding, Removal

    Document = Mapping[str, Any] | DecommissionError | None

T = TypeVar("T")


@dataclass(frozen=True)
class Snapshot:
    """The nodes and clients related to a batch of instances, by name.

    If a node or client could not be read, its value is the error. If it does not exist, it has no entry.

    Attributes:
        nodes: the nodes found by instance id, and those with names like theirs or like the instances' names. Case is
            ignored, and a short name is like its long forms.
        clients: the clients with names like any of these. Empty with ``delete_client = false``.
        hidden: how many more nodes the search by instance id counted than it returned.
    """

    nodes: Mapping[str, ChefNode | DecommissionError] = field(default_factory=dict)
    clients: Mapping[str, ChefClient | DecommissionError] = field(default_factory=dict)
    hidden: int = 0

    def nodes_with_id(self, instance_id: str) -> Sequence[ChefNode]:
        """Returns the nodes that carry the instance id, sorted by name."""
        return self._nodes_by_id.get(instance_id, ())

    def nodes_like(self, name: str) -> Sequence[tuple[str, ChefNode | DecommissionError]]:
        """Returns the nodes with the same first label, sorted by name."""
        return self._nodes_by_label.get(short(name), ())

    def clients_like(self, name: str) -> Sequence[tuple[str, ChefClient | DecommissionError]]:
        """Returns the clients with the same first label, sorted by name."""
        return self._clients_by_label.get(short(name), ())

    @cached_property
    def _nodes_by_id(self) -> Mapping[str | None, Sequence[ChefNode]]:
        found = defaultdict(list)
        for _, node in sorted(self.nodes.items(), key=itemgetter(0)):
            if isinstance(node, ChefNode):
                found[node.instance_id].append(node)
        return found

    @cached_property
    def _nodes_by_label(self) -> Mapping[str, Sequence[tuple[str, ChefNode | DecommissionError]]]:
        return _by_label(self.nodes)

    @cached_property
    def _clients_by_label(self) -> Mapping[str, Sequence[tuple[str, ChefClient | DecommissionError]]]:
        return _by_label(self.clients)


def _by_label(things: Mapping[str, T]) -> Mapping[str, Sequence[tuple[str, T]]]:
    found = defaultdict(list)
    for name, thing in sorted(things.items(), key=itemgetter(0)):
        found[short(name)].append((name, thing))
    return found


def observe(
    server: ChefServer,
    settings: ChefSettings,
    instances: Mapping[str, Instance],
    found: NodeSearch | None = None,
    *,
    names: Iterable[str] = (),
    with_keys: bool,
) -> Snapshot:
    """Reads what the server has under the instances' ids and names.

    Sends four requests for up to 100 instances: the search by id, the names of all nodes, the names of all clients,
    and the search for privileged clients. The lists of names cost the server less than one request per name. They are
    always current, while the search index lags and is case-sensitive.

    Args:
        found: the result of the search by id, if it was just run.
        names: more nodes and clients to read, because the search index may not have them yet.
        with_keys: whether to read the clients' public keys, with one request each.

    Raises:
        DecommissionError: the server could not be queried.
    """
    found = found or server.search_nodes_by_instance_id(instances)
    nodes: dict[str, ChefNode | DecommissionError] = {node.name: node for node in found.nodes}
    cases = [Case(settings, instance, instances, Snapshot()) for instance in instances.values()]
    is_like = _is_like([*nodes, *names, *(name for case in cases for name in case.node_names | case.client_names)])
    if is_like is None:
        return Snapshot(hidden=found.hidden)
    nodes |= _nodes(server, [name for name in server.list_nodes() if name not in nodes and is_like(name)])
    if not settings.delete_client:
        return Snapshot(nodes, hidden=found.hidden)
    by_id = {node.name for node in found.nodes if node.instance_id in instances and not with_keys}
    return Snapshot(nodes, _clients(server, list(filter(is_like, server.list_clients())), by_id), found.hidden)


def _is_like(names: Iterable[str]) -> Callable[[str], bool] | None:
    """Returns a test whether a name is like one of these, as in ``plan.alike``; None if there are none."""
    whole = {name.lower() for name in names}
    with_labels = whole | {short(name) for name in whole}
    if not whole:
        return None
    return lambda name: name.lower() in with_labels or short(name) in whole


def _nodes(server: ChefServer, names: Sequence[str]) -> Mapping[str, ChefNode | DecommissionError]:
    """Reads the nodes of these names: with one search, then one by one those that the index lacks."""
    shown = {node.name: node for node in server.search_nodes_by_name(names).nodes}
    rest = server.nodes([name for name in names if name not in shown])
    return shown | {name: node for name, node in rest.items() if node is not None}


def _clients(
    server: ChefServer, names: Sequence[str], by_id: Set[str]
) -> Mapping[str, ChefClient | DecommissionError]:
    """Reads the clients of these names, one by one.

    One search shows which clients are privileged. Others are not read if their nodes carry one of the ids.
    """
    plain: Set[str] = frozenset()
    if of_nodes := by_id & set(names):
        privileged = server.privileged_clients()
        plain = of_nodes - privileged if privileged is not None else frozenset()
    read = server.clients([name for name in names if name not in plain])
    return {name: ChefClient(name) for name in plain} | {name: c for name, c in read.items() if c is not None}


def documents(server: ChefServer, removals: Iterable[Removal]) -> Mapping[str, Document]:
    """Reads the complete documents of the nodes among these, with one request each. For the audit."""
    names = [removal.handle for removal in removals if removal.kind == "chef_node"]
    return server.node_documents(names)


def with_documents(finding: Finding, found: Mapping[str, Document]) -> Finding:
    """Adds its document to each removal of a node. A node without a document is not removed."""
    removals: list[Removal] = []
    errors = list(finding.errors)
    for removal in finding.removals:
        document = found.get(removal.handle)
        if removal.kind != "chef_node":
            removals.append(removal)
        elif isinstance(document, DecommissionError):
            errors.append(about(f"{removal.target} could not be read for the audit", document))
        elif document is not None:
            removals.append(replace(removal, object=document))
    return replace(finding, removals=tuple(removals), errors=tuple(errors))
