"""``instance_filter``: which instances are handled, by their tags."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

    from .clients.ec2 import Description
    from .config import InstanceFilter
    from .instance import Instance
    from .inventory import Record


def names_tags(instance_filter: InstanceFilter) -> bool:
    """Whether the filter asks for any tag."""
    return bool(instance_filter.include_tags or instance_filter.exclude_tags)


def excluded(instance: Instance, instance_filter: InstanceFilter, *, tags_known: bool) -> str | None:
    """Why the filter leaves this instance alone; None if it does not.

    Args:
        tags_known: whether ``instance.tags`` are all its tags. A tag may have been added since they were read, and
            EC2 drops the tags of a terminated instance: a missing tag then proves nothing, in either direction.
    """
    for key, patterns in instance_filter.exclude_tags.items():
        if _matches(instance.tags.get(key), patterns):
            return f"instance_filter.exclude_tags excludes it by tag {key}={instance.tags[key]}"
    if names_tags(instance_filter) and not tags_known:
        return (
            f"instance_filter names tags, and the tags of {instance.instance_id} are not known: EC2 no longer shows "
            "them all, and they may have changed since they were recorded"
        )
    for key, patterns in instance_filter.include_tags.items():
        if key not in instance.tags:
            return f"instance_filter.include_tags asks for tag {key}, which {instance.instance_id} does not have"
        if not _matches(instance.tags[key], patterns):
            return f"instance_filter.include_tags does not include tag {key}={instance.tags[key]}"
    return None


def tags_known(record: Record | None, description: Description | None) -> bool:
    """Whether record and description together show all tags that the instance had at its end.

    While an instance lives, EC2 shows them all. A description of a terminated instance may have lost some: it counts
    if it has every tag that is on record. Without a description, the tags on record count if they were read by a
    sweep or at the end; those of the ``running`` event alone do not, because tags often come later.
    """
    if description and description.lives:
        return True
    judged_at_end = bool(record and record.terminated_at and record.tags_known_at)
    if description is None or judged_at_end:
        return bool(record and record.tags_known_at)
    recorded = record.facts.tags if record else {}
    if not description.facts.tags:
        return bool(record and record.tags_known_at and not recorded)
    return recorded.keys() <= description.facts.tags.keys()


def _matches(value: str | None, patterns: Iterable[str]) -> bool:
    """``*`` stands for any text; every other character for itself."""
    regexes = (".*".join(re.escape(part) for part in pattern.split("*")) for pattern in patterns)
    return value is not None and any(re.fullmatch(regex, value, re.DOTALL) for regex in regexes)
