"""The function's role: each statement is necessary, and no other resources are accessible.

Without a statement, an operation fails, and its error names the missing permission, so that an operator can fix it
from the log alone.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from botocore.exceptions import ClientError
from moto.ec2.models import ec2_backends
from moto.sqs.models import sqs_backends

from ec2_decommission.metrics import NAMESPACE
from testbed import aws_iam
from testbed.aws import Credentials, LaunchedInstance
from testbed.platform import ZONE
from tests.deployed.conftest import NAME, Deployed
from tests.fakes.emf import Point, is_metrics, read

pytestmark = pytest.mark.servers

# Statements that Lambda needs, not the function: Lambda attaches the function to the VPC.
ALLOWED = [
    "ChangeRecords",
    "ListWhatToSweep",
    "OpenSecrets",
    "ReadInstances",
    "ReadRecords",
    "RememberInstances",
    "SendWhatTheSweepFound",
    "TakeEvents",
    "WriteLogs",
]
FOR_LAMBDA = ["AttachToVpc", "CodeMayNotAttachToVpc"]
# Without these, the function does not run, or its log is lost.
SEEN_BY_LAMBDA_ONLY = {"TakeEvents", "WriteLogs"}
SOMEBODY_ELSES = "54.7.8.9"  # EC2 is asked whether it is an Elastic IP
# Lambda requires it for the event source mapping. The code never calls it.
LAMBDA_ASKS_FOR = {"sqs:GetQueueAttributes"}

_DENIED = re.compile(r"not authorized to perform: ([\w:-]+)(?: on resource: ([^\s\"\\]+))?")


@dataclass
class Story:
    """The results of the main events."""

    text: list[str] = field(default_factory=list)

    @property
    def metrics(self) -> list[Point]:
        return read([line for line in self.text if is_metrics(line)])

    @property
    def denied(self) -> dict[str, set[str]]:
        """The denied actions, in lower case as in SQS's messages, and their resources."""
        rights: dict[str, set[str]] = {}
        for action, resource in _DENIED.findall("\n".join(self.text)):
            rights.setdefault(action.lower(), set()).add(resource.rstrip("."))
        return rights


def role_name(deployed: Deployed) -> str:
    return f"{NAME}-{deployed.platform.region}"


def statements(deployed: Deployed) -> dict[str, dict[str, Any]]:
    iam = deployed.platform.aws.client("iam")
    document = iam.get_role_policy(RoleName=role_name(deployed), PolicyName="function")["PolicyDocument"]
    return {statement["Sid"]: statement for statement in document["Statement"]}


def actions_of(statement: dict[str, Any]) -> set[str]:
    actions = statement["Action"]
    return {actions} if isinstance(actions, str) else set(actions)


@contextmanager
def without(deployed: Deployed, sid: str) -> Iterator[None]:
    """Removes one statement from the role. Starts the function cold, because it decrypts secrets on a cold start."""
    iam = deployed.platform.aws.client("iam")
    policy = {"RoleName": role_name(deployed), "PolicyName": "function"}
    whole = iam.get_role_policy(**policy)["PolicyDocument"]
    less = {**whole, "Statement": [s for s in whole["Statement"] if s["Sid"] != sid]}
    iam.put_role_policy(**policy, PolicyDocument=json.dumps(less))
    if sid == "OpenSecrets":
        deployed.platform.functions.forget_environments()
    try:
        yield
    finally:
        iam.put_role_policy(**policy, PolicyDocument=json.dumps(whole))


def main_events(deployed: Deployed) -> Story:
    """Two instances start. One is terminated with an event, and the sweep finds the other's missed termination.

    A "terminated" event for a live instance fails and is retried.
    """
    aws, story = deployed.platform.aws, Story()
    dead, lost, living = (aws.launch(deployed.name("iam")) for _ in range(3))
    try:
        # The sweep ignores instances that have just started.
        launched = datetime.now(UTC) - timedelta(hours=1)
        ec2_backends[aws.account][aws.region].get_instance(lost.id).launch_time = launched
        for instance in (dead, lost):
            record = f"{instance.name}.{ZONE}"
            values = (instance.private_ip, SOMEBODY_ELSES)
            deployed.platform.change_record("CREATE", deployed.platform.zone_id, record, "A", *values)
        deliver(deployed, story)
        aws.fire_schedule(f"{NAME}-sweep")  # reads the tags, without which the filter leaves the lost one alone
        deliver(deployed, story)
        aws.emit(aws.state_change(living.id, "terminated"))
        aws.terminate(dead.id)
        deliver(deployed, story)
        aws.terminate(lost.id, emit=False)
        aws.forget(lost.id)
        aws.fire_schedule(f"{NAME}-sweep")
        deliver(deployed, story)
    finally:
        clean_up(deployed, dead, lost, living)
    return story


