"""HTTP servers on loopback with answers and faults that tests control."""

from __future__ import annotations

import contextlib
import socket
import ssl
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


@dataclass(frozen=True)
class Request:
    """A received request. ``path`` is the raw target with its query."""

    method: str
    path: str
    headers: Mapping[str, str]
    body: bytes

    @property
    def line(self) -> str:
        return f"{self.method} {self.path}"


@dataclass
class Seen:
    """A server's requests, and the number of their connections."""

    requests: list[Request] = field(default_factory=list)
    connections: int = 0

    @property
    def lines(self) -> list[str]:
        return [request.line for request in self.requests]


# Status, body and headers; None closes the connection without an answer.
Answer = tuple[int, str | bytes] | tuple[int, str | bytes, Mapping[str, str]] | None


@contextmanager
def serving(answer: Callable[[Request], Answer], tls: ssl.SSLContext | None = None) -> Iterator[tuple[str, Seen]]:
    """Runs a server that answers each request. Yields its URL."""
    seen = Seen()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def setup(self) -> None:
            seen.connections += 1
            super().setup()

        def _answer(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            request = Request(self.command, self.path, dict(self.headers.items()), body)
            seen.requests.append(request)
            given = answer(request)
            if given is None:
                self.close_connection = True
                return
            status, text, *more = given
            content = text.encode() if isinstance(text, str) else text
            self.send_response(status)
            for name, value in {"Content-Length": str(len(content)), **(more[0] if more else {})}.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(content)

        do_GET = do_POST = do_PUT = do_PATCH = do_DELETE = _answer  # noqa: N815

        def log_message(self, format: str, *args: Any) -> None:  # noqa: A002
            pass

    class Server(ThreadingHTTPServer):
        daemon_threads = True

        def get_request(self) -> tuple[Any, Any]:
            connection, address = super().get_request()
            # The reading thread makes the handshake, so that it does not block other connections.
            wrapped = tls.wrap_socket(connection, True, do_handshake_on_connect=False) if tls else connection
            return wrapped, address

        def handle_error(self, request: Any, client_address: Any) -> None:
            pass  # a client that goes away

    server = Server(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield f"http{'s' if tls else ''}://127.0.0.1:{server.server_address[1]}", seen
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


@contextmanager
def talking(talk: Callable[[socket.socket], None]) -> Iterator[str]:
    """Runs a server with a custom handler of each connection. Yields its URL."""
    listener = socket.create_server(("127.0.0.1", 0))
    end = threading.Event()

    def run(connection: socket.socket) -> None:
        with contextlib.suppress(OSError), connection:
            talk(connection)

    def serve() -> None:
        listener.settimeout(0.05)
        while not end.is_set():
            try:
                connection, _ = listener.accept()
            except TimeoutError:
                continue
            threading.Thread(target=run, args=(connection,), daemon=True).start()

    thread = threading.Thread(target=serve)
    thread.start()
    try:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
    finally:
        end.set()
        thread.join()
        listener.close()


def closed_port() -> str:
    """A URL with a closed port."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return f"http://127.0.0.1:{listener.getsockname()[1]}"
