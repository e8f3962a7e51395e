"""The Consul step's three acts on a Consul cluster in process: what it reads, removes and reports."""

from __future__ import annotations

import copy
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import settings as effort
from hypothesis import strategies as st

from ec2_decommission.clients.consul import Member
from ec2_decommission.config import ConsulSettings
from ec2_decommission.deadline import Deadline
from ec2_decommission.errors import AccessError, ConfigurationError, PermanentError, TransientError
from ec2_decommission.instance import Instance
from ec2_decommission.live import FRESH_SECONDS, Live
from ec2_decommission.steps.base import Batch, Finding, Left, Outcome
from ec2_decommission.steps.consul import ConsulStep
from ec2_decommission.steps.consul.observe import SEMAPHORE_FLAGS
from ec2_decommission.templates import Template
from tests.fakes.consul import FakeConsulCatalog
from tests.fakes.ec2 import ACCOUNT, REGION, VPC, FakeEc2

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from ec2_decommission.steps.base import Removal

A, B, C = (f"i-{digit * 17}" for digit in "abc")
LOCKS = ConsulSettings("https://consul:8501", node_name=Template("{tag:Name}"), lock_prefixes=("locks/",))
NODES = replace(LOCKS, deregister_node=True)


def instance(instance_id: str = A, address: str = "10.0.0.5", name: str = "web-1") -> Instance:
    return Instance(
        instance_id,
        account_id=ACCOUNT,
        region=REGION,
        vpc_id=VPC,
        private_ips=(address,) if address else (),
        tags={"Name": name},
    )


class Run:
    """Identify, plan and apply over a batch, as the runner does it.

    Attributes:
        kept: what the step wrote to the audit by itself.
    """

    def __init__(
        self,
        consul: FakeConsulCatalog,
        *instances: Instance,
        settings: ConsulSettings = LOCKS,
        ec2: FakeEc2 | None = None,
        now: Callable[[], float] = lambda: 0.0,
        before_apply: Callable[[], object] | None = None,
        audit: bool = False,
        keep_fails: str = "",
        dry: bool = False,
        ended_at: float | None = None,
    ) -> None:
        self.ec2 = ec2 or FakeEc2()
        self.kept: list[tuple[str, Removal]] = []
        self._keep_fails = keep_fails
        step = ConsulStep(settings, consul, audit=audit, ended_at=ended_at, now=lambda: 10_000.0)
        live = Live({self.ec2.place: self.ec2}, now=now)
        batch = Batch({i.instance_id: i for i in instances}, live, Deadline.after(60), keep=self._keep)
        self.facts = step.identify(batch)
        known = {i: one.learn(self.facts[i]) if i in self.facts else one for i, one in batch.instances.items()}
        batch = replace(batch, instances=known)
        self.findings: Mapping[str, Finding] = step.plan(batch)
        if before_apply:
            before_apply()
        self.outcomes: Mapping[str, Outcome] = {} if dry else step.apply(batch, self.findings)

    def _keep(self, instance_id: str, removals: Sequence[Removal]) -> None:
        if self._keep_fails and any(self._keep_fails in removal.target for removal in removals):
            raise TransientError("S3 is slow")
        self.kept += [(instance_id, removal) for removal in removals]

    def planned(self, instance_id: str = A) -> list[tuple[str, str]]:
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


# Identify


def test_facts_come_from_nodes_that_are_the_instances_by_id(consul: FakeConsulCatalog) -> None:
    consul.add_agent("web-1", "10.0.0.5", {"instance_id": A}, wan="54.0.0.1")
    consul.add_agent("web-1b", "54.1.2.3", {"instance_id": A})
    consul.register_node("web-1c", "2a05:d018::5", {"instance_id": A}, tagged_addresses={"lan": "127.0.0.1"})
    consul.add_agent("web-2", "10.0.0.6")
    consul.add_agent("web-3", "10.0.0.7", {"instance_id": B, "region": "eu-west-9"})
    facts = Run(consul, instance(A, ""), instance(B, "")).facts
    assert list(facts) == [A]
    assert (facts[A].private_ips, facts[A].public_ips, facts[A].ipv6_addresses) == (
        ("10.0.0.5",),
        ("54.1.2.3",),
        ("2a05:d018::5",),
    )
    assert facts[A].known_as == {"consul": {"node": ("dc1/web-1", "dc1/web-1b", "dc1/web-1c")}}


def test_an_address_that_nodes_of_several_instances_carry_is_no_fact(consul: FakeConsulCatalog) -> None:
    """That of a container bridge, which every machine has."""
    settings = replace(NODES, node_name=Template("{instance_id}"))
    for instance_id in (A, B, C):
        dead(consul, instance_id, "172.17.0.2")
    consul.register_node("strangers", "172.17.0.2")
    run = Run(consul, instance(A, ""), settings=settings)
    assert run.facts[A].private_ips == ()
    assert run.removed() == [("deregister", A)]
    assert consul.node("strangers")


