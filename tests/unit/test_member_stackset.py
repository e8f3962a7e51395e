"""modules/member and its CloudFormation template make the same resources.

The template is resolved as CloudFormation would in one member; Terraform's own values are held against the result by
one `terraform test` with a mock provider.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import hcl2
import pytest
import yaml

from testbed import tools

ROOT = Path(__file__).resolve().parent.parent.parent
MEMBER = ROOT / "modules" / "member"

PSEUDO = {"AWS::Region": "us-east-1", "AWS::AccountId": "222222222222", "AWS::Partition": "aws"}
BUS = "arn:aws:events:eu-west-1:111111111111:event-bus/ec2-decommission-members"
FUNCTION_ROLE = "arn:aws:iam::111111111111:role/ec2-decommission-eu-west-1"
BOUNDARY = "arn:aws:iam::222222222222:policy/boundary"

# The same call for both: Terraform's inputs, CloudFormation's parameters.
CALLS: dict[str, tuple[dict[str, Any], dict[str, str]]] = {
    "first region": (
        {"external_id": "shared", "permissions_boundary_arn": BOUNDARY},
        {"ExternalId": "shared", "PermissionsBoundaryArn": BOUNDARY, "RoleRegion": "us-east-1"},
    ),
    "further region": (
        {"create_role": False, "role_name": "reader"},
        {"RoleName": "reader", "RoleRegion": "eu-west-1"},
    ),
    "nothing but the required": ({}, {"RoleRegion": "us-east-1"}),
}

# Each property of the template, and Terraform's expression of it.
PROPERTIES = {
    "InstanceState.Name": "aws_cloudwatch_event_rule.instance_state.name",
    "InstanceState.Description": "aws_cloudwatch_event_rule.instance_state.description",
    "InstanceState.EventPattern": "jsondecode(aws_cloudwatch_event_rule.instance_state.event_pattern)",
    "InstanceState.Targets": """[{
      Id               = aws_cloudwatch_event_target.event_bus.target_id
      Arn              = aws_cloudwatch_event_target.event_bus.arn
      RoleArn          = aws_cloudwatch_event_target.event_bus.role_arn
      DeadLetterConfig = { Arn = aws_cloudwatch_event_target.event_bus.dead_letter_config[0].arn }
      RetryPolicy = {
        MaximumEventAgeInSeconds = aws_cloudwatch_event_target.event_bus.retry_policy[0].maximum_event_age_in_seconds
        MaximumRetryAttempts     = aws_cloudwatch_event_target.event_bus.retry_policy[0].maximum_retry_attempts
      }
    }]""",
    "Undelivered.QueueName": "aws_sqs_queue.undelivered.name",
    "Undelivered.MessageRetentionPeriod": "aws_sqs_queue.undelivered.message_retention_seconds",
    "Undelivered.SqsManagedSseEnabled": "aws_sqs_queue.undelivered.sqs_managed_sse_enabled",
    "UndeliveredPolicy.Queues": "[aws_sqs_queue_policy.undelivered.queue_url]",
    "UndeliveredPolicy.PolicyDocument": "jsondecode(aws_sqs_queue_policy.undelivered.policy)",
    **{
        f"{logical}.{name}": text.replace("ROLE", address).replace("POLICY", address.replace("role.", "role_policy."))
        for logical, address in {"Forwarder": "aws_iam_role.forwarder", "Reader": "aws_iam_role.reader[0]"}.items()
        for name, text in {
            "RoleName": "ROLE.name",
            "Description": "ROLE.description",
            "PermissionsBoundary": "ROLE.permissions_boundary",
            "AssumeRolePolicyDocument": "jsondecode(ROLE.assume_role_policy)",
            "Policies": "[{ PolicyName = POLICY.name, PolicyDocument = jsondecode(POLICY.policy) }]",
        }.items()
    },
}
# What only says in which order Terraform works, or how it joins two resources.
TERRAFORMS_OWN = {"tags", "count", "depends_on", "rule", "role"}
NOTHING = object()


class _Loader(yaml.SafeLoader):  # type: ignore[misc]  # yaml has no types
    """Reads CloudFormation's short forms, such as !Ref, as their long ones."""


def _long_form(loader: _Loader, suffix: str, node: yaml.Node) -> dict[str, Any]:
    if isinstance(node, yaml.ScalarNode):
        value: Any = loader.construct_scalar(node)
    else:
        assert isinstance(node, yaml.SequenceNode)
        value = loader.construct_sequence(node, deep=True)
    return {suffix if suffix == "Ref" else f"Fn::{suffix}": value}


_Loader.add_multi_constructor("!", _long_form)
TEMPLATE: dict[str, Any] = yaml.load((MEMBER / "stackset.yaml").read_text(), _Loader)  # noqa: S506 (a safe loader's)


