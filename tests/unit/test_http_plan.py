"""Which items of an HTTP step go, and why the others stay: tables of what was found and what is decided."""

from __future__ import annotations

from typing import Any

import pytest

from ec2_decommission.clients.ec2 import Interface
from ec2_decommission.errors import AccessError, TransientError
from ec2_decommission.instance import Instance
from ec2_decommission.live import Holder, Living, Question
from ec2_decommission.place import Place
from ec2_decommission.steps.base import Finding, Left, Removal
from ec2_decommission.steps.http.observe import Found, Snapshot
from ec2_decommission.steps.http.plan import KIND, in_question, plan, question, unknown
from ec2_decommission.templates import Template
from tests.fakes.http_step import document, read

OWN, OTHER_ID = "i-00000000000000dea", "i-00000000000000a11"
IP, NAME = "10.0.0.5", "ip-10-0-0-5.ec2.internal"
HOME, ABROAD = Place("111111111111", "us-east-1"), Place("222222222222", "eu-west-1")
DNS = Template("{private_dns_name}")
WEB = Instance(
    OWN,
    account_id="111111111111",
    region="us-east-1",
    vpc_id="vpc-1",
    private_ips=(IP,),
    private_dns_names=(NAME,),
    tags={"Name": "web"},
)


def decide(*items: Any, living: Living | None = None, instance: Instance = WEB, **changed: Any) -> Finding:
    settings = read(document("https://api.example.com", **changed))
    asked = Living(question(settings, [instance])) if living is None else living
    return plan(settings, {OWN: instance}, Snapshot({OWN: Found(items)}), asked)[OWN]


def item(item_id: Any = "7", instance: Any = OWN, **more: Any) -> dict[str, Any]:
    return {"id": item_id, "instance": instance, **more}


def reasons(finding: Finding) -> list[str]:
    return [f"{left.target}: {left.reason}" for left in finding.left]


# Proof by id


def test_an_item_with_the_instances_id_goes_with_its_proof_and_its_whole_object() -> None:
    [removal] = decide(item(extra=[1])).removals
    assert removal == Removal("delete", "item 7", f"its instance is {OWN}")
    assert (removal.kind, removal.object) == (KIND, item(extra=[1]))
    assert KIND == "http_item"


@pytest.mark.parametrize(
    "value",
    [
        OWN.upper(),
        f"{OWN} ",
        f" {OWN}",
        f"{OWN}0",
        OWN[:-1],
        OTHER_ID,
        "",
        None,
        True,
        0,
        7,
        1.5,
        [OWN],
        {"id": OWN},
        {},
        [],
    ],
)
def test_item_without_the_exact_instance_id_stays(value: Any) -> None:
    finding = decide(item(instance=value))
    assert finding.removals == ()
    assert len(finding.left) == 1
    assert f"its instance is not {OWN}, but " in finding.left[0].reason


def test_an_item_without_the_field_stays() -> None:
    assert reasons(decide({"id": 7})) == [f"item 7: its instance is not {OWN}, but null"]
    assert reasons(decide(item(instance=""))) == [f"item 7: its instance is not {OWN}, but empty"]


@pytest.mark.parametrize("thing", [None, True, 5, "x", OWN, [], [OWN], [[]], {}])
def test_item_that_is_not_an_object_stays(thing: Any) -> None:
    assert decide(thing).removals == ()


def test_an_item_that_is_a_text_can_be_proven_by_itself() -> None:
    [removal] = decide(OWN, find={"id": "@"}, prove={"field": "@", "equals": "{instance_id}"}).removals
    assert (removal.target, removal.object) == (f"item {OWN}", {"item": OWN})


def test_a_field_that_cannot_be_evaluated_proves_nothing() -> None:
    finding = decide(item(), prove={"field": "length(missing)", "equals": "{instance_id}"})
    assert finding.removals == ()
    assert "prove.field: length(missing) cannot be evaluated" in finding.left[0].reason


