"""Gets the build program its own requirements: a virtual environment in the cache, made once and used again.

Standard library only. Everything installed is pinned by hash in lambda/requirements/build.txt.
"""

import contextlib
import hashlib
import importlib.util
import os
import shutil
import subprocess
import sys
import tempfile
import time
import venv
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from errors import BuildError
from progress import say

HERE = Path(__file__).resolve().parent
REQUIREMENTS = HERE.parent / "requirements"
STALE = 30 * 24 * 3600  # seconds after which an environment that nothing used goes

_NOT_FOR_PIP = frozenset(
    f"PIP_{name}"
    for name in (
        "CONSTRAINT",
        "NO_BINARY",
        "ONLY_BINARY",
        "PREFIX",
        "QUIET",
        "REQUIREMENT",
        "REQUIRE_VIRTUALENV",
        "TARGET",
        "USER",
        "VERBOSE",
    )
) | {"BUILD_SPEC"}


def enter(cache: Path, arguments: Sequence[str]) -> None:
    """Goes on in the build environment: returns when this process runs in it, else replaces the process.

    Raises BuildError where the environment cannot be made.
    """
    environment = _path(cache)
    if Path(sys.prefix).resolve() == environment.resolve():
        return
    try:
        cache.mkdir(parents=True, exist_ok=True)
        with locked(cache / "lock"):
            _remove_stale(cache, environment)
            if not _python(environment).exists():
                _make(environment)
            os.utime(environment)
    except OSError as error:
        raise BuildError(
            f"The build cache {cache} cannot be used: {error.strerror or type(error).__name__}."
        ) from None
    # Isolated: the user's PYTHONPATH and site-packages have no part in a build.
    command = [str(_python(environment)), "-I", "-B", str(HERE), *arguments]
    if os.name == "nt":  # exec there returns to the shell before the new program ends
        raise SystemExit(subprocess.call(command))
    sys.stdout.flush()
    os.execv(command[0], command)  # noqa: S606


def _path(cache: Path) -> Path:
    """One environment for each lock file and each Python."""
    base = f"{sys.version}|{Path(sys.base_prefix).resolve()}"
    key = hashlib.sha256((REQUIREMENTS / "build.txt").read_bytes() + base.encode()).hexdigest()[:16]
    return cache.resolve() / f"python-{key}"


def _python(environment: Path) -> Path:
    return environment / ("Scripts/python.exe" if os.name == "nt" else "bin/python")


def _make(environment: Path) -> None:
    if importlib.util.find_spec("ensurepip") is None:
        raise BuildError(
            f"This Python ({sys.executable}) cannot make virtual environments: install its venv module "
            "(on Debian and Ubuntu the package python3-venv)."
        )
    say("build environment: being made (once a machine and version)")
    shutil.rmtree(environment, ignore_errors=True)  # its Python is gone, or it would not be made again
    unfinished = Path(tempfile.mkdtemp(prefix="unfinished-", dir=environment.parent))
    try:
        venv.EnvBuilder(symlinks=os.name != "nt").create(unfinished)
        python = str(_python(unfinished))
        _run([python, "-I", "-m", "ensurepip", "--default-pip"], "The virtual environment's pip cannot be set up")
        install = [python, "-I", "-m", "pip", "install", "--quiet", "--require-hashes", "--only-binary=:all:"]
        install += ["--no-compile", "--requirement", str(REQUIREMENTS / "build.txt")]
        _run(install, "The build program's own requirements cannot be installed")
        unfinished.rename(environment)
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)


def _run(command: Sequence[str], failure: str) -> None:
    done = subprocess.run(
        command,
        env=pip_environment(os.environ),
        capture_output=True,
        text=True,
        errors="replace",
        check=False,
        stdin=subprocess.DEVNULL,
    )
    if done.returncode != 0:
        tail = " / ".join(line.strip() for line in (done.stderr or done.stdout).strip().splitlines()[-3:])
        raise BuildError(f"{failure}: {tail[:600]}")


def pip_environment(environ: Mapping[str, str]) -> dict[str, str]:
    """The user's environment, for their mirrors and proxies, without what would send files elsewhere or is none
    of pip's business: Vault's credentials, and settings for installing."""
    kept = {
        key: value
        for key, value in environ.items()
        if key not in _NOT_FOR_PIP and not key.startswith(("VAULT_", "PYTHON"))
    }
    return kept | {"PIP_NO_INPUT": "1", "PIP_DISABLE_PIP_VERSION_CHECK": "1"}


def _remove_stale(cache: Path, current: Path) -> None:
    for path in cache.glob("python-*"):
        if path != current and path.stat().st_mtime < time.time() - STALE:
            shutil.rmtree(path, ignore_errors=True)
    for pattern in ("unfinished-*", "work-*"):  # of builds that were killed
        for path in cache.glob(pattern):
            if path.stat().st_mtime < time.time() - 24 * 3600:
                shutil.rmtree(path, ignore_errors=True)


@contextlib.contextmanager
def locked(path: Path) -> Iterator[None]:
    """One build at a time makes the environment; the others wait for it and find it made."""
    with path.open("w") as file:
        try:
            import fcntl  # noqa: PLC0415  # there is none on Windows, where two first builds at once may both make one
        except ImportError:
            yield
            return
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
