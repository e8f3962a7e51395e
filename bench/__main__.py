"""Prints the benchmark tables: ``make bench``, or ``python -m bench TABLE...`` for selected tables.

Counts and ratios are the same on every machine. Seconds are simulated. docs/benchmarks.md describes the methods.
"""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack
from pathlib import Path

from rich import box
from rich.console import Console
from rich.table import Table

from bench.environment import SOURCES
from bench.fleet import TOOL, Servers, batch
from bench.naive import drain_each
from bench.simulation import REGIONS, ask_places, drain, sweep
from testbed.tools import CACHE
from tests.fakes.world import HOME

STARTS = 5
EMPTY = "import boto3, time; boto3.client('ec2', region_name='us-east-1'); print(time.process_time())"
CLIENTS = """
import os, sys, time
from ec2_decommission.clients.aws import AwsClients
aws, places, regions = AwsClients(), int(sys.argv[1]), sys.argv[2:]
for n in range(places):
    aws("ec2", f"arn:aws:iam::{n // len(regions):012}:role/reader", None, regions[n % len(regions)])
status = "/proc/self/status"  # Linux only
peak = [int(line.split()[1]) / 1024 for line in (open(status) if os.path.exists(status) else ()) if "VmHWM" in line]
print(time.process_time(), *peak or [0])
"""


def count_calls(servers: Servers, number: int) -> dict[str, int]:
    """Requests for one batch of terminations on a cold function. Raises RuntimeError if the cleanup is incomplete."""
    servers.reset()
    dead = servers.fleet(number)
    servers.reset_calls()
    answer = servers.handle(batch(one.event for one in dead)).answer
    calls, left = servers.calls, servers.left(dead)
    if left or answer != {"batchItemFailures": []}:
        raise RuntimeError(f"the cleanup of {number} terminations is incomplete: {answer}, {left}")
    return calls


def calls(console: Console, servers: Servers) -> None:
    sizes = (1, 10, 100, 1000)
    counted = {number: count_calls(servers, number) for number in sizes}
    for per_number in counted.values():
        per_number["AWS total"] = sum(per_number[name] for name in ("DynamoDB", "EC2", "Route 53"))
    names = ("DynamoDB", "EC2", "Route 53", "AWS total", "Chef", "Consul")
    rows = ([name, *(f"{counted[n][name]:,} ({counted[n][name] / n:.2f})" for n in sizes)] for name in names)
    show(console, "Total requests (per termination)", ["system", *(f"{n:,} at once" for n in sizes)], rows)


def drains(console: Console, _: Servers) -> None:
    def row(what: str, number: int, others: int, size: int = 1000, over: float = 0.0) -> list[str]:
        done = drain(number, size=size, over=over, others=others)
        counts = (others, done.requests, done.refused, done.returned, done.left)
        return [what, *(f"{count:,}" for count in counts), f"{done.seconds:.1f}"]

    def rows() -> Iterator[list[str]]:
        for others in (100, 9000):
            yield row("1", 1, others)
            yield row("1 x 1,000", 1000, others)
            yield row("5 x 200", 1000, others, size=200)
            yield row("1,000 in 60 s", 1000, others, over=60.0)
        yield row("10,000 in 600 s", 10_000, 100, over=600.0)

    columns = ["terminations", "others", "requests", "refused", "retried", "left", "seconds"]
    show(console, "Queue drain at Route 53's rate limit (simulated)", columns, rows())


def naive(console: Console, _: Servers) -> None:
    def rows() -> Iterator[list[str]]:
        for number in (10, 100, 1000):
            for invocations, done in (("a batch", drain(number)), ("each event", drain_each(number))):
                counts = (number, done.requests, done.refused, done.returned, done.left)
                yield [invocations, *(f"{count:,}" for count in counts), f"{done.seconds:.1f}"]

    columns = ["invoked for", "at once", "requests", "refused", "retried", "left", "seconds"]
    show(console, "This function, and an invocation for each event (simulated)", columns, rows())


def places(console: Console, _: Servers) -> None:
    def rows() -> Iterator[list[str]]:
        for number in (1, 100):
            for served in (1, 10, 100):
                asked, seconds = ask_places(served, number)
                each = " to ".join(map(str, sorted({min(asked), max(asked)})))
                yield [f"{number}", f"{served}", f"{sum(asked)}", each, f"{seconds:.1f}"]

    columns = ["terminations", "places", "EC2 calls", "in each place", "seconds"]
    show(console, "EC2 calls per batch in an organization (simulated)", columns, rows())
    [empty] = run(EMPTY)
    starts = {served: run(CLIENTS, f"{served}", *REGIONS) for served in (1, 10, 100, 200)}
    ratios = ([f"{served}", f"{cpu / empty:.1f}", f"{peak:.0f}"] for served, (cpu, peak) in starts.items())
    show(console, "EC2 clients in a cold function", ["places", "CPU time ratio", "MB"], ratios)


