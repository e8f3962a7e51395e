"""The real Chef client against servers that misbehave, each a small HTTP server on loopback.

What holds for every HTTP client of ours is in test_http_client.py.
"""

from __future__ import annotations

import base64
import hashlib
import json
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs, urlsplit

import pytest
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.asymmetric.padding import PKCS1v15
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from ec2_decommission.clients.chef import ChefClient, ChefNode, PyChefServer, node_of
from ec2_decommission.clients.http import NoConnectionError
from ec2_decommission.clients.pychef_compat import Key, chef
from ec2_decommission.config import ChefSettings
from ec2_decommission.deadline import Deadline
from ec2_decommission.errors import (
    AccessError,
    ConfigurationError,
    DecommissionError,
    OutOfTime,
    PermanentError,
    TransientError,
)
from tests.fakes.http import Answer, Request, closed_port, serving

if TYPE_CHECKING:
    from collections.abc import Callable

KEY = rsa.generate_private_key(public_exponent=65537, key_size=2048)
PEM = KEY.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode()


def client(
    url: str, *, seconds: float = 60, concurrency: int = 4, name: str = "decommission", protocol: str = "1.3"
) -> PyChefServer:
    deadline = Deadline.after(seconds)
    settings = ChefSettings(f"{url}/organizations/x", name, signing_protocol=protocol, max_concurrency=concurrency)
    return PyChefServer(settings, PEM, lambda: deadline)


def says(status: int, text: str | bytes) -> Callable[[Request], Answer]:
    return lambda _: (status, text, {"Location": "https://elsewhere.example/", "Retry-After": "7"})


def row(name: str, instance_id: str | None = None) -> dict[str, Any]:
    return {"url": f"https://chef/nodes/{name}", "data": {"name": name, "instance_id": instance_id}}


def search_answer(rows: list[Any], total: int) -> Answer:
    return 200, json.dumps({"rows": rows, "start": 0, "total": total})


# Signatures


def verified(request: Request) -> bool:
    """Whether the request is signed as Chef's page on authentication headers has it for version 1.3, and no other."""
    headers = {name.lower(): value for name, value in request.headers.items()}

    def digest(data: bytes) -> str:
        return base64.b64encode(hashlib.sha256(data).digest()).decode()

    lines = [headers[f"x-ops-authorization-{n}"] for n in range(1, 20) if f"x-ops-authorization-{n}" in headers]
    canonical = (
        f"Method:{request.method}\nPath:{urlsplit(request.path).path}\nX-Ops-Content-Hash:{digest(request.body)}\n"
        f"X-Ops-Sign:version=1.3\nX-Ops-Timestamp:{headers['x-ops-timestamp']}\n"
        f"X-Ops-UserId:decommission\nX-Ops-Server-API-Version:{headers.get('x-ops-server-api-version')}"
    )
    at = datetime.strptime(headers["x-ops-timestamp"], "%Y-%m-%dT%H:%M:%SZ").replace(tzinfo=UTC)
    try:
        KEY.public_key().verify(base64.b64decode("".join(lines)), canonical.encode(), PKCS1v15(), hashes.SHA256())
    except InvalidSignature:
        return False
    return (
        headers["x-ops-sign"] == "algorithm=sha256;version=1.3"
        and headers["x-ops-userid"] == "decommission"
        and headers["x-ops-content-hash"] == digest(request.body)
        and headers["x-ops-server-api-version"] == "0"
        and headers["accept"] == "application/json"
        and all(len(line) == 60 for line in lines[:-1])
        and abs(datetime.now(UTC) - at) < timedelta(minutes=15)
    )


def modern(request: Request) -> Answer:
    """A server that takes version 1.3 only."""
    if not verified(request):
        return 401, '{"error": ["Invalid signature for user or client"]}'
    if "/search/" in request.path:
        return search_answer([row("web-1", "i-0aaa")], 1)
    return 200, '{"name": "web-1", "validator": false}'