def test_a_field_may_be_any_expression() -> None:
    field = "tags[?tag=='aws.instance_id'].value | [0]"
    tags = [{"tag": "x", "value": OTHER_ID}, {"tag": "aws.instance_id", "value": OWN}]
    [removal] = decide(item(instance=OTHER_ID, tags=tags), prove={"field": field, "equals": "{instance_id}"}).removals
    assert removal.proof == f"its {field} is {OWN}"


def test_a_place_that_cannot_be_asked_does_not_matter_to_a_proof_by_id() -> None:
    finding = decide(item(), living=Living(errors={ABROAD: TransientError("down")}))
    assert [r.target for r in finding.removals] == ["item 7"]
    assert finding.errors == ()


@pytest.mark.parametrize(
    ("method", "action"),
    [("DELETE", "delete"), ("PUT", "change"), ("PATCH", "change"), ("POST", "remove"), ("GET", "remove")],
)
def test_the_action_says_what_the_request_does(method: str, action: str) -> None:
    assert decide(item(), remove={"method": method}).removals[0].action == action


# Proof by recorded address


def by_ip(living: Living | None = None, value: Any = IP, instance: Instance = WEB) -> Finding:
    prove = {"field": "ip", "equals": "{private_ip}"}
    return decide({"id": "7", "ip": value}, living=living, instance=instance, prove=prove)


def by_name(living: Living | None = None, instance: Instance = WEB, value: Any = NAME) -> Finding:
    prove = {"field": "name", "equals": "{private_dns_name}"}
    return decide({"id": "7", "name": value}, living=living, instance=instance, prove=prove)


def holder(vpc_id: str = "vpc-1", *, place: Place = HOME, instance: Instance | None = None) -> Holder:
    return Holder(place, Interface("eni-1", vpc_id, instance.instance_id if instance else None, ""), instance)


STRANGER = Instance(OTHER_ID, account_id="222222222222", region="eu-west-1", private_ips=(IP,))


def test_an_item_with_the_recorded_address_goes_if_nobody_has_it_now() -> None:
    assert by_ip().removals[0].proof == f"its ip is {IP}, which was recorded for {OWN}, and nobody else has it now"
    assert by_name().removals[0].proof.endswith("and nobody else has it now")


@pytest.mark.parametrize(
    "one",
    [
        holder(),
        holder(instance=STRANGER),
        holder("vpc-9", place=ABROAD, instance=STRANGER),
    ],
    ids=["an interface in the VPC", "an instance in the VPC", "an instance of another VPC"],
)
@pytest.mark.parametrize("by", [by_ip, by_name])
def test_an_item_stays_if_somebody_has_the_address_now(by: Any, one: Holder) -> None:
    asked = Question(frozenset({IP}), frozenset({(DNS, NAME)}))
    finding = by(Living(asked, {IP: (one,)}))
    assert finding.removals == ()
    assert f"{IP} now belongs to" in finding.left[0].reason


@pytest.mark.parametrize("by", [by_ip, by_name])
def test_an_interface_without_an_instance_in_another_vpc_does_not_keep_an_item(by: Any) -> None:
    asked = Question(frozenset({IP}), frozenset({(DNS, NAME)}))
    assert by(Living(asked, {IP: (holder("vpc-9"),)})).removals != ()


def test_an_item_stays_if_a_living_instance_has_the_dns_name() -> None:
    asked = Question(frozenset({IP}), frozenset({(DNS, NAME)}))
    finding = by_name(Living(asked, bearers={(DNS, NAME): (STRANGER,)}))
    assert finding.removals == ()
    assert finding.left[0].reason == f"{NAME} now belongs to {OTHER_ID} in 222222222222/eu-west-1"


@pytest.mark.parametrize("by", [by_ip, by_name])
def test_a_place_that_cannot_be_asked_fails_what_rests_on_an_address(by: Any) -> None:
    asked = Question(frozenset({IP}), frozenset({(DNS, NAME)}))
    finding = by(Living(asked, errors={ABROAD: AccessError("no role")}))
    assert finding.removals == ()
    assert [type(error) for error in finding.errors] == [AccessError]
    assert "item 7: cannot ask 222222222222/eu-west-1" in str(finding.errors[0])


