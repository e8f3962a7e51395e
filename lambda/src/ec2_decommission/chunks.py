"""Pieces of a sequence: ``itertools.batched`` for Python 3.11."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

T = TypeVar("T")


def chunks(values: Iterable[T], size: int) -> Iterator[list[T]]:
    """Lists of at most ``size`` values, in order."""
    everything = list(values)
    for start in range(0, len(everything), size):
        yield everything[start : start + size]