def test_a_server_that_takes_version_1_3_only() -> None:
    with serving(modern) as (url, _):
        server = client(url)
        assert server.search_nodes_by_instance_id(["i-0aaa"]).nodes == (ChefNode("web-1", "i-0aaa"),)
        assert server.nodes(["web-1"]) == {"web-1": ChefNode("web-1")}
        assert server.clients(["web-1"]) == {"web-1": ChefClient("web-1")}
        assert server.delete_nodes(["web-1", "rack:7"]) == {"web-1": True, "rack:7": True}
        assert server.create_node({"name": "web-1", "normal": {"ä": 1}}) is True
        assert server.create_client("web-1", "key") is True
        with pytest.raises(ConfigurationError, match=r'chef.signing_protocol "1.0": Invalid signature'):
            client(url, protocol="1.0").search_nodes_by_instance_id(["i-0aaa"])


@pytest.mark.filterwarnings("ignore:datetime.datetime.utcnow")
def test_pychef_itself_fails_on_a_connection_error() -> None:
    """``e.message`` went with Python 2. Should this fail, PyChef was fixed."""
    with pytest.raises(AttributeError, match="message"):
        chef.ChefAPI(closed_port(), Key(PEM), "decommission").api_request("GET", "/nodes")


# Errors, sorted


@pytest.mark.parametrize(
    ("status", "text", "kind", "told"),
    [
        (401, '{"error": ["Invalid signature"]}', ConfigurationError, "chef_client_key or chef.client_name is wrong"),
        (403, '{"error": ["no read"]}', AccessError, "client decommission may not POST .*/search/node"),
        (404, '{"error": ["organization x does not exist"]}', ConfigurationError, "must include the organization"),
        (404, "<html>no such page</html>", TransientError, "with 404"),
        (400, '{"error": ["bad query"]}', ConfigurationError, "refused .* with 400: bad query"),
        (409, "{}", ConfigurationError, "refused .* with 409"),
        (413, "", ConfigurationError, "refused POST /organizations/x/search/node with 413"),
        (414, "", ConfigurationError, "refused POST /organizations/x/search/node with 414"),
        (429, "slow down", TransientError, "with 429"),
        (500, '{"error": ["oops"]}', TransientError, "with 500: oops"),
        (502, "<html>bad gateway</html>", TransientError, "with 502"),
        (503, "", TransientError, "with 503"),
        (302, "", ConfigurationError, "redirects .* to https://elsewhere.example/"),
        (200, "<html>log in here</html>", TransientError, "unreadable answer"),
        (200, "[]", TransientError, "unreadable answer"),
        (200, "", TransientError, "unreadable answer"),
        (200, '{"rows": {}, "total": 1}', TransientError, "unreadable answer"),
        (200, '{"rows": [], "total": "many"}', TransientError, "unreadable answer"),
        (200, '{"rows": [{"data": {}}], "total": 1}', TransientError, "unreadable answer"),
        (200, '{"rows": ["web-1"], "total": 1}', TransientError, "unreadable answer"),
        (200, b"\xff\xfe\x00garbage", TransientError, "unreadable answer"),
        (200, "[" * 100_000, TransientError, "unreadable answer"),
    ],
)
def test_what_a_search_may_answer(status: int, text: str | bytes, kind: type[Exception], told: str) -> None:
    with serving(says(status, text)) as (url, _), pytest.raises(kind, match=told) as caught:
        client(url).search_nodes_by_instance_id(["i-0aaa"])
    assert "127.0.0.1" in str(caught.value)
    assert "PRIVATE KEY" not in str(caught.value)
    assert isinstance(caught.value, AccessError) == (status == 403)
    if isinstance(caught.value, TransientError):
        assert caught.value.retry_after_seconds == (7 if status != 200 else None)


