"""One history with all traces in it, with a fault, an end or a race at each call that the function makes."""

from __future__ import annotations

import pytest

from tests.model.fleet import Fault, Fleet
from tests.model.ledger import Body, Setup
from tests.model.machine import ERRORS

SETUPS = [
    *(
        pytest.param(Setup(inventory=inventory, deregister=deregister), id=f"{inventory=}, {deregister=}")
        for inventory in (True, False)
        for deregister in (True, False)
    ),
    pytest.param(Setup(deregister=True, backwards=True), id="deregister=True, backwards=True"),
]


def scene(setup: Setup) -> tuple[Fleet, Body, Body]:
    """One that is about to be handled, with all its traces, and a living namesake."""
    fleet = Fleet(setup)
    old = fleet.launch("web-1", "10.0.0.5", public="54.0.0.1")
    fleet.boot(old, chef_as="a", consul="bare", sessions=["lock", "delete", "semaphore", "outside"])
    fleet.answer(fleet.queue[:])
    new = fleet.launch("web-1", "10.0.0.6")
    fleet.boot(new, dns="append", chef="ec2", consul="none")
    fleet.answer(fleet.queue[:])
    fleet.terminate(old)
    return fleet, old, new


def calls(setup: Setup) -> int:
    """How many calls the function makes for it."""
    fleet, _, _ = scene(setup)
    far = 10_000
    fleet.fault = Fault("transient", countdown=far)
    fleet.answer(fleet.queue[:])
    assert not fleet.queue
    return far - fleet.fault.countdown


@pytest.mark.parametrize("error", ERRORS)
@pytest.mark.parametrize("setup", SETUPS)
def test_a_fault_at_every_call_loses_nothing(setup: Setup, error: str) -> None:
    for number in range(1, calls(setup) + 1):
        fleet, old, _ = scene(setup)
        fleet.fault = Fault(error, countdown=number)
        fleet.answer(fleet.queue[:])
        assert fleet.seen[f"fault {error}"] == 1
        fleet.fault = None
        fleet.settle()
        if setup.inventory:  # without one the retry knows less: the Chef node that told the address is gone
            assert old.instance_id not in fleet.ledger.owners(fleet.world), f"call {number}"


@pytest.mark.parametrize("act", ["ttl", "value", "record", "unrecord", "key", "bare", "agentless"])
@pytest.mark.parametrize("setup", SETUPS)
def test_a_race_at_every_call_takes_nothing_from_the_living(setup: Setup, act: str) -> None:
    for number in range(calls(setup)):
        fleet, old, new = scene(setup)

        def race(fleet: Fleet = fleet, old: Body = old, new: Body = new) -> None:
            if act in ("bare", "agentless"):
                # Anew in any case: the dead one's agent leaves gossip.
                fleet.world.consul._world["dc1"].agents.pop("web-1", None)
                fleet.boot(new, dns="none", chef="none", consul=act, sessions=["idle"])
            else:
                fleet.meddle(act, "web-1", old.address)

        fleet.race, fleet.race_after = race, number
        fleet.answer(fleet.queue[:])
        if fleet.race is not None:
            return  # it made no more calls that could race
        fleet.settle()
        if act in ("bare", "agentless"):
            assert fleet.world.consul.node("web-1") is not None
