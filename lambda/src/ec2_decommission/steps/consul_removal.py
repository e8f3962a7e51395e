"""How the step ``consul`` removes: keys first, then nodes, then the sessions that are left, then the agents.

Changes of the whole batch go together into transactions. One that is rolled back tells which of its operations
failed: these are put aside, the others are sent again, so one instance's failure is no other's. What changed since
it was found is read again and decided again.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from ..clients.consul import MAX_OPS, MAX_VALUES, RefusedError, Right, delete_key, delete_node, unlock
from ..errors import AccessError, DecommissionError, PermanentError, StillAlive, TransientError, about
from .base import Left, Outcome

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from ..clients.consul import CatalogNode, ConsulCatalog, Key, Op, OpFailure, Session
    from .base import Finding, Removal

# The flags of a key that belongs to a semaphore: Consul's api/semaphore.go, SemaphoreFlagValue.
SEMAPHORE_FLAGS = 0xE0F69A2BAA414DE0
ALIVE = "passing"  # serfHealth of an agent that lives
_CAME_BACK = StillAlive("its Consul agent came back to life")
_ROUNDS = 3  # how often what changes under our hands is read and decided again


@dataclass(frozen=True)
class KeyHandle:
    """A key that a session of the node holds."""

    datacenter: str
    node: CatalogNode
    session: Session
    key: Key


@dataclass(frozen=True)
class SessionHandle:
    """A session of the node."""

    datacenter: str
    node: CatalogNode
    session: Session


@dataclass(frozen=True)
class NodeHandle:
    """A node of the catalog."""

    datacenter: str
    node: CatalogNode


def is_contender(key: Key, session_id: str) -> bool:
    """Whether it is the session's own key in a semaphore: ``<prefix>/<session>``."""
    return key.flags == SEMAPHORE_FLAGS and key.name.endswith(f"/{session_id}")


def same_node(one: CatalogNode, other: CatalogNode) -> bool:
    """Whether the node is whose it was; services, checks and other meta may have changed."""
    return (one.name, one.node_id, one.address, one.instance_id) == (
        other.name,
        other.node_id,
        other.address,
        other.instance_id,
    )


@dataclass(frozen=True)
class _Job:
    """One removal of one instance, with its operations and the key or node as it was last read."""

    instance_id: str
    removal: Removal
    ops: tuple[Op, ...]
    size: int = 0


