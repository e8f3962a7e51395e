"""What a user's own step is written with: all that it may import of this package, and may rely on.

A step is a Python package whose ``__init__.py`` has ``make_step(tools)``. That gives an object with the three acts
of ``Step``; ``InstanceStep`` is the short way to one. ``API_VERSION`` is the version of this interface: within one,
names and parameters are added and none is taken away. docs/custom-steps.md describes all of it, with an example.
"""

from __future__ import annotations

import logging
import traceback
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from botocore.exceptions import BotoCoreError, ClientError

from .clients.aws import aws_errors
from .clients.ec2 import Interface
from .deadline import Deadline
from .errors import (
    AccessError,
    ConfigurationError,
    DecommissionError,
    OutOfTime,
    PermanentError,
    StillAlive,
    TransientError,
    about,
)
from .instance import Facts, Instance
from .live import Question
from .steps.base import Finding, Left, Outcome, Removal
from .templates import Template

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from .live import Live
    from .live import Living as Answer

__all__ = [
    "API_VERSION",
    "AccessError",
    "Batch",
    "ConfigurationError",
    "Deadline",
    "DecommissionError",
    "Facts",
    "Finding",
    "Instance",
    "InstanceStep",
    "Interface",
    "Left",
    "Living",
    "Note",
    "OutOfTime",
    "Outcome",
    "PermanentError",
    "Removal",
    "StepTools",
    "StillAlive",
    "Template",
    "TransientError",
]

API_VERSION = 1


class Living:
    """Who has an address or a name now, in every served place. Each question asks EC2 again."""

    def __init__(self, live: Live, gone: Iterable[str]) -> None:
        self._live = live
        self._gone = frozenset(gone)

    def interfaces(self, addresses: Iterable[str]) -> Mapping[str, tuple[Interface, ...]]:
        """The network interfaces that have each address now; no entry if none has.

        Raises:
            DecommissionError: a served place could not be asked.
        """
        living = self._ask(Question(addresses=frozenset(addresses)))
        return {address: tuple(h.interface for h in holders) for address, holders in living.holders.items()}

    def bearers(self, template: Template, names: Iterable[str]) -> Mapping[str, tuple[str, ...]]:
        """For each name the ids of the living instances for which the template gives that name, in any letter case.

        Raises:
            DecommissionError: a served place could not be asked.
        """
        asked = {name: (template, name.lower()) for name in names}
        living = self._ask(Question(names=frozenset(asked.values())))
        found = {name: living.bearers.get(key, ()) for name, key in asked.items()}
        return {name: tuple(i.instance_id for i in instances) for name, instances in found.items() if instances}

    def owner(self, instance: Instance, address: str, has_name: Callable[[Instance], bool]) -> str | None:
        """Who else has an address of the instance now, by the rules of the module's own steps; None if nobody has.

        Args:
            has_name: whether a living instance has the name of the thing in question. Private ranges may overlap, and
                then the name decides.

        Raises:
            DecommissionError: a served place could not be asked.
        """
        return self._ask(Question(addresses=frozenset({address}))).owner(instance, address, has_name)

    def _ask(self, question: Question) -> Answer:
        living = self._live.ask(question, self._gone).living
        if living.error:
            raise living.error
        return living


@dataclass(frozen=True)
class Batch:
    """The instances that a step handles at once, by id, the live instances, and the deadline."""

    instances: Mapping[str, Instance]
    living: Living
    deadline: Deadline


@dataclass(frozen=True)
class Note:
    """What could not be searched for, and why; it goes into the report, and the step continues."""

    text: str


class OwnSecrets(Mapping[str, str]):
    """A step's own part of the sealed bundle.

    Args:
        names: those that the step was given.
        open_one: opens the one of that name.
    """

    def __init__(self, names: Iterable[str], open_one: Callable[[str], str]) -> None:
        self.opened: dict[str, str] = {}
        self._names = tuple(names)
        self._open_one = open_one

    def __getitem__(self, name: str) -> str:
        if name not in self._names:
            raise KeyError(name)
        if name not in self.opened:
            self.opened[name] = self._open_one(name)
        return self.opened[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)

    def __contains__(self, name: object) -> bool:
        return name in self._names


def _no_aws(service: str) -> Any:
    raise ConfigurationError(f"these tools have no AWS: give StepTools(aws=boto3.client), to call {service}")


