"""The Consul step with real agents, some of them killed as by a termination."""

from __future__ import annotations

import base64
import contextlib
import itertools
import json
import shutil
import socket
import threading
import time
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import pytest

from ec2_decommission.clients.consul import PyConsulCatalog
from ec2_decommission.config import ConsulSettings
from ec2_decommission.deadline import Deadline
from ec2_decommission.errors import (
    AccessError,
    ConfigurationError,
    DecommissionError,
    OutOfTime,
    StillAlive,
    TransientError,
)
from ec2_decommission.instance import Instance
from ec2_decommission.live import Live
from ec2_decommission.steps.base import Batch, Finding, Left, Outcome
from ec2_decommission.steps.consul import ConsulStep
from ec2_decommission.steps.consul.observe import SEMAPHORE_FLAGS
from ec2_decommission.templates import Template
from testbed.consul import ConsulCluster
from tests.fakes.ec2 import VPC, FakeEc2

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from ec2_decommission.steps.base import Removal

pytestmark = pytest.mark.servers

_numbers = itertools.count(1)
READER = 'node_prefix "" { policy = "read" } session_prefix "" { policy = "read" } key_prefix "" { policy = "read" }'
# The policy that clients/consul.py documents.
LOCKS_POLICY = """
node_prefix "" { policy = "read" }
session_prefix "" { policy = "write" }
key_prefix "locks/" { policy = "write" }
"""
NODES_POLICY = """
node_prefix "" { policy = "write" }
session_prefix "" { policy = "write" }
key_prefix "locks/" { policy = "write" }
operator = "write"
"""


@pytest.fixture(scope="module")
def consul() -> Iterator[ConsulCluster]:
    with ConsulCluster() as cluster:
        yield cluster


@pytest.fixture(scope="module")
def tokens(consul: ConsulCluster) -> dict[bool, str]:
    """The tokens, by the value of deregister_node."""
    return {False: consul.create_token(LOCKS_POLICY), True: consul.create_token(NODES_POLICY)}


@pytest.fixture
def bystander(consul: ConsulCluster) -> str:
    """A session that waits for the locks."""
    return consul.create_session(consul.node_name)


@pytest.fixture
def fresh() -> str:
    """An instance id, which also serves as a part of names."""
    return f"i-{next(_numbers):08}"


def failed_node(consul: ConsulCluster, name: str, meta: Mapping[str, str] | None = None) -> None:
    """A node whose agent was killed."""
    consul.add_agent(name, meta=meta)
    consul.agents[name].kill()
    consul.wait_for_status(name, "failed")


def run(
    consul: ConsulCluster,
    token: str | None,
    instance: Instance,
    *,
    deregister: bool = False,
    datacenters: tuple[str, ...] = (),
    ec2: FakeEc2 | None = None,
    url: str | None = None,
    timeout: float = 10,
    deadline: Deadline | None = None,
    dry: bool = False,
    audit: bool = False,
    before_apply: Callable[[], object] | None = None,
    keep: Callable[[str, Sequence[Removal]], None] = lambda *_: None,
) -> tuple[Finding, Outcome]:
    """Identify, plan and apply, as the runner does it."""
    settings = ConsulSettings(
        url or consul.url, datacenters, None, ("locks/",), deregister, request_timeout_seconds=timeout
    )
    until, ec2 = deadline or Deadline.after(60), ec2 or FakeEc2()
    catalog = PyConsulCatalog(settings, token, lambda: until)
    with contextlib.closing(catalog):
        step = ConsulStep(settings, catalog, audit=audit)
        batch = Batch({instance.instance_id: instance}, Live({ec2.place: ec2}), until, keep=keep)
        facts = step.identify(batch).get(instance.instance_id)
        if facts:
            batch = replace(batch, instances={instance.instance_id: instance.learn(facts)})
        finding = step.plan(batch)[instance.instance_id]
        if dry:
            return finding, Outcome(finding.removals)
        if before_apply:
            before_apply()
        return finding, step.apply(batch, {instance.instance_id: finding})[instance.instance_id]


def errors(finding: Finding, outcome: Outcome) -> str:
    return "; ".join(map(str, (*finding.errors, *outcome.errors)))


