"""The specification is parsed strictly. All mistakes are reported together, each with a clear message."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

import spec
from errors import SpecError

REFERENCE = {"mount": "secret", "path": "a/b", "field": "value", "version": None}
KMS = {
    "key_arn": "arn:aws:kms:eu-west-1:123456789012:key/1234",
    "region": "eu-west-1",
    "role_arn": None,
    "encryption_context": {"FunctionName": "x"},
}
MINIMAL: dict[str, Any] = {
    "output": "out/x.zip",
    "name": "x",
    "runtime": "python3.13",
    "architecture": "arm64",
    "features": ["route53"],
}
ALL: dict[str, Any] = MINIMAL | {
    "kind": "package",
    "features": ["route53", "chef", "consul", "http"],
    "secrets": {
        "chef_client_key": REFERENCE,
        "consul_token": REFERENCE | {"version": 3},
        "consul_client_certificate": REFERENCE,
        "consul_client_key": REFERENCE,
    },
    "vault": {
        "address": "https://vault.example.com:8200",
        "namespace": "team",
        "kv_version": 2,
        "ca_certificate_file": None,
        "auth": {
            "method": "jwt",
            "mount": "gitlab",
            "role": "build",
            "jwt_file": None,
            "jwt_env": "ID_TOKEN",
            "aws_header_value": None,
            "aws_region": None,
        },
    },
    "kms": KMS | {"role_arn": "arn:aws:iam::123456789012:role/seal"},
    "settings": {"organization": {"members": {}}},
    "ca_bundle_file": "ca.pem",
    "custom_steps": {
        "tidy": {"source_dir": "steps/tidy", "requirements_file": None, "secrets": {"ldap_password": REFERENCE}}
    },
    "http_steps": {"zabbix-prod": {"secrets": {"token": REFERENCE}}},
}


def parse(document: Any) -> spec.Spec:
    return spec.parse(json.dumps(document), "BUILD_SPEC")


def problems(document: Any) -> list[str]:
    with pytest.raises(SpecError) as raised:
        parse(document)
    return list(raised.value.problems)


def test_reads_the_minimal_specification() -> None:
    found = parse(MINIMAL)
    assert found == spec.Spec("package", Path("out/x.zip"), "x", "python3.13", "arm64", ("route53",))


def test_reads_the_modules_full_specification() -> None:
    found = parse(ALL)
    assert found.features == ("chef", "consul", "http", "route53")
    assert [(reference.name, str(reference)) for reference in found.secrets] == [
        ("chef_client_key", "secret/a/b#value"),
        ("consul_client_certificate", "secret/a/b#value"),
        ("consul_client_key", "secret/a/b#value"),
        ("consul_token", "secret/a/b#value@3"),
        ("custom_steps.tidy.ldap_password", "secret/a/b#value"),
        ("http_steps.zabbix-prod.token", "secret/a/b#value"),
    ]
    assert found.vault.auth == spec.VaultAuth(method="jwt", mount="gitlab", role="build", jwt_env="ID_TOKEN")
    assert found.kms is not None
    assert found.kms.encryption_context == {"FunctionName": "x"}
    assert found.settings == {"organization": {"members": {}}}
    assert found.custom_steps == (spec.CustomStep("tidy", Path("steps/tidy")),)


def test_a_bundle_takes_the_secrets_of_the_same_document_and_none_of_its_code() -> None:
    package, bundle = parse(ALL), parse(ALL | {"kind": "bundle"})
    assert (bundle.secrets, bundle.settings, bundle.kms) == (package.secrets, package.settings, package.kms)
    assert bundle.custom_steps == ()


def test_a_bundle_needs_no_runtime_and_its_steps_no_code() -> None:
    step = {"tidy": {"secrets": {"a": REFERENCE}}}
    found = parse({"kind": "bundle", "output": "x.zip", "name": "x", "custom_steps": step, "kms": KMS})
    assert [reference.name for reference in found.secrets] == ["custom_steps.tidy.a"]
    assert (found.runtime, found.architecture, found.features) == ("", "", ())


def test_a_package_may_leave_its_secrets_to_a_bundle() -> None:
    assert parse(MINIMAL | {"features": ["chef", "consul", "http"]}).secrets == ()


@pytest.mark.parametrize(
    ("chosen", "cache"), [("", "out/.build-cache"), ("/somewhere/else", "/somewhere/else"), ("~/c", "/home/me/c")]
)
def test_cache_is_next_to_the_output_or_in_the_shared_directory(
    monkeypatch: pytest.MonkeyPatch, chosen: str, cache: str
) -> None:
    monkeypatch.setenv("HOME", "/home/me")
    monkeypatch.setenv("BUILD_CACHE", chosen)
    assert parse(MINIMAL).cache == Path(cache)


def test_reports_all_problems_at_once() -> None:
    found = problems({"output": "x.tar", "name": "a b", "runtime": "nodejs", "architecture": 5, "features": ["dns"]})
    assert len(found) == 5
    assert all(problem.startswith('BUILD_SPEC: "') and problem.endswith(".") for problem in found)


@pytest.mark.parametrize("text", ["", "{", "[]", "5", '{"settings": {"a": NaN}}', "[" * 100_000])
def test_refuses_anything_but_an_object(text: str) -> None:
    with pytest.raises(SpecError, match="JSON"):
        spec.parse(text, "BUILD_SPEC")


def secret(**more: Any) -> dict[str, Any]:
    return {"secrets": {"consul_token": REFERENCE | more}, "kms": KMS}


def auth(**more: Any) -> dict[str, Any]:
    return {"vault": {"auth": {"method": "token"} | more}}


@pytest.mark.parametrize(
    ("more", "sentence"),
    [
        ({"feature": []}, '"feature" is not a known key'),
        ({"kind": "layer"}, '"kind" is "layer"; it must be one of package, bundle'),
        (
            {"kind": "bundle"},
            '"kind" is "bundle", but there are no secrets, settings or ca_bundle_file',
        ),
        ({"output": None}, '"output" is missing.'),
        ({"runtime": None}, '"runtime" is missing; it must be one of python3.11, python3.12, python3.13, python3.14'),
        ({"runtime": "python3.8"}, '"runtime" is "python3.8"; it must be one of python3.11, python3.12, python3.13'),
        ({"architecture": "arm"}, '"architecture" is "arm"; it must be one of arm64, x86_64'),
        ({"features": None}, '"features" must be a list with values from route53, chef, consul, http'),
        ({"features": ["vault"]}, '"features" contains "vault"; the features are route53, chef, consul, http'),
        ({"features": "route53"}, '"features" must be a list with values from route53, chef, consul, http'),
        ({"features": ["chef"]} | secret(), '"secrets.chef_client_key" is missing: the chef step is on'),
        ({"settings": "x"}, '"settings" must be an object'),
        ({"secrets": {"consul_token": REFERENCE}}, '"kms" is missing: secrets are sealed with a KMS key'),
        ({"secrets": {"chef_key": REFERENCE}}, '"secrets.chef_key" is not known; the secrets are chef_client_key'),
        ({"secrets": {"consul_token": "x"}}, '"secrets.consul_token" must be an object'),
        (
            {"secrets": {"consul_client_key": REFERENCE}, "kms": KMS},
            '"secrets.consul_client_certificate" is missing: Consul needs the client certificate and its key',
        ),
        (secret(path="/a"), '"secrets.consul_token.path" must be written as'),
        (secret(path="a/../b"), '"secrets.consul_token.path" must be written'),
        (secret(path="a//b"), '"secrets.consul_token.path" must be written as'),
        (secret(mount=""), '"secrets.consul_token.mount" must be a non-empty string'),
        (secret(version=0), '"secrets.consul_token.version" must be a whole'),
        (secret(version=True), '"secrets.consul_token.version" must be a whole'),
        (secret(value="x"), '"secrets.consul_token.value" is not a known key'),
        ({"vault": {"address": "vault:8200"}}, '"vault.address" must be a URL'),
        ({"vault": {"address": "https://v/ui/"}}, '"vault.address" has a path with /ui, as a browser shows it'),
        ({"vault": {"address": "https://u:p@vault"}}, '"vault.address" must not contain a user name or password'),
        ({"vault": {"kv_version": 3}}, '"vault.kv_version" must be 1 or 2'),
        ({"vault": {"token": "x"}}, '"vault.token" is not a known key'),
        (auth(method="ldap"), '"vault.auth.method" is "ldap"; it must be one of token, approle'),
        (auth(role="x"), '"vault.auth.role" is set, but the method "token" does not use it'),
        (auth(method="jwt", jwt_env="a.b"), '"vault.auth.jwt_env" must be the name of an envi'),
        ({"kms": KMS | {"key_arn": "alias/x"}}, '"kms.key_arn" must be the ARN of a KMS key or alias'),
        ({"kms": KMS | {"encryption_context": {}}}, '"kms.encryption_context" must be an object of strings'),
        ({"custom_steps": {"chef": {"source_dir": "x"}}}, '"custom_steps.chef" must have a name of lowercase'),
        ({"custom_steps": {"tidy": {}}}, '"custom_steps.tidy.source_dir" is missing'),
        (
            {"custom_steps": {"tidy": {"source_dir": "x", "secrets": {"A": REFERENCE}}}},
            '"custom_steps.tidy.secrets.A" has an invalid name; a name must match [a-z]',
        ),
        ({"http_steps": {"a.b": {}}}, '"http_steps.a.b" must have a name of at most 64 letters, digits, - and _'),
        (
            {"http_steps": {"a": {"secrets": {"x y": REFERENCE}}}},
            '"http_steps.a.secrets.x y" has an invalid name',
        ),
        (
            {"http_steps": {"a": {"url": "https://a"}}},
            '"http_steps.a.url" is not a known key; the known keys are secrets',
        ),
        ({"http_steps": {"a": {"secrets": {"x": REFERENCE}}}}, '"kms" is missing: secrets are sealed with a KMS key'),
    ],
)
def test_each_mistake_has_its_own_message(more: dict[str, Any], sentence: str) -> None:
    assert any(f"BUILD_SPEC: {sentence}" in problem for problem in problems(MINIMAL | more))


def test_errors_never_repeat_a_possible_token() -> None:
    text = " ".join(problems(MINIMAL | auth(method="jwt", jwt_env="eyJhbGciOi.secret")))
    assert "eyJ" not in text
    text = " ".join(problems(MINIMAL | {"vault": {"address": "https://user:hunter2@vault"}}))
    assert "hunter2" not in text
