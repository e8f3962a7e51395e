"""The zip: content, size, bytecode, reproducibility, whether it runs, and that it contains no plaintext secrets."""

from __future__ import annotations

import base64
import json
import platform
import subprocess
import sys
import threading
import time
import zipfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from tests.package.conftest import CONTEXT, HERE, REPOSITORY, Builder, Kms, OpenBao, new_builder

SpecMaker = Callable[..., dict[str, Any]]
Full = Callable[..., Path]
pytestmark = pytest.mark.servers

SETTINGS = {"organization": {"members": {"2": {}, "1": {"regions": ["b", "a"]}}}, "http_steps": {"ü": 1.5}}
SETTINGS_FILE = b'{"http_steps":{"\\u00fc":1.5},"organization":{"members":{"1":{"regions":["b","a"]},"2":{}}}}\n'

PYTHON = f"{sys.version_info.major}.{sys.version_info.minor}"
LINUX = pytest.mark.skipif(platform.system() != "Linux", reason="the package's libraries are Linux's")


@pytest.fixture(scope="module")
def builder(tmp_path_factory: pytest.TempPathFactory) -> Builder:
    """A builder with a new cache, which no other test uses."""
    return new_builder(tmp_path_factory.mktemp("package"))


@pytest.fixture(scope="module", autouse=True)
def side_by_side(builder: Builder) -> tuple[Path, Path]:
    """Two first builds: both need the build environment, and one creates it. They have no secrets."""
    assert not list((builder.directory / "out").iterdir())
    specs = [builder.spec(f"side-by-side-{name}", features=["route53", "consul"]) for name in ("a", "b")]
    running = [builder.start(spec) for spec in specs]
    for process in running:
        _, error = process.communicate(timeout=240)
        assert process.returncode == 0, error
    return Path(specs[0]["output"]), Path(specs[1]["output"])


def members(path: Path) -> dict[str, bytes]:
    with zipfile.ZipFile(path) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def opened(path: Path, kms: Kms) -> tuple[str, dict[str, str]]:
    """Decrypts the bundle as the function does. Returns the sealing method and the secrets."""
    sealed = json.loads(members(path)["sealed_secrets.json"])
    assert sealed["version"] == 1
    ciphertext = base64.b64decode(sealed["ciphertext"])
    if sealed["encryption"] == "kms":
        plaintext = kms.client.decrypt(CiphertextBlob=ciphertext, EncryptionContext=CONTEXT)["Plaintext"]
    else:
        blob = base64.b64decode(sealed["encrypted_data_key"])
        key = kms.client.decrypt(CiphertextBlob=blob, EncryptionContext=CONTEXT)["Plaintext"]
        context = json.dumps(CONTEXT, sort_keys=True, separators=(",", ":")).encode()
        plaintext = AESGCM(key).decrypt(base64.b64decode(sealed["nonce"]), ciphertext, context)
    return sealed["encryption"], json.loads(plaintext)


def test_contains_the_function_its_dependencies_and_the_build_target(builder: Builder, full: Full) -> None:
    files = members(full())
    source = builder.module / "lambda" / "src" / "ec2_decommission"
    for path in [*source.rglob("*.py"), source / "py.typed"]:
        assert files[f"ec2_decommission/{path.relative_to(source).as_posix()}"] == path.read_bytes()
    for name in ("aws_lambda_powertools", "chef", "consul", "cryptography", "requests"):
        assert f"{name}/__init__.py" in files
    assert json.loads(files["build_info.json"]) == {
        "features": ["chef", "consul", "http", "route53"],
        "runtime": "python3.13",
        "architecture": HERE,
        "bytecode": True,
        "secrets": ["chef_client_key", "consul_token"],
        "custom_steps": [],
    }


