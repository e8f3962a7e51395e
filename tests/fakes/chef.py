"""A Chef server in process. tests/conformance/test_chef.py compares it with a real one."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from typing import TYPE_CHECKING, Any, TypeVar

from ec2_decommission.clients.chef import (
    ChefClient,
    ChefNode,
    NodeSearch,
    is_client_name,
    is_node_name,
    node_of,
)
from ec2_decommission.errors import AccessError, ConfigurationError, DecommissionError, PermanentError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

    from ec2_decommission.clients.http import Guard

T = TypeVar("T")


class FakeChefServer:
    """``node_objects`` and ``client_names`` hold the server's data. The other attributes change its answers.

    Attributes:
        client_details: attributes of clients.
        key_accepted: False for a server that rejects the signature.
        forbidden: permissions that the client lacks: ``search nodes``, ``search clients``, ``read nodes``,
            ``read clients``, ``delete nodes``, ``delete clients``, ``create nodes``, ``create clients``.
        unreadable: nodes that the client cannot read. A search counts them but does not return them, like a Chef
            server with ``strict_search_result_acls``.
        lagging: while True, the index ignores changes until ``catch_up``.
        fault: called with operation and name before each request. It may raise errors.
        calls: the real client's requests, by operation.
    """

    def __init__(self) -> None:
        self.node_objects: dict[str, ChefNode] = {}
        self.client_names: set[str] = set()
        self.client_details: dict[str, ChefClient] = {}
        self.key_accepted = True
        self.forbidden: set[str] = set()
        self.unreadable: set[str] = set()
        self.lagging = False
        self.fault: Callable[[str, str], None] | None = None
        self.calls: Counter[str] = Counter()
        self._index: dict[str, ChefNode] = {}
        self._privileged: set[str] = set()

    # The world

    def put_node(self, name: str, instance_id: str | None = None, **facts: Any) -> None:
        """Saves a node, as Chef Infra Client does at the end of a run."""
        self.node_objects[name] = ChefNode(name, instance_id, **facts)
        self._write()

    def tell(self, name: str, **facts: Any) -> None:
        """Adds Ohai's attributes to a node."""
        self.node_objects[name] = replace(self.node_objects[name], **facts)
        self._write()

    def put_client(self, name: str, **details: Any) -> None:
        """Creates a client. ``details`` are fields of `ChefClient`."""
        self.client_names.add(name)
        self.client_details[name] = ChefClient(name, **details)
        self._write()

    def catch_up(self) -> None:
        """Updates the index, and ends its lag."""
        self.lagging = False
        self._write()

    def _write(self) -> None:
        if not self.lagging:
            self._index = dict(self.node_objects)
            self._privileged = {n for n, client in self.client_details.items() if client.validator or client.admin}

    # The ChefServer protocol

    def search_nodes_by_instance_id(self, instance_ids: Iterable[str]) -> NodeSearch:
        wanted = set(instance_ids)
        return self._search(len(wanted), lambda node: node.instance_id in wanted)

    def search_nodes_by_name(self, names: Iterable[str]) -> NodeSearch:
        wanted = {name for name in names if is_node_name(name)}
        return self._search(len(wanted), lambda node: node.name in wanted)

    def nodes(self, names: Iterable[str]) -> Mapping[str, ChefNode | DecommissionError | None]:
        return self._read("read nodes", names, is_node_name, self.node_objects, self._node)

    def node_documents(self, names: Iterable[str]) -> Mapping[str, Mapping[str, Any] | DecommissionError | None]:
        def document(name: str) -> Mapping[str, Any] | None:
            node = self._node(name)
            return document_of(node) if node else None

        return self._read("read nodes", names, is_node_name, self.node_objects, document)

    def list_nodes(self) -> tuple[str, ...]:
        self._request("read nodes", "")
        return tuple(self.node_objects)

    def converged_nodes(self, prefix: str) -> Iterator[ChefNode]:
        hits = [name for name, node in self._index.items() if (node.instance_id or "").startswith(prefix)]
        for start in range(0, max(1, len(hits)), 1000):
            self._request("search nodes", "")
            for name in hits[start : start + 1000]:
                own = self.node_objects.get(name)
                if own and own.instance_id and name not in self.unreadable and own.instance_id.startswith(prefix):
                    yield replace(
                        own, vpc_id=None, private_ips=(), public_ips=(), ipv6_addresses=(), fqdn=None, hostname=None
                    )

    def clients(self, names: Iterable[str]) -> Mapping[str, ChefClient | DecommissionError | None]:
        def client(name: str) -> ChefClient | None:
            return self.client_details.get(name, ChefClient(name)) if name in self.client_names else None

        return self._read("read clients", names, is_client_name, self.client_names, client)

    def list_clients(self) -> tuple[str, ...]:
        self._request("read clients", "")
        return tuple(self.client_names)

    def privileged_clients(self) -> frozenset[str] | None:
        self._request("search clients", "")
        shown = self._privileged & self.client_names - self.unreadable
        return frozenset(shown) if shown == self._privileged else None

    def delete_nodes(
        self, names: Iterable[str], guard: Guard | None = None
    ) -> Mapping[str, bool | DecommissionError]:
        def delete(name: str) -> bool:
            gone = self.node_objects.pop(name, None)
            self._write()
            return gone is not None

        wanted = dict.fromkeys(names)
        return {n: is_node_name(n) and self._each("delete nodes", n, delete, guard) for n in wanted}

    def delete_clients(
        self, names: Iterable[str], guard: Guard | None = None
    ) -> Mapping[str, bool | DecommissionError]:
        def delete(name: str) -> bool:
            there = name in self.client_names
            self.client_names.discard(name)
            self.client_details.pop(name, None)
            self._write()
            return there

        wanted = dict.fromkeys(names)
        return {n: is_client_name(n) and self._each("delete clients", n, delete, guard) for n in wanted}

    def create_node(self, document: Mapping[str, Any], guard: Guard | None = None) -> bool:
        name = str(document.get("name"))
        if not is_node_name(name):
            raise PermanentError(f"a Chef node cannot have the name {name!r}")
        self._request("create nodes", name, guard)
        if name in self.node_objects:
            return False
        self.node_objects[name] = node_of(document)
        self._write()
        return True

    def create_client(self, name: str, public_key: str, guard: Guard | None = None) -> bool:
        if not is_client_name(name):
            raise PermanentError(f"a Chef client cannot have the name {name!r}")
        self._request("create clients", name, guard)
        if name in self.client_names:
            return False
        self.put_client(name, public_key=public_key)
        return True

    def _search(self, terms: int, matches: Callable[[ChefNode], bool]) -> NodeSearch:
        for _ in range((terms + 99) // 100):
            self._request("search nodes", "")
        hits = [name for name, node in self._index.items() if matches(node)]
        shown = [
            self.node_objects[name] for name in hits if name in self.node_objects and name not in self.unreadable
        ]
        return NodeSearch(tuple(shown), len(hits) - len(shown))

    def _node(self, name: str) -> ChefNode | None:
        if name in self.unreadable and name in self.node_objects:
            raise AccessError(f"Chef client may not read node {name}")
        return self.node_objects.get(name)

    def _read(
        self,
        right: str,
        names: Iterable[str],
        possible: Callable[[str], bool],
        existing: Iterable[str],
        read: Callable[[str], T | None],
    ) -> Mapping[str, T | DecommissionError | None]:
        """Reads names. For many names, lists the existing ones first."""
        wanted = list(dict.fromkeys(names))
        asked = [name for name in wanted if possible(name)]
        if len(asked) > 8:
            self._request(right, "")
            there = set(existing)
            asked = [name for name in asked if name in there]
        found = {name: self._each(right, name, read) for name in asked}
        return {name: found.get(name) for name in wanted}

    def _each(
        self, operation: str, name: str, call: Callable[[str], T], guard: Guard | None = None
    ) -> T | DecommissionError:
        try:
            self._request(operation, name, guard)
            return call(name)
        except DecommissionError as error:
            return error

    def _request(self, operation: str, name: str, guard: Guard | None = None) -> None:
        if guard:
            guard()
        self.calls[operation] += 1
        if self.fault:
            self.fault(operation, name)
        if not self.key_accepted:
            raise ConfigurationError("Chef server does not accept the signature: chef_client_key is wrong")
        if operation in self.forbidden:
            raise AccessError(f"Chef client may not {operation} {name}".rstrip())


def document_of(node: ChefNode) -> dict[str, Any]:
    """A complete node document, as a server stores it."""
    ec2 = {
        "instance_id": node.instance_id,
        "account_id": node.account_id,
        "region": node.region,
        "placement_availability_zone": node.availability_zone,
        "local_hostname": _lines(node.private_dns_names),
        "public_hostname": _lines(node.public_dns_names),
        "network_interfaces_macs": {
            "0a:00": {
                "vpc_id": node.vpc_id,
                "local_ipv4s": _lines(node.private_ips),
                "public_ipv4s": _lines(node.public_ips),
                "ipv6s": _lines(node.ipv6_addresses),
            }
        },
    }
    automatic = {
        "ipaddress": node.ipaddress,
        "fqdn": node.fqdn,
        "hostname": node.hostname,
        "ohai_time": node.ohai_time,
        "ec2": ec2,
    }
    levels: dict[str, Any] = {"automatic": automatic, "normal": {}, "default": {}, "override": {}}
    return {"name": node.name, "chef_type": "node", "json_class": "Chef::Node", "run_list": [], **levels}


def _lines(values: Sequence[str]) -> str:
    return "\n".join(values)
