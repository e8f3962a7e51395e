"""The REST API of one HTTP step: sends requests with credentials, and sorts answers into documents and errors.

One client serves many batches, so connections and an OAuth 2.0 token are reused. No error contains a secret.
"""

from __future__ import annotations

import base64
import json
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar
from urllib.parse import quote, quote_plus, urlencode

from ...clients.http import Answer, Http, each, host_of
from ...errors import AccessError, ConfigurationError, DecommissionError, TransientError, about
from ...instance import Instance
from .expression import Expression, ExpressionError, cut, is_true, one_line
from .settings import Basic, OAuth2
from .template import Request, UnfitValueError, Values, as_it_is

if TYPE_CHECKING:
    import ssl
    from collections.abc import Collection, Iterable, Mapping

    from ...clients.http import Guard
    from ...deadline import Deadline
    from .settings import HttpStepSettings
    from .template import RequestTemplate, Text

T = TypeVar("T")

_MOST_BYTES = 16 * 1024 * 1024
_DEEPEST = 100
_TRANSIENT = (409, 423)  # in addition to the statuses that are always transient
# The words of APIs that report missing permission in a 2xx answer, as Zabbix does ("Not authorized.").
_DENIED = (
    "not authori",
    "unauthori",
    "authenticat",
    "permission",
    "forbidden",
    "access denied",
    "session terminated",
)
# The forms that a secret takes in a path, a query or form, JSON, and Python's messages.
_QUOTED: tuple[Callable[[str], str], ...] = (
    lambda secret: quote(secret, safe="", errors="replace"),
    lambda secret: quote_plus(secret, errors="replace"),
    lambda secret: json.dumps(secret)[1:-1],
    lambda secret: repr(secret)[1:-1],
)
_TOKEN_SECONDS = 300.0  # if the server does not say
_TOKEN_MARGIN_SECONDS = 60.0


@dataclass(frozen=True)
class Reply:
    """A 2xx answer, or one with a status that the caller asked to see. ``document`` is None without JSON."""

    status: int
    document: Any = None

    @property
    def ok(self) -> bool:
        return 200 <= self.status < 300


