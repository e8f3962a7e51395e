"""How the Route 53 step reads zones and removes records: few requests, each on fresh answers."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from ec2_decommission.clients.aws import ThrottledError
from ec2_decommission.clients.ec2 import Description, Interface
from ec2_decommission.clients.route53 import ChangeRefusedError, Listing, RecordSet, Zone
from ec2_decommission.clients.zone_cache import CachedZones
from ec2_decommission.config import ExternalDns, Route53Settings, ZoneSettings
from ec2_decommission.deadline import Deadline
from ec2_decommission.errors import AccessError, ConfigurationError, OutOfTime, PermanentError, TransientError
from ec2_decommission.instance import Facts, Instance
from ec2_decommission.live import Live, StaleAnswer
from ec2_decommission.place import Place
from ec2_decommission.steps.base import Batch, Outcome
from ec2_decommission.steps.route53 import Route53Step
from ec2_decommission.steps.route53.observe import Snapshot, ZoneRecords
from ec2_decommission.templates import Template
from tests.fakes.route53 import FakeZones

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

    from ec2_decommission.clients.route53 import Zones
    from ec2_decommission.clients.zone_cache import KeptPage
    from ec2_decommission.errors import DecommissionError
    from ec2_decommission.steps.base import Finding, Removal

DEAD, DEAD_TOO, OTHER = "i-0000000000000dead", "i-0000000000000dea2", "i-00000000000000aaa"
HOME = Place("111111111111", "us-east-1")
VPC = "vpc-a"
ZONE, PUBLIC, REVERSE = "ZFORWARD", "ZPUBLIC", "ZREVERSE"
A = "A web-1.example.internal. 10.0.0.5"


class LittleEc2:
    """One place with the instances that a test lets live."""

    def __init__(self) -> None:
        self.alive: dict[str, Description] = {}
        self.calls = 0
        self.fault: Callable[[], None] = lambda: None

    def launch(self, name: str, ip: str, instance_id: str = OTHER) -> None:
        facts = Facts("ec2", HOME.account_id, HOME.region, VPC, private_ips=(ip,), tags={"Name": name})
        self.alive[instance_id] = Description(instance_id, "running", facts)

    def interfaces(self, addresses: Iterable[str]) -> Mapping[str, tuple[Interface, ...]]:
        self.calls += 1
        self.fault()
        return {
            ip: (Interface("eni-1", VPC, i),)
            for i, description in self.alive.items()
            for ip in description.facts.private_ips
            if ip in addresses
        }

    def describe(self, instance_ids: Iterable[str]) -> Mapping[str, Description]:
        return {i: self.alive[i] for i in instance_ids if i in self.alive}

    def living(self, filters: Mapping[str, Iterable[str]]) -> Iterator[Description]:
        yield from self.alive.values()

    def ask_by_id(self, instance_ids: Iterable[str]) -> Mapping[str, Description | None]:
        raise NotImplementedError

    def elastic_ips(self, addresses: Iterable[str]) -> frozenset[str]:
        return frozenset()


class Scene:
    """Zones, what lives, the dead, and a clock that stands still."""

    def __init__(self, *record_names: str, zones: Sequence[str] = (ZONE, REVERSE), **settings: Any) -> None:
        self.now, self.left = 0.0, 300.0
        self.ec2, self.zones = LittleEc2(), FakeZones()
        self.zones.add_zone(ZONE, "example.internal")
        self.zones.add_zone(PUBLIC, "example.internal")
        self.zones.add_zone(REVERSE, "10.in-addr.arpa")
        self.settings = Route53Settings(
            tuple(map(ZoneSettings, zones)),
            tuple(map(Template, record_names or ("{tag:Name}.example.internal",))),
            **settings,
        )
        self.instances: dict[str, Instance] = {}
        self.kept: list[tuple[str, Removal]] = []
        self.audit: Callable[[], None] = lambda: None

    def dead(self, instance_id: str = DEAD, name: str = "web-1", ip: str = "10.0.0.5", **more: Any) -> None:
        facts: dict[str, Any] = {"region": HOME.region, "vpc_id": VPC, "private_ips": (ip,), "tags": {"Name": name}}
        instance = Instance(instance_id, state="terminated").learn(Facts("inventory", **(facts | more)))
        self.instances[instance_id] = instance

    def put(self, name: str, kind: str, *values: str, zone: str = ZONE, **more: Any) -> None:
        self.zones.put(zone, name, kind, values, **more)

    def values(self, name: str = "web-1", zone: str = ZONE, kind: str = "A") -> tuple[str, ...] | None:
        return self.zones.values(zone, f"{name}.example.internal", kind)

    def batch(self) -> Batch:
        def keep(instance_id: str, removals: Sequence[Removal]) -> None:
            self.audit()
            self.kept += [(instance_id, removal) for removal in removals]

        live = Live({HOME: self.ec2}, now=lambda: self.now)
        return Batch(self.instances, live, Deadline(lambda: self.left - self.now, lambda: self.now), keep=keep)

    def step(self, zones: Zones | None = None) -> Route53Step:
        return Route53Step(self.settings, zones or self.zones)

    def run(self, between: Callable[[], None] = lambda: None) -> tuple[dict[str, Finding], dict[str, Outcome]]:
        """Plans, lets something happen, and applies."""
        step, batch = self.step(), self.batch()
        assert step.identify(batch) == {}
        findings = dict(step.plan(batch))
        between()
        return findings, dict(step.apply(batch, findings))

    def on(self, operation: str, zone_id: str | None = None, times: int = 10**6) -> Callable[[Any], None]:
        """Does something at the next such requests: ``scene.on("wait")(what)``."""

        def at(what: Callable[[], None] | DecommissionError) -> None:
            left = [times]

            def fault(asked: str, zone: str) -> None:
                if asked == operation and zone_id in (None, zone) and left[0]:
                    left[0] -= 1
                    if isinstance(what, Exception):
                        raise what
                    what()

            self.zones.fault = fault

        return at


def one_record(**more: Any) -> Scene:
    scene = Scene()
    scene.dead()
    scene.put("web-1.example.internal", "A", "10.0.0.5", **more)
    return scene


def fleet(count: int, values: Callable[[str], list[str]] = lambda ip: [ip]) -> Scene:
    scene = Scene(zones=[ZONE])
    for n in range(count):
        ip = f"10.1.{n // 250}.{n % 250}"
        scene.dead(f"i-{n + 1:017x}", f"web-{n}", ip)
        scene.put(f"web-{n}.example.internal", "A", *values(ip))
    return scene


def removed(outcome: Outcome) -> list[str]:
    assert outcome.errors == ()
    return [removal.target for removal in outcome.removed]


# What is sent


def test_a_record_set_is_sent_back_as_it_was_listed() -> None:
    scene = one_record(ttl=37)
    findings, outcomes = scene.run()
    assert outcomes[DEAD] == Outcome(removed=findings[DEAD].removals)
    assert removed(outcomes[DEAD]) == [A]
    ((_, ((action, raw),)),) = scene.zones.changes
    assert (action, raw["TTL"]) == ("DELETE", 37)
    assert scene.values() is None


def test_one_value_of_several_goes_by_delete_and_create() -> None:
    scene = Scene("www.example.internal")
    scene.dead()
    scene.put("www.example.internal", "A", "10.0.0.4", "10.0.0.5", "10.0.0.6", ttl=11)
    _, outcomes = scene.run()
    assert removed(outcomes[DEAD]) == ["A www.example.internal. 10.0.0.5"]
    assert scene.values("www") == ("10.0.0.4", "10.0.0.6")
    assert scene.zones.ttl(ZONE, "www.example.internal", "A") == 11
    ((_, changes),) = scene.zones.changes
    assert [action for action, _ in changes] == ["DELETE", "CREATE"]


@pytest.mark.parametrize("others", [(), ("10.0.0.7",)])
def test_two_of_a_batch_leave_one_set_in_one_change(others: tuple[str, ...]) -> None:
    scene = Scene("www.example.internal")
    scene.dead()
    scene.dead(DEAD_TOO, "web-2", "10.0.0.6")
    scene.put("www.example.internal", "A", "10.0.0.5", "10.0.0.6", *others)
    _, outcomes = scene.run()
    assert [removed(outcome) for outcome in outcomes.values()] == [
        ["A www.example.internal. 10.0.0.5"],
        ["A www.example.internal. 10.0.0.6"],
    ]
    assert scene.values("www") == (others or None)
    assert len(scene.zones.changes) == 1


def test_a_weighted_set_and_a_wildcard_keep_their_identity() -> None:
    scene = Scene("*.{tag:Name}.example.internal")
    scene.dead()
    scene.put("*.web-1.example.internal", "A", "10.0.0.5", SetIdentifier="one", Weight=10)
    scene.put("*.web-1.example.internal", "A", "10.0.0.6", SetIdentifier="two", Weight=10)
    _, outcomes = scene.run()
    assert removed(outcomes[DEAD]) == ["A *.web-1.example.internal. 10.0.0.5 [one]"]
    assert scene.zones.values(ZONE, "*.web-1.example.internal", "A", "two") == ("10.0.0.6",)


def test_more_than_a_thousand_records_go_in_several_batches() -> None:
    scene = fleet(1003)
    _, outcomes = scene.run()
    assert all(len(removed(outcome)) == 1 for outcome in outcomes.values())
    assert [len(changes) for _, changes in scene.zones.changes] == [1000, 3]
    assert scene.ec2.calls == 3  # for the plan, and for each change batch


def test_a_sets_delete_and_create_stay_together() -> None:
    scene = fleet(400, lambda ip: [ip, "192.168.0.1"])
    _, outcomes = scene.run()
    assert all(len(removed(outcome)) == 1 for outcome in outcomes.values())
    for _, changes in scene.zones.changes:
        assert sum(len(raw["ResourceRecords"]) for _, raw in changes) <= 1000
        assert [action for action, _ in changes] == ["DELETE", "CREATE"] * (len(changes) // 2)


def test_more_than_32_000_characters_go_in_several_batches() -> None:
    scene = Scene(*(f"{{tag:Name}}-{n}.example.internal" for n in range(150)), zones=[ZONE])
    long = "ip-10-0-0-5." + "x" * 230 + ".internal"
    scene.dead(private_dns_names=(long,))
    for n in range(150):
        scene.put(f"web-1-{n}.example.internal", "CNAME", long)
    _, outcomes = scene.run()
    assert len(removed(outcomes[DEAD])) == 150
    assert scene.zones.calls["ChangeResourceRecordSets"] == len(scene.zones.changes) == 2


def test_a_set_that_fills_a_batch_goes_alone() -> None:
    many = [f"192.168.{n // 250}.{n % 250}" for n in range(500)]
    scene = fleet(2, lambda ip: [ip, *many[:499]])
    _, outcomes = scene.run()
    assert all(len(removed(outcome)) == 1 for outcome in outcomes.values())
    assert len(scene.zones.changes) == 2


# Fresh answers


def test_change_waits_then_queries_ec2_then_is_sent_immediately() -> None:
    scene = one_record()
    order: list[str] = []
    scene.zones.fault = lambda operation, _: order.append(operation)
    scene.ec2.fault = lambda: order.append("ask")
    scene.run()
    assert order[-3:] == ["wait", "ask", "ChangeResourceRecordSets"]


def test_case_9_a_replacement_that_appears_before_the_change_keeps_its_record() -> None:
    scene = one_record()
    _, outcomes = scene.run(lambda: scene.ec2.launch("web-1", "10.0.0.5"))
    (left,) = outcomes[DEAD].left
    assert (left.target, left.reason) == (A, f"10.0.0.5 now belongs to {OTHER} in {HOME}")
    assert outcomes[DEAD].removed == ()
    assert scene.zones.calls["ChangeResourceRecordSets"] == 0


def test_case_9_while_the_governor_waits() -> None:
    scene = one_record()
    scene.on("wait")(lambda: scene.ec2.launch("web-1", "10.0.0.5"))
    _, outcomes = scene.run()
    assert len(outcomes[DEAD].left) == 1
    assert scene.values() == ("10.0.0.5",)


def test_no_change_uses_an_answer_older_than_five_seconds() -> None:
    scene = one_record()
    change, waits = scene.zones.change, iter([5.0, 4.9])

    def slowly(zone_id: str, changes: Any, guard: Callable[[], None]) -> None:
        scene.now += next(waits)
        change(zone_id, changes, guard)

    scene.zones.change = slowly  # type: ignore[method-assign]
    _, outcomes = scene.run()
    assert removed(outcomes[DEAD]) == [A]
    assert (scene.zones.calls["wait"], scene.ec2.calls) == (2, 3)


def test_a_machine_too_slow_for_a_large_batch_sends_smaller_ones() -> None:
    scene = fleet(100)
    change = scene.zones.change

    def slowly(zone_id: str, changes: Any, guard: Callable[[], None]) -> None:
        scene.now += 0.2 * len(changes)
        change(zone_id, changes, guard)

    scene.zones.change = slowly  # type: ignore[method-assign]
    _, outcomes = scene.run()
    assert all(len(removed(outcome)) == 1 for outcome in outcomes.values())
    assert max(len(changes) for _, changes in scene.zones.changes) < 25


def test_a_place_that_cannot_be_asked_before_the_change_fails_what_needs_it() -> None:
    scene = Scene("{tag:Name}.example.internal", "{instance_id}.example.internal")
    scene.dead()
    scene.put("web-1.example.internal", "A", "10.0.0.5")
    scene.put(f"{DEAD}.example.internal", "A", "10.0.0.5")

    def fail() -> None:
        raise TransientError("no connection")

    scene.ec2.fault = lambda: None
    _, outcomes = scene.run(lambda: setattr(scene.ec2, "fault", fail))
    assert [r.target for r in outcomes[DEAD].removed] == [f"A {DEAD}.example.internal. 10.0.0.5"]
    (error,) = outcomes[DEAD].errors
    assert str(error) == f"{A}: cannot ask {HOME} who has it now: no connection"


# CNAMEs and their targets


def cname(record_names: Sequence[str] = (), **more: Any) -> Scene:
    scene = Scene("{tag:Name}.example.internal", "{private_ip_dashed}.example.internal", *record_names, **more)
    scene.dead()
    scene.put("web-1.example.internal", "CNAME", "10-0-0-5.example.internal")
    return scene


def test_case_15_a_cname_and_its_target_go_in_one_batch() -> None:
    scene = cname()
    scene.put("10-0-0-5.example.internal", "A", "10.0.0.5")
    _, outcomes = scene.run()
    assert sorted(removed(outcomes[DEAD])) == [
        "A 10-0-0-5.example.internal. 10.0.0.5",
        "CNAME web-1.example.internal. 10-0-0-5.example.internal",
    ]
    assert len(scene.zones.changes) == 1
    assert scene.zones.calls["ListResourceRecordSets"] == 2  # forward and reverse, once each


def test_a_chain_of_cnames_is_not_split_among_batches() -> None:
    names = [f"c{n}.example.internal" for n in range(3)]
    scene = Scene(*names, "{private_ip_dashed}.example.internal")
    scene.dead()
    scene.put("10-0-0-5.example.internal", "A", "10.0.0.5")
    for name, target in zip(names, [*names[1:], "10-0-0-5.example.internal"], strict=True):
        scene.put(name, "CNAME", target)
    _, outcomes = scene.run()
    assert len(removed(outcomes[DEAD])) == 4
    assert [len(changes) for _, changes in scene.zones.changes] == [4]


def test_a_cname_stays_if_its_target_changes_before_the_change() -> None:
    scene = cname()
    scene.put("10-0-0-5.example.internal", "A", "10.0.0.5")
    _, outcomes = scene.run(lambda: scene.put("10-0-0-5.example.internal", "A", "10.0.0.5", "192.0.2.1"))
    assert removed(outcomes[DEAD]) == ["A 10-0-0-5.example.internal. 10.0.0.5"]
    assert [left.reason for left in outcomes[DEAD].left] == ["its target 10-0-0-5.example.internal. stays"]
    assert scene.values("web-1", kind="CNAME") == ("10-0-0-5.example.internal",)


def test_a_cname_stays_if_a_record_appears_at_its_target_before_the_change() -> None:
    """No change batch can check that a name is empty, so it is read again."""
    scene = cname()
    _, outcomes = scene.run(lambda: scene.put("10-0-0-5.example.internal", "A", "192.0.2.1"))
    assert removed(outcomes[DEAD]) == []
    assert [left.reason for left in outcomes[DEAD].left] == ["its target 10-0-0-5.example.internal. stays"]


def test_a_cname_to_nothing_goes() -> None:
    scene = cname()
    _, outcomes = scene.run()
    assert len(removed(outcomes[DEAD])) == 1


@pytest.mark.parametrize("refused", [False, True])
def test_a_target_in_another_zone_goes_first(refused: bool) -> None:
    """The CNAME must not go if its target then stays."""
    names = ("{private_ip_dashed}.example.internal", "{tag:Name}.example.internal", "{tag:Name}.host")
    scene = Scene(*names, zones=[ZONE, "ZHOST"])
    scene.zones.add_zone("ZHOST", "host")
    scene.dead()
    scene.put("10-0-0-5.example.internal", "A", "10.0.0.5")
    scene.put("web-1.example.internal", "CNAME", "web-1.host")
    scene.put("web-1.host", "A", "10.0.0.5", zone="ZHOST")
    if refused:
        scene.on("ChangeResourceRecordSets", "ZHOST")(AccessError("no right"))
    _, outcomes = scene.run()
    if refused:
        assert [r.target for r in outcomes[DEAD].removed] == ["A 10-0-0-5.example.internal. 10.0.0.5"]
        assert [left.reason for left in outcomes[DEAD].left] == ["its target web-1.host. stays"]
        assert [str(error) for error in outcomes[DEAD].errors] == ["A web-1.host. 10.0.0.5: no right"]
    else:
        assert len(removed(outcomes[DEAD])) == 3
        assert [zone_id for zone_id, _ in scene.zones.changes] == [ZONE, "ZHOST", ZONE]


def test_a_cname_whose_target_lies_in_two_zones_goes_after_both() -> None:
    scene = cname(zones=[ZONE, PUBLIC])
    for zone_id in (ZONE, PUBLIC):
        scene.put("10-0-0-5.example.internal", "A", "10.0.0.5", zone=zone_id)
    _, outcomes = scene.run()
    assert len(removed(outcomes[DEAD])) == 3
    assert [(zone_id, len(changes)) for zone_id, changes in scene.zones.changes] == [(PUBLIC, 1), (ZONE, 2)]


def test_two_cnames_to_one_target_go_in_one_batch() -> None:
    scene = cname(record_names=["www.example.internal"])
    scene.dead(ipv6_addresses=("2001:db8::5",))
    scene.put("www.example.internal", "CNAME", "10-0-0-5.example.internal")
    scene.put("10-0-0-5.example.internal", "A", "10.0.0.5")
    scene.put("10-0-0-5.example.internal", "AAAA", "2001:db8::5")
    _, outcomes = scene.run()
    assert len(removed(outcomes[DEAD])) == 4
    assert [len(changes) for _, changes in scene.zones.changes] == [4]


def test_a_cname_stays_if_its_target_is_not_among_what_may_be_removed() -> None:
    """The audit could not be written for the instance that has the target's other value."""
    scene = Scene("{tag:Name}.example.internal", "www.example.internal", zones=[ZONE])
    scene.dead()
    scene.dead(DEAD_TOO, "web-2", "10.0.0.6")
    scene.put("web-1.example.internal", "CNAME", "www.example.internal")
    scene.put("www.example.internal", "A", "10.0.0.5", "10.0.0.6")
    step, batch = scene.step(), scene.batch()
    findings = dict(step.plan(batch))
    assert len(findings[DEAD].removals) == 2
    outcomes = step.apply(batch, {DEAD: findings[DEAD]})
    assert removed(outcomes[DEAD]) == ["A www.example.internal. 10.0.0.5"]
    assert scene.values("www") == ("10.0.0.6",)
    assert scene.values("web-1", kind="CNAME") is not None


