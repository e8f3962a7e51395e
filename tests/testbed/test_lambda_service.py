"""Deployed functions run with what was deployed, and queues feed them as Lambda's poller does."""

from __future__ import annotations

import base64
import io
import json
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from botocore.exceptions import ClientError

from testbed.aws import StrictAws
from testbed.lambda_service import EventSourcePoller, LambdaService, Network

pytestmark = pytest.mark.servers

QUEUE_ARN = "arn:aws:sqs:us-east-1:123456789012:q"
SOURCE_FUNCTION = "lambda:SourceFunctionArn"
ALLOW_QUEUES = {"Effect": "Allow", "Action": "sqs:*", "Resource": "*"}

CODE = """
import json, os, time, boto3

def handle(event, context):
    print("saw", json.dumps(event))
    if event.get("raise"):
        raise RuntimeError("no")
    if event.get("hang"):
        time.sleep(60)
    if event.get("call"):
        service, operation, arguments = event["call"]
        return str(getattr(boto3.client(service), operation)(**arguments).get("QueueUrls"))
    if event.get("who"):
        return [boto3.client("sts").get_caller_identity()["Arn"], os.environ.get("SETTING"), os.getpid()]
    records = event.get("Records", [])
    bodies = [record["body"] for record in records]
    if "crash" in bodies:
        os._exit(1)
    if "nonsense" in bodies:
        return {"batchItemFailures": [{"itemIdentifier": ""}]}
    failed = [record["messageId"] for record in records if record["body"] == "bad"]
    return {"batchItemFailures": [{"itemIdentifier": name} for name in failed], "records": records}
"""


@pytest.fixture(scope="module")
def server() -> Iterator[StrictAws]:
    with StrictAws() as started:
        yield started


@pytest.fixture
def service(server: StrictAws, tmp_path: Path) -> Iterator[LambdaService]:
    server.reset()
    with LambdaService(server, run_directory=tmp_path) as started:
        deploy(started.aws)
        yield started


def deploy(aws: StrictAws) -> None:
    iam, client, sqs = aws.client("iam"), aws.client("lambda"), aws.client("sqs")
    trust = {"Effect": "Allow", "Principal": {"Service": "lambda.amazonaws.com"}, "Action": "sts:AssumeRole"}
    document = json.dumps({"Version": "2012-10-17", "Statement": [trust]})
    role = iam.create_role(RoleName="f", AssumeRolePolicyDocument=document)["Role"]["Arn"]
    set_rights(aws, ["sqs:ReceiveMessage", "sqs:DeleteMessage", "sqs:GetQueueAttributes", "logs:*"])
    dead = sqs.create_queue(QueueName="dead")["QueueUrl"]
    dead_arn = sqs.get_queue_attributes(QueueUrl=dead, AttributeNames=["All"])["Attributes"]["QueueArn"]
    redrive = json.dumps({"deadLetterTargetArn": dead_arn, "maxReceiveCount": 3})
    sqs.create_queue(QueueName="q", Attributes={"RedrivePolicy": redrive, "VisibilityTimeout": "60"})
    aws.client("logs").create_log_group(logGroupName="/aws/lambda/f")
    client.create_function(
        FunctionName="f",
        Role=role,
        Runtime="python3.13",
        Handler="code.handle",
        Code={"ZipFile": package(CODE)},
        Timeout=10,
        Environment={"Variables": {"SETTING": "deployed"}},
    )
    client.create_event_source_mapping(
        EventSourceArn=QUEUE_ARN,
        FunctionName="f",
        BatchSize=3,
        FunctionResponseTypes=["ReportBatchItemFailures"],
    )


def set_rights(aws: StrictAws, actions: list[str]) -> None:
    statement = {"Effect": "Allow", "Action": actions, "Resource": "*"}
    policy = json.dumps({"Version": "2012-10-17", "Statement": [statement]})
    aws.client("iam").put_role_policy(RoleName="f", PolicyName="p", PolicyDocument=policy)


def package(code: str) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("code.py", code)
    return buffer.getvalue()


def invoke(aws: StrictAws, payload: dict[str, Any], **more: Any) -> dict[str, Any]:
    answer: dict[str, Any] = aws.client("lambda").invoke(
        FunctionName="f", Payload=json.dumps(payload).encode(), **more
    )
    body = answer["Payload"].read()
    answer["Payload"] = json.loads(body) if body else None
    return answer


def send(aws: StrictAws, *bodies: str, **more: Any) -> list[str]:
    sqs = aws.client("sqs")
    url = sqs.get_queue_url(QueueName="q")["QueueUrl"]
    return [str(sqs.send_message(QueueUrl=url, MessageBody=body, **more)["MessageId"]) for body in bodies]


