"""Patches where moto is less strict than AWS, or different. Each patch documents AWS's behavior."""

from __future__ import annotations

import base64
import copy
import fnmatch
import ipaddress
import json
from collections.abc import Collection, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any, Protocol
from unittest.mock import patch

from moto.awslambda.exceptions import InvalidParameterValueException
from moto.awslambda.models import EventSourceMapping, LambdaBackend, LambdaFunction
from moto.core.utils import unix_time_millis
from moto.dynamodb.models import DynamoDBBackend
from moto.dynamodb.models.table import Table
from moto.ec2 import utils
from moto.ec2.exceptions import EC2ClientError, InvalidInstanceIdError
from moto.ec2.models import ec2_backends
from moto.ec2.models.elastic_network_interfaces import NetworkInterface
from moto.ec2.models.instances import Instance, InstanceBackend
from moto.ec2.models.subnets import Subnet
from moto.events.models import EventPattern, EventsBackend, Rule, events_backends
from moto.iam.models import iam_backends
from moto.logs import models as logs_models
from moto.route53.responses import Route53
from moto.sns.models import sns_backends
from moto.sqs.exceptions import InvalidParameterValue, ReceiptHandleIsInvalid
from moto.sqs.models import Message, Queue, SQSBackend, sqs_backends

from testbed import aws_iam, aws_insights, aws_route53

_LAMBDA_ENVIRONMENT_LIMIT = 4096
_VISIBILITY_LIMIT_SECONDS = 43_200
ORGANIZATION = "o-testbed"  # every account of the testbed belongs to it


class Invoker(Protocol):
    """Runs a deployed function. `lambda_service` implements it."""

    def __call__(
        self, function: LambdaFunction, payload: bytes, *, asynchronous: bool, log_tail: bool
    ) -> tuple[bytes, dict[str, str]]:
        """Returns the body and the headers of the answer."""


class Patched(Protocol):
    """The part of `StrictAws` that the patches use."""

    endpoint: str
    invoker: Invoker | None
    undelivered: list[tuple[str, str, str]]


@contextmanager
def applied(aws: Patched) -> Iterator[None]:
    """Makes moto strict inside the block."""
    with ExitStack() as stack:
        for owner, name, replacement in (
            *_ec2(),
            *_sqs(),
            *_events(aws),
            *_lambda(aws),
            *_route53(),
            *_dynamodb(),
            *_logs(),
        ):
            stack.enter_context(patch.object(owner, name, replacement))
        yield


Patch = tuple[Any, str, Any]


def _dynamodb() -> Iterator[Patch]:
    transact = DynamoDBBackend.transact_write_items

    def strict_transact(self: DynamoDBBackend, transact_items: list[dict[str, Any]]) -> None:
        # moto copies the whole table for each item of a transaction, for the rollback. One copy is enough.
        copies: dict[int, Any] = {}

        def copy_once(table: Any, memo: dict[int, Any]) -> Any:
            if id(table) not in copies:
                made = copies[id(table)] = memo[id(table)] = object.__new__(type(table))
                vars(made).update({name: copy.deepcopy(value, memo) for name, value in vars(table).items()})
            return copies[id(table)]

        with patch.object(Table, "__deepcopy__", copy_once, create=True):
            transact(self, transact_items)

    yield DynamoDBBackend, "transact_write_items", strict_transact


def _logs() -> Iterator[Patch]:
    yield logs_models, "execute_query", aws_insights.execute_query


def _route53() -> Iterator[Patch]:
    yield Route53, "change_resource_record_sets", aws_route53.change_resource_record_sets
    yield Route53, "list_resource_record_sets", aws_route53.list_resource_record_sets


# ---------------------------------------------------------------- EC2


class TerminatedInstance(Instance):
    """A terminated instance as AWS shows it: id, type, times, reason and, for a while, tags.

    It has no private address, DNS names, VPC, subnet, interfaces and volumes.
    """

    private_ip = None
    private_ip_address = None
    private_dns_name = ""
    public_ip = None
    public_ip_address = None
    public_dns_name = ""
    vpc_id = None
    subnet_id = None


