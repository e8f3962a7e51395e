"""Logins and reads on a real OpenBao: exactly the references, and a sentence for each thing that goes wrong."""

from __future__ import annotations

import base64
import http.server
import json
import threading
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import hvac.adapters
import pytest

import vault
from errors import VaultError
from spec import Reference, VaultAuth, VaultSettings
from testbed.vault import JwtIssuer
from tests.package.conftest import OpenBao

pytestmark = pytest.mark.servers

TOKEN = Reference("consul_token", "secret", "decommission/consul", "token")
CHEF = Reference("chef_client_key", "secret", "decommission/chef", "pem")
OLD = Reference("consul_token", "team/kv", "consul", "token")


def read(
    bao: OpenBao, *references: Reference, token: str = "", environ: Mapping[str, str] | None = None, **settings: Any
) -> dict[str, str]:
    kv_version = settings.pop("kv_version", None)
    where = VaultSettings(**({"address": bao.address} | settings))
    values = {"VAULT_TOKEN": token or bao.root_token} if environ is None else environ
    with vault.login(where, values, Path("/nonexistent")) as login:
        return vault.read(login, references, kv_version)


def refusal(bao: OpenBao, *references: Reference, **settings: Any) -> str:
    with pytest.raises(VaultError) as raised:
        read(bao, *references, **settings)
    text = " ".join(raised.value.problems)
    for value in [*bao.values.values(), bao.root_token]:
        assert value not in text
    hidden = raised.value.__context__ is None or raised.value.__suppress_context__
    assert hidden, "what lies below may quote what was sent"
    return text


def test_reads_versions_2_and_1_of_the_engine(openbao: OpenBao) -> None:
    assert read(openbao, CHEF, TOKEN) == openbao.values
    assert read(openbao, OLD) == {"consul_token": openbao.values["consul_token"]}


def test_reads_the_version_asked_for(openbao: OpenBao) -> None:
    for value in ("first", "second"):
        openbao.call("POST", "secret/data/versions", {"data": {"v": value}})
    assert read(openbao, Reference("consul_token", "secret", "versions", "v", 1)) == {"consul_token": "first"}
    assert read(openbao, Reference("consul_token", "secret", "versions", "v")) == {"consul_token": "second"}


@pytest.mark.parametrize(("reference", "rule"), [(TOKEN, "secret/data/decommission/consul"), (OLD, "team/kv/consul")])
def test_a_token_that_may_read_the_path_alone_suffices(openbao: OpenBao, reference: Reference, rule: str) -> None:
    assert read(openbao, reference, token=openbao.narrow_token(rule)) == {
        "consul_token": openbao.values["consul_token"]
    }


def test_finds_the_version_by_trying_where_it_may_not_ask(openbao: OpenBao, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(vault, "_detect", lambda *_: None)
    assert read(openbao, OLD) == {"consul_token": openbao.values["consul_token"]}
    assert read(openbao, TOKEN) == {"consul_token": openbao.values["consul_token"]}


@pytest.fixture
def requests_made(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, str]]:
    made: list[tuple[str, str]] = []
    real: Any = hvac.adapters.RawAdapter.request

    def request(self: Any, method: str, url: str, *arguments: Any, **named: Any) -> Any:
        made.append((method, url.removeprefix("/v1/")))
        return real(self, method, url, *arguments, **named)

    monkeypatch.setattr(hvac.adapters.RawAdapter, "request", request)
    return made


def test_reads_exactly_the_references_each_path_once(
    openbao: OpenBao, requests_made: list[tuple[str, str]], approle: Mapping[str, str]
) -> None:
    openbao.call("POST", "secret/data/decommission/both", {"data": {"a": "1", "b": "2"}})
    both = [Reference("a", "secret", "decommission/both", "a"), Reference("b", "secret", "decommission/both", "b")]
    assert read(openbao, *both, environ=approle, auth=VaultAuth("approle")) == {"a": "1", "b": "2"}
    assert requests_made == [
        ("post", "auth/approle/login"),
        ("get", "sys/internal/ui/mounts/secret"),
        ("get", "secret/data/decommission/both"),
        ("post", "auth/token/revoke-self"),
    ]