# ---------------------------------------------------------------- Invoke


def test_runs_as_the_role_with_the_deployed_variables(service: LambdaService) -> None:
    who, setting, pid = invoke(service.aws, {"who": True})["Payload"]
    assert who == "arn:aws:sts::123456789012:assumed-role/f/f"
    assert setting == "deployed"
    assert invoke(service.aws, {"who": True})["Payload"][2] == pid  # warm
    service.forget_environments()
    assert invoke(service.aws, {"who": True})["Payload"][2] != pid


def test_iam_decides_on_what_the_function_does(service: LambdaService) -> None:
    payload = {"call": ["sqs", "list_queues", {}]}
    denied = invoke(service.aws, payload)
    assert denied["FunctionError"] == "Unhandled"
    assert "not authorized to perform: sqs:listqueues" in denied["Payload"]["errorMessage"]
    set_rights(service.aws, ["sqs:*"])
    assert "/q" in invoke(service.aws, payload)["Payload"]


def test_calls_of_the_code_differ_from_calls_of_lambda(service: LambdaService) -> None:
    arn = service.aws.client("lambda").get_function(FunctionName="f")["Configuration"]["FunctionArn"]
    guard = {"Effect": "Deny", "Action": "*", "Resource": "*", "Condition": {"ArnEquals": {SOURCE_FUNCTION: arn}}}
    policy = json.dumps({"Version": "2012-10-17", "Statement": [ALLOW_QUEUES, guard]})
    service.aws.client("iam").put_role_policy(RoleName="f", PolicyName="p", PolicyDocument=policy)
    role = service.aws.client("iam").get_role(RoleName="f")["Role"]["Arn"]
    service.aws.client("sqs", service.aws.role_credentials(role, "lambda")).list_queues()
    with pytest.raises(ClientError, match="with an explicit deny"):
        service.aws.client("sqs", service.code_credentials("f")).list_queues()


def test_an_error_and_its_log_come_as_lambda_gives_them(service: LambdaService) -> None:
    answer = invoke(service.aws, {"raise": True}, LogType="Tail")
    assert answer["StatusCode"] == 200
    assert answer["FunctionError"] == "Unhandled"
    assert answer["Payload"]["errorType"] == "RuntimeError"
    log = base64.b64decode(answer["LogResult"]).decode()
    assert log.startswith("START RequestId: ")
    assert 'saw {"raise": true}' in log
    assert "REPORT RequestId: " in log
    assert "LogResult" not in invoke(service.aws, {})


def test_the_deployed_timeout_holds(service: LambdaService) -> None:
    service.aws.client("lambda").update_function_configuration(FunctionName="f", Timeout=1)
    answer = invoke(service.aws, {"hang": True})
    assert answer["Payload"]["errorType"] == "Sandbox.Timedout"
    assert service.invocations[-1].timed_out


def test_new_code_and_new_variables_start_cold(service: LambdaService) -> None:
    assert service.invoke("f", {}).cold
    assert not service.invoke("f", {}).cold
    client = service.aws.client("lambda")
    client.update_function_configuration(FunctionName="f", Environment={"Variables": {"SETTING": "new"}})
    assert service.invoke("f", {"who": True}).result[1] == "new"
    client.update_function_code(FunctionName="f", ZipFile=package("def handle(event, context): return 42"))
    assert invoke(service.aws, {})["Payload"] == 42


def test_an_event_invocation_is_tried_three_times(service: LambdaService) -> None:
    assert invoke(service.aws, {"raise": True}, InvocationType="Event")["StatusCode"] == 202
    service.wait_asynchronous()
    assert len(service.invocations) == 3


def test_a_dry_run_runs_nothing(service: LambdaService) -> None:
    assert invoke(service.aws, {}, InvocationType="DryRun")["StatusCode"] == 204
    assert service.invocations == []


def test_the_log_is_written_with_the_roles_rights(service: LambdaService) -> None:
    assert service.invoke("f", {}).log_error is None
    events = service.aws.client("logs").filter_log_events(logGroupName="/aws/lambda/f")["events"]
    assert "saw {}" in [event["message"] for event in events]
    set_rights(service.aws, ["sqs:*"])
    assert "logs:CreateLogStream" in str(service.invoke("f", {}).log_error)


def test_a_fault_hook_may_kill_the_function_between_two_calls(service: LambdaService) -> None:
    set_rights(service.aws, ["sqs:*"])

    def hook(service_name: str, operation: str, _params: Any) -> None:
        if (service_name, operation) == ("sqs", "ListQueues"):
            service.kill("f")

    with service.aws.fault(hook):
        ran = service.invoke("f", {"call": ["sqs", "list_queues", {}]})
    assert ran.error is not None
    assert ran.error["errorType"] == "Runtime.ExitError"
    assert service.invoke("f", {}).cold


