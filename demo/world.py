"""The demo's servers and fleet, and the module deployed for two accounts."""

from __future__ import annotations

import json
import platform as machine
import re
import shutil
import textwrap
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from testbed.aws import StrictAws
from testbed.fault_proxy import FaultProxy
from testbed.platform import CONSUL_RULES, Platform
from testbed.runtime import runtime_python
from testbed.terraform import Stack
from testbed.tools import ToolMissing, python_for

ROOT = Path(__file__).resolve().parent.parent
STACK = ROOT / "demo" / "stack"
NAME = "ec2-decommission"
MEMBER_ACCOUNT = "222222222222"
BUCKET = "demo-audit"
FLEET = ("web-1", "web-2", "web-3", "db-1", "cache-1")
LAMBDA_ARCHITECTURES = {"x86_64": "x86_64", "AMD64": "x86_64", "aarch64": "arm64", "arm64": "arm64"}
_PROGRESS_SECONDS = 10  # between two lines of Terraform's progress

Progress = Callable[[str], None]


@dataclass(frozen=True)
class World:
    """The running systems. A proxy in front of Chef simulates an outage."""

    platform: Platform
    chef: FaultProxy


@contextmanager
def deployed(run_directory: Path, progress: Progress) -> Iterator[World]:
    """Starts the servers, applies the module and launches the fleet. Stops everything on exit."""
    for part in ("chef", "consul", "lambda", "terraform", "vault"):  # from an earlier run
        shutil.rmtree(run_directory / part, ignore_errors=True)
    progress("starting Consul, Chef and Vault (the first run downloads them)")
    with Platform(run_directory, progress) as platform, FaultProxy(platform.chef.url) as chef:
        # The audit reads a node's services before the node is removed. A restore writes them.
        rules = f'{CONSUL_RULES}\nservice_prefix "" {{ policy = "write" }}\n'
        platform.consul.change_token(platform.consul_token, rules)
        _prepare_accounts(platform.aws)
        progress("terraform apply of demo/stack (the provider waits 25 s for each queue)")
        pool = ThreadPoolExecutor(max_workers=1)  # Consul numbers its agents one by one
        try:
            version = _python_version()
            meanwhile = [pool.submit(_launch, platform, name, progress) for name in FLEET]
            meanwhile.append(pool.submit(_runtime, version, progress))
            _stack(platform, version, chef.url, run_directory / "terraform", progress).apply()
            for future in meanwhile:
                future.result()
        finally:
            pool.shutdown(cancel_futures=True)
        yield World(platform, chef)


def _launch(platform: Platform, name: str, progress: Progress) -> None:
    member = platform.launch(name)
    progress(f"launched {name}: {member.id}, {member.instance.private_ip}")


def _prepare_accounts(aws: StrictAws) -> None:
    """Creates the bucket for the audit, and the role that Terraform assumes in the member account."""
    location = {"LocationConstraint": aws.region}
    aws.client("s3").create_bucket(Bucket=BUCKET, CreateBucketConfiguration=location)
    iam = aws.client("iam", aws.admin_of(MEMBER_ACCOUNT))
    role = "OrganizationAccountAccessRole"
    trust = _allow(Principal={"AWS": f"arn:aws:iam::{aws.account}:root"}, Action="sts:AssumeRole")
    iam.create_role(RoleName=role, AssumeRolePolicyDocument=trust)
    iam.put_role_policy(RoleName=role, PolicyName="all", PolicyDocument=_allow(Action="*", Resource="*"))


def _allow(**statement: object) -> str:
    return json.dumps({"Version": "2012-10-17", "Statement": [{"Effect": "Allow", **statement}]})


def _stack(platform: Platform, version: str, chef_url: str, directory: Path, progress: Progress) -> Stack:
    variables = platform.example_variables(
        chef_server_url=chef_url,
        member_account_id=MEMBER_ACCOUNT,
        audit_bucket=BUCKET,
        function={"runtime": f"python{version}", "architecture": LAMBDA_ARCHITECTURES[machine.machine()]},
    )
    for unused in ("subnet_ids", "security_group_ids"):
        del variables[unused]
    environment = {"VAULT_TOKEN": platform.vault_token()}
    return Stack(
        STACK, platform.aws, directory, variables=variables, environment=environment, progress=_terraform(progress)
    )


def _runtime(version: str, progress: Progress) -> None:
    """Prepares Lambda's Python. The first run installs its packages."""
    runtime_python(version)
    progress(f"Lambda's Python {version} is ready")


def _python_version() -> str:
    """The newest of Lambda's Python versions on this machine."""
    for version in ("3.13", "3.12", "3.11"):
        try:
            python_for(version)
        except ToolMissing:
            continue
        return version
    raise ToolMissing("running the function requires Python 3.11, 3.12 or 3.13: install one of them")


def _terraform(progress: Progress) -> Progress:
    """Filters Terraform's output: the build's lines, a resource count at intervals, and the result."""
    created, last = 0, time.monotonic()

    def told(line: str) -> None:
        nonlocal created, last
        built = re.fullmatch(r".*terraform_data\.package\[0\] \(local-exec\): (.*)", line)
        created += "Creation complete" in line
        if built and not built[1].startswith("Executing"):
            progress(textwrap.shorten(f"build: {built[1]}", 68, placeholder=" ..."))
        elif line.startswith(("Apply complete", "Error")):
            progress(line)
        elif time.monotonic() - last > _PROGRESS_SECONDS:
            progress(f"Terraform: {created} resources created")
        else:
            return
        last = time.monotonic()

    return told
