"""Handles an event: parse, recall, run the steps, remember, report. Knows no vendor's API."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from typing import TYPE_CHECKING, Any, Protocol

from . import deadline as deadlines
from .errors import DecommissionError, MalformedEvent, StillAlive, TransientError, about
from .events import (
    Foreign,
    Ignored,
    MalformedMessage,
    OperatorCall,
    RestoreRequest,
    Started,
    SweepRequest,
    Terminated,
    is_batch,
    parse,
    parse_batch,
)
from .instance_filter import excluded
from .inventory import TERMINATED
from .invocation import invoked_as
from .metrics import Metrics
from .recall import recall
from .report import Report, StepReport
from .results import event_id
from .run import Run

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from .clients.ec2 import Ec2
    from .config import Config
    from .deadline import Deadline
    from .events import Request
    from .instance import Instance
    from .inventory import Inventory
    from .place import Place, Served
    from .recall import Known
    from .results import ResultEvents
    from .run import Log, Tools
    from .sweep import Sweep

# DescribeInstances may not show an instance yet that has just entered `running`.
_YOUNG = timedelta(minutes=10)
_CLOCKS = timedelta(seconds=5)  # the most that EC2's clock may differ from the function's
# A failing sweep is tried this many times; the next scheduled sweep makes up for it. Sweeps that pile up in the queue
# or the dead-letter queue would add nothing to the alarms.
_SWEEP_TRIES = 3
# Reserved for backing off failed messages: a thousand messages take one or two seconds.
BACK_OFF_SECONDS = 4.0
# A message received for the last time moves to the dead-letter queue. The sweep takes up the instance later.
_AFTER_LAST_RECEIVE = timedelta(hours=24)


class Queue(Protocol):
    """The module's own queue."""

    def back_off(self, seconds_by_receipt: Mapping[str, int]) -> None:
        """Hides each message for that many seconds."""

    def send_sweeps(self, places: Iterable[Place]) -> None:
        """Sends one sweep event for each place."""


class Restore(Protocol):
    """Restores what was removed for an instance."""

    def __call__(
        self, request: RestoreRequest, *, dry_run: bool
    ) -> tuple[Sequence[StepReport], DecommissionError | None]:
        """Returns the reports of the steps, and the error that occurred outside them, if any.

        Raises:
            DecommissionError: nothing was restored.
        """


class FailedError(DecommissionError):
    """At least one step failed for the event that the function was invoked with. All steps have run."""


