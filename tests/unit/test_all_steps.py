"""The three steps together, over the fakes of their systems."""

from __future__ import annotations

import pytest

from ec2_decommission.config import ChefSettings, ConsulSettings
from ec2_decommission.errors import TransientError
from ec2_decommission.templates import Template
from tests.fakes.world import World, step_of

CHEF = ChefSettings("https://chef.example", "decommission", Template("{tag:Name}"))
CONSUL = ConsulSettings(
    "http://consul.example:8500", node_name=Template("{tag:Name}"), lock_prefixes=("locks/",), deregister_node=True
)


def world_of(name: str = "web-1", *, inventory: bool = True) -> tuple[World, str]:
    world = World(inventory=inventory, chef=CHEF, consul=CONSUL)
    return world, join(world, name)


def join(world: World, name: str) -> str:
    """Launches an instance that registers itself everywhere, over whatever has its name there."""
    instance_id = world.launch(name)
    address = world.ec2.describe([instance_id])[instance_id].facts.private_ips[0]
    world.chef.put_node(name, instance_id, private_ips=(address,))
    world.chef.put_client(name)
    world.consul.add_agent(name, address, {"instance_id": instance_id})
    session = world.consul.create_session(name)
    world.consul.acquire(f"locks/{name}", session)
    world.send(world.running(instance_id))
    return instance_id


def end(world: World, instance_id: str, name: str = "web-1") -> None:
    world.ec2.terminate(instance_id)
    world.consul.kill(name)


def traces(world: World, name: str = "web-1") -> dict[str, bool]:
    key = world.consul.key(f"locks/{name}")
    return {
        "dns": world.a(name) is not None,
        "node": name in world.chef.node_objects,
        "client": name in world.chef.client_names,
        "consul node": world.consul.node(name) is not None,
        "lock": key is not None and key.session is not None,
    }


def test_only_the_dead_instances_objects_are_removed() -> None:
    world, dead = world_of()
    join(world, "web-2")
    end(world, dead)
    report = world.send(world.terminated(dead))
    assert [(s["step"], s["status"]) for s in report["steps"]] == [
        ("route53", "done"),
        ("chef", "done"),
        ("consul", "done"),
    ]
    assert not any(traces(world).values())
    assert all(traces(world, "web-2").values())
    again = world.send(world.terminated(dead))
    assert {s["status"] for s in again["steps"]} == {"clean"}


@pytest.mark.parametrize("inventory", [True, False])
@pytest.mark.parametrize("forgotten", [True, False])
def test_a_replacement_of_the_same_name_keeps_all_of_it(inventory: bool, forgotten: bool) -> None:
    world, dead = world_of(inventory=inventory)
    end(world, dead)
    join(world, "web-1")
    if forgotten:
        world.ec2.forget(dead)
    world.send_batch(world.terminated(dead))
    assert all(traces(world).values())


def test_chef_and_consul_identify_an_unrecorded_instance_for_route53() -> None:
    world, dead = world_of()
    world.inventory.items.clear()
    end(world, dead)
    world.ec2.forget_tags(dead)
    world.zones.put("Z0FORWARD", "web-1.example.internal", "A", ["10.0.0.4"])
    report = world.send(world.terminated(dead))
    # Its addresses are known again, and so its PTR record is looked at; no name is: its tags are lost.
    assert "10.0.0.4" in report["identity"]["addresses"]
    assert {"chef", "consul"} & set(report["identity"]["sources"])
    assert (step_of(report, "chef")["status"], step_of(report, "consul")["status"]) == ("done", "done")


def test_dry_run_equals_the_real_run_without_apply() -> None:
    world, dead = world_of()
    end(world, dead)
    before = traces(world)
    dry = world.operate(dead, dry_run=True)
    assert traces(world) == before
    real = world.operate(dead, dry_run=False)
    assert [s["actions"] for s in dry["steps"]] == [s["actions"] for s in real["steps"]]


@pytest.mark.parametrize("down", ["zones", "chef", "consul"])
def test_unavailable_system_does_not_stop_other_steps_and_is_retried(down: str) -> None:
    world, dead = world_of()
    end(world, dead)

    def fail(*_: str) -> None:
        raise TransientError("no connection")

    system = getattr(world, down)
    system.fault = fail
    assert len(world.send_batch(world.terminated(dead)).failed) == 1
    left = {name for name, there in traces(world).items() if there}
    assert left == {"zones": {"dns"}, "chef": {"node", "client"}, "consul": {"consul node", "lock"}}[down]
    system.fault = lambda *_: None
    world.cold_start()
    assert world.send_batch(world.terminated(dead), receive_count=2).failed == ()
    assert not any(traces(world).values())


def test_live_agent_fails_the_consul_step_without_removals() -> None:
    world, dead = world_of()
    world.ec2.terminate(dead)
    assert len(world.send_batch(world.terminated(dead)).failed) == 1
    assert {name for name, there in traces(world).items() if there} == {"consul node", "lock"}
    world.consul.kill("web-1")
    assert world.send_batch(world.terminated(dead), receive_count=2).failed == ()
    assert not any(traces(world).values())
