"""Every small world of Consul nodes, sessions and locks: the creator of each, and the live agents.

A removal is harm if the node's agent is live, or if its creator is live and could still have the node. A removal is
due if a handled instance undisputedly created the node, and its agents are dead.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from itertools import product
from typing import TYPE_CHECKING, Any, NamedTuple

import pytest

from ec2_decommission.clients.consul import CatalogNode, Key, Member, Session
from ec2_decommission.config import ConsulSettings
from ec2_decommission.steps.consul import plan
from ec2_decommission.steps.consul.observe import SEMAPHORE_FLAGS, Datacenter, Snapshot
from ec2_decommission.templates import Template
from tests.exhaustive.worlds import (
    A1,
    A2,
    ALL,
    AWAY,
    HOME,
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

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from ec2_decommission.live import Question

TEMPLATES = {"tag": "{tag:Name}", "id": "{instance_id}", "none": None}
SETTINGS = {
    (kind, deregister): ConsulSettings(
        "https://consul", ("dc1", "dc2"), Template(text) if text else None, ("locks/",), deregister
    )
    for kind, text in TEMPLATES.items()
    for deregister in (True, False)
}
BRIDGE = "172.17.0.2"  # the address of every container on its bridge
Thing = tuple[str, ...]  # ("node", dc, name), ("session", id), ("key", action, name)


class Content(NamedTuple):
    """The fields of a node."""

    address: str
    lan: str = ""
    wan: str = ""
    meta: tuple[tuple[str, str], ...] = ()

    @property
    def carried(self) -> str | None:
        return dict(self.meta).get("instance_id")


_PLACE = (("account_id", HOME.account_id), ("region", HOME.region))
OF_X, OF_Y = (("instance_id", X),), (("instance_id", Y),)
AT_A1, AT_A2, AT_OUTSIDE = Content(A1), Content(A2), Content(OUTSIDE)
BEHIND_A1 = Content(OUTSIDE, wan=A1)
LAN_A1 = Content(BRIDGE, lan=A1)
ELSEWHERE = Content(A1, meta=(*OF_X, ("availability_zone", "eu-west-1a")))
OTHER_ACCOUNT = Content(A1, meta=(("account_id", AWAY.account_id),))
CONTENTS = (
    AT_A1,
    AT_A2,
    AT_OUTSIDE,
    BEHIND_A1,
    LAN_A1,
    Content(A1, meta=(*OF_X, *_PLACE)),
    Content(A1, meta=OF_Y),
    ELSEWHERE,
    OTHER_ACCOUNT,
)


class Node(NamedTuple):
    """A node of a world.

    Attributes:
        life: the agent's state: "dead", "passing" (according to the leader) or "gossip" (just joined).
        session: none, "release", "delete" (each with a lock) or "semaphore".
    """

    name: str
    content: Content
    life: str = "dead"
    session: str = ""
    dc: str = "dc1"
    server: bool = False

    @property
    def lives(self) -> bool:
        return self.life != "dead"


@dataclass(frozen=True, eq=False)
class Board:
    """The nodes of a world, and the step's readings of them."""

    nodes: tuple[Node, ...]
    snapshot: Snapshot
    long_ended: bool


def boards(kind: str) -> Iterator[Board]:
    """One or two nodes. The first has the name from ``consul.node_name``."""
    own_name = X if kind == "id" else WEB1
    states: list[tuple[str, str]] = [("dead", ""), ("dead", "release"), ("passing", "release")]
    if ALL:
        states += [("passing", ""), ("gossip", "release")]
    first = [Node(own_name, content, *state) for content, state in product(CONTENTS, states)]
    first += [Node(own_name, AT_A1, "dead", session) for session in ("delete", "semaphore")]
    first += [Node(own_name, AT_A1, "gossip", "release")]
    first += [Node(own_name, content, "dead", "release", server=True) for content in (AT_A1, Content(A1, meta=OF_X))]
    second = [
        Node(WEB2, content, life, "release", dc)
        for content, life, dc in product(
            (AT_A1, Content(A2, meta=OF_X), Content(A2, meta=OF_Y), *([LAN_A1] if ALL else [])),
            ("dead", "passing"),
            ("dc1", "dc2"),
        )
        if dc == "dc1" or content == AT_A1
    ]
    for one, two in product((None, *first), (None, *second)):
        nodes = tuple(filter(None, (one, two)))
        for long_ended in (False, True):
            in_doubt = any(n.lives and not n.content.carried for n in nodes)
            if nodes and (not long_ended or in_doubt):
                yield board(nodes, long_ended)