class Application:
    """Everything that outlives an invocation, passed in by the caller.

    Args:
        ec2: the EC2 client of each served place.
        queue: None if the function has no queue.
        sweep: creates the sweep of a place; None if the sweep is off.
        restore: None without ``audit``.
        results: None without ``result_events``.
    """

    def __init__(
        self,
        config: Config,
        served: Served,
        ec2: Mapping[Place, Ec2],
        tools: Tools,
        queue: Queue | None = None,
        sweep: Callable[[Place], Sweep] | None = None,
        restore: Restore | None = None,
        results: ResultEvents | None = None,
    ) -> None:
        self._config = config
        self._served = served
        self._ec2 = ec2
        self._tools = tools
        self._inventory: Inventory | None = tools.inventory
        self._metrics: Metrics = tools.metrics
        self._log: Log = tools.log
        self._queue = queue
        self._sweep = sweep
        self._restore = restore
        self._results = results

    def handle(self, event: Any, deadline: Deadline, request_id: str = "") -> dict[str, Any]:
        """Handles any event that the function is invoked with.

        Args:
            event: an SQS event, an EventBridge event, or an operator's payload.
            deadline: when the invocation must end.
            request_id: the AWS request id of the invocation.

        Returns:
            For an SQS event, the messages to retry; otherwise the report.

        Raises:
            MalformedEvent: the payload has an unknown form.
            FailedError: a single EventBridge event failed.
        """
        try:
            with deadlines.until(deadline), invoked_as(request_id):
                if is_batch(event):
                    return self._handle_batch(event, request_id)
                request = parse(event, self._served)
                (report,) = self._carry_out([request], request_id)
                if report.failed and not _by_operator(request):
                    raise FailedError(f"{report.instance_id or report.state}: {report.failures}")
                return report.document()
        finally:
            flush(self._metrics, self._log)

    def _handle_batch(self, event: dict[str, Any], request_id: str) -> dict[str, Any]:
        requests, malformed = parse_batch(event, self._served)
        reports = self._carry_out(requests, request_id)
        failed = [(q, r) for q, r in zip(requests, reports, strict=True) if r.failed and not _gives_up(q)]
        for message in malformed:
            self._log.error(message.error, extra={"message_id": message.delivery.message_id})
            self._metrics.count("MalformedMessages")
        self._back_off(failed, malformed)
        deliveries = [*(q.delivery for q, _ in failed), *(m.delivery for m in malformed)]
        return {"batchItemFailures": [{"itemIdentifier": d.message_id} for d in deliveries if d]}

    def _back_off(self, failed: Sequence[tuple[Request, Report]], malformed: Sequence[MalformedMessage]) -> None:
        """Failed messages back off exponentially; malformed messages are returned at once."""
        if self._queue is None:
            return
        seconds = {m.delivery.receipt_handle: 0 for m in malformed if m.delivery.receipt_handle}
        for request, report in failed:
            if request.delivery and request.delivery.receipt_handle:
                seconds[request.delivery.receipt_handle] = self._delay(request.delivery.receive_count, report)
        try:
            if seconds:
                self._queue.back_off(seconds)
        except DecommissionError as error:
            # The messages return after the queue's visibility timeout.
            self._metrics.failure(error.kind)
            self._log.warning(f"failed messages return after the queue's visibility timeout: {error}")

    def _delay(self, receive_count: int, report: Report) -> int:
        """Returns the seconds until the next retry. A permanent failure does not back off, so it ends soon."""
        queue = self._config.queue
        if queue is None:
            return 0
        doublings = 0 if report.permanent else min(max(receive_count - 1, 0), 16)
        seconds: int = queue.retry_delay_seconds * 2**doublings
        return min(seconds, queue.max_retry_delay_seconds)

    def _carry_out(self, requests: Sequence[Request], request_id: str) -> list[Report]:
        """Returns one report per request, in the same order. Requests about one instance share a report."""
        started: dict[str, Started] = {}
        ended: dict[str, Terminated | OperatorCall] = {}
        for request in requests:
            self._log_arrival(request)
            match request:
                case Started() if self._inventory is not None:
                    started[request.instance_id] = request
                case Terminated():
                    ended[request.instance_id] = request
                case OperatorCall():
                    ended.setdefault(request.instance_id, request)  # an event has precedence
        started = {i: request for i, request in started.items() if i not in ended}
        with deadlines.until(deadlines.current().before(BACK_OFF_SECONDS)):
            recorded, decommissioned = self._handle_instances(started, ended, request_id)
        self._count(requests, decommissioned, recorded)
        reports: list[Report] = []
        sweeps: dict[SweepRequest, Report] = {}
        for request in requests:
            match request:
                case SweepRequest():
                    # Sweeps that waited together would find the same: run one of them.
                    alike = replace(request, delivery=None)
                    if alike not in sweeps:
                        sweeps[alike] = self._search(request, request_id)
                    report = sweeps[alike]
                case RestoreRequest():
                    report = self._put_back(request, request_id)
                case Foreign():
                    report = self._foreign(request, request_id)
                case Ignored():
                    report = Report(
                        request.instance_id, self._served.own, "ignored", self._config.dry_run, request_id
                    )
                    report = replace(report, note=request.reason)
                case Started() if request.instance_id in recorded:
                    report = recorded[request.instance_id]
                case Started() if request.instance_id not in decommissioned:
                    report = self._report(request, "running", request_id)
                    report = replace(report, note="the inventory is off; nothing was recorded")
                case _:
                    report = decommissioned[request.instance_id]
            self._log_outcome(request, report)
            reports.append(report)
        return reports

    def _report(self, request: Started | Terminated | OperatorCall, state: str, request_id: str) -> Report:
        return Report(request.instance_id, request.place, state, self._is_dry(request), request_id)

    def _is_dry(self, request: Request) -> bool:
        asked = getattr(request, "dry_run", None)
        return self._config.dry_run if asked is None else asked

    def _foreign(self, request: Foreign, request_id: str) -> Report:
        """Reports that the place is not served. Nothing is read or removed."""
        if request.delivery:
            self._metrics.count("ForeignEvents")
        reason = f"{request.place} is not served by this deployment; nothing was read or removed"
        report = Report(request.instance_id, request.place, "not served", self._config.dry_run, request_id)
        steps = tuple(StepReport.skipped(step.name, reason) for step in self._tools.steps)
        return replace(report, steps=steps if request.instance_id else (), note=reason)

    def _handle_instances(
        self,
        started: Mapping[str, Started],
        ended: Mapping[str, Terminated | OperatorCall],
        request_id: str,
    ) -> tuple[dict[str, Report], dict[str, Report]]:
        """Returns the reports of started instances and of ended instances, each by instance id."""
        places = {i: request.place for i, request in {**started, **ended}.items()}
        anywhere = [i for i, r in ended.items() if isinstance(r, OperatorCall) and not r.place_given]
        known = recall(places, anywhere, self._ec2, self._inventory, self._tools.together)
        recorded = self._remember_running(started, known, request_id)
        reports: dict[str, Report] = {}
        for dry_run in (True, False):
            same = {i: request for i, request in ended.items() if self._is_dry(request) == dry_run}
            reports |= self._decommission(same, known, request_id, dry_run=dry_run)
        return recorded, reports

    # Remember what runs

    def _remember_running(self, requests: Mapping[str, Started], known: Known, request_id: str) -> dict[str, Report]:
        reports: dict[str, Report] = {}
        wanted: dict[str, Instance] = {}
        reasons: dict[str, str] = {}
        for instance_id, request in requests.items():
            report = self._report(request, "running", request_id)
            seen = self._as_running(request, known)
            if isinstance(seen, str):
                report = replace(report, note=seen)
            elif isinstance(seen, tuple):
                report = replace(report, errors=seen)
            else:
                wanted[instance_id] = seen
                if reason := excluded(seen, self._config.instance_filter, tags_known=True):
                    reasons[instance_id] = reason
            reports[instance_id] = report
        kept = self._inventory.remember_running(wanted.values(), reasons) if self._inventory and wanted else {}
        for instance_id, result in kept.items():
            if isinstance(result, DecommissionError):
                reports[instance_id] = replace(reports[instance_id], errors=(about("inventory", result),))
                continue
            note = "recorded in the inventory" if result else "already recorded as terminated; not changed"
            if instance_id in reasons:
                note += f"; {reasons[instance_id]}"
            identity = wanted[instance_id].identity()
            reports[instance_id] = replace(reports[instance_id], identity=identity, note=note)
        return reports

    def _as_running(self, request: Started, known: Known) -> Instance | str | tuple[DecommissionError, ...]:
        """Returns the instance to record, the reason not to record it, or the errors."""
        instance_id = request.instance_id
        description, record = known.descriptions.get(instance_id), known.records.get(instance_id)
        if errors := known.errors(instance_id):
            return errors
        if place := known.elsewhere.get(instance_id):
            return f"the instance is in {place}, not in {request.place}"
        if (record and record.state == TERMINATED) or (description and not description.lives):
            return "the instance has been terminated since; this event is late and changes nothing"
        if description is None:
            if request.time and self._tools.now() - request.time < _YOUNG:
                return (TransientError("ec2: DescribeInstances does not show the instance yet"),)
            return "EC2 no longer shows the instance; this event is late and changes nothing"
        return replace(known.instance(instance_id), ran=True)

    # Decommission what has ended

    def _decommission(
        self,
        requests: Mapping[str, Terminated | OperatorCall],
        known: Known,
        request_id: str,
        *,
        dry_run: bool,
    ) -> dict[str, Report]:
        reports: dict[str, Report] = {}
        instances: dict[str, Instance] = {}
        left: dict[str, tuple[Instance, str]] = {}
        for instance_id, request in requests.items():
            instance = known.instance(instance_id)
            report = replace(
                self._report(request, instance.state, request_id),
                errors=known.errors(instance_id),
                identity=instance.identity(),
            )
            if refused := self._refusal(request, known):
                steps = tuple(replace(refused, step=step.name) for step in self._tools.steps)
                report = replace(report, steps=steps)
            elif reason := self._excluded(instance, known):
                steps = tuple(StepReport.skipped(step.name, reason) for step in self._tools.steps)
                report = replace(report, steps=steps)
                left[instance_id] = (instance, reason)
            else:
                instances[instance_id] = instance
            reports[instance_id] = report
        if self._inventory and left and not dry_run and not known.inventory_error:
            for instance_id, error in self._inventory.remember_excluded(left).items():
                reports[instance_id] = replace(reports[instance_id], errors=(about("inventory", error),))
        refusals = {i: r for i, r in reports.items() if i not in instances and r.failed}
        if refusals and not dry_run:
            announced = self._announce(requests, refusals, known)
            if self._inventory and announced and not known.inventory_error:
                # If this write fails, the retry sends the event again with the same id.
                self._inventory.remember_announced(announced)
            reports |= refusals
        if instances:
            reports |= self._run(requests, reports, instances, known, dry_run=dry_run)
        return reports

    def _run(
        self,
        requests: Mapping[str, Terminated | OperatorCall],
        reports: Mapping[str, Report],
        instances: Mapping[str, Instance],
        known: Known,
        *,
        dry_run: bool,
    ) -> dict[str, Report]:
        """Runs the steps, sends the result events, and records the results."""
        retries = [i for i in instances if isinstance(requests[i], Terminated)]
        calls = {i: request.only for i, request in requests.items() if isinstance(request, OperatorCall)}
        only = {i: approved for i, approved in calls.items() if approved is not None}
        ended_at = self._ended_at([requests[i] for i in instances])
        run = Run(self._tools, instances, known, retries, only, dry_run=dry_run, ended_at=ended_at)
        done = run.carry_out()
        told = {
            i: replace(
                reports[i],
                steps=one.steps,
                identity=one.instance.identity(),
                errors=(*reports[i].errors, *one.errors),
            )
            for i, one in done.items()
        }
        if dry_run:
            return told
        announced = self._announce(requests, told, known)
        if self._inventory is None or known.inventory_error:
            return told
        results = {
            i: run.result(
                replace(one, errors=told[i].errors),
                next_try_at=self._next_try(requests[i], told[i]),
                announced=announced.get(i),
            )
            for i, one in done.items()
        }
        for instance_id, error in self._inventory.remember_results(results).items():
            failed = (*told[instance_id].errors, about("inventory", error))
            told[instance_id] = replace(told[instance_id], errors=failed)
        return told

    def _ended_at(self, requests: Iterable[Terminated | OperatorCall]) -> float | None:
        """Returns when all instances had ended, by the events' times; None if an event has no time."""
        times = [request.time if isinstance(request, Terminated) else None for request in requests]
        known = [time for time in times if time is not None]
        if len(known) < len(times):
            return None
        return min(max(known) + _CLOCKS, self._tools.now()).timestamp()

    def _announce(
        self, requests: Mapping[str, Terminated | OperatorCall], reports: dict[str, Report], known: Known
    ) -> dict[str, str]:
        """Sends the result events not sent yet; returns their ids. If one cannot be sent, its message fails."""
        if self._results is None:
            return {}
        ids = {i: event_id(report) for i, report in reports.items()}
        recorded = {i: record.announced for i, record in known.records.items()}
        news = {i: report for i, report in reports.items() if recorded.get(i) != ids[i]}
        if known.inventory_error:
            # The inventory cannot say what was sent, so only a message's first receive sends a failure event.
            news = {i: report for i, report in news.items() if not _is_retry(requests[i]) or not report.failed}
        failed = self._results.announce(news) if news else {}
        for instance_id, error in failed.items():
            report = reports[instance_id]
            reports[instance_id] = replace(report, errors=(*report.errors, about("result event", error)))
        return {i: ids[i] for i in news if i not in failed}

    def _next_try(self, request: Terminated | OperatorCall, report: Report) -> str:
        """Returns when the message becomes visible again. If it was lost, the sweep takes up the instance then."""
        queue, delivery = self._config.queue, request.delivery
        wait = timedelta(0)
        if queue and delivery:
            last = delivery.receive_count >= queue.max_receive_count
            seconds = timedelta(seconds=self._delay(delivery.receive_count, report))
            wait = _AFTER_LAST_RECEIVE if last else seconds
        return (self._tools.now() + wait).isoformat()

    def _refusal(self, request: Terminated | OperatorCall, known: Known) -> StepReport | None:
        """Returns the report if no step may run for this instance; None if they may."""
        instance_id = request.instance_id
        if error := known.ec2_error(instance_id):
            return StepReport.failed("", about("cannot be sure that the instance has ended", error))
        if place := known.elsewhere.get(instance_id):
            return StepReport.skipped("", f"{instance_id} is in {place}, not in {request.place}: nothing was removed")
        if since := _restored_since(request, known):
            return StepReport.skipped(
                "",
                f"{instance_id} was restored at {since}, after this message was sent. A new event or an operator's "
                "call decommissions it again",
            )
        description = known.descriptions.get(instance_id)
        state = description.state if description else ""
        lives = description is not None and description.lives
        if lives and isinstance(request, Terminated):
            return StepReport.failed("", StillAlive(f"the event says terminated, but EC2 says {state}; will retry"))
        if (lives or state == "shutting-down") and isinstance(request, OperatorCall):
            return StepReport.skipped("", f"{instance_id} is {state}: nothing is removed for a live instance")
        return None

    def _excluded(self, instance: Instance, known: Known) -> str | None:
        complete = known.tags_known(instance.instance_id)
        return excluded(instance, self._config.instance_filter, tags_known=complete)

    # Search for missed terminations

    def _search(self, request: SweepRequest, request_id: str) -> Report:
        dry_run = self._is_dry(request)
        place = request.place or self._served.own
        report = Report("", place, "sweep", dry_run, request_id)
        if self._sweep is None:
            return replace(report, note="the sweep, or the inventory that it needs, is off")
        places = list(self._served)
        try:
            if request.place is None and len(places) > 1 and self._queue is not None:
                self._queue.send_sweeps(places)
                return replace(report, note=f"one sweep was sent for each of {len(places)} places")
            with deadlines.until(deadlines.current().before(BACK_OFF_SECONDS)):
                seen = self._sweep(place).run(dry_run=dry_run, accept=request.accept)
        except DecommissionError as error:
            report = replace(report, errors=(about("sweep", error),))
            self._metrics.sweep(report, braked=False, is_retry=_is_retry(request))
            return report
        braked = (TransientError(seen.braked),) if seen.braked else ()
        errors = (*braked, *(about("sweep", error) for error in seen.errors))
        report = replace(report, errors=errors, sweep=seen.document())
        if seen.braked and self._results and not dry_run:
            try:
                self._results.announce_brake(place, report.document(), seen.found)
            except DecommissionError as error:
                report = replace(report, errors=(*errors, about("result event", error)))
        self._metrics.places.add(str(place))
        self._metrics.sweep(report, braked=bool(seen.braked), is_retry=_is_retry(request))
        return report

    def _put_back(self, request: RestoreRequest, request_id: str) -> Report:
        if self._restore is None:
            raise MalformedEvent("restore: needs the module's input audit, which is not set")
        dry_run = self._is_dry(request)
        report = Report(request.instance_id, request.place, "restored", dry_run, request_id)
        try:
            with deadlines.until(deadlines.current().before(BACK_OFF_SECONDS)):
                steps, error = self._restore(request, dry_run=dry_run)
            return replace(report, steps=tuple(steps), errors=(error,) if error else ())
        except DecommissionError as error:
            return replace(report, errors=(about("restore", error),))

    # Count and log

    def _count(self, requests: Sequence[Request], ended: Mapping[str, Report], started: Mapping[str, Report]) -> None:
        now = self._tools.now()
        ages: dict[str, list[float]] = {}
        for request in requests:
            if not isinstance(request, Started | Terminated) or request.time is None:
                continue
            report = ended.get(request.instance_id) or started.get(request.instance_id)
            if report is None:
                continue
            age = (now - request.time).total_seconds()
            if report.failed:
                # SQS's own age of the oldest message leaves out messages that were received three times.
                self._metrics.value("UnfinishedAge", age)
            if isinstance(request, Terminated):
                ages.setdefault(request.instance_id, []).append(age)
        for instance_id, report in ended.items():
            self._metrics.instance(report, ages.get(instance_id, ()))
        for report in started.values():
            self._metrics.errors(report)
        self._metrics.places |= {str(report.place) for report in (*ended.values(), *started.values())}

    def _log_arrival(self, request: Request) -> None:
        extra = log_keys(request)
        match request:
            case Started() | Terminated():
                state = "running" if isinstance(request, Started) else "terminated"
                self._log.info(f"instance {request.instance_id} has entered state {state}", extra=extra)
            case OperatorCall():
                self._log.info(f"an operator asks to decommission {request.instance_id}", extra=extra)
            case RestoreRequest():
                self._log.info(f"an operator asks to restore {request.instance_id}", extra=extra)
            case SweepRequest():
                self._log.info(
                    f"sweep of {request.place or 'all places'}: searching for missed terminations", extra=extra
                )
            case Foreign():
                self._log.info(f"not served: {request.instance_id or 'a sweep'} in {request.place}", extra=extra)
            case Ignored():
                self._log.info(f"ignored: {request.reason}", extra=extra)

    def _log_outcome(self, request: Request, report: Report) -> None:
        if isinstance(request, Ignored):
            return
        extra: dict[str, Any] = {**log_keys(request), "report": report.document()}
        if report.failed:
            extra["error_kinds"] = list(report.error_kinds)
            self._log.error(f"failed: {report.failures}", extra=extra)
            return
        summary = ", ".join(f"{step.step} {step.status}" for step in report.steps)
        if report.sweep is not None:
            summary = sweep_summary(report.sweep)
        self._log.info(summary or report.note or "nothing to do", extra=extra)


