"""Decides what the step deletes, and on what proof. Pure: takes a snapshot and an answer about live instances.

A value of a record set is removed if the record set may be touched at all (``untouchable``) and one of these proofs
holds:

- ``by_name_with_id``: the record's name contains the instance id.
- ``by_target_with_id``: the value is EC2's own name for this instance id.
- ``by_recorded_value``: the value is an address, or EC2's DNS name for one, that was recorded for the instance, and
  nobody else has the address now.
- ``by_own_name``: a CNAME points to another record name of the instance, and nothing remains at that name.
- ``by_pointer``: a PTR record at a recorded address points to a name of the instance, and that name contains its id
  or nobody else has the address now.

These are the rules of "What counts as proof" in docs/proof.md.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, TypeAlias

from ...clients.route53 import Key, canonical
from ...errors import DecommissionError
from ...live import Question
from ..base import Finding, Findings, Removal
from .names import (
    FORWARD,
    HANDLED,
    address_of,
    concerns_classless,
    ec2_name_of_id,
    is_kept,
    is_mark,
    mark_names,
    name_questions,
    own_names,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Set

    from ...clients.route53 import RecordSet
    from ...config import Route53Settings
    from ...instance import Instance
    from ...live import Living
    from ...templates import Template
    from .names import OwnNames
    from .observe import Snapshot, ZoneRecords

Only: TypeAlias = "Mapping[Key, Set[str]] | None"  # limits a second plan to these values, by record set


@dataclass(frozen=True)
class Handle:
    """What ``apply`` needs to remove one value of one record set.

    Attributes:
        target: the record name that the proof of a CNAME relies on, if any.
        needs: the record sets at ``target``, which must be removed with the CNAME or before it.
    """

    record: RecordSet
    value: str
    target: str | None = None
    needs: frozenset[Key] = frozenset()


@dataclass(frozen=True)
class Goes:
    """The value is provably the instance's. ``target`` and ``needs`` as in ``Handle``."""

    proof: str
    target: str | None = None
    needs: frozenset[Key] = frozenset()


@dataclass(frozen=True)
class Stays:
    """The value concerns the instance, but is kept."""

    reason: str


@dataclass(frozen=True)
class Unknown:
    """It cannot be decided now whether the value may be removed."""

    error: DecommissionError


Verdict: TypeAlias = Goes | Stays | Unknown


@dataclass(frozen=True)
class Candidate:
    """One value of a record set at a name of an instance."""

    own: OwnNames
    record: RecordSet
    value: str

    @property
    def name(self) -> str:
        """The value as a canonical DNS name."""
        return canonical(self.value)


@dataclass
class Draft:
    """A plan in progress.

    Attributes:
        claims: the values to remove, by record set, each with its instance id.
    """

    only: Only
    findings: Mapping[str, Findings]
    claims: dict[Key, dict[str, str]] = field(default_factory=dict)

    def enter(self, candidate: Candidate, verdict: Verdict | None) -> None:
        """Adds a verdict. A value is removed once, with the first instance that it is proven to belong to."""
        record, value, instance_id = candidate.record, candidate.value, candidate.own.instance.instance_id
        found, target = self.findings[instance_id], _target(record, value)
        match verdict:
            case Stays(reason):
                found.stays(target, reason)
            case Unknown(error):
                found.errors.append(error)
            case Goes(proof, own_name, needs) if self.only is None or value in self.only[record.key]:
                first = self.claims.setdefault(record.key, {}).setdefault(value, instance_id)
                if first != instance_id:
                    found.stays(target, f"is removed with {first}, which had the same name and address")
                    return
                if any(removal.target == target for removal in found.removals):
                    target = f"{target} in zone {record.zone_id}"  # two zones of the same name hold the same record
                whole = {"zone_id": record.zone_id, "record_set": record.raw}
                handle = Handle(record, value, own_name, needs)
                found.removals.append(Removal("delete", target, proof, "record_set", whole, handle))

    def takes_all_of(self, record: RecordSet) -> bool:
        """Returns whether all values of a record set are removed. An alias has no values, and is kept."""
        return bool(record.values) and self.claims.get(record.key, {}).keys() >= set(record.values)


