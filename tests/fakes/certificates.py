"""Certificates for tests: ordinary and odd authorities, and their certificates for 127.0.0.1."""

from __future__ import annotations

import ssl
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat


@dataclass(frozen=True)
class Identity:
    """A certificate with its private key. ``plain`` meets the minimum requirements of Python 3.13."""

    certificate: x509.Certificate
    key: rsa.RSAPrivateKey

    @property
    def pem(self) -> str:
        return self.certificate.public_bytes(Encoding.PEM).decode()

    @property
    def key_pem(self) -> str:
        return self.key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode()

    def signed(
        self,
        name: str,
        *,
        address: str = "127.0.0.1",
        authority: bool = False,
        odd: bool = False,
        begins: timedelta = timedelta(hours=-1),
        lasts: timedelta = timedelta(hours=2),
    ) -> Identity:
        """A certificate signed by this authority. ``odd`` omits the extensions that old authorities omit."""
        return _signed(self, name, address, authority=authority, odd=odd, begins=begins, lasts=lasts)

    def server(self, directory: Path, clients: Identity | None = None) -> ssl.SSLContext:
        """A server's TLS context. With ``clients``, it requires client certificates of that authority."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        certificate, key = self.files(directory)
        context.load_cert_chain(certificate, key)
        if clients:
            context.verify_mode = ssl.CERT_REQUIRED
            context.load_verify_locations(cadata=clients.pem)
        return context

    def files(self, directory: Path) -> tuple[Path, Path]:
        """The certificate and its key, as files."""
        number = self.certificate.serial_number
        certificate, key = directory / f"{number}.pem", directory / f"{number}.key"
        certificate.write_text(self.pem)
        key.write_text(self.key_pem)
        return certificate, key


def root(name: str, *, odd: bool = False) -> Identity:
    """A self-signed authority. ``odd`` omits key identifiers, and makes basicConstraints not critical."""
    lasts = timedelta(hours=2)
    return _signed(None, name, "", authority=True, odd=odd, begins=timedelta(hours=-1), lasts=lasts)


def _signed(
    issuer: Identity | None,
    name: str,
    address: str,
    *,
    authority: bool,
    odd: bool,
    begins: timedelta,
    lasts: timedelta,
) -> Identity:
    key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    subject = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name)])
    begin = datetime.now(UTC) + begins
    signer = issuer.certificate.subject if issuer else subject
    builder = x509.CertificateBuilder(
        signer, subject, key.public_key(), x509.random_serial_number(), begin, begin + lasts
    )
    builder = builder.add_extension(x509.BasicConstraints(ca=authority, path_length=None), critical=not odd)
    if not authority:
        names = [x509.IPAddress(ip_address(address))]
        builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=False)
    if not odd:
        builder = builder.add_extension(
            x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False
        ).add_extension(
            x509.AuthorityKeyIdentifier.from_issuer_public_key((issuer.key if issuer else key).public_key()),
            critical=False,
        )
        usage = dict.fromkeys(
            ("content_commitment", "key_encipherment", "data_encipherment", "key_agreement", "crl_sign"), False
        )
        decipher = {"encipher_only": False, "decipher_only": False}
        builder = builder.add_extension(
            x509.KeyUsage(digital_signature=True, key_cert_sign=authority, **usage, **decipher), critical=True
        )
    return Identity(builder.sign((issuer.key if issuer else key), hashes.SHA256()), key)
