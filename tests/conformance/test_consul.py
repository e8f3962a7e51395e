"""Conformance of the fake Consul: the same tests run on the fake and on the real client with real agents."""

from __future__ import annotations

import base64
import contextlib
import itertools
import json
from typing import TYPE_CHECKING, Any, Protocol
from urllib.parse import quote, urlsplit

import pytest

from ec2_decommission.clients.consul import (
    MAX_OPS,
    MAX_TRANSACTION_BYTES,
    CatalogNode,
    ConsulCatalog,
    Key,
    PyConsulCatalog,
    RefusedError,
    Right,
    delete_key,
    delete_node,
    unlock,
)
from ec2_decommission.clients.tls import add_client_certificate, trusting
from ec2_decommission.config import ConsulSettings
from ec2_decommission.deadline import Deadline
from ec2_decommission.errors import (
    AccessError,
    ConfigurationError,
    DecommissionError,
    PermanentError,
    TransientError,
)
from testbed.consul import ConsulCluster, TlsFiles
from testbed.fault_proxy import FaultProxy
from tests.fakes.certificates import root
from tests.fakes.consul import FakeConsulCatalog

if TYPE_CHECKING:
    import ssl
    from collections.abc import Iterator, Sequence
    from pathlib import Path

_numbers = itertools.count(1)
READ_ALL = [Right("node", "read"), Right("session", "read"), Right("key", "read", "locks/")]

# A token's read permissions. The tests remove each in turn.
RULES = {
    "node:read": 'node_prefix "" { policy = "read" }',
    "session:read": 'session_prefix "" { policy = "read" }',
    "key:read": 'key_prefix "locks/" { policy = "read" }',
}


class World(Protocol):
    """A cluster for a test to fill, and its catalog. Each test has its own node names."""

    prefix: str

    def register(
        self,
        name: str,
        meta: dict[str, str] | None = None,
        address: str = "10.0.0.5",
        tagged: dict[str, str] | None = None,
    ) -> None: ...

    def register_service(self, node: str, service: str) -> None:
        """Registers a service with one check."""

    def add_agent(self, name: str) -> None: ...

    def kill(self, name: str) -> None: ...

    def create_session(
        self, node: str, behavior: str = "release", checks: Sequence[str] = (), lock_delay: float = 15
    ) -> str: ...

    def acquire(self, key: str, session: str, value: bytes = b"", flags: int = 0) -> bool: ...

    def put(self, key: str, value: bytes = b"") -> None: ...

    def key(self, name: str) -> Key | None: ...

    def catalog(self, without: str | None = None, *, known: bool = True) -> ConsulCatalog:
        """The catalog with all permissions, with all read permissions but one, or with an unknown token."""


class FakeWorld:
    def __init__(self) -> None:
        self.prefix = f"t{next(_numbers)}-"
        self.fake = FakeConsulCatalog()

    def register(
        self,
        name: str,
        meta: dict[str, str] | None = None,
        address: str = "10.0.0.5",
        tagged: dict[str, str] | None = None,
    ) -> None:
        self.fake.register_node(name, address, meta, tagged_addresses=tagged)

    def register_service(self, node: str, service: str) -> None:
        self.fake.register_service(node, service)

    def add_agent(self, name: str) -> None:
        self.fake.add_agent(name, "127.0.0.2")

    def kill(self, name: str) -> None:
        self.fake.kill(name)

    def create_session(
        self, node: str, behavior: str = "release", checks: Sequence[str] = (), lock_delay: float = 15
    ) -> str:
        return self.fake.create_session(node, behavior=behavior, checks=checks, lock_delay_seconds=lock_delay)

    def acquire(self, key: str, session: str, value: bytes = b"", flags: int = 0) -> bool:
        return self.fake.acquire(key, session, value, flags)

    def put(self, key: str, value: bytes = b"") -> None:
        self.fake.put(key, value)

    def key(self, name: str) -> Key | None:
        return self.fake.key(name)

    def catalog(self, without: str | None = None, *, known: bool = True) -> ConsulCatalog:
        if without:
            self.fake.denied = {without, "key:write", "session:write", "node:write", "operator:write"}
        self.fake.token_known = known
        return self.fake


