"""A large batch and little time: what could be done is done, reported and remembered; only the rest goes back.

Route 53's share of this is in test_route53_step.py.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

from ec2_decommission.clients.aws import CALL_SECONDS, QUICK
from ec2_decommission.config import ChefSettings, ConsulSettings, QueueSettings
from ec2_decommission.deadline import Deadline
from ec2_decommission.errors import OutOfTime
from ec2_decommission.handler import PUT_OFF_SECONDS
from ec2_decommission.run import RESERVE_SECONDS
from ec2_decommission.templates import Template
from tests.fakes.steps import FakeStep, factory
from tests.fakes.world import World, step_of

if TYPE_CHECKING:
    from tests.fakes.world import Answered

NAME = Template("{tag:Name}")
CHEF = ChefSettings("https://chef", "decommission", node_name=NAME)
CONSUL = ConsulSettings("https://consul:8501", node_name=NAME, lock_prefixes=("locks/",), deregister_node=True)


def fleet(world: World, size: int) -> dict[str, str]:
    """Names of the dead by id, all recorded."""
    names = {}
    for number in range(size):
        instance_id = world.launch(f"web-{number}", f"10.1.{number // 250}.{number % 250 + 1}", records=False)
        world.send(world.running(instance_id))
        names[instance_id] = f"web-{number}"
    for instance_id in names:
        world.ec2.terminate(instance_id)
    return names


class Few:
    """Lets so many changes pass; then the time is up."""

    def __init__(self, operations: set[str], allowed: int) -> None:
        self._operations = operations
        self._allowed = allowed

    def __call__(self, operation: str, _: str) -> None:
        if operation in self._operations:
            self._allowed -= 1
            if self._allowed < 0:
                raise OutOfTime("0 s are left of this invocation, too few to begin the next call")


def check(world: World, answer: Answered, names: dict[str, str], step: str, gone: set[str]) -> None:
    """The report tells what is gone, the inventory remembers it, and the next try does the rest and only that."""
    ids = dict(zip(names, answer.reports, strict=True))
    for instance_id, message_id in ids.items():
        report = step_of(answer.reports[message_id], step)
        settled = world.inventory.items[instance_id].steps[step].get("settled_at")
        assert (report["status"] == "done") is (names[instance_id] in gone)
        assert (message_id in answer.failed) is (names[instance_id] not in gone)
        assert bool(settled) is (names[instance_id] in gone)
    late = [i for i in names if ids[i] in answer.failed]
    again = world.send_batch(*(world.terminated(i) for i in late), receive_count=2)
    assert again.failed == ()
    assert all(step_of(report, step)["status"] == "done" for report in again.reports.values())


def test_chef_in_little_time() -> None:
    world = World(zones=False, chef=CHEF)
    names = fleet(world, 300)
    for instance_id, name in names.items():
        world.chef.put_node(name, instance_id)
        world.chef.put_client(name)
    world.chef.fault = Few({"delete clients", "delete nodes"}, 333)
    answer = world.send_batch(*(world.terminated(i) for i in names))
    world.chef.fault = None
    left = set(world.chef.node_objects) | world.chef.client_names
    gone = set(names.values()) - left
    assert 100 < len(gone) < 300
    check(world, answer, names, "chef", gone)
    assert world.chef.node_objects == {}
    assert world.chef.client_names == set()


def test_consul_in_little_time() -> None:
    world = World(zones=False, consul=CONSUL)
    names = fleet(world, 300)
    for instance_id, name in names.items():
        world.consul.add_agent(name, world.inventory.items[instance_id].facts.private_ips[0])
        world.consul.acquire(f"locks/{name}", world.consul.create_session(name, checks=()))
        world.consul.kill(name)
    # 600 operations release the locks, in 10 transactions; three more take 192 of the nodes.
    world.consul.fault = Few({"txn"}, calls_of_a_look(world, names) + 13)
    answer = world.send_batch(*(world.terminated(i) for i in names))
    world.consul.fault = None
    gone = {name for name in names.values() if world.consul.node(name) is None}
    assert 100 < len(gone) < 300
    check(world, answer, names, "consul", gone)
    assert all(world.consul.node(name) is None for name in names.values())


def calls_of_a_look(world: World, names: dict[str, str]) -> int:
    """How many transactions only read."""
    before = world.consul.calls["txn"]
    for instance_id in list(names)[:1]:
        world.operate(instance_id, dry_run=True)
    return int(world.consul.calls["txn"] - before)


def test_what_is_kept_back_is_enough_to_remember_a_thousand_and_to_put_them_off() -> None:
    """All the time that the steps may have is used up, and none of the calls that follow is refused for it."""
    step = FakeStep()
    world = World(zones=False, more_steps=[factory(step)], queue=QueueSettings("https://sqs.example/queue"))
    names = fleet(world, 1000)
    for instance_id in names:
        step.traces[instance_id] = ["x"]
    left = [100.0]
    late = list(names)[500:]

    def use_up(act: str) -> None:
        if act == "remove":
            left[0] = RESERVE_SECONDS + PUT_OFF_SECONDS
            step.traces.update((i, []) for i in late)
            raise OutOfTime("the time is up")

    def call(seconds: float, number: int, needed: float) -> None:
        for _ in range(number):
            world._clock.deadline.check(needed)
            left[0] -= seconds

    step.fault = use_up
    world.inventory.fault = lambda what: call(0.2, 10, CALL_SECONDS) if what == "remember_steps" else None
    world.queue.fault = lambda _: call(0.02, 100, sum(QUICK["sqs"]))
    records = [{"messageId": i, "receiptHandle": i, "body": world_body(world, i), "attributes": {}} for i in names]
    answer = world._application.handle({"Records": records}, Deadline(lambda: left[0], lambda: -left[0]))
    assert len(answer["batchItemFailures"]) == 1000
    assert all(record.steps["fake"]["reason"] == "the time is up" for record in world.inventory.items.values())
    assert len(world.queue.delays) == 1000
    assert not world.log.messages("warning")


def world_body(world: World, instance_id: str) -> str:
    return json.dumps(world.terminated(instance_id))


@pytest.mark.parametrize("seconds", [5.0, RESERVE_SECONDS])
def test_with_no_more_than_what_is_kept_back_nothing_is_begun(seconds: float) -> None:
    world = World(chef=CHEF)
    names = fleet(world, 2)
    for instance_id, name in names.items():
        world.chef.put_node(name, instance_id)
    clock = world._application._tools.clock
    world.chef.fault = lambda *_: clock.deadline.timeout(10.0)  # as the real client before each call
    answer = world.send_batch(*(world.terminated(i) for i in names), seconds=seconds)
    assert len(answer.failed) == 2
    assert len(world.chef.node_objects) == 2
