"""Conformance of the fake Chef server: the same tests run on the fake and on the real client with a real server."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, Protocol
from urllib.parse import urlsplit

import pytest

from ec2_decommission.clients import chef as chef_client
from ec2_decommission.clients.chef import ChefClient, ChefNode, ChefServer, PyChefServer
from ec2_decommission.config import ChefSettings
from ec2_decommission.deadline import Deadline
from ec2_decommission.errors import AccessError, ConfigurationError, DecommissionError, PermanentError, TransientError
from testbed.chef import ChefServer as Goiardi
from testbed.fault_proxy import FaultProxy
from tests.fakes.chef import FakeChefServer, document_of

if TYPE_CHECKING:
    from collections.abc import Iterator


class World(Protocol):
    """A Chef server for a test to fill, and its clients."""

    def put_node(self, name: str, instance_id: str | None = None, **facts: Any) -> ChefNode:
        """Creates a node with one address. `facts` are further fields of `ChefNode`."""

    def put_client(self, name: str, *, validator: bool = False, admin: bool = False) -> None: ...

    def server(self, *, admin: bool = True, right_key: bool = True) -> ChefServer:
        """A client as an administrator, or without permission to read and remove other clients."""


def node(name: str, instance_id: str | None = None, **facts: Any) -> ChefNode:
    return ChefNode(name, instance_id, **{"private_ips": ("10.0.0.5",), **facts})


class FakeWorld:
    def __init__(self) -> None:
        self._server = FakeChefServer()
        self._server.put_client("chef-validator", validator=True)

    def put_node(self, name: str, instance_id: str | None = None, **facts: Any) -> ChefNode:
        put = node(name, instance_id, **facts)
        self._server.node_objects[name] = put
        self._server.catch_up()
        return put

    def put_client(self, name: str, *, validator: bool = False, admin: bool = False) -> None:
        self._server.put_client(name, validator=validator, admin=admin, public_key="-----BEGIN PUBLIC KEY-----")

    def server(self, *, admin: bool = True, right_key: bool = True) -> ChefServer:
        self._server.key_accepted = right_key
        # The operations that goiardi denies to a client that is not an administrator.
        kept = {"read clients", "delete nodes", "delete clients", "create clients"}
        self._server.forbidden = set() if admin else kept
        return self._server


class RealWorld:
    def __init__(self, goiardi: Goiardi, protocol: str = "1.3") -> None:
        self._goiardi = goiardi
        self._protocol = protocol
        self._open: list[PyChefServer] = []

    def put_node(self, name: str, instance_id: str | None = None, **facts: Any) -> ChefNode:
        put = node(name, instance_id, **facts)
        self._goiardi.api.request("POST", "/nodes", json=document_of(put))
        self._goiardi.wait_for_index(name)
        return put

    def put_client(self, name: str, *, validator: bool = False, admin: bool = False) -> None:
        self._goiardi.api.request("POST", "/clients", json={"name": name, "validator": validator, "admin": admin})

    def server(self, *, admin: bool = True, right_key: bool = True) -> ChefServer:
        name, key = self._goiardi.admin_name, self._goiardi.admin_key
        if not admin:
            name, key = "lowly", self._goiardi.create_client("lowly")
        elif not right_key:
            key = self._goiardi.create_client("somebody")
        settings = ChefSettings(self._goiardi.url, name, signing_protocol=self._protocol)
        self._open.append(PyChefServer(settings, key.decode(), lambda: Deadline.after(60)))
        return self._open[-1]

    def clear(self) -> None:
        for server in self._open:
            server.close()
        for name in self._goiardi.nodes():
            self._goiardi.delete_node(name)
        for name in set(self._goiardi.clients()) - {"chef-validator", "chef-webui"}:
            self._goiardi.delete_client(name)


@pytest.fixture(scope="module")
def goiardi() -> Iterator[Goiardi]:
    with Goiardi() as server:
        yield server


@pytest.fixture(params=["fake", pytest.param("real", marks=pytest.mark.servers)])
def world(request: pytest.FixtureRequest) -> Iterator[World]:
    if request.param == "fake":
        yield FakeWorld()
    else:
        world = RealWorld(request.getfixturevalue("goiardi"))
        yield world
        world.clear()


FULL: dict[str, Any] = {
    "account_id": "123456789012",
    "region": "eu-west-1",
    "availability_zone": "eu-west-1b",
    "vpc_id": "vpc-1",
    "private_ips": ("10.0.0.5", "10.0.0.6"),
    "public_ips": ("192.0.2.1",),
    "ipv6_addresses": ("2001:db8::5",),
    "private_dns_names": ("ip-10-0-0-5.eu-west-1.compute.internal",),
    "public_dns_names": ("ec2-192-0-2-1.eu-west-1.compute.amazonaws.com",),
    "ipaddress": "172.17.0.1",
    "fqdn": "web-1.example.com",
    "hostname": "web-1",
    "ohai_time": 1_760_000_000.25,
}


# Searching


def test_search_by_instance_id_returns_nodes_with_ohai_attributes(world: World) -> None:
    own = [world.put_node("web-1", "i-0aaa", **FULL), world.put_node("web-1-again", "i-0aaa")]
    other = world.put_node("web-2", "i-0bbb")
    world.put_node("web-3", "i-0ccc")
    world.put_node("bare")
    found = world.server().search_nodes_by_instance_id(["i-0aaa", "i-0bbb", "i-0ddd"])
    assert sorted(found.nodes, key=lambda node: node.name) == [*own, other]
    assert found.hidden == 0


def test_converged_nodes_have_place_and_time(world: World) -> None:
    full = world.put_node("web-1", "i-0aaa", **FULL)
    world.put_node("web-1-again", "i-0aaa")
    world.put_node("web-2", "i-0aab")
    world.put_node("never-converged")
    world.put_node("elsewhere", "vm-17")

    def found(prefix: str) -> list[str]:
        return sorted(node.name for node in world.server().converged_nodes(prefix))

    assert found("i-") == ["web-1", "web-1-again", "web-2"]
    assert found("i-0aab") == ["web-2"]
    assert found("i-0b") == []
    assert found("") == ["elsewhere", "web-1", "web-1-again", "web-2"]
    [read] = [node for node in world.server().converged_nodes("i-") if node.name == "web-1"]
    assert (read.account_id, read.region, read.availability_zone) == ("123456789012", "eu-west-1", "eu-west-1b")
    assert (read.dns_names, read.ohai_time) == (full.dns_names, 1_760_000_000.25)


def test_converged_nodes_are_read_over_several_pages(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(chef_client, "_ROWS_PER_PAGE", 50)  # instead of 1000: goiardi is slow at saving nodes
    for number in range(101):
        world.put_node(f"web-{number}", f"i-{number:017x}")
    found = [node.name for node in world.server().converged_nodes("i-")]
    # goiardi does not sort its pages: a page may repeat some nodes of another, and skip as many.
    assert set(found) <= {f"web-{number}" for number in range(101)}
    assert len(found) == 101


def test_search_does_not_match_an_id_by_prefix(world: World) -> None:
    world.put_node("web-1", "i-0aaab")
    assert world.server().search_nodes_by_instance_id(["i-0aaa"]).nodes == ()


def test_search_splits_many_ids_into_several_queries(world: World) -> None:
    ids = [f"i-{number:017x}" for number in range(250)]
    for number in range(0, 250, 25):
        world.put_node(f"web-{number}", ids[number])
    found = world.server().search_nodes_by_instance_id(ids)
    assert {node.instance_id for node in found.nodes} == set(ids[::25])


def test_search_for_no_ids_is_empty(world: World) -> None:
    assert world.server().search_nodes_by_instance_id([]).nodes == ()


ODD_NAMES = ["OR", "AND", "NOT", "NOT-1", "ORx", "or", "-x", "--", "x:y", ":x", ".x", "_", "x."]


@pytest.mark.parametrize("name", ["web-1.example.internal", *ODD_NAMES])
def test_query_syntax_in_a_name_does_not_break_the_search(world: World, name: str) -> None:
    odd, other = world.put_node(name), world.put_node("web-1", "i-0bbb")
    server = world.server()
    found = set(server.search_nodes_by_name([name, "web-1", "nobody", "no name at all", ""]).nodes)
    assert {other} <= found <= {odd, other}
    assert server.nodes([name]) == {name: odd}


# By name

IMPOSSIBLE = ["../../clients/web-1", "..", ".", "", "a b", "ä", "a/b", "a?b", "a%2fb", "web-1\n"]


@pytest.mark.parametrize("others", [0, 20], ids=["few", "many"])
def test_nodes_by_name(world: World, others: int) -> None:
    full, rack = world.put_node("web-1", "i-0aaa", **FULL), world.put_node("rack:7")
    absent = ["gone", "WEB-1", *IMPOSSIBLE, *(f"gone-{n}" for n in range(others))]
    server = world.server()
    assert server.nodes(["web-1", "rack:7", *absent]) == {"web-1": full, "rack:7": rack, **dict.fromkeys(absent)}
    documents = server.node_documents(["web-1", *absent])
    assert documents == {"web-1": documents["web-1"], **dict.fromkeys(absent)}
    assert set(server.list_nodes()) == {"web-1", "rack:7"}


@pytest.mark.parametrize("others", [0, 20], ids=["few", "many"])
def test_clients_by_name(world: World, others: int) -> None:
    world.put_client("web-1")
    absent = ["gone", "rack:7", *IMPOSSIBLE, *(f"gone-{n}" for n in range(others))]
    server = world.server()
    found = server.clients(["web-1", "chef-validator", *absent])
    own, validator = found["web-1"], found["chef-validator"]
    assert isinstance(own, ChefClient)
    assert isinstance(validator, ChefClient)
    assert (own.name, own.validator, own.admin) == ("web-1", False, False)
    assert (own.public_key or "").startswith("-----BEGIN PUBLIC KEY-----")
    assert (validator.validator, validator.admin) == (True, False)
    assert found == {"web-1": own, "chef-validator": validator, **dict.fromkeys(absent)}
    assert {"web-1", "chef-validator"} <= set(server.list_clients())


def test_privileged_clients(world: World) -> None:
    world.put_client("web-1")
    world.put_client("boss", admin=True)
    world.put_client("acme-bootstrap", validator=True)
    found = world.server().privileged_clients()
    assert found
    assert found >= {"chef-validator", "acme-bootstrap", "boss"}
    assert "web-1" not in found


def test_delete_returns_the_removed_object(world: World) -> None:
    for name in ("web-1", "web-2"):
        world.put_node(name, "i-0aaa")
        world.put_client(name)
    server = world.server()
    names = ["web-1", "gone", *IMPOSSIBLE]
    expected = {**dict.fromkeys(names, False), "web-1": True}
    assert server.delete_nodes(names) == expected
    assert [n and n.name for n in server.clients(["web-1"]).values() if isinstance(n, ChefClient)] == ["web-1"]
    assert server.delete_clients(names) == expected
    assert server.nodes(["web-1"]) == server.clients(["web-1"]) == {"web-1": None}
    assert [node.name for node in server.search_nodes_by_instance_id(["i-0aaa"]).nodes] == ["web-2"]
    assert isinstance(server.clients(["web-2"])["web-2"], ChefClient)
    assert server.delete_nodes(["web-1"]) == {"web-1": False}


def test_removed_objects_are_restored_without_overwriting(world: World) -> None:
    full = world.put_node("web-1", "i-0aaa", **FULL)
    world.put_client("web-1")
    server = world.server()
    document, client = server.node_documents(["web-1"])["web-1"], server.clients(["web-1"])["web-1"]
    assert document is not None
    assert not isinstance(document, DecommissionError)
    assert isinstance(client, ChefClient)
    assert client.public_key
    kept = json.loads(json.dumps(document))  # like an audit object
    assert server.create_node({**kept, "automatic": {}}) is False
    assert server.create_client("web-1", "-----BEGIN PUBLIC KEY-----\nother") is False
    assert server.nodes(["web-1"]) == {"web-1": full}
    assert server.clients(["web-1"]) == {"web-1": client}
    server.delete_nodes(["web-1"])
    server.delete_clients(["web-1"])
    assert server.create_node(kept) is True
    assert server.create_client("web-1", client.public_key) is True
    assert server.nodes(["web-1"]) == {"web-1": full}
    assert server.node_documents(["web-1"]) == {"web-1": document}
    assert server.clients(["web-1"]) == {"web-1": client}


@pytest.mark.parametrize("name", IMPOSSIBLE)
def test_invalid_names_are_not_created(world: World, name: str) -> None:
    with pytest.raises(PermanentError, match="a Chef node cannot have the name"):
        world.server().create_node({"name": name})
    with pytest.raises(PermanentError, match="a Chef client cannot have the name"):
        world.server().create_client(name, "key")


class StaleError(TransientError):
    """The error that the guards of these tests raise."""


def test_change_is_not_sent_if_its_guard_raises(world: World) -> None:
    calls: list[str] = []

    def guard() -> None:
        calls.append("")
        if len(calls) > 2:
            raise StaleError("the proof is too old")

    names = [f"web-{number}" for number in range(12)]
    for name in names:
        world.put_node(name)
        world.put_client(name)
    server = world.server()
    for delete, read in ((server.delete_nodes, server.nodes), (server.delete_clients, server.clients)):
        calls.clear()
        answers = delete(names, guard)
        there = {name for name, found in read(names).items() if found is not None}
        assert {name for name, answer in answers.items() if isinstance(answer, StaleError)} == there
        assert len(there) >= len(names) - 2
    document = server.node_documents(["web-11"])["web-11"]
    assert isinstance(document, dict)
    with pytest.raises(StaleError):
        server.create_node({**document, "name": "new"}, guard)
    with pytest.raises(StaleError):
        server.create_client("new", "-----BEGIN PUBLIC KEY-----", guard)
    assert server.nodes(["new"]) == server.clients(["new"]) == {"new": None}


@pytest.mark.servers
def test_protocol_1_0_signatures_work_with_an_old_server(goiardi: Goiardi) -> None:
    world = RealWorld(goiardi, "1.0")
    full = world.put_node("web-1", "i-0aaa", **FULL)
    world.put_client("web-1")
    server = world.server()
    assert server.search_nodes_by_instance_id(["i-0aaa"]).nodes == (full,)
    assert server.nodes(["web-1"]) == {"web-1": full}
    document = server.node_documents(["web-1"])["web-1"]
    assert isinstance(document, dict)
    assert server.delete_nodes(["web-1"]) == server.delete_clients(["web-1"]) == {"web-1": True}
    assert server.create_node(document) is True
    world.clear()


@pytest.mark.servers
def test_a_name_is_always_one_path_segment(goiardi: Goiardi) -> None:
    """For any input, each request goes to an API path, and each name is one segment of it."""
    names = [*IMPOSSIBLE, "web-1", "rack:7", "..x", *ODD_NAMES]
    with FaultProxy(goiardi.url) as proxy:
        settings = ChefSettings(proxy.url, goiardi.admin_name)
        server = PyChefServer(settings, goiardi.admin_key.decode(), lambda: Deadline.after(60))
        for name in names:
            server.nodes([name])
            server.clients([name])
            server.delete_nodes([name])
            server.delete_clients([name])
        server.search_nodes_by_name(names)
        server.search_nodes_by_instance_id(["i-0aaa) OR (name:*", "../x&q=name:*#"])
        server.close()
        paths = [urlsplit(request.path).path for request in proxy.seen]
    assert paths
    allowed = {"/search/node", "/nodes", *(f"/{kind}/{name}" for kind in ("nodes", "clients") for name in names[10:])}
    assert set(paths) <= allowed


def test_a_wrong_key_is_a_configuration_error(world: World) -> None:
    server = world.server(right_key=False)
    with pytest.raises(ConfigurationError, match="chef_client_key"):
        server.search_nodes_by_instance_id(["i-0aaa"])
    assert isinstance(server.nodes(["web-1"])["web-1"], ConfigurationError)
    with pytest.raises(ConfigurationError, match="chef_client_key"):
        server.nodes([f"web-{number}" for number in range(20)])


def test_missing_permission_is_not_absence(world: World) -> None:
    world.put_node("web-1", "i-0aaa")
    world.put_client("web-1")
    server = world.server(admin=False)
    for answer in (
        server.delete_nodes(["web-1"])["web-1"],
        server.delete_clients(["web-1"])["web-1"],
        server.clients(["web-1"])["web-1"],
    ):
        assert isinstance(answer, AccessError)
        assert "web-1" in str(answer)
    with pytest.raises(AccessError):
        server.create_client("new", "-----BEGIN PUBLIC KEY-----")
    assert isinstance(world.server().clients(["web-1"])["web-1"], ChefClient)
