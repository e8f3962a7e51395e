"""The Consul client's own rules; how it and Consul behave together is in tests/conformance and tests/servers."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest
import requests

from ec2_decommission.clients.consul import PyConsulCatalog, Right
from ec2_decommission.config import ConsulSettings
from ec2_decommission.deadline import Deadline
from ec2_decommission.errors import AccessError, ConfigurationError, TransientError

if TYPE_CHECKING:
    from collections.abc import Callable

READ = Right("node", "read")


def catalog(token: str | None = "t-1", url: str = "https://consul:8501/sub") -> PyConsulCatalog:  # noqa: S107
    return PyConsulCatalog(ConsulSettings(url), token, lambda: Deadline.after(30))


class Sent:
    """Stands in for the network; answers with what ``answer`` gives, and keeps the requests."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, answer: Callable[[], tuple[int, str]]) -> None:
        self.requests: list[tuple[requests.PreparedRequest, Any]] = []

        def send(_: Any, request: requests.PreparedRequest, **named: Any) -> requests.Response:
            self.requests.append((request, named["timeout"]))
            response = requests.Response()
            response.status_code, body = answer()
            response.headers["X-Consul-Index"] = "1"
            response.raw = _Body(body.encode())
            response.request = request
            response.url = request.url or ""
            return response

        monkeypatch.setattr(requests.adapters.HTTPAdapter, "send", send)


class _Body:
    def __init__(self, content: bytes) -> None:
        self._content = content

    def read1(self, _: int, decode_content: bool) -> bytes:
        content, self._content = self._content, b""
        return content

    def release_conn(self) -> None:
        pass

    def close(self) -> None:
        pass


@pytest.mark.parametrize("token", ["a\nb", "t\x00", "schlüssel"])
def test_a_token_that_cannot_be_one_is_refused_without_telling_it(token: str) -> None:
    with pytest.raises(ConfigurationError, match="consul_token") as error:
        catalog(token)
    assert token not in str(error.value)


def test_the_environment_gives_neither_token_nor_address(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {
        "CONSUL_HTTP_TOKEN": "stranger",
        "CONSUL_HTTP_ADDR": "elsewhere:1",
        "CONSUL_HTTP_SSL": "false",
        "HTTPS_PROXY": "http://proxy:3128",
    }.items():
        monkeypatch.setenv(name, value)
    sent = Sent(monkeypatch, lambda: (200, '[{"Node": "a", "ModifyIndex": 1}]'))
    catalog("t-1\n").nodes("dc1")
    [(request, timeout)] = sent.requests
    assert request.url == "https://consul:8501/sub/v1/catalog/nodes?dc=dc1"
    assert request.headers["X-Consul-Token"] == "t-1"
    assert timeout == (5.0, 10.0)


def test_without_a_token_no_header_is_sent(monkeypatch: pytest.MonkeyPatch) -> None:
    sent = Sent(monkeypatch, lambda: (200, '[{"Node": "a", "ModifyIndex": 1}]'))
    catalog(None).nodes("")
    assert "X-Consul-Token" not in sent.requests[0][0].headers


def test_a_right_is_proven_anew_each_time(monkeypatch: pytest.MonkeyPatch) -> None:
    answers = iter(["true", "false"])
    sent = Sent(monkeypatch, lambda: (200, f'[{{"Allow": {next(answers)}}}]'))
    consul = catalog()
    consul.prove_rights("", [READ, READ])
    with pytest.raises(AccessError, match="node:read"):
        consul.prove_rights("", [READ])
    assert len(sent.requests) == 2


@pytest.mark.parametrize("answer", ["[]", "{}", "null", '[{"Allow": 1}]', '[{"Allow": "true"}]', "[true]"])
def test_only_a_plain_yes_proves_a_right(monkeypatch: pytest.MonkeyPatch, answer: str) -> None:
    Sent(monkeypatch, lambda: (200, answer))
    with pytest.raises(Exception, match=r"unreadable|lacks"):
        catalog().prove_rights("", [READ])


@pytest.mark.parametrize("key", ["ID", "Address", "Datacenter", "Meta", "TaggedAddresses"])
def test_a_node_with_a_value_of_another_type_is_an_unreadable_answer(
    monkeypatch: pytest.MonkeyPatch, key: str
) -> None:
    Sent(monkeypatch, lambda: (200, json.dumps([{"Node": "a", "ModifyIndex": 1, key: ["10.0.0.5"]}])))
    with pytest.raises(TransientError, match="unreadable answer"):
        catalog().nodes("dc1")


def test_a_session_whose_behavior_is_no_text_is_an_unreadable_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    Sent(monkeypatch, lambda: (200, json.dumps([{"ID": "s", "Node": "a", "Behavior": ["delete"]}])))
    with pytest.raises(TransientError, match="unreadable answer"):
        catalog().sessions("dc1")
