"""Conformance of the fake inventory: the same tests run on the fake and on DynamoDB."""

from __future__ import annotations

import re
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from threading import Barrier, Lock
from typing import TYPE_CHECKING, Any

import pytest

from ec2_decommission.errors import (
    AccessError,
    ConfigurationError,
    DecommissionError,
    PermanentError,
    TransientError,
)
from ec2_decommission.instance import Facts, Instance
from ec2_decommission.inventory import RUNNING, TERMINATED, DynamoInventory, Result
from ec2_decommission.invocation import invoked_as
from ec2_decommission.place import Place
from ec2_decommission.together import side_by_side
from testbed.aws import Answer, StrictAws, throttled
from testbed.inventory import make_inventory_table
from tests.fakes.inventory import FakeInventory

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from ec2_decommission.inventory import Inventory

TABLE = "inventory"
ID = "i-0000000000000000a"
PLACE = Place("123456789012", "us-east-1")
MEMBER = Place("222222222222", "us-east-1")
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
        ran=True,
        tags={"Name": "web-1", "empty": "", "Ünïcode": "☃"},
        past_tags={"Name": ("web-0",)},
        known_as={"chef": {"node": ("web-1", "web-1b")}, "consul": {"node": ("web-1",)}},
    )
)


def bare(instance_id: str = ID, place: Place = PLACE, **more: Any) -> Instance:
    """An instance of which only the place is known."""
    return Instance(instance_id, account_id=place.account_id, region=place.region, **more)


def result(steps: Mapping[str, Mapping[str, Any]], removed: Any = (), **more: Any) -> Result:
    return Result(PLACE, steps, removed, **more)


class Clock:
    """A clock that tests control."""

    def __init__(self) -> None:
        self.now = datetime(2026, 3, 1, tzinfo=UTC)

    def __call__(self) -> datetime:
        return self.now


@pytest.fixture(scope="module")
def aws() -> Iterator[StrictAws]:
    with StrictAws() as strict:
        yield strict


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture(params=["fake", "dynamodb"])
def inventory(request: pytest.FixtureRequest, clock: Clock) -> Inventory:
    if request.param == "fake":
        return FakeInventory(now=clock)
    strict: StrictAws = request.getfixturevalue("aws")
    strict.reset()
    make_inventory_table(strict.client("dynamodb"), TABLE)
    return DynamoInventory(strict.client("dynamodb"), TABLE, 30, now=clock, together=side_by_side)


def test_new_inventory_is_empty(inventory: Inventory) -> None:
    assert dict(inventory.recall([ID])) == {}
    assert dict(inventory.recall([])) == {}
    assert list(inventory.living(PLACE)) == []


def test_all_facts_of_a_live_instance_are_stored(inventory: Inventory, clock: Clock) -> None:
    assert inventory.remember_running([FULL], {}) == {ID: True}
    record = inventory.recall([ID])[ID]
    assert record.state == RUNNING
    assert record.recorded_at == clock.now.isoformat()
    assert record.terminated_at is None
    assert record.steps == {}
    assert record.removed == ()
    instance = record.instance()
    assert instance.sources == ("inventory",)
    assert {**vars(instance), "sources": (), "state": ""} == {**vars(FULL), "sources": (), "state": ""}


def test_instance_without_facts_is_stored(inventory: Inventory) -> None:
    assert inventory.remember_running([bare(ID)], {}) == {ID: True}
    assert inventory.recall([ID])[ID].facts == Facts("inventory", account_id="123456789012", region="us-east-1")


def test_new_facts_replace_old_facts_of_a_live_instance(inventory: Inventory) -> None:
    inventory.remember_running([FULL], {})
    assert inventory.remember_running([bare(ID, private_ips=("10.0.0.9",), tags={"Name": "web-2"})], {}) == {ID: True}
    record = inventory.recall([ID])[ID]
    assert record.facts.private_ips == ("10.0.0.9",)
    assert record.facts.tags == {"Name": "web-2"}


def test_late_running_event_does_not_revive_an_instance(inventory: Inventory) -> None:
    inventory.remember_terminated([FULL], tags_known=False)
    assert inventory.remember_running([bare(ID, private_ips=("10.9.9.9",))], {}) == {ID: False}
    record = inventory.recall([ID])[ID]
    assert record.state == TERMINATED
    assert record.facts.private_ips == FULL.private_ips
    assert list(inventory.living(PLACE)) == []


