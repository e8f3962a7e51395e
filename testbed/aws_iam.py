"""Decides whether a principal may make an API call, as IAM does: actions, resources and conditions.

moto's enforcement ignores resources and conditions. Here, an unknown condition operator is an error, and an operation
without a known resource needs a statement with the resource `*`, so no call passes unchecked.
"""

from __future__ import annotations

import json
import re
import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

from moto.iam.models import ManagedPolicy, Role, User, iam_backends
from moto.kms.models import kms_backends
from moto.sqs.models import sqs_backends
from moto.sts.models import AssumedRole, sts_backends

from testbed.aws_protocol import AwsError, Call
from testbed.aws_route53 import normalized_name

ACCOUNT = "123456789012"
_PARTITION = "aws"

# Operations whose IAM action has another name.
_ACTIONS = {
    "lambda:Invoke": "lambda:InvokeFunction",
    "s3:ListObjectsV2": "s3:ListBucket",
    "sqs:ChangeMessageVisibilityBatch": "sqs:ChangeMessageVisibility",
    "sqs:DeleteMessageBatch": "sqs:DeleteMessage",
    "sqs:SendMessageBatch": "sqs:SendMessage",
}
_TRANSACTION_ACTIONS = {"Get": "GetItem", "Put": "PutItem", "Update": "UpdateItem", "Delete": "DeleteItem"}

Statement = Mapping[str, Any]
Context = Mapping[str, list[str]]


@dataclass(frozen=True)
class Principal:
    """The caller: a user or a role session."""

    arn: str
    policies: list[dict[str, Any]]
    boundary: dict[str, Any] | None = None
    role_arn: str | None = None
    account: str = ACCOUNT
    source_function_arn: str | None = None
    """The Lambda function whose code holds the credentials. AWS distinguishes its calls from Lambda's own calls."""

    @property
    def identities(self) -> set[str]:
        """The ARNs that a resource policy may use for this principal."""
        return {self.arn, *([self.role_arn] if self.role_arn else [])}


def principal_of(call: Call) -> Principal:
    """The owner of the call's credentials. Raises AWS's error for unknown credentials."""
    for account in list(sts_backends):
        for role in sts_backends[account][_PARTITION].assumed_roles:
            if role.access_key_id == call.access_key:
                if role.session_token != call.session_token:
                    raise _invalid_token(call)
                return _session(role, call)
    for account in list(iam_backends):
        for user in list(iam_backends[account][_PARTITION].users.values()):
            if any(key.access_key_id == call.access_key for key in user.access_keys):
                return replace(_user(user), account=account)
    raise _invalid_token(call)


def role_principal(role_arn: str, session_name: str) -> Principal:
    """A session of the role without credentials, to evaluate the role's permissions."""
    account = role_arn.split(":")[4]
    role = iam_backends[account][_PARTITION].get_role_by_arn(role_arn)
    arn = f"arn:{_PARTITION}:sts::{account}:assumed-role/{role.name}/{session_name}"
    return Principal(arn, _policies(role), _boundary(role.permissions_boundary_arn), role.arn, account)


def authorize(principal: Principal, call: Call) -> None:
    """Raises AWS's "access denied" error unless policies allow the call for all its resources."""
    if call.name == "sts:GetCallerIdentity":  # AWS always allows this call
        return
    context = _context(principal, call)
    for action, resource in _needed(call, principal.account):
        if reason := denial(principal, action, resource, context):
            raise _access_denied(call, principal, action, resource, reason)
        if call.name == "sts:AssumeRole" and not _trusts(resource, principal, context):
            reason = "because no resource-based policy allows the sts:AssumeRole action"
            raise _access_denied(call, principal, action, resource, reason)


