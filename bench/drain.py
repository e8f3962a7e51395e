"""Table 2: how long a burst takes to drain, in simulated time.

The function's own code runs: handler, steps, the client of Route 53 with its governor. The systems are in memory, and
each call takes its time on a simulated clock: 20 ms to Chef and Consul, what AWS takes as a rule, and Route 53's
bucket of the account as it is. What the function computes takes its time too, on the part of a CPU that its memory
gives it: so much for each instance, and where it is computed, as table 1 measures.
"""

from __future__ import annotations

import bisect
import json
import math
import os
import random
import re
from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import redirect_stdout
from contextvars import ContextVar
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest import mock

from botocore.exceptions import ClientError

from bench.clock import Cpu, SimulatedLock, SimulatedTime
from bench.computing import USUAL, Computing
from ec2_decommission.chunks import chunks
from ec2_decommission.clients.aws import CALL_SECONDS, READS_AT_ONCE
from ec2_decommission.clients.chef import NodeSearch
from ec2_decommission.clients.consul import MAX_OPS
from ec2_decommission.clients.ec2 import FILTER_VALUES, Description, LivingInEc2
from ec2_decommission.clients.governor import BURST_SECONDS, Governor
from ec2_decommission.clients.http import Guard
from ec2_decommission.clients.route53 import BotoZones, Listing
from ec2_decommission.config import (
    ChefSettings,
    Config,
    ConsulSettings,
    InventorySettings,
    QueueSettings,
    Route53Settings,
)
from ec2_decommission.deadline import Deadline
from ec2_decommission.errors import DecommissionError
from ec2_decommission.handler import Application
from ec2_decommission.identity import Facts, Instance
from ec2_decommission.inventory import WRITES_AT_ONCE
from ec2_decommission.run import Clock, StepFactory
from ec2_decommission.steps import chef as chef_step
from ec2_decommission.steps.base import Interface
from ec2_decommission.steps.chef import ChefStep
from ec2_decommission.steps.consul import ConsulStep
from ec2_decommission.steps.route53 import MAX_CHANGES, MAX_CHARACTERS, Route53Step
from ec2_decommission.templates import Template
from ec2_decommission.together import lanes
from tests.fakes.chef import FakeChefServer
from tests.fakes.consul import FakeConsulCatalog
from tests.fakes.inventory import FakeInventory

ACCOUNT, REGION, VPC = "123456789012", "us-east-1", "vpc-1"
ZONES = ZONE, REVERSE = "ZFORWARD", "ZREVERSE"
BEGIN = datetime(2026, 1, 1, tzinfo=UTC)  # when all instances end
NEAR = 0.020  # seconds: one call to Chef or Consul
AWS_CALL = 0.050  # seconds: one call to EC2, DynamoDB or Route 53
ACCOUNT_BURST, ACCOUNT_RATE = 50, 10.0
CONSUL_WORKERS = 8
PAGE = 300
WHOLE_CPU = 1769  # MiB of memory: https://docs.aws.amazon.com/lambda/latest/dg/configuration-memory.html
_REQUESTS = 3  # to Chef and Consul, for each instance

_cpu: ContextVar[Cpu] = ContextVar("cpu")  # that of the execution environment at work


@dataclass(frozen=True)
class Settings:
    """What is deployed: the module's defaults, where nothing else is said."""

    batch_size: int = 1000
    window: float = 5.0
    concurrency: int = 2
    timeout: float = 120.0
    memory_size: int = 1769
    max_requests_per_second: float = 5.0
    chef_concurrency: int = 8
    computing: Computing = USUAL

    @property
    def share(self) -> float:
        return self.max_requests_per_second / self.concurrency


@dataclass(frozen=True)
class Drain:
    """How a burst was drained; times in seconds."""

    number: int
    settings: Settings
    seconds: float
    minimum: Minimum
    route53: int
    throttled: int
    invocations: int
    handed_back: int

    @property
    def ratio(self) -> float:
        return self.seconds / self.minimum.seconds


