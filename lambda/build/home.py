"""Finds the user's home directory. A container may have none: no HOME, and no passwd entry for the user id."""

import os
from collections.abc import Mapping
from pathlib import Path


def home(environ: Mapping[str, str]) -> Path | None:
    """The home directory, or None if the user has none (`Path.home` would raise)."""
    # Only os.path.expanduser falls back to the passwd database without raising.
    text = environ.get("HOME") or os.path.expanduser("~")  # noqa: PTH111
    return Path(text) if Path(text).is_absolute() else None


def expanded(text: str) -> Path:
    """Replaces a leading ~ with the home directory, if there is one.

    >>> expanded("steps/tidy")
    PosixPath('steps/tidy')
    """
    return Path(os.path.expanduser(text))  # noqa: PTH111  # Path.expanduser raises without a home directory
