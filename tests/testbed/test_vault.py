"""The testbed's Vault guards its secrets as a production server does."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import requests

from testbed.vault import JwtIssuer, VaultApiError, VaultServer

pytestmark = pytest.mark.servers

SECRET = "/v1/secret/data/apps/chef"
SECRET_PATH = SECRET.removeprefix("/v1/")


@pytest.fixture(scope="module")
def vault() -> Iterator[VaultServer]:
    with VaultServer() as vault:
        vault.write_kv2("secret", "apps/chef", {"key": "sealed"})
        yield vault


def status_of(vault: VaultServer, path: str, token: str, namespace: str | None = None) -> int:
    try:
        vault.api("GET", path, token=token, namespace=namespace)
    except VaultApiError as error:
        return error.status
    return 200


def test_token_reads_its_path_and_no_other(vault: VaultServer) -> None:
    vault.write_kv2("secret", "apps/other", {"key": "x"})
    token = vault.create_token(SECRET_PATH)
    assert vault.api("GET", SECRET, token=token)["data"]["data"] == {"key": "sealed"}
    assert status_of(vault, "/v1/secret/data/apps/other", token) == 403
    assert status_of(vault, "/v1/secret/metadata/apps/chef", token) == 403


def test_kv1_and_kv2(vault: VaultServer) -> None:
    vault.write_kv1("old", "apps/chef", {"key": "one"})
    assert vault.api("GET", "/v1/old/apps/chef")["data"] == {"key": "one"}
    assert vault.write_kv2("new", "apps/chef", {"key": "a"}) == 1
    assert vault.write_kv2("new", "apps/chef", {"key": "b"}) == 2
    assert vault.api("GET", "/v1/new/data/apps/chef?version=1")["data"]["data"] == {"key": "a"}


def test_deleted_secret_is_not_found(vault: VaultServer) -> None:
    vault.write_kv2("secret", "gone", {"key": "x"})
    vault.delete_kv2("secret", "gone")
    assert status_of(vault, "/v1/secret/data/gone", vault.root_token) == 404


def test_revoked_and_expired_tokens_are_refused(vault: VaultServer) -> None:
    revoked = vault.create_token(SECRET_PATH)
    assert vault.token_is_valid(revoked)
    vault.revoke_token(revoked)
    assert not vault.token_is_valid(revoked)
    assert status_of(vault, SECRET, revoked) == 403
    assert status_of(vault, SECRET, vault.expired_token(SECRET_PATH)) == 403


def test_approle_login(vault: VaultServer) -> None:
    role = vault.create_approle("pipeline", SECRET_PATH)
    before = vault.token_accessors()
    login = vault.api("POST", "/v1/auth/approle/login", token="", json=role._asdict())["auth"]
    assert vault.token_accessors() - before == {login["accessor"]}
    assert status_of(vault, SECRET, login["client_token"]) == 200
    vault.revoke_token(login["client_token"])
    assert vault.token_accessors() == before


def test_jwt_login(vault: VaultServer) -> None:
    issuer = JwtIssuer()
    vault.create_jwt_role("pipeline", SECRET_PATH, issuer=issuer, subject="repo:a", audience="vault")

    def login(jwt: str) -> str:
        body = {"role": "pipeline", "jwt": jwt}
        token: str = vault.api("POST", "/v1/auth/jwt/login", token="", json=body)["auth"]["client_token"]
        return token

    assert status_of(vault, SECRET, login(issuer.sign(subject="repo:a", audience="vault"))) == 200
    for refused in (
        issuer.sign(subject="repo:b", audience="vault"),
        issuer.sign(subject="repo:a", audience="other"),
        issuer.sign(subject="repo:a", audience="vault", lifetime_seconds=-600),
        JwtIssuer().sign(subject="repo:a", audience="vault"),
    ):
        with pytest.raises(VaultApiError, match="error validating token"):
            login(refused)


def test_namespaces_are_apart(vault: VaultServer) -> None:
    try:
        vault.create_namespace("team-a")
    except VaultApiError:
        pytest.skip("this server has no namespaces")
    vault.write_kv2("secret", "apps/chef", {"key": "team"}, namespace="team-a")
    token = vault.create_token(SECRET_PATH, namespace="team-a")
    answer = vault.api("GET", SECRET, token=token, namespace="team-a")
    assert answer["data"]["data"] == {"key": "team"}
    assert status_of(vault, SECRET, token) == 403


def test_sealed_server_refuses_everything() -> None:
    with VaultServer() as vault:
        vault.write_kv2("secret", "apps/chef", {"key": "x"})
        vault.seal()
        assert status_of(vault, SECRET, vault.root_token) == 503
        vault.unseal()
        assert status_of(vault, SECRET, vault.root_token) == 200


def test_tls_needs_its_ca() -> None:
    with VaultServer(tls=True) as vault:
        assert vault.address.startswith("https://127.0.0.1:")
        assert vault.write_kv2("secret", "apps/chef", {"key": "x"}) == 1
        with pytest.raises(requests.exceptions.SSLError):
            requests.get(f"{vault.address}/v1/sys/health", timeout=5)


def test_stopped_server_leaves_nothing(tmp_path: Path) -> None:
    vault = VaultServer()
    with vault:
        assert vault.run_directory.is_dir()
    assert vault.server is not None
    assert not vault.server.running
    assert not vault.run_directory.exists()
