"""Plain tables that fit the terminal."""

from __future__ import annotations

import shutil
import textwrap
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

_GAP = "  "


def table(
    heads: Sequence[str], rows: Sequence[Sequence[object]], indent: str = "  ", below: Sequence[str] | None = None
) -> str:
    """The rows under their heads; long cells are wrapped between words, so that nothing is cut off.

    Args:
        below: a text for each row, which stands under it over the whole width.
    """
    cells = [[str(cell) for cell in row] for row in rows]
    widths = [max(len(head), *(len(row[i]) for row in cells), 0) for i, head in enumerate(heads)]
    # A word is never broken: ids are there to be copied.
    least = [
        max([len(head), *(len(word) for row in cells for word in row[i].split())]) for i, head in enumerate(heads)
    ]
    screen = max(shutil.get_terminal_size((118, 24)).columns, 80)
    room = screen - len(indent) - len(_GAP) * (len(heads) - 1)
    while sum(widths) > room and (narrower := [i for i, width in enumerate(widths) if width > least[i]]):
        widest = max(narrower, key=lambda i: widths[i])
        widths[widest] -= 1
    lines = [_line(heads, widths, indent)]
    for number, row in enumerate(cells):
        wrapped = [_wrapped(cell, width) for cell, width in zip(row, widths, strict=True)]
        for height in range(max(map(len, wrapped))):
            lines.append(_line([part[height] if height < len(part) else "" for part in wrapped], widths, indent))
        if below:
            lines += [f"{indent}    {line}" for line in _wrapped(below[number], screen - len(indent) - 4)]
    return "\n".join(lines)


def _wrapped(text: str, width: int) -> list[str]:
    return textwrap.wrap(text, width, break_on_hyphens=False, break_long_words=False) or [""]


def pairs(rows: Sequence[tuple[str, object]], indent: str = "  ") -> str:
    """Names and values, one a line; empty values are left out."""
    told = [(name, str(value)) for name, value in rows if value not in (None, "", [], {})]
    width = max((len(name) for name, _ in told), default=0)
    return "\n".join(f"{indent}{name.ljust(width)}  {value}" for name, value in told)


def _line(cells: Sequence[str], widths: Sequence[int], indent: str) -> str:
    return (indent + _GAP.join(cell.ljust(width) for cell, width in zip(cells, widths, strict=True))).rstrip()
