"""What goes over the wire, what never does, and how what comes back is sorted: servers on loopback that misbehave."""

from __future__ import annotations

import contextvars
import gzip
import socket
import time
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from typing import TYPE_CHECKING, Any

import pytest

from ec2_decommission.clients.http import Http, NoAnswerError, NoConnectionError, each, host_of, segment
from ec2_decommission.deadline import Deadline
from ec2_decommission.errors import ConfigurationError, OutOfTime, PermanentError, TransientError, about
from tests.fakes.http import Answer, Request, closed_port, serving, talking

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


def http(*, seconds: float = 30, timeout: float = 10, **options: Any) -> Http:
    deadline = Deadline.after(seconds)
    return Http("Thing host", lambda: deadline, timeout_seconds=timeout, **options)


def fine(_: Request) -> Answer:
    return 200, "{}"


class StaleError(TransientError):
    """What the guards of these tests raise."""


class Guard:
    """Raises at its ``at``-th call."""

    def __init__(self, at: int = 0) -> None:
        self.calls, self._at = 0, at

    def __call__(self) -> None:
        self.calls += 1
        if self.calls == self._at:
            raise StaleError("too old")


# URLs


@pytest.mark.parametrize(
    ("value", "quoted"),
    [
        ("web-1.example_~", "web-1.example_~"),
        ("a/b", "a%2Fb"),
        ("../x", "..%2Fx"),
        ("%2e%2e", "%252e%252e"),
        ("a b?c#d;e&f=g", "a%20b%3Fc%23d%3Be%26f%3Dg"),
        ("a\\b\n", "a%5Cb%0A"),
        ("ä", "%C3%A4"),
        ("...", "..."),
    ],
)
def test_a_value_is_one_segment(value: str, quoted: str) -> None:
    assert segment(value) == quoted


@pytest.mark.parametrize("value", ["", ".", "..", "\ud800"])
def test_what_cannot_be_one_segment(value: str) -> None:
    with pytest.raises(ValueError, match=r"cannot be one segment|surrogates not allowed"):
        segment(value)


@pytest.mark.parametrize(
    "target",
    [
        "/a%2Fb",
        "/a%252e%252e/b",
        "/%7Ea?q=%2F..%2F..&r=a+b",
        "/a//b/",
        "/caf%C3%A9?",
        "/...?x",
        "",
        "?only=query",
        "/a;b=c,d:e@f!$&'()*",
    ],
)
def test_a_url_goes_out_as_it_stands(target: str) -> None:
    with serving(fine) as (url, seen):
        http().send("PUT", url + target)
    path, _, query = target.partition("?")
    assert seen.lines == [f"PUT {path or '/'}{f'?{query}' if query else ''}"]


@pytest.mark.parametrize(
    "path",
    [
        *("/a/../b", "/a/./b", "/..", "/.", "/a\\..\\b"),
        *("/a/%2e%2e/b", "/a/.%2E/b", "/kv/a%2F..%2F..%2Fb", "/%2e", "/a%5C..%5Cb"),
    ],
)
def test_path_with_dot_segments_is_never_sent(path: str) -> None:
    with (
        serving(fine) as (url, seen),
        pytest.raises(PermanentError, match=r"Thing host: .* has a segment \. or \.\."),
    ):
        http().send("PUT", url + path)
    assert (seen.lines, seen.connections) == ([], 0)


@pytest.mark.parametrize(
    "url",
    [
        "",
        "x",
        "ftp://host/",
        "http:///x",
        "http://ho st/",
        "http://host/a\nb",
        "http://[::1/",
        "http://host/ä",
        "http://h:99999/",
    ],
)
def test_invalid_url(url: str) -> None:
    with pytest.raises(ConfigurationError, match=r"Thing host: .* cannot be sent: its URL is not valid"):
        http().send("GET", url)


