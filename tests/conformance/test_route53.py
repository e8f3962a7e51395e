"""Conformance of the fake Route 53: the same tests run on the fake and on the real client with the strict AWS."""

from __future__ import annotations

from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, Protocol

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from ec2_decommission.clients.governor import Governor
from ec2_decommission.clients.route53 import BotoZones, ChangeRefusedError, Zone, canonical, list_names
from ec2_decommission.deadline import Deadline, until
from ec2_decommission.errors import AccessError, ConfigurationError, OutOfTime, TransientError
from ec2_decommission.live import StaleAnswer
from testbed.aws import StrictAws, throttled
from testbed.aws_route53 import normalized_name, sort_key
from tests.fakes.route53 import FakeZones, listed

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from ec2_decommission.clients.route53 import Change, Listing, RecordSet, Zones


class World(Protocol):
    """Hosted zones for a test to fill, and their client."""

    def client(self) -> Zones: ...

    def zone(self, name: str) -> str:
        """Creates a zone and returns its id."""

    def put(self, zone_id: str, name: str, kind: str, values: Sequence[str], ttl: int = 300, **more: Any) -> None: ...


class FakeWorld:
    def __init__(self) -> None:
        self._zones = FakeZones()
        self._made = 0

    def client(self) -> Zones:
        return self._zones

    def zone(self, name: str) -> str:
        self._made += 1
        self._zones.add_zone(f"Z{self._made}", name)
        return f"Z{self._made}"

    def put(self, zone_id: str, name: str, kind: str, values: Sequence[str], ttl: int = 300, **more: Any) -> None:
        self._zones.put(zone_id, name, kind, values, ttl, **more)


class AwsWorld:
    def __init__(self, aws: StrictAws) -> None:
        self._client = aws.client("route53")
        self._made = 0

    def client(self) -> Zones:
        return boto_zones(self._client)

    def zone(self, name: str) -> str:
        self._made += 1
        made = self._client.create_hosted_zone(Name=name, CallerReference=str(self._made))
        return str(made["HostedZone"]["Id"]).removeprefix("/hostedzone/")

    def put(self, zone_id: str, name: str, kind: str, values: Sequence[str], ttl: int = 300, **more: Any) -> None:
        raw: dict[str, Any] = {"Name": name, "Type": kind, **more}
        if "AliasTarget" not in more:
            raw |= {"TTL": ttl, "ResourceRecords": [{"Value": value} for value in values]}
        self._client.change_resource_record_sets(
            HostedZoneId=zone_id, ChangeBatch={"Changes": [{"Action": "UPSERT", "ResourceRecordSet": raw}]}
        )


def boto_zones(client: Any) -> BotoZones:
    governor = Governor(1000)
    return BotoZones(lambda _: client, lambda _: governor)


@pytest.fixture(autouse=True)
def enough_time() -> Iterator[None]:
    with until(Deadline.after(300)):
        yield


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
    return AwsWorld(strict)


def listing(world: World, zone_id: str, *names: str) -> Listing:
    return list_names(world.client(), zone_id, names)


def one(world: World, zone_id: str, name: str) -> RecordSet:
    (record,) = listing(world, zone_id, name).found[name]
    return record


def change(world: World, zone_id: str, *changes: Change) -> None:
    world.client().change(zone_id, changes, lambda: None)


def nothing() -> None:
    """A guard that always passes."""


def a(name: str, *values: str, ttl: int = 300, **more: Any) -> dict[str, Any]:
    return {"Name": name, "Type": "A", "TTL": ttl, "ResourceRecords": [{"Value": v} for v in values], **more}


def test_zone_name_is_read(world: World) -> None:
    zone_id = world.zone("Example.Internal")
    assert world.client().zone(zone_id) == Zone(zone_id, "example.internal.")


def test_missing_zone_is_a_configuration_error(world: World) -> None:
    world.zone("example.internal")
    calls: list[Callable[[], object]] = [
        lambda: world.client().zone("ZNONE"),
        lambda: world.client().page("ZNONE", "a.example.internal."),
        lambda: change(world, "ZNONE", ("DELETE", a("a.example.internal.", "10.0.0.5"))),
    ]
    for call in calls:
        with pytest.raises(ConfigurationError, match=r"hosted zone ZNONE \(route53:\w+\): the hosted zone does not"):
            call()


