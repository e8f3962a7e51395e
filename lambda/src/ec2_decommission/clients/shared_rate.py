"""The bucket of requests to Route 53 that all invocations share: one item of the inventory's table.

No instance has its key, so no look-up finds it; it bears no ``living``, so no sweep does; and it expires a day after
it was last used.
"""

from __future__ import annotations

import math
import threading
import time
from decimal import Decimal
from typing import TYPE_CHECKING, Any

from botocore.exceptions import ClientError

from ..errors import TransientError
from .aws import aws_errors

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

KEY = "route53-rate"
_KEPT_SECONDS = 86_400
# No invocation lasts longer than 900 s, and none takes what it could not wait for. What is further off comes from a
# clock that was wrong, or from somebody's hand.
_FARTHEST_SECONDS = 1000
_TRIES = 4  # where others take at the same time
# No attempt begins later: who gets no answer has another way. An attempt that hangs is the last one therefore.
_PATIENCE_SECONDS = 2.0

# Either the bucket is not full, and its moment moves on from where it is; or it is, and begins now. What cannot be
# read counts as full: `attribute_type` goes first, as nothing else may be asked of another type.
_BUSY = "attribute_type(full_at, :number) AND full_at > :now AND full_at <= :latest"
_IDLE = (
    "attribute_not_exists(full_at) OR NOT attribute_type(full_at, :number) OR full_at <= :now OR full_at > :farthest"
)


class DynamoBucket:
    """The shared bucket in DynamoDB. As a rule, taking from it is one UpdateItem.

    Args:
        client: a boto3 ``dynamodb`` client; the inventory's own will do, whose calls stay as they are.
        table_name: the inventory's table.
        per_second: tokens a second that run into it.
        now: returns seconds since 1970. The clocks of Lambda differ by milliseconds; a bucket taken from by one that
            is ahead is more generous by what it is ahead.
    """

    def __init__(
        self,
        client: Any,
        table_name: str,
        per_second: float,
        now: Callable[[], float] = time.time,
    ) -> None:
        self.per_second = per_second
        self._client = client
        self._table = table_name
        self._now = now
        self._full_at = Decimal(0)  # as last seen
        self._taking = threading.local()
        client.meta.events.register("before-send.dynamodb.UpdateItem", self._hurry)

    def take(self, tokens: int, longest: float) -> float:
        """Takes so many tokens, unless the bucket would then be full only after more than ``longest`` seconds.

        Returns:
            Seconds until the bucket is full again. Where they are more than ``longest``, nothing was taken.

        Raises:
            DecommissionError: the table is out of reach.
        """
        more = _exact(tokens / self.per_second)
        if more > longest:
            return float(more)
        self._taking.until = time.monotonic() + _PATIENCE_SECONDS
        try:
            return self._take(more, longest)
        finally:
            del self._taking.until

    def _take(self, more: Decimal, longest: float) -> float:
        with aws_errors(self._doing):
            for _ in range(_TRIES):
                now = _exact(self._now())
                latest = now + _exact(longest) - more
                busy = now < self._full_at <= now + _FARTHEST_SECONDS
                try:
                    answer = self._busy(now, latest, more) if busy else self._idle(now, now + more)
                except ClientError as error:
                    if error.response.get("Error", {}).get("Code") != "ConditionalCheckFailedException":
                        raise
                    self._full_at = _full_at(error.response.get("Item"))
                    if latest < self._full_at <= now + _FARTHEST_SECONDS:
                        return float(self._full_at + more - now)
                    continue
                self._full_at = _full_at(answer.get("Attributes"))
                if self._full_at <= now:
                    raise self._failed("the answer does not tell what was taken")
                return float(self._full_at - now)
        raise self._failed("others take from it all the time")

    @property
    def _doing(self) -> str:
        return f"take from the rate of Route 53 in table {self._table} (dynamodb:UpdateItem)"

    def _failed(self, why: str) -> TransientError:
        return TransientError(f"could not {self._doing}: {why}")

    def _hurry(self, **_: object) -> None:
        if time.monotonic() > getattr(self._taking, "until", math.inf):
            raise self._failed(f"no good answer within {_PATIENCE_SECONDS:g} s")

    def _busy(self, now: Decimal, latest: Decimal, more: Decimal) -> Any:
        return self._update("full_at + :more", _BUSY, now, {":latest": latest, ":more": more})

    def _idle(self, now: Decimal, full_at: Decimal) -> Any:
        return self._update(":full_at", _IDLE, now, {":full_at": full_at, ":farthest": now + _FARTHEST_SECONDS})

    def _update(self, full_at: str, condition: str, now: Decimal, numbers: Mapping[str, Decimal]) -> Any:
        values = {":now": now, ":expires_at": Decimal(int(now) + _KEPT_SECONDS), **numbers}
        return self._client.update_item(
            TableName=self._table,
            Key={"instance_id": {"S": KEY}},
            UpdateExpression=f"SET full_at = {full_at}, expires_at = :expires_at",
            ConditionExpression=condition,
            ExpressionAttributeValues={
                ":number": {"S": "N"},
                **{name: {"N": f"{value:f}"} for name, value in values.items()},
            },
            ReturnValues="UPDATED_NEW",
            ReturnValuesOnConditionCheckFailure="ALL_OLD",
        )


def _exact(seconds: float) -> Decimal:
    return Decimal(f"{seconds:.6f}")


def _full_at(item: Any) -> Decimal:
    """The moment that an item tells; 0 where it tells none."""
    try:
        told = Decimal(item["full_at"]["N"])
    except (ArithmeticError, LookupError, TypeError, ValueError):
        return Decimal(0)
    return told if told.is_finite() else Decimal(0)
