"""The operator's command with the deployed stack's outputs, and with only the documented permissions."""

from __future__ import annotations

import json
from typing import Any

import pytest

from testbed.aws import unavailable
from tests.deployed.conftest import Deployed
from tests.operator.conftest import documented_policy, run_cli, user_with

pytestmark = pytest.mark.servers


def test_operator_diagnoses_and_redrives_a_dead_letter_after_an_outage(deployed: Deployed) -> None:
    platform = deployed.platform
    environment = platform.aws.environ(user_with(platform.aws, documented_policy()))
    outputs = json.dumps({"ec2_decommission": {"value": deployed.stack.outputs()}})

    def cli(*arguments: str) -> Any:
        ran = run_cli([*arguments, "--outputs", "-", "--json"], environment, stdin=outputs)
        assert ran.status == 0, (arguments, ran.err)
        return ran.document

    dead = platform.launch(deployed.name())
    deployed.deliver()
    with platform.aws.fault(lambda service, *_: unavailable() if service == "route53" else None):
        platform.kill(dead)
        platform.poller.drain(skip_delays=True)
    status = cli("status")
    assert (status["event_source_mapping"], status["dead_letters"]) == ("Enabled", 1)
    assert status["unfinished"] == [dead.id]
    steps = cli("show", dead.id)["record"]["steps"]
    assert {name: step["status"] for name, step in steps.items()} == {
        "route53": "failed",
        "chef": "done",
        "consul": "done",
    }
    assert "route53" in steps["route53"]["reason"]
    # The failure did not block the other steps.
    assert {thing.split()[0] for thing in deployed.things(dead.name)} == {"A", "PTR", "lock"}

    assert deployed.redrive() == 1
    deployed.deliver()
    assert deployed.things(dead.name) == [f"lock {dead.lock} free"]
    assert cli("status")["dead_letters"] == 0
    [instance] = [one for one in cli("report", "--since", "1h")["instances"] if one["instance_id"] == dead.id]
    assert {entry["step"] for entry in instance["removed"]} == {"route53", "chef", "consul"}
    assert all(entry["proof"] and entry["request_id"] for entry in instance["removed"])
