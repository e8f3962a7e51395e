"""The testbed's Consul denies by default, and a killed agent is a failed node with all that follows from it."""

from __future__ import annotations

import uuid
from collections.abc import Iterator

import pytest
import requests

from testbed.consul import ConsulApiError, ConsulCluster

pytestmark = pytest.mark.servers

NOBODY = str(uuid.UUID(int=1))


@pytest.fixture(scope="module")
def consul() -> Iterator[ConsulCluster]:
    with ConsulCluster() as consul:
        yield consul


def status_of(consul: ConsulCluster, method: str, path: str, token: str) -> int:
    try:
        consul.api(method, path, token=token)
    except ConsulApiError as error:
        return error.status
    return 200


def test_agent_registers_with_its_address_and_meta(consul: ConsulCluster) -> None:
    agent = consul.add_agent("web-1", meta={"instance_id": "i-1"})
    node = consul.node("web-1")
    assert node is not None
    assert node["Address"] == agent.address
    assert node["Meta"]["instance_id"] == "i-1"
    assert consul.member_status("web-1") == "alive"
    assert requests.get(f"{agent.url}/v1/status/leader", timeout=5).ok


def test_two_agents_have_addresses_of_their_own(consul: ConsulCluster) -> None:
    first, second = consul.add_agent("pair-1"), consul.add_agent("pair-2")
    assert first.url != second.url


def test_a_replacement_takes_over_name_and_address_as_another_node(consul: ConsulCluster) -> None:
    old = consul.add_agent("replaced", meta={"instance_id": "i-1"})
    before = consul.node("replaced")
    old.kill()
    consul.wait_for_status("replaced", "failed")
    new = consul.replace_agent(old, meta={"instance_id": "i-2"})
    after = consul.node("replaced")
    assert before is not None
    assert after is not None
    assert (new.url, after["Address"], after["Meta"]["instance_id"]) == (old.url, before["Address"], "i-2")
    assert after["ID"] != before["ID"]


def test_killed_agent_becomes_a_failed_node(consul: ConsulCluster) -> None:
    agent = consul.add_agent("doomed")
    kept = consul.create_session("doomed")
    consul.create_session("doomed", checks=["serfHealth"])
    assert consul.acquire("locks/kept", kept, b"holder", flags=7)
    agent.kill()
    assert consul.wait_for_status("doomed", "failed") < 15
    # The session on serfHealth went with the node; the one without a check holds its lock for ever.
    assert [session["ID"] for session in consul.sessions("doomed")] == [kept]
    held = consul.kv("locks/kept")
    assert held is not None
    assert (held["Session"], held["Value"], held["Flags"]) == (kept, b"holder", 7)
    agent.restart()
    assert consul.wait_for_status("doomed", "alive") < 15


def test_agent_that_leaves_is_deregistered(consul: ConsulCluster) -> None:
    consul.add_agent("leaver").leave()
    consul.wait_for_status("leaver", "left")
    assert consul.node("leaver") is None


def test_lock_is_held_by_one_at_a_time(consul: ConsulCluster) -> None:
    consul.register_node("holder", "10.0.0.1")
    first, second = consul.create_session("holder"), consul.create_session("holder")
    assert consul.acquire("locks/one", first)
    assert not consul.acquire("locks/one", second)
    consul.api("PUT", "/v1/kv/locks/one", params={"release": first})
    assert consul.acquire("locks/one", second)


def test_lock_delay_runs_after_a_session_is_destroyed(consul: ConsulCluster) -> None:
    consul.register_node("holder", "10.0.0.1")
    for delay, free_at_once in ((15, False), (0, True)):
        key = f"locks/delay-{delay}"
        first = consul.create_session("holder", lock_delay_seconds=delay)
        assert consul.acquire(key, first)
        consul.api("PUT", f"/v1/session/destroy/{first}")
        assert consul.acquire(key, consul.create_session("holder")) is free_at_once


def test_session_may_delete_its_keys(consul: ConsulCluster) -> None:
    consul.register_node("holder", "10.0.0.1")
    session = consul.create_session("holder", behavior="delete")
    assert consul.acquire("locks/ephemeral", session)
    consul.api("PUT", f"/v1/session/destroy/{session}")
    assert consul.kv("locks/ephemeral") is None


