"""The sweep: what it takes for gone, and what brakes it."""

from __future__ import annotations

import json
from datetime import timedelta

import pytest

from ec2_decommission.config import InstanceFilter, SweepSettings
from ec2_decommission.errors import TransientError
from ec2_decommission.handler import FailedError
from ec2_decommission.instance import Facts, Instance
from ec2_decommission.place import Place
from tests.fakes.ec2 import ACCOUNT
from tests.fakes.world import HOME, World

EVENT = {"source": "ec2-decommission", "detail-type": "EC2 Decommission Sweep", "detail": {}}


def fleet(count: int, settings: SweepSettings | None = None, **more: object) -> tuple[World, list[str]]:
    world = World(sweep=settings or SweepSettings(), **more)  # type: ignore[arg-type]
    ids = [world.launch(f"web-{n}") for n in range(count)]
    for instance_id in ids:
        world.send(world.running(instance_id))
    return world, ids


def gone(world: World) -> list[str]:
    return [event["detail"]["instance-id"] for event in world.queue.sent]


def test_nothing_is_sent_if_all_instances_are_live() -> None:
    world, _ = fleet(3)
    report = world.send(EVENT)
    assert report["sweep"] == {
        "living": 3,
        "recorded": 3,
        "refreshed": 3,
        "allowed": 10,
        "excluded": 0,
        "gone": [],
        "unfinished": [],
        "adopted": [],
        "not_adopted": [],
    }
    assert gone(world) == []


@pytest.mark.parametrize("forgotten", [True, False])
def test_gone_instances_are_sent_immediately(forgotten: bool) -> None:
    world, ids = fleet(3)
    world.ec2.terminate(ids[1])
    if forgotten:
        world.ec2.forget(ids[1])
    assert world.send(EVENT)["sweep"]["gone"] == [ids[1]]
    assert gone(world) == [ids[1]]
    assert world.send_batch(*world.queue.sent).failed == ()
    assert world.a("web-1") is None
    assert world.send(EVENT)["sweep"]["gone"] == []


def test_new_instance_counts_as_live() -> None:
    world, ids = fleet(2)
    world.time = world.ec2.machines[ids[0]].launch_time + timedelta(minutes=9)
    world.ec2.terminate(ids[0])
    world.ec2.forget(ids[0])
    assert world.send(EVENT)["sweep"]["gone"] == []
    world.later(timedelta(minutes=2))
    assert world.send(EVENT)["sweep"]["gone"] == [ids[0]]


@pytest.mark.parametrize("state", ["pending", "running", "stopping", "stopped", "shutting-down"])
def test_whatever_is_not_terminated_stays(state: str) -> None:
    """A hibernated instance is a stopped one. What goes down is gone at the next sweep, and not before."""
    world, ids = fleet(2)
    world.ec2.set_state(ids[0], state)
    assert world.send(EVENT)["sweep"]["gone"] == []


def test_fleet_without_live_instances_is_swept_if_ec2_still_lists_one() -> None:
    world, ids = fleet(3)
    for instance_id in ids:
        world.ec2.terminate(instance_id)
    world.ec2.forget(ids[0])
    report = world.send(EVENT)["sweep"]
    assert (report["living"], report["gone"]) == (0, sorted(ids))
    assert gone(world) == sorted(ids)


def test_empty_ec2_makes_no_instance_gone_until_an_operator_accepts() -> None:
    """So it looks from another region or account as well."""
    world, ids = fleet(3)
    for instance_id in ids:
        world.ec2.terminate(instance_id)
        world.ec2.forget(instance_id)
    with pytest.raises(FailedError, match=r"EC2 in .* returned no instances at all"):
        world.send(EVENT)
    assert gone(world) == []
    seen = world.send({"sweep": True, "dry_run": True})
    assert seen["sweep"]["gone"] == sorted(ids)
    assert "Confirm them with accept" in seen["errors"][0]
    world.send({"sweep": True, "accept": ids})
    assert gone(world) == sorted(ids)


def test_a_scheduled_sweep_that_fails_is_tried_three_times() -> None:
    world, ids = fleet(13, SweepSettings(max_instances=10))
    for instance_id in ids[:11]:
        world.ec2.terminate(instance_id)
    tries = [len(world.send_batch(EVENT, receive_count=count).failed) for count in (1, 2, 3)]
    assert tries == [1, 1, 0]  # then the next one makes up for it
    assert gone(world) == []


def test_no_instance_is_gone_after_an_empty_list(monkeypatch: pytest.MonkeyPatch) -> None:
    world, ids = fleet(3)
    world.ec2.terminate(ids[0])
    monkeypatch.setattr(world.ec2, "living", lambda _: iter(()))
    assert world.send(EVENT)["sweep"]["gone"] == [ids[0]]
    assert gone(world) == [ids[0]]


