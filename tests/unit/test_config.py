"""The configuration: one JSON document, all its errors told at once."""

from __future__ import annotations

import json
from contextlib import suppress
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ec2_decommission.config import Config, CustomStepSettings, InstanceFilter, SweepSettings
from ec2_decommission.errors import ConfigurationError
from ec2_decommission.templates import Template

FULL: dict[str, Any] = {
    "name": "ec2-decommission",
    "account_id": "111111111111",
    "region": "eu-west-1",
    "dry_run": True,
    "instance_filter": {"include_tags": {"k": ["v", "w*"]}, "exclude_tags": {}},
    "route53": {
        "zones": [{"id": "Z1"}, {"id": "Z2", "role_arn": "arn:aws:iam::333333333333:role/dns", "external_id": "x"}],
        "record_names": ["{tag:Name}.example.internal"],
        "external_dns": {"txt_prefix": "xdns-", "txt_suffix": None, "wildcard_replacement": "any"},
        "keep_names": ["www.*"],
        "requests_per_second": 0.5,
    },
    "chef": {
        "server_url": "https://chef/organizations/x/",
        "client_name": "decommission",
        "node_name": "{tag:Name}",
        "delete_client": False,
        "request_timeout_seconds": 10,
        "max_concurrency": 8,
    },
    "consul": {
        "url": "http://consul:8500",
        "datacenters": ["dc1"],
        "node_name": None,
        "lock_prefixes": ["locks/"],
        "deregister_node": True,
        "request_timeout_seconds": 2.5,
    },
    "inventory": {"table_name": "t", "retention_days": 7},
    "sweep": {"max_instances": 5, "max_fraction": 0.5},
    "queue": {
        "url": "https://sqs/q",
        "max_receive_count": 9,
        "retry_delay_seconds": 1,
        "max_retry_delay_seconds": 2,
    },
    "secrets": ["chef_client_key", "consul_token"],
    "encryption_context": {"FunctionName": "ec2-decommission"},
    "custom_steps": {"mine": {"settings": {"a": "b"}, "secrets": ["token"]}},
}


OWN = {"name": "x", "account_id": "111111111111", "region": "eu-west-1"}


def parse(**changed: Any) -> Config:
    return Config.parse(json.dumps({**FULL, **changed}))


def test_reads_the_full_configuration() -> None:
    config = parse()
    assert config.dry_run
    assert config.instance_filter == InstanceFilter({"k": ("v", "w*")}, {})
    assert config.route53
    assert config.route53.requests_per_second == 0.5
    assert [(zone.zone_id, zone.role_arn, zone.external_id) for zone in config.route53.zones] == [
        ("Z1", None, None),
        ("Z2", "arn:aws:iam::333333333333:role/dns", "x"),
    ]
    assert config.route53.keep_names == ("www.*",)
    assert config.route53.record_names == (Template("{tag:Name}.example.internal"),)
    assert config.chef
    assert config.chef.server_url == "https://chef/organizations/x"
    assert (config.chef.delete_client, config.chef.max_concurrency) == (False, 8)
    assert config.chef.signing_protocol == "1.3"
    assert config.consul
    assert (config.consul.node_name, config.consul.request_timeout_seconds) == (None, 2.5)
    assert config.inventory
    assert config.inventory.retention_days == 7
    assert config.sweep
    assert config.queue
    assert config.queue.max_retry_delay_seconds == 2
    assert config.secrets == ("chef_client_key", "consul_token")
    assert config.custom_steps == {"mine": CustomStepSettings({"a": "b"}, ("token",))}


def test_what_is_adopted_from() -> None:
    config = parse(sweep={"adopt": ["consul", "chef", "consul"]}, instance_filter={"include_tags": {}})
    assert config.sweep
    assert config.sweep.adopt == ("consul", "chef")
    assert SweepSettings().adopt == ()


