"""Reports as plain text that fits the terminal."""

from __future__ import annotations

import shutil
import textwrap
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

FAILED, CLEAN = "failed", "clean"


def paragraph(text: str, indent: str = "", first: str | None = None) -> str:
    """Wraps the text between words. Words are never broken, so that names and ids can be copied."""
    columns = max(min(shutil.get_terminal_size((80, 24)).columns, 120), 40)
    lines = textwrap.wrap(
        printable(text),
        columns,
        initial_indent=indent if first is None else first,
        subsequent_indent=indent,
        break_long_words=False,
        break_on_hyphens=False,
    )
    return "\n".join(lines) or indent.rstrip()


def printable(text: object) -> str:
    """The text with control characters escaped. Tags and names can contain any, and terminals execute some."""
    return "".join(c if c.isprintable() else f"\\x{ord(c):02x}" for c in " ".join(str(text).split()))


def pairs(rows: Iterable[tuple[str, object]], indent: str = "  ") -> str:
    """Lines of names and values, without empty values."""
    told = [(name, str(value)) for name, value in rows if value not in (None, "", [], {})]
    width = max((len(name) for name, _ in told), default=0) + 2
    return "\n".join(paragraph(value, indent + " " * width, first=indent + name.ljust(width)) for name, value in told)


def time(text: Any) -> str:
    """A time in ISO 8601, UTC, to the second; empty if there is none.

    Example:
        >>> time("2026-03-01T13:00:00.123456+01:00")
        '2026-03-01T12:00:00Z'
    """
    if not text:
        return ""
    try:
        moment = datetime.fromisoformat(str(text))
    except ValueError:
        return str(text)
    return moment.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def place(holder: Mapping[str, Any]) -> str:
    """Account and region."""
    return "/".join(filter(None, (holder.get("account_id"), holder.get("region")))) or "an unknown place"


def actions(entries: Iterable[Mapping[str, Any]], indent: str = "  ") -> str:
    """Actions, each with its time, if any, and its proof below."""
    lines = []
    for entry in entries:
        when = f"{time(entry['at'])} " if entry.get("at") else ""
        step = f"{entry['step']} " if entry.get("step") else ""
        lines.append(
            paragraph(f"{when}{step}{entry.get('action')} {entry.get('target')}", f"{indent}    ", first=indent)
        )
        if entry.get("proof"):
            lines.append(paragraph(str(entry["proof"]), f"{indent}    "))
    return "\n".join(lines)


def steps(report: Mapping[str, Any], indent: str = "  ") -> str:
    """The steps of a report, with what they did and why."""
    lines = []
    for step in report.get("steps", ()):
        kind = f" ({step['error_kind']})" if step.get("error_kind") else ""
        lines.append(f"{indent}{step['step']}: {step['status']}{kind}")
        if step.get("actions"):
            lines.append(actions(step["actions"], f"{indent}  "))
        if step.get("reason"):
            lines.append(paragraph(step["reason"], f"{indent}  "))
    lines += [paragraph(line, indent) for line in (*report.get("errors", ()), report.get("note")) if line]
    return "\n".join(lines) or f"{indent}no step is on"


def headline(report: Mapping[str, Any]) -> str:
    """The report's instance, its place and state, and whether this is a dry run."""
    name = (report.get("identity") or {}).get("name_tag")
    named = f" ({printable(name)})" if name else ""
    dry = "; dry run, nothing was changed" if report.get("dry_run") else ""
    return paragraph(f"{report['instance_id']}{named} in {place(report)}: {report.get('state')}{dry}", "  ", first="")


def report(document: Mapping[str, Any]) -> str:
    """A whole report."""
    request = f"request {document['request_id']}" if document.get("request_id") else ""
    return "\n".join(filter(None, (headline(document), steps(document), request)))


def failed(document: Mapping[str, Any]) -> bool:
    """Whether anything failed, by the function's own rule."""
    return bool(document.get("errors")) or any(step["status"] == FAILED for step in document.get("steps", ()))


def record(document: Mapping[str, Any]) -> str:
    """The inventory's record of an instance."""
    facts = document.get("facts", {})
    addresses = [ip for kind in ("private_ips", "public_ips", "ipv6_addresses") for ip in facts.get(kind, ())]
    parts = [
        pairs(
            [
                ("name", facts.get("tags", {}).get("Name")),
                ("launched", time(facts.get("launch_time"))),
                ("recorded", time(document.get("recorded_at"))),
                ("ended", time(document.get("terminated_at"))),
                ("addresses", ", ".join(addresses)),
                ("DNS names", ", ".join([*facts.get("private_dns_names", ()), *facts.get("public_dns_names", ())])),
                ("tags", ", ".join(f"{key}={value}" for key, value in sorted(facts.get("tags", {}).items()))),
                *(
                    (f"{step} {kind}", ", ".join(names))
                    for step, kinds in sorted(facts.get("known_as", {}).items())
                    for kind, names in sorted(kinds.items())
                ),
                ("excluded", document.get("excluded")),
                ("next try", time(document.get("next_try_at"))),
                ("last request", document.get("request_id")),
            ]
        )
    ]
    for title, entries in (("Removed", document.get("removed")), ("Restored", document.get("restored"))):
        if entries:
            parts.append(f"\n{title}\n{actions(entries)}")
    if document.get("steps"):
        parts.append(f"\nLast result of each step\n{_last_looks(document)}")
    return "\n".join(parts)


def _last_looks(document: Mapping[str, Any]) -> str:
    """The last result of each step. A step that removed something can be clean: a second event finds nothing more."""
    removed = {entry.get("step") for entry in document.get("removed", ())}
    lines = []
    for name, step in document["steps"].items():
        text = str(step.get("status"))
        if step.get("error_kind"):
            text += f" ({step['error_kind']})"
        text += f" at {time(step['settled_at'])}" if step.get("settled_at") else ", tried again later"
        if step.get("status") == CLEAN and name in removed:
            text += ": nothing more was there"
        if step.get("reason"):
            text += f": {step['reason']}"
        lines.append(paragraph(f"{name}: {text}", "      ", first="  "))
    return "\n".join(lines)


def count(number: int, noun: str) -> str:
    """A number with its noun.

    Example:
        >>> count(2, "instance")
        '2 instances'
    """
    return f"{number} {noun}{'' if number == 1 else 's'}"


def table(heads: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """A table of short cells with column heads."""
    cells = [list(heads), *([printable(cell) for cell in row] for row in rows)]
    widths = [max(len(row[i]) for row in cells) for i in range(len(heads))]
    return "\n".join(
        ("  " + "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True))).rstrip()
        for row in cells
    )
