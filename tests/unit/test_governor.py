"""The rate of requests to Route 53: kept over retries and environments, lowered when AWS throttles, waited for."""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ec2_decommission.clients.governor import Governor
from ec2_decommission.deadline import Deadline
from ec2_decommission.errors import OutOfTime, TransientError
from tests.fakes.rate import MemoryBucket

if TYPE_CHECKING:
    from collections.abc import Sequence


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


# The bucket that all environments share


class Environments:
    """Execution environments, each at its own point of one time, with a bucket in reach of all."""

    def __init__(self, per_second: float, number: int, answer: float = 0.0) -> None:
        self.own = [Time() for _ in range(number)]
        self.calls: list[float] = []
        self.warnings: list[str] = []
        self.current = self.own[0]
        self.bucket = MemoryBucket(per_second, lambda: self.current.now)
        self.governors = [
            Governor(
                per_second / number,
                lambda: Deadline(lambda: self.current.left - self.current.now),
                8.0,
                now=lambda: self.current.now,
                sleep=self.sleep,
                shared=self.bucket,
                warn=self.warnings.append,
            )
            for _ in self.own
        ]
        self.bucket.before = lambda: self.sleep(answer)

    def sleep(self, seconds: float) -> None:
        self.current.sleep(seconds)

    def call(self, number: int) -> None:
        self.current = self.own[number]
        self.governors[number].wait()
        self.calls.append(self.current.now)

    def work(self, todo: Sequence[Sequence[tuple[float, int]]], call_seconds: float = 0.0) -> None:
        """Each environment pauses and makes so many calls, again and again; who is furthest behind goes on."""
        left = [[(pause if n == 0 else 0.0) for pause, calls in some for n in range(calls)] for some in todo]
        while any(left):
            number = min((n for n, some in enumerate(left) if some), key=lambda n: self.own[n].now)
            self.own[number].now += left[number].pop(0)
            self.call(number)
            self.own[number].now += call_seconds


def most_over_the_rate(calls: Sequence[float], per_second: float) -> float:
    """By how many calls the busiest span of time is above its length times the rate."""
    calls = sorted(calls)
    spans = itertools.combinations(enumerate(calls), 2)
    return max((n - m + 1 - (end - begin) * per_second for (m, begin), (n, end) in spans), default=1)


WORK = st.lists(
    st.lists(st.tuples(st.floats(0, 12) | st.floats(0, 1), st.integers(1, 30)), max_size=5), min_size=1, max_size=5
)


@given(st.floats(0.5, 40), WORK.filter(any), st.floats(0, 0.6), st.floats(0, 0.4))
def test_all_environments_together_never_see_more_than_burst_and_rate(
    per_second: float, todo: list[list[tuple[float, int]]], call_seconds: float, answer: float
) -> None:
    environments = Environments(per_second, len(todo), answer=answer)
    environments.work(todo, call_seconds)
    assert most_over_the_rate(environments.calls, per_second) <= 5 * per_second + 1e-3
    assert not environments.warnings


def test_one_environment_alone_has_the_whole_rate() -> None:
    environments = Environments(5, number=10)
    environments.work([[(0.0, 525)]])
    # 22 at once, which is what the bucket holds, and then five a second.
    assert environments.calls[21] == 0
    assert environments.calls[-1] == pytest.approx((525 - 22.5) / 5, abs=0.2)


def test_two_that_are_busy_have_the_whole_rate_together() -> None:
    environments = Environments(5, number=2)
    environments.work([[(0.0, 300)], [(0.0, 300)]], call_seconds=0.05)
    assert max(environments.calls) == pytest.approx((600 - 22.5) / 5, abs=1)
    assert all(own.now > 100 for own in environments.own)  # neither was put last


