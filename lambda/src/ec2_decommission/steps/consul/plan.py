"""Decides which locks, sessions and nodes belong to a dead instance, and on what proof. Pure: no call, no clock.

A node is the instance's by one of two proofs. A session or lock is proven only through its node:

1. **By id**: its meta ``instance_id``, or its name, if ``node_name`` contains ``{instance_id}``.
2. **By recorded address**: it carries no id, its own address was recorded for the instance, and nobody else has that
   address now.

A name alone proves nothing. In both cases, an account or region in the node must be the instance's. While the agent
of a node that is proven by id is alive, nothing of the instance is removed.
"""

from __future__ import annotations

import re
from collections import defaultdict
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ...errors import DecommissionError, StillAlive, about
from ...instance import own_address
from ...live import Question
from ...regions import region_of_zone
from ..base import Findings, Removal
from .observe import SEMAPHORE_FLAGS, fold

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Mapping, Sequence

    from ...clients.consul import CatalogNode, Key, Session
    from ...config import ConsulSettings
    from ...instance import Instance
    from ...live import Living
    from ..base import Finding
    from .observe import Datacenter, Snapshot

LOCK, SESSION, NODE = "consul_lock", "consul_session", "consul_node"

_PASSING = "passing"  # serfHealth of a live agent
# https://docs.aws.amazon.com/AWSEC2/latest/UserGuide/resource-ids.html
_EC2_ID = re.compile(r"(?<![0-9a-z])i-(?:[0-9a-f]{17}|[0-9a-f]{8})(?![0-9a-z])")


@dataclass(frozen=True)
class Handle:
    """What a removal concerns: a node, a session of it, or a key that this session holds."""

    datacenter: str
    node: CatalogNode
    session: Session | None = None
    key: Key | None = None


@dataclass(frozen=True)
class _Proof:
    text: str
    by_id: bool


@dataclass(frozen=True)
class _Claim:
    """A node that is proven to be an instance's, and whether its agent is alive."""

    instance_id: str
    datacenter: Datacenter
    node: CatalogNode
    proof: _Proof
    lives: bool

    @property
    def thing(self) -> tuple[str, str]:
        """The node: datacenter and folded name."""
        return self.datacenter.name, fold(self.node.name)


def candidates(
    settings: ConsulSettings, instances: Mapping[str, Instance], nodes: Iterable[CatalogNode]
) -> Mapping[str, tuple[CatalogNode, ...]]:
    """Finds the nodes with an instance's id, one of its names or, if they have no id, one of its addresses."""
    by_trait: dict[tuple[str, str | None], list[CatalogNode]] = defaultdict(list)
    for node in nodes:
        names = [("name", fold(node.name)), ("known as", fold(f"{node.datacenter}/{node.name}"))]
        addresses = () if node.instance_id else own_addresses(node)
        for trait in [*names, ("id", node.instance_id), *(("address", address) for address in addresses)]:
            by_trait[trait].append(node)
    found: dict[str, tuple[CatalogNode, ...]] = {}
    for instance in instances.values():
        traits = [
            ("id", instance.instance_id),
            *(("address", address) for address in instance.addresses),
            *(("name", fold(name)) for name in _names(settings, instance)),
            *(("known as", fold(name)) for name in instance.names("consul", "node")),
        ]
        found[instance.instance_id] = tuple(dict.fromkeys(n for trait in traits for n in by_trait.get(trait, ())))
    return found


def question(settings: ConsulSettings, instances: Mapping[str, Instance], snapshot: Snapshot) -> Question:
    """Returns the query about the addresses of the nodes that only rule 2 can prove."""
    found = _nodes_in_question(settings, instances, snapshot)
    return Question(
        frozenset(
            address
            for instance_id, some in found.items()
            for _, node in some
            if _rests_on_address(settings, instances[instance_id], node)
            for address in own_addresses(node)
        )
    )


