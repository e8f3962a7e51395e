"""What the build prints while it runs: short lines with references and sizes, never a secret's value."""

import sys


def say(line: str) -> None:
    """One line of progress, at once, so that `terraform apply` shows it while the build runs."""
    print(line, flush=True)


def warn(line: str) -> None:
    print(f"Warning: {line}", file=sys.stderr, flush=True)


def size(count: int) -> str:
    """A number of bytes for a reader."""
    return f"{count / 1_000_000:.1f} MB" if count >= 100_000 else f"{count / 1000:.1f} kB"
