"""Logins and reads with a real OpenBao: only the referenced secrets, and a clear message for each error."""

from __future__ import annotations

import base64
import http.server
import json
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

import vault
import vault_http
from errors import VaultError
from spec import Reference, VaultAuth, VaultSettings
from testbed.vault import JwtIssuer, VaultAgent
from tests.package.conftest import OpenBao

pytestmark = pytest.mark.servers

TOKEN = Reference("consul_token", "secret", "decommission/consul", "token")
CHEF = Reference("chef_client_key", "secret", "decommission/chef", "pem")
OLD = Reference("consul_token", "team/kv", "consul", "token")
APPROLE = VaultAuth("approle")


def ref(path: str, field: str = "f", mount: str = "secret", version: int | None = None) -> Reference:
    return Reference("consul_token", mount, path, field, version)


def read(
    bao: OpenBao, *references: Reference, token: str = "", environ: Mapping[str, str] | None = None, **settings: Any
) -> dict[str, str]:
    """Reads with the root token or another login, and without a home directory."""
    kv_version = settings.pop("kv_version", None)
    values = {"VAULT_TOKEN": token or bao.root_token} if environ is None else environ
    with vault.login(
        VaultSettings(**settings), {"VAULT_ADDR": bao.address, "HOME": "/nonexistent", **values}
    ) as login:
        return vault.read(login, references, kv_version)


def refusal(bao: OpenBao, *references: Reference, **settings: Any) -> str:
    with pytest.raises(VaultError) as raised:
        read(bao, *references, **settings)
    text = " ".join(raised.value.problems)
    for value in [*bao.values.values(), bao.root_token, *settings.get("environ", {}).values()]:
        assert len(value) < 20 or value not in text or value.startswith("http")
    assert raised.value.__context__ is None or raised.value.__suppress_context__, "it may quote what was sent"
    return text


# Reading


def test_reads_versions_2_and_1_of_the_engine(openbao: OpenBao) -> None:
    assert read(openbao, CHEF, TOKEN) == openbao.values
    assert read(openbao, OLD) == {"consul_token": openbao.values["consul_token"]}


def test_reads_the_version_asked_for(openbao: OpenBao) -> None:
    for value in ("first", "second"):
        openbao.call("POST", "secret/data/versions", {"data": {"v": value}})
    assert read(openbao, ref("versions", "v", version=1)) == {"consul_token": "first"}
    assert read(openbao, ref("versions", "v")) == {"consul_token": "second"}


def test_path_with_special_characters(openbao: OpenBao) -> None:
    openbao.call("POST", "secret/data/odd%3F%23%25ü", {"data": {"f": "x"}})
    assert read(openbao, ref("odd?#%ü")) == {"consul_token": "x"}


@pytest.mark.parametrize(("reference", "rule"), [(TOKEN, "secret/data/decommission/consul"), (OLD, "team/kv/consul")])
def test_a_token_that_may_read_the_path_alone_suffices(openbao: OpenBao, reference: Reference, rule: str) -> None:
    assert read(openbao, reference, token=openbao.narrow_token(rule)) == {
        "consul_token": openbao.values["consul_token"]
    }


def test_engine_version_is_probed_if_it_cannot_be_queried(openbao: OpenBao, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(vault, "_detect", lambda *_: None)
    assert read(openbao, OLD) == {"consul_token": openbao.values["consul_token"]}
    assert read(openbao, TOKEN) == {"consul_token": openbao.values["consul_token"]}


@pytest.fixture
def requests_made(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, str]]:
    made: list[tuple[str, str]] = []
    real = vault_http.Client.ask

    def ask(self: Any, method: str, path: str, *arguments: Any, **named: Any) -> Any:
        made.append((method, path))
        return real(self, method, path, *arguments, **named)

    monkeypatch.setattr(vault_http.Client, "ask", ask)
    return made


