"""The Consul step on real agents, some of which were killed as an instance's end kills them."""

from __future__ import annotations

import contextlib
import itertools
import json
import shutil
import socket
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any

import pytest

from ec2_decommission.clients.consul import PyConsulCatalog
from ec2_decommission.config import ConsulSettings
from ec2_decommission.deadline import Deadline
from ec2_decommission.errors import (
    AccessError,
    ConfigurationError,
    DecommissionError,
    OutOfTime,
    TransientError,
)
from ec2_decommission.instance import Instance
from ec2_decommission.steps.base import Batch, Finding, Interface, Left, Outcome
from ec2_decommission.steps.consul import ConsulStep
from ec2_decommission.steps.consul_removal import SEMAPHORE_FLAGS
from testbed.consul import ConsulCluster
from tests.fakes.living import FakeLiving

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

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
    """By whether nodes are to be deregistered."""
    return {False: consul.create_token(LOCKS_POLICY), True: consul.create_token(NODES_POLICY)}


@pytest.fixture
def bystander(consul: ConsulCluster) -> str:
    """A session of one who waits for the locks."""
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
    interfaces: Mapping[str, str] | None = None,
    url: str | None = None,
    timeout: float = 10,
    deadline: Deadline | None = None,
    dry: bool = False,
) -> tuple[Finding, Outcome]:
    """Look, find and remove, as the handler does it."""
    settings = ConsulSettings(
        url or consul.url, datacenters, None, ("locks/",), deregister, request_timeout_seconds=timeout
    )
    until = deadline or Deadline.after(60)
    catalog = PyConsulCatalog(settings, token, lambda: until)
    with contextlib.closing(catalog):
        step = ConsulStep(settings, catalog)
        taken = {address: (Interface("eni-1", "vpc-1", owner),) for address, owner in (interfaces or {}).items()}
        batch = Batch({instance.instance_id: instance}, FakeLiving((), taken), until)
        facts = step.look(batch).get(instance.instance_id)
        if facts:
            batch = Batch({instance.instance_id: instance.learn(facts)}, batch.living, until)
        finding = step.find(batch)[instance.instance_id]
        if dry:
            return finding, Outcome(finding.removals)
        return finding, step.remove(batch, {instance.instance_id: finding})[instance.instance_id]


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
    # What a plain destroy does: the lock-delay of 15 s.
    assert not consul.acquire(f"other/{fresh}", bystander)
    assert consul.sessions(fresh) == []
    assert consul.node(fresh)
    assert run(consul, tokens[False], Instance(fresh)) == (Finding(), Outcome())


def test_while_the_agent_lives_nothing_goes(consul: ConsulCluster, tokens: dict[bool, str], fresh: str) -> None:
    consul.add_agent(fresh, meta={"instance_id": fresh})
    mine = consul.create_session(fresh)
    consul.acquire(f"locks/{fresh}", mine)
    for deregister in (False, True):
        finding, outcome = run(consul, tokens[deregister], Instance(fresh), deregister=deregister)
        assert (finding.removals, outcome) == ((), Outcome())
        assert "its Consul agent is alive" in str(finding.errors[0])
    key = consul.kv(f"locks/{fresh}")
    assert key is not None
    assert key["Session"] == mine
    consul.agents[fresh].kill()
    consul.wait_for_status(fresh, "failed")
    assert [action for action, _ in told(run(consul, tokens[False], Instance(fresh))[1])] == ["release", "destroy"]


def test_a_replacement_that_took_the_name_over_keeps_everything(
    consul: ConsulCluster, tokens: dict[bool, str], fresh: str
) -> None:
    # In good order: gossip holds a name back for a bearer that failed, for 30 s (DeadNodeReclaimTime).
    consul.add_agent(fresh, meta={"instance_id": fresh}).leave()
    consul.wait_for_status(fresh, "left")
    shutil.rmtree(consul.run_directory / fresh)  # and with it the node id
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
        assert left.reason == f"it is {successor}'s by its meta instance_id"
    key = consul.kv(f"locks/{fresh}")
    assert key is not None
    assert key["Session"] == mine
    assert consul.member_status(fresh) == "alive"