# What changed since the plan


def test_a_changed_ttl_is_read_again_and_kept_in_the_audit() -> None:
    scene = one_record()
    _, outcomes = scene.run(lambda: scene.put("web-1.example.internal", "A", "10.0.0.5", ttl=60))
    assert removed(outcomes[DEAD]) == [A]
    assert scene.values() is None
    ((instance_id, removal),) = scene.kept
    assert instance_id == DEAD
    assert removal.object is not None
    assert removal.object["record_set"]["TTL"] == 60


def test_an_unchanged_record_is_not_written_to_the_audit_again() -> None:
    scene = one_record()
    scene.on("ChangeResourceRecordSets", times=1)(TransientError("no answer"))
    scene.run()
    assert scene.kept == []


def test_record_that_cannot_be_audited_stays() -> None:
    scene = one_record()

    def refuse() -> None:
        raise AccessError("s3:PutObject is missing")

    scene.audit = refuse
    _, outcomes = scene.run(lambda: scene.put("web-1.example.internal", "A", "10.0.0.5", ttl=60))
    assert [str(error) for error in outcomes[DEAD].errors] == [f"{A}: s3:PutObject is missing"]
    assert scene.values() == ("10.0.0.5",)


def test_a_record_that_is_gone_is_success_without_an_action() -> None:
    scene = one_record()
    _, outcomes = scene.run(lambda: scene.zones.take(ZONE, "web-1.example.internal", "A"))
    assert outcomes[DEAD] == Outcome()