def test_terminated_keeps_the_first_recording_time(inventory: Inventory, clock: Clock) -> None:
    begin = clock.now.isoformat()
    inventory.remember_running([FULL], {})
    clock.now += timedelta(hours=1)
    end = clock.now.isoformat()
    inventory.remember_terminated([FULL], tags_known=False)
    clock.now += timedelta(hours=1)
    inventory.remember_terminated([FULL], tags_known=False)
    record = inventory.recall([ID])[ID]
    assert (record.recorded_at, record.terminated_at) == (begin, end)


def test_step_results_are_replaced_and_removals_are_appended(inventory: Inventory) -> None:
    inventory.remember_terminated([FULL], tags_known=False)
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
    inventory.remember_results({ID: result({"chef": failed}, [first])})
    assert inventory.recall([ID])[ID].steps == {"chef": failed}
    inventory.remember_results({ID: result({"chef": done}, [second])})
    inventory.remember_results({ID: result({"chef": done}, [])})
    record = inventory.recall([ID])[ID]
    assert record.steps == {"chef": done}
    assert record.removed == (first, second)
    assert record.facts.tags == FULL.tags


def test_expired_item_is_stored_again_as_terminated(inventory: Inventory) -> None:
    """The item expired after it was read. A new item that is not live and does not expire would stay forever."""
    inventory.remember_results({ID: result({"route53": {"status": "clean"}})})
    assert inventory.recall([ID])[ID].state == TERMINATED
    assert inventory.remember_running([FULL], {}) == {ID: False}
    assert list(inventory.living(PLACE)) == []


def test_step_results_survive_a_second_identification(inventory: Inventory) -> None:
    inventory.remember_terminated([bare(ID)], tags_known=False)
    inventory.remember_results({ID: result({"route53": {"status": "clean"}}, [])})
    inventory.remember_terminated([FULL], tags_known=False)
    record = inventory.recall([ID])[ID]
    assert record.steps == {"route53": {"status": "clean"}}
    assert record.facts.private_ips == FULL.private_ips


def test_only_live_instances_are_listed(inventory: Inventory) -> None:
    ids = [f"i-{number:017x}" for number in range(5)]
    inventory.remember_running([bare(instance_id, private_ips=("10.0.0.5",)) for instance_id in ids], {})
    inventory.remember_terminated([bare(ids[2])], tags_known=False)
    inventory.remember_results({"i-ffffffffffffffff": result({"chef": {"status": "clean"}})})
    assert [r.instance_id for r in inventory.living(PLACE)] == [ids[0], ids[1], ids[3], ids[4]]
    assert all(r.facts.private_ips == ("10.0.0.5",) for r in inventory.living(PLACE))
    assert list(inventory.living(MEMBER)) == []


def test_unfinished_instances_are_found_by_place(inventory: Inventory) -> None:
    ids = [f"i-{number:017x}" for number in range(4)]
    inventory.remember_terminated([bare(i) for i in ids[:3]], tags_known=True)
    inventory.remember_terminated([bare(ids[3], MEMBER)], tags_known=True)
    failed, clean = {"chef": {"status": "failed"}}, {"chef": {"status": "clean"}}
    inventory.remember_results(
        {ids[0]: result(failed, next_try_at="2026-03-01"), ids[1]: result(clean, finished=True)}
    )
    found = {record.instance_id: record.next_try_at for record in inventory.unfinished(PLACE)}
    assert found == {ids[0]: "2026-03-01", ids[2]: None}
    assert [record.instance_id for record in inventory.unfinished(MEMBER)] == [ids[3]]
    assert inventory.recall(ids)[ids[1]].finished


def test_excluded_instance_is_recorded_and_its_termination_is_marked(inventory: Inventory) -> None:
    inventory.remember_running([FULL], {ID: "excluded by tag keep=x"})
    record = inventory.recall([ID])[ID]
    assert (record.state, record.excluded) == (RUNNING, "excluded by tag keep=x")
    inventory.remember_running([FULL], {})
    assert inventory.recall([ID])[ID].excluded is None
    assert inventory.remember_excluded({ID: (FULL, "its tags are not known")}) == {}
    record = inventory.recall([ID])[ID]
    assert (record.state, record.excluded, record.finished) == (TERMINATED, "its tags are not known", True)
    assert list(inventory.living(PLACE)) == list(inventory.unfinished(PLACE)) == []


