"""What the testbed says of Zabbix's API, on the real one."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from testbed.zabbix import Zabbix, ZabbixApiError

pytestmark = pytest.mark.servers


@pytest.fixture(scope="module")
def zabbix() -> Iterator[Zabbix]:
    with Zabbix() as running:
        running.create_host("web-1", "i-1")
        running.create_host("web-10", "i-10")
        yield running


def search(operator: int) -> dict[str, Any]:
    return {"output": ["host"], "tags": [{"tag": "aws.instance_id", "value": "i-1", "operator": operator}]}


@pytest.mark.parametrize(("operator", "hosts"), [(1, ["web-1"]), (0, ["web-1", "web-10"])])
def test_a_search_by_tag_is_exact_if_it_is_asked_for(zabbix: Zabbix, operator: int, hosts: list[str]) -> None:
    assert sorted(host["host"] for host in zabbix.call("host.get", search(operator))) == hosts


@pytest.mark.parametrize(
    ("token", "reason"), [("f" * 64, "Not authori[sz]ed"), ("f" * 32, "Session terminated, re-login, please")]
)
def test_a_wrong_token_is_an_error_with_status_200(zabbix: Zabbix, token: str, reason: str) -> None:
    with pytest.raises(ZabbixApiError, match=reason):
        zabbix.call("host.get", search(1), token=token)


@pytest.mark.parametrize("rights", ["read", "write"])
def test_denied_and_missing_hosts_look_the_same(zabbix: Zabbix, rights: str) -> None:
    hostid = zabbix.create_host(f"for-{rights}", "i-2") if rights == "read" else "99999999"
    with pytest.raises(ZabbixApiError, match="No permissions to referred object or it does not exist!"):
        zabbix.call("host.delete", [hostid], token=zabbix.create_token(rights))
