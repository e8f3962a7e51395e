"""Changes and warnings in plans of a root module that uses the module with `depends_on`."""

from __future__ import annotations

import io
import json
import shutil
import zipfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from testbed.aws import AwsError
from testbed.platform import Platform
from testbed.terraform import Stack, TerraformError
from tests.deployed.conftest import ROOT

pytestmark = [pytest.mark.servers, pytest.mark.timeout(900)]

# A module call with a dependency, changeable settings, and all resources that could be replaced or become unknown.
CALL = """
terraform {
  required_version = ">= 1.9"
}

provider "aws" {}

variable "settings" {
  type = object({
    name       = string
    zone_id    = optional(string, "Z0123456789ABC")
    key_arn    = string
    dependency = optional(string, "first")
    paused     = optional(bool, false)
    rebuild    = optional(string, "")
    tags       = optional(map(string), {})
    timeout    = optional(number, 120)
    package    = any
  })
}

resource "terraform_data" "dependency" {
  input = var.settings.dependency
}

module "ec2_decommission" {
  source = "%s"

  name         = var.settings.name
  paused       = var.settings.paused
  route53      = { enabled = true, zone_ids = [var.settings.zone_id], record_names = ["{tag:Name}.example.internal"] }
  consul       = { enabled = true, url = "https://consul.example.com" }
  secrets      = { consul_token = { path = "consul" } }
  kms_key_arn  = var.settings.key_arn
  organization = { members = { "222222222222" = {} } }
  alarms       = { enabled = true }
  dashboard    = { enabled = true }
  function     = { timeout = var.settings.timeout }
  tags         = var.settings.tags
  package      = merge({ rebuild = var.settings.rebuild }, var.settings.package)

  depends_on = [terraform_data.dependency]
}

output "module" {
  value = module.ec2_decommission
}
"""

# A fast replacement of the build: a zip with no real content.
BUILDER = """\
#!{python}
import json, os, zipfile
spec = json.loads(os.environ["BUILD_SPEC"])
os.makedirs(os.path.dirname(spec["output"]), exist_ok=True)
with zipfile.ZipFile(spec["output"], "w") as archive:
    archive.writestr("spec.json", os.environ["BUILD_SPEC"])
"""


@dataclass
class Root:
    """The root module and its settings."""

    stack: Stack
    settings: dict[str, Any]

    def plan(self, *arguments: str, **changed: Any) -> dict[str, list[str]]:
        """Plans these settings. Returns the actions by the address in the module."""
        self.stack.variables["settings"] = {**self.settings, **changed}
        plan = self.stack.run_dir / "plan"
        try:
            self.stack._run(["plan", "-lock=false", f"-out={plan}", *arguments], "plan")
        finally:
            self.stack.variables["settings"] = self.settings
        changes = json.loads(self.stack._capture(["show", "-json", str(plan)]))["resource_changes"]
        return {
            change["address"].removeprefix("module.ec2_decommission."): change["change"]["actions"]
            for change in changes
            if change["change"]["actions"] != ["no-op"]
        }

    def apply(self, *arguments: str, **changed: Any) -> None:
        """Applies and keeps these settings. Raises TerraformError."""
        self.settings |= changed
        self.stack.variables["settings"] = self.settings
        self.stack._run(["apply", "-lock=false", "-auto-approve", *arguments], "apply")

    def log(self, command: str) -> str:
        """The output of the command's last run, without Terraform's line breaks."""
        text = (self.stack.logs / f"terraform-{command}.log").read_text()
        return " ".join(text.replace("\u2502", " ").split())


def make(platform: Platform, directory: Path, name: str, package: dict[str, Any]) -> Root:
    source = directory / "root"
    source.mkdir(parents=True)
    (source / "main.tf").write_text(CALL % ROOT)
    key = platform.aws.client("kms").create_key()["KeyMetadata"]["Arn"]
    stack = Stack(source, platform.aws, directory / "run")
    stack.init()
    stack.state = source / "terraform.tfstate"  # Terraform's default path, because the -state flag is deprecated
    return Root(stack, {"name": name, "key_arn": key, "package": package})


