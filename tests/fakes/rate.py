"""The shared bucket in process, held to the one in DynamoDB by tests/conformance/test_shared_rate.py."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

    from ec2_decommission.errors import DecommissionError


class MemoryBucket:
    """What all environments of a test take from.

    Attributes:
        full_at: when the bucket is full again.
        calls: how often it was asked.
        before: called before each answer, for the time that it takes.
        fault: what each call raises.
    """

    def __init__(self, per_second: float, now: Callable[[], float]) -> None:
        self.per_second = per_second
        self.full_at = 0.0
        self.calls = 0
        self.before: Callable[[], None] = lambda: None
        self.fault: DecommissionError | None = None
        self._now = now

    def take(self, tokens: int, longest: float) -> float:
        """As the protocol says."""
        now = self._now()
        self.calls += 1
        self.before()
        if self.fault:
            raise self.fault
        full_at = max(self.full_at, now) + tokens / self.per_second
        if full_at - now <= longest:
            self.full_at = full_at
        return full_at - now
