"""The region in a zone's name and in a DNS name of EC2's."""

from __future__ import annotations

import pytest

from ec2_decommission.regions import region_of_name, region_of_zone


@pytest.mark.parametrize(
    ("zone", "region"),
    [
        ("eu-west-1a", "eu-west-1"),
        ("us-gov-west-1b", "us-gov-west-1"),
        ("us-west-2-lax-1a", "us-west-2"),
        ("us-east-1-wl1-bos-wlz-1", "us-east-1"),
        ("eusc-de-east-1a", "eusc-de-east-1"),
        ("ap-northeast-3", "ap-northeast-3"),
        ("use1-az1", None),
        ("rack 7", None),
        ("", None),
        (None, None),
    ],
)
def test_the_region_of_a_zone(zone: str | None, region: str | None) -> None:
    assert region_of_zone(zone) == region


@pytest.mark.parametrize(
    ("name", "region"),
    [
        ("ip-10-0-0-5.ec2.internal", "us-east-1"),
        ("i-0123456789abcdef0.ec2.internal", "us-east-1"),
        ("ip-10-0-0-5.eu-west-1.compute.internal", "eu-west-1"),
        ("i-0123456789abcdef0.us-gov-west-1.compute.internal.", "us-gov-west-1"),
        ("ec2-3-4-5-6.compute-1.amazonaws.com", "us-east-1"),
        ("ec2-3-4-5-6.eu-central-1.compute.amazonaws.com", "eu-central-1"),
        ("ec2-3-4-5-6.cn-north-1.compute.amazonaws.com.cn", "cn-north-1"),
        ("web-1.eu-west-1.example.com", None),
        ("web-1", None),
    ],
)
def test_the_region_of_a_name(name: str, region: str | None) -> None:
    assert region_of_name(name) == region
