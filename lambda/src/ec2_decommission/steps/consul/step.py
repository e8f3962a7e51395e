"""The phases of the step."""

from __future__ import annotations

import ipaddress
import time
from collections import defaultdict
from dataclasses import replace
from typing import TYPE_CHECKING, ClassVar

from ...errors import KINDS
from ...instance import Facts
from .apply import Applier
from .observe import Listing, list_nodes, observe
from .plan import candidates, carried_ids, own_addresses, plan, proven_by_id, question

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from ...clients.consul import CatalogNode, ConsulCatalog
    from ...config import ConsulSettings
    from ...instance import Instance
    from ..base import Batch, Finding, Outcome
    from .observe import Snapshot

# Gossip notices a dead agent within seconds, or minutes in the largest clusters; the leader checks once a minute.
# https://developer.hashicorp.com/consul/docs/architecture/gossip
_NOTICED_SECONDS = 600.0


class ConsulStep:
    """The step for one batch.

    Args:
        settings: what to look for.
        catalog: the Consul cluster.
        audit: whether removals are written to an audit; nodes are then read with their services and checks.
        ended_at: when all instances had ended, in seconds since 1970; None if unknown.
        now: returns the time in seconds since 1970.
    """

    name: ClassVar[str] = "consul"

    def __init__(
        self,
        settings: ConsulSettings,
        catalog: ConsulCatalog,
        *,
        audit: bool = False,
        ended_at: float | None = None,
        now: Callable[[], float] = time.time,
    ) -> None:
        self._settings = settings
        self._catalog = catalog
        self._audit = audit
        self._ended_at = ended_at
        self._now = now
        self._listing = Listing()

    def identify(self, batch: Batch) -> Mapping[str, Facts]:
        """Lists all nodes and returns the facts of those that are an instance's by id.

        Raises:
            DecommissionError: no datacenter could be read. If only some could, the others' errors are in the plan.
        """
        self._listing = list_nodes(self._catalog, self._settings)
        if not self._listing.nodes:
            raise min(self._listing.errors.values(), key=lambda error: KINDS.index(error.kind))
        nodes = [node for some in self._listing.nodes.values() for node in some]
        found = {
            instance_id: [n for n in some if proven_by_id(self._settings, batch.instances[instance_id], n)]
            for instance_id, some in candidates(self._settings, batch.instances, nodes).items()
        }
        shared = _shared_addresses(nodes)
        return {instance_id: _facts(own, shared) for instance_id, own in found.items() if own}

    def plan(self, batch: Batch) -> Mapping[str, Finding]:
        snapshot = self._observe(batch.instances)
        asked = batch.live.ask(question(self._settings, batch.instances, snapshot), gone=batch.instances)
        return plan(self._settings, batch.instances, snapshot, asked.living)

    def apply(self, batch: Batch, findings: Mapping[str, Finding]) -> Mapping[str, Outcome]:
        return Applier(self._catalog, self._settings, self._observe, batch, findings).apply()

    def _observe(self, instances: Mapping[str, Instance]) -> Snapshot:
        """Reads what may belong to these instances now."""
        names = {
            datacenter: {n.name for some in candidates(self._settings, instances, nodes).values() for n in some}
            for datacenter, nodes in self._listing.nodes.items()
        }
        snapshot = observe(self._catalog, self._settings, names, audit=self._audit)
        long_ended = self._ended_at is not None and self._now() - self._ended_at >= _NOTICED_SECONDS
        errors = {**self._listing.errors, **snapshot.errors}
        return replace(snapshot, errors=errors, long_ended=long_ended)


def _shared_addresses(nodes: Iterable[CatalogNode]) -> frozenset[str]:
    """Returns the addresses on nodes of several instances, such as a container bridge's. They identify none."""
    ids: dict[str, set[str]] = defaultdict(set)
    for node in nodes:
        for address in own_addresses(node):
            ids[address] |= carried_ids(node)
    return frozenset(address for address, some in ids.items() if len(some) > 1)


def _facts(nodes: Sequence[CatalogNode], shared: frozenset[str]) -> Facts:
    addresses = [ipaddress.ip_address(a) for node in nodes for a in own_addresses(node) if a not in shared]
    return Facts(
        source="consul",
        private_ips=tuple(str(a) for a in addresses if a.version == 4 and not a.is_global),
        public_ips=tuple(str(a) for a in addresses if a.version == 4 and a.is_global),
        ipv6_addresses=tuple(str(a) for a in addresses if a.version == 6),
        known_as={"consul": {"node": tuple(dict.fromkeys(f"{node.datacenter}/{node.name}" for node in nodes))}},
    )
