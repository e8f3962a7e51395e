"""The real Chef client against servers that misbehave, each a small HTTP server on loopback."""

from __future__ import annotations

import contextlib
import json
import socket
import ssl
import threading
import time
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from ipaddress import ip_address
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs, urlsplit

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from ec2_decommission.clients.chef import ChefNode, ConvergedNode, PyChefServer
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

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

PEM = (
    rsa.generate_private_key(public_exponent=65537, key_size=2048)
    .private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    .decode()
)
Answer = tuple[int, str | bytes]


class Requests:
    """What a stub server was asked, and over how many connections."""

    def __init__(self) -> None:
        self.lines: list[str] = []
        self.connections = 0


@contextmanager
def serving(answer: Callable[[str, str], Answer | None]) -> Iterator[tuple[str, Requests]]:
    """A server that answers by method and path; None closes the connection without an answer."""
    seen = Requests()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def setup(self) -> None:
            seen.connections += 1
            super().setup()

        def _answer(self) -> None:
            self.rfile.read(int(self.headers.get("Content-Length") or 0))
            seen.lines.append(f"{self.command} {self.path}")
            given = answer(self.command, self.path)
            if given is None:
                self.close_connection = True
                return
            status, text = given
            body = text.encode() if isinstance(text, str) else text
            self.send_response(status)
            if 300 <= status < 400:
                self.send_header("Location", "https://elsewhere.example/")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        do_GET = do_POST = do_DELETE = _answer  # noqa: N815

        def log_message(self, format: str, *args: Any) -> None:  # noqa: A002
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}/organizations/x", seen
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


@contextmanager
def raw_server(talk: Callable[[socket.socket], None]) -> Iterator[str]:
    """A server that does as it likes with each connection."""
    listener = socket.create_server(("127.0.0.1", 0))
    end = threading.Event()

    def serve() -> None:
        listener.settimeout(0.05)
        while not end.is_set():
            try:
                connection, _ = listener.accept()
            except TimeoutError:
                continue
            threading.Thread(target=talk, args=(connection,), daemon=True).start()

    thread = threading.Thread(target=serve)
    thread.start()
    try:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
    finally:
        end.set()
        thread.join()
        listener.close()


def closed_port() -> str:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return f"http://127.0.0.1:{listener.getsockname()[1]}"


def client(
    url: str,
    *,
    seconds: float = 60.0,
    timeout: float = 10.0,
    concurrency: int = 4,
    name: str = "decommission",
    verify: bool | str = True,
) -> PyChefServer:
    deadline = Deadline.after(seconds)
    settings = ChefSettings(url, name, request_timeout_seconds=timeout, max_concurrency=concurrency)
    return PyChefServer(settings, PEM, lambda: deadline, verify)


def self_signed(directory: Path) -> ssl.SSLContext:
    key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "127.0.0.1")])
    now = datetime.now(UTC)
    certificate = (
        x509.CertificateBuilder(
            name, name, key.public_key(), x509.random_serial_number(), now, now + timedelta(hours=1)
        )
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ip_address("127.0.0.1"))]), critical=False)
        .sign(key, hashes.SHA256())
    )
    (directory / "certificate.pem").write_bytes(certificate.public_bytes(Encoding.PEM))
    (directory / "key.pem").write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(directory / "certificate.pem", directory / "key.pem")
    return context


def row(name: str, instance_id: str | None = None) -> dict[str, Any]:
    return {"url": f"https://chef/nodes/{name}", "data": {"name": name, "instance_id": instance_id}}


def search_answer(rows: list[Any], total: int) -> Answer:
    return 200, json.dumps({"rows": rows, "start": 0, "total": total})


# Errors, sorted