def _ec2() -> Iterator[Patch]:
    terminate = Instance.terminate
    filter_value = NetworkInterface.get_filter_value
    request_ip = Subnet.request_ip
    by_ids = InstanceBackend.get_reservations_by_instance_ids
    value_in_filter = utils.instance_value_in_filter_values

    def strict_terminate(self: Instance) -> Any:
        previous = terminate(self)
        for interface in list(self.nics.values()):
            # AWS deletes the interfaces that were created with the instance, and detaches the others. moto keeps all.
            if interface.id in self.ec2_backend.enis and (
                interface.delete_on_termination or interface.description == "Primary network interface"
            ):
                interface.delete()
            interface.instance = None
            interface.attachment_id = None
            interface.status = "available"
        self.nics = {}
        self.security_groups = []
        self.__class__ = TerminatedInstance  # type: ignore[type-abstract]  # moto's classes are abstract too
        return previous

    def strict_filter_value(self: NetworkInterface, filter_name: str, method_name: str | None = None) -> Any:
        # AWS matches every address of an interface, including secondary ones.
        if filter_name == "addresses.private-ip-address":
            return [address["PrivateIpAddress"] for address in self.private_ip_addresses]
        # moto supports neither of these filters, and returns an answer that no client can parse.
        if filter_name == "addresses.association.public-ip":
            return [self.public_ip] if self.public_ip else []
        if filter_name == "ipv6-addresses.ipv6-address":
            return [a if isinstance(a, str) else a["Ipv6Address"] for a in self.ipv6_addresses]
        if filter_name == "status":
            return "in-use" if self.instance else "available"
        return filter_value(self, filter_name, method_name)

    def strict_request_ip(self: Subnet, ip: str, instance: Instance) -> None:
        # moto raises an internal error, which reaches the client as HTTP 500.
        if ipaddress.ip_address(ip) not in self.cidr:
            raise EC2ClientError(
                "InvalidParameterValue", f"Address {ip} does not fall within the subnet's address range"
            )
        if ip in self._subnet_ips:
            raise EC2ClientError("InvalidIPAddress.InUse", f"Address {ip} is in use.")
        request_ip(self, ip, instance)

    def strict_by_ids(self: Any, instance_ids: list[str], filters: Any = None) -> Any:
        # AWS rejects a malformed id with a different code, and lists every unknown id.
        for instance_id in instance_ids:
            if not instance_id.startswith("i-") or not all(c in "0123456789abcdef" for c in instance_id[2:]):
                raise EC2ClientError("InvalidInstanceID.Malformed", f'Invalid id: "{instance_id}"')
        known = {instance.id for reservation in self.all_reservations() for instance in reservation.instances}
        if missing := [instance_id for instance_id in instance_ids if instance_id not in known]:
            raise InvalidInstanceIdError(missing)
        return by_ids(self, list(dict.fromkeys(instance_ids)), filters)

    def strict_value(instance_value: Any, filter_values: Any) -> bool:
        # AWS supports * and ? in all filter values. moto supports them only for tags.
        values = instance_value if isinstance(instance_value, list) else [instance_value]
        wild = [value for value in filter_values if "*" in value or "?" in value]
        return value_in_filter(instance_value, filter_values) or any(
            isinstance(value, str) and fnmatch.fnmatchcase(value, pattern.replace("[", "[[]"))
            for value in values
            for pattern in wild
        )

    yield Instance, "terminate", strict_terminate
    yield NetworkInterface, "get_filter_value", strict_filter_value
    yield Subnet, "request_ip", strict_request_ip
    yield InstanceBackend, "get_reservations_by_instance_ids", strict_by_ids
    yield utils, "instance_value_in_filter_values", strict_value


def forget_instance(account: str, region: str, instance_id: str) -> None:
    """Removes the instance from EC2: about an hour after termination, its id is an error."""
    backend = ec2_backends[account][region]
    for reservation_id, reservation in list(backend.reservations.items()):
        reservation.instances = [item for item in reservation.instances if item.id != instance_id]
        if not reservation.instances:
            del backend.reservations[reservation_id]
    backend.tags.pop(instance_id, None)


