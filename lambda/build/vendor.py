"""Collects the function's dependencies: pinned, hash-checked, for the function's Python and architecture.

pip downloads the wheels from the index that the user configured. The wheels are unpacked, not installed, so nothing
from the build machine gets into the package.
"""

import os
import re
import subprocess
import sys
import zipfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from packaging.requirements import InvalidRequirement, Requirement
from packaging.utils import canonicalize_name, parse_wheel_filename

from bootstrap import pip_environment
from errors import VendorError

# The minor version of glibc in Lambda's images: Amazon Linux 2 up to Python 3.11, Amazon Linux 2023 from 3.12.
# https://docs.aws.amazon.com/lambda/latest/dg/lambda-runtimes.html
_GLIBC = {"python3.11": 26, "python3.12": 34, "python3.13": 34, "python3.14": 34}
_MACHINE = {"arm64": "aarch64", "x86_64": "x86_64"}

# Published only as a source distribution, so the wheel is built here from the hash-pinned source.
_SOURCE_ONLY = frozenset({"pychef"})

# The runtime contains these. It also contains jmespath, urllib3 and six, but AWS can change their versions at any
# time. So the package has its own (0.4 MB of the zip): the versions that Powertools, requests and PyChef are locked
# and tested with.
_OF_THE_RUNTIME = frozenset({"boto3", "botocore", "s3transfer"})

# Parts of packages that the function never uses. The tests import the unpacked zip without them.
_UNUSED = {
    "aws-lambda-powertools": re.compile(r"aws_lambda_powertools/event_handler/.*"),  # web APIs and a page for them
    "cffi": re.compile(r"cffi/.*"),  # cryptography needs only its compiled backend
    "pycparser": re.compile(r".*"),  # cffi uses it to parse C
}
_UNUSED_ANYWHERE = re.compile(r"(.*/)?(tests?/.*|[^/]+\.(pyi|pyx|pxd|c|h))")

_KEPT_RECORDS = re.compile(r"METADATA$|entry_points\.txt$|licenses/|LICEN[CS]E|NOTICE|COPYING|AUTHORS")

PIP_TIMEOUT = 900  # seconds for one call of pip


@dataclass(frozen=True)
class Target:
    """The function's runtime and architecture."""

    runtime: str
    architecture: str

    @property
    def python(self) -> str:
        return self.runtime.removeprefix("python")

    @property
    def platforms(self) -> list[str]:
        machine = _MACHINE[self.architecture]
        tags = [f"manylinux_2_{minor}_{machine}" for minor in range(_GLIBC[self.runtime], 16, -1)]
        return [*tags, f"manylinux2014_{machine}"]

    @property
    def markers(self) -> dict[str, str]:
        """The values for a requirement's environment markers: the function's, not this machine's."""
        return {
            "implementation_name": "cpython",
            "implementation_version": f"{self.python}.0",
            "os_name": "posix",
            "platform_machine": _MACHINE[self.architecture],
            "platform_python_implementation": "CPython",
            "platform_release": "",
            "platform_system": "Linux",
            "platform_version": "",
            "python_full_version": f"{self.python}.0",
            "python_version": self.python,
            "sys_platform": "linux",
            "extra": "",
        }


@dataclass(frozen=True)
class Pin:
    """One locked requirement."""

    name: str
    version: str
    hashes: frozenset[str]

    def __str__(self) -> str:
        return f"{self.name}=={self.version}"


@dataclass(frozen=True)
class Vendored:
    files: Mapping[str, bytes]
    packages: Sequence[str]


def requirement_files(requirements: Path, features: Iterable[str], *, with_data_key: bool) -> list[Path]:
    """The lock files that the function needs: a common one, one for each step, and cryptography for a data key."""
    names = ["function"]
    names += [name for name in ("chef", "consul", "http") if name in features]
    if with_data_key and "chef" not in features:
        names.append("crypto")
    return [requirements / f"{name}.txt" for name in names]