@dataclass(frozen=True)
class Minimum:
    """The least time for each system by itself: the fewest calls known, at the most that its limit lets through."""

    route53_calls: int
    route53: float
    chef: float
    consul: float

    @property
    def seconds(self) -> float:
        return max(self.route53, self.chef, self.consul)


class Route53:
    """A boto3 client of an account's zones, with the account's bucket."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._hooks: dict[str, list[Any]] = {"before-send": [], "response-received": []}
        self.meta = SimpleNamespace(events=SimpleNamespace(register=lambda at, hook: self._hooks[at].append(hook)))

    def get_hosted_zone(self, Id: str) -> Any:  # noqa: N803  # boto3's own name
        self._send("GetHostedZone")
        zone = self._world.zones[Id]
        return {"HostedZone": {"Name": zone.name, "ResourceRecordSetCount": len(zone.order)}}

    def list_resource_record_sets(self, HostedZoneId: str, StartRecordName: str, **_: Any) -> Any:  # noqa: N803
        self._send("ListResourceRecordSets")
        _compute(self._world.cpu_of_a_page)
        zone = self._world.zones[HostedZoneId]
        first = bisect.bisect_left(zone.order, (_place(StartRecordName), ""))
        page = [name for _, name in zone.order[first : first + PAGE + 1]]
        answer: dict[str, Any] = {
            "ResourceRecordSets": [zone.records[name] for name in page[:PAGE]],
            "IsTruncated": len(page) > PAGE,
        }
        if len(page) > PAGE:
            answer |= {"NextRecordName": page[PAGE], "NextRecordType": zone.records[page[PAGE]]["Type"]}
        return answer

    def change_resource_record_sets(self, HostedZoneId: str, ChangeBatch: Any) -> None:  # noqa: N803
        self._send("ChangeResourceRecordSets")
        zone = self._world.zones[HostedZoneId]
        for change in ChangeBatch["Changes"]:
            name = change["ResourceRecordSet"]["Name"]
            del zone.records[name]
            del zone.order[bisect.bisect_left(zone.order, (_place(name), name))]

    def _send(self, operation: str) -> None:
        while True:
            for hook in self._hooks["before-send"]:
                hook()
            throttled = not self._world.take()
            self._world.time.sleep(AWS_CALL)
            error = {"Error": {"Code": "Throttling", "Message": "Rate exceeded"}} if throttled else {}
            for hook in self._hooks["response-received"]:
                hook(parsed_response=error)
            if not throttled:
                return
            raise ClientError(error, operation)  # type: ignore[arg-type]


class Zone:
    """Record sets by name, and their order: labels reversed."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.records: dict[str, Any] = {}
        self.order: list[tuple[str, str]] = []

    def fill(self, records: Iterable[tuple[str, str, str]]) -> None:
        for name, kind, value in records:
            self.records[name] = {"Name": name, "Type": kind, "TTL": 60, "ResourceRecords": [{"Value": value}]}
        self.order = sorted((_place(name), name) for name in self.records)


def _place(name: str) -> str:
    return ".".join(reversed(name.rstrip(".").split("."))) + "."


