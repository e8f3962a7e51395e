"""The Chef Infra Server, as far as the step needs it: a Protocol for batches, and PyChef behind it.

A name that is asked for gets its own answer, so one node that cannot be read or removed is no other's failure.
"""

from __future__ import annotations

import ipaddress
import re
import ssl
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol, TypeVar
from urllib.parse import quote, urlsplit

import requests
import urllib3
from requests.adapters import HTTPAdapter

from ..errors import AccessError, ConfigurationError, DecommissionError, PermanentError, TransientError
from .pychef_compat import Key, chef

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

    from ..config import ChefSettings
    from ..deadline import Deadline

T = TypeVar("T")

# What a server accepts as a name (Chef's own validation; goiardi 0.11.10 answers 400 to others). Nothing else can
# exist there. "." and ".." are put aside: an HTTP client takes them out of the path, and DELETE /nodes/.. would
# become DELETE /.
_NODE_NAME = re.compile(r"(?!\.{1,2}\Z)[A-Za-z0-9_.:-]+\Z")
_CLIENT_NAME = re.compile(r"(?!\.{1,2}\Z)[A-Za-z0-9_.-]+\Z")

# A query of 100 ids makes a URL of about 4.5 KB; nginx before a Chef server takes 8 KB unless told otherwise.
_TERMS_PER_SEARCH = 100
_CHARACTERS_PER_SEARCH = 6000
_ROWS_PER_PAGE = 1000
# A Chef server over OpenSearch neither counts nor shows more matches than this (its max_result_window).
_DEEPEST = 10_000
# From so many names on, one listing of all names is cheaper for the server than a question for each.
_LIST_FROM = 9
_CONNECT_TIMEOUT_SECONDS = 5.0
_MOST_BYTES = 64 * 1024 * 1024
# So many calls of one batch may fail to reach the server; then the rest is handed back without trying.
_LOST_CALLS = 3

# The path of one object; what the server refuses there (as a proxy may a long name) it refuses for that one alone.
_ONE_OBJECT = re.compile(r"/(?:nodes|clients)/[^/]+\Z")
_REFUSALS = (400, 413, 414, 422)

# The attributes that a partial search brings, each as its path in the node's merged attributes.
_ATTRIBUTES = {
    "instance_id": ("ec2", "instance_id"),
    "local_ipv4": ("ec2", "local_ipv4"),
    "public_ipv4": ("ec2", "public_ipv4"),
    "local_hostname": ("ec2", "local_hostname"),
    "public_hostname": ("ec2", "public_hostname"),
    "macs": ("ec2", "network_interfaces_macs"),
    "ipaddress": ("ipaddress",),
}

_WHERE_AND_WHEN = {
    "instance_id": ("ec2", "instance_id"),
    "account_id": ("ec2", "account_id"),
    "region": ("ec2", "region"),
    "availability_zone": ("ec2", "placement_availability_zone"),
    "local_hostname": ("ec2", "local_hostname"),
    "public_hostname": ("ec2", "public_hostname"),
    "ohai_time": ("ohai_time",),
}


def is_node_name(name: str) -> bool:
    """Whether a Chef server can hold a node of that name."""
    return bool(_NODE_NAME.match(name))


def is_client_name(name: str) -> bool:
    """Whether a Chef server can hold a client of that name: as a node's, without the colon."""
    return bool(_CLIENT_NAME.match(name))


@dataclass(frozen=True)
class ChefNode:
    """A node. ``instance_id`` is its own ``ec2.instance_id``; None where it bears none (it never converged)."""

    name: str
    instance_id: str | None = None
    vpc_id: str | None = None
    private_ips: tuple[str, ...] = ()
    public_ips: tuple[str, ...] = ()
    ipv6_addresses: tuple[str, ...] = ()
    private_dns_names: tuple[str, ...] = ()
    public_dns_names: tuple[str, ...] = ()