def denial(principal: Principal, action: str, resource: str, context: Context) -> str | None:
    """The reason why IAM denies the action on the resource; None if it is allowed."""
    identity = _decision(principal.policies, action, resource, context)
    if identity == "Deny":
        return "with an explicit deny in an identity-based policy"
    resource_policy = _resource_policy(resource)
    by_resource = None
    if resource_policy is not None:
        by_resource = _decision([resource_policy], action, resource, context, principal=principal)
        if by_resource == "Deny":
            return "with an explicit deny in a resource-based policy"
    if principal.boundary is not None and _decision([principal.boundary], action, resource, context) != "Allow":
        return f"because no permissions boundary allows the {action} action"
    if action.startswith("kms:") and resource_policy is not None:
        # A key policy must allow the principal itself, or delegate to IAM by naming the account's root.
        delegated = _decision([resource_policy], action, resource, context, principal=_ROOT) == "Allow"
        if by_resource != "Allow" and not delegated:
            return f"because no resource-based policy allows the {action} action"
    if identity == "Allow" or by_resource == "Allow":
        return None
    return f"because no identity-based policy allows the {action} action"


def _trusts(role_arn: str, principal: Principal, context: Context) -> bool:
    """Whether the role's trust policy allows the principal, or its whole account, to assume the role."""
    try:
        role = iam_backends[role_arn.split(":")[4]][_PARTITION].get_role_by_arn(role_arn)
    except Exception:  # AWS gives the same answer for a role that does not exist
        return False
    trust = [json.loads(role.assume_role_policy_document)]
    root = Principal(f"arn:{_PARTITION}:iam::{principal.account}:root", [], account=principal.account)
    return "Allow" in {
        _decision(trust, "sts:AssumeRole", role_arn, context, principal=one) for one in (principal, root)
    }


def service_may(policy: dict[str, Any] | None, service: str, action: str, resource: str, context: Context) -> bool:
    """Whether a resource policy allows the action for an AWS service, such as events.amazonaws.com."""
    return policy is not None and _decision([policy], action, resource, context, service=service) == "Allow"


def account_may(
    policy: dict[str, Any] | None, principal: Principal, action: str, resource: str, context: Context
) -> bool:
    """Whether a resource policy allows the action for a principal of another account, or for that whole account."""
    root = Principal(f"arn:{_PARTITION}:iam::{principal.account}:root", [], account=principal.account)
    allowed = (
        {_decision([policy], action, resource, context, principal=one) for one in (principal, root)}
        if policy
        else set()
    )
    return "Allow" in allowed and "Deny" not in allowed


# ---------------------------------------------------------------- policies


_ROOT = Principal(f"arn:{_PARTITION}:iam::{ACCOUNT}:root", [])


def _user(user: User) -> Principal:
    return Principal(user.arn, _policies(user))


def _session(session: AssumedRole, call: Call) -> Principal:
    try:
        principal = role_principal(session.role_arn, session.session_name)
    except Exception as error:  # the role has been deleted
        raise _invalid_token(call) from error
    return replace(principal, source_function_arn=getattr(session, "source_function_arn", None))


def _policies(owner: User | Role) -> list[dict[str, Any]]:
    inline = [json.loads(document) for document in owner.policies.values()]
    return inline + [_document(policy) for policy in owner.managed_policies.values()]


def _document(policy: ManagedPolicy) -> dict[str, Any]:
    document: dict[str, Any] = next(json.loads(version.document) for version in policy.versions if version.is_default)
    return document


def _boundary(arn: str | None) -> dict[str, Any] | None:
    if not arn:
        return None
    policy = iam_backends[arn.split(":")[4]][_PARTITION].managed_policies.get(arn)
    # A boundary that does not exist allows nothing.
    return _document(policy) if policy else {"Statement": []}


def _resource_policy(resource: str) -> dict[str, Any] | None:
    parts = resource.split(":", 5)
    if len(parts) < 6:
        return None
    service, region, account, name = parts[2], parts[3], parts[4], parts[5]
    document: Any = None
    if service == "sqs" and (queue := sqs_backends[account][region].queues.get(name)):
        document = queue.policy
    elif service == "kms" and (key := kms_backends[account][region].keys.get(name.removeprefix("key/"))):
        document = key.policy
    return json.loads(document) if document else None


