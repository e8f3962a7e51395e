"""HTTP for Chef, Consul and the HTTP steps: pooled connections, limits of time and size, and this package's errors.

A request goes to exactly the URL that the caller gives: no proxy, no redirect, no ``.netrc``, no cookie, and no
library that "normalizes" the path. A path with a segment ``.`` or ``..``, in any spelling, is never sent, because
a server or proxy would resolve it. Names enter a URL only through `segment`.

::

    http = Http("Zabbix zabbix.example.com", deadline, timeout_seconds=10)
    answer = http.send("DELETE", f"{url}/hosts/{segment(host_id)}", repeatable=True, guard=still_proven)
    if answer.status == 404: ...
"""

from __future__ import annotations

import contextvars
import email.utils
import functools
import http.client
import json
import re
import ssl
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from http.cookiejar import DefaultCookiePolicy
from typing import TYPE_CHECKING, Any, TypeVar
from urllib.parse import SplitResult, quote, unquote, urlsplit

import requests
import urllib3

from ..errors import ConfigurationError, DecommissionError, PermanentError, TransientError
from .connections import Adapter, Attempt, Session, under_way
from .tls import trusting

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from ..deadline import Deadline

T = TypeVar("T")
Guard = Callable[[], None]

_CONNECT_SECONDS = 5.0
_MOST_BYTES = 64 * 1024 * 1024
_LONGEST_RETRY_AFTER_SECONDS = 24 * 3600.0
# After this many calls of a batch could not reach the server, the rest fail without being tried.
_LOST_CALLS = 3

# Allowed by RFC 9110, 5.6.2 and 5.5; values are limited to printable ASCII here.
_HEADER_NAME = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_HEADER_VALUE = re.compile(r"[\x20-\x7e]*")
_URL = re.compile(r"[\x21-\x7e]+")

_UNKNOWN_AUTHORITY = (18, 19, 20, 21)  # X509_V_ERR_*: no trusted authority signed it
# The alerts by which a server refuses or misses a client certificate.
_CLIENT_CERTIFICATE = (
    "CERTIFICATE_REQUIRED",
    "BAD_CERTIFICATE",
    "UNKNOWN_CA",
    "CERTIFICATE_EXPIRED",
    "CERTIFICATE_UNKNOWN",
    "CERTIFICATE_REVOKED",
    "UNSUPPORTED_CERTIFICATE",
    "HANDSHAKE_FAILURE",
)


class UnreachableError(TransientError):
    """The server could not be reached, or did not answer."""


class NoConnectionError(UnreachableError):
    """No connection could be made, or it broke. ``broken``: it existed, so the server may have read the request."""

    broken = False


class NoAnswerError(UnreachableError):
    """The server did not answer in time."""


@dataclass(frozen=True)
class Answer:
    """A server's answer, with any status.

    Attributes:
        headers: by name, ignoring case.
        body: decoded according to its Content-Encoding.
        repeated: the connection broke after the request was sent, and the request was sent again. The first request
            may already have taken effect.
    """

    status: int
    headers: Mapping[str, str] = field(repr=False)
    body: bytes = field(repr=False)
    repeated: bool = False

    @property
    def ok(self) -> bool:
        return 200 <= self.status < 300

    @property
    def is_transient(self) -> bool:
        """Whether the status is that of a transient failure."""
        return self.status in (408, 425, 429) or self.status >= 500

    @property
    def text(self) -> str:
        return self.body.decode(errors="replace").strip()

    def json(self) -> Any:
        """Parses the body. Raises ValueError if it is not JSON."""
        try:
            return json.loads(self.body)
        except RecursionError:
            raise ValueError("nested too deeply") from None

    @property
    def retry_after_seconds(self) -> float | None:
        """The header Retry-After, a number of seconds or a date, in seconds; None if it is missing."""
        value = self.headers.get("Retry-After", "").strip()
        if re.fullmatch(r"[0-9]{1,9}", value):
            seconds = float(value)
        else:
            try:
                seconds = (email.utils.parsedate_to_datetime(value) - datetime.now(UTC)).total_seconds()
            except (ValueError, TypeError):  # TypeError: a date without a time zone
                return None
        return min(max(0.0, seconds), _LONGEST_RETRY_AFTER_SECONDS)

    def failure(self, text: str) -> TransientError:
        """Returns the error for a transient status, with ``retry_after_seconds``."""
        error = TransientError(text)
        error.retry_after_seconds = self.retry_after_seconds
        return error


def segment(value: str) -> str:
    """Quotes the value as one segment of a URL's path.

    >>> segment("locks/a b")
    'locks%2Fa%20b'

    Raises:
        ValueError: it is empty, ``.`` or ``..``, which servers resolve even if quoted, or it is text that cannot be
            encoded.
    """
    if value in ("", ".", ".."):
        raise ValueError(f"{value!r} cannot be one segment of a URL")
    return quote(value, safe="")


