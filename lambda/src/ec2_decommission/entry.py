"""The function's entry point, ``ec2_decommission.entry.handle``. Lambda imports this module in its init phase."""

from __future__ import annotations

import os
from contextlib import suppress
from functools import cache
from typing import TYPE_CHECKING, Any

from .application import log, make_application
from .deadline import Deadline
from .errors import ConfigurationError
from .events import is_batch
from .handler import flush
from .metrics import Metrics

if TYPE_CHECKING:
    from .handler import Application


@cache
def _start() -> Application:
    """The application, made once. A failure is not kept. Raises ConfigurationError."""
    return make_application()


# If init raised, Lambda would repeat it, and messages would return to the queue without a reason. The invocation
# tries again and reports the error.
with suppress(Exception):
    _start()


def handle(event: Any, context: Any) -> dict[str, Any]:
    """Handles any event that Lambda invokes the function with.

    Args:
        event: an SQS event, an EventBridge event, or an operator's payload.
        context: Lambda's context.

    Raises:
        ConfigurationError: the function is misconfigured. An SQS batch returns to the queue instead.
        MalformedEvent: the payload has an unknown form.
        FailedError: a single EventBridge event failed.
    """
    log.append_keys(request_id=context.aws_request_id)
    try:
        application = _start()
    except ConfigurationError as error:
        log.error(f"the function cannot start: {error}", extra={"error_kinds": [error.kind]})
        # The configuration holds the name and cannot be read; the module gives the function the same name.
        metrics = Metrics(os.environ.get("AWS_LAMBDA_FUNCTION_NAME", "unknown"))
        metrics.failure(error.kind)
        flush(metrics, log)
        if not is_batch(event):
            raise
        identifiers = [r["messageId"] for r in event["Records"] if isinstance(r, dict) and "messageId" in r]
        return {"batchItemFailures": [{"itemIdentifier": identifier} for identifier in identifiers]}
    deadline = Deadline(lambda: context.get_remaining_time_in_millis() / 1000)
    return application.handle(event, deadline, context.aws_request_id)
