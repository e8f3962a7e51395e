"""Runs jobs that wait for different systems, one after the other or concurrently."""

from __future__ import annotations

import contextvars
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence


class Together(Protocol):
    """Runs all jobs to completion, in any order, and raises the error of the first one that failed."""

    def __call__(self, jobs: Sequence[Callable[[], None]], workers: int | None = None, /) -> None: ...


def in_turn(jobs: Sequence[Callable[[], None]], workers: int | None = None) -> None:  # noqa: ARG001
    """Runs the jobs one after the other."""
    for job in jobs:
        job()


def side_by_side(jobs: Sequence[Callable[[], None]], workers: int | None = None) -> None:
    """Runs the jobs in at most ``workers`` threads (default: one per job), with the caller's context variables."""
    if len(jobs) < 2:
        in_turn(jobs)
        return
    with ThreadPoolExecutor(min(workers or len(jobs), len(jobs))) as pool:
        running = [pool.submit(contextvars.copy_context().run, job) for job in jobs]
    for job in running:
        job.result()
