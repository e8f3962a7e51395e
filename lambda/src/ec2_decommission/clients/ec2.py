"""EC2: what an instance is, and what lives now."""

from __future__ import annotations

import ipaddress
import re
import threading
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import TYPE_CHECKING, Any, Protocol

from botocore.exceptions import ClientError

from ..chunks import chunks
from ..errors import DecommissionError, TransientError
from ..identity import Facts, Instance
from ..steps.base import Interface
from ..together import in_turn, lanes
from .aws import READS_AT_ONCE, aws_errors

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
    from contextlib import AbstractContextManager

    from ..templates import Template
    from ..together import Together

# https://docs.aws.amazon.com/AWSEC2/latest/UserGuide/ec2-instance-lifecycle.html
LIVING_STATES = ("pending", "running", "stopping", "stopped")
FILTER_VALUES = 200  # the most that EC2 takes in one filter
_PAGE = 1000
# https://docs.aws.amazon.com/AWSEC2/latest/APIReference/errors-overview.html
_FILTER_REFUSED = {"InvalidParameterValue", "InvalidFilter", "FilterLimitExceeded"}
_IDS = 100  # asked for by id at once; an answer by id has no pages
# What EC2 said of the living so long ago still counts: no instance boots in that time, and registers anywhere.
_FRESH = timedelta(seconds=5)
_ID = re.compile(r"\bi-[0-9a-f]+\b")


@dataclass(frozen=True)
class Description:
    """One instance as EC2 describes it now."""

    instance_id: str
    state: str
    facts: Facts

    @property
    def lives(self) -> bool:
        """Pending, running, stopping or stopped."""
        return self.state in LIVING_STATES

    def instance(self) -> Instance:
        """The instance with nothing known but this description."""
        return Instance(self.instance_id, state=self.state).learn(self.facts)


class Ec2(Protocol):
    """What the function asks of EC2. Every call may raise TransientError or AccessError."""

    def describe(self, instance_ids: Iterable[str]) -> Mapping[str, Description]:
        """The instances that EC2 still knows; no entry for the others."""

    def matching(self, filters: Mapping[str, Iterable[str]]) -> Iterator[Description]:
        """All instances that match EC2's own filters and that EC2 still knows, whether they live or not."""

    def living(self, filters: Mapping[str, Iterable[str]]) -> Iterator[Description]:
        """All living instances that match EC2's own filters; with none, all that live."""

    def ask_by_id(self, instance_ids: Iterable[str]) -> Mapping[str, Description | None]:
        """What EC2 says of each id when it is asked for that id; None where it says that there is no such instance.

        Every id has an entry: unlike for ``describe``, an answer that is short of one is an error, and not taken for
        a word on the instance.
        """

    def interfaces(self, addresses: Iterable[str]) -> Mapping[str, tuple[Interface, ...]]:
        """The network interfaces that have each address now."""