def test_reads_exactly_the_references_each_path_once(
    openbao: OpenBao, requests_made: list[tuple[str, str]], approle: Mapping[str, str]
) -> None:
    openbao.call("POST", "secret/data/decommission/both", {"data": {"a": "1", "b": "2"}})
    both = [Reference("a", "secret", "decommission/both", "a"), Reference("b", "secret", "decommission/both", "b")]
    assert read(openbao, *both, environ=approle, auth=APPROLE) == {"a": "1", "b": "2"}
    assert requests_made == [
        ("POST", "auth/approle/login"),
        ("GET", "sys/internal/ui/mounts/secret"),
        ("GET", "secret/data/decommission/both"),
        ("POST", "auth/token/revoke-self"),
    ]


def test_asks_the_namespace_of_the_settings_or_the_environment(openbao: OpenBao) -> None:
    openbao.create_namespace("team-a")
    openbao.write_kv2("secret", "only-here", {"f": "of the team"}, namespace="team-a")
    assert read(openbao, ref("only-here"), namespace="team-a") == {"consul_token": "of the team"}
    environ = {"VAULT_TOKEN": openbao.root_token, "VAULT_NAMESPACE": "team-a/"}
    assert read(openbao, ref("only-here"), environ=environ) == {"consul_token": "of the team"}
    assert "No namespace is set" in refusal(openbao, ref("only-here"))
    assert refusal(openbao, ref("only-here"), namespace="nowhere").startswith("Vault has no namespace nowhere")


@pytest.fixture(scope="module")
def deleted(openbao: OpenBao) -> None:
    """A secret with two deleted versions, and an engine of another type."""
    openbao.call("POST", "sys/mounts/transit", {"type": "transit"})
    for _ in range(3):
        openbao.write_kv2("secret", "gone", {"f": "x"})
    openbao.call("PUT", "secret/delete/gone", {"versions": [1]})
    openbao.call("PUT", "secret/destroy/gone", {"versions": [2]})


@pytest.mark.parametrize(
    ("reference", "sentence"),
    [
        (ref("data/none"), "secret/data/none#f: there is no such path. Write the path without data/."),
        (ref("a", mount="kv"), "no engine mounted at kv can read such a path"),
        (ref("a", mount="transit"), "has the type 'transit'"),
        (ref("decommission/consul", "tokn"), "there is no field tokn (number of other fields: 1)."),
        (ref("consul", "number", "team/kv"), "the field number is not text."),
        (ref("consul", "blank", "team/kv"), "the field blank is empty."),
        (ref("gone", version=1), "version 1 was deleted on 20"),
        (ref("gone", version=2), "version 2 was destroyed."),
        (ref("gone", version=9), "or it has no version 9."),
        (ref("consul", "token", "team/kv", 2), "team/kv is a KV engine of version 1, which stores no versions"),
    ],
)
@pytest.mark.usefixtures("deleted")
def test_each_unreadable_reference_has_its_own_message(openbao: OpenBao, reference: Reference, sentence: str) -> None:
    assert sentence in refusal(openbao, reference)


def test_all_references_that_fail_are_told_at_once(openbao: OpenBao) -> None:
    with pytest.raises(VaultError) as raised:
        read(openbao, Reference("a", "secret", "none", "f"), TOKEN, Reference("b", "secret", "nor", "f"))
    assert len(raised.value.problems) == 2


# Tokens and the agent


def test_revokes_its_own_login_after_success_and_failure(openbao: OpenBao, approle: Mapping[str, str]) -> None:
    before = openbao.token_accessors()
    read(openbao, TOKEN, environ=approle, auth=APPROLE)
    assert openbao.token_accessors() == before
    refusal(openbao, ref("elsewhere"), environ=approle, auth=APPROLE)
    assert openbao.token_accessors() == before


def test_leaves_the_users_token_alone(openbao: OpenBao) -> None:
    token = openbao.create_token("secret/data/decommission/consul")
    read(openbao, TOKEN, token=token)
    read(openbao, TOKEN, token=token)


