"""A fleet and the function: deliveries, faults, races and time. The oracle judges every call of the function."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from ec2_decommission.config import InstanceFilter
from ec2_decommission.errors import AccessError, TransientError
from ec2_decommission.events import SOURCE, SWEEP
from ec2_decommission.inventory import RUNNING
from ec2_decommission.live import FRESH_SECONDS
from tests.fakes.world import HOME, Answered
from tests.model.fleet import NO_FILTER, UNSERVED, Fleet, Message, adoption
from tests.model.ledger import Body, Look, Setup, Thing, Violation, look

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence
    from datetime import datetime

    from ec2_decommission.instance import Facts
    from ec2_decommission.inventory import Record
    from ec2_decommission.place import Place

MANY = 8  # a message is stuck after this many attempts
BOOT = timedelta(seconds=10)  # the minimum time between a launch or rename, and the writes under the name
_STEPS = ("route53", "chef", "consul")

Report = dict[str, Any]


class Killed(BaseException):
    """Lambda kills the function here."""


@dataclass
class Fault:
    """A fault in every call of a system, or in a single call of any system, chosen by ``countdown``."""

    error: str
    systems: frozenset[str] = frozenset()
    countdown: int = 0


@dataclass
class Race:
    """A concurrent action, before the function's call number ``calls`` or at a later time."""

    action: Callable[[], None]
    calls: int = 0
    at: datetime | None = None


