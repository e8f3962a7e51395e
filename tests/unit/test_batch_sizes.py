"""A burst through the whole function in one batch: of one, of ten, of a thousand."""

from __future__ import annotations

import pytest

from ec2_decommission.errors import TransientError
from tests.fakes.world import World
from tests.unit.test_all_steps import end, join, traces, world_of


def burst(number: int) -> tuple[World, dict[str, str]]:
    world, first = world_of("web-0")
    names = {first: "web-0"} | {join(world, f"web-{n}"): f"web-{n}" for n in range(1, number)}
    for instance_id, name in names.items():
        end(world, instance_id, name)
    return world, names


@pytest.mark.parametrize("number", [1, 10])
def test_nothing_is_left_of_a_burst(number: int) -> None:
    world, names = burst(number)
    assert world.send_batch(*map(world.terminated, names)).failed == ()
    assert not world.chef.node_objects
    assert not world.chef.client_names
    assert [name for name in names.values() if any(traces(world, name).values())] == []


@pytest.mark.parametrize("number", [2, 10, 1000])
def test_of_a_burst_the_failing_instances_message_alone_returns(number: int) -> None:
    world, names = burst(number)
    odd = list(names)[number // 2]

    def fail(operation: str, instance_id: str) -> None:
        if operation == "remember_steps" and instance_id == odd:
            raise TransientError("no connection")

    world.inventory.fault_of = fail
    answered = world.send_batch(*map(world.terminated, names))
    assert [answered.reports[message]["instance_id"] for message in answered.failed] == [odd]
    world.inventory.fault_of = lambda *_: None
    assert world.send_batch(world.terminated(odd), receive_count=2).failed == ()
    assert [name for name in names.values() if any(traces(world, name).values())] == []
