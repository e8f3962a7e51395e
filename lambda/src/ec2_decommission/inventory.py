"""The inventory: a DynamoDB table that records what each instance was and what was done about its leftovers.

States only move forward: a condition on every write keeps ``terminated`` from becoming ``running`` again. An item
expires after the retention period, but not while the instance lives or its end is unfinished. The sweep finds both
through the index ``sweep``, whose key names the instance's place.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from decimal import Decimal
from functools import partial
from typing import TYPE_CHECKING, Any, Protocol

from boto3.dynamodb.types import TypeDeserializer, TypeSerializer
from botocore.exceptions import ClientError

from .chunks import chunks
from .clients.aws import READS_AT_ONCE, aws_errors
from .errors import DecommissionError, PermanentError
from .instance import Facts, Instance
from .invocation import request_id
from .place import Place
from .together import in_turn

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

    from .together import Together

RUNNING, TERMINATED = "running", "terminated"
SWEEP_INDEX = "sweep"
_UNFINISHED = "/unfinished"
_BATCH_GET = 100  # keys, https://docs.aws.amazon.com/amazondynamodb/latest/APIReference/API_BatchGetItem.html
# An on-demand table takes a thousand writes a second from the start. Two transactions of 100 at a time stay below it.
# https://docs.aws.amazon.com/amazondynamodb/latest/developerguide/burst-adaptive-capacity.html
_WRITES_AT_ONCE = 2
# https://docs.aws.amazon.com/amazondynamodb/latest/APIReference/API_TransactWriteItems.html: 100 items and 4 MB. The
# size of the stored items is not known here, so the requests use only a part of that.
_TRANSACTION = 100
_TRANSACTION_BYTES = 2_000_000
_ROUNDS = 2  # transactions to try before the rest is written item by item
HISTORY = 200  # the most `removed` entries per instance, well below an item's 400 KB
# The limits for a step's report that is too large for an item.
_SHORT_ACTIONS, _SHORT_REASON = 20, 1000


@dataclass(frozen=True)
class Record:
    """What the inventory knows about an instance.

    Attributes:
        tags_known_at: when the tags were last read in full from EC2, by the sweep or at the instance's end.
        excluded: why ``instance_filter`` excludes the instance.
        steps: the report of each settled step, with ``settled_at``.
        removed: the removals, each with ``at``, ``step``, ``action``, ``target`` and ``proof``.
        finished: every step is settled; nothing is left to do.
        next_try_at: when a failed message becomes visible again.
        announced: the id of the last result event sent.
        request_id: the invocation that last wrote the item.
        runs: the invocations that recorded everything they removed. Objects audited by other invocations may have
            been removed too: the invocation may have ended before it could record them.
        restored: what was restored, in the form of ``removed``.
        restored_at: when something was last restored. Messages older than this are not handled.
    """

    instance_id: str
    state: str
    facts: Facts
    recorded_at: str = ""
    terminated_at: str | None = None
    tags_known_at: str | None = None
    excluded: str | None = None
    steps: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    removed: tuple[Mapping[str, str], ...] = ()
    finished: bool = False
    next_try_at: str | None = None
    announced: str | None = None
    request_id: str | None = None
    runs: tuple[str, ...] = ()
    restored: tuple[Mapping[str, str], ...] = ()
    restored_at: str | None = None

    @property
    def place(self) -> Place:
        return Place(self.facts.account_id or "", self.facts.region or "")

    def instance(self) -> Instance:
        """Returns the instance as this record alone shows it."""
        return Instance(self.instance_id, state=self.state).learn(self.facts)


@dataclass(frozen=True)
class Result:
    """The outcome of an instance's steps.

    Attributes:
        steps: each step's report, as JSON; replaces the earlier ones.
        removed: what was removed in this run; added to the earlier removals.
        finished: nothing is left to do.
        next_try_at: when the message is retried, if not finished.
        announced: as in ``Record``; None keeps the present value.
        whole: ``removed`` lists everything that was removed in this run.
    """

    place: Place
    steps: Mapping[str, Mapping[str, Any]]
    removed: Sequence[Mapping[str, str]] = ()
    finished: bool = False
    next_try_at: str | None = None
    announced: str | None = None
    whole: bool = True


class Inventory(Protocol):
    """Records instances.

    Reads may raise TransientError, AccessError or ConfigurationError. Writes fail per instance: the result holds the
    instance's error, and the other instances are still written.
    """

    def recall(self, instance_ids: Iterable[str]) -> Mapping[str, Record]:
        """Returns the records of those of these instances that have one."""

    def remember_running(
        self, instances: Iterable[Instance], excluded: Mapping[str, str], *, tags_known: bool = False
    ) -> Mapping[str, bool | DecommissionError]:
        """Records live instances. False for an instance recorded as terminated; that record does not change.

        Args:
            excluded: why ``instance_filter`` excludes an instance, by id.
            tags_known: the tags were read a while after the launch, so that late tags are included.
        """

    def remember_terminated(
        self, instances: Iterable[Instance], *, tags_known: bool
    ) -> Mapping[str, DecommissionError]:
        """Records what the instances were, before anything is removed; returns the errors."""

    def remember_excluded(self, instances: Mapping[str, tuple[Instance, str]]) -> Mapping[str, DecommissionError]:
        """Records the end of instances that ``instance_filter`` excludes, with the reason; returns the errors."""

    def remember_results(self, results: Mapping[str, Result]) -> Mapping[str, DecommissionError]:
        """Records the results of the steps, by instance id; returns the errors."""

    def remember_announced(self, event_ids: Mapping[str, str]) -> Mapping[str, DecommissionError]:
        """Records only which result event was last sent, by instance id; returns the errors."""

    def remember_restored(
        self, instance_id: str, place: Place, restored: Sequence[Mapping[str, str]] = ()
    ) -> DecommissionError | None:
        """Marks the instance as finished and restored, and adds what was restored; returns the error, if any.

        The record does not expire: it is what keeps adoption from treating the restored objects as orphans.
        """

    def living(self, place: Place) -> Iterator[Record]:
        """Yields every instance of the place that is recorded as running."""

    def unfinished(self, place: Place) -> Iterator[Record]:
        """Yields every instance of the place whose end is unfinished."""


class DynamoInventory:
    """The inventory in DynamoDB.

    Args:
        client: a boto3 ``dynamodb`` client.
        now: returns the current time, for expiry and timestamps.
        together: runs several requests concurrently.
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

    # Reading

    def recall(self, instance_ids: Iterable[str]) -> Mapping[str, Record]:
        found: dict[str, Record] = {}
        pieces = chunks(dict.fromkeys(instance_ids), _BATCH_GET)
        self._together([partial(self._recall_some, some, found) for some in pieces], READS_AT_ONCE)
        return found

    def _recall_some(self, instance_ids: Sequence[str], found: dict[str, Record]) -> None:
        keys: list[Any] = [{"instance_id": {"S": i}} for i in instance_ids]
        # A consistent read sees the write that the previous invocation made a moment ago.
        request: dict[str, Any] = {self._table: {"Keys": keys, "ConsistentRead": True}}
        while request:
            with aws_errors(f"read table {self._table} (dynamodb:BatchGetItem)"):
                answer = self._client.batch_get_item(RequestItems=request)
                records = [_record(_plain(raw)) for raw in answer["Responses"].get(self._table, [])]
            found |= {record.instance_id: record for record in records}
            request = answer.get("UnprocessedKeys") or {}

    def living(self, place: Place) -> Iterator[Record]:
        return self._indexed(str(place))

    def unfinished(self, place: Place) -> Iterator[Record]:
        return self._indexed(f"{place}{_UNFINISHED}")

    def _indexed(self, key: str) -> Iterator[Record]:
        pages = self._client.get_paginator("query").paginate(
            TableName=self._table,
            IndexName=SWEEP_INDEX,
            KeyConditionExpression="sweep = :key",
            ExpressionAttributeValues={":key": {"S": key}},
        )
        with aws_errors(f"read table {self._table} (dynamodb:Query)"):
            for page in pages:
                yield from (_record(_plain(raw)) for raw in page["Items"])

    # Writing

    def remember_running(
        self, instances: Iterable[Instance], excluded: Mapping[str, str], *, tags_known: bool = False
    ) -> Mapping[str, bool | DecommissionError]:
        now = self._now().isoformat()
        updates = {}
        for instance in instances:
            values = {
                "state": RUNNING,
                "sweep": str(instance.place),
                "recorded_at": now,
                "facts": facts_document(instance),
            }
            if tags_known:
                values["tags_known_at"] = now
            reason = excluded.get(instance.instance_id)
            if reason:
                values["excluded"] = reason
            updates[instance.instance_id] = self._update(
                instance.instance_id,
                values,
                remove=("expires_at",) if reason else ("expires_at", "excluded"),
                condition="attribute_not_exists(#state) OR #state = :state",
            )
        return self._write(updates)

    def remember_terminated(
        self, instances: Iterable[Instance], *, tags_known: bool
    ) -> Mapping[str, DecommissionError]:
        now = self._now().isoformat()
        updates = {}
        for instance in instances:
            values = {
                "state": TERMINATED,
                "sweep": f"{instance.place}{_UNFINISHED}",
                "facts": facts_document(instance),
                **({"tags_known_at": now} if tags_known else {}),
            }
            once = {"terminated_at": now, "recorded_at": now}
            updates[instance.instance_id] = self._update(
                instance.instance_id, values, once=once, remove=("expires_at", "finished", "excluded")
            )
        return _failures(self._write(updates))

    def remember_excluded(self, instances: Mapping[str, tuple[Instance, str]]) -> Mapping[str, DecommissionError]:
        now = self._now()
        updates = {
            instance_id: self._update(
                instance_id,
                {
                    "state": TERMINATED,
                    "facts": facts_document(instance),
                    "excluded": reason,
                    "finished": True,
                    "expires_at": int(now.timestamp()) + self._retention_seconds,
                },
                once={"terminated_at": now.isoformat(), "recorded_at": now.isoformat()},
                remove=("sweep",),
            )
            for instance_id, (instance, reason) in instances.items()
        }
        return _failures(self._write(updates))

    def remember_results(self, results: Mapping[str, Result]) -> Mapping[str, DecommissionError]:
        failed = _failures(self._write({i: self._result(i, result) for i, result in results.items()}))
        # A result too large for an item would fail at every retry. A shortened report is better than none.
        too_large = [i for i, error in failed.items() if isinstance(error, PermanentError)]
        if not too_large:
            return failed
        short = {i: self._result(i, _shortened(results[i])) for i in too_large}
        return {**{i: e for i, e in failed.items() if i not in short}, **_failures(self._write(short))}

    def _result(self, instance_id: str, result: Result) -> dict[str, Any]:
        values: dict[str, Any] = {"steps": {name: dict(step) for name, step in result.steps.items()}}
        if result.finished:
            values["finished"] = True
            values["expires_at"] = int(self._now().timestamp()) + self._retention_seconds
        else:
            values["sweep"] = f"{result.place}{_UNFINISHED}"
        for name in ("next_try_at", "announced"):
            if value := getattr(result, name):
                values[name] = value
        # An item that expired after it was read is created again, and needs its state and place.
        once = {"state": TERMINATED, "facts": {"account_id": result.place.account_id, "region": result.place.region}}
        remove = ("sweep", "next_try_at") if result.finished else ("finished", "expires_at")
        append: dict[str, list[Any]] = {}
        if result.removed:
            append["removed"] = [dict(entry) for entry in result.removed][:HISTORY]
        if result.whole and request_id():
            append["runs"] = [request_id()]
        return self._update(instance_id, values, once=once, remove=remove, append=append)

    def remember_announced(self, event_ids: Mapping[str, str]) -> Mapping[str, DecommissionError]:
        # An instance that was never recorded gets an item that expires. A recorded item keeps its expiry.
        once = {"expires_at": int(self._now().timestamp()) + self._retention_seconds}
        recorded = self._write(
            {i: self._update(i, {"announced": e}, condition="attribute_exists(#state)") for i, e in event_ids.items()}
        )
        unknown = {i: event_ids[i] for i, written in recorded.items() if written is False}
        fresh = self._write(
            {
                i: self._update(i, {"announced": e, **once}, condition="attribute_not_exists(#state)")
                for i, e in unknown.items()
            }
        )
        return _failures({**recorded, **fresh})

    def remember_restored(
        self, instance_id: str, place: Place, restored: Sequence[Mapping[str, str]] = ()
    ) -> DecommissionError | None:
        now = self._now().isoformat()
        once = {
            "state": TERMINATED,
            "facts": {"account_id": place.account_id, "region": place.region},
            "recorded_at": now,
            "terminated_at": now,
        }
        update = self._update(
            instance_id,
            {"finished": True, "restored_at": now},
            once=once,
            remove=("sweep", "next_try_at", "expires_at"),
            append={"restored": [dict(entry) for entry in restored][:HISTORY]} if restored else {},
            condition="attribute_not_exists(#state) OR #state = :state",
        )
        return _failures(self._write({instance_id: update})).get(instance_id)

    def _update(
        self,
        instance_id: str,
        values: Mapping[str, Any],
        *,
        once: Mapping[str, Any] | None = None,
        remove: tuple[str, ...] = (),
        append: Mapping[str, Sequence[Any]] | None = None,
        condition: str | None = None,
    ) -> dict[str, Any]:
        """Builds the update that sets attributes (those in ``once`` only if absent) and appends to lists."""
        once, append = once or {}, append or {}
        if request_id():
            values = {**values, "request_id": request_id()}
        sets = [f"#{name} = :{name}" for name in values]
        sets += [f"#{name} = if_not_exists(#{name}, :{name})" for name in once]
        sets += [f"#{name} = list_append(if_not_exists(#{name}, :none), :{name})" for name in append]
        removes = [f"#{name}" for name in remove]
        names = [*values, *once, *append, *remove, *(["state"] if "#state" in (condition or "") else [])]
        expressions = {**values, **once, **append, **({"none": []} if append else {})}
        request: dict[str, Any] = {
            "TableName": self._table,
            "Key": {"instance_id": {"S": instance_id}},
            "UpdateExpression": f"SET {', '.join(sets)}" + (f" REMOVE {', '.join(removes)}" if removes else ""),
            "ExpressionAttributeNames": {f"#{name}": name for name in names},
            "ExpressionAttributeValues": {f":{n}": TypeSerializer().serialize(v) for n, v in expressions.items()},
        }
        if condition:
            request["ConditionExpression"] = condition
        return request

    # Batched writes: one transaction per hundred items. Items that a transaction refuses are written one by one.

    def _write(self, updates: Mapping[str, dict[str, Any]]) -> dict[str, bool | DecommissionError]:
        """Makes the updates. True for each update made; False if its condition refused it."""
        results: dict[str, bool | DecommissionError] = {}
        faults: list[DecommissionError] = []

        def write(some: Mapping[str, dict[str, Any]]) -> None:
            if not faults and (fault := self._write_some(some, results, _ROUNDS)):
                faults.append(fault)
            if faults:
                # The table itself cannot be written, and a moment later it would still fail.
                results.update({i: faults[0] for i in some if i not in results})

        self._together([partial(write, some) for some in _transactions(updates)], _WRITES_AT_ONCE)
        return results

    def _write_some(
        self, updates: Mapping[str, dict[str, Any]], results: dict[str, bool | DecommissionError], rounds: int
    ) -> DecommissionError | None:
        """Writes the items in one transaction where possible; returns the error if the table cannot be written."""
        if len(updates) == 1 or rounds == 0:
            # A transaction costs twice as much as a write, without a benefit for one item.
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
            # DynamoDB did not evaluate the items: the request is too large, or one of the items is invalid.
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
    """Splits the updates into pieces that each fit into one transaction."""
    piece: dict[str, dict[str, Any]] = {}
    size = 0
    for instance_id, request in updates.items():
        more = len(json.dumps(request["ExpressionAttributeValues"], default=str))
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


