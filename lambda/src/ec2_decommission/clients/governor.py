"""Keeps requests below the rate that an AWS account allows."""

from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING

from ..deadline import current
from ..errors import OutOfTime
from .aws import CALL_SECONDS

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from ..config import ZoneSettings

# Route 53's token bucket per account holds five seconds of its rate (50 requests, 10 a second). Each share does too.
# https://docs.aws.amazon.com/Route53/latest/DeveloperGuide/DNSLimitations.html
BURST_SECONDS = 5.0
_LEAST = 1 / 8  # of the rate: throttling never slows a governor below this
_RECOVERY = 1.1  # the rate grows by this factor with each request that is not throttled


class Governor:
    """A token bucket: one for each execution environment and account that owns zones.

    Up to ``queue.max_concurrency`` environments run at once, so each gets that share of the account's rate. Other
    software in the account uses the same quota: if AWS still throttles, the rate halves and then recovers.

    Args:
        per_second: requests a second.
        needed_seconds: the longest time that one request may take.
        now: a monotonic clock, in seconds.
        sleep: waits that many seconds.

    Example:
        >>> from ec2_decommission.deadline import Deadline, until
        >>> with until(Deadline.after(60)):
        ...     Governor(per_second=5).wait()
    """

    def __init__(
        self,
        per_second: float,
        needed_seconds: float = CALL_SECONDS,
        now: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self.per_second = per_second
        self.burst = max(1.0, BURST_SECONDS * per_second)
        self._needed = needed_seconds
        self._now = now
        self._sleep = sleep
        self._lock = threading.Lock()
        self._rate = per_second
        self._tokens = self.burst
        self._at = now()

    def wait(self) -> None:
        """Waits until the rate allows one more request.

        Raises:
            OutOfTime: the request could not finish before the deadline. No token was taken from the bucket.
        """
        with self._lock:
            self._refill()
            seconds = max(0.0, (1 - self._tokens) / self._rate)
            left = current().remaining()
            if left < seconds + self._needed:
                raise OutOfTime(
                    f"{left:.0f} s are left of this invocation, and the request rate of Route 53 requires a wait of "
                    f"{seconds:.0f} s before the next request"
                )
            self._tokens -= 1
        if seconds:
            self._sleep(seconds)

    def throttled(self) -> None:
        """Records a throttled request: empties the bucket and halves the rate."""
        with self._lock:
            self._refill()
            self._tokens = min(self._tokens, 0.0)
            self._rate = max(self._rate / 2, self.per_second * _LEAST)

    def answered(self) -> None:
        """Records an accepted request: the rate recovers a little."""
        with self._lock:
            self._refill()
            self._rate = min(self._rate * _RECOVERY, self.per_second)

    def _refill(self) -> None:
        now = self._now()
        self._tokens = min(self.burst, self._tokens + (now - self._at) * self._rate)
        self._at = now


def governors(zones: Iterable[ZoneSettings], per_second: float, own_account: str = "") -> Callable[[str], Governor]:
    """Returns the governor of each zone, by zone id. Zones of the same account share a governor.

    Args:
        own_account: the function's own account, which owns the zones without a role.
    """
    accounts = {zone.zone_id: zone.role_arn.split(":")[4] if zone.role_arn else own_account for zone in zones}
    by_account = {account: Governor(per_second) for account in accounts.values()}
    return lambda zone_id: by_account[accounts[zone_id]]
