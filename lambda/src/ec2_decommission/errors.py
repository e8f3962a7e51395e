"""Everything that this package raises on purpose.

::

    DecommissionError
    ├── ConfigurationError      the module or a secret is set up wrongly; a person must act
    │   └── AccessError         a right is missing; names the right and what it is missing on
    ├── TransientError          the outside failed in a way that passes; the message is retried
    │   ├── OutOfTime           the invocation has not enough time left to begin the call
    │   └── StillAlive          what is to be removed lives; the message is retried
    └── MalformedEvent          the event is not one of those that the contract names
"""


class DecommissionError(Exception):
    """Base of all errors of this package; its text is fit for a report."""


class ConfigurationError(DecommissionError):
    """The configuration or a secret is wrong; retrying changes nothing until a person acts."""


class AccessError(ConfigurationError):
    """A right is missing; the text names the right, and what it is missing on."""


class TransientError(DecommissionError):
    """A fault that is expected to pass: no connection, a timeout, a 5xx answer, throttling."""


class OutOfTime(TransientError):
    """Too little of the invocation's time is left to begin another call."""


class StillAlive(TransientError):
    """What the event calls dead is alive in the system that was asked."""


class MalformedEvent(DecommissionError):
    """An event, SQS body or operator's payload that the contract does not know."""