class RealWorld:
    def __init__(self, cluster: ConsulCluster, opened: contextlib.ExitStack) -> None:
        self.prefix = f"t{next(_numbers)}-"
        self._cluster = cluster
        self._opened = opened

    def register(
        self,
        name: str,
        meta: dict[str, str] | None = None,
        address: str = "10.0.0.5",
        tagged: dict[str, str] | None = None,
    ) -> None:
        node = {"Node": name, "Address": address, "NodeMeta": meta or {}, "TaggedAddresses": tagged or {}}
        self._cluster.api("PUT", "/v1/catalog/register", json=node)

    def register_service(self, node: str, service: str) -> None:
        check = {"CheckID": f"service:{service}", "Name": service, "Status": "critical", "ServiceID": service}
        registration = {"Node": node, "SkipNodeUpdate": True, "Service": {"Service": service}, "Check": check}
        self._cluster.api("PUT", "/v1/catalog/register", json=registration)

    def add_agent(self, name: str) -> None:
        self._opened.callback(self._cluster.add_agent(name).stop)

    def kill(self, name: str) -> None:
        self._cluster.agents[name].kill()
        self._cluster.wait_for_status(name, "failed")

    def create_session(
        self, node: str, behavior: str = "release", checks: Sequence[str] = (), lock_delay: float = 15
    ) -> str:
        return self._cluster.create_session(
            node,
            behavior="delete" if behavior == "delete" else "release",
            checks=checks,
            lock_delay_seconds=lock_delay,
        )

    def acquire(self, key: str, session: str, value: bytes = b"", flags: int = 0) -> bool:
        return self._cluster.acquire(key, session, value, flags)

    def put(self, key: str, value: bytes = b"") -> None:
        self._cluster.put(key, value)

    def key(self, name: str) -> Key | None:
        found = [k for k in self.catalog().read("", (), [name]).keys if k.name == name]
        return found[0] if found else None

    def catalog(self, without: str | None = None, *, known: bool = True) -> ConsulCatalog:
        token = self._cluster.management_token
        if without:
            token = self._cluster.create_token("\n".join(rule for right, rule in RULES.items() if right != without))
        if not known:
            token = "00000000-1111-2222-3333-444444444444"
        return opened_catalog(self._opened, self._cluster.url, token)


def opened_catalog(
    opened: contextlib.ExitStack, url: str, token: str, tls: ssl.SSLContext | None = None
) -> PyConsulCatalog:
    settings = ConsulSettings(url=url, lock_prefixes=("locks/",))
    catalog = PyConsulCatalog(settings, token, lambda: Deadline.after(30), tls)
    opened.callback(catalog.close)
    return catalog


@pytest.fixture(scope="module")
def cluster() -> Iterator[ConsulCluster]:
    with ConsulCluster() as cluster:
        yield cluster


@pytest.fixture(params=["fake", pytest.param("real", marks=pytest.mark.servers)])
def world(request: pytest.FixtureRequest) -> Iterator[World]:
    if request.param == "fake":
        yield FakeWorld()
        return
    with contextlib.ExitStack() as opened:
        yield RealWorld(request.getfixturevalue("cluster"), opened)


def held_key(world: World, name: str, session: str, value: bytes = b"mine", flags: int = 7) -> Key:
    assert world.acquire(name, session, value, flags)
    key = world.key(name)
    assert key is not None
    return key


def node_of(catalog: ConsulCatalog, name: str) -> CatalogNode:
    return catalog.read("", [name], ()).nodes[name]


