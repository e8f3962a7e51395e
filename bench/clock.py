"""Simulated time: workers that sleep, and a clock that goes on when all of them do."""

from __future__ import annotations

import heapq
import threading
from collections.abc import Callable, Sequence


class SimulatedTime:
    """Seconds that pass only while every worker sleeps; what a worker computes takes none."""

    def __init__(self) -> None:
        self._now = 0.0
        self._lock = threading.Lock()
        self._awake = 0
        self._serial = 0
        self._sleeping: list[tuple[float, int, threading.Event]] = []

    def now(self) -> float:
        """Seconds since the beginning."""
        return self._now

    def sleep(self, seconds: float) -> None:
        """Sleeps in a worker."""
        if seconds <= 0:
            return
        due = threading.Event()
        with self._lock:
            self._serial += 1
            heapq.heappush(self._sleeping, (self._now + seconds, self._serial, due))
            self._awake -= 1
            self._go_on()
        due.wait()

    def run(self, workers: Sequence[Callable[[], None]]) -> float:
        """Runs the workers side by side to their end; returns the time that it took."""
        begin = self._now
        errors: list[BaseException] = []

        def work(worker: Callable[[], None]) -> None:
            try:
                worker()
            except BaseException as error:  # told below
                errors.append(error)
            with self._lock:
                self._awake -= 1
                self._go_on()

        self._awake = len(workers)
        threads = [threading.Thread(target=work, args=(worker,)) for worker in workers]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        if errors:
            raise errors[0]
        return self._now - begin

    def _go_on(self) -> None:
        if self._awake == 0 and self._sleeping:
            self._now, _, due = heapq.heappop(self._sleeping)
            self._awake += 1
            due.set()
