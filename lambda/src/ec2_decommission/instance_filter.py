"""``instance_filter``: selects the instances to handle by their tags."""

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
    """Returns whether the filter names any tag."""
    return bool(instance_filter.include_tags or instance_filter.exclude_tags)


def excluded(instance: Instance, instance_filter: InstanceFilter, *, tags_known: bool) -> str | None:
    """Returns why the filter excludes this instance; None if it does not.

    Args:
        tags_known: whether ``instance.tags`` is complete. A tag may have been added since the tags were read, and
            EC2 drops the tags of a terminated instance. A missing tag then proves nothing, in either direction.
    """
    for key, patterns in instance_filter.exclude_tags.items():
        if _matches(instance.tags.get(key), patterns):
            return f"instance_filter.exclude_tags excludes it by tag {key}={instance.tags[key]}"
    if names_tags(instance_filter) and not tags_known:
        return (
            f"instance_filter names tags, but the tags of {instance.instance_id} are not known: EC2 no longer shows "
            "them all, and they may have changed since they were recorded"
        )
    for key, patterns in instance_filter.include_tags.items():
        if key not in instance.tags:
            return f"instance_filter.include_tags requires tag {key}, which {instance.instance_id} does not have"
        if not _matches(instance.tags[key], patterns):
            return f"instance_filter.include_tags does not include tag {key}={instance.tags[key]}"
    return None


def tags_known(record: Record | None, description: Description | None) -> bool:
    """Returns whether record and description together show all tags that the instance had at its end.

    While an instance lives, EC2 shows all tags. The description of a terminated instance may have lost some: it
    counts if it has every recorded tag. Without a description, the recorded tags count if they were read by a sweep
    or at the instance's end. Those read at the ``running`` event do not count, because tags are often added later.
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
    """``*`` matches any text; every other character matches itself."""
    regexes = (".*".join(re.escape(part) for part in pattern.split("*")) for pattern in patterns)
    return value is not None and any(re.fullmatch(regex, value, re.DOTALL) for regex in regexes)
