"""EC2 in one place: describes instances, and finds who has an address now."""

from __future__ import annotations

import ipaddress
import re
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, Protocol

from botocore.exceptions import ClientError

from ..chunks import chunks
from ..errors import DecommissionError, TransientError
from ..instance import Facts, Instance
from ..together import in_turn
from .aws import READS_AT_ONCE, aws_errors

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

    from ..place import Place
    from ..together import Together

# https://docs.aws.amazon.com/AWSEC2/latest/UserGuide/ec2-instance-lifecycle.html
LIVING_STATES = ("pending", "running", "stopping", "stopped")
FILTER_VALUES = 200  # the most values that EC2 allows in one filter
_PAGE = 1000
# https://docs.aws.amazon.com/AWSEC2/latest/APIReference/errors-overview.html
_FILTER_REFUSED = {"InvalidParameterValue", "InvalidFilter", "FilterLimitExceeded"}
_IDS = 100  # ids per request; answers by id are not paginated
_ID = re.compile(r"\bi-[0-9a-f]+\b")


@dataclass(frozen=True)
class Description:
    """One instance as EC2 describes it now."""

    instance_id: str
    state: str
    facts: Facts

    @property
    def lives(self) -> bool:
        """Whether the state is pending, running, stopping or stopped."""
        return self.state in LIVING_STATES

    def instance(self) -> Instance:
        """Returns the instance as this description alone shows it."""
        return Instance(self.instance_id, state=self.state).learn(self.facts)


@dataclass(frozen=True)
class Interface:
    """A network interface that exists now. ``instance_id`` is None if it is not attached to an instance."""

    interface_id: str
    vpc_id: str | None
    instance_id: str | None
    description: str = ""

    @property
    def owner(self) -> str:
        """A description of who has the interface."""
        return self.instance_id or f"{self.interface_id} ({self.description or 'network interface'})"


class Ec2(Protocol):
    """EC2 in one account and region. Every call may raise TransientError or AccessError."""

    def describe(self, instance_ids: Iterable[str]) -> Mapping[str, Description]:
        """Describes the instances that EC2 still knows. The others have no entry."""

    def living(self, filters: Mapping[str, Iterable[str]]) -> Iterator[Description]:
        """Yields all live instances that match EC2's own filters; without filters, all live instances."""

    def ask_by_id(self, instance_ids: Iterable[str]) -> Mapping[str, Description | None]:
        """Returns EC2's answer for each id, queried by id; None if EC2 says that the id does not exist.

        Every id has an entry. Unlike with ``describe``, a missing answer is an error.
        """

    def interfaces(self, addresses: Iterable[str]) -> Mapping[str, tuple[Interface, ...]]:
        """Returns the network interfaces that have each address now."""

    def elastic_ips(self, addresses: Iterable[str]) -> frozenset[str]:
        """Returns the addresses that are allocated to the account as Elastic IPs."""


