"""The settings of an HTTP step: one entry of ``http_steps`` in the configuration."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, TypeVar
from urllib.parse import unquote, urlsplit

from ...errors import ConfigurationError
from .expression import Expression
from .template import Allowed, RequestTemplate, Text, parse, parse_body

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from ...strict_json import Section

T = TypeVar("T")

INSTANCE_ID, PRIVATE_IP, PRIVATE_DNS_NAME = "{instance_id}", "{private_ip}", "{private_dns_name}"
EQUALS = (INSTANCE_ID, PRIVATE_IP, PRIVATE_DNS_NAME)
GONE = frozenset({404, 410})

_FIND_METHODS = ("GET", "POST")
_REMOVE_METHODS = ("DELETE", "POST", "PUT", "PATCH", "GET")
_URL = re.compile(r"[\x21-\x7e]*")
# What RFC 9110, 5.6.2 and 5.5, allows.
_HEADER_NAME = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_HEADER_VALUE = re.compile(r"[\x20-\x7e]*")
# These headers control where a request goes or ends; only the client sets them.
_RESERVED_HEADERS = frozenset(
    {"host", "content-length", "transfer-encoding", "connection", "upgrade", "te", "trailer"}
)
_DEFAULT_HEADERS = {"Accept": "application/json", "Content-Type": "application/json"}


@dataclass(frozen=True)
class Find:
    """The request that lists candidates.

    Attributes:
        items: the list of items in an answer.
        id: an item's id, text or a whole number.
        next: the next page: a URL or path that differs from the current one only in the query, or an object of query
            parameters that replace those of the current page; nothing after the last page. None reads one page.
        error: the error in a 2xx answer, if there is one.
    """

    request: RequestTemplate
    items: Expression
    id: Expression
    next: Expression | None = None
    error: Expression | None = None


@dataclass(frozen=True)
class Prove:
    """The proof: the value of ``field`` equals that of ``equals``, one of ``EQUALS``, exactly."""

    field: Expression
    equals: str = INSTANCE_ID


@dataclass(frozen=True)
class Remove:
    """The request that removes or changes one item.

    Attributes:
        gone: statuses that say that the item does not exist. They count only if a new find does not show it.
        error: as in ``Find``.
    """

    request: RequestTemplate
    gone: frozenset[int] = GONE
    error: Expression | None = None


@dataclass(frozen=True)
class Basic:
    """Basic authentication. https://www.rfc-editor.org/rfc/rfc7617"""

    username: Text
    password: Text


@dataclass(frozen=True)
class OAuth2:
    """OAuth 2.0 client credentials. https://www.rfc-editor.org/rfc/rfc6749#section-4.4"""

    token_url: str
    client_id: Text
    client_secret: Text
    scope: str | None = None


@dataclass(frozen=True)
class HttpStepSettings:
    """One HTTP step.

    Attributes:
        name: the name in reports and in the names of its secrets (``http_steps.<name>.<secret>``).
        url: scheme, host, port and the first part of the path of all requests.
        secrets: the names of its secrets.
        keep: an item for which one of these is true is never removed.
        auth: None if headers authenticate.
    """

    name: str
    url: str
    find: Find
    prove: Prove
    remove: Remove
    secrets: tuple[str, ...] = ()
    keep: tuple[Expression, ...] = ()
    auth: Basic | OAuth2 | None = None
    request_timeout_seconds: float = 10.0
    max_concurrency: int = 4


@dataclass(frozen=True)
class _Step:
    """The parts of a step that the readers of its other parts need."""

    url: str
    headers: Mapping[str, str] = field(default_factory=dict)
    secrets: tuple[str, ...] = ()
    auth: bool = False


