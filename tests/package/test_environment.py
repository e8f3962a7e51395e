"""The build's own environment: independent of pip's configuration, verified before use, and without a home."""

from __future__ import annotations

import http.server
import json
import os
import shutil
import signal
import stat
import subprocess
import sys
import threading
import time
import zipfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from pip._internal.models.index import PyPI

import bootstrap
import pip_settings
from errors import BuildError
from tests.package.conftest import Builder, Kms

pytestmark = pytest.mark.servers

ROOT = Path(__file__).resolve().parent.parent.parent


# Kept pip settings


@pytest.mark.parametrize(
    ("environ", "kept"),
    [
        ({"PIP_INDEX_URL": "https://m/simple"}, {"PIP_INDEX_URL": "https://m/simple"}),
        ({"PIP_EXTRA_INDEX_URL": "https://a https://b"}, {"PIP_EXTRA_INDEX_URL": "https://a https://b"}),
        ({"PIP_CERT": "/my ca.pem", "PIP_CLIENT_CERT": "c"}, {"PIP_CERT": "/my ca.pem", "PIP_CLIENT_CERT": "c"}),
        ({"PIP_PROXY": "p", "PIP_TRUSTED_HOST": "h"}, {"PIP_PROXY": "p", "PIP_TRUSTED_HOST": "h"}),
        ({"PIP_TIMEOUT": "60", "PIP_RETRIES": "9"}, {"PIP_TIMEOUT": "60", "PIP_RETRIES": "9"}),
        ({"PIP_INDEX_URL": ""}, {}),
        ({"PIP_TARGET": "/x", "PIP_PREFIX": "/x", "PIP_USER": "1", "PIP_ROOT": "/x", "PIP_DRY_RUN": "1"}, {}),
        ({"PIP_CONSTRAINT": "c", "PIP_REQUIREMENT": "r", "PIP_NO_DEPS": "1", "PIP_ONLY_DEPS": "1"}, {}),
        ({"PIP_PLATFORM": "win32", "PIP_PYTHON_VERSION": "2.7", "PIP_NO_BINARY": ":all:", "PIP_PYTHON": "/x"}, {}),
        ({"PIP_QUIET": "3", "PIP_LOG": "/x", "PIP_REQUIRE_VIRTUALENV": "1", "PIP_SOMETHING_NEW": "1"}, {}),
    ],
)
def test_index_network_and_certificate_settings_are_kept_and_nothing_else(
    environ: dict[str, str], kept: dict[str, str]
) -> None:
    found = pip_settings.environment({"HOME": "/home/me", "PIP_CONFIG_FILE": os.devnull, **environ})
    assert found == kept | {"PIP_CONFIG_FILE": os.devnull}


def test_a_later_file_overrides_and_a_variable_overrides_all(tmp_path: Path) -> None:
    files = {
        "xdg/pip/pip.conf": "[global]\nindex-url = system\ntimeout = 1\nretries = 1\ncert = system\nproxy = system\n",
        "home/.pip/pip.conf": "[global]\n--timeout = 2\n",
        "home/.config/pip/pip.conf": "[install]\nindex-url =\nretries = 3\nextra_index_url =\n    a\n    b\n",
        "chosen.conf": "[global]\ncert = chosen\n[wheel]\nfind-links = wheel\n[list]\nno-index = true\n",
    }
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    environ = {
        "HOME": str(tmp_path / "home"),
        "XDG_CONFIG_DIRS": str(tmp_path / "xdg"),
        "PIP_CONFIG_FILE": str(tmp_path / "chosen.conf"),
        "PIP_PROXY": "variable",
        "PIP_RETRIES": "",
    }
    found = pip_settings.environment(environ)
    expected = {
        "PIP_INDEX_URL": "system",
        "PIP_TIMEOUT": "2",
        "PIP_RETRIES": "3",
        "PIP_EXTRA_INDEX_URL": "\na\nb",
        "PIP_CERT": "chosen",
        "PIP_FIND_LINKS": "wheel",
        "PIP_PROXY": "variable",
        "PIP_CONFIG_FILE": os.devnull,
    }
    own = pip_settings.environment({"HOME": "/none", "XDG_CONFIG_DIRS": "/none"})  # /etc/pip.conf of this machine
    assert found == own | expected
    assert pip_settings.environment(environ | found) == found


def test_a_malformed_file_is_named(tmp_path: Path) -> None:
    (tmp_path / "pip.conf").write_text("index-url = x\n")
    with pytest.raises(BuildError, match=rf"^The pip configuration file {tmp_path}/pip.conf is malformed"):
        pip_settings.environment({"PIP_CONFIG_FILE": str(tmp_path / "pip.conf")})


