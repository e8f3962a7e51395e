"""One run of the steps over a batch of terminated instances: identify, record, plan, apply, record.

An instance's identity is written to the inventory before anything is removed: its Chef node may be the only place
that has its address, which another step needs in a retry. If the identity cannot be recorded, nothing is removed and
the message is retried. Once it is written, the steps plan and apply concurrently, because they mostly wait for other
systems.
"""

from __future__ import annotations

import time
from collections import defaultdict
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any, Protocol

from . import deadline as deadlines
from .errors import DecommissionError, TransientError, about
from .inventory import HISTORY, TERMINATED, Result
from .invocation import request_id
from .report import FAILED, StepReport
from .steps.base import Batch, Left, Outcome

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
    from datetime import datetime

    from .events import Approved
    from .instance import Instance
    from .inventory import Inventory
    from .live import Live
    from .metrics import Metrics
    from .recall import Known
    from .steps.base import Finding, Removal, Step
    from .together import Together

# Reserved for recording and reporting: no call to DynamoDB starts in the last 8 of these seconds.
RESERVE_SECONDS = 10.0


class Log(Protocol):
    """The part of Powertools' Logger that this package uses."""

    def info(self, msg: object, **kwargs: Any) -> None: ...
    def warning(self, msg: object, **kwargs: Any) -> None: ...
    def error(self, msg: object, **kwargs: Any) -> None: ...
    def exception(self, msg: object, **kwargs: Any) -> None: ...


class Audit(Protocol):
    """Stores what is removed."""

    def keep(self, instance: Instance, step: str, removals: Sequence[Removal]) -> None:
        """Writes the complete objects. Raises DecommissionError if it cannot; then nothing may be removed."""


@dataclass(frozen=True)
class Circumstances:
    """The conditions that a step is created under.

    Attributes:
        dry_run: nothing will be removed.
        ended_at: when all instances of the batch had ended, in seconds since 1970; None if unknown. A listing read
            after this time holds everything that the instances ever created, so it may be used again.
    """

    dry_run: bool = False
    ended_at: float | None = None


@dataclass(frozen=True)
class StepFactory:
    """Creates a step for one batch. This may decrypt a secret, and so may fail like the step itself."""

    name: str
    make: Callable[[Circumstances], Step]


@dataclass(frozen=True)
class Tools:
    """What a run needs. ``steps`` are the enabled steps, in the order of the report."""

    live: Live
    inventory: Inventory | None
    steps: Sequence[StepFactory]
    log: Log
    now: Callable[[], datetime]
    metrics: Metrics
    together: Together
    audit: Audit | None = None


@dataclass(frozen=True)
class Done:
    """What a run did for one instance. ``errors`` are those outside the steps."""

    instance: Instance
    steps: tuple[StepReport, ...]
    errors: tuple[DecommissionError, ...] = ()

    @property
    def finished(self) -> bool:
        """Nothing is left to do."""
        return not self.errors and all(step.status != FAILED for step in self.steps)


