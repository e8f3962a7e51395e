"""A sweep of a large fleet: piece by piece, and from one invocation to the next."""

from __future__ import annotations

import base64
import hashlib
import json
import zlib
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ec2_decommission.config import ChefSettings, SweepSettings
from ec2_decommission.deadline import Deadline
from ec2_decommission.errors import MalformedEvent, OutOfTime, TransientError
from ec2_decommission.events import parse
from ec2_decommission.progress import Progress
from tests.fakes.ec2 import Machine
from tests.fakes.world import World

if TYPE_CHECKING:
    from collections.abc import Callable

EVENT = {"source": "ec2-decommission", "detail-type": "EC2 Decommission Sweep", "detail": {}}
CALL = 10.0  # seconds of a call to EC2


class Timed:
    """A world in which each call to EC2 takes its time, as far as the function can tell."""

    def __init__(self, count: int, lost: int, **more: Any) -> None:
        settings = SweepSettings(
            max_instances=more.pop("max_instances", 1000), max_fraction=1, **more.pop("sweep", {})
        )
        self.world = World(sweep=settings, **more)
        self.world.most_in_a_piece = 20
        self.left = 0.0
        self.ids = [f"i-{n % 16:x}{n:016x}" if n % 3 else f"i-0{n % 16:x}{n:015x}" for n in range(count)]
        for instance_id in self.ids:
            self._launch(instance_id)
        self.world.inventory.remember_running(
            self.world.ec2.describe([i])[i].instance() for i in self.ids if i not in self.ids[-1:]
        )
        for instance_id in self.ids[:lost]:
            self.world.ec2.terminate(instance_id)
        self.world.ec2.fault = self._takes_time
        self.world.ec2.calls.clear()

    def _launch(self, instance_id: str) -> None:
        launched = self.world.time - timedelta(days=1)
        self.world.ec2.machines[instance_id] = Machine(instance_id, "running", launched, {"Name": "web"}, None)

    def _takes_time(self, _: str) -> None:
        if self.world._clock.deadline.remaining() < CALL:
            raise OutOfTime(f"{self.left:.0f} s are left of this invocation")
        self.left -= CALL

    def invoke(self, event: Any, seconds: float) -> dict[str, Any]:
        """One invocation by one message; its report, unless it is to be tried again."""
        self.left = seconds
        body = {"messageId": "m", "receiptHandle": "r", "body": json.dumps(event)}
        answer = self.world._application.handle({"Records": [body]}, Deadline(lambda: self.left))
        report: dict[str, Any] = self.world.log.lines[-1].extra["report"]
        assert not (answer["batchItemFailures"] and report["sweep"].get("goes_on"))
        return report

    def sweep(self, seconds: float, event: Any = EVENT) -> list[dict[str, Any]]:
        """A sweep to its end, through the queue; the reports of its invocations."""
        reports = []
        while event is not None:
            reports.append(self.invoke(event, seconds)["sweep"])
            going_on = [e for e in self.world.queue.sent if e["detail-type"] == EVENT["detail-type"]]
            event = going_on[0] if going_on else None
            if event:
                assert self.sent() == []  # nothing goes before all has been looked at
                self.world.queue.sent.remove(event)
            assert len(reports) < 200
        return reports

    def sent(self) -> list[str]:
        return [e["detail"]["instance-id"] for e in self.world.queue.sent if "instance-id" in e["detail"]]


@pytest.mark.parametrize("seconds", [10_000.0, 250.0, 120.0, 60.0])
def test_however_many_invocations_it_takes_the_same_is_found(seconds: float) -> None:
    timed = Timed(300, 40)
    reports = timed.sweep(seconds)
    last = reports[-1]
    assert (last["living"], last["recorded"], last["refreshed"]) == (260, 299, 1)
    assert last["gone"] == sorted(timed.ids[:40])
    assert timed.sent() == sorted(timed.ids[:40])
    assert (len(reports) > 1) == (seconds < 1000)
    assert all(report.get("goes_on") for report in reports[:-1])
    assert timed.world.inventory.items[timed.ids[-1]].state == "running"


def test_a_small_fleet_is_one_piece() -> None:
    timed = Timed(15, 1)
    timed.sweep(1000)
    assert timed.world.ec2.calls["DescribeInstances"] == 2
    assert timed.world.inventory.calls["living"] == 1


