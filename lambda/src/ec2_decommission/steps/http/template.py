"""Templates of requests: where placeholders are allowed, and how their values are written there.

The placeholders are those of name templates (``{instance_id}``, ``{tag:KEY}``, …), ``{secret:NAME}`` and, in
``remove``, ``{id}`` and ``{item:JMESPATH}``. A value is inserted once and never read as a template. Each place has
its own form: in a path one quoted URL segment, in a query a quoted value, in a body the inside of a JSON string, in a
header printable ASCII. Scheme, host and port are never part of a template.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, field, replace
from itertools import islice, product
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from ...errors import ConfigurationError
from ...templates import PLACEHOLDERS, Template
from .expression import Expression, ExpressionError, as_text, one_line

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from ...instance import Instance

_TOKEN = re.compile(r"\{([^{}]*)\}")
_JSON_STRING = re.compile(r'"(?:[^"\\]|\\.)*"', re.DOTALL)
_HEADER_VALUE = re.compile(r"[\x20-\x7e]*")
_MOST_VARIANTS = 20  # of a request, over all values of an instance's tags


class UnfitValueError(Exception):
    """A placeholder has no value for this instance or item, or the value is not allowed in its place."""


@dataclass(frozen=True)
class Values:
    """The values of the placeholders of one request.

    Attributes:
        item: the item to remove, as returned by the server; None in a find.
        item_id: its id as text; None in a find.
    """

    instance: Instance
    secrets: Mapping[str, str] = field(repr=False)
    item: Any = None
    item_id: str | None = None


@dataclass(frozen=True)
class Allowed:
    """The allowed placeholders: ``names`` are those of name templates, ``item`` those of an item."""

    secrets: tuple[str, ...] = ()
    names: bool = True
    item: bool = False

    def __str__(self) -> str:
        allowed = [f"{{{name}}}" for name in PLACEHOLDERS] if self.names else []
        allowed += ["{id}", "{item:JMESPATH}"] if self.item else []
        known = f" with one of {', '.join(self.secrets)}" if self.secrets else " (the step has no secrets)"
        return ", ".join([*allowed, "{secret:NAME}"]) + known


@dataclass(frozen=True)
class Placeholder:
    """One placeholder. ``source``: a name template, the name of a secret, an expression, or None for the id."""

    name: str
    source: Template | Expression | str | None

    def value(self, values: Values) -> str:
        """Returns its value.

        Raises:
            UnfitValueError: it has no value.
        """
        if isinstance(self.source, Template):
            value = self.source.render(values.instance)
        elif isinstance(self.source, Expression):
            value = self._of_item(self.source, values.item)
        elif self.source is None:
            value = values.item_id
        else:
            value = values.secrets[self.source]
        if not value:
            raise UnfitValueError(f"the value of {{{self.name}}} is not known")
        return value

    def _of_item(self, expression: Expression, item: Any) -> str:
        try:
            found = expression.search(item)
        except ExpressionError as error:
            raise UnfitValueError(f"{{{self.name}}}: {error}") from None
        value = as_text(found)
        if value is None:
            raise UnfitValueError(
                f"the value of {{{self.name}}} is neither text nor a whole number: it is {one_line(found) or 'empty'}"
            )
        return value


@dataclass(frozen=True)
class Text:
    """A parsed template. ``parts`` holds the text between the placeholders as it is sent."""

    text: str
    parts: tuple[str | Placeholder, ...]

    def render(self, values: Values, encode: Callable[[str], str]) -> str:
        """Renders the text with all values, each passed through ``encode``.

        Raises:
            UnfitValueError: a value is not known, or is not allowed here.
        """
        return "".join(part if isinstance(part, str) else _encoded(part, values, encode) for part in self.parts)

    @property
    def placeholders(self) -> tuple[Placeholder, ...]:
        return tuple(part for part in self.parts if isinstance(part, Placeholder))


def _encoded(placeholder: Placeholder, values: Values, encode: Callable[[str], str]) -> str:
    value = placeholder.value(values)
    try:
        return encode(value)
    except UnfitValueError as error:
        shown = "" if placeholder.name.startswith("secret:") else f": {one_line(value)}"
        raise UnfitValueError(f"the value of {{{placeholder.name}}} {error}{shown}") from None


# How a value is written


def in_path(value: str) -> str:
    """Quotes a value as one URL segment.

    >>> in_path("locks/a b")
    'locks%2Fa%20b'

    Raises:
        UnfitValueError: a server would resolve it, even if quoted.
    """
    if {".", ".."} & set(value.replace("\\", "/").split("/")):
        raise UnfitValueError("cannot be one segment of a URL")
    return in_query(value)


def in_query(value: str) -> str:
    """Quotes a value for a query."""
    try:
        return quote(value, safe="")
    except UnicodeEncodeError:
        raise UnfitValueError("is not text that can be encoded") from None


def in_body(value: str) -> str:
    """Escapes a value for the inside of a JSON string.

    >>> in_body('say "hi"')
    'say \\\\"hi\\\\"'
    """
    return json.dumps(value)[1:-1]


def in_header(value: str) -> str:
    """Checks a part of a header's value."""
    if not _HEADER_VALUE.fullmatch(value):
        raise UnfitValueError("is not printable ASCII, as a header requires")
    return value


def as_it_is(value: str) -> str:
    """Returns the value unchanged, for credentials, which are encoded as a whole."""
    return value


# Parsing


def parse(text: str, allowed: Allowed) -> Text:
    """Parses a template of a path, a query value or a header.

    Raises:
        ConfigurationError: a placeholder is unknown, or a brace has no counterpart.
    """
    return Text(text, tuple(_parts(text, allowed)))


