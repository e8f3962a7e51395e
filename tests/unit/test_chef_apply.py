"""How the Chef step reads, reads again, and deletes: on a Chef server in process and a scripted EC2."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ec2_decommission.clients.chef import ChefClient, ChefNode
from ec2_decommission.clients.ec2 import Description
from ec2_decommission.config import ChefSettings
from ec2_decommission.deadline import Deadline
from ec2_decommission.errors import AccessError, ConfigurationError, PermanentError, TransientError
from ec2_decommission.instance import Facts, Instance
from ec2_decommission.live import FRESH_SECONDS, Live
from ec2_decommission.place import Place
from ec2_decommission.steps.base import Batch, Finding, Left, Outcome, Removal
from ec2_decommission.steps.chef import ChefStep
from ec2_decommission.steps.chef.observe import Snapshot, observe
from ec2_decommission.templates import Template
from tests.fakes.chef import FakeChefServer

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

A, B, C = "i-0aaaaaaaaaaaaaaaa", "i-0bbbbbbbbbbbbbbbb", "i-0cccccccccccccccc"
HERE = Place("111111111111", "eu-west-1")
ADDRESS = "10.0.0.5"
BY_NAME = ChefSettings("https://chef", "decommission", node_name=Template("{tag:Name}"))
BY_ID = ChefSettings("https://chef", "decommission")


class Clock:
    """Seconds, which pass only when somebody says so."""

    def __init__(self) -> None:
        self.seconds = 0.0

    def __call__(self) -> float:
        return self.seconds


class Ec2:
    """The living instances of one place. ``on_ask`` runs before each answer, to change the world or to fail."""

    def __init__(self, clock: Clock, living: Iterable[Instance] = ()) -> None:
        self.instances = list(living)
        self.clock = clock
        self.on_ask: Callable[[], None] = lambda: None
        self.asked_at: list[float] = []

    def living(self, filters: Mapping[str, Iterable[str]]) -> Iterator[Description]:
        self.on_ask()
        self.asked_at.append(self.clock())
        for instance in self.instances:
            facts = Facts("ec2", HERE.account_id, HERE.region, tags=instance.tags)
            yield Description(instance.instance_id, "running", facts)

    def _unexpected(self, values: Iterable[str]) -> Any:
        if list(values):
            raise AssertionError("only names are asked for")
        return {}

    describe = ask_by_id = interfaces = elastic_ips = _unexpected


class Run:
    """The acts of the step over a batch, in the runner's order."""

    def __init__(
        self, server: FakeChefServer, *instances: Instance, settings: ChefSettings = BY_NAME, audit: bool = False
    ) -> None:
        self.server = server
        self.settings = settings
        self.audit = audit
        self.clock = Clock()
        self.ec2 = Ec2(self.clock)
        self.live = Live({HERE: self.ec2}, now=self.clock)
        self.seconds = 900.0
        self.kept: list[Removal] = []
        self.between: Callable[[], None] = lambda: None
        self.instances = {i.instance_id: i for i in instances}
        self.facts: Mapping[str, Facts] = {}
        self.findings: Mapping[str, Finding] = {}
        self.outcomes: Mapping[str, Outcome] = {}

    def plan(self) -> Run:
        self.step = ChefStep(self.settings, self.server, audit=self.audit)
        self.facts = self.step.identify(self._batch())
        self.instances = {k: i.learn(self.facts[k]) if k in self.facts else i for k, i in self.instances.items()}
        self.findings = self.step.plan(self._batch())
        return self

    def apply(self) -> Run:
        self.plan()
        self.between()
        self.outcomes = self.step.apply(self._batch(), self.findings)
        return self

    def _batch(self) -> Batch:
        end = self.clock() + self.seconds
        deadline = Deadline(lambda: end - self.clock(), self.clock)
        return Batch(self.instances, self.live, deadline, keep=self.keep)

    def keep(self, instance_id: str, removals: Sequence[Removal]) -> None:
        self.kept += removals

    def planned(self, instance_id: str = A) -> list[str]:
        return [removal.target for removal in self.findings[instance_id].removals]

    def removed(self, instance_id: str = A) -> list[str]:
        return [removal.target for removal in self.outcomes[instance_id].removed]

    def left(self, instance_id: str = A) -> dict[str, str]:
        return {thing.target: thing.reason for thing in self.outcomes[instance_id].left}

    def errors(self, instance_id: str = A) -> list[str]:
        return [str(error) for error in self.outcomes[instance_id].errors]