def test_takes_the_token_of_vault_login(openbao: OpenBao, tmp_path: Path) -> None:
    (tmp_path / ".vault-token").write_text(openbao.root_token + "\n")
    assert read(openbao, TOKEN, environ={"HOME": str(tmp_path)})


def test_a_token_without_the_right(openbao: OpenBao) -> None:
    text = refusal(openbao, TOKEN, token=openbao.narrow_token("secret/data/else"))
    assert "the token of VAULT_TOKEN has no permission to read secret/data/decommission/consul" in text
    assert 'path "secret/data/decommission/consul" { capabilities = ["read"] }' in text


def test_an_expired_token(openbao: OpenBao) -> None:
    token = openbao.expired_token("secret/data/decommission/consul")
    text = refusal(openbao, TOKEN, token=token)
    assert "Vault does not accept the token of VAULT_TOKEN: it has expired, was revoked" in text
    assert "secret/decommission/consul#token" in text
    assert token not in text


def test_no_token(openbao: OpenBao) -> None:
    text = refusal(openbao, TOKEN, environ={})
    assert text.startswith(
        f"There is no Vault token, and {openbao.address} is not an agent with auto-auth: set VAULT_TOK"
    )


def test_malformed_token(openbao: OpenBao) -> None:
    text = refusal(openbao, TOKEN, token="two\nlines")
    assert "is not a Vault token" in text
    assert "two" not in text


@pytest.fixture(scope="module")
def agent(openbao: OpenBao) -> Iterator[VaultAgent]:
    with VaultAgent(openbao, openbao.create_approle("agent", "secret/data/decommission/*")) as agent:
        yield agent


@pytest.mark.parametrize(
    "environ",
    [
        {"VAULT_ADDR": "AGENT"},
        {"VAULT_AGENT_ADDR": "AGENT"},
        {"VAULT_AGENT_ADDR": "AGENT", "VAULT_ADDR": "https://vault.example.com"},
        {"VAULT_PROXY_ADDR": "AGENT/", "VAULT_ADDR": ""},
        {"VAULT_PROXY_ADDR": "AGENT", "VAULT_ADDR": "http://vault.example.com"},
    ],
)
def test_an_agent_with_auto_auth_needs_no_token(openbao: OpenBao, agent: VaultAgent, environ: dict[str, str]) -> None:
    environ = {name: value.replace("AGENT", agent.address) for name, value in environ.items()}
    assert read(openbao, TOKEN, environ=environ) == {"consul_token": openbao.values["consul_token"]}
    text = refusal(openbao, ref("elsewhere"), environ=environ)
    assert "the agent's token has no permission to read secret/data/elsewhere" in text


def test_named_agent_overrides_the_modules_address(openbao: OpenBao, agent: VaultAgent) -> None:
    assert read(openbao, TOKEN, environ={"VAULT_AGENT_ADDR": agent.address}, address="https://vault.example.com")


# AppRole and JWT


def test_approle_from_files(openbao: OpenBao, approle: Mapping[str, str], tmp_path: Path) -> None:
    (tmp_path / "role").write_text(approle["VAULT_ROLE_ID"] + "\n")
    (tmp_path / "secret").write_text(approle["VAULT_SECRET_ID"] + "\n")
    auth = VaultAuth("approle", role_id_file=str(tmp_path / "role"), secret_id_file=str(tmp_path / "secret"))
    assert read(openbao, TOKEN, environ={}, auth=auth)
    missing = VaultAuth("approle", role_id_file=str(tmp_path / "role"), secret_id_file="/none")
    assert "cannot be read from the file /none (vault.auth.secret_id_file)" in refusal(
        openbao, TOKEN, environ={}, auth=missing
    )


