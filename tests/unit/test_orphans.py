"""Orphans: which leftovers of unrecorded instances go, and which stay."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING, Any

import pytest

from ec2_decommission.config import ChefSettings, ConsulSettings, SweepSettings
from ec2_decommission.errors import OutOfTime, TransientError
from ec2_decommission.handler import FailedError
from ec2_decommission.place import Place
from tests.fakes.ec2 import ACCOUNT, REGION
from tests.fakes.world import World

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

EVENT = {"source": "ec2-decommission", "detail-type": "EC2 Decommission Sweep", "detail": {}}
DEAD, DEAD_8 = "i-0dead000000000001", "i-0cafe001"


def world_of(adopt: Sequence[str] = ("chef", "consul"), **more: Any) -> World:
    world = World(
        sweep=SweepSettings(adopt=tuple(adopt), max_instances=more.pop("max_instances", 50)),
        chef=ChefSettings("https://chef.example.com", "decommission"),
        consul=ConsulSettings("https://consul.example.com", deregister_node=True),
        **more,
    )
    world.launch("lives")
    return world


def swept(world: World, payload: Mapping[str, Any] = EVENT) -> dict[str, Any]:
    sweep: dict[str, Any] = world.send(payload)["sweep"]
    return sweep


def sent(world: World) -> list[str]:
    return [event["detail"]["instance-id"] for event in world.queue.sent]


def reasons(sweep: Mapping[str, Any]) -> dict[str, str]:
    return {left["id"]: left["reason"] for left in sweep["not_adopted"]}


def test_orphans_are_sent_as_events() -> None:
    world = world_of()
    world.chef.put_node("old-1", DEAD)
    world.chef.put_client("old-1")
    world.consul.register_node("old-2", "10.0.0.77", {"instance_id": DEAD_8})
    sweep = swept(world)
    assert (sweep["adopted"], sweep["not_adopted"], sweep["gone"]) == ([DEAD_8, DEAD], [], [])
    [event, _] = sorted(world.queue.sent, key=lambda e: e["detail"]["instance-id"], reverse=True)
    assert event["detail"] == {"instance-id": DEAD, "state": "terminated"}
    assert (event["account"], event["region"]) == (ACCOUNT, REGION)
    assert world.send_batch(*world.queue.sent).failed == ()
    assert (world.chef.node_objects, world.chef.client_names) == ({}, set())
    assert world.consul.node("old-2") is None


def test_adoption_is_off_by_default_for_each_source() -> None:
    for adopt, found in (((), []), (("chef",), [DEAD]), (("consul",), [DEAD_8])):
        world = world_of(adopt)
        world.chef.put_node("old-1", DEAD)
        world.consul.register_node("old-2", "10.0.0.77", {"instance_id": DEAD_8})
        assert swept(world)["adopted"] == found


def test_a_dry_run_lists() -> None:
    world = world_of()
    world.chef.put_node("old-1", DEAD)
    assert swept(world, {"sweep": True, "dry_run": True})["adopted"] == [DEAD]
    assert world_of(dry_run=True).config.dry_run
    assert sent(world) == []


def test_adopted_orphan_is_not_sent_again_even_if_its_step_left_it() -> None:
    world = world_of()
    world.chef.put_node("old-1", DEAD)
    world.chef.put_client("old-1")
    world.chef.forbidden = {"delete nodes", "delete clients"}
    assert swept(world)["adopted"] == [DEAD]
    assert world.send_batch(*world.queue.sent).failed == ("m-1",)
    assert "old-1" in world.chef.node_objects
    assert swept(world)["adopted"] == []


def test_skipped_orphan_is_not_sent_again() -> None:
    world = world_of(("consul",))
    world.consul.register_node("old", "10.0.0.77", {"instance_id": DEAD})
    assert swept(world)["adopted"] == [DEAD]
    # An agent wakes up under that name before the message is there.
    world.consul.add_agent("old", "10.0.0.77", {"instance_id": DEAD})
    assert world.send_batch(*world.queue.sent).failed == ("m-1",)
    assert swept(world)["adopted"] == []


def test_live_stopping_or_recorded_instances_are_not_adopted() -> None:
    world = world_of()
    states = ["pending", "running", "stopping", "stopped", "shutting-down"]
    for state in states:
        instance_id = world.launch(state)
        world.ec2.set_state(instance_id, state)
        world.chef.put_node(state, instance_id)
        world.consul.register_node(state, "10.0.0.77", {"instance_id": instance_id})
    dead = world.launch("dead")
    world.send(world.running(dead))
    world.chef.put_node("dead", dead)
    world.ec2.terminate(dead)
    world.send(world.terminated(dead))
    world.chef.put_node("dead", dead)
    sweep = swept(world)
    assert (sweep["adopted"], sweep["not_adopted"]) == ([], [])


def test_instance_that_ec2_lists_as_terminated_is_adopted() -> None:
    world = world_of()
    dead = world.launch("dead")
    world.ec2.terminate(dead)
    world.chef.put_node("dead", dead)
    assert swept(world)["adopted"] == [dead]


ELSEWHERE: list[tuple[dict[str, Any], str]] = [
    ({"region": "eu-west-1"}, "region eu-west-1"),
    ({"availability_zone": "eu-west-1b"}, "region eu-west-1"),
    ({"private_dns_names": ("ip-10-0-0-5.eu-west-1.compute.internal",)}, "region eu-west-1"),
    ({"private_dns_names": ("web", "ec2-3-4-5-6.eu-west-1.compute.amazonaws.com")}, "region eu-west-1"),
    ({"region": REGION, "account_id": "999999999999"}, "account 999999999999"),
    ({"region": REGION, "availability_zone": "eu-west-1b"}, "region eu-west-1"),
]


@pytest.mark.parametrize(("told", "reason"), ELSEWHERE)
def test_a_chef_node_of_another_place_stays(told: dict[str, Any], reason: str) -> None:
    world = world_of()
    world.chef.put_node("old", DEAD)
    world.chef.tell("old", **told)
    sweep = swept(world)
    assert sweep["adopted"] == []
    [left] = sweep["not_adopted"]
    assert (left["id"], left["source"], left["target"]) == (DEAD, "chef", "node old")
    assert f"it is in {reason}, not" in left["reason"]


def test_a_chef_node_of_this_place_goes() -> None:
    world = world_of()
    world.chef.put_node("old", DEAD)
    world.chef.tell(
        "old",
        region=REGION,
        account_id=ACCOUNT,
        availability_zone=f"{REGION}a",
        private_dns_names=("ip-10-0-0-5.ec2.internal",),
        public_dns_names=("ec2-3-4-5-6.compute-1.amazonaws.com", "web.example.com"),
        ohai_time=(world.time - timedelta(hours=24, seconds=1)).timestamp(),
    )
    assert swept(world)["adopted"] == [DEAD]


@pytest.mark.parametrize("age", [timedelta(hours=23, minutes=59), timedelta(0), timedelta(minutes=-20)])
def test_a_chef_node_that_still_converges_stays(age: timedelta) -> None:
    """It may be an instance that EC2 does not show yet; or something else took over the node's name."""
    world = world_of()
    world.chef.put_node("old", DEAD)
    world.chef.tell("old", ohai_time=(world.time - age).timestamp())
    sweep = swept(world)
    assert sweep["adopted"] == []
    assert "converged under its name" in reasons(sweep)[DEAD]


