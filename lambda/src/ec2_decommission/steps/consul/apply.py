"""Applies a plan in rounds: observe, query live instances, plan, send what both plans agree on.

Changes for many instances are combined into transactions. Each change carries the modify index that its key or node
had a moment ago. Changes that conflict, or that the guard stops because the answer about live instances is too old,
move to the next round. Within a round, keys are first, because the end of a session locks each of its keys for the
lock-delay (15 s by default); then nodes, which take their sessions with them; then the other sessions. A failure for
one instance does not affect the others.

https://developer.hashicorp.com/consul/docs/dynamic-app-config/sessions
https://developer.hashicorp.com/consul/api-docs/txn
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from ...chunks import chunks
from ...clients.consul import MAX_OPS, MAX_VALUES, RefusedError, Right, delete_key, delete_node, unlock
from ...errors import AccessError, DecommissionError, PermanentError, TransientError, about
from ...live import StaleAnswer
from ..base import Left, Outcomes
from .observe import Snapshot, fold
from .plan import LOCK, NODE, SESSION, plan, question, target_of

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence

    from ...clients.consul import ConsulCatalog, Op
    from ...config import ConsulSettings
    from ...instance import Instance
    from ..base import Batch, Finding, Outcome, Removal
    from .plan import Handle

_INSTANCES_AT_ONCE = 100
_ROUNDS_WITHOUT_PROGRESS = 3


@dataclass(frozen=True)
class _Job:
    """One removal of one instance."""

    instance_id: str
    removal: Removal

    @property
    def handle(self) -> Handle:
        handle: Handle = self.removal.handle
        return handle

    @property
    def node(self) -> tuple[str, str]:
        """The node of this job: datacenter and folded name."""
        return self.handle.datacenter, fold(self.handle.node.name)

    @property
    def agent(self) -> tuple[str, str]:
        """The agent that registered the node: folded name and node id."""
        return fold(self.handle.node.name), self.handle.node.node_id

    @property
    def ops(self) -> list[Op]:
        """Its operations in a transaction."""
        if self.handle.key is None:
            return delete_node(self.handle.node)
        return delete_key(self.handle.key) if self.removal.action == "delete" else unlock(self.handle.key)

    @property
    def size(self) -> int:
        """Characters of values in its operations."""
        return len((self.handle.key and self.handle.key.value) or "") if self.removal.action == "release" else 0

    def comes_after(self, other: _Job) -> bool:
        """Returns whether this job must follow the other: they share a session, or one is for the whole node."""
        one, two = self.handle.session, other.handle.session
        return self.node == other.node and (one is None or two is None or one == two)


class Applier:
    """Applies the plan of one batch.

    Args:
        observe: reads what may belong to these instances now.
        findings: the first plan.
    """

    def __init__(
        self,
        catalog: ConsulCatalog,
        settings: ConsulSettings,
        observe: Callable[[Mapping[str, Instance]], Snapshot],
        batch: Batch,
        findings: Mapping[str, Finding],
    ) -> None:
        self._catalog = catalog
        self._settings = settings
        self._observe = observe
        self._batch = batch
        self._findings = findings
        self._outcomes = Outcomes(findings)
        # The objects as written to the audit.
        self._written = {(i, r.target): r.object for i, finding in findings.items() for r in finding.removals}
        # State of the round: the snapshot; jobs for the next round, with the reason; jobs that block others.
        self._snapshot = Snapshot()
        self._unfinished: dict[_Job, str] = {}
        self._in_the_way: list[_Job] = []

    def apply(self) -> Mapping[str, Outcome]:
        """Returns the outcome for every instance of the plan."""
        affected = [instance_id for instance_id, finding in self._findings.items() if finding.removals]
        for some in chunks(affected, _INSTANCES_AT_ONCE):
            self._apply([_Job(i, removal) for i in some for removal in self._findings[i].removals])
        return self._outcomes.outcomes()

    def _apply(self, todo: Sequence[_Job]) -> None:
        idle = 0
        while todo and idle < _ROUNDS_WITHOUT_PROGRESS:
            self._round(todo)
            idle = idle + 1 if len(self._unfinished) == len(todo) else 0
            todo = list(self._unfinished)
        for job in todo:
            reason = TransientError(f"{job.removal.target}: {self._unfinished[job]}")
            self._outcomes.failed(job.instance_id, reason)

    def _round(self, todo: Sequence[_Job]) -> None:
        self._snapshot = self._observe(self._instances(todo))
        self._unfinished, self._in_the_way = {}, []
        datacenters: dict[str, dict[str, list[_Job]]] = defaultdict(lambda: {LOCK: [], NODE: [], SESSION: []})
        agreed, guard = self._agreed(todo)
        for job in agreed:
            if self._keep(job):
                datacenters[job.handle.datacenter][job.removal.kind].append(job)
        for datacenter, kinds in datacenters.items():
            self._release(datacenter, kinds[LOCK], guard)
            gone = self._deregister(datacenter, kinds[NODE], guard)
            self._destroy(datacenter, kinds[SESSION], gone, guard)

    def _instances(self, jobs: Iterable[_Job]) -> Mapping[str, Instance]:
        return {job.instance_id: self._batch.instances[job.instance_id] for job in jobs}

    def _agreed(self, jobs: Sequence[_Job]) -> tuple[list[_Job], Callable[[], None]]:
        """Queries live instances and plans again. Returns the jobs that are in this plan too, and the guard.

        The returned jobs have the current keys and nodes.
        """
        instances = self._instances(jobs)
        wanted = question(self._settings, instances, self._snapshot)
        asked = self._batch.live.ask(wanted, gone=self._batch.instances)
        second = plan(self._settings, instances, self._snapshot, asked.living)
        removals = {(i, r.action, r.target): r for i, finding in second.items() for r in finding.removals}
        agreed = []
        for job in jobs:
            removal = removals.get((job.instance_id, job.removal.action, job.removal.target))
            if removal:
                agreed.append(replace(job, removal=removal))
            else:
                self._disagree(job, second[job.instance_id])
        return agreed, asked.guard

    def _disagree(self, job: _Job, second: Finding) -> None:
        """Reports why the second plan lacks a job: a reason, a node registered again, or an object gone."""
        for error in second.errors:
            self._outcomes.failed(job.instance_id, error)
        for left in second.left:
            if left not in self._findings[job.instance_id].left:
                self._outcomes.stays(job.instance_id, left)
        if second.left:
            return
        before = job.handle.node
        for node in (node for datacenter in self._snapshot.datacenters for node in datacenter.nodes):
            same_name = (node.datacenter, fold(node.name)) == (before.datacenter, fold(before.name))
            if same_name and (node.node_id, node.address, node.meta) != (before.node_id, before.address, before.meta):
                reason = f"it was registered again, at {node.address}"
                self._outcomes.stays(job.instance_id, Left(target_of(before), reason))

    def _keep(self, job: _Job) -> bool:
        """Writes to the audit again if the object has changed. False if that failed."""
        thing = (job.instance_id, job.removal.target)
        try:
            if self._written[thing] != job.removal.object:
                self._batch.keep(job.instance_id, [job.removal])
        except DecommissionError as error:
            self._fail(job, error)
            self._in_the_way.append(job)
            return False
        self._written[thing] = job.removal.object
        return True

    # Outcomes of a job

    def _done(self, job: _Job) -> None:
        self._outcomes.removed(job.instance_id, job.removal)

    def _fail(self, job: _Job, error: DecommissionError) -> None:
        if isinstance(error, StaleAnswer):
            self._try_again(job, str(error))
            return
        if isinstance(error, RefusedError):  # Consul would refuse this object again
            error = PermanentError(str(error))
        self._outcomes.failed(job.instance_id, about(job.removal.target, error))
        if job.removal.kind == LOCK:
            self._in_the_way.append(job)

    def _try_again(self, job: _Job, reason: str) -> None:
        self._unfinished[job] = reason
        self._in_the_way.append(job)

    def _waits(self, job: _Job) -> bool:
        """Returns whether something that must go first still exists. The job waits for a later round."""
        obstacles = [other for other in self._in_the_way if job.comes_after(other)]
        if obstacles and all(other in self._unfinished for other in obstacles):
            self._unfinished[job] = self._unfinished[obstacles[0]]
        return bool(obstacles)

    # The changes of one round

    def _release(self, datacenter: str, jobs: Sequence[_Job], guard: Callable[[], None]) -> None:
        for some in _packed(job for job in jobs if job.size <= MAX_VALUES):
            self._transact(datacenter, some, guard)
        for job in jobs:
            if job.size <= MAX_VALUES or job.handle.key is None:
                continue
            try:
                if self._catalog.release(datacenter, job.handle.key, guard):
                    self._done(job)
                else:
                    self._try_again(job, "it keeps changing")
            except DecommissionError as error:
                self._fail(job, error)

    def _deregister(
        self, datacenter: str, jobs: Sequence[_Job], guard: Callable[[], None]
    ) -> Collection[tuple[str, str]]:
        """Deletes nodes; returns those that are gone."""
        ready = [job for job in jobs if not self._waits(job)]
        if not ready:
            return ()
        try:
            # Check before deleting: a retry would find no node, and so no agent to force out.
            self._catalog.prove_rights("", [Right("operator", "write")])
        except DecommissionError as error:
            for job in ready:
                self._fail(job, error)
            return ()
        gone = [job for some in _packed(ready) for job in self._transact(datacenter, some, guard)]
        self._force_out(gone)
        return {job.node for job in gone}

    def _force_out(self, jobs: Sequence[_Job]) -> None:
        """Forces the failed agents of deleted nodes out of gossip.

        The request has only a name, so it comes last: the transaction has shown that the name was the instance's node
        until now, and the node id in gossip shows that the agent of that name belongs to the node.
        """
        while jobs:
            agreed, guard = self._agreed(jobs)
            try:
                failed = {(fold(m.name), m.node_id): m.name for m in self._catalog.members() if m.failed}
            except DecommissionError as error:
                failed = {}
                for job in agreed:
                    self._fail(job, error)
            named = {failed[job.agent]: job for job in agreed if job.agent in failed}
            results = self._catalog.force_leave(named, guard)
            refused = [(named[name], error) for name, error in results.items() if error]
            stale = [job for job, error in refused if isinstance(error, StaleAnswer)]
            jobs = stale if len(stale) < len(named) else ()
            for job, refusal in refused:
                if job not in jobs:
                    self._outcomes.failed(job.instance_id, about(job.removal.target, refusal))

    def _destroy(
        self,
        datacenter: str,
        jobs: Sequence[_Job],
        gone: Collection[tuple[str, str]],
        guard: Callable[[], None],
    ) -> None:
        wanted: dict[str, _Job] = {}
        for job in jobs:
            if job.node in gone:
                self._done(job)
            elif job.handle.session and not self._waits(job):
                wanted[job.handle.session.session_id] = job
        for session_id, error in self._catalog.destroy_sessions(datacenter, wanted, guard).items():
            if error:
                self._fail(wanted[session_id], error)
            else:
                self._done(wanted[session_id])

    def _transact(self, datacenter: str, jobs: Sequence[_Job], guard: Callable[[], None]) -> list[_Job]:
        """Returns the jobs that are done. A transaction that rolls back is sent again without the failures."""
        while jobs:
            try:
                failures = self._catalog.transact(datacenter, [op for job in jobs for op in job.ops], guard)
            except RefusedError as error:
                if len(jobs) > 1:
                    halves = chunks(jobs, (len(jobs) + 1) // 2)
                    return [job for half in halves for job in self._transact(datacenter, half, guard)]
                self._fail(jobs[0], error)
                return []
            except DecommissionError as error:
                for job in jobs:
                    self._fail(job, error)
                return []
            if not failures:
                for job in jobs:
                    self._done(job)
                return list(jobs)
            owners = [job for job in jobs for _ in job.ops]
            blamed = {owners[failure.index]: failure for failure in reversed(failures)}  # the first of each job
            for job, failure in blamed.items():
                if failure.denied:
                    right = "node:write" if job.removal.kind == NODE else "key:write"
                    self._fail(job, AccessError(f"the Consul token lacks {right} on it"))
                else:
                    self._try_again(job, failure.reason)
            jobs = [job for job in jobs if job not in blamed]
        return []


def _packed(jobs: Iterable[_Job]) -> Iterator[list[_Job]]:
    """Splits the jobs into pieces that each fit into one transaction."""
    piece: list[_Job] = []
    for job in jobs:
        ops, size = sum(len(other.ops) for other in piece), sum(other.size for other in piece)
        if ops + len(job.ops) > MAX_OPS or size + job.size > MAX_VALUES:
            yield piece
            piece = []
        piece.append(job)
    yield piece
