"""Adoption: the leftovers of instances that died before the inventory knew them.

Chef nodes and Consul nodes bear EC2 ids. An id that neither the inventory records nor EC2 knows is an instance that
died unseen, or one of another account or region: ids are of one account and region, and a Chef or Consul server may
serve many. So a node is asked where and when as well, and the strictest word of all nodes and sources counts.
"""

from __future__ import annotations

import re
from collections import defaultdict
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Protocol

from .errors import DecommissionError, OutOfTime, about

if TYPE_CHECKING:
    from collections.abc import Callable, Container, Iterable, Iterator, Mapping, Sequence

    from .clients.chef import ChefNode, ChefServer
    from .clients.consul import CatalogNode, ConsulCatalog, Member
    from .clients.ec2 import Ec2
    from .inventory import Inventory

# EC2's ids have 8 digits or, since 2016, 17.
# https://docs.aws.amazon.com/AWSEC2/latest/UserGuide/resource-ids.html
_EC2_ID = re.compile(r"i-([0-9a-f]{8}|[0-9a-f]{17})")
# eu-west-1a, and the zones beyond a region's own, such as us-west-2-lax-1a and us-east-1-wl1-bos-wlz-1.
_REGION_OF_ZONE = re.compile(r"[a-z]+(?:-[a-z]+)+-\d+")
# https://docs.aws.amazon.com/AWSEC2/latest/UserGuide/hostname-types.html
_REGION_OF_NAME = re.compile(r"\.([a-z]+(?:-[a-z]+)+-\d+)\.compute\.(?:internal|amazonaws\.com(?:\.cn)?)\.?$")
_FIRST_REGION = re.compile(r"\.(?:ec2\.internal|compute-1\.amazonaws\.com)\.?$")  # us-east-1 has names of its own
# Chef Infra Client runs every half hour, unless told otherwise; who runs it more seldom than daily is not adopted
# from for as long.
_CONVERGES = timedelta(hours=24)
_ALIVE = "passing"


@dataclass(frozen=True)
class Place:
    """The account and region that this function works in; the account is None where it is not known."""

    region: str
    account_id: str | None = None

    def elsewhere(self, regions: Iterable[str | None], accounts: Iterable[str | None]) -> str | None:
        """Why something that bears these is another account's or region's; None where nothing says so."""
        for region in regions:
            if region and region != self.region:
                return f"it is of region {region}, and this function works in {self.region}"
        for account in accounts:
            if account and self.account_id and account != self.account_id:
                return f"it is of account {account}, and this function works in {self.account_id}"
        return None


@dataclass(frozen=True)
class Trace:
    """A node that bears an EC2 id.

    Attributes:
        target: the node, as the source's step names it.
        elsewhere: why it is another account's or region's.
        lives: why something on it lives.
    """

    instance_id: str
    source: str
    target: str
    elsewhere: str | None = None
    lives: str | None = None


@dataclass(frozen=True)
class NotAdopted:
    """A node whose id nobody knows, and which is left alone all the same."""

    instance_id: str
    source: str
    target: str
    reason: str

    def document(self) -> dict[str, str]:
        """As JSON."""
        return {"id": self.instance_id, "source": self.source, "target": self.target, "reason": self.reason}


class Source(Protocol):
    """A system whose nodes bear EC2 ids."""

    name: str

    def traces(self, prefix: str) -> Iterator[Trace]:
        """The nodes whose ids begin so. May raise any DecommissionError."""