def failure(consul: ConsulCluster, token: str | None, instance_id: str, **more: Any) -> DecommissionError:
    """The error of a run without read access."""
    with pytest.raises(DecommissionError) as raised:
        run(consul, token, Instance(instance_id), **more)
    return raised.value


def told(outcome: Outcome) -> list[tuple[str, str]]:
    return [(removal.action, removal.target) for removal in outcome.removed]


def test_a_killed_agents_lock_is_free_at_once(
    consul: ConsulCluster, tokens: dict[bool, str], bystander: str, fresh: str
) -> None:
    failed_node(consul, fresh, {"instance_id": fresh})
    mine, plain = consul.create_session(fresh), consul.create_session(fresh)
    consul.acquire(f"locks/{fresh}", mine, b"who", flags=5)
    consul.acquire(f"other/{fresh}", plain)
    dry = run(consul, tokens[False], Instance(fresh), dry=True)[0]
    assert not consul.acquire(f"locks/{fresh}", bystander)
    finding, outcome = run(consul, tokens[False], Instance(fresh))
    assert finding == dry
    assert told(outcome)[0] == ("release", f"lock locks/{fresh} (dc1)")
    assert set(told(outcome)[1:]) == {("destroy", f"session {s} of {fresh} (dc1)") for s in (mine, plain)}
    assert outcome == Outcome(finding.removals)
    key = consul.kv(f"locks/{fresh}")
    assert key is not None
    assert (key["Value"], key["Flags"], key.get("Session")) == (b"who", 5, None)
    assert consul.acquire(f"locks/{fresh}", bystander)
    # A plain destroy starts the lock delay of 15 s.
    assert not consul.acquire(f"other/{fresh}", bystander)
    assert consul.sessions(fresh) == []
    assert consul.node(fresh)
    assert run(consul, tokens[False], Instance(fresh)) == (Finding(), Outcome())


def test_live_agent_blocks_all_removals(consul: ConsulCluster, tokens: dict[bool, str], fresh: str) -> None:
    consul.add_agent(fresh, meta={"instance_id": fresh})
    mine = consul.create_session(fresh)
    consul.acquire(f"locks/{fresh}", mine)
    for deregister in (False, True):
        finding, outcome = run(consul, tokens[deregister], Instance(fresh), deregister=deregister)
        assert (finding.removals, outcome) == ((), Outcome())
        assert isinstance(finding.errors[0], StillAlive)
    key = consul.kv(f"locks/{fresh}")
    assert key is not None
    assert key["Session"] == mine
    consul.agents[fresh].kill()
    consul.wait_for_status(fresh, "failed")
    assert [action for action, _ in told(run(consul, tokens[False], Instance(fresh))[1])] == ["release", "destroy"]


def test_a_replacement_that_took_the_name_over_keeps_everything(
    consul: ConsulCluster, tokens: dict[bool, str], fresh: str
) -> None:
    # A graceful leave, because gossip reserves a failed agent's name for 30 s (DeadNodeReclaimTime).
    consul.add_agent(fresh, meta={"instance_id": fresh}).leave()
    consul.wait_for_status(fresh, "left")
    shutil.rmtree(consul.run_directory / fresh)  # including the node id
    successor = fresh.replace("i-", "i-9")
    consul.add_agent(fresh, meta={"instance_id": successor})
    mine = consul.create_session(fresh)
    consul.acquire(f"locks/{fresh}", mine)
    known = Instance(fresh, private_ips=("127.0.0.99",), known_as={"consul": {"node": (f"dc1/{fresh}",)}})
    for deregister in (False, True):
        finding, outcome = run(consul, tokens[deregister], known, deregister=deregister)
        assert outcome == Outcome()
        [left] = finding.left
        assert left.target.startswith(f"node {fresh} ")
        assert left.reason == f"it belongs to {successor} by its meta instance_id"
    key = consul.kv(f"locks/{fresh}")
    assert key is not None
    assert key["Session"] == mine
    assert consul.member_status(fresh) == "alive"


