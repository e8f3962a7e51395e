"""The inventory's table, for tests and benchmarks without Terraform."""

from __future__ import annotations

from typing import Any


def make_inventory_table(client: Any, name: str) -> None:
    """Creates the table as inventory.tf does.

    Args:
        client: a boto3 ``dynamodb`` client.
    """
    client.create_table(
        TableName=name,
        BillingMode="PAY_PER_REQUEST",
        KeySchema=[{"AttributeName": "instance_id", "KeyType": "HASH"}],
        AttributeDefinitions=[
            {"AttributeName": "instance_id", "AttributeType": "S"},
            {"AttributeName": "sweep", "AttributeType": "S"},
        ],
        GlobalSecondaryIndexes=[
            {
                "IndexName": "sweep",
                "KeySchema": [
                    {"AttributeName": "sweep", "KeyType": "HASH"},
                    {"AttributeName": "instance_id", "KeyType": "RANGE"},
                ],
                "Projection": {"ProjectionType": "ALL"},
            }
        ],
    )
