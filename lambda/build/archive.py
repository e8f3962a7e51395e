"""Collects the package's files and writes a reproducible zip: the same input produces the same bytes."""

import base64
import hashlib
import secrets
import stat
import zipfile
from collections.abc import Mapping
from pathlib import Path

from errors import SourceError
from spec import CustomStep

# Lambda's limits for code; https://docs.aws.amazon.com/lambda/latest/dg/gettingstarted-limits.html
UNPACKED_LIMIT = 250 * 1024 * 1024
UPLOAD_LIMIT = 50 * 1024 * 1024

_EPOCH = (1980, 1, 1, 0, 0, 0)  # the earliest time that a zip can store
_FILE = stat.S_IFREG | 0o644
_LIBRARY = stat.S_IFREG | 0o755


def function_files(package: Path) -> dict[str, bytes]:
    """The function's own code: Python files and `py.typed`. Raises SourceError."""
    found = {
        f"{package.name}/{path.relative_to(package).as_posix()}": path.read_bytes()
        for path in sorted(package.rglob("*"))
        if path.is_file() and (path.suffix == ".py" or path.name == "py.typed")
    }
    if not found:
        raise SourceError(f"The function's code is missing: {package} has no Python files.")
    return found


def custom_step_files(step: CustomStep) -> dict[str, bytes]:
    """A user's step: all files in its directory except hidden files and compiled Python. Raises SourceError."""
    what = f"The custom step {step.name}"
    if not step.source_dir.is_dir():
        raise SourceError(f"{what}: its source_dir, {step.source_dir}, is not a directory.")
    found: dict[str, bytes] = {}
    for path in sorted(step.source_dir.rglob("*")):
        inside = path.relative_to(step.source_dir)
        if any(part.startswith(".") or part == "__pycache__" for part in inside.parts) or path.suffix == ".pyc":
            continue
        if path.is_symlink():
            raise SourceError(f"{what}: {path} is a symbolic link; the package accepts only regular files.")
        if path.is_file():
            try:
                found[f"custom_steps/{step.name}/{inside.as_posix()}"] = path.read_bytes()
            except OSError:
                raise SourceError(f"{what}: {path} cannot be read.") from None
    if f"custom_steps/{step.name}/__init__.py" not in found:
        raise SourceError(f"{what}: its source_dir, {step.source_dir}, has no __init__.py.")
    return found


def ca_bundle(path: Path) -> bytes:
    """Reads a CA bundle. Raises SourceError if it is unreadable, has no certificate or contains a private key."""
    try:
        content = path.read_bytes()
    except OSError:
        raise SourceError(f"The CA bundle {path} (ca_bundle_file) cannot be read.") from None
    if b"-----BEGIN CERTIFICATE-----" not in content:
        raise SourceError(f"The CA bundle {path} (ca_bundle_file) contains no certificate in PEM format.")
    if b"PRIVATE KEY-----" in content:
        raise SourceError(
            f"The CA bundle {path} (ca_bundle_file) contains a private key, which must not be packaged."
        )
    return content


def combine(*parts: Mapping[str, bytes]) -> dict[str, bytes]:
    """Merges the parts. Raises SourceError if two parts contain the same file."""
    files: dict[str, bytes] = {}
    for part in parts:
        for name in part:
            if name in files:
                raise SourceError(f"Two parts of the package contain the file {name}.")
        files.update(part)
    return files


def write(files: Mapping[str, bytes], output: Path) -> str:
    """Writes the zip atomically. Returns its SHA-256 in base64, as in Lambda's CodeSha256. Raises SourceError."""
    unpacked = sum(len(content) for content in files.values())
    if unpacked > UNPACKED_LIMIT:
        raise SourceError(f"The unpacked package has {unpacked} bytes; Lambda allows at most {UNPACKED_LIMIT}.")
    # In the same directory, so that the rename is atomic. The name is random, because builds in two containers can
    # have the same process id.
    unfinished = output.with_name(f".{output.name}.{secrets.token_hex(8)}.part")
    try:
        output.parent.mkdir(parents=True, exist_ok=True)
        with zipfile.ZipFile(unfinished, "w") as archive:
            for name in sorted(files):
                archive.writestr(_entry(name), files[name], zipfile.ZIP_DEFLATED, compresslevel=9)
        digest = base64.b64encode(hashlib.sha256(unfinished.read_bytes()).digest()).decode()
        unfinished.replace(output)
    except OSError as error:
        raise SourceError(
            f"The package {output} cannot be written: {error.strerror or type(error).__name__}."
        ) from None
    finally:
        unfinished.unlink(missing_ok=True)
    return digest


def _entry(name: str) -> zipfile.ZipInfo:
    info = zipfile.ZipInfo(name, date_time=_EPOCH)
    info.create_system = 3  # Unix on every build machine, because the modes below are Unix modes
    info.external_attr = (_LIBRARY if name.endswith(".so") or ".so." in name else _FILE) << 16
    return info