def test_the_calls_grow_with_the_fleet_and_no_faster() -> None:
    def calls(count: int) -> int:
        timed = Timed(count, 1)
        timed.sweep(100_000)
        return timed.world.ec2.calls["DescribeInstances"] + timed.world.inventory.calls["living"]

    # Whatever is more than a piece is divided by sixteen, and each part is a call to either.
    for count in (100, 400, 1600):
        assert calls(count) <= 2 * 18 * count / 20


def test_the_brake_is_for_the_whole_and_what_is_accepted_is_carried_along() -> None:
    timed = Timed(100, 40, max_instances=10)
    reports = timed.sweep(120)
    assert len(reports) > 1
    assert "found 40 of 99 recorded instances gone" in timed.world.log.lines[-1].message
    assert timed.sent() == []
    accept = timed.ids[5:8]
    timed.left = 120
    timed.world._application.handle({"sweep": True, "accept": accept}, Deadline(lambda: timed.left))
    going_on = timed.world.queue.sent.pop()
    timed.sweep(120, going_on)
    assert sorted(timed.sent()) == sorted(accept)


def test_what_only_lists_only_lists_to_its_end() -> None:
    timed = Timed(100, 4)
    timed.left = 120
    timed.world._application.handle({"sweep": True, "dry_run": True}, Deadline(lambda: timed.left))
    going_on = timed.world.queue.sent.pop()
    assert timed.sweep(120, going_on)[-1]["gone"] == sorted(timed.ids[:4])
    assert timed.sent() == []
    assert timed.ids[-1] not in timed.world.inventory.items


def test_where_going_on_fails_the_message_returns_and_begins_again() -> None:
    timed = Timed(100, 4)

    def fail(operation: str) -> None:
        if operation == "go_on":
            raise TransientError("no connection")

    timed.world.queue.fault = fail
    timed.left = 120
    body = {"messageId": "m", "receiptHandle": "r", "body": json.dumps(EVENT)}
    answer = timed.world._application.handle({"Records": [body]}, Deadline(lambda: timed.left))
    assert answer["batchItemFailures"] == [{"itemIdentifier": "m"}]
    timed.world.queue.fault = lambda _: None
    timed.sweep(120)
    assert timed.sent() == sorted(timed.ids[:4])


def test_an_invocation_too_short_for_anything_fails() -> None:
    timed = Timed(15, 1)
    timed.left = 20
    body = {"messageId": "m", "receiptHandle": "r", "body": json.dumps(EVENT)}
    answer = timed.world._application.handle({"Records": [body]}, Deadline(lambda: timed.left))
    assert answer["batchItemFailures"] == [{"itemIdentifier": "m"}]
    assert timed.world.queue.sent == []


def test_a_source_that_fails_on_the_way_is_told_at_the_end_and_asked_no_more() -> None:
    timed = Timed(100, 4, sweep={"adopt": ("chef",)}, chef=ChefSettings("https://chef.example.com", "c"))
    timed.world.chef.put_node("old", "i-0000dead000000001")
    asked = []

    def down(*_: str) -> None:
        asked.append(1)
        raise TransientError("no connection")

    timed.world.chef.fault = down
    reports = timed.sweep(120)
    assert len(reports) > 1
    assert asked == [1]
    assert reports[-1]["trouble"] == "adoption, chef: no connection"
    assert timed.world.log.lines[-1].level == "error"
    assert timed.sent() == sorted(timed.ids[:4])
    timed.world.chef.fault = None
    timed.world.queue.sent.clear()
    timed.sweep(120)
    assert "i-0000dead000000001" in timed.sent()


def test_records_are_brought_up_to_date_as_long_as_there_is_time(monkeypatch: pytest.MonkeyPatch) -> None:
    timed = Timed(0, 0)
    timed.world.most_in_a_piece = 10_000
    for number in range(350):
        timed._launch(f"i-{number:017x}")
    write = timed.world.inventory.remember_running

    def slow(instances: Any) -> Any:
        timed.left -= 60
        return write(instances)

    monkeypatch.setattr(timed.world.inventory, "remember_running", slow)
    [report] = timed.sweep(200)
    assert (report["refreshed"], report["postponed"]) == (200, 150)
    [report] = timed.sweep(2000)
    assert (report["refreshed"], report.get("postponed")) == (150, None)


