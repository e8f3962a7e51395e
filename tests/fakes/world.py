"""The whole application on the fakes: instances, their traces, events, and the function's answers."""

from __future__ import annotations

import ipaddress
import json
from collections import Counter
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from importlib import import_module
from typing import TYPE_CHECKING, Any

from ec2_decommission.config import (
    Config,
    InstanceFilter,
    InventorySettings,
    OrganizationSettings,
    QueueSettings,
    Route53Settings,
    ZoneSettings,
)
from ec2_decommission.deadline import Deadline
from ec2_decommission.events import sweep_of, termination
from ec2_decommission.handler import Application
from ec2_decommission.live import Live
from ec2_decommission.metrics import Metrics
from ec2_decommission.orphans import Orphans, Scope, sources
from ec2_decommission.place import Place, Served
from ec2_decommission.run import StepFactory, Tools
from ec2_decommission.steps.route53 import Route53Step
from ec2_decommission.sweep import Sweep
from ec2_decommission.templates import Template
from ec2_decommission.together import in_turn
from tests.fakes.ec2 import ACCOUNT, REGION, FakeEc2
from tests.fakes.inventory import FakeInventory
from tests.fakes.log import FakeLog
from tests.fakes.route53 import FakeZones

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from ec2_decommission.config import ChefSettings, ConsulSettings, SweepSettings
    from ec2_decommission.handler import Restore
    from ec2_decommission.results import ResultEvents
    from ec2_decommission.run import Audit, Circumstances
    from ec2_decommission.steps.base import Step
    from ec2_decommission.together import Together

FORWARD, REVERSE = "Z0FORWARD", "Z0REVERSE"
DOMAIN = "example.internal"
REVERSE_DOMAIN = "10.in-addr.arpa"
SECONDS = 300.0
HOME = Place(ACCOUNT, REGION)


class FakeQueue:
    """The function's own queue.

    Attributes:
        delays: the last visibility timeout of each receipt handle.
        sent: the bodies that the sweep has sent, parsed.
        fault: called with the operation before each request. It may raise errors.
    """

    def __init__(self, now: Callable[[], datetime]) -> None:
        self.delays: dict[str, int] = {}
        self.sent: list[dict[str, Any]] = []
        self.fault: Callable[[str], None] = lambda *_: None
        self._now = now

    def back_off(self, seconds_by_receipt: Mapping[str, int]) -> None:
        self.fault("back_off")
        self.delays.update(seconds_by_receipt)

    def send_terminations(self, instance_ids: Iterable[str], place: Place) -> None:
        self.fault("send")
        self.sent += [json.loads(json.dumps(termination(i, place, self._now()))) for i in instance_ids]

    def send_sweeps(self, places: Iterable[Place]) -> None:
        self.fault("send")
        self.sent += [json.loads(json.dumps(sweep_of(place, self._now()))) for place in places]


@dataclass(frozen=True)
class Answered:
    """The function's answer to a batch: the failed ids, and the reports by message id."""

    failed: tuple[str, ...]
    reports: Mapping[str, Mapping[str, Any]]


