"""AWS on loopback: moto, made as strict as AWS.

`StrictAws` runs moto's server in this process. It enforces IAM on every call, drops the attributes of terminated EC2
instances, requires exact deletes in Route 53, delivers EventBridge events, counts calls, and injects faults.
"""

from __future__ import annotations

import json
import logging
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from types import TracebackType
from typing import Any, Self
from uuid import uuid4

import boto3
import botocore.config
from moto.events.models import events_backends
from moto.iam.models import iam_backends
from moto.moto_api._internal.models import moto_api_backend
from moto.moto_server.werkzeug_app import DomainDispatcherApplication, MotoRequestHandler, create_backend_app
from moto.sts.models import sts_backends
from werkzeug.serving import BaseWSGIServer, make_server

from testbed import aws_iam, aws_operations, aws_patches
from testbed.aws_protocol import (
    Answer,
    AwsError,
    Call,
    Environ,
    FaultHook,
    buffer_body,
    error_answer,
    parse_call,
)

__all__ = [
    "Answer",
    "AwsError",
    "Call",
    "Credentials",
    "Drop",
    "Fault",
    "Hang",
    "LaunchedInstance",
    "RateLimit",
    "StrictAws",
    "garbage",
    "throttled",
    "unavailable",
]

ADMIN = "admin"
_EVENTS_BUS = "default"


@dataclass(frozen=True)
class Credentials:
    """An access key, with a session token for a role session."""

    access_key: str
    secret_key: str
    session_token: str | None = None


@dataclass(frozen=True)
class LaunchedInstance:
    """An instance's attributes before its termination."""

    id: str
    name: str
    private_ip: str
    private_dns_name: str
    launch_time: datetime


@dataclass(frozen=True)
class Hang:
    """A fault: the connection hangs and then closes. The call has no effect."""

    seconds: float


@dataclass(frozen=True)
class Drop:
    """A fault: the connection closes without an answer. With `after`, the call takes effect first."""

    after: bool = False


def throttled(code: str = "Throttling") -> AwsError:
    """The fault "too many requests", in the form of most services (HTTP 400)."""
    return AwsError(code, "Rate exceeded", 400)


def unavailable(status: int = 503) -> AwsError:
    """The fault "service unavailable"."""
    return AwsError("ServiceUnavailable", "Service Unavailable", status)


def garbage(status: int = 200) -> Answer:
    """The fault of an answer that is not from the service, such as a proxy's error page."""
    return Answer(status, b"<html><body>\x00 not what you asked for", {"Content-Type": "text/html"})


class Fault:
    """A fault that stays active until `remove` or the end of the `with` block."""

    def __init__(self, hook: FaultHook, everyone: bool, owner: list[Fault]) -> None:
        self.hook = hook
        self.everyone = everyone
        self._owner = owner

    def remove(self) -> None:
        if self in self._owner:
            self._owner.remove(self)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.remove()


class RateLimit:
    """A token bucket: up to `burst` calls at once, refilled at `rate` per second. `now` is its clock, in seconds."""

    def __init__(self, burst: int, rate: float, now: Callable[[], float] = time.monotonic) -> None:
        self.burst = burst
        self.rate = rate
        self._now = now
        self._tokens = float(burst)
        self._at = now()
        self._lock = threading.Lock()

    def take(self) -> bool:
        """Whether the call is within the limit."""
        with self._lock:
            now = self._now()
            self._tokens = min(self.burst, self._tokens + (now - self._at) * self.rate)
            self._at = now
            if self._tokens < 1:
                return False
            self._tokens -= 1
            return True


# Route 53's limit per account: https://docs.aws.amazon.com/Route53/latest/DeveloperGuide/DNSLimitations.html
ROUTE53_RATE = (50, 10.0)


