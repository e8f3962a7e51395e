"""Creates and reuses the build program's own virtual environment, in the build cache.

Uses only the standard library. All installed packages are pinned by hash in lambda/requirements.
"""

import contextlib
import hashlib
import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
import venv
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import pip_settings
from errors import BuildError
from home import home
from progress import say

HERE = Path(__file__).resolve().parent
REQUIREMENTS = HERE.parent / "requirements"
STALE = 30 * 24 * 3600  # seconds after which an unused environment is removed

# The modules that the build imports from each lock file. setuptools and pip come last: setuptools adds its vendored
# packages to the import path, and pip blocks the distutils of setuptools.
_MODULES = {
    "build": ("packaging.requirements", "wheel", "setuptools.build_meta", "pip"),
    "seal": ("boto3.session", "certifi", "cryptography.hazmat.primitives.ciphers.aead", "socks", "urllib3"),
}

# Runs in an environment. Exits with an error message unless all pins are installed and all modules can be imported.
_TRIAL = """
import importlib, importlib.metadata, json, os, sys
environment, pins, modules = json.loads(sys.argv[1])
if os.path.realpath(sys.prefix) != os.path.realpath(environment):
    sys.exit(f"its Python uses {sys.prefix}")
for name, version in pins.items():
    try:
        found = importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        sys.exit(f"{name} is missing")
    if found != version:
        sys.exit(f"{name} has the version {found} instead of {version}")
for name in modules:
    try:
        importlib.import_module(name)
    except Exception as error:
        sys.exit(f"{name} cannot be imported ({type(error).__name__})")
"""


def enter(cache: Path, arguments: Sequence[str], locks: Sequence[str]) -> None:
    """Continues in an environment with the packages of these lock files, such as ("build", "seal").

    Returns if this process already runs in that environment. Otherwise creates the environment if needed and replaces
    the process. Raises BuildError if the environment cannot be created.
    """
    environment = _path(cache, locks)
    if Path(sys.prefix).resolve() == environment.resolve():
        return
    try:
        cache.mkdir(parents=True, exist_ok=True)
        with locked(cache / "lock"):
            _clean_up(cache, environment)
            if environment.exists():
                wrong = _problem(environment, locks)
                if wrong:
                    say(f"build environment: the cached one is unusable ({wrong}); creating it again")
                    _remove(environment)
            if not environment.exists():
                _make(environment, locks)
            os.utime(environment)
    except OSError as error:
        raise BuildError(
            f"The build cache {cache} cannot be used: {error.strerror or type(error).__name__}. Set BUILD_CACHE to a "
            "writable directory."
        ) from None
    # -I ignores PYTHON* variables and the user's site-packages, which must not affect a build.
    command = [str(_python(environment)), "-I", "-B", str(HERE), *arguments]
    environ = {**os.environ, **pip_settings.environment(os.environ)}
    sys.stdout.flush()
    if os.name == "nt":  # on Windows, exec returns to the shell before the new program ends
        raise SystemExit(subprocess.call(command, env=environ))
    os.execve(command[0], command, environ)  # noqa: S606


def _path(cache: Path, locks: Sequence[str]) -> Path:
    """One environment per set of requirements and Python."""
    digest = hashlib.sha256(f"{sys.version}|{Path(sys.base_prefix).resolve()}".encode())
    for name in locks:
        digest.update(_lock(name).read_bytes())
    return cache.resolve() / f"python-{digest.hexdigest()[:16]}"


def _lock(name: str) -> Path:
    return REQUIREMENTS / f"{name}.txt"


def _python(environment: Path) -> Path:
    return environment / ("Scripts/python.exe" if os.name == "nt" else "bin/python")