@pytest.mark.parametrize(
    ("status", "text", "kind", "told"),
    [
        # A proxy's 200 or 404 does not mean that the thing is gone.
        (200, "<html></html>", TransientError, "unreadable answer to {what}"),
        (404, "<html></html>", TransientError, "answered {what} with 404"),
        (500, "", TransientError, "answered {what} with 500"),
        *(
            (status, '{"error": ["no"]}', PermanentError, f"refused {{what}} with {status}: no")
            for status in (400, 414)
        ),
    ],
)
def test_what_a_request_for_one_name_may_answer(status: int, text: str, kind: type[Exception], told: str) -> None:
    """What is refused for one name will be again, and is no other's."""
    with serving(says(status, text)) as (url, _):
        server = client(url)
        asked: dict[str, Callable[[], DecommissionError | bool | object]] = {
            "DELETE /nodes/web-1": lambda: server.delete_nodes(["web-1"])["web-1"],
            "DELETE /clients/web-1": lambda: server.delete_clients(["web-1"])["web-1"],
            "GET /clients/web-1": lambda: server.clients(["web-1"])["web-1"],
            "GET /nodes/web-1": lambda: server.nodes(["web-1"])["web-1"],
            "GET /nodes/web-2": lambda: server.node_documents(["web-2"])["web-2"],
            "POST /nodes": lambda: server.create_node({"name": "web-1"}),
            "POST /clients": lambda: server.create_client("web-1", "key"),
        }
        for what, ask in asked.items():
            try:
                answer = ask()
            except DecommissionError as error:
                answer = error
            method, path = what.split()
            short = path if "unreadable" in told else f"/organizations/x{path}"
            assert isinstance(answer, kind), what
            assert told.format(what=f"{method} {short}") in str(answer)


@pytest.mark.parametrize(
    "answer",
    [
        {"name": "WEB-1", "validator": False},
        {"name": "web-1"},
        {"name": "web-1", "validator": "false"},
        {"name": "web-1", "validator": None},
        {"name": "web-1", "validator": False, "admin": 1},
        {"validator": False},
    ],
)
def test_client_without_permission_flags(answer: dict[str, Any]) -> None:
    """A Chef Infra Server says nothing of ``admin``, and always says ``validator``."""
    with serving(says(200, json.dumps(answer))) as (url, _):
        assert isinstance(client(url).clients(["web-1"])["web-1"], TransientError)


@pytest.mark.parametrize(
    ("more", "found"),
    [
        ({"public_key": "PEM", "orgname": "x"}, ChefClient("web-1", public_key="PEM")),
        ({"certificate": "CERT"}, ChefClient("web-1", public_key="CERT")),
        ({"validator": True}, ChefClient("web-1", validator=True)),
        ({"admin": True, "public_key": 7}, ChefClient("web-1", admin=True)),
    ],
)
def test_what_a_server_says_of_a_client(more: dict[str, Any], found: ChefClient) -> None:
    answer = {"name": "web-1", "validator": False, **more}
    with serving(says(200, json.dumps(answer))) as (url, _):
        assert client(url).clients(["web-1"]) == {"web-1": found}


def test_error_affects_only_its_name() -> None:
    with serving(lambda request: (500 if request.path.endswith("web-2") else 200, "{}")) as (url, _):
        found = client(url).delete_nodes(["web-1", "web-2", "web-3"])
    assert (found["web-1"], type(found["web-2"]), found["web-3"]) == (True, TransientError, True)


def test_a_node_that_is_another_is_refused() -> None:
    with serving(says(200, '{"name": "WEB-1"}')) as (url, _):
        server = client(url)
        for answers in (server.nodes(["web-1"]), server.node_documents(["web-1"])):
            assert isinstance(answers["web-1"], TransientError)


def test_no_call_is_begun_without_time_for_it() -> None:
    with serving(says(200, "{}")) as (url, seen):
        with pytest.raises(OutOfTime, match="POST /organizations/x/search/node on Chef server"):
            client(url, seconds=0.5).search_nodes_by_instance_id(["i-0aaa"])
        assert isinstance(client(url, seconds=0.5).delete_nodes(["web-1"])["web-1"], OutOfTime)
    assert seen.lines == []


def test_a_client_name_that_breaks_the_header() -> None:
    with serving(says(200, "{}")) as (url, seen), pytest.raises(ConfigurationError, match="header 'X-Ops-UserId'"):
        client(url, name="a\r\nX-Evil: 1").search_nodes_by_instance_id(["i-0aaa"])
    assert seen.lines == []


# Broken connections

GONE = (404, '{"error": ["not found"]}')


