"""The Chef step on a real Chef server: cases that published functions handle wrong, and the number of calls."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from ec2_decommission.clients.chef import PyChefServer
from ec2_decommission.clients.ec2 import Description
from ec2_decommission.config import ChefSettings
from ec2_decommission.deadline import Deadline
from ec2_decommission.errors import AccessError, ConfigurationError, TransientError
from ec2_decommission.instance import Facts, Instance
from ec2_decommission.live import Live
from ec2_decommission.place import Place
from ec2_decommission.steps.base import Batch, Finding, Outcome, Removal
from ec2_decommission.steps.chef import ChefStep
from ec2_decommission.templates import Template
from testbed.chef import ChefServer as Goiardi

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

pytestmark = pytest.mark.servers

A, B = "i-0aaaaaaaaaaaaaaaa", "i-0bbbbbbbbbbbbbbbb"
HERE = Place("111111111111", "eu-west-1")
ADDRESS = "10.0.0.5"
BUILT_IN = {"chef-validator", "chef-webui"}
FQDN = "web-1.example.com"


@pytest.fixture(scope="module")
def running() -> Iterator[Goiardi]:
    with Goiardi() as server:
        yield server


@pytest.fixture
def goiardi(running: Goiardi) -> Iterator[Goiardi]:
    yield running
    for name in running.nodes():
        running.delete_node(name)
    for name in set(running.clients()) - BUILT_IN:
        running.delete_client(name)


class Ec2:
    """The live instances in one place."""

    def __init__(self, living: Iterable[Instance]) -> None:
        self.instances = list(living)

    def living(self, filters: Mapping[str, Iterable[str]]) -> Iterator[Description]:
        for instance in self.instances:
            facts = Facts("ec2", HERE.account_id, HERE.region, tags=instance.tags)
            yield Description(instance.instance_id, "running", facts)

    def _unexpected(self, values: Iterable[str]) -> Any:
        if list(values):
            raise AssertionError("only names are asked for")
        return {}

    describe = ask_by_id = interfaces = elastic_ips = _unexpected


class Tool:
    """The step with its real client, which counts the requests."""

    def __init__(
        self,
        goiardi: Goiardi,
        name: str = "admin",
        key: bytes | None = None,
        url: str | None = None,
        node_name: str | None = "{tag:Name}",
    ) -> None:
        template = Template(node_name) if node_name else None
        self.settings = ChefSettings(url or goiardi.url, name, node_name=template, request_timeout_seconds=20)
        self._server = PyChefServer(self.settings, (key or goiardi.admin_key).decode(), lambda: Deadline.after(60))
        self.calls = 0
        send = self._server._http.send

        def count(*arguments: Any, **options: Any) -> Any:
            self.calls += 1
            return send(*arguments, **options)

        self._server._http.send = count  # type: ignore[method-assign]
        self.kept: list[Removal] = []

    def run(
        self,
        *instances: Instance,
        living: Sequence[Instance] = (),
        dry: bool = False,
        audit: bool = False,
        between: Callable[[], Any] = lambda: None,
    ) -> tuple[Mapping[str, Finding], Mapping[str, Outcome]]:
        step = ChefStep(self.settings, self._server, audit=audit)
        live = Live({HERE: Ec2(living)})

        def batch(some: Iterable[Instance]) -> Batch:
            return Batch({i.instance_id: i for i in some}, live, Deadline.after(60), keep=self._keep)

        facts = step.identify(batch(instances))
        learned = [i.learn(facts[i.instance_id]) if i.instance_id in facts else i for i in instances]
        findings = step.plan(batch(learned))
        between()
        return findings, {} if dry else step.apply(batch(learned), findings)

    def _keep(self, instance_id: str, removals: Sequence[Removal]) -> None:
        self.kept += removals


def add(goiardi: Goiardi, name: str, instance_id: str | None = None, *, client: bool = True, **ohai: Any) -> None:
    goiardi.create_node(
        name, ec2={"instance_id": instance_id, "local_ipv4": ADDRESS} if instance_id else None, automatic=ohai
    )
    if client:
        goiardi.create_client(name)


def named(instance_id: str = A, name: str = "web-1", *, ran: bool = True) -> Instance:
    return Instance(
        instance_id,
        account_id=HERE.account_id,
        region=HERE.region,
        tags={"Name": name},
        private_ips=(ADDRESS,) if ran else (),
        ran=ran,
    )


def removed(outcome: Outcome) -> list[str]:
    return [removal.target for removal in outcome.removed]


def left(found: Finding | Outcome) -> dict[str, str]:
    return {thing.target: thing.reason for thing in found.left}


def clients(goiardi: Goiardi) -> set[str]:
    return set(goiardi.clients()) - BUILT_IN


def test_node_and_client_are_removed(goiardi: Goiardi) -> None:
    add(goiardi, "web-1", A)
    add(goiardi, "web-2", B)
    tool = Tool(goiardi)
    findings, _ = tool.run(named(), dry=True)
    assert [removal.target for removal in findings[A].removals] == ["client web-1", "node web-1"]
    assert goiardi.nodes() == ["web-1", "web-2"]
    _, outcomes = tool.run(named())
    assert removed(outcomes[A]) == ["client web-1", "node web-1"]
    assert goiardi.nodes() == ["web-2"]
    assert clients(goiardi) == {"web-2"}


def test_second_run_finds_nothing(goiardi: Goiardi) -> None:
    add(goiardi, "web-1", A)
    tool = Tool(goiardi)
    tool.run(named())
    findings, outcomes = tool.run(named())
    assert findings[A] == Finding()
    assert outcomes[A] == Outcome()


def test_same_name_replacement(goiardi: Goiardi) -> None:
    add(goiardi, "web-1", B)
    findings, outcomes = Tool(goiardi).run(named(), living=[named(B)])
    assert left(findings[A])["node web-1"] == f"belongs to {B}"
    assert outcomes[A] == Outcome()
    assert goiardi.nodes() == ["web-1"]
    assert clients(goiardi) == {"web-1"}


def test_node_gone_but_client_left(goiardi: Goiardi) -> None:
    goiardi.create_client("web-1")
    _, outcomes = Tool(goiardi).run(named())
    assert removed(outcomes[A]) == ["client web-1"]
    assert set(goiardi.clients()) == BUILT_IN


@pytest.mark.parametrize(
    "ohai", [{}, {"ipaddress": ADDRESS, "ohai_time": 1.7e9}], ids=["never converged", "with a recorded address"]
)
def test_node_without_ec2_data(goiardi: Goiardi, ohai: dict[str, Any]) -> None:
    add(goiardi, "web-1", **ohai)
    tool = Tool(goiardi)
    findings, _ = tool.run(named(), living=[named(B)])
    assert findings[A].removals == ()
    assert left(findings[A])["node web-1"] == f"live instance {B} in {HERE} has this name"
    assert goiardi.nodes() == ["web-1"]
    _, outcomes = tool.run(named())
    assert removed(outcomes[A]) == ["client web-1", "node web-1"]
    assert goiardi.nodes() == []


def test_case_2_a_launch_that_failed(goiardi: Goiardi) -> None:
    add(goiardi, "www", ipaddress="192.168.77.10", ohai_time=1.7e9)
    findings, _ = Tool(goiardi).run(named(name="www", ran=False))
    assert findings[A].removals == ()
    assert left(findings[A])["node www"] == f"{A} was never recorded as running"
    assert clients(goiardi) == {"www"}


def test_case_4_another_region(goiardi: Goiardi) -> None:
    ec2 = {"instance_id": A, "placement_availability_zone": "us-west-2a"}
    goiardi.create_node("web-1", ec2=ec2, automatic={"ohai_time": 1.7e9})
    goiardi.create_client("web-1")
    findings, _ = Tool(goiardi).run(named(ran=False))
    assert findings[A].removals == ()
    assert "it is in region us-west-2" in left(findings[A])["node web-1"]


def test_case_8_a_validator(goiardi: Goiardi) -> None:
    goiardi.api.request("POST", "/clients", json={"name": "acme-bootstrap", "validator": True})
    goiardi.create_client("boss", admin=True)
    tool = Tool(goiardi)
    for name, reason in (("acme-bootstrap", "it is a validator"), ("boss", "it is an admin")):
        findings, _ = tool.run(named(name=name))
        assert findings[A].removals == ()
        assert left(findings[A]) == {f"client {name}": reason}
    assert clients(goiardi) == {"acme-bootstrap", "boss"}


def test_case_9_a_replacement_appears_before_the_change(goiardi: Goiardi) -> None:
    """It saves its node under the same name after the plan."""
    add(goiardi, "web-1", A)

    def replace() -> None:
        goiardi.delete_node("web-1")
        add(goiardi, "web-1", B, client=False)

    findings, outcomes = Tool(goiardi).run(named(), between=replace)
    assert len(findings[A].removals) == 2
    assert outcomes[A].removed == ()
    assert left(outcomes[A])["node web-1"] == f"belongs to {B}"
    assert goiardi.nodes() == ["web-1"]
    assert clients(goiardi) == {"web-1"}


@pytest.mark.parametrize("node_name", ["{tag:Name}", None])
def test_case_11_a_second_node_named_after_a_victim_s_client(goiardi: Goiardi, node_name: str | None) -> None:
    """The attacker is a client with no permission but to create nodes."""
    key = goiardi.create_client("attacker")
    goiardi.create_client("victim")
    add(goiardi, "victim.example.com", B, client=False)
    attacker = goiardi.api_as("attacker", key)
    for name in ("attacker", "victim"):
        node: dict[str, Any] = {"name": name, "chef_type": "node", "json_class": "Chef::Node", "run_list": []}
        levels: dict[str, Any] = {"normal": {}, "default": {}, "override": {}}
        automatic = {"ec2": {"instance_id": A}}
        attacker.request("POST", "/nodes", json={**node, **levels, "automatic": automatic})
    tool = Tool(goiardi, node_name=node_name)
    tool.run(named(name="attacker"))
    assert goiardi.nodes() == ["victim.example.com"]
    assert clients(goiardi) == ({"victim"} if node_name else {"attacker", "victim"})
    tool.run(named(name="attacker"))
    assert "victim" in clients(goiardi)


@pytest.mark.parametrize(
    ("tag", "node", "client"),
    [("WEB-1", "web-1", "web-1"), ("web-1", "WEB-1", "WEB-1"), ("WEB-1", FQDN, "web-1"), ("web-1", FQDN, FQDN)],
)
def test_case_21_letter_case_and_fqdn(goiardi: Goiardi, tag: str, node: str, client: str) -> None:
    add(goiardi, node, A, client=False)
    goiardi.create_client(client)
    _, outcomes = Tool(goiardi).run(named(name=tag))
    assert removed(outcomes[A]) == [f"client {client}", f"node {node}"]
    assert goiardi.nodes() == []
    assert clients(goiardi) == set()


def test_case_21_a_client_that_could_not_be_found(goiardi: Goiardi) -> None:
    add(goiardi, "web-1", A, client=False)
    findings, outcomes = Tool(goiardi).run(named())
    assert removed(outcomes[A]) == ["node web-1"]
    assert findings[A].notes == ("no client of node web-1 was found",)


def test_two_nodes_with_one_id(goiardi: Goiardi) -> None:
    """Only the client with the name from node_name certainly belongs to the instance."""
    add(goiardi, "web-1", A)
    add(goiardi, FQDN, A)
    findings, outcomes = Tool(goiardi).run(named())
    assert removed(outcomes[A]) == ["client web-1", "node web-1", f"node {FQDN}"]
    assert "all carry" in left(findings[A])[f"client {FQDN}"]
    assert goiardi.nodes() == []


def test_a_name_with_the_id_in_it(goiardi: Goiardi) -> None:
    add(goiardi, f"node-{A}")
    _, outcomes = Tool(goiardi, node_name="node-{instance_id}").run(named(ran=False))
    assert removed(outcomes[A]) == [f"client node-{A}", f"node node-{A}"]


def test_audit_contains_the_data_for_a_restore(goiardi: Goiardi) -> None:
    add(goiardi, "web-1", A, fqdn=FQDN)
    node, client = goiardi.node("web-1"), goiardi.client("web-1") or {}
    findings, _ = Tool(goiardi).run(named(), audit=True)
    objects = {removal.kind: removal.object for removal in findings[A].removals}
    assert objects["chef_node"] == node
    assert (objects["chef_client"] or {})["public_key"] == client["public_key"]
    goiardi.api.request("POST", "/nodes", json=dict(objects["chef_node"] or {}))
    assert goiardi.node("web-1") == node


def test_wrong_key(goiardi: Goiardi) -> None:
    add(goiardi, "web-1", A)
    other = goiardi.create_client("somebody")
    with pytest.raises(ConfigurationError, match="chef_client_key"):
        Tool(goiardi, key=other).run(named())
    with pytest.raises(ConfigurationError, match=r"chef_client_key or chef\.client_name is wrong"):
        Tool(goiardi, name="nobody").run(named())
    assert goiardi.nodes() == ["web-1"]


def test_missing_permission(goiardi: Goiardi) -> None:
    """A client that is not an administrator can search, but cannot delete other nodes."""
    add(goiardi, "web-1", A)
    _, outcomes = Tool(goiardi, "lowly", goiardi.create_client("lowly")).run(named())
    assert outcomes[A].removed == ()
    errors = [str(error) for error in outcomes[A].errors]
    assert any("client lowly may not DELETE /nodes/web-1" in error for error in errors)
    assert any("client lowly may not DELETE /clients/web-1" in error for error in errors)
    assert all(isinstance(error, AccessError) for error in outcomes[A].errors)
    assert goiardi.nodes() == ["web-1"]


def test_server_down(goiardi: Goiardi) -> None:
    with Goiardi() as other:
        url, key = other.url, other.admin_key
    with pytest.raises(TransientError, match="no connection"):
        Tool(goiardi, key=key, url=url).run(named())


def test_calls_for_one(goiardi: Goiardi) -> None:
    """By id, the names of nodes and clients, the client; all of it once more before the change; two deletions."""
    add(goiardi, "web-1", A)
    tool = Tool(goiardi)
    _, outcomes = tool.run(named())
    assert len(outcomes[A].removed) == 2
    assert tool.calls == 4 + 4 + 2


def test_calls_for_a_hundred(goiardi: Goiardi) -> None:
    instances = [named(f"i-{number:017x}", f"web-{number}") for number in range(100)]
    goiardi.create_client("web-0")
    own = goiardi.client("web-0") or {}
    for instance in instances:
        name = instance.tags["Name"]
        add(goiardi, name, instance.instance_id, client=False)
        if name != "web-0":  # a given key saves the server 0.2 s for creating one
            goiardi.api.request("POST", "/clients", json={"name": name, "public_key": own["public_key"]})
    tool = Tool(goiardi)
    _, outcomes = tool.run(*instances)
    assert all(len(outcome.removed) == 2 for outcome in outcomes.values())
    assert tool.calls == 4 + 4 + 200
    assert goiardi.nodes() == []
    assert set(goiardi.clients()) == BUILT_IN
