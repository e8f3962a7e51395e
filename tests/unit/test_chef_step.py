"""What the Chef step decides, on a Chef server in process."""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ec2_decommission.config import ChefSettings
from ec2_decommission.deadline import Deadline
from ec2_decommission.errors import AccessError, ConfigurationError, TransientError
from ec2_decommission.identity import Instance
from ec2_decommission.steps import chef as module
from ec2_decommission.steps.base import Batch, Finding, Left, Outcome
from ec2_decommission.steps.chef import ChefStep
from ec2_decommission.templates import Template
from tests.fakes.chef import FakeChefServer
from tests.fakes.living import FakeLiving

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

A, B, C = "i-0aaa", "i-0bbb", "i-0ccc"
BY_NAME = ChefSettings("https://chef", "decommission", node_name=Template("{tag:Name}"))
BY_ID = ChefSettings("https://chef", "decommission")


def named(instance_id: str, name: str | None = None) -> Instance:
    return Instance(instance_id, tags={"Name": name} if name else {})


def recorded(instance_id: str, *names: str, name_tag: str | None = None) -> Instance:
    known_as = {"chef": {"node": names, "client": names}}
    return Instance(instance_id, known_as=known_as, tags={"Name": name_tag} if name_tag else {})


class Run:
    """Look, find and remove over a batch, as the handler does it."""

    def __init__(
        self,
        server: FakeChefServer,
        *instances: Instance,
        living: Sequence[Instance] = (),
        settings: ChefSettings = BY_NAME,
        confirm_clients: bool = True,
        dry: bool = False,
    ) -> None:
        self.step = ChefStep(settings, server, confirm_clients=confirm_clients)
        batch = Batch({i.instance_id: i for i in instances}, FakeLiving(living), Deadline.after(60))
        self.facts = self.step.look(batch)
        learned = {k: i.learn(self.facts[k]) if k in self.facts else i for k, i in batch.instances.items()}
        self.batch = Batch(learned, batch.living, batch.deadline)
        self.findings: Mapping[str, Finding] = self.step.find(self.batch)
        self.outcomes: Mapping[str, Outcome] = {} if dry else self.step.remove(self.batch, self.findings)

    def removals(self, instance_id: str = A) -> list[str]:
        return [removal.target for removal in self.findings[instance_id].removals]

    def removed(self, instance_id: str = A) -> list[str]:
        return [removal.target for removal in self.outcomes[instance_id].removed]

    def left(self, instance_id: str = A) -> tuple[Left, ...]:
        return self.findings[instance_id].left


@pytest.fixture
def server() -> FakeChefServer:
    return FakeChefServer()


# By id


def test_node_and_client_that_bear_the_id_go(server: FakeChefServer) -> None:
    server.put_node("web-1", A, private_ips=("10.0.0.5",), vpc_id="vpc-1")
    server.put_client("web-1")
    run = Run(server, named(A, "web-1"))
    assert run.removed() == ["client web-1", "node web-1"]
    assert run.findings[A].removals[1].proof == f"ec2.instance_id is {A}"
    assert not server.node_objects
    assert not server.client_names
    facts = run.facts[A]
    assert (facts.source, facts.private_ips, facts.vpc_id) == ("chef", ("10.0.0.5",), "vpc-1")
    assert facts.known_as == {"chef": {"node": ("web-1",), "client": ("web-1",)}}


def test_all_nodes_with_the_id_go(server: FakeChefServer) -> None:
    for name in ("web-1", "web-1-old"):
        server.put_node(name, A)
        server.put_client(name)
    run = Run(server, named(A), settings=BY_ID)
    assert sorted(run.removed()) == ["client web-1", "client web-1-old", "node web-1", "node web-1-old"]


def test_without_delete_client_the_client_stays(server: FakeChefServer) -> None:
    server.put_node("web-1", A)
    server.put_client("web-1")
    run = Run(server, named(A), settings=ChefSettings("https://chef", "decommission", delete_client=False))
    assert run.removed() == ["node web-1"]
    assert server.client_names == {"web-1"}


def test_a_node_that_the_index_has_under_an_old_id_is_judged_by_its_own(server: FakeChefServer) -> None:
    """Search lags: the replacement has saved the node already, under the same name."""
    server.put_node("web-1", A)
    server.put_client("web-1")
    server.lagging = True
    server.put_node("web-1", B)
    run = Run(server, named(A, "web-1"))
    assert run.removed() == []
    assert run.left() == (Left("node web-1", f"belongs to {B}"),)
    assert set(server.node_objects) == server.client_names == {"web-1"}


