"""Name templates: ``web-{tag:Name}.{region}.example.internal``.

The placeholders are those in the module's documentation. Terraform refuses others at plan, and this module at start.
"""

from __future__ import annotations

import re
from itertools import islice, product
from typing import TYPE_CHECKING

from .errors import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from .instance import Instance

_TOKEN = re.compile(r"\{([^{}]*)\}")

_FIELDS: Mapping[str, Callable[[Instance], str | None]] = {
    "instance_id": lambda i: i.instance_id,
    "private_ip": lambda i: i.private_ip,
    "private_ip_dashed": lambda i: i.private_ip.replace(".", "-") if i.private_ip else None,
    "private_dns_name": lambda i: i.private_dns_name,
    "hostname": lambda i: i.private_dns_name.split(".")[0] if i.private_dns_name else None,
    "account_id": lambda i: i.account_id,
    "region": lambda i: i.region,
}
PLACEHOLDERS = (*_FIELDS, "tag:KEY")
_MOST_NAMES = 20  # the most names that one template gives one instance, over all its tag values


class Template:
    """A parsed name template.

    Args:
        text: the template as the user wrote it.

    Raises:
        ConfigurationError: a placeholder is unknown, or a brace has no counterpart.
    """

    def __init__(self, text: str) -> None:
        self.text = text
        self.placeholders: tuple[str, ...] = tuple(_TOKEN.findall(text))
        for name in self.placeholders:
            if name not in _FIELDS and not (name.startswith("tag:") and len(name) > len("tag:")):
                allowed = ", ".join(f"{{{p}}}" for p in PLACEHOLDERS)
                raise ConfigurationError(
                    f"name template {text!r}: unknown placeholder {{{name}}}; allowed are {allowed}"
                )
        if set("{}") & set(_TOKEN.sub("", text)):
            raise ConfigurationError(f"name template {text!r}: unmatched brace")

    def __repr__(self) -> str:
        return f"Template({self.text!r})"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Template) and other.text == self.text

    def __hash__(self) -> int:
        return hash(self.text)

    @property
    def by_id(self) -> bool:
        """Whether names from this template contain the instance id, which proves who owns them."""
        return "instance_id" in self.placeholders

    @property
    def variables(self) -> tuple[str, ...]:
        """The placeholders whose values differ between instances of the same account and region."""
        return tuple(dict.fromkeys(p for p in self.placeholders if p not in ("account_id", "region")))

    def missing(self, instance: Instance) -> tuple[str, ...]:
        """Returns the placeholders whose value is not known for this instance."""
        return tuple(p for p in self.placeholders if not self._value(p, instance))

    def render(self, instance: Instance) -> str | None:
        """Returns the name for this instance; None if a value is not known."""
        if self.missing(instance):
            return None
        return _TOKEN.sub(lambda m: self._value(m[1], instance) or "", self.text)

    def render_all(self, instance: Instance) -> tuple[str, ...]:
        """Returns the name for every value that the instance's tags ever had, the latest first; at most 20.

        Example:
            >>> from ec2_decommission.instance import Instance
            >>> renamed = Instance("i-1", tags={"Name": "b"}, past_tags={"Name": ("a",)})
            >>> Template("{tag:Name}.internal").render_all(renamed)
            ('b.internal', 'a.internal')
        """
        values = [self._values(placeholder, instance) for placeholder in self.placeholders]
        parts = _TOKEN.split(self.text)
        names: dict[str, None] = {}
        for chosen in islice(product(*values), _MOST_NAMES):
            parts[1::2] = chosen
            names["".join(parts)] = None
        return tuple(names)

    @staticmethod
    def _values(placeholder: str, instance: Instance) -> tuple[str, ...]:
        if placeholder.startswith("tag:"):
            return tuple(filter(None, instance.tag_values(placeholder.removeprefix("tag:"))))
        value = _FIELDS[placeholder](instance)
        return (value,) if value else ()

    @staticmethod
    def _value(placeholder: str, instance: Instance) -> str | None:
        if placeholder.startswith("tag:"):
            return instance.tags.get(placeholder.removeprefix("tag:"))
        return _FIELDS[placeholder](instance)