class History(Fleet):
    """A history of a fleet.

    Attributes:
        slow: the seconds that each call of a system takes.
        denied: places where EC2 denies the function.
        seen: counts of what happened, to show that the histories are not idle.
        broken: true while the function runs and after a violation.
    """

    def __init__(self, setup: Setup, instance_filter: InstanceFilter = NO_FILTER) -> None:
        super().__init__(setup, instance_filter)
        self.fault: Fault | None = None
        self.races: list[Race] = []
        self.slow: Mapping[str, float] = {}
        self.denied: set[Place] = set()
        self.seen: Counter[str] = Counter()
        self.broken = False
        self.raced = False  # during the last call of the function
        self._before: Look | None = None  # while the function runs: the last judged state of the world
        self._wrong: Exception | None = None  # an error in a race, which the function would handle as its own
        self._deleted_at: dict[Thing, datetime] = {}  # the function's last deletion by name
        self._late = 0.0  # seconds of the last call that are still to elapse
        self._register_hooks()
        self.answer(self.queue[:])

    # Time, faults and races

    def _register_hooks(self) -> None:
        def hook(system: str, place: Place | None = None) -> Callable[..., None]:
            return lambda operation, *names: self._call(system, operation, place, *names)

        world = self.world
        world.tick = self._tick
        world.zones.fault, world.inventory.fault, world.queue.fault = map(hook, ("route53", "inventory", "queue"))
        world.chef.fault, world.consul.fault = hook("chef"), hook("consul")
        for place, ec2 in world.ec2s.items():
            ec2.fault = hook("ec2", place)

    def _call(self, system: str, operation: str, place: Place | None, *names: str) -> None:
        """Runs before each call that the function makes."""
        self._tick()
        if operation in ("delete nodes", "delete clients"):
            self._deleted_at[f"chef {operation[7:-1]}", names[0]] = self.world.time
        for race in self.races:
            race.calls -= 1
        if operation not in ("members", "force-leave"):  # these calls have only a name, so a race is unavoidable
            self._race()
        self._late += self.slow.get(system, 0.0)
        if place in self.denied:
            raise AccessError(f"ec2 in {place}: no permission to {operation}")
        fault = self.fault
        if fault is None:
            return
        fault.countdown -= 1
        if system in fault.systems or fault.countdown == 0:
            self._fail(fault.error, system, operation)

    def _fail(self, error: str, system: str, operation: str) -> None:
        self.seen[f"fault {error}"] += 1
        if error == "killed":
            raise Killed(operation)
        if error == "bug" and system in _STEPS:
            raise ZeroDivisionError(f"{system} {operation}")
        if error == "rights":
            raise AccessError(f"{system}: no permission to {operation}")
        if error == "lost" and operation == "ChangeResourceRecordSets":
            self.world.zones.lost += 1  # the change takes effect, but its answer is lost
        else:
            raise TransientError(f"{system}: {operation} failed")

    def _tick(self) -> None:
        """Advances the time by the duration of the last call."""
        self.world.time += timedelta(seconds=self._late)
        self._late = 0.0

    def _race(self) -> None:
        due = [r for r in self.races if r.calls < 0 and (r.at is None or r.at <= self.world.time)]
        if not due or self._before is None or self._wrong:
            return
        try:
            self._judge()
            self._before = None  # the following changes are not the function's
            self.races = [race for race in self.races if race not in due]
            for race in due:
                race.action()
        except Exception as error:
            self._wrong = error
        self.seen["races"] += len(due)
        self.raced = True
        self._before = look(self.world)

    def after(self, wait: timedelta, action: Callable[[], None]) -> None:
        """Schedules an action for later, while the function runs or when the history settles."""
        self.races.append(Race(action, at=self.world.time + wait))

    # A call of the function

    def _judged(self, batch: Iterable[str], call: Callable[[], Any], *, dry: bool = False) -> Any:
        """Calls the function and judges its changes. Returns None if the function was killed."""
        self.broken = True
        before, records = look(self.world), dict(self.world.inventory.items)
        self._before, self.raced, answer = before, False, None
        for body in filter(None, map(self.ledger.bodies.get, batch)):
            in_doubt = body.tags_gone or self.ledger.excluded(body)
            body.left_alone |= not body.alive and self.ledger.filter != NO_FILTER and in_doubt
        try:
            answer = call()
        except Killed:
            self.world.cold_start()
        self._tick()
        if self._wrong:
            raise self._wrong
        self._judge()
        self._before = None
        self._judge_memory(records)
        if dry and not self.raced and (look(self.world), self.world.inventory.items) != (before, records):
            raise Violation("a dry run or a no-op call made changes")
        self.broken = False
        return answer

    def _judge(self) -> None:
        assert self._before is not None
        now = look(self.world)
        self.seen.update(f"removed: {thing[0]}" for thing in self._before.keys() - now.keys())
        for thing in self.ledger.judge(self._before, now, self._is_unavoidable):
            self._save_again(thing, self._before[thing])

    def _is_unavoidable(self, thing: Thing) -> bool:
        """Chef deletes only by name, and is read at most three requests before the EC2 query."""
        sent = self._deleted_at.get(thing)
        seconds = FRESH_SECONDS + 3 * self.slow.get("chef", 0.0)
        return sent is not None and self.ledger.written[thing] > sent - timedelta(seconds=seconds)

    def _save_again(self, thing: Thing, content: Any) -> None:
        """The owner saves the node again in its next Chef run."""
        chef = self.world.chef
        if thing[0] == "chef node":
            chef.node_objects[thing[1]] = content
        else:
            chef.client_names.add(thing[1])
        chef._write()

    def _judge_memory(self, before: Mapping[str, Record]) -> None:
        """Checks that the inventory is correct and that its states only move forward."""
        for instance_id, record in self.world.inventory.items.items():
            body, old = self.ledger.bodies.get(instance_id), before.get(instance_id)
            if record is old:
                continue
            if old and old.state == "terminated" and record.state != "terminated":
                raise Violation(f"{instance_id} was terminated, but is {record.state} in the inventory")
            if body and body.alive and record.state == "terminated":
                raise Violation(f"{instance_id} is live, but terminated in the inventory")
            had, names = (body.addresses, body.names) if body else (set(), set())
            wrong = {*record.facts.private_ips, *record.facts.public_ips} - had
            if wrong or record.facts.tags.get("Name", "").lower() not in {*names, ""}:
                raise Violation(f"the inventory has wrong facts of {instance_id}: {record.facts}")

    # Deliveries

    def answer(self, messages: Sequence[Message], *, keep: bool = False, rehearse: bool = False) -> None:
        """Delivers a batch. Failed messages return, and with ``keep`` the others are delivered a second time."""
        if not messages:
            return
        ended = [m for m in messages if m.kind == "terminated"]
        quiet = not (self.fault or self.races or self.slow)
        rehearsal = self._rehearse(ended) if rehearse and quiet and ended else None
        answered = self._judged([m.instance_id for m in messages], lambda: self._send(messages))
        for message in messages:
            failed = answered is None or message.message_id in answered.failed
            if failed:
                message.receive_count += 1
                self.seen["messages returned"] += 1
            elif not keep:
                self.queue.remove(message)
            if answered is not None:
                self._check_report(message, answered.reports[message.message_id], failed=failed)
        self._receive_sweeps()
        if rehearsal is not None and answered is not None:
            # A retry omits settled steps, and therefore objects that they share with other instances of the batch.
            retried = any("settled_at" in s for m in messages for s in answered.reports[m.message_id]["steps"])
            for message in () if retried else ended:
                self._compare(rehearsal.reports[message.message_id], answered.reports[message.message_id])

    def _send(self, messages: Sequence[Message]) -> Answered:
        self.seen["batches"] += 1
        return self.world.send_batch(
            *(m.body for m in messages),
            message_ids=[m.message_id for m in messages],
            receive_count=max(m.receive_count for m in messages),
        )

    def _check_report(self, message: Message, report: Report, *, failed: bool) -> None:
        bad = bool(report.get("errors")) or any(s["status"] == "failed" for s in report["steps"])
        if bad != failed and message.kind != "sweep":
            raise Violation(f"{message.kind} {message.instance_id}: returned {failed}, and the report says {report}")
        body = self.ledger.bodies.get(message.instance_id)
        if body and body.alive and not failed and message.kind == "running":
            self._check_recorded(body)
        elif body and body.alive and not failed:
            raise Violation(f"{message.instance_id} is live, but was handled as terminated")

    def _check_recorded(self, body: Body) -> None:
        """Checks that the function recorded a live instance after its event."""
        if not self.setup.inventory or self.raced:
            return
        record = self.world.inventory.items.get(body.instance_id)
        known = {*record.facts.private_ips, *record.facts.public_ips} if record else set()
        if record is None or record.state != RUNNING or not body.current <= known:
            raise Violation(f"{body.instance_id} is running, but not recorded: {record}")
        body.recorded |= body.traits

    def _rehearse(self, messages: Sequence[Message]) -> Answered:
        """Runs the same batch as a dry run."""
        self.world.configure(dry_run=True)
        answered: Answered = self._judged((), lambda: self._send(messages), dry=True)
        self.world.configure(dry_run=False)
        return answered

    def _compare(self, dry: Mapping[str, Any], real: Mapping[str, Any]) -> None:
        if dry["steps"] != real["steps"]:
            raise Violation(f"the dry run reported {dry['steps']}, but the real run {real['steps']}")
        self.seen["dry runs compared"] += 1

    def foreign_event(self, instance_id: str, kind: str) -> None:
        """Delivers an event of an unserved place. The function must make no calls and no changes."""
        calls = self._calls()
        event = self.world.event(instance_id, kind, UNSERVED)
        answered = self._judged((), lambda: self.world.send_batch(event), dry=True)
        if answered.failed or self._calls() != calls:
            raise Violation(f"the foreign event {kind} of {instance_id} was not ignored")

    def _calls(self) -> list[Counter[str]]:
        world = self.world
        fakes: list[Any] = [*world.ec2s.values(), world.zones, world.inventory, world.chef, world.consul]
        return [Counter(fake.calls) for fake in fakes]

    def reconfigure(self, instance_filter: InstanceFilter) -> None:
        self.ledger.filter = instance_filter
        sweep = adoption(instance_filter) if self.setup.inventory else None
        self.world.configure(instance_filter=instance_filter, sweep=sweep)

    # Operators, and the sweep

    def operate(self, instance_id: str, place: Place | None = None, *, dry_run: bool = False) -> Report | None:
        """Makes an operator's call for one instance, with or without its place. Returns None if it was killed."""
        body, world = self.ledger.bodies.get(instance_id), self.world
        known = body and (instance_id in world.inventory.items or instance_id in world.ec2s[body.place].machines)
        elsewhere = body and known and (place or HOME) != body.place
        idle = bool(dry_run or elsewhere or (body and body.alive))
        report: Report | None = self._judged(
            [instance_id], lambda: world.operate(instance_id, dry_run=dry_run, place=place), dry=idle
        )
        return report

    def operate_twice(self, body: Body, place: Place | None) -> None:
        """Checks that a dry run and the real run after it have the same actions."""
        dry = self.operate(body.instance_id, place, dry_run=True)
        raced = self.raced
        real = self.operate(body.instance_id, place)
        if dry and real and not raced and not self.raced:
            self._compare(dry, real)

    def sweep(self, place: Place, *, dry_run: bool = False) -> None:
        """Sweeps a place. Gone instances are queued, and live instances are recorded."""
        if not self.setup.inventory:
            return
        payload = {"sweep": True, "dry_run": dry_run, "account_id": place.account_id, "region": place.region}
        report = self._judged((), lambda: self.world.send(payload), dry=dry_run)
        if report and not dry_run and not report.get("errors"):
            for body in self.ledger.living():
                if body.place == place:
                    self._check_recorded(body)
                    body.swept = dict(body.tags)
        self._receive_sweeps()

    def _receive_sweeps(self) -> None:
        for event in self.world.queue.sent:
            instance_id = event["detail"].get("instance-id", "")
            body = self.ledger.bodies.get(instance_id)
            if instance_id and (body is None or body.alive):
                raise Violation(f"the sweep considers {instance_id} gone, but it is live or in no served place")
            self.enqueue("terminated" if instance_id else "sweep", instance_id, event)
            self.seen["found by the sweep"] += bool(instance_id)
        self.world.queue.sent.clear()

    # The end

    def settle(self) -> None:
        """Ends faults and dead agents, delivers everything and sweeps. Checks that no undisputed objects are left."""
        self.fault, self.slow, self.denied = None, {}, set()
        races, self.races = self.races, []
        for race in races:
            self.world.time += BOOT
            race.action()
        self.world.chef.catch_up()
        self._end_doubtful_agents()
        self.world.time += timedelta(hours=1)
        lives = {body.instance_id for body in self.ledger.living()}
        self.queue = [m for m in self.queue if m.kind == "running" or m.instance_id not in lives]
        self._drain()
        self.world.time += timedelta(hours=25)
        self.world.consul.sync()
        if self.setup.inventory:
            event = {"source": SOURCE, "detail-type": SWEEP, "detail": {}, "time": self.world.time.isoformat()}
            self.enqueue("sweep", "", event)
            self._drain()
        for instance_id, record in self.world.inventory.items.items():
            if instance_id not in lives and not record.finished:
                raise Violation(f"{instance_id} is dead, but its record is {record}")
        dead = [body for body in self.ledger.bodies.values() if not body.alive]
        reports: dict[str, Report] = {}
        for _ in range(3):  # one instance may leave the part of a shared record set that belongs to another
            before = self._known()
            for body in dead:
                reports[body.instance_id] = self._succeed(self.operate(body.instance_id, body.place))
            if self._known() == before:
                break  # another round would repeat this one
        for body in dead:
            report = reports[body.instance_id]
            actions = [action for step in report["steps"] for action in step["actions"]]
            # Without an inventory, a second run knows less than the first: the objects that identified them are gone.
            if actions and self.setup.inventory:
                raise Violation(f"{body.instance_id} still has {actions}")
            for thing in self.ledger.left_over(body, look(self.world)) if self.setup.inventory else ():
                raise Violation(f"{thing} of {body} was left: {report}")

    def _known(self) -> tuple[Look, dict[str, Facts]]:
        """What the outcome of an operator's call depends on."""
        return look(self.world), {i: record.facts for i, record in self.world.inventory.items.items()}

    def _end_doubtful_agents(self) -> None:
        """Ends the agents of dead instances, and agents that cannot be distinguished from them.

        The latter have a dead instance's address and no id, and are outside EC2 or have an outdated name. They block
        the dead instance's message.
        """
        consul, things = self.world.consul, look(self.world)
        for body in self.ledger.bodies.values():
            if not body.alive:
                self.kill_agents(body)
        for thing in [t for t in things if t[0] == "consul node" and t[1] != "dc1-server"]:
            owner = self.ledger.owner(thing)
            outdated = owner is None or (owner.alive and thing[1] not in (owner.name, owner.hostname))
            if outdated and things[thing].instance_id is None:
                consul._world["dc1"].agents.pop(thing[1], None)
                consul._drop(consul._world["dc1"], thing[1])

    def _drain(self) -> None:
        for _ in range(MANY):
            if not self.queue:
                return
            self.answer(self.queue[:])
        raise Violation(f"stuck in the queue: {self.queue}: {self.world.log.messages('error')[-3:]}")

    @staticmethod
    def _succeed(report: Report | None) -> Report:
        if not report or report.get("errors") or any(s["status"] == "failed" for s in report["steps"]):
            raise Violation(f"failed without a fault: {report}")
        return report
