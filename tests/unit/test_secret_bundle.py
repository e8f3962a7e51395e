"""The sealed secrets."""

from __future__ import annotations

import base64
import json
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import pytest
from botocore.exceptions import ClientError
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ec2_decommission.errors import AccessError, ConfigurationError, DecommissionError, TransientError
from ec2_decommission.secret_bundle import FILE_NAME, LAYER_VARIABLE, SecretBundle

if TYPE_CHECKING:
    from pathlib import Path

CONTEXT = {"FunctionName": "f", "b": "2", "a": "1"}
KEY, NONCE = bytes(range(32)), bytes(12)
SECRET = "-----BEGIN A SECRET-----"


class FakeKms:
    """Gives what was sealed with it back; what is sealed is ``kms:`` and the plaintext."""

    def __init__(self, fault: str | None = None) -> None:
        self.calls: list[dict[str, Any]] = []
        self.fault = fault

    def decrypt(self, **request: Any) -> dict[str, Any]:
        self.calls.append(request)
        blob = request["CiphertextBlob"]
        if self.fault:
            raise ClientError({"Error": {"Code": self.fault, "Message": "m"}}, "Decrypt")
        if request["EncryptionContext"] != CONTEXT or not blob.startswith(b"kms:"):
            raise ClientError({"Error": {"Code": "InvalidCiphertextException", "Message": ""}}, "Decrypt")
        return {"Plaintext": blob.removeprefix(b"kms:")}


def b64(data: bytes) -> str:
    return base64.b64encode(data).decode()


def direct(plaintext: bytes) -> dict[str, Any]:
    return {"version": 1, "encryption": "kms", "ciphertext": b64(b"kms:" + plaintext)}


def with_data_key(plaintext: bytes) -> dict[str, Any]:
    aad = json.dumps(CONTEXT, sort_keys=True, separators=(",", ":")).encode()
    return {
        "version": 1,
        "encryption": "kms-data-key",
        "ciphertext": b64(AESGCM(KEY).encrypt(NONCE, plaintext, aad)),
        "encrypted_data_key": b64(b"kms:" + KEY),
        "nonce": b64(NONCE),
    }


def bundle(tmp_path: Path, sealed: Any, kms: FakeKms, context: dict[str, str] | None = None) -> SecretBundle:
    path = tmp_path / FILE_NAME
    path.write_bytes(sealed if isinstance(sealed, bytes) else json.dumps(sealed).encode())
    return SecretBundle(path, CONTEXT if context is None else context, lambda: kms)


@pytest.mark.parametrize("seal", [direct, with_data_key])
def test_opens_once_and_only_when_asked(tmp_path: Path, seal: Any) -> None:
    kms = FakeKms()
    secrets = bundle(tmp_path, seal(json.dumps({"chef_client_key": SECRET, "consul_token": "ü"}).encode()), kms)
    assert kms.calls == []
    assert (secrets["chef_client_key"], secrets["consul_token"]) == (SECRET, "ü")
    assert len(kms.calls) == 1
    assert kms.calls[0]["EncryptionContext"] == CONTEXT


def test_repr_hides_the_secrets(tmp_path: Path) -> None:
    secrets = bundle(tmp_path, direct(json.dumps({"a": SECRET}).encode()), FakeKms())
    assert secrets["a"] == SECRET
    assert SECRET not in f"{secrets!r}{secrets}"


def test_a_secret_that_is_not_there_is_named(tmp_path: Path) -> None:
    secrets = bundle(tmp_path, direct(json.dumps({"a": SECRET}).encode()), FakeKms())
    with pytest.raises(ConfigurationError, match="holds no secret consul_token") as error:
        secrets["consul_token"]
    assert SECRET not in str(error.value)


def test_without_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(LAYER_VARIABLE, str(tmp_path / "none"))
    with pytest.raises(ConfigurationError, match=f"neither the package nor a layer has {FILE_NAME}"):
        SecretBundle(tmp_path / FILE_NAME, CONTEXT, FakeKms)["a"]