@dataclass(frozen=True)
class ConvergedNode:
    """A node that bears an EC2 id, with what Ohai wrote of where and when; None and empty where it wrote nothing.

    Attributes:
        dns_names: as EC2 named the instance.
        ohai_time: when Ohai last ran on it, in seconds since 1970.
    """

    name: str
    instance_id: str
    account_id: str | None = None
    region: str | None = None
    availability_zone: str | None = None
    dns_names: tuple[str, ...] = ()
    ohai_time: float | None = None


@dataclass(frozen=True)
class NodeSearch:
    """What a search showed.

    Attributes:
        nodes: what matched, with the data that the node has now; the index that matched may be older.
        hidden: how many more the search counted than it showed. A Chef server does so for a node that was
            removed a moment ago, and, with ``strict_search_result_acls``, for one that the client may not read.
    """

    nodes: tuple[ChefNode, ...] = ()
    hidden: int = 0


class ChefServer(Protocol):
    """A Chef server, asked for a batch at a time.

    Every method may raise a DecommissionError for the whole batch; where a value of the answer can be an error,
    it stands for that name alone. Names that no server can hold are answered as absent, without a call.
    """

    def search_nodes_by_instance_id(self, instance_ids: Iterable[str]) -> NodeSearch:
        """The nodes that the index has under these EC2 ids; compare the node's own id before you believe it."""

    def search_nodes_by_name(self, names: Iterable[str]) -> NodeSearch:
        """The nodes that the index has under these names."""

    def nodes(self, names: Iterable[str]) -> Mapping[str, ChefNode | DecommissionError | None]:
        """Each node as it is now, not as the index has it; None where there is none."""

    def converged_nodes(self, prefix: str) -> Iterator[ConvergedNode]:
        """Every node whose own EC2 id begins so, a page at a time. One may come twice, or not at all, where nodes
        are written or deleted meanwhile."""

    def clients(self, names: Iterable[str]) -> Mapping[str, bool | DecommissionError]:
        """Whether a client of each name exists."""

    def delete_nodes(self, names: Iterable[str]) -> Mapping[str, bool | DecommissionError]:
        """Deletes nodes: True where this call removed it, False where it was gone already."""

    def delete_clients(self, names: Iterable[str]) -> Mapping[str, bool | DecommissionError]:
        """Deletes clients, and with each its key: True and False as for nodes."""


@dataclass(frozen=True)
class _Page:
    """A page of a search: the attributes of its nodes, and how many match so far, or in all where that is told."""

    rows: Sequence[Mapping[str, Any]]
    counted: int


class _NotFoundError(DecommissionError):
    """The server says that there is no such object."""


class _NoConnectionError(TransientError):
    """The server was not reached, or the connection broke."""


class _NoAnswerError(TransientError):
    """The server did not answer in time."""


