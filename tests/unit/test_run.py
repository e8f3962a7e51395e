"""One run of the steps over a batch."""

from __future__ import annotations

from datetime import timedelta
from threading import Barrier
from typing import TYPE_CHECKING

import pytest

from ec2_decommission.clients.aws import CONNECT_TIMEOUT_SECONDS, READ_TIMEOUT_SECONDS
from ec2_decommission.deadline import current
from ec2_decommission.errors import TransientError
from ec2_decommission.handler import BACK_OFF_SECONDS
from ec2_decommission.instance import Facts
from ec2_decommission.inventory import HISTORY
from ec2_decommission.run import RESERVE_SECONDS
from ec2_decommission.steps.base import Batch, Finding, Outcome
from ec2_decommission.together import in_turn, side_by_side
from tests.fakes.steps import FakeStep, factory
from tests.fakes.world import World, step_of

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from ec2_decommission.instance import Instance
    from ec2_decommission.steps.base import Removal
    from ec2_decommission.together import Together


def two(*, inventory: bool = True, together: Together = in_turn) -> tuple[World, FakeStep, FakeStep]:
    first, last = FakeStep(), FakeStep()
    more = [factory(first, "first"), factory(last, "last")]
    return World(zones=False, more_steps=more, inventory=inventory, together=together), first, last


def dead(world: World, *, recorded: bool = True) -> str:
    instance_id = world.launch("web-1", records=False)
    if recorded:
        world.send(world.running(instance_id))
    world.ec2.terminate(instance_id)
    return instance_id


def fail(*_: str) -> None:
    raise TransientError("no connection")


def backwards(jobs: Sequence[Callable[[], None]], workers: int | None = None) -> None:
    in_turn(jobs[::-1], workers)


@pytest.mark.parametrize("together", [in_turn, backwards])
def test_all_steps_identify_before_any_plans(together: Together) -> None:
    acts: list[str] = []
    world, *steps = two(together=together)
    instance_id = dead(world)
    for number, step in enumerate(steps):
        step.traces[instance_id] = ["x"]
        step.fault = lambda act, number=number: acts.append(f"{act} {number}")  # type: ignore[misc]
    world.send_batch(world.terminated(instance_id))
    order = (0, 1) if together is in_turn else (1, 0)
    assert acts == [*(f"identify {n}" for n in order), *(f"{act} {n}" for n in order for act in ("plan", "apply"))]


def test_steps_plan_and_apply_at_the_same_time() -> None:
    """Each waits for the other to be where it is."""
    world, first, last = two(together=side_by_side)
    instance_id = dead(world)
    meeting = Barrier(2)
    for step in (first, last):
        step.traces[instance_id] = ["x"]
        step.fault = lambda _: meeting.wait(10)  # type: ignore[assignment]
    report = world.send(world.terminated(instance_id))
    assert [step["status"] for step in report["steps"]] == ["done", "done"]


def test_failing_step_does_not_stop_parallel_steps() -> None:
    world, first, last = two(together=side_by_side)
    instance_id = dead(world)
    last.traces[instance_id] = ["x"]

    def break_down(act: str) -> None:
        if act == "plan":
            raise ZeroDivisionError

    first.fault = break_down
    answered = world.send_batch(world.terminated(instance_id))
    (report,) = answered.reports.values()
    assert [step["status"] for step in report["steps"]] == ["failed", "done"]
    assert len(answered.failed) == 1


def test_later_steps_use_facts_from_earlier_steps() -> None:
    world, first, last = two()
    instance_id = dead(world)
    last.facts[instance_id] = Facts("last", known_as={"last": {"node": ("n",)}}, private_ips=("10.9.9.9",))
    report = world.send(world.terminated(instance_id))
    assert first.seen["plan"].instances[instance_id].private_ips == ("10.0.0.4", "10.9.9.9")
    assert report["identity"]["known_as"] == {"last": {"node": ["n"]}}
    assert "last" in report["identity"]["sources"]


def test_a_step_that_finds_nothing_is_not_asked_to_apply() -> None:
    world, first, _ = two()
    instance_id = dead(world)
    world.send(world.terminated(instance_id))
    assert [act for act, _ in first.acts] == ["identify", "plan"]


