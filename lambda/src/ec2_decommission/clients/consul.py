"""Consul, as far as the step needs it: a Protocol for batches, and py-consul behind it.

What the token needs, as a Consul policy (``locks/`` stands for each of ``lock_prefixes``)::

    node_prefix ""       { policy = "read" }    # "write" with deregister_node
    session_prefix ""    { policy = "write" }
    key_prefix "locks/"  { policy = "write" }
    operator = "write"                          # only with deregister_node: force-leave

Sessions and nodes of some names only may be written with a narrower prefix; reading needs the whole, because the
node of an instance may have any name, and Consul leaves out of its answers what the token may not read, without
saying so (200 with an empty list). ``prove_rights`` asks Consul itself what the token may do.

Reads are in Consul's default mode: the leader answers. A stale read could show a dead agent as alive, or a lock
that was passed on; the few moments in which a deposed leader still answers are covered by the checks on the modify
index that every change carries. ``consistent`` would add a round trip between the servers to each read.

Measured on Consul 1.8.7, where nothing else is said.
"""

from __future__ import annotations

import base64
import binascii
import json
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol, TypeVar
from urllib.parse import urlsplit

import requests
import urllib3
from consul.base import Consul, Response
from consul.exceptions import ConsulException
from consul.std import HTTPClient
from requests.adapters import HTTPAdapter

from ..chunks import chunks
from ..errors import AccessError, ConfigurationError, DecommissionError, TransientError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from ..config import ConsulSettings
    from ..deadline import Deadline

T = TypeVar("T")
Op = dict[str, Any]  # one operation of a transaction, as Consul's API has it

MAX_OPS = 64  # https://developer.hashicorp.com/consul/api-docs/txn; more is a 413
MAX_VALUES = 256 * 1024  # characters of values in one transaction: its body may have 512 KiB (txn_max_req_len)
MAX_AUTHORIZATIONS = 64

_SERF_HEALTH = "serfHealth"
_CONNECT_TIMEOUT_SECONDS = 5.0
_MOST_BYTES = 128 * 1024 * 1024
_WORKERS = 8
_ROUNDS = 4
# So many calls of one batch may fail to reach Consul; then the rest is handed back without trying.
_LOST_CALLS = 3
_MEMBER_ALIVE, _MEMBER_FAILED = 1, 4  # serf's own numbers


@dataclass(frozen=True)
class CatalogNode:
    """A node of the catalog. ``node_id`` is empty where no agent registered it."""

    name: str
    node_id: str
    address: str
    datacenter: str
    modify_index: int
    tagged_addresses: tuple[str, ...] = ()
    meta: Mapping[str, str] = field(default_factory=dict, hash=False)

    @property
    def instance_id(self) -> str | None:
        """The EC2 id that the node bears in its meta."""
        return self.meta.get("instance_id") or None

    @property
    def addresses(self) -> tuple[str, ...]:
        """Every address of the node, its main one first."""
        return tuple(dict.fromkeys([self.address, *self.tagged_addresses]))


@dataclass(frozen=True)
class Session:
    """A session. ``behavior`` says what becomes of its keys: ``release`` or ``delete``."""

    session_id: str
    node: str
    behavior: str = "release"


@dataclass(frozen=True)
class Key:
    """A key of the KV store. ``value`` is in base64, as Consul gives and takes it; None is no value."""

    name: str
    modify_index: int
    value: str | None = None
    flags: int = 0
    session: str | None = None


@dataclass(frozen=True)
class Reading:
    """Nodes (by name), the status of their agents (no entry without one), and keys, all of one moment."""

    nodes: Mapping[str, CatalogNode]
    agents: Mapping[str, str]
    keys: tuple[Key, ...]


@dataclass(frozen=True)
class Member:
    """An agent that gossip knows in the datacenter of the agent that was asked."""

    name: str
    node_id: str
    alive: bool
    failed: bool