def test_disabled_features_are_null_or_absent() -> None:
    minimal = Config.parse(json.dumps(OWN))
    nulls = Config.parse(json.dumps({**dict.fromkeys(FULL), **OWN}))
    assert minimal == nulls
    assert (minimal.route53, minimal.chef, minimal.consul, minimal.inventory, minimal.sweep) == (None,) * 5
    assert not minimal.dry_run
    assert minimal.instance_filter == InstanceFilter()


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"name": ""}, "name: expected a non-empty string"),
        ({"nme": "x"}, "the document: unknown key nme; allowed: account_id, audit, chef, consul"),
        ({"dry_run": "true"}, "dry_run: expected true or false, found"),
        ({"route53": []}, "route53: expected a JSON object, found []"),
        ({"route53": {"zones": [], "record_names": ["a"]}}, "route53.zones: expected at least 1 entry"),
        (
            {"route53": {"zones": [{"id": "Z"}], "record_names": []}},
            "route53.record_names: expected at least 1 entry",
        ),
        ({"route53": {**FULL["route53"], "record_names": ["{nme}"]}}, "route53.record_names: name template '{nme}'"),
        (
            {"route53": {**FULL["route53"], "record_names": [1]}},
            "route53.record_names: expected a list of non-empty strings",
        ),
        (
            {"route53": {**FULL["route53"], "zone_ids": []}},
            "route53: unknown key zone_ids; allowed: external_dns, keep_names, record_names, requests_per_second, z",
        ),
        ({"route53": {**FULL["route53"], "requests_per_second": 0}}, "expected a number from 0.05 to 1000, found 0"),
        ({"route53": {**FULL["route53"], "requests_per_second": "5"}}, 'from 0.05 to 1000, found "5"'),
        ({"route53": {**FULL["route53"], "zones": [{"id": "Z", "role": "x"}]}}, "route53.zones[0]: unknown key role"),
        ({"account_id": "1234"}, 'account_id: expected 12 digits, found "1234"'),
        (
            {"organization": {"members": {"1": []}, "role_name": "r"}},
            "organization.members: expected account ids of 12",
        ),
        ({"organization": {"members": {}}}, "organization.role_name: expected a non-empty string"),
        ({"audit": {"prefix": "x"}}, "audit.bucket: expected a non-empty string"),
        ({"result_events": {}}, "result_events.event_bus_name: expected a non-empty string"),
        ({"chef": {**FULL["chef"], "server_url": "chef"}}, "chef.server_url: expected a URL that begins with http"),
        ({"chef": {**FULL["chef"], "server_url": "ftp://x"}}, "chef.server_url: expected a URL"),
        ({"chef": {**FULL["chef"], "server_url": "https://"}}, "chef.server_url: expected a URL"),
        ({"chef": {**FULL["chef"], "server_url": "https://x:99999"}}, "chef.server_url: expected a URL"),
        ({"chef": {**FULL["chef"], "server_url": "https://[x"}}, "chef.server_url: expected a URL"),
        ({"chef": {**FULL["chef"], "client_name": None}}, "chef.client_name: expected a non-empty string"),
        ({"chef": {**FULL["chef"], "node_name": ""}}, "chef.node_name: expected a name template or null"),
        ({"chef": {**FULL["chef"], "request_timeout_seconds": 0}}, "expected a number from 1 to 60, found 0"),
        ({"chef": {**FULL["chef"], "request_timeout_seconds": True}}, "expected a number from 1 to 60, found true"),
        ({"chef": {**FULL["chef"], "max_concurrency": 1e9}}, "expected a number from 1 to 32"),
        ({"chef": {**FULL["chef"], "signing_protocol": "1.1"}}, 'chef.signing_protocol: expected "1.3" or "1.0"'),
        ({"chef": {**FULL["chef"], "signing_protocol": 1.3}}, 'chef.signing_protocol: expected "1.3" or "1.0"'),
        ({"secrets": ["consul_token"]}, "secrets does not list chef_client_key"),
        ({"encryption_context": {}}, "encryption_context: empty, but needed to decrypt the secrets"),
        ({"encryption_context": {"a": 1}}, "encryption_context: expected an object whose values are strings"),
        (
            {"instance_filter": {"include_tags": {"a": "b"}}},
            "include_tags: expected an object whose values are lists",
        ),
        ({"sweep": {"max_fraction": 2}}, "sweep.max_fraction: expected a number from 0.001 to 1, found 2"),
        ({"sweep": {"adopt": ["chef", "route53"]}}, 'sweep.adopt: expected some of chef, consul, found ["route53"]'),
        ({"sweep": {"adopt": "chef"}}, "sweep.adopt: expected a list of non-empty strings"),
        ({"sweep": {"adopt": ["consul"]}, "consul": None}, "sweep.adopt: names consul, but the step consul is off"),
        ({"sweep": {"adopt": ["chef"]}}, "sweep.adopt: needs instance_filter to be empty"),
        ({"queue": {"url": ""}}, "queue.url: expected a non-empty string"),
        ({"custom_steps": {"mine": {"setings": {}}}}, "unknown key setings"),
    ],
)
def test_errors_have_clear_messages(changed: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigurationError) as error:
        parse(**changed)
    assert message in str(error.value)
    assert str(error.value).startswith("DECOMMISSION_CONFIG: ")


def test_all_errors_are_reported_at_once() -> None:
    with pytest.raises(ConfigurationError) as error:
        parse(dry_run=1, sweep={"max_instances": 0, "typo": 1}, queue=3)
    for part in ("dry_run", "sweep.max_instances", "unknown key typo", "queue: expected a JSON object"):
        assert part in str(error.value)


@pytest.mark.parametrize("text", [None, "", "{", "[]", "null", "1", '"x"', "[" * 100_000])
def test_invalid_documents(text: str | None) -> None:
    with pytest.raises(ConfigurationError, match="DECOMMISSION_CONFIG"):
        Config.parse(text)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=6),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=6), inner, max_size=3),
    max_leaves=6,
)


def sections(document: dict[str, Any]) -> st.SearchStrategy[dict[str, Any]]:
    return st.fixed_dictionaries(
        {},
        optional={
            key: st.just(value) | json_values | (sections(value) if isinstance(value, dict) else st.nothing())
            for key, value in document.items()
        },
    )


@settings(max_examples=300, deadline=None)
@given(st.text(max_size=30) | json_values.map(json.dumps) | sections(FULL).map(json.dumps))
def test_any_text_is_a_configuration_or_an_error_of_it(text: str) -> None:
    with suppress(ConfigurationError):
        Config.parse(text)
