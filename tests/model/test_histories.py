"""Random histories of a small fleet. The function must clean up after the dead, and touch nothing else.

``MODEL_HISTORIES=20000`` runs more histories than `make test` does.
"""

from __future__ import annotations

import os
import time
from collections import Counter
from typing import ClassVar

import pytest
from hypothesis import HealthCheck, Phase, seed, settings
from hypothesis.stateful import run_state_machine_as_test

from tests.model.machine import Histories

HISTORIES = int(os.environ.get("MODEL_HISTORIES", "1000"))
STEPS = 40
PARTS = 4


@pytest.mark.timeout(60 + HISTORIES)
@pytest.mark.parametrize("part", range(PARTS))
def test_histories(part: int, capsys: pytest.CaptureFixture[str]) -> None:
    class Part(Histories):
        told: ClassVar[Counter[str]] = Counter()

    began = time.monotonic()
    run_state_machine_as_test(
        seed(part)(Part),
        settings=settings(
            max_examples=-(-HISTORIES // PARTS),
            stateful_step_count=STEPS,
            database=None,
            deadline=None,
            print_blob=False,
            phases=(Phase.generate, Phase.shrink),
            suppress_health_check=list(HealthCheck),
        ),
    )
    told = dict(sorted(Part.told.items()))
    with capsys.disabled():
        head = f"{told.pop('histories')} histories, {told.pop('steps')} steps, {time.monotonic() - began:.0f} s"
        print(f"\n{head}: {', '.join(f'{number} {what}' for what, number in told.items())}")
    assert Part.told["histories"] >= HISTORIES // PARTS
