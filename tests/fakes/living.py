"""What lives in EC2, from a list."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from ec2_decommission.identity import Instance
    from ec2_decommission.steps.base import Interface
    from ec2_decommission.templates import Template


class FakeLiving:
    """Args: the living instances, and the interfaces that exist, by address."""

    def __init__(
        self, instances: Sequence[Instance] = (), interfaces: Mapping[str, tuple[Interface, ...]] | None = None
    ) -> None:
        self.instances = list(instances)
        self.by_address = dict(interfaces or {})

    def interfaces(self, addresses: Iterable[str]) -> Mapping[str, tuple[Interface, ...]]:
        return {address: self.by_address[address] for address in addresses if address in self.by_address}

    def bearers(self, template: Template, names: Iterable[str]) -> Mapping[str, tuple[str, ...]]:
        ids: dict[str, tuple[str, ...]] = {}
        for instance in self.instances:
            if rendered := template.render(instance):
                ids[rendered.lower()] = (*ids.get(rendered.lower(), ()), instance.instance_id)
        return {name: ids[name.lower()] for name in names if name.lower() in ids}
