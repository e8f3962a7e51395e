"""What the Chef step deletes, and on what proof: snapshots of a server, and the plan for each."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pytest

from ec2_decommission.clients.chef import ChefClient, ChefNode, NodeSearch
from ec2_decommission.config import ChefSettings
from ec2_decommission.errors import AccessError, DecommissionError, TransientError
from ec2_decommission.instance import Instance
from ec2_decommission.live import Living, Question
from ec2_decommission.place import Place
from ec2_decommission.steps.chef.identify import identify
from ec2_decommission.steps.chef.observe import Snapshot
from ec2_decommission.steps.chef.plan import alike, plan, question
from ec2_decommission.templates import Template

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from ec2_decommission.steps.base import Finding

A, B, V = "i-0aaaaaaaaaaaaaaaa", "i-0bbbbbbbbbbbbbbbb", "i-0eeeeeeeeeeeeeeee"
HERE = Place("111111111111", "eu-west-1")
ADDRESS = "10.0.0.5"
MINUTE_AGO = 1.7e9


def chef(node_name: str | None = "{tag:Name}", **settings: Any) -> ChefSettings:
    template = Template(node_name) if node_name else None
    return ChefSettings("https://chef", "Decommission", node_name=template, **settings)


def instance(instance_id: str = A, name: str | None = "web-1", **facts: Any) -> Instance:
    facts = {
        "account_id": HERE.account_id,
        "region": HERE.region,
        "ran": True,
        "private_ips": (ADDRESS,),
        "tags": {"Name": name} if name else {},
        **facts,
    }
    return Instance(instance_id, **facts)


def known_as(node: Sequence[str] = (), client: Sequence[str] = ()) -> dict[str, Any]:
    return {"chef": {"node": tuple(node), "client": tuple(client)}}


def node(name: str = "web-1", instance_id: str | None = A, **data: Any) -> ChefNode:
    return ChefNode(name, instance_id, **data)


def bare(name: str = "web-1", **data: Any) -> ChefNode:
    """A node without ec2 data."""
    return ChefNode(name, None, **data)


def client(name: str = "web-1", *, validator: bool = False, admin: bool = False) -> ChefClient:
    return ChefClient(name, validator, admin)


def answer(asked: Question, living: Iterable[Instance], unasked: DecommissionError | None = None) -> Living:
    """What EC2 would say."""
    bearers = {
        (template, name): found
        for template, name in asked.names
        if (found := tuple(i for i in living if (template.render(i) or "").lower() == name))
    }
    return Living(asked, bearers=bearers, errors={Place("222222222222", "eu-west-1"): unasked} if unasked else {})


BY_NAME = chef()


@dataclass(frozen=True)
class World:
    """A batch of dead instances, and what there is."""

    dead: Sequence[Instance] = (instance(),)
    nodes: Sequence[ChefNode] = ()
    clients: Sequence[ChefClient] = ()
    living: Sequence[Instance] = ()
    settings: ChefSettings = BY_NAME
    unasked: DecommissionError | None = None
    unreadable: tuple[str, ...] = ()
    hidden: int = 0

    def plan(self) -> dict[str, Finding]:
        refused = AccessError("may not read it")
        snapshot = Snapshot(
            {n.name: refused if f"node {n.name}" in self.unreadable else n for n in self.nodes},
            {c.name: refused if f"client {c.name}" in self.unreadable else c for c in self.clients},
            self.hidden,
        )
        dead = {i.instance_id: i for i in self.dead}
        living = answer(question(self.settings, dead, snapshot), self.living, self.unasked)
        return plan(self.settings, dead, snapshot, living)

    def finding(self) -> Finding:
        return self.plan()[self.dead[0].instance_id]


def removals(finding: Finding) -> list[str]:
    return [removal.target for removal in finding.removals]


def left(finding: Finding) -> dict[str, str]:
    return {thing.target: thing.reason for thing in finding.left}


BOTH = ["client web-1", "node web-1"]
BY_ID = "node-{instance_id}"
FQDN = "web-1.example.com"

# What goes, and in what order: a client before its node.
GOES: dict[str, tuple[World, list[str]]] = {
    "node and client by id": (World(nodes=[node()], clients=[client()]), BOTH),
    "by id, although nothing was recorded": (
        World([instance(ran=False, name=None, private_ips=())], [node()], [client()], settings=chef(None)),
        BOTH,
    ),
    "by id, with account, region, zone and DNS names of the instance": (
        World(
            nodes=[
                node(
                    account_id=HERE.account_id,
                    region=HERE.region,
                    availability_zone="eu-west-1b",
                    private_dns_names=("ip-10-0-0-5.eu-west-1.compute.internal",),
                    public_dns_names=("ec2-54-7-8-9.eu-west-1.compute.amazonaws.com",),
                )
            ]
        ),
        ["node web-1"],
    ),
    "a name with the id in it": (
        World([instance(ran=False)], [bare(f"node-{A}")], [client(f"node-{A}")], settings=chef(BY_ID)),
        [f"client node-{A}", f"node node-{A}"],
    ),
    "a client whose name has the id in it, without a node, and a place that cannot be asked": (
        World(
            [instance(ran=False)],
            clients=[client(f"node-{A}")],
            settings=chef(BY_ID),
            unasked=TransientError("no answer"),
        ),
        [f"client node-{A}"],
    ),
    "a client whose name has the id in it, beside a node that has only the first label of it": (
        World(nodes=[bare(A)], clients=[client(f"{A}.example")], settings=chef("{instance_id}.example")),
        [f"client {A}.example"],
    ),
    "a node without ec2 data by name, at a recorded address": (
        World(nodes=[bare(ipaddress=ADDRESS)], clients=[client()]),
        BOTH,
    ),
    "a node without ec2 data that never converged": (World(nodes=[bare()], clients=[client()]), BOTH),
    "a node that has no id any more, under a name that it had earlier": (
        World([instance(name=None, known_as=known_as(["web-1"], ["web-1"]))], [bare()], [client()]),
        BOTH,
    ),
    "a node under a name that the tag gave earlier": (
        World([instance(name="new", past_tags={"Name": ("web-1",)})], [bare()], [client()]),
        BOTH,
    ),
    "a client without a node": (World(clients=[client()]), ["client web-1"]),
    "a client without a node, recorded, without node_name": (
        World([instance(known_as=known_as(client=["web-1"]))], clients=[client()], settings=chef(None)),
        ["client web-1"],
    ),
    "case 21: tag WEB-1, node and client web-1, by id": (
        World([instance(name="WEB-1")], [node()], [client()]),
        BOTH,
    ),
    "case 21: tag WEB-1, node and client web-1, by name": (
        World([instance(name="WEB-1")], [bare()], [client()]),
        BOTH,
    ),
    "case 21: tag web-1, node and client WEB-1, by name": (
        World(nodes=[bare("WEB-1")], clients=[client("WEB-1")]),
        ["client WEB-1", "node WEB-1"],
    ),
    "case 21: tag web-1, client WEB-1 without a node": (World(clients=[client("WEB-1")]), ["client WEB-1"]),
    "case 21: a name with the id in it, in other letters": (
        World([instance(ran=False)], [bare(f"Node-{A}")], [client(f"Node-{A}")], settings=chef(BY_ID)),
        [f"client Node-{A}", f"node Node-{A}"],
    ),
    "case 21: one node by id, another by name in other letters": (
        World(nodes=[node(), bare("WEB-1")], clients=[client()]),
        ["client web-1", "node web-1", "node WEB-1"],
    ),
    "case 21: the same the other way round": (
        World([instance(name="WEB-1")], [node("WEB-1"), bare()], [client("WEB-1")]),
        ["client WEB-1", "node WEB-1", "node web-1"],
    ),
    "case 21: several nodes carry the id, in different letters": (
        World([instance(name=None)], [node("WEB-1"), node()], [client()], settings=chef(None)),
        ["client web-1", "node WEB-1", "node web-1"],
    ),
    "case 21: several nodes carry the id: the client under the name of node_name, in other letters": (
        World(nodes=[node("WEB-1"), node("other")], clients=[client("WEB-1")]),
        ["client WEB-1", "node WEB-1", "node other"],
    ),
    "case 21: a client in another letter case than its node": (
        World([instance(name=None, ran=False)], [node()], [client("WEB-1")], settings=chef(None)),
        ["client WEB-1", "node web-1"],
    ),
    "case 21: the same the other way round, without a record": (
        World([instance(name=None, ran=False)], [node("WEB-1")], [client()], settings=chef(None)),
        ["client web-1", "node WEB-1"],
    ),
    "case 21: a node under its FQDN, its client under the short name": (
        World([instance(name="WEB-1")], [node(FQDN)], [client()]),
        ["client web-1", f"node {FQDN}"],
    ),
    "case 21: a node under the short name, its client under the FQDN": (
        World(nodes=[node()], clients=[client(FQDN)], settings=chef("{tag:Name}.example.com")),
        [f"client {FQDN}", "node web-1"],
    ),
    "several nodes carry the id: the client under the name of node_name": (
        World(nodes=[node(), node("other")], clients=[client()]),
        ["client web-1", "node other", "node web-1"],
    ),
    "several nodes carry the id: the client that was recorded": (
        World(
            [instance(known_as=known_as(client=["web-1"]))],
            [node(), node("other")],
            [client()],
            settings=chef(None),
        ),
        ["client web-1", "node other", "node web-1"],
    ),
    "a stranger's node has the same first label in another domain": (
        World(nodes=[node(FQDN), bare("web-1.example.net")], clients=[client(FQDN), client("web-1.example.net")]),
        [f"client {FQDN}", f"node {FQDN}"],
    ),
    "a stranger's node has the same first label in another domain, and no client": (
        World(nodes=[node(FQDN), bare("web-1.example.net")], clients=[client(FQDN)]),
        [f"client {FQDN}", f"node {FQDN}"],
    ),
    "a stranger's node under the FQDN has a client of its own": (
        World(nodes=[node(), node(FQDN, B)], clients=[client(), client(FQDN)]),
        BOTH,
    ),
    "a dead instance's node has the FQDN": (
        World([instance(), instance(V)], [node(), node(FQDN, V)], [client()]),
        BOTH,
    ),
    "a living instance has another name": (
        World(nodes=[node()], clients=[client()], living=[instance(B, "web-2")]),
        BOTH,
    ),
    "without delete_client": (
        World(nodes=[node()], clients=[client()], settings=chef(delete_client=False)),
        ["node web-1"],
    ),
}


@pytest.mark.parametrize(("world", "expected"), GOES.values(), ids=GOES)
def test_removals(world: World, expected: list[str]) -> None:
    finding = world.finding()
    assert removals(finding) == expected
    assert finding.errors == ()


# What stays: the things that go all the same, and a part of the reason for each that stays.
STAYS: dict[str, tuple[World, list[str], dict[str, str]]] = {
    "nothing is there": (World(), [], {}),
    "a stranger's client has the same first label in another domain": (
        World([instance(name=FQDN)], [node(FQDN)], [client("web-1.example.net")]),
        [f"node {FQDN}"],
        {},
    ),
    "a stranger's client has the instance's name as its first label": (World(clients=[client(FQDN)]), [], {}),
    # A node by id
    "case 4: a node in another region": (
        World(nodes=[node(region="us-west-2", ohai_time=MINUTE_AGO)], clients=[client()]),
        [],
        {"node web-1": "it is in region us-west-2, but", "client web-1": "not proven to be"},
    ),
    "a node in another region's zone": (
        World(nodes=[node(availability_zone="us-west-2-lax-1a")]),
        [],
        {"node web-1": "it is in region us-west-2"},
    ),
    "a node with another region's private DNS name": (
        World(nodes=[node(private_dns_names=("ip-10-0-0-5.ec2.internal",))]),
        [],
        {"node web-1": "it is in region us-east-1"},
    ),
    "a node with another region's public DNS name": (
        World(nodes=[node(public_dns_names=("ec2-1-2-3-4.compute-1.amazonaws.com",))]),
        [],
        {"node web-1": "it is in region us-east-1"},
    ),
    "a node in another account": (
        World(nodes=[node(account_id="222222222222")]),
        [],
        {"node web-1": "it is in account 222222222222, but"},
    ),
    "a name with the id in it, and another account": (
        World(nodes=[bare(f"node-{A}", account_id="222222222222")], settings=chef(BY_ID)),
        [],
        {f"node node-{A}": "it is in account 222222222222"},
    ),
    "a name with the id in it, and another id": (
        World(nodes=[node(f"node-{A}", B)], clients=[client(f"node-{A}")], settings=chef(BY_ID)),
        [],
        {f"node node-{A}": f"belongs to {B}", f"client node-{A}": f"belongs to {B}"},
    ),
    # A node by name
    "a replacement's node under the same name": (
        World(nodes=[node(instance_id=B)], clients=[client()], living=[instance(B)]),
        [],
        {"node web-1": f"belongs to {B}", "client web-1": f"node web-1 may own it, and belongs to {B}"},
    ),
    "case 2: a launch that failed": (
        World([instance(ran=False, private_ips=())], [bare(ipaddress=ADDRESS, ohai_time=MINUTE_AGO)], [client()]),
        [],
        {"node web-1": "never recorded as running", "client web-1": "not proven to be"},
    ),
    "case 2: a launch that failed, and a client without a node": (
        World([instance(ran=False, private_ips=())], clients=[client()]),
        [],
        {"client web-1": "never recorded as running"},
    ),
    "a node of a machine outside EC2": (
        World(nodes=[bare(ipaddress="192.168.77.10", ohai_time=MINUTE_AGO)], clients=[client()]),
        [],
        {"node web-1": "its address 192.168.77.10 is not recorded", "client web-1": "not proven to be"},
    ),
    "a node with an address, of an instance without one": (
        World([instance(private_ips=())], [bare(ipaddress=ADDRESS)]),
        [],
        {"node web-1": f"its address {ADDRESS} is not recorded"},
    ),
    "a node that converged, without an address": (
        World(nodes=[bare(ohai_time=MINUTE_AGO)]),
        [],
        {"node web-1": "its address (none) is not recorded"},
    ),
    "a node without ec2 data in another region": (
        World(nodes=[bare(region="us-west-2")]),
        [],
        {"node web-1": "it is in region us-west-2"},
    ),
    "a node without ec2 data, and no node_name": (
        World([instance(known_as=known_as(["web-1"], ["web-1"]))], [bare()], [client()], settings=chef(None)),
        [],
        {"node web-1": "without chef.node_name its owner is unknown", "client web-1": "not proven to be"},
    ),
    "a living instance has the name of a node without ec2 data": (
        World(nodes=[bare()], clients=[client()], living=[instance(B, "Web-1")]),
        [],
        {"node web-1": f"live instance {B} in {HERE} has this name", "client web-1": "not proven to be"},
    ),
    "a node of another name is the instance's": (
        World(nodes=[node("ip-10-0-0-5"), bare()], clients=[client()]),
        ["node ip-10-0-0-5"],
        {"node web-1": f"{A} is node ip-10-0-0-5", "client web-1": "not proven to be"},
    ),
    "a node of another name is the instance's, and there is only a client": (
        World(nodes=[node("ip-10-0-0-5")], clients=[client()]),
        ["node ip-10-0-0-5"],
        {"client web-1": f"{A} is node ip-10-0-0-5"},
    ),
    "the short name of the instance's node": (
        World(nodes=[node(FQDN), bare()], clients=[client(FQDN)]),
        [f"node {FQDN}"],
        {"node web-1": f"{A} is node {FQDN}", f"client {FQDN}": "node web-1 may own it"},
    ),
    # A client that nothing protects but its rank
    "the function's own client": (
        World(nodes=[node("DECOMMISSION")], clients=[client("DECOMMISSION")]),
        ["node DECOMMISSION"],
        {"client DECOMMISSION": "this function uses"},
    ),
    "the organization's validator": (
        World([instance(name="acme-validator")], clients=[client("acme-validator")]),
        [],
        {"client acme-validator": "the organization's own"},
    ),
    "the organization's web client": (
        World(nodes=[node("chef-webui")], clients=[client("chef-webui")]),
        ["node chef-webui"],
        {"client chef-webui": "the organization's own"},
    ),
    "case 8: a validator under a name of its own": (
        World([instance(name="acme-bootstrap")], clients=[client("acme-bootstrap", validator=True)]),
        [],
        {"client acme-bootstrap": "a validator"},
    ),
    "an admin, whose name a node by id has": (
        World(nodes=[node()], clients=[client(admin=True)]),
        ["node web-1"],
        {"client web-1": "an admin"},
    ),
    "a validator with the id in its name": (
        World(clients=[client(f"node-{A}", validator=True)], settings=chef(BY_ID)),
        [],
        {f"client node-{A}": "a validator"},
    ),
    # A client that may be somebody else's: any client may create a node that carries any id
    "case 11: a second node, named after a victim's client, carries the id": (
        World(
            [instance(name="attacker")], [node("attacker"), node("victim")], [client("attacker"), client("victim")]
        ),
        ["client attacker", "node attacker", "node victim"],
        {"client victim": f"nodes attacker, victim all carry {A}"},
    ),
    "case 11: without node_name": (
        World(
            [instance(name="attacker")],
            [node("attacker"), node("victim")],
            [client("attacker"), client("victim")],
            settings=chef(None),
        ),
        ["node attacker", "node victim"],
        {"client attacker": "neither chef.node_name nor a record", "client victim": "neither chef.node_name nor a"},
    ),
    "case 11: the attacker's only node is named after the client of a living instance": (
        World([instance(name="attacker")], [node("victim")], [client("victim")], [instance(V, "victim")]),
        ["node victim"],
        {"client victim": f"live instance {V} in {HERE} has this name"},
    ),
    "case 11: the same without node_name, by the Name tag": (
        World([instance(name="x")], [node("victim")], [client("victim")], [instance(V, "Victim")], chef(None)),
        ["node victim"],
        {"client victim": f"live instance {V} in {HERE} has this name"},
    ),
    "case 11: the same without node_name, by the private DNS name": (
        World(
            [instance(name="x")],
            [node("ip-10-0-0-9.ec2.internal")],
            [client("ip-10-0-0-9.ec2.internal")],
            [instance(V, private_dns_names=("ip-10-0-0-9.ec2.internal",))],
            chef(None),
        ),
        ["node ip-10-0-0-9.ec2.internal"],
        {"client ip-10-0-0-9.ec2.internal": f"live instance {V} in {HERE} has this name"},
    ),
    "case 11: the same without node_name, by the host name": (
        World(
            [instance(name="x")],
            [node("ip-10-0-0-9.corp.example")],
            [client("ip-10-0-0-9.corp.example")],
            [instance(V, private_dns_names=("ip-10-0-0-9.ec2.internal",))],
            chef(None),
        ),
        ["node ip-10-0-0-9.corp.example"],
        {"client ip-10-0-0-9.corp.example": f"live instance {V} in {HERE} has this name"},
    ),
    "case 11: the victim's node has its FQDN": (
        World([instance(name="attacker")], [node("victim"), node("victim.example.com", V)], [client("victim")]),
        ["node victim"],
        {"client victim": f"node victim.example.com may own it, and belongs to {V}"},
    ),
    "case 11: the victim's node has its FQDN, and no ec2 data": (
        World([instance(name="attacker")], [node("victim"), bare("victim.example.com")], [client("victim")]),
        ["node victim"],
        {"client victim": "node victim.example.com may own it, and is not proven"},
    ),
    "case 11: the victim's client has its FQDN": (
        World(
            [instance(name="attacker")],
            [node("victim.example.com"), node("victim", V)],
            [client("victim.example.com")],
        ),
        ["node victim.example.com"],
        {"client victim.example.com": f"node victim may own it, and belongs to {V}"},
    ),
    "case 11: the attacker's node is the victim's in other letters": (
        World([instance(name="attacker")], [node("VICTIM"), node("victim", V)], [client("victim")]),
        ["node VICTIM"],
        {},
    ),
    "case 11: the attacker's FQDN has the victim's short name": (
        World([instance(name=None)], [node("victim.evil.example")], [client("victim")]),
        ["node victim.evil.example"],
        {"client victim": "neither chef.node_name nor a record gives the instance this name"},
    ),
    "case 11: the attacker takes the victim's tag as well": (
        World(
            [instance(name="victim")],
            [node("victim.evil.example"), node("victim.example.com", V)],
            [client("victim")],
        ),
        ["node victim.evil.example"],
        {"client victim": f"node victim.example.com may own it, and belongs to {V}"},
    ),
    "case 11: a retry, when both nodes are gone": (
        World([instance(name="attacker", known_as=known_as(["attacker", "victim"]))], clients=[client("victim")]),
        [],
        {},
    ),
    "the FQDN of a node whose short name a living instance has": (
        World(nodes=[node(FQDN)], clients=[client(FQDN)], living=[instance(B)]),
        [f"node {FQDN}"],
        {f"client {FQDN}": f"live instance {B} in {HERE} has this name"},
    ),
    "the short name of a node whose FQDN a living instance has": (
        World(
            nodes=[node()],
            clients=[client()],
            living=[instance(B)],
            settings=chef("{tag:Name}.example.com"),
        ),
        ["node web-1"],
        {"client web-1": f"live instance {B} in {HERE} has this name"},
    ),
    "a client in other letters than the node, whose own client is there too": (
        World([instance(name=None)], [node()], [client(), client("WEB-1")], settings=chef(None)),
        BOTH,
        {"client WEB-1": "neither chef.node_name nor a record gives the instance this name"},
    ),
    "the FQDN in other letters of a node whose FQDN a living instance has": (
        World(
            nodes=[node("WEB-1.example.com")],
            clients=[client("WEB-1.example.com")],
            living=[instance(B)],
            settings=chef("{tag:Name}.example.com"),
        ),
        ["node WEB-1.example.com"],
        {"client WEB-1.example.com": f"live instance {B} in {HERE} has this name"},
    ),
    "a living instance has the name by another tag than Name": (
        World(
            [instance(name=None, tags={"Chef": "web-1"})],
            [node()],
            [client()],
            [instance(B, None, tags={"Chef": "web-1"})],
            chef("{tag:Chef}"),
        ),
        ["node web-1"],
        {"client web-1": f"live instance {B} in {HERE} has this name"},
    ),
    "a replacement that has not saved its node yet": (
        World(nodes=[node()], clients=[client()], living=[instance(B)]),
        ["node web-1"],
        {"client web-1": f"live instance {B} in {HERE} has this name"},
    ),
    "a living instance has the name of a client without a node": (
        World(clients=[client()], living=[instance(B)]),
        [],
        {"client web-1": f"live instance {B} in {HERE} has this name"},
    ),
}


@pytest.mark.parametrize(("world", "expected", "reasons"), STAYS.values(), ids=STAYS)
def test_objects_that_stay(world: World, expected: list[str], reasons: dict[str, str]) -> None:
    finding = world.finding()
    assert removals(finding) == expected
    found = left(finding)
    assert found.keys() == reasons.keys()
    for target, reason in reasons.items():
        assert reason in found[target]
    assert finding.errors == ()


@pytest.mark.parametrize(
    ("world", "proofs"),
    [
        (
            World(nodes=[node()], clients=[client()]),
            [f"client of node web-1: ec2.instance_id is {A}", f"ec2.instance_id is {A}"],
        ),
        (
            World(nodes=[bare()], clients=[client()]),
            [
                "chef.node_name gives this name",
                "chef.node_name gives this name, the node has no ec2 data, and no living instance has the name",
            ],
        ),
        (World(clients=[client("WEB-1")]), ["chef.node_name gives this name"]),
        (
            World([instance(known_as=known_as(client=["old"]))], clients=[client("old")]),
            ["an earlier node of the instance had this name"],
        ),
        (
            World(nodes=[bare(f"node-{A}")], clients=[client(f"node-{A}")], settings=chef(BY_ID)),
            [f"chef.node_name gives this name, with {A} in it"] * 2,
        ),
    ],
)
def test_proofs(world: World, proofs: list[str]) -> None:
    assert [removal.proof for removal in world.finding().removals] == proofs


def test_objects_for_the_audit() -> None:
    first, second = World(nodes=[node()], clients=[ChefClient("web-1", public_key="KEY")]).finding().removals
    assert (first.kind, second.kind) == ("chef_client", "chef_node")
    assert first.object == {"name": "web-1", "validator": False, "admin": False, "public_key": "KEY"}


# Errors


NO_ANSWER = TransientError("no answer")
CANNOT_ASK = "cannot ask 222222222222/eu-west-1 who has it now: no answer"

FAILS: dict[str, tuple[World, list[str], list[str], dict[str, str]]] = {
    "a place that cannot be asked keeps the client, and a retry finds it by name": (
        World(nodes=[node()], clients=[client()], unasked=NO_ANSWER),
        ["node web-1"],
        [f"client web-1: {CANNOT_ASK}"],
        {},
    ),
    "a place that cannot be asked keeps the node too, if only the node leads to the client": (
        World([instance(ran=False)], [node()], [client()], unasked=NO_ANSWER),
        [],
        [f"client web-1: {CANNOT_ASK}"],
        {"node web-1": "is kept until client web-1 is removed"},
    ),
    "a place that cannot be asked keeps a node without ec2 data": (
        World(nodes=[bare()], unasked=NO_ANSWER),
        [],
        [f"node web-1: {CANNOT_ASK}"],
        {},
    ),
    "a place that cannot be asked does not matter to a node by id": (
        World(nodes=[node()], unasked=NO_ANSWER, settings=chef(delete_client=False)),
        ["node web-1"],
        [],
        {},
    ),
    "another place has told already who has the name": (
        World(clients=[client()], living=[instance(B)], unasked=NO_ANSWER),
        [],
        [],
        {"client web-1": f"live instance {B} in {HERE}"},
    ),
    "a node that cannot be read": (
        World(nodes=[bare()], clients=[client()], unreadable=("node web-1",)),
        [],
        ["node web-1: may not read it", "client web-1: may not read it"],
        {},
    ),
    "a client that cannot be read": (
        World(nodes=[node()], clients=[client()], unreadable=("client web-1",)),
        ["node web-1"],
        ["client web-1: may not read it"],
        {},
    ),
    "a client that cannot be read, and only the node leads to it": (
        World([instance(name=None, ran=False)], [node()], [client()], unreadable=("client web-1",)),
        [],
        ["client web-1: may not read it"],
        {"node web-1": "is kept until client web-1 is removed"},
    ),
    "a client that cannot be read, under a name that is not recorded": (
        World([instance(name=None)], [node()], [client()], unreadable=("client web-1",), settings=chef(None)),
        [],
        ["client web-1: may not read it"],
        {"node web-1": "is kept until client web-1 is removed"},
    ),
    "a client that cannot be read, in other letters than its recorded name": (
        World(nodes=[node("WEB-1")], clients=[client("WEB-1")], unreadable=("client WEB-1",)),
        ["node WEB-1"],
        ["client WEB-1: may not read it"],
        {},
    ),
    "a client that cannot be read, and no node leads to": (
        World([instance(ran=False)], [node("other")], [client()], unreadable=("client web-1",)),
        ["node other"],
        ["client web-1: may not read it"],
        {},
    ),
    "somebody else's node that cannot be read": (
        World(nodes=[node(), bare(FQDN)], clients=[client()], unreadable=(f"node {FQDN}",)),
        ["node web-1"],
        ["client web-1: may not read it"],
        {},
    ),
    "a client with the id in its name leads a retry to itself": (
        World(
            [instance(ran=False)],
            [bare(f"node-{A}")],
            [client(f"node-{A}")],
            settings=chef(BY_ID),
            unreadable=(f"client node-{A}",),
        ),
        [f"node node-{A}"],
        [f"client node-{A}: may not read it"],
        {},
    ),
}


@pytest.mark.parametrize(("world", "expected", "errors", "reasons"), FAILS.values(), ids=FAILS)
def test_failures(world: World, expected: list[str], errors: list[str], reasons: dict[str, str]) -> None:
    finding = world.finding()
    assert removals(finding) == expected
    assert [str(error) for error in finding.errors] == errors
    found = left(finding)
    assert found.keys() == reasons.keys()
    for target, reason in reasons.items():
        assert reason in found[target]


def test_hidden_node_may_belong_to_any_instance_without_a_visible_node() -> None:
    world = World([instance(), instance(B, "web-2"), instance(V, "web-3")], [node(), bare("web-2")], hidden=2)
    world = World(world.dead, world.nodes, [client(), client("web-3")], hidden=2)
    findings = world.plan()
    assert removals(findings[A]) == BOTH
    assert findings[A].errors == ()
    assert "the Chef search counts 1 more" in str(World(hidden=1).finding().errors[0])
    for instance_id in (B, V):
        assert removals(findings[instance_id]) == []
        assert "the Chef search counts 2 more nodes than it shows" in str(findings[instance_id].errors[0])
        assert "client Decommission may not read every node" in str(findings[instance_id].errors[0])


# Several instances


def test_each_object_is_removed_once() -> None:
    findings = World([instance(), instance(B)], [bare()], [client()]).plan()
    assert removals(findings[A]) == BOTH
    assert removals(findings[B]) == []
    assert left(findings[B]) == dict.fromkeys(BOTH, f"is removed with {A}, which had the same name")


def test_the_dead_one_s_name_is_the_other_dead_one_s_node() -> None:
    """The client goes with the instance whose node has its name."""
    findings = World([instance(), instance(B)], [node(instance_id=B)], [client()]).plan()
    assert removals(findings[A]) == []
    assert removals(findings[B]) == BOTH


def test_case_11_attacker_and_victim_are_dead() -> None:
    world = World(
        [instance(V, "victim"), instance(A, "attacker")],
        [node("victim.example.com", V), node("victim", A)],
        [client("victim")],
    )
    findings = world.plan()
    assert removals(findings[V]) == ["node victim.example.com"]
    assert removals(findings[A]) == ["client victim", "node victim"]


def test_a_node_in_another_account_is_no_dead_instance_s() -> None:
    """It carries a dead one's id, and says that it is elsewhere: its client stays."""
    world = World([instance(), instance(V, None)], [node(), node(FQDN, V, account_id="222222222222")], [client()])
    assert removals(world.finding()) == ["node web-1"]


