"""A lane: environments of the deployed function whose six systems stand behind proxies that may fail.

Several lanes work side by side on one deployment. In each another system fails, and in no other lane it does.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Iterable
from contextlib import ExitStack
from types import TracebackType
from typing import Any, Self

from testbed.aws import Call
from testbed.fault_proxy import FaultProxy, Request
from testbed.lambda_service import Batch, Network
from tests.deployed.conftest import NAME, Deployed

AWS = {"Route 53": "route53", "DynamoDB": "dynamodb", "EC2": "ec2", "KMS": "kms"}
SYSTEMS = ("Chef", "Consul", *AWS)
_PROTOCOLS = {"route53": "rest-xml", "dynamodb": "json", "ec2": "ec2", "kms": "json"}
_READING = {"BatchGetItem", "Query", "DescribeInstances", "Decrypt", "DescribeNetworkInterfaces"}


class Lane:
    """One network of six proxies, and the function in it."""

    def __init__(self, deployed: Deployed, name: str) -> None:
        self.deployed = deployed
        platform = deployed.platform
        servers = {"Chef": platform.chef.url, "Consul": platform.consul.url}
        self.proxies = {system: FaultProxy(servers.get(system, platform.aws.endpoint)) for system in SYSTEMS}
        endpoints = {
            f"AWS_ENDPOINT_URL_{service.upper().replace('ROUTE53', 'ROUTE_53')}": self.proxies[system].url
            for system, service in AWS.items()
        }
        addresses = {url: self.proxies[system].url for system, url in servers.items()}
        self.network = Network(name, addresses, endpoints)
        self._stack = ExitStack()

    def __enter__(self) -> Self:
        for proxy in self.proxies.values():
            self._stack.enter_context(proxy)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.deployed.platform.functions.forget_environments(self.network)
        self._stack.close()

    def passes(self) -> None:
        for proxy in self.proxies.values():
            proxy.passes()

    def deliver(self, message_ids: Collection[str]) -> Batch:
        """One batch of these messages."""
        return self.deployed.platform.poller.deliver(message_ids, self.network)

    def kill(self) -> None:
        """Ends the function's processes: the next invocation starts cold."""
        self.deployed.platform.functions.kill(NAME, self.network)

    def watch(self, watch: Callable[[str, Request, bool], None]) -> None:
        """Calls `watch(system, request, done)` before and after every request that goes on to its server."""
        for system, proxy in self.proxies.items():

            def tell(request: Request, done: bool, system: str = system) -> None:
                watch(system, request, done)

            proxy.watch = tell

    def forget(self) -> None:
        """Forgets the requests seen up to now."""
        for proxy in self.proxies.values():
            proxy.seen.clear()

    def changes(self) -> list[str]:
        """The requests since `forget` that were to change one of the three systems that are cleaned up."""
        return [
            f"{system}: {request.operation}"
            for system in ("Chef", "Consul", "Route 53")
            for request in self.proxies[system].seen
            if is_change(system, request)
        ]


def is_change(system: str, request: Request) -> bool:
    """Whether the request changes something in its system; of EC2 and KMS, that only read, its second half."""
    if system == "Chef":
        return request.method == "DELETE"
    if system == "Consul":
        if request.path.startswith("/v1/txn"):
            verbs = {next(iter(op.values()))["Verb"] for op in json.loads(request.body)}
            return not verbs <= {"get", "get-tree"}
        return request.method == "PUT"
    if system == "Route 53":
        return request.method == "POST"
    if system == "EC2":
        return request.operation == "DescribeNetworkInterfaces"
    return system == "KMS" or request.operation not in _READING


def aws_call(system: str) -> Call:
    """A call of that service, for the wire format of an error that answers it."""
    service = AWS[system]
    return Call(service, "", {}, "", "", None, _PROTOCOLS[service])


def messages_of(deployed: Deployed, instance_ids: Iterable[str], state: str, queue: str = NAME) -> dict[str, str]:
    """The messages that are in the queue, by instance; of several the last."""
    wanted = set(instance_ids)
    found = {}
    for message in deployed.platform.poller.messages(queue):
        detail = json.loads(message["body"]).get("detail", {})
        if detail.get("instance-id") in wanted and detail.get("state") == state:
            found[detail["instance-id"]] = message["id"]
    return found


def send(deployed: Deployed, body: dict[str, Any]) -> str:
    """Puts a message into the queue as it is, and gives its id."""
    url = deployed.stack.outputs()["queue_url"]
    sqs = deployed.platform.aws.client("sqs")
    return str(sqs.send_message(QueueUrl=url, MessageBody=json.dumps(body))["MessageId"])


def failures(batch: Batch) -> list[str]:
    """What failed in a batch, as the function's log tells it; empty where nothing was returned."""
    told = [line["message"] for line in batch.invocation.json_logs() if line.get("level") in ("ERROR", "CRITICAL")]
    return (told or [str(batch.invocation.error or "returned without a reason")]) if batch.returned else []