class GoneEc2:
    """EC2 with nothing but terminated instances."""

    region = REGION

    def __init__(self, world: World) -> None:
        self._world = world

    def describe(self, instance_ids: Iterable[str]) -> Mapping[str, Description]:
        ids = list(instance_ids)
        self._ask(ids, self._world.settings.computing.describe)
        return {i: Description(i, "terminated", Facts("ec2", tags=self._world.tags[i])) for i in ids}

    ask_by_id = describe

    def matching(self, filters: Mapping[str, Iterable[str]]) -> Iterator[Description]:
        ((_, patterns),) = filters.items()
        one_of_them = re.compile("|".join(re.escape(pattern).replace(r"\?", ".") for pattern in patterns)).fullmatch
        yield from self.describe(i for i, tags in self._world.tags.items() if one_of_them(tags["Name"])).values()

    def living(self, filters: Mapping[str, Iterable[str]]) -> Iterator[Description]:  # noqa: ARG002
        self._world.time.sleep(AWS_CALL)
        return iter(())

    def interfaces(self, addresses: Iterable[str]) -> Mapping[str, tuple[Interface, ...]]:
        self._ask(list(addresses), 0.0)
        return {}

    def _ask(self, values: Sequence[str], cpu_of_each: float) -> None:
        """Two hundred a call, some calls at once."""

        def call(number: int) -> None:
            _compute(cpu_of_each * number)
            self._world.time.sleep(AWS_CALL)

        jobs = [partial(call, len(some)) for some in chunks(values, FILTER_VALUES)]
        self._world.time.together(lanes(jobs, READS_AT_ONCE))


class FarBucket:
    """The bucket for Route 53 that all invocations share: a call to DynamoDB each time."""

    def __init__(self, time: SimulatedTime, per_second: float) -> None:
        self.per_second = per_second
        self._time = time
        self._full_at = 0.0

    def take(self, tokens: int, longest: float) -> float:
        self._time.sleep(AWS_CALL)
        full_at = max(self._full_at, self._time.now()) + tokens / self.per_second
        if full_at - self._time.now() <= longest:
            self._full_at = full_at
        return full_at - self._time.now()


class FarInventory(FakeInventory):
    """DynamoDB: a call for a hundred."""

    def __init__(self, time: SimulatedTime, computing: Computing) -> None:
        super().__init__()
        self._time = time
        self._computing = computing

    def recall(self, instance_ids: Iterable[str]) -> Any:
        ids = list(instance_ids)
        self._slowly(ids, self._computing.recall, READS_AT_ONCE)
        return super().recall(ids)

    def remember_terminated(self, instances: Iterable[Instance]) -> Any:
        wanted = list(instances)
        self._slowly(wanted, self._computing.remember_terminated)
        return super().remember_terminated(wanted)

    def remember_steps(self, outcomes: Mapping[str, Any]) -> Any:
        self._slowly(list(outcomes), self._computing.remember_steps)
        return super().remember_steps(outcomes)

    def _slowly(self, items: Sequence[Any], cpu_of_each: float, at_once: int = WRITES_AT_ONCE) -> None:
        def call(number: int) -> None:
            _compute(cpu_of_each * number)
            self._time.sleep(AWS_CALL)

        self._time.together(lanes([partial(call, len(some)) for some in chunks(items, 100)], at_once))


class FarChef(FakeChefServer):
    """Chef: 20 ms a call, some at once."""

    def __init__(self, time: SimulatedTime, settings: Settings) -> None:
        super().__init__()
        self._time = time
        self._settings = settings

    def _wait(self, calls: int) -> None:
        _request(self._time, calls, self._settings.chef_concurrency, self._settings.computing)

    def search_nodes_by_instance_id(self, instance_ids: Iterable[str]) -> NodeSearch:
        ids = list(instance_ids)
        self._wait(math.ceil(len(ids) / 100))
        nodes = [node for node in map(self.by_id.get, ids) if node and node.name in self.node_objects]
        return NodeSearch(tuple(nodes))

    def search_nodes_by_name(self, names: Iterable[str]) -> NodeSearch:
        wanted = list(names)
        self._wait(math.ceil(len(wanted) / 100))
        return NodeSearch(tuple(n for n in map(self.node_objects.get, wanted) if n))

    def delete_nodes(
        self, names: Iterable[str], guard: Guard | None = None
    ) -> Mapping[str, bool | DecommissionError]:
        wanted = list(names)
        self._wait(len(wanted))
        if guard:
            guard()
        return {name: self.node_objects.pop(name, None) is not None for name in wanted}

    def delete_clients(
        self, names: Iterable[str], guard: Guard | None = None
    ) -> Mapping[str, bool | DecommissionError]:
        wanted = list(names)
        self._wait(len(wanted))
        if guard:
            guard()
        there = {name: name in self.client_names for name in wanted}
        self.client_names.difference_update(wanted)
        return there

    by_id: dict[str, Any]


