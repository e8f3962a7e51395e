"""Audit and restore with real Chef and Consul servers: removed objects are restored unchanged."""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING, Any

import pytest

from ec2_decommission.clients.chef import PyChefServer
from ec2_decommission.clients.consul import PyConsulCatalog
from ec2_decommission.config import ChefSettings, ConsulSettings
from ec2_decommission.deadline import current
from ec2_decommission.templates import Template
from testbed.aws import StrictAws
from testbed.chef import ChefServer
from testbed.consul import ConsulCluster
from tests.fakes.audited import BUCKET, AuditedWorld
from tests.fakes.world import step_of

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

pytestmark = pytest.mark.servers

REMOVE = """
node_prefix "" { policy = "write" }
session_prefix "" { policy = "write" }
key_prefix "locks/" { policy = "write" }
operator = "write"
"""
AUDITED = REMOVE + 'service_prefix "" { policy = "read" }'  # the permissions for a removal with an audit
RESTORING = REMOVE + 'service_prefix "" { policy = "write" }'


@pytest.fixture(scope="module")
def aws() -> Iterator[StrictAws]:
    with StrictAws() as started:
        yield started


@pytest.fixture(scope="module")
def chef() -> Iterator[ChefServer]:
    with ChefServer() as server:
        yield server


@pytest.fixture(scope="module")
def consul() -> Iterator[ConsulCluster]:
    with ConsulCluster() as cluster:
        yield cluster


def with_chef(aws: StrictAws, chef: ChefServer) -> AuditedWorld:
    aws.reset()
    settings = ChefSettings(chef.url, chef.admin_name, Template("{tag:Name}"))
    server = PyChefServer(settings, chef.admin_key.decode(), current)
    return AuditedWorld(aws, zones=False, chef=settings, chef_server=server)


def with_consul(aws: StrictAws, consul: ConsulCluster, rules: str = RESTORING, **settings: Any) -> AuditedWorld:
    aws.reset()
    for name in {node["Node"] for node in consul.nodes()} - {consul.node_name}:
        consul.api("PUT", "/v1/catalog/deregister", json={"Node": name})
    made = ConsulSettings(consul.url, lock_prefixes=("locks/",), deregister_node=True, **settings)
    catalog = PyConsulCatalog(made, consul.create_token(rules), current)
    return AuditedWorld(aws, zones=False, consul=made, consul_catalog=catalog)


def targets(report: Mapping[str, Any], step: str) -> list[str]:
    return [action["target"] for action in step_of(report, step)["actions"]]


# Chef


def test_node_and_client_are_restored_and_the_old_key_works(aws: StrictAws, chef: ChefServer) -> None:
    world = with_chef(aws, chef)
    instance_id = world.ended("web-1", records=False)
    key = chef.create_client("web-1")
    chef.create_node(
        "web-1", ec2={"instance_id": instance_id}, automatic={"ipaddress": "10.0.0.4"}, run_list=["role[a]"]
    )
    node, client = chef.node("web-1"), chef.client("web-1")
    world.send(world.terminated(instance_id))
    assert (chef.node("web-1"), chef.client("web-1")) == (None, None)
    kept = {document["kind"]: document["object"] for document in world.kept().values()}
    assert kept.keys() == {"chef_node", "chef_client"}
    assert kept["chef_node"] == node
    assert "PRIVATE" not in str(kept)

    dry = world.put_back(instance_id, dry_run=True)
    assert set(targets(dry, "chef")) == {"node web-1", "client web-1"}
    assert chef.node("web-1") is None
    report = world.put_back(instance_id)
    assert (step_of(report, "chef")["status"], targets(report, "chef")) == ("done", targets(dry, "chef"))
    assert (chef.node("web-1"), chef.client("web-1")) == (node, client)
    assert chef.api_as("web-1", key).request("GET", "/nodes/web-1")["name"] == "web-1"
    again = step_of(world.put_back(instance_id), "chef")
    assert (again["status"], again["actions"]) == ("clean", [])
    world.operate(instance_id)
    assert (chef.node("web-1"), chef.client("web-1")) == (None, None)


def test_a_node_and_a_client_that_exist_now_stay_as_they_are(aws: StrictAws, chef: ChefServer) -> None:
    world = with_chef(aws, chef)
    instance_id = world.ended("web-2", records=False)
    chef.create_client("web-2")
    chef.create_node("web-2", ec2={"instance_id": instance_id})
    world.send(world.terminated(instance_id))
    key = chef.create_client("web-2")
    chef.create_node("web-2", ec2={"instance_id": "i-00000000000000002"})
    node, client = chef.node("web-2"), chef.client("web-2")
    for more in ({"dry_run": True}, {}):
        step = step_of(world.put_back(instance_id, **more), "chef")
        assert (step["status"], step["actions"]) == ("skipped", [])
        assert "a client of this name exists now, with another key" in step["reason"]
        assert "node web-2 left: an object of this name exists now and is not overwritten" in step["reason"]
    assert (chef.node("web-2"), chef.client("web-2")) == (node, client)
    assert chef.api_as("web-2", key).request("GET", "/nodes/web-2")


def test_object_created_during_a_restore_is_not_overwritten(aws: StrictAws, chef: ChefServer) -> None:
    world = with_chef(aws, chef)
    instance_id = world.ended("web-3", records=False)
    chef.create_node("web-3", ec2={"instance_id": instance_id})
    world.send(world.terminated(instance_id))
    create = world.chef.create_node

    def late(document: Mapping[str, Any]) -> Any:
        chef.create_node("web-3", ec2={"instance_id": "i-00000000000000003"})
        return create(document)

    world.chef.create_node = late
    step = step_of(world.put_back(instance_id), "chef")
    assert (step["status"], step["actions"]) == ("skipped", [])
    node = chef.node("web-3")
    assert node
    assert node["automatic"]["ec2"]["instance_id"] == "i-00000000000000003"


