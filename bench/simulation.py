"""Runs the function in simulated time: queue drains at Route 53's rate limit, and calls to many places.

The function, its Route 53 client, governor and zone cache are real. The systems are the tests' fakes. Only AWS calls
and waits take simulated time. Computation, Chef and Consul take none.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from itertools import cycle, islice, takewhile
from typing import TYPE_CHECKING, Any

from bench.fleet import batch
from ec2_decommission.clients.governor import Governor
from ec2_decommission.clients.route53 import BotoZones
from ec2_decommission.clients.zone_cache import CachedZones, KeptPage
from ec2_decommission.config import ChefSettings, ConsulSettings, Route53Settings, SweepSettings
from ec2_decommission.deadline import Deadline
from ec2_decommission.place import Place
from ec2_decommission.run import StepFactory
from ec2_decommission.steps.route53 import Route53Step
from ec2_decommission.templates import Template
from testbed.aws import ROUTE53_RATE, RateLimit
from tests.fakes.clock import Clock
from tests.fakes.route53 import Route53Client
from tests.fakes.world import DOMAIN, FORWARD, REVERSE, World, pointer

if TYPE_CHECKING:
    from ec2_decommission.run import Circumstances
    from ec2_decommission.steps.base import Step

CALL_SECONDS = 0.05  # an AWS call
# The module's defaults: queue.max_concurrency, queue.batch_window_seconds, function.timeout, one environment's share
# of route53.max_requests_per_second, and queue.retry_delay_seconds.
ENVIRONMENTS, WINDOW_SECONDS, TIMEOUT_SECONDS, REQUESTS_PER_SECOND, RETRY_SECONDS = 2, 5.0, 120.0, 2.5, 60.0
CHEF = ChefSettings("https://chef.example", "decommission", Template("{tag:Name}"))
CONSUL = ConsulSettings("http://consul.example:8500", lock_prefixes=("locks/",))
REGIONS = ("us-east-1", "us-west-2", "eu-west-1", "eu-central-1")


class Simulated(World):
    """The function as the module deploys it by default.

    Args:
        others: other instances' record sets in each zone.
        more: arguments of ``World``. Without ``chef`` and ``consul``, only the Route 53 step runs.

    Attributes:
        refused: requests that Route 53 throttled.
    """

    def __init__(self, *, others: int = 100, **more: Any) -> None:
        self.clock = Clock()
        self.refused = 0
        self._limit = RateLimit(*ROUTE53_RATE, now=lambda: self.clock.now)
        self._random = random.Random(1)  # noqa: S311  # the same names in every run
        super().__init__(together=self.clock.together, **more)
        self.clock.passed = self._clock_passed
        for n in range(others):
            self.zones.put(FORWARD, f"{self._name()}.{DOMAIN}", "A", ["192.0.2.1"])
            self.zones.put(REVERSE, pointer(f"10.250.{n // 250}.{n % 250}"), "PTR", [f"other.{DOMAIN}."])
        self._others = len(self.zones.everything())

    def dead(self, number: int) -> list[str]:
        """Creates recorded, terminated instances in all places, with objects for each step to remove."""
        ids = []
        for n, place in zip(range(number), cycle(self.ec2s)):
            ec2, name, address = self.ec2s[place], self._name(), f"10.{n // 62_500}.{n // 250 % 250}.{n % 250}"
            instance_id = self.launch(name, address, place=place)
            if self.chef:
                self.chef.put_node(name, instance_id, private_ips=(address,))
                self.chef.put_client(name)
            if self.consul:
                self.consul.register_node(name, address, {"instance_id": instance_id})
                self.consul.acquire(f"locks/{name}", self.consul.create_session(name))
            instance = replace(ec2.describe([instance_id])[instance_id].instance(), ran=True)
            self.inventory.remember_running([instance], {}, tags_known=True)
            ec2.terminate(instance_id)
            ids.append(instance_id)
        return ids

    def count(self, seconds: float = CALL_SECONDS) -> Counter[str]:
        """Starts counting requests by service and place. Each request takes this many seconds."""
        calls = Counter[str]()

        def called(name: str) -> None:
            calls[name] += 1
            self.clock.sleep(seconds)

        self.inventory.fault = lambda _: called("DynamoDB")
        self.queue.fault = lambda _: called("SQS")
        for place, ec2 in self.ec2s.items():
            ec2.fault = lambda _, place=place: called(f"EC2 {place}")  # type: ignore[misc]
        return calls

    @property
    def left(self) -> int:
        """The number of terminated instances' remaining record sets, Chef nodes and clients, and Consul sessions."""
        left = len(self.zones.everything()) - self._others
        left += len(self.chef.node_objects) + len(self.chef.client_names) if self.chef else 0
        return left + (len(self.consul.session_ids()) if self.consul else 0)

    def environment(self) -> Callable[[Sequence[tuple[float, str]]], set[str]]:
        """A cold execution environment. Takes terminations (time and id) and returns the ids that failed."""
        application = self.cold_start()

        def handle(ended: Sequence[tuple[float, str]]) -> set[str]:
            end = self.clock.now + TIMEOUT_SECONDS
            deadline = Deadline(lambda: end - self.clock.now, lambda: self.clock.now)
            events = [{**self.terminated(i), "time": _text(at)} for at, i in ended]
            failed = application.handle(batch(events), deadline, "bench")["batchItemFailures"]
            return {failure["itemIdentifier"].removeprefix("m-") for failure in failed}

        return handle

    def _steps(self) -> list[StepFactory]:
        """The steps of one environment, with its own Route 53 client and caches, as the application creates them."""
        settings, client = self.config.route53 or Route53Settings((), ()), self._client()
        governor = Governor(REQUESTS_PER_SECOND, now=self._seconds, sleep=self.clock.sleep)
        zones, kept = BotoZones(lambda _: client, lambda _: governor), list[KeptPage]()

        def step(circumstances: Circumstances) -> Step:
            return Route53Step(settings, CachedZones(zones, kept, circumstances.ended_at, self._seconds))

        return [StepFactory("route53", step), *super()._steps()[1:]]

    def _client(self) -> Route53Client:
        return Route53Client(self.zones, self._throttles, self.clock.sleep, CALL_SECONDS)

    def _throttles(self) -> bool:
        refused = not self._limit.take()
        self.refused += refused
        return refused

    def _seconds(self) -> float:
        return self.clock.now

    def _clock_passed(self) -> None:
        self.time = datetime.fromtimestamp(self.clock.now, UTC)

    def _name(self) -> str:
        return f"{self._random.getrandbits(48):012x}"  # the worst case: names that are spread over the zone


