"""Who has an address or a name now, asked of every served place in one round."""

from __future__ import annotations

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from ec2_decommission.clients.ec2 import Interface
from ec2_decommission.errors import AccessError, TransientError
from ec2_decommission.instance import Facts, Instance
from ec2_decommission.live import FRESH_SECONDS, Holder, Live, Living, Question, Round, StaleAnswer
from ec2_decommission.place import Place
from ec2_decommission.templates import Template
from tests.fakes.ec2 import ACCOUNT, REGION, VPC, FakeEc2

HOME = Place(ACCOUNT, REGION)
MEMBER = Place("222222222222", "eu-west-1")
NAME = Template("{tag:Name}")


def bearers(ec2: FakeEc2, template: str, *names: str, gone: tuple[str, ...] = ()) -> dict[str, set[str]]:
    parsed = Template(template)
    question = Question(names=frozenset((parsed, name.lower()) for name in names))
    living = Live({HOME: ec2}).ask(question, gone).living
    assert living.bearers.keys() <= question.names
    found = {name: living.bearers.get((parsed, name.lower()), ()) for name in names}
    return {name: {i.instance_id for i in instances} for name, instances in found.items() if instances}


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


def test_the_batchs_own_instances_do_not_count_as_living() -> None:
    ec2 = FakeEc2()
    own, other = ec2.launch("web-1", "10.0.0.5"), ec2.launch("WEB-1")
    assert bearers(ec2, "{tag:Name}", "web-1", gone=(own,)) == {"web-1": {other}}
    assert Live({HOME: ec2}).ask(Question(frozenset({"10.0.0.5"})), {own}).living.holders == {}


def test_a_name_that_the_template_cannot_give_is_not_asked() -> None:
    ec2 = FakeEc2()
    ec2.launch("web-1")
    assert bearers(ec2, "{tag:Name}.a.internal", "web-1.b.internal", ".a.internal", "") == {}
    assert ec2.calls["DescribeInstances"] == 0


def test_hundreds_of_names_take_as_many_calls_as_filters_allow() -> None:
    ec2 = FakeEc2()
    owner = ec2.launch("web-450")
    assert bearers(ec2, "{tag:Name}", *(f"web-{n}" for n in range(500))) == {"web-450": {owner}}
    assert ec2.calls["DescribeInstances"] == 3


def test_round_queries_every_place_with_few_calls() -> None:
    here, there = FakeEc2(HOME), FakeEc2(MEMBER)
    here.launch("web-1", "10.0.0.5")
    other = there.launch("web-1", "10.0.0.5")
    there.allocated.add("54.7.8.9")
    question = Question(frozenset({"10.0.0.5", "54.7.8.9"}), frozenset({(NAME, "web-1")}))
    living = Live({HOME: here, MEMBER: there}).ask(question).living
    assert {holder.place for holder in living.holders["10.0.0.5"]} == {HOME, MEMBER}
    assert {i.place for i in living.bearers[NAME, "web-1"]} == {HOME, MEMBER}
    assert living.elastic_ips == {"54.7.8.9": MEMBER}
    assert living.error is None
    # One call for the interfaces, one for their instances, one for the names, one for Elastic IPs.
    assert there.calls == {"DescribeNetworkInterfaces": 1, "DescribeInstances": 2, "DescribeAddresses": 1}
    assert other


def test_empty_question_sends_no_call() -> None:
    def never(jobs: object, workers: object = None) -> None:
        raise AssertionError(jobs)

    assert Live({HOME: FakeEc2()}, never).ask(Question()).living == Living()


def test_a_question_of_names_or_of_private_addresses_asks_no_more_than_that() -> None:
    ec2 = FakeEc2()
    Live({HOME: ec2}).ask(Question(names=frozenset({(NAME, "web-1")})))
    assert ec2.calls == {"DescribeInstances": 1}
    Live({HOME: ec2}).ask(Question(frozenset({"10.0.0.5"})))
    assert ec2.calls == {"DescribeInstances": 1, "DescribeNetworkInterfaces": 1}


def test_an_address_is_held_with_its_living_instance() -> None:
    ec2 = FakeEc2()
    here = ec2.launch("web-1", "10.0.0.5")
    ending = ec2.launch("web-1", "10.0.0.5", vpc_id="vpc-b")
    ec2.add_interface("10.0.0.5", vpc_id="vpc-c")
    ec2.set_state(ending, "shutting-down")
    holders = Live({HOME: ec2}).ask(Question(frozenset({"10.0.0.5"}))).living.holders["10.0.0.5"]
    assert {h.interface.vpc_id: h.instance and h.instance.instance_id for h in holders} == {
        VPC: here,
        "vpc-b": None,  # its interface is still there, but nobody lives in it
        "vpc-c": None,
    }


def test_a_place_that_fails_is_named_and_the_others_still_answer() -> None:
    here, there = FakeEc2(HOME), FakeEc2(MEMBER)
    here.launch("web-1", "10.0.0.5")

    def deny(_: str) -> None:
        raise AccessError("no ec2:DescribeNetworkInterfaces")

    there.fault = deny
    living = Live({HOME: here, MEMBER: there}).ask(Question(frozenset({"10.0.0.5"}))).living
    assert living.holders["10.0.0.5"][0].place == HOME
    assert isinstance(living.error, AccessError)
    told = "cannot ask 222222222222/eu-west-1 who has it now: no ec2:DescribeNetworkInterfaces"
    assert str(living.error) == told
    here.fault = deny
    error = Live({HOME: here, MEMBER: there}).ask(Question(frozenset({"10.0.0.5"}))).living.error
    assert str(error).startswith(f"cannot ask {HOME} who has it now (and 1 more places could not be asked): ")