def test_node_without_an_agent_is_in_the_catalog_and_no_member(consul: ConsulCluster) -> None:
    consul.register_node("external", "10.0.0.9", {"instance_id": "i-9"})
    node = consul.node("external")
    assert node is not None
    assert node["Meta"] == {"instance_id": "i-9"}
    assert consul.member_status("external") is None


def test_no_right_is_an_empty_answer_or_a_refusal(consul: ConsulCluster) -> None:
    consul.register_node("guarded", "10.0.0.2")
    session = consul.create_session("guarded")
    token = consul.create_token('key_prefix "locks/" { policy = "read" }')
    for secret in (token, ""):
        assert consul.api("GET", "/v1/session/list", token=secret) == []
        assert consul.api("GET", "/v1/catalog/nodes", token=secret) == []
        assert status_of(consul, "PUT", f"/v1/session/destroy/{session}", secret) == 403
    assert status_of(consul, "PUT", "/v1/kv/locks/mine", token) == 403
    assert status_of(consul, "GET", "/v1/session/list", NOBODY) == 403


def test_token_has_exactly_its_rules(consul: ConsulCluster) -> None:
    consul.register_node("guarded", "10.0.0.2")
    session = consul.create_session("guarded")
    reader = consul.create_token('session_prefix "" { policy = "read" }')
    writer = consul.create_token('session_prefix "" { policy = "write" }')
    assert session in {entry["ID"] for entry in consul.api("GET", "/v1/session/list", token=reader)}
    assert status_of(consul, "PUT", f"/v1/session/destroy/{session}", reader) == 403
    assert status_of(consul, "PUT", f"/v1/session/destroy/{session}", writer) == 200


def test_deleted_token_is_refused(consul: ConsulCluster) -> None:
    token = consul.create_token('session_prefix "" { policy = "read" }')
    assert status_of(consul, "GET", "/v1/session/list", token) == 200
    consul.delete_token(token)
    assert status_of(consul, "GET", "/v1/session/list", token) == 403


def test_client_of_the_library_carries_the_token_on_session_calls(consul: ConsulCluster) -> None:
    consul.register_node("library", "10.0.0.3")
    session = consul.create_session("library")
    _, sessions = consul.client().session.node("library")
    assert [entry["ID"] for entry in sessions] == [session]
    _, sessions = consul.client(consul.create_token("")).session.node("library")
    assert sessions == []


def test_failed_node_stays_away_once_it_is_removed(consul: ConsulCluster) -> None:
    agent = consul.add_agent("removed")
    agent.kill()
    consul.wait_for_status("removed", "failed")
    consul.api("PUT", "/v1/agent/force-leave/removed", params={"prune": ""})
    assert consul.member_status("removed") is None
    assert consul.node("removed") is None
    consul.api("PUT", "/v1/catalog/deregister", json={"Node": "removed"})


def test_outage_and_return() -> None:
    with ConsulCluster() as consul:
        assert consul.server is not None
        consul.put("kept", b"value")
        consul.server.stop()
        with pytest.raises(requests.ConnectionError):
            consul.kv("kept")
        consul.server.start()
        entry = consul.kv("kept")
        assert entry is not None
        assert entry["Value"] == b"value"


def test_two_datacenters_share_tokens_and_nothing_else(consul: ConsulCluster) -> None:
    with ConsulCluster("dc2", primary=consul) as second:
        assert sorted(consul.api("GET", "/v1/catalog/datacenters")) == ["dc1", "dc2"]
        consul.add_agent("twin", meta={"instance_id": "i-1"})
        second.add_agent("twin", meta={"instance_id": "i-2"})
        session = second.create_session("twin")
        assert second.acquire("locks/twin", session)
        assert consul.kv("locks/twin") is None
        token = consul.create_token('session_prefix "" { policy = "write" }')
        # Through the first datacenter's server, which passes the request on.
        listed = consul.api("GET", "/v1/session/list", token=token, params={"dc": "dc2"})
        assert [entry["ID"] for entry in listed] == [session]
        assert consul.sessions("twin") == []
        assert consul.api("PUT", f"/v1/session/destroy/{session}", token=token, params={"dc": "dc2"})
        assert second.sessions() == []