@pytest.mark.parametrize(
    ("tagged", "lan", "others", "own"),
    [
        ({}, "", (), ("10.0.0.9",)),
        ({"lan": "10.0.0.9", "wan": "10.0.0.9"}, "10.0.0.9", ("10.0.0.9",), ("10.0.0.9",)),
        ({"lan": "10.0.1.9", "wan": "192.0.2.1"}, "10.0.1.9", ("192.0.2.1",), ("10.0.0.9", "10.0.1.9")),
    ],
    ids=["none", "the same", "others"],
)
def test_own_addresses_of_a_node(
    world: World, tagged: dict[str, str], lan: str, others: tuple[str, ...], own: tuple[str, ...]
) -> None:
    """``wan`` is often the address of a device in front of the node."""
    name = world.prefix + "web"
    world.register(name, address="10.0.0.9", tagged=tagged)
    [node] = [node for node in world.catalog().nodes("") if node.name == name]
    assert (node.address, node.lan, node.other_addresses, node.own_addresses) == ("10.0.0.9", lan, others, own)
    assert (node.datacenter, node.node_id) == ("dc1", "")


def test_node_attributes_are_read(world: World) -> None:
    said = {"account_id": "111111111111", "region": "eu-west-1", "availability_zone": "eu-west-1b", "rack": "7"}
    world.register(world.prefix + "web", {"instance_id": "i-0abc", **said})
    world.register(world.prefix + "bare")
    node, bare = (node_of(world.catalog(), world.prefix + name) for name in ("web", "bare"))
    assert (node.instance_id, node.meta["rack"]) == ("i-0abc", "7")
    assert (node.account_id, node.region, node.availability_zone) == ("111111111111", "eu-west-1", "eu-west-1b")
    assert (bare.instance_id, bare.account_id, bare.region, bare.availability_zone) == (None,) * 4
    assert node.document["Meta"] == node.meta


def test_node_lookup_ignores_case(world: World) -> None:
    name = world.prefix + "web"
    world.register(name)
    assert set(world.catalog().read("", [name.upper()], ()).nodes) == {name}


def test_missing_objects_are_omitted(world: World) -> None:
    name = world.prefix + "web"
    world.register(name)
    reading = world.catalog().read("", [name, world.prefix + "absent"], [f"locks/{world.prefix}none/"])
    assert set(reading.nodes) == {name}
    assert reading.agents == {}
    assert reading.keys == ()


def test_many_nodes_are_read(world: World) -> None:
    names = [f"{world.prefix}web-{number}" for number in range(40)]
    for name in names:
        world.register(name)
    assert set(world.catalog().read("", names, ["locks/"]).nodes) == set(names)


def test_agent_status_is_read(world: World) -> None:
    name = world.prefix + "web"
    world.add_agent(name)
    catalog = world.catalog()
    assert catalog.read("", [name], ()).agents == {name: "passing"}
    [member] = [m for m in catalog.members() if m.name == name]
    assert (member.alive, member.failed, member.node_id) == (True, False, node_of(catalog, name).node_id)
    assert [m.name for m in catalog.members() if m.server] == ["dc1-server"]
    world.kill(name)
    assert catalog.read("", [name], ()).agents == {name: "critical"}
    [member] = [m for m in catalog.members() if m.name == name]
    assert (member.alive, member.failed) == (False, True)


def test_default_session_ends_with_its_failed_node(world: World) -> None:
    name = world.prefix + "web"
    world.add_agent(name)
    checked = world.create_session(name, checks=["serfHealth"])
    unchecked = world.create_session(name)
    world.kill(name)
    assert {s.session_id for s in world.catalog().sessions("") if s.node == name} == {unchecked}
    assert checked != unchecked


def test_keys_are_read_with_value_flags_and_session(world: World) -> None:
    world.register(world.prefix + "web")
    session = world.create_session(world.prefix + "web")
    prefix = f"locks/{world.prefix}"
    world.acquire(f"{prefix}a", session, b"\x00\xff", 0xE0F69A2BAA414DE0)
    world.put(f"{prefix}b")
    catalog = world.catalog()
    a, b = catalog.read("", (), [prefix, f"{prefix}a"]).keys
    assert (a.name, a.value, a.flags, a.session) == (f"{prefix}a", "AP8=", 0xE0F69A2BAA414DE0, session)
    assert (b.name, b.value, b.flags, b.session) == (f"{prefix}b", None, 0, None)
    assert (a.document["Session"], a.document["Value"]) == (session, "AP8=")