def sweep_summary(sweep: Mapping[str, Any]) -> str:
    """Summarizes a sweep's document in one line."""
    counts = {
        name: len(sweep[name]) + sweep.get("left_off", {}).get(name, 0) for name in ("gone", "unfinished", "adopted")
    }
    found = ", ".join(f"{count} {name}" for name, count in counts.items() if count)
    return f"sweep: {found or 'no missed terminations found'}, {sweep['refreshed']} refreshed"


def _by_operator(request: Request) -> bool:
    match request:
        case OperatorCall() | RestoreRequest():
            return True
        case SweepRequest():
            return request.by_operator
    return False


def _is_retry(request: Request) -> bool:
    return request.delivery is not None and request.delivery.receive_count > 1


def _restored_since(request: Request, known: Known) -> str | None:
    """Returns when the instance was restored, if that was after the request's message was sent."""
    record = known.records.get(getattr(request, "instance_id", ""))
    sent_at = request.delivery.sent_at if request.delivery else None
    if record is None or record.restored_at is None or sent_at is None:
        return None
    return record.restored_at if sent_at.isoformat() < record.restored_at else None


def _gives_up(request: Request) -> bool:
    delivery = request.delivery
    return isinstance(request, SweepRequest) and delivery is not None and delivery.receive_count >= _SWEEP_TRIES


def log_keys(request: Request) -> dict[str, str]:
    """Returns the keys that every log line about a request has."""
    place: Place | None = getattr(request, "place", None)
    keys = {
        "instance_id": getattr(request, "instance_id", ""),
        "account_id": place.account_id if place else "",
        "region": place.region if place else "",
        "message_id": request.delivery.message_id if request.delivery else "",
    }
    return {key: value for key, value in keys.items() if value}


def flush(metrics: Metrics, log: Log) -> None:
    """Writes the metrics. An error is logged, not raised."""
    try:
        metrics.flush()
    except Exception as error:
        log.warning(f"the metrics of this invocation are lost: {type(error).__name__}: {error}")