def _make(environment: Path, locks: Sequence[str]) -> None:
    """Creates and tests the environment under another name, then renames it: `environment` is complete or absent."""
    if importlib.util.find_spec("ensurepip") is None:
        raise BuildError(
            f"This Python ({sys.executable}) cannot create virtual environments: install its venv module "
            "(the package python3-venv on Debian and Ubuntu)."
        )
    say("build environment: creating it (once per machine and version)")
    unfinished = Path(tempfile.mkdtemp(prefix="unfinished-", dir=environment.parent))
    try:
        venv.EnvBuilder(symlinks=os.name != "nt").create(unfinished)
        python = str(_python(unfinished))
        _run([python, "-I", "-m", "ensurepip", "--default-pip"], "pip cannot be installed in the build environment")
        install = [python, "-I", "-m", "pip", "install", "--quiet", "--require-hashes", "--only-binary=:all:"]
        install += ["--no-compile", *(f"--requirement={_lock(name)}" for name in locks)]
        _run(install, "The build program's own requirements cannot be installed")
        wrong = _problem(unfinished, locks)
        if wrong:
            raise BuildError(f"pip reported success, but the build environment is unusable: {wrong}.")
        unfinished.rename(environment)
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)


def _problem(environment: Path, locks: Sequence[str]) -> str | None:
    """Why the build cannot run in this environment, or None."""
    pins: dict[str, str] = {}
    for name in locks:  # skips pins with a marker, because not every Python needs them
        pins |= dict(re.findall(r"^([A-Za-z0-9._-]+)==(\S+) *\\?$", _lock(name).read_text("utf-8"), re.MULTILINE))
    trial = json.dumps([str(environment), pins, [module for name in locks for module in _MODULES[name]]])
    try:
        done = _quiet([str(_python(environment)), "-I", "-B", "-c", _TRIAL, trial])
    except OSError as error:
        return f"its Python does not start: {error.strerror or type(error).__name__}"
    if done.returncode == 0:
        return None
    return (done.stderr.strip().splitlines() or [f"its Python exits with status {done.returncode}"])[-1]


def _run(command: Sequence[str], failure: str) -> None:
    done = _quiet(command)
    if done.returncode != 0:
        tail = " / ".join(line.strip() for line in (done.stderr or done.stdout).strip().splitlines()[-3:])
        raise BuildError(f"{failure}: {tail[:600]}")


def _quiet(command: Sequence[str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command,
        env=pip_environment(os.environ),
        capture_output=True,
        text=True,
        errors="replace",
        check=False,
        stdin=subprocess.DEVNULL,
    )


def pip_environment(environ: Mapping[str, str]) -> dict[str, str]:
    """The environment for pip: the user's, with its mirrors and proxies.

    Leaves out Vault's credentials, the specification, and settings that change what is installed or where.
    """
    kept = {
        key: value
        for key, value in environ.items()
        if not key.startswith(("PIP_", "_PIP_", "VAULT_", "PYTHON", "SETUPTOOLS_"))
        and key not in ("BUILD_SPEC", "DIST_EXTRA_CONFIG")
    }
    if home(environ) is None:
        kept["HOME"] = "/nonexistent"  # pip does not start without HOME
    return kept | pip_settings.environment(environ) | {"PIP_NO_INPUT": "1", "PIP_DISABLE_PIP_VERSION_CHECK": "1"}


def _clean_up(cache: Path, current: Path) -> None:
    """Removes unused environments and the leftovers of killed builds. The caller holds the lock."""
    old = time.time() - STALE
    for path in cache.glob("python-*"):
        if path != current and path.stat().st_mtime < old:
            _remove(path)
    for pattern in ("unfinished-*", "work-*"):  # younger ones may be in use
        for path in cache.glob(pattern):
            if path.stat().st_mtime < time.time() - 24 * 3600:
                shutil.rmtree(path, ignore_errors=True)


def _remove(environment: Path) -> None:
    """Renames the environment before deleting it, so that no build finds a partly deleted one."""
    doomed = Path(tempfile.mkdtemp(prefix="unfinished-", dir=environment.parent)) / "environment"
    environment.rename(doomed)
    shutil.rmtree(doomed.parent, ignore_errors=True)


@contextlib.contextmanager
def locked(path: Path) -> Iterator[None]:
    """Holds a lock: one build creates the environment, and the others wait for it."""
    with path.open("w") as file:
        try:
            import fcntl  # noqa: PLC0415  # missing on Windows, where two parallel first builds may both create one
        except ImportError:
            yield
            return
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
