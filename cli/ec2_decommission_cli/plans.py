"""Writes the dry runs of many instances as a plan for review, and carries out the reviewed plan.

A plan is one JSON document. ``apply`` sends each instance's approved actions to the function. The function plans
again, on the current state, and carries out only the actions in both plans.
"""

from __future__ import annotations

import json
import sys
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from . import text
from .aws import Problem, reason
from .history import after

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from .deployment import Deployment

VERSION = 1
_AT_ONCE = 4  # concurrent invocations
_KEYS = ("step", "action", "target")


def candidates(
    deployment: Deployment, start: datetime, account_id: str | None, region: str | None
) -> dict[str, dict[str, str]]:
    """The instances to plan for, with their places: ended since ``start``, or with a missed termination.

    Restored instances are left out.
    """
    found: dict[str, dict[str, str]] = {}
    places: set[tuple[str, str]] = set()
    wanted = "instance_id, #state, terminated_at, restored_at, excluded, facts.account_id, facts.#region"
    for record in deployment.records(attributes=wanted):
        facts = record.get("facts", {})
        where = (str(facts.get("account_id")), str(facts.get("region")))
        if (account_id or where[0], region or where[1]) != where:
            continue
        places.add(where)
        ended = record.get("state") == "terminated" and after(record.get("terminated_at"), start)
        if ended and not record.get("excluded") and not record.get("restored_at"):
            found[record["instance_id"]] = dict(zip(("account_id", "region"), where, strict=True))
    for where in sorted(places):
        place = dict(zip(("account_id", "region"), where, strict=True))
        sweep = deployment.ask({"sweep": True, "dry_run": True, **place}).get("sweep") or {}
        found |= dict.fromkeys([*sweep.get("gone", ()), *sweep.get("adopted", ())], place)
    return found


def make(
    deployment: Deployment, start: datetime, account_id: str | None, region: str | None, say: Callable[[str], None]
) -> dict[str, Any]:
    """The plan: the dry runs that would remove something, and under ``failed`` those with a failed step."""
    found = candidates(deployment, start, account_id, region)
    say(f"dry run of {text.count(len(found), 'instance')}")
    with ThreadPoolExecutor(_AT_ONCE) as pool:
        reports = list(
            pool.map(lambda i: deployment.ask({"instance_id": i, "dry_run": True, **found[i]}), sorted(found))
        )
    return {
        "version": VERSION,
        "function_name": deployment.function_name,
        "function_region": deployment.clients.region,
        "made_at": datetime.now(UTC).isoformat(timespec="seconds"),
        "since": start.isoformat(timespec="seconds"),
        "instances": [_entry(report) for report in reports if approved(report)],
        "failed": [_entry(report) for report in reports if text.failed(report)],
    }


def _entry(report: Mapping[str, Any]) -> dict[str, Any]:
    identity = report.get("identity") or {}
    keys = ("instance_id", "account_id", "region", "state", "request_id", "errors", "note", "steps")
    return {"name": identity.get("name_tag"), **{key: report[key] for key in keys if report.get(key)}}


def approved(entry: Mapping[str, Any]) -> list[dict[str, str]]:
    """The actions of a report or of a plan's instance, in the form of the function's input ``only``."""
    return [
        {"step": step["step"], "action": action["action"], "target": action["target"]}
        for step in entry.get("steps", ())
        for action in step.get("actions", ())
    ]


def read(path: str, deployment: Deployment) -> list[dict[str, Any]]:
    """The instances of a plan. Raises Problem if it is not a plan, or not of this deployment."""
    try:
        plan = json.loads(sys.stdin.read() if path == "-" else Path(path).read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise Problem(f"{path} cannot be read as a plan: {reason(error)}.") from None
    if not isinstance(plan, dict) or plan.get("version") != VERSION or not isinstance(plan.get("instances"), list):
        raise Problem(f"{path} is not a plan of version {VERSION}, written by `plan`.")
    if (plan.get("function_name"), plan.get("function_region")) != (
        deployment.function_name,
        deployment.clients.region,
    ):
        raise Problem(
            f"{path} is a plan for {plan.get('function_name')} in {plan.get('function_region')}, not for "
            f"{deployment.function_name} in {deployment.clients.region}."
        )
    for entry in plan["instances"]:
        try:
            names = (entry["instance_id"], entry["account_id"], entry["region"])
            actions = [action[key] for action in approved(entry) for key in _KEYS]
        except (KeyError, TypeError, AttributeError):
            raise Problem(f"{path}: an instance or an action of the plan lacks a required key.") from None
        if not all(isinstance(value, str) for value in (*names, *actions)):
            raise Problem(f"{path}: an instance or an action of the plan has a value that is not a string.")
    instances: list[dict[str, Any]] = plan["instances"]
    return instances


def apply(
    deployment: Deployment, instances: Sequence[Mapping[str, Any]], *, override_dry_run: bool
) -> Iterator[tuple[Mapping[str, Any], dict[str, Any]]]:
    """Carries out the plan, one instance at a time. Yields each instance with its report."""
    for entry in instances:
        payload = {key: entry[key] for key in ("instance_id", "account_id", "region")} | {"only": approved(entry)}
        if override_dry_run:
            payload["dry_run"] = False
        yield entry, deployment.ask(payload)
