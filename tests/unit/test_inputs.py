"""What the module refuses at plan, and with which words: inputs.txt is the table.

All calls are planned by one `terraform test`, of the inputs alone: no provider, no resource.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
from pathlib import Path

import pytest

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent.parent
TABLE = HERE / "inputs.txt"
ACCEPTED = "accepted"
# Another Terraform than the one on PATH, as scripts/terraform-test names it.
TERRAFORM = shlex.split(os.environ.get("TERRAFORM", "terraform"))


def cases() -> list[tuple[str, str]]:
    """Each call of the table, with the key fact of the message above it."""
    found = []
    fact = ""
    for line in TABLE.read_text().splitlines():
        if line.startswith("    "):
            found.append((fact, line.strip()))
        elif line and not line.startswith(("#", "~")):
            fact = line
    return found


def inputs_of(call: str) -> str:
    """The call as Terraform reads it: short forms written out, one input a line."""
    for name, text in re.findall(r"^(~\w+) = (.*)$", TABLE.read_text(), re.MULTILINE):
        call = re.sub(rf"{name}\b", lambda _, text=text: text, call)  # type: ignore[misc]
    return "\n".join(part.strip() for part in call.split(";;"))


CASES = cases()


@pytest.fixture(scope="module")
def messages(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[str]]:
    """What Terraform says to each call: its errors, by the call."""
    root = tmp_path_factory.mktemp("inputs")
    for name in ("variables.tf", "inputs.tf", "lambda", "LICENSE"):
        (root / name).symlink_to(ROOT / name)
    (root / "tests").mkdir()
    for number, (_, call) in enumerate(CASES):
        text = f'run "call" {{\ncommand = plan\nvariables {{\n{inputs_of(call)}\n}}\n}}\n'
        (root / "tests" / f"{number:04}.tftest.hcl").write_text(text)
    environment = {name: value for name, value in os.environ.items() if not name.startswith("TF_")}
    for arguments in (["init", "-no-color"], ["test", "-json"]):
        done = subprocess.run(
            [*TERRAFORM, *arguments], cwd=root, env=environment, capture_output=True, text=True, check=False
        )
    found: dict[str, list[str]] = {call: [] for _, call in CASES}
    for line in done.stdout.splitlines():
        event = json.loads(line)
        if event.get("type") == "diagnostic" and event["diagnostic"]["severity"] == "error":
            assert "@testfile" in event, event["diagnostic"]
            number = int(Path(event["@testfile"]).name.split(".")[0])
            found[CASES[number][1]].append(event["diagnostic"]["detail"])
    assert '"type":"test_summary"' in done.stdout, done.stdout + done.stderr
    return found


@pytest.mark.servers
@pytest.mark.parametrize(("fact", "call"), CASES, ids=[call[:90] for _, call in CASES])
def test_a_call_is_refused_with_the_key_fact_or_accepted(
    messages: dict[str, list[str]], fact: str, call: str
) -> None:
    told = messages[call]
    if fact == ACCEPTED:
        assert told == []
    else:
        assert any(fact in message for message in told), told


@pytest.mark.servers
def test_each_validation_refuses_a_call_of_the_table(messages: dict[str, list[str]]) -> None:
    text = (ROOT / "variables.tf").read_text()
    declared = {
        text[: match.start()].count("\n") + 1 for match in re.finditer(r"^  validation \{", text, re.MULTILINE)
    }
    tripped = {
        int(line)
        for told in messages.values()
        for message in told
        for line in re.findall(r"validation rule at variables\.tf:(\d+)", message)
    }
    assert sorted(declared - tripped) == []
