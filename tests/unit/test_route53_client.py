"""Route 53's names, record sets and pages; one request for each page."""

from __future__ import annotations

from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest
from botocore.exceptions import ClientError

from ec2_decommission.clients.aws import ThrottledError
from ec2_decommission.clients.governor import Governor
from ec2_decommission.clients.route53 import (
    BotoZones,
    ChangeRefusedError,
    Page,
    RecordSet,
    Zone,
    canonical,
    is_record_name,
    list_names,
)
from ec2_decommission.deadline import Deadline, until
from ec2_decommission.errors import AccessError, TransientError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


@pytest.fixture(autouse=True)
def enough_time() -> Iterator[None]:
    with until(Deadline.after(1000)):
        yield


class Client:
    """A boto3 client that answers as the test says. Nothing is sent, so the hooks are only collected."""

    def __init__(self, **operations: Callable[..., Any]) -> None:
        self.hooks: list[tuple[str, Any]] = []
        self.meta = SimpleNamespace(
            events=SimpleNamespace(register=lambda at, hook, **_: self.hooks.append((at, hook)))
        )
        for name, operation in operations.items():
            setattr(self, name, operation)

    def zones(self, governor: Governor | None = None) -> BotoZones:
        governor = governor or Governor(1000)
        return BotoZones(lambda _: self, lambda _: governor)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("Web-1.Example.Internal", "web-1.example.internal."),
        ("web-1.", "web-1."),
        ("\\052.example.com.", "*.example.com."),
        ("a\\040b.x", "a b.x."),
        ("\\101.x", "a.x."),  # an escaped capital
        ("\\999.x", "\\999.x."),
        ("", "."),
    ],
)
def test_canonical_names(name: str, expected: str) -> None:
    assert canonical(name) == expected


@pytest.mark.parametrize(
    ("name", "held"),
    [("x.", True), ("a.x.", True), ("b.a.x.", True), ("ax.", False), ("x.y.", False), (".", False)],
)
def test_names_in_a_zone(name: str, held: bool) -> None:
    assert Zone("Z", "x.").holds(name) is held


@pytest.mark.parametrize(
    ("name", "fine"),
    [
        ("a.x.", True),
        ("*.x.", True),
        ("a..x.", False),
        (f"{'a' * 63}.x.", True),
        (f"{'a' * 64}.x.", False),
        ("é.x.", False),
        ("a." * 127 + "x.", False),
        ("a." * 126 + "x.", True),
    ],
)
def test_valid_route_53_names(name: str, fine: bool) -> None:
    assert is_record_name(name) is fine


def test_removing_values_keeps_other_attributes_of_a_record_set() -> None:
    raw = {"Name": "x", "Type": "A", "TTL": 5, "Weight": 1, "ResourceRecords": [{"Value": "1"}, {"Value": "2"}]}
    record = RecordSet.listed("Z", {**raw, "SetIdentifier": "one"})
    less = record.without(["1"])
    assert less is not None
    assert less.raw == {**raw, "SetIdentifier": "one", "ResourceRecords": [{"Value": "2"}]}
    assert (less.values, less.key) == (("2",), record.key)
    assert record.without(["1", "2"]) is None
    assert record.key == ("Z", "x.", "A", "one")
    assert record == RecordSet("Z", "x.", "A", ("1", "2"), "one", raw={})
    assert "TTL" not in repr(record)


def test_a_page_shows_what_lies_between_its_ends() -> None:
    page = Page("Z", "b.x.", "d.x.", (), frozenset({"bb.x."}))
    shown = [name for name in ("a.x.", "b.x.", "bb.x.", "c.x.", "d.x.", "e.x.") if page.shows(name)]
    assert shown == ["b.x.", "c.x."]


def raw_set(name: str, identifier: str) -> dict[str, Any]:
    return {"Name": name, "Type": "A", "SetIdentifier": identifier, "TTL": 1, "ResourceRecords": [{"Value": "1"}]}


def test_all_sets_of_a_name_that_goes_over_several_pages() -> None:
    asked: list[dict[str, Any]] = []
    pages = {
        None: ([raw_set("a.x.", "1")], ("a.x.", "A", "2")),
        "2": ([raw_set("a.x.", "2")], ("a.x.", "A", "3")),
        "3": ([raw_set("a.x.", "3"), raw_set("b.x.", "1")], ("b.x.", "A", "2")),
    }

    def list_resource_record_sets(**request: Any) -> dict[str, Any]:
        asked.append(request)
        records, (name, kind, identifier) = pages[request.get("StartRecordIdentifier")]
        return {
            "ResourceRecordSets": records,
            "IsTruncated": True,
            "NextRecordName": name,
            "NextRecordType": kind,
            "NextRecordIdentifier": identifier,
        }

    zones = Client(list_resource_record_sets=list_resource_record_sets).zones()
    found = list_names(zones, "Z", ["a.x."]).found
    assert [r.set_identifier for r in found["a.x."]] == ["1", "2", "3"]
    assert len(asked) == 3
    assert asked[0] == {"HostedZoneId": "Z", "MaxItems": "300", "StartRecordName": "a.x."}


def test_next_listed_record_is_not_mistaken_for_a_missing_one() -> None:
    answer = {"ResourceRecordSets": [raw_set("web-2.x.", "1")], "IsTruncated": False}
    zones = Client(list_resource_record_sets=lambda **_: answer).zones()
    assert list_names(zones, "Z", ["web-1.x."]).found == {}


