"""The interface for custom steps: everything that a step may import from this package and rely on.

A step is a Python package whose ``__init__.py`` has ``make_step(tools)``. That function returns an object with the
three methods of ``Step``; ``InstanceStep`` is the short way to write one. ``API_VERSION`` is the version of this
interface. Within a version, names and parameters may be added, but none is removed. docs/custom-steps.md describes
the interface, with an example.
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
    """Finds who has an address or a name now, in every served place. Each call queries EC2 again."""

    def __init__(self, live: Live, gone: Iterable[str]) -> None:
        self._live = live
        self._gone = frozenset(gone)

    def interfaces(self, addresses: Iterable[str]) -> Mapping[str, tuple[Interface, ...]]:
        """Returns the network interfaces that have each address now. An address without one has no entry.

        Raises:
            DecommissionError: a served place could not be queried.
        """
        living = self._ask(Question(addresses=frozenset(addresses)))
        return {address: tuple(h.interface for h in holders) for address, holders in living.holders.items()}

    def bearers(self, template: Template, names: Iterable[str]) -> Mapping[str, tuple[str, ...]]:
        """Returns, for each name, the ids of the live instances whose template renders to it, ignoring case.

        Raises:
            DecommissionError: a served place could not be queried.
        """
        asked = {name: (template, name.lower()) for name in names}
        living = self._ask(Question(names=frozenset(asked.values())))
        found = {name: living.bearers.get(key, ()) for name, key in asked.items()}
        return {name: tuple(i.instance_id for i in instances) for name, instances in found.items() if instances}

    def owner(self, instance: Instance, address: str, has_name: Callable[[Instance], bool]) -> str | None:
        """Returns who else has an address of the instance now, by the built-in steps' rules; None if nobody does.

        Args:
            has_name: whether a live instance has the name of the object in question. The name decides where private
                ranges overlap.

        Raises:
            DecommissionError: a served place could not be queried.
        """
        return self._ask(Question(addresses=frozenset({address}))).owner(instance, address, has_name)

    def _ask(self, question: Question) -> Answer:
        living = self._live.ask(question, self._gone).living
        if living.error:
            raise living.error
        return living


@dataclass(frozen=True)
class Batch:
    """The instances that a step handles together, by id, with the live instances and the deadline."""

    instances: Mapping[str, Instance]
    living: Living
    deadline: Deadline


@dataclass(frozen=True)
class Note:
    """Something that could not be searched for, and why. It goes into the report, and the step continues."""

    text: str


class OwnSecrets(Mapping[str, str]):
    """A step's own secrets from the sealed bundle.

    Args:
        names: the secrets that the step was given.
        open_one: decrypts the secret with that name.
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
    raise ConfigurationError(f"these tools have no AWS client for {service}: pass StepTools(aws=boto3.client)")


@dataclass(frozen=True)
class StepTools:
    """What a step receives. A test creates its own, for example ``StepTools("mine", {"a": "b"}, aws=boto3.client)``.

    Attributes:
        name: the step's name in ``custom_steps``.
        settings: its ``settings``.
        secrets: its ``secrets`` by name, and no other step's. They are decrypted on first use.
        aws: returns the boto3 client of a service; each client is created once. Its calls end before the
            invocation does, and throttled calls are retried.
        dry_run: whether this run must remove nothing. ``remove`` is not called then.
        clock: returns the deadline of the current work.
        log: writes to the function's log, with the methods of Python's loggers.
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
        """When the current work must end. ``deadline.timeout(10)`` is the timeout for a call of at most 10 s."""
        return self.clock()

    def setting(self, key: str, default: str | None = None) -> str:
        """Returns a setting. Raises ConfigurationError if it is missing and has no default."""
        value = self.settings.get(key, default)
        if value is None:
            raise ConfigurationError(f"custom_steps.{self.name}.settings has no {key}, which the step needs")
        return value

    def secret(self, name: str) -> str:
        """Returns a secret.

        Raises:
            ConfigurationError: the step has no secret of that name.
            AccessError: the function's role may not decrypt the secrets.
            TransientError: KMS did not answer.
        """
        if name not in self.secrets:
            raise ConfigurationError(f"custom_steps.{self.name}.secrets has no {name}, which the step needs")
        return self.secrets[name]

    def explain(self, error: Exception) -> DecommissionError:
        """Converts any exception to a DecommissionError. Its kind decides how the function handles it.

        botocore errors are classified by their codes. Any other exception is treated as a transient fault of the step
        and logged with its stack trace. Secrets of the step are masked.
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
        # A secret that was never decrypted cannot be in the text.
        opened = self.secrets.opened if isinstance(self.secrets, OwnSecrets) else self.secrets
        for secret in sorted(opened.values(), key=len, reverse=True):
            text = text.replace(secret, "***") if secret.strip() else text
        return text


class InstanceStep(ABC):
    """A step that handles one instance after the other. Implement ``find_one`` and ``remove_one``.

    A failure for one instance does not affect the others. If the system can only be read as a whole, override
    ``look`` to read it once per batch and keep the answer on ``self``: a step object serves one batch.
    """

    def __init__(self, tools: StepTools) -> None:
        self.tools = tools

    @property
    def name(self) -> str:
        return self.tools.name

    @abstractmethod
    def find_one(self, instance: Instance, living: Living) -> Iterable[Removal | Left | Note]:
        """Finds the objects of the instance, each with its proof, and those to keep, each with the reason.

        Must change nothing: a dry run calls it too. May raise any exception; the step then fails for this instance
        and is retried.
        """

    @abstractmethod
    def remove_one(self, instance: Instance, removal: Removal) -> bool | Left | None:
        """Removes one object that ``find_one`` found. Check here again if the object may have changed since.

        Returns:
            False if it was already gone (a success). A ``Left`` if it has changed and no longer belongs to the
            instance. True or None if it was removed.
        """

    def look(self, batch: Batch) -> Mapping[str, Facts]:  # noqa: ARG002
        """Reads nothing for the whole batch by default."""
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
        raise TypeError(f"find_one yielded a {type(item).__name__}; expected a Removal, Left or Note")
    return item
