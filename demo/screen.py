"""The demo's output: acts, progress lines with elapsed seconds, and reports. Fits 80 columns."""

from __future__ import annotations

import re
import textwrap
import time
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.terminal_theme import MONOKAI
from rich.text import Text

MAX_WIDTH = 100
INDENT = " " * 10  # the width of the elapsed seconds
_COLORS = {"done": "green", "clean": "green", "skipped": "yellow", "failed": "red"}


class Screen:
    """Prints to a rich console. Safe to use from several threads."""

    def __init__(self, console: Console) -> None:
        self.console = console
        self._began = time.monotonic()

    @property
    def seconds(self) -> float:
        """Seconds since the start."""
        return time.monotonic() - self._began

    @property
    def width(self) -> int:
        """Columns."""
        return min(self.console.width, MAX_WIDTH)

    def act(self, title: str) -> None:
        """Prints the title of an act."""
        self.console.print()
        for line in textwrap.wrap(title, self.width):
            self.console.print(Text(line, "bold"))

    def step(self, text: str, style: str = "") -> None:
        """Prints a line of progress."""
        self._paragraph(text, INDENT, f"{self.seconds:6.1f} s  ", style)

    def report(self, report: Mapping[str, Any], details: Collection[str] | None = None) -> None:
        """Prints the function's report: the status of each step, with its actions, proofs and reason.

        Args:
            details: the steps to show in detail; None shows all.
        """
        for step in report["steps"]:
            line = Text.assemble(f"{INDENT}{step['step']} ", (step["status"], _COLORS[step["status"]]))
            self.console.print(line)
            if details is not None and step["step"] not in details:
                continue
            for action in step["actions"]:
                self._paragraph(f"{action['action']} {action['target']}", f"{INDENT}      ", f"{INDENT}  ")
                self._paragraph(action["proof"], f"{INDENT}    ", style="dim")
            if step["reason"]:
                self._paragraph(step["reason"], f"{INDENT}  ", style=_COLORS[step["status"]])

    def output(self, text: str) -> None:
        """Prints a command's output unchanged."""
        self.console.print(Text(text.rstrip()), soft_wrap=True)

    def command(self, text: str) -> None:
        """Prints a command line to copy."""
        self.console.print(Text(text, "cyan"), soft_wrap=True)

    def picture(self, path: Path, title: str) -> None:
        """Writes a recording console's output as a self-contained SVG."""
        svg = self.console.export_svg(title=title, theme=MONOKAI, clear=False, unique_id="terminal")
        path.write_text(re.sub(r"@font-face \{.*?\}\s*", "", svg, flags=re.DOTALL) + "\n")

    def _paragraph(self, text: str, indent: str, first: str | None = None, style: str = "") -> None:
        lines = textwrap.wrap(
            text,
            self.width,
            initial_indent=indent if first is None else first,
            subsequent_indent=indent,
            break_long_words=False,
            break_on_hyphens=False,
        )
        for line in lines:
            self.console.print(Text(line, style), soft_wrap=True)
