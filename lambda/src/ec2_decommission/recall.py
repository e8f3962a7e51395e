"""What inventory and EC2 know of the instances of an invocation, and which of them are handled at all."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from .clients.ec2 import FILTER_VALUES, Namesakes
from .errors import DecommissionError, about
from .identity import Facts, Instance
from .inventory import TERMINATED
from .together import in_turn

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Set
    from datetime import datetime

    from .clients.ec2 import Description, Ec2
    from .config import InstanceFilter
    from .events import Request
    from .inventory import Inventory, Record
    from .templates import Template
    from .together import Together


@dataclass(frozen=True)
class Wanted:
    """Names whose living bearers a step is going to ask for.

    Attributes:
        template: renders the names.
        instance_ids: of those that have ended.
        now: the time.
    """

    template: Template
    instance_ids: Set[str]
    now: datetime


def recall(
    instance_ids: set[str],
    ec2: Ec2,
    inventory: Inventory | None,
    instance_filter: InstanceFilter,
    together: Together,
    wanted: Wanted | None = None,
) -> Known:
    """Asks both, once for all instances. A failure is kept in the answer: what needs it fails, nothing else.

    Where the inventory tells the names of those that have ended, EC2 is asked by name, and so tells at once who else
    has them. It is asked by id for those that were not in that answer: their tags are gone, or are others by now.
    """
    known = Known(instance_filter)
    if not instance_ids:
        return known

    def ask_inventory() -> None:
        if inventory is not None:
            try:
                known.records = inventory.recall(sorted(instance_ids))
            except DecommissionError as error:
                known.inventory_error = about("inventory", error)

    def ask_ec2() -> None:
        try:
            known.namesakes = known.ask_namesakes(ec2, wanted) if by_name and wanted else None
            seen = known.namesakes.descriptions if known.namesakes else ()
            found = {d.instance_id: d for d in seen if d.instance_id in instance_ids}
            unseen = sorted(instance_ids - found.keys())
            known.descriptions = {**found, **(ec2.describe(unseen) if unseen else {})}
        except DecommissionError as error:
            known.ec2_error = about("ec2", error)

    # For many it takes several questions either way, and what these say of the living would be old when it is needed.
    by_name = wanted is not None and inventory is not None and 0 < len(wanted.instance_ids) <= FILTER_VALUES
    (in_turn if by_name else together)([ask_inventory, ask_ec2])
    return known


class Known:
    """What inventory and EC2 know of the instances of an invocation."""

    def __init__(self, instance_filter: InstanceFilter) -> None:
        self.records: Mapping[str, Record] = {}
        self.descriptions: Mapping[str, Description] = {}
        self.inventory_error: DecommissionError | None = None
        self.ec2_error: DecommissionError | None = None
        self.namesakes: Namesakes | None = None
        self._filter = instance_filter

    @property
    def errors(self) -> tuple[DecommissionError, ...]:
        return tuple(error for error in (self.inventory_error, self.ec2_error) if error)

    def ask_namesakes(self, ec2: Ec2, wanted: Wanted) -> Namesakes | None:
        """Asks EC2 by the names of those that the inventory knows; None where these do not serve for that."""
        recorded = (self.records[i].instance() for i in wanted.instance_ids & self.records.keys())
        names = {name for instance in recorded if (name := wanted.template.render(instance))}
        return Namesakes.ask(ec2, wanted.template, names, wanted.now) if names else None

    def instance(self, request: Request) -> Instance:
        """All that is known of a request's instance. EC2's word goes before the inventory's: it is newer."""
        description = self.descriptions.get(request.instance_id)
        lives = description is not None and (description.lives or description.state == "shutting-down")
        operator = request.kind == "operator"
        state = description.state if description and lives and operator else TERMINATED
        instance = Instance(request.instance_id, state=state)
        if description:
            instance = instance.learn(description.facts)
        if request.instance_id in self.records:
            instance = instance.learn(self.records[request.instance_id].facts)
        return instance.learn(Facts("event", account_id=request.account_id, region=request.region))

    def unwanted(self, instance: Instance) -> str | None:
        """Why ``instance_filter`` leaves this instance alone; None where it does not."""
        return unwanted(instance, self._filter)


def unwanted(instance: Instance, instance_filter: InstanceFilter) -> str | None:
    """Why the filter leaves this instance alone; None where it does not."""
    for key, patterns in instance_filter.exclude_tags.items():
        if _matches(instance.tags.get(key), patterns):
            return f"instance_filter excludes it by tag {key}={instance.tags[key]}"
    for key, patterns in instance_filter.include_tags.items():
        if key not in instance.tags:
            return f"instance_filter includes by tag {key}, which is not known for {instance.instance_id}"
        if not _matches(instance.tags[key], patterns):
            return f"instance_filter does not include tag {key}={instance.tags[key]}"
    return None


def _matches(value: str | None, patterns: Iterable[str]) -> bool:
    """Only ``*`` means anything else than itself."""
    regexes = (".*".join(re.escape(part) for part in pattern.split("*")) for pattern in patterns)
    return value is not None and any(re.fullmatch(regex, value, re.DOTALL) for regex in regexes)
