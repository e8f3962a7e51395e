"""Seals the secrets with KMS: the zip contains only ciphertext, bound to the encryption context.

KMS encrypts up to 4096 bytes directly. Above that, a KMS data key encrypts the bundle with AES-256-GCM.
"""

import base64
import json
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import boto3
import botocore.exceptions
from botocore.config import Config
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.serialization import load_pem_private_key
from cryptography.x509 import Certificate, load_pem_x509_certificates

from errors import SealError
from spec import KmsSettings

KMS_LIMIT = 4096  # bytes; https://docs.aws.amazon.com/kms/latest/APIReference/API_Encrypt.html
_CONFIG = Config(connect_timeout=5, read_timeout=20, retries={"mode": "standard", "total_max_attempts": 4})

_HINT = (
    "The build uses the AWS credentials in the environment of `terraform apply`, not a role that the AWS provider "
    "assumes. If the build needs a role, name it in package.build_role_arn."
)


@dataclass(frozen=True)
class Sealed:
    document: bytes  # sealed_secrets.json
    with_data_key: bool


def check(values: Mapping[str, str], references: Mapping[str, str]) -> None:
    """Refuses a Chef key or a Consul client certificate that cannot work.

    `references` says where each secret was read. Raises SealError.
    """
    if "chef_client_key" in values:
        key = _private_key("chef_client_key", values, references)
        if not isinstance(key, RSAPrivateKey):
            raise SealError(f"{_what('chef_client_key', references)} is not an RSA key; Chef clients need RSA keys.")
    if "consul_client_key" in values:
        key = _private_key("consul_client_key", values, references)
        certificate = _certificate("consul_client_certificate", values, references)
        if certificate.public_key() != key.public_key():
            raise SealError(
                f"{_what('consul_client_key', references)} does not belong to consul_client_certificate, read from "
                f"{references['consul_client_certificate']}: they have different public keys."
            )


def _what(name: str, references: Mapping[str, str]) -> str:
    return f"The secret {name}, read from {references[name]},"


def _private_key(name: str, values: Mapping[str, str], references: Mapping[str, str]) -> Any:
    text, what = values[name], _what(name, references)
    if not re.search(r"-----BEGIN [A-Z ]*PRIVATE KEY-----", text):
        raise SealError(
            f"{what} is not a private key in PEM format (it has no line -----BEGIN ... PRIVATE KEY-----)."
        )
    if "ENCRYPTED" in text:
        raise SealError(f"{what} is protected by a passphrase; the function needs it without one.")
    _has_lines(text, what)
    try:
        return load_pem_private_key(text.encode(), password=None)
    except Exception:  # many types are possible, and their messages could quote the key
        raise SealError(f"{what} is a damaged private key: it cannot be parsed.") from None


def _certificate(name: str, values: Mapping[str, str], references: Mapping[str, str]) -> Certificate:
    """The first certificate of a chain: the client's own."""
    text, what = values[name], _what(name, references)
    if "-----BEGIN CERTIFICATE-----" not in text:
        raise SealError(f"{what} is not a certificate in PEM format (it has no line -----BEGIN CERTIFICATE-----).")
    _has_lines(text, what)
    try:
        return load_pem_x509_certificates(text.encode())[0]
    except Exception:
        raise SealError(f"{what} is a damaged certificate: it cannot be parsed.") from None


def _has_lines(text: str, what: str) -> None:
    if "\n" not in text.strip():
        raise SealError(f"{what} has lost its line breaks; store the PEM file unchanged (value=@client.pem).")


def seal(values: Mapping[str, str], kms: KmsSettings, client: Any = None) -> Sealed:
    """Encrypts the secrets. Raises SealError if KMS refuses or cannot be reached."""
    plaintext = json.dumps(values, sort_keys=True, ensure_ascii=False).encode()
    context = dict(kms.encryption_context)
    with _Explained(kms):
        client = client or _client(kms)
        if len(plaintext) <= KMS_LIMIT:
            answer = client.encrypt(KeyId=kms.key_arn, Plaintext=plaintext, EncryptionContext=context)
            return _sealed({"encryption": "kms", "ciphertext": answer["CiphertextBlob"]}, with_data_key=False)
        answer = client.generate_data_key(KeyId=kms.key_arn, KeySpec="AES_256", EncryptionContext=context)
    nonce = os.urandom(12)  # the data key is used once, so no nonce can repeat
    sealed = {
        "encryption": "kms-data-key",
        "encrypted_data_key": answer["CiphertextBlob"],
        "nonce": nonce,
        "ciphertext": AESGCM(answer["Plaintext"]).encrypt(nonce, plaintext, associated_data(context)),
    }
    return _sealed(sealed, with_data_key=True)