def read_lock(path: Path, target: Target) -> dict[str, Pin]:
    """The pins in a hash-locked requirements file that apply to the target. Raises VendorError."""
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError):
        raise VendorError(f"The requirements file {path} cannot be read.") from None
    pins: dict[str, Pin] = {}
    problems = []
    for line in _logical_lines(text):
        if line.startswith("-"):
            problems.append(
                f'{path}: the option "{line.split()[0]}" is not allowed here; use pip.conf or PIP_* variables.'
            )
            continue
        words, *hashes = re.split(r"\s+--hash[= ]", line)
        try:
            requirement = Requirement(words)
        except InvalidRequirement:
            problems.append(f'{path}: "{words}" is not a requirement.')
            continue
        specifiers = list(requirement.specifier)
        exact = len(specifiers) == 1 and specifiers[0].operator == "==" and "*" not in specifiers[0].version
        if requirement.url or not exact or not hashes:
            problems.append(
                f"{path}: {requirement.name} must be pinned as name==version with its hashes "
                "(`pip-compile --generate-hashes` or `uv pip compile --generate-hashes` writes such a file)."
            )
            continue
        if requirement.marker is not None and not requirement.marker.evaluate(target.markers):
            continue
        name = canonicalize_name(requirement.name)
        pin = Pin(name, specifiers[0].version, frozenset(value.strip() for value in hashes))
        if name in pins and pins[name] != pin:
            problems.append(f"{path}: {name} is pinned twice.")
        pins[name] = pin
    if problems:
        raise VendorError(*problems)
    return pins


def merge(own: Mapping[str, Pin], theirs: Mapping[str, Pin], whose: str) -> dict[str, Pin]:
    """Merges pins. Raises VendorError if they have different versions of a package."""
    problems = [
        f"{whose}: {pin} is pinned, but the package already has {own[name]}; pin that version."
        for name, pin in sorted(theirs.items())
        if name in own and own[name].version != pin.version
    ]
    if problems:
        raise VendorError(*problems)
    return {**theirs, **own}


def collect(pins: Mapping[str, Pin], whole: Iterable[str], target: Target, work: Path) -> Vendored:
    """Downloads and unpacks the wheels. `whole` names packages that are kept complete (those of custom steps).

    Raises VendorError. `work` is an empty directory that nobody else uses.
    """
    wanted = {name: pin for name, pin in pins.items() if name not in _OF_THE_RUNTIME}
    keep = frozenset(whole)
    if "pydantic" in wanted:  # if pydantic is installed, Powertools' logger imports the web APIs
        keep |= {"aws-lambda-powertools"}
    files: dict[str, bytes] = {}
    origin: dict[str, str] = {}
    wheels = _wheels(wanted, target, work)
    missing = sorted(set(wanted) - set(wheels))
    if missing:
        raise VendorError(f"pip downloaded no wheel of {', '.join(missing)}.")
    for name, wheel in sorted(wheels.items()):
        for path, content in _contents(wheel, None if name in keep else _UNUSED.get(name), everything=name in keep):
            if path in files and files[path] != content:
                raise VendorError(f"The packages {origin[path]} and {name} both contain the file {path}.")
            files[path], origin[path] = content, name
    return Vendored(files, [str(pin) for _, pin in sorted(wanted.items())])


def _logical_lines(text: str) -> Iterator[str]:
    for line in re.sub(r"\\\r?\n", " ", text).splitlines():
        stripped = re.sub(r"(^|\s)#.*$", "", line).strip()
        if stripped:
            yield stripped


