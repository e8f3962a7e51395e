"""One run of the steps over a batch."""

from __future__ import annotations

from contextlib import suppress
from datetime import timedelta
from threading import Barrier
from typing import TYPE_CHECKING

import pytest

from ec2_decommission.clients.aws import CONNECT_TIMEOUT_SECONDS, READ_TIMEOUT_SECONDS
from ec2_decommission.deadline import Deadline
from ec2_decommission.errors import StillAlive, TransientError
from ec2_decommission.identity import Facts
from ec2_decommission.inventory import HISTORY
from ec2_decommission.run import RESERVE_SECONDS, Clock
from ec2_decommission.steps.base import Batch, Finding, Outcome
from ec2_decommission.together import in_turn, side_by_side
from tests.fakes.steps import FakeStep, factory
from tests.fakes.world import World, step_of

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

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


def test_the_clock_counts_the_innermost_deadline() -> None:
    clock = Clock()
    assert clock.deadline.remaining() == 0
    with clock.until(Deadline(lambda: 10.0)):
        with clock.until(Deadline(lambda: 5.0)):
            assert clock.deadline.remaining() == 5
        with suppress(ValueError), clock.until(Deadline(lambda: 5.0)):
            raise ValueError
        assert clock.deadline.remaining() == 10
    assert clock.deadline.remaining() == 0


def acts_of_two(together: Together, *, inventory: bool = True, remembers: bool = True) -> list[str]:
    """The acts of two steps with something to remove, in the order in which they began."""
    acts: list[str] = []
    steps = [FakeStep(), FakeStep()]
    for number, step in enumerate(steps):
        step.fault = lambda act, number=number: acts.append(f"{act} {number}")  # type: ignore[misc]
    more = [factory(step, f"s{n}") for n, step in enumerate(steps)]
    world = World(zones=False, more_steps=more, inventory=inventory, together=together)
    instance_id = dead(world, recorded=inventory)
    for step in steps:
        step.traces[instance_id] = ["x"]
        step.facts[instance_id] = Facts("fake", private_ips=("10.0.0.4",))
    if not remembers:
        world.inventory.fault = fail
    world.send_batch(world.terminated(instance_id))
    return acts


def backwards(jobs: Sequence[Callable[[], None]]) -> None:
    in_turn(jobs[::-1])


def test_all_steps_look_before_any_finds_and_find_and_remove_in_no_set_order() -> None:
    assert acts_of_two(in_turn) == ["look 0", "look 1", "find 0", "remove 0", "find 1", "remove 1"]
    assert acts_of_two(backwards) == ["look 0", "look 1", "find 1", "remove 1", "find 0", "remove 0"]


def test_steps_go_in_turn_where_a_retry_might_not_know_what_one_of_them_took_away() -> None:
    in_order = ["look 0", "look 1", "find 0", "remove 0", "find 1", "remove 1"]
    assert acts_of_two(backwards, inventory=False) == in_order
    # All are asked what they find, before the first removes.
    foreseen = ["look 0", "look 1", "find 0", "find 1", "find 0", "remove 0", "find 1", "remove 1"]
    assert acts_of_two(backwards, remembers=False) == foreseen


def test_steps_find_and_remove_at_the_same_time() -> None:
    """Each waits for the other to be where it is."""
    world, first, last = two(together=side_by_side)
    instance_id = dead(world)
    meeting = Barrier(2)

    def meet(act: str) -> None:
        if act != "look":
            meeting.wait(10)

    for step in (first, last):
        step.traces[instance_id], step.fault = ["x"], meet
    report = world.send(world.terminated(instance_id))
    assert [step["status"] for step in report["steps"]] == ["done", "done"]