@pytest.mark.parametrize(
    ("status", "text", "kind", "told"),
    [
        (401, '{"error": ["Invalid signature"]}', ConfigurationError, "chef_client_key or chef.client_name is wrong"),
        (
            403,
            '{"error": ["missing read permission"]}',
            AccessError,
            "client decommission may not POST .*/search/node",
        ),
        (404, '{"error": ["organization x does not exist"]}', ConfigurationError, "must name the organization"),
        (404, "<html>no such page</html>", TransientError, "with 404"),
        (400, '{"error": ["bad query"]}', ConfigurationError, "refused .* with 400: bad query"),
        (429, "slow down", TransientError, "with 429"),
        (500, '{"error": ["oops"]}', TransientError, "with 500: oops"),
        (502, "<html>bad gateway</html>", TransientError, "with 502"),
        (503, "", TransientError, "with 503"),
        (302, "", ConfigurationError, "redirects"),
        (200, "<html>log in here</html>", TransientError, "unreadable answer"),
        (200, "[]", TransientError, "unreadable answer"),
        (200, "", TransientError, "unreadable answer"),
        (200, '{"rows": {}, "total": 1}', TransientError, "unreadable answer"),
        (200, '{"rows": [], "total": "many"}', TransientError, "unreadable answer"),
        (200, '{"rows": [{"data": {}}], "total": 1}', TransientError, "unreadable answer"),
        (200, '{"rows": ["web-1"], "total": 1}', TransientError, "unreadable answer"),
        (200, b"\xff\xfe\x00garbage", TransientError, "unreadable answer"),
    ],
)
def test_what_a_search_may_answer(status: int, text: str | bytes, kind: type[Exception], told: str) -> None:
    with serving(lambda _method, _path: (status, text)) as (url, _), pytest.raises(kind, match=told) as caught:
        client(url).search_nodes_by_instance_id(["i-0aaa"])
    assert "127.0.0.1" in str(caught.value)
    assert "PRIVATE KEY" not in str(caught.value)
    assert isinstance(caught.value, AccessError) == (status == 403)


@pytest.mark.parametrize("status", [200, 404, 500])
def test_a_page_that_is_no_chef_server_s_proves_no_deletion(status: int) -> None:
    """A proxy's 404 or 200 does not mean that the node is gone."""
    with serving(lambda _method, _path: (status, "<html></html>")) as (url, _):
        answers: list[bool | DecommissionError] = [
            client(url).delete_nodes(["web-1"])["web-1"],
            client(url).clients(["web-1"])["web-1"],
        ]
    assert all(isinstance(answer, TransientError) for answer in answers)


def test_a_node_that_is_another_is_refused() -> None:
    with serving(lambda _method, _path: (200, '{"name": "WEB-1"}')) as (url, _):
        assert isinstance(client(url).nodes(["web-1"])["web-1"], TransientError)


def test_one_name_s_error_is_no_other_s() -> None:
    def answer(method: str, path: str) -> Answer:
        return (500, "{}") if path.endswith("web-2") else (200, "{}")

    with serving(answer) as (url, _):
        found = client(url).delete_nodes(["web-1", "web-2", "web-3"])
    assert found["web-1"] is True
    assert isinstance(found["web-2"], TransientError)
    assert found["web-3"] is True


# No connection, no answer, no time


def test_pychef_itself_stumbles_over_a_connection_error() -> None:
    """``e.message`` went with Python 2. Should this fail, PyChef was mended."""
    with pytest.raises(AttributeError, match="message"):
        chef.ChefAPI(closed_port(), Key(PEM), "decommission").api_request("GET", "/nodes")


def test_a_server_that_is_down() -> None:
    with pytest.raises(TransientError, match=r"no connection for POST /search/node .*refused"):
        client(closed_port()).search_nodes_by_instance_id(["i-0aaa"])


def test_a_server_that_is_down_is_not_asked_for_each_of_a_thousand(monkeypatch: pytest.MonkeyPatch) -> None:
    server = client(closed_port(), concurrency=2)
    tried: list[str] = []
    inner = server._api._request

    def count(method: str, url: str, data: Any, headers: Any) -> Any:
        tried.append(url)
        return inner(method, url, data, headers)

    monkeypatch.setattr(server._api, "_request", count)
    found = server.delete_nodes([f"web-{number}" for number in range(1000)])
    assert len(found) == 1000
    assert all(isinstance(answer, TransientError) for answer in found.values())
    assert len(tried) <= 2 * (3 + 2)


def test_a_server_that_hangs() -> None:
    """PyChef itself has no time-out."""
    with raw_server(lambda _connection: time.sleep(5)) as url:
        began = time.monotonic()
        with pytest.raises(TransientError, match="did not answer POST /search/node within 1 s"):
            client(url, timeout=1).search_nodes_by_instance_id(["i-0aaa"])
        assert time.monotonic() - began < 2


def test_the_deadline_cuts_the_time_out() -> None:
    with raw_server(lambda _connection: time.sleep(8)) as url:
        began = time.monotonic()
        with pytest.raises(TransientError):
            client(url, seconds=1.5, timeout=60).search_nodes_by_instance_id(["i-0aaa"])
        assert time.monotonic() - began < 3


