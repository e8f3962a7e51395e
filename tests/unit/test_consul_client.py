"""The Consul client's own rules; how it and Consul behave together is in tests/conformance and tests/servers."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

from ec2_decommission.clients.consul import MAX_OPS, Key, PyConsulCatalog, RefusedError, Right, unlock
from ec2_decommission.clients.http import NoConnectionError
from ec2_decommission.config import ConsulSettings
from ec2_decommission.deadline import Deadline
from ec2_decommission.errors import (
    AccessError,
    ConfigurationError,
    DecommissionError,
    PermanentError,
    TransientError,
)
from tests.fakes.http import Answer, Request, closed_port, serving

if TYPE_CHECKING:
    from collections.abc import Callable

READ = Right("node", "read")
NODES = '[{"Node": "a", "ModifyIndex": 1}]'
INDEX = {"X-Consul-Index": "1"}
LARGE = "A" * 600_000


def catalog(url: str, token: str | None = "t-1") -> PyConsulCatalog:  # noqa: S107
    return PyConsulCatalog(ConsulSettings(url), token, lambda: Deadline.after(30))


def says(body: Any, status: int = 200, **headers: str) -> Callable[[Request], Answer]:
    text = body if isinstance(body, str) else json.dumps(body)
    return lambda _: (status, text, {**INDEX, **{name.replace("_", "-"): value for name, value in headers.items()}})


@pytest.mark.parametrize("token", ["a\nb", "t\x00", "schlüssel"])
def test_malformed_token_is_refused_without_repeating_it(token: str) -> None:
    with pytest.raises(ConfigurationError, match="consul_token") as error:
        catalog("http://consul", token)
    assert token not in str(error.value)


@pytest.mark.parametrize(("token", "sent"), [("t-1\n", "t-1"), (None, None), ("", None)])
def test_the_environment_gives_neither_token_nor_address(
    monkeypatch: pytest.MonkeyPatch, token: str | None, sent: str | None
) -> None:
    for name, value in {
        "CONSUL_HTTP_TOKEN": "stranger",
        "CONSUL_HTTP_ADDR": "elsewhere:1",
        "CONSUL_HTTP_SSL": "true",
        "HTTP_PROXY": closed_port(),
    }.items():
        monkeypatch.setenv(name, value)
    with serving(says(NODES)) as (url, seen):
        catalog(f"{url}/sub", token).nodes("dc 1")
    assert seen.lines == ["GET /sub/v1/catalog/nodes?dc=dc+1"]
    assert seen.requests[0].headers.get("X-Consul-Token") == sent


# Answers


@pytest.mark.parametrize(
    ("status", "body", "kind", "told"),
    [
        (301, "", ConfigurationError, "answered 301 .*does consul.url point to a Consul agent"),
        (400, "bad filter", RefusedError, "refuses to read nodes .*: bad filter"),
        (403, "ACL not found", AccessError, r"does not know the token \(secret consul_token\)"),
        (403, "Permission denied", AccessError, r"the token may not read nodes \(node:read\)"),
        (404, "<html>", ConfigurationError, "answered 404 .*does consul.url point to a Consul agent"),
        (413, "too large", RefusedError, "refuses to read nodes"),
        (429, "slow down", TransientError, "answered 429"),
        (500, "No cluster leader", TransientError, "answered 500 .*: No cluster leader"),
        (503, "", TransientError, "answered 503"),
        (200, "<html>", TransientError, "unreadable answer"),
        (200, "{}", AccessError, "the token sees no node"),
        (200, '["x"]', TransientError, "unreadable answer"),
        (200, b"\xff\xfe", TransientError, "unreadable answer"),
        (200, "[" * 100_000, TransientError, "unreadable answer"),
    ],
)
def test_what_consul_may_answer(status: int, body: str | bytes, kind: type[Exception], told: str) -> None:
    headers = {**INDEX, "Location": "/elsewhere", "Retry-After": "7"}
    with serving(lambda _: (status, body, headers)) as (url, _), pytest.raises(kind, match=told) as caught:
        catalog(url).nodes("")
    assert isinstance(caught.value, DecommissionError)
    if isinstance(caught.value, TransientError):
        assert caught.value.retry_after_seconds == (7 if status != 200 else None)


NODE = {"Node": "a", "ModifyIndex": 1}
SESSION = {"ID": "s", "Node": "a", "Behavior": "delete", "LockDelay": 15_000_000_000}
KEY = {"Key": "k", "ModifyIndex": 1, "Flags": 0, "Value": None}


@pytest.mark.parametrize(
    ("ask", "row", "wrong"),
    [
        *(("nodes", NODE, {name: 7}) for name in ("Node", "ID", "Address", "Datacenter", "Meta", "TaggedAddresses")),
        *(("nodes", NODE, wrong) for wrong in ({"Node": ""}, {"ModifyIndex": "1"}, {"TaggedAddresses": {"lan": 7}})),
        *(("sessions", SESSION, {name: ["x"]}) for name in ("ID", "Node", "Behavior", "LockDelay")),
        *(("keys", KEY, {name: ["x"]}) for name in ("Key", "Flags", "ModifyIndex", "Value", "Session")),
        ("keys", KEY, {"Value": "no base64!"}),
    ],
)
def test_a_value_of_another_type_is_an_unreadable_answer(
    ask: str, row: dict[str, Any], wrong: dict[str, Any]
) -> None:
    def asked(row: dict[str, Any]) -> Any:
        answer = {"Results": [{"KV": row}]} if ask == "keys" else [row]
        with serving(says(answer)) as (url, _):
            consul = catalog(url)
            return consul.read("", (), ["k"]) if ask == "keys" else getattr(consul, ask)("")

    assert asked(row)
    with pytest.raises(TransientError, match="unreadable answer"):
        asked({**row, **wrong})


def test_permissions_are_verified_each_time() -> None:
    answers = iter(["true", "false"])
    with serving(lambda _: (200, f'[{{"Allow": {next(answers)}}}]')) as (url, seen):
        consul = catalog(url)
        consul.prove_rights("", [READ, READ])
        with pytest.raises(AccessError, match="node:read"):
            consul.prove_rights("", [READ])
    assert len(seen.lines) == 2


@pytest.mark.parametrize("answer", ["[]", "{}", "null", '[{"Allow": 1}]', '[{"Allow": "true"}]', "[true]"])
def test_only_an_explicit_yes_proves_a_permission(answer: str) -> None:
    with serving(says(answer)) as (url, _), pytest.raises(DecommissionError, match=r"unreadable|lacks"):
        catalog(url).prove_rights("", [READ])


@pytest.mark.parametrize("prefix", ['i-" or Node != "', "i-*", "i-\n"])
def test_a_prefix_does_not_change_the_filter(prefix: str) -> None:
    with serving(says("[]")) as (url, seen), pytest.raises(ValueError, match="prefix"):
        catalog(url).instance_nodes("", prefix)
    assert seen.lines == []


# Changes


@pytest.mark.parametrize("errors", [[], [{"OpIndex": 9, "What": "x"}], [{"OpIndex": "x"}], "x", None])
def test_a_transaction_that_was_rolled_back_for_no_reason_that_can_be_read(errors: Any) -> None:
    told = "unreadable answer to a transaction"
    rolled_back = says({"Results": None, "Errors": errors}, 409)
    with serving(rolled_back) as (url, _), pytest.raises(TransientError, match=told):
        catalog(url).transact("", unlock(Key("k", 1)))


@pytest.mark.parametrize("large", [False, True])
@pytest.mark.parametrize("creates", [False, True])
def test_a_change_is_repeated_after_a_broken_connection_and_a_creation_is_not(large: bool, creates: bool) -> None:
    """A creation that found the key of its first attempt would report that somebody else had made it."""
    answers: list[Answer] = [None, (200, "true" if large else '{"Results": []}')]
    key = Key("locks/a", 1, LARGE if large else "AAAA", 7, "s")
    with serving(lambda _: answers.pop(0)) as (url, seen):
        consul = catalog(url)
        if creates:
            with pytest.raises(NoConnectionError):
                consul.put_key_if_absent("dc1", key)
        else:
            assert consul.release("dc1", key) is True
    lines = {
        (False, False): "PUT /v1/txn?dc=dc1",
        (False, True): "PUT /v1/kv/locks%2Fa?dc=dc1&flags=7&release=s",
        (True, False): "PUT /v1/txn?dc=dc1",
        (True, True): "PUT /v1/kv/locks%2Fa?dc=dc1&flags=7&cas=0",
    }
    assert seen.lines == [lines[creates, large]] * (1 if creates else 2)


@pytest.mark.parametrize(
    ("name", "kind", "told"),
    [
        ("locks/a", RefusedError, "refuses to release locks/a .*: too large"),
        ("locks/../a", PermanentError, r"too large; and key 'locks/../a' is not sent in a URL"),
    ],
)
def test_a_transaction_that_is_too_large_for_this_consul(name: str, kind: type[Exception], told: str) -> None:
    """Its limit, limits.txn_max_req_len, can be lower than the default; or the key was written under a higher one."""
    value = "AAAA" if name == "locks/a" else LARGE
    with serving(says("too large", 413)) as (url, seen), pytest.raises(kind, match=told):
        catalog(url).release("", Key(name, 1, value, 0, "s"))
    assert seen.lines == ["PUT /v1/txn"]


def document(services: int) -> dict[str, Any]:
    rows = [{"ID": f"s{n}", "Service": f"s{n}", "CreateIndex": 5, "ModifyIndex": 6} for n in range(services)]
    checks = [{"Node": "a", "CheckID": name, "ModifyIndex": 6} for name in ("serfHealth", "disk")]
    return {"Node": {"Node": "a", "Datacenter": "dc1", "ModifyIndex": 6}, "Services": rows, "Checks": checks}


def test_a_node_is_registered_in_pieces_and_first_as_one_that_is_new() -> None:
    with serving(says('{"Results": []}')) as (url, seen):
        assert catalog(url).register_node_if_absent("", document(100)) is True
    pieces = [json.loads(request.body) for request in seen.requests]
    assert [len(ops) for ops in pieces] == [MAX_OPS, 102 - MAX_OPS]
    assert pieces[0][0] == {"Node": {"Verb": "cas", "Node": {"Node": "a", "ModifyIndex": 0}}}
    assert pieces[0][1] == {
        "Service": {"Verb": "cas", "Node": "a", "Service": {"ID": "s0", "Service": "s0", "ModifyIndex": 0}}
    }
    assert pieces[1][-1] == {"Check": {"Verb": "cas", "Check": {"Node": "a", "CheckID": "disk", "ModifyIndex": 0}}}


@pytest.mark.parametrize(
    ("failure", "outcome"),
    [
        ({"OpIndex": 0, "What": 'failed to set node "a", index is stale'}, "False"),
        ({"OpIndex": 0, "What": "Permission denied"}, "AccessError"),
        ({"OpIndex": 0, "What": 'failed inserting node: node ID "x" is reserved by node "b"'}, "PermanentError"),
        ({"OpIndex": 1, "What": 'failed to set service "s0" on node "a", index is stale'}, "PermanentError"),
    ],
)
def test_reasons_for_not_registering_a_node(failure: dict[str, Any], outcome: str) -> None:
    with serving(says({"Results": None, "Errors": [failure]}, 409)) as (url, _):
        try:
            told = str(catalog(url).register_node_if_absent("", document(1)))
        except DecommissionError as error:
            told = type(error).__name__
    assert told == outcome
