"""What lives, as it is asked of EC2."""

from __future__ import annotations

from threading import Barrier
from typing import TYPE_CHECKING, Any

import pytest
from botocore.exceptions import ClientError, EndpointConnectionError, ReadTimeoutError
from hypothesis import example, given, settings
from hypothesis import strategies as st

from ec2_decommission.clients.ec2 import BotoEc2, LivingInEc2
from ec2_decommission.errors import AccessError, OutOfTime, TransientError
from ec2_decommission.steps.base import Interface, owner_in
from ec2_decommission.templates import Template
from ec2_decommission.together import side_by_side
from tests.fakes.ec2 import FakeEc2

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping


def bearers(ec2: FakeEc2, template: str, *names: str, gone: tuple[str, ...] = ()) -> dict[str, set[str]]:
    answer = LivingInEc2(ec2, gone).bearers(Template(template), names)
    return {name: set(ids) for name, ids in answer.items()}


TEMPLATES = [
    "{tag:Name}",
    "{tag:Name}.example.internal",
    "WEB-{tag:Name}-x",
    "{instance_id}.x",
    "{private_ip}",
    "n{private_ip_dashed}.x",
    "{private_dns_name}",
    "{hostname}.x",
    "{region}.x",
    "{account_id}",
    "{tag:Name}-{tag:Role}.x",
    "{tag:Name}.{region}.x",
    "{tag:Name}{tag:Name}",
    "{hostname}-{tag:Role}",
    "fixed.x",
]
values = st.text(
    alphabet="aAbBzZ019._-*?[]\\ %\u00c4\u00e4\u0130\u0131\u212a\u017f\u00df", max_size=4
) | st.sampled_from(["web-1", "Web-1", "a*", "?"])


@settings(max_examples=400, deadline=None)
@given(
    fleet=st.lists(st.tuples(st.none() | values, st.none() | values), min_size=1, max_size=4),
    template=st.sampled_from(TEMPLATES),
    picked=st.integers(0, 3),
    dead=st.booleans(),
    case=st.sampled_from(["lower", "upper", "swapcase", "__str__"]),
)
@example(fleet=[("İ", None)], template="{tag:Name}", picked=0, dead=False, case="__str__")
@example(fleet=[("\\", None)], template="{tag:Name}", picked=0, dead=False, case="__str__")
def test_finds_every_living_instance_for_which_the_template_gives_the_name(
    fleet: list[tuple[str | None, str | None]], template: str, picked: int, dead: bool, case: str
) -> None:
    ec2 = FakeEc2()
    ids = [
        ec2.launch(name, f"10.0.0.{10 + n}", tags={"Role": role} if role is not None else {})
        for n, (name, role) in enumerate(fleet)
    ]
    if dead:
        ec2.set_state(ids[-1], "shutting-down")
    parsed = Template(template)
    rendered = {i: parsed.render(d.instance()) for i, d in ec2.describe(ids).items()}
    asked = getattr(rendered[ids[picked % len(ids)]] or "nobody", case)()
    expected = {
        i for i, name in rendered.items() if name and name.lower() == asked.lower() and not (dead and i == ids[-1])
    }
    assert bearers(ec2, template, asked) == ({asked: expected} if expected else {})


def test_the_batchs_own_are_never_among_the_living() -> None:
    ec2 = FakeEc2()
    own, other = ec2.launch("web-1"), ec2.launch("WEB-1")
    assert bearers(ec2, "{tag:Name}", "web-1", gone=(own,)) == {"web-1": {other}}


def test_a_name_that_the_template_cannot_give_is_not_asked() -> None:
    ec2 = FakeEc2()
    ec2.launch("web-1")
    assert bearers(ec2, "{tag:Name}.a.internal", "web-1.b.internal", ".a.internal", "") == {}
    assert ec2.calls["DescribeInstances"] == 0


def test_names_and_addresses_are_asked_once_a_batch() -> None:
    ec2 = FakeEc2()
    owner = ec2.launch("web-1", "10.0.0.5")
    living = LivingInEc2(ec2, ())
    template = Template("{tag:Name}")
    for _ in range(3):
        assert living.bearers(template, ["web-1", "web-2"]) == {"web-1": (owner,)}
        assert list(living.interfaces(["10.0.0.5", "10.0.0.6"])) == ["10.0.0.5"]
    living.bearers(template, ["WEB-2"])
    living.interfaces(["10.0.0.6"])
    assert ec2.calls == {"DescribeInstances": 1, "DescribeNetworkInterfaces": 1}