def named(instance_id: str = A, name: str | None = "web-1", **facts: Any) -> Instance:
    facts = {"ran": True, "private_ips": (ADDRESS,), **facts}
    tags = {"Name": name} if name else {}
    return Instance(instance_id, account_id=HERE.account_id, region=HERE.region, tags=tags, **facts)


def world(*names: str) -> FakeChefServer:
    """A server on which each of A, B, C in turn has a node and a client of that name."""
    server = FakeChefServer()
    for instance_id, name in zip((A, B, C), names, strict=False):
        server.put_node(name, instance_id)
        server.put_client(name)
    return server


BOTH = ["client web-1", "node web-1"]


def test_node_and_client_are_removed() -> None:
    server = world("web-1")
    run = Run(server, named()).apply()
    assert run.removed() == BOTH
    assert run.outcomes[A] == Outcome(run.findings[A].removals)
    assert not server.node_objects
    assert not server.client_names
    assert run.facts[A].known_as == {"chef": {"node": ("web-1",), "client": ("web-1",)}}


def test_the_plan_changes_nothing() -> None:
    server = world("web-1")
    assert Run(server, named()).plan().planned() == BOTH
    assert set(server.node_objects) == server.client_names == {"web-1"}


def test_second_run_finds_nothing() -> None:
    server = world("web-1")
    Run(server, named()).apply()
    run = Run(server, named()).apply()
    assert run.findings[A] == Finding()
    assert run.outcomes[A] == Outcome()


def test_without_delete_client_no_client_is_read() -> None:
    server = world("web-1")
    run = Run(server, named(), settings=replace(BY_NAME, delete_client=False)).apply()
    assert run.removed() == ["node web-1"]
    assert not {"search clients", "read clients", "delete clients"} & set(server.calls)


# The index lags


def test_a_node_that_the_index_has_under_an_old_id() -> None:
    """The replacement has saved the node already, under the same name."""
    server = world("web-1")
    server.lagging = True
    server.put_node("web-1", B)
    run = Run(server, named()).apply()
    assert run.planned() == []
    assert run.findings[A].left[0] == Left("node web-1", f"belongs to {B}")
    assert set(server.node_objects) == server.client_names == {"web-1"}


def test_unindexed_nodes_are_read_by_name() -> None:
    server = FakeChefServer()
    server.lagging = True
    server.put_node("web-1", A)
    server.put_client("web-1", public_key="KEY")
    assert Run(server, named()).apply().removed() == BOTH


def test_what_only_another_instance_s_name_led_to_is_read_again() -> None:
    """The name tag of B leads to the node of A, which the index does not know yet. Nothing is B's."""
    server = FakeChefServer()
    server.lagging = True
    server.put_node("web-1", A)
    assert Run(server, named(name=None), Instance(B, tags={"Name": "web-1"})).apply().removed() == ["node web-1"]
    assert not server.node_objects


def test_a_stranger_s_node_that_the_index_has_not_taken_in_yet_protects_its_client() -> None:
    server = world("web-1")
    server.lagging = True
    server.put_node("web-1.example.com", B)
    run = Run(server, named()).apply()
    assert run.removed() == ["node web-1"]
    assert server.client_names == {"web-1"}


# What is read


def read(server: FakeChefServer, *instances: Instance, settings: ChefSettings = BY_NAME) -> Snapshot:
    return observe(server, settings, {i.instance_id: i for i in instances}, with_keys=False)


@pytest.mark.parametrize(
    ("name", "found"),
    [
        ("web-1", {"web-1", "WEB-1", "web-1.a", "Web-1.b"}),
        ("WEB-1", {"web-1", "WEB-1", "web-1.a", "Web-1.b"}),
        ("web-1.A", {"web-1", "WEB-1", "web-1.a"}),
        ("Web-1.b", {"web-1", "WEB-1", "Web-1.b"}),
        ("web", set()),
        ("c", set()),
        ("../nodes", set()),
    ],
)
def test_what_is_read_besides_the_nodes_with_the_id(name: str, found: set[str]) -> None:
    server = FakeChefServer()
    for other in ("web-1", "WEB-1", "web-1.a", "Web-1.b", "web-10", "db.web-1", "a", "b.c"):
        server.put_node(other)
        server.put_client(other)
    snapshot = read(server, named(name=name))
    assert snapshot.nodes.keys() == snapshot.clients.keys() == found
    by_node = read(server, named(name=None, known_as={"chef": {"node": (name,)}}), settings=BY_ID)
    by_client = read(server, named(name=None, known_as={"chef": {"client": (name,)}}), settings=BY_ID)
    assert by_node == by_client == snapshot
    server.put_node(name, A)
    assert read(server, named(name=None)).nodes.keys() == found | {name}


