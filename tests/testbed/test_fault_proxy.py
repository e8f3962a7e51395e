"""The proxy passes requests on as they came, and fails on demand."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
import requests

from testbed.aws import Answer, Drop, Hang
from testbed.fault_proxy import FaultProxy, Request


class Upstream(ThreadingHTTPServer):
    """Tells what it was asked, and remembers it."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.asked: list[tuple[str, str, str]] = []
        self.hosts: list[str] = []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/organizations/acme"


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Upstream

    def do_GET(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        self.server.asked.append((self.command, self.path, body.decode()))
        self.server.hosts.append(self.headers["Host"])
        self.send_response(201)
        self.send_header("X-Told", str(self.headers.get("X-Ops-Sign")))
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    do_POST = do_PUT = do_DELETE = do_GET  # noqa: N815  # the base class's names

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002
        pass


@pytest.fixture
def upstream() -> Iterator[Upstream]:
    with Upstream() as server:
        threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
        yield server
        server.shutdown()


@pytest.fixture
def proxy(upstream: Upstream) -> Iterator[FaultProxy]:
    with FaultProxy(upstream.url) as started:
        yield started


@pytest.fixture
def session() -> Iterator[requests.Session]:
    with requests.Session() as opened:
        opened.trust_env = False
        yield opened


def test_a_request_goes_on_as_it_came(proxy: FaultProxy, upstream: Upstream, session: requests.Session) -> None:
    assert proxy.url.endswith("/organizations/acme")
    headers = {"X-Ops-Sign": "version=1.3"}
    answer = session.post(f"{proxy.url}/search/node?q=a%3Ab&rows=1", data="body", headers=headers, timeout=5)
    assert (answer.status_code, answer.text, answer.headers["X-Told"]) == (201, "body", "version=1.3")
    assert upstream.asked == [("POST", "/organizations/acme/search/node?q=a%3Ab&rows=1", "body")]
    # The host that the client means, which its signature may cover.
    assert upstream.hosts == [proxy.url.split("/")[2]]
    assert session.delete(f"{proxy.url}/nodes/x", timeout=5).status_code == 201
    assert [request.operation for request in proxy.seen] == [
        "POST /organizations/acme/search/node",
        "DELETE /organizations/acme/nodes/x",
    ]


def test_refusing_closes_the_port_and_the_connections(proxy: FaultProxy, session: requests.Session) -> None:
    session.get(proxy.url, timeout=5)  # its connection stays open
    proxy.refuses()
    with pytest.raises(requests.ConnectionError, match="refused"):
        session.get(proxy.url, timeout=5)
    proxy.passes()
    assert session.get(proxy.url, timeout=5).status_code == 201


def test_a_hanging_answer_does_not_come(proxy: FaultProxy, upstream: Upstream, session: requests.Session) -> None:
    proxy.answers(Hang(600))
    with pytest.raises(requests.ReadTimeout):
        session.get(proxy.url, timeout=0.3)
    # Whoever still waits is let go when the fault ends.
    ended: list[float] = []

    def wait() -> None:
        with pytest.raises(requests.ConnectionError):
            requests.get(proxy.url, timeout=30)
        ended.append(time.monotonic())

    waiting = threading.Thread(target=wait)
    waiting.start()
    time.sleep(0.2)
    proxy.passes()
    waiting.join(5)
    assert ended
    assert upstream.asked == []


def test_an_answer_in_the_servers_place(proxy: FaultProxy, upstream: Upstream, session: requests.Session) -> None:
    proxy.answers(Answer(429, b"slower", {"Retry-After": "2"}))
    answer = session.get(proxy.url, timeout=5)
    assert (answer.status_code, answer.text, answer.headers["Retry-After"]) == (429, "slower", "2")
    assert upstream.asked == []
    proxy.answers(lambda request: Drop() if request.method == "DELETE" else None)
    assert session.get(proxy.url, timeout=5).status_code == 201
    with pytest.raises(requests.ConnectionError):
        session.delete(proxy.url, timeout=5)
    assert [method for method, _, _ in upstream.asked] == ["GET"]


@pytest.mark.parametrize("after", [True, False])
def test_it_dies_at_a_request(proxy: FaultProxy, upstream: Upstream, session: requests.Session, after: bool) -> None:
    proxy.dies(lambda request: request.method == "DELETE", after=after)
    assert session.get(proxy.url, timeout=5).status_code == 201
    with pytest.raises(requests.ConnectionError):
        session.delete(proxy.url, timeout=5)
    with pytest.raises(requests.ConnectionError, match="refused"):
        session.get(proxy.url, timeout=5)
    assert [method for method, _, _ in upstream.asked] == (["GET", "DELETE"] if after else ["GET"])
    proxy.passes()
    assert session.delete(proxy.url, timeout=5).status_code == 201


def test_it_tells_before_and_after_each_request(proxy: FaultProxy, session: requests.Session) -> None:
    told: list[tuple[str, bool]] = []

    def watch(request: Request, done: bool) -> None:
        told.append((request.method, done))

    proxy.watch = watch
    session.get(proxy.url, timeout=5)
    proxy.answers(Answer(503, b""))
    session.put(proxy.url, timeout=5)
    assert told == [("GET", False), ("GET", True)]


@pytest.mark.parametrize(
    ("request_", "operation"),
    [
        (Request("POST", "/", {"x-amz-target": "DynamoDB_20120810.BatchGetItem"}, b"{}"), "BatchGetItem"),
        (Request("POST", "/", {}, b"Action=DescribeInstances&Version=2016-11-15"), "DescribeInstances"),
        (Request("GET", "/v1/catalog/nodes?dc=dc1", {}, b""), "GET /v1/catalog/nodes"),
    ],
)
def test_operations(request_: Request, operation: str) -> None:
    assert request_.operation == operation
