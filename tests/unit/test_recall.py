"""What the inventory and EC2 know of the instances of an invocation, and which answer counts."""

from __future__ import annotations

import pytest

from ec2_decommission.clients.ec2 import Description
from ec2_decommission.errors import TransientError
from ec2_decommission.instance import Facts, Instance
from ec2_decommission.inventory import RUNNING, TERMINATED, Record
from ec2_decommission.place import Place
from ec2_decommission.recall import Known, recall
from ec2_decommission.together import in_turn
from tests.fakes.ec2 import ACCOUNT, REGION, FakeEc2
from tests.fakes.inventory import FakeInventory

HOME = Place(ACCOUNT, REGION)
MEMBER = Place("222222222222", "eu-west-1")


def fail(_: str) -> None:
    raise TransientError("no")


def ask(ec2: dict[Place, FakeEc2], inventory: FakeInventory | None, **places: Place) -> Known:
    ids = {instance_id.replace("_", "-"): place for instance_id, place in places.items()}
    return recall(ids, (), ec2, inventory, in_turn)


def test_empty_batch_sends_no_call() -> None:
    ec2, inventory = FakeEc2(), FakeInventory()
    recall({}, (), {HOME: ec2}, inventory, in_turn)
    assert ec2.calls.total() == inventory.calls.total() == 0


def test_each_place_is_asked_about_its_own_instances_only() -> None:
    here, there = FakeEc2(HOME), FakeEc2(MEMBER)
    mine, other = here.launch("web-1"), there.launch("web-1")
    known = recall({mine: HOME, other: MEMBER}, (), {HOME: here, MEMBER: there}, None, in_turn)
    assert {i: d.facts.account_id for i, d in known.descriptions.items()} == {mine: ACCOUNT, other: "222222222222"}
    assert here.calls == there.calls == {"DescribeInstances": 1}
    assert known.elsewhere == {}


def test_error_fails_only_instances_that_need_the_answer() -> None:
    here, there, inventory = FakeEc2(HOME), FakeEc2(MEMBER), FakeInventory()
    mine, other = here.launch("web-1"), there.launch("web-1")
    there.fault = inventory.fault = fail
    known = recall({mine: HOME, other: MEMBER}, (), {HOME: here, MEMBER: there}, inventory, in_turn)
    assert [str(e) for e in known.errors(mine)] == ["inventory: no"]
    assert [str(e) for e in known.errors(other)] == ["inventory: no", "ec2: no"]
    assert known.ec2_error(mine) is None
    assert known.instance(mine).private_ips


def test_an_instance_that_is_recorded_in_another_place_is_elsewhere() -> None:
    here, there, inventory = FakeEc2(HOME), FakeEc2(MEMBER), FakeInventory()
    inventory.remember_running([Instance("i-1", account_id=MEMBER.account_id, region=MEMBER.region)], {})
    known = recall({"i-1": HOME}, (), {HOME: here, MEMBER: there}, inventory, in_turn)
    assert known.elsewhere == {"i-1": MEMBER}


@pytest.mark.parametrize("asked", ["without a place", "with a place"])
def test_without_a_place_an_unknown_id_is_looked_for_everywhere(asked: str) -> None:
    here, there = FakeEc2(HOME), FakeEc2(MEMBER)
    other = there.launch("web-1")
    anywhere = [other] if asked == "without a place" else []
    known = recall({other: HOME}, anywhere, {HOME: here, MEMBER: there}, None, in_turn)
    assert known.elsewhere == ({other: MEMBER} if anywhere else {})
    assert (known.descriptions, there.calls.total()) == ({}, len(anywhere))
    there.fault = fail
    known = recall({other: HOME}, anywhere, {HOME: here, MEMBER: there}, None, in_turn)
    assert (known.ec2_error(other) is not None) == bool(anywhere)


def known_as(state: str | None, *, ran: bool = True) -> Known:
    known = Known({"i-1": HOME})
    if state:
        facts = Facts("ec2", tags={"Name": "new"}, region=REGION, private_ips=("10.0.0.9",))
        known.descriptions = {"i-1": Description("i-1", state, facts)}
    recorded = Facts("inventory", private_ips=("10.0.0.5",), tags={"Name": "old", "Role": "db"}, ran=True)
    known.records = {"i-1": Record("i-1", RUNNING, recorded)} if ran else {}
    return known


def test_ec2_takes_precedence_over_the_inventory() -> None:
    instance = known_as("terminated").instance("i-1")
    assert instance.tags == {"Name": "new", "Role": "db"}
    assert instance.tag_values("Name") == ("new", "old")
    assert instance.private_ips == ("10.0.0.9", "10.0.0.5")
    assert (instance.place, instance.ran, instance.sources) == (HOME, True, ("ec2", "inventory"))


def test_the_address_of_an_ended_instance_that_never_ran_proves_nothing() -> None:
    instance = known_as("terminated", ran=False).instance("i-1")
    assert (instance.addresses, instance.tags, instance.ran) == ((), {"Name": "new"}, False)
    assert known_as("running", ran=False).instance("i-1").private_ips == ("10.0.0.9",)


@pytest.mark.parametrize(
    ("state", "told"),
    [
        ("running", "running"),
        ("stopped", "stopped"),
        ("shutting-down", "shutting-down"),
        ("terminated", TERMINATED),
        (None, TERMINATED),
    ],
)
def test_the_state_in_the_report(state: str | None, told: str) -> None:
    assert known_as(state).instance("i-1").state == told
