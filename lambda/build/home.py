"""The user's home directory, which a container may not have: no HOME, and a user id without a passwd entry."""

import os
from collections.abc import Mapping
from pathlib import Path


def home(environ: Mapping[str, str]) -> Path | None:
    """The home directory, or None where the user has none (`Path.home` raises then)."""
    # Only os.path.expanduser falls back to the passwd database without raising.
    text = environ.get("HOME") or os.path.expanduser("~")  # noqa: PTH111
    return Path(text) if Path(text).is_absolute() else None


def expanded(text: str) -> Path:
    """The path with a leading ~ replaced; without a home directory it stays as it is.

    >>> expanded("steps/tidy")
    PosixPath('steps/tidy')
    """
    return Path(os.path.expanduser(text))  # noqa: PTH111  # Path.expanduser raises without a home directory