def test_tag_read_time_is_stored(inventory: Inventory, clock: Clock) -> None:
    inventory.remember_running([FULL], {})
    assert inventory.recall([ID])[ID].tags_known_at is None
    inventory.remember_running([FULL], {}, tags_known=True)
    first = clock.now.isoformat()
    clock.now += timedelta(hours=1)
    inventory.remember_terminated([FULL], tags_known=False)
    assert inventory.recall([ID])[ID].tags_known_at == first
    inventory.remember_terminated([FULL], tags_known=True)
    assert inventory.recall([ID])[ID].tags_known_at == clock.now.isoformat()


def test_published_result_and_its_request_id_are_stored(inventory: Inventory) -> None:
    inventory.remember_results({ID: result({}, announced="a")})
    with invoked_as("r-2"):
        inventory.remember_results({ID: result({}, whole=False)})
    with invoked_as("r-3"):
        inventory.remember_results({ID: result({})})
    record = inventory.recall([ID])[ID]
    assert (record.announced, record.request_id, record.runs) == ("a", "r-3", ("r-3",))


def test_every_write_stores_the_request_id(inventory: Inventory) -> None:
    writes: dict[str, Callable[[], object]] = {
        "running": lambda: inventory.remember_running([FULL], {}),
        "terminated": lambda: inventory.remember_terminated([FULL], tags_known=False),
        "excluded": lambda: inventory.remember_excluded({ID: (FULL, "excluded")}),
        "results": lambda: inventory.remember_results({ID: result({})}),
        "announced": lambda: inventory.remember_announced({ID: "a"}),
        "restored": lambda: inventory.remember_restored(ID, PLACE),
    }
    for name, write in writes.items():
        with invoked_as(f"request of {name}"):
            write()
        assert inventory.recall([ID])[ID].request_id == f"request of {name}"


def test_storing_a_published_result_changes_nothing_else(inventory: Inventory) -> None:
    inventory.remember_running([FULL], {})
    before = inventory.recall([ID])[ID]
    assert inventory.remember_announced({ID: "a", "i-1": "b"}) == {}
    records = inventory.recall([ID, "i-1"])
    assert records[ID] == replace(before, announced="a")
    assert records["i-1"].announced == "b"
    assert [record.instance_id for record in inventory.living(PLACE)] == [ID]
    assert inventory.remember_running([bare("i-1")], {}) == {"i-1": True}


def test_restored_instance_is_finished_and_restores_are_appended(inventory: Inventory, clock: Clock) -> None:
    inventory.remember_terminated([FULL], tags_known=True)
    inventory.remember_results({ID: result({"chef": {"status": "failed"}}, next_try_at="2026-03-01")})
    assert inventory.remember_restored(ID, PLACE) is None
    first, second = {"at": "1", "target": "A x"}, {"at": "2", "target": "A y"}
    assert inventory.remember_restored(ID, PLACE, [first]) is None
    assert inventory.remember_restored(ID, PLACE, [second]) is None
    record = inventory.recall([ID])[ID]
    assert (record.finished, record.next_try_at, record.restored_at) == (True, None, clock.now.isoformat())
    assert record.restored == (first, second)
    assert list(inventory.unfinished(PLACE)) == []
    inventory.remember_terminated([FULL], tags_known=True)
    assert [one.instance_id for one in inventory.unfinished(PLACE)] == [ID]


def test_only_instances_that_are_not_live_can_be_marked_restored(inventory: Inventory) -> None:
    assert inventory.remember_restored("i-1", PLACE, [{"at": "1"}]) is None
    record = inventory.recall(["i-1"])["i-1"]
    assert (record.state, record.place, record.finished) == (TERMINATED, PLACE, True)
    inventory.remember_running([FULL], {})
    inventory.remember_restored(ID, PLACE, [{"at": "1"}])
    record = inventory.recall([ID])[ID]
    assert (record.state, record.restored_at) == (RUNNING, None)
    assert [one.instance_id for one in inventory.living(PLACE)] == [ID]


def test_recall_of_many_instances_uses_several_calls(inventory: Inventory) -> None:
    ids = [f"i-{number:017x}" for number in range(503)]
    assert inventory.remember_running(map(bare, ids), {}) == dict.fromkeys(ids, True)
    assert set(inventory.recall([*ids, *ids, "i-ffffffffffffffff"])) == set(ids)


# Only the real table


def table(aws: StrictAws, clock: Clock) -> tuple[DynamoInventory, Any]:
    aws.reset()
    make_inventory_table(aws.client("dynamodb"), TABLE)
    client = aws.client("dynamodb")
    return DynamoInventory(client, TABLE, 30, now=clock), client


