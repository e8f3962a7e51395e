"""The part of the Chef Infra Server's API that the step needs: a Protocol for batches, implemented with PyChef.

Each requested name gets its own answer, so a failure for one node does not affect the others.
"""

from __future__ import annotations

import ipaddress
import json
import math
import re
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Protocol, TypeVar
from urllib.parse import quote, urlsplit

from ..errors import AccessError, ConfigurationError, DecommissionError, PermanentError, TransientError
from .chef_signature import signed_headers
from .http import Answer, Http, each, host_of, segment
from .pychef_compat import Key, chef

if TYPE_CHECKING:
    import ssl
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

    from ..config import ChefSettings
    from ..deadline import Deadline
    from .http import Guard

T = TypeVar("T")

# The names that a server accepts (Chef's own validation; goiardi 0.11.10 answers 400 to others). No other name can
# exist. "." and ".." are excluded: in a path they are resolved, and DELETE /nodes/.. would become DELETE /.
_NODE_NAME = re.compile(r"(?!\.{1,2}\Z)[A-Za-z0-9_.:-]+\Z")
_CLIENT_NAME = re.compile(r"(?!\.{1,2}\Z)[A-Za-z0-9_.-]+\Z")
_EC2_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9-]*")
# Names that begin like an operator of the query language. No escape turns them into a term (measured on goiardi,
# which has Chef's grammar).
_NOT_SEARCHABLE = re.compile(r"(AND|OR|NOT)(?![A-Za-z0-9_.])")

# A query of 100 ids makes a URL of about 4.5 KB. nginx in front of a Chef server accepts 8 KB by default.
_TERMS_PER_SEARCH = 100
_CHARACTERS_PER_SEARCH = 6000
_ROWS_PER_PAGE = 1000
# A Chef server on OpenSearch neither counts nor shows more matches than this (OpenSearch's max_result_window).
_DEEPEST = 10_000
# From this many names on, one listing of all names costs the server less than one request for each.
_LIST_FROM = 9

# The path of one object. If the server refuses it (as a proxy may refuse a long name), only that object fails.
_ONE_OBJECT = re.compile(r"(?:GET|DELETE) \S*/(?:nodes|clients)/[^/]+|POST \S*/(?:nodes|clients)")
_REFUSALS = (400, 413, 414, 422)

# The attributes of a `ChefNode`, each with its path in the node's merged attributes.
_WHERE_AND_WHEN = {
    "instance_id": ("ec2", "instance_id"),
    "account_id": ("ec2", "account_id"),
    "region": ("ec2", "region"),
    "availability_zone": ("ec2", "placement_availability_zone"),
    "local_hostname": ("ec2", "local_hostname"),
    "public_hostname": ("ec2", "public_hostname"),
    "ohai_time": ("ohai_time",),
}
_ATTRIBUTES = {
    **_WHERE_AND_WHEN,
    "local_ipv4": ("ec2", "local_ipv4"),
    "public_ipv4": ("ec2", "public_ipv4"),
    "macs": ("ec2", "network_interfaces_macs"),
    "ipaddress": ("ipaddress",),
    "fqdn": ("fqdn",),
    "hostname": ("hostname",),
}


def is_node_name(name: str) -> bool:
    """Returns whether a Chef server can hold a node of that name."""
    return bool(_NODE_NAME.match(name))


def is_client_name(name: str) -> bool:
    """Returns whether a Chef server can hold a client of that name: as for a node, but without the colon."""
    return bool(_CLIENT_NAME.match(name))