@pytest.mark.parametrize("value", ["10.0.0.50", "10.0.0.5/32", " 10.0.0.5", "010.0.0.5", [IP], None, 10.05])
def test_item_without_the_exact_address_stays(value: Any) -> None:
    assert by_ip(value=value).removals == ()


def test_a_public_address_is_no_private_one() -> None:
    instance = Instance(OWN, private_ips=(IP,), public_ips=("54.7.8.9",))
    assert by_ip(value="54.7.8.9", instance=instance).removals == ()


def test_a_dns_name_is_compared_as_text() -> None:
    assert by_name(value=NAME.upper()).removals == ()
    assert by_name(value=f"{NAME}.").removals == ()


def asked_for(instance: Instance, equals: str) -> Question:
    prove = {"field": "x", "equals": equals}
    return question(read(document("https://api.example.com", prove=prove)), [instance])


@pytest.mark.parametrize(
    ("dns_name", "equals", "addresses", "names"),
    [
        (NAME, "{instance_id}", [], []),
        (NAME, "{private_ip}", ["10.0.0.9"], []),
        (NAME, "{private_dns_name}", [IP], [NAME]),
        ("IP-10-0-0-5.x", "{private_dns_name}", ["10.0.0.9"], ["ip-10-0-0-5.x"]),
        ("ip-127-0-0-1.x", "{private_dns_name}", ["10.0.0.9"], ["ip-127-0-0-1.x"]),
        ("web.example.internal", "{private_dns_name}", ["10.0.0.9"], ["web.example.internal"]),
        (f"{OWN}.ec2.internal", "{private_dns_name}", [], [f"{OWN}.ec2.internal"]),
    ],
)
def test_who_has_an_address_is_asked_only_for_a_proof_by_address(
    dns_name: str, equals: str, addresses: list[str], names: list[str]
) -> None:
    instance = Instance(OWN, private_ips=("10.0.0.9",), private_dns_names=(dns_name,))
    expected = Question(frozenset(addresses), frozenset((DNS, name) for name in names))
    assert asked_for(instance, equals) == expected


def test_a_dns_name_that_is_made_of_the_id_does_not_rest_on_an_address() -> None:
    instance = Instance(OWN, private_ips=(IP,), private_dns_names=(f"{OWN}.ec2.internal",))
    asked = Question(names=frozenset({(DNS, f"{OWN}.ec2.internal")}))
    finding = by_name(Living(asked, {IP: (holder(),)}), instance, f"{OWN}.ec2.internal")
    assert [r.target for r in finding.removals] == ["item 7"]


def test_no_query_is_made_if_no_items_were_found() -> None:
    settings = read(document("https://api.example.com", prove={"field": "ip", "equals": "{private_ip}"}))
    instances = {OWN: WEB}
    for items, expected in (((), []), (({"ip": "10.0.0.6"},), []), (({"ip": "10.0.0.6"}, {"ip": IP}), [WEB])):
        assert in_question(settings, instances, Snapshot({OWN: Found(items)})) == expected
    assert in_question(settings, instances, Snapshot()) == []
    # An address that is not known is not the null of an item.
    assert in_question(settings, {OWN: Instance(OWN)}, Snapshot({OWN: Found(({"ip": None},))})) == []


# What keeps an item


@pytest.mark.parametrize(
    ("expression", "kept"),
    [
        ("protected", True),
        ("name == 'web'", True),
        ("name", True),
        ("zero", True),  # as JMESPath has it
        ("labels", True),
        ("name == 'other'", False),
        ("missing", False),
        ("empty", False),
        ("nothing", False),
        ("off", False),
        ("length(missing)", True),  # cannot be evaluated
    ],
)
def test_keep(expression: str, kept: bool) -> None:
    fields = {"protected": True, "name": "web", "zero": 0, "labels": [1], "empty": "", "nothing": [], "off": False}
    finding = decide(item(**fields), keep=["missing", expression])
    assert (finding.removals == ()) == kept
    if kept:
        assert finding.left[0].target == "item 7"
        assert finding.left[0].reason.startswith(f"keep: {expression}")


