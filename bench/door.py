"""A door before a server: counts the requests that go through it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from urllib.parse import urlsplit

from testbed.fault_proxy import FaultProxy, Outcome, Request


class Door(FaultProxy):
    """A proxy that counts.

    Args:
        answer: gives the answer in the server's place, or None.
        passed: told each request that the server has answered.
    """

    def __init__(
        self,
        upstream: str,
        answer: Callable[[Request], Outcome] = lambda _: None,
        passed: Callable[[Request], None] = lambda _: None,
    ) -> None:
        super().__init__(upstream)
        self._behavior = answer
        self.watch = lambda request, done: passed(request) if done else None

    @property
    def requests(self) -> Counter[str]:
        """How many came, by method and the path's beginning."""
        return Counter(f"{request.method} {_kind(request.path)}" for request in self.seen)

    @property
    def total(self) -> int:
        return len(self.seen)


def _kind(path: str) -> str:
    """The path without the names of things: Chef's /nodes, Consul's /v1/session/destroy."""
    parts = urlsplit(path).path.split("/")
    return "/".join(parts[:4] if parts[1] == "v1" and parts[2] != "kv" else parts[:2])