def forget_instance_tags(account: str, region: str, instance_id: str) -> None:
    """Removes the tags of a terminated instance, some time before EC2 drops the instance."""
    ec2_backends[account][region].tags.pop(instance_id, None)


# ---------------------------------------------------------------- SQS


class _NoMappings:
    """Keeps queues from delivering to moto's Lambda: messages wait for the testbed's poller."""

    def __get__(self, _queue: object, _owner: type) -> dict[str, EventSourceMapping]:
        return {}

    def __set__(self, _queue: object, _value: object) -> None:
        pass


def _sqs() -> Iterator[Patch]:
    mark_received = Message.mark_received

    def strict_mark_received(self: Message, visibility_timeout: int | None = None) -> None:
        mark_received(self, visibility_timeout)
        self.received_at = unix_time_millis()  # type: ignore[attr-defined]

    def strict_change_visibility(
        self: SQSBackend, queue_name: str, receipt_handle: str, visibility_timeout: int
    ) -> None:
        # AWS counts the 12 hours from the receive. moto counts them from the send, so that the visibility timeout of
        # an older message cannot change at all.
        queue = self.get_queue(queue_name)
        for message in queue._messages:
            if message.had_receipt_handle(receipt_handle):
                since_receive = (unix_time_millis() - getattr(message, "received_at", 0)) / 1000
                if since_receive + int(visibility_timeout) > _VISIBILITY_LIMIT_SECONDS:
                    raise InvalidParameterValue(
                        f"Value {visibility_timeout} for parameter VisibilityTimeout is invalid. Reason: Total "
                        "VisibilityTimeout for the message is beyond the limit [43200 seconds]"
                    )
                message.change_visibility(visibility_timeout)
                if message.visible:
                    queue.pending_messages.discard(message)
                return
        raise ReceiptHandleIsInvalid

    set_attributes = Queue._set_attributes

    def strict_set_attributes(self: Queue, attributes: dict[str, Any], now: float | None = None) -> None:
        # AWS keeps attributes that the request omits. moto drops the queue's policy.
        policy = getattr(self, "policy", None)
        set_attributes(self, attributes, now)
        if "Policy" not in attributes:
            self.policy = policy

    setup_dlq = Queue._setup_dlq

    def strict_setup_dlq(self: Queue, policy: Any) -> None:
        # RedriveAllowPolicy lists the allowed source queues. moto does not support the attribute.
        setup_dlq(self, policy)
        allowed = json.loads(getattr(self.dead_letter_queue, "redrive_allow_policy", None) or "{}")
        if allowed.get("redrivePermission", "allowAll") != "allowAll" and self.queue_arn not in allowed.get(
            "sourceQueueArns", []
        ):
            raise InvalidParameterValue("Reason: the dead letter queue does not allow this queue as its source.")

    attributes_of = vars(Queue)["attributes"].fget

    def compact_attributes(self: Queue) -> dict[str, Any]:
        # AWS returns the policy as it was written. moto changes its white space, which a second plan would show as a
        # change.
        attributes: dict[str, Any] = attributes_of(self)
        for name in ("RedrivePolicy", "RedriveAllowPolicy"):
            if attributes.get(name):
                attributes[name] = json.dumps(json.loads(attributes[name]), separators=(",", ":"))
            else:
                attributes.pop(name, None)
        return attributes

    messages_of = vars(Queue)["messages"].fget

    def chosen_messages(self: Queue) -> list[Message]:
        visible: list[Message] = messages_of(self)
        wanted = getattr(self, "only", None)
        return visible if wanted is None else [message for message in visible if message.id in wanted]

    yield Queue, "_set_attributes", strict_set_attributes
    yield Queue, "_setup_dlq", strict_setup_dlq
    yield Queue, "BASE_ATTRIBUTES", [*Queue.BASE_ATTRIBUTES, "RedriveAllowPolicy"]
    yield Queue, "attributes", property(compact_attributes)
    yield Queue, "messages", property(chosen_messages)
    yield Message, "mark_received", strict_mark_received
    yield SQSBackend, "change_message_visibility", strict_change_visibility
    # `patch.object` cannot replace a missing attribute.
    if not hasattr(Queue, "lambda_event_source_mappings"):
        Queue.lambda_event_source_mappings = {}
    if not hasattr(Queue, "redrive_allow_policy"):
        Queue.redrive_allow_policy = None  # type: ignore[attr-defined]  # moto sets any attribute of the request
    yield Queue, "lambda_event_source_mappings", _NoMappings()


