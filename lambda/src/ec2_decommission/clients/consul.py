"""The part of Consul's API that the step needs: a Protocol for batches, implemented with py-consul.

The token needs this Consul policy (``locks/`` represents each of ``lock_prefixes``)::

    node_prefix ""       { policy = "read" }    # "write" with deregister_node
    session_prefix ""    { policy = "write" }
    key_prefix "locks/"  { policy = "write" }
    operator = "write"                          # only with deregister_node: force-leave

A narrower prefix can limit the sessions and nodes to write. Reading needs all of them, because the node of an
instance may have any name, and Consul silently leaves out what the token may not read (200 with an empty list).
``prove_rights`` asks Consul itself what the token may do.

Reads use Consul's default mode: the leader answers. A stale read could show a dead agent as alive, or a lock that has
changed hands. A deposed leader may still answer for a moment; the check of the modify index in every change covers
that. ``consistent`` would add a round trip between the servers to each read.

A name never enters a URL where it could become a path. Consul's server unquotes a path before it resolves ``..`` in
it, so ``/v1/kv/locks%2F..%2F..%2Foperator%2F...`` would be a request to ``/v1/operator`` with the token's rights.
Transactions, which carry names as JSON, change the keys. Only a key whose value is too large for a transaction uses
``/v1/kv/``, and only if no segment of its name could be resolved.

Measured on Consul 1.8.7, unless noted otherwise.
"""

from __future__ import annotations

import base64
import binascii
import json
import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol, TypeVar
from urllib.parse import urlencode

from consul.base import Consul, Response
from consul.exceptions import ConsulException

from ..chunks import chunks
from ..errors import AccessError, ConfigurationError, DecommissionError, PermanentError, TransientError
from .http import Http, each, host_of, segment

if TYPE_CHECKING:
    import ssl
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from ..config import ConsulSettings
    from ..deadline import Deadline
    from .http import Answer, Guard

T = TypeVar("T")
Op = dict[str, Any]  # one operation of a transaction, in the form of Consul's API

MAX_OPS = 64  # https://developer.hashicorp.com/consul/api-docs/txn; more gets a 413
MAX_VALUES = 256 * 1024  # characters of values in one transaction: its body may have 512 KiB (txn_max_req_len)
MAX_AUTHORIZATIONS = 64

# The longest body of a transaction: the default of limits.txn_max_req_len.
MAX_TRANSACTION_BYTES = 512 * 1024

_SERF_HEALTH = "serfHealth"
_MOST_BYTES = 128 * 1024 * 1024
_WORKERS = 8
_ROUNDS = 4
_MEMBER_ALIVE, _MEMBER_FAILED = 1, 4  # serf's own numbers
_SERVER_ROLE = "consul"  # a client agent's is "node"


@dataclass(frozen=True)
class CatalogNode:
    """A node of the catalog.

    Attributes:
        node_id: empty if no agent registered the node.
        lan: its tagged address ``lan``; empty if there is none.
        other_addresses: its other tagged addresses. ``wan`` is often the address of a device in front of the node.
        document: the row as returned by Consul.
    """

    name: str
    node_id: str
    address: str
    datacenter: str
    modify_index: int
    lan: str = ""
    other_addresses: tuple[str, ...] = ()
    meta: Mapping[str, str] = field(default_factory=dict, hash=False)
    document: Mapping[str, Any] = field(default_factory=dict, hash=False, compare=False, repr=False)

    @property
    def instance_id(self) -> str | None:
        """The EC2 id in its meta."""
        return self.meta.get("instance_id") or None

    @property
    def account_id(self) -> str | None:
        return self.meta.get("account_id") or None

    @property
    def region(self) -> str | None:
        return self.meta.get("region") or None

    @property
    def availability_zone(self) -> str | None:
        return self.meta.get("availability_zone") or None

    @property
    def own_addresses(self) -> tuple[str, ...]:
        """The addresses that are the node's own: its address and ``lan``."""
        return tuple(dict.fromkeys(address for address in (self.address, self.lan) if address))


@dataclass(frozen=True)
class Session:
    """A session. Consul gives its node's name, but not the node's id.

    Attributes:
        behavior: what happens to its keys when it ends: ``release`` or ``delete``.
        lock_delay_seconds: how long its keys stay locked if it ends without releasing them.
        checks: the node checks that end it, for example ``serfHealth``.
        document: the row as returned by Consul.
    """

    session_id: str
    node: str
    behavior: str = "release"
    lock_delay_seconds: float = 15.0
    checks: tuple[str, ...] = ()
    document: Mapping[str, Any] = field(default_factory=dict, hash=False, compare=False, repr=False)


