"""Prints the build's progress: short lines with references and sizes, never a secret's value."""

import sys


def say(line: str) -> None:
    """Prints a line without buffering, so that `terraform apply` shows it while the build runs."""
    print(line, flush=True)


def warn(line: str) -> None:
    print(f"Warning: {line}", file=sys.stderr, flush=True)


def size(count: int) -> str:
    """Formats a number of bytes."""
    return f"{count / 1_000_000:.1f} MB" if count >= 100_000 else f"{count / 1000:.1f} kB"
