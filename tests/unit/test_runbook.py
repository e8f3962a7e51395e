"""The runbook matches the alarms, metrics, outputs and command options that it names."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import botocore.session
import jmespath
import pytest
from botocore import xform_name

ROOT = Path(__file__).resolve().parent.parent.parent
RUNBOOK = (ROOT / "docs" / "runbook.md").read_text()
PARTS = ["Means", "How urgent", "Look at", "Mend", "Over when"]
# Options of the AWS CLI itself.
GLOBAL = {"--query", "--output", "--region", "--profile", "--cli-binary-format"}


def anchor(heading: str) -> str:
    """As GitHub makes it."""
    return re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")


def pages() -> dict[str, str]:
    """The text under each heading of the second level."""
    parts = re.split(r"^## (.+)$", RUNBOOK, flags=re.MULTILINE)[1:]
    return {anchor(heading): text for heading, text in zip(parts[::2], parts[1::2], strict=True)}


def alarms() -> list[str]:
    """The keys of alarms.tf: those of the objects within the locals that end in _alarms."""
    text = (ROOT / "alarms.tf").read_text()
    groups = re.findall(r"^  \w+_alarms = \{\n(.*?)^  \}", text, re.MULTILINE | re.DOTALL)
    return [key for group in groups for key in re.findall(r"^    ([\w-]+) = \{", group, re.MULTILINE)]


def commands() -> Iterator[list[str]]:
    """Every command of the shell blocks and of the code in the text, its words apart."""
    blocks = re.findall(r"```sh\n(.*?)```", RUNBOOK, re.DOTALL)
    inline = [" ".join(code.split()) for code in re.findall(r"(?<!`)`([^`]+)`(?!`)", RUNBOOK)]
    text = "\n".join(blocks).replace("\\\n", " ") + "\n" + "\n".join(inline)
    for quoted in re.findall(r"(?:aws [a-z0-9-]+ [a-z-]+ |python3 cli )(?:'[^']*'|\"[^\"]*\"|[^\n'\"])*", text):
        # A closing parenthesis or a pipe ends a command.
        yield shlex.split(re.split(r"\s\|\s|\)$", quoted.strip())[0].replace("$((", "").replace("$(", ""))


def aws_commands() -> list[list[str]]:
    found = [words for words in commands() if words[0] == "aws"]
    assert len(found) > 15
    return found


def test_each_alarm_has_its_page() -> None:
    assert len(alarms()) == 10
    assert set(alarms()) - {"undelivered-members"} <= set(pages())  # it shares the page of `undelivered`


@pytest.mark.parametrize("alarm", sorted({*alarms()} - {"undelivered-members"}))
def test_each_page_tells_what_it_means_how_urgent_what_to_look_at_what_to_do_and_when_it_is_over(alarm: str) -> None:
    assert re.findall(r"^\*\*([\w ]+)\.\*\*", pages()[alarm], re.MULTILINE) == PARTS


def test_every_link_within_the_runbook_leads_somewhere() -> None:
    links = re.findall(r"\]\(#([\w-]+)\)", RUNBOOK)
    assert links
    assert set(links) <= set(pages())


def test_the_outputs_that_the_commands_take_exist() -> None:
    declared = set(re.findall(r'^output "(\w+)"', (ROOT / "outputs.tf").read_text(), re.MULTILINE))
    used = set(re.findall(r"\$\(out (\w+)\)", RUNBOOK))
    assert used
    assert used <= declared


def test_the_inputs_that_it_names_exist() -> None:
    text = (ROOT / "variables.tf").read_text()
    inputs = dict(re.findall(r'^variable "(\w+)" \{(.*?)^\}', text, re.MULTILINE | re.DOTALL))
    for name, attribute in re.findall(r"`(\w+)\.(\w+)`", RUNBOOK):
        if name in inputs:
            assert f"`{attribute}`" in inputs[name], f"{name}.{attribute}"


@pytest.mark.parametrize("words", aws_commands(), ids=lambda words: " ".join(words[1:3]))
def test_the_commands_of_aws_exist_with_their_options(words: list[str]) -> None:
    model = botocore.session.get_session().get_service_model(words[1])
    operations = {xform_name(name, "-"): name for name in model.operation_names}
    # `aws lambda invoke` writes to a file, which is no option.
    shape = model.operation_model(operations[words[2]]).input_shape
    members = {f"--{xform_name(name, '-')}" for name in (shape.members if shape else {})}
    flags = {f"--no-{name.removeprefix('--')}" for name in members}
    for option, value in zip(words[3:], [*words[4:], ""], strict=True):
        if option.startswith("--"):
            assert option in members | flags | GLOBAL, option
        if option == "--query":
            jmespath.compile(value)  # type: ignore[no-untyped-call]


@pytest.mark.parametrize("command", sorted({" ".join(c[2:]) for c in commands() if c[:2] == ["python3", "cli"]}))
def test_the_operators_commands_exist_with_their_options(command: str) -> None:
    words = [word for word in command.split() if not word.startswith("i-")]
    names = [word for word in words if not word.startswith("--")]
    told = subprocess.run(
        [sys.executable, "cli", *names, "--help"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    assert told.stdout.startswith(f"usage: python3 cli {' '.join(names)} ")
    for option in set(words) - set(names):
        assert re.search(rf"^  {option}\b", told.stdout, re.MULTILINE), option
