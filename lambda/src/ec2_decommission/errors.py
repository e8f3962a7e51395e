"""All exceptions that this package raises on purpose.

::

    DecommissionError
    ├── ConfigurationError      the module or a secret is set up wrongly; a person must act
    │   └── AccessError         a permission is missing; names the permission and the resource
    ├── TransientError          another system failed in a way that passes; the message is retried
    │   ├── OutOfTime           too little time is left in the invocation to start the call
    │   └── StillAlive          the instance or its agent is alive; the message is retried
    ├── PermanentError          this object of this instance will be refused at every retry
    └── MalformedEvent          the event has an unknown form

Each error has a ``kind``, which the report shows next to the error's text: ``transient``, ``configuration``,
``permission`` or ``permanent``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

if TYPE_CHECKING:
    from collections.abc import Iterable

TRANSIENT, CONFIGURATION, PERMISSION, PERMANENT = "transient", "configuration", "permission", "permanent"
# The first of these kinds represents several errors: first what a person must fix, then what passes by itself, then
# what no retry can change.
KINDS = (PERMISSION, CONFIGURATION, TRANSIENT, PERMANENT)


class DecommissionError(Exception):
    """Base class of all errors of this package. Its text is suitable for a report."""

    kind: ClassVar[str] = TRANSIENT


class ConfigurationError(DecommissionError):
    """The configuration or a secret is wrong; retrying changes nothing until a person acts."""

    kind = CONFIGURATION


class AccessError(ConfigurationError):
    """A permission is missing. The text names the permission and the resource."""

    kind = PERMISSION


class TransientError(DecommissionError):
    """A fault that is expected to pass: no connection, a timeout, a 5xx response, throttling.

    Attributes:
        retry_after_seconds: the server's Retry-After; None if the response had none.
    """

    retry_after_seconds: float | None = None


class OutOfTime(TransientError):
    """Too little time is left in the invocation to start another call."""


class StillAlive(TransientError):
    """The event says that the instance is dead, but the queried system shows it alive."""


class PermanentError(DecommissionError):
    """This object will be refused at every retry. Other objects are not affected.

    A message with only errors of this kind does not back off, so it soon reaches the dead-letter queue.
    """

    kind = PERMANENT


class MalformedEvent(DecommissionError):
    """An event, SQS body or operator's payload of unknown form."""

    kind = PERMANENT


_OF_KIND: dict[str, type[DecommissionError]] = {
    TRANSIENT: TransientError,
    CONFIGURATION: ConfigurationError,
    PERMISSION: AccessError,
    PERMANENT: PermanentError,
}


def about(what: str, error: DecommissionError) -> DecommissionError:
    """Returns the error with ``what`` in front of its text, with the same kind and ``retry_after_seconds``."""
    named = _OF_KIND[error.kind](f"{what}: {error}")
    if isinstance(named, TransientError) and isinstance(error, TransientError):
        named.retry_after_seconds = error.retry_after_seconds
    return named


def gravest(kinds: Iterable[str]) -> str | None:
    """Returns the kind that represents several errors, by ``KINDS``; None if there are none."""
    return min(kinds, key=KINDS.index, default=None)


def as_errors(errors: Iterable[object] | str | BaseException) -> tuple[DecommissionError, ...]:
    """Converts the errors of a custom step. Anything that is not a DecommissionError becomes a TransientError."""
    told = (errors,) if isinstance(errors, (str, BaseException)) else tuple(errors)
    return tuple(
        e if isinstance(e, DecommissionError) else TransientError(str(e) or type(e).__name__) for e in told if e
    )