# ---------------------------------------------------------------- queues


def test_batches_as_lambda_builds_them(service: LambdaService) -> None:
    ids = send(service.aws, "a", "b", "c", "d", MessageAttributes={"k": {"DataType": "String", "StringValue": "v"}})
    batches = EventSourcePoller(service).drain()
    assert [batch.message_ids for batch in batches] == [ids[:3], ids[3:]]
    record = batches[0].invocation.result["records"][0]
    assert set(record) == {
        "messageId",
        "receiptHandle",
        "body",
        "attributes",
        "messageAttributes",
        "md5OfBody",
        "eventSource",
        "eventSourceARN",
        "awsRegion",
    }
    assert record["messageId"] == ids[0]
    assert (record["eventSource"], record["eventSourceARN"]) == ("aws:sqs", QUEUE_ARN)
    assert record["attributes"]["ApproximateReceiveCount"] == "1"
    assert int(record["attributes"]["SentTimestamp"]) > 1_600_000_000_000
    assert record["messageAttributes"]["k"]["stringValue"] == "v"
    assert EventSourcePoller(service).messages("q") == []


def test_failed_message_returns_and_becomes_a_dead_letter(service: LambdaService) -> None:
    poller = EventSourcePoller(service)
    _, bad = send(service.aws, "good", "bad")
    batches = poller.drain()
    assert batches[0].returned == [bad]
    [left] = poller.messages("q")
    assert (left["id"], left["receive_count"]) == (bad, 1)
    assert 50 < left["visible_in_seconds"] <= 60
    assert poller.drain() == []  # it is invisible yet
    poller.advance(61)
    assert [batch.returned for batch in poller.drain()] == [[bad]]
    batches = poller.drain(skip_delays=True)
    assert [batch.returned for batch in batches] == [[bad]]
    assert poller.messages("q") == []
    assert [item["body"] for item in poller.messages("dead")] == ["bad"]


@pytest.mark.parametrize("body", ["nonsense", "crash"])
def test_a_malformed_answer_or_a_crash_returns_the_whole_batch(service: LambdaService, body: str) -> None:
    ids = send(service.aws, "good", body)
    [batch] = EventSourcePoller(service).drain(max_rounds=1)
    assert batch.returned == sorted(ids)
    assert len(EventSourcePoller(service).messages("q")) == 2


def test_delayed_messages_wait_until_the_delays_are_skipped(service: LambdaService) -> None:
    poller = EventSourcePoller(service)
    send(service.aws, "later", DelaySeconds=900)
    assert poller.drain() == []
    poller.skip_delays()
    assert len(poller.drain()) == 1


def test_time_takes_messages_beyond_their_retention(service: LambdaService) -> None:
    poller = EventSourcePoller(service)
    send(service.aws, "old", DelaySeconds=900)
    poller.advance(4 * 86_400 - 60)
    assert len(poller.messages("q")) == 1
    poller.advance(120)
    assert poller.messages("q") == []


def test_the_poller_has_the_roles_rights_only(service: LambdaService) -> None:
    send(service.aws, "a")
    set_rights(service.aws, ["logs:*"])
    with pytest.raises(Exception, match="not authorized to perform: sqs:receivemessage"):
        EventSourcePoller(service).drain()


def test_mappings_are_listed_by_the_functions_name_and_by_its_arn(service: LambdaService) -> None:
    """However the mapping was created; Terraform creates it with the ARN."""
    client = service.aws.client("lambda")
    [mapping] = client.list_event_source_mappings(FunctionName="f")["EventSourceMappings"]
    arn = mapping["FunctionArn"]
    client.delete_event_source_mapping(UUID=mapping["UUID"])
    client.create_event_source_mapping(EventSourceArn=QUEUE_ARN, FunctionName=arn)
    for name, expected in (("f", [arn]), (arn, [arn]), ("other", [])):
        listed = client.list_event_source_mappings(FunctionName=name)["EventSourceMappings"]
        assert [one["FunctionArn"] for one in listed] == expected


def test_a_disabled_mapping_is_not_polled(service: LambdaService) -> None:
    client = service.aws.client("lambda")
    mapping = client.list_event_source_mappings(FunctionName="f")["EventSourceMappings"][0]["UUID"]
    client.update_event_source_mapping(UUID=mapping, Enabled=False)
    send(service.aws, "a")
    assert EventSourcePoller(service).drain() == []


