"""What the Route 53 step deletes and what it leaves, and on what proof: one test for each rule and each guard."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest

from ec2_decommission.clients.ec2 import Interface
from ec2_decommission.clients.route53 import RecordSet, Zone, canonical
from ec2_decommission.config import ExternalDns, Route53Settings, ZoneSettings
from ec2_decommission.errors import AccessError, TransientError
from ec2_decommission.instance import Facts, Instance
from ec2_decommission.live import Holder, Living
from ec2_decommission.place import Place
from ec2_decommission.steps.base import Finding
from ec2_decommission.steps.route53.observe import Snapshot, ZoneRecords
from ec2_decommission.steps.route53.plan import plan, question
from ec2_decommission.templates import Template

if TYPE_CHECKING:
    from ec2_decommission.errors import DecommissionError

DEAD, DEAD_TOO, OTHER = "i-0000000000000dead", "i-0000000000000dea2", "i-00000000000000aaa"
HOME, AWAY = Place("111111111111", "us-east-1"), Place("222222222222", "eu-west-1")
VPC, OTHER_VPC = "vpc-a", "vpc-b"
ZONE, PUBLIC, REVERSE, REVERSE6 = "ZFORWARD", "ZPUBLIC", "ZREVERSE", "ZREVERSE6"
NAMES = {ZONE: "example.internal.", REVERSE: "10.in-addr.arpa.", REVERSE6: "8.b.d.0.1.0.0.2.ip6.arpa."}
EC2_NAME, PUBLIC_NAME = "ip-10-0-0-5.ec2.internal", "ec2-54-1-2-3.compute-1.amazonaws.com"


class Scene:
    """Zones as they were read, the dead, and the living."""

    def __init__(self, *record_names: str, zones: dict[str, str] | None = None, **settings: Any) -> None:
        names = NAMES if zones is None else zones
        self.settings = Route53Settings(
            tuple(map(ZoneSettings, names)),
            tuple(map(Template, record_names or ("{tag:Name}.example.internal",))),
            **settings,
        )
        self.zones = {zone_id: Zone(zone_id, name) for zone_id, name in names.items()}
        self.found: dict[str, dict[str, list[RecordSet]]] = {zone_id: {} for zone_id in names}
        self.missed: dict[str, dict[str, DecommissionError]] = {zone_id: {} for zone_id in names}
        self.unreadable: dict[str, DecommissionError] = {}
        self.instances: dict[str, Instance] = {}
        self.holders: dict[str, tuple[Holder, ...]] = {}
        self.elastic_ips: dict[str, Place] = {}
        self.errors: dict[Place, DecommissionError] = {}
        self.living: list[Instance] = []
        self.only: dict[Any, set[str]] | None = None

    def put(self, name: str, kind: str, *values: str, zone: str = ZONE, **more: Any) -> RecordSet:
        raw = {"Name": name, "Type": kind, "ResourceRecords": [{"Value": v} for v in values], **more}
        record = RecordSet.listed(zone, raw)
        self.found[zone].setdefault(record.name, []).append(record)
        return record

    def dead(
        self, instance_id: str = DEAD, name: str | None = "web-1", ip: str | None = "10.0.0.5", **more: Any
    ) -> None:
        facts: dict[str, Any] = {
            "account_id": HOME.account_id,
            "region": HOME.region,
            "vpc_id": VPC if ip else None,
            "ran": bool(ip),
            "private_ips": (ip,) if ip else (),
            "private_dns_names": (f"ip-{ip.replace('.', '-')}.ec2.internal",) if ip else (),
            "tags": {"Name": name} if name else {},
            **more,
        }
        self.instances[instance_id] = Instance(instance_id, state="terminated").learn(Facts("inventory", **facts))

    def lives(self, ip: str, name: str = "other", vpc: str = VPC, place: Place = HOME, **more: Any) -> None:
        """A living instance that has the address."""
        dns = f"ip-{ip.replace('.', '-')}.ec2.internal"
        instance = Instance(OTHER, "running", place.account_id, place.region, vpc, private_ips=(ip,), **more)
        instance = instance.learn(Facts("ec2", tags={"Name": name}, private_dns_names=(dns,)))
        self.living.append(instance)
        self.holders[ip] = (Holder(place, Interface("eni-1", vpc, OTHER), instance),)

    def snapshot(self) -> Snapshot:
        records = (
            ZoneRecords(zone, {n: tuple(r) for n, r in self.found[z].items()}, self.missed[z])
            for z, zone in self.zones.items()
        )
        return Snapshot(tuple(records), self.unreadable)

    def plan(self) -> dict[str, Finding]:
        """The findings. Only what was asked is known about the living."""
        asked = question(self.settings, self.instances, self.snapshot(), self.only)
        bearers: dict[tuple[Template, str], tuple[Instance, ...]] = {}
        for template, name in asked.names:
            if some := tuple(i for i in self.living if (template.render(i) or "").lower() == name):
                bearers[template, name] = some
        holders = {a: h for a, h in self.holders.items() if a in asked.addresses}
        elastic = {a: p for a, p in self.elastic_ips.items() if a in asked.addresses}
        living = Living(asked, holders, elastic, bearers, self.errors)
        return dict(plan(self.settings, self.instances, self.snapshot(), living, self.only))

    def goes(self, instance_id: str = DEAD) -> dict[str, str]:
        """The removals of one instance with their proofs. Nothing fails."""
        finding = self.plan()[instance_id]
        assert finding.errors == ()
        return {removal.target: removal.proof for removal in finding.removals}

    def stays(self, instance_id: str = DEAD) -> dict[str, str]:
        """What is left of one instance with the reasons. Nothing goes, and nothing fails."""
        finding = self.plan()[instance_id]
        assert (finding.removals, finding.errors) == ((), ())
        left = {item.target: item.reason for item in finding.left}
        assert len(left) == len(finding.left)
        return left

    def fails(self, instance_id: str = DEAD) -> list[str]:
        """The errors of one instance. Nothing goes."""
        finding = self.plan()[instance_id]
        assert finding.removals == ()
        return [str(error) for error in finding.errors]


A, RECORDED = "A web-1.example.internal. 10.0.0.5", f"10.0.0.5 was recorded for {DEAD}, and nobody else has it now"


# Rule 2: a recorded value that nobody else has


def test_record_with_an_unused_recorded_address_is_removed() -> None:
    scene = Scene()
    scene.dead()
    record = scene.put("Web-1.example.internal", "A", "10.0.0.5", TTL=37)
    assert scene.goes() == {A: RECORDED}
    (removal,) = scene.plan()[DEAD].removals
    assert (removal.action, removal.kind) == ("delete", "record_set")
    assert removal.object == {"zone_id": ZONE, "record_set": record.raw}
    assert (removal.handle.record, removal.handle.value) == (record, "10.0.0.5")


@pytest.mark.parametrize(
    ("facts", "kind", "value"),
    [
        ({"private_ips": ("10.0.0.4", "10.0.0.5")}, "A", "10.0.0.5"),
        ({"public_ips": ("54.1.2.3",)}, "A", "54.1.2.3"),
        ({"public_ips": ("54.1.2.9", "54.1.2.3")}, "A", "54.1.2.3"),  # case 16: the address before a stop
        ({"ipv6_addresses": ("2001:db8::5",)}, "AAAA", "2001:db8::5"),
        ({"ipv6_addresses": ("2001:db8::5",)}, "AAAA", "2001:DB8:0:0::5"),
        ({}, "CNAME", EC2_NAME),
        ({}, "CNAME", "IP-10-0-0-5.EC2.internal."),
        (
            {"public_dns_names": ("ec2-54-1-2-3.compute-1.amazonaws.com",)},
            "CNAME",
            "ec2-54-1-2-3.compute-1.amazonaws.com",
        ),
    ],
)
def test_every_recorded_address_and_dns_name_is_a_proof(facts: dict[str, Any], kind: str, value: str) -> None:
    scene = Scene()
    scene.dead(**facts)
    scene.put("web-1.example.internal", kind, value)
    assert list(scene.goes()) == [f"{kind} web-1.example.internal. {value}"]


@pytest.mark.parametrize(
    ("kind", "value"),
    [
        ("A", "10.0.0.6"),
        ("A", "192.168.77.10"),
        ("CNAME", "lb.example.com"),
        ("CNAME", "ip-10-0-0-6.ec2.internal"),
        ("CNAME", "ip-10-0-0-5.eu-west-1.compute.internal"),  # the address of another region
    ],
)
def test_a_value_that_was_not_recorded_stays(kind: str, value: str) -> None:
    scene = Scene()
    scene.dead()
    scene.put("web-1.example.internal", kind, value)
    assert scene.stays() == {
        f"{kind} web-1.example.internal. {value}": f"not an address or DNS name recorded for {DEAD}"
    }


def test_reason_names_the_owner_of_a_foreign_value() -> None:
    scene = Scene()
    scene.dead()
    scene.lives("10.0.0.77", "web-1")
    scene.put("web-1.example.internal", "A", "10.0.0.77")
    owner = f"10.0.0.77 belongs to {OTHER} in {HOME}"
    assert scene.stays() == {
        "A web-1.example.internal. 10.0.0.77": f"not an address or DNS name recorded for {DEAD} ({owner})"
    }


@pytest.mark.parametrize(("kind", "value"), [("A", "10.0.0.5"), ("CNAME", EC2_NAME)])
def test_an_address_that_somebody_in_the_vpc_has_stays(kind: str, value: str) -> None:
    scene = Scene()
    scene.dead()
    scene.lives("10.0.0.5")
    scene.put("web-1.example.internal", kind, value)
    assert scene.stays() == {f"{kind} web-1.example.internal. {value}": f"{value} now belongs to {OTHER} in {HOME}"}


def test_an_address_that_a_load_balancer_has_stays() -> None:
    scene = Scene()
    scene.dead()
    scene.holders["10.0.0.5"] = (Holder(HOME, Interface("eni-9", VPC, None, "ELB app/web")),)
    scene.put("web-1.example.internal", "A", "10.0.0.5")
    assert scene.stays() == {A: f"10.0.0.5 now belongs to eni-9 (ELB app/web) in {HOME}"}


@pytest.mark.parametrize(
    ("record_names", "name", "stays"),
    [
        (("{tag:Name}.example.internal",), "web-1", True),
        (("{tag:Name}.Example.internal.",), "WEB-1", True),
        (("{tag:Name}.example.internal", "{tag:Alias}.example.internal"), "other", True),
        (("{tag:Name}.example.internal", "{tag:Role}.example.internal"), "web-2", False),
    ],
)
@pytest.mark.parametrize("place", [HOME, AWAY])
def test_where_ranges_overlap_the_name_decides(
    record_names: tuple[str, ...], name: str, stays: bool, place: Place
) -> None:
    """The same private address in another VPC, of this or another place."""
    scene = Scene(*record_names)
    scene.dead()
    scene.lives("10.0.0.5", name, OTHER_VPC, place, tags={"Alias": "web-1"})
    scene.put("web-1.example.internal", "A", "10.0.0.5")
    if stays:
        reason = f"10.0.0.5 now belongs to {OTHER} in {place} (another VPC, the same name)"
        assert scene.stays() == {A: reason}
    else:
        assert list(scene.goes()) == [A]


def test_case_5_an_elastic_ip_that_is_still_allocated_stays() -> None:
    scene = Scene()
    scene.dead(public_ips=("54.7.8.9",))
    scene.elastic_ips["54.7.8.9"] = HOME
    scene.put("web-1.example.internal", "A", "54.7.8.9")
    ((target, reason),) = scene.stays().items()
    assert target == "A web-1.example.internal. 54.7.8.9"
    assert "still has it allocated as an Elastic IP" in reason


def test_incomplete_answer_blocks_removals_that_need_it() -> None:
    scene = Scene()
    scene.dead()
    scene.errors[AWAY] = AccessError("ec2:DescribeNetworkInterfaces is missing")
    scene.put("web-1.example.internal", "A", "10.0.0.5")
    scene.put("5.0.0.10.in-addr.arpa", "PTR", "web-1.example.internal.", zone=REVERSE)
    (error,) = scene.fails()
    assert error == f"cannot ask {AWAY} who has it now: ec2:DescribeNetworkInterfaces is missing"
    assert isinstance(scene.plan()[DEAD].errors[0], AccessError)


def test_known_owner_counts_even_if_another_place_failed() -> None:
    scene = Scene()
    scene.dead()
    scene.lives("10.0.0.5")
    scene.errors[AWAY] = TransientError("no connection")
    scene.put("web-1.example.internal", "A", "10.0.0.5")
    assert list(scene.stays()) == [A]


def test_a_recorded_dns_name_without_an_address_stays() -> None:
    scene = Scene()
    scene.dead(private_dns_names=("web.corp.example",))
    scene.put("web-1.example.internal", "CNAME", "web.corp.example")
    ((_, reason),) = scene.stays().items()
    assert reason == "web.corp.example contains no address, so it cannot be checked who has it now"


# Sets of several values


def test_from_a_set_of_several_only_the_instances_value_goes() -> None:
    scene = Scene("www.example.internal")
    scene.dead()
    scene.put("www.example.internal", "A", "10.0.0.4", "10.0.0.5", "10.0.0.6")
    assert list(scene.goes()) == ["A www.example.internal. 10.0.0.5"]
    assert scene.plan()[DEAD].left == ()


def test_each_own_value_is_judged_by_itself() -> None:
    scene = Scene("www.example.internal")
    scene.dead(private_ips=("10.0.0.5", "10.0.0.6"))
    scene.lives("10.0.0.6")
    scene.put("www.example.internal", "A", "10.0.0.5", "10.0.0.6")
    assert list(scene.goes()) == ["A www.example.internal. 10.0.0.5"]
    (left,) = scene.plan()[DEAD].left
    assert left.target == "A www.example.internal. 10.0.0.6"


def test_only_the_instances_weighted_set_is_removed() -> None:
    scene = Scene("www.example.internal")
    scene.dead()
    scene.put("www.example.internal", "A", "10.0.0.5", SetIdentifier="one", Weight=10)
    scene.put("www.example.internal", "A", "10.0.0.6", SetIdentifier="two", Weight=20)
    assert list(scene.goes()) == ["A www.example.internal. 10.0.0.5 [one]"]


def test_a_value_goes_once_with_the_first_instance() -> None:
    scene = Scene()
    scene.dead()
    scene.dead(DEAD_TOO)
    scene.put("web-1.example.internal", "A", "10.0.0.5")
    assert list(scene.goes()) == [A]
    assert scene.stays(DEAD_TOO) == {A: f"is removed with {DEAD}, which had the same name and address"}


# Rule 1: by id


@pytest.mark.parametrize(("kind", "value"), [("A", "10.9.9.9"), ("CNAME", "lb.example.com"), ("AAAA", "2001:db8::9")])
def test_a_name_with_the_id_is_a_proof_whatever_the_value(kind: str, value: str) -> None:
    scene = Scene("{instance_id}.example.internal")
    scene.dead(ip=None)
    scene.lives("10.9.9.9")
    scene.errors[AWAY] = TransientError("no connection")
    scene.put(f"{DEAD}.example.internal", kind, value)
    name = f"{DEAD}.example.internal."
    assert scene.goes() == {f"{kind} {name} {value}": f"the name {name} contains the id {DEAD}"}


def test_a_name_that_two_templates_give_is_by_id_if_one_is() -> None:
    scene = Scene("{tag:Name}.example.internal", "{instance_id}.example.internal", "{tag:Name}.example.internal.")
    scene.dead(name=DEAD, ip=None)
    scene.put(f"{DEAD}.example.internal", "A", "10.9.9.9")
    assert len(scene.goes()) == 1


@pytest.mark.parametrize(
    ("region", "target"),
    [
        ("us-east-1", f"{DEAD}.ec2.internal"),
        ("us-east-1", f"{DEAD.upper()}.EC2.internal."),
        ("eu-west-1", f"{DEAD}.eu-west-1.compute.internal"),
    ],
)
def test_case_23_a_cname_to_ec2s_own_name_of_the_id_goes(region: str, target: str) -> None:
    scene = Scene()
    scene.dead(ip=None, region=region)
    scene.errors[AWAY] = TransientError("no connection")
    scene.put("web-1.example.internal", "CNAME", target)
    assert scene.goes() == {f"CNAME web-1.example.internal. {target}": f"{target} is EC2's own name for {DEAD}"}


@pytest.mark.parametrize(
    ("region", "target", "ran_in"),
    [
        ("eu-west-1", f"{DEAD}.ec2.internal", "us-east-1"),
        ("us-east-1", f"{DEAD}.eu-west-1.compute.internal", "eu-west-1"),
    ],
)
def test_ec2s_own_name_of_the_id_in_another_region_stays(region: str, target: str, ran_in: str) -> None:
    scene = Scene()
    scene.dead(region=region, private_dns_names=(target,))
    scene.put("web-1.example.internal", "CNAME", target)
    ((_, reason),) = scene.stays().items()
    assert reason == f"{target} is an instance in {ran_in}, but {DEAD} ran elsewhere"


def test_ec2s_own_name_of_another_id_stays() -> None:
    scene = Scene()
    scene.dead()
    scene.put("web-1.example.internal", "CNAME", f"{OTHER}.ec2.internal")
    assert list(scene.stays()) == [f"CNAME web-1.example.internal. {OTHER}.ec2.internal"]


def test_case_2_an_instance_that_was_never_recorded_leaves_only_what_carries_its_id() -> None:
    """A launch that failed: its Name tag is `www`, and `www` is a stranger's."""
    scene = Scene("{tag:Name}.example.internal", "{instance_id}.example.internal")
    scene.dead(name="www", ip=None)
    scene.put("www.example.internal", "A", "192.168.77.10")
    scene.put(f"{DEAD}.example.internal", "A", "10.0.0.5")
    assert list(scene.goes()) == [f"A {DEAD}.example.internal. 10.0.0.5"]
    (left,) = scene.plan()[DEAD].left
    assert left.target == "A www.example.internal. 192.168.77.10"
    assert left.reason == f"no address was recorded for {DEAD}, so only records with its id may be removed"


