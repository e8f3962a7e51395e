"""Restores what was removed for an instance and does not exist now, from the audit. Overwrites nothing.

What counts as removed: the audit is written before a removal, so it also holds objects that were kept in the end, and
a run may have ended between removing an object and recording it. An audited object counts as removed if

1. the inventory's history says so; or
2. the run that audited it never recorded what it removed (the run was killed, or the inventory is off or the record
   has expired). Then the outcome is unknown. If the object still exists, nothing happens. If it is gone, that run
   most likely removed it, and an extra object is easier to notice and fix than a lost one. The report names this
   case.

If a run did record its removals, the record is trusted: objects that it audited but does not list were kept. They
stay as they are now, even if someone has removed them since.

The audit is trusted no further than a removal would be: only record sets of the four types that the function may
change, in the configured zones; only lock keys under the configured prefixes; only clients without special rights.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from .clients.route53 import ChangeRefusedError, RecordSet, list_names
from .errors import DecommissionError, PermanentError, about
from .inventory import HISTORY
from .invocation import request_id
from .report import StepReport
from .steps.base import Findings, Left, Outcome, Removal

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence
    from datetime import datetime

    from .audit import Kept, S3Audit
    from .clients.chef import ChefServer
    from .clients.consul import ConsulCatalog
    from .clients.route53 import Zones
    from .config import ConsulSettings
    from .events import RestoreRequest
    from .inventory import Inventory, Record
    from .steps.base import Finding

    # Selects what to restore. The handle of each "removal" restores it, and returns the reason if it did not.
    System = Callable[[Sequence["Gone"]], Finding]

_TYPES = ("A", "AAAA", "CNAME", "PTR")  # the only types that the role may change
_THERE = "an object of this name exists now and is not overwritten"


@dataclass(frozen=True)
class Gone:
    """An object that was removed. ``proof`` says how that is known."""

    kept: Kept
    proof: str

    @property
    def object(self) -> Mapping[str, Any]:
        return self.kept.object or {}

    def creation(self, create: Callable[[], str | None], target: str | None = None) -> Removal:
        """Returns the action that restores the object."""
        return Removal("create", target or self.kept.target, self.proof, self.kept.kind, handle=create)


class Restorer:
    """Restores instances.

    Args:
        inventory: None if it is off.
        systems: by the name of the step that removes from them. A step without an entry cannot restore.
        steps: the names of the enabled steps, in the order of the report.
    """

    def __init__(
        self,
        audit: S3Audit,
        inventory: Inventory | None,
        systems: Mapping[str, System],
        steps: Sequence[str],
        now: Callable[[], datetime],
    ) -> None:
        self._audit = audit
        self._inventory = inventory
        self._systems = systems
        self._steps = steps
        self._now = now

    def __call__(
        self, request: RestoreRequest, *, dry_run: bool
    ) -> tuple[list[StepReport], DecommissionError | None]:
        """Returns the report of each step, and the error that occurred outside the steps, if any.

        Raises:
            DecommissionError: the audit or the inventory could not be read, or the instance could not be marked as
                restored. Nothing was restored.
        """
        instance_id, place = request.instance_id, request.place
        kept = self._audit.read(instance_id)
        elsewhere = next((one.place for one in kept if one.place != place), None)
        if elsewhere:
            reason = f"the audit of {instance_id} is for {elsewhere}, not for {place}: nothing was restored"
            return [StepReport.skipped(step, reason) for step in self._steps], None
        record = self._inventory.recall([instance_id]).get(instance_id) if self._inventory else None
        findings = {step: self._find(step, which_are_gone(kept, step, record)) for step in self._names(kept)}
        if dry_run or not any(finding.removals for finding in findings.values()):
            return [StepReport.of(step, finding, None) for step, finding in findings.items()], None
        # Mark first, so that no sweep takes up what is restored.
        if self._inventory and (error := self._inventory.remember_restored(instance_id, place)):
            raise about("nothing was restored, because the instance could not be marked as restored", error)
        reports = [StepReport.of(step, finding, _put_back(finding)) for step, finding in findings.items()]
        return reports, self._remember(request, record, reports)

    def _names(self, kept: Sequence[Kept]) -> Iterable[str]:
        return dict.fromkeys([*self._steps, *(one.step for one in kept)])

    def _find(self, step: str, found: tuple[list[Gone], list[str]]) -> Finding:
        gone, notes = found
        findings = Findings(notes=notes)
        system = self._systems.get(step)
        if not gone and not notes:
            findings.notes.append("the audit holds nothing that this step removed for the instance")
        elif system is None:
            for one in gone:
                findings.stays(one.kept.target, f"the step {step} cannot restore what it removed")
        elif gone:
            try:
                finding = system(gone)
            except DecommissionError as error:
                findings.errors.append(error)
            else:
                findings.removals += finding.removals
                findings.left += finding.left
                findings.notes += finding.notes
                findings.errors += finding.errors
        return findings.finding()

    def _remember(
        self, request: RestoreRequest, record: Record | None, reports: Iterable[StepReport]
    ) -> DecommissionError | None:
        at = self._now().isoformat()
        entries = [
            {"at": at, "step": report.step, "request_id": request_id(), **action}
            for report in reports
            for action in report.actions
        ]
        room = max(0, HISTORY - len(record.restored if record else ()))
        if self._inventory is None or not entries:
            return None
        error = self._inventory.remember_restored(request.instance_id, request.place, entries[:room])
        return about("the restored objects could not be recorded", error) if error else None


def _put_back(finding: Finding) -> Outcome:
    created: list[Removal] = []
    left: list[Left] = []
    errors: list[DecommissionError] = []
    for creation in finding.removals:
        try:
            if reason := creation.handle():
                left.append(Left(creation.target, reason))
            else:
                created.append(creation)
        except DecommissionError as error:
            errors.append(about(creation.target, error))
    return Outcome(tuple(created), tuple(left), tuple(errors))


def which_are_gone(kept: Sequence[Kept], step: str, record: Record | None) -> tuple[list[Gone], list[str]]:
    """Returns what a step removed for an instance, and notes on what it audited and kept. See the rule above."""
    by_thing: dict[tuple[str, str], list[Kept]] = {}
    for one in kept:
        if one.step == step:
            by_thing.setdefault((one.action, one.target), []).append(one)
    gone: list[Gone] = []
    notes: list[str] = []
    for (action, target), versions in by_thing.items():
        entry = next((e for e in reversed(record.removed if record else ()) if _is_of(e, step, action, target)), None)
        newest = versions[-1]
        if entry:
            same_run = [one for one in versions if one.request_id == entry.get("request_id")]
            at = str(entry.get("at"))[:19]  # the inventory writes UTC, with microseconds
            proof = f"removed at {at}Z by request {entry.get('request_id')}"
            gone.append(Gone((same_run or [newest])[-1], proof))
        elif record and newest.request_id in record.runs:
            notes.append(f"{target} was audited at {newest.at}, but was not removed then")
        else:
            proof = f"audited at {newest.at} by request {newest.request_id}, which did not record what it removed"
            gone.append(Gone(newest, proof))
    return gone, notes


def _is_of(entry: Mapping[str, str], step: str, action: str, target: str) -> bool:
    return (entry.get("step"), entry.get("action"), entry.get("target")) == (step, action, target)


# Route 53


def record_sets(zones: Zones, zone_ids: Iterable[str], gone: Sequence[Gone]) -> Finding:
    """Finds the record sets to create. Several values of one record set are restored together.

    A record set that lost some of its values and has not changed otherwise gets them back.
    """
    findings, allowed = Findings(), set(zone_ids)
    by_set: dict[tuple[object, ...], list[tuple[Gone, RecordSet]]] = {}
    for one in gone:
        try:
            record = RecordSet.listed(str(one.object["zone_id"]), one.object["record_set"])
        except (LookupError, TypeError, AttributeError):
            findings.errors.append(_unreadable(one))
            continue
        if record.zone_id in allowed and record.type in _TYPES and not record.alias:
            by_set.setdefault(record.key, []).append((one, record))
        else:
            findings.stays(one.kept.target, f"this deployment does not change such records in zone {record.zone_id}")
    for parts in by_set.values():
        _record_set(zones, parts, findings)
    return findings.finding()


def _record_set(zones: Zones, parts: Sequence[tuple[Gone, RecordSet]], findings: Findings) -> None:
    newest, record = max(parts, key=lambda part: part[0].kept.at)
    zones.forget(record.zone_id, [record.name])
    listing = list_names(zones, record.zone_id, [record.name])
    if error := listing.missed.get(record.name):
        findings.errors.append(about(newest.kept.target, error))
        return
    here = listing.found.get(record.name, ())
    there = next((other for other in here if other.key == record.key), None)
    lost = {value for one, version in parts for value in _values_of(one, version)}
    lost -= set(there.values) if there else set()
    if not lost:
        return
    in_the_way = [other for other in here if _excludes(other, record)]
    if there and not _is_rest_of(there, record):
        in_the_way.append(there)
    if in_the_way:
        now = "; ".join(f"{r.type} {', '.join(r.values) or 'alias'}" for r in in_the_way)
        findings.stays(newest.kept.target, f"{record.name} is now {now}, which is not overwritten")
        return
    whole = lost | (set(there.values) if there else set())
    values = [entry for entry in record.raw["ResourceRecords"] if entry["Value"] in whole]
    changes: list[tuple[str, Mapping[str, Any]]] = [("DELETE", there.raw)] if there else []
    changes.append(("CREATE", {**record.raw, "ResourceRecords": values}))
    one_target = newest.kept.target if len(parts) == 1 else None
    target = one_target or f"{record.type} {record.name} {','.join(sorted(lost))}"
    findings.removals.append(newest.creation(lambda: _change(zones, record.zone_id, changes), target))


def _change(zones: Zones, zone_id: str, changes: Sequence[tuple[str, Mapping[str, Any]]]) -> str | None:
    zones.wait(zone_id)
    try:
        zones.change(zone_id, changes, lambda: None)
    except ChangeRefusedError as refused:
        return f"Route 53 refused it: {refused}"
    return None


def _values_of(one: Gone, record: RecordSet) -> list[str]:
    """Returns the values that were removed. They follow the type and name in the target."""
    named = one.kept.target.split(" ")[2:]
    return [value for value in record.values if value in named]


def _excludes(other: RecordSet, record: RecordSet) -> bool:
    """Whether the two cannot coexist in Route 53: a CNAME, and a simple record set, exclude others of their name."""
    if other.key == record.key:
        return False
    if other.type == record.type:
        return (other.set_identifier is None) != (record.set_identifier is None)
    return "CNAME" in (other.type, record.type)


def _is_rest_of(there: RecordSet, record: RecordSet) -> bool:
    """Whether a record set is the audited one without some of its values."""
    same = {**there.raw, "ResourceRecords": None} == {**record.raw, "ResourceRecords": None}
    return same and bool(there.values) and set(there.values) <= set(record.values)


# Chef


def chef_objects(server: ChefServer, gone: Sequence[Gone]) -> Finding:
    """Finds the clients and nodes to create. A client keeps its public key, so its private key works again."""
    findings = Findings()
    clients = {str(one.object.get("name")): one for one in gone if one.kept.kind == "chef_client"}
    nodes = {str(one.object.get("name")): one for one in gone if one.kept.kind == "chef_node"}
    clients_now, nodes_now = server.clients(clients), server.node_documents(nodes)
    for name, one in clients.items():
        now, key = clients_now.get(name), one.object.get("public_key")
        if isinstance(now, DecommissionError):
            findings.errors.append(about(one.kept.target, now))
        elif now is not None:
            if now.public_key != key:
                findings.stays(one.kept.target, "a client of this name exists now, with another key")
        elif one.object.get("validator") or one.object.get("admin"):
            findings.stays(one.kept.target, "it was a validator or an admin. Create it by hand")
        elif not isinstance(key, str) or not key:
            findings.errors.append(_unreadable(one))
        else:
            findings.removals.append(one.creation(_created(server.create_client, name, key)))
    for name, one in nodes.items():
        node = nodes_now.get(name)
        if isinstance(node, DecommissionError):
            findings.errors.append(about(one.kept.target, node))
        elif node is None:
            findings.removals.append(one.creation(_created(server.create_node, one.object)))
        elif node != one.object:
            findings.stays(one.kept.target, _THERE)
    return findings.finding()


# Consul


def consul_objects(catalog: ConsulCatalog, settings: ConsulSettings, gone: Sequence[Gone]) -> Finding:
    """Finds the nodes to register, with services and checks, and the keys to write. Sessions cannot be restored."""
    findings = Findings()
    for one in gone:
        datacenter = str(one.object.get("datacenter") or "")
        if settings.datacenters and datacenter not in settings.datacenters:
            findings.stays(one.kept.target, f"datacenter {datacenter} is not in consul.datacenters")
        elif one.kept.kind == "consul_node":
            _consul_node(catalog, datacenter, one, findings)
        elif one.kept.kind == "consul_lock" and one.kept.action == "delete":
            _consul_key(catalog, settings, datacenter, one, findings)
        elif one.kept.kind == "consul_lock":
            findings.stays(
                one.kept.target, "it was released. Its key and value still exist; the hold cannot be restored"
            )
        else:
            findings.stays(one.kept.target, "a session cannot be restored; its application creates a new one")
    return findings.finding()


def _consul_node(catalog: ConsulCatalog, datacenter: str, one: Gone, findings: Findings) -> None:
    document = one.object.get("node")
    row = document.get("Node") if isinstance(document, dict) else None
    name = row.get("Node") if isinstance(row, dict) else None
    if not isinstance(document, dict) or not isinstance(row, dict) or not isinstance(name, str):
        findings.errors.append(_unreadable(one))
        return
    for node in catalog.read(datacenter, [name], []).nodes.values():
        if (node.node_id, node.address, dict(node.meta)) != (
            row.get("ID"),
            row.get("Address"),
            row.get("Meta") or {},
        ):
            findings.stays(one.kept.target, _THERE)
        return
    findings.removals.append(one.creation(_created(catalog.register_node_if_absent, datacenter, document)))


def _consul_key(
    catalog: ConsulCatalog, settings: ConsulSettings, datacenter: str, one: Gone, findings: Findings
) -> None:
    from .clients.consul import Key  # noqa: PLC0415  # not in a package without the step

    row = one.object.get("key")
    name = row.get("Key") if isinstance(row, dict) else None
    if not isinstance(row, dict) or not isinstance(name, str):
        findings.errors.append(_unreadable(one))
        return
    if not any(name.startswith(prefix) for prefix in settings.lock_prefixes):
        findings.stays(one.kept.target, "its key is not under any of consul.lock_prefixes")
        return
    key = Key(name, 0, row.get("Value"), int(row.get("Flags") or 0))
    now = next((k for k in catalog.read(datacenter, [], [name]).keys if k.name == name), None)
    if now is None:
        findings.removals.append(one.creation(_created(catalog.put_key_if_absent, datacenter, key)))
    elif (now.value, now.flags) != (key.value, key.flags):
        findings.stays(one.kept.target, _THERE)


def _created(create: Callable[..., bool], *arguments: Any) -> Callable[[], str | None]:
    """Wraps ``create`` to return why it created nothing; None if it did."""
    return lambda: None if create(*arguments) else _THERE


def _unreadable(one: Gone) -> PermanentError:
    return PermanentError(f"{one.kept.target}: its audit object does not have everything needed to create it")
