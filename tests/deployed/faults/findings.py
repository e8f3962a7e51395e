"""What the tests here found, for the table that is printed and the page in the docs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from tests.deployed.faults.matrix import Cell, Key


@dataclass
class Outage:
    """What became of an event whose system was down for so long, in simulated time."""

    hours: float
    system: str
    receives: int
    after_seconds: float  # from the system's return to the finished event; less than the longest wait
    dead_lettered: bool


@dataclass
class Findings:
    """Filled by the tests; what did not run is not told."""

    cells: Mapping[Key, Cell] = field(default_factory=dict)
    calls: list[str] = field(default_factory=list)  # of one normal run, at each of which it was killed
    races: list[str] = field(default_factory=list)
    outages: list[Outage] = field(default_factory=list)
    cut_off: Mapping[str, float] = field(default_factory=dict)  # seconds of an invocation, by the system that hangs