@pytest.mark.parametrize(
    "facts",
    [{"public_dns_names": (PUBLIC_NAME,)}, {"private_ips": ("10.0.0.4",)}, {"ipv6_addresses": ("2001:db8::5",)}],
)
def test_an_instance_of_which_anything_was_recorded_is_told_apart(facts: dict[str, Any]) -> None:
    scene = Scene()
    scene.dead(ip=None, **facts)
    scene.put("web-1.example.internal", "A", "10.0.0.5")
    assert scene.stays() == {A: f"not an address or DNS name recorded for {DEAD}"}


# CNAMEs to own record names


OWN = ("{tag:Name}.example.internal", "{private_ip_dashed}.example.internal")
CNAME = "CNAME web-1.example.internal. 10-0-0-5.example.internal"


def cname(*record_names: str, target: str = "10-0-0-5.example.internal", **more: Any) -> Scene:
    scene = Scene(*(record_names or OWN), **more)
    scene.dead()
    scene.put("web-1.example.internal", "CNAME", target)
    return scene


def test_case_15_a_cname_to_its_own_a_record_goes_together_with_it() -> None:
    scene = cname()
    target = scene.put("10-0-0-5.example.internal", "A", "10.0.0.5")
    assert scene.goes() == {
        "A 10-0-0-5.example.internal. 10.0.0.5": RECORDED,
        CNAME: f"its target 10-0-0-5.example.internal. is a record name of {DEAD}, no living instance has that name, "
        "and its records go as well",
    }
    handle = next(r.handle for r in scene.plan()[DEAD].removals if r.target == CNAME)
    assert (handle.target, handle.needs) == (target.name, {target.key})


