"""A door before a server: counts the requests that go through it."""

from __future__ import annotations

import http.client
import threading
from collections import Counter
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any, Self
from urllib.parse import urlsplit

_HOP_BY_HOP = {"connection", "keep-alive", "transfer-encoding", "content-length"}


class Door:
    """A reverse proxy on loopback; `requests` counts by method and the path's beginning.

    Args:
        answer: given method, path and body, gives the answer in the server's place, or None.
        passed: told method, path and status of what went through.
    """

    def __init__(
        self,
        upstream: str,
        answer: Callable[[str, str, bytes], bytes | None] = lambda *_: None,
        passed: Callable[[str, str, int], None] = lambda *_: None,
    ) -> None:
        self.requests: Counter[str] = Counter()
        self._host, self._port = urlsplit(upstream).hostname or "", urlsplit(upstream).port
        self._own = threading.local()
        door = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            disable_nagle_algorithm = True

            def log_message(self, *_: Any) -> None:
                pass

            def _pass(self) -> None:
                body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
                door.requests[f"{self.command} {_kind(self.path)}"] += 1
                if (own := answer(self.command, self.path, body)) is not None:
                    self.send_response(200)
                    self.send_header("Content-Type", "application/json")
                    self.send_header("Content-Length", str(len(own)))
                    self.end_headers()
                    self.wfile.write(own)
                    return
                connection = door._connection()
                headers = {name: value for name, value in self.headers.items() if name.lower() not in _HOP_BY_HOP}
                connection.request(self.command, self.path, body, headers)
                reply = connection.getresponse()
                content = reply.read()
                passed(self.command, self.path, reply.status)
                self.send_response(reply.status)
                for name, value in reply.getheaders():
                    if name.lower() not in _HOP_BY_HOP:
                        self.send_header(name, value)
                self.send_header("Content-Length", str(len(content)))
                self.end_headers()
                self.wfile.write(content)

            do_GET = do_PUT = do_POST = do_DELETE = _pass  # noqa: N815  # http.server's own names

        class Server(ThreadingHTTPServer):
            daemon_threads = True

            def handle_error(self, *_: Any) -> None:
                pass  # a client that went away

            request_queue_size = 64

        self._server = Server(("127.0.0.1", 0), Handler)
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)
        self.url = f"http://127.0.0.1:{self._server.server_port}"

    def _connection(self) -> http.client.HTTPConnection:
        if not hasattr(self._own, "connection"):
            self._own.connection = http.client.HTTPConnection(self._host, self._port, timeout=60)
        connection: http.client.HTTPConnection = self._own.connection
        return connection

    @property
    def total(self) -> int:
        return sum(self.requests.values())

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join(5)


def _kind(path: str) -> str:
    """The path without the names of things: Chef's /nodes, Consul's /v1/session/destroy."""
    parts = urlsplit(path).path.split("/")
    return "/".join(parts[:4] if parts[1] == "v1" and parts[2] != "kv" else parts[:2])
