"""The bucket in process and the one in DynamoDB behave alike; and what only the one in DynamoDB has to bear."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import boto3
import pytest

from ec2_decommission.clients.aws import AwsClients
from ec2_decommission.clients.shared_rate import KEY, DynamoBucket
from ec2_decommission.deadline import Deadline
from ec2_decommission.errors import AccessError, ConfigurationError, OutOfTime, TransientError
from ec2_decommission.identity import Instance
from ec2_decommission.inventory import DynamoInventory
from testbed.aws import Answer, AwsError, Hang, StrictAws, throttled
from testbed.inventory import make_inventory_table
from tests.fakes.rate import MemoryBucket

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ec2_decommission.clients.governor import SharedBucket

TABLE = "inventory"
RATE = 5.0
EVER = 500.0


class Clock:
    """A time that a test moves."""

    def __init__(self) -> None:
        self.now = 1_750_000_000.25

    def __call__(self) -> float:
        return self.now


@pytest.fixture(scope="module")
def strict() -> Iterator[StrictAws]:
    with StrictAws() as strict:
        yield strict


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def aws(strict: StrictAws) -> StrictAws:
    strict.reset()
    make_inventory_table(strict.client("dynamodb"), TABLE)
    strict.reset_calls()
    return strict


def bucket(aws: StrictAws, clock: Clock) -> DynamoBucket:
    """As another environment has it: it has seen nothing yet."""
    client = aws.client("dynamodb")
    return DynamoBucket(client, TABLE, RATE, clock)


@pytest.fixture(params=["memory", "dynamodb"])
def any_bucket(request: pytest.FixtureRequest, clock: Clock) -> SharedBucket:
    if request.param == "memory":
        return MemoryBucket(RATE, clock)
    return bucket(request.getfixturevalue("aws"), clock)


def item(aws: StrictAws) -> dict[str, Any]:
    found: dict[str, Any] = aws.client("dynamodb").get_item(TableName=TABLE, Key={"instance_id": {"S": KEY}})
    return dict(found.get("Item", {}))


def put(aws: StrictAws, **attributes: Any) -> None:
    aws.client("dynamodb").put_item(TableName=TABLE, Item={"instance_id": {"S": KEY}, **attributes})
    aws.reset_calls()


# What both do


def test_each_take_moves_the_moment_at_which_it_is_full_again(any_bucket: SharedBucket, clock: Clock) -> None:
    assert any_bucket.take(5, EVER) == pytest.approx(1)
    assert any_bucket.take(5, EVER) == pytest.approx(2)
    clock.now += 1.5
    assert any_bucket.take(1, EVER) == pytest.approx(0.7)
    clock.now += 3600
    assert any_bucket.take(5, EVER) == pytest.approx(1)  # no more than full


def test_a_wait_that_is_too_long_takes_nothing(any_bucket: SharedBucket, clock: Clock) -> None:
    any_bucket.take(50, EVER)
    assert any_bucket.take(5, 10.9) == pytest.approx(11)
    assert any_bucket.take(5, 11.1) == pytest.approx(11)
    assert any_bucket.take(5, 0.5) > 0.5
    assert any_bucket.take(5, 12.1) == pytest.approx(12)
    clock.now += 3600
    assert any_bucket.take(5, 0.5) == pytest.approx(1)
    assert any_bucket.take(5, 1.5) == pytest.approx(1)


# What only the one in DynamoDB has to bear


def test_taking_is_one_call_as_a_rule(aws: StrictAws, clock: Clock) -> None:
    one = bucket(aws, clock)
    one.take(5, EVER)
    assert aws.calls == {"dynamodb:UpdateItem": 1}
    for _ in range(5):
        one.take(5, EVER)
    assert aws.calls == {"dynamodb:UpdateItem": 6}
    clock.now += 3600
    one.take(5, EVER)
    assert aws.calls == {"dynamodb:UpdateItem": 7}
    # It learns from a refusal, and has what it needs from the second call.
    other = bucket(aws, clock)
    assert other.take(5, EVER) == pytest.approx(2)
    assert aws.calls == {"dynamodb:UpdateItem": 9}
    # The first does not know, and need not.
    assert one.take(5, EVER) == pytest.approx(3)
    assert aws.calls == {"dynamodb:UpdateItem": 10}
    # What is refused for its length is known after one call.
    assert other.take(5, 3.5) == pytest.approx(4)
    assert aws.calls == {"dynamodb:UpdateItem": 11}


def test_many_that_take_at_once_lose_nothing(aws: StrictAws, clock: Clock) -> None:
    buckets = [bucket(aws, clock) for _ in range(8)]
    with ThreadPoolExecutor(8) as pool:
        told = list(pool.map(lambda n: buckets[n % 8].take(5, EVER), range(48)))
    assert sorted(told) == pytest.approx([float(n + 1) for n in range(48)])


def test_the_item_goes_by_itself_and_is_nobodys(aws: StrictAws, clock: Clock) -> None:
    bucket(aws, clock).take(5, EVER)
    assert set(item(aws)) == {"instance_id", "full_at", "expires_at"}
    assert item(aws)["expires_at"] == {"N": str(1_750_000_000 + 86_400)}
    inventory = DynamoInventory(aws.client("dynamodb"), TABLE, 30)
    assert list(inventory.living()) == []
    # Were it asked for, it would be a record of nothing.
    assert inventory.recall([KEY])[KEY].instance().addresses == ()


def test_an_item_that_expired_between_two_takes_is_made_anew(aws: StrictAws, clock: Clock) -> None:
    one = bucket(aws, clock)
    one.take(50, EVER)
    aws.client("dynamodb").delete_item(TableName=TABLE, Key={"instance_id": {"S": KEY}})
    assert one.take(5, EVER) == pytest.approx(1)
    assert one.take(5, EVER) == pytest.approx(2)


@pytest.mark.parametrize(
    "broken",
    [
        {"S": "soon"},
        {"BOOL": True},
        {"M": {"N": {"N": "1"}}},
        {"L": []},
        {"NULL": True},
        {"NS": ["1750000001"]},
        {"N": "1e100"},
        {"N": "-1e100"},
        {"N": "1750003601"},  # an hour ahead: no invocation takes what it would have to wait so long for
    ],
)
def test_what_a_hand_or_a_wrong_clock_left_is_made_anew(aws: StrictAws, clock: Clock, broken: Any) -> None:
    put(aws, full_at=broken)
    assert bucket(aws, clock).take(5, EVER) == pytest.approx(1)
    assert bucket(aws, clock).take(5, EVER) == pytest.approx(2)
    # Broken while it is known to be busy.
    one = bucket(aws, clock)
    one.take(5, EVER)
    put(aws, full_at=broken)
    assert one.take(5, EVER) == pytest.approx(1)


def test_a_moment_that_is_far_off_but_can_be_is_kept(aws: StrictAws, clock: Clock) -> None:
    put(aws, full_at={"N": f"{clock.now + 899:.6f}"})
    assert bucket(aws, clock).take(5, EVER) == pytest.approx(900)
    assert item(aws)["full_at"] == {"N": f"{clock.now + 899:.6f}"}


def test_its_errors_say_what_they_are_about(aws: StrictAws, clock: Clock) -> None:
    one = bucket(aws, clock)
    with (
        aws.fault(lambda *_: throttled("ProvisionedThroughputExceededException"), everyone=True),
        pytest.raises(TransientError, match=r"take from the rate of Route 53 in table inventory \(dynamodb:UpdateIt"),
    ):
        one.take(5, EVER)
    with (
        aws.fault(lambda *_: throttled("AccessDeniedException"), everyone=True),
        pytest.raises(AccessError, match="the right to take from the rate of Route 53 in table inventory"),
    ):
        one.take(5, EVER)
    aws.client("dynamodb").delete_table(TableName=TABLE)
    with pytest.raises(ConfigurationError, match="the table does not exist"):
        one.take(5, EVER)


def test_what_answers_always_the_same_ends(aws: StrictAws, clock: Clock) -> None:
    one = bucket(aws, clock)
    with (
        aws.fault(lambda *_: throttled("ConditionalCheckFailedException"), everyone=True),
        pytest.raises(TransientError, match="others take from it all the time"),
    ):
        one.take(5, EVER)


@pytest.mark.parametrize(
    "answer",
    [
        {},
        [],
        {"Attributes": None},
        {"Attributes": {}},
        {"Attributes": {"full_at": {"S": "soon"}}},
        {"Attributes": {"full_at": {"N": "soon"}}},
        {"Attributes": {"full_at": {"N": "NaN"}}},
        {"Attributes": {"full_at": {"N": "Infinity"}}},
        {"Attributes": {"full_at": {"N": "1"}}},
    ],
)
def test_an_answer_that_does_not_tell_is_out_of_reach(aws: StrictAws, clock: Clock, answer: Any) -> None:
    one = bucket(aws, clock)
    body = Answer(200, json.dumps(answer).encode(), {"x-amzn-RequestId": "1", "Content-Type": "application/json"})
    with aws.fault(lambda *_: body, everyone=True), pytest.raises(TransientError, match="table inventory"):
        one.take(5, EVER)
    assert one.take(5, EVER) == pytest.approx(1)


def test_a_table_that_hangs_costs_seconds(aws: StrictAws, clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(boto3, "DEFAULT_SESSION", None)
    for name, value in aws.environ().items():
        monkeypatch.setenv(name, value)
    left = [60.0]
    deadline = Deadline(lambda: left[0])
    clients = AwsClients(lambda: deadline)
    one = DynamoBucket(clients("dynamodb"), TABLE, RATE, clock)
    with (
        aws.fault(lambda *_: Hang(20), everyone=True),
        pytest.raises(TransientError, match="no good answer within 2 s"),
    ):
        one.take(5, EVER)
    assert aws.calls["dynamodb:UpdateItem"] == 1
    # What fails at once is tried again at once, as often as any call.
    aws.reset_calls()
    with (
        aws.fault(lambda *_: AwsError("InternalServerError", "no", 500), everyone=True),
        pytest.raises(TransientError),
    ):
        one.take(5, EVER)
    assert aws.calls["dynamodb:UpdateItem"] > 1
    # The inventory's own calls are none of its business.
    aws.reset_calls()
    inventory = DynamoInventory(clients("dynamodb"), TABLE, 30)
    with aws.fault(lambda *_: AwsError("InternalServerError", "no", 500), everyone=True):
        assert inventory.remember_terminated([Instance("i-1")])
    assert aws.calls["dynamodb:UpdateItem"] == 4
    left[0] = 5.0
    with pytest.raises(OutOfTime, match="5 s are left"):
        one.take(5, EVER)