def question(
    settings: Route53Settings, instances: Mapping[str, Instance], snapshot: Snapshot, only: Only = None
) -> Question:
    """Returns everything that ``plan`` needs to know about live instances."""
    addresses: set[str] = set()
    names: set[tuple[Template, str]] = set()
    for instance in instances.values():
        own = own_names(settings.record_names, instance)
        for zone, record in _record_sets(own, snapshot, only):
            if untouchable(settings, zone, record) or by_name_with_id(own, record.name):
                continue
            if record.type == "PTR":
                addresses.add(own.pointers[record.name])
                continue
            addresses.update(filter(None, map(address_of, record.values)))
            for target in map(canonical, record.values):
                if target in own.forward and not by_name_with_id(own, target):  # of a CNAME
                    names.update(name_questions(settings.record_names, target))
    return Question(frozenset(addresses), frozenset(names))


def plan(
    settings: Route53Settings,
    instances: Mapping[str, Instance],
    snapshot: Snapshot,
    living: Living,
    only: Only = None,
) -> Mapping[str, Finding]:
    """Decides what to remove and what to keep, for each instance.

    Args:
        living: the answer to ``question`` with the same arguments.
        only: limits a second plan to what the first one chose.
    """
    draft = Draft(only, {instance_id: Findings() for instance_id in instances})
    waiting: list[Candidate] = []
    for instance_id, instance in instances.items():
        own, found = own_names(settings.record_names, instance), draft.findings[instance_id]
        if only is None:
            _report_what_was_not_read(own, snapshot, found)
        found.errors.extend(zone.missed[name] for zone, name in _places(own, snapshot, only) if name in zone.missed)
        for zone, record in _record_sets(own, snapshot, only):
            if reason := untouchable(settings, zone, record):
                found.stays(_target(record), reason)
            elif error := _unread_mark(settings, zone, record):
                found.errors.append(error)
            else:
                candidates = [Candidate(own, record, value) for value in record.values]
                verdicts = [(c, judge(settings, c, living)) for c in candidates]
                to_own_names = [c for c, verdict in verdicts if verdict is None and c.name in own.forward]
                for candidate, verdict in verdicts:
                    draft.enter(candidate, verdict)
                if not to_own_names and all(verdict is None for _, verdict in verdicts):
                    found.stays(_target(record), _not_its_own(settings, own, record, living))
                waiting += to_own_names
    _judge_own_names(settings, waiting, snapshot, living, draft)
    for found in draft.findings.values():
        _note_what_stays_behind(found, snapshot, draft)
    return {instance_id: found.finding() for instance_id, found in draft.findings.items()}


# What is never touched


def untouchable(settings: Route53Settings, zone: ZoneRecords, record: RecordSet) -> str | None:
    """Returns why no proof applies to this record set; None if one may."""
    if record.alias:
        return "an alias record points to an AWS resource, not to an instance"
    if record.traffic_policy:
        return "a traffic policy created it"
    if record.name == zone.zone.name:
        return "it is the zone's own name (the apex)"
    for name in (record.name, *(record.values if record.type == "PTR" else ())):
        if is_kept(settings.keep_names, name):
            return f"keep_names matches {canonical(name)}"
    for mark in _marks(settings, zone, record):
        if any(r.type == "TXT" and any(map(is_mark, r.values)) for r in zone.found.get(mark, ())):
            return f"external-dns owns the name (TXT {mark})"
    return None


def _unread_mark(settings: Route53Settings, zone: ZoneRecords, record: RecordSet) -> DecommissionError | None:
    """Returns why it is not known whether external-dns owns the name; None if it is known."""
    return next((zone.missed[mark] for mark in _marks(settings, zone, record) if mark in zone.missed), None)


def _marks(settings: Route53Settings, zone: ZoneRecords, record: RecordSet) -> tuple[str, ...]:
    if record.type == "PTR":
        return (record.name,)
    return mark_names(settings.external_dns, zone.zone, record.name)


# The proofs


def judge(settings: Route53Settings, candidate: Candidate, living: Living) -> Verdict | None:
    """Returns the first proof that applies to one value; None if nothing connects the value to the instance."""
    own, record, value = candidate.own, candidate.record, candidate.value
    if record.type == "PTR":
        return by_pointer(settings, candidate, living)
    if record.type == "CNAME":
        recorded = candidate.name in map(canonical, own.instance.dns_names)
    else:
        recorded = address_of(value) in own.instance.addresses
    return (
        by_name_with_id(own, record.name)
        or by_target_with_id(own.instance, value)
        or (by_recorded_value(own.instance, value, _has_name(settings, record.name), living) if recorded else None)
    )