def test_case_9_a_recorded_address_proves_until_somebody_else_has_it(
    consul: ConsulCluster, tokens: dict[bool, str], fresh: str
) -> None:
    consul.register_node(fresh, "10.7.0.5")
    consul.acquire(f"locks/{fresh}", consul.create_session(fresh))
    known = Instance(fresh, vpc_id=VPC, private_ips=("10.7.0.5",))
    ec2 = FakeEc2()
    finding, outcome = run(
        consul, tokens[True], known, deregister=True, ec2=ec2, before_apply=lambda: ec2.launch("new", "10.7.0.5")
    )
    [living] = ec2.machines
    left = Left(f"node {fresh} 10.7.0.5 (dc1)", f"10.7.0.5 now belongs to {living} in {ec2.place}")
    assert len(finding.removals) == 3
    assert outcome == Outcome(left=(left,))
    assert run(consul, tokens[True], known, deregister=True, ec2=ec2)[0] == Finding(left=(left,))
    outcome = run(consul, tokens[True], known, deregister=True)[1]
    assert [action for action, _ in told(outcome)] == ["release", "destroy", "deregister"]
    assert consul.node(fresh) is None


def test_case_10_the_wan_address_of_an_outside_machine_proves_nothing(
    consul: ConsulCluster, tokens: dict[bool, str], fresh: str
) -> None:
    addresses = {"lan": "192.0.2.7", "wan": "10.7.0.6"}
    row = {"Node": fresh, "Address": "192.0.2.7", "TaggedAddresses": addresses}
    consul.api("PUT", "/v1/catalog/register", json=row)
    mine = consul.create_session(fresh)
    known = Instance(fresh, private_ips=("10.7.0.6",))
    for deregister in (False, True):
        assert run(consul, tokens[deregister], known, deregister=deregister) == (Finding(), Outcome())
    assert [session["ID"] for session in consul.sessions(fresh)] == [mine]


@pytest.mark.parametrize("size", [10, 200_000])
def test_case_12_a_crafted_key_does_not_lead_out_of_the_kv_store(
    consul: ConsulCluster, fresh: str, size: int
) -> None:
    """The token can do everything, so only the request's path protects the operator's settings."""
    before = consul.api("GET", "/v1/operator/autopilot/configuration")
    crafted = f"locks/{fresh}/../../../operator/autopilot/configuration"
    consul.register_node(fresh, "10.7.0.7", {"instance_id": fresh})
    mine = consul.create_session(fresh)
    value = base64.b64encode(b" " * size).decode()
    consul.api("PUT", "/v1/txn", json=[{"KV": {"Verb": "lock", "Key": crafted, "Value": value, "Session": mine}}])
    finding, outcome = run(consul, consul.management_token, Instance(fresh))
    assert len(finding.removals) == 2
    assert outcome == Outcome(finding.removals)
    assert consul.api("GET", "/v1/operator/autopilot/configuration") == before


def test_case_18_a_living_stranger_at_the_address_does_not_block_the_node_with_the_id(
    consul: ConsulCluster, tokens: dict[bool, str], fresh: str
) -> None:
    stranger = f"stranger-of-{fresh}"
    # These agents have loopback addresses, which identify no machine, so this agent only appears alive.
    check = {"CheckID": "serfHealth", "Name": "Serf Health Status", "Status": "passing"}
    consul.api("PUT", "/v1/catalog/register", json={"Node": stranger, "Address": "10.7.0.8", "Check": check})
    consul.register_node(fresh, "10.7.0.8", {"instance_id": fresh})
    mine, theirs = consul.create_session(fresh), consul.create_session(stranger)
    consul.acquire(f"locks/{fresh}", mine)
    finding, outcome = run(consul, tokens[False], Instance(fresh, private_ips=("10.7.0.8",)))
    assert [action for action, _ in told(outcome)] == ["release", "destroy"]
    assert finding.left == (Left(f"node {stranger} 10.7.0.8 (dc1)", "a live Consul agent in dc1 has its address"),)
    assert errors(finding, outcome) == ""
    assert [session["ID"] for session in consul.sessions(stranger)] == [theirs]


