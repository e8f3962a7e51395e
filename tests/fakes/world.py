"""The whole application over the fakes: instances, their traces, events, and what the function makes of them."""

from __future__ import annotations

import ipaddress
import json
from collections import Counter
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from importlib import import_module
from typing import TYPE_CHECKING, Any

from ec2_decommission.adoption import Adoption, Place, sources
from ec2_decommission.clients.ec2 import LivingInEc2
from ec2_decommission.config import (
    Config,
    InstanceFilter,
    InventorySettings,
    QueueSettings,
    Route53Settings,
)
from ec2_decommission.deadline import Deadline
from ec2_decommission.events import sweep_on, termination
from ec2_decommission.handler import Application
from ec2_decommission.metrics import Metrics
from ec2_decommission.recall import unwanted
from ec2_decommission.run import Clock, StepFactory
from ec2_decommission.steps.route53 import Route53Step
from ec2_decommission.sweep import PIECE, Sweep
from ec2_decommission.templates import Template
from ec2_decommission.together import in_turn
from tests.fakes.ec2 import ACCOUNT, FakeEc2
from tests.fakes.inventory import FakeInventory
from tests.fakes.log import FakeLog
from tests.fakes.route53 import FakeZones

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from ec2_decommission.clients.ec2 import Description
    from ec2_decommission.config import ChefSettings, ConsulSettings, SweepSettings
    from ec2_decommission.steps.base import Step
    from ec2_decommission.together import Together

FORWARD, REVERSE = "Z0FORWARD", "Z0REVERSE"
DOMAIN = "example.internal"
REVERSE_DOMAIN = "10.in-addr.arpa"
SECONDS = 300.0


class FakeQueue:
    """What the function does with its own queue.

    Attributes:
        delays: the last time-out of each receipt handle.
        sent: bodies that the sweep has put into the queue, as JSON.
        fault: called with the operation before each request.
    """

    def __init__(self, now: Callable[[], datetime]) -> None:
        self.delays: dict[str, int] = {}
        self.sent: list[dict[str, Any]] = []
        self.fault: Callable[[str], None] = lambda *_: None
        self._now = now

    def put_off(self, seconds_by_receipt: Mapping[str, int]) -> None:
        self.fault("put_off")
        self.delays.update(seconds_by_receipt)

    def send(self, instances: Sequence[Mapping[str, str]]) -> None:
        self.fault("send")
        for known in instances:
            event = termination(known["instance_id"], known.get("account_id"), known.get("region"), self._now())
            self.sent.append(json.loads(json.dumps(event)))

    def go_on(self, progress: Mapping[str, Any]) -> None:
        self.fault("go_on")
        self.sent.append(json.loads(json.dumps(sweep_on(progress, self._now()))))


@dataclass(frozen=True)
class Answered:
    """What the function made of a batch: the failed ids, and the reports by message id."""

    failed: tuple[str, ...]
    reports: Mapping[str, Mapping[str, Any]]


