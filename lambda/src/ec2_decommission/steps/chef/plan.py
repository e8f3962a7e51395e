"""Decides which Chef nodes and clients of dead instances are deleted, and on what proof.

Pure functions. The input is a snapshot of the Chef server and an answer about live instances. The output is removals
with their proofs, and kept objects with their reasons. ``plan`` at the end of this file combines the rules.

**A node** is deleted

1. *by id*: its own ``ec2.instance_id`` is the instance's, or its name comes from a ``chef.node_name`` that contains
   ``{instance_id}``; and it carries no other id, account or region. Or
2. *by name*: it has no ``ec2.instance_id``; its name comes from ``chef.node_name`` or an earlier proven node; the
   instance was recorded as running; a node that ever converged shows an address recorded for the instance; no live
   instance has the name; and no node of another name is the instance's by id.

**A client** is deleted with the node that is the instance's by id, or by its name under the same rules as a node. In
both cases, it must not be privileged, no other machine's node may own it, and no live instance may have its name. Any
client may create a node under any free name, with any id in it. So if several nodes carry the id, a client is deleted
only under the name that ``chef.node_name`` gives or that was recorded before.

Case never matters, and ``web-4`` may be the short form of ``web-4.example.com``.
Letter case never decides, and ``web-4`` may be the short form of ``web-4.example.com``.
"""

from __future__ import annotations

import re
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import TYPE_CHECKING

from ...errors import DecommissionError, TransientError, about
from ...live import Question
from ...regions import region_of_name, region_of_zone
from ...templates import Template
from ..base import Findings, Removal

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Iterator, Mapping

    from ...clients.chef import ChefClient, ChefNode
    from ...config import ChefSettings
    from ...instance import Instance
    from ...live import Living
    from ..base import Finding
    from .observe import Snapshot

# Why a thing stays: in words, or the error that kept the question from being answered.
Reason = str | DecommissionError | None

# The clients of an organization itself, by Chef's own convention.
_ORGANIZATION_CLIENTS = ("chef-validator", "chef-webui")
_VALIDATOR_SUFFIX = "-validator"

# Without chef.node_name: the names that nodes usually get. Chef's default is the FQDN.
_NAME_TAG, _PRIVATE_DNS_NAME, _HOSTNAME = map(Template, ("{tag:Name}", "{private_dns_name}", "{hostname}"))
# https://docs.aws.amazon.com/AWSEC2/latest/UserGuide/hostname-types.html
_EC2_HOSTNAME = re.compile(r"ip-\d+-\d+-\d+-\d+|i-[0-9a-f]+")


@dataclass(frozen=True)
class Case:
    """One dead instance, and what was found for it.

    Attributes:
        dead: all dead instances of the batch, by id.
    """

    settings: ChefSettings
    instance: Instance
    dead: Mapping[str, Instance]
    snapshot: Snapshot

    @cached_property
    def rendered(self) -> tuple[str, ...]:
        """The names from ``chef.node_name``, for every value that the tags ever had; in lower case."""
        template = self.settings.node_name
        return _lower(template.render_all(self.instance)) if template else ()

    @cached_property
    def names_with_id(self) -> tuple[str, ...]:
        """The rendered names, if they contain the instance id."""
        template = self.settings.node_name
        return self.rendered if template and template.by_id else ()

    @cached_property
    def node_names(self) -> frozenset[str]:
        """The names that prove a node by rule 3: rendered names and those of earlier proven nodes; lower case."""
        return frozenset((*self.rendered, *_lower(self.instance.names("chef", "node"))))

    @cached_property
    def client_names(self) -> frozenset[str]:
        """The names that prove a client by rule 3: rendered names and recorded names of its client; lower case."""
        return frozenset((*self.rendered, *_lower(self.instance.names("chef", "client"))))

    @cached_property
    def proven(self) -> Mapping[str, str]:
        """The nodes that are the instance's by id, each with its proof."""
        proofs = {node.name: proof_by_id(self, node) for node in self._nodes()}
        return {name: proof for name, proof in sorted(proofs.items()) if proof}

    def _nodes(self) -> Iterator[ChefNode]:
        yield from self.snapshot.nodes_with_id(self.instance.instance_id)
        for given in self.rendered:
            yield from (n for _, n in self.snapshot.nodes_like(given) if not isinstance(n, DecommissionError))


# Names


def _lower(names: Iterable[str]) -> tuple[str, ...]:
    return tuple(name.lower() for name in names)


def short(name: str) -> str:
    """Returns the first label, in lower case."""
    return name.split(".", 1)[0].lower()


def alike(one: str, other: str) -> bool:
    """Returns whether two names may belong to one machine: they are equal, or one is the other's short form.

    Example:
        >>> alike("WEB-4.example.com", "web-4"), alike("web-4.example.com", "web-4.example.net")
        (True, False)
    """
    one, other = one.lower(), other.lower()
    return one == other or one == short(other) or other == short(one)


