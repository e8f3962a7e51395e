"""Table 3: what a cold start, an instance and the package cost.

The package is built as Terraform builds it, with a real OpenBao and moto's KMS, and laid out as Lambda does it:
Python writes no bytecode there. boto3 is the runtime's, and comes compiled. So an empty function compiles nothing at
its start, nor does the function, whose package brings its bytecode. From a package without, built where there is no
Python of the function's version, Python compiles each module at each start.
"""

from __future__ import annotations

import json
import os
import platform
import shutil
import statistics
import subprocess
import sys
import zipfile
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import boto3
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from bench.fleet import TABLE
from testbed.aws import StrictAws
from testbed.inventory import make_inventory_table
from testbed.vault import VaultServer

ROOT = Path(__file__).resolve().parent.parent
CONTEXT = {"FunctionName": "ec2-decommission"}
CONFIG = {
    "name": "ec2-decommission",
    "route53": {"zone_ids": ["Z0FORWARD"], "record_names": ["{tag:Name}.example.internal"]},
    "chef": {"server_url": "https://chef.example", "client_name": "tool", "node_name": "{tag:Name}"},
    "consul": {"url": "https://consul.example"},
    "inventory": {"table_name": TABLE},
    "secrets": ["chef_client_key", "consul_token"],
    "encryption_context": CONTEXT,
}
# A program, not a module: nothing but what it measures may be imported before.
EMPTY = "import boto3"
CLIENTS = "import boto3; [boto3.client(s, region_name='us-east-1') for s in ('ec2', 'dynamodb')]"
FUNCTION = "from ec2_decommission.entry import handle"
EVENT = """
class Context:
    def get_remaining_time_in_millis(self):
        return 100000
handle({"source": "aws.ec2", "detail-type": "EC2 Instance State-change Notification", "account": "123456789012",
    "region": "us-east-1", "time": "2026-01-01T00:00:00Z",
    "detail": {"instance-id": "i-0123456789abcdef0", "state": "running"}}, Context())
"""


@dataclass(frozen=True)
class Starts:
    """Medians in seconds, of fresh processes; Python's own start is not counted.

    Attributes:
        empty: an empty function that imports boto3. Nothing of the package is on its path.
        clients: it with clients of EC2 and DynamoDB made.
        init: what the function does in Lambda's init: its imports, these clients, its application.
        first: the init and a first event, which tells of a running instance: EC2 and the inventory are asked.
        plain_init: as `init`, of the package without its bytecode.
        plain_first: as `first`, of the package without its bytecode.
    """

    repeats: int
    empty: float
    clients: float
    init: float
    first: float
    plain_init: float
    plain_first: float

    def rows(self) -> list[tuple[str, float, float]]:
        """What it is, milliseconds, and the ratio to the empty function."""
        told = {
            "Empty function that imports boto3, ms": self.empty,
            "The same, and makes clients of EC2 and DynamoDB, ms": self.clients,
            "The function's init (imports, these clients, the application), ms": self.init,
            "Init and first event, ms": self.first,
            "Init, package without bytecode, ms": self.plain_init,
            "Init and first event, package without bytecode, ms": self.plain_first,
        }
        return [(what, seconds * 1000, seconds / self.empty) for what, seconds in told.items()]


@dataclass(frozen=True)
class Package:
    """The zip: bytes, compressed, by what is at its top."""

    size: int
    parts: Mapping[str, int]