def test_a_server_that_sends_drop_by_drop() -> None:
    def drip(connection: socket.socket) -> None:
        connection.recv(65536)
        connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n")
        try:
            for _ in range(100):
                connection.sendall(b" ")
                time.sleep(0.1)
        except OSError:
            pass

    with raw_server(drip) as url:
        began = time.monotonic()
        with pytest.raises(TransientError, match="too slow"):
            client(url, timeout=1).search_nodes_by_instance_id(["i-0aaa"])
        assert time.monotonic() - began < 3


def test_an_answer_that_breaks_off() -> None:
    def break_off(connection: socket.socket) -> None:
        connection.recv(65536)
        connection.sendall(b'HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n{"rows": [')
        connection.close()

    with raw_server(break_off) as url, pytest.raises(TransientError):
        client(url).search_nodes_by_instance_id(["i-0aaa"])


def test_garbage_instead_of_http() -> None:
    def babble(connection: socket.socket) -> None:
        connection.recv(65536)
        connection.sendall(b"\x00\x01\x02 hello\r\n\r\n")
        connection.close()

    with raw_server(babble) as url, pytest.raises(TransientError):
        client(url).search_nodes_by_instance_id(["i-0aaa"])


def test_no_call_is_begun_without_time_for_it() -> None:
    with serving(lambda _method, _path: (200, "{}")) as (url, seen):
        with pytest.raises(OutOfTime, match="POST /organizations/x/search/node on the Chef server"):
            client(url, seconds=0.5).search_nodes_by_instance_id(["i-0aaa"])
        assert isinstance(client(url, seconds=0.5).delete_nodes(["web-1"])["web-1"], OutOfTime)
    assert seen.lines == []


def test_a_certificate_that_is_not_trusted_is_a_configuration_error(tmp_path: Path) -> None:
    context = self_signed(tmp_path)

    def talk(connection: socket.socket) -> None:
        with contextlib.suppress(OSError), context.wrap_socket(connection, server_side=True) as secured:
            while b"ipaddress" not in secured.recv(65536):  # the body comes after the headers
                pass
            secured.sendall(b'HTTP/1.1 200 OK\r\nContent-Length: 22\r\n\r\n{"rows":[],"total": 0}')

    with raw_server(talk) as url:
        https = url.replace("http:", "https:")
        with pytest.raises(ConfigurationError, match="certificate is not trusted"):
            client(https).search_nodes_by_instance_id(["i-0aaa"])
        trusting = client(https, verify=str(tmp_path / "certificate.pem"))
        assert trusting.search_nodes_by_instance_id(["i-0aaa"]).nodes == ()


def test_a_tls_handshake_that_breaks_off_passes() -> None:
    with (
        raw_server(lambda connection: connection.close()) as url,
        pytest.raises(TransientError, match="no connection"),
    ):
        client(url.replace("http:", "https:")).search_nodes_by_instance_id(["i-0aaa"])


def test_a_client_name_that_breaks_the_header() -> None:
    with serving(lambda _method, _path: (200, "{}")) as (url, _), pytest.raises(ConfigurationError):
        client(url, name="a\r\nX-Evil: 1").search_nodes_by_instance_id(["i-0aaa"])


# Connections


def test_connections_are_used_again() -> None:
    with serving(lambda _method, _path: (200, "{}")) as (url, seen):
        server = client(url, concurrency=3)
        for _ in range(3):
            server.delete_nodes([f"web-{number}" for number in range(20)])
        server.close()
    assert len(seen.lines) == 60
    assert seen.connections <= 3


def test_a_pooled_connection_that_broke_is_tried_once_more() -> None:
    answers: list[Answer | None] = [search_answer([], 0), None, search_answer([row("web-1", "i-0aaa")], 1)]
    with serving(lambda _method, _path: answers.pop(0)) as (url, seen):
        server = client(url)
        server.search_nodes_by_instance_id(["i-0aaa"])
        assert server.search_nodes_by_instance_id(["i-0aaa"]).nodes == (ChefNode("web-1", "i-0aaa"),)
    assert len(seen.lines) == 3


def test_a_deletion_whose_answer_was_lost_counts_as_done() -> None:
    answers: list[Answer | None] = [None, (404, '{"error": ["node web-1 not found"]}')]
    with serving(lambda _method, _path: answers.pop(0)) as (url, _):
        assert client(url).delete_nodes(["web-1"]) == {"web-1": True}


def test_a_deletion_whose_second_answer_is_garbage_fails_for_that_name_alone() -> None:
    answers: list[Answer | None] = [None, (200, "<html>")]
    with serving(lambda _method, _path: answers.pop(0)) as (url, _):
        (error,) = client(url).delete_nodes(["web-1"]).values()
    assert isinstance(error, TransientError)
    assert "unreadable answer to DELETE /nodes/web-1" in str(error)


