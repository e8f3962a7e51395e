"""Compiling the package's bytecode: for the function's Python version, and reproducible."""

from __future__ import annotations

import importlib.util
import marshal
import os
import platform
import subprocess
import sys
from pathlib import Path
from types import CodeType

import pytest

import bytecode
from tests.package.conftest import REPOSITORY

HERE = f"{sys.version_info.major}.{sys.version_info.minor}"
TAG = sys.implementation.cache_tag
FILES = {
    "step/__init__.py": b"raise SystemExit('it was run')\n",
    "step/names.py": b"NAMES = {'a', 'b', 'c'}\ndef has(name):\n    return name in {'red', 'green', 'blue'}\n",
    "step/broken.py": b"def f(:\n",
    "step/data.txt": b"text\n",
    "aws_lambda_powertools/event_handler/api.py": b"X = 1\n",
    "aws_lambda_powertools/utilities/__init__.py": b"",
    "aws_lambda_powertools/utilities/batch/base.py": b"X = 1\n",
    "aws_lambda_powertools/utilities/jmespath_utils/__init__.py": b"X = 1\n",
}


def made(files: dict[str, bytes], work: Path, python: str = HERE) -> bytecode.Bytecode:
    work.mkdir()
    found = bytecode.compiled(files, python, work)
    assert found is not None
    return found


def test_imported_modules_are_compiled_without_running_them(tmp_path: Path) -> None:
    found = made(FILES, tmp_path / "work")
    assert sorted(found.files) == [
        f"aws_lambda_powertools/utilities/__pycache__/__init__.{TAG}.pyc",
        f"aws_lambda_powertools/utilities/jmespath_utils/__pycache__/__init__.{TAG}.pyc",
        f"step/__pycache__/__init__.{TAG}.pyc",
        f"step/__pycache__/names.{TAG}.pyc",
    ]
    assert found.version == platform.python_version()
    assert not list((tmp_path / "work").iterdir())


def test_bytecode_is_unchecked_and_contains_no_build_paths(tmp_path: Path) -> None:
    content = made(FILES, tmp_path / "work").files[f"step/__pycache__/names.{TAG}.pyc"]
    assert content[:4] == importlib.util.MAGIC_NUMBER
    # https://peps.python.org/pep-0552/: by hash, and the source is not looked at.
    assert int.from_bytes(content[4:8], "little") == 0b01
    code = marshal.loads(content[16:])  # noqa: S302  # made here
    assert isinstance(code, CodeType)
    assert code.co_filename == "/var/task/step/names.py"
    assert str(tmp_path).encode() not in content


def test_bytecode_of_a_file_does_not_depend_on_other_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = {
        f"function/{path.name}": path.read_bytes()
        for path in (REPOSITORY / "lambda" / "src" / "ec2_decommission").glob("*.py")
    }
    first = made({**source, **FILES}, tmp_path / "a").files
    monkeypatch.setenv("PYTHONHASHSEED", "7")
    monkeypatch.setenv("PYTHONOPTIMIZE", "2")
    second = made(source, tmp_path / "b").files
    assert second
    assert {name: first[name] for name in second} == second


def test_two_patch_versions_give_the_same_bytes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Python does not guarantee this, so the documentation must name the first version that breaks it."""
    pythons = [
        path
        for directory in [*os.get_exec_path(), *map(str, Path.home().glob(".pyenv/versions/*/bin"))]
        for path in Path(directory).glob("python3.1[1-3]")
        if path.parent.name != "shims"
    ]
    several: dict[str, dict[str, Path]] = {}
    for path in pythons:
        done = subprocess.run([path, "-V"], capture_output=True, text=True, check=False)
        version = done.stdout.strip().removeprefix("Python ")
        if version:
            several.setdefault(version.rpartition(".")[0], {})[version] = path
    minor = next((minor for minor, patches in several.items() if len(patches) > 1), None)
    if minor is None:
        pytest.skip("no two patch versions of one Python on this machine")
    results = []
    for version, path in several[minor].items():
        monkeypatch.setattr(bytecode, "_candidates", lambda _, path=path: [str(path)])
        found = made(FILES, tmp_path / version, minor)
        assert found.version == version
        results.append(found.files)
    assert all(result == results[0] for result in results)


def test_python_of_another_version_is_not_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setenv("PYENV_ROOT", str(tmp_path))
    assert bytecode.compiled(FILES, "3.99", tmp_path) is None
    # A shim that does not run, and a Python of another version.
    for name, script in {"python3.99": "exit 127", "python3": "echo 3.98; echo 3.98.1; echo /x"}.items():
        (tmp_path / name).write_text(f"#!/bin/sh\n{script}\n")
        (tmp_path / name).chmod(0o755)
    assert bytecode.compiled(FILES, "3.99", tmp_path) is None


def test_python_is_found_in_pyenv(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    directory = tmp_path / "versions" / f"{HERE}.0" / "bin"
    directory.mkdir(parents=True)
    (directory / "python3").symlink_to(sys.executable)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setenv("PYENV_ROOT", str(tmp_path))
    monkeypatch.setattr(sys, "executable", str(tmp_path / "none"))
    work = tmp_path / "work"
    assert made(FILES, work).version == platform.python_version()