def board(nodes: tuple[Node, ...], long_ended: bool) -> Board:
    datacenters, members = [], {}
    for dc in ("dc1", "dc2"):
        here = [n for n in nodes if n.dc == dc]
        listed, agents, sessions, keys = [], {}, {}, []
        for n in here:
            row = n.content
            listed.append(
                CatalogNode(
                    n.name, f"id-{n.name}", row.address, dc, 1, row.lan, (row.wan,) if row.wan else (), dict(row.meta)
                )
            )
            if n.life != "gossip":
                agents[n.name] = "passing" if n.life == "passing" else "critical"
            members[f"id-{n.name}"] = Member(n.name, f"id-{n.name}", n.life == "gossip", not n.lives, n.server)
            if n.session:
                sessions[n.name] = (Session(session_of(n), n.name, "delete" if n.session == "delete" else "release"),)
                keys += keys_of(n)
        if here:
            datacenters.append(Datacenter(dc, tuple(listed), agents, sessions, tuple(keys)))
    return Board(nodes, Snapshot(tuple(datacenters), members, long_ended=long_ended), long_ended)


def session_of(node: Node) -> str:
    return f"s-{node.name}"


def keys_of(node: Node) -> list[Key]:
    held = session_of(node)
    if node.session == "semaphore":
        return [
            Key(f"locks/s/{held}", 1, flags=SEMAPHORE_FLAGS, session=held),
            Key("locks/s/.lock", 1, flags=SEMAPHORE_FLAGS, session=held),
        ]
    return [Key(f"locks/{node.name}", 1, session=held)]


def xs() -> list[Body]:
    found = [dead(), dead(vpc_known=False), dead(names=(WEB2, WEB1)), dead(recorded=False)]
    return [*found, dead(addresses=())] if ALL else found


def others() -> list[Others]:
    plain = [o for o in all_others() if not o.elastic and not any(a == PUBLIC for _, a in o.interfaces)]
    return [o for o in plain if o.other is None or PUBLIC not in o.other.addresses]


@dataclass(frozen=True)
class World:
    """A world without the creators of its nodes."""

    kind: str
    deregister: bool
    x: Body
    others: Others
    board: Board

    def __str__(self) -> str:
        settings = (
            f"node_name {TEMPLATES[self.kind]}, deregister {self.deregister}, long ended {self.board.long_ended}"
        )
        return f"X: {self.x}; {self.others}; {settings}; nodes {self.board.nodes}"

    def bodies(self) -> tuple[Body, ...]:
        return (self.x, *((self.others.other,) if self.others.other else ()))

    def makers(self, node: Node) -> list[str]:
        """The possible creators of a node: an instance at its own address, or a stranger if not excluded."""
        content = node.content
        if content in (AT_OUTSIDE, BEHIND_A1) and node.name != X:
            return [STRANGER]
        if content == ELSEWHERE:
            return [STRANGER]
        if content.carried:
            return [b.instance_id for b in self.bodies() if b.instance_id == content.carried and b.addresses]
        if node.name == X:
            return [STRANGER if content == OTHER_ACCOUNT else X]
        found = [
            b.instance_id
            for b in self.bodies()
            if {content.address, content.lan} & {*b.addresses}
            and (content != OTHER_ACCOUNT or b.site.place.account_id == AWAY.account_id)
            and may_be_named(self.kind, b, node.name)
        ]
        account = dict(content.meta).get("account_id")
        of_account = any(b.site.place.account_id == account and A1 in b.addresses for b in self.bodies())
        return [*found, *([] if of_account else [STRANGER])]

    def is_harm(self, thing: Thing, node: Node, maker: str) -> bool:
        """Whether removing a thing of the node takes it from an owner who uses it."""
        if node.lives:
            return True
        contender = thing[-1].endswith(f"/{session_of(node)}")
        if thing[:2] == ("key", "delete") and node.session != "delete" and not contender:
            return True  # its session would only release it
        if thing[-1].endswith("/.lock") or (node.server and thing[0] != "node"):
            return True
        if maker == STRANGER:
            return node.content in (ELSEWHERE, OTHER_ACCOUNT) or any(
                self.others.strangers_have(a, {b.site for b in self.bodies() if not b.alive and a in b.addresses})
                for a in (node.content.address, node.content.lan)
            )
        return maker == Y and self.others.living is not None

    def is_due(self, thing: Thing, node: Node, maker: str, makers: Mapping[Node, str]) -> bool:
        """Whether the node provably belongs to a dead instance, and its addresses have no other owner."""
        body = next((b for b in self.bodies() if b.instance_id == maker and not b.alive), None)
        if body is None or node.lives or node.server or (thing[0] == "node" and not self.deregister):
            return False
        if thing[-1].endswith("/.lock") or any(n.lives and m == maker and _is_by_id(n, m) for n, m in makers.items()):
            return False
        if _is_by_id(node, maker):
            return True
        owners = {b.instance_id for b in self.bodies() if {node.content.address, node.content.lan} & {*b.addresses}}
        if any(n.lives and n.content.carried in (None, *owners) for n in makers):
            return False
        near = body.site if body.known.vpc_id else None
        y = self.others.living
        no_name = self.kind == "tag" and y is not None and y.name is None  # so its node may have any
        own = [a for a in (node.content.address, node.content.lan) if a and a != BRIDGE]
        return all(
            a in body.known.addresses
            and not self.others.have(a, near)
            and not (y and a in y.addresses and (may_be_named(self.kind, y, node.name) or no_name))
            for a in own
        )


