"""What a step reads ahead while the others look."""

from __future__ import annotations

from threading import Event
from typing import TYPE_CHECKING

import pytest

from ec2_decommission.errors import TransientError
from ec2_decommission.steps.route53 import _MANY
from ec2_decommission.together import in_turn, side_by_side
from tests.fakes.steps import FakeStep, factory
from tests.fakes.world import FORWARD, REVERSE, World, step_of

if TYPE_CHECKING:
    from collections.abc import Callable

    from ec2_decommission.steps.base import Batch
    from ec2_decommission.together import Together


def end(world: World, number: int) -> list[str]:
    """So many, recorded and dead, with their records."""
    ids = []
    for position in range(number):
        instance_id = world.launch(f"web-{position}", f"10.0.0.{position + 1}")
        world.send(world.running(instance_id))
        ids.append(instance_id)
    for instance_id in ids:
        world.ec2.terminate(instance_id)
    return ids


def left(world: World, number: int) -> list[str]:
    names = [f"web-{position}" for position in range(number) if world.a(f"web-{position}")]
    return names + [f"10.0.0.{n}" for n in range(1, number + 1) if world.ptr(f"10.0.0.{n}")]


class Ahead(FakeStep):
    """A step that reads ahead."""

    def __init__(self, job: Callable[[], None] | None) -> None:
        super().__init__()
        self._job = job

    def read_ahead(self, batch: Batch) -> Callable[[], None] | None:
        self._act("read_ahead", batch)
        return self._job


# The run


def test_a_step_reads_ahead_while_another_looks() -> None:
    read = Event()
    ahead, other = Ahead(read.set), FakeStep()
    waited: list[bool] = []
    other.fault = lambda act: waited.append(read.wait(10)) if act == "look" else None
    world = World(zones=False, more_steps=[factory(other, "other"), factory(ahead, "ahead")], together=side_by_side)
    (instance_id,) = end(world, 1)
    world.send_batch(world.terminated(instance_id))
    assert waited == [True]
    assert [act for act, _ in ahead.acts] == ["read_ahead", "look", "find"]
    assert ahead.seen["read_ahead"].ended_at == ahead.seen["find"].ended_at


def test_a_step_may_have_nothing_to_read_ahead() -> None:
    ahead = Ahead(None)
    world = World(zones=False, more_steps=[factory(ahead, "ahead")])
    (instance_id,) = end(world, 1)
    assert world.send_batch(world.terminated(instance_id)).failed == ()


@pytest.mark.parametrize("error", [TransientError("no connection"), ZeroDivisionError()])
def test_what_fails_while_reading_ahead_fails_nobody(error: Exception) -> None:
    def fail() -> None:
        raise error

    ahead = Ahead(fail)
    world = World(zones=False, more_steps=[factory(ahead, "ahead")])
    (instance_id,) = end(world, 1)
    ahead.traces[instance_id] = ["x"]
    answered = world.send_batch(world.terminated(instance_id))
    assert answered.failed == ()
    (report,) = answered.reports.values()
    assert step_of(report, "ahead")["status"] == "done"
    assert [line.level for line in world.log.lines if "read ahead" in str(line.message)] == [
        "info" if isinstance(error, TransientError) else "exception"
    ]


# Route 53


@pytest.mark.parametrize("together", [in_turn, side_by_side])
@pytest.mark.parametrize("number", [1, _MANY, 100])
def test_zones_are_read_ahead_for_many_and_nothing_is_read_twice(number: int, together: Together) -> None:
    world = World(together=together)
    ids = end(world, number)
    assert world.send_batch(*map(world.terminated, ids)).failed == ()
    assert left(world, number) == []
    assert {zone for zone, _ in world.zones.ahead} == ({FORWARD, REVERSE} if number >= _MANY else set())
    assert world.zones.calls["ListResourceRecordSets"] == 2


def test_a_dry_run_reads_ahead_too() -> None:
    world = World(dry_run=True)
    ids = end(world, _MANY)
    answered = world.send_batch(*map(world.terminated, ids))
    assert world.zones.ahead
    assert {step_of(report, "route53")["status"] for report in answered.reports.values()} == {"done"}
    assert len(left(world, _MANY)) == 2 * _MANY


def test_nothing_is_read_ahead_where_the_end_of_one_is_not_known() -> None:
    world = World()
    events = [world.terminated(instance_id) for instance_id in end(world, _MANY)]
    del events[0]["time"]
    assert world.send_batch(*events).failed == ()
    assert world.zones.ahead == set()


def test_a_zone_that_could_not_be_read_ahead_is_read_by_who_needs_it() -> None:
    world = World()
    ids = end(world, _MANY)
    faults = [TransientError("no connection")]

    def fail_once(operation: str, _: str) -> None:
        if operation == "ListResourceRecordSets" and faults:
            raise faults.pop()

    world.zones.fault = fail_once
    assert world.send_batch(*map(world.terminated, ids)).failed == ()
    assert left(world, _MANY) == []


def test_a_zone_that_cannot_be_read_at_all_is_told_once_for_each() -> None:
    world = World()
    ids = end(world, _MANY)

    def fail(operation: str, _: str) -> None:
        if operation == "ListResourceRecordSets":
            raise TransientError("no connection")

    world.zones.fault = fail
    answered = world.send_batch(*map(world.terminated, ids))
    assert len(answered.failed) == _MANY
    assert {step_of(report, "route53")["reason"] for report in answered.reports.values()} == {"no connection"}


def test_what_is_written_between_reading_ahead_and_removing_stays() -> None:
    """A replacement takes over the name with its own address, after the zone was read."""
    world = World()
    ids = end(world, _MANY)

    def take_over(operation: str, _: str) -> None:
        if operation == "ChangeResourceRecordSets" and world.a("web-0") == ("10.0.0.1",):
            world.zones.put(FORWARD, "web-0.example.internal", "A", ["10.0.9.9"])

    world.zones.fault = take_over
    assert world.send_batch(*map(world.terminated, ids)).failed == ()
    assert world.a("web-0") == ("10.0.9.9",)
    assert [name for name in left(world, _MANY) if name != "web-0"] == []
