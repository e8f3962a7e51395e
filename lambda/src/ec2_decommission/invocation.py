"""The AWS request id of the current invocation. Every report, log line, record and audit object contains it."""

from __future__ import annotations

from contextlib import contextmanager
from contextvars import ContextVar
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

_current: ContextVar[str] = ContextVar("request_id", default="")


def request_id() -> str:
    """Returns the request id; empty outside an invocation."""
    return _current.get()


@contextmanager
def invoked_as(request_id: str) -> Iterator[None]:
    """Makes ``request_id`` the current one for the block.

    Example:
        >>> with invoked_as("11111111-2222-3333-4444-555555555555"):
        ...     request_id()
        '11111111-2222-3333-4444-555555555555'
    """
    token = _current.set(request_id)
    try:
        yield
    finally:
        _current.reset(token)