def test_revokes_its_own_login_after_success_and_failure(openbao: OpenBao, approle: Mapping[str, str]) -> None:
    before = openbao.token_accessors()
    read(openbao, TOKEN, environ=approle, auth=VaultAuth("approle"))
    assert openbao.token_accessors() == before
    refusal(openbao, Reference("x", "secret", "elsewhere", "f"), environ=approle, auth=VaultAuth("approle"))
    assert openbao.token_accessors() == before


def test_leaves_the_users_token_alone(openbao: OpenBao) -> None:
    token = openbao.create_token("secret/data/decommission/consul")
    read(openbao, TOKEN, token=token)
    read(openbao, TOKEN, token=token)


def test_takes_the_token_of_vault_login(openbao: OpenBao, tmp_path: Path) -> None:
    (tmp_path / ".vault-token").write_text(openbao.root_token + "\n")
    with vault.login(VaultSettings(), {"VAULT_ADDR": openbao.address}, tmp_path) as login:
        assert vault.read(login, [TOKEN], None)


def test_asks_the_namespace_of_the_settings_or_the_environment(openbao: OpenBao) -> None:
    openbao.create_namespace("team-a")
    openbao.write_kv2("secret", "only-here", {"f": "of the team"}, namespace="team-a")
    reference = Reference("consul_token", "secret", "only-here", "f")
    assert read(openbao, reference, namespace="team-a") == {"consul_token": "of the team"}
    environ = {"VAULT_TOKEN": openbao.root_token, "VAULT_NAMESPACE": "team-a/"}
    assert read(openbao, reference, environ=environ) == {"consul_token": "of the team"}
    assert "No namespace was asked for" in refusal(openbao, reference)
    assert refusal(openbao, reference, namespace="nowhere").startswith("Vault has no namespace nowhere")


def test_a_path_that_does_not_exist(openbao: OpenBao) -> None:
    text = refusal(openbao, Reference("consul_token", "secret", "data/none", "f"))
    assert text.startswith("The secret consul_token cannot be read from secret/data/none#f: there is no such path.")
    assert "The path is written without data/." in text


def test_a_mount_that_does_not_exist(openbao: OpenBao) -> None:
    assert "nothing is mounted at kv" in refusal(openbao, Reference("consul_token", "kv", "a", "f"))


def test_a_mount_of_another_kind(openbao: OpenBao) -> None:
    openbao.call("POST", "sys/mounts/transit", {"type": "transit"})
    assert "of the type 'transit'" in refusal(openbao, Reference("consul_token", "transit", "a", "f"))


def test_a_field_that_does_not_exist(openbao: OpenBao) -> None:
    text = refusal(openbao, Reference("consul_token", "secret", "decommission/consul", "tokn"))
    assert text == (
        "The secret consul_token cannot be read from secret/decommission/consul#tokn: "
        "there is no field tokn (1 other fields are there)."
    )


@pytest.mark.parametrize(("field", "words"), [("number", "is not text"), ("blank", "is empty")])
def test_a_value_that_is_no_text(openbao: OpenBao, field: str, words: str) -> None:
    assert f"the field {field} {words}." in refusal(openbao, Reference("consul_token", "team/kv", "consul", field))


def test_versions_that_are_gone(openbao: OpenBao) -> None:
    for _ in range(3):
        openbao.write_kv2("secret", "gone", {"f": "x"})
    openbao.call("PUT", "secret/delete/gone", {"versions": [1]})
    openbao.call("PUT", "secret/destroy/gone", {"versions": [2]})
    assert "version 1 was deleted on 20" in refusal(openbao, Reference("a", "secret", "gone", "f", 1))
    assert "version 2 was destroyed." in refusal(openbao, Reference("a", "secret", "gone", "f", 2))
    assert "or it has no version 9." in refusal(openbao, Reference("a", "secret", "gone", "f", 9))
    text = refusal(openbao, Reference("consul_token", "team/kv", "consul", "token", 2))
    assert "team/kv is a key-value engine of version 1, which keeps no versions" in text