def test_sessions_are_read_with_their_behavior(world: World) -> None:
    name = world.prefix + "web"
    world.add_agent(name)
    session = world.create_session(name, "delete", ["serfHealth"], lock_delay=1.5)
    [read] = [s for s in world.catalog().sessions("") if s.node == name]
    assert (read.session_id, read.behavior, read.lock_delay_seconds) == (session, "delete", 1.5)
    assert read.checks == ("serfHealth",)
    assert read.document["ID"] == session


def test_released_key_has_no_lock_delay(world: World) -> None:
    world.register(world.prefix + "web")
    mine, other = (world.create_session(world.prefix + "web") for _ in range(2))
    key = held_key(world, f"locks/{world.prefix}a", mine)
    assert world.catalog().transact("", unlock(key)) == ()
    now = world.key(key.name)
    assert now is not None
    assert (now.value, now.flags, now.session) == (key.value, 7, None)
    assert world.acquire(key.name, other)


def test_empty_key_can_be_released(world: World) -> None:
    world.register(world.prefix + "web")
    key = held_key(world, f"locks/{world.prefix}a", world.create_session(world.prefix + "web"), b"", 0)
    assert world.catalog().transact("", unlock(key)) == ()
    now = world.key(key.name)
    assert now is not None
    assert (now.value, now.session) == (None, None)


@pytest.mark.parametrize("behavior", ["release", "delete"])
def test_ended_session_starts_the_lock_delay_of_its_keys(world: World, behavior: str) -> None:
    world.register(world.prefix + "web")
    mine, other = world.create_session(world.prefix + "web", behavior), world.create_session(world.prefix + "web")
    key = held_key(world, f"locks/{world.prefix}a", mine)
    assert world.catalog().destroy_sessions("", [mine]) == {mine: None}
    now = world.key(key.name)
    assert (now is None) == (behavior == "delete")
    assert not world.acquire(key.name, other)


def test_deleted_key_has_no_lock_delay(world: World) -> None:
    world.register(world.prefix + "web")
    mine, other = world.create_session(world.prefix + "web", "delete"), world.create_session(world.prefix + "web")
    key = held_key(world, f"locks/{world.prefix}a", mine)
    assert world.catalog().transact("", delete_key(key)) == ()
    world.catalog().destroy_sessions("", [mine])
    assert world.acquire(key.name, other)


def test_transaction_is_atomic_and_reports_its_failures(world: World) -> None:
    world.register(world.prefix + "web")
    mine, other = (world.create_session(world.prefix + "web") for _ in range(2))
    a, b, c = (held_key(world, f"locks/{world.prefix}{n}", mine) for n in "abc")
    catalog = world.catalog()
    assert catalog.transact("", unlock(b)) == ()
    assert world.acquire(b.name, other)
    failures = catalog.transact("", [*unlock(a), *unlock(b), *unlock(c)])
    assert {failure.index for failure in failures} == {2, 3}
    assert not any(failure.denied for failure in failures)
    assert [world.key(key.name) for key in (a, c)] == [a, c]


def test_nodes_are_found_by_instance_id(world: World) -> None:
    own = world.prefix.rstrip("-").removeprefix("t")
    bearer, other = f"i-{int(own):08x}0", f"i-{int(own):08x}1"
    world.register(world.prefix + "web", {"instance_id": bearer, "region": "eu-west-1"})
    world.register(world.prefix + "web-2", {"instance_id": other})
    world.register(world.prefix + "vm", {"instance_id": "vm-" + own})
    world.register(world.prefix + "empty", {"instance_id": ""})
    world.register(world.prefix + "rack", {"rack": "7"})
    world.register(world.prefix + "bare")
    catalog = world.catalog()

    def found(prefix: str) -> set[str]:
        names = {node.name for node in catalog.instance_nodes("", prefix)}
        return {name.removeprefix(world.prefix) for name in names if name.startswith(world.prefix)}

    assert found("") == {"web", "web-2", "vm"}
    assert found("i-") == {"web", "web-2"}
    assert found(bearer) == {"web"}
    assert found(bearer[:-1]) == {"web", "web-2"}
    assert found("i-z") == set()
    [node] = [node for node in catalog.instance_nodes("", bearer) if node.name == world.prefix + "web"]
    assert node.meta == {"instance_id": bearer, "region": "eu-west-1"}
    assert world.prefix + "web" not in catalog.agents("")