@contextmanager
def only(queue: Queue, message_ids: Collection[str]) -> Iterator[None]:
    """Restricts the queue to these messages inside the block."""
    queue.only = frozenset(message_ids)  # type: ignore[attr-defined]  # ours
    try:
        yield
    finally:
        queue.only = None  # type: ignore[attr-defined]


# ---------------------------------------------------------------- EventBridge


def _events(aws: Patched) -> Iterator[Patch]:
    put_events = EventsBackend.put_events

    def strict_put_events(self: EventsBackend, events: list[dict[str, Any]]) -> list[dict[str, Any]]:
        # AWS reserves sources that begin with "aws.". `StrictAws.emit` sends AWS's own events.
        allowed = [event for event in events if not str(event.get("Source", "")).startswith("aws.")]
        results = iter(put_events(self, allowed) if allowed else [])
        refused = {"ErrorCode": "NotAuthorizedForSourceException", "ErrorMessage": "Not authorized for the source."}
        return [next(results) if event in allowed else dict(refused) for event in events]

    def send_to_targets(self: Rule, original_event: Any, **_options: Any) -> None:
        event: Any = dict(original_event)
        event.pop("ingestion-time", None)
        if self.state == "ENABLED" and self.event_pattern.matches_event(event):
            deliver(aws, self, event)

    flatten = EventPattern._flatten_dict

    def flatten_arrays_too(node: Any, prefix: str = "", result: dict[str, Any] | None = None) -> dict[str, Any]:
        # AWS matches patterns against objects in arrays. moto does not.
        flat = flatten(node, prefix, result)
        for key, value in list(flat.items()):
            for inner in value if isinstance(value, list) else ():
                if isinstance(inner, dict):
                    for name, found in flatten_arrays_too(inner, key).items():
                        flat[name] = [*flat.get(name, []), *(found if isinstance(found, list) else [found])]
        return flat

    yield EventPattern, "_flatten_dict", staticmethod(flatten_arrays_too)
    yield EventsBackend, "put_events", strict_put_events
    yield Rule, "send_to_targets", send_to_targets


def deliver(aws: Patched, rule: Rule, event: dict[str, Any]) -> None:
    """Sends the event to the rule's targets: queues, topics, functions and buses. Checks their policies."""
    for target in rule.targets:
        try:
            body = _target_input(target, event)
        except ValueError as error:
            aws.undelivered.append((rule.arn, target["Arn"], f"the transformed input is not JSON: {error}"))
            continue
        if target["Arn"].split(":")[2] == "events":
            failure = _send_to_bus(aws, rule, target, event)
        else:
            failure = send_to_target(aws, rule.arn, target["Arn"], body)
        if failure is None:
            continue
        aws.undelivered.append((rule.arn, target["Arn"], failure))
        dead_letters = target.get("DeadLetterConfig", {}).get("Arn")
        if dead_letters and (failure := send_to_target(aws, rule.arn, dead_letters, body)):
            aws.undelivered.append((rule.arn, dead_letters, failure))