def test_what_the_index_shows_is_not_read_one_by_one() -> None:
    server = world("web-1")
    server.put_node("web-1.example.com")
    read(server, named())
    assert server.calls == {"search nodes": 2, "read nodes": 1, "read clients": 1, "search clients": 1}


def test_node_deleted_during_the_read_counts_as_missing() -> None:
    server = FakeChefServer()
    server.lagging = True
    server.put_node("web-1")
    server.put_client("web-1")

    def fault(operation: str, name: str) -> None:
        if operation == "read nodes" and name:
            server.node_objects.clear()
        if operation == "read clients" and name:
            server.client_names.clear()

    server.fault = fault
    assert read(server, named()) == Snapshot()


def test_clients_are_read_one_by_one_if_the_search_does_not_show_all_that_are_privileged() -> None:
    server = world("web-1")
    server.put_client("boss", admin=True)
    server.unreadable = {"boss"}
    assert read(server, named()).clients == {"web-1": ChefClient("web-1")}
    assert server.calls["read clients"] == 2


def test_a_client_that_no_node_with_the_id_protects_is_read_itself() -> None:
    """The index may not know yet what it is."""
    server = world("web-1")
    server.lagging = True
    server.put_node("web-1", B)
    server.put_client("web-1", validator=True)
    assert read(server, named()).clients == {"web-1": ChefClient("web-1", validator=True)}


# What changes between the plan and the deletion


def test_a_node_that_became_another_s() -> None:
    server = world("web-1")
    run = Run(server, named())
    run.between = lambda: server.put_node("web-1", B)
    run.apply()
    assert run.planned() == BOTH
    assert run.removed() == []
    assert run.left()["node web-1"] == f"belongs to {B}"
    assert "node web-1 may own it, and belongs to" in run.left()["client web-1"]
    assert set(server.node_objects) == server.client_names == {"web-1"}


def test_case_9_a_replacement_appears_after_the_plan() -> None:
    server = world("web-1")
    run = Run(server, named())
    run.between = lambda: run.ec2.instances.append(named(B))
    run.apply()
    assert run.removed() == ["node web-1"]
    assert run.left() == {"client web-1": f"live instance {B} in {HERE} has this name"}
    assert server.client_names == {"web-1"}


def test_a_client_that_became_an_admin() -> None:
    server = world("web-1")
    run = Run(server, named())
    run.between = lambda: server.put_client("web-1", admin=True)
    assert run.apply().left() == {"client web-1": "it is an admin"}
    assert run.removed() == ["node web-1"]


def test_objects_that_are_already_gone_are_a_success() -> None:
    server = world("web-1", "web-2")
    run = Run(server, named(), named(B, "web-2"))

    def remove() -> None:
        server.delete_nodes(["web-1", "web-2"])
        server.delete_clients(["web-1"])

    run.between = remove
    run.apply()
    assert run.outcomes[A] == Outcome()
    assert run.removed(B) == ["client web-2"]
    assert run.outcomes[B].removed[0].proof == "chef.node_name gives this name"
    assert run.errors(B) == []


def test_a_deletion_that_finds_nothing_is_success() -> None:
    server = world("web-1")

    def gone(operation: str, name: str) -> None:
        if operation.startswith("delete"):
            server.node_objects.clear()
            server.client_names.clear()

    server.fault = gone
    assert Run(server, named()).apply().outcomes[A] == Outcome()


def test_new_objects_are_not_deleted() -> None:
    server = world("web-1")
    run = Run(server, named())
    run.between = lambda: server.put_node("web-2", A)
    run.apply()
    assert set(server.node_objects) == {"web-2"}


def test_a_place_that_cannot_be_asked_any_more() -> None:
    server = world("web-1")
    run = Run(server, named(ran=False))

    def refuse() -> None:
        raise AccessError("may not ec2:DescribeInstances")

    run.between = lambda: setattr(run.ec2, "on_ask", refuse)
    run.apply()
    assert run.removed() == []
    assert "cannot ask 111111111111/eu-west-1" in run.errors()[0]
    assert run.left() == {"node web-1": "is kept until client web-1 is removed, because only the node identifies it"}
    assert isinstance(run.outcomes[A].errors[0], AccessError)