@dataclass(frozen=True)
class ChefNode:
    """A node with the attributes that Ohai reported. Missing attributes are None or empty.

    Attributes:
        instance_id: its own ``ec2.instance_id``; None if the node never converged.
        private_ips: from EC2's metadata, like the public and IPv6 addresses and the DNS names.
        ipaddress: the address that Ohai considers the machine's own. May be that of a container bridge.
        fqdn: as set on the machine itself, like ``hostname``.
        ohai_time: when Ohai last ran, in seconds since 1970.
    """

    name: str
    instance_id: str | None = None
    account_id: str | None = None
    region: str | None = None
    availability_zone: str | None = None
    vpc_id: str | None = None
    private_ips: tuple[str, ...] = ()
    public_ips: tuple[str, ...] = ()
    ipv6_addresses: tuple[str, ...] = ()
    private_dns_names: tuple[str, ...] = ()
    public_dns_names: tuple[str, ...] = ()
    ipaddress: str | None = None
    fqdn: str | None = None
    hostname: str | None = None
    ohai_time: float | None = None

    @property
    def dns_names(self) -> tuple[str, ...]:
        """The names that EC2 assigned to it."""
        return self.private_dns_names + self.public_dns_names


@dataclass(frozen=True)
class ChefClient:
    """A client: a name and the key that it authenticates with.

    Attributes:
        validator: whether it may create other clients.
        admin: whether it is an administrator of goiardi or an old server; a Chef Infra Server has no such client.
        public_key: PEM.
    """

    name: str
    validator: bool = False
    admin: bool = False
    public_key: str | None = None


@dataclass(frozen=True)
class NodeSearch:
    """The result of a search.

    Attributes:
        nodes: the matches, with each node's current data. The index that matched may be older.
        hidden: how many more matches the search counted than it returned. A Chef server does so for a node that was
            just removed and, with ``strict_search_result_acls``, for a node that the client may not read.
    """

    nodes: tuple[ChefNode, ...] = ()
    hidden: int = 0


class ChefServer(Protocol):
    """A Chef server, called for a batch at a time.

    Every method may raise a DecommissionError for the whole batch. If the answer is by name, an error is the answer
    for that name alone. Names that no server can hold are reported as absent, without a request.

    A ``guard`` is called right before each changing request, and raises if the request must not be sent. If it
    raises a DecommissionError, that is the answer for the name.
    """

    def search_nodes_by_instance_id(self, instance_ids: Iterable[str]) -> NodeSearch:
        """Finds nodes by EC2 id in the index. Compare each node's own id before relying on a match."""

    def search_nodes_by_name(self, names: Iterable[str]) -> NodeSearch:
        """Finds nodes by name in the index. Call `nodes` for missing names: the index lags, and some names cannot be
        searched for."""

    def nodes(self, names: Iterable[str]) -> Mapping[str, ChefNode | DecommissionError | None]:
        """Reads each node directly, not from the index; None if it does not exist."""

    def node_documents(self, names: Iterable[str]) -> Mapping[str, Mapping[str, Any] | DecommissionError | None]:
        """Reads each complete node for the audit, about 100 KB each. `create_node` accepts the result."""

    def list_nodes(self) -> tuple[str, ...]:
        """Returns the names of all nodes."""

    def converged_nodes(self, prefix: str) -> Iterator[ChefNode]:
        """Yields every node whose own EC2 id has this prefix, page by page and without addresses.

        If nodes are written or deleted meanwhile, a node may appear twice or not at all.
        """

    def clients(self, names: Iterable[str]) -> Mapping[str, ChefClient | DecommissionError | None]:
        """Reads each client; None if it does not exist."""

    def list_clients(self) -> tuple[str, ...]:
        """Returns the names of all clients."""

    def privileged_clients(self) -> frozenset[str] | None:
        """Searches for the names of validators and admins. None if the search does not return them all.

        The index lags. Call `clients` if nothing else protects a client.
        """

    def delete_nodes(
        self, names: Iterable[str], guard: Guard | None = None
    ) -> Mapping[str, bool | DecommissionError]:
        """Deletes nodes. True if this call removed the node, False if it was already gone."""

    def delete_clients(
        self, names: Iterable[str], guard: Guard | None = None
    ) -> Mapping[str, bool | DecommissionError]:
        """Deletes clients with their keys. True and False as for nodes."""

    def create_node(self, document: Mapping[str, Any], guard: Guard | None = None) -> bool:
        """Creates a node from `node_documents`. False if a node of that name exists; that node does not change."""

    def create_client(self, name: str, public_key: str, guard: Guard | None = None) -> bool:
        """Creates a client with that key. False if a client of that name exists; that client does not change."""


