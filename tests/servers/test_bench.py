"""The benchmarks' smallest tables: the cleanup is complete, and requests stay within the documented limits."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from bench import simulation
from bench.__main__ import count_calls
from bench.environment import Handled
from bench.fleet import Servers
from bench.naive import drain_each
from bench.simulation import ask_places, drain, sweep

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = pytest.mark.servers

# docs/benchmarks.md, 10 at once
LIMITS = {"DynamoDB": 3, "EC2": 6, "Route 53": 6, "SQS": 0, "Chef": 28, "Consul": 23}


@pytest.fixture(scope="module")
def servers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Servers]:
    with Servers(tmp_path_factory.mktemp("bench")) as started:
        yield started


def test_ten_terminations_take_no_more_requests_than_stated(servers: Servers) -> None:
    calls = count_calls(servers, 10)
    assert {system: number for system, number in calls.items() if number > LIMITS[system]} == {}
    assert [calls["EC2"]] == ask_places(1, 10)[0]  # the simulation counts like the real client


def test_the_benchmark_fails_if_something_is_left(servers: Servers, monkeypatch: pytest.MonkeyPatch) -> None:
    idle = Handled({"batchItemFailures": []}, 0.0, 0.0)
    monkeypatch.setattr(servers, "handle", lambda _: idle)
    with pytest.raises(RuntimeError, match="the cleanup of 2 terminations is incomplete"):
        count_calls(servers, 2)


@pytest.mark.parametrize(
    ("number", "size", "over", "others", "most"),
    [
        (1, 1000, 0.0, 100, 6),
        (100, 1000, 0.0, 100, 6),
        (100, 20, 0.0, 100, 22),
        (100, 1000, 20.0, 100, 18),
        (100, 1000, 0.0, 2000, 12),
    ],
)
def test_a_drain_keeps_to_route_53s_limit(number: int, size: int, over: float, others: int, most: int) -> None:
    done = drain(number, size=size, over=over, others=others)
    assert (done.left, done.refused, done.returned) == (0, 0, 0)
    assert done.requests <= most


def test_a_drain_faster_than_route_53_allows_is_refused_and_still_finishes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(simulation, "REQUESTS_PER_SECOND", 1000.0)
    done = drain(200, size=10, others=2000)
    assert done.refused > 0
    assert done.left == 0


def test_an_invocation_for_each_event_finishes_while_few_end_at_once() -> None:
    done = drain_each(10)
    assert (done.left, done.refused, done.returned, done.requests) == (0, 0, 0, 4 * 10)


def test_an_invocation_for_each_event_leaves_records_when_many_end_at_once() -> None:
    done = drain_each(300)
    assert done.left > drain(300).left == 0
    assert 0 < done.refused < done.requests <= 300 * 3 * 4 * 5


def test_ec2_calls_grow_with_the_places_and_not_faster() -> None:
    assert [ask_places(places, 30)[0] for places in (1, 10, 30)] == [[6], [6] * 10, [6] * 30]


def test_a_sweep_takes_two_calls_for_a_thousand_instances_and_one_more() -> None:
    idle, _ = sweep(1001, 0, seconds=0.02)
    assert idle.total() == 2 * 2 + 1
    busy, seconds = sweep(100, 5, seconds=0.02)
    assert busy.total() == 2 + 1 + 2  # queries EC2 for the five ids, and sends their messages
    assert seconds == pytest.approx(5 * 0.02)