def test_an_address_on_record_proves_and_a_living_interface_disproves(
    consul: ConsulCluster, tokens: dict[bool, str], fresh: str
) -> None:
    consul.register_node(fresh, "10.7.0.5")
    consul.acquire(f"locks/{fresh}", consul.create_session(fresh))
    known = Instance(fresh, private_ips=("10.7.0.5",))
    finding, outcome = run(consul, tokens[True], known, deregister=True, interfaces={"10.7.0.5": "i-0living"})
    assert (finding.left, outcome) == (
        (Left(f"node {fresh} 10.7.0.5 (dc1)", "10.7.0.5 is i-0living's now"),),
        Outcome(),
    )
    outcome = run(consul, tokens[True], known, deregister=True)[1]
    assert [action for action, _ in told(outcome)] == ["release", "destroy", "deregister"]
    assert consul.node(fresh) is None


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
    # The leader goes over all members once a minute (reconcileInterval), and would bring back what gossip knows.
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
        catalog._http.session.hooks["response"].append(lambda r, **_: calls.append(r.request.path_url.split("?")[0]))
        step = ConsulStep(settings, catalog)
        batch = Batch(
            {i: Instance(i, private_ips=("10.8.0.2",)) for i in instances}, FakeLiving(), Deadline.after(60)
        )
        step.look(batch)
        findings = step.find(batch)
        outcomes = step.remove(batch, findings)
    assert all(outcomes[i] == Outcome(findings[i].removals) and len(findings[i].removals) == 2 for i in instances)
    assert consul.acquire(f"locks/{first}", bystander)
    beside = [call for call in calls if not call.startswith("/v1/session/destroy/")]
    assert len(beside) == 10
    assert len(calls) == 110


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


# Rights


@pytest.mark.parametrize("right", ["node", "session", "key"])
def test_a_token_that_cannot_see_is_told_from_a_clean_world(consul: ConsulCluster, right: str, fresh: str) -> None:
    blind = consul.create_token(
        "\n".join(line for line in LOCKS_POLICY.splitlines() if not line.startswith(f"{right}_prefix"))
    )
    with pytest.raises(AccessError, match=f"{right}:read"):
        run(consul, blind, Instance(fresh))


@pytest.mark.parametrize("lost", ["node", "session", "key"])
@pytest.mark.parametrize("deregister", [True, False])
def test_a_right_that_is_lost_between_two_batches_is_missed_at_once(
    consul: ConsulCluster, fresh: str, deregister: bool, lost: str
) -> None:
    """A warm function: what it proved for the batch before is no proof for this one, and Consul only leaves out."""
    policy = (NODES_POLICY if deregister else LOCKS_POLICY).strip().splitlines()
    token = consul.create_token("\n".join(policy))
    consul.register_node(fresh, "10.0.0.5", {"instance_id": fresh})
    consul.acquire(f"locks/{fresh}", consul.create_session(fresh))
    settings = ConsulSettings(consul.url, (), None, ("locks/",), deregister, request_timeout_seconds=10)
    until = Deadline.after(60)
    batch = Batch({fresh: Instance(fresh, private_ips=("10.0.0.5",))}, FakeLiving((), {}), until)
    with contextlib.closing(PyConsulCatalog(settings, token, lambda: until)) as catalog:
        before = ConsulStep(settings, catalog)
        before.look(batch)
        assert len(before.find(batch)[fresh].removals) == (3 if deregister else 2)
        consul.change_token(token, "\n".join(line for line in policy if f"{lost}_prefix" not in line))
        with pytest.raises(AccessError, match=f"{lost}:read"):
            ConsulStep(settings, catalog).look(batch)