def test_only_the_instances_asked_for_are_decided() -> None:
    dead = {A: instance(), B: instance(B, "web-2")}
    snapshot = Snapshot({"web-1": node(), "web-2": node("web-2", B)}, {"web-1": client(), "web-2": client("web-2")})
    asked = question(chef(), dead, snapshot, [B])
    assert asked == Question(names=frozenset({(Template("{tag:Name}"), "web-2")}))
    assert list(plan(chef(), dead, snapshot, Living(asked), [B])) == [B]


# Questions and notes


def test_proof_by_id_needs_no_query() -> None:
    dead = {A: instance()}
    snapshot = Snapshot({f"node-{A}": bare(f"node-{A}")}, {f"node-{A}": client(f"node-{A}")})
    assert question(chef(BY_ID), dead, snapshot) == Question()
    assert question(chef(delete_client=False), dead, Snapshot({"web-1": node()})) == Question()


NAME_TAG, PRIVATE_DNS_NAME, HOSTNAME = "{tag:Name}", "{private_dns_name}", "{hostname}"


@pytest.mark.parametrize(
    ("node_name", "name", "asked"),
    [
        (NAME_TAG, FQDN, {(NAME_TAG, FQDN), (NAME_TAG, "web-1")}),
        (None, "WEB-1.example.com", {(NAME_TAG, FQDN), (NAME_TAG, "web-1")}),
        (
            "{tag:Name}.b.example",
            "web-2.a.example",
            {("{tag:Name}.b.example", n) for n in ("web-2", "web-2.a.example")},
        ),
        (None, "IP-10-0-0-5", {(NAME_TAG, "ip-10-0-0-5"), (HOSTNAME, "ip-10-0-0-5")}),
        (
            None,
            "IP-10-0-0-5.EC2.internal",
            {
                (NAME_TAG, "ip-10-0-0-5.ec2.internal"),
                (NAME_TAG, "ip-10-0-0-5"),
                (PRIVATE_DNS_NAME, "ip-10-0-0-5.ec2.internal"),
            },
        ),
    ],
)
def test_what_is_asked_about_living_instances(node_name: str | None, name: str, asked: set[tuple[str, str]]) -> None:
    found = question(chef(node_name), {A: instance()}, Snapshot({name: node(name)}, {name: client(name)}))
    assert {(template.text, text) for template, text in found.names} == asked


