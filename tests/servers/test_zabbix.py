"""The Zabbix recipe of examples/http-steps, with Zabbix's real API."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from ec2_decommission.instance import Instance
from testbed.zabbix import Zabbix
from tests.fakes.http_step import ALIVE, DEAD, Deployment
from tests.fakes.recipes import of_example

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ec2_decommission.report import StepReport

pytestmark = pytest.mark.servers

WEB = Instance(DEAD)


@pytest.fixture(scope="module")
def running() -> Iterator[Zabbix]:
    with Zabbix() as zabbix:
        yield zabbix


@pytest.fixture(scope="module")
def token(running: Zabbix) -> str:
    return running.create_token()


@pytest.fixture
def zabbix(running: Zabbix) -> Iterator[Zabbix]:
    yield running
    for hostid in running.hosts():
        running.delete_host(hostid)


def deployment(zabbix: Zabbix, token: str) -> Deployment:
    step = of_example("zabbix", zabbix_url=zabbix.url, zabbix_before_6_4="true")
    return Deployment({**step, "request_timeout_seconds": 20}, {"token": token}, name="zabbix")


def outcome(report: StepReport) -> tuple[str, list[str]]:
    return report.status, [f"{action['action']} {action['target']}" for action in report.actions]


def test_only_the_matching_host_is_removed(zabbix: Zabbix, token: str) -> None:
    mine = zabbix.create_host("web-1", DEAD)
    others = [
        zabbix.create_host("web-10", ALIVE),
        zabbix.create_host("web-1.example.internal", f"{DEAD}0"),
        zabbix.create_host("web-2"),
    ]
    tool = deployment(zabbix, token)
    assert outcome(tool.one(WEB, dry_run=True)) == ("done", [f"remove item {mine}"])
    assert len(zabbix.hosts()) == 4
    report = tool.one(WEB)
    assert report.actions == (
        {
            "action": "remove",
            "target": f"item {mine}",
            "proof": f"its tags[?tag=='aws.instance_id'].value | [0] is {DEAD}",
        },
    )
    assert report.reason is None
    assert sorted(zabbix.hosts()) == sorted(others)
    [removal] = tool.audit.kept
    assert removal.object is not None
    assert removal.object["host"] == "web-1"


def test_the_second_event_changes_nothing(zabbix: Zabbix, token: str) -> None:
    zabbix.create_host("web-1", DEAD)
    tool = deployment(zabbix, token)
    tool.one(WEB)
    assert outcome(tool.one(WEB)) == ("clean", [])


def test_a_replacement_of_the_same_name_stays(zabbix: Zabbix, token: str) -> None:
    zabbix.create_host("web-1", ALIVE)
    assert outcome(deployment(zabbix, token).one(WEB)) == ("clean", [])
    assert list(zabbix.hosts().values()) == ["web-1"]


def test_a_host_that_a_replacement_takes_over_after_the_plan_stays(zabbix: Zabbix, token: str) -> None:
    hostid = zabbix.create_host("web-1", DEAD)
    tool = deployment(zabbix, token)

    def take_over() -> None:  # the audit is written between the plan and the change
        tags = [{"tag": "aws.instance_id", "value": ALIVE}]
        zabbix.call("host.update", {"hostid": hostid, "tags": tags})

    tool.audit.fault = take_over
    assert outcome(tool.one(WEB)) == ("clean", [])
    assert list(zabbix.hosts()) == [hostid]


def test_a_search_that_is_too_wide_removes_no_more(zabbix: Zabbix, token: str) -> None:
    mine, other = zabbix.create_host("web-1", DEAD), zabbix.create_host("web-10", f"{DEAD}0")
    step = of_example("zabbix", zabbix_url=zabbix.url, zabbix_before_6_4="true")
    find = {**step["find"], "body": step["find"]["body"].replace('"operator":1', '"operator":0')}
    report = Deployment({**step, "find": find}, {"token": token}).one(WEB)
    assert outcome(report) == ("done", [f"remove item {mine}"])
    assert f"item {other} left: its tags[?tag=='aws.instance_id'].value | [0] is not {DEAD}, but {DEAD}0" in str(
        report.reason
    )
    assert list(zabbix.hosts()) == [other]


def test_a_protected_host_stays(zabbix: Zabbix, token: str) -> None:
    hostid = zabbix.create_host("web-1", DEAD)
    tags = [{"tag": "aws.instance_id", "value": DEAD}, {"tag": "keep", "value": ""}]
    zabbix.call("host.update", {"hostid": hostid, "tags": tags})
    report = deployment(zabbix, token).one(WEB)
    assert outcome(report) == ("skipped", [])
    assert report.reason == f"item {hostid} left: keep: tags[?tag=='keep'] is true"


def test_a_server_that_is_down_is_retried(zabbix: Zabbix, token: str) -> None:
    assert zabbix.server is not None
    hostid = zabbix.create_host("web-1", DEAD)
    tool = deployment(zabbix, token)
    zabbix.server.stop()
    try:
        report = tool.one(WEB)
    finally:
        zabbix.server.start()
    assert (report.status, report.error_kind) == ("failed", "transient")
    assert outcome(tool.one(WEB)) == ("done", [f"remove item {hostid}"])


@pytest.mark.parametrize("wrong", ["f" * 64, "f" * 32, "nonsense"])
def test_a_wrong_token_is_a_missing_permission(zabbix: Zabbix, wrong: str) -> None:
    zabbix.create_host("web-1", DEAD)
    report = deployment(zabbix, wrong).one(WEB)
    assert (report.status, report.error_kind) == ("failed", "permission")
    assert "answers find with an error: " in str(report.reason)
    assert wrong not in str(report.reason)
    assert len(zabbix.hosts()) == 1


def test_a_user_who_may_only_read_is_a_missing_permission(zabbix: Zabbix) -> None:
    zabbix.create_host("web-1", DEAD)
    report = deployment(zabbix, zabbix.create_token("read")).one(WEB)
    assert (report.status, report.error_kind, report.actions) == ("failed", "permission", ())
    assert "No permissions to referred object or it does not exist!" in str(report.reason)
    assert len(zabbix.hosts()) == 1
