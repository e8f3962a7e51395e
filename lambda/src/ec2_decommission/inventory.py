"""The inventory: a DynamoDB table that remembers what each instance was, and what became of its traces.

States only move forward: a condition on every write sees to it that nothing turns ``terminated`` back into
``running``. An item that lives never expires; a terminated one does, after the retention.
"""

from __future__ import annotations

import marshal
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from functools import partial
from typing import TYPE_CHECKING, Any, Protocol

from botocore.exceptions import ClientError

from .chunks import chunks
from .clients.aws import READS_AT_ONCE, aws_errors
from .errors import DecommissionError, PermanentError
from .identity import Facts, Instance
from .together import in_turn, lanes

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

    from .together import Together

RUNNING, TERMINATED = "running", "terminated"
LIVING_INDEX = "living"
_LIVING = "yes"
# Transactions: while one is on its way, the next is made ready. A thousand items in a second are what a table on
# demand takes in a burst, from what it has not used before; more at once would be throttled.
# https://docs.aws.amazon.com/amazondynamodb/latest/developerguide/burst-adaptive-capacity.html
WRITES_AT_ONCE = 2
_BATCH_GET = 100  # keys, https://docs.aws.amazon.com/amazondynamodb/latest/APIReference/API_BatchGetItem.html
_UNREAD = object()
HISTORY = 200  # entries of `removed` that are kept for one instance, far from an item's 400 KB
# https://docs.aws.amazon.com/amazondynamodb/latest/APIReference/API_TransactWriteItems.html: 100 items, of 4 MB.
# What is in the items already is not known here, so only a part of the 4 MB is counted on.
_TRANSACTION = 100
_TRANSACTION_BYTES = 2_000_000
_ROUNDS = 2  # transactions tried before what is left of them is written item by item
# What is kept of a step's report where the whole does not fit into an item.
_SHORT_ACTIONS, _SHORT_REASON = 20, 1000


@dataclass(frozen=True)
class Record:
    """What the inventory remembers of an instance.

    Attributes:
        steps: the report of each step that is settled, with ``settled_at``.
        removed: what was removed, each with ``at``, ``step``, ``action``, ``target`` and ``proof``.
    """

    instance_id: str
    state: str
    facts: Facts
    recorded_at: str = ""
    terminated_at: str | None = None
    steps: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    removed: tuple[Mapping[str, str], ...] = ()

    def instance(self) -> Instance:
        """The instance with nothing known but this record."""
        return Instance(self.instance_id, state=self.state).learn(self.facts)


@dataclass(frozen=True)
class Settled:
    """What became of an instance's steps.

    Attributes:
        steps: each step's report, as JSON, in place of what was kept of the steps before.
        removed: what was removed this time; it is added to what was removed before.
    """

    steps: Mapping[str, Mapping[str, Any]]
    removed: Sequence[Mapping[str, str]] = ()


class Inventory(Protocol):
    """What remembers.

    ``recall`` and ``living`` may raise TransientError, AccessError or ConfigurationError. What is written fails for
    each instance by itself: its error stands in the answer, and the other instances are written all the same.
    """

    def recall(self, instance_ids: Iterable[str]) -> Mapping[str, Record]:
        """The records of these instances, where there are any."""

    def remember_running(self, instances: Iterable[Instance]) -> Mapping[str, bool | DecommissionError]:
        """Records living instances; False for one that is recorded as terminated, which stays so."""

    def remember_terminated(self, instances: Iterable[Instance]) -> Mapping[str, DecommissionError]:
        """Records what instances were, before anything of them is removed; returns what failed."""

    def remember_steps(self, outcomes: Mapping[str, Settled]) -> Mapping[str, DecommissionError]:
        """Records what became of the steps, by instance id; returns what failed."""

    def living(self, prefix: str = "") -> Iterator[Record]:
        """Every instance that is recorded as living, of those whose id begins so; in the order of the ids."""