def test_record_sets_are_listed_unchanged(world: World) -> None:
    zone_id = world.zone("example.internal")
    world.put(zone_id, "Web-1.Example.internal", "A", ["10.0.0.5", "10.0.0.6"], ttl=60)
    world.put(zone_id, "web-1.example.internal", "TXT", ['"hello"'])
    world.put(zone_id, "*.example.internal", "A", ["10.0.0.7"])
    world.put(zone_id, "web-10.example.internal", "A", ["10.0.0.8"])
    names = ["web-1.example.internal.", "*.example.internal.", "nobody.example.internal.", "example.internal."]
    found = listing(world, zone_id, *names).found
    assert {name: [r.type for r in records] for name, records in found.items()} == {
        "web-1.example.internal.": ["A", "TXT"],
        "*.example.internal.": ["A"],
        "example.internal.": ["NS", "SOA"],
    }
    web = found["web-1.example.internal."][0]
    assert (web.zone_id, web.values, web.set_identifier) == (zone_id, ("10.0.0.5", "10.0.0.6"), None)
    assert (web.alias, web.traffic_policy) == (False, False)
    assert web.raw == a("web-1.example.internal.", "10.0.0.5", "10.0.0.6", ttl=60)
    assert found["*.example.internal."][0].raw["Name"] == "\\052.example.internal."
    assert found["*.example.internal."][0].name == "*.example.internal."


def test_lists_weighted_sets_and_aliases(world: World) -> None:
    zone_id = world.zone("example.internal")
    world.put(zone_id, "w.example.internal.", "A", ["10.0.0.5"], SetIdentifier="one", Weight=10)
    world.put(zone_id, "w.example.internal.", "A", ["10.0.0.6"], SetIdentifier="two", Weight=0)
    target = {"HostedZoneId": zone_id, "DNSName": "w.example.internal.", "EvaluateTargetHealth": False}
    world.put(zone_id, "z.example.internal.", "A", [], AliasTarget=target)
    found = listing(world, zone_id, "w.example.internal.", "z.example.internal.").found
    assert [(r.set_identifier, r.values, r.raw["Weight"]) for r in found["w.example.internal."]] == [
        ("one", ("10.0.0.5",), 10),
        ("two", ("10.0.0.6",), 0),
    ]
    (alias,) = found["z.example.internal."]
    assert (alias.alias, alias.values) == (True, ())


def test_listed_record_set_can_be_deleted(world: World) -> None:
    zone_id = world.zone("example.internal")
    world.put(zone_id, "*.example.internal", "A", ["10.0.0.7", "10.0.0.5"], ttl=77)
    world.put(zone_id, "w.example.internal.", "A", ["10.0.0.6"], SetIdentifier="two", Weight=3)
    for name in ("*.example.internal.", "w.example.internal."):
        change(world, zone_id, ("DELETE", one(world, zone_id, name).raw))
        assert name not in listing(world, zone_id, name).found


WRONG = [
    (a("web-1.example.internal.", "10.0.0.6"), "but the values provided do not match the current values"),
    (a("web-1.example.internal.", "10.0.0.5", "10.0.0.6"), "but the values provided do not match the current values"),
    (a("web-1.example.internal.", "10.0.0.5", ttl=60), "but the values provided do not match the current values"),
    (a("web-2.example.internal.", "10.0.0.5"), "but it was not found"),
    ({**a("web-1.example.internal.", "10.0.0.5"), "Type": "AAAA"}, "but it was not found"),
    (a("web-1.example.internal.", "10.0.0.5", SetIdentifier="x", Weight=1), "but it was not found"),
]


@pytest.mark.parametrize(("raw", "message"), WRONG)
def test_a_delete_must_match_exactly(world: World, raw: dict[str, Any], message: str) -> None:
    zone_id = world.zone("example.internal")
    world.put(zone_id, "web-1.example.internal", "A", ["10.0.0.5"])
    with pytest.raises(ChangeRefusedError) as refusal:
        change(world, zone_id, ("DELETE", raw))
    identifier = ", set identifier='x'" if "SetIdentifier" in raw else ""
    assert str(refusal.value) == (
        f"[Tried to delete resource record set [name='{raw['Name']}', type='{raw['Type']}'{identifier}] {message}]"
    )
    assert one(world, zone_id, "web-1.example.internal.").values == ("10.0.0.5",)


def test_order_of_values_does_not_matter(world: World) -> None:
    zone_id = world.zone("example.internal")
    world.put(zone_id, "web-1.example.internal", "A", ["10.0.0.5", "10.0.0.6"])
    change(world, zone_id, ("DELETE", a("web-1.example.internal.", "10.0.0.6", "10.0.0.5")))


def test_one_value_is_removed_by_delete_and_create_in_one_batch(world: World) -> None:
    zone_id = world.zone("example.internal")
    world.put(zone_id, "web.example.internal", "A", ["10.0.0.5", "10.0.0.6"], ttl=42)
    record = one(world, zone_id, "web.example.internal.")
    rest = record.without(["10.0.0.5"])
    assert rest is not None
    change(world, zone_id, ("DELETE", record.raw), ("CREATE", rest.raw))
    left = one(world, zone_id, "web.example.internal.")
    assert (left.values, left.raw["TTL"]) == (("10.0.0.6",), 42)


