"""Makes PyChef 0.3.0, its last release, importable on Python 3.11 to 3.13. ``chef`` is the imported package.

PyChef needs the following, which no longer exists (read in its source):

- ``chef.rsa`` loads ``libcrypto.so`` with ctypes, which the Lambda image does not have, and calls
  ``platform.linux_distribution``, which Python 3.8 removed. A module based on ``cryptography`` replaces it.
- ``collections.Mapping`` and similar names moved to ``collections.abc``. Python 3.10 removed the old names.
- ``pkg_resources`` was removed from setuptools and, where it still exists, is slow in a cold start. PyChef uses
  only its ``parse_version``.

The replacements exist only during the import. Afterward the interpreter is unchanged, except for ``chef.rsa`` and
PyChef's own modules, which keep their replacements. Python imports a module once and under a lock, so this needs no
lock of its own.
"""

from __future__ import annotations

import collections
import collections.abc
import importlib
import re
import sys
from contextlib import contextmanager
from types import ModuleType
from typing import TYPE_CHECKING, Any

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric.padding import PKCS1v15
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey
from cryptography.hazmat.primitives.asymmetric.utils import NoDigestInfo
from cryptography.hazmat.primitives.serialization import load_pem_private_key

from ..errors import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Iterator

_ABSTRACT_CLASSES = ("Mapping", "MutableMapping", "Sequence")


class Key:
    """An RSA private key, with the interface of ``chef.rsa.Key`` that PyChef's requests use, and SHA-256 signatures.

    Args:
        pem: the key as PEM. PyChef's own class treats a ``str`` as the path of a file; this one does not.

    Raises:
        ConfigurationError: it is not such a key. The text says what is wrong and never quotes the key.
    """

    public = False

    def __init__(self, pem: str | bytes) -> None:
        self.key = _load_private_key(pem.encode() if isinstance(pem, str) else pem)

    def __repr__(self) -> str:
        return f"Key({self.key.key_size} bits)"

    def private_encrypt(self, value: str | bytes) -> bytes:
        """Signs the bytes themselves with PKCS#1 v1.5 padding: ``RSA_private_encrypt`` in OpenSSL.

        Versions 1.0 and 1.1 of Chef's signing protocol need this form, without a digest.
        """
        raw = value.encode() if isinstance(value, str) else value
        try:
            return self.key.sign(raw, PKCS1v15(), NoDigestInfo())
        except ValueError:
            room = self.key.key_size // 8 - 11
            raise ConfigurationError(
                f"chef_client_key: a key of {self.key.key_size} bits signs at most {room} bytes, and the request "
                f"has {len(raw)}; a longer key or a shorter client_name is needed, or chef.signing_protocol 1.3"
            ) from None

    def sign(self, value: bytes) -> bytes:
        """Signs the SHA-256 of the bytes with PKCS#1 v1.5, as version 1.3 of the protocol requires."""
        try:
            return self.key.sign(value, PKCS1v15(), hashes.SHA256())
        except ValueError:
            raise ConfigurationError(
                f"chef_client_key: a key of {self.key.key_size} bits is too short to sign with"
            ) from None


def _load_private_key(pem: bytes) -> RSAPrivateKey:
    """Loads the key. The build has already checked it; checking again would take 0.1 s."""
    text = pem.strip()
    if b"PUBLIC KEY-----" in text or b"CERTIFICATE-----" in text:
        raise ConfigurationError("chef_client_key holds a public key; the client's private key is needed")
    try:
        key = load_pem_private_key(text, password=None, unsafe_skip_rsa_key_validation=True)
    except TypeError:
        raise ConfigurationError("chef_client_key is protected by a passphrase; store the key without one") from None
    except (ValueError, UnsupportedAlgorithm):
        raise ConfigurationError("chef_client_key is not a private key in PEM format") from None
    if not isinstance(key, RSAPrivateKey):
        raise ConfigurationError("chef_client_key is not an RSA key; Chef accepts no other kind")
    return key


def parse_version(version: str) -> tuple[int, ...]:
    """Replaces ``pkg_resources.parse_version``: PyChef compares plain versions such as 0.10.8."""
    return tuple(int(number) for number in re.findall(r"\d+", version))


def _stand_in(name: str, **content: Any) -> ModuleType:
    module = ModuleType(name, "A stand-in; see ec2_decommission.clients.pychef_compat.")
    module.__dict__.update(content)
    return module


@contextmanager
def _stand_ins() -> Iterator[None]:
    """Provides the old names inside the block and restores them afterward."""
    absent = object()
    module_before = sys.modules.get("pkg_resources", absent)
    names_before = {name: getattr(collections, name, absent) for name in _ABSTRACT_CLASSES}
    sys.modules["pkg_resources"] = _stand_in("pkg_resources", parse_version=parse_version)
    for name in _ABSTRACT_CLASSES:
        setattr(collections, name, getattr(collections.abc, name))
    try:
        yield
    finally:
        if isinstance(module_before, ModuleType):
            sys.modules["pkg_resources"] = module_before
        else:
            del sys.modules["pkg_resources"]
        for name, before in names_before.items():
            if before is absent:
                delattr(collections, name)
            else:
                setattr(collections, name, before)


def _import_chef() -> ModuleType:
    rsa = sys.modules["chef.rsa"] = _stand_in("chef.rsa", Key=Key)
    with _stand_ins():
        module = importlib.import_module("chef")
    module.__dict__["rsa"] = rsa
    # PyChef uses collections.Sequence and similar names at run time too. Only its own modules keep them.
    for name, part in list(sys.modules.items()):
        if name.startswith("chef.") and getattr(part, "collections", None) is collections:
            part.__dict__["collections"] = collections.abc
    return module


chef: Any = _import_chef()