def _send_to_bus(aws: Patched, rule: Rule, target: dict[str, Any], event: dict[str, Any]) -> str | None:
    """Puts the event on another bus, in any account. Returns the reason of a failure."""
    _, _, _, region, account, name = target["Arn"].split(":", 5)
    role_arn, sender = target.get("RoleArn"), rule.arn.split(":")[4]
    if role_arn is None:
        return "a bus of another account needs a role on the target"
    role = _role(role_arn)
    trust = json.loads(role.assume_role_policy_document)
    # EventBridge passes the rule as the source when it assumes a target's role.
    # https://docs.aws.amazon.com/eventbridge/latest/userguide/cross-service-confused-deputy-prevention.html
    context = {"aws:SourceArn": [rule.arn], "aws:SourceAccount": [sender]}
    if not aws_iam.service_may(trust, "events.amazonaws.com", "sts:AssumeRole", role_arn, context):
        return "the target's role does not trust EventBridge"
    principal = aws_iam.role_principal(role_arn, "events")
    context = {
        "events:source": [str(event.get("source"))],
        "events:detail-type": [str(event.get("detail-type"))],
        "aws:PrincipalAccount": [sender],
        "aws:PrincipalArn": [role_arn],
        "aws:PrincipalOrgID": [ORGANIZATION],
        "aws:SourceArn": [rule.arn],
        "aws:SecureTransport": ["true"],
    }
    if aws_iam.denial(principal, "events:PutEvents", target["Arn"], context):
        return "the target's role may not put events on the bus"
    bus = events_backends[account][region].event_buses.get(name.removeprefix("event-bus/"))
    if bus is None:
        return "the event bus does not exist"
    policy: Any = bus.policy
    if isinstance(policy, str):
        policy = json.loads(policy) if policy else None
    if sender != account and not aws_iam.account_may(policy, principal, "events:PutEvents", target["Arn"], context):
        return "the policy of the event bus does not allow the account"
    for rule_there in list(bus.rules.values()):
        pattern = rule_there.event_pattern
        event_there: Any = dict(event)
        if rule_there.state == "ENABLED" and pattern.get_pattern() and pattern.matches_event(event_there):
            deliver(aws, rule_there, event)
    return None


def _target_input(target: dict[str, Any], event: dict[str, Any]) -> str:
    if "Input" in target:
        return str(target["Input"])
    if "InputPath" in target:
        raise NotImplementedError("the testbed's EventBridge does not support InputPath")
    if "InputTransformer" in target:
        return _transformed(target["InputTransformer"], event)
    return json.dumps(event)


def _transformed(transformer: dict[str, Any], event: dict[str, Any]) -> str:
    """Renders the input template. Strings are inserted unescaped. AWS drops an event if the result is not JSON.

    https://docs.aws.amazon.com/eventbridge/latest/userguide/eb-transform-target-input.html
    """
    text = str(transformer["InputTemplate"])
    for name, path in (transformer.get("InputPathsMap") or {}).items():
        value: Any = event
        for key in str(path).removeprefix("$.").split("."):
            value = value.get(key) if isinstance(value, dict) else None
        text = text.replace(
            f"<{name}>", value if isinstance(value, str) else "" if value is None else json.dumps(value)
        )
    for line in [text] if text.lstrip().startswith("{") else text.strip().splitlines():
        json.loads(line)
    return text


def send_to_target(aws: Patched, source_arn: str, target_arn: str, body: str) -> str | None:
    """Sends to a target as EventBridge does. Returns the reason of a failure."""
    service, region, name = target_arn.split(":")[2], target_arn.split(":")[3], target_arn.split(":", 5)[5]
    account, source_account = target_arn.split(":")[4], source_arn.split(":")[4]
    context = {"aws:SourceArn": [source_arn], "aws:SourceAccount": [source_account], "aws:SecureTransport": ["true"]}
    if service == "sqs":
        queue = sqs_backends[account][region].queues.get(name)
        if queue is None:
            return "the queue does not exist"
        policy = json.loads(queue.policy) if queue.policy else None
        # moto ignores the queue's policy.
        if not aws_iam.service_may(policy, "events.amazonaws.com", "sqs:SendMessage", target_arn, context):
            return "the queue's policy does not allow EventBridge to send for this rule"
        sqs_backends[account][region].send_message(name, body)
        return None
    if service == "sns":
        topic = sns_backends[account][region].topics.get(target_arn)
        if topic is None:
            return "the topic does not exist"
        if not aws_iam.service_may(
            json.loads(topic.policy), "events.amazonaws.com", "sns:Publish", target_arn, context
        ):
            return "the topic's policy does not allow EventBridge to publish for this rule"
        sns_backends[account][region].publish(body, arn=target_arn)
        return None
    if service == "lambda" and aws.invoker is not None:
        function = _function(target_arn)
        if function is None:
            return "the function does not exist"
        policy = {"Statement": function.policy.statements}
        if not aws_iam.service_may(policy, "events.amazonaws.com", "lambda:InvokeFunction", target_arn, context):
            return "the function's policy does not allow EventBridge to invoke it for this rule"
        aws.invoker(function, body.encode(), asynchronous=True, log_tail=False)
        return None
    raise NotImplementedError(f"the testbed's EventBridge does not deliver to {target_arn}")