def http_step(name: str, section: Section) -> HttpStepSettings | None:
    """Reads one entry of ``http_steps``. Adds errors to the section; returns None if there are any."""
    before = len(section.errors)
    secrets = section.texts("secrets")
    step = _Step(_url(section, "url"), section.text_map("headers"), secrets, section.get("auth") is not None)
    found = {
        "find": section.section("find", lambda s: _find(s, step)),
        "prove": section.section("prove", _prove),
        "remove": section.section("remove", lambda s: _remove(s, step)),
    }
    for key, value in found.items():
        if section.get(key) is None and value is None:
            section.wrong(key, "an object", None)
    keep = tuple(_read(section, "keep", text, Expression) for text in section.texts("keep"))
    auth = section.section("auth", lambda s: _auth(s, secrets))
    timeout = section.number("request_timeout_seconds", default=10, least=1, most=60)
    concurrency = int(section.number("max_concurrency", default=4, least=1, most=32))
    if len(section.errors) > before:
        return None
    return HttpStepSettings(
        name=name,
        url=step.url,
        **found,
        secrets=secrets,
        keep=tuple(e for e in keep if e),
        auth=auth,
        request_timeout_seconds=timeout,
        max_concurrency=concurrency,
    )


def _find(section: Section, step: _Step) -> Find | None:
    request = _request(section, step, _FIND_METHODS, Allowed(step.secrets))
    items, item_id = _expression(section, "items"), _expression(section, "id")
    following, error = _optional_expression(section, "next"), _optional_expression(section, "error")
    return Find(request, items, item_id, following, error) if request and items and item_id else None


def _prove(section: Section) -> Prove | None:
    found, equals = _expression(section, "field"), section.get("equals")
    if equals not in EQUALS:
        section.wrong("equals", f"exactly one of {', '.join(EQUALS)}", equals)
        return None
    return Prove(found, equals) if found else None


def _remove(section: Section, step: _Step) -> Remove | None:
    request = _request(section, step, _REMOVE_METHODS, Allowed(step.secrets, item=True))
    error, gone = _optional_expression(section, "error"), section.get("gone")
    if gone is not None and not (isinstance(gone, list) and all(map(_is_refusal, gone))):
        section.wrong("gone", "a list of HTTP statuses from 400 to 499", gone)
        return None
    return Remove(request, GONE if gone is None else frozenset(map(int, gone)), error) if request else None


def _is_refusal(status: object) -> bool:
    return isinstance(status, int) and not isinstance(status, bool) and 400 <= status <= 499


def _auth(section: Section, secrets: tuple[str, ...]) -> Basic | OAuth2 | None:
    basic = section.section("basic", lambda s: _basic(s, secrets))
    oauth2 = section.section("oauth2", lambda s: _oauth2(s, secrets))
    if (section.get("basic") is None) == (section.get("oauth2") is None):
        section.wrong("", "either basic or oauth2", section.value)
    found: Basic | OAuth2 | None = basic or oauth2
    return found


def _basic(section: Section, secrets: tuple[str, ...]) -> Basic | None:
    username = _credential(section, "username", secrets)
    password = _credential(section, "password", secrets, secret=True)
    return Basic(username, password) if username and password else None


def _oauth2(section: Section, secrets: tuple[str, ...]) -> OAuth2 | None:
    token_url = _url(section, "token_url")
    client_id = _credential(section, "client_id", secrets)
    client_secret = _credential(section, "client_secret", secrets, secret=True)
    scope = section.optional_text("scope")
    return OAuth2(token_url, client_id, client_secret, scope) if client_id and client_secret else None


def _credential(section: Section, key: str, secrets: tuple[str, ...], *, secret: bool = False) -> Text | None:
    """Reads the name of one of the step's secrets, or text with {secret:NAME}; with ``secret``, no other text.

    Anyone who may read the function can read the configuration, so it must not contain a secret.
    """
    value = section.text(key)
    if not value:
        return None
    text = f"{{secret:{value}}}" if value in secrets else value
    found = _read(section, key, text, lambda t: parse(t, Allowed(secrets, names=False)))
    if found and secret and all(isinstance(part, str) for part in found.parts):
        # The value is not quoted, because it may be the secret itself.
        section.errors.append(
            f"{section.path}.{key}: expected the name of one of the step's secrets ({', '.join(secrets) or 'none'})"
        )
        return None
    return found


