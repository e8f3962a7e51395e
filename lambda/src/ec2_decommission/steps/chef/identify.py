"""Reads what an instance's Chef nodes say about it: facts for the other steps, and for a retry."""

from __future__ import annotations

import ipaddress
from typing import TYPE_CHECKING

from ...instance import Facts
from .observe import Snapshot
from .plan import Case, one_of_several

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from ...clients.chef import ChefNode, NodeSearch
    from ...config import ChefSettings
    from ...instance import Instance

# Ohai's ``ipaddress`` may be that of a container bridge. This is the default range of Docker's first bridge.
_CONTAINER_BRIDGE = ipaddress.ip_network("172.17.0.0/16")


def identify(settings: ChefSettings, instances: Mapping[str, Instance], found: NodeSearch) -> dict[str, Facts]:
    """Returns the facts of the nodes that belong to an instance by id."""
    snapshot = Snapshot({node.name: node for node in found.nodes})
    cases = {i: Case(settings, instance, instances, snapshot) for i, instance in instances.items()}
    return {instance_id: _facts(case) for instance_id, case in cases.items() if case.proven}


def _facts(case: Case) -> Facts:
    nodes = [node for node in case.snapshot.nodes_with_id(case.instance.instance_id) if node.name in case.proven]
    clients = tuple(node.name for node in nodes if not one_of_several(case, node.name))
    return Facts(
        source="chef",
        vpc_id=next((node.vpc_id for node in nodes if node.vpc_id), None),
        private_ips=_each(node.private_ips or _ipaddress(node) for node in nodes),
        public_ips=_each(node.public_ips for node in nodes),
        ipv6_addresses=_each(node.ipv6_addresses for node in nodes),
        private_dns_names=_each(node.private_dns_names for node in nodes),
        public_dns_names=_each(node.public_dns_names for node in nodes),
        known_as={"chef": {"node": tuple(node.name for node in nodes), **({"client": clients} if clients else {})}},
    )


def _each(values: Iterable[tuple[str, ...]]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(value for some in values for value in some))


def _ipaddress(node: ChefNode) -> tuple[str, ...]:
    """Returns Ohai's ``ipaddress`` if it can be an address in a VPC. Used if the ec2 data has no address."""
    try:
        address = ipaddress.IPv4Address(node.ipaddress or "")
    except ValueError:
        return ()
    usable = not (address in _CONTAINER_BRIDGE or address.is_loopback or address.is_link_local)
    return (str(address),) if usable else ()