def test_status_of_several_agents(world: World) -> None:
    lives, dead = world.prefix + "lives", world.prefix + "dead"
    world.add_agent(lives)
    world.add_agent(dead)
    world.kill(dead)
    agents = world.catalog().agents("")
    assert (agents[lives], agents[dead]) == ("passing", "critical")


def test_a_changed_key_is_not_deleted(world: World) -> None:
    world.register(world.prefix + "web")
    key = held_key(world, f"locks/{world.prefix}a", world.create_session(world.prefix + "web"))
    world.put(key.name, b"changed")
    assert [f.index for f in world.catalog().transact("", delete_key(key))] == [0]
    assert world.key(key.name) is not None


def test_deleting_missing_objects(world: World) -> None:
    world.register(world.prefix + "web")
    catalog = world.catalog()
    key = held_key(world, f"locks/{world.prefix}a", world.create_session(world.prefix + "web"))
    node = node_of(catalog, world.prefix + "web")
    assert catalog.transact("", [*delete_key(key), *delete_node(node)]) == ()
    assert catalog.transact("", delete_key(key)) == ()
    assert [f.index for f in catalog.transact("", delete_node(node))] == [0]
    assert [f.index for f in catalog.transact("", unlock(key))] == [0, 1]


def test_too_many_operations_are_refused(world: World) -> None:
    key = Key(f"locks/{world.prefix}a", 1)
    with pytest.raises(RefusedError, match="too many operations"):
        world.catalog().transact("", delete_key(key) * (MAX_OPS + 1))


def test_deleting_a_node_ends_its_sessions(world: World) -> None:
    name = world.prefix + "web"
    world.register(name)
    session = world.create_session(name)
    catalog = world.catalog()
    assert catalog.transact("", delete_node(node_of(catalog, name))) == ()
    assert name not in catalog.read("", [name], ()).nodes
    assert session not in {s.session_id for s in catalog.sessions("")}


def test_node_with_a_new_owner_is_not_deleted(world: World) -> None:
    name = world.prefix + "web"
    world.register(name, {"instance_id": "i-0dead"})
    session = world.create_session(name)
    catalog = world.catalog()
    before = node_of(catalog, name)
    world.register(name, {"instance_id": "i-0new"}, address="10.0.0.6")
    assert [f.index for f in catalog.transact("", delete_node(before))] == [0]
    assert node_of(catalog, name).instance_id == "i-0new"
    assert session in {s.session_id for s in catalog.sessions("")}  # sessions belong to the name


@pytest.mark.parametrize("size", [10, 300_000, 500_000])
def test_lock_is_released_with_a_value_of_any_size(world: World, size: int) -> None:
    world.register(world.prefix + "web")
    mine, other = (world.create_session(world.prefix + "web") for _ in range(2))
    key = held_key(world, f"locks/{world.prefix}a b", mine, b"x" * size)
    catalog = world.catalog()
    assert catalog.release("", key) is True
    assert catalog.release("", key) is False
    now = world.key(key.name)
    assert now is not None
    assert (now.value, now.flags, now.session) == (key.value, 7, None)
    assert world.acquire(key.name, other)


def test_maximum_transaction_size(world: World) -> None:
    """The default of limits.txn_max_req_len. One more character is refused."""

    def ops(name: str) -> list[dict[str, Any]]:
        return unlock(Key(name, 1, "A" * 520_000, 0, "00000000-1111-2222-3333-444444444444"))[1:]

    room = MAX_TRANSACTION_BYTES - len(json.dumps(ops(""), separators=(",", ":")))
    catalog = world.catalog()
    assert [failure.index for failure in catalog.transact("", ops("k" * room))] == [
        0
    ]  # accepted, but the lock is not held
    with pytest.raises(RefusedError, match="too large"):
        catalog.transact("", ops("k" * (room + 1)))


