"""AWS clients that keep to the invocation's deadline, and AWS's errors in this package's terms."""

from __future__ import annotations

import re
import threading
from contextlib import contextmanager, suppress
from datetime import datetime
from functools import partial
from typing import TYPE_CHECKING, Any

import botocore.session
from botocore.config import Config as BotoConfig
from botocore.exceptions import BotoCoreError, ClientError
from botocore.loaders import Loader
from botocore.parsers import ResponseParserError
from botocore.utils import parse_timestamp

from ..errors import AccessError, ConfigurationError, DecommissionError, OutOfTime, PermanentError, TransientError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from pathlib import Path

    from ..deadline import Deadline

CONNECT_TIMEOUT_SECONDS = 2
READ_TIMEOUT_SECONDS = 6
CALL_SECONDS = CONNECT_TIMEOUT_SECONDS + READ_TIMEOUT_SECONDS  # the longest that one attempt may take
# The same by service, where it differs: failed messages are put off in the last seconds of an invocation.
QUICK = {"sqs": (1, 2)}
READS_AT_ONCE = 4  # requests of one batch to EC2, or to DynamoDB

# https://docs.aws.amazon.com/AWSEC2/latest/APIReference/errors-overview.html and the pages of the other services
_ACCESS = {"AccessDenied", "AccessDeniedException", "UnauthorizedOperation", "NotAuthorized"}
# "Not so fast": with PriorRequestNotComplete, Route 53 is not done with another change of the zone.
THROTTLED = {
    "Throttling",
    "ThrottlingException",
    "ThrottledException",
    "RequestLimitExceeded",
    "TooManyRequestsException",
    "PriorRequestNotComplete",
}
_SETUP = {
    "NoSuchHostedZone": "the hosted zone does not exist",
    "ResourceNotFoundException": "the table does not exist",
    "NotFoundException": "the key does not exist",
    "DisabledException": "the key is disabled",
    "KMSInvalidStateException": "the key is not in a state in which it can be used",
    "InvalidCiphertextException": "the bundle was sealed with another key or under another encryption context",
    "AWS.SimpleQueueService.NonExistentQueue": "the queue does not exist",
}
# DynamoDB's words: "Item size has exceeded ...", "Item size to update has exceeded the maximum allowed size".
_TOO_LARGE = re.compile(r"[Ii]tem size.* exceeded")


class ThrottledError(TransientError):
    """AWS takes no more requests at the moment."""


class AwsClients:
    """Makes each client once, when it is first asked for.

    No attempt, first or repeated, is sent unless it can time out before the deadline. Throttling is retried by
    botocore's standard mode, which knows Route 53's ``Throttling`` and ``PriorRequestNotComplete`` too.

    Args:
        deadline: returns the deadline of the work under way.
        check_parameters: whether botocore checks each request before it is made: a tenth of the CPU that a batch
            takes. Unchecked, a wrong value is AWS's to refuse, and a wrong name a KeyError of botocore's. So that
            is for this package's own requests, which the tests make with checks, and not for a custom step's.
        models: a directory of botocore's descriptions of the services that are asked (lambda/build/models.py).
            Without it, or for a service that is not in it, clients are boto3's.
    """

    def __init__(
        self, deadline: Callable[[], Deadline], *, check_parameters: bool = True, models: Path | None = None
    ) -> None:
        self._deadline = deadline
        self._check_parameters = check_parameters
        self._clients: dict[str, Any] = {}
        self._quick = _session_of(models) if models else None
        self._whole: Any = None
        self._making = threading.Lock()  # a session makes one client at a time

    def __call__(self, service: str) -> Any:
        """The client of that service, for example ``ec2``."""
        with self._making:
            if service not in self._clients:
                self._clients[service] = self._make(service)
            return self._clients[service]

    def _make(self, service: str) -> Any:
        connect, read = QUICK.get(service, (CONNECT_TIMEOUT_SECONDS, READ_TIMEOUT_SECONDS))
        client = self._client(
            service,
            BotoConfig(
                connect_timeout=connect,
                read_timeout=read,
                retries={"mode": "standard", "total_max_attempts": 4},
                max_pool_connections=16,
                parameter_validation=self._check_parameters,
            ),
        )
        client.meta.events.register("before-send", partial(self._gate, connect + read))
        client.meta.events.register("after-call", _refuse_other_answers)
        return client

    def _client(self, service: str, config: BotoConfig) -> Any:
        if self._quick:
            # A botocore other than the build's may find too little there, or what it cannot read: then its own serve.
            with suppress(Exception):
                return self._quick.create_client(service, config=config)
        if self._whole is None:
            import boto3  # noqa: PLC0415  # a tenth of the start of a function that does without

            self._whole = boto3.Session()
        return self._whole.client(service, config=config)

    def _gate(self, seconds: float, **_: object) -> None:
        self._deadline().check(seconds, "a call to AWS")


