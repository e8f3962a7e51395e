"""The Icinga recipe of examples/http-steps, with a real Icinga 2."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from ec2_decommission.clients.tls import trusting
from ec2_decommission.deadline import Deadline
from ec2_decommission.errors import TransientError
from ec2_decommission.instance import Instance
from ec2_decommission.steps.http.client import Client
from testbed.icinga import Icinga
from tests.fakes.http_step import ALIVE, DEAD, Deployment, read
from tests.fakes.recipes import of_example

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ec2_decommission.report import StepReport

pytestmark = pytest.mark.servers

USERS = {
    "cleaner": ["objects/query/Host", "objects/delete/Host"],
    "reader": ["objects/query/Host"],
    "blind": ["status/query"],
}
WEB, OTHER = Instance(DEAD), Instance(ALIVE)


@pytest.fixture(scope="module")
def running() -> Iterator[Icinga]:
    with Icinga(USERS) as icinga:
        yield icinga


@pytest.fixture
def icinga(running: Icinga) -> Iterator[Icinga]:
    yield running
    for name in running.hosts():
        running.delete_host(name)


def deployment(icinga: Icinga, user: str = "cleaner", password: str | None = None) -> Deployment:
    secrets = {"username": user, "password": password or icinga.passwords[user]}
    step = {**of_example("icinga", icinga_url=icinga.url), "request_timeout_seconds": 5}
    return Deployment(step, secrets, tls=trusting(icinga.ca), name="icinga")


def outcome(report: StepReport) -> tuple[str, list[str]]:
    return report.status, [f"{action['action']} {action['target']}" for action in report.actions]


def test_only_the_matching_host_is_removed(icinga: Icinga) -> None:
    icinga.create_host("web-1", instance_id=DEAD)
    icinga.create_host("web-10", instance_id=ALIVE)
    icinga.create_host("web-1.example.internal", instance_id=f"{DEAD}0")
    icinga.create_host("web-2")
    tool = deployment(icinga)
    assert outcome(tool.one(WEB, dry_run=True)) == ("done", ["remove item web-1"])
    assert len(icinga.hosts()) == 4
    report = tool.one(WEB)
    assert report.actions == (
        {"action": "remove", "target": "item web-1", "proof": f"its attrs.vars.instance_id is {DEAD}"},
    )
    assert report.reason is None
    assert icinga.hosts() == ["web-1.example.internal", "web-10", "web-2"]
    assert [removal.object["name"] for removal in tool.audit.kept if removal.object] == ["web-1"]


def test_the_second_event_changes_nothing(icinga: Icinga) -> None:
    icinga.create_host("web-1", instance_id=DEAD)
    tool = deployment(icinga)
    tool.one(WEB)
    assert outcome(tool.one(WEB)) == ("clean", [])


def test_all_hosts_of_an_instance_are_removed_under_any_name(icinga: Icinga) -> None:
    icinga.create_host("web-1", instance_id=ALIVE)
    for name in ("a b&c;d=é", 'x" || true || "', "{id}", "{secret:password}", "../web-1"):
        icinga.create_host(name, instance_id=DEAD)
    assert len(deployment(icinga).one(WEB).actions) == 5
    assert icinga.hosts() == ["web-1"]


def test_several_instances_at_once(icinga: Icinga) -> None:
    ids = [f"i-{number:017x}" for number in range(8)]
    for instance_id in ids:
        icinga.create_host(f"host-{instance_id}", instance_id=instance_id)
    reports = deployment(icinga).run(*map(Instance, ids[1:]))
    assert {report.status for report in reports.values()} == {"done"}
    assert icinga.hosts() == [f"host-{ids[0]}"]


def test_a_replacement_of_the_same_name_stays(icinga: Icinga) -> None:
    icinga.create_host("web-1", instance_id=ALIVE)
    assert outcome(deployment(icinga).one(WEB)) == ("clean", [])
    assert icinga.hosts() == ["web-1"]


def test_a_replacement_that_appears_after_the_plan_stays(icinga: Icinga) -> None:
    icinga.create_host("web-1", instance_id=DEAD)
    tool = deployment(icinga)
    tool.audit.fault = lambda: replace(icinga)  # the audit is written between the plan and the change
    assert outcome(tool.one(WEB)) == ("clean", [])
    assert icinga.hosts() == ["web-1"]


def replace(icinga: Icinga) -> None:
    icinga.delete_host("web-1")
    icinga.create_host("web-1", instance_id=ALIVE)


def test_a_replacement_that_appears_after_the_last_find_stays(icinga: Icinga) -> None:
    icinga.create_host("web-1", instance_id=ALIVE)
    settings = read(of_example("icinga", icinga_url=icinga.url))
    secrets = {"username": "cleaner", "password": icinga.passwords["cleaner"]}
    client = Client(settings, secrets, lambda: Deadline.after(20), trusting(icinga.ca))
    request = client.render(settings.remove.request, WEB, {"name": "web-1"}, "web-1")
    with pytest.raises(TransientError, match="answers remove with an error: no such host any more"):
        client.ask(request, "remove", settings.remove.error, see=settings.remove.gone)
    assert icinga.hosts() == ["web-1"]


def test_a_server_that_is_down_is_retried(icinga: Icinga) -> None:
    assert icinga.server is not None
    icinga.create_host("web-1", instance_id=DEAD)
    tool = deployment(icinga)
    icinga.server.stop()
    try:
        report = tool.one(WEB)
    finally:
        icinga.server.start()
    assert (report.status, report.error_kind) == ("failed", "transient")
    assert "no connection for find" in str(report.reason)
    assert outcome(tool.one(WEB)) == ("done", ["remove item web-1"])


def test_a_wrong_password_is_a_missing_permission(icinga: Icinga) -> None:
    icinga.create_host("web-1", instance_id=DEAD)
    report = deployment(icinga, password="wrong-password").one(WEB)
    assert (report.status, report.error_kind) == ("failed", "permission")
    assert "refuses the credentials for find (401)" in str(report.reason)
    assert "wrong-password" not in str(report.reason)
    assert icinga.hosts() == ["web-1"]


def test_denied_query_is_a_missing_permission_and_not_an_empty_list(icinga: Icinga) -> None:
    icinga.create_host("web-1", instance_id=DEAD)
    report = deployment(icinga, "blind").one(WEB)
    assert (report.status, report.error_kind) == ("failed", "permission")
    assert "answers find with 404, which does not prove that nothing is there" in str(report.reason)


def test_denied_deletion_is_a_missing_permission_and_not_a_success(icinga: Icinga) -> None:
    icinga.create_host("web-1", instance_id=DEAD)
    report = deployment(icinga, "reader").one(WEB)
    assert (report.status, report.error_kind, report.actions) == ("failed", "permission", ())
    assert "answers remove with 404, but the find right after it still shows the item" in str(report.reason)
    assert icinga.hosts() == ["web-1"]


def test_unknown_certificate_authority_is_not_trusted(icinga: Icinga) -> None:
    secrets = {"username": "cleaner", "password": icinga.passwords["cleaner"]}
    report = Deployment(of_example("icinga", icinga_url=icinga.url), secrets, tls=trusting()).one(WEB)
    assert (report.status, report.error_kind) == ("failed", "configuration")
    assert "package.ca_bundle_file adds authorities" in str(report.reason)
