"""The story of an event: parse, recall, run the steps, remember, report. It knows no vendor's API."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, Protocol

from .deadline import Deadline
from .errors import DecommissionError, StillAlive, TransientError, about
from .events import BadMessage, Request, is_batch, parse, parse_batch
from .inventory import TERMINATED
from .metrics import Metrics
from .recall import Known, Wanted, recall
from .report import Report, StepReport
from .run import Clock, Log, Run, StepFactory, Tools
from .together import in_turn

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from .clients.ec2 import Ec2, Namesakes
    from .config import Config
    from .identity import Instance
    from .inventory import Inventory
    from .steps.base import Living
    from .sweep import Sweep
    from .together import Together

# DescribeInstances may not know an instance yet that has just entered `running`.
_YOUNG = timedelta(minutes=10)
_CLOCKS = timedelta(seconds=5)  # by which EC2's clock, which dates an event, may differ from the function's
# A sweep that fails is tried so often; then the next one of the schedule makes up for it. Sweeps that pile up in the
# queue, or among the dead letters, would tell nothing that the alarms do not.
_SWEEP_TRIES = 3
# Kept back from all else, to put failed messages off: a thousand take a second or two.
PUT_OFF_SECONDS = 4.0


class Delays(Protocol):
    """Puts off the next try of messages; the queue keeps them for so long."""

    def put_off(self, seconds_by_receipt: Mapping[str, int]) -> None: ...


class FailedError(DecommissionError):
    """At least one step failed for the event that the function was called with; all steps have run."""


class Application:
    """Everything that outlives an invocation, injected.

    Args:
        living: makes what tells the living from the dead, for a batch's own instances, with what EC2 has said before.
        steps: those that are on, in the order in which they look.
        delays: None where the function has no queue.
        sweep: makes a sweep; None where it is off.
        now: the time.
        metrics: where they are counted; written at the end of each invocation.
        together: runs jobs that wait for different systems.
    """

    def __init__(
        self,
        config: Config,
        ec2: Ec2,
        living: Callable[[Iterable[str], Namesakes | None], Living],
        inventory: Inventory | None,
        steps: Sequence[StepFactory],
        log: Log,
        clock: Clock,
        delays: Delays | None = None,
        sweep: Callable[[], Sweep] | None = None,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
        metrics: Metrics | None = None,
        together: Together = in_turn,
    ) -> None:
        self._config = config
        self._ec2 = ec2
        self._metrics = metrics or Metrics(config.name)
        self._tools = Tools(living, inventory, steps, log, clock, now, self._metrics, together)
        self._inventory = inventory
        self._asks_bearers = next((step.asks_bearers for step in steps if step.asks_bearers), None)
        self._log = log
        self._delays = delays
        self._sweep = sweep

    def handle(self, event: Any, deadline: Deadline) -> dict[str, Any]:
        """Handles whatever the function was called with.

        Returns:
            For an SQS event the messages to be tried again; else the report.

        Raises:
            MalformedEvent: the payload is none that the contract names.
            FailedError: something failed for a single EventBridge event.
        """
        try:
            with self._tools.clock.until(deadline):
                if is_batch(event):
                    return self._handle_batch(event)
                request = parse(event)
                report = self._carry_out([request])[request]
                if report.failed and not request.by_operator:
                    raise FailedError(f"{report.instance_id or request.kind}: {report.failures}")
                return report.document()
        finally:
            flush(self._metrics, self._log)

    def _handle_batch(self, event: dict[str, Any]) -> dict[str, Any]:
        requests, bad = parse_batch(event)
        reports = self._carry_out(requests)
        failed = {q: report for q, report in reports.items() if report.failed and not report.over and not _let_go(q)}
        for message in bad:
            self._log.error(message.error, extra={"message_id": message.message_id})
            self._metrics.count("MalformedMessages")
        self._put_off(failed, bad)
        identifiers = [r.message_id for r in failed] + [m.message_id for m in bad]
        return {"batchItemFailures": [{"itemIdentifier": identifier} for identifier in identifiers]}

    def _put_off(self, failed: Mapping[Request, Report], bad: Sequence[BadMessage]) -> None:
        """Failed messages wait longer with each receive; one that cannot be read has nothing to wait for.

        Where no retry helps any of what failed, the wait does not grow: the message reaches the dead letters soon.
        """
        queue = self._config.queue
        if self._delays is None or queue is None:
            return
        seconds = {m.receipt_handle: 0 for m in bad if m.receipt_handle}
        for request, report in failed.items():
            if request.receipt_handle:
                doublings = 0 if report.permanent else min(max(request.receive_count - 1, 0), 16)
                doubled = queue.retry_delay_seconds * 2**doublings
                seconds[request.receipt_handle] = min(doubled, queue.max_retry_delay_seconds)
        try:
            if seconds:
                self._delays.put_off(seconds)
        except DecommissionError as error:
            # The queue's own visibility timeout brings them back.
            self._metrics.failure(error.kind)
            self._log.warning(f"failed messages come back after the queue's visibility timeout: {error}")

    def _carry_out(self, requests: Sequence[Request]) -> dict[Request, Report]:
        """One report for each request; requests of one instance share one."""
        for request in requests:
            self._tell_arrival(request)
        concerned = {r.instance_id for r in requests if r.kind in ("terminated", "operator")}
        if self._inventory is not None:
            concerned |= {r.instance_id for r in requests if r.kind == "running"}
        with self._tools.clock.until(self._tools.clock.deadline.before(PUT_OFF_SECONDS)):
            reports, recorded = self._handle_instances(requests, concerned)
        self._count(requests, reports, recorded)
        answers: dict[Request, Report] = {}
        # Sweeps that waited together for what failed them see the same: one of them is enough.
        sweeps: dict[Any, Report] = {}
        for request in requests:
            if request.kind == "sweep":
                asked = (request.dry_run, request.accept, request.progress)
                if asked not in sweeps:
                    sweeps[asked] = self._sweep_once(request)
                answers[request] = sweeps[asked]
            elif request.kind == "ignored":
                dry_run = self._is_dry(request)
                answers[request] = Report(request.instance_id, request.kind, dry_run, note=request.ignored)
            elif request.kind == "running" and request.instance_id in recorded:
                answers[request] = recorded[request.instance_id]
            else:
                answers[request] = reports[request.instance_id]
            self._tell_outcome(request, answers[request])
        return answers

    def _handle_instances(
        self, requests: Sequence[Request], concerned: set[str]
    ) -> tuple[dict[str, Report], Mapping[str, Report]]:
        """The reports of what ended, and of what started, by instance id."""
        begun = self._tools.now()
        terminated = {r.instance_id: r for r in requests if r.kind == "terminated"}
        # An event goes before what an operator asks of the same instance, and its end before its beginning.
        ended = {**{r.instance_id: r for r in requests if r.kind == "operator"}, **terminated}
        known = recall(
            concerned,
            self._ec2,
            self._inventory,
            self._config.instance_filter,
            self._tools.together,
            Wanted(self._asks_bearers, ended.keys(), begun) if self._asks_bearers else None,
        )
        started = {r.instance_id: r for r in requests if r.kind == "running" and r.instance_id not in terminated}
        recorded = self._remember_running(started, known)
        reports: dict[str, Report] = {}
        for dry_run in (True, False):
            same = [r for r in ended.values() if self._is_dry(r) == dry_run]
            reports |= self._decommission(same, known, begun, dry_run=dry_run)
        return reports, recorded

    def _count(self, requests: Sequence[Request], ended: Mapping[str, Report], started: Mapping[str, Report]) -> None:
        now = self._tools.now()
        ages: dict[str, list[float]] = {}
        for request in requests:
            report = ended.get(request.instance_id) or started.get(request.instance_id)
            if request.time is None or report is None:
                continue
            age = (now - request.time).total_seconds()
            if report.failed:
                # SQS leaves what was received three times out of its own age of the oldest message.
                self._metrics.value("UnfinishedAge", age)
            if request.kind == "terminated":
                ages.setdefault(request.instance_id, []).append(age)
        for instance_id, report in ended.items():
            self._metrics.instance(report, ages.get(instance_id, ()))
        for report in started.values():
            self._metrics.errors(report)

    def _is_dry(self, request: Request) -> bool:
        return self._config.dry_run if request.dry_run is None else request.dry_run

    # Remember what runs

    def _remember_running(self, requests: Mapping[str, Request], known: Known) -> dict[str, Report]:
        reports: dict[str, Report] = {}
        wanted: dict[str, Instance] = {}
        for instance_id, request in requests.items():
            report = Report(instance_id, "running", self._is_dry(request))
            seen = self._as_running(request, known)
            if isinstance(seen, str):
                report = replace(report, note=seen)
            elif isinstance(seen, tuple):
                report = replace(report, errors=seen)
            else:
                wanted[instance_id] = seen
            reports[instance_id] = report
        kept = self._inventory.remember_running(wanted.values()) if self._inventory and wanted else {}
        for instance_id, result in kept.items():
            if isinstance(result, DecommissionError):
                reports[instance_id] = replace(reports[instance_id], errors=(about("inventory", result),))
            else:
                note = "recorded in the inventory" if result else "it is recorded as terminated, and stays so"
                identity = wanted[instance_id].identity()
                reports[instance_id] = replace(reports[instance_id], identity=identity, note=note)
        return reports

    def _as_running(self, request: Request, known: Known) -> Instance | str | tuple[DecommissionError, ...]:
        """The instance that is to be recorded, or why none is, or what failed."""
        description = known.descriptions.get(request.instance_id)
        record = known.records.get(request.instance_id)
        if self._inventory is None:
            return "the inventory is off; nothing is remembered"
        if known.errors:
            return known.errors
        if (record and record.state == TERMINATED) or (description and not description.lives):
            return "it has been terminated since; a late event brings nothing back"
        if description is None:
            if request.time and self._tools.now() - request.time < _YOUNG:
                return (TransientError("ec2: DescribeInstances does not know the instance yet"),)
            return "EC2 does not know the instance any more; a late event brings nothing back"
        instance = description.instance()
        return known.unwanted(instance) or instance

    # Remove what the dead left

    def _decommission(
        self, requests: Sequence[Request], known: Known, begun: datetime, *, dry_run: bool
    ) -> dict[str, Report]:
        reports: dict[str, Report] = {}
        todo: dict[str, Instance] = {}
        retries: set[str] = set()
        times: list[datetime | None] = []
        for request in requests:
            instance = known.instance(request)
            reports[request.instance_id] = Report(
                request.instance_id, instance.state, dry_run, errors=known.errors, identity=instance.identity()
            )
            refused = self._refusal(request, instance, known)
            if refused:
                steps = tuple(replace(refused, step=step.name) for step in self._tools.steps)
                reports[request.instance_id] = replace(reports[request.instance_id], steps=steps)
            else:
                todo[request.instance_id] = instance
                times.append(request.time if request.kind == "terminated" else None)
                if request.kind != "operator":
                    retries.add(request.instance_id)
        if todo:
            told = [time for time in times if time is not None]
            # Events tell of what has happened: all had ended by the time that the function was called with them.
            ended_at = min(max(told) + _CLOCKS, begun) if len(told) == len(times) else None
            run = Run(self._tools, todo, known, retries, dry_run=dry_run, ended_at=ended_at)
            for instance_id, (instance, steps, errors) in run.carry_out().items():
                reports[instance_id] = replace(
                    reports[instance_id],
                    steps=steps,
                    identity=instance.identity(),
                    errors=(*reports[instance_id].errors, *errors),
                )
        return reports

    def _refusal(self, request: Request, instance: Instance, known: Known) -> StepReport | None:
        """Why no step may run for this instance."""
        if known.ec2_error:
            return StepReport.failed("", about("cannot be sure that the instance is gone", known.ec2_error))
        description = known.descriptions.get(request.instance_id)
        state = description.state if description else ""
        if description and description.lives and request.kind == "terminated":
            return StepReport.failed("", StillAlive(f"the event says terminated, EC2 says {state}; retried"))
        if description and (description.lives or state == "shutting-down") and request.kind == "operator":
            return StepReport.skipped(
                "", f"{request.instance_id} is {state}: nothing of it is removed while it lives"
            )
        reason = known.unwanted(instance)
        return StepReport.skipped("", reason) if reason else None

    # Search for what nobody told

    def _sweep_once(self, request: Request) -> Report:
        report = Report("", "sweep", self._is_dry(request))
        if self._sweep is None:
            return replace(report, note="the sweep is off, or the inventory that it needs")
        braked = None
        try:
            seen = self._sweep().run(dry_run=report.dry_run, accept=request.accept, progress=request.progress)
        except DecommissionError as error:
            report = replace(report, errors=(about("sweep", error),))
        else:
            braked = seen.braked
            errors = (*((TransientError(braked),) if braked else ()), *(about("sweep", e) for e in seen.errors))
            # A part would begin again where it began: the next sweep begins anew.
            report = replace(report, errors=errors, sweep=seen.document(), over=seen.in_parts)
        self._metrics.sweep(report, braked=bool(braked))
        return report

    # Tell

    def _tell_arrival(self, request: Request) -> None:
        extra = log_keys(request)
        if request.kind in ("running", "terminated"):
            self._log.info(f"instance {request.instance_id} has entered state {request.kind}", extra=extra)
        elif request.kind == "operator":
            self._log.info(f"an operator asks for instance {request.instance_id}", extra=extra)
        elif request.kind == "sweep":
            self._log.info("sweep: searching for terminations that nobody told", extra=extra)
        elif request.kind == "ignored":
            self._log.info(f"ignored: {request.ignored}", extra=extra)

    def _tell_outcome(self, request: Request, report: Report) -> None:
        if request.kind == "ignored":
            return
        extra: dict[str, Any] = {**log_keys(request), "report": report.document()}
        if report.failed:
            extra["error_kinds"] = list(report.error_kinds)
            self._log.error(f"failed: {report.failures}", extra=extra)
        else:
            told = ", ".join(f"{step.step} {step.status}" for step in report.steps)
            if report.sweep is not None:
                told = told_of_sweep(report.sweep)
            self._log.info(told or report.note or "nothing to do", extra=extra)


def told_of_sweep(sweep: Mapping[str, Any]) -> str:
    """A sweep's document in one line."""
    counts = {name: len(sweep[name]) + sweep.get("left_off", {}).get(name, 0) for name in ("gone", "adopted")}
    told = f"sweep: {counts['gone']} gone, {sweep['refreshed']} refreshed"
    if counts["adopted"]:
        told += f", {counts['adopted']} adopted"
    return told + (", going on in another invocation" if sweep.get("goes_on") else "")


def _let_go(request: Request) -> bool:
    return request.kind == "sweep" and not request.by_operator and request.receive_count >= _SWEEP_TRIES


def log_keys(request: Request) -> dict[str, str]:
    keys = {"instance_id": request.instance_id, "message_id": request.message_id or ""}
    return {key: value for key, value in keys.items() if value}


def flush(metrics: Metrics, log: Log) -> None:
    """Writes the metrics. Those that cannot be written fail nothing."""
    try:
        metrics.flush()
    except Exception as error:
        log.warning(f"the metrics of this invocation are lost: {type(error).__name__}: {error}")
