"""Which instances are handled, by their tags, and what counts as knowing the tags."""

from __future__ import annotations

import pytest

from ec2_decommission.clients.ec2 import Description
from ec2_decommission.config import InstanceFilter
from ec2_decommission.instance import Facts, Instance
from ec2_decommission.instance_filter import excluded, tags_known
from ec2_decommission.inventory import RUNNING, TERMINATED, Record

Patterns = dict[str, tuple[str, ...]]


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
        # Every character but the star stands for itself.
        ({}, {"keep": ("a[b]",)}, {"keep": "a[b]"}, False),
        ({}, {"keep": ("a[b]",)}, {"keep": "ab"}, True),
        ({"team": ("w?b",)}, {}, {"team": "web"}, False),
        ({"team": ("w?b",)}, {}, {"team": "w?b"}, True),
        ({"team": ("a.c",)}, {}, {"team": "abc"}, False),
        ({"team": ("a*",)}, {}, {"team": "a\nb"}, True),
    ],
)
def test_the_filter(include: Patterns, exclude: Patterns, tags: dict[str, str], handled: bool) -> None:
    reason = excluded(Instance("i-1", tags=tags), InstanceFilter(include, exclude), tags_known=True)
    assert (reason is None) is handled
    assert handled or "instance_filter" in str(reason)


@pytest.mark.parametrize(
    ("instance_filter", "tags", "reason"),
    [
        (InstanceFilter(), {}, None),
        (InstanceFilter(exclude_tags={"keep": ("*",)}), {}, "are not known"),
        (InstanceFilter(exclude_tags={"keep": ("*",)}), {"keep": "x"}, "excludes it by tag keep=x"),
        (InstanceFilter(include_tags={"team": ("web",)}), {"team": "web"}, "are not known"),
        (InstanceFilter(include_tags={"team": ("web",)}), {}, "are not known"),
    ],
)
def test_tags_that_are_not_known_exclude_in_both_directions(
    instance_filter: InstanceFilter, tags: dict[str, str], reason: str | None
) -> None:
    told = excluded(Instance("i-1", tags=tags), instance_filter, tags_known=False)
    assert (told is None) if reason is None else (reason in str(told))


def record(state: str, *, seen: bool, **tags: str) -> Record:
    ended = "2026-01-02" if state == TERMINATED else None
    facts = Facts("inventory", tags=tags)
    return Record("i-1", state, facts, terminated_at=ended, tags_known_at="2026-01-01" if seen else None)


def described(state: str, **tags: str) -> Description:
    return Description("i-1", state, Facts("ec2", tags=tags))


@pytest.mark.parametrize(
    ("recorded", "description", "known"),
    [
        # EC2 shows all tags of what lives.
        (None, described("running"), True),
        (record(RUNNING, seen=False, Name="a"), described("stopped"), True),
        # It drops tags after the end, all at once or some at a time.
        (None, described("terminated"), False),
        (None, described("terminated", Name="a"), True),
        (record(RUNNING, seen=False, Name="a"), described("terminated", Name="a", keep="x"), True),
        (record(RUNNING, seen=False, Name="a"), described("terminated"), False),
        (record(RUNNING, seen=True, Name="a"), described("terminated"), False),
        (record(RUNNING, seen=True, Name="a", env="p"), described("terminated", Name="a"), False),
        (record(RUNNING, seen=False), described("terminated"), False),
        (record(RUNNING, seen=True), described("terminated"), True),
        # What was read at the end counts for every retry.
        (record(TERMINATED, seen=True, Name="a"), described("terminated"), True),
        (record(TERMINATED, seen=False, Name="a"), described("terminated"), False),
        (record(TERMINATED, seen=False, Name="a"), described("terminated", Name="a"), True),
        # EC2 has forgotten the instance.
        (None, None, False),
        (record(RUNNING, seen=False, Name="a"), None, False),
        (record(RUNNING, seen=True, Name="a"), None, True),
        (record(TERMINATED, seen=True, Name="a"), None, True),
    ],
)
def test_when_the_tags_are_known(recorded: Record | None, description: Description | None, known: bool) -> None:
    assert tags_known(recorded, description) is known
