"""Which servers are trusted, and what is said of the others: real handshakes on loopback."""

from __future__ import annotations

import os
import socket
import ssl
import stat
import sys
import tempfile
from datetime import timedelta
from pathlib import Path
from typing import Any

import certifi
import pytest
from cryptography.hazmat.primitives.serialization import BestAvailableEncryption, Encoding, PrivateFormat

from ec2_decommission.clients.http import Http, NoConnectionError
from ec2_decommission.clients.tls import add_client_certificate, trusting
from ec2_decommission.deadline import Deadline
from ec2_decommission.errors import ConfigurationError
from tests.fakes.certificates import Identity, root
from tests.fakes.http import serving, talking

NAMES = ("consul_client_certificate", "consul_client_key")
PUBLIC, PRIVATE, ODD = root("Public CA"), root("Private CA"), root("Old private CA", odd=True)
INTERMEDIATE = PRIVATE.signed("Intermediate CA", authority=True)
ALONE = ODD.signed("self", odd=True)  # nobody's root is at hand
CLIENT = PRIVATE.signed("function")


@pytest.fixture(autouse=True)
def public_authorities(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """One authority stands for those that everybody trusts."""
    (tmp_path / "public.pem").write_text(PUBLIC.pem)
    monkeypatch.setattr(certifi, "where", lambda: str(tmp_path / "public.pem"))


def bundle(directory: Path, *identities: Identity) -> Path:
    path = directory / "ca_bundle.pem"
    if identities:
        path.write_text("".join(identity.pem for identity in identities))
    return path


def get(url: str, context: ssl.SSLContext) -> int:
    http = Http("Chef server chef", lambda: Deadline.after(20), timeout_seconds=5, tls=context)
    try:
        return http.send("GET", url).status
    finally:
        http.close()


def test_public_and_private_authorities_serve_in_one_context(tmp_path: Path) -> None:
    context = trusting(bundle(tmp_path, PRIVATE, ODD))
    for authority in (PUBLIC, PRIVATE, ODD):
        tls = authority.signed("server", odd=authority is ODD).server(tmp_path)
        with serving(lambda _: (200, ""), tls) as (url, _):
            assert get(url, context) == 200


def test_the_intermediate_authority_suffices_where_the_user_named_it(tmp_path: Path) -> None:
    with serving(lambda _: (200, ""), INTERMEDIATE.signed("server").server(tmp_path)) as (url, _):
        assert get(url, trusting(bundle(tmp_path, INTERMEDIATE))) == 200


@pytest.mark.parametrize(
    ("server", "named", "told"),
    [
        (PRIVATE.signed("s"), [], "unable to get local issuer certificate; package.ca_bundle_file adds authorities"),
        (PRIVATE.signed("s"), [ODD], "unable to get local issuer certificate; package.ca_bundle_file"),
        (
            PUBLIC.signed("s", address="127.0.0.9"),
            [],
            "IP address mismatch, certificate is not valid for '127.0.0.1'",
        ),
        (PRIVATE.signed("s", address="127.0.0.9"), [PRIVATE], "IP address mismatch"),
        (PUBLIC.signed("s", lasts=timedelta(minutes=30)), [], "certificate has expired"),
        (PRIVATE.signed("s", lasts=timedelta(minutes=30)), [PRIVATE], "certificate has expired"),
        (PRIVATE.signed("s", begins=timedelta(hours=1)), [PRIVATE], "certificate is not yet valid"),
        (root("alone"), [], "self-signed certificate"),
    ],
    ids=["unknown", "others named", "host", "host, named", "expired", "expired, named", "future", "self-signed"],
)
def test_a_server_that_is_not_trusted_is_a_configuration_error_with_the_reason(
    tmp_path: Path, server: Identity, named: list[Identity], told: str
) -> None:
    with serving(lambda _: (200, ""), server.server(tmp_path)) as (url, seen):
        with pytest.raises(ConfigurationError, match="Chef server chef: its certificate is not trusted: ") as caught:
            get(url, trusting(bundle(tmp_path, *named)))
        assert told in str(caught.value)
    assert seen.lines == []


@pytest.mark.skipif(sys.version_info < (3, 13), reason="Python 3.13 asks more of a certificate than others do")
def test_python_3_13_only_rejections_are_named(tmp_path: Path) -> None:
    (tmp_path / "public.pem").write_text(ODD.pem)
    with (
        serving(lambda _: (200, ""), ODD.signed("server", odd=True).server(tmp_path)) as (url, _),
        pytest.raises(ConfigurationError, match=r"Basic Constraints of CA cert not marked critical|Key Identifier"),
    ):
        get(url, trusting())


@pytest.mark.parametrize("text", ["", "hello", "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"])
def test_a_bundle_without_certificates(tmp_path: Path, text: str) -> None:
    (tmp_path / "ca_bundle.pem").write_text(text)
    with pytest.raises(ConfigurationError, match=r"ca_bundle.pem .* package.ca_bundle_file must be a list"):
        trusting(tmp_path / "ca_bundle.pem")


def test_a_server_that_does_not_speak_tls() -> None:
    with (
        serving(lambda _: (200, "")) as (url, _),
        pytest.raises(ConfigurationError, match="does not use TLS there"),
    ):
        get(url.replace("http:", "https:"), trusting())


def test_a_handshake_that_breaks_off_passes() -> None:
    with talking(lambda _: None) as url, pytest.raises(NoConnectionError, match="no connection"):
        get(url.replace("http:", "https:"), trusting())


def test_no_common_tls_version(tmp_path: Path) -> None:
    tls = PUBLIC.signed("server").server(tmp_path)
    context = trusting()
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    tls.maximum_version = ssl.TLSVersion.TLSv1_2
    with (
        serving(lambda _: (200, ""), tls) as (url, _),
        pytest.raises(ConfigurationError, match="no TLS version or cipher in common"),
    ):
        get(url, context)


# Our own certificate


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
@pytest.mark.parametrize("shown", [None, CLIENT, PUBLIC.signed("stranger")], ids=["none", "right", "stranger"])
def test_a_server_that_asks_for_a_certificate(
    tmp_path: Path, version: ssl.TLSVersion, shown: Identity | None
) -> None:
    tls = PUBLIC.signed("server").server(tmp_path, clients=PRIVATE)
    tls.maximum_version = version
    context = trusting()
    if shown:
        add_client_certificate(context, shown.pem, shown.key_pem, NAMES)
    with serving(lambda _: (200, ""), tls) as (url, _):
        if shown is CLIENT:
            assert get(url, context) == 200
        else:
            with pytest.raises(ConfigurationError, match="client certificate is missing, or the server does not"):
                get(url, context)


def test_a_chain_is_presented_whole(tmp_path: Path) -> None:
    leaf = INTERMEDIATE.signed("function")
    context = trusting()
    add_client_certificate(context, leaf.pem + INTERMEDIATE.pem, leaf.key_pem, NAMES)
    with serving(lambda _: (200, ""), PUBLIC.signed("server").server(tmp_path, clients=PRIVATE)) as (url, _):
        assert get(url, context) == 200


LOCKED = CLIENT.key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, BestAvailableEncryption(b"x")).decode()


