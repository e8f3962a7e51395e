"""Names of instances, marks of external-dns, kept names, reverse zones."""

from __future__ import annotations

import pytest

from ec2_decommission.clients.route53 import Zone
from ec2_decommission.config import ExternalDns
from ec2_decommission.instance import Facts, Instance
from ec2_decommission.steps.route53.names import (
    address_of,
    concerns_classless,
    ec2_name_of_id,
    is_classless,
    is_kept,
    mark_names,
    name_questions,
    own_names,
)
from ec2_decommission.templates import Template

ID = "i-0123456789abcdef0"
ZONE = Zone("Z", "x.io.")


def test_the_names_of_an_instance() -> None:
    instance = Instance(ID).learn(
        Facts(
            "inventory",
            private_ips=("10.0.0.5",),
            ipv6_addresses=("2001:db8::5",),
            tags={"Name": "Web", "Bad": "a..b"},
            past_tags={"Name": ("old",)},
        )
    )
    texts = ["{tag:Name}.x.io", "{tag:Role}.x.io", "{tag:Bad}.x.io", "{instance_id}.x.io.", "web.x.io"]
    templates = [Template(text) for text in texts]
    own = own_names(templates, instance)
    assert {name: template.text for name, template in own.forward.items()} == {
        "web.x.io.": texts[0],
        "old.x.io.": texts[0],
        f"{ID}.x.io.": texts[3],
    }
    assert own.pointers == {
        "5.0.0.10.in-addr.arpa.": "10.0.0.5",
        f"5.{'0.' * 23}8.b.d.0.1.0.0.2.ip6.arpa.": "2001:db8::5",
    }
    assert own.notes == (
        f"record name {{tag:Role}}.x.io: tag:Role is not known for {ID}",
        "record name {tag:Bad}.x.io: 'a..b.x.io.' is not a DNS name, so no record has it",
    )


DEFAULT = ["www.x.io.", "a-www.x.io.", "aaaa-www.x.io.", "cname-www.x.io."]


@pytest.mark.parametrize(
    ("flags", "name", "marks"),
    [
        (None, "www.x.io.", DEFAULT),
        (ExternalDns(), "www.x.io.", DEFAULT),
        (None, "x.io.", ["x.io."]),
        (
            ExternalDns("p-"),
            "www.x.io.",
            [*DEFAULT, "p-www.x.io.", "p-a-www.x.io.", "p-aaaa-www.x.io.", "p-cname-www.x.io."],
        ),
        (
            ExternalDns(txt_suffix="-s", wildcard_replacement="any"),
            "www.x.io.",
            [*DEFAULT, "www-s.x.io.", "a-www-s.x.io.", "aaaa-www-s.x.io.", "cname-www-s.x.io."],
        ),
        (
            ExternalDns("%{record_type}."),
            "www.x.io.",
            [*DEFAULT, "a.www.x.io.", "aaaa.www.x.io.", "cname.www.x.io."],
        ),
        (
            ExternalDns(wildcard_replacement="any"),
            "*.x.io.",
            [
                *(name.replace("www", "*") for name in DEFAULT),
                *(name.replace("www", "any") for name in DEFAULT),
            ],
        ),
        (
            ExternalDns(txt_suffix="-s"),
            "a.b.x.io.",
            [
                "a.b.x.io.",
                *(f"{kind}-a.b.x.io." for kind in ("a", "aaaa", "cname")),
                *(f"{kind}a-s.b.x.io." for kind in ("", "a-", "aaaa-", "cname-")),
                *(f"{kind}a.b-s.x.io." for kind in ("", "a-", "aaaa-", "cname-")),
            ],
        ),
        (None, f"{'w' * 62}.x.io.", [f"{'w' * 62}.x.io."]),  # a longer label is none
    ],
)
def test_where_external_dns_marks_a_name(flags: ExternalDns | None, name: str, marks: list[str]) -> None:
    assert list(mark_names(flags, ZONE, name)) == marks