def test_batch_is_atomic_and_reports_all_errors(world: World) -> None:
    zone_id = world.zone("example.internal")
    world.put(zone_id, "a.example.internal", "A", ["10.0.0.5"])
    world.put(zone_id, "b.example.internal", "A", ["10.0.0.6"])
    changes = [
        ("DELETE", a("a.example.internal.", "10.0.0.5")),
        ("DELETE", a("b.example.internal.", "10.9.9.9")),
        ("DELETE", a("c.example.internal.", "10.0.0.7")),
    ]
    with pytest.raises(ChangeRefusedError, match=r"b\.example.*do not match.*c\.example.*not found"):
        change(world, zone_id, *changes)
    assert one(world, zone_id, "a.example.internal.").values == ("10.0.0.5",)


@pytest.mark.parametrize(
    "changes",
    [
        [("CREATE", a("web-1.example.internal.", "10.0.0.9"))],
        [("DELETE", a("web-1.example.internal.", "10.0.0.5"))] * 2,
        [("CREATE", a("web-2.example.internal.", "10.0.0.9")), ("DELETE", a("web-2.example.internal.", "10.0.0.9"))],
        [("CREATE", a("web-1.elsewhere.internal.", "10.0.0.9"))],
        [
            (
                "CREATE",
                {**a("web-1.example.internal.", "web-2.example.internal."), "Type": "CNAME"},
            )
        ],
    ],
    ids=["exists already", "created twice", "created and deleted", "another zone", "CNAME next to A"],
)
def test_invalid_changes_are_refused(world: World, changes: list[tuple[str, Any]]) -> None:
    zone_id = world.zone("example.internal")
    world.put(zone_id, "web-1.example.internal", "A", ["10.0.0.5"])
    with pytest.raises(ChangeRefusedError):
        change(world, zone_id, *changes)
    assert one(world, zone_id, "web-1.example.internal.").values == ("10.0.0.5",)


def test_apex_records_cannot_be_deleted(world: World) -> None:
    zone_id = world.zone("example.internal")
    for record in listing(world, zone_id, "example.internal.").found["example.internal."]:
        with pytest.raises(ChangeRefusedError, match="must contain at least one"):
            change(world, zone_id, ("DELETE", record.raw))


def test_at_most_a_thousand_records_in_a_batch(world: World) -> None:
    zone_id = world.zone("example.internal")
    changes = [("CREATE", a(f"h{n}.example.internal.", "10.0.0.5")) for n in range(1001)]
    with pytest.raises(ChangeRefusedError, match="Number of records limit of 1000 exceeded"):
        change(world, zone_id, *changes)
    change(world, zone_id, *changes[:1000])


def test_at_most_32_000_characters_in_a_batch(world: World) -> None:
    zone_id = world.zone("example.internal")
    text = {**a("t.example.internal.", *(f'"{n:03}{"x" * 245}"' for n in range(128))), "Type": "TXT"}
    assert sum(len(r["Value"]) for r in text["ResourceRecords"]) == 32_000
    change(world, zone_id, ("CREATE", text))
    more = a("h.example.internal.", "1.1.1.1")
    with pytest.raises(ChangeRefusedError, match="Number of characters limit of 32000 exceeded"):
        change(world, zone_id, ("DELETE", text), ("CREATE", more))


def test_nothing_is_sent_if_the_guard_raises(world: World) -> None:
    zone_id = world.zone("example.internal")
    world.put(zone_id, "web-1.example.internal", "A", ["10.0.0.5"])

    def stale() -> None:
        raise StaleAnswer("5.1 s old")

    with pytest.raises(StaleAnswer, match=r"^5\.1 s old$"):
        world.client().change(zone_id, [("DELETE", a("web-1.example.internal.", "10.0.0.5"))], stale)
    assert one(world, zone_id, "web-1.example.internal.").values == ("10.0.0.5",)


def test_no_request_starts_too_close_to_the_deadline(world: World) -> None:
    zone_id = world.zone("example.internal")
    client = world.client()
    with until(Deadline.after(7.9)):
        assert isinstance(
            list_names(client, zone_id, ["a.example.internal."]).missed["a.example.internal."], OutOfTime
        )
        for call in (lambda: client.zone(zone_id), lambda: client.wait(zone_id)):
            with pytest.raises(OutOfTime):
                call()