def plan(
    settings: ConsulSettings, instances: Mapping[str, Instance], snapshot: Snapshot, living: Living
) -> Mapping[str, Finding]:
    """Decides what to remove and what to keep, for each instance. The order is locks, sessions, nodes."""
    findings = {
        instance_id: Findings(notes=_notes(settings, instance), errors=list(snapshot.errors.values()))
        for instance_id, instance in instances.items()
    }
    claims: dict[str, list[_Claim]] = defaultdict(list)
    for instance_id, some in _nodes_in_question(settings, instances, snapshot).items():
        for datacenter, node in some:
            proof = _proof(settings, instances[instance_id], node, living)
            if isinstance(proof, _Proof):
                lives = _agent_lives(snapshot, datacenter, node)
                claims[instance_id].append(_Claim(instance_id, datacenter, node, proof, lives))
            elif not _can_lose(settings, datacenter, node):
                continue
            elif isinstance(proof, DecommissionError):
                findings[instance_id].errors.append(proof)
            else:
                findings[instance_id].stays(target_of(node), proof)
    owners = _owners(claim for own in claims.values() for claim in own)
    for instance_id, own in claims.items():
        found = findings[instance_id]
        for claim in _without_living(settings, snapshot, own, found):
            if owners[claim.thing] == instance_id:
                _remove(settings, snapshot, claim, found)
            elif _can_lose(settings, claim.datacenter, claim.node):
                found.stays(target_of(claim.node), f"it is removed with {owners[claim.thing]}")
    return {instance_id: some.finding() for instance_id, some in findings.items()}


def target_of(node: CatalogNode) -> str:
    """Returns the node as shown in reports."""
    return f"node {node.name} {node.address} ({node.datacenter})"


# Who owns a node


def carried_ids(node: CatalogNode) -> frozenset[str]:
    """Returns the EC2 id in the node's meta or, without one, the ids in its name."""
    return frozenset([node.instance_id] if node.instance_id else _EC2_ID.findall(fold(node.name)))


def proven_by_id(settings: ConsulSettings, instance: Instance, node: CatalogNode) -> str | None:
    """Rule 1. Returns the text of the proof; None if the node is not the instance's by id."""
    if _other_id(settings, instance, node) or _other_place(instance, node):
        return None
    if node.instance_id == instance.instance_id:
        return f"node {node.name} has the meta instance_id {instance.instance_id}"
    if _named_by_id(settings, instance, node):
        return f"node {node.name} has the name from node_name, which contains {instance.instance_id}"
    return None


def _proof(
    settings: ConsulSettings, instance: Instance, node: CatalogNode, living: Living
) -> _Proof | str | DecommissionError:
    """Returns the proof that the node is the instance's, the reason to keep it, or why that cannot be decided now."""
    if text := proven_by_id(settings, instance, node):
        return _Proof(text, by_id=True)
    if reason := _other_id(settings, instance, node) or _other_place(instance, node):
        return reason
    return _by_recorded_address(settings, instance, node, living)


def _by_recorded_address(
    settings: ConsulSettings, instance: Instance, node: CatalogNode, living: Living
) -> _Proof | str | DecommissionError:
    """Rule 2. Every own address of the node must be free, because whoever has one of them owns the node."""
    address = _recorded_address(instance, node)
    if address is None:
        return f"only its name matches {instance.instance_id}; its address was not recorded for the instance"
    if living.error:
        return about(target_of(node), living.error)
    for own in own_addresses(node):
        if owner := living.owner(instance, own, lambda other: _may_be_named(settings, other, node)):
            return f"{own} now belongs to {owner}"
    text = f"node {node.name}: {address} was recorded for {instance.instance_id}, and nobody else has it now"
    return _Proof(text, by_id=False)


def _rests_on_address(settings: ConsulSettings, instance: Instance, node: CatalogNode) -> bool:
    """Returns whether only rule 2 can prove that the node is the instance's."""
    if _other_id(settings, instance, node) or _other_place(instance, node):
        return False
    return not proven_by_id(settings, instance, node) and _recorded_address(instance, node) is not None