def test_pip_gets_no_credentials_and_no_settings_of_python() -> None:
    given = {
        "PATH": "/bin",
        "HTTPS_PROXY": "http://proxy",
        "VAULT_TOKEN": "s.x",
        "PYTHONPATH": "/x",
        "BUILD_SPEC": "{}",
    }
    kept = bootstrap.pip_environment(given)
    assert {"PATH", "HTTPS_PROXY"} <= set(kept)
    assert not {"VAULT_TOKEN", "PYTHONPATH", "BUILD_SPEC"} & set(kept)


def test_the_development_environments_are_installed_with_the_kept_settings_only(tmp_path: Path) -> None:
    hostile = tmp_path / "pip.conf"
    hostile.write_text("[global]\nindex-url = https://index.example/simple\ntarget = /elsewhere\nno-deps = true\n")
    done = subprocess.run(
        [sys.executable, ROOT / "scripts" / "pip", "config", "list"],
        env={**os.environ, "PIP_CONFIG_FILE": str(hostile), "PIP_INDEX_URL": "", "PIP_USER": "1"},
        capture_output=True,
        text=True,
        check=True,
    )
    told = dict(line.split("=", 1) for line in done.stdout.splitlines())
    assert told[":env:.index-url"] == "'https://index.example/simple'"
    assert not [name for name in told if name.rpartition(".")[2] in ("target", "no-deps", "user")]
    for file in ("Makefile", "scripts/demo-venv", "scripts/terraform-test"):
        assert "scripts/pip install" in (ROOT / file).read_text(), file
        assert "-m pip" not in (ROOT / file).read_text()


# Real builds


HOSTILE = """
[global]
index-url = {index}
quiet = 3
log = /nonexistent/pip.log
python = /nonexistent/python
require-virtualenv = true
[install]
target = {elsewhere}
prefix = {elsewhere}
root = {elsewhere}
user = true
dry-run = true
no-deps = true
requirement = /nonexistent.txt
constraint = /nonexistent.txt
no-binary = :all:
python-version = 2.7
platform = win32
[download]
dest = {elsewhere}
platform = win32
no-binary = :all:
[wheel]
wheel-dir = {elsewhere}
only-binary = :all:
"""
HOSTILE_DISTUTILS = "[install]\nprefix = {elsewhere}\n[bdist_wheel]\nplat_name = win32\n"


@pytest.fixture(scope="module")
def index() -> Iterator[tuple[str, list[str]]]:
    """A package index that redirects all requests to the real one, and the requested paths."""
    real = pip_settings.environment(os.environ).get("PIP_INDEX_URL", PyPI.simple_url).rstrip("/")
    asked: list[str] = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append(self.path)
            self.send_response(302)
            self.send_header("Location", real + self.path.removeprefix("/simple"))
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *_: Any) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}/simple", asked
        server.shutdown()
        thread.join()


@pytest.fixture(scope="module")
def hostile(builder: Builder, tmp_path_factory: pytest.TempPathFactory, index: tuple[str, list[str]]) -> Path:
    """A directory with what was built under a hostile configuration, its cache, and `elsewhere`, if that was made."""
    directory = tmp_path_factory.mktemp("hostile")
    elsewhere = directory / "elsewhere"
    (directory / "pip.conf").write_text(HOSTILE.format(index=index[0], elsewhere=elsewhere))
    (directory / ".pydistutils.cfg").write_text(HOSTILE_DISTUTILS.format(elsewhere=elsewhere))
    environ = {
        "HOME": str(directory),
        "BUILD_CACHE": str(directory / "cache"),
        "PIP_CONFIG_FILE": str(directory / "pip.conf"),
        "PIP_TARGET": str(elsewhere),
        "PIP_USER": "1",
        "PIP_NO_DEPS": "1",
        "PIP_PLATFORM": "win32",
        "PIP_ONLY_BINARY": ":none:",
        "PYTHONUSERBASE": str(elsewhere),
    }
    builder.build(chef(builder, directory / "package.zip"), environ)
    return directory


def chef(builder: Builder, output: Path) -> dict[str, Any]:
    """A specification with PyChef, which is built from source."""
    return builder.spec("chef", features=["route53", "chef"], output=str(output))


@pytest.fixture
def cache(hostile: Path) -> Path:
    return hostile / "cache"


def test_a_hostile_configuration_changes_nothing(
    builder: Builder, hostile: Path, index: tuple[str, list[str]]
) -> None:
    found = zipfile.ZipFile(hostile / "package.zip").namelist()
    assert {"chef/__init__.py", "requests/__init__.py", "cryptography/__init__.py"} <= set(found)
    assert not (hostile / "elsewhere").exists()
    assert "/simple/packaging/" in index[1], "the index of the configuration was used"
    again = builder.build(chef(builder, hostile / "again.zip"), {"BUILD_CACHE": str(hostile / "cache")})
    assert again.read_bytes() == (hostile / "package.zip").read_bytes()


def an_empty_package(environment: Path) -> None:
    [package] = environment.glob("lib/python*/site-packages/packaging")
    shutil.rmtree(package)


