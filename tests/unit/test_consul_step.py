"""What the Consul step decides, on a Consul cluster in process."""

from __future__ import annotations

import copy
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import settings as effort
from hypothesis import strategies as st

from ec2_decommission.config import ConsulSettings
from ec2_decommission.deadline import Deadline
from ec2_decommission.errors import AccessError, ConfigurationError, TransientError
from ec2_decommission.instance import Instance
from ec2_decommission.steps.base import Batch, Finding, Interface, Left, Outcome
from ec2_decommission.steps.consul import ConsulStep
from ec2_decommission.steps.consul_removal import SEMAPHORE_FLAGS
from ec2_decommission.templates import Template
from tests.fakes.consul import FakeConsulCatalog
from tests.fakes.living import FakeLiving

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

A, B, C = "i-0aaa", "i-0bbb", "i-0ccc"
LOCKS = ConsulSettings("https://consul:8501", node_name=Template("{tag:Name}"), lock_prefixes=("locks/",))
NODES = ConsulSettings(
    "https://consul:8501", node_name=Template("{tag:Name}"), lock_prefixes=("locks/",), deregister_node=True
)


def instance(instance_id: str, address: str | None = "10.0.0.5", name: str | None = "web-1") -> Instance:
    return Instance(
        instance_id,
        vpc_id="vpc-1",
        private_ips=(address,) if address else (),
        tags={"Name": name} if name else {},
    )


class Run:
    """Look, find and remove over a batch, as the handler does it."""

    def __init__(
        self,
        consul: FakeConsulCatalog,
        *instances: Instance,
        settings: ConsulSettings = LOCKS,
        living: Sequence[Instance] = (),
        interfaces: Mapping[str, str] | None = None,
        before_removal: Callable[[], None] | None = None,
        dry: bool = False,
    ) -> None:
        step = ConsulStep(settings, consul)
        taken = {a: (Interface("eni-1", "vpc-1", owner),) for a, owner in (interfaces or {}).items()}
        batch = Batch({i.instance_id: i for i in instances}, FakeLiving(living, taken), Deadline.after(60))
        self.facts = step.look(batch)
        learned = {k: i.learn(self.facts[k]) if k in self.facts else i for k, i in batch.instances.items()}
        batch = Batch(learned, batch.living, batch.deadline)
        self.findings: Mapping[str, Finding] = step.find(batch)
        if before_removal:
            before_removal()
        self.outcomes: Mapping[str, Outcome] = {} if dry else step.remove(batch, self.findings)

    def found(self, instance_id: str = A) -> list[tuple[str, str]]:
        return [(removal.action, removal.target.split()[1]) for removal in self.findings[instance_id].removals]

    def removed(self, instance_id: str = A) -> list[tuple[str, str]]:
        return [(removal.action, removal.target.split()[1]) for removal in self.outcomes[instance_id].removed]

    def left(self, instance_id: str = A) -> list[Left]:
        return [*self.findings[instance_id].left, *self.outcomes[instance_id].left]

    def errors(self, instance_id: str = A) -> str:
        errors = (*self.findings[instance_id].errors, *self.outcomes[instance_id].errors)
        return "; ".join(map(str, errors))


@pytest.fixture
def consul() -> FakeConsulCatalog:
    return FakeConsulCatalog()


def dead(consul: FakeConsulCatalog, name: str = "web-1", address: str = "10.0.0.5", **meta: str) -> None:
    consul.add_agent(name, address, meta)
    consul.kill(name)


def lock(consul: FakeConsulCatalog, node: str = "web-1", key: str = "locks/a", **session: Any) -> str:
    session_id = consul.create_session(node, **session)
    assert consul.acquire(key, session_id, b"v", flags=3)
    return session_id


# Whose a node is