def test_records_left_by_the_first_plan_are_reported_once() -> None:
    scene = Scene("www.example.internal")
    scene.dead(private_ips=("10.0.0.5", "10.0.0.6"))
    scene.ec2.launch("other", "10.0.0.6")
    scene.put("www.example.internal", "A", "10.0.0.5", "10.0.0.6")
    findings, outcomes = scene.run(lambda: scene.put("www.example.internal", "A", "10.0.0.6"))
    assert len(findings[DEAD].left) == 1
    assert outcomes[DEAD] == Outcome()


def test_a_record_that_was_replaced_stays() -> None:
    scene = one_record()
    scene.ec2.launch("web-1", "10.0.0.77")
    _, outcomes = scene.run(lambda: scene.put("web-1.example.internal", "A", "10.0.0.77"))
    assert removed(outcomes[DEAD]) == []
    ((reason),) = [left.reason for left in outcomes[DEAD].left]
    owner = f"10.0.0.77 belongs to {OTHER} in {HOME}"
    assert reason == f"not an address or DNS name recorded for {DEAD} ({owner})"


def test_a_value_that_was_added_is_not_lost() -> None:
    scene = one_record()
    _, outcomes = scene.run(lambda: scene.put("web-1.example.internal", "A", "10.0.0.5", "10.0.0.6"))
    assert removed(outcomes[DEAD]) == [A]
    assert scene.values() == ("10.0.0.6",)


