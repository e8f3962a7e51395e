"""Which pages of a zone are used again, and which are not."""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ec2_decommission.clients.route53 import ChangeRefusedError, Zone, list_names
from ec2_decommission.clients.zone_cache import CachedZones, KeptPage
from ec2_decommission.deadline import Deadline, until
from tests.fakes.route53 import FakeZones

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

NOW = 1_767_225_600.0
ENDED_AT = NOW - 60
ZONE = "Z"


@pytest.fixture(autouse=True)
def enough_time() -> Iterator[None]:
    with until(Deadline.after(300)):
        yield


class Scene:
    """A zone behind the cache, and a clock."""

    def __init__(self, names: Sequence[str] = ("a.x.", "b.x.", "c.x."), page_size: int = 300) -> None:
        self.now = NOW
        self.zones = FakeZones()
        self.zones.page_size = page_size
        self.zones.add_zone(ZONE, "x.")
        self.zones.add_zone("Y", "x.")
        for name in names:
            self.zones.put(ZONE, name, "A", ["10.0.0.5"])
        self.kept: list[KeptPage] = []

    def cached(self, ended_at: float | None = ENDED_AT) -> CachedZones:
        return CachedZones(self.zones, self.kept, ended_at, lambda: self.now)

    def requests(self, *names: str, ended_at: float | None = ENDED_AT) -> int:
        """Reads the names, which must be found as they are now, and returns the number of requests."""
        before = self.zones.calls["ListResourceRecordSets"]
        assert list_names(self.cached(ended_at), ZONE, names) == list_names(FakeCopy(self.zones), ZONE, names)
        return self.zones.calls["ListResourceRecordSets"] - before


class FakeCopy(FakeZones):
    """The same content; its requests are not counted."""

    def __init__(self, zones: FakeZones) -> None:
        super().__init__()
        self._zones, self._content = zones._zones, zones._content


def test_page_read_after_all_terminations_is_reused_for_another_batch() -> None:
    scene = Scene()
    assert scene.requests("a.x.") == 1
    scene.now += 240
    assert scene.requests("a.x.", "b.x.", "c.x.") == 0


@pytest.mark.parametrize(("ended_at", "requests"), [(NOW - 5, 0), (NOW - 4, 1), (NOW, 1), (NOW + 60, 1), (None, 1)])
def test_page_older_than_a_termination_is_not_reused(ended_at: float | None, requests: int) -> None:
    """The instance may have written a record in between. Event times are whole seconds, and clocks differ."""
    scene = Scene()
    scene.requests("a.x.")
    assert scene.requests("b.x.", ended_at=ended_at) == requests


def test_pages_are_kept_for_five_minutes() -> None:
    scene = Scene()
    scene.requests("a.x.")
    scene.now += 299
    assert scene.requests("a.x.") == 0
    scene.now += 1
    assert scene.requests("a.x.") == 1
    assert len(scene.kept) == 1


def test_a_page_of_one_zone_says_nothing_about_another() -> None:
    scene = Scene()
    scene.requests("a.x.")
    assert list_names(scene.cached(), "Y", ["a.x."]).found == {}


@pytest.mark.parametrize("refused", [False, True])
def test_names_that_the_function_changed_are_read_again(refused: bool) -> None:
    scene = Scene()
    raw = {
        "Name": "B.x",
        "Type": "A",
        "TTL": 300,
        "ResourceRecords": [{"Value": "10.0.0.9" if refused else "10.0.0.5"}],
    }
    scene.requests("a.x.", "b.x.", "c.x.")
    with suppress(ChangeRefusedError):
        scene.cached().change(ZONE, [("DELETE", raw)], lambda: None)
    assert scene.requests("a.x.", "c.x.") == 0
    assert scene.requests("b.x.") == 1
    assert scene.requests("a.x.", "b.x.", "c.x.") == 0  # it was read since


def test_forgotten_names_are_read_again() -> None:
    scene = Scene()
    scene.requests("a.x.", "b.x.")
    scene.cached().forget("Y", ["b.x."])
    assert scene.requests("b.x.") == 0
    scene.zones.put(ZONE, "b.x.", "A", ["10.0.0.6"])
    scene.cached().forget(ZONE, ["b.x."])
    assert scene.requests("a.x.", "b.x.") == 1


def test_cache_size_is_limited(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ec2_decommission.clients.zone_cache._MOST_RECORD_SETS", 8)
    names = [f"web-{number:02}.x." for number in range(16)]
    scene = Scene(names, page_size=4)
    scene.requests(*names)
    assert sum(kept.record_sets for kept in scene.kept) <= 8
    assert scene.requests(*names[-3:]) == 0
    assert scene.requests(*names[:2]) > 0


def test_the_rest_of_the_interface_goes_through() -> None:
    scene = Scene()
    assert scene.cached().zone(ZONE) == Zone(ZONE, "x.")
    scene.cached().wait(ZONE)
    assert scene.zones.calls["wait"] == 1

    def stale() -> None:
        raise ValueError

    with pytest.raises(ValueError):  # noqa: PT011
        scene.cached().change(ZONE, [("DELETE", {"Name": "a.x."})], stale)


labels = st.sampled_from(["a", "b", "ab", "a-b", "a-", "-a", "0", "1", "10", "*", "_x", "z", "a b", "e"])
names_in_zone = st.lists(labels, min_size=0, max_size=3).map(lambda parts: ".".join([*parts, "x."]))


@given(
    there=st.lists(names_in_zone, max_size=25),
    batches=st.lists(st.lists(names_in_zone, min_size=1, max_size=6), min_size=2, max_size=4),
    page_size=st.integers(1, 7),
)
def test_batches_in_a_row_find_what_each_would_find_alone(
    there: list[str], batches: list[list[str]], page_size: int
) -> None:
    scene = Scene(there, page_size)
    with until(Deadline.after(300)):
        for asked in batches:
            scene.requests(*asked)