@pytest.mark.parametrize("method", ["", "GET /x", "GET\nX: y", "GÄT"])
def test_invalid_method(method: str) -> None:
    with pytest.raises(ConfigurationError, match="is not an HTTP method"):
        http().send(method, "http://host/")


@pytest.mark.parametrize(
    ("name", "value"),
    [("X-Token", "secret\nX-Evil: 1"), ("X-Token", "sécret"), ("X-Token", "se\x00cret"), ("X Token", "secret")],
)
def test_a_header_that_cannot_be_sent_is_named_without_its_value(name: str, value: str) -> None:
    for make in (lambda: http(headers={name: value}), lambda: http().send("GET", "http://x/", headers={name: value})):
        with pytest.raises(ConfigurationError, match=f"the header '{name}' cannot be sent") as caught:
            make()
        assert "cret" not in str(caught.value)


def test_the_environment_changes_nothing(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / ".netrc").write_text("machine 127.0.0.1 login stranger password x\n")
    for name, value in {"HOME": str(tmp_path), "HTTP_PROXY": closed_port(), "http_proxy": closed_port()}.items():
        monkeypatch.setenv(name, value)
    with serving(lambda _: (200, "", {"Set-Cookie": "a=b; Path=/"})) as (url, seen):
        client = http(headers={"X-Token": " t-1\n"})
        for _ in range(2):
            client.send("POST", url.replace("//", "//me:pass@") + "/x", headers={"X-More": "m"}, body=b"\x00body")
    for request in seen.requests:
        assert request.body == b"\x00body"
        assert (request.headers["X-Token"], request.headers["X-More"]) == ("t-1", "m")
        assert request.headers["Authorization"] == "Basic bWU6cGFzcw=="  # of the URL
        assert "Cookie" not in request.headers


def test_host_is_shown_without_its_password() -> None:
    assert host_of("https://me:pass@host:8501/sub") == "host:8501"


# Answers


def test_every_status_is_an_answer_and_no_redirect_is_followed() -> None:
    statuses = [200, 201, 301, 302, 404, 409, 503]

    def answer(request: Request) -> Answer:
        return int(request.path[1:]), request.path, {"Location": "/elsewhere", "X-Y": "z"}

    with serving(answer) as (url, seen):
        client = http()
        answers = [client.send("GET", f"{url}/{status}") for status in statuses]
    assert [one.status for one in answers] == statuses
    assert [one.ok for one in answers] == [True, True, *[False] * 5]
    assert [one.is_transient for one in answers] == [*[False] * 6, True]
    assert (answers[0].text, answers[0].headers["x-y"], answers[0].repeated) == ("/200", "z", False)
    assert len(seen.lines) == len(statuses)


@pytest.mark.parametrize("body", ["", "{", "<html>", b"\xff\xfe", "[" * 100_000])
def test_a_body_that_is_no_json(body: str | bytes) -> None:
    with serving(lambda _: (200, body)) as (url, _), pytest.raises(ValueError, match=r"Expecting|decode|nested"):
        http().send("GET", url).json()


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        ("7", 7),
        (" 120 ", 120),
        ("0", 0),
        ("99999999", 86_400),
        (timedelta(seconds=60), 60),
        (timedelta(days=-1), 0),
        ("-5", None),
        ("soon", None),
        ("1e3", None),
        ("Tue, 01 Jan 2030 00:00:00", None),
        ("", None),
    ],
)
def test_retry_after(value: str | timedelta, seconds: float | None) -> None:
    text = value if isinstance(value, str) else format_datetime(datetime.now(UTC) + value, usegmt=True)
    with serving(lambda _: (429, "", {"Retry-After": text})) as (url, _):
        answer = http().send("GET", url)
    error = about("node web-1", answer.failure("slow down"))
    assert isinstance(error, TransientError)
    assert error.retry_after_seconds == (seconds if seconds is None else pytest.approx(seconds, abs=30))


