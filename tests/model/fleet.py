"""A fleet in three places with its traces, strangers, faults and events; every call of the function is judged."""

from __future__ import annotations

from collections import Counter
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from ec2_decommission.config import ChefSettings, ConsulSettings, InstanceFilter, SweepSettings
from ec2_decommission.errors import AccessError, TransientError
from ec2_decommission.events import SOURCE, SWEEP
from ec2_decommission.inventory import RUNNING
from ec2_decommission.place import Place
from ec2_decommission.templates import Template
from ec2_decommission.together import in_turn
from tests.fakes.ec2 import ACCOUNT, REGION, VPC, private_dns_name
from tests.fakes.world import DOMAIN, FORWARD, HOME, REVERSE, Answered, World, pointer
from tests.model.ledger import (
    LOCKS,
    OWN_CLIENT,
    SEMAPHORE,
    STRANGER,
    UNAVOIDABLE,
    Body,
    Ledger,
    Look,
    Setup,
    Violation,
    alike,
    dotted,
    look,
    marks,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
    from datetime import datetime

ADDRESSES = ("10.0.0.5", "10.0.0.6", "10.0.0.7")
PUBLIC = ("54.0.0.1", "54.0.0.2", "54.0.0.3")
MEMBERS = (Place(ACCOUNT, "eu-west-1"), Place("222222222222", REGION))
UNSERVED = Place("999999999999", REGION)
# The same private range in four VPCs; private DNS names are the same in the two accounts, as in AWS.
VPCS = ((HOME, VPC), (HOME, "vpc-b"), (MEMBERS[0], "vpc-c"), (MEMBERS[1], "vpc-d"))
OUTSIDE = "10.9.0.1"  # no instance of a served place ever has it
FILTERS = (
    InstanceFilter(),
    InstanceFilter(exclude_tags={"keep": ("yes",)}),
    InstanceFilter(include_tags={"env": ("prod",)}),
)
MANY = 8  # so often a message is tried before it counts as stuck
BOOT = UNAVOIDABLE * 2  # the least time between a launch, a start or a new name and what is written under it
_STEPS = ("route53", "chef", "consul")


class Killed(BaseException):
    """Lambda ends the function here."""


@dataclass
class Message:
    """A message in the queue. ``instance_id`` is empty for a sweep."""

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


@dataclass
class Race:
    """What somebody does while the function runs: at its call number ``calls``, or later, when it is time."""

    action: Callable[[], None]
    calls: int = 0
    at: datetime | None = None


class _World(World):
    """The function's clock is the fleet's."""

    tick: Callable[[], None] = staticmethod(lambda: None)

    def _seconds(self) -> float:
        self.tick()
        return super()._seconds()


def backwards(jobs: Sequence[Callable[[], None]], workers: int | None = None) -> None:
    """The last first."""
    in_turn(jobs[::-1], workers)


def _adoption(instance_filter: InstanceFilter) -> SweepSettings:
    return SweepSettings(adopt=("chef", "consul") if instance_filter == InstanceFilter() else ())


class Fleet:
    """One history.

    Attributes:
        slow: seconds that each call of a system takes.
        denied: places whose EC2 the function may not ask.
        seen: what happened, to show that the histories are not idle.
        broken: while the function runs, and after a violation.
    """

    def __init__(self, setup: Setup, instance_filter: InstanceFilter = InstanceFilter()) -> None:
        self.setup = setup
        self.world = _World(
            places=MEMBERS,
            inventory=setup.inventory,
            record_names=setup.record_names,
            route53={"external_dns": setup.external_dns, "keep_names": (f"keep-*.{DOMAIN}",)},
            instance_filter=instance_filter,
            sweep=_adoption(instance_filter) if setup.inventory else None,
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
        self.ledger = Ledger(setup, instance_filter)
        self.queue: list[Message] = []
        self.fault: Fault | None = None
        self.races: list[Race] = []
        self.slow: dict[str, float] = {}
        self.denied: set[Place] = set()
        self.seen: Counter[str] = Counter()
        self.broken = True
        self._before: Look | None = None  # while the function runs: the world when it was last judged
        self._forced = 0
        self._late = 0.0  # seconds that the last call took, and that have not passed yet
        self._serial = 0
        self._raced = False
        self._wrong: Exception | None = None  # what went wrong in a race
        self._register_hooks()
        for name, details in ((OWN_CLIENT, {}), ("acme", {"validator": True}), ("root", {"admin": True})):
            self.world.chef.put_client(name, **details)
            self.note(STRANGER, ("chef client", name))
        self.note(STRANGER, ("consul node", "dc1-server"), ("agent", "dc1-server"))
        for number, place in enumerate(self.world.ec2s):  # a sweep that finds nobody alive believes nothing
            self.launch("anchor", f"10.255.0.{number + 4}", place, f"vpc-{number}")
        self.answer(self.queue[:])

    def note(self, owner: str, *things: tuple[str, ...]) -> None:
        self.ledger.note(owner, self.world.time, *things)

    # Instances

    def launch(
        self,
        name: str | None,
        address: str,
        place: Place = HOME,
        vpc_id: str = VPC,
        *,
        public: str | None = None,
        tags: Mapping[str, str] | None = None,
    ) -> Body:
        """An instance starts; its event is on its way. Addresses must be free."""
        ec2 = self.world.ec2s[place]
        instance_id = ec2.launch(name, address, vpc_id=vpc_id, public_ip=public, tags=tags)
        ec2.machines[instance_id].launch_time = self.world.time
        body = Body(instance_id, place, vpc_id, name, address, public, dict(tags or {}))
        body.names |= {name.lower()} if name else set()
        body.addresses |= body.current
        self.ledger.bodies[instance_id] = body
        self.emit("running", body)
        return body

    def fail_launch(self, name: str, place: Place) -> Body:
        """From ``pending`` to ``terminated``: a Name tag, no address, and never ``running``."""
        ec2 = self.world.ec2s[place]
        instance_id = ec2.launch(name, vpc_id="vpc-failed")
        ec2.terminate(instance_id)
        body = Body(instance_id, place, "vpc-failed", name, None, alive=False, names={name.lower()})
        self.ledger.bodies[instance_id] = body
        self.emit("terminated", body)
        return body

    def free(self, address: str, vpc_id: str | None = None) -> bool:
        """Whether an interface in the VPC may get a private address, or any interface a public one."""
        interfaces = [i for ec2 in self.world.ec2s.values() for i in ec2.network_interfaces.values()]
        taken = any(address in i.addresses and vpc_id in (None, i.vpc_id) for i in interfaces)
        return not taken and address not in self.ledger.elastic

    def end(self, body: Body, *, agent_lives_on: bool = False) -> None:
        self.world.ec2s[body.place].terminate(body.instance_id)
        body.alive = False
        if not agent_lives_on:
            self.kill_agents(body)
        self.emit("terminated", body)

    def kill_agents(self, body: Body) -> None:
        for thing, alive in look(self.world).items():
            if thing[0] == "agent" and alive and self.ledger.owners[thing] == body.instance_id:
                self.world.consul.kill(thing[1])

    def rename(self, body: Body, name: str) -> None:
        """Its Name tag changes. Its agents keep the names that they have."""
        if name == body.name:
            return
        nodes, clients = self.world.chef.node_objects, self.world.chef.client_names
        for kind, called in [t for t, owner in self.ledger.owners.items() if owner == body.instance_id and len(t) == 2]:
            bare = kind == "chef node" and called in nodes and nodes[called].instance_id is None
            lone = kind == "chef client" and called in clients and not any(alike(called, node) for node in nodes)
            if bare or lone:  # its boot ends before that
                self._converge(body, called)
        body.name = name
        body.names.add(name.lower())
        self.world.ec2s[body.place].tag(body.instance_id, Name=name)

    def tag(self, body: Body, **tags: str) -> None:
        body.tags |= tags
        self.world.ec2s[body.place].tag(body.instance_id, **tags)

    def forget_tags(self, body: Body, keys: Iterable[str] | None = None) -> None:
        """EC2 drops tags of an instance that has ended; by default all."""
        machine = self.world.ec2s[body.place].machines.get(body.instance_id)
        for key in list(machine.tags if keys is None else keys) if machine else ():
            body.tags_gone = True
            machine.tags.pop(key, None)

    def publish(self, body: Body, address: str | None) -> None:
        """Its public address changes; None takes it away."""
        machine = self.world.ec2s[body.place].machines[body.instance_id]
        assert machine.primary
        machine.primary.public_ips = {body.address or "": address} if address else {}
        body.public = address
        body.addresses |= body.current

    def stop(self, body: Body) -> None:
        self.world.ec2s[body.place].set_state(body.instance_id, "stopped")
        if body.public not in self.ledger.elastic:
            self.publish(body, None)

    def start(self, body: Body) -> None:
        """With another public address, if it has none."""
        self.world.ec2s[body.place].set_state(body.instance_id, "running")
        if body.public is None:
            self.publish(body, next(filter(self.free, reversed(PUBLIC)), None))
        self.emit("running", body)

    def elastic_ip(self, body: Body, act: str) -> None:
        """``associate`` takes a new Elastic IP or moves one; ``drop`` leaves it allocated; ``release`` does not."""
        own, ec2 = self.ledger.elastic, self.world.ec2s[body.place]
        if act == "associate":
            address = next((a for a, place in own.items() if place == body.place), None) or next(
                filter(self.free, PUBLIC), None
            )
            if address:
                for other in [b for b in self.ledger.living() if b.public == address]:
                    self.publish(other, None)
                self.publish(body, address)
                own[address] = body.place
                ec2.allocated.add(address)
            return
        for address in [a for a, place in own.items() if place == body.place]:
            for other in [b for b in self.ledger.living() if b.public == address]:
                self.publish(other, None)
            if act == "release":
                del own[address]
                ec2.allocated.discard(address)

    # Their traces

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
        """A living instance writes its traces over whatever is there, as a boot script does."""
        if body.alive:
            self._boot_dns(body, dns, ptr=ptr)
            self._boot_chef(body, chef, chef_as)
            self._boot_consul(body, consul, consul_as, sessions)

    def _boot_dns(self, body: Body, mode: str, *, ptr: bool) -> None:
        label = {"hostname": body.hostname, "id": body.instance_id}.get(mode, body.name)
        if mode == "none" or label is None or body.address is None:
            return
        name, owner = dotted(label), body.instance_id
        address = body.public if mode == "public" and body.public else body.address
        there = {t[4] for t in look(self.world) if t[1:4] == (FORWARD, name, "A")}
        if mode == "append" and self.values(name, "A"):
            self.put(name, "A", [address], owner, keep=True)
        elif mode == "multi" and "" not in there and not self.values(name, "CNAME"):
            self.put(name, "A", [address], owner, owner)
        else:
            self.clear(name)
            target = {
                "cname": private_dns_name(body.address, body.place.region) + ".",
                "idname": f"{owner}." + private_dns_name(body.address, body.place.region).split(".", 1)[1] + ".",
            }.get(mode)
            self.put(name, "CNAME" if target else "A", [target or address], owner)
            if mode == "www":
                self.clear(f"www-{name}")
                self.put(f"www-{name}", "CNAME", [name], owner)
        if ptr:
            self.put(pointer(body.address), "PTR", [name], owner, zone=REVERSE)

    def _boot_chef(self, body: Body, mode: str, called: str) -> None:
        """``bare`` and ``client`` are a boot that has not converged yet: then only ``name`` tells whose they are."""
        if mode == "none" or body.name is None:
            return
        if mode in ("bare", "client"):
            called = "name" if called != "lower" else called
        names = {"lower": body.name.lower(), "fqdn": dotted(body.name)[:-1], "other": f"node-{body.instance_id[-1]}"}
        name = names.get(called, body.name)
        client = body.name if called == "fqdn" else name
        details = self.world.chef.client_details.get(client)
        if details and (details.validator or details.admin or client == OWN_CLIENT):
            return  # the server refuses a name that is taken
        if mode == "ec2":
            self._converge(body, name)
        elif mode == "bare":
            self.world.chef.put_node(name)
        if mode != "client":
            self.note(body.instance_id, ("chef node", name))
            body.nodes.add(name.lower())
        self.world.chef.put_client(client)
        self.note(body.instance_id, ("chef client", client))

    def _converge(self, body: Body, name: str) -> None:
        domain_name = private_dns_name(body.address or "", body.place.region)
        where = {"account_id": body.place.account_id, "region": body.place.region} if self._serial % 2 else {}
        facts = {"private_ips": (body.address,), "private_dns_names": (domain_name,), "vpc_id": body.vpc_id}
        self.world.chef.put_node(name, body.instance_id, **facts, **where, ohai_time=self.world.time.timestamp())
        self.note(body.instance_id, ("chef node", name))
        body.nodes.add(name.lower())

    def pose(self, body: Body, name: str) -> None:
        """An instance creates a second Chef node under the name of somebody's client: any client may."""
        if name not in self.world.chef.node_objects:
            self._converge(body, name)

    def _boot_consul(self, body: Body, mode: str, called: str, sessions: Sequence[str]) -> None:
        """A node's name follows ``node_name``, where that is set."""
        called = {"{tag:Name}": "name", "{hostname}": "hostname"}.get(self.setup.consul_name or "", called)
        name = body.name if called == "name" else body.hostname
        if mode == "none" or name is None or body.address is None:
            return
        agents = {t[1]: alive for t, alive in look(self.world).items() if t[0] == "agent"}
        if agents.get(name) and self.ledger.owners["agent", name] != body.instance_id:
            return  # Consul refuses a name that a living agent has
        meta = {"instance_id": body.instance_id} if mode == "meta" else {}
        if meta and self._serial % 2:
            meta |= {"account_id": body.place.account_id, "region": body.place.region}
        if mode == "agentless":
            if name in agents:
                return
            self.world.consul.register_node(name, body.address, meta)
        else:
            self.world.consul.add_agent(name, body.address, meta)
            self.note(body.instance_id, ("agent", name))
        self.note(body.instance_id, ("consul node", name))
        for kind in sessions:
            self.hold(name, kind, body.instance_id, agent=mode != "agentless")

    def hold(self, node: str, kind: str, owner: str, *, agent: bool) -> None:
        """A session of a node, with what it holds."""
        consul = self.world.consul
        consul.now += 60  # past every lock-delay
        checks = ["serfHealth"] if kind == "checked" and agent else []
        session = consul.create_session(node, behavior="delete" if kind == "delete" else "release", checks=checks)
        self.note(owner, ("session", session))
        if kind == "semaphore":
            consul.acquire(f"{LOCKS}sem/{session}", session, b"contender", SEMAPHORE)
            consul.put(f"{LOCKS}sem/.lock", session.encode(), SEMAPHORE)
        elif kind != "idle":
            keys = {"outside": ["other/x"], "delete": [f"{LOCKS}b"]}.get(kind, [f"{LOCKS}a", f"{LOCKS}c", "other/x"])
            for key in keys:
                consul.acquire(key, session, f"by {node}".encode(), 7)

    def put(
        self,
        name: str,
        kind: str,
        values: Iterable[str],
        owner: str,
        identifier: str = "",
        *,
        zone: str = FORWARD,
        keep: bool = False,
        **more: Any,
    ) -> None:
        """Writes a record set; with ``keep``, its values are added to those that are there."""
        there = self.values(name, kind, identifier, zone) if keep else ()
        if identifier:
            more |= {"SetIdentifier": identifier, "MultiValueAnswer": True}
        new = list(values)
        self.world.zones.put(zone, name, kind, list(dict.fromkeys([*there, *new])), **more)
        self.note(owner, *(("value", zone, name, kind, identifier, value) for value in new))

    def values(self, name: str, kind: str, identifier: str = "", zone: str = FORWARD) -> list[str]:
        """The values of a record set; none of an alias."""
        return [t[5] for t in look(self.world) if t[:5] == ("value", zone, name, kind, identifier)]

    def clear(self, name: str) -> None:
        """Removes the A and CNAME record sets of a name, by hand."""
        for thing in {t[:5] for t in look(self.world) if t[1:3] == (FORWARD, name) and t[3] in ("A", "CNAME")}:
            self.world.zones.take(FORWARD, name, thing[3], thing[4] or None)

    # Strangers

    def meddle(self, act: str, name: str, body: Body) -> None:
        """Somebody does something under a name, or at the address of an instance."""
        zones, fqdn, address = self.world.zones, dotted(name), body.address or OUTSIDE
        plain = self.values(fqdn, "A")
        match act:
            case "record" | "alias":
                self.clear(fqdn)
                target = {"HostedZoneId": "Z1", "DNSName": "lb.example.", "EvaluateTargetHealth": False}
                more = {"AliasTarget": target} if act == "alias" else {}
                self.put(fqdn, "A", [] if act == "alias" else [OUTSIDE], STRANGER, **more)
            case "value" if plain:
                self.put(fqdn, "A", [OUTSIDE], STRANGER, keep=True)
            case "ttl" if plain:
                zones.put(FORWARD, fqdn, "A", plain, ttl=60)
            case "mail":
                self.put(fqdn, "MX", ["10 mail.example."], STRANGER)
            case "external-dns" | "sealed":
                self.clear(fqdn)
                self.put(fqdn, "A", [address if body.alive else OUTSIDE], STRANGER)
                mark = marks(self.setup.external_dns, name.lower())[-(act == "sealed")]
                value = "Q" * 88 if act == "sealed" else "heritage=external-dns,external-dns/owner=x"
                self.put(mark, "TXT", [f'"{value}"'], STRANGER)
                self.ledger.claimed.add(fqdn)
            case "keep":
                self.clear(dotted("keep-1"))
                self.put(dotted("keep-1"), "A", [address], STRANGER)
            case "pointer":
                self.put(pointer(address), "PTR", [dotted("printer")], STRANGER, zone=REVERSE)
            case "unrecord" if plain:
                self.clear(fqdn)
            case "interface" if address in ADDRESSES and self.free(address, body.vpc_id):
                self.world.ec2s[body.place].add_interface(address, vpc_id=body.vpc_id, description="ELB app/web")
                self.ledger.interfaces.add(address)
                self.put(dotted("lb"), "A", [address], STRANGER)
            case "chef" | "foreign chef" | "bootstrap":
                self._meddle_with_chef(act, name)
            case "unnode" | "unclient":
                self._tidy(act, name)
            case "consul" | "foreign consul" | "consul twin":
                self._meddle_with_consul(act, name, address)
            case "key":
                self.world.consul.put(f"{LOCKS}a", b"by hand", 9)

    def _meddle_with_chef(self, act: str, name: str) -> None:
        """A machine outside EC2 has converged, an instance of an unserved place, or nothing yet."""
        chef = self.world.chef
        details = chef.client_details.get(name)
        if details and (details.validator or details.admin or name == OWN_CLIENT):
            return
        if act == "bootstrap":
            chef.put_node(name)
        else:
            other = {"account_id": UNSERVED.account_id} if self._serial % 2 else {"region": "ap-southeast-2"}
            foreign = {"instance_id": self.foreign_id(name), **other} if act == "foreign chef" else {}
            chef.put_node(name, **foreign, ipaddress=OUTSIDE, ohai_time=self.world.time.timestamp())
        chef.put_client(name)
        self.note(STRANGER, ("chef node", name), ("chef client", name))

    def _tidy(self, act: str, name: str) -> None:
        """Somebody removes by hand what a dead instance left in Chef."""
        kind = "chef node" if act == "unnode" else "chef client"
        body = self.ledger.bodies.get(self.ledger.owners.get((kind, name), ""))
        if body and not body.alive:
            chef = self.world.chef
            chef.node_objects.pop(name, None) if act == "unnode" else chef.client_names.discard(name)
            chef.catch_up()

    def _meddle_with_consul(self, act: str, name: str, address: str) -> None:
        consul = self.world.consul
        if act == "consul twin":  # a machine outside EC2, in a range that overlaps
            name = f"box-{address}"
            consul.add_agent(name, address)
            self.note(STRANGER, ("agent", name))
        elif ("agent", name) in look(self.world):
            return
        else:
            foreign = {"instance_id": self.foreign_id(name), "region": "ap-southeast-2"}
            consul.register_node(name, OUTSIDE, foreign if act == "foreign consul" else {})
        self.note(STRANGER, ("consul node", name))
        self.hold(name, "lock", STRANGER, agent=False)

    @staticmethod
    def foreign_id(name: str) -> str:
        """The id of an instance of an unserved place; it lives."""
        return f"i-0f{sum(map(ord, name)):015x}"

    # Time, faults and races

    def _register_hooks(self) -> None:
        def hook(system: str, place: Place | None = None) -> Callable[..., None]:
            return lambda operation, *_: self._call(system, operation, place)

        world = self.world
        world.tick = self._tick
        world.zones.fault, world.inventory.fault, world.queue.fault = map(hook, ("route53", "inventory", "queue"))
        world.chef.fault, world.consul.fault = hook("chef"), hook("consul")
        for place, ec2 in world.ec2s.items():
            ec2.fault = hook("ec2", place)

    def _call(self, system: str, operation: str, place: Place | None) -> None:
        """Before each call of the function."""
        self._tick()
        for race in self.races:
            race.calls -= 1
        if operation != "force-leave":
            self._race()
        self._late += self.slow.get(system, 0.0)
        if place in self.denied:
            raise AccessError(f"ec2 in {place}: no right to {operation}")
        fault = self.fault
        if fault and fault.systems:
            if system in fault.systems:
                self._fail(fault.error, system, operation)
        elif fault:
            fault.countdown -= 1
            if fault.countdown == 0:
                self._fail(fault.error, system, operation)

    def _fail(self, error: str, system: str, operation: str) -> None:
        self.seen[f"fault {error}"] += 1
        if error == "killed":
            raise Killed(operation)
        if error == "bug" and system in _STEPS:
            raise ZeroDivisionError(f"{system} {operation}")
        if error == "rights":
            raise AccessError(f"{system}: no right to {operation}")
        if error == "lost" and operation == "ChangeResourceRecordSets":
            self.world.zones.lost += 1  # the change takes effect, and its answer is lost
            return
        raise TransientError(f"{system}: {operation} failed")

    def _tick(self) -> None:
        """The time that the last call took passes."""
        self.world.time += timedelta(seconds=self._late)
        self._late = 0.0

    def _race(self) -> None:
        due = [r for r in self.races if r.calls < 0 and (r.at is None or r.at <= self.world.time)]
        if not due or self._before is None or self._wrong:
            return
        try:
            self._judge()
            self._before = None  # what is done now is not the function's doing
            self.races = [r for r in self.races if r not in due]
            for race in due:
                race.action()
        except Exception as error:  # the function would take it for its own
            self._wrong = error
        self.seen["races"] += len(due)
        self._raced = True
        self._before = look(self.world)

    def after(self, wait: timedelta, action: Callable[[], None]) -> None:
        """Does something that much later, if the function runs then, or at the latest when all is settled."""
        self.races.append(Race(action, at=self.world.time + wait))

    # Events

    def emit(self, kind: str, body: Body) -> None:
        self.enqueue(kind, body.instance_id, self.world.event(body.instance_id, kind, body.place))

    def enqueue(self, kind: str, instance_id: str, event: Mapping[str, Any]) -> None:
        self._serial += 1
        self.queue.append(Message(f"m-{self._serial}", kind, instance_id, event))

    def foreign_event(self, instance_id: str, kind: str) -> None:
        """An event of an unserved place on the default bus: nothing is asked, and nothing happens."""
        before, calls = look(self.world), self._calls()
        answered = self.world.send_batch(self.world.event(instance_id, kind, UNSERVED))
        if answered.failed or look(self.world) != before or self._calls() != calls:
            raise Violation(f"the foreign event {kind} of {instance_id} was not left alone")

    def _calls(self) -> Counter[str]:
        world = self.world
        others = (world.zones, world.inventory, world.chef, world.consul)
        return sum((fake.calls for fake in (*world.ec2s.values(), *others)), Counter())

    def reconfigure(self, instance_filter: InstanceFilter) -> None:
        self.ledger.filter = instance_filter
        sweep = _adoption(instance_filter) if self.setup.inventory else None
        self.world.configure(instance_filter=instance_filter, sweep=sweep)

    # The function

    def answer(self, messages: Sequence[Message], *, keep: bool = False, rehearse: bool = False) -> None:
        """The queue hands a batch over; what fails comes back, and with ``keep`` the rest comes a second time."""
        if not messages:
            return
        ended = [m for m in messages if m.kind == "terminated"]
        quiet = not (self.fault or self.races or self.slow)
        rehearsal = self._rehearse(ended) if rehearse and quiet and ended else None
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
                self._check_report(message, answered.reports[message.message_id], failed=failed)
        self._receive_sweeps()
        if rehearsal is not None and answered is not None:
            # A retry leaves out what is settled, and with it what others of the batch share with it.
            retried = any("settled_at" in s for m in messages for s in answered.reports[m.message_id]["steps"])
            for message in () if retried else ended:
                self._compare(rehearsal.reports[message.message_id], answered.reports[message.message_id])

    def _send(self, messages: Sequence[Message]) -> Answered:
        return self.world.send_batch(
            *(m.body for m in messages),
            message_ids=[m.message_id for m in messages],
            receive_count=max(m.receive_count for m in messages),
        )

    def _judged(self, batch: Iterable[str], call: Callable[[], Any]) -> Any:
        """Calls the function, and judges what it did; None where it was killed."""
        self.broken = True
        self._before = look(self.world)
        records = dict(self.world.inventory.items)
        self._raced = False
        for instance_id in batch:
            body = self.ledger.bodies.get(instance_id)
            named = self.ledger.filter != InstanceFilter()
            if body and not body.alive and named and (body.tags_gone or self.ledger.excluded(body)):
                body.left_alone = True
        answered = None
        try:
            answered = call()
        except Killed:
            self.world.cold_start()
        self._tick()
        if self._wrong:
            raise self._wrong
        self._judge()
        self._before = None
        self._judge_memory(records)
        self.broken = False
        return answered

    def _judge(self) -> None:
        assert self._before is not None
        forced = self.world.consul.calls["force-leave"]
        now = look(self.world)
        self.ledger.judge(self._before, now, self.world.time, forced=forced > self._forced)
        self.seen.update(f"removed: {thing[0]}" for thing in self._before.keys() - now.keys())
        self._forced = forced

    def _judge_memory(self, before: Mapping[str, Any]) -> None:
        """The inventory tells the truth, and its states only move forward."""
        for instance_id, record in self.world.inventory.items.items():
            body, old = self.ledger.bodies.get(instance_id), before.get(instance_id)
            if record is old:
                continue
            if body is None:
                if record.facts.private_ips:
                    raise Violation(f"the inventory has addresses of {instance_id}, which is of no served place")
                continue
            if old and old.state == "terminated" and record.state != "terminated":
                raise Violation(f"{instance_id} was terminated, and is {record.state} in the inventory")
            if body.alive and record.state == "terminated":
                raise Violation(f"{instance_id} lives, and is terminated in the inventory")
            wrong = {*record.facts.private_ips, *record.facts.public_ips} - body.addresses
            if wrong or record.facts.tags.get("Name", body.name or "").lower() not in {*body.names, ""}:
                raise Violation(f"the inventory has wrong facts for {instance_id}: {record.facts}")

    def _check_report(self, message: Message, report: Mapping[str, Any], *, failed: bool) -> None:
        bad = bool(report.get("errors")) or any(s["status"] == "failed" for s in report["steps"])
        if bad != failed and message.kind != "sweep":
            raise Violation(f"{message.kind} {message.instance_id}: returned {failed}, and the report says {report}")
        body = self.ledger.bodies.get(message.instance_id)
        if body is None or failed:
            return
        if message.kind == "running" and body.alive and self.setup.inventory and not self._raced:
            self._check_recorded(body)
        if message.kind == "terminated" and body.alive:
            raise Violation(f"{message.instance_id} lives, and its end was believed")

    def _check_recorded(self, body: Body) -> None:
        """The function was told of a living instance, and has written down what it is."""
        record = self.world.inventory.items.get(body.instance_id)
        known = {*record.facts.private_ips, *record.facts.public_ips} if record else set()
        if record is None or record.state != RUNNING or not body.current <= known:
            raise Violation(f"{body.instance_id} runs, and is not recorded: {record}")
        body.recorded |= body.traits

    def _rehearse(self, messages: Sequence[Message]) -> Answered:
        """The same batch, dry."""
        with self._dry():
            return self._send(messages)

    @contextmanager
    def _dry(self) -> Iterator[None]:
        """A dry run changes nothing."""
        config, before = self.world.config, (look(self.world), dict(self.world.inventory.items))
        self.broken = True
        self.world.configure(dry_run=True)
        try:
            yield
        finally:
            self.world.config = config
            self.world.cold_start()
        if (look(self.world), self.world.inventory.items) != before:
            raise Violation("a dry run changed something")
        self.broken = False

    def _compare(self, dry: Mapping[str, Any], real: Mapping[str, Any]) -> None:
        if dry["steps"] != real["steps"]:
            raise Violation(f"the dry run said {dry['steps']}, and the real run {real['steps']}")
        self.seen["dry runs compared"] += 1

    # Operators, and the sweep

    def operate(self, instance_id: str, place: Place | None = None, *, dry_run: bool = False) -> Any:
        """An operator asks for one instance, with its place or without; None where the function was killed."""
        body, before = self.ledger.bodies.get(instance_id), look(self.world)
        records = dict(self.world.inventory.items)

        def call() -> Any:
            return self.world.operate(instance_id, dry_run=dry_run, place=place)

        report = self._judged([instance_id], call)
        known = body and (instance_id in records or instance_id in self.world.ec2s[body.place].machines)
        elsewhere = known and body and (place or HOME) != body.place
        if (dry_run or elsewhere or (body and body.alive)) and not self._raced and look(self.world) != before:
            raise Violation(f"an operator's call for {instance_id} in {place} changed something")
        if dry_run and self.world.inventory.items != records:
            raise Violation(f"a dry run for {instance_id} changed the inventory")
        return report

    def operate_twice(self, body: Body, place: Place | None) -> None:
        """Dry, then at once for real: the same actions."""
        dry = self.operate(body.instance_id, place, dry_run=True)
        raced = self._raced
        real = self.operate(body.instance_id, place)
        if dry is not None and real is not None and not raced and not self._raced:
            self._compare(dry, real)

    def sweep(self, place: Place, *, dry_run: bool = False) -> None:
        """What it finds gone comes into the queue; what lives is recorded."""
        if not self.setup.inventory:
            return
        before = look(self.world), dict(self.world.inventory.items)
        payload = {"sweep": True, "dry_run": dry_run, "account_id": place.account_id, "region": place.region}
        report = self._judged((), lambda: self.world.send(payload))
        if dry_run and (look(self.world), self.world.inventory.items) != before:
            raise Violation("a dry sweep changed something")
        if report is not None and not dry_run and not report.get("errors") and not self._raced:
            for body in self.ledger.living():
                if body.place == place:
                    self._check_recorded(body)
        self._receive_sweeps()

    def _receive_sweeps(self) -> None:
        for event in self.world.queue.sent:
            instance_id = event["detail"].get("instance-id", "")
            body = self.ledger.bodies.get(instance_id)
            if instance_id and (body is None or body.alive):
                raise Violation(f"the sweep takes {instance_id} for gone, which lives or is of no served place")
            self.enqueue("terminated" if instance_id else "sweep", instance_id, event)
            self.seen["found by the sweep"] += bool(instance_id)
        self.world.queue.sent.clear()

    # The end

    def settle(self) -> None:
        """Faults end, agents die, all is delivered and swept; then nothing undisputed is left of the dead."""
        self.fault = None
        self.slow, self.denied = {}, set()
        races, self.races = self.races, []
        for race in races:
            self.world.time += BOOT
            race.action()
        self.world.chef.catch_up()
        for thing, node in look(self.world).items():
            body = self.ledger.bodies.get(self.ledger.owners.get(thing, ""))
            outdated = body is None or (body.alive and node.name not in (body.name, body.hostname)) if thing[0] == "consul node" else False
            if outdated and thing[1] != "dc1-server" and not node.instance_id:  # it cannot be told from a dead one's agent
                self.world.consul._world["dc1"].agents.pop(thing[1], None)
                self.world.consul._drop(self.world.consul._world["dc1"], thing[1])
        for body in self.ledger.bodies.values():
            if not body.alive:
                self.kill_agents(body)
        lives = {body.instance_id for body in self.ledger.living()}
        self.queue = [m for m in self.queue if m.kind == "running" or m.instance_id not in lives]
        self._drain()
        self.world.time += timedelta(hours=25)
        self.world.consul.sync()
        if self.setup.inventory:
            event = {"source": SOURCE, "detail-type": SWEEP, "detail": {}}
            self.enqueue("sweep", "", {**event, "time": self.world.time.isoformat()})
            self._drain()
        for instance_id, record in self.world.inventory.items.items():
            if instance_id not in lives and not record.finished:
                raise Violation(f"{instance_id} is dead, and the inventory has its end as {record}")
        dead = [body for body in self.ledger.bodies.values() if not body.alive]
        for body in [*dead, *dead]:  # what one leaves of a shared record set may be all that another needs
            self._succeed(self.operate(body.instance_id, body.place))
        for body in dead:
            report = self._succeed(self.operate(body.instance_id, body.place, dry_run=True))
            actions = [action for step in report["steps"] for action in step["actions"]]
            # Without an inventory a second run knows less than the first: what told them apart is gone.
            if actions and self.setup.inventory:
                raise Violation(f"of {body.instance_id} there is still {actions}")
        for thing in self.ledger.left_over(look(self.world)) if self.setup.inventory else ():
            raise Violation(f"{thing} of {self.ledger.owners[thing]} was left: {self._reports(thing)}")

    def _reports(self, thing: tuple[str, ...]) -> Any:
        owner = self.ledger.owners[thing]
        return self.ledger.bodies[owner], self.operate(owner, self.ledger.bodies[owner].place, dry_run=True)

    def _drain(self) -> None:
        for _ in range(MANY):
            if not self.queue:
                return
            self.answer(self.queue[:])
        raise Violation(f"stuck in the queue: {self.queue}: {self.world.log.messages('error')[-3:]}")

    @staticmethod
    def _succeed(report: Any) -> Any:
        if report is None or report.get("errors") or any(s["status"] == "failed" for s in report["steps"]):
            raise Violation(f"nothing is wrong any more, and it failed: {report}")
        return report

