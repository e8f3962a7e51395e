"""The specification is read strictly, and every mistake is told, all at once, in a sentence."""

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
WITH_SECRET = MINIMAL | {"secrets": {"consul_token": REFERENCE}, "kms": KMS}


def problems(document: Any) -> list[str]:
    with pytest.raises(SpecError) as raised:
        spec.parse(json.dumps(document), "BUILD_SPEC")
    return list(raised.value.problems)


def test_reads_the_least() -> None:
    found = spec.parse(json.dumps(MINIMAL), "BUILD_SPEC")
    assert (found.features, found.secrets, found.kms, found.custom_steps) == (("route53",), (), None, ())
    assert found.vault.auth.method == "token"


def test_reads_all_that_the_module_gives() -> None:
    document = MINIMAL | {
        "features": ["route53", "chef", "consul"],
        "secrets": {"chef_client_key": REFERENCE, "consul_token": REFERENCE | {"version": 3}},
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
        "ca_bundle_file": "ca.pem",
        "custom_steps": {"tidy": {"source_dir": "steps/tidy", "requirements_file": None}},
    }
    found = spec.parse(json.dumps(document), "BUILD_SPEC")
    assert [str(reference) for reference in found.secrets] == ["secret/a/b#value", "secret/a/b#value@3"]
    assert found.vault.auth == spec.VaultAuth(method="jwt", mount="gitlab", role="build", jwt_env="ID_TOKEN")
    assert found.kms is not None
    assert found.kms.encryption_context == {"FunctionName": "x"}


def test_the_cache_lies_beside_the_package_or_where_it_is_to_be_shared(monkeypatch: pytest.MonkeyPatch) -> None:
    found = spec.parse(json.dumps(MINIMAL), "BUILD_SPEC")
    monkeypatch.delenv("BUILD_CACHE", raising=False)
    assert found.cache == found.output.parent / ".build-cache"
    monkeypatch.setenv("BUILD_CACHE", "/somewhere/else")
    assert found.cache == Path("/somewhere/else")


def test_tells_all_problems_at_once() -> None:
    found = problems({"output": "x.tar", "name": "a b", "runtime": "nodejs", "architecture": 5, "features": ["dns"]})
    assert len(found) == 5
    assert all(problem.startswith('BUILD_SPEC: "') and problem.endswith(".") for problem in found)


def test_a_missing_key_is_named() -> None:
    assert problems({key: value for key, value in MINIMAL.items() if key != "output"}) == [
        'BUILD_SPEC: "output" is missing.'
    ]


@pytest.mark.parametrize("text", ["", "{", "[]", "5"])
def test_refuses_what_is_no_object(text: str) -> None:
    with pytest.raises(SpecError, match="JSON"):
        spec.parse(text, "BUILD_SPEC")


AUTH = {"method": "token"}