def deliver(deployed: Deployed, story: Story) -> None:
    try:
        batches = deployed.deliver()
    except ClientError as error:  # Lambda itself, at the queue
        story.text.append(str(error))
        return
    for batch in batches:
        story.text += [*batch.invocation.logs, batch.invocation.log_error or "", str(batch.invocation.error or "")]


def clean_up(deployed: Deployed, *instances: LaunchedInstance) -> None:
    """Resets the stack for the other tests."""
    aws = deployed.platform.aws
    table = aws.client("dynamodb")
    for instance in instances:
        table.delete_item(TableName=f"{NAME}-inventory", Key={"instance_id": {"S": instance.id}})
    aws.client("ec2").terminate_instances(InstanceIds=[instances[-1].id])
    for name in (NAME, f"{NAME}-dead-letters"):
        # SQS allows a purge only once a minute.
        queue = sqs_backends[aws.account][aws.region].queues[name]
        queue._messages, queue._pending_messages = [], set()
    route53, zone = deployed.platform.route53, deployed.platform.zone_id
    for record in route53.list_resource_record_sets(HostedZoneId=zone)["ResourceRecordSets"]:
        if record["Name"].startswith("iam-"):
            route53.change_resource_record_sets(
                HostedZoneId=zone, ChangeBatch={"Changes": [{"Action": "DELETE", "ResourceRecordSet": record}]}
            )


# ---------------------------------------------------------------- each statement is necessary


def test_every_statement_is_tested_here(deployed: Deployed) -> None:
    assert sorted(statements(deployed)) == sorted(ALLOWED + FOR_LAMBDA)


def test_complete_role_denies_nothing_and_every_action_is_used(deployed: Deployed) -> None:
    aws = deployed.platform.aws
    deployed.platform.functions.forget_environments()
    calls = aws.history
    calls.clear()
    story = main_events(deployed)
    assert story.denied == {}
    used = {
        action
        for call in calls
        if f":assumed-role/{role_name(deployed)}/" in call.principal
        for action, _ in aws_iam._needed(call, aws.account)
    }
    granted = {action for sid in ALLOWED for action in actions_of(statements(deployed)[sid])}
    assert granted - used == LAMBDA_ASKS_FOR
    assert used <= granted


@pytest.mark.parametrize("sid", ALLOWED)
def test_error_names_the_permission_of_a_missing_statement(deployed: Deployed, sid: str) -> None:
    statement = statements(deployed)[sid]
    with without(deployed, sid):
        story = main_events(deployed)
    denied = story.denied
    assert denied, f"no operation needs {sid}"
    assert set(denied) <= {action.lower() for action in actions_of(statement)}
    resources = {resource for found in denied.values() for resource in found if resource}
    named = statement["Resource"] if isinstance(statement["Resource"], list) else [statement["Resource"]]
    assert all(aws_iam._any_like(named, resource) for resource in resources), resources
    if sid not in SEEN_BY_LAMBDA_ONLY:
        # The alarm notifies immediately, not only after the last retry.
        assert sum(sum(point.values) for point in story.metrics if point.name == "ConfigurationErrors") > 0


def test_alarms_watch_the_functions_metrics(deployed: Deployed) -> None:
    with without(deployed, "ChangeRecords"):
        written = {(p.namespace, p.name, tuple(p.dimensions.items())) for p in main_events(deployed).metrics}
    alarms = deployed.platform.aws.client("cloudwatch").describe_alarms(AlarmNamePrefix=f"{NAME}-")["MetricAlarms"]
    watched = {
        (alarm["Namespace"], alarm["MetricName"], tuple((d["Name"], d["Value"]) for d in alarm["Dimensions"]))
        for alarm in alarms
        if alarm["Namespace"] == NAMESPACE
    }
    assert {name for _, name, _ in watched} == {"ConfigurationErrors", "SweepBraked", "SweepFailed", "UnfinishedAge"}
    # A sweep writes error metrics only on errors. The metric for found terminations has the same dimensions.
    gone = {(namespace, dimensions) for namespace, name, dimensions in written if name == "SweepGone"}
    assert {(namespace, dimensions) for namespace, name, dimensions in watched if name.startswith("Sweep")} == gone
    assert {one for one in watched if not one[1].startswith("Sweep")} <= written


