"""Whose a thing is: the test's own books, and the rules of proof written a second time, apart from the product.

A ``View`` is the world at one moment. The ``Ledger`` notes who made each thing. From both follow what a run of the
function may remove (``judge``), and what it must remove or tell of (``owed``).
"""

from __future__ import annotations

import ipaddress
import re
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from tests.fakes.ec2 import private_dns_name
from tests.fakes.world import DOMAIN, FORWARD, REVERSE, World, pointer

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Set

    from ec2_decommission.clients.chef import ChefNode
    from ec2_decommission.clients.consul import CatalogNode, Key, Session
    from ec2_decommission.inventory import Record

STRANGER = "a stranger"
OWN_CLIENT = "decommission"
LOCKS = "locks/"
SEMAPHORE = 0xE0F69A2BAA414DE0

RecordKey = tuple[str, str, str, str]  # zone, name, type, set identifier


class Violation(AssertionError):
    """What must never happen has happened."""


@dataclass(frozen=True)
class Setup:
    """How the function is set up in one history. ``None`` as a name template means that there is none."""

    inventory: bool = True
    hostname_records: bool = False
    chef_name: str | None = "{tag:Name}"
    delete_client: bool = True
    consul_name: str | None = "{tag:Name}"
    deregister: bool = False
    backwards: bool = False  # which of the steps that run side by side ends first

    @property
    def record_names(self) -> tuple[str, ...]:
        return (f"{{tag:Name}}.{DOMAIN}", *([f"{{hostname}}.{DOMAIN}"] if self.hostname_records else []))


@dataclass
class Body:
    """An instance, as the test knows it."""

    instance_id: str
    name: str | None
    address: str
    vpc_id: str
    public: str | None = None
    alive: bool = True

    @property
    def addresses(self) -> set[str]:
        return {self.address, *([self.public] if self.public else [])}

    @property
    def hostname(self) -> str:
        return private_dns_name(self.address).split(".")[0]


@dataclass(frozen=True)
class View:
    """The world at one moment."""

    records: Mapping[RecordKey, tuple[str, tuple[str, ...]]]
    chef_nodes: Mapping[str, ChefNode]
    chef_clients: Set[str]
    consul_nodes: Mapping[str, CatalogNode]
    agents: Mapping[str, bool]
    sessions: Mapping[str, Session]
    keys: Mapping[str, Key]
    items: Mapping[str, Record]
    tags: Mapping[str, Mapping[str, str]]
    sent: int

    @classmethod
    def of(cls, world: World) -> View:
        consul = world.consul._world["dc1"]
        return cls(
            {(z, n, t, s): (ttl, tuple(values)) for z, n, t, s, ttl, *values in world.zones.everything()},
            dict(world.chef.node_objects),
            frozenset(world.chef.client_names),
            dict(consul.nodes),
            {name: agent.alive for name, agent in consul.agents.items()},
            dict(consul.sessions),
            dict(consul.keys),
            dict(world.inventory.items),
            {i: dict(m.tags) for i, m in world.ec2.machines.items()},
            len(world.queue.sent),
        )


@dataclass
class Known:
    """What the systems that can be read know of an instance."""

    addresses: set[str] = field(default_factory=set)
    private: set[str] = field(default_factory=set)
    dns_names: set[str] = field(default_factory=set)
    hostname: str | None = None
    tags: dict[str, str] = field(default_factory=dict)
    vpc_id: str | None = None
    chef_names: set[str] = field(default_factory=set)
    consul_names: set[str] = field(default_factory=set)


