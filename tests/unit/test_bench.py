"""The benchmarks run: small bursts, drained in simulated time, and a small sweep."""

from __future__ import annotations

import pytest

from bench import sweeping
from bench.__main__ import SIZES, run
from bench.drain import Settings, drain


def test_the_quick_tables_are_written() -> None:
    text = run("quick").text()
    assert "## 4. Sweep" in text
    assert "## 2. Drain" in text
    assert f"| {SIZES['quick'].sweeps[0]} | 1 |" in text


def test_batches_drain_faster_than_one_by_one_and_nothing_is_throttled() -> None:
    alone, together = (drain(20, 100, Settings(size, 5 if size > 1 else 0, 2, 120, 1769)) for size in (1, 100))
    assert together.seconds < alone.seconds
    assert (alone.throttled, together.throttled) == (0, 0)
    assert together.seconds >= together.minimum.seconds


def test_a_sweep_finds_those_that_are_gone_in_one_invocation() -> None:
    swept = sweeping.measure(1000, 60)
    assert (swept.invocations, swept.found_gone) == (1, sweeping.GONE)
    assert swept.cpu_seconds == pytest.approx(swept.longest, rel=0.5)