@pytest.mark.parametrize("mark", ["web-1", "a-web-1"])
def test_a_name_that_external_dns_took_over_stays(mark: str) -> None:
    scene = one_record()

    def take_over() -> None:
        scene.put("web-1.example.internal", "A", "10.0.0.5", ttl=1)
        scene.put(f"{mark}.example.internal", "TXT", '"heritage=external-dns"')

    _, outcomes = scene.run(take_over)
    assert removed(outcomes[DEAD]) == []
    assert scene.values() == ("10.0.0.5",)


def test_names_that_cannot_be_read_again_fail() -> None:
    scene = one_record()

    def change_and_break() -> None:
        scene.put("web-1.example.internal", "A", "10.0.0.5", ttl=60)
        scene.on("ListResourceRecordSets")(TransientError("no connection"))

    _, outcomes = scene.run(change_and_break)
    assert [str(error) for error in outcomes[DEAD].errors] == [f"{A}: no connection"]
    assert scene.values() == ("10.0.0.5",)


# Refused, lost and throttled changes


def test_case_17_a_change_that_took_effect_without_an_answer_costs_a_few_requests() -> None:
    scene = fleet(100)
    scene.zones.lost = 1
    _, outcomes = scene.run()
    assert set(outcomes.values()) == {Outcome()}
    assert len(scene.zones.changes) == 1
    requests = sum(n for operation, n in scene.zones.calls.items() if operation != "wait")
    assert requests <= 12


