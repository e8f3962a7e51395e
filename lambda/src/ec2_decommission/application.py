"""Builds the application from the environment, once per cold start."""

from __future__ import annotations

import json
import os
import threading
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import boto3
from aws_lambda_powertools import Logger

from .clients.aws import AwsClients
from .clients.ec2 import BotoEc2
from .clients.sqs import SqsQueue
from .config import SETTINGS_FILE, VARIABLE, Config
from .deadline import current
from .errors import ConfigurationError
from .handler import Application
from .inventory import DynamoInventory
from .live import Live
from .metrics import Metrics
from .place import Place, Served
from .results import ResultEvents
from .run import StepFactory, Tools
from .secret_bundle import FILE_NAME, SecretBundle, in_package_or_layer
from .together import side_by_side

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from .audit import S3Audit
    from .clients.route53 import Zones
    from .clients.zone_cache import KeptPage
    from .config import CustomStepSettings, Route53Settings
    from .errors import DecommissionError
    from .events import RestoreRequest
    from .handler import Restore
    from .inventory import Inventory
    from .report import StepReport
    from .restore import System
    from .run import Circumstances
    from .steps.base import Step
    from .steps.http.settings import HttpStepSettings
    from .sweep import Sweep

T = TypeVar("T")

PACKAGE_ROOT = Path(__file__).parent.parent

log = Logger()


def make_application() -> Application:
    """Builds the application from the environment's configuration.

    Raises:
        ConfigurationError: names every error in the configuration, or the steps that the package lacks.
    """
    config = Config.parse(os.environ.get(VARIABLE), in_package_or_layer(PACKAGE_ROOT / SETTINGS_FILE))
    aws = AwsClients()
    served = served_places(config)
    ec2 = {place: _ec2(aws, served, place) for place in served}
    inventory = None
    if config.inventory:
        kept = config.inventory
        inventory = DynamoInventory(aws("dynamodb"), kept.table_name, kept.retention_days, together=side_by_side)
    systems = _Systems(config, aws)
    live = Live(ec2, side_by_side)
    audit = _audit(config, aws)
    tools = Tools(
        live,
        inventory,
        _steps(config, aws, systems),
        log,
        lambda: datetime.now(UTC),
        Metrics(config.name),
        side_by_side,
        audit,
    )
    queue = SqsQueue(lambda: aws("sqs"), config.queue.url) if config.queue else None
    results = None
    if config.result_events:
        results = ResultEvents(lambda: aws("events"), config.result_events.event_bus_name)
    sweep = _sweep(config, served, ec2, inventory, queue, systems)
    restore = _restore(config, tools, audit, systems)
    return Application(config, served, ec2, tools, queue, sweep, restore, results)


def served_places(config: Config) -> Served:
    """Returns the places that the configuration names."""
    own = Place(config.account_id, config.region)
    if config.organization is None:
        return Served(own)
    organization = config.organization
    partition = boto3.Session().get_partition_for_region(config.region)
    return Served(own, organization.members, organization.role_name, organization.external_id, partition)


def _ec2(aws: AwsClients, served: Served, place: Place) -> BotoEc2:
    role_arn = served.role_arn(place.account_id)
    external_id = served.external_id if role_arn else None
    region = None if place.region == served.own.region else place.region
    return BotoEc2(lambda: aws("ec2", role_arn, external_id, region), place, side_by_side)