@pytest.mark.parametrize(
    ("kind", "values", "more"),
    [
        ("A", ("10.0.0.5", "10.0.0.6"), {}),  # one value stays
        ("A", ("10.0.0.6",), {}),
        ("AAAA", ("2001:db8::6",), {}),
        ("A", (), {"AliasTarget": {"DNSName": "lb."}}),
    ],
)
def test_a_cname_stays_if_anything_remains_at_its_target(kind: str, values: tuple[str, ...], more: Any) -> None:
    scene = cname()
    scene.put("10-0-0-5.example.internal", kind, *values, **more)
    left = {item.target: item.reason for item in scene.plan()[DEAD].left}
    assert left[CNAME] == "its target 10-0-0-5.example.internal. stays"
    assert CNAME not in scene.goes()


def test_a_cname_stays_if_its_target_remains_in_another_zone_of_the_name() -> None:
    scene = cname(zones={ZONE: "example.internal.", PUBLIC: "example.internal."})
    scene.put("10-0-0-5.example.internal", "A", "10.0.0.5")
    scene.put("10-0-0-5.example.internal", "A", "192.0.2.1", zone=PUBLIC)
    assert CNAME not in scene.goes()


def test_other_types_at_the_target_hold_no_cname_back() -> None:
    scene = cname()
    scene.put("10-0-0-5.example.internal", "A", "10.0.0.5")
    scene.put("10-0-0-5.example.internal", "SSHFP", "1 1 00")
    assert CNAME in scene.goes()