class _Api(chef.ChefAPI):  # type: ignore[misc]  # PyChef has no types
    """PyChef's ChefAPI over pooled connections, with time-outs, and with this package's errors.

    PyChef waits for ever, asks a failed connection for an attribute that Python 3 has not (``e.message``), and
    takes a redirection for an answer; so nothing of that kind gets back to it.
    """

    def __init__(
        self, settings: ChefSettings, key: Key, deadline: Callable[[], Deadline], verify: bool | str
    ) -> None:
        # By PyChef's default we would be a client of Chef 0.10.8, of 2012, which a server may refuse.
        super().__init__(settings.server_url, key, settings.client_name, version="12.0.0", ssl_verify=verify)
        self.host = urlsplit(settings.server_url).netloc.rpartition("@")[2]
        self._deadline = deadline
        self._timeout = settings.request_timeout_seconds
        self.session = requests.Session()
        self.session.trust_env = False  # no proxy, no .netrc: the module's settings are all there is
        adapter = HTTPAdapter(pool_connections=1, pool_maxsize=settings.max_concurrency)
        self.session.mount("http://", adapter)
        self.session.mount("https://", adapter)

    def _request(self, method: str, url: str, data: Any, headers: Any) -> requests.Response:
        what = f"{method} {urlsplit(url).path}"
        timeout = self._deadline().timeout(self._timeout, f"{what} on the Chef server {self.host}")
        end = time.monotonic() + timeout
        try:
            response = self.session.request(
                method,
                url,
                data=data,
                headers=headers,
                verify=self.ssl_verify,
                timeout=(min(timeout, _CONNECT_TIMEOUT_SECONDS), timeout),
                allow_redirects=False,
                stream=True,
            )
            with response:
                response._content = self._read(response, end, what)
        except (requests.Timeout, urllib3.exceptions.TimeoutError):
            raise _NoAnswerError(f"Chef server {self.host} did not answer {what} within {timeout:.0f} s") from None
        except (requests.ConnectionError, urllib3.exceptions.ProtocolError, OSError) as error:
            if isinstance(error, (requests.exceptions.InvalidURL, requests.exceptions.InvalidHeader)):
                raise ConfigurationError(f"Chef server {self.host}: {what} cannot be sent: {error}") from None
            cause = _root_cause(error)
            reason = str(cause)[:200] or type(cause).__name__
            if isinstance(cause, ssl.SSLCertVerificationError):
                raise ConfigurationError(
                    f"Chef server {self.host}: its certificate is not trusted: {reason}"
                ) from None
            raise _NoConnectionError(f"Chef server {self.host}: no connection for {what} ({reason})") from None
        except urllib3.exceptions.HTTPError as error:
            raise TransientError(f"Chef server {self.host} gave an unreadable answer to {what}: {error}") from None
        self._judge(response, what)
        return response

    def _read(self, response: requests.Response, end: float, what: str) -> bytes:
        """The body. A server that sends it drop by drop does not outlast the call's time."""
        parts: list[bytes] = []
        size = 0
        while part := response.raw.read1(65536, decode_content=True):
            parts.append(part)
            size += len(part)
            if time.monotonic() > end:
                raise _NoAnswerError(f"Chef server {self.host} was too slow with its answer to {what}")
            if size > _MOST_BYTES:
                raise TransientError(f"Chef server {self.host} gave an answer to {what} that does not end")
        return b"".join(parts)

    def _judge(self, response: requests.Response, what: str) -> None:
        status = response.status_code
        if status < 300:
            return
        said = _error_text(response)
        told = f": {said}" if said else ""
        if status < 400:
            target = response.headers.get("Location", "elsewhere")
            raise ConfigurationError(
                f"Chef server {self.host} redirects {what} to {target}; chef.server_url is wrong"
            )
        if status == 401:
            raise ConfigurationError(
                f"Chef server {self.host} does not accept the signature of client {self.client}: chef_client_key or "
                f"chef.client_name is wrong, or the clocks differ by more than 15 minutes{told}"
            )
        if status == 403:
            raise AccessError(f"Chef client {self.client} may not {what} on {self.host}{told}")
        if status == 404 and said:
            raise _NotFoundError(f"Chef server {self.host} knows no {what}{told}")
        if status in (404, 408, 425, 429) or status >= 500:
            raise TransientError(f"Chef server {self.host} answered {what} with {status}{told}")
        if status in _REFUSALS and _ONE_OBJECT.search(what):
            raise PermanentError(f"Chef server {self.host} refused {what} with {status}{told}")
        raise ConfigurationError(f"Chef server {self.host} refused {what} with {status}{told}")


def _error_text(response: requests.Response) -> str:
    """What a Chef server says in ``{"error": [...]}``; empty where the answer is not a Chef server's."""
    try:
        said = response.json()["error"]
    except (ValueError, RecursionError, LookupError, TypeError):
        return ""
    return ", ".join(str(part) for part in said)[:200] if isinstance(said, list) else str(said)[:200]


def _root_cause(error: BaseException) -> BaseException:
    """The last link of the chain that urllib3 makes of an OSError, which is the readable one."""
    while error.__context__ is not None:
        error = error.__context__
    return error


