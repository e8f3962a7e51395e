"""PyChef imports, leaves the interpreter as it was, and signs as Chef's protocols 1.0 and 1.3 want."""

from __future__ import annotations

import base64
import hashlib
import subprocess
import sys
import textwrap
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.asymmetric.padding import PKCS1v15
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_pem_private_key,
)

from ec2_decommission.clients.chef_signature import signed_headers
from ec2_decommission.clients.pychef_compat import Key, chef, parse_version
from ec2_decommission.errors import ConfigurationError

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.serialization import KeySerializationEncryption


@pytest.fixture(scope="module")
def private_key() -> rsa.RSAPrivateKey:
    return rsa.generate_private_key(public_exponent=65537, key_size=2048)


def pem(
    key: rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey,
    form: PrivateFormat = PrivateFormat.TraditionalOpenSSL,
    encryption: KeySerializationEncryption | None = None,
) -> str:
    return key.private_bytes(Encoding.PEM, form, encryption or NoEncryption()).decode()


def run(code: str) -> str:
    """In an interpreter of its own, which has not imported PyChef yet."""
    program = f"import sys; sys.path[:0] = {sys.path!r}\n" + textwrap.dedent(code)
    answer = subprocess.run(
        [sys.executable, "-W", "error", "-c", program], capture_output=True, text=True, check=False
    )
    assert answer.returncode == 0, answer.stderr
    return answer.stdout.strip()


def test_without_the_module_pychef_does_not_import() -> None:
    """Should this fail, PyChef has a release that needs no compatibility module."""
    assert "cannot" in run("""
        try:
            import chef
        except (ImportError, AttributeError, OSError):
            print("cannot")
        """)


def test_interpreter_state_is_restored() -> None:
    assert not run("""
        import collections.abc, platform
        before = set(vars(collections)), set(vars(platform)), "pkg_resources" in sys.modules
        from ec2_decommission.clients import pychef_compat
        after = set(vars(collections)), set(vars(platform)), "pkg_resources" in sys.modules
        assert before == after, (before, after)
        """)


def test_a_pkg_resources_that_was_there_stays() -> None:
    assert not run("""
        import types
        sys.modules["pkg_resources"] = own = types.ModuleType("pkg_resources")
        from ec2_decommission.clients import pychef_compat
        assert sys.modules["pkg_resources"] is own
        """)


def test_a_collections_name_that_was_there_stays() -> None:
    assert not run("""
        import collections
        collections.Mapping = own = object()
        from ec2_decommission.clients import pychef_compat
        assert collections.Mapping is own
        assert not hasattr(collections, "Sequence")
        """)


def test_threads_may_import_at_once() -> None:
    assert not run("""
        import importlib, threading
        def load():
            assert importlib.import_module("ec2_decommission.clients.pychef_compat").chef.ChefAPI
        errors = []
        threading.excepthook = errors.append
        threads = [threading.Thread(target=load) for _ in range(8)]
        [t.start() for t in threads]
        [t.join() for t in threads]
        assert not errors, errors
        """)


def test_node_attributes_work_after_the_import() -> None:
    """PyChef asks for ``collections.Sequence`` when an object is made, long after the import."""
    attributes = chef.node.NodeAttributes([{"ec2": {"instance_id": "i-0aaa"}}])
    assert attributes.get_dotted("ec2.instance_id") == "i-0aaa"


def test_versions_are_ordered_by_number() -> None:
    assert parse_version("0.9") < parse_version("0.10.8") < parse_version("12.0.0")


@pytest.mark.parametrize("form", [PrivateFormat.TraditionalOpenSSL, PrivateFormat.PKCS8])
def test_a_signature_is_the_padded_text_to_the_power_of_the_key(
    private_key: rsa.RSAPrivateKey, form: PrivateFormat
) -> None:
    """Byte for byte by RFC 8017, 9.2 without the DigestInfo: 00 01 FF… 00 text; the public key gives it back."""
    text = "Method:GET\nHashed Path:ä"
    signature = Key("\n" + pem(private_key, form) + "\n\n").private_encrypt(text)
    public = private_key.public_key().public_numbers()
    recovered = pow(int.from_bytes(signature), public.e, public.n).to_bytes(256)
    raw = text.encode()
    assert recovered == b"\x00\x01" + b"\xff" * (256 - 3 - len(raw)) + b"\x00" + raw


AT = datetime(2026, 1, 2, 3, 4, 5, 678, tzinfo=UTC)


