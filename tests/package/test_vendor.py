"""Lock files: read for the function's platform, merged, and installed with hash checks."""

from __future__ import annotations

from pathlib import Path

import pytest

import archive
import vendor
from errors import SourceError, VendorError
from tests.package.conftest import REPOSITORY

REQUIREMENTS = REPOSITORY / "lambda" / "requirements"
TARGET = vendor.Target("python3.13", "arm64")
HASH = "sha256:" + "0" * 64


def lock(tmp_path: Path, text: str, target: vendor.Target = TARGET) -> dict[str, vendor.Pin]:
    path = tmp_path / "lock.txt"
    path.write_text(text)
    return vendor.read_lock(path, target)


def test_the_projects_own_locks_agree(tmp_path: Path) -> None:
    """A package can contain any combination of them."""
    pins: dict[str, vendor.Pin] = {}
    for path in sorted(REQUIREMENTS.glob("*.txt")):
        found = vendor.read_lock(path, TARGET)
        assert found
        assert all(pin.hashes for pin in found.values())
        pins = vendor.merge(pins, found, path.name)


def test_each_feature_brings_its_own_requirements() -> None:
    def names(*features: str, with_data_key: bool = False) -> list[str]:
        return [path.stem for path in vendor.requirement_files(REQUIREMENTS, features, with_data_key=with_data_key)]

    assert names("route53") == ["function"]
    assert names("chef", "consul", "http", "route53") == ["function", "chef", "consul", "http"]
    assert names("consul", with_data_key=True) == ["function", "consul", "crypto"]
    assert names("chef", with_data_key=True) == ["function", "chef"], "it has cryptography anyway"


def test_markers_are_those_of_the_function_not_of_this_machine(tmp_path: Path) -> None:
    text = "".join(
        f"{name}==1.0 ; {marker} \\\n    --hash={HASH}\n"
        for name, marker in {
            "windows": "sys_platform == 'win32'",
            "old": "python_version < '3.12'",
            "arm": "platform_machine == 'aarch64'",
            "intel": "platform_machine == 'x86_64'",
            "linux": "platform_system == 'Linux' and implementation_name == 'cpython'",
        }.items()
    )
    assert set(lock(tmp_path, text)) == {"arm", "linux"}
    assert set(lock(tmp_path, text, vendor.Target("python3.11", "x86_64"))) == {"intel", "linux", "old"}


def test_the_platform_is_that_of_lambdas_image() -> None:
    assert vendor.Target("python3.11", "x86_64").platforms[0] == "manylinux_2_26_x86_64"
    assert vendor.Target("python3.14", "x86_64").platforms[0] == "manylinux_2_34_x86_64"
    assert TARGET.platforms[0] == "manylinux_2_34_aarch64"
    assert TARGET.platforms[-2:] == ["manylinux_2_17_aarch64", "manylinux2014_aarch64"]


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("requests==2.0\n", "requests must be pinned as name==version with its hashes"),
        (f"requests>=2.0 --hash={HASH}\n", "requests must be pinned"),
        (f"requests==2.* --hash={HASH}\n", "requests must be pinned"),
        (f"requests @ https://example.com/x.whl --hash={HASH}\n", "requests must be pinned"),
        ("--index-url https://example.com\n", 'the option "--index-url" is not allowed here'),
        (f"?? --hash={HASH}\n", '"??" is not a requirement'),
        (f"a==1 --hash={HASH}\nA==2 --hash={HASH}\n", "a is pinned twice"),
    ],
)
def test_invalid_lock_is_refused(tmp_path: Path, text: str, sentence: str) -> None:
    with pytest.raises(VendorError) as raised:
        lock(tmp_path, text)
    assert sentence in str(raised.value)


def test_a_lock_that_is_missing(tmp_path: Path) -> None:
    with pytest.raises(VendorError, match="cannot be read"):
        vendor.read_lock(tmp_path / "none.txt", TARGET)


def test_two_versions_of_a_package_are_reported() -> None:
    own = {"requests": vendor.Pin("requests", "2.1", frozenset({HASH}))}
    theirs = {
        "requests": vendor.Pin("requests", "2.0", frozenset({HASH})),
        "ldap3": vendor.Pin("ldap3", "2.9", frozenset({HASH})),
    }
    with pytest.raises(VendorError) as raised:
        vendor.merge(own, theirs, "The requirements of the custom steps")
    assert str(raised.value) == (
        "The requirements of the custom steps: requests==2.0 is pinned, but the package already has requests==2.1; "
        "pin that version."
    )
    merged = vendor.merge(own, {"ldap3": theirs["ldap3"]}, "x")
    assert sorted(merged) == ["ldap3", "requests"]


def six(digest: str) -> dict[str, vendor.Pin]:
    return {"six": vendor.Pin("six", "1.17.0", frozenset({digest}))}


def test_a_package_with_another_hash_is_refused(tmp_path: Path) -> None:
    with pytest.raises(VendorError, match=r"The hash of six==1.17.0.* does not match the requirements"):
        vendor.collect(six(HASH), (), TARGET, tmp_path)


def test_a_package_without_a_wheel_for_the_function_is_refused(tmp_path: Path) -> None:
    pins = {"six": vendor.Pin("six", "0.0.1", frozenset({HASH}))}
    with pytest.raises(VendorError, match=r"no wheel of six==0.0.1 for python3.13 on arm64"):
        vendor.collect(pins, (), TARGET, tmp_path)


def test_nothing_is_left_out_of_a_users_own_packages(tmp_path: Path) -> None:
    pins = vendor.read_lock(REQUIREMENTS / "crypto.txt", TARGET)
    pins = {name: pin for name, pin in pins.items() if name == "cffi"}
    for directory in ("ours", "theirs"):
        (tmp_path / directory).mkdir()
    assert "cffi/api.py" not in vendor.collect(pins, (), TARGET, tmp_path / "ours").files
    assert "cffi/api.py" in vendor.collect(pins, pins, TARGET, tmp_path / "theirs").files


def test_the_runtime_keeps_its_own_boto3(tmp_path: Path) -> None:
    pins = {"boto3": vendor.Pin("boto3", "1.0", frozenset({HASH}))}
    assert vendor.collect(pins, (), TARGET, tmp_path).files == {}


def test_two_packages_with_one_file_are_refused() -> None:
    with pytest.raises(SourceError, match=r"Two parts of the package contain the file a.py"):
        archive.combine({"a.py": b"1"}, {"a.py": b"2"})
