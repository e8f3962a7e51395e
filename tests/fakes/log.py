"""A log in a list."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Line:
    """One line of the log."""

    level: str
    message: str
    extra: dict[str, Any] = field(default_factory=dict)


class FakeLog:
    """The part of Powertools' Logger that the package uses."""

    def __init__(self) -> None:
        self.lines: list[Line] = []

    def info(self, msg: object, **kwargs: Any) -> None:
        self._note("info", msg, kwargs)

    def warning(self, msg: object, **kwargs: Any) -> None:
        self._note("warning", msg, kwargs)

    def error(self, msg: object, **kwargs: Any) -> None:
        self._note("error", msg, kwargs)

    def exception(self, msg: object, **kwargs: Any) -> None:
        self._note("exception", msg, kwargs)

    def _note(self, level: str, msg: object, kwargs: dict[str, Any]) -> None:
        self.lines.append(Line(level, str(msg), dict(kwargs.get("extra") or {})))

    def messages(self, level: str | None = None) -> list[str]:
        """The logged messages, in order."""
        return [line.message for line in self.lines if level in (None, line.level)]
