"""The demo's own parts; CI runs the demo itself."""

from __future__ import annotations

import io
import re
import subprocess
import sys
from pathlib import Path

import pytest
from rich.console import Console

from demo import __main__ as program
from demo.screen import Screen

ROOT = Path(__file__).resolve().parent.parent.parent
REPORT = {
    "steps": [
        {
            "step": "route53",
            "status": "done",
            "actions": [
                {
                    "action": "delete",
                    "target": "PTR 4.0.0.10.in-addr.arpa. a-rather-long-name.example.internal.",
                    "proof": "10.0.0.4 was recorded for i-0123456789abcdef0, and nobody else has it now",
                }
            ],
            "reason": None,
        },
        {"step": "chef", "status": "skipped", "actions": [], "reason": "node web-1 left: " + "it is another's; " * 9},
    ]
}


def screen() -> tuple[Screen, io.StringIO]:
    text = io.StringIO()
    return Screen(Console(file=text, width=80, highlight=False)), text


def test_acts_lines_and_reports_fit_80_columns() -> None:
    shown, text = screen()
    shown.act("An act whose title " + "goes on " * 20)
    shown.step("a line that " + "goes on " * 20)
    shown.report(REPORT)
    lines = text.getvalue().splitlines()
    assert max(map(len, lines)) <= 80
    assert "              10.0.0.4 was recorded for i-0123456789abcdef0, and nobody else has" in lines


@pytest.mark.parametrize(("details", "expected"), [(None, True), (["chef"], False), ([], False)])
def test_a_report_shows_every_status_and_the_details_asked_for(details: list[str] | None, expected: bool) -> None:
    shown, text = screen()
    shown.report(REPORT, details)
    assert "route53 done" in text.getvalue()
    assert "chef skipped" in text.getvalue()
    assert ("delete PTR" in text.getvalue()) is expected


def test_demo_packages_have_the_versions_of_the_tests() -> None:
    pins = re.compile(r"^([a-z0-9-]+)==(\S+)", re.MULTILINE)
    locks = [dict(pins.findall((ROOT / "requirements" / name).read_text())) for name in ("demo.txt", "dev.txt")]
    assert len(locks[0]) > 20
    assert locks[0].items() <= locks[1].items()


def test_stop_without_a_running_demo_succeeds(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(program, "PID_FILE", tmp_path / "demo.pid")
    assert program.stop() == 0


def test_another_process_with_the_demos_pid_is_not_stopped(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The number of a demo that ended may have been given to any process since."""
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as other:
        (tmp_path / "demo.pid").write_text(str(other.pid))
        monkeypatch.setattr(program, "PID_FILE", tmp_path / "demo.pid")
        assert program.stop() == 0
        assert other.poll() is None
        other.communicate(b"\n")
    assert capsys.readouterr().out == "No demo is running.\n"
