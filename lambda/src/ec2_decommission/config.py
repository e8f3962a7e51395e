"""The function's configuration: one JSON document in the variable ``DECOMMISSION_CONFIG``, written by the module.

It is read once. Unknown keys are refused, and all errors are told at once.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from .errors import ConfigurationError
from .templates import Template

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

VARIABLE = "DECOMMISSION_CONFIG"
ADOPTS = ("chef", "consul")  # the systems whose nodes bear EC2 ids


@dataclass(frozen=True)
class InstanceFilter:
    """Which instances are handled at all: tag values may end or begin with ``*``."""

    include_tags: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    exclude_tags: Mapping[str, tuple[str, ...]] = field(default_factory=dict)


@dataclass(frozen=True)
class Route53Settings:
    """The step ``route53``.

    Attributes:
        zone_ids: bare ids, without ``/hostedzone/``.
        requests_per_second: this invocation's share of what the module may ask of Route 53.
        max_requests_per_second: all of it, which invocations share by the inventory; None leaves each its share.
    """

    zone_ids: tuple[str, ...]
    record_names: tuple[Template, ...]
    requests_per_second: float = 2.5
    max_requests_per_second: float | None = None


@dataclass(frozen=True)
class ChefSettings:
    """The step ``chef``.

    Attributes:
        server_url: holds the organization where there is one.
        signing_protocol: ``1.3``, or ``1.0`` for old servers.
    """

    server_url: str
    client_name: str
    node_name: Template | None = None
    delete_client: bool = True
    signing_protocol: str = "1.3"
    request_timeout_seconds: float = 10.0
    max_concurrency: int = 8


@dataclass(frozen=True)
class ConsulSettings:
    """The step ``consul``. Without ``datacenters`` the agent's own is meant."""

    url: str
    datacenters: tuple[str, ...] = ()
    node_name: Template | None = None
    lock_prefixes: tuple[str, ...] = ()
    deregister_node: bool = False
    request_timeout_seconds: float = 10.0


@dataclass(frozen=True)
class CustomStepSettings:
    """A user's own step: its settings, and the names of its secrets."""

    settings: Mapping[str, str] = field(default_factory=dict)
    secrets: tuple[str, ...] = ()


@dataclass(frozen=True)
class InventorySettings:
    """The DynamoDB table that remembers what each instance was."""

    table_name: str
    retention_days: int = 30


@dataclass(frozen=True)
class SweepSettings:
    """The sweep.

    Attributes:
        max_instances: its brake: at most so many instances go.
        max_fraction: the same as a share of the recorded fleet.
        adopt: the steps whose systems may tell of instances that died unrecorded.
    """

    max_instances: int = 50
    max_fraction: float = 0.25
    adopt: tuple[str, ...] = ()


@dataclass(frozen=True)
class QueueSettings:
    """Delivery: the queue, and how long a failed message waits (seconds, doubled with each receive)."""

    url: str
    max_receive_count: int = 30
    retry_delay_seconds: int = 60
    max_retry_delay_seconds: int = 3600