def test_a_cname_to_an_own_name_that_does_not_exist_goes() -> None:
    assert cname().goes() == {
        CNAME: f"its target 10-0-0-5.example.internal. is a record name of {DEAD}, no living instance has that name, "
        "and it does not exist"
    }


def test_a_cname_to_an_own_name_that_is_kept_stays_although_nothing_is_there() -> None:
    scene = cname()
    scene.settings = replace(scene.settings, keep_names=("10-0-0-5.*",))
    assert scene.stays() == {CNAME: "keep_names matches its target 10-0-0-5.example.internal."}


@pytest.mark.parametrize("exists", [True, False])
def test_a_cname_stays_if_a_living_instance_has_the_name_of_its_target(exists: bool) -> None:
    """Its replacement is about to write its own record there."""
    scene = cname("www.example.internal", "{tag:Name}.example.internal", target="web-1.example.internal")
    scene.found[ZONE].clear()
    scene.put("www.example.internal", "CNAME", "web-1.example.internal")
    scene.lives("10.0.0.77", "WEB-1")
    if exists:
        scene.put("web-1.example.internal", "A", "10.0.0.5")
    left = {item.target: item.reason for item in scene.plan()[DEAD].left}
    reason = f"its target web-1.example.internal. is the name of {OTHER} in {HOME}"
    assert left == {"CNAME www.example.internal. web-1.example.internal": reason}


def test_a_template_with_a_trailing_dot_asks_for_the_name_as_it_writes_it() -> None:
    scene = cname("www.example.internal", "{tag:Name}.example.internal.")
    scene.found[ZONE].clear()
    scene.put("www.example.internal", "CNAME", "web-1.example.internal")
    scene.lives("10.0.0.77", "web-1")
    assert len(scene.stays()) == 1


def test_no_cname_to_an_own_name_goes_without_a_whole_answer() -> None:
    scene = cname()
    scene.errors[AWAY] = TransientError("no connection")
    assert scene.fails() == [f"cannot ask {AWAY} who has it now: no connection"]


def test_a_cname_to_an_own_name_with_the_id_needs_no_answer() -> None:
    scene = cname("{tag:Name}.example.internal", "{instance_id}.example.internal", target=f"{DEAD}.example.internal")
    scene.errors[AWAY] = TransientError("no connection")
    assert len(scene.goes()) == 1
    scene.put(f"{DEAD}.example.internal", "A", "10.0.0.5")
    assert len(scene.goes()) == 2
    scene.settings = Route53Settings(scene.settings.zones, scene.settings.record_names, keep_names=(f"{DEAD}.*",))
    assert scene.stays()[f"CNAME web-1.example.internal. {DEAD}.example.internal"].endswith("stays")


def test_chains_of_cnames_go_together() -> None:
    scene = Scene("www.example.internal", *OWN)
    scene.dead()
    scene.put("www.example.internal", "CNAME", "web-1.example.internal")
    scene.put("web-1.example.internal", "CNAME", "10-0-0-5.example.internal")
    assert [target.split()[1] for target in scene.goes()] == ["web-1.example.internal.", "www.example.internal."]
    scene.put("10-0-0-5.example.internal", "A", "10.0.0.5")
    assert len(scene.goes()) == 3
    assert scene.plan()[DEAD].left == ()
    scene.lives("10.0.0.5")
    assert len(scene.stays()) == 3


@pytest.mark.parametrize("target", ["web-1.example.internal", "10-0-0-5.example.internal"])
def test_cname_loop_stays(target: str) -> None:
    scene = cname(target=target)
    scene.put("10-0-0-5.example.internal", "CNAME", "web-1.example.internal")
    assert all(reason.endswith("stays") for reason in scene.stays().values())


def test_a_cname_to_another_instances_name_stays() -> None:
    scene = cname("{tag:Name}.example.internal", target="web-2.example.internal")
    scene.dead(DEAD_TOO, "web-2", "10.0.0.6")
    assert list(scene.stays()) == ["CNAME web-1.example.internal. web-2.example.internal"]


def test_a_cname_to_an_own_name_outside_all_zones_stays() -> None:
    scene = cname("{tag:Name}.example.internal", "{tag:Name}.elsewhere", target="web-1.elsewhere")
    ((_, reason),) = scene.stays().items()
    assert reason == "its target web-1.elsewhere. is not in a zone that this step handles"


def test_a_cname_to_an_own_name_in_a_managed_zone_stays() -> None:
    scene = cname("{tag:Name}.example.internal", "{tag:Name}.map", target="web-1.map")
    scene.zones["ZMAP"] = Zone("ZMAP", "map.", managed_by="Cloud Map")
    scene.found["ZMAP"], scene.missed["ZMAP"] = {}, {}
    assert list(scene.stays().values()) == ["its target web-1.map. is not in a zone that this step handles"]