@dataclass(frozen=True)
class Key:
    """A key of the KV store. ``value`` is in base64, the form that Consul uses; None if there is no value.

    ``document`` is the row as returned by Consul.
    """

    name: str
    modify_index: int
    value: str | None = None
    flags: int = 0
    session: str | None = None
    document: Mapping[str, Any] = field(default_factory=dict, hash=False, compare=False, repr=False)


@dataclass(frozen=True)
class Reading:
    """Nodes and their agents' status by name (no entry without an agent), and keys, all read at the same moment."""

    nodes: Mapping[str, CatalogNode]
    agents: Mapping[str, str]
    keys: tuple[Key, ...]


@dataclass(frozen=True)
class Member:
    """An agent that gossip knows in the datacenter of the queried agent. ``server``: it is not a client agent."""

    name: str
    node_id: str
    alive: bool
    failed: bool
    server: bool = False


@dataclass(frozen=True)
class OpFailure:
    """Why one operation rolled back a transaction."""

    index: int
    reason: str

    @property
    def denied(self) -> bool:
        """Whether the token lacks the right."""
        return self.reason.startswith("Permission denied")


class Right(NamedTuple):
    """A right in the form of Consul's authorization. ``segment`` is a name or a prefix; empty means all."""

    resource: str
    access: str
    segment: str = ""

    def __str__(self) -> str:
        if self.resource == "operator":
            return f"operator:{self.access}"
        return f'{self.resource}:{self.access} on every {self.resource} whose name begins with "{self.segment}"'


class RefusedError(ConfigurationError):
    """Consul refuses the request in this form: 400, 413."""


def unlock(key: Key) -> list[Op]:
    """Releases a lock if the key has not changed since it was read. Value and flags stay; no lock-delay begins."""
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
    """Deletes a key if it has not changed since it was read."""
    return [{"KV": {"Verb": "delete-cas", "Key": key.name, "Index": key.modify_index}}]


def delete_node(node: CatalogNode) -> list[Op]:
    """Deletes a node with its services, checks and sessions if it has not changed since it was read."""
    return [{"Node": {"Verb": "delete-cas", "Node": {"Node": node.name, "ModifyIndex": node.modify_index}}}]


class ConsulCatalog(Protocol):
    """A Consul cluster, called for a batch at a time. The datacenter "" is that of the queried agent.

    Every method may raise a DecommissionError for the whole batch. If the answer is by name, an error is the answer
    for that name alone.
    """

    def prove_rights(self, datacenter: str, rights: Iterable[Right]) -> None:
        """Raises AccessError, naming what is missing, unless the token has all of these rights."""

    def nodes(self, datacenter: str) -> tuple[CatalogNode, ...]:
        """Returns every node; never empty."""

    def instance_nodes(self, datacenter: str, prefix: str) -> tuple[CatalogNode, ...]:
        """Returns the nodes whose meta ``instance_id`` has this prefix; with an empty prefix, all with that meta.

        A prefix consists of letters, digits and hyphens.
        """

    def agents(self, datacenter: str) -> Mapping[str, str]:
        """Returns the status of every agent by node name: ``passing``, ``critical``."""

    def sessions(self, datacenter: str) -> tuple[Session, ...]:
        """Returns every session."""

    def read(self, datacenter: str, names: Sequence[str], prefixes: Sequence[str]) -> Reading:
        """Reads the nodes that exist, the status of their agents, and the keys under the prefixes.

        Consul ignores case in node names.
        """

    def members(self) -> tuple[Member, ...]:
        """Returns the agents that gossip knows in the agent's own datacenter."""

    def node_documents(
        self, datacenter: str, names: Iterable[str]
    ) -> Mapping[str, Mapping[str, Any] | DecommissionError | None]:
        """Reads each node with everything registered on it, for the audit.

        The form is ``{"Node": {...}, "Services": [{...}], "Checks": [{...}]}``, with rows as returned by Consul; None
        if the node does not exist. Consul leaves out services that the token may not read (service:read).
        """

    def transact(self, datacenter: str, ops: Sequence[Op], guard: Guard | None = None) -> tuple[OpFailure, ...]:
        """Carries out all operations (at most 64) or none; returns the operations that failed."""

    def release(self, datacenter: str, key: Key, guard: Guard | None = None) -> bool:
        """Releases one lock, even if its value is too large for a transaction with others.

        False if its session no longer holds it, or if the key has changed since it was read.

        Raises:
            PermanentError: the value is too large for a transaction, and the name cannot be part of a URL.
        """

    def destroy_sessions(
        self, datacenter: str, session_ids: Iterable[str], guard: Guard | None = None
    ) -> Mapping[str, DecommissionError | None]:
        """Destroys sessions. A session that is already gone is a success."""

    def force_leave(self, names: Iterable[str], guard: Guard | None = None) -> Mapping[str, DecommissionError | None]:
        """Removes failed agents from the agent's own datacenter permanently. A name without a member is a success.

        Never call it for a live agent: Consul drops its node with sessions and locks for up to a minute.
        """

    def put_key_if_absent(self, datacenter: str, key: Key, guard: Guard | None = None) -> bool:
        """Writes a key with value and flags, without a session. False if a key of that name exists."""

    def register_node_if_absent(
        self, datacenter: str, document: Mapping[str, Any], guard: Guard | None = None
    ) -> bool:
        """Registers a node with its services and checks from `node_documents`. False if a node of that name exists.

        Leaves out the serfHealth check: with it, Consul's leader would remove a node that is not a member of gossip.
        """


