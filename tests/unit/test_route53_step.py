"""What the Route 53 step takes and what it leaves."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from ec2_decommission.clients.ec2 import LivingInEc2
from ec2_decommission.clients.route53 import ChangeRefusedError
from ec2_decommission.config import Route53Settings
from ec2_decommission.deadline import Deadline
from ec2_decommission.errors import AccessError, ConfigurationError, PermanentError, TransientError
from ec2_decommission.instance import Facts, Instance
from ec2_decommission.steps.base import Batch, Left, Outcome
from ec2_decommission.steps.route53 import Route53Step
from ec2_decommission.templates import Template
from tests.fakes.ec2 import FakeEc2, private_dns_name, public_dns_name
from tests.fakes.route53 import FakeZones

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from ec2_decommission.steps.base import Finding

DEAD, DEAD_TOO = "i-0000000000000dead", "i-0000000000000dea2"
VPC, OTHER_VPC = "vpc-a", "vpc-b"
ZONE, REVERSE, REVERSE6 = "ZFORWARD", "ZREVERSE", "ZREVERSE6"
NAMES = ("{tag:Name}.example.internal",)


class Scene:
    """Zones, what lives, and the dead whose records are looked for."""

    def __init__(self, *names: str, zones: Iterable[str] = (ZONE, REVERSE, REVERSE6)) -> None:
        self.ec2 = FakeEc2()
        self.zones = FakeZones()
        self.zones.add_zone(ZONE, "example.internal")
        self.zones.add_zone(REVERSE, "10.in-addr.arpa")
        self.zones.add_zone(REVERSE6, "8.b.d.0.1.0.0.2.ip6.arpa")
        self.settings = Route53Settings(tuple(zones), tuple(Template(t) for t in names or NAMES))
        self.instances: dict[str, Instance] = {}

    def dead(
        self, instance_id: str = DEAD, name: str | None = "web-1", ip: str | None = "10.0.0.5", **more: Any
    ) -> None:
        """A terminated instance, and what was recorded of it."""
        facts: dict[str, Any] = {
            "vpc_id": VPC if ip else None,
            "private_ips": (ip,) if ip else (),
            "private_dns_names": (private_dns_name(ip),) if ip else (),
            "tags": {"Name": name} if name else {},
            **more,
        }
        self.instances[instance_id] = Instance(instance_id, state="terminated").learn(Facts("inventory", **facts))

    def lives(self, name: str, ip: str, **more: Any) -> str:
        return self.ec2.launch(name, ip, **{"vpc_id": VPC, **more})

    def put(self, name: str, kind: str, *values: str, zone: str = ZONE, **more: Any) -> None:
        self.zones.put(zone, name, kind, values, **more)

    def batch(self) -> Batch:
        return Batch(self.instances, LivingInEc2(self.ec2, self.instances), Deadline.after(60))

    def find(self) -> dict[str, Finding]:
        step = Route53Step(self.settings, self.zones)
        assert step.look(self.batch()) == {}
        return dict(step.find(self.batch()))

    def run(self, between: Callable[[], None] = lambda: None) -> tuple[dict[str, Finding], dict[str, Outcome]]:
        """Finds, lets something happen, and removes."""
        step, batch = Route53Step(self.settings, self.zones), self.batch()
        findings = dict(step.find(batch))
        between()
        return findings, dict(step.remove(batch, findings))

    def removed(self, instance_id: str = DEAD) -> list[str]:
        """Runs, and gives what was removed; nothing else may have happened, and nothing failed."""
        findings, outcomes = self.run()
        assert outcomes[instance_id].errors == ()
        assert outcomes[instance_id].removed == findings[instance_id].removals
        return [r.target for r in outcomes[instance_id].removed]

    def left(self, instance_id: str = DEAD) -> list[tuple[str, str]]:
        """What is left, where nothing at all is to be removed."""
        before = self.zones.everything()
        findings, outcomes = self.run()
        assert [r for f in findings.values() for r in f.removals] == []
        assert self.zones.everything() == before
        assert outcomes[instance_id] == Outcome()
        return [(item.target, item.reason) for item in findings[instance_id].left]


def test_the_instances_own_address_goes() -> None:
    scene = Scene()
    scene.dead()
    scene.put("web-1.example.internal", "A", "10.0.0.5", ttl=37)
    assert scene.removed() == ["A web-1.example.internal. 10.0.0.5"]
    assert scene.zones.values(ZONE, "web-1.example.internal", "A") is None


def test_the_report_names_the_proof() -> None:
    scene = Scene()
    scene.dead()
    scene.put("web-1.example.internal", "A", "10.0.0.5")
    (removal,) = scene.find()[DEAD].removals
    assert removal.proof == f"10.0.0.5 is recorded for {DEAD} and no living interface has it"
    assert removal.action == "delete"


def test_nothing_there_is_nothing_found() -> None:
    scene = Scene()
    scene.dead()
    scene.put("web-10.example.internal", "A", "10.0.0.5")  # the next in the zone's order
    assert scene.left() == []


def test_names_are_looked_for_without_regard_to_case() -> None:
    scene = Scene()
    scene.dead(name="Web-1")
    scene.put("WEB-1.example.internal", "A", "10.0.0.5")
    assert scene.removed() == ["A web-1.example.internal. 10.0.0.5"]


@pytest.mark.parametrize("names", [("{tag:Name}.example.internal.",), ("{tag:Name}.Example.INTERNAL",)])
def test_a_trailing_dot_and_capitals_in_the_template_mean_nothing(names: tuple[str, ...]) -> None:
    scene = Scene(*names)
    scene.dead()
    scene.put("web-1.example.internal", "A", "10.0.0.5")
    assert scene.removed() == ["A web-1.example.internal. 10.0.0.5"]


# An address that somebody has again


def test_an_address_that_the_living_have_in_the_same_vpc_stays() -> None:
    scene = Scene()
    scene.dead()
    owner = scene.lives("other", "10.0.0.5")
    scene.put("web-1.example.internal", "A", "10.0.0.5")
    assert scene.left() == [("A web-1.example.internal. 10.0.0.5", f"10.0.0.5 is {owner}'s now")]


def test_an_address_that_is_a_load_balancers_now_stays() -> None:
    scene = Scene()
    scene.dead()
    interface = scene.ec2.add_interface("10.0.0.5", vpc_id=VPC, description="ELB app/web")
    scene.put("web-1.example.internal", "A", "10.0.0.5")
    ((_, reason),) = scene.left()
    assert reason == f"10.0.0.5 is {interface.interface_id} (ELB app/web)'s now"


def test_the_same_private_address_in_another_vpc_is_another_address() -> None:
    scene = Scene()
    scene.dead()
    scene.lives("other", "10.0.0.5", vpc_id=OTHER_VPC)
    scene.put("web-1.example.internal", "A", "10.0.0.5")
    assert scene.removed() == ["A web-1.example.internal. 10.0.0.5"]


def test_where_the_vpc_is_not_known_any_vpc_counts() -> None:
    scene = Scene()
    scene.dead(vpc_id=None)
    owner = scene.lives("other", "10.0.0.5", vpc_id=OTHER_VPC)
    scene.put("web-1.example.internal", "A", "10.0.0.5")
    assert scene.left() == [("A web-1.example.internal. 10.0.0.5", f"10.0.0.5 is {owner}'s now")]


def test_a_public_address_counts_in_any_vpc() -> None:
    scene = Scene()
    scene.dead(public_ips=("54.1.2.3",))
    owner = scene.lives("other", "10.0.0.9", vpc_id=OTHER_VPC, public_ip="54.1.2.3")
    scene.put("web-1.example.internal", "A", "54.1.2.3")
    assert scene.left() == [("A web-1.example.internal. 54.1.2.3", f"54.1.2.3 is {owner}'s now")]


def test_an_interface_that_the_dead_still_has_is_not_a_living_one() -> None:
    scene = Scene()
    scene.dead()
    scene.ec2.add_interface("10.0.0.5", vpc_id=VPC, instance_id=DEAD)
    scene.put("web-1.example.internal", "A", "10.0.0.5")
    assert scene.removed() == ["A web-1.example.internal. 10.0.0.5"]


# Somebody else's value at the name


def test_a_replacement_that_took_the_name_keeps_its_record() -> None:
    scene = Scene()
    scene.dead()
    owner = scene.lives("web-1", "10.0.0.77")
    scene.put("web-1.example.internal", "A", "10.0.0.77")
    assert scene.left() == [
        (
            "A web-1.example.internal. 10.0.0.77",
            f"not an address or DNS name recorded for {DEAD} (10.0.0.77 is {owner}'s)",
        )
    ]


def test_a_strangers_value_stays_where_no_owner_is_known() -> None:
    scene = Scene()
    scene.dead()
    scene.put("web-1.example.internal", "A", "192.168.1.1")
    ((_, reason),) = scene.left()
    assert reason == f"not an address or DNS name recorded for {DEAD}"


# Several values, several sets


def test_from_a_set_of_several_only_the_instances_value_goes() -> None:
    scene = Scene("www.example.internal")
    scene.dead()
    scene.put("www.example.internal", "A", "10.0.0.4", "10.0.0.5", "10.0.0.6", ttl=11)
    assert scene.removed() == ["A www.example.internal. 10.0.0.5"]
    assert scene.zones.values(ZONE, "www.example.internal", "A") == ("10.0.0.4", "10.0.0.6")
    assert scene.zones.ttl(ZONE, "www.example.internal", "A") == 11
    ((_, changes),) = scene.zones.changes
    assert [action for action, _ in changes] == ["DELETE", "CREATE"]


def test_of_several_own_values_that_one_stays_which_the_living_have() -> None:
    scene = Scene("www.example.internal")
    scene.dead(private_ips=("10.0.0.5", "10.0.0.6"))
    owner = scene.lives("other", "10.0.0.6")
    scene.put("www.example.internal", "A", "10.0.0.5", "10.0.0.6")
    findings, outcomes = scene.run()
    assert [r.target for r in outcomes[DEAD].removed] == ["A www.example.internal. 10.0.0.5"]
    assert [item.reason for item in findings[DEAD].left] == [f"10.0.0.6 is {owner}'s now"]
    assert scene.zones.values(ZONE, "www.example.internal", "A") == ("10.0.0.6",)


def test_two_dead_of_one_batch_leave_one_set_in_one_change() -> None:
    scene = Scene("www.example.internal")
    scene.dead()
    scene.dead(DEAD_TOO, "web-2", "10.0.0.6")
    scene.put("www.example.internal", "A", "10.0.0.5", "10.0.0.6", "10.0.0.7")
    _, outcomes = scene.run()
    assert [r.target for r in outcomes[DEAD].removed] == ["A www.example.internal. 10.0.0.5"]
    assert [r.target for r in outcomes[DEAD_TOO].removed] == ["A www.example.internal. 10.0.0.6"]
    assert scene.zones.values(ZONE, "www.example.internal", "A") == ("10.0.0.7",)
    assert len(scene.zones.changes) == 1


def test_two_dead_that_were_all_of_a_set_delete_it() -> None:
    scene = Scene("www.example.internal")
    scene.dead()
    scene.dead(DEAD_TOO, "web-2", "10.0.0.6")
    scene.put("www.example.internal", "A", "10.0.0.5", "10.0.0.6")
    scene.run()
    assert scene.zones.values(ZONE, "www.example.internal", "A") is None


def test_two_dead_that_bore_one_name_and_address_one_after_the_other() -> None:
    scene = Scene()
    scene.dead()
    scene.dead(DEAD_TOO)
    scene.put("web-1.example.internal", "A", "10.0.0.5")
    pointer(scene, "web-1.example.internal.")
    findings, outcomes = scene.run()
    assert outcomes[DEAD].errors == outcomes[DEAD_TOO].errors == ()
    targets = ["A web-1.example.internal. 10.0.0.5", "PTR 5.0.0.10.in-addr.arpa. web-1.example.internal."]
    assert [r.target for r in outcomes[DEAD].removed] == targets
    assert outcomes[DEAD_TOO].removed == ()
    reason = f"goes with {DEAD}, which bore the same name and address"
    assert findings[DEAD_TOO].left == tuple(Left(target, reason) for target in targets)
    assert scene.zones.values(ZONE, "web-1.example.internal", "A") is None


def test_of_weighted_sets_only_the_instances_goes_with_its_weight() -> None:
    scene = Scene("www.example.internal")
    scene.dead()
    scene.put("www.example.internal", "A", "10.0.0.5", SetIdentifier="one", Weight=10)
    scene.put("www.example.internal", "A", "10.0.0.6", SetIdentifier="two", Weight=20)
    _, outcomes = scene.run()
    assert [r.target for r in outcomes[DEAD].removed] == ["A www.example.internal. 10.0.0.5 [one]"]
    assert scene.zones.values(ZONE, "www.example.internal", "A", "one") is None
    assert scene.zones.values(ZONE, "www.example.internal", "A", "two") == ("10.0.0.6",)


def test_a_wildcard_name() -> None:
    scene = Scene("*.{tag:Name}.example.internal")
    scene.dead()
    scene.put("*.web-1.example.internal", "A", "10.0.0.5")
    assert scene.removed() == ["A *.web-1.example.internal. 10.0.0.5"]
    ((_, ((_, raw),)),) = scene.zones.changes
    assert raw["Name"] == "\\052.web-1.example.internal."


@pytest.mark.parametrize("written", ["2001:db8::5", "2001:DB8:0:0::5", "2001:0db8:0000:0000:0000:0000:0000:0005"])
def test_an_ipv6_address_in_whatever_form(written: str) -> None:
    scene = Scene()
    scene.dead(ipv6_addresses=("2001:db8::5",))
    scene.put("web-1.example.internal", "AAAA", written)
    assert scene.removed() == [f"AAAA web-1.example.internal. {written}"]


@pytest.mark.parametrize(
    "target",
    [
        "ip-10-0-0-5.ec2.internal",
        "ip-10-0-0-5.ec2.internal.",
        "IP-10-0-0-5.EC2.internal",
        public_dns_name("54.1.2.3"),
    ],
)
def test_a_cname_to_one_of_its_dns_names(target: str) -> None:
    scene = Scene()
    scene.dead(public_ips=("54.1.2.3",), public_dns_names=(public_dns_name("54.1.2.3"),))
    scene.put("web-1.example.internal", "CNAME", target)
    assert scene.removed() == [f"CNAME web-1.example.internal. {target}"]


def test_a_cname_to_an_address_that_the_living_have_stays() -> None:
    scene = Scene()
    scene.dead()
    owner = scene.lives("other", "10.0.0.5")
    scene.put("web-1.example.internal", "CNAME", "ip-10-0-0-5.ec2.internal")
    assert scene.left() == [
        (
            "CNAME web-1.example.internal. ip-10-0-0-5.ec2.internal",
            f"ip-10-0-0-5.ec2.internal is {owner}'s now",
        )
    ]


def test_a_cname_to_anything_else_stays() -> None:
    scene = Scene()
    scene.dead()
    scene.put("web-1.example.internal", "CNAME", "lb.example.com")
    assert len(scene.left()) == 1


def test_other_types_are_not_looked_at() -> None:
    scene = Scene()
    scene.dead()
    scene.put("web-1.example.internal", "TXT", '"10.0.0.5"')
    scene.put("web-1.example.internal", "MX", "10 web-1.example.internal.")
    assert scene.left() == []


# PTR


def pointer(scene: Scene, *values: str, ip: str = "5") -> None:
    scene.put(f"{ip}.0.0.10.in-addr.arpa", "PTR", *values, zone=REVERSE)


@pytest.mark.parametrize("value", ["web-1.example.internal.", "web-1.example.internal", "WEB-1.Example.internal."])
def test_a_pointer_to_one_of_its_names_goes(value: str) -> None:
    scene = Scene()
    scene.dead()
    pointer(scene, value)
    assert scene.removed() == [f"PTR 5.0.0.10.in-addr.arpa. {value}"]


def test_a_pointer_to_its_ec2_name_goes() -> None:
    scene = Scene()
    scene.dead()
    pointer(scene, "ip-10-0-0-5.ec2.internal.")
    assert scene.removed() == ["PTR 5.0.0.10.in-addr.arpa. ip-10-0-0-5.ec2.internal."]


def test_a_pointer_to_anothers_name_stays() -> None:
    scene = Scene()
    scene.dead()
    pointer(scene, "db-1.example.internal.")
    assert scene.left() == [
        (
            "PTR 5.0.0.10.in-addr.arpa. db-1.example.internal.",
            f"db-1.example.internal. is not a name of {DEAD}",
        )
    ]


def test_a_pointer_at_an_address_that_the_living_have_stays_though_it_bears_the_dead_name() -> None:
    scene = Scene()
    scene.dead()
    owner = scene.lives("web-1", "10.0.0.5")
    pointer(scene, "web-1.example.internal.")
    assert scene.left() == [("PTR 5.0.0.10.in-addr.arpa. web-1.example.internal.", f"10.0.0.5 is {owner}'s now")]


def test_from_a_pointer_with_several_names_only_its_own_goes() -> None:
    scene = Scene()
    scene.dead()
    pointer(scene, "web-1.example.internal.", "db-1.example.internal.")
    scene.run()
    assert scene.zones.values(REVERSE, "5.0.0.10.in-addr.arpa", "PTR") == ("db-1.example.internal.",)


def test_a_pointer_of_a_secondary_and_of_an_ipv6_address() -> None:
    scene = Scene()
    scene.dead(private_ips=("10.0.0.5", "10.0.0.6"), ipv6_addresses=("2001:db8::5",))
    pointer(scene, "web-1.example.internal.", ip="6")
    v6 = "5.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.8.b.d.0.1.0.0.2.ip6.arpa."
    scene.put(v6, "PTR", "web-1.example.internal.", zone=REVERSE6)
    assert scene.removed() == [
        "PTR 6.0.0.10.in-addr.arpa. web-1.example.internal.",
        f"PTR {v6} web-1.example.internal.",
    ]


def test_a_record_that_a_replacement_took_over_does_not_keep_the_dead_ones_pointer() -> None:
    scene = Scene()
    scene.dead()
    scene.lives("web-1", "10.0.0.77")
    scene.put("web-1.example.internal", "A", "10.0.0.77")
    pointer(scene, "web-1.example.internal.")
    pointer(scene, "web-1.example.internal.", ip="77")
    assert scene.removed() == ["PTR 5.0.0.10.in-addr.arpa. web-1.example.internal."]
    assert scene.zones.values(REVERSE, "77.0.0.10.in-addr.arpa", "PTR") == ("web-1.example.internal.",)


def test_reverse_zones_that_are_not_listed_are_not_asked() -> None:
    scene = Scene(zones=[ZONE])
    scene.dead()
    pointer(scene, "web-1.example.internal.")
    assert scene.left() == []


# What nobody's proof makes an instance's


@pytest.mark.parametrize(
    ("more", "reason"),
    [
        ({"AliasTarget": {"DNSName": "lb.", "HostedZoneId": "Z", "EvaluateTargetHealth": False}}, "an alias record"),
        ({"TrafficPolicyInstanceId": "t-1"}, "a traffic policy made it"),
    ],
)
def test_alias_and_traffic_policy_records_stay(more: dict[str, Any], reason: str) -> None:
    scene = Scene()
    scene.dead()
    scene.put("web-1.example.internal", "A", **more)
    ((_, told),) = scene.left()
    assert reason in told


def test_the_apex_stays_even_with_its_address() -> None:
    scene = Scene("example.internal", "{tag:Name}.example.internal")
    scene.dead()
    scene.put("example.internal", "A", "10.0.0.5")
    assert scene.left() == [("A example.internal. 10.0.0.5", "it is the zone's own name (the apex)")]


def test_what_external_dns_owns_stays() -> None:
    scene = Scene()
    scene.dead()
    scene.put("web-1.example.internal", "A", "10.0.0.5")
    scene.put("web-1.example.internal", "TXT", '"heritage=external-dns,external-dns/owner=k8s"')
    assert scene.left() == [
        ("A web-1.example.internal. 10.0.0.5", "external-dns owns the name (TXT heritage=external-dns)")
    ]


@pytest.mark.parametrize("record_sets", [0, 100_000], ids=["small zone", "large zone"])
@pytest.mark.parametrize(
    ("kind", "value"), [("A", "10.0.0.5"), ("AAAA", "2001:db8::5"), ("CNAME", private_dns_name("10.0.0.5"))]
)
def test_what_newer_versions_of_external_dns_own_stays(kind: str, value: str, record_sets: int) -> None:
    scene = Scene()
    scene.zones.add_zone(ZONE, "example.internal", record_sets)
    scene.dead(ipv6_addresses=("2001:db8::5",))
    scene.put("web-1.example.internal", kind, value)
    assert len(scene.find()[DEAD].removals) == 1
    scene.put(f"{kind.lower()}-web-1.example.internal", "TXT", '"heritage=external-dns,external-dns/owner=k8s"')
    assert [reason for _, reason in scene.left()] == [
        f"external-dns owns the name (TXT {kind.lower()}-web-1.example.internal.)"
    ]


def test_a_txt_of_external_dns_for_another_type_protects_nothing() -> None:
    scene = Scene()
    scene.dead()
    scene.put("web-1.example.internal", "A", "10.0.0.5")
    scene.put("aaaa-web-1.example.internal", "TXT", '"heritage=external-dns"')
    scene.put("a-web-1.example.internal", "TXT", '"something else"')
    assert scene.removed() == ["A web-1.example.internal. 10.0.0.5"]


def test_whether_external_dns_owns_it_costs_a_call_only_in_a_large_zone_where_something_is_to_go() -> None:
    for record_sets, put, calls in ((0, True, 1), (100_000, False, 1), (100_000, True, 2)):
        scene = Scene(zones=[ZONE])
        scene.zones.add_zone(ZONE, "example.internal", record_sets)
        scene.dead()
        if put:
            scene.put("web-1.example.internal", "A", "10.0.0.5")
        scene.find()
        assert scene.zones.calls["ListResourceRecordSets"] == calls


def test_where_nobody_can_look_whether_external_dns_owns_it_it_stays_for_the_retry() -> None:
    scene = Scene(zones=[ZONE])
    scene.zones.add_zone(ZONE, "example.internal", 100_000)
    scene.dead()
    scene.put("web-1.example.internal", "A", "10.0.0.5")

    def fail(operation: str, _: str) -> None:
        if scene.zones.calls["ListResourceRecordSets"] == 2:
            raise TransientError("Throttling")

    scene.zones.fault = fail
    finding = scene.find()[DEAD]
    assert finding.removals == ()
    assert [str(error) for error in finding.errors] == [
        "A web-1.example.internal. 10.0.0.5 may be external-dns's: Throttling"
    ]


# Names that no zone can hold, zones that cannot be read, and time that is short


@pytest.mark.parametrize("name", ["a" * 64, "a..b", ".", "a.", "\u00fcn\u00efcode", "x" * 63 + "." + "y" * 200])
def test_a_tag_that_makes_no_dns_name_is_noted_and_harms_no_other(name: str) -> None:
    """Route 53 refuses to list from such a name: one odd tag would keep the whole batch from being handled."""
    scene = Scene()
    scene.dead()
    scene.put("web-1.example.internal", "A", "10.0.0.5")
    scene.dead(DEAD_TOO, name, "10.0.0.6")

    def refuse(operation: str, _: str) -> None:
        raise AssertionError(f"{operation} was asked")

    assert scene.removed() == ["A web-1.example.internal. 10.0.0.5"]
    finding = scene.find()[DEAD_TOO]
    assert (finding.removals, finding.errors) == ((), ())
    assert "is no DNS name" in finding.notes[0]
    scene.instances.pop(DEAD)
    scene.settings = Route53Settings((ZONE,), scene.settings.record_names)
    scene.zones.fault = lambda operation, zone: refuse(operation, zone) if "List" in operation else None
    assert scene.find()[DEAD_TOO].errors == ()


def test_a_zone_that_cannot_be_read_fails_its_own_names_only() -> None:
    scene = one_record()
    scene.zones.add_zone("ZOTHER", "other.internal")
    scene.settings = Route53Settings(
        (ZONE, "ZOTHER"), (Template("{tag:Name}.example.internal"), Template("{tag:Name}.other.internal"))
    )
    scene.put("web-1.other.internal", "A", "10.0.0.5", zone="ZOTHER")

    def deny(operation: str, zone_id: str) -> None:
        if zone_id == ZONE and operation == "ListResourceRecordSets":
            raise AccessError("no right to list it")

    scene.zones.fault = deny
    findings, outcomes = scene.run()
    assert [r.target for r in outcomes[DEAD].removed] == ["A web-1.other.internal. 10.0.0.5"]
    assert [type(error) for error in findings[DEAD].errors] == [AccessError]


def test_a_zone_that_is_not_there_is_told_and_the_others_are_handled() -> None:
    scene = one_record()
    scene.settings = Route53Settings((ZONE, "ZGONE"), scene.settings.record_names)
    findings, outcomes = scene.run()
    assert [r.target for r in outcomes[DEAD].removed] == ["A web-1.example.internal. 10.0.0.5"]
    assert [type(error) for error in findings[DEAD].errors] == [ConfigurationError]
    assert "ZGONE" in str(findings[DEAD].errors[0])


def test_a_thousand_with_little_time_left_are_handled_as_far_as_it_goes() -> None:
    """What was looked at is removed and reported; only the rest goes back."""
    scene = Scene(zones=[ZONE])
    scene.zones.add_zone(ZONE, "example.internal", 100_000)
    for number in range(1000):
        address = f"10.0.{number // 250}.{number % 250 + 1}"
        scene.dead(f"i-{number:04}", f"web-{number}", address)
        scene.put(f"web-{number}.example.internal", "A", address)
    left = [60.0]

    def slow(operation: str, _: str) -> None:
        left[0] -= 1.0

    scene.zones.fault = slow
    scene.zones.names_a_page = 40  # 25 requests for all, and as many for what external-dns would have there
    batch = Batch(
        scene.instances, LivingInEc2(scene.ec2, scene.instances), Deadline(lambda: left[0], lambda: -left[0])
    )
    step = Route53Step(scene.settings, scene.zones)
    findings = step.find(batch)
    assert left[0] >= 15  # a quarter is for the removal
    outcomes = step.remove(batch, {i: f for i, f in findings.items() if f.removals})
    done = {i for i, outcome in outcomes.items() if outcome.removed}
    late = {i for i, finding in findings.items() if finding.errors}
    assert all("s are left" in str(e) for f in findings.values() for e in f.errors)
    assert len(done) > 200
    assert done | late == set(scene.instances)
    assert not done & late
    names = {i: scene.instances[i].tags["Name"] for i in scene.instances}
    assert all(scene.zones.values(ZONE, f"{names[i]}.example.internal", "A") is None for i in done)
    assert all(scene.zones.values(ZONE, f"{names[i]}.example.internal", "A") for i in late)


def test_a_txt_of_external_dns_in_another_zone_of_the_name_protects_nothing_here() -> None:
    scene = Scene(zones=[ZONE, "ZPUBLIC"])
    scene.zones.add_zone("ZPUBLIC", "example.internal")
    scene.dead()
    scene.put("web-1.example.internal", "A", "10.0.0.5")
    scene.put("web-1.example.internal", "TXT", '"heritage=external-dns"', zone="ZPUBLIC")
    assert scene.removed() == ["A web-1.example.internal. 10.0.0.5"]


# Nothing recorded but the tags


def only_tags(*names: str, name: str = "web-1") -> Scene:
    scene = Scene(*names)
    scene.dead(name=name, ip=None)
    return scene


def test_by_tags_alone_a_record_goes_when_name_and_address_are_nobodys() -> None:
    scene = only_tags()
    scene.put("web-1.example.internal", "A", "10.0.0.5")
    pointer(scene, "web-1.example.internal.")
    assert scene.removed() == [
        "A web-1.example.internal. 10.0.0.5",
        "PTR 5.0.0.10.in-addr.arpa. web-1.example.internal.",
    ]


@pytest.mark.parametrize(("dead", "alive"), [("web-1", "web-1"), ("Web-1", "web-1"), ("web-1", "WEB-1")])
def test_by_tags_alone_a_living_namesake_keeps_the_record(dead: str, alive: str) -> None:
    scene = only_tags(name=dead)
    owner = scene.lives(alive, "10.0.0.77")
    scene.put("web-1.example.internal", "A", "10.0.0.5")
    assert scene.left() == [("A web-1.example.internal. 10.0.0.5", f"the name is {owner}'s, which lives")]


def test_by_tags_alone_a_namesake_by_another_template_keeps_the_record_too() -> None:
    scene = only_tags("{tag:Name}.example.internal", "{tag:Alias}.example.internal")
    owner = scene.lives("other", "10.0.0.77", tags={"Alias": "web-1"})
    scene.put("web-1.example.internal", "A", "10.0.0.5")
    assert scene.left() == [("A web-1.example.internal. 10.0.0.5", f"the name is {owner}'s, which lives")]


def test_by_tags_alone_a_living_owner_of_the_address_keeps_the_record() -> None:
    scene = only_tags()
    owner = scene.lives("other", "10.0.0.5", vpc_id=OTHER_VPC)
    scene.put("web-1.example.internal", "A", "10.0.0.5")
    assert scene.left() == [("A web-1.example.internal. 10.0.0.5", f"10.0.0.5 is {owner}'s")]


def test_by_tags_alone_a_set_of_several_stays() -> None:
    scene = only_tags()
    scene.put("web-1.example.internal", "A", "10.0.0.5", "10.0.0.6")
    ((_, reason),) = scene.left()
    assert reason == f"no address is recorded for {DEAD}, and the set has several values"


def test_by_tags_alone_a_name_that_is_not_its_own_stays() -> None:
    scene = only_tags("www.example.internal")
    scene.put("www.example.internal", "A", "10.0.0.5")
    ((_, reason),) = scene.left()
    assert reason == f"no address is recorded for {DEAD}, and the name does not come from its tags or id"


def test_by_id_alone_a_record_goes() -> None:
    scene = Scene("{instance_id}.example.internal")
    scene.dead(name=None, ip=None)
    scene.put(f"{DEAD}.example.internal", "A", "10.0.0.5")
    assert scene.removed() == [f"A {DEAD}.example.internal. 10.0.0.5"]


def test_by_tags_alone_a_cname_goes_only_where_its_address_can_be_told() -> None:
    scene = only_tags()
    scene.put("web-1.example.internal", "CNAME", "lb.example.com")
    assert scene.left() == [
        ("CNAME web-1.example.internal. lb.example.com", "it cannot be told whose lb.example.com is")
    ]
    scene.put("web-1.example.internal", "CNAME", "ip-10-0-0-5.ec2.internal")
    assert scene.removed() == ["CNAME web-1.example.internal. ip-10-0-0-5.ec2.internal"]


# What cannot be looked for


def test_a_template_whose_value_is_not_known_is_told() -> None:
    scene = Scene("{tag:Name}.example.internal", "{tag:Role}-{private_ip_dashed}.example.internal")
    scene.dead()
    scene.put("web-1.example.internal", "A", "10.0.0.5")
    finding = scene.find()[DEAD]
    assert [r.target for r in finding.removals] == ["A web-1.example.internal. 10.0.0.5"]
    assert finding.notes == (
        f"record name {{tag:Role}}-{{private_ip_dashed}}.example.internal: tag:Role is not known for {DEAD}",
    )


def test_where_nothing_can_be_named_nothing_is_taken_for_clean() -> None:
    scene = Scene()
    scene.dead(name=None, ip=None)
    ((target, reason),) = scene.left()
    assert target == "its DNS records"
    assert reason == f"record name {{tag:Name}}.example.internal: tag:Name is not known for {DEAD}"


def test_a_name_outside_all_zones_is_told() -> None:
    scene = Scene("{tag:Name}.elsewhere.internal", "{tag:Name}.notexample.internal")
    scene.dead()
    finding = scene.find()[DEAD]
    assert finding.removals == ()
    assert [note.partition(" lies in none of the zones ")[0] for note in finding.notes] == [
        "record name web-1.elsewhere.internal.",
        "record name web-1.notexample.internal.",
    ]


def test_public_and_private_zone_of_one_name_each_by_its_id() -> None:
    scene = Scene(zones=[ZONE, "ZPUBLIC"])
    scene.zones.add_zone("ZPUBLIC", "example.internal")
    scene.zones.add_zone("ZSTRANGER", "example.internal")
    scene.dead(public_ips=("54.1.2.3",))
    scene.put("web-1.example.internal", "A", "10.0.0.5")
    scene.put("web-1.example.internal", "A", "54.1.2.3", zone="ZPUBLIC")
    scene.put("web-1.example.internal", "A", "10.0.0.5", zone="ZSTRANGER")
    assert scene.removed() == ["A web-1.example.internal. 10.0.0.5", "A web-1.example.internal. 54.1.2.3"]
    assert scene.zones.values("ZSTRANGER", "web-1.example.internal", "A") == ("10.0.0.5",)


def test_in_nested_zones_both_are_looked_at() -> None:
    scene = Scene("{tag:Name}.eu.example.internal", zones=[ZONE, "ZEU"])
    scene.zones.add_zone("ZEU", "eu.example.internal")
    scene.dead()
    scene.put("web-1.eu.example.internal", "A", "10.0.0.5")
    scene.put("web-1.eu.example.internal", "A", "10.0.0.5", zone="ZEU")
    assert len(scene.removed()) == 2


# What changes between finding and removing


def one_record(ttl: int = 300) -> Scene:
    scene = Scene()
    scene.dead()
    scene.put("web-1.example.internal", "A", "10.0.0.5", ttl=ttl)
    return scene


def test_a_ttl_changed_by_hand_is_sent_back_as_it_is() -> None:
    scene = one_record(ttl=12345)
    assert scene.removed() == ["A web-1.example.internal. 10.0.0.5"]
    ((_, ((_, raw),)),) = scene.zones.changes
    assert raw["TTL"] == 12345


def test_a_ttl_changed_in_between_is_read_again() -> None:
    scene = one_record()
    _, outcomes = scene.run(lambda: scene.put("web-1.example.internal", "A", "10.0.0.5", ttl=60))
    assert [r.target for r in outcomes[DEAD].removed] == ["A web-1.example.internal. 10.0.0.5"]
    assert scene.zones.values(ZONE, "web-1.example.internal", "A") is None


def test_a_record_that_goes_in_between_is_success_without_an_action() -> None:
    scene = one_record()
    _, outcomes = scene.run(lambda: scene.zones.take(ZONE, "web-1.example.internal", "A"))
    assert outcomes[DEAD] == Outcome()


def test_a_record_that_is_replaced_in_between_stays() -> None:
    scene = one_record()
    owner = scene.lives("web-1", "10.0.0.77")
    _, outcomes = scene.run(lambda: scene.put("web-1.example.internal", "A", "10.0.0.77"))
    assert outcomes[DEAD].removed == ()
    assert outcomes[DEAD].errors == ()
    assert [item.reason for item in outcomes[DEAD].left] == [
        f"not an address or DNS name recorded for {DEAD} (10.0.0.77 is {owner}'s)"
    ]
    assert scene.zones.values(ZONE, "web-1.example.internal", "A") == ("10.0.0.77",)


def test_a_value_that_is_added_in_between_is_not_lost() -> None:
    scene = one_record()
    _, outcomes = scene.run(lambda: scene.put("web-1.example.internal", "A", "10.0.0.5", "10.0.0.6"))
    assert [r.target for r in outcomes[DEAD].removed] == ["A web-1.example.internal. 10.0.0.5"]
    assert scene.zones.values(ZONE, "web-1.example.internal", "A") == ("10.0.0.6",)


def test_what_external_dns_takes_over_in_between_stays_when_it_changed() -> None:
    scene = one_record()

    def take_over() -> None:
        scene.put("web-1.example.internal", "A", "10.0.0.5", ttl=1)
        scene.put("web-1.example.internal", "TXT", '"heritage=external-dns"')

    _, outcomes = scene.run(take_over)
    assert outcomes[DEAD].removed == ()
    assert scene.zones.values(ZONE, "web-1.example.internal", "A") == ("10.0.0.5",)


def test_a_record_that_changes_all_the_time_fails_and_harms_no_other() -> None:
    scene = one_record()
    scene.dead(DEAD_TOO, "web-2", "10.0.0.6")
    scene.put("web-2.example.internal", "A", "10.0.0.6")
    ttl = iter(range(1000, 2000))

    def change(operation: str, zone_id: str) -> None:
        if operation == "ChangeResourceRecordSets":
            scene.put("web-1.example.internal", "A", "10.0.0.5", ttl=next(ttl))

    scene.zones.fault = change
    _, outcomes = scene.run()
    (error,) = outcomes[DEAD].errors
    assert isinstance(error, PermanentError)
    assert str(error).startswith("A web-1.example.internal. 10.0.0.5: Route 53 refuses the change: [Tried to delete")
    assert outcomes[DEAD].removed == ()
    assert outcomes[DEAD_TOO].errors == ()
    assert [r.target for r in outcomes[DEAD_TOO].removed] == ["A web-2.example.internal. 10.0.0.6"]


def test_one_refused_record_of_a_batch_is_found_out_and_the_others_go() -> None:
    scene = Scene()
    ids = [f"i-{n:017x}" for n in range(1, 21)]
    for n, instance_id in enumerate(ids):
        scene.dead(instance_id, f"web-{n}", f"10.0.1.{n}")
        scene.put(f"web-{n}.example.internal", "A", f"10.0.1.{n}")
    _, outcomes = scene.run(lambda: scene.put("web-7.example.internal", "A", "10.9.9.9"))
    assert [i for i in ids if not outcomes[i].removed] == [ids[7]]
    assert all(outcomes[i].errors == () for i in ids)
    assert scene.zones.values(ZONE, "web-7.example.internal", "A") == ("10.9.9.9",)


def test_one_refused_record_of_a_thousand_costs_a_few_calls() -> None:
    scene = fleet(1000)
    _, outcomes = scene.run(lambda: scene.put("web-700.example.internal", "A", "10.9.9.9"))
    assert sum(bool(o.removed) for o in outcomes.values()) == 999
    assert all(o.errors == () for o in outcomes.values())
    assert scene.zones.calls["ChangeResourceRecordSets"] <= 4


def test_a_refusal_that_names_nothing_is_halved() -> None:
    scene = fleet(64)
    broken = scene.zones.change

    def change(zone_id: str, changes: Any) -> None:
        if any(raw["Name"].startswith("web-50.") for _, raw in changes):
            scene.zones.calls["ChangeResourceRecordSets"] += 1
            raise ChangeRefusedError("no")
        broken(zone_id, changes)

    scene.zones.change = change  # type: ignore[method-assign]
    _, outcomes = scene.run()
    assert sum(bool(o.removed) for o in outcomes.values()) == 63
    assert [len(o.errors) for o in outcomes.values() if not o.removed] == [1]
    assert scene.zones.calls["ChangeResourceRecordSets"] <= 1 + 2 * 6 + 2


# Limits and faults


def fleet(count: int, values: Callable[[int], list[str]] = lambda n: [f"10.1.{n // 250}.{n % 250}"]) -> Scene:
    scene = Scene(zones=[ZONE])
    for n in range(count):
        scene.dead(f"i-{n + 1:017x}", f"web-{n}", f"10.1.{n // 250}.{n % 250}")
        scene.put(f"web-{n}.example.internal", "A", *values(n))
    return scene


def test_more_than_a_thousand_records_go_in_several_batches() -> None:
    scene = fleet(1003)
    _, outcomes = scene.run()
    assert all(o.errors == () and len(o.removed) == 1 for o in outcomes.values())
    assert [len(changes) for _, changes in scene.zones.changes] == [1000, 3]
    assert scene.ec2.calls["DescribeNetworkInterfaces"] == 1


def test_a_sets_delete_and_create_count_and_stay_together() -> None:
    scene = fleet(400, lambda n: [f"10.1.{n // 250}.{n % 250}", "192.168.0.1"])
    _, outcomes = scene.run()
    assert all(o.errors == () and len(o.removed) == 1 for o in outcomes.values())
    for _, changes in scene.zones.changes:
        assert sum(len(raw["ResourceRecords"]) for _, raw in changes) <= 1000
        assert [action for action, _ in changes] == ["DELETE", "CREATE"] * (len(changes) // 2)


def test_more_than_32_000_characters_go_in_several_batches() -> None:
    scene = Scene(*(f"{{tag:Name}}-{n}.example.internal" for n in range(150)), zones=[ZONE])
    long = "ip-10-0-0-5." + "x" * 230 + ".internal"
    scene.dead(private_dns_names=(long,))
    for n in range(150):
        scene.put(f"web-1-{n}.example.internal", "CNAME", long)
    assert len(scene.removed()) == 150
    assert len(scene.zones.changes) == 2


@pytest.mark.parametrize("operation", ["GetHostedZone", "ListResourceRecordSets"])
def test_what_cannot_be_read_fails_the_step(operation: str) -> None:
    scene = one_record()

    def throttle(asked: str, zone_id: str) -> None:
        if asked == operation:
            raise TransientError("Throttling: Rate exceeded")

    scene.zones.fault = throttle
    with pytest.raises(TransientError, match="Throttling"):
        scene.find()


def test_what_ec2_does_not_answer_fails_the_step() -> None:
    scene = one_record()

    def unavailable(_: str) -> None:
        raise TransientError("RequestLimitExceeded")

    scene.ec2.fault = unavailable
    with pytest.raises(TransientError, match="RequestLimitExceeded"):
        scene.find()


def test_a_throttled_change_fails_each_of_its_instances_and_no_other_zones() -> None:
    scene = one_record()
    pointer(scene, "web-1.example.internal.")

    def throttle(operation: str, zone_id: str) -> None:
        if operation == "ChangeResourceRecordSets" and zone_id == ZONE:
            raise TransientError("Throttling: Rate exceeded")

    scene.zones.fault = throttle
    _, outcomes = scene.run()
    (error,) = outcomes[DEAD].errors
    assert isinstance(error, TransientError)
    assert str(error) == "A web-1.example.internal. 10.0.0.5: Throttling: Rate exceeded"
    assert [r.target for r in outcomes[DEAD].removed] == ["PTR 5.0.0.10.in-addr.arpa. web-1.example.internal."]


def test_a_fault_at_reading_again_is_told() -> None:
    scene = one_record()

    def change_and_break() -> None:
        scene.put("web-1.example.internal", "A", "10.0.0.5", ttl=60)

        def fail(operation: str, zone_id: str) -> None:
            if operation == "ListResourceRecordSets":
                raise TransientError("no connection")

        scene.zones.fault = fail

    _, outcomes = scene.run(change_and_break)
    assert {type(error) for error in outcomes[DEAD].errors} == {TransientError}
    assert {str(error) for error in outcomes[DEAD].errors} == {"A web-1.example.internal. 10.0.0.5: no connection"}
    assert scene.zones.values(ZONE, "web-1.example.internal", "A") == ("10.0.0.5",)


def test_pointers_of_a_whole_batch_are_one_question_to_ec2() -> None:
    scene = Scene(zones=[REVERSE])
    for n in range(1, 40):
        scene.dead(f"i-{n:017x}", f"web-{n}", f"10.0.0.{n}")
        pointer(scene, f"web-{n}.example.internal.", ip=str(n))
    scene.run()
    assert scene.ec2.calls["DescribeNetworkInterfaces"] == 1