class PyChefServer:
    """The real server, over PyChef.

    Args:
        settings: server, client and limits.
        key_pem: the client's private key.
        deadline: gives the deadline of the invocation that asks.
        verify: as requests has it: True, False, or the path of a CA bundle.

    Raises:
        ConfigurationError: the key is not an RSA private key.
    """

    def __init__(
        self, settings: ChefSettings, key_pem: str, deadline: Callable[[], Deadline], verify: bool | str = True
    ) -> None:
        self._api = _Api(settings, Key(key_pem), deadline, verify)
        self._workers = settings.max_concurrency

    def close(self) -> None:
        """Closes the pooled connections."""
        self._api.session.close()

    def search_nodes_by_instance_id(self, instance_ids: Iterable[str]) -> NodeSearch:
        return self._search("ec2_instance_id", instance_ids)

    def search_nodes_by_name(self, names: Iterable[str]) -> NodeSearch:
        return self._search("name", (name for name in names if is_node_name(name)))

    def nodes(self, names: Iterable[str]) -> Mapping[str, ChefNode | DecommissionError | None]:
        wanted = list(dict.fromkeys(names))
        existing = self._existing("nodes", [name for name in wanted if is_node_name(name)])
        found = self._each(existing, self._node)
        return {name: found.get(name) for name in wanted}

    def converged_nodes(self, prefix: str) -> Iterator[ConvergedNode]:
        prefixes = [prefix]
        while prefixes:
            prefix = prefixes.pop()
            for answer in self._pages(f"ec2_instance_id:{_escaped(prefix)}*", _WHERE_AND_WHEN):
                if answer.counted >= _DEEPEST:
                    prefixes += [prefix + digit for digit in "0123456789abcdef"]
                    break
                found = (_converged_node(data["name"], data) for data in answer.rows)
                yield from (node for node in found if node and node.instance_id.startswith(prefix))

    def clients(self, names: Iterable[str]) -> Mapping[str, bool | DecommissionError]:
        wanted = list(dict.fromkeys(names))
        possible = [name for name in wanted if is_client_name(name)]
        if len(possible) >= _LIST_FROM:
            listed = set(self._existing("clients", possible))
            return {name: name in listed for name in wanted}
        found = self._each(possible, lambda name: self._get(_path("clients", name)) is not None)
        return {name: found.get(name, False) for name in wanted}

    def delete_nodes(self, names: Iterable[str]) -> Mapping[str, bool | DecommissionError]:
        return self._delete("nodes", names, is_node_name)

    def delete_clients(self, names: Iterable[str]) -> Mapping[str, bool | DecommissionError]:
        return self._delete("clients", names, is_client_name)

    def _search(self, field: str, values: Iterable[str]) -> NodeSearch:
        """One joined query for a hundred values.

        The rows hold the nodes as they are now; only the match is the index's, which lags (chef-server,
        chef_wm_search.erl: ids from the index, objects from the database).
        """
        queries = _joined_queries([f"{field}:{_escaped(value)}" for value in dict.fromkeys(values)])
        nodes: dict[str, ChefNode] = {}
        hidden = 0
        for answer in self._each(queries, self._search_one).values():
            if isinstance(answer, DecommissionError):
                raise answer
            nodes |= {node.name: node for node in answer.nodes}
            hidden += answer.hidden
        return NodeSearch(tuple(nodes.values()), hidden)

    def _search_one(self, query: str) -> NodeSearch:
        nodes: list[ChefNode] = []
        counted = 0
        for page in self._pages(query, _ATTRIBUTES):
            nodes += [_chef_node(data["name"], data) for data in page.rows]
            counted = page.counted
        return NodeSearch(tuple(nodes), max(0, counted - len(nodes)))

    def _pages(self, query: str, attributes: Mapping[str, tuple[str, ...]]) -> Iterator[_Page]:
        body = {"name": ["name"], **{key: list(path) for key, path in attributes.items()}}
        start, counted, page = 0, 0, _ROWS_PER_PAGE
        # A Chef server's total counts all that match, of which a page may show fewer; goiardi's counts the page.
        # So the end is where the page is short and the total is reached, and never one of the two alone.
        while page >= _ROWS_PER_PAGE or start < counted:
            path = f"/search/node?q={quote(query)}&start={start}&rows={_ROWS_PER_PAGE}"
            try:
                answer = self._call("POST", path, body)
            except _NotFoundError as error:
                raise ConfigurationError(
                    f"{error}; chef.server_url must name the organization, where there is one"
                ) from None
            rows, total = answer.get("rows"), answer.get("total")
            if not isinstance(rows, list) or not isinstance(total, int):
                raise self._unreadable("a search")
            page = len(rows)
            counted = max(counted, total, start + page)
            yield _Page([self._row(row) for row in rows if row is not None], counted)
            start += _ROWS_PER_PAGE

    def _row(self, row: Any) -> dict[str, Any]:
        data = row.get("data") if isinstance(row, dict) else None
        if not isinstance(data, dict) or not isinstance(data.get("name"), str):
            raise self._unreadable("a search")
        return data

    def _existing(self, kind: str, names: Sequence[str]) -> Sequence[str]:
        """Those of the names that a listing has; all of them where a listing is not worth it."""
        if len(names) < _LIST_FROM:
            return names
        listed = self._call("GET", f"/{kind}")
        return [name for name in names if name in listed]

    def _node(self, name: str) -> ChefNode | None:
        answer = self._get(_path("nodes", name))
        if answer is None:
            return None
        if answer.get("name") != name:
            raise self._unreadable(f"GET node {name}")
        # Chef's order of precedence, highest first; ohai writes ec2 as automatic.
        levels = [answer.get(level) for level in ("automatic", "override", "normal", "default")]
        return _chef_node(name, {key: _first(levels, path) for key, path in _ATTRIBUTES.items()})

    def _get(self, path: str) -> dict[str, Any] | None:
        try:
            return self._call("GET", path)
        except _NotFoundError:
            return None

    def _delete(
        self, kind: str, names: Iterable[str], possible: Callable[[str], bool]
    ) -> Mapping[str, bool | DecommissionError]:
        wanted = list(dict.fromkeys(names))
        done = self._each([name for name in wanted if possible(name)], lambda name: self._delete_one(kind, name))
        return {name: done.get(name, False) for name in wanted}

    def _delete_one(self, kind: str, name: str) -> bool:
        path = _path(kind, name)
        try:
            return self._delete_once(path)
        except _NoConnectionError:
            self._delete_once(path)
            return True  # where it is gone by now the first request did it, and its answer was lost

    def _delete_once(self, path: str) -> bool:
        try:
            self._api.api_request("DELETE", path)
        except _NotFoundError:
            return False
        except (ValueError, RecursionError):
            raise self._unreadable(f"DELETE {path}") from None
        return True

    def _call(self, method: str, path: str, body: Any = None) -> dict[str, Any]:
        """One request that may be repeated. A broken connection, as a pooled one that idled, is tried once more."""
        try:
            try:
                answer = self._api.api_request(method, path, data=body)
            except _NoConnectionError:
                answer = self._api.api_request(method, path, data=body)
        except (ValueError, RecursionError):
            raise self._unreadable(f"{method} {path.partition('?')[0]}") from None
        if not isinstance(answer, dict):
            raise self._unreadable(f"{method} {path.partition('?')[0]}")
        return answer

    def _unreadable(self, what: str) -> TransientError:
        return TransientError(f"Chef server {self._api.host} gave an unreadable answer to {what}")

    def _each(self, items: Sequence[str], call: Callable[[str], T]) -> dict[str, T | DecommissionError]:
        """Calls for each item, a few at a time; an item's error is its answer."""
        lost: list[DecommissionError] = []

        def one(item: str) -> T | DecommissionError:
            if len(lost) >= _LOST_CALLS:
                return lost[0]
            try:
                return call(item)
            except DecommissionError as error:
                if isinstance(error, (_NoConnectionError, _NoAnswerError)):
                    lost.append(error)
                return error

        if len(items) == 1:
            return {items[0]: one(items[0])}
        if not items:
            return {}
        with ThreadPoolExecutor(max_workers=min(self._workers, len(items))) as pool:
            return dict(zip(items, pool.map(one, items), strict=True))