class _StatusError(Exception):
    """An answer with a status other than 2xx."""

    def __init__(self, answer: Answer) -> None:
        super().__init__(answer.status)
        self.answer = answer
        self.status = answer.status
        self.said = answer.text


class _Transport:
    """Sends the requests of py-consul, and this module's changes."""

    def __init__(self, http: Http, url: str) -> None:
        self.http = http
        self._url = url

    def get(self, callback: Any, path: str, params: Any = None, headers: Any = None) -> Any:  # noqa: ARG002
        """Called by py-consul. The session's headers hold the token, because py-consul omits it from some calls."""
        answer = self.send("GET", path, params)
        return callback(Response(answer.status, answer.headers, answer.text))

    def send(
        self,
        method: str,
        path: str,
        params: Sequence[tuple[str, str]] = (),
        body: bytes | None = None,
        *,
        repeatable: bool = True,
        guard: Guard | None = None,
    ) -> Answer:
        """Sends a request. Every variable part of ``path`` is a `_segment`.

        Repeats it if a connection broke. Every change may be sent twice, because it names the state that it expects
        or has no effect when repeated.

        Raises:
            _StatusError: for any status other than 2xx.
        """
        query = f"?{urlencode(params)}" if params else ""
        answer = self.http.send(
            method,
            f"{self._url}{path}{query}",
            body=body,
            what=f"{method} {path}",
            repeatable=repeatable,
            guard=guard,
        )
        if not answer.ok:
            raise _StatusError(answer)
        return answer


class _Api(Consul):
    """py-consul over this module's transport. It takes nothing from the environment."""

    def __init__(self, transport: _Transport) -> None:
        self._ours = transport
        super().__init__(host="", port=0)
        self.token = None

    def http_connect(self, *_: Any, **__: Any) -> _Transport:
        return self._ours