def test_a_node_that_the_index_has_not_yet_is_read_by_name(server: FakeChefServer) -> None:
    server.lagging = True
    server.put_node("web-1", A)
    server.put_client("web-1")
    run = Run(server, named(A, "web-1"))
    assert run.removed() == ["client web-1", "node web-1"]
    assert "search index" in run.findings[A].removals[1].proof


# By name


def test_same_name_replacement(server: FakeChefServer) -> None:
    server.put_node("web-1", B)
    server.put_client("web-1")
    run = Run(server, named(A, "web-1"), living=[named(B, "web-1")])
    assert run.removals() == []
    assert run.left() == (Left("node web-1", f"belongs to {B}"),)
    assert server.client_names == {"web-1"}


def test_a_node_without_ec2_data_goes_when_no_living_instance_would_bear_its_name(server: FakeChefServer) -> None:
    server.put_node("web-1")
    server.put_client("web-1")
    run = Run(server, named(A, "web-1"), living=[named(B, "web-2")])
    assert run.removed() == ["client web-1", "node web-1"]
    assert "no living instance would bear the name" in run.findings[A].removals[1].proof


def test_a_node_without_ec2_data_stays_when_a_living_instance_would_bear_its_name(server: FakeChefServer) -> None:
    server.put_node("web-1")
    server.put_client("web-1")
    run = Run(server, named(A, "web-1"), living=[named(B, "WEB-1")])
    assert run.removals() == []
    (left,) = run.left()
    assert left.target == "node web-1"
    assert f"{B}, which lives" in left.reason
    assert server.client_names == {"web-1"}


def test_a_node_of_a_machine_outside_ec2_stays(server: FakeChefServer) -> None:
    """It converged, so its address is known, and never was the instance's."""
    server.put_node("web-1", private_ips=("192.0.2.7",))
    server.put_client("web-1")
    mine = Instance(A, tags={"Name": "web-1"}, private_ips=("10.0.0.5",))
    run = Run(copy.deepcopy(server), mine)
    assert run.removals() == []
    assert run.left() == (Left("node web-1", f"bears no ec2 data, and 192.0.2.7 was never {A}'s"),)
    server.put_node("web-1", private_ips=("10.0.0.5",))
    assert Run(server, mine).removed() == ["client web-1", "node web-1"]


def test_without_node_name_a_node_without_ec2_data_is_not_looked_for(server: FakeChefServer) -> None:
    server.put_node("web-1")
    server.put_client("web-1")
    run = Run(server, named(A, "web-1"), settings=BY_ID)
    assert run.findings[A] == Finding()
    assert server.calls == {"search nodes": 1}


def test_a_name_that_cannot_be_rendered_is_told(server: FakeChefServer) -> None:
    run = Run(server, named(A))
    assert run.findings[A].notes == (f"node_name {{tag:Name}}: tag Name is not known for {A}",)
    assert run.findings[A].errors == ()


def test_a_recorded_node_that_lost_its_ec2_data(server: FakeChefServer) -> None:
    """With node_name it can be asked whether somebody living would bear the name; without, nothing tells."""
    server.put_node("web-1")
    server.put_client("web-1")
    run = Run(copy.deepcopy(server), recorded(A, "web-1"), settings=BY_ID)
    assert run.removals() == []
    assert [left.target for left in run.left()] == ["node web-1"]
    assert Run(server, recorded(A, "web-1", name_tag="other")).removed() == ["client web-1", "node web-1"]


# The client


def test_client_of_a_node_that_is_gone(server: FakeChefServer) -> None:
    server.put_client("web-1")
    by_template = Run(copy.deepcopy(server), named(A, "web-1"))
    assert by_template.removed() == ["client web-1"]
    assert "node_name {tag:Name} gives this name" in by_template.findings[A].removals[0].proof
    by_record = Run(server, recorded(A, "web-1"), settings=BY_ID)
    assert by_record.removed() == ["client web-1"]
    assert "recorded as the instance's" in by_record.findings[A].removals[0].proof


def test_a_client_without_a_node_stays_when_a_living_instance_would_bear_its_name(server: FakeChefServer) -> None:
    server.put_client("web-1")
    for instance in (named(A, "web-1"), recorded(A, "web-1")):
        run = Run(server, instance, living=[named(B, "web-1")])
        assert run.removals() == []
        assert run.left() == (Left("client web-1", f"{B}, which lives, would bear that name"),)