def test_what_a_node_with_the_id_carries_counts_as_recorded(consul: FakeConsulCatalog) -> None:
    dead(consul, "web-1", instance_id=A)
    consul.register_node("second", "10.0.0.5")
    assert Run(consul, instance(A, ""), settings=NODES).removed() == [
        ("deregister", "web-1"),
        ("deregister", "second"),
    ]


# Plan and apply


@pytest.mark.parametrize("settings", [LOCKS, NODES], ids=["locks", "nodes"])
def test_lock_session_and_node_are_removed(consul: FakeConsulCatalog, settings: ConsulSettings) -> None:
    dead(consul, "any-name", "10.9.9.9", instance_id=A)
    session = lock(consul, "any-name")
    run = Run(consul, instance(A), settings=settings)
    assert run.removed()[:2] == [("release", "locks/a"), ("destroy", session)]
    assert run.removed()[2:] == ([("deregister", "any-name")] if settings is NODES else [])
    assert run.outcomes[A] == Outcome(run.findings[A].removals)
    assert consul.session_ids() == set()
    assert (consul.node("any-name") is None) == (settings is NODES)
    assert (run.errors(), run.left()) == ("", [])


def test_released_lock_has_no_delay_for_the_next_holder(consul: FakeConsulCatalog) -> None:
    dead(consul, instance_id=A)
    lock(consul)
    Run(consul, instance(A))
    key = consul.key("locks/a")
    assert key is not None
    assert (key.value, key.flags) == ("dg==", 3)
    assert consul.acquire("locks/a", consul.create_session("dc1-server"))


def test_key_of_a_delete_session_is_deleted_without_a_lock_delay(consul: FakeConsulCatalog) -> None:
    dead(consul, instance_id=A)
    session = lock(consul, behavior="delete")
    assert Run(consul, instance(A)).removed() == [("delete", "locks/a"), ("destroy", session)]
    assert consul.key("locks/a") is None
    assert consul.acquire("locks/a", consul.create_session("dc1-server"))


def test_semaphore_contender_is_removed_and_its_lock_key_stays(consul: FakeConsulCatalog) -> None:
    dead(consul, instance_id=A)
    session, other = consul.create_session("web-1"), consul.create_session("dc1-server")
    consul.acquire(f"locks/sem/{session}", session, b"", SEMAPHORE_FLAGS)
    consul.acquire(f"locks/sem/{other}", other, b"", SEMAPHORE_FLAGS)
    consul.put("locks/sem/.lock", b"{}", SEMAPHORE_FLAGS)
    assert Run(consul, instance(A)).removed() == [("delete", f"locks/sem/{session}"), ("destroy", session)]
    assert consul.key("locks/sem/.lock")
    assert consul.key(f"locks/sem/{other}")


def test_keys_outside_the_prefixes_are_not_touched(consul: FakeConsulCatalog) -> None:
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


def test_case_12_a_crafted_key_with_a_large_value_never_enters_a_url(consul: FakeConsulCatalog) -> None:
    dead(consul, instance_id=A)
    session, crafted = consul.create_session("web-1"), "locks/../../operator/autopilot/configuration"
    consul.acquire(crafted, session, b"x" * 400_000)
    consul.acquire("locks/small", session, b"x")
    run = Run(consul, instance(A))
    assert run.removed() == [("release", "locks/small")]
    assert isinstance(run.outcomes[A].errors[0], PermanentError)
    assert crafted in run.errors()
    # The end of the session would close the key for its lock-delay, and not be this step's doing.
    assert session in consul.session_ids()
    consul.put(crafted, b"x")
    assert Run(consul, instance(A)).removed() == [("release", crafted), ("destroy", session)]


def test_values_that_do_not_fit_into_one_transaction_take_several(consul: FakeConsulCatalog) -> None:
    dead(consul, instance_id=A)
    session = consul.create_session("web-1")
    for number in range(4):
        consul.acquire(f"locks/{number}", session, b"x" * 100_000)
    run = Run(consul, instance(A))
    assert len(run.removed()) == 5
    assert run.errors() == ""
    assert consul.calls["txn"] == 2 + 4  # two that read


def test_a_key_with_a_large_value_is_deleted_in_a_transaction(consul: FakeConsulCatalog) -> None:
    dead(consul, instance_id=A)
    session = consul.create_session("web-1", behavior="delete")
    consul.acquire("locks/a", session, b"x" * 400_000)
    assert Run(consul, instance(A)).removed() == [("delete", "locks/a"), ("destroy", session)]
    assert consul.key("locks/a") is None


def test_a_transaction_that_is_too_large_for_consul_is_sent_in_halves(consul: FakeConsulCatalog) -> None:
    dead(consul, instance_id=A)
    session = consul.create_session("web-1")
    names = [f"locks/{number}{'n' * 20_000}" for number in range(20)]
    for name in names:
        consul.acquire(name, session)
    run = Run(consul, instance(A))
    assert {target for action, target in run.removed() if action == "release"} == set(names)
    assert run.errors() == ""


