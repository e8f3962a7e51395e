"""scripts/find-python, by which `make venv` and the package's build choose an interpreter."""

from __future__ import annotations

import os
import subprocess
import sys
import venv
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[2]


def test_new_environment_never_depends_on_the_active_one(tmp_path: Path) -> None:
    venv.create(tmp_path / "active", symlinks=True)
    found = subprocess.run(
        [str(REPOSITORY / "scripts" / "find-python"), f"3.{sys.version_info.minor}"],
        env={**os.environ, "PATH": f"{tmp_path / 'active' / 'bin'}:{os.environ['PATH']}"},
        capture_output=True,
        text=True,
        check=True,
    )
    python = Path(found.stdout.strip())
    assert python.exists()
    assert tmp_path not in python.parents
