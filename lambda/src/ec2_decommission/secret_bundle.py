"""The secrets: encrypted with KMS by the build, in the package or in a layer, decrypted once per cold start.

``lambda/build`` writes the format: the ciphertext of a JSON object of strings by name. It is encrypted by KMS itself
(up to 4 KB), or with AES-256-GCM under a KMS data key. KMS's encryption context binds both to the function.
"""

from __future__ import annotations

import base64
import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .clients.aws import aws_errors
from .errors import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

FILE_NAME = "sealed_secrets.json"
LAYER_VARIABLE = "DECOMMISSION_LAYER_DIR"


def in_package_or_layer(path: Path) -> Path:
    """Returns the file in the package or, if the package has none, in the layer that ``lambda/build`` creates.

    A package built without secrets and settings is the same for everyone. Both then come from the layer.
    """
    return path if path.is_file() else Path(os.environ.get(LAYER_VARIABLE, "/opt/ec2-decommission")) / path.name


class SecretBundle:
    """Decrypts the bundle when the first secret is requested.

    Args:
        path: the sealed file in the package. If it does not exist, the file of the same name in the layer is used.
        encryption_context: the context that the bundle was encrypted with.
        kms: returns a boto3 ``kms`` client; called only when a secret is requested.
    """

    def __init__(self, path: Path, encryption_context: Mapping[str, str], kms: Callable[[], Any]) -> None:
        self._path = path
        self._context = dict(encryption_context)
        self._kms = kms
        self._secrets: dict[str, str] | None = None

    def __repr__(self) -> str:
        return f"SecretBundle({self._path.name})"

    def __getitem__(self, name: str) -> str:
        """Returns the secret of that name.

        Raises:
            ConfigurationError: the secret does not exist, or the bundle has a form that this function cannot decrypt.
            AccessError: the role may not use the key.
            TransientError: KMS did not answer.
        """
        if self._secrets is None:
            self._secrets = self._open()
        try:
            return self._secrets[name]
        except KeyError:
            raise ConfigurationError(f"{FILE_NAME} holds no secret {name}. Build it again with one") from None

    def _open(self) -> dict[str, str]:
        try:
            sealed = json.loads(in_package_or_layer(self._path).read_text())
            ciphertext = base64.b64decode(sealed["ciphertext"], validate=True)
            encryption = sealed["encryption"]
            data_key = base64.b64decode(sealed.get("encrypted_data_key", ""), validate=True)
            nonce = base64.b64decode(sealed.get("nonce", ""), validate=True)
        except FileNotFoundError:
            raise ConfigurationError(
                f"neither the package nor a layer has {FILE_NAME}. Build one of them with secrets"
            ) from None
        except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            raise ConfigurationError(f"{FILE_NAME} cannot be read: {type(error).__name__}") from None
        if encryption == "kms":
            plaintext = self._decrypt(ciphertext)
        elif encryption == "kms-data-key":
            plaintext = self._unseal(self._decrypt(data_key), nonce, ciphertext)
        else:
            raise ConfigurationError(f"{FILE_NAME}: encryption must be kms or kms-data-key")
        try:
            secrets = json.loads(plaintext)
        except (ValueError, RecursionError):
            secrets = None
        if not isinstance(secrets, dict) or not all(isinstance(v, str) for v in secrets.values()):
            raise ConfigurationError(f"{FILE_NAME} does not hold an object of strings")
        return secrets

    def _decrypt(self, ciphertext: bytes) -> bytes:
        with aws_errors("open the secrets (kms:Decrypt)"):
            answer = self._kms().decrypt(CiphertextBlob=ciphertext, EncryptionContext=self._context)
            plaintext: bytes = answer["Plaintext"]
            return plaintext

    def _unseal(self, key: bytes, nonce: bytes, ciphertext: bytes) -> bytes:
        from cryptography.exceptions import InvalidTag  # noqa: PLC0415  # in the package only where needed
        from cryptography.hazmat.primitives.ciphers.aead import AESGCM  # noqa: PLC0415

        aad = json.dumps(self._context, sort_keys=True, separators=(",", ":")).encode()
        try:
            return AESGCM(key).decrypt(nonce, ciphertext, aad)
        except (InvalidTag, ValueError):
            raise ConfigurationError(f"{FILE_NAME} was changed after it was sealed. Build it again") from None