def _decision(
    policies: list[dict[str, Any]],
    action: str,
    resource: str,
    context: Context,
    *,
    principal: Principal | None = None,
    service: str | None = None,
) -> str | None:
    """ "Allow", "Deny" or None. The statements must name the principal or the service, if one is given."""
    decision = None
    for policy in policies:
        for statement in _as_list(policy["Statement"]):
            if (
                _names_action(statement, action)
                and _names_resource(statement, resource)
                and ((principal is None and service is None) or _names_principal(statement, principal, service))
                and _conditions_hold(statement, context)
            ):
                if statement["Effect"] == "Deny":
                    return "Deny"
                decision = "Allow"
    return decision


def _names_action(statement: Statement, action: str) -> bool:
    if "NotAction" in statement:
        return not _any_like(statement["NotAction"], action, ignore_case=True)
    return _any_like(statement.get("Action", []), action, ignore_case=True)


def _names_resource(statement: Statement, resource: str) -> bool:
    if "NotResource" in statement:
        return not _any_like(statement["NotResource"], resource)
    # A role's trust policy has no resource.
    return "Resource" not in statement or _any_like(statement["Resource"], resource)


def _names_principal(statement: Statement, principal: Principal | None, service: str | None) -> bool:
    named = statement.get("Principal")
    if named == "*":
        return True
    if not isinstance(named, Mapping):
        return False
    if service is not None:
        return service in _as_list(named.get("Service", []))
    if principal is None:
        return False
    for arn in _as_list(named.get("AWS", [])):
        if arn == "*" or arn in principal.identities:
            return True
        if arn == principal.account and principal.arn.endswith(":root"):
            return True
    return False


def _conditions_hold(statement: Statement, context: Context) -> bool:
    return all(
        _condition_holds(operator, key, [str(value) for value in _as_list(expected)], context)
        for operator, keys in statement.get("Condition", {}).items()
        for key, expected in keys.items()
    )


def _condition_holds(operator: str, key: str, expected: list[str], context: Context) -> bool:
    quantifier, _, name = operator.rpartition(":")
    if_exists = name.endswith("IfExists")
    name = name.removesuffix("IfExists")
    actual = next((values for known, values in context.items() if known.lower() == key.lower()), None)
    if name == "Null":
        return (actual is None) == (expected[0].lower() == "true")
    if actual is None:
        # If the key is missing, negated conditions and ForAllValues hold. All other conditions fail.
        return if_exists or "Not" in name or quantifier == "ForAllValues"
    matches = [_compare(name, value, expected) for value in actual]
    return all(matches) if quantifier == "ForAllValues" or "Not" in name else any(matches)


def _compare(operator: str, value: str, expected: list[str]) -> bool:
    negated = "Not" in operator
    plain = operator.replace("Not", "")
    if plain in ("StringEquals", "ArnEquals", "ArnLike", "StringLike"):
        # ArnEquals and ArnLike are the same in IAM.
        found = value in expected if plain == "StringEquals" else _any_like(expected, value)
    elif plain in ("StringEqualsIgnoreCase", "Bool"):
        found = value.lower() in [item.lower() for item in expected]
    elif plain == "NumericEquals":
        found = float(value) in [float(item) for item in expected]
    else:
        raise AwsError("NotImplemented", f"the testbed's IAM does not support the condition operator {operator}", 501)
    return found != negated


def _any_like(patterns: Any, value: str, *, ignore_case: bool = False) -> bool:
    flags = re.DOTALL | (re.IGNORECASE if ignore_case else 0)
    return any(
        re.fullmatch(re.escape(pattern).replace(r"\*", ".*").replace(r"\?", "."), value, flags)
        for pattern in _as_list(patterns)
    )


def _as_list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]


# ---------------------------------------------------------------- resources of a call


def _arn(service: str, call: Call, account: str, name: str) -> str:
    return f"arn:{_PARTITION}:{service}:{call.region}:{account}:{name}"


