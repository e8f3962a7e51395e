"""EC2 in one place: the real client over canned answers."""

from __future__ import annotations

from threading import Barrier
from typing import TYPE_CHECKING, Any

import pytest
from botocore.exceptions import ClientError, EndpointConnectionError, ReadTimeoutError

from ec2_decommission.clients.ec2 import BotoEc2
from ec2_decommission.errors import AccessError, OutOfTime, TransientError
from ec2_decommission.place import Place
from ec2_decommission.together import in_turn, side_by_side

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from ec2_decommission.together import Together

PLACE = Place("111111111111", "eu-west-1")


def asking(client: Any, together: Together = in_turn) -> BotoEc2:
    return BotoEc2(lambda: client, PLACE, together)


class CannedClient:
    """A boto3 client that answers each operation with a list of pages, or raises."""

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


def test_large_queries_run_four_requests_in_parallel() -> None:
    """Each of the first four waits for the other three."""
    meeting = Barrier(4)

    def by_id(request: Mapping[str, Any]) -> list[Any]:
        meeting.wait(10)
        return [{"Reservations": [{"Instances": [{"InstanceId": i} for i in request["Filters"][0]["Values"]]}]}]

    def by_address(request: Mapping[str, Any]) -> list[Any]:
        meeting.wait(10)
        values = request["Filters"][0]["Values"]
        return [{"NetworkInterfaces": [{"NetworkInterfaceId": f"eni-{a}", "PrivateIpAddress": a} for a in values]}]

    ec2 = asking(CannedClient({"describe_instances": by_id, "describe_network_interfaces": by_address}), side_by_side)
    ids = [f"i-{number:017x}" for number in range(800)]
    assert set(ec2.describe(ids)) == set(ids)
    addresses = [f"10.0.{number // 200}.{number % 200}" for number in range(800)]
    assert {a: i.interface_id for a, (i,) in ec2.interfaces(addresses).items()} == {a: f"eni-{a}" for a in addresses}


def test_failure_of_a_parallel_request_is_not_an_answer() -> None:
    def answer(request: Mapping[str, Any]) -> list[Any] | Exception:
        return (
            EndpointConnectionError(endpoint_url="https://ec2") if "i-300" in request["Filters"][0]["Values"] else []
        )

    ec2 = asking(CannedClient({"describe_instances": answer}), side_by_side)
    with pytest.raises(TransientError, match="could not describe instances"):
        ec2.describe(f"i-{number}" for number in range(600))


def test_reads_every_page_and_what_is_missing_is_not_known() -> None:
    pages = [
        {"Reservations": [{"OwnerId": "1", "Instances": [{"InstanceId": "i-1"}]}]},
        {"Reservations": [{"Instances": [{"InstanceId": "i-2", "State": {"Name": "running"}, "Tags": []}]}]},
    ]
    found = asking(CannedClient({"describe_instances": pages})).describe(["i-1", "i-2"])
    assert [(d.instance_id, d.state, d.lives, d.facts.account_id) for d in found.values()] == [
        ("i-1", "", False, "111111111111"),
        ("i-2", "running", True, "111111111111"),
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
    facts = asking(client).describe(["i-1"])["i-1"].facts
    assert facts.private_ips == ("10.0.0.5", "10.0.1.5")
    assert facts.public_ips == ("54.1.2.3",)
    assert facts.ipv6_addresses == ("2001:db8::1",)
    assert facts.private_dns_names == ("ip-10-0-0-5.eu-west-1.compute.internal",)
    assert facts.public_dns_names == ()
    assert facts.region == "eu-west-1"


def test_an_interface_that_has_an_address_in_another_form_is_found() -> None:
    raw = {
        "NetworkInterfaceId": "eni-1",
        "VpcId": "vpc-a",
        "PrivateIpAddress": "10.0.0.5",
        "Association": {"PublicIp": "54.1.2.3"},
        "Ipv6Addresses": [{"Ipv6Address": "2001:DB8:0::5"}],
    }
    ec2 = asking(CannedClient({"describe_network_interfaces": [{"NetworkInterfaces": [raw]}]}))
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
def test_permanent_errors_have_no_fallback_query(error: Exception, kind: type[Exception]) -> None:
    client = CannedClient({"describe_network_interfaces": error})
    with pytest.raises(kind):
        asking(client).interfaces(["10.0.0.5"])
    assert len(client.asked) == 1


def test_unsupported_filter_is_replaced_by_a_fallback() -> None:
    raw = {"NetworkInterfaceId": "eni-1", "PrivateIpAddress": "10.0.0.5"}

    def answer(request: Mapping[str, Any]) -> Any:
        return refused("InvalidParameterValue") if request["Filters"] else [{"NetworkInterfaces": [raw]}]

    ec2 = asking(CannedClient({"describe_network_interfaces": answer}))
    assert set(ec2.interfaces(["10.0.0.5", "10.0.0.6"])) == {"10.0.0.5"}
