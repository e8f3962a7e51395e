"""EC2 filters that find the instances for which a name template gives one of several names."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from .chunks import chunks
from .clients.ec2 import FILTER_VALUES

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence, Set

    from .templates import Template


def name_filters(template: Template, names: Set[str]) -> Sequence[Mapping[str, Iterable[str]]]:
    """Returns filters that match every instance for which the template gives one of the names.

    They may match more, but never fewer: compare the rendered name afterward. For a template with several
    placeholders, the filter matches one tag that the template needs, or all instances.

    Args:
        names: in lower case; at least one.

    Example:
        >>> from ec2_decommission.templates import Template
        >>> name_filters(Template("{private_ip_dashed}.internal"), {"10-0-0-5.internal"})
        [{'private-ip-address': ['10.0.0.5']}]
    """
    values = _values(template, names) if len(template.placeholders) == 1 else None
    filters = _by_value(template.placeholders[0], values) if values is not None else None
    if filters is not None:
        return [{name: some} for name, wanted in filters.items() for some in chunks(sorted(wanted), FILTER_VALUES)]
    tags = [v.removeprefix("tag:") for v in template.variables if v.startswith("tag:")]
    return [{"tag-key": tags[:1]} if tags else {}]


def _values(template: Template, names: Iterable[str]) -> set[str]:
    """Returns the values that the template's only placeholder has in these names."""
    before, after = re.split(r"\{[^{}]*\}", template.text.lower())
    return {
        name[len(before) : len(name) - len(after)]
        for name in names
        if name.startswith(before) and name.endswith(after) and len(name) > len(before) + len(after)
    }


def _by_value(placeholder: str, values: set[str]) -> Mapping[str, set[str]] | None:
    """Returns the EC2 filter for a placeholder's values; None if no filter is sure to find them."""
    if placeholder.startswith("tag:"):
        # Filters are case-sensitive, but names are not. So each letter becomes EC2's wildcard for one character, and
        # so does anything EC2 could read as a wildcard. Outside ASCII, a lower-case letter may be two characters.
        return {placeholder: {re.sub(r"[^0-9._-]", "?", v) if v.isascii() else "*" for v in values}}
    if placeholder == "instance_id":
        return {"instance-id": values}
    if placeholder == "private_ip":
        return {"private-ip-address": values}
    if placeholder == "private_ip_dashed":
        return {"private-ip-address": {value.replace("-", ".") for value in values}}
    # EC2 has two kinds of private DNS name: by address, and by instance id.
    # https://docs.aws.amazon.com/AWSEC2/latest/UserGuide/hostname-types.html
    filters: dict[str, set[str]] = {}
    for value in values:
        label = value.split(".")[0]
        if match := re.fullmatch(r"ip-(\d+-\d+-\d+-\d+)", label):
            filters.setdefault("private-ip-address", set()).add(match[1].replace("-", "."))
        elif re.fullmatch(r"i-[0-9a-f]+", label):
            filters.setdefault("instance-id", set()).add(label)
        else:
            return None
    return filters
