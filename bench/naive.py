"""The common pattern: one invocation for each event. In simulated time, against Route 53's own limit.

It is the least that such a function can do. It knows the names of its records, reads each record with one request and
deletes it with another. boto3 and Lambda retry as they do by default.
"""

from __future__ import annotations

import random
from functools import partial
from typing import TYPE_CHECKING, Any

from bench.simulation import CALL_SECONDS, Drained, Simulated
from ec2_decommission.clients.aws import ThrottledError
from ec2_decommission.deadline import Deadline, until
from tests.fakes.world import FORWARD, REVERSE, pointer

if TYPE_CHECKING:
    from collections.abc import Callable

ATTEMPTS = 5  # boto3's retry mode "legacy"; a wait of 0 to 1, 2, 4 and 8 seconds between them
INVOCATION_RETRIES = (60.0, 120.0)  # Lambda's, of an asynchronous event


class Naive(Simulated):
    """A function that has an invocation for each event, as many at once as there are events.

    Attributes:
        failed: invocations that Lambda repeated.
    """

    def __init__(self, **more: Any) -> None:
        super().__init__(**more)
        self.failed = 0
        self._jitter = random.Random(1)  # noqa: S311  # the same waits at every run

    def owned(self) -> list[tuple[tuple[str, str], ...]]:
        """The records of each dead instance: zone id and name."""
        a_records = {(record[1], record[-1]) for record in self.zones.everything() if record[2] == "A"}
        dead = sorted((name, address) for name, address in a_records if address != "192.0.2.1")
        return [((FORWARD, name), (REVERSE, pointer(address))) for name, address in dead]

    def end(self, records: tuple[tuple[str, str], ...]) -> None:
        """An event, until its invocation succeeds or Lambda gives it up."""
        for wait in (*INVOCATION_RETRIES, None):
            try:
                for zone_id, name in records:
                    self._delete(zone_id, name)
            except ThrottledError:
                if wait is not None:
                    self.failed += 1
                    self.clock.sleep(wait)
            else:
                return

    def _delete(self, zone_id: str, name: str) -> None:
        page = self._send(lambda: self.zones.page(zone_id, name))
        if page.raw and page.raw[0]["Name"] == name:
            self._send(lambda: self.zones.change(zone_id, [("DELETE", page.raw[0])], lambda: None))

    def _send(self, request: Callable[[], Any]) -> Any:
        for attempt in range(ATTEMPTS):
            self.clock.sleep(CALL_SECONDS)
            if not self._throttles():
                return request()
            if attempt + 1 < ATTEMPTS:
                self.clock.sleep(self._jitter.random() * 2**attempt)
        raise ThrottledError("Rate exceeded")


def drain_each(number: int, *, others: int = 100) -> Drained:
    """Terminates instances at once, with an invocation for each. See ``drain``."""
    world = Naive(others=others)
    world.dead(number)
    begin = world.clock.now
    with until(Deadline(lambda: 900.0, lambda: world.clock.now)):
        world.clock.together([partial(world.end, records) for records in world.owned()])
    requests = world.zones.calls.total() + world.refused
    return Drained(requests, world.refused, world.left, world.failed, world.clock.now - begin)
