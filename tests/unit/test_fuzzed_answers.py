"""Whatever Chef and Consul answer: no exception that nobody expected, and nothing removed that is not the dead one's.

The real clients run over a transport that gives right answers, of which parts are replaced by garbage.
"""

from __future__ import annotations

import io
import json
import random
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote, urlsplit

import pytest
import requests
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from requests.adapters import HTTPAdapter
from urllib3 import HTTPResponse

from ec2_decommission.clients.chef import PyChefServer
from ec2_decommission.clients.consul import PyConsulCatalog
from ec2_decommission.config import ChefSettings, ConsulSettings
from ec2_decommission.deadline import Deadline
from ec2_decommission.templates import Template
from tests.fakes.world import World
from tests.unit.test_chef_client import PEM

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

DEAD, ALIVE = "i-00000000000000dea", "i-00000000000000a11"
OLD, NEW = "10.0.0.4", "10.0.0.9"
NAME = Template("{tag:Name}")

garbage = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**70), 2**70)
    | st.floats()
    | st.sampled_from(
        ["", "x", "..", "web-9", "not-an-ip", "10.0.0.4/8", "127.0.0.1", DEAD.upper(), f"{DEAD}0", "\x00", "é"]
    )
    | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)
STATUSES = [200] * 12 + [201, 204, 301, 400, 401, 403, 404, 409, 413, 429, 500, 503]
BODIES = [None] * 12 + [b"", b"{", b"<html>", b"null", b"[]", b"{}", b"\xff\xfe", b"[" * 3000, b"[" * 100_000]


class Spoiler:
    """Decides what becomes of an answer. All is drawn beforehand: the clients ask from threads."""

    def __init__(self, seed: int, values: list[Any]) -> None:
        self._random = random.Random(seed)  # noqa: S311
        self._values = values

    def __call__(self, right: Any) -> tuple[int, bytes]:
        if self._random.random() < 0.5:
            return 200, json.dumps(right).encode()
        body = self._random.choice(BODIES)
        return self._random.choice(STATUSES), json.dumps(self._spoilt(right)).encode() if body is None else body

    def _spoilt(self, value: Any) -> Any:
        """The value with one part of it, or all, replaced by garbage, left out, or doubled."""
        if not isinstance(value, (dict, list)) or not value or self._random.random() < 0.25:
            return self._random.choice(self._values)
        changed = dict(value) if isinstance(value, dict) else list(value)
        key = self._random.choice(list(changed) if isinstance(changed, dict) else range(len(changed)))
        what = self._random.choice(["deeper"] * 6 + ["left out", "doubled"])
        if what == "left out":
            del changed[key]
        elif what == "doubled" and isinstance(changed, list):
            changed.append(changed[key])
        else:
            changed[key] = self._spoilt(changed[key])
        return changed


spoilers = st.builds(Spoiler, st.integers(0, 2**32), st.lists(garbage, min_size=3, max_size=8))


class Transport(HTTPAdapter):
    """Answers by method, path and body, and spoils some of the answers.

    Attributes:
        sent: method, path and body of each request.
    """

    def __init__(self, spoiler: Spoiler | None, answer: Callable[[str, str, Any], Any]) -> None:
        super().__init__()
        self._spoiler = spoiler
        self._answer = answer
        self.sent: list[tuple[str, str, str]] = []

    def send(self, request: requests.PreparedRequest, *_: Any, **__: Any) -> requests.Response:
        method, path = str(request.method), unquote(str(urlsplit(str(request.url)).path))
        text = request.body.decode() if isinstance(request.body, bytes) else str(request.body or "")
        self.sent.append((method, path, text))
        right = self._answer(method, path, json.loads(text) if text.startswith(("[", "{")) else None)
        status, body = self._spoiler(right) if self._spoiler else (200, json.dumps(right).encode())
        headers = {"X-Consul-Index": "7", "Content-Type": "application/json"}
        raw = HTTPResponse(io.BytesIO(body), headers=headers, status=status, preload_content=False)
        return self.build_response(request, raw)


def scene(**more: Any) -> World:
    """A dead one that was recorded, with its address, and a live one that has its name now."""
    world = World(record_names=["{tag:Name}.example.internal"], **more)
    world.launch("web-1", OLD, records=False, instance_id=DEAD)
    world.send(world.running(DEAD))
    world.ec2.terminate(DEAD)
    world.launch("web-1", NEW, instance_id=ALIVE)
    return world