class Stack:
    """The template in one member."""

    def __init__(self, parameters: dict[str, str]) -> None:
        defaults = {name: item["Default"] for name, item in TEMPLATE["Parameters"].items() if "Default" in item}
        self.names = {**PSEUDO, **defaults, **parameters}
        self.names |= {"EventBusArn": BUS, "FunctionRoleArn": FUNCTION_ROLE}
        queue = f"{self.names['RoleName']}-undelivered"
        self.names["Undelivered"] = f"https://sqs.us-east-1.amazonaws.com/222222222222/{queue}"
        self.arns = {
            "Undelivered.Arn": f"arn:aws:sqs:us-east-1:222222222222:{queue}",
            "Forwarder.Arn": "arn:aws:iam::222222222222:role/made-up",
            "InstanceState.Arn": "arn:aws:events:us-east-1:222222222222:rule/made-up",
        }

    def holds(self, condition: str) -> bool:
        return bool(self.value(TEMPLATE["Conditions"][condition]))

    def value(self, found: Any) -> Any:
        """The value as CloudFormation works it out."""
        if isinstance(found, list):
            return [self.value(item) for item in found]
        if not isinstance(found, dict):
            return found
        match found:
            case {"Ref": "AWS::NoValue"}:
                return NOTHING
            case {"Ref": name}:
                return self.names[name]
            case {"Fn::GetAtt": name}:
                return self.arns[name]
            case {"Fn::Sub": text}:
                return re.sub(r"\$\{([\w:]+)\}", lambda match: self.names[match[1]], text)
            case {"Fn::Equals": [one, other]}:
                return self.value(one) == self.value(other)
            case {"Fn::Not": [one]}:
                return not self.value(one)
            case {"Fn::If": [condition, one, other]}:
                return self.value(one if self.holds(condition) else other)
        values = {key: self.value(value) for key, value in found.items()}
        return {key: value for key, value in values.items() if value is not NOTHING}

    def properties(self) -> dict[str, Any]:
        """Every property of every resource that is made, by "resource.property"."""
        return {
            f"{logical}.{name}": value
            for logical, resource in TEMPLATE["Resources"].items()
            if "Condition" not in resource or self.holds(resource["Condition"])
            for name, value in self.value(resource["Properties"]).items()
        }


def literal(value: Any) -> str:
    """The value as Terraform reads it."""
    return f"jsondecode({json.dumps(json.dumps(value)).replace('${', '$${').replace('%{', '%%{')})"


def run_block(name: str, inputs: dict[str, Any], stack: Stack) -> str:
    """Both held together: each property that the template sets."""
    asserts = {PROPERTIES[name]: value for name, value in stack.properties().items()}
    asserts |= {
        f"output.{output}": stack.value(TEMPLATE["Outputs"][logical]["Value"])
        for logical, output in {"RoleArn": "role_arn", "EventRuleArn": "event_rule_arn"}.items()
    }
    inputs = {"event_bus_arn": BUS, "function_role_arn": FUNCTION_ROLE, **inputs}
    lines = [f'run "{name.replace(" ", "_")}" {{', "  variables {"]
    lines += [f"    {key} = {json.dumps(value)}" for key, value in inputs.items()]
    lines.append("  }")
    for expression, expected in asserts.items():
        condition = f"jsonencode({expression}) == jsonencode({literal(expected)})"
        lines += [
            "  assert {",
            f"    condition = {condition}",
            f"    error_message = jsonencode({expression})",
            "  }",
        ]
    return "\n".join([*lines, "}"])


def mock_provider(stack: Stack) -> str:
    defaults = {
        "aws_sqs_queue": {
            "id": stack.names["Undelivered"],
            "arn": stack.arns["Undelivered.Arn"],
            "url": stack.names["Undelivered"],
        },
        "aws_iam_role": {"arn": stack.arns["Forwarder.Arn"]},
        "aws_cloudwatch_event_rule": {"arn": stack.arns["InstanceState.Arn"]},
    }
    blocks = [
        f'  mock_resource "{kind}" {{\n    defaults = {json.dumps(values)}\n  }}' for kind, values in defaults.items()
    ]
    return "\n".join(['mock_provider "aws" {', *blocks, "}"])


@pytest.mark.servers
def test_both_make_the_same(tmp_path: Path) -> None:
    module = tmp_path / "member"
    shutil.copytree(MEMBER, module)
    (module / "tests").mkdir()
    for name, (inputs, parameters) in CALLS.items():
        stack = Stack(parameters)
        text = f"{mock_provider(stack)}\n{run_block(name, inputs, stack)}\n"
        (module / "tests" / f"{name.replace(' ', '_')}.tftest.hcl").write_text(text)
    mirror = tools.terraform_mirror()
    environment = {key: value for key, value in os.environ.items() if not key.startswith("TF_")}
    plugins = [f"-plugin-dir={mirror}"] if mirror else []
    for arguments in (["init", "-backend=false", *plugins], ["test", "-no-color"]):
        done = subprocess.run(
            [tools.terraform_binary(), *arguments],
            cwd=module,
            env=environment,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stdout + done.stderr
    assert f"Success! {len(CALLS)} passed" in done.stdout


def test_each_property_of_the_template_is_held_against_terraforms() -> None:
    assert set(Stack(CALLS["first region"][1]).properties()) == set(PROPERTIES)


def test_each_argument_of_the_module_is_held_against_the_templates() -> None:
    held = " ".join(PROPERTIES.values())
    blocks = hcl2.loads((MEMBER / "main.tf").read_text())["resource"]
    for kind, name, body in [
        (kind.strip('"'), name.strip('"'), body)
        for block in blocks
        for kind, named in block.items()
        for name, body in named.items()
    ]:
        arguments = {key for key in body if not key.startswith("__")} - TERRAFORMS_OWN
        missing = {key for key in arguments if not re.search(rf"{kind}\.{name}(\[0\])?\.{key}\b", held)}
        assert missing == set(), f"{kind}.{name}"


def test_the_parameters_are_the_inputs_and_the_outputs_the_outputs() -> None:
    def snake(names: dict[str, Any]) -> set[str]:
        return {re.sub(r"(?<!^)(?=[A-Z])", "_", name).lower() for name in names}

    inputs = set(re.findall(r'^variable "(\w+)"', (MEMBER / "variables.tf").read_text(), re.MULTILINE))
    outputs = set(re.findall(r'^output "(\w+)"', (MEMBER / "outputs.tf").read_text(), re.MULTILINE))
    # A stack has tags of its own, and stands in one region.
    assert snake(TEMPLATE["Parameters"]) - {"role_region"} == inputs - {"tags", "create_role"}
    assert snake(TEMPLATE["Outputs"]) == outputs