def test_lambda_needs_its_permissions_to_attach_the_function_to_the_vpc(deployed: Deployed) -> None:
    client = deployed.platform.aws.client("lambda")
    vpc = client.get_function_configuration(FunctionName=NAME)["VpcConfig"]
    wanted = {"SubnetIds": vpc["SubnetIds"], "SecurityGroupIds": vpc["SecurityGroupIds"]}
    client.update_function_configuration(FunctionName=NAME, VpcConfig=wanted)
    with (
        without(deployed, "AttachToVpc"),
        pytest.raises(ClientError, match="permissions to call CreateNetworkInterface"),
    ):
        client.update_function_configuration(FunctionName=NAME, VpcConfig=wanted)


def test_deny_statement_keeps_the_code_from_creating_interfaces(deployed: Deployed) -> None:
    aws = deployed.platform.aws
    subnet = aws.subnet_id

    def make() -> str:
        ec2 = aws.client("ec2", deployed.platform.functions.code_credentials(NAME))
        return str(ec2.create_network_interface(SubnetId=subnet)["NetworkInterface"]["NetworkInterfaceId"])

    with pytest.raises(ClientError, match=r"ec2:CreateNetworkInterface with an explicit deny"):
        make()
    with without(deployed, "CodeMayNotAttachToVpc"):
        interface = make()
    aws.client("ec2").delete_network_interface(NetworkInterfaceId=interface)


# ---------------------------------------------------------------- no other resources are accessible


@dataclass(frozen=True)
class Thief:
    """An attacker in the function, with its credentials and the names of its resources."""

    client: Callable[[str], Any]
    zone: str
    key: str
    queue: str = f"https://sqs.eu-west-1.amazonaws.com/123456789012/{NAME}"
    table: str = f"{NAME}-inventory"

    @property
    def dead_letters(self) -> str:
        return f"{self.queue}-dead-letters"


OTHER_QUEUE = "https://sqs.eu-west-1.amazonaws.com/123456789012/somebody-elses"
ID = {"instance_id": {"S": "i-0"}}
RECORD = {"Name": "www.example.com", "Type": "A", "TTL": 60, "ResourceRecords": [{"Value": "10.0.0.1"}]}
BATCH = {"Changes": [{"Action": "DELETE", "ResourceRecordSet": RECORD}]}
QUERY = {"KeyConditionExpression": "living = :a", "ExpressionAttributeValues": {":a": {"S": "x"}}}
LIVING = "i-0123456789abcdef0"
ROLE = "arn:aws:iam::123456789012:role/administrator"