def test_a_step_that_fails_beside_others_stops_none_of_them() -> None:
    world, first, last = two(together=side_by_side)
    instance_id = dead(world)
    last.traces[instance_id] = ["x"]

    def break_down(act: str) -> None:
        if act == "find":
            raise ZeroDivisionError

    first.fault = break_down
    answered = world.send_batch(world.terminated(instance_id))
    (report,) = answered.reports.values()
    assert [step["status"] for step in report["steps"]] == ["failed", "done"]
    assert len(answered.failed) == 1


def test_what_one_step_learns_the_next_ones_find_with() -> None:
    world, first, last = two()
    instance_id = dead(world)
    last.facts[instance_id] = Facts("last", known_as={"last": {"node": ("n",)}}, private_ips=("10.9.9.9",))
    report = world.send(world.terminated(instance_id))
    assert first.seen["find"].instances[instance_id].private_ips == ("10.0.0.4", "10.9.9.9")
    assert report["identity"]["known_as"] == {"last": {"node": ["n"]}}
    assert "last" in report["identity"]["sources"]


def test_a_step_that_finds_nothing_is_not_asked_to_remove() -> None:
    world, first, _ = two()
    instance_id = dead(world)
    world.send(world.terminated(instance_id))
    assert [act for act, _ in first.acts] == ["look", "find"]


def test_a_dry_run_ends_before_the_last_act() -> None:
    world, first, _ = two()
    instance_id = dead(world)
    first.traces[instance_id] = ["x"]
    report = world.operate(instance_id, dry_run=True)
    assert [act for act, _ in first.acts] == ["look", "find"]
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
    assert [act for act, _ in added.acts] == ["look", "find"]
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


def test_the_first_look_is_recorded_again_only_when_more_is_known() -> None:
    world, first, _ = two()
    instance_id = dead(world, recorded=False)
    world.send(world.terminated(instance_id))
    writes = world.inventory.calls["remember_terminated"]
    world.later(timedelta(hours=1))
    world.send(world.terminated(instance_id))
    assert world.inventory.calls["remember_terminated"] == writes
    first.facts[instance_id] = Facts("first", private_ips=("10.0.0.4",))
    world.send(world.terminated(instance_id))
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
    assert set(record.removed[0]) == {"at", "step", "action", "target", "proof"}
    assert record.steps["last"]["status"] == "failed"
    assert record.steps["last"]["reason"] == "no connection"


def test_the_steps_are_kept_from_the_last_seconds() -> None:
    for inventory, share in ((True, 40), (False, 20)):
        world, first, last = two(inventory=inventory)
        instance_id = dead(world, recorded=inventory)
        world.send_batch(world.terminated(instance_id), seconds=RESERVE_SECONDS + 40)
        assert share - 5 < first.seen["find"].deadline.remaining() <= share
        assert 35 < last.seen["find"].deadline.remaining() <= 40


def test_a_short_time_is_enough_to_begin_a_call_to_aws() -> None:
    """The least time-out that the module allows, and many steps."""
    steps = [FakeStep() for _ in range(8)]
    world = World(zones=False, more_steps=[factory(step, f"s{n}") for n, step in enumerate(steps)])
    world.send_batch(world.terminated(dead(world)), seconds=28)
    needed = CONNECT_TIMEOUT_SECONDS + READ_TIMEOUT_SECONDS
    assert all(step.seen[act].deadline.remaining() > needed for step in steps for act in ("look", "find"))


def test_a_step_that_is_silent_about_an_instance_fails_for_it() -> None:
    """A custom step may forget one: that must not pass for clean."""

    class Silent(FakeStep):
        def find(self, batch: Batch) -> Mapping[str, Finding]:
            found = super().find(batch)
            stranger = {"i-0123456789abcdef0": Finding()}
            return {**{i: found[i] for i in found if i != not_found}, **stranger}

        def remove(self, batch: Batch, findings: Mapping[str, Finding]) -> Mapping[str, Outcome]:
            done = super().remove(batch, findings)
            return {i: done[i] for i in done if i != not_told}

    step = Silent()
    world = World(zones=False, more_steps=[factory(step)])
    told, not_found, not_told = (dead(world) for _ in range(3))
    for instance_id in (told, not_told):
        step.traces[instance_id] = ["x"]
    answer = world.send_batch(*(world.terminated(i) for i in (told, not_found, not_told)), message_ids=list("abc"))
    assert answer.failed == ("b", "c")
    assert step_of(answer.reports["a"], "fake")["status"] == "done"
    assert "nothing of what it found" in step_of(answer.reports["b"], "fake")["reason"]
    assert "nothing of what it removed" in step_of(answer.reports["c"], "fake")["reason"]


