"""One run of the steps over a batch of terminated instances: look, remember, find, remove, remember.

While the steps look, a step may read ahead what it is going to ask for. What an instance was is written into the
inventory (where there is one) before anything of it is removed: with its Chef node may go the only word of its
address, which another step needs at a later try. Once that is written, the steps find and remove side by side: they
wait for other systems most of their time. Without it they go one after the other. Where the inventory cannot be read
or written, they go on for an instance whose address is known and for which all of them can be finished, as far as
they can tell before anything is removed; the rest waits for the retry.
"""

from __future__ import annotations

import time
from collections import defaultdict
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any, Protocol

from .deadline import Deadline
from .errors import DecommissionError, TransientError, about
from .identity import Facts, Instance
from .inventory import HISTORY, TERMINATED, Settled
from .report import FAILED, StepReport
from .steps.base import Batch, Outcome, ReadsAhead

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
    from datetime import datetime

    from .clients.ec2 import Namesakes
    from .inventory import Inventory, Record
    from .metrics import Metrics
    from .recall import Known
    from .steps.base import Living, Step
    from .templates import Template
    from .together import Together

# Kept back from the steps, to remember and report: no call to DynamoDB begins in the last 8 of these seconds.
RESERVE_SECONDS = 10.0
# A step's share of the time is never less, as long as there is so much: enough to begin a call to AWS.
_LEAST_SECONDS = 10.0


class Log(Protocol):
    """The part of Powertools' Logger that is used here."""

    def info(self, msg: object, **kwargs: Any) -> None: ...
    def warning(self, msg: object, **kwargs: Any) -> None: ...
    def error(self, msg: object, **kwargs: Any) -> None: ...
    def exception(self, msg: object, **kwargs: Any) -> None: ...


class Clock:
    """The deadline of the work under way; every client asks it before a call."""

    def __init__(self) -> None:
        self.deadline = Deadline.after(0)

    @contextmanager
    def until(self, deadline: Deadline) -> Iterator[Deadline]:
        """Makes ``deadline`` the one that counts."""
        before, self.deadline = self.deadline, deadline
        try:
            yield deadline
        finally:
            self.deadline = before


@dataclass(frozen=True)
class StepFactory:
    """Makes a step for one batch; making it may open a secret, and so may fail like the step itself.

    Attributes:
        make: takes whether the run is dry.
        asks_bearers: the template of names whose living bearers the step asks for, whatever it finds.
    """

    name: str
    make: Callable[[bool], Step]
    asks_bearers: Template | None = None


@dataclass(frozen=True)
class Tools:
    """What a run works with.

    Attributes:
        living: makes what tells the living from the dead, for a batch's own instances, with what EC2 has said before.
        steps: those that are on, in the order in which they look.
        together: runs jobs that wait for different systems.
    """

    living: Callable[[Iterable[str], Namesakes | None], Living]
    inventory: Inventory | None
    steps: Sequence[StepFactory]
    log: Log
    clock: Clock
    now: Callable[[], datetime]
    metrics: Metrics
    together: Together


