"""TLS: one SSLContext for Chef, Consul and the HTTP steps, and Consul's client certificate.

The user's authorities are added to the public ones and replace none, so servers with public and with private
certificates both work. If the user names an authority, certificates are checked as curl and Go check them. By
default, Python 3.13 refuses an authority without Authority Key Identifier or with basicConstraints that are not
critical (VERIFY_X509_STRICT), and older versions refuse an intermediate authority as an anchor.
"""

from __future__ import annotations

import os
import ssl
import tempfile
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import certifi

from ..errors import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Iterator


def trusting(ca_bundle: Path | None = None) -> ssl.SSLContext:
    """Creates a client context that trusts the public authorities and those of the user.

    Args:
        ca_bundle: the user's authorities in PEM (``ca_bundle.pem`` in the package); may not exist.

    Raises:
        ConfigurationError: the file holds no readable certificate.
    """
    context = ssl.create_default_context(cafile=certifi.where())
    if ca_bundle is not None and ca_bundle.is_file():
        try:
            context.load_verify_locations(cafile=ca_bundle)
        except (ssl.SSLError, OSError):
            raise ConfigurationError(
                f"{ca_bundle.name} in the package holds no readable certificate; package.ca_bundle_file must "
                "be a list of certificates in PEM"
            ) from None
        context.verify_flags &= ~ssl.VERIFY_X509_STRICT
        context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
    return context


def add_client_certificate(context: ssl.SSLContext, certificate: str, key: str, secrets: tuple[str, str]) -> None:
    """Makes the context present a certificate to servers that ask for one.

    Args:
        context: the context to change.
        certificate: PEM; intermediate certificates may follow.
        key: its private key, PEM, without a passphrase.
        secrets: the names of the two secrets, for messages.

    Raises:
        ConfigurationError: names the secret that cannot be used, without quoting it.
    """
    named, key_named = secrets
    if "-----BEGIN CERTIFICATE-----" not in certificate:
        raise ConfigurationError(f"secret {named} is not a certificate in PEM format")
    if "PRIVATE KEY-----" not in key:
        raise ConfigurationError(f"secret {key_named} is not a private key in PEM format")
    with _in_memory(certificate) as certificate_file, _in_memory(key) as key_file:
        try:
            context.load_cert_chain(certificate_file, key_file, password=_no_passphrase)
        except _PassphraseError:
            raise ConfigurationError(
                f"secret {key_named} is protected by a passphrase; store the key without one"
            ) from None
        except ssl.SSLError as error:
            if error.reason == "KEY_VALUES_MISMATCH":
                raise ConfigurationError(f"secret {key_named} is not the key of the certificate {named}") from None
            raise ConfigurationError(
                f"secrets {named} and {key_named} cannot be used: {error.reason or 'they are not PEM'}"
            ) from None


class _PassphraseError(Exception):
    """OpenSSL asked for a passphrase."""


def _no_passphrase() -> str:
    raise _PassphraseError


@contextmanager
def _in_memory(text: str) -> Iterator[str]:
    """Yields a path where OpenSSL can read the text. On Linux, that is a file in memory, never on a disk.

    Elsewhere, it is a temporary file that only this user may read; it is deleted at the end.
    """
    if hasattr(os, "memfd_create"):
        descriptor = os.memfd_create("certificate", os.MFD_CLOEXEC)
        try:
            os.write(descriptor, text.encode())
            yield f"/proc/self/fd/{descriptor}"
        finally:
            os.close(descriptor)
        return
    with tempfile.NamedTemporaryFile() as file:  # mode 0600
        file.write(text.encode())
        file.flush()
        yield file.name