class BotoEc2:
    """EC2 through boto3.

    Args:
        client: returns a boto3 ``ec2`` client. May raise the errors of assuming the member's role.
        place: the client's account and region.
        together: runs several requests concurrently.
    """

    def __init__(self, client: Callable[[], Any], place: Place, together: Together = in_turn) -> None:
        self._make_client = client
        self._together = together
        self.place = place

    @property
    def _client(self) -> Any:
        return self._make_client()

    def describe(self, instance_ids: Iterable[str]) -> Mapping[str, Description]:
        # Uses a filter, not InstanceIds: one id that EC2 has forgotten would fail the whole call.
        found: dict[str, Description] = {}
        pieces = chunks(dict.fromkeys(instance_ids), FILTER_VALUES)
        self._together([partial(self._describe_some, some, found) for some in pieces], READS_AT_ONCE)
        return found

    def _describe_some(self, instance_ids: Sequence[str], found: dict[str, Description]) -> None:
        found |= {d.instance_id: d for d in self._matching({"instance-id": instance_ids})}

    def living(self, filters: Mapping[str, Iterable[str]]) -> Iterator[Description]:
        yield from (d for d in self._matching({"instance-state-name": LIVING_STATES, **filters}) if d.lives)

    def ask_by_id(self, instance_ids: Iterable[str]) -> Mapping[str, Description | None]:
        found: dict[str, Description | None] = {}
        for some in chunks(dict.fromkeys(instance_ids), _IDS):
            found |= self._ask(some)
        return found

    def _ask(self, instance_ids: Sequence[str]) -> dict[str, Description | None]:
        """Queries by id. EC2 refuses the whole call for unknown ids and names them; the others are queried again."""
        found: dict[str, Description | None] = {}
        asked = list(instance_ids)
        while asked:
            with aws_errors(f"describe instances in {self.place} (ec2:DescribeInstances)"):
                try:
                    found |= {
                        d.instance_id: d for d in self._described(self._client.describe_instances(InstanceIds=asked))
                    }
                    break
                except ClientError as error:
                    if error.response.get("Error", {}).get("Code") != "InvalidInstanceID.NotFound":
                        raise
                    named = set(_ID.findall(str(error.response["Error"].get("Message", ""))))
            unknown = [instance_id for instance_id in asked if instance_id in named]
            if not unknown:
                raise TransientError(f"EC2 in {self.place} reports unknown ids, but none of the queried ones")
            found |= dict.fromkeys(unknown)
            asked = [instance_id for instance_id in asked if instance_id not in named]
        if silent := [instance_id for instance_id in instance_ids if instance_id not in found]:
            raise TransientError(f"EC2 in {self.place} neither describes {silent[0]} nor says that it does not exist")
        return {instance_id: found[instance_id] for instance_id in instance_ids}

    def _matching(self, filters: Mapping[str, Iterable[str]]) -> Iterator[Description]:
        request = {"Filters": [{"Name": n, "Values": list(v)} for n, v in filters.items()]}
        with aws_errors(f"describe instances in {self.place} (ec2:DescribeInstances)"):
            pages = self._client.get_paginator("describe_instances")
            for page in pages.paginate(**request, PaginationConfig={"PageSize": _PAGE}):
                yield from self._described(page)

    def _described(self, page: Mapping[str, Any]) -> Iterator[Description]:
        for reservation in page["Reservations"]:
            for raw in reservation["Instances"]:
                yield self._description(raw)

    def _description(self, raw: Mapping[str, Any]) -> Description:
        interfaces = sorted(
            raw.get("NetworkInterfaces") or [], key=lambda i: i.get("Attachment", {}).get("DeviceIndex", 0)
        )
        addresses = [a for i in interfaces for a in i.get("PrivateIpAddresses") or []]
        public = [a.get("Association") or {} for a in addresses]
        facts = Facts(
            source="ec2",
            account_id=self.place.account_id,
            region=self.place.region,
            vpc_id=raw.get("VpcId"),
            launch_time=raw["LaunchTime"].isoformat() if raw.get("LaunchTime") else None,
            private_ips=_known(raw.get("PrivateIpAddress"), *(a.get("PrivateIpAddress") for a in addresses)),
            public_ips=_known(raw.get("PublicIpAddress"), *(a.get("PublicIp") for a in public)),
            ipv6_addresses=_known(
                *(_ipv6(a.get("Ipv6Address")) for i in interfaces for a in i.get("Ipv6Addresses") or [])
            ),
            private_dns_names=_known(
                raw.get("PrivateDnsName"), *(a.get("PrivateDnsName") for a in [*interfaces, *addresses])
            ),
            public_dns_names=_known(raw.get("PublicDnsName"), *(a.get("PublicDnsName") for a in public)),
            tags={t["Key"]: t["Value"] for t in raw.get("Tags") or []},
        )
        return Description(raw["InstanceId"], str(raw.get("State", {}).get("Name", "")), facts)

    def interfaces(self, addresses: Iterable[str]) -> Mapping[str, tuple[Interface, ...]]:
        wanted = {a: ipaddress.ip_address(a) for a in addresses}
        private = [a for a, ip in wanted.items() if ip.version == 4]
        public = [a for a, ip in wanted.items() if ip.version == 4 and not ip.is_private]
        ipv6 = [a for a, ip in wanted.items() if ip.version == 6]
        answers: list[Mapping[str, Any]] = []
        jobs = [
            partial(self._interfaces_with, name, some, answers)
            for name, values in (
                ("addresses.private-ip-address", private),
                ("addresses.association.public-ip", public),
                ("ipv6-addresses.ipv6-address", ipv6),
            )
            for some in chunks(values, FILTER_VALUES)
        ]
        self._together(jobs, READS_AT_ONCE)
        found: dict[str, dict[str, Interface]] = {}
        for raw in answers:
            interface = _interface(raw)
            for address in _addresses_of(raw):
                if address in wanted:
                    found.setdefault(address, {})[interface.interface_id] = interface
        return {address: tuple(interfaces.values()) for address, interfaces in found.items()}

    def _interfaces_with(self, name: str, values: list[str], answers: list[Mapping[str, Any]]) -> None:
        try:
            answers += list(self._interfaces([{"Name": name, "Values": values}]))
        except DecommissionError as error:
            if not _filter_refused(error):
                raise
            # EC2-compatible endpoints may not support every filter: read all, and let the caller choose.
            answers += list(self._interfaces([]))

    def _interfaces(self, filters: list[Mapping[str, Any]]) -> Iterator[Mapping[str, Any]]:
        with aws_errors(f"describe network interfaces in {self.place} (ec2:DescribeNetworkInterfaces)"):
            pages = self._client.get_paginator("describe_network_interfaces")
            for page in pages.paginate(Filters=filters, PaginationConfig={"PageSize": _PAGE}):
                yield from page["NetworkInterfaces"]

    def elastic_ips(self, addresses: Iterable[str]) -> frozenset[str]:
        wanted = frozenset(a for a in addresses if ipaddress.ip_address(a).version == 4)
        found: set[str] = set()
        jobs = [partial(self._elastic_ips, some, found) for some in chunks(sorted(wanted), FILTER_VALUES)]
        self._together(jobs, READS_AT_ONCE)
        return wanted & found

    def _elastic_ips(self, addresses: list[str], found: set[str]) -> None:
        # Uses a filter, not PublicIps: one address that is not allocated would fail the whole call.
        filters = [{"Name": "public-ip", "Values": addresses}]
        with aws_errors(f"describe Elastic IPs in {self.place} (ec2:DescribeAddresses)"):
            answer = self._client.describe_addresses(Filters=filters)
            found |= {raw["PublicIp"] for raw in answer["Addresses"] if raw.get("PublicIp")}


def _filter_refused(error: DecommissionError) -> bool:
    cause = error.__cause__
    return isinstance(cause, ClientError) and cause.response.get("Error", {}).get("Code") in _FILTER_REFUSED


def _known(*values: str | None) -> tuple[str, ...]:
    return tuple(dict.fromkeys(v for v in values if v))


def _ipv6(text: str | None) -> str | None:
    return str(ipaddress.ip_address(text)) if text else None


def _interface(raw: Mapping[str, Any]) -> Interface:
    return Interface(
        interface_id=raw["NetworkInterfaceId"],
        vpc_id=raw.get("VpcId"),
        instance_id=(raw.get("Attachment") or {}).get("InstanceId"),
        description=raw.get("Description") or "",
    )


def _addresses_of(raw: Mapping[str, Any]) -> Iterator[str]:
    for address in raw.get("PrivateIpAddresses") or [raw]:
        yield from _known(address.get("PrivateIpAddress"), (address.get("Association") or {}).get("PublicIp"))
    yield from _known((raw.get("Association") or {}).get("PublicIp"))
    yield from _known(*(_ipv6(a.get("Ipv6Address")) for a in raw.get("Ipv6Addresses") or []))