# What the inventory must have before anything goes


def test_what_only_one_step_knew_is_not_lost_with_its_traces() -> None:
    """The Chef node alone tells the address, which Route 53 needs later: it stays until the inventory has that."""
    world, chef, dns = two()
    instance_id = dead(world, recorded=False)
    world.ec2.forget(instance_id)
    chef.facts[instance_id] = Facts("chef", private_ips=("10.0.0.4",))
    chef.traces[instance_id] = ["node web-1"]
    dns.fault = fail
    world.inventory.fault = lambda operation: fail() if operation == "remember_terminated" else None
    answer = world.send_batch(world.terminated(instance_id))
    assert len(answer.failed) == 1
    (report,) = answer.reports.values()
    assert step_of(report, "first")["reason"] == (
        "waits: last failed, and the inventory does not remember what the instance was: inventory: no connection"
    )
    assert chef.traces[instance_id] == ["node web-1"]
    assert world.inventory.items == {}  # least of all an item that neither lives nor expires
    world.inventory.fault, dns.fault = (lambda *_: None), (lambda *_: None)
    assert world.send_batch(world.terminated(instance_id)).failed == ()
    assert chef.traces[instance_id] == []
    assert dns.seen["find"].instances[instance_id].private_ips == ("10.0.0.4",)


def test_one_that_cannot_be_remembered_returns_alone() -> None:
    world, step, _ = two()
    good, bad = dead(world), dead(world)
    for instance_id in (good, bad):
        step.traces[instance_id] = ["x"]
    world.inventory.fault_of = lambda operation, i: fail() if (operation, i) == ("remember_terminated", bad) else None
    answer = world.send_batch(world.terminated(good), world.terminated(bad), message_ids=["good", "bad"])
    assert answer.failed == ("bad",)
    assert (step.traces[good], step.traces[bad]) == ([], [])  # of what it was, the record has what is needed
    assert world.inventory.items[bad].steps == {}
    assert world.inventory.items[bad].state == "running"


def test_a_step_that_was_settled_before_is_still_told_of_one_that_cannot_be_remembered() -> None:
    world, first, last = two()
    instance_id = dead(world)
    last.fault = fail
    world.send_batch(world.terminated(instance_id))
    last.fault = lambda *_: None
    last.facts[instance_id] = Facts("last", private_ips=("10.0.0.77",))
    world.inventory.fault = lambda operation: fail() if operation == "remember_terminated" else None
    (report,) = world.send_batch(world.terminated(instance_id)).reports.values()
    assert [s["status"] for s in report["steps"]] == ["clean", "clean"]
    assert step_of(report, "first")["settled_at"]
    assert first.acts[-1][0] == "find"


def test_with_the_inventory_unreadable_the_steps_go_by_the_address_that_ec2_still_knows() -> None:
    world, first, last = two()
    instance_id = dead(world)
    first.traces[instance_id], last.traces[instance_id] = ["x"], ["y"]
    first.facts[instance_id] = Facts("first", private_ips=("10.0.0.4",))
    world.inventory.fault = lambda operation: fail() if operation == "recall" else None
    answer = world.send_batch(world.terminated(instance_id))
    (report,) = answer.reports.values()
    assert [s["status"] for s in report["steps"]] == ["done", "done"]
    assert len(answer.failed) == 1  # it comes back, to be remembered
    assert world.inventory.items[instance_id].state == "running"
    world.inventory.fault = lambda *_: None
    assert world.send_batch(world.terminated(instance_id)).failed == ()
    assert world.inventory.items[instance_id].state == "terminated"