def _request(section: Section, step: _Step, methods: tuple[str, ...], allowed: Allowed) -> RequestTemplate | None:
    before = len(section.errors)
    method = section.get("method") or methods[0]
    if method not in methods:
        section.wrong("method", f"one of {', '.join(methods)}", method)
    path = _path(section, step.url, allowed)
    query = {
        key: _read(section, f"query.{key}", text, lambda t: parse(t, allowed))
        for key, text in section.text_map("query").items()
    }
    body = section.optional_text("body")
    parsed_body = _read(section, "body", body, lambda t: parse_body(t, allowed)) if body else None
    headers = _headers(section, step, allowed, body=body is not None)
    if len(section.errors) > before or path is None:
        return None
    parsed_query = {key: text for key, text in query.items() if text is not None}
    return RequestTemplate(method, step.url, path, parsed_query, headers, parsed_body)


def _path(section: Section, url: str, allowed: Allowed) -> Text | None:
    value = section.get("path")
    value = "" if value is None else value
    if not isinstance(value, str):
        section.wrong("path", "a string", value)
        return None
    parsed = _read(section, "path", value, lambda t: parse(t, allowed))
    if parsed is None:
        return None
    plain = "".join(part if isinstance(part, str) else "x" for part in parsed.parts)
    resolved = {".", ".."} & set(unquote(plain.partition("?")[0]).replace("\\", "/").split("/"))
    if not _URL.fullmatch(plain) or "#" in plain or "\\" in plain or resolved:
        section.wrong("path", "printable ASCII without a space, #, \\ or a segment of dots only", value)
    elif url and value and not urlsplit(url).path and not value.startswith(("/", "?")):
        section.wrong("path", "a path that begins with /, because url has no path", value)
    return parsed


def _headers(section: Section, step: _Step, allowed: Allowed, *, body: bool) -> dict[str, Text]:
    """Merges the headers of the step and of the request. The request's own take precedence; case is ignored."""
    defaults = {name: value for name, value in _DEFAULT_HEADERS.items() if body or name != "Content-Type"}
    chosen: dict[str, tuple[str, str]] = {}
    for name, text in [*defaults.items(), *step.headers.items(), *section.text_map("headers").items()]:
        chosen[name.lower()] = (name, text)
    headers = {}
    for name, text in chosen.values():
        if not _HEADER_NAME.fullmatch(name) or name.lower() in _RESERVED_HEADERS:
            section.wrong("headers", f"names of headers, without {', '.join(sorted(_RESERVED_HEADERS))}", name)
        elif step.auth and name.lower() == "authorization":
            section.errors.append(f"{section.path}.headers: auth sets Authorization; give only one of the two")
        elif not _HEADER_VALUE.fullmatch(text):
            section.errors.append(f"{section.path}.headers.{name}: expected printable ASCII characters only")
        elif parsed := _read(section, f"headers.{name}", text, lambda t: parse(t, allowed)):
            headers[name] = parsed
    return headers


def _url(section: Section, key: str) -> str:
    """Reads a URL unchanged, because a trailing slash affects what is appended to it."""
    value = section.text(key)
    try:
        parts = urlsplit(value)
        fine = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
        fine = fine and not (set("?#{}\\") & set(value)) and "@" not in parts.netloc
    except ValueError:
        fine = False
    if value and not (fine and _URL.fullmatch(value)):
        # The value is not quoted, because it may contain a password.
        section.errors.append(
            f"{section.path}.{key}: expected a URL that begins with http:// or https:// and names a host, without "
            "user, query, fragment, placeholder or space"
        )
        return ""
    return value


def _expression(section: Section, key: str) -> Expression | None:
    text = section.text(key)
    return _read(section, key, text, Expression) if text else None


def _optional_expression(section: Section, key: str) -> Expression | None:
    text = section.optional_text(key)
    return _read(section, key, text, Expression) if text else None


def _read(section: Section, key: str, text: str, read: Callable[[str], T]) -> T | None:
    try:
        return read(text)
    except ConfigurationError as error:
        section.errors.append(f"{section.path}.{key}: {error}")
        return None