def _wheels(pins: Mapping[str, Pin], target: Target, work: Path) -> dict[str, Path]:
    wheels = work / "wheels"
    wheels.mkdir()
    ready = [pin for name, pin in sorted(pins.items()) if name not in _SOURCE_ONLY]
    source = [pin for name, pin in sorted(pins.items()) if name in _SOURCE_ONLY]
    if ready:
        abi = "cp" + target.python.replace(".", "")
        tags = [f"--platform={tag}" for tag in target.platforms]
        tags += [f"--python-version={target.python}", "--implementation=cp"]
        tags += [f"--abi={name}" for name in (abi, "abi3", "none")]
        _pip("download", work / "wheels.txt", ready, wheels, options=["--only-binary=:all:", *tags], target=target)
    if source:
        # pip's cache may contain a wheel that was built with other options.
        options = ["--no-binary=:all:", "--no-build-isolation", "--no-cache-dir"]
        _pip("wheel", work / "sources.txt", source, wheels, options=options, target=target)
    found = {}
    for path in wheels.glob("*.whl"):
        name, _, _, tags_found = parse_wheel_filename(path.name)
        if name in _SOURCE_ONLY and not any(tag.platform == "any" for tag in tags_found):
            raise VendorError(f"The wheel built from {name} works only on this machine ({path.name}).")
        found[str(name)] = path
    return found


def _pip(
    command: str, lock: Path, pins: Sequence[Pin], wheels: Path, *, options: Sequence[str], target: Target
) -> None:
    # Ignore the user's ~/.pydistutils.cfg, which can redirect setuptools as pip.conf can redirect pip.
    more = ' --config-settings="--global-option=--no-user-cfg"' if command == "wheel" else ""
    lines = [f"{pin} {' '.join(f'--hash={value}' for value in sorted(pin.hashes))}{more}\n" for pin in pins]
    lock.write_text("".join(lines), encoding="utf-8")
    into = "--dest" if command == "download" else "--wheel-dir"
    arguments = [sys.executable, "-I", "-m", "pip", command, "--quiet", "--no-deps", "--require-hashes"]
    arguments += [*options, f"{into}={wheels}", "--requirement", str(lock)]
    try:
        done = subprocess.run(
            arguments,
            env=pip_environment(os.environ),
            capture_output=True,
            text=True,
            errors="replace",
            check=False,
            timeout=PIP_TIMEOUT,
            stdin=subprocess.DEVNULL,
        )
    except subprocess.TimeoutExpired:
        raise VendorError(f"pip did not finish in {PIP_TIMEOUT} seconds; is the package index reachable?") from None
    if done.returncode != 0:
        raise VendorError(_explain(done.stderr or done.stdout, target))


def _explain(output: str, target: Target) -> str:
    where = f"{target.runtime} on {target.architecture}"
    mismatch = re.search(r"THESE PACKAGES DO NOT MATCH THE HASHES.*?\n\s*(\S+==\S+|\S+)", output, re.DOTALL)
    if mismatch:
        return (
            f"The hash of {mismatch[1]} does not match the requirements: the package index returned a different file "
            "from the locked one."
        )
    missing = re.search(r"No matching distribution found for (\S+)", output)
    if missing:
        return (
            f"pip found no wheel of {missing[1]} for {where}: its package indexes do not have one, or they cannot be "
            "reached."
        )
    tail = " / ".join(line.strip() for line in output.strip().splitlines()[-3:])
    return f"pip could not fetch the dependencies for {where}: {tail[:600]}"


def _contents(wheel: Path, unused: re.Pattern[str] | None, *, everything: bool) -> Iterator[tuple[str, bytes]]:
    with zipfile.ZipFile(wheel) as archive:
        for info in archive.infolist():
            path = _place(info.filename)
            if path is None or info.is_dir():
                continue
            if not everything and (_UNUSED_ANYWHERE.fullmatch(path) or (unused and unused.fullmatch(path))):
                continue
            yield path, archive.read(info)


def _place(name: str) -> str | None:
    """The path of a wheel's member in the package. None for scripts and pip's own records, which are left out.

    METADATA stays, because scanners of Lambda functions read it. Licenses stay too.
    """
    parts = name.split("/")
    if ".." in parts or name.startswith("/"):
        return None
    if parts[0].endswith(".data"):
        return "/".join(parts[2:]) if len(parts) > 2 and parts[1] in ("purelib", "platlib") else None
    if parts[0].endswith(".dist-info"):
        inside = "/".join(parts[1:])
        return name if _KEPT_RECORDS.match(inside) else None
    if "__pycache__" in parts or name.endswith((".pyc", ".pyo")):
        return None
    return name
