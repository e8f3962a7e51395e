"""The time left in an invocation, and how calls to other systems fit into it."""

from __future__ import annotations

import time
from contextlib import contextmanager
from contextvars import ContextVar
from typing import TYPE_CHECKING

from .errors import OutOfTime

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


class Deadline:
    """The time by which every call to another system must have ended.

    Args:
        remaining: returns the seconds left; may be negative.
        now: a monotonic clock, in seconds.
    """

    def __init__(self, remaining: Callable[[], float], now: Callable[[], float] = time.monotonic) -> None:
        self._remaining = remaining
        self._now = now

    @classmethod
    def after(cls, seconds: float) -> Deadline:
        """Returns a deadline that many seconds from now."""
        end = time.monotonic() + seconds
        return cls(lambda: end - time.monotonic())

    def remaining(self) -> float:
        """Seconds left; never negative."""
        return max(0.0, self._remaining())

    def check(self, needed: float, what: str = "the next call") -> None:
        """Raises OutOfTime if fewer than ``needed`` seconds are left."""
        left = self.remaining()
        if left < needed:
            raise OutOfTime(f"{left:.0f} s are left of this invocation, too few to begin {what}")

    def timeout(self, wanted: float, what: str = "the next call") -> float:
        """Returns the timeout in seconds for one call: ``wanted``, or the time left if that is less.

        Raises OutOfTime if less than a second is left, because no call is worth starting then.
        """
        self.check(1.0, what)
        return min(wanted, self.remaining())

    def before(self, seconds: float) -> Deadline:
        """Returns a deadline that many seconds earlier. The time is reserved for later work."""
        return Deadline(lambda: self._remaining() - seconds, self._now)

    def share(self, parts: int, least: float = 0.0) -> Deadline:
        """Returns the deadline for the first of ``parts`` pieces of work that share the time left.

        Args:
            parts: the number of pieces.
            least: the minimum for this piece, in seconds, if that much time is left.
        """
        left = self.remaining()
        end = self._now() + max(left / max(1, parts), min(least, left))
        return Deadline(lambda: min(self._remaining(), end - self._now()), self._now)


_current: ContextVar[Deadline] = ContextVar("deadline")


def current() -> Deadline:
    """Returns the deadline of the current work in this thread. Outside an invocation, no time is left."""
    return _current.get(None) or Deadline.after(0)


@contextmanager
def until(deadline: Deadline) -> Iterator[Deadline]:
    """Makes ``deadline`` the current one for the block.

    Example:
        >>> with until(Deadline.after(60)):
        ...     current().remaining() > 50
        True
    """
    token = _current.set(deadline)
    try:
        yield deadline
    finally:
        _current.reset(token)
