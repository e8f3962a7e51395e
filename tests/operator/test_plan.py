"""`plan` and `apply`: an applied plan removes only the reviewed actions."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

from tests.operator.conftest import NAME, Site

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

pytestmark = pytest.mark.servers


def test_reviewed_plan_is_applied_without_the_deleted_actions(site: Site, tmp_path: Path) -> None:
    """The module is in dry run, so it removed nothing automatically."""
    site.configure(dry_run=True, sweep={"max_instances": 50, "max_fraction": 0.25})
    site.launch("lives")
    one, other = site.dead("web-1"), site.dead("web-2")
    made = site.cli("plan", "--since", "1h")
    assert made.status == 0, made.err
    plan = made.document
    assert {entry["instance_id"] for entry in plan["instances"]} == {one, other}
    assert {entry["name"] for entry in plan["instances"]} == {"web-1", "web-2"}
    assert all(action["proof"] for entry in plan["instances"] for action in entry["steps"][0]["actions"])
    assert site.names() == ["lives", "web-1", "web-2"]

    plan["instances"] = [entry for entry in plan["instances"] if entry["instance_id"] == one]
    file = tmp_path / "plan.json"
    file.write_text(json.dumps(plan))
    refused = site.cli("apply", str(file))
    assert (refused.status, "give --yes" in refused.said) == (2, True)
    dry = site.cli("apply", str(file), "--yes")
    assert (dry.status, "the module has dry_run = true" in dry.said) == (1, True)
    assert site.names() == ["lives", "web-1", "web-2"]
    done = site.cli("apply", str(file), "--yes", "--override-dry-run")
    assert done.status == 0, done.err
    assert "1 of 1 approved action carried out; nothing else was removed." in done.words
    assert site.names() == ["lives", "web-2"]
    again = site.cli("apply", str(file), "--yes", "--override-dry-run", "--json")
    assert (again.status, again.document["approved"], again.document["done"]) == (0, 1, 0)


def test_objects_outside_the_plan_stay(site: Site, tmp_path: Path) -> None:
    instance_id = site.dead("web-1")
    plan = site.cli("plan").document
    assert len(plan["instances"]) == 1, plan
    plan["instances"][0]["steps"][0]["actions"][0]["target"] = "A web-9.example.internal. 10.0.0.9"
    file = tmp_path / "plan.json"
    file.write_text(json.dumps(plan))
    done = site.cli("apply", str(file), "--yes")
    assert "0 of 1 approved action carried out" in done.words
    assert "not in the approved plan" in done.words
    assert site.names() == ["web-1"]
    assert instance_id in done.out


def test_plan_lists_terminations_of_the_period_without_restored_ones(site: Site) -> None:
    one = site.dead("web-1")
    site.end(one)
    empty = site.cli("plan")
    assert (empty.document["instances"], "There is nothing to remove." in empty.said) == ([], True)
    site.cli("restore", one, "--yes")
    assert site.names() == ["web-1"]
    assert site.cli("plan").document["instances"] == []
    assert site.cli("plan", "--account", "222222222222").document["instances"] == []


def test_plan_reports_objects_it_could_not_check(site: Site) -> None:
    site.dead("web-1")
    site.configure(route53={**site.config["route53"], "zones": [{"id": "Z0000000000000000000"}]})
    ran = site.cli("plan")
    assert (ran.status, ran.document["instances"], len(ran.document["failed"])) == (1, [], 1)
    assert "not everything could be checked" in ran.said
    assert "nothing to remove" not in ran.said


def changed(change: Callable[[dict[str, Any]], object]) -> str:
    plan: dict[str, Any] = {
        "version": 1,
        "function_name": NAME,
        "function_region": "eu-west-1",
        "instances": [
            {
                "instance_id": "i-1",
                "account_id": "1",
                "region": "eu-west-1",
                "steps": [{"step": "route53", "actions": [{"action": "delete", "target": "A x"}]}],
            }
        ],
    }
    change(plan)
    return json.dumps(plan)


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("{", "cannot be read as a plan"),
        ("[]", "is not a plan of version 1"),
        (changed(lambda plan: plan.update(version=2)), "is not a plan of version 1"),
        (changed(lambda plan: plan.update(instances={})), "is not a plan of version 1"),
        (changed(lambda plan: plan.update(function_name="other")), "is a plan for other in eu-west-1, not for"),
        (changed(lambda plan: plan["instances"][0].pop("region")), "lacks a required key"),
        (changed(lambda plan: plan["instances"].append([])), "lacks a required key"),
        (changed(lambda plan: plan["instances"][0].update(account_id=5)), "not a string"),
    ],
)
def test_invalid_or_foreign_plan_is_refused(text: str, told: str, site: Site) -> None:
    ran = site.cli("apply", "-", "--yes", stdin=text)
    assert (ran.status, told in ran.said) == (2, True), ran.err
