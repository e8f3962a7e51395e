"""One set of findings for the session; they are printed at its end, and written where FAULT_MATRIX names a file."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from _pytest.terminal import TerminalReporter
from rich.console import Console

from tests.deployed.faults import page
from tests.deployed.faults.findings import Findings

_FINDINGS = pytest.StashKey[Findings]()


@pytest.fixture(scope="session")
def findings(request: pytest.FixtureRequest) -> Findings:
    return request.config.stash.setdefault(_FINDINGS, Findings())


def pytest_terminal_summary(terminalreporter: TerminalReporter, exitstatus: int, config: pytest.Config) -> None:
    target = os.environ.get("FAULT_MATRIX")
    found = config.stash.get(_FINDINGS, None)
    if target is None or found is None:
        return
    terminalreporter.ensure_newline()
    page.show(found, Console(width=150, highlight=False))
    if exitstatus == pytest.ExitCode.OK:
        Path(target).write_text(page.markdown(found))
        terminalreporter.write_line(f"written: {target}")
