"""AWS clients that respect the invocation's deadline, and AWS errors converted to this package's."""

from __future__ import annotations

import re
import threading
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING, Any

import boto3
import botocore.session
from botocore.config import Config as BotoConfig
from botocore.credentials import DeferredRefreshableCredentials
from botocore.exceptions import BotoCoreError, ClientError
from botocore.parsers import ResponseParserError

from ..deadline import current
from ..errors import AccessError, ConfigurationError, DecommissionError, OutOfTime, PermanentError, TransientError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from ..deadline import Deadline

_ClientKey = tuple[str, str | None, str | None, str | None]

CONNECT_TIMEOUT_SECONDS = 2
READ_TIMEOUT_SECONDS = 6
CALL_SECONDS = CONNECT_TIMEOUT_SECONDS + READ_TIMEOUT_SECONDS  # the longest time that one attempt may take
# Shorter timeouts (connect, read) of some services: secrets are decrypted after a slow cold start, and failed
# messages are backed off in the last seconds of an invocation.
QUICK = {"kms": (1, 3), "sqs": (1, 2)}
READS_AT_ONCE = 4  # concurrent requests of one batch to EC2 or DynamoDB

# https://docs.aws.amazon.com/AWSEC2/latest/APIReference/errors-overview.html and the pages of the other services
_ACCESS = {"AccessDenied", "AccessDeniedException", "UnauthorizedOperation", "NotAuthorized"}
# PriorRequestNotComplete: Route 53 has not finished another change of the zone.
THROTTLED = {
    "Throttling",
    "ThrottlingException",
    "ThrottledException",
    "RequestLimitExceeded",
    "TooManyRequestsException",
    "SlowDown",
    "PriorRequestNotComplete",
}
_SETUP = {
    "NoSuchHostedZone": "the hosted zone does not exist",
    "ResourceNotFoundException": "the table does not exist",
    "NotFoundException": "the key does not exist",
    "DisabledException": "the key is disabled",
    "KMSInvalidStateException": "the key is in a state that does not allow its use",
    "InvalidCiphertextException": "the bundle was sealed with another key or another encryption context",
    "AWS.SimpleQueueService.NonExistentQueue": "the queue does not exist",
    "NoSuchBucket": "the bucket does not exist",
    "PermanentRedirect": "the bucket is in another region, and S3 does not say which",
}
# DynamoDB's messages: "Item size has exceeded ...", "Item size to update has exceeded the maximum allowed size".
_TOO_LARGE = re.compile(r"[Ii]tem size.* exceeded")


class ThrottledError(TransientError):
    """AWS throttles requests at the moment."""


class AwsClients:
    """Creates each boto3 client on first use and keeps it.

    No attempt is sent unless it can time out before the deadline. botocore's standard mode retries throttled
    requests.

    Args:
        deadline: returns the deadline of the current work.

    Example:
        >>> aws = AwsClients(current)
        >>> aws("ec2", role_arn="arn:aws:iam::222222222222:role/reader", region="eu-west-1").meta.region_name
        'eu-west-1'
    """

    def __init__(self, deadline: Callable[[], Deadline] = current) -> None:
        self._deadline = deadline
        self._sessions: dict[tuple[str | None, str | None], boto3.Session] = {}
        self._clients: dict[_ClientKey, Any] = {}
        self._making = threading.RLock()  # a session can create only one client at a time

    def __call__(
        self,
        service: str,
        role_arn: str | None = None,
        external_id: str | None = None,
        region: str | None = None,
    ) -> Any:
        """Returns the client of that service, for example ``ec2``.

        Args:
            service: boto3's name of the service.
            role_arn: a role to assume; None uses the function's own role. The first request assumes the role; it is
                assumed again before its credentials expire.
            external_id: sent when the role is assumed.
            region: None means the function's own.
        """
        key = (service, role_arn, external_id, region)
        with self._making:
            if key not in self._clients:
                self._clients[key] = self._make(self._session(role_arn, external_id), service, region)
            return self._clients[key]

    def _session(self, role_arn: str | None, external_id: str | None) -> boto3.Session:
        key = (role_arn, external_id)
        if key not in self._sessions:
            self._sessions[key] = self._assuming(role_arn, external_id) if role_arn else boto3.Session()
        return self._sessions[key]

    def _assuming(self, role_arn: str, external_id: str | None) -> boto3.Session:
        """Creates a session with the credentials of a role. botocore fetches and renews them."""

        def fetch() -> dict[str, Any]:
            doing = f"read account {role_arn.split(':')[4]} with {role_arn} (sts:AssumeRole)"
            request = {"RoleArn": role_arn, "RoleSessionName": "ec2-decommission"}
            if external_id:
                request["ExternalId"] = external_id
            with aws_errors(doing):
                credentials = self("sts").assume_role(**request)["Credentials"]
                return {
                    "access_key": credentials["AccessKeyId"],
                    "secret_key": credentials["SecretAccessKey"],
                    "token": credentials["SessionToken"],
                    "expiry_time": credentials["Expiration"].isoformat(),
                }

        own: Any = self._session(None, None)
        session: Any = botocore.session.get_session()
        # EC2's service description takes 20 MB and 0.2 s of CPU. Reading it once serves all roles.
        session.register_component("data_loader", own._session.get_component("data_loader"))
        session._credentials = DeferredRefreshableCredentials(fetch, "assume-role")
        return boto3.Session(botocore_session=session, region_name=own.region_name)

    def _make(self, session: boto3.Session, service: str, region: str | None) -> Any:
        connect, read = QUICK.get(service, (CONNECT_TIMEOUT_SECONDS, READ_TIMEOUT_SECONDS))
        config = BotoConfig(
            connect_timeout=connect,
            read_timeout=read,
            retries={"mode": "standard", "total_max_attempts": 4},
            max_pool_connections=16,
        )
        maker: Any = session  # the type stubs accept only literal service names
        client = maker.client(service, region_name=region, config=config)
        client.meta.events.register("before-send", partial(self._gate, connect + read))
        client.meta.events.register("after-call", _refuse_other_answers)
        return client

    def _gate(self, seconds: float, **_: object) -> None:
        self._deadline().check(seconds, "a call to AWS")


def _refuse_other_answers(http_response: Any, parsed: Mapping[str, Any], **_: object) -> None:
    """Refuses answers without a request id: every answer from AWS has one, a proxy's parsable page does not."""
    if http_response.status_code < 300 and not parsed.get("ResponseMetadata", {}).get("RequestId"):
        raise ResponseParserError("the answer has no request id, so it is not from AWS")


@contextmanager
def aws_errors(doing: str) -> Iterator[None]:
    """Converts botocore's errors to this package's.

    Args:
        doing: the operation and the resource, for example ``read table inventory (dynamodb:GetItem)``.

    Raises:
        AccessError: the role lacks the permission.
        ConfigurationError: a resource that the configuration names does not exist or cannot be used.
        PermanentError: the data to write is larger than a DynamoDB item may be.
        ThrottledError: AWS throttles, after all of botocore's attempts.
        OutOfTime: too little time is left to start.
        TransientError: anything else.
    """
    try:
        yield
    except OutOfTime as error:
        raise OutOfTime(f"could not {doing}: {error}") from None
    except DecommissionError:  # from assuming a role; its text is complete
        raise
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
        # An unreadable answer, such as a proxy's page, raises ResponseParserError or ValueError. If it is JSON but
        # not an object, botocore's parser raises one of the others.
        raise TransientError(f"could not {doing}: {error}") from error
