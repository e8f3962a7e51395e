"""Installation of the command, its discovery of the deployment, and its error messages."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import venv
from pathlib import Path
from typing import Any

import pytest

from testbed import tools
from tests.operator.conftest import CLI, NAME, ROOT, TABLE, Ran, Site, run_cli

REGION_ONLY = {"AWS_REGION": "eu-west-1", "AWS_EC2_METADATA_DISABLED": "true", "AWS_CONFIG_FILE": "none"}
NO_CREDENTIALS = {**REGION_ONLY, "AWS_SHARED_CREDENTIALS_FILE": "none"}


def outputs(site: Site) -> dict[str, Any]:
    """The module outputs that the command reads."""
    return {
        "function_name": NAME,
        "function_arn": f"arn:aws:lambda:{site.aws.region}:{site.aws.account}:function:{NAME}",
        "queue_url": site.queue_url,
        "dead_letter_queue_url": site.dead_letter_queue_url,
        "inventory_table_name": TABLE,
        "effective_config": {"http_steps": {"zabbix": {}}},
    }


def as_terraform_says(values: dict[str, Any]) -> str:
    return json.dumps({name: {"sensitive": False, "type": "string", "value": v} for name, v in values.items()})


@pytest.mark.servers
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
        ran = site.cli("status", "--json", *more, stdin=text)
        assert (ran.status, ran.document["function"]) == (0, NAME), (text, ran.err)
    elsewhere = site.cli("status", "--json", stdin=as_terraform_says(mine), AWS_REGION="us-west-2")
    assert (elsewhere.document["region"], elsewhere.document["steps"]) == ("eu-west-1", ["route53", "zabbix"])


@pytest.mark.servers
def test_several_deployments_are_listed_for_selection(site: Site) -> None:
    site.arguments = ["--outputs", "-"]
    text = as_terraform_says({"eu": outputs(site), "us": outputs(site)})
    assert "Choose one with --module: eu, us" in site.cli("status", stdin=text).said
    assert "Available: eu, us" in site.cli("status", "--module", "asia", stdin=text).said


@pytest.mark.servers
def test_outputs_come_from_terraform_and_an_unapplied_root_module_is_reported(site: Site, tmp_path: Path) -> None:
    root = tmp_path / "root"
    root.mkdir()
    site.arguments = ["--chdir", str(root)]
    value = json.dumps(json.dumps(outputs(site)))
    (root / "main.tf").write_text(f'output "ec2_decommission" {{ value = jsondecode({value}) }}\n')
    terraform = [str(tools.terraform_binary()), f"-chdir={root}"]
    subprocess.run([*terraform, "init", "-input=false"], check=True, capture_output=True)
    unapplied = site.cli("status")
    assert (unapplied.status, f"Nothing is applied in {root}" in unapplied.said) == (2, True), unapplied.err
    subprocess.run([*terraform, "apply", "-auto-approve"], check=True, capture_output=True)
    ran = site.cli("status", "--json")
    assert (ran.status, ran.document["function"]) == (0, NAME), ran.err
    (root / "main.tf").write_text('resource "terraform_data" "x" {}\n')
    subprocess.run([*terraform, "apply", "-auto-approve"], check=True, capture_output=True)
    without = site.cli("status")
    assert "no function_name" in without.said
    assert 'output "ec2_decommission" { value = module.ec2_decommission }' in without.said


def test_terraforms_own_error_is_shown_without_its_frame_and_colors(tmp_path: Path) -> None:
    (tmp_path / "main.tf").write_text('terraform {\n  backend "s3" {}\n}\n')
    ran = run_cli(["status", "--chdir", str(tmp_path)], NO_CREDENTIALS)
    assert (ran.status, ran.out) == (2, "")
    assert "`terraform output -json` failed" in ran.said
    assert "Error: Backend initialization required" in ran.said
    assert not set("│╷\x1b") & set(ran.err)
    assert r"\x1b" not in ran.err


@pytest.mark.parametrize(
    ("arguments", "stdin", "told"),
    [
        (["status", "--outputs", "-"], "no JSON", "is not the JSON of `terraform output -json`"),
        (["status", "--outputs", "nowhere.json"], "", "nowhere.json cannot be read"),
        (["status", "--chdir", "nowhere"], "", "there is no directory nowhere"),
        (["show", "web-1"], "", "expected i- and hexadecimal digits"),
        (["report", "--csv", "--html"], "", "not allowed with argument --csv"),
        ([], "", "required: command"),
        (["status", "--function-name", NAME], "", "there are no AWS credentials"),
        (["status", "--function-name", NAME, "--profile", "nobody"], "", "nobody"),
    ],
)
def test_usage_errors_exit_with_status_2(arguments: list[str], stdin: str, told: str) -> None:
    ran = run_cli(arguments, NO_CREDENTIALS, stdin=stdin)
    assert (ran.status, ran.out) == (2, "")
    assert told in ran.said


def test_without_any_region_it_says_so() -> None:
    without = {name: value for name, value in NO_CREDENTIALS.items() if name != "AWS_REGION"}
    ran = run_cli(["status", "--function-name", NAME], without)
    assert (ran.status, "give --function-region, or set AWS_REGION" in ran.said) == (2, True)


@pytest.mark.servers
def test_missing_or_foreign_function_is_reported(site: Site) -> None:
    site.arguments = ["--function-name", "nobody"]
    assert "read the configuration of function nobody in eu-west-1" in site.cli("status").said
    site.arguments = ["--function-name", NAME]
    site.aws.client("lambda").update_function_configuration(FunctionName=NAME, Environment={"Variables": {}})
    assert "was not created by this module" in site.cli("status").said
    ran = site.cli("status", AWS_ACCESS_KEY_ID="AKIAIOSFODNN7EXAMPLE")
    assert (ran.status, "AWS does not accept the credentials" in ran.said) == (2, True)


def test_the_deployment_may_be_named_before_the_command_or_after_it() -> None:
    for arguments in (["--chdir", "nowhere", "status"], ["status", "--chdir", "nowhere"]):
        assert "there is no directory nowhere" in run_cli(arguments, NO_CREDENTIALS).said


def test_every_command_has_help_that_says_what_it_does() -> None:
    top = run_cli(["--help"], {})
    commands = ["status", "show", "decommission", "restore", "sweep", "plan", "apply", "report"]
    assert all(f"    {command} " in top.out for command in commands)
    for command in commands:
        ran = run_cli([command, "--help"], {})
        assert (ran.status, ran.err, len(ran.out.splitlines()) > 5) == (0, "", True)


# Installation


def test_it_runs_from_where_terraform_puts_the_module(tmp_path: Path) -> None:
    """Even if the path has a space."""
    modules = tmp_path / ".terraform" / "my modules"
    modules.mkdir(parents=True)
    (modules / "ec2").symlink_to(ROOT)
    done = subprocess.run(
        [sys.executable, ".terraform/my modules/ec2/cli", "--help"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("usage: python3 '.terraform/my modules/ec2/cli' ")


def test_the_installed_command_is_called_ec2_decommission(tmp_path: Path) -> None:
    """Installed like pipx does: into a separate environment, from the directory in the checkout."""
    venv.create(tmp_path / "venv", with_pip=True)
    python = tmp_path / "venv" / "bin" / "python"
    source = tmp_path / "checkout" / "cli"
    shutil.copytree(CLI, source)
    subprocess.run([python, "-m", "pip", "install", "-q", source], check=True, capture_output=True, timeout=280)
    done = subprocess.run(
        [python.parent / "ec2-decommission", "--help"], capture_output=True, text=True, check=False, cwd=tmp_path
    )
    assert (done.returncode, done.stdout.startswith("usage: ec2-decommission ")) == (0, True), done.stderr


def test_without_boto3_it_says_how_to_get_it(tmp_path: Path) -> None:
    done = subprocess.run(  # -S: without the packages of this environment
        [str(tools.python_for("3.11")), "-I", "-S", str(CLI), "status"],
        capture_output=True,
        text=True,
        check=False,
        cwd=tmp_path,
    )
    ran = Ran(done.returncode, done.stdout, done.stderr)
    assert (ran.status, ran.out, "-m pip install boto3" in ran.err) == (1, "", True)


def test_no_directory_shadows_a_python_module() -> None:
    names = {path.name for path in ROOT.iterdir() if path.is_dir()}
    assert names & set(sys.stdlib_module_names) == set()
