"""Every input describes each of its attributes; no description names an attribute that does not exist."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import hcl2
import pytest

ROOT = Path(__file__).resolve().parent.parent.parent
TEXT = (ROOT / "variables.tf").read_text()
BLOCKS = dict(re.findall(r'^variable "(\w+)" \{\n(.*?)^\}', TEXT, re.MULTILINE | re.DOTALL))


def attributes(block: str) -> set[str]:
    """The names within the type, those of objects within objects too."""
    found = re.search(r"^  type\s*= (.*?)(?=^  \w)", block + "  end", re.MULTILINE | re.DOTALL)
    assert found is not None
    return set(re.findall(r"^\s+(\w+)\s*=", found[1], re.MULTILINE))


def described(block: str) -> set[str]:
    """The names that begin the entries of the description's lists."""
    entries = re.findall(r"^\s+- ((?:`\w+`(?:, )?)+) - ", block, re.MULTILINE)
    return {name for entry in entries for name in re.findall(r"`(\w+)`", entry)}


@pytest.mark.parametrize("name", BLOCKS)
def test_every_attribute_is_described_and_no_other(name: str) -> None:
    told = BLOCKS[name].split("  type ")[0]
    assert described(BLOCKS[name]) <= attributes(BLOCKS[name])
    assert {attribute for attribute in attributes(BLOCKS[name]) if f"`{attribute}`" not in told} == set()


@pytest.mark.parametrize("name", BLOCKS)
def test_inputs_have_description_type_and_default_in_this_order_and_are_checked_after(name: str) -> None:
    order = re.findall(r"^  (description|type|default|nullable|validation)\b", BLOCKS[name], re.MULTILINE)
    assert order[:3] == ["description", "type", "default"]
    assert order[3:] == sorted(order[3:])


@pytest.mark.parametrize("name", BLOCKS)
def test_validation_messages_name_the_input_and_are_sentences(name: str) -> None:
    messages = re.findall(r'^\s+error_message = "(.*)"$', BLOCKS[name], re.MULTILINE)
    assert len(messages) == BLOCKS[name].count("  validation {")
    for message in messages:
        assert message.startswith(name), message
        assert message.endswith("."), message


def test_an_input_that_may_not_be_null_says_so() -> None:
    variables: list[dict[str, Any]] = hcl2.loads(TEXT)["variable"]
    for variable in variables:
        for name, body in variable.items():
            nullable = body.get("default") in (None, "null")
            assert nullable or body.get("nullable") is False, name
