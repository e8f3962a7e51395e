"""Every small world of Chef nodes and clients: the creator of each, and whether it is in use.

A removal is harm if a live instance or a stranger uses the thing. A removal is due if a handled instance undisputedly
created the thing. A node that never converged, and a client without a node, do not show their creator: a stranger's
is disputed if the dead instance could have created it.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from itertools import product
from typing import TYPE_CHECKING, Any

import pytest

from ec2_decommission.clients.chef import ChefClient, ChefNode
from ec2_decommission.config import ChefSettings
from ec2_decommission.steps.chef import plan
from ec2_decommission.steps.chef.observe import Snapshot
from ec2_decommission.templates import Template
from tests.exhaustive.worlds import (
    A1,
    A2,
    ALL,
    AWAY,
    FAR,
    HOME,
    OUTSIDE,
    SAME,
    STRANGER,
    WEB1,
    WEB2,
    Answer,
    Body,
    Count,
    Others,
    X,
    Y,
    alive,
    chosen,
    dead,
    remembered,
)

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from ec2_decommission.live import Question

LONG1 = f"{WEB1}.example.com"
TEMPLATES = {"tag": "{tag:Name}", "id": "{instance_id}", "none": None}
SETTINGS = {
    kind: ChefSettings("https://chef", "decommission", Template(text) if text else None)
    for kind, text in TEMPLATES.items()
}
Thing = tuple[str, str]  # "node" or "client", and its name
Makers = dict[Thing, str]

# A node's fields, and its possible creators. "by name" means X, Y or a stranger, according to its name.
CONTENTS: Mapping[str, dict[str, Any]] = {
    "fresh": {},
    "of x": {
        "instance_id": X,
        "account_id": HOME.account_id,
        "availability_zone": "us-east-1a",
        "private_ips": (A1,),
    },
    "of x elsewhere": {"instance_id": X, "region": AWAY.region, "ohai_time": 1.0},
    "of x in another account": {"instance_id": X, "account_id": AWAY.account_id, "ohai_time": 1.0},
    "of y": {"instance_id": Y, "private_ips": (A2,), "ohai_time": 1.0},
    "at A1": {"ipaddress": A1, "ohai_time": 1.0},
    "at A2": {"ipaddress": A2, "ohai_time": 1.0},
    "outside": {"ipaddress": OUTSIDE, "ohai_time": 1.0},
    "without address": {"ohai_time": 1.0},
}
IDS = {"of x": X, "of y": Y}


@dataclass(frozen=True, eq=False)
class Board:
    """The nodes with their fields, and the clients with their privileges."""

    nodes: Mapping[str, str]
    clients: Mapping[str, str]
    hidden: int
    snapshot: Snapshot


def boards(kind: str) -> Iterator[Board]:
    """Nodes and clients under the name that ``chef.node_name`` gives, its long form, and another one."""
    own_name = X if kind == "id" else WEB1
    at_own = [None, *CONTENTS] if ALL else [None, *(c for c in CONTENTS if c != "of x in another account")]
    at_long, at_second = [None, "of x", "of y", "outside"], [None, "fresh", "of x"]
    flags = [None, "", "validator", "admin"] if ALL else [None, "", "validator"]
    for own, long, second in product(at_own, at_long, at_second):
        nodes = {n: c for n, c in ((own_name, own), (LONG1, long), (WEB2, second)) if c}
        for at, at_l, at_s, hidden in product(flags, (None, ""), (None, ""), (0, 1)):
            clients = {n: f for n, f in ((own_name, at), (LONG1, at_l), (WEB2, at_s)) if f is not None}
            if (nodes or clients) and (not hidden or (at == "" and not at_l and not at_s)):
                yield board(nodes, clients, hidden)


def board(nodes: Mapping[str, str], clients: Mapping[str, str], hidden: int) -> Board:
    snapshot = Snapshot(
        {name: ChefNode(name, **CONTENTS[content]) for name, content in nodes.items()},
        {name: ChefClient(name, flag == "validator", flag == "admin") for name, flag in clients.items()},
        hidden,
    )
    return Board(nodes, clients, hidden, snapshot)


def xs() -> list[Body]:
    found = [
        dead(names=("Web-1",)),
        dead(names=(WEB2, WEB1)),
        dead(tags_known=False),
        dead(addresses=()),
        dead(recorded=False),
    ]
    earlier = {"chef": {"node": ("WEB-2",), "client": (WEB2,)}}
    return [*found, dead(known_as=earlier), *([dead(tags_known=False, known_as=earlier)] if ALL else [])]


def others() -> list[Others]:
    found = [Others()]
    for site, name, address in product((SAME, FAR), (WEB1, WEB2, None), (A2, A1)):
        if (site, address) != (SAME, A1) and (ALL or address == A2 or name == WEB1):
            found.append(Others(alive(site, name, (address,))))
    found += [
        Others(dead(Y, site, (name,), (A2,))) for site in (SAME, FAR) for name in (WEB1, WEB2) if ALL or site == SAME
    ]
    return [*found, Others(alive(FAR, WEB1, (A2,)), silent=AWAY), *([Others(silent=HOME)] if ALL else [])]


@dataclass(frozen=True)
class World:
    """A world without the creators of its things."""

    kind: str
    x: Body
    others: Others
    board: Board

    def __str__(self) -> str:
        nodes, clients = dict(self.board.nodes), dict(self.board.clients)
        return (
            f"X: {self.x}; {self.others}; {self.kind}; nodes {nodes}, clients {clients}, hidden {self.board.hidden}"
        )

    def bodies(self) -> tuple[Body, ...]:
        return (self.x, *((self.others.other,) if self.others.other else ()))

    def everything(self) -> Iterator[Makers]:
        """Every combination of possible creators."""
        nodes = [("node", name) for name in self.board.nodes]
        clients = [("client", name) for name in self.board.clients]
        for makers in product(*(self.makers_of_node(name) for _, name in nodes)):
            of_nodes = dict(zip(nodes, makers, strict=True))
            for more in product(*(self.makers_of_client(name, of_nodes) for _, name in clients)):
                yield of_nodes | dict(zip(clients, more, strict=True))

    # Possible creators

    def makers_of_node(self, name: str) -> list[str]:
        content = self.board.nodes[name]
        named = [b.instance_id for b in self.bodies() if b.addresses and may_be_named(self.kind, b, name)]
        match content:
            case "of x":
                return [*([X] if self.x.addresses else []), *([STRANGER] if name != X else [])]
            case "of y":
                return [Y] if self.others.other else []
            case "at A1" | "at A2":
                return [b.instance_id for b in self.bodies() if content[3:] in b.addresses and b.instance_id in named]
            case "fresh":
                return named if name == X else [*named, STRANGER]
            case "outside" | "without address":
                return named if name == X else [STRANGER]  # the address of a container bridge
        return [STRANGER]

    def makers_of_client(self, name: str, makers: Makers) -> list[str]:
        if self.board.clients[name]:
            return [STRANGER]
        own = [
            b.instance_id
            for b in self.bodies()
            if b.addresses and (may_be_named(self.kind, b, name) or makers.get(("node", name)) == b.instance_id)
        ]
        return own if name == X else [*own, STRANGER]

    # Harm

    def is_harm(self, thing: Thing, makers: Makers) -> bool:
        """Whether removing the thing takes it from an owner who uses it."""
        maker = makers[thing]
        if maker == Y and self.others.living:
            return True
        if maker != STRANGER:
            return False
        what, name = thing
        if what == "node":
            return self._is_used_node(name)
        if self.board.clients[name]:
            return True
        return self._is_used_client(name, makers)

    def _is_used_node(self, name: str) -> bool:
        """Whether a stranger's node appears to be in use."""
        content = self.board.nodes[name]
        if content == "of x":
            return False  # a creator who writes another instance's id into a node gives the node away
        return content != "fresh" or not self._a_dead_one_could_have(name)

    def _is_used_client(self, name: str, makers: Makers) -> bool:
        """Whether a stranger's client is in use: it has a node, or no dead instance could have created it."""
        for other, content in self.board.nodes.items():
            mine = other == name or (alike(other, name) and other not in self.board.clients)
            if mine and makers["node", other] == STRANGER and content not in ("of x", "fresh"):
                return True
        if self._a_dead_one_could_have(name):
            return False
        same = self.board.nodes.get(name)
        if same not in ("of x", "of y") or (same == "of y" and self.others.living):
            return True
        # Another machine's client, after which somebody has named a node with the id. The true node tells.
        return any(c == same and makers["node", n] != STRANGER for n, c in self.board.nodes.items() if n != name)

    def _a_dead_one_could_have(self, name: str) -> bool:
        gone = (b for b in self.bodies() if not b.alive and b.addresses)
        recorded = {n.lower() for kind in ("node", "client") for n in self.x.known.names("chef", kind)}
        return name.lower() in recorded or any(may_be_named(self.kind, b, name) for b in gone)

    # Completeness

    def is_due(self, thing: Thing, makers: Makers) -> bool:
        """Whether the thing provably belongs to a dead instance, and is not in use."""
        what, name = thing
        maker = makers[thing]
        body = next((b for b in self.bodies() if b.instance_id == maker and not b.alive), None)
        if body is None or self.others.silent:
            return False
        by_id = [n for n, c in self.board.nodes.items() if IDS.get(c) == maker or (self.kind == "id" and n == maker)]
        if what == "node" and name in by_id:
            return True
        if what == "client" and self.kind == "id" and name == maker:
            content = self.board.nodes.get(name, "fresh")
            return IDS.get(content) == maker or content in ("fresh", "outside", "without address")
        y = self.others.living
        if y and y.name and alike(y.name, name):
            return False
        if what == "client" and self._disputed_client(name, makers):
            return False
        if what == "client" and by_id == [name]:
            return True
        given = self.kind == "tag" and body.known.ran and name.lower() in {n.lower() for n in body.names}
        return bool(given and body.known.tags and not by_id and not self.board.hidden)

    def _disputed_client(self, name: str, makers: Makers) -> bool:
        """Whether the client might belong to a node that is not provably the instance's."""
        mine = (n for n in self.board.nodes if makers["node", n] == makers["client", name])
        undisputed = {n for n in mine if self.is_due(("node", n), makers)}
        return any(alike(n, name) and n not in undisputed for n in self.board.nodes)


