"""CloudWatch Logs Insights: the commands filter, fields, stats, sort and limit. moto ignores most of a query.

https://docs.aws.amazon.com/AmazonCloudWatch/latest/logs/CWL_QuerySyntax.html
Everything else in a query is an error, as a malformed query is in AWS.
"""

from __future__ import annotations

import json
import operator
import re
from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, datetime
from typing import Any

from moto.logs.exceptions import LogsClientError

Row = dict[str, Any]
Value = Callable[[Row], Any]

_TOKEN = re.compile(
    r"""\s*(?:(?P<text>"(?:\\.|[^"\\])*")|(?P<regex>(?<=like\ )/(?:\\.|[^/\\])*/)|(?P<number>\d+(?:\.\d+)?)"""
    r"""|(?P<name>@?[A-Za-z_][\w.]*)|(?P<sign>!=|<=|>=|[-=<>(),*/+|]))""",
    re.VERBOSE,
)
# Operators from the loosest to the tightest.
_OPERATORS: list[dict[str, Callable[[Any, Any], Any]]] = [
    {"or": lambda a, b: bool(a or b)},
    {"and": lambda a, b: bool(a and b)},
    dict(zip(("=", "!=", "<", ">"), (operator.eq, operator.ne, operator.lt, operator.gt), strict=True))
    | {"<=": operator.le, ">=": operator.ge, "like": lambda text, wanted: bool(re.search(wanted, str(text)))},
    {"+": operator.add, "-": operator.sub},
    {"*": operator.mul, "/": operator.truediv},
]
_LOOSE = ("or", "and")  # work with missing fields
_DEFAULT_LIMIT = 10_000


# Of the values in the rows, which are in the order of their times, the latest first.
_AGGREGATES: dict[str, Callable[[list[Any]], Any]] = {
    "count": len,
    "latest": lambda values: next(iter(values), None),
    "max": lambda values: max(values, default=None),
}


def execute_query(log_groups: list[Any], query: str, start_time: int, end_time: int) -> list[Row]:
    """Replaces moto's function."""
    rows = [
        _row(group, stream, event)
        for group in log_groups
        for stream in group.streams.values()
        for event in stream.events
        if start_time * 1000 <= event.timestamp <= end_time * 1000 + 999
    ]
    return _Query(query).run(rows)


def _row(group: Any, stream: Any, event: Any) -> Row:
    """The event with the fields that Insights discovers in the logs of Lambda."""
    at = datetime.fromtimestamp(event.timestamp / 1000, UTC).isoformat(" ", "milliseconds").removesuffix("+00:00")
    row: Row = {"@timestamp": at, "@message": event.message, "@logStream": stream.log_stream_name, "@log": group.name}
    if report := re.match(r"(START|END|REPORT) RequestId: (\S+)", event.message):
        row |= {"@type": report[1], "@requestId": report[2]}
        for name, number, unit in re.findall(r"\t([A-Z][\w ]+): ([\d.]+) (ms|MB)", event.message):
            # @maxMemoryUsed and @memorySize are in bytes.
            key = name[0].lower() + name[1:].replace(" ", "")
            row[f"@{key}"] = float(number) * (1_000_000 if unit == "MB" else 1)
    elif (start := event.message.find("{")) >= 0:
        with suppress(ValueError):
            _flatten(json.JSONDecoder().raw_decode(event.message[start:])[0], "", row)
    return row | {"@ptr": str(event.event_id)}


def _flatten(value: Any, name: str, row: Row) -> None:
    """Names nested values as Insights does: `report.instance_id`, `error_kinds.0`."""
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else None
    if inner is None:
        row[name] = value if isinstance(value, str | int | float) else None
        return
    for key, part in inner:
        _flatten(part, f"{name}.{key}" if name else str(key), row)