def test_a_cname_stays_if_its_target_may_lie_in_a_managed_zone_as_well() -> None:
    scene = cname()
    scene.zones["ZMAP"] = Zone("ZMAP", "example.internal.", managed_by="Cloud Map")
    scene.found["ZMAP"], scene.missed["ZMAP"] = {}, {}
    assert list(scene.stays()) == [CNAME]


def test_a_cname_whose_target_was_not_read_fails() -> None:
    scene = cname()
    scene.missed[ZONE]["10-0-0-5.example.internal."] = TransientError("no connection")
    assert scene.fails() == ["no connection"]


def test_a_cname_whose_target_may_lie_in_an_unreadable_zone_fails() -> None:
    scene = cname()
    scene.unreadable["ZGONE"] = AccessError("no right")
    assert scene.fails() == ["no right"]
    scene.put("10-0-0-5.example.internal", "A", "10.0.0.5")
    assert len(scene.plan()[DEAD].removals) == 2  # what is there goes, whatever else there may be


# PTR records


def pointer(scene: Scene, *values: str, ip: str = "5") -> RecordSet:
    return scene.put(f"{ip}.0.0.10.in-addr.arpa", "PTR", *values, zone=REVERSE)


@pytest.mark.parametrize("value", ["web-1.example.internal.", "WEB-1.Example.internal", EC2_NAME])
def test_a_pointer_at_a_recorded_address_to_one_of_its_names_goes(value: str) -> None:
    scene = Scene()
    scene.dead()
    pointer(scene, value)
    assert scene.goes() == {f"PTR 5.0.0.10.in-addr.arpa. {value}": f"{RECORDED}; {value} is its name"}


def test_a_pointer_at_an_ipv6_address_goes() -> None:
    scene = Scene()
    scene.dead(ipv6_addresses=("2001:db8::5",))
    name = f"5.{'0.' * 23}8.b.d.0.1.0.0.2.ip6.arpa"
    scene.put(name, "PTR", "web-1.example.internal.", zone=REVERSE6)
    assert list(scene.goes()) == [f"PTR {name}. web-1.example.internal."]


def test_a_pointer_to_anothers_name_stays() -> None:
    scene = Scene()
    scene.dead()
    pointer(scene, "db-1.example.internal.")
    assert scene.stays() == {
        "PTR 5.0.0.10.in-addr.arpa. db-1.example.internal.": f"it does not point to a name of {DEAD}"
    }


def test_from_a_pointer_to_several_names_only_its_own_goes() -> None:
    scene = Scene()
    scene.dead()
    pointer(scene, "db-1.example.internal.", "web-1.example.internal.")
    assert list(scene.goes()) == ["PTR 5.0.0.10.in-addr.arpa. web-1.example.internal."]


def test_a_pointer_at_an_address_that_somebody_has_stays() -> None:
    scene = Scene()
    scene.dead()
    scene.lives("10.0.0.5")
    pointer(scene, "web-1.example.internal.")
    assert list(scene.stays().values()) == [f"10.0.0.5 now belongs to {OTHER} in {HOME}"]


@pytest.mark.parametrize(
    ("value", "name", "stays"),
    [
        ("web-1.example.internal.", "web-1", True),
        ("web-1.example.internal.", "web-2", False),
        (EC2_NAME, "web-2", True),  # EC2 gives both the same name
    ],
)
def test_where_ranges_overlap_the_name_that_it_points_to_decides(value: str, name: str, stays: bool) -> None:
    scene = Scene()
    scene.dead()
    scene.lives("10.0.0.5", name, OTHER_VPC)
    pointer(scene, value)
    assert bool(scene.plan()[DEAD].removals) is not stays


@pytest.mark.parametrize("value", [f"{DEAD}.example.internal.", f"{DEAD}.ec2.internal."])
def test_a_pointer_to_a_name_with_the_id_goes_whoever_has_the_address(value: str) -> None:
    scene = Scene("{instance_id}.example.internal")
    scene.dead()
    scene.lives("10.0.0.5")
    scene.errors[AWAY] = TransientError("no connection")
    pointer(scene, value)
    assert list(scene.goes()) == [f"PTR 5.0.0.10.in-addr.arpa. {value}"]


def test_a_pointer_at_an_address_that_was_not_recorded_is_not_looked_at() -> None:
    scene = Scene()
    scene.dead()
    pointer(scene, "web-1.example.internal.", ip="6")
    assert scene.stays() == {}


def test_address_records_at_a_pointers_name_are_not_looked_at() -> None:
    scene = Scene()
    scene.dead()
    scene.put("5.0.0.10.in-addr.arpa", "CNAME", EC2_NAME, zone=REVERSE)
    scene.put("web-1.example.internal", "PTR", "web-1.example.internal.")
    assert scene.stays() == {}


# What is never touched


@pytest.mark.parametrize(
    ("more", "reason"),
    [
        ({"AliasTarget": {"DNSName": "lb."}}, "an alias record points to an AWS resource, not to an instance"),
        ({"TrafficPolicyInstanceId": "1"}, "a traffic policy created it"),
    ],
)
@pytest.mark.parametrize("name", ["web-1", DEAD])
def test_records_that_are_never_an_instances(more: dict[str, Any], reason: str, name: str) -> None:
    scene = Scene("{tag:Name}.example.internal", "{instance_id}.example.internal")
    scene.dead()
    scene.put(f"{name}.example.internal", "A", **more)
    assert scene.stays() == {f"A {name}.example.internal.": reason}


def test_the_apex_stays() -> None:
    scene = Scene("{tag:Name}.example.internal", zones={"Z": "web-1.example.internal."})
    scene.dead()
    scene.put("web-1.example.internal", "A", "10.0.0.5", zone="Z")
    assert scene.stays() == {A: "it is the zone's own name (the apex)"}


@pytest.mark.parametrize(
    "pattern", ["web-1.example.internal", "WEB-?.example.internal.", "*.example.internal", "web-[0-9].*"]
)
def test_case_7_kept_names_stay(pattern: str) -> None:
    scene = Scene(keep_names=("other.*", pattern))
    scene.dead()
    scene.put("web-1.example.internal", "A", "10.0.0.5")
    pointer(scene, "web-1.example.internal.")
    assert scene.stays() == {
        A: "keep_names matches web-1.example.internal.",
        "PTR 5.0.0.10.in-addr.arpa. web-1.example.internal.": "keep_names matches web-1.example.internal.",
    }