@pytest.mark.parametrize(
    ("answers", "outcome"),
    [
        ([None, GONE], "True"),  # the first attempt did it, and its answer was lost
        ([GONE], "False"),
        ([None, (200, "{}")], "True"),
        ([None, (200, "<html>")], "TransientError"),
        ([None, None], "NoConnectionError"),
    ],
)
def test_a_deletion_is_repeated_after_a_broken_connection(answers: list[Answer], outcome: str) -> None:
    left = list(answers)
    with serving(lambda _: left.pop(0)) as (url, _):
        [answer] = client(url).delete_nodes(["web-1"]).values()
    assert (str(answer) if isinstance(answer, bool) else type(answer).__name__) == outcome


def test_a_creation_is_not_repeated() -> None:
    """It would find the object of the first attempt, and report that somebody else had made it."""
    answers: list[Answer] = [None, (409, '{"error": ["exists"]}')]
    with serving(lambda _: answers.pop(0)) as (url, seen), pytest.raises(NoConnectionError):
        client(url).create_node({"name": "web-1"})
    assert len(seen.lines) == 1


# Searching


def test_a_chef_server_s_pages_are_all_read() -> None:
    """Its total counts all that match."""
    everything = [row(f"web-{number}", "i-0aaa") for number in range(2500)]

    def answer(request: Request) -> Answer:
        start = int(parse_qs(urlsplit(request.path).query)["start"][0])
        return search_answer(everything[start : start + 1000], 2500)

    with serving(answer) as (url, seen):
        found = client(url).search_nodes_by_instance_id(["i-0aaa"])
    assert len(found.nodes) == 2500
    assert found.hidden == 0
    assert len(seen.lines) == 3


def test_goiardi_s_pages_are_all_read() -> None:
    """Its total counts the page (measured on 0.11.10), so a full page is never the last."""
    everything = [row(f"web-{number}", "i-0aaa") for number in range(2000)]

    def answer(request: Request) -> Answer:
        start = int(parse_qs(urlsplit(request.path).query)["start"][0])
        page = everything[start : start + 1000]
        return search_answer(page, len(page))

    with serving(answer) as (url, seen):
        assert len(client(url).search_nodes_by_instance_id(["i-0aaa"]).nodes) == 2000
    assert len(seen.lines) == 3


def test_a_short_page_in_the_middle_is_not_the_end() -> None:
    """A Chef server shows fewer than it counts, where the client may not read some (strict_search_result_acls)."""

    def answer(request: Request) -> Answer:
        start = int(parse_qs(urlsplit(request.path).query)["start"][0])
        return search_answer([row("web-2", "i-0aaa")] if start else [None, row("web-1", "i-0aaa")], 1005)

    with serving(answer) as (url, _):
        found = client(url).search_nodes_by_instance_id(["i-0aaa"])
    assert [node.name for node in found.nodes] == ["web-1", "web-2"]
    assert found.hidden == 1003


@pytest.mark.parametrize("counts", ["all", "up to 10000", "the page"])
def test_more_nodes_than_a_search_reaches_are_searched_for_in_parts(counts: str) -> None:
    """A Chef server shows no more than 10,000 of what a query matches; goiardi's total counts the page."""
    everything = [row(f"web-{n}", f"i-0{n % 3:x}{n:015x}") for n in range(12_000)]

    def answer(request: Request) -> Answer:
        asked = parse_qs(urlsplit(request.path).query)
        prefix, start = asked["q"][0].removeprefix("ec2_instance_id:").rstrip("*"), int(asked["start"][0])
        if start + 1000 > 10_000:
            return 500, '{"error": ["Result window is too large"]}'
        rows = [r for r in everything if r["data"]["instance_id"].startswith(prefix)]
        page = rows[start : start + 1000]
        return search_answer(page, {"all": len(rows), "up to 10000": min(len(rows), 10_000)}.get(counts, len(page)))

    with serving(answer) as (url, seen):
        found = {node.instance_id for node in client(url).converged_nodes("i-")}
    assert found == {r["data"]["instance_id"] for r in everything}
    assert len(seen.lines) < 80


