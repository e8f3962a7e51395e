"""Everything that this package raises on purpose.

::

    DecommissionError
    ├── ConfigurationError      the module or a secret is set up wrongly; a person must act
    │   └── AccessError         a right is missing; names the right and what it is missing on
    ├── TransientError          the outside failed in a way that passes; the message is retried
    │   ├── OutOfTime           the invocation has not enough time left to begin the call
    │   └── StillAlive          what is to be removed lives; the message is retried
    ├── PermanentError          this thing of this instance will be refused again, whatever is fixed
    └── MalformedEvent          the event is not one of those that the contract names

Each has a ``kind``, which stands in the report beside the error's text: ``transient``, ``configuration``,
``permission`` or ``permanent``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

if TYPE_CHECKING:
    from collections.abc import Iterable

TRANSIENT, CONFIGURATION, PERMISSION, PERMANENT = "transient", "configuration", "permission", "permanent"
# Of several errors the first of these kinds stands for all: what a person must fix comes first, then what passes by
# itself, then what no retry can change.
KINDS = (PERMISSION, CONFIGURATION, TRANSIENT, PERMANENT)


class DecommissionError(Exception):
    """Base of all errors of this package; its text is fit for a report."""

    kind: ClassVar[str] = TRANSIENT


class ConfigurationError(DecommissionError):
    """The configuration or a secret is wrong; retrying changes nothing until a person acts."""

    kind = CONFIGURATION


class AccessError(ConfigurationError):
    """A right is missing; the text names the right, and what it is missing on."""

    kind = PERMISSION


class TransientError(DecommissionError):
    """A fault that is expected to pass: no connection, a timeout, a 5xx answer, throttling.

    Attributes:
        retry_after_seconds: how long the server asked to wait (Retry-After); None where it did not say.
    """

    retry_after_seconds: float | None = None


class OutOfTime(TransientError):
    """Too little of the invocation's time is left to begin another call."""


class StillAlive(TransientError):
    """What the event calls dead is alive in the system that was asked."""


class PermanentError(DecommissionError):
    """This one thing is refused, and will be at every retry; others are not concerned.

    A message all of whose errors are of this kind is not retried for long: it reaches the dead letters soon.
    """

    kind = PERMANENT


class MalformedEvent(DecommissionError):
    """An event, SQS body or operator's payload that the contract does not know."""

    kind = PERMANENT


_OF_KIND: dict[str, type[DecommissionError]] = {
    TRANSIENT: TransientError,
    CONFIGURATION: ConfigurationError,
    PERMISSION: AccessError,
    PERMANENT: PermanentError,
}


def about(what: str, error: DecommissionError) -> DecommissionError:
    """The error as one of ``what``: same kind, and the text says what it is about."""
    named = _OF_KIND[error.kind](f"{what}: {error}")
    if isinstance(named, TransientError) and isinstance(error, TransientError):
        named.retry_after_seconds = error.retry_after_seconds
    return named


def gravest(kinds: Iterable[str]) -> str | None:
    """The kind that stands for several errors, by ``KINDS``; None if there are none."""
    return min(kinds, key=KINDS.index, default=None)


def as_errors(errors: Iterable[object] | str | BaseException) -> tuple[DecommissionError, ...]:
    """Errors as a custom step may hand them over: what is no DecommissionError is taken for a passing fault."""
    told = (errors,) if isinstance(errors, (str, BaseException)) else tuple(errors)
    return tuple(
        e if isinstance(e, DecommissionError) else TransientError(str(e) or type(e).__name__) for e in told if e
    )
