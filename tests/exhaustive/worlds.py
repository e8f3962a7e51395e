"""Small worlds: two instances, two places, two names, and a private and a public address that move.

Instance X is dead, and its termination is handled. Instance Y is live, dead or absent. The truth of a world is the
creator of each thing, and the current owner of each address and name. The plan functions see only the records, the
systems' listings and EC2's answers. The oracles in the test files judge by the truth, and repeat no rules of the
product.

Each instance creates things under its own names and for its own addresses. A stranger creates any things. A
stranger's thing counts as working unless the world looks the same as one in which the dead instance created it:

- A record at an instance's name for an address in its VPC without an owner in EC2.
- A record at an instance's name for a stranger's interface in another VPC with an overlapping range.
- A Chef node that never converged, or a client without a node, under the name of an instance that ran.

``EXHAUSTIVE`` sets the number of worlds: ``all`` uses the longer lists, ``sample`` every 29th world of the shorter.
"""

from __future__ import annotations

import os
import time
from collections import Counter
from dataclasses import dataclass, field
from functools import lru_cache
from itertools import islice, product
from typing import TYPE_CHECKING, NoReturn, ParamSpec, TypeVar, cast

from ec2_decommission.errors import TransientError
from ec2_decommission.instance import Facts, Instance
from ec2_decommission.live import Live, Living, Question
from ec2_decommission.place import Place
from tests.fakes.ec2 import FakeEc2, private_dns_name, public_dns_name

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence, Set

    import pytest

T = TypeVar("T")
P = ParamSpec("P")

SIZE = os.environ.get("EXHAUSTIVE", "")
ALL = SIZE == "all"
_STRIDE = 29 if SIZE == "sample" else 1

X, Y, STRANGER = "i-0000000000000000a", "i-0000000000000000b", "a stranger"
HOME, AWAY = Place("111111111111", "us-east-1"), Place("222222222222", "eu-west-1")
WEB1, WEB2 = "web-1", "web-2"
A1, A2, PUBLIC = "10.0.0.5", "10.0.0.6", "54.1.2.3"
OUTSIDE = "192.168.77.10"  # a stranger's machine outside EC2


@dataclass(frozen=True)
class Site:
    """A VPC and its place."""

    place: Place
    vpc_id: str


SAME, NEXT, FAR = Site(HOME, "vpc-a"), Site(HOME, "vpc-b"), Site(AWAY, "vpc-c")
SITES = (SAME, NEXT, FAR)


@dataclass(frozen=True, eq=False)
class Body:
    """A live or dead instance.

    Attributes:
        name: the current Name tag.
        names: all Name tags that it ever had.
        addresses: the current addresses of a live instance, or all addresses that a dead one ever had.
        known: the function's knowledge of a dead instance.
    """

    instance_id: str
    site: Site
    alive: bool
    name: str | None
    names: frozenset[str]
    addresses: tuple[str, ...]
    known: Instance

    def __str__(self) -> str:
        state = "living" if self.alive else f"dead, known {self.known.identity()}"
        return f"{sorted(self.names)} {self.addresses} in {self.site.vpc_id}, {state}"

    @property
    def private(self) -> str | None:
        return next((a for a in self.addresses if a != PUBLIC), None)


def dead(
    instance_id: str = X,
    site: Site = SAME,
    names: tuple[str, ...] = (WEB1,),
    addresses: tuple[str, ...] = (A1,),
    *,
    vpc_known: bool = True,
    tags_known: bool = True,
    recorded: bool = True,
    **facts: object,
) -> Body:
    """A dead instance. ``names`` are its Name tags, latest first. No address means that it never ran.

    Args:
        recorded: whether it was recorded while it ran.
    """
    known = Facts(
        "inventory",
        site.place.account_id,
        site.place.region,
        site.vpc_id if vpc_known and recorded else None,
        ran=recorded and bool(addresses),
        private_ips=tuple(a for a in addresses if a != PUBLIC) if recorded else (),
        public_ips=tuple(a for a in addresses if a == PUBLIC) if recorded else (),
        private_dns_names=tuple(
            private_dns_name(a, site.place.region) for a in addresses if a != PUBLIC and recorded
        ),
        public_dns_names=tuple(public_dns_name(a, site.place.region) for a in addresses if a == PUBLIC and recorded),
        tags={"Name": names[0]} if names and tags_known else {},
        past_tags={"Name": names[1:]} if names[1:] and tags_known else {},
        **facts,  # type: ignore[arg-type]
    )
    instance = Instance(instance_id, state="terminated").learn(known)
    return Body(instance_id, site, False, names[0] if names else None, frozenset(names), addresses, instance)


def alive(site: Site, name: str | None, addresses: tuple[str, ...]) -> Body:
    """Y, living."""
    names = frozenset([name] if name else ())
    return Body(Y, site, True, name, names, addresses, Instance(Y))


@dataclass(frozen=True, eq=False)
class Answer:
    """EC2's answer. Equal answers are the same object, so that it can be a key."""

    living: Living


_answers: dict[str, Answer] = {}  # by content


def remembered(function: Callable[P, T]) -> Callable[P, T]:
    """Remembers the results of a pure function. Many worlds look the same to a step, and have the same plan."""
    return cast("Callable[P, T]", lru_cache(maxsize=1 << 17)(function))


