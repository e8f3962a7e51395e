"""The next plan shows changes that were made outside Terraform."""

from __future__ import annotations

import io
import zipfile

import pytest

from tests.deployed.conftest import NAME, Deployed

pytestmark = pytest.mark.servers

WARNING = "does not run the code that was last deployed by Terraform"


def test_plan_warns_of_foreign_code_even_without_changes(deployed: Deployed) -> None:
    client = deployed.platform.aws.client("lambda")
    built = deployed.platform.functions._function(NAME).code_bytes
    other = io.BytesIO()
    with zipfile.ZipFile(other, "w") as archive:
        archive.writestr("somebody_elses.py", "")
    client.update_function_code(FunctionName=NAME, ZipFile=other.getvalue())
    try:
        assert deployed.stack.plan() == "empty"
        assert WARNING in plan_log(deployed)
    finally:
        client.update_function_code(FunctionName=NAME, ZipFile=built)
    assert deployed.stack.plan() == "empty"
    assert WARNING not in plan_log(deployed)


def plan_log(deployed: Deployed) -> str:
    """The plan's log without Terraform's line breaks."""
    log = (deployed.stack.logs / "terraform-plan.log").read_text()
    return " ".join(log.replace("\u2502", " ").split())
