"""The part of Lambda that runs deployed functions: for `Invoke`, EventBridge and queues.

It runs the deployed package with its deployed handler, variables and timeout, under the function's own role, so that
IAM checks all its calls.
"""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Collection, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from botocore.exceptions import BotoCoreError, ClientError
from moto.awslambda.models import EventSourceMapping, LambdaFunction, lambda_backends
from moto.core.utils import unix_time_millis
from moto.sqs.models import Message, Queue, sqs_backends

from testbed import aws_patches
from testbed.aws import Credentials, StrictAws
from testbed.aws_patches import log_result, logging_config
from testbed.runtime import Invocation, LambdaRuntime, Packages

_LATE_SECONDS = 10.0
_RECEIVE_LIMIT = 10  # messages per ReceiveMessage
# https://docs.aws.amazon.com/lambda/latest/dg/invocation-async-error-handling.html
_ASYNCHRONOUS_TRIES = 3
# Lambda itself writes the messages of these errors to the log.
_PLATFORM_ERRORS = ("Sandbox.Timedout", "Runtime.ExitError")


@dataclass(frozen=True)
class DeployedInvocation(Invocation):
    """An invocation of a deployed function."""

    function_name: str = ""
    payload: Any = None
    log_error: str | None = None
    """The reason why Lambda could not write the log: a missing permission or log group."""


@dataclass(frozen=True)
class Network:
    """A network in which execution environments reach other servers under the deployed addresses.

    `addresses` maps addresses in the function's variables, such as URLs, to their replacements. `environment` holds
    additional variables, such as AWS_ENDPOINT_URL_EC2. Each network, identified by its name, has its own execution
    environments.
    """

    name: str
    addresses: Mapping[str, str] = field(default_factory=dict, compare=False)
    environment: Mapping[str, str] = field(default_factory=dict, compare=False)

    def variables(self, deployed: Mapping[str, str]) -> dict[str, str]:
        """The function's variables in this network."""
        found = dict(deployed)
        for before, here in self.addresses.items():
            found = {name: value.replace(before, here) for name, value in found.items()}
        return {**self.environment, **found}


_ORDINARY = Network("")


@dataclass
class _Environments:
    """The warm execution environments of one function version in one network."""

    fingerprint: str
    idle: list[LambdaRuntime] = field(default_factory=list)
    all: list[LambdaRuntime] = field(default_factory=list)