def _shortened(result: Result) -> Result:
    """Keeps the first actions of each report, and nothing for the history."""
    steps = {}
    for name, step in result.steps.items():
        actions = list(step.get("actions") or ())
        reason = str(step.get("reason") or "")[:_SHORT_REASON]
        if len(actions) > _SHORT_ACTIONS:
            reason = f"{len(actions)} actions, too many to store; only the first are shown; {reason}"
        steps[name] = {**step, "actions": actions[:_SHORT_ACTIONS], "reason": reason or None}
    return replace(result, steps=steps, removed=(), whole=False)


def facts_document(instance: Instance) -> dict[str, Any]:
    """Returns the facts as stored in the table, without empty entries."""
    document = {
        "account_id": instance.account_id,
        "region": instance.region,
        "vpc_id": instance.vpc_id,
        "launch_time": instance.launch_time,
        "ran": instance.ran,
        "private_ips": list(instance.private_ips),
        "public_ips": list(instance.public_ips),
        "ipv6_addresses": list(instance.ipv6_addresses),
        "private_dns_names": list(instance.private_dns_names),
        "public_dns_names": list(instance.public_dns_names),
        "tags": dict(instance.tags),
        "past_tags": {key: list(values) for key, values in instance.past_tags.items()},
        "known_as": {step: {k: list(v) for k, v in kinds.items()} for step, kinds in instance.known_as.items()},
    }
    return {key: value for key, value in document.items() if value}