def test_approle_without_a_secret_id(openbao: OpenBao, approle: Mapping[str, str]) -> None:
    role = openbao.create_approle("no-secret-id", "secret/data/decommission/*", bind_secret_id=False)
    assert read(openbao, TOKEN, environ={"VAULT_ROLE_ID": role.role_id, "VAULT_SECRET_ID": ""}, auth=APPROLE)
    text = refusal(openbao, TOKEN, environ={"VAULT_ROLE_ID": approle["VAULT_ROLE_ID"]}, auth=APPROLE)
    assert text.startswith("Vault refused the login by AppRole at auth/approle (")
    assert "No secret id was given (vault.auth.secret_id_file or VAULT_SECRET_ID)." in text


def test_a_wrapped_secret_id_is_unwrapped_once(
    openbao: OpenBao, approle: Mapping[str, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    wrapped = openbao.wrapped_secret_id("build")
    environ = {**approle, "VAULT_SECRET_ID": wrapped}
    assert read(openbao, TOKEN, environ=environ, auth=APPROLE)
    text = refusal(openbao, TOKEN, environ=environ, auth=APPROLE)
    assert text.startswith("The wrapped AppRole secret id cannot be unwrapped (")
    assert wrapped not in text + "".join(capsys.readouterr())
    (tmp_path / "wrapped").write_text(openbao.wrapped_secret_id("build") + "\n")
    auth = VaultAuth("approle", secret_id_file=str(tmp_path / "wrapped"))
    assert read(openbao, TOKEN, environ={"VAULT_ROLE_ID": approle["VAULT_ROLE_ID"]}, auth=auth)


def test_approle_refused(openbao: OpenBao, approle: Mapping[str, str]) -> None:
    wrong = {"VAULT_ROLE_ID": approle["VAULT_ROLE_ID"], "VAULT_SECRET_ID": "not-the-secret-id"}
    text = refusal(openbao, TOKEN, environ=wrong, auth=APPROLE)
    assert text.startswith("Vault refused the login by AppRole at auth/approle (")
    assert "not-the-secret-id" not in text
    text = refusal(openbao, TOKEN, environ={}, auth=APPROLE)
    assert "AppRole role id for Vault is missing: the environment variable VAULT_ROLE_ID is empty or not set" in text
    text = refusal(openbao, TOKEN, environ=approle, auth=VaultAuth("approle", mount="elsewhere"))
    assert "Vault refused the login by AppRole at auth/elsewhere" in text
    assert "vault.auth.mount" in text


@pytest.fixture(scope="module")
def issuer(openbao: OpenBao) -> JwtIssuer:
    made = JwtIssuer()
    openbao.create_jwt_role("build", "secret/data/decommission/*", issuer=made, subject="pipeline", audience="vault")
    return made


def test_jwt_from_a_variable_of_any_name_or_a_file(openbao: OpenBao, issuer: JwtIssuer, tmp_path: Path) -> None:
    token = issuer.sign(subject="pipeline", audience="vault")
    before = openbao.token_accessors()
    assert read(openbao, TOKEN, environ={"VAULT_JWT": token}, auth=VaultAuth("jwt", role="build"))
    named = VaultAuth("jwt", role="build", jwt_env="ID_TOKEN")
    assert read(openbao, TOKEN, environ={"ID_TOKEN": token}, auth=named)
    (tmp_path / "token").write_text(token)
    from_file = VaultAuth("jwt", role="build", jwt_file=str(tmp_path / "token"))
    assert read(openbao, TOKEN, environ={}, auth=from_file)
    assert openbao.token_accessors() == before


def test_jwt_refused(openbao: OpenBao, issuer: JwtIssuer) -> None:
    token = issuer.sign(subject="pipeline", audience="somebody-else")
    text = refusal(openbao, TOKEN, environ={"VAULT_JWT": token}, auth=VaultAuth("jwt", role="build"))
    assert text.startswith("Vault refused the login by JWT at auth/jwt, role build (")
    text = refusal(openbao, TOKEN, environ={}, auth=VaultAuth("jwt", role="build", jwt_env="ID_TOKEN"))
    assert "the environment variable ID_TOKEN is empty or not set" in text


def test_a_batch_token_is_not_revoked(
    openbao: OpenBao, issuer: JwtIssuer, requests_made: list[tuple[str, str]], capsys: Any
) -> None:
    role = openbao.call("GET", "auth/jwt/role/build")["data"]
    openbao.call("POST", "auth/jwt/role/batch", role | {"token_type": "batch"})
    environ = {"VAULT_JWT": issuer.sign(subject="pipeline", audience="vault")}
    assert read(openbao, TOKEN, environ=environ, auth=VaultAuth("jwt", role="batch"))
    assert ("POST", "auth/token/revoke-self") not in requests_made
    assert capsys.readouterr().err == ""


# Addresses and other servers


@pytest.mark.parametrize(
    ("environ", "address", "sentence"),
    [
        ({}, None, "There are secrets to read, but no Vault address: set vault.address or the variable VAULT_ADDR."),
        (
            {"VAULT_ADDR": "https://vault.example.com/ui/"},
            None,
            "The Vault address in VAULT_ADDR has a path with /ui, ",
        ),
        (
            {"VAULT_ADDR": "https://v.example/ui/vault/secrets"},
            None,
            "The Vault address in VAULT_ADDR has a path with",
        ),
        (
            {"VAULT_ADDR": "https://v.example:8200/v1/"},
            None,
            "The Vault address in VAULT_ADDR has a path with /v1, as",
        ),
        (
            {"VAULT_ADDR": "https://v.example/#/vault"},
            None,
            "The Vault address in VAULT_ADDR must be a URL without ?",
        ),
        ({"VAULT_ADDR": "vault:8200"}, None, "The Vault address in VAULT_ADDR must be a URL such as https://vault."),
        ({"VAULT_AGENT_ADDR": "unix:///agent.sock"}, None, "The Vault address in VAULT_AGENT_ADDR must be a URL"),
        (
            {"VAULT_ADDR": "https://v.example"},
            "https://u:p@v",
            "The Vault address in vault.address must not contain a",
        ),
        (
            {},
            "http://127.0.0.1:9",
            "Vault cannot be reached at http://127.0.0.1:9 (Connection refused): check",
        ),
        (
            {"VAULT_PROXY_ADDR": "http://127.0.0.1:9"},
            "https://vault.example.com",
            "The proxy for the Vault at https://vault.example.com refused the connection",
        ),
        (
            {"VAULT_PROXY_ADDR": "ftp://p"},
            "https://v",
            "The proxy for Vault must be a URL with the scheme http, https",
        ),
    ],
)
def test_each_wrong_address_has_its_own_message(environ: dict[str, str], address: str | None, sentence: str) -> None:
    settings = VaultSettings(address=address)
    with pytest.raises(VaultError) as raised, vault.login(settings, {"VAULT_TOKEN": "t", **environ}) as login:
        vault.read(login, [TOKEN], None)
    assert str(raised.value).startswith(sentence)


def test_the_address_and_namespace_of_the_settings_come_first(capsys: pytest.CaptureFixture[str]) -> None:
    own = VaultSettings(address="https://own/", namespace="own")
    found = vault_http.connection(own, {"VAULT_ADDR": "https://v", "VAULT_NAMESPACE": "n"})
    assert (found.address, found.namespace) == ("https://own", "own")
    found = vault_http.connection(VaultSettings(), {"VAULT_ADDR": "https://v:8200/ ", "VAULT_NAMESPACE": "n/"})
    assert (found.address, found.namespace) == ("https://v:8200", "n")
    assert capsys.readouterr().err == ""
    vault_http.connection(VaultSettings(address="http://vault.example.com"), {})
    assert "without encryption" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("address", "environ", "proxy"),
    [
        ("https://vault.example.com", {}, "http://corporate:3128"),
        ("https://vault.internal", {}, None),
        ("http://127.0.0.1:8100", {}, None),
        ("http://localhost:8100", {}, None),
        ("https://vault.example.com", {"VAULT_HTTP_PROXY": "http://own:1"}, "http://own:1"),
        ("https://v", {"VAULT_HTTP_PROXY": "http://own:1", "VAULT_PROXY_ADDR": "http://best:1"}, "http://best:1"),
    ],
)
def test_the_proxy_is_vaults_own_or_the_environments_and_none_for_this_machine(
    monkeypatch: pytest.MonkeyPatch, address: str, environ: dict[str, str], proxy: str | None
) -> None:
    for name in ("http_proxy", "https_proxy"):
        monkeypatch.setenv(name, "http://corporate:3128")
    monkeypatch.setenv("no_proxy", ".internal")
    assert vault_http.connection(VaultSettings(address=address), environ).proxy == proxy


def test_a_socks_proxy_resolves_the_name(tmp_path: Path) -> None:
    pytest.importorskip("socks")
    environ = {"VAULT_ADDR": "https://vault.example.com", "VAULT_PROXY_ADDR": "socks5://127.0.0.1:9"}
    pool = vault_http.Client(vault_http.connection(VaultSettings(), environ))._pool
    assert pool.connection_pool_kw["_socks_options"]["rdns"] is True


def test_a_sealed_vault() -> None:
    with OpenBao() as bao:
        bao.seal()
        assert refusal(bao, TOKEN) == f"The Vault at {bao.address} is sealed; unseal it, then build again."
        text = refusal(bao, TOKEN, environ={"VAULT_ROLE_ID": "a", "VAULT_SECRET_ID": "b"}, auth=APPROLE)
        assert "is sealed" in text


class _Stranger(http.server.BaseHTTPRequestHandler):
    """A server with scripted answers, for AWS logins, other software and a standby."""

    answers: Callable[[str, str], tuple[int, dict[str, str], bytes]]
    sent: list[tuple[str, str, dict[str, str], Any]]

    def do_GET(self) -> None:
        self._any()

    def do_POST(self) -> None:
        self._any()

    def _any(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        self.sent.append((self.command, self.path, dict(self.headers), json.loads(body or b"null")))
        status, headers, content = type(self).answers(self.command, self.path)
        self.send_response(status)
        for name, value in {"Content-Length": str(len(content)), **headers}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *_: Any) -> None:
        pass


@contextmanager
def stranger(answers: Callable[[str, str], tuple[int, dict[str, str], bytes]]) -> Iterator[tuple[str, list[Any]]]:
    sent: list[Any] = []
    handler = type("Handler", (_Stranger,), {"answers": staticmethod(answers), "sent": sent})
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}", sent
        server.shutdown()
        thread.join()


