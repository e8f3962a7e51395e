"""Small worlds: two instances, two places, two names, a private and a public address each of which moves.

Instance X is dead and its end is handled. Instance Y lives, is dead as well, or does not exist. The truth of a world
is who made each thing and who has each address and name now; the plan functions see of it only what is recorded, what
the systems list and what EC2 answers. The oracles in the test files judge by the truth, and repeat no rule of the
product.

Each instance makes things under its own names, for its own addresses, and a stranger makes any. What a stranger made
counts as working unless nobody could tell the world from one in which the dead instance made the same:

- A record at an instance's name for an address of its VPC that EC2 knows nobody to have.
- A record at an instance's name for a stranger's interface in another VPC, whose range overlaps.
- A Chef node that never converged, or a client without a node, under the name of an instance that ran.

``EXHAUSTIVE`` says how many worlds: ``all`` takes the longer lists, ``sample`` every 29th world of the shorter ones.
"""

from __future__ import annotations

import os
import time
from collections import Counter
from dataclasses import dataclass, field
from functools import lru_cache
from itertools import islice, product
from typing import TYPE_CHECKING, NoReturn, TypeVar

from ec2_decommission.errors import TransientError
from ec2_decommission.instance import Facts, Instance
from ec2_decommission.live import Live, Living, Question
from ec2_decommission.place import Place
from tests.fakes.ec2 import FakeEc2, private_dns_name, public_dns_name

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence, Set

    import pytest

T = TypeVar("T")

SIZE = os.environ.get("EXHAUSTIVE", "")
ALL = SIZE == "all"
_STRIDE = 29 if SIZE == "sample" else 1

X, Y, STRANGER = "i-0000000000000000a", "i-0000000000000000b", "a stranger"
HOME, AWAY = Place("111111111111", "us-east-1"), Place("222222222222", "eu-west-1")
WEB1, WEB2 = "web-1", "web-2"
A1, A2, PUBLIC = "10.0.0.5", "10.0.0.6", "54.1.2.3"
OUTSIDE = "192.168.77.10"  # of a stranger's machine outside EC2


@dataclass(frozen=True)
class Site:
    """A VPC and its place."""

    place: Place
    vpc_id: str


SAME, NEXT, FAR = Site(HOME, "vpc-a"), Site(HOME, "vpc-b"), Site(AWAY, "vpc-c")
SITES = (SAME, NEXT, FAR)


@dataclass(frozen=True, eq=False)
class Body:
    """An instance as it is or was.

    Attributes:
        name: its Name tag now.
        names: every Name tag that it ever had.
        addresses: every address that it ever had; now, if it lives.
        known: what the function knows of a dead one.
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
    """A dead instance. ``names`` are its Name tags, the latest first; no address means that it never ran.

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
class Others:
    """Everybody but X.

    Attributes:
        other: Y.
        interfaces: those of strangers, such as a load balancer, each with its address.
        elastic: where the public address is allocated as an Elastic IP.
        silent: a place that cannot be asked.
    """

    other: Body | None = None
    interfaces: tuple[tuple[Site, str], ...] = ()
    elastic: Place | None = None
    silent: Place | None = None
    _answers: dict[Question, Living] = field(default_factory=dict)

    @property
    def living(self) -> Body | None:
        return self.other if self.other and self.other.alive else None

    def ask(self, question: Question) -> Living:
        """What EC2 says in each place."""
        answer = self._answers.get(question)
        if answer is None:
            answer = self._answers[question] = self._live().ask(question, gone=(X,)).living
        return answer

    def is_possible(self) -> bool:
        """Whether EC2 allows it: no address is there twice."""
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
        """Every address that an interface has, and where."""
        return [
            *self.interfaces,
            *((y.site, address) for y in filter(None, [self.living]) for address in y.addresses),
        ]

    def have(self, address: str | None, near: Site | None = None) -> bool:
        """Whether anybody has the address: in that VPC, or anywhere. A public address is the same everywhere."""
        if self.silent or (address == PUBLIC and self.elastic):
            return True
        return any(a == address and (near in (None, site) or a == PUBLIC) for site, a in self.held)

    def strangers_have(self, address: str | None, sites: Set[Site]) -> bool:
        """Whether a stranger's thing at this address works: a stranger's machine has it.

        Args:
            sites: of the dead who could have made the same thing. In another VPC than theirs nobody could tell.
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
    """Y alive or dead, everywhere, under each name, with each address; strangers' interfaces; an Elastic IP."""
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
    """Counts worlds, and shows how many there were and how long they took."""

    def __init__(self, what: str) -> None:
        self.what = what
        self.began = time.monotonic()
        self.worlds = 0
        self.plans = 0
        self.outcomes: Counter[str] = Counter()

    def show(self, capsys: pytest.CaptureFixture[str], at_least: int) -> None:
        """Fails if there were fewer worlds than that in a whole run."""
        outcomes = ", ".join(f"{number} {what}" for what, number in sorted(self.outcomes.items()))
        with capsys.disabled():
            seconds = time.monotonic() - self.began
            print(f"\n{self.what}: {self.worlds} worlds ({self.plans} plans), {seconds:.0f} s: {outcomes}")
        assert self.worlds >= (at_least // _STRIDE // 2 if _STRIDE > 1 else at_least)


def chosen(worlds: Iterable[T]) -> Iterator[T]:
    """The worlds of this run."""
    return islice(worlds, 0, None, _STRIDE)
