"""What the inventory and EC2 know about the instances of an invocation."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING

from .errors import DecommissionError, about
from .instance import Instance
from .instance_filter import tags_known
from .inventory import TERMINATED

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from .clients.ec2 import Description, Ec2
    from .inventory import Inventory, Record
    from .place import Place
    from .together import Together

_PLACES_AT_ONCE = 16


@dataclass
class Known:
    """The answers. An error is stored, not raised: it fails only what needs the answer.

    Attributes:
        places: where each instance is, according to its request.
        elsewhere: the place in which an instance was found instead.
        searched: ids that were searched for in every place.
    """

    places: Mapping[str, Place]
    records: Mapping[str, Record] = field(default_factory=dict)
    descriptions: dict[str, Description] = field(default_factory=dict)
    elsewhere: dict[str, Place] = field(default_factory=dict)
    inventory_error: DecommissionError | None = None
    ec2_errors: dict[Place, DecommissionError] = field(default_factory=dict)
    searched: frozenset[str] = frozenset()

    def ec2_error(self, instance_id: str) -> DecommissionError | None:
        """Returns why EC2 could not be queried about the instance; None if it could."""
        if instance_id in self.searched and self.ec2_errors:
            return next(iter(self.ec2_errors.values()))
        return self.ec2_errors.get(self.places[instance_id])

    def errors(self, instance_id: str) -> tuple[DecommissionError, ...]:
        """Returns the errors of all queries about the instance."""
        return tuple(error for error in (self.inventory_error, self.ec2_error(instance_id)) if error)

    def tags_known(self, instance_id: str) -> bool:
        """Returns whether all tags that the instance had at its end are known."""
        return tags_known(self.records.get(instance_id), self.descriptions.get(instance_id))

    def instance(self, instance_id: str) -> Instance:
        """Returns everything known about an instance. EC2's answer has precedence over the inventory: it is newer.

        The addresses and names that EC2 shows for an ended instance count only if it was recorded while it ran: an
        instance that failed to launch never used them.
        """
        record, description = self.records.get(instance_id), self.descriptions.get(instance_id)
        place = self.places[instance_id]
        ended = description is None or not (description.lives or description.state == "shutting-down")
        state = TERMINATED if ended or description is None else description.state
        instance = Instance(instance_id, state, place.account_id, place.region)
        if description:
            ran = description.lives or bool(record and record.facts.ran)
            instance = instance.learn(description.facts if ran else description.facts.without_addresses())
        return instance.learn(record.facts) if record else instance


def recall(
    places: Mapping[str, Place],
    anywhere: Iterable[str],
    ec2: Mapping[Place, Ec2],
    inventory: Inventory | None,
    together: Together,
) -> Known:
    """Queries the inventory and EC2, once for all instances of each place.

    Args:
        places: the place of each instance, by id.
        anywhere: ids requested without a place. If the function's own place does not know them, all are queried.
        ec2: the EC2 client of each served place.
    """
    known = Known(places)

    def ask_inventory() -> None:
        if inventory is not None and places:
            try:
                known.records = inventory.recall(sorted(places))
            except DecommissionError as error:
                known.inventory_error = about("inventory", error)

    def ask_ec2(place: Place, instance_ids: Iterable[str]) -> None:
        try:
            found = ec2[place].describe(sorted(instance_ids))
        except DecommissionError as error:
            known.ec2_errors[place] = about("ec2", error)
            return
        for instance_id, description in found.items():
            if places[instance_id] == place:
                known.descriptions[instance_id] = description
            else:
                known.elsewhere[instance_id] = place

    by_place: dict[Place, set[str]] = {}
    for instance_id, place in places.items():
        by_place.setdefault(place, set()).add(instance_id)
    jobs: list[Callable[[], None]] = [ask_inventory]
    jobs += [partial(ask_ec2, place, ids) for place, ids in by_place.items()]
    together(jobs, _PLACES_AT_ONCE)
    for instance_id, record in known.records.items():
        if record.place.account_id and record.place != places[instance_id]:
            known.elsewhere[instance_id] = record.place
    unknown = frozenset(i for i in anywhere if i not in known.descriptions and i not in known.records)
    if unknown:
        known.searched = unknown
        others = [place for place in ec2 if place not in by_place]
        together([partial(ask_ec2, place, unknown) for place in others], _PLACES_AT_ONCE)
    return known