def signed(key: rsa.RSAPrivateKey, protocol: str, body: str = "") -> tuple[dict[str, str], bytes]:
    """The headers, in lower case, and the signature in them."""
    headers = signed_headers(
        protocol, Key(pem(key)), method="GET", path="/nodes//web-1/", body=body, user_id="decommission", at=AT
    )
    headers = {name.lower(): value for name, value in headers.items()}
    lines = [value for name, value in headers.items() if name.startswith("x-ops-authorization-")]
    assert [f"x-ops-authorization-{number}" in headers for number in range(1, 7)] == [True] * 6
    assert all(len(line) == 60 for line in lines[:-1])
    return headers, base64.b64decode("".join(lines))


def test_version_1_0_signs_the_request_itself(private_key: rsa.RSAPrivateKey) -> None:
    headers, signature = signed(private_key, "1.0")
    public = private_key.public_key().public_numbers()
    recovered = pow(int.from_bytes(signature), public.e, public.n).to_bytes(256)
    # SHA-1 of "/nodes/web-1" and of nothing, as Chef's page on authentication headers (version 1.0) has it.
    assert recovered.endswith(
        b"\x00Method:GET\nHashed Path:b+eaYP/GAUkH8Xe/yk+9HHky0rk=\nX-Ops-Content-Hash:2jmj7l5rSw0yVb/vlWAYkK/YBwk=\n"
        b"X-Ops-Timestamp:2026-01-02T03:04:05Z\nX-Ops-UserId:decommission"
    )
    assert headers["x-ops-sign"] == "version=1.0"


@pytest.mark.parametrize("body", ["", '{"ä": 1}'])
def test_version_1_3_signs_the_sha_256_of_the_request(private_key: rsa.RSAPrivateKey, body: str) -> None:
    headers, signature = signed(private_key, "1.3", body)
    content_hash = base64.b64encode(hashlib.sha256(body.encode()).digest()).decode()
    canonical = (
        f"Method:GET\nPath:/nodes/web-1\nX-Ops-Content-Hash:{content_hash}\nX-Ops-Sign:version=1.3\n"
        "X-Ops-Timestamp:2026-01-02T03:04:05Z\nX-Ops-UserId:decommission\nX-Ops-Server-API-Version:0"
    )
    private_key.public_key().verify(signature, canonical.encode(), PKCS1v15(), hashes.SHA256())
    assert headers["x-ops-sign"] == "algorithm=sha256;version=1.3"
    assert headers["x-ops-content-hash"] == content_hash
    assert headers["x-ops-server-api-version"] == "0"


def test_key_text_is_not_treated_as_a_path(private_key: rsa.RSAPrivateKey) -> None:
    """PyChef takes a ``str`` for a file's name."""
    assert Key(pem(private_key)).key.key_size == 2048


def test_invalid_key_is_refused_with_a_clear_message(private_key: rsa.RSAPrivateKey) -> None:
    public = private_key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo).decode()
    locked = pem(private_key, PrivateFormat.PKCS8, BestAvailableEncryption(b"secret"))
    whole = pem(private_key)
    for wrong, told in (
        ("", "not a private key in PEM format"),
        ("hunter2", "not a private key in PEM format"),
        (whole[: len(whole) // 2], "not a private key in PEM format"),
        (public, "a public key"),
        (locked, "passphrase"),
        (pem(ec.generate_private_key(ec.SECP256R1()), PrivateFormat.PKCS8), "not an RSA key"),
    ):
        with pytest.raises(ConfigurationError, match="chef_client_key") as caught:
            Key(wrong)
        assert told in str(caught.value)
        assert "hunter2" not in str(caught.value)
        assert caught.value.__cause__ is None
        assert not any(line in str(caught.value) for line in wrong.splitlines()[1:] if line)


def test_a_key_is_not_validated_again(private_key: rsa.RSAPrivateKey) -> None:
    """The build did that, and it takes 0.1 s. A key whose numbers are wrong signs, and the server refuses it."""
    numbers = private_key.private_numbers()
    wrong = rsa.RSAPrivateNumbers(
        numbers.p, numbers.q, numbers.d, numbers.dmp1 + 2, numbers.dmq1, numbers.iqmp, numbers.public_numbers
    ).private_key(unsafe_skip_rsa_key_validation=True)
    with pytest.raises(ValueError, match="Invalid private key"):
        load_pem_private_key(pem(wrong).encode(), password=None)
    assert len(Key(pem(wrong)).sign(b"x")) == 256


def test_a_request_too_long_for_the_key_is_told(private_key: rsa.RSAPrivateKey) -> None:
    """Version 1.0 signs the text itself, so its length is bounded by the key's."""
    with pytest.raises(
        ConfigurationError, match="a key of 2048 bits signs at most 245 bytes, and the request has 246"
    ):
        Key(pem(private_key)).private_encrypt("x" * 246)


def test_key_repr_hides_the_key(private_key: rsa.RSAPrivateKey) -> None:
    assert repr(Key(pem(private_key))) == "Key(2048 bits)"