def test_names_after_a_failed_request_are_missed_and_the_others_stay() -> None:
    names = [f"web-{n}.x." for n in range(3)]

    def list_resource_record_sets(StartRecordName: str, **_: Any) -> dict[str, Any]:  # noqa: N803  # boto3's own name
        if StartRecordName == names[1]:
            raise ClientError({"Error": {"Code": "AccessDenied", "Message": "no"}}, "ListResourceRecordSets")
        return {
            "ResourceRecordSets": [raw_set(StartRecordName, "1")],
            "IsTruncated": True,
            "NextRecordName": names[1],
            "NextRecordType": "A",
        }

    listing = list_names(Client(list_resource_record_sets=list_resource_record_sets).zones(), "Z", names)
    assert set(listing.found) == {names[0]}
    assert {name: type(error) for name, error in listing.missed.items()} == dict.fromkeys(names[1:], AccessError)


@pytest.mark.parametrize(
    ("linked", "managed_by"),
    [
        (None, None),
        ({"ServicePrincipal": "servicediscovery.amazonaws.com", "Description": "Cloud Map"}, "Cloud Map"),
        ({"ServicePrincipal": "servicediscovery.amazonaws.com"}, "servicediscovery.amazonaws.com"),
        ({"Unknown": "?"}, "another AWS service"),
    ],
)
def test_a_zone_says_which_service_manages_it(linked: dict[str, str] | None, managed_by: str | None) -> None:
    raw = {"Name": "X.", "ResourceRecordSetCount": 7, **({"LinkedService": linked} if linked else {})}
    zone = Client(get_hosted_zone=lambda **_: {"HostedZone": raw}).zones().zone("Z")
    assert (zone.name, zone.record_sets, zone.managed_by) == ("x.", 7, managed_by)


@pytest.mark.parametrize(
    ("code", "kind"),
    [
        ("InvalidChangeBatch", ChangeRefusedError),
        ("InvalidInput", ChangeRefusedError),
        ("PriorRequestNotComplete", ThrottledError),
        ("Throttling", ThrottledError),
        ("AccessDenied", AccessError),
        ("ServiceUnavailable", TransientError),
    ],
)
def test_answers_to_a_change(code: str, kind: type[Exception]) -> None:
    def change_resource_record_sets(**request: Any) -> None:
        assert request == {
            "HostedZoneId": "Z",
            "ChangeBatch": {"Changes": [{"Action": "DELETE", "ResourceRecordSet": {"Name": "x"}}]},
        }
        raise ClientError({"Error": {"Code": code, "Message": "why"}}, "Op")

    zones = Client(change_resource_record_sets=change_resource_record_sets).zones()
    with pytest.raises(kind, match="why"):
        zones.change("Z", [("DELETE", {"Name": "x"})], lambda: None)


@pytest.mark.parametrize(("throttled", "made"), [(3, True), (4, False)])
def test_throttled_read_is_retried_but_not_forever(throttled: int, made: bool) -> None:
    slept: list[float] = []
    governor = Governor(5, now=lambda: 0.0, sleep=slept.append)
    calls = 0

    def get_hosted_zone(**_: Any) -> Any:
        nonlocal calls
        hooks = dict(client.hooks[-2:])
        hooks["before-send"](request=None)
        calls += 1
        if calls <= throttled:
            error = {"Error": {"Code": "Throttling", "Message": "Rate exceeded"}}
            hooks["response-received"](parsed_response=error, exception=None)
            raise ClientError(error, "GetHostedZone")  # type: ignore[arg-type]
        return {"HostedZone": {"Name": "example.internal."}}

    client = Client(get_hosted_zone=get_hosted_zone)
    zones = client.zones(governor)
    if made:
        assert zones.zone("Z").name == "example.internal."
        assert zones.zone("Z").name == "example.internal."  # not read again
    else:
        with pytest.raises(ThrottledError, match="Rate exceeded"):
            zones.zone("Z")
    assert calls == 4
    assert len(slept) == 3
    assert slept == sorted(slept)


def test_each_zone_has_its_own_client_and_governor() -> None:
    names = {"Z1": "one.", "Z2": "two."}
    slept: dict[str, list[float]] = {"Z1": [], "Z2": []}
    clients = {
        zone_id: Client(get_hosted_zone=lambda Id: {"HostedZone": {"Name": names[Id]}})  # noqa: N803
        for zone_id in names
    }
    governors = {zone_id: Governor(0.2, now=lambda: 0.0, sleep=slept[zone_id].append) for zone_id in names}
    zones = BotoZones(clients.__getitem__, governors.__getitem__)
    assert [zones.zone(zone_id).name for zone_id in names] == ["one.", "two."]
    for zone_id in ("Z1", "Z1", "Z2"):
        zones.wait(zone_id)
    assert slept == {"Z1": [5.0], "Z2": []}


def test_a_role_that_cannot_be_assumed_is_the_error_of_its_zone() -> None:
    def client(zone_id: str) -> Any:
        raise AccessError(f"AWS denies the role of {zone_id}")

    zones = BotoZones(client, lambda _: Governor(5))
    with pytest.raises(AccessError, match=r"^AWS denies the role of Z$"):
        zones.zone("Z")
    with pytest.raises(AccessError, match=r"^AWS denies the role of Z$"):
        zones.change("Z", [("DELETE", {"Name": "x"})], lambda: None)
