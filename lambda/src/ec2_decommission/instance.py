"""An instance's identity: the facts that distinguish its leftovers from those of other instances."""

from __future__ import annotations

import ipaddress
import re
from dataclasses import dataclass, field, replace
from functools import lru_cache
from typing import TYPE_CHECKING, Any, TypeVar

from .place import Place

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

T = TypeVar("T")

# EC2 ids have 8 or 17 digits. https://docs.aws.amazon.com/AWSEC2/latest/UserGuide/resource-ids.html
INSTANCE_ID = re.compile(r"i-[0-9a-f]{1,32}")

# The most values of one kind kept for one instance, so that an Elastic IP that moves every hour cannot outgrow a
# DynamoDB item. The newest are dropped: EC2 no longer shows the oldest.
MOST_VALUES = 60
MOST_PAST_TAG_VALUES = 10


def _union(*parts: Iterable[T]) -> tuple[T, ...]:
    """Returns all distinct values in order of first appearance, at most ``MOST_VALUES``."""
    return tuple(dict.fromkeys(value for part in parts for value in part))[:MOST_VALUES]


def _addresses(version: int, *parts: Iterable[str]) -> tuple[str, ...]:
    """Returns the addresses of that version that can be an instance's own, in their shortest form."""
    return _union(filter(None, (own_address(version, text) for part in parts for text in part)))


@lru_cache(maxsize=10_000)
def own_address(version: int, text: str) -> str | None:
    """Returns the address in its shortest form; None if it cannot identify a machine.

    A system may hold any text as an address, or 127.0.0.1 for many machines.
    """
    try:
        address = ipaddress.ip_address(str(text))
    except ValueError:
        return None
    shared = address.is_loopback or address.is_unspecified or address.is_link_local or address.is_multicast
    if address.version != version or shared or "%" in str(text):
        return None
    return str(address)


@dataclass(frozen=True)
class Facts:
    """What one source knows about an instance. Empty means unknown, never "has none".

    An address that cannot be the instance's own (not an address, loopback, link-local) is dropped.

    Attributes:
        source: ``inventory``, ``ec2``, ``event``, or the name of a step.
        launch_time: ISO 8601, UTC.
        ran: EC2 reported the instance as running, and it was recorded at that time.
        private_ips: IPv4, of all interfaces, the primary one first.
        public_ips: IPv4, all that the instance ever had.
        ipv6_addresses: in the shortest form, lower case.
        private_dns_names: as EC2 writes them, the primary one first.
        public_dns_names: as EC2 writes them.
        tags: the latest known value of each tag.
        past_tags: values that a tag had before.
        known_as: the names of the instance in a step's system, by step and kind,
            for example ``{"chef": {"node": ("web-1",)}}``. Each step reads and writes its own.
    """

    source: str
    account_id: str | None = None
    region: str | None = None
    vpc_id: str | None = None
    launch_time: str | None = None
    ran: bool = False
    private_ips: tuple[str, ...] = ()
    public_ips: tuple[str, ...] = ()
    ipv6_addresses: tuple[str, ...] = ()
    private_dns_names: tuple[str, ...] = ()
    public_dns_names: tuple[str, ...] = ()
    tags: Mapping[str, str] = field(default_factory=dict)
    past_tags: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    known_as: Mapping[str, Mapping[str, tuple[str, ...]]] = field(default_factory=dict)

    def without_addresses(self) -> Facts:
        """Returns the facts without addresses and DNS names."""
        return replace(
            self, private_ips=(), public_ips=(), ipv6_addresses=(), private_dns_names=(), public_dns_names=()
        )