def test_destroying_a_missing_session_succeeds(world: World) -> None:
    world.register(world.prefix + "web")
    sessions = [world.create_session(world.prefix + "web") for _ in range(12)]
    catalog = world.catalog()
    for _ in range(2):
        assert catalog.destroy_sessions("", sessions) == dict.fromkeys(sessions)


def test_failed_agent_is_forced_to_leave(world: World) -> None:
    name = world.prefix + "web"
    world.add_agent(name)
    world.kill(name)
    catalog = world.catalog()
    assert catalog.force_leave([name, world.prefix + "nobody"]) == {name: None, world.prefix + "nobody": None}
    assert name not in {member.name for member in catalog.members()}


# Restoring


@pytest.mark.parametrize("size", [0, 10, 500_000])
def test_missing_key_is_restored(world: World, size: int) -> None:
    world.register(world.prefix + "web")
    key = held_key(world, f"locks/{world.prefix}a", world.create_session(world.prefix + "web"), b"x" * size)
    catalog = world.catalog()
    assert catalog.put_key_if_absent("", key) is False
    assert catalog.transact("", delete_key(key)) == ()
    assert catalog.put_key_if_absent("", key) is True
    now = world.key(key.name)
    assert now is not None
    assert (now.value, now.flags, now.session) == (key.value, 7, None)
    world.put(key.name, b"other")
    assert catalog.put_key_if_absent("", key) is False
    assert world.key(key.name) != now


def test_node_is_restored_with_its_registrations(world: World) -> None:
    name = world.prefix + "web"
    world.register(
        name, {"instance_id": "i-0abc"}, address="10.0.0.9", tagged={"lan": "10.0.0.9", "wan": "192.0.2.1"}
    )
    world.register_service(name, "api")
    world.register(world.prefix + "bare")
    catalog = world.catalog()
    names = [name, world.prefix + "bare", world.prefix + "absent"]
    documents = catalog.node_documents("", names)
    assert documents[world.prefix + "absent"] is None
    before = documents[name]
    assert before is not None
    assert not isinstance(before, DecommissionError)
    assert [row["Service"] for row in before["Services"]] == ["api"]
    assert [row["CheckID"] for row in before["Checks"]] == ["service:api"]
    assert catalog.register_node_if_absent("", before) is False
    assert catalog.transact("", delete_node(node_of(catalog, name))) == ()
    assert catalog.register_node_if_absent("", before) is True
    after = catalog.node_documents("", [name])[name]
    assert without_index(after) == without_index(before)
    assert catalog.register_node_if_absent("", {**before, "Node": {**before["Node"], "Node": name.upper()}}) is False


def without_index(value: Any) -> Any:
    if isinstance(value, dict):
        return {k: without_index(v) for k, v in value.items() if k not in ("CreateIndex", "ModifyIndex")}
    return [without_index(one) for one in value] if isinstance(value, list) else value


# Guards


class StaleError(TransientError):
    """The error that the guards of these tests raise."""


def stale() -> None:
    raise StaleError("the proof is too old")


def test_change_is_not_sent_if_its_guard_raises(world: World) -> None:
    name = world.prefix + "web"
    world.register(name)
    mine = world.create_session(name)
    small, large = (held_key(world, f"locks/{world.prefix}{n}", mine, b"x" * n) for n in (10, 500_000))
    catalog = world.catalog()
    node = node_of(catalog, name)
    document = catalog.node_documents("", [name])[name]
    assert document is not None
    assert not isinstance(document, DecommissionError)
    for change in (
        lambda: catalog.transact("", [*unlock(small), *delete_node(node)], stale),
        lambda: catalog.release("", small, stale),
        lambda: catalog.release("", large, stale),
        lambda: catalog.put_key_if_absent("", Key(f"locks/{world.prefix}new", 0), stale),
        lambda: catalog.put_key_if_absent("", Key(f"locks/{world.prefix}new", 0, large.value), stale),
        lambda: catalog.register_node_if_absent("", {**document, "Node": {**document["Node"], "Node": "new"}}, stale),
    ):
        with pytest.raises(StaleError):
            change()
    for answers in (catalog.destroy_sessions("", [mine, "x"], stale), catalog.force_leave([name, "x"], stale)):
        assert [type(answer) for answer in answers.values()] == [StaleError, StaleError]
    assert [world.key(key.name) for key in (small, large)] == [small, large]
    assert node_of(catalog, name) == node
    assert mine in {session.session_id for session in catalog.sessions("")}
    assert world.key(f"locks/{world.prefix}new") is None


