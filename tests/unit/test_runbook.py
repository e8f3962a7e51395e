"""The runbook matches the module: its alarms, names, commands and options. Its commands run as pasted."""

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
PARTS = ["Meaning", "Urgency", "Look", "Fix", "Done when"]
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
        command = re.split(r"\s\|\s|\)$", quoted.strip())[0].replace("$((", "").replace("$(", "")
        yield shlex.split(
            command.replace(' --function-name "$name"', "") if command.startswith("python3") else command
        )


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


def test_the_names_that_the_commands_use_are_the_modules() -> None:
    """The first look needs no Terraform: the names of all resources follow from the input `name`."""
    sources = "".join((ROOT / file).read_text() for file in ("main.tf", "locals.tf", "iam.tf"))
    for made, used in {
        r"function_name = var\.name": '--function-name "$name"',
        r"queue_names = \{ events = var\.name, ": '--queue-name "$name"',
        r', dead_letters = "\$\{var\.name\}-dead-letters" \}': '--queue-name "$name-dead-letters"',
        r'log_group_name += "/aws/lambda/\$\{var\.name\}"': '--log-group-name "/aws/lambda/$name"',
        r'inventory_table_name = "\$\{var\.name\}-inventory"': '--table-name "$name-inventory"',
    }.items():
        assert re.search(made, sources), made
        assert used in RUNBOOK, used


# Answers every command with a word, and writes down what it was called with.
AWS = """#!/bin/sh
for argument in "$@"; do printf '%s\\t' "$argument"; done >>"$CALLS"
echo >>"$CALLS"
echo "word-of-$2"
"""
SHIMS = {"aws": AWS, "sleep": "#!/bin/sh\n", "python3": "#!/bin/sh\n", "grep": "#!/bin/sh\ncat\n"}
SET_UP, *BLOCKS = (
    block
    for block in re.findall(r"^ *```sh\n(.*?)^ *```", RUNBOOK, re.MULTILINE | re.DOTALL)
    if re.search(r"\b(aws|insights|ask) ", block)
)


@pytest.mark.parametrize("block", BLOCKS, ids=lambda block: " ".join(block.split()[:3]))
def test_a_block_runs_as_pasted_after_the_set_up(block: str, tmp_path: Path) -> None:
    for program, text in SHIMS.items():
        (tmp_path / program).write_text(text)
        (tmp_path / program).chmod(0o755)
    calls = tmp_path / "calls"
    ran = subprocess.run(
        ["sh", "-eu", "-c", f'{SET_UP}\n: >"$CALLS"\n{block}'],
        env={"PATH": f"{tmp_path}:/usr/bin:/bin", "CALLS": str(calls)},
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert (ran.returncode, ran.stderr) == (0, "")
    made = [line.removesuffix("\t").split("\t") for line in calls.read_text().splitlines()]
    assert made
    assert all(all(arguments) for arguments in made), "an argument is empty"


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
