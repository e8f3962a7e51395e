"""The function's configuration: a JSON document in the variable ``DECOMMISSION_CONFIG``, written by the module.

Lambda's environment holds 4 KB. The sections that can be larger (``organization``, ``http_steps``) are in the file
``settings.json``. It is next to the code in a package built by the apply, otherwise in a layer. Unknown keys are
refused, and all errors are reported together.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any

from .errors import ConfigurationError
from .steps.http.settings import http_step
from .strict_json import Section
from .templates import Template

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from .steps.http.settings import HttpStepSettings

VARIABLE = "DECOMMISSION_CONFIG"
SETTINGS_FILE = "settings.json"
BUILT_IN = ("route53", "chef", "consul")
ADOPTS = ("chef", "consul")  # the systems whose nodes carry EC2 ids
_ACCOUNT_ID = re.compile(r"[0-9]{12}")
_ROLE_ARN = re.compile(r"arn:[a-z-]+:iam::[0-9]{12}:role/.+")
_EXTERNAL_DNS = ("txt_prefix", "txt_suffix", "wildcard_replacement")


@dataclass(frozen=True)
class InstanceFilter:
    """Selects the instances to handle. Tag values may contain ``*``."""

    include_tags: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    exclude_tags: Mapping[str, tuple[str, ...]] = field(default_factory=dict)


@dataclass(frozen=True)
class ZoneSettings:
    """A hosted zone: its bare id and the role to use it with. Without a role, the function's own role is used."""

    zone_id: str
    role_arn: str | None = None
    external_id: str | None = None


@dataclass(frozen=True)
class ExternalDns:
    """The flags that external-dns runs with, in lower case. Affixes may contain ``%{record_type}``."""

    txt_prefix: str = ""
    txt_suffix: str = ""
    wildcard_replacement: str = ""


@dataclass(frozen=True)
class Route53Settings:
    """The step ``route53``.

    Attributes:
        record_names: whole names, zone included.
        external_dns: None if external-dns marks its records under its default names.
        keep_names: glob patterns of names that are never touched.
        requests_per_second: this execution environment's share of the rate of each account that owns zones.
    """

    zones: tuple[ZoneSettings, ...]
    record_names: tuple[Template, ...]
    external_dns: ExternalDns | None = None
    keep_names: tuple[str, ...] = ()
    requests_per_second: float = 2.5