@pytest.mark.parametrize("settings", [LOCKS, NODES], ids=["locks", "nodes"])
def test_the_node_that_bears_the_id_is_the_instances(consul: FakeConsulCatalog, settings: ConsulSettings) -> None:
    dead(consul, "any-name", "10.9.9.9", instance_id=A)
    session = lock(consul, "any-name")
    run = Run(consul, instance(A), settings=settings)
    assert run.removed()[:2] == [("release", "locks/a"), ("destroy", session)]
    assert run.removed()[2:] == ([("deregister", "any-name")] if settings is NODES else [])
    assert run.findings[A].removals[0].proof.endswith("node any-name has the meta instance_id i-0aaa")
    assert consul.session_ids() == set()
    assert (consul.node("any-name") is None) == (settings is NODES)
    assert (run.errors(), run.left()) == ("", [])


def test_all_nodes_that_bear_the_id_go(consul: FakeConsulCatalog) -> None:
    dead(consul, "web-1", instance_id=A)
    dead(consul, "web-1b", instance_id=A)
    assert Run(consul, instance(A), settings=NODES).removed() == [("deregister", "web-1"), ("deregister", "web-1b")]


def test_a_node_at_the_recorded_address_is_the_instances(consul: FakeConsulCatalog) -> None:
    dead(consul, "other-name")
    assert Run(consul, instance(A), settings=NODES).removed() == [("deregister", "other-name")]


def test_an_ipv6_address_is_compared_in_its_shortest_form(consul: FakeConsulCatalog) -> None:
    dead(consul, "web-1", "2001:DB8:0:0::5")
    known = Instance(A, ipv6_addresses=("2001:db8::5",))
    assert Run(consul, known, settings=NODES).removed() == [("deregister", "web-1")]


def test_a_public_address_proves_nothing(consul: FakeConsulCatalog) -> None:
    dead(consul, "web-9", "3.4.5.6")
    known = Instance(A, private_ips=("10.0.0.5",), public_ips=("3.4.5.6",))
    assert Run(consul, known, settings=NODES).removed() == []


def test_an_address_that_a_living_interface_has_is_no_proof(consul: FakeConsulCatalog) -> None:
    dead(consul, "web-1")
    run = Run(consul, instance(A), settings=NODES, interfaces={"10.0.0.5": C})
    assert run.removed() == []
    assert run.left() == [Left("node web-1 10.0.0.5 (dc1)", f"10.0.0.5 is {C}'s now")]


def test_a_node_of_the_name_at_another_address_is_somebody_elses(consul: FakeConsulCatalog) -> None:
    dead(consul, "web-1", "10.0.0.6")
    lock(consul)
    for settings in (LOCKS, NODES):
        run = Run(consul, instance(A), settings=settings, interfaces={"10.0.0.6": C})
        assert run.removed() == []
        assert run.left() == [
            Left(
                "node web-1 10.0.0.6 (dc1)", f"its address is none of those recorded for {A} (10.0.0.6 is {C}'s now)"
            )
        ]
    assert len(consul.session_ids()) == 1


def test_a_replacement_of_the_name_is_told_by_its_id(consul: FakeConsulCatalog) -> None:
    dead(consul, instance_id=A)
    lock(consul)
    consul.add_agent("web-1", "10.0.0.5", {"instance_id": B})
    for settings in (LOCKS, NODES):
        run = Run(consul, instance(A), settings=settings)
        assert run.removed() == []
        assert run.left() == [Left("node web-1 10.0.0.5 (dc1)", f"it is {B}'s by its meta instance_id")]
    assert len(consul.session_ids()) == 1
    assert consul.node("web-1")


def test_by_name_where_nothing_is_recorded_and_no_living_instance_bears_it(consul: FakeConsulCatalog) -> None:
    dead(consul, "WEB-1")
    session = lock(consul, "WEB-1")
    run = Run(consul, instance(A, address=None))
    assert run.removed() == [("release", "locks/a"), ("destroy", session)]
    assert "no living instance has name or address" in run.findings[A].removals[1].proof


