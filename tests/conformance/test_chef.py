"""The fake Chef server and the real client against a real server behave alike: the same tests run on both."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any, Protocol

import pytest

from ec2_decommission.clients.chef import ChefNode, ChefServer, ConvergedNode, PyChefServer
from ec2_decommission.config import ChefSettings
from ec2_decommission.deadline import Deadline
from ec2_decommission.errors import AccessError, ConfigurationError, DecommissionError
from testbed.chef import ChefServer as Goiardi
from tests.fakes.chef import FakeChefServer

if TYPE_CHECKING:
    from collections.abc import Iterator


class World(Protocol):
    """A Chef server that a test fills, and the clients that ask it."""

    def put_node(self, name: str, instance_id: str | None = None) -> None: ...

    def put_converged(self, node: ConvergedNode) -> None: ...

    def put_client(self, name: str) -> None: ...

    def server(self, *, admin: bool = True, right_key: bool = True) -> ChefServer:
        """As an administrator, or as a client without the right to remove others or to read them."""


class FakeWorld:
    def __init__(self) -> None:
        self._server = FakeChefServer()

    def put_node(self, name: str, instance_id: str | None = None) -> None:
        self._server.put_node(name, instance_id, private_ips=("10.0.0.5",))

    def put_converged(self, node: ConvergedNode) -> None:
        self._server.put_node(node.name, node.instance_id)
        told = {k: v for k, v in dataclasses.asdict(node).items() if k not in ("name", "instance_id")}
        self._server.where_and_when[node.name] = told

    def put_client(self, name: str) -> None:
        self._server.put_client(name)

    def server(self, *, admin: bool = True, right_key: bool = True) -> ChefServer:
        self._server.key_accepted = right_key
        # What goiardi keeps from a client that is no administrator.
        self._server.forbidden = set() if admin else {"read clients", "delete nodes", "delete clients"}
        return self._server


class RealWorld:
    def __init__(self, goiardi: Goiardi) -> None:
        self._goiardi = goiardi
        self._open: list[PyChefServer] = []

    def put_node(self, name: str, instance_id: str | None = None) -> None:
        ec2: dict[str, Any] | None = {"instance_id": instance_id, "local_ipv4": "10.0.0.5"} if instance_id else None
        self._goiardi.create_node(name, ec2=ec2, automatic={"ipaddress": "10.0.0.5"})

    def put_converged(self, node: ConvergedNode) -> None:
        ec2 = {
            "instance_id": node.instance_id,
            "account_id": node.account_id,
            "region": node.region,
            "placement_availability_zone": node.availability_zone,
            **dict(zip(("local_hostname", "public_hostname"), node.dns_names, strict=False)),
        }
        told = {key: value for key, value in ec2.items() if value is not None}
        automatic = {"ohai_time": node.ohai_time} if node.ohai_time is not None else {}
        self._goiardi.create_node(node.name, ec2=told, automatic=automatic)

    def put_client(self, name: str) -> None:
        self._goiardi.create_client(name)

    def server(self, *, admin: bool = True, right_key: bool = True) -> ChefServer:
        name, key = self._goiardi.admin_name, self._goiardi.admin_key
        if not admin:
            name, key = "lowly", self._goiardi.create_client("lowly")
        elif not right_key:
            key = self._goiardi.create_client("somebody")
        settings = ChefSettings(self._goiardi.url, name)
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
        real = RealWorld(request.getfixturevalue("goiardi"))
        yield real
        real.clear()


def test_search_shows_the_nodes_that_bear_the_ids(world: World) -> None:
    world.put_node("web-1", "i-0aaa")
    world.put_node("web-1-again", "i-0aaa")
    world.put_node("web-2", "i-0bbb")
    world.put_node("web-3", "i-0ccc")
    world.put_node("bare")
    found = world.server().search_nodes_by_instance_id(["i-0aaa", "i-0bbb", "i-0ddd"])
    assert {(node.name, node.instance_id) for node in found.nodes} == {
        ("web-1", "i-0aaa"),
        ("web-1-again", "i-0aaa"),
        ("web-2", "i-0bbb"),
    }
    assert found.hidden == 0
    assert all(node.private_ips == ("10.0.0.5",) for node in found.nodes)


def test_converged_nodes_tell_where_and_when(world: World) -> None:
    full = ConvergedNode(
        "web-1",
        "i-0aaa",
        "123456789012",
        "eu-west-1",
        "eu-west-1b",
        ("ip-10-0-0-5.eu-west-1.compute.internal", "ec2-3-4-5-6.eu-west-1.compute.amazonaws.com"),
        1_760_000_000.25,
    )
    bare, again = ConvergedNode("web-2", "i-0aab"), ConvergedNode("web-1-again", "i-0aaa")
    for node in (full, bare, again):
        world.put_converged(node)
    world.put_node("never-converged")
    world.put_node("elsewhere", "vm-17")

    def found(prefix: str) -> list[ConvergedNode]:
        return sorted(world.server().converged_nodes(prefix), key=lambda node: node.name)

    assert found("i-") == [full, again, bare]
    assert found("i-0aab") == [bare]
    assert found("i-0b") == []


def test_converged_nodes_of_more_than_a_page(world: World) -> None:
    for number in range(1001):
        world.put_node(f"web-{number}", f"i-{number:017x}")
    found = {node.name for node in world.server().converged_nodes("i-")}
    # goiardi sorts each page anew, by nothing: at the border of two pages a node may be shown twice, and one not.
    assert found <= {f"web-{number}" for number in range(1001)}
    assert len(found) >= 1000


def test_an_id_that_begins_like_another_is_another(world: World) -> None:
    world.put_node("web-1", "i-0aaab")
    assert world.server().search_nodes_by_instance_id(["i-0aaa"]).nodes == ()


def test_more_ids_than_one_query_holds(world: World) -> None:
    ids = [f"i-{number:017x}" for number in range(250)]
    for number in range(0, 250, 25):
        world.put_node(f"web-{number}", ids[number])
    found = world.server().search_nodes_by_instance_id(ids)
    assert {node.instance_id for node in found.nodes} == set(ids[::25])


def test_search_for_nothing(world: World) -> None:
    assert world.server().search_nodes_by_instance_id([]).nodes == ()


def test_search_by_name(world: World) -> None:
    world.put_node("web-1.example.internal", "i-0aaa")
    world.put_node("rack:7")
    world.put_node("web-1", "i-0bbb")
    found = world.server().search_nodes_by_name(["web-1.example.internal", "rack:7", "nobody", "no name at all"])
    assert {(node.name, node.instance_id) for node in found.nodes} == {
        ("web-1.example.internal", "i-0aaa"),
        ("rack:7", None),
    }


@pytest.mark.parametrize("others", [0, 20], ids=["few", "many"])
def test_nodes_by_name(world: World, others: int) -> None:
    world.put_node("web-1", "i-0aaa")
    world.put_node("rack:7")
    absent = ["gone", "../../clients/web-1", "..", ".", "", "a b", "ä", *(f"gone-{n}" for n in range(others))]
    found = world.server().nodes(["web-1", "rack:7", *absent])
    assert found == {
        "web-1": ChefNode("web-1", "i-0aaa", private_ips=("10.0.0.5",)),
        "rack:7": ChefNode("rack:7", None, private_ips=("10.0.0.5",)),
        **dict.fromkeys(absent),
    }


@pytest.mark.parametrize("others", [0, 20], ids=["few", "many"])
def test_whether_clients_exist(world: World, others: int) -> None:
    world.put_client("web-1")
    absent = ["gone", "rack:7", "..", "", "a/b", *(f"gone-{n}" for n in range(others))]
    assert world.server().clients(["web-1", *absent]) == {"web-1": True, **dict.fromkeys(absent, False)}


def test_deleting_tells_what_was_there(world: World) -> None:
    for name in ("web-1", "web-2"):
        world.put_node(name, "i-0aaa")
        world.put_client(name)
    server = world.server()
    names = ["web-1", "gone", "..", "a/b", ""]
    expected = {"web-1": True, "gone": False, "..": False, "a/b": False, "": False}
    assert server.delete_nodes(names) == expected
    assert server.delete_clients(names) == expected
    assert server.nodes(["web-1", "web-2"])["web-2"] is not None
    assert server.clients(["web-1", "web-2"]) == {"web-1": False, "web-2": True}
    assert [node.name for node in server.search_nodes_by_instance_id(["i-0aaa"]).nodes] == ["web-2"]
    assert server.delete_nodes(["web-1"]) == {"web-1": False}


def test_deleting_the_node_leaves_the_client(world: World) -> None:
    world.put_node("web-1", "i-0aaa")
    world.put_client("web-1")
    assert world.server().delete_nodes(["web-1"]) == {"web-1": True}
    assert world.server().clients(["web-1"]) == {"web-1": True}


def test_a_wrong_key_is_a_configuration_error(world: World) -> None:
    server = world.server(right_key=False)
    with pytest.raises(ConfigurationError, match="chef_client_key"):
        server.search_nodes_by_instance_id(["i-0aaa"])
    assert isinstance(server.nodes(["web-1"])["web-1"], ConfigurationError)
    with pytest.raises(ConfigurationError, match="chef_client_key"):
        server.nodes([f"web-{number}" for number in range(20)])


def test_a_missing_right_is_told_from_absence(world: World) -> None:
    world.put_node("web-1", "i-0aaa")
    world.put_client("web-1")
    server = world.server(admin=False)
    answers: list[bool | DecommissionError] = [
        server.delete_nodes(["web-1"])["web-1"],
        server.delete_clients(["web-1"])["web-1"],
        server.clients(["web-1"])["web-1"],
    ]
    for answer in answers:
        assert isinstance(answer, AccessError)
        assert "web-1" in str(answer)
    assert world.server().clients(["web-1"]) == {"web-1": True}