class _Query:
    """A parsed query. Raises AWS's error for a malformed one."""

    def __init__(self, text: str) -> None:
        self._tokens: list[tuple[str, str]] = []
        at = 0
        while text[at:].strip():
            token = _TOKEN.match(text, at)
            if token is None:
                raise self._malformed(text[at:])
            self._tokens.append((str(token.lastgroup), token[str(token.lastgroup)]))
            at = token.end()

    def run(self, rows: list[Row]) -> list[Row]:
        """The result's rows."""
        rows = sorted(rows, key=operator.itemgetter("@timestamp"), reverse=True)
        shown, limit = ["@timestamp", "@message", "@ptr"], _DEFAULT_LIMIT
        while self._tokens:
            command = self._next()
            if command == "filter":
                condition = self._value()
                rows = [row for row in rows if condition(row)]
            elif command == "fields":
                shown = [*self._names(), "@ptr"]
            elif command == "sort":
                [name] = self._names()
                down = self._peek() in ("asc", "desc") and self._next() == "desc"
                there = sorted((row for row in rows if row.get(name) is not None), key=operator.itemgetter(name))
                rows = there[:: -1 if down else 1] + [row for row in rows if row.get(name) is None]
            elif command == "limit":
                limit = int(self._next())
            elif command == "stats":
                rows, shown = self._stats(rows)
            else:
                raise self._malformed(command)
            if self._tokens and self._next() != "|":
                raise self._malformed("a command does not end")
        return [{name: row[name] for name in shown if row.get(name) is not None} for row in rows[:limit]]

    def _stats(self, rows: list[Row]) -> tuple[list[Row], list[str]]:
        wanted: dict[str, tuple[Any, Value]] = {}
        while not wanted or self._take(","):
            name = self._next()
            if name not in _AGGREGATES or not self._take("("):
                raise self._malformed(name)
            value: Value = (lambda _: 1) if self._take("*") else self._value()
            self._expect(")")
            self._expect("as")
            wanted[self._next()] = (_AGGREGATES[name], value)
        by = self._names() if self._take("by") else []
        groups: dict[tuple[Any, ...], list[Row]] = {}
        results: list[Row] = []
        for row in rows:
            groups.setdefault(tuple(row.get(name) for name in by), []).append(row)
        for key, group in groups.items():
            counted = {
                name: count([found for row in group if (found := value(row)) is not None])
                for name, (count, value) in wanted.items()
            }
            results.append(dict(zip(by, key, strict=True)) | counted)
        return results, [*by, *wanted]

    def _value(self, level: int = 0) -> Value:
        if level == len(_OPERATORS):
            return self._atom()
        value = self._value(level + 1)
        while self._peek() in _OPERATORS[level]:
            value = _applied(self._next(), level, value, self._value(level + 1))
        return value

    def _atom(self) -> Value:
        kind, token = self._tokens.pop(0) if self._tokens else ("", "")
        if token == "(":
            value = self._value()
            self._expect(")")
            return value
        if token == "ispresent" and self._take("("):
            [name] = self._names()
            self._expect(")")
            return lambda row: row.get(name) is not None
        if kind == "name":
            return lambda row: row.get(token)
        if kind == "":
            raise self._malformed("it ends too early")
        constant = float(token) if kind == "number" else token[1:-1] if kind == "regex" else json.loads(token)
        return lambda _: constant

    def _names(self) -> list[str]:
        names = [self._next()]
        while self._take(","):
            names.append(self._next())
        return names

    def _peek(self) -> str:
        return self._tokens[0][1] if self._tokens else ""

    def _next(self) -> str:
        return self._tokens.pop(0)[1] if self._tokens else ""

    def _take(self, token: str) -> bool:
        return self._peek() == token and bool(self._next())

    def _expect(self, token: str) -> None:
        if not self._take(token):
            raise self._malformed(f"expected {token}, found {self._peek() or 'the end'}")

    @staticmethod
    def _malformed(what: str) -> LogsClientError:
        return LogsClientError("MalformedQueryException", f"unexpected symbol found {what}")


def _applied(name: str, level: int, left: Value, right: Value) -> Value:
    apply = _OPERATORS[level][name]

    def value(row: Row) -> Any:
        one, other = left(row), right(row)
        return None if name not in _LOOSE and None in (one, other) else apply(one, other)

    return value
