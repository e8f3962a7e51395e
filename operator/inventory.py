"""Reads what the inventory remembers of instances."""

from __future__ import annotations

from decimal import Decimal
from typing import TYPE_CHECKING, Any

from boto3.dynamodb.types import TypeDeserializer

from aws import explained
from ec2_decommission.chunks import chunks

if TYPE_CHECKING:
    from collections.abc import Iterable

    from deployment import Deployment

_BATCH = 100  # keys of one BatchGetItem


def records(deployment: Deployment, instance_ids: Iterable[str]) -> dict[str, dict[str, Any]]:
    """The records by instance id, where there are any; none where the inventory is off."""
    table = deployment.inventory_table_name
    wanted = sorted(set(instance_ids))
    found: dict[str, dict[str, Any]] = {}
    if table is None or not wanted:
        return found
    for some in chunks(wanted, _BATCH):
        keys = [{"instance_id": {"S": instance_id}} for instance_id in some]
        request: Any = {table: {"Keys": keys, "ConsistentRead": True}}
        while request:
            with explained(f"read the inventory {table} (dynamodb:BatchGetItem)"):
                answer = deployment.clients("dynamodb").batch_get_item(RequestItems=request)
            for item in answer["Responses"].get(table, []):
                record = {name: _plain(TypeDeserializer().deserialize(value)) for name, value in item.items()}
                found[record["instance_id"]] = record
            request = answer.get("UnprocessedKeys")
    return found


def failures(record: dict[str, Any] | None) -> str | None:
    """Which steps failed at the last try, and why; None where the inventory knows of none."""
    steps = (record or {}).get("steps", {})
    told = [f"{name}: {step.get('reason')}" for name, step in steps.items() if step.get("status") == "failed"]
    return "; ".join(told) or None


def _plain(value: Any) -> Any:
    """DynamoDB's numbers and sets as JSON knows them."""
    if isinstance(value, Decimal):
        return int(value) if value == value.to_integral_value() else float(value)
    if isinstance(value, dict):
        return {key: _plain(inner) for key, inner in value.items()}
    if isinstance(value, (list, set)):
        return [_plain(inner) for inner in value]
    return value
