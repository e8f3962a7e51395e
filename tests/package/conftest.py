"""A real OpenBao, moto's KMS, and the build program, run as Terraform does."""

from __future__ import annotations

import json
import os
import platform
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import boto3
import pytest
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from moto.server import ThreadedMotoServer

from testbed import tools
from testbed.processes import free_port
from testbed.vault import Listener, VaultServer

REPOSITORY = Path(__file__).resolve().parents[2]
BUILD = REPOSITORY / "lambda" / "build"
sys.path.insert(0, str(BUILD))  # the build program is not a Python package

CONTEXT = {"FunctionName": "ec2-decommission"}
HERE = "arm64" if platform.machine() in ("arm64", "aarch64") else "x86_64"


def rsa_key(bits: int = 2048) -> str:
    key = rsa.generate_private_key(public_exponent=65537, key_size=bits)
    return key.private_bytes(Encoding.PEM, PrivateFormat.TraditionalOpenSSL, NoEncryption()).decode()


class OpenBao(VaultServer):
    """The testbed's server with secrets, and short methods for requests."""

    def __init__(self, *, listeners: Mapping[str, Listener] | None = None) -> None:
        super().__init__(listeners=listeners)
        self.values: dict[str, str] = {}

    def call(self, method: str, path: str, body: Any = None, *, namespace: str | None = None) -> Any:
        return self.api(method, f"/v1/{path}", json=body, namespace=namespace)

    def narrow_token(self, path: str) -> str:
        """A token that can read only this path, and not even look itself up."""
        body = {"policies": [self.create_policy(path)], "no_default_policy": True}
        return str(self.call("POST", "auth/token/create-orphan", body)["auth"]["client_token"])


@pytest.fixture(scope="session")
def openbao() -> Iterator[OpenBao]:
    """KV 2 at secret/ and KV 1 at team/kv/, with a Chef key and a Consul token in them."""
    with OpenBao() as bao:
        bao.values = {"chef_client_key": rsa_key(), "consul_token": "8f246b77-f3e1-ff88-5b48-8ec93abf3e05"}
        bao.write_kv2("secret", "decommission/chef", {"pem": bao.values["chef_client_key"]})
        bao.write_kv2("secret", "decommission/consul", {"token": bao.values["consul_token"]})
        bao.write_kv1("team/kv", "consul", {"token": bao.values["consul_token"], "number": 5, "blank": " "})
        yield bao


@pytest.fixture(scope="session")
def approle(openbao: OpenBao) -> dict[str, str]:
    """The environment variables of a pipeline."""
    role = openbao.create_approle("build", "secret/data/decommission/*")
    return {"VAULT_ADDR": openbao.address, "VAULT_ROLE_ID": role.role_id, "VAULT_SECRET_ID": role.secret_id}


@dataclass(frozen=True)
class Kms:
    client: Any
    key_arn: str
    environ: Mapping[str, str]

    @property
    def spec(self) -> dict[str, Any]:
        return {"key_arn": self.key_arn, "region": "us-east-1", "role_arn": None, "encryption_context": CONTEXT}


@pytest.fixture(scope="module")  # moto keeps its keys in the process, and another module's tests may reset it
def kms() -> Iterator[Kms]:
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=free_port(), verbose=False)
    server.start()
    try:
        host, port = server.get_host_and_port()
        endpoint = f"http://{host}:{port}"
        environ = {
            "AWS_ENDPOINT_URL": endpoint,
            "AWS_ACCESS_KEY_ID": "testing",
            "AWS_SECRET_ACCESS_KEY": "testing",
            "AWS_EC2_METADATA_DISABLED": "true",
        }
        client = boto3.client(
            "kms",
            region_name="us-east-1",
            endpoint_url=endpoint,
            aws_access_key_id="testing",
            aws_secret_access_key="testing",
        )
        yield Kms(client, client.create_key()["KeyMetadata"]["Arn"], environ)
    finally:
        server.stop()


