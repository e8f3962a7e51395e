"""Route 53's names and record sets, and its paging of one name."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
from botocore.exceptions import ClientError

from ec2_decommission.clients.governor import Governor
from ec2_decommission.clients.route53 import BotoZones, ChangeRefusedError, RecordSet, Zone, canonical
from ec2_decommission.deadline import Deadline
from ec2_decommission.errors import TransientError


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
def test_what_lies_in_a_zone(name: str, held: bool) -> None:
    assert Zone("Z", "x.").holds(name) is held


def test_a_record_set_less_some_values_keeps_all_else() -> None:
    raw = {"Name": "x", "Type": "A", "TTL": 5, "Weight": 1, "ResourceRecords": [{"Value": "1"}, {"Value": "2"}]}
    record = RecordSet("Z", "x.", "A", ("1", "2"), "one", raw=raw)
    assert record.without(["1"]) == {**raw, "ResourceRecords": [{"Value": "2"}]}
    assert record.without(["3"]) == raw
    assert record.without(["1", "2"])["ResourceRecords"] == []
    assert record.key == ("Z", "x.", "A", "one")
    assert record == RecordSet("Z", "x.", "A", ("1", "2"), "one", raw={})
    assert "TTL" not in repr(record)


def raw_set(name: str, identifier: str) -> dict[str, Any]:
    return {"Name": name, "Type": "A", "SetIdentifier": identifier, "TTL": 1, "ResourceRecords": [{"Value": "1"}]}


def test_all_sets_of_a_name_that_goes_over_several_pages() -> None:
    asked: list[dict[str, Any]] = []
    pages = {
        None: ([raw_set("a.x.", "1")], ("a.x.", "A", "2")),
        "2": ([raw_set("a.x.", "2")], ("a.x.", "A", "3")),
        "3": ([raw_set("a.x.", "3"), raw_set("b.x.", "1")], ("b.x.", "A", "2")),
    }

    class Client:
        def list_resource_record_sets(self, **request: Any) -> dict[str, Any]:
            asked.append(request)
            records, (name, kind, identifier) = pages[request.get("StartRecordIdentifier")]
            return {
                "ResourceRecordSets": records,
                "IsTruncated": True,
                "NextRecordName": name,
                "NextRecordType": kind,
                "NextRecordIdentifier": identifier,
            }

    found = BotoZones(Client()).records("Z", ["a.x."]).found
    assert [r.set_identifier for r in found["a.x."]] == ["1", "2", "3"]
    assert len(asked) == 3
    assert asked[0] == {"HostedZoneId": "Z", "MaxItems": "300", "StartRecordName": "a.x."}


def test_what_is_listed_in_place_of_a_record_that_is_gone_is_not_taken_for_it() -> None:
    class Client:
        def list_resource_record_sets(self, **request: Any) -> dict[str, Any]:
            return {"ResourceRecordSets": [raw_set("web-2.x.", "1")], "IsTruncated": False}

    assert dict(BotoZones(Client()).records("Z", ["web-1.x."]).found) == {}


@pytest.mark.parametrize(
    ("code", "kind"),
    [
        ("InvalidChangeBatch", ChangeRefusedError),
        ("InvalidInput", ChangeRefusedError),
        ("PriorRequestNotComplete", TransientError),
        ("Throttling", TransientError),
    ],
)
def test_what_a_change_may_be_answered_with(code: str, kind: type[Exception]) -> None:
    class Client:
        def change_resource_record_sets(self, **request: Any) -> None:
            assert request == {
                "HostedZoneId": "Z",
                "ChangeBatch": {"Changes": [{"Action": "DELETE", "ResourceRecordSet": {"Name": "x"}}]},
            }
            raise ClientError({"Error": {"Code": code, "Message": "why"}}, "Op")

    with pytest.raises(kind, match="why"):
        BotoZones(Client()).change("Z", [("DELETE", {"Name": "x"})])


@pytest.mark.parametrize(("throttled", "made"), [(3, True), (4, False)])
def test_a_call_is_made_again_while_it_is_throttled_but_not_for_ever(throttled: int, made: bool) -> None:
    slept: list[float] = []

    class Client:
        meta = SimpleNamespace(events=SimpleNamespace(register=lambda *_: None))
        calls = 0

        def get_hosted_zone(self, **_: Any) -> Any:
            governor.wait()  # what botocore does before it sends
            self.calls += 1
            if self.calls <= throttled:
                governor.throttled()
                raise ClientError({"Error": {"Code": "Throttling", "Message": "Rate exceeded"}}, "GetHostedZone")
            return {"HostedZone": {"Name": "example.internal."}}

    governor = Governor(5, lambda: Deadline.after(1000), 8.0, sleep=slept.append)
    zones = BotoZones(client := Client(), governor)
    if made:
        assert zones.zone("Z").name == "example.internal."
    else:
        with pytest.raises(TransientError, match="Rate exceeded"):
            zones.zone("Z")
    assert client.calls == 4
    assert slept == sorted(slept)
    assert len(slept) == 3