def _other_id(settings: ConsulSettings, instance: Instance, node: CatalogNode) -> str | None:
    """Guard of both rules: the node must not carry the id of another instance."""
    others = carried_ids(node) - {instance.instance_id}
    if not others or (_named_by_id(settings, instance, node) and not node.instance_id):
        return None
    return f"it belongs to {min(others)} by {'its meta instance_id' if node.instance_id else 'its name'}"


def _other_place(instance: Instance, node: CatalogNode) -> str | None:
    """Guard of both rules: an account or region in the node's meta must be the instance's."""
    for what, of_node, of_instance in (
        ("account", node.account_id, instance.account_id),
        ("region", node.region, instance.region),
        ("region", region_of_zone(node.availability_zone), instance.region),
    ):
        if of_node and of_node != of_instance:
            return f"it is in {what} {of_node}, but {instance.instance_id} was in {of_instance or 'an unknown one'}"
    return None


def _named_by_id(settings: ConsulSettings, instance: Instance, node: CatalogNode) -> bool:
    """Returns whether the node has a name that contains the instance's id."""
    template = settings.node_name
    return template is not None and template.by_id and fold(node.name) in map(fold, template.render_all(instance))


def _may_be_named(settings: ConsulSettings, other: Instance, node: CatalogNode) -> bool:
    """Returns whether a live instance may have the node's name. True if names cannot tell."""
    name = settings.node_name.render(other) if settings.node_name else None
    return name is None or fold(name) == fold(node.name)


def _recorded_address(instance: Instance, node: CatalogNode) -> str | None:
    """Returns the node's own address that was recorded for the instance."""
    return next((own for own in own_addresses(node) if own in instance.addresses), None)


def own_addresses(node: CatalogNode) -> tuple[str, ...]:
    """Returns the node's address and ``lan`` address, in the shortest form, if they can identify a machine."""
    own = (own_address(4, text) or own_address(6, text) for text in node.own_addresses)
    return tuple(dict.fromkeys(filter(None, own)))


def _owners(claims: Iterable[_Claim]) -> Mapping[tuple[str, str], str]:
    """Assigns each node to one instance: by id if possible, otherwise the first one that has its address."""
    owners: dict[tuple[str, str], str] = {}
    for claim in sorted(claims, key=lambda claim: not claim.proof.by_id):
        owners.setdefault(claim.thing, claim.instance_id)
    return owners


# Which agents are alive


def _agent_lives(snapshot: Snapshot, datacenter: Datacenter, node: CatalogNode) -> bool:
    """Uses the leader's health check, or gossip, which knows an agent before that check exists."""
    if datacenter.agents.get(fold(node.name)) == _PASSING:
        return True
    member = snapshot.members.get(node.node_id)
    return member is not None and member.alive


def _without_living(
    settings: ConsulSettings, snapshot: Snapshot, claims: Sequence[_Claim], findings: Findings
) -> Sequence[_Claim]:
    """Returns the claims of an instance that may be carried out now.

    A live node with the instance's id is the instance. A live node with only its address is the instance, or a
    stranger elsewhere in an overlapping range. It is a stranger if another node is known to be the instance, or if
    the instance ended long ago. Otherwise, it is kept until its agent is dead. It never blocks a node with the id, or
    a node in another datacenter. In its own datacenter, the address belongs to it, because agents reach each other by
    address.
    """
    if not any(_can_lose(settings, claim.datacenter, claim.node) for claim in claims):
        return []
    living = [claim for claim in claims if claim.lives]
    if any(claim.proof.by_id for claim in living):
        findings.errors += [_still_alive(claim) for claim in living if claim.proof.by_id]
        return []
    inhabited = {claim.datacenter.name for claim in living}
    dead = [claim for claim in claims if claim.proof.by_id or claim.datacenter.name not in inhabited]
    for claim in claims:
        if claim in dead or not _can_lose(settings, claim.datacenter, claim.node):
            continue
        if not dead and not snapshot.long_ended:
            findings.errors.append(_still_alive(claim))
        else:
            findings.stays(target_of(claim.node), f"a live Consul agent in {claim.node.datacenter} has its address")
    return dead