FORBIDDEN: dict[str, Callable[[Thief], Any]] = {
    "read another zone": lambda t: t.client("route53").list_resource_record_sets(HostedZoneId="ZOTHER"),
    "change another zone": lambda t: t.client("route53").change_resource_record_sets(
        HostedZoneId="ZOTHER", ChangeBatch=BATCH
    ),
    "list the zones": lambda t: t.client("route53").list_hosted_zones(),
    "delete its own zone": lambda t: t.client("route53").delete_hosted_zone(Id=t.zone),
    "read another table": lambda t: t.client("dynamodb").get_item(TableName="other", Key=ID),
    "write another table": lambda t: t.client("dynamodb").put_item(TableName="other", Item=ID),
    "query another table": lambda t: t.client("dynamodb").query(TableName="other", IndexName="living", **QUERY),
    "query its own table by id": lambda t: t.client("dynamodb").query(TableName=t.table, **QUERY),
    "scan its own table": lambda t: t.client("dynamodb").scan(TableName=t.table),
    "delete from its own table": lambda t: t.client("dynamodb").delete_item(TableName=t.table, Key=ID),
    "delete its own table": lambda t: t.client("dynamodb").delete_table(TableName=t.table),
    "send to another queue": lambda t: t.client("sqs").send_message(QueueUrl=OTHER_QUEUE, MessageBody="x"),
    "read another queue": lambda t: t.client("sqs").receive_message(QueueUrl=OTHER_QUEUE),
    "read the dead letters": lambda t: t.client("sqs").receive_message(QueueUrl=t.dead_letters),
    "send to the dead letters": lambda t: t.client("sqs").send_message(QueueUrl=t.dead_letters, MessageBody="x"),
    "purge its own queue": lambda t: t.client("sqs").purge_queue(QueueUrl=t.queue),
    "open its own queue": lambda t: t.client("sqs").set_queue_attributes(QueueUrl=t.queue, Attributes={"Policy": ""}),
    "seal with its own key": lambda t: t.client("kms").encrypt(
        KeyId=t.key, Plaintext=b"x", EncryptionContext={"FunctionName": NAME}
    ),
    "make a data key": lambda t: t.client("kms").generate_data_key(KeyId=t.key, KeySpec="AES_256"),
    "delete its own key": lambda t: t.client("kms").schedule_key_deletion(KeyId=t.key),
    "open its key's policy": lambda t: t.client("kms").put_key_policy(KeyId=t.key, PolicyName="default", Policy="{}"),
    "read a secret": lambda t: t.client("secretsmanager").get_secret_value(SecretId="s"),
    "read a parameter": lambda t: t.client("ssm").get_parameter(Name="p"),
    "terminate an instance": lambda t: t.client("ec2").terminate_instances(InstanceIds=[LIVING]),
    "tag an instance": lambda t: t.client("ec2").create_tags(Resources=[LIVING], Tags=[{"Key": "a", "Value": "b"}]),
    "download its own code": lambda t: t.client("lambda").get_function(FunctionName=NAME),
    "change its own code": lambda t: t.client("lambda").update_function_code(FunctionName=NAME, ZipFile=b"x"),
    "change its own rights": lambda t: t.client("iam").put_role_policy(
        RoleName="r", PolicyName="p", PolicyDocument="{}"
    ),
    "take another role": lambda t: t.client("sts").assume_role(RoleArn=ROLE, RoleSessionName="thief"),
    "read a bucket": lambda t: t.client("s3").list_objects_v2(Bucket="artifacts"),
    "read its own log": lambda t: t.client("logs").get_log_events(
        logGroupName=f"/aws/lambda/{NAME}", logStreamName="s"
    ),
    "write another log": lambda t: t.client("logs").create_log_stream(
        logGroupName="/aws/lambda/other", logStreamName="s"
    ),
    "silence its own rule": lambda t: t.client("events").disable_rule(Name=f"{NAME}-instance-state"),
    "silence its alarms": lambda t: t.client("cloudwatch").delete_alarms(AlarmNames=[f"{NAME}-dead-letters"]),
}


@pytest.fixture(scope="module")
def thief(deployed: Deployed) -> Thief:
    credentials = deployed.platform.functions.code_credentials(NAME)
    [key] = statements(deployed)["OpenSecrets"]["Resource"]
    return Thief(lambda service: deployed.platform.aws.client(service, credentials), deployed.platform.zone_id, key)


def refused(call: Callable[[], Any]) -> bool:
    with pytest.raises(ClientError) as error:
        call()
    return error.value.response["Error"]["Code"] in ("AccessDenied", "AccessDeniedException", "UnauthorizedOperation")


@pytest.mark.parametrize("what", FORBIDDEN)
def test_attacker_in_the_function_cannot(thief: Thief, what: str) -> None:
    assert refused(lambda: FORBIDDEN[what](thief))


def test_attacker_cannot_decrypt_other_bundles_or_use_other_keys(deployed: Deployed, thief: Thief) -> None:
    admin = deployed.platform.aws.client("kms")
    other = admin.create_key()["KeyMetadata"]["Arn"]
    context = {"FunctionName": NAME}

    def opened(key: str, sealed_under: dict[str, str]) -> Any:
        sealed = admin.encrypt(KeyId=key, Plaintext=b"x", EncryptionContext=sealed_under)["CiphertextBlob"]
        return thief.client("kms").decrypt(CiphertextBlob=sealed, EncryptionContext=sealed_under)["Plaintext"]

    assert opened(thief.key, context) == b"x"
    assert refused(lambda: opened(thief.key, {"FunctionName": "another"}))
    assert refused(lambda: opened(thief.key, {}))
    assert refused(lambda: opened(other, context))


