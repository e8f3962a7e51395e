"""`python -m bench [quick|short|full]`: the four tables; short and full are written to docs/benchmarks.md too."""

from __future__ import annotations

import argparse
import dataclasses
import datetime
import os
import platform
import tempfile
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.table import Table

from bench import calls, drain, start, sweeping
from bench.calls import Setting
from bench.computing import USUAL, Computing
from bench.fleet import Servers
from testbed.aws import StrictAws

DOCUMENT = Path(__file__).resolve().parent.parent / "docs" / "benchmarks.md"
NOTES = Path(__file__).with_name("notes.md")


@dataclasses.dataclass(frozen=True)
class Sizes:
    """What is measured.

    Attributes:
        bursts: for table 1.
        drains: number, other records, batch size, for table 2.
        repeats: cold starts of each kind; none leaves table 3 out.
        sweeps: recorded instances, for table 4.
    """

    bursts: Sequence[calls.Setting]
    drains: Sequence[tuple[int, int, int]]
    repeats: int
    sweeps: Sequence[int]


HUNDREDS = [Setting(100, 100), Setting(100, 100, deregister_node=True)]
SIZES = {
    "quick": Sizes([], [(20, 100, 1), (20, 100, 100)], 0, [1000]),
    "short": Sizes(
        [Setting(1, 100), Setting(1, 100, reverse=False), Setting(10, 100), *HUNDREDS],
        [
            (100, 9000, 1),
            (1000, 9000, 100),
            (1000, 9000, 1000),
            (1000, 100, 1000),
        ],
        5,
        [1000, 10_000],
    ),
    "full": Sizes(
        [
            Setting(1, 100),
            Setting(1, 100, reverse=False),
            Setting(10, 100),
            *HUNDREDS,
            Setting(1000, 100),
            *(Setting(number, 10_000) for number in (1, 10, 100, 1000)),
        ],
        [
            (1000, 9000, 1),
            (1000, 9000, 100),
            (1000, 9000, 500),
            (1000, 9000, 1000),
            (1000, 100, 500),
            (1000, 100, 1000),
            (10_000, 10_000, 1000),
        ],
        15,
        [1000, 10_000, 100_000],
    ),
}