class StrictAws:
    """A strict AWS. Only one per process, because moto keeps its state in module variables.

    `credentials` belong to an administrator. `calls` counts "service:Operation", `calls_by` counts the same by the
    caller's ARN, and `history` holds the latest calls. `undelivered` lists failed EventBridge deliveries as
    (rule or schedule, target, reason).
    """

    _running = threading.Lock()

    def __init__(self, region: str = "us-east-1", *, route53_rate: tuple[int, float] | None = None) -> None:
        self.region = region
        self.account = aws_iam.ACCOUNT
        self.endpoint = ""
        self.calls: Counter[str] = Counter()
        self.calls_by: Counter[tuple[str, str]] = Counter()
        self.history: deque[Call] = deque(maxlen=20_000)
        self.undelivered: list[tuple[str, str, str]] = []
        self.move_tasks: list[dict[str, Any]] = []
        self.invoker: aws_patches.Invoker | None = None
        self._route53_rate = route53_rate
        self._limits: dict[str, RateLimit] = {}
        self._faults: list[Fault] = []
        self._subnets: dict[tuple[str, str], str] = {}
        self._admins: dict[str, Credentials] = {}
        self._stopping = threading.Event()
        self._stack = ExitStack()
        self._server: BaseWSGIServer | None = None
        self._lock = threading.Lock()
        self._subnet_lock = threading.Lock()
        # One session for all clients, because it caches the service models.
        self._session = boto3.session.Session()
        self._session_lock = threading.Lock()

    # ------------------------------------------------------------ life

    def start(self) -> Self:
        if not self._running.acquire(blocking=False):
            raise RuntimeError("another StrictAws is running in this process; stop it first")
        self._stack.callback(self._running.release)
        try:
            # Otherwise, werkzeug logs every request to stderr.
            logging.getLogger("werkzeug").setLevel(logging.ERROR)
            self._stack.enter_context(aws_patches.applied(self))
            application = _Application(self, DomainDispatcherApplication(create_backend_app))
            self._server = make_server("127.0.0.1", 0, application, threaded=True, request_handler=_RequestHandler)
            thread = threading.Thread(target=self._server.serve_forever, name="testbed-aws", daemon=True)
            thread.start()
            self._stack.callback(self._stop_server, thread)
            self.endpoint = f"http://127.0.0.1:{self._server.server_port}"
            self.reset()
        except BaseException:
            self._stack.close()
            raise
        return self

    def stop(self) -> None:
        self._stopping.set()  # ends the hanging answers
        self._stack.close()

    def reset(self) -> None:
        """Resets AWS to an empty account with a new administrator."""
        moto_api_backend.reset()
        self._faults.clear()
        self._subnets.clear()
        self.undelivered.clear()
        self.move_tasks.clear()
        self.reset_calls()
        self.limit_route53(*(self._route53_rate or (None, None)))
        self._admins.clear()
        self.credentials = self._make_admin(self.account)

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def _stop_server(self, thread: threading.Thread) -> None:
        if self._server is not None:
            self._server.shutdown()
            self._server.server_close()
            self._server = None
        thread.join(10)
        moto_api_backend.reset()

    # ------------------------------------------------------------ clients

    def environ(self, credentials: Credentials | None = None) -> dict[str, str]:
        """Environment variables that point boto3 and Terraform here, by default as the administrator."""
        credentials = credentials or self.credentials
        variables = {
            "AWS_ENDPOINT_URL": self.endpoint,
            "AWS_ACCESS_KEY_ID": credentials.access_key,
            "AWS_SECRET_ACCESS_KEY": credentials.secret_key,
            "AWS_REGION": self.region,
            "AWS_DEFAULT_REGION": self.region,
            "AWS_EC2_METADATA_DISABLED": "true",
        }
        if credentials.session_token:
            variables["AWS_SESSION_TOKEN"] = credentials.session_token
        return variables

    def client(
        self,
        service: str,
        credentials: Credentials | None = None,
        *,
        retries: int = 0,
        region: str | None = None,
    ) -> Any:
        """A boto3 client, by default for the administrator and without retries."""
        credentials = credentials or self.credentials
        with self._session_lock:  # creating clients is not thread-safe; using them is
            return self._session.client(
                service,  # type: ignore[call-overload]  # any service by its name
                region_name=region or self.region,
                endpoint_url=self.endpoint,
                aws_access_key_id=credentials.access_key,
                aws_secret_access_key=credentials.secret_key,
                aws_session_token=credentials.session_token,
                config=botocore.config.Config(retries={"total_max_attempts": retries + 1}, read_timeout=900),
            )

    def role_credentials(
        self, role_arn: str, session_name: str, *, source_function_arn: str | None = None
    ) -> Credentials:
        """A session of the role, as the trusted service gets it.

        `source_function_arn` marks the session as the code of that Lambda function.
        """
        session = sts_backends[role_arn.split(":")[4]]["aws"].assume_role(
            region_name=self.region,
            role_session_name=session_name,
            role_arn=role_arn,
            policy="",
            duration=3600,
            external_id="",
        )
        session.source_function_arn = source_function_arn  # type: ignore[attr-defined]  # ours
        return Credentials(session.access_key_id, session.secret_access_key, session.session_token)

    def admin_of(self, account: str) -> Credentials:
        """An administrator of another account. Creates the account on first use."""
        if account == self.account:
            return self.credentials
        if account not in self._admins:
            self._admins[account] = self._make_admin(account)
        return self._admins[account]

    def _make_admin(self, account: str) -> Credentials:
        iam = iam_backends[account]["aws"]
        iam.create_user(self.region, ADMIN)
        everything = {"Effect": "Allow", "Action": "*", "Resource": "*"}
        iam.put_user_policy(ADMIN, "all", json.dumps({"Version": "2012-10-17", "Statement": [everything]}))
        key = iam.create_access_key(ADMIN)
        return Credentials(key.access_key_id, key.secret_access_key)

    # ------------------------------------------------------------ counters and faults

    def reset_calls(self) -> None:
        self.calls.clear()
        self.calls_by.clear()
        self.history.clear()

    def fault(self, hook: FaultHook, *, everyone: bool = False) -> Fault:
        """Calls `hook(service, operation, params)` for every call except the administrator's.

        The hook returns None to let the call through, or returns or raises a fault: `AwsError` (see also
        `throttled`, `unavailable`), `Answer` (raw HTTP; see `garbage`), `Hang` or `Drop`. It may have side effects,
        such as killing the function. With `everyone`, the hook also gets the administrator's calls.
        """
        fault = Fault(hook, everyone, self._faults)
        self._faults.append(fault)
        return fault

    def clear_faults(self) -> None:
        self._faults.clear()

    def limit_route53(self, burst: int | None = ROUTE53_RATE[0], rate: float | None = ROUTE53_RATE[1]) -> None:
        """Throttles Route 53 for all callers except the administrator. None removes the limit."""
        self._limits.pop("route53", None)
        if burst is not None and rate is not None:
            self._limits["route53"] = RateLimit(burst, rate)

    # ------------------------------------------------------------ EC2

    @property
    def subnet_id(self) -> str:
        """A 10.0.0.0/16 subnet in a VPC with DNS names, created on first use."""
        return self.subnet_in(self.account, self.region)

    def subnet_in(self, account: str, region: str) -> str:
        """The same subnet, with the same range, in another account or region."""
        with self._subnet_lock:
            if (account, region) not in self._subnets:
                ec2 = self.client("ec2", self.admin_of(account), region=region)
                vpc = ec2.create_vpc(CidrBlock="10.0.0.0/16")["Vpc"]["VpcId"]
                ec2.modify_vpc_attribute(VpcId=vpc, EnableDnsHostnames={"Value": True})
                subnet = ec2.create_subnet(VpcId=vpc, CidrBlock="10.0.0.0/16")
                self._subnets[account, region] = str(subnet["Subnet"]["SubnetId"])
            return self._subnets[account, region]

    @property
    def security_group_id(self) -> str:
        """The default security group of the VPC of `subnet_id`."""
        ec2 = self.client("ec2")
        vpc = ec2.describe_subnets(SubnetIds=[self.subnet_id])["Subnets"][0]["VpcId"]
        filters = [{"Name": "vpc-id", "Values": [vpc]}, {"Name": "group-name", "Values": ["default"]}]
        return str(ec2.describe_security_groups(Filters=filters)["SecurityGroups"][0]["GroupId"])

    def launch(
        self,
        name: str | None,
        private_ip: str | None = None,
        tags: Mapping[str, str] | None = None,
        *,
        subnet_id: str | None = None,
        emit: bool = True,
        account: str | None = None,
        region: str | None = None,
        **run_instances: Any,
    ) -> LaunchedInstance:
        """Launches an instance (`name` is its Name tag) and emits its `pending` and `running` events.

        `run_instances` holds further parameters of RunInstances.
        """
        account, region = account or self.account, region or self.region
        all_tags = {**({"Name": name} if name is not None else {}), **(tags or {})}
        request: dict[str, Any] = {
            "ImageId": "ami-12c6146b",
            "InstanceType": "t3.micro",
            "MinCount": 1,
            "MaxCount": 1,
            "SubnetId": subnet_id or self.subnet_in(account, region),
            **run_instances,
        }
        if private_ip is not None:
            request["PrivateIpAddress"] = private_ip
        if all_tags:
            tag_list = [{"Key": key, "Value": value} for key, value in all_tags.items()]
            request["TagSpecifications"] = [{"ResourceType": "instance", "Tags": tag_list}]
        ec2 = self.client("ec2", self.admin_of(account), region=region)
        instance = ec2.run_instances(**request)["Instances"][0]
        for state in ("pending", "running") if emit else ():
            self.emit(self.state_change(instance["InstanceId"], state, account=account, region=region))
        return LaunchedInstance(
            id=instance["InstanceId"],
            name=name or "",
            private_ip=instance["PrivateIpAddress"],
            private_dns_name=instance["PrivateDnsName"],
            launch_time=instance["LaunchTime"],
        )

    def terminate(
        self, instance_id: str, *, emit: bool = True, account: str | None = None, region: str | None = None
    ) -> dict[str, Any]:
        """Terminates the instance and emits `shutting-down` and `terminated`. Returns the `terminated` event."""
        ec2 = self.client("ec2", self.admin_of(account or self.account), region=region)
        ec2.terminate_instances(InstanceIds=[instance_id])
        event = self.state_change(instance_id, "terminated", account=account, region=region)
        if emit:
            self.emit(self.state_change(instance_id, "shutting-down", account=account, region=region))
            self.emit(event)
        return event

    def forget_tags(self, instance_id: str, *, account: str | None = None, region: str | None = None) -> None:
        """Drops the tags, as AWS does some time after the termination."""
        aws_patches.forget_instance_tags(account or self.account, region or self.region, instance_id)

    def forget(self, instance_id: str, *, account: str | None = None, region: str | None = None) -> None:
        """Drops the instance, as AWS does about an hour after the termination: its id becomes an error."""
        aws_patches.forget_instance(account or self.account, region or self.region, instance_id)

    # ------------------------------------------------------------ EventBridge

    def state_change(
        self,
        instance_id: str,
        state: str,
        *,
        at: datetime | None = None,
        account: str | None = None,
        region: str | None = None,
    ) -> dict[str, Any]:
        """An `EC2 Instance State-change Notification` in AWS's format."""
        account, region = account or self.account, region or self.region
        return {
            "version": "0",
            "id": str(uuid4()),
            "detail-type": "EC2 Instance State-change Notification",
            "source": "aws.ec2",
            "account": account,
            "time": (at or datetime.now(UTC)).strftime("%Y-%m-%dT%H:%M:%SZ"),
            "region": region,
            "resources": [f"arn:aws:ec2:{region}:{account}:instance/{instance_id}"],
            "detail": {"instance-id": instance_id, "state": state},
        }

    def emit(self, event: Mapping[str, Any]) -> list[str]:
        """Puts a complete event (with id and time) on the default bus of its place, as an AWS service does.

        The patterns of the deployed rules decide where it goes. Returns the names of the matching rules.
        """
        taken = []
        for rule in self._rules(str(event.get("account", self.account)), str(event.get("region", self.region))):
            pattern = rule.event_pattern
            if rule.state == "ENABLED" and pattern.get_pattern() and pattern.matches_event(dict(event)):
                aws_patches.deliver(self, rule, dict(event))
                taken.append(rule.name)
        return taken

    def fire_schedule(self, name: str) -> None:
        """Triggers the deployed scheduled rule, or the EventBridge Scheduler schedule, with that name."""
        for rule in self._rules(self.account, self.region):
            if rule.name == name and rule.scheduled_expression:
                event = {
                    **self.state_change("-", "-"),
                    "detail-type": "Scheduled Event",
                    "source": "aws.events",
                    "resources": [rule.arn],
                    "detail": {},
                }
                aws_patches.deliver(self, rule, event)
                return
        raise LookupError(f"no scheduled rule {name} is deployed")

    def _rules(self, account: str, region: str) -> Iterator[Any]:
        bus = events_backends[account][region].describe_event_bus(_EVENTS_BUS)
        yield from list(bus.rules.values())

    # ------------------------------------------------------------ answering

    def answer(self, environ: Environ) -> Answer | Drop | Call | None:
        """The answer in place of moto's; the `Call` if moto must answer it; None if this is not an API call."""
        body = buffer_body(environ)
        path = str(environ.get("PATH_INFO", ""))
        if path.startswith(aws_patches.CODE_PATH):
            code = aws_patches.function_code(self.region, path.removeprefix(aws_patches.CODE_PATH))
            return Answer(404, b"") if code is None else Answer(200, code, {"Content-Type": "application/zip"})
        call = parse_call(environ, body)
        if call is None:
            return None
        try:
            principal = aws_iam.principal_of(call)
            call = replace(call, principal=principal.arn)
            self._count(call)
            is_admin = principal.arn.endswith(f":user/{ADMIN}")
            limit = None if is_admin else self._limits.get(call.service)
            if limit is not None and not limit.take():
                raise throttled()
            fault = self._ask_faults(call, is_admin)
            if isinstance(fault, Answer):
                return fault
            if isinstance(fault, Drop) and not fault.after:
                return fault
            aws_iam.authorize(principal, call)
            if fault is None and (operation := aws_operations.OPERATIONS.get(call.name)):
                return Answer(200, json.dumps(operation(self, call)).encode(), {"Content-Type": "application/json"})
        except AwsError as error:
            return error_answer(call, error)
        return fault if isinstance(fault, Drop) else call

    def _count(self, call: Call) -> None:
        with self._lock:
            self.calls[call.name] += 1
            self.calls_by[call.principal, call.name] += 1
            self.history.append(call)

    def _ask_faults(self, call: Call, is_admin: bool) -> Answer | Drop | None:
        for fault in list(self._faults):
            if is_admin and not fault.everyone:
                continue
            outcome = fault.hook(call.service, call.operation, call.params)
            if isinstance(outcome, AwsError):
                raise outcome
            if isinstance(outcome, Hang):
                self._stopping.wait(outcome.seconds)
                return Drop()
            if isinstance(outcome, Answer | Drop):
                return outcome
            if outcome is not None:
                raise TypeError(f"a fault hook returned {outcome!r}")
        return None


