"""One entry of ``http_steps`` in the configuration: what it means, and what is refused."""

from __future__ import annotations

import json
from typing import Any

import pytest

from ec2_decommission.config import Config
from ec2_decommission.errors import ConfigurationError
from ec2_decommission.instance import Instance
from ec2_decommission.steps.http.expression import Expression
from ec2_decommission.steps.http.settings import GONE, Basic, HttpStepSettings, OAuth2, Prove
from ec2_decommission.steps.http.template import Request, Values
from tests.fakes.http_step import document, read

URL = "https://api.example.com/v1"
WEB = Instance("i-1", tags={"Name": "web"})

# As the module writes it: everything that is optional is there, and null where it is not set.
WHOLE: dict[str, Any] = {
    "url": URL,
    "headers": {"Authorization": "Bearer {secret:token}", "X-Both": "step"},
    "secrets": ["token"],
    "find": {
        "method": "POST",
        "path": "/search",
        "query": {"limit": "100"},
        "headers": {"x-both": "find"},
        "body": '{"id": "{instance_id}"}',
        "items": "result",
        "id": "hostid",
        "next": "next",
        "error": "error.data",
    },
    "prove": {"field": "name", "equals": "{private_ip}"},
    "keep": ["protected"],
    "remove": {
        "method": "PATCH",
        "path": "/hosts/{id}",
        "query": {"a": "b"},
        "headers": {},
        "body": '{"status": "{item:status}"}',
        "gone": [404, 410],
        "error": "error",
    },
    "auth": None,
    "request_timeout_seconds": 2.5,
    "max_concurrency": 3,
}
SMALL: dict[str, Any] = {
    "url": URL,
    "headers": None,
    "secrets": None,
    "find": {
        "method": None,
        "path": None,
        "query": None,
        "headers": None,
        "body": None,
        "items": "@",
        "id": "id",
        "next": None,
        "error": None,
    },
    "prove": {"field": "id", "equals": "{instance_id}"},
    "keep": None,
    "remove": {
        "method": None,
        "path": "/{id}",
        "query": None,
        "headers": None,
        "body": None,
        "gone": None,
        "error": None,
    },
    "auth": None,
    "request_timeout_seconds": None,
    "max_concurrency": None,
}


def sent(settings: HttpStepSettings, part: str) -> Request:
    template = settings.find.request if part == "find" else settings.remove.request
    return template.render(Values(WEB, {"token": "s3cret"}, {"status": 1}, "7"))


def test_all_settings() -> None:
    settings = read(WHOLE)
    assert sent(settings, "find") == Request(
        "POST",
        f"{URL}/search?limit=100",
        (
            ("Accept", "application/json"),
            ("Content-Type", "application/json"),
            ("Authorization", "Bearer s3cret"),
            ("x-both", "find"),
        ),
        '{"id": "i-1"}',
    )
    assert sent(settings, "remove").headers[-1] == ("X-Both", "step")
    assert (sent(settings, "remove").method, sent(settings, "remove").url) == ("PATCH", f"{URL}/hosts/7?a=b")
    assert sent(settings, "remove").body == '{"status": "1"}'
    assert settings.find.items == Expression("result")
    assert settings.find.id == Expression("hostid")
    assert settings.find.next == Expression("next")
    assert settings.find.error == Expression("error.data")
    assert settings.prove == Prove(Expression("name"), "{private_ip}")
    assert settings.remove.gone == {404, 410}
    assert settings.remove.error == Expression("error")
    assert settings.keep == (Expression("protected"),)
    assert (settings.name, settings.secrets, settings.auth) == ("rest", ("token",), None)
    assert (settings.request_timeout_seconds, settings.max_concurrency) == (2.5, 3)


def test_minimal_settings() -> None:
    settings = read(SMALL)
    assert sent(settings, "find") == Request("GET", URL, (("Accept", "application/json"),), None)
    assert sent(settings, "remove") == Request("DELETE", f"{URL}/7", (("Accept", "application/json"),), None)
    assert (settings.find.next, settings.find.error, settings.remove.error) == (None, None, None)
    assert settings.remove.gone == GONE == {404, 410}
    assert (settings.keep, settings.secrets, settings.request_timeout_seconds, settings.max_concurrency) == (
        (),
        (),
        10,
        4,
    )


def test_no_status_counts_as_gone_if_the_list_is_empty() -> None:
    assert read(document(URL, remove={"gone": []})).remove.gone == frozenset()


@pytest.mark.parametrize(
    ("url", "path", "result"),
    [
        ("https://x/api_jsonrpc.php", "", "https://x/api_jsonrpc.php"),
        ("https://x/api/", "hosts", "https://x/api/hosts"),
        ("https://x/api", "hosts", "https://x/apihosts"),
        ("https://x/api/", "/hosts", "https://x/api//hosts"),
        ("https://x:8443", "/hosts", "https://x:8443/hosts"),
        ("http://x", "?a={instance_id}", "http://x?a=i-1"),
        ("http://[::1]:80/", "", "http://[::1]:80/"),
    ],
)
def test_url_and_path_are_joined_unchanged(url: str, path: str, result: str) -> None:
    assert sent(read(document(url, find={"path": path})), "find").url == result


