"""Known faults of similar published functions, tested on the deployed function with real servers."""

from __future__ import annotations

import pytest

from testbed.platform import ZONE, pointer
from tests.deployed.conftest import Deployed, report_of, step_of

pytestmark = pytest.mark.servers


def test_a_replacement_of_the_same_name_keeps_its_record_node_and_client(deployed: Deployed) -> None:
    platform = deployed.platform
    dead = platform.launch(deployed.name())
    deployed.deliver()
    platform.kill(dead, emit=False)
    # The replacement takes over Name tag, DNS name and Chef node before the event arrives.
    heir = platform.aws.launch(dead.name)
    platform.change_record("UPSERT", platform.zone_id, f"{dead.name}.{ZONE}", "A", heir.private_ip)
    platform.chef.delete_node(dead.name)
    platform.chef.create_node(dead.name, ec2={"instance_id": heir.id, "local_ipv4": heir.private_ip})
    platform.aws.emit(platform.aws.state_change(dead.id, "terminated"))
    report = report_of(deployed.deliver(), dead.id)
    assert f"A {dead.name}.{ZONE}. {heir.private_ip}" in deployed.things(dead.name)
    assert {f"node {dead.name}", f"client {dead.name}"} <= set(deployed.things(dead.name))
    assert step_of(report, "chef")["status"] == "skipped"
    assert heir.id in step_of(report, "chef")["reason"]
    assert heir.id in step_of(report, "route53")["reason"]


def test_a_reused_address_keeps_its_records(deployed: Deployed) -> None:
    platform = deployed.platform
    dead = platform.launch(deployed.name())
    deployed.deliver()
    platform.kill(dead, emit=False)
    heir = platform.aws.launch(deployed.name("heir"), dead.instance.private_ip)
    platform.aws.emit(platform.aws.state_change(dead.id, "terminated"))
    report = report_of(deployed.deliver(), dead.id)
    step = step_of(report, "route53")
    assert (step["status"], step["actions"]) == ("skipped", [])
    assert heir.id in step["reason"]
    assert f"A {dead.name}.{ZONE}. {heir.private_ip}" in deployed.things(dead.name)
    # Remove the remaining records before another instance gets the address.
    platform.change_record("DELETE", platform.zone_id, f"{dead.name}.{ZONE}", "A", heir.private_ip)
    platform.change_record(
        "DELETE", platform.reverse_zone_id, pointer(heir.private_ip), "PTR", f"{dead.name}.{ZONE}."
    )
    platform.aws.terminate(heir.id)
    deployed.deliver()


def test_record_with_a_manually_changed_ttl_is_removed(deployed: Deployed) -> None:
    platform = deployed.platform
    dead = platform.launch(deployed.name())
    deployed.deliver()
    platform.change_record("UPSERT", platform.zone_id, f"{dead.name}.{ZONE}", "A", dead.instance.private_ip, ttl=7)
    report = report_of(deployed.terminate(dead), dead.id)
    assert step_of(report, "route53")["status"] == "done"
    assert deployed.things(dead.name) == [f"lock {dead.lock} free"]


def test_next_record_in_the_listing_stays_if_the_record_is_missing(deployed: Deployed) -> None:
    platform = deployed.platform
    dead = platform.launch(deployed.name())
    deployed.deliver()
    address, neighbour = dead.instance.private_ip, f"{dead.name}-neighbour"
    platform.change_record("DELETE", platform.zone_id, f"{dead.name}.{ZONE}", "A", address)
    platform.change_record("DELETE", platform.reverse_zone_id, pointer(address), "PTR", f"{dead.name}.{ZONE}.")
    platform.change_record("CREATE", platform.zone_id, f"{neighbour}.{ZONE}", "A", address)
    report = report_of(deployed.terminate(dead), dead.id)
    assert step_of(report, "route53")["status"] == "clean"
    assert deployed.things(neighbour) == [f"A {neighbour}.{ZONE}. {address}"]
    platform.change_record("DELETE", platform.zone_id, f"{neighbour}.{ZONE}", "A", address)


def test_client_is_removed_even_if_its_node_is_gone(deployed: Deployed) -> None:
    platform = deployed.platform
    dead = platform.launch(deployed.name())
    deployed.deliver()
    platform.chef.delete_node(dead.name)
    report = report_of(deployed.terminate(dead), dead.id)
    assert [a["target"] for a in step_of(report, "chef")["actions"]] == [f"client {dead.name}"]
    assert platform.chef.client(dead.name) is None


def test_two_nodes_with_the_same_instance_id_are_removed(deployed: Deployed) -> None:
    platform = deployed.platform
    dead = platform.launch(deployed.name())
    second = f"{dead.name}-renamed"
    platform.chef.create_node(second, ec2={"instance_id": dead.id})
    deployed.deliver()
    deployed.terminate(dead)
    assert platform.chef.node(dead.name) is None
    assert platform.chef.node(second) is None


def test_late_running_event_restores_nothing(deployed: Deployed) -> None:
    platform = deployed.platform
    dead = platform.launch(deployed.name())
    deployed.deliver()
    deployed.terminate(dead)
    platform.aws.emit(platform.aws.state_change(dead.id, "running"))
    deployed.deliver()
    table = deployed.stack.outputs()["inventory_table_name"]
    item = platform.aws.client("dynamodb").get_item(TableName=table, Key={"instance_id": {"S": dead.id}})["Item"]
    assert item["state"] == {"S": "terminated"}
    assert "living" not in item


def test_instance_missing_in_ec2_is_cleaned_up_from_its_record(deployed: Deployed) -> None:
    platform = deployed.platform
    dead = platform.launch(deployed.name())
    deployed.deliver()
    platform.aws.fire_schedule("ec2-decommission-sweep")  # reads the tags, which instance_filter asks for
    deployed.deliver()
    platform.kill(dead, emit=False)
    platform.aws.forget(dead.id)
    platform.aws.emit(platform.aws.state_change(dead.id, "terminated"))
    report = report_of(deployed.deliver(), dead.id)
    assert [step["status"] for step in report["steps"]] == ["done", "done", "done"]
    assert deployed.things(dead.name) == [f"lock {dead.lock} free"]


def test_live_consul_agent_blocks_the_consul_step_and_the_message_is_retried(deployed: Deployed) -> None:
    platform = deployed.platform
    dead = platform.launch(deployed.name())
    deployed.deliver()
    platform.aws.terminate(dead.id)
    [batch] = deployed.deliver()
    assert batch.returned == batch.message_ids
    report = report_of([batch], dead.id)
    assert [step["status"] for step in report["steps"]] == ["done", "done", "failed"]
    assert f"lock {dead.lock} held by {dead.session[:8]}" in deployed.things(dead.name)
    dead.agent.kill()
    platform.consul.wait_for_status(dead.name, "failed")
    platform.poller.skip_delays("ec2-decommission")
    retry = report_of(deployed.deliver(), dead.id)
    assert [step["status"] for step in retry["steps"]] == ["done", "done", "done"]
    assert deployed.things(dead.name) == [f"lock {dead.lock} free"]