def test_not_by_name_where_a_living_instance_would_bear_it(consul: FakeConsulCatalog) -> None:
    dead(consul, "web-1")
    lock(consul)
    run = Run(consul, instance(A, address=None), living=[instance(C, "10.0.0.7")])
    assert run.removed() == []
    assert run.left()[0].reason == f"{C}, which lives, would bear that name"


def test_not_by_name_where_the_nodes_address_lives(consul: FakeConsulCatalog) -> None:
    dead(consul, "web-1")
    lock(consul)
    run = Run(consul, instance(A, address=None), interfaces={"10.0.0.5": C})
    assert run.removed() == []
    assert run.left()[0].reason == f"10.0.0.5 is {C}'s now"


def test_a_recorded_name_alone_proves_nothing(consul: FakeConsulCatalog) -> None:
    dead(consul, "old-name")
    lock(consul, "old-name")
    known = Instance(A, known_as={"consul": {"node": ("dc1/old-name", "dc2/web-9")}})
    run = Run(consul, known)
    assert run.removed() == []
    assert "no address is on record" in run.left()[0].reason


def test_two_dead_of_one_name_are_told_apart_or_share_it(consul: FakeConsulCatalog) -> None:
    dead(consul, "web-1")
    session = lock(consul)
    run = Run(consul, instance(A, address=None), instance(B, address=None))
    assert run.removed(A) == [("release", "locks/a"), ("destroy", session)]
    assert run.removed(B) == []
    assert run.left(B)[0].reason == f"it goes with {A}, which bore the same name or address"


def test_an_unknown_template_value_is_noted(consul: FakeConsulCatalog) -> None:
    run = Run(consul, instance(A, name=None))
    assert run.findings[A] == Finding(notes=(f"node_name {{tag:Name}}: tag:Name is not known for {A}",))


def test_facts_come_from_nodes_that_bear_the_id_only(consul: FakeConsulCatalog) -> None:
    consul.add_agent("web-1", "10.0.0.5", {"instance_id": A})
    consul.add_agent("web-2", "10.0.0.6")
    run = Run(consul, instance(A, address=None))
    assert list(run.facts) == [A]
    assert run.facts[A].private_ips == ("10.0.0.5",)
    assert run.facts[A].known_as == {"consul": {"node": ("dc1/web-1",)}}


# What goes, and what stays


def test_a_node_without_sessions_is_nothing_to_find_without_deregister_node(consul: FakeConsulCatalog) -> None:
    dead(consul, instance_id=A)
    assert Run(consul, instance(A)).findings[A] == Finding()


@pytest.mark.parametrize("settings", [LOCKS, NODES], ids=["locks", "nodes"])
def test_while_the_agent_lives_nothing_goes(consul: FakeConsulCatalog, settings: ConsulSettings) -> None:
    consul.add_agent("web-1", "10.0.0.5", {"instance_id": A})
    lock(consul)
    dead(consul, "web-1-old", instance_id=A)
    lock(consul, "web-1-old", "locks/b")
    run = Run(consul, instance(A), settings=settings)
    assert run.found() == run.removed() == []
    assert "its Consul agent is alive" in run.errors()
    assert len(consul.session_ids()) == 2


def test_a_node_without_an_agent_is_not_alive(consul: FakeConsulCatalog) -> None:
    consul.register_node("web-1", "10.0.0.5", {"instance_id": A})
    session = lock(consul)
    run = Run(consul, instance(A), settings=NODES)
    assert run.removed() == [("release", "locks/a"), ("destroy", session), ("deregister", "web-1")]
    assert consul.calls["force-leave"] == 0


def test_the_lock_is_free_at_once_for_the_next(consul: FakeConsulCatalog) -> None:
    dead(consul, instance_id=A)
    lock(consul)
    Run(consul, instance(A))
    key = consul.key("locks/a")
    assert key is not None
    assert (key.value, key.flags) == ("dg==", 3)
    assert consul.acquire("locks/a", consul.create_session("dc1-server"))