@pytest.mark.parametrize("status", [200, 302])
@pytest.mark.parametrize("packed", [False, True])
def test_an_answer_has_a_longest_size(status: int, packed: bool) -> None:
    body = b"x" * 3_000_000
    headers = {"Location": "/", **({"Content-Encoding": "gzip"} if packed else {})}
    with (
        serving(lambda _: (status, gzip.compress(body) if packed else body, headers)) as (url, _),
        pytest.raises(TransientError, match="an answer to GET / of more than 2 MiB"),
    ):
        http(max_bytes=2 * 1024 * 1024).send("GET", f"{url}/")


def garbage(connection: socket.socket) -> None:
    connection.recv(65536)
    connection.sendall(b"\x00\x01\x02 hello\r\n\r\n")


def half(connection: socket.socket) -> None:
    connection.recv(65536)
    connection.sendall(b'HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n{"rows": [')


def wrongly_packed(connection: socket.socket) -> None:
    connection.recv(65536)
    connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: 4\r\n\r\nnope")


@pytest.mark.parametrize("talk", [garbage, half, wrongly_packed])
def test_what_is_not_http(talk: Callable[[socket.socket], None]) -> None:
    with talking(talk) as url, pytest.raises(TransientError, match="Thing host"):
        http().send("GET", url)


# Time


def silent(connection: socket.socket) -> None:
    connection.recv(65536)
    time.sleep(5)


def dripping(what: bytes) -> Callable[[socket.socket], None]:
    def talk(connection: socket.socket) -> None:
        connection.recv(65536)
        connection.sendall(what)
        for _ in range(50):
            connection.sendall(b"x")
            time.sleep(0.1)

    return talk


