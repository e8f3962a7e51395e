"""The function is killed between any two of its calls, as Lambda does at a time-out: the next delivery finishes.

A killed process keeps nothing, so all that counts is which calls took effect: none, the first, the first two, and so
on to all of them with the answer to Lambda still to come. Killing it after call k is also killing it before k + 1.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import pytest

from testbed.fault_proxy import Request
from testbed.lambda_service import Batch
from tests.deployed.conftest import Deployed, report_of
from tests.deployed.faults.findings import Findings
from tests.deployed.faults.fleet import Family, Fleet
from tests.deployed.faults.lane import Lane, failures, messages_of

pytestmark = [pytest.mark.servers, pytest.mark.timeout(600)]

_LANES = 2  # as many as the machine has cores, at the least


class _Killer:
    """Counts the lane's calls, and kills the function at one of them. Before the first: 0; after call k: k."""

    def __init__(self, lane: Lane) -> None:
        self._lane = lane
        self.calls: list[str] = []
        self.at: int | None = None
        lane.watch(self._watch)

    def deliver(self, message_id: str, at: int | None) -> Batch:
        """One delivery to a cold environment, killed at that boundary."""
        self._lane.kill()
        self.calls, self.at = [], at
        return self._lane.deliver([message_id])

    def _watch(self, system: str, request: Request, done: bool) -> None:
        if done:
            self.calls.append(f"{system}: {request.operation}")
        here = len(self.calls) if done or not self.calls else None
        if self.at is not None and self.at == here:
            self.at = None
            self._lane.kill()


def test_killed_between_any_two_calls_it_is_finished_by_the_next_delivery(
    deployed: Deployed, findings: Findings
) -> None:
    fleet = Fleet(deployed.platform)
    with Lane(deployed, "kills-0") as first, Lane(deployed, "kills-1") as second:
        killers = [_Killer(first), _Killer(second)]
        [whole] = fleet.start(1)
        message_ids = messages_of(deployed, [whole.dying[0].id], "terminated")
        batch = killers[0].deliver(message_ids[whole.dying[0].id], None)
        assert failures(batch) == []
        findings.calls = list(killers[0].calls)
        boundaries = range(len(findings.calls) + 1)

        families = fleet.start(len(boundaries))
        before = fleet.world()
        message_ids = messages_of(deployed, [family.dying[0].id for family in families], "terminated")

        def kill(number: int) -> None:
            for at in boundaries[number::_LANES]:
                [dead] = families[at].dying
                batch = killers[number].deliver(message_ids[dead.id], at)
                assert batch.invocation.error is not None, f"not killed after call {at}: {killers[number].calls}"
                assert batch.invocation.error["errorType"] == "Runtime.ExitError"
                assert batch.returned == batch.message_ids

        with ThreadPoolExecutor(_LANES) as pool:
            list(pool.map(kill, range(_LANES)))
        _finishes(first, families, message_ids)
        after = fleet.world()
        for at, family in enumerate(families):
            [dead] = family.dying
            told = f"killed after call {at} ({findings.calls[at - 1] if at else 'none'})"
            assert not dead.traces & after, told
            assert family.heir.traces <= after, told
        dead_traces = set().union(*(family.dying[0].traces for family in families))
        assert before - after == dead_traces


def _finishes(lane: Lane, families: list[Family], message_ids: dict[str, str]) -> None:
    batch = lane.deliver(list(message_ids.values()))
    for family in families:
        report = report_of([batch], family.dying[0].id)
        assert {step["status"] for step in report["steps"]} <= {"done", "clean", "skipped"}, report
    assert failures(batch) == []