@pytest.mark.parametrize(
    ("status", "content", "sentence"),
    [
        (
            200,
            b"<!DOCTYPE html><title>Vault</title>",
            "is not Vault: it answered with status 200 and no JSON. Check v",
        ),
        (
            404,
            b"not found",
            "is not Vault: it answered with status 404 and no JSON. Check vault.address or VAULT_ADDR.",
        ),
        (
            200,
            b'["a list"]',
            "is not Vault: it answered with status 200 and no JSON. Check vault.address or VAULT_ADDR",
        ),
        (200, b'{"hello": "world"}', "is not Vault: its login returned no token."),
        (200, b'{"auth": {"client_token": 5}}', "is not Vault: its login returned no token."),
        (501, b'{"errors": ["not initialized"]}', "is not initialized."),
        (500, b'{"errors": ["broken with a-long-jwt-token"]}', "answered with an error (broken with ***)."),
        (503, b'{"errors": ["standby"]}', "is unavailable (503) (standby)."),
        (429, b"{}", "has too many requests (429). Build again later."),
    ],
)
def test_server_that_is_not_vault_or_is_unavailable_is_reported(status: int, content: bytes, sentence: str) -> None:
    with stranger(lambda *_: (status, {}, content)) as (address, _):
        settings = VaultSettings(address=address, auth=VaultAuth("jwt"))
        with pytest.raises(VaultError) as raised, vault.login(settings, {"VAULT_JWT": "a-long-jwt-token"}):
            pass
    assert sentence in str(raised.value)


