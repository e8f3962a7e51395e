"""At the smallest `function.timeout` that the module takes, what hangs is cut off in time to put the message off."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack

import pytest

from testbed.aws import Hang
from tests.deployed.conftest import NAME, Deployed, report_of
from tests.deployed.faults.faults import WORDS
from tests.deployed.faults.findings import Findings
from tests.deployed.faults.fleet import Fleet
from tests.deployed.faults.lane import SYSTEMS, Lane, failures, messages_of

pytestmark = pytest.mark.servers

SHORTEST_SECONDS = 30
RETRY_DELAY_SECONDS = 60


@pytest.fixture
def shortest(deployed: Deployed) -> Iterator[Deployed]:
    client = deployed.platform.aws.client("lambda")
    before = client.get_function_configuration(FunctionName=NAME)["Timeout"]
    client.update_function_configuration(FunctionName=NAME, Timeout=SHORTEST_SECONDS)
    yield deployed
    client.update_function_configuration(FunctionName=NAME, Timeout=before)


def test_what_hangs_is_cut_off(shortest: Deployed, findings: Findings) -> None:
    fleet, poller = Fleet(shortest.platform), shortest.platform.poller
    families = dict(zip(SYSTEMS, fleet.start(len(SYSTEMS)), strict=True))
    dead = {system: family.dying[0] for system, family in families.items()}
    message_ids = messages_of(shortest, [light.id for light in dead.values()], "terminated")
    with ExitStack() as stack, ThreadPoolExecutor(len(SYSTEMS)) as pool:
        lanes = {system: stack.enter_context(Lane(shortest, f"short-{system}")) for system in SYSTEMS}

        def hang(system: str) -> tuple[str, float]:
            lane, light = lanes[system], dead[system]
            lane.proxies[system].answers(Hang(600))
            batch = lane.deliver([message_ids[light.id]])
            [message] = [m for m in poller.messages(NAME) if m["id"] == message_ids[light.id]]
            assert batch.invocation.error is None, (system, batch.invocation.error)
            assert batch.returned == batch.message_ids, system
            # Not after the queue's visibility time-out: so it was put off.
            assert 0 < message["visible_in_seconds"] <= RETRY_DELAY_SECONDS, system
            report = report_of([batch], light.id)
            told = f"{report.get('errors')} {[step['reason'] for step in report['steps']]}"
            assert all(word in told for word in WORDS[system]), (system, told)
            lane.passes()
            assert failures(lane.deliver([message_ids[light.id]])) == [], system
            return system, batch.invocation.duration

        findings.cut_off = dict(pool.map(hang, SYSTEMS))
    world = fleet.world()
    for system, family in families.items():
        assert not dead[system].traces & world, system
        assert family.heir.traces <= world, system
