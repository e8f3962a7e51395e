"""How the command finds the deployment, and what it says where it does not."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from testbed import tools
from tests.operator.conftest import NAME, ROOT, TABLE, Ran, Site, run_operator

pytestmark = pytest.mark.servers

REGION_ONLY = {"AWS_REGION": "eu-west-1", "AWS_EC2_METADATA_DISABLED": "true", "AWS_CONFIG_FILE": "none"}
NO_CREDENTIALS = {**REGION_ONLY, "AWS_SHARED_CREDENTIALS_FILE": "none"}


def outputs(site: Site) -> dict[str, Any]:
    """The module's, as far as the command reads them."""
    return {
        "function_name": NAME,
        "function_arn": f"arn:aws:lambda:{site.aws.region}:{site.aws.account}:function:{NAME}",
        "queue_url": site.queue_url,
        "dead_letter_queue_url": site.dead_letter_queue_url,
        "inventory_table_name": TABLE,
        "log_group_name": f"/aws/lambda/{NAME}",
        "effective_config": {"name": NAME, "function": {"timeout": 30}},
    }


def as_terraform_says(values: dict[str, Any]) -> str:
    return json.dumps({name: {"sensitive": False, "type": "string", "value": v} for name, v in values.items()})


def test_outputs_at_the_root_in_an_object_or_in_a_map_of_objects(site: Site) -> None:
    site.arguments = ["--outputs", "-"]
    mine = outputs(site)
    for text, more in (
        (as_terraform_says(mine), []),
        (as_terraform_says({"ec2_decommission": mine, "other": {"function_name": "not this one"}}), []),
        (as_terraform_says({"all": {"eu": mine, "us": {**mine, "function_name": "us"}}}), ["--module", "all.eu"]),
        (json.dumps(mine), []),  # terraform output -json ec2_decommission
        (as_terraform_says({"function_name": NAME}), []),
    ):
        ran = site.operator("status", "--json", *more, stdin=text)
        assert ran.status == 0, (text, ran.err)
        assert ran.document["function"]["name"] == NAME


def test_the_region_is_that_of_the_outputs(site: Site) -> None:
    site.arguments = ["--outputs", "-"]
    ran = site.operator("status", "--json", stdin=as_terraform_says(outputs(site)), AWS_REGION="us-west-2")
    assert ran.document["function"]["region"] == "eu-west-1"


def test_several_deployments_are_named_to_choose_from(site: Site) -> None:
    site.arguments = ["--outputs", "-"]
    mine = outputs(site)
    text = as_terraform_says({"eu": mine, "us": mine})
    ran = site.operator("status", stdin=text)
    assert ran.status == 2
    assert "choose one by --module: eu, us" in ran.err
    ran = site.operator("status", "--module", "asia", stdin=text)
    assert ran.status == 2
    assert "there is eu, us" in ran.err


def test_terraform_is_asked_in_the_directory_that_chdir_names(site: Site, tmp_path: Path) -> None:
    root = tmp_path / "root"
    root.mkdir()
    value = json.dumps(outputs(site))
    (root / "main.tf").write_text(f'output "ec2_decommission" {{ value = jsondecode({json.dumps(value)}) }}\n')
    for command in (["init", "-input=false"], ["apply", "-auto-approve"]):
        subprocess.run([str(tools.terraform_binary()), f"-chdir={root}", *command], check=True, capture_output=True)
    site.arguments = ["--chdir", str(root)]
    ran = site.operator("status", "--json")
    assert (ran.status, ran.err) == (0, "")
    assert ran.document["function"]["name"] == NAME


def test_without_outputs_it_says_what_to_add(tmp_path: Path) -> None:
    ran = run_operator(["status"], REGION_ONLY, cwd=tmp_path)
    assert ran.status == 2
    assert 'output "ec2_decommission" { value = module.ec2_decommission }' in ran.err


@pytest.mark.parametrize(
    ("arguments", "stdin", "told"),
    [
        (["--outputs", "-", "status"], "no JSON", "is not the JSON of `terraform output -json`"),
        (["--outputs", "nowhere.json", "status"], "", "cannot be read from nowhere.json"),
        (["--chdir", "nowhere", "status"], "", "there is no directory nowhere"),
        (["show", "web-1"], "", "expected i- and hexadecimal digits"),
        (["dead-letters", "resend"], "", "one of the arguments ID --all is required"),
        (["dead-letters"], "", "required: list|resend|discard"),
        ([], "", "required: command"),
        (["--function-name", NAME, "status"], "", "there are no AWS credentials"),
        (["--function-name", NAME, "--profile", "nobody", "status"], "", "aws configure list-profiles"),
    ],
)
def test_mistakes_are_told_in_a_sentence_with_status_2(arguments: list[str], stdin: str, told: str) -> None:
    ran = run_operator(arguments, NO_CREDENTIALS, stdin=stdin)
    assert (ran.status, ran.out) == (2, "")
    assert told in ran.err


def test_without_any_region_it_says_so() -> None:
    without = {name: value for name, value in NO_CREDENTIALS.items() if name != "AWS_REGION"}
    ran = run_operator(["--function-name", NAME, "status"], without)
    assert ran.status == 2
    assert "The region is not known" in ran.err


def test_a_function_that_is_not_there_or_not_the_modules_is_named(site: Site) -> None:
    site.arguments = ["--function-name", "nobody"]
    ran = site.operator("status")
    assert ran.status == 2
    assert "read the configuration of the function nobody" in ran.err
    assert "does not exist in this account and region" in ran.err
    site.arguments = ["--function-name", NAME]
    site.aws.client("lambda").update_function_configuration(FunctionName=NAME, Environment={"Variables": {}})
    ran = site.operator("dead-letters", "list")
    assert ran.status == 2
    assert "is not one of this module" in ran.err


def test_credentials_that_aws_does_not_accept(site: Site) -> None:
    ran = site.operator("show", "i-0abc", AWS_ACCESS_KEY_ID="AKIAIOSFODNN7EXAMPLE")
    assert ran.status == 2
    assert "AWS does not accept the credentials" in ran.err


def test_every_command_has_help_that_says_what_it_does() -> None:
    top = run_operator(["--help"], {})
    assert "examples:" in top.out
    for command in (
        ["show"],
        ["decommission"],
        ["sweep"],
        ["dead-letters"],
        ["dead-letters", "list"],
        ["dead-letters", "resend"],
        ["dead-letters", "discard"],
        ["status"],
    ):
        ran = run_operator([*command, "--help"], {})
        assert (ran.status, ran.err) == (0, "")
        assert len(ran.out.splitlines()) > 5


def test_without_boto3_it_says_how_to_get_it(tmp_path: Path) -> None:
    # A virtual environment has no boto3; `-I` keeps the tests' own out.
    done = subprocess.run(
        [str(tools.python_for("3.11")), "-I", "-S", str(ROOT / "operator"), "status"],
        capture_output=True,
        text=True,
        check=False,
        cwd=tmp_path,
    )
    ran = Ran(done.returncode, done.stdout, done.stderr)
    assert (ran.status, ran.out) == (2, "")
    assert "-m pip install boto3" in ran.err


def test_the_directory_is_no_package() -> None:
    """As one it would hide the standard library's `operator` from every program that is run from the checkout."""
    assert not (ROOT / "operator" / "__init__.py").exists()
    done = subprocess.run(
        [sys.executable, "-c", "import operator; operator.itemgetter"], cwd=ROOT, check=False, capture_output=True
    )
    assert done.returncode == 0