def test_a_lock_that_consul_refuses_fails_for_good_and_alone(consul: FakeConsulCatalog) -> None:
    dead(consul, instance_id=A)
    session, other = consul.create_session("web-1"), lock(consul, key="locks/b")
    consul.acquire(f"locks/{'n' * 300_000}", session)
    run = Run(consul, instance(A))
    assert run.removed() == [("release", "locks/b"), ("destroy", other)]
    [error] = run.outcomes[A].errors
    assert isinstance(error, PermanentError)


def test_deregistering_forces_the_failed_agent_out(consul: FakeConsulCatalog) -> None:
    dead(consul, instance_id=A)
    consul.register_node("no-agent", "10.0.0.5", {"instance_id": A})
    Run(consul, instance(A), settings=NODES)
    assert [member.name for member in consul.members()] == ["dc1-server"]
    assert consul.calls["force-leave"] == 1


def test_every_datacenter_is_looked_at() -> None:
    consul = FakeConsulCatalog(("dc1", "dc2"))
    both = replace(NODES, datacenters=("dc1", "dc2"))
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


def test_case_18_two_datacenters_one_range() -> None:
    consul = FakeConsulCatalog(("dc1", "dc2"))
    dead(consul, instance_id=A)
    session = lock(consul)
    consul.add_agent("stranger", "10.0.0.5", datacenter="dc2")
    theirs = consul.create_session("stranger", datacenter="dc2")
    run = Run(consul, instance(A), settings=replace(LOCKS, datacenters=("dc1", "dc2")))
    assert run.removed() == [("release", "locks/a"), ("destroy", session)]
    assert run.left() == [Left("node stranger 10.0.0.5 (dc2)", "a live Consul agent in dc2 has its address")]
    assert run.errors() == ""
    assert theirs in consul.session_ids("dc2")


def test_removals_do_not_depend_on_other_instances_in_the_batch(consul: FakeConsulCatalog) -> None:
    """Only one of both is planned again before the change, because the other has nothing to lose."""
    consul.add_agent("alive", "10.0.0.5")
    lock(consul, "alive")
    dead(consul, "web-2", "10.0.0.6")
    other = lock(consul, "web-2", "locks/b")
    second = replace(instance(B, "10.0.0.5", "web-2"), private_ips=("10.0.0.5", "10.0.0.6"))
    for batch in ([instance(A), second], [second]):
        run = Run(consul, *batch)
        assert run.planned(B) == run.removed(B) == []
        assert f"the Consul agent of {B} is alive" in run.errors(B)
    consul.kill("alive")
    run = Run(consul, instance(A), second)
    assert [action for action, _ in run.removed(A)] == ["release", "destroy"]
    assert run.removed(B) == [("release", "locks/b"), ("destroy", other)]
    assert run.left(B) == [Left("node alive 10.0.0.5 (dc1)", f"it is removed with {A}")]


@pytest.mark.parametrize(("ended_at", "waits"), [(None, True), (9_400.5, True), (9_400.0, False)])
def test_an_agent_at_the_address_is_waited_for_only_so_long(
    consul: FakeConsulCatalog, ended_at: float | None, waits: bool
) -> None:
    consul.add_agent("web-1", "10.0.0.5")
    session = lock(consul)
    run = Run(consul, instance(A), ended_at=ended_at)
    assert (run.removed(), session in consul.session_ids()) == ([], True)
    assert (bool(run.errors()), bool(run.left())) == (waits, not waits)


def test_the_second_run_finds_nothing(consul: FakeConsulCatalog) -> None:
    dead(consul, instance_id=A)
    lock(consul)
    Run(consul, instance(A), settings=NODES)
    consul.calls.clear()
    assert Run(consul, instance(A), settings=NODES).findings[A] == Finding()
    assert consul.calls == {"authorize": 1, "nodes": 1}


# What changes between plan and apply


def test_case_9_objects_stay_if_a_replacement_gets_the_address(consul: FakeConsulCatalog) -> None:
    dead(consul)
    session, ec2 = lock(consul), FakeEc2()
    run = Run(
        consul,
        instance(A),
        settings=NODES,
        ec2=ec2,
        before_apply=lambda: ec2.launch("web-1", "10.0.0.5", instance_id=C),
    )
    assert len(run.planned()) == 3
    assert run.removed() == []
    assert run.left() == [
        Left("node web-1 10.0.0.5 (dc1)", f"10.0.0.5 now belongs to {C} in {ACCOUNT}/{REGION}"),
    ]
    assert session in consul.session_ids()