def test_each_invocation_has_time_to_write_records(monkeypatch: pytest.MonkeyPatch) -> None:
    timed = Timed(0, 0)
    timed.world.most_in_a_piece = 100
    for number in range(160):
        timed._launch(f"i-0{number % 16:x}{number:015x}")
    write = timed.world.inventory.remember_running

    def slow(instances: Any) -> Any:
        timed.left -= CALL
        return write(instances)

    monkeypatch.setattr(timed.world.inventory, "remember_running", slow)
    reports = timed.sweep(200)
    postponed = reports[-1]["postponed"]
    assert len(timed.world.inventory.items) == 160 - postponed
    assert 0 < postponed <= 10 * len(reports)  # of each invocation one piece at the most: ten records
    assert timed.sweep(20_000)[-1].get("postponed") is None
    assert set(timed.world.inventory.items) == set(timed.world.ec2.machines)


def test_one_record_that_cannot_be_written_stops_nothing_else() -> None:
    timed = Timed(15, 3)

    def fail(_: str, instance_id: str) -> None:
        if instance_id == timed.ids[-1]:
            raise TransientError("item too large")

    timed.world.inventory.fault_of = fail
    report = timed.invoke(EVENT, 1000)
    assert report["errors"] == ["sweep: item too large"]
    assert timed.sent() == sorted(timed.ids[:3])


def test_more_than_a_message_holds_is_told() -> None:
    timed = Timed(0, 0)
    gone = tuple(f"i-{hashlib.sha256(str(n).encode()).hexdigest()[:17]}" for n in range(25_000))
    progress = Progress(pending=("i-0", "i-1"), gone=gone).document()
    timed.left = 40
    body = {"messageId": "m", "body": json.dumps({**EVENT, "detail": {"progress": progress}})}
    answer = timed.world._application.handle({"Records": [body]}, Deadline(lambda: timed.left))
    assert answer["batchItemFailures"] == [{"itemIdentifier": "m"}]
    assert "25000 gone, 0 to adopt, 0 accepted" in timed.world.log.lines[-1].message
    assert "which SQS does not take: raise function.timeout" in timed.world.log.lines[-1].message


IDS = st.lists(st.from_regex(r"i-[0-9a-f]{17}", fullmatch=True), unique=True, max_size=20).map(tuple)


@given(IDS, IDS, IDS, st.booleans(), st.none() | st.text(), st.integers(0, 10**9))
def test_progress_comes_back_as_it_went(
    gone: tuple[str, ...], adopted: tuple[str, ...], accept: tuple[str, ...], dry: bool, trouble: str | None, n: int
) -> None:
    progress = Progress(("i-0a", "i-f"), n, n, n, n, n, gone, adopted, n, accept, dry, trouble)
    assert Progress.of(json.loads(json.dumps(progress.document()))) == progress


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=5,
)


def broken(change: Callable[[dict[str, Any]], None]) -> dict[str, Any]:
    document = Progress().document()
    change(document)
    return document


@given(
    JSON
    | st.tuples(st.sampled_from(sorted(Progress().document())), JSON).map(
        lambda kv: {**Progress().document(), kv[0]: kv[1]}
    )
)
def test_progress_that_no_sweep_has_written_is_malformed(document: Any) -> None:
    try:
        read = Progress.of(document)
    except MalformedEvent:
        return
    assert Progress.of(read.document()) == read


@pytest.mark.parametrize(
    "gone",
    [
        base64.b64encode(zlib.compress(b"web-1")).decode(),
        base64.b64encode(b"not zlib").decode(),
        base64.b64encode(zlib.compress(b"i-" + b"0" * 100_000_000)).decode(),
        "###",
    ],
)
def test_ids_that_are_none_are_malformed(gone: str) -> None:
    with pytest.raises(MalformedEvent, match="progress cannot be read"):
        parse({**EVENT, "detail": {"progress": {**Progress().document(), "gone": gone}}})


def test_what_became_dry_meanwhile_stays_dry() -> None:
    request = parse({**EVENT, "detail": {"progress": Progress(dry_run=False).document()}})
    assert request.dry_run is None  # the module's word counts
    assert parse({**EVENT, "detail": {"progress": Progress(dry_run=True).document()}}).dry_run is True
