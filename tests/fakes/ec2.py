"""EC2 in process. tests/conformance/test_ec2.py compares it with the strict AWS."""

from __future__ import annotations

import ipaddress
import re
from collections import Counter
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from typing import TYPE_CHECKING

from ec2_decommission.clients.ec2 import LIVING_STATES, Description, Interface
from ec2_decommission.errors import TransientError
from ec2_decommission.instance import Facts
from ec2_decommission.place import Place

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping

ACCOUNT = "123456789012"
REGION = "us-east-1"
HOME = Place(ACCOUNT, REGION)
VPC = "vpc-0000000000000000a"
_FILTER_VALUES = 200
_PAGE = 1000
_WILD = re.compile(r"[*?\\]")
_FIRST_LAUNCH = datetime(2026, 1, 1, tzinfo=UTC)


@dataclass
class NetworkInterface:
    """A network interface. ``private_ips`` begins with the primary. ``public_ips`` is keyed by private address."""

    interface_id: str
    vpc_id: str
    private_ips: list[str]
    instance_id: str | None = None
    description: str = ""
    ipv6_addresses: list[str] = field(default_factory=list)
    public_ips: dict[str, str] = field(default_factory=dict)
    delete_on_termination: bool = True

    @property
    def addresses(self) -> set[str]:
        return {*self.private_ips, *self.public_ips.values(), *self.ipv6_addresses}


@dataclass
class Machine:
    """An instance. ``primary`` is its interface from the launch."""

    instance_id: str
    state: str
    launch_time: datetime
    tags: dict[str, str]
    primary: NetworkInterface | None


