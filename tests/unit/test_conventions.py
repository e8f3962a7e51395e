"""What hosting sites and tools read: workflows, templates, hooks, the changelog."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).resolve().parent.parent.parent
WORKFLOWS = sorted((ROOT / ".github" / "workflows").glob("*.yml"))
YAML = sorted([*(ROOT / ".github").rglob("*.yml"), *ROOT.glob(".*.yml"), *ROOT.glob(".*.yaml")])


SET_UP = ROOT / ".github" / "actions" / "set-up" / "action.yml"
PINNED = re.compile(r"[\w-]+/[\w-]+@[0-9a-f]{40}|\./\.github/actions/set-up")


def load(path: Path) -> Any:
    return yaml.safe_load(path.read_text())


@pytest.mark.parametrize("path", YAML, ids=lambda path: str(path.relative_to(ROOT)))
def test_yaml_can_be_read(path: Path) -> None:
    assert isinstance(load(path), dict)


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.name)
def test_workflows_are_read_only_except_jobs_that_need_more(path: Path) -> None:
    workflow = load(path)
    assert workflow["permissions"] == {"contents": "read"}
    more = {name: job["permissions"] for name, job in workflow["jobs"].items() if "permissions" in job}
    release = {"contents": "write", "id-token": "write", "attestations": "write"}
    assert more == ({"release": release} if path.name == "release.yml" else {})


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.name)
def test_every_action_is_pinned_every_job_bounded_and_no_checkout_keeps_its_credentials(path: Path) -> None:
    for name, job in load(path)["jobs"].items():
        assert job["timeout-minutes"] <= 60, name
        for step in job["steps"]:
            if "uses" in step:
                assert PINNED.fullmatch(step["uses"]), step["uses"]
            if step.get("uses", "").startswith("actions/checkout@"):
                assert step["with"]["persist-credentials"] is False


def test_actions_in_the_set_up_action_are_pinned() -> None:
    for step in load(SET_UP)["runs"]["steps"]:
        assert "uses" not in step or PINNED.fullmatch(step["uses"])
        assert "${{" not in step.get("run", "")


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.name)
def test_commands_contain_no_event_text(path: Path) -> None:
    """A branch or a title of somebody else's would be run."""
    for job in load(path)["jobs"].values():
        for step in job["steps"]:
            assert "${{" not in step.get("run", "")


def test_the_workflow_tests_the_versions_that_the_module_takes() -> None:
    rows = load(ROOT / ".github" / "workflows" / "ci.yml")["jobs"]["test"]["strategy"]["matrix"]["include"]
    [oldest] = re.findall(r'required_version = ">= ([\d.]+)"', (ROOT / "versions.tf").read_text())
    assert {f"~{oldest}.0", "latest"} <= {row["terraform"] for row in rows}
    runtimes = re.search(r"contains\(\[(.*?)\], var\.function\.runtime\)", (ROOT / "variables.tf").read_text())
    assert runtimes is not None
    # The development environment is of 3.11 to 3.13; only the package is built for 3.14.
    assert {row["python"] for row in rows} == set(re.findall(r"python([\d.]+)", runtimes[1])) - {"3.14"}


def test_the_gate_runs_the_readmes_own_commands() -> None:
    runs = [
        step["run"]
        for path in WORKFLOWS
        for job in load(path)["jobs"].values()
        for step in job["steps"]
        if "run" in step
    ]
    assert {"make demo", "make test", "make security", "make check", "make types", "make lint"} <= set(runs)


def test_changelog_has_the_version_and_release_notes_come_from_it() -> None:
    [version] = re.findall(r'^version = "(.+)"$', (ROOT / "pyproject.toml").read_text(), re.MULTILINE)
    changelog = (ROOT / "CHANGELOG.md").read_text()
    headings = re.findall(r"^## \[(.+?)\]", changelog, re.MULTILINE)
    assert headings[:2] == ["Unreleased", version]
    assert set(re.findall(r"^### (\w+)$", changelog, re.MULTILINE)) <= {
        "Added",
        "Changed",
        "Deprecated",
        "Removed",
        "Fixed",
        "Security",
    }
    notes = subprocess.run(
        [ROOT / "scripts" / "release-notes", f"v{version}"], capture_output=True, text=True, check=True
    )
    assert notes.stdout.startswith("### Added")
    assert "## [" not in notes.stdout
    other = subprocess.run(
        [ROOT / "scripts" / "release-notes", "v9.9.9"], capture_output=True, text=True, check=False
    )
    assert (other.returncode, other.stdout) == (1, "")


def test_the_readme_names_the_version() -> None:
    [version] = re.findall(r'^version = "(.+)"$', (ROOT / "pyproject.toml").read_text(), re.MULTILINE)
    assert set(re.findall(r"\?ref=v([\d.]+)", (ROOT / "README.md").read_text())) == {version}


def test_hooks_are_pinned() -> None:
    for repository in load(ROOT / ".pre-commit-config.yaml")["repos"]:
        assert repository["repo"] == "local" or re.fullmatch(r"v[\d.]+", repository["rev"])
        for hook in repository["hooks"]:
            assert hook["id"]