@dataclass(frozen=True)
class Config:
    """All of it. A step that is None is off."""

    name: str
    dry_run: bool = False
    instance_filter: InstanceFilter = InstanceFilter()
    route53: Route53Settings | None = None
    chef: ChefSettings | None = None
    consul: ConsulSettings | None = None
    inventory: InventorySettings | None = None
    sweep: SweepSettings | None = None
    queue: QueueSettings | None = None
    secrets: tuple[str, ...] = ()
    encryption_context: Mapping[str, str] = field(default_factory=dict)
    custom_steps: Mapping[str, CustomStepSettings] = field(default_factory=dict)

    @classmethod
    def parse(cls, text: str | None) -> Config:
        """Reads the document.

        Raises:
            ConfigurationError: names every key that is wrong, what was wrong, and what is allowed.
        """
        if not text:
            raise ConfigurationError(f"the variable {VARIABLE} is not set; the module sets it")
        try:
            document = json.loads(text)
        except (ValueError, RecursionError) as error:
            raise ConfigurationError(f"{VARIABLE} is not JSON: {error}") from None
        errors: list[str] = []
        top = _Section("", document, errors)
        config = cls(
            name=top.text("name"),
            dry_run=top.flag("dry_run", default=False),
            instance_filter=top.section("instance_filter", _instance_filter) or InstanceFilter(),
            route53=top.section("route53", _route53),
            chef=top.section("chef", _chef),
            consul=top.section("consul", _consul),
            inventory=top.section("inventory", _inventory),
            sweep=top.section("sweep", _sweep),
            queue=top.section("queue", _queue),
            secrets=top.texts("secrets"),
            encryption_context=top.text_map("encryption_context"),
            custom_steps=top.section("custom_steps", _custom_steps) or {},
        )
        top.end()
        if config.chef and "chef_client_key" not in config.secrets:
            errors.append("chef: the step is on, and secrets does not list chef_client_key, the key it signs with")
        sealed = config.secrets or any(step.secrets for step in config.custom_steps.values())
        if sealed and not config.encryption_context:
            errors.append("encryption_context: needed to open the secrets, and empty")
        for source in config.sweep.adopt if config.sweep else ():
            if source in ADOPTS and getattr(config, source) is None:
                errors.append(f"sweep.adopt: names {source}, and the step {source} is off")
        if config.sweep and config.sweep.adopt and config.instance_filter != InstanceFilter():
            errors.append(
                "sweep.adopt: needs instance_filter to be empty, as the tags of what died unrecorded are not known"
            )
        if errors:
            raise ConfigurationError(f"{VARIABLE}: " + "; ".join(errors))
        return config


class _Section:
    """Reads one JSON object key by key, and notes what is wrong instead of raising."""

    def __init__(self, path: str, value: object, errors: list[str]) -> None:
        self.path = path
        self.errors = errors
        self.value: dict[str, Any] = value if isinstance(value, dict) else {}
        self.seen: set[str] = set()
        if not isinstance(value, dict):
            self.wrong("", "a JSON object", value)

    def wrong(self, key: str, allowed: str, found: object) -> None:
        where = ".".join(part for part in (self.path, key) if part) or "the document"
        self.errors.append(f"{where}: expected {allowed}, found {json.dumps(found, default=str)[:80]}")

    def get(self, key: str) -> Any:
        self.seen.add(key)
        return self.value.get(key)

    def text(self, key: str) -> str:
        value = self.get(key)
        if not isinstance(value, str) or not value:
            self.wrong(key, "a text that is not empty", value)
            return ""
        return value

    def flag(self, key: str, *, default: bool) -> bool:
        value = self.get(key)
        if value is None:
            return default
        if not isinstance(value, bool):
            self.wrong(key, "true or false", value)
            return default
        return value

    def number(self, key: str, *, default: float, least: float, most: float) -> float:
        value = self.get(key)
        if value is None:
            return default
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not least <= value <= most:
            self.wrong(key, f"a number from {least:g} to {most:g}", value)
            return default
        return value

    def texts(self, key: str, *, at_least: int = 0) -> tuple[str, ...]:
        value = self.get(key)
        value = [] if value is None else value
        if not isinstance(value, list) or not all(isinstance(v, str) and v for v in value):
            self.wrong(key, "a list of texts that are not empty", value)
            return ()
        if len(value) < at_least:
            self.wrong(key, f"at least {at_least} entry", value)
        return tuple(value)

    def text_map(self, key: str) -> dict[str, str]:
        value = self.get(key)
        value = {} if value is None else value
        if not isinstance(value, dict) or not all(isinstance(v, str) for v in value.values()):
            self.wrong(key, "an object whose values are texts", value)
            return {}
        return value

    def tag_map(self, key: str) -> dict[str, tuple[str, ...]]:
        value = self.get(key)
        value = {} if value is None else value
        if not isinstance(value, dict) or not all(
            isinstance(v, list) and all(isinstance(t, str) for t in v) for v in value.values()
        ):
            self.wrong(key, "an object whose values are lists of texts", value)
            return {}
        return {name: tuple(values) for name, values in value.items()}

    def url(self, key: str) -> str:
        value = self.text(key)
        if not value:
            return value
        try:
            parts = urlsplit(value)
            fine = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
        except ValueError:
            fine = False
        if not fine:
            self.wrong(key, "a URL that begins with http:// or https:// and names a host", value)
        return value.rstrip("/")

    def template(self, key: str) -> Template | None:
        value = self.get(key)
        if value is None:
            return None
        if not isinstance(value, str) or not value:
            self.wrong(key, "a name template or null", value)
            return None
        return self._template(key, value)

    def templates(self, key: str) -> tuple[Template, ...]:
        found = [self._template(key, text) for text in self.texts(key, at_least=1)]
        return tuple(t for t in found if t is not None)

    def _template(self, key: str, text: str) -> Template | None:
        try:
            return Template(text)
        except ConfigurationError as error:
            self.errors.append(f"{self.path}.{key}: {error}")
            return None

    def section(self, key: str, read: Callable[[_Section], Any]) -> Any:
        value = self.get(key)
        if value is None:
            return None
        inner = _Section(key, value, self.errors)
        result = read(inner)
        inner.end()
        return result

    def end(self) -> None:
        unknown = sorted(set(self.value) - self.seen)
        if unknown:
            known = ", ".join(sorted(self.seen))
            self.errors.append(f"{self.path or 'the document'}: unknown key {', '.join(unknown)}; known are {known}")