@dataclass(frozen=True)
class Instance:
    """An instance and everything known about it from all queried sources. Attributes as in ``Facts``."""

    instance_id: str
    state: str = "unknown"
    account_id: str | None = None
    region: str | None = None
    vpc_id: str | None = None
    launch_time: str | None = None
    ran: bool = False
    private_ips: tuple[str, ...] = ()
    public_ips: tuple[str, ...] = ()
    ipv6_addresses: tuple[str, ...] = ()
    private_dns_names: tuple[str, ...] = ()
    public_dns_names: tuple[str, ...] = ()
    tags: Mapping[str, str] = field(default_factory=dict)
    past_tags: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    known_as: Mapping[str, Mapping[str, tuple[str, ...]]] = field(default_factory=dict)
    sources: tuple[str, ...] = ()

    @property
    def place(self) -> Place:
        """Account and region; an unknown one is the empty string."""
        return Place(self.account_id or "", self.region or "")

    @property
    def private_ip(self) -> str | None:
        """The primary private IPv4 address."""
        return self.private_ips[0] if self.private_ips else None

    @property
    def private_dns_name(self) -> str | None:
        """The primary private DNS name."""
        return self.private_dns_names[0] if self.private_dns_names else None

    @property
    def addresses(self) -> tuple[str, ...]:
        """Every address that was recorded for the instance, IPv4 and IPv6."""
        return self.private_ips + self.public_ips + self.ipv6_addresses

    @property
    def dns_names(self) -> tuple[str, ...]:
        """Every DNS name that EC2 assigned to the instance."""
        return self.private_dns_names + self.public_dns_names

    def tag_values(self, key: str) -> tuple[str, ...]:
        """Returns every value that a tag ever had, the latest first.

        Example:
            >>> Instance("i-1", tags={"Name": "b"}, past_tags={"Name": ("a",)}).tag_values("Name")
            ('b', 'a')
        """
        latest = (self.tags[key],) if key in self.tags else ()
        return _union(latest, self.past_tags.get(key, ()))

    def names(self, step: str, kind: str) -> tuple[str, ...]:
        """Returns the names of the instance in a step's system."""
        return tuple(self.known_as.get(step, {}).get(kind, ()))

    def learn(self, facts: Facts) -> Instance:
        """Returns this instance with the facts added. Known values stay, and stay first.

        If a tag's value differs, this instance's value stays and the other one is added to ``past_tags``.
        """
        known_as: dict[str, dict[str, tuple[str, ...]]] = {s: dict(k) for s, k in self.known_as.items()}
        for step, kinds in facts.known_as.items():
            for kind, names in kinds.items():
                mine = known_as.setdefault(step, {})
                mine[kind] = _union(mine.get(kind, ()), names)
        learned = replace(
            self,
            account_id=self.account_id or facts.account_id,
            region=self.region or facts.region,
            vpc_id=self.vpc_id or facts.vpc_id,
            launch_time=self.launch_time or facts.launch_time,
            ran=self.ran or facts.ran,
            private_ips=_addresses(4, self.private_ips, facts.private_ips),
            public_ips=_addresses(4, self.public_ips, facts.public_ips),
            ipv6_addresses=_addresses(6, self.ipv6_addresses, facts.ipv6_addresses),
            private_dns_names=_union(self.private_dns_names, facts.private_dns_names),
            public_dns_names=_union(self.public_dns_names, facts.public_dns_names),
            tags={**facts.tags, **self.tags},
            past_tags=self._past_tags(facts),
            known_as=known_as,
        )
        if learned == self:
            return self
        return replace(learned, sources=_union(self.sources, (facts.source,)))

    def _past_tags(self, facts: Facts) -> Mapping[str, tuple[str, ...]]:
        past = dict(self.past_tags)
        for key, values in facts.past_tags.items():
            past[key] = _union(past.get(key, ()), values)[:MOST_PAST_TAG_VALUES]
        for key, value in facts.tags.items():
            if self.tags.get(key, value) != value:
                past[key] = _union(past.get(key, ()), (value,))[:MOST_PAST_TAG_VALUES]
        return past

    def identity(self) -> dict[str, Any]:
        """Returns the part of the report that shows the identity used, without empty entries."""
        parts = {
            "vpc_id": self.vpc_id,
            "addresses": list(self.addresses),
            "dns_names": list(self.dns_names),
            "name_tag": self.tags.get("Name"),
            "known_as": {s: {k: list(v) for k, v in kinds.items()} for s, kinds in self.known_as.items()},
            "sources": list(self.sources),
        }
        return {key: value for key, value in parts.items() if value}