def test_a_key_of_a_deleting_session_is_deleted_and_free_at_once(consul: FakeConsulCatalog) -> None:
    dead(consul, instance_id=A)
    session = lock(consul, behavior="delete")
    assert Run(consul, instance(A)).removed() == [("delete", "locks/a"), ("destroy", session)]
    assert consul.key("locks/a") is None
    assert consul.acquire("locks/a", consul.create_session("dc1-server"))


def test_a_semaphores_contender_goes_and_its_lock_key_stays(consul: FakeConsulCatalog) -> None:
    dead(consul, instance_id=A)
    session, gone = consul.create_session("web-1"), consul.create_session("dc1-server")
    consul.acquire(f"locks/sem/{session}", session, b"", SEMAPHORE_FLAGS)
    consul.acquire(f"locks/sem/{gone}", gone, b"", SEMAPHORE_FLAGS)
    consul.put("locks/sem/.lock", b"{}", SEMAPHORE_FLAGS)
    run = Run(consul, instance(A))
    assert run.removed() == [("delete", f"locks/sem/{session}"), ("destroy", session)]
    assert consul.key("locks/sem/.lock")
    assert consul.key(f"locks/sem/{gone}")


def test_a_semaphores_contender_that_lost_its_session_goes_too(consul: FakeConsulCatalog) -> None:
    dead(consul, instance_id=A)
    session = consul.create_session("web-1")
    consul.put(f"locks/sem/{session}", b"", SEMAPHORE_FLAGS)
    consul.put(f"locks/plain/{session}")
    assert Run(consul, instance(A)).removed() == [("delete", f"locks/sem/{session}"), ("destroy", session)]


def test_keys_outside_of_the_prefixes_are_not_touched_by_us(consul: FakeConsulCatalog) -> None:
    dead(consul, instance_id=A)
    session = lock(consul, key="other/a")
    assert Run(consul, instance(A)).removed() == [("destroy", session)]
    assert not consul.acquire("other/a", consul.create_session("dc1-server"))  # its lock-delay


def test_a_large_value_is_released_outside_of_a_transaction(consul: FakeConsulCatalog) -> None:
    dead(consul, instance_id=A)
    session = consul.create_session("web-1")
    consul.acquire("locks/a", session, b"x" * 400_000)
    assert Run(consul, instance(A)).removed() == [("release", "locks/a"), ("destroy", session)]
    assert consul.acquire("locks/a", consul.create_session("dc1-server"))


def test_deregistering_forces_the_failed_agent_out(consul: FakeConsulCatalog) -> None:
    dead(consul, instance_id=A)
    Run(consul, instance(A), settings=NODES)
    assert [member.name for member in consul.members()] == ["dc1-server"]


def test_every_datacenter_is_looked_at() -> None:
    consul = FakeConsulCatalog(("dc1", "dc2"))
    both = ConsulSettings("https://consul", ("dc1", "dc2"), lock_prefixes=("locks/",), deregister_node=True)
    for dc in ("dc1", "dc2"):
        consul.add_agent("web-1", "10.0.0.5", {"instance_id": A}, datacenter=dc)
        consul.kill("web-1", dc)
        consul.acquire("locks/a", consul.create_session("web-1", datacenter=dc), datacenter=dc)
    run = Run(consul, instance(A), settings=both)
    targets = [removal.target for removal in run.outcomes[A].removed]
    assert [t for t in targets if not t.startswith("session")] == [
        "lock locks/a (dc1)",
        "node web-1 10.0.0.5 (dc1)",
        "lock locks/a (dc2)",
        "node web-1 10.0.0.5 (dc2)",
    ]
    assert consul.calls["force-leave"] == 1  # only the agent's own datacenter has members to force out
    assert consul.session_ids("dc1") == consul.session_ids("dc2") == set()


# Failures