def test_change_is_sent_if_its_guard_passes(world: World) -> None:
    world.register(world.prefix + "web")
    mine = world.create_session(world.prefix + "web")
    key = held_key(world, f"locks/{world.prefix}a", mine)
    called: list[str] = []
    catalog = world.catalog()
    assert catalog.release("", key, lambda: called.append("release")) is True
    assert catalog.destroy_sessions("", [mine], lambda: called.append("destroy")) == {mine: None}
    assert set(called) == {"release", "destroy"}


# Path traversal in names

AUTOPILOT = "/v1/operator/autopilot/configuration"
# A client library or Consul's server would resolve their URLs to another path.
RESOLVED = ["..", "../../kv/a", "a/../b", "a/./b", "a/..", "./a", "/a", "a//b", ""]


@pytest.mark.parametrize("name", RESOLVED)
def test_path_traversal_in_a_name_is_not_sent(world: World, name: str) -> None:
    catalog = world.catalog()
    for answers in (
        catalog.destroy_sessions("", [name]),
        catalog.force_leave([name]),
        catalog.node_documents("", [name]),
    ):
        error = answers[name]
        assert isinstance(error, PermanentError)
        assert f"{name!r} is not sent" in str(error)
    for change in (catalog.release, catalog.put_key_if_absent):
        with pytest.raises(PermanentError, match="is not sent"):
            change("", Key(name, 1, "A" * MAX_TRANSACTION_BYTES, 0, "s"))


@pytest.mark.servers
@pytest.mark.parametrize(
    ("tail", "size", "by_url"),
    [
        ("../../operator/autopilot/configuration", 200_000, False),
        ("../../operator/autopilot/configuration", 380_000, False),
        ("%2e%2e/%2e%2e/operator/autopilot/configuration", 200_000, False),
        ("%2e%2e/%2e%2e/operator/autopilot/configuration", 450_000, True),
        ("..%2f..%2foperator%2fautopilot%2fconfiguration", 450_000, True),
        ("a//b", 200_000, False),
        ("a\nb", 200_000, False),
        ("a/b", 450_000, True),
        ("a?release=other#b;c&d", 450_000, True),
        ("ü ~", 450_000, True),
    ],
)
def test_key_name_cannot_escape_the_kv_store(cluster: ConsulCluster, tail: str, size: int, by_url: bool) -> None:
    """The lock's name points to Consul's configuration, its value is valid there, and the token can write it."""
    before = cluster.api("GET", AUTOPILOT)
    assert before["CleanupDeadServers"] is True
    name, value = f"locks/{tail}", json.dumps({**before, "CleanupDeadServers": False}).ljust(size).encode()
    node = f"t{next(_numbers)}-holder"
    cluster.register_node(node, "10.0.0.5")
    session = cluster.create_session(node)
    if by_url:
        cluster.acquire(quote(name, safe=""), session, value)
    else:
        lock = {"Verb": "lock", "Key": name, "Value": base64.b64encode(value).decode(), "Session": session}
        cluster.api("PUT", "/v1/txn", json=[{"KV": lock}])
    with FaultProxy(cluster.url) as proxy, contextlib.ExitStack() as opened:
        catalog = opened_catalog(opened, proxy.url, cluster.management_token)
        [key] = [key for key in catalog.read("", (), ["locks/"]).keys if key.name == name]
        assert key.session == session
        assert catalog.release("", key) is True
        paths = [urlsplit(request.path).path for request in proxy.seen]
        [now] = [key for key in catalog.read("", (), ["locks/"]).keys if key.name == name]
    assert (now.session, now.value) == (None, key.value)
    assert cluster.api("GET", AUTOPILOT) == before
    assert paths == ["/v1/txn", f"/v1/kv/{quote(name, safe='')}" if by_url else "/v1/txn"]
    cluster.api("PUT", "/v1/txn", json=[{"KV": {"Verb": "delete", "Key": name}}])