def test_contains_no_unnecessary_files(full: Full) -> None:
    names = set(members(full()))
    tops = {name.split("/")[0] for name in names}
    unwanted = {
        "boto3",
        "botocore",
        "hvac",
        "pip",
        "setuptools",
        "pkg_resources",
        "wheel",
        "bin",
        "cffi",
        "pycparser",
    }
    assert not tops & unwanted
    assert not [name for name in names if name.endswith((".pyi", "/RECORD"))]
    assert "cryptography-" in " ".join(tops), "its METADATA, which scanners read, and its licence stay"
    assert any("LICENSE" in name for name in names)


@pytest.mark.parametrize(
    ("features", "has", "lacks"),
    [
        (["route53"], {"aws_lambda_powertools", "jmespath"}, {"chef", "consul", "cryptography", "requests"}),
        # Its secrets may come in a layer, and be many.
        (["http"], {"jmespath", "requests", "cryptography"}, {"chef", "consul"}),
    ],
)
def test_holds_only_what_the_features_need(
    builder: Builder, features: list[str], has: set[str], lacks: set[str]
) -> None:
    tops = {
        name.split("/")[0] for name in members(builder.build(builder.spec("-".join(features), features=features)))
    }
    assert has <= tops
    assert not tops & (lacks | {"sealed_secrets.json", "settings.json", "ca_bundle.pem", "botocore"})


@pytest.mark.parametrize("architecture", ["arm64", "x86_64"])
def test_is_at_most_8_megabytes_and_of_the_right_architecture(full: Full, architecture: str) -> None:
    path = full(architecture=architecture)
    assert path.stat().st_size <= 8_000_000
    machine = {"arm64": 183, "x86_64": 62}[architecture]  # e_machine in the ELF header
    libraries = {name: content for name, content in members(path).items() if name.endswith(".so")}
    assert libraries
    for name, content in libraries.items():
        assert int.from_bytes(content[18:20], "little") == machine, name


def test_seals_a_small_bundle_with_kms_itself(full: Full, kms: Kms, openbao: OpenBao) -> None:
    assert opened(full(), kms) == ("kms", openbao.values)


def test_the_bundle_opens_under_its_own_encryption_context_only(full: Full, kms: Kms) -> None:
    ciphertext = base64.b64decode(json.loads(members(full())["sealed_secrets.json"])["ciphertext"])
    with pytest.raises(kms.client.exceptions.InvalidCiphertextException):
        kms.client.decrypt(CiphertextBlob=ciphertext, EncryptionContext={"FunctionName": "another"})


def test_parallel_builds_are_byte_identical(side_by_side: tuple[Path, Path]) -> None:
    first, second = side_by_side
    assert first.read_bytes() == second.read_bytes()
    left = [path.name for path in first.parent.rglob("*") if path.name.startswith(("work-", "unf"))]
    assert not left
    assert not list(first.parent.glob(".*.part"))


def test_every_entry_has_a_fixed_time_and_mode(full: Full) -> None:
    with zipfile.ZipFile(full()) as archive:
        entries = archive.infolist()
    assert [entry.filename for entry in entries] == sorted(entry.filename for entry in entries)
    assert {entry.date_time for entry in entries} == {(1980, 1, 1, 0, 0, 0)}
    for entry in entries:
        expected = 0o100755 if ".so" in entry.filename else 0o100644
        assert entry.external_attr >> 16 == expected, entry.filename


_IMPORTS = """
import sys
sys.path[:0] = sys.argv[1:]
import consul, jmespath, requests, cryptography, six
from aws_lambda_powertools import Logger, Metrics
from aws_lambda_powertools.utilities.batch import BatchProcessor, EventType, process_partial_response
from aws_lambda_powertools.utilities.data_classes import SQSEvent
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import padding, rsa
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.serialization import load_pem_private_key
import ec2_decommission
Logger(service="test").info("hello")
rsa.generate_private_key(public_exponent=65537, key_size=2048).sign(b"x", padding.PKCS1v15(), hashes.SHA256())
AESGCM(bytes(32)).encrypt(bytes(12), b"x", b"")
consul.Consul(host="127.0.0.1", token="x")
requests.Session().close()
for module in (consul, requests, cryptography, ec2_decommission):
    assert module.__file__.startswith(sys.argv[1]), module.__file__
"""


