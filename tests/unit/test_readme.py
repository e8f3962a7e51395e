"""The tables of the README and of the reference, and the README's example, match the module in both directions."""

from __future__ import annotations

import re
from functools import cache
from pathlib import Path
from typing import Any

import hcl2
import pytest

ROOT = Path(__file__).resolve().parent.parent.parent
README = (ROOT / "README.md").read_text()
REFERENCE = (ROOT / "docs" / "reference.md").read_text()


def declared(file: str, kind: str) -> set[str]:
    return set(re.findall(rf'^{kind} "(\w+)"', (ROOT / file).read_text(), re.MULTILINE))


def rows(section: str, page: str = REFERENCE) -> dict[str, list[str]]:
    """The cells of a table by each name in its first column."""
    text = page.split(f"\n## {section}\n")[1].split("\n## ", maxsplit=1)[0]
    found = {}
    for line in text.splitlines():
        if line.startswith("| `"):
            cells = [cell.strip() for cell in line.strip("|").split("|")]
            found.update(dict.fromkeys(re.findall(r"`(\w+)`", cells[0]), cells))
    return found


@cache
def variable(name: str) -> str:
    """The block of an input."""
    text = (ROOT / "variables.tf").read_text()
    return re.split(r"^}$", text.split(f'variable "{name}" {{\n')[1], maxsplit=1, flags=re.MULTILINE)[0]


def attributes(name: str) -> dict[str, str]:
    """The attributes of an object's own level with their types; none where the input is no object."""
    match = re.search(r"^  type = object\(\{\n(.*?)^  \}\)", variable(name), re.MULTILINE | re.DOTALL)
    return dict(re.findall(r"^    (\w+) += (.+)$", match[1], re.MULTILINE)) if match else {}


INPUTS = sorted(declared("variables.tf", "variable"))


def test_every_input_is_in_the_reference_and_no_other() -> None:
    assert sorted(rows("Inputs")) == INPUTS


def test_every_output_is_in_the_reference_and_no_other() -> None:
    assert set(rows("Outputs")) == declared("outputs.tf", "output")


@pytest.mark.parametrize("name", INPUTS)
def test_every_attribute_of_an_input_is_in_its_row_and_no_other(name: str) -> None:
    known = set(attributes(name))
    told = set(re.findall(r"`([a-z0-9_]+)`", rows("Inputs")[name][2]))
    if known:
        assert told == known


@pytest.mark.parametrize("name", INPUTS)
def test_documented_default_matches_the_module(name: str) -> None:
    told = rows("Inputs")[name][1].strip("`")
    enabled = re.search(r"optional\(bool(?:, (true|false))?\)", attributes(name).get("enabled", ""))
    if enabled:
        assert told == ("on" if enabled[1] == "true" else "off")
    else:
        [default] = re.findall(r"^  default +=\s*(.+)$", variable(name), re.MULTILINE)
        assert told == default


@pytest.mark.parametrize("name", INPUTS)
def test_a_value_in_brackets_is_the_default_of_its_attribute(name: str) -> None:
    for attribute, value in re.findall(r"`(\w+)` \((true|false|[\d.]+)\b", rows("Inputs")[name][2]):
        assert f", {value})" in attributes(name)[attribute]


def test_documented_permissions_of_a_step_match_the_modules_grants() -> None:
    iam = (ROOT / "iam.tf").read_text()
    for step in ("route53", "chef", "consul"):
        told = set(re.findall(rf"`({step}:\w+)`", rows("What it deletes", README)[step][3]))
        assert told == set(re.findall(rf'"({step}:\w+)"(?!\s+=)', iam))


def test_example_is_valid_for_the_module() -> None:
    text = README.split("```hcl\n")[1].split("```")[0]
    [module] = hcl2.loads(text)["module"]
    call: dict[str, Any] = next(iter(module.values()))
    given = {key: value for key, value in call.items() if key != "source" and not key.startswith("__")}
    assert set(given) <= set(INPUTS)
    for name, value in given.items():
        if isinstance(value, dict):
            assert {key for key in value if not key.startswith("__")} <= set(attributes(name))


def test_the_versions_that_it_needs_are_those_of_the_module() -> None:
    versions = (ROOT / "versions.tf").read_text()
    terraform, provider = re.findall(r'version\s*=\s*"(>= [\d.]+)"', versions)
    assert f"Needs Terraform `{terraform}` and the AWS provider `{provider}`" in " ".join(README.split())


def test_the_readme_links_every_page_and_every_example() -> None:
    linked = set(re.findall(r"\]\(([^)#]+)", README))
    assert {f"docs/{path.name}" for path in (ROOT / "docs").glob("*.md")} <= linked
    assert {f"examples/{path.name}" for path in (ROOT / "examples").iterdir() if path.is_dir()} <= linked


def test_the_table_of_costs_adds_up() -> None:
    text = README.split("\n## Cost\n")[1].split("\n## ", maxsplit=1)[0]
    *costs, total = re.findall(r"^\|.*\| \**([\d.]+)\** \| \**([\d.]+)\** \|$", text, re.MULTILINE)
    assert len(costs) > 3
    for cells, together in zip(zip(*costs, strict=True), total, strict=True):
        assert f"{sum(map(float, cells)):.2f}" == together