# ---------------------------------------------------------------- access to the module's resources


@pytest.mark.parametrize("queue", [NAME, f"{NAME}-dead-letters"])
def test_only_the_modules_own_rules_may_send(deployed: Deployed, queue: str) -> None:
    aws = deployed.platform.aws
    policy = json.loads(sqs_backends[aws.account][aws.region].queues[queue].policy)
    arn = f"arn:aws:sqs:{aws.region}:{aws.account}:{queue}"

    def may(service: str, action: str, rule: str, *, tls: bool = True) -> bool:
        source = f"arn:aws:events:{aws.region}:{aws.account}:rule/{rule}"
        context = {"aws:SourceArn": [source], "aws:SecureTransport": [str(tls).lower()]}
        return aws_iam.service_may(policy, service, action, arn, context)

    assert may("events.amazonaws.com", "sqs:SendMessage", f"{NAME}-instance-state")
    assert may("events.amazonaws.com", "sqs:SendMessage", f"{NAME}-sweep")
    assert not may("events.amazonaws.com", "sqs:SendMessage", f"{NAME}-instance-state", tls=False)
    assert not may("events.amazonaws.com", "sqs:SendMessage", "somebody-elses")
    assert not may("events.amazonaws.com", "sqs:ReceiveMessage", f"{NAME}-instance-state")
    assert not may("sns.amazonaws.com", "sqs:SendMessage", f"{NAME}-instance-state")


def test_queue_rejects_events_of_foreign_rules(deployed: Deployed) -> None:
    aws = deployed.platform.aws
    events = aws.client("events")
    arn = f"arn:aws:sqs:{aws.region}:{aws.account}:{NAME}"
    pattern = json.dumps({"source": ["aws.ec2"], "detail": {"state": ["stopping"]}})
    rule = events.put_rule(Name="strangers", EventPattern=pattern)["RuleArn"]
    events.put_targets(Rule="strangers", Targets=[{"Id": "q", "Arn": arn}])
    try:
        assert aws.emit(aws.state_change(LIVING, "stopping")) == ["strangers"]
    finally:
        events.remove_targets(Rule="strangers", Ids=["q"])
        events.delete_rule(Name="strangers")
    assert [(source, target) for source, target, _ in aws.undelivered] == [(rule, arn)]
    aws.undelivered.clear()


@pytest.mark.parametrize(
    ("service", "call"),
    [
        ("sqs", lambda c, t: c.send_message(QueueUrl=t.queue, MessageBody="x")),
        ("sqs", lambda c, t: c.receive_message(QueueUrl=t.dead_letters)),
        ("kms", lambda c, t: c.encrypt(KeyId=t.key, Plaintext=b"x", EncryptionContext={"FunctionName": NAME})),
        ("dynamodb", lambda c, t: c.get_item(TableName=t.table, Key=ID)),
    ],
)
def test_resource_policies_grant_nothing_to_other_principals(
    deployed: Deployed, thief: Thief, service: str, call: Callable[[Any, Thief], Any]
) -> None:
    iam = deployed.platform.aws.client("iam")
    iam.create_user(UserName="nobody")
    key = iam.create_access_key(UserName="nobody")["AccessKey"]
    try:
        credentials = Credentials(key["AccessKeyId"], key["SecretAccessKey"])
        client = deployed.platform.aws.client(service, credentials)
        assert refused(lambda: call(client, thief))
    finally:
        iam.delete_access_key(UserName="nobody", AccessKeyId=key["AccessKeyId"])
        iam.delete_user(UserName="nobody")


def test_key_policy_delegates_to_iam_policies(deployed: Deployed, thief: Thief) -> None:
    policy = json.loads(
        deployed.platform.aws.client("kms").get_key_policy(KeyId=thief.key, PolicyName="default")["Policy"]
    )
    assert [(s["Effect"], s["Principal"]) for s in policy["Statement"]] == [
        ("Allow", {"AWS": "arn:aws:iam::123456789012:root"})
    ]