def test_a_dry_run_ends_before_the_last_act() -> None:
    world, first, _ = two()
    instance_id = dead(world)
    first.traces[instance_id] = ["x"]
    report = world.operate(instance_id, dry_run=True)
    assert [act for act, _ in first.acts] == ["identify", "plan"]
    assert step_of(report, "first")["actions"] == [{"action": "delete", "target": "x", "proof": "it is in the list"}]


def test_only_those_whose_step_is_not_settled_are_in_its_batch() -> None:
    world, first, last = two()
    old, new = dead(world), dead(world)
    last.fault = fail
    world.send_batch(world.terminated(old))
    last.fault = lambda *_: None
    first.acts.clear()
    last.acts.clear()
    assert world.send_batch(world.terminated(old), world.terminated(new)).failed == ()
    assert {ids for _, ids in first.acts} == {(new,)}
    assert {frozenset(ids) for _, ids in last.acts} == {frozenset((old, new))}


def test_a_dry_run_looks_at_settled_steps_too() -> None:
    world, first, last = two()
    instance_id = dead(world)
    last.fault = fail
    world.send_batch(world.terminated(instance_id))
    first.acts.clear()
    world.operate(instance_id, dry_run=True)
    assert first.acts


def test_a_step_that_is_switched_on_later_runs_for_those_that_were_settled() -> None:
    world, _, last = two()
    instance_id = dead(world)
    world.send(world.terminated(instance_id))
    added = FakeStep()
    world.more_steps.append(factory(added, "added"))
    world.cold_start()
    last.acts.clear()
    report = world.send(world.terminated(instance_id))
    assert [act for act, _ in added.acts] == ["identify", "plan"]
    assert last.acts == []
    assert [s["step"] for s in report["steps"]] == ["first", "last", "added"]


def test_a_settled_step_that_is_switched_off_is_not_reported() -> None:
    world, _, _ = two()
    instance_id = dead(world)
    world.send(world.terminated(instance_id))
    world.more_steps.pop(0)
    world.cold_start()
    assert [s["step"] for s in world.send(world.terminated(instance_id))["steps"]] == ["last"]


def test_without_any_step_a_termination_is_still_remembered() -> None:
    world = World(zones=False)
    instance_id = dead(world)
    assert world.send(world.terminated(instance_id))["steps"] == []
    assert world.inventory.items[instance_id].state == "terminated"


def test_the_identity_is_written_again_only_when_more_is_known() -> None:
    world, first, last = two()
    instance_id = dead(world)
    last.fault = fail  # so that the end stays unfinished
    world.send_batch(world.terminated(instance_id))
    writes = world.inventory.calls["remember_terminated"]
    world.later(timedelta(hours=1))
    world.send_batch(world.terminated(instance_id))
    assert world.inventory.calls["remember_terminated"] == writes
    world.operate(instance_id)
    first.facts[instance_id] = Facts("first", private_ips=("10.0.0.44",))
    world.operate(instance_id)
    assert world.inventory.calls["remember_terminated"] == writes + 1


def test_what_was_removed_before_a_failure_is_remembered_once() -> None:
    world, first, last = two()
    instance_id = dead(world)
    first.traces[instance_id] = ["x"]
    last.fault = fail
    for count in (1, 2, 3):
        world.send_batch(world.terminated(instance_id), receive_count=count)
    record = world.inventory.items[instance_id]
    assert [entry["target"] for entry in record.removed] == ["x"]
    assert set(record.removed[0]) == {"at", "step", "request_id", "action", "target", "proof"}
    assert record.steps["last"]["status"] == "failed"
    assert record.steps["last"]["reason"] == "no connection"


def test_last_seconds_are_reserved_from_the_steps() -> None:
    world, first, last = two()
    instance_id = dead(world)
    world.send_batch(world.terminated(instance_id), seconds=BACK_OFF_SECONDS + RESERVE_SECONDS + 40)
    for step in (first, last):
        assert 15 < step.seen["identify"].deadline.remaining() <= 20
        assert 35 < step.seen["plan"].deadline.remaining() <= 40