@pytest.mark.parametrize(
    ("more", "sentence"),
    [
        ({"feature": []}, '"feature" is not known here'),
        ({"runtime": "python3.8"}, '"runtime" is "python3.8"; it must be one of python3.11, python3.12, python3.13'),
        ({"architecture": "arm"}, '"architecture" is "arm"; it must be one of arm64, x86_64'),
        ({"features": ["vault"]}, '"features" holds "vault"; the features are route53, chef, consul'),
        ({"features": "route53"}, '"features" must be a list of some of route53, chef, consul'),
        ({"features": ["chef"]}, '"secrets.chef_client_key" is missing: the chef step is on'),
        ({"secrets": {"consul_token": REFERENCE}}, '"kms" is missing: secrets go into the package sealed'),
        ({"secrets": {"chef_key": REFERENCE}}, '"secrets.chef_key" is not known; the secrets are chef_client_key'),
        ({"secrets": {"consul_token": "x"}}, '"secrets.consul_token" must be an object'),
        ({"secrets": {"consul_token": REFERENCE | {"path": "/a"}}}, '"secrets.consul_token.path" must be written as'),
        (
            {"secrets": {"consul_token": REFERENCE | {"path": "a/../b"}}},
            '"secrets.consul_token.path" must be written',
        ),
        (
            {"secrets": {"consul_token": REFERENCE | {"path": "a//b"}}},
            '"secrets.consul_token.path" must be written as',
        ),
        ({"secrets": {"consul_token": REFERENCE | {"mount": ""}}}, '"secrets.consul_token.mount" must be a string'),
        ({"secrets": {"consul_token": REFERENCE | {"version": 0}}}, '"secrets.consul_token.version" must be a whole'),
        (
            {"secrets": {"consul_token": REFERENCE | {"version": True}}},
            '"secrets.consul_token.version" must be a whole',
        ),
        ({"secrets": {"consul_token": REFERENCE | {"value": "x"}}}, '"secrets.consul_token.value" is not known here'),
        ({"vault": {"address": "vault:8200"}}, '"vault.address" must be a URL'),
        ({"vault": {"address": "https://u:p@vault"}}, '"vault.address" must not hold a user name or password'),
        ({"vault": {"kv_version": 3}}, '"vault.kv_version" must be 1 or 2'),
        ({"vault": {"token": "x"}}, '"vault.token" is not known here'),
        ({"vault": {"auth": {"method": "ldap"}}}, '"vault.auth.method" is "ldap"; it must be one of token, approle'),
        ({"vault": {"auth": AUTH | {"role": "x"}}}, '"vault.auth.role" is set, but the method "token" has no use'),
        (
            {"vault": {"auth": {"method": "jwt", "jwt_env": "a.b"}}},
            '"vault.auth.jwt_env" must be the name of an envi',
        ),
        ({"kms": KMS | {"key_arn": "alias/x"}}, '"kms.key_arn" must be the ARN of a KMS key or alias'),
        ({"kms": KMS | {"encryption_context": {}}}, '"kms.encryption_context" must be an object of strings'),
        ({"custom_steps": {"chef": {"source_dir": "x"}}}, '"custom_steps.chef" must be named in lower-case'),
        ({"custom_steps": {"tidy": {}}}, '"custom_steps.tidy.source_dir" is missing'),
        (
            {"custom_steps": {"tidy": {"source_dir": "x", "secrets": {"a": REFERENCE}}}},
            '"kms" is missing: secrets go into the package sealed',
        ),
        (
            {"custom_steps": {"tidy": {"source_dir": "x", "secrets": {"A": REFERENCE}}}},
            '"custom_steps.tidy.secrets.A" must be named in lower-case',
        ),
        (
            {"custom_steps": {"tidy": {"source_dir": "x"}}, "secrets": {"ldap_password": REFERENCE}},
            '"secrets.ldap_password" is not known; the secrets are chef_client_key, consul_token',
        ),
    ],
)
def test_each_mistake_has_its_sentence(more: dict[str, Any], sentence: str) -> None:
    assert any(sentence in problem for problem in problems(WITH_SECRET | {"secrets": {}, "kms": None} | more))


def test_never_repeats_what_may_be_a_token_in_the_wrong_place() -> None:
    text = " ".join(problems(MINIMAL | {"vault": {"auth": {"method": "jwt", "jwt_env": "eyJhbGciOi.secret"}}}))
    assert "eyJ" not in text
    text = " ".join(problems(MINIMAL | {"vault": {"address": "https://user:hunter2@vault"}}))
    assert "hunter2" not in text


def test_custom_steps_bring_secrets_of_their_own() -> None:
    document = WITH_SECRET | {
        "custom_steps": {"tidy": {"source_dir": "x", "secrets": {"ldap_password": REFERENCE}}},
    }
    found = spec.parse(json.dumps(document), "BUILD_SPEC")
    assert [reference.name for reference in found.secrets] == ["consul_token"]
    assert [reference.name for reference in found.all_secrets] == ["consul_token", "custom_steps.tidy.ldap_password"]
