"""Reads everything that an HTTP step needs: the results of each instance's finds, from all pages."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from itertools import chain
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qsl, urlencode, urljoin, urlsplit

from ...errors import ConfigurationError, DecommissionError
from .expression import ExpressionError, as_text, is_true
from .template import UnfitValueError, variants

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from ...instance import Instance
    from .client import Client
    from .settings import Find, HttpStepSettings
    from .template import Request

_MOST_PAGES = 100


@dataclass(frozen=True)
class Found:
    """The results of one instance's finds: one find for each value that a tag in its template ever had.

    Attributes:
        items: as returned by the server.
        errors: why a find failed. The results of the others are complete.
    """

    items: tuple[Any, ...] = ()
    errors: tuple[DecommissionError, ...] = ()


@dataclass(frozen=True)
class Snapshot:
    """The results by instance id. An instance without a possible find has no entry."""

    found: Mapping[str, Found] = field(default_factory=dict)


def observe(client: Client, settings: HttpStepSettings, instances: Mapping[str, Instance]) -> Snapshot:
    """Runs the finds of each instance. Equal requests are sent once.

    Raises:
        ConfigurationError: a secret is not allowed in its place in the request.
    """
    requests = {instance_id: _requests(client, settings.find, one) for instance_id, one in instances.items()}
    different = {str(n): request for n, request in enumerate(dict.fromkeys(chain(*requests.values())))}
    answers = client.each(different, lambda key: _find(client, settings.find, different[key]))
    by_request = {different[key]: answer for key, answer in answers.items()}
    return Snapshot({i: _found([by_request[request] for request in some]) for i, some in requests.items() if some})


def _found(answers: Iterable[tuple[Any, ...] | DecommissionError]) -> Found:
    items: list[Any] = []
    errors: list[DecommissionError] = []
    for answer in answers:
        if isinstance(answer, DecommissionError):
            errors.append(answer)
        else:
            items += answer
    return Found(tuple(items), tuple(errors))


def _requests(client: Client, find: Find, instance: Instance) -> list[Request]:
    requests = []
    for variant in variants(instance, find.request.tags):
        try:
            requests.append(client.render(find.request, variant))
        except UnfitValueError:
            continue  # the plan reports it if no request is possible
    return list(dict.fromkeys(requests))


def _find(client: Client, find: Find, request: Request) -> tuple[Any, ...]:
    """Reads the items of all pages.

    Raises:
        DecommissionError: not all items could be read.
    """
    items: list[Any] = []
    pages: set[str] = set()
    following: Request | None = request
    while following is not None:
        if following.url in pages:
            raise ConfigurationError(f"{client.system}: find.next leads to a page that was already read")
        if len(pages) == _MOST_PAGES:
            raise ConfigurationError(f"{client.system}: find has more than {_MOST_PAGES} pages. Narrow the request")
        pages.add(following.url)
        document = client.ask(following, "find", find.error, repeatable=True, json_needed=True).document
        items += _items(client, find, document)
        following = _next(client, find, following, document)
    return tuple(items)


def _items(client: Client, find: Find, document: Any) -> list[Any]:
    try:
        items = find.items.search(document)
    except ExpressionError as error:
        raise ConfigurationError(f"{client.system}: find.items: {client.shown(str(error), 300)}") from None
    if not isinstance(items, list):
        said = client.shown(document, 200)
        raise ConfigurationError(
            f"{client.system}: find.items ({find.items.text}) is not a list in the answer, which does not prove that "
            f"nothing is there: {said}"
        )
    return items


def _next(client: Client, find: Find, request: Request, document: Any) -> Request | None:
    """Returns the request for the next page: the same with another query. None after the last page."""
    if find.next is None:
        return None
    try:
        value = find.next.search(document)
    except ExpressionError as error:
        raise ConfigurationError(f"{client.system}: find.next: {client.shown(str(error), 300)}") from None
    if not is_true(value):
        return None
    base, _, query = request.url.partition("?")
    if isinstance(value, dict):
        chosen = {name: as_text(part) for name, part in value.items()}
        if not any(is_true(part) for part in value.values()):
            return None
        if all(chosen.values()):
            kept = [(name, part) for name, part in parse_qsl(query, keep_blank_values=True) if name not in chosen]
            return replace(request, url=f"{base}?{_encoded([*kept, *chosen.items()])}")
    elif isinstance(value, str) and (following := _same_place(base, request.url, value)) is not None:
        return replace(request, url=f"{base}?{following}")
    raise ConfigurationError(
        f"{client.system}: find.next is {client.shown(value, 80)}: it must be a URL of the same scheme, host, "
        "port and path, or an object of query parameters"
    )


def _encoded(pairs: list[tuple[str, Any]]) -> str:
    return urlencode(pairs, errors="replace")


def _same_place(base: str, url: str, value: str) -> str | None:
    """Returns the query of the next page's URL; None if the URL leads elsewhere."""
    try:
        following = urlsplit(urljoin(url, value))
        same = _place(following.geturl()) == _place(base)
    except ValueError:
        return None
    fine = same and following.query.isascii() and following.query.isprintable() and " " not in following.query
    return following.query if fine and "@" not in following.netloc else None


def _place(url: str) -> tuple[str, str, int | None, str]:
    """Returns scheme, host, port and path of a URL.

    Raises:
        ValueError: the port is invalid.
    """
    parts = urlsplit(url)
    port = parts.port or {"http": 80, "https": 443}.get(parts.scheme)
    return parts.scheme, (parts.hostname or "").lower(), port, parts.path or "/"