def item(client: Any) -> dict[str, Any]:
    found: dict[str, Any] = client.get_item(TableName=TABLE, Key={"instance_id": {"S": ID}})["Item"]
    return found


def test_item_of_a_finished_instance_expires(aws: StrictAws, clock: Clock) -> None:
    inventory, client = table(aws, clock)
    inventory.remember_running([FULL], {})
    assert item(client)["sweep"] == {"S": "123456789012/us-east-1"}
    inventory.remember_terminated([FULL], tags_known=True)
    inventory.remember_results({ID: result({}, next_try_at="later")})
    assert item(client)["sweep"] == {"S": "123456789012/us-east-1/unfinished"}
    assert "expires_at" not in item(client)
    inventory.remember_results({ID: result({}, finished=True)})
    expected = int((clock.now + timedelta(days=30)).timestamp())
    assert item(client)["expires_at"] == {"N": str(expected)}
    assert not {"sweep", "next_try_at"} & set(item(client))
    # A duplicate event reopens the instance.
    inventory.remember_terminated([FULL], tags_known=True)
    assert "expires_at" not in item(client)


def test_item_of_a_restored_instance_does_not_expire(aws: StrictAws, clock: Clock) -> None:
    """Otherwise, adoption would treat it as an unrecorded orphan."""
    inventory, client = table(aws, clock)
    inventory.remember_terminated([FULL], tags_known=True)
    inventory.remember_results({ID: result({}, finished=True)})
    inventory.remember_restored(ID, PLACE)
    assert not {"sweep", "expires_at"} & set(item(client))


def test_an_item_of_an_unrecorded_instance_expires_until_it_is_recorded(aws: StrictAws, clock: Clock) -> None:
    inventory, client = table(aws, clock)
    inventory.remember_announced({ID: "a"})
    assert "expires_at" in item(client)
    inventory.remember_running([FULL], {})
    assert "expires_at" not in item(client)
    inventory.remember_announced({ID: "b"})
    assert "expires_at" not in item(client)


def test_the_fake_expires_items_in_the_same_way(clock: Clock) -> None:
    inventory = FakeInventory(now=clock)
    inventory.remember_running([FULL], {})
    inventory.remember_terminated([FULL], tags_known=True)
    clock.now += timedelta(days=400)
    inventory.expire()
    inventory.remember_results({ID: result({}, finished=True)})
    clock.now += timedelta(days=29)
    inventory.expire()
    assert ID in inventory.items
    clock.now += timedelta(days=1)
    inventory.expire()
    assert ID not in inventory.items


def test_recall_reads_consistently_and_retries_unprocessed_keys(clock: Clock) -> None:
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


def test_recall_sends_four_requests_in_parallel(clock: Clock) -> None:
    """Each of the first four requests waits for the other three."""
    meeting, under_way, most = Barrier(4), 0, 0
    counting = Lock()

    class Client:
        def batch_get_item(self, **request: Any) -> dict[str, Any]:
            nonlocal under_way, most
            with counting:
                under_way += 1
                most = max(most, under_way)
            meeting.wait(10)
            with counting:
                under_way -= 1
            return {"Responses": {TABLE: request["RequestItems"][TABLE]["Keys"]}}

    inventory = DynamoInventory(Client(), TABLE, 30, now=clock, together=side_by_side)
    ids = [f"i-{number:017x}" for number in range(800)]
    assert set(inventory.recall(ids)) == set(ids)
    assert most == 4


IDS = [f"i-{number:017x}" for number in range(1, 251)]


def test_rejected_write_does_not_block_other_writes(inventory: Inventory) -> None:
    inventory.remember_terminated(map(bare, IDS[10:30:5]), tags_known=False)
    expected = {i: i not in IDS[10:30:5] for i in IDS}
    assert inventory.remember_running([bare(i, private_ips=("10.0.0.5",)) for i in IDS], {}) == expected
    records = inventory.recall(IDS)
    assert {i: records[i].state == RUNNING for i in IDS} == expected
    assert all(bool(records[i].facts.private_ips) == expected[i] for i in IDS)


def test_empty_request_sends_no_call(inventory: Inventory) -> None:
    assert inventory.remember_running([], {}) == {}
    assert inventory.remember_terminated([], tags_known=False) == {}
    assert inventory.remember_results({}) == {}