@cache
def may_be_named(kind: str, body: Body, name: str) -> bool:
    """Whether the instance's node can have this name at some time: its Name tag, in short or long form, or its id."""
    if kind == "id":
        return name == body.instance_id
    names = body.names if body.instance_id == X else {body.name}
    given = {n.lower() for n in names if n}
    return name.lower() in given or (kind == "none" and name.lower().split(".")[0] in given)


@cache
def alike(one: str, other: str) -> bool:
    """Whether the first labels are equal."""
    return one.lower().split(".")[0] == other.lower().split(".")[0]


def removals(world: World) -> frozenset[Thing]:
    """The plan's removals, with the step's own queries."""
    handled = tuple(body for body in world.bodies() if not body.alive)
    answer = world.others.ask(_question(world.kind, handled, world.board))
    return _planned(world.kind, handled, world.board, answer)


@remembered
def _question(kind: str, handled: tuple[Body, ...], listed: Board) -> Question:
    instances = {body.instance_id: body.known for body in handled}
    return plan.question(SETTINGS[kind], instances, listed.snapshot)


@remembered
def _planned(kind: str, handled: tuple[Body, ...], listed: Board, answer: Answer) -> frozenset[Thing]:
    instances = {body.instance_id: body.known for body in handled}
    findings = plan.plan(SETTINGS[kind], instances, listed.snapshot, answer.living)
    kinds = {"chef_node": "node", "chef_client": "client"}
    return frozenset((kinds[r.kind], r.handle) for finding in findings.values() for r in finding.removals)


@pytest.mark.timeout(3600)
@pytest.mark.parametrize(("kind", "least"), [("tag", 500_000), ("id", 150_000), ("none", 750_000)])
def test_no_harm_is_done_and_nothing_due_is_left(kind: str, least: int, capsys: pytest.CaptureFixture[str]) -> None:
    count = Count(f"chef, node_name {TEMPLATES[kind]}")
    for x, some, listed in chosen(product(xs(), others(), list(boards(kind)))):
        world = World(kind, x, some, listed)
        removed: frozenset[Thing] | None = None
        for makers in world.everything():
            if removed is None:
                removed = removals(world)
                count.plans += 1
            count.worlds += 1
            for thing in makers:
                if thing in removed:
                    count.outcomes["things gone"] += 1
                    assert not world.is_harm(thing, makers), f"harm: {thing} of {makers} in {world}"
                else:
                    assert not world.is_due(thing, makers), f"left: {thing} of {makers} in {world}"
    count.show(capsys, least)