class Remover:
    """Removes what was found, and tells what became of it."""

    def __init__(self, catalog: ConsulCatalog, findings: Mapping[str, Finding]) -> None:
        self._catalog = catalog
        self._findings = findings
        self._removed: dict[str, set[Removal]] = {i: set() for i in findings}
        self._left: dict[str, list[Left]] = {i: [] for i in findings}
        self._errors: dict[str, list[DecommissionError]] = {i: [] for i in findings}
        # By datacenter and id or name: sessions whose locks could not be released, nodes that went by our hand,
        # and nodes that were gone already.
        self._held: set[tuple[str, str]] = set()
        self._gone: set[tuple[str, str]] = set()
        self._vanished: set[tuple[str, str]] = set()

    def outcomes(self) -> dict[str, Outcome]:
        """Carries the removals out; entries for every instance."""
        jobs: dict[str, list[tuple[str, Removal]]] = defaultdict(list)
        for instance_id, finding in self._findings.items():
            for removal in finding.removals:
                jobs[removal.handle.datacenter].append((instance_id, removal))
        for datacenter, some in jobs.items():
            self._keys(datacenter, [job for job in some if isinstance(job[1].handle, KeyHandle)])
            self._nodes(datacenter, [job for job in some if isinstance(job[1].handle, NodeHandle)])
            self._sessions(datacenter, [job for job in some if isinstance(job[1].handle, SessionHandle)])
        return {
            i: Outcome(
                tuple(removal for removal in finding.removals if removal in self._removed[i]),
                tuple(self._left[i]),
                tuple(self._errors[i]),
            )
            for i, finding in self._findings.items()
        }

    def _fail(self, instance_id: str, removal: Removal, error: DecommissionError) -> None:
        if isinstance(error, RefusedError):
            # By itself, and not for the time being: this one thing cannot be sent to Consul.
            error = PermanentError(str(error))
        self._errors[instance_id].append(about(removal.target, error))
        if isinstance(removal.handle, KeyHandle):
            self._held.add((removal.handle.datacenter, removal.handle.session.session_id))

    # Keys

    def _keys(self, datacenter: str, todo: Sequence[tuple[str, Removal]]) -> None:
        jobs = [_key_job(instance_id, removal, removal.handle.key) for instance_id, removal in todo]
        changed: list[tuple[_Job, str]] = []
        for number in range(_ROUNDS):
            if number:
                jobs = self._again(datacenter, [job for job, _ in changed])
            changed = self._transact(datacenter, [job for job in jobs if job.size <= MAX_VALUES])
            changed += self._release_large(datacenter, [job for job in jobs if job.size > MAX_VALUES])
            if not changed:
                return
        for job, reason in changed:
            self._fail(job.instance_id, job.removal, TransientError(f"it keeps changing: {reason}"))

    def _release_large(self, datacenter: str, jobs: Iterable[_Job]) -> list[tuple[_Job, str]]:
        changed = []
        for job in jobs:
            try:
                if self._catalog.release(datacenter, job.removal.handle.key):
                    self._removed[job.instance_id].add(job.removal)
                else:
                    changed.append((job, "its session holds it no more"))
            except DecommissionError as error:
                self._fail(job.instance_id, job.removal, error)
        return changed

    def _again(self, datacenter: str, jobs: Iterable[_Job]) -> list[_Job]:
        """The keys are not as they were found: those that the session still holds are tried again."""
        todo = list(jobs)
        try:
            reading = self._catalog.read(datacenter, (), sorted({job.removal.handle.key.name for job in todo}))
        except DecommissionError as error:
            for job in todo:
                self._fail(job.instance_id, job.removal, error)
            return []
        keys = {key.name: key for key in reading.keys}
        still = []
        for job in todo:
            before = job.removal.handle.key
            now = keys.get(before.name)
            if now is None:
                continue  # gone: what was wanted
            if now.session == before.session or is_contender(now, job.removal.handle.session.session_id):
                still.append(_key_job(job.instance_id, job.removal, now))
            elif now.session is not None:
                reason = f"session {now.session} holds it now"
                self._left[job.instance_id].append(Left(job.removal.target, reason))
        return still

    # Nodes

    def _nodes(self, datacenter: str, todo: Sequence[tuple[str, Removal]]) -> None:
        todo = [(i, r) for i, r in todo if not self._holds_locks(i, r)]
        if not todo:
            return
        try:
            # Proven before the node goes: without its node, a retry would not know whom to force out.
            self._catalog.prove_rights("", [Right("operator", "write")])
            agents = {(member.name.casefold(), member.node_id): member for member in self._catalog.members()}
        except DecommissionError as error:
            for instance_id, removal in todo:
                self._fail(instance_id, removal, error)
            return
        jobs = []
        for instance_id, removal in todo:
            member = agents.get(_agent(removal.handle.node))
            if member and member.alive:
                self._fail(instance_id, removal, _CAME_BACK)
            else:
                jobs.append(_node_job(instance_id, removal, removal.handle.node))
        for job, reason in self._transact(datacenter, jobs):
            self._reconsider(datacenter, job, reason)
        # Last, and only where the node went: this is by name, so the name must have been the instance's.
        went = [job for job in jobs if job.removal in self._removed[job.instance_id]]
        self._gone |= {(datacenter, job.removal.handle.node.name) for job in went}
        failed = {}
        for job in went:
            member = agents.get(_agent(job.removal.handle.node))
            if member and member.failed:
                failed[member.name] = job
        for name, refusal in self._catalog.force_leave(failed).items() if failed else ():
            if refusal:
                self._fail(failed[name].instance_id, failed[name].removal, refusal)

    def _holds_locks(self, instance_id: str, removal: Removal) -> bool:
        """Whether locks of the node's sessions could not be released: it goes when they are, with the retry."""
        handle = removal.handle
        return any(
            (handle.datacenter, r.handle.session.session_id) in self._held
            for r in self._findings[instance_id].removals
            if isinstance(r.handle, KeyHandle) and r.handle.datacenter == handle.datacenter
        )

    def _reconsider(self, datacenter: str, job: _Job, reason: str) -> None:
        """The node is not as it was found."""
        before = job.removal.handle.node
        try:
            reading = self._catalog.read(datacenter, [before.name], ())
        except DecommissionError as error:
            self._fail(job.instance_id, job.removal, error)
            return
        now = reading.nodes.get(before.name)
        if now is None:
            self._vanished.add((datacenter, before.name))
        elif not same_node(before, now):
            whose = now.instance_id or now.address
            self._left[job.instance_id].append(Left(job.removal.target, f"it was registered anew, by {whose}"))
        elif reading.agents.get(before.name) == ALIVE:
            self._fail(job.instance_id, job.removal, _CAME_BACK)
        else:
            again = self._transact(datacenter, [_node_job(job.instance_id, job.removal, now)])
            for _, still in again:
                self._fail(job.instance_id, job.removal, TransientError(f"it keeps changing: {still or reason}"))

    # Sessions

    def _sessions(self, datacenter: str, todo: Sequence[tuple[str, Removal]]) -> None:
        wanted: dict[str, tuple[str, Removal]] = {}
        for instance_id, removal in todo:
            handle = removal.handle
            if (datacenter, handle.node.name) in self._gone:
                self._removed[instance_id].add(removal)  # with its node
            elif (datacenter, handle.node.name) in self._vanished:
                continue
            elif (datacenter, handle.session.session_id) not in self._held:
                wanted[handle.session.session_id] = (instance_id, removal)
        for session_id, error in self._catalog.destroy_sessions(datacenter, wanted).items() if wanted else ():
            instance_id, removal = wanted[session_id]
            if error:
                self._fail(instance_id, removal, error)
            else:
                self._removed[instance_id].add(removal)

    # Transactions

    def _transact(self, datacenter: str, jobs: Sequence[_Job]) -> list[tuple[_Job, str]]:
        """Carries jobs out; returns those that found their key or node changed, with Consul's words."""
        changed: list[tuple[_Job, str]] = []
        for some in _packed(jobs):
            changed += self._transact_some(datacenter, some)
        return changed

    def _transact_some(self, datacenter: str, jobs: Sequence[_Job]) -> list[tuple[_Job, str]]:
        changed: list[tuple[_Job, str]] = []
        while jobs:
            try:
                failures = self._catalog.transact(datacenter, [op for job in jobs for op in job.ops])
            except RefusedError as error:
                if len(jobs) > 1:
                    half = len(jobs) // 2
                    for part in (jobs[:half], jobs[half:]):
                        changed += self._transact_some(datacenter, part)
                else:
                    self._fail(jobs[0].instance_id, jobs[0].removal, error)
                return changed
            except DecommissionError as error:
                for job in jobs:
                    self._fail(job.instance_id, job.removal, error)
                return changed
            if not failures:
                for job in jobs:
                    self._removed[job.instance_id].add(job.removal)
                return changed
            owners = [number for number, job in enumerate(jobs) for _ in job.ops]
            blamed: dict[int, OpFailure] = {}
            for failure in failures:
                blamed.setdefault(owners[failure.index], failure)
            for number, failure in blamed.items():
                job = jobs[number]
                if failure.denied:
                    self._fail(job.instance_id, job.removal, _denied(job))
                else:
                    changed.append((job, failure.reason))
            jobs = [job for number, job in enumerate(jobs) if number not in blamed]
        return changed


