"""Deep copies of plain data, several times faster than ``copy.deepcopy``."""

from __future__ import annotations

from typing import TypeVar, cast

T = TypeVar("T")


def plain_copy(value: T) -> T:
    """A copy of a tree of dicts, lists, tuples and dataclass instances. It shares other values, such as strings."""
    kind = type(value)
    if kind is str:
        return value
    if kind is dict:
        return cast("T", {key: plain_copy(item) for key, item in value.items()})  # type: ignore[attr-defined]
    if kind is list or kind is tuple:
        return kind(map(plain_copy, value))  # type: ignore[call-arg, call-overload]
    if hasattr(kind, "__dataclass_fields__"):
        copied = object.__new__(kind)
        # Past the constructor, which would check the values again.
        copied.__dict__.update({name: plain_copy(item) for name, item in value.__dict__.items()})
        return copied
    return value
