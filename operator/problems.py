"""What goes wrong, told in sentences, with the command's exit status."""

from __future__ import annotations

FAILED = 1  # a step, the sweep, the function or the network failed
REFUSED = 2  # usage, credentials, rights, or no such deployment: nothing was asked


class Problem(Exception):
    """The command cannot go on; its text is a sentence for the operator."""

    def __init__(self, message: str, status: int = REFUSED) -> None:
        super().__init__(message)
        self.status = status
