"""Messages doubled, reordered, and handled by two invocations at the same moment."""

from __future__ import annotations

import threading
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, suppress
from functools import partial

import pytest

from testbed.fault_proxy import Request
from tests.deployed.conftest import Deployed, report_of
from tests.deployed.faults.findings import Findings
from tests.deployed.faults.fleet import Fleet
from tests.deployed.faults.lane import Lane, failures, is_change, messages_of, send

pytestmark = pytest.mark.servers

_MEETING_SECONDS = 20


def test_terminated_twice_in_one_batch_succeeds_twice_and_removes_once(
    deployed: Deployed, findings: Findings
) -> None:
    platform, fleet = deployed.platform, Fleet(deployed.platform)
    [family] = fleet.start(1)
    [dead] = family.dying
    [once] = messages_of(deployed, [dead.id], "terminated").values()
    twice = send(deployed, platform.aws.state_change(dead.id, "terminated"))
    with Lane(deployed, "doubled") as lane:
        batch = lane.deliver([once, twice])
        changes = Counter(change.split(":")[0] for change in lane.changes())
    assert failures(batch) == []
    assert not dead.traces & (world := fleet.world())
    assert family.heir.traces <= world
    # Client and node; both zones; lock, node (its session goes with it) — no change is made twice.
    assert changes["Chef"] == 2
    assert changes["Route 53"] == 2
    findings.races.append(f"terminated twice in one batch: {_told(changes)}, both messages done")


def test_running_beside_and_after_terminated_brings_nothing_back(deployed: Deployed, findings: Findings) -> None:
    platform, fleet = deployed.platform, Fleet(deployed.platform)
    [family] = fleet.start(1)
    [dead] = family.dying
    [terminated] = messages_of(deployed, [dead.id], "terminated").values()
    running = send(deployed, platform.aws.state_change(dead.id, "running"))
    with Lane(deployed, "reordered") as lane:
        assert failures(lane.deliver([running, terminated])) == []
        late = send(deployed, platform.aws.state_change(dead.id, "running"))
        lane.forget()
        assert failures(lane.deliver([late])) == []
        assert lane.changes() == []
    table = deployed.stack.outputs()["inventory_table_name"]
    item = platform.aws.client("dynamodb").get_item(TableName=table, Key={"instance_id": {"S": dead.id}})["Item"]
    assert item["state"] == {"S": "terminated"}
    assert "living" not in item
    assert not dead.traces & fleet.world()
    findings.races.append("running before, beside and after terminated: recorded as terminated, nothing comes back")


@pytest.mark.parametrize("system", ["Chef", "Consul", "Route 53"])
def test_terminated_in_two_invocations_at_once(deployed: Deployed, findings: Findings, system: str) -> None:
    """Both have found everything and stand before the same first change in that system, and then both make it."""
    platform, fleet = deployed.platform, Fleet(deployed.platform)
    [family] = fleet.start(1)
    [dead] = family.dying
    [one] = messages_of(deployed, [dead.id], "terminated").values()
    other = send(deployed, platform.aws.state_change(dead.id, "terminated"))
    meeting = threading.Barrier(2)
    met: list[str] = []

    def meet(lane: Lane, at: str, request: Request, done: bool) -> None:
        # Each lane's first change of the system waits for the other's.
        if at == system and not done and is_change(system, request) and lane.network.name not in met:
            met.append(lane.network.name)
            with suppress(threading.BrokenBarrierError):
                meeting.wait(_MEETING_SECONDS)

    with ExitStack() as stack, ThreadPoolExecutor(2) as pool:
        lanes = [stack.enter_context(Lane(deployed, f"race-{number}")) for number in range(2)]
        for lane in lanes:
            lane.watch(partial(meet, lane))
        batches = list(pool.map(lambda lane, message: lane.deliver([message]), lanes, [one, other]))
        assert len(met) == 2
        assert not meeting.broken
        for lane in lanes:
            lane.watch(lambda *_: None)
        assert [batch.invocation.error for batch in batches] == [None, None]
        returned = [message for batch in batches for message in batch.returned]
        again = lanes[0].deliver(returned) if returned else None
    reports = [report_of([batch], dead.id) for batch in batches]
    assert again is None or failures(again) == []
    world = fleet.world()
    assert not dead.traces & world
    assert family.heir.traces <= world
    done = sum(step["status"] == "done" for report in reports for step in report["steps"])
    assert done >= 3
    findings.races.append(
        f"terminated in two invocations at once, which meet at their first change in {system}: {len(returned)} of 2 "
        "returned, nothing of the terminated instance left, nothing of a live one gone"
    )


def _told(changes: Counter[str]) -> str:
    return ", ".join(f"{count} changes in {system}" for system, count in sorted(changes.items()))