def test_all_references_that_fail_are_told_at_once(openbao: OpenBao) -> None:
    with pytest.raises(VaultError) as raised:
        read(openbao, Reference("a", "secret", "none", "f"), TOKEN, Reference("b", "secret", "nor", "f"))
    assert len(raised.value.problems) == 2


def test_a_token_without_the_right(openbao: OpenBao) -> None:
    text = refusal(openbao, TOKEN, token=openbao.narrow_token("secret/data/else"))
    assert "the token of VAULT_TOKEN has no right to read secret/data/decommission/consul" in text
    assert 'path "secret/data/decommission/consul" { capabilities = ["read"] }' in text


def test_an_expired_token(openbao: OpenBao) -> None:
    token = openbao.expired_token("secret/data/decommission/consul")
    text = refusal(openbao, TOKEN, token=token)
    assert "Vault does not accept the token of VAULT_TOKEN (any more): it has expired, was revoked" in text
    assert "secret/decommission/consul#token" in text
    assert token not in text


def test_no_token(openbao: OpenBao) -> None:
    assert refusal(openbao, TOKEN, environ={}).startswith("There is no Vault token: set VAULT_TOKEN")


def test_a_token_that_cannot_be_one(openbao: OpenBao) -> None:
    text = refusal(openbao, TOKEN, token="two\nlines")
    assert "is not a Vault token" in text
    assert "two" not in text


def test_no_address() -> None:
    with pytest.raises(VaultError, match=r"no Vault address: set vault.address, or the variable VAULT_ADDR"):
        vault.connection(VaultSettings(), {})


def test_an_address_without_a_vault(openbao: OpenBao) -> None:
    text = refusal(openbao, TOKEN, address="http://127.0.0.1:9")
    assert text.startswith("There is no Vault to be reached at http://127.0.0.1:9:")


def test_a_sealed_vault() -> None:
    with OpenBao() as bao:
        bao.seal()
        assert refusal(bao, TOKEN) == f"The Vault at {bao.address} is sealed; unseal it, then build again."
        text = refusal(bao, TOKEN, environ={"VAULT_ROLE_ID": "a", "VAULT_SECRET_ID": "b"}, auth=VaultAuth("approle"))
        assert "is sealed" in text


def test_the_servers_certificate_is_checked() -> None:
    with OpenBao(tls=True) as bao:
        bao.write_kv2("secret", "a", {"f": "x"})
        reference = Reference("consul_token", "secret", "a", "f")
        assert f"The certificate of the Vault at {bao.address} is not trusted" in refusal(bao, reference)
        assert read(bao, reference, ca_certificate_file=str(bao.ca_certificate)) == {"consul_token": "x"}
        environ = {"VAULT_TOKEN": bao.root_token, "VAULT_CACERT": str(bao.ca_certificate)}
        assert read(bao, reference, environ=environ) == {"consul_token": "x"}
        skipping = {"VAULT_TOKEN": bao.root_token, "VAULT_SKIP_VERIFY": "1"}
        assert read(bao, reference, environ=skipping) == {"consul_token": "x"}


def test_the_certificate_and_the_standard_variables(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], openbao: OpenBao
) -> None:
    with pytest.raises(VaultError, match=r"The CA certificate for Vault, /none.pem, does not exist"):
        vault.connection(VaultSettings(address="https://v"), {"VAULT_CACERT": "/none.pem"})
    (tmp_path / "ca.pem").write_text("")
    found = vault.connection(
        VaultSettings(), {"VAULT_ADDR": "https://v:8200/", "VAULT_CACERT": str(tmp_path / "ca.pem")}
    )
    assert found == vault.Connection("https://v:8200", None, str(tmp_path / "ca.pem"))
    own = VaultSettings(address="https://own", namespace="own", ca_certificate_file=str(tmp_path / "ca.pem"))
    found = vault.connection(own, {"VAULT_ADDR": "https://v", "VAULT_NAMESPACE": "n", "VAULT_CACERT": "/none"})
    assert found == vault.Connection("https://own", "own", str(tmp_path / "ca.pem"))
    assert vault.connection(own, {"VAULT_SKIP_VERIFY": "true"}).verify is False
    assert "VAULT_SKIP_VERIFY is set" in capsys.readouterr().err
    vault.connection(VaultSettings(address="http://vault.example.com"), {})
    assert "without encryption" in capsys.readouterr().err
    vault.connection(VaultSettings(address=openbao.address), {})
    assert capsys.readouterr().err == ""


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


