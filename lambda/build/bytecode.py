"""Compiles the package's modules for the function's Python, to speed up cold starts.

The package is read-only in Lambda: without bytecode, Python would compile every module at every cold start. Each
minor version of Python reads only its own bytecode. If the build machine does not have the function's version, the
package has no bytecode and still works.
"""

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from home import home

# Lambda unpacks the zip here, and tracebacks show this path.
TASK_ROOT = "/var/task"

# Parts of Powertools that the function does not import. Their bytecode would be a tenth of the zip.
_LEFT_OUT = re.compile(r"aws_lambda_powertools/(event_handler/|utilities/(?!__init__\.py|jmespath_utils/)).*")

_PROBE = """
import sys
version = sys.version_info
if sys.implementation.name == "cpython" and version.releaselevel == "final" and not getattr(sys, "abiflags", ""):
    print("%d.%d\\n%d.%d.%d" % (version[:2] + version[:3]))
    print(sys._base_executable)
"""
_COMPILE_TIMEOUT = 600  # seconds; compiling takes one or two


@dataclass(frozen=True)
class Bytecode:
    """Files for the zip, and the version of the Python that compiled them, such as ``3.13.0``."""

    files: Mapping[str, bytes]
    version: str


def compiled(files: Mapping[str, bytes], python: str, work: Path) -> Bytecode | None:
    """Compiles the package's files for a Python such as ``3.13``. Returns None if this machine does not have it.

    Files that do not compile are left out. No file is executed. `work` is a directory that nobody else uses. The
    result is reproducible: one process compiles the files in the order of their names, with a fixed hash seed.
    """
    found = _interpreter(python)
    if found is None:
        return None
    version, executable = found
    stage = work / "bytecode"
    sources = [name for name in sorted(files) if name.endswith(".py") and not _LEFT_OUT.fullmatch(name)]
    for name in sources:
        path = stage / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(files[name])
    # "unchecked-hash": Python does not compare the bytecode with the source's time, which is fixed in the zip.
    command = [executable, "-s", "-P", "-S", "-W", "ignore", "-m", "compileall", "-q"]
    command += ["--invalidation-mode", "unchecked-hash", "-s", str(stage), "-p", TASK_ROOT, str(stage)]
    try:
        subprocess.run(
            command,
            env=_environment() | {"PYTHONHASHSEED": "0"},
            capture_output=True,
            check=False,  # compileall fails if one file does not compile, but compiles the others
            stdin=subprocess.DEVNULL,
            timeout=_COMPILE_TIMEOUT,
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    made = {path.relative_to(stage).as_posix(): path.read_bytes() for path in sorted(stage.rglob("*.pyc"))}
    shutil.rmtree(stage)
    return Bytecode(made, version) if made else None


def _interpreter(python: str) -> tuple[str, str] | None:
    """Version and path of a released CPython of that minor version: the build's own, or another on this machine."""
    for candidate in _candidates(python):
        try:
            done = subprocess.run(
                [candidate, "-I", "-S", "-c", _PROBE],
                env=_environment(),
                capture_output=True,
                text=True,
                errors="replace",
                check=False,
                stdin=subprocess.DEVNULL,
                timeout=60,
            )
        except (OSError, subprocess.TimeoutExpired):
            continue
        minor, version, executable = [*done.stdout.splitlines(), "", "", ""][:3]
        # A pyenv shim can be on PATH although its Python is not installed, so try to run each candidate.
        if done.returncode == 0 and minor == python:
            return version, executable
    return None


def _candidates(python: str) -> Iterator[str]:
    if python == f"{sys.version_info.major}.{sys.version_info.minor}":
        yield sys.executable
    for directory in os.get_exec_path():
        for name in (f"python{python}", "python3"):
            found = shutil.which(name, path=directory)
            if found:
                yield found
    pyenv = Path(os.environ.get("PYENV_ROOT") or (home(os.environ) or Path("/")) / ".pyenv")
    yield from map(str, sorted(pyenv.glob(f"versions/{python}.*/bin/python3")))


def _environment() -> dict[str, str]:
    """Only these variables: no credentials of the build, and no settings that change Python's output."""
    return {name: os.environ[name] for name in ("PATH", "SYSTEMROOT") if name in os.environ}