def run(world: World) -> None:
    """A dry run and two real ones; the living one's records stay, and no step stumbles."""
    before = world.zones.everything()
    world.operate(DEAD, dry_run=True)
    for count in (1, 2):
        json.dumps(world.send_batch(world.terminated(DEAD), receive_count=count).reports)
    assert world.zones.everything() == before
    assert world.log.messages("exception") == []


# Chef


def chef_server(
    spoiler: Spoiler | None, answer: Callable[[str, str, Any], Any]
) -> tuple[ChefSettings, Any, Transport]:
    chosen = ChefSettings("http://chef/organizations/x", "decommission", node_name=NAME, max_concurrency=1)
    server = PyChefServer(chosen, PEM, lambda: Deadline.after(60))
    transport = Transport(spoiler, answer)
    server._http.session.mount("http://", transport)
    return chosen, server, transport


def test_valid_chef_answers_lead_to_the_removal() -> None:
    chosen, server, transport = chef_server(None, chef_of({"old-1": (DEAD, OLD), "web-1": (ALIVE, NEW)}))
    run(scene(chef=chosen, chef_server=server))
    deleted = [path.removeprefix("/organizations/x/") for method, path, _ in transport.sent if method == "DELETE"]
    assert deleted[:2] == ["clients/old-1", "nodes/old-1"]


def node(name: str, instance_id: str, address: str) -> dict[str, Any]:
    macs = {"0a:00": {"vpc_id": "vpc-1", "local_ipv4s": address, "public_ipv4s": "54.0.0.9", "ipv6s": "2001:db8::9"}}
    ec2 = {"instance_id": instance_id, "local_ipv4": address, "network_interfaces_macs": macs}
    return {"name": name, "automatic": {"ec2": ec2, "ipaddress": address}, "normal": {}}


def row(name: str, instance_id: str, address: str) -> dict[str, Any]:
    ec2 = node(name, instance_id, address)["automatic"]["ec2"]
    data = {"name": name, "macs": ec2["network_interfaces_macs"], "ipaddress": address}
    return {"url": f"http://chef/nodes/{name}", "data": {**data, "instance_id": instance_id, "local_ipv4": address}}


def chef_of(nodes: Mapping[str, tuple[str, str]]) -> Callable[[str, str, Any], Any]:
    """Answers as a server with these nodes, each with its client."""

    def answer(method: str, path: str, _: Any) -> Any:
        kind, _, name = path.removeprefix("/organizations/x/").partition("/")
        if kind == "search":
            rows = [row(name, *of) for name, of in nodes.items()]
            return {"total": len(rows), "start": 0, "rows": rows}
        if not name:
            return {name: f"http://chef/{kind}/{name}" for name in nodes}
        if name in nodes and kind == "nodes":
            return node(name, *nodes[name])
        return {"name": name, "validator": False} if name in nodes else {"error": ["not found"]}

    return answer


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(spoiler=spoilers)
def test_any_chef_answer_leaves_live_instances_alone(spoiler: Spoiler) -> None:
    chosen, server, transport = chef_server(spoiler, chef_of({"web-1": (ALIVE, NEW), "db-1": ("i-0db", "10.0.0.77")}))
    run(scene(chef=chosen, chef_server=server))
    assert [path for method, path, _ in transport.sent if method == "DELETE"] == []


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(spoiler=spoilers)
def test_any_chef_answer_removes_only_the_dead_instances_objects(spoiler: Spoiler) -> None:
    nodes = {"old-1": (DEAD, OLD), "web-1": (ALIVE, NEW)}
    chosen, server, transport = chef_server(spoiler, chef_of(nodes))
    run(scene(chef=chosen, chef_server=server))
    deleted = {path.removeprefix("/organizations/x/") for method, path, _ in transport.sent if method == "DELETE"}
    assert not deleted & {"nodes/web-1", "clients/web-1", "clients/decommission"}


# Consul

LOCK, SEMAPHORE = "locks/a", "locks/s"


def consul_catalog(
    spoiler: Spoiler | None, answer: Callable[[str, str, Any], Any], *, deregister: bool
) -> tuple[ConsulSettings, Any, Transport]:
    chosen = ConsulSettings(
        "http://consul:8500", node_name=NAME, lock_prefixes=("locks/",), deregister_node=deregister
    )
    catalog = PyConsulCatalog(chosen, "token", lambda: Deadline.after(60))
    transport = Transport(spoiler, answer)
    catalog._http.session.mount("http://", transport)
    return chosen, catalog, transport


def session_of(name: str) -> str:
    return f"session-of-{name}"