def _still_alive(claim: _Claim) -> StillAlive:
    agent = f"the Consul agent of {claim.instance_id}"
    return StillAlive(f"{target_of(claim.node)}: {agent} is alive; nothing is removed until it is dead")


# What is removed with a node


def _is_server(snapshot: Snapshot, node: CatalogNode) -> bool:
    """Whether a node is a server. Sessions created without a node, for example via a load balancer, belong to it."""
    member = snapshot.members.get(node.node_id)
    return member is not None and member.server


def _can_lose(settings: ConsulSettings, datacenter: Datacenter, node: CatalogNode) -> bool:
    """Returns whether a node has anything to remove."""
    return settings.deregister_node or fold(node.name) in datacenter.sessions


def _remove(settings: ConsulSettings, snapshot: Snapshot, claim: _Claim, findings: Findings) -> None:
    datacenter, node, proof = claim.datacenter, claim.node, claim.proof.text
    sessions = datacenter.sessions.get(fold(node.name), ())
    if sessions and _is_server(snapshot, node):
        findings.stays(target_of(node), "it is a Consul server, and other machines may have created its sessions")
        return
    for session in sessions:
        for key in datacenter.keys_by_session.get(session.session_id, ()):
            _remove_key(Handle(datacenter.name, node, session, key), session, key, proof, findings)
    for session in sessions:
        target = f"session {session.session_id} of {node.name} ({node.datacenter})"
        document = {"datacenter": node.datacenter, "session": session.document}
        handle = Handle(datacenter.name, node, session)
        findings.removals.append(Removal("destroy", target, proof, SESSION, document, handle))
    if settings.deregister_node:
        _deregister(datacenter, node, proof, findings)


def _remove_key(handle: Handle, session: Session, key: Key, proof: str, findings: Findings) -> None:
    target = f"lock {key.name} ({handle.node.datacenter})"
    contender = key.flags == SEMAPHORE_FLAGS and key.name.endswith(f"/{session.session_id}")
    if key.flags == SEMAPHORE_FLAGS and key.name.endswith("/.lock"):
        findings.stays(target, "it is shared with the other contenders of a semaphore")
        return
    action = "delete" if contender or session.behavior == "delete" else "release"
    document = {"datacenter": handle.node.datacenter, "key": key.document}
    proof = f"held by session {session.session_id}; {proof}"
    findings.removals.append(Removal(action, target, proof, LOCK, document, handle))


def _deregister(datacenter: Datacenter, node: CatalogNode, proof: str, findings: Findings) -> None:
    document = datacenter.documents.get(fold(node.name), {"Node": node.document})
    if isinstance(document, DecommissionError):
        findings.errors.append(about(f"{target_of(node)} cannot be written to the audit", document))
        return
    whole: Mapping[str, Any] = {"datacenter": node.datacenter, "node": document}
    findings.removals.append(
        Removal("deregister", target_of(node), proof, NODE, whole, Handle(datacenter.name, node))
    )


# Candidate nodes


def _nodes_in_question(
    settings: ConsulSettings, instances: Mapping[str, Instance], snapshot: Snapshot
) -> Mapping[str, Collection[tuple[Datacenter, CatalogNode]]]:
    """Returns each instance's candidates with their datacenters. Leaves out instances with nothing to remove."""
    found: dict[str, list[tuple[Datacenter, CatalogNode]]] = defaultdict(list)
    for datacenter in snapshot.datacenters:
        for instance_id, nodes in candidates(settings, instances, datacenter.nodes).items():
            found[instance_id] += [(datacenter, node) for node in nodes]
    return {i: some for i, some in found.items() if any(_can_lose(settings, *one) for one in some)}


def _names(settings: ConsulSettings, instance: Instance) -> tuple[str, ...]:
    """Returns the names that ``node_name`` gives."""
    return settings.node_name.render_all(instance) if settings.node_name else ()


def _notes(settings: ConsulSettings, instance: Instance) -> list[str]:
    template = settings.node_name
    if template is None or _names(settings, instance):
        return []
    missing = ", ".join(template.missing(instance))
    return [f"node_name {template.text}: {missing} is not known for {instance.instance_id}"]
