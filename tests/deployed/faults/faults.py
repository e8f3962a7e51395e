"""The ways in which each system fails, and the words that the function must find for it."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from typing import Any

from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from testbed.aws import Answer, AwsError, Hang
from testbed.aws_protocol import error_answer
from testbed.fault_proxy import Outcome
from testbed.platform import CONSUL_RULES, TOOL_CLIENT
from tests.deployed.conftest import NAME
from tests.deployed.faults.lane import AWS, SYSTEMS, Lane, aws_call, is_change

REFUSES, HANGS, ERRORS, THROTTLES = "refuses connection", "hangs", "answers 5xx", "throttles"
GARBAGE, RIGHTS, DIES = "answers garbage", "loses rights", "dies half-way through"
FAULTS = (REFUSES, HANGS, ERRORS, THROTTLES, GARBAGE, RIGHTS, DIES)

# Words of each system that a reason must hold: a person has to know where to look.
WORDS = {
    "Chef": ("Chef server",),
    "Consul": ("Consul",),
    "Route 53": ("route53:",),
    "DynamoDB": ("dynamodb:", "ec2-decommission-inventory"),
    "EC2": ("ec2:Describe",),
    "KMS": ("kms:Decrypt",),
}

_HTML = b"<!DOCTYPE html><html><head><title>Welcome</title></head><body>Please log in.</body></html>"
_GATEWAY = b"<html><head><title>502 Bad Gateway</title></head><body><center>nginx</center></body></html>"
_JSON = {"Content-Type": "application/json"}
_UNAVAILABLE = {"EC2": "Unavailable", "Route 53": "ServiceUnavailable"}
_THROTTLED = {
    "EC2": AwsError("RequestLimitExceeded", "Request limit exceeded.", 503),
    "Route 53": AwsError("Throttling", "Rate exceeded", 400),
    "DynamoDB": AwsError("ThrottlingException", "Throughput exceeds the current capacity of your table.", 400),
    "KMS": AwsError("ThrottlingException", "You have exceeded the rate at which you may call KMS.", 400),
}


During = Callable[[Lane], AbstractContextManager[None]]


@dataclass(frozen=True)
class Variant:
    """One way in which one system shows one fault.

    `during` brings the fault about, for the time of the context. `words` are those that the reason must hold, `kinds`
    the kinds of error that it may be told as.
    """

    system: str
    fault: str
    name: str
    during: During
    words: tuple[str, ...]
    kinds: tuple[str, ...] = ("transient",)

    @property
    def everywhere(self) -> bool:
        """Whether the fault is in the server itself, and so in every lane."""
        return self.fault == RIGHTS


def variants() -> list[Variant]:
    """All of them."""
    return [variant for system in SYSTEMS for variant in (*_by_proxy(system), *_rights(system))]


def down(lane: Lane, system: str) -> None:
    """The system answers that it is not available."""
    lane.proxies[system].answers(_unavailable(system))


def _by_proxy(system: str) -> Iterator[Variant]:
    words = WORDS[system]

    def variant(fault: str, name: str, act: Callable[[Lane], None]) -> Variant:
        @contextmanager
        def during(lane: Lane) -> Iterator[None]:
            act(lane)
            try:
                yield
            finally:
                lane.proxies[system].passes()

        return Variant(system, fault, name, during, words)

    def answer(fault: str, name: str, outcome: Outcome) -> Variant:
        return variant(fault, name, lambda lane: lane.proxies[system].answers(outcome))

    yield variant(REFUSES, "the port is closed", lambda lane: lane.proxies[system].refuses())
    yield answer(HANGS, "takes requests and never answers", Hang(600))
    yield answer(ERRORS, "every request", _unavailable(system))
    for name, outcome in _throttling(system):
        yield answer(THROTTLES, name, outcome)
    for name, outcome in _garbage(system):
        yield answer(GARBAGE, name, outcome)
    for name, after in (("a change takes effect, its answer is lost", True), ("before its first change", False)):
        if system == "KMS" and not after:
            continue  # it is asked once: that is "refuses connection"
        what = {"EC2": "after DescribeInstances", "KMS": "the answer is lost"}.get(system, name)
        if system == "EC2" and not after:
            continue
        yield variant(DIES, what, _dying(system, after=after))


def _unavailable(system: str) -> Answer:
    if system == "Chef":
        return Answer(502, _GATEWAY, {"Content-Type": "text/html"})
    if system == "Consul":
        return Answer(500, b"No cluster leader")
    code = _UNAVAILABLE.get(system, "InternalServerError")
    return error_answer(aws_call(system), AwsError(code, "The service is unavailable.", 503))


def _throttling(system: str) -> Iterator[tuple[str, Answer]]:
    if system in AWS:
        error = _THROTTLED[system]
        yield error.code, error_answer(aws_call(system), error)
        return
    body = b"Your IP is issuing too many concurrent connections, please rate limit your calls"
    yield "429", Answer(429, body, {"Content-Type": "text/plain"})
    yield "429 with Retry-After", Answer(429, body, {"Content-Type": "text/plain", "Retry-After": "2"})


def _garbage(system: str) -> Iterator[tuple[str, Answer]]:
    yield "a log-in page with status 200", Answer(200, _HTML, {"Content-Type": "text/html"})
    if system in ("Route 53", "EC2"):
        yield "half a document", Answer(200, b'<?xml version="1.0"?>\n<Response><Some', {"Content-Type": "text/xml"})
        return
    yield "half a document", Answer(200, b'{"rows": [{"data": {"na', _JSON)
    if system not in AWS:
        yield "another document", Answer(200, json.dumps({"unexpected": True}).encode(), _JSON)


def _dying(system: str, *, after: bool) -> Callable[[Lane], None]:
    return lambda lane: lane.proxies[system].dies(lambda request: is_change(system, request), after=after)


# ---------------------------------------------------------------- rights


def _rights(system: str) -> Iterator[Variant]:
    def variant(name: str, during: During, *words: str, kind: str = "permission") -> Variant:
        return Variant(system, RIGHTS, name, during, words, (kind,))

    if system == "Chef":
        denied = f"Chef client {TOOL_CLIENT} may not DELETE /clients/"
        yield variant("the client is no administrator any more", _no_administrator, denied)
        refused = f"does not accept the signature of client {TOOL_CLIENT}"
        yield variant("the client's key is replaced", _another_key, refused, "chef_client_key", kind="configuration")
    elif system == "Consul":
        yield variant("the token's policy is emptied", _no_rules, "Consul", "node:read")
        yield variant("the token is revoked", _no_token, "Consul", "does not know the token", "consul_token")
    elif system == "Route 53":
        for action in ("ListResourceRecordSets", "ChangeResourceRecordSets"):
            yield variant(f"no {action}", _without(f"route53:{action}"), f"route53:{action}", "hosted zone")
    elif system == "DynamoDB":
        words = ("dynamodb:BatchGetItem", "ec2-decommission-inventory")
        yield variant("none on the table", _without("dynamodb:"), *words)
    elif system == "EC2":
        yield variant("no DescribeInstances", _without("ec2:DescribeInstances"), "ec2:DescribeInstances")
    else:
        yield variant("no Decrypt", _without("kms:"), "kms:Decrypt", ":key/")


@contextmanager
def _no_administrator(lane: Lane) -> Iterator[None]:
    chef = lane.deployed.platform.chef.api
    chef.request("PUT", f"/clients/{TOOL_CLIENT}", json={"name": TOOL_CLIENT, "admin": False})
    try:
        yield
    finally:
        chef.request("PUT", f"/clients/{TOOL_CLIENT}", json={"name": TOOL_CLIENT, "admin": True})


@contextmanager
def _another_key(lane: Lane) -> Iterator[None]:
    chef = lane.deployed.platform.chef.api
    before = chef.request("GET", f"/clients/{TOOL_CLIENT}")
    key = rsa.generate_private_key(65537, 2048).public_key()
    text = key.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo).decode()
    document = {"name": TOOL_CLIENT, "admin": True}
    chef.request("PUT", f"/clients/{TOOL_CLIENT}", json={**document, "public_key": text})
    try:
        yield
    finally:
        chef.request("PUT", f"/clients/{TOOL_CLIENT}", json={**document, "public_key": before["public_key"]})


@contextmanager
def _no_rules(lane: Lane) -> Iterator[None]:
    platform = lane.deployed.platform
    platform.consul.change_token(platform.consul_token, "")
    try:
        yield
    finally:
        platform.consul.change_token(platform.consul_token, CONSUL_RULES)


@contextmanager
def _no_token(lane: Lane) -> Iterator[None]:
    platform = lane.deployed.platform
    token = platform.consul.api("GET", "/v1/acl/token/self", token=platform.consul_token)
    platform.consul.delete_token(platform.consul_token)
    try:
        yield
    finally:
        document = {"SecretID": platform.consul_token, "Policies": token["Policies"]}
        platform.consul.api("PUT", "/v1/acl/token", json=document)


def _without(action: str) -> During:
    """Takes actions (by the beginning of their names) out of the role's own policy."""

    @contextmanager
    def during(lane: Lane) -> Iterator[None]:
        platform = lane.deployed.platform
        iam = platform.aws.client("iam")
        role = platform.functions._function(NAME).role.rpartition("/")[2]
        before = iam.get_role_policy(RoleName=role, PolicyName="function")["PolicyDocument"]
        statements = [_stripped(statement, action) for statement in before["Statement"]]
        document = {**before, "Statement": [statement for statement in statements if statement["Action"]]}
        iam.put_role_policy(RoleName=role, PolicyName="function", PolicyDocument=json.dumps(document))
        try:
            yield
        finally:
            iam.put_role_policy(RoleName=role, PolicyName="function", PolicyDocument=json.dumps(before))

    return during


def _stripped(statement: dict[str, Any], action: str) -> dict[str, Any]:
    actions = statement["Action"] if isinstance(statement["Action"], list) else [statement["Action"]]
    return {**statement, "Action": [one for one in actions if not one.startswith(action)]}
