"""The step ``route53``: A, AAAA and CNAME records by name, and the PTR records of the instance's addresses.

A value goes when it is an address or DNS name recorded for this instance and no living interface has that address
now: none in its VPC, and no living instance of another VPC that has the record's name as well. Where nothing was
recorded, a record goes when its name comes from the instance's own tags or id, and neither the name nor the address
is a living instance's. Deletes are compare-and-swap: the exact set is sent back.

What external-dns owns stays: it marks a name by a TXT record of the same name, in newer versions by one whose name
has the record's type before it (https://kubernetes-sigs.github.io/external-dns/latest/docs/registry/txt/).

What another batch has just read of a zone is used again, where all of this batch had ended by then. The living are
asked for anew each time, and a change that does not fit the zone as it is now is refused, so nothing of theirs goes.

For many instances the zones are read ahead while the other steps look, for that takes longest. What there is no time
to look at is handed back instance by instance, and a zone that cannot be read fails those whose names lie in it.
"""

from __future__ import annotations

import ipaddress
import re
from collections import defaultdict
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar

from ..clients.route53 import PAGE, ChangeRefusedError, RecordSet, Zone, Zones, canonical, is_record_name
from ..errors import ConfigurationError, DecommissionError, PermanentError, about
from .base import Batch, Finding, Left, Outcome, Removal, owner_in

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
    from datetime import datetime

    from ..config import Route53Settings
    from ..deadline import Deadline
    from ..identity import Facts, Instance
    from ..templates import Template

# https://docs.aws.amazon.com/Route53/latest/DeveloperGuide/DNSLimitations.html
MAX_CHANGES = 1000
MAX_CHARACTERS = 32_000
_FORWARD = ("A", "AAAA", "CNAME")
_SHORT_WALK = 40  # requests
_MANY = 20  # instances: for fewer it takes few requests, and nothing is gained by reading ahead
_ROUNDS = 3  # how often a record set that changes under our hands is read and decided again

# EC2's own names by address: ip-10-0-0-5.ec2.internal, ec2-3-4-5-6.compute-1.amazonaws.com
_ADDRESS_NAME = re.compile(r"(?:ip|ec2)-(\d+)-(\d+)-(\d+)-(\d+)\.")


@dataclass
class _Wanted:
    """The names to look at for one instance."""

    instance: Instance
    names: dict[str, Template] = field(default_factory=dict)
    pointers: dict[str, str] = field(default_factory=dict)  # PTR name to address
    removals: list[Removal] = field(default_factory=list)
    left: list[Left] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    errors: list[DecommissionError] = field(default_factory=list)

    def finding(self) -> Finding:
        return Finding(tuple(self.removals), tuple(self.left), tuple(self.notes), tuple(dict.fromkeys(self.errors)))


class _Listed:
    """The record sets by name, and the names that could not be looked at; ``lost`` where Route 53 did not answer."""

    def __init__(self) -> None:
        self.lost: DecommissionError | None = None
        self.found: dict[str, list[RecordSet]] = defaultdict(list)
        self.missed: dict[str, DecommissionError] = {}
        self.asked: set[tuple[str, str]] = set()  # zone id and name


@dataclass(frozen=True)
class _Value:
    """The handle of a removal: one value of one record set."""

    record: RecordSet
    value: str