class World:
    """EC2, Route 53, Chef and Consul in process, and the function.

    Args:
        places: served places besides the function's own, ``HOME``. ``ec2s`` has the EC2 of each.
        inventory: False disables the inventory.
        zones: False disables the Route 53 step.
        route53: further settings of the Route 53 step.
        chef: settings that enable the Chef step, with ``chef_server`` (created here if None).
        consul: settings that enable the Consul step, with ``consul_catalog`` (created here if None).
        more_steps: further steps, which run after the others.
        sweep: settings that enable the sweep.
        together: the application's ``together``.
    """

    def __init__(
        self,
        *,
        dry_run: bool = False,
        places: Iterable[Place] = (),
        inventory: bool = True,
        zones: bool = True,
        record_names: Iterable[str] = ("{tag:Name}." + DOMAIN,),
        route53: Mapping[str, Any] | None = None,
        instance_filter: InstanceFilter | None = None,
        queue: QueueSettings | None = None,
        sweep: SweepSettings | None = None,
        chef: ChefSettings | None = None,
        chef_server: Any = None,
        consul: ConsulSettings | None = None,
        consul_catalog: Any = None,
        more_steps: Iterable[StepFactory] = (),
        audit: Audit | None = None,
        results: ResultEvents | None = None,
        together: Together = in_turn,
    ) -> None:
        self.time = datetime(2026, 3, 1, 12, tzinfo=UTC)
        self.ec2s = {place: FakeEc2(place) for place in (HOME, *places)}
        self.ec2 = self.ec2s[HOME]
        self.zones = FakeZones()
        self.zones.add_zone(FORWARD, DOMAIN)
        self.zones.add_zone(REVERSE, REVERSE_DOMAIN)
        self.inventory = FakeInventory(now=lambda: self.time)
        self.log = FakeLog()
        self.metric_lines: list[str] = []
        self.queue = FakeQueue(lambda: self.time)
        self.chef, self.consul = chef_server, consul_catalog
        self.audit, self.results = audit, results
        self.restore: Restore | None = None
        self.request_id = "request-1"
        if chef is not None and self.chef is None:
            self.chef = import_module("tests.fakes.chef").FakeChefServer()
        if consul is not None and self.consul is None:
            self.consul = import_module("tests.fakes.consul").FakeConsulCatalog()
        settings = Route53Settings(
            (ZoneSettings(FORWARD), ZoneSettings(REVERSE)),
            tuple(Template(t) for t in record_names),
            **(route53 or {}),
        )
        members: dict[str, tuple[str, ...]] = {}
        for place in places:
            members[place.account_id] = (*members.get(place.account_id, ()), place.region)
        self.config = Config(
            "ec2-decommission",
            ACCOUNT,
            REGION,
            dry_run=dry_run,
            instance_filter=instance_filter or InstanceFilter(),
            organization=OrganizationSettings(members, "reader") if members else None,
            route53=settings if zones else None,
            chef=chef,
            consul=consul,
            inventory=InventorySettings("inventory") if inventory else None,
            sweep=sweep,
            queue=queue or QueueSettings("https://sqs.example/queue"),
        )
        self.more_steps = list(more_steps)
        self._together = together
        self._messages: Counter[str] = Counter()
        self._application = self.cold_start()

    # The function

    @property
    def served(self) -> Served:
        organization = self.config.organization
        return Served(HOME, organization.members if organization else {}, "reader")

    def cold_start(self) -> Application:
        """A new application on the same world, as in a new execution environment."""
        config = self.config
        self.live = Live(self.ec2s, self._together, self._seconds)
        tools = Tools(
            self.live,
            self.inventory if config.inventory else None,
            [*self._steps(), *self.more_steps],
            self.log,
            lambda: self.time,
            Metrics(config.name, self.metric_lines.append),
            self._together,
            self.audit,
        )
        sweep = self._sweep if config.sweep and config.inventory else None
        self._application = Application(
            config, self.served, self.ec2s, tools, self.queue, sweep, self.restore, self.results
        )
        return self._application

    def _seconds(self) -> float:
        return self.time.timestamp()

    def configure(self, **changes: Any) -> None:
        """Changes the configuration, as `terraform apply` does."""
        self.config = replace(self.config, **changes)
        self.cold_start()

    def _steps(self) -> list[StepFactory]:
        route53, chef, consul = self.config.route53, self.config.chef, self.config.consul
        steps = []
        if route53:
            steps.append(StepFactory("route53", lambda _: Route53Step(route53, self.zones)))
        if chef:

            def chef_step(_: Circumstances) -> Step:
                make = import_module("ec2_decommission.steps.chef").ChefStep
                step: Step = make(chef, self.chef, audit=self.audit is not None)
                return step

            steps.append(StepFactory("chef", chef_step))
        if consul:

            def consul_step(_: Circumstances) -> Step:
                make = import_module("ec2_decommission.steps.consul").ConsulStep
                step: Step = make(consul, self.consul, audit=self.audit is not None)
                return step

            steps.append(StepFactory("consul", consul_step))
        return steps

    def _sweep(self, place: Place) -> Sweep:
        if self.config.sweep is None:
            raise AssertionError("the sweep is off")
        scope = Scope(place, alone=len(self.ec2s) == 1)
        datacenters = self.config.consul.datacenters if self.config.consul else ()
        found = sources(
            self.config.sweep.adopt, scope, lambda: self.chef, lambda: self.consul, datacenters, lambda: self.time
        )
        return Sweep(
            self.config.sweep,
            place,
            self.ec2s[place],
            self.inventory,
            self.queue,
            self.config.instance_filter,
            Orphans(found, self.ec2s[place], self.inventory) if found else None,
            now=lambda: self.time,
        )

    def send(self, payload: Any, seconds: float = SECONDS) -> dict[str, Any]:
        """Sends a single EventBridge event or operator's payload. Returns the report."""
        return self.handle(payload, seconds)

    def handle(self, event: Any, seconds: float = SECONDS) -> dict[str, Any]:
        """Calls the function with any payload."""
        return self._application.handle(event, Deadline.after(seconds), self.request_id)

    def send_batch(
        self,
        *bodies: Any,
        receive_count: int = 1,
        seconds: float = SECONDS,
        message_ids: Sequence[str] = (),
        sent_at: datetime | None = None,
    ) -> Answered:
        """Sends one SQS batch, by default with the current time. Text bodies are sent unchanged, others as JSON."""
        sent = str(int((sent_at or self.time).timestamp() * 1000))
        records = []
        for number, body in enumerate(bodies):
            self._messages["sent"] += 1
            message_id = message_ids[number] if message_ids else f"m-{self._messages['sent']}"
            records.append(
                {
                    "messageId": message_id,
                    "receiptHandle": f"r-{message_id}",
                    "body": body if isinstance(body, str) else json.dumps(body),
                    "attributes": {"ApproximateReceiveCount": str(receive_count), "SentTimestamp": sent},
                    "eventSource": "aws:sqs",
                }
            )
        before = len(self.log.lines)
        answer = self.handle({"Records": records}, seconds)
        reports = {
            line.extra["message_id"]: line.extra["report"]
            for line in self.log.lines[before:]
            if "report" in line.extra and "message_id" in line.extra
        }
        return Answered(tuple(f["itemIdentifier"] for f in answer["batchItemFailures"]), reports)

    def operate(
        self, instance_id: str, *, dry_run: bool | None = None, place: Place | None = None, **more: Any
    ) -> dict[str, Any]:
        """Makes the operator's call."""
        payload: dict[str, Any] = {"instance_id": instance_id, **more}
        if place:
            payload |= {"account_id": place.account_id, "region": place.region}
        return self.send(payload if dry_run is None else {**payload, "dry_run": dry_run})

    def sweep(self, place: Place = HOME) -> dict[str, Any]:
        """Runs a sweep. ``queue.sent`` then has its messages."""
        return self.send({"sweep": True, "account_id": place.account_id, "region": place.region})

    # Events

    def event(self, instance_id: str, state: str, place: Place | None = None) -> dict[str, Any]:
        """An event in EventBridge's format."""
        place = place or self.place_of(instance_id)
        return {
            "version": "0",
            "id": f"e-{instance_id}-{state}",
            "detail-type": "EC2 Instance State-change Notification",
            "source": "aws.ec2",
            "account": place.account_id,
            "time": self.time.strftime("%Y-%m-%dT%H:%M:%SZ"),
            "region": place.region,
            "resources": [f"arn:aws:ec2:{place.region}:{place.account_id}:instance/{instance_id}"],
            "detail": {"instance-id": instance_id, "state": state},
        }

    def place_of(self, instance_id: str) -> Place:
        """The place where EC2 lists the instance, or ``HOME``."""
        return next((place for place, ec2 in self.ec2s.items() if instance_id in ec2.machines), HOME)

    def running(self, instance_id: str) -> dict[str, Any]:
        return self.event(instance_id, "running")

    def terminated(self, instance_id: str) -> dict[str, Any]:
        return self.event(instance_id, "terminated")

    def later(self, delta: timedelta) -> None:
        """Lets time pass."""
        self.time += delta

    # Instances and their records

    def launch(
        self, name: str, private_ip: str | None = None, *, records: bool = True, place: Place = HOME, **more: Any
    ) -> str:
        """Launches an instance, and writes its A and PTR records over existing ones, as a boot script does."""
        instance_id = self.ec2s[place].launch(name, private_ip, **more)
        if records:
            self.register(instance_id)
        return instance_id

    def register(self, instance_id: str) -> None:
        """Writes the A and PTR records of a live instance over existing ones."""
        machine = self.ec2s[self.place_of(instance_id)].machines[instance_id]
        if machine.primary is None:
            raise ValueError(f"{instance_id} has no address")
        address = machine.primary.private_ips[0]
        self.zones.put(FORWARD, f"{machine.tags['Name']}.{DOMAIN}", "A", [address])
        self.zones.put(REVERSE, pointer(address), "PTR", [f"{machine.tags['Name'].lower()}.{DOMAIN}."])

    def a(self, name: str) -> tuple[str, ...] | None:
        """The values of the A record of ``name`` in the forward zone."""
        return self.zones.values(FORWARD, f"{name}.{DOMAIN}", "A")

    def ptr(self, address: str) -> tuple[str, ...] | None:
        """The values of the PTR record of an address in the reverse zone."""
        return self.zones.values(REVERSE, pointer(address), "PTR")


def pointer(address: str) -> str:
    """The PTR record name of an address."""
    return ipaddress.ip_address(address).reverse_pointer + "."


def step_of(report: Mapping[str, Any], step: str) -> dict[str, Any]:
    """A step's report."""
    return next(dict(s) for s in report["steps"] if s["step"] == step)