def test_with_the_inventory_unreadable_and_no_address_known_no_step_removes_by_name() -> None:
    world, step, _ = two()
    instance_id = dead(world)
    world.ec2.forget(instance_id)
    step.traces[instance_id] = ["x"]
    world.inventory.fault = lambda operation: fail() if operation == "recall" else None
    (report,) = world.send_batch(world.terminated(instance_id)).reports.values()
    assert {s["status"] for s in report["steps"]} == {"failed"}
    assert "no address of the instance is known without the inventory" in step_of(report, "first")["reason"]
    assert step.traces[instance_id] == ["x"]
    assert world.inventory.items[instance_id].state == "running"
    dry = world.operate(instance_id, dry_run=True)
    assert step_of(dry, "first")["status"] == "done"  # a dry run removes nothing, and tells what it can
    assert dry["errors"] == ["inventory: no connection"]


def test_with_the_inventory_unreadable_the_first_step_that_fails_is_the_last() -> None:
    world, first, last = two()
    instance_id = dead(world)
    last.traces[instance_id] = ["x"]
    first.facts[instance_id] = Facts("first", private_ips=("10.0.0.4",))
    first.fault = lambda act: fail() if act == "find" else None
    world.inventory.fault = lambda operation: fail() if operation == "recall" else None
    (report,) = world.send_batch(world.terminated(instance_id)).reports.values()
    assert "waits: first failed" in step_of(report, "last")["reason"]
    assert last.traces[instance_id] == ["x"]


@pytest.mark.parametrize("operation", ["recall", "remember_terminated"])
def test_a_step_that_has_to_wait_keeps_what_only_another_knows_while_the_inventory_is_down(operation: str) -> None:
    """Consul counts the agent as alive for a while, as a rule; the address is the Chef node's word alone."""

    class Waiting(FakeStep):
        waits = True

        def find(self, batch: Batch) -> Mapping[str, Finding]:
            found = super().find(batch)
            alive = Finding(errors=(StillAlive("its Consul agent is alive"),))
            return dict.fromkeys(batch.instances, alive) if self.waits else found

    chef, consul = FakeStep(), Waiting()
    world = World(zones=False, more_steps=[factory(chef, "chef"), factory(consul, "consul")])
    instance_id = dead(world, recorded=False)
    world.ec2.forget(instance_id)
    chef.facts[instance_id] = Facts("chef", private_ips=("10.0.0.4",))
    chef.traces[instance_id], consul.traces[instance_id] = ["node web-1"], ["locks/a"]
    world.inventory.fault = lambda now: fail() if now == operation else None
    (report,) = world.send_batch(world.terminated(instance_id)).reports.values()
    assert step_of(report, "consul")["reason"] == "its Consul agent is alive"
    assert step_of(report, "chef")["reason"].startswith("waits: consul failed")
    assert chef.traces[instance_id] == ["node web-1"]
    world.inventory.fault, consul.waits = (lambda *_: None), False
    assert world.send_batch(world.terminated(instance_id)).failed == ()
    assert consul.seen["find"].instances[instance_id].private_ips == ("10.0.0.4",)
    assert (chef.traces[instance_id], consul.traces[instance_id]) == ([], [])


def test_an_item_of_the_inventory_does_not_grow_without_end() -> None:
    world, first, last = two()
    instance_id = dead(world)
    last.fault = fail
    for _ in range(4):
        first.traces[instance_id] = [f"x{n}" for n in range(HISTORY // 3)]
        world.operate(instance_id)
    assert len(world.inventory.items[instance_id].removed) == HISTORY


def test_an_item_that_expired_meanwhile_is_made_whole() -> None:
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


def test_garbage_that_a_system_holds_for_one_instance_harms_no_other() -> None:
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
