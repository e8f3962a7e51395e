"""A small fleet in three places that share a zone, Chef and Consul: instances, their traces, and strangers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ec2_decommission.config import ChefSettings, ConsulSettings, InstanceFilter, SweepSettings
from ec2_decommission.place import Place
from ec2_decommission.templates import Template
from ec2_decommission.together import in_turn
from tests.fakes.ec2 import ACCOUNT, REGION, VPC, private_dns_name
from tests.fakes.world import DOMAIN, FORWARD, HOME, REVERSE, World, pointer
from tests.model.ledger import (
    LOCKS,
    OWN_CLIENT,
    SEMAPHORE,
    STRANGER,
    Body,
    Ledger,
    Setup,
    Thing,
    alike,
    dotted,
    look,
    marks,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

ADDRESSES = ("10.0.0.5", "10.0.0.6", "10.0.0.7")
PUBLIC = ("54.0.0.1", "54.0.0.2", "54.0.0.3")
OUTSIDE = "10.9.0.1"  # never the address of an instance in a served place
MEMBERS = (Place(ACCOUNT, "eu-west-1"), Place("222222222222", REGION))
PLACES = (HOME, *MEMBERS)
UNSERVED = Place("999999999999", REGION)
# The same private range in four VPCs. Two of the places share a region, and therefore private DNS names.
VPCS = ((HOME, VPC), (HOME, "vpc-b"), (MEMBERS[0], "vpc-c"), (MEMBERS[1], "vpc-d"))
NO_FILTER = InstanceFilter()
ANCHOR = "anchor"  # always live in each place: a sweep without live instances finds no terminations
PRIVILEGED = {OWN_CLIENT: {}, "acme": {"validator": True}, "root": {"admin": True}}


@dataclass
class Message:
    """A message in the queue. ``instance_id`` is empty for a sweep."""

    message_id: str
    kind: str
    instance_id: str
    body: Mapping[str, Any]
    receive_count: int = 1


@dataclass(frozen=True)
class Boot:
    """The objects that a boot script creates.

    Attributes:
        dns: an A record (``upsert`` or ``append``), with a set identifier (``multi``), with the public address
            (``public``), or under another name (``hostname``, ``id``); a CNAME to EC2's name (``cname``,
            ``idname``); or an A record and a CNAME to it (``www``).
        chef: a converged node (``ec2``), a node that never converged (``bare``), or no node yet (``client``).
        chef_as: the node's name: ``name``, ``lower`` (in lower case), ``fqdn`` or ``other``.
        consul: a node with ``meta``, ``bare`` or ``agentless``.
        sessions: the locks they hold: ``lock``, ``delete``, ``checked``, ``outside``, ``semaphore``, ``idle``.
    """

    dns: str = "upsert"
    ptr: bool = True
    chef: str = "ec2"
    chef_as: str = "name"
    consul: str = "meta"
    consul_as: str = "name"
    sessions: Sequence[str] = ()


NOTHING = Boot("none", ptr=False, chef="none", consul="none")


class ClockedWorld(World):
    """A world with a pluggable clock."""

    tick: Callable[[], None] = staticmethod(lambda: None)

    def _seconds(self) -> float:
        self.tick()
        return super()._seconds()


def backwards(jobs: Sequence[Callable[[], None]], workers: int | None = None) -> None:
    """Runs the jobs in reverse order."""
    in_turn(jobs[::-1], workers)


def adoption(instance_filter: InstanceFilter) -> SweepSettings:
    return SweepSettings(adopt=("chef", "consul") if instance_filter == NO_FILTER else ())


def make_world(setup: Setup, instance_filter: InstanceFilter) -> ClockedWorld:
    """The function with this setup, on the fakes."""
    return ClockedWorld(
        places=MEMBERS,
        inventory=setup.inventory,
        record_names=setup.record_names,
        route53={"external_dns": setup.external_dns, "keep_names": (f"keep-*.{DOMAIN}",)},
        instance_filter=instance_filter,
        sweep=adoption(instance_filter) if setup.inventory else None,
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


class Fleet:
    """The world and all actors except the function."""

    def __init__(self, setup: Setup, instance_filter: InstanceFilter = NO_FILTER) -> None:
        self.setup = setup
        self.world = make_world(setup, instance_filter)
        self.ledger = Ledger(setup, instance_filter)
        self.queue: list[Message] = []
        self._serial = 0
        self._note(STRANGER, ("consul node", "dc1-server"), ("agent", "dc1-server"))
        for name, details in PRIVILEGED.items():
            self.world.chef.put_client(name, **details)
            self._note(STRANGER, ("chef client", name))
        for number, place in enumerate(PLACES):
            self.launch(ANCHOR, f"10.255.0.{number + 4}", place, f"vpc-{number}")

    def _note(self, owner: str, *things: Thing) -> None:
        self.ledger.note(owner, self.world.time, *things)

    def emit(self, kind: str, body: Body) -> None:
        """Sends an event."""
        self.enqueue(kind, body.instance_id, self.world.event(body.instance_id, kind, body.place))

    def enqueue(self, kind: str, instance_id: str, event: Mapping[str, Any]) -> None:
        self._serial += 1
        self.queue.append(Message(f"m-{self._serial}", kind, instance_id, event))

    # Instances

    def launch(
        self,
        name: str | None,
        address: str,
        place: Place = HOME,
        vpc_id: str = VPC,
        public: str | None = None,
        tags: Mapping[str, str] | None = None,
    ) -> Body:
        """Launches an instance. Its addresses must be free."""
        ec2 = self.world.ec2s[place]
        instance_id = ec2.launch(name, address, vpc_id=vpc_id, public_ip=public, tags=tags)
        ec2.machines[instance_id].launch_time = self.world.time
        body = Body(instance_id, place, vpc_id, name, address, public, dict(tags or {}))
        body.names |= {name.lower()} if name else set()
        body.addresses |= body.current
        self.ledger.bodies[instance_id] = body
        self.emit("running", body)
        return body

    def fail_launch(self, name: str, place: Place) -> None:
        """Launches an instance that goes from ``pending`` to ``terminated``. It has a Name tag, but no address."""
        ec2 = self.world.ec2s[place]
        instance_id = ec2.launch(name, vpc_id="vpc-failed")
        ec2.terminate(instance_id)
        body = Body(instance_id, place, "vpc-failed", name, None, alive=False, names={name.lower()})
        self.ledger.bodies[instance_id] = body
        self.emit("terminated", body)

    def free(self, address: str, vpc_id: str | None = None) -> bool:
        """Whether a private address is free in the VPC, or a public address is free everywhere."""
        interfaces = (i for ec2 in self.world.ec2s.values() for i in ec2.network_interfaces.values())
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
        """Changes the Name tag. Agents keep their names. A boot in progress ends first."""
        there = look(self.world)
        own = [thing for thing in self.ledger.things_of(body) if thing in there]
        nodes = [thing[1] for thing in own if thing[0] == "chef node"]
        clients = [thing[1] for thing in own if thing[0] == "chef client"]
        bare = [node for node in nodes if there["chef node", node].instance_id is None]
        for called in [*bare, *(c for c in clients if not any(alike(c, node) for node in nodes))]:
            self.converge(body, called)
        body.name = name
        body.names.add(name.lower())
        self.world.ec2s[body.place].tag(body.instance_id, Name=name)

    def tag(self, body: Body, **tags: str) -> None:
        body.tags |= tags
        self.world.ec2s[body.place].tag(body.instance_id, **tags)

    def forget_tags(self, body: Body, count: int | None = None) -> None:
        """Drops the oldest tags, or all tags, of a terminated instance.

        If the oldest tags stayed, it would be impossible to detect that a later tag is gone.
        """
        machine = self.world.ec2s[body.place].machines.get(body.instance_id)
        if machine is None:
            return
        for key in list(machine.tags)[:count]:
            body.tags_gone = True
            del machine.tags[key]

    def expire(self) -> None:
        """Expires old terminated instances in the inventory. From now on, only their ids prove anything."""
        before = set(self.world.inventory.items)
        self.world.inventory.expire()
        for instance_id in before - self.world.inventory.items.keys():
            if body := self.ledger.bodies.get(instance_id):
                body.recorded.clear()

    def forget(self, body: Body) -> None:
        """Drops the instance from EC2, as EC2 does an hour after termination."""
        self.forget_tags(body)
        self.world.ec2s[body.place].machines.pop(body.instance_id, None)

    def publish(self, body: Body, address: str | None) -> None:
        """Changes the public address. None removes it."""
        primary = self.world.ec2s[body.place].machines[body.instance_id].primary
        assert primary
        primary.public_ips = {primary.private_ips[0]: address} if address else {}
        body.public = address
        body.addresses |= body.current

    def stop(self, body: Body) -> None:
        self.world.ec2s[body.place].set_state(body.instance_id, "stopped")
        if body.public not in self.ledger.elastic:
            self.publish(body, None)

    def start(self, body: Body) -> None:
        """Starts the instance. It gets a new public address unless it has one."""
        self.world.ec2s[body.place].set_state(body.instance_id, "running")
        if body.public is None:
            self.publish(body, next(filter(self.free, reversed(PUBLIC)), None))
        self.emit("running", body)

    def elastic_ip(self, body: Body, act: str) -> None:
        """Changes an Elastic IP: ``associate`` it, ``drop`` it but keep it allocated, or ``release`` it."""
        elastic, allocated = self.ledger.elastic, self.world.ec2s[body.place].allocated
        for address in list(allocated):
            for other in [b for b in self.ledger.living() if b.public == address]:
                self.publish(other, None)
            if act == "release":
                del elastic[address]
                allocated.remove(address)
        taken = next(iter(allocated), None) or next(filter(self.free, PUBLIC), None)
        if act == "associate" and taken:
            self.publish(body, taken)
            elastic[taken] = body.place
            allocated.add(taken)

    # Their traces

    def boot(self, body: Body, boot: Boot) -> None:
        """Creates a live instance's objects, and overwrites existing ones."""
        if body.alive:
            self._boot_dns(body, boot)
            self._boot_chef(body, boot)
            self._boot_consul(body, boot)

    def _boot_dns(self, body: Body, boot: Boot) -> None:
        owner, mode = body.instance_id, boot.dns
        label = {"hostname": body.hostname, "id": owner}.get(mode, body.name)
        if mode == "none" or label is None or body.address is None:
            return
        name, ec2_name = dotted(label), private_dns_name(body.address, body.place.region) + "."
        address = body.public if mode == "public" and body.public else body.address
        if mode == "append" and self.values(name, "A"):
            self.put(name, "A", [address], owner, keep=True)
        elif mode == "multi" and not self.values(name, "A") and not self.values(name, "CNAME"):
            self.put(name, "A", [address], owner, owner)
        else:
            target = {"cname": ec2_name, "idname": f"{owner}.{ec2_name.partition('.')[2]}"}.get(mode)
            self.clear(name)
            self.put(name, "CNAME" if target else "A", [target or address], owner)
            if mode == "www":
                self.clear(f"www-{name}")
                self.put(f"www-{name}", "CNAME", [name], owner)
        if boot.ptr:
            self.put(pointer(body.address), "PTR", [name], owner, zone=REVERSE)

    def _boot_chef(self, body: Body, boot: Boot) -> None:
        """Before the end of the first run, only the usual name shows the owner of node and client."""
        if boot.chef == "none" or body.name is None:
            return
        called = boot.chef_as if boot.chef == "ec2" or boot.chef_as == "lower" else "name"
        other = f"node-{body.instance_id[-1]}"
        name = {"lower": body.name.lower(), "fqdn": dotted(body.name)[:-1], "other": other}.get(called, body.name)
        client = body.name if called == "fqdn" else name
        if client in PRIVILEGED:
            return  # the server refuses a name in use
        if boot.chef == "ec2":
            self.converge(body, name)
        elif boot.chef == "bare":
            self.world.chef.put_node(name)
            self._note(body.instance_id, ("chef node", name))
            body.nodes.add(name.lower())
        self.world.chef.put_client(client)
        self._note(body.instance_id, ("chef client", client))

    def converge(self, body: Body, name: str) -> None:
        """Saves a Chef node with the instance's data: its own node, or any node if the client is malicious."""
        self.world.chef.put_node(
            name,
            body.instance_id,
            **({"account_id": body.place.account_id, "region": body.place.region} if self._serial % 2 else {}),
            vpc_id=body.vpc_id,
            private_ips=(body.address,),
            private_dns_names=(private_dns_name(body.address or "", body.place.region),),
            ohai_time=self.world.time.timestamp(),
        )
        self._note(body.instance_id, ("chef node", name))
        body.nodes.add(name.lower())

    def _boot_consul(self, body: Body, boot: Boot) -> None:
        """Creates the Consul node. Its name follows ``node_name`` if set."""
        template, consul = self.setup.consul_name, self.world.consul
        by_tag = template == "{tag:Name}" or (template is None and boot.consul_as == "name")
        name = body.name if by_tag else body.hostname
        if boot.consul == "none" or name is None or body.address is None:
            return
        agents = {thing[1]: alive for thing, alive in look(self.world).items() if thing[0] == "agent"}
        taken = agents.get(name) and self.ledger.owners["agent", name] != body.instance_id
        if taken or (boot.consul == "agentless" and name in agents):
            return  # Consul refuses the name of a live agent
        meta = {"instance_id": body.instance_id} if boot.consul == "meta" else {}
        if meta and self._serial % 2:
            meta |= {"account_id": body.place.account_id, "region": body.place.region}
        if boot.consul == "agentless":
            consul.register_node(name, body.address, meta)
        else:
            consul.add_agent(name, body.address, meta)
            self._note(body.instance_id, ("agent", name))
        self._note(body.instance_id, ("consul node", name))
        for kind in boot.sessions:
            self.hold(name, kind, body.instance_id, agent=boot.consul != "agentless")

    def hold(self, node: str, kind: str, owner: str, *, agent: bool = False) -> None:
        """Creates a session of a node, with its locks."""
        consul = self.world.consul
        consul.now += 60  # past every lock-delay
        checks = ["serfHealth"] if kind == "checked" and agent else []
        session = consul.create_session(node, behavior="delete" if kind == "delete" else "release", checks=checks)
        self._note(owner, ("session", session))
        if kind == "semaphore":
            consul.acquire(f"{LOCKS}sem/{session}", session, b"contender", SEMAPHORE)
            consul.put(f"{LOCKS}sem/.lock", session.encode(), SEMAPHORE)
        elif kind != "idle":
            keys = {"outside": ["other/x"], "delete": [f"{LOCKS}b"]}.get(kind, [f"{LOCKS}a", f"{LOCKS}c", "other/x"])
            for key in keys:
                consul.acquire(key, session, f"by {node}".encode(), 7)

    # Records

    def values(self, name: str, kind: str, identifier: str = "", zone: str = FORWARD) -> list[str]:
        """The values of a record set. An alias has none."""
        return [t[5] for t in look(self.world) if t[:5] == ("value", zone, name, kind, identifier)]

    def put(
        self,
        name: str,
        kind: str,
        values: Iterable[str],
        owner: str,
        identifier: str = "",
        zone: str = FORWARD,
        *,
        keep: bool = False,
        **more: Any,
    ) -> None:
        """Writes a record set. With ``keep``, adds the values to the existing ones."""
        new = list(values)
        both = [*self.values(name, kind, identifier, zone), *new] if keep else new
        if identifier:
            more |= {"SetIdentifier": identifier, "MultiValueAnswer": True}
        self.world.zones.put(zone, name, kind, list(dict.fromkeys(both)), **more)
        self._note(owner, *(("value", zone, name, kind, identifier, value) for value in new))

    def clear(self, name: str) -> None:
        """Removes the A and CNAME record sets of a name manually."""
        for thing in {t[:5] for t in look(self.world) if t[1:3] == (FORWARD, name) and t[3] in ("A", "CNAME")}:
            self.world.zones.take(FORWARD, name, thing[3], thing[4] or None)

    # Strangers

    def meddle(self, act: str, name: str, body: Body) -> None:
        """A stranger uses a name, or the address of an instance."""
        fqdn, address = dotted(name), body.address or OUTSIDE
        plain = self.values(fqdn, "A")
        match act:
            case "record" | "alias":
                self.clear(fqdn)
                target: dict[str, Any] = {
                    "HostedZoneId": "Z1",
                    "DNSName": "lb.example.",
                    "EvaluateTargetHealth": False,
                }
                more: dict[str, Any] = {"AliasTarget": target} if act == "alias" else {}
                self.put(fqdn, "A", [] if more else [OUTSIDE], STRANGER, **more)
            case "value" if plain:
                self.put(fqdn, "A", [OUTSIDE], STRANGER, keep=True)
            case "ttl" if plain:
                self.world.zones.put(FORWARD, fqdn, "A", plain, ttl=60)
            case "mail":
                self.put(fqdn, "MX", ["10 mail.example."], STRANGER)
            case "external-dns" | "sealed":
                self.clear(fqdn)
                self.put(fqdn, "A", [address if body.alive else OUTSIDE], STRANGER)
                mark = marks(self.setup.external_dns, name.lower())[-(act == "sealed")]
                text = "Q" * 88 if act == "sealed" else "heritage=external-dns,external-dns/owner=x"
                self.put(mark, "TXT", [f'"{text}"'], STRANGER)
                self.ledger.claimed.add(fqdn)
            case "keep":
                self.put(dotted("keep-1"), "A", [address], STRANGER)
            case "pointer":
                self.put(pointer(address), "PTR", [dotted("printer")], STRANGER, zone=REVERSE)
            case "unrecord" if plain:
                self.clear(fqdn)
            case "interface" if address in ADDRESSES and self.free(address, body.vpc_id):
                self.world.ec2s[body.place].add_interface(address, vpc_id=body.vpc_id, description="ELB app/web")
                self.ledger.interfaces.add(address)
                self.put(dotted("lb"), "A", [address], STRANGER)
            case "chef" | "foreign chef" | "bootstrap" if name not in PRIVILEGED:
                self._meddle_with_chef(act, name)
            case "unnode" | "unclient":
                self._tidy("chef node" if act == "unnode" else "chef client", name)
            case "consul" | "foreign consul" | "consul twin":
                self._meddle_with_consul(act, name, address)
            case "key":
                self.world.consul.put(f"{LOCKS}a", b"by hand", 9)

    def _meddle_with_chef(self, act: str, name: str) -> None:
        """A machine outside EC2 or in an unserved place converges, or has not converged yet."""
        chef = self.world.chef
        if act == "bootstrap":
            chef.put_node(name)
        else:
            place = {"account_id": UNSERVED.account_id} if self._serial % 2 else {"region": "ap-southeast-2"}
            foreign = {"instance_id": foreign_id(name), **place} if act == "foreign chef" else {}
            chef.put_node(name, **foreign, ipaddress=OUTSIDE, ohai_time=self.world.time.timestamp())
        chef.put_client(name)
        self._note(STRANGER, ("chef node", name), ("chef client", name))

    def _tidy(self, kind: str, name: str) -> None:
        """A stranger removes a dead instance's Chef objects manually."""
        body, chef = self.ledger.owner((kind, name)), self.world.chef
        if body and not body.alive and kind == "chef node":
            chef.node_objects.pop(name, None)
        elif body and not body.alive:
            chef.client_names.discard(name)
        chef._write()

    def _meddle_with_consul(self, act: str, name: str, address: str) -> None:
        consul = self.world.consul
        if act == "consul twin":  # a machine outside EC2, in a range that overlaps
            name = f"box-{address}"
            consul.add_agent(name, address)
            self._note(STRANGER, ("agent", name))
        elif ("agent", name) in look(self.world):
            return
        else:
            foreign = {"instance_id": foreign_id(name), "region": "ap-southeast-2"}
            consul.register_node(name, OUTSIDE, foreign if act == "foreign consul" else {})
        self._note(STRANGER, ("consul node", name))
        self.hold(name, "lock", STRANGER)

    def namesakes(self, name: str | None) -> Iterator[Body]:
        """The live instances with that name."""
        return (body for body in self.ledger.living() if body.name == name)


def foreign_id(name: str) -> str:
    """The id of a live instance in an unserved place."""
    return f"i-0f{sum(map(ord, name)):015x}"