class Route53Step:
    """The step for one batch."""

    name: ClassVar[str] = "route53"

    def __init__(self, settings: Route53Settings, zones: Zones) -> None:
        self._settings = settings
        self._zones = zones

    def look(self, batch: Batch) -> Mapping[str, Facts]:  # noqa: ARG002
        """Nothing: Route 53 knows no instances, and its names follow from what the others know."""
        return {}

    def read_ahead(self, batch: Batch) -> Callable[[], None] | None:
        since = batch.ended_at
        if since is None or len(batch.instances) < _MANY:
            return None
        instances, until = list(batch.instances.values()), batch.deadline.share(2)

        def read() -> None:
            names = {name for instance in instances for name in self._wanted(instance).names}
            pointers = {_pointer(address) for instance in instances for address in instance.addresses}
            zones = self._readable_zones(())
            for some, with_owners in ((names, True), (pointers, False)):
                for zone in zones:
                    if here := _names_in(zone, some, with_owners=with_owners):
                        self._zones.read_ahead(zone.zone_id, here, until, since)

        return read

    def find(self, batch: Batch) -> Mapping[str, Finding]:
        wanted = {instance.instance_id: self._wanted(instance) for instance in batch.instances.values()}
        zones = self._readable_zones(wanted.values())
        # Half of the time, and half of the rest: what is found must be removed as well.
        until = batch.deadline.share(2)
        names = {name for w in wanted.values() for name in w.names}
        forward = self._list(zones, names, until, batch.ended_at, with_owners=True)
        if forward.lost and not forward.found:
            raise forward.lost
        _ask_living(batch, wanted.values(), forward.found)
        for one in wanted.values():
            _note_homeless(one, zones)
            for name, template in one.names.items():
                if name in forward.missed:
                    one.errors.append(forward.missed[name])
                for record in forward.found.get(name, ()):
                    if record.type in _FORWARD:
                        self._decide(batch, one, record, template, forward.found[name], zones)
        until = batch.deadline.share(2)
        self._leave_what_is_owned(wanted.values(), zones, forward, until, batch.ended_at)
        # The addresses that were recorded, and those that a record just proved to be the instance's.
        for one in wanted.values():
            proven = [r.handle.value for r in one.removals if r.handle.record.type in ("A", "AAAA")]
            for address in dict.fromkeys([*one.instance.addresses, *proven]):
                one.pointers[_pointer(address)] = address
        reverse = self._list(zones, {name for w in wanted.values() for name in w.pointers}, until, batch.ended_at)
        pointed = {address for w in wanted.values() for name, address in w.pointers.items() if name in reverse.found}
        if pointed:
            batch.living.interfaces(pointed)  # once for all of them; the answers are kept
        for one in wanted.values():
            for name, address in one.pointers.items():
                if name in reverse.missed:
                    one.errors.append(reverse.missed[name])
                for record in reverse.found.get(name, ()):
                    if record.type == "PTR":
                        self._decide_pointer(batch, one, record, address, reverse.found[name], zones)
        _leave_what_goes_with_another(wanted.values())
        return {i: w.finding() for i, w in wanted.items()}

    def _readable_zones(self, wanted: Iterable[_Wanted]) -> list[Zone]:
        """One that cannot be read is every instance's error: nobody can tell which names lie in it."""
        zones = []
        for zone_id in self._settings.zone_ids:
            try:
                zones.append(self._zones.zone(zone_id))
            except ConfigurationError as error:
                for one in wanted:
                    one.errors.append(error)
        return zones

    def _wanted(self, instance: Instance) -> _Wanted:
        one = _Wanted(instance)
        for template in self._settings.record_names:
            name = template.render(instance)
            if name is not None and is_record_name(canonical(name)):
                one.names.setdefault(canonical(name), template)
                continue
            if name is not None:
                one.notes.append(f"record name {template.text}: {name[:100]!r} is no DNS name, so no record has it")
                continue
            unknown = ", ".join(template.missing(instance))
            reason = f"{unknown} is not known for {instance.instance_id}"
            one.notes.append(f"record name {template.text}: {reason}")
        if not one.names and not instance.addresses:
            # Nothing could be looked for at all: not the same as having looked.
            one.left = [Left("its DNS records", note) for note in one.notes]
            one.notes = []
        return one

    def _list(
        self,
        zones: Sequence[Zone],
        names: set[str],
        until: Deadline,
        since: datetime | None,
        *,
        with_owners: bool = False,
    ) -> _Listed:
        """Reads the zones at these names, and with owners also where external-dns would tell that it owns them."""
        listed = _Listed()
        for number, zone in enumerate(zones):
            here = _names_in(zone, names, with_owners=with_owners)
            listed.asked.update((zone.zone_id, name) for name in here)
            if here and listed.lost is None:
                try:
                    part = until.share(len(zones) - number)
                    listing = self._zones.records(zone.zone_id, sorted(here), part, since)
                except ConfigurationError as error:  # this zone's alone
                    listed.missed |= dict.fromkeys(here, error)
                except DecommissionError as error:
                    listed.lost = error
                else:
                    for name, records in listing.found.items():
                        listed.found[name].extend(records)
                    listed.missed |= listing.missed
            if listed.lost is not None:
                listed.missed |= dict.fromkeys(here, listed.lost)
        return listed

    def _leave_what_is_owned(
        self,
        wanted: Iterable[_Wanted],
        zones: Sequence[Zone],
        listed: _Listed,
        until: Deadline,
        since: datetime | None,
    ) -> None:
        """Takes away the removals of which external-dns tells that it owns them, or nobody could look whether."""
        records = [removal.handle.record for one in wanted for removal in one.removals]
        for zone in zones:
            owners = {_owner_name(record.type, record.name) for record in records if record.zone_id == zone.zone_id}
            unread = {name for name in owners if name and (zone.zone_id, name) not in listed.asked}
            more = self._list([zone], unread, until, since)
            listed.found.update(more.found)
            listed.missed.update(more.missed)
        for one in wanted:
            stays = []
            for removal in one.removals:
                record = removal.handle.record
                owner = _owner_name(record.type, record.name) or ""
                if owner in listed.missed:
                    one.errors.append(about(f"{removal.target} may be external-dns's", listed.missed[owner]))
                elif _is_owned(record, listed.found.get(owner, ())):
                    one.left.append(Left(removal.target, f"external-dns owns the name (TXT {owner})"))
                else:
                    stays.append(removal)
            one.removals = stays

    def _decide(
        self,
        batch: Batch,
        one: _Wanted,
        record: RecordSet,
        template: Template,
        siblings: Iterable[RecordSet],
        zones: Sequence[Zone],
    ) -> None:
        instance = one.instance
        reason = _not_ours_at_all(record, siblings, zones)
        if reason:
            one.left.append(Left(_target(record), reason))
            return
        recorded = _recorded(instance, record.type)
        mine = [value for value in record.values if _comparable(record.type, value) in recorded]
        if mine:
            for value in mine:
                owner = _owner(batch, instance, record.type, value)
                if owner is None:
                    owner = self._twin(batch, instance, record.name, _address_of(record.type, value))
                if owner:
                    one.left.append(Left(_target(record, value), f"{value} is {owner}'s now"))
                else:
                    proof = f"{value} is recorded for {instance.instance_id} and no living interface has it"
                    one.removals.append(_removal(record, value, proof))
            return
        if instance.addresses or instance.dns_names:
            told = "; ".join(filter(None, (_whose(batch, instance, record, value) for value in record.values)))
            reason = f"not an address or DNS name recorded for {instance.instance_id}"
            one.left.append(Left(_target(record), f"{reason} ({told})" if told else reason))
            return
        self._decide_by_name(batch, one, record, template)

    def _decide_by_name(self, batch: Batch, one: _Wanted, record: RecordSet, template: Template) -> None:
        """Nothing is recorded of the instance but its tags."""
        instance = one.instance
        own = any(p == "instance_id" or p.startswith("tag:") for p in template.placeholders)
        if not own or len(record.values) != 1:
            why = "the set has several values" if own else "the name does not come from its tags or id"
            one.left.append(Left(_target(record), f"no address is recorded for {instance.instance_id}, and {why}"))
            return
        value = record.values[0]
        living = self._living_namesake(batch, record.name)
        if living:
            one.left.append(Left(_target(record), f"the name is {living}'s, which lives"))
            return
        address = _address_of(record.type, value)
        owner = _owner(batch, instance, record.type, value)
        if address is None or owner:
            why = f"{value} is {owner}'s" if owner else f"it cannot be told whose {value} is"
            one.left.append(Left(_target(record), why))
            return
        proof = f"the name is {instance.instance_id}'s by its tags or id; no living instance has name or address"
        one.removals.append(_removal(record, value, proof))

    def _living_namesake(self, batch: Batch, name: str) -> str | None:
        """A living instance that one of the templates, whichever, gives this name."""
        for template in self._settings.record_names:
            for ids in batch.living.bearers(template, [name.rstrip("."), name]).values():
                return ids[0]
        return None

    def _twin(self, batch: Batch, instance: Instance, name: str, address: str | None) -> str | None:
        """A living instance of another VPC that has both the address and the name.

        Two VPCs may use the same range; where they share a zone as well, the record is as much the living one's.
        """
        if address is None:
            return None
        found = batch.living.interfaces([address]).get(address, ())
        holders = {i.instance_id for i in found if i.instance_id not in (None, instance.instance_id)}
        if holders:
            for template in self._settings.record_names:
                for ids in batch.living.bearers(template, [name.rstrip("."), name]).values():
                    if mine := holders.intersection(ids):
                        return f"{min(map(str, mine))} (in another VPC)"
        return None

    def _decide_pointer(
        self,
        batch: Batch,
        one: _Wanted,
        record: RecordSet,
        address: str,
        siblings: Iterable[RecordSet],
        zones: Sequence[Zone],
    ) -> None:
        """A PTR at the instance's address goes where it points to one of the instance's names."""
        instance = one.instance
        reason = _not_ours_at_all(record, siblings, zones)
        owner = _owner(batch, instance, "PTR", address)
        if reason or owner:
            one.left.append(Left(_target(record), reason or f"{address} is {owner}'s now"))
            return
        names = {*one.names, *(canonical(name) for name in instance.dns_names)}
        for value in record.values:
            twin = self._twin(batch, instance, canonical(value), address)
            if canonical(value) in names and twin:
                one.left.append(Left(_target(record, value), f"{address} is {twin}'s now"))
            elif canonical(value) in names:
                proof = f"{address} was {instance.instance_id}'s, no living interface has it, and {value} is its name"
                one.removals.append(_removal(record, value, proof))
            else:
                one.left.append(Left(_target(record, value), f"{value} is not a name of {instance.instance_id}"))

    def remove(self, batch: Batch, findings: Mapping[str, Finding]) -> Mapping[str, Outcome]:
        tally = _Tally(findings)
        for zone_id, records in _by_zone(findings).items():
            for some in _batches(records):
                self._change(batch, zone_id, some, tally, _ROUNDS)
        return tally.outcomes()

    def _change(self, batch: Batch, zone_id: str, records: _Records, tally: _Tally, rounds: int) -> None:
        """Makes one change batch; where it is refused, ever smaller ones, and reads again what is refused alone."""
        changes = [change for record, owners in records.items() for change in _changes(record, owners)]
        try:
            self._zones.change(zone_id, changes)
        except ChangeRefusedError as refusal:
            if len(records) > 1:
                for part in _parts(records, str(refusal)):
                    self._change(batch, zone_id, part, tally, rounds)
                return
            ((record, owners),) = records.items()
            if rounds > 1:
                self._again(batch, record, owners, tally, rounds - 1)
            else:
                for instance_id, removal in owners:
                    refused = PermanentError(f"{removal.target}: Route 53 refuses the change: {refusal}")
                    tally.failed(instance_id, refused)
        except DecommissionError as error:
            for owners in records.values():
                for instance_id, removal in owners:
                    tally.failed(instance_id, about(removal.target, error))
        else:
            for owners in records.values():
                for instance_id, removal in owners:
                    tally.removed(instance_id, removal)

    def _again(self, batch: Batch, record: RecordSet, owners: _Owners, tally: _Tally, rounds: int) -> None:
        """The record set is not as it was found: finds again for its instances, and keeps to this record set."""
        instances = {i: batch.instances[i] for i, _ in owners}
        try:
            findings = self.find(Batch(instances, batch.living, batch.deadline))
        except DecommissionError as error:
            for instance_id, removal in owners:
                tally.failed(instance_id, about(removal.target, error))
            return
        here: dict[str, Finding] = {}
        for instance_id, finding in findings.items():
            here[instance_id] = Finding(tuple(r for r in finding.removals if r.handle.record.key == record.key))
            if finding.errors and not here[instance_id].removals:  # it could not be looked at again
                for removal in (removal for i, removal in owners if i == instance_id):
                    tally.failed(instance_id, about(removal.target, finding.errors[0]))
            for left in finding.left:
                if left.target.startswith(f"{record.type} {record.name}"):
                    tally.left(instance_id, left)
        for zone_id, records in _by_zone(here).items():
            self._change(batch, zone_id, records, tally, rounds)


