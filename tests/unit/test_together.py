"""Jobs in turn and side by side."""

from __future__ import annotations

import threading
from functools import partial

import pytest

from ec2_decommission.clients.ec2 import LivingInEc2
from ec2_decommission.templates import Template
from ec2_decommission.together import Together, in_turn, lanes, side_by_side
from tests.fakes.ec2 import FakeEc2


@pytest.mark.parametrize("together", [in_turn, side_by_side])
@pytest.mark.parametrize("number", [0, 1, 3])
def test_all_jobs_have_ended_when_it_returns(together: Together, number: int) -> None:
    done: list[int] = []
    together([partial(done.append, n) for n in range(number)])
    assert sorted(done) == list(range(number))


@pytest.mark.parametrize("together", [in_turn, side_by_side])
def test_what_a_job_raises_is_raised(together: Together) -> None:
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


@pytest.mark.parametrize(("jobs", "number", "wanted"), [(0, 4, 0), (3, 4, 3), (4, 4, 4), (10, 4, 4)])
def test_lanes_do_every_job_once(jobs: int, number: int, wanted: int) -> None:
    done: list[int] = []
    made = lanes([partial(done.append, job) for job in range(jobs)], number)
    assert len(made) == wanted
    side_by_side(made)
    assert sorted(done) == list(range(jobs))


@pytest.mark.parametrize("what", ["interfaces", "bearers"])
def test_ec2_is_asked_once_for_what_two_steps_ask_at_the_same_time(what: str) -> None:
    ec2 = FakeEc2()
    instance_id = ec2.launch("web-1", "10.0.0.9")
    living = LivingInEc2(ec2, ())
    asked, both = threading.Event(), threading.Barrier(2)

    def slowly(_: str) -> None:
        asked.set()
        both.wait(10)

    ec2.fault = slowly

    def ask() -> object:
        if what == "interfaces":
            return [i.instance_id for i in living.interfaces(["10.0.0.9"])["10.0.0.9"]]
        return list(living.bearers(Template("{tag:Name}"), ["web-1"])["web-1"])

    answers: list[object] = []

    def first() -> None:
        answers.append(ask())

    def second() -> None:
        assert asked.wait(10)
        both.wait(10)  # lets the first go on, which now has been asked
        answers.append(ask())

    side_by_side([first, second])
    assert answers == [[instance_id], [instance_id]]
    assert ec2.calls.total() == 1
