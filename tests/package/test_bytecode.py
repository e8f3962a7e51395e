"""The package's bytecode: for the function's Python version, reproducible, and used."""

from __future__ import annotations

import importlib.util
import json
import marshal
import os
import platform
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from types import CodeType

import pytest

import bytecode
from tests.package.conftest import REPOSITORY, Builder

HERE = f"{sys.version_info.major}.{sys.version_info.minor}"
TAG = sys.implementation.cache_tag
LINUX = pytest.mark.skipif(platform.system() != "Linux", reason="the package's libraries are Linux's")
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


# In the package

_START = """
import json, sys
compiled, task = [], sys.argv[1]

def watch(event, arguments):
    if event == "compile" and str(arguments[1]).startswith(task):
        compiled.append(arguments[1])

sys.addaudithook(watch)
sys.path[:0] = sys.argv[1:]
import ec2_decommission.entry
import ec2_decommission.steps.chef, ec2_decommission.steps.consul, ec2_decommission.steps.http, ec2_decommission.sweep
import ec2_decommission.orphans, ec2_decommission.restore, ec2_decommission.audit
import ec2_decommission.steps.route53, ec2_decommission.clients.route53, ec2_decommission.clients.zone_cache
import ec2_decommission.clients.chef, ec2_decommission.clients.consul, cryptography.hazmat.primitives.serialization
own = [name for name in sys.modules if name.startswith("ec2_decommission.")]
print(json.dumps([compiled, len(own)]))
"""


@LINUX
@pytest.mark.servers
def test_the_deployed_function_compiles_nothing(full: Callable[..., Path], tmp_path: Path) -> None:
    task, runtime = tmp_path / "task", tmp_path / "runtime"
    with zipfile.ZipFile(full(f"python{HERE}")) as archive:
        archive.extractall(task)
    runtime.mkdir()
    site = Path(pytest.__file__).parents[1]
    for name in ("boto3", "botocore", "s3transfer", "dateutil"):
        (runtime / name).symlink_to(site / name)
    done = subprocess.run(
        [sys.executable, "-I", "-S", "-B", "-c", _START, str(task), str(runtime)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    compiled, own = json.loads(done.stdout)
    assert compiled == []
    assert own > 25


@pytest.mark.servers
@pytest.mark.parametrize("runtime", ["python3.11", "python3.12", "python3.13", "python3.14"])
def test_package_has_bytecode_of_its_runtime_or_none(full: Callable[..., Path], runtime: str) -> None:
    with zipfile.ZipFile(full(runtime)) as archive:
        names = set(archive.namelist())
        info = json.loads(archive.read("build_info.json"))
    tag = runtime.replace("python3.", "cpython-3")
    compiled = {name for name in names if name.endswith(".pyc")}
    assert info["bytecode"] is bool(compiled)
    assert compiled == {name for name in compiled if name.endswith(f".{tag}.pyc") and "/__pycache__/" in f"/{name}"}
    sources = {name.replace("__pycache__/", "").replace(f".{tag}.pyc", ".py") for name in compiled}
    assert sources <= names
    if runtime == f"python{HERE}":
        assert compiled


@pytest.mark.servers
def test_without_a_python_of_the_runtime_the_package_has_none_and_says_so(builder: Builder, tmp_path: Path) -> None:
    other = "3.12" if HERE != "3.12" else "3.13"
    spec = builder.spec("no-bytecode", runtime=f"python{other}")
    done = builder.run(spec, {"PATH": str(tmp_path)})
    assert done.returncode == 0, done.stderr
    assert f"bytecode: none, because Python {other} was not found" in done.stdout
    with zipfile.ZipFile(spec["output"]) as archive:
        assert not [name for name in archive.namelist() if name.endswith(".pyc")]
        assert json.loads(archive.read("build_info.json"))["bytecode"] is False
        assert "ec2_decommission/entry.py" in archive.namelist()