def test_an_answer_is_good_for_less_than_five_seconds_after_the_round_ended() -> None:
    now = [100.0]
    ec2 = FakeEc2()

    def slow(_: str) -> None:
        now[0] += 60

    ec2.fault = slow
    answer = Live({HOME: ec2}, now=lambda: now[0]).ask(Question(frozenset({"10.0.0.5"})))
    answer.guard()
    now[0] += FRESH_SECONDS - 0.01
    answer.guard()
    now[0] += 0.01
    with pytest.raises(StaleAnswer, match=r"5\.0 s old"):
        answer.guard()
    assert issubclass(StaleAnswer, TransientError)
    Round(Living(), 0.0, lambda: 4.9).guard()


# Whose an address is

DEAD = Instance("i-dead").learn(
    Facts("ec2", vpc_id=VPC, private_ips=("10.0.0.5",), public_ips=("54.7.8.9",), ipv6_addresses=("2600::5",))
)
NAMESAKE, OTHER = Instance("i-2", tags={"Name": "web-1"}), Instance("i-3", tags={"Name": "db"})


def held(vpc: str | None, instance: Instance | None = None, place: Place = HOME) -> Holder:
    instance_id = instance.instance_id if instance else None
    return Holder(place, Interface("eni-1", vpc, instance_id, "NAT"), instance)


@pytest.mark.parametrize(
    ("address", "holders", "vpc", "owner"),
    [
        ("10.0.0.5", [], VPC, None),
        ("10.0.0.5", [held(VPC, OTHER)], VPC, "i-3"),
        ("10.0.0.5", [held(VPC)], VPC, "eni-1 (NAT)"),
        ("10.0.0.5", [held(None)], VPC, "eni-1 (NAT)"),
        ("10.0.0.5", [held("vpc-b", OTHER)], None, "i-3"),
        # Ranges may overlap: in another VPC the name decides.
        ("10.0.0.5", [held("vpc-b", OTHER)], VPC, None),
        ("10.0.0.5", [held("vpc-b", NAMESAKE)], VPC, "i-2"),
        ("10.0.0.5", [held("vpc-b", NAMESAKE, MEMBER)], VPC, "i-2"),
        ("10.0.0.5", [held("vpc-b", OTHER), held("vpc-c", NAMESAKE)], VPC, "i-2"),
        ("10.0.0.5", [held("vpc-b")], VPC, None),
        # A public address and an IPv6 address are the same everywhere.
        ("54.7.8.9", [held("vpc-b", OTHER)], VPC, "i-3"),
        ("54.7.8.9", [held("vpc-b")], VPC, "eni-1 (NAT)"),
        ("2600::5", [held("vpc-b", OTHER, MEMBER)], VPC, "i-3"),
        ("54.7.8.9", [], VPC, None),
    ],
)
def test_who_else_has_an_address(address: str, holders: list[Holder], vpc: str | None, owner: str | None) -> None:
    living = Living(Question(frozenset({address})), {address: tuple(holders)} if holders else {})
    dead = DEAD if vpc else Instance("i-dead", private_ips=DEAD.private_ips, public_ips=DEAD.public_ips)
    told = living.owner(dead, address, lambda candidate: candidate.tags.get("Name") == "web-1")
    assert (told is None) if owner is None else (owner in str(told))


@pytest.mark.parametrize(
    ("facts", "address", "owner"),
    [
        ({"ipv6_addresses": ("fd00::5",)}, "fd00::5", "i-3"),  # IPv6 is never taken for an overlapping range
        ({"public_ips": ("198.51.100.7",)}, "198.51.100.7", "i-3"),  # recorded as public, whatever the range
        ({"public_dns_names": ("ec2-54-7-8-9.compute-1.amazonaws.com",)}, "54.7.8.9", "i-3"),
        ({"private_ips": ("54.7.8.9",)}, "54.7.8.9", None),  # a VPC that uses a public range as its own
        ({"private_ips": ("54.7.8.9",), "public_ips": ("54.7.8.9",)}, "54.7.8.9", "i-3"),
        ({}, "10.0.0.5", None),
    ],
)
def test_an_address_in_another_vpc_is_anothers_if_it_is_public(
    facts: dict[str, tuple[str, ...]], address: str, owner: str | None
) -> None:
    instance = Instance("i-dead", vpc_id=VPC).learn(Facts("inventory", **facts))  # type: ignore[arg-type]
    living = Living(Question(frozenset({address})), {address: (held("vpc-b", OTHER),)})
    told = living.owner(instance, address, lambda _: False)
    assert (told is None) if owner is None else (owner in str(told))


def test_allocated_elastic_ip_has_an_owner_even_without_an_interface() -> None:
    living = Living(Question(frozenset({"54.7.8.9"})), elastic_ips={"54.7.8.9": MEMBER})
    assert "allocated as an Elastic IP" in str(living.owner(DEAD, "54.7.8.9", lambda _: False))


def test_unasked_name_or_address_is_an_error() -> None:
    with pytest.raises(LookupError):
        Living().owner(DEAD, "10.0.0.5", lambda _: False)
    with pytest.raises(LookupError):
        Living().bearer(NAME, "web-1")
    asked = Living(Question(names=frozenset({(NAME, "web-1")})), bearers={(NAME, "web-1"): (NAMESAKE,)})
    assert "i-2" in str(asked.bearer(NAME, "WEB-1"))
    assert Living(asked.asked).bearer(NAME, "web-1") is None
