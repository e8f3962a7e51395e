"""Orphans: leftovers of instances that ended before the inventory recorded them.

Chef nodes and Consul nodes carry EC2 ids. If neither the inventory nor EC2 knows an id, the instance ended unseen, or
it belongs to another account or region: a Chef or Consul server may serve many. So a node's own account, region and
last run count as well, and the strictest answer of all nodes and sources applies.
"""

from __future__ import annotations

import re
from collections import defaultdict
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Protocol

from .errors import DecommissionError, OutOfTime, about
from .regions import region_of_name, region_of_zone

if TYPE_CHECKING:
    from collections.abc import Callable, Container, Iterable, Iterator, Mapping, Sequence

    from .clients.chef import ChefNode, ChefServer
    from .clients.consul import CatalogNode, ConsulCatalog, Member
    from .clients.ec2 import Ec2
    from .inventory import Inventory
    from .place import Place

# EC2 ids have 8 digits or, since 2016, 17.
# https://docs.aws.amazon.com/AWSEC2/latest/UserGuide/resource-ids.html
_EC2_ID = re.compile(r"i-([0-9a-f]{8}|[0-9a-f]{17})")
# Chef Infra Client runs every 30 minutes by default. An instance that runs it less than daily is adopted later.
_CONVERGES = timedelta(hours=24)
_ALIVE = "passing"


@dataclass(frozen=True)
class Scope:
    """The place to search for orphans. ``alone``: the deployment serves no other place."""

    place: Place
    alone: bool = True

    def outside(self, regions: Iterable[str | None], account_id: str | None) -> str | None:
        """Returns why a node with this region and account is not in this place; None if nothing shows that."""
        for region in regions:
            if region and region != self.place.region:
                return f"it is in region {region}, not {self.place.region}"
        if account_id and account_id != self.place.account_id:
            return f"it is in account {account_id}, not {self.place.account_id}"
        if not account_id and not self.alone:
            return "it does not name its account, and this deployment serves several places"
        return None


@dataclass(frozen=True)
class Trace:
    """A node that carries an EC2 id.

    Attributes:
        target: the node, in the words of the source's step.
        outside: why the node belongs to another account or region.
        lives: why the node is considered alive.
    """

    instance_id: str
    source: str
    target: str
    outside: str | None = None
    lives: str | None = None


@dataclass(frozen=True)
class NotAdopted:
    """A node with an unknown id that is left alone."""

    instance_id: str
    source: str
    target: str
    reason: str

    def document(self) -> dict[str, str]:
        """As JSON."""
        return {"id": self.instance_id, "source": self.source, "target": self.target, "reason": self.reason}


class Source(Protocol):
    """A system whose nodes carry EC2 ids."""

    name: str

    def traces(self) -> Iterator[Trace]:
        """Yields the nodes that carry an id. May raise any DecommissionError."""


