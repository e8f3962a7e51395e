"""What is known of an instance, gathered from several sources."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ec2_decommission.instance import Facts, Instance

texts = st.lists(st.sampled_from("abcd"), max_size=3).map(tuple)
ipv4 = st.lists(st.sampled_from(["10.0.0.5", "10.0.0.6", "54.0.0.1", "nonsense"]), max_size=3).map(tuple)
ipv6 = st.lists(st.sampled_from(["2001:db8::5", "2001:db8::6", "10.0.0.5"]), max_size=3).map(tuple)
facts = st.builds(
    Facts,
    source=st.sampled_from(["ec2", "inventory", "chef"]),
    account_id=st.none() | st.just("1"),
    vpc_id=st.none() | st.sampled_from(["vpc-a", "vpc-b"]),
    private_ips=ipv4,
    public_ips=ipv4,
    ipv6_addresses=ipv6,
    private_dns_names=texts,
    public_dns_names=texts,
    tags=st.dictionaries(st.sampled_from("xy"), st.sampled_from("12"), max_size=2),
    known_as=st.dictionaries(
        st.sampled_from(["chef", "consul"]), st.dictionaries(st.just("node"), texts, max_size=1), max_size=2
    ),
)


def test_new_instance_has_no_facts() -> None:
    instance = Instance("i-1")
    assert (instance.private_ip, instance.private_dns_name, instance.addresses, instance.dns_names) == (
        None,
        None,
        (),
        (),
    )
    assert instance.names("chef", "node") == ()
    assert instance.identity() == {}


def test_known_facts_are_kept_and_new_ones_are_added() -> None:
    instance = Instance("i-1").learn(
        Facts(
            "ec2",
            vpc_id="vpc-a",
            private_ips=("10.0.0.5",),
            tags={"Name": "web-1"},
            known_as={"chef": {"node": ("a",)}},
        )
    )
    instance = instance.learn(
        Facts(
            "inventory",
            vpc_id="vpc-b",
            region="r",
            private_ips=("10.0.0.6", "10.0.0.5"),
            tags={"Name": "other", "Role": "db"},
            known_as={"chef": {"node": ("b", "a"), "client": ("c",)}},
        )
    )
    assert (instance.vpc_id, instance.region) == ("vpc-a", "r")
    assert instance.private_ips == ("10.0.0.5", "10.0.0.6")
    assert instance.private_ip == "10.0.0.5"
    assert instance.tags == {"Name": "web-1", "Role": "db"}
    assert instance.tag_values("Name") == ("web-1", "other")
    assert instance.names("chef", "node") == ("a", "b")
    assert instance.names("chef", "client") == ("c",)
    assert instance.sources == ("ec2", "inventory")


def test_a_source_that_adds_nothing_is_not_named() -> None:
    instance = Instance("i-1").learn(Facts("ec2", private_ips=("10.0.0.5",)))
    assert instance.learn(Facts("inventory", private_ips=("10.0.0.5",))) is instance
    assert instance.learn(Facts("chef")).sources == ("ec2",)


def test_the_report_tells_the_identity_without_empty_entries() -> None:
    instance = Instance("i-1").learn(
        Facts("ec2", public_ips=("54.1.2.3",), ipv6_addresses=("2001:DB8::1",), tags={"Name": "web-1", "secret": "s"})
    )
    assert instance.identity() == {"addresses": ["54.1.2.3", "2001:db8::1"], "name_tag": "web-1", "sources": ["ec2"]}


@settings(deadline=None)
@given(first=facts, second=facts)
def test_learning_forgets_nothing_and_learning_twice_changes_nothing(first: Facts, second: Facts) -> None:
    once = Instance("i-1").learn(first)
    both = once.learn(second)
    v4, v6 = set(second.private_ips + second.public_ips), set(second.ipv6_addresses)
    fit = {a for a in v4 if a != "nonsense"} | {a for a in v6 if ":" in a}
    assert set(once.addresses) | fit == set(both.addresses)
    assert both.private_ips[: len(once.private_ips)] == once.private_ips
    assert {**second.tags, **first.tags} == both.tags
    assert all(value in both.tag_values(key) for f in (first, second) for key, value in f.tags.items())
    assert both.learn(second) == both
    assert both.learn(first) == both
    assert len(set(both.private_ips)) == len(both.private_ips)


@pytest.mark.parametrize(
    "garbage",
    ["", "not-an-ip", "10.0.0", "10.0.0.256", "127.0.0.1", "0.0.0.0", "169.254.1.1", "224.0.0.1", "10.0.0.5/24",  # noqa: S104
     "fe80::1%eth0", "2001:db8::1%eth0", "::1", "::", 5, None],
)  # fmt: skip
def test_impossible_instance_addresses_are_ignored(garbage: Any) -> None:
    facts = Facts(
        "x", private_ips=(garbage, "10.0.0.5"), public_ips=(garbage,), ipv6_addresses=(garbage, "2001:DB8::5")
    )
    assert Instance("i-1").learn(facts).addresses == ("10.0.0.5", "2001:db8::5")


def test_constantly_changing_value_does_not_grow_the_record_forever() -> None:
    instance = Instance("i-1")
    for number in range(300):
        address = f"54.1.{number // 250}.{number % 250}"
        instance = instance.learn(Facts("ec2", public_ips=(address,), tags={"backup": str(number)}))
    assert instance.public_ips[0] == "54.1.0.0"
    assert (len(instance.public_ips), len(instance.tag_values("backup"))) == (60, 11)
