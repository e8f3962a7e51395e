"""TLS with a real OpenBao: trusted authorities, and a clear message for each failure."""

from __future__ import annotations

import ssl
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import certifi
import pytest

import vault
import vault_http
from errors import VaultError
from spec import Reference, VaultSettings
from testbed.certificates import Authority, Identity
from testbed.vault import Listener
from tests.package.conftest import OpenBao

pytestmark = pytest.mark.servers

REFERENCE = Reference("consul_token", "secret", "a", "f")
STRICT = sys.version_info >= (3, 13)  # https://docs.python.org/3/library/ssl.html#ssl.create_default_context


class Tls:
    """An OpenBao with many listeners and certificates, and the matching CA files."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        (directory / "..data").mkdir()  # as in a volume of Kubernetes
        self.authority = Authority(directory)
        self.old = Authority(directory, "old", key_identifiers=False)
        self.client: Identity = self.authority.issue("client")
        mine = self.authority.issue
        self.bao = OpenBao(
            listeners={
                "good": Listener(mine("good")),
                "expired": Listener(mine("expired", days=(-3, -1))),
                "early": Listener(mine("early", days=(1, 3))),
                "other-name": Listener(mine("other-name", ["vault.example.com"])),
                "no-key-identifier": Listener(self.old.issue("no-key-identifier")),
                "client": Listener(mine("for-clients"), self.authority.certificate),
            }
        )

    def read(self, listener: str, environ: dict[str, str], **settings: Any) -> str:
        """The value or the error message. CA, OLD and so on in a variable stand for the files."""
        files = {
            "CA": str(self.authority.certificate),
            "OLD": str(self.old.certificate),
            "BYTES": self.authority.certificate.read_text(),
            "DIRECTORY": str(self.directory),
            "CERT": str(self.client.certificate),
            "KEY": str(self.client.key),
        }
        environ = {name: files.get(value, value) for name, value in environ.items()}
        address = self.bao.addresses.get(listener, listener)
        known = {"VAULT_TOKEN": self.bao.root_token, "VAULT_ADDR": address}
        try:
            with vault.login(VaultSettings(**settings), known | environ) as login:
                return vault.read(login, [REFERENCE], None)["consul_token"]
        except VaultError as error:
            return str(error).replace(address, "ADDRESS")


@pytest.fixture(scope="module")
def tls(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Tls]:
    made = Tls(tmp_path_factory.mktemp("tls"))
    with made.bao as bao:
        bao.write_kv2("secret", "a", {"f": "x"})
        yield made


NOT_TRUSTED = "The certificate of the Vault at ADDRESS is not trusted: this machine does not know its authority ("


@pytest.mark.parametrize(
    ("listener", "environ", "outcome"),
    [
        ("good", {}, NOT_TRUSTED),
        ("good", {"VAULT_CACERT": "CA"}, "x"),
        ("good", {"VAULT_CACERT": "OLD"}, NOT_TRUSTED),
        ("good", {"VAULT_CACERT_BYTES": "BYTES"}, "x"),
        ("good", {"VAULT_CACERT_BYTES": "BYTES", "VAULT_CACERT": "OLD"}, "x"),
        ("good", {"VAULT_CAPATH": "DIRECTORY"}, "x"),
        ("good", {"REQUESTS_CA_BUNDLE": "CA"}, "x"),
        ("good", {"VAULT_SKIP_VERIFY": "true"}, "x"),
        ("no-key-identifier", {"VAULT_CACERT": "OLD"}, "x"),
        ("expired", {"VAULT_CACERT": "CA"}, "The certificate of the Vault at ADDRESS, or an authority in its chain"),
        ("early", {"VAULT_CACERT": "CA"}, "The certificate of the Vault at ADDRESS is not valid yet ("),
        ("other-name", {"VAULT_CACERT": "CA"}, "The certificate of the Vault at ADDRESS is for another name (IP"),
        ("other-name", {"VAULT_CACERT": "CA", "VAULT_TLS_SERVER_NAME": "vault.example.com"}, "x"),
        (
            "good",
            {"VAULT_CACERT": "CA", "VAULT_TLS_SERVER_NAME": "vault.example.com"},
            "The certificate of the Vault at ADDRESS is for another name (Hostname mismatch",
        ),
        ("client", {"VAULT_CACERT": "CA"}, "The Vault at ADDRESS refused the TLS handshake ("),
        ("client", {"VAULT_CACERT": "CA", "VAULT_CLIENT_CERT": "CERT", "VAULT_CLIENT_KEY": "KEY"}, "x"),
        ("good", {"VAULT_CACERT": "/none.pem"}, "The CA certificate for Vault, /none.pem (VAULT_CACERT), does not"),
        ("good", {"VAULT_CACERT": "KEY"}, "The CA certificate for Vault, "),
        ("good", {"VAULT_CACERT_BYTES": "MII"}, "VAULT_CACERT_BYTES contains no certificate"),
        ("good", {"VAULT_CLIENT_CERT": "CERT"}, "VAULT_CLIENT_CERT and VAULT_CLIENT_KEY belong together"),
        ("good", {"VAULT_CLIENT_CERT": "CERT", "VAULT_CLIENT_KEY": "/none"}, "The client certificate or key"),
        ("good", {"VAULT_CLIENT_CERT": "CA", "VAULT_CLIENT_KEY": "KEY"}, "The client certificate and key for V"),
    ],
)  # fmt: skip
def test_each_certificate_is_trusted_or_its_problem_is_named(
    tls: Tls, listener: str, environ: dict[str, str], outcome: str
) -> None:
    found = tls.read(listener, environ)
    assert found == outcome if outcome == "x" else found.startswith(outcome)


def test_the_settings_name_an_authority_too(tls: Tls) -> None:
    assert tls.read("good", {"VAULT_CACERT": "/none"}, ca_certificate_file=str(tls.authority.certificate)) == "x"


def test_the_wrong_kind_of_address_is_named(tls: Tls) -> None:
    text = tls.read(tls.bao.address.replace("http:", "https:"), {})
    assert text.startswith("The server at ADDRESS does not use TLS: check the port, or use http://")
    text = tls.read(tls.bao.addresses["good"].replace("https:", "http:"), {})
    assert text == "The Vault at ADDRESS needs TLS: give its address with https://."


def test_a_named_authority_adds_to_the_public_ones(tls: Tls, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Here, the listener's authority counts as a public one."""
    public = tmp_path / "public.pem"
    public.write_text(Path(certifi.where()).read_text() + tls.authority.certificate.read_text())
    monkeypatch.setattr(certifi, "where", lambda: str(public))
    assert tls.read("good", {}) == "x"
    assert tls.read("good", {"VAULT_CACERT": "OLD"}) == "x"


