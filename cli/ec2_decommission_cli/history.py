"""Reads what was done in a period from the inventory: the data of ``report``, as JSON and as CSV."""

from __future__ import annotations

import csv
import io
import re
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

from .aws import Problem
from .text import FAILED

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from .deployment import Deployment

_UNITS = {"m": "minutes", "h": "hours", "d": "days", "w": "weeks"}
_COLUMNS = (
    "event", "at", "instance_id", "name", "account_id", "region", "step", "action", "target", "why", "request_id",
)  # fmt: skip


def since(text: str, now: datetime | None = None) -> datetime:
    """The start of a period: ``7d``, ``12h``, ``30m``, ``2w``, or a date or time in ISO 8601 (UTC by default).

    Raises:
        Problem: The text has none of these forms.
    """
    now = now or datetime.now(UTC)
    try:
        if match := re.fullmatch(r"([0-9]{1,5})([mhdw])", text):
            return now - timedelta(**{_UNITS[match[2]]: int(match[1])})
        moment = datetime.fromisoformat(text)
    except (ValueError, OverflowError):
        raise Problem(
            f"--since {text}: expected a period such as 7d, 12h, 30m or 2w, or a date such as 2026-03-01."
        ) from None
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)


def read(deployment: Deployment, start: datetime, account_id: str | None, region: str | None) -> dict[str, Any]:
    """The instances with removals or restores since ``start``, and the unfinished ones, newest first."""
    now = datetime.now(UTC)
    found = []
    for record in deployment.records("#state = :ended"):
        facts = record.get("facts", {})
        if (account_id or facts.get("account_id")) != facts.get("account_id"):
            continue
        if (region or facts.get("region")) != facts.get("region"):
            continue
        instance = _instance(record, start)
        times = [instance["ended"], *(entry.get("at") for entry in (*instance["removed"], *instance["restored"]))]
        if any(after(time, start) for time in times) or not instance["finished"]:
            found.append(instance)
    return {
        "function_name": deployment.function_name,
        "since": start.isoformat(timespec="seconds"),
        "until": now.isoformat(timespec="seconds"),
        "instances": sorted(found, key=lambda one: str(one["ended"] or ""), reverse=True),
    }


def _instance(record: Mapping[str, Any], start: datetime) -> dict[str, Any]:
    facts = record.get("facts", {})
    return {
        "instance_id": record["instance_id"],
        "name": facts.get("tags", {}).get("Name"),
        "account_id": facts.get("account_id"),
        "region": facts.get("region"),
        "ended": record.get("terminated_at"),
        "finished": bool(record.get("finished")),
        "excluded": record.get("excluded"),
        "request_id": record.get("request_id"),
        "removed": [entry for entry in record.get("removed", ()) if after(entry.get("at"), start)],
        "restored": [entry for entry in record.get("restored", ()) if after(entry.get("at"), start)],
        "steps": [{"step": name, **step} for name, step in sorted(record.get("steps", {}).items())],
    }


def after(text: Any, start: datetime) -> bool:
    """Whether an ISO 8601 time is at or after ``start``; False if the text is not a time."""
    try:
        return datetime.fromisoformat(str(text)) >= start
    except (ValueError, TypeError):
        return False


def failures(instance: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """The steps that failed in the last attempt."""
    return [step for step in instance["steps"] if step.get("status") == FAILED]


def left(instance: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """The steps that left something, or could not check it, and say why."""
    return [step for step in instance["steps"] if step.get("reason") and step.get("status") != FAILED]


def rows(document: Mapping[str, Any]) -> Iterable[dict[str, str]]:
    """One row per removal, restored object, step that left something, and failure."""
    for one in document["instances"]:
        who = {key: one[key] for key in ("instance_id", "name", "account_id", "region")}
        for event in ("removed", "restored"):
            for entry in one[event]:
                what = {key: entry.get(key) for key in ("at", "step", "action", "target", "request_id")}
                yield _texts({"event": event, **who, **what, "why": entry.get("proof")})
        for event, steps in (("left", left(one)), ("failed", failures(one))):
            for step in steps:
                what = {"at": step.get("settled_at") or one["ended"], "step": step["step"], "why": step["reason"]}
                yield _texts({"event": event, **who, **what, "request_id": one["request_id"]})


def _texts(row: Mapping[str, Any]) -> dict[str, str]:
    return {key: str(value) if value is not None else "" for key, value in row.items()}


def as_csv(document: Mapping[str, Any]) -> str:
    """The rows as CSV. An apostrophe precedes cells that a spreadsheet would run as formulas."""
    text = io.StringIO()
    writer = csv.DictWriter(text, _COLUMNS, restval="", lineterminator="\n")
    writer.writeheader()
    for row in rows(document):
        writer.writerow({key: f"'{value}" if value.startswith(("=", "+", "-", "@", "\t", "\r")) else value
                         for key, value in row.items()})  # fmt: skip
    return text.getvalue()