def test_approle_refused(openbao: OpenBao, approle: Mapping[str, str]) -> None:
    auth = VaultAuth("approle")
    wrong = {"VAULT_ROLE_ID": approle["VAULT_ROLE_ID"], "VAULT_SECRET_ID": "not-the-secret-id"}
    text = refusal(openbao, TOKEN, environ=wrong, auth=auth)
    assert text.startswith("Vault refused the login by AppRole at auth/approle (")
    assert "not-the-secret-id" not in text
    text = refusal(openbao, TOKEN, environ={"VAULT_ROLE_ID": "x"}, auth=auth)
    assert (
        "AppRole secret id for Vault is missing: the environment variable VAULT_SECRET_ID is empty or not set" in text
    )
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
    assert token not in text
    text = refusal(openbao, TOKEN, environ={}, auth=VaultAuth("jwt", role="build", jwt_env="ID_TOKEN"))
    assert "the environment variable ID_TOKEN is empty or not set" in text


def test_a_batch_token_is_not_revoked(
    openbao: OpenBao, issuer: JwtIssuer, requests_made: list[tuple[str, str]], capsys: Any
) -> None:
    role = openbao.call("GET", "auth/jwt/role/build")["data"]
    openbao.call("POST", "auth/jwt/role/batch", role | {"token_type": "batch"})
    environ = {"VAULT_JWT": issuer.sign(subject="pipeline", audience="vault")}
    assert read(openbao, TOKEN, environ=environ, auth=VaultAuth("jwt", role="batch"))
    assert ("post", "auth/token/revoke-self") not in requests_made
    assert capsys.readouterr().err == ""


# AWS IAM: OpenBao has no such login, so a stand-in takes it and shows what it was sent.


class _AwsVault(http.server.BaseHTTPRequestHandler):
    logins: list[dict[str, Any]]
    revoked: list[str]

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        if self.path == "/v1/auth/aws/login":
            self.logins.append(json.loads(body))
            self._answer({"auth": {"client_token": "s.of-aws", "token_type": "service"}})
        else:
            self.revoked.append(self.headers["X-Vault-Token"])
            self._answer({})

    def do_GET(self) -> None:
        if self.path.startswith("/v1/sys/internal"):
            self._answer({"data": {"type": "kv", "options": {"version": "2"}}})
        else:
            self._answer({"data": {"data": {"token": "value"}, "metadata": {}}})

    def _answer(self, document: Any) -> None:
        content = json.dumps(document).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture
def aws_vault(monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[str, type[_AwsVault]]]:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AKIAEXAMPLE")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "the-aws-secret")
    monkeypatch.setenv("AWS_SESSION_TOKEN", "the-session")
    handler = type("Handler", (_AwsVault,), {"logins": [], "revoked": []})
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}", handler
        server.shutdown()
        thread.join()


@pytest.mark.parametrize(
    ("region", "url"),
    [
        (None, "https://sts.amazonaws.com/"),
        ("eu-west-1", "https://sts.eu-west-1.amazonaws.com/"),
        ("cn-north-1", "https://sts.cn-north-1.amazonaws.com.cn/"),
    ],
)
def test_aws_login_signs_a_request_that_vault_can_send_on(
    aws_vault: tuple[str, type[_AwsVault]], region: str | None, url: str
) -> None:
    address, handler = aws_vault
    auth = VaultAuth("aws", role="build", aws_header_value="vault.example.com", aws_region=region)
    with vault.login(VaultSettings(address=address, auth=auth), {}) as login:
        assert vault.read(login, [TOKEN], None) == {"consul_token": "value"}
    (sent,) = handler.logins
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
    assert handler.revoked == ["s.of-aws"]


def test_aws_login_without_credentials(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_PROFILE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "none"))
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "none"))
    settings = VaultSettings(address="http://127.0.0.1:9", auth=VaultAuth("aws"))
    with pytest.raises(VaultError, match="needs AWS credentials, and there are none"), vault.login(settings, {}):
        pass