class PyConsulCatalog:
    """The real Consul cluster, called through py-consul.

    Args:
        settings: the agent's URL, and limits.
        token: the ACL token; None if ACLs are off or the anonymous token is used.
        deadline: returns the deadline of the current invocation.
        tls: the trusted authorities, and the client certificate to present (`tls.add_client_certificate`).

    Raises:
        ConfigurationError: the token cannot be valid.
    """

    def __init__(
        self,
        settings: ConsulSettings,
        token: str | None,
        deadline: Callable[[], Deadline],
        tls: ssl.SSLContext | None = None,
    ) -> None:
        self._host = host_of(settings.url)
        token = (token or "").strip()
        if not token.isascii() or not token.isprintable():
            raise ConfigurationError("secret consul_token: an ACL token consists of printable ASCII characters only")
        self._http = Http(
            f"Consul {self._host}",
            deadline,
            timeout_seconds=settings.request_timeout_seconds,
            tls=tls,
            headers={"X-Consul-Token": token} if token else {},
            connections=_WORKERS,
            max_bytes=_MOST_BYTES,
        )
        self._transport = _Transport(self._http, settings.url)
        self._api: Any = _Api(self._transport)

    def close(self) -> None:
        """Closes the pooled connections."""
        self._http.close()

    def prove_rights(self, datacenter: str, rights: Iterable[Right]) -> None:
        # Checked for each batch: otherwise a lost right would go unnoticed, because Consul only leaves out rows.
        for some in chunks(dict.fromkeys(rights), MAX_AUTHORIZATIONS):
            missing = self._missing(datacenter, some)
            if missing:
                raise AccessError(
                    f"Consul {self._host}: the token lacks {'; '.join(map(str, missing))}{_in(datacenter)}"
                )

    def _missing(self, datacenter: str, rights: Sequence[Right]) -> list[Right]:
        """Asks Consul to evaluate the token's rights, through the endpoint of its user interface."""
        asked = [{"Resource": r.resource, "Access": r.access, "Segment": r.segment} for r in rights]
        path = "/v1/internal/acl/authorize"
        try:
            answer = self._transport.send("POST", path, _dc(datacenter), json.dumps(asked).encode()).json()
            allowed = [one["Allow"] is True for one in answer]
            return [right for right, yes in zip(rights, allowed, strict=True) if not yes]
        except _StatusError as error:
            if error.status == 401 and "disabled" in error.said:
                return []  # ACLs are off: everything is allowed
            if error.status in (404, 405):
                raise ConfigurationError(
                    f"Consul {self._host} answers POST {path} with {error.status}, so the token's rights cannot be "
                    "checked. Let that path through, or use an agent that has it"
                ) from None
            raise self._judged(error, "check the token's permissions", datacenter) from None
        except (ValueError, RecursionError, LookupError, TypeError):
            raise self._unreadable("the request for the token's permissions") from None

    def nodes(self, datacenter: str) -> tuple[CatalogNode, ...]:
        def read() -> tuple[CatalogNode, ...]:
            _, rows = self._api.catalog.nodes(dc=datacenter or None)
            return tuple(_node(row) for row in rows)

        nodes = self._call(read, "read nodes (node:read)", datacenter)
        if not nodes:  # there are always the servers
            raise AccessError(f"Consul {self._host}: the token sees no node (node:read){_in(datacenter)}")
        return nodes

    def instance_nodes(self, datacenter: str, prefix: str) -> tuple[CatalogNode, ...]:
        if not re.fullmatch(r"[A-Za-z0-9-]*", prefix):
            raise ValueError(f"prefix {prefix!r} would change the filter")

        def read() -> tuple[CatalogNode, ...]:
            # In Consul's filter, a node without the meta matches too, so its presence is required as well.
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
            return tuple(_session(row) for row in rows)

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
        """Sends one read-only transaction. A missing item rolls it back; it is then sent again without that item."""
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
        raise TransientError(f"Consul {self._host}: nodes change faster than they can be read")

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
                    server=(row.get("Tags") or {}).get("role") == _SERVER_ROLE,
                )
                for row in self._api.agent.members()
            )

        return self._call(read, "read members (node:read)", "")

    def node_documents(
        self, datacenter: str, names: Iterable[str]
    ) -> Mapping[str, Mapping[str, Any] | DecommissionError | None]:
        def document(name: str) -> Mapping[str, Any] | None:
            quoted = _segment("node", name)
            what = f"read node {name} (node:read, service:read)"

            def read(path: str) -> Any:
                return self._call(lambda: self._transport.send("GET", path, _dc(datacenter)).json(), what, datacenter)

            found = read(f"/v1/catalog/node/{quoted}")
            if not found:
                return None
            checks = read(f"/v1/health/node/{quoted}")
            try:
                # Newer Consul versions answer an object without a node instead of null.
                if not found["Node"]:
                    return None
                return {"Node": _row(found["Node"]), "Services": _rows(found["Services"]), "Checks": _rows(checks)}
            except (LookupError, TypeError):
                raise self._unreadable(f"the request to {what}") from None

        return each(names, document, _WORKERS)

    def transact(self, datacenter: str, ops: Sequence[Op], guard: Guard | None = None) -> tuple[OpFailure, ...]:
        return self._transact(datacenter, ops, "change keys and nodes (key:write, node:write)", guard)[0]

    def _transact(
        self,
        datacenter: str,
        ops: Sequence[Op],
        what: str,
        guard: Guard | None = None,
        *,
        repeatable: bool = True,
    ) -> tuple[tuple[OpFailure, ...], Any]:
        try:
            answer = self._transport.send(
                "PUT", "/v1/txn", _dc(datacenter), _body(ops), repeatable=repeatable, guard=guard
            )
            return (), answer.json()["Results"]
        except _StatusError as error:
            if error.status != 409:
                raise self._judged(error, what, datacenter) from None
            try:
                failures = error.answer.json()["Errors"]
                failed = tuple(OpFailure(int(f["OpIndex"]), str(f["What"])) for f in failures)
            except (ValueError, LookupError, TypeError):
                failed = ()
            if not failed or any(not 0 <= failure.index < len(ops) for failure in failed):
                raise self._unreadable("a transaction") from None
            return failed, None
        except (ValueError, LookupError, TypeError):
            raise self._unreadable("a transaction") from None

    def release(self, datacenter: str, key: Key, guard: Guard | None = None) -> bool:
        url = [("flags", str(key.flags)), ("release", key.session or "")]
        return self._write(datacenter, key, unlock(key), url, f"release {key.name[:200]} (key:write)", guard)

    def put_key_if_absent(self, datacenter: str, key: Key, guard: Guard | None = None) -> bool:
        put = {"Verb": "cas", "Key": key.name, "Value": key.value or "", "Flags": key.flags, "Index": 0}
        url = [("flags", str(key.flags)), ("cas", "0")]
        what = f"write {key.name[:200]} (key:write)"
        return self._write(datacenter, key, [{"KV": put}], url, what, guard, repeatable=False)

    def _write(
        self,
        datacenter: str,
        key: Key,
        ops: Sequence[Op],
        params: Sequence[tuple[str, str]],
        what: str,
        guard: Guard | None,
        *,
        repeatable: bool = True,
    ) -> bool:
        """Writes a key by transaction, or by URL, which allows larger values. False: the key is not as expected."""
        if len(_body(ops)) > MAX_TRANSACTION_BYTES and _is_addressable(key.name):
            path, value = f"/v1/kv/{segment(key.name)}", base64.b64decode(key.value or "")
            query = [*_dc(datacenter), *params]

            def put() -> bool:
                sent = self._transport.send("PUT", path, query, value, repeatable=repeatable, guard=guard)
                return sent.json() is True

            return self._call(put, what, datacenter)
        try:
            failures, _ = self._transact(datacenter, ops, what, guard, repeatable=repeatable)
        except RefusedError as error:
            if _is_addressable(key.name):
                raise
            raise PermanentError(f"{error}; and {_not_sent('key', key.name)}") from None
        return self._done(failures, what, datacenter)

    def _done(self, failures: Sequence[OpFailure], what: str, datacenter: str) -> bool:
        if any(failure.denied for failure in failures):
            raise AccessError(f"Consul {self._host}: the token may not {what}{_in(datacenter)}")
        return not failures

    def register_node_if_absent(
        self, datacenter: str, document: Mapping[str, Any], guard: Guard | None = None
    ) -> bool:
        node = document["Node"]
        what = f"register node {node['Node']} (node:write, service:write)"
        first, *more = chunks(_registration(document), MAX_OPS)
        failures, _ = self._transact(datacenter, first, what, guard, repeatable=False)
        if not self._done(failures, what, datacenter):
            if any(failure.index == 0 and "index is stale" in failure.reason for failure in failures):
                return False
            raise PermanentError(f"Consul {self._host} refuses to {what}: {failures[0].reason}{_in(datacenter)}")
        for some in more:
            failures, _ = self._transact(datacenter, some, what, guard, repeatable=False)
            if failures:
                raise TransientError(f"Consul {self._host}: node {node['Node']} changed while it was registered")
        return True

    def destroy_sessions(
        self, datacenter: str, session_ids: Iterable[str], guard: Guard | None = None
    ) -> Mapping[str, DecommissionError | None]:
        def destroy(session_id: str) -> None:
            path = f"/v1/session/destroy/{_segment('session', session_id)}"
            what = f"destroy session {session_id} (session:write on its node)"
            self._call(lambda: self._transport.send("PUT", path, _dc(datacenter), guard=guard), what, datacenter)

        return each(session_ids, destroy, _WORKERS)

    def force_leave(self, names: Iterable[str], guard: Guard | None = None) -> Mapping[str, DecommissionError | None]:
        def leave(name: str) -> None:
            path = f"/v1/agent/force-leave/{_segment('node', name)}"

            def put() -> None:
                try:
                    self._transport.send("PUT", path, [("prune", "1")], guard=guard)
                except _StatusError as error:
                    if "No node found" not in error.said:
                        raise

            self._call(put, f"force {name} to leave (operator:write)", "")

        return each(names, leave, _WORKERS)

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
        if error.answer.is_transient:
            return error.answer.failure(f"{where} answered {error.status} when asked to {what}{told}")
        return ConfigurationError(
            f"{where} answered {error.status} when asked to {what}{told}; does consul.url point to a Consul agent?"
        )

    def _unknown_datacenter(self, datacenter: str) -> DecommissionError:
        """Distinguishes a wrong datacenter name from an unreachable datacenter: Consul's error is the same for both.

        Consul still lists a datacenter whose servers died, and reports another error for it. A datacenter that it
        does not list is a wrong name.
        """
        try:
            known = self._api.catalog.datacenters()
        except (_StatusError, DecommissionError, ConsulException):
            known = None
        if not isinstance(known, list) or datacenter in known:
            return TransientError(f"Consul {self._host} has no path to datacenter {datacenter}")
        listed = ", ".join(map(str, known))
        return ConfigurationError(f"Consul {self._host} does not know datacenter {datacenter}; it knows {listed}")

    def _unreadable(self, what: str) -> TransientError:
        return TransientError(f"Consul {self._host} gave an unreadable answer to {what}")


