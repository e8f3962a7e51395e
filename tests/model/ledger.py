"""The oracle: the creator of each thing, and whether the thing still works for it. Repeats no rules of the product.

A run of the function does *harm* if it removes a thing that works for its creator, if it creates or changes anything,
or if it touches things that its settings exclude. A run is *complete* if no undisputed thing of a dead instance is
left. A thing is disputed if two creators could have made it.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from ec2_decommission.clients.chef import ChefClient, ChefNode
from ec2_decommission.clients.consul import CatalogNode, Key
from ec2_decommission.config import ExternalDns, InstanceFilter
from tests.fakes.ec2 import private_dns_name
from tests.fakes.world import DOMAIN, World

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from datetime import datetime

    from ec2_decommission.place import Place

# ("value", zone, name, type, set identifier, value), ("record", ...) for a record set without values that the
# function can remove, ("chef node", name), ("chef client", name), ("consul node", name), ("agent", name),
# ("session", id), ("key", name)
Thing = tuple[str, ...]
Look = dict[Thing, Any]  # all things at one moment, with their contents

STRANGER = "a stranger"  # any creator that is not an instance in a served place
OWN_CLIENT = "decommission"
LOCKS = "locks/"
SEMAPHORE = 0xE0F69A2BAA414DE0
_REMOVABLE = ("A", "AAAA", "CNAME", "PTR")


class Violation(AssertionError):
    """The function did harm, or left something."""


@dataclass(frozen=True)
class Setup:
    """The function's settings in one history. A name template of ``None`` means no template."""

    inventory: bool = True
    hostname_records: bool = False
    external_dns: ExternalDns | None = None
    chef_name: str | None = "{tag:Name}"
    delete_client: bool = True
    consul_name: str | None = "{tag:Name}"
    deregister: bool = False
    backwards: bool = False  # whether parallel steps end in reverse order

    @property
    def record_names(self) -> tuple[str, ...]:
        labels = ["{tag:Name}", "www-{tag:Name}", "{instance_id}", *(["{hostname}"] if self.hostname_records else [])]
        return tuple(f"{label}.{DOMAIN}" for label in labels)


@dataclass
class Body:
    """An instance as the test knows it.

    Attributes:
        address: the private address; None for a failed launch.
        public: the current public address.
        names: all Name tags that it ever had, in lower case.
        addresses: all addresses that it ever had.
        recorded: the ``names`` and ``addresses`` that the function recorded.
        nodes: the names of its Chef nodes, in lower case.
        swept: its tags at the last sweep; None before the first sweep.
        tags_gone: whether EC2 has dropped tags since its termination.
        left_alone: whether the filter excluded it, or could not decide, when its termination was handled.
    """

    instance_id: str
    place: Place
    vpc_id: str
    name: str | None
    address: str | None
    public: str | None = None
    tags: dict[str, str] = field(default_factory=dict)
    alive: bool = True
    names: set[str] = field(default_factory=set)
    addresses: set[str] = field(default_factory=set)
    recorded: set[str] = field(default_factory=set)
    nodes: set[str] = field(default_factory=set)
    swept: dict[str, str] | None = None
    tags_gone: bool = False
    left_alone: bool = False

    @property
    def current(self) -> set[str]:
        """The current addresses."""
        return {a for a in (self.address, self.public) if a} if self.alive else set()

    @property
    def hostname(self) -> str:
        return private_dns_name(self.address or "", self.place.region).split(".")[0]

    @property
    def traits(self) -> set[str]:
        """The current name and addresses."""
        return self.current | ({self.name.lower()} if self.name else set())

    def has_labels(self, names: Iterable[str | None]) -> set[str]:
        """The DNS names for these Name tags, and the names that do not depend on tags."""
        labels = {prefix + name.lower() for name in names if name for prefix in ("", "www-")}
        return {dotted(label) for label in (*labels, self.instance_id, self.hostname)}


