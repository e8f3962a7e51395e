"""The dead letters: what they are, why they are there, and the way back into the queue.

SQS has no way to look at messages without taking them. So they are taken for a few minutes, and what is not deleted
is given back at once at the end; a command that is killed leaves them to come back by themselves.
"""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, Self

import inventory
import log
from aws import explained
from ec2_decommission.chunks import chunks
from ec2_decommission.errors import MalformedEvent
from ec2_decommission.events import parse
from problems import FAILED, Problem

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from types import TracebackType

    from deployment import Deployment

_HIDDEN_SECONDS = 300  # time to take all and to send them; what is left is given back earlier
_PATIENCE = 3  # receives that bring nothing new, before SQS's own number is not believed
_SQS_BATCH = 10
_BATCH_BYTES = 200_000  # SQS takes 256 KiB in one call at the least
_LOOKS_INTO_THE_LOG = 20  # it is searched for so many letters; that takes about a second each


@dataclass(frozen=True)
class Letter:
    """One dead letter.

    Attributes:
        event: in words: ``terminated``, ``running``, ``sweep``, another kind's name, or ``unreadable``.
        sent: when the event came; SQS keeps that time when it moves the message.
        receive_count: how often it was received in all, looks at the dead letters included.
        reason: why it is here, as far as can be told.
    """

    id: str
    receipt: str
    body: str
    event: str
    instance_id: str
    sent: datetime
    receive_count: int
    reason: str | None = None

    def document(self, kept: timedelta) -> dict[str, Any]:
        """As JSON."""
        return {
            "id": self.id,
            "event": self.event,
            "instance_id": self.instance_id or None,
            "sent": self.sent.isoformat(),
            "receive_count": self.receive_count,
            "kept_until": (self.sent + kept).isoformat(),
            "reason": self.reason,
            "body": self.body,
        }


@dataclass
class Fate:
    """What became of one letter that was to be sent or deleted."""

    letter: Letter
    done: bool
    told: str


class DeadLetters:
    """All the dead letters, taken for the length of a ``with``.

    Attributes:
        letters: the oldest first.
        elsewhere: how many more SQS says to be taken by somebody else just now, approximately.
        kept: how long a message is kept.
    """

    def __init__(self, deployment: Deployment) -> None:
        self._sqs = deployment.clients("sqs")
        self._url = deployment.dead_letter_queue_url
        self._queue_url = deployment.queue_url
        self._messages: dict[str, dict[str, Any]] = {}
        self.letters: tuple[Letter, ...] = ()
        self.elsewhere = 0
        self.kept = timedelta(days=14)

    def __enter__(self) -> Self:
        """Raises Problem where SQS refuses or does not answer; nothing stays taken then."""
        with explained(f"read the attributes of {self._url} (sqs:GetQueueAttributes)"):
            attributes = self._sqs.get_queue_attributes(QueueUrl=self._url, AttributeNames=["All"])["Attributes"]
        self.elsewhere = int(attributes.get("ApproximateNumberOfMessagesNotVisible", 0))
        self.kept = timedelta(seconds=int(attributes.get("MessageRetentionPeriod", 1_209_600)))
        try:
            self._take(int(attributes.get("ApproximateNumberOfMessages", 0)))
        except BaseException:
            self._give_back()
            raise
        self.letters = tuple(sorted(map(_letter, self._messages.values()), key=lambda found: (found.sent, found.id)))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._give_back()

    def resend(self, letters: Sequence[Letter]) -> Iterator[Fate]:
        """Sends each letter's body to the queue, then deletes the letter.

        In that order: a letter whose deletion fails is handled twice, which is harmless, and none is lost.
        """
        for some in _batches(letters):
            entries = [{"Id": str(number), "MessageBody": letter.body} for number, letter in enumerate(some)]
            with explained(f"send to {self._queue_url} (sqs:SendMessage)"):
                answer = self._sqs.send_message_batch(QueueUrl=self._queue_url, Entries=entries)
            refused = _refused(answer)
            for number, why in refused.items():
                yield Fate(some[number], False, f"not sent: {why}")
            for fate in self._delete([letter for number, letter in enumerate(some) if number not in refused]):
                left = f"sent, and still a dead letter too, which is harmless: {fate.told}"
                yield replace(fate, told="sent" if fate.done else left)

    def discard(self, letters: Sequence[Letter]) -> Iterator[Fate]:
        """Deletes the letters for good."""
        for some in _batches(letters):
            yield from self._delete(some)

    def _delete(self, letters: Sequence[Letter]) -> list[Fate]:
        if not letters:
            return []
        entries = [{"Id": str(number), "ReceiptHandle": letter.receipt} for number, letter in enumerate(letters)]
        try:
            with explained(f"take out of {self._url} (sqs:DeleteMessage)"):
                refused = _refused(self._sqs.delete_message_batch(QueueUrl=self._url, Entries=entries))
        except Problem as problem:
            refused = dict.fromkeys(range(len(letters)), str(problem))
        for number, letter in enumerate(letters):
            if number not in refused:
                del self._messages[letter.id]
        return [
            Fate(letter, number not in refused, refused.get(number, "deleted"))
            for number, letter in enumerate(letters)
        ]

    def _take(self, expected: int) -> None:
        """Receives until SQS has no more: a long poll asks all of SQS's servers, a short one only some.

        Args:
            expected: how many SQS says there are. It is an estimate: where more are expected, SQS is asked again.
        """
        nothing_new = 0
        while nothing_new == 0 or (nothing_new < _PATIENCE and len(self._messages) < expected):
            with explained(f"receive from {self._url} (sqs:ReceiveMessage)"):
                answer = self._sqs.receive_message(
                    QueueUrl=self._url,
                    MaxNumberOfMessages=_SQS_BATCH,
                    VisibilityTimeout=_HIDDEN_SECONDS,
                    WaitTimeSeconds=1,
                    AttributeNames=["All"],
                    MessageAttributeNames=["All"],
                )
            received = {message["MessageId"]: message for message in answer.get("Messages", [])}
            # One that has come back meanwhile counts once, by its newest receipt.
            nothing_new = 0 if received.keys() - self._messages.keys() else nothing_new + 1
            self._messages.update(received)

    def _give_back(self) -> None:
        receipts = [message["ReceiptHandle"] for message in self._messages.values()]
        refused = 0
        for some in chunks(receipts, _SQS_BATCH):
            entries = [
                {"Id": str(number), "ReceiptHandle": receipt, "VisibilityTimeout": 0}
                for number, receipt in enumerate(some)
            ]
            try:
                with explained(f"give messages back to {self._url} (sqs:ChangeMessageVisibility)"):
                    answer = self._sqs.change_message_visibility_batch(QueueUrl=self._url, Entries=entries)
                refused += len(answer.get("Failed", []))
            except Problem as problem:
                refused += len(entries)
                print(f"Warning: {problem}", file=sys.stderr)
        if refused:
            print(
                f"Warning: {refused} dead letters could not be given back at once; they can be seen again in "
                f"{_HIDDEN_SECONDS // 60} minutes.",
                file=sys.stderr,
            )