def _path(kind: str, name: str) -> str:
    # goiardi checks the signature against the decoded path, a Chef server against the raw one. The characters that
    # a name may have are the same in both, so nothing is ever quoted here; a colon least of all.
    return f"/{kind}/{quote(name, safe=':')}"


def _escaped(value: str) -> str:
    """The value as one term of a query: what Lucene's syntax gives a meaning is escaped."""
    return re.sub(r"([^A-Za-z0-9_.-])", r"\\\1", value)


def _joined_queries(terms: Iterable[str]) -> list[str]:
    queries: list[str] = []
    count = 0
    for term in terms:
        if queries and count < _TERMS_PER_SEARCH and len(queries[-1]) + len(term) < _CHARACTERS_PER_SEARCH:
            queries[-1] += f" OR {term}"
            count += 1
        else:
            queries.append(term)
            count = 1
    return queries


def _first(levels: Iterable[Any], path: Sequence[str]) -> Any:
    """The value at the path in the first level that has one."""
    for level in levels:
        value = level
        for key in path:
            value = value.get(key) if isinstance(value, dict) else None
        if value is not None:
            return value
    return None


def _chef_node(name: str, data: Mapping[str, Any]) -> ChefNode:
    macs = data.get("macs")
    interfaces = [mac for mac in macs.values() if isinstance(mac, dict)] if isinstance(macs, dict) else []
    own_id = data.get("instance_id")
    private = _addresses(4, data.get("local_ipv4"), *(mac.get("local_ipv4s") for mac in interfaces))
    return ChefNode(
        name=name,
        # A value of another type is no id of ours, and not the same as none.
        instance_id=str(own_id) if own_id not in (None, "") else None,
        vpc_id=next((mac["vpc_id"] for mac in interfaces if isinstance(mac.get("vpc_id"), str)), None),
        private_ips=private or _addresses(4, data.get("ipaddress")),
        public_ips=_addresses(4, data.get("public_ipv4"), *(mac.get("public_ipv4s") for mac in interfaces)),
        ipv6_addresses=_addresses(6, *(mac.get("ipv6s") for mac in interfaces)),
        private_dns_names=_texts(data.get("local_hostname")),
        public_dns_names=_texts(data.get("public_hostname")),
    )


