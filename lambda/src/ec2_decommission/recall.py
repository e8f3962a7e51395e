"""What inventory and EC2 know of the instances of an invocation, and which of them are handled at all."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from .errors import DecommissionError, about
from .identity import Facts, Instance
from .inventory import TERMINATED

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from .clients.ec2 import Description, Ec2
    from .config import InstanceFilter
    from .events import Request
    from .inventory import Inventory, Record
    from .together import Together


def recall(
    instance_ids: set[str],
    ec2: Ec2,
    inventory: Inventory | None,
    instance_filter: InstanceFilter,
    together: Together,
) -> Known:
    """Asks both, once for all instances. A failure is kept in the answer: what needs it fails, nothing else."""
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
            known.descriptions = ec2.describe(sorted(instance_ids))
        except DecommissionError as error:
            known.ec2_error = about("ec2", error)

    together([ask_inventory, ask_ec2])
    return known


class Known:
    """What inventory and EC2 know of the instances of an invocation."""

    def __init__(self, instance_filter: InstanceFilter) -> None:
        self.records: Mapping[str, Record] = {}
        self.descriptions: Mapping[str, Description] = {}
        self.inventory_error: DecommissionError | None = None
        self.ec2_error: DecommissionError | None = None
        self._filter = instance_filter

    @property
    def errors(self) -> tuple[DecommissionError, ...]:
        return tuple(error for error in (self.inventory_error, self.ec2_error) if error)

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