@pytest.mark.parametrize(
    "talk",
    [
        silent,
        dripping(b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n"),
        dripping(b"HTTP/1.1 200 OK\r\nX-Slow: "),
        dripping(b"HTTP/1.1 200 "),
    ],
    ids=["silent", "body", "headers", "status"],
)
@pytest.mark.parametrize(("seconds", "timeout"), [(30, 1), (1.5, 60)], ids=["time-out", "deadline"])
def test_a_server_that_is_slow_is_cut_off(
    talk: Callable[[socket.socket], None], seconds: float, timeout: float
) -> None:
    with talking(talk) as url:
        began = time.monotonic()
        with pytest.raises(NoAnswerError, match=r"Thing host (did not answer|was too slow)"):
            http(seconds=seconds, timeout=timeout).send("GET", url)
        assert 0.8 < time.monotonic() - began < 2.5


def test_a_port_that_takes_no_connection(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its queue is full: each address of a host has its share of the time, so that a dead one is not the end."""
    with socket.socket() as full, serving(fine) as (url, _):
        full.bind(("127.0.0.1", 0))
        full.listen(0)
        waiting = [socket.socket() for _ in range(2)]
        for one in waiting:
            one.setblocking(False)
            one.connect_ex(full.getsockname())
        began = time.monotonic()
        with pytest.raises(NoConnectionError, match="no connection for GET /x within 1 s"):
            http(timeout=1).send("GET", f"http://127.0.0.1:{full.getsockname()[1]}/x")
        assert time.monotonic() - began < 2
        ends = [full.getsockname(), ("127.0.0.1", int(url.rpartition(":")[2]))]
        of_host = [(socket.AF_INET, socket.SOCK_STREAM, 0, "", end) for end in ends]
        monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: of_host)
        assert http(timeout=2).send("GET", "http://thing.example/").ok
        for one in waiting:
            one.close()


def test_a_server_that_is_down_is_tried_once() -> None:
    with pytest.raises(NoConnectionError, match=r"Thing host: no connection for GET /x .*refused") as caught:
        http().send("GET", f"{closed_port()}/x", repeatable=True)
    assert caught.value.broken is False


def test_no_call_starts_without_enough_time() -> None:
    with serving(fine) as (url, seen), pytest.raises(OutOfTime, match="too few to begin GET /x on Thing host"):
        http(seconds=0.5).send("GET", f"{url}/x")
    assert seen.connections == 0


# Connections


def test_connections_are_used_again() -> None:
    with serving(fine) as (url, seen):
        client = http(connections=3)
        for _ in range(3):
            answers = each(map(str, range(20)), lambda n: client.send("GET", f"{url}/{n}").status, 3)
            assert list(answers.values()) == [200] * 20
        client.close()
    assert len(seen.lines) == 60
    assert seen.connections <= 3


@pytest.mark.parametrize(
    ("answers", "repeatable", "requests", "outcome"),
    [
        (["ok", None, "ok"], True, 3, "repeated"),
        ([None, "ok"], True, 2, "repeated"),
        (["ok", None, "ok"], False, 2, "NoConnectionError"),
        ([None, None, "ok"], True, 2, "NoConnectionError"),
        (["ok", "ok"], True, 2, "once"),
    ],
)
def test_broken_connection_is_retried_once_for_repeatable_requests(
    answers: list[str | None], repeatable: bool, requests: int, outcome: str
) -> None:
    left = list(answers)

    def answer(_: Request) -> Answer:
        said = left.pop(0)
        return (200, said) if said else None

    with serving(answer) as (url, seen):
        client = http()
        told = "once"
        if answers[0]:
            client.send("GET", f"{url}/first")
        try:
            told = "repeated" if client.send("GET", f"{url}/x", repeatable=repeatable).repeated else "once"
        except NoConnectionError as error:
            told = type(error).__name__
    assert (len(seen.lines), told) == (requests, outcome)


# Guards


@pytest.mark.parametrize(
    ("raises_at", "sent", "calls"),
    [(0, 1, 2), (1, 0, 1), (2, 0, 2)],
    ids=["never", "before connecting", "once connected"],
)
def test_a_guard_is_asked_before_connecting_and_right_before_the_first_byte(
    raises_at: int, sent: int, calls: int
) -> None:
    guard = Guard(raises_at)
    with serving(fine) as (url, seen):
        try:
            http().send("DELETE", url, guard=guard)
        except StaleError:
            assert raises_at
        else:
            assert not raises_at
    assert (len(seen.lines), guard.calls) == (sent, calls)


def test_a_guard_is_asked_again_before_a_repetition() -> None:
    answers: list[Answer] = [(200, ""), None, (200, "")]
    with serving(lambda _: answers.pop(0)) as (url, seen):
        client = http()
        client.send("GET", url)
        guard = Guard(2)
        with pytest.raises(StaleError):
            client.send("DELETE", url, repeatable=True, guard=guard)
        assert (guard.calls, [line.split()[0] for line in seen.lines]) == (2, ["GET", "DELETE"])
        assert client.send("GET", url).ok  # the connection was not left half used


# Several at once


def test_an_items_error_is_its_answer() -> None:
    def call(item: str) -> str:
        if item == "b":
            raise PermanentError("no")
        return item.upper()

    found = each(["c", "b", "a", "c"], call, 4)
    assert list(found) == ["c", "b", "a"]
    assert (found["c"], found["a"], type(found["b"])) == ("C", "A", PermanentError)
    assert each([], call, 4) == {}


@pytest.mark.parametrize("error", [NoConnectionError, NoAnswerError])
def test_unreachable_server_is_not_called_for_each_of_a_thousand_items(error: type[TransientError]) -> None:
    tried: list[str] = []

    def call(item: str) -> None:
        tried.append(item)
        raise error("lost")

    assert {type(e) for e in each(map(str, range(1000)), call, 2).values()} == {error}
    assert len(tried) <= 3 + 2


@pytest.mark.parametrize("items", [["a"], ["a", "b", "c"]])
def test_context_variables_reach_every_call(items: list[str]) -> None:
    variable = contextvars.ContextVar("test", default="unset")
    token = variable.set("set")
    try:
        assert each(items, lambda _: variable.get(), 3) == dict.fromkeys(items, "set")
    finally:
        variable.reset(token)