def test_unavailable_place_stops_removals_that_rely_on_an_address(consul: FakeConsulCatalog) -> None:
    dead(consul)
    dead(consul, "by-id", "10.9.9.9", instance_id=B)
    one, two, ec2 = lock(consul), lock(consul, "by-id", "locks/b"), FakeEc2()

    def fault(operation: str) -> None:
        raise TransientError("throttled")

    run = Run(
        consul, instance(A), instance(B, "10.0.0.6"), ec2=ec2, before_apply=lambda: setattr(ec2, "fault", fault)
    )
    assert run.removed(A) == []
    assert "throttled" in run.errors(A)
    assert run.removed(B) == [("release", "locks/b"), ("destroy", two)]
    assert consul.session_ids() == {one}


def test_lock_with_a_new_holder_is_left(consul: FakeConsulCatalog) -> None:
    dead(consul, instance_id=A)
    session = consul.create_session("web-1", lock_delay_seconds=0)
    for name in ("locks/a", "locks/b"):
        consul.acquire(name, session, b"v")
    other = consul.create_session("dc1-server")

    def pass_on() -> None:
        consul.destroy_sessions("", [session])
        consul.acquire("locks/a", other)

    run = Run(consul, instance(A), before_apply=pass_on)
    assert run.outcomes[A] == Outcome()
    key = consul.key("locks/a")
    assert key is not None
    assert key.session == other


def test_a_lock_whose_value_changed_is_released_with_the_new_value(consul: FakeConsulCatalog) -> None:
    dead(consul, instance_id=A)
    session = lock(consul)
    run = Run(consul, instance(A), before_apply=lambda: consul.put("locks/a", b"changed", 9))
    assert run.removed() == [("release", "locks/a"), ("destroy", session)]
    key = consul.key("locks/a")
    assert key is not None
    assert (key.value, key.flags, key.session) == ("Y2hhbmdlZA==", 9, None)
    # The plan's object is in the audit already; this is another.
    assert [(i, r.target, (r.object or {})["key"]["Flags"]) for i, r in run.kept] == [(A, "lock locks/a (dc1)", 9)]


@pytest.mark.parametrize("value", [b"v", b"x" * 400_000], ids=["small", "large"])
def test_lock_that_changes_during_the_release_is_read_and_planned_again(
    consul: FakeConsulCatalog, value: bytes
) -> None:
    dead(consul, instance_id=A)
    session = consul.create_session("web-1")
    consul.acquire("locks/a", session, value)
    changes = [2]

    def change(operation: str, _: str) -> None:
        if operation == "members" and changes[0]:  # the last that is read
            changes[0] -= 1
            consul.put("locks/a", value + b"new")

    run = Run(consul, instance(A), before_apply=lambda: setattr(consul, "fault", change))
    assert run.removed() == [("release", "locks/a"), ("destroy", session)]
    assert run.errors() == ""


def test_large_lock_with_a_new_holder_at_the_last_moment_is_left(consul: FakeConsulCatalog) -> None:
    dead(consul, instance_id=A)
    session = consul.create_session("web-1", lock_delay_seconds=0)
    consul.acquire("locks/a", session, b"x" * 400_000)
    other = consul.create_session("dc1-server")

    def pass_on(operation: str, _: str) -> None:
        if operation == "members" and session in consul.session_ids():
            consul._end(consul._world["dc1"], session)
            consul.acquire("locks/a", other)

    run = Run(consul, instance(A), before_apply=lambda: setattr(consul, "fault", pass_on))
    assert run.outcomes[A] == Outcome()
    key = consul.key("locks/a")
    assert key is not None
    assert key.session == other


def test_a_lock_that_keeps_changing_keeps_its_session(consul: FakeConsulCatalog) -> None:
    dead(consul, instance_id=A)
    session = lock(consul)
    dead(consul, "web-2", instance_id=B)
    other = lock(consul, "web-2", "locks/b")

    def change(operation: str, _: str) -> None:
        if operation == "members":
            consul.put("locks/a", b"new")

    run = Run(
        consul,
        instance(A),
        instance(B),
        settings=NODES,
        before_apply=lambda: setattr(consul, "fault", change),
    )
    assert run.removed(A) == []
    assert "lock locks/a (dc1): failed index check" in run.errors(A)
    assert {session} == consul.session_ids()
    assert run.removed(B) == [("release", "locks/b"), ("destroy", other), ("deregister", "web-2")]
    assert consul.calls["txn"] < 20


def test_node_taken_over_by_a_replacement_is_left(consul: FakeConsulCatalog) -> None:
    dead(consul, instance_id=A)
    session = lock(consul)
    for settings in (LOCKS, NODES):
        run = Run(
            consul,
            instance(A),
            settings=settings,
            before_apply=lambda: consul.add_agent("web-1", "10.0.0.5", {"instance_id": B}),
        )
        assert run.removed() == []
        assert run.left() == [Left("node web-1 10.0.0.5 (dc1)", f"it belongs to {B} by its meta instance_id")]
        assert consul.calls["force-leave"] == 0
        assert session in consul.session_ids()
        consul._world["dc1"].nodes.pop("web-1")
        dead(consul, instance_id=A)