@pytest.mark.parametrize("pattern", ["web-2.example.internal", "example.internal", "web-1"])
def test_other_names_are_not_kept(pattern: str) -> None:
    scene = Scene(keep_names=(pattern,))
    scene.dead()
    scene.put("web-1.example.internal", "A", "10.0.0.5")
    assert list(scene.goes()) == [A]


HERITAGE = '"heritage=external-dns,external-dns/owner=default,external-dns/resource=service/default/web"'
CIPHERTEXT = f'"{"q1Zk+/" * 20}=="'
FLAGS = ExternalDns


@pytest.mark.parametrize("kind", ["A", "AAAA", "CNAME"])
@pytest.mark.parametrize(
    ("flags", "mark"),
    [
        (None, "web-1.example.internal"),
        (None, "a-web-1.example.internal"),
        (None, "aaaa-web-1.example.internal"),
        (None, "cname-web-1.example.internal"),
        # case 6
        (FLAGS("xdns-"), "xdns-web-1.example.internal"),
        (FLAGS("xdns-"), "xdns-cname-web-1.example.internal"),
        (FLAGS("xdns-"), "a-web-1.example.internal"),  # another owner's, with the default names
        (FLAGS("xdns."), "xdns.a-web-1.example.internal"),
        (FLAGS(txt_suffix="-txt"), "web-1-txt.example.internal"),
        (FLAGS(txt_suffix="-txt"), "a-web-1-txt.example.internal"),
        (FLAGS("%{record_type}-abc."), "a-abc.web-1.example.internal"),
        (FLAGS("%{record_type}-abc."), "-abc.web-1.example.internal"),  # before version 0.12
        (FLAGS(txt_suffix="-%{record_type}"), "web-1-aaaa.example.internal"),
        (FLAGS(txt_suffix="-.%{record_type}"), "web-1-.cname.example.internal"),
    ],
)
def test_a_name_that_external_dns_owns_stays(flags: ExternalDns | None, mark: str, kind: str) -> None:
    scene = Scene(external_dns=flags)
    values = {"A": "10.0.0.5", "AAAA": "2001:db8::5", "CNAME": EC2_NAME}
    scene.dead(ipv6_addresses=("2001:db8::5",))
    scene.put("web-1.example.internal", kind, values[kind])
    assert len(scene.goes()) == 1
    scene.put(mark, "TXT", HERITAGE)
    assert list(scene.stays().values()) == [f"external-dns owns the name (TXT {canonical(mark)})"]


@pytest.mark.parametrize(
    ("flags", "mark"),
    [
        (FLAGS(txt_suffix="-txt"), "web-1-txt.eu.example.internal"),
        (FLAGS(txt_suffix="-txt"), "a-web-1.eu-txt.example.internal"),  # external-dns knows the zone
        (FLAGS("%{record_type}."), "a.web-1.eu.example.internal"),
    ],
)
def test_external_dns_splits_a_name_at_the_first_dot_or_at_the_zone(flags: ExternalDns, mark: str) -> None:
    scene = Scene("{tag:Name}.eu.example.internal", external_dns=flags)
    scene.dead()
    scene.put("web-1.eu.example.internal", "A", "10.0.0.5")
    scene.put(mark, "TXT", HERITAGE)
    assert len(scene.stays()) == 1


@pytest.mark.parametrize("replacement", ["", "wild"])
def test_external_dns_may_mark_a_wildcard_under_another_label(replacement: str) -> None:
    scene = Scene("*.example.internal", external_dns=FLAGS("txt-", wildcard_replacement=replacement))
    scene.dead()
    scene.put("\\052.example.internal", "A", "10.0.0.5")
    assert list(scene.goes()) == ["A *.example.internal. 10.0.0.5"]
    scene.put("txt-a-wild.example.internal", "TXT", HERITAGE)
    assert bool(scene.plan()[DEAD].left) is bool(replacement)
    scene.put("\\052.example.internal", "TXT", HERITAGE)
    assert len(scene.stays()) == 1


@pytest.mark.parametrize(
    ("value", "owned"),
    [
        (HERITAGE, True),
        (CIPHERTEXT, True),
        ('"v=spf1 -all"', False),
        ('"google-site-verification=rXOxyZounnZasA8Z7oaD3c14JdjS9aKSWvsR1EbUSIQ"', False),
        ('"c2hvcnQ="', False),
    ],
)
def test_external_dns_texts(value: str, owned: bool) -> None:
    scene = Scene()
    scene.dead()
    scene.put("web-1.example.internal", "A", "10.0.0.5")
    scene.put("a-web-1.example.internal", "TXT", '"v=spf1 -all"', value)
    assert bool(scene.stays() if owned else not scene.goes()) is owned


def test_only_a_text_in_the_same_zone_is_a_mark() -> None:
    scene = Scene(zones={ZONE: "example.internal.", PUBLIC: "example.internal."})
    scene.dead()
    scene.put("web-1.example.internal", "A", "10.0.0.5")
    scene.put("web-1.example.internal", "TXT", HERITAGE, zone=PUBLIC)
    scene.put("a-web-1.example.internal", "SPF", HERITAGE)
    assert list(scene.goes()) == [A]


def test_a_pointer_that_external_dns_owns_stays() -> None:
    scene = Scene()
    scene.dead()
    pointer(scene, "web-1.example.internal.")
    scene.put("5.0.0.10.in-addr.arpa", "TXT", HERITAGE, zone=REVERSE)
    assert len(scene.stays()) == 1


def test_marks_of_other_types_do_not_concern_a_pointer() -> None:
    scene = Scene()
    scene.dead()
    pointer(scene, "web-1.example.internal.")
    scene.put("a-5.0.0.10.in-addr.arpa", "TXT", HERITAGE, zone=REVERSE)
    assert len(scene.goes()) == 1


@pytest.mark.parametrize("mark", ["a-web-1.example.internal.", "cname-web-1.example.internal."])
def test_if_a_mark_was_not_read_nothing_goes_at_the_name(mark: str) -> None:
    scene = Scene()
    scene.dead()
    scene.put("web-1.example.internal", "A", "10.0.0.5")
    scene.missed[ZONE][mark] = TransientError("no connection")
    assert scene.fails() == ["no connection"]


# Several names, zones and places


