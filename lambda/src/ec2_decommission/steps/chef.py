"""The Chef node and client of a terminated instance.

A node is the instance's when its own ``ec2.instance_id`` says so. By its name alone it goes only when it bears no
id, and no living instance would bear that name. The client, which is the key that opens the server, goes with
its node, and also when the node is gone already; it stays where a living instance would use it.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal

from ..errors import DecommissionError, TransientError, about
from ..identity import Facts
from .base import Finding, Left, Outcome, Removal

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from ..clients.chef import ChefNode, ChefServer
    from ..config import ChefSettings
    from ..identity import Instance
    from .base import Batch

# What was read longer ago than this is read again before anything is removed on the strength of it. Between that
# reading and the deletion lies the time of one call or two: Chef has no conditional delete, so a replacement that
# takes over the node's name within it is not noticed. (It saves its node again at the next Chef run.)
_FRESH_SECONDS = 5.0
# Removed between two such looks at the time; a multiple of chef.max_concurrency, so that all work to the end.
_CHUNK = 64

# The clients of an organization itself, by Chef's custom of naming them.
_NOT_AN_INSTANCES = ("chef-validator", "chef-webui")

Kind = Literal["node", "client"]


@dataclass(frozen=True)
class _Handle:
    """What is to be deleted, and the id that a node of that name may bear (None: no id) for it to be right."""

    kind: Kind
    name: str
    node_id: str | None


class ChefStep:
    """Finds and removes Chef nodes and clients.

    Args:
        settings: which names to look for, and whether clients go too.
        server: the Chef server.
        confirm_clients: ask whether the client of a proven node exists, before it is listed as a removal. Without
            that the deletion itself tells, which saves a call. A dry run needs it, to list what a real run would
            report as removed.
    """

    name: ClassVar[str] = "chef"

    def __init__(self, settings: ChefSettings, server: ChefServer, *, confirm_clients: bool = True) -> None:
        self._settings = settings
        self._server = server
        self._confirm_clients = confirm_clients
        self._own: dict[str, list[ChefNode]] = {}
        self._nodes: dict[str, ChefNode | DecommissionError | None] = {}
        self._hidden = 0
        self._looked_at = time.monotonic()

    def look(self, batch: Batch) -> Mapping[str, Facts]:
        self._looked_at = time.monotonic()
        answer = self._server.search_nodes_by_instance_id(batch.instances)
        self._hidden = answer.hidden
        for node in answer.nodes:
            self._nodes[node.name] = node
            # The index lags: a node that it has under our id may bear another by now.
            if node.instance_id is not None and node.instance_id in batch.instances:
                self._own.setdefault(node.instance_id, []).append(node)
        for nodes in self._own.values():
            nodes.sort(key=lambda node: node.name)
        return {instance_id: _facts(nodes) for instance_id, nodes in self._own.items()}

    def find(self, batch: Batch) -> Mapping[str, Finding]:
        names = {instance_id: self._names(instance) for instance_id, instance in batch.instances.items()}
        unread = [name for asked in names.values() for name in asked if name not in self._nodes]
        if unread:
            self._nodes.update(self._server.nodes(unread))
        clients = dict(self._clients(names))
        living = self._living(batch, names, clients)
        clients.update(self._clients_to_leave(living, clients))
        claims: dict[tuple[Kind, str], str] = {}
        finds = {
            instance_id: _Find(self, instance, names[instance_id], clients, living, claims)
            for instance_id, instance in batch.instances.items()
        }
        return {instance_id: find.finding() for instance_id, find in finds.items()}

    def remove(self, batch: Batch, findings: Mapping[str, Finding]) -> Mapping[str, Outcome]:
        outcomes: dict[str, Outcome] = {}
        ids = list(findings)
        for start in range(0, len(ids), _CHUNK):
            chunk = {instance_id: findings[instance_id] for instance_id in ids[start : start + _CHUNK]}
            outcomes.update(self._remove_chunk(batch, chunk))
        return outcomes

    def _remove_chunk(self, batch: Batch, findings: Mapping[str, Finding]) -> Mapping[str, Outcome]:
        removals = {instance_id: list(finding.removals) for instance_id, finding in findings.items()}
        left: dict[str, list[Left]] = {instance_id: [] for instance_id in findings}
        errors: dict[str, list[DecommissionError]] = {instance_id: [] for instance_id in findings}
        if any(removals.values()) and time.monotonic() - self._looked_at > _FRESH_SECONDS:
            self._look_again(removals, left, errors)

        # The client first: while its node stands, the next try finds both by the id. Were the node to go first and
        # the client to fail, only a name would lead to the key that is still valid, and a name may not be known.
        results: dict[tuple[Kind, str], bool | DecommissionError] = {}
        clients = [r.handle.name for of in removals.values() for r in of if r.handle.kind == "client"]
        if clients:
            results.update({("client", n): result for n, result in self._server.delete_clients(clients).items()})
        nodes: list[str] = []
        for instance_id, of in removals.items():
            for removal in of:
                handle: _Handle = removal.handle
                if handle.kind != "node":
                    continue
                failure = results.get(("client", handle.name))
                failed = isinstance(failure, DecommissionError)
                if failed and self._render(batch.instances[instance_id]) != handle.name:
                    left[instance_id].append(Left(removal.target, "it stays until its client is gone, to lead to it"))
                else:
                    nodes.append(handle.name)
        if nodes:
            results.update({("node", name): result for name, result in self._server.delete_nodes(nodes).items()})

        outcomes: dict[str, Outcome] = {}
        for instance_id, of in removals.items():
            removed = []
            for removal in of:
                result = results.get((removal.handle.kind, removal.handle.name), False)
                if isinstance(result, DecommissionError):
                    errors[instance_id].append(about(removal.target, result))
                elif result:
                    removed.append(removal)
            outcomes[instance_id] = Outcome(tuple(removed), tuple(left[instance_id]), tuple(errors[instance_id]))
        return outcomes

    def _look_again(
        self,
        removals: dict[str, list[Removal]],
        left: dict[str, list[Left]],
        errors: dict[str, list[DecommissionError]],
    ) -> None:
        """Takes away what is not the instance's any more: one search for the chunk, as a rule.

        The look is this chunk's alone: what the others are was read when all were.
        """
        names = list(dict.fromkeys(removal.handle.name for of in removals.values() for removal in of))
        try:
            nodes: dict[str, ChefNode | DecommissionError | None] = {
                node.name: node for node in self._server.search_nodes_by_name(names).nodes
            }
            # The index does not show what it has not taken in yet.
            nodes.update(self._server.nodes([name for name in names if name not in nodes]))
        except DecommissionError as error:
            nodes = dict.fromkeys(names, error)
        for instance_id, of in removals.items():
            stays = []
            for removal in of:
                node = nodes.get(removal.handle.name)
                if isinstance(node, DecommissionError):
                    errors[instance_id].append(about(f"{removal.target} could not be looked at again", node))
                elif node is None or node.instance_id == removal.handle.node_id:
                    stays.append(removal)
                else:
                    whose = f"belongs to {node.instance_id}" if node.instance_id else "bears no ec2 data"
                    left[instance_id].append(Left(removal.target, f"changed meanwhile: the node now {whose}"))
            removals[instance_id] = stays

    def _names(self, instance: Instance) -> tuple[str, ...]:
        """The names under which the instance may be there besides its nodes that the search showed."""
        rendered = self._render(instance)
        names = dict.fromkeys(instance.names(self.name, "node") + instance.names(self.name, "client"))
        if rendered:
            names[rendered] = None
        own = {node.name for node in self._own.get(instance.instance_id, ())}
        return tuple(name for name in names if name not in own)

    def _render(self, instance: Instance) -> str | None:
        template = self._settings.node_name
        return template.render(instance) if template else None

    def _clients(self, names: Mapping[str, Sequence[str]]) -> Mapping[str, bool | DecommissionError]:
        """Whether clients exist, of those names for which it matters."""
        if not self._settings.delete_client:
            return {}
        asked: dict[str, None] = {}
        for instance_id, others in names.items():
            if self._confirm_clients:
                asked.update(dict.fromkeys(node.name for node in self._own.get(instance_id, ())))
            for name in others:
                node = self._nodes.get(name)
                if node is None or (
                    not isinstance(node, DecommissionError) and node.instance_id in (None, instance_id)
                ):
                    asked[name] = None
        return self._exist(asked)

    def _clients_to_leave(
        self, living: Mapping[str, tuple[str, ...]], clients: Mapping[str, bool | DecommissionError]
    ) -> Mapping[str, bool | DecommissionError]:
        """Whether clients exist that no deletion will tell about, for they are to stay."""
        if not self._settings.delete_client:
            return {}
        own = (node.name for nodes in self._own.values() for node in nodes if node.name not in clients)
        asked = [name for name in own if name in living or self._protected(name)]
        return self._exist(asked)

    def _exist(self, clients: Iterable[str]) -> Mapping[str, bool | DecommissionError]:
        answers = self._server.clients(clients) if clients else {}
        return {
            n: answer if isinstance(answer, DecommissionError) else answer is not None
            for n, answer in answers.items()
        }

    def _living(
        self,
        batch: Batch,
        names: Mapping[str, Sequence[str]],
        clients: Mapping[str, bool | DecommissionError],
    ) -> Mapping[str, tuple[str, ...]]:
        """The living instances that would bear one of the names for which it matters."""
        if self._settings.node_name is None:
            return {}
        asked: dict[str, None] = {}
        for instance_id, others in names.items():
            if self._settings.delete_client:
                own = (node.name for node in self._own.get(instance_id, ()))
                asked.update(dict.fromkeys(name for name in own if clients.get(name, True) is not False))
            for name in others:
                node = self._nodes.get(name)
                bare = node is not None and not isinstance(node, DecommissionError) and node.instance_id is None
                if bare or clients.get(name, False) is not False:
                    asked[name] = None
        return batch.living.bearers(self._settings.node_name, asked) if asked else {}

    def _protected(self, client: str) -> str | None:
        """Why a client of that name is never removed, or None."""
        if client == self._settings.client_name:
            return "is the client that this function itself signs with"
        if client in _NOT_AN_INSTANCES or client.endswith("-validator"):
            return "is the organization's own, not an instance's"
        return None


class _Find:
    """Decides for one instance."""

    def __init__(
        self,
        step: ChefStep,
        instance: Instance,
        names: Iterable[str],
        clients: Mapping[str, bool | DecommissionError],
        living: Mapping[str, tuple[str, ...]],
        claims: dict[tuple[Kind, str], str],
    ) -> None:
        self.removals: list[Removal] = []
        self.errors: list[DecommissionError] = []
        self._left: list[Left] = []
        self._notes: list[str] = []
        self._step = step
        self._id = instance.instance_id
        self._settings = step._settings
        self._clients = clients
        self._living = living
        self._claims = claims
        self._seen = False
        for node in step._own.get(self._id, []):
            self._proven(node.name, f"ec2.instance_id is {self._id}")
        for name in names:
            self._other(instance, name)
        if step._hidden and not self._seen:
            self.errors.append(
                TransientError(
                    f"the Chef search counts {step._hidden} more than it shows: either its index is behind, or the "
                    f"client {self._settings.client_name} may not read every node"
                )
            )
        template = self._settings.node_name
        if template:
            self._notes += [
                f"node_name {template.text}: {_in_words(missing)} is not known for {self._id}"
                for missing in template.missing(instance)
            ]

    def finding(self) -> Finding:
        return Finding(tuple(self.removals), tuple(self._left), tuple(self._notes), tuple(self.errors))

    def _other(self, instance: Instance, name: str) -> None:
        """A name under which the search by id showed nothing."""
        node = self._step._nodes.get(name)
        if isinstance(node, DecommissionError):
            self.errors.append(node)
        elif node is None:
            self._client(name, f"{self._why(instance, name)}, and no node of that name is left", self._id)
        elif node.instance_id == self._id:
            self._proven(name, f"ec2.instance_id is {self._id}, which the search index has not taken in yet")
        elif node.instance_id:
            self._left.append(Left(f"node {name}", f"belongs to {node.instance_id}"))
        elif self._settings.node_name is None:
            self._left.append(
                Left(f"node {name}", "bears no ec2 data, and without node_name nothing tells whose it is now")
            )
        elif bearers := self._living.get(name):
            self._left.append(Left(f"node {name}", f"bears no ec2 data, and {_would_bear(bearers)}"))
        elif (addresses := _addresses(node)) and instance.addresses and not addresses & set(instance.addresses):
            # It converged, on some other machine: one outside EC2, perhaps.
            told = ", ".join(sorted(addresses))
            self._left.append(Left(f"node {name}", f"bears no ec2 data, and {told} was never {self._id}'s"))
        else:
            proof = f"{self._why(instance, name)}, and the node bears no ec2 data"
            self._client(name, proof, None)
            self._claim("node", name, f"{proof}; no living instance would bear the name", None)

    def _proven(self, name: str, proof: str) -> None:
        self._seen = True
        self._client(name, f"client of the node whose {proof}", self._id)
        self._claim("node", name, proof, self._id)

    def _client(self, name: str, proof: str, node_id: str | None) -> None:
        if not self._settings.delete_client:
            return
        exists = self._clients.get(name, True)
        if isinstance(exists, DecommissionError):
            self.errors.append(exists)
        elif exists and (reason := self._step._protected(name)):
            self._left.append(Left(f"client {name}", reason))
        elif exists and (bearers := self._living.get(name)):
            self._left.append(Left(f"client {name}", _would_bear(bearers)))
        elif exists:
            if self._settings.node_name:
                proof += "; no living instance would bear the name"
            self._claim("client", name, proof, node_id)

    def _claim(self, kind: Kind, name: str, proof: str, node_id: str | None) -> None:
        """A thing goes once, also where two instances of the batch bore the same name."""
        first = self._claims.setdefault((kind, name), self._id)
        target = f"{kind} {name}"
        if first == self._id:
            self.removals.append(Removal("delete", target, proof, _Handle(kind, name, node_id)))
        else:
            self._left.append(Left(target, f"goes with {first}, which bore the same name"))

    def _why(self, instance: Instance, name: str) -> str:
        if name in instance.names("chef", "node") + instance.names("chef", "client"):
            return "recorded as the instance's"
        template = self._settings.node_name
        return f"node_name {template.text if template else ''} gives this name"


def _would_bear(bearers: Sequence[str]) -> str:
    return f"{bearers[0]}, which lives, would bear that name"


def _in_words(placeholder: str) -> str:
    kind, _, key = placeholder.partition(":")
    return f"tag {key}" if kind == "tag" else placeholder


def _addresses(node: ChefNode) -> set[str]:
    return set(node.private_ips + node.public_ips + node.ipv6_addresses)


def _facts(nodes: Sequence[ChefNode]) -> Facts:
    names = tuple(node.name for node in nodes)

    def union(values: Callable[[ChefNode], tuple[str, ...]]) -> tuple[str, ...]:
        return tuple(dict.fromkeys(value for node in nodes for value in values(node)))

    return Facts(
        source="chef",
        vpc_id=next((node.vpc_id for node in nodes if node.vpc_id), None),
        private_ips=union(lambda node: node.private_ips),
        public_ips=union(lambda node: node.public_ips),
        ipv6_addresses=union(lambda node: node.ipv6_addresses),
        private_dns_names=union(lambda node: node.private_dns_names),
        public_dns_names=union(lambda node: node.public_dns_names),
        known_as={"chef": {"node": names, "client": names}},
    )