@dataclass(frozen=True)
class _Page:
    """A page of a search: the attributes, and the number of matches (the total, or so far if the server has none)."""

    rows: Sequence[Mapping[str, Any]]
    counted: int


class _NotFoundError(DecommissionError):
    """The server says that the object does not exist. ``repeated`` as in `Answer`."""

    repeated = False


class _ExistsError(DecommissionError):
    """The server says that the object already exists."""


class _Api(chef.ChefAPI):  # type: ignore[misc]  # PyChef has no types
    """PyChef's ChefAPI over `Http`, with protocol version 1.3 and this package's errors.

    PyChef itself waits forever, reads an attribute of connection errors that Python 3 does not have
    (``e.message``), and accepts a redirect as an answer. None of these reaches it here.
    """

    def __init__(self, settings: ChefSettings, key: Key, http: Http) -> None:
        # By default, PyChef claims to be a client of Chef 0.10.8 from 2012, which a server may refuse.
        super().__init__(settings.server_url, key, settings.client_name, version="12.0.0")
        self.host = host_of(settings.server_url)
        self._protocol = settings.signing_protocol
        self._http = http

    def request(
        self,
        method: str,
        path: str,
        headers: Mapping[str, str] | None = None,
        data: str | None = None,
        *,
        repeatable: bool = True,
        guard: Guard | None = None,
    ) -> Answer:
        """Signs and sends a request as PyChef calls it. Returns the answer if its status is 2xx."""
        url = f"{self.url}{path}"
        full_path = urlsplit(url).path
        signed = signed_headers(
            self._protocol,
            self.key,
            method=method,
            path=full_path,
            body=data or "",
            user_id=self.client,
            at=datetime.now(UTC),
        )
        what = f"{method} {full_path}"
        answer = self._http.send(
            method,
            url,
            headers={"X-Chef-Version": self.version, "Accept": "application/json", **(headers or {}), **signed},
            body=data.encode() if data is not None else None,
            what=what,
            repeatable=repeatable,
            guard=guard,
        )
        self._judge(answer, what)
        return answer

    def _judge(self, answer: Answer, what: str) -> None:
        status = answer.status
        if answer.ok:
            return
        said = _error_text(answer)
        told = f": {said}" if said else ""
        if status < 400:
            target = answer.headers.get("Location", "elsewhere")
            raise ConfigurationError(f"Chef server {self.host} redirects {what} to {target}. Check chef.server_url")
        if status == 401:
            raise ConfigurationError(
                f"Chef server {self.host} does not accept the signature of client {self.client}: chef_client_key or "
                "chef.client_name is wrong, the clocks differ by more than 15 minutes, or the server does not take "
                f'chef.signing_protocol "{self._protocol}"{told}'
            )
        if status == 403:
            raise AccessError(f"Chef client {self.client} may not {what} on {self.host}{told}")
        if status == 404 and said:
            absent = _NotFoundError(f"Chef server {self.host} does not know {what}{told}")
            absent.repeated = answer.repeated
            raise absent
        if status == 409 and said:
            raise _ExistsError(f"Chef server {self.host}: {what}{told}")
        if status == 404 or answer.is_transient:
            raise answer.failure(f"Chef server {self.host} answered {what} with {status}{told}")
        if status in _REFUSALS and _ONE_OBJECT.fullmatch(what):
            raise PermanentError(f"Chef server {self.host} refused {what} with {status}{told}")
        raise ConfigurationError(f"Chef server {self.host} refused {what} with {status}{told}")


def _error_text(answer: Answer) -> str:
    """Returns the text in ``{"error": [...]}``; empty if the answer is not from a Chef server."""
    try:
        said = answer.json()["error"]
    except (ValueError, LookupError, TypeError):
        return ""
    return ", ".join(str(part) for part in said)[:200] if isinstance(said, list) else str(said)[:200]


