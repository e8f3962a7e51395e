"""Puts the application together from the environment: made once per cold start."""

from __future__ import annotations

import json
import os
import re
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from aws_lambda_powertools import Logger

from .chunks import chunks
from .clients.aws import CALL_SECONDS, AwsClients, aws_errors
from .clients.ec2 import BotoEc2, LivingInEc2
from .config import VARIABLE, Config
from .errors import ConfigurationError, TransientError
from .events import sweep_on, termination
from .handler import Application
from .inventory import DynamoInventory
from .recall import unwanted
from .run import Clock, StepFactory
from .secret_bundle import FILE_NAME, SecretBundle
from .together import side_by_side

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from typing import TypeVar

    from .clients.ec2 import Description
    from .config import CustomStepSettings
    from .steps.base import Step

    T = TypeVar("T")

PACKAGE_ROOT = Path(__file__).parent.parent
_SQS_BATCH = 10  # the most entries that SQS takes in one call

log = Logger()


def application() -> Application:
    """The application as the environment configures it.

    Raises:
        ConfigurationError: says everything that is wrong with the configuration, or what the package lacks.
    """
    config = Config.parse(os.environ.get(VARIABLE))
    clock = Clock()
    # Custom steps are given the same clients, so that their calls to Route 53 keep to the limit too.
    aws = AwsClients(lambda: clock.deadline, check_parameters=bool(config.custom_steps), models=_models())
    ec2 = BotoEc2(aws("ec2"), side_by_side)
    inventory = None
    if config.inventory:
        kept = config.inventory
        inventory = DynamoInventory(aws("dynamodb"), kept.table_name, kept.retention_days, together=side_by_side)
    systems = _Systems(config, aws, clock)
    return Application(
        config,
        ec2=ec2,
        living=lambda gone, namesakes: LivingInEc2(ec2, gone, namesakes),
        inventory=inventory,
        steps=_steps(config, aws, clock, systems),
        log=log,
        clock=clock,
        delays=SqsQueue(aws, config.queue.url) if config.queue else None,
        sweep=_sweep(config, aws, ec2, inventory, systems, clock),
        together=side_by_side,
    )


class _Systems:
    """Chef and Consul, each opened and connected when it is first asked for, and kept while warm."""

    def __init__(self, config: Config, aws: AwsClients, clock: Clock) -> None:
        secrets = SecretBundle(PACKAGE_ROOT / FILE_NAME, config.encryption_context, lambda: aws("kms"))
        tls = _once(_tls)

        def consul_tls() -> Any:
            from .clients.tls import add_client_certificate  # noqa: PLC0415

            names = ("consul_client_certificate", "consul_client_key")
            if not set(names) & set(config.secrets):
                return tls()
            context = _tls()  # one of its own: no other server is to see the certificate
            add_client_certificate(context, secrets[names[0]], secrets[names[1]], names)
            return context

        def chef() -> Any:
            from .clients.chef import PyChefServer  # noqa: PLC0415

            if config.chef is None:
                raise ConfigurationError("chef: the step is off")
            return PyChefServer(config.chef, secrets["chef_client_key"], lambda: clock.deadline, tls())

        def consul() -> Any:
            from .clients.consul import PyConsulCatalog  # noqa: PLC0415

            if config.consul is None:
                raise ConfigurationError("consul: the step is off")
            token = secrets["consul_token"] if "consul_token" in config.secrets else None
            return PyConsulCatalog(config.consul, token, lambda: clock.deadline, consul_tls())

        self.secrets = secrets
        self.chef = _once(chef)
        self.consul = _once(consul)


def _sweep(
    config: Config,
    aws: AwsClients,
    ec2: BotoEc2,
    inventory: DynamoInventory | None,
    systems: _Systems,
    clock: Clock,
) -> Callable[[], Any] | None:
    settings, queue = config.sweep, config.queue
    if settings is None or queue is None or inventory is None:
        return None

    def make() -> Any:
        # Not needed by an event.
        from .adoption import Adoption, Place, sources  # noqa: PLC0415
        from .sweep import Sweep  # noqa: PLC0415

        # https://sqs.eu-west-1.amazonaws.com/123456789012/queue: asking STS would be a call more.
        account = re.search(r"/([0-9]{12})/[^/]+$", queue.url)
        place = Place(ec2.region, account[1] if account else None)
        datacenters = config.consul.datacenters if config.consul else ()
        found = sources(settings.adopt, place, systems.chef, systems.consul, datacenters)
        adoption = Adoption(found, ec2, inventory) if found else None

        def wanted(description: Description) -> bool:
            return unwanted(description.instance(), config.instance_filter) is None

        return Sweep(settings, ec2, inventory, SqsQueue(aws, queue.url), wanted, place, clock, adoption)

    return make


