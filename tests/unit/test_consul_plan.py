"""What the Consul step removes, and on what proof: the plan over snapshots, without any server."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import pytest

from ec2_decommission.clients.consul import CatalogNode, Key, Member, Session
from ec2_decommission.clients.ec2 import Interface
from ec2_decommission.config import ConsulSettings
from ec2_decommission.errors import AccessError, DecommissionError, StillAlive, TransientError
from ec2_decommission.instance import Instance
from ec2_decommission.live import Holder, Living, Question
from ec2_decommission.place import Place
from ec2_decommission.steps.base import Finding, Left
from ec2_decommission.steps.consul.observe import SEMAPHORE_FLAGS, Datacenter, Snapshot
from ec2_decommission.steps.consul.plan import LOCK, NODE, SESSION, plan, question
from ec2_decommission.templates import Template

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

A, B, C = (f"i-{digit * 17}" for digit in "abc")
HERE = Place("111111111111", "eu-west-1")
UNNAMED = ConsulSettings("https://consul:8501", lock_prefixes=("locks/",))
BY_TAG = replace(UNNAMED, node_name=Template("{tag:Name}"))
BY_ID = replace(UNNAMED, node_name=Template("{tag:Name}-{instance_id}"))
NODES = replace(UNNAMED, deregister_node=True)
UNREACHABLE = TransientError("no answer")


def instance(instance_id: str = A, *private_ips: str, name: str = "web-1", **more: Any) -> Instance:
    """An instance that was recorded at 10.0.0.5, if nothing else is said."""
    facts = {"account_id": HERE.account_id, "region": HERE.region, "vpc_id": "vpc-1", "tags": {"Name": name}, **more}
    return Instance(instance_id, private_ips=private_ips or ("10.0.0.5",), **facts)


def node(name: str = "web-1", address: str = "10.0.0.5", instance_id: str | None = None, **more: Any) -> CatalogNode:
    meta = {**({"instance_id": instance_id} if instance_id else {}), **more.pop("meta", {})}
    row = {"Node": name}
    return CatalogNode(name, f"id-of-{name}", address, "dc1", 7, meta=meta, document=row, **more)


def session_of(name: str, number: str = "1", behavior: str = "release") -> Session:
    return Session(f"s-{name}-{number}", name, behavior, document={"ID": f"s-{name}-{number}"})


@dataclass
class World:
    """One datacenter. Each node has a session, if it is not among ``idle``, and an agent that is dead, or alive."""

    nodes: Sequence[CatalogNode]
    alive: Sequence[str] = ()
    idle: Sequence[str] = ()
    keys: Sequence[Key] = ()
    documents: Mapping[str, Any] = field(default_factory=dict)
    name: str = "dc1"

    def datacenter(self) -> Datacenter:
        sessions = {n.name.casefold(): (session_of(n.name),) for n in self.nodes if n.name not in self.idle}
        agents = {n.name.casefold(): "passing" if n.name in self.alive else "critical" for n in self.nodes}
        nodes = tuple(replace(n, datacenter=self.name) for n in self.nodes)
        return Datacenter(self.name, nodes, agents, sessions, tuple(self.keys), self.documents)


def snapshot(*worlds: World, members: Sequence[Member] = (), **errors: DecommissionError) -> Snapshot:
    return Snapshot(tuple(world.datacenter() for world in worlds), {m.node_id: m for m in members}, errors)


def living(
    *asked: str, has: Mapping[str, Holder] | None = None, elastic: Sequence[str] = (), fails: bool = False
) -> Living:
    holders = {address: (holder,) for address, holder in (has or {}).items()}
    errors = {HERE: UNREACHABLE} if fails else {}
    return Living(Question(frozenset(asked)), holders, dict.fromkeys(elastic, HERE), {}, errors)


def holder(name: str = "db-9", vpc_id: str = "vpc-1", instance_id: str = C) -> Holder:
    """The interface of a living instance."""
    interface = Interface("eni-1", vpc_id, instance_id)
    return Holder(HERE, interface, Instance(instance_id, tags={"Name": name} if name else {}))


def decide(
    *instances: Instance, world: Snapshot, now: Living | None = None, settings: ConsulSettings = UNNAMED
) -> Mapping[str, Finding]:
    """The plan; without ``now``, everything that is asked is free."""
    batch = {i.instance_id: i for i in instances}
    return plan(settings, batch, world, now or Living(question(settings, batch, world)))


def removals(finding: Finding) -> list[tuple[str, str]]:
    return [(removal.action, removal.target.split()[1]) for removal in finding.removals]


# Whose a node is

WEB_1 = "web-1"
PROVEN = {
    "the meta has the id": (node("any-name", "10.9.9.9", A), {}),
    "the meta has the id, account, region and zone": (
        node(
            instance_id=A,
            meta={"account_id": HERE.account_id, "region": HERE.region, "availability_zone": "eu-west-1b"},
        ),
        {},
    ),
    "a zone that tells no region": (node(instance_id=A, meta={"availability_zone": "rack 7"}), {}),
    "the meta has the id, and the name the id of another": (node(f"web-{B}", instance_id=A), {}),
    "case 22: the name has the id, at an odd address": (node(f"web-1-{A}", "172.17.0.2"), {"settings": BY_ID}),
    "the name has the id in capitals": (node(f"WEB-1-{A.upper()}", "172.17.0.2"), {"settings": BY_ID}),
    "the name has the id and the value that a tag had before": (
        node(f"old-{A}", "172.17.0.2"),
        {"settings": BY_ID, "past_tags": {"Name": ("old",)}},
    ),
    "the name has the id, and the tag's value the id of another": (
        node(f"copy-of-{B}-{A}", "172.17.0.2"),
        {"settings": BY_ID, "tags": {"Name": f"copy-of-{B}"}},
    ),
    "the address is recorded": (node("any-name"), {}),
    "the lan address is recorded": (node("any-name", "10.9.9.9", lan="10.0.0.5"), {}),
    "the address is recorded, in another form": (
        node(address="2001:DB8:0:0::5"),
        {"ipv6_addresses": ("2001:db8::5",)},
    ),
    "the public address is recorded": (node(address="54.1.2.3"), {"public_ips": ("54.1.2.3",)}),
    "a stranger in another VPC has the address and another name": (
        node(),
        {"settings": BY_TAG, "has": {"10.0.0.5": holder("db-9", "vpc-2")}},
    ),
}
KEPT = {
    "the meta has another id, though address and name match": (
        node(instance_id=B),
        {"settings": BY_TAG},
        f"it belongs to {B} by its meta instance_id",
    ),
    "the meta has the id and another account": (
        node(instance_id=A, meta={"account_id": "222222222222"}),
        {},
        f"it is in account 222222222222, but {A} was in 111111111111",
    ),
    "the meta has the id and another region": (
        node(instance_id=A, meta={"region": "us-east-1"}),
        {},
        f"it is in region us-east-1, but {A} was in eu-west-1",
    ),
    "the meta has the id and a zone of another region": (
        node(instance_id=A, meta={"availability_zone": "us-west-2-lax-1a"}),
        {},
        f"it is in region us-west-2, but {A} was in eu-west-1",
    ),
    "the meta has the id and a region, and the instance's is unknown": (
        node(instance_id=A, meta={"region": "eu-west-1"}),
        {"region": None},
        f"it is in region eu-west-1, but {A} was in an unknown one",
    ),
    "the name has the id, and the meta another region": (
        node(f"web-1-{A}", meta={"region": "us-east-1"}),
        {"settings": BY_ID},
        f"it is in region us-east-1, but {A} was in eu-west-1",
    ),
    "the name has the id, and the meta the id of another": (
        node(f"web-1-{A}", instance_id=B),
        {"settings": BY_ID},
        f"it belongs to {B} by its meta instance_id",
    ),
    "the address is recorded, and the meta has another account": (
        node(meta={"account_id": "222222222222"}),
        {},
        f"it is in account 222222222222, but {A} was in 111111111111",
    ),
    "the address is recorded, and the name has the id of another": (
        node(f"web-{B}"),
        {},
        f"it belongs to {B} by its name",
    ),
    "the name alone": (
        node(address="10.0.0.6"),
        {"settings": BY_TAG},
        f"only its name matches {A}; its address was not recorded for the instance",
    ),
    "the name alone, of an instance without any address": (
        node(),
        {"settings": BY_TAG, "private_ips": ()},
        f"only its name matches {A}; its address was not recorded for the instance",
    ),
    "the name of a node that was proven earlier": (
        node("old-name", "10.0.0.6"),
        {"known_as": {"consul": {"node": ("dc1/old-name", "dc2/web-9")}}},
        f"only its name matches {A}; its address was not recorded for the instance",
    ),
    "a living instance has the address": (
        node(),
        {"has": {"10.0.0.5": holder()}},
        f"10.0.0.5 now belongs to {C} in {HERE}",
    ),
    "a living instance has the node's other address": (
        node(address="10.0.0.5", lan="10.0.0.6"),
        {"has": {"10.0.0.6": holder()}},
        f"10.0.0.6 now belongs to {C} in {HERE}",
    ),
    "the address is an Elastic IP that is still allocated": (
        node(address="54.1.2.3"),
        {"public_ips": ("54.1.2.3",), "elastic": ("54.1.2.3",)},
        "54.1.2.3 now belongs to account 111111111111, which still has it allocated as an Elastic IP",
    ),
    "a living instance in another VPC has address and name": (
        node("WEB-1"),
        {"settings": BY_TAG, "has": {"10.0.0.5": holder("web-1", "vpc-2")}},
        f"10.0.0.5 now belongs to {C} in {HERE} (another VPC, the same name)",
    ),
    "a living instance in another VPC has the address, and no template tells its name": (
        node(),
        {"has": {"10.0.0.5": holder("db-9", "vpc-2")}},
        f"10.0.0.5 now belongs to {C} in {HERE} (another VPC, the same name)",
    ),
    "a living instance in another VPC has the address, and its name is unknown": (
        node(),
        {"settings": BY_TAG, "has": {"10.0.0.5": holder("", "vpc-2")}},
        f"10.0.0.5 now belongs to {C} in {HERE} (another VPC, the same name)",
    ),
}


def judged(the_node: CatalogNode, *, settings: ConsulSettings = UNNAMED, **more: Any) -> Finding:
    """The plan for an instance that can have this node only, which has one session."""
    now = {key: more.pop(key) for key in ("has", "elastic", "fails") if key in more}
    dead = replace(instance(), **more)
    world = snapshot(World([the_node]))
    asked = question(settings, {A: dead}, world).addresses
    return decide(dead, world=world, now=living(*asked, **now), settings=settings)[A]


@pytest.mark.parametrize(("the_node", "scene"), PROVEN.values(), ids=PROVEN)
def test_the_node_is_the_instances(the_node: CatalogNode, scene: dict[str, Any]) -> None:
    finding = judged(the_node, **scene)
    assert removals(finding) == [("destroy", f"s-{the_node.name}-1")]
    assert (finding.left, finding.errors, finding.notes) == ((), (), ())


@pytest.mark.parametrize(("the_node", "scene", "reason"), KEPT.values(), ids=KEPT)
def test_the_node_is_not_the_instances(the_node: CatalogNode, scene: dict[str, Any], reason: str) -> None:
    target = f"node {the_node.name} {the_node.address} (dc1)"
    assert judged(the_node, **scene) == Finding(left=(Left(target, reason),))


@pytest.mark.parametrize(
    ("the_node", "scene"),
    [
        (node("any-name", "10.0.0.6"), {}),
        (node("any-name", "host.example.com"), {}),
        (node("any-name", "127.0.0.1"), {"private_ips": ("127.0.0.1",)}),
        # Case 10: an outside machine whose wan address is the instance's.
        (node("any-name", "10.9.9.9", other_addresses=("10.0.0.5",)), {}),
        # A replacement that took the address over.
        (node("any-name", "10.0.0.5", B), {}),
        # A name that a node had in another datacenter.
        (node("web-9", "10.9.9.9"), {"known_as": {"consul": {"node": ("dc2/web-9",)}}}),
    ],
)
def test_unrelated_node_is_not_mentioned(the_node: CatalogNode, scene: dict[str, Any]) -> None:
    assert judged(the_node, **scene) == Finding()


@pytest.mark.parametrize(
    ("the_node", "settings", "proof"),
    [
        (node("x", "10.9.9.9", A), UNNAMED, f"node x has the meta instance_id {A}"),
        (node(f"web-1-{A}"), BY_ID, f"node web-1-{A} has the name from node_name, which contains {A}"),
        (node("x"), UNNAMED, f"node x: 10.0.0.5 was recorded for {A}, and nobody else has it now"),
    ],
)
def test_each_removal_names_its_proof(the_node: CatalogNode, settings: ConsulSettings, proof: str) -> None:
    assert [removal.proof for removal in judged(the_node, settings=settings).removals] == [proof]


def test_unavailable_place_stops_only_removals_that_rely_on_an_address() -> None:
    world = snapshot(World([node("by-id", "10.9.9.9", A), node("by-address")]))
    finding = decide(instance(), world=world, now=living("10.0.0.5", fails=True))[A]
    assert removals(finding) == [("destroy", "s-by-id-1")]
    text = f"node by-address 10.0.0.5 (dc1): cannot ask {HERE} who has it now: no answer"
    assert [str(error) for error in finding.errors] == [text]


def test_node_without_possible_removals_is_not_mentioned() -> None:
    world = snapshot(World([node("by-id", "10.9.9.9", A), node(address="10.0.0.6")], idle=["web-1"]))
    finding = decide(instance(), world=world, settings=BY_TAG)[A]
    assert (removals(finding), finding.left) == ([("destroy", "s-by-id-1")], ())
    world = snapshot(World([node("by-id", "10.9.9.9", A), node()], idle=["web-1"]))
    finding = decide(instance(), world=world, now=living("10.0.0.5", fails=True))[A]
    assert (removals(finding), finding.errors) == ([("destroy", "s-by-id-1")], ())


def test_node_without_possible_removals_needs_no_query() -> None:
    world = snapshot(World([node("by-address")], idle=["by-address"]))
    assert question(UNNAMED, {A: instance()}, world) == Question()
    assert decide(instance(), world=world)[A] == Finding()


@pytest.mark.parametrize(
    ("the_node", "settings", "addresses"),
    [
        (node("any-name", "10.0.0.5", lan="10.9.9.9"), UNNAMED, {"10.0.0.5", "10.9.9.9"}),
        (node("any-name", "10.0.0.5", lan="127.0.0.1"), UNNAMED, {"10.0.0.5"}),
        (node(instance_id=A), UNNAMED, set()),
        (node(instance_id=B), BY_TAG, set()),
        (node(f"web-{B}"), UNNAMED, set()),
        (node(f"web-1-{A}"), BY_ID, set()),
        (node(meta={"region": "us-east-1"}), UNNAMED, set()),
        (node(address="10.9.9.9"), BY_TAG, set()),
    ],
)
def test_query_about_live_instances(the_node: CatalogNode, settings: ConsulSettings, addresses: set[str]) -> None:
    assert question(settings, {A: instance()}, snapshot(World([the_node]))) == Question(frozenset(addresses))


def test_an_unknown_template_value_is_noted() -> None:
    dead = instance(tags={})
    assert decide(dead, world=snapshot(), settings=BY_TAG)[A].notes == (
        f"node_name {{tag:Name}}: tag:Name is not known for {A}",
    )
    past = replace(dead, past_tags={"Name": ("web-1",)})
    assert decide(past, world=snapshot(), settings=BY_TAG)[A] == Finding()


# Two instances, one node


@pytest.mark.parametrize("order", [(A, B), (B, A)])
def test_a_node_goes_with_the_first_whose_address_it_has(order: tuple[str, str]) -> None:
    findings = decide(*map(instance, order), world=snapshot(World([node("x")])))
    assert removals(findings[order[0]]) == [("destroy", "s-x-1")]
    assert findings[order[1]] == Finding(left=(Left("node x 10.0.0.5 (dc1)", f"it is removed with {order[0]}"),))


@pytest.mark.parametrize("order", [(A, B), (B, A)])
def test_a_node_goes_with_the_instance_that_it_is_by_id(order: tuple[str, str]) -> None:
    short = {"i-b": instance("i-b", name="x"), A: instance(A, name="x")}
    # An id of this form is found in no name, so only the template tells it.
    batch = [short["i-b" if one == B else A] for one in order]
    findings = decide(*batch, world=snapshot(World([node("x-i-b")])), settings=BY_ID)
    assert removals(findings["i-b"]) == [("destroy", "s-x-i-b-1")]
    assert findings[A] == Finding(left=(Left("node x-i-b 10.0.0.5 (dc1)", "it is removed with i-b"),))


def test_node_without_possible_removals_belongs_to_no_instance() -> None:
    world = snapshot(World([node("x"), node("y", "10.9.9.9", B)], idle=["x"]))
    findings = decide(instance(A), instance(B), world=world)
    assert findings[A] == Finding()
    assert (removals(findings[B]), findings[B].left) == ([("destroy", "s-y-1")], ())
    world = snapshot(World([node("x"), node("y", "10.9.9.9", B), node("z", "10.9.9.8", A)], idle=["x"]))
    assert [finding.left for finding in decide(instance(A), instance(B), world=world).values()] == [(), ()]


def test_nodes_of_one_name_in_two_datacenters_are_two_nodes() -> None:
    world = snapshot(World([node()]), World([node()], name="dc2"))
    findings = decide(instance(A), instance(B), world=world)
    assert [removal.target for removal in findings[A].removals] == [
        "session s-web-1-1 of web-1 (dc1)",
        "session s-web-1-1 of web-1 (dc2)",
    ]


# What lives

DEAD_BY_ID, DEAD_BY_ADDRESS = node("by-id", "10.9.9.9", A), node("by-address")
LIVE_BY_ID, STRANGER = node("alive", "10.9.9.9", A), node("stranger")
HAS_ITS_ADDRESS = "a live Consul agent in dc1 has its address"
ALIVE = f"the Consul agent of {A} is alive; nothing is removed until it is dead"


def test_live_agent_of_a_node_with_the_id_blocks_all_removals() -> None:
    here = World([LIVE_BY_ID, DEAD_BY_ID, DEAD_BY_ADDRESS, STRANGER], alive=["alive", "stranger"])
    there = World([node("elsewhere", "10.9.9.9", A)], name="dc2")
    for settings in (UNNAMED, NODES):
        finding = decide(instance(), world=snapshot(here, there), settings=settings)[A]
        assert finding.removals == ()
        assert [str(error) for error in finding.errors] == [f"node alive 10.9.9.9 (dc1): {ALIVE}"]
        assert isinstance(finding.errors[0], StillAlive)


def test_a_living_agent_without_sessions_counts_as_well() -> None:
    world = snapshot(World([LIVE_BY_ID, DEAD_BY_ID], alive=["alive"], idle=["alive"]))
    finding = decide(instance(), world=world)[A]
    assert finding.removals == ()
    assert len(finding.errors) == 1


def test_a_living_agent_fails_nothing_if_there_is_nothing_to_remove() -> None:
    namesake = node("web-1", "10.9.9.8")
    world = snapshot(World([LIVE_BY_ID, namesake], alive=["alive"], idle=["alive"]))
    finding = decide(instance(), world=world, settings=BY_TAG)[A]
    assert (finding.removals, finding.errors) == ((), ())


@pytest.mark.parametrize(
    ("member", "lives"),
    [
        (Member("web-1", "id-of-web-1", alive=True, failed=False), True),
        (Member("web-1", "id-of-web-1", alive=False, failed=True), False),
        (Member("web-1", "id-of-another", alive=True, failed=False), False),
    ],
)
def test_gossip_knows_an_agent_before_it_has_a_health_check(member: Member, lives: bool) -> None:
    world = snapshot(World([node(instance_id=A)]), members=[member])
    assert bool(decide(instance(), world=world)[A].errors) == lives


def test_case_18_a_living_stranger_at_the_address_never_blocks_a_node_with_the_id() -> None:
    here, there = World([DEAD_BY_ID]), World([STRANGER], alive=["stranger"], name="dc2")
    both = World([DEAD_BY_ID, STRANGER], alive=["stranger"])
    for world, where in ((snapshot(here, there), "dc2"), (snapshot(both), "dc1")):
        finding = decide(instance(), world=world)[A]
        assert removals(finding) == [("destroy", "s-by-id-1")]
        reason = f"a live Consul agent in {where} has its address"
        assert finding.left == (Left(f"node stranger 10.0.0.5 ({where})", reason),)
        assert finding.errors == ()


def test_a_living_stranger_in_another_datacenter_does_not_block_a_node_with_the_address() -> None:
    world = snapshot(World([DEAD_BY_ADDRESS]), World([STRANGER], alive=["stranger"], name="dc2"))
    finding = decide(instance(), world=world)[A]
    assert removals(finding) == [("destroy", "s-by-address-1")]
    assert [left.target for left in finding.left] == ["node stranger 10.0.0.5 (dc2)"]


def test_in_its_own_datacenter_a_living_agent_has_the_address_of_all_nodes_there() -> None:
    world = World([DEAD_BY_ADDRESS, STRANGER], alive=["stranger"])
    finding = decide(instance(), world=snapshot(world))[A]
    assert (finding.removals, finding.left) == ((), ())
    assert len(finding.errors) == 2
    with_id = replace(world, nodes=[*world.nodes, DEAD_BY_ID])
    finding = decide(instance(), world=snapshot(with_id))[A]
    assert removals(finding) == [("destroy", "s-by-id-1")]
    assert {left.reason for left in finding.left} == {HAS_ITS_ADDRESS}
    assert len(finding.left) == 2


def test_an_agent_that_may_be_the_instances_is_waited_for() -> None:
    finding = decide(instance(), world=snapshot(World([node()], alive=["web-1"])))[A]
    assert (finding.removals, finding.left) == ((), ())
    assert [str(error) for error in finding.errors] == [f"node web-1 10.0.0.5 (dc1): {ALIVE}"]


def test_an_agent_that_lives_long_after_the_instances_end_is_a_strangers() -> None:
    for alive in (["stranger"], ["stranger", "by-address"]):
        world = replace(snapshot(World([DEAD_BY_ADDRESS, STRANGER], alive=alive)), long_ended=True)
        finding = decide(instance(), world=world)[A]
        assert (finding.removals, finding.errors) == ((), ())
        assert [left.reason for left in finding.left] == [HAS_ITS_ADDRESS] * 2
    world = replace(snapshot(World([LIVE_BY_ID], alive=["alive"])), long_ended=True)
    assert len(decide(instance(), world=world)[A].errors) == 1


def test_a_living_stranger_without_sessions_is_not_mentioned() -> None:
    world = snapshot(World([DEAD_BY_ID, STRANGER], alive=["stranger"], idle=["stranger"]))
    finding = decide(instance(), world=world)[A]
    assert removals(finding) == [("destroy", "s-by-id-1")]
    assert (finding.left, finding.errors) == ((), ())


# What goes with a node

MINE = "s-web-1-1"


@pytest.mark.parametrize(
    ("key", "behavior", "action"),
    [
        (Key("locks/a", 5, session=MINE), "release", "release"),
        (Key("locks/a", 5, session=MINE), "delete", "delete"),
        (Key("locks/a", 5, session=MINE, flags=3), "release", "release"),
        # Case 12: the name is a name; nothing resolves it here.
        (Key("locks/../../operator/autopilot/configuration", 5, session=MINE), "release", "release"),
        (Key(f"locks/sem/{MINE}", 5, session=MINE, flags=SEMAPHORE_FLAGS), "release", "delete"),
        (Key(f"locks/sem/{MINE}", 5, flags=SEMAPHORE_FLAGS), "release", "delete"),
        (Key(f"locks/sem/{MINE}", 5, session=MINE), "release", "release"),
        (Key(f"locks/sem/x-{MINE}", 5, session=MINE, flags=SEMAPHORE_FLAGS), "release", "release"),
    ],
)
def test_outcome_for_a_key(key: Key, behavior: str, action: str) -> None:
    world = World([node(instance_id=A)], keys=[key]).datacenter()
    world = replace(world, sessions={"web-1": (session_of("web-1", behavior=behavior),)})
    removed = decide(instance(), world=Snapshot((world,)))[A].removals
    assert [(r.action, r.target) for r in removed] == [
        (action, f"lock {key.name} (dc1)"),
        ("destroy", f"session {MINE} of web-1 (dc1)"),
    ]
    assert removed[0].proof == f"held by session {MINE}; {removed[1].proof}"


@pytest.mark.parametrize(
    "key",
    [
        Key("locks/a", 5, session="s-of-another"),
        Key("locks/a", 5),
        Key(f"locks/plain/{MINE}", 5),
        Key(f"locks/sem/{MINE}", 5, session="s-of-another", flags=SEMAPHORE_FLAGS),
        Key("locks/sem/s-of-another", 5, flags=SEMAPHORE_FLAGS),
    ],
)
def test_a_key_of_another_session_is_not_touched(key: Key) -> None:
    world = snapshot(World([node(instance_id=A)], keys=[key]))
    assert removals(decide(instance(), world=world)[A]) == [("destroy", MINE)]


def test_the_lock_key_of_a_semaphore_stays() -> None:
    key = Key("locks/sem/.lock", 5, session=MINE, flags=SEMAPHORE_FLAGS)
    finding = decide(instance(), world=snapshot(World([node(instance_id=A)], keys=[key])))[A]
    assert removals(finding) == [("destroy", MINE)]
    assert finding.left == (
        Left("lock locks/sem/.lock (dc1)", "it is shared with the other contenders of a semaphore"),
    )
    plain = replace(key, flags=0)
    finding = decide(instance(), world=snapshot(World([node(instance_id=A)], keys=[plain])))[A]
    assert removals(finding) == [("release", "locks/sem/.lock"), ("destroy", MINE)]


def test_a_node_without_sessions_is_nothing_to_remove_unless_nodes_are_deregistered() -> None:
    world = snapshot(World([node(instance_id=A)], idle=["web-1"]))
    assert decide(instance(), world=world)[A] == Finding()
    assert removals(decide(instance(), world=world, settings=NODES)[A]) == [("deregister", "web-1")]


def test_audit_gets_complete_objects() -> None:
    key = Key("locks/a", 5, session=MINE, document={"Key": "locks/a"})
    whole = {"Node": {"Node": "web-1"}, "Services": [{"ID": "www"}], "Checks": []}
    world = World([node(instance_id=A)], keys=[key], documents={"web-1": whole})
    removed = decide(instance(), world=snapshot(world), settings=NODES)[A].removals
    assert [(r.kind, r.object) for r in removed] == [
        (LOCK, {"datacenter": "dc1", "key": {"Key": "locks/a"}}),
        (SESSION, {"datacenter": "dc1", "session": {"ID": MINE}}),
        (NODE, {"datacenter": "dc1", "node": whole}),
    ]


def test_node_that_cannot_be_audited_in_full_stays() -> None:
    missing = AccessError("the token lacks service:read")
    world = World([node(instance_id=A)], documents={"web-1": missing})
    finding = decide(instance(), world=snapshot(world), settings=NODES)[A]
    assert removals(finding) == [("destroy", MINE)]
    assert [str(e) for e in finding.errors] == [
        "node web-1 10.0.0.5 (dc1) cannot be written to the audit: the token lacks service:read"
    ]


def test_sessions_on_a_server_may_belong_to_others() -> None:
    """A session that is made through a load balancer gets the node of the server that took the request."""
    server = Member("web-1", "id-of-web-1", alive=False, failed=True, server=True)
    for settings in (UNNAMED, NODES):
        finding = decide(
            instance(), world=snapshot(World([node(instance_id=A)]), members=[server]), settings=settings
        )[A]
        assert finding.removals == ()
        assert finding.left[0].reason == "it is a Consul server, and other machines may have created its sessions"
    client = replace(server, server=False)
    assert removals(decide(instance(), world=snapshot(World([node(instance_id=A)]), members=[client]))[A])
    idle = snapshot(World([node(instance_id=A)], idle=["web-1"]), members=[server])
    assert removals(decide(instance(), world=idle, settings=NODES)[A]) == [("deregister", "web-1")]


def test_node_names_are_compared_without_letter_case() -> None:
    world = World([node("WEB-1", instance_id=A)]).datacenter()
    assert world.sessions.keys() == {"web-1"}
    assert removals(decide(instance(), world=Snapshot((world,)))[A]) == [("destroy", "s-WEB-1-1")]


# Several datacenters


def test_a_datacenter_that_fails_fails_only_itself() -> None:
    world = snapshot(World([node(instance_id=A)]), dc2=UNREACHABLE)
    findings = decide(instance(A), instance(B, "10.0.0.6"), world=world)
    assert removals(findings[A]) == [("destroy", MINE)]
    assert [str(e) for finding in findings.values() for e in finding.errors] == ["no answer", "no answer"]
