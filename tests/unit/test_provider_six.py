"""The module uses nothing that version 6 of the AWS provider deprecates, but for what 5.100 leaves no choice about.

The list is what the provider's schema and documentation say of the types that are used here, as of 6.51: read from
PyPI's pulumi-aws 7.51.1, which is generated from them. A type that is not in the list fails the test: look it up, and
add it.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import hcl2
import pytest

ROOT = Path(__file__).resolve().parent.parent.parent
FILES = sorted(
    path
    for pattern in ("*.tf", "modules/*/*.tf", "examples/*/*.tf", "tests/examples/*/*.tf")
    for path in ROOT.glob(pattern)
)

# By resource type: its arguments, and those of its blocks, that are deprecated.
DEPRECATED: dict[str, set[str]] = {
    "aws_chatbot_slack_channel_configuration": set(),
    "aws_cloudwatch_dashboard": set(),
    "aws_cloudwatch_event_bus": set(),
    "aws_cloudwatch_event_bus_policy": set(),
    "aws_cloudwatch_event_rule": {"is_enabled"},
    "aws_cloudwatch_event_target": set(),
    "aws_cloudwatch_log_group": set(),
    "aws_cloudwatch_metric_alarm": set(),
    "aws_dynamodb_table": {"global_secondary_index.hash_key", "global_secondary_index.range_key"},
    "aws_iam_role": {"inline_policy", "managed_policy_arns"},
    "aws_iam_role_policy": set(),
    "aws_kms_alias": set(),
    "aws_kms_key": set(),
    "aws_lambda_event_source_mapping": set(),
    "aws_lambda_function": set(),
    "aws_lambda_layer_version": set(),
    "aws_sns_topic": set(),
    "aws_sns_topic_policy": set(),
    "aws_sns_topic_subscription": set(),
    "aws_sqs_queue": set(),
    "aws_sqs_queue_policy": set(),
    "aws_sqs_queue_redrive_allow_policy": set(),
    "terraform_data": set(),
}
# Deprecated in favor of global_secondary_index.key_schema, which 5.100 does not have.
NO_CHOICE = {
    ("aws_dynamodb_table", "global_secondary_index.hash_key"),
    ("aws_dynamodb_table", "global_secondary_index.range_key"),
}


def resources(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """The resources of a file: type and body."""
    for block in hcl2.loads(path.read_text()).get("resource", []):
        for kind, named in block.items():
            for body in named.values():
                yield kind.strip('"'), body


def arguments(body: dict[str, Any], within: str = "") -> Iterator[str]:
    """Every argument of a resource, those in its blocks as "block.argument"."""
    for name, value in body.items():
        yield f"{within}{name}"
        for block in value if isinstance(value, list) else []:
            if isinstance(block, dict):
                yield from arguments(block, f"{within}{name}.")


def used() -> set[tuple[str, str]]:
    return {(kind, argument) for path in FILES for kind, body in resources(path) for argument in arguments(body)}


def test_no_avoidable_deprecated_argument_is_set() -> None:
    deprecated = {(kind, argument) for kind, names in DEPRECATED.items() for argument in names}
    assert used() & deprecated == NO_CHOICE


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_every_resource_type_was_reviewed(path: Path) -> None:
    assert {kind for kind, _ in resources(path)} <= set(DEPRECATED)


@pytest.mark.parametrize(
    "path", [*ROOT.glob("*.tf"), *ROOT.glob("modules/*/*.tf")], ids=lambda path: str(path.relative_to(ROOT))
)
def test_no_data_source_is_read(path: Path) -> None:
    """A depends_on on the call of a module defers its data sources, and replaces what is named after them.

    aws_region and aws_partition also have deprecated attributes.
    """
    assert re.findall(r'^\s*data "(\w+)"', path.read_text(), re.MULTILINE) == []


def test_exception_is_explained_in_a_comment() -> None:
    assert "Provider 6 deprecates hash_key and range_key here" in (ROOT / "inventory.tf").read_text()