class FakeEc2:
    """EC2 in one place.

    Attributes:
        allocated: the Elastic IPs of the account.
        machines: all instances that EC2 still lists, by id.
        network_interfaces: all interfaces, by id.
        fault: called with the operation before each request. It may raise errors.
        calls: requests by operation.
    """

    def __init__(self, place: Place = HOME) -> None:
        self.place = place
        self.region = place.region
        self.allocated: set[str] = set()
        self.machines: dict[str, Machine] = {}
        self.network_interfaces: dict[str, NetworkInterface] = {}
        self.fault: Callable[[str], None] = lambda *_: None
        self.calls: Counter[str] = Counter()
        self._serial = 0
        self._prefix = f"{place.account_id[:3]}{sum(map(ord, place.region)) % 256:02x}"

    # The world

    def launch(
        self,
        name: str | None = None,
        private_ip: str | None = None,
        *,
        instance_id: str | None = None,
        vpc_id: str = VPC,
        tags: Mapping[str, str] | None = None,
        secondary_ips: Iterable[str] = (),
        ipv6_addresses: Iterable[str] = (),
        public_ip: str | None = None,
        state: str = "running",
    ) -> str:
        """Launches an instance (``name`` is its Name tag) with one interface. Returns its id."""
        self._serial += 1
        instance_id = instance_id or f"i-{self._prefix}{self._serial:012x}"
        if instance_id in self.machines:
            raise ValueError(f"{instance_id} exists")
        private_ip = private_ip or self.free_address(vpc_id)
        primary = self.add_interface(
            private_ip,
            vpc_id=vpc_id,
            instance_id=instance_id,
            secondary_ips=secondary_ips,
            ipv6_addresses=ipv6_addresses,
            public_ip=public_ip,
        )
        launched = _FIRST_LAUNCH + timedelta(seconds=self._serial)
        all_tags = {**({"Name": name} if name is not None else {}), **(tags or {})}
        self.machines[instance_id] = Machine(instance_id, state, launched, all_tags, primary)
        return instance_id

    def add_interface(
        self,
        private_ip: str,
        *,
        vpc_id: str = VPC,
        instance_id: str | None = None,
        description: str = "",
        secondary_ips: Iterable[str] = (),
        ipv6_addresses: Iterable[str] = (),
        public_ip: str | None = None,
        delete_on_termination: bool = True,
    ) -> NetworkInterface:
        """Creates an interface, attached to ``instance_id`` if given. Refuses an address in use."""
        self._serial += 1
        interface = NetworkInterface(
            f"eni-{self._serial:017x}",
            vpc_id,
            [private_ip, *secondary_ips],
            instance_id,
            description,
            [str(ipaddress.ip_address(a)) for a in ipv6_addresses],
            {private_ip: public_ip} if public_ip else {},
            delete_on_termination,
        )
        own, public = interface.addresses, {*interface.public_ips.values()}
        for other in self.network_interfaces.values():
            shared = other.addresses & own
            if shared and (other.vpc_id == vpc_id or shared & public):
                raise ValueError(f"address {sorted(shared)[0]} is in use")
        self.network_interfaces[interface.interface_id] = interface
        return interface

    def free_address(self, vpc_id: str = VPC) -> str:
        """An unused address in the VPC."""
        taken = {a for i in self.network_interfaces.values() if i.vpc_id == vpc_id for a in i.addresses}
        return next(
            a for n in range(4, 65_000) if (a := f"10.0.{n // 256}.{n % 256}") not in taken
        )  # AWS reserves the first four

    def set_state(self, instance_id: str, state: str) -> None:
        """Sets a state such as ``stopped`` or ``shutting-down``. Use ``terminate`` to end an instance."""
        self.machines[instance_id].state = state

    def tag(self, instance_id: str, **tags: str) -> None:
        self.machines[instance_id].tags.update(tags)

    def terminate(self, instance_id: str) -> None:
        """Terminates an instance: only its tags stay for a while."""
        machine = self.machines[instance_id]
        machine.state = "terminated"
        machine.primary = None
        for interface in list(self.network_interfaces.values()):
            if interface.instance_id == instance_id:
                if interface.delete_on_termination:
                    del self.network_interfaces[interface.interface_id]
                interface.instance_id = None

    def forget_tags(self, instance_id: str) -> None:
        self.machines[instance_id].tags.clear()

    def forget(self, instance_id: str) -> None:
        """Drops an instance, as EC2 does about an hour after termination."""
        del self.machines[instance_id]

    # The Ec2 protocol

    def describe(self, instance_ids: Iterable[str]) -> Mapping[str, Description]:
        wanted = list(dict.fromkeys(instance_ids))
        for _ in range(0, len(wanted), _FILTER_VALUES):
            self._request("DescribeInstances")
        return {i: self._description(self.machines[i]) for i in wanted if i in self.machines}

    def ask_by_id(self, instance_ids: Iterable[str]) -> Mapping[str, Description | None]:
        wanted = list(dict.fromkeys(instance_ids))
        for start in range(0, len(wanted), 100):
            some = wanted[start : start + 100]
            known = [i for i in some if i in self.machines]
            for _ in range((len(known) < len(some)) + bool(known)):
                self._request("DescribeInstances")
        return {i: self._description(self.machines[i]) if i in self.machines else None for i in wanted}

    def living(self, filters: Mapping[str, Iterable[str]]) -> Iterator[Description]:
        asked = {"instance-state-name": LIVING_STATES, **filters}
        return (description for description in self._matching(asked) if description.lives)

    def elastic_ips(self, addresses: Iterable[str]) -> frozenset[str]:
        wanted = frozenset(addresses)
        if wanted:
            self._request("DescribeAddresses")
        return wanted & self.allocated

    def _matching(self, filters: Mapping[str, Iterable[str]]) -> Iterator[Description]:
        asked = {name: list(values) for name, values in filters.items()}
        self._request("DescribeInstances")
        for values in asked.values():
            if len(values) > _FILTER_VALUES:
                raise TransientError(
                    "could not describe instances (ec2:DescribeInstances): FilterLimitExceeded: The maximum number "
                    f"of filter values specified on a single call is {_FILTER_VALUES}"
                )
        tests = [_matches(name, values) for name, values in asked.items()]
        matching = (m for m in list(self.machines.values()) if all(test(m) for test in tests))
        for number, machine in enumerate(matching):
            if number and number % _PAGE == 0:
                self._request("DescribeInstances")
            yield self._description(machine)

    def interfaces(self, addresses: Iterable[str]) -> Mapping[str, tuple[Interface, ...]]:
        wanted = set(addresses)
        if not wanted:
            return {}
        for address in wanted:
            ipaddress.ip_address(address)
        self._request("DescribeNetworkInterfaces")
        found: dict[str, tuple[Interface, ...]] = {}
        for interface in self.network_interfaces.values():
            seen = Interface(interface.interface_id, interface.vpc_id, interface.instance_id, interface.description)
            for address in sorted(wanted & interface.addresses):
                found[address] = (*found.get(address, ()), seen)
        return found

    def _request(self, operation: str) -> None:
        self.calls[operation] += 1
        self.fault(operation)

    def _description(self, machine: Machine) -> Description:
        own = [i for i in self.network_interfaces.values() if i.instance_id == machine.instance_id]
        own.sort(key=lambda interface: interface is not machine.primary)
        private = tuple(a for i in own for a in i.private_ips)
        public = tuple(i.public_ips[a] for i in own for a in i.private_ips if a in i.public_ips)
        return Description(
            machine.instance_id,
            machine.state,
            Facts(
                source="ec2",
                account_id=self.place.account_id,
                region=self.region,
                vpc_id=machine.primary.vpc_id if machine.primary else None,
                launch_time=machine.launch_time.isoformat(),
                private_ips=private,
                public_ips=public,
                ipv6_addresses=tuple(a for i in own for a in i.ipv6_addresses),
                private_dns_names=tuple(private_dns_name(a, self.region) for a in private),
                public_dns_names=tuple(public_dns_name(a, self.region) for a in public),
                tags=dict(machine.tags),
            ),
        )