@pytest.mark.parametrize("content", [b"{}", b'{"data": 5}', b'{"data": {"data": 5, "type": "kv"}}'])
def test_an_answer_without_a_secret_is_told(content: bytes) -> None:
    with (
        stranger(lambda *_: (200, {}, content)) as (address, _),
        vault.login(VaultSettings(address=address), {"VAULT_TOKEN": "t"}) as login,
        pytest.raises(VaultError, match="not"),
    ):
        vault.read(login, [TOKEN], 2)


def test_standby_redirects_to_the_active_node(openbao: OpenBao) -> None:
    with stranger(lambda _, path: (307, {"Location": openbao.address + path}, b"")) as (address, _):
        assert read(openbao, TOKEN, address=address) == {"consul_token": openbao.values["consul_token"]}
    with stranger(lambda _, path: (307, {"Location": path}, b"")) as (address, sent):
        assert "redirects too many times" in refusal(openbao, TOKEN, address=address)
    assert len(sent) == 3


# AWS IAM: OpenBao has no such login, so a stub records it.


def aws_vault(method: str, path: str) -> tuple[int, dict[str, str], bytes]:
    if path == "/v1/auth/aws/login":
        document: Any = {"auth": {"client_token": "s.of-aws", "token_type": "service"}}
    elif path.startswith("/v1/sys/internal"):
        document = {"data": {"type": "kv", "options": {"version": "2"}}}
    else:
        document = {"data": {"data": {"token": "value"}, "metadata": {}}}
    return 200, {"Content-Type": "application/json"}, json.dumps(document).encode()