def test_case_17_after_a_refusal() -> None:
    """The second change batch takes effect without an answer, and the third is refused for that."""
    scene = fleet(100)
    scene.zones.lost = 1
    _, outcomes = scene.run(lambda: scene.put("web-7.example.internal", "A", "10.9.9.9"))
    assert all(outcome.errors == () for outcome in outcomes.values())
    assert scene.zones.calls["ChangeResourceRecordSets"] == 3


@pytest.mark.parametrize("error", [ThrottledError("Throttling"), StaleAnswer("5.1 s old")])
def test_a_change_that_was_not_sent_is_no_reason_to_read_again(error: DecommissionError) -> None:
    scene = one_record()
    faults = iter([None, error, None])
    ttl = iter(range(1000, 2000))

    def fault(operation: str, _: str) -> None:
        if operation == "ChangeResourceRecordSets":
            if found := next(faults):
                raise found
            scene.put("web-1.example.internal", "A", "10.0.0.5", ttl=next(ttl))

    scene.zones.fault = fault
    _, outcomes = scene.run()
    assert [type(failure) for failure in outcomes[DEAD].errors] == [PermanentError]
    assert scene.zones.calls["ListResourceRecordSets"] == 3


def test_one_refused_record_of_a_thousand_costs_one_more_change() -> None:
    scene = fleet(1000)
    _, outcomes = scene.run(lambda: scene.put("web-700.example.internal", "A", "10.9.9.9"))
    assert sum(bool(outcome.removed) for outcome in outcomes.values()) == 999
    assert all(outcome.errors == () for outcome in outcomes.values())
    assert scene.zones.calls["ChangeResourceRecordSets"] == 2
    assert scene.values("web-700") == ("10.9.9.9",)


