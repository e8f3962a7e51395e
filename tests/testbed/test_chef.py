"""The testbed's Chef server demands signatures and rights, and finds nodes by what Ohai saw."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import requests

from testbed.chef import ChefApi, ChefApiError, ChefServer, Protocol

pytestmark = pytest.mark.servers


@pytest.fixture(scope="module")
def server() -> Iterator[ChefServer]:
    with ChefServer() as server:
        yield server


@pytest.fixture
def chef(server: ChefServer) -> Iterator[ChefServer]:
    """The module's server, with nothing of another test in it."""
    yield server
    for node in server.nodes():
        server.delete_node(node)
    for client in server.clients():
        if not client.startswith("chef-"):
            server.delete_client(client)


def status_of(api: ChefApi, method: str, path: str) -> int:
    try:
        api.request(method, path)
    except ChefApiError as error:
        return error.status
    return 200


@pytest.mark.parametrize("protocol", ["1.0", "1.3"])
def test_both_protocols_are_served_and_a_wrong_key_is_refused(chef: ChefServer, protocol: Protocol) -> None:
    strangers_key = chef.create_client("stranger")
    assert status_of(chef.api_as("admin", chef.admin_key, protocol), "GET", "/nodes") == 200
    assert status_of(chef.api_as("admin", strangers_key, protocol), "GET", "/nodes") == 401
    assert status_of(chef.api_as("nobody", chef.admin_key, protocol), "GET", "/nodes") == 401


def test_unsigned_request_is_refused(chef: ChefServer) -> None:
    answer = requests.get(f"{chef.url}/nodes", headers={"Accept": "application/json"}, timeout=5)
    assert answer.status_code == 401


def test_key_of_a_deleted_client_is_refused(chef: ChefServer) -> None:
    api = chef.api_as("web-1", chef.create_client("web-1"))
    assert status_of(api, "GET", "/nodes") == 200
    chef.delete_client("web-1")
    assert status_of(api, "GET", "/nodes") == 401


def test_client_without_rights_deletes_no_other(chef: ChefServer) -> None:
    api = chef.api_as("web-1", chef.create_client("web-1"))
    chef.create_client("web-2")
    chef.create_node("web-2")
    assert status_of(api, "DELETE", "/nodes/web-2") == 403
    assert status_of(api, "DELETE", "/clients/web-2") == 403
    assert chef.nodes() == ["web-2"]
    assert "web-2" in chef.clients()


def test_administrator_deletes_node_and_client_apart(chef: ChefServer) -> None:
    api = chef.api_as("boss", chef.create_client("boss", admin=True))
    chef.create_client("web-1")
    chef.create_node("web-1")
    assert status_of(api, "DELETE", "/nodes/web-1") == 200
    assert status_of(api, "DELETE", "/nodes/web-1") == 404
    assert chef.node("web-1") is None
    assert chef.client("web-1") is not None
    assert status_of(api, "DELETE", "/clients/web-1") == 200
    assert status_of(api, "DELETE", "/clients/web-1") == 404
    assert chef.client("web-1") is None


def test_search_finds_the_node_of_an_instance(chef: ChefServer) -> None:
    chef.create_node("web-1", ec2={"instance_id": "i-0aaaaaaaaaaaaaaaa", "local_ipv4": "10.0.0.1"})
    chef.create_node("web-2", ec2={"instance_id": "i-0bbbbbbbbbbbbbbbb"}, automatic={"ipaddress": "10.0.0.2"})
    chef.create_node("never-converged")
    assert chef.search_nodes("ec2_instance_id:i-0aaaaaaaaaaaaaaaa") == ["web-1"]
    assert chef.search_nodes("ipaddress:10.0.0.2") == ["web-2"]
    assert chef.search_nodes("ec2_instance_id:i-0cccccccccccccccc") == []
    both = "ec2_instance_id:i-0aaaaaaaaaaaaaaaa OR ec2_instance_id:i-0bbbbbbbbbbbbbbbb"
    assert chef.search_nodes(both) == ["web-1", "web-2"]
    chef.delete_node("web-1")
    assert chef.search_nodes("ec2_instance_id:i-0aaaaaaaaaaaaaaaa") == []


def test_partial_search_gives_the_attributes_asked_for(chef: ChefServer) -> None:
    chef.create_node("web-1", ec2={"instance_id": "i-0aaaaaaaaaaaaaaaa"})
    answer = chef.search_node_attributes(
        "ec2_instance_id:i-0aaaaaaaaaaaaaaaa", {"id": ["ec2", "instance_id"], "name": ["name"], "none": ["no"]}
    )
    [row] = answer["rows"]
    assert row["data"] == {"id": "i-0aaaaaaaaaaaaaaaa", "name": "web-1", "none": None}


def test_search_total_is_that_of_the_page(chef: ChefServer) -> None:
    """As goiardi has it, and Chef Infra Server has not: who pages by `total` stops too early here."""
    for number in range(3):
        chef.create_node(f"web-{number}")
    answer = chef.search_node_attributes("*:*", {"name": ["name"]}, start=0, rows=2)
    assert len(answer["rows"]) == 2
    assert answer["total"] in (2, 3)


def test_outage_and_return() -> None:
    with ChefServer() as chef:
        assert chef.server is not None
        chef.create_node("web-1")
        chef.server.stop()
        with pytest.raises(requests.ConnectionError):
            chef.nodes()
        chef.server.start()
        # It is all in memory, and so is the admin's key.
        assert chef.nodes() == []