def build(aws: StrictAws, directory: Path) -> tuple[Path, Package]:
    """Builds the package with all three steps and two secrets, and lays it out in a directory."""
    directory.mkdir(parents=True)
    key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    pem = key.private_bytes(Encoding.PEM, PrivateFormat.TraditionalOpenSSL, NoEncryption()).decode()
    target = directory / "package.zip"
    with VaultServer() as vault:
        vault.write_kv2("secret", "decommission/chef", {"pem": pem})
        vault.write_kv2("secret", "decommission/consul", {"token": "8f246b77-f3e1-ff88-5b48-8ec93abf3e05"})
        role = vault.create_approle("bench", "secret/data/decommission/*")
        spec = {
            "name": "ec2-decommission",
            "runtime": f"python3.{sys.version_info.minor}",
            "architecture": "arm64" if platform.machine() in ("arm64", "aarch64") else "x86_64",
            "features": ["route53", "chef", "consul"],
            "secrets": {
                "chef_client_key": {"mount": "secret", "path": "decommission/chef", "field": "pem", "version": None},
                "consul_token": {"mount": "secret", "path": "decommission/consul", "field": "token", "version": None},
            },
            "vault": {"auth": {"method": "approle"}},
            "kms": {
                "key_arn": aws.client("kms").create_key()["KeyMetadata"]["Arn"],
                "region": aws.region,
                "role_arn": None,
                "encryption_context": CONTEXT,
            },
            "output": str(target),
        }
        environ = {
            **os.environ,
            **aws.environ(),
            "VAULT_ADDR": vault.address,
            "VAULT_ROLE_ID": role.role_id,
            "VAULT_SECRET_ID": role.secret_id,
            "BUILD_SPEC": json.dumps(spec),
        }
        done = subprocess.run(
            [sys.executable, str(ROOT / "lambda" / "build")],
            env=environ,
            capture_output=True,
            text=True,
            timeout=240,
            check=False,
        )
    if done.returncode:
        raise RuntimeError(f"the package was not built: {done.stderr}")
    parts: Counter[str] = Counter()
    with zipfile.ZipFile(target) as archive:
        for info in archive.infolist():
            parts[info.filename.split("/")[0]] += info.compress_size
        archive.extractall(directory / "task")  # made here
    return directory / "task", Package(target.stat().st_size, dict(parts.most_common()))


def starts(package: Path, aws: StrictAws, repeats: int) -> Starts:
    """Measures cold starts, the kinds by turns."""
    runtime = package.parent / "runtime"
    _copy_runtime(runtime)
    make_inventory_table(aws.client("dynamodb"), TABLE)
    environ = {
        "PATH": os.environ["PATH"],
        "PYTHONDONTWRITEBYTECODE": "1",
        "DECOMMISSION_CONFIG": json.dumps(CONFIG),
        "POWERTOOLS_SERVICE_NAME": "bench",
        "POWERTOOLS_LOG_LEVEL": "ERROR",
        **aws.environ(),
    }
    plain = package.parent / "plain"
    shutil.copytree(package, plain, ignore=shutil.ignore_patterns("__pycache__"))
    ours, without = f"{package}:{runtime}", f"{plain}:{runtime}"
    programs = {
        "empty": (EMPTY, str(runtime)),
        "clients": (CLIENTS, str(runtime)),
        "init": (FUNCTION, ours),
        "first": (FUNCTION + EVENT, ours),
        "plain_init": (FUNCTION, without),
        "plain_first": (FUNCTION + EVENT, without),
    }
    seconds: dict[str, list[float]] = {name: [] for name in programs}
    for turn in range(repeats + 1):
        for name, (program, path) in programs.items():
            taken = _timed(program, environ | {"PYTHONPATH": path})
            if turn:  # the first turn fills the file cache
                seconds[name].append(taken)
    return Starts(repeats, **{name: statistics.median(values) for name, values in seconds.items()})


def _timed(program: str, environ: Mapping[str, str]) -> float:
    code = f"import time, sys; begin = time.perf_counter()\n{program}\nprint('SECONDS', time.perf_counter() - begin)"
    done = subprocess.run(
        [sys.executable, "-S", "-c", code], env=dict(environ), capture_output=True, text=True, timeout=60, check=False
    )
    if done.returncode:
        raise RuntimeError(f"the program failed: {done.stderr[-2000:]}")
    return float(done.stdout.rpartition("SECONDS ")[2])


def _copy_runtime(directory: Path) -> None:
    """boto3 and what it needs, apart from the package's own libraries."""
    site = Path(boto3.__file__).parent.parent
    for name in ("boto3", "botocore", "s3transfer", "jmespath", "dateutil", "urllib3", "six.py"):
        if (site / name).is_dir():
            shutil.copytree(site / name, directory / name)
        else:
            directory.mkdir(exist_ok=True, parents=True)
            shutil.copy2(site / name, directory / name)
    subprocess.run([sys.executable, "-m", "compileall", "-q", str(directory)], check=True, timeout=120)