def test_case_22_node_named_by_the_instance_id_is_removed(
    consul: ConsulCluster, tokens: dict[bool, str], fresh: str
) -> None:
    consul.register_node(f"node-{fresh}", "172.17.0.2")
    settings = ConsulSettings(consul.url, (), Template("node-{instance_id}"), deregister_node=True)
    until = Deadline.after(60)
    with contextlib.closing(PyConsulCatalog(settings, tokens[True], lambda: until)) as catalog:
        step = ConsulStep(settings, catalog)
        batch = Batch({fresh: Instance(fresh)}, Live({}), until)
        assert step.identify(batch)[fresh].known_as == {"consul": {"node": (f"dc1/node-{fresh}",)}}
        outcome = step.apply(batch, step.plan(batch))[fresh]
    assert told(outcome) == [("deregister", f"node node-{fresh} 172.17.0.2 (dc1)")]


def test_a_semaphores_contender_and_a_deleting_session(
    consul: ConsulCluster, tokens: dict[bool, str], bystander: str, fresh: str
) -> None:
    failed_node(consul, fresh, {"instance_id": fresh})
    contender, deleting = consul.create_session(fresh), consul.create_session(fresh, behavior="delete")
    consul.acquire(f"locks/{fresh}/{contender}", contender, b"", SEMAPHORE_FLAGS)
    consul.acquire(f"locks/{fresh}/{bystander}", bystander, b"", SEMAPHORE_FLAGS)
    consul.put(f"locks/{fresh}/.lock", b"{}", SEMAPHORE_FLAGS)
    consul.acquire(f"locks/{fresh}/plain", deleting)
    outcome = run(consul, tokens[False], Instance(fresh))[1]
    assert {target for action, target in told(outcome) if action == "delete"} == {
        f"lock locks/{fresh}/{contender} (dc1)",
        f"lock locks/{fresh}/plain (dc1)",
    }
    assert consul.kv(f"locks/{fresh}/{contender}") is None
    assert consul.kv(f"locks/{fresh}/.lock")
    assert consul.kv(f"locks/{fresh}/{bystander}")
    assert consul.acquire(f"locks/{fresh}/plain", bystander)


def test_a_deregistered_node_stays_away(consul: ConsulCluster, tokens: dict[bool, str], fresh: str) -> None:
    failed_node(consul, fresh, {"instance_id": fresh})
    consul.create_session(fresh)
    outcome = run(consul, tokens[True], Instance(fresh), deregister=True)[1]
    assert [action for action, _ in told(outcome)] == ["destroy", "deregister"]
    # The leader reconciles all members once a minute (reconcileInterval), and would restore nodes known to gossip.
    end = time.monotonic() + 70
    while time.monotonic() < end:
        assert consul.node(fresh) is None
        assert consul.member_status(fresh) is None
        time.sleep(2)


def test_a_hundred_at_once(consul: ConsulCluster, tokens: dict[bool, str], bystander: str, fresh: str) -> None:
    instances = {f"{fresh}{number:03}": f"n-{fresh}-{number}" for number in range(100)}
    for instance_id, name in instances.items():
        consul.register_node(name, "10.8.0.1", {"instance_id": instance_id})
        consul.acquire(f"locks/{name}", consul.create_session(name), name.encode())
    [first, *_] = instances.values()
    settings = ConsulSettings(consul.url, lock_prefixes=("locks/",))
    with contextlib.closing(PyConsulCatalog(settings, tokens[False], lambda: Deadline.after(60))) as catalog:
        calls: list[str] = []
        send = catalog._http.send

        def counted(method: str, url: str, **more: Any) -> Any:
            calls.append(urlsplit(url).path)
            return send(method, url, **more)

        catalog._http.send = counted  # type: ignore[method-assign]
        step = ConsulStep(settings, catalog)
        batch = Batch({i: Instance(i) for i in instances}, Live({}), Deadline.after(60))
        step.identify(batch)
        findings = step.plan(batch)
        outcomes = step.apply(batch, findings)
    assert all(outcomes[i] == Outcome(findings[i].removals) and len(findings[i].removals) == 2 for i in instances)
    assert consul.acquire(f"locks/{first}", bystander)
    beside = [call for call in calls if not call.startswith("/v1/session/destroy/")]
    assert len(beside) == 18
    assert len(calls) == 118