class FarConsul(FakeConsulCatalog):
    """Consul: 20 ms a call, sessions ended by some at once."""

    def __init__(self, time: SimulatedTime, computing: Computing) -> None:
        super().__init__()
        self._time = time
        self._computing = computing

    def _request(self, operation: str, datacenter: str, name: str = "", *, guard: Guard | None = None) -> Any:
        if operation != "destroy":
            self._time.sleep(NEAR)
        return super()._request(operation, datacenter, name, guard=guard)

    def destroy_sessions(self, datacenter: str, session_ids: Iterable[str], guard: Guard | None = None) -> Any:
        ids = list(session_ids)
        _request(self._time, len(ids), CONSUL_WORKERS, self._computing)
        return super().destroy_sessions(datacenter, ids, guard)


class BusyZones(BotoZones):
    """The client of Route 53, with the computing of the step: for each record that is found, and each change."""

    computing: Computing

    def records(self, *asked: Any, **more: Any) -> Listing:
        listing = super().records(*asked, **more)
        _compute(self.computing.find / len(ZONES) * len(listing.found))
        return listing

    def change(self, zone_id: str, changes: Sequence[tuple[str, Mapping[str, Any]]]) -> None:
        _compute(self.computing.remove / len(ZONES) * len(changes))
        super().change(zone_id, changes)


def _request(time: SimulatedTime, calls: int, workers: int, computing: Computing) -> None:
    """So many requests to Chef or Consul, by workers side by side."""
    left = iter(range(calls))

    def work() -> None:
        for _ in left:
            _compute(computing.others / _REQUESTS)
            time.sleep(NEAR)

    time.together([work] * min(calls, workers))


def _compute(seconds: float) -> None:
    if cpu := _cpu.get(None):
        cpu.compute(seconds)