def test_a_datacenter_that_fails_stops_no_other() -> None:
    consul = FakeConsulCatalog(("dc1", "dc2"))
    dead(consul, instance_id=A)
    session = lock(consul)
    down = ConsulSettings("https://consul", ("dc2", "dc1"), lock_prefixes=("locks/",))

    def fault(operation: str, name: str) -> None:
        if name == "dc2":
            raise TransientError("dc2 is out of reach")

    consul.fault = fault
    run = Run(consul, instance(A), settings=down)
    assert run.removed() == [("release", "locks/a"), ("destroy", session)]
    assert str(run.findings[A].errors[0]) == "dc2 is out of reach"


def test_where_every_datacenter_fails_the_step_does(consul: FakeConsulCatalog) -> None:
    with pytest.raises(ConfigurationError, match="no datacenter dc8"):
        Run(consul, instance(A), settings=ConsulSettings("https://consul", ("dc8",)))


@pytest.mark.parametrize("right", ["node:read", "session:read", "key:read"])
def test_a_token_that_cannot_see_fails_the_step(consul: FakeConsulCatalog, right: str) -> None:
    consul.denied = {right}
    with pytest.raises(AccessError, match=right):
        Run(consul, instance(A))


@pytest.mark.parametrize(
    ("right", "kept"),
    [
        ("key:write", {"locks/a", "session", "node"}),
        ("session:write", {"session"}),
        ("node:write", {"node"}),
        ("operator:write", {"node"}),
    ],
)
def test_a_missing_right_to_write_is_told(consul: FakeConsulCatalog, right: str, kept: set[str]) -> None:
    dead(consul, instance_id=A)
    session = lock(consul)
    consul.denied = {right}
    run = Run(consul, instance(A), settings=LOCKS if right == "session:write" else NODES)
    assert right in run.errors()
    key = consul.key("locks/a")
    assert key is not None
    assert (key.session == session) == ("locks/a" in kept)
    assert (session in consul.session_ids()) == ("session" in kept)
    assert consul.node("web-1") is not None


def test_one_instances_failure_is_no_others(consul: FakeConsulCatalog) -> None:
    sessions = {}
    for number, instance_id in enumerate((A, B, C)):
        dead(consul, f"web-{number}", f"10.0.0.{number}", instance_id=instance_id)
        sessions[instance_id] = lock(consul, f"web-{number}", f"locks/{instance_id}")

    def fault(operation: str, name: str) -> None:
        if operation == "destroy" and name == sessions[B]:
            raise TransientError("503")

    consul.fault = fault
    run = Run(consul, *(instance(i, f"10.0.0.{n}", None) for n, i in enumerate((A, B, C))))
    assert run.removed(A) == [("release", f"locks/{A}"), ("destroy", sessions[A])]
    assert run.removed(B) == [("release", f"locks/{B}")]
    assert run.removed(C) == [("release", f"locks/{C}"), ("destroy", sessions[C])]
    assert (run.errors(A), run.errors(C)) == ("", "")
    assert run.errors(B).endswith("503")
    consul.fault = None
    assert Run(consul, instance(B)).removed(B) == [("destroy", sessions[B])]


def test_a_lock_that_passed_on_meanwhile_is_left(consul: FakeConsulCatalog) -> None:
    dead(consul, instance_id=A)
    session = consul.create_session("web-1", lock_delay_seconds=0)
    for name in ("locks/a", "locks/b", "locks/c", "locks/d"):
        consul.acquire(name, session, b"v")
    other = consul.create_session("dc1-server")

    def pass_on() -> None:
        consul.destroy_sessions("", [session])
        consul.acquire("locks/a", other)
        consul.put("locks/c", b"changed")

    run = Run(consul, instance(A), before_removal=pass_on)
    assert run.removed() == [("destroy", session)]
    assert run.left() == [Left("lock locks/a (dc1)", f"session {other} holds it now")]
    assert run.errors() == ""
    key = consul.key("locks/a")
    assert key is not None
    assert key.session == other