_Owners = list[tuple[str, Removal]]
_Records = dict[RecordSet, _Owners]


class _Tally:
    """What became of each instance's removals, gathered over zones and batches, told in the order of the finding."""

    def __init__(self, findings: Mapping[str, Finding]) -> None:
        self._order = {i: {removal: n for n, removal in enumerate(f.removals)} for i, f in findings.items()}
        self._removed: dict[str, list[Removal]] = {i: [] for i in findings}
        self._left: dict[str, list[Left]] = {i: [] for i in self._removed}
        self._errors: dict[str, list[DecommissionError]] = {i: [] for i in self._removed}

    def removed(self, instance_id: str, removal: Removal) -> None:
        self._removed[instance_id].append(removal)

    def left(self, instance_id: str, left: Left) -> None:
        self._left[instance_id].append(left)

    def failed(self, instance_id: str, error: DecommissionError) -> None:
        self._errors[instance_id].append(error)

    def outcomes(self) -> dict[str, Outcome]:
        for instance_id, order in self._order.items():
            self._removed[instance_id].sort(key=lambda removal: order.get(removal, len(order)))
        return {
            i: Outcome(tuple(self._removed[i]), tuple(self._left[i]), tuple(self._errors[i])) for i in self._removed
        }


def _parts(records: _Records, refusal: str) -> list[_Records]:
    """The two parts of a refused batch: what the refusal names, and the rest; else its halves.

    So one record that is at fault costs a few calls, and not one for each of a thousand.
    """
    named = {record for record in records if f"'{record.raw.get('Name')}'" in refusal}
    if not named or len(named) == len(records):
        named = set(list(records)[: len(records) // 2])
    return [
        {record: owners for record, owners in records.items() if (record in named) == part} for part in (False, True)
    ]


def _by_zone(findings: Mapping[str, Finding]) -> dict[str, _Records]:
    """All removals by zone and record set: two instances may each have a value in one set."""
    zones: dict[str, _Records] = defaultdict(lambda: defaultdict(list))
    for instance_id, finding in findings.items():
        for removal in finding.removals:
            record = removal.handle.record
            zones[record.zone_id][record].append((instance_id, removal))
    return zones


def _changes(record: RecordSet, owners: _Owners) -> list[tuple[str, Mapping[str, Any]]]:
    rest = record.without(removal.handle.value for _, removal in owners)
    changes: list[tuple[str, Mapping[str, Any]]] = [("DELETE", record.raw)]
    if rest["ResourceRecords"]:
        changes.append(("CREATE", rest))
    return changes


def _batches(records: _Records) -> Iterator[_Records]:
    """Pieces that fit into one change batch each; a set's DELETE and CREATE stay together."""
    piece: _Records = {}
    count = characters = 0
    for record, owners in records.items():
        changes = _changes(record, owners)
        size = sum(len(r["Value"]) for _, raw in changes for r in raw["ResourceRecords"])
        number = sum(len(raw["ResourceRecords"]) for _, raw in changes)
        if piece and (count + number > MAX_CHANGES or characters + size > MAX_CHARACTERS):
            yield piece
            piece, count, characters = {}, 0, 0
        piece[record] = owners
        count += number
        characters += size
    if piece:
        yield piece


def _ask_living(batch: Batch, wanted: Iterable[_Wanted], found: Mapping[str, Sequence[RecordSet]]) -> None:
    """Asks EC2 once for every address that a decision may turn on; the answers are kept by ``living``."""
    addresses: set[str] = set()
    for one in wanted:
        for name in one.names:
            for record in found.get(name, ()):
                if not record.alias and record.type in ("A", "AAAA", "CNAME"):
                    addresses.update(filter(None, (_address_of(record.type, value) for value in record.values)))
                    addresses.update(one.instance.addresses)
    if addresses:
        batch.living.interfaces(addresses)


def _note_homeless(one: _Wanted, zones: Sequence[Zone]) -> None:
    for name in one.names:
        if not any(zone.holds(name) for zone in zones):
            one.notes.append(f"record name {name} lies in none of the zones {', '.join(z.name for z in zones)}")


def _not_ours_at_all(record: RecordSet, siblings: Iterable[RecordSet], zones: Sequence[Zone]) -> str | None:
    """Why nobody's proof could make this record an instance's; None where it may be."""
    if record.alias:
        return "an alias record points at an AWS resource, not at an instance"
    if record.traffic_policy:
        return "a traffic policy made it"
    if any(zone.zone_id == record.zone_id and zone.name == record.name for zone in zones):
        return "it is the zone's own name (the apex)"
    if _is_owned(record, siblings):
        return "external-dns owns the name (TXT heritage=external-dns)"
    return None


def _is_owned(record: RecordSet, others: Iterable[RecordSet]) -> bool:
    """Whether one of the others, in the same zone, says that external-dns owns the record."""
    return any(
        other.type == "TXT"
        and other.zone_id == record.zone_id
        and any("heritage=external-dns" in value for value in other.values)
        for other in others
    )


def _owner_name(record_type: str, name: str) -> str | None:
    """Where newer versions of external-dns tell that they own the record of that type and name."""
    owner = f"{record_type.lower()}-{name}"
    return owner if is_record_name(owner) else None


def _names_in(zone: Zone, names: Iterable[str], *, with_owners: bool) -> set[str]:
    """The names that lie in the zone; with owners also those at which external-dns would tell that it owns them.

    With owners only where that is cheaper than to ask for them later, of those records that there are.
    """
    here = {name for name in names if zone.holds(name)}
    if here and with_owners and _cheaper_together(zone, len(here)):
        here |= {owner for name in here for kind in _FORWARD if (owner := _owner_name(kind, name))}
    return here


def _pointer(address: str) -> str:
    """The name of an address's PTR record."""
    return ipaddress.ip_address(address).reverse_pointer + "."


def _cheaper_together(zone: Zone, names: int) -> bool:
    """Whether to read the names of external-dns in the same walk; if that is long, the names themselves go first."""
    together = _requests(zone, names * (1 + len(_FORWARD)))
    return together < min(_SHORT_WALK, 2 * _requests(zone, names))


def _requests(zone: Zone, names: int) -> float:
    """About how many requests it takes to read a zone at so many names that are spread over it.

    Each shows a page, and the next begins at the next name after it.
    """
    return max(1.0, min(names, zone.record_sets / (PAGE + zone.record_sets / names)))


def _leave_what_goes_with_another(wanted: Iterable[_Wanted]) -> None:
    """A value goes once, also where two instances of the batch bore the same name and address."""
    claims: dict[tuple[tuple[str, str, str, str | None], str], str] = {}
    for one in wanted:
        stays = []
        for removal in one.removals:
            first = claims.setdefault((removal.handle.record.key, removal.handle.value), one.instance.instance_id)
            if first == one.instance.instance_id:
                stays.append(removal)
            else:
                one.left.append(Left(removal.target, f"goes with {first}, which bore the same name and address"))
        one.removals = stays


def _recorded(instance: Instance, record_type: str) -> set[str]:
    """The values of that type that were recorded for the instance, comparable."""
    if record_type == "CNAME":
        return {canonical(name) for name in instance.dns_names}
    return set(instance.addresses)


def _comparable(record_type: str, value: str) -> str:
    if record_type == "CNAME":
        return canonical(value)
    try:
        return str(ipaddress.ip_address(value))
    except ValueError:
        return value


def _address_of(record_type: str, value: str) -> str | None:
    """The address behind a value: itself, or the one that EC2 wrote into its DNS name."""
    if record_type == "CNAME":
        match = _ADDRESS_NAME.match(value.lower())
        value = ".".join(match.groups()) if match else ""
    try:
        return str(ipaddress.ip_address(value))
    except ValueError:
        return None


def _owner(batch: Batch, instance: Instance, record_type: str, value: str) -> str | None:
    """Who living has the address behind a value now; None where nobody has.

    A private address is the VPC's own; a public one is the same everywhere.
    """
    address = _address_of(record_type, value)
    if address is None:
        return None
    interfaces = batch.living.interfaces([address]).get(address, ())
    vpc_id = None if address in instance.public_ips else instance.vpc_id
    interface = owner_in(interfaces, vpc_id, instance.instance_id)
    return interface.owner if interface else None


def _whose(batch: Batch, instance: Instance, record: RecordSet, value: str) -> str:
    owner = _owner(batch, instance, record.type, value)
    return f"{value} is {owner}'s" if owner else ""


def _target(record: RecordSet, value: str | None = None) -> str:
    values = value if value is not None else ",".join(record.values)
    words = [record.type, record.name, values]
    if record.set_identifier:
        words.append(f"[{record.set_identifier}]")
    return " ".join(word for word in words if word)


def _removal(record: RecordSet, value: str, proof: str) -> Removal:
    return Removal("delete", _target(record, value), proof, _Value(record, value))