def sweeps(console: Console, _: Servers) -> None:
    def rows() -> Iterator[list[str]]:
        for number, lost in ((100, 0), (1000, 0), (1000, 10), (5000, 0)):
            counted, seconds = sweep(number, lost, seconds=0.02)
            by_service = (counted[name] for name in (f"EC2 {HOME}", "DynamoDB", "SQS"))
            yield [f"{number:,}", f"{lost}", *map(str, by_service), f"{seconds:.2f}"]

    columns = ["instances", "lost events", "EC2", "DynamoDB", "SQS", "seconds at 20 ms a call"]
    show(console, "Requests per sweep (simulated)", columns, rows())


def cold_start(console: Console, servers: Servers) -> None:
    with tempfile.TemporaryDirectory() as directory:
        package = build(Path(directory))
        servers.reset()
        empty, ready, whole = [], [], []
        for dead in servers.fleet(STARTS):
            handled = servers.handle(batch([dead.event]), code=package)
            empty += run(EMPTY)
            ready.append(handled.ready)
            whole.append(handled.cpu)
    seconds = {
        "empty function: boto3 and an EC2 client": min(empty),
        "this function, ready for its first event": min(ready),
        "this function, after its first termination": min(whole),
    }
    rows = ([what, f"{least / min(empty):.1f}"] for what, least in seconds.items())
    show(console, "CPU time of a cold start with all steps", ["function", "ratio"], rows)


def run(program: str, *arguments: str) -> list[float]:
    """Runs a Python program and returns the numbers that it prints, CPU seconds first."""
    environ = {"PATH": os.environ["PATH"], "PYTHONPATH": str(SOURCES), "AWS_DEFAULT_REGION": "us-east-1"}
    command = [sys.executable, "-c", program, *arguments]
    done = subprocess.run(command, env=environ, capture_output=True, text=True, check=True)
    return [float(number) for number in done.stdout.split()]


def build(directory: Path) -> Path:
    """Builds the package with all steps, as Terraform does, and unpacks it."""
    spec = {
        "name": TOOL,
        "runtime": f"python{sys.version_info.major}.{sys.version_info.minor}",
        "architecture": "arm64" if platform.machine() in ("arm64", "aarch64") else "x86_64",
        "features": ["route53", "chef", "consul", "http"],
        "output": str(directory / "package.zip"),
    }
    environ = {**os.environ, "BUILD_SPEC": json.dumps(spec), "BUILD_CACHE": str(CACHE / "build")}
    subprocess.run([sys.executable, SOURCES.parent / "build"], env=environ, stdout=subprocess.DEVNULL, check=True)
    with zipfile.ZipFile(directory / "package.zip") as package:
        package.extractall(directory / "package")
    return directory / "package"


def show(console: Console, title: str, columns: list[str], rows: Iterable[list[str]]) -> None:
    """Prints a table in Markdown, for docs/benchmarks.md."""
    table = Table(title=title, title_justify="left", box=box.MARKDOWN)
    for column in columns:
        table.add_column(column, justify="left" if column == columns[0] else "right", no_wrap=True)
    for row in rows:
        table.add_row(*row)
    console.print(table)


TABLES: dict[str, Callable[[Console, Servers], None]] = {
    "calls": calls,
    "drain": drains,
    "naive": naive,
    "places": places,
    "sweep": sweeps,
    "cold": cold_start,
}


def main(names: list[str]) -> None:
    """Prints the named tables, or all tables without names."""
    if unknown := set(names) - set(TABLES):
        sys.exit(f"unknown table {', '.join(sorted(unknown))}; the tables are {', '.join(TABLES)}")
    console = Console()
    with ExitStack() as stack:
        servers = Servers(Path(stack.enter_context(tempfile.TemporaryDirectory())))
        if set(names or TABLES) - {"drain", "naive", "places", "sweep"}:
            stack.enter_context(servers)
        for name in names or TABLES:
            TABLES[name](console, servers)


if __name__ == "__main__":
    main(sys.argv[1:])