@pytest.mark.parametrize("meta", [{"instance_id": B}, {}])
def test_node_without_a_link_to_the_instance_is_left(consul: FakeConsulCatalog, meta: dict[str, str]) -> None:
    dead(consul, "any-name")
    session = lock(consul, "any-name")
    run = Run(consul, instance(A), before_apply=lambda: consul.add_agent("any-name", "10.0.0.9", meta))
    assert (run.removed(), run.errors()) == ([], "")
    assert run.left() == [Left("node any-name 10.0.0.5 (dc1)", "it was registered again, at 10.0.0.9")]
    assert session in consul.session_ids()


def test_a_lock_that_is_gone_meanwhile_says_nothing_of_its_node(consul: FakeConsulCatalog) -> None:
    dead(consul, instance_id=A)
    dead(consul, "web-1b", "10.0.0.6", instance_id=A)
    session = lock(consul)

    def release() -> None:
        consul._put(consul._world["dc1"], replace(consul._world["dc1"].keys["locks/a"], session=None))

    run = Run(consul, instance(A), before_apply=release)
    assert run.removed() == [("destroy", session)]
    assert (run.left(), run.errors()) == ([], "")


def test_what_the_plan_left_is_reported_once(consul: FakeConsulCatalog) -> None:
    dead(consul, "any-name", instance_id=A)
    session = lock(consul, "any-name")
    dead(consul, "web-1", "10.0.0.9")
    lock(consul, "web-1", "locks/b")
    run = Run(consul, instance(A), before_apply=lambda: consul.destroy_sessions("", [session]))
    assert len(run.findings[A].left) == 1
    assert run.outcomes[A] == Outcome()


def test_a_node_that_is_registered_again_right_before_its_removal_is_decided_again(consul: FakeConsulCatalog) -> None:
    dead(consul, instance_id=A)
    session = lock(consul)
    taken: list[str] = []

    def take(operation: str, _: str) -> None:
        if operation == "members" and not taken:
            taken.append("web-1")
            consul.add_agent("web-1", "10.0.0.5", {"instance_id": B})

    run = Run(consul, instance(A), settings=NODES, before_apply=lambda: setattr(consul, "fault", take))
    # The lock was the dead one's, and unchanged. Its session waits for the node, which turns out to be another's.
    assert run.removed() == [("release", "locks/a")]
    assert run.left() == [Left("node web-1 10.0.0.5 (dc1)", f"it belongs to {B} by its meta instance_id")]
    assert session in consul.session_ids()
    assert consul.calls["force-leave"] == 0


def test_agent_that_came_back_keeps_everything(consul: FakeConsulCatalog) -> None:
    dead(consul, instance_id=A)
    session = lock(consul)

    def revive() -> None:
        consul._world["dc1"].agents["web-1"].alive = True

    run = Run(consul, instance(A), settings=NODES, before_apply=revive)
    assert run.removed() == []
    assert f"the Consul agent of {A} is alive" in run.errors()
    assert (consul.session_ids(), consul.calls["force-leave"]) == ({session}, 0)


def test_new_agent_with_the_same_name_is_not_forced_to_leave(consul: FakeConsulCatalog) -> None:
    dead(consul, instance_id=A)

    def join(operation: str, _: str) -> None:
        if operation == "members" and consul.node("web-1") is None:
            consul.add_agent("web-1", "10.0.0.9", {"instance_id": B})

    run = Run(consul, instance(A), settings=NODES, before_apply=lambda: setattr(consul, "fault", join))
    assert run.removed() == [("deregister", "web-1")]
    assert consul.calls["force-leave"] == 0


def test_objects_that_are_already_gone_are_a_success(consul: FakeConsulCatalog) -> None:
    dead(consul, instance_id=A)
    lock(consul)
    run = Run(consul, instance(A), settings=NODES, before_apply=lambda: consul._drop(consul._world["dc1"], "web-1"))
    assert run.outcomes[A] == Outcome()


# The age of the answer about the living


class Clock:
    """A clock that moves on when an operation begins, before the guard is asked or after."""

    def __init__(self, consul: FakeConsulCatalog, operation: str, seconds: float, *, before_guard: bool) -> None:
        self.time = 0.0
        answer = consul._request

        def request(asked: str, datacenter: str, name: str = "", *, guard: Any = None) -> Any:
            late = seconds if guard and asked == operation else 0
            self.time += late if before_guard else 0
            world = answer(asked, datacenter, name, guard=guard)
            self.time += 0 if before_guard else late
            return world

        consul._request = request  # type: ignore[assignment, method-assign]

    def __call__(self) -> float:
        return self.time