def look(world: World) -> Look:
    """The current state of the world."""
    things: Look = {}
    for zone, name, kind, identifier, ttl, *values in world.zones.everything():
        if kind in _REMOVABLE and values:
            things |= {("value", zone, name, kind, identifier, value): ttl for value in values}
        else:
            things["record", zone, name, kind, identifier] = (ttl, *values)
    chef, consul = world.chef, world.consul._world["dc1"]
    things |= {("chef node", name): node for name, node in chef.node_objects.items()}
    things |= {("chef client", name): chef.client_details.get(name, ChefClient(name)) for name in chef.client_names}
    things |= {("consul node", name): node for name, node in consul.nodes.items()}
    things |= {("agent", name): agent.alive for name, agent in consul.agents.items()}
    things |= {("session", session_id): session for session_id, session in consul.sessions.items()}
    things |= {("key", name): key for name, key in consul.keys.items()}
    return things


@dataclass
class Ledger:
    """The creator and the creation time of each thing.

    Attributes:
        filter: the current ``instance_filter``.
        claimed: DNS names that external-dns or ``keep_names`` owns.
        elastic: the allocated Elastic IPs in served places.
        interfaces: addresses of other interfaces, such as a load balancer's.
    """

    setup: Setup
    filter: InstanceFilter = field(default_factory=InstanceFilter)
    bodies: dict[str, Body] = field(default_factory=dict)
    owners: dict[Thing, str] = field(default_factory=dict)
    written: dict[Thing, datetime] = field(default_factory=dict)
    claimed: set[str] = field(default_factory=set)
    elastic: dict[str, Place] = field(default_factory=dict)
    interfaces: set[str] = field(default_factory=set)

    def note(self, owner: str, now: datetime, *things: Thing) -> None:
        """Makes the owner the creator of these things, in place of earlier creators."""
        self.owners |= dict.fromkeys(things, owner)
        self.written |= dict.fromkeys(things, now)

    def owner(self, thing: Thing) -> Body | None:
        """The instance that created a thing; None for a stranger."""
        return self.bodies.get(self.owners.get(thing, STRANGER))

    def things_of(self, body: Body) -> list[Thing]:
        """All things whose last creator is this instance, including removed ones."""
        return [thing for thing, owner in self.owners.items() if owner == body.instance_id]

    def living(self) -> Iterator[Body]:
        return (body for body in self.bodies.values() if body.alive)

    def excluded(self, body: Body) -> bool:
        """Whether the filter excludes the instance by its tags.

        If EC2 has dropped the tags, the tags from the last sweep count: later tags cannot be known.
        """
        tags = body.swept if body.tags_gone and body.swept is not None else body.tags
        wanted, unwanted = self.filter.include_tags, self.filter.exclude_tags
        return any(tags.get(key) in values for key, values in unwanted.items()) or any(
            tags.get(key) not in values for key, values in wanted.items()
        )

    # Harm

    def judge(self, before: Look, after: Look, unavoidable: Callable[[Thing], bool]) -> list[Thing]:
        """Raises Violation if a run of the function did harm.

        Args:
            unavoidable: whether a thing was removed by name right after it was written.

        Returns:
            The unavoidable harm.
        """
        harmed = []
        for thing in after.keys() - before.keys():
            raise Violation(f"{thing} was created")
        for thing in before.keys() & after.keys():
            if before[thing] != after[thing]:
                self._judge_change(thing, before, after)
        for thing in before.keys() - after.keys():
            harm = self._harm(thing, before)
            if harm and not unavoidable(thing):
                raise Violation(f"{thing} was removed: {harm}; it was {before[thing]}")
            harmed += [thing] if harm else []
        return harmed

    def _judge_change(self, thing: Thing, before: Look, after: Look) -> None:
        """Only a lock release is a harmless change."""
        old, new = before[thing], after[thing]
        released = isinstance(old, Key) and new == replace(old, session=None, modify_index=new.modify_index)
        if not released:
            raise Violation(f"{thing} was changed from {old} to {new}")
        session = ("session", old.session or "")
        if not thing[1].startswith(LOCKS) and session in after:
            raise Violation(f"{thing} was released, but is outside lock_prefixes")
        if harm := self._harm(session, before):
            raise Violation(f"{thing} was released: {harm}")

    def _harm(self, thing: Thing, before: Look) -> str | None:
        """The reason why removing the thing is harm; None if it is not."""
        kind = thing[0]
        if kind == "record":
            return "the function must not remove record sets of this kind"
        if kind == "key":
            return self._harm_of_key(thing, before)
        if kind == "consul node" and not self.setup.deregister:
            return "deregister_node is off"
        if kind == "chef client" and not self.setup.delete_client:
            return "delete_client is off"
        owner = self.owners[thing]
        if kind == "session" and self.owners.get(("consul node", before[thing].node)) != owner:
            return None  # another owner has taken over the node's name, and with it all its sessions
        if kind == "value" and (harm := self._harm_of_address(thing)):
            return harm
        if owner == STRANGER:
            disputed = self._is_unused(thing, before) and any(b.address for b in self._dead_named(thing[1]))
            return None if disputed else "a stranger created it"
        body = self.bodies[owner]
        works = self._works_in_consul(thing, body, before) if kind in ("consul node", "agent", "session") else None
        if works is None:
            works = body.alive and (kind != "value" or self._resolves(thing, body))
        if works:
            return f"it works for {owner}"
        if not body.alive and self.excluded(body) and not self._may_be_anothers(thing, body, before):
            return f"instance_filter excludes {owner}"
        return None

    def _harm_of_address(self, value: Thing) -> str | None:
        _, _, name, _, _, target = value
        if name in self.claimed or is_kept(name) or is_kept(target):
            return "external-dns or keep_names claims the name"
        if address_of(value) in self.elastic:
            return "the address is an Elastic IP that is still allocated"
        return None

    def _harm_of_key(self, thing: Thing, before: Look) -> str | None:
        """A key can be deleted with its session: by the session's behavior, or as a semaphore's contender key."""
        key: Key = before[thing]
        contends = key.flags == SEMAPHORE and thing[1].rpartition("/")[2]
        session = ("session", key.session or contends or "")
        if session not in before:
            return "no session holds it"
        if not contends and before[session].behavior != "delete":
            return "its session only releases it"
        return self._harm(session, before)

    def _is_unused(self, thing: Thing, before: Look) -> bool:
        """Whether a stranger's Chef node or client is unused: no node with that name has converged.

        It looks like an object that an instance of that name left during its boot.
        """
        node, client = before.get(("chef node", thing[1])), before.get(("chef client", thing[1]))
        plain = node in (None, ChefNode(thing[1])) and client in (None, ChefClient(thing[1]))
        return plain and thing[0].startswith("chef")

    def _dead_named(self, name: str) -> Iterator[Body]:
        return (body for body in self.bodies.values() if not body.alive and name.lower() in body.names)

    def _resolves(self, value: Thing, body: Body) -> bool:
        """Whether a record resolves to its live creator.

        A record under an old name of the creator counts only if no dead instance could have created the same record.
        """
        _, _, name, kind, _, target = value
        if kind == "CNAME" and target.endswith(f".{DOMAIN}."):
            return target in body.has_labels([body.name])
        if target.startswith(body.instance_id):
            return True
        address = address_of(value)
        if address not in body.current:
            return False
        label = target if kind == "PTR" else name
        dead = (other for other in self.bodies.values() if not other.alive)
        return label in body.has_labels([body.name]) or not any(address in other.addresses for other in dead)

    def _works_in_consul(self, thing: Thing, body: Body, before: Look) -> bool | None:
        """Whether the thing works for its creator. None means as long as the creator is live."""
        node = before[thing].node if thing[0] == "session" else thing[1]
        agent = ("agent", node)
        if before.get(agent) and self.owners.get(agent) == body.instance_id:
            return True  # even if EC2 says that the instance has ended
        mine = self.owners.get(("consul node", node)) == body.instance_id
        # A crashed agent comes back under its original name.
        return None if mine and node in (body.name, body.hostname) else False

    def _may_be_anothers(self, thing: Thing, body: Body, before: Look) -> bool:
        """Whether an instance that is not excluded could have created an excluded instance's thing."""
        handled = [b for b in self.bodies.values() if b is not body and not self.excluded(b)]
        if thing[0] in ("agent", "session"):
            thing = ("consul node", before[thing].node if thing[0] == "session" else thing[1])
        content = before.get(thing)
        match content:
            case ChefNode():
                return content.instance_id is None and any(thing[1].lower() in b.names for b in handled)
            case ChefClient():
                return any(thing[1].lower() in b.names | b.nodes for b in handled)
            case CatalogNode():
                return content.instance_id is None and any(content.address in b.addresses for b in handled)
        return any(address_of(thing) in {None, *b.addresses} for b in handled)

    # Completeness

    def left_over(self, body: Body, after: Look) -> Iterator[Thing]:
        """The remaining undisputed things of a dead instance.

        Call this after the history has settled: all terminations are handled, and no dead instance's agent runs.
        """
        in_use = {trait for other in self.living() for trait in other.traits}
        free = body.recorded - in_use - self.interfaces - self.elastic.keys()
        for thing in self.things_of(body) if not body.left_alone else ():
            if thing in after and self._is_undisputed(thing, body, free, after):
                yield thing

    def _is_undisputed(self, thing: Thing, body: Body, free: set[str], after: Look) -> bool:
        """``free`` are the instance's recorded names and addresses that no other instance has."""
        kind, name = thing[0], thing[1].lower()
        if kind == "value":
            return self._is_its_record(thing, body, free, after)
        # Identified only by name: an instance with another node does not have this name.
        by_name = bool(self.setup.chef_name) and body.nodes <= {name} <= free
        if kind == "chef node":
            return by_name or after[thing].instance_id is not None
        if kind == "chef client":
            claimed = any(other[0] == "chef node" and alike(other[1], name) for other in after)
            return by_name and self.setup.delete_client and not claimed
        node = after.get(("consul node", after[thing].node if kind == "session" else thing[1]))
        if node is None or kind == "agent" or self.owner(("consul node", node.name)) is not body:
            return False
        wanted = kind == "session" or self.setup.deregister
        return wanted and (node.instance_id is not None or node.address in free)

    def _is_its_record(self, value: Thing, body: Body, free: set[str], after: Look) -> bool:
        _, _, name, kind, _, target = value
        if name in self.claimed or is_kept(name) or is_kept(target):
            return False
        labels = body.has_labels(free - body.addresses)
        if not self.setup.hostname_records:
            labels.discard(dotted(body.hostname))
        if name == dotted(body.instance_id):
            return True
        if kind == "CNAME" and target.endswith(f".{DOMAIN}."):
            taken = any(thing[0] in ("value", "record") and thing[2] == target for thing in after)
            return {name, target} <= labels and not taken
        if target.startswith(body.instance_id):
            return name in labels
        return (target if kind == "PTR" else name) in labels and address_of(value) in free