def test_a_termination_costs_one_call_to_the_bucket() -> None:
    environments = Environments(5, number=2)
    for _ in range(3):
        environments.own[0].now += 3600
        begin = environments.own[0].now
        for _ in range(4):
            environments.call(0)
            environments.own[0].now += 0.2
        assert environments.calls[-1] - begin == pytest.approx(0.6)
    assert environments.bucket.calls == 3


def test_what_was_in_hand_when_the_environment_was_frozen_is_not_used() -> None:
    environments = Environments(5, number=2)
    environments.call(0)
    environments.own[0].now += 3600
    environments.work([[(0.0, 25)]])
    assert environments.bucket.calls == 1 + 5


def test_a_wait_that_does_not_fit_takes_nothing_from_the_others() -> None:
    environments = Environments(1, number=2)
    environments.work([[(0.0, 30)]])
    full_at = environments.bucket.full_at
    late = environments.own[1]
    late.now, late.left = 10.0, 20.0
    with pytest.raises(OutOfTime, match=r"^10 s are left .* to wait 18 s before the next$"):
        environments.call(1)
    assert environments.bucket.full_at == full_at
    late.left = 1e6
    environments.call(1)
    assert environments.bucket.full_at == full_at + 4
    assert late.now == pytest.approx(28.5)


def test_throttling_slows_below_what_the_shared_bucket_grants() -> None:
    environments = Environments(8, number=4)
    for _ in range(3):
        environments.governors[0].throttled()
    environments.work([[(0.0, 20)]])
    assert environments.calls[-1] == pytest.approx(20)  # one a second: 8, halved three times
    for _ in range(9):
        environments.governors[0].throttled()
    begin = environments.own[0].now
    environments.call(0)
    assert environments.own[0].now - begin == pytest.approx(4)  # an eighth of the share of two


@given(st.floats(1, 40), st.integers(1, 10), st.lists(st.tuples(st.floats(0, 20), st.integers(1, 40)), min_size=1))
def test_each_keeps_to_its_share_while_the_bucket_is_out_of_reach(
    per_second: float, number: int, todo: list[tuple[float, int]]
) -> None:
    environments = Environments(per_second, number)
    environments.bucket.fault = TransientError("no connection")
    environments.work([todo])
    share = per_second / number
    assert most_over_the_rate(environments.calls, share) <= max(1, 5 * share) + 1.001
    minutes = environments.own[0].now / 60
    assert environments.bucket.calls == len(environments.warnings) <= minutes + 1


def test_the_shared_bucket_is_asked_again_after_a_minute() -> None:
    environments = Environments(5, number=10)
    environments.bucket.fault = TransientError("no connection")
    environments.work([[(0.0, 20)]])
    assert environments.calls[-1] > 30
    assert environments.warnings == [
        "requests to Route 53 keep to this environment's share for a minute: no connection"
    ]
    environments.bucket.fault = None
    environments.own[0].now = 61.0
    for _ in range(500):
        environments.call(0)
        environments.governors[0].answered()
    assert environments.calls[-1] - 61 < 120  # at the share it would be a thousand
    assert len(environments.warnings) == 1


def test_a_bucket_that_answers_slowly_stops_nobody() -> None:
    environments = Environments(5, number=2, answer=5.0)
    environments.work([[(0.0, 3)]])
    assert environments.calls == [5, 10, 15]


def test_too_little_time_to_ask_the_bucket_is_not_its_fault() -> None:
    environments = Environments(5, number=2, answer=3.0)
    environments.bucket.fault = OutOfTime("too few")
    environments.own[0].left = 10.0
    with pytest.raises(OutOfTime, match="7 s are left"):
        environments.call(0)
    environments.bucket.fault = None
    environments.own[0].left = 1e6
    environments.call(0)
    assert environments.bucket.calls == 2  # it is asked again at once
    # What is left may still suffice for the call itself: then the environment goes on by its share.
    environments.own[0].now += 60
    environments.bucket.fault = OutOfTime("too few")
    environments.call(0)
    assert len(environments.warnings) == 1
