"""The examples in docstrings are true."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent.parent
_RUN = """
import doctest, importlib, sys
folder, *names = sys.argv[1:]
sys.path.insert(0, folder)
results = [doctest.testmod(importlib.import_module(name)) for name in names]
sys.exit(any(result.failed or not result.attempted for result in results))
"""


def modules(folder: str) -> list[str]:
    """The modules with examples."""
    found = [path for path in sorted((ROOT / folder).rglob("*.py")) if re.search(r"^ +>>> ", path.read_text(), re.M)]
    return [".".join(path.relative_to(ROOT / folder).with_suffix("").parts) for path in found]


@pytest.mark.parametrize("folder", ["cli", "lambda/build", "lambda/src"])
def test_each_example_gives_what_it_shows(folder: str) -> None:
    assert modules(folder)
    done = subprocess.run(
        [sys.executable, "-B", "-c", _RUN, folder, *modules(folder)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