def test_a_lock_whose_value_changed_is_released_with_the_new_value(consul: FakeConsulCatalog) -> None:
    dead(consul, instance_id=A)
    session = lock(consul)
    run = Run(consul, instance(A), before_removal=lambda: consul.put("locks/a", b"changed", 9))
    assert run.removed() == [("release", "locks/a"), ("destroy", session)]
    key = consul.key("locks/a")
    assert key is not None
    assert (key.value, key.flags, key.session) == ("Y2hhbmdlZA==", 9, None)


def test_a_node_that_a_replacement_took_meanwhile_is_left(consul: FakeConsulCatalog) -> None:
    dead(consul, instance_id=A)
    session = lock(consul)
    run = Run(
        consul,
        instance(A),
        settings=NODES,
        before_removal=lambda: consul.add_agent("web-1", "10.0.0.5", {"instance_id": B}),
    )
    assert run.removed() == [("release", "locks/a"), ("destroy", session)]
    assert run.left() == [Left("node web-1 10.0.0.5 (dc1)", f"it was registered anew, by {B}")]
    assert consul.calls["force-leave"] == 0
    node = consul.node("web-1")
    assert node is not None
    assert node.instance_id == B


def test_an_agent_that_came_back_meanwhile_is_not_forced_out(consul: FakeConsulCatalog) -> None:
    dead(consul, instance_id=A)

    def revive() -> None:
        world = consul._world["dc1"]
        world.agents["web-1"].alive = True

    run = Run(consul, instance(A), settings=NODES, before_removal=revive)
    assert run.removed() == []
    assert "came back to life" in run.errors()
    assert consul.node("web-1")
    assert consul.calls["force-leave"] == 0


def test_a_node_that_its_agent_registered_again_meanwhile_is_kept(consul: FakeConsulCatalog) -> None:
    dead(consul, instance_id=A)

    def change(operation: str, _: str) -> None:
        world = consul._world["dc1"]
        if operation == "txn" and changes:
            changes.clear()
            node = world.nodes["web-1"]
            world.nodes["web-1"] = replace(node, modify_index=node.modify_index + 100)
            world.agents["web-1"].alive = True

    changes: list[int] = []

    def arm() -> None:
        changes.append(1)
        consul.fault = change

    run = Run(consul, instance(A), settings=NODES, before_removal=arm)
    assert run.removed() == []
    assert "came back to life" in run.errors()
    assert consul.node("web-1")


def test_what_is_gone_already_is_a_success(consul: FakeConsulCatalog) -> None:
    dead(consul, instance_id=A)
    lock(consul)
    run = Run(consul, instance(A), settings=NODES, before_removal=lambda: consul._drop(consul._world["dc1"], "web-1"))
    assert run.removed() == []
    assert (run.errors(), run.left()) == ("", [])


def test_the_second_run_finds_nothing(consul: FakeConsulCatalog) -> None:
    dead(consul, instance_id=A)
    lock(consul)
    Run(consul, instance(A), settings=NODES)
    consul.calls.clear()
    assert Run(consul, instance(A), settings=NODES).findings[A] == Finding()
    assert set(consul.calls) == {"authorize", "nodes"}


# Calls


def fleet(consul: FakeConsulCatalog, size: int) -> list[Instance]:
    instances = []
    for number in range(size):
        instance_id, address = f"i-{number:04}", f"10.0.{number // 250}.{number % 250}"
        dead(consul, f"web-{number}", address, instance_id=instance_id)
        lock(consul, f"web-{number}", f"locks/{number}")
        instances.append(instance(instance_id, address, f"web-{number}"))
    return instances


def test_calls_of_a_single_termination(consul: FakeConsulCatalog) -> None:
    [one] = fleet(consul, 1)
    Run(consul, one)
    assert consul.calls == {"authorize": 1, "sessions": 1, "txn": 2, "destroy": 1}