@pytest.mark.parametrize("item_id", ["", ".", "..", None, True, False, 1.5, 7.0, [], ["7"], {}, {"id": 7}])
def test_an_id_that_is_never_sent(item_id: Any) -> None:
    finding = decide(item(item_id))
    assert finding.removals == ()
    [left] = finding.left
    assert left.target == (f"item {item_id}" if item_id in (".", "..") else "an item without an id")
    assert "is never sent" in left.reason


@pytest.mark.parametrize(("item_id", "shown"), [("", "empty"), (None, "null"), (1.5, "1.5"), ([7], "[7]")])
def test_an_id_that_is_never_sent_is_shown(item_id: Any, shown: str) -> None:
    assert decide(item(item_id)).left[0].reason == f"its id (id) is never sent: it is {shown}"


@pytest.mark.parametrize("item_id", ["", ".", ".."])
def test_an_id_that_is_never_sent_is_sent_in_no_place(item_id: str) -> None:
    assert decide(item(item_id), remove={"path": "/items", "query": {"id": "{id}"}}).removals == ()


def test_an_id_that_cannot_be_evaluated() -> None:
    finding = decide(item(), find={"id": "length(missing)"})
    assert finding.removals == ()
    assert finding.left[0].reason.startswith("find.id: ")


@pytest.mark.parametrize(
    ("item_id", "sent"), [(7, "7"), (-1, "-1"), (2**70, str(2**70)), ("web 1", "web 1"), ("...", "...")]
)
def test_an_id_that_is_sent(item_id: Any, sent: str) -> None:
    assert decide(item(item_id)).removals[0].handle.item_id == sent


@pytest.mark.parametrize("item_id", ["a/../b", "..\\x", "./x", "\ud800"])
def test_an_id_that_cannot_stand_in_a_path(item_id: str) -> None:
    finding = decide(item(item_id))
    assert finding.removals == ()
    assert "remove: the value of {id}" in finding.left[0].reason


def test_an_id_that_an_item_of_somebody_else_has_too() -> None:
    finding = decide(item(7), item("7", OTHER_ID), item("8"))
    assert [r.target for r in finding.removals] == ["item 8"]
    assert Left("item 7", "another item, which is not the instance's, has the same id") in finding.left


def test_an_item_that_is_shown_twice_goes_once_and_by_its_latest_state() -> None:
    [removal] = decide(item(seen=1), item(seen=2)).removals
    assert removal.object == item(seen=2)


@pytest.mark.parametrize("order", [1, -1])
def test_an_item_that_is_shown_twice_and_kept_once_stays(order: int) -> None:
    finding = decide(*[item(kept=True), item(kept=False)][::order], keep=["kept"])
    assert finding.removals == ()
    assert reasons(finding) == ["item 7: keep: kept is true"]


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        (None, "the value of {item:group} is neither text nor a whole number: it is null"),
        (True, "a whole number: it is true"),
        ("", "a whole number: it is empty"),
        ({}, "a whole number: it is {}"),
        ("..", "cannot be one segment"),
    ],
)
def test_a_field_of_the_item_that_cannot_be_sent(value: Any, reason: str) -> None:
    finding = decide(item(group=value), remove={"path": "/groups/{item:group}/{id}"})
    assert finding.removals == ()
    assert reason in finding.left[0].reason