class World:
    """The systems, with the traces of so many terminated instances in them."""

    def __init__(self, number: int, other_records: int, settings: Settings) -> None:
        self.time = SimulatedTime()
        self.settings = settings
        self.throttled = self.route53_calls = 0
        self._tokens, self._at = float(ACCOUNT_BURST), 0.0
        chance = random.Random(1)  # noqa: S311  # the same at every run
        ids = [f"i-{n:017x}" for n in range(1, number + 1)]
        names = {i: f"{chance.getrandbits(48):012x}" for i in ids}
        numbers = chance.sample(range(65536), number + other_records) if number + other_records < 65536 else []
        addresses = {i: f"10.0.{numbers[n] // 256}.{numbers[n] % 256}" for n, i in enumerate(ids)}
        self.tags = {i: {"Name": names[i]} for i in ids}
        self.zones = {ZONE: Zone("example.internal."), REVERSE: Zone("0.10.in-addr.arpa.")}
        others = [f"{chance.getrandbits(48):012x}.example.internal." for _ in range(other_records)]
        self.zones[ZONE].fill(
            [
                *((f"{names[i]}.example.internal.", "A", addresses[i]) for i in ids),
                *((name, "A", "192.0.2.1") for name in others),
            ]
        )
        free = numbers[number:]
        self.zones[REVERSE].fill(
            [
                *((_pointer(addresses[i]), "PTR", f"{names[i]}.example.internal.") for i in ids),
                *((_pointer(f"10.0.{f // 256}.{f % 256}"), "PTR", o) for f, o in zip(free, others, strict=True)),
            ]
        )
        pages = sum(math.ceil(len(zone.order) / PAGE) for zone in self.zones.values())
        self.cpu_of_a_page = settings.computing.read_ahead * number / pages
        self.ec2 = GoneEc2(self)
        self.inventory = FarInventory(self.time, settings.computing)
        self.chef = FarChef(self.time, settings)
        self.consul = FarConsul(self.time, settings.computing)
        self._bucket = FarBucket(self.time, settings.max_requests_per_second)
        self._register(ids, names, addresses)
        self.queue: deque[tuple[float, str, int]] = deque((0.0, i, 1) for i in ids)
        self.in_flight = 0
        self.invocations = self.handed_back = 0
        self._delays: dict[str, int] = {}

    def _register(self, ids: list[str], names: Mapping[str, str], addresses: Mapping[str, str]) -> None:
        from ec2_decommission.clients.chef import ChefNode  # noqa: PLC0415
        from ec2_decommission.inventory import TERMINATED, Record  # noqa: PLC0415

        sleep, self.time.sleep = self.time.sleep, lambda seconds: None  # type: ignore[method-assign]  # noqa: ARG005
        for i in ids:
            facts = Facts("inventory", ACCOUNT, REGION, VPC, private_ips=(addresses[i],), tags=self.tags[i])
            self.inventory.items[i] = Record(i, TERMINATED, facts, "2026-01-01", "2026-01-01")
            self.chef.node_objects[names[i]] = ChefNode(names[i], i, private_ips=(addresses[i],))
            self.chef.client_names.add(names[i])
            self.consul.register_node(names[i], addresses[i], {"instance_id": i})
            self.consul.acquire(f"locks/{names[i]}", self.consul.create_session(names[i]))
        self.chef.by_id = {str(node.instance_id): node for node in self.chef.node_objects.values()}
        self.time.sleep = sleep  # type: ignore[method-assign]

    def take(self) -> bool:
        """Whether Route 53 takes one more request of the account."""
        now = self.time.now()
        self._tokens = min(ACCOUNT_BURST, self._tokens + (now - self._at) * ACCOUNT_RATE)
        self._at = now
        self.route53_calls += 1
        if self._tokens < 1:
            self.throttled += 1
            return False
        self._tokens -= 1
        return True

    # The queue, and the environments that take from it

    def work(self) -> None:
        """One execution environment: batch after batch until the queue is empty and nobody is at work."""
        application = self._application()
        _cpu.set(Cpu(self.time, min(1.0, self.settings.memory_size / WHOLE_CPU)))
        while self.queue or self.in_flight:
            ready = [entry for entry in self.queue if entry[0] <= self.time.now()][: self.settings.batch_size]
            if not ready:
                self.time.sleep(0.1)
                continue
            if len(ready) < self.settings.batch_size and self.settings.window:
                self.time.sleep(self.settings.window)
            some = [e for e in self.queue if e[0] <= self.time.now()][: self.settings.batch_size]
            if not some:
                continue
            taken = set(some)
            self.queue = deque(entry for entry in self.queue if entry not in taken)
            self.in_flight += 1
            self._invoke(application, some)
            self.in_flight -= 1

    def _invoke(self, application: Application, some: Sequence[tuple[float, str, int]]) -> None:
        self.invocations += 1
        end = self.time.now() + self.settings.timeout
        deadline = Deadline(lambda: end - self.time.now(), self.time.now)
        answer = application.handle({"Records": [self._record(i, count) for _, i, count in some]}, deadline)
        failed = {entry["itemIdentifier"] for entry in answer["batchItemFailures"]}
        self.handed_back += len(failed)
        for _, i, count in some:
            if i in failed:
                self.queue.append((self.time.now() + self._delays.get(i, 60), i, count + 1))

    def put_off(self, seconds_by_receipt: Mapping[str, int]) -> None:
        self._delays.update(seconds_by_receipt)

    def _record(self, instance_id: str, count: int) -> dict[str, Any]:
        event = {
            "version": "0",
            "id": instance_id,
            "detail-type": "EC2 Instance State-change Notification",
            "source": "aws.ec2",
            "account": ACCOUNT,
            "time": BEGIN.isoformat(),
            "region": REGION,
            "resources": [f"arn:aws:ec2:{REGION}:{ACCOUNT}:instance/{instance_id}"],
            "detail": {"instance-id": instance_id, "state": "terminated"},
        }
        return {
            "messageId": instance_id,
            "receiptHandle": instance_id,
            "body": json.dumps(event),
            "attributes": {"ApproximateReceiveCount": str(count)},
            "eventSource": "aws:sqs",
        }

    def _now(self) -> datetime:
        return BEGIN + timedelta(seconds=self.time.now())

    def _application(self) -> Application:
        clock = Clock()
        route53 = Route53Settings(ZONES, (Template("{tag:Name}.example.internal"),), self.settings.share)
        chef = ChefSettings("http://chef", "tool", Template("{tag:Name}"))
        consul = ConsulSettings("http://consul", lock_prefixes=("locks/",))
        governor = Governor(
            self.settings.share,
            lambda: clock.deadline,
            CALL_SECONDS,
            now=self.time.now,
            sleep=self.time.sleep,
            shared=self._bucket,
        )
        zones = BusyZones(Route53(self), governor, self._now, lambda: SimulatedLock(self.time))
        zones.computing = self.settings.computing
        config = Config(
            "bench",
            route53=route53,
            chef=chef,
            consul=consul,
            inventory=InventorySettings("table"),
            queue=QueueSettings("https://queue"),
        )
        return Application(
            config,
            ec2=self.ec2,
            living=lambda gone, namesakes: LivingInEc2(
                self.ec2, gone, namesakes, self._now, lambda: SimulatedLock(self.time)
            ),
            inventory=self.inventory,
            steps=[
                StepFactory("route53", lambda _: Route53Step(route53, zones)),
                StepFactory("chef", lambda _: ChefStep(chef, self.chef, confirm_clients=False), chef.node_name),
                StepFactory("consul", lambda _: ConsulStep(consul, self.consul)),
            ],
            log=_Silent(),
            clock=clock,
            delays=self,
            now=self._now,
            together=self.time.together,
        )