class Report:
    """Tables, told on the screen and in Markdown.

    Args:
        measured: when, where and how, which stands with each table.
    """

    def __init__(self, measured: str) -> None:
        self._console = Console(width=180)
        self._measured = measured
        self._lines: list[str] = []

    def table(self, title: str, columns: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
        shown = Table(*columns, title=title, caption=self._measured)
        texts = [[f"{cell:.2f}" if isinstance(cell, float) else str(cell) for cell in row] for row in rows]
        for row in texts:
            shown.add_row(*row)
        self._console.print(shown)
        self._lines += [f"## {title}", "", self._measured, ""]
        self._lines += [_row(columns), _row(["---"] * len(columns)), *map(_row, texts), ""]

    def text(self) -> str:
        return "\n".join(self._lines).rstrip() + "\n"


def _row(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def machine() -> str:
    """Cores, memory and Python; neither host name nor path."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    return (
        f"{datetime.datetime.now(datetime.UTC):%Y-%m-%d}, {os.cpu_count()} cores ({platform.machine()}), "
        f"{memory:.0f} GB of memory, Python {platform.python_version()}"
    )


def run(name: str) -> Report:
    """Measures the tables of this name."""
    sizes = SIZES[name]
    report = Report(f"Measured {machine()}, tables of `BENCH={name}`.")
    with tempfile.TemporaryDirectory() as directory:
        bursts = _calls(report, sizes, Path(directory)) if sizes.bursts else []
        _drains(report, sizes, bursts)
        if sizes.repeats:
            _starts(report, sizes, Path(directory), bursts)
    _sweeps(report, sizes)
    return report


def _calls(report: Report, sizes: Sizes, directory: Path) -> list[calls.Burst]:
    bursts: list[calls.Burst] = []
    with Servers(directory) as servers:
        for setting in sizes.bursts:
            cold, warm = calls.measure(servers, setting)
            bursts += [cold] if not bursts else []
            bursts.append(warm)
    columns: tuple[str, ...] = ("Burst", "Others in each zone", "EC2", "Route 53", "Inventory", "Chef", "Consul")
    columns += (
        "AWS without inventory / instance",
        "Chef / instance",
        "Consul / instance",
        "CPU ms / instance",
        "Peak MB",
    )
    report.table(
        "1. Calls",
        columns,
        [
            (
                ", ".join(filter(None, (str(b.number), b.setting.special, "cold" if b.cold else ""))),
                b.setting.other_records,
                b.aws,
                b.route53,
                b.inventory,
                b.chef,
                b.consul,
                (b.aws + b.route53) / b.number,
                b.chef / b.number,
                b.consul / b.number,
                b.computing.total * 1000,
                b.peak_memory,
            )
            for b in bursts
        ],
    )
    return bursts


def _plain(bursts: Sequence[calls.Burst]) -> list[calls.Burst]:
    """Those that are neither cold nor special."""
    return [b for b in bursts if not b.cold and not b.setting.special]


def _drains(report: Report, sizes: Sizes, bursts: Sequence[calls.Burst]) -> None:
    largest = max((b.number for b in bursts), default=0)
    measured = {b.setting.other_records: b.computing for b in _plain(bursts) if b.number == largest}

    def computing(other_records: int) -> Computing:
        """That of the zones whose size is nearest."""
        return measured[min(measured, key=lambda size: abs(size - other_records))] if measured else USUAL

    drains = [
        (other, _drain(number, other, size, computing(other)), _drain(number, other, size, Computing()))
        for number, other, size in sizes.drains
    ]
    columns = (
        "Burst",
        "Others in each zone",
        "Batch size",
        "Seconds",
        "Minimum: Route 53",
        "Chef",
        "Consul",
        "Ratio",
        "Computing left out",
        "CPU ms / instance",
    )
    report.table(
        "2. Drain",
        (*columns, "Route 53 requests", "Throttled", "Invocations", "Messages returned"),
        [
            (
                d.number,
                other,
                d.settings.batch_size,
                d.seconds,
                d.minimum.route53,
                d.minimum.chef,
                d.minimum.consul,
                d.ratio,
                waiting.ratio,
                d.settings.computing.total * 1000,
                d.route53,
                d.throttled,
                d.invocations,
                d.handed_back,
            )
            for other, d, waiting in drains
        ],
    )


def _drain(number: int, other_records: int, batch_size: int, computing: Computing) -> drain.Drain:
    settings = drain.Settings(batch_size, computing=computing)
    if batch_size == 1:
        settings = dataclasses.replace(settings, window=0.0)  # one waits for no other
    return drain.drain(number, other_records, settings)


def _starts(report: Report, sizes: Sizes, directory: Path, bursts: Sequence[calls.Burst]) -> None:
    with StrictAws() as aws:
        task, package = start.build(aws, directory / "package")
        starts = start.starts(task, aws, sizes.repeats)
    report.table(
        "3. Cold start and package",
        ("What", "Measured", "To the empty function"),
        [
            *starts.rows(),
            *_warm(_plain(bursts)),
            ("Zip, MB", package.size / 1e6, ""),
            *(
                (f"of it `{part}`, MB", size / 1e6, "")
                for part, size in sorted(package.parts.items(), key=lambda item: -item[1])[:7]
            ),
        ],
    )


def _warm(bursts: Sequence[calls.Burst]) -> list[tuple[str, float, str]]:
    """Of table 1: what a warm function computes, and the most memory that it ever took."""
    zone = min(b.setting.other_records for b in bursts)
    rows = [
        (f"Warm, one of {b.number}, without waiting, CPU ms", b.computing.total * 1000, "")
        for b in bursts
        if b.setting.other_records == zone
    ]
    largest = max(bursts, key=lambda b: b.peak_memory)
    return [*rows, (f"Peak memory, at a burst of {largest.number}, MB", largest.peak_memory, "")]


def _sweeps(report: Report, sizes: Sizes) -> None:
    swept = [sweeping.measure(number, 60) for number in sizes.sweeps]
    report.table(
        "4. Sweep",
        ("Recorded", "Invocations", "Calls", "CPU seconds", "CPU ms / instance", "Longest invocation", "Peak MB"),
        [
            (
                s.number,
                s.invocations,
                s.calls,
                s.cpu_seconds,
                s.cpu_seconds * 1000 / s.number,
                s.longest,
                s.peak_memory,
            )
            for s in swept
        ],
    )


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    parser.add_argument("sizes", nargs="?", choices=SIZES, default="full")
    name = parser.parse_args().sizes
    report = run(name)
    if name != "quick":
        DOCUMENT.write_text(f"{NOTES.read_text()}\n{report.text()}")


if __name__ == "__main__":
    main()