def test_writes_are_batched_by_a_hundred(aws: StrictAws, clock: Clock) -> None:
    inventory, _ = table(aws, clock)
    aws.reset_calls()
    inventory.remember_terminated(map(bare, IDS), tags_known=False)
    inventory.remember_results({i: result({"chef": {"status": "clean"}}, [{"at": "1"}]) for i in IDS})
    assert aws.calls["dynamodb:TransactWriteItems"] == 6
    assert aws.calls["dynamodb:UpdateItem"] == 0
    assert all(record.removed == ({"at": "1"},) for record in inventory.recall(IDS).values())


def test_table_error_stops_the_remaining_writes(aws: StrictAws) -> None:
    """Two requests are in flight when the first error arrives."""
    aws.reset()
    make_inventory_table(aws.client("dynamodb"), TABLE)
    inventory = DynamoInventory(aws.client("dynamodb"), TABLE, 30, together=side_by_side)
    ids = [f"i-{number:017x}" for number in range(400)]
    aws.reset_calls()
    with aws.fault(lambda *_: throttled("AccessDeniedException"), everyone=True):
        failed = inventory.remember_terminated(map(bare, ids), tags_known=False)
    assert set(failed) == set(ids)
    assert {type(error) for error in failed.values()} == {AccessError}
    assert aws.calls["dynamodb:TransactWriteItems"] <= 2
    assert inventory.remember_terminated(map(bare, ids), tags_known=False) == {}
    assert set(inventory.recall(ids)) == set(ids)


def test_single_write_uses_no_transaction(aws: StrictAws, clock: Clock) -> None:
    inventory, _ = table(aws, clock)
    aws.reset_calls()
    inventory.remember_running([FULL], {})
    assert aws.calls["dynamodb:TransactWriteItems"] == 0
    assert aws.calls["dynamodb:UpdateItem"] == 1


def test_rejected_items_cost_one_more_transaction(aws: StrictAws, clock: Clock) -> None:
    inventory, _ = table(aws, clock)
    inventory.remember_terminated(map(bare, IDS[:3]), tags_known=False)
    aws.reset_calls()
    inventory.remember_running(map(bare, IDS[:100]), {})
    assert aws.calls["dynamodb:TransactWriteItems"] == 2
    assert aws.calls["dynamodb:UpdateItem"] == 0


def test_canceled_transaction_is_written_item_by_item(aws: StrictAws, clock: Clock) -> None:
    inventory, _ = table(aws, clock)

    def cancelled(_service: str, operation: str, _params: Any) -> Any:
        return throttled("TransactionCanceledException") if operation == "TransactWriteItems" else None

    with aws.fault(cancelled, everyone=True):
        assert inventory.remember_terminated(map(bare, IDS[:3]), tags_known=False) == {}
    assert {r.state for r in inventory.recall(IDS[:3]).values()} == {TERMINATED}


def test_oversized_result_is_shortened(aws: StrictAws, clock: Clock) -> None:
    inventory, _ = table(aws, clock)
    action = {"action": "delete", "target": "x" * 1000, "proof": "p"}
    big = {"step": "consul", "status": "done", "actions": [action] * 500, "reason": None, "settled_at": "2"}
    small = {**big, "actions": [action]}
    inventory.remember_terminated(map(bare, IDS[:3]), tags_known=False)
    outcomes = {i: result({"consul": big if i == IDS[1] else small}, [action]) for i in IDS[:3]}
    assert inventory.remember_results(outcomes) == {}
    records = inventory.recall(IDS[:3])
    assert records[IDS[0]].steps == records[IDS[2]].steps == {"consul": small}
    kept = records[IDS[1]].steps["consul"]
    assert kept["settled_at"] == "2"
    assert len(kept["actions"]) == 20
    assert "500 actions, too many to store" in kept["reason"]


def test_oversized_identity_is_a_permanent_error(aws: StrictAws, clock: Clock) -> None:
    inventory, _ = table(aws, clock)
    names = tuple(f"{number}{'x' * 8000}" for number in range(60))
    huge = bare(IDS[0]).learn(Facts("consul", known_as={"consul": {"node": names}}))
    failed = inventory.remember_terminated([huge, bare(IDS[1])], tags_known=False)
    assert [(i, type(error)) for i, error in failed.items()] == [(IDS[0], PermanentError)]
    assert inventory.recall(IDS[:2])[IDS[1]].state == TERMINATED