def private_dns_name(address: str, region: str = REGION) -> str:
    """EC2's private DNS name. https://docs.aws.amazon.com/AWSEC2/latest/UserGuide/hostname-types.html"""
    domain = "ec2.internal" if region == "us-east-1" else f"{region}.compute.internal"
    return f"ip-{address.replace('.', '-')}.{domain}"


def public_dns_name(address: str, region: str = REGION) -> str:
    """EC2's public DNS name."""
    domain = "compute-1" if region == "us-east-1" else f"{region}.compute"
    return f"ec2-{address.replace('.', '-')}.{domain}.amazonaws.com"


def _attribute(name: str) -> Callable[[Machine], Iterable[str]]:
    if name.startswith("tag:"):
        key = name.removeprefix("tag:")
        return lambda machine: [machine.tags[key]] if key in machine.tags else []
    attributes: dict[str, Callable[[Machine], Iterable[str]]] = {
        "tag-key": lambda machine: machine.tags,
        "instance-id": lambda machine: [machine.instance_id],
        "instance-state-name": lambda machine: [machine.state],
        "private-ip-address": lambda machine: machine.primary.private_ips[:1] if machine.primary else [],
    }
    if name not in attributes:
        raise TransientError(
            "could not describe instances (ec2:DescribeInstances): InvalidParameterValue: "
            f"The filter '{name}' is invalid"
        )
    return attributes[name]


def _matches(name: str, patterns: Iterable[str]) -> Callable[[Machine], bool]:
    """Whether a machine matches a filter."""
    values_of = _attribute(name)
    wild = {text for text in patterns if _WILD.search(text)}
    plain, compiled = set(patterns) - wild, [_pattern(text) for text in wild]

    def matches(machine: Machine) -> bool:
        values = values_of(machine)
        return not plain.isdisjoint(values) or any(p.fullmatch(value) for p in compiled for value in values)

    return matches


@lru_cache(maxsize=4096)
def _pattern(text: str) -> re.Pattern[str]:
    """EC2's wildcards: ``*`` for any characters, ``?`` for one, and a backslash as the escape character."""
    parts = re.findall(r"\\.|.", text, re.DOTALL)
    special = {"*": ".*", "?": "."}
    return re.compile(
        "".join(special.get(part) or re.escape(part[-1]) for part in parts),
        re.DOTALL,
    )