def _needed(call: Call, account: str) -> list[tuple[str, str]]:
    """The required actions and their ARNs; `*` where AWS has no narrower ARN, or where none is known here."""
    if call.service == "dynamodb" and "TransactItems" in call.params:
        # A transaction has no IAM action of its own.
        return [
            (
                f"dynamodb:{_TRANSACTION_ACTIONS.get(kind, kind + 'Item')}",
                _table_arn(call, account, operation["TableName"]),
            )
            for item in call.params["TransactItems"]
            for kind, operation in item.items()
        ]
    resources = list(_RESOURCES.get(call.service, _no_resources)(call, account)) or ["*"]
    return [(_ACTIONS.get(call.name, call.name), resource) for resource in resources]


def _no_resources(_call: Call, _account: str) -> Iterator[str]:
    yield from ()


def _route53(call: Call, _account: str) -> Iterator[str]:
    zone = call.params.get("HostedZoneId") or (call.params.get("Id") if "HostedZone" in call.operation else None)
    if zone:
        yield f"arn:{_PARTITION}:route53:::hostedzone/{str(zone).removeprefix('/').removeprefix('hostedzone/')}"
    elif call.operation == "GetChange":
        yield f"arn:{_PARTITION}:route53:::change/{str(call.params.get('Id')).rpartition('/')[2]}"


def _dynamodb(call: Call, account: str) -> Iterator[str]:
    for table in sorted({*call.params.get("RequestItems", {}), call.params.get("TableName", "")} - {""}):
        arn = _table_arn(call, account, table)
        # A query of an index needs permission on the index, not on the table.
        yield f"{arn}/index/{call.params['IndexName']}" if "IndexName" in call.params else arn


def _table_arn(call: Call, account: str, table: str) -> str:
    return table if table.startswith("arn:") else _arn("dynamodb", call, account, f"table/{table}")


def _sqs(call: Call, account: str) -> Iterator[str]:
    if url := call.params.get("QueueUrl"):
        yield _arn("sqs", call, account, str(url).rpartition("/")[2])
    elif name := call.params.get("QueueName"):
        yield _arn("sqs", call, account, name)


def _kms(call: Call, account: str) -> Iterator[str]:
    key_id = call.params.get("KeyId")
    if not key_id and call.operation == "Decrypt":
        key_id = _key_of_ciphertext(call.params.get("CiphertextBlob"))
    if key_id:
        backend = kms_backends[account][call.region]
        known = str(backend.any_id_to_key_id(key_id))
        yield _arn("kms", call, account, f"key/{known}")


def _key_of_ciphertext(blob: Any) -> str | None:
    if not isinstance(blob, bytes) or len(blob) < 36:
        return None
    return struct.unpack("36s", blob[:36])[0].decode(errors="replace").rstrip("\0") or None


def _logs(call: Call, account: str) -> Iterator[str]:
    if group := call.params.get("logGroupName"):
        resource = _arn("logs", call, account, f"log-group:{group}")
        if call.operation in ("CreateLogStream", "PutLogEvents", "GetLogEvents", "DeleteLogStream"):
            resource += f":log-stream:{call.params.get('logStreamName', '')}"
        yield resource


def _lambda(call: Call, account: str) -> Iterator[str]:
    # https://docs.aws.amazon.com/service-authorization/latest/reference/list_awslambda.html
    if call.operation == "ListEventSourceMappings":
        return
    if name := call.params.get("FunctionName"):
        yield name if name.startswith("arn:") else _arn("lambda", call, account, f"function:{name}")


def _sts(call: Call, _account: str) -> Iterator[str]:
    if arn := call.params.get("RoleArn"):
        yield arn


def _sns(call: Call, _account: str) -> Iterator[str]:
    if arn := call.params.get("TopicArn"):
        yield arn


def _cloudwatch(call: Call, account: str) -> Iterator[str]:
    if call.operation == "DescribeAlarms":  # always reads all alarms, whatever the filter
        yield _arn("cloudwatch", call, account, "alarm:*")
    for name in [*(call.params.get("AlarmNames") or []), call.params.get("AlarmName")]:
        if name and call.operation != "DescribeAlarms":
            yield _arn("cloudwatch", call, account, f"alarm:{name}")


def _events(call: Call, account: str) -> Iterator[str]:
    for entry in call.params.get("Entries") or []:
        bus = str(entry.get("EventBusName") or "default")
        yield bus if bus.startswith("arn:") else _arn("events", call, account, f"event-bus/{bus}")