class ChefSource:
    """Chef nodes that have converged.

    Args:
        server: gives the server; it may fail like the server itself.
    """

    name = "chef"

    def __init__(self, server: Callable[[], ChefServer], place: Place, now: Callable[[], datetime]) -> None:
        self._server = server
        self._place = place
        self._now = now

    def traces(self, prefix: str) -> Iterator[Trace]:
        for node in self._server().converged_nodes(prefix):
            regions = (node.region, region_of_zone(node.availability_zone), *map(region_of_name, node.dns_names))
            yield Trace(
                node.instance_id or "",
                self.name,
                f"node {node.name}",
                self._place.elsewhere(regions, [node.account_id]),
                self._converges(node),
            )

    def _converges(self, node: ChefNode) -> str | None:
        if node.ohai_time is None:
            return None
        age = self._now().timestamp() - node.ohai_time
        if age > _CONVERGES.total_seconds():
            return None
        hours = max(0, int(age // 3600))
        return f"something converged under its name {f'{hours} hours' if hours else 'less than an hour'} ago"


class ConsulSource:
    """Consul nodes with the meta ``instance_id``.

    Args:
        catalog: gives the catalog; it may fail like the catalog itself.
        datacenters: those to look in; none means the agent's own.
    """

    name = "consul"

    def __init__(self, catalog: Callable[[], ConsulCatalog], datacenters: Sequence[str], place: Place) -> None:
        self._catalog = catalog
        self._datacenters = datacenters
        self._place = place

    def traces(self, prefix: str) -> Iterator[Trace]:
        from .clients.consul import Right  # noqa: PLC0415  # not in a package without the step

        catalog = self._catalog()
        # Without a right to read, Consul's answers are short: of the nodes, and of the agents that live.
        for datacenter in self._datacenters or ("",):
            catalog.prove_rights(datacenter, [Right("node", "read")])
            nodes = catalog.instance_nodes(datacenter, prefix)
            if not nodes:
                continue
            # Read after the nodes: one that is registered meanwhile is not looked at, one that wakes up is alive.
            agents = {name.casefold(): status for name, status in catalog.agents(datacenter).items()}
            members = {member.node_id: member for member in catalog.members() if member.node_id}
            for node in nodes:
                regions = (node.meta.get("region"), region_of_zone(node.meta.get("availability_zone")))
                yield Trace(
                    node.instance_id or "",
                    self.name,
                    f"node {node.name} {node.address} ({node.datacenter})",
                    self._place.elsewhere(regions, [node.meta.get("account_id")]),
                    _agent_lives(node, agents, members),
                )


def _agent_lives(node: CatalogNode, agents: Mapping[str, str], members: Mapping[str, Member]) -> str | None:
    if agents.get(node.name.casefold()) == _ALIVE:
        return "its Consul agent is alive (serfHealth passing)"
    member = members.get(node.node_id)
    return "its Consul agent is alive (a member of gossip)" if member and member.alive else None


@dataclass(frozen=True)
class Search:
    """What a look at the sources showed.

    Attributes:
        adopted: ids of the dead that nobody recorded.
        left: nodes of unknown ids that stay, with the reason.
        error: why nothing is adopted this time.
        ended: how many of the ids EC2 still knows.
    """

    adopted: tuple[str, ...] = ()
    left: tuple[NotAdopted, ...] = ()
    error: DecommissionError | None = None
    ended: int = 0


class Adoption:
    """Searches the sources that were opted in to."""

    def __init__(self, sources: Sequence[Source], ec2: Ec2, inventory: Inventory) -> None:
        self._sources = sources
        self._ec2 = ec2
        self._inventory = inventory

    def search(self, prefix: str, known: Container[str]) -> Search:
        """The dead among the ids that begin so.

        Args:
            known: ids that are recorded, or live: they are nobody's to adopt.

        Raises:
            DecommissionError: EC2 or the inventory could not be asked.
            OutOfTime: neither could the sources, in the time that is left.
        """
        traces: dict[str, list[Trace]] = defaultdict(list)
        for source in self._sources:
            try:
                for trace in source.traces(prefix):
                    if trace.instance_id not in known:
                        traces[trace.instance_id].append(trace)
            except OutOfTime:
                raise
            except DecommissionError as error:
                # Nothing of the other sources either: what this one would say may be stricter.
                return Search(error=about(f"adoption, {source.name}", error))
        left: dict[str, NotAdopted] = {}
        for instance_id, found in traces.items():
            if not _EC2_ID.fullmatch(instance_id):
                left[instance_id] = _left(found[0], "that is not of the form of an EC2 id")
            elif away := next((trace for trace in found if trace.elsewhere), None):
                left[instance_id] = _left(away, away.elsewhere or "")
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
    place: Place,
    server: Callable[[], ChefServer],
    catalog: Callable[[], ConsulCatalog],
    datacenters: Sequence[str],
    now: Callable[[], datetime] = lambda: datetime.now(UTC),
) -> list[Source]:
    """The sources of these names, of ``config.ADOPTS``."""
    known: dict[str, Source] = {
        "chef": ChefSource(server, place, now),
        "consul": ConsulSource(catalog, datacenters, place),
    }
    return [known[name] for name in names]


def confirmed_gone(ec2: Ec2, instance_ids: Sequence[str]) -> tuple[list[str], int]:
    """Those of which EC2 says, asked for the id itself, that it is terminated or that there is none.

    What is missing in a list may be missing for any reason, and what is on its way down is not gone yet.

    Returns:
        The ids, and how many of all that were asked for EC2 knows.
    """
    answers = ec2.ask_by_id(instance_ids) if instance_ids else {}
    gone = [i for i, description in answers.items() if description is None or description.state == "terminated"]
    return gone, sum(description is not None for description in answers.values())


def region_of_zone(zone: str | None) -> str | None:
    """The region of an availability zone, a local zone or a wavelength zone; None for what is no such name."""
    match = _REGION_OF_ZONE.match(zone or "")
    return match[0] if match else None


def region_of_name(name: str) -> str | None:
    """The region that a DNS name made by EC2 bears; None for any other name."""
    if match := _REGION_OF_NAME.search(name):
        return match[1]
    return "us-east-1" if _FIRST_REGION.search(name) else None


def _left(trace: Trace, reason: str) -> NotAdopted:
    return NotAdopted(trace.instance_id, trace.source, trace.target, reason)