# Nodes


def elsewhere(instance: Instance, node: ChefNode) -> str | None:
    """Returns why the node belongs to another account or region; None if nothing shows that."""
    regions = (
        node.region,
        region_of_zone(node.availability_zone),
        *map(region_of_name, node.private_dns_names + node.public_dns_names),
    )
    for region in filter(None, regions):
        if region != instance.region:
            return f"it is in region {region}, but {instance.instance_id} was in {instance.place}"
    if node.account_id and node.account_id != instance.account_id:
        return f"it is in account {node.account_id}, but {instance.instance_id} was in {instance.place}"
    return None


def proof_by_id(case: Case, node: ChefNode) -> str | None:
    """Rule 1. Returns None if the node is not the instance's by id."""
    instance_id = case.instance.instance_id
    if elsewhere(case.instance, node):
        return None
    if node.instance_id == instance_id:
        return f"ec2.instance_id is {instance_id}"
    if node.instance_id is None:
        return name_with_id(case, node.name)
    return None


def name_with_id(case: Case, name: str) -> str | None:
    """Rule 1 for names: returns the proof if the name contains the instance id."""
    if name.lower() not in case.names_with_id:
        return None
    return f"chef.node_name gives this name, with {case.instance.instance_id} in it"


def why_node_stays(case: Case, node: ChefNode, living: Living) -> Reason:
    """Rule 3: returns why a node with one of the instance's names, but without its id, is kept."""
    return (
        another_id(case, node)
        or elsewhere(case.instance, node)
        or never_ran(case)
        or no_template(case)
        or hidden_node(case)
        or proven_under_another_name(case, node.name, exact=True)
        or unrecorded_address(case, node)
        or living_namesake(case, node.name, living)
    )


def another_id(case: Case, node: ChefNode) -> str | None:
    """Returns the id in the node, if it is not the instance's."""
    if node.instance_id in (None, case.instance.instance_id):
        return None
    return f"belongs to {node.instance_id}"


def never_ran(case: Case) -> str | None:
    """A failed launch has a Name tag, but nothing was ever created for it."""
    return None if case.instance.ran else f"{case.instance.instance_id} was never recorded as running"


def no_template(case: Case) -> str | None:
    """Someone recreated a node that lost its id. Only a template can tell whether a live instance did."""
    return None if case.settings.node_name else "has no ec2 data, and without chef.node_name its owner is unknown"


def hidden_node(case: Case) -> TransientError | None:
    """The search counted more nodes than it returned, and one of them may be the instance's."""
    if not case.snapshot.hidden or case.proven:
        return None
    return TransientError(
        f"the Chef search counts {case.snapshot.hidden} more nodes than it shows: either its index is behind, or "
        f"client {case.settings.client_name} may not read every node"
    )


def proven_under_another_name(case: Case, name: str, *, exact: bool) -> str | None:
    """A node of another name is the instance's, so this name is not.

    Args:
        exact: whether the short form counts as another name.
    """
    for proven in case.proven:
        if not (proven.lower() == name.lower() if exact else alike(proven, name)):
            return f"{case.instance.instance_id} is node {proven}"
    return None


def unrecorded_address(case: Case, node: ChefNode) -> str | None:
    """Another machine converged under the name, perhaps one outside EC2."""
    recorded = set(case.instance.addresses)
    shown = _addresses(node)
    if recorded & shown or not (shown or node.ohai_time):
        return None
    return f"it has no ec2 data, and its address {', '.join(sorted(shown)) or '(none)'} is not recorded"


def _addresses(node: ChefNode) -> set[str]:
    return {*node.private_ips, *node.public_ips, *node.ipv6_addresses, *((node.ipaddress,) if node.ipaddress else ())}


# Clients


def client_proof(case: Case, name: str) -> str | None:
    """Returns why a client is the instance's: its name has the id, it belongs to a proven node, or by name."""
    if proof := name_with_id(case, name):
        return proof
    if node := _node_of(case, name):
        return f"client of node {node}: {case.proven[node]}"
    return name_proof(case, name) if name.lower() in case.client_names else None


def _node_of(case: Case, client: str) -> str | None:
    """Returns the proven node that a client belongs to: one of the same name, ignoring case."""
    if client in case.proven:
        return client
    return next((n for n in case.proven if n.lower() == client.lower() and n not in case.snapshot.clients), None)


def name_proof(case: Case, name: str) -> str:
    """Returns why the name is the instance's."""
    if name.lower() in case.rendered:
        return "chef.node_name gives this name"
    return "an earlier node of the instance had this name"