@pytest.mark.skipif(not STRICT, reason="before Python 3.13 such an authority was accepted")
def test_a_rule_of_python_is_named_where_the_authority_was_not(
    tls: Tls, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """The machine itself trusts the authority."""
    public = tmp_path / "public.pem"
    public.write_text(tls.old.certificate.read_text())
    monkeypatch.setattr(certifi, "where", lambda: str(public))
    text = tls.read("no-key-identifier", {})
    assert "fails a strict check of Python (Missing Authority Key Identifier)" in text
    assert "name it in vault.ca_certificate_file or VAULT_CACERT" in text
    assert tls.read("no-key-identifier", {"VAULT_CACERT": "OLD"}) == "x"


def test_skipping_verification_is_warned_about(tls: Tls, capsys: pytest.CaptureFixture[str]) -> None:
    assert tls.read("expired", {"VAULT_SKIP_VERIFY": "1"}) == "x"
    assert "VAULT_SKIP_VERIFY is set: Vault's certificate is not checked" in capsys.readouterr().err


def test_a_redirect_never_leads_away_from_tls(tls: Tls, monkeypatch: pytest.MonkeyPatch) -> None:
    client = vault_http.Client(vault_http.connection(VaultSettings(address=tls.bao.addresses["good"]), {}))
    answer = type("Answer", (), {"get_redirect_location": lambda _: tls.bao.address})()
    monkeypatch.setattr(client._pool, "urlopen", lambda *_, **__: answer)
    with pytest.raises(VaultError, match="redirects to an unencrypted address"):
        client.ask("GET", "sys/health")
    assert client.where.tls.verify_mode == ssl.CERT_REQUIRED
