"""Adoption by the deployed function: the objects of instances that terminated before they were recorded."""

from __future__ import annotations

import json
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import pytest

from tests.deployed.conftest import NAME, Deployed, report_of, step_of

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = pytest.mark.servers


@contextmanager
def configured(deployed: Deployed, **changes: Any) -> Iterator[None]:
    """Changes the function's configuration, as another apply would."""
    client = deployed.platform.aws.client("lambda")
    before = client.get_function_configuration(FunctionName=NAME)["Environment"]["Variables"]
    config = {**json.loads(before["DECOMMISSION_CONFIG"]), **changes}
    client.update_function_configuration(
        FunctionName=NAME, Environment={"Variables": {**before, "DECOMMISSION_CONFIG": json.dumps(config)}}
    )
    try:
        yield
    finally:
        client.update_function_configuration(FunctionName=NAME, Environment={"Variables": before})


def test_orphans_are_removed_and_others_objects_stay(deployed: Deployed) -> None:
    platform = deployed.platform
    old, away, waking = (deployed.name(prefix) for prefix in ("old", "away", "waking"))
    lives = platform.aws.launch(deployed.name("lives"))  # if EC2 lists no instances, none are considered gone
    dead, elsewhere, unseen = "i-0dead000000000001", "i-0dead000000000002", "i-0dead000000000003"
    for name, instance_id, region in ((old, dead, platform.region), (away, elsewhere, "ap-southeast-2")):
        platform.chef.create_client(name)
        platform.chef.create_node(
            name,
            ec2={"instance_id": instance_id, "placement_availability_zone": f"{region}a"},
            automatic={"ohai_time": 1_700_000_000.5},
        )
    platform.consul.register_node(old, "10.0.99.1", {"instance_id": dead})
    session = platform.consul.create_session(old)
    lock = f"locks/{old}"
    assert platform.consul.acquire(lock, session, b"mine")
    agent = platform.consul.add_agent(waking, meta={"instance_id": unseen})
    sweep = {"max_instances": 50, "max_fraction": 0.25, "adopt": ["chef", "consul"]}
    try:
        with configured(deployed, sweep=sweep, instance_filter={}):
            world = platform.traces()
            listed = deployed.invoke({"sweep": True, "dry_run": True}).result["sweep"]
            assert dead in listed["adopted"]
            assert not {elsewhere, unseen} & set(listed["adopted"])
            reasons = {left["id"]: left["reason"] for left in listed["not_adopted"]}
            assert "it is in region ap-southeast-2" in reasons[elsewhere]
            assert "its Consul agent is alive" in reasons[unseen]
            assert platform.traces() == world

            platform.aws.fire_schedule(f"{NAME}-sweep")
            report = report_of(deployed.deliver(), dead)
            assert [step_of(report, name)["status"] for name in ("chef", "consul")] == ["done", "done"]
            assert deployed.things(old) == []
            assert (platform.consul.kv(lock) or {}).get("Session") is None
            assert deployed.things(away) == [f"node {away}", f"client {away}"]
            assert deployed.things(waking) == [f"node {waking} (alive)"]

            again = deployed.invoke({"sweep": True, "dry_run": True}).result["sweep"]
            assert dead not in again["adopted"]
    finally:
        agent.stop()
        platform.aws.terminate(lives.id)
        deployed.deliver()
        platform.chef.delete_node(away)
        platform.chef.delete_client(away)
