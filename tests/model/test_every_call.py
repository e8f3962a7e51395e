"""One history with all traces, and a fault, a kill or a race at each call that the function makes."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

import pytest

from tests.model.fleet import MEMBERS, Boot
from tests.model.history import BOOT, Fault, History, Race
from tests.model.ledger import Body, Setup, look
from tests.model.machine import ERRORS

SETUPS = {
    "plain": Setup(),
    "deregister": Setup(deregister=True),
    "backwards": Setup(deregister=True, backwards=True),
    "no inventory": Setup(inventory=False, deregister=True),
}
ALL = Boot("www", chef_as="other", consul="bare", sessions=("lock", "delete", "semaphore", "outside"))


def scene(setup: Setup) -> tuple[History, Body, Body]:
    """A dead instance with all traces, a live namesake, and an instance with the same address."""
    history = History(setup)
    old = history.launch("web-1", "10.0.0.5", public="54.0.0.1")
    history.boot(old, ALL)
    history.boot(old, Boot("public", ptr=False, chef="none", consul="none"))
    history.answer(history.queue[:])
    new = history.launch("web-1", "10.0.0.6", MEMBERS[1], "vpc-d")
    history.boot(new, Boot("append", consul="none"))
    twin = history.launch("web-2", "10.0.0.5", MEMBERS[0], "vpc-c")
    history.boot(twin, Boot(ptr=False))
    history.answer(history.queue[:])
    history.end(old)
    return history, old, new


def left(history: History, old: Body) -> set[str]:
    """The kinds of its remaining things, except the CNAME that now resolves to the live namesake."""
    there = look(history.world)
    mine = [thing for thing in history.ledger.things_of(old) if thing in there]
    return {thing[0] for thing in mine if thing[0] != "value" or thing[5] != "web-1.example.internal."}


def calls(setup: Setup) -> int:
    """The number of calls that the function makes for it."""
    history, old, _ = scene(setup)
    history.fault = fault = Fault("transient", countdown=10_000)
    history.answer(history.queue[:])
    unproven = {"value"} if not setup.inventory else set()  # no address was recorded
    assert left(history, old) == ({"consul node", "agent"} if not setup.deregister else unproven)
    return 10_000 - fault.countdown


@pytest.mark.parametrize("error", ERRORS)
@pytest.mark.parametrize("setup", SETUPS.values(), ids=SETUPS)
def test_fault_at_any_call_leaves_nothing_and_does_no_harm(setup: Setup, error: str) -> None:
    for number in range(1, calls(setup) + 1):
        history, old, _ = scene(setup)
        history.fault = Fault(error, countdown=number)
        history.answer(history.queue[:])
        assert history.seen[f"fault {error}"] == 1
        history.settle()
        if setup.inventory:  # without an inventory, a retry knows less: the Chef node with the address is gone
            assert left(history, old) <= {"consul node", "agent"}, f"call {number}"


def replacement(history: History, old: Body) -> None:
    """Launches an instance with the same name and address, which creates the same things as the dead one."""
    new = history.launch("web-1", "10.0.0.5")
    history.after(BOOT, partial(history.boot, new, replace(ALL, chef_as="name")))


def takeover(history: History, new: Body, consul: str) -> None:
    """A live namesake takes over the Consul node, after the dead one's agent has left gossip."""
    history.world.consul._world["dc1"].agents.pop("web-1", None)
    history.boot(new, Boot("none", ptr=False, chef="none", consul=consul, sessions=("idle",)))


@pytest.mark.parametrize(
    "act", ["ttl", "value", "record", "unrecord", "key", "chef", "bare", "agentless", "replacement"]
)
@pytest.mark.parametrize("setup", SETUPS.values(), ids=SETUPS)
def test_race_at_any_call_does_no_harm(setup: Setup, act: str) -> None:
    for number in range(2 * calls(setup)):
        history, old, new = scene(setup)
        action = {
            "bare": partial(takeover, history, new, "bare"),
            "agentless": partial(takeover, history, new, "agentless"),
            "replacement": partial(replacement, history, old),
        }.get(act, partial(history.meddle, act, "web-1", old))
        history.slow = dict.fromkeys(("route53", "chef", "consul"), 3.0) if act == "replacement" else {}
        history.races.append(Race(action, number))
        history.answer(history.queue[:])
        if not history.seen["races"]:
            return  # no more calls to race with
        history.settle()
