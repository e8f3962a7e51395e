"""The operator's command on the deployed stack, found by its outputs, with the documented policy and no more."""

from __future__ import annotations

import json
from typing import Any

import pytest

from testbed.aws import unavailable
from tests.deployed.conftest import Deployed
from tests.operator.conftest import documented_policy, run_operator, user_with

pytestmark = pytest.mark.servers


def test_an_outage_a_dead_letter_its_reason_and_the_way_back(deployed: Deployed) -> None:
    platform = deployed.platform
    environment = platform.aws.environ(user_with(platform.aws, documented_policy()))
    outputs = json.dumps({"ec2_decommission": {"value": deployed.stack.outputs()}})

    def operator(*arguments: str) -> Any:
        ran = run_operator(["--outputs", "-", "--json", *arguments], environment, stdin=outputs)
        assert (ran.status, ran.err) == (0, ""), arguments
        return ran.document

    dead = platform.launch(deployed.name())
    deployed.deliver()
    with platform.aws.fault(lambda service, *_: unavailable() if service == "route53" else None):
        platform.kill(dead)
        platform.poller.drain(skip_delays=True)
    assert operator("status")["dead_letters"] == {"waiting": 1, "taken": 0}

    [letter] = operator("dead-letters", "list")["dead_letters"]
    assert letter["instance_id"] == dead.id
    assert letter["reason"].startswith("route53: ")
    # The other steps were not held up by it.
    assert {thing.split()[0] for thing in deployed.things(dead.name)} == {"A", "PTR", "lock"}

    assert operator("dead-letters", "resend", "--all")["sent"] == 1
    deployed.deliver()
    assert deployed.things(dead.name) == [f"lock {dead.lock} free"]
    assert operator("dead-letters", "list")["dead_letters"] == []
    record = operator("show", dead.id)["record"]
    assert {step["status"] for step in record["steps"].values()} == {"done"}