def _steps(config: Config, aws: AwsClients, clock: Clock, systems: _Systems) -> list[StepFactory]:
    """The steps that are on. Route 53 first: in turn, it needs what Chef and Consul know before that goes."""
    steps: list[StepFactory] = []

    # What a step needs is imported, opened and connected when the step first runs, and kept while warm.
    if config.route53:
        route53 = config.route53

        def hosted_zones() -> Any:
            from .clients.governor import Governor  # noqa: PLC0415
            from .clients.route53 import BotoZones  # noqa: PLC0415

            rate, shared = route53.max_requests_per_second, None
            if rate and config.inventory:
                from .clients.shared_rate import DynamoBucket  # noqa: PLC0415

                shared = DynamoBucket(aws("dynamodb"), config.inventory.table_name, rate)
            governor = Governor(
                route53.requests_per_second,
                lambda: clock.deadline,
                CALL_SECONDS,
                shared=shared,
                warn=log.warning,
            )
            return BotoZones(aws("route53"), governor)

        zones = _once(hosted_zones)

        def route53_step(_: bool) -> Step:
            from .steps.route53 import Route53Step  # noqa: PLC0415

            return Route53Step(route53, zones())

        steps.append(StepFactory("route53", route53_step))
    if config.chef:
        chef = config.chef

        def chef_step(dry_run: bool) -> Step:
            from .steps.chef import ChefStep  # noqa: PLC0415

            # Before a deletion the server's own 404 tells whether a client is there; a dry run has to ask.
            return ChefStep(chef, systems.chef(), confirm_clients=dry_run)

        steps.append(StepFactory("chef", chef_step, chef.node_name if chef.delete_client else None))
    if config.consul:
        consul = config.consul

        def consul_step(_: bool) -> Step:
            from .steps.consul import ConsulStep  # noqa: PLC0415

            return ConsulStep(consul, systems.consul())

        steps.append(StepFactory("consul", consul_step))
    own = config.custom_steps.items()
    steps += [_custom_step(name, settings, systems.secrets, aws, clock) for name, settings in own]
    _check_package([step.name for step in steps])
    return steps


def _custom_step(
    name: str, settings: CustomStepSettings, secrets: SecretBundle, aws: AwsClients, clock: Clock
) -> StepFactory:
    """A user's own step: the package ``custom_steps.<name>`` and its ``make_step(tools)``."""

    def make(dry_run: bool) -> Step:
        from .custom_step import OwnSecrets, StepTools  # noqa: PLC0415  # not needed without one
        from .steps.custom import load  # noqa: PLC0415

        own = OwnSecrets(settings.secrets, lambda secret: secrets[f"custom_steps.{name}.{secret}"])
        tools = StepTools(name, dict(settings.settings), own, aws, dry_run, lambda: clock.deadline, log)
        return load(tools)

    return StepFactory(name, make)


def _once(make: Callable[[], T]) -> Callable[[], T]:
    """Calls ``make`` when first asked; a failure is not kept."""
    made: list[T] = []

    def get() -> T:
        if not made:
            made.append(make())
        return made[0]

    return get


def _tls() -> Any:
    """The certificates that Chef and Consul are checked against: the public authorities and the package's own."""
    from .clients.tls import trusting  # noqa: PLC0415

    return trusting(PACKAGE_ROOT / "ca_bundle.pem")


def _models() -> Path | None:
    """The package's own descriptions of AWS for botocore: what this package calls, and so quickly read."""
    models = PACKAGE_ROOT / "aws_models"
    return models if models.is_dir() else None


def _check_package(steps: list[str]) -> None:
    """A prebuilt package may have been built for other steps than those that are on."""
    try:
        info = json.loads((PACKAGE_ROOT / "build_info.json").read_text())
    except FileNotFoundError:
        return  # not a package: a checkout
    lacking = sorted(set(steps) - {*info.get("features", ()), *info.get("custom_steps", ())})
    if lacking:
        raise ConfigurationError(
            f"the package was built without {', '.join(lacking)}, which the module switches on: build it again"
        )


class SqsQueue:
    """The module's own queue."""

    def __init__(self, aws: AwsClients, queue_url: str) -> None:
        self._aws = aws
        self._queue_url = queue_url

    def put_off(self, seconds_by_receipt: Mapping[str, int]) -> None:
        """Makes each message visible again after so many seconds (0 to 43,200)."""
        client = self._aws("sqs")
        for some in chunks(seconds_by_receipt.items(), _SQS_BATCH):
            entries = [
                {"Id": str(number), "ReceiptHandle": receipt, "VisibilityTimeout": seconds}
                for number, (receipt, seconds) in enumerate(some)
            ]
            with aws_errors(f"put off messages of {self._queue_url} (sqs:ChangeMessageVisibility)"):
                client.change_message_visibility_batch(QueueUrl=self._queue_url, Entries=entries)

    def send(self, instances: Sequence[Mapping[str, str]]) -> None:
        """One termination event for each instance.

        Raises:
            TransientError: not all could be sent; those that were are handled once more by the next sweep.
        """
        client, now = self._aws("sqs"), datetime.now(UTC)
        for some in chunks(instances, _SQS_BATCH):
            entries = [
                {
                    "Id": str(number),
                    "MessageBody": json.dumps(
                        termination(known["instance_id"], known.get("account_id"), known.get("region"), now)
                    ),
                }
                for number, known in enumerate(some)
            ]
            with aws_errors(f"send to {self._queue_url} (sqs:SendMessage)"):
                answer = client.send_message_batch(QueueUrl=self._queue_url, Entries=entries)
            if answer.get("Failed"):
                raise TransientError(f"{len(answer['Failed'])} messages could not be sent to {self._queue_url}")

    def go_on(self, progress: Mapping[str, Any]) -> None:
        """A sweep that begins where another ends."""
        body = json.dumps(sweep_on(progress, datetime.now(UTC)))
        with aws_errors(f"send to {self._queue_url} (sqs:SendMessage)"):
            self._aws("sqs").send_message(QueueUrl=self._queue_url, MessageBody=body)
