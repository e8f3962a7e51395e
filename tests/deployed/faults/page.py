"""The findings as tables: on the terminal, and as the page docs/fault-matrix.md."""

from __future__ import annotations

import os
import platform as machine
import re
import subprocess
import textwrap
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

from rich.console import Console
from rich.table import Table

from testbed.tools import bao_binary, consul_binary, goiardi_binary, terraform_binary
from tests.deployed.faults.faults import FAULTS
from tests.deployed.faults.findings import Findings, Outage
from tests.deployed.faults.lane import SYSTEMS
from tests.deployed.faults.matrix import TRIES, Cell

_INTRODUCTION = """\
# Fault matrix

Written by `make fault-matrix` on {when}. Versions: {versions}.

The deployed zip runs under AWS's runtime client and its own role, against real Consul and Chef servers and a strict
simulated AWS. A proxy in front of each system causes the fault. `make test` asserts everything on this page.

## The matrix
"""

_ASSERTED = """\
Each cell combines two events. The first arrives during the fault. The second failed before, for another reason, and
meets the fault in its retry. Each instance is terminated, and a live replacement has the same Name tag, DNS name and
Chef node name. The seconds are those of the longest invocation, for the first try and the retry if they differ. A
cell is ok if:

- The invocation ends by itself, without an unhandled error and well before Lambda's timeout.
- The other steps finish in the first try and do not run again in the retry. Steps that need EC2 or the inventory
  remove nothing without it.
- The message returns and backs off. Its reason names the system, and the missing right, if any. Its error kind is
  correct.
- Another message in the batch, without the fault, does not return.
- The live replacement loses nothing.
- After recovery the next try finishes. A second event changes nothing.
"""

_KILLED = """\
One event takes {calls} calls, including a cold start. The function was killed (SIGKILL) before the first call and
after each call, with {boundaries} instances. The next try finished each instance, and no live instance lost
anything. The calls:
"""

_CUT_OFF = """\
With the minimum of 30 s, and all three steps on. Each time the message returned after `queue.retry_delay_seconds`,
with a reason that names the system.
"""

_OUTAGES = """\
With the module's defaults. *Receives* counts the tries of the event, up to `queue.max_receive_count`. *After* is the
time from the system's recovery to the end of the work.
"""


def show(findings: Findings, console: Console) -> None:
    """Prints what was found."""
    console.print(f"\n[bold]Faults[/], {_where_and_when()}")
    if findings.cells:
        table = Table(show_lines=True)
        table.add_column("System", style="bold")
        for fault in FAULTS:
            table.add_column(f"{fault}\n[dim]{TRIES[0]} | {TRIES[1]}[/]")
        for system in SYSTEMS:
            pairs = [_cells(findings, system, fault) for fault in FAULTS]
            table.add_row(system, *(" | ".join(map(_short, pair)) for pair in pairs))
        console.print(table)
        console.print(
            "ok: returned with its reason, recovered, nothing of a live instance gone (seconds under the fault)"
        )
    if findings.calls:
        calls = len(findings.calls)
        console.print(f"Killed at {calls + 1} boundaries of {calls} calls: each finished by the next delivery.")
    for race in findings.races:
        console.print(f"{race}.")
    if findings.cut_off:
        told = ", ".join(f"{system} {seconds:.0f} s" for system, seconds in findings.cut_off.items())
        console.print(f"With a timeout of 30 s, a call that hangs is cut off: {told}.")
    if findings.outages:
        table = Table("System", "Outage", "Receives", "After", "Outcome")
        for outage in findings.outages:
            table.add_row(*_outage(outage))
        console.print(table)


def markdown(findings: Findings) -> str:
    """The page."""
    lines = [_INTRODUCTION.format(when=_where_and_when(), versions=", ".join(_versions()))]
    lines += _table(
        ["System", *FAULTS],
        [[system, *(_both(_cells(findings, system, fault)) for fault in FAULTS)] for system in SYSTEMS],
    )
    lines += ["", _ASSERTED, "## How each fault is caused, and the reason in the report", ""]
    lines += ["An ellipsis (…) stands for the cause that precedes it.", ""]
    lines += _table(
        ["System", "Fault", "Caused by", "Reason at the first try"],
        [
            [system, fault, causes, reason]
            for system in SYSTEMS
            for fault in FAULTS
            for reason, causes in _causes(_cells(findings, system, fault)[0]).items()
        ],
    )
    calls = len(findings.calls)
    lines += ["", "## Killed between any two calls", "", _KILLED.format(calls=calls, boundaries=calls + 1)]
    lines += textwrap.wrap(_counted(map(_plain, findings.calls)) + ".", 118, break_on_hyphens=False)
    lines += ["", "## Messages doubled and reordered", "", *(f"- {_plain(race)}." for race in findings.races)]
    lines += ["", "## What hangs, at the shortest `function.timeout`", "", _CUT_OFF]
    lines += _table(
        ["System that hangs", "The invocation ended after"],
        [[system, f"{seconds:.0f} s"] for system, seconds in findings.cut_off.items()],
    )
    lines += ["", "## Outages in simulated time", "", _OUTAGES]
    lines += _table(["Systems", "Outage", "Receives", "After", "Outcome"], _merged(map(_outage, findings.outages)))
    return "\n".join(lines) + "\n"