class _Silent:
    def info(self, msg: object, **_: Any) -> None: ...
    def warning(self, msg: object, **_: Any) -> None: ...
    def error(self, msg: object, **_: Any) -> None: ...
    def exception(self, msg: object, **_: Any) -> None: ...


def drain(number: int, other_records: int, settings: Settings) -> Drain:
    """Drains a burst in simulated time."""
    world = World(number, other_records, settings)
    with (
        Path(os.devnull).open("w") as silence,
        redirect_stdout(silence),  # metrics go there
        mock.patch.object(chef_step, "time", SimpleNamespace(monotonic=world.time.now)),
    ):
        seconds = world.time.run([world.work] * settings.concurrency)
    left = [len(zone.records) - other_records for zone in world.zones.values()]
    if any(left) or world.chef.node_objects or world.chef.client_names or world.consul.session_ids():
        raise RuntimeError(f"the burst left traces: {left}")
    return Drain(
        number,
        settings,
        seconds,
        minimum(number, other_records, settings),
        world.route53_calls,
        world.throttled,
        world.invocations,
        world.handed_back,
    )


def minimum(number: int, other_records: int, settings: Settings) -> Minimum:
    """The least that any strategy would need within the limits that are configured."""
    pages = math.ceil((number + other_records) / PAGE)
    forward = max(math.ceil(number / MAX_CHANGES), 0)
    reverse = math.ceil(number * len("0123456789ab.example.internal.") / MAX_CHARACTERS)
    calls = 2 * min(number, pages) + forward + reverse
    rate = settings.max_requests_per_second
    return Minimum(
        calls,
        max(0.0, calls - BURST_SECONDS * rate) / rate,
        2 * number * NEAR / (settings.chef_concurrency * settings.concurrency),
        (number / CONSUL_WORKERS + 2 * number / MAX_OPS) * NEAR / settings.concurrency,
    )


def _pointer(address: str) -> str:
    return ".".join(reversed(address.split("."))) + ".in-addr.arpa."