class BotoEc2:
    """EC2 through boto3.

    Args:
        client: a boto3 ``ec2`` client.
        together: asks for some hundreds at once.
    """

    def __init__(self, client: Any, together: Together = in_turn) -> None:
        self._client = client
        self._together = together
        self.region: str = client.meta.region_name

    def describe(self, instance_ids: Iterable[str]) -> Mapping[str, Description]:
        # A filter, not InstanceIds: one id that EC2 has forgotten would make the whole call an error.
        found: dict[str, Description] = {}
        pieces = chunks(dict.fromkeys(instance_ids), FILTER_VALUES)
        self._together(lanes([partial(self._describe_some, some, found) for some in pieces], READS_AT_ONCE))
        return found

    def _describe_some(self, instance_ids: Sequence[str], found: dict[str, Description]) -> None:
        found |= {d.instance_id: d for d in self.matching({"instance-id": instance_ids})}

    def living(self, filters: Mapping[str, Iterable[str]]) -> Iterator[Description]:
        yield from (d for d in self.matching({"instance-state-name": LIVING_STATES, **filters}) if d.lives)

    def ask_by_id(self, instance_ids: Iterable[str]) -> Mapping[str, Description | None]:
        found: dict[str, Description | None] = {}
        for some in chunks(dict.fromkeys(instance_ids), _IDS):
            found |= self._ask(some)
        return found

    def _ask(self, instance_ids: Sequence[str]) -> dict[str, Description | None]:
        """EC2 refuses the whole call for ids that it does not know, and names them; the rest is asked again."""
        found: dict[str, Description | None] = {}
        asked = list(instance_ids)
        while asked:
            with aws_errors("describe instances (ec2:DescribeInstances)"):
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
                raise TransientError("EC2 says that ids do not exist, and names none of those that it was asked for")
            found |= dict.fromkeys(unknown)
            asked = [instance_id for instance_id in asked if instance_id not in named]
        if silent := [instance_id for instance_id in instance_ids if instance_id not in found]:
            raise TransientError(f"EC2 says neither what {silent[0]} is nor that it does not exist")
        return {instance_id: found[instance_id] for instance_id in instance_ids}

    def matching(self, filters: Mapping[str, Iterable[str]]) -> Iterator[Description]:
        request = {"Filters": [{"Name": n, "Values": list(v)} for n, v in filters.items()]}
        with aws_errors("describe instances (ec2:DescribeInstances)"):
            pages = self._client.get_paginator("describe_instances")
            for page in pages.paginate(**request, PaginationConfig={"PageSize": _PAGE}):
                yield from self._described(page)

    def _described(self, page: Mapping[str, Any]) -> Iterator[Description]:
        for reservation in page["Reservations"]:
            for raw in reservation["Instances"]:
                yield self._description(raw, reservation.get("OwnerId"))

    def _description(self, raw: Mapping[str, Any], owner_id: str | None) -> Description:
        interfaces = sorted(
            raw.get("NetworkInterfaces") or [], key=lambda i: i.get("Attachment", {}).get("DeviceIndex", 0)
        )
        addresses = [a for i in interfaces for a in i.get("PrivateIpAddresses") or []]
        public = [a.get("Association") or {} for a in addresses]
        facts = Facts(
            source="ec2",
            account_id=owner_id,
            region=self.region,
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
        self._together(lanes(jobs, READS_AT_ONCE))
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
            cause = error.__cause__
            code = cause.response.get("Error", {}).get("Code") if isinstance(cause, ClientError) else None
            if code not in _FILTER_REFUSED:
                raise
            # EC2-compatible endpoints do not know every filter: read all, and let the caller choose.
            answers += list(self._interfaces([]))

    def _interfaces(self, filters: list[Mapping[str, Any]]) -> Iterator[Mapping[str, Any]]:
        with aws_errors("describe network interfaces (ec2:DescribeNetworkInterfaces)"):
            pages = self._client.get_paginator("describe_network_interfaces")
            for page in pages.paginate(Filters=filters, PaginationConfig={"PageSize": _PAGE}):
                yield from page["NetworkInterfaces"]


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


@dataclass(frozen=True)
class Namesakes:
    """Every instance, dead or alive, for which a template renders one of some names, and perhaps others.

    The answer to one question serves for two: what are these instances now, of which it is known what they were, and
    who lives that has their names?

    Attributes:
        names: in lower case.
        asked_at: the moment before EC2 was asked.
    """

    template: Template
    names: frozenset[str]
    descriptions: tuple[Description, ...]
    asked_at: datetime

    @classmethod
    def ask(cls, ec2: Ec2, template: Template, names: Iterable[str], now: datetime) -> Namesakes | None:
        """None where it takes more than one question, or EC2 has no filter for such names."""
        folded = {name.lower() for name in names}
        filters = _exact_filters(template, folded)
        if filters is None or len(filters) != 1:
            return None
        return cls(template, frozenset(folded), tuple(ec2.matching(filters[0])), now)


class LivingInEc2:
    """What lives now, asked of EC2 at most once for each address and name. Steps of one batch may ask at once.

    Args:
        ec2: EC2.
        gone: the batch's own instances, which are never taken for living.
        namesakes: EC2's answer of a moment ago, of use for as long as it is fresh.
        now: the time.
        lock: makes what a step waits at while another is asking.
    """

    def __init__(
        self,
        ec2: Ec2,
        gone: Iterable[str],
        namesakes: Namesakes | None = None,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
        lock: Callable[[], AbstractContextManager[object]] = threading.Lock,
    ) -> None:
        self._ec2 = ec2
        self._gone = frozenset(gone)
        self._namesakes = namesakes
        self._now = now
        self._interfaces: dict[str, tuple[Interface, ...]] = {}
        self._bearers: dict[tuple[Template, str], tuple[str, ...]] = {}
        # Who asks for what another step is just asking for gets its answer.
        self._asking_interfaces, self._asking_bearers = lock(), lock()

    def interfaces(self, addresses: Iterable[str]) -> Mapping[str, tuple[Interface, ...]]:
        asked = set(addresses)
        with self._asking_interfaces:
            new = asked - set(self._interfaces)
            if new:
                answer = self._ec2.interfaces(sorted(new))
                self._interfaces.update({address: answer.get(address, ()) for address in new})
        return {a: self._interfaces[a] for a in asked if self._interfaces[a]}

    def bearers(self, template: Template, names: Iterable[str]) -> Mapping[str, tuple[str, ...]]:
        asked = {name: name.lower() for name in names}
        with self._asking_bearers:
            new = {name for name in asked.values() if (template, name) not in self._bearers}
            if new:
                self._bearers.update(
                    {(template, name): ids for name, ids in self._ask_bearers(template, new).items()}
                )
        return {name: ids for name, folded in asked.items() if (ids := self._bearers[template, folded])}

    def _ask_bearers(self, template: Template, names: set[str]) -> dict[str, tuple[str, ...]]:
        found: dict[str, dict[str, None]] = {name: {} for name in names}
        for description in self._ask_living(template, names):
            name = (template.render(description.instance()) or "").lower()
            if name in found and description.instance_id not in self._gone:
                found[name][description.instance_id] = None
        return {name: tuple(ids) for name, ids in found.items()}

    def _ask_living(self, template: Template, names: set[str]) -> Iterator[Description]:
        """Every living instance for which the template renders one of the names, and others perhaps."""
        seen, unseen = self._namesakes, names
        if seen and seen.template == template and self._now() - seen.asked_at <= _FRESH:
            yield from (description for description in seen.descriptions if description.lives)
            unseen = names - seen.names
        for filters in _filters(template, unseen) if unseen else ():
            yield from self._ec2.living(filters)


def _filters(template: Template, names: set[str]) -> Sequence[Mapping[str, Iterable[str]]]:
    """EC2 filters that let through every instance for which the template renders one of the names.

    They may let through more, never less. A template that cannot be turned round asks for a tag that it needs, or for
    all that live.
    """
    exact = _exact_filters(template, names)
    if exact is not None:
        return exact
    tags = [v.removeprefix("tag:") for v in template.variables if v.startswith("tag:")]
    return [{"tag-key": tags[:1]} if tags else {}]


def _exact_filters(template: Template, names: set[str]) -> Sequence[Mapping[str, Iterable[str]]] | None:
    """Filters by the values of the template's placeholder; only one that stands in it alone, once, has any."""
    values = _values(template, names) if len(template.placeholders) == 1 else None
    asked = _asked(template.placeholders[0], values) if values is not None else None
    if asked is None:
        return None
    return [{name: some} for name, wanted in asked.items() for some in chunks(sorted(wanted), FILTER_VALUES)]


def _values(template: Template, names: set[str]) -> set[str]:
    """The values that the template's one placeholder has in these names."""
    before, after = re.split(r"\{[^{}]*\}", template.text.lower())
    return {
        name[len(before) : len(name) - len(after)]
        for name in names
        if name.startswith(before) and name.endswith(after) and len(name) > len(before) + len(after)
    }


def _asked(placeholder: str, values: set[str]) -> Mapping[str, set[str]] | None:
    """The EC2 filter for a placeholder's values; None where EC2 has no filter that is sure to find them."""
    if placeholder.startswith("tag:"):
        # Filters know case, names do not: each letter is asked for as EC2's wildcard for one character, and
        # so is all that EC2 might take for a wildcard. Beyond ASCII a letter's lower case may be two characters.
        return {placeholder: {re.sub(r"[^0-9._-]", "?", v) if v.isascii() else "*" for v in values}}
    if placeholder == "instance_id":
        return {"instance-id": values}
    if placeholder == "private_ip":
        return {"private-ip-address": values}
    if placeholder == "private_ip_dashed":
        return {"private-ip-address": {value.replace("-", ".") for value in values}}
    # EC2 makes two kinds of private DNS name: by address, and by instance id.
    # https://docs.aws.amazon.com/AWSEC2/latest/UserGuide/hostname-types.html
    asked: dict[str, set[str]] = {}
    for value in values:
        label = value.split(".")[0]
        if match := re.fullmatch(r"ip-(\d+-\d+-\d+-\d+)", label):
            asked.setdefault("private-ip-address", set()).add(match[1].replace("-", "."))
        elif re.fullmatch(r"i-[0-9a-f]+", label):
            asked.setdefault("instance-id", set()).add(label)
        else:
            return None
    return asked
