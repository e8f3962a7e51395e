"""The module's own queue."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from ..chunks import chunks
from ..errors import TransientError
from ..events import sweep_of, termination
from .aws import aws_errors

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from ..place import Place

_BATCH = 10  # the most entries that SQS allows in one call


class SqsQueue:
    """Sends messages to the queue, and backs off failed messages.

    Args:
        client: returns a boto3 ``sqs`` client.
        queue_url: the queue's URL.
        now: returns the current time.
    """

    def __init__(
        self, client: Callable[[], Any], queue_url: str, now: Callable[[], datetime] = lambda: datetime.now(UTC)
    ) -> None:
        self._client = client
        self._queue_url = queue_url
        self._now = now

    def back_off(self, seconds_by_receipt: Mapping[str, int]) -> None:
        """Hides each message for that many seconds (0 to 43,200).

        Raises:
            DecommissionError: SQS refused the call. The queue's visibility timeout applies instead.
        """
        for some in chunks(seconds_by_receipt.items(), _BATCH):
            entries = [
                {"Id": str(number), "ReceiptHandle": receipt, "VisibilityTimeout": seconds}
                for number, (receipt, seconds) in enumerate(some)
            ]
            with aws_errors(f"back off messages of {self._queue_url} (sqs:ChangeMessageVisibility)"):
                self._client().change_message_visibility_batch(QueueUrl=self._queue_url, Entries=entries)

    def send_terminations(self, instance_ids: Iterable[str], place: Place) -> None:
        """Sends one termination event for each instance.

        Raises:
            TransientError: not all could be sent. The next sweep finds the rest, and may send some again.
        """
        self._send([termination(instance_id, place, self._now()) for instance_id in instance_ids])

    def send_sweeps(self, places: Iterable[Place]) -> None:
        """Sends one sweep event for each place. Raises like ``send_terminations``."""
        self._send([sweep_of(place, self._now()) for place in places])

    def _send(self, bodies: Sequence[Mapping[str, Any]]) -> None:
        for some in chunks(bodies, _BATCH):
            entries = [{"Id": str(number), "MessageBody": json.dumps(body)} for number, body in enumerate(some)]
            with aws_errors(f"send to {self._queue_url} (sqs:SendMessage)"):
                answer = self._client().send_message_batch(QueueUrl=self._queue_url, Entries=entries)
            if failed := answer.get("Failed"):
                raise TransientError(f"{len(failed)} messages could not be sent to {self._queue_url}")
