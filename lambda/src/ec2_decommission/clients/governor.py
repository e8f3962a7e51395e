"""Keeps calls of one service below what the module may ask of it, whichever invocations are at work."""

from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING, Any, Protocol

from ..errors import DecommissionError, OutOfTime
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
# A token of the shared bucket may be used so much later than its time, and the bucket is smaller by as much: so what
# one keeps in hand while others take exceeds nothing.
_LATE_SECONDS = 0.5
_SIZE_SECONDS = BURST_SECONDS - _LATE_SECONDS
# Taken at once where the bucket holds so many: about what one termination asks, so it costs one call to the bucket.
_BLOCK = 5
# So long the environment keeps to its share once the shared bucket did not answer: an outage costs a call a minute.
ALONE_SECONDS = 60.0


class SharedBucket(Protocol):
    """A bucket of tokens from which all invocations take.

    It is told by the moment at which it will be full again. That moment moves by ``1 / per_second`` with each token.

    Attributes:
        per_second: tokens a second that run into it.
    """

    per_second: float

    def take(self, tokens: int, longest: float) -> float:
        """Takes so many tokens, unless the bucket would then be full only after more than ``longest`` seconds.

        Returns:
            Seconds until the bucket is full again. Where they are more than ``longest``, nothing was taken.

        Raises:
            DecommissionError: the bucket is out of reach.
        """


class Governor:
    """A token bucket that every attempt of a call takes from, retries too.

    It lives as long as the execution environment. Where there is a shared bucket, each call needs a token of it as
    well: all that take from it make no more than ``BURST_SECONDS + t`` times its rate of calls in any ``t`` seconds.
    Without one, or while it is out of reach, this environment keeps to its share: as no more than
    ``queue.max_concurrency`` run at once on the queue's behalf, these together keep to
    ``route53.max_requests_per_second``.

    Waiting ends before the deadline: a call that could not be finished by then is not begun.

    Args:
        per_second: this environment's share, in calls a second.
        deadline: returns the deadline of the work under way.
        needed_seconds: how long one call may take.
        now: returns seconds that only grow.
        sleep: waits for so many seconds.
        shared: the bucket that all invocations share.
        warn: is told when the shared bucket is out of reach.
    """

    def __init__(
        self,
        per_second: float,
        deadline: Callable[[], Deadline],
        needed_seconds: float,
        now: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
        *,
        shared: SharedBucket | None = None,
        warn: Callable[[str], None] = lambda _: None,
    ) -> None:
        self.per_second = per_second
        self._deadline = deadline
        self._needed = needed_seconds
        self._now = now
        self._sleep = sleep
        self._warn = warn
        self._lock = threading.Lock()
        self._shared = shared
        self._alone_until = now()
        self._in_hand = 0  # tokens of the shared bucket
        self._full_at = 0.0  # when the bucket is full again, as far as the last of them goes
        self._rate = self._most
        self._tokens = self.burst
        self._at = now()

    @property
    def burst(self) -> float:
        """How many calls may be made at once."""
        return max(1.0, BURST_SECONDS * self._most)

    def govern(self, client: Any) -> None:
        """From now on every attempt of the boto3 client waits its turn."""
        client.meta.events.register("before-send", self._before_send)
        client.meta.events.register("response-received", self._response_received)

    def wait(self) -> None:
        """Waits until one more call keeps to the rate.

        Raises:
            OutOfTime: the call could not be finished before the deadline.
        """
        with self._lock:
            self._refill()
            seconds = max(0.0, (1 - self._tokens) / self._rate)
            self._check(seconds)
            self._tokens -= 1
        if seconds:
            self._sleep(seconds)
        with self._lock:
            seconds = self._use_shared()
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
            self._rate = min(self._rate * _RECOVERY, self._most)

    # This environment's own bucket

    @property
    def _alone(self) -> bool:
        return self._shared is None or self._now() < self._alone_until

    @property
    def _most(self) -> float:
        """The most that this environment may ask for at present."""
        return self.per_second if self._shared is None or self._alone else self._shared.per_second

    def _refill(self) -> None:
        now = self._now()
        self._rate = min(self._rate, self._most)
        self._tokens = min(self.burst, self._tokens + (now - self._at) * self._rate)
        self._at = now

    def _check(self, seconds: float) -> None:
        left = self._deadline().remaining()
        if left < seconds + self._needed:
            raise _out_of_time(left, seconds)

    # The bucket that all share, as a virtual schedule: of the tokens taken, the bucket is full again at `full_at` for
    # the last, and one interval earlier for each before it. A token may be used from the bucket's size before its
    # moment on, and until one interval before it: later it would stand beside those that others have by then.
    # ITU-T I.371, annex A: the generic cell rate algorithm.

    def _use_shared(self) -> float:
        """Uses one token of the shared bucket; returns the seconds until its time."""
        if self._shared is None or self._alone:
            return 0.0
        interval = 1 / self._shared.per_second
        self._drop(interval)
        if not self._in_hand:
            if not self._take(self._shared, interval):
                return 0.0
            self._drop(interval, keep=1)  # a bucket that answers slowly stops nobody
        seconds = max(0.0, self._full_at - (self._in_hand - 1) * interval - _SIZE_SECONDS - self._now())
        self._check(seconds)
        self._in_hand -= 1
        return seconds

    def _drop(self, interval: float, keep: int = 0) -> None:
        now = self._now() - _LATE_SECONDS
        while self._in_hand > keep and self._full_at - self._in_hand * interval < now:
            self._in_hand -= 1

    def _take(self, shared: SharedBucket, interval: float) -> bool:
        """Takes a block from the shared bucket; False where it is out of reach."""
        block = max(1, int(shared.per_second), min(_BLOCK, int(shared.per_second * _SIZE_SECONDS)))
        usable = (
            _SIZE_SECONDS + (block - 1) * interval
        )  # so long before the bucket is full again is the first one's time
        begin = self._now()
        left = self._deadline().remaining()
        longest = left - self._needed + usable
        try:
            full = shared.take(block, longest)
        except DecommissionError as error:
            if isinstance(error, OutOfTime):
                self._check(0.0)  # the bucket is not to blame
            self._alone_until = self._now() + ALONE_SECONDS
            self._refill()
            self._warn(f"requests to Route 53 keep to this environment's share for a minute: {error}")
            return False
        if full > longest:
            raise _out_of_time(left, full - usable)
        self._in_hand, self._full_at = block, begin + full
        return True

    # boto3's hooks

    def _before_send(self, **_: object) -> None:
        self.wait()

    def _response_received(self, parsed_response: Any = None, **_: object) -> None:
        if parsed_response is None:
            return  # no answer came: nothing is learned of the rate
        if (parsed_response.get("Error") or {}).get("Code") in THROTTLED:
            self.throttled()
        else:
            self.answered()


def _out_of_time(left: float, seconds: float) -> OutOfTime:
    return OutOfTime(
        f"{left:.0f} s are left of this invocation, and the limit on requests to Route 53 asks to wait "
        f"{seconds:.0f} s before the next"
    )
