"""The build command: messages, exit status, an old Python, and interruption."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

import bootstrap
from errors import BuildError
from tests.package.conftest import BUILD, REPOSITORY, Builder, Kms, OpenBao

pytestmark = pytest.mark.servers


def failed(done: subprocess.CompletedProcess[str], status: int = 1) -> str:
    assert done.returncode == status, done.stderr
    assert "Traceback" not in done.stdout + done.stderr
    assert done.stderr.endswith("Nothing was built.\n")
    return done.stderr


def run(
    *arguments: str, environ: Mapping[str, str], python: str = sys.executable
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [python, str(BUILD), *arguments], env=dict(environ), capture_output=True, text=True, check=False
    )


def test_help_builds_nothing(builder: Builder) -> None:
    done = run("--help", environ=builder.environ())
    assert done.returncode == 0
    assert "BUILD_SPEC" in done.stdout


def test_no_specification(builder: Builder) -> None:
    text = failed(run(environ=builder.environ()), 2)
    assert text.startswith(
        "Error: There is no specification: set the environment variable BUILD_SPEC, or give --spec"
    )


def test_a_specification_file_that_is_missing(builder: Builder) -> None:
    assert "cannot be read" in failed(run("--spec", "/none.json", environ=builder.environ()), 2)


def test_all_specification_errors_are_reported_before_the_build_starts(builder: Builder, tmp_path: Path) -> None:
    spec = builder.spec("x", output=str(tmp_path / "deep" / "x.zip"), runtime="python2", surplus=1)
    text = failed(builder.run(spec), 2)
    assert text.count("Error: ") == 2
    assert not (tmp_path / "deep").exists()


def test_a_specification_in_a_file(builder: Builder, tmp_path: Path) -> None:
    (tmp_path / "package.json").write_text(json.dumps(builder.spec("from-file")))
    done = run("--spec", str(tmp_path / "package.json"), environ=builder.environ())
    assert done.returncode == 0, done.stderr
    assert f"wrote {builder.directory / 'out' / 'from-file.zip'}" in done.stdout


def test_a_python_that_is_too_old(builder: Builder, tmp_path: Path) -> None:
    found = subprocess.run(
        [str(REPOSITORY / "scripts" / "find-python"), "3.10", "3.9", "3.8"],
        capture_output=True,
        text=True,
        check=False,
    )
    if found.returncode:
        pytest.skip("no old Python on this machine")
    old = found.stdout.strip()
    alone = builder.environ() | {"PATH": str(tmp_path)}
    done = run("--help", environ=alone, python=old)
    assert done.returncode == 2
    assert done.stderr.startswith("Error: building the package needs Python 3.11 or later. This is Python 3.")
    # A newer Python on PATH is used instead.
    (tmp_path / "python3.13").symlink_to(Path(sys.executable).resolve())
    done = run("--help", environ=alone, python=old)
    assert done.returncode == 0, done.stderr
    assert "BUILD_SPEC" in done.stdout


def test_a_python_without_venv(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda _: None)
    with pytest.raises(BuildError, match="cannot create virtual environments: install its venv module"):
        bootstrap.enter(tmp_path / "cache", [], ["build"])


def test_a_package_index_that_cannot_be_reached(builder: Builder, tmp_path: Path) -> None:
    spec = builder.spec("x", output=str(tmp_path / "x.zip"))
    nowhere = {
        "PIP_CONFIG_FILE": os.devnull,
        "PIP_INDEX_URL": "http://127.0.0.1:9/simple",
        "PIP_FIND_LINKS": "",
        "PIP_EXTRA_INDEX_URL": "",
        "PIP_RETRIES": "0",
        "PIP_NO_CACHE_DIR": "1",
    }
    text = failed(builder.run(spec, nowhere))
    assert "The build program's own requirements cannot be installed" in text


def test_a_directory_that_cannot_be_written(builder: Builder, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    text = failed(builder.run(builder.spec("x", output=str(tmp_path / "file" / "x.zip"))))
    assert "The build cache" in text
    assert "cannot be used" in text


@pytest.mark.parametrize(
    ("more", "sentence"),
    [
        ({"ca_bundle_file": "/none.pem"}, "The CA bundle /none.pem (ca_bundle_file) cannot be read."),
        ({"ca_bundle_file": "key.pem"}, "contains a private key, which must not be packaged"),
        ({"ca_bundle_file": "text.pem"}, "contains no certificate in PEM format"),
        ({"custom_steps": {"tidy": {"source_dir": "/none"}}}, "its source_dir, /none, is not a directory"),
        ({"custom_steps": {"tidy": {"source_dir": "empty"}}}, "its source_dir, empty, has no __init__.py"),
        ({"custom_steps": {"tidy": {"source_dir": "links"}}}, "links/step.py is a symbolic link"),
        (
            {"custom_steps": {"tidy": {"source_dir": "step"}}},
            "The custom step tidy: its __init__.py does not define make_step",
        ),
        (
            {"custom_steps": {"tidy": {"source_dir": "step", "requirements_file": "old.txt"}}},
            "aws-lambda-powertools==1.0 is pinned, but the package already has aws-lambda-powertools==",
        ),
        (
            {"custom_steps": {"tidy": {"source_dir": "step", "requirements_file": "loose.txt"}}},
            "requests must be pinned as name==version with its hashes",
        ),
    ],
)
def test_each_invalid_file_has_its_own_error(builder: Builder, more: dict[str, Any], sentence: str) -> None:
    here = builder.directory
    (here / "key.pem").write_text("-----BEGIN CERTIFICATE-----\n-----BEGIN RSA PRIVATE KEY-----\n")
    (here / "text.pem").write_text("hello\n")
    for name in ("empty", "links", "step"):
        (here / name).mkdir(exist_ok=True)
    (here / "step" / "__init__.py").write_text("")
    (here / "links" / "step.py").unlink(missing_ok=True)
    (here / "links" / "step.py").symlink_to(here / "step" / "__init__.py")
    (here / "old.txt").write_text(f"aws-lambda-powertools==1.0 --hash=sha256:{'0' * 64}\n")
    (here / "loose.txt").write_text("requests\n")
    assert sentence in failed(builder.run(builder.spec("unfit", **more)))


def test_a_secret_that_cannot_be_read_fails_the_build_by_its_reference(
    builder: Builder, full_spec: Callable[..., dict[str, Any]], kms: Kms, approle: Mapping[str, str], openbao: OpenBao
) -> None:
    before = openbao.token_accessors()
    reference = {"mount": "secret", "path": "decommission/none", "field": "token", "version": 2}
    spec = full_spec("x", features=["consul"], secrets={"consul_token": reference})
    text = failed(builder.run(spec, kms.environ, approle))
    assert (
        "The secret consul_token cannot be read from secret/decommission/none#token@2: there is no such path" in text
    )
    assert openbao.token_accessors() == before


def test_a_key_that_does_not_exist_fails_the_build_and_the_login_is_revoked(
    builder: Builder, full_spec: Callable[..., dict[str, Any]], kms: Kms, approle: Mapping[str, str], openbao: OpenBao
) -> None:
    before = openbao.token_accessors()
    missing = kms.key_arn[:-4] + "ffff"
    done = builder.run(full_spec("x", kms=kms.spec | {"key_arn": missing}), kms.environ, approle)
    assert f"The KMS key {missing} does not exist in us-east-1" in failed(done)
    assert openbao.token_accessors() == before


def test_an_interrupted_build_revokes_its_login(
    builder: Builder, full_spec: Callable[..., dict[str, Any]], approle: Mapping[str, str], openbao: OpenBao
) -> None:
    builder.build(builder.spec("first"))  # so that the environment is there, and the wait below is for the login
    before = openbao.token_accessors()
    with _SlowVault(openbao.address) as slow:
        process = builder.start(full_spec("x"), dict(approle) | {"VAULT_ADDR": slow.address})
        slow.wait_for_read()
        assert openbao.token_accessors() != before
        process.send_signal(signal.SIGTERM)
        _, error = process.communicate(timeout=30)
    assert process.returncode == 130
    assert "the build was interrupted" in error
    assert openbao.token_accessors() == before


class _SlowVault:
    """A proxy to Vault that delays the answers to secret reads."""

    def __init__(self, behind: str) -> None:
        import http.server  # noqa: PLC0415
        import threading  # noqa: PLC0415

        import requests  # noqa: PLC0415

        reading = self._reading = threading.Event()

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
                headers = {name: value for name, value in self.headers.items() if name.startswith("X-Vault")}
                answer = requests.post(behind + self.path, data=body, headers=headers, timeout=10)
                self.send_response(answer.status_code)
                self.send_header("Content-Length", str(len(answer.content)))
                self.end_headers()
                self.wfile.write(answer.content)

            def do_GET(self) -> None:
                reading.set()
                time.sleep(5)

            def log_message(self, *_: Any) -> None:
                pass

        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self._server.block_on_close = False
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.05})
        self.address = f"http://127.0.0.1:{self._server.server_port}"

    def wait_for_read(self) -> None:
        assert self._reading.wait(60)

    def __enter__(self) -> _SlowVault:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()