def by_name_with_id(own: OwnNames, name: str) -> Goes | None:
    """Rule 1: the name comes from a template that contains {instance_id}."""
    template = own.forward.get(name)
    if template is None or not template.by_id:
        return None
    return Goes(f"the name {name} contains the id {own.instance.instance_id}")


def by_target_with_id(instance: Instance, value: str) -> Goes | Stays | None:
    """Rule 1: the value is EC2's own name for this instance id, and its region is the instance's."""
    named = ec2_name_of_id(canonical(value))
    if named is None or named[0] != instance.instance_id:
        return None
    if named[1] != instance.region:
        return Stays(f"{value} is an instance in {named[1]}, but {instance.instance_id} ran elsewhere")
    return Goes(f"{value} is EC2's own name for {instance.instance_id}")


def by_recorded_value(
    instance: Instance, value: str, has_name: Callable[[Instance], bool], living: Living
) -> Verdict:
    """Rule 2: the value was recorded for the instance, and nobody else has its address now."""
    address = address_of(value)
    if address is None:
        return Stays(f"{value} contains no address, so it cannot be checked who has it now")
    if owner := living.owner(instance, address, has_name):
        return Stays(f"{value} now belongs to {owner}")
    if living.error:
        return Unknown(living.error)
    return Goes(f"{value} was recorded for {instance.instance_id}, and nobody else has it now")


def by_pointer(settings: Route53Settings, candidate: Candidate, living: Living) -> Verdict | None:
    """A PTR record at a recorded address that points to one of the instance's names: rules 1 and 2."""
    own, name = candidate.own, candidate.name
    if proof := by_name_with_id(own, name) or by_target_with_id(own.instance, candidate.value):
        return proof
    if name not in own.forward and name not in map(canonical, own.instance.dns_names):
        return None
    address, has_record_name = own.pointers[candidate.record.name], _has_name(settings, name)
    verdict = by_recorded_value(
        own.instance,
        address,
        lambda other: has_record_name(other) or name in map(canonical, other.dns_names),
        living,
    )
    return Goes(f"{verdict.proof}; {candidate.value} is its name") if isinstance(verdict, Goes) else verdict


def by_own_name(
    settings: Route53Settings, candidate: Candidate, snapshot: Snapshot, living: Living, draft: Draft
) -> Verdict:
    """Rules 1 and 2 for a CNAME to another record name of the instance: it goes if nothing remains at that name."""
    own, target = candidate.own, candidate.name
    zones = [zone for zone in snapshot.zones if zone.zone.holds(target)]
    if not zones or any(zone.unusable for zone in zones):
        return Stays(f"its target {target} is not in a zone that this step handles")
    if error := next((zone.missed[target] for zone in zones if target in zone.missed), None):
        return Unknown(error)
    there = _at(snapshot, target)
    if not all(map(draft.takes_all_of, there)):
        return Stays(f"its target {target} stays")
    if is_kept(settings.keep_names, target):
        return Stays(f"keep_names matches its target {target}")
    if not there and snapshot.unreadable:  # it may be there
        return Unknown(next(iter(snapshot.unreadable.values())))
    proof = f"its target {target} is a record name of {own.instance.instance_id}"
    if not by_name_with_id(own, target):
        for template, name in name_questions(settings.record_names, target):
            if bearer := living.bearer(template, name):
                return Stays(f"its target {target} is the name of {bearer}")
        if living.error:
            return Unknown(living.error)
        proof += ", no living instance has that name"
    proof += ", and its records go as well" if there else ", and it does not exist"
    return Goes(proof, target, frozenset(record.key for record in there))


def _judge_own_names(
    settings: Route53Settings, waiting: list[Candidate], snapshot: Snapshot, living: Living, draft: Draft
) -> None:
    """Judges CNAMEs to own record names. Removing one may allow the removal of another that points to it."""
    while True:
        verdicts = [(c, by_own_name(settings, c, snapshot, living, draft)) for c in waiting]
        going = [(c, verdict) for c, verdict in verdicts if isinstance(verdict, Goes)]
        for candidate, verdict in going or verdicts:
            draft.enter(candidate, verdict)
        if not going:
            return
        waiting = [c for c, verdict in verdicts if not isinstance(verdict, Goes)]


# What was read


def _places(own: OwnNames, snapshot: Snapshot, only: Only) -> Iterator[tuple[ZoneRecords, str]]:
    """Yields the zones that hold each name of the instance, forward names first."""
    wanted = None if only is None else {key[:2] for key in only}
    for name in (*own.forward, *own.pointers):
        for zone in snapshot.zones:
            here = zone.zone.holds(name) and not zone.unusable
            if here and (wanted is None or (zone.zone.zone_id, name) in wanted):
                yield zone, name