@dataclass(frozen=True)
class StepTools:
    """What a step is given. A test makes its own, for example ``StepTools("mine", {"a": "b"}, aws=boto3.client)``.

    Attributes:
        name: the step's name in ``custom_steps``.
        settings: its ``settings``.
        secrets: its ``secrets``, by name, and no other step's. They are opened when the first is asked for.
        aws: gives the boto3 client of a service, made once. Its calls keep to the invocation's time, and throttling
            is retried.
        dry_run: whether this run is to remove nothing; ``remove`` is not called then.
        clock: returns the deadline of the work under way.
        log: writes to the function's log, as Python's own loggers do.
    """

    name: str
    settings: Mapping[str, str] = field(default_factory=dict)
    secrets: Mapping[str, str] = field(default_factory=dict, repr=False)
    aws: Callable[..., Any] = field(default=_no_aws, repr=False)
    dry_run: bool = False
    clock: Callable[[], Deadline] = field(default=lambda: Deadline.after(60), repr=False)
    log: Any = field(default=logging.getLogger("ec2_decommission.custom_step"), repr=False)

    @property
    def deadline(self) -> Deadline:
        """When the work under way must end: ``deadline.timeout(10)`` is the time-out for a call of at most 10 s."""
        return self.clock()

    def setting(self, key: str, default: str | None = None) -> str:
        """A setting. Raises ConfigurationError where it is missing and has no default."""
        value = self.settings.get(key, default)
        if value is None:
            raise ConfigurationError(f"custom_steps.{self.name}.settings has no {key}, which the step needs")
        return value

    def secret(self, name: str) -> str:
        """A secret.

        Raises:
            ConfigurationError: the step has none of that name.
            AccessError: the function's role may not open the secrets.
            TransientError: KMS did not answer.
        """
        if name not in self.secrets:
            raise ConfigurationError(f"custom_steps.{self.name}.secrets has no {name}, which the step needs")
        return self.secrets[name]

    def explain(self, error: Exception) -> DecommissionError:
        """The error as one of this package's: its kind decides what is done about it.

        botocore's are sorted by their codes. Any other than this package's own is a fault of the step: it is logged
        with its stack trace, and taken for a passing one. The step's secrets are never repeated.
        """
        if isinstance(error, DecommissionError):
            return self._without_secrets(error)
        if isinstance(error, (BotoCoreError, ClientError)):
            try:
                with aws_errors(f"call {getattr(error, 'operation_name', 'AWS')}"):
                    raise error
            except DecommissionError as known:
                return self._without_secrets(known)
        self.log.error(
            f"custom step {self.name} failed unexpectedly",
            extra={"step": self.name, "stack_trace": self._hide("".join(traceback.format_exception(error)))},
        )
        return self._without_secrets(TransientError(f"unexpected {type(error).__name__}: {error}"))

    def _without_secrets(self, error: DecommissionError) -> DecommissionError:
        text = self._hide(str(error))
        return error if text == str(error) else type(error)(text)

    def _hide(self, text: str) -> str:
        # What was never opened can be in no text, and is not opened for this.
        opened = self.secrets.opened if isinstance(self.secrets, OwnSecrets) else self.secrets
        for secret in sorted(opened.values(), key=len, reverse=True):
            text = text.replace(secret, "***") if secret.strip() else text
        return text


class InstanceStep(ABC):
    """A step that handles one instance after the other. Write ``find_one`` and ``remove_one``.

    One instance's failure is no other's. Override ``look`` to read the system once for the whole batch, where it can
    only be read as a whole, and keep what it said on ``self``: a step object serves one batch.
    """

    def __init__(self, tools: StepTools) -> None:
        self.tools = tools

    @property
    def name(self) -> str:
        return self.tools.name

    @abstractmethod
    def find_one(self, instance: Instance, living: Living) -> Iterable[Removal | Left | Note]:
        """What is the instance's, each with its proof, and what is to be left, with the reason.

        Must change nothing: a dry run calls it too. May raise whatever it likes: the step then fails for this
        instance, and is tried again.
        """

    @abstractmethod
    def remove_one(self, instance: Instance, removal: Removal) -> bool | Left | None:
        """Removes one thing that ``find_one`` found. Look again here where its system can tell that it changed.

        Returns:
            False when it was gone already (that is success), a ``Left`` when it has changed since and is not the
            instance's any more, else True or nothing: it was removed.
        """

    def look(self, batch: Batch) -> Mapping[str, Facts]:  # noqa: ARG002
        """Nothing to read for the whole batch."""
        return {}

    def find(self, batch: Batch) -> Mapping[str, Finding]:
        return {i: self._find(instance, batch.living) for i, instance in batch.instances.items()}

    def _find(self, instance: Instance, living: Living) -> Finding:
        found: list[Removal | Left | Note] = []
        errors: tuple[DecommissionError, ...] = ()
        try:
            for item in self.find_one(instance, living):
                found.append(_told(item))
        except Exception as error:
            errors = (self.tools.explain(error),)
        return Finding(
            tuple(item for item in found if isinstance(item, Removal)),
            tuple(item for item in found if isinstance(item, Left)),
            tuple(item.text for item in found if isinstance(item, Note)),
            errors,
        )

    def remove(self, batch: Batch, findings: Mapping[str, Finding]) -> Mapping[str, Outcome]:
        return {i: self._remove(batch.instances[i], finding.removals) for i, finding in findings.items()}

    def _remove(self, instance: Instance, removals: Iterable[Removal]) -> Outcome:
        removed: list[Removal] = []
        left: list[Left] = []
        errors: list[DecommissionError] = []
        for removal in removals:
            try:
                result = self.remove_one(instance, removal)
            except Exception as error:
                errors.append(about(removal.target, self.tools.explain(error)))
            else:
                if isinstance(result, Left):
                    left.append(result)
                elif result is not False:
                    removed.append(removal)
        return Outcome(tuple(removed), tuple(left), tuple(errors))


def _told(item: Removal | Left | Note) -> Removal | Left | Note:
    if not isinstance(item, Removal | Left | Note):
        raise TypeError(f"find_one gave a {type(item).__name__}, which is no Removal, Left or Note")
    return item