@pytest.mark.parametrize(
    ("world", "notes"),
    [
        (World([instance(name=None)]), (f"chef.node_name {{tag:Name}}: tag:Name is not known for {A}",)),
        (World([instance(name=None, past_tags={"Name": ("old",)})]), ()),
        (World(nodes=[node()], clients=[client()]), ()),
        (World(nodes=[node()]), ("no client of node web-1 was found",)),
        (World(nodes=[node()], settings=chef(delete_client=False)), ()),
    ],
)
def test_notes(world: World, notes: tuple[str, ...]) -> None:
    assert world.finding().notes == notes


@pytest.mark.parametrize(
    ("one", "other", "expected"),
    [
        ("web-1", "WEB-1", True),
        ("web-1", "web-1.example.com", True),
        ("WEB-1.example.com", "web-1", True),
        ("WEB-1.example.com", "web-1.example.com", True),
        ("web-1.example.com", "WEB-1.example.com", True),
        ("web-1.example.com", "web-1.example.net", False),
        ("web-1", "web-10", False),
        ("web-1", "web-10.example.com", False),
    ],
)
def test_alike(one: str, other: str, expected: bool) -> None:
    assert alike(one, other) is expected


# Facts


def facts(*nodes: ChefNode, settings: ChefSettings | None = None, dead: Instance | None = None) -> dict[str, Any]:
    found = identify(settings or chef(), {A: dead or instance()}, NodeSearch(nodes))
    return {} if A not in found else {k: v for k, v in vars(found[A]).items() if v}


