"""Sealing with moto's KMS, and a clear message for each KMS and credentials error."""

from __future__ import annotations

import base64
import json
import ssl
from pathlib import Path
from typing import Any

import boto3
import botocore.exceptions
import pytest
from botocore.stub import Stubber
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    NoEncryption,
    PrivateFormat,
)

import seal
from errors import SealError
from spec import KmsSettings
from testbed.certificates import Authority
from tests.package.conftest import CONTEXT, Kms, rsa_key

KEY = "arn:aws:kms:us-east-1:123456789012:key/11111111-2222-3333-4444-555555555555"
SETTINGS = KmsSettings(key_arn=KEY, region="us-east-1", encryption_context=CONTEXT)
VALUE = "a-value-that-nobody-may-see"


def settings(kms: Kms, **more: Any) -> KmsSettings:
    return KmsSettings(key_arn=kms.key_arn, region="us-east-1", encryption_context=CONTEXT, **more)


@pytest.fixture
def environment(kms: Kms, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("AWS_PROFILE", raising=False)
    for name, value in kms.environ.items():
        monkeypatch.setenv(name, value)


def padded(size: int) -> dict[str, str]:
    """A bundle whose JSON has exactly this many bytes."""
    return {"a": "x" * (size - len('{"a": ""}'))}


@pytest.mark.usefixtures("environment")
@pytest.mark.parametrize(("size", "data_key"), [(4096, False), (4097, True), (100_000, True)])
def test_data_key_is_used_from_4097_bytes(kms: Kms, size: int, data_key: bool) -> None:
    sealed = seal.seal(padded(size), settings(kms))
    document = json.loads(sealed.document)
    assert sealed.with_data_key is data_key
    assert document["version"] == 1
    assert document["encryption"] == ("kms-data-key" if data_key else "kms")
    assert b"xxxx" not in sealed.document


@pytest.mark.usefixtures("environment")
def test_sealed_content_is_json_by_secret_name(kms: Kms) -> None:
    document = json.loads(seal.seal({"b": "ü\n", "a": "1"}, settings(kms)).document)
    blob = base64.b64decode(document["ciphertext"])
    plaintext = kms.client.decrypt(CiphertextBlob=blob, EncryptionContext=CONTEXT)["Plaintext"]
    assert json.loads(plaintext) == {"a": "1", "b": "ü\n"}


@pytest.mark.usefixtures("environment")
def test_assumes_the_role_that_is_named(kms: Kms, monkeypatch: pytest.MonkeyPatch) -> None:
    used: list[str] = []
    real = boto3.session.Session.client

    def client(self: Any, service: str, **named: Any) -> Any:
        used.append(f"{service} {named.get('aws_access_key_id', 'own')[:4]}")
        return real(self, service, **named)  # type: ignore[call-overload]

    monkeypatch.setattr(boto3.session.Session, "client", client)
    seal.seal({"a": "1"}, settings(kms, role_arn="arn:aws:iam::123456789012:role/seal"))
    assert used == ["sts own", "kms ASIA"]


def test_the_associated_data_is_the_context_in_one_form() -> None:
    assert seal.associated_data({"b": "2", "a": "é"}) == b'{"a":"\\u00e9","b":"2"}'


def refused(operation: str, code: str, **more: Any) -> str:
    client = boto3.client("kms", region_name="us-east-1", aws_access_key_id="x", aws_secret_access_key="y")
    with Stubber(client) as stub:
        stub.add_client_error(operation, code, "no")
        with pytest.raises(SealError) as raised:
            seal.seal(more.get("values", {"a": VALUE}), SETTINGS, client)
    assert VALUE not in str(raised.value)
    assert raised.value.__suppress_context__
    return str(raised.value)


@pytest.mark.parametrize(
    ("code", "sentence"),
    [
        ("AccessDeniedException", f"The AWS credentials have no permission for kms:Encrypt on {KEY}"),
        ("NotFoundException", f"The KMS key {KEY} does not exist in us-east-1"),
        ("DisabledException", f"The KMS key {KEY} is disabled; enable it"),
        ("KMSInvalidStateException", f"The KMS key {KEY} cannot be used in its current state"),
        ("InvalidKeyUsageException", f"The KMS key {KEY} cannot encrypt"),
        ("ExpiredTokenException", "The AWS credentials for sealing the secrets have expired"),
        ("UnrecognizedClientException", "AWS does not accept the credentials for sealing the secrets"),
        ("SomethingNew", f"KMS refused Encrypt with {KEY} (SomethingNew)."),
    ],
)
def test_each_kms_error_has_its_own_message(code: str, sentence: str) -> None:
    assert refused("encrypt", code).startswith(sentence)


def test_a_refused_data_key_names_its_own_right() -> None:
    text = refused("generate_data_key", "AccessDeniedException", values=padded(5000))
    assert "kms:GenerateDataKey" in text
    assert "package.build_role_arn" in text


@pytest.mark.usefixtures("environment")
@pytest.mark.parametrize(
    ("error", "sentence"),
    [
        (botocore.exceptions.NoCredentialsError(), "There are no AWS credentials for sealing the secrets."),
        (
            botocore.exceptions.ProfileNotFound(profile="x"),
            "The secrets cannot be sealed: the profile that AWS_PROFILE",
        ),
        (
            botocore.exceptions.SSLError(
                endpoint_url="https://kms",
                error=ssl.SSLError("[SSL: X] certificate verify failed: unable to get issuer (_ssl.c:1)"),
            ),
            "TLS with KMS in us-east-1 failed (unable to get issuer). Behind a proxy that inspects TLS",
        ),
        (
            botocore.exceptions.EndpointConnectionError(endpoint_url="https://kms"),
            "KMS in us-east-1 cannot be reached to seal",
        ),
        (
            botocore.exceptions.UnauthorizedSSOTokenError(),
            "The AWS single sign-on session has ended",
        ),
        (botocore.exceptions.DataNotFoundError(data_path=VALUE), f"The secrets cannot be sealed with {KEY}: the AWS"),
    ],
)
def test_each_failure_before_kms_has_its_own_message(error: Exception, sentence: str) -> None:
    class Client:
        def encrypt(self, **_: Any) -> None:
            raise error

    with pytest.raises(SealError) as raised:
        seal.seal({"a": VALUE}, SETTINGS, Client())
    assert str(raised.value).startswith(sentence)
    assert VALUE not in str(raised.value)


def test_no_credentials_on_the_machine(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_PROFILE", "AWS_ENDPOINT_URL"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "none"))
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "none"))
    with pytest.raises(SealError, match="There are no AWS credentials for sealing the secrets"):
        seal.seal({"a": VALUE}, SETTINGS)


