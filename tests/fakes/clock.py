"""Simulated time for threads: waits return immediately, and computation takes no simulated time."""

from __future__ import annotations

import contextvars
import heapq
import itertools
import threading
from collections import deque
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

_START = 1_772_366_400.0  # 2026-03-01, 12:00 UTC


class Clock:
    """Runs one thread at a time, the one that is due first, so that results are the same on every machine.

    Attributes:
        now: seconds since 1970.
        passed: called after each change of the clock.
    """

    def __init__(self) -> None:
        self.now = _START
        self.passed: Callable[[], None] = lambda: None
        self._waiting: list[tuple[float, int, threading.Event]] = []
        self._order = itertools.count()

    def sleep(self, seconds: float) -> None:
        """Lets this many seconds pass for the current thread."""
        turn = self._turn(seconds)
        self._run_next()
        turn.wait()

    def together(self, jobs: Sequence[Callable[[], None]], workers: int | None = None, /) -> None:
        """Runs the jobs in parallel, like the function's own ``side_by_side``."""
        if not jobs:
            return
        waiting = deque((contextvars.copy_context(), job) for job in jobs)
        errors: list[BaseException] = []
        running = min(workers or len(jobs), len(jobs))
        ended = threading.Event()

        def work(turn: threading.Event) -> None:
            nonlocal running
            turn.wait()
            while waiting:
                context, job = waiting.popleft()
                try:
                    context.run(job)
                except BaseException as error:  # raised to the caller
                    errors.append(error)
            running -= 1
            if not running:
                heapq.heappush(self._waiting, (self.now, next(self._order), ended))
            self._run_next()

        threads = [threading.Thread(target=work, args=(self._turn(0),), daemon=True) for _ in range(running)]
        for thread in threads:
            thread.start()
        self._run_next()
        ended.wait()
        if errors:
            raise errors[0]

    def _turn(self, seconds: float) -> threading.Event:
        turn = threading.Event()
        heapq.heappush(self._waiting, (self.now + seconds, next(self._order), turn))
        return turn

    def _run_next(self) -> None:
        self.now, _, turn = heapq.heappop(self._waiting)
        self.passed()
        turn.set()
