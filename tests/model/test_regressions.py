"""Histories that once broke a promise, in their shortest form."""

from __future__ import annotations

from typing import Any

import pytest

from tests.model.fleet import OTHER_VPC, Fleet
from tests.model.ledger import Setup

NONE: dict[str, Any] = {"dns": "none", "ptr": False, "chef": "none", "consul": "none"}


def settle(fleet: Fleet) -> None:
    """All that waits is delivered; the ledger judges it."""
    fleet.settle()


def test_a_living_namesake_in_mixed_case_keeps_its_bare_chef_node() -> None:
    """What lives was told by its folded name, and asked for by the name as it stands."""
    fleet = Fleet(Setup(inventory=False))
    old = fleet.launch("App", "10.0.0.5")
    fleet.terminate(old)
    new = fleet.launch("App", "10.0.0.6")
    fleet.boot(new, **{**NONE, "chef": "bare"})
    settle(fleet)
    assert "App" in fleet.world.chef.node_objects
    assert "App" in fleet.world.chef.client_names


def test_a_living_namesake_in_mixed_case_keeps_its_new_chef_key() -> None:
    fleet = Fleet(Setup())
    old = fleet.launch("App", "10.0.0.5")
    fleet.boot(old, **{**NONE, "chef": "ec2"})
    fleet.terminate(old)
    new = fleet.launch("App", "10.0.0.6")
    fleet.boot(new, **{**NONE, "chef": "client"})
    settle(fleet)
    assert "App" in fleet.world.chef.client_names


@pytest.mark.parametrize("inventory", [True, False])
def test_a_living_twin_in_another_vpc_keeps_its_record_and_pointer(inventory: bool) -> None:
    """Two VPCs with the same range share a zone, and both instances have the same name."""
    fleet = Fleet(Setup(inventory=inventory))
    old = fleet.launch("web-1", "10.0.0.5")
    fleet.boot(old, chef="ec2", consul="none")
    fleet.answer(fleet.queue[:])
    twin = fleet.launch("web-1", "10.0.0.5", OTHER_VPC)
    fleet.boot(twin, chef="none", consul="none")
    fleet.terminate(old)
    settle(fleet)
    assert fleet.world.a("web-1") == ("10.0.0.5",)
    assert fleet.world.ptr("10.0.0.5") == ("web-1.example.internal.",)


def test_a_record_of_the_dead_goes_though_another_vpc_has_its_address() -> None:
    fleet = Fleet(Setup())
    old = fleet.launch("web-1", "10.0.0.5")
    fleet.boot(old, chef="none", consul="none")
    fleet.answer(fleet.queue[:])
    other = fleet.launch("web-2", "10.0.0.5", OTHER_VPC)
    fleet.boot(other, ptr=False, chef="none", consul="none")
    fleet.terminate(old)
    settle(fleet)
    assert fleet.world.a("web-1") is None
    assert fleet.world.a("web-2") == ("10.0.0.5",)


def test_the_locks_of_a_living_twin_in_another_vpc_stay() -> None:
    """Its agent has crashed, and its node has the address that the dead one had, and another name."""
    fleet = Fleet(Setup(deregister=True))
    old = fleet.launch("web-1", "10.0.0.5")
    fleet.answer(fleet.queue[:])
    twin = fleet.launch("web-2", "10.0.0.5", OTHER_VPC)
    fleet.boot(twin, dns="none", ptr=False, chef="none", consul="bare", sessions=["lock"])
    fleet.kill_agents(twin)
    fleet.terminate(old)
    settle(fleet)
    assert fleet.world.consul.node("web-2") is not None
    assert fleet.world.consul.key("locks/a").session is not None


def test_an_agent_that_lives_in_another_vpc_does_not_hold_the_message() -> None:
    fleet = Fleet(Setup(deregister=True, consul_name=None))
    old = fleet.launch(None, "10.0.0.5")
    fleet.answer(fleet.queue[:])
    twin = fleet.launch(None, "10.0.0.5", OTHER_VPC)
    fleet.boot(twin, **{**NONE, "consul": "bare", "consul_as": "hostname", "sessions": ["lock"]})
    fleet.terminate(old)
    settle(fleet)
    assert not fleet.queue


def test_a_dry_run_tells_the_actions_in_the_order_of_the_real_one() -> None:
    """One batch: the first has a pointer only, so the reverse zone is changed first, for both."""
    fleet = Fleet(Setup())
    first, second = fleet.launch("web-1", "10.0.0.5"), fleet.launch("web-2", "10.0.0.6")
    fleet.boot(first, chef="none", consul="none")
    fleet.boot(second, chef="none", consul="none")
    fleet.answer(fleet.queue[:])
    fleet.meddle("unrecord", "web-1", "10.0.0.5")
    fleet.terminate(first)
    fleet.terminate(second)
    fleet.answer(fleet.queue[:], rehearse=True)
    assert fleet.seen["dry runs compared"] == 2
    settle(fleet)