def test_a_living_instance_keeps_the_client_while_the_dead_one_s_node_goes(server: FakeChefServer) -> None:
    """The replacement has its key already, and has not converged: the node is still the dead one's."""
    server.put_node("web-1", A)
    server.put_client("web-1")
    run = Run(server, named(A, "web-1"), living=[named(B, "web-1")])
    assert run.removed() == ["node web-1"]
    assert run.left() == (Left("client web-1", f"{B}, which lives, would bear that name"),)
    assert server.client_names == {"web-1"}


def test_a_client_whose_node_bears_another_id_stays(server: FakeChefServer) -> None:
    server.put_node("web-1", C)
    server.put_client("web-1")
    run = Run(server, recorded(A, "web-1"), settings=BY_ID)
    assert run.removals() == []
    assert run.left() == (Left("node web-1", f"belongs to {C}"),)


@pytest.mark.parametrize("name", ["decommission", "chef-validator", "acme-validator", "chef-webui"])
def test_clients_that_are_no_instance_s_stay(server: FakeChefServer, name: str) -> None:
    server.put_node(name, A)
    server.put_client(name)
    for _ in range(2):
        run = Run(server, named(A, name))
        assert f"client {name}" not in run.removals()
        assert [left.target for left in run.left()] == [f"client {name}"]
        assert server.client_names == {name}
    assert not server.node_objects


def test_a_client_that_is_not_there_is_no_removal(server: FakeChefServer) -> None:
    server.put_node("web-1", A)
    assert Run(server, named(A, "web-1"), dry=True).removals() == ["node web-1"]


def test_without_confirmation_the_deletion_tells_whether_the_client_was_there(server: FakeChefServer) -> None:
    server.put_node("web-1", A)
    run = Run(server, named(A, "web-1"), confirm_clients=False)
    assert run.removed() == ["node web-1"]
    assert server.calls == {"search nodes": 1, "delete clients": 1, "delete nodes": 1}


def test_nothing_of_the_instance_is_there(server: FakeChefServer) -> None:
    run = Run(server, named(A, "web-1"))
    assert run.findings[A] == Finding()
    assert run.outcomes[A] == Outcome()


# Batches


def test_calls_for_one(server: FakeChefServer) -> None:
    server.put_node("web-1", A)
    server.put_client("web-1")
    Run(server, named(A, "web-1"), confirm_clients=False)
    assert server.calls.total() == 3


@pytest.mark.parametrize(("count", "most"), [(10, 3.3), (100, 3.1), (1000, 3.1)])
def test_calls_for_many(server: FakeChefServer, count: int, most: float) -> None:
    for number in range(count):
        server.put_node(f"web-{number}", f"i-{number:017x}")
        server.put_client(f"web-{number}")
    instances = [named(f"i-{number:017x}", f"web-{number}") for number in range(count)]
    run = Run(server, *instances)
    assert all(len(outcome.removed) == 2 for outcome in run.outcomes.values())
    assert server.calls.total() / count <= most


def test_two_dead_with_one_name_claim_it_once(server: FakeChefServer) -> None:
    server.put_node("web-1")
    server.put_client("web-1")
    run = Run(server, named(A, "web-1"), named(B, "web-1"))
    assert run.removed(A) == ["client web-1", "node web-1"]
    assert run.removed(B) == []
    assert [left.reason for left in run.left(B)] == [f"goes with {A}, which bore the same name"] * 2


def test_the_dead_one_s_name_is_the_other_dead_one_s_node(server: FakeChefServer) -> None:
    server.put_node("web-1", B)
    server.put_client("web-1")
    run = Run(server, named(A, "web-1"), named(B, "web-1"))
    assert run.removed(A) == []
    assert run.left(A) == (Left("node web-1", f"belongs to {B}"),)
    assert run.removed(B) == ["client web-1", "node web-1"]


# Faults


def fail(server: FakeChefServer, *failing: tuple[str, str]) -> None:
    def fault(operation: str, name: str) -> None:
        if (operation, name) in failing:
            raise TransientError(f"{operation} {name} failed")

    server.fault = fault


def test_a_key_that_may_not_search_is_no_empty_world(server: FakeChefServer) -> None:
    server.forbidden = {"search nodes"}
    with pytest.raises(AccessError, match="search nodes"):
        Run(server, named(A, "web-1"))


def test_a_key_that_is_not_accepted(server: FakeChefServer) -> None:
    server.key_accepted = False
    with pytest.raises(ConfigurationError, match="chef_client_key"):
        Run(server, named(A, "web-1"))


@pytest.mark.parametrize("right", ["read nodes", "read clients"])
def test_a_key_that_may_not_read_fails_with_the_right_s_name(server: FakeChefServer, right: str) -> None:
    server.put_client("web-1")
    server.forbidden = {right}
    run = Run(server, named(A, "web-1"))
    assert run.removed() == []
    assert [type(error) for error in run.findings[A].errors] == [AccessError]
    assert right in str(run.findings[A].errors[0])