def test_a_rule_may_invoke_the_function_directly(service: LambdaService) -> None:
    aws = service.aws
    events, client = aws.client("events"), aws.client("lambda")
    function_arn = client.get_function(FunctionName="f")["Configuration"]["FunctionArn"]
    pattern = json.dumps({"source": ["aws.ec2"]})
    rule = events.put_rule(Name="direct", EventPattern=pattern)["RuleArn"]
    events.put_targets(Rule="direct", Targets=[{"Id": "f", "Arn": function_arn}])
    event = aws.state_change("i-00000001", "terminated")
    aws.emit(event)
    assert aws.undelivered[0][2] == "the function's policy does not allow EventBridge to invoke it for this rule"
    client.add_permission(
        FunctionName="f",
        StatementId="rule",
        Action="lambda:InvokeFunction",
        Principal="events.amazonaws.com",
        SourceArn=rule,
    )
    aws.emit(event)
    service.wait_asynchronous()
    assert [ran.payload for ran in service.invocations] == [event]


def test_chosen_messages_are_delivered_and_no_others(service: LambdaService) -> None:
    poller = EventSourcePoller(service)
    waiting, bad, delayed = send(service.aws, "waiting", "bad", "delayed")
    send_later = send(service.aws, "later", DelaySeconds=600)
    batch = poller.deliver([bad, delayed, *send_later])
    assert sorted(batch.message_ids) == sorted([bad, delayed, *send_later])
    assert batch.returned == [bad]
    left = {message["id"]: message for message in poller.messages("q")}
    assert left.keys() == {waiting, bad}
    assert left[waiting]["receive_count"] == 0
    assert left[waiting]["visible_in_seconds"] == 0
    assert left[bad]["visible_in_seconds"] > 0
    # Not before its time by itself, and at once when it is asked for.
    assert [b.message_ids for b in poller.drain()] == [[waiting]]
    assert poller.deliver([bad]).message_ids == [bad]
    with pytest.raises(LookupError):
        poller.deliver([bad, waiting])


def test_hidden_message_stays_hidden_during_another_delivery(service: LambdaService) -> None:
    poller = EventSourcePoller(service)
    [bad, other] = send(service.aws, "bad", "other")
    handle = poller.deliver([bad]).invocation.payload["Records"][0]["receiptHandle"]
    sqs = service.aws.client("sqs")
    url = sqs.get_queue_url(QueueName="q")["QueueUrl"]

    def put_off(_service: str, operation: str, _params: object) -> None:
        if operation == "ReceiveMessage":
            sqs.change_message_visibility(QueueUrl=url, ReceiptHandle=handle, VisibilityTimeout=5)

    with service.aws.fault(put_off):
        poller.deliver([other])
    [left] = poller.messages("q")
    assert 0 < left["visible_in_seconds"] <= 5


def test_message_hidden_by_an_abandoned_call_is_still_delivered(service: LambdaService) -> None:
    poller = EventSourcePoller(service)
    [bad] = send(service.aws, "bad")
    handle = poller.deliver([bad]).invocation.payload["Records"][0]["receiptHandle"]
    sqs = service.aws.client("sqs")
    url = sqs.get_queue_url(QueueName="q")["QueueUrl"]
    late = iter([True])

    def put_off(_service: str, operation: str, _params: object) -> None:
        if operation == "ReceiveMessage" and next(late, False):
            sqs.change_message_visibility(QueueUrl=url, ReceiptHandle=handle, VisibilityTimeout=600)

    with service.aws.fault(put_off):
        assert poller.deliver([bad]).message_ids == [bad]


def test_a_network_has_environments_and_addresses_of_its_own(service: LambdaService) -> None:
    [first, second] = send(service.aws, "1", "2")
    network = Network("elsewhere", {"deployed": "http://proxy"}, {"AWS_ENDPOINT_URL_SQS": "http://127.0.0.1:9"})
    function = service._function("f")
    _, setting, pid = service.run(function, {"who": True}, network=network).result
    assert setting == "http://proxy"
    assert service.invoke("f", {"who": True}).result[1:] != [setting, pid]
    unreachable = service.run(function, {"call": ["sqs", "list_queues", {}]}, network=network).error
    assert unreachable is not None
    assert unreachable["errorType"] == "EndpointConnectionError"
    poller = EventSourcePoller(service)
    assert poller.deliver([first], network).invocation.result["batchItemFailures"] == []
    # It has a process of its own, which dies alone.
    [ordinary], [other] = service.environments("f"), service.environments("f", network)
    service.kill("f", network)
    assert (ordinary.warm, other.warm) == (True, False)
    assert poller.deliver([second]).returned == []
    service.forget_environments(network)
    moved = Network("elsewhere", {"deployed": "http://other"})
    assert service.run(function, {"who": True}, network=moved).result[1] == "http://other"
    assert service.environments("f") == [ordinary]