# Consul


def register(consul: ConsulCluster, name: str, instance_id: str) -> None:
    """A node with a service and checks, as an application without an agent registers it."""
    node = {"Node": name, "Address": "10.0.0.4", "NodeMeta": {"instance_id": instance_id, "rack": "a"}}
    service = {"ID": f"api-{name}", "Service": "api", "Port": 8080, "Tags": ["v1"], "Meta": {"a": "b"}}
    checks = [
        {"Node": name, "CheckID": "disk", "Name": "disk", "Status": "passing", "Notes": "90 % free"},
        {"Node": name, "CheckID": "ping", "Name": "ping", "Status": "critical", "ServiceID": f"api-{name}"},
    ]
    consul.api("PUT", "/v1/catalog/register", json={**node, "Service": service, "Checks": checks})


def catalog(consul: ConsulCluster, name: str) -> Any:
    """A node's registrations, without Consul's counters."""
    found = [consul.api("GET", f"/v1/catalog/node/{name}"), consul.api("GET", f"/v1/health/node/{name}")]

    def plain(value: Any) -> Any:
        if isinstance(value, dict):
            return {k: plain(v) for k, v in value.items() if k not in ("CreateIndex", "ModifyIndex")}
        return [plain(v) for v in value] if isinstance(value, list) else value

    return plain(copy.deepcopy(found))


def test_node_services_checks_and_a_deleted_lock_come_back(aws: StrictAws, consul: ConsulCluster) -> None:
    world = with_consul(aws, consul)
    instance_id = world.ended("app-1", records=False)
    register(consul, "app-1", instance_id)
    deleting = consul.create_session("app-1", behavior="delete")
    releasing = consul.create_session("app-1")
    assert consul.acquire("locks/deleted", deleting, b"\x00value", flags=7)
    assert consul.acquire("locks/released", releasing, b"leader")
    before = catalog(consul, "app-1")
    world.send(world.terminated(instance_id))
    assert (consul.node("app-1"), consul.kv("locks/deleted"), consul.sessions("app-1")) == (None, None, [])
    kinds = sorted(document["kind"] for document in world.kept().values())
    assert kinds == ["consul_lock", "consul_lock", "consul_node", "consul_session", "consul_session"]

    step = step_of(world.put_back(instance_id), "consul")
    assert step["status"] == "done", step
    assert sorted(action["target"].split()[0] for action in step["actions"]) == ["lock", "node"]
    assert step["reason"].count("a session cannot be restored") == 2
    assert "lock locks/released (dc1) left: it was released. Its key and value still exist" in step["reason"]
    assert catalog(consul, "app-1") == before
    lock = consul.kv("locks/deleted")
    assert lock
    assert (lock["Value"], lock["Flags"], "Session" in lock) == (b"\x00value", 7, False)
    again = step_of(world.put_back(instance_id), "consul")
    assert (again["status"], again["actions"]) == ("skipped", [])
    assert catalog(consul, "app-1") == before


def test_a_node_and_a_key_that_exist_now_stay_as_they_are(aws: StrictAws, consul: ConsulCluster) -> None:
    world = with_consul(aws, consul)
    instance_id = world.ended("app-2", records=False)
    register(consul, "app-2", instance_id)
    session = consul.create_session("app-2", behavior="delete")
    assert consul.acquire("locks/app-2", session, b"old")
    world.send(world.terminated(instance_id))
    consul.register_node("app-2", "10.0.0.99", {"instance_id": "i-00000000000000004"})
    consul.put("locks/app-2", b"new")
    before = catalog(consul, "app-2")
    step = step_of(world.put_back(instance_id), "consul")
    assert (step["status"], step["actions"]) == ("skipped", [])
    assert step["reason"].count("an object of this name exists now and is not overwritten") == 2
    lock = consul.kv("locks/app-2")
    assert lock
    assert (catalog(consul, "app-2"), lock["Value"]) == (before, b"new")


def test_a_token_that_may_not_write_services_fails_the_step_with_the_missing_permission(
    aws: StrictAws, consul: ConsulCluster
) -> None:
    world = with_consul(aws, consul, AUDITED)
    instance_id = world.ended("app-3", records=False)
    register(consul, "app-3", instance_id)
    world.send(world.terminated(instance_id))
    assert consul.node("app-3") is None
    step = step_of(world.put_back(instance_id), "consul")
    assert (step["status"], step["error_kind"]) == ("failed", "permission")
    assert "service:write" in step["reason"]
    assert consul.node("app-3") is None


@pytest.mark.parametrize("value", ["operator/autopilot/configuration", "locks/../operator/autopilot/configuration"])
def test_forged_audit_object_cannot_write_a_foreign_key(aws: StrictAws, consul: ConsulCluster, value: str) -> None:
    world = with_consul(aws, consul)
    instance_id = world.ended("app-4", records=False)
    register(consul, "app-4", instance_id)
    session = consul.create_session("app-4", behavior="delete")
    assert consul.acquire("locks/app-4", session, b"x")
    world.send(world.terminated(instance_id))
    [key] = [key for key, document in world.kept().items() if document["kind"] == "consul_lock"]
    document = world.s3.get_object(Bucket=BUCKET, Key=key)["Body"].read().decode()
    world.s3.put_object(Bucket=BUCKET, Key=key, Body=document.replace('"Key": "locks/app-4"', f'"Key": "{value}"'))
    configuration = consul.api("GET", "/v1/operator/autopilot/configuration")
    world.put_back(instance_id)
    assert consul.api("GET", "/v1/operator/autopilot/configuration") == configuration
    assert consul.kv("locks/app-4") is None
