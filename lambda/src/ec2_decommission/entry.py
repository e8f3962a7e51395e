"""The function's entry, ``ec2_decommission.entry.handle``. Lambda imports this module in its init phase.

The init phase has a whole CPU whatever the function's memory; an invocation has the share that goes with the memory.
So what every event needs is imported and made here: botocore, and clients of EC2 and DynamoDB, which send nothing
yet.
What only some events need (Chef, Consul, KMS, Route 53, the sweep) is imported and made by the first of them.
https://docs.aws.amazon.com/lambda/latest/dg/lambda-runtime-environment.html, and measured at
https://bitesizedserverless.com/bite/lambda-cold-start-bootstrap/
"""

from __future__ import annotations

import gc
import os
from contextlib import suppress
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .handler import Application

# The collector would look dozens of times at what is imported and at EC2's model, and find nothing that can go.
gc.disable()
# ruff: noqa: E402

from .deadline import Deadline
from .errors import ConfigurationError
from .events import is_batch
from .handler import flush
from .metrics import Metrics
from .wiring import application, log

_application: Application | None = None


def _start() -> Application:
    """The application, made once. Raises ConfigurationError."""
    global _application  # noqa: PLW0603  # one cold start, one application
    if _application is None:
        _application = application()
    return _application


# Lambda repeats an init that fails, and no message would be told why it goes back to the queue. So what fails here is
# tried again by the invocation, and fails there.
with suppress(Exception):
    _start()

# What is there now stays as long as the process: no collection has to look at it again.
gc.freeze()
gc.enable()


def handle(event: Any, context: Any) -> dict[str, Any]:
    """Handles what Lambda calls the function with.

    Args:
        event: an SQS event, an EventBridge event, or the operator's payload.
        context: Lambda's context.

    Raises:
        ConfigurationError: the function is set up wrongly. An SQS batch is returned to the queue instead.
        MalformedEvent: the payload is none that the contract names.
        FailedError: something failed for a single EventBridge event.
    """
    try:
        started = _start()
    except ConfigurationError as error:
        log.error(f"the function cannot start: {error}", extra={"error_kinds": [error.kind]})
        # What it would be called is in the configuration; the module gives the function the same name.
        metrics = Metrics(os.environ.get("AWS_LAMBDA_FUNCTION_NAME", "unknown"))
        metrics.failure(error.kind)
        flush(metrics, log)
        if not is_batch(event):
            raise
        identifiers = [r["messageId"] for r in event["Records"] if isinstance(r, dict) and "messageId" in r]
        return {"batchItemFailures": [{"itemIdentifier": identifier} for identifier in identifiers]}
    return started.handle(event, Deadline(lambda: context.get_remaining_time_in_millis() / 1000))