@dataclass(frozen=True, eq=False)
class Others:
    """All actors except X.

    Attributes:
        other: Y.
        interfaces: strangers' interfaces, such as a load balancer's, with their addresses.
        elastic: the place where the public address is allocated as an Elastic IP.
        silent: a place that does not answer.
    """

    other: Body | None = None
    interfaces: tuple[tuple[Site, str], ...] = ()
    elastic: Place | None = None
    silent: Place | None = None
    _answers: dict[Question, Answer] = field(default_factory=dict)

    @property
    def living(self) -> Body | None:
        return self.other if self.other and self.other.alive else None

    def ask(self, question: Question) -> Answer:
        """EC2's answers in each place."""
        answer = self._answers.get(question)
        if answer is None:
            living = self._live().ask(question, gone=(X,)).living
            answer = self._answers[question] = _answers.setdefault(repr(living), Answer(living))
        return answer

    def is_possible(self) -> bool:
        """Whether EC2 allows this world: no address occurs twice."""
        try:
            self._live()
        except ValueError:
            return False
        return [address for _, address in self.held].count(PUBLIC) < 2

    def _live(self) -> Live:
        places = {place: FakeEc2(place) for place in (HOME, AWAY)}
        if y := self.living:
            public = PUBLIC if PUBLIC in y.addresses else None
            ec2 = places[y.site.place]
            ec2.launch(y.name, y.private, instance_id=Y, vpc_id=y.site.vpc_id, public_ip=public)
        for number, (site, address) in enumerate(self.interfaces):
            public = address if address == PUBLIC else None
            own = f"10.9.9.{number}" if public else address
            places[site.place].add_interface(own, vpc_id=site.vpc_id, public_ip=public, description="NAT")
        if self.elastic:
            places[self.elastic].allocated.add(PUBLIC)
        if self.silent:
            places[self.silent].fault = _no_answer
        return Live(places)

    @property
    def held(self) -> list[tuple[Site, str]]:
        """All interface addresses, with their sites."""
        return [
            *self.interfaces,
            *((y.site, address) for y in filter(None, [self.living]) for address in y.addresses),
        ]

    def have(self, address: str | None, near: Site | None = None) -> bool:
        """Whether the address has an owner in that VPC, or anywhere. A public address is the same everywhere."""
        if self.silent or (address == PUBLIC and self.elastic):
            return True
        return any(a == address and (near in (None, site) or a == PUBLIC) for site, a in self.held)

    def strangers_have(self, address: str | None, sites: Set[Site]) -> bool:
        """Whether a stranger's thing at this address works, because a stranger's machine has the address.

        Args:
            sites: the sites of dead instances that could have created the same thing. In other VPCs, the worlds
                look the same.
        """
        if address == OUTSIDE or (address == PUBLIC and self.elastic):
            return True
        return any(a == address and (a == PUBLIC or sites <= {site}) for site, a in self.interfaces)

    def __str__(self) -> str:
        held = ", ".join(f"{a} in {site.vpc_id}" for site, a in self.interfaces)
        return f"Y: {self.other}; strangers: {held}; elastic: {self.elastic}; silent: {self.silent}"


def _no_answer(operation: str) -> NoReturn:
    raise TransientError(f"no answer to {operation}")


@lru_cache(maxsize=1)
def all_others() -> Sequence[Others]:
    """Y live or dead, in each place, with each name and address; strangers' interfaces; an Elastic IP."""
    names = (WEB1, WEB2, None) if ALL else (WEB1, WEB2)
    bodies: list[Body | None] = [None]
    for site, name, private, public in product(SITES, names, (A1, A2), ((), (PUBLIC,))):
        bodies.append(alive(site, name, (private, *public)))
        if name and site != NEXT and not public:
            bodies.append(dead(Y, site, (name,), (private, *public)))
    public_ones: list[tuple[tuple[tuple[Site, str], ...], Place | None]] = [
        ((), None),
        ((), HOME),
        ((), AWAY),
        (((FAR, PUBLIC),), None),
    ]
    private_ones: list[tuple[tuple[Site, str], ...]] = [(), ((SAME, A1),), *([((FAR, A1),)] if ALL else [])]
    found = [
        Others(body, mine + theirs, elastic, place)
        for body, mine, (theirs, elastic), place in product(bodies, private_ones, public_ones, (None, AWAY))
        if not place or (not mine and not theirs and (body is None or body.site == FAR))
    ]
    return [others for others in found if others.is_possible()]


class Count:
    """Counts worlds, and prints the count and the duration."""

    def __init__(self, what: str) -> None:
        self.what = what
        self.began = time.monotonic()
        self.worlds = 0
        self.plans = 0
        self.outcomes: Counter[str] = Counter()

    def show(self, capsys: pytest.CaptureFixture[str], at_least: int) -> None:
        """Prints the count. Fails if a full run had fewer worlds than ``at_least``."""
        outcomes = ", ".join(f"{number} {what}" for what, number in sorted(self.outcomes.items()))
        with capsys.disabled():
            seconds = time.monotonic() - self.began
            print(f"\n{self.what}: {self.worlds} worlds ({self.plans} plans), {seconds:.0f} s: {outcomes}")
        assert self.worlds >= (at_least // _STRIDE // 2 if _STRIDE > 1 else at_least)


def chosen(worlds: Iterable[T]) -> Iterator[T]:
    """The worlds of this run."""
    return islice(worlds, 0, None, _STRIDE)
