"""Parses AWS API requests and writes AWS error answers, in each service's protocol."""

from __future__ import annotations

import io
import json
import re
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any
from uuid import uuid4
from xml.sax.saxutils import escape

from moto.core.model import ServiceModel
from moto.core.parse import PROTOCOL_PARSERS
from moto.core.request import Request, determine_request_protocol
from moto.core.routing import get_service_router
from moto.core.utils import get_service_model

Environ = dict[str, Any]

_CREDENTIAL = re.compile(r"Credential=([^/,]+)/\d+/([^/]+)/([^/]+)/aws4_request")
_CBOR_PATH = re.compile(r"/service/[^/]+/operation/(\w+)")
# Services whose name in the signature differs from boto3's name.
_SERVICES = {"monitoring": "cloudwatch", "states": "stepfunctions", "tagging": "resourcegroupstaggingapi"}


@dataclass(frozen=True)
class Call:
    """An API call: boto3's service name, the operation, its parameters and the signer."""

    service: str
    operation: str
    params: Mapping[str, Any]
    region: str
    access_key: str
    session_token: str | None
    protocol: str
    principal: str = ""
    at: float = field(default_factory=time.time)

    @property
    def name(self) -> str:
        return f"{self.service}:{self.operation}"


@dataclass(frozen=True)
class Answer:
    """A raw HTTP answer."""

    status: int
    body: bytes
    headers: Mapping[str, str] = field(default_factory=dict)


class AwsError(Exception):
    """An AWS error answer. `status` is the HTTP status."""

    def __init__(self, code: str, message: str, status: int = 400) -> None:
        super().__init__(f"{code}: {message}")
        self.code = code
        self.message = message
        self.status = status


def buffer_body(environ: Environ) -> bytes:
    """Reads the request's body so that it can be read again."""
    if environ.get("HTTP_TRANSFER_ENCODING", "").lower() == "chunked":
        body = environ["wsgi.input"].read()
        del environ["HTTP_TRANSFER_ENCODING"]
        environ.pop("wsgi.input_terminated", None)
        environ["CONTENT_LENGTH"] = str(len(body))
    else:
        body = environ["wsgi.input"].read(int(environ.get("CONTENT_LENGTH") or 0))
    environ["wsgi.input"] = io.BytesIO(body)
    return bytes(body)


def parse_call(environ: Environ, body: bytes) -> Call | None:
    """The request's API call; None if it is not a signed call to a service that boto3 knows."""
    signature = _CREDENTIAL.search(environ.get("HTTP_AUTHORIZATION", ""))
    if signature is None:
        return None
    access_key, region, signed_name = signature.groups()
    service = _SERVICES.get(signed_name, signed_name)
    request = Request({**environ, "wsgi.input": io.BytesIO(body)})
    try:
        model = get_service_model(service)
    except Exception:  # botocore raises various exceptions for an unknown service
        return None
    uri_params: dict[str, Any] = {}
    operation = str(request.values.get("Action", ""))
    if not operation and (target := environ.get("HTTP_X_AMZ_TARGET")):
        operation = target.rpartition(".")[2]
    if not operation and (cbor := _CBOR_PATH.fullmatch(request.path)):
        return Call(service, cbor[1], {}, region, access_key, _token(environ), "smithy-rpc-v2-cbor")
    if not operation:
        try:
            matched, uri_params = get_service_router(service).match(request)
        except Exception:  # no route: moto answers it
            return None
        operation = str(matched.name)
    protocol = determine_request_protocol(model, request.content_type)
    params = _parse_params(model, operation, protocol, request, uri_params)
    return Call(service, operation, params, region, access_key, _token(environ), protocol)


def _token(environ: Environ) -> str | None:
    token = environ.get("HTTP_X_AMZ_SECURITY_TOKEN")
    return str(token) if token else None


def _parse_params(
    model: ServiceModel, operation: str, protocol: str, request: Request, uri_params: dict[str, Any]
) -> dict[str, Any]:
    parser: Any = PROTOCOL_PARSERS[protocol]
    try:
        parsed = parser(model.operation_model(operation), map_type=dict).parse(
            {
                "method": request.method,
                "values": request.values,
                "headers": request.headers,
                "body": request.data,
                "url_path": request.path,
                "url_params": uri_params,
            }
        )
    except Exception:  # moto rejects malformed requests
        return dict(uri_params)
    return {**uri_params, **(parsed or {})}


def error_answer(call: Call, error: AwsError) -> Answer:
    """The error in the service's own wire format."""
    request_id = str(uuid4())
    headers = {"x-amzn-RequestId": request_id}
    fields = f"<Code>{escape(error.code)}</Code><Message>{escape(error.message)}</Message>"
    if call.protocol in ("ec2", "query", "rest-xml"):
        if call.service == "ec2":
            body = f"<Response><Errors><Error>{fields}</Error></Errors><RequestID>{request_id}</RequestID></Response>"
        elif call.service == "s3":
            body = f"<Error>{fields}<RequestId>{request_id}</RequestId></Error>"
        else:
            fault = "Sender" if error.status < 500 else "Receiver"
            body = (
                f"<ErrorResponse><Error><Type>{fault}</Type>{fields}</Error>"
                f"<RequestId>{request_id}</RequestId></ErrorResponse>"
            )
        return Answer(error.status, body.encode(), {**headers, "Content-Type": "text/xml"})
    headers["X-Amzn-ErrorType"] = error.code
    headers["Content-Type"] = "application/json"
    if call.service == "sqs":
        # Clients still read the error codes of SQS's older protocol.
        headers["x-amzn-query-error"] = f"{error.code};Sender"
    return Answer(error.status, json.dumps({"__type": error.code, "message": error.message}).encode(), headers)


FaultHook = Callable[[str, str, Mapping[str, Any]], object]
