"""The benchmarks run: small bursts, drained in simulated time, and a small sweep."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from bench import sweeping
from bench.__main__ import SIZES, run
from bench.computing import USUAL
from bench.drain import Settings, drain

REPOSITORY = Path(__file__).resolve().parents[2]


def test_the_quick_tables_are_written() -> None:
    text = run("quick").text()
    assert "## 4. Sweep" in text
    assert "## 2. Drain" in text
    assert text.count(f"| {USUAL.total * 1000:.2f} |") == len(SIZES["quick"].drains)
    assert f"| {SIZES['quick'].sweeps[0]} | 1 |" in text


def test_batches_drain_faster_than_one_by_one_and_nothing_is_throttled() -> None:
    alone, together = (drain(20, 100, Settings(size, window)) for size, window in ((1, 0), (100, 5)))
    assert together.seconds < alone.seconds
    assert (alone.throttled, together.throttled) == (0, 0)
    assert together.seconds >= together.minimum.seconds


def test_a_sweep_finds_those_that_are_gone_in_one_invocation() -> None:
    swept = sweeping.measure(1000, 60)
    assert (swept.invocations, swept.found_gone) == (1, sweeping.GONE)
    assert swept.cpu_seconds == pytest.approx(swept.longest, rel=0.5)


def test_the_drain_is_that_of_the_modules_defaults() -> None:
    variables = (REPOSITORY / "variables.tf").read_text()
    settings = Settings()
    for name, value in {
        "batch_size": settings.batch_size,
        "batch_window_seconds": settings.window,
        "timeout": settings.timeout,
        "memory_size": settings.memory_size,
        "max_requests_per_second": settings.max_requests_per_second,
    }.items():
        assert re.findall(rf"^ +{name} += optional\(number, (\S+)\)", variables, re.MULTILINE) == [f"{value:g}"], name
    of_both = re.findall(r"^ +max_concurrency += optional\(number, (\S+)\)", variables, re.MULTILINE)
    assert of_both == [str(settings.chef_concurrency), str(settings.concurrency)]  # chef's, the queue's