def elliptic_key(password: bytes | None = None) -> str:
    protection = BestAvailableEncryption(password) if password else NoEncryption()
    key = ec.generate_private_key(ec.SECP256R1())
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, protection).decode()


GOOD = rsa_key()


@pytest.mark.parametrize(
    ("key", "sentence"),
    [
        ("hello", "is not a private key in PEM format"),
        (GOOD.replace("\n", "\\n"), "has lost its line breaks"),
        (GOOD.replace("M", "N", 40), "is a damaged private key"),
        (elliptic_key(), "is not an RSA key"),
        (elliptic_key(b"p"), "is protected by a passphrase"),
    ],
)
def test_invalid_chef_key_is_refused(key: str, sentence: str) -> None:
    with pytest.raises(SealError) as raised:
        seal.check({"chef_client_key": key}, {"chef_client_key": "secret/chef#pem"})
    assert str(raised.value).startswith(f"The secret chef_client_key, read from secret/chef#pem, {sentence}")
    assert not any(line in str(raised.value) for line in key.splitlines() if line)


def test_good_keys_pass(tmp_path: Path) -> None:
    client = Authority(tmp_path).issue("client")
    values = {"chef_client_key": GOOD, "consul_token": "x", "http_steps.zabbix.token": "y"}
    values |= {
        "consul_client_certificate": client.certificate.read_text(),
        "consul_client_key": client.key.read_text(),
    }
    seal.check(values, dict.fromkeys(values, "a/b#c"))
    seal.check({"consul_token": "x"}, {})


@pytest.mark.parametrize(
    ("certificate", "key", "sentence"),
    [
        (None, "hello", "consul_client_key, read from a/b#c, is not a private key in PEM format"),
        ("hello", None, "consul_client_certificate, read from a/b#c, is not a certificate in PEM format"),
        (
            "-----BEGIN CERTIFICATE-----MII",
            None,
            "consul_client_certificate, read from a/b#c, has lost its line breaks",
        ),
        ("-----BEGIN CERTIFICATE-----\nMII\n", None, "consul_client_certificate, read from a/b#c, is a damaged cert"),
        (
            None,
            GOOD,
            "consul_client_key, read from a/b#c, does not belong to consul_client_certificate, read from a/b#c",
        ),
    ],
)
def test_invalid_consul_certificate_is_refused(
    tmp_path: Path, certificate: str | None, key: str | None, sentence: str
) -> None:
    client = Authority(tmp_path).issue("client")
    values = {
        "consul_client_certificate": certificate or client.certificate.read_text(),
        "consul_client_key": key or client.key.read_text(),
    }
    with pytest.raises(SealError) as raised:
        seal.check(values, dict.fromkeys(values, "a/b#c"))
    assert str(raised.value).startswith(f"The secret {sentence}")
