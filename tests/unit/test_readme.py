"""The README's tables are held against the module."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent.parent


def declared(file: str, kind: str) -> set[str]:
    return set(re.findall(rf'^{kind} "(\w+)"', (ROOT / file).read_text(), re.MULTILINE))


def tabled(section: str) -> set[str]:
    text = (ROOT / "README.md").read_text().split(f"\n## {section}\n")[1].split("\n## ")[0]
    rows = [line.split("|")[1] for line in text.splitlines() if line.startswith("| `")]
    return {name for row in rows for name in re.findall(r"`(\w+)`", row)}


def test_every_input_is_in_the_readme() -> None:
    assert tabled("Inputs") == declared("variables.tf", "variable")


def test_every_output_is_in_the_readme() -> None:
    assert tabled("Outputs") == declared("outputs.tf", "output")
