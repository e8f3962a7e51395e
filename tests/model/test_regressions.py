"""Minimal histories of past bugs. ``settle`` judges them."""

from __future__ import annotations

from dataclasses import replace

import pytest

from tests.model.fleet import MEMBERS, NOTHING, Boot
from tests.model.history import History
from tests.model.ledger import Setup

DNS = Boot(chef="none", consul="none")
OTHER_VPC = MEMBERS[0], "vpc-c"


@pytest.mark.parametrize(("was", "now"), [("none", "bare"), ("ec2", "client")])
def test_live_instance_with_a_mixed_case_name_keeps_its_chef_node_and_client(was: str, now: str) -> None:
    """Live instances were stored by folded name, but looked up by the original name."""
    history = History(Setup())
    old = history.launch("App", "10.0.0.5")
    history.boot(old, replace(NOTHING, chef=was))
    history.end(old)
    new = history.launch("App", "10.0.0.6")
    history.boot(new, replace(NOTHING, chef=now))
    history.settle()
    assert "App" in history.world.chef.client_names


@pytest.mark.parametrize("inventory", [True, False])
def test_live_twin_in_another_vpc_keeps_its_a_and_ptr_records(inventory: bool) -> None:
    """Two VPCs with the same range share a zone, and both instances have the same name."""
    history = History(Setup(inventory=inventory))
    old = history.launch("web-1", "10.0.0.5")
    history.boot(old, Boot(consul="none"))
    history.answer(history.queue[:])
    history.boot(history.launch("web-1", "10.0.0.5", *OTHER_VPC), DNS)
    history.end(old)
    history.settle()
    assert history.world.a("web-1") == ("10.0.0.5",)
    assert history.world.ptr("10.0.0.5") == ("web-1.example.internal.",)


def test_record_is_removed_even_if_another_vpc_uses_its_address() -> None:
    history = History(Setup())
    old = history.launch("web-1", "10.0.0.5")
    history.boot(old, DNS)
    history.answer(history.queue[:])
    history.boot(history.launch("web-2", "10.0.0.5", *OTHER_VPC), replace(DNS, ptr=False))
    history.end(old)
    history.settle()
    assert history.world.a("web-1") is None
    assert history.world.a("web-2") == ("10.0.0.5",)


def test_live_twin_in_another_vpc_keeps_its_locks() -> None:
    """The live twin's agent has crashed. Its node has the dead instance's address, and another name."""
    history = History(Setup(deregister=True))
    old = history.launch("web-1", "10.0.0.5")
    history.answer(history.queue[:])
    twin = history.launch("web-2", "10.0.0.5", *OTHER_VPC)
    history.boot(twin, replace(NOTHING, consul="bare", sessions=("lock",)))
    history.kill_agents(twin)
    history.end(old)
    history.settle()
    assert history.world.consul.key("locks/a").session is not None


def test_live_agent_in_another_vpc_does_not_block_the_message() -> None:
    history = History(Setup(deregister=True, consul_name=None))
    old = history.launch(None, "10.0.0.5")
    history.answer(history.queue[:])
    twin = history.launch(None, "10.0.0.5", *OTHER_VPC)
    history.boot(twin, replace(NOTHING, consul="bare", consul_as="hostname", sessions=("lock",)))
    history.end(old)
    history.settle()
    assert not history.queue


def test_dry_run_lists_actions_in_the_order_of_the_real_run() -> None:
    """In one batch, the first instance has only a PTR record, so the reverse zone is changed first for both."""
    history = History(Setup())
    first, second = history.launch("web-1", "10.0.0.5"), history.launch("web-2", "10.0.0.6")
    history.boot(first, DNS)
    history.boot(second, DNS)
    history.answer(history.queue[:])
    history.meddle("unrecord", "web-1", first)
    history.end(first)
    history.end(second)
    history.answer(history.queue[:], rehearse=True)
    assert history.seen["dry runs compared"] == 2
    history.settle()
