"""The configuration of the Route 53 step."""

from __future__ import annotations

import json
from typing import Any

import pytest

from ec2_decommission.config import Config, ExternalDns, Route53Settings, ZoneSettings
from ec2_decommission.errors import ConfigurationError
from ec2_decommission.templates import Template

OWN = {"name": "x", "account_id": "111111111111", "region": "eu-west-1"}
ROLE = "arn:aws:iam::333333333333:role/dns"
LEAST: dict[str, Any] = {"zones": [{"id": "Z1"}], "record_names": ["{tag:Name}.example.internal"]}


def parse(**route53: Any) -> Route53Settings:
    settings = Config.parse(json.dumps({**OWN, "route53": {**LEAST, **route53}})).route53
    assert settings is not None
    return settings


def test_reads_all_settings() -> None:
    settings = parse(
        zones=[{"id": "Z1", "role_arn": ROLE, "external_id": "secret"}, {"id": "Z2", "role_arn": None}, {"id": "Z2"}],
        external_dns={"txt_prefix": "XDNS-%{record_type}-", "txt_suffix": None, "wildcard_replacement": ""},
        keep_names=["bastion.*"],
        requests_per_second=0.5,
    )
    assert settings == Route53Settings(
        zones=(ZoneSettings("Z1", ROLE, "secret"), ZoneSettings("Z2")),
        record_names=(Template("{tag:Name}.example.internal"),),
        external_dns=ExternalDns("xdns-%{record_type}-"),
        keep_names=("bastion.*",),
        requests_per_second=0.5,
    )


def test_omitted_settings_have_defaults() -> None:
    settings = parse(external_dns=None)
    assert (settings.external_dns, settings.keep_names, settings.requests_per_second) == (None, (), 2.5)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"zones": []}, "route53.zones: expected at least 1 entry, found []"),
        ({"zones": "Z1"}, 'route53.zones: expected a list of objects, found "Z1"'),
        ({"zones": ["Z1"]}, 'route53.zones[0]: expected a JSON object, found "Z1"'),
        ({"zones": [{"id": ""}]}, "route53.zones[0].id: expected a non-empty string"),
        (
            {"zones": [{"id": "Z1", "role": "x"}]},
            "route53.zones[0]: unknown key role; allowed: external_id, id, role_arn",
        ),
        (
            {"zones": [{"id": "Z1", "role_arn": "dns"}]},
            "route53.zones[0].role_arn: expected the ARN of an IAM role or null",
        ),
        (
            {"zones": [{"id": "Z1"}, {"id": "Z1", "role_arn": ROLE}]},
            "route53.zones: expected each zone once, or with the same role",
        ),
        ({"record_names": []}, "route53.record_names: expected at least 1 entry"),
        ({"record_names": ["{nme}"]}, "route53.record_names: name template '{nme}'"),
        ({"record_names": [1]}, "route53.record_names: expected a list of non-empty strings"),
        ({"external_dns": {"prefix": "x"}}, "external_dns: unknown key prefix; allowed: txt_prefix, txt_suffix"),
        ({"external_dns": {"txt_prefix": 1}}, "external_dns.txt_prefix: expected a string or null"),
        ({"keep_names": "x"}, "route53.keep_names: expected a list of non-empty strings"),
        ({"requests_per_second": 0}, "route53.requests_per_second: expected a number from 0.05 to 1000, found 0"),
        ({"zone_ids": ["Z1"]}, "route53: unknown key zone_ids; allowed: external_dns, keep_names"),
    ],
)
def test_errors_have_clear_messages(changed: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigurationError) as error:
        parse(**changed)
    assert message in str(error.value)