def test_a_short_time_is_enough_to_begin_a_call_to_aws() -> None:
    """The least time-out that the module allows, and many steps."""
    steps = [FakeStep() for _ in range(8)]
    world = World(zones=False, more_steps=[factory(step, f"s{n}") for n, step in enumerate(steps)])
    world.send_batch(world.terminated(dead(world)), seconds=32)
    needed = CONNECT_TIMEOUT_SECONDS + READ_TIMEOUT_SECONDS
    assert all(step.seen[act].deadline.remaining() > needed for step in steps for act in ("identify", "plan"))


def test_a_step_that_is_silent_about_an_instance_fails_for_it() -> None:
    """A custom step may forget one: that must not pass for clean."""

    class Silent(FakeStep):
        def plan(self, batch: Batch) -> Mapping[str, Finding]:
            found = super().plan(batch)
            stranger = {"i-0123456789abcdef0": Finding()}
            return {**{i: found[i] for i in found if i != not_found}, **stranger}

        def apply(self, batch: Batch, findings: Mapping[str, Finding]) -> Mapping[str, Outcome]:
            done = super().apply(batch, findings)
            return {i: done[i] for i in done if i != not_told}

    step = Silent()
    world = World(zones=False, more_steps=[factory(step)])
    told, not_found, not_told = (dead(world) for _ in range(3))
    for instance_id in (told, not_told):
        step.traces[instance_id] = ["x"]
    answer = world.send_batch(*(world.terminated(i) for i in (told, not_found, not_told)), message_ids=list("abc"))
    assert answer.failed == ("b", "c")
    assert step_of(answer.reports["a"], "fake")["status"] == "done"
    assert "no finding for this instance" in step_of(answer.reports["b"], "fake")["reason"]
    assert "did not report what it removed" in step_of(answer.reports["c"], "fake")["reason"]


# What cannot be recorded is not removed


@pytest.mark.parametrize("operation", ["recall", "remember_terminated"])
def test_nothing_is_removed_without_an_inventory_write(operation: str) -> None:
    """The Chef node alone has the address, which Route 53 needs later: it stays until the inventory has it too."""
    world, chef, dns = two()
    instance_id = dead(world)
    chef.facts[instance_id] = Facts("chef", private_ips=("10.0.0.44",))
    chef.traces[instance_id] = ["node web-1"]
    world.inventory.fault = lambda now: fail() if now == operation else None
    answer = world.send_batch(world.terminated(instance_id))
    assert len(answer.failed) == 1
    (report,) = answer.reports.values()
    for name in ("first", "last"):
        told = "nothing was removed, because it could not be recorded: inventory: no connection"
        assert step_of(report, name)["reason"] == told
    assert report["errors"] == ["inventory: no connection"]
    assert [act for act, _ in chef.acts + dns.acts] == ["identify", "identify"]
    assert world.inventory.items[instance_id].state == "running"
    world.inventory.fault = lambda *_: None
    assert world.send_batch(world.terminated(instance_id)).failed == ()
    assert chef.traces[instance_id] == []
    assert "10.0.0.44" in dns.seen["plan"].instances[instance_id].private_ips


def test_a_system_that_hangs_leaves_the_time_to_write_the_identity_down() -> None:
    world, first, _ = two()
    instance_id = dead(world)
    seconds: dict[str, float] = {}

    def note(act: str) -> None:
        seconds.setdefault(act, current().remaining())

    first.fault = world.inventory.fault = note
    world.send(world.terminated(instance_id))
    assert seconds["remember_terminated"] > 1.5 * seconds["identify"]


def test_an_instance_that_cannot_be_written_down_returns_alone() -> None:
    world, step, _ = two()
    good, bad = dead(world), dead(world)
    for instance_id in (good, bad):
        step.traces[instance_id] = ["x"]
    world.inventory.fault_of = lambda operation, i: fail() if (operation, i) == ("remember_terminated", bad) else None
    answer = world.send_batch(world.terminated(good), world.terminated(bad), message_ids=["good", "bad"])
    assert answer.failed == ("bad",)
    assert (step.traces[good], step.traces[bad]) == ([], ["x"])
    assert world.inventory.items[bad].state == "running"


