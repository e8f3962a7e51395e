"""Which instances are handled at all, and whose word counts."""

from __future__ import annotations

import pytest

from ec2_decommission.clients.ec2 import Description
from ec2_decommission.config import InstanceFilter
from ec2_decommission.errors import TransientError
from ec2_decommission.events import Request
from ec2_decommission.identity import Facts, Instance
from ec2_decommission.recall import Known, recall, unwanted
from ec2_decommission.together import in_turn
from tests.fakes.ec2 import FakeEc2
from tests.fakes.inventory import FakeInventory


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
