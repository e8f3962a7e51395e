"""AWS clients, and AWS errors as sentences."""

from __future__ import annotations

import os
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import boto3
from botocore import exceptions as aws
from botocore.config import Config

if TYPE_CHECKING:
    from collections.abc import Iterator

FAILED = 1  # a step, the sweep, the function or the network failed
REFUSED = 2  # usage, credentials, permissions, or no such deployment: the function was not called
_READ_TIMEOUT_SECONDS = 910  # Lambda's longest timeout is 900 seconds
_DENIED = {"AccessDenied", "AccessDeniedException", "KMSAccessDenied"}
_LOGIN = {"ExpiredToken", "ExpiredTokenException", "InvalidClientTokenId", "UnrecognizedClientException"}


class Problem(Exception):
    """The command cannot continue. The text is a sentence for the operator; ``status`` is the exit status."""

    def __init__(self, message: str, status: int = REFUSED) -> None:
        super().__init__(message)
        self.status = status


def reason(error: Exception) -> str:
    """Why a file could not be read, without its name and the error number."""
    return getattr(error, "strerror", None) or str(error)


class Clients:
    """One client per service, in the deployment's region.

    Args:
        profile: AWS profile; None uses the credentials of the environment.
        region: Region of the deployment; None uses the one of the AWS configuration.
        fallback: Region to use if there is no other.
    """

    def __init__(self, profile: str | None, region: str | None, fallback: str | None = None) -> None:
        with explained("read the AWS configuration"):
            # Unlike other AWS tools, boto3 does not read AWS_REGION.
            self._session = boto3.Session(
                profile_name=profile, region_name=region or os.environ.get("AWS_REGION") or None
            )
        self.region: str = self._session.region_name or fallback or ""
        if not self.region:
            raise Problem("The region of the deployment is not known: give --function-region, or set AWS_REGION.")
        self._clients: dict[str, Any] = {}

    def __call__(self, service: str) -> Any:
        if service not in self._clients:
            config = Config(
                connect_timeout=10,
                read_timeout=_READ_TIMEOUT_SECONDS,
                tcp_keepalive=True,  # NAT gateways drop connections that are idle for minutes
                retries={"mode": "standard", "total_max_attempts": 4},
            )
            with explained(f"reach {service}"):
                self._clients[service] = self._session.client(
                    service,  # type: ignore[call-overload]  # any service by its name
                    region_name=self.region,
                    config=config,
                )
        return self._clients[service]


@contextmanager
def explained(doing: str) -> Iterator[None]:
    """Turns botocore's errors into sentences.

    Args:
        doing: The operation, its resource and permission: ``invoke the function x (lambda:InvokeFunction)``.

    Raises:
        Problem: Says what AWS answered, and what to do.
    """
    try:
        yield
    except aws.ClientError as error:
        code = str(error.response.get("Error", {}).get("Code", ""))
        message = str(error.response.get("Error", {}).get("Message", "")).strip()
        if code in _DENIED:
            raise Problem(
                f"AWS denies these credentials permission to {doing}: {message} The policy is in docs/operator.md."
            ) from None
        if code in _LOGIN:
            raise Problem(f"Could not {doing}: AWS does not accept the credentials ({code}). Log in again.") from None
        if code in ("ResourceNotFoundException", "AWS.SimpleQueueService.NonExistentQueue"):
            raise Problem(f"Could not {doing}: it does not exist in this account and region ({message}).") from None
        raise Problem(f"Could not {doing}: {code}: {message}", FAILED) from None
    except (aws.NoCredentialsError, aws.PartialCredentialsError):
        raise Problem(
            f"Could not {doing}: there are no AWS credentials. Set AWS_PROFILE or give --profile."
        ) from None
    except (aws.HTTPClientError, aws.ConnectionError) as error:
        raise Problem(f"Could not {doing}: AWS does not answer: {error}", FAILED) from None
    except aws.BotoCoreError as error:
        raise Problem(f"Could not {doing}: {error}") from None
