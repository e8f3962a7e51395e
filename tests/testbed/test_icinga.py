"""What the testbed says of Icinga 2, on the real one."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from testbed.icinga import Icinga, IcingaApiError
from testbed.processes import wait_until

pytestmark = pytest.mark.servers

HOSTS = "/v1/objects/hosts"


@pytest.fixture(scope="module")
def icinga() -> Iterator[Icinga]:
    with Icinga({"blind": ["status/query"], "reader": ["objects/query/Host"]}) as running:
        running.create_host("web-1", instance_id="i-1")
        yield running


def found(icinga: Icinga, user: str, expression: str) -> str:
    body = {"filter": expression, "attrs": ["name"]}
    try:
        return str([host["name"] for host in icinga.api("GET", HOSTS, body, user=user)["results"]])
    except IcingaApiError as error:
        return str(error).partition(": ")[2]


@pytest.mark.parametrize(
    ("user", "expression", "answer"),
    [
        ("reader", 'host.vars.instance_id == "i-1"', "['web-1']"),
        ("reader", 'host.vars.instance_id == "i-2"', "[]"),
        (
            "reader",
            "host.vars.instance_id ==",
            'GET /v1/objects/hosts: 404 {"error":404,"status":"No objects found."}',
        ),
        (
            "blind",
            'host.vars.instance_id == "i-1"',
            'GET /v1/objects/hosts: 404 {"error":404,"status":"No objects found."}',
        ),
    ],
)
def test_a_missing_permission_looks_like_no_objects(icinga: Icinga, user: str, expression: str, answer: str) -> None:
    assert found(icinga, user, expression) == answer


def test_a_deletion_without_permission_looks_like_no_objects(icinga: Icinga) -> None:
    with pytest.raises(IcingaApiError, match=r'404 .*"No objects found\."'):
        icinga.api("DELETE", f"{HOSTS}/web-1", {"cascade": True}, user="reader")
    assert icinga.hosts() == ["web-1"]


def test_a_deletion_whose_filter_matches_nothing_is_no_error(icinga: Icinga) -> None:
    assert icinga.api("DELETE", HOSTS, {"filter": 'host.name == "web-9"'}) == {"results": []}


def test_all_its_processes_end_with_it() -> None:
    with Icinga() as running:
        assert running.server is not None
        group = running.server.pid
        os.killpg(group, 0)
    wait_until(lambda: not exists(group), timeout=5, what="the end of Icinga's processes")


def exists(group: int) -> bool:
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return False
    return True