def test_a_dry_run_plans_without_the_inventory_and_reports_its_error() -> None:
    world, step, _ = two()
    instance_id = dead(world)
    step.traces[instance_id] = ["x"]
    world.inventory.fault = fail
    dry = world.operate(instance_id, dry_run=True)
    assert step_of(dry, "first")["status"] == "done"
    assert dry["errors"] == ["inventory: no connection"]
    assert step.traces[instance_id] == ["x"]


# The audit


class FakeAudit:
    """Keeps removals in a list."""

    def __init__(self) -> None:
        self.kept: list[tuple[str, str, str]] = []
        self.fault: Callable[[], object] = lambda: None

    def keep(self, instance: Instance, step: str, removals: Sequence[Removal]) -> None:
        self.fault()
        self.kept += [(instance.instance_id, step, removal.target) for removal in removals]


def test_every_removal_is_audited_before_it_is_applied_and_without_audit_nothing_goes() -> None:
    audit, step = FakeAudit(), FakeStep()
    world = World(zones=False, more_steps=[factory(step, "first")], audit=audit)
    instance_id = dead(world)
    step.traces[instance_id] = ["x", "y"]
    audit.fault = fail
    (report,) = world.send_batch(world.terminated(instance_id)).reports.values()
    assert step_of(report, "first")["reason"] == "nothing is removed without its audit object: no connection"
    assert step.traces[instance_id] == ["x", "y"]
    audit.fault = lambda: None
    kept_first: list[int] = []
    step.fault = lambda act: kept_first.append(len(audit.kept)) if act == "apply" else None
    assert world.send_batch(world.terminated(instance_id)).failed == ()
    assert audit.kept == [(instance_id, "first", "x"), (instance_id, "first", "y")]
    assert (kept_first, step.traces[instance_id]) == ([2], [])
    step.traces[instance_id] = ["z"]
    world.operate(instance_id, dry_run=True)
    assert len(audit.kept) == 2


# What the inventory keeps


@pytest.mark.parametrize(("fault", "finished"), [(None, True), ("identify", False), ("plan", False)])
def test_an_end_is_finished_when_every_step_is_settled(fault: str | None, finished: bool) -> None:
    world, first, _ = two()
    instance_id = dead(world)
    first.fault = lambda act: fail() if act == fault else None
    world.send_batch(world.terminated(instance_id))
    record = world.inventory.items[instance_id]
    assert (record.finished, instance_id in world.inventory.expires) == (finished, finished)
    assert (record.next_try_at is None) is finished
    assert record.request_id == "request-1"


def test_inventory_history_is_limited() -> None:
    world, first, last = two()
    instance_id = dead(world)
    last.fault = fail
    for _ in range(4):
        first.traces[instance_id] = [f"x{n}" for n in range(HISTORY // 3)]
        world.operate(instance_id)
    assert len(world.inventory.items[instance_id].removed) == HISTORY


def test_expired_item_is_written_in_full() -> None:
    world, step, _ = two()
    instance_id = dead(world)
    world.send(world.terminated(instance_id))

    def expire(act: str) -> None:
        world.inventory.items.clear()
        world.inventory.expires.clear()

    step.fault = expire
    world.send(world.terminated(instance_id))
    assert world.inventory.items[instance_id].state == "terminated"
    assert instance_id in world.inventory.expires


def test_malformed_data_of_one_instance_does_not_affect_others() -> None:
    """Route 53's step and EC2 would stumble over a text that is no address, for the whole batch."""
    step = FakeStep()
    world = World(more_steps=[factory(step)])
    good, odd = (world.launch(name) for name in ("good", "odd"))
    for instance_id in (good, odd):
        world.send(world.running(instance_id))
        world.ec2.terminate(instance_id)
    step.facts[odd] = Facts("fake", private_ips=("not-an-ip", "127.0.0.1"), ipv6_addresses=("10.0.0.4", "fe80::1%x"))
    answer = world.send_batch(world.terminated(good), world.terminated(odd))
    assert answer.failed == ()
    assert (world.a("good"), world.a("odd")) == (None, None)
