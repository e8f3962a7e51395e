"""A burst through the whole function: in batches of one, of ten, of a thousand."""

from __future__ import annotations

import dataclasses
import itertools
import uuid
from types import SimpleNamespace
from typing import Any

import pytest

from ec2_decommission.config import InstanceFilter
from ec2_decommission.errors import TransientError
from ec2_decommission.steps.consul.observe import SEMAPHORE_FLAGS
from tests.fakes import consul as fake_consul
from tests.fakes.world import FORWARD, REVERSE, World, pointer
from tests.unit.test_all_steps import CHEF, CONSUL, end, join, traces, world_of


def burst(number: int) -> tuple[World, dict[str, str]]:
    world, first = world_of("web-0")
    names = {first: "web-0"} | {join(world, f"web-{n}"): f"web-{n}" for n in range(1, number)}
    for instance_id, name in names.items():
        end(world, instance_id, name)
    return world, names


@pytest.mark.parametrize("number", [1, 10, 1000])
def test_nothing_is_left_of_a_burst(number: int) -> None:
    world, names = burst(number)
    assert world.send_batch(*map(world.terminated, names)).failed == ()
    assert not world.chef.node_objects
    assert not world.chef.client_names
    assert [name for name in names.values() if any(traces(world, name).values())] == []


@pytest.mark.parametrize("number", [2, 10, 1000])
def test_only_the_failing_instances_message_returns(number: int) -> None:
    world, names = burst(number)
    odd = list(names)[number // 2]

    def fail(operation: str, instance_id: str) -> None:
        if operation == "remember_results" and instance_id == odd:
            raise TransientError("no connection")

    world.inventory.fault_of = fail
    answered = world.send_batch(*map(world.terminated, names))
    assert [answered.reports[message]["instance_id"] for message in answered.failed] == [odd]
    world.inventory.fault_of = lambda *_: None
    assert world.send_batch(world.terminated(odd), receive_count=2).failed == ()
    assert [name for name in names.values() if any(traces(world, name).values())] == []


# The same fleet in batches of each size

FATES = (
    "nothing special",
    "its name goes on",
    "its address goes on",
    "name and address go on",
    "its Consul agent lives",
    "external-dns owns its record",
    "its record set has another's value",
    "nobody recorded it",
    "EC2 has forgotten it",
    "the filter leaves it alone",
    "its lock is a semaphore's",
    "its event is not true",
)


def fleet(number: int, monkeypatch: pytest.MonkeyPatch) -> tuple[World, dict[str, str]]:
    """A fleet of all fates by turns, the dead by id with their fates."""
    world = World(chef=CHEF, consul=CONSUL, instance_filter=InstanceFilter(exclude_tags={"keep": ("yes",)}))
    # For the reports to be compared, which name sessions.
    serial = itertools.count(1)
    monkeypatch.setattr(fake_consul, "uuid", SimpleNamespace(uuid4=lambda: uuid.UUID(int=next(serial))))
    fates: dict[str, str] = {}
    for position in range(number):
        fate, name = FATES[position % len(FATES)], f"web-{position}"
        instance_id = join(world, name)
        fates[instance_id] = fate
        _meet(world, instance_id, name, fate)
    return world, fates


def _meet(world: World, instance_id: str, name: str, fate: str) -> None:
    address = world.ec2.describe([instance_id])[instance_id].facts.private_ips[0]
    if fate == "its event is not true":
        return
    if fate == "the filter leaves it alone":
        world.ec2.tag(instance_id, keep="yes")
    elif fate == "external-dns owns its record":
        owner = '"heritage=external-dns,external-dns/owner=k8s"'
        world.zones.put(FORWARD, f"{name}.example.internal", "TXT", [owner])
    elif fate == "its record set has another's value":
        world.zones.put(FORWARD, f"{name}.example.internal", "A", [address, "192.0.2.1"])
    elif fate == "its lock is a semaphore's":
        (session,) = (s.session_id for s in world.consul.sessions("") if s.node == name)
        world.consul.put(f"locks/pool/{session}", b"", SEMAPHORE_FLAGS)
    if fate == "its Consul agent lives":
        world.ec2.terminate(instance_id)
    else:
        end(world, instance_id, name)
    if fate == "nobody recorded it":
        del world.inventory.items[instance_id]
        world.ec2.forget_tags(instance_id)
    elif fate == "EC2 has forgotten it":
        world.ec2.forget(instance_id)
    elif fate == "its name goes on":
        join(world, name)
        world.zones.put(REVERSE, pointer(address), "PTR", [f"{name}.example.internal."])
    elif fate == "its address goes on":
        world.launch(f"app-{name}", address)
    elif fate == "name and address go on":
        world.launch(name, address)
        world.chef.put_node(name, "i-0fffffffffffffff0", private_ips=(address,))


def after(number: int, size: int, monkeypatch: pytest.MonkeyPatch) -> tuple[Any, dict[str, Any]]:
    """What is there once the fleet was handled in batches of that size, and the reports by instance."""
    world, fates = fleet(number, monkeypatch)
    ids, reports, failed = list(fates), {}, set()
    for start in range(0, number, size):
        answered = world.send_batch(*map(world.terminated, ids[start : start + size]))
        for message_id, report in answered.reports.items():
            steps = {s["step"]: (s["status"], s["actions"], s["reason"]) for s in report["steps"]}
            reports[report["instance_id"]] = (report["state"], steps)
            if message_id in answered.failed:
                failed.add(report["instance_id"])
    assert {fates[i] for i in failed} == {"its Consul agent lives", "its event is not true"}
    assert len(failed) == sum(fate in ("its Consul agent lives", "its event is not true") for fate in fates.values())
    items = {i: dataclasses.replace(r, recorded_at="", terminated_at="") for i, r in world.inventory.items.items()}
    left = (
        world.zones.everything(),
        world.chef.node_objects,
        world.chef.client_names,
        {node.name for node in world.consul.nodes("")},
        {(session.node, session.session_id) for session in world.consul.sessions("")},
        {(i, r.state, tuple(r.steps)) for i, r in items.items()},
    )
    return left, reports


# Only large batches cross the systems' limits. Small ones need only several instances of each fate.
@pytest.mark.parametrize(("number", "small", "large"), [(120, 1, 10), (1000, 10, 1000)])
def test_batches_of_every_size_end_alike(
    number: int, small: int, large: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    left, reports = after(number, small, monkeypatch)
    left_of_large, reports_of_large = after(number, large, monkeypatch)
    assert reports_of_large == reports
    assert left_of_large == left