@dataclass(frozen=True)
class ChefSettings:
    """The step ``chef``.

    Attributes:
        server_url: includes the organization, if there is one.
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
    """The step ``consul``. Without ``datacenters``, the agent's own is used."""

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
        max_instances: the brake: the most instances that one sweep may decommission.
        max_fraction: the same limit as a share of the recorded fleet.
        adopt: the steps whose systems may report terminated instances that were never recorded.
    """

    max_instances: int = 50
    max_fraction: float = 0.25
    adopt: tuple[str, ...] = ()


@dataclass(frozen=True)
class QueueSettings:
    """Delivery: the queue, and how long a failed message waits (in seconds, doubled with each receive).

    Attributes:
        visibility_timeout_seconds: the time after which SQS gives a message to another invocation.
    """

    url: str
    visibility_timeout_seconds: int = 900
    max_receive_count: int = 30
    retry_delay_seconds: int = 60
    max_retry_delay_seconds: int = 3600


@dataclass(frozen=True)
class OrganizationSettings:
    """Other places that this deployment serves: the regions of each member account."""

    members: Mapping[str, tuple[str, ...]]
    role_name: str
    external_id: str | None = None


@dataclass(frozen=True)
class ResultEventSettings:
    """Where result events are sent: the name or ARN of an event bus."""

    event_bus_name: str


@dataclass(frozen=True)
class AuditSettings:
    """Where removed objects are kept in S3. ``prefix`` is empty or ends with ``/``."""

    bucket: str
    prefix: str = ""


@dataclass(frozen=True)
class Config:
    """The complete configuration. A step that is None is off.

    Attributes:
        account_id: the function's own account.
        region: the function's own region.
    """

    name: str
    account_id: str
    region: str
    dry_run: bool = False
    instance_filter: InstanceFilter = InstanceFilter()
    organization: OrganizationSettings | None = None
    route53: Route53Settings | None = None
    chef: ChefSettings | None = None
    consul: ConsulSettings | None = None
    inventory: InventorySettings | None = None
    sweep: SweepSettings | None = None
    queue: QueueSettings | None = None
    result_events: ResultEventSettings | None = None
    audit: AuditSettings | None = None
    secrets: tuple[str, ...] = ()
    encryption_context: Mapping[str, str] = field(default_factory=dict)
    http_steps: Mapping[str, HttpStepSettings] = field(default_factory=dict)
    custom_steps: Mapping[str, CustomStepSettings] = field(default_factory=dict)

    @classmethod
    def parse(cls, text: str | None, settings: Path | None = None) -> Config:
        """Reads the document.

        Args:
            text: the value of the environment variable.
            settings: the path of ``settings.json``; None if there is none.

        Raises:
            ConfigurationError: names every wrong key, what is wrong with it, and what is allowed.
        """
        if not text:
            raise ConfigurationError(f"the variable {VARIABLE} is not set; the module sets it")
        document = _json(text, VARIABLE)
        if isinstance(document, dict) and document.pop("settings_file", False):
            document |= _settings(settings)
        errors: list[str] = []
        top = Section("", document, errors)
        config = cls(
            name=top.text("name"),
            account_id=_account_id(top),
            region=top.text("region"),
            dry_run=top.flag("dry_run", default=False),
            instance_filter=top.section("instance_filter", _instance_filter) or InstanceFilter(),
            organization=top.section("organization", _organization),
            route53=top.section("route53", _route53),
            chef=top.section("chef", _chef),
            consul=top.section("consul", _consul),
            inventory=top.section("inventory", _inventory),
            sweep=top.section("sweep", _sweep),
            queue=top.section("queue", _queue),
            result_events=top.section("result_events", lambda s: ResultEventSettings(s.text("event_bus_name"))),
            audit=top.section("audit", _audit),
            secrets=top.texts("secrets"),
            encryption_context=top.text_map("encryption_context"),
            http_steps=top.section("http_steps", _http_steps) or {},
            custom_steps=top.section("custom_steps", _custom_steps) or {},
        )
        top.end()
        errors += _contradictions(config)
        if errors:
            raise ConfigurationError(f"{VARIABLE}: " + "; ".join(errors))
        return config


def _json(text: str, what: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ConfigurationError(f"{what} is not JSON: {error}") from None


def _settings(path: Path | None) -> dict[str, Any]:
    """Reads the large sections from ``settings.json``."""
    try:
        settings = _json(path.read_text(), SETTINGS_FILE) if path else None
    except FileNotFoundError:
        settings = None
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigurationError(f"{SETTINGS_FILE} cannot be read: {error}") from None
    if not isinstance(settings, dict):
        raise ConfigurationError(
            f"neither the package nor a layer has {SETTINGS_FILE}, which this configuration needs. Build it again"
        )
    return settings


def _contradictions(config: Config) -> list[str]:
    errors = []
    if config.chef and "chef_client_key" not in config.secrets:
        errors.append("chef: the step is on, but secrets does not list chef_client_key, the signing key")
    steps: list[HttpStepSettings | CustomStepSettings] = [*config.http_steps.values(), *config.custom_steps.values()]
    sealed = config.secrets or any(step.secrets for step in steps)
    if sealed and not config.encryption_context:
        errors.append("encryption_context: empty, but needed to decrypt the secrets")
    for name in config.http_steps:
        if name in BUILT_IN or name in config.custom_steps:
            errors.append(f"http_steps.{name}: another step has this name")
    for source in config.sweep.adopt if config.sweep else ():
        if source in ADOPTS and getattr(config, source) is None:
            errors.append(f"sweep.adopt: names {source}, but the step {source} is off")
    if config.sweep and config.sweep.adopt and config.instance_filter != InstanceFilter():
        errors.append(
            "sweep.adopt: needs instance_filter to be empty, because the tags of an unrecorded instance are not known"
        )
    return errors


def _account_id(section: Section) -> str:
    account_id = section.text("account_id")
    if account_id and not _ACCOUNT_ID.fullmatch(account_id):
        section.wrong("account_id", "12 digits", account_id)
    return account_id


def _organization(section: Section) -> OrganizationSettings:
    members = section.tag_map("members")
    wrong = [account_id for account_id in members if not _ACCOUNT_ID.fullmatch(account_id)]
    if wrong:
        section.wrong("members", "account ids of 12 digits as keys", wrong)
    return OrganizationSettings(members, section.text("role_name"), section.optional_text("external_id"))


def _audit(section: Section) -> AuditSettings:
    prefix = section.optional_text("prefix") or ""
    return AuditSettings(section.text("bucket"), prefix if not prefix or prefix.endswith("/") else f"{prefix}/")


def template(section: Section, key: str) -> Template | None:
    """Reads a name template; None for null."""
    value = section.get(key)
    if value is None:
        return None
    if not isinstance(value, str) or not value:
        section.wrong(key, "a name template or null", value)
        return None
    return _template(section, key, value)


def templates(section: Section, key: str) -> tuple[Template, ...]:
    """Reads a list of at least one name template."""
    found = [_template(section, key, text) for text in section.texts(key, at_least=1)]
    return tuple(t for t in found if t is not None)


def _template(section: Section, key: str, text: str) -> Template | None:
    try:
        return Template(text)
    except ConfigurationError as error:
        section.errors.append(f"{section.path}.{key}: {error}")
        return None


def _instance_filter(section: Section) -> InstanceFilter:
    return InstanceFilter(section.tag_map("include_tags"), section.tag_map("exclude_tags"))


def _route53(section: Section) -> Route53Settings:
    return Route53Settings(
        zones=_zones(section),
        record_names=templates(section, "record_names"),
        external_dns=section.section("external_dns", _external_dns),
        keep_names=section.texts("keep_names"),
        requests_per_second=section.number("requests_per_second", default=2.5, least=0.05, most=1000),
    )


def _zones(section: Section) -> tuple[ZoneSettings, ...]:
    read: tuple[ZoneSettings, ...] = section.sections("zones", _zone, at_least=1)
    zones: dict[str, ZoneSettings] = {}
    for zone in read:
        if zones.setdefault(zone.zone_id, zone) != zone:
            section.wrong("zones", "each zone once, or with the same role", zone.zone_id)
    return tuple(zones.values())


def _zone(section: Section) -> ZoneSettings:
    zone = ZoneSettings(section.text("id"), section.optional_text("role_arn"), section.optional_text("external_id"))
    if zone.role_arn and not _ROLE_ARN.fullmatch(zone.role_arn):
        section.wrong("role_arn", "the ARN of an IAM role or null", zone.role_arn)
    return zone


def _external_dns(section: Section) -> ExternalDns:
    flags = {key: (section.optional_text(key) or "").lower() for key in _EXTERNAL_DNS}
    return ExternalDns(**flags)


def _chef(section: Section) -> ChefSettings:
    return ChefSettings(
        server_url=section.url("server_url"),
        client_name=section.text("client_name"),
        node_name=template(section, "node_name"),
        delete_client=section.flag("delete_client", default=True),
        signing_protocol=_signing_protocol(section),
        request_timeout_seconds=section.number("request_timeout_seconds", default=10, least=1, most=60),
        max_concurrency=int(section.number("max_concurrency", default=8, least=1, most=32)),
    )


def _signing_protocol(section: Section) -> str:
    protocol = section.get("signing_protocol")
    if protocol not in (None, "1.0", "1.3"):
        section.wrong("signing_protocol", '"1.3" or "1.0"', protocol)
    return protocol or "1.3"


def _consul(section: Section) -> ConsulSettings:
    return ConsulSettings(
        url=section.url("url"),
        datacenters=tuple(dict.fromkeys(section.texts("datacenters"))),
        node_name=template(section, "node_name"),
        lock_prefixes=tuple(dict.fromkeys(section.texts("lock_prefixes"))),
        deregister_node=section.flag("deregister_node", default=False),
        request_timeout_seconds=section.number("request_timeout_seconds", default=10, least=1, most=60),
    )


def _inventory(section: Section) -> InventorySettings:
    return InventorySettings(
        table_name=section.text("table_name"),
        retention_days=int(section.number("retention_days", default=30, least=1, most=3650)),
    )


def _sweep(section: Section) -> SweepSettings:
    return SweepSettings(
        max_instances=int(section.number("max_instances", default=50, least=1, most=100_000)),
        max_fraction=section.number("max_fraction", default=0.25, least=0.001, most=1),
        adopt=_adopt(section),
    )


def _adopt(section: Section) -> tuple[str, ...]:
    sources = tuple(dict.fromkeys(section.texts("adopt")))
    if unknown := [source for source in sources if source not in ADOPTS]:
        section.wrong("adopt", f"some of {', '.join(ADOPTS)}", unknown)
    return sources


def _queue(section: Section) -> QueueSettings:
    return QueueSettings(
        url=section.url("url"),
        visibility_timeout_seconds=int(
            section.number("visibility_timeout_seconds", default=900, least=0, most=43_200)
        ),
        max_receive_count=int(section.number("max_receive_count", default=30, least=1, most=1000)),
        retry_delay_seconds=int(section.number("retry_delay_seconds", default=60, least=0, most=43_200)),
        max_retry_delay_seconds=int(section.number("max_retry_delay_seconds", default=3600, least=0, most=43_200)),
    )


def _http_steps(section: Section) -> dict[str, HttpStepSettings]:
    found = {name: section.section(name, partial(http_step, name)) for name in section.value}
    for name in [name for name, value in section.value.items() if value is None]:
        section.wrong(name, "an object", None)
    return {name: settings for name, settings in found.items() if settings is not None}


def _custom_steps(section: Section) -> dict[str, CustomStepSettings]:
    return {name: section.section(name, _custom_step) or CustomStepSettings() for name in section.value}


def _custom_step(section: Section) -> CustomStepSettings:
    return CustomStepSettings(section.text_map("settings"), section.texts("secrets"))