@dataclass(frozen=True)
class Drained:
    """The result of a drain. ``requests`` includes throttled Route 53 requests. ``seconds`` are simulated."""

    requests: int
    refused: int
    left: int
    returned: int
    seconds: float


def drain(number: int, *, size: int = 1000, over: float = 0.0, others: int = 100) -> Drained:
    """Terminates instances, and delivers their messages until the queue is empty.

    Args:
        size: maximum batch size.
        over: seconds over which the terminations are spread.
        others: other instances' record sets in each zone.
    """
    world = Simulated(others=others)
    clock, begin = world.clock, world.clock.now
    waiting = [(begin + n * over / number, i) for n, i in enumerate(world.dead(number))]
    world.count()
    counts: Counter[str] = Counter()

    def environment() -> None:
        handle = world.environment()
        while waiting or counts["busy"]:
            due = list(islice(takewhile(lambda message: message[0] <= clock.now, waiting), size))
            if not due or (len(due) < size and clock.now - due[0][0] < WINDOW_SECONDS):
                clock.sleep(0.1)
                continue
            del waiting[: len(due)]
            counts["busy"] += 1
            failed = handle(due)
            counts.update(busy=-1, returned=len(failed))
            waiting.extend((clock.now + RETRY_SECONDS, i) for i in failed)

    clock.together([environment] * ENVIRONMENTS)
    requests = world.zones.calls.total() - world.zones.calls["wait"] + world.refused
    return Drained(requests, world.refused, world.left, counts["returned"], clock.now - begin)


def ask_places(places: int, number: int) -> tuple[list[int], float]:
    """Runs all three steps on one batch of terminations, spread over the places.

    Returns:
        The EC2 calls in each place, and the simulated seconds.

    Raises:
        RuntimeError: the cleanup is incomplete.
    """
    members = [Place(f"{200 + n // 4}000000000", REGIONS[n % 4]) for n in range(places - 1)]
    world = Simulated(places=members, chef=CHEF, consul=CONSUL)
    ids = world.dead(number)
    calls, begin = world.count(), world.clock.now
    failed = world.environment()([(begin, i) for i in ids])
    if failed or world.left:
        raise RuntimeError(f"{places} places: {len(failed)} failed, {world.left} traces are left")
    return [calls[f"EC2 {place}"] for place in world.ec2s], world.clock.now - begin


def sweep(number: int, lost: int, seconds: float) -> tuple[Counter[str], float]:
    """The requests of a sweep by service, and its duration if each request takes ``seconds``.

    Args:
        number: recorded instances in EC2.
        lost: number of instances whose termination event was lost.

    Raises:
        RuntimeError: the sweep did not find exactly the lost terminations.
    """
    world = Simulated(others=0, sweep=SweepSettings())
    ids = [world.launch(f"web-{n}", f"10.0.{n // 250}.{n % 250}", records=False) for n in range(number)]
    world.sweep()  # records them
    for instance_id in ids[:lost]:
        world.ec2.terminate(instance_id)
    calls = world.count(seconds)
    begin = world.clock.now
    found = world.sweep()["sweep"]
    if sorted(found["gone"]) != sorted(ids[:lost]) or found["recorded"] != number or found["refreshed"]:
        raise RuntimeError(f"the sweep of {number} did not find {lost}: {found}")
    return calls, world.clock.now - begin


def _text(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