class DynamoInventory:
    """The inventory in DynamoDB.

    Args:
        client: a boto3 ``dynamodb`` client.
        now: returns the time, for expiry and the dates in the items.
        together: reads and writes some hundreds at once.
    """

    def __init__(
        self,
        client: Any,
        table_name: str,
        retention_days: int,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
        together: Together = in_turn,
    ) -> None:
        self._client = client
        self._table = table_name
        self._retention_seconds = retention_days * 86_400
        self._now = now
        self._together = together

    def recall(self, instance_ids: Iterable[str]) -> Mapping[str, Record]:
        found: dict[str, Record] = {}
        pieces = chunks(dict.fromkeys(instance_ids), _BATCH_GET)
        self._together(lanes([partial(self._recall_some, some, found) for some in pieces], READS_AT_ONCE))
        return found

    def _recall_some(self, instance_ids: Sequence[str], found: dict[str, Record]) -> None:
        keys: list[Any] = [{"instance_id": {"S": i}} for i in instance_ids]
        # Consistent: the write of a moment ago, by the invocation before, counts.
        request: dict[str, Any] = {self._table: {"Keys": keys, "ConsistentRead": True}}
        while request:
            with aws_errors(f"read table {self._table} (dynamodb:BatchGetItem)"):
                answer = self._client.batch_get_item(RequestItems=request)
                records = [_record(_plain(raw)) for raw in answer["Responses"].get(self._table, [])]
            found |= {record.instance_id: record for record in records}
            request = answer.get("UnprocessedKeys") or {}

    def remember_running(self, instances: Iterable[Instance]) -> Mapping[str, bool | DecommissionError]:
        return self._write(
            {
                instance.instance_id: self._update(
                    instance.instance_id,
                    {
                        "state": RUNNING,
                        "living": _LIVING,
                        "recorded_at": self._now().isoformat(),
                        "facts": facts_document(instance),
                    },
                    condition="attribute_not_exists(#state) OR #state = :state",
                )
                for instance in instances
            }
        )

    def remember_terminated(self, instances: Iterable[Instance]) -> Mapping[str, DecommissionError]:
        now = self._now()
        updates = {
            instance.instance_id: self._update(
                instance.instance_id,
                {
                    "state": TERMINATED,
                    "facts": facts_document(instance),
                    "expires_at": int(now.timestamp()) + self._retention_seconds,
                },
                once={"terminated_at": now.isoformat(), "recorded_at": now.isoformat()},
                remove=("living",),
            )
            for instance in instances
        }
        return _failures(self._write(updates))

    def remember_steps(self, outcomes: Mapping[str, Settled]) -> Mapping[str, DecommissionError]:
        failed = _failures(self._write({i: self._settle(i, settled) for i, settled in outcomes.items()}))
        # What is too large for an item would be so at every retry: the report is kept short rather than not at all.
        too_large = [i for i, error in failed.items() if isinstance(error, PermanentError)]
        if not too_large:
            return failed
        short = {i: self._settle(i, _shortened(outcomes[i])) for i in too_large}
        return {**{i: e for i, e in failed.items() if i not in short}, **_failures(self._write(short))}

    def _settle(self, instance_id: str, settled: Settled) -> dict[str, Any]:
        entries = [dict(entry) for entry in settled.removed][:HISTORY]
        names = {"#steps": "steps", "#state": "state", "#expires_at": "expires_at"}
        values: dict[str, Any] = {
            ":steps": {name: dict(step) for name, step in settled.steps.items()},
            ":state": TERMINATED,
            ":expires_at": int(self._now().timestamp()) + self._retention_seconds,
        }
        # An item that has expired since it was read is made anew, and must expire as well.
        expression = (
            "SET #steps = :steps, #state = if_not_exists(#state, :state), "
            "#expires_at = if_not_exists(#expires_at, :expires_at)"
        )
        if entries:
            names["#removed"] = "removed"
            values |= {":entries": entries, ":none": []}
            expression += ", #removed = list_append(if_not_exists(#removed, :none), :entries)"
        return {
            "TableName": self._table,
            "Key": {"instance_id": {"S": instance_id}},
            "UpdateExpression": expression,
            "ExpressionAttributeNames": names,
            "ExpressionAttributeValues": _typed(values),
        }

    def living(self, prefix: str = "") -> Iterator[Record]:
        condition, values = "living = :yes", {":yes": {"S": _LIVING}}
        if prefix:
            condition += " AND begins_with(instance_id, :prefix)"
            values[":prefix"] = {"S": prefix}
        pages = self._client.get_paginator("query").paginate(
            TableName=self._table,
            IndexName=LIVING_INDEX,
            KeyConditionExpression=condition,
            ExpressionAttributeValues=values,
        )
        with aws_errors(f"read table {self._table} (dynamodb:Query)"):
            for page in pages:
                yield from (_record(_plain(raw)) for raw in page["Items"])

    def _update(
        self,
        instance_id: str,
        values: Mapping[str, Any],
        *,
        once: Mapping[str, Any] | None = None,
        remove: tuple[str, ...] = (),
        condition: str | None = None,
    ) -> dict[str, Any]:
        """The request that sets attributes (those in ``once`` only where they are not there yet)."""
        sets = [f"#{name} = :{name}" for name in values]
        sets += [f"#{name} = if_not_exists(#{name}, :{name})" for name in once or {}]
        removes = [f"#{name}" for name in remove]
        request: dict[str, Any] = {
            "TableName": self._table,
            "Key": {"instance_id": {"S": instance_id}},
            "UpdateExpression": f"SET {', '.join(sets)}" + (f" REMOVE {', '.join(removes)}" if removes else ""),
            "ExpressionAttributeNames": {f"#{name}": name for name in (*values, *(once or {}), *remove)},
            "ExpressionAttributeValues": _typed({f":{n}": v for n, v in {**values, **(once or {})}.items()}),
        }
        if condition:
            request["ConditionExpression"] = condition
        return request

    # Writing many: a transaction for a hundred, and what a transaction refuses one by one

    def _write(self, updates: Mapping[str, dict[str, Any]]) -> dict[str, bool | DecommissionError]:
        """Makes the updates; True for each that was made, False where its condition refused it."""
        results: dict[str, bool | DecommissionError] = {}
        faults: list[DecommissionError] = []

        def write(some: Mapping[str, dict[str, Any]]) -> None:
            if not faults and (fault := self._write_some(some, results, _ROUNDS)):
                faults.append(fault)
            if faults:
                # The table itself cannot be written, and would not be a moment later.
                results.update({i: faults[0] for i in some if i not in results})

        self._together(lanes([partial(write, some) for some in _transactions(updates)], WRITES_AT_ONCE))
        return results

    def _write_some(
        self, updates: Mapping[str, dict[str, Any]], results: dict[str, bool | DecommissionError], rounds: int
    ) -> DecommissionError | None:
        """Writes as many as fit into one transaction; returns what went wrong with the table itself."""
        if len(updates) == 1 or rounds == 0:
            # A transaction costs twice what a write costs; for one item it has nothing to give.
            for instance_id, request in updates.items():
                results[instance_id] = self._write_one(request)
            return None
        try:
            with aws_errors(f"write table {self._table} (dynamodb:UpdateItem)"):
                try:
                    self._client.transact_write_items(TransactItems=[{"Update": r} for r in updates.values()])
                except ClientError as error:
                    if _code(error) not in ("TransactionCanceledException", "ValidationException"):
                        raise
                    reasons = [str(r.get("Code", "None")) for r in error.response.get("CancellationReasons") or ()]
                else:
                    results |= dict.fromkeys(updates, True)
                    return None
        except DecommissionError as fault:
            return fault
        if len(reasons) != len(updates):
            # It was not looked at: too large as a whole, or one of them cannot be read.
            return self._write_some(updates, results, 0)
        rest: dict[str, dict[str, Any]] = {}
        for (instance_id, request), reason in zip(updates.items(), reasons, strict=True):
            if reason == "None":
                rest[instance_id] = request
            elif reason == "ConditionalCheckFailed":
                results[instance_id] = False
            else:
                results[instance_id] = self._write_one(request)
        return self._write_some(rest, results, rounds - 1) if rest else None

    def _write_one(self, request: Mapping[str, Any]) -> bool | DecommissionError:
        try:
            with aws_errors(f"write table {self._table} (dynamodb:UpdateItem)"):
                try:
                    self._client.update_item(**request)
                except ClientError as error:
                    if _code(error) != "ConditionalCheckFailedException":
                        raise
                    return False
        except DecommissionError as failure:
            return failure
        return True