def _is_addressable(name: str) -> bool:
    """Returns whether the name always remains one segment of a path.

    Consul's server answers 301 for a path that, unquoted, contains ``.``, ``..`` or ``//``; clients may follow.
    """
    *parents, last = name.replace("\\", "/").split("/")
    try:
        segment(name)
    except ValueError:
        return False
    return not any(part in ("", ".", "..") for part in parents) and last not in (".", "..")


def _not_sent(kind: str, name: str) -> str:
    return f"{kind} {name[:200]!r} is not sent in a URL: Consul's server would resolve it to another path"


def _segment(kind: str, name: str) -> str:
    """Quotes the name as one segment of a path.

    Raises:
        PermanentError: the name would not remain one segment.
    """
    if not _is_addressable(name):
        raise PermanentError(_not_sent(kind, name))
    return segment(name)


def _body(ops: Sequence[Op]) -> bytes:
    return json.dumps(ops, separators=(",", ":")).encode()


def _registration(document: Mapping[str, Any]) -> list[Op]:
    """Builds the operations that register a node and everything on it. Index 0 requires that it does not exist."""

    def fresh(row: Mapping[str, Any], without: Sequence[str] = ()) -> dict[str, Any]:
        kept = {name: value for name, value in row.items() if name not in ("CreateIndex", *without)}
        return {**kept, "ModifyIndex": 0}

    node = document["Node"]
    ops: list[Op] = [{"Node": {"Verb": "cas", "Node": fresh(node, ["Datacenter"])}}]
    for service in document.get("Services", ()):
        ops.append({"Service": {"Verb": "cas", "Node": node["Node"], "Service": fresh(service)}})
    for check in document.get("Checks", ()):
        if check.get("CheckID") != _SERF_HEALTH:
            ops.append({"Check": {"Verb": "cas", "Check": fresh(check)}})
    return ops


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
    """Reads a text that may be missing."""
    value = row.get(name)
    if value is not None and not isinstance(value, str):
        raise ValueError(name)
    return value or ""


