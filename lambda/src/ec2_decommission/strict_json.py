"""Reads a JSON object key by key and collects all errors, instead of stopping at the first one."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

if TYPE_CHECKING:
    from collections.abc import Callable


class Section:
    """One JSON object. Each call of ``wrong`` adds a sentence to ``errors``; ``end`` refuses unread keys.

    Args:
        path: where the object is in the document, for messages; empty for the document itself.
        value: the decoded JSON.
        errors: collects the sentences.

    Example:
        >>> errors = []
        >>> Section("queue", {"url": 5}, errors).text("url")
        ''
        >>> errors
        ['queue.url: expected a non-empty string, found 5']
    """

    def __init__(self, path: str, value: object, errors: list[str]) -> None:
        self.path = path
        self.errors = errors
        self.value: dict[str, Any] = value if isinstance(value, dict) else {}
        self.seen: set[str] = set()
        if not isinstance(value, dict):
            self.wrong("", "a JSON object", value)

    def wrong(self, key: str, allowed: str, found: object) -> None:
        where = ".".join(part for part in (self.path, key) if part) or "the document"
        self.errors.append(f"{where}: expected {allowed}, found {json.dumps(found, default=str)[:80]}")

    def get(self, key: str) -> Any:
        self.seen.add(key)
        return self.value.get(key)

    def text(self, key: str) -> str:
        value = self.get(key)
        if not isinstance(value, str) or not value:
            self.wrong(key, "a non-empty string", value)
            return ""
        return value

    def optional_text(self, key: str) -> str | None:
        """Reads a string; None if the key is absent or null."""
        value = self.get(key)
        if value is not None and not isinstance(value, str):
            self.wrong(key, "a string or null", value)
            return None
        return value or None

    def flag(self, key: str, *, default: bool) -> bool:
        value = self.get(key)
        if value is None:
            return default
        if not isinstance(value, bool):
            self.wrong(key, "true or false", value)
            return default
        return value

    def number(self, key: str, *, default: float, least: float, most: float) -> float:
        value = self.get(key)
        if value is None:
            return default
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not least <= value <= most:
            self.wrong(key, f"a number from {least:g} to {most:g}", value)
            return default
        return value

    def texts(self, key: str, *, at_least: int = 0) -> tuple[str, ...]:
        value = self.get(key)
        value = [] if value is None else value
        if not isinstance(value, list) or not all(isinstance(v, str) and v for v in value):
            self.wrong(key, "a list of non-empty strings", value)
            return ()
        if len(value) < at_least:
            self.wrong(key, f"at least {at_least} entry", value)
        return tuple(value)

    def text_map(self, key: str) -> dict[str, str]:
        value = self.get(key)
        value = {} if value is None else value
        if not isinstance(value, dict) or not all(isinstance(v, str) for v in value.values()):
            self.wrong(key, "an object whose values are strings", value)
            return {}
        return value

    def tag_map(self, key: str) -> dict[str, tuple[str, ...]]:
        value = self.get(key)
        value = {} if value is None else value
        if not isinstance(value, dict) or not all(
            isinstance(v, list) and all(isinstance(t, str) for t in v) for v in value.values()
        ):
            self.wrong(key, "an object whose values are lists of strings", value)
            return {}
        return {name: tuple(values) for name, values in value.items()}

    def url(self, key: str) -> str:
        value = self.text(key)
        if not value:
            return value
        try:
            parts = urlsplit(value)
            fine = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
        except ValueError:
            fine = False
        if not fine:
            self.wrong(key, "a URL that begins with http:// or https:// and names a host", value)
        return value.rstrip("/")

    def section(self, key: str, read: Callable[[Section], Any]) -> Any:
        value = self.get(key)
        if value is None:
            return None
        inner = Section(".".join(filter(None, (self.path, key))), value, self.errors)
        result = read(inner)
        inner.end()
        return result

    def sections(self, key: str, read: Callable[[Section], Any], *, at_least: int = 0) -> tuple[Any, ...]:
        """Reads a list of objects, each with ``read``."""
        value = self.get(key)
        value = [] if value is None else value
        if not isinstance(value, list):
            self.wrong(key, "a list of objects", value)
            return ()
        if len(value) < at_least:
            self.wrong(key, f"at least {at_least} entry", value)
        found = []
        for number, item in enumerate(value):
            inner = Section(f"{'.'.join(filter(None, (self.path, key)))}[{number}]", item, self.errors)
            found.append(read(inner))
            inner.end()
        return tuple(found)

    def end(self) -> None:
        unknown = sorted(set(self.value) - self.seen)
        if unknown:
            known = ", ".join(sorted(self.seen))
            self.errors.append(f"{self.path or 'the document'}: unknown key {', '.join(unknown)}; allowed: {known}")
