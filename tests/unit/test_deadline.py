"""The time that is left."""

from __future__ import annotations

from contextlib import suppress

import pytest

from ec2_decommission.deadline import Deadline, current, until
from ec2_decommission.errors import OutOfTime, TransientError


def left(seconds: float) -> Deadline:
    return Deadline(lambda: seconds)


def test_remaining_time_is_never_negative() -> None:
    assert left(-5).remaining() == 0
    assert Deadline.after(-1).remaining() == 0
    assert 9 < Deadline.after(10).remaining() <= 10


@pytest.mark.parametrize(("seconds", "wanted", "timeout"), [(100, 10, 10), (5, 10, 5), (1, 10, 1)])
def test_a_call_ends_before_the_deadline(seconds: float, wanted: float, timeout: float) -> None:
    assert left(seconds).timeout(wanted) == timeout


@pytest.mark.parametrize("seconds", [0.99, 0, -1])
def test_no_call_starts_in_the_last_second(seconds: float) -> None:
    with pytest.raises(OutOfTime, match="too few to begin asking Chef"):
        left(seconds).timeout(10, "asking Chef")


def test_check() -> None:
    left(8).check(8)
    with pytest.raises(TransientError, match="7 s are left of this invocation"):
        left(7).check(8)


def test_a_share_is_the_earlier_of_the_two() -> None:
    assert 24 < left(100).share(4).remaining() <= 25
    assert left(100).share(0).remaining() > 99
    assert 29 < left(100).share(4, least=30).remaining() <= 30
    assert left(20).share(4, least=30).remaining() <= 20
    assert 24 < left(100).share(4, least=10).remaining() <= 25
    whole = [100.0]
    share = Deadline(lambda: whole[0]).share(2)
    whole[0] = 3.0
    assert share.remaining() == 3.0


def test_the_innermost_deadline_is_the_current_one() -> None:
    assert current().remaining() == 0
    with until(left(10)):
        with until(left(5)):
            assert current().remaining() == 5
        with suppress(ValueError), until(left(5)):
            raise ValueError
        assert current().remaining() == 10
    assert current().remaining() == 0