@pytest.mark.parametrize("status", [400, 413, 414])
def test_one_name_that_is_refused_will_be_again_and_a_search_is_everybodys(status: int) -> None:
    with serving(lambda _method, _path: (status, '{"error": ["no"]}')) as (url, _):
        (error,) = client(url).delete_nodes(["web-1"]).values()
        assert isinstance(error, PermanentError)
        assert f"refused DELETE /organizations/x/nodes/web-1 with {status}: no" in str(error)
        with pytest.raises(ConfigurationError, match=f"refused POST /organizations/x/search/node with {status}"):
            client(url).search_nodes_by_instance_id(["i-0aaa"])


# Searching


def test_a_chef_server_s_pages_are_all_read() -> None:
    """Its total counts all that match."""
    everything = [row(f"web-{number}", "i-0aaa") for number in range(2500)]

    def answer(method: str, path: str) -> Answer:
        start = int(parse_qs(urlsplit(path).query)["start"][0])
        return search_answer(everything[start : start + 1000], 2500)

    with serving(answer) as (url, seen):
        found = client(url).search_nodes_by_instance_id(["i-0aaa"])
    assert len(found.nodes) == 2500
    assert found.hidden == 0
    assert len(seen.lines) == 3


def test_goiardi_s_pages_are_all_read() -> None:
    """Its total counts the page (measured on 0.11.10), so a full page is never the last."""
    everything = [row(f"web-{number}", "i-0aaa") for number in range(2000)]

    def answer(method: str, path: str) -> Answer:
        start = int(parse_qs(urlsplit(path).query)["start"][0])
        page = everything[start : start + 1000]
        return search_answer(page, len(page))

    with serving(answer) as (url, seen):
        assert len(client(url).search_nodes_by_instance_id(["i-0aaa"]).nodes) == 2000
    assert len(seen.lines) == 3


def test_a_short_page_in_the_middle_is_not_the_end() -> None:
    """A Chef server shows fewer than it counts, where the client may not read some (strict_search_result_acls)."""

    def answer(method: str, path: str) -> Answer:
        start = int(parse_qs(urlsplit(path).query)["start"][0])
        return search_answer([row("web-2", "i-0aaa")] if start else [None, row("web-1", "i-0aaa")], 1005)

    with serving(answer) as (url, _):
        found = client(url).search_nodes_by_instance_id(["i-0aaa"])
    assert [node.name for node in found.nodes] == ["web-1", "web-2"]
    assert found.hidden == 1003


@pytest.mark.parametrize("counts", ["all", "up to 10000", "the page"])
def test_more_nodes_than_a_search_reaches_are_searched_for_in_parts(counts: str) -> None:
    """A Chef server shows no more than 10,000 of what a query matches; goiardi's total counts the page."""
    everything = [row(f"web-{n}", f"i-0{n % 3:x}{n:015x}") for n in range(12_000)]

    def answer(_method: str, path: str) -> Answer:
        asked = parse_qs(urlsplit(path).query)
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


@pytest.mark.parametrize(
    ("written", "read"),
    [
        ("1760000000.5", 1_760_000_000.5),
        (1_760_000_000.5, 1_760_000_000.5),
        (1_760_000_000, 1_760_000_000.0),
        *((other, None) for other in (None, "yesterday", True, ["x"])),
    ],
)
def test_what_ohai_may_have_written(written: Any, read: float | None) -> None:
    data = {"name": "web-1", "instance_id": 17, "region": 5, "ohai_time": written, "local_hostname": None}
    with serving(lambda *_: search_answer([{"url": "x", "data": data}, None], 2)) as (url, _):
        assert list(client(url).converged_nodes("1")) == [ConvergedNode("web-1", "17", ohai_time=read)]


def test_queries_are_joined_and_their_urls_short() -> None:
    with serving(lambda _method, _path: search_answer([], 0)) as (url, seen):
        client(url, concurrency=1).search_nodes_by_instance_id([f"i-{number:017x}" for number in range(250)])
        client(url, concurrency=1).search_nodes_by_name([f"{'n' * 200}-{number}" for number in range(60)])
    assert len(seen.lines) == 3 + 3
    assert all(len(line) < 8000 for line in seen.lines)
    query = parse_qs(urlsplit(seen.lines[0]).query)["q"][0]
    assert query.startswith("ec2_instance_id:i-00000000000000000 OR ec2_instance_id:i-00000000000000001 OR ")