class _Systems:
    """The clients of Chef and Consul. Each connects on first use and is reused while the environment is warm."""

    def __init__(self, config: Config, aws: AwsClients) -> None:
        secrets = SecretBundle(PACKAGE_ROOT / FILE_NAME, config.encryption_context, lambda: aws("kms"))
        tls = self.tls = once(_tls)

        def consul_tls() -> Any:
            from .clients.tls import add_client_certificate  # noqa: PLC0415

            names = ("consul_client_certificate", "consul_client_key")
            if not set(names) & set(config.secrets):
                return tls()
            context = _tls()  # a separate context: only Consul may see the client certificate
            add_client_certificate(context, secrets[names[0]], secrets[names[1]], names)
            return context

        def chef() -> Any:
            from .clients.chef import PyChefServer  # noqa: PLC0415  # in the package only with the step

            if config.chef is None:
                raise ConfigurationError("chef: the step is off")
            return PyChefServer(config.chef, secrets["chef_client_key"], current, tls())

        def consul() -> Any:
            from .clients.consul import PyConsulCatalog  # noqa: PLC0415  # in the package only with the step

            if config.consul is None:
                raise ConfigurationError("consul: the step is off")
            token = secrets["consul_token"] if "consul_token" in config.secrets else None
            return PyConsulCatalog(config.consul, token, current, consul_tls())

        self.secrets = secrets
        self.zones = once(lambda: _zones(config, aws))
        self.chef = once(chef)
        self.consul = once(consul)


def _tls() -> Any:
    """The TLS context for Chef and Consul. It trusts the public authorities and those in the package."""
    from .clients.tls import trusting  # noqa: PLC0415  # not needed by Route 53 alone

    return trusting(in_package_or_layer(PACKAGE_ROOT / "ca_bundle.pem"))


def _steps(config: Config, aws: AwsClients, systems: _Systems) -> list[StepFactory]:
    """The enabled steps. Each step imports its modules and connects when it first runs."""
    steps: list[StepFactory] = []
    if config.route53:
        steps.append(StepFactory("route53", _route53_step(config.route53, systems)))
    if config.chef:
        chef, audit = config.chef, config.audit is not None

        def chef_step(_: Circumstances) -> Step:
            from .steps.chef import ChefStep  # noqa: PLC0415  # in the package only with the step

            return ChefStep(chef, systems.chef(), audit=audit)

        steps.append(StepFactory("chef", chef_step))
    if config.consul:
        consul, audit = config.consul, config.audit is not None

        def consul_step(circumstances: Circumstances) -> Step:
            from .steps.consul import ConsulStep  # noqa: PLC0415  # in the package only with the step

            return ConsulStep(consul, systems.consul(), audit=audit, ended_at=circumstances.ended_at)

        steps.append(StepFactory("consul", consul_step))
    steps += [_http_step(settings, systems) for settings in config.http_steps.values()]
    own = config.custom_steps.items()
    steps += [_custom_step(name, settings, systems.secrets, aws) for name, settings in own]
    built_in = [name for name in ("route53", "chef", "consul") if getattr(config, name)]
    _check_package([*built_in, *(["http"] if config.http_steps else []), *config.custom_steps])
    return steps


def _zones(config: Config, aws: AwsClients) -> Zones:
    from .clients.governor import governors  # noqa: PLC0415  # on first use
    from .clients.route53 import BotoZones  # noqa: PLC0415

    settings = config.route53
    if settings is None:
        raise ConfigurationError("route53: the step is off")
    by_id = {zone.zone_id: zone for zone in settings.zones}

    def client(zone_id: str) -> Any:
        return aws("route53", by_id[zone_id].role_arn, by_id[zone_id].external_id)

    return BotoZones(client, governors(settings.zones, settings.requests_per_second, config.account_id))


def _route53_step(settings: Route53Settings, systems: _Systems) -> Callable[[Circumstances], Step]:
    kept: list[KeptPage] = []

    def step(circumstances: Circumstances) -> Step:
        from .clients.zone_cache import CachedZones  # noqa: PLC0415  # on first use
        from .steps.route53 import Route53Step  # noqa: PLC0415

        return Route53Step(settings, CachedZones(systems.zones(), kept, circumstances.ended_at))

    return step


def _audit(config: Config, aws: AwsClients) -> S3Audit | None:
    if config.audit is None:
        return None
    from .audit import S3Audit  # noqa: PLC0415  # not needed without audit
    from .clients.s3 import S3Bucket  # noqa: PLC0415

    return S3Audit(S3Bucket(lambda: aws("s3"), config.audit.bucket), config.audit.prefix)


