"""Simulated time: workers that sleep and compute, and a clock that goes on when none of them has anything to do."""

from __future__ import annotations

import heapq
import threading
from collections.abc import Callable, Sequence
from contextvars import copy_context


class SimulatedTime:
    """Seconds that pass only while every worker sleeps; what it really computes takes none."""

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

    def together(self, jobs: Sequence[Callable[[], None]]) -> None:
        """Runs jobs side by side within a worker, which waits for them."""
        errors: list[BaseException] = []
        under_way = len(jobs)

        def work(job: Callable[[], None]) -> None:
            nonlocal under_way
            try:
                job()
            except BaseException as error:  # told below
                errors.append(error)
            with self._lock:
                under_way -= 1
                if under_way:  # the last one's place is its worker's, which goes on
                    self._awake -= 1
                    self._go_on()

        with self._lock:
            self._awake += len(jobs) - 1
        threads = [threading.Thread(target=copy_context().run, args=(work, job)) for job in jobs]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        if errors:
            raise errors[0]

    def _go_on(self) -> None:
        if self._awake == 0 and self._sleeping:
            self._now, _, due = heapq.heappop(self._sleeping)
            self._awake += 1
            due.set()


class Cpu:
    """The CPU of one execution environment, which its threads share.

    Args:
        speed: the part of a whole CPU that it is.
    """

    def __init__(self, time: SimulatedTime, speed: float) -> None:
        self._time = time
        self._speed = speed
        self._free_at = 0.0
        self._lock = threading.Lock()

    def compute(self, seconds: float) -> None:
        """Computes what takes a whole CPU so many seconds, after what was begun before."""
        with self._lock:
            now = self._time.now()
            self._free_at = max(now, self._free_at) + seconds / self._speed
            wait = self._free_at - now
        self._time.sleep(wait)


class SimulatedLock:
    """A lock for threads of simulated time: who waits for it sleeps."""

    def __init__(self, time: SimulatedTime) -> None:
        self._time = time
        self._lock = threading.Lock()

    def __enter__(self) -> None:
        while not self._lock.acquire(blocking=False):
            self._time.sleep(0.001)

    def __exit__(self, *_: object) -> None:
        self._lock.release()