def associated_data(context: Mapping[str, str]) -> bytes:
    """The encryption context, serialized exactly as the function does it."""
    return json.dumps(context, sort_keys=True, separators=(",", ":")).encode()


def _sealed(parts: Mapping[str, str | bytes], *, with_data_key: bool) -> Sealed:
    document: dict[str, str | int] = {"version": 1}
    for name, value in parts.items():
        document[name] = base64.b64encode(value).decode() if isinstance(value, bytes) else value
    return Sealed(json.dumps(document, sort_keys=True, indent=1).encode() + b"\n", with_data_key)


def _client(kms: KmsSettings) -> Any:
    session = boto3.session.Session()
    if kms.role_arn is None:
        return session.client("kms", region_name=kms.region, config=_CONFIG)
    sts = session.client("sts", region_name=kms.region, config=_CONFIG)
    answer = sts.assume_role(RoleArn=kms.role_arn, RoleSessionName="ec2-decommission-build", DurationSeconds=900)
    credentials = answer["Credentials"]
    return session.client(
        "kms",
        region_name=kms.region,
        config=_CONFIG,
        aws_access_key_id=credentials["AccessKeyId"],
        aws_secret_access_key=credentials["SecretAccessKey"],
        aws_session_token=credentials["SessionToken"],
    )


class _Explained:
    """Turns AWS errors into sentences."""

    def __init__(self, kms: KmsSettings) -> None:
        self._kms = kms

    def __enter__(self) -> None:
        pass

    def __exit__(self, _type: object, error: BaseException | None, _trace: object) -> None:
        if isinstance(error, (botocore.exceptions.ClientError, botocore.exceptions.BotoCoreError)):
            raise SealError(self._sentence(error)) from None

    def _sentence(self, error: Exception) -> str:
        key, region = self._kms.key_arn, self._kms.region
        if isinstance(error, botocore.exceptions.ClientError):
            return self._refusal(error)
        if isinstance(error, botocore.exceptions.ProfileNotFound):
            return "The secrets cannot be sealed: the profile that AWS_PROFILE names does not exist on this machine."
        if isinstance(error, (botocore.exceptions.NoCredentialsError, botocore.exceptions.PartialCredentialsError)):
            return f"There are no AWS credentials for sealing the secrets. {_HINT}"
        if isinstance(error, (botocore.exceptions.TokenRetrievalError, botocore.exceptions.SSOError)):
            return "The AWS single sign-on session has ended, so the secrets cannot be sealed; run `aws sso login`."
        if isinstance(error, botocore.exceptions.SSLError):
            cause = re.search(r"verify failed: ([^(]+?)\.? *(\(|$)", str(error))
            return (
                f"TLS with KMS in {region} failed ({cause[1] if cause else 'no certificate was accepted'}). Behind a "
                "proxy that inspects TLS, set AWS_CA_BUNDLE to the file of its authority."
            )
        if isinstance(error, (botocore.exceptions.HTTPClientError, botocore.exceptions.ConnectionError)):
            return f"KMS in {region} cannot be reached to seal the secrets with {key}: check the network and proxies."
        return f"The secrets cannot be sealed with {key}: the AWS client failed ({type(error).__name__})."

    def _refusal(self, error: botocore.exceptions.ClientError) -> str:
        key, region, role = self._kms.key_arn, self._kms.region, self._kms.role_arn
        code = str(error.response.get("Error", {}).get("Code", ""))
        operation = str(error.operation_name)
        if operation == "AssumeRole":
            return f"The role {role}, which the build needs to seal the secrets, cannot be assumed ({code}). {_HINT}"
        if code in ("AccessDeniedException", "AccessDenied"):
            return (
                f"The AWS credentials have no permission for kms:{operation} on {key}, which the build needs to seal "
                f"the secrets. {_HINT}"
            )
        if code == "NotFoundException":
            return f"The KMS key {key} does not exist in {region}, or in the account of these credentials. {_HINT}"
        if code == "DisabledException":
            return f"The KMS key {key} is disabled; enable it, then build again."
        if code == "KMSInvalidStateException":
            return f"The KMS key {key} cannot be used in its current state (is it scheduled for deletion?)."
        if code == "InvalidKeyUsageException":
            return f"The KMS key {key} cannot encrypt; use a symmetric key with the usage ENCRYPT_DECRYPT."
        if code in ("ExpiredTokenException", "ExpiredToken"):
            return f"The AWS credentials for sealing the secrets have expired. {_HINT}"
        if code in ("UnrecognizedClientException", "InvalidClientTokenId", "InvalidSignatureException"):
            return f"AWS does not accept the credentials for sealing the secrets ({code}). {_HINT}"
        return f"KMS refused {operation} with {key} ({code})."
