"""The inventory in process. tests/conformance/test_inventory.py compares it with the one in DynamoDB."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, TypeVar

from ec2_decommission.errors import DecommissionError
from ec2_decommission.instance import Facts
from ec2_decommission.inventory import RUNNING, TERMINATED, Record
from ec2_decommission.invocation import request_id
from tests.fakes.copies import plain_copy

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

    from ec2_decommission.instance import Instance
    from ec2_decommission.inventory import Result
    from ec2_decommission.place import Place

T = TypeVar("T")

PAGE = 1000  # about the number of items in DynamoDB's page of 1 MB


class FakeInventory:
    """The table.

    Attributes:
        items: the records, by instance id.
        expires: the expiry times of terminated instances' items.
        fault: called with the operation before each request. It may raise errors.
        fault_of: called with operation and instance id before each write. It may raise errors.
        calls: requests by operation.
    """

    def __init__(self, retention_days: int = 30, now: Callable[[], datetime] = lambda: datetime.now(UTC)) -> None:
        self.items: dict[str, Record] = {}
        self.expires: dict[str, datetime] = {}
        self.fault: Callable[[str], None] = lambda *_: None
        self.fault_of: Callable[[str, str], None] = lambda *_: None
        self.calls: Counter[str] = Counter()
        self._retention = timedelta(days=retention_days)
        self._now = now

    def expire(self) -> None:
        """Removes expired items, as DynamoDB does."""
        for instance_id in [i for i, at in self.expires.items() if at <= self._now()]:
            del self.items[instance_id], self.expires[instance_id]

    # The Inventory protocol

    def recall(self, instance_ids: Iterable[str]) -> Mapping[str, Record]:
        wanted = list(dict.fromkeys(instance_ids))
        if wanted:
            self._request("recall")
        return {i: plain_copy(self.items[i]) for i in wanted if i in self.items}

    def remember_running(
        self, instances: Iterable[Instance], excluded: Mapping[str, str], *, tags_known: bool = False
    ) -> Mapping[str, bool | DecommissionError]:
        def running(instance_id: str, instance: Instance) -> bool:
            known = self.items.get(instance_id)
            if known is not None and known.state not in ("", RUNNING):
                return False
            now = self._now().isoformat()
            record = known or Record(instance_id, RUNNING, Facts("inventory"))
            self.items[instance_id] = replace(
                record,
                state=RUNNING,
                facts=_facts(instance),
                recorded_at=now,
                excluded=excluded.get(instance_id),
                tags_known_at=now if tags_known else record.tags_known_at,
                request_id=request_id() or record.request_id,
            )
            self.expires.pop(instance_id, None)
            return True

        return self._each("remember_running", {i.instance_id: i for i in instances}, running)

    def remember_terminated(
        self, instances: Iterable[Instance], *, tags_known: bool
    ) -> Mapping[str, DecommissionError]:
        def terminated(instance_id: str, instance: Instance) -> bool:
            now = self._now().isoformat()
            record = self.items.get(instance_id) or Record(instance_id, TERMINATED, Facts("inventory"))
            self.items[instance_id] = replace(
                record,
                state=TERMINATED,
                facts=_facts(instance),
                recorded_at=record.recorded_at or now,
                terminated_at=record.terminated_at or now,
                tags_known_at=now if tags_known else record.tags_known_at,
                finished=False,
                excluded=None,
                request_id=request_id() or record.request_id,
            )
            self.expires.pop(instance_id, None)
            return True

        return _failures(self._each("remember_terminated", {i.instance_id: i for i in instances}, terminated))

    def remember_excluded(self, instances: Mapping[str, tuple[Instance, str]]) -> Mapping[str, DecommissionError]:
        def end(instance_id: str, item: tuple[Instance, str]) -> bool:
            instance, reason = item
            now = self._now()
            record = self.items.get(instance_id) or Record(instance_id, TERMINATED, Facts("inventory"))
            self.items[instance_id] = replace(
                record,
                state=TERMINATED,
                facts=_facts(instance),
                excluded=reason,
                finished=True,
                recorded_at=record.recorded_at or now.isoformat(),
                terminated_at=record.terminated_at or now.isoformat(),
                request_id=request_id() or record.request_id,
            )
            self.expires[instance_id] = now + self._retention
            return True

        return _failures(self._each("remember_excluded", instances, end))

    def remember_results(self, results: Mapping[str, Result]) -> Mapping[str, DecommissionError]:
        return _failures(self._each("remember_results", results, self._result))

    def _result(self, instance_id: str, result: Result) -> bool:
        place = result.place
        facts = Facts("inventory", account_id=place.account_id or None, region=place.region or None)
        record = self.items.get(instance_id) or Record(instance_id, TERMINATED, facts)
        self.items[instance_id] = replace(
            record,
            state=record.state or TERMINATED,
            steps=plain_copy({name: dict(step) for name, step in result.steps.items()}),
            removed=(*record.removed, *(dict(entry) for entry in result.removed)),
            finished=result.finished,
            next_try_at=None if result.finished else result.next_try_at or record.next_try_at,
            announced=result.announced or record.announced,
            request_id=request_id() or record.request_id,
            runs=(*record.runs, request_id()) if result.whole and request_id() else record.runs,
        )
        if result.finished:
            self.expires[instance_id] = self._now() + self._retention
        else:
            self.expires.pop(instance_id, None)
        return True

    def remember_announced(self, event_ids: Mapping[str, str]) -> Mapping[str, DecommissionError]:
        def announced(instance_id: str, event_id: str) -> bool:
            record = self.items.get(instance_id) or Record(instance_id, "", Facts("inventory"))
            if not record.state:
                self.expires[instance_id] = self._now() + self._retention
            self.items[instance_id] = replace(
                record, announced=event_id, request_id=request_id() or record.request_id
            )
            return True

        return _failures(self._each("remember_announced", event_ids, announced))

    def remember_restored(
        self, instance_id: str, place: Place, restored: Sequence[Mapping[str, str]] = ()
    ) -> DecommissionError | None:
        def mark(_: str, entries: Sequence[Mapping[str, str]]) -> bool:
            now = self._now().isoformat()
            facts = Facts("inventory", account_id=place.account_id, region=place.region)
            record = self.items.get(instance_id) or Record(instance_id, "", facts, now)
            if record.state == RUNNING:
                return False
            self.items[instance_id] = replace(
                record,
                state=TERMINATED,
                terminated_at=record.terminated_at or now,
                finished=True,
                next_try_at=None,
                restored=(*record.restored, *(dict(entry) for entry in entries)),
                restored_at=now,
                request_id=request_id() or record.request_id,
            )
            self.expires.pop(instance_id, None)
            return True

        return _failures(self._each("remember_restored", {instance_id: restored}, mark)).get(instance_id)

    def living(self, place: Place) -> Iterator[Record]:
        return self._indexed("living", place, lambda record: record.state == RUNNING)

    def unfinished(self, place: Place) -> Iterator[Record]:
        return self._indexed("unfinished", place, lambda r: r.state == TERMINATED and not r.finished)

    def _indexed(self, operation: str, place: Place, wanted: Callable[[Record], bool]) -> Iterator[Record]:
        found = [record for record in self.items.values() if record.place == place and wanted(record)]
        found.sort(key=lambda record: record.instance_id)
        for start in range(0, max(1, len(found)), PAGE):
            self._request(operation)
            yield from map(plain_copy, found[start : start + PAGE])

    def _each(
        self, operation: str, items: Mapping[str, T], write: Callable[[str, T], bool]
    ) -> dict[str, bool | DecommissionError]:
        """Writes each instance, with one request for all. A fault of the request fails all instances."""
        if items:
            try:
                self._request(operation)
            except DecommissionError as error:
                return dict.fromkeys(items, error)
        results: dict[str, bool | DecommissionError] = {}
        for instance_id, item in items.items():
            try:
                self.fault_of(operation, instance_id)
            except DecommissionError as error:
                results[instance_id] = error
            else:
                results[instance_id] = write(instance_id, item)
        return results

    def _request(self, operation: str) -> None:
        self.calls[operation] += 1
        self.fault(operation)


def _failures(results: Mapping[str, bool | DecommissionError]) -> dict[str, DecommissionError]:
    return {i: result for i, result in results.items() if isinstance(result, DecommissionError)}


def _facts(instance: Instance) -> Facts:
    return Facts(
        source="inventory",
        account_id=instance.account_id,
        region=instance.region,
        vpc_id=instance.vpc_id,
        launch_time=instance.launch_time,
        private_ips=instance.private_ips,
        public_ips=instance.public_ips,
        ipv6_addresses=instance.ipv6_addresses,
        private_dns_names=instance.private_dns_names,
        public_dns_names=instance.public_dns_names,
        tags=dict(instance.tags),
        past_tags=dict(instance.past_tags),
        ran=instance.ran,
        known_as={step: dict(kinds) for step, kinds in instance.known_as.items()},
    )
