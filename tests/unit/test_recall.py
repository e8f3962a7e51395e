"""Which instances are handled at all, and whose word counts."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

import pytest

from ec2_decommission.clients.chef import ChefNode
from ec2_decommission.clients.ec2 import Description
from ec2_decommission.config import ChefSettings, InstanceFilter
from ec2_decommission.errors import TransientError
from ec2_decommission.events import Request
from ec2_decommission.identity import Facts, Instance
from ec2_decommission.recall import Known, Wanted, recall, unwanted
from ec2_decommission.templates import Template
from ec2_decommission.together import in_turn
from tests.fakes.ec2 import FakeEc2
from tests.fakes.inventory import FakeInventory
from tests.fakes.steps import FakeStep, factory
from tests.fakes.world import World

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence


@pytest.mark.parametrize(
    ("include", "exclude", "tags", "handled"),
    [
        ({}, {}, {}, True),
        ({"team": ("web",)}, {}, {"team": "web"}, True),
        ({"team": ("web",)}, {}, {"team": "Web"}, False),
        ({"team": ("web",)}, {}, {}, False),
        ({"team": ("web", "db")}, {}, {"team": "db"}, True),
        ({"team": ("web*",)}, {}, {"team": "web-eu"}, True),
        ({"team": ("*web",)}, {}, {"team": "a web"}, True),
        ({"team": ("*",)}, {}, {"team": ""}, True),
        ({"team": ("web",), "env": ("prod",)}, {}, {"team": "web"}, False),
        ({}, {"keep": ("yes",)}, {"keep": "yes"}, False),
        ({}, {"keep": ("yes",)}, {"keep": "no"}, True),
        ({}, {"keep": ("*",)}, {"keep": "x"}, False),
        ({}, {"keep": ("*",)}, {}, True),
        ({"team": ("web",)}, {"keep": ("yes",)}, {"team": "web", "keep": "yes"}, False),
        # Only the star means anything else than itself.
        ({}, {"keep": ("a[b]",)}, {"keep": "a[b]"}, False),
        ({}, {"keep": ("a[b]",)}, {"keep": "ab"}, True),
        ({"team": ("w?b",)}, {}, {"team": "web"}, False),
        ({"team": ("w?b",)}, {}, {"team": "w?b"}, True),
        ({"team": ("a.c",)}, {}, {"team": "abc"}, False),
        ({"team": ("a*",)}, {}, {"team": "a\nb"}, True),
    ],
)
def test_the_filter(
    include: dict[str, tuple[str, ...]], exclude: dict[str, tuple[str, ...]], tags: dict[str, str], handled: bool
) -> None:
    reason = unwanted(Instance("i-1", tags=tags), InstanceFilter(include, exclude))
    assert (reason is None) is handled
    assert handled or "instance_filter" in str(reason)


def test_asks_nobody_about_nobody() -> None:
    ec2, inventory = FakeEc2(), FakeInventory()
    recall(set(), ec2, inventory, InstanceFilter(), in_turn)
    assert ec2.calls.total() == inventory.calls.total() == 0


def test_one_that_does_not_answer_is_noted_and_the_other_is_asked() -> None:
    def fail(_: str) -> None:
        raise TransientError("no")

    ec2, inventory = FakeEc2(), FakeInventory()
    instance_id = ec2.launch("web-1")
    inventory.fault = fail
    known = recall({instance_id}, ec2, inventory, InstanceFilter(), in_turn)
    assert ([str(e) for e in known.errors], set(known.descriptions)) == (["inventory: no"], {instance_id})
    inventory.fault, ec2.fault = (lambda *_: None), fail
    inventory.remember_running([Instance(instance_id)])
    known = recall({instance_id}, ec2, inventory, InstanceFilter(), in_turn)
    assert ([str(e) for e in known.errors], set(known.records)) == (["ec2: no"], {instance_id})
    assert known.ec2_error is known.errors[0]
    assert known.ec2_error.kind == "transient"


def known_as(state: str | None) -> Known:
    known = Known(InstanceFilter())
    if state:
        known.descriptions = {"i-1": Description("i-1", state, Facts("ec2", tags={"Name": "new"}, region="r"))}
    inventory = FakeInventory()
    inventory.remember_terminated([Instance("i-1", private_ips=("10.0.0.5",), tags={"Name": "old", "Role": "db"})])
    known.records = inventory.items
    return known


def test_ec2s_word_goes_before_the_inventorys_and_the_events_comes_last() -> None:
    instance = known_as("terminated").instance(Request("terminated", "i-1", account_id="1", region="x"))
    assert instance.tags == {"Name": "new", "Role": "db"}
    assert instance.private_ips == ("10.0.0.5",)
    assert (instance.account_id, instance.region) == ("1", "r")
    assert instance.sources == ("ec2", "inventory", "event")


@pytest.mark.parametrize(
    ("kind", "state", "told"),
    [
        ("terminated", "terminated", "terminated"),
        ("terminated", "running", "terminated"),
        ("terminated", None, "terminated"),
        ("operator", "running", "running"),
        ("operator", "stopped", "stopped"),
        ("operator", "shutting-down", "shutting-down"),
        ("operator", "terminated", "terminated"),
        ("operator", None, "terminated"),
    ],
)
def test_the_state_that_is_told(kind: str, state: str | None, told: str) -> None:
    assert known_as(state).instance(Request(kind, "i-1")).state == told


# By name

NAME = Template("{tag:Name}")
NOW = datetime(2026, 3, 1, tzinfo=UTC)


def dead_and_recorded(ec2: FakeEc2, inventory: FakeInventory, name: str = "web-1") -> str:
    instance_id = ec2.launch(name)
    inventory.remember_running([ec2.describe([instance_id])[instance_id].instance()])
    ec2.terminate(instance_id)
    ec2.calls.clear()
    return instance_id


def by_name(ids: set[str], ec2: FakeEc2, inventory: FakeInventory | None, template: Template = NAME) -> Known:
    return recall(ids, ec2, inventory, InstanceFilter(), in_turn, Wanted(template, ids, NOW))


def test_one_question_tells_what_they_are_and_who_has_their_names() -> None:
    ec2, inventory = FakeEc2(), FakeInventory()
    instance_id = dead_and_recorded(ec2, inventory)
    living = ec2.launch("Web-1")
    known = by_name({instance_id}, ec2, inventory)
    assert known.descriptions[instance_id].state == "terminated"
    assert known.descriptions[instance_id].facts.tags == {"Name": "web-1"}
    assert set(known.descriptions) == {instance_id}
    assert known.namesakes is not None
    assert {d.instance_id for d in known.namesakes.descriptions if d.lives} == {living}
    assert ec2.calls.total() == 1


@pytest.mark.parametrize("fault", ["renamed", "tags gone", "forgotten"])
def test_who_is_not_in_that_answer_is_asked_for_by_id(fault: str) -> None:
    ec2, inventory = FakeEc2(), FakeInventory()
    instance_id = dead_and_recorded(ec2, inventory)
    if fault == "renamed":
        ec2.tag(instance_id, Name="web-9")
    elif fault == "tags gone":
        ec2.forget_tags(instance_id)
    else:
        ec2.forget(instance_id)
    known = by_name({instance_id}, ec2, inventory)
    tags = {i: description.facts.tags for i, description in known.descriptions.items()}
    assert (
        tags == {"renamed": {instance_id: {"Name": "web-9"}}, "tags gone": {instance_id: {}}, "forgotten": {}}[fault]
    )
    assert ec2.calls.total() == 2


def test_an_event_that_is_not_true_is_seen_in_that_answer_too() -> None:
    ec2, inventory = FakeEc2(), FakeInventory()
    instance_id = ec2.launch("web-1")
    inventory.remember_running([ec2.describe([instance_id])[instance_id].instance()])
    assert by_name({instance_id}, ec2, inventory).descriptions[instance_id].lives


def test_names_come_from_the_inventory_alone() -> None:
    ec2, inventory = FakeEc2(), FakeInventory()
    instance_id = dead_and_recorded(ec2, inventory)
    cases = {
        "no inventory": by_name({instance_id}, ec2, None),
        "not recorded": by_name({instance_id}, ec2, FakeInventory()),
        "no such tag": by_name({instance_id}, ec2, inventory, Template("{tag:Role}")),
        "no filter of EC2's": by_name({instance_id}, ec2, inventory, Template("{tag:Name}-{region}")),
    }
    inventory.fault = lambda *_: (_ for _ in ()).throw(TransientError("no"))
    cases["inventory out of reach"] = by_name({instance_id}, ec2, inventory)
    for case, known in cases.items():
        assert (known.namesakes, set(known.descriptions)) == (None, {instance_id}), case
    assert ec2.calls.total() == len(cases)


def test_many_are_asked_for_by_id_while_the_inventory_is_read() -> None:
    ec2, inventory, order = FakeEc2(), FakeInventory(), []
    ids = {dead_and_recorded(ec2, inventory, f"web-{n}") for n in range(201)}

    def backwards(jobs: Sequence[Callable[[], None]]) -> None:
        order.append(len(jobs))
        in_turn(jobs[::-1])

    known = recall(ids, ec2, inventory, InstanceFilter(), backwards, Wanted(NAME, ids, NOW))
    assert (known.namesakes, set(known.descriptions), order) == (None, ids, [2])


def test_ec2_that_does_not_answer_by_name_does_not_answer() -> None:
    ec2, inventory = FakeEc2(), FakeInventory()
    instance_id = dead_and_recorded(ec2, inventory)
    ec2.fault = lambda *_: (_ for _ in ()).throw(TransientError("no"))
    known = by_name({instance_id}, ec2, inventory)
    assert (str(known.ec2_error), known.descriptions) == ("ec2: no", {})


# Through the function

CHEF = ChefSettings("https://chef", "decommission", node_name=NAME)


def ended(world: World) -> str:
    instance_id = world.launch("web-1", "10.0.0.5")
    world.send(world.running(instance_id))
    world.chef.node_objects["web-1"] = ChefNode("web-1", instance_id)
    world.chef.client_names.add("web-1")
    world.ec2.terminate(instance_id)
    world.ec2.calls.clear()
    return instance_id


def test_a_termination_takes_two_calls_to_ec2() -> None:
    world = World(chef=CHEF)
    assert world.send_batch(world.terminated(ended(world))).failed == ()
    assert (world.chef.node_objects, world.chef.client_names) == ({}, set())
    assert dict(world.ec2.calls) == {"DescribeInstances": 1, "DescribeNetworkInterfaces": 1}


def test_a_living_namesake_keeps_its_client() -> None:
    world = World(chef=CHEF)
    instance_id = ended(world)
    world.ec2.launch("WEB-1", "10.0.0.6")
    assert world.send_batch(world.terminated(instance_id)).failed == ()
    assert (world.chef.node_objects, world.chef.client_names) == ({}, {"web-1"})
    assert world.ec2.calls["DescribeInstances"] == 1


@pytest.mark.parametrize(("seconds", "calls", "left"), [(5, 1, set()), (6, 2, {"web-1"})])
def test_what_ec2_said_of_the_living_counts_for_five_seconds(seconds: int, calls: int, left: set[str]) -> None:
    slow = FakeStep()
    world = World(chef=CHEF, more_steps=[factory(slow, "slow")])
    instance_id = ended(world)

    def take_over(act: str) -> None:
        if act == "look":
            world.later(timedelta(seconds=seconds))
            world.ec2.launch("web-1", "10.0.0.6")

    slow.fault = take_over
    assert world.send_batch(world.terminated(instance_id)).failed == ()
    assert (world.ec2.calls["DescribeInstances"], world.chef.client_names) == (calls, left)


def test_a_chef_step_that_deletes_no_client_asks_nothing_by_name() -> None:
    world = World(chef=replace(CHEF, delete_client=False))
    instance_id = ended(world)
    assert world.send_batch(world.terminated(instance_id)).failed == ()
    assert (world.chef.client_names, world.ec2.calls["DescribeInstances"]) == ({"web-1"}, 1)