# ---------------------------------------------------------------- Lambda


def _function(arn: str) -> LambdaFunction | None:
    from moto.awslambda.models import lambda_backends  # noqa: PLC0415 (moto's own import cycle)

    return lambda_backends[aws_iam.ACCOUNT][arn.split(":")[3]].get_function_by_arn(arn)


def _lambda(aws: Patched) -> Iterator[Patch]:
    create_function = LambdaBackend.create_function
    update_configuration = LambdaBackend.update_function_configuration
    create_mapping = LambdaBackend.create_event_source_mapping
    list_mappings = LambdaBackend.list_event_source_mappings
    get_code = LambdaFunction.get_code
    get_configuration = LambdaFunction.get_configuration

    def strict_create(self: LambdaBackend, spec: dict[str, Any]) -> LambdaFunction:
        _check_function(spec, spec["Role"])
        function = create_function(self, spec)
        function.logging_config = spec.get("LoggingConfig")  # type: ignore[attr-defined]  # ours
        return function

    def strict_update(self: LambdaBackend, function_name: str, qualifier: Any, body: dict[str, Any]) -> Any:
        _check_function(body, body.get("Role") or self.get_function(function_name, None).role)
        if "LoggingConfig" in body:
            self.get_function(function_name, None).logging_config = body["LoggingConfig"]  # type: ignore[attr-defined]
        return update_configuration(self, function_name, qualifier, body)

    def configuration(self: LambdaFunction, on_create: bool = False) -> dict[str, Any]:
        # moto does not store the logging configuration.
        return {**get_configuration(self, on_create), "LoggingConfig": logging_config(self)}

    def strict_mapping(self: LambdaBackend, spec: dict[str, Any]) -> EventSourceMapping:
        function = self.get_function(spec["FunctionName"], None)
        if ":sqs:" in spec.get("EventSourceArn", ""):
            _check_mapping(spec, function)
        return create_mapping(self, spec)

    def strict_mappings(
        self: LambdaBackend, event_source_arn: str, function_name: str | None
    ) -> list[EventSourceMapping]:
        # AWS accepts a function's name or ARN. moto compares the value that the mapping was created with.
        function = (function_name or "").rpartition(":")[2]
        mappings = list_mappings(self, event_source_arn, "")
        return [mapping for mapping in mappings if function in ("", mapping.function_arn.rpartition(":")[2])]

    def invoke(
        self: LambdaBackend, function_name: str, qualifier: str | None, body: Any, headers: Any, response_headers: Any
    ) -> bytes | None:
        # moto would run functions in Docker.
        if aws.invoker is None:
            raise NotImplementedError("no Lambda service is attached to the testbed's AWS (testbed.lambda_service)")
        function = self.get_function(function_name, qualifier)
        if headers.get("X-Amz-Invocation-Type") == "DryRun":
            return b""
        payload, more = aws.invoker(
            function,
            (body if isinstance(body, bytes) else str(body or "").encode()) or b"{}",
            asynchronous=headers.get("X-Amz-Invocation-Type") == "Event",
            log_tail=headers.get("X-Amz-Log-Type") == "Tail",
        )
        response_headers.update(more)
        return payload

    def code_location(self: LambdaFunction) -> dict[str, Any]:
        # AWS returns a URL for downloading the package. moto returns none.
        answer = get_code(self)
        answer["Code"] = {"RepositoryType": "S3", "Location": f"{aws.endpoint}{CODE_PATH}{self.function_name}"}
        return answer

    yield LambdaBackend, "create_function", strict_create
    yield LambdaBackend, "update_function_configuration", strict_update
    yield LambdaBackend, "create_event_source_mapping", strict_mapping
    yield LambdaBackend, "list_event_source_mappings", strict_mappings
    yield LambdaBackend, "invoke", invoke
    yield LambdaFunction, "get_code", code_location
    yield LambdaFunction, "get_configuration", configuration