def _instance_filter(section: _Section) -> InstanceFilter:
    return InstanceFilter(section.tag_map("include_tags"), section.tag_map("exclude_tags"))


def _route53(section: _Section) -> Route53Settings:
    return Route53Settings(
        zone_ids=tuple(dict.fromkeys(section.texts("zone_ids", at_least=1))),
        record_names=section.templates("record_names"),
        requests_per_second=section.number("requests_per_second", default=2.5, least=0.05, most=1000),
        max_requests_per_second=section.number("max_requests_per_second", default=0, least=0.5, most=1000) or None,
    )


def _chef(section: _Section) -> ChefSettings:
    return ChefSettings(
        server_url=section.url("server_url"),
        client_name=section.text("client_name"),
        node_name=section.template("node_name"),
        delete_client=section.flag("delete_client", default=True),
        signing_protocol=_signing_protocol(section),
        request_timeout_seconds=section.number("request_timeout_seconds", default=10, least=1, most=60),
        max_concurrency=int(section.number("max_concurrency", default=8, least=1, most=32)),
    )


def _signing_protocol(section: _Section) -> str:
    protocol = section.get("signing_protocol")
    if protocol not in (None, "1.0", "1.3"):
        section.wrong("signing_protocol", '"1.3" or "1.0"', protocol)
    return protocol or "1.3"


def _consul(section: _Section) -> ConsulSettings:
    return ConsulSettings(
        url=section.url("url"),
        datacenters=tuple(dict.fromkeys(section.texts("datacenters"))),
        node_name=section.template("node_name"),
        lock_prefixes=tuple(dict.fromkeys(section.texts("lock_prefixes"))),
        deregister_node=section.flag("deregister_node", default=False),
        request_timeout_seconds=section.number("request_timeout_seconds", default=10, least=1, most=60),
    )


def _inventory(section: _Section) -> InventorySettings:
    return InventorySettings(
        table_name=section.text("table_name"),
        retention_days=int(section.number("retention_days", default=30, least=1, most=3650)),
    )


def _sweep(section: _Section) -> SweepSettings:
    return SweepSettings(
        max_instances=int(section.number("max_instances", default=50, least=1, most=100_000)),
        max_fraction=section.number("max_fraction", default=0.25, least=0.001, most=1),
        adopt=_adopt(section),
    )


def _adopt(section: _Section) -> tuple[str, ...]:
    sources = tuple(dict.fromkeys(section.texts("adopt")))
    if unknown := [source for source in sources if source not in ADOPTS]:
        section.wrong("adopt", f"some of {', '.join(ADOPTS)}", unknown)
    return sources


def _queue(section: _Section) -> QueueSettings:
    return QueueSettings(
        url=section.url("url"),
        max_receive_count=int(section.number("max_receive_count", default=30, least=1, most=1000)),
        retry_delay_seconds=int(section.number("retry_delay_seconds", default=60, least=0, most=43_200)),
        max_retry_delay_seconds=int(section.number("max_retry_delay_seconds", default=3600, least=0, most=43_200)),
    )


def _custom_steps(section: _Section) -> dict[str, CustomStepSettings]:
    return {name: section.section(name, _custom_step) or CustomStepSettings() for name in section.value}


def _custom_step(section: _Section) -> CustomStepSettings:
    return CustomStepSettings(section.text_map("settings"), section.texts("secrets"))