def consul_of(nodes: Mapping[str, tuple[str, str, str]]) -> Callable[[str, str, Any], Any]:
    """Answers as a cluster with these nodes (id, address, status of the agent), each of which holds a lock."""

    def catalog_node(name: str) -> dict[str, Any]:
        instance_id, address, _ = nodes[name]
        return {
            "ID": f"id-{name}", "Node": name, "Address": address, "Datacenter": "dc1",
            "TaggedAddresses": {"lan": address}, "Meta": {"instance_id": instance_id}, "ModifyIndex": 7,
        }  # fmt: skip

    def check(name: str) -> dict[str, Any]:
        return {"Node": name, "CheckID": "serfHealth", "Status": nodes[name][2]}

    def key(name: str) -> dict[str, Any]:
        at = {"Key": f"locks/{name}", "ModifyIndex": 9, "Flags": 0, "Value": "eA=="}
        return {**at, "Session": session_of(name)}

    def transaction(ops: Any) -> dict[str, Any]:
        results: list[dict[str, Any]] = []
        for op in ops or ():
            if "Node" in op and op["Node"]["Node"]["Node"] in nodes:
                results.append({"Node": catalog_node(op["Node"]["Node"]["Node"])})
            elif "Check" in op and op["Check"]["Check"]["Node"] in nodes:
                results.append({"Check": check(op["Check"]["Check"]["Node"])})
            elif op.get("KV", {}).get("Verb") == "get-tree":
                results += [{"KV": key(name)} for name in nodes]
        return {"Results": results, "Errors": None}

    def answer(method: str, path: str, body: Any) -> Any:
        if path == "/v1/internal/acl/authorize":
            return [{**right, "Allow": True} for right in body]
        if path == "/v1/catalog/nodes":
            return [catalog_node(name) for name in nodes]
        if path == "/v1/session/list":
            return [{"ID": session_of(name), "Node": name, "Behavior": "release"} for name in nodes]
        if path.startswith("/v1/health/state"):
            return [check(name) for name in nodes]
        if path == "/v1/agent/members":
            return [{"Name": name, "Tags": {"id": f"id-{name}"}, "Status": 4} for name in nodes]
        if path == "/v1/catalog/datacenters":
            return ["dc1"]
        return transaction(body) if path == "/v1/txn" else True

    return answer


@pytest.mark.parametrize("deregister", [True, False])
def test_valid_consul_answers_lead_to_the_removal(deregister: bool) -> None:
    nodes = {"old-1": (DEAD, OLD, "critical"), "web-1": (ALIVE, NEW, "passing")}
    chosen, catalog, transport = consul_catalog(None, consul_of(nodes), deregister=deregister)
    run(scene(consul=chosen, consul_catalog=catalog))
    verbs = " ".join(changes(transport))
    assert "locks/old-1" in verbs
    assert ("delete-cas" in verbs) is deregister
    assert ("/v1/session/destroy" in verbs) is not deregister


def changes(transport: Transport) -> list[str]:
    """The requests that change something, as text."""
    changing = []
    for _, path, text in transport.sent:
        if path == "/v1/txn":
            verbs = {next(iter(op.values()))["Verb"] for op in json.loads(text)}
            if verbs <= {"get", "get-tree"}:
                continue
        elif not path.startswith(("/v1/session/destroy", "/v1/agent/force-leave", "/v1/kv")):
            continue
        changing.append(f"{path} {text}")
    return changing


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(spoiler=spoilers, deregister=st.booleans())
def test_any_consul_answer_leaves_live_instances_alone(spoiler: Spoiler, deregister: bool) -> None:
    nodes = {"web-1": (ALIVE, NEW, "passing"), "db-1": ("i-0db", "10.0.0.77", "critical")}
    chosen, catalog, transport = consul_catalog(spoiler, consul_of(nodes), deregister=deregister)
    run(scene(consul=chosen, consul_catalog=catalog))
    assert changes(transport) == []


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(spoiler=spoilers, deregister=st.booleans())
def test_any_consul_answer_removes_only_the_dead_instances_objects(spoiler: Spoiler, deregister: bool) -> None:
    nodes = {"old-1": (DEAD, OLD, "critical"), "web-1": (ALIVE, NEW, "passing")}
    chosen, catalog, transport = consul_catalog(spoiler, consul_of(nodes), deregister=deregister)
    run(scene(consul=chosen, consul_catalog=catalog))
    assert not [change for change in changes(transport) if "web-1" in change]