@pytest.mark.parametrize(
    ("patterns", "name", "kept"),
    [
        (["web.x.io"], "web.x.io.", True),
        (["WEB.X.IO."], "web.x.io.", True),
        (["other", "*.x.io"], "a.b.x.io.", True),
        (["*.x.io"], "x.io.", False),
        (["w?b.x.io"], "web.x.io.", True),
        (["web"], "web.x.io.", False),
        ([], "web.x.io.", False),
        (["\\052.x.io"], "*.x.io.", True),
    ],
)
def test_kept_names(patterns: list[str], name: str, kept: bool) -> None:
    assert is_kept(patterns, name) is kept


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("10.0.0.5", "10.0.0.5"),
        ("2001:DB8:0::5", "2001:db8::5"),
        ("ip-10-0-0-5.ec2.internal", "10.0.0.5"),
        ("IP-10-0-0-5.eu-west-1.compute.internal.", "10.0.0.5"),
        ("ec2-54-1-2-3.compute-1.amazonaws.com", "54.1.2.3"),
        ("ip-10-0-0-500.ec2.internal", None),
        ("zip-10-0-0-5.ec2.internal", None),
        ("web.x.io", None),
    ],
)
def test_the_address_in_a_value(text: str, address: str | None) -> None:
    assert address_of(text) == address


@pytest.mark.parametrize(
    ("name", "named"),
    [
        (f"{ID}.ec2.internal.", (ID, "us-east-1")),
        (f"{ID}.eu-west-1.compute.internal.", (ID, "eu-west-1")),
        (f"{ID}.x.io.", None),
        (f"{ID}.ec2.internal.x.io.", None),
        (f"x{ID}.ec2.internal.", None),
        ("ip-10-0-0-5.ec2.internal.", None),
    ],
)
def test_ec2s_own_name_of_an_id(name: str, named: tuple[str, str] | None) -> None:
    assert ec2_name_of_id(name) == named


@pytest.mark.parametrize(
    ("zone", "pointer", "classless", "concerned"),
    [
        ("0/26.2.0.192.in-addr.arpa.", "5.2.0.192.in-addr.arpa.", True, True),
        ("0-63.2.0.192.in-addr.arpa.", "200.2.0.192.in-addr.arpa.", True, True),
        ("subnet.2.0.192.in-addr.arpa.", "5.3.0.192.in-addr.arpa.", True, False),
        ("64.0.2.0.192.in-addr.arpa.", "0.2.0.192.in-addr.arpa.", True, False),
        ("64.0.2.0.192.in-addr.arpa.", "65.0.2.0.192.in-addr.arpa.", True, True),
        ("2.0.192.in-addr.arpa.", "5.2.0.192.in-addr.arpa.", False, False),
        ("5.2.0.192.in-addr.arpa.", "5.2.0.192.in-addr.arpa.", False, False),
        ("8.b.d.0.1.0.0.2.ip6.arpa.", "0.8.b.d.0.1.0.0.2.ip6.arpa.", False, False),
        ("0-7.8.b.d.0.1.0.0.2.ip6.arpa.", "0.8.b.d.0.1.0.0.2.ip6.arpa.", True, True),
        ("x.io.", "5.2.0.192.in-addr.arpa.", False, False),
    ],
)
def test_classless_reverse_zones(zone: str, pointer: str, classless: bool, concerned: bool) -> None:
    assert is_classless(zone) is classless
    assert concerns_classless(zone, pointer) is concerned


@pytest.mark.parametrize(
    ("template", "asked"),
    [
        ("{tag:Name}.x.io", ["web.x.io"]),
        ("{tag:Name}.X.io.", ["web.x.io."]),
        ("{tag:A}{tag:B}.x.io", ["web.x.io"]),
        ("web.x.io", ["web.x.io"]),
        ("db.x.io", []),
        ("web.{region}.x.io", []),
        ("{tag:Name}.y.io", []),
        ("web{tag:Name}.x.io", []),
    ],
)
def test_templates_that_can_give_a_name(template: str, asked: list[str]) -> None:
    assert [name for _, name in name_questions([Template(template)], "web.x.io.")] == asked
