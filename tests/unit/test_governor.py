"""The rate of requests to Route 53: bounded, lowered when AWS throttles, and waited for only within the deadline."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ec2_decommission.clients.governor import Governor, governors
from ec2_decommission.config import ZoneSettings
from ec2_decommission.deadline import Deadline, until
from ec2_decommission.errors import OutOfTime

if TYPE_CHECKING:
    from collections.abc import Iterator


class Time:
    """Seconds that pass only by waiting."""

    def __init__(self, left: float = 1e6) -> None:
        self.now = 0.0
        self.left = left
        self.slept: list[float] = []

    def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self.now += seconds

    def governor(self, per_second: float) -> Governor:
        return Governor(per_second, 8.0, now=lambda: self.now, sleep=self.sleep)

    def deadline(self) -> Deadline:
        return Deadline(lambda: self.left - self.now)


@pytest.fixture
def time() -> Iterator[Time]:
    time = Time()
    with until(time.deadline()):
        yield time


@given(
    st.floats(0.05, 100),
    st.lists(st.tuples(st.floats(0, 30), st.integers(1, 20)), max_size=20),
    st.floats(0.1, 60),
)
def test_no_time_span_exceeds_burst_and_rate(per_second: float, busy: list[tuple[float, int]], span: float) -> None:
    time = Time()
    governor = time.governor(per_second)
    requests: list[float] = []
    with until(time.deadline()):
        for pause, number in busy:
            time.now += pause
            for _ in range(number):
                governor.wait()
                requests.append(time.now)
    for begin in requests:
        within = sum(begin <= at <= begin + span for at in requests)
        assert within <= governor.burst + per_second * span + 1.001


def test_a_burst_of_five_seconds_does_not_wait(time: Time) -> None:
    governor = time.governor(2.5)
    for _ in range(12):
        governor.wait()
    assert time.slept == []
    governor.wait()
    assert time.slept == [pytest.approx(0.2)]


def test_unused_rate_is_saved_for_five_seconds(time: Time) -> None:
    governor = time.governor(2)
    time.now += 3600
    for _ in range(11):
        governor.wait()
    assert time.slept == [pytest.approx(0.5)]


def test_a_rate_below_one_in_five_seconds_still_allows_one_request(time: Time) -> None:
    governor = time.governor(0.1)
    governor.wait()
    assert time.slept == []


def test_throttling_halves_the_rate_down_to_an_eighth_and_answers_bring_it_back(time: Time) -> None:
    governor = time.governor(2)
    for expected in (1, 2, 4, 4):
        governor.throttled()
        governor.wait()
        assert time.slept[-1] == pytest.approx(expected)
    for _ in range(50):
        governor.answered()
    governor.wait()
    assert time.slept[-1] == pytest.approx(0.5)


def test_no_request_starts_too_close_to_the_deadline(time: Time) -> None:
    time.left = 10
    governor = time.governor(0.5)
    for _ in range(3):
        governor.wait()
    assert time.now == pytest.approx(1)
    with pytest.raises(OutOfTime, match=r"^9 s are left .*, and the request rate of Route 53 requires a wait of 2 s"):
        governor.wait()
    # The refused request took nothing from the bucket.
    time.left = 1e6
    governor.wait()
    assert time.now == pytest.approx(3)


def test_outside_an_invocation_nothing_is_sent() -> None:
    with pytest.raises(OutOfTime):
        Governor(5).wait()


def test_zones_of_one_account_share_a_governor() -> None:
    dns, other = (f"arn:aws:iam::{account}:role/dns" for account in ("333333333333", "444444444444"))
    zones = [
        ZoneSettings("ZOWN"),
        ZoneSettings("ZOWN2", "arn:aws:iam::111111111111:role/dns"),
        ZoneSettings("ZDNS", dns),
        ZoneSettings("ZDNS2", dns.replace("dns", "dns2")),
        ZoneSettings("ZOTHER", other),
    ]
    of = governors(zones, 2.5, own_account="111111111111")
    assert of("ZOWN") is of("ZOWN2")
    assert of("ZDNS") is of("ZDNS2")
    assert len({of(zone.zone_id) for zone in zones}) == 3
    assert of("ZOWN").per_second == 2.5