def test_a_name_s_colon_is_no_syntax() -> None:
    with serving(lambda _method, _path: search_answer([], 0)) as (url, seen):
        client(url).search_nodes_by_name(["rack:7"])
    assert parse_qs(urlsplit(seen.lines[0]).query)["q"] == ["name:rack\\:7"]


def test_names_that_no_server_can_hold_cost_no_call() -> None:
    """Least of all "..": an HTTP client shortens DELETE /nodes/.. to DELETE /."""
    names = ["", ".", "..", "a/b", "a b", "web-1\n", "a?b", "a%2fb", "ä", "../clients/web-1"]
    with serving(lambda _method, _path: (200, "{}")) as (url, seen):
        server = client(url)
        assert server.delete_nodes(names) == dict.fromkeys(names, False)
        assert server.delete_clients([*names, "rack:7"]) == dict.fromkeys([*names, "rack:7"], False)
        assert server.nodes(names) == dict.fromkeys(names)
        assert server.clients(names) == dict.fromkeys(names, False)
        assert server.search_nodes_by_name(names).nodes == ()
    assert seen.lines == []


def test_many_names_are_listed_first() -> None:
    def answer(method: str, path: str) -> Answer:
        if path.endswith("/nodes"):
            return 200, '{"web-7": "…", "other": "…"}'
        return 200, '{"name": "web-7", "automatic": {"ec2": {"instance_id": "i-0aaa"}}}'

    with serving(answer) as (url, seen):
        found = client(url).nodes([f"web-{number}" for number in range(100)])
    assert {name for name, node in found.items() if node} == {"web-7"}
    assert seen.lines == ["GET /organizations/x/nodes", "GET /organizations/x/nodes/web-7"]


# What a node tells


def node_from(automatic: dict[str, Any], **levels: Any) -> ChefNode:
    with serving(lambda _method, _path: (200, json.dumps({"name": "web-1", "automatic": automatic, **levels}))) as (
        url,
        _,
    ):
        node = client(url).nodes(["web-1"])["web-1"]
    assert isinstance(node, ChefNode)
    return node


def test_a_node_s_own_facts() -> None:
    macs = {
        "02:aa": {
            "vpc_id": "vpc-1",
            "local_ipv4s": "10.0.0.5\n10.0.0.6",
            "public_ipv4s": "192.0.2.1",
            "ipv6s": "2001:DB8:0::1",
        },
        "02:bb": {"vpc_id": "vpc-1", "local_ipv4s": "10.0.1.5"},
    }
    ec2 = {
        "instance_id": "i-0aaa",
        "local_ipv4": "10.0.0.5",
        "public_ipv4": "192.0.2.1",
        "local_hostname": "ip-10-0-0-5.ec2.internal",
        "public_hostname": "ec2-192-0-2-1.compute-1.amazonaws.com",
        "network_interfaces_macs": macs,
    }
    assert node_from({"ec2": ec2, "ipaddress": "172.17.0.1"}) == ChefNode(
        "web-1",
        "i-0aaa",
        vpc_id="vpc-1",
        private_ips=("10.0.0.5", "10.0.0.6", "10.0.1.5"),
        public_ips=("192.0.2.1",),
        ipv6_addresses=("2001:db8::1",),
        private_dns_names=("ip-10-0-0-5.ec2.internal",),
        public_dns_names=("ec2-192-0-2-1.compute-1.amazonaws.com",),
    )


def test_odd_attributes_are_no_facts() -> None:
    ec2 = {"instance_id": "i-0aaa", "local_ipv4": "none", "local_hostname": 7, "network_interfaces_macs": ["x"]}
    assert node_from({"ec2": ec2, "ipaddress": ["10.0.0.5"]}) == ChefNode("web-1", "i-0aaa")


@pytest.mark.parametrize(
    ("ec2", "instance_id"),
    [(None, None), ({}, None), ({"instance_id": ""}, None), ("x", None), ({"instance_id": 7}, "7")],
)
def test_whether_a_node_bears_an_id(ec2: Any, instance_id: str | None) -> None:
    assert node_from({"ec2": ec2}).instance_id == instance_id


def test_precedence_is_chef_s() -> None:
    node = node_from(
        {"ec2": {"instance_id": "i-0aaa"}},
        override={"ec2": {"instance_id": "i-0bbb"}},
        normal={"ec2": {"local_ipv4": "10.0.0.5"}},
    )
    assert (node.instance_id, node.private_ips) == ("i-0aaa", ("10.0.0.5",))