class LambdaService:
    """Attaches itself to a `StrictAws`, so that `Invoke` runs the deployed function.

    `invocations` lists all invocations, in the order in which they ended. `extra_environment` holds variables for
    tests, such as SSL_CERT_FILE. The function's own variables take precedence. `packages` shares unpacked packages
    with other services.
    """

    def __init__(
        self,
        aws: StrictAws,
        *,
        run_directory: Path | None = None,
        extra_environment: Mapping[str, str] | None = None,
        packages: Packages | None = None,
    ) -> None:
        self.aws = aws
        self.invocations: list[DeployedInvocation] = []
        self.extra_environment = dict(extra_environment or {})
        self._run_directory = run_directory
        self._own_packages = None
        if packages is None:
            packages = self._own_packages = Packages(run_directory)
        self._packages = packages
        self._environments: dict[tuple[str, str], _Environments] = {}  # by function and network
        self._lock = threading.Lock()
        self._background = ThreadPoolExecutor(max_workers=4, thread_name_prefix="lambda-event")
        aws.invoker = self._invoker

    # ------------------------------------------------------------ use

    def invoke(self, function_name: str, payload: Any) -> DeployedInvocation:
        """Runs the deployed function once. Returns more details than an `Invoke` over HTTP."""
        return self.run(self._function(function_name), payload)

    def run(
        self,
        function: LambdaFunction,
        payload: Any,
        request_id: str | None = None,
        network: Network = _ORDINARY,
    ) -> DeployedInvocation:
        """Runs it in an idle warm environment or in a new one, as Lambda does."""
        environments, runtime = self._take(function, network)
        try:
            ran = runtime.invoke(payload, timeout=float(function.timeout), request_id=request_id)
        finally:
            with self._lock:
                if self._environments.get((function.function_arn, network.name)) is environments:
                    environments.idle.append(runtime)
        log_error = self._write_log(function, ran)
        done = DeployedInvocation(
            **vars(ran), function_name=function.function_name, payload=payload, log_error=log_error
        )
        with self._lock:
            self.invocations.append(done)
        return done

    def code_credentials(self, function_name: str) -> Credentials:
        """New credentials like those of the function's code."""
        function = self._function(function_name)
        return self.aws.role_credentials(function.role, function_name, source_function_arn=function.function_arn)

    def environments(self, function_name: str, network: Network = _ORDINARY) -> list[LambdaRuntime]:
        """The function's execution environments."""
        found = self._environments.get((self._function(function_name).function_arn, network.name))
        return list(found.all) if found else []

    def kill(self, function_name: str, network: Network = _ORDINARY) -> None:
        """Kills the function's processes in the middle of their work. Safe to call from a fault hook."""
        for runtime in self.environments(function_name, network):
            runtime.kill()

    def forget_environments(self, network: Network | None = None) -> None:
        """Makes every function start cold with new credentials, in one network or in all."""
        with self._lock:
            stale = {key: found for key, found in self._environments.items() if network in (None, Network(key[1]))}
            for key in stale:
                del self._environments[key]
        for environments in stale.values():
            for runtime in environments.all:
                runtime.close()

    def wait_asynchronous(self) -> None:
        """Waits until all invocations of type Event have ended."""
        self._background.shutdown(wait=True)
        self._background = ThreadPoolExecutor(max_workers=4, thread_name_prefix="lambda-event")

    def close(self) -> None:
        self._background.shutdown(wait=True, cancel_futures=True)
        self.forget_environments()
        if self._own_packages:
            self._own_packages.close()
        # `==` because each access to a bound method creates a new object.
        if self.aws.invoker == self._invoker:
            self.aws.invoker = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    # ------------------------------------------------------------ environments

    def _function(self, name: str) -> LambdaFunction:
        return lambda_backends[self.aws.account][self.aws.region].get_function(name, None)

    def _take(self, function: LambdaFunction, network: Network) -> tuple[_Environments, LambdaRuntime]:
        fingerprint = _fingerprint(function)
        key = function.function_arn, network.name
        with self._lock:
            known = self._environments.get(key)
            stale: list[LambdaRuntime] = []
            if known is None or known.fingerprint != fingerprint:
                stale = known.all if known else []
                known = self._environments[key] = _Environments(fingerprint)
            if known.idle:
                return known, known.idle.pop()
        for runtime in stale:
            runtime.close()
        runtime = LambdaRuntime(
            function.code_bytes,
            str(function.handler),
            {**self.extra_environment, **network.variables(function.environment_vars)},
            str(function.run_time).removeprefix("python"),
            credentials=self.aws.environ(self.code_credentials(function.function_name)),
            function_name=function.function_name,
            function_arn=function.function_arn,
            memory_size=int(function.memory_size),
            log_group=_log_group(function),
            timeout=float(function.timeout),
            run_directory=self._run_directory,
            packages=self._packages,
        )
        with self._lock:
            known.all.append(runtime)
        return known, runtime

    def _role_credentials(self, function: LambdaFunction, session_name: str) -> Credentials:
        return self.aws.role_credentials(function.role, session_name)

    # ------------------------------------------------------------ Invoke

    def _invoker(
        self, function: LambdaFunction, payload: bytes, *, asynchronous: bool, log_tail: bool
    ) -> tuple[bytes, dict[str, str]]:
        event = json.loads(payload)
        if asynchronous:
            self._background.submit(self._run_asynchronously, function, event)
            return b"", {}
        ran = self.run(function, event)
        headers = {"X-Amz-Executed-Version": "$LATEST"}
        if ran.error is not None:
            headers["X-Amz-Function-Error"] = "Unhandled"
        if log_tail:
            headers["X-Amz-Log-Result"] = log_result(_platform_log(ran, function))
        return json.dumps(ran.result if ran.error is None else ran.error).encode(), headers

    def _run_asynchronously(self, function: LambdaFunction, event: Any) -> None:
        """Retries twice and then drops the event, as Lambda does, but without Lambda's delays."""
        for _ in range(_ASYNCHRONOUS_TRIES):
            if self.run(function, event).error is None:
                return

    def _write_log(self, function: LambdaFunction, ran: Invocation) -> str | None:
        """Writes to CloudWatch Logs as the role. Without permission, Lambda drops the log silently."""
        logs = self.aws.client("logs", self._role_credentials(function, "lambda-logs"))
        stream = {"logGroupName": _log_group(function), "logStreamName": f"testbed/[$LATEST]{ran.request_id}"}
        now = int(time.time() * 1000)
        lines = [line for line in _platform_log(ran, function) if line]
        try:
            with suppress(logs.exceptions.ResourceAlreadyExistsException):
                logs.create_log_stream(**stream)
            logs.put_log_events(**stream, logEvents=[{"timestamp": now, "message": line} for line in lines])
        except (BotoCoreError, ClientError) as error:
            return str(error)
        return None


def _fingerprint(function: LambdaFunction) -> str:
    parts = [function.handler, function.run_time, function.role, function.memory_size, function.environment_vars]
    return sha256(function.code_bytes + json.dumps(parts, sort_keys=True).encode()).hexdigest()


def _log_group(function: LambdaFunction) -> str:
    return str(logging_config(function)["LogGroup"])