def test_calls_of_a_hundred(consul: FakeConsulCatalog) -> None:
    instances = fleet(consul, 100)
    Run(consul, *instances)
    beside = {name: count for name, count in consul.calls.items() if name != "destroy"}
    assert beside == {"authorize": 1, "sessions": 1, "nodes": 2, "checks": 1, "txn": 5}
    assert consul.calls["destroy"] == 100  # Consul has no call that destroys several


def test_calls_of_a_hundred_that_are_deregistered(consul: FakeConsulCatalog) -> None:
    instances = fleet(consul, 100)
    Run(consul, *instances, settings=NODES)
    assert consul.calls["destroy"] == 0  # a node takes its sessions along
    beside = {name: count for name, count in consul.calls.items() if name != "force-leave"}
    assert beside == {"authorize": 2, "sessions": 1, "nodes": 2, "checks": 1, "txn": 7, "members": 1}
    assert consul.calls["force-leave"] == 100


# The dry run


scenes = st.lists(
    st.tuples(
        st.sampled_from(["web-1", "web-2", "db-1"]),
        st.sampled_from(["10.0.0.5", "10.0.0.6"]),
        st.sampled_from([None, A, B, C]),
        st.sampled_from(["agent", "dead", "external"]),
        st.lists(st.tuples(st.sampled_from(["release", "delete"]), st.sampled_from(["locks/a", "x/b", None]))),
    ),
    max_size=4,
)


def told(finding: Finding) -> tuple[object, ...]:
    """A finding, comparable."""
    return finding.removals, finding.left, finding.notes, [str(error) for error in finding.errors]


@given(
    scene=scenes,
    deregister=st.booleans(),
    address=st.sampled_from([None, "10.0.0.5"]),
    taken=st.booleans(),
    many=st.booleans(),
)
@effort(max_examples=150, deadline=None)
def test_a_dry_run_tells_what_the_real_run_does_and_the_living_keep_theirs(
    scene: list[Any], deregister: bool, address: str | None, taken: bool, many: bool
) -> None:
    consul = FakeConsulCatalog()
    for number in range(30 if many else 0):  # so many sessions that the nodes are listed
        consul.register_node(f"x{number}", "10.1.1.1")
        consul.create_session(f"x{number}")
    for number, (name, node_address, instance_id, kind, sessions) in enumerate(scene):
        meta = {"instance_id": instance_id} if instance_id else {}
        if kind == "external":
            consul.register_node(name, node_address, meta)
        else:
            consul.add_agent(name, node_address, meta)
        for behavior, key in sessions:
            session = consul.create_session(name, behavior=behavior)
            if key:
                consul.acquire(f"{key}{number}", session)
        if kind == "dead":
            consul.kill(name)
    before = copy.deepcopy(consul._world["dc1"])
    chosen = NODES if deregister else LOCKS
    batch = [instance(A, address), instance(B, "10.0.0.6", "web-2")]
    interfaces = {"10.0.0.5": C} if taken else {}
    living = [instance(C, "10.0.0.5", "db-1")]

    dry = Run(copy.deepcopy(consul), *batch, settings=chosen, interfaces=interfaces, living=living, dry=True)
    real = Run(consul, *batch, settings=chosen, interfaces=interfaces, living=living)

    for instance_id in (A, B):
        assert told(dry.findings[instance_id]) == told(real.findings[instance_id])
        assert real.outcomes[instance_id] == Outcome(removed=real.findings[instance_id].removals)
    after = consul._world["dc1"]
    for name, node in before.nodes.items():
        agent = before.agents.get(name)
        if node.instance_id == C or (agent and agent.alive):
            assert after.nodes[name] == node
            kept = {s for s, one in before.sessions.items() if one.session.node == name}
            assert kept <= set(after.sessions)
            assert {k for k in before.keys.values() if k.session in kept} <= set(after.keys.values())