def test_a_failed_question_is_not_taken_for_an_answer() -> None:
    ec2 = FakeEc2()
    owner = ec2.launch("web-1", "10.0.0.5")
    living = LivingInEc2(ec2, ())

    def fail(_: str) -> None:
        raise TransientError("no")

    ec2.fault = fail
    with pytest.raises(TransientError):
        living.interfaces(["10.0.0.5"])
    with pytest.raises(TransientError):
        living.bearers(Template("{tag:Name}"), ["web-1"])
    ec2.fault = lambda *_: None
    assert living.interfaces(["10.0.0.5"])["10.0.0.5"][0].instance_id == owner
    assert living.bearers(Template("{tag:Name}"), ["web-1"]) == {"web-1": (owner,)}


def test_many_names_are_asked_in_as_many_calls_as_filters_take() -> None:
    ec2 = FakeEc2()
    owner = ec2.launch("web-450")
    names = [f"web-{n}" for n in range(500)]
    assert bearers(ec2, "{tag:Name}", *names) == {"web-450": {owner}}
    # Letters are asked for as wildcards, and so many names share few patterns... but digits stay.
    assert ec2.calls["DescribeInstances"] == 3


# Owners


def interface(vpc: str | None, instance_id: str | None) -> Interface:
    return Interface("eni-1", vpc, instance_id, "NAT")


@pytest.mark.parametrize(
    ("interfaces", "vpc", "owner"),
    [
        ([], "vpc-a", None),
        ([interface("vpc-a", "i-2")], "vpc-a", "i-2"),
        ([interface("vpc-b", "i-2")], "vpc-a", None),
        ([interface("vpc-b", "i-2")], None, "i-2"),
        ([interface(None, "i-2")], "vpc-a", "i-2"),
        ([interface("vpc-a", "i-1")], "vpc-a", None),
        ([interface("vpc-a", "i-1"), interface("vpc-a", "i-3")], "vpc-a", "i-3"),
        ([interface("vpc-a", None)], "vpc-a", "eni-1 (NAT)"),
    ],
)
def test_who_has_an_address(interfaces: list[Interface], vpc: str | None, owner: str | None) -> None:
    found = owner_in(interfaces, vpc, "i-1")
    assert (found.owner if found else None) == owner


# The real client, over canned answers


class CannedClient:
    """A boto3 client that answers each operation with a list of pages, or raises."""

    class Meta:
        region_name = "eu-west-1"

    meta = Meta()

    def __init__(self, answers: Mapping[str, Any]) -> None:
        self._answers = answers
        self.asked: list[tuple[str, list[Any]]] = []

    def get_paginator(self, operation: str) -> Any:
        client = self

        class Paginator:
            def paginate(self, **request: Any) -> Iterator[Any]:
                client.asked.append((operation, request["Filters"]))
                answer = client._answers[operation]
                if callable(answer):
                    answer = answer(request)
                if isinstance(answer, Exception):
                    raise answer
                yield from answer

        return Paginator()


def test_hundreds_are_asked_for_four_questions_at_once() -> None:
    """Each of the first four waits for the other three."""
    meeting = Barrier(4)

    def by_id(request: Mapping[str, Any]) -> list[Any]:
        meeting.wait(10)
        return [{"Reservations": [{"Instances": [{"InstanceId": i} for i in request["Filters"][0]["Values"]]}]}]

    def by_address(request: Mapping[str, Any]) -> list[Any]:
        meeting.wait(10)
        values = request["Filters"][0]["Values"]
        return [{"NetworkInterfaces": [{"NetworkInterfaceId": f"eni-{a}", "PrivateIpAddress": a} for a in values]}]

    ec2 = BotoEc2(
        CannedClient({"describe_instances": by_id, "describe_network_interfaces": by_address}), side_by_side
    )
    ids = [f"i-{number:017x}" for number in range(800)]
    assert set(ec2.describe(ids)) == set(ids)
    addresses = [f"10.0.{number // 200}.{number % 200}" for number in range(800)]
    assert {a: i.interface_id for a, (i,) in ec2.interfaces(addresses).items()} == {a: f"eni-{a}" for a in addresses}


def test_a_question_that_fails_beside_others_is_not_taken_for_an_answer() -> None:
    def answer(request: Mapping[str, Any]) -> list[Any] | Exception:
        return (
            EndpointConnectionError(endpoint_url="https://ec2") if "i-300" in request["Filters"][0]["Values"] else []
        )

    ec2 = BotoEc2(CannedClient({"describe_instances": answer}), side_by_side)
    with pytest.raises(TransientError, match="could not describe instances"):
        ec2.describe(f"i-{number}" for number in range(600))