@dataclass
class Ledger:
    """Who made what."""

    setup: Setup
    bodies: dict[str, Body] = field(default_factory=dict)
    values: dict[tuple[RecordKey, str], str] = field(default_factory=dict)
    chef_nodes: dict[str, str] = field(default_factory=dict)
    chef_clients: dict[str, str] = field(default_factory=dict)
    consul_nodes: dict[str, str] = field(default_factory=dict)
    sessions: dict[str, str] = field(default_factory=dict)
    interfaces: dict[str, str] = field(default_factory=dict)  # VPCs of interfaces that are no instance's, by address

    def alive(self, owner: str | None) -> bool:
        return owner in self.bodies and self.bodies[owner].alive

    def living(self) -> list[Body]:
        return [body for body in self.bodies.values() if body.alive]

    def holders(self, address: str, vpc_id: str | None, public: bool = False) -> list[Body | None]:
        """Who living has an address (None for an interface that is no instance's)."""
        found: list[Body | None] = [
            body
            for body in self.living()
            if address in body.addresses and (public or vpc_id in (None, body.vpc_id) or address == body.public)
        ]
        strange = address in self.interfaces and vpc_id in (None, self.interfaces[address])
        return found + ([None] if strange else [])

    def bearers(self, name: str, template: str | None) -> list[Body]:
        """The living whose template gives that name."""
        if template is None:
            return []
        return [b for b in self.living() if (rendered(template, b.name, b.hostname) or "").lower() == name.lower()]

    def owners(self, world: World) -> set[str]:
        """Whose there is something: records, Chef nodes and clients, sessions."""
        view = View.of(world)
        found = {
            self.values[key, v]
            for key, (_, values) in view.records.items()
            for v in values
            if (key, v) in self.values
        }
        found |= {self.chef_nodes[name] for name in view.chef_nodes} | {
            self.chef_clients[n] for n in view.chef_clients
        }
        return found | {self.sessions[session_id] for session_id in view.sessions}

    def known(self, view: View, instance_id: str, unread: Set[str] = frozenset()) -> Known:
        """What can be known of an instance now; ``unread`` are systems that this run could not read."""
        known = Known()
        if "ec2" not in unread:
            known.tags.update(view.tags.get(instance_id, {}))
        record = view.items.get(instance_id) if self.setup.inventory and "inventory" not in unread else None
        if record:
            facts = record.facts
            known.private |= {*facts.private_ips}
            known.addresses |= {*facts.private_ips, *facts.public_ips}
            known.dns_names |= {dotted(n) for n in (*facts.private_dns_names, *facts.public_dns_names)}
            known.hostname = facts.private_dns_names[0].split(".")[0] if facts.private_dns_names else None
            known.tags.update(facts.tags)
            known.vpc_id = facts.vpc_id
            for names in facts.known_as.get("chef", {}).values():
                known.chef_names |= set(names)
            known.consul_names |= {
                name.split("/", 1)[-1] for name in facts.known_as.get("consul", {}).get("node", ())
            }
        for node in view.chef_nodes.values() if "chef" not in unread else ():
            if node.instance_id == instance_id:
                known.private |= set(node.private_ips)
                known.addresses |= set(node.private_ips)
                known.dns_names |= {dotted(n) for n in node.private_dns_names}
                known.hostname = known.hostname or next((n.split(".")[0] for n in node.private_dns_names), None)
                known.vpc_id = known.vpc_id or node.vpc_id
                known.chef_names.add(node.name)
        for member in view.consul_nodes.values() if "consul" not in unread else ():
            if member.instance_id == instance_id:
                known.private |= {member.address}
                known.addresses |= {member.address}
                known.consul_names.add(member.name)
        return known

    def record_names(self, known: Known) -> set[str]:
        names = (rendered(t, known.tags.get("Name"), known.hostname) for t in self.setup.record_names)
        return {dotted(name) for name in names if name}

    def tag_names(self, known: Known) -> set[str]:
        name = known.tags.get("Name")
        return {dotted(f"{name}.{DOMAIN}")} if name else set()

    def chef_names(self, known: Known) -> set[str]:
        name = rendered(self.setup.chef_name, known.tags.get("Name"), known.hostname)
        return known.chef_names | ({name} if name else set())

    # What a run may remove

    def judge(self, before: View, after: View, batch: Iterable[str], unread: Set[str], start: View) -> None:
        """Raises Violation unless every difference is the removal of what is the dead's.

        Args:
            before: the world when the run began; after a race, when that was through.
            unread: the systems of which a call failed.
            start: the world when the run began.
        """
        ids = [i for i in batch if i in self.bodies and not self.bodies[i].alive]
        known = {i: self.known(before, i) for i in ids}
        # Whatever failed may have been read before, or not at all.
        known |= {f"{i}, seen in part": self.known(before, i, unread) for i in ids if unread}
        if start is not before:
            known |= {f"{i}, seen before the race": self.known(start, i) for i in ids}
        self._judge_records(before, after, known)
        self._judge_chef(before, after, known)
        self._judge_consul(before, after, known, raced=start is not before)

    def _judge_records(self, before: View, after: View, known: Mapping[str, Known]) -> None:
        for key in after.records:
            _demand(key in before.records, f"record set {key} was made")
        named: set[str] = set()  # addresses whose record went by its name alone
        for key, (ttl, values) in before.records.items():
            now_ttl, now = after.records.get(key, (ttl, ()))
            _demand(values or key in after.records, f"alias {key} was removed")
            _demand(ttl == now_ttl, f"the TTL of {key} was changed")
            _demand(set(now) <= set(values), f"{key} has new values {now}")
            for value in set(values) - set(now):
                self._judge_value(before, key, value, known, named)

    def _judge_value(
        self, before: View, key: RecordKey, value: str, known: Mapping[str, Known], named: set[str]
    ) -> None:
        zone, name, kind, _ = key
        told = f"{kind} {name} {value}"
        _demand(kind in ("A", "AAAA", "CNAME", "PTR"), f"{told} was removed")
        _demand((zone, name, "TXT", "") not in before.records, f"{told} was removed, which external-dns owns")
        owner = self.values[key, value]
        _demand(not self.alive(owner), f"{told} was removed, which is living {owner}'s")
        address = address_of(kind, name, value)
        _demand(address is not None, f"{told} was removed, of which nothing tells whose it is")
        if owner == STRANGER:
            _demand(
                any(self._fair_record(before, key, value, one) for one in known.values()),
                f"{told} was removed, which a stranger made",
            )
            return
        dead = [self.bodies[i] for i in {owner, *known} if i in self.bodies and address in self.bodies[i].addresses]
        holders = [self.holders(str(address), body.vpc_id, public=address == body.public) for body in dead]
        _demand(not all(holders), f"{told} was removed, and {holders} has it now")
        label = dotted(value if kind == "PTR" else name)
        twins = [h.instance_id for h in self.holders(str(address), None) if h and self.has_name(h, label)]
        _demand(not twins, f"{told} was removed; {twins} in another VPC has both name and address")

    def _fair_record(self, before: View, key: RecordKey, value: str, one: Known) -> bool:
        """Whether the rule for an instance of which nothing is recorded lets a stranger's value go."""
        if one.addresses or one.dns_names:
            return False
        _, name, kind, _ = key
        label = dotted(value) if kind == "PTR" else name
        living = any(self.bearers(label.rstrip("."), t) for t in self.setup.record_names)
        address = address_of(kind, name, value)
        return (
            len(before.records[key][1]) == 1
            and label in self.tag_names(one)
            and not living
            and address is not None
            and not self.holders(address, None)
        )

    def _judge_chef(self, before: View, after: View, known: Mapping[str, Known]) -> None:
        for name, node in after.chef_nodes.items():
            _demand(before.chef_nodes.get(name) == node, f"Chef node {name} was made or changed")
        _demand(after.chef_clients <= before.chef_clients, "a Chef client was made")
        for name in set(before.chef_nodes) - set(after.chef_nodes):
            node = before.chef_nodes[name]
            if node.instance_id is not None:
                _demand(node.instance_id in known, f"Chef node {name} was removed, which bears {node.instance_id}")
            else:
                _demand(self._fair_bare(before, name, known), f"bare Chef node {name} was removed")
        for name in before.chef_clients - after.chef_clients:
            owner = self.chef_clients[name]
            told = f"Chef client {name} of {owner}"
            _demand(self.setup.delete_client, f"{told} was removed")
            _demand(name != OWN_CLIENT, f"{told} was removed, with which the function signs")
            _demand(not self.alive(owner), f"{told} was removed")
            bearers = [b.instance_id for b in self.bearers(name, self.setup.chef_name)]
            _demand(not bearers, f"{told} was removed, and {bearers} would bear the name")
            its_node = before.chef_nodes.get(name)
            if its_node and its_node.instance_id:
                _demand(its_node.instance_id in known, f"{told} was removed, whose node bears {its_node.instance_id}")
            elif its_node:
                _demand(self._fair_bare(before, name, known), f"{told} was removed, whose node bears no id")
            else:
                fair = any(name in self.chef_names(one) for one in known.values())
                _demand(fair, f"{told} was removed, which nobody in the batch was called")

    def _fair_bare(self, before: View, name: str, known: Mapping[str, Known]) -> bool:
        """Whether a node without an id may go by its name."""
        node = before.chef_nodes[name]
        if self.alive(self.chef_nodes[name]) or self.bearers(name, self.setup.chef_name):
            return False
        return self.setup.chef_name is not None and any(
            name in self.chef_names(one) and not foreign(node, one) for one in known.values()
        )

    def _judge_consul(self, before: View, after: View, known: Mapping[str, Known], *, raced: bool) -> None:
        def judge(session: Session) -> None:
            # In a race a session of the dead may hang on what is by now a living one's node.
            if not raced or self.sessions[session.session_id] not in known:
                self._judge_node(before, before.consul_nodes[session.node], known)

        for name, node in after.consul_nodes.items():
            _demand(before.consul_nodes.get(name) == node, f"Consul node {name} was made or changed")
        for session_id in after.sessions:
            _demand(session_id in before.sessions, f"session {session_id} was made")
        for name in {n for n in before.agents if n not in after.agents}:
            _demand(name not in after.consul_nodes, f"agent {name} was forced out, and its node is there")
            _demand(name in before.consul_nodes, f"agent {name} was forced out, whose node was not there")
        for name in set(before.consul_nodes) - set(after.consul_nodes):
            _demand(self.setup.deregister, f"Consul node {name} was deregistered")
            self._judge_node(before, before.consul_nodes[name], known)
        ended = set(before.sessions) - set(after.sessions)
        for session_id in ended:
            judge(before.sessions[session_id])
        for name in after.keys:
            _demand(name in before.keys, f"key {name} was made")
        for name, key in before.keys.items():
            now = after.keys.get(name)
            if now == key:
                continue
            session = before.sessions.get(key.session or "")
            if session is None and key.flags == SEMAPHORE:
                session = before.sessions.get(name.rpartition("/")[2])
            _demand(session is not None, f"key {name} was changed, which no session holds")
            assert session is not None
            judge(session)
            if now is None:
                own = key.flags == SEMAPHORE and name.endswith(f"/{session.session_id}")
                _demand(own or session.behavior == "delete", f"key {name} was deleted")
            else:
                same = replace(key, session=None, modify_index=now.modify_index) == now
                _demand(same, f"key {name} was changed: {key} to {now}")
                inside = name.startswith(LOCKS)
                _demand(inside or session.session_id in ended, f"key {name} lies outside of the lock prefixes")

    def _judge_node(self, before: View, node: CatalogNode, known: Mapping[str, Known]) -> None:
        owner = self.consul_nodes[node.name]
        told = f"of Consul node {node.name} ({owner}) something was removed"
        _demand(not self.alive(owner), told)
        _demand(not before.agents.get(node.name), f"{told}, and its agent is alive")
        if node.instance_id:
            _demand(node.instance_id in known, f"{told}, which bears {node.instance_id}")
            return
        reasons = [self._consul_reason(node, one) for one in known.values()]
        _demand(None in reasons, f"{told}: {reasons}")

    def _consul_reason(self, node: CatalogNode, one: Known) -> str | None:
        """Why a node that bears no id is not this instance's."""
        if self.holders(node.address, one.vpc_id):
            return "its address is a living one's"
        name = rendered(self.setup.consul_name, one.tags.get("Name"), one.hostname)
        if self.holders(node.address, None) and (
            name is None or name.lower() != node.name.lower() or self.bearers(node.name, self.setup.consul_name)
        ):
            return "its address is a living one's in another VPC, and its name does not tell"
        if one.private:
            return None if node.address in one.private else "its address is another"
        if name is None or name.lower() != node.name.lower():
            return "its name is another"
        return "its name is a living one's" if self.bearers(node.name, self.setup.consul_name) else None

    # What a run owes

    def owed(self, step: str, before: View, after: View, instance_id: str, reason: str) -> None:
        """Raises Violation where something provable is still there, or something left is not told.

        Args:
            step: the step that says it has finished with this instance.
            before: the world when it began.
            reason: what it tells of what it left.
        """
        known = self.known(before, instance_id)
        {"route53": self._owed_records, "chef": self._owed_chef, "consul": self._owed_consul}[step](
            before, after, known, instance_id, reason
        )

    def _owed_records(self, before: View, after: View, known: Known, instance_id: str, reason: str) -> None:
        names = self.record_names(known)
        proven = set(known.addresses)
        for key, (_, values) in after.records.items():
            zone, name, kind, _ident = key
            if zone != FORWARD or name not in names or kind not in ("A", "AAAA", "CNAME"):
                continue
            untold = f"{kind} {name}" not in reason and before.records[key] == after.records[key]
            _demand(not untold, f"{kind} {name} was left untold for {instance_id}: {reason!r}")
            if (zone, name, "TXT", "") in after.records:
                continue
            for value in values:
                # As the set was found: others of the batch may have had their values in it.
                provable = self._provable(known, key, value, before.records[key][1])
                _demand(not provable, f"{kind} {name} {value} is provably {instance_id}'s, and was left: {reason!r}")
        for key, (_, values) in before.records.items():
            if not known.addresses and key not in after.records and key[1] in names and key[2] == "A":
                proven |= {value for value in values if self._provable(known, key, value, values)}
        for address in proven:
            key = (REVERSE, pointer(address), "PTR", "")
            for value in after.records.get(key, ("", ()))[1]:
                told = f"PTR {pointer(address)}"
                _demand(told in reason, f"{told} was left untold for {instance_id}: {reason!r}")
                held = (
                    self.holders(address, known.vpc_id, public=True) if known.vpc_id else self.holders(address, None)
                )
                held = held or [h for h in self.holders(address, None) if h and self.has_name(h, dotted(value))]
                mine = dotted(value) in names | known.dns_names
                _demand(held or not mine, f"{told} {value} is provably {instance_id}'s, and was left: {reason!r}")

    def _provable(self, known: Known, key: RecordKey, value: str, values: tuple[str, ...]) -> bool:
        _, name, kind, _ = key
        address = address_of(kind, name, value)
        if address is None:
            return False
        if known.addresses or known.dns_names:
            mine = dotted(value) in known.dns_names if kind == "CNAME" else value in known.addresses
            both = any(h and self.has_name(h, name) for h in self.holders(address, None))
            return mine and not both and not self.holders(address, known.vpc_id)
        return (
            len(values) == 1
            and name in self.tag_names(known)
            and not any(self.bearers(name.rstrip("."), t) for t in self.setup.record_names)
            and not self.holders(address, None)
        )

    def has_name(self, body: Body, name: str) -> bool:
        names = (rendered(t, body.name, body.hostname) for t in self.setup.record_names)
        return name in {dotted(n) for n in names if n}

    def _owed_chef(self, before: View, after: View, known: Known, instance_id: str, reason: str) -> None:
        names = self.chef_names(known)
        for name, node in after.chef_nodes.items():
            _demand(
                node.instance_id != instance_id, f"Chef node {name} bears {instance_id}, and was left: {reason!r}"
            )
            if name not in names:
                continue
            _demand(f"node {name}" in reason, f"Chef node {name} was left untold for {instance_id}: {reason!r}")
            bare = node.instance_id is None and self.setup.chef_name is not None and not foreign(node, known)
            living = self.bearers(name, self.setup.chef_name)
            _demand(living or not bare, f"Chef node {name} is {instance_id}'s by name, and was left: {reason!r}")
        if not self.setup.delete_client:
            return
        for name in names & after.chef_clients:
            if name in before.chef_nodes and before.chef_nodes[name].instance_id != instance_id:
                continue  # the node's reason is the client's too
            _demand(f"client {name}" in reason, f"Chef client {name} was left untold for {instance_id}: {reason!r}")
            kept = name == OWN_CLIENT or self.bearers(name, self.setup.chef_name)
            _demand(kept, f"Chef client {name} is provably {instance_id}'s, and was left: {reason!r}")

    def _owed_consul(self, before: View, after: View, known: Known, instance_id: str, reason: str) -> None:
        name = rendered(self.setup.consul_name, known.tags.get("Name"), known.hostname)
        names = {n.lower() for n in known.consul_names | ({name} if name else set())}
        for node in after.consul_nodes.values():
            sessions = {i for i, s in after.sessions.items() if s.node == node.name}
            if not sessions and not self.setup.deregister:
                continue
            by_address = node.instance_id is None and node.address in known.private
            told = f"node {node.name}"
            if node.instance_id == instance_id:
                raise Violation(f"Consul {told} bears {instance_id}, and {sessions} were left: {reason!r}")
            if by_address or node.name.lower() in names:
                _demand(told in reason, f"Consul {told} was left untold for {instance_id}: {reason!r}")
                against = node.instance_id or self._consul_reason(node, known)
                _demand(against, f"Consul {told} is provably {instance_id}'s, and was left: {reason!r}")
        for key in after.keys.values():
            _demand(
                key.session is None or key.session in after.sessions,
                f"key {key.name} is held by session {key.session}, which is gone",
            )


def rendered(template: str | None, name: str | None, hostname: str | None) -> str | None:
    """The part of the name templates that the histories use."""
    if template is None:
        return None
    value = name if "{tag:Name}" in template else hostname
    return re.sub(r"\{[^}]*\}", value, template) if value else None


def dotted(name: str) -> str:
    return name.lower().rstrip(".") + "."


def address_of(kind: str, name: str, value: str) -> str | None:
    """The address that a value of a record stands for."""
    if kind == "PTR":
        return ".".join(reversed(name.split(".")[:4]))
    if kind == "CNAME":
        match = re.match(r"(?:ip|ec2)-(\d+)-(\d+)-(\d+)-(\d+)\.", value)
        return ".".join(match.groups()) if match else None
    return str(ipaddress.ip_address(value))


def foreign(node: ChefNode, known: Known) -> bool:
    """Whether a Chef node converged on a machine that has none of the instance's addresses."""
    return bool(node.private_ips and known.addresses and not set(node.private_ips) & known.addresses)


def _demand(condition: object, message: str) -> None:
    if not condition:
        raise Violation(message)