def _platform_log(ran: Invocation, function: LambdaFunction) -> list[str]:
    milliseconds = f"{ran.duration * 1000:.2f} ms"
    memory = f"Memory Size: {function.memory_size} MB\tMax Memory Used: {ran.max_memory_mb} MB"
    return [
        f"START RequestId: {ran.request_id} Version: $LATEST",
        *ran.logs,
        *([str(ran.error["errorMessage"])] if ran.error and ran.error.get("errorType") in _PLATFORM_ERRORS else []),
        f"END RequestId: {ran.request_id}",
        f"REPORT RequestId: {ran.request_id}\tDuration: {milliseconds}\t{memory}",
    ]


# ---------------------------------------------------------------- queues


@dataclass(frozen=True)
class Batch:
    """A batch that a queue delivered to a function."""

    queue: str
    function_name: str
    message_ids: list[str]
    invocation: DeployedInvocation
    returned: list[str]
    """Ids of the messages that stay in the queue."""


class EventSourcePoller:
    """Lambda's poller of the deployed event source mappings. It polls only on demand."""

    def __init__(self, service: LambdaService) -> None:
        self.service = service
        self.aws = service.aws
        self._receiving = threading.Lock()

    def drain(self, max_rounds: int = 100, *, skip_delays: bool = False, only: str | None = None) -> list[Batch]:
        """Delivers batches until no queue has a visible message, or `max_rounds` is reached.

        A message that returns with a visibility timeout waits for `skip_delays` or `advance`. With the argument
        `skip_delays`, no message waits, and messages that keep failing end in the dead-letter queue. `only` selects
        one function.
        """
        batches: list[Batch] = []
        for _ in range(max_rounds):
            if skip_delays:
                self.skip_delays()
            this_round = self.poll(only)
            if not this_round:
                break
            batches += this_round
        return batches

    def poll(self, only: str | None = None) -> list[Batch]:
        """Delivers one batch for each enabled mapping with visible messages. `only` selects one function."""
        mappings = [
            mapping
            for mapping in self._mappings()
            if mapping.enabled and only in (None, mapping.function_arn.rpartition(":")[2])
        ]
        return [batch for mapping in mappings if (batch := self._poll(mapping)) is not None]

    def deliver(self, message_ids: Collection[str], network: Network = _ORDINARY) -> Batch:
        """Delivers one batch of exactly these messages, regardless of their delays. Thread-safe.

        Raises LookupError if not all of them can be received.
        """
        [mapping] = [mapping for mapping in self._mappings() if self._holds(mapping, message_ids)]
        [queue] = self._queues(_queue_name(mapping))
        batch: list[dict[str, Any]] = []
        missing = set(message_ids)
        end = time.monotonic() + _LATE_SECONDS
        while missing:
            with self._receiving:
                for message in queue._messages:
                    if message.id in missing:
                        message.visible_at = message.delayed_until = 0
                # Leave the other messages alone: another invocation may be changing their visibility.
                with aws_patches.only(queue, missing):
                    batch += self._begin(mapping)
            missing -= {message["MessageId"] for message in batch}
            # The message was hidden a moment ago, by a call that the function no longer waited for.
            if missing - {message.id for message in queue._messages} or time.monotonic() > end:
                break
        if missing:
            raise LookupError(f"not received: {', '.join(sorted(missing))}")
        return self._finish(mapping, batch, network)

    def _holds(self, mapping: EventSourceMapping, message_ids: Collection[str]) -> bool:
        return any(message["id"] in message_ids for message in self.messages(_queue_name(mapping)))

    def skip_delays(self, queue_name: str | None = None) -> None:
        """Makes every delayed or invisible message visible now."""
        for queue in self._queues(queue_name):
            for message in queue._messages:
                message.visible_at = 0
                message.delayed_until = 0

    def advance(self, seconds: float, queue_name: str | None = None) -> None:
        """Advances the time for all messages: delays, age and retention."""
        milliseconds = seconds * 1000
        for queue in self._queues(queue_name):
            for message in list(queue._messages):
                _make_older(message, milliseconds)
                retention = int(queue.message_retention_period) * 1000  # type: ignore[attr-defined]
                if message.sent_timestamp is not None and message.sent_timestamp + retention < unix_time_millis():
                    queue._messages.remove(message)

    def messages(self, queue_name: str) -> list[dict[str, Any]]:
        """All messages of a queue, visible or not, in a form for tests."""
        now = unix_time_millis()
        return [
            {
                "id": message.id,
                "body": message.body,
                "receive_count": message.approximate_receive_count,
                "visible_in_seconds": max(0.0, (max(message.visible_at, message.delayed_until) - now) / 1000),
            }
            for queue in self._queues(queue_name)
            for message in queue._messages
        ]

    # ------------------------------------------------------------ one batch

    def _poll(self, mapping: EventSourceMapping) -> Batch | None:
        with self._receiving:
            messages = self._begin(mapping)
        return self._finish(mapping, messages, _ORDINARY) if messages else None

    def _begin(self, mapping: EventSourceMapping) -> list[dict[str, Any]]:
        sqs, url = self._queue_of(mapping)
        return self._receive(sqs, url, mapping.batch_size)

    def _queue_of(self, mapping: EventSourceMapping) -> tuple[Any, str]:
        """Opens the queue as the function's role, because Lambda needs the role's permissions to read it."""
        credentials = self.service._role_credentials(
            self.service._function(mapping.function_arn), "event-source-mapping"
        )
        url = f"{self.aws.endpoint}/{self.aws.account}/{_queue_name(mapping)}"
        return self.aws.client("sqs", credentials, retries=2), url

    def _finish(self, mapping: EventSourceMapping, messages: list[dict[str, Any]], network: Network) -> Batch:
        function = self.service._function(mapping.function_arn)
        sqs, url = self._queue_of(mapping)
        records = [_record(message, mapping.event_source_arn, self.aws.region) for message in messages]
        ran = self.service.run(function, {"Records": records}, network=network)
        returned = _failed_ids(mapping, ran, [message["MessageId"] for message in messages])
        done = [message for message in messages if message["MessageId"] not in returned]
        for start in range(0, len(done), _RECEIVE_LIMIT):
            entries = [
                {"Id": str(index), "ReceiptHandle": message["ReceiptHandle"]}
                for index, message in enumerate(done[start : start + _RECEIVE_LIMIT])
            ]
            sqs.delete_message_batch(QueueUrl=url, Entries=entries)
        ids = [message["MessageId"] for message in messages]
        return Batch(_queue_name(mapping), function.function_name, ids, ran, sorted(returned))

    def _receive(self, sqs: Any, url: str, batch_size: int) -> list[dict[str, Any]]:
        messages: list[dict[str, Any]] = []
        while len(messages) < batch_size:
            got = sqs.receive_message(
                QueueUrl=url,
                MaxNumberOfMessages=min(_RECEIVE_LIMIT, batch_size - len(messages)),
                MessageSystemAttributeNames=["All"],
                MessageAttributeNames=["All"],
                WaitTimeSeconds=0,
            ).get("Messages", [])
            if not got:
                break
            messages += got
        return messages

    def _mappings(self) -> list[EventSourceMapping]:
        backend = lambda_backends[self.aws.account][self.aws.region]
        return [
            mapping for mapping in backend.list_event_source_mappings("", "") if ":sqs:" in mapping.event_source_arn
        ]

    def _queues(self, name: str | None) -> list[Queue]:
        queues = sqs_backends[self.aws.account][self.aws.region].queues
        return list(queues.values()) if name is None else [queues[name]]


