"""Each system is down for 12 hours, for 24, and for longer than the retries last, in simulated time.

The settings are the module's defaults. The clock is the queue's: what waits in it is made as much older.
"""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, field

import pytest

from testbed.aws import Answer
from tests.deployed.conftest import NAME, Deployed
from tests.deployed.faults.findings import Findings, Outage
from tests.deployed.faults.fleet import Family, Fleet
from tests.deployed.faults.lane import SYSTEMS, Lane, failures, messages_of

pytestmark = [pytest.mark.servers, pytest.mark.timeout(600)]

HOUR = 3600
DEAD_LETTERS = f"{NAME}-dead-letters"
# Not one of the faults that AWS's SDK waits for and tries again: those hours would take minutes.
_DOWN = Answer(200, b"<html><body>This service is being moved.</body></html>", {"Content-Type": "text/html"})


@dataclass
class _Clock:
    """Simulated seconds since the outage began."""

    deployed: Deployed
    now: float = 0

    def advance(self, seconds: float) -> None:
        self.deployed.platform.poller.advance(seconds)
        self.now += seconds


@dataclass
class _Case:
    """One system, with an instance for each outage: of 12 hours, of 24, and of one that does not end."""

    system: str
    lane: Lane
    family: Family
    messages: list[str] = field(default_factory=list)


def test_an_outage_of_a_day_loses_nothing(deployed: Deployed, findings: Findings) -> None:
    fleet = Fleet(deployed.platform)
    poller = deployed.platform.poller
    families = fleet.start(len(SYSTEMS), dying=3)
    message_ids = messages_of(deployed, [dead.id for family in families for dead in family.dying], "terminated")
    limit = deployed.stack.outputs()["effective_config"]["queue"]["max_receive_count"]
    bodies = {message["id"]: message["body"] for message in poller.messages(NAME)}
    clock = _Clock(deployed)
    with ExitStack() as stack, ThreadPoolExecutor(len(SYSTEMS)) as pool:
        cases = [
            _Case(system, stack.enter_context(Lane(deployed, f"outage-{system}")), family)
            for system, family in zip(SYSTEMS, families, strict=True)
        ]
        for case in cases:
            case.messages = [message_ids[dead.id] for dead in case.family.dying]

        def fails(case: _Case) -> None:
            case.lane.proxies[case.system].answers(_DOWN)
            batch = case.lane.deliver(case.messages)
            assert sorted(batch.returned) == sorted(case.messages), (case.system, clock.now)

        def finishes(case: _Case) -> None:
            """The first of its instances, now that the system is back."""
            case.lane.passes()
            message = case.messages.pop(0)
            told = failures(case.lane.deliver([message]))
            assert told == [], (case.system, clock.now)
            case.lane.kill()  # or the outage of KMS would be over for it: a warm function has its secrets

        ends = [12 * HOUR, 24 * HOUR]
        while any(message["receive_count"] < limit for message in poller.messages(NAME)):
            if ends and clock.now >= ends[0]:
                end = ends.pop(0)
                receives = {message["id"]: message["receive_count"] for message in poller.messages(NAME)}
                for case in cases:
                    waited = clock.now - end
                    count = receives[case.messages[0]] + 1
                    findings.outages.append(Outage(end / HOUR, case.system, count, waited, False))
                list(pool.map(finishes, cases))
            list(pool.map(fails, cases))
            waits = [message["visible_in_seconds"] for message in poller.messages(NAME)]
            clock.advance(max(waits) + 1)
        assert ends == []

        # Longer than all retries: SQS puts each aside instead of giving it out once more, the event as it came.
        assert poller.poll() == []
        letters = {message["id"]: message for message in poller.messages(DEAD_LETTERS)}
        assert letters.keys() == {message for case in cases for message in case.messages}
        for message_id, letter in letters.items():
            assert json.loads(letter["body"]) == json.loads(bodies[message_id])
        for case in cases:
            receives_of = letters[case.messages[0]]["receive_count"]
            findings.outages.append(Outage(clock.now / HOUR, case.system, receives_of, 0, True))
            case.lane.passes()

        # The operator sends them back, and they are finished.
        assert deployed.redrive() == len(SYSTEMS)
        for batch in deployed.deliver():
            assert failures(batch) == []
    world = fleet.world()
    for family in families:
        assert family.heir.traces <= world
        for dead in family.dying:
            assert not dead.traces & world
    assert poller.messages(NAME) == poller.messages(DEAD_LETTERS) == []