class Run:
    """Runs the steps over a batch of terminated instances.

    Args:
        instances: everything known about each instance, by id.
        retries: ids of instances whose settled steps are taken from the inventory. All others run every step.
        only: the actions that an operator has approved, by instance id. Nothing else is removed for these.
        ended_at: when all instances had ended, in seconds since 1970; None if it is unknown for any of them.
    """

    def __init__(
        self,
        tools: Tools,
        instances: Mapping[str, Instance],
        known: Known,
        retries: Iterable[str],
        only: Mapping[str, frozenset[Approved]] | None = None,
        *,
        dry_run: bool,
        ended_at: float | None = None,
    ) -> None:
        self._tools = tools
        self._ended_at = ended_at
        self._instances = dict(instances)
        self._known = known
        self._only = only or {}
        self._dry_run = dry_run
        self._reports: dict[str, dict[str, StepReport]] = {i: {} for i in instances}
        self._errors: dict[str, list[DecommissionError]] = {i: [] for i in instances}
        self._seconds: dict[str, float] = defaultdict(float)
        # The instances that were identified before the steps ran.
        self._known_before = {i for i, instance in instances.items() if instance.addresses}
        self._not_identified: set[str] = set()
        for instance_id in retries:
            self._recall_settled(instance_id)

    def _recall_settled(self, instance_id: str) -> None:
        """On a retry, runs only the unsettled steps. If all are settled, the event is a duplicate: all run."""
        record = self._known.records.get(instance_id)
        if record is None or self._dry_run:
            return
        # A restore reopens what was settled before it: a new event may remove what was restored.
        since = record.restored_at or ""
        settled = {name: step for name, step in record.steps.items() if (step.get("settled_at") or "") > since}
        if any(factory.name not in settled for factory in self._tools.steps):
            for name, step in settled.items():
                self._reports[instance_id][name] = StepReport.remembered(name, step)

    def carry_out(self) -> dict[str, Done]:
        """Runs all steps and returns what was done, by instance id."""
        spare = deadlines.current().before(RESERVE_SECONDS)
        with deadlines.until(spare.share(2)):
            steps = self._identify()
        with deadlines.until(spare):
            self._remember_identity()  # has time left even if a system hangs
            self._tools.together([partial(self._work, factory, step) for factory, step in steps])
        for name, seconds in self._seconds.items() if not self._dry_run else ():
            self._tools.metrics.value("StepDuration", seconds * 1000, step=name)
        order = [factory.name for factory in self._tools.steps]
        return {
            i: Done(
                self._instances[i],
                tuple(self._reports[i][name] for name in order if name in self._reports[i]),
                tuple(self._errors[i]),
            )
            for i in self._instances
        }

    def _due(self, name: str) -> dict[str, Instance]:
        return {i: instance for i, instance in self._instances.items() if name not in self._reports[i]}

    # Identify

    def _identify(self) -> list[tuple[StepFactory, Step]]:
        """Creates the steps and lets each identify the instances by id. A step that fails is skipped."""
        made: dict[str, Step] = {}
        facts: dict[str, Mapping[str, Any]] = {}

        def identify(factory: StepFactory) -> None:
            due = self._due(factory.name)
            if not due:
                return
            with self._guard(factory.name, due):
                step = factory.make(Circumstances(self._dry_run, self._ended_at))
                facts[factory.name] = step.identify(self._batch(factory.name, due))
                made[factory.name] = step
                return
            self._not_identified.update(due)

        self._tools.together([partial(identify, factory) for factory in self._tools.steps])
        for factory in self._tools.steps:
            for instance_id, learned in facts.get(factory.name, {}).items():
                if instance_id in self._instances:
                    self._instances[instance_id] = self._instances[instance_id].learn(learned)
        return [(factory, made[factory.name]) for factory in self._tools.steps if factory.name in made]

    def _remember_identity(self) -> None:
        """Records the identities before anything is removed, for retries. If this fails, nothing is removed."""
        inventory = self._tools.inventory
        if inventory is None or self._dry_run:
            return
        if self._known.inventory_error:
            self._hold_back(dict.fromkeys(self._instances, self._known.inventory_error))
            return
        failed: dict[str, DecommissionError] = {}
        for complete in (True, False):
            some = [i for i in self._instances.values() if self._known.tags_known(i.instance_id) == complete]
            news = [instance for instance in some if self._is_news(instance)]
            failed |= inventory.remember_terminated(news, tags_known=complete)
        self._hold_back({i: about("inventory", error) for i, error in failed.items()})

    def _is_news(self, instance: Instance) -> bool:
        """Whether this holds anything that the inventory does not have yet."""
        record = self._known.records.get(instance.instance_id)
        if record is None or record.state != TERMINATED or record.finished:
            return True
        return replace(record.instance(), sources=()) != replace(instance, sources=())

    def _hold_back(self, failed: Mapping[str, DecommissionError]) -> None:
        for instance_id, error in failed.items():
            if error is not self._known.inventory_error:  # that error is already in the report
                self._errors[instance_id].append(error)
            for factory in self._tools.steps:
                reason = about("nothing was removed, because it could not be recorded", error)
                self._reports[instance_id].setdefault(factory.name, StepReport.failed(factory.name, reason))

    # Plan and apply

    def _work(self, factory: StepFactory, step: Step) -> None:
        due = self._due(factory.name)
        if not due:
            return
        with self._guard(factory.name, due):
            batch = self._batch(factory.name, due)
            plan = step.plan(batch)
            findings = {i: self._approved(factory.name, i, finding) for i, finding in plan.items() if i in due}
            outcomes: dict[str, Outcome] = {}
            planned = {i: finding for i, finding in findings.items() if finding.removals}
            if planned and not self._dry_run:
                kept = self._keep(batch, planned, outcomes)
                outcomes.update(step.apply(batch, kept) if kept else {})
            for instance_id in due:
                self._reports[instance_id][factory.name] = self._report(
                    factory.name, findings.get(instance_id), outcomes.get(instance_id)
                )

    def _approved(self, name: str, instance_id: str, finding: Finding) -> Finding:
        """Keeps only the removals that the operator's approved plan names."""
        only = self._only.get(instance_id)
        if only is None:
            return finding
        names = {(approved.action, approved.target) for approved in only if approved.step == name}
        approved = tuple(r for r in finding.removals if (r.action, r.target) in names)
        held = tuple(Left(r.target, "not in the approved plan") for r in finding.removals if r not in approved)
        return replace(finding, removals=approved, left=(*finding.left, *held))

    def _keep(self, batch: Batch, planned: Mapping[str, Finding], outcomes: dict[str, Outcome]) -> dict[str, Finding]:
        """Writes the removals to the audit. What cannot be written is not removed."""
        kept: dict[str, Finding] = {}

        def keep(instance_id: str, finding: Finding) -> None:
            try:
                batch.keep(instance_id, finding.removals)
            except DecommissionError as error:
                outcomes[instance_id] = Outcome(errors=(about("nothing is removed without its audit object", error),))
            else:
                kept[instance_id] = finding

        self._tools.together([partial(keep, i, finding) for i, finding in planned.items()], 16)
        return {i: kept[i] for i in planned if i in kept}

    def _report(self, name: str, finding: Finding | None, outcome: Outcome | None) -> StepReport:
        if finding is None:
            return StepReport.failed(name, TransientError("the step returned no finding for this instance"))
        if self._dry_run:
            return StepReport.of(name, finding, None)
        if finding.removals and outcome is None:
            outcome = Outcome(errors=(TransientError("the step did not report what it removed"),))
        return StepReport.of(name, finding, outcome or Outcome())

    def _batch(self, name: str, due: Mapping[str, Instance]) -> Batch:
        audit = self._tools.audit
        batch = Batch(due, self._tools.live, deadlines.current(), self._dry_run)
        if audit is None:
            return batch
        return replace(batch, keep=lambda i, removals: audit.keep(self._instances[i], name, removals))

    @contextmanager
    def _guard(self, name: str, due: Mapping[str, Instance]) -> Iterator[None]:
        """Keeps the failure of one step from stopping the others."""
        started = time.monotonic()
        try:
            yield
        except DecommissionError as error:
            self._fail(name, due, error)
        except Exception as error:  # a fault in the step itself
            self._tools.log.exception(f"step {name} failed unexpectedly")
            self._fail(name, due, TransientError(f"unexpected {type(error).__name__}: {error}"))
        finally:
            self._seconds[name] += time.monotonic() - started

    def _fail(self, name: str, due: Iterable[str], error: DecommissionError) -> None:
        for instance_id in due:
            self._reports[instance_id].setdefault(name, StepReport.failed(name, error))

    # Record the results

    def result(self, done: Done, *, next_try_at: str | None, announced: str | None) -> Result:
        """Returns what the inventory records for one instance."""
        now = self._tools.now().isoformat()
        instance_id = done.instance.instance_id
        # If another step could not identify the instance, this step must plan again.
        complete = instance_id not in self._not_identified or instance_id in self._known_before
        steps: dict[str, Mapping[str, Any]] = {}
        removed: list[Mapping[str, str]] = []
        for report in done.steps:
            fresh = report.settled_at is None
            settles = fresh and complete and report.status != FAILED
            steps[report.step] = replace(report, settled_at=now).document() if settles else report.document()
            if fresh:
                removed += [{"at": now, "step": report.step, "request_id": request_id(), **a} for a in report.actions]
        record = self._known.records.get(instance_id)
        room = max(0, HISTORY - len(record.removed if record else ()))
        finished = done.finished and all("settled_at" in step for step in steps.values())
        return Result(
            done.instance.place,
            steps,
            removed[:room],
            finished,
            None if finished else next_try_at,
            announced,
            # A restore relies on the history only of runs that recorded everything.
            whole=self._tools.audit is not None
            and len(removed) <= room
            and len(record.runs if record else ()) < HISTORY,
        )
