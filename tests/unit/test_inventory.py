"""What is written into the table, where the conformance suite cannot see it."""

from __future__ import annotations

import json
from typing import Any

from boto3.dynamodb.types import TypeSerializer
from botocore.exceptions import ClientError
from hypothesis import given, settings
from hypothesis import strategies as st

from ec2_decommission.instance import Facts, Instance
from ec2_decommission.inventory import DynamoInventory, Record, Result, facts_document
from ec2_decommission.place import Place
from tests.fakes.steps import FakeStep, factory
from tests.fakes.world import World

FULL = Instance(
    "i-1", account_id="1", region="r", vpc_id="v", launch_time="t",
    private_ips=("10.0.0.5",), public_ips=("54.0.0.1",),
    ipv6_addresses=("2001:db8::5",), private_dns_names=("a",), public_dns_names=("b",),
    tags={"Name": "web-1"}, past_tags={"Name": ("web-0",)}, ran=True,
    known_as={"chef": {"node": ("a",)}},
)  # fmt: skip


class Client:
    """Takes in requests."""

    def __init__(self) -> None:
        self.updates: list[dict[str, Any]] = []

    def update_item(self, **request: Any) -> None:
        self.updates.append(request)


def test_only_a_living_instance_is_written_under_a_condition() -> None:
    client = Client()
    inventory = DynamoInventory(client, "t", 30)
    inventory.remember_running([Instance("i-1")], {})
    inventory.remember_terminated([Instance("i-1")], tags_known=False)
    running, terminated = client.updates
    assert running["ConditionExpression"] == "attribute_not_exists(#state) OR #state = :state"
    assert "ConditionExpression" not in terminated
    assert terminated["UpdateExpression"].endswith("REMOVE #expires_at, #finished, #excluded")


def test_failed_condition_is_not_an_error() -> None:
    class Refusing(Client):
        def update_item(self, **request: Any) -> None:
            raise ClientError({"Error": {"Code": "ConditionalCheckFailedException", "Message": ""}}, "UpdateItem")

    assert DynamoInventory(Refusing(), "t", 30).remember_running([Instance("i-1")], {}) == {"i-1": False}


def test_what_is_added_to_the_history_at_once_is_limited() -> None:
    client = Client()
    result = Result(Place("1", "r"), {}, [{"target": str(n)} for n in range(1000)])
    DynamoInventory(client, "t", 30).remember_results({"i-1": result})
    assert len(client.updates[0]["ExpressionAttributeValues"][":removed"]["L"]) == 200


def test_nothing_empty_is_written() -> None:
    assert facts_document(Instance("i-1")) == {}
    assert facts_document(Instance("i-1", tags={"a": ""}, vpc_id="v")) == {"tags": {"a": ""}, "vpc_id": "v"}


def test_a_record_alone_makes_an_instance() -> None:
    record = Record("i-1", "terminated", Facts("inventory", private_ips=("10.0.0.5",)))
    instance = record.instance()
    assert (instance.instance_id, instance.state, instance.private_ip) == ("i-1", "terminated", "10.0.0.5")
    assert instance.sources == ("inventory",)


texts = st.lists(st.text(max_size=5), max_size=3, unique=True).map(tuple)


@settings(deadline=None)
@given(
    st.builds(
        Instance,
        instance_id=st.just("i-1"),
        account_id=st.none() | st.text(min_size=1, max_size=5),
        private_ips=st.lists(st.sampled_from(["10.0.0.5", "10.0.0.6", "54.0.0.1"]), unique=True).map(tuple),
        ipv6_addresses=st.lists(st.sampled_from(["2001:db8::5", "2001:db8::6"]), unique=True).map(tuple),
        tags=st.dictionaries(st.text(max_size=5), st.text(max_size=5), max_size=3),
        known_as=st.dictionaries(
            st.text(max_size=5),
            st.dictionaries(st.text(max_size=5), texts.filter(bool), min_size=1, max_size=2),
            max_size=2,
        ),
    )
)
def test_any_instance_reads_as_it_was_written(instance: Instance) -> None:
    client = Client()
    DynamoInventory(client, "t", 30).remember_terminated([instance], tags_known=True)
    values = client.updates[0]["ExpressionAttributeValues"]

    class Reading:
        def batch_get_item(self, **request: Any) -> dict[str, Any]:
            item = {"instance_id": {"S": "i-1"}, "state": values[":state"], "facts": values[":facts"]}
            return {"Responses": {"t": [item]}}

    record = DynamoInventory(Reading(), "t", 30).recall(["i-1"])["i-1"]
    assert facts_document(record.instance()) == facts_document(instance)


kept = st.recursive(
    st.none() | st.booleans() | st.integers(-9, 9) | st.text(max_size=5) | st.binary(max_size=3),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=5), inner, max_size=2),
    max_leaves=5,
)
edited = st.fixed_dictionaries(
    {},
    optional={
        "state": st.just("running") | kept,
        "facts": st.fixed_dictionaries({}, optional=dict.fromkeys(facts_document(FULL), kept)) | kept,
        "steps": st.dictionaries(st.just("fake"), st.fixed_dictionaries({}, optional={"actions": kept, "status": kept,
            "reason": kept, "settled_at": kept}) | kept) | kept,
        "removed": kept,
        "recorded_at": kept,
        "terminated_at": kept,
        **dict.fromkeys(("tags_known_at", "excluded", "finished", "next_try_at", "announced", "request_id"), kept),
    },
)  # fmt: skip


@settings(max_examples=200, deadline=None)
@given(items=st.lists(edited, min_size=1, max_size=2))
def test_edited_item_does_not_block_a_batch(items: list[dict[str, Any]]) -> None:
    class Table:
        def batch_get_item(self, RequestItems: dict[str, Any]) -> dict[str, Any]:  # noqa: N803
            serialize = TypeSerializer().serialize
            asked = [key["instance_id"]["S"] for key in RequestItems["t"]["Keys"]]
            rows = [{k: serialize(v) for k, v in item.items()} for item in items]
            told = [{**row, "instance_id": {"S": i}} for i, row in zip(asked, rows, strict=False)]
            return {"Responses": {"t": told}}

    step = FakeStep()
    world = World(more_steps=[factory(step)])
    ids = [world.launch(f"web-{number}") for number in range(2)]
    for instance_id in ids:
        world.ec2.terminate(instance_id)
        step.traces[instance_id] = []
    stored = DynamoInventory(Table(), "t", 30)
    world.inventory.recall = stored.recall  # type: ignore[method-assign]
    json.dumps(world.send_batch(*(world.terminated(i) for i in ids)).reports)
    assert world.log.messages("exception") == []
    assert all(record.state == "terminated" for record in world.inventory.items.values())