class World:
    """EC2, Route 53, Chef and Consul in process, and the function between them.

    Args:
        inventory: False switches it off.
        zones: False switches the Route 53 step off.
        chef: settings that switch the Chef step on, over ``chef_server`` (made here where it is None).
        consul: settings that switch the Consul step on, over ``consul_catalog`` (made here where it is None).
        more_steps: run after the others.
        sweep: settings that switch the sweep on.
        together: as the application's.
    """

    def __init__(
        self,
        *,
        dry_run: bool = False,
        inventory: bool = True,
        zones: bool = True,
        record_names: Iterable[str] = ("{tag:Name}." + DOMAIN,),
        instance_filter: InstanceFilter | None = None,
        queue: QueueSettings | None = None,
        sweep: SweepSettings | None = None,
        chef: ChefSettings | None = None,
        chef_server: Any = None,
        consul: ConsulSettings | None = None,
        consul_catalog: Any = None,
        more_steps: Iterable[StepFactory] = (),
        together: Together = in_turn,
    ) -> None:
        self.time = datetime(2026, 3, 1, 12, tzinfo=UTC)
        self.ec2 = FakeEc2()
        self.zones = FakeZones()
        self.zones.add_zone(FORWARD, DOMAIN)
        self.zones.add_zone(REVERSE, REVERSE_DOMAIN)
        self.inventory = FakeInventory(now=lambda: self.time)
        self.log = FakeLog()
        self.metric_lines: list[str] = []
        self.queue = FakeQueue(lambda: self.time)
        self.chef, self.consul = chef_server, consul_catalog
        if chef is not None and self.chef is None:
            self.chef = import_module("tests.fakes.chef").FakeChefServer()
        if consul is not None and self.consul is None:
            self.consul = import_module("tests.fakes.consul").FakeConsulCatalog()
        self.config = Config(
            "ec2-decommission",
            dry_run=dry_run,
            instance_filter=instance_filter or InstanceFilter(),
            route53=Route53Settings((FORWARD, REVERSE), tuple(Template(t) for t in record_names)) if zones else None,
            chef=chef,
            consul=consul,
            inventory=InventorySettings("inventory") if inventory else None,
            sweep=sweep,
            queue=queue or QueueSettings("https://sqs.example/queue"),
        )
        self.more_steps = list(more_steps)
        self._together = together
        self.most_in_a_piece = PIECE
        self._messages: Counter[str] = Counter()
        self._application = self.cold_start()

    # The function

    def cold_start(self) -> Application:
        """A new application over the same world, as a new execution environment has it."""
        config = self.config
        self._clock = Clock()
        self._application = Application(
            config,
            ec2=self.ec2,
            living=lambda gone, namesakes: LivingInEc2(self.ec2, gone, namesakes, lambda: self.time),
            inventory=self.inventory if config.inventory else None,
            steps=[*self._steps(), *self.more_steps],
            log=self.log,
            clock=self._clock,
            delays=self.queue,
            sweep=self._sweep if config.sweep and config.inventory else None,
            now=lambda: self.time,
            metrics=Metrics(config.name, self.metric_lines.append),
            together=self._together,
        )
        return self._application

    def _steps(self) -> list[StepFactory]:
        route53, chef, consul = self.config.route53, self.config.chef, self.config.consul
        steps = []
        if route53:
            steps.append(StepFactory("route53", lambda _: Route53Step(route53, self.zones)))
        if chef:

            def chef_step(dry_run: bool) -> Step:
                step: Step = import_module("ec2_decommission.steps.chef").ChefStep(
                    chef, self.chef, confirm_clients=dry_run
                )
                return step

            steps.append(StepFactory("chef", chef_step, chef.node_name if chef.delete_client else None))
        if consul:

            def consul_step(_: bool) -> Step:
                step: Step = import_module("ec2_decommission.steps.consul").ConsulStep(consul, self.consul)
                return step

            steps.append(StepFactory("consul", consul_step))
        return steps

    def _sweep(self) -> Sweep:
        if self.config.sweep is None:
            raise AssertionError("the sweep is off")

        def wanted(description: Description) -> bool:
            return unwanted(description.instance(), self.config.instance_filter) is None

        place = Place(self.ec2.region, ACCOUNT)
        datacenters = self.config.consul.datacenters if self.config.consul else ()
        found = sources(
            self.config.sweep.adopt, place, lambda: self.chef, lambda: self.consul, datacenters, lambda: self.time
        )
        return Sweep(
            self.config.sweep,
            self.ec2,
            self.inventory,
            self.queue,
            wanted,
            place,
            self._clock,
            Adoption(found, self.ec2, self.inventory) if found else None,
            now=lambda: self.time,
            most=self.most_in_a_piece,
        )

    def send(self, payload: Any, seconds: float = SECONDS) -> dict[str, Any]:
        """One EventBridge event or operator's payload by itself; the report."""
        return self.handle(payload, seconds)

    def handle(self, event: Any, seconds: float = SECONDS) -> dict[str, Any]:
        """Whatever the function may be called with."""
        return self._application.handle(event, Deadline.after(seconds))

    def send_batch(
        self, *bodies: Any, receive_count: int = 1, seconds: float = SECONDS, message_ids: Sequence[str] = ()
    ) -> Answered:
        """One SQS batch; a body that is text goes as it is, any other as JSON."""
        records = []
        for number, body in enumerate(bodies):
            self._messages["sent"] += 1
            message_id = message_ids[number] if message_ids else f"m-{self._messages['sent']}"
            records.append(
                {
                    "messageId": message_id,
                    "receiptHandle": f"r-{message_id}",
                    "body": body if isinstance(body, str) else json.dumps(body),
                    "attributes": {"ApproximateReceiveCount": str(receive_count)},
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

    def operate(self, instance_id: str, *, dry_run: bool | None = None) -> dict[str, Any]:
        """The operator's call."""
        payload: dict[str, Any] = {"instance_id": instance_id}
        return self.send(payload if dry_run is None else {**payload, "dry_run": dry_run})

    def sweep(self) -> dict[str, Any]:
        """The sweep's call; what it sends is then in ``queue.sent``."""
        return self.send({"sweep": True})

    # Events

    def event(self, instance_id: str, state: str) -> dict[str, Any]:
        """As EventBridge delivers it."""
        return {
            "version": "0",
            "id": f"e-{instance_id}-{state}",
            "detail-type": "EC2 Instance State-change Notification",
            "source": "aws.ec2",
            "account": ACCOUNT,
            "time": self.time.strftime("%Y-%m-%dT%H:%M:%SZ"),
            "region": self.ec2.region,
            "resources": [f"arn:aws:ec2:{self.ec2.region}:{ACCOUNT}:instance/{instance_id}"],
            "detail": {"instance-id": instance_id, "state": state},
        }

    def running(self, instance_id: str) -> dict[str, Any]:
        return self.event(instance_id, "running")

    def terminated(self, instance_id: str) -> dict[str, Any]:
        return self.event(instance_id, "terminated")

    def later(self, delta: timedelta) -> None:
        """Lets time pass."""
        self.time += delta

    # Instances and their records

    def launch(self, name: str, private_ip: str | None = None, *, records: bool = True, **more: Any) -> str:
        """Launches an instance, and makes its A and PTR record as its boot script would (replacing what is there)."""
        instance_id = self.ec2.launch(name, private_ip, **more)
        if records:
            self.register(instance_id)
        return instance_id

    def register(self, instance_id: str) -> None:
        """Writes the A and PTR record of a living instance over whatever is there."""
        machine = self.ec2.machines[instance_id]
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
    """The name of an address's PTR record."""
    return ipaddress.ip_address(address).reverse_pointer + "."


def step_of(report: Mapping[str, Any], step: str) -> dict[str, Any]:
    """The report of one step."""
    return next(dict(s) for s in report["steps"] if s["step"] == step)