@pytest.mark.parametrize(("operation", "settings"), [("destroy", LOCKS), ("force-leave", NODES)])
def test_slow_changes_query_ec2_again(consul: FakeConsulCatalog, operation: str, settings: ConsulSettings) -> None:
    instances = []
    for number in range(60):
        dead(consul, f"web-{number}", f"10.0.0.{number}")
        lock(consul, f"web-{number}", f"locks/{number}")
        instances.append(instance(f"i-{number:017x}", f"10.0.0.{number}", f"web-{number}"))
    clock = Clock(consul, operation, FRESH_SECONDS / 10, before_guard=False)
    run = Run(consul, *instances, settings=settings, now=clock)
    assert all(run.outcomes[i.instance_id] == Outcome(run.findings[i.instance_id].removals) for i in instances)
    assert consul.calls[operation] == 60
    # Once in the plan, once for the locks, and once for each 10 of the slow changes.
    assert run.ec2.calls["DescribeNetworkInterfaces"] == (7 if settings is LOCKS else 8)
    assert consul.session_ids() == set()
    assert settings is LOCKS or [member.name for member in consul.members()] == ["dc1-server"]


@pytest.mark.parametrize(
    ("operation", "settings", "removed"),
    [
        ("txn", LOCKS, []),
        ("release", LOCKS, []),
        ("destroy", LOCKS, ["release"]),
        ("force-leave", NODES, ["release", "destroy", "deregister"]),
    ],
)
def test_message_returns_if_every_answer_is_outdated(
    consul: FakeConsulCatalog, operation: str, settings: ConsulSettings, removed: list[str]
) -> None:
    dead(consul)
    consul.acquire("locks/a", consul.create_session("web-1"), b"x" * (400_000 if operation == "release" else 1))
    clock = Clock(consul, operation, FRESH_SECONDS, before_guard=True)
    run = Run(consul, instance(A), settings=settings, now=clock)
    assert [action for action, _ in run.removed()] == removed
    assert "query EC2 again first" in run.errors()
    assert all(isinstance(error, TransientError) for error in run.outcomes[A].errors)
    assert consul.calls["destroy"] == consul.calls["release"] == consul.calls["force-leave"] == 0


# Failures


def test_a_datacenter_that_fails_stops_no_other() -> None:
    consul = FakeConsulCatalog(("dc1", "dc2"))
    dead(consul, instance_id=A)
    session = lock(consul)

    def fault(operation: str, name: str) -> None:
        if name == "dc2":
            raise TransientError("dc2 is out of reach")

    consul.fault = fault
    run = Run(consul, instance(A), settings=replace(LOCKS, datacenters=("dc2", "dc1")))
    assert run.removed() == [("release", "locks/a"), ("destroy", session)]
    assert str(run.findings[A].errors[0]) == "dc2 is out of reach"


@pytest.mark.parametrize("names", [("dc8",), ("dc1", "dc8")])
def test_step_fails_with_the_gravest_reason_if_every_datacenter_fails(
    consul: FakeConsulCatalog, names: tuple[str, ...]
) -> None:
    def fault(operation: str, name: str) -> None:
        if name == "dc1":
            raise TransientError("dc1 is out of reach")

    consul.fault = fault
    with pytest.raises(ConfigurationError, match="datacenter dc8"):
        Run(consul, instance(A), settings=replace(LOCKS, datacenters=names))


@pytest.mark.parametrize("right", ["node:read", "session:read", "key:read"])
@pytest.mark.parametrize("when", ["before", "between plan and apply"])
def test_missing_read_permission_is_not_a_clean_cluster(consul: FakeConsulCatalog, right: str, when: str) -> None:
    dead(consul, instance_id=A)
    session = lock(consul)

    def lose() -> None:
        consul.denied = {right}

    if when == "before":
        lose()
        with pytest.raises(AccessError, match=right):
            Run(consul, instance(A))
    else:
        run = Run(consul, instance(A), before_apply=lose)
        assert right in run.errors()
        assert run.removed() == []
    assert session in consul.session_ids()


def test_without_gossip_no_agent_is_known_to_be_dead(consul: FakeConsulCatalog) -> None:
    dead(consul, instance_id=A)
    lock(consul)

    def fault(operation: str, _: str) -> None:
        if operation == "members":
            raise TransientError("no answer")

    consul.fault = fault
    run = Run(consul, instance(A), settings=NODES)
    assert (run.planned(), run.errors()) == ([], "no answer")


@pytest.mark.parametrize(
    ("right", "kept"),
    [
        ("key:write", {"lock", "session", "node"}),
        ("session:write", {"session"}),
        ("node:write", {"node"}),
        ("operator:write", {"node"}),
    ],
)
def test_missing_write_permission_is_reported(consul: FakeConsulCatalog, right: str, kept: set[str]) -> None:
    dead(consul, instance_id=A)
    session = lock(consul)
    consul.denied = {right}
    run = Run(consul, instance(A), settings=LOCKS if right == "session:write" else NODES)
    assert right in run.errors()
    assert isinstance(run.outcomes[A].errors[0], AccessError)
    key = consul.key("locks/a")
    assert key is not None
    assert (key.session == session) == ("lock" in kept)
    assert (session in consul.session_ids()) == ("session" in kept)
    assert consul.node("web-1") is not None


