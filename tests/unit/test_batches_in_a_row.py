"""Batches that follow each other, the later ones with what the first has read of the zones."""

from __future__ import annotations

from datetime import timedelta

import pytest

from tests.fakes.steps import FakeStep, factory
from tests.fakes.world import FORWARD, World, step_of


def dead(world: World, name: str, ip: str) -> str:
    instance_id = world.launch(name, ip)
    world.send(world.running(instance_id))
    world.ec2.terminate(instance_id)
    return instance_id


def test_what_takes_over_the_name_after_the_reading_stays() -> None:
    world = World()
    old, other = dead(world, "web-1", "10.0.0.5"), dead(world, "web-2", "10.0.0.6")
    world.zones.freeze()
    world.launch("web-1", "10.0.0.7")
    answered = world.send_batch(world.terminated(old), world.terminated(other))
    assert answered.failed == ()
    assert (world.a("web-1"), world.ptr("10.0.0.7")) == (("10.0.0.7",), ("web-1.example.internal.",))
    assert (world.a("web-2"), world.ptr("10.0.0.5"), world.ptr("10.0.0.6")) == (None, None, None)
    reports = {report["instance_id"]: step_of(report, "route53") for report in answered.reports.values()}
    assert "10.0.0.7 is" in reports[old]["reason"]


def test_what_takes_over_name_and_address_after_the_reading_stays() -> None:
    world = World()
    old = dead(world, "web-1", "10.0.0.5")
    world.zones.freeze()
    world.launch("web-1", "10.0.0.5")
    world.send_batch(world.terminated(old))
    assert (world.a("web-1"), world.ptr("10.0.0.5")) == (("10.0.0.5",), ("web-1.example.internal.",))


def test_of_a_set_that_two_share_each_batch_takes_its_own_value() -> None:
    world = World()
    first, last = dead(world, "web", "10.0.0.5"), dead(world, "web", "10.0.0.6")
    world.zones.put(FORWARD, "web.example.internal", "A", ["10.0.0.5", "10.0.0.6", "192.0.2.1"])
    world.zones.freeze()
    for instance_id in (first, last):
        assert world.send_batch(world.terminated(instance_id)).failed == ()
    assert world.a("web") == ("192.0.2.1",)


def test_a_second_event_finds_nothing_and_changes_nothing() -> None:
    world = World()
    instance_id = dead(world, "web-1", "10.0.0.5")
    world.zones.freeze()
    world.send_batch(world.terminated(instance_id))
    changes = len(world.zones.changes)
    (report,) = world.send_batch(world.terminated(instance_id)).reports.values()
    assert step_of(report, "route53")["status"] == "clean"
    assert (changes, len(world.zones.changes)) == (2, 2)


@pytest.mark.parametrize(
    ("waited", "after"),
    [
        (timedelta(minutes=5), timedelta(seconds=5)),  # EC2's clock may differ by so much
        (timedelta(seconds=2), timedelta(seconds=2)),  # no event tells of what is still to come
        (timedelta(), timedelta()),
    ],
)
def test_an_earlier_reading_will_do_from_the_end_of_the_last_on(waited: timedelta, after: timedelta) -> None:
    step = FakeStep()
    world = World(more_steps=[factory(step)])
    first, last = dead(world, "web-1", "10.0.0.5"), dead(world, "web-2", "10.0.0.6")
    events = [world.terminated(first)]
    world.later(timedelta(seconds=30))
    events.append(world.terminated(last))
    ended_at = world.time + after
    world.later(waited)
    world.send_batch(*events)
    assert step.seen["find"].ended_at == ended_at
    assert set(world.zones.sinces) == {ended_at}


@pytest.mark.parametrize("asks", ["operator", "event without time"])
def test_where_the_end_of_one_is_not_known_all_is_read_anew(asks: str) -> None:
    world = World()
    first, last = dead(world, "web-1", "10.0.0.5"), dead(world, "web-2", "10.0.0.6")
    if asks == "operator":
        world.operate(first)
    else:
        untimed = world.terminated(last)
        del untimed["time"]
        world.send_batch(world.terminated(first), untimed)
    assert set(world.zones.sinces) == {None}
