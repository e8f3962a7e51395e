"""The fake Consul and the real client against real agents behave alike: the same tests run on both."""

from __future__ import annotations

import contextlib
import itertools
from typing import TYPE_CHECKING, Protocol

import pytest

from ec2_decommission.clients.consul import (
    MAX_OPS,
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
from ec2_decommission.config import ConsulSettings
from ec2_decommission.deadline import Deadline
from ec2_decommission.errors import AccessError, ConfigurationError
from testbed.consul import ConsulCluster
from tests.fakes.consul import FakeConsulCatalog

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

_numbers = itertools.count(1)
READ_ALL = [Right("node", "read"), Right("session", "read"), Right("key", "read", "locks/")]

# What a token may, by the word for it; each is taken away in turn.
RULES = {
    "node:read": 'node_prefix "" { policy = "read" }',
    "session:read": 'session_prefix "" { policy = "read" }',
    "key:read": 'key_prefix "locks/" { policy = "read" }',
}


class World(Protocol):
    """A cluster that a test fills, and the catalog that asks it. Node names are fresh for each test."""

    prefix: str

    def register(self, name: str, meta: dict[str, str] | None = None, address: str = "10.0.0.5") -> None: ...

    def add_agent(self, name: str) -> None: ...

    def kill(self, name: str) -> None: ...

    def create_session(
        self, node: str, behavior: str = "release", checks: Sequence[str] = (), lock_delay: float = 15
    ) -> str: ...

    def acquire(self, key: str, session: str, value: bytes = b"", flags: int = 0) -> bool: ...

    def put(self, key: str, value: bytes = b"") -> None: ...

    def key(self, name: str) -> Key | None: ...

    def catalog(self, without: str | None = None, *, known: bool = True) -> ConsulCatalog:
        """With all rights; or with rights to read only, and one of these missing; or with a token unknown."""


class FakeWorld:
    def __init__(self) -> None:
        self.prefix = f"t{next(_numbers)}-"
        self.fake = FakeConsulCatalog()

    def register(self, name: str, meta: dict[str, str] | None = None, address: str = "10.0.0.5") -> None:
        self.fake.register_node(name, address, meta)

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

    def register(self, name: str, meta: dict[str, str] | None = None, address: str = "10.0.0.5") -> None:
        self._cluster.register_node(name, address, meta)

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
        settings = ConsulSettings(url=self._cluster.url, lock_prefixes=("locks/",))
        catalog = PyConsulCatalog(settings, token, lambda: Deadline.after(30))
        self._opened.callback(catalog.close)
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


def test_nodes_are_read_with_address_and_meta(world: World) -> None:
    name = world.prefix + "web"
    world.register(name, {"instance_id": "i-0abc", "rack": "7"}, address="10.0.0.9")
    [node] = [node for node in world.catalog().nodes("") if node.name == name]
    assert (node.address, node.instance_id, node.datacenter, node.node_id) == ("10.0.0.9", "i-0abc", "dc1", "")
    assert node.meta["rack"] == "7"


def test_a_node_without_meta_bears_no_id(world: World) -> None:
    name = world.prefix + "web"
    world.register(name)
    assert node_of(world.catalog(), name).instance_id is None


def test_nodes_are_found_whatever_their_case(world: World) -> None:
    name = world.prefix + "web"
    world.register(name)
    assert set(world.catalog().read("", [name.upper()], ()).nodes) == {name}


def test_what_is_not_there_is_left_out(world: World) -> None:
    name = world.prefix + "web"
    world.register(name)
    reading = world.catalog().read("", [name, world.prefix + "absent"], [f"locks/{world.prefix}none/"])
    assert set(reading.nodes) == {name}
    assert reading.agents == {}
    assert reading.keys == ()


def test_many_nodes_are_read_at_once(world: World) -> None:
    names = [f"{world.prefix}web-{number}" for number in range(40)]
    for name in names:
        world.register(name)
    assert set(world.catalog().read("", names, ["locks/"]).nodes) == set(names)


def test_the_status_of_an_agent_is_read(world: World) -> None:
    name = world.prefix + "web"
    world.add_agent(name)
    catalog = world.catalog()
    assert catalog.read("", [name], ()).agents == {name: "passing"}
    [member] = [m for m in catalog.members() if m.name == name]
    assert (member.alive, member.failed, member.node_id) == (True, False, node_of(catalog, name).node_id)
    world.kill(name)
    assert catalog.read("", [name], ()).agents == {name: "critical"}
    [member] = [m for m in catalog.members() if m.name == name]
    assert (member.alive, member.failed) == (False, True)


def test_the_default_session_of_a_failed_node_is_gone(world: World) -> None:
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
    a, b = world.catalog().read("", (), [prefix, f"{prefix}a"]).keys
    assert (a.name, a.value, a.flags, a.session) == (f"{prefix}a", "AP8=", 0xE0F69A2BAA414DE0, session)
    assert (b.name, b.value, b.flags, b.session) == (f"{prefix}b", None, 0, None)


def test_an_unlocked_key_is_free_at_once(world: World) -> None:
    world.register(world.prefix + "web")
    mine, other = (world.create_session(world.prefix + "web") for _ in range(2))
    key = held_key(world, f"locks/{world.prefix}a", mine)
    assert world.catalog().transact("", unlock(key)) == ()
    now = world.key(key.name)
    assert now is not None
    assert (now.value, now.flags, now.session) == (key.value, 7, None)
    assert world.acquire(key.name, other)


def test_a_key_without_a_value_is_unlocked(world: World) -> None:
    world.register(world.prefix + "web")
    key = held_key(world, f"locks/{world.prefix}a", world.create_session(world.prefix + "web"), b"", 0)
    assert world.catalog().transact("", unlock(key)) == ()
    now = world.key(key.name)
    assert now is not None
    assert (now.value, now.session) == (None, None)


@pytest.mark.parametrize("behavior", ["release", "delete"])
def test_the_end_of_a_session_closes_its_keys_for_the_lock_delay(world: World, behavior: str) -> None:
    world.register(world.prefix + "web")
    mine, other = world.create_session(world.prefix + "web", behavior), world.create_session(world.prefix + "web")
    key = held_key(world, f"locks/{world.prefix}a", mine)
    assert world.catalog().destroy_sessions("", [mine]) == {mine: None}
    now = world.key(key.name)
    assert (now is None) == (behavior == "delete")
    assert not world.acquire(key.name, other)


def test_a_deleted_key_is_free_at_once(world: World) -> None:
    world.register(world.prefix + "web")
    mine, other = world.create_session(world.prefix + "web", "delete"), world.create_session(world.prefix + "web")
    key = held_key(world, f"locks/{world.prefix}a", mine)
    assert world.catalog().transact("", delete_key(key)) == ()
    world.catalog().destroy_sessions("", [mine])
    assert world.acquire(key.name, other)


def test_a_transaction_is_all_or_nothing_and_tells_what_failed(world: World) -> None:
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


def test_nodes_of_instances_and_their_agents(world: World) -> None:
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


def test_the_status_of_agents(world: World) -> None:
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


def test_deleting_what_is_gone(world: World) -> None:
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


def test_a_deleted_node_takes_its_sessions_along(world: World) -> None:
    name = world.prefix + "web"
    world.register(name)
    session = world.create_session(name)
    catalog = world.catalog()
    assert catalog.transact("", delete_node(node_of(catalog, name))) == ()
    assert name not in catalog.read("", [name], ()).nodes
    assert session not in {s.session_id for s in catalog.sessions("")}


def test_a_node_that_was_taken_over_is_not_deleted(world: World) -> None:
    name = world.prefix + "web"
    world.register(name, {"instance_id": "i-0dead"})
    session = world.create_session(name)
    catalog = world.catalog()
    before = node_of(catalog, name)
    world.register(name, {"instance_id": "i-0new"}, address="10.0.0.6")
    assert [f.index for f in catalog.transact("", delete_node(before))] == [0]
    assert node_of(catalog, name).instance_id == "i-0new"
    assert session in {s.session_id for s in catalog.sessions("")}  # sessions hang on the name


def test_a_large_value_is_released_by_itself(world: World) -> None:
    world.register(world.prefix + "web")
    mine, other = (world.create_session(world.prefix + "web") for _ in range(2))
    key = held_key(world, f"locks/{world.prefix}a", mine, b"x" * 500_000)
    catalog = world.catalog()
    assert catalog.release("", key) is True
    assert catalog.release("", key) is False
    now = world.key(key.name)
    assert now is not None
    assert (now.value, now.flags, now.session) == (key.value, 7, None)
    assert world.acquire(key.name, other)


def test_a_session_that_is_gone_is_destroyed_once_more(world: World) -> None:
    world.register(world.prefix + "web")
    sessions = [world.create_session(world.prefix + "web") for _ in range(12)]
    catalog = world.catalog()
    for _ in range(2):
        assert catalog.destroy_sessions("", sessions) == dict.fromkeys(sessions)


def test_a_failed_agent_is_put_out(world: World) -> None:
    name = world.prefix + "web"
    world.add_agent(name)
    world.kill(name)
    catalog = world.catalog()
    assert catalog.force_leave([name, world.prefix + "nobody"]) == {name: None, world.prefix + "nobody": None}
    assert name not in {member.name for member in catalog.members()}


def test_an_unknown_datacenter_is_named(world: World) -> None:
    with pytest.raises(ConfigurationError, match=r"knows no datacenter dc9; it knows dc1"):
        world.catalog().nodes("dc9")


def test_an_unknown_token_is_told(world: World) -> None:
    with pytest.raises(AccessError, match="does not know the token"):
        world.catalog(known=False).prove_rights("", READ_ALL)


@pytest.mark.parametrize("right", RULES)
def test_a_missing_right_to_read_is_told_and_named(world: World, right: str) -> None:
    with pytest.raises(AccessError, match=right):
        world.catalog(right).prove_rights("", READ_ALL)


def test_rights_to_read_are_proven(world: World) -> None:
    world.catalog("nothing").prove_rights("", READ_ALL)


def test_without_session_read_the_list_is_empty(world: World) -> None:
    world.register(world.prefix + "web")
    world.create_session(world.prefix + "web")
    assert world.catalog("session:read").sessions("") == ()


def test_without_key_read_there_seem_to_be_no_keys(world: World) -> None:
    world.put(f"locks/{world.prefix}a")
    assert world.catalog("key:read").read("", (), ["locks/"]).keys == ()


def test_without_node_read_no_node_is_an_error(world: World) -> None:
    with pytest.raises(AccessError, match="node:read"):
        world.catalog("node:read").nodes("")


def test_missing_rights_to_write(world: World) -> None:
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