def test_large_items_are_split_into_more_transactions(aws: StrictAws, clock: Clock) -> None:
    inventory, _ = table(aws, clock)
    action = {"action": "delete", "target": "x" * 1000, "proof": "p"}
    step = {"step": "consul", "status": "done", "actions": [action] * 100, "reason": None}
    aws.reset_calls()
    assert inventory.remember_results({i: result({"consul": step}) for i in IDS[:40]}) == {}
    assert aws.calls["dynamodb:TransactWriteItems"] == 3
    assert aws.calls["dynamodb:UpdateItem"] == 0


@pytest.mark.parametrize("number", [1, 150])
@pytest.mark.parametrize("call", ["remember_running", "remember_terminated", "remember_results"])
def test_write_errors_map_to_error_types(aws: StrictAws, clock: Clock, call: str, number: int) -> None:
    inventory, _ = table(aws, clock)
    ids = IDS[:number]
    calls: dict[str, Callable[[], Mapping[str, bool | DecommissionError]]] = {
        "remember_running": lambda: inventory.remember_running(map(bare, ids), {}),
        "remember_terminated": lambda: inventory.remember_terminated(map(bare, ids), tags_known=True),
        "remember_results": lambda: inventory.remember_results({i: result({}) for i in ids}),
    }

    def failure() -> DecommissionError:
        results = calls[call]()
        assert set(results) == set(ids)
        (error,) = set(results.values())
        assert isinstance(error, DecommissionError)
        return error

    with aws.fault(lambda *_: throttled("ProvisionedThroughputExceededException"), everyone=True):
        error = failure()
    assert isinstance(error, TransientError)
    assert re.search(r"write table inventory \(dynamodb:UpdateItem\).*ProvisionedThroughputExceeded", str(error))
    with aws.fault(lambda *_: throttled("AccessDeniedException"), everyone=True):
        error = failure()
    assert isinstance(error, AccessError)
    assert "the right to write table inventory (dynamodb:UpdateItem)" in str(error)
    aws.client("dynamodb").delete_table(TableName=TABLE)
    error = failure()
    assert isinstance(error, ConfigurationError)
    assert "the table does not exist" in str(error)


@pytest.mark.parametrize("call", ["recall", "living"])
def test_read_errors_map_to_error_types(aws: StrictAws, clock: Clock, call: str) -> None:
    inventory, _ = table(aws, clock)
    calls: dict[str, Callable[[], object]] = {
        "recall": lambda: inventory.recall([ID]),
        "living": lambda: list(inventory.living(PLACE)),
    }
    with (
        aws.fault(lambda *_: throttled("ProvisionedThroughputExceededException"), everyone=True),
        pytest.raises(TransientError, match=r"table inventory \(dynamodb:\w+\).*ProvisionedThroughputExceeded"),
    ):
        calls[call]()
    with (
        aws.fault(lambda *_: throttled("AccessDeniedException"), everyone=True),
        pytest.raises(AccessError, match=r"the right to read table inventory \(dynamodb:\w+\)"),
    ):
        calls[call]()
    aws.client("dynamodb").delete_table(TableName=TABLE)
    with pytest.raises(ConfigurationError, match="the table does not exist"):
        calls[call]()


@pytest.mark.parametrize("body", ["[]", '["x"]', '"x"', "5"])
def test_malformed_answer_is_a_transient_error(aws: StrictAws, clock: Clock, body: str) -> None:
    """JSON, but not DynamoDB's: botocore expects an object, and has no specific error for other values."""
    inventory, _ = table(aws, clock)
    answer = Answer(200, body.encode(), {"Content-Type": "application/json"})
    with aws.fault(lambda *_: answer, everyone=True):
        for read in (lambda: inventory.recall([ID]), lambda: list(inventory.living(PLACE))):
            with pytest.raises(TransientError, match=r"could not read table inventory \(dynamodb:\w+\)"):
                read()
        for ids in ((ID,), (ID, "i-0b")):
            failed = inventory.remember_terminated([bare(i) for i in ids], tags_known=False)
            assert {i: type(error) for i, error in failed.items()} == dict.fromkeys(ids, TransientError)


def test_item_without_a_value_is_a_transient_error(aws: StrictAws, clock: Clock) -> None:
    inventory, _ = table(aws, clock)
    body = b'{"Responses": {"inventory": [{"instance_id": {}}]}}'
    answer = Answer(200, body, {"Content-Type": "application/json", "x-amzn-requestid": "1"})
    with (
        aws.fault(lambda *_: answer, everyone=True),
        pytest.raises(TransientError, match=r"could not read table inventory \(dynamodb:BatchGetItem\)"),
    ):
        inventory.recall([ID])