@pytest.mark.parametrize("datacenter", ["dc9", "../dc1", "dc1&dc=dc2", "dc 1#"])
def test_unknown_datacenter_error_names_it(world: World, datacenter: str) -> None:
    with pytest.raises(ConfigurationError, match=f"does not know datacenter {datacenter}; it knows dc1"):
        world.catalog().nodes(datacenter)


def test_unknown_token_is_an_access_error(world: World) -> None:
    with pytest.raises(AccessError, match="does not know the token"):
        world.catalog(known=False).prove_rights("", READ_ALL)


@pytest.mark.parametrize("right", RULES)
def test_missing_read_permission_is_named(world: World, right: str) -> None:
    with pytest.raises(AccessError, match=right):
        world.catalog(right).prove_rights("", READ_ALL)


def test_read_permissions_are_verified(world: World) -> None:
    world.catalog("nothing").prove_rights("", READ_ALL)


def test_without_session_read_the_list_is_empty(world: World) -> None:
    world.register(world.prefix + "web")
    world.create_session(world.prefix + "web")
    assert world.catalog("session:read").sessions("") == ()


def test_without_key_read_the_list_is_empty(world: World) -> None:
    world.put(f"locks/{world.prefix}a")
    assert world.catalog("key:read").read("", (), ["locks/"]).keys == ()


def test_without_node_read_a_missing_node_is_an_error(world: World) -> None:
    with pytest.raises(AccessError, match="node:read"):
        world.catalog("node:read").nodes("")


def test_missing_write_permissions(world: World) -> None:
    name = world.prefix + "web"
    world.register(name)
    session = world.create_session(name)
    key = held_key(world, f"locks/{world.prefix}a", session)
    catalog = world.catalog("nothing")
    node = node_of(catalog, name)
    for ops in (unlock(key), delete_key(key), delete_node(node)):
        failures = catalog.transact("", ops)
        assert failures
        assert all(failure.denied for failure in failures)
    with pytest.raises(AccessError, match="key:write"):
        catalog.release("", key)
    error = catalog.destroy_sessions("", [session])[session]
    assert isinstance(error, AccessError)
    assert "session:write" in str(error)
    left = catalog.force_leave([name])[name]
    assert isinstance(left, AccessError)
    assert "operator:write" in str(left)


# Client certificates


@pytest.mark.servers
def test_a_consul_that_verifies_incoming_connections(tmp_path: Path) -> None:
    authority = root("Consul CA", odd=True)
    (tmp_path / "ca.pem").write_text(authority.pem)
    server, ours = (authority.signed(name, odd=True) for name in ("server.dc1.consul", "function"))
    names = ("consul_client_certificate", "consul_client_key")
    with (
        ConsulCluster(tls=TlsFiles(tmp_path / "ca.pem", *server.files(tmp_path))) as cluster,
        contextlib.ExitStack() as opened,
    ):
        contexts = [trusting(tmp_path / "ca.pem") for _ in range(2)]
        add_client_certificate(contexts[1], ours.pem, ours.key_pem, names)
        without, catalog = (
            opened_catalog(opened, cluster.https_url, cluster.management_token, tls) for tls in contexts
        )
        with pytest.raises(ConfigurationError, match="a client certificate is missing"):
            without.nodes("")
        assert [node.name for node in catalog.nodes("")] == ["dc1-server"]
        cluster.register_node("web", "10.0.0.5")
        session = cluster.create_session("web")
        cluster.acquire("locks/a", session)
        [key] = catalog.read("", (), ["locks/"]).keys
        assert catalog.transact("", unlock(key)) == ()
        assert catalog.destroy_sessions("", [session]) == {session: None}