def test_reads_every_page_and_what_is_missing_is_not_known() -> None:
    pages = [
        {"Reservations": [{"OwnerId": "1", "Instances": [{"InstanceId": "i-1"}]}]},
        {"Reservations": [{"Instances": [{"InstanceId": "i-2", "State": {"Name": "running"}, "Tags": []}]}]},
    ]
    found = BotoEc2(CannedClient({"describe_instances": pages})).describe(["i-1", "i-2"])
    assert [(d.instance_id, d.state, d.lives, d.facts.account_id) for d in found.values()] == [
        ("i-1", "", False, "1"),
        ("i-2", "running", True, None),
    ]
    assert found["i-1"].facts.private_ips == ()
    assert found["i-1"].facts.launch_time is None


def test_the_primary_interface_comes_first_and_every_address_counts() -> None:
    raw = {
        "InstanceId": "i-1",
        "PrivateIpAddress": "10.0.0.5",
        "PrivateDnsName": "",
        "NetworkInterfaces": [
            {
                "Attachment": {"DeviceIndex": 1},
                "PrivateIpAddresses": [{"PrivateIpAddress": "10.0.1.5"}],
                "Ipv6Addresses": [{"Ipv6Address": "2001:DB8::0:1"}],
            },
            {
                "Attachment": {"DeviceIndex": 0},
                "PrivateIpAddresses": [
                    {
                        "PrivateIpAddress": "10.0.0.5",
                        "PrivateDnsName": "ip-10-0-0-5.eu-west-1.compute.internal",
                        "Association": {"PublicIp": "54.1.2.3", "PublicDnsName": ""},
                    }
                ],
            },
        ],
    }
    client = CannedClient({"describe_instances": [{"Reservations": [{"Instances": [raw]}]}]})
    facts = BotoEc2(client).describe(["i-1"])["i-1"].facts
    assert facts.private_ips == ("10.0.0.5", "10.0.1.5")
    assert facts.public_ips == ("54.1.2.3",)
    assert facts.ipv6_addresses == ("2001:db8::1",)
    assert facts.private_dns_names == ("ip-10-0-0-5.eu-west-1.compute.internal",)
    assert facts.public_dns_names == ()
    assert facts.region == "eu-west-1"


def test_an_interface_that_bears_an_address_in_another_form_is_found() -> None:
    raw = {
        "NetworkInterfaceId": "eni-1",
        "VpcId": "vpc-a",
        "PrivateIpAddress": "10.0.0.5",
        "Association": {"PublicIp": "54.1.2.3"},
        "Ipv6Addresses": [{"Ipv6Address": "2001:DB8:0::5"}],
    }
    ec2 = BotoEc2(CannedClient({"describe_network_interfaces": [{"NetworkInterfaces": [raw]}]}))
    assert set(ec2.interfaces(["10.0.0.5", "54.1.2.3", "2001:db8::5"])) == {"10.0.0.5", "54.1.2.3", "2001:db8::5"}


def refused(code: str) -> ClientError:
    return ClientError({"Error": {"Code": code, "Message": "so it is"}}, "DescribeNetworkInterfaces")


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (AccessError("no right"), AccessError),
        (OutOfTime("no time"), OutOfTime),
        (TransientError("no connection"), TransientError),
        (refused("RequestLimitExceeded"), TransientError),
        (refused("InternalError"), TransientError),
        (ReadTimeoutError(endpoint_url="http://x"), TransientError),
    ],
)
def test_what_no_other_question_would_cure_is_not_asked_otherwise(error: Exception, kind: type[Exception]) -> None:
    client = CannedClient({"describe_network_interfaces": error})
    with pytest.raises(kind):
        BotoEc2(client).interfaces(["10.0.0.5"])
    assert len(client.asked) == 1


def test_a_filter_that_the_endpoint_does_not_know_is_done_without() -> None:
    raw = {"NetworkInterfaceId": "eni-1", "PrivateIpAddress": "10.0.0.5"}

    def answer(request: Mapping[str, Any]) -> Any:
        return refused("InvalidParameterValue") if request["Filters"] else [{"NetworkInterfaces": [raw]}]

    ec2 = BotoEc2(CannedClient({"describe_network_interfaces": answer}))
    assert set(ec2.interfaces(["10.0.0.5", "10.0.0.6"])) == {"10.0.0.5"}