def test_custom_content_type() -> None:
    find = {"method": "POST", "body": "{}", "headers": {"content-type": "application/json-rpc"}}
    assert ("content-type", "application/json-rpc") in sent(read(document(URL, find=find)), "find").headers
    assert "Content-Type" not in dict(sent(read(document(URL, find=find)), "find").headers)


def test_credentials() -> None:
    basic = read(document(URL, secrets=["u", "p"], auth={"basic": {"username": "u", "password": "p"}})).auth
    assert isinstance(basic, Basic)
    assert (basic.username.text, basic.password.text) == ("{secret:u}", "{secret:p}")
    basic = read(document(URL, secrets=["p"], auth={"basic": {"username": "ro", "password": "x{secret:p}"}})).auth
    assert isinstance(basic, Basic)
    assert (basic.username.text, basic.password.text) == ("ro", "x{secret:p}")
    oauth2 = {"token_url": "https://login/token", "client_id": "me", "client_secret": "p", "scope": None}
    found = read(document(URL, secrets=["p"], auth={"oauth2": oauth2, "basic": None})).auth
    assert isinstance(found, OAuth2)
    assert (found.token_url, found.client_id.text, found.scope) == ("https://login/token", "me", None)


NOT_STATUSES: list[Any] = [[200], [399], [500], ["404"], [404.0], [True], 404, {}]
NOT_A_URL = (
    "rest.url: expected a URL that begins with http:// or https:// and names a host, without user, query, fragment, "
    "placeholder or space"
)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        *(
            ({"url": url}, NOT_A_URL)
            for url in (
                "ftp://x",
                "x",
                "https://",
                "https://u:pw@x",
                "https://x/a?b=c",
                "https://x/a#b",
                "https://x/{instance_id}",
                "https://{tag:Host}/",
                "https://x/a b",
                "https://x:0/",
                "https://x:99999/",
                "https://x\\@y/",
                "https://[::1",
                "https://ä/",
            )
        ),
        ({"url": None}, "rest.url: expected a non-empty string, found null"),
        ({"prove": None}, "rest.prove: expected an object, found null"),
        ({"prove": {}}, "rest.prove.field: expected a non-empty string, found null"),
        (
            {"prove": {"field": "a"}},
            "rest.prove.equals: expected exactly one of {instance_id}, {private_ip}, {private_dns_name}, found null",
        ),
        *(
            ({"prove": {"field": "a", "equals": equals}}, "rest.prove.equals: expected exactly one of")
            for equals in (
                "{tag:Name}",
                "{hostname}",
                "x{instance_id}",
                "{instance_id} ",
                "",
                "i-1",
                ["{instance_id}"],
            )
        ),
        (
            {"prove": {"field": "a[", "equals": "{instance_id}"}},
            "rest.prove.field: 'a[' is not a JMESPath expression",
        ),
        ({"prove": "x"}, 'rest.prove: expected a JSON object, found "x"'),
        ({"find": {"items": None}}, "rest.find.items: expected a non-empty string, found null"),
        ({"find": {"id": ""}}, 'rest.find.id: expected a non-empty string, found ""'),
        ({"find": {"next": 5}}, "rest.find.next: expected a string or null, found 5"),
        ({"find": {"error": "a b"}}, "rest.find.error: 'a b' is not a JMESPath expression"),
        ({"find": {"method": "DELETE"}}, 'rest.find.method: expected one of GET, POST, found "DELETE"'),
        ({"find": {"method": "get"}}, "rest.find.method: expected one of"),
        ({"remove": {"method": "HEAD"}}, "rest.remove.method: expected one of DELETE, POST, PUT, PATCH, GET"),
        ({"find": {"path": 5}}, "rest.find.path: expected a string, found 5"),
        ({"find": {"path": "/{nothing}"}}, "rest.find.path: unknown placeholder {nothing}"),
        ({"find": {"path": "/{id}"}}, "rest.find.path: unknown placeholder {id}"),
        *(
            ({"find": {"path": path}}, "rest.find.path: expected printable ASCII without a space, #, \\ or a segment")
            for path in (
                "/a b",
                "/ä",
                "/a#b",
                "/a\\b",
                "/..",
                "/a/../b",
                "/./a",
                "/%2e%2e/a",
                "/a\n",
                "/{instance_id}/..",
            )
        ),
        *(
            ({"url": "https://x", part: {"path": path}}, f"rest.{part}.path: expected a path that begins with /")
            for part in ("find", "remove")
            for path in (".evil.example.com/{instance_id}", "@evil.example.com", ":8443/", "{instance_id}", "x")
        ),
        ({"find": {"query": {"a": 5}}}, "rest.find.query: expected an object whose values are strings"),
        ({"find": {"query": {"a": "{b}"}}}, "rest.find.query.a: unknown placeholder {b}"),
        ({"find": {"body": "{"}}, "rest.find.body: it is not JSON"),
        ({"remove": {"body": '{"a": {id}}'}}, "rest.remove.body: it is not JSON"),
        ({"remove": {"body": '"{id} {"'}}, "rest.remove.body: unmatched brace"),
        ({"headers": {"A b": "c"}}, "rest.find.headers: expected names of headers"),
        ({"headers": {"Host": "evil"}}, "rest.find.headers: expected names of headers, without connection"),
        ({"remove": {"headers": {"content-LENGTH": "5"}}}, "rest.remove.headers: expected names of headers"),
        ({"headers": {"X": "a\nb"}}, "rest.find.headers.X: expected printable ASCII characters only"),
        ({"headers": {"X": "{secret:a}"}}, "rest.find.headers.X: unknown placeholder {secret:a}"),
        *(
            ({"remove": {"gone": gone}}, "rest.remove.gone: expected a list of HTTP statuses from 400 to 499")
            for gone in NOT_STATUSES
        ),
        ({"remove": {"error": "["}}, "rest.remove.error: '[' is not a JMESPath expression"),
        ({"keep": ["a", "["]}, "rest.keep: '[' is not a JMESPath expression"),
        ({"keep": "a"}, "rest.keep: expected a list of non-empty strings"),
        ({"secrets": {"a": {}}}, "rest.secrets: expected a list of non-empty strings"),
        ({"auth": {}}, "rest.auth: expected either basic or oauth2"),
        (
            {"auth": {"basic": {"username": "a"}}, "secrets": ["a"]},
            "rest.auth.basic.password: expected a non-empty string, found null",
        ),
        (
            {"auth": {"basic": {"username": "a", "password": "b"}, "oauth2": {}}, "secrets": ["a", "b"]},
            "rest.auth: expected either basic or oauth2",
        ),
        (
            {"auth": {"basic": {"username": "{instance_id}", "password": "b"}}, "secrets": ["b"]},
            "rest.auth.basic.username: unknown placeholder {instance_id}; allowed here are {secret:NAME} with one",
        ),
        (
            {"auth": {"oauth2": {"token_url": "x", "client_id": "a", "client_secret": "b"}}, "secrets": ["b"]},
            "rest.auth.oauth2.token_url: expected a URL",
        ),
        (
            {
                "auth": {"basic": {"username": "a", "password": "b"}},
                "secrets": ["b"],
                "headers": {"authorization": "x"},
            },
            "rest.find.headers: auth sets Authorization; give only one of the two",
        ),
        ({"request_timeout_seconds": 0.5}, "rest.request_timeout_seconds: expected a number from 1 to 60"),
        ({"max_concurrency": 33}, "rest.max_concurrency: expected a number from 1 to 32"),
        ({"removal": {}}, "rest: unknown key removal; allowed: auth, find, headers, keep"),
        ({"find": {"itmes": "a"}}, "rest.find: unknown key itmes"),
        ({"prove": {"field": "a", "equals": "{instance_id}", "or": 1}}, "rest.prove: unknown key or"),
    ],
)
def test_what_is_refused(changed: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigurationError) as error:
        read({**document(URL, **{k: v for k, v in changed.items() if k != "url"}), **_url(changed)})
    assert f"http_steps.{message}" in str(error.value)


