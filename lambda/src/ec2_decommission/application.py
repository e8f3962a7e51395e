"""Puts the application together from the environment; made once per cold start."""

from __future__ import annotations

import json
import os
import threading
from datetime import UTC, datetime
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
from .secret_bundle import FILE_NAME, SecretBundle
from .together import side_by_side

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from .config import CustomStepSettings
    from .inventory import Inventory
    from .steps.base import Step
    from .sweep import Sweep

T = TypeVar("T")

PACKAGE_ROOT = Path(__file__).parent.parent
LAYER_VARIABLE = "DECOMMISSION_LAYER_DIR"
_LAYER_ROOT = "/opt/ec2-decommission"

log = Logger()


def make_application() -> Application:
    """The application as the environment configures it.

    Raises:
        ConfigurationError: says everything that is wrong with the configuration, or what the package lacks.
    """
    config = Config.parse(os.environ.get(VARIABLE), package_file(SETTINGS_FILE))
    aws = AwsClients()
    served = served_places(config)
    ec2 = {place: _ec2(aws, served, place) for place in served}
    inventory = None
    if config.inventory:
        kept = config.inventory
        inventory = DynamoInventory(aws("dynamodb"), kept.table_name, kept.retention_days, together=side_by_side)
    systems = _Systems(config, aws)
    live = Live(ec2, side_by_side)
    tools = Tools(
        live,
        inventory,
        _steps(config, aws, systems),
        log,
        lambda: datetime.now(UTC),
        Metrics(config.name),
        side_by_side,
    )
    queue = SqsQueue(lambda: aws("sqs"), config.queue.url) if config.queue else None
    results = None
    if config.result_events:
        results = ResultEvents(lambda: aws("events"), config.result_events.event_bus_name)
    sweep = _sweep(config, served, ec2, inventory, queue, systems)
    return Application(config, served, ec2, tools, queue, sweep, results=results)


def served_places(config: Config) -> Served:
    """The places that the configuration names."""
    own = Place(config.account_id, config.region)
    if config.organization is None:
        return Served(own)
    organization = config.organization
    partition = boto3.Session().get_partition_for_region(config.region)
    return Served(own, organization.members, organization.role_name, organization.external_id, partition)


def package_file(name: str) -> Path | None:
    """A file that was packaged with the code or, if the code is the same for everybody, in a layer."""
    layer = Path(os.environ.get(LAYER_VARIABLE, _LAYER_ROOT))
    return next((path for root in (PACKAGE_ROOT, layer) if (path := root / name).is_file()), None)


def _ec2(aws: AwsClients, served: Served, place: Place) -> BotoEc2:
    role_arn = served.role_arn(place.account_id)
    external_id = served.external_id if role_arn else None
    region = None if place.region == served.own.region else place.region
    return BotoEc2(lambda: aws("ec2", role_arn, external_id, region), place, side_by_side)


class _Systems:
    """Chef and Consul, each connected when it is first asked for, and kept while the environment is warm."""

    def __init__(self, config: Config, aws: AwsClients) -> None:
        secrets = SecretBundle(package_file(FILE_NAME), config.encryption_context, lambda: aws("kms"))
        tls = once(self._tls)

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
            return PyConsulCatalog(config.consul, token, current, tls())

        self.secrets = secrets
        self.chef = once(chef)
        self.consul = once(consul)

    @staticmethod
    def _tls() -> Any:
        from .clients.tls import context  # noqa: PLC0415  # not needed without Chef, Consul and HTTP steps

        return context(package_file("ca_bundle.pem"))


def _sweep(
    config: Config,
    served: Served,
    ec2: Mapping[Place, BotoEc2],
    inventory: Inventory | None,
    queue: SqsQueue | None,
    systems: _Systems,
) -> Callable[[Place], Sweep] | None:
    settings = config.sweep
    if settings is None or queue is None or inventory is None:
        return None

    def make(place: Place) -> Sweep:
        from .orphans import Orphans, Scope, sources  # noqa: PLC0415  # not needed by an event
        from .sweep import Sweep  # noqa: PLC0415

        scope = Scope(place, alone=len(list(served)) == 1)
        datacenters = config.consul.datacenters if config.consul else ()
        found = sources(settings.adopt, scope, systems.chef, systems.consul, datacenters)
        orphans = Orphans(found, ec2[place], inventory) if found else None
        return Sweep(settings, place, ec2[place], inventory, queue, config.instance_filter, orphans)

    return make


def _custom_step(name: str, settings: CustomStepSettings, secrets: SecretBundle, aws: AwsClients) -> StepFactory:
    """A user's own step: the package ``custom_steps.<name>`` and its ``make_step(tools)``."""

    def make() -> Step:
        from .custom_step import OwnSecrets, StepTools  # noqa: PLC0415  # not needed without one
        from .steps.custom import load  # noqa: PLC0415

        own = OwnSecrets(settings.secrets, lambda secret: secrets[f"custom_steps.{name}.{secret}"])
        return load(StepTools(name, dict(settings.settings), own, aws, clock=current, log=log))

    return StepFactory(name, make)


def once(make: Callable[[], T]) -> Callable[[], T]:
    """Calls ``make`` when first asked, whichever thread asks; a failure is not kept."""
    made: list[T] = []
    lock = threading.Lock()

    def get() -> T:
        with lock:
            if not made:
                made.append(make())
            return made[0]

    return get


def _check_package(steps: list[str], more: list[str]) -> None:
    """A prebuilt package may have been built for other steps than those that are on."""
    try:
        info = json.loads((PACKAGE_ROOT / "build_info.json").read_text())
    except FileNotFoundError:
        return  # not a package: a checkout
    lacking = sorted({*steps, *more} - {*info.get("features", ()), *info.get("custom_steps", ())})
    if lacking:
        raise ConfigurationError(
            f"the package was built without {', '.join(lacking)}, which the module switches on: build it again"
        )