def _number(row: Any, name: str) -> int:
    value = row[name]
    if not isinstance(value, int):
        raise TypeError(name)
    return value


def _row(value: Any) -> Mapping[str, Any]:
    if not isinstance(value, dict):
        raise TypeError(value)
    return value


def _rows(value: Any) -> list[Mapping[str, Any]]:
    """Returns the rows of a list, or of an object by id; none for null."""
    rows = value.values() if isinstance(value, dict) else value or ()
    return [_row(row) for row in rows]


def _node(row: Any) -> CatalogNode:
    meta, tagged = row.get("Meta") or {}, row.get("TaggedAddresses") or {}
    others = (str(address) for kind, address in tagged.items() if kind != "lan" and address)
    return CatalogNode(
        name=_text(row, "Node"),
        node_id=_maybe(row, "ID"),
        address=_maybe(row, "Address"),
        datacenter=_maybe(row, "Datacenter"),
        modify_index=_number(row, "ModifyIndex"),
        lan=_maybe(tagged, "lan"),
        other_addresses=tuple(dict.fromkeys(others)),
        meta={str(key): str(value) for key, value in meta.items()},
        document=row,
    )


def _session(row: Any) -> Session:
    return Session(
        session_id=_text(row, "ID"),
        node=_text(row, "Node"),
        behavior=_maybe(row, "Behavior") or "release",
        lock_delay_seconds=_number({"LockDelay": 15_000_000_000, **row}, "LockDelay") / 1e9,
        checks=tuple(str(check) for check in row.get("NodeChecks") or row.get("Checks") or ()),
        document=row,
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
        document=row,
    )