# Two datacenters


def test_each_datacenter_is_cleaned(consul: ConsulCluster, tokens: dict[bool, str], fresh: str) -> None:
    with ConsulCluster("dc2", primary=consul) as second:
        second._wait_token(tokens[True])
        for cluster in (consul, second):
            failed_node(cluster, fresh, {"instance_id": fresh})
            cluster.acquire(f"locks/{fresh}", cluster.create_session(fresh))
        both = ("dc1", "dc2")
        outcome = run(consul, tokens[True], Instance(fresh), deregister=True, datacenters=both)[1]
        assert outcome.errors == ()
        assert [action for action, _ in told(outcome)] == ["release", "destroy", "deregister"] * 2
        for cluster in (consul, second):
            assert cluster.node(fresh) is None
            assert cluster.sessions(fresh) == []
        assert consul.member_status(fresh) is None

        consul.register_node(f"{fresh}-b", "10.0.0.1", {"instance_id": fresh})
        if second.server:
            second.server.kill()
        finding, outcome = run(consul, tokens[True], Instance(fresh), deregister=True, datacenters=both)
        assert [action for action, _ in told(outcome)] == ["deregister"]
        assert "dc2" in str(finding.errors[0])


# Permissions


@pytest.mark.parametrize("right", ["node", "session", "key"])
def test_missing_read_permission_is_not_a_clean_cluster(consul: ConsulCluster, right: str, fresh: str) -> None:
    blind = consul.create_token(
        "\n".join(line for line in LOCKS_POLICY.splitlines() if not line.startswith(f"{right}_prefix"))
    )
    assert isinstance(error := failure(consul, blind, fresh), AccessError)
    assert f"{right}:read" in str(error)


@pytest.mark.parametrize("lost", ["node", "session", "key"])
@pytest.mark.parametrize("deregister", [True, False])
def test_permission_lost_between_plan_and_apply_is_detected(
    consul: ConsulCluster, fresh: str, deregister: bool, lost: str
) -> None:
    """Consul only omits objects that the token cannot read, so a plan would look clean."""
    policy = (NODES_POLICY if deregister else LOCKS_POLICY).strip().splitlines()
    token = consul.create_token("\n".join(policy))
    consul.register_node(fresh, "10.0.0.5", {"instance_id": fresh})
    consul.acquire(f"locks/{fresh}", consul.create_session(fresh))
    settings = ConsulSettings(consul.url, (), None, ("locks/",), deregister, request_timeout_seconds=10)
    until = Deadline.after(60)
    batch = Batch({fresh: Instance(fresh)}, Live({}), until)
    with contextlib.closing(PyConsulCatalog(settings, token, lambda: until)) as catalog:
        step = ConsulStep(settings, catalog)
        step.identify(batch)
        planned = step.plan(batch)
        assert len(planned[fresh].removals) == (3 if deregister else 2)
        consul.change_token(token, "\n".join(line for line in policy if f"{lost}_prefix" not in line))
        [error] = step.apply(batch, planned)[fresh].errors
        assert isinstance(error, AccessError)
        assert f"{lost}:read" in str(error)
    assert len(consul.sessions(fresh)) == 1


@pytest.mark.parametrize("token", ["", "00000000-1111-2222-3333-444444444444"])
def test_the_anonymous_and_an_unknown_token(consul: ConsulCluster, token: str, fresh: str) -> None:
    assert isinstance(failure(consul, token, fresh), AccessError)


def test_missing_write_permissions_are_reported(consul: ConsulCluster, fresh: str) -> None:
    failed_node(consul, fresh, {"instance_id": fresh})
    mine = consul.create_session(fresh)
    consul.acquire(f"locks/{fresh}", mine)
    reader = consul.create_token(READER)
    finding, outcome = run(consul, reader, Instance(fresh), deregister=True)
    assert len(finding.removals) == 3
    assert outcome.removed == ()
    (error,) = outcome.errors
    assert isinstance(error, AccessError)
    assert str(error) == f"lock locks/{fresh} (dc1): the Consul token lacks key:write on it"
    unlocker = consul.create_token(
        READER.replace('key_prefix "" { policy = "read"', 'key_prefix "" { policy = "write"')
    )
    outcome = run(consul, unlocker, Instance(fresh), deregister=True)[1]
    assert [action for action, _ in told(outcome)] == ["release"]
    assert "operator:write" in str(outcome.errors[0])
    assert "session:write" in str(outcome.errors[1])
    assert consul.node(fresh)