class PyChefServer:
    """The real Chef server, called through PyChef.

    Args:
        settings: server, client and limits.
        key_pem: the client's private key.
        deadline: returns the deadline of the current invocation.
        tls: the TLS context; trusts the public authorities by default.

    Raises:
        ConfigurationError: the key is not an RSA private key.
    """

    def __init__(
        self,
        settings: ChefSettings,
        key_pem: str,
        deadline: Callable[[], Deadline],
        tls: ssl.SSLContext | None = None,
    ) -> None:
        self._http = Http(
            f"Chef server {host_of(settings.server_url)}",
            deadline,
            timeout_seconds=settings.request_timeout_seconds,
            tls=tls,
            connections=settings.max_concurrency,
        )
        self._api = _Api(settings, Key(key_pem), self._http)
        self._workers = settings.max_concurrency

    def close(self) -> None:
        """Closes the pooled connections."""
        self._http.close()

    def search_nodes_by_instance_id(self, instance_ids: Iterable[str]) -> NodeSearch:
        return self._search("ec2_instance_id", (i for i in instance_ids if _EC2_ID.fullmatch(i)))

    def search_nodes_by_name(self, names: Iterable[str]) -> NodeSearch:
        return self._search("name", (n for n in names if is_node_name(n) and not _NOT_SEARCHABLE.match(n)))

    def nodes(self, names: Iterable[str]) -> Mapping[str, ChefNode | DecommissionError | None]:
        return self._read("nodes", names, is_node_name, node_of)

    def node_documents(self, names: Iterable[str]) -> Mapping[str, Mapping[str, Any] | DecommissionError | None]:
        return self._read("nodes", names, is_node_name, lambda document: document)

    def list_nodes(self) -> tuple[str, ...]:
        return tuple(self._call("GET", "/nodes"))

    def converged_nodes(self, prefix: str) -> Iterator[ChefNode]:
        prefixes = [prefix]
        while prefixes:
            prefix = prefixes.pop()
            for page in self._pages("node", f"ec2_instance_id:{_escaped(prefix)}*", _WHERE_AND_WHEN):
                if page.counted >= _DEEPEST:
                    prefixes += [prefix + digit for digit in "0123456789abcdef"]
                    break
                # A node without an id had one when it was indexed.
                found = (_chef_node(data["name"], data) for data in page.rows)
                yield from (node for node in found if node.instance_id and node.instance_id.startswith(prefix))

    def clients(self, names: Iterable[str]) -> Mapping[str, ChefClient | DecommissionError | None]:
        return self._read("clients", names, is_client_name, self._client)

    def list_clients(self) -> tuple[str, ...]:
        return tuple(self._call("GET", "/clients"))

    def privileged_clients(self) -> frozenset[str] | None:
        names: list[str] = []
        counted = 0
        for page in self._pages("client", "validator:true OR admin:true", {}):
            names += [row["name"] for row in page.rows]
            counted = page.counted
        return frozenset(names) if counted <= len(names) else None

    def delete_nodes(
        self, names: Iterable[str], guard: Guard | None = None
    ) -> Mapping[str, bool | DecommissionError]:
        return self._delete("nodes", names, is_node_name, guard)

    def delete_clients(
        self, names: Iterable[str], guard: Guard | None = None
    ) -> Mapping[str, bool | DecommissionError]:
        return self._delete("clients", names, is_client_name, guard)

    def create_node(self, document: Mapping[str, Any], guard: Guard | None = None) -> bool:
        if not is_node_name(str(document.get("name"))):
            raise PermanentError(f"a Chef node cannot have the name {document.get('name')!r}")
        return self._create("/nodes", document, guard)

    def create_client(self, name: str, public_key: str, guard: Guard | None = None) -> bool:
        if not is_client_name(name):
            raise PermanentError(f"a Chef client cannot have the name {name!r}")
        return self._create("/clients", {"name": name, "public_key": public_key, "validator": False}, guard)

    def _search(self, field: str, values: Iterable[str]) -> NodeSearch:
        """Sends one joined query per hundred values.

        The rows hold the current nodes. Only the match comes from the index, which lags (chef-server,
        chef_wm_search.erl: ids from the index, objects from the database).
        """
        queries = _joined_queries([f"{field}:{_escaped(value)}" for value in dict.fromkeys(values)])
        nodes: dict[str, ChefNode] = {}
        hidden = 0
        for answer in each(queries, self._search_one, self._workers).values():
            if isinstance(answer, DecommissionError):
                raise answer
            nodes |= {node.name: node for node in answer.nodes}
            hidden += answer.hidden
        return NodeSearch(tuple(nodes.values()), hidden)

    def _search_one(self, query: str) -> NodeSearch:
        nodes: list[ChefNode] = []
        counted = 0
        for page in self._pages("node", query, _ATTRIBUTES):
            nodes += [_chef_node(data["name"], data) for data in page.rows]
            counted = page.counted
        return NodeSearch(tuple(nodes), max(0, counted - len(nodes)))

    def _pages(self, index: str, query: str, attributes: Mapping[str, tuple[str, ...]]) -> Iterator[_Page]:
        body = {"name": ["name"], **{key: list(path) for key, path in attributes.items()}}
        start, counted, page = 0, 0, _ROWS_PER_PAGE
        # A Chef server's total counts all matches, and a page may show fewer. goiardi counts the page only. So the
        # search ends when the page is short and the total is reached, not at one of the two alone.
        while page >= _ROWS_PER_PAGE or start < counted:
            path = f"/search/{index}?q={quote(query, safe='')}&start={start}&rows={_ROWS_PER_PAGE}"
            try:
                answer = self._call("POST", path, body)
            except _NotFoundError as error:
                raise ConfigurationError(
                    f"{error}; chef.server_url must include the organization, if there is one"
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

    def _read(
        self,
        kind: str,
        names: Iterable[str],
        possible: Callable[[str], bool],
        read: Callable[[dict[str, Any]], T],
    ) -> Mapping[str, T | DecommissionError | None]:
        """Sends one request per name. For many names, a listing first shows which exist."""
        wanted = list(dict.fromkeys(names))
        existing = [name for name in wanted if possible(name)]
        if len(existing) >= _LIST_FROM:
            listed = self._call("GET", f"/{kind}")
            existing = [name for name in existing if name in listed]

        def one(name: str) -> T | None:
            path = _path(kind, name)
            try:
                answer = self._call("GET", path)
            except _NotFoundError:
                return None
            if answer.get("name") != name:
                raise self._unreadable(f"GET {path}")
            return read(answer)

        found = each(existing, one, self._workers)
        return {name: found.get(name) for name in wanted}

    def _client(self, answer: dict[str, Any]) -> ChefClient:
        validator, admin = answer.get("validator"), answer.get("admin", False)
        if not isinstance(validator, bool) or not isinstance(admin, bool):
            raise self._unreadable(f"GET client {answer['name']}")  # never guess a client's rights
        key = answer.get("public_key") or answer.get("certificate")
        return ChefClient(answer["name"], validator, admin, key if isinstance(key, str) else None)

    def _delete(
        self, kind: str, names: Iterable[str], possible: Callable[[str], bool], guard: Guard | None
    ) -> Mapping[str, bool | DecommissionError]:
        def one(name: str) -> bool:
            path = _path(kind, name)
            try:
                self._api.request("DELETE", path, guard=guard).json()
            except _NotFoundError as error:
                # If the object is gone at the second attempt, the first one removed it and its answer was lost.
                return error.repeated
            except ValueError:
                raise self._unreadable(f"DELETE {path}") from None
            return True

        wanted = list(dict.fromkeys(names))
        done = each([name for name in wanted if possible(name)], one, self._workers)
        return {name: done.get(name, False) for name in wanted}

    def _create(self, path: str, document: Mapping[str, Any], guard: Guard | None) -> bool:
        """Is not repeated if the connection breaks: a second attempt would find the object of the first."""
        try:
            self._api.request(
                "POST",
                path,
                {"Content-Type": "application/json"},
                json.dumps(document),
                repeatable=False,
                guard=guard,
            ).json()
        except _ExistsError:
            return False
        except _NotFoundError as error:
            raise ConfigurationError(str(error)) from None
        except ValueError:
            raise self._unreadable(f"POST {path}") from None
        return True

    def _call(self, method: str, path: str, body: Any = None) -> dict[str, Any]:
        """Sends one request that only reads."""
        what = f"{method} {path.partition('?')[0]}"
        try:
            answer = self._api.api_request(method, path, data=body)
        except ValueError:
            raise self._unreadable(what) from None
        if not isinstance(answer, dict):
            raise self._unreadable(what)
        return answer

    def _unreadable(self, what: str) -> TransientError:
        return TransientError(f"Chef server {self._api.host} gave an unreadable answer to {what}")


def _path(kind: str, name: str) -> str:
    # goiardi checks the signature against the decoded path, a Chef server against the raw one. Both are the same for
    # the characters that names may have. So nothing is quoted here, and the colon must not be.
    return f"/{kind}/{segment(name).replace('%3A', ':')}"


def _escaped(value: str) -> str:
    """Returns the value as one query term, with the characters of Lucene's syntax escaped."""
    return re.sub(r"(^-|[^A-Za-z0-9_.-])", r"\\\1", value)


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
    """Returns the value at the path in the first level that has it."""
    for level in levels:
        value = level
        for key in path:
            value = value.get(key) if isinstance(value, dict) else None
        if value is not None:
            return value
    return None


def node_of(document: Mapping[str, Any]) -> ChefNode:
    """Extracts the facts of a complete node from `ChefServer.node_documents`."""
    # Chef's order of precedence, highest first. Ohai writes ec2 as automatic.
    levels = [document.get(level) for level in ("automatic", "override", "normal", "default")]
    return _chef_node(document["name"], {key: _first(levels, path) for key, path in _ATTRIBUTES.items()})


def _chef_node(name: str, data: Mapping[str, Any]) -> ChefNode:
    macs = data.get("macs")
    interfaces = [mac for mac in macs.values() if isinstance(mac, dict)] if isinstance(macs, dict) else []
    return ChefNode(
        name=name,
        # A value of another type is not an id of ours, but it is not a missing id either.
        instance_id=_identity(data.get("instance_id")),
        account_id=_identity(data.get("account_id")),
        region=_text(data.get("region")),
        availability_zone=_text(data.get("availability_zone")),
        vpc_id=next((mac["vpc_id"] for mac in interfaces if isinstance(mac.get("vpc_id"), str)), None),
        private_ips=_addresses(4, data.get("local_ipv4"), *(mac.get("local_ipv4s") for mac in interfaces)),
        public_ips=_addresses(4, data.get("public_ipv4"), *(mac.get("public_ipv4s") for mac in interfaces)),
        ipv6_addresses=_addresses(6, *(mac.get("ipv6s") for mac in interfaces)),
        private_dns_names=_texts(data.get("local_hostname")),
        public_dns_names=_texts(data.get("public_hostname")),
        ipaddress=next(iter(_addresses(4, data.get("ipaddress")) + _addresses(6, data.get("ipaddress"))), None),
        fqdn=_text(data.get("fqdn")),
        hostname=_text(data.get("hostname")),
        ohai_time=_seconds(data.get("ohai_time")),
    )


def _identity(value: Any) -> str | None:
    return str(value) if value not in (None, "") else None


def _text(value: Any) -> str | None:
    return next(iter(_texts(value)), None)


def _seconds(value: Any) -> float | None:
    """Parses a time that Ohai wrote as a number or a text."""
    if isinstance(value, bool) or not isinstance(value, (int, float, str)):
        return None
    try:
        seconds = float(value)
    except (ValueError, OverflowError):
        return None
    return seconds if math.isfinite(seconds) else None


def _texts(*values: Any) -> tuple[str, ...]:
    """Returns each word once. EC2's metadata writes several values as lines of one text."""
    words = (word for value in values if isinstance(value, str) for word in value.split())
    return tuple(dict.fromkeys(words))


def _addresses(version: int, *values: Any) -> tuple[str, ...]:
    """Returns the values that are addresses of that version, in their shortest form."""
    found: dict[str, None] = {}
    for text in _texts(*values):
        try:
            address = ipaddress.ip_address(text)
        except ValueError:
            continue
        if address.version == version:
            found[address.compressed] = None
    return tuple(found)