def _s3(call: Call, _account: str) -> Iterator[str]:
    if bucket := call.params.get("Bucket"):
        key = call.params.get("Key")
        yield f"arn:{_PARTITION}:s3:::{bucket}" + (f"/{key}" if key else "")


_RESOURCES = {
    "cloudwatch": _cloudwatch,
    "route53": _route53,
    "dynamodb": _dynamodb,
    "events": _events,
    "s3": _s3,
    "sqs": _sqs,
    "kms": _kms,
    "logs": _logs,
    "lambda": _lambda,
    "sts": _sts,
    "sns": _sns,
}


def _context(principal: Principal, call: Call) -> Context:
    """The condition keys of the call. Loopback counts as TLS, so that policies that require TLS allow calls."""
    context = {
        "aws:PrincipalArn": [principal.role_arn or principal.arn],
        "aws:PrincipalAccount": [principal.account],
        "aws:RequestedRegion": [call.region],
        "aws:SecureTransport": ["true"],
    }
    if principal.source_function_arn:
        # https://docs.aws.amazon.com/lambda/latest/dg/permissions-source-function-arn.html
        context["lambda:SourceFunctionArn"] = [principal.source_function_arn]
    if call.service == "kms":
        encryption_context = call.params.get("EncryptionContext") or {}
        for key, value in encryption_context.items():
            context[f"kms:EncryptionContext:{key}"] = [str(value)]
        if encryption_context:
            context["kms:EncryptionContextKeys"] = list(encryption_context)
        context["kms:CallerAccount"] = [principal.account]
    if call.name == "route53:ChangeResourceRecordSets":
        changes = (call.params.get("ChangeBatch") or {}).get("Changes") or []
        sets = [change["ResourceRecordSet"] for change in changes]
        # https://docs.aws.amazon.com/Route53/latest/DeveloperGuide/specifying-conditions-route53.html
        prefix = "route53:ChangeResourceRecordSets"
        context[f"{prefix}NormalizedRecordNames"] = [normalized_name(item["Name"]).rstrip(".") for item in sets]
        context[f"{prefix}RecordTypes"] = [item["Type"] for item in sets]
        context[f"{prefix}Actions"] = [change["Action"] for change in changes]
    if call.service == "s3" and "Prefix" in call.params:
        context["s3:prefix"] = [str(call.params["Prefix"])]
    if call.name == "sts:AssumeRole" and call.params.get("ExternalId"):
        context["sts:ExternalId"] = [str(call.params["ExternalId"])]
    if call.name == "s3:ListObjectsV2":
        context["s3:prefix"] = [str(call.params.get("Prefix") or "")]
    if call.name == "cloudwatch:PutMetricData" and "Namespace" in call.params:
        context["cloudwatch:namespace"] = [call.params["Namespace"]]
    return context


# ---------------------------------------------------------------- answers


def _access_denied(call: Call, principal: Principal, action: str, resource: str, reason: str) -> AwsError:
    where = "" if resource == "*" else f" on resource: {resource}"
    message = f"User: {principal.arn} is not authorized to perform: {action}{where} {reason}"
    if call.service == "sqs":
        message = message.replace(action, action.lower())  # SQS writes actions in lower case
    if call.service == "ec2":
        return AwsError("UnauthorizedOperation", f"You are not authorized to perform this operation. {message}", 403)
    if call.service == "sqs" or call.protocol in ("query", "rest-xml"):
        return AwsError("AccessDenied", message, 403)
    return AwsError("AccessDeniedException", message, 403 if call.protocol == "rest-json" else 400)


def _invalid_token(call: Call) -> AwsError:
    if call.service == "ec2":
        return AwsError("AuthFailure", "AWS was not able to validate the provided access credentials", 401)
    json_protocol = call.protocol in ("json", "rest-json")
    code = "UnrecognizedClientException" if json_protocol and call.service != "sqs" else "InvalidClientTokenId"
    return AwsError(code, "The security token included in the request is invalid.", 400 if json_protocol else 403)
