"""Keeps this execution environment's calls of one service below its share of the account's rate."""

from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING, Any

from ..errors import OutOfTime
from .aws import THROTTLED

if TYPE_CHECKING:
    from collections.abc import Callable

    from ..deadline import Deadline

# The account's bucket holds five seconds of its rate (50 requests, 10 a second), and so does each share of it.
# https://docs.aws.amazon.com/Route53/latest/DeveloperGuide/DNSLimitations.html
BURST_SECONDS = 5.0
# Down to this part of the share a governor goes when AWS throttles all the same, because others use up the account's.
_LEAST = 1 / 8
_RECOVERY = 1.1  # by which the rate grows again with each call that is not throttled


class Governor:
    """A token bucket that every attempt of a call takes from, retries too.

    It lives as long as the execution environment. As no more than ``queue.max_concurrency`` of these run at once,
    all together keep to ``route53.max_requests_per_second``. Waiting ends before the deadline: a call that could not
    be finished by then is not begun.

    Args:
        per_second: calls a second.
        deadline: returns the deadline of the work under way.
        needed_seconds: how long one call may take.
        now: returns seconds that only grow.
        sleep: waits for so many seconds.
    """

    def __init__(
        self,
        per_second: float,
        deadline: Callable[[], Deadline],
        needed_seconds: float,
        now: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self.per_second = per_second
        self.burst = max(1.0, BURST_SECONDS * per_second)
        self._deadline = deadline
        self._needed = needed_seconds
        self._now = now
        self._sleep = sleep
        self._lock = threading.Lock()
        self._tokens = self.burst
        self._at = now()
        self._rate = per_second

    def govern(self, client: Any) -> None:
        """From now on every attempt of the boto3 client waits its turn."""
        client.meta.events.register("before-send", self._before_send)
        client.meta.events.register("response-received", self._response_received)

    def capacity(self, seconds: float) -> int:
        """How many calls can be begun within so many seconds from now."""
        with self._lock:
            self._refill()
            return max(0, int(self._tokens + seconds * self._rate))

    def wait(self) -> None:
        """Waits until one more call keeps to the rate.

        Raises:
            OutOfTime: the call could not be finished before the deadline.
        """
        with self._lock:
            self._refill()
            seconds = max(0.0, (1 - self._tokens) / self._rate)
            left = self._deadline().remaining()
            if left < seconds + self._needed:
                raise OutOfTime(
                    f"{left:.0f} s are left of this invocation, and the limit on requests to Route 53 asks to wait "
                    f"{seconds:.0f} s before the next"
                )
            self._tokens -= 1
        if seconds:
            self._sleep(seconds)

    def throttled(self) -> None:
        """AWS throttled the call: the bucket is empty, and fills half as fast."""
        with self._lock:
            self._refill()
            self._tokens = min(self._tokens, 0.0)
            self._rate = max(self._rate / 2, self.per_second * _LEAST)

    def answered(self) -> None:
        """AWS took the call."""
        with self._lock:
            self._refill()
            self._rate = min(self._rate * _RECOVERY, self.per_second)

    def _refill(self) -> None:
        now = self._now()
        self._tokens = min(self.burst, self._tokens + (now - self._at) * self._rate)
        self._at = now

    def _before_send(self, **_: object) -> None:
        self.wait()

    def _response_received(self, parsed_response: Any = None, **_: object) -> None:
        if parsed_response is None:
            return  # no answer came: nothing is learned of the rate
        if (parsed_response.get("Error") or {}).get("Code") in THROTTLED:
            self.throttled()
        else:
            self.answered()