@pytest.mark.parametrize(
    ("region", "url"),
    [
        (None, "https://sts.amazonaws.com/"),
        ("eu-west-1", "https://sts.eu-west-1.amazonaws.com/"),
        ("cn-north-1", "https://sts.cn-north-1.amazonaws.com.cn/"),
    ],
)
def test_aws_login_signs_a_request_that_vault_can_forward(
    monkeypatch: pytest.MonkeyPatch, region: str | None, url: str
) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AKIAEXAMPLE")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "the-aws-secret")
    monkeypatch.setenv("AWS_SESSION_TOKEN", "the-session")
    auth = VaultAuth("aws", role="build", aws_header_value="vault.example.com", aws_region=region)
    with (
        stranger(aws_vault) as (address, requests),
        vault.login(VaultSettings(address=address, auth=auth), {}) as login,
    ):
        assert vault.read(login, [TOKEN], None) == {"consul_token": "value"}
    [(_, _, _, sent)] = [request for request in requests if request[1] == "/v1/auth/aws/login"]
    assert sent["role"] == "build"
    assert base64.b64decode(sent["iam_request_url"]).decode() == url
    assert base64.b64decode(sent["iam_request_body"]) == b"Action=GetCallerIdentity&Version=2011-06-15"
    headers = {
        name.lower(): value for name, value in json.loads(base64.b64decode(sent["iam_request_headers"])).items()
    }
    assert headers["x-vault-aws-iam-server-id"] == ["vault.example.com"]
    assert headers["x-amz-security-token"] == ["the-session"]
    (authorization,) = headers["authorization"]
    assert f"/{region or 'us-east-1'}/sts/aws4_request" in authorization
    assert "x-vault-aws-iam-server-id" in authorization.split("SignedHeaders=")[1].split(",")[0].split(";")
    assert "the-aws-secret" not in json.dumps(sent)
    assert [headers["X-Vault-Token"] for _, path, headers, _ in requests if path.endswith("revoke-self")] == [
        "s.of-aws"
    ]


def test_aws_login_without_credentials(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_PROFILE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "none"))
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "none"))
    settings = VaultSettings(address="http://127.0.0.1:9", auth=VaultAuth("aws"))
    with pytest.raises(VaultError, match="needs AWS credentials, but there are none"), vault.login(settings, {}):
        pass