def test_names_for_every_value_that_a_tag_had_are_looked_at() -> None:
    scene = Scene()
    scene.dead(past_tags={"Name": ("old-1",)})
    scene.put("web-1.example.internal", "A", "10.0.0.5")
    scene.put("old-1.example.internal", "A", "10.0.0.5")
    assert len(scene.goes()) == 2


def test_records_at_other_names_are_not_looked_at() -> None:
    scene = Scene()
    scene.dead()
    scene.put("web-2.example.internal", "A", "10.0.0.5")
    scene.put("web-1.example.internal", "MX", "10 web-1.example.internal.")
    assert scene.stays() == {}


def test_two_zones_of_one_name_are_both_handled() -> None:
    scene = Scene(zones={ZONE: "example.internal.", PUBLIC: "example.internal."})
    scene.dead(public_ips=("54.1.2.3",))
    scene.put("web-1.example.internal", "A", "10.0.0.5")
    scene.put("web-1.example.internal", "A", "54.1.2.3", zone=PUBLIC)
    assert list(scene.goes()) == [A, "A web-1.example.internal. 54.1.2.3"]


def test_the_same_record_in_two_zones_goes_twice() -> None:
    scene = Scene(zones={ZONE: "example.internal.", PUBLIC: "example.internal."})
    scene.dead()
    for zone_id in (ZONE, PUBLIC):
        scene.put("web-1.example.internal", "A", "10.0.0.5", zone=zone_id)
    assert list(scene.goes()) == [A, f"{A} in zone {PUBLIC}"]


def test_places_that_share_a_zone_are_told_apart_by_their_names() -> None:
    scene = Scene("{tag:Name}.{region}.example.internal")
    scene.dead()
    scene.put("web-1.us-east-1.example.internal", "A", "10.0.0.5")
    scene.put("web-1.eu-west-1.example.internal", "A", "10.0.0.5")
    assert list(scene.goes()) == ["A web-1.us-east-1.example.internal. 10.0.0.5"]


# What could not be looked for, or not be read


def test_an_unknown_placeholder_is_noted() -> None:
    scene = Scene("{tag:Name}.example.internal", "{tag:Role}-{private_ip_dashed}.example.internal")
    scene.dead()
    scene.put("web-1.example.internal", "A", "10.0.0.5")
    assert list(scene.goes()) == [A]
    assert scene.plan()[DEAD].notes == (
        f"record name {{tag:Role}}-{{private_ip_dashed}}.example.internal: tag:Role is not known for {DEAD}",
    )


@pytest.mark.parametrize("name", ["a..b", "x" * 64, "schön"])
def test_a_name_that_no_record_can_have_is_noted(name: str) -> None:
    scene = Scene()
    scene.dead(name=name)
    (note,) = scene.plan()[DEAD].notes
    assert "is not a DNS name" in note


def test_a_name_outside_all_zones_is_noted() -> None:
    scene = Scene("{tag:Name}.example.internal", "{tag:Name}.notexample.internal")
    scene.dead()
    assert scene.plan()[DEAD].notes == (
        f"record name web-1.notexample.internal. is in none of the zones {', '.join(NAMES.values())}",
    )


@pytest.mark.parametrize(
    ("ip", "name", "reason"),
    [
        (None, None, "tag:Name is not known"),
        ("10.0.0.5", None, "tag:Name is not known"),
        ("10.0.0.5", "web-1", "is in none of the zones other."),
    ],
)
def test_if_nothing_can_be_looked_for_the_step_is_not_clean(ip: str | None, name: str | None, reason: str) -> None:
    scene = Scene(zones={"Z": "other."})
    scene.dead(ip=ip, name=name)
    ((target, said),) = scene.stays().items()
    assert target == "its DNS records"
    assert reason in said


def test_case_25_service_managed_zone_is_explained() -> None:
    scene = Scene("{tag:Name}.example.internal", "{tag:Name}.map")
    scene.dead()
    scene.zones["ZMAP"] = Zone("ZMAP", "map.", managed_by="AWS Cloud Map")
    scene.found["ZMAP"], scene.missed["ZMAP"] = {}, {}
    scene.put("web-1.map", "A", "10.0.0.5", zone="ZMAP")
    assert scene.goes() == {}
    why = "AWS Cloud Map manages it, and only that service may change its records"
    assert scene.plan()[DEAD].notes == (f"hosted zone ZMAP (map.) is not read: {why}",)


def test_service_managed_reverse_zone_is_explained() -> None:
    scene = Scene()
    scene.dead()
    scene.zones[REVERSE] = Zone(REVERSE, "10.in-addr.arpa.", managed_by="another AWS service")
    (note,) = scene.plan()[DEAD].notes
    assert note.startswith(f"hosted zone {REVERSE} (10.in-addr.arpa.) is not read: another AWS service manages")


@pytest.mark.parametrize(
    ("name", "noted"),
    [("0/26.0.0.10.in-addr.arpa.", True), ("0-63.0.0.10.in-addr.arpa.", True), ("0/26.1.0.10.in-addr.arpa.", False)],
)
def test_case_25_classless_reverse_zone_is_explained(name: str, noted: bool) -> None:
    scene = Scene(zones={ZONE: "example.internal.", "ZCLASSLESS": name})
    scene.dead()
    notes = scene.plan()[DEAD].notes
    assert ["RFC 2317" in note and name in note for note in notes] == [True] * noted


def test_unreadable_zone_fails_all_instances_but_blocks_no_other_removal() -> None:
    scene = Scene("{tag:Name}.example.internal", "{tag:Name}.elsewhere")
    scene.dead()
    scene.unreadable["ZGONE"] = AccessError("no right for ZGONE")
    scene.put("web-1.example.internal", "A", "10.0.0.5")
    finding = scene.plan()[DEAD]
    assert [r.target for r in finding.removals] == [A]
    assert list(map(str, finding.errors)) == ["no right for ZGONE"]
    assert finding.notes == ()  # the other name may lie there


@pytest.mark.parametrize(("name", "ip"), [("web-1", None), (None, "10.0.0.5")])
def test_an_unreadable_zone_may_hold_any_name(name: str | None, ip: str | None) -> None:
    scene = Scene(zones={})
    scene.dead(name=name, ip=ip)
    scene.unreadable["ZGONE"] = AccessError("no right")
    assert scene.fails() == ["no right"]
    assert scene.plan()[DEAD].left == ()


def test_an_instance_without_any_name_does_not_fail_by_an_unreadable_zone() -> None:
    scene = Scene()
    scene.dead(name=None, ip=None)
    scene.unreadable["ZGONE"] = AccessError("no right")
    assert list(scene.stays()) == ["its DNS records"]


