"""The fake inventory and the one in DynamoDB behave alike: the same tests run on both."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import pytest

from ec2_decommission.errors import AccessError, ConfigurationError, TransientError
from ec2_decommission.identity import Facts, Instance
from ec2_decommission.inventory import RUNNING, TERMINATED, DynamoInventory
from testbed.aws import StrictAws, throttled
from tests.fakes.inventory import FakeInventory

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from ec2_decommission.inventory import Inventory

TABLE = "inventory"
ID = "i-0000000000000000a"
FULL = Instance(ID).learn(
    Facts(
        source="ec2",
        account_id="123456789012",
        region="us-east-1",
        vpc_id="vpc-1",
        launch_time="2026-01-01T00:00:00+00:00",
        private_ips=("10.0.0.5", "10.0.0.6"),
        public_ips=("3.4.5.6",),
        ipv6_addresses=("2001:db8::5",),
        private_dns_names=("ip-10-0-0-5.ec2.internal",),
        public_dns_names=("ec2-3-4-5-6.compute-1.amazonaws.com",),
        tags={"Name": "web-1", "empty": "", "Ünïcode": "☃"},
        known_as={"chef": {"node": ("web-1", "web-1b")}, "consul": {"node": ("web-1",)}},
    )
)


class Clock:
    """A time that a test moves."""

    def __init__(self) -> None:
        self.now = datetime(2026, 3, 1, tzinfo=UTC)

    def __call__(self) -> datetime:
        return self.now


@pytest.fixture(scope="module")
def aws() -> Iterator[StrictAws]:
    with StrictAws() as strict:
        yield strict


def make_table(aws: StrictAws) -> None:
    """As the module makes it."""
    aws.client("dynamodb").create_table(
        TableName=TABLE,
        BillingMode="PAY_PER_REQUEST",
        KeySchema=[{"AttributeName": "instance_id", "KeyType": "HASH"}],
        AttributeDefinitions=[
            {"AttributeName": "instance_id", "AttributeType": "S"},
            {"AttributeName": "living", "AttributeType": "S"},
        ],
        GlobalSecondaryIndexes=[
            {
                "IndexName": "living",
                "KeySchema": [
                    {"AttributeName": "living", "KeyType": "HASH"},
                    {"AttributeName": "instance_id", "KeyType": "RANGE"},
                ],
                "Projection": {"ProjectionType": "ALL"},
            }
        ],
    )


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture(params=["fake", "dynamodb"])
def inventory(request: pytest.FixtureRequest, clock: Clock) -> Inventory:
    if request.param == "fake":
        return FakeInventory(now=clock)
    strict: StrictAws = request.getfixturevalue("aws")
    strict.reset()
    make_table(strict)
    return DynamoInventory(strict.client("dynamodb"), TABLE, 30, now=clock)


def test_knows_nothing_at_first(inventory: Inventory) -> None:
    assert dict(inventory.recall([ID])) == {}
    assert dict(inventory.recall([])) == {}
    assert list(inventory.living()) == []


def test_remembers_all_facts_of_a_living_instance(inventory: Inventory, clock: Clock) -> None:
    assert inventory.remember_running(FULL)
    record = inventory.recall([ID])[ID]
    assert record.state == RUNNING
    assert record.recorded_at == clock.now.isoformat()
    assert record.terminated_at is None
    assert record.steps == {}
    assert record.removed == ()
    instance = record.instance()
    assert instance.sources == ("inventory",)
    assert {**vars(instance), "sources": (), "state": ""} == {**vars(FULL), "sources": (), "state": ""}


def test_an_instance_of_which_nothing_is_known_is_kept_too(inventory: Inventory) -> None:
    assert inventory.remember_running(Instance(ID))
    assert inventory.recall([ID])[ID].facts == Facts("inventory")


def test_later_facts_of_the_living_replace_earlier_ones(inventory: Inventory) -> None:
    inventory.remember_running(FULL)
    assert inventory.remember_running(Instance(ID, private_ips=("10.0.0.9",), tags={"Name": "web-2"}))
    record = inventory.recall([ID])[ID]
    assert record.facts.private_ips == ("10.0.0.9",)
    assert record.facts.tags == {"Name": "web-2"}


def test_a_late_running_resurrects_nothing(inventory: Inventory) -> None:
    inventory.remember_terminated(FULL)
    assert not inventory.remember_running(Instance(ID, private_ips=("10.9.9.9",)))
    record = inventory.recall([ID])[ID]
    assert record.state == TERMINATED
    assert record.facts.private_ips == FULL.private_ips
    assert list(inventory.living()) == []


def test_terminated_keeps_when_it_was_first_recorded(inventory: Inventory, clock: Clock) -> None:
    begin = clock.now.isoformat()
    inventory.remember_running(FULL)
    clock.now += timedelta(hours=1)
    end = clock.now.isoformat()
    inventory.remember_terminated(FULL)
    clock.now += timedelta(hours=1)
    inventory.remember_terminated(FULL)
    record = inventory.recall([ID])[ID]
    assert (record.recorded_at, record.terminated_at) == (begin, end)


def test_what_became_of_the_steps_is_replaced_and_what_was_removed_is_added(inventory: Inventory) -> None:
    inventory.remember_terminated(FULL)
    first = {"at": "1", "step": "route53", "action": "delete", "target": "A x", "proof": "p"}
    second = {"at": "2", "step": "chef", "action": "delete", "target": "node x", "proof": "p"}
    failed = {"step": "chef", "status": "failed", "actions": [], "reason": "no connection"}
    done = {
        "step": "chef",
        "status": "done",
        "actions": [{"action": "delete", "target": "node x", "proof": "p"}],
        "reason": None,
        "settled_at": "2",
    }
    inventory.remember_steps(ID, {"chef": failed}, [first])
    assert inventory.recall([ID])[ID].steps == {"chef": failed}
    inventory.remember_steps(ID, {"chef": done}, [second])
    inventory.remember_steps(ID, {"chef": done}, [])
    record = inventory.recall([ID])[ID]
    assert record.steps == {"chef": done}
    assert record.removed == (first, second)
    assert record.facts.tags == FULL.tags


def test_steps_survive_a_second_look_at_the_identity(inventory: Inventory) -> None:
    inventory.remember_terminated(Instance(ID))
    inventory.remember_steps(ID, {"route53": {"status": "clean"}}, [])
    inventory.remember_terminated(FULL)
    record = inventory.recall([ID])[ID]
    assert record.steps == {"route53": {"status": "clean"}}
    assert record.facts.private_ips == FULL.private_ips


def test_lists_the_living_only(inventory: Inventory) -> None:
    ids = [f"i-{number:017x}" for number in range(5)]
    for instance_id in ids:
        inventory.remember_running(Instance(instance_id, private_ips=("10.0.0.5",)))
    inventory.remember_terminated(Instance(ids[2]))
    inventory.remember_steps("i-ffffffffffffffff", {"chef": {"status": "clean"}}, [])
    assert [r.instance_id for r in inventory.living()] == [ids[0], ids[1], ids[3], ids[4]]
    assert all(r.facts.private_ips == ("10.0.0.5",) for r in inventory.living())


def test_recalls_more_than_one_call_takes_each_once(inventory: Inventory) -> None:
    ids = [f"i-{number:017x}" for number in range(103)]
    for instance_id in ids:
        inventory.remember_running(Instance(instance_id))
    assert set(inventory.recall([*ids, *ids, "i-ffffffffffffffff"])) == set(ids)


# What only the table has


def table(aws: StrictAws, clock: Clock) -> tuple[DynamoInventory, Any]:
    aws.reset()
    make_table(aws)
    client = aws.client("dynamodb")
    return DynamoInventory(client, TABLE, 30, now=clock), client


def item(client: Any) -> dict[str, Any]:
    found: dict[str, Any] = client.get_item(TableName=TABLE, Key={"instance_id": {"S": ID}})["Item"]
    return found


def test_only_the_terminated_expire(aws: StrictAws, clock: Clock) -> None:
    inventory, client = table(aws, clock)
    inventory.remember_running(FULL)
    assert "expires_at" not in item(client)
    inventory.remember_terminated(FULL)
    expected = int((clock.now + timedelta(days=30)).timestamp())
    assert item(client)["expires_at"] == {"N": str(expected)}
    assert "living" not in item(client)


def test_the_fake_expires_likewise(clock: Clock) -> None:
    inventory = FakeInventory(now=clock)
    inventory.remember_running(FULL)
    clock.now += timedelta(days=400)
    inventory.expire()
    inventory.remember_terminated(FULL)
    clock.now += timedelta(days=29)
    inventory.expire()
    assert ID in inventory.items
    clock.now += timedelta(days=1)
    inventory.expire()
    assert ID not in inventory.items


def test_recall_reads_consistently_and_what_was_not_processed_again(clock: Clock) -> None:
    asked: list[Any] = []

    class Client:
        def batch_get_item(self, **request: Any) -> dict[str, Any]:
            asked.append(request["RequestItems"][TABLE])
            keys = request["RequestItems"][TABLE]["Keys"]
            answer: dict[str, Any] = {"Responses": {TABLE: [keys[0]]}, "UnprocessedKeys": {}}
            if keys[1:]:
                answer["UnprocessedKeys"] = {TABLE: {"Keys": keys[1:], "ConsistentRead": True}}
            return answer

    inventory = DynamoInventory(Client(), TABLE, 30, now=clock)
    assert set(inventory.recall(["i-1", "i-2", "i-3"])) == {"i-1", "i-2", "i-3"}
    assert [len(request["Keys"]) for request in asked] == [3, 2, 1]
    assert all(request["ConsistentRead"] for request in asked)


@pytest.mark.parametrize("call", ["recall", "remember_running", "remember_terminated", "remember_steps", "living"])
def test_each_error_is_of_its_kind(aws: StrictAws, clock: Clock, call: str) -> None:
    inventory, _ = table(aws, clock)
    calls: dict[str, Callable[[], object]] = {
        "recall": lambda: inventory.recall([ID]),
        "remember_running": lambda: inventory.remember_running(FULL),
        "remember_terminated": lambda: inventory.remember_terminated(FULL),
        "remember_steps": lambda: inventory.remember_steps(ID, {}, []),
        "living": lambda: list(inventory.living()),
    }
    with (
        aws.fault(lambda *_: throttled("ProvisionedThroughputExceededException"), everyone=True),
        pytest.raises(TransientError, match=r"table inventory \(dynamodb:\w+\).*ProvisionedThroughputExceeded"),
    ):
        calls[call]()
    with (
        aws.fault(lambda *_: throttled("AccessDeniedException"), everyone=True),
        pytest.raises(AccessError, match=r"the right to (read|write) table inventory \(dynamodb:\w+\)"),
    ):
        calls[call]()
    aws.client("dynamodb").delete_table(TableName=TABLE)
    with pytest.raises(ConfigurationError, match="the table does not exist"):
        calls[call]()
