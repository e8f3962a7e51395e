"""Evaluates JMESPath expressions on JSON values, and defines what counts as true, as text and as an id."""

from __future__ import annotations

import json
from typing import Any

import jmespath

from ...errors import ConfigurationError

_LONGEST = 10_000  # the most characters of a value used in a message


class ExpressionError(Exception):
    """An expression cannot be evaluated on this value, for example ``length(@)`` on a number."""


class Expression:
    """A JMESPath expression. https://jmespath.org/specification.html

    Raises:
        ConfigurationError: the text is not JMESPath.

    Example:
        >>> Expression("tags[?tag=='id'].value | [0]").search({"tags": [{"tag": "id", "value": "i-1"}]})
        'i-1'
    """

    def __init__(self, text: str) -> None:
        self.text = text
        try:
            self._compiled = jmespath.compile(text)  # type: ignore[no-untyped-call]
        except (ValueError, RecursionError) as error:
            reason = str(error).partition("\n")[0][:200]
            raise ConfigurationError(f"{text[:80]!r} is not a JMESPath expression: {reason}") from None

    def __repr__(self) -> str:
        return f"Expression({self.text!r})"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Expression) and other.text == self.text

    def __hash__(self) -> int:
        return hash(self.text)

    def search(self, value: Any) -> Any:
        """Returns the expression's value; null for a missing value.

        Raises:
            ExpressionError: a function got a value of the wrong type.
        """
        try:
            return self._compiled.search(value)
        except Exception as error:
            # Catches everything: the library raises its own errors, TypeError and RecursionError.
            raise ExpressionError(
                f"{self.text} cannot be evaluated: {one_line(str(error)) or type(error).__name__}"
            ) from None


def is_true(value: Any) -> bool:
    """Returns whether a value is true in JMESPath: not false, null, "", [] or {}. Zero is true.

    https://jmespath.org/specification.html#or-expressions
    """
    return not (value is None or value is False or value in ("", [], {}))


def as_text(value: Any) -> str | None:
    """Returns nonempty text, or a whole number, as text; None for anything else.

    A number with a fraction or an exponent could be sent in another form than the one received.
    """
    if isinstance(value, str):
        return value or None
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value)
    return None


def one_line(value: Any) -> str:
    """Formats a JSON value for a message. It may contain secrets: mask them before shortening the text."""
    text = value if isinstance(value, str) else json.dumps(value)
    return " ".join("".join(c if c.isprintable() else " " for c in text[:_LONGEST]).split())


def cut(text: str, most: int) -> str:
    """Shortens the text to at most ``most`` characters."""
    return text if len(text) <= most else f"{text[: most - 1]}…"
