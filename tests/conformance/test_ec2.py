"""Conformance of the fake EC2: the same tests run on the fake and on the real client with the strict AWS."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

import pytest

from ec2_decommission.clients.ec2 import BotoEc2
from ec2_decommission.errors import AccessError, TransientError
from ec2_decommission.place import Place
from ec2_decommission.together import side_by_side
from testbed.aws import Answer, AwsError, StrictAws, throttled
from tests.fakes.ec2 import FakeEc2

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from ec2_decommission.clients.ec2 import Ec2


HOME = Place("123456789012", "us-east-1")


class World(Protocol):
    """A region for a test to fill, and its client."""

    def client(self) -> Ec2: ...

    def launch(
        self,
        name: str | None,
        private_ip: str,
        *,
        tags: Mapping[str, str] | None = None,
        secondary_ip: str | None = None,
        ipv6: str | None = None,
        public: bool = False,
        second_vpc: bool = False,
    ) -> str: ...

    def public_ip(self, instance_id: str) -> str: ...

    def vpc(self, *, second: bool = False) -> str: ...

    def add_interface(self, private_ip: str, description: str) -> str: ...

    def stop(self, instance_id: str) -> None: ...

    def terminate(self, instance_id: str) -> None: ...

    def forget_tags(self, instance_id: str) -> None: ...

    def forget(self, instance_id: str) -> None: ...


class FakeWorld:
    def __init__(self) -> None:
        self.ec2 = FakeEc2()
        self.forget_tags, self.forget, self.terminate = self.ec2.forget_tags, self.ec2.forget, self.ec2.terminate

    def client(self) -> Ec2:
        return self.ec2

    def vpc(self, *, second: bool = False) -> str:
        return "vpc-b" if second else "vpc-a"

    def launch(self, name: str | None, private_ip: str, **more: Any) -> str:
        self.ec2.allocated |= {"54.1.2.3"} if more.get("public") else set()
        return self.ec2.launch(
            name,
            private_ip,
            vpc_id=self.vpc(second=more.get("second_vpc", False)),
            tags=more.get("tags"),
            secondary_ips=[more["secondary_ip"]] if more.get("secondary_ip") else [],
            ipv6_addresses=[more["ipv6"]] if more.get("ipv6") else [],
            public_ip="54.1.2.3" if more.get("public") else None,
        )

    def public_ip(self, instance_id: str) -> str:
        return "54.1.2.3"

    def add_interface(self, private_ip: str, description: str) -> str:
        return self.ec2.add_interface(private_ip, vpc_id=self.vpc(), description=description).interface_id

    def stop(self, instance_id: str) -> None:
        self.ec2.set_state(instance_id, "stopped")


class AwsWorld:
    def __init__(self, aws: StrictAws, asks: Any) -> None:
        self._aws = aws
        self._ec2 = aws.client("ec2")
        self._asks = asks
        self._second: tuple[str, str] | None = None
        self.forget_tags, self.forget = aws.forget_tags, aws.forget

    def client(self) -> Ec2:
        return BotoEc2(lambda: self._asks, HOME, side_by_side)

    def vpc(self, *, second: bool = False) -> str:
        subnet = self._subnet(second=second)
        return str(self._ec2.describe_subnets(SubnetIds=[subnet])["Subnets"][0]["VpcId"])

    def _subnet(self, *, second: bool) -> str:
        if not second:
            return self._aws.subnet_id
        if self._second is None:
            vpc = self._ec2.create_vpc(CidrBlock="10.0.0.0/16")["Vpc"]["VpcId"]
            subnet = self._ec2.create_subnet(VpcId=vpc, CidrBlock="10.0.0.0/16")["Subnet"]["SubnetId"]
            self._second = (vpc, subnet)
        return self._second[1]

    def launch(self, name: str | None, private_ip: str, **more: Any) -> str:
        subnet = self._subnet(second=more.get("second_vpc", False))
        tags = {**({"Name": name} if name is not None else {}), **(more.get("tags") or {})}
        tagged = [{"ResourceType": "instance", "Tags": [{"Key": k, "Value": v} for k, v in tags.items()]}]
        launched = self._ec2.run_instances(
            ImageId="ami-12c6146b",
            MinCount=1,
            MaxCount=1,
            SubnetId=subnet,
            PrivateIpAddress=private_ip,
            TagSpecifications=tagged if tags else [],
        )["Instances"][0]
        interface = launched["NetworkInterfaces"][0]["NetworkInterfaceId"]
        if more.get("secondary_ip"):
            self._ec2.assign_private_ip_addresses(
                NetworkInterfaceId=interface, PrivateIpAddresses=[more["secondary_ip"]]
            )
        if more.get("ipv6"):
            self._ec2.assign_ipv6_addresses(NetworkInterfaceId=interface, Ipv6Addresses=[more["ipv6"]])
        if more.get("public"):
            # moto would choose a loopback address, which the function ignores.
            address = self._ec2.allocate_address(Domain="vpc", Address="54.7.8.9")
            self._ec2.associate_address(AllocationId=address["AllocationId"], InstanceId=launched["InstanceId"])
        return str(launched["InstanceId"])

    def public_ip(self, instance_id: str) -> str:
        reservation = self._ec2.describe_instances(InstanceIds=[instance_id])["Reservations"][0]
        return str(reservation["Instances"][0]["PublicIpAddress"])

    def add_interface(self, private_ip: str, description: str) -> str:
        made = self._ec2.create_network_interface(
            SubnetId=self._aws.subnet_id, PrivateIpAddress=private_ip, Description=description
        )
        return str(made["NetworkInterface"]["NetworkInterfaceId"])

    def stop(self, instance_id: str) -> None:
        self._ec2.stop_instances(InstanceIds=[instance_id])

    def terminate(self, instance_id: str) -> None:
        self._ec2.terminate_instances(InstanceIds=[instance_id])


@pytest.fixture(scope="module")
def aws() -> Iterator[StrictAws]:
    with StrictAws() as strict:
        yield strict


@pytest.fixture(params=["fake", "aws"])
def world(request: pytest.FixtureRequest) -> World:
    if request.param == "fake":
        return FakeWorld()
    strict: StrictAws = request.getfixturevalue("aws")
    strict.reset()
    return AwsWorld(strict, strict.client("ec2"))


def test_describe_returns_all_identifying_attributes(world: World) -> None:
    instance_id = world.launch(
        "web-1", "10.0.0.15", tags={"role": "web"}, secondary_ip="10.0.0.16", ipv6="2001:db8:0:0::15", public=True
    )
    described = world.client().describe([instance_id])[instance_id]
    assert (described.instance_id, described.state, described.lives) == (instance_id, "running", True)
    facts = described.facts
    assert facts.source == "ec2"
    assert facts.account_id == "123456789012"
    assert facts.region == "us-east-1"
    assert facts.vpc_id == world.vpc()
    assert facts.launch_time is not None
    assert facts.launch_time.endswith("+00:00")
    assert facts.private_ips == ("10.0.0.15", "10.0.0.16")
    assert facts.ipv6_addresses == ("2001:db8::15",)
    assert facts.public_ips == (world.public_ip(instance_id),)
    assert facts.private_dns_names[0] == "ip-10-0-0-15.ec2.internal"
    dashed = world.public_ip(instance_id).replace(".", "-")
    assert facts.public_dns_names[0] == f"ec2-{dashed}.compute-1.amazonaws.com"
    assert facts.tags == {"Name": "web-1", "role": "web"}


def test_unknown_ids_are_omitted(world: World) -> None:
    here, forgotten = world.launch("a", "10.0.0.15"), world.launch("b", "10.0.0.16")
    world.terminate(forgotten)
    world.forget(forgotten)
    assert set(world.client().describe([here, forgotten, "i-00000000", here])) == {here}
    assert dict(world.client().describe([])) == {}


def test_terminated_instance_keeps_only_its_tags(world: World) -> None:
    instance_id = world.launch("web-1", "10.0.0.15", public=True)
    public_ip = world.public_ip(instance_id)
    world.terminate(instance_id)
    described = world.client().describe([instance_id])[instance_id]
    assert (described.state, described.lives) == ("terminated", False)
    facts = described.facts
    assert facts.vpc_id is None
    assert (facts.private_ips, facts.public_ips, facts.private_dns_names, facts.public_dns_names) == ((), (), (), ())
    assert facts.tags == {"Name": "web-1"}
    assert dict(world.client().interfaces(["10.0.0.15", public_ip])) == {}
    world.forget_tags(instance_id)
    assert world.client().describe([instance_id])[instance_id].facts.tags == {}


def test_stopped_instance_is_live_and_keeps_its_addresses(world: World) -> None:
    instance_id = world.launch("web-1", "10.0.0.15")
    world.stop(instance_id)
    described = world.client().describe([instance_id])[instance_id]
    assert (described.state, described.lives) == ("stopped", True)
    assert described.facts.private_ips == ("10.0.0.15",)
    assert world.client().interfaces(["10.0.0.15"])["10.0.0.15"][0].instance_id == instance_id
    assert [d.instance_id for d in world.client().living({})] == [instance_id]


FILTERS: list[tuple[dict[str, list[str]], set[str]]] = [
    ({}, {"upper", "lower", "other", "unnamed"}),
    ({"tag:Name": ["web-1"]}, {"lower"}),
    ({"tag:Name": ["???-1"]}, {"upper", "lower"}),
    ({"tag:Name": ["??b-1", "b*"]}, {"upper", "lower", "other"}),
    ({"tag:Name": ["web"]}, set()),
    ({"tag:Name": ["Web-1", "web-1"]}, {"upper", "lower"}),
    ({"tag:name": ["web-1"]}, set()),
    ({"tag-key": ["Name"]}, {"upper", "lower", "other"}),
    ({"tag-key": ["N*"], "tag:role": ["a"]}, {"other"}),
    ({"private-ip-address": ["10.0.0.11", "10.0.0.14"]}, {"upper", "unnamed"}),
    ({"private-ip-address": ["10.0.0.99"]}, set()),
    ({"private-ip-address": ["10.0.0.13"], "tag:Name": ["web-1"]}, set()),
]


def test_filters_match_as_in_ec2(world: World) -> None:
    ids = {
        world.launch("Web-1", "10.0.0.11"): "upper",
        world.launch("web-1", "10.0.0.12"): "lower",
        world.launch("b[1]*", "10.0.0.13", tags={"role": "a"}): "other",
        world.launch(None, "10.0.0.14"): "unnamed",
    }
    dead = world.launch("web-1", "10.0.0.15", tags={"role": "a"})
    world.terminate(dead)
    ec2 = world.client()
    assert [{ids[d.instance_id] for d in ec2.living(filters)} for filters, _ in FILTERS] == [e for _, e in FILTERS]


def test_filters_by_id_and_state(world: World) -> None:
    first, second = world.launch("a", "10.0.0.11"), world.launch("b", "10.0.0.12")
    world.stop(second)
    assert {d.instance_id for d in world.client().living({"instance-id": [first, "i-00000000"]})} == {first}
    assert {d.instance_id for d in world.client().living({"instance-state-name": ["stopped"]})} == {second}


def test_lookup_by_id_answers_for_each_id(world: World) -> None:
    here, dead, forgotten = (world.launch(n, f"10.0.0.1{m}") for m, n in enumerate("abc"))
    for instance_id in (dead, forgotten):
        world.terminate(instance_id)
    world.forget(forgotten)
    world.stop(here)
    never = [f"i-{number:017x}" for number in range(0xFFFF0, 0xFFFF0 + 150)]
    answer = world.client().ask_by_id([here, *never, dead, forgotten, here])
    assert {i: d.state if d else None for i, d in answer.items()} == {
        here: "stopped",
        dead: "terminated",
        forgotten: None,
        **dict.fromkeys(never),
    }
    assert dict(world.client().ask_by_id([])) == {}


def test_interfaces_are_found_by_any_address(world: World) -> None:
    instance_id = world.launch("web-1", "10.0.0.15", secondary_ip="10.0.0.16", ipv6="2001:db8::15", public=True)
    other = world.launch("web-2", "10.0.0.17")
    public_ip = world.public_ip(instance_id)
    asked = ["10.0.0.15", "10.0.0.16", public_ip, "2001:db8::15", "10.0.0.17", "10.0.0.99", "2001:db8::99"]
    found = world.client().interfaces(asked)
    assert set(found) == {"10.0.0.15", "10.0.0.16", public_ip, "2001:db8::15", "10.0.0.17"}
    assert {i.instance_id for a in asked[:4] for i in found[a]} == {instance_id}
    assert {len(found[a]) for a in found} == {1}
    assert len({i.interface_id for a in asked[:4] for i in found[a]}) == 1
    assert found["10.0.0.17"][0].instance_id == other
    assert found["10.0.0.17"][0].vpc_id == world.vpc()
    assert dict(world.client().interfaces([])) == {}


def test_one_address_in_two_vpcs(world: World) -> None:
    first, second = world.launch("a", "10.0.0.15"), world.launch("b", "10.0.0.15", second_vpc=True)
    found = world.client().interfaces(["10.0.0.15"])["10.0.0.15"]
    assert {(i.vpc_id, i.instance_id) for i in found} == {
        (world.vpc(), first),
        (world.vpc(second=True), second),
    }


def test_an_elastic_ip_stays_allocated_after_its_instance(world: World) -> None:
    instance_id = world.launch("web-1", "10.0.0.15", public=True)
    public_ip = world.public_ip(instance_id)
    world.terminate(instance_id)
    assert world.client().elastic_ips([public_ip, "54.0.0.99", "2600::1"]) == {public_ip}
    assert dict(world.client().interfaces([public_ip])) == {}
    assert world.client().elastic_ips([]) == frozenset()


def test_interface_without_an_instance_has_a_description(world: World) -> None:
    interface_id = world.add_interface("10.0.0.20", "ELB app/web")
    (interface,) = world.client().interfaces(["10.0.0.20"])["10.0.0.20"]
    assert (interface.interface_id, interface.vpc_id, interface.instance_id) == (interface_id, world.vpc(), None)
    assert interface.owner == f"{interface_id} (ELB app/web)"


def test_an_unknown_filter_is_an_error(world: World) -> None:
    world.launch("web-1", "10.0.0.15")
    with pytest.raises(TransientError, match=r"could not describe instances.* \(ec2:DescribeInstances\)"):
        list(world.client().living({"shoe-size": ["44"]}))


# Only the real client


def test_aws_errors_map_to_error_types(aws: StrictAws) -> None:
    aws.reset()
    ec2 = BotoEc2(lambda: aws.client("ec2"), HOME)
    calls: list[Callable[[], object]] = [
        lambda: ec2.describe(["i-1"]),
        lambda: ec2.ask_by_id(["i-1"]),
        lambda: list(ec2.living({})),
        lambda: ec2.interfaces(["10.0.0.1"]),
        lambda: ec2.elastic_ips(["54.0.0.1"]),
    ]
    for call in calls:
        with (
            aws.fault(lambda *_: throttled("RequestLimitExceeded"), everyone=True),
            pytest.raises(TransientError, match="RequestLimitExceeded"),
        ):
            call()
        with (
            aws.fault(lambda *_: throttled("UnauthorizedOperation"), everyone=True),
            pytest.raises(AccessError, match=r"denies the function's role the right to describe .* \(ec2:Describe"),
        ):
            call()


def test_large_queries_are_split_by_the_filter_limit(aws: StrictAws) -> None:
    aws.reset()
    ec2 = BotoEc2(lambda: aws.client("ec2"), HOME)
    aws.reset_calls()
    ec2.describe([f"i-{number:017x}" for number in range(401)])
    assert aws.calls["ec2:DescribeInstances"] == 3
    ec2.interfaces([f"10.0.{number // 250}.{number % 250}" for number in range(401)])
    assert aws.calls["ec2:DescribeNetworkInterfaces"] == 3


EMPTY = Answer(
    200,
    b'<?xml version="1.0" encoding="UTF-8"?><DescribeInstancesResponse xmlns="http://ec2.amazonaws.com/doc/2016-11-15/">'
    b"<requestId>r</requestId><reservationSet/></DescribeInstancesResponse>",
    {"Content-Type": "text/xml"},
)


def test_incomplete_answer_by_id_is_an_error(aws: StrictAws) -> None:
    aws.reset()
    ec2 = BotoEc2(lambda: aws.client("ec2"), HOME)
    instance_id = aws.launch("a", emit=False).id
    with (
        aws.fault(lambda *_: EMPTY, everyone=True),
        pytest.raises(TransientError, match=f"neither describes {instance_id} nor says that it does not exist"),
    ):
        ec2.ask_by_id([instance_id])


def test_not_found_error_without_ids_is_an_error(aws: StrictAws) -> None:
    aws.reset()
    ec2 = BotoEc2(lambda: aws.client("ec2"), HOME)
    with (
        aws.fault(
            lambda *_: AwsError("InvalidInstanceID.NotFound", "The instance IDs do not exist", 400), everyone=True
        ),
        pytest.raises(TransientError, match="but none of the queried ones"),
    ):
        ec2.ask_by_id(["i-0000000000000000a"])


def test_malformed_id_is_an_error(aws: StrictAws) -> None:
    aws.reset()
    with pytest.raises(TransientError, match=r"InvalidInstanceID\.Malformed"):
        BotoEc2(lambda: aws.client("ec2"), HOME).ask_by_id(["i-web-1"])
