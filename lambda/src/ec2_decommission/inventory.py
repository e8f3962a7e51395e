"""The inventory: a DynamoDB table that remembers what each instance was, and what became of its traces.

States only move forward: a condition on every write sees to it that nothing turns ``terminated`` back into
``running``. An item that lives never expires; a terminated one does, after the retention.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Protocol

from boto3.dynamodb.types import TypeDeserializer, TypeSerializer

from .chunks import chunks
from .clients.aws import aws_errors
from .identity import Facts, Instance

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping

RUNNING, TERMINATED = "running", "terminated"
LIVING_INDEX = "living"
_LIVING = "yes"
_BATCH_GET = 100  # keys, https://docs.aws.amazon.com/amazondynamodb/latest/APIReference/API_BatchGetItem.html
_HISTORY = 200  # entries of `removed` kept for one instance, far from an item's 400 KB


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


class Inventory(Protocol):
    """What remembers. Every call may raise TransientError, AccessError or ConfigurationError."""

    def recall(self, instance_ids: Iterable[str]) -> Mapping[str, Record]:
        """The records of these instances, where there are any."""

    def remember_running(self, instance: Instance) -> bool:
        """Records a living instance; False where it is recorded as terminated, which stays so."""

    def remember_terminated(self, instance: Instance) -> None:
        """Records what the instance was, before anything of it is removed."""

    def remember_steps(
        self, instance_id: str, steps: Mapping[str, Mapping[str, Any]], removed: Iterable[Mapping[str, str]]
    ) -> None:
        """Records what became of the steps; ``removed`` is added to what was removed before."""

    def living(self) -> Iterator[Record]:
        """Every instance that is recorded as living."""


class DynamoInventory:
    """The inventory in DynamoDB.

    Args:
        client: a boto3 ``dynamodb`` client.
        now: returns the time, for expiry and the dates in the items.
    """

    def __init__(
        self,
        client: Any,
        table_name: str,
        retention_days: int,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self._client = client
        self._table = table_name
        self._retention_seconds = retention_days * 86_400
        self._now = now

    def recall(self, instance_ids: Iterable[str]) -> Mapping[str, Record]:
        found = {}
        for some in chunks(dict.fromkeys(instance_ids), _BATCH_GET):
            keys: list[Any] = [{"instance_id": {"S": i}} for i in some]
            # Consistent: the write of a moment ago, by the invocation before, counts.
            request: dict[str, Any] = {self._table: {"Keys": keys, "ConsistentRead": True}}
            while request:
                with aws_errors(f"read table {self._table} (dynamodb:BatchGetItem)"):
                    answer = self._client.batch_get_item(RequestItems=request)
                for raw in answer["Responses"].get(self._table, []):
                    record = _record(_plain(raw))
                    found[record.instance_id] = record
                request = answer.get("UnprocessedKeys") or {}
        return found

    def remember_running(self, instance: Instance) -> bool:
        return self._update(
            instance.instance_id,
            {
                "state": RUNNING,
                "living": _LIVING,
                "recorded_at": self._now().isoformat(),
                "facts": facts_document(instance),
            },
            condition="attribute_not_exists(#state) OR #state = :state",
        )

    def remember_terminated(self, instance: Instance) -> None:
        now = self._now()
        self._update(
            instance.instance_id,
            {
                "state": TERMINATED,
                "facts": facts_document(instance),
                "expires_at": int(now.timestamp()) + self._retention_seconds,
            },
            once={"terminated_at": now.isoformat(), "recorded_at": now.isoformat()},
            remove=("living",),
        )

    def remember_steps(
        self, instance_id: str, steps: Mapping[str, Mapping[str, Any]], removed: Iterable[Mapping[str, str]]
    ) -> None:
        entries = [dict(entry) for entry in removed][:_HISTORY]
        names = {"#steps": "steps", "#removed": "removed"}
        values: dict[str, Any] = {":steps": {name: dict(step) for name, step in steps.items()}}
        expression = "SET #steps = :steps"
        if entries:
            values |= {":entries": entries, ":none": []}
            expression += ", #removed = list_append(if_not_exists(#removed, :none), :entries)"
        else:
            del names["#removed"]
        with aws_errors(f"write table {self._table} (dynamodb:UpdateItem)"):
            self._client.update_item(
                TableName=self._table,
                Key={"instance_id": {"S": instance_id}},
                UpdateExpression=expression,
                ExpressionAttributeNames=names,
                ExpressionAttributeValues=_typed(values),
            )

    def living(self) -> Iterator[Record]:
        pages = self._client.get_paginator("query").paginate(
            TableName=self._table,
            IndexName=LIVING_INDEX,
            KeyConditionExpression="living = :yes",
            ExpressionAttributeValues={":yes": {"S": _LIVING}},
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
    ) -> bool:
        """Sets attributes (those in ``once`` only where they are not there yet); False if refused."""
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
        with aws_errors(f"write table {self._table} (dynamodb:UpdateItem)"):
            try:
                self._client.update_item(**request)
            except self._client.exceptions.ConditionalCheckFailedException:
                return False
        return True


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
    facts = item.get("facts") or {}
    return Record(
        instance_id=item["instance_id"],
        state=item.get("state", ""),
        facts=Facts(
            source="inventory",
            account_id=facts.get("account_id"),
            region=facts.get("region"),
            vpc_id=facts.get("vpc_id"),
            launch_time=facts.get("launch_time"),
            private_ips=tuple(facts.get("private_ips", ())),
            public_ips=tuple(facts.get("public_ips", ())),
            ipv6_addresses=tuple(facts.get("ipv6_addresses", ())),
            private_dns_names=tuple(facts.get("private_dns_names", ())),
            public_dns_names=tuple(facts.get("public_dns_names", ())),
            tags=facts.get("tags", {}),
            known_as={
                step: {kind: tuple(names) for kind, names in kinds.items()}
                for step, kinds in facts.get("known_as", {}).items()
            },
        ),
        recorded_at=item.get("recorded_at", ""),
        terminated_at=item.get("terminated_at"),
        steps=item.get("steps", {}),
        removed=tuple(item.get("removed", ())),
    )


def _typed(values: Mapping[str, Any]) -> dict[str, Any]:
    serialize = TypeSerializer().serialize
    return {key: serialize(value) for key, value in values.items()}


def _plain(raw: Mapping[str, Any]) -> dict[str, Any]:
    deserialize = TypeDeserializer().deserialize
    return {key: deserialize(value) for key, value in raw.items()}