@pytest.mark.parametrize(
    ("certificate", "key", "told"),
    [
        ("hunter2", CLIENT.key_pem, "secret consul_client_certificate is not a certificate in PEM format"),
        (CLIENT.key_pem, CLIENT.key_pem, "secret consul_client_certificate is not a certificate in PEM format"),
        (CLIENT.pem, "hunter2", "secret consul_client_key is not a private key in PEM format"),
        (CLIENT.pem, CLIENT.pem, "secret consul_client_key is not a private key in PEM format"),
        (CLIENT.pem, ALONE.key_pem, "secret consul_client_key is not the key of the certificate"),
        (CLIENT.pem, LOCKED, "secret consul_client_key is protected by a passphrase"),
        (CLIENT.pem, CLIENT.key_pem[:600], "secrets consul_client_certificate and consul_client_key cannot be used"),
        (CLIENT.pem[:600], CLIENT.key_pem, "secrets consul_client_certificate and consul_client_key cannot be used"),
    ],
)
def test_a_certificate_that_cannot_be_used(certificate: str, key: str, told: str) -> None:
    with pytest.raises(ConfigurationError, match=told) as caught:
        add_client_certificate(trusting(), certificate, key, NAMES)
    said = str(caught.value)
    assert not any(line in said for line in (certificate + key).splitlines()[1:-1])
    assert "hunter2" not in said
    assert caught.value.__cause__ is None


@pytest.mark.skipif(not hasattr(os, "memfd_create"), reason="files in memory are Linux's")
def test_the_key_is_on_no_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "NamedTemporaryFile", lambda *_, **__: pytest.fail("a file"))
    open_before = set(os.listdir("/proc/self/fd"))  # noqa: PTH208
    add_client_certificate(trusting(), CLIENT.pem, CLIENT.key_pem, NAMES)
    assert set(os.listdir("/proc/self/fd")) == open_before  # noqa: PTH208


def test_elsewhere_the_key_is_in_a_file_of_ours_for_a_moment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(os, "memfd_create", raising=False)
    load = ssl.SSLContext.load_cert_chain
    seen: list[tuple[Path, int]] = []

    def watch(context: Any, certificate: str, key: str, **more: Any) -> None:
        seen.extend((Path(path), stat.S_IMODE(Path(path).stat().st_mode)) for path in (certificate, key))
        load(context, certificate, key, **more)

    monkeypatch.setattr(ssl.SSLContext, "load_cert_chain", watch)
    add_client_certificate(trusting(), CLIENT.pem, CLIENT.key_pem, NAMES)
    assert [mode for _, mode in seen] == [0o600, 0o600]
    assert not any(path.exists() for path, _ in seen)


def test_every_attempt_checks_the_host(tmp_path: Path) -> None:
    """A name that resolves to the server is not the server's name."""
    server = PUBLIC.signed("server").server(tmp_path)
    with (
        serving(lambda _: (200, ""), server) as (url, _),
        pytest.raises(ConfigurationError, match="Hostname mismatch"),
    ):
        get(url.replace("127.0.0.1", "localhost"), trusting())
    assert socket.gethostbyname("localhost") == "127.0.0.1"