@dataclass(frozen=True)
class OpFailure:
    """Why one operation rolled a transaction back."""

    index: int
    reason: str

    @property
    def denied(self) -> bool:
        """Whether the token lacks the right."""
        return self.reason.startswith("Permission denied")


class Right(NamedTuple):
    """A right as Consul's authorization has it; ``segment`` is a name, or a prefix with the empty one for all."""

    resource: str
    access: str
    segment: str = ""

    def __str__(self) -> str:
        if self.resource == "operator":
            return f"operator:{self.access}"
        return f'{self.resource}:{self.access} on every {self.resource} whose name begins with "{self.segment}"'


class RefusedError(ConfigurationError):
    """Consul does not take the request as it is: 400, 413."""


def unlock(key: Key) -> list[Op]:
    """Releases a lock, if the key is as it was read: value and flags stay, and no lock-delay begins."""
    return [
        {"KV": {"Verb": "check-index", "Key": key.name, "Index": key.modify_index}},
        {
            "KV": {
                "Verb": "unlock",
                "Key": key.name,
                "Value": key.value or "",
                "Flags": key.flags,
                "Session": key.session,
            }
        },
    ]


def delete_key(key: Key) -> list[Op]:
    """Deletes a key, if it is as it was read."""
    return [{"KV": {"Verb": "delete-cas", "Key": key.name, "Index": key.modify_index}}]


def delete_node(node: CatalogNode) -> list[Op]:
    """Deletes a node with its services, checks and sessions, if it is as it was read."""
    return [{"Node": {"Verb": "delete-cas", "Node": {"Node": node.name, "ModifyIndex": node.modify_index}}}]


class ConsulCatalog(Protocol):
    """A Consul cluster, asked for a batch at a time. The datacenter "" is that of the agent that is asked.

    Every method may raise a DecommissionError for the whole batch; where a value of the answer can be an error, it
    stands for that name alone.
    """

    def prove_rights(self, datacenter: str, rights: Iterable[Right]) -> None:
        """Raises AccessError, which names what is missing, unless the token has all of these rights."""

    def nodes(self, datacenter: str) -> tuple[CatalogNode, ...]:
        """Every node; never empty."""

    def instance_nodes(self, datacenter: str, prefix: str) -> tuple[CatalogNode, ...]:
        """The nodes whose meta ``instance_id`` begins so; with an empty prefix, all that have that meta.

        A prefix is of letters, digits and hyphens.
        """

    def agents(self, datacenter: str) -> Mapping[str, str]:
        """The status of every agent, by the name of its node: ``passing``, ``critical``."""

    def sessions(self, datacenter: str) -> tuple[Session, ...]:
        """Every session."""

    def read(self, datacenter: str, names: Sequence[str], prefixes: Sequence[str]) -> Reading:
        """Those of the nodes that exist, with the status of their agents, and the keys under the prefixes.

        Consul compares node names without regard to case.
        """

    def members(self) -> tuple[Member, ...]:
        """The agents that gossip knows in the agent's own datacenter."""

    def transact(self, datacenter: str, ops: Sequence[Op]) -> tuple[OpFailure, ...]:
        """All of the operations (at most 64), or none: then tells which of them failed."""

    def release(self, datacenter: str, key: Key) -> bool:
        """Releases a lock whose value is too large for a transaction; False when its session held it no more."""

    def destroy_sessions(self, datacenter: str, session_ids: Iterable[str]) -> Mapping[str, DecommissionError | None]:
        """Destroys sessions; one that is gone already is a success."""

    def force_leave(self, names: Iterable[str]) -> Mapping[str, DecommissionError | None]:
        """Puts failed agents out of the agent's own datacenter for good; no member of that name is a success.

        Never of a living agent: Consul drops its node, and its sessions and locks with it, for up to a minute.
        """


class _StatusError(Exception):
    """An answer other than 2xx."""

    def __init__(self, status: int, said: str) -> None:
        super().__init__(f"{status} {said}")
        self.status = status
        self.said = said