def _session_of(models: Path) -> botocore.session.Session:
    """A session that knows what is described in a directory, and looks nowhere else."""
    session = botocore.session.get_session()
    session.register_component("data_loader", _OwnLoader([str(models)], include_default_search_paths=False))
    session.get_component("response_parser_factory").set_parser_defaults(timestamp_parser=_timestamp)
    return session


def _timestamp(value: str) -> datetime:
    """As botocore reads it; in its own way, the time of each instance's launch takes as long as all else of it."""
    try:
        return datetime.fromisoformat(value)
    except (TypeError, ValueError):
        return parse_timestamp(value)


class _OwnLoader(Loader):
    """Loads botocore's own descriptions from another directory.

    botocore applies its rules for endpoints (FIPS, dual-stack) only where the list of these is its own.
    """

    def is_builtin_path(self, path: str) -> bool:  # noqa: ARG002
        return True


def _refuse_other_answers(http_response: Any, parsed: Mapping[str, Any], **_: object) -> None:
    """Every answer of AWS bears a request id. A proxy's page that can be parsed has none, and leaves out the rest."""
    if http_response.status_code < 300 and not parsed.get("ResponseMetadata", {}).get("RequestId"):
        raise ResponseParserError("the answer bears no request id, so it is not AWS's")


@contextmanager
def aws_errors(doing: str) -> Iterator[None]:
    """Turns botocore's errors into this package's.

    Args:
        doing: what is being done, with the resource, for example ``read table inventory (dynamodb:GetItem)``.

    Raises:
        AccessError: the role lacks the right.
        ConfigurationError: what the configuration names does not exist or cannot be used.
        PermanentError: what is to be written is larger than an item of DynamoDB may be.
        ThrottledError: AWS throttles, after all of botocore's attempts.
        OutOfTime: too little time is left to begin it.
        TransientError: anything else.
    """
    try:
        yield
    except OutOfTime as error:
        raise OutOfTime(f"could not {doing}: {error}") from None
    except ClientError as error:
        code = str(error.response.get("Error", {}).get("Code", ""))
        message = str(error.response.get("Error", {}).get("Message", ""))
        if code in _ACCESS:
            raise AccessError(f"AWS denies the function's role the right to {doing}: {message}") from None
        if code in _SETUP:
            raise ConfigurationError(f"could not {doing}: {_SETUP[code]} ({code}: {message})") from None
        kind: type[DecommissionError] = ThrottledError if code in THROTTLED else TransientError
        if code == "ValidationException" and _TOO_LARGE.search(message):
            kind = PermanentError
        raise kind(f"could not {doing}: {code}: {message}") from error
    except (BotoCoreError, ResponseParserError, OSError, ValueError, AttributeError, TypeError) as error:
        # An answer that cannot be read, such as a proxy's page, is a ResponseParserError or a ValueError; where it is
        # JSON and no object, botocore's parser stumbles with one of the others.
        raise TransientError(f"could not {doing}: {error}") from error
