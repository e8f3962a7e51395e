"""The policy in docs/operator.md is enough for every command, and nothing in it is too much."""

from __future__ import annotations

import copy
import json
from typing import Any

import pytest

from testbed.aws import StrictAws
from tests.operator.conftest import Site, documented_policy, user_with

pytestmark = pytest.mark.servers

# A command that cannot do without the right, and finds work to do with it.
NEEDS = {
    "lambda:GetFunctionConfiguration": ["status"],
    "lambda:InvokeFunction": ["decommission", "i-0abc", "--dry-run"],
    "dynamodb:BatchGetItem": ["show", "i-0abc"],
    "sqs:GetQueueAttributes": ["dead-letters", "list"],
    "sqs:ReceiveMessage": ["dead-letters", "list"],
    "sqs:ChangeMessageVisibility": ["dead-letters", "list"],
    "sqs:DeleteMessage": ["dead-letters", "resend", "--all"],
    "sqs:SendMessage": ["dead-letters", "resend", "--all"],
    "logs:FilterLogEvents": ["dead-letters", "list"],
    "cloudwatch:DescribeAlarms": ["status"],
    "cloudwatch:GetMetricStatistics": ["status"],
}


def actions(policy: dict[str, Any]) -> list[str]:
    found = [statement["Action"] for statement in policy["Statement"]]
    return [action for entry in found for action in ([entry] if isinstance(entry, str) else entry)]


def without(policy: dict[str, Any], action: str) -> dict[str, Any]:
    left = copy.deepcopy(policy)
    for statement in left["Statement"]:
        granted = [statement["Action"]] if isinstance(statement["Action"], str) else statement["Action"]
        statement["Action"] = [entry for entry in granted if entry != action]
    left["Statement"] = [statement for statement in left["Statement"] if statement["Action"]]
    return left


def fill(site: Site) -> None:
    site.launch("web-1")
    site.send(json.dumps(site.aws.state_change("i-0abc", "terminated")), to=site.dead_letter_queue_url)


def test_the_documented_policy_is_enough_for_every_command(site: Site, aws: StrictAws) -> None:
    fill(site)
    site.credentials = user_with(aws, documented_policy())
    for command in (
        ["status"],
        ["show", "i-0abc"],
        ["decommission", "i-0abc", "--dry-run"],
        ["sweep", "--dry-run"],
        ["dead-letters", "list"],
        ["dead-letters", "resend", "--all"],
        ["dead-letters", "discard", "--all", "--yes"],
    ):
        ran = site.operator(*command)
        assert (ran.status, ran.err) == (0, ""), command


def test_every_action_of_the_documented_policy_is_needed_and_named_where_it_is_missing(
    site: Site, aws: StrictAws
) -> None:
    policy = documented_policy()
    assert sorted(actions(policy)) == sorted(NEEDS)
    for number, (action, command) in enumerate(NEEDS.items()):
        site.send(json.dumps(site.aws.state_change("i-0abc", "terminated")), to=site.dead_letter_queue_url)
        site.credentials = user_with(aws, without(policy, action), f"operator-{number}")
        ran = site.operator(*command)
        assert action in f"{ran.err}{ran.out}", (action, ran)
        assert "docs/operator.md" in f"{ran.err}{ran.out}", (action, ran)
        if action != "sqs:ChangeMessageVisibility":  # a warning: the list is whole, the letters come back later
            assert ran.status != 0, action