class _NoConnectionError(TransientError):
    """Consul was not reached, or the connection broke."""


class _NoAnswerError(TransientError):
    """Consul did not answer in time."""


class _Http(HTTPClient):
    """py-consul's HTTP client over pooled connections, with time-outs, and with this package's errors."""

    def __init__(self, settings: ConsulSettings, token: str | None, deadline: Callable[[], Deadline]) -> None:
        self.base_uri = settings.url
        self.host = urlsplit(settings.url).netloc.rpartition("@")[2]
        self._deadline = deadline
        self._timeout = settings.request_timeout_seconds
        self.session = requests.Session()
        self.session.trust_env = False  # no proxy, no .netrc: the module's settings are all there is
        token = (token or "").strip()
        if token:
            if not token.isascii() or not token.isprintable():
                # Said here: the HTTP client's own error would hold the token.
                raise ConfigurationError("secret consul_token: an ACL token has printable ASCII characters only")
            # Not as an argument: py-consul leaves it out of some calls, and breaks the body of others with it.
            self.session.headers["X-Consul-Token"] = token
        adapter = HTTPAdapter(pool_connections=1, pool_maxsize=_WORKERS)
        self.session.mount("http://", adapter)
        self.session.mount("https://", adapter)

    def get(self, callback: Any, path: str, params: Any = None, headers: Any = None, raw: bool = False) -> Any:  # noqa: ARG002
        return callback(self._send("GET", path, params))

    def put(self, callback: Any, path: str, params: Any = None, data: Any = "", headers: Any = None) -> Any:  # noqa: ARG002
        return callback(self._send("PUT", path, params, data))

    def post(self, callback: Any, path: str, params: Any = None, data: Any = "", headers: Any = None) -> Any:  # noqa: ARG002
        return callback(self._send("POST", path, params, data))

    def delete(self, callback: Any, path: str, params: Any = None, data: Any = "", headers: Any = None) -> Any:  # noqa: ARG002
        return callback(self._send("DELETE", path, params, data))

    def close(self) -> None:
        self.session.close()

    def _send(self, method: str, path: str, params: Any, data: Any = None) -> Response:
        try:
            return self._try(method, path, params, data)
        except _NoConnectionError:
            # As with a pooled connection that idled while Lambda slept. Every change of ours may be sent twice:
            # it names what it expects to find, or makes nothing of a repetition.
            return self._try(method, path, params, data)

    def _try(self, method: str, path: str, params: Any, data: Any) -> Response:
        what = f"{method} {path}"
        timeout = self._deadline().timeout(self._timeout, f"{what} on Consul {self.host}")
        end = time.monotonic() + timeout
        try:
            response = self.session.request(
                method,
                self.uri(path, params),
                data=data,
                timeout=(min(timeout, _CONNECT_TIMEOUT_SECONDS), timeout),
                allow_redirects=False,
                stream=True,
            )
            with response:
                body = self._read(response, end, what).decode(errors="replace")
        except requests.exceptions.SSLError as error:
            raise ConfigurationError(f"Consul {self.host}: no trusted TLS connection: {error}") from None
        except (requests.Timeout, urllib3.exceptions.TimeoutError):
            raise _NoAnswerError(f"Consul {self.host} did not answer {what} within {timeout:.0f} s") from None
        except (requests.exceptions.InvalidURL, requests.exceptions.InvalidHeader, UnicodeError):
            raise ConfigurationError(f"Consul {self.host}: {what} cannot be sent; consul.url is wrong") from None
        except (requests.ConnectionError, urllib3.exceptions.ProtocolError, OSError) as error:
            reason = _root_cause(error)
            raise _NoConnectionError(f"Consul {self.host}: no connection for {what} ({reason})") from None
        except urllib3.exceptions.HTTPError as error:
            raise TransientError(f"Consul {self.host} gave an unreadable answer to {what}: {error}") from None
        if not 200 <= response.status_code < 300:
            raise _StatusError(response.status_code, body.strip())
        return Response(response.status_code, response.headers, body)

    def _read(self, response: requests.Response, end: float, what: str) -> bytes:
        """The body. A server that sends it drop by drop does not outlast the call's time."""
        parts: list[bytes] = []
        size = 0
        while part := response.raw.read1(65536, decode_content=True):
            parts.append(part)
            size += len(part)
            if time.monotonic() > end:
                raise _NoAnswerError(f"Consul {self.host} was too slow with its answer to {what}")
            if size > _MOST_BYTES:
                raise TransientError(f"Consul {self.host} gave an answer to {what} that does not end")
        return b"".join(parts)


