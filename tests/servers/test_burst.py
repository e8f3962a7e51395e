"""A hundred terminations in one batch, on real Chef and Consul servers, next to all kinds of objects that stay."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import pytest

from bench.fleet import ZONE, Servers, batch
from ec2_decommission.steps.consul.observe import SEMAPHORE_FLAGS
from testbed.aws_route53 import fill, record_sets

if TYPE_CHECKING:
    from collections.abc import Iterator

    from bench.fleet import Dead
    from testbed.aws import LaunchedInstance

pytestmark = pytest.mark.servers

NUMBER = 100
OWNED = '"heritage=external-dns,external-dns/owner=default"'


@dataclass(frozen=True)
class Burst:
    """Who died.

    Attributes:
        replaced: the replacement has this one's name.
        readdressed: an instance that lives has its address.
        owned: external-dns wrote its record.
        contender: it waited for a semaphore, with another.
    """

    dead: list[Dead]
    replaced: Dead
    heir: LaunchedInstance
    readdressed: Dead
    owned: Dead
    contender: Dead


@pytest.fixture(scope="module")
def servers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Servers]:
    with Servers(tmp_path_factory.mktemp("burst")) as started:
        started.reset()
        yield started


@pytest.fixture(scope="module")
def burst(servers: Servers) -> Burst:
    dead = servers.fleet(NUMBER)
    replaced, readdressed, owned, contender = dead[10], dead[30], dead[60], dead[90]
    heir = servers.aws.launch(replaced.name, "10.0.100.1", emit=False)  # an address that no dead instance had
    take_over(servers, replaced, heir)
    servers.aws.launch("other", readdressed.private_ip, emit=False)
    fill(servers.zone_id, [record(owned.name, "TXT", OWNED)])
    [own] = [session["ID"] for session in servers.consul.sessions(contender.name)]
    for session in (own, servers.consul.create_session(servers.consul.node_name)):
        assert servers.consul.acquire(f"locks/semaphore/{session}", session, b"", SEMAPHORE_FLAGS)
    servers.consul.put("locks/semaphore/.lock", b"{}", SEMAPHORE_FLAGS)
    servers.reset_calls()
    assert servers.handle(batch(one.event for one in dead)).answer == {"batchItemFailures": []}
    return Burst(dead, replaced, heir, readdressed, owned, contender)


def take_over(servers: Servers, replaced: Dead, heir: LaunchedInstance) -> None:
    """All objects with the name now belong to the replacement."""
    ec2 = {"instance_id": heir.id, "local_ipv4": heir.private_ip}
    servers.chef.delete_node(replaced.name)
    servers.chef.create_node(replaced.name, ec2=ec2)
    servers.index.nodes[replaced.name] = {"ec2": ec2}
    servers.consul.register_node(replaced.name, heir.private_ip, {"instance_id": heir.id})
    change = {"Action": "UPSERT", "ResourceRecordSet": record(replaced.name, "A", heir.private_ip)}
    servers.aws.client("route53").change_resource_record_sets(
        HostedZoneId=servers.zone_id, ChangeBatch={"Changes": [change]}
    )


def record(name: str, kind: str, value: str) -> dict[str, object]:
    return {"Name": f"{name}.{ZONE}.", "Type": kind, "TTL": 60, "ResourceRecords": [{"Value": value}]}


def test_burst_of_97_terminations_is_cleaned_up(servers: Servers, burst: Burst) -> None:
    beside = (burst.replaced, burst.readdressed, burst.owned)
    assert servers.left([one for one in burst.dead if one not in beside]) == []


def test_objects_with_a_live_instances_name_stay(servers: Servers, burst: Burst) -> None:
    name = burst.replaced.name
    assert servers.left([burst.replaced]) == [
        name,
        f"client {name}",
        f"session of {name}",
        f"lock locks/{name}",
        f"A {name}.{ZONE}.",
    ]
    assert record(name, "A", burst.heir.private_ip) in record_sets(servers.zone_id)


def test_records_of_an_address_in_use_stay(servers: Servers, burst: Burst) -> None:
    left = servers.left([burst.readdressed])
    assert [entry.split()[0] for entry in left] == ["A", "PTR"]


def test_records_owned_by_external_dns_stay(servers: Servers, burst: Burst) -> None:
    left = servers.left([burst.owned])
    assert sorted(left) == [f"{kind} {burst.owned.name}.{ZONE}." for kind in ("A", "TXT")]


def test_the_other_contender_for_a_semaphore_keeps_its_place(servers: Servers, burst: Burst) -> None:
    keys = servers.consul.api("GET", "/v1/kv/locks/semaphore/", params={"recurse": ""})
    [other] = [session["ID"] for session in servers.consul.sessions(servers.consul.node_name)]
    assert {key["Key"]: key.get("Session") for key in keys} == {
        "locks/semaphore/.lock": None,
        f"locks/semaphore/{other}": other,
    }


def test_batch_needs_far_fewer_calls_than_single_events(servers: Servers, burst: Burst) -> None:
    aws = [call for call in servers.aws.calls.elements() if not call.startswith("dynamodb:")]
    assert len(aws) <= 0.3 * NUMBER
    assert servers.calls["Chef"] <= 2.1 * NUMBER
    assert servers.calls["Consul"] <= 1.2 * NUMBER  # destroying a session takes one request