def _refused(answer: dict[str, Any]) -> dict[int, str]:
    """The entries of a batch that SQS refused, by number."""
    return {int(entry["Id"]): str(entry.get("Message") or entry["Code"]) for entry in answer.get("Failed", [])}


def _letter(message: dict[str, Any]) -> Letter:
    attributes = message.get("Attributes", {})
    event, instance_id, reason = _read(message["Body"])
    told = {
        name: value.get("StringValue", "") for name, value in message.get("MessageAttributes", {}).items() if value
    }
    # https://docs.aws.amazon.com/eventbridge/latest/userguide/eb-rule-dlq.html
    if "ERROR_CODE" in told:
        words = ": ".join(part for part in (told["ERROR_CODE"], told.get("ERROR_MESSAGE", "")) if part)
        reason = f"EventBridge could not deliver it: {words}"
    return Letter(
        id=message["MessageId"],
        receipt=message["ReceiptHandle"],
        body=message["Body"],
        event=event,
        instance_id=instance_id,
        sent=datetime.fromtimestamp(int(attributes.get("SentTimestamp", 0)) / 1000, UTC),
        receive_count=int(attributes.get("ApproximateReceiveCount", 0)),
        reason=reason,
    )


def _read(body: str) -> tuple[str, str, str | None]:
    """The event in words, its instance, and why the function cannot read it, where it cannot."""
    try:
        request = parse(json.loads(body))
    except (ValueError, RecursionError, MalformedEvent) as error:
        return "unreadable", "", f"the function cannot read it: {error}"
    if request.kind == "ignored":
        return "of another kind", request.instance_id, f"the function ignores it: {request.ignored}"
    return request.kind, request.instance_id, None


def with_reasons(deployment: Deployment, letters: Sequence[Letter]) -> list[Letter]:
    """The letters with the reasons that inventory and log tell."""
    open_ones = [letter for letter in letters if letter.reason is None]
    records = inventory.records(deployment, (letter.instance_id for letter in open_ones if letter.instance_id))
    told: dict[str, str | None] = {}
    looks = 0
    for letter in open_ones:
        reason = inventory.failures(records.get(letter.instance_id))
        if reason is None and looks < _LOOKS_INTO_THE_LOG:
            looks += 1
            reason = log.last_error(deployment, letter.id, letter.sent)
        told[letter.id] = reason or f"not known; look for message {letter.id} in the log {deployment.log_group_name}"
    return [replace(letter, reason=told[letter.id]) if letter.id in told else letter for letter in letters]


def chosen(letters: Sequence[Letter], ids: Sequence[str]) -> list[Letter]:
    """The letters of these ids; the beginning of an id serves where it is one letter's only.

    Raises:
        Problem: names the ids that there are not, or that are not one letter's only.
    """
    found: dict[str, Letter] = {}
    wrong = []
    for wanted in ids:
        matches = [letter for letter in letters if letter.id.startswith(wanted)]
        if len(matches) == 1:
            found[matches[0].id] = matches[0]
        else:
            wrong.append(f"{wanted} ({'not there' if not matches else f'the beginning of {len(matches)} ids'})")
    if wrong:
        raise Problem(f"No dead letter is meant by {', '.join(wrong)}; `dead-letters list` shows the ids.", FAILED)
    return list(found.values())


def _batches(letters: Sequence[Letter]) -> Iterator[list[Letter]]:
    """As many as SQS takes in one call, by number and by bytes."""
    some: list[Letter] = []
    size = 0
    for letter in letters:
        length = len(letter.body.encode())
        if some and (len(some) == _SQS_BATCH or size + length > _BATCH_BYTES):
            yield some
            some, size = [], 0
        some.append(letter)
        size += length
    if some:
        yield some