def _outage(outage: Outage) -> list[str]:
    if outage.dead_lettered:
        return [outage.system, f"{outage.hours:.1f} h", str(outage.receives), "", "dead letter, redriven, finished"]
    after = f"{outage.after_seconds / 60:.0f} min"
    return [outage.system, f"{outage.hours:.0f} h", str(outage.receives), after, "finished"]


def _cells(findings: Findings, system: str, fault: str) -> list[Cell]:
    return [findings.cells[system, fault, attempt] for attempt in TRIES]


def _both(cells: Iterable[Cell]) -> str:
    """Both tries of a cell, once if they are equal."""
    return " / ".join(dict.fromkeys(cell.text for cell in cells))


def _causes(cell: Cell) -> dict[str, str]:
    """The causes of a fault that give the same reason, by the reason."""
    causes: dict[str, list[str]] = {}
    for variant, reason in zip(cell.variants, cell.reasons, strict=True):
        causes.setdefault(_once(_plain(reason)), []).append(variant)
    return {reason: "; ".join(variants) for reason, variants in causes.items()}


def _once(reason: str) -> str:
    """The reason with a cause that several zones or steps share shown once.

    "route53: no answer; no answer; chef: nothing removed: no answer" gives
    "route53: no answer; chef: nothing removed: …".
    """
    causes: list[str] = []
    parts: list[str] = []
    for part in reason.split("; "):
        repeated = next((cause for cause in causes if part.endswith(cause)), None)
        if repeated is None:
            causes.append(part.partition(": ")[2] or part)
            parts.append(part)
        elif part != repeated:
            parts.append(part.removesuffix(repeated) + "…")
    return "; ".join(parts)


def _counted(calls: Iterable[str]) -> str:
    """Each call once, with its number."""
    return "; ".join(f"{call} ({number})" if number > 1 else call for call, number in Counter(calls).items())


def _merged(rows: Iterable[Sequence[str]]) -> list[list[str]]:
    """Rows that differ in their first cell only, as one row."""
    firsts: dict[tuple[str, ...], list[str]] = {}
    for first, *rest in rows:
        firsts.setdefault(tuple(rest), []).append(first)
    return [[", ".join(first), *rest] for rest, first in firsts.items()]


def _short(cell: Cell) -> str:
    return f"[red]{len(cell.problems)} wrong[/]" if cell.problems else f"[green]ok[/] {cell.seconds:.0f} s"


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    lines = [head, ["---"] * len(head), *rows]
    return [f"| {' | '.join(cell.replace('|', '/') for cell in line)} |" for line in lines]


def _plain(text: str) -> str:
    """Without what differs from run to run: ports, ids, addresses."""
    text = re.sub(r"127\.0\.0\.1:\d+", "host:port", text)
    text = re.sub(r"\blight-\d+", "web-1", text)
    text = re.sub(r"\b[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}\b", "id", text)
    text = re.sub(r"\b(hostedzone/|hosted zone )[A-Z0-9]+", r"\1Z1", text)
    text = re.sub(r"\bi-[0-9a-f]{17}\b", "i-0abc", text)
    text = re.sub(r"\b10(\.\d+){3}\b", "10.0.0.5", text)
    return text.replace("\n", " ")


def _where_and_when() -> str:
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    system = f"{machine.system()} {machine.machine()}"
    return f"{datetime.now(UTC):%Y-%m-%d}, {system}, {os.cpu_count()} cores, {memory:.0f} GiB"


def _versions() -> Iterator[str]:
    """Of what took part."""
    commands: list[tuple[str, list[str | Path]]] = [
        ("Terraform", [terraform_binary(), "version"]),
        ("Consul", [consul_binary(), "version"]),
        ("goiardi", [goiardi_binary(), "--version"]),
        ("OpenBao", [bao_binary(), "version"]),
    ]
    for name, command in commands:
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        found = re.search(r"\d+\.\d+\.\d+", done.stdout + done.stderr)
        yield f"{name} {found[0] if found else '?'}"
    for package in ("moto", "awslambdaric", "botocore"):
        yield f"{package} {version(package)}"