def zip_of(path: Path, text: str) -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("code.py", text)
    return path


@pytest.fixture(scope="module")
def builder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("builder") / "builder"
    path.write_text(BUILDER.format(python=ROOT / ".venv" / "bin" / "python"))
    path.chmod(0o755)
    return path


@pytest.fixture(scope="module")
def roots(platform: Platform, builder: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Root]]:
    """Two root modules: an applied prebuilt zip with a layer, and a build whose function could not be created."""
    directory = tmp_path_factory.mktemp("roots")
    code = zip_of(directory / "code.zip", "first")
    made = {
        "layered": make(
            platform,
            directory / "layered",
            "plans-layered",
            {"type": "prebuilt", "zip_file": str(code), "python": str(builder)},
        ),
        "refused": make(platform, directory / "refused", "plans-refused", {"python": str(builder)}),
    }

    def refuse(service: str, operation: str, params: Any) -> None:
        if (service, operation) == ("lambda", "CreateFunction") and params.get("FunctionName") == "plans-refused":
            raise AwsError("AccessDeniedException", "not authorized to perform: lambda:CreateFunction", 403)

    def first_apply(name: str) -> None:
        root = made[name]
        root.plan()
        assert "Warning" not in root.log("plan")
        if name == "refused":
            with pytest.raises(TerraformError, match="lambda:CreateFunction"):
                root.apply()
        else:
            root.apply()
            assert "Warning" not in root.log("apply")

    with platform.aws.fault(refuse, everyone=True), ThreadPoolExecutor(2) as pool:
        list(pool.map(first_apply, made))
    yield made
    with ThreadPoolExecutor(2) as pool:
        list(pool.map(lambda root: root.stack.destroy(), made.values()))
    assert [root.stack.resources() for root in made.values()] == [[], []]


@pytest.fixture
def layered(roots: dict[str, Root]) -> Root:
    return roots["layered"]


def test_second_plan_is_empty_and_has_no_warnings(layered: Root) -> None:
    assert layered.plan() == {}
    assert "Warning" not in layered.log("plan")


def test_change_of_a_depends_on_resource_does_not_change_the_module(layered: Root) -> None:
    assert layered.plan(dependency="second") == {"terraform_data.dependency": ["update"]}


def test_new_timeout_changes_only_function_and_queue(layered: Root) -> None:
    assert layered.plan(timeout=300) == {"aws_lambda_function.this": ["update"], "aws_sqs_queue.events": ["update"]}


def test_new_tag_changes_only_tags(layered: Root) -> None:
    changed = layered.plan(tags={"Team": "platform"})
    assert set(map(tuple, changed.values())) == {("update",)}
    assert {address.split("[")[0] for address in changed} == {
        "aws_cloudwatch_event_bus.members",
        "aws_cloudwatch_event_rule.instance_state",
        "aws_cloudwatch_event_rule.members",
        "aws_cloudwatch_event_rule.sweep",
        "aws_cloudwatch_log_group.function",
        "aws_cloudwatch_metric_alarm.this",
        "aws_dynamodb_table.inventory",
        "aws_iam_role.function",
        "aws_lambda_event_source_mapping.events",
        "aws_lambda_function.this",
        "aws_sqs_queue.dead_letters",
        "aws_sqs_queue.events",
    }


def test_changing_everything_at_once_replaces_nothing(layered: Root) -> None:
    changed = layered.plan(dependency="second", timeout=300, tags={"Team": "platform"}, paused=True)
    assert [address for address, actions in changed.items() if "delete" in actions or "create" in actions] == []


def test_pausing_changes_the_mapping_and_the_schedule(layered: Root) -> None:
    changed = {"aws_lambda_event_source_mapping.events": ["update"], "aws_cloudwatch_event_rule.sweep[0]": ["update"]}
    assert layered.plan(paused=True) == {**changed, "aws_cloudwatch_dashboard.this[0]": ["update"]}