def test_layer_is_used_if_the_package_has_no_secrets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package, layer = tmp_path / "package", tmp_path / "layer"
    package.mkdir()
    layer.mkdir()
    monkeypatch.setenv(LAYER_VARIABLE, str(layer))
    (layer / FILE_NAME).write_text(json.dumps(direct(b'{"a": "of the layer"}')))
    assert SecretBundle(package / FILE_NAME, CONTEXT, FakeKms)["a"] == "of the layer"
    assert bundle(package, direct(b'{"a": "of the package"}'), FakeKms())["a"] == "of the package"


@pytest.mark.parametrize("seal", [direct, with_data_key])
def test_wrong_encryption_context_decrypts_nothing(tmp_path: Path, seal: Any) -> None:
    secrets = bundle(tmp_path, seal(b"{}"), FakeKms(), {"FunctionName": "another"})
    with pytest.raises(ConfigurationError, match="or another encryption context"):
        secrets["a"]


@pytest.mark.parametrize("part", ["ciphertext", "nonce"])
def test_modified_bundle_is_not_decrypted(tmp_path: Path, part: str) -> None:
    sealed = with_data_key(json.dumps({"a": SECRET}).encode())
    changed = bytearray(base64.b64decode(sealed[part]))
    changed[0] ^= 1
    with pytest.raises(ConfigurationError, match="was changed after it was sealed"):
        bundle(tmp_path, {**sealed, part: b64(bytes(changed))}, FakeKms())["a"]


@pytest.mark.parametrize("plaintext", [b"", b"[]", b"null", b'{"a": 1}', b'{"a": null}', b"\xff", b"[" * 100_000])
def test_what_is_no_object_of_texts(tmp_path: Path, plaintext: bytes) -> None:
    with pytest.raises(ConfigurationError, match="does not hold an object of strings"):
        bundle(tmp_path, direct(plaintext), FakeKms())["a"]


@pytest.mark.parametrize(
    ("code", "kind"),
    [
        ("AccessDeniedException", AccessError),
        ("DisabledException", ConfigurationError),
        ("NotFoundException", ConfigurationError),
        ("KMSInternalException", TransientError),
        ("ThrottlingException", TransientError),
    ],
)
def test_errors_of_kms_are_of_their_kind_and_the_next_try_asks_again(
    tmp_path: Path, code: str, kind: type[Exception]
) -> None:
    kms = FakeKms(code)
    secrets = bundle(tmp_path, direct(json.dumps({"a": SECRET}).encode()), kms)
    with pytest.raises(kind, match=r"open the secrets \(kms:Decrypt\)"):
        secrets["a"]
    kms.fault = None
    assert secrets["a"] == SECRET


@pytest.mark.parametrize("sealed", [b"", b"[]", b"5", b"{}", b"\xff\xfe", b"[" * 100_000, b'{"ciphertext": 1}'])
def test_a_file_that_cannot_be_read(tmp_path: Path, sealed: bytes) -> None:
    with pytest.raises(ConfigurationError, match=f"{FILE_NAME} cannot be read"):
        bundle(tmp_path, sealed, FakeKms())["a"]


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=6),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=6), inner, max_size=2),
    max_leaves=4,
)
sealed_like = st.fixed_dictionaries(
    {},
    optional={
        "version": json_values,
        "encryption": st.sampled_from(["kms", "kms-data-key"]) | json_values,
        "ciphertext": st.binary(max_size=40).map(b64)
        | st.binary(max_size=40).map(lambda b: b64(b"kms:" + b))
        | json_values,
        "encrypted_data_key": st.binary(max_size=33).map(lambda b: b64(b"kms:" + b)) | json_values,
        "nonce": st.binary(max_size=14).map(b64) | json_values,
    },
).map(lambda sealed: json.dumps(sealed).encode())


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.binary(max_size=60) | json_values.map(lambda v: json.dumps(v).encode()) | sealed_like)
def test_any_bytes_are_secrets_or_an_error_of_this_package(tmp_path: Path, sealed: bytes) -> None:
    with suppress(DecommissionError):
        bundle(tmp_path, sealed, FakeKms())["a"]
