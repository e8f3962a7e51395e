"""A proxy on loopback in front of a real server. It forwards requests, or fails on demand.

It forwards path, query and headers unchanged, so signatures over them stay valid.
"""

from __future__ import annotations

import http.client
import socket
import sys
import threading
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any, Self
from urllib.parse import urlsplit

from testbed.aws import Answer, Drop, Hang
from testbed.processes import LOOPBACK, free_port

_UPSTREAM_TIMEOUT_SECONDS = 60
# Hop-by-hop headers (RFC 9110, 7.6.1), and the length, which is set again.
_HOP_BY_HOP = {"connection", "keep-alive", "transfer-encoding", "content-length"}


@dataclass(frozen=True)
class Request:
    """A request in progress."""

    method: str
    path: str  # with its query
    headers: Mapping[str, str] = field(repr=False)
    body: bytes = field(repr=False)

    @property
    def operation(self) -> str:
        """A short name of the request: for AWS's JSON and query protocols, the operation."""
        if target := self.headers.get("x-amz-target"):
            return target.rpartition(".")[2]
        if self.body.startswith(b"Action="):
            return self.body[7:].split(b"&", 1)[0].decode()
        return f"{self.method} {urlsplit(self.path).path}"


Outcome = Answer | Hang | Drop | None
Behavior = Callable[[Request], Outcome]


class FaultProxy:
    """A proxy in front of one server. By default, it forwards everything.

    `seen` lists all requests. `watch` is called for each request before it is forwarded (False), and after it took
    effect but before its answer is returned (True). It may have side effects, such as killing the client.
    """

    def __init__(self, upstream: str) -> None:
        """`upstream` is the server's URL. Requests keep the client's path."""
        self._upstream = urlsplit(upstream)
        self._port = free_port()
        self.url = f"http://{LOOPBACK}:{self._port}{self._upstream.path}"
        self.seen: list[Request] = []
        self.watch: Callable[[Request, bool], None] = lambda _request, _done: None
        self._behavior: Behavior = lambda _: None
        self._dying: Behavior | None = None  # the behavior of `dies`, until it refuses connections
        self._server: _Server | None = None
        self._connections: set[socket.socket] = set()
        self._changed = threading.Event()
        self._lock = threading.RLock()

    # ------------------------------------------------------------ behavior

    def passes(self) -> None:
        """Forwards requests to the server from now on."""
        self.answers(lambda _: None)

    def answers(self, behavior: Behavior | Outcome) -> None:
        """Answers each request with this outcome, or the function's outcome: `Answer`, `Hang`, `Drop` or None."""
        with self._lock:
            self._behavior = behavior if callable(behavior) else lambda _: behavior
            self._end_waiting()
            self._listen()

    def refuses(self) -> None:
        """Closes the port and all open connections."""
        with self._lock:
            server, self._server = self._server, None
            self._end_waiting()
            if server is not None:
                server.end()
            for connection in list(self._connections):
                with suppress(OSError):
                    connection.shutdown(socket.SHUT_RDWR)

    def dies(self, at: Callable[[Request], bool], *, after: bool = True) -> None:
        """Forwards requests until `at` returns True for one, then refuses connections.

        With `after`, that request takes effect, but its answer is lost.
        """

        def behavior(request: Request) -> Outcome:
            return Drop(after=after) if at(request) else None

        with self._lock:
            self.answers(behavior)
            self._dying = behavior

    # ------------------------------------------------------------ life

    def start(self) -> Self:
        self._listen()
        return self

    def stop(self) -> None:
        self.refuses()

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def _listen(self) -> None:
        if self._server is None:
            self._server = _Server(self._port, self)

    def _end_waiting(self) -> None:
        self._dying = None
        self._changed.set()
        self._changed = threading.Event()

    # ------------------------------------------------------------ one request

    def serve(self, handler: _Handler, request: Request) -> None:
        """Handles a request. Called by the server's threads."""
        with self._lock:
            self.seen.append(request)
            behavior, changed = self._behavior, self._changed
        outcome = behavior(request)
        if isinstance(outcome, Hang):
            changed.wait(outcome.seconds)
            handler.close_connection = True
        elif isinstance(outcome, Answer):
            handler.answer(outcome.status, dict(outcome.headers), outcome.body)
        elif isinstance(outcome, Drop):
            if outcome.after:
                self._pass_on(request)
            if self._dying is behavior:
                self.refuses()
            handler.close_connection = True
        else:
            handler.answer(*self._pass_on(request))

    def _pass_on(self, request: Request) -> tuple[int, dict[str, str], bytes]:
        self.watch(request, False)
        connection = http.client.HTTPConnection(
            str(self._upstream.hostname), self._upstream.port, timeout=_UPSTREAM_TIMEOUT_SECONDS
        )
        try:
            connection.putrequest(request.method, request.path, skip_host=True, skip_accept_encoding=True)
            for name, value in request.headers.items():
                if name.lower() not in _HOP_BY_HOP:
                    connection.putheader(name, value)
            if request.body or request.method in ("POST", "PUT"):
                connection.putheader("Content-Length", str(len(request.body)))
            connection.endheaders(request.body or None)
            response = connection.getresponse()
            body = response.read()
            headers = {name: value for name, value in response.getheaders() if name.lower() not in _HOP_BY_HOP}
        finally:
            connection.close()
        self.watch(request, True)
        return response.status, headers, body


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 64

    def __init__(self, port: int, proxy: FaultProxy) -> None:
        self.proxy = proxy
        super().__init__((LOOPBACK, port), _Handler)
        self._thread = threading.Thread(target=self.serve_forever, args=(0.02,), name="fault-proxy", daemon=True)
        self._thread.start()

    def end(self) -> None:
        """Closes the port. Safe to call from the server's own threads."""
        self.shutdown()
        self.server_close()

    def server_close(self) -> None:
        self.socket.close()  # the base class would wait for all requests, and one may be the caller

    def handle_error(self, request: object, client_address: object) -> None:
        """Ignores broken connections of killed clients."""
        if not isinstance(sys.exception(), OSError):
            super().handle_error(request, client_address)  # type: ignore[arg-type]  # as the base class has it


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    # Headers and body are two writes. With Nagle's algorithm, the second waits 40 ms for an acknowledgement.
    disable_nagle_algorithm = True
    server: _Server

    def setup(self) -> None:
        super().setup()
        self.server.proxy._connections.add(self.connection)

    def finish(self) -> None:
        self.server.proxy._connections.discard(self.connection)
        super().finish()

    def answer(self, status: int, headers: Mapping[str, str], body: bytes) -> None:
        self.send_response_only(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def _serve(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        headers = {name.lower(): value for name, value in self.headers.items()}
        self.server.proxy.serve(self, Request(self.command, self.path, headers, body))

    do_GET = do_POST = do_PUT = do_DELETE = _serve  # noqa: N815  # the base class's names

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002
        pass
