"""Every example applied, side by side, to one strict AWS beside real Consul, Chef and Vault servers."""

from __future__ import annotations

import json
import os
import platform as machine
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from testbed import tools
from testbed.lambda_service import Batch
from testbed.platform import TOOL_CLIENT, Platform
from testbed.terraform import Stack

ROOT = Path(__file__).resolve().parent.parent.parent
EXAMPLES = ROOT / "examples"
SIDE_BY_SIDE = Path(__file__).resolve().parent / "side_by_side"
ARCHITECTURE = {"x86_64": "x86_64", "aarch64": "arm64", "arm64": "arm64"}[machine.machine()]


@dataclass
class Leftover:
    """What an instance that died long ago has left; EC2 knows its id no more."""

    instance_id: str
    name: str  # in Chef and Consul
    host: str  # in its zone


@dataclass
class Applied:
    """The stacks, by the name that the module was given, and the zone of each."""

    platform: Platform
    directory: Path
    stacks: dict[str, Stack] = field(default_factory=dict)
    zones: dict[str, str] = field(default_factory=dict)
    leftovers: list[Leftover] = field(default_factory=list)
    survivor: Leftover | None = None  # an instance that lives since before the module came

    # Stacks

    def prepare(self) -> None:
        """All but the apply: zones, leftovers, the package of the other job."""
        for name in ("minimal", "prebuilt", "existing-fleet", "result-events", "left", "right"):
            zone = self.platform.route53.create_hosted_zone(Name=f"{name}.internal", CallerReference=name)
            self.zones[name] = str(zone["HostedZone"]["Id"]).rpartition("/")[2]
        self._prepare_fleet()
        vault = self.platform.vault
        paths = [f"secret/data/ec2-decommission/{name}" for name in ("chef", "consul", "vault-entries")]
        policy = 'path "secret/metadata/instances/*" { capabilities = ["read", "delete"] }'
        vault.api("PUT", "/v1/sys/policies/acl/vault-entries", json={"policy": policy})
        body = {"policies": ["vault-entries"], "ttl": "1h"}
        self.entries_token = vault.api("POST", "/v1/auth/token/create-orphan", json=body)["auth"]["client_token"]
        vault.write_kv2("secret", "ec2-decommission/vault-entries", {"token": self.entries_token})
        self.login = {"VAULT_TOKEN": vault.create_token(*paths)}
        self._add_stacks()

    def _add_stacks(self) -> None:
        function = {"architecture": ARCHITECTURE}
        common = {"region": self.platform.region, "function": function}
        self._add("minimal", EXAMPLES / "minimal", {**common, **self._zone("minimal")})
        self._add("custom-step", EXAMPLES / "custom-step", common)
        announcing = {**common, **self._zone("result-events"), "email_addresses": ["oncall@example.com"]}
        self._add("result-events", EXAMPLES / "result-events", announcing)
        zone = "existing-fleet.internal"
        self._add(
            "existing-fleet",
            EXAMPLES / "existing-fleet",
            {
                **common,
                "zone_ids": [self.zones["existing-fleet"]],
                "record_names": [f"{{tag:Name}}.{zone}", f"{{hostname}}.{zone}"],
                "chef_server_url": self.platform.chef.url,
                "chef_client_name": TOOL_CLIENT,
                "consul_url": self.platform.consul.url,
                "vault_address": self.platform.vault.address,
            },
        )
        calls = {
            "left": {"zone_id": self.zones["left"]},
            "right": {"zone_id": self.zones["right"], "vault_address": self.platform.vault.address},
        }
        self._add("side-by-side", SIDE_BY_SIDE, {"calls": calls, "architecture": ARCHITECTURE}, named=False)

    def _add(self, name: str, source: Path, variables: Mapping[str, Any], *, named: bool = True) -> None:
        self.stacks[name] = Stack(
            source,
            self.platform.aws,
            self.directory / name,
            variables={**variables, **({"name": name} if named else {})},
            environment=self.login,
        )

    def _zone(self, name: str) -> dict[str, Any]:
        return {"zone_ids": [self.zones[name]], "record_names": [f"{{tag:Name}}.{name}.internal"]}

    def every(self, act: Callable[[Stack], Any]) -> dict[str, Any]:
        """Does it to all stacks at the same time; most of it is waiting."""
        with ThreadPoolExecutor(len(self.stacks)) as pool:
            doing = {name: pool.submit(act, stack) for name, stack in self.stacks.items()}
            return {name: done.result() for name, done in doing.items()}

    # The other pipeline job

    def copy_of_the_module(self, name: str) -> Path:
        """A checkout of its own, as another job or machine has it; gives its `examples/prebuilt-package`."""
        target = self.directory / name
        shutil.copytree(
            ROOT,
            target,
            ignore=shutil.ignore_patterns(".*", "tests", "testbed", "__pycache__", "*.zip", "package.zip"),
        )
        return target / "examples" / "prebuilt-package"

    def build_elsewhere(self) -> Path:
        """The zip of `examples/prebuilt-package`, by its own package.json, in the job that may ask Vault."""
        example = self.copy_of_the_module("job-build")
        key = self.platform.aws.client("kms").create_key()["KeyMetadata"]
        wanted = json.loads((example / "package.json").read_text())
        wanted |= {"name": "prebuilt", "architecture": ARCHITECTURE}
        wanted["kms"] = {"key_arn": key["Arn"], "encryption_context": {"FunctionName": "prebuilt"}}
        (example / "package.json").write_text(json.dumps(wanted))
        self.key_arn = key["Arn"]
        done = subprocess.run(
            [sys.executable, str(example.parents[1] / "lambda" / "build"), "--spec", "package.json"],
            cwd=example,
            env={
                **os.environ,
                "BUILD_CACHE": str(tools.CACHE / "build"),
                **self.platform.aws.environ(),
                **self.login,
                "VAULT_ADDR": self.platform.vault.address,
            },
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return example / "package.zip"

    def apply_elsewhere(self, zip_file: Path) -> Stack:
        """Plans in one checkout and applies in another, with Terraform alone on PATH, no Vault, no way out."""
        programs = self.directory / "programs"
        programs.mkdir()
        (programs / "terraform").symlink_to(tools.terraform_binary())
        variables = {
            **self._zone("prebuilt"),
            "name": "prebuilt",
            "region": self.platform.region,
            "architecture": ARCHITECTURE,
            "kms_key_arn": self.key_arn,
            "consul_url": self.platform.consul.url,
        }
        nowhere = {"PATH": str(programs), "HTTP_PROXY": "http://127.0.0.1:9", "HTTPS_PROXY": "http://127.0.0.1:9"}
        nowhere["NO_PROXY"] = "127.0.0.1"
        jobs = {}
        for job in ("plan", "apply"):
            example = self.copy_of_the_module(f"job-{job}")
            shutil.copy(zip_file, example / "package.zip")
            jobs[job] = Stack(
                example, self.platform.aws, self.directory / f"run-{job}", variables=variables, environment=nowhere
            )
        plan = self.directory / "prebuilt.plan"
        jobs["plan"].save_plan(plan)
        jobs["apply"].apply(plan)
        return jobs["apply"]

    # The fleet

    def _prepare_fleet(self) -> None:
        """Before the module: two that died unheard, and one that lives on."""
        # A network of their own: in that of the other tests a later instance is given an address that was freed.
        ec2 = self.platform.aws.client("ec2")
        vpc_id = ec2.create_vpc(CidrBlock="10.1.0.0/16")["Vpc"]["VpcId"]
        subnet_id = ec2.create_subnet(VpcId=vpc_id, CidrBlock="10.1.0.0/24")["Subnet"]["SubnetId"]
        for number in (1, 2, 3):
            name = f"old-{number}"
            instance = self.platform.aws.launch(name, f"10.1.0.{10 + number}", subnet_id=subnet_id, emit=False)
            self.platform.chef.create_client(name)
            known = {"instance_id": instance.id, "local_ipv4": instance.private_ip}
            self.platform.chef.create_node(name, ec2={**known, "local_hostname": instance.private_dns_name})
            self.platform.consul.register_node(name, instance.private_ip, {"instance_id": instance.id})
            host = instance.private_dns_name.partition(".")[0]
            self.record("existing-fleet", host, instance.private_ip)
            if number == 3:
                self.survivor = Leftover(instance.id, name, host)
                continue
            self.platform.aws.terminate(instance.id, emit=False)
            self.platform.aws.forget(instance.id)
            self.leftovers.append(Leftover(instance.id, name, host))

    def record(self, zone: str, name: str, address: str) -> None:
        """The A record of a host in that stack's zone."""
        self.platform.change_record("CREATE", self.zones[zone], f"{name}.{zone}.internal", "A", address)

    def records(self, zone: str) -> list[str]:
        """The first labels of the A records there."""
        answer = self.platform.route53.list_resource_record_sets(HostedZoneId=self.zones[zone])
        return [item["Name"].split(".")[0] for item in answer["ResourceRecordSets"] if item["Type"] == "A"]

    # The functions

    def deliver(self, function_name: str) -> list[Batch]:
        """Hands that function what its queue holds; the others' stays where it is."""
        return self.platform.poller.drain(only=function_name)

    def invoke(self, function_name: str, **payload: Any) -> dict[str, Any]:
        """An operator's call."""
        ran = self.platform.functions.invoke(function_name, payload)
        assert ran.error is None, ran.error
        report: dict[str, Any] = ran.result
        return report


@pytest.fixture(scope="session")
def applied(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Applied]:
    """All examples, applied; destroyed at the end, when nothing of them may be left."""
    with Platform(tmp_path_factory.mktemp("platform")) as platform:
        made = Applied(platform, tmp_path_factory.mktemp("examples"))
        made.prepare()
        with ThreadPoolExecutor(1) as pool:
            pipeline = pool.submit(lambda: made.apply_elsewhere(made.build_elsewhere()))
            made.every(Stack.apply)
            made.stacks["prebuilt"] = pipeline.result()
        yield made
        made.every(Stack.destroy)
        assert made.every(Stack.resources) == {name: [] for name in made.stacks}
        assert left_in(platform) == []


def left_in(platform: Platform) -> list[str]:
    """What the modules have left in AWS; a key that is to be deleted is AWS's affair."""
    aws = platform.aws
    names = [f["FunctionName"] for f in aws.client("lambda").list_functions()["Functions"]]
    names += aws.client("sqs").list_queues().get("QueueUrls", [])
    names += aws.client("dynamodb").list_tables()["TableNames"]
    names += [role["RoleName"] for role in aws.client("iam").list_roles()["Roles"]]
    names += [rule["Name"] for rule in aws.client("events").list_rules()["Rules"]]
    names += [group["logGroupName"] for group in aws.client("logs").describe_log_groups()["logGroups"]]
    return names