def _transactions(updates: Mapping[str, dict[str, Any]]) -> Iterator[dict[str, dict[str, Any]]]:
    """Pieces that fit into one transaction each."""
    piece: dict[str, dict[str, Any]] = {}
    size = 0
    for instance_id, request in updates.items():
        # About what it will have as JSON, and in a fifth of the time.
        more = len(marshal.dumps(request["ExpressionAttributeValues"], 2))
        if piece and (len(piece) == _TRANSACTION or size + more > _TRANSACTION_BYTES):
            yield piece
            piece, size = {}, 0
        piece[instance_id] = request
        size += more
    if piece:
        yield piece


def _failures(results: Mapping[str, bool | DecommissionError]) -> dict[str, DecommissionError]:
    return {i: result for i, result in results.items() if isinstance(result, DecommissionError)}


def _code(error: ClientError) -> str:
    return str(error.response.get("Error", {}).get("Code", ""))


def _shortened(settled: Settled) -> Settled:
    """The reports with the first of their actions, and nothing for the history."""
    steps = {}
    for name, step in settled.steps.items():
        actions = list(step.get("actions") or ())
        reason = str(step.get("reason") or "")[:_SHORT_REASON]
        if len(actions) > _SHORT_ACTIONS:
            reason = f"{len(actions)} actions, too many to remember, of which these are the first; {reason}"
        steps[name] = {**step, "actions": actions[:_SHORT_ACTIONS], "reason": reason or None}
    return replace(settled, steps=steps, removed=())