def test_constantly_changing_record_fails_without_blocking_others() -> None:
    scene = one_record()
    scene.dead(DEAD_TOO, "web-2", "10.0.0.6")
    scene.put("web-2.example.internal", "A", "10.0.0.6")
    ttl = iter(range(1000, 2000))
    scene.on("ChangeResourceRecordSets")(lambda: scene.put("web-1.example.internal", "A", "10.0.0.5", ttl=next(ttl)))
    _, outcomes = scene.run()
    (error,) = outcomes[DEAD].errors
    assert isinstance(error, PermanentError)
    assert str(error).startswith(f"{A}: Route 53 refused the change: [Tried to delete")
    assert removed(outcomes[DEAD_TOO]) == ["A web-2.example.internal. 10.0.0.6"]


def test_second_refusal_splits_off_the_named_records() -> None:
    scene = fleet(64)
    ttl = iter(range(1000, 2000))
    scene.on("ChangeResourceRecordSets")(
        lambda: scene.put("web-50.example.internal", "A", "10.1.0.50", ttl=next(ttl))
    )
    _, outcomes = scene.run()
    assert sum(bool(outcome.removed) for outcome in outcomes.values()) == 63
    assert scene.zones.calls["ChangeResourceRecordSets"] == 4


def test_a_refusal_that_names_nothing_is_halved() -> None:
    scene = fleet(64)
    change = scene.zones.change

    def refuse(zone_id: str, changes: Any, guard: Callable[[], None]) -> None:
        if any(raw["Name"].startswith("web-50.") for _, raw in changes):
            scene.zones.calls["ChangeResourceRecordSets"] += 1
            raise ChangeRefusedError("no")
        change(zone_id, changes, guard)

    scene.zones.change = refuse  # type: ignore[method-assign]
    _, outcomes = scene.run()
    assert sum(bool(outcome.removed) for outcome in outcomes.values()) == 63
    assert [len(outcome.errors) for outcome in outcomes.values() if not outcome.removed] == [1]
    assert scene.zones.calls["ChangeResourceRecordSets"] <= 2 + 2 * 6


@pytest.mark.parametrize("times", [1, 7])
def test_a_throttled_change_waits_asks_and_is_sent_again(times: int) -> None:
    scene = one_record()
    scene.on("ChangeResourceRecordSets", times=times)(TransientError("Throttling"))
    _, outcomes = scene.run()
    assert removed(outcomes[DEAD]) == [A]
    assert (scene.zones.calls["wait"], scene.ec2.calls) == (times + 1, times + 2)


def test_a_throttled_batch_stays_whole() -> None:
    scene = fleet(10)
    scene.on("ChangeResourceRecordSets", times=1)(TransientError("Throttling"))
    scene.run()
    assert [len(changes) for _, changes in scene.zones.changes] == [10]


def test_a_replacement_that_appears_while_a_change_is_throttled_keeps_its_record() -> None:
    scene = one_record()

    def throttle() -> None:
        scene.ec2.launch("web-1", "10.0.0.5")
        raise TransientError("Throttling")

    scene.on("ChangeResourceRecordSets")(throttle)
    _, outcomes = scene.run()
    assert len(outcomes[DEAD].left) == 1
    assert scene.zones.calls["ChangeResourceRecordSets"] == 1


@pytest.mark.parametrize(
    ("operation", "error", "changes"),
    [
        ("ChangeResourceRecordSets", TransientError("Throttling"), 8),
        ("ChangeResourceRecordSets", AccessError("no right"), 1),
        ("ChangeResourceRecordSets", OutOfTime("2 s are left"), 1),
        ("wait", OutOfTime("2 s are left"), 0),
    ],
)
def test_a_zone_that_cannot_be_changed_fails_for_itself_only(
    operation: str, error: DecommissionError, changes: int
) -> None:
    scene = one_record()
    scene.put("5.0.0.10.in-addr.arpa", "PTR", "web-1.example.internal.", zone=REVERSE)
    scene.on(operation, ZONE)(error)
    _, outcomes = scene.run()
    (failure,) = outcomes[DEAD].errors
    assert (str(failure), failure.kind) == (f"{A}: {error}", error.kind)
    assert [r.target for r in outcomes[DEAD].removed] == ["PTR 5.0.0.10.in-addr.arpa. web-1.example.internal."]
    assert scene.zones.calls["ChangeResourceRecordSets"] == changes + 1