def _restore(config: Config, tools: Tools, audit: S3Audit | None, systems: _Systems) -> Restore | None:
    if audit is None:
        return None
    route53, chef, consul = config.route53, config.chef, config.consul

    def restore(request: RestoreRequest, *, dry_run: bool) -> tuple[Sequence[StepReport], DecommissionError | None]:
        from .restore import Restorer, chef_objects, consul_objects, record_sets  # noqa: PLC0415  # restore only

        able: dict[str, System] = {}
        if route53:
            ids = [zone.zone_id for zone in route53.zones]
            able["route53"] = lambda gone: record_sets(systems.zones(), ids, gone)
        if chef:
            able["chef"] = lambda gone: chef_objects(systems.chef(), gone)
        if consul:
            able["consul"] = lambda gone: consul_objects(systems.consul(), consul, gone)
        names = [step.name for step in tools.steps]
        return Restorer(audit, tools.inventory, able, names, tools.now)(request, dry_run=dry_run)

    return restore


def _sweep(
    config: Config,
    served: Served,
    ec2: Mapping[Place, BotoEc2],
    inventory: Inventory | None,
    queue: SqsQueue | None,
    systems: _Systems,
) -> Callable[[Place], Sweep] | None:
    settings = config.sweep
    if settings is None or config.queue is None or queue is None or inventory is None:
        return None

    visibility_timeout = timedelta(seconds=config.queue.visibility_timeout_seconds)

    def make(place: Place) -> Sweep:
        from .orphans import Orphans, Scope, sources  # noqa: PLC0415  # needed by a sweep only
        from .sweep import Sweep  # noqa: PLC0415

        scope = Scope(place, alone=len(list(served)) == 1)
        datacenters = config.consul.datacenters if config.consul else ()
        found = sources(settings.adopt, scope, systems.chef, systems.consul, datacenters)
        orphans = Orphans(found, ec2[place], inventory) if found else None
        return Sweep(
            settings, place, ec2[place], inventory, queue, config.instance_filter, orphans, visibility_timeout
        )

    return make


def _http_step(settings: HttpStepSettings, systems: _Systems) -> StepFactory:
    """A step for a REST API. Its client is reused while the environment is warm."""

    def connect() -> Any:
        from .steps.http.client import Client  # noqa: PLC0415  # in the package only with such a step

        opened = {secret: systems.secrets[f"http_steps.{settings.name}.{secret}"] for secret in settings.secrets}
        return Client(settings, opened, current, systems.tls())

    client = once(connect)

    def make(_: Circumstances) -> Step:
        from .steps.http import HttpStep  # noqa: PLC0415

        return HttpStep(settings, client())

    return StepFactory(settings.name, make)


def _custom_step(name: str, settings: CustomStepSettings, secrets: SecretBundle, aws: AwsClients) -> StepFactory:
    """A user's own step: the package ``custom_steps.<name>`` and its ``make_step(tools)``."""

    def make(circumstances: Circumstances) -> Step:
        from .custom_step import OwnSecrets, StepTools  # noqa: PLC0415  # needed by custom steps only
        from .steps.custom import load  # noqa: PLC0415

        own = OwnSecrets(settings.secrets, lambda secret: secrets[f"custom_steps.{name}.{secret}"])
        return load(StepTools(name, dict(settings.settings), own, aws, circumstances.dry_run, current, log))

    return StepFactory(name, make)


def once(make: Callable[[], T]) -> Callable[[], T]:
    """Returns a thread-safe function that calls ``make`` on its first call. A failure is not cached."""
    made: list[T] = []
    lock = threading.Lock()

    def get() -> T:
        with lock:
            if not made:
                made.append(make())
            return made[0]

    return get


def _check_package(steps: list[str]) -> None:
    """A prebuilt package may lack a step that the configuration enables."""
    try:
        info = json.loads((PACKAGE_ROOT / "build_info.json").read_text())
    except FileNotFoundError:
        return  # not a package: a checkout
    lacking = sorted(set(steps) - {*info.get("features", ()), *info.get("custom_steps", ())})
    if lacking:
        raise ConfigurationError(
            f"the package was built without {', '.join(lacking)}, which the module enables. Build it again"
        )
