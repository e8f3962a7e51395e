"""A Chef server in process, held to the real one's behaviour by tests/conformance/test_chef.py."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any, TypeVar

from ec2_decommission.clients.chef import ChefNode, ConvergedNode, NodeSearch, is_client_name, is_node_name
from ec2_decommission.errors import AccessError, ConfigurationError, DecommissionError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping

T = TypeVar("T")


class FakeChefServer:
    """The world is in ``node_objects`` and ``client_names``; the switches change how it answers.

    Attributes:
        where_and_when: the attributes of ``ConvergedNode`` beside name and id, by name of the node.
        key_accepted: False for a server that does not know the signature.
        forbidden: rights that the client lacks: ``search nodes``, ``read nodes``, ``read clients``,
            ``delete nodes``, ``delete clients``.
        unreadable: nodes that the client may not read: a search counts them and does not show them, as a Chef
            server with ``strict_search_result_acls`` does.
        lagging: while True, the index takes in no change; ``catch_up`` lets it.
        fault: called with operation and name before each request, to raise what is to go wrong.
        calls: requests by operation, as the real client would send them.
    """

    def __init__(self) -> None:
        self.node_objects: dict[str, ChefNode] = {}
        self.client_names: set[str] = set()
        self.where_and_when: dict[str, dict[str, Any]] = {}
        self.key_accepted = True
        self.forbidden: set[str] = set()
        self.unreadable: set[str] = set()
        self.lagging = False
        self.fault: Callable[[str, str], None] | None = None
        self.calls: Counter[str] = Counter()
        self._index: dict[str, ChefNode] = {}

    # The world

    def put_node(self, name: str, instance_id: str | None = None, **facts: Any) -> None:
        """Saves a node, as Chef Infra Client does at the end of a run."""
        self.node_objects[name] = ChefNode(name, instance_id, **facts)
        self.where_and_when.pop(name, None)
        self._write()

    def put_client(self, name: str) -> None:
        self.client_names.add(name)

    def catch_up(self) -> None:
        """The index takes in all that changed, and goes on doing so."""
        self.lagging = False
        self._write()

    def _write(self) -> None:
        if not self.lagging:
            self._index = dict(self.node_objects)

    # The ChefServer protocol

    def search_nodes_by_instance_id(self, instance_ids: Iterable[str]) -> NodeSearch:
        wanted = set(instance_ids)
        return self._search(len(wanted), lambda node: node.instance_id in wanted)

    def search_nodes_by_name(self, names: Iterable[str]) -> NodeSearch:
        wanted = {name for name in names if is_node_name(name)}
        return self._search(len(wanted), lambda node: node.name in wanted)

    def nodes(self, names: Iterable[str]) -> Mapping[str, ChefNode | DecommissionError | None]:
        wanted = list(dict.fromkeys(names))
        possible = self._listed("read nodes", [name for name in wanted if is_node_name(name)], self.node_objects)
        found = {name: self._each("read nodes", name, self._read) for name in possible}
        return {name: found.get(name) for name in wanted}

    def converged_nodes(self, prefix: str) -> Iterator[ConvergedNode]:
        hits = [name for name, node in self._index.items() if (node.instance_id or "").startswith(prefix)]
        for start in range(0, max(1, len(hits)), 1000):
            self._request("search nodes", "")
            for name in hits[start : start + 1000]:
                own = self.node_objects.get(name)
                if own is not None and name not in self.unreadable and (own.instance_id or "").startswith(prefix):
                    yield ConvergedNode(name, own.instance_id or "", **self.where_and_when.get(name, {}))

    def clients(self, names: Iterable[str]) -> Mapping[str, bool | DecommissionError]:
        wanted = list(dict.fromkeys(names))
        possible = [name for name in wanted if is_client_name(name)]
        if len(possible) > 8:
            listed = self._listed("read clients", possible, self.client_names)
            return {name: name in listed for name in wanted}
        found = {name: self._each("read clients", name, lambda n: n in self.client_names) for name in possible}
        return {name: found.get(name, False) for name in wanted}

    def delete_nodes(self, names: Iterable[str]) -> Mapping[str, bool | DecommissionError]:
        def delete(name: str) -> bool:
            gone = self.node_objects.pop(name, None)
            self._write()
            return gone is not None

        return {n: is_node_name(n) and self._each("delete nodes", n, delete) for n in dict.fromkeys(names)}

    def delete_clients(self, names: Iterable[str]) -> Mapping[str, bool | DecommissionError]:
        def delete(name: str) -> bool:
            there = name in self.client_names
            self.client_names.discard(name)
            return there

        return {n: is_client_name(n) and self._each("delete clients", n, delete) for n in dict.fromkeys(names)}

    def _search(self, terms: int, matches: Callable[[ChefNode], bool]) -> NodeSearch:
        for _ in range((terms + 99) // 100):
            self._request("search nodes", "")
        hits = [name for name, node in self._index.items() if matches(node)]
        shown = [
            self.node_objects[name] for name in hits if name in self.node_objects and name not in self.unreadable
        ]
        return NodeSearch(tuple(shown), len(hits) - len(shown))

    def _read(self, name: str) -> ChefNode | None:
        if name in self.unreadable and name in self.node_objects:
            raise AccessError(f"Chef client may not read node {name}")
        return self.node_objects.get(name)

    def _listed(self, right: str, names: list[str], existing: Iterable[str]) -> list[str]:
        """Many names: one listing tells which exist."""
        if len(names) <= 8:
            return names
        self._request(right, "")
        there = set(existing)
        return [name for name in names if name in there]

    def _each(self, operation: str, name: str, call: Callable[[str], T]) -> T | DecommissionError:
        try:
            self._request(operation, name)
            return call(name)
        except DecommissionError as error:
            return error

    def _request(self, operation: str, name: str) -> None:
        self.calls[operation] += 1
        if self.fault:
            self.fault(operation, name)
        if not self.key_accepted:
            raise ConfigurationError("Chef server does not accept the signature: chef_client_key is wrong")
        if operation in self.forbidden:
            raise AccessError(f"Chef client may not {operation} {name}".rstrip())
