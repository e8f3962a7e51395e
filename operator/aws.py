"""AWS clients, and AWS's errors as sentences."""

from __future__ import annotations

import os
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import boto3
import botocore.exceptions
from botocore.config import Config

from problems import FAILED, Problem

if TYPE_CHECKING:
    from collections.abc import Iterator

# Lambda's longest timeout is 900 seconds, and an answer takes as long as the function does.
_READ_TIMEOUT_SECONDS = 910

_ACCESS = {"AccessDenied", "AccessDeniedException", "UnauthorizedOperation", "AuthorizationError", "KMSAccessDenied"}
_CREDENTIALS = {
    "AuthFailure",
    "ExpiredToken",
    "ExpiredTokenException",
    "InvalidClientTokenId",
    "InvalidSignatureException",
    "RequestExpired",
    "SignatureDoesNotMatch",
    "UnrecognizedClientException",
}


class Clients:
    """Makes a client of each service once, in the deployment's region.

    Args:
        profile: of the AWS configuration; None takes the environment's credentials.
        region: where the deployment is.
    """

    def __init__(self, profile: str | None, region: str | None) -> None:
        with explained("read the AWS configuration"):
            # boto3 by itself does not read AWS_REGION, which every other tool does.
            self._session = boto3.session.Session(
                profile_name=profile, region_name=region or os.environ.get("AWS_REGION") or None
            )
        found = self._session.region_name
        if not found:
            raise Problem(
                "The region is not known: the outputs name none, and there is no --region, AWS_REGION or profile's."
            )
        self.region: str = found
        self._clients: dict[str, Any] = {}

    def __call__(self, service: str) -> Any:
        if service not in self._clients:
            with explained(f"reach {service}"):
                self._clients[service] = self._session.client(
                    service,  # type: ignore[call-overload]  # any service by its name
                    config=Config(
                        connect_timeout=10,
                        read_timeout=_READ_TIMEOUT_SECONDS,
                        # A connection that says nothing for minutes is cut by NAT gateways unless it is kept alive.
                        tcp_keepalive=True,
                        retries={"mode": "standard", "total_max_attempts": 4},
                    ),
                )
        return self._clients[service]


@contextmanager
def explained(doing: str) -> Iterator[None]:
    """Turns botocore's errors into sentences.

    Args:
        doing: what is being done, with the resource and the right, for example
            ``invoke the function x (lambda:InvokeFunction)``.

    Raises:
        Problem: says what AWS answered, and what to do.
    """
    try:
        yield
    except botocore.exceptions.ClientError as error:
        raise _refusal(error, doing) from None
    except (botocore.exceptions.NoCredentialsError, botocore.exceptions.PartialCredentialsError):
        raise Problem(
            f"Could not {doing}: there are no AWS credentials. Set AWS_PROFILE or give --profile, or log in "
            "(`aws sso login`)."
        ) from None
    except botocore.exceptions.ProfileNotFound as error:
        raise Problem(f"{error}; `aws configure list-profiles` lists those that there are.") from None
    except (
        botocore.exceptions.TokenRetrievalError,
        botocore.exceptions.SSOError,
        botocore.exceptions.CredentialRetrievalError,
    ) as error:
        raise Problem(f"Could not {doing}: the AWS credentials cannot be had: {error}") from None
    except (botocore.exceptions.HTTPClientError, botocore.exceptions.ConnectionError) as error:
        raise Problem(f"Could not {doing}: AWS does not answer: {error}", FAILED) from None
    except botocore.exceptions.BotoCoreError as error:
        raise Problem(f"Could not {doing}: {error}") from None


def _refusal(error: botocore.exceptions.ClientError, doing: str) -> Problem:
    told = error.response.get("Error", {})
    code, message = str(told.get("Code", "")), str(told.get("Message", "")).strip()
    if code in _ACCESS:
        return Problem(
            f"AWS denies these credentials the right to {doing}: {message} "
            "The policy that an operator needs is in docs/operator.md."
        )
    if code in _CREDENTIALS:
        return Problem(f"Could not {doing}: AWS does not accept the credentials ({code}: {message}). Log in again.")
    if code in ("ResourceNotFoundException", "AWS.SimpleQueueService.NonExistentQueue", "QueueDoesNotExist"):
        return Problem(f"Could not {doing}: it does not exist in this account and region ({message}).")
    return Problem(f"Could not {doing}: {code}: {message}", FAILED)