@dataclass(frozen=True)
class Builder:
    """Runs `python3 lambda/build` with a specification and a clean environment."""

    directory: Path

    @property
    def module(self) -> Path:
        """A copy of the module's files, so that edits during the tests do not change builds that tests compare."""
        return self.directory / "module"

    @property
    def program(self) -> Path:
        return self.module / "lambda" / "build"

    def environ(self, *more: Mapping[str, str]) -> dict[str, str]:
        home = Path.home()
        own = {name: os.environ[name] for name in os.environ if name.startswith("PIP_") or "proxy" in name.lower()}
        own |= {
            "PATH": os.environ["PATH"],
            "HOME": str(self.directory / "home"),
            "TMPDIR": str(self.directory / "tmp"),
            # keep the user's pip mirrors and cache
            "XDG_CONFIG_HOME": os.environ.get("XDG_CONFIG_HOME", str(home / ".config")),
            "XDG_CACHE_HOME": os.environ.get("XDG_CACHE_HOME", str(home / ".cache")),
        }
        for part in more:
            own |= part
        return own

    def spec(self, name: str, **more: Any) -> dict[str, Any]:
        base = {"name": "ec2-decommission", "runtime": "python3.13", "architecture": HERE, "features": ["route53"]}
        return base | {"output": str(self.directory / "out" / f"{name}.zip")} | more

    def start(
        self, spec: Mapping[str, Any], *environ: Mapping[str, str], start_new_session: bool = False
    ) -> subprocess.Popen[str]:
        for name in ("home", "tmp"):
            (self.directory / name).mkdir(exist_ok=True)
        return subprocess.Popen(
            [sys.executable, str(self.program)],
            env=self.environ({"BUILD_SPEC": json.dumps(spec)}, *environ),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            cwd=self.directory,
            start_new_session=start_new_session,
        )

    def run(self, spec: Mapping[str, Any], *environ: Mapping[str, str]) -> subprocess.CompletedProcess[str]:
        process = self.start(spec, *environ)
        out, error = process.communicate(timeout=240)
        return subprocess.CompletedProcess(process.args, process.returncode, out, error)

    def build(self, spec: Mapping[str, Any], *environ: Mapping[str, str]) -> Path:
        done = self.run(spec, *environ)
        assert done.returncode == 0, done.stderr
        return Path(spec["output"])


def new_builder(directory: Path) -> Builder:
    """A builder without a build environment."""
    made = Builder(directory)
    for name in ("build", "requirements", "src"):
        source = REPOSITORY / "lambda" / name
        shutil.copytree(source, made.module / "lambda" / name, ignore=shutil.ignore_patterns("__pycache__"))
    (directory / "out").mkdir()
    return made


@pytest.fixture(scope="session")
def builder(tmp_path_factory: pytest.TempPathFactory) -> Builder:
    """A builder with the build environment of the testbed's stacks. Tests of the environment set BUILD_CACHE."""
    made = new_builder(tmp_path_factory.mktemp("package"))
    cache = tools.CACHE / "build"
    cache.mkdir(parents=True, exist_ok=True)
    (made.directory / "out" / ".build-cache").symlink_to(cache)
    return made


SECRETS = {
    "chef_client_key": {"mount": "secret", "path": "decommission/chef", "field": "pem", "version": None},
    "consul_token": {"mount": "secret", "path": "decommission/consul", "field": "token", "version": 1},
}


@pytest.fixture(scope="module")
def full_spec(builder: Builder, kms: Kms) -> Callable[..., dict[str, Any]]:
    """All features and both secrets, with an AppRole login."""

    def make(name: str, **more: Any) -> dict[str, Any]:
        return builder.spec(
            name,
            **{
                "features": ["route53", "chef", "consul", "http"],
                "secrets": SECRETS,
                "vault": {"auth": {"method": "approle"}},
                "kms": kms.spec,
            }
            | more,
        )

    return make


@pytest.fixture(scope="module")
def full(
    builder: Builder, full_spec: Callable[..., dict[str, Any]], kms: Kms, approle: Mapping[str, str]
) -> Callable[..., Path]:
    """The package with all features for a runtime and an architecture. Each is built once."""
    made: dict[tuple[str, str], Path] = {}

    def build(runtime: str = "python3.13", architecture: str = HERE) -> Path:
        key = (runtime, architecture)
        if key not in made:
            spec = full_spec(f"full-{runtime}-{architecture}", runtime=runtime, architecture=architecture)
            made[key] = builder.build(spec, kms.environ, approle)
        return made[key]

    return build