def test_facts_of_a_node() -> None:
    data: dict[str, Any] = {
        "vpc_id": "vpc-1",
        "private_ips": (ADDRESS,),
        "public_ips": ("54.7.8.9",),
        "ipv6_addresses": ("2001:db8::5",),
        "private_dns_names": ("ip-10-0-0-5.eu-west-1.compute.internal",),
        "public_dns_names": ("ec2-54-7-8-9.eu-west-1.compute.amazonaws.com",),
    }
    assert facts(node(ipaddress="172.18.0.1", **data)) == {
        "source": "chef",
        **data,
        "known_as": known_as(["web-1"], ["web-1"]),
    }


@pytest.mark.parametrize(
    ("ipaddress", "expected"),
    [
        (ADDRESS, (ADDRESS,)),
        ("172.17.0.1", ()),
        ("127.0.0.1", ()),
        ("169.254.1.1", ()),
        ("somewhere", ()),
        (None, ()),
    ],
)
def test_an_ipaddress_counts_only_if_a_vpc_may_have_it(ipaddress: str | None, expected: tuple[str, ...]) -> None:
    assert facts(node(ipaddress=ipaddress)).get("private_ips", ()) == expected


@pytest.mark.parametrize(
    ("settings", "dead", "expected"),
    [
        (chef(None), instance(), {"node": ("a", "b")}),
        (chef(), instance(name="B"), {"node": ("a", "b"), "client": ("b",)}),
        (chef(None), instance(known_as=known_as(client=["a"])), {"node": ("a", "b"), "client": ("a",)}),
    ],
)
def test_of_several_nodes_only_a_known_name_is_the_client_s(
    settings: ChefSettings, dead: Instance, expected: dict[str, Any]
) -> None:
    assert facts(node("a"), node("b"), settings=settings, dead=dead)["known_as"] == {"chef": expected}


def test_a_node_that_is_not_proven_says_nothing() -> None:
    other = node(region="us-west-2", private_ips=("10.9.9.9",))
    assert facts(other, bare(), node("web-2", B)) == {}
    proven = node("web-3", vpc_id=None), node("web-4", vpc_id="vpc-1")
    found = facts(other, *proven, settings=chef(None))
    assert found == {"source": "chef", "vpc_id": "vpc-1", "known_as": {"chef": {"node": ("web-3", "web-4")}}}
