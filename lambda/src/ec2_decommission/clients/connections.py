"""Connections for `http.Http`, below the requests library: one deadline per attempt, and a last check before it.

urllib3 applies the timeout to each address of a host and each piece of an answer, so a server that sends drop by drop
never times out. Here, an attempt has one end time. A connection is opened before the check that a change may still be
made, because connecting may take seconds.
"""

from __future__ import annotations

import http.client
import io
import socket
import time
from contextvars import ContextVar
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import requests
import urllib3
from requests.adapters import HTTPAdapter
from urllib3.connection import HTTPConnection, HTTPSConnection

if TYPE_CHECKING:
    import ssl
    from collections.abc import Callable


@dataclass
class Attempt:
    """One attempt to send, as seen by its connection. ``end`` is a time of ``time.monotonic``."""

    guard: Callable[[], None]
    end: float
    connected: bool = False


under_way: ContextVar[Attempt] = ContextVar("http_attempt")


class Session(requests.Session):
    def get_redirect_target(self, _: Any) -> None:
        """Returns None: otherwise requests reads the whole answer of a redirect, of any length."""
        return


class Adapter(HTTPAdapter):
    """Opens connections of the classes below, with the given SSLContext."""

    def __init__(self, connections: int, tls: ssl.SSLContext | None = None) -> None:
        self._tls = tls
        super().__init__(pool_connections=1, pool_maxsize=connections)

    def init_poolmanager(self, connections: int, maxsize: int, block: bool = False, **options: Any) -> None:
        if self._tls is not None:
            options["ssl_context"] = self._tls
        super().init_poolmanager(connections, maxsize, block, **options)
        self.poolmanager.pool_classes_by_scheme = {"http": _HttpPool, "https": _HttpsPool}

    def cert_verify(self, conn: Any, url: str, verify: Any, cert: Any) -> None:
        """Does nothing: the context is complete. requests would load its own list into it for every connection."""


class _Limited:
    """What both kinds of connection add to urllib3's."""

    sock: Any
    timeout: Any
    port: Any
    _dns_host: str
    _fresh = False  # opened for the current attempt

    def _new_conn(self) -> socket.socket:
        """Connects to the first address that answers. Each address gets its share of the time."""
        end = time.monotonic() + self.timeout
        addresses = socket.getaddrinfo(self._dns_host, self.port, type=socket.SOCK_STREAM)
        for number, address in enumerate(addresses):
            left = end - time.monotonic()
            try:
                new = _connected(*address, seconds=max(0.001, left / (len(addresses) - number)))
            except OSError:
                if number == len(addresses) - 1:
                    raise
            else:
                new.settimeout(max(0.001, end - time.monotonic()))
                return new
        raise OSError("the host has no address")

    def request(self, *arguments: Any, **options: Any) -> None:
        attempt = under_way.get()
        if self.sock is None:
            self.connect()
        attempt.connected = True
        if self._fresh:
            self._fresh = False
            attempt.guard()
        self.timeout = max(0.001, attempt.end - time.monotonic())
        super().request(*arguments, **options)  # type: ignore[misc]

    def connect(self) -> None:
        self._fresh = True
        super().connect()  # type: ignore[misc]

    def response_class(self, sock: Any, **options: Any) -> http.client.HTTPResponse:
        return http.client.HTTPResponse(_Reader(sock, under_way.get().end), **options)  # type: ignore[arg-type]


def _connected(family: int, kind: int, protocol: int, _: str, address: Any, *, seconds: float) -> socket.socket:
    new = socket.socket(family, kind, protocol)
    try:
        new.settimeout(seconds)
        new.connect(address)
        new.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    except OSError:
        new.close()
        raise
    return new


class _Reader(io.RawIOBase):
    """Reads from a socket until a fixed end time, which received bytes do not extend."""

    def __init__(self, sock: socket.socket, end: float) -> None:
        super().__init__()
        self._sock = sock
        self._raw = sock.makefile("rb", buffering=0)
        self._end = end

    def makefile(self, _: str) -> io.BufferedReader:
        """Called by http.client, which expects a socket."""
        return io.BufferedReader(self)

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int | None:
        left = self._end - time.monotonic()
        if left <= 0:
            raise TimeoutError("timed out")
        self._sock.settimeout(left)
        read: int | None = self._raw.readinto(buffer)
        return read

    def close(self) -> None:
        self._raw.close()
        super().close()


class _HttpConnection(_Limited, HTTPConnection):  # type: ignore[misc]
    pass


class _HttpsConnection(_Limited, HTTPSConnection):  # type: ignore[misc]
    pass


class _HttpPool(urllib3.HTTPConnectionPool):
    ConnectionCls = _HttpConnection


class _HttpsPool(urllib3.HTTPSConnectionPool):
    ConnectionCls = _HttpsConnection