@pytest.mark.parametrize(
    ("meta", "reason"),
    [
        ({"region": "eu-west-1"}, "region eu-west-1"),
        ({"availability_zone": "eu-west-1b"}, "region eu-west-1"),
        ({"account_id": "999999999999"}, "account 999999999999"),
    ],
)
def test_a_consul_node_of_another_place_stays(meta: dict[str, str], reason: str) -> None:
    world = world_of()
    world.consul.register_node("old", "10.0.0.77", {"instance_id": DEAD, **meta})
    sweep = swept(world)
    assert sweep["adopted"] == []
    assert f"it is in {reason}" in reasons(sweep)[DEAD]


def test_a_consul_node_whose_agent_lives_stays_until_it_is_dead() -> None:
    world = world_of()
    world.consul.add_agent("old", "10.0.0.77", {"instance_id": DEAD})
    sweep = swept(world)
    assert sweep["adopted"] == []
    assert "its Consul agent is alive" in reasons(sweep)[DEAD]
    world.consul.kill("old")
    assert swept(world)["adopted"] == [DEAD]


def test_every_datacenter_is_looked_into() -> None:
    world = world_of(("consul",))
    catalog: Any = type(world.consul)(("dc1", "dc2"))
    world = World(
        sweep=SweepSettings(adopt=("consul",)),
        consul=ConsulSettings("https://consul.example.com", datacenters=("dc1", "dc2")),
        consul_catalog=catalog,
    )
    world.launch("lives")
    catalog.register_node("old", "10.0.0.77", {"instance_id": DEAD}, datacenter="dc1")
    catalog.register_node("old", "10.0.0.77", {"instance_id": DEAD_8}, datacenter="dc2")
    assert swept(world)["adopted"] == [DEAD_8, DEAD]


