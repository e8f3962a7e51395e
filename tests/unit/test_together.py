"""Jobs in turn and side by side."""

from __future__ import annotations

import threading
from functools import partial

import pytest

from ec2_decommission.deadline import Deadline, current, until
from ec2_decommission.together import Together, in_turn, side_by_side


@pytest.mark.parametrize("together", [in_turn, side_by_side])
@pytest.mark.parametrize("number", [0, 1, 3])
def test_all_jobs_have_ended_when_it_returns(together: Together, number: int) -> None:
    done: list[int] = []
    together([partial(done.append, n) for n in range(number)])
    assert sorted(done) == list(range(number))


@pytest.mark.parametrize("together", [in_turn, side_by_side])
def test_job_errors_are_raised(together: Together) -> None:
    def fail() -> None:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        together([lambda: None, fail])


def test_a_job_that_fails_leaves_the_others_their_time() -> None:
    failed, done = threading.Event(), []

    def fail() -> None:
        failed.set()
        raise ZeroDivisionError

    def work() -> None:
        assert failed.wait(10)
        done.append(1)

    with pytest.raises(ZeroDivisionError):
        side_by_side([fail, work])
    assert done == [1]


def test_no_more_run_at_once_than_workers() -> None:
    running, most, counting = 0, 0, threading.Lock()
    meeting = threading.Barrier(3)

    def work() -> None:
        nonlocal running, most
        with counting:
            running += 1
            most = max(most, running)
        meeting.wait(10)
        with counting:
            running -= 1

    side_by_side([work] * 9, 3)
    assert most == 3


def test_every_job_has_the_deadline_of_its_caller() -> None:
    seen: list[float] = []
    with until(Deadline(lambda: 5.0)):
        side_by_side([lambda: seen.append(current().remaining())] * 3)
    assert seen == [5.0, 5.0, 5.0]