def test_no_instance_is_gone_after_an_incomplete_list(monkeypatch: pytest.MonkeyPatch) -> None:
    world, _ = fleet(5)
    whole = world.ec2.living
    monkeypatch.setattr(world.ec2, "living", lambda filters: list(whole(filters))[:2])
    assert world.send(EVENT)["sweep"]["gone"] == []


def test_no_instance_is_gone_if_ec2_does_not_answer_for_an_id(monkeypatch: pytest.MonkeyPatch) -> None:
    world, ids = fleet(3)
    world.ec2.terminate(ids[0])

    def short(_: object) -> object:
        raise TransientError(f"EC2 says neither what {ids[0]} is nor that it does not exist")

    monkeypatch.setattr(world.ec2, "ask_by_id", short)
    with pytest.raises(FailedError, match="says neither what"):
        world.send(EVENT)
    assert gone(world) == []


def test_above_the_brake_it_fails_and_sends_nothing_and_an_operator_may_accept() -> None:
    world, ids = fleet(13, SweepSettings(max_instances=10))
    for instance_id in ids[:11]:
        world.ec2.terminate(instance_id)
    with pytest.raises(FailedError, match=r"found 11 of 13 recorded instances gone. One sweep may remove 10"):
        world.send(EVENT)
    assert gone(world) == []
    world.send({"sweep": True, "accept": [ids[0]]})
    assert gone(world) == sorted(ids[:11])


def test_accepted_instances_are_sent_even_if_the_brake_stops_the_rest() -> None:
    world, ids = fleet(14, SweepSettings(max_instances=10))
    for instance_id in ids[:13]:
        world.ec2.terminate(instance_id)
    lives = ids[13]
    report = world.send({"sweep": True, "accept": [ids[0], ids[1], lives]})
    [error] = report["errors"]
    assert "found 13 of 14 recorded instances gone. One sweep may remove 10" in error
    assert "only the 2 accepted ones are removed" in error
    assert gone(world) == sorted(ids[:2])


def test_of_many_above_the_brake_some_are_told_and_the_report_lists_as_many_as_fit() -> None:
    world, _ = fleet(1)
    ids = [f"i-{number:017x}" for number in range(100, 5100)]
    world.inventory.remember_running([Instance(i, account_id=ACCOUNT, region="us-east-1") for i in ids], {})
    report = world.send({"sweep": True})
    assert report["sweep"]["gone"] == ids[:2000]
    assert report["sweep"]["left_off"] == {"gone": 3000}
    [error] = report["errors"]
    assert error.count("i-0") == 20
    assert "and 4980 more, which the report lists" in error
    # A line of CloudWatch's log holds 256 KB.
    assert max(len(line.message) + len(json.dumps(line.extra)) for line in world.log.lines) < 200_000
    world.send({"sweep": True, "accept": report["sweep"]["gone"]})
    assert gone(world) == ids[:2000]
    assert world.send_batch(*world.queue.sent[:5]).failed == ()
    assert world.send({"sweep": True})["sweep"]["gone"][:3] == ids[5:8]


def test_an_operators_dry_run_lists_and_changes_nothing() -> None:
    world, ids = fleet(2)
    world.ec2.terminate(ids[0])
    world.ec2.tag(ids[1], Role="db")
    report = world.send({"sweep": True, "dry_run": True})
    assert (report["sweep"]["gone"], report["sweep"]["refreshed"]) == ([ids[0]], 1)
    assert gone(world) == []
    assert world.inventory.items[ids[1]].facts.tags == {"Name": "web-1"}


def test_live_instances_are_refreshed_and_unrecorded_ones_are_recorded() -> None:
    world, ids = fleet(1)
    world.ec2.tag(ids[0], Role="db")
    new = world.launch("new")
    assert world.send(EVENT)["sweep"]["refreshed"] == 2
    assert world.inventory.items[ids[0]].facts.tags == {"Name": "web-0", "Role": "db"}
    assert world.inventory.items[new].state == "running"
    assert world.send(EVENT)["sweep"]["refreshed"] == 0


def test_the_refresh_keeps_everything_that_an_instance_ever_had() -> None:
    world, ids = fleet(1)
    interface = next(iter(world.ec2.network_interfaces.values()))
    for address, name in (("54.0.0.1", "a"), ("54.0.0.2", "b")):
        interface.public_ips = {interface.private_ips[0]: address}
        world.ec2.tag(ids[0], Name=name)
        world.send(EVENT)
    facts = world.inventory.items[ids[0]].facts
    assert set(facts.public_ips) == {"54.0.0.1", "54.0.0.2"}
    assert (facts.tags["Name"], set(facts.past_tags["Name"])) == ("b", {"a", "web-0"})
    assert facts.ran


def test_an_excluded_instance_is_recorded_as_excluded() -> None:
    world, _ = fleet(0, instance_filter=InstanceFilter(exclude_tags={"keep": ("yes",)}))
    kept = world.launch("web-1", tags={"keep": "yes"})
    world.send(EVENT)
    assert "exclude_tags" in str(world.inventory.items[kept].excluded)