def test_failure_affects_only_its_instance(consul: FakeConsulCatalog) -> None:
    sessions = {}
    for number, instance_id in enumerate((A, B, C)):
        dead(consul, f"web-{number}", f"10.0.0.{number}", instance_id=instance_id)
        sessions[instance_id] = lock(consul, f"web-{number}", f"locks/{instance_id}")

    def fault(operation: str, name: str) -> None:
        if operation == "destroy" and name == sessions[B]:
            raise TransientError("503")

    consul.fault = fault
    run = Run(consul, *(instance(i, f"10.0.0.{n}") for n, i in enumerate((A, B, C))))
    assert run.removed(A) == [("release", f"locks/{A}"), ("destroy", sessions[A])]
    assert run.removed(B) == [("release", f"locks/{B}")]
    assert run.removed(C) == [("release", f"locks/{C}"), ("destroy", sessions[C])]
    assert (run.errors(A), run.errors(C)) == ("", "")
    assert run.errors(B).endswith("503")
    consul.fault = None
    assert Run(consul, instance(B)).removed(B) == [("destroy", sessions[B])]


@pytest.mark.parametrize("fails", ["force-leave", "members"])
def test_failed_force_leave_is_reported(consul: FakeConsulCatalog, fails: str) -> None:
    dead(consul, instance_id=A)

    def fault(operation: str, _: str) -> None:
        if operation == fails and consul.node("web-1") is None:
            raise TransientError("503")

    consul.fault = fault
    run = Run(consul, instance(A), settings=NODES)
    assert run.removed() == [("deregister", "web-1")]
    assert run.errors() == "node web-1 10.0.0.5 (dc1): 503"


# What is read


def test_without_sessions_nothing_more_is_read(consul: FakeConsulCatalog) -> None:
    dead(consul, instance_id=A)
    assert Run(consul, instance(A)).findings[A] == Finding()
    assert consul.calls == {"authorize": 2, "nodes": 1, "sessions": 1}


@pytest.mark.parametrize(("locked", "prefixes"), [(True, ("locks/",)), (False, ())])
def test_keys_are_read_only_if_a_node_has_a_session(
    consul: FakeConsulCatalog, monkeypatch: pytest.MonkeyPatch, locked: bool, prefixes: tuple[str, ...]
) -> None:
    dead(consul, instance_id=A)
    if locked:
        lock(consul)
    read, asked = consul.read, []

    def spy(datacenter: str, names: Sequence[str], wanted: Sequence[str]) -> Any:
        asked.append(wanted)
        return read(datacenter, names, wanted)

    monkeypatch.setattr(consul, "read", spy)
    Run(consul, instance(A), settings=NODES, dry=True)
    assert asked == [prefixes]


def test_member_without_an_id_is_not_an_instances_agent(
    consul: FakeConsulCatalog, monkeypatch: pytest.MonkeyPatch
) -> None:
    consul.register_node("web-1", "10.0.0.5", {"instance_id": A})
    members = (*consul.members(), Member("old-agent", "", alive=True, failed=False))
    monkeypatch.setattr(consul, "members", lambda: members)
    assert Run(consul, instance(A), settings=NODES).removed() == [("deregister", "web-1")]


# The audit


def test_with_an_audit_nodes_are_read_with_services_and_checks(consul: FakeConsulCatalog) -> None:
    dead(consul, instance_id=A)
    consul.register_service("web-1", "www")
    run = Run(consul, instance(A), settings=NODES, audit=True)
    [removal] = run.findings[A].removals
    assert removal.object is not None
    assert (removal.kind, removal.object["datacenter"]) == ("consul_node", "dc1")
    assert removal.object["node"]["Node"]["Meta"] == {"instance_id": A}
    assert removal.object["node"]["Services"] == [{"ID": "www", "Service": "www"}]
    assert [check["CheckID"] for check in removal.object["node"]["Checks"]] == ["service:www"]
    assert run.kept == []
    assert run.removed() == [("deregister", "web-1")]


@pytest.mark.parametrize(("settings", "audit"), [(NODES, False), (LOCKS, True)])
def test_services_are_read_for_a_node_that_goes_into_the_audit_only(
    consul: FakeConsulCatalog, settings: ConsulSettings, audit: bool
) -> None:
    dead(consul, instance_id=A)
    lock(consul)
    Run(consul, instance(A), settings=settings, audit=audit)
    assert (consul.calls["node"], consul.calls["node checks"]) == (0, 0)


def test_a_node_that_goes_while_it_is_read_for_the_audit_is_a_success(consul: FakeConsulCatalog) -> None:
    dead(consul, instance_id=A)

    def go(operation: str, _: str) -> None:
        if operation == "node":
            consul._drop(consul._world["dc1"], "web-1")

    consul.fault = go
    run = Run(consul, instance(A), settings=NODES, audit=True)
    [removal] = run.findings[A].removals
    assert removal.object is not None
    assert removal.object["node"]["Node"]["Node"] == "web-1"
    assert run.outcomes[A] == Outcome()