def test_queries_are_joined_and_their_urls_short() -> None:
    with serving(lambda _: search_answer([], 0)) as (url, seen):
        client(url, concurrency=1).search_nodes_by_instance_id([f"i-{number:017x}" for number in range(250)])
        client(url, concurrency=1).search_nodes_by_name([f"{'n' * 200}-{number}" for number in range(60)])
    assert len(seen.lines) == 3 + 3
    assert all(len(line) < 8000 for line in seen.lines)
    query = parse_qs(urlsplit(seen.lines[0]).query)["q"][0]
    assert query.startswith("ec2_instance_id:i-00000000000000000 OR ec2_instance_id:i-00000000000000001 OR ")


@pytest.mark.parametrize(
    ("name", "query"),
    [
        ("rack:7", r"name:rack\:7"),
        ("-x-1", r"name:\-x-1"),
        ("WEB-1", "name:WEB-1"),
        ("ORx", "name:ORx"),
    ],
)
def test_names_are_escaped_in_queries(name: str, query: str) -> None:
    with serving(lambda _: search_answer([], 0)) as (url, seen):
        client(url).search_nodes_by_name([name])
    [line] = seen.lines
    assert parse_qs(urlsplit(line).query)["q"] == [query]
    assert "/" not in line.partition("?q=")[2]


def test_a_name_that_is_an_operator_is_not_searched_for() -> None:
    with serving(lambda _: search_answer([], 0)) as (url, seen):
        assert client(url).search_nodes_by_name(["OR", "NOT-1"]).nodes == ()
    assert seen.lines == []


@pytest.mark.parametrize(("total", "found"), [(1, frozenset({"boss"})), (2, None)])
def test_privileged_clients_are_all_or_unknown(total: int, found: frozenset[str] | None) -> None:
    with serving(lambda _: search_answer([{"url": "", "data": {"name": "boss"}}], total)) as (url, seen):
        assert client(url).privileged_clients() == found
    assert "/search/client?q=validator%3Atrue%20OR%20admin%3Atrue&" in seen.lines[0]


def test_names_that_no_server_can_hold_cost_no_call() -> None:
    """Least of all "..": an HTTP client shortens DELETE /nodes/.. to DELETE /."""
    names = ["", ".", "..", "a/b", "a b", "web-1\n", "a?b", "a%2fb", "ä", "../clients/web-1"]
    with serving(says(200, "{}")) as (url, seen):
        server = client(url)
        assert server.delete_nodes(names) == dict.fromkeys(names, False)
        assert server.delete_clients([*names, "rack:7"]) == dict.fromkeys([*names, "rack:7"], False)
        assert server.nodes(names) == server.node_documents(names) == server.clients(names) == dict.fromkeys(names)
        assert server.search_nodes_by_name(names).nodes == ()
        assert server.search_nodes_by_instance_id(["", "i-1) OR (name:*", "-i", "i_1"]).nodes == ()
    assert seen.lines == []


def test_many_names_are_listed_first() -> None:
    def answer(request: Request) -> Answer:
        if request.path.endswith(("/nodes", "/clients")):
            return 200, '{"web-7": "…", "other": "…"}'
        return 200, '{"name": "web-7", "validator": false, "automatic": {"ec2": {"instance_id": "i-0aaa"}}}'

    names = [f"web-{number}" for number in range(100)]
    with serving(answer) as (url, seen):
        server = client(url)
        assert {name for name, node in server.nodes(names).items() if node} == {"web-7"}
        assert {name for name, found in server.clients(names).items() if found} == {"web-7"}
    assert seen.lines == [
        f"GET /organizations/x/{path}" for path in ("nodes", "nodes/web-7", "clients", "clients/web-7")
    ]


# Facts of a node


def automatic(**attributes: Any) -> dict[str, Any]:
    return {"name": "web-1", "automatic": attributes}


def ec2(**more: Any) -> dict[str, Any]:
    return automatic(ec2={"instance_id": "i-0aaa", **more})


