"""Result events: EventBridge events that report what was done, for chat, e-mail and other consumers.

Every event has an ``id`` in its detail. Delivery is at least once: consumers ignore ids that they have seen. The
``summary`` is one line for a person, and is safe inside a JSON text of an EventBridge input transformer.
"""

from __future__ import annotations

import hashlib
import json
import re
from typing import TYPE_CHECKING, Any

from .chunks import chunks
from .clients.aws import aws_errors
from .errors import DecommissionError, TransientError
from .events import SOURCE
from .report import FAILED

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from .place import Place
    from .report import Report

DECOMMISSIONED = "EC2 Instance Decommissioned"
DECOMMISSION_FAILED = "EC2 Instance Decommission Failed"
SWEEP_BRAKED = "Sweep Braked"
# https://docs.aws.amazon.com/eventbridge/latest/APIReference/API_PutEvents.html: 10 entries, 256 KB in all.
_BATCH = 10
_DETAIL_BYTES = 24_000
_LISTED, _TEXT = 40, 400  # limits if a detail is too large: entries per list, characters per text
_SUMMARY = 600
# The parts of a failure's text that differ from try to try: durations, request ids, times, and the encoded message
# that EC2 adds to a denial. https://docs.aws.amazon.com/AWSEC2/latest/APIReference/errors-overview.html
_VOLATILE = re.compile(
    r"\b[0-9]+(\.[0-9]+)? ?(ms|s|seconds)\b"
    r"|\b[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}\b"
    r"|\b[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9:.]+(Z|[+-][0-9:]+)?"
    r"|[A-Za-z0-9_-]{64,}"
)


def event_id(report: Report) -> str:
    """Returns the id of the event for this report.

    The id of a success depends on the instance only, because an instance ends once. The id of a failure also depends
    on the failed steps and their reasons, but not on the reasons' order or on durations and request ids in them.
    """
    parts = ["instance", str(report.place), report.instance_id]
    if report.failed:
        parts += ["failed", *_reasons("", map(str, report.errors))]
        for step in report.steps:
            if step.status == FAILED:
                parts += _reasons(step.step, (step.reason or "").split("; "))
    return _digest(parts)


def _reasons(step: str, texts: Iterable[str]) -> list[str]:
    return sorted({f"{step} {_VOLATILE.sub('*', text)}" for text in texts})


def _digest(parts: Iterable[str]) -> str:
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:32]


class ResultEvents:
    """Sends result events to a bus.

    Args:
        client: returns a boto3 ``events`` client.
        event_bus_name: the name or ARN of the bus.
    """

    def __init__(self, client: Callable[[], Any], event_bus_name: str) -> None:
        self._client = client
        self._event_bus_name = event_bus_name

    def announce(self, reports: Mapping[str, Report]) -> dict[str, DecommissionError]:
        """Sends an event for each report, by instance id; returns the events that EventBridge refused."""
        failed: dict[str, DecommissionError] = {}
        for some in chunks(reports.items(), _BATCH):
            try:
                answers = self._put([self._entry(report) for _, report in some])
            except DecommissionError as error:
                failed.update((instance_id, error) for instance_id, _ in some)
                continue
            for (instance_id, _), answer in zip(some, answers, strict=True):
                if code := answer.get("ErrorCode"):
                    failed[instance_id] = TransientError(
                        f"event bus {self._event_bus_name} refused an event: {code}: {answer.get('ErrorMessage')}"
                    )
        return failed

    def announce_brake(self, place: Place, document: Mapping[str, Any], found: Iterable[str]) -> None:
        """Sends ``Sweep Braked``. Raises DecommissionError if EventBridge refuses it."""
        errors = "; ".join(document.get("errors", ()))
        identity = _digest(["sweep", str(place), *sorted(found)])
        detail = {**document, "id": identity, "summary": _line(errors or f"the sweep of {place} was stopped")}
        (answer,) = self._put([self._envelope(SWEEP_BRAKED, detail)])
        if code := answer.get("ErrorCode"):
            raise TransientError(f"event bus {self._event_bus_name} refused a result event: {code}")

    def _entry(self, report: Report) -> dict[str, Any]:
        detail_type = DECOMMISSION_FAILED if report.failed else DECOMMISSIONED
        return self._envelope(detail_type, {**report.document(), "id": event_id(report), "summary": _summary(report)})

    def _envelope(self, detail_type: str, detail: Mapping[str, Any]) -> dict[str, Any]:
        text, listed, most = json.dumps(detail), _LISTED, _TEXT
        while len(text.encode()) > _DETAIL_BYTES and most > 1:
            parts = {
                k: part if isinstance(part, str) else _shortened(part, listed, most) for k, part in detail.items()
            }
            text = json.dumps({**parts, "shortened": True})
            listed, most = max(1, listed // 2), most // 2
        return {"EventBusName": self._event_bus_name, "Source": SOURCE, "DetailType": detail_type, "Detail": text}

    def _put(self, entries: list[dict[str, Any]]) -> list[Mapping[str, Any]]:
        with aws_errors(f"send result events to {self._event_bus_name} (events:PutEvents)"):
            answer = self._client().put_events(Entries=entries)
            answers: list[Mapping[str, Any]] = answer["Entries"]
        if len(answers) != len(entries):
            raise TransientError(f"event bus {self._event_bus_name} did not answer for every result event")
        return answers


def _summary(report: Report) -> str:
    name = report.identity.get("name_tag")
    parts = [str(error) for error in report.errors]
    for step in report.steps:
        done = f" ({', '.join(action['target'] for action in step.actions)})" if step.actions else ""
        reason = f": {step.reason}" if step.reason else ""
        parts.append(f"{step.step} {step.status}{done}{reason}")
    named = f" ({name})" if name else ""
    return _line(f"{report.instance_id}{named} in {report.place}: {'; '.join(parts) or report.note or report.state}")


def _line(text: str) -> str:
    """Makes a text printable, without quotes and backslashes, and short enough for chat."""
    plain = " ".join(text.replace('"', "'").replace("\\", "/").split())
    plain = "".join(character for character in plain if character.isprintable())
    return plain if len(plain) <= _SUMMARY else f"{plain[: _SUMMARY - 3]}..."


def _shortened(value: Any, listed: int, most: int) -> Any:
    """Shortens long lists and long texts to their beginning."""
    if isinstance(value, dict):
        return {key: _shortened(part, listed, most) for key, part in value.items()}
    if isinstance(value, list):
        return [_shortened(part, listed, most) for part in value[:listed]]
    return value[:most] if isinstance(value, str) else value