def _url(changed: dict[str, Any]) -> dict[str, Any]:
    return {"url": changed["url"]} if "url" in changed else {}


@pytest.mark.parametrize(
    "auth",
    [
        {"basic": {"username": "me", "password": "hunter2"}},
        {"oauth2": {"token_url": "https://x/token", "client_id": "me", "client_secret": "hunter2"}},
    ],
)
def test_plaintext_secret_is_refused_and_not_repeated(auth: dict[str, Any]) -> None:
    with pytest.raises(
        ConfigurationError, match=r"expected the name of one of the step's secrets \(token\)"
    ) as error:
        read(document(URL, secrets=["token"], auth=auth))
    assert "hunter2" not in str(error.value)


def test_a_password_in_a_url_is_not_repeated() -> None:
    with pytest.raises(ConfigurationError) as error:
        read(document("https://me:hunter2@x"))
    assert "hunter2" not in str(error.value)


@pytest.mark.parametrize("name", ["route53", "chef", "consul", "mine"])
def test_a_name_that_another_step_has_is_refused(name: str) -> None:
    whole = {"name": "x", "account_id": "123456789012", "region": "us-east-1", "custom_steps": {"mine": {}}}
    with pytest.raises(ConfigurationError, match=f"http_steps.{name}: another step has this name"):
        Config.parse(json.dumps({**whole, "http_steps": {name: document(URL)}}))


def test_a_step_that_is_null_is_refused() -> None:
    whole = {"name": "x", "account_id": "123456789012", "region": "us-east-1", "http_steps": {"a": None}}
    with pytest.raises(ConfigurationError, match=r"http_steps\.a: expected an object, found null"):
        Config.parse(json.dumps(whole))


def test_secrets_need_an_encryption_context() -> None:
    whole = {"name": "x", "account_id": "123456789012", "region": "us-east-1"}
    with pytest.raises(ConfigurationError, match="encryption_context: empty, but needed to decrypt the secrets"):
        Config.parse(json.dumps({**whole, "http_steps": {"a": document(URL, secrets=["token"])}}))