def dotted(label: str) -> str:
    """The canonical name of a label in the zone."""
    return f"{label.lower()}.{DOMAIN}."


def is_kept(name: str) -> bool:
    """Whether ``keep_names`` contains the name, because Terraform owns it."""
    return name.startswith("keep-")


def alike(one: str, other: str) -> bool:
    """Whether the first labels are equal."""
    return one.lower().split(".")[0] == other.lower().split(".")[0]


def address_of(value: Thing) -> str | None:
    """The address to which a record resolves; None for another name."""
    _, _, name, kind, _, target = value
    if kind == "PTR":
        return ".".join(reversed(name.split(".")[:4]))
    if kind == "CNAME":
        match = re.match(r"(?:ip|ec2)-(\d+)-(\d+)-(\d+)-(\d+)\.", target)
        return ".".join(match.groups()) if match else None
    return target


def marks(flags: ExternalDns | None, host: str) -> list[str]:
    """The names of the TXT records that external-dns uses to mark an A record as its own."""
    flags = flags or ExternalDns()
    prefix, suffix = (text.replace("%{record_type}", "a") for text in (flags.txt_prefix, flags.txt_suffix))
    typed = "%{record_type}" in flags.txt_prefix + flags.txt_suffix
    return [dotted(f"{prefix}{kind}{host}{suffix}") for kind in ([""] if typed else ["", "a-"])]