@pytest.mark.parametrize("kind", ["node", "client"])
def test_a_key_that_may_not_delete_is_told(server: FakeChefServer, kind: str) -> None:
    server.put_node("web-1", A)
    server.put_client("web-1")
    server.forbidden = {f"delete {kind}s"}
    run = Run(server, named(A, "web-1"))
    (error,) = run.outcomes[A].errors
    assert isinstance(error, AccessError)
    assert str(error) == f"{kind} web-1: Chef client may not delete {kind}s web-1"
    assert len(run.removed()) == 1


def test_nodes_that_the_key_may_not_see_are_no_empty_world(server: FakeChefServer) -> None:
    """A Chef server with strict_search_result_acls answers 200, counts them, and does not show them."""
    server.put_node("web-1", A)
    server.unreadable = {"web-1"}
    run = Run(server, named(A), settings=BY_ID)
    assert [type(error) for error in run.findings[A].errors] == [TransientError]
    assert "counts 1 more than it shows" in str(run.findings[A].errors[0])
    run = Run(server, named(A, "web-1"))
    assert isinstance(run.findings[A].errors[0], AccessError)
    assert "may not read node web-1" in str(run.findings[A].errors[0])


def test_a_hidden_node_fails_only_those_of_which_nothing_was_seen(server: FakeChefServer) -> None:
    server.put_node("web-1", A)
    server.put_node("web-2", B)
    server.unreadable = {"web-2"}
    run = Run(server, named(A), named(B), settings=BY_ID)
    assert run.removed(A) == ["node web-1"]
    assert run.findings[A].errors == ()
    assert "counts 1 more than it shows" in str(run.findings[B].errors[0])


def test_one_instance_s_failure_is_no_other_s(server: FakeChefServer) -> None:
    for name, instance_id in (("web-1", A), ("web-2", B), ("web-3", C)):
        server.put_node(name, instance_id)
        server.put_client(name)
    fail(server, ("delete nodes", "web-2"), ("read clients", "web-3"))
    run = Run(server, named(A, "web-1"), named(B, "web-2"), named(C, "web-3"))
    assert run.outcomes[A] == Outcome(run.findings[A].removals)
    assert run.removed(B) == ["client web-2"]
    assert [str(error) for error in run.outcomes[B].errors] == ["node web-2: delete nodes web-2 failed"]
    assert str(run.findings[C].errors[0]) == "read clients web-3 failed"
    assert run.removed(C) == ["node web-3"]
    server.fault = None
    retry = Run(server, named(B, "web-2"), recorded(C, "web-3"))
    assert (retry.removed(B), retry.removed(C)) == (["node web-2"], ["client web-3"])


def test_a_client_that_fails_is_found_again_by_its_name(server: FakeChefServer) -> None:
    server.put_node("web-1", A)
    server.put_client("web-1")
    fail(server, ("delete clients", "web-1"))
    assert Run(server, named(A, "web-1")).removed() == ["node web-1"]
    server.fault = None
    assert Run(server, named(A, "web-1")).removed() == ["client web-1"]


def test_a_client_that_fails_keeps_its_node_where_only_the_node_leads_to_it(server: FakeChefServer) -> None:
    """Without inventory and node_name, a client without its node would never be found again."""
    server.put_node("web-1", A)
    server.put_client("web-1")
    fail(server, ("delete clients", "web-1"))
    run = Run(server, named(A), settings=BY_ID)
    assert run.removed() == []
    assert len(run.outcomes[A].errors) == 1
    assert run.outcomes[A].left == (Left("node web-1", "it stays until its client is gone, to lead to it"),)
    server.fault = None
    assert Run(server, named(A), settings=BY_ID).removed() == ["client web-1", "node web-1"]


def test_gone_between_find_and_remove_is_success(server: FakeChefServer) -> None:
    server.put_node("web-1", A)
    server.put_client("web-1")
    run = Run(server, named(A, "web-1"), dry=True)
    server.node_objects.clear()
    assert [r.target for r in run.step.remove(run.batch, run.findings)[A].removed] == ["client web-1"]
    assert run.step.remove(run.batch, run.findings)[A] == Outcome()


# The look is old


@pytest.fixture
def aged(server: FakeChefServer, monkeypatch: pytest.MonkeyPatch) -> Run:
    """A finding whose look is older than is trusted."""
    server.put_node("web-1", A)
    server.put_client("web-1")
    monkeypatch.setattr(module, "_FRESH_SECONDS", -1.0)
    return Run(server, named(A, "web-1"), dry=True)