def _converged_node(name: str, data: Mapping[str, Any]) -> ConvergedNode | None:
    own_id = data.get("instance_id")
    if own_id in (None, ""):
        return None  # it bore one when the index took it in
    time_of = data.get("ohai_time")
    try:
        ohai_time = float(time_of) if isinstance(time_of, (int, float, str)) and time_of is not True else None
    except ValueError:
        ohai_time = None
    return ConvergedNode(
        name=name,
        instance_id=str(own_id),
        account_id=str(data["account_id"]) if data.get("account_id") else None,
        region=next(iter(_texts(data.get("region"))), None),
        availability_zone=next(iter(_texts(data.get("availability_zone"))), None),
        dns_names=_texts(data.get("local_hostname"), data.get("public_hostname")),
        ohai_time=ohai_time,
    )


def _texts(*values: Any) -> tuple[str, ...]:
    """Each text once. EC2's metadata writes several values as lines of one text."""
    words = (word for value in values if isinstance(value, str) for word in value.split())
    return tuple(dict.fromkeys(words))


def _addresses(version: int, *values: Any) -> tuple[str, ...]:
    """Those of the values that are addresses of that version, in their shortest form."""
    found: dict[str, None] = {}
    for text in _texts(*values):
        try:
            address = ipaddress.ip_address(text)
        except ValueError:
            continue
        if address.version == version:
            found[address.compressed] = None
    return tuple(found)