def facts_document(instance: Instance) -> dict[str, Any]:
    """The facts as they are kept in the table; holds no empty entry."""
    document = {
        "account_id": instance.account_id,
        "region": instance.region,
        "vpc_id": instance.vpc_id,
        "launch_time": instance.launch_time,
        "private_ips": list(instance.private_ips),
        "public_ips": list(instance.public_ips),
        "ipv6_addresses": list(instance.ipv6_addresses),
        "private_dns_names": list(instance.private_dns_names),
        "public_dns_names": list(instance.public_dns_names),
        "tags": dict(instance.tags),
        "known_as": {step: {k: list(v) for k, v in kinds.items()} for step, kinds in instance.known_as.items()},
    }
    return {key: value for key, value in document.items() if value}


def _record(item: Mapping[str, Any]) -> Record:
    """The record of an item. What in it is not of the form that this module writes counts as not recorded.

    Somebody may have edited it by hand, and one item must not keep a whole batch from being handled.
    """
    facts = _mapping(item.get("facts"))
    return Record(
        instance_id=str(item["instance_id"]),
        state=_text(item.get("state")) or "",
        facts=Facts(
            source="inventory",
            account_id=_text(facts.get("account_id")),
            region=_text(facts.get("region")),
            vpc_id=_text(facts.get("vpc_id")),
            launch_time=_text(facts.get("launch_time")),
            private_ips=_texts(facts.get("private_ips")),
            public_ips=_texts(facts.get("public_ips")),
            ipv6_addresses=_texts(facts.get("ipv6_addresses")),
            private_dns_names=_texts(facts.get("private_dns_names")),
            public_dns_names=_texts(facts.get("public_dns_names")),
            tags={key: value for key, value in _mapping(facts.get("tags")).items() if isinstance(value, str)},
            known_as={
                step: {kind: _texts(names) for kind, names in _mapping(kinds).items()}
                for step, kinds in _mapping(facts.get("known_as")).items()
            },
        ),
        recorded_at=_text(item.get("recorded_at")) or "",
        terminated_at=_text(item.get("terminated_at")),
        steps={name: _report(step) for name, step in _mapping(item.get("steps")).items() if isinstance(step, dict)},
        removed=tuple(_entries(item.get("removed"))),
    )


def _report(step: Mapping[str, Any]) -> Mapping[str, Any]:
    actions = {"actions": _entries(step["actions"])} if "actions" in step else {}
    return {**{key: value for key, value in step.items() if value is None or isinstance(value, str)}, **actions}


def _entries(value: Any) -> list[dict[str, str]]:
    return [
        {key: text for key, text in entry.items() if isinstance(text, str)}
        for entry in _list(value)
        if isinstance(entry, dict)
    ]


def _text(value: Any) -> str | None:
    return value if isinstance(value, str) else None


def _texts(value: Any) -> tuple[str, ...]:
    return tuple(text for text in _list(value) if isinstance(text, str))


def _list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []


def _mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, dict) else {}


def _typed(values: Mapping[str, Any]) -> dict[str, Any]:
    return {key: _typed_value(value) for key, value in values.items()}


def _typed_value(value: Any) -> dict[str, Any]:
    """The value in DynamoDB's JSON, for what JSON has. boto3's TypeSerializer takes several times as long."""
    match value:
        case str():
            return {"S": value}
        case dict():
            return {"M": {key: _typed_value(part) for key, part in value.items()}}
        case list() | tuple():
            return {"L": [_typed_value(part) for part in value]}
        case bool():
            return {"BOOL": value}
        case int():
            return {"N": str(value)}
        case None:
            return {"NULL": True}
    raise TypeError(f"{type(value).__name__} is not kept in the inventory")


def _plain(raw: Mapping[str, Any]) -> dict[str, Any]:
    return {key: _plain_value(value) for key, value in raw.items()}


def _plain_value(typed: Mapping[str, Any]) -> Any:
    """The value of DynamoDB's JSON, as far as this module reads it: no numbers, which it only writes, and no sets."""
    ((kind, value),) = typed.items()
    match kind:
        case "S" | "BOOL":
            return value
        case "M":
            return _plain(value)
        case "L":
            return [_plain_value(part) for part in value]
        case "NULL":
            return None
    return _UNREAD
