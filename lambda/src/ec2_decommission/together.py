"""Jobs that wait for different systems, run in turn or side by side."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence


class Together(Protocol):
    """Runs the jobs to their end, in an order of its own, and raises what one of them raised."""

    def __call__(self, jobs: Sequence[Callable[[], None]], /) -> None: ...


def in_turn(jobs: Sequence[Callable[[], None]]) -> None:
    """One after the other."""
    for job in jobs:
        job()


def lanes(jobs: Sequence[Callable[[], None]], number: int) -> list[Callable[[], None]]:
    """Jobs of which at most ``number`` run at once: each does its part of the given ones, in turn."""
    return [partial(in_turn, jobs[lane::number]) for lane in range(min(number, len(jobs)))]


def side_by_side(jobs: Sequence[Callable[[], None]]) -> None:
    """Each in a thread of its own."""
    if len(jobs) < 2:
        in_turn(jobs)
        return
    from concurrent.futures import ThreadPoolExecutor  # noqa: PLC0415  # a start without work needs none

    with ThreadPoolExecutor(len(jobs)) as pool:
        running = [pool.submit(job) for job in jobs]
    for job in running:
        job.result()