class _RequestHandler(MotoRequestHandler):
    # Headers and body are two writes. With Nagle's algorithm, the second waits 40 ms for an acknowledgement.
    disable_nagle_algorithm = True

    def connection_dropped(self, error: BaseException, environ: Environ | None = None) -> None:  # noqa: ARG002
        # Otherwise, the connection stays open and the client waits for an answer.
        self.close_connection = True


class _Application:
    """The WSGI application. Passes requests that the strict AWS does not answer to moto."""

    def __init__(self, aws: StrictAws, moto: DomainDispatcherApplication) -> None:
        self._aws = aws
        self._moto = moto
        # moto is not thread-safe: concurrent requests sometimes see half-changed state, and fail after they took
        # effect. Invocations call back, so they cannot take the lock.
        self._one_at_a_time = threading.Lock()

    def __call__(self, environ: Environ, start_response: Any) -> Iterable[bytes]:
        decided = self._aws.answer(environ)
        if isinstance(decided, Drop):
            if decided.after:
                b"".join(self._moto(environ, lambda *_: None))
            # werkzeug treats this as a disconnected client, and closes the connection without an answer.
            raise ConnectionAbortedError
        if isinstance(decided, Answer):
            status = f"{decided.status} testbed"
            headers = {**decided.headers, "Content-Length": str(len(decided.body))}
            start_response(status, list(headers.items()))
            return [decided.body]
        if str(environ.get("PATH_INFO", "")).endswith("/invocations"):
            answer: Iterable[bytes] = self._moto(environ, start_response)
            return answer
        with self._one_at_a_time:
            return list(self._moto(environ, start_response))