def test_a_name_that_was_not_read_fails_its_instances_only() -> None:
    scene = Scene()
    scene.dead()
    scene.dead(DEAD_TOO, "web-2", "10.0.0.6")
    scene.put("web-2.example.internal", "A", "10.0.0.6")
    scene.missed[ZONE]["web-1.example.internal."] = TransientError("no connection")
    scene.missed[REVERSE]["5.0.0.10.in-addr.arpa."] = TransientError("no time")
    assert scene.fails() == ["no connection", "no time"]
    assert len(scene.goes(DEAD_TOO)) == 1


# What stays behind


def test_case_24_remaining_records_at_the_name_are_noted() -> None:
    scene = Scene()
    scene.dead()
    scene.put("web-1.example.internal", "A", "10.0.0.5", HealthCheckId="hc-1")
    scene.put("web-1.example.internal", "SSHFP", "1 1 00")
    scene.put("web-1.example.internal", "TXT", '"hello"')
    assert scene.plan()[DEAD].notes == (
        "health check hc-1 of A web-1.example.internal. is not deleted",
        "SSHFP web-1.example.internal. is not deleted",
        "TXT web-1.example.internal. is not deleted",
    )


@pytest.mark.parametrize(
    ("values", "others"),
    [(("10.0.0.5", "10.0.0.6"), ()), (("10.0.0.6",), ()), (("10.0.0.5",), ("2001:db8::6",))],
)
def test_nothing_is_noted_while_the_name_still_has_an_address(
    values: tuple[str, ...], others: tuple[str, ...]
) -> None:
    scene = Scene("www.example.internal")
    scene.dead()
    scene.put("www.example.internal", "A", *values)
    scene.put("www.example.internal", "SSHFP", "1 1 00")
    if others:
        scene.put("www.example.internal", "AAAA", *others)
    assert scene.plan()[DEAD].notes == ()


def test_texts_at_a_pointers_name_are_noted_and_the_pointer_is_not() -> None:
    scene = Scene()
    scene.dead()
    pointer(scene, "web-1.example.internal.")
    assert len(scene.goes()) == 1
    assert scene.plan()[DEAD].notes == ()
    scene.put("5.0.0.10.in-addr.arpa", "TXT", '"hello"', zone=REVERSE)
    assert scene.plan()[DEAD].notes == ("TXT 5.0.0.10.in-addr.arpa. is not deleted",)


def test_a_health_check_that_is_still_used_is_not_noted() -> None:
    scene = Scene("www.example.internal")
    scene.dead()
    scene.put("www.example.internal", "A", "10.0.0.5", "10.0.0.6", HealthCheckId="hc-1")
    assert scene.plan()[DEAD].notes == ()


# The question


def asked(scene: Scene) -> tuple[set[str], set[str]]:
    asked = question(scene.settings, scene.instances, scene.snapshot(), scene.only)
    return set(asked.addresses), {name for _, name in asked.names}


def test_the_question_names_what_the_plan_needs_and_no_more() -> None:
    scene = Scene(
        "{tag:Name}.example.internal", "{instance_id}.example.internal", "{private_ip_dashed}.example.internal"
    )
    scene.dead()
    assert asked(scene) == (set(), set())
    scene.put(f"{DEAD}.example.internal", "A", "10.9.9.9")
    scene.put("web-1.example.internal", "A", "10.0.0.5", AliasTarget={"DNSName": "lb."})
    assert asked(scene) == (set(), set())
    scene.put("web-1.example.internal", "CNAME", "10-0-0-5.example.internal")
    assert asked(scene) == (set(), {"10-0-0-5.example.internal"})
    pointer(scene, "web-1.example.internal")
    assert asked(scene) == ({"10.0.0.5"}, {"10-0-0-5.example.internal"})


@pytest.mark.parametrize(
    ("target", "names"),
    [
        ("lb.example.com", set()),
        ("web-2.example.internal", set()),
        (f"{DEAD}.example.internal", set()),  # a living instance cannot have this name
        ("10-0-0-5.example.internal", {"10-0-0-5.example.internal"}),
    ],
)
def test_names_are_asked_only_for_cnames_to_own_names(target: str, names: set[str]) -> None:
    scene = cname("{instance_id}.example.internal", *OWN, target=target)
    assert asked(scene)[1] == names


def test_only_templates_that_can_give_the_name_are_asked_for() -> None:
    scene = cname("www.example.internal", "*.example.internal", *OWN)
    names = question(scene.settings, scene.instances, scene.snapshot()).names
    assert {template.text for template, _ in names} == set(OWN)


# A second plan


def test_a_second_plan_keeps_to_what_the_first_chose() -> None:
    scene = Scene("www.example.internal", "{tag:Name}.example.internal")
    scene.dead(private_ips=("10.0.0.5", "10.0.0.6"))
    first = scene.put("www.example.internal", "A", "10.0.0.5", "10.0.0.6")
    scene.put("web-1.example.internal", "A", "10.0.0.5")
    scene.missed[ZONE]["web-1.example.internal."] = TransientError("no connection")
    scene.unreadable["ZGONE"] = TransientError("no connection")
    scene.only = {first.key: {"10.0.0.5"}}
    assert list(scene.goes()) == ["A www.example.internal. 10.0.0.5"]
    assert asked(scene)[0] == {"10.0.0.5", "10.0.0.6"}


def test_a_second_plan_looks_at_no_other_record_set_of_the_name() -> None:
    scene = Scene()
    scene.dead(ipv6_addresses=("2001:db8::5",))
    record = scene.put("web-1.example.internal", "A", "10.0.0.5")
    scene.put("web-1.example.internal", "AAAA", "2001:db8::5")
    scene.only = {record.key: {"10.0.0.5"}}
    assert list(scene.goes()) == [A]


def test_a_second_plan_says_why_a_changed_record_stays() -> None:
    scene = Scene()
    scene.dead()
    record = scene.put("web-1.example.internal", "A", "10.0.0.77")
    scene.only = {record.key: {"10.0.0.5"}}
    assert scene.stays() == {"A web-1.example.internal. 10.0.0.77": f"not an address or DNS name recorded for {DEAD}"}


def test_in_a_second_plan_a_cname_stays_with_a_target_that_is_not_among_what_the_first_chose() -> None:
    scene = cname()
    scene.put("10-0-0-5.example.internal", "A", "10.0.0.5")
    (record,) = scene.found[ZONE]["web-1.example.internal."]
    scene.only = {record.key: set(record.values)}
    assert scene.stays() == {CNAME: "its target 10-0-0-5.example.internal. stays"}