def _record_sets(own: OwnNames, snapshot: Snapshot, only: Only) -> Iterator[tuple[ZoneRecords, RecordSet]]:
    """Yields A, AAAA and CNAME record sets at the instance's names, and PTR record sets at its recorded addresses."""
    for zone, name in _places(own, snapshot, only):
        types = (*(FORWARD if name in own.forward else ()), *(("PTR",) if name in own.pointers else ()))
        for record in zone.found.get(name, ()):
            if record.type in types and (only is None or record.key in only):
                yield zone, record


def _at(snapshot: Snapshot, name: str) -> list[RecordSet]:
    """Returns all A, AAAA and CNAME record sets at a name, including aliases."""
    return [r for zone in snapshot.zones for r in zone.found.get(name, ()) if r.type in FORWARD]


def _has_name(settings: Route53Settings, name: str) -> Callable[[Instance], bool]:
    """Returns a test whether this name is a record name of a live instance."""

    def has_name(instance: Instance) -> bool:
        names = (template.render(instance) for template in settings.record_names)
        return any(canonical(rendered) == name for rendered in names if rendered)

    return has_name


# What the report says besides removals


def _report_what_was_not_read(own: OwnNames, snapshot: Snapshot, found: Findings) -> None:
    notes = [*own.notes, *_outside(own, snapshot)]
    if own.forward or own.pointers:
        found.errors.extend(snapshot.unreadable.values())
    if found.errors or any(_places(own, snapshot, None)):
        found.notes.extend(notes)
    else:
        # Nothing could be read at all, which is not the same as finding nothing.
        for note in notes:
            found.stays("its DNS records", note)


def _outside(own: OwnNames, snapshot: Snapshot) -> Iterator[str]:
    """Yields notes on names that are in no zone that is read."""
    known = ", ".join(zone.zone.name for zone in snapshot.zones)
    for name in own.forward:
        holding = [zone for zone in snapshot.zones if zone.zone.holds(name)]
        if not holding and not snapshot.unreadable:
            yield f"record name {name} is in none of the zones {known}"
        yield from _unusable(zone for zone in holding)
    for name in own.pointers:
        yield from _unusable(
            zone for zone in snapshot.zones if zone.zone.holds(name) or concerns_classless(zone.zone.name, name)
        )


def _unusable(zones: Iterable[ZoneRecords]) -> Iterator[str]:
    for zone in zones:
        if zone.unusable:
            yield f"hosted zone {zone.zone.zone_id} ({zone.zone.name}) is not read: {zone.unusable}"


def _not_its_own(settings: Route53Settings, own: OwnNames, record: RecordSet, living: Living) -> str:
    instance = own.instance
    if record.type == "PTR":
        return f"it does not point to a name of {instance.instance_id}"
    if not instance.addresses and not instance.dns_names:
        return f"no address was recorded for {instance.instance_id}, so only records with its id may be removed"
    has_name = _has_name(settings, record.name)
    addresses = filter(None, map(address_of, record.values))
    owners = [f"{a} belongs to {owner}" for a in addresses if (owner := living.owner(instance, a, has_name))]
    reason = f"not an address or DNS name recorded for {instance.instance_id}"
    return f"{reason} ({'; '.join(owners)})" if owners else reason


def _note_what_stays_behind(found: Findings, snapshot: Snapshot, draft: Draft) -> None:
    """Notes health checks of removed record sets, and record sets of other types at otherwise empty names."""
    for record in dict.fromkeys(removal.handle.record for removal in found.removals):
        if draft.takes_all_of(record) and (health_check := record.raw.get("HealthCheckId")):
            found.notes.append(f"health check {health_check} of {record.type} {record.name} is not deleted")
        (zone,) = (zone for zone in snapshot.zones if zone.zone.zone_id == record.zone_id)
        siblings = zone.found[record.name]
        if all(draft.takes_all_of(r) for r in siblings if r.type in HANDLED):
            others = dict.fromkeys(r.type for r in siblings if r.type not in HANDLED)
            found.notes.extend(f"{kind} {record.name} is not deleted" for kind in others)


def _target(record: RecordSet, value: str | None = None) -> str:
    words = [record.type, record.name, ",".join(record.values) if value is None else value]
    if record.set_identifier:
        words.append(f"[{record.set_identifier}]")
    return " ".join(word for word in words if word)