def why_client_stays(case: Case, client: ChefClient, mine: Collection[str], living: Living) -> Reason:
    """Returns why a client is kept although there is a proof.

    Args:
        mine: the nodes that are removed with the instance.
    """
    reason = privileged(case.settings, client) or node_of_somebody_else(case, client.name, mine)
    if reason or name_with_id(case, client.name):
        return reason
    if _node_of(case, client.name):
        return one_of_several(case, client.name) or living_namesake(case, client.name, living)
    return (
        never_ran(case)
        or hidden_node(case)
        or proven_under_another_name(case, client.name, exact=False)
        or living_namesake(case, client.name, living)
    )


def privileged(settings: ChefSettings, client: ChefClient) -> str | None:
    """Protects validators, admins, and the organization's and the function's own clients."""
    name = client.name.lower()
    if name == settings.client_name.lower():
        return "it is the client that this function uses"
    if name in _ORGANIZATION_CLIENTS or name.endswith(_VALIDATOR_SUFFIX):
        return "it is the organization's own client"
    if client.validator or client.admin:
        return f"it is {'a validator' if client.validator else 'an admin'}"
    return None


def one_of_several(case: Case, name: str) -> str | None:
    """Several nodes carry the id. One of them may have the name of another machine's client."""
    if len({proven.lower() for proven in case.proven}) < 2:
        return None
    if name.lower() in case.client_names:
        return None
    return (
        f"nodes {', '.join(case.proven)} all carry {case.instance.instance_id}, and neither chef.node_name nor a "
        "record says which of them is its own"
    )


def node_of_somebody_else(case: Case, client: str, mine: Collection[str]) -> Reason:
    """Finds another node that may own the client: one of its name, or of its short or long form without a client.

    A dead instance's node protects the client only if both have the same name.
    """
    for name, node in case.snapshot.nodes_like(client):
        if name in mine or not alike(name, client):
            continue
        if name != client and (name in case.snapshot.clients or name_with_id(case, client)):
            continue
        if isinstance(node, DecommissionError):
            return node
        if name != client and _is_dead(case, node):
            continue
        whose = another_id(case, node) or f"is not proven to be {case.instance.instance_id}'s"
        return f"node {name} may own it, and {whose}"
    return None


def _is_dead(case: Case, node: ChefNode) -> bool:
    """Returns whether the node belongs, by id, to a dead instance of the same batch."""
    return any(dead.instance_id == node.instance_id and not elsewhere(dead, node) for dead in case.dead.values())


# Live instances


def living_namesake(case: Case, name: str, living: Living) -> Reason:
    """Returns a live instance that has the name, or an error if not every place could be queried."""
    for template, asked in sorted(names_asked(case, name), key=str):
        if bearer := living.bearer(template, asked):
            return f"live instance {bearer} has this name"
    return living.error


def names_asked(case: Case, name: str) -> frozenset[tuple[Template, str]]:
    """Returns the names that a live instance would have if its node had this name, in lower case.

    Without ``chef.node_name``, these are the usual names: the Name tag, and the private DNS name.
    """
    names = {name.lower(), short(name)}
    if template := case.settings.node_name:
        return frozenset((template, asked) for asked in names.union(r for r in case.rendered if alike(r, name)))
    usual = {(_NAME_TAG, asked) for asked in names}
    if _EC2_HOSTNAME.fullmatch(short(name)):
        usual.add((_PRIVATE_DNS_NAME, name.lower()) if region_of_name(name.lower()) else (_HOSTNAME, short(name)))
    return frozenset(usual)


# All rules combined


def question(
    settings: ChefSettings, instances: Mapping[str, Instance], snapshot: Snapshot, ids: Iterable[str] | None = None
) -> Question:
    """Returns the query about live instances that ``plan`` needs. Arguments as in ``plan``."""
    names: set[tuple[Template, str]] = set()
    for instance_id in instances if ids is None else ids:
        case = Case(settings, instances[instance_id], instances, snapshot)
        for name in (*_nodes_by_name(case), *_clients(case)):
            if not name_with_id(case, name):
                names |= names_asked(case, name)
    return Question(names=frozenset(names))


def plan(
    settings: ChefSettings,
    instances: Mapping[str, Instance],
    snapshot: Snapshot,
    living: Living,
    ids: Iterable[str] | None = None,
) -> dict[str, Finding]:
    """Decides for each instance.

    Args:
        instances: all dead instances of the batch.
        living: the answer to ``question``.
        ids: the instances to decide for; all by default.
    """
    claims: dict[str, str] = {}
    findings = {}
    for instance_id in instances if ids is None else ids:
        case = Case(settings, instances[instance_id], instances, snapshot)
        findings[instance_id] = _decide(case, living, claims)
    return findings