FULL = {
    "account_id": "123456789012",
    "region": "eu-west-1",
    "placement_availability_zone": "eu-west-1b",
    "local_ipv4": "10.0.0.5",
    "public_ipv4": "192.0.2.1",
    "local_hostname": "ip-10-0-0-5.ec2.internal",
    "public_hostname": "ec2-192-0-2-1.compute-1.amazonaws.com",
    "network_interfaces_macs": {
        "02:aa": {
            "vpc_id": "vpc-1",
            "local_ipv4s": "10.0.0.5\n10.0.0.6",
            "public_ipv4s": "192.0.2.1",
            "ipv6s": "2001:DB8:0::1",
        },
        "02:bb": {"vpc_id": "vpc-1", "local_ipv4s": "10.0.1.5"},
    },
}


@pytest.mark.parametrize(
    ("document", "node"),
    [
        (
            automatic(
                ec2={"instance_id": "i-0aaa", **FULL},
                ipaddress="172.17.0.1",
                fqdn="web-1.example.com",
                hostname="web-1",
                ohai_time=1_760_000_000.5,
            ),
            ChefNode(
                "web-1",
                "i-0aaa",
                account_id="123456789012",
                region="eu-west-1",
                availability_zone="eu-west-1b",
                vpc_id="vpc-1",
                private_ips=("10.0.0.5", "10.0.0.6", "10.0.1.5"),
                public_ips=("192.0.2.1",),
                ipv6_addresses=("2001:db8::1",),
                private_dns_names=("ip-10-0-0-5.ec2.internal",),
                public_dns_names=("ec2-192-0-2-1.compute-1.amazonaws.com",),
                ipaddress="172.17.0.1",
                fqdn="web-1.example.com",
                hostname="web-1",
                ohai_time=1_760_000_000.5,
            ),
        ),
        ({"name": "web-1"}, ChefNode("web-1")),
        (automatic(ipaddress="10.0.0.5"), ChefNode("web-1", ipaddress="10.0.0.5")),
        (automatic(ipaddress="2001:DB8::5"), ChefNode("web-1", ipaddress="2001:db8::5")),
        (automatic(ipaddress="nowhere"), ChefNode("web-1")),
        (automatic(ipaddress=["10.0.0.5"], fqdn=7, hostname=None), ChefNode("web-1")),
        (ec2(local_ipv4="none", local_hostname=7, network_interfaces_macs=["x"]), ChefNode("web-1", "i-0aaa")),
        (ec2(account_id=123, region=5), ChefNode("web-1", "i-0aaa", account_id="123")),
        *((automatic(ec2=nothing), ChefNode("web-1")) for nothing in (None, {}, {"instance_id": ""}, "x")),
        (ec2(instance_id=7), ChefNode("web-1", "7")),
        # Chef's order of precedence: automatic, override, normal, default.
        (
            {
                **ec2(),
                "override": {"ec2": {"instance_id": "i-0bbb", "region": "r-1"}},
                "normal": {"ec2": {"region": "r-2", "local_ipv4": "10.0.0.5"}},
                "default": {"ec2": {"local_ipv4": "10.0.0.6", "account_id": "1"}},
            },
            ChefNode("web-1", "i-0aaa", account_id="1", region="r-1", private_ips=("10.0.0.5",)),
        ),
    ],
)
def test_facts_of_a_node(document: dict[str, Any], node: ChefNode) -> None:
    assert node_of(document) == node
    with serving(says(200, json.dumps(document))) as (url, _):
        server = client(url)
        assert server.nodes(["web-1"]) == {"web-1": node}
        assert server.node_documents(["web-1"]) == {"web-1": document}


@pytest.mark.parametrize(
    ("written", "read"),
    [
        ("1760000000.5", 1_760_000_000.5),
        (1_760_000_000.5, 1_760_000_000.5),
        (1_760_000_000, 1_760_000_000.0),
        *((other, None) for other in (None, "yesterday", True, ["x"], "nan", "inf", 10**400)),
    ],
)
def test_what_ohai_may_have_written(written: Any, read: float | None) -> None:
    data = {"name": "web-1", "instance_id": 17, "region": 5, "ohai_time": written, "local_hostname": None}
    with serving(lambda _: search_answer([{"url": "x", "data": data}, None], 2)) as (url, _):
        assert list(client(url).converged_nodes("1")) == [ChefNode("web-1", "17", ohai_time=read)]
