"""The policy in docs/operator.md is sufficient for every command, and every permission in it is necessary."""

from __future__ import annotations

import copy
from typing import Any

import pytest

from testbed.aws import StrictAws
from tests.operator.conftest import Site, documented_policy, user_with

pytestmark = pytest.mark.servers

# A command that requires the permission.
NEEDS = {
    "lambda:GetFunctionConfiguration": ["status"],
    "lambda:ListEventSourceMappings": ["status"],
    "sqs:GetQueueAttributes": ["status"],
    "dynamodb:Scan": ["report"],
    "dynamodb:GetItem": ["show", "i-0abc"],
    "lambda:InvokeFunction": ["decommission", "i-0abc", "--dry-run"],
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


def test_the_documented_policy_is_enough_for_every_command(site: Site, aws: StrictAws) -> None:
    site.launch("web-1")
    site.credentials = user_with(aws, documented_policy())
    for command in (
        ["status"],
        ["show", "i-0abc"],
        ["decommission", "i-0abc", "--yes"],
        ["restore", "i-0abc", "--yes"],
        ["sweep", "--dry-run"],
        ["plan"],
        ["report", "--html"],
    ):
        ran = site.cli(command[0], *command[1:])
        assert (ran.status, "denies" in ran.err) == (0, False), (command, ran.err)


def test_every_permission_is_necessary_and_named_if_missing(site: Site, aws: StrictAws) -> None:
    policy = documented_policy()
    assert sorted(actions(policy)) == sorted(NEEDS)
    for number, (action, command) in enumerate(NEEDS.items()):
        site.credentials = user_with(aws, without(policy, action), f"operator-{number}")
        ran = site.cli(command[0], *command[1:])
        assert (ran.status, action in ran.said, "docs/operator.md" in ran.said) == (2, True, True), (action, ran)
