"""Applies the plan: for each item, finds again, plans again, and sends what both plans agree on.

The items of a batch are removed concurrently. Each has its own find right before its request. They share one answer
about live instances, which is refreshed when it is too old for the next request.
"""

from __future__ import annotations

import threading
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ...errors import AccessError, DecommissionError, TransientError, about
from ...live import StaleAnswer
from ..base import Left, Outcomes
from .plan import id_of, latest, question

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from ...instance import Instance
    from ...live import Living, Round
    from ..base import Batch, Finding, Outcome, Removal
    from .client import Client
    from .observe import Snapshot
    from .plan import Handle
    from .settings import HttpStepSettings

_TRIES = 3  # per item, if the answer about live instances is too old each time


@dataclass(frozen=True)
class _Job:
    """One item of one instance."""

    instance_id: str
    removal: Removal

    @property
    def item_id(self) -> str:
        handle: Handle = self.removal.handle
        return handle.item_id


class Applier:
    """Applies the plan of one batch.

    Args:
        observe: reads what these instances have now.
        plan: the step's plan, given a snapshot and an answer about live instances.
    """

    def __init__(
        self,
        client: Client,
        settings: HttpStepSettings,
        observe: Callable[[Mapping[str, Instance]], Snapshot],
        plan: Callable[[Mapping[str, Instance], Snapshot, Living], Mapping[str, Finding]],
        batch: Batch,
        findings: Mapping[str, Finding],
    ) -> None:
        self._client = client
        self._settings = settings
        self._observe = observe
        self._plan = plan
        self._batch = batch
        self._findings = findings
        self._jobs = {
            f"{instance_id} {number}": _Job(instance_id, removal)
            for instance_id, finding in findings.items()
            for number, removal in enumerate(finding.removals)
        }
        self._asking = threading.Lock()
        self._round: Round | None = None

    def apply(self) -> Mapping[str, Outcome]:
        outcomes = Outcomes(self._findings)
        for key, result in self._client.each(self._jobs, self._remove).items():
            job = self._jobs[key]
            if isinstance(result, DecommissionError):
                outcomes.failed(job.instance_id, about(job.removal.target, result))
            elif isinstance(result, Left):
                outcomes.stays(job.instance_id, result)
            elif result is not None:
                outcomes.removed(job.instance_id, result)
        return outcomes.outcomes()

    def _remove(self, key: str) -> Removal | Left | None:
        """Returns the removal if the item was removed, the reason if it is kept, or None if it was already gone."""
        reason = ""
        for _ in range(_TRIES):
            try:
                return self._try(self._jobs[key])
            except StaleAnswer as stale:
                reason = str(stale)
        raise TransientError(f"{reason} (tried {_TRIES} times)")

    def _try(self, job: _Job) -> Removal | Left | None:
        instances = {job.instance_id: self._batch.instances[job.instance_id]}
        snapshot = self._observe(instances)
        asked = self._fresh_round()
        again = self._plan(instances, snapshot, asked.living)[job.instance_id]
        for removal in again.removals:
            if removal.handle.item_id == job.item_id:
                return self._send(job, removal, asked)
        if again.errors:
            raise again.errors[0]
        return next((left for left in again.left if left.target == job.removal.target), None)

    def _fresh_round(self) -> Round:
        """Returns the last answer about live instances if it is fresh enough, or a new one for the batch's items."""
        with self._asking:
            if self._round is not None:
                try:
                    self._round.guard()
                except StaleAnswer:
                    self._round = None
            if self._round is None:
                affected = {job.instance_id: self._batch.instances[job.instance_id] for job in self._jobs.values()}
                asked = question(self._settings, affected.values())
                self._round = self._batch.live.ask(asked, gone=self._batch.instances)
            return self._round

    def _send(self, job: _Job, removal: Removal, asked: Round) -> Removal | None:
        if removal.object != job.removal.object:
            self._batch.keep(job.instance_id, [removal])
        remove, handle = self._settings.remove, removal.handle
        instance = latest(self._settings, self._batch.instances[job.instance_id])
        reply = self._client.ask(
            self._client.render(remove.request, instance, handle.item, handle.item_id),
            f"remove of {removal.target}",
            remove.error,
            see=remove.gone,
            # A proof by id does not rely on an answer about live instances.
            guard=asked.guard if asked.living.asked else None,
        )
        if reply.ok:
            return removal
        self._check_gone(job, reply.status)
        return None

    def _check_gone(self, job: _Job, status: int) -> None:
        """Checks that an item is gone if the server says so. Some servers say so if permission is missing.

        Raises:
            AccessError: the item still exists.
            DecommissionError: the find failed.
        """
        snapshot = self._observe({job.instance_id: self._batch.instances[job.instance_id]})
        found = snapshot.found[job.instance_id]
        if any(id_of(self._settings, item) == job.item_id for item in found.items):
            raise AccessError(
                f"{self._client.system} answers remove with {status}, but the find right after it still shows the "
                "item: the credentials have no permission to remove it"
            )
        if found.errors:
            raise found.errors[0]