def test_an_old_look_is_repeated_by_one_search(server: FakeChefServer, aged: Run) -> None:
    before = server.calls.total()
    assert len(aged.step.remove(aged.batch, aged.findings)[A].removed) == 2
    assert server.calls.total() - before == 3


def test_a_node_that_became_another_s_stays(server: FakeChefServer, aged: Run) -> None:
    server.lagging = True
    server.put_node("web-1", B)
    outcome = aged.step.remove(aged.batch, aged.findings)[A]
    assert outcome.removed == ()
    assert [left.target for left in outcome.left] == ["client web-1", "node web-1"]
    assert f"belongs to {B}" in outcome.left[0].reason
    assert server.client_names == set(server.node_objects) == {"web-1"}


def test_a_node_that_was_made_anew_stays(server: FakeChefServer, aged: Run) -> None:
    server.put_node("web-1")
    outcome = aged.step.remove(aged.batch, aged.findings)[A]
    assert outcome.removed == ()
    assert "bears no ec2 data" in outcome.left[0].reason


def test_a_second_look_that_fails_removes_nothing(server: FakeChefServer, aged: Run) -> None:
    server.forbidden = {"search nodes"}
    outcome = aged.step.remove(aged.batch, aged.findings)[A]
    assert outcome.removed == ()
    assert len(outcome.errors) == 2
    assert len(server.node_objects) == 1


def test_every_part_of_a_large_batch_is_looked_at_again(
    server: FakeChefServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The look that one part repeats says nothing of the parts that come after it."""
    ids = [f"i-{number:017x}" for number in range(130)]
    for number, instance_id in enumerate(ids):
        server.put_node(f"web-{number}", instance_id)
    now = [0.0]
    monkeypatch.setattr("time.monotonic", lambda: now[0])
    run = Run(server, *(named(i, f"web-{n}") for n, i in enumerate(ids)), dry=True)
    now[0] += 30  # Route 53 took its time
    server.put_node("web-129", B)
    outcomes = run.step.remove(run.batch, run.findings)
    assert [left.reason for left in outcomes[ids[129]].left] == [f"changed meanwhile: the node now belongs to {B}"]
    assert list(server.node_objects) == ["web-129"]


# A property


NAMES = st.sampled_from(["web-1", "web-2", "decommission", "rack:7", "no name"])
IDS = st.sampled_from([A, B, C, None])


@settings(max_examples=300, deadline=None)
@given(
    nodes=st.dictionaries(NAMES.filter(lambda name: name != "no name"), IDS),
    reindexed=st.dictionaries(NAMES.filter(lambda name: name != "no name"), IDS),
    clients=st.sets(NAMES),
    tags=st.tuples(*[st.none() | NAMES] * 3),
    known=st.sets(NAMES),
    template=st.booleans(),
)
def test_a_dry_run_lists_what_a_real_run_removes(
    nodes: dict[str, str | None],
    reindexed: dict[str, str | None],
    clients: set[str],
    tags: tuple[str | None, ...],
    known: set[str],
    template: bool,
) -> None:
    """A and B are dead, C lives. Whatever the scene: both runs name the same, and nothing of C's is touched."""
    server = FakeChefServer()
    for name, instance_id in nodes.items():
        server.put_node(name, instance_id)
    server.lagging = True
    for name, instance_id in reindexed.items():
        server.put_node(name, instance_id)
    for name in clients:
        server.put_client(name)
    before = copy.deepcopy(server)
    instances = [recorded(A, *sorted(known), name_tag=tags[0]), named(B, tags[1])]
    living = [named(C, tags[2])]
    chosen = BY_NAME if template else BY_ID
    dry = Run(server, *instances, living=living, settings=chosen, dry=True)
    assert server.node_objects == before.node_objects
    assert server.client_names == before.client_names
    real = Run(server, *instances, living=living, settings=chosen, confirm_clients=False)
    for instance_id in (A, B):
        assert real.removed(instance_id) == dry.removals(instance_id)
        assert real.left(instance_id) == dry.left(instance_id)
        assert real.findings[instance_id].notes == dry.findings[instance_id].notes
    for name, node in before.node_objects.items():
        if node.instance_id == C or (node.instance_id is None and name == tags[2]):
            assert name in server.node_objects
            assert (name in server.client_names) == (name in before.client_names)
    if template and tags[2] in before.client_names:
        assert tags[2] in server.client_names
    assert "decommission" not in before.client_names - server.client_names
