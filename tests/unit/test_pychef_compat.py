"""PyChef imports, leaves the interpreter as it was, and signs as Chef's protocol 1.0 wants."""

from __future__ import annotations

import base64
import subprocess
import sys
import textwrap
import warnings
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
)

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


def test_the_interpreter_is_as_it_was() -> None:
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


def test_pychef_signs_requests_with_it(private_key: rsa.RSAPrivateKey) -> None:
    headers = chef.auth.sign_request(
        key=Key(pem(private_key)),
        http_method="GET",
        path="/nodes//web-1/",
        body=None,
        host="chef",
        timestamp=datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC),
        user_id="decommission",
    )
    lines = [headers[f"x-ops-authorization-{number}"] for number in range(1, 7)]
    assert all(len(line) == 60 for line in lines[:-1])
    public = private_key.public_key().public_numbers()
    recovered = pow(int.from_bytes(base64.b64decode("".join(lines))), public.e, public.n).to_bytes(256)
    # SHA-1 of "/nodes/web-1" and of nothing, as Chef's page on authentication headers (version 1.0) has it.
    assert recovered.endswith(
        b"\x00Method:GET\nHashed Path:b+eaYP/GAUkH8Xe/yk+9HHky0rk=\nX-Ops-Content-Hash:2jmj7l5rSw0yVb/vlWAYkK/YBwk=\n"
        b"X-Ops-Timestamp:2026-01-02T03:04:05Z\nX-Ops-UserId:decommission"
    )


def test_the_request_is_dated_without_a_deprecation(private_key: rsa.RSAPrivateKey) -> None:
    """``datetime.utcnow`` warns since Python 3.12."""
    api = chef.ChefAPI("http://127.0.0.1:1", Key(pem(private_key)), "decommission")
    sent: list[dict[str, str]] = []

    class Stop(Exception):
        pass

    def request(method: str, url: str, data: object, headers: dict[str, str]) -> None:
        sent.append(headers)
        raise Stop

    api._request = request
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(Stop):
            api.request("GET", "/nodes")
    stamp = datetime.strptime(sent[0]["X-ops-timestamp"], "%Y-%m-%dT%H:%M:%SZ").replace(tzinfo=UTC)
    assert abs((datetime.now(UTC) - stamp).total_seconds()) < 60


def test_a_key_as_text_is_no_path(private_key: rsa.RSAPrivateKey) -> None:
    """PyChef takes a ``str`` for a file's name."""
    assert Key(pem(private_key)).key.key_size == 2048


def test_a_key_that_is_none_is_refused_in_words(private_key: rsa.RSAPrivateKey) -> None:
    public = private_key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo).decode()
    locked = pem(private_key, PrivateFormat.PKCS8, BestAvailableEncryption(b"secret"))
    whole = pem(private_key)
    for wrong, told in (
        ("", "not a private key in PEM form"),
        ("hunter2", "not a private key in PEM form"),
        (whole[: len(whole) // 2], "not a private key in PEM form"),
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


def test_a_request_too_long_for_the_key_is_told(private_key: rsa.RSAPrivateKey) -> None:
    """Version 1.0 signs the text itself, so its length is bounded by the key's."""
    with pytest.raises(
        ConfigurationError, match="a key of 2048 bits signs at most 245 bytes, and the request has 246"
    ):
        Key(pem(private_key)).private_encrypt("x" * 246)


def test_a_key_does_not_show_itself(private_key: rsa.RSAPrivateKey) -> None:
    assert repr(Key(pem(private_key))) == "Key(2048 bits)"