def test_zones_with_the_same_name_differ_by_id(world: World) -> None:
    public, private = world.zone("example.internal"), world.zone("example.internal")
    world.put(public, "web-1.example.internal", "A", ["54.0.0.5"])
    world.put(private, "web-1.example.internal", "A", ["10.0.0.5"])
    assert one(world, public, "web-1.example.internal.").values == ("54.0.0.5",)
    assert one(world, private, "web-1.example.internal.").values == ("10.0.0.5",)


# Only the real client


def test_aws_errors_map_to_error_types(aws: StrictAws) -> None:
    aws.reset()
    zone_id = AwsWorld(aws).zone("example.internal")
    zones = boto_zones(aws.client("route53"))
    calls: list[Callable[[], object]] = [
        lambda: zones.zone(zone_id),
        lambda: zones.page(zone_id, "a.example.internal."),
        lambda: zones.change(zone_id, [("DELETE", a("a.example.internal.", "10.0.0.5"))], nothing),
    ]
    for code in ("Throttling", "PriorRequestNotComplete", "ServiceUnavailable"):
        with aws.fault(lambda *_, code=code: throttled(code), everyone=True):
            for call in calls:
                with pytest.raises(TransientError, match=code):
                    call()
    with aws.fault(lambda *_: throttled("AccessDenied"), everyone=True):
        for call in calls:
            with pytest.raises(AccessError, match=rf"hosted zone {zone_id} \(route53:"):
                call()


def test_zone_name_is_cached(aws: StrictAws) -> None:
    aws.reset()
    zone_id = AwsWorld(aws).zone("example.internal")
    zones = boto_zones(aws.client("route53"))
    aws.reset_calls()
    assert zones.zone(zone_id) == zones.zone(zone_id)
    assert aws.calls["route53:GetHostedZone"] == 1


def aws_meta() -> SimpleNamespace:
    """boto3's client metadata with event hooks that do nothing."""
    return SimpleNamespace(events=SimpleNamespace(register=lambda *_, **__: None))


class PagedRoute53:
    """Lists record sets in Route 53's order, in small pages."""

    def __init__(self, names: Sequence[str], page: int) -> None:
        keys = sorted({(normalized_name(n), kind, "") for n in names for kind in ("A", "TXT")}, key=sort_key)
        self._keys = keys
        self._page = page
        self.calls = 0
        self.meta = aws_meta()

    def list_resource_record_sets(self, **request: Any) -> dict[str, Any]:
        self.calls += 1
        start = (normalized_name(request["StartRecordName"]), request.get("StartRecordType", ""), "")
        rest = [key for key in self._keys if sort_key(key) >= sort_key(start)]
        answer: dict[str, Any] = {
            "ResourceRecordSets": [
                {"Name": name, "Type": kind, "TTL": 1, "ResourceRecords": [{"Value": "x"}]}
                for name, kind, _ in rest[: self._page]
            ],
            "IsTruncated": len(rest) > self._page,
        }
        if len(rest) > self._page:
            answer |= {"NextRecordName": rest[self._page][0], "NextRecordType": rest[self._page][1]}
        return answer


labels = st.sampled_from(["a", "b", "ab", "a-b", "a-", "-a", "0", "1", "10", "*", "_x", "z", "a b", "e"])
names_in_zone = st.lists(labels, min_size=0, max_size=3).map(lambda parts: ".".join([*parts, "e.x."]))


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    there=st.lists(names_in_zone, max_size=25),
    asked=st.lists(names_in_zone, min_size=1, max_size=8),
    page=st.integers(1, 7),
)
@example(there=["a.e.x.", "a-b.e.x.", "b.a.e.x."], asked=["a.e.x.", "a-b.e.x.", "b.a.e.x."], page=2)
def test_listing_finds_all_records_for_any_page_size(there: list[str], asked: list[str], page: int) -> None:
    client = PagedRoute53(there, page)
    found = list_names(boto_zones(client), "Z", asked).found
    assert {name: [r.type for r in records] for name, records in found.items()} == {
        name: ["A", "TXT"] for name in asked if name in there
    }
    assert all(r.name == name for name, records in found.items() for r in records)


def test_large_fleet_is_read_by_pages_instead_of_names() -> None:
    names = [f"web-{number}.e.x." for number in range(600)]
    client = PagedRoute53(names, 300)
    found = list_names(boto_zones(client), "Z", names[:200]).found
    assert set(found) == set(names[:200])
    assert client.calls <= 6


@settings(deadline=None)
@given(st.text(alphabet="aB-*_.\\ 059é", max_size=12))
def test_names_are_compared_as_route_53_writes_them(text: str) -> None:
    name = canonical(text)
    assert name == name.lower()
    assert name.endswith(".")
    if "\\" not in text and "é" not in text:
        assert canonical(listed(text)) == name