def _key_job(instance_id: str, removal: Removal, key: Key) -> _Job:
    if removal.action == "delete":
        return _Job(instance_id, _renewed(removal, key), tuple(delete_key(key)))
    return _Job(instance_id, _renewed(removal, key), tuple(unlock(key)), len(key.value or ""))


def _renewed(removal: Removal, key: Key) -> Removal:
    """The same removal, of the key as it is now. Handles do not count when removals are compared."""
    return replace(removal, handle=replace(removal.handle, key=key))


def _node_job(instance_id: str, removal: Removal, node: CatalogNode) -> _Job:
    return _Job(instance_id, removal, tuple(delete_node(node)))


def _agent(node: CatalogNode) -> tuple[str, str]:
    return node.name.casefold(), node.node_id


def _denied(job: _Job) -> AccessError:
    right = "node:write" if "Node" in job.ops[0] else "key:write"
    return AccessError(f"the Consul token lacks {right} on it")


def _packed(jobs: Iterable[_Job]) -> Iterator[list[_Job]]:
    """Pieces that fit into one transaction each."""
    piece: list[_Job] = []
    ops = size = 0
    for job in jobs:
        if piece and (ops + len(job.ops) > MAX_OPS or size + job.size > MAX_VALUES):
            yield piece
            piece, ops, size = [], 0, 0
        piece.append(job)
        ops += len(job.ops)
        size += job.size
    if piece:
        yield piece