class _Api(Consul):
    """py-consul with our HTTP client; it takes nothing from the environment."""

    def __init__(self, http: _Http) -> None:
        self._ours = http
        super().__init__(host=http.host, port=0)
        self.token = None

    def http_connect(self, *_: Any, **__: Any) -> _Http:
        return self._ours


class PyConsulCatalog:
    """The real cluster, over py-consul.

    Args:
        settings: the agent's URL, and limits.
        token: the ACL token; None where ACLs are off, or the anonymous token is to serve.
        deadline: gives the deadline of the invocation that asks.
        verify: as requests has it: True, False, or the path of a CA bundle.

    Raises:
        ConfigurationError: the token cannot be one.
    """

    def __init__(
        self,
        settings: ConsulSettings,
        token: str | None,
        deadline: Callable[[], Deadline],
        verify: bool | str = True,
    ) -> None:
        self._http = _Http(settings, token, deadline)
        self._http.session.verify = verify
        self._api: Any = _Api(self._http)
        self._host = self._http.host

    def close(self) -> None:
        """Closes the pooled connections."""
        self._http.close()

    def prove_rights(self, datacenter: str, rights: Iterable[Right]) -> None:
        # Asked anew for each batch: a right that is lost shows in nothing else, as Consul only leaves out.
        for some in chunks(dict.fromkeys(rights), MAX_AUTHORIZATIONS):
            missing = self._missing(datacenter, some)
            if missing:
                raise AccessError(
                    f"Consul {self._host}: the token lacks {'; '.join(map(str, missing))}{_in(datacenter)}"
                )

    def _missing(self, datacenter: str, rights: Sequence[Right]) -> list[Right]:
        """Consul's own judgement of the token, which its user interface asks for as well."""
        body = json.dumps([{"Resource": r.resource, "Access": r.access, "Segment": r.segment} for r in rights])
        path = "/v1/internal/acl/authorize"
        try:
            answer = self._http.post(_json, path, _dc(datacenter), body)
            allowed = [one["Allow"] is True for one in answer]
            return [right for right, yes in zip(rights, allowed, strict=True) if not yes]
        except _StatusError as error:
            if error.status == 401 and "disabled" in error.said:
                return []  # ACLs are off: everybody may do everything
            if error.status in (404, 405):
                raise ConfigurationError(
                    f"Consul {self._host} answers POST {path} with {error.status}, so it cannot be proven that the "
                    "token sees all there is; let that path through, or use an agent that has it"
                ) from None
            raise self._judged(error, "prove the token's rights", datacenter) from None
        except (ValueError, RecursionError, LookupError, TypeError):
            raise self._unreadable("the question for the token's rights") from None

    def nodes(self, datacenter: str) -> tuple[CatalogNode, ...]:
        def read() -> tuple[CatalogNode, ...]:
            _, rows = self._api.catalog.nodes(dc=datacenter or None)
            return tuple(_node(row) for row in rows)

        nodes = self._call(read, "read nodes (node:read)", datacenter)
        if not nodes:  # the servers at least are there
            raise AccessError(f"Consul {self._host}: the token sees no node (node:read){_in(datacenter)}")
        return nodes

    def instance_nodes(self, datacenter: str, prefix: str) -> tuple[CatalogNode, ...]:
        def read() -> tuple[CatalogNode, ...]:
            # Consul says of a node without the meta that it matches: so that is asked for as well.
            wanted = "instance_id in Meta"
            if prefix:
                wanted += f' and Meta.instance_id matches "^{prefix}"'
            _, rows = self._api.catalog.nodes(dc=datacenter or None, filter_expr=wanted)
            nodes = (_node(row) for row in rows)
            return tuple(n for n in nodes if n.instance_id is not None and n.instance_id.startswith(prefix))

        return self._call(read, "read nodes (node:read)", datacenter)

    def sessions(self, datacenter: str) -> tuple[Session, ...]:
        def read() -> tuple[Session, ...]:
            _, rows = self._api.session.list(dc=datacenter or None)
            return tuple(Session(_text(r, "ID"), _text(r, "Node"), _maybe(r, "Behavior") or "release") for r in rows)

        return self._call(read, "read sessions (session:read)", datacenter)

    def read(self, datacenter: str, names: Sequence[str], prefixes: Sequence[str]) -> Reading:
        tree = [{"KV": {"Verb": "get-tree", "Key": prefix}} for prefix in prefixes]
        first = tree[: MAX_OPS // 2]
        if 2 * len(names) + len(first) <= MAX_OPS:
            nodes, agents, keys = self._read_by_name(datacenter, names, first)
        else:
            wanted = {name.casefold() for name in names}
            nodes = {node.name: node for node in self.nodes(datacenter) if node.name.casefold() in wanted}
            agents = {name: status for name, status in self.agents(datacenter).items() if name in nodes}
            keys = self._read_by_name(datacenter, (), first)[2]
        for some in chunks(tree[len(first) :], MAX_OPS):
            keys += self._read_by_name(datacenter, (), some)[2]
        return Reading(nodes, agents, tuple({key.name: key for key in keys}.values()))

    def _read_by_name(
        self, datacenter: str, names: Sequence[str], tree: Sequence[Op]
    ) -> tuple[dict[str, CatalogNode], dict[str, str], list[Key]]:
        """One transaction that only reads. What it asks for and is not there rolls it back: then without that."""
        ops = [{"Node": {"Verb": "get", "Node": {"Node": name}}} for name in names]
        ops += [{"Check": {"Verb": "get", "Check": {"Node": name, "CheckID": _SERF_HEALTH}}} for name in names]
        ops += tree
        for _ in range(_ROUNDS):
            if not ops:
                return {}, {}, []
            failures, results = self._transact(datacenter, ops, "read nodes and keys (node:read, key:read)")
            if not failures:
                return self._sorted_out(results)
            absent = {failure.index for failure in failures}
            ops = [op for index, op in enumerate(ops) if index not in absent]
        raise TransientError(f"Consul {self._host}: nodes come and go faster than they can be read")

    def _sorted_out(self, results: Any) -> tuple[dict[str, CatalogNode], dict[str, str], list[Key]]:
        nodes: dict[str, CatalogNode] = {}
        agents: dict[str, str] = {}
        keys: list[Key] = []
        try:
            for result in results or ():
                if "Node" in result:
                    node = _node(result["Node"])
                    nodes[node.name] = node
                elif "Check" in result:
                    agents[_text(result["Check"], "Node")] = _text(result["Check"], "Status")
                elif "KV" in result:
                    keys.append(_key(result["KV"]))
        except (ValueError, RecursionError, LookupError, TypeError, AttributeError):
            raise self._unreadable("a transaction") from None
        return nodes, agents, keys

    def agents(self, datacenter: str) -> Mapping[str, str]:
        def read() -> dict[str, str]:
            wanted = f'CheckID == "{_SERF_HEALTH}"'
            _, rows = self._api.health.state("any", dc=datacenter or None, filter_expr=wanted)
            return {_text(r, "Node"): _text(r, "Status") for r in rows if r["CheckID"] == _SERF_HEALTH}

        return self._call(read, "read health checks (node:read)", datacenter)

    def members(self) -> tuple[Member, ...]:
        def read() -> tuple[Member, ...]:
            return tuple(
                Member(
                    _text(row, "Name"),
                    _maybe(row.get("Tags") or {}, "id"),
                    alive=row["Status"] == _MEMBER_ALIVE,
                    failed=row["Status"] == _MEMBER_FAILED,
                )
                for row in self._api.agent.members()
            )

        return self._call(read, "read members (node:read)", "")

    def transact(self, datacenter: str, ops: Sequence[Op]) -> tuple[OpFailure, ...]:
        return self._transact(datacenter, ops, "change keys and nodes (key:write, node:write)")[0]

    def _transact(self, datacenter: str, ops: Sequence[Op], what: str) -> tuple[tuple[OpFailure, ...], Any]:
        try:
            answer = self._http.put(_json, "/v1/txn", _dc(datacenter), json.dumps(ops))
            return (), answer["Results"]
        except _StatusError as error:
            if error.status != 409:
                raise self._judged(error, what, datacenter) from None
            try:
                failures = json.loads(error.said)["Errors"]
                failed = tuple(OpFailure(int(f["OpIndex"]), str(f["What"])) for f in failures)
            except (ValueError, RecursionError, LookupError, TypeError):
                failed = ()
            if not failed or any(not 0 <= failure.index < len(ops) for failure in failed):
                raise self._unreadable("a transaction") from None
            return failed, None
        except (ValueError, RecursionError, LookupError, TypeError):
            raise self._unreadable("a transaction") from None

    def release(self, datacenter: str, key: Key) -> bool:
        def put() -> bool:
            params = [*_dc(datacenter), ("flags", str(key.flags)), ("release", key.session or "")]
            return self._http.put(_json, f"/v1/kv/{key.name}", params, base64.b64decode(key.value or "")) is True

        return self._call(put, f"release {key.name} (key:write)", datacenter)

    def destroy_sessions(self, datacenter: str, session_ids: Iterable[str]) -> Mapping[str, DecommissionError | None]:
        def destroy(session_id: str) -> None:
            def put() -> None:
                self._api.session.destroy(session_id, dc=datacenter or None)

            self._call(put, f"destroy session {session_id} (session:write on its node)", datacenter)

        return self._each(session_ids, destroy)

    def force_leave(self, names: Iterable[str]) -> Mapping[str, DecommissionError | None]:
        def leave(name: str) -> None:
            def put() -> None:
                if "/" in name or name in (".", ".."):
                    raise ConfigurationError(f"node {name}: an agent of that name cannot be forced to leave")
                try:
                    self._api.agent.force_leave(name, prune=True)
                except _StatusError as error:
                    if "No node found" not in error.said:
                        raise

            self._call(put, f"force {name} to leave (operator:write)", "")

        return self._each(names, leave)

    def _each(self, items: Iterable[str], call: Callable[[str], None]) -> dict[str, DecommissionError | None]:
        """Calls for each item, a few at a time; an item's error is its answer."""
        wanted = list(dict.fromkeys(items))
        lost: list[DecommissionError] = []

        def one(item: str) -> DecommissionError | None:
            if len(lost) >= _LOST_CALLS:
                return lost[0]
            try:
                call(item)
            except DecommissionError as error:
                if isinstance(error, (_NoConnectionError, _NoAnswerError)):
                    lost.append(error)
                return error
            return None

        if len(wanted) < 2:
            return {item: one(item) for item in wanted}
        with ThreadPoolExecutor(max_workers=min(_WORKERS, len(wanted))) as pool:
            return dict(zip(wanted, pool.map(one, wanted), strict=True))

    def _call(self, call: Callable[[], T], what: str, datacenter: str) -> T:
        try:
            return call()
        except _StatusError as error:
            raise self._judged(error, what, datacenter) from None
        except (ConsulException, ValueError, RecursionError, LookupError, TypeError, AttributeError):
            raise self._unreadable(f"the request to {what}") from None

    def _judged(self, error: _StatusError, what: str, datacenter: str) -> DecommissionError:
        told = f"{_in(datacenter)}: {error.said[:200]}" if error.said else _in(datacenter)
        where = f"Consul {self._host}"
        if error.status == 403 and "ACL not found" in error.said:
            return AccessError(f"{where} does not know the token (secret consul_token){_in(datacenter)}")
        if error.status == 403:
            return AccessError(f"{where}: the token may not {what}{told}")
        if error.status in (400, 413):
            return RefusedError(f"{where} refuses to {what}{told}")
        if "No path to datacenter" in error.said and datacenter:
            return self._unknown_datacenter(datacenter)
        if error.status in (408, 425, 429) or error.status >= 500:
            return TransientError(f"{where} answered {error.status} when asked to {what}{told}")
        return ConfigurationError(
            f"{where} answered {error.status} when asked to {what}{told}; is consul.url that of a Consul agent?"
        )

    def _unknown_datacenter(self, datacenter: str) -> DecommissionError:
        """Consul has the same words for a datacenter that never was and for one that is out of reach.

        It goes on listing one whose servers died, and calls it by another error, so one that it does not list is
        a wrong name.
        """
        try:
            known = self._api.catalog.datacenters()
        except (_StatusError, DecommissionError, ConsulException):
            known = None
        if not isinstance(known, list) or datacenter in known:
            return TransientError(f"Consul {self._host} has no path to datacenter {datacenter}")
        listed = ", ".join(map(str, known))
        return ConfigurationError(f"Consul {self._host} knows no datacenter {datacenter}; it knows {listed}")

    def _unreadable(self, what: str) -> TransientError:
        return TransientError(f"Consul {self._host} gave an unreadable answer to {what}")


def _json(response: Response) -> Any:
    return json.loads(response.body)


def _dc(datacenter: str) -> list[tuple[str, str]]:
    return [("dc", datacenter)] if datacenter else []


def _in(datacenter: str) -> str:
    return f" in datacenter {datacenter}" if datacenter else ""


def _text(row: Any, name: str) -> str:
    value = row[name]
    if not isinstance(value, str) or not value:
        raise ValueError(name)
    return value


def _maybe(row: Any, name: str) -> str:
    """A text that may be missing."""
    value = row.get(name)
    if value is not None and not isinstance(value, str):
        raise ValueError(name)
    return value or ""


def _number(row: Any, name: str) -> int:
    value = row[name]
    if not isinstance(value, int):
        raise TypeError(name)
    return value


def _node(row: Any) -> CatalogNode:
    meta, tagged = row.get("Meta") or {}, row.get("TaggedAddresses") or {}
    return CatalogNode(
        name=_text(row, "Node"),
        node_id=_maybe(row, "ID"),
        address=_maybe(row, "Address"),
        datacenter=_maybe(row, "Datacenter"),
        modify_index=_number(row, "ModifyIndex"),
        tagged_addresses=tuple(dict.fromkeys(str(address) for address in tagged.values())),
        meta={str(key): str(value) for key, value in meta.items()},
    )


def _key(row: Any) -> Key:
    value = row.get("Value")
    try:
        base64.b64decode(value or "", validate=True)
    except binascii.Error:
        raise ValueError("Value") from None
    return Key(
        name=_text(row, "Key"),
        modify_index=_number(row, "ModifyIndex"),
        value=value,
        flags=_number(row, "Flags"),
        session=_maybe(row, "Session") or None,
    )


def _root_cause(error: BaseException) -> str:
    """The last link of the chain that urllib3 makes of an OSError, which is the readable one."""
    while error.__context__ is not None:
        error = error.__context__
    return str(error)[:200] or type(error).__name__