def _is_by_id(node: Node, instance_id: str) -> bool:
    return node.content.carried == instance_id or (node.name == instance_id and not node.content.carried)


@cache
def may_be_named(kind: str, body: Body, name: str) -> bool:
    """Whether the instance's node can have this name at some time. Without a template, it can have any name."""
    if kind == "none":
        return True
    return name in body.names if kind == "tag" else name == body.instance_id


@cache
def things(node: Node) -> Sequence[Thing]:
    """All removable things of a node."""
    found: list[Thing] = [("node", node.dc, node.name)]
    if node.session:
        found.append(("session", session_of(node)))
        found += [("key", action, key.name) for key in keys_of(node) for action in ("delete", "release")]
    return found


def removals(world: World) -> frozenset[Thing]:
    """The plan's removals, with the step's own queries."""
    handled = tuple(body for body in world.bodies() if not body.alive)
    mode = world.kind, world.deregister
    return _planned(mode, handled, world.board, world.others.ask(_question(mode, handled, world.board)))


@remembered
def _question(mode: tuple[str, bool], handled: tuple[Body, ...], listed: Board) -> Question:
    instances = {body.instance_id: body.known for body in handled}
    return plan.question(SETTINGS[mode], instances, listed.snapshot)


@remembered
def _planned(mode: tuple[str, bool], handled: tuple[Body, ...], listed: Board, answer: Answer) -> frozenset[Thing]:
    instances = {body.instance_id: body.known for body in handled}
    gone: set[Thing] = set()
    for finding in plan.plan(SETTINGS[mode], instances, listed.snapshot, answer.living).values():
        for removal in finding.removals:
            handle: Any = removal.handle
            if handle.key:
                gone.add(("key", removal.action, handle.key.name))
            elif handle.session:
                gone.add(("session", handle.session.session_id))
            else:
                gone.add(("node", handle.datacenter, handle.node.name))
    return frozenset(gone)


@pytest.mark.timeout(3600)
@pytest.mark.parametrize(("kind", "least"), [("tag", 250_000), ("id", 75_000), ("none", 200_000)])
def test_no_harm_is_done_and_nothing_due_is_left(kind: str, least: int, capsys: pytest.CaptureFixture[str]) -> None:
    count = Count(f"consul, node_name {TEMPLATES[kind]}")
    modes = (True, False) if kind == "tag" else (True,)
    for deregister, x, some, listed in chosen(product(modes, xs(), others(), list(boards(kind)))):
        world = World(kind, deregister, x, some, listed)
        removed: frozenset[Thing] | None = None
        for chosen_makers in product(*map(world.makers, listed.nodes)):
            makers = dict(zip(listed.nodes, chosen_makers, strict=True))
            if removed is None:
                removed = removals(world)
                count.plans += 1
            count.worlds += 1
            for node, maker in makers.items():
                mine = things(node)
                gone = [thing for thing in mine if thing in removed]
                count.outcomes["things gone"] += len(gone)
                for thing in gone:
                    assert not world.is_harm(thing, node, maker), f"harm: {thing} of {makers} in {world}"
                for thing in mine:
                    if thing not in removed and (thing[0] != "key" or not any(g[-1] == thing[-1] for g in gone)):
                        assert not world.is_due(thing, node, maker, makers), f"left: {thing} of {makers} in {world}"
    count.show(capsys, least)