def test_a_client_that_cannot_be_decided_on_any_more_stays() -> None:
    server = world("web-1")
    run = Run(server, named())

    def refuse() -> None:
        raise TransientError("no answer")

    run.between = lambda: setattr(run.ec2, "on_ask", refuse)
    run.apply()
    assert run.removed() == ["node web-1"]
    assert run.errors() == ["client web-1: cannot ask 111111111111/eu-west-1 who has it now: no answer"]
    assert server.client_names == {"web-1"}


def test_a_node_that_stays_for_a_client_that_cannot_be_read_is_tried_again() -> None:
    server = world("web-1")
    server.client_names.clear()
    server.put_client("boss", admin=True)
    server.unreadable = {"boss"}
    run = Run(server, named(ran=False))

    def refuse(operation: str, name: str) -> None:
        if operation == "read clients" and name:
            raise TransientError("no answer")

    def change() -> None:
        server.put_client("web-1")
        server.fault = refuse

    run.between = change
    run.apply()
    assert run.planned() == ["node web-1"]
    assert run.removed() == []
    assert set(run.left()) == {"node web-1"}
    assert run.errors() == ["client web-1: no answer"]


def test_a_server_that_cannot_be_read_again() -> None:
    server = world("web-1", "web-2")
    run = Run(server, named(), named(B, "web-2"))
    run.between = lambda: server.forbidden.add("search nodes")
    run.apply()
    for instance_id in (A, B):
        assert run.removed(instance_id) == []
        assert run.errors(instance_id) == ["Chef client may not search nodes"]
    assert len(server.node_objects) == 2


# Freshness


def slow(run: Run, seconds: float) -> list[float]:
    """Each deletion takes so long.

    Returns, filled while it runs, the age at each deletion of what it rests on: a client's of EC2's last answer, a
    node's, which is proven by id, of the last look at the nodes.
    """
    ages: list[float] = []
    looked_at = 0.0

    def fault(operation: str, name: str) -> None:
        nonlocal looked_at
        if operation == "search nodes":
            looked_at = run.clock()
        if operation.startswith("delete"):
            ages.append(run.clock() - (run.ec2.asked_at[-1] if operation == "delete clients" else looked_at))
            run.clock.seconds += seconds

    run.server.fault = fault
    return ages


@pytest.mark.parametrize(("seconds", "rounds"), [(0.1, 1), (1.0, 2), (9.0, 6)])
def test_no_deletion_uses_an_outdated_answer(seconds: float, rounds: int) -> None:
    server = world("web-1", "web-2", "web-3")
    run = Run(server, named(), named(B, "web-2"), named(C, "web-3"))
    ages = slow(run, seconds)
    run.apply()
    assert [run.removed(i) for i in (A, B, C)] == [[f"client web-{n}", f"node web-{n}"] for n in (1, 2, 3)]
    assert len(ages) == 6
    assert max(ages) < FRESH_SECONDS
    # Once nothing has a name to ask for, EC2 is not asked; the nodes are read again all the same.
    assert server.calls["search nodes"] == 1 + rounds


def test_a_replacement_that_appears_while_chef_is_slow() -> None:
    server = world("web-1", "web-2")
    run = Run(server, named(), named(B, "web-2"))
    slow(run, 9.0)
    run.ec2.on_ask = lambda: run.ec2.instances.append(named(C, "web-2")) if run.clock() else None
    run.apply()
    assert run.removed(A) == BOTH
    assert run.left(B) == {"client web-2": f"live instance {C} in {HERE} has this name"}
    assert server.client_names == {"web-2"}


def test_a_node_becomes_another_s_while_chef_is_slow() -> None:
    server = world("web-1")
    run = Run(server, named())
    slow(run, 9.0)
    run.ec2.on_ask = lambda: None
    delete_clients = server.delete_clients

    def and_then(*arguments: Any, **options: Any) -> Any:
        done = delete_clients(*arguments, **options)
        server.put_node("web-1", B)
        return done

    server.delete_clients = and_then  # type: ignore[method-assign]
    run.apply()
    assert run.removed() == ["client web-1"]
    assert run.left() == {"node web-1": f"belongs to {B}"}


