"""Operations that moto does not know: SQS message move tasks, Lambda's account settings, CloudTrail's lookup."""

from __future__ import annotations

import json
from collections import deque
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import Any, Protocol
from uuid import uuid4

from moto.awslambda.models import lambda_backends
from moto.core.utils import unix_time_millis
from moto.sqs.models import Queue, sqs_backends

from testbed.aws_protocol import AwsError, Call

_CONCURRENCY = 1000  # the default quota


class Account(Protocol):
    """The part of `StrictAws` that the operations use."""

    account: str
    history: deque[Call]
    move_tasks: list[dict[str, Any]]


def _start_move(aws: Account, call: Call) -> dict[str, Any]:
    """Moves the visible messages at once. AWS sends them as new messages, too."""
    source, target = (_queue(aws, call.params[name]) for name in ("SourceArn", "DestinationArn"))
    if all(queue.dead_letter_queue is not source for queue in sqs_backends[aws.account][call.region].queues.values()):
        raise AwsError("InvalidParameterValue", "Source queue must be configured as a Dead Letter Queue.")
    moved = list(source.messages)
    for message in moved:
        sqs_backends[aws.account][call.region].send_message(target.name, message.body, message.message_attributes)
        source._messages.remove(message)
    task = {
        "Status": "COMPLETED",
        "SourceArn": source.queue_arn,
        "DestinationArn": target.queue_arn,
        "ApproximateNumberOfMessagesMoved": len(moved),
        "ApproximateNumberOfMessagesToMove": len(moved),
        "StartedTimestamp": int(unix_time_millis()),
    }
    aws.move_tasks.insert(0, task)
    return {"TaskHandle": str(uuid4())}


def _list_moves(aws: Account, call: Call) -> dict[str, Any]:
    found = [task for task in aws.move_tasks if task["SourceArn"] == call.params["SourceArn"]]
    return {"Results": found[: int(call.params.get("MaxResults") or 1)]}


def _queue(aws: Account, arn: str) -> Queue:
    queue = sqs_backends[aws.account][arn.split(":")[3]].queues.get(arn.rpartition(":")[2])
    if queue is None:
        raise AwsError("ResourceNotFoundException", "The resource that you specified doesn't exist.")
    return queue


def _account_settings(aws: Account, call: Call) -> dict[str, Any]:
    functions = list(lambda_backends[aws.account][call.region].list_functions())
    reserved = sum(int(function.reserved_concurrency or 0) for function in functions)
    limit = {"ConcurrentExecutions": _CONCURRENCY, "UnreservedConcurrentExecutions": _CONCURRENCY - reserved}
    return {"AccountLimit": limit, "AccountUsage": {"FunctionCount": len(functions)}}


def _lookup_events(aws: Account, call: Call) -> dict[str, Any]:
    """The latest calls. CloudTrail records those of global services only in us-east-1."""
    [wanted] = call.params["LookupAttributes"]
    if wanted["AttributeKey"] != "EventName":
        raise NotImplementedError(f"the testbed's CloudTrail does not look up {wanted['AttributeKey']}")
    return {
        "Events": [
            {"EventId": str(uuid4()), "EventName": past.operation, "CloudTrailEvent": json.dumps(_event(past))}
            for past in reversed(aws.history)
            if past.operation == wanted["AttributeValue"]
            and call.region == ("us-east-1" if past.service in ("iam", "route53") else past.region)
        ]
    }


def _event(call: Call) -> dict[str, Any]:
    return {
        "eventTime": datetime.fromtimestamp(call.at, UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
        "eventSource": f"{call.service}.amazonaws.com",
        "eventName": call.operation,
        "userIdentity": {"arn": call.principal},
        "requestParameters": _lower(call.params),
    }


def _lower(value: Any) -> Any:
    """CloudTrail writes parameters with a small first letter."""
    if isinstance(value, Mapping):
        return {f"{name[:1].lower()}{name[1:]}": _lower(part) for name, part in value.items()}
    return [_lower(part) for part in value] if isinstance(value, list) else value


# All of them belong to services that answer in JSON.
OPERATIONS: dict[str, Callable[[Account, Call], dict[str, Any]]] = {
    "sqs:StartMessageMoveTask": _start_move,
    "sqs:ListMessageMoveTasks": _list_moves,
    "lambda:GetAccountSettings": _account_settings,
    "cloudtrail:LookupEvents": _lookup_events,
}