def parse_body(text: str, allowed: Allowed) -> Text:
    """Parses a template of a body: JSON with placeholders in its strings.

    Write a literal brace as ``\\u007b`` or ``\\u007d``.

    Raises:
        ConfigurationError: it is not JSON, a placeholder is unknown, or a brace has no counterpart.
    """
    try:
        json.loads(text)
        text.encode()
    except (ValueError, RecursionError) as error:
        raise ConfigurationError(f"it is not JSON: {str(error)[:100]}") from None
    parts: list[str | Placeholder] = []
    end = 0
    for string in _JSON_STRING.finditer(text):
        parts.append(text[end : string.start()])
        # Quotes within an expression are escaped, as in the whole string.
        parts += _parts(string[0], allowed, lambda raw: str(json.loads(f'"{raw}"')))
        end = string.end()
    return Text(text, (*parts, text[end:]))


def _parts(text: str, allowed: Allowed, plain: Callable[[str], str] = lambda raw: raw) -> Iterable[str | Placeholder]:
    parts: list[str | Placeholder] = []
    end = 0
    for token in _TOKEN.finditer(text):
        parts += [text[end : token.start()], _placeholder(plain(token[1]), allowed)]
        end = token.end()
    parts.append(text[end:])
    if any(set("{}") & set(part) for part in parts if isinstance(part, str)):
        raise ConfigurationError("unmatched brace")
    return parts


def _placeholder(name: str, allowed: Allowed) -> Placeholder:
    kind, _, rest = name.partition(":")
    if kind == "secret" and rest in allowed.secrets:
        return Placeholder(name, rest)
    if allowed.item and name == "id":
        return Placeholder(name, None)
    if allowed.item and kind == "item" and rest:
        return Placeholder(name, Expression(rest))
    if allowed.names:
        try:
            return Placeholder(name, Template(f"{{{name}}}"))
        except ConfigurationError:
            pass
    raise ConfigurationError(f"unknown placeholder {{{name}}}; allowed here are {allowed}")


# Complete requests


@dataclass(frozen=True)
class Request:
    """One request as it is sent. It may contain secrets, so its ``repr`` shows only the method."""

    method: str
    url: str = field(repr=False)
    headers: tuple[tuple[str, str], ...] = field(default=(), repr=False)
    body: str | None = field(default=None, repr=False)


class _AnySecret(dict[str, str]):
    def __missing__(self, _: str) -> str:
        return "x"


@dataclass(frozen=True)
class RequestTemplate:
    """A request with placeholders.

    Attributes:
        url: scheme, host, port and the first part of the path; not a template.
        path: appended to ``url`` unchanged. It cannot change host and port: if ``url`` has no path, it begins with
            ``/`` or ``?`` (``settings`` checks this).
    """

    method: str
    url: str
    path: Text
    query: Mapping[str, Text] = field(default_factory=dict)
    headers: Mapping[str, Text] = field(default_factory=dict)
    body: Text | None = None

    def render(self, values: Values) -> Request:
        """Renders the request for these values.

        Raises:
            UnfitValueError: a value is not known, or is not allowed in its place.
        """
        url = self.url + self.path.render(values, in_path)
        if self.query:
            pairs = (f"{in_query(name)}={_query_value(text, values)}" for name, text in self.query.items())
            url += ("&" if "?" in url else "?") + "&".join(pairs)
        headers = tuple((name, text.render(values, in_header)) for name, text in self.headers.items())
        return Request(self.method, url, headers, self.body.render(values, in_body) if self.body else None)

    def problem(self, instance: Instance, item: Any = None, item_id: str | None = None) -> str | None:
        """Returns why the request cannot be rendered for an instance or an item; None if it can."""
        try:
            self.render(Values(instance, _AnySecret(), item, item_id))
        except UnfitValueError as error:
            return str(error)
        return None

    def missing(self, instance: Instance) -> tuple[str, ...]:
        """Returns the instance's placeholders whose values are not known, with their braces."""
        templates = (p.source for p in self.placeholders if isinstance(p.source, Template))
        return tuple(template.text for template in templates if not template.render(instance))

    @property
    def tags(self) -> frozenset[str]:
        """The keys of the tags that it uses."""
        names = (placeholder.name for placeholder in self.placeholders)
        return frozenset(name.removeprefix("tag:") for name in names if name.startswith("tag:"))

    @property
    def placeholders(self) -> tuple[Placeholder, ...]:
        texts = [self.path, *self.query.values(), *self.headers.values(), *([self.body] if self.body else [])]
        return tuple(placeholder for text in texts for placeholder in text.placeholders)


def _query_value(text: Text, values: Values) -> str:
    """Quotes the whole value, including the text around the placeholders."""
    return "".join(
        in_query(part) if isinstance(part, str) else _encoded(part, values, in_query) for part in text.parts
    )


def variants(instance: Instance, keys: Iterable[str]) -> tuple[Instance, ...]:
    """Returns the instance with each combination of the values that these tags ever had, latest first; at most 20.

    Example:
        >>> from ec2_decommission.instance import Instance
        >>> web = Instance("i-1", tags={"Name": "b"}, past_tags={"Name": ("a",)})
        >>> [variant.tags["Name"] for variant in variants(web, ["Name"])]
        ['b', 'a']
    """
    known = {key: list(filter(None, instance.tag_values(key))) for key in sorted(keys)}
    known = {key: values for key, values in known.items() if values}
    return tuple(
        replace(instance, tags={**instance.tags, **dict(zip(known, values, strict=True))})
        for values in islice(product(*known.values()), _MOST_VARIANTS)
    )
