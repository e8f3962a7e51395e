"""The package's own descriptions of AWS, laid out as in the package."""

from __future__ import annotations

import sys
from pathlib import Path

BUILD = Path(__file__).resolve().parent.parent / "lambda" / "build"


def lay_out(directory: Path) -> Path:
    """Writes them below the directory, and returns theirs."""
    if str(BUILD) not in sys.path:
        sys.path.append(str(BUILD))  # the build program's modules are a program's, not a package's
    import models  # noqa: PLC0415

    for name, content in models.files().items():
        (directory / name).parent.mkdir(parents=True, exist_ok=True)
        (directory / name).write_bytes(content)
    return directory / models.DIRECTORY