class Client:
    """The API of one step.

    Args:
        secrets: the step's secrets, decrypted.
        deadline: returns the deadline of the current invocation.
        tls: the TLS context.
        now: a monotonic clock, in seconds.

    Raises:
        ConfigurationError: a secret cannot be used as a credential.
    """

    def __init__(
        self,
        settings: HttpStepSettings,
        secrets: Mapping[str, str],
        deadline: Callable[[], Deadline],
        tls: ssl.SSLContext | None = None,
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        self.system = f"{settings.name} ({host_of(settings.url)})"
        self._secrets = secrets
        self._workers = settings.max_concurrency
        # Limits requests, not jobs: an instance whose tags changed has several finds within the job of its removal.
        self._slots = threading.BoundedSemaphore(settings.max_concurrency)
        self._hidden = _forms(secrets.values())

        def http(url: str) -> Http:
            return Http(
                f"{settings.name} ({host_of(url)})",
                deadline,
                timeout_seconds=settings.request_timeout_seconds,
                tls=tls,
                connections=settings.max_concurrency,
                max_bytes=_MOST_BYTES,
            )

        self._http = http(settings.url)
        self._basic: str | None = None
        self._token: _Token | None = None
        if isinstance(settings.auth, Basic):
            username, password = self._credentials(settings.auth.username, settings.auth.password)
            self._basic = f"Basic {_base64(f'{username}:{password}')}"
            self._hidden |= {self._basic.removeprefix("Basic ")}
        elif isinstance(settings.auth, OAuth2):
            client_id, client_secret = self._credentials(settings.auth.client_id, settings.auth.client_secret)
            self._hidden |= {_base64(f"{quote_plus(client_id)}:{quote_plus(client_secret)}")}
            self._token = _Token(self, http(settings.auth.token_url), settings.auth, client_id, client_secret, now)

    def __repr__(self) -> str:
        return f"Client({self.system})"

    # Requests

    def render(
        self, template: RequestTemplate, instance: Instance, item: Any = None, item_id: str | None = None
    ) -> Request:
        """Renders the request with the step's secrets.

        Raises:
            UnfitValueError: a value of the instance or the item is not known, or is not allowed in its place.
            ConfigurationError: a secret is not allowed in its place.
        """
        try:
            return template.render(Values(instance, self._secrets, item, item_id))
        except UnfitValueError as error:
            if template.problem(instance, item, item_id):
                raise
            raise ConfigurationError(f"{self.system}: {error}") from None

    def ask(
        self,
        request: Request,
        what: str,
        error: Expression | None,
        *,
        see: Collection[int] = (),
        guard: Guard | None = None,
        repeatable: bool = False,
        json_needed: bool = False,
    ) -> Reply:
        """Sends a request and returns the answer.

        Args:
            what: the request in messages, for example ``find``.
            error: finds an error in a 2xx answer.
            see: statuses to return as an answer instead of an error.
            guard: as in ``Http.send``.
            repeatable: as in ``Http.send``.
            json_needed: a 2xx answer without JSON is an error.

        Raises:
            AccessError: 401, 403 or 404, or an error text about missing permission.
            ConfigurationError: a redirect or another refusal; also the errors of ``Http.send``.
            TransientError: 409, 423, 429, 5xx, or a 2xx answer with an error or without readable JSON.
        """
        try:
            answer = self._send(request, what, guard, repeatable=repeatable)
            if answer.status in see:
                return Reply(answer.status)
            if not answer.ok:
                raise self._failure(answer, what, error)
            return Reply(answer.status, self._document(answer, what, error, json_needed=json_needed))
        except DecommissionError as failed:
            raise self.clean(failed) from None

    def each(self, items: Iterable[str], call: Callable[[str], T]) -> dict[str, T | DecommissionError]:
        """Calls ``call`` for each item, ``max_concurrency`` at a time. An item's error is its answer."""
        return each(items, call, self._workers)

    def hide(self, text: str) -> str:
        """Masks the step's secrets in the text, in all forms in which they are sent."""
        hidden = self._hidden | (self._token.hidden if self._token else frozenset())
        for secret in sorted(hidden, key=len, reverse=True):
            text = text.replace(secret, "***")
        return text

    def shown(self, value: Any, most: int) -> str:
        """Formats a value of an answer for a message: without secrets, on one line, at most ``most`` characters."""
        return cut(self.hide(one_line(value)), most)

    def clean(self, error: DecommissionError) -> DecommissionError:
        """Returns the error without secrets."""
        text = self.hide(str(error))
        if text == str(error):
            return error
        clean = type(error)(text)
        if isinstance(error, TransientError) and isinstance(clean, TransientError):
            clean.retry_after_seconds = error.retry_after_seconds
        return clean

    def _credentials(self, *texts: Text) -> list[str]:
        nobody = Instance("")  # credentials have no placeholders of an instance
        try:
            return [text.render(Values(nobody, self._secrets), as_it_is) for text in texts]
        except UnfitValueError as error:
            raise ConfigurationError(f"{self.system}: auth: {error}") from None

    def _send(self, request: Request, what: str, guard: Guard | None, *, repeatable: bool) -> Answer:
        for last in (False, True):
            token = self._token.get() if self._token else None
            headers = dict(request.headers)
            if authorization := self._basic or (f"Bearer {token}" if token else None):
                headers["Authorization"] = authorization
            with self._slots:
                answer = self._http.send(
                    request.method,
                    request.url,
                    headers=headers,
                    body=None if request.body is None else request.body.encode(),
                    what=what,
                    repeatable=repeatable,
                    guard=guard,
                )
            if answer.status != 401 or self._token is None or last:
                break
            self._token.forget(str(token))  # revoked early; a request answered with 401 had no effect
        return answer

    # Answers

    def _document(self, answer: Answer, what: str, error: Expression | None, *, json_needed: bool) -> Any:
        if not json_needed and (error is None or not answer.body.strip()):
            return None
        try:
            document = parsed(answer)
        except ValueError as reason:
            begin = self.shown(answer.text, 60) or "nothing"
            raise TransientError(
                f"{self.system} answers {what} with {answer.status} {reason} (is url the API's?): {begin}"
            ) from None
        if error is not None:
            self._look_for_error(document, what, error)
        return document

    def _look_for_error(self, document: Any, what: str, error: Expression) -> None:
        try:
            found = error.search(document)
        except ExpressionError as failed:
            raise ConfigurationError(f"{self.system}: error of {what}: {self.shown(str(failed), 300)}") from None
        if not is_true(found):
            return
        text = self.shown(found, 300)
        kind = AccessError if any(word in text.lower() for word in _DENIED) else TransientError
        raise kind(f"{self.system} answers {what} with an error: {text}")

    def _failure(self, answer: Answer, what: str, error: Expression | None) -> DecommissionError:
        status = answer.status
        if 300 <= status < 400:
            location = answer.headers.get("Location", "").partition("?")[0]
            return ConfigurationError(
                f"{self.system} redirects {what} to {self.shown(location, 200) or 'nowhere'} ({status}). Redirects "
                "are not followed: set url and path to the API's address"
            )
        said = self._said(answer, error)
        if status == 401:
            return AccessError(f"{self.system} refuses the credentials for {what} (401){said}")
        if status == 403:
            return AccessError(f"{self.system}: the credentials have no permission for {what} (403){said}")
        if status in (404, 410):
            return AccessError(
                f"{self.system} answers {what} with {status}, which does not prove that nothing is there: the "
                f"credentials have no permission to see it, or the path is wrong{said}"
            )
        if answer.is_transient or status in _TRANSIENT:
            return answer.failure(f"{self.system} answers {what} with {status}{said}")
        return ConfigurationError(f"{self.system} refuses {what} ({status}){said}")

    def _said(self, answer: Answer, error: Expression | None) -> str:
        """Returns the server's explanation of a failure, unless it is a page for browsers."""
        try:
            document = parsed(answer)
            found = error.search(document) if error else None
            return f": {self.shown(found if is_true(found) else document, 200)}"
        except (ValueError, ExpressionError):
            text = answer.text
        return f": {self.shown(text, 200)}" if text and not text.startswith("<") else ""


def parsed(answer: Answer) -> Any:
    """Parses the JSON of an answer.

    Raises:
        ValueError: it has no readable JSON; the text says why.
    """
    try:
        document = json.loads(answer.body, parse_constant=_not_json)
    except (ValueError, RecursionError):
        raise ValueError("without JSON") from None
    if not _shallow(document):
        raise ValueError(f"with JSON of more than {_DEEPEST} levels")
    return document


def _not_json(constant: str) -> None:
    raise ValueError(constant)  # NaN and Infinity, which Python accepts, but JSON does not allow


def _shallow(document: Any) -> bool:
    level = [document]
    for _ in range(_DEEPEST):
        level = [
            inner
            for value in level
            if isinstance(value, (dict, list))
            for inner in (value.values() if isinstance(value, dict) else value)
        ]
        if not level:
            return True
    return False


def _forms(secrets: Iterable[str]) -> frozenset[str]:
    """Returns the forms in which secrets may return in an answer, or in a message made from one."""
    forms = (
        form
        for secret in secrets
        for form in (secret, secret.strip(), one_line(secret), *(quote_as(secret) for quote_as in _QUOTED))
    )
    return frozenset(filter(str.strip, forms))


def _base64(text: str) -> str:
    return base64.b64encode(text.encode(errors="replace")).decode()


class _Token:
    """An access token, reused until shortly before it expires."""

    def __init__(
        self,
        client: Client,
        http: Http,
        settings: OAuth2,
        client_id: str,
        client_secret: str,
        now: Callable[[], float],
    ) -> None:
        self._client = client
        self._http = http
        self._settings = settings
        self._client_id = client_id
        self._client_secret = client_secret
        self._now = now
        self._lock = threading.Lock()
        self._token: str | None = None
        self._ends_at = 0.0
        self.hidden: frozenset[str] = frozenset()

    def get(self) -> str:
        """Returns a token that is valid for the next request.

        Raises:
            AccessError: the server refuses the client's credentials.
            ConfigurationError, TransientError: the server returned no token.
        """
        with self._lock:
            if self._token is None or self._now() >= self._ends_at:
                self._token, seconds = self._fetch()
                self.hidden |= {self._token}
                self._ends_at = self._now() + max(seconds - _TOKEN_MARGIN_SECONDS, seconds / 2)
            return self._token

    def forget(self, token: str) -> None:
        """Drops a token that the API refused."""
        with self._lock:
            if self._token == token:
                self._token = None

    def _fetch(self) -> tuple[str, float]:
        # Both forms are in use: RFC 6749, 2.3.1. A server that accepts only one refuses the other with 400 or 401.
        answer = self._ask({"client_id": self._client_id, "client_secret": self._client_secret}, {})
        if answer.status in (400, 401):
            pair = f"{quote_plus(self._client_id)}:{quote_plus(self._client_secret)}"
            answer = self._ask({}, {"Authorization": f"Basic {_base64(pair)}"})
        if not answer.ok:
            raise self._failure(answer)
        try:
            document = parsed(answer)
        except ValueError as reason:
            raise TransientError(f"{self._http.system} answers the request for a token {reason}") from None
        token = document.get("access_token") if isinstance(document, dict) else None
        if not isinstance(token, str) or not token or not token.isascii() or not token.isprintable() or " " in token:
            raise ConfigurationError(f"{self._http.system}: the answer has no access_token: is token_url right?")
        if str(document.get("token_type") or "bearer").lower() != "bearer":
            raise ConfigurationError(f"{self._http.system} returns a token of a type other than Bearer")
        return token, _seconds(document.get("expires_in"))

    def _ask(self, credentials: Mapping[str, str], headers: Mapping[str, str]) -> Answer:
        form = {"grant_type": "client_credentials", **credentials}
        if self._settings.scope:
            form["scope"] = self._settings.scope
        return self._http.send(
            "POST",
            self._settings.token_url,
            headers={"Content-Type": "application/x-www-form-urlencoded", "Accept": "application/json", **headers},
            body=urlencode(form).encode(),
            what="the request for a token",
            repeatable=True,
        )

    def _failure(self, answer: Answer) -> DecommissionError:
        if answer.status in (400, 401, 403):
            try:
                document = parsed(answer)
                code = document.get("error") if isinstance(document, dict) else None
            except ValueError:
                code = None
            said = f": {self._client.shown(code, 100)}" if code else ""
            return AccessError(f"{self._http.system} refuses the client's credentials ({answer.status}){said}")
        return about("token", self._client._failure(answer, "the request for a token", None))


def _seconds(value: Any) -> float:
    """Parses ``expires_in``, which some servers send as text."""
    try:
        seconds = float(value)
    except (TypeError, ValueError, OverflowError):
        return _TOKEN_SECONDS
    return seconds if 0 < seconds < 10**9 else _TOKEN_SECONDS