def test_excluded_instances_do_not_count_towards_the_brake_and_their_end_is_marked() -> None:
    """Field case 19: the filter is narrowed, and 13 recorded instances that are now excluded die."""
    world, ids = fleet(0)
    ids = [world.launch(f"web-{n}", tags={"team": "db" if n else "web"}) for n in range(14)]
    for instance_id in ids:
        world.send(world.running(instance_id))
    world.configure(instance_filter=InstanceFilter(include_tags={"team": ("web",)}))
    world.launch("lives", tags={"team": "web"})
    for instance_id in ids:
        world.ec2.terminate(instance_id)
    report = world.send(EVENT)["sweep"]
    assert (report["gone"], report["excluded"]) == ([ids[0]], 13)
    assert gone(world) == [ids[0]]
    assert all(world.inventory.items[i].finished for i in ids[1:])
    assert world.send_batch(*world.queue.sent).failed == ()
    assert world.a("web-0") is None
    assert world.a("web-1") is not None


def test_an_end_that_was_not_finished_is_taken_up_again_once_its_message_is_due() -> None:
    """Field case 20: a failed instance's dead letter expires."""
    world, ids = fleet(2)
    world.ec2.terminate(ids[0])

    def fail(*_: str) -> None:
        raise TransientError("no connection")

    world.zones.fault = fail
    assert len(world.send_batch(world.terminated(ids[0])).failed) == 1
    assert world.send(EVENT)["sweep"]["unfinished"] == []  # its message waits for the retry
    world.later(timedelta(seconds=61))
    world.queue.sent.clear()
    assert world.send(EVENT)["sweep"]["unfinished"] == [ids[0]]
    world.send_batch(*world.queue.sent, receive_count=30)
    world.queue.sent.clear()
    world.later(timedelta(hours=23))
    assert world.send(EVENT)["sweep"]["unfinished"] == []
    world.ec2.forget(ids[0])
    world.later(timedelta(days=14))
    assert world.send(EVENT)["sweep"]["unfinished"] == [ids[0]]
    world.zones.fault = lambda *_: None
    assert world.send_batch(*world.queue.sent).failed == ()
    assert world.a("web-0") is None
    assert world.send(EVENT)["sweep"]["unfinished"] == []


def test_an_end_that_was_never_handled_to_its_end_is_taken_up_after_a_while() -> None:
    """The function was killed after it wrote the identity down."""
    world, ids = fleet(2)
    world.ec2.terminate(ids[0])
    instance = world.inventory.recall([ids[0]])[ids[0]].instance()
    world.inventory.remember_terminated([instance], tags_known=True)
    assert world.send(EVENT)["sweep"]["unfinished"] == []
    world.later(timedelta(minutes=16))
    assert world.send(EVENT)["sweep"]["unfinished"] == [ids[0]]


# Places


MEMBER = Place("222222222222", "eu-west-1")


def test_each_place_has_its_own_sweep_and_its_own_brake() -> None:
    """A mass disappearance in one place does not stop another's sweep."""
    world = World(sweep=SweepSettings(max_instances=10), places=[MEMBER])
    mine = [world.launch(f"web-{n}") for n in range(3)]
    other = [world.launch(f"db-{n}", place=MEMBER) for n in range(12)]
    for instance_id in (*mine, *other):
        world.send(world.running(instance_id))
    world.ec2.terminate(mine[0])
    for instance_id in other[:11]:
        world.ec2s[MEMBER].terminate(instance_id)
    report = world.send(EVENT)
    assert "one sweep was sent for each of 2 places" in report["note"]
    sweeps = world.queue.sent[:]
    world.queue.sent.clear()
    answer = world.send_batch(*sweeps, message_ids=["home", "member"])
    assert answer.failed == ("member",)
    assert gone(world) == [mine[0]]
    assert (world.queue.sent[0]["account"], world.queue.sent[0]["region"]) == (HOME.account_id, HOME.region)
    assert (answer.reports["member"]["account_id"], answer.reports["member"]["region"]) == (
        MEMBER.account_id,
        MEMBER.region,
    )


def test_records_of_a_place_that_is_no_longer_served_are_left_alone() -> None:
    world = World(sweep=SweepSettings())
    facts = Facts("ec2", account_id=MEMBER.account_id, region=MEMBER.region, ran=True)
    world.inventory.remember_running([Instance("i-0000000000000aaaa").learn(facts)], {})
    world.launch("lives")
    assert world.send(EVENT)["sweep"]["gone"] == []
    assert world.inventory.items["i-0000000000000aaaa"].state == "running"


@pytest.mark.parametrize("part", ["ec2", "inventory", "queue"])
def test_unavailable_system_fails_the_sweep(part: str) -> None:
    world, ids = fleet(2)
    world.ec2.terminate(ids[0])

    def fail(*_: str) -> None:
        raise TransientError("no connection")

    setattr(getattr(world, part), "fault", fail)  # noqa: B010  # one of three
    with pytest.raises(FailedError, match="no connection"):
        world.send(EVENT)
    assert gone(world) == []