def test_a_token_that_cannot_see_services_deregisters_no_node_with_an_audit(consul: FakeConsulCatalog) -> None:
    dead(consul, instance_id=A)
    session = lock(consul)
    consul.denied = {"service:read"}
    run = Run(consul, instance(A), settings=NODES, audit=True)
    assert run.removed() == [("release", "locks/a"), ("destroy", session)]
    assert "service:read" in run.errors()
    assert consul.node("web-1")


def test_changed_object_that_cannot_be_audited_stays(consul: FakeConsulCatalog) -> None:
    dead(consul, instance_id=A)
    session = lock(consul)
    other = lock(consul, key="locks/b")
    run = Run(
        consul,
        instance(A),
        settings=NODES,
        keep_fails="locks/a",
        before_apply=lambda: consul.put("locks/a", b"changed"),
    )
    assert run.removed() == [("release", "locks/b"), ("destroy", other)]
    assert run.errors() == "lock locks/a (dc1): S3 is slow"
    key = consul.key("locks/a")
    assert key is not None
    assert key.session == session
    assert consul.node("web-1")


# Calls


def fleet(consul: FakeConsulCatalog, size: int) -> list[Instance]:
    instances = []
    for number in range(size):
        instance_id, address = f"i-{number:017x}", f"10.0.{number // 250}.{number % 250}"
        dead(consul, f"web-{number}", address, instance_id=instance_id)
        lock(consul, f"web-{number}", f"locks/{number}")
        instances.append(instance(instance_id, address, f"web-{number}"))
    return instances


def test_calls_of_a_single_termination(consul: FakeConsulCatalog) -> None:
    run = Run(consul, *fleet(consul, 1))
    assert consul.calls == {"authorize": 3, "nodes": 1, "sessions": 2, "txn": 3, "members": 2, "destroy": 1}
    assert run.ec2.calls == {}


def test_calls_of_a_full_transaction(consul: FakeConsulCatalog) -> None:
    Run(consul, *fleet(consul, 32))
    assert consul.calls["txn"] == 2 + 1


def test_no_transaction_is_sent_when_nothing_is_left_of_it(consul: FakeConsulCatalog) -> None:
    dead(consul, instance_id=A)
    lock(consul)
    consul.denied = {"key:write"}
    Run(consul, instance(A))
    assert consul.calls["txn"] == 2 + 1


def test_calls_of_a_hundred(consul: FakeConsulCatalog) -> None:
    Run(consul, *fleet(consul, 100))
    beside = {name: count for name, count in consul.calls.items() if name != "destroy"}
    assert beside == {"authorize": 3, "sessions": 2, "nodes": 3, "checks": 2, "txn": 6, "members": 2}
    assert consul.calls["destroy"] == 100  # Consul has no call that destroys several


def test_calls_of_a_hundred_that_are_deregistered(consul: FakeConsulCatalog) -> None:
    Run(consul, *fleet(consul, 100), settings=NODES)
    assert consul.calls["destroy"] == 0  # a node takes its sessions along
    beside = {name: count for name, count in consul.calls.items() if name != "force-leave"}
    assert beside == {"authorize": 4, "sessions": 2, "nodes": 3, "checks": 2, "txn": 8, "members": 3}
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
    address=st.sampled_from(["", "10.0.0.5"]),
    taken=st.booleans(),
    many=st.booleans(),
)
@effort(max_examples=150, deadline=None)
def test_dry_run_predicts_the_real_run_and_live_instances_keep_everything(
    scene: list[Any], deregister: bool, address: str, taken: bool, many: bool
) -> None:
    consul = FakeConsulCatalog()
    for number in range(40 if many else 0):  # so many nodes that they are listed
        consul.register_node(f"x{number}", "10.0.0.6")
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
    ec2 = FakeEc2()
    if taken:
        ec2.launch("db-1", "10.0.0.5", instance_id=C)

    dry = Run(copy.deepcopy(consul), *batch, settings=chosen, ec2=ec2, dry=True)
    real = Run(consul, *batch, settings=chosen, ec2=ec2)

    for instance_id in (A, B):
        assert told(dry.findings[instance_id]) == told(real.findings[instance_id])
        assert real.outcomes[instance_id] == Outcome(removed=real.findings[instance_id].removals)
    after = consul._world["dc1"]
    for name, node in before.nodes.items():
        agent = before.agents.get(name)
        lives = agent and agent.alive
        theirs = not node.instance_id and node.address == "10.0.0.5" and taken
        if node.instance_id == C or lives or theirs:
            assert after.nodes[name] == node
            kept = {s for s, one in before.sessions.items() if one.node == name}
            assert kept <= set(after.sessions)
            assert {k for k in before.keys.values() if k.session in kept} <= set(after.keys.values())