def test_an_item_goes_with_the_first_instance_of_the_batch() -> None:
    settings = read(document("https://api.example.com", prove={"field": "ip", "equals": "{private_ip}"}))
    other = Instance("i-2", private_ips=(IP,))
    found = Found(({"id": "7", "ip": IP},))
    living = Living(question(settings, [WEB]))
    findings = plan(settings, {OWN: WEB, "i-2": other}, Snapshot({OWN: found, "i-2": found}), living)
    assert [r.target for r in findings[OWN].removals] == ["item 7"]
    assert findings["i-2"] == Finding(left=(Left("item 7", f"it is removed with {OWN}"),))


# What is not known


@pytest.mark.parametrize(
    ("changed", "reason"),
    [
        ({"find": {"query": {"n": "{tag:Role}"}}}, "find: the value of {tag:Role} is not known"),
        ({"find": {"path": "/{hostname}"}}, "find: the value of {hostname} is not known"),
        ({"find": {"headers": {"X": "{account_id}"}}}, "find: the value of {account_id} is not known"),
        (
            {"find": {"method": "POST", "body": '{"a": "{private_ip}"}'}},
            "find: the value of {private_ip} is not known",
        ),
        ({"remove": {"query": {"n": "{tag:Role}"}}}, "remove: the value of {tag:Role} is not known"),
        (
            {"prove": {"field": "ip", "equals": "{private_ip}"}},
            "prove.equals: the value of {private_ip} is not known",
        ),
        (
            {"prove": {"field": "ip", "equals": "{private_dns_name}"}},
            "prove.equals: the value of {private_dns_name} is not known",
        ),
        ({"find": {"path": "/{tag:Odd}"}}, "find: the value of {tag:Odd} cannot be one segment of a URL: .."),
        (
            {"find": {"headers": {"X": "{tag:Line}"}}},
            "find: the value of {tag:Line} is not printable ASCII, as a header requires: a b",
        ),
    ],
)
def test_a_value_that_is_not_known_skips_the_step(changed: dict[str, Any], reason: str) -> None:
    instance = Instance(OWN, tags={"Odd": "..", "Line": "a\nb", "Empty": ""})
    finding = decide(item(), instance=instance, **changed)
    [left] = finding.left
    assert left.target == f"items of {OWN}"
    assert left.reason.startswith(reason)
    assert (finding.removals, finding.errors, finding.notes) == ((), (), ())


def test_a_value_that_a_tag_had_before_is_enough() -> None:
    instance = Instance(OWN, past_tags={"Role": ("web",)})
    settings = read(document("https://api.example.com", find={"path": "/{tag:Role}"}, remove={"path": "/{tag:Role}"}))
    assert unknown(settings, instance) is None
    assert unknown(settings, Instance(OWN, tags={"Role": ""})) is not None


def test_one_value_of_several_that_cannot_be_sent_does_not_skip_the_step() -> None:
    settings = read(document("https://api.example.com", find={"path": "/{tag:Role}"}))
    assert unknown(settings, Instance(OWN, tags={"Role": ".."}, past_tags={"Role": ("web",)})) is None


# The report


def test_find_errors_do_not_block_found_items() -> None:
    settings = read(document("https://api.example.com"))
    found = Found((item(),), (TransientError("down"),))
    finding = plan(settings, {OWN: WEB}, Snapshot({OWN: found}), Living())[OWN]
    assert [r.target for r in finding.removals] == ["item 7"]
    assert [str(error) for error in finding.errors] == ["down"]


def test_nothing_found_is_clean() -> None:
    assert decide() == Finding()


def test_items_of_others_are_named_up_to_ten() -> None:
    finding = decide(*(item(n, OTHER_ID) for n in range(12)), item("mine"))
    assert [r.target for r in finding.removals] == ["item mine"]
    assert [left.target for left in finding.left] == [*(f"item {n}" for n in range(10)), "2 more items"]
    assert len(decide(*(item(n, OTHER_ID) for n in range(10))).left) == 10


def test_item_text_is_on_one_line_at_the_end_of_the_reason() -> None:
    finding = decide(item("x", "line\n\x00two"))
    assert reasons(finding) == [f"item x: its instance is not {OWN}, but line two"]
