"""The packages of a release: reproducible, complete, and with checksums."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from tests.package.conftest import REPOSITORY, Builder

pytestmark = pytest.mark.servers

[VERSION] = re.findall(r'^version = "(.+)"$', (REPOSITORY / "pyproject.toml").read_text(), re.MULTILINE)
HERE = f"python{sys.version_info.major}.{sys.version_info.minor}"


def release(builder: Builder, *arguments: str, **environ: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, str(REPOSITORY / "scripts" / "release-packages"), *arguments],
        env=builder.environ({"BUILD_CACHE": str(builder.directory / "out" / ".build-cache")}, environ),
        capture_output=True,
        text=True,
        check=False,
    )


def test_one_reproducible_zip_per_architecture(builder: Builder, tmp_path: Path) -> None:
    done = release(builder, f"v{VERSION}", str(tmp_path / "dist"), HERE)
    assert done.returncode == 0, done.stderr
    names = [f"ec2-decommission-{VERSION}-{HERE}-{architecture}.zip" for architecture in ("arm64", "x86_64")]
    assert sorted(path.name for path in (tmp_path / "dist").iterdir()) == ["SHA256SUMS", *names]
    subprocess.run(["sha256sum", "--check", "--strict", "SHA256SUMS"], cwd=tmp_path / "dist", check=True)
    features = ["route53", "chef", "consul", "http"]
    again = builder.build(builder.spec("again", runtime=HERE, architecture="x86_64", features=features))
    assert again.read_bytes() == (tmp_path / "dist" / names[1]).read_bytes()
    members = set(zipfile.ZipFile(again).namelist())
    assert not members & {"sealed_secrets.json", "settings.json", "ca_bundle.pem"}
    assert {"chef/__init__.py", "consul/__init__.py", "requests/__init__.py", "cryptography/__init__.py"} <= members


def test_a_release_of_another_version_or_without_bytecode_is_refused(builder: Builder, tmp_path: Path) -> None:
    done = release(builder, "v9.9.9", str(tmp_path / "dist"))
    assert (done.returncode, done.stderr) == (1, "The version in pyproject.toml is not 9.9.9.\n")
    assert release(builder, f"v{VERSION}", str(tmp_path / "dist"), "python2").returncode == 2
    other = "python3.11" if HERE != "python3.11" else "python3.12"
    done = release(builder, f"v{VERSION}", str(tmp_path / "dist"), other, PATH=str(tmp_path), PYENV_ROOT=os.devnull)
    assert done.returncode == 1
    assert other in done.stderr
    assert "PATH" in done.stderr
    assert not (tmp_path / "dist" / "SHA256SUMS").exists()