def host_of(url: str) -> str:
    """Returns host and port of a URL, for messages, without user and password."""
    return urlsplit(url).netloc.rpartition("@")[2]


def _split(url: str) -> SplitResult:
    """Splits a URL; all parts are empty if it is not one. (urlsplit would silently drop a line break.)"""
    try:
        return urlsplit(url if _URL.fullmatch(url) else "")
    except ValueError:
        return urlsplit("")


class Http:
    """Requests to one system.

    Args:
        system: the system's name in messages, for example ``Consul consul.example.com:8501``.
        deadline: returns the deadline of the current invocation.
        timeout_seconds: the longest time for one attempt, from connecting to the last byte.
        tls: the TLS context; trusts the public authorities by default.
        headers: sent with every request.
        connections: the number of connections to keep open.
        max_bytes: the longest allowed answer.

    Raises:
        ConfigurationError: a header cannot be sent. The error does not quote its value.
    """

    def __init__(
        self,
        system: str,
        deadline: Callable[[], Deadline],
        *,
        timeout_seconds: float,
        tls: ssl.SSLContext | None = None,
        headers: Mapping[str, str] | None = None,
        connections: int = 8,
        max_bytes: int = _MOST_BYTES,
    ) -> None:
        self.system = system
        self._deadline = deadline
        self._timeout = timeout_seconds
        self._max_bytes = max_bytes
        self.session = Session()
        self.session.trust_env = False
        self.session.cookies.set_policy(DefaultCookiePolicy(allowed_domains=()))
        self.session.headers.update(self._checked(headers or {}))
        self.session.mount("http://", Adapter(connections))
        self.session.mount("https://", Adapter(connections, tls or _public_authorities()))

    def close(self) -> None:
        """Closes the pooled connections."""
        self.session.close()

    def send(
        self,
        method: str,
        url: str,
        *,
        headers: Mapping[str, str] | None = None,
        body: bytes | None = None,
        what: str = "",
        repeatable: bool = False,
        guard: Guard | None = None,
    ) -> Answer:
        """Sends a request and reads the whole answer, of any status.

        Args:
            url: sent unchanged; quote variable parts.
            what: the request in messages; by default method and path, without the query.
            repeatable: the request may take effect twice. It is then sent again if an open connection broke
                before the answer came, as idle pooled connections may.
            guard: raises if the request must not be sent any more. It is called before each attempt and, if a
                connection had to be opened, again right before the first byte. Its errors are raised here.

        Raises:
            ConfigurationError: the URL or a header cannot be sent, or TLS fails permanently.
            PermanentError: the path has a segment that a server would resolve.
            NoConnectionError, NoAnswerError: no connection, or no answer in time.
            TransientError: the answer cannot be read.
            OutOfTime: too little time is left to start.
        """
        parts = _split(url)
        what = what or f"{method} {parts.path}"
        prepared = self._prepared(method, parts, headers or {}, body, what)
        try:
            return self._attempt(prepared, what, guard)
        except NoConnectionError as error:
            if not (repeatable and error.broken):
                raise
        return replace(self._attempt(prepared, what, guard), repeated=True)

    def _prepared(
        self, method: str, parts: SplitResult, headers: Mapping[str, str], body: bytes | None, what: str
    ) -> requests.PreparedRequest:
        if not re.fullmatch(r"[A-Za-z]+", method):
            raise ConfigurationError(f"{self.system}: {method!r} is not an HTTP method")
        invalid = ConfigurationError(f"{self.system}: {what} cannot be sent: its URL is not valid")
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise invalid
        origin = f"{parts.scheme}://{parts.netloc}/"
        request = requests.Request(method, origin, headers=self._checked(headers), data=body)
        try:
            prepared = self.session.prepare_request(request)
        except (requests.RequestException, ValueError):
            raise invalid from None
        seen = unquote(parts.path).replace("\\", "/").split("/")
        if "." in seen or ".." in seen:
            raise PermanentError(
                f"{self.system}: {what} was not sent: its path has a segment . or .., which a server resolves, so "
                "the request would go elsewhere"
            )
        # Set after requests prepared the URL, because requests resolves such segments and unquotes characters.
        target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
        prepared.url = f"{str(prepared.url).removesuffix('/')}{target}"
        return prepared

    def _checked(self, headers: Mapping[str, str]) -> dict[str, str]:
        """Checks headers before the library does, because the library's own error would quote a token."""
        checked = {name: value.strip() for name, value in headers.items()}
        for name, value in checked.items():
            if not _HEADER_NAME.fullmatch(name) or not _HEADER_VALUE.fullmatch(value):
                raise ConfigurationError(
                    f"{self.system}: the header {name!r} cannot be sent: only printable ASCII characters are allowed"
                )
        return checked

    def _attempt(self, prepared: requests.PreparedRequest, what: str, guard: Guard | None) -> Answer:
        seconds = self._deadline().timeout(self._timeout, f"{what} on {self.system}")
        attempt = Attempt(guard or _nothing, time.monotonic() + seconds)
        attempt.guard()
        set_before = under_way.set(attempt)
        try:
            response = self.session.send(
                prepared,
                timeout=(min(seconds, _CONNECT_SECONDS), seconds),
                verify=True,
                allow_redirects=False,
                stream=True,
            )
            with response:
                body = self._read(response, attempt, what)
        except (requests.RequestException, urllib3.exceptions.HTTPError, http.client.HTTPException, OSError) as error:
            raise self._failure(error, attempt, what, seconds) from None
        finally:
            under_way.reset(set_before)
        return Answer(response.status_code, response.headers, body)

    def _read(self, response: requests.Response, attempt: Attempt, what: str) -> bytes:
        parts: list[bytes] = []
        size = 0
        while part := response.raw.read1(65536, decode_content=True):
            parts.append(part)
            size += len(part)
            if size > self._max_bytes:
                raise TransientError(
                    f"{self.system} gave an answer to {what} of more than {self._max_bytes // 1024**2} MiB"
                )
            if time.monotonic() > attempt.end:
                raise NoAnswerError(f"{self.system} took too long to answer {what}")
        return b"".join(parts)

    def _failure(self, error: Exception, attempt: Attempt, what: str, seconds: float) -> DecommissionError:
        cause = _root_cause(error)
        if isinstance(cause, ssl.SSLError) and not isinstance(cause, (ssl.SSLEOFError, ssl.SSLZeroReturnError)):
            return self._tls_failure(cause, what)
        if isinstance(error, (requests.Timeout, urllib3.exceptions.TimeoutError)) or isinstance(cause, TimeoutError):
            if not attempt.connected:
                most = min(seconds, _CONNECT_SECONDS)
                return NoConnectionError(f"{self.system}: no connection for {what} within {most:.0f} s")
            return NoAnswerError(f"{self.system} did not answer {what} within {seconds:.0f} s")
        reason = str(cause)[:200] or type(cause).__name__
        if isinstance(error, urllib3.exceptions.DecodeError):
            return TransientError(f"{self.system} gave an unreadable answer to {what}: {reason}")
        lost = NoConnectionError(f"{self.system}: no connection for {what} ({reason})")
        lost.broken = attempt.connected
        return lost

    def _tls_failure(self, cause: ssl.SSLError, what: str) -> DecommissionError:
        if isinstance(cause, ssl.SSLCertVerificationError):
            text = f"{self.system}: its certificate is not trusted: {cause.verify_message}"
            if cause.verify_code in _UNKNOWN_AUTHORITY:
                text += "; package.ca_bundle_file adds authorities"
            return ConfigurationError(text)
        reason = cause.reason or str(cause)[:200]
        if "WRONG_VERSION_NUMBER" in reason or "HTTP_REQUEST" in reason:
            return ConfigurationError(f"{self.system} does not use TLS there ({reason}). Is its URL http://?")
        if any(alert in reason for alert in _CLIENT_CERTIFICATE):
            return ConfigurationError(
                f"{self.system} refuses the connection for {what} ({reason}): a client certificate is missing, or "
                "the server does not accept it"
            )
        if "PROTOCOL" in reason or "CIPHER" in reason or "DH_KEY" in reason:
            return ConfigurationError(f"{self.system}: no TLS version or cipher in common ({reason})")
        lost = NoConnectionError(f"{self.system}: no connection for {what} ({reason})")
        lost.broken = True
        return lost


def each(items: Iterable[str], call: Callable[[str], T], workers: int) -> dict[str, T | DecommissionError]:
    """Calls ``call`` for each item, ``workers`` at a time. An item's error is its answer.

    Stops trying if the server cannot be reached. Context variables are passed on.
    """
    wanted = list(dict.fromkeys(items))
    lost: list[DecommissionError] = []

    def one(item: str) -> T | DecommissionError:
        if len(lost) >= _LOST_CALLS:
            return lost[0]
        try:
            return call(item)
        except DecommissionError as error:
            if isinstance(error, UnreachableError):
                lost.append(error)
            return error

    if len(wanted) < 2 or workers < 2:
        return {item: one(item) for item in wanted}
    with ThreadPoolExecutor(max_workers=min(workers, len(wanted))) as pool:
        running = {item: pool.submit(contextvars.copy_context().run, one, item) for item in wanted}
    return {item: job.result() for item, job in running.items()}


def _nothing() -> None:
    pass


@functools.cache
def _public_authorities() -> ssl.SSLContext:
    return trusting()


def _root_cause(error: BaseException) -> BaseException:
    """Returns the last error in the chain, the one with the readable text."""
    while error.__context__ is not None:
        error = error.__context__
    return error