def _decide(case: Case, living: Living, claims: dict[str, str]) -> Finding:
    """Decides clients before nodes: while a client's node exists, a retry finds both by id."""
    findings = Findings()
    nodes = _decide_nodes(case, living, findings)
    failed = _decide_clients(case, living, nodes, findings, claims)
    lost = [name for name in failed if only_a_node_leads_to(case, name)]
    for name, proof in nodes.items():
        if lost:
            findings.stays(f"node {name}", until_client_is_gone(lost[0]))
        else:
            _claim(case, Removal("delete", f"node {name}", proof, "chef_node", handle=name), findings, claims)
    if error := hidden_node(case):
        findings.errors.append(error)
    template = case.settings.node_name
    if template and not case.rendered:
        findings.notes += [
            f"chef.node_name {template.text}: {placeholder} is not known for {case.instance.instance_id}"
            for placeholder in template.missing(case.instance)
        ]
    return findings.finding()


def _decide_nodes(case: Case, living: Living, findings: Findings) -> dict[str, str]:
    """Returns the nodes to remove, with their proofs."""
    going = dict(case.proven)
    for node in case.snapshot.nodes_with_id(case.instance.instance_id):
        _stays(f"node {node.name}", elsewhere(case.instance, node), findings)
    for name, named in _nodes_by_name(case).items():
        if reason := named if isinstance(named, DecommissionError) else why_node_stays(case, named, living):
            _stays(f"node {name}", reason, findings)
        else:
            going[name] = f"{name_proof(case, name)}, the node has no ec2 data, and no living instance has the name"
    return going


def _decide_clients(
    case: Case, living: Living, nodes: Collection[str], findings: Findings, claims: dict[str, str]
) -> list[str]:
    """Returns the names of the instance's clients that could not be decided.

    Args:
        nodes: the nodes that are removed with the instance.
    """
    failed = []
    clients = _clients(case)
    for name, client in clients.items():
        proof = client_proof(case, name)
        if not proof:
            findings.stays(f"client {name}", "neither chef.node_name nor a record gives the instance this name")
        elif isinstance(client, DecommissionError):
            findings.errors.append(about(f"client {name}", client))
            failed.append(name)
        elif reason := why_client_stays(case, client, nodes, living):
            _stays(f"client {name}", reason, findings)
            failed += [name] if isinstance(reason, DecommissionError) else []
        else:
            _claim(case, _client_removal(client, proof), findings, claims)
    if case.settings.delete_client:
        findings.notes += [
            f"no client of node {node} was found"
            for node in case.proven
            if not any(alike(node, name) for name in clients)
        ]
    return failed


def _nodes_by_name(case: Case) -> dict[str, ChefNode | DecommissionError]:
    """Returns the nodes under a given name that are not the instance's by id."""
    mine = {*case.proven, *(node.name for node in case.snapshot.nodes_with_id(case.instance.instance_id))}
    return {
        name: node
        for given in sorted(case.node_names)
        for name, node in case.snapshot.nodes_like(given)
        if name.lower() == given and name not in mine
    }


def _clients(case: Case) -> dict[str, ChefClient | DecommissionError]:
    """Returns the clients under a given name, and others that may belong to a proven node."""
    if not case.settings.delete_client:
        return {}
    given = {
        name: client
        for wanted in sorted(case.client_names)
        for name, client in case.snapshot.clients_like(wanted)
        if name.lower() == wanted
    }
    of_nodes = {
        name: client
        for node in case.proven
        for name, client in case.snapshot.clients_like(node)
        if alike(name, node) and (name == node or name not in case.snapshot.nodes)
    }
    return of_nodes | given


def _stays(target: str, reason: Reason, findings: Findings) -> None:
    if isinstance(reason, DecommissionError):
        findings.errors.append(about(target, reason))
    elif reason:
        findings.stays(target, reason)


def _claim(case: Case, removal: Removal, findings: Findings, claims: dict[str, str]) -> None:
    """Removes an object once, even if two dead instances had the same name."""
    first = claims.setdefault(removal.target, case.instance.instance_id)
    if first == case.instance.instance_id:
        findings.removals.append(removal)
    else:
        findings.stays(removal.target, f"is removed with {first}, which had the same name")


def _client_removal(client: ChefClient, proof: str) -> Removal:
    return Removal("delete", f"client {client.name}", proof, "chef_client", asdict(client), client.name)


def only_a_node_leads_to(case: Case, client: str) -> bool:
    """Returns whether a retry could no longer prove that a client is the instance's if its node were gone."""
    by_name = name_with_id(case, client) or (case.instance.ran and client.lower() in case.client_names)
    return not by_name and _node_of(case, client) is not None


def until_client_is_gone(client: str) -> str:
    """Returns the reason to keep a node whose client could not be removed."""
    return f"is kept until client {client} is removed, because only the node identifies it"