def _record(item: Mapping[str, Any]) -> Record:
    """Parses an item. Values of an unexpected form count as not recorded.

    Someone may have edited the item by hand, and one bad item must not block a whole batch.
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
            ran=facts.get("ran") is True,
            private_ips=_texts(facts.get("private_ips")),
            public_ips=_texts(facts.get("public_ips")),
            ipv6_addresses=_texts(facts.get("ipv6_addresses")),
            private_dns_names=_texts(facts.get("private_dns_names")),
            public_dns_names=_texts(facts.get("public_dns_names")),
            tags={key: value for key, value in _mapping(facts.get("tags")).items() if isinstance(value, str)},
            past_tags={key: _texts(values) for key, values in _mapping(facts.get("past_tags")).items()},
            known_as={
                step: {kind: _texts(names) for kind, names in _mapping(kinds).items()}
                for step, kinds in _mapping(facts.get("known_as")).items()
            },
        ),
        recorded_at=_text(item.get("recorded_at")) or "",
        terminated_at=_text(item.get("terminated_at")),
        tags_known_at=_text(item.get("tags_known_at")),
        excluded=_text(item.get("excluded")),
        steps={name: _report(step) for name, step in _mapping(item.get("steps")).items() if isinstance(step, dict)},
        removed=tuple(_entries(item.get("removed"))),
        finished=item.get("finished") is True,
        next_try_at=_text(item.get("next_try_at")),
        announced=_text(item.get("announced")),
        request_id=_text(item.get("request_id")),
        runs=_texts(item.get("runs")),
        restored=tuple(_entries(item.get("restored"))),
        restored_at=_text(item.get("restored_at")),
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


def _plain(raw: Mapping[str, Any]) -> dict[str, Any]:
    """Converts an item from DynamoDB's JSON to plain values."""
    plain = {key: TypeDeserializer().deserialize(value) for key, value in raw.items()}
    return {key: int(value) if isinstance(value, Decimal) else value for key, value in plain.items()}