class Run:
    """The steps, run over a batch of terminated instances."""

    def __init__(
        self,
        tools: Tools,
        instances: dict[str, Instance],
        known: Known,
        retries: set[str],
        *,
        dry_run: bool,
        ended_at: datetime | None = None,
    ) -> None:
        self._tools = tools
        self._instances = instances
        self._known = known
        self._dry_run = dry_run
        self._ended_at = ended_at
        self._living = tools.living(instances, known.namesakes)
        self._reports: dict[str, dict[str, StepReport]] = {i: {} for i in instances}
        self._errors: dict[str, list[DecommissionError]] = {i: [] for i in instances}
        self._seconds: dict[str, float] = defaultdict(float)
        self._spare = tools.clock.deadline.before(RESERVE_SECONDS)
        # Whether an instance's identity was known before the steps were asked.
        self._known_before = {i for i, instance in instances.items() if instance.addresses}
        self._not_looked: set[str] = set()
        # Whom the inventory cannot be asked about, or cannot remember.
        self._unremembered: dict[str, DecommissionError] = {}
        for instance_id in retries:
            self._recall_settled(instance_id)

    def _recall_settled(self, instance_id: str) -> None:
        """On a retry only what is not settled runs again. Where all is, the event is a second one."""
        record = self._known.records.get(instance_id)
        if record is None or self._dry_run:
            return
        settled = {name: step for name, step in record.steps.items() if step.get("settled_at")}
        if any(factory.name not in settled for factory in self._tools.steps):
            for name, step in settled.items():
                self._reports[instance_id][name] = StepReport.remembered(name, step)

    def carry_out(self) -> dict[str, tuple[Instance, tuple[StepReport, ...], tuple[DecommissionError, ...]]]:
        """Runs all steps, and returns instance, step reports and other errors by instance id."""
        if self._known.inventory_error and not self._dry_run:
            self._unremembered = dict.fromkeys(self._instances, self._known.inventory_error)
        steps = [(factory, step) for factory in self._tools.steps if (step := self._make(factory)) is not None]
        self._tools.together([*self._read_ahead(steps), partial(self._work, steps)])
        self._remember_outcome()
        for name, seconds in self._seconds.items() if not self._dry_run else ():
            self._tools.metrics.value("StepDuration", seconds * 1000, step=name)
        order = [factory.name for factory in self._tools.steps]
        return {
            i: (
                self._instances[i],
                tuple(self._reports[i][name] for name in order if name in self._reports[i]),
                tuple(self._errors[i]),
            )
            for i in self._instances
        }

    def _due(self, name: str) -> dict[str, Instance]:
        return {i: instance for i, instance in self._instances.items() if name not in self._reports[i]}

    def _make(self, factory: StepFactory) -> Step | None:
        due = self._due(factory.name)
        if not due:
            return None
        with self._share_of_time(len(self._tools.steps) * 2), self._guard(factory.name, due):
            return factory.make(self._dry_run)
        self._not_looked.update(due)
        return None

    def _read_ahead(self, steps: Sequence[tuple[StepFactory, Step]]) -> Iterator[Callable[[], None]]:
        for factory, step in steps:
            if isinstance(step, ReadsAhead):
                job = step.read_ahead(Batch(self._due(factory.name), self._living, self._spare, self._ended_at))
                if job:
                    yield partial(self._quietly, factory.name, job)

    def _quietly(self, name: str, job: Callable[[], None]) -> None:
        try:
            job()
        except DecommissionError as error:  # met again, and told, by what needs it
            self._tools.log.info(f"step {name} could not read ahead: {error}")
        except Exception:  # a fault of the step's own
            self._tools.log.exception(f"step {name} failed unexpectedly to read ahead")

    def _work(self, made: Sequence[tuple[StepFactory, Step]]) -> None:
        steps = [(factory, step) for factory, step in made if self._look(factory, step)]
        self._remember_identity()
        if self._unremembered or (self._tools.inventory is None and not self._dry_run):
            self._work_in_turn(steps)
        else:
            self._work_together(steps)

    def _look(self, factory: StepFactory, step: Step) -> bool:
        due = self._due(factory.name)
        with self._share_of_time(len(self._tools.steps) * 2) as deadline, self._guard(factory.name, due):
            for instance_id, facts in step.look(Batch(due, self._living, deadline, self._ended_at)).items():
                self._instances[instance_id] = self._instances[instance_id].learn(facts)
            return True
        self._not_looked.update(due)
        return False

    def _work_in_turn(self, steps: Sequence[tuple[StepFactory, Step]]) -> None:
        """Each step knows how the one before it ended, and leaves time to those that follow it."""
        self._foresee(steps)
        for position, (factory, step) in enumerate(steps):
            self._hold_back(factory.name)
            with self._share_of_time(len(steps) - position):
                self._find_and_remove(factory, step)

    def _work_together(self, steps: Sequence[tuple[StepFactory, Step]]) -> None:
        """All at once, with all the time that is left: none waits for another."""
        with self._tools.clock.until(self._spare):
            self._tools.together([partial(self._find_and_remove, factory, step) for factory, step in steps])

    def _find_and_remove(self, factory: StepFactory, step: Step) -> None:
        due = self._due(factory.name)
        if not due:
            return
        with self._guard(factory.name, due):
            batch = Batch(due, self._living, self._tools.clock.deadline, self._ended_at)
            findings = {i: finding for i, finding in step.find(batch).items() if i in due}
            outcomes: Mapping[str, Outcome] = {}
            wanted = {i: finding for i, finding in findings.items() if finding.removals}
            if wanted and not self._dry_run:
                outcomes = step.remove(batch, wanted)
            for instance_id in due:
                finding, outcome = findings.get(instance_id), outcomes.get(instance_id)
                if finding is None:
                    silent = TransientError("the step tells nothing of what it found")
                    report = StepReport.failed(factory.name, silent)
                elif self._dry_run:
                    report = StepReport.of(factory.name, finding, None)
                else:
                    if instance_id in wanted and outcome is None:
                        outcome = Outcome(errors=(TransientError("the step tells nothing of what it removed"),))
                    report = StepReport.of(factory.name, finding, outcome or Outcome())
                self._reports[instance_id][factory.name] = report

    @contextmanager
    def _share_of_time(self, parts: int) -> Iterator[Deadline]:
        """A step may not use up the time of those that follow it."""
        with self._tools.clock.until(self._spare.share(parts, _LEAST_SECONDS)) as deadline:
            yield deadline

    @contextmanager
    def _guard(self, name: str, due: Mapping[str, Instance]) -> Iterator[None]:
        """A step that fails stops no other."""
        started = time.monotonic()
        try:
            yield
        except DecommissionError as error:
            self._fail(name, due, error)
        except Exception as error:  # a fault of the step's own; the other steps still run
            self._tools.log.exception(f"step {name} failed unexpectedly")
            self._fail(name, due, TransientError(f"unexpected {type(error).__name__}: {error}"))
        finally:
            self._seconds[name] += time.monotonic() - started

    def _fail(self, name: str, due: Iterable[str], error: DecommissionError) -> None:
        for instance_id in due:
            self._reports[instance_id].setdefault(name, StepReport.failed(name, error))

    def _foresee(self, steps: Sequence[tuple[StepFactory, Step]]) -> None:
        """Finds for those that the inventory does not remember, before the first step removes anything of them.

        One step often has to wait while the others could go on: a Consul agent that still counts as alive, for one.
        """
        for factory, step in steps:
            due = {i: instance for i, instance in self._due(factory.name).items() if i in self._unremembered}
            if due and not self._dry_run:
                with self._share_of_time(len(steps) * 2) as deadline, self._guard(factory.name, due):
                    for instance_id, finding in step.find(Batch(due, self._living, deadline, self._ended_at)).items():
                        if finding.errors and instance_id in due:
                            report = StepReport.of(factory.name, finding, Outcome())
                            self._reports[instance_id][factory.name] = report

    def _hold_back(self, name: str) -> None:
        """Keeps the step from instances that the inventory does not remember, where a retry may need what would go.

        That is so where another step failed, and so comes back without what this one takes away; and where no address
        is known now, but the inventory may have one.
        """
        for instance_id in self._unremembered.keys() & self._due(name).keys():
            failed = [step for step, report in self._reports[instance_id].items() if report.status == FAILED]
            if failed:
                why = f"{failed[0]} failed, and the inventory does not remember what the instance was"
            elif not self._instances[instance_id].addresses:
                why = "no address of the instance is known without the inventory"
            else:
                continue
            self._fail(name, [instance_id], about(f"waits: {why}", self._unremembered[instance_id]))

    def _remember_identity(self) -> None:
        """Before anything is removed, so that a retry next day has all of it."""
        inventory = self._tools.inventory
        if inventory is None or self._dry_run or self._known.inventory_error:
            return
        news = [
            instance
            for instance_id, instance in self._instances.items()
            if not (record := self._known.records.get(instance_id))
            or record.state != TERMINATED
            or _grown(instance, record)
        ]
        failed = {i: about("inventory", error) for i, error in inventory.remember_terminated(news).items()}
        for instance_id, error in failed.items():
            self._errors[instance_id].append(error)
        self._unremembered = failed

    def _remember_outcome(self) -> None:
        inventory = self._tools.inventory
        if inventory is None or self._dry_run or self._known.inventory_error:
            return
        now = self._tools.now().isoformat()
        outcomes: dict[str, Settled] = {}
        for instance_id, reports in self._reports.items():
            if instance_id in self._unremembered:
                continue  # an item of steps alone would neither live nor expire
            # A step that looked while another could not say who the instance was has to look again.
            complete = instance_id not in self._not_looked or instance_id in self._known_before
            steps: dict[str, Mapping[str, Any]] = {}
            removed: list[Mapping[str, str]] = []
            for name, report in reports.items():
                fresh = report.settled_at is None
                settles = fresh and complete and report.status != FAILED
                steps[name] = replace(report, settled_at=now).document() if settles else report.document()
                if fresh:
                    removed += [{"at": now, "step": name, **action} for action in report.actions]
            record = self._known.records.get(instance_id)
            room = max(0, HISTORY - len(record.removed if record else ()))
            outcomes[instance_id] = Settled(steps, removed[:room])
        for instance_id, error in inventory.remember_steps(outcomes).items():
            self._errors[instance_id].append(about("inventory", error))


def _grown(instance: Instance, record: Record) -> bool:
    """Whether more is known of the instance than the inventory remembers."""
    return record.instance().learn(_facts(instance)) != record.instance()


def _facts(instance: Instance) -> Facts:
    return Facts(
        "all",
        account_id=instance.account_id,
        region=instance.region,
        vpc_id=instance.vpc_id,
        launch_time=instance.launch_time,
        private_ips=instance.private_ips,
        public_ips=instance.public_ips,
        ipv6_addresses=instance.ipv6_addresses,
        private_dns_names=instance.private_dns_names,
        public_dns_names=instance.public_dns_names,
        tags=instance.tags,
        known_as=instance.known_as,
    )
