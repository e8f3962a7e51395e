"""A small fleet with its traces, its strangers, its faults and its events; every call of the function is judged."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from ec2_decommission.config import ChefSettings, ConsulSettings, SweepSettings
from ec2_decommission.errors import AccessError, TransientError
from ec2_decommission.inventory import RUNNING
from ec2_decommission.templates import Template
from ec2_decommission.together import in_turn
from tests.fakes.ec2 import VPC, private_dns_name
from tests.fakes.world import DOMAIN, FORWARD, REVERSE, Answered, World, pointer
from tests.model.ledger import (
    LOCKS,
    OWN_CLIENT,
    SEMAPHORE,
    STRANGER,
    Body,
    Ledger,
    RecordKey,
    Setup,
    View,
    Violation,
    dotted,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

ADDRESSES = ("10.0.0.5", "10.0.0.6", "10.0.0.7")
PUBLIC = ("54.0.0.1", "54.0.0.2")
OTHER_VPC = "vpc-0000000000000000b"
FOREIGN = "10.9.0.1"  # no instance ever has it
FOREIGN_ID = "i-0f00000000000000f"  # of another account
MANY = 8  # so often a message is tried before it counts as stuck
_STEPS = ("route53", "chef", "consul")


class Killed(BaseException):
    """Lambda ends the function here."""


@dataclass
class Message:
    """A message in the queue."""

    message_id: str
    kind: str
    instance_id: str
    body: Mapping[str, Any]
    receive_count: int = 1


@dataclass
class Fault:
    """What goes wrong: every call of a system, or the one call of any system that ``countdown`` comes to."""

    error: str
    systems: frozenset[str] = frozenset()
    countdown: int = 0


def backwards(jobs: Sequence[Callable[[], None]]) -> None:
    """The last first."""
    in_turn(jobs[::-1])


class Fleet:
    """One history."""

    def __init__(self, setup: Setup) -> None:
        self.setup = setup
        self.world = World(
            inventory=setup.inventory,
            record_names=setup.record_names,
            sweep=SweepSettings(adopt=("chef", "consul")) if setup.inventory else None,
            chef=ChefSettings(
                "https://chef.example/organizations/x",
                OWN_CLIENT,
                node_name=Template(setup.chef_name) if setup.chef_name else None,
                delete_client=setup.delete_client,
            ),
            consul=ConsulSettings(
                "https://consul.example:8501",
                node_name=Template(setup.consul_name) if setup.consul_name else None,
                lock_prefixes=(LOCKS,),
                deregister_node=setup.deregister,
            ),
            together=backwards if setup.backwards else in_turn,
        )
        self.ledger = Ledger(setup)
        self.queue: list[Message] = []
        self.fault: Fault | None = None
        self.race: Callable[[], None] | None = None
        self.race_after = 0  # so many calls that could be the one before a change
        self.seen: Counter[str] = Counter()  # what happened, to show that the histories are not idle
        self.broken = True  # while the function is under way, and after a violation
        self._unread: set[str] = set()
        self._raced = False
        self._before = self._start = View.of(self.world)
        self._batch: tuple[str, ...] = ()
        self._serial = 0
        self._register_hooks()
        self.world.chef.put_client(OWN_CLIENT)
        self.ledger.chef_clients[OWN_CLIENT] = STRANGER
        self.ledger.consul_nodes["dc1-server"] = STRANGER
        # One that always lives: a sweep that finds nobody alive believes nothing.
        anchor = self.launch("anchor", "10.0.0.4")
        self.boot(anchor)
        self.answer(self.queue[:])

    # The fleet

    def launch(self, name: str | None, address: str, vpc_id: str = VPC, public: str | None = None) -> Body:
        """An instance starts; its event is on its way."""
        instance_id = self.world.ec2.launch(name, address, vpc_id=vpc_id, public_ip=public)
        self.world.ec2.machines[instance_id].launch_time = self.world.time
        body = Body(instance_id, name, address, vpc_id, public)
        self.ledger.bodies[instance_id] = body
        self.emit("running", body)
        return body

    def free(self, address: str, vpc_id: str) -> bool:
        interfaces = self.world.ec2.network_interfaces.values()
        return not any(i.vpc_id == vpc_id and address in i.addresses for i in interfaces)

    def terminate(self, body: Body, *, agent_lives_on: bool = False) -> None:
        self.world.ec2.terminate(body.instance_id)
        body.alive = False
        if not agent_lives_on:
            self.kill_agents(body)
        self.emit("terminated", body)

    def kill_agents(self, body: Body) -> None:
        for name, alive in View.of(self.world).agents.items():
            if alive and self.ledger.consul_nodes.get(name) == body.instance_id:
                self.world.consul.kill(name)

    def boot(
        self,
        body: Body,
        *,
        dns: str = "upsert",
        ptr: bool = True,
        chef: str = "ec2",
        chef_as: str = "name",
        consul: str = "meta",
        consul_as: str = "name",
        sessions: Sequence[str] = (),
    ) -> None:
        """An instance writes its traces over whatever is there, as a boot script does."""
        self._boot_dns(body, dns, ptr=ptr)
        self._boot_chef(body, chef, chef_as)
        self._boot_consul(body, consul, consul_as, sessions)

    def _boot_dns(self, body: Body, mode: str, *, ptr: bool) -> None:
        label = body.hostname if mode == "hostname" else body.name
        if mode == "none" or label is None:
            return
        name = dotted(f"{label}.{DOMAIN}")
        sets = {k: v for k, v in self.records().items() if k[:2] == (FORWARD, name) and k[2] in ("A", "CNAME")}
        plain = (FORWARD, name, "A", "")
        owner = body.instance_id
        if mode == "append" and sets.get(plain):
            values = dict.fromkeys([*sets[plain], body.address])
            self.put(
                plain, {v: self.ledger.values[plain, v] for v in values if v != body.address} | {body.address: owner}
            )
        elif mode == "multi" and plain not in sets and (FORWARD, name, "CNAME", "") not in sets:
            self.put((FORWARD, name, "A", owner), {body.address: owner}, MultiValueAnswer=True)
        else:
            for key in sets:
                self.take(key)
            if mode == "cname":
                self.put((FORWARD, name, "CNAME", ""), {private_dns_name(body.address) + ".": owner})
            else:
                value = body.public if mode == "public" and body.public else body.address
                self.put(plain, {value: owner})
        if ptr:
            self.put((REVERSE, pointer(body.address), "PTR", ""), {name: owner})

    def _boot_chef(self, body: Body, mode: str, called: str) -> None:
        name = body.name if called == "name" else f"node-{called}"
        if mode == "none" or name is None or name == OWN_CLIENT:
            return
        by_template = self.setup.chef_name is not None and name == body.name
        if mode == "client" and not by_template:
            return  # nobody could tell whose client it is
        if mode == "bare" and self.setup.chef_name is not None and not by_template:
            return  # nor whose node
        if mode == "ec2":
            facts = {"private_ips": (body.address,), "private_dns_names": (private_dns_name(body.address),)}
            self.world.chef.put_node(name, body.instance_id, vpc_id=body.vpc_id, **facts)
        elif mode == "bare":
            self.world.chef.put_node(name)
        if mode != "client":
            self.ledger.chef_nodes[name] = body.instance_id
        self.world.chef.put_client(name)
        self.ledger.chef_clients[name] = body.instance_id

    def _boot_consul(self, body: Body, mode: str, called: str, sessions: Sequence[str]) -> None:
        name = {"name": body.name, "hostname": body.hostname}.get(called)
        if mode == "none" or name is None:
            return
        view = View.of(self.world)
        owner = self.ledger.consul_nodes.get(name)
        if view.agents.get(name) and owner != body.instance_id:
            return  # Consul refuses a name that a living agent has
        meta = {"instance_id": body.instance_id} if mode == "meta" else {}
        if mode == "agentless":
            if name in view.agents:
                return
            self.world.consul.register_node(name, body.address, meta)
        else:
            self.world.consul.add_agent(name, body.address, meta)
        self.ledger.consul_nodes[name] = body.instance_id
        for kind in sessions:
            self.hold(name, kind, agent=mode != "agentless")

    def hold(self, node: str, kind: str, *, agent: bool) -> None:
        """A session of a node, with what it holds."""
        consul = self.world.consul
        consul.now += 60  # past every lock-delay
        checks = ["serfHealth"] if kind == "checked" and agent else []
        behavior = "delete" if kind == "delete" else "release"
        session = consul.create_session(node, behavior=behavior, checks=checks)
        self.ledger.sessions[session] = self.ledger.consul_nodes[node]
        if kind == "semaphore":
            consul.acquire(f"{LOCKS}sem/{session}", session, b"contender", SEMAPHORE)
            consul.put(f"{LOCKS}sem/.lock", session.encode(), SEMAPHORE)
        elif kind != "idle":
            keys = {"outside": ["other/x"], "delete": [f"{LOCKS}b"]}.get(kind, [f"{LOCKS}a", f"{LOCKS}c", "other/x"])
            for key in keys:
                consul.acquire(key, session, f"by {node}".encode(), 7)

    # Records, with their owners

    def records(self) -> dict[RecordKey, tuple[str, ...]]:
        return {key: values for key, (_, values) in View.of(self.world).records.items()}

    def put(self, key: RecordKey, owners: Mapping[str, str], ttl: int = 300, **more: Any) -> None:
        zone, name, kind, identifier = key
        self.forget_values(key)
        if identifier:
            more["SetIdentifier"] = identifier
        self.world.zones.put(zone, name, kind, list(owners), ttl, **more)
        for value, owner in owners.items():
            self.ledger.values[key, value] = owner

    def take(self, key: RecordKey) -> None:
        zone, name, kind, identifier = key
        self.forget_values(key)
        self.world.zones.take(zone, name, kind, identifier or None)

    def forget_values(self, key: RecordKey) -> None:
        for known in [k for k in self.ledger.values if k[0] == key]:
            del self.ledger.values[known]

    # Strangers

    def meddle(self, act: str, name: str, address: str) -> None:
        """Somebody does something by hand."""
        fqdn = dotted(f"{name}.{DOMAIN}")
        plain = (FORWARD, fqdn, "A", "")
        records = self.records()
        if act in ("record", "alias"):
            for key in records:
                if key[:2] == (FORWARD, fqdn) and key[2] in ("A", "CNAME"):
                    self.take(key)
            target: dict[str, Any] = {
                "AliasTarget": {"HostedZoneId": "Z1", "DNSName": "lb.example.", "EvaluateTargetHealth": False}
            }
            if act == "alias":
                self.put(plain, {}, **target)
            else:
                self.put(plain, {FOREIGN: STRANGER})
        elif act == "value" and records.get(plain):
            owners = {v: self.ledger.values[plain, v] for v in records[plain]}
            self.put(plain, {**owners, FOREIGN: STRANGER})
        elif act == "ttl" and records.get(plain):
            self.put(plain, {v: self.ledger.values[plain, v] for v in records[plain]}, ttl=60)
        elif act == "external-dns":
            self.put((FORWARD, fqdn, "TXT", ""), {'"heritage=external-dns,external-dns/owner=x"': STRANGER})
        elif act == "pointer":
            self.put((REVERSE, pointer(address), "PTR", ""), {"printer.example.internal.": STRANGER})
        elif act == "unrecord" and plain in records:
            self.take(plain)
        elif act == "interface":
            if self.free(address, VPC):
                self.world.ec2.add_interface(address, description="ELB app/web")
                self.ledger.interfaces[address] = VPC
        else:
            self._meddle_with_names(act, name)

    def _meddle_with_names(self, act: str, name: str) -> None:
        chef, consul, ledger = self.world.chef, self.world.consul, self.ledger
        view = View.of(self.world)
        if act in ("chef", "bare chef"):
            if name == OWN_CLIENT:
                return
            facts = {"private_ips": (FOREIGN,)}
            chef.put_node(name, FOREIGN_ID if act == "chef" else None, **facts)
            if act == "chef":
                chef.tell(name, account_id="999999999999")
            chef.put_client(name)
            ledger.chef_nodes[name] = ledger.chef_clients[name] = STRANGER
        elif act == "unnode" and name in view.chef_nodes:
            if not ledger.alive(ledger.chef_clients.get(name)) or ledger.bearers(name, self.setup.chef_name):
                chef.delete_nodes([name])
        elif act == "unclient":
            chef.client_names.discard(name) if name != OWN_CLIENT else None
        elif act in ("consul", "bare consul") and not view.agents.get(name):
            if name in view.agents:
                return
            meta = {"instance_id": FOREIGN_ID, "region": "ap-southeast-2"}
            consul.register_node(name, FOREIGN, meta if act == "consul" else {})
            ledger.consul_nodes[name] = STRANGER
            self.hold(name, "lock", agent=False)
        elif act == "key":
            consul.put(f"{LOCKS}a", b"by hand", 9)

    # Faults

    def _register_hooks(self) -> None:
        world = self.world

        def hook(system: str) -> Callable[..., None]:
            return lambda operation, *_: self._call(system, operation)

        world.ec2.fault = hook("ec2")
        world.zones.fault = hook("route53")
        world.inventory.fault = hook("inventory")
        world.queue.fault = hook("queue")
        world.chef.fault = hook("chef")
        world.consul.fault = hook("consul")

    def _call(self, system: str, operation: str) -> None:
        if self.race and operation in ("ChangeResourceRecordSets", "txn"):
            self.race_after -= 1
        if self.race and self.race_after < 0:
            race, self.race = self.race, None
            self.seen["races"] += 1
            self.ledger.judge(self._before, View.of(self.world), self._batch, self._unread, self._start)
            race()
            self._before = View.of(self.world)
            self._raced = True
        fault = self.fault
        if fault is None:
            return
        if fault.systems:
            if system in fault.systems:
                self._raise(fault.error, system, operation)
            return
        fault.countdown -= 1
        if fault.countdown == 0:
            self._raise(fault.error, system, operation)

    def _raise(self, error: str, system: str, operation: str) -> None:
        self.seen[f"fault {error}"] += 1
        self._unread.add(system)
        if error == "killed":
            raise Killed(operation)
        if error == "bug" and system in _STEPS:
            raise ZeroDivisionError(f"{system} {operation}")
        if error == "rights":
            raise AccessError(f"{system}: no right to {operation}")
        raise TransientError(f"{system}: {operation} failed")

    # Events

    def emit(self, kind: str, body: Body) -> None:
        self.enqueue(kind, body.instance_id, self.world.event(body.instance_id, kind))

    def enqueue(self, kind: str, instance_id: str, event: Mapping[str, Any]) -> None:
        self._serial += 1
        self.queue.append(Message(f"m-{self._serial}", kind, instance_id, event))

    # The function

    def _answer(self, messages: Sequence[Message], *, keep: bool = False, rehearse: bool = False) -> None:
        if not messages:
            return
        quiet = self.fault is None and self.race is None
        ended = [m for m in messages if m.kind == "terminated"]  # a dry function remembers what runs, as any
        rehearsal = self._rehearse(ended) if rehearse and quiet and ended else None
        before = View.of(self.world)
        answered = self._judged([m.instance_id for m in messages], lambda: self._send(messages))
        self.seen["batches"] += 1
        for message in messages:
            failed = answered is None or message.message_id in answered.failed
            if failed:
                message.receive_count += 1
                self.seen["messages returned"] += 1
            elif not keep:
                self.queue.remove(message)
            if answered is not None:
                self._check_report(before, message, answered, failed=failed, messages=messages)
        if rehearsal is not None and answered is not None:
            # A retry leaves out what is settled, and with it what others of the batch share with it.
            retried = any("settled_at" in s for m in messages for s in answered.reports[m.message_id]["steps"])
            for message in () if retried else ended:
                self._compare(rehearsal.reports[message.message_id], answered.reports[message.message_id])

    def answer(self, messages: Sequence[Message], *, keep: bool = False, rehearse: bool = False) -> None:
        """The queue hands a batch over; what fails comes back, and with ``keep`` the rest comes a second time."""
        self.broken = True  # until it is through without a violation
        self._answer(messages, keep=keep, rehearse=rehearse)
        self.broken = False

    def _send(self, messages: Sequence[Message]) -> Answered:
        return self.world.send_batch(
            *(m.body for m in messages),
            message_ids=[m.message_id for m in messages],
            receive_count=max(m.receive_count for m in messages),
        )

    def _judged(self, batch: Iterable[str], call: Callable[[], Any]) -> Any:
        """Calls the function, and judges what it did; None where it was killed."""
        self._before = self._start = View.of(self.world)
        self._batch = tuple(batch)
        self._unread, self._raced = set(), False
        answered = None
        try:
            answered = call()
        except Killed:
            self.world.cold_start()
        after = View.of(self.world)
        self.ledger.judge(self._before, after, self._batch, self._unread, self._start)
        self._judge_memory(self._before, after)
        if self._before.records != after.records:
            self.seen["runs that removed records"] += 1
        if self._before.chef_clients != after.chef_clients or self._before.chef_nodes != after.chef_nodes:
            self.seen["runs that removed from Chef"] += 1
        if self._before.sessions != after.sessions:
            self.seen["runs that ended sessions"] += 1
        return answered

    def _judge_memory(self, before: View, after: View) -> None:
        """The inventory tells the truth, and its states only move forward."""
        for instance_id, record in after.items.items():
            body = self.ledger.bodies.get(instance_id)
            if body is None:
                raise Violation(f"the inventory remembers {instance_id}, which never was")
            old = before.items.get(instance_id)
            if old and old.state == "terminated" and record.state != "terminated":
                raise Violation(f"{instance_id} was terminated, and is {record.state} in the inventory")
            if body.alive and record.state == "terminated":
                raise Violation(f"{instance_id} lives, and is terminated in the inventory")
            wrong = {*record.facts.private_ips, *record.facts.public_ips} - body.addresses
            if wrong:
                raise Violation(f"the inventory has {wrong} for {instance_id}, which never had them")
            if record.facts.tags.get("Name", body.name) != body.name:
                raise Violation(f"the inventory has another name for {instance_id}")

    def _check_report(
        self, before: View, message: Message, answered: Answered, *, failed: bool, messages: Sequence[Message]
    ) -> None:
        report = answered.reports[message.message_id]
        bad = bool(report.get("errors")) or any(s["status"] == "failed" for s in report["steps"])
        if bad != failed:
            raise Violation(f"{message.kind} {message.instance_id}: returned {failed}, and the report says {report}")
        body = self.ledger.bodies[message.instance_id]
        if message.kind == "running" and not failed and body.alive and self.setup.inventory:
            record = self.world.inventory.items.get(message.instance_id)
            if record is None or record.state != RUNNING or body.address not in record.facts.private_ips:
                raise Violation(f"running {message.instance_id} was taken, and is not recorded: {record}")
        if message.kind != "terminated":
            return
        if body.alive and not failed:
            raise Violation(f"{message.instance_id} lives, and its end was believed")
        names = [r for m in messages if (r := answered.reports[m.message_id]).get("instance_id")]
        self._check_owed(before, report, names)

    def _check_owed(self, before: View, report: Mapping[str, Any], all_reports: Iterable[Mapping[str, Any]]) -> None:
        """Each step that has finished now has removed all that is provable, and tells of the rest."""
        body = self.ledger.bodies[report["instance_id"]]
        failed = {s["step"] for r in all_reports for s in r["steps"] if s["status"] == "failed"}
        if body.alive or self._raced or report.get("errors"):
            return
        after = View.of(self.world)
        for step in report["steps"]:
            blind = self._unread - {step["step"]}  # what another system did not tell, the retry will know
            if step["step"] not in failed and "settled_at" not in step and not blind:
                self.ledger.owed(step["step"], before, after, body.instance_id, step["reason"] or "")
                self.seen[f"{step['step']} {step['status']}"] += 1

    # Dry runs

    def _rehearse(self, messages: Sequence[Message]) -> Answered:
        """The same batch, dry: nothing changes."""
        config = self.world.config
        before = View.of(self.world)
        self.world.config = replace(config, dry_run=True)
        self.world.cold_start()
        try:
            answered = self._send(messages)
        finally:
            self.world.config = config
            self.world.cold_start()
        self._demand_unchanged(before)
        return answered

    def _demand_unchanged(self, before: View) -> None:
        if View.of(self.world) != before:
            raise Violation("a dry run changed something")

    def _compare(self, dry: Mapping[str, Any], real: Mapping[str, Any]) -> None:
        if dry["steps"] != real["steps"]:
            raise Violation(f"the dry run said {dry['steps']}, and the real run {real['steps']}")
        self.seen["dry runs compared"] += 1

    def operate(self, body: Body, *, dry_run: bool) -> dict[str, Any] | None:
        """An operator asks for one instance."""
        before = View.of(self.world)
        report: dict[str, Any] | None = self._judged(
            [body.instance_id], lambda: self.world.operate(body.instance_id, dry_run=dry_run)
        )
        if dry_run:
            self._demand_unchanged(before)
        elif report is not None:
            self._check_owed(before, report, [report])
        return report

    def operate_twice(self, body: Body) -> None:
        """Dry, then at once for real: the same actions."""
        dry = self.operate(body, dry_run=True)
        if dry is not None and self.fault is None:
            real = self.operate(body, dry_run=False)
            if real is not None:
                self._compare(dry, real)

    # The sweep

    def sweep(self, *, dry_run: bool = False) -> None:
        """What it finds gone comes into the queue."""
        if not self.setup.inventory:
            return
        before = View.of(self.world)
        self._judged((), lambda: self.world.send({"sweep": True, "dry_run": dry_run}))
        if dry_run:
            self._demand_unchanged(before)
        for event in self.world.queue.sent:
            instance_id = event["detail"]["instance-id"]
            if self.ledger.alive(instance_id):
                raise Violation(f"the sweep takes {instance_id} for gone, which lives")
            self.enqueue("terminated", instance_id, event)
            self.seen["found by the sweep"] += 1
        self.world.queue.sent.clear()

    # The end

    def settle(self) -> None:
        """Faults end, agents die, all is delivered and swept; then nothing provable of the dead is left."""
        self.fault = self.race = None
        for body in self.ledger.bodies.values():
            if not body.alive:
                self.kill_agents(body)
        self.queue = [m for m in self.queue if m.kind == "running" or not self.ledger.alive(m.instance_id)]
        self.world.time += timedelta(hours=1)
        self._drain()
        self.sweep()
        self._drain()
        for instance_id, record in self.world.inventory.items.items():
            if record.state == RUNNING and not self.ledger.alive(instance_id):
                raise Violation(f"{instance_id} is dead, and the inventory has it as {record.state!r}")
        dead = [body for body in self.ledger.bodies.values() if not body.alive]
        for body in [*dead, *dead]:  # what one leaves of a shared record set may be all that another needs
            self._expect_success(self.operate(body, dry_run=False))
        for body in dead:
            report = self.operate(body, dry_run=True)
            self._expect_success(report)
            actions = [action for step in (report or {})["steps"] for action in step["actions"]]
            # Without an inventory a second run knows less than the first: what told them apart is gone.
            if actions and self.setup.inventory:
                raise Violation(f"of {body.instance_id} there is still {actions}")

    def _drain(self) -> None:
        for _ in range(MANY):
            if not self.queue:
                return
            self.answer(self.queue[:])
        raise Violation(
            f"still in the queue after {MANY} tries: {self.queue}: {self.world.log.messages('error')[-3:]}"
        )

    def _expect_success(self, report: Mapping[str, Any] | None) -> None:
        if report is None or report.get("errors") or any(s["status"] == "failed" for s in report["steps"]):
            raise Violation(f"nothing is wrong any more, and it failed: {report}")