def test_the_deadline_ends_the_rounds() -> None:
    server = world("web-1", "web-2", "web-3")
    run = Run(server, named(), named(B, "web-2"), named(C, "web-3"))
    run.seconds = 20.0
    slow(run, 9.0)
    run.apply()
    assert run.removed(A) == ["client web-1"]
    assert run.removed(B) == ["client web-2"]
    assert run.removed(C) == ["client web-3"]
    for instance_id in (A, B, C):
        assert "too few to begin a round of deletions" in run.errors(instance_id)[0]
    assert set(server.node_objects) == {"web-1", "web-2", "web-3"}


# Failures


@pytest.mark.parametrize(
    ("instance", "left"),
    [
        (named(), set()),
        (named(ran=False), {"node web-1"}),
        (named(name=None), set()),
        (named(name=None, ran=False), {"node web-1"}),
    ],
)
def test_a_client_that_cannot_be_deleted_keeps_its_node_if_only_the_node_leads_to_it(
    instance: Instance, left: set[str]
) -> None:
    server = world("web-1")
    server.forbidden = {"delete clients"}
    run = Run(server, instance).apply()
    assert run.errors() == ["client web-1: Chef client may not delete clients web-1"]
    assert set(run.left()) == left
    server.forbidden = set()
    retry = Run(server, run.instances[A]).apply()
    assert "client web-1" in retry.removed()
    assert not server.node_objects
    assert not server.client_names


def test_failure_affects_only_its_instance() -> None:
    server = world("web-1", "web-2")

    def fault(operation: str, name: str) -> None:
        if operation == "delete nodes" and name == "web-1":
            raise PermanentError("refused")

    server.fault = fault
    run = Run(server, named(), named(B, "web-2")).apply()
    assert run.removed(A) == ["client web-1"]
    assert run.errors(A) == ["node web-1: refused"]
    assert run.removed(B) == ["client web-2", "node web-2"]
    assert run.errors(B) == []


@pytest.mark.parametrize("right", ["search nodes", "read nodes", "read clients", "search clients"])
def test_missing_read_permission_is_not_an_empty_server(right: str) -> None:
    server = world("web-1")
    server.forbidden = {right}
    with pytest.raises(AccessError, match=right):
        Run(server, named()).apply()
    assert set(server.node_objects) == server.client_names == {"web-1"}


@pytest.mark.parametrize("kind", ["nodes", "clients"])
def test_missing_delete_permission(kind: str) -> None:
    server = world("web-1")
    server.forbidden = {f"delete {kind}"}
    run = Run(server, named()).apply()
    assert run.errors() == [f"{kind[:-1]} web-1: Chef client may not delete {kind} web-1"]
    assert isinstance(run.outcomes[A].errors[0], AccessError)


def test_a_key_that_is_not_accepted() -> None:
    server = world("web-1")
    server.key_accepted = False
    with pytest.raises(ConfigurationError, match="chef_client_key is wrong"):
        Run(server, named()).apply()


def test_hidden_node_is_not_an_empty_server() -> None:
    server = world("ip-10-0-0-5", "web-2")
    server.unreadable = {"ip-10-0-0-5"}
    server.put_client("web-1")
    run = Run(server, named(), named(B, "web-2")).apply()
    assert run.planned() == []
    assert "counts 1 more nodes than it shows" in str(run.findings[A].errors[0])
    assert run.removed(B) == ["client web-2", "node web-2"]


# The audit


def test_the_audit_gets_the_whole_node() -> None:
    server = world("web-1")
    server.put_client("web-1", public_key="KEY")
    run = Run(server, named(), audit=True).apply()
    client, node = run.findings[A].removals
    assert (client.kind, client.object) == (
        "chef_client",
        {"name": "web-1", "validator": False, "admin": False, "public_key": "KEY"},
    )
    assert node.kind == "chef_node"
    assert node.object
    assert node.object["automatic"]["ec2"]["instance_id"] == A
    assert run.kept == []
    assert run.removed() == BOTH


def test_audit_reads_only_the_nodes_to_remove() -> None:
    server = world("web-1.example.com", "web-1")
    server.client_names.discard("web-1.example.com")
    server.delete_nodes(["web-1"])
    asked: list[str] = []
    node_documents = server.node_documents

    def listen(names: Iterable[str]) -> Any:
        asked.extend(names := list(names))
        return node_documents(names)

    server.node_documents = listen  # type: ignore[method-assign]
    assert Run(server, named(), audit=True).apply().removed() == ["client web-1", "node web-1.example.com"]
    assert asked == ["web-1.example.com"] * 2