class ChefSource:
    """Chef nodes that have converged.

    Args:
        server: returns the server. May raise the server's errors.
    """

    name = "chef"

    def __init__(self, server: Callable[[], ChefServer], scope: Scope, now: Callable[[], datetime]) -> None:
        self._server = server
        self._scope = scope
        self._now = now

    def traces(self) -> Iterator[Trace]:
        for node in self._server().converged_nodes("i-"):
            regions = (node.region, region_of_zone(node.availability_zone), *map(region_of_name, node.dns_names))
            yield Trace(
                node.instance_id or "",
                self.name,
                f"node {node.name}",
                self._scope.outside(regions, node.account_id),
                self._converges(node),
            )

    def _converges(self, node: ChefNode) -> str | None:
        if node.ohai_time is None:
            return None
        age = self._now().timestamp() - node.ohai_time
        if age > _CONVERGES.total_seconds():
            return None
        hours = max(0, int(age // 3600))
        return f"a Chef client converged under its name {f'{hours} hours' if hours else 'less than an hour'} ago"


class ConsulSource:
    """Consul nodes with the meta ``instance_id``.

    Args:
        catalog: returns the catalog. May raise the catalog's errors.
        datacenters: the datacenters to search; empty means the agent's own.
    """

    name = "consul"

    def __init__(self, catalog: Callable[[], ConsulCatalog], datacenters: Sequence[str], scope: Scope) -> None:
        self._catalog = catalog
        self._datacenters = datacenters
        self._scope = scope

    def traces(self) -> Iterator[Trace]:
        from .clients.consul import Right  # noqa: PLC0415  # not in a package without the step

        catalog = self._catalog()
        # Without read permission, Consul silently leaves out nodes and live agents.
        for datacenter in self._datacenters or ("",):
            catalog.prove_rights(datacenter, [Right("node", "read")])
            nodes = catalog.instance_nodes(datacenter, "")
            if not nodes:
                continue
            # Read after the nodes: a node registered meanwhile is ignored, and one that comes back counts as alive.
            agents = {name.casefold(): status for name, status in catalog.agents(datacenter).items()}
            members = {member.node_id: member for member in catalog.members() if member.node_id}
            for node in nodes:
                regions = (node.meta.get("region"), region_of_zone(node.meta.get("availability_zone")))
                yield Trace(
                    node.instance_id or "",
                    self.name,
                    f"node {node.name} {node.address} ({node.datacenter})",
                    self._scope.outside(regions, node.meta.get("account_id")),
                    _agent_lives(node, agents, members),
                )


def _agent_lives(node: CatalogNode, agents: Mapping[str, str], members: Mapping[str, Member]) -> str | None:
    if agents.get(node.name.casefold()) == _ALIVE:
        return "its Consul agent is alive (serfHealth passing)"
    member = members.get(node.node_id)
    return "its Consul agent is alive (a member of gossip)" if member and member.alive else None


@dataclass(frozen=True)
class Search:
    """What the sources showed.

    Attributes:
        adopted: ids of instances that have ended and were never recorded.
        left: nodes with unknown ids that are kept, with the reason.
        error: why nothing is adopted this time.
        ended: the number of ids that EC2 still knows.
    """

    adopted: tuple[str, ...] = ()
    left: tuple[NotAdopted, ...] = ()
    error: DecommissionError | None = None
    ended: int = 0


class Orphans:
    """Searches the sources that the configuration opts in to."""

    def __init__(self, sources: Sequence[Source], ec2: Ec2, inventory: Inventory) -> None:
        self._sources = sources
        self._ec2 = ec2
        self._inventory = inventory

    def search(self, known: Container[str]) -> Search:
        """Finds instances that have ended and were never recorded.

        Args:
            known: ids that are recorded or live, so not orphans.

        Raises:
            DecommissionError: EC2 or the inventory could not be queried.
        """
        traces: dict[str, list[Trace]] = defaultdict(list)
        for source in self._sources:
            try:
                for trace in source.traces():
                    if trace.instance_id not in known:
                        traces[trace.instance_id].append(trace)
            except OutOfTime as error:
                return Search(error=error)
            except DecommissionError as error:
                # Adopt nothing from the other sources either: this source's answer may be stricter.
                return Search(error=about(f"adoption, {source.name}", error))
        left: dict[str, NotAdopted] = {}
        for instance_id, found in traces.items():
            if not _EC2_ID.fullmatch(instance_id):
                left[instance_id] = _left(found[0], "it is not an EC2 instance id")
            elif outside := next((trace for trace in found if trace.outside), None):
                left[instance_id] = _left(outside, outside.outside or "")
        unknown = [instance_id for instance_id in traces if instance_id not in left]
        recorded = self._inventory.recall(unknown) if unknown else {}
        unknown = [instance_id for instance_id in unknown if instance_id not in recorded]
        for instance_id in unknown:
            if alive := next((trace for trace in traces[instance_id] if trace.lives), None):
                left[instance_id] = _left(alive, alive.lives or "")
        unknown = [instance_id for instance_id in unknown if instance_id not in left]
        gone, ended = confirmed_gone(self._ec2, unknown)
        return Search(tuple(sorted(gone)), tuple(left[instance_id] for instance_id in sorted(left)), ended=ended)


def sources(
    names: Iterable[str],
    scope: Scope,
    server: Callable[[], ChefServer],
    catalog: Callable[[], ConsulCatalog],
    datacenters: Sequence[str],
    now: Callable[[], datetime] = lambda: datetime.now(UTC),
) -> list[Source]:
    """Returns the sources with these names, of ``config.ADOPTS``."""
    known: dict[str, Source] = {
        "chef": ChefSource(server, scope, now),
        "consul": ConsulSource(catalog, datacenters, scope),
    }
    return [known[name] for name in names]


def confirmed_gone(ec2: Ec2, instance_ids: Sequence[str]) -> tuple[list[str], int]:
    """Returns the ids that EC2, queried by id, reports as terminated or nonexistent.

    An id may be missing from a listing for any reason, and an instance that is shutting down is not gone yet.

    Returns:
        The ids, and how many of all queried ids EC2 knows.
    """
    answers = ec2.ask_by_id(instance_ids) if instance_ids else {}
    gone = [i for i, description in answers.items() if description is None or description.state == "terminated"]
    return gone, sum(description is not None for description in answers.values())


def _left(trace: Trace, reason: str) -> NotAdopted:
    return NotAdopted(trace.instance_id, trace.source, trace.target, reason)
