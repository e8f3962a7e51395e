"""Every small world of DNS records: the creator of each value, and the current owners of its address and name.

A removal is harm if the value works for a live instance or a stranger, or if another system owns the record set.
A removal is due if a handled instance undisputedly created the value at one of its names.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cache, lru_cache
from itertools import combinations, product
from typing import TYPE_CHECKING, Any

import pytest

from ec2_decommission.clients.route53 import RecordSet, Zone
from ec2_decommission.config import Route53Settings, ZoneSettings
from ec2_decommission.errors import TransientError
from ec2_decommission.steps.route53 import names, observe, plan
from ec2_decommission.templates import Template
from tests.exhaustive.worlds import (
    A1,
    A2,
    ALL,
    FAR,
    OUTSIDE,
    PUBLIC,
    STRANGER,
    WEB1,
    WEB2,
    Answer,
    Body,
    Count,
    Others,
    X,
    Y,
    all_others,
    chosen,
    dead,
    remembered,
)
from tests.fakes.ec2 import private_dns_name, public_dns_name

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from ec2_decommission.clients.route53 import Key
    from ec2_decommission.live import Question

DOMAIN = "example.internal."
ZONES = {"ZFORWARD": DOMAIN, "ZREVERSE": "10.in-addr.arpa."}
SETTINGS = Route53Settings(
    tuple(map(ZoneSettings, ZONES)),
    tuple(Template(f"{host}.{DOMAIN}") for host in ("{tag:Name}", "www-{tag:Name}", "{instance_id}")),
    keep_names=("keep-*",),
)
N1, W1, ID, KEPT = (f"{label}.{DOMAIN}" for label in (WEB1, f"www-{WEB1}", X, f"keep-{WEB1}"))
N2 = f"{WEB2}.{DOMAIN}"
REVERSE = "5.0.0.10.in-addr.arpa."
OTHER = "www.example.com"
X_NAME, X_ELSEWHERE, Y_NAME = f"{X}.ec2.internal", f"{X}.eu-west-1.compute.internal", f"{Y}.ec2.internal"

Value = tuple[str, str, str, str | None]  # name, type, value, set identifier
MARK = {"Type": "TXT", "ResourceRecords": [{"Value": '"heritage=external-dns,external-dns/owner=k8s"'}]}


@dataclass(frozen=True, eq=False)
class Board:
    """The listed records of a world, and other systems' ownership of them.

    Attributes:
        owned: the record sets that another system owns, by name and type.
    """

    snapshot: observe.Snapshot
    values: tuple[Value, ...]
    owned: frozenset[tuple[str, str]] = frozenset()


def board(
    *records: dict[str, Any] | None, owned: Iterable[tuple[str, str]] = (), unread: Iterable[str] = ()
) -> Board:
    """The zones' listings. ``unread`` are names that could not be read, and may have anyone's mark."""
    missed = {name: TransientError("throttled") for name in unread}
    found: dict[str, dict[str, tuple[RecordSet, ...]]] = {zone_id: {} for zone_id in ZONES}
    values: list[Value] = []
    for raw in filter(None, records):
        zone = "ZREVERSE" if raw["Name"].endswith(".arpa.") else "ZFORWARD"
        record = RecordSet.listed(zone, raw)
        found[zone][record.name] = (*found[zone].get(record.name, ()), record)
        if record.type != "TXT":
            values += [(record.name, record.type, v, record.set_identifier) for v in record.values]
    zones = (observe.ZoneRecords(Zone(zone_id, name), found[zone_id], missed) for zone_id, name in ZONES.items())
    return Board(observe.Snapshot(tuple(zones)), tuple(values), frozenset(owned))


def record(name: str, kind: str, *values: str, **more: Any) -> dict[str, Any]:
    return {"Name": name, "Type": kind, "TTL": 60, "ResourceRecords": [{"Value": v} for v in values], **more}


def subsets(values: Iterable[str]) -> Iterator[tuple[str, ...]]:
    values = tuple(values)
    return (some for size in range(1, len(values) + 1) for some in combinations(values, size))


def address_boards() -> Iterator[Board]:
    """Address records at a name of X and Y, alone, in sets and weighted; some owned by other systems."""
    for some in subsets((A1, A2, PUBLIC, OUTSIDE)):
        yield board(record(N1, "A", *some))
    for mark in (N1, f"a-{N1}", f"cname-{N1}"):
        yield board(record(N1, "A", A1, PUBLIC), {"Name": mark, **MARK}, owned=[(N1, "A")])
    yield board(record(N1, "A", A1, PUBLIC), owned=[(N1, "A")], unread=[f"a-{N1}"])
    yield board(record(N1, "A", A1, PUBLIC), record(N1, "TXT", '"v=spf1 -all"'))
    yield board(record(N1, "A", A1, TrafficPolicyInstanceId="t"), owned=[(N1, "A")])
    yield board({"Name": N1, "Type": "A", "AliasTarget": {"DNSName": OTHER}}, record(W1, "A", A1))
    for mine, theirs in product((A1, PUBLIC), (A1, A2, OUTSIDE)):
        yield board(
            record(N1, "A", mine, SetIdentifier="one", Weight=1),
            record(N1, "A", theirs, SetIdentifier="two", Weight=1),
        )
    for value in (A1, A2, PUBLIC, OUTSIDE):
        yield board(record(ID, "A", value), record(N2, "A", value))
    yield board(record(ID, "A", A1), {"Name": ID, **MARK}, owned=[(ID, "A")])


def name_boards() -> Iterator[Board]:
    """CNAME records to EC2's names, to other names of X and Y, and to strangers' names."""
    ec2_names = (private_dns_name(A1), public_dns_name(PUBLIC), X_NAME, X_ELSEWHERE, Y_NAME, OTHER, ID)
    at_name = [record(N1, "A", *some) for some in ((A1,), (OUTSIDE,), (A1, OUTSIDE), (PUBLIC,))]
    at_name += [record(N1, "CNAME", target) for target in ec2_names]
    at_www = [None, record(W1, "CNAME", N1), *([record(W1, "CNAME", N2), record(W1, "A", A1)] if ALL else [])]
    at_id = [None, record(ID, "A", A1), *([record(ID, "A", OUTSIDE), record(ID, "CNAME", N1)] if ALL else [])]
    for here, www, by_id in product([None, *at_name], at_www, at_id):
        if here or www or by_id:
            yield board(here, www, by_id)
    yield board(record(W1, "CNAME", N2), record(N2, "A", A1))
    yield board(record(W1, "CNAME", N1), {"Name": N1, "Type": "A", "AliasTarget": {"DNSName": OTHER}})
    yield board(record(W1, "CNAME", N1), record(N1, "A", A1), {"Name": N1, **MARK}, owned=[(N1, "A")])


def pointer_boards() -> Iterator[Board]:
    """PTR records at the private address of X, and of Y if it has it."""
    for some in subsets((N1, N2, ID, OTHER, private_dns_name(A1)) if ALL else (N1, ID, OTHER, private_dns_name(A1))):
        for forward in (None, record(N1, "A", A1)):
            yield board(record(REVERSE, "PTR", *some), forward)
    yield board(record(REVERSE, "PTR", N1), {"Name": REVERSE, **MARK}, owned=[(REVERSE, "PTR")])
    yield board(record(REVERSE, "PTR", KEPT), owned=[(REVERSE, "PTR")])


def xs() -> list[Body]:
    found = [
        dead(),
        dead(addresses=(A1, PUBLIC)),
        dead(addresses=(A1, PUBLIC), vpc_known=False),
        dead(names=(WEB2, WEB1)),
        dead(tags_known=False),
        dead(recorded=False),
        dead(addresses=()),
    ]
    far = [dead(site=FAR, names=names, addresses=(A1, PUBLIC)) for names in ((WEB1,), (WEB2, WEB1))] if ALL else []
    return [*found, *far, *([dead(names=(WEB2, WEB1), addresses=(A1, PUBLIC))] if ALL else [])]


@dataclass
class World:
    """A world without the creators of its values."""

    x: Body
    others: Others
    board: Board

    def __str__(self) -> str:
        return f"X: {self.x}; {self.others}; records: {self.board.values}"

    @property
    def handled(self) -> tuple[Body, ...]:
        """The handled dead instances."""
        return (self.x, *((self.others.other,) if self.others.other and not self.others.living else ()))

    def makers(self, value: Value) -> list[str]:
        """The possible creators of a value: an instance at its names for its own addresses, or a stranger.

        A value that contains an instance's id has no other creator.
        """
        if X in value[0] or X in value[2]:
            return [X]
        bodies = (self.x, *((self.others.other,) if self.others.other else ()))
        return [*(body.instance_id for body in bodies if self._could_make(body, value)), STRANGER]

    def _could_make(self, body: Body, value: Value) -> bool:
        name, kind, target, _ = value
        own = labels(body, body.names)
        if kind == "PTR":
            address = address_of(value)
            return address in body.addresses and (target in own or target == _ec2_name(body, address))
        if name not in own or not body.addresses:
            return False
        if kind == "CNAME" and target not in own and not target.startswith(body.instance_id):
            return any(target == _ec2_name(body, address) for address in body.addresses)
        return kind == "CNAME" or target in body.addresses

    def is_harm(self, value: Value, maker: str, makers: dict[Value, str]) -> bool:
        """Whether removing the value takes it from an owner for whom it works."""
        name, kind, target, _ = value
        if (name, kind) in self.board.owned:
            return True
        if X in name or X in target:
            return False  # what contains its id ended with it
        address = address_of(value)
        if address == PUBLIC and self.others.elastic:
            return True
        if self._works_for_living(value, address):
            return True
        if maker != STRANGER:
            return False
        if kind == "CNAME" and target.endswith(DOMAIN):
            there = [v for v in makers if v[0] == target]
            return any(self.is_harm(v, makers[v], makers) for v in there)
        label = target if kind == "PTR" else name
        had = [b for b in self.handled if address in b.addresses]
        sites = {b.site for b in had if label in labels(b, b.names) or label == _ec2_name(b, address)}
        return self.others.strangers_have(address, sites) or target == OTHER

    def _works_for_living(self, value: Value, address: str | None) -> bool:
        y = self.others.living
        if y is None:
            return False
        name, kind, target, _ = value
        own = labels(y, y.names)
        if kind == "CNAME" and target.endswith(DOMAIN):
            return name in own and target in own
        if target.startswith(Y):
            return True
        if address not in y.addresses:
            return False
        if kind == "PTR":
            return target in own or target == _ec2_name(y, address)
        return name in own

    def is_due(self, value: Value, maker: str, makers: dict[Value, str]) -> bool:
        """Whether the value provably belongs to its creator, and is not in use."""
        name, kind, target, _ = value
        body = next((b for b in self.handled if b.instance_id == maker), None)
        if body is None or (name, kind) in self.board.owned or self.is_harm(value, maker, makers):
            return False
        known = labels(body, body.names if body.known.tags else ())
        by_id = f"{body.instance_id}.{DOMAIN}"
        if kind == "PTR":
            if target == by_id:
                return body.known.addresses != ()
            return target in known and self._is_free(body, target, address_of(value))
        if name not in known:
            return False
        if name == by_id or target == _ec2_name_of_id(body):
            return True
        if kind == "CNAME" and target.endswith(DOMAIN):
            there = [v for v in makers if v[0] == target]
            gone = all(self.is_due(v, makers[v], makers) for v in there) and not self._is_alias(target)
            y = self.others.living
            disputed = self.others.silent or (y and target in labels(y, y.names))
            return target in known and gone and (target == by_id or not disputed)
        return self._is_free(body, name, address_of(value))

    def _is_alias(self, name: str) -> bool:
        return any(r.alias for zone in self.board.snapshot.zones for r in zone.found.get(name, ()))

    def _is_free(self, body: Body, label: str, address: str | None) -> bool:
        """Whether the address is recorded for the instance, and has no other actual or possible owner."""
        if address is None or address not in body.known.addresses:
            return False
        y = self.others.living
        namesake = bool(y and address in y.addresses and label in labels(y, y.names))
        return not namesake and not self.others.have(address, body.site if body.known.vpc_id else None)


def _ec2_name(body: Body, address: str | None) -> str:
    """EC2's DNS name for the address in the instance's region."""
    region = body.site.place.region
    return public_dns_name(PUBLIC, region) if address == PUBLIC else private_dns_name(address or "", region)


@cache
def labels(body: Body, names: Iterable[str]) -> frozenset[str]:
    """The record names of an instance with these Name tags."""
    return frozenset({f"{body.instance_id}.{DOMAIN}", *(f"{p}{n}.{DOMAIN}" for n in names for p in ("", "www-"))})


def _ec2_name_of_id(body: Body) -> str:
    domain = "ec2" if body.site.place.region == "us-east-1" else f"{body.site.place.region}.compute"
    return f"{body.instance_id}.{domain}.internal"


@cache
def address_of(value: Value) -> str | None:
    """The address to which a value resolves; None for another name."""
    name, kind, target, _ = value
    if kind == "PTR":
        return ".".join(reversed(name.split(".")[:4]))
    match = re.match(r"(?:ip|ec2)-(\d+)-(\d+)-(\d+)-(\d+)\.", target)
    return ".".join(match.groups()) if match else target if kind == "A" else None


@pytest.fixture(autouse=True)
def fast(monkeypatch: pytest.MonkeyPatch) -> None:
    """Caches the results of pure functions of names, because all worlds use the same few names."""
    cached = {
        plan: ("canonical", "address_of", "ec2_name_of_id", "mark_names", "is_kept", "concerns_classless", "is_mark"),
        observe: ("is_classless",),
    }
    for module, functions in cached.items():
        for function in functions:
            monkeypatch.setattr(module, function, lru_cache(maxsize=None)(getattr(module, function)))
    own: dict[int, names.OwnNames] = {}
    own_names, name_questions = names.own_names, names.name_questions

    def remembered(record_names: tuple[Template, ...], instance: Any) -> names.OwnNames:
        if id(instance) not in own:
            own[id(instance)] = own_names(record_names, instance)
        return own[id(instance)]

    monkeypatch.setattr(plan, "own_names", remembered)
    monkeypatch.setattr(plan, "name_questions", lru_cache(maxsize=None)(lambda t, n: tuple(name_questions(t, n))))


BOARDS = {"addresses": address_boards, "names": name_boards, "pointers": pointer_boards}


@pytest.mark.timeout(3600)
@pytest.mark.parametrize(("kind", "least"), [("addresses", 130_000), ("names", 200_000), ("pointers", 200_000)])
def test_no_harm_is_done_and_nothing_due_is_left(kind: str, least: int, capsys: pytest.CaptureFixture[str]) -> None:
    count = Count(f"route53, {kind}")
    boards = list(BOARDS[kind]())
    for x, others, some in chosen(product(xs(), all_others(), boards)):
        world = World(x, others, some)
        removed = removals(world)
        count.plans += 1
        for chosen_makers in product(*map(world.makers, some.values)):
            makers = dict(zip(some.values, chosen_makers, strict=True))
            count.worlds += 1
            for value, maker in makers.items():
                if value in removed:
                    count.outcomes["values gone"] += 1
                    assert not world.is_harm(value, maker, makers), f"harm: {value} of {maker} in {world}"
                else:
                    assert not world.is_due(value, maker, makers), f"left: {value} of {maker} in {world}"
    count.show(capsys, least)


@pytest.mark.timeout(3600)
def test_second_plan_removes_nothing_of_new_owners(capsys: pytest.CaptureFixture[str]) -> None:
    """In the first plan's world, no other instance is live. The second plan is limited to the first's removals."""
    count = Count("route53, second look")
    alone = Others()
    for x, some in product(xs(), [some for boards in BOARDS.values() for some in boards()]):
        first = removals(World(x, alone, some))
        for others in chosen(all_others() if first else ()):
            if others.living is None and others.other is not None:
                continue
            world = World(x, others, some)
            second = removals(world, first)
            count.plans += 1
            assert second <= first, f"more than at the first look: {second - first} in {world}"
            for chosen_makers in product(*map(world.makers, some.values)):
                makers = dict(zip(some.values, chosen_makers, strict=True))
                count.worlds += 1
                for value in first:
                    maker = makers[value]
                    if value in second:
                        count.outcomes["values gone"] += 1
                        assert not world.is_harm(value, maker, makers), f"harm: {value} of {maker} in {world}"
                    elif maker == X:
                        assert not world.is_due(value, maker, makers), f"left: {value} of {maker} in {world}"
    count.show(capsys, 250_000)


def removals(world: World, only: frozenset[Value] | None = None) -> frozenset[Value]:
    """The plan's removals. ``only`` limits a second plan to the first plan's removals."""
    handled = world.handled
    return _planned(handled, world.board, only, world.others.ask(_question(handled, world.board, only)))


@remembered
def _question(handled: tuple[Body, ...], listed: Board, only: frozenset[Value] | None) -> Question:
    instances = {body.instance_id: body.known for body in handled}
    return plan.question(SETTINGS, instances, listed.snapshot, _limit(only))


@remembered
def _planned(
    handled: tuple[Body, ...], listed: Board, only: frozenset[Value] | None, answer: Answer
) -> frozenset[Value]:
    instances = {body.instance_id: body.known for body in handled}
    findings = plan.plan(SETTINGS, instances, listed.snapshot, answer.living, _limit(only))
    handles = [removal.handle for finding in findings.values() for removal in finding.removals]
    return frozenset((h.record.name, h.record.type, h.value, h.record.set_identifier) for h in handles)


def _limit(only: frozenset[Value] | None) -> dict[Key, set[str]] | None:
    if only is None:
        return None
    limit: dict[Key, set[str]] = {}
    for name, kind, value, identifier in only:
        zone = "ZREVERSE" if kind == "PTR" else "ZFORWARD"
        limit.setdefault((zone, name, kind, identifier), set()).add(value)
    return limit