def test_objects_changed_since_the_plan_are_audited_again() -> None:
    server = world("web-1")
    run = Run(server, named(), audit=True)

    def change() -> None:
        server.tell("web-1", fqdn="web-1.example.com")
        server.put_client("web-1", public_key="NEW")

    run.between = change
    run.apply()
    assert [(removal.kind, dict(removal.object or {})["name"]) for removal in run.kept] == [
        ("chef_client", "web-1"),
        ("chef_node", "web-1"),
    ]
    assert run.kept[0].object
    assert run.kept[0].object["public_key"] == "NEW"
    assert run.removed() == BOTH


def test_objects_that_cannot_be_audited_stay() -> None:
    server = world("web-1")
    run = Run(server, named(), audit=True)
    run.between = lambda: server.tell("web-1", fqdn="web-1.example.com")

    def full(instance_id: str, removals: Sequence[Removal]) -> None:
        raise TransientError("the bucket is full")

    run.keep = full  # type: ignore[method-assign]
    run.apply()
    assert run.removed() == ["client web-1"]
    assert run.errors() == ["node web-1: the bucket is full"]
    assert set(server.node_objects) == {"web-1"}


def test_a_node_that_cannot_be_read_for_the_audit_stays() -> None:
    server = world("web-1")

    def fault(operation: str, name: str) -> None:
        if operation == "read nodes" and name:
            raise AccessError("may not read it")

    server.fault = fault
    run = Run(server, named(), audit=True).apply()
    assert run.planned() == ["client web-1"]
    assert [str(error) for error in run.findings[A].errors] == [
        "node web-1 could not be read for the audit: may not read it"
    ]
    assert set(server.node_objects) == {"web-1"}


def test_a_node_that_is_gone_when_the_audit_reads_it() -> None:
    server = world("web-1")
    run = Run(server, named(), audit=True)
    node_documents = server.node_documents

    def gone(names: Iterable[str]) -> Any:
        server.node_objects.clear()
        return node_documents(names)

    server.node_documents = gone  # type: ignore[method-assign]
    assert run.apply().planned() == ["client web-1"]
    assert run.findings[A].errors == ()


# Calls


def test_calls_for_one() -> None:
    server = world("web-1")
    Run(server, named()).apply()
    assert server.calls == {
        "search nodes": 2,
        "read nodes": 2,
        "read clients": 2,
        "search clients": 2,
        "delete clients": 1,
        "delete nodes": 1,
    }


def test_calls_for_an_unknown_instance() -> None:
    server = world("web-1")
    Run(server, named(B, None)).apply()
    assert server.calls == {"search nodes": 1}


@pytest.mark.parametrize(("count", "most"), [(100, 2.08), (1000, 2.06)])
def test_calls_for_many(count: int, most: float) -> None:
    server = FakeChefServer()
    instances = [named(f"i-{number:017x}", f"web-{number}") for number in range(count)]
    for instance in instances:
        server.put_node(instance.tags["Name"], instance.instance_id)
        server.put_client(instance.tags["Name"])
    run = Run(server, *instances).apply()
    assert all(len(outcome.removed) == 2 for outcome in run.outcomes.values())
    assert sum(server.calls.values()) <= most * count
    assert not server.node_objects


# A dry run


NAMES = ("web-1", "WEB-1", "web-1.example.com", "web-2")


@settings(max_examples=60)
@given(st.data())
def test_a_dry_run_lists_what_a_real_run_removes(data: st.DataObject) -> None:
    server = FakeChefServer()
    for name in NAMES:
        if (of := data.draw(st.sampled_from(["no node", None, A, B, C]))) != "no node":
            server.put_node(name, of, ipaddress=data.draw(st.sampled_from([None, ADDRESS, "10.0.0.6"])))
        if data.draw(st.booleans()):
            server.put_client(name, validator=data.draw(st.booleans()))
    dead = [named(i, data.draw(st.sampled_from(NAMES)), ran=data.draw(st.booleans())) for i in (A, B)]
    run = Run(server, *dead, settings=data.draw(st.sampled_from([BY_NAME, BY_ID])), audit=data.draw(st.booleans()))
    run.ec2.instances = [named(C, data.draw(st.sampled_from(NAMES)))]
    before: dict[str, ChefNode] = dict(server.node_objects)
    run.apply()
    for instance_id in (A, B):
        assert run.removed(instance_id) == run.planned(instance_id)
        assert run.left(instance_id) == {}
    gone = {removal.handle for o in run.outcomes.values() for removal in o.removed if removal.kind == "chef_node"}
    assert before.keys() - server.node_objects.keys() == gone