def test_strictest_source_decides() -> None:
    world = world_of()
    world.chef.put_node("a", DEAD)
    world.chef.tell("a", region="eu-west-1")
    world.consul.register_node("a", "10.0.0.77", {"instance_id": DEAD})
    world.chef.put_node("b", DEAD_8)
    world.consul.add_agent("b", "10.0.0.78", {"instance_id": DEAD_8})
    sweep = swept(world)
    assert sweep["adopted"] == []
    assert "region eu-west-1" in reasons(sweep)[DEAD]
    assert "agent is alive" in reasons(sweep)[DEAD_8]


@pytest.mark.parametrize(
    "other", ["i-0dead", "i-0DEAD000000000001", "i-web-1", "i-" + "0" * 18, "i-0dead000000000001x"]
)
def test_an_id_of_another_form_stays(other: str) -> None:
    world = world_of()
    world.chef.put_node("old", other)
    world.chef.put_node("older", DEAD)
    sweep = swept(world)
    assert sweep["adopted"] == [DEAD]
    assert "not an EC2 instance id" in reasons(sweep)[other]


def test_the_adopted_count_for_the_brake_with_the_gone_and_may_be_accepted() -> None:
    world = world_of(max_instances=10)
    lost = world.launch("lost")
    world.send(world.running(lost))
    world.ec2.terminate(lost)
    ids = [f"i-{0xDEAD0000 + number:017x}" for number in range(10)]
    for instance_id in ids:
        world.chef.put_node(instance_id, instance_id)
    with pytest.raises(FailedError, match="1 of 1 recorded instances gone and 10 unrecorded ones to adopt"):
        world.send(EVENT)
    assert sent(world) == []
    report = world.send({"sweep": True, "accept": ids[:1]})
    assert (report["sweep"]["gone"], report["sweep"]["adopted"]) == ([lost], ids)
    assert sorted(sent(world)) == sorted([lost, *ids])


@pytest.mark.parametrize("source", ["chef", "consul"])
def test_a_source_that_fails_stops_the_adoption_alone_and_is_told(source: str) -> None:
    world = world_of()
    lost = world.launch("lost")
    world.send(world.running(lost))
    world.ec2.terminate(lost)
    world.chef.put_node("old-1", DEAD)
    world.consul.register_node("old-2", "10.0.0.77", {"instance_id": DEAD_8})

    def down(*_: str) -> None:
        raise TransientError("no connection")

    getattr(world, source).fault = down
    answer = world.send_batch(EVENT, message_ids=["m"])
    assert answer.failed == ("m",)
    report = answer.reports["m"]
    assert report["errors"] == [f"sweep: adoption, {source}: no connection"]
    assert (report["sweep"]["gone"], report["sweep"]["adopted"]) == ([lost], [])
    assert sent(world) == [lost]
    getattr(world, source).fault = None
    assert swept(world)["adopted"] == [DEAD_8, DEAD]


def test_without_the_right_to_read_nothing_is_adopted() -> None:
    world = world_of(("consul",))
    world.consul.register_node("old", "10.0.0.77", {"instance_id": DEAD})
    world.consul.denied = {"node:read"}
    with pytest.raises(FailedError, match=r"adoption, consul: .*node:read"):
        world.send(EVENT)
    assert sent(world) == []


@pytest.mark.parametrize("part", ["inventory", "ec2"])
def test_nothing_is_adopted_if_inventory_or_ec2_fails(part: str, monkeypatch: pytest.MonkeyPatch) -> None:
    world = world_of()
    world.chef.put_node("old", DEAD)

    def down(*_: object) -> None:
        raise TransientError("no connection")

    monkeypatch.setattr(getattr(world, part), {"inventory": "recall", "ec2": "ask_by_id"}[part], down)
    with pytest.raises(FailedError, match="no connection"):
        world.send(EVENT)
    assert sent(world) == []


def test_a_source_that_takes_too_long_stops_the_adoption_alone() -> None:
    world = world_of(("chef",))
    lost = world.launch("lost")
    world.send(world.running(lost))
    world.ec2.terminate(lost)
    world.chef.put_node("old", DEAD)

    def slow(*_: str) -> None:
        raise OutOfTime("3 s are left of this invocation")

    world.chef.fault = slow
    with pytest.raises(FailedError, match="3 s are left"):
        world.send(EVENT)
    assert sent(world) == [lost]


def test_where_several_places_are_served_a_node_must_say_its_account() -> None:
    world = world_of(("chef",), places=[Place("222222222222", REGION)])
    for name, instance_id in (("silent", DEAD), ("mine", DEAD_8)):
        world.chef.put_node(name, instance_id)
    world.chef.tell("mine", account_id=ACCOUNT, region=REGION)
    sweep = world.sweep()["sweep"]
    assert sweep["adopted"] == [DEAD_8]
    assert "does not name its account" in reasons(sweep)[DEAD]
    assert world.sweep(Place("222222222222", REGION))["sweep"]["adopted"] == []
