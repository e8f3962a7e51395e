"""An operator's approved plan: exactly that is removed, or less, never more."""

from __future__ import annotations

from itertools import combinations
from typing import TYPE_CHECKING, Any

import pytest

from tests.fakes.steps import FakeStep, factory
from tests.fakes.world import FORWARD, World, step_of

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

A, PTR = "A web-1.example.internal. 10.0.0.4", "PTR 4.0.0.10.in-addr.arpa. web-1.example.internal."


def dead(world: World) -> str:
    instance_id = world.launch("web-1")
    world.send(world.running(instance_id))
    world.ec2.terminate(instance_id)
    return instance_id


def only(*targets: str, step: str = "route53", action: str = "delete") -> list[dict[str, str]]:
    return [{"step": step, "action": action, "target": target} for target in targets]


def targets(report: Mapping[str, Any], step: str = "route53") -> list[str]:
    return [action["target"] for action in step_of(report, step)["actions"]]


def subsets(items: Iterable[str]) -> list[tuple[str, ...]]:
    listed = list(items)
    return [some for number in range(len(listed) + 1) for some in combinations(listed, number)]


@pytest.mark.parametrize("approved", subsets([A, PTR, "A web-9.example.internal. 10.0.0.9"]))
def test_only_approved_removals_are_made(approved: tuple[str, ...]) -> None:
    world = World()
    instance_id = dead(world)
    report = world.operate(instance_id, only=only(*approved))
    assert set(targets(report)) == set(approved) & {A, PTR}
    assert (world.a("web-1") is None, world.ptr("10.0.0.4") is None) == (A in approved, PTR in approved)
    for target in {A, PTR} - set(approved):
        assert f"{target} left: not in the approved plan" in step_of(report, "route53")["reason"]


def test_complete_dry_run_can_be_approved() -> None:
    world = World()
    instance_id = dead(world)
    dry = world.operate(instance_id, dry_run=True)
    approved = [
        {"step": step["step"], "action": action["action"], "target": action["target"]}
        for step in dry["steps"]
        for action in step["actions"]
    ]
    report = world.operate(instance_id, only=approved)
    assert targets(report) == targets(dry) == [A, PTR]


def test_an_approved_action_is_proven_again() -> None:
    world = World()
    instance_id = dead(world)
    dry = world.operate(instance_id, dry_run=True)
    world.launch("web-1", "10.0.0.4")  # the same name and address
    assert targets(world.operate(instance_id, only=only(*targets(dry)))) == []
    assert world.a("web-1") == ("10.0.0.4",)


def test_what_appeared_after_the_plan_stays() -> None:
    world = World()
    instance_id = dead(world)
    approved = only(*targets(world.operate(instance_id, dry_run=True)))
    world.zones.put(FORWARD, "web-1.example.internal", "CNAME", ["ip-10-0-0-4.ec2.internal."], SetIdentifier="x")
    before = world.zones.everything()
    report = world.operate(instance_id, only=approved)
    assert set(targets(report)) <= {A, PTR}
    assert len(before - world.zones.everything()) == len(targets(report))


@pytest.mark.parametrize("approved", [only(A, step="chef"), only(A, action="update"), only(A.upper()), only(f"{A} ")])
def test_an_approval_is_compared_exactly(approved: list[dict[str, str]]) -> None:
    world = World()
    report = world.operate(dead(world), only=approved)
    assert targets(report) == []
    assert world.a("web-1") is not None


def test_approval_applies_to_every_step() -> None:
    one, other = FakeStep(), FakeStep()
    world = World(zones=False, more_steps=[factory(one, "one"), factory(other, "other")])
    instance_id = dead(world)
    one.traces[instance_id], other.traces[instance_id] = ["x", "y"], ["x", "y"]
    report = world.operate(instance_id, only=[*only("x", step="one"), *only("y", step="other")])
    assert (targets(report, "one"), targets(report, "other")) == (["x"], ["y"])
    assert (one.traces[instance_id], other.traces[instance_id]) == (["y"], ["x"])


def test_a_dry_run_shows_what_an_approval_would_do() -> None:
    world = World()
    report = world.operate(dead(world), only=only(A), dry_run=True)
    assert targets(report) == [A]
    assert world.a("web-1") is not None


def test_unapproved_removals_are_not_retried_automatically() -> None:
    world = World()
    instance_id = dead(world)
    world.operate(instance_id, only=only(A))
    assert world.inventory.items[instance_id].finished
    assert list(world.inventory.unfinished(world.ec2.place)) == []