def test_plan_restores_a_pause_after_a_manual_change(layered: Root, platform: Platform) -> None:
    uuid = layered.stack.outputs()["module"]["event_source_mapping_uuid"]
    client = platform.aws.client("lambda")
    layered.apply(paused=True)
    try:
        assert client.get_event_source_mapping(UUID=uuid)["State"] == "Disabled"
        assert layered.plan() == {}
        client.update_event_source_mapping(UUID=uuid, Enabled=True)
        assert layered.plan() == {"aws_lambda_event_source_mapping.events": ["update"]}
    finally:
        layered.apply(paused=False)
    assert client.get_event_source_mapping(UUID=uuid)["State"] == "Enabled"


def test_a_rotated_secret_changes_the_layer_and_no_code(layered: Root) -> None:
    changed = layered.plan(rebuild="after the rotation")
    replaced = ["delete", "create"]
    assert changed == {
        "terraform_data.bundle[0]": replaced,
        "aws_lambda_layer_version.bundle[0]": replaced,
        "aws_lambda_function.this": ["update"],
    }
    function = next(
        change
        for change in json.loads(layered.stack._capture(["show", "-json", str(layered.stack.run_dir / "plan")]))[
            "resource_changes"
        ]
        if change["address"].endswith("aws_lambda_function.this")
    )["change"]
    assert function["before"]["source_code_hash"] == function["after"]["source_code_hash"]


def test_new_zip_is_deployed_without_a_warning(layered: Root, tmp_path: Path) -> None:
    package = {**layered.settings["package"], "zip_file": str(zip_of(tmp_path / "code.zip", "second"))}
    changed = layered.plan(package=package)
    assert set(changed) == {"aws_lambda_function.this", "terraform_data.deployed"}
    assert "Warning" not in layered.log("plan")


def test_the_queue_keeps_its_policy_when_another_attribute_changes(layered: Root) -> None:
    layered.apply(timeout=60)
    try:
        assert layered.plan() == {}
    finally:
        layered.apply(timeout=120)


def test_failed_apply_explains_how_to_continue_on_another_machine(roots: dict[str, Root]) -> None:
    root = roots["refused"]
    assert "module.ec2_decommission.terraform_data.package[0]" in root.stack.resources()
    assert "module.ec2_decommission.aws_lambda_function.this" not in root.stack.resources()
    # On the same machine, the next apply continues.
    assert "aws_lambda_function.this" in root.plan()
    # Another machine has a checkout and the state, but no zip.
    shutil.rmtree(root.stack.source / ".terraform", ignore_errors=True)
    with pytest.raises(TerraformError) as error:
        root.plan()
    said = " ".join(str(error.value).replace("\u2502", " ").split())
    command = "-replace='<address of this module>.terraform_data.package[0]'"
    assert command in said
    address = command.split("'")[1].replace("<address of this module>", "module.ec2_decommission")
    root.apply(f"-replace={address}")
    assert root.plan() == {}
    assert "Warning" not in root.log("plan")
    # From now on, no machine needs the zip.
    shutil.rmtree(root.stack.source / ".terraform", ignore_errors=True)
    assert root.plan() == {}


def test_plan_warns_of_foreign_code(layered: Root, platform: Platform) -> None:
    client = platform.aws.client("lambda")
    own = Path(layered.settings["package"]["zip_file"]).read_bytes()
    other = io.BytesIO()
    with zipfile.ZipFile(other, "w") as archive:
        archive.writestr("somebody_elses.py", "")
    client.update_function_code(FunctionName="plans-layered", ZipFile=other.getvalue())
    try:
        assert layered.plan() == {}
        assert "does not run the code that was last deployed by Terraform" in layered.log("plan")
    finally:
        client.update_function_code(FunctionName="plans-layered", ZipFile=own)
    assert layered.plan() == {}
    assert "Warning" not in layered.log("plan")
