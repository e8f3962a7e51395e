"""The Chef step on a real Chef server: the scenes that published functions get wrong, and the calls it takes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from ec2_decommission.clients.chef import PyChefServer
from ec2_decommission.config import ChefSettings
from ec2_decommission.deadline import Deadline
from ec2_decommission.errors import ConfigurationError, TransientError
from ec2_decommission.identity import Instance
from ec2_decommission.steps.base import Batch, Finding, Left, Outcome
from ec2_decommission.steps.chef import ChefStep
from ec2_decommission.templates import Template
from testbed.chef import ChefServer as Goiardi
from tests.fakes.living import FakeLiving

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

pytestmark = pytest.mark.servers

A, B = "i-0aaa", "i-0bbb"
BUILT_IN = {"chef-validator", "chef-webui"}


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


class Tool:
    """The step with its real client, which counts the requests."""

    def __init__(
        self, goiardi: Goiardi, name: str = "admin", key: bytes | None = None, url: str | None = None
    ) -> None:
        self.settings = ChefSettings(url or goiardi.url, name, node_name=Template("{tag:Name}"))
        self._server = PyChefServer(self.settings, (key or goiardi.admin_key).decode(), lambda: Deadline.after(30))
        self.calls = 0
        send = self._server._http.session.send

        def count(*arguments: Any, **options: Any) -> Any:
            self.calls += 1
            return send(*arguments, **options)

        self._server._http.session.send = count  # type: ignore[method-assign]

    def run(
        self, *instances: Instance, living: Sequence[Instance] = (), dry: bool = False, confirm_clients: bool = True
    ) -> tuple[Mapping[str, Finding], Mapping[str, Outcome]]:
        step = ChefStep(self.settings, self._server, confirm_clients=confirm_clients)
        batch = Batch({i.instance_id: i for i in instances}, FakeLiving(living), Deadline.after(30))
        facts = step.look(batch)
        learned = {k: i.learn(facts[k]) if k in facts else i for k, i in batch.instances.items()}
        batch = Batch(learned, batch.living, batch.deadline)
        findings = step.find(batch)
        return findings, {} if dry else step.remove(batch, findings)


def add(goiardi: Goiardi, name: str, instance_id: str | None = None, *, client: bool = True) -> None:
    goiardi.create_node(name, ec2={"instance_id": instance_id, "local_ipv4": "10.0.0.5"} if instance_id else None)
    if client:
        goiardi.create_client(name)


def named(instance_id: str, name: str) -> Instance:
    return Instance(instance_id, tags={"Name": name})


def removed(outcome: Outcome) -> list[str]:
    return [removal.target for removal in outcome.removed]


def test_node_and_client_go(goiardi: Goiardi) -> None:
    add(goiardi, "web-1", A)
    add(goiardi, "web-2", B)
    tool = Tool(goiardi)
    _, planned = tool.run(named(A, "web-1"), dry=True)
    assert planned == {}
    assert goiardi.nodes() == ["web-1", "web-2"]
    _, outcomes = tool.run(named(A, "web-1"))
    assert removed(outcomes[A]) == ["client web-1", "node web-1"]
    assert goiardi.nodes() == ["web-2"]
    assert set(goiardi.clients()) - BUILT_IN == {"web-2"}


def test_the_second_time_there_is_nothing_to_do(goiardi: Goiardi) -> None:
    add(goiardi, "web-1", A)
    tool = Tool(goiardi)
    tool.run(named(A, "web-1"))
    findings, outcomes = tool.run(named(A, "web-1"))
    assert findings[A] == Finding()
    assert outcomes[A] == Outcome()


def test_same_name_replacement(goiardi: Goiardi) -> None:
    add(goiardi, "web-1", B)
    findings, outcomes = Tool(goiardi).run(named(A, "web-1"), living=[named(B, "web-1")])
    assert findings[A] == Finding(left=(Left("node web-1", f"belongs to {B}"),))
    assert outcomes[A] == Outcome()
    assert goiardi.nodes() == ["web-1"]
    assert set(goiardi.clients()) - BUILT_IN == {"web-1"}


def test_node_gone_but_client_left(goiardi: Goiardi) -> None:
    goiardi.create_client("web-1")
    _, outcomes = Tool(goiardi).run(named(A, "web-1"))
    assert removed(outcomes[A]) == ["client web-1"]
    assert set(goiardi.clients()) == BUILT_IN


def test_two_nodes_with_one_id(goiardi: Goiardi) -> None:
    add(goiardi, "web-1", A)
    add(goiardi, "web-1.example.internal", A)
    _, outcomes = Tool(goiardi).run(Instance(A))
    assert sorted(removed(outcomes[A])) == [
        "client web-1",
        "client web-1.example.internal",
        "node web-1",
        "node web-1.example.internal",
    ]
    assert goiardi.nodes() == []


def test_node_without_ec2_data(goiardi: Goiardi) -> None:
    add(goiardi, "web-1")
    tool = Tool(goiardi)
    findings, _ = tool.run(named(A, "web-1"), living=[named(B, "web-1")])
    assert findings[A].removals == ()
    assert f"{B}, which lives" in findings[A].left[0].reason
    assert goiardi.nodes() == ["web-1"]
    _, outcomes = tool.run(named(A, "web-1"))
    assert removed(outcomes[A]) == ["client web-1", "node web-1"]
    assert goiardi.nodes() == []


def test_wrong_key(goiardi: Goiardi) -> None:
    add(goiardi, "web-1", A)
    other = goiardi.create_client("somebody")
    with pytest.raises(ConfigurationError, match="chef_client_key"):
        Tool(goiardi, key=other).run(named(A, "web-1"))
    with pytest.raises(ConfigurationError, match=r"chef_client_key or chef\.client_name is wrong"):
        Tool(goiardi, name="nobody").run(named(A, "web-1"))
    assert goiardi.nodes() == ["web-1"]


def test_no_right(goiardi: Goiardi) -> None:
    """A client that is no administrator may search, and not delete another's node."""
    add(goiardi, "web-1", A)
    tool = Tool(goiardi, "lowly", goiardi.create_client("lowly"))
    findings, outcomes = tool.run(named(A, "web-1"), confirm_clients=False)
    assert len(findings[A].removals) == 2
    assert outcomes[A].removed == ()
    assert any("client lowly may not DELETE /nodes/web-1" in str(error) for error in outcomes[A].errors)
    assert any("client lowly may not DELETE /clients/web-1" in str(error) for error in outcomes[A].errors)
    assert goiardi.nodes() == ["web-1"]