@pytest.mark.parametrize("token", ["", "00000000-1111-2222-3333-444444444444"])
def test_the_anonymous_and_an_unknown_token(consul: ConsulCluster, token: str, fresh: str) -> None:
    with pytest.raises(AccessError):
        run(consul, token, Instance(fresh))


def test_missing_rights_to_write_are_told(consul: ConsulCluster, fresh: str) -> None:
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
    with _stand_in({"/v1/internal/acl/authorize": authorize, "/v1/session/list": (200, [])}) as url:
        settings = ConsulSettings(url, lock_prefixes=("locks/",))
        with contextlib.closing(PyConsulCatalog(settings, None, lambda: Deadline.after(9))) as catalog:
            step = ConsulStep(settings, catalog)
            batch = Batch({"i-0": Instance("i-0", private_ips=("10.0.0.1",))}, FakeLiving(), Deadline.after(9))
            step.look(batch)
            assert step.find(batch) == {"i-0": Finding()}


# A Consul that fails


@contextlib.contextmanager
def _stand_in(answers: Mapping[str, tuple[int, Any]], seconds: float = 0) -> Iterator[str]:
    """A server that answers so; anything else with the answer for ``""``."""

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
    with _stand_in({"": answer}) as url, pytest.raises(error, match=words):
        run(consul, "secret-token", Instance(fresh), url=url)


ALLOWED = (200, [{"Allow": True}] * 3)
ROW = {"Node": "web", "ID": "", "Address": "10.0.0.5", "ModifyIndex": 1}


@pytest.mark.parametrize("rows", ["x", {"a": 1}, None, [None], [{"Node": 5}], [{**ROW, "Meta": "x"}], [[]], 7])
@pytest.mark.parametrize("path", ["/v1/catalog/nodes", "/v1/session/list", "/v1/txn"])
def test_garbage_is_never_taken_for_a_world(consul: ConsulCluster, path: str, rows: Any, fresh: str) -> None:
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


def test_a_consul_that_hangs_is_cut_off(consul: ConsulCluster, fresh: str) -> None:
    begin = time.monotonic()
    with _stand_in({"": (200, [])}, seconds=3) as url, pytest.raises(TransientError, match="did not answer"):
        run(consul, "x", Instance(fresh), url=url, timeout=1)
    assert time.monotonic() - begin < 6


def test_a_consul_that_is_down(consul: ConsulCluster, fresh: str) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{taken.getsockname()[1]}"
        with pytest.raises(TransientError, match="no connection"):
            run(consul, "x", Instance(fresh), url=url)


def test_a_certificate_that_is_none(consul: ConsulCluster, fresh: str) -> None:
    with pytest.raises(ConfigurationError, match="no trusted TLS connection"):
        run(consul, "x", Instance(fresh), url=consul.url.replace("http:", "https:"))


def test_no_call_is_begun_without_time(consul: ConsulCluster, fresh: str) -> None:
    with pytest.raises(OutOfTime):
        run(consul, "x", Instance(fresh), deadline=Deadline.after(0.5))


def test_where_the_agent_does_not_know_the_proof_of_rights(consul: ConsulCluster, fresh: str) -> None:
    with (
        _stand_in({"": (404, "")}) as url,
        pytest.raises(ConfigurationError, match="cannot be proven that the token sees all"),
    ):
        run(consul, "x", Instance(fresh), url=url)


def test_a_pooled_connection_that_broke_is_replaced(consul: ConsulCluster, tokens: dict[bool, str]) -> None:
    settings = ConsulSettings(consul.url)
    with contextlib.closing(PyConsulCatalog(settings, tokens[False], lambda: Deadline.after(9))) as catalog:
        sent: Callable[..., Any] = catalog._http.session.request
        broken = iter([True])

        def once_broken(*arguments: Any, **named: Any) -> Any:
            if next(broken, False):
                raise ConnectionResetError("reset by peer")
            return sent(*arguments, **named)

        catalog._http.session.request = once_broken  # type: ignore[method-assign]
        assert catalog.nodes("")
