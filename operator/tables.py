"""Plain tables that fit the terminal."""

from __future__ import annotations

import shutil
import textwrap
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

_GAP = "  "
_LEAST = 12  # characters that a column keeps


def table(heads: Sequence[str], rows: Sequence[Sequence[object]], indent: str = "  ") -> str:
    """The rows under their heads; long cells are wrapped, so that nothing is cut off."""
    cells = [[str(cell) for cell in row] for row in rows]
    widths = [max(len(head), *(len(row[i]) for row in cells), 0) for i, head in enumerate(heads)]
    room = max(shutil.get_terminal_size((118, 24)).columns, 80) - len(indent) - len(_GAP) * (len(heads) - 1)
    while sum(widths) > room and max(widths) > _LEAST:
        widest = widths.index(max(widths))
        others = max([width for i, width in enumerate(widths) if i != widest], default=0)
        # Down to what the room leaves, or to the next widest, whichever comes first.
        widths[widest] = max(_LEAST, min(widths[widest] - 1, max(others, room - (sum(widths) - widths[widest]))))
    lines = [_line(heads, widths, indent)]
    for row in cells:
        wrapped = [
            textwrap.wrap(cell, width, break_on_hyphens=False) or [""]
            for cell, width in zip(row, widths, strict=True)
        ]
        for number in range(max(map(len, wrapped))):
            lines.append(_line([part[number] if number < len(part) else "" for part in wrapped], widths, indent))
    return "\n".join(lines)


def pairs(rows: Sequence[tuple[str, object]], indent: str = "  ") -> str:
    """Names and values, one a line; empty values are left out."""
    told = [(name, str(value)) for name, value in rows if value not in (None, "", [], {})]
    width = max((len(name) for name, _ in told), default=0)
    return "\n".join(f"{indent}{name.ljust(width)}  {value}" for name, value in told)


def _line(cells: Sequence[str], widths: Sequence[int], indent: str) -> str:
    return (indent + _GAP.join(cell.ljust(width) for cell, width in zip(cells, widths, strict=True))).rstrip()