def test_server_down(goiardi: Goiardi) -> None:
    with Goiardi() as other:
        url, key = other.url, other.admin_key
    with pytest.raises(TransientError, match="no connection"):
        Tool(goiardi, key=key, url=url).run(named(A, "web-1"))


def test_calls_for_one(goiardi: Goiardi) -> None:
    add(goiardi, "web-1", A)
    tool = Tool(goiardi)
    _, outcomes = tool.run(named(A, "web-1"), confirm_clients=False)
    assert len(outcomes[A].removed) == 2
    assert tool.calls == 3


def test_calls_for_a_hundred(goiardi: Goiardi) -> None:
    instances = [named(f"i-{number:017x}", f"web-{number}") for number in range(100)]
    goiardi.create_client("web-0")
    own = goiardi.client("web-0") or {}
    for instance in instances:
        name = instance.tags["Name"]
        add(goiardi, name, instance.instance_id, client=False)
        if name != "web-0":  # with a key at hand the server need not make one, which takes it 0.2 s
            goiardi.api.request("POST", "/clients", json={"name": name, "public_key": own["public_key"]})
    tool = Tool(goiardi)
    _, outcomes = tool.run(*instances)
    assert all(len(outcome.removed) == 2 for outcome in outcomes.values())
    assert tool.calls == 1 + 1 + 300  # of each client it is read what it may
    assert goiardi.nodes() == []
    assert set(goiardi.clients()) == BUILT_IN