@LINUX
@pytest.mark.parametrize("version", ["3.11", "3.12", "3.13"])
def test_imports_on_the_runtime_with_only_boto3(full: Full, tmp_path: Path, version: str) -> None:
    python = subprocess.run(
        [str(REPOSITORY / "scripts" / "find-python"), version], capture_output=True, text=True, check=False
    )
    if python.returncode:
        pytest.skip(f"no Python {version} on this machine")
    with zipfile.ZipFile(full(f"python{version}")) as archive:
        archive.extractall(tmp_path / "task")
    done = subprocess.run(
        [python.stdout.strip(), "-I", "-S", "-B", "-c", _IMPORTS, str(tmp_path / "task"), str(runtime(tmp_path))],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr


class Watch:
    """Samples the arguments, environment and files of a process and its children."""

    def __init__(self, pid: int, directory: Path) -> None:
        self.seen: dict[str, set[bytes]] = {"argv": set(), "environ": set(), "files": set()}
        self._pid = pid
        self._directory = directory
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def end(self) -> None:
        self._stop.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._stop.is_set():
            for pid in self._family():
                for kind, name in (("argv", "cmdline"), ("environ", "environ")):
                    try:
                        content = Path(f"/proc/{pid}/{name}").read_bytes()
                    except OSError:
                        continue
                    self.seen[kind].add(content)
            for work in (self._directory / "out" / ".build-cache").glob("work-*/*"):
                if work.is_file():
                    try:
                        self.seen["files"].add(work.read_bytes())
                    except OSError:
                        continue
            time.sleep(0.02)

    def _family(self) -> list[int]:
        family = [self._pid]
        for pid in family:
            try:
                tasks = Path(f"/proc/{pid}/task/{pid}/children").read_text()
            except OSError:
                continue
            family += [int(child) for child in tasks.split()]
        return family


def traces(value: str) -> list[bytes]:
    """The traces of a secret: its lines, and its base64 forms at each of the three offsets."""
    lines = [line.encode() for line in value.splitlines() if len(line) >= 20 and "-----" not in line]
    encoded = [base64.b64encode(b"." * shift + value.encode())[8:48] for shift in range(3)]
    return [*lines, *encoded]


@dataclass(frozen=True)
class Watched:
    """A second full build: its output, and the samples from its run."""

    path: Path
    out: str
    error: str
    seen: Mapping[str, set[bytes]]


@pytest.fixture(scope="module")
def watched(builder: Builder, full: Full, full_spec: SpecMaker, kms: Kms, approle: Mapping[str, str]) -> Watched:
    full()
    spec = full_spec("watched")
    process = builder.start(spec, kms.environ, approle)
    watch = Watch(process.pid, builder.directory)
    try:
        out, error = process.communicate(timeout=240)
    finally:
        watch.end()
    assert process.returncode == 0, error
    return Watched(Path(spec["output"]), out, error, watch.seen)


def test_second_build_differs_only_in_the_ciphertext(full: Full, watched: Watched) -> None:
    first, second = members(full()), members(watched.path)
    assert first.pop("sealed_secrets.json") != second.pop("sealed_secrets.json")
    assert first == second
    assert list(first) == list(second)


@LINUX
def test_no_secret_is_in_plaintext_anywhere(
    builder: Builder, watched: Watched, openbao: OpenBao, approle: Mapping[str, str]
) -> None:
    seen = watched.seen
    assert len(seen["argv"]) > 2, "pip was seen at work"
    assert seen["files"], "files in the making were seen"
    places = {"stdout": [watched.out.encode()], "stderr": [watched.error.encode()]}
    places |= {f"zip member {name}": [content] for name, content in members(watched.path).items()}
    places |= {kind: list(contents) for kind, contents in seen.items()}
    for path in builder.directory.rglob("*"):
        if path.is_file():
            places[str(path)] = [path.read_bytes()]
    needles = [trace for value in openbao.values.values() for trace in traces(value)]
    for place, contents in places.items():
        for content in contents:
            assert not any(needle in content for needle in needles), place
    # The login's credentials stay in the build process: pip and files do not get them.
    for place, contents in places.items():
        if place != "environ":
            assert not any(approle["VAULT_SECRET_ID"].encode() in content for content in contents), place
    mine = {content for content in seen["environ"] if b"VAULT_SECRET_ID=" in content}
    assert mine, "the build itself has them"
    pip = [content for content in seen["environ"] if b"PIP_NO_INPUT=1" in content]
    assert pip, "pip was seen"
    assert not any(b"VAULT_" in content or b"BUILD_SPEC=" in content for content in pip)


def test_build_log_names_secrets_by_reference(watched: Watched, kms: Kms) -> None:
    assert "vault: read chef_client_key from secret/decommission/chef#pem\n" in watched.out
    assert "vault: read consul_token from secret/decommission/consul#token@1\n" in watched.out
    assert "vault: own login revoked" in watched.out
    assert f"sealed 2 secrets with {kms.key_arn}" in watched.out
    assert "code sha256" in watched.out


def test_a_custom_step_settings_and_a_ca_bundle_go_in(builder: Builder, tmp_path: Path) -> None:
    step = tmp_path / "step"
    (step / "data").mkdir(parents=True)
    (step / "__init__.py").write_text("import consul\nfrom .tidy import Tidy as make_step\n")
    (step / "tidy.py").write_text("from ec2_decommission.custom_step import InstanceStep\nclass Tidy: ...\n")
    (step / "data" / "zones.txt").write_text("a\n")
    (step / ".env").write_text("SECRET=1\n")
    (step / "__pycache__").mkdir()
    (step / "__pycache__" / "step.cpython-313.pyc").write_bytes(b"")
    lock = REPOSITORY / "lambda" / "requirements" / "consul.txt"
    certificate = "-----BEGIN CERTIFICATE-----\nMII\n-----END CERTIFICATE-----\n"
    (tmp_path / "ca.pem").write_text(certificate)
    spec = builder.spec(
        "custom",
        custom_steps={"tidy": {"source_dir": str(step), "requirements_file": str(lock)}},
        ca_bundle_file=str(tmp_path / "ca.pem"),
        settings=SETTINGS,
    )
    files = members(builder.build(spec))
    assert files["settings.json"] == SETTINGS_FILE
    assert [name for name in files if name.startswith("custom_steps/")] == [
        "custom_steps/tidy/__init__.py",
        "custom_steps/tidy/__pycache__/__init__.cpython-313.pyc",
        "custom_steps/tidy/__pycache__/tidy.cpython-313.pyc",
        "custom_steps/tidy/data/zones.txt",
        "custom_steps/tidy/tidy.py",
    ]
    assert "consul/__init__.py" in files
    assert files["ca_bundle.pem"].decode() == certificate
    assert json.loads(files["build_info.json"])["custom_steps"] == ["tidy"]


def test_a_large_bundle_is_sealed_under_a_data_key_with_the_secrets_of_all_steps_under_their_names(
    builder: Builder,
    full_spec: SpecMaker,
    kms: Kms,
    openbao: OpenBao,
    approle: Mapping[str, str],
    tmp_path: Path,
) -> None:
    (tmp_path / "__init__.py").write_text("def make_step(tools): ...\n")
    token = "long-" * 1000
    openbao.write_kv2("secret", "decommission/large", {"token": token})
    reference = {"mount": "secret", "path": "decommission/large", "field": "token"}
    spec = full_spec(
        "large",
        features=["consul"],
        secrets={"consul_token": reference},
        custom_steps={"tidy": {"source_dir": str(tmp_path), "secrets": {"token": reference}}},
        http_steps={"zabbix": {"secrets": {"token": reference}}},
    )
    path = builder.build(spec, kms.environ, approle)
    names = ["consul_token", "custom_steps.tidy.token", "http_steps.zabbix.token"]
    assert opened(path, kms) == ("kms-data-key", dict.fromkeys(names, token))
    files = members(path)
    assert json.loads(files["build_info.json"])["secrets"] == names
    assert "cryptography/__init__.py" in files, "it opens the bundle"
    assert "chef/__init__.py" not in files


# A bundle separate from the code


def test_settings_bundle_builds_without_pip_and_network(builder: Builder, tmp_path: Path) -> None:
    spec = {"kind": "bundle", "name": "x", "settings": SETTINGS}
    paths = []
    for name in ("a", "b"):
        output = tmp_path / name / "bundle.zip"
        done = builder.run(
            spec | {"output": str(output)}, {"PIP_CONFIG_FILE": "/nonexistent/pip.conf", "PATH": "/none"}
        )
        assert done.returncode == 0, done.stderr
        assert [path.name for path in output.parent.iterdir()] == ["bundle.zip"], "no cache, no environment"
        paths.append(output)
    assert members(paths[0]) == {"ec2-decommission/settings.json": SETTINGS_FILE}
    assert paths[0].read_bytes() == paths[1].read_bytes()


@pytest.mark.parametrize("size", [100, 5000])
def test_a_sealed_bundle_in_a_layer_opens_in_a_package_without_secrets(
    builder: Builder,
    full_spec: SpecMaker,
    kms: Kms,
    openbao: OpenBao,
    approle: Mapping[str, str],
    side_by_side: tuple[Path, Path],
    tmp_path: Path,
    size: int,
) -> None:
    token = "long-" * (size // 5)
    openbao.write_kv2("secret", f"decommission/layer-{size}", {"token": token})
    secrets = {"consul_token": {"mount": "secret", "path": f"decommission/layer-{size}", "field": "token"}}
    certificate = "-----BEGIN CERTIFICATE-----\nMII\n-----END CERTIFICATE-----\n"
    (tmp_path / "ca.pem").write_text(certificate)
    spec = full_spec(
        f"layer-{size}", features=["consul"], secrets=secrets, custom_steps={"tidy": {"source_dir": "/none"}}
    )
    spec |= {"kind": "bundle", "settings": SETTINGS, "ca_bundle_file": str(tmp_path / "ca.pem")}
    layer = builder.build(spec, kms.environ, approle)
    assert sorted(members(layer)) == [
        f"ec2-decommission/{name}" for name in ("ca_bundle.pem", "sealed_secrets.json", "settings.json")
    ]
    assert layer.stat().st_size < 10_000
    for path, directory in ((layer, "opt"), (side_by_side[0], "task")):
        with zipfile.ZipFile(path) as archive:
            archive.extractall(tmp_path / directory)
    environ = {**kms.environ, "AWS_DEFAULT_REGION": "us-east-1"}
    environ["DECOMMISSION_LAYER_DIR"] = str(tmp_path / "opt" / "ec2-decommission")
    done = subprocess.run(
        [
            sys.executable,
            "-I",
            "-S",
            "-B",
            "-c",
            _OPEN,
            str(tmp_path / "task"),
            str(runtime(tmp_path)),
            json.dumps(CONTEXT),
        ],
        env=environ,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout == token


_OPEN = """
import json, pathlib, sys
sys.path[:0] = sys.argv[1:3]
import boto3
from ec2_decommission.secret_bundle import FILE_NAME, SecretBundle
bundle = SecretBundle(pathlib.Path(sys.argv[1], FILE_NAME), json.loads(sys.argv[3]), lambda: boto3.client("kms"))
sys.stdout.write(bundle["consul_token"])
"""


def runtime(directory: Path) -> Path:
    """The packages in Lambda's image."""
    made = directory / "runtime"
    made.mkdir()
    site = Path(pytest.__file__).parents[1]
    for name in ("boto3", "botocore", "s3transfer", "jmespath", "dateutil", "urllib3", "six.py"):
        (made / name).symlink_to(site / name)
    return made


def test_leaves_nothing_in_the_module_and_the_temporary_directory(builder: Builder, full: Full) -> None:
    full()
    # Python caches the bytecode of the directory that it runs. No other file is written there.
    left = {path.name.split(".")[0] for path in builder.module.rglob("*.pyc")}
    assert left <= {"__main__"}
    assert not list((builder.directory / "tmp").iterdir())


def test_a_failed_build_leaves_the_last_package(builder: Builder, full_spec: SpecMaker) -> None:
    spec = full_spec("kept")
    path = Path(spec["output"])
    path.write_bytes(b"the last package")
    done = builder.run(spec, {"VAULT_ADDR": "http://127.0.0.1:1"})
    assert done.returncode == 1
    assert path.read_bytes() == b"the last package"


# Bytecode

_START = """
import json, sys
compiled, task = [], sys.argv[1]

def watch(event, arguments):
    if event == "compile" and str(arguments[1]).startswith(task):
        compiled.append(arguments[1])

sys.addaudithook(watch)
sys.path[:0] = sys.argv[1:]
import ec2_decommission.entry
import ec2_decommission.steps.chef, ec2_decommission.steps.consul, ec2_decommission.steps.http, ec2_decommission.sweep
import ec2_decommission.orphans, ec2_decommission.restore, ec2_decommission.audit
import ec2_decommission.steps.route53, ec2_decommission.clients.route53, ec2_decommission.clients.zone_cache
import ec2_decommission.clients.chef, ec2_decommission.clients.consul, cryptography.hazmat.primitives.serialization
own = [name for name in sys.modules if name.startswith("ec2_decommission.")]
print(json.dumps([compiled, len(own)]))
"""


@LINUX
def test_the_deployed_function_compiles_nothing(full: Full, tmp_path: Path) -> None:
    task = tmp_path / "task"
    with zipfile.ZipFile(full(f"python{PYTHON}")) as archive:
        archive.extractall(task)
    done = subprocess.run(
        [sys.executable, "-I", "-S", "-B", "-c", _START, str(task), str(runtime(tmp_path))],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    compiled, own = json.loads(done.stdout)
    assert compiled == []
    assert own > 25


@pytest.mark.parametrize("version", ["python3.11", "python3.12", "python3.13", "python3.14"])
def test_package_has_bytecode_of_its_runtime_or_none(full: Full, version: str) -> None:
    with zipfile.ZipFile(full(version)) as archive:
        names = set(archive.namelist())
        info = json.loads(archive.read("build_info.json"))
    tag = version.replace("python3.", "cpython-3")
    compiled = {name for name in names if name.endswith(".pyc")}
    assert info["bytecode"] is bool(compiled)
    assert compiled == {name for name in compiled if name.endswith(f".{tag}.pyc") and "/__pycache__/" in f"/{name}"}
    sources = {name.replace("__pycache__/", "").replace(f".{tag}.pyc", ".py") for name in compiled}
    assert sources <= names
    if version == f"python{PYTHON}":
        assert compiled


def test_without_a_python_of_the_runtime_the_package_has_none_and_says_so(builder: Builder, tmp_path: Path) -> None:
    other = "3.12" if PYTHON != "3.12" else "3.13"
    spec = builder.spec("no-bytecode", runtime=f"python{other}")
    done = builder.run(spec, {"PATH": str(tmp_path)})
    assert done.returncode == 0, done.stderr
    assert f"bytecode: none, because Python {other} was not found" in done.stdout
    with zipfile.ZipFile(spec["output"]) as archive:
        assert not [name for name in archive.namelist() if name.endswith(".pyc")]
        assert json.loads(archive.read("build_info.json"))["bytecode"] is False
        assert "ec2_decommission/entry.py" in archive.namelist()