def test_without_acls_no_token_is_needed() -> None:
    authorize: Any = (401, "ACL support disabled")
    with _stand_in({"/v1/internal/acl/authorize": authorize, "/v1/catalog/nodes": (200, [ROW])}) as url:
        settings = ConsulSettings(url, lock_prefixes=("locks/",))
        with contextlib.closing(PyConsulCatalog(settings, None, lambda: Deadline.after(9))) as catalog:
            step = ConsulStep(settings, catalog)
            batch = Batch({"i-0": Instance("i-0")}, Live({}), Deadline.after(9))
            step.identify(batch)
            assert step.plan(batch) == {"i-0": Finding()}


# A Consul that fails


@contextlib.contextmanager
def _stand_in(answers: Mapping[str, tuple[int, Any]], seconds: float = 0) -> Iterator[str]:
    """A server with these answers. The answer for ``""`` is the default."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            self.rfile.read(int(self.headers.get("Content-Length") or 0))
            status, body = answers.get(self.path.partition("?")[0]) or answers[""]
            raw = (
                body
                if isinstance(body, bytes)
                else body.encode()
                if isinstance(body, str)
                else json.dumps(body).encode()
            )
            time.sleep(seconds)
            with contextlib.suppress(OSError):
                self.send_response(status)
                self.send_header("X-Consul-Index", "1")
                self.send_header("Content-Length", str(len(raw)))
                self.end_headers()
                self.wfile.write(raw)

        do_PUT = do_POST = do_GET  # noqa: N815

        def log_message(self, *_: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


@pytest.mark.parametrize(
    ("answer", "error", "words"),
    [
        ((500, "No cluster leader"), TransientError, "No cluster leader"),
        ((500, "rpc error making call: EOF"), TransientError, "500"),
        ((503, "<html>"), TransientError, "503"),
        ((429, "Your IP is issuing too many concurrent connections"), TransientError, "429"),
        ((200, "not json"), TransientError, "unreadable"),
        ((200, b"\xff\xfe"), TransientError, "unreadable"),
        ((200, {}), TransientError, "unreadable"),
        ((200, None), TransientError, "unreadable"),
        ((200, [1, "x"]), TransientError, "unreadable"),
        ((200, []), TransientError, "unreadable"),
        ((301, ""), ConfigurationError, "consul.url"),
        ((404, "page not found"), ConfigurationError, "404"),
        ((403, "Permission denied"), AccessError, "Permission denied"),
    ],
)
def test_bad_answers(
    consul: ConsulCluster, answer: tuple[int, Any], error: type[DecommissionError], words: str, fresh: str
) -> None:
    with _stand_in({"": answer}) as url:
        found = failure(consul, "secret-token", fresh, url=url)
    assert isinstance(found, error)
    assert words in str(found)
    assert "secret-token" not in str(found)


ALLOWED = (200, [{"Allow": True}] * 3)
ROW = {"Node": "web", "ID": "", "Address": "10.0.0.5", "ModifyIndex": 1}


@pytest.mark.parametrize("rows", ["x", {"a": 1}, None, [None], [{"Node": 5}], [{**ROW, "Meta": "x"}], [[]], 7])
@pytest.mark.parametrize("path", ["/v1/catalog/nodes", "/v1/session/list", "/v1/txn"])
def test_malformed_answers_are_errors(consul: ConsulCluster, path: str, rows: Any, fresh: str) -> None:
    answers = {
        "/v1/internal/acl/authorize": ALLOWED,
        "/v1/catalog/nodes": (200, [{**ROW, "Meta": {"instance_id": fresh}}]),
        "/v1/session/list": (200, [{"ID": "s-1", "Node": "web"}]),
        path: (200, rows if path != "/v1/txn" else {"Results": rows} if rows is not None else None),
        "": (200, None),
    }
    with _stand_in(answers) as url:
        try:
            finding, outcome = run(consul, "secret", Instance(fresh), url=url)
        except DecommissionError as error:
            assert "secret" not in str(error)  # noqa: PT017
            return
    assert finding.removals == outcome.removed == ()
    assert "secret" not in errors(finding, outcome)


def test_a_consul_that_hangs_is_cut_off(consul: ConsulCluster, fresh: str) -> None:
    begin = time.monotonic()
    with _stand_in({"": (200, [])}, seconds=3) as url:
        error = failure(consul, "x", fresh, url=url, timeout=1)
    assert isinstance(error, TransientError)
    assert "did not answer" in str(error)
    assert time.monotonic() - begin < 6


def test_a_consul_that_is_down(consul: ConsulCluster, fresh: str) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        error = failure(consul, "x", fresh, url=f"http://127.0.0.1:{taken.getsockname()[1]}")
    assert isinstance(error, TransientError)
    assert "no connection" in str(error)


def test_invalid_certificate(consul: ConsulCluster, fresh: str) -> None:
    error = failure(consul, "x", fresh, url=consul.url.replace("http:", "https:"))
    assert isinstance(error, ConfigurationError)
    assert "does not use TLS there" in str(error)


def test_no_call_starts_without_time_left(consul: ConsulCluster, fresh: str) -> None:
    assert isinstance(failure(consul, "x", fresh, deadline=Deadline.after(0.5)), OutOfTime)


def test_agent_without_support_for_permission_checks(consul: ConsulCluster, fresh: str) -> None:
    with _stand_in({"": (404, "")}) as url:
        error = failure(consul, "x", fresh, url=url)
    assert isinstance(error, ConfigurationError)
    assert "the token's rights cannot be checked" in str(error)


# The audit


def test_the_audit_gets_services_and_checks_and_what_changed_since(consul: ConsulCluster, fresh: str) -> None:
    token = consul.create_token(NODES_POLICY + 'service_prefix "" { policy = "read" }')
    service = {"ID": "www", "Service": "www", "Port": 80}
    check = {"CheckID": "service:www", "Name": "www", "Status": "critical", "ServiceID": "www"}
    row = {
        "Node": fresh,
        "Address": "10.7.0.9",
        "NodeMeta": {"instance_id": fresh},
        "Service": service,
        "Check": check,
    }
    consul.api("PUT", "/v1/catalog/register", json=row)
    consul.acquire(f"locks/{fresh}", consul.create_session(fresh), b"v")
    kept: list[Removal] = []

    def change() -> None:
        consul.put(f"locks/{fresh}", b"changed")

    finding, outcome = run(
        consul,
        token,
        Instance(fresh),
        deregister=True,
        audit=True,
        before_apply=change,
        keep=lambda _, removals: kept.extend(removals),
    )
    assert outcome == Outcome(finding.removals)
    whole = {removal.kind: removal.object or {} for removal in finding.removals}
    assert whole["consul_lock"]["key"]["Value"] == base64.b64encode(b"v").decode()
    assert whole["consul_session"]["session"]["Node"] == fresh
    document = whole["consul_node"]["node"]
    assert (document["Node"]["Address"], document["Node"]["Meta"]) == ("10.7.0.9", {"instance_id": fresh})
    assert [one["ID"] for one in document["Services"]] == ["www"]
    assert [one["CheckID"] for one in document["Checks"]] == ["service:www"]
    [changed] = kept
    assert changed.object is not None
    assert changed.object["key"]["Value"] == base64.b64encode(b"changed").decode()


def test_without_service_read_the_audit_keeps_the_node(
    consul: ConsulCluster, tokens: dict[bool, str], fresh: str
) -> None:
    consul.register_node(fresh, "10.7.0.9", {"instance_id": fresh})
    finding, outcome = run(consul, tokens[True], Instance(fresh), deregister=True, audit=True)
    assert outcome == Outcome()
    assert "service:read" in errors(finding, outcome)
    assert consul.node(fresh)