def logging_config(function: LambdaFunction) -> dict[str, Any]:
    """The function's log group and format, with AWS's defaults."""
    default = {"LogFormat": "Text", "LogGroup": f"/aws/lambda/{function.function_name}"}
    return {**default, **(getattr(function, "logging_config", None) or {})}


CODE_PATH = "/testbed/lambda-code/"


def function_code(region: str, name: str) -> bytes | None:
    """The deployed package's bytes."""
    from moto.awslambda.models import lambda_backends  # noqa: PLC0415

    functions = {
        function.function_name: function for function in lambda_backends[aws_iam.ACCOUNT][region].list_functions()
    }
    function = functions.get(name)
    return function.code_bytes if function else None


def _check_function(spec: dict[str, Any], role_arn: str) -> None:
    """Makes AWS's checks when a function is created or updated."""
    variables = (spec.get("Environment") or {}).get("Variables") or {}
    if len(json.dumps(variables, separators=(",", ":")).encode()) > _LAMBDA_ENVIRONMENT_LIMIT:
        raise InvalidParameterValueException(
            "Lambda was unable to configure your environment variables because the environment variables you have "
            "provided exceeded the 4KB limit."
        )
    role = _role(role_arn)
    trust = json.loads(role.assume_role_policy_document)
    if not aws_iam.service_may(trust, "lambda.amazonaws.com", "sts:AssumeRole", role_arn, {}):
        raise InvalidParameterValueException("The role defined for the function cannot be assumed by Lambda.")
    if (spec.get("VpcConfig") or {}).get("SubnetIds"):
        for action in ("CreateNetworkInterface", "DescribeNetworkInterfaces", "DeleteNetworkInterface"):
            if aws_iam.denial(aws_iam.role_principal(role_arn, "lambda"), f"ec2:{action}", "*", {}):
                raise InvalidParameterValueException(
                    f"The provided execution role does not have permissions to call {action} on EC2"
                )


def _check_mapping(spec: dict[str, Any], function: LambdaFunction) -> None:
    """Makes AWS's checks when a queue is mapped to a function."""
    arn = spec["EventSourceArn"]
    for action in ("ReceiveMessage", "DeleteMessage", "GetQueueAttributes"):
        context = {"aws:SecureTransport": ["true"]}
        if aws_iam.denial(aws_iam.role_principal(function.role, "lambda"), f"sqs:{action}", arn, context):
            raise InvalidParameterValueException(
                f"The provided execution role does not have permissions to call {action} on SQS"
            )
    queue = sqs_backends[aws_iam.ACCOUNT][arn.split(":")[3]].queues.get(arn.rpartition(":")[2])
    if queue is not None and int(queue.visibility_timeout) < int(function.timeout):  # type: ignore[attr-defined]
        raise InvalidParameterValueException(
            f"Queue visibility timeout: {queue.visibility_timeout} seconds is less than "  # type: ignore[attr-defined]
            f"Function timeout: {function.timeout} seconds"
        )
    if int(spec.get("BatchSize") or 10) > 10 and not spec.get("MaximumBatchingWindowInSeconds"):
        raise InvalidParameterValueException(
            "Maximum batch window in seconds must be greater than 0 if maximum batch size is greater than 10"
        )


def _role(arn: str) -> Any:
    try:
        return iam_backends[arn.split(":")[4]]["aws"].get_role_by_arn(arn)
    except Exception as error:
        raise InvalidParameterValueException(
            "The role defined for the function cannot be assumed by Lambda."
        ) from error


def log_result(lines: list[str]) -> str:
    """The last 4 KB of an invocation's log, as `X-Amz-Log-Result` carries them."""
    return base64.b64encode("\n".join(lines).encode()[-4096:]).decode()