def another_version(environment: Path) -> None:
    [record] = environment.glob("lib/python*/site-packages/wheel-*.dist-info/METADATA")
    text = record.read_text()
    record.unlink()  # pip may have linked it to its cache
    record.write_text(text.replace("\nVersion: ", "\nVersion: 9"))


def no_environment(environment: Path) -> None:
    (environment / "pyvenv.cfg").unlink()


def no_python(environment: Path) -> None:
    python = environment / "bin" / "python"
    python.unlink()
    python.symlink_to("/nonexistent/python")


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (an_empty_package, "packaging.requirements cannot be imported (ModuleNotFoundError)"),
        (another_version, "wheel has the version 9"),
        (no_environment, "its Python uses "),
        (no_python, "its Python does not start: No such file or directory"),
    ],
)
def test_a_wrong_environment_is_recognized(
    cache: Path, tmp_path: Path, damage: Callable[[Path], None], reason: str
) -> None:
    [environment] = cache.glob("python-*")
    shutil.copytree(environment, tmp_path / "copy", symlinks=True)
    assert bootstrap._problem(tmp_path / "copy", ["build"]) is None
    damage(tmp_path / "copy")
    assert (bootstrap._problem(tmp_path / "copy", ["build"]) or "").startswith(reason)


def test_unusable_cached_environment_is_recreated(builder: Builder, cache: Path) -> None:
    [environment] = cache.glob("python-*")
    an_empty_package(environment)
    done = builder.run(builder.spec("again"), {"BUILD_CACHE": str(cache)})
    assert done.returncode == 0, done.stderr
    assert "build environment: the cached one is unusable (packaging.requirements cannot be imported" in done.stdout
    assert [path.name for path in cache.iterdir() if path.name != "lock"] == [environment.name]
    done = builder.run(builder.spec("again"), {"BUILD_CACHE": str(cache)})
    assert "build environment" not in done.stdout


def test_a_wrong_environment_is_never_cached(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = bootstrap._run

    def without_installing(command: list[str], failure: str) -> None:
        if "install" not in command:
            real(command, failure)

    monkeypatch.setattr(bootstrap, "_run", without_installing)
    with pytest.raises(
        BuildError, match="pip reported success, but the build environment is unusable: packaging is m"
    ):
        bootstrap.enter(tmp_path / "cache", [], ["build"])
    assert [path.name for path in (tmp_path / "cache").iterdir()] == ["lock"]


def test_killed_build_does_not_block_the_next(builder: Builder, tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    process = builder.start(builder.spec("killed"), {"BUILD_CACHE": str(cache)}, start_new_session=True)
    deadline = time.monotonic() + 60
    while not list(cache.glob("unfinished-*/bin/python")) and time.monotonic() < deadline:
        time.sleep(0.02)
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()
    assert list(cache.glob("unfinished-*"))
    assert not Path(builder.spec("killed")["output"]).exists()
    assert builder.build(builder.spec("killed"), {"BUILD_CACHE": str(cache)}).exists()


UNSHARE = ["unshare", "--user", "--map-user=54321", "--map-group=54321"]
NAMELESS = pytest.mark.skipif(
    shutil.which("unshare") is None
    or subprocess.run([*UNSHARE, "true"], check=False, capture_output=True).returncode != 0,
    reason="this machine has no user namespaces, which give a user id without a passwd entry",
)


@NAMELESS
def test_build_without_home_or_user_name_in_a_read_only_path_with_spaces(
    builder: Builder,
    tmp_path: Path,
    full_spec: Callable[..., dict[str, Any]],
    kms: Kms,
    approle: Mapping[str, str],
) -> None:
    module = tmp_path / "my modules" / "the module"
    shutil.copytree(builder.module, module)
    before = sorted(module.rglob("*"))
    for path in [module, *before]:
        path.chmod(path.stat().st_mode & ~(stat.S_IWUSR | stat.S_IWGRP | stat.S_IWOTH))
    root = tmp_path / "my root"
    root.mkdir()
    output = root / "out put" / "the package.zip"
    environ = builder.environ(kms.environ, approle, pip_settings.environment(os.environ))
    for name in ("HOME", "XDG_CONFIG_HOME", "XDG_CACHE_HOME"):
        environ.pop(name, None)
    environ["BUILD_SPEC"] = json.dumps(full_spec("nameless", output=str(output)))
    done = subprocess.run(
        [*UNSHARE, sys.executable, str(module / "lambda" / "build")],
        env=environ,
        capture_output=True,
        text=True,
        check=False,
        cwd=root,
    )
    for path in [module, *before]:
        path.chmod(path.stat().st_mode | stat.S_IWUSR)
    assert done.returncode == 0, done.stderr
    assert "sealed_secrets.json" in zipfile.ZipFile(output).namelist()
    assert sorted(module.rglob("*")) == before
    assert [path.name for path in root.iterdir()] == ["out put"], "no directory named ~"