def test_a_zone_that_is_throttled_all_the_time_leaves_time_to_the_others() -> None:
    scene = one_record()
    scene.put("5.0.0.10.in-addr.arpa", "PTR", "web-1.example.internal.", zone=REVERSE)

    def throttle(operation: str, zone_id: str) -> None:
        if (operation, zone_id) == ("wait", ZONE):
            scene.now += 40.0
        if (operation, zone_id) == ("ChangeResourceRecordSets", ZONE):
            raise TransientError("Throttling")

    scene.zones.fault = throttle
    _, outcomes = scene.run()
    assert [r.target for r in outcomes[DEAD].removed] == ["PTR 5.0.0.10.in-addr.arpa. web-1.example.internal."]
    assert [type(error) for error in outcomes[DEAD].errors] == [TransientError]


# Reading


def test_many_zones_are_read_in_little_time() -> None:
    zones = [f"Z{n}" for n in range(20)]
    scene = Scene(zones=zones)
    scene.left = 40.0
    scene.dead()
    for zone_id in zones:
        scene.zones.add_zone(zone_id, "example.internal")
        scene.put("web-1.example.internal", "A", "10.0.0.5", zone=zone_id)
    _, outcomes = scene.run()
    assert len(removed(outcomes[DEAD])) == 20


def test_a_zone_that_is_slow_to_read_leaves_time_to_the_others() -> None:
    scene = one_record()
    scene.put("5.0.0.10.in-addr.arpa", "PTR", "web-1.example.internal.", zone=REVERSE)

    def hang(_: str, zone_id: str) -> None:
        if zone_id == ZONE:
            scene.now += 70.0
            raise TransientError("no answer")

    scene.zones.fault = hang
    _, outcomes = scene.run()
    assert len(removed(outcomes[DEAD])) == 1


def test_a_zone_that_cannot_be_read_fails_for_itself_only() -> None:
    scene = Scene("{tag:Name}.example.internal", zones=[ZONE, "ZGONE"])
    scene.dead()
    scene.put("web-1.example.internal", "A", "10.0.0.5")
    findings, outcomes = scene.run()
    assert [type(error) for error in findings[DEAD].errors] == [ConfigurationError]
    assert "ZGONE" in str(findings[DEAD].errors[0])
    assert removed(outcomes[DEAD]) == [A]


def test_a_zone_that_cannot_be_listed_fails_those_whose_names_lie_in_it() -> None:
    scene = one_record()
    scene.put("5.0.0.10.in-addr.arpa", "PTR", "web-1.example.internal.", zone=REVERSE)
    scene.on("ListResourceRecordSets", ZONE)(TransientError("no connection"))
    findings, outcomes = scene.run()
    assert [str(error) for error in findings[DEAD].errors] == ["no connection"]
    assert removed(outcomes[DEAD]) == ["PTR 5.0.0.10.in-addr.arpa. web-1.example.internal."]


def test_a_zone_that_a_service_manages_is_not_listed() -> None:
    scene = Scene(zones=["ZMAP"])
    scene.zones.add_zone("ZMAP", "example.internal", managed_by="Cloud Map")
    scene.dead()
    scene.put("web-1.example.internal", "A", "10.0.0.5", zone="ZMAP")
    findings, _ = scene.run()
    assert "Cloud Map" in findings[DEAD].left[0].reason
    assert scene.zones.calls["ListResourceRecordSets"] == 0


@pytest.mark.parametrize(
    ("size", "page_size", "flags"), [(10, 300, None), (100_000, 1, None), (100_000, 1, ExternalDns("xdns-"))]
)
def test_marks_are_found_in_small_zones_and_in_large_ones(
    size: int, page_size: int, flags: ExternalDns | None
) -> None:
    """Together with the names, or after them."""
    scene = Scene(external_dns=flags)
    scene.zones.add_zone(ZONE, "example.internal", size)
    scene.zones.page_size = page_size
    mark = "xdns-a" if flags else "a"
    for n in range(3):
        scene.dead(f"i-{n}", f"web-{n}", f"10.0.0.{n}")
        scene.put(f"web-{n}.example.internal", "A", f"10.0.0.{n}")
        if n:
            scene.put(f"{mark}-web-{n}.example.internal", "TXT", '"heritage=external-dns"')
    _, outcomes = scene.run()
    assert [len(removed(outcome)) for outcome in outcomes.values()] == [1, 0, 0]


def test_a_single_termination_in_small_zones_takes_six_requests() -> None:
    scene = one_record()
    scene.put("5.0.0.10.in-addr.arpa", "PTR", "web-1.example.internal.", zone=REVERSE)
    _, outcomes = scene.run()
    assert len(removed(outcomes[DEAD])) == 2
    assert scene.zones.calls == {
        "GetHostedZone": 2,
        "ListResourceRecordSets": 2,
        "ChangeResourceRecordSets": 2,
        "wait": 2,
    }


def test_in_a_large_zone_marks_are_read_only_for_names_that_have_a_record() -> None:
    scene = Scene(zones=[ZONE])
    scene.zones.add_zone(ZONE, "example.internal", 100_000)
    scene.zones.page_size = 1
    for n in range(4):
        scene.dead(f"i-{n}", f"web-{n}", f"10.0.0.{n}")
    scene.put("web-0.example.internal", "A", "10.0.0.0")
    scene.put("web-0.example.internal", "TXT", '"hello"')
    scene.put("web-1.example.internal", "TXT", '"hello"')
    scene.put("web-2.example.internal", "A", AliasTarget={"DNSName": "lb."})
    for n in range(3):
        scene.put(f"a-web-{n}.example.internal", "TXT", '"hello"')
    scene.step().plan(scene.batch())
    # Three names of which something is there, and two pages for the marks of the first.
    assert scene.zones.calls["ListResourceRecordSets"] == 3 + 2


