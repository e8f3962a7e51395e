"""The share of Route 53's rate: kept over retries, lowered when AWS throttles, waited for within the deadline."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ec2_decommission.clients.governor import Governor
from ec2_decommission.deadline import Deadline
from ec2_decommission.errors import OutOfTime


class Time:
    """Seconds that pass only by waiting."""

    def __init__(self, left: float = 1e6) -> None:
        self.now = 0.0
        self.left = left
        self.slept: list[float] = []

    def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self.now += seconds

    def governor(self, per_second: float, needed: float = 8.0) -> Governor:
        deadline = Deadline(lambda: self.left - self.now)
        return Governor(per_second, lambda: deadline, needed, now=lambda: self.now, sleep=self.sleep)


@given(
    st.floats(0.05, 100),
    st.lists(st.tuples(st.floats(0, 30), st.integers(1, 20)), max_size=20),
    st.floats(0.1, 60),
)
def test_no_span_of_time_sees_more_than_burst_and_rate(
    per_second: float, busy: list[tuple[float, int]], span: float
) -> None:
    time = Time()
    governor = time.governor(per_second)
    calls: list[float] = []
    for pause, number in busy:
        time.now += pause
        for _ in range(number):
            governor.wait()
            calls.append(time.now)
    for begin in calls:
        within = sum(begin <= at <= begin + span for at in calls)
        assert within <= governor.burst + per_second * span + 1.001


def test_a_single_termination_does_not_wait() -> None:
    time = Time()
    governor = time.governor(2.5)
    for _ in range(12):
        governor.wait()
    assert time.slept == []
    governor.wait()
    assert time.slept == [pytest.approx(0.2)]


def test_what_was_not_used_is_saved_up_for_five_seconds() -> None:
    time = Time()
    governor = time.governor(2)
    time.now += 3600
    for _ in range(11):
        governor.wait()
    assert time.slept == [pytest.approx(0.5)]


def test_each_throttling_halves_the_rate_down_to_an_eighth_and_answers_bring_it_back() -> None:
    time = Time()
    governor = time.governor(2)
    for expected in (1, 2, 4, 4):
        governor.throttled()
        governor.wait()
        assert time.slept[-1] == pytest.approx(expected)
    for _ in range(50):
        governor.answered()
    governor.wait()
    assert time.slept[-1] == pytest.approx(0.5)


def test_no_wait_goes_beyond_what_the_call_needs_before_the_deadline() -> None:
    time = Time(left=10)
    governor = time.governor(0.5, needed=8)
    for _ in range(3):
        governor.wait()
    assert time.now == pytest.approx(1)
    with pytest.raises(OutOfTime, match="9 s are left of this invocation, and the limit on requests to Route 53"):
        governor.wait()
    # The refused call took nothing from the bucket.
    time.left = 1e6
    governor.wait()
    assert time.now == pytest.approx(3)


def test_how_much_can_be_asked_in_a_time() -> None:
    governor = Time().governor(2)
    assert governor.capacity(0) == 10
    assert governor.capacity(30) == 70
    governor.throttled()
    assert governor.capacity(30) == 30