def _queue_name(mapping: EventSourceMapping) -> str:
    return str(mapping.event_source_arn.rpartition(":")[2])


def _make_older(message: Message, milliseconds: float) -> None:
    message.visible_at -= milliseconds
    message.delayed_until -= milliseconds
    for name in ("sent_timestamp", "approximate_first_receive_timestamp", "received_at"):
        if (value := getattr(message, name, None)) is not None:
            setattr(message, name, int(value - milliseconds))


def _record(message: dict[str, Any], arn: str, region: str) -> dict[str, Any]:
    """https://docs.aws.amazon.com/lambda/latest/dg/with-sqs.html"""
    return {
        "messageId": message["MessageId"],
        "receiptHandle": message["ReceiptHandle"],
        "body": message["Body"],
        "attributes": message.get("Attributes", {}),
        "messageAttributes": {
            name: {
                "stringValue": value.get("StringValue"),
                "dataType": value["DataType"],
                "stringListValues": [],
                "binaryListValues": [],
            }
            for name, value in message.get("MessageAttributes", {}).items()
        },
        "md5OfBody": message["MD5OfBody"],
        "eventSource": "aws:sqs",
        "eventSourceARN": arn,
        "awsRegion": region,
    }


def _failed_ids(mapping: EventSourceMapping, ran: Invocation, ids: list[str]) -> set[str]:
    """https://docs.aws.amazon.com/lambda/latest/dg/services-sqs-errorhandling.html"""
    everything = set(ids)
    if ran.error is not None:
        return everything
    if "ReportBatchItemFailures" not in (mapping.function_response_types or []):
        return set()
    if ran.result is None:
        return set()
    if not isinstance(ran.result, dict):
        return everything
    failures = ran.result.get("batchItemFailures") or []
    if not isinstance(failures, list):
        return everything
    failed = {failure.get("itemIdentifier") if isinstance(failure, dict) else None for failure in failures}
    # An empty or unknown identifier fails the whole batch.
    return everything if failed - everything else {str(identifier) for identifier in failed}