def test_what_is_read_again_replaces_what_was_known() -> None:
    old, new = RecordSet(ZONE, "a.x.", "A", ("1",)), RecordSet(ZONE, "b.x.", "A", ("2",))
    lost, gone = TransientError("lost"), TransientError("gone")
    records = ZoneRecords(Zone(ZONE, "x."), {"a.x.": (old,), "c.x.": (old,)}, {"b.x.": lost, "d.x.": lost})
    other = ZoneRecords(Zone(PUBLIC, "x."), {"a.x.": (old,)})
    after = Snapshot((records, other)).updated(
        ZONE, Listing({"b.x.": (new,)}, {"e.x.": gone}), ["a.x.", "b.x.", "e.x."]
    )
    assert after.zones[0].found == {"c.x.": (old,), "b.x.": (new,)}
    assert after.zones[0].missed == {"d.x.": lost, "e.x.": gone}
    assert after.zones[1] == other


def test_large_batch_with_little_time_is_handled_in_part() -> None:
    """What was read is removed and reported. Only the rest goes back to the queue."""
    scene = fleet(1000)
    scene.zones.page_size = 40
    scene.left = 60.0

    def slow(operation: str, _: str) -> None:
        scene.now += 2.0 if operation == "ListResourceRecordSets" else 0.0

    scene.zones.fault = slow
    findings, outcomes = scene.run()
    assert scene.now <= 30  # half of the time is for the removal
    done = {i for i, outcome in outcomes.items() if outcome.removed}
    late = {i for i, finding in findings.items() if finding.errors}
    assert all("s are left" in str(error) for finding in findings.values() for error in finding.errors)
    assert len(done) > 200
    assert done | late == set(scene.instances)
    assert not done & late
    for i, instance in scene.instances.items():
        assert (scene.values(instance.tags["Name"]) is None) is (i in done)


def test_with_too_little_time_nothing_is_read_or_changed() -> None:
    scene = one_record()
    scene.left = 7.0
    findings, _ = scene.run()
    assert {type(error) for error in findings[DEAD].errors} == {OutOfTime}
    assert not scene.zones.calls


# Kept pages


def cached(scene: Scene, kept: list[KeptPage]) -> Zones:
    return CachedZones(scene.zones, kept, 0.0, lambda: 100.0)


def test_consecutive_batches_share_read_pages() -> None:
    scene, kept = fleet(40), list[Any]()
    everybody = scene.instances
    for some in (slice(0, 20), slice(20, 40)):
        scene.instances = dict(list(everybody.items())[some])
        step, batch = scene.step(cached(scene, kept)), scene.batch()
        findings = dict(step.plan(batch))
        assert all(len(removed(outcome)) == 1 for outcome in step.apply(batch, findings).values())
    assert scene.zones.calls["ListResourceRecordSets"] == 1


def test_of_a_set_that_two_share_each_batch_takes_its_own_value() -> None:
    scene, kept = Scene("www.example.internal", zones=[ZONE]), list[Any]()
    scene.dead()
    scene.dead(DEAD_TOO, "web-2", "10.0.0.6")
    scene.put("www.example.internal", "A", "10.0.0.5", "10.0.0.6", "192.0.2.1")
    everybody = scene.instances
    for instance_id in everybody:
        scene.instances = {instance_id: everybody[instance_id]}
        step, batch = scene.step(cached(scene, kept)), scene.batch()
        assert len(removed(step.apply(batch, step.plan(batch))[instance_id])) == 1
    assert scene.values("www") == ("192.0.2.1",)


def test_a_second_event_finds_nothing_on_kept_pages() -> None:
    scene, kept = one_record(), list[Any]()
    for actions in (1, 0):
        step, batch = scene.step(cached(scene, kept)), scene.batch()
        findings = step.plan(batch)
        assert len(findings[DEAD].removals) == actions
        step.apply(batch, findings)
    assert len(scene.zones.changes) == 1


def test_what_a_kept_page_does_not_show_is_found_before_the_change() -> None:
    """A replacement took over the name, or the target of a CNAME, after the page was read."""
    scene, kept = cname(), list[Any]()
    scene.dead(DEAD_TOO, "web-2", "10.0.0.6")
    scene.put("web-2.example.internal", "A", "10.0.0.6")
    scene.step(cached(scene, kept)).plan(scene.batch())
    scene.put("web-2.example.internal", "A", "10.0.0.77")
    scene.put("10-0-0-5.example.internal", "A", "192.0.2.1")
    step, batch = scene.step(cached(scene, kept)), scene.batch()
    findings = dict(step.plan(batch))
    assert all(finding.removals for finding in findings.values())
    outcomes = step.apply(batch, findings)
    assert [removed(outcome) for outcome in outcomes.values()] == [[], []]
    assert [len(outcome.left) for outcome in outcomes.values()] == [1, 1]
