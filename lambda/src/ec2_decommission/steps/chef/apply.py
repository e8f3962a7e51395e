"""Deletes what the plan and a second plan, on fresh data, agree on."""

from __future__ import annotations

from collections import defaultdict
from typing import TYPE_CHECKING

from ...chunks import chunks
from ...errors import DecommissionError, about
from ...live import StaleAnswer
from ..base import Left, Outcomes
from .observe import documents, observe, with_documents
from .plan import Case, only_a_node_leads_to, plan, question, until_client_is_gone

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from ...clients.chef import ChefServer
    from ...config import ChefSettings
    from ..base import Batch, Finding, Outcome, Removal

# Instances in one round. At 20 ms a request and 8 concurrent requests, their nodes and clients take 1.3 s, so the
# data read before the round stays fresh. The guard ends a round that outlasts its answer about live instances.
_AT_ONCE = 256
_LEAST_SECONDS = 1.0

Removals = dict[str, list["Removal"]]


def apply(
    server: ChefServer, settings: ChefSettings, batch: Batch, findings: Mapping[str, Finding], *, audit: bool
) -> Mapping[str, Outcome]:
    """Works in rounds: observe, query live instances, plan, then delete until the answers are too old."""
    outcomes = Outcomes(findings)
    for ids in chunks([i for i, finding in findings.items() if finding.removals], _AT_ONCE):
        pending = {instance_id: list(findings[instance_id].removals) for instance_id in ids}
        while pending:
            pending = _round(server, settings, batch, pending, outcomes, audit=audit)
    return outcomes.outcomes()


def _round(
    server: ChefServer, settings: ChefSettings, batch: Batch, pending: Removals, outcomes: Outcomes, *, audit: bool
) -> Removals:
    """Runs one round. Returns the removals that it did not reach while its answers were fresh."""
    everything = [removal for removals in pending.values() for removal in removals]
    try:
        batch.deadline.check(_LEAST_SECONDS, "a round of deletions on the Chef server")
        instances = {i: batch.instances[i] for i in pending}
        snapshot = observe(server, settings, instances, names=[r.handle for r in everything], with_keys=audit)
        kept = documents(server, everything) if audit else {}
        answer = batch.live.ask(question(settings, batch.instances, snapshot, pending), gone=batch.instances)
    except DecommissionError as error:
        for instance_id in pending:
            outcomes.failed(instance_id, error)
        return {}
    fresh = plan(settings, batch.instances, snapshot, answer.living, pending)
    if audit:
        fresh = {instance_id: with_documents(finding, kept) for instance_id, finding in fresh.items()}
    agreed = {i: _agreed(batch, i, removals, fresh[i], outcomes) for i, removals in pending.items()}

    # Clients first: while a client's node exists, a retry finds both by id.
    clients = {i: [r for r in removals if r.kind == "chef_client"] for i, removals in agreed.items()}
    stale, failed = _delete(server.delete_clients, clients, answer.guard, outcomes)
    nodes: Removals = {}
    for instance_id, removals in agreed.items():
        case = Case(settings, batch.instances[instance_id], batch.instances, snapshot)
        lost = [client.handle for client in failed[instance_id] if only_a_node_leads_to(case, client.handle)]
        of_instance = [r for r in removals if r.kind == "chef_node"]
        if lost:
            for node in of_instance:
                outcomes.stays(instance_id, Left(node.target, until_client_is_gone(lost[0])))
        elif instance_id in stale:
            stale[instance_id] += of_instance
        else:
            nodes[instance_id] = of_instance
    stale_nodes, _ = _delete(server.delete_nodes, nodes, answer.guard, outcomes)
    return stale | stale_nodes


def _agreed(
    batch: Batch, instance_id: str, planned: Sequence[Removal], fresh: Finding, outcomes: Outcomes
) -> list[Removal]:
    """Returns the planned removals that are also in the fresh plan. Others are gone, kept, or undecided."""
    now = {removal.target: removal for removal in fresh.removals}
    left = {thing.target: thing for thing in fresh.left}
    agreed = []
    for removal in planned:
        if again := now.get(removal.target):
            try:
                if again.object != removal.object:
                    batch.keep(instance_id, [again])
            except DecommissionError as error:
                outcomes.failed(instance_id, about(removal.target, error))
            else:
                agreed.append(again)
            continue
        if removal.target in left:
            outcomes.stays(instance_id, left[removal.target])
        for undecided in fresh.errors:  # one of them may be why the removal is no longer planned
            outcomes.failed(instance_id, undecided)
    return agreed


def _delete(
    delete: Callable[..., Mapping[str, bool | DecommissionError]],
    removals: Removals,
    guard: Callable[[], None],
    outcomes: Outcomes,
) -> tuple[Removals, Removals]:
    """Returns the removals that were not sent because the answers were too old, and those that failed."""
    names = [removal.handle for of_instance in removals.values() for removal in of_instance]
    results = delete(names, guard=guard)
    stale, failed = defaultdict(list), defaultdict(list)
    for instance_id, of_instance in removals.items():
        for removal in of_instance:
            result = results[removal.handle]
            if isinstance(result, StaleAnswer):
                stale[instance_id].append(removal)
            elif isinstance(result, DecommissionError):
                failed[instance_id].append(removal)
                outcomes.failed(instance_id, about(removal.target, result))
            elif result:
                outcomes.removed(instance_id, removal)
    return stale, failed
