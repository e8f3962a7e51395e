"""Every strictness of the testbed's AWS, one by one."""

from __future__ import annotations

import io
import json
import time
import urllib.request
import zipfile
from collections.abc import Iterator
from typing import Any

import boto3
import pytest
from botocore.config import Config
from botocore.exceptions import ClientError, ConnectionClosedError, ReadTimeoutError
from botocore.parsers import ResponseParserError

from testbed.aws import (
    AwsError,
    Credentials,
    Drop,
    Hang,
    StrictAws,
    garbage,
    throttled,
    unavailable,
)
from testbed.aws_route53 import fill, record_sets

RULE_PATTERN = {"source": ["aws.ec2"], "detail": {"state": ["running", "terminated"]}}


@pytest.fixture(scope="module")
def server() -> Iterator[StrictAws]:
    with StrictAws() as started:
        yield started


@pytest.fixture
def aws(server: StrictAws) -> StrictAws:
    server.reset()
    return server


def code(error: pytest.ExceptionInfo[ClientError]) -> str:
    return str(error.value.response["Error"]["Code"])


def message(error: pytest.ExceptionInfo[ClientError]) -> str:
    return str(error.value.response["Error"]["Message"])


def user(aws: StrictAws, *statements: dict[str, Any]) -> Credentials:
    """A user with these statements and no others."""
    iam = aws.client("iam")
    iam.create_user(UserName="somebody")
    if statements:
        document = json.dumps({"Version": "2012-10-17", "Statement": list(statements)})
        iam.put_user_policy(UserName="somebody", PolicyName="p", PolicyDocument=document)
    key = iam.create_access_key(UserName="somebody")["AccessKey"]
    return Credentials(key["AccessKeyId"], key["SecretAccessKey"])


def allow(action: str | list[str], resource: str = "*", **condition: Any) -> dict[str, Any]:
    statement = {"Effect": "Allow", "Action": action, "Resource": resource}
    return {**statement, "Condition": condition} if condition else statement


# ---------------------------------------------------------------- EC2


def described(aws: StrictAws, instance_id: str) -> dict[str, Any]:
    answer = aws.client("ec2").describe_instances(InstanceIds=[instance_id])
    found: dict[str, Any] = answer["Reservations"][0]["Instances"][0]
    return found


def test_a_living_instance_shows_its_network(aws: StrictAws) -> None:
    instance = aws.launch("web-1", "10.0.0.5", {"role": "web"})
    shown = described(aws, instance.id)
    assert shown["State"]["Name"] == "running"
    assert (shown["PrivateIpAddress"], shown["PrivateDnsName"]) == ("10.0.0.5", "ip-10-0-0-5.ec2.internal")
    assert instance.private_dns_name == "ip-10-0-0-5.ec2.internal"
    assert {tag["Key"]: tag["Value"] for tag in shown["Tags"]} == {"Name": "web-1", "role": "web"}
    assert shown["VpcId"]
    assert shown["NetworkInterfaces"]


def test_a_terminated_instance_keeps_its_tags_and_loses_its_network(aws: StrictAws) -> None:
    instance = aws.launch("web-1", "10.0.0.5")
    aws.terminate(instance.id)
    shown = described(aws, instance.id)
    assert shown["State"]["Name"] == "terminated"
    assert shown["StateReason"]["Code"] == "Client.UserInitiatedShutdown"
    for gone in ("PrivateIpAddress", "PublicIpAddress", "VpcId", "SubnetId"):
        assert gone not in shown
    assert (shown["PrivateDnsName"], shown["PublicDnsName"]) == ("", "")
    assert shown["NetworkInterfaces"] == []
    assert shown["SecurityGroups"] == []
    assert shown["Tags"] == [{"Key": "Name", "Value": "web-1"}]


def test_terminating_twice_is_no_error(aws: StrictAws) -> None:
    instance = aws.launch("web-1")
    aws.terminate(instance.id)
    aws.terminate(instance.id)


def test_ec2_drops_first_the_tags_and_then_the_id(aws: StrictAws) -> None:
    instance = aws.launch("web-1")
    aws.terminate(instance.id)
    aws.forget_tags(instance.id)
    assert "Tags" not in described(aws, instance.id)
    aws.forget(instance.id)
    with pytest.raises(ClientError) as error:
        described(aws, instance.id)
    assert code(error) == "InvalidInstanceID.NotFound"
    assert message(error) == f"The instance ID '{instance.id}' does not exist"


def test_one_unknown_id_fails_the_whole_request_and_all_are_named(aws: StrictAws) -> None:
    instance = aws.launch("web-1")
    with pytest.raises(ClientError) as error:
        aws.client("ec2").describe_instances(InstanceIds=["i-00000001", instance.id, "i-00000002"])
    assert message(error) == "The instance IDs 'i-00000001, i-00000002' do not exist"


def test_an_id_of_the_wrong_form_is_malformed(aws: StrictAws) -> None:
    with pytest.raises(ClientError) as error:
        aws.client("ec2").describe_instances(InstanceIds=["i-xyz"])
    assert code(error) == "InvalidInstanceID.Malformed"


def interfaces(aws: StrictAws, address: str) -> list[str]:
    filters = [{"Name": "addresses.private-ip-address", "Values": [address]}]
    found = aws.client("ec2").describe_network_interfaces(Filters=filters)["NetworkInterfaces"]
    return [item["Attachment"]["InstanceId"] for item in found]


def test_address_belongs_to_one_instance_and_is_reused(aws: StrictAws) -> None:
    first = aws.launch("web-1", "10.0.0.5")
    assert interfaces(aws, "10.0.0.5") == [first.id]
    with pytest.raises(ClientError) as error:
        aws.launch("web-2", "10.0.0.5")
    assert code(error) == "InvalidIPAddress.InUse"
    aws.terminate(first.id)
    assert interfaces(aws, "10.0.0.5") == []
    second = aws.launch("web-2", "10.0.0.5")
    assert interfaces(aws, "10.0.0.5") == [second.id]
    by_address = [{"Name": "private-ip-address", "Values": ["10.0.0.5"]}]
    reservations = aws.client("ec2").describe_instances(Filters=by_address)["Reservations"]
    assert [item["InstanceId"] for group in reservations for item in group["Instances"]] == [second.id]


# ---------------------------------------------------------------- EventBridge and SQS


def rule(aws: StrictAws, *, admitted: bool = True, pattern: dict[str, Any] | None = None) -> str:
    """A rule with a queue as its target; gives the queue's URL."""
    sqs, events = aws.client("sqs"), aws.client("events")
    url = str(sqs.create_queue(QueueName="events")["QueueUrl"])
    arn = sqs.get_queue_attributes(QueueUrl=url, AttributeNames=["QueueArn"])["Attributes"]["QueueArn"]
    rule_arn = events.put_rule(Name="r", EventPattern=json.dumps(pattern or RULE_PATTERN))["RuleArn"]
    events.put_targets(Rule="r", Targets=[{"Id": "q", "Arn": arn}])
    statement = {
        "Effect": "Allow",
        "Principal": {"Service": "events.amazonaws.com"},
        "Action": "sqs:SendMessage",
        "Resource": arn,
        "Condition": {"ArnEquals": {"aws:SourceArn": rule_arn if admitted else rule_arn + "-other"}},
    }
    policy = json.dumps({"Version": "2012-10-17", "Statement": [statement]})
    sqs.set_queue_attributes(QueueUrl=url, Attributes={"Policy": policy})
    return url


def bodies(aws: StrictAws, url: str) -> list[dict[str, Any]]:
    got = aws.client("sqs").receive_message(QueueUrl=url, MaxNumberOfMessages=10).get("Messages", [])
    return [json.loads(item["Body"]) for item in got]


def test_state_changes_reach_the_queue_as_the_rules_pattern_says(aws: StrictAws) -> None:
    url = rule(aws)
    instance = aws.launch("web-1")
    event = aws.terminate(instance.id)
    got = bodies(aws, url)
    assert [item["detail"]["state"] for item in got] == ["running", "terminated"]
    assert got[1] == event
    assert event == {
        "version": "0",
        "id": event["id"],
        "detail-type": "EC2 Instance State-change Notification",
        "source": "aws.ec2",
        "account": "123456789012",
        "time": event["time"],
        "region": "us-east-1",
        "resources": [f"arn:aws:ec2:us-east-1:123456789012:instance/{instance.id}"],
        "detail": {"instance-id": instance.id, "state": "terminated"},
    }
    time.strptime(event["time"], "%Y-%m-%dT%H:%M:%SZ")


def test_the_same_event_may_be_emitted_again(aws: StrictAws) -> None:
    url = rule(aws)
    event = aws.state_change("i-00000001", "terminated")
    assert [aws.emit(event), aws.emit(event)] == [["r"], ["r"]]
    assert bodies(aws, url) == [event, event]


def test_a_disabled_rule_takes_nothing(aws: StrictAws) -> None:
    url = rule(aws)
    aws.client("events").disable_rule(Name="r")
    assert aws.emit(aws.state_change("i-00000001", "terminated")) == []
    assert bodies(aws, url) == []


def test_a_queue_whose_policy_does_not_admit_the_rule_gets_nothing(aws: StrictAws) -> None:
    url = rule(aws, admitted=False)
    aws.emit(aws.state_change("i-00000001", "terminated"))
    assert bodies(aws, url) == []
    assert [failure for _, _, failure in aws.undelivered] == [
        "the queue's policy does not allow EventBridge to send for this rule"
    ]


def test_customers_may_not_put_events_of_aws(aws: StrictAws) -> None:
    rule(aws)
    entry = {"Source": "aws.ec2", "DetailType": "x", "Detail": "{}"}
    own = {"Source": "mine", "DetailType": "x", "Detail": "{}"}
    answer = aws.client("events").put_events(Entries=[entry, own])
    assert answer["Entries"][0]["ErrorCode"] == "NotAuthorizedForSourceException"
    assert "EventId" in answer["Entries"][1]


def test_a_scheduled_rule_fires_on_demand_with_its_input(aws: StrictAws) -> None:
    url = rule(aws)
    events = aws.client("events")
    target = events.list_targets_by_rule(Rule="r")["Targets"][0]
    events.put_rule(Name="r", ScheduleExpression="rate(1 hour)")
    events.put_targets(Rule="r", Targets=[{**target, "Input": '{"sweep": true}'}])
    aws.fire_schedule("r")
    assert bodies(aws, url) == [{"sweep": True}]
    with pytest.raises(LookupError):
        aws.fire_schedule("none")


def test_only_a_dead_letter_queue_is_redriven(aws: StrictAws) -> None:
    sqs = aws.client("sqs")
    arns = {name: f"arn:aws:sqs:{aws.region}:{aws.account}:{name}" for name in ("q", "dead")}
    dead = sqs.create_queue(QueueName="dead")["QueueUrl"]
    redrive = json.dumps({"deadLetterTargetArn": arns["dead"], "maxReceiveCount": 2})
    queue = sqs.create_queue(QueueName="q", Attributes={"RedrivePolicy": redrive})["QueueUrl"]
    sqs.send_message(QueueUrl=dead, MessageBody="late")
    with pytest.raises(ClientError, match="must be configured as a Dead Letter Queue"):
        sqs.start_message_move_task(SourceArn=arns["q"], DestinationArn=arns["dead"])
    sqs.start_message_move_task(SourceArn=arns["dead"], DestinationArn=arns["q"])
    [task] = sqs.list_message_move_tasks(SourceArn=arns["dead"])["Results"]
    assert (task["Status"], task["ApproximateNumberOfMessagesMoved"]) == ("COMPLETED", 1)
    assert [one["Body"] for one in sqs.receive_message(QueueUrl=queue)["Messages"]] == ["late"]


def ask_insights(aws: StrictAws, query: str) -> list[dict[str, str]]:
    logs = aws.client("logs")
    found = logs.start_query(logGroupName="g", startTime=0, endTime=int(time.time()) + 1, queryString=query)
    rows = logs.get_query_results(queryId=found["queryId"])["results"]
    return [{cell["field"]: cell["value"] for cell in row if cell["field"] != "@ptr"} for row in rows]


@pytest.mark.parametrize(
    ("query", "found"),
    [
        ('filter level = "ERROR" and (n > 1 or m like /x|y/) | fields n', [{"n": "3"}, {"n": "2"}]),
        ("filter ispresent(kinds.0) | fields kinds.0, nested.id", [{"kinds.0": "a", "nested.id": "i-1"}]),
        (
            "filter ispresent(level) | stats count(*) as c, max(n * 2 + 1) as m by level | sort c desc",
            [{"level": "ERROR", "c": "3", "m": "7.0"}, {"level": "OK", "c": "2", "m": "1.0"}],
        ),
        ("filter n >= 0 | stats latest(n) as last", [{"last": "0"}]),
        ("filter n < 9 | sort n asc | limit 1 | fields n", [{"n": "0"}]),
        (
            'filter @type = "REPORT" | fields @duration, @maxMemoryUsed',
            [{"@duration": "1.5", "@maxMemoryUsed": "9000000.0"}],
        ),
    ],
)
def test_insights_finds_fields_and_counts(aws: StrictAws, query: str, found: list[Any]) -> None:
    logs = aws.client("logs")
    logs.create_log_group(logGroupName="g")
    logs.create_log_stream(logGroupName="g", logStreamName="s")
    lines: list[Any] = [{"level": "ERROR", "n": n} for n in (1, 2, 3)]
    lines += [{"level": "OK", "n": 0}, {"level": "OK", "kinds": ["a"], "nested": {"id": "i-1"}}]
    texts = [json.dumps(line) for line in lines] + ["REPORT RequestId: r\tDuration: 1.5 ms\tMax Memory Used: 9 MB"]
    now = int(time.time() * 1000)
    events = [{"timestamp": now - 10 + index, "message": text} for index, text in enumerate(texts)]
    logs.put_log_events(logGroupName="g", logStreamName="s", logEvents=events)
    assert ask_insights(aws, query) == found


@pytest.mark.parametrize(
    "query", ["parse @message", "filter level =", "stats sum(n) as s", "fields a b", "limit 1 2"]
)
def test_insights_refuses_what_it_does_not_know(aws: StrictAws, query: str) -> None:
    aws.client("logs").create_log_group(logGroupName="g")
    with pytest.raises(ClientError, match="MalformedQueryException"):
        ask_insights(aws, query)


def test_visibility_is_limited_from_the_receive_not_from_the_send(aws: StrictAws) -> None:
    sqs = aws.client("sqs")
    url = sqs.create_queue(QueueName="q")["QueueUrl"]
    sqs.send_message(QueueUrl=url, MessageBody="x")
    from moto.sqs.models import sqs_backends  # noqa: PLC0415

    stored = sqs_backends[aws.account][aws.region].queues["q"]._messages[0]
    stored.sent_timestamp -= 20 * 3600 * 1000  # type: ignore[operator, assignment]
    handle = sqs.receive_message(QueueUrl=url)["Messages"][0]["ReceiptHandle"]
    sqs.change_message_visibility(QueueUrl=url, ReceiptHandle=handle, VisibilityTimeout=43_000)
    time.sleep(0.01)
    with pytest.raises(ClientError, match="beyond the limit"):
        sqs.change_message_visibility(QueueUrl=url, ReceiptHandle=handle, VisibilityTimeout=43_200)


# ---------------------------------------------------------------- Route 53


class Zone:
    def __init__(self, aws: StrictAws, name: str = "example.internal") -> None:
        self.client = aws.client("route53")
        self.id = self.client.create_hosted_zone(Name=name, CallerReference=name)["HostedZone"]["Id"]

    def change(self, *changes: tuple[str, dict[str, Any]]) -> None:
        batch = [{"Action": action, "ResourceRecordSet": record_set} for action, record_set in changes]
        self.client.change_resource_record_sets(HostedZoneId=self.id, ChangeBatch={"Changes": batch})

    def records(self, **arguments: Any) -> list[dict[str, Any]]:
        answer = self.client.list_resource_record_sets(HostedZoneId=self.id, **arguments)
        found: list[dict[str, Any]] = answer["ResourceRecordSets"]
        return found

    def names(self, **arguments: Any) -> list[str]:
        return [item["Name"] for item in self.records(**arguments) if item["Type"] not in ("NS", "SOA")]


def record(name: str, *values: str, kind: str = "A", ttl: int = 60, **more: Any) -> dict[str, Any]:
    resource_records = [{"Value": value} for value in values]
    return {"Name": name, "Type": kind, "TTL": ttl, "ResourceRecords": resource_records, **more}


WEB = record("web.example.internal", "10.0.0.1", "10.0.0.2")


@pytest.mark.parametrize(
    "wrong",
    [
        record("web.example.internal", "10.0.0.1"),
        record("web.example.internal", "10.0.0.1", "10.0.0.3"),
        record("web.example.internal", "10.0.0.1", "10.0.0.2", ttl=61),
    ],
)
def test_a_delete_must_match_exactly(aws: StrictAws, wrong: dict[str, Any]) -> None:
    zone = Zone(aws)
    zone.change(("CREATE", WEB))
    with pytest.raises(ClientError) as error:
        zone.change(("DELETE", wrong))
    assert code(error) == "InvalidChangeBatch"
    assert message(error) == (
        "[Tried to delete resource record set [name='web.example.internal.', type='A'] "
        "but the values provided do not match the current values]"
    )
    zone.change(("DELETE", record("WEB.example.internal.", "10.0.0.2", "10.0.0.1")))
    assert zone.names() == []


def test_filled_records_behave_like_created_ones(aws: StrictAws) -> None:
    zone = Zone(aws)
    zone.change(("CREATE", WEB))
    zone_id = zone.id.rpartition("/")[2]
    fill(zone_id, [record("Api.example.internal", "10.0.0.3"), record("*.example.internal", "10.0.0.4")])
    created = record("api.example.internal.", "10.0.0.3")
    assert sorted(zone.names()) == ["\\052.example.internal.", "api.example.internal.", "web.example.internal."]
    assert zone.records(StartRecordName="api.example.internal", MaxItems="1") == [created]
    assert record_sets(zone_id) == zone.records()
    zone.change(("DELETE", created), ("DELETE", WEB))
    assert zone.names() == ["\\052.example.internal."]


def test_deleting_a_missing_record_is_an_error(aws: StrictAws) -> None:
    with pytest.raises(ClientError) as error:
        Zone(aws).change(("DELETE", WEB))
    assert message(error) == (
        "[Tried to delete resource record set [name='web.example.internal.', type='A'] but it was not found]"
    )


def test_record_sets_are_told_apart_by_their_identifier(aws: StrictAws) -> None:
    zone = Zone(aws)
    one = record("w.example.internal", "10.0.0.1", SetIdentifier="one", Weight=1)
    two = record("w.example.internal", "10.0.0.1", SetIdentifier="two", Weight=1)
    zone.change(("CREATE", one), ("CREATE", two))
    with pytest.raises(ClientError, match=r"type='A', set identifier='three'\] but it was not found"):
        zone.change(("DELETE", {**one, "SetIdentifier": "three"}))
    with pytest.raises(ClientError, match="do not match"):
        zone.change(("DELETE", {**one, "Weight": 2}))
    zone.change(("DELETE", one))
    assert [item["SetIdentifier"] for item in zone.records() if "SetIdentifier" in item] == ["two"]
    with pytest.raises(ClientError, match="cannot be created as other RRSets exist"):
        zone.change(("CREATE", record("w.example.internal", "10.0.0.1")))


def test_a_batch_is_all_or_nothing_and_tells_every_error(aws: StrictAws) -> None:
    zone = Zone(aws)
    zone.change(("CREATE", WEB))
    new = record("new.example.internal", "10.0.0.9")
    with pytest.raises(ClientError) as error:
        zone.change(("CREATE", new), ("CREATE", WEB), ("DELETE", record("no.example.internal", "10.0.0.1")))
    assert message(error) == (
        "[Tried to create resource record set [name='web.example.internal.', type='A'] but it already exists, "
        "Tried to delete resource record set [name='no.example.internal.', type='A'] but it was not found]"
    )
    assert zone.names() == ["web.example.internal."]


def test_delete_and_create_of_one_record_set_in_a_batch_swaps_it(aws: StrictAws) -> None:
    zone = Zone(aws)
    zone.change(("CREATE", WEB))
    zone.change(("DELETE", WEB), ("CREATE", record("web.example.internal", "10.0.0.2")))
    assert zone.records()[-1]["ResourceRecords"] == [{"Value": "10.0.0.2"}]
    with pytest.raises(ClientError, match="invalid set of changes"):
        zone.change(*[("DELETE", record("web.example.internal", "10.0.0.2"))] * 2)


def test_limits_of_a_batch(aws: StrictAws) -> None:
    zone = Zone(aws)
    addresses = [f"10.{i // 250}.{i % 250}.1" for i in range(501)]
    upserts = [("UPSERT", record(f"r{i}.example.internal", address)) for i, address in enumerate(addresses)]
    with pytest.raises(ClientError, match=r"InvalidChangeBatch.*Number of records limit of 1000 exceeded"):
        zone.change(*upserts)  # an UPSERT counts twice
    long = [("CREATE", record(f"t{i}.example.internal", f'"{"x" * 250}"', kind="TXT")) for i in range(130)]
    with pytest.raises(ClientError, match=r"InvalidChangeBatch.*Number of characters limit of 32000 exceeded"):
        zone.change(*long)
    zone.change(*upserts[:500])
    assert len(zone.names()) == 298  # with NS and SOA: 300 a page


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        (record("a.other.internal", "10.0.0.1"), "is not permitted in zone example.internal."),
        (record("a.example.internal", "10.0.0"), "Value is not a valid IPv4 address"),
        (record("a.example.internal", "10.0.0.1", "10.0.0.1"), "Duplicate Resource Record: '10.0.0.1'"),
        (record("web.example.internal", "x.example.", kind="CNAME"), "conflicts with other records"),
    ],
)
def test_refused_records(aws: StrictAws, wrong: dict[str, Any], said: str) -> None:
    zone = Zone(aws)
    zone.change(("CREATE", WEB))
    with pytest.raises(ClientError) as error:
        zone.change(("CREATE", wrong))
    assert code(error) == "InvalidChangeBatch"
    assert said in message(error)


def test_a_zone_keeps_its_name_servers(aws: StrictAws) -> None:
    zone = Zone(aws)
    with pytest.raises(ClientError, match="must contain at least one NS record"):
        zone.change(("DELETE", next(item for item in zone.records() if item["Type"] == "NS")))


def test_names_are_listed_in_lower_case_and_escaped(aws: StrictAws) -> None:
    zone = Zone(aws)
    zone.change(("CREATE", record("*.Sub.Example.internal", "10.0.0.1")))
    assert zone.names() == ["\\052.sub.example.internal."]
    zone.change(("DELETE", record("\\052.sub.example.internal.", "10.0.0.1")))
    assert zone.names() == []


def test_listing_goes_by_reversed_labels_from_the_name_asked_for(aws: StrictAws) -> None:
    zone = Zone(aws)
    for name in ("b.a", "a.b", "b", "a", "z.a"):
        zone.change(("CREATE", record(f"{name}.example.internal", "10.0.0.1")))
    order = [f"{name}.example.internal." for name in ("a", "b.a", "z.a", "b", "a.b")]
    assert zone.names() == order
    assert zone.names(StartRecordName="c.a.example.internal") == order[2:]
    assert zone.names(StartRecordName="B.example.internal.", MaxItems="1") == order[3:4]


def test_listing_starts_at_type_and_identifier(aws: StrictAws) -> None:
    zone = Zone(aws)
    for identifier in ("one", "two"):
        zone.change(
            ("CREATE", record("w.example.internal", "10.0.0.1", SetIdentifier=identifier, Weight=1)),
        )
    zone.change(("CREATE", record("w.example.internal", '"x"', kind="TXT")))
    start = {"StartRecordName": "w.example.internal", "StartRecordType": "A"}
    first = zone.client.list_resource_record_sets(HostedZoneId=zone.id, MaxItems="1", **start)
    assert first["IsTruncated"]
    assert (first["NextRecordName"], first["NextRecordType"]) == ("w.example.internal.", "A")
    assert first["NextRecordIdentifier"] == "two"
    rest = zone.records(**start, StartRecordIdentifier="two")
    assert [(item["Type"], item.get("SetIdentifier")) for item in rest] == [("A", "two"), ("TXT", None)]
    with pytest.raises(ClientError, match="InvalidInput"):
        zone.records(StartRecordType="A")


def test_route53_throttles_when_told_to(aws: StrictAws) -> None:
    zone = Zone(aws)
    credentials = user(aws, allow("route53:*"))
    aws.limit_route53(burst=3, rate=0.001)
    client = aws.client("route53", credentials)
    for _ in range(3):
        client.get_hosted_zone(Id=zone.id)
    with pytest.raises(ClientError) as error:
        client.get_hosted_zone(Id=zone.id)
    assert (code(error), message(error)) == ("Throttling", "Rate exceeded")
    assert error.value.response["ResponseMetadata"]["HTTPStatusCode"] == 400
    zone.records()  # the administrator is not counted


# ---------------------------------------------------------------- KMS and Lambda


def test_kms_holds_to_the_encryption_context(aws: StrictAws) -> None:
    kms = aws.client("kms")
    key = kms.create_key()["KeyMetadata"]["Arn"]
    sealed = kms.encrypt(KeyId=key, Plaintext=b"x", EncryptionContext={"FunctionName": "f"})["CiphertextBlob"]
    assert kms.decrypt(CiphertextBlob=sealed, EncryptionContext={"FunctionName": "f"})["Plaintext"] == b"x"
    for wrong in ({}, {"FunctionName": "g"}):
        with pytest.raises(ClientError) as error:
            kms.decrypt(CiphertextBlob=sealed, EncryptionContext=wrong)
        assert code(error) == "InvalidCiphertextException"


def role(aws: StrictAws, *statements: dict[str, Any], service: str = "lambda.amazonaws.com") -> str:
    iam = aws.client("iam")
    trust = {"Effect": "Allow", "Principal": {"Service": service}, "Action": "sts:AssumeRole"}
    document = json.dumps({"Version": "2012-10-17", "Statement": [trust]})
    arn = str(iam.create_role(RoleName="function", AssumeRolePolicyDocument=document)["Role"]["Arn"])
    if statements:
        policy = json.dumps({"Version": "2012-10-17", "Statement": list(statements)})
        iam.put_role_policy(RoleName="function", PolicyName="p", PolicyDocument=policy)
    return arn


def package() -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr(
            zipfile.ZipInfo("code.py", (1980, 1, 1, 0, 0, 0)), "def handle(event, context): return event"
        )
    return buffer.getvalue()


def create_function(aws: StrictAws, role_arn: str, **more: Any) -> dict[str, Any]:
    answer: dict[str, Any] = aws.client("lambda").create_function(
        FunctionName="f",
        Role=role_arn,
        Runtime="python3.13",
        Handler="code.handle",
        Code={"ZipFile": package()},
        **more,
    )
    return answer


def test_get_function_gives_the_package_to_download(aws: StrictAws) -> None:
    create_function(aws, role(aws))
    location = aws.client("lambda").get_function(FunctionName="f")["Code"]["Location"]
    with urllib.request.urlopen(location) as answer:  # noqa: S310 (loopback)
        assert answer.read() == package()


def test_a_function_keeps_its_logging_config(aws: StrictAws) -> None:
    created = create_function(aws, role(aws), LoggingConfig={"LogGroup": "/mine"})
    assert created["LoggingConfig"] == {"LogFormat": "Text", "LogGroup": "/mine"}


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ({"Environment": {"Variables": {"A": "x" * 4100}}}, "exceeded the 4KB limit"),
        ({"VpcConfig": {"SubnetIds": ["subnet-1"], "SecurityGroupIds": ["sg-1"]}}, "CreateNetworkInterface on EC2"),
    ],
)
def test_functions_that_lambda_refuses(aws: StrictAws, more: dict[str, Any], said: str) -> None:
    with pytest.raises(ClientError) as error:
        create_function(aws, role(aws), **more)
    assert code(error) == "InvalidParameterValueException"
    assert said in message(error)


def test_lambda_must_be_able_to_assume_the_role(aws: StrictAws) -> None:
    with pytest.raises(ClientError, match="cannot be assumed by Lambda"):
        create_function(aws, role(aws, service="ec2.amazonaws.com"))


@pytest.mark.parametrize(
    ("actions", "queue", "mapping", "said"),
    [
        (["sqs:DeleteMessage"], {}, {}, "permissions to call ReceiveMessage on SQS"),
        (["sqs:*"], {"VisibilityTimeout": "2"}, {}, "Queue visibility timeout: 2 seconds is less than"),
        (["sqs:*"], {}, {"BatchSize": 11}, "Maximum batch window in seconds must be greater than 0"),
        (["sqs:*"], {}, {}, None),
    ],
)
def test_mappings_that_lambda_refuses(
    aws: StrictAws, actions: list[str], queue: dict[str, str], mapping: dict[str, Any], said: str | None
) -> None:
    arn = "arn:aws:sqs:us-east-1:123456789012:q"
    aws.client("sqs").create_queue(QueueName="q", Attributes=queue)
    create_function(aws, role(aws, allow(actions, arn)))
    client = aws.client("lambda")
    if said is None:
        client.create_event_source_mapping(EventSourceArn=arn, FunctionName="f", **mapping)
        return
    with pytest.raises(ClientError) as error:
        client.create_event_source_mapping(EventSourceArn=arn, FunctionName="f", **mapping)
    assert said in message(error)


def test_a_mapped_queue_keeps_its_messages(aws: StrictAws) -> None:
    sqs = aws.client("sqs")
    url = sqs.create_queue(QueueName="q")["QueueUrl"]
    arn = "arn:aws:sqs:us-east-1:123456789012:q"
    create_function(aws, role(aws, allow("sqs:*", arn)))
    aws.client("lambda").create_event_source_mapping(EventSourceArn=arn, FunctionName="f")
    sqs.send_message(QueueUrl=url, MessageBody="x")
    assert [item["Body"] for item in sqs.receive_message(QueueUrl=url)["Messages"]] == ["x"]


# ---------------------------------------------------------------- IAM


def test_calls_are_denied_by_default(aws: StrictAws) -> None:
    url = aws.client("sqs").create_queue(QueueName="q")["QueueUrl"]
    credentials = user(aws)
    with pytest.raises(ClientError) as error:
        aws.client("dynamodb", credentials).get_item(TableName="t", Key={"id": {"S": "1"}})
    assert code(error) == "AccessDeniedException"
    assert message(error) == (
        "User: arn:aws:iam::123456789012:user/somebody is not authorized to perform: dynamodb:GetItem on resource: "
        "arn:aws:dynamodb:us-east-1:123456789012:table/t because no identity-based policy allows the "
        "dynamodb:GetItem action"
    )
    for service, operation, arguments, expected in (
        ("sqs", "receive_message", {"QueueUrl": url}, "AccessDenied"),
        ("route53", "get_hosted_zone", {"Id": "Z1"}, "AccessDenied"),
        ("ec2", "describe_instances", {}, "UnauthorizedOperation"),
        ("kms", "list_keys", {}, "AccessDeniedException"),
        ("logs", "describe_log_groups", {}, "AccessDeniedException"),
        ("lambda", "list_functions", {}, "AccessDeniedException"),
    ):
        with pytest.raises(ClientError) as error:
            getattr(aws.client(service, credentials), operation)(**arguments)
        assert code(error) == expected


def test_unknown_and_stale_credentials_are_refused(aws: StrictAws) -> None:
    with pytest.raises(ClientError, match="InvalidClientTokenId"):
        aws.client("sts", Credentials("AKIAAAAAAAAAAAAAAAAA", "x")).get_caller_identity()
    session = aws.role_credentials(role(aws), "s")
    identity = aws.client("sts", session).get_caller_identity()
    assert identity["Arn"] == "arn:aws:sts::123456789012:assumed-role/function/s"
    wrong = Credentials(session.access_key, session.secret_key, "other token")
    with pytest.raises(ClientError, match="InvalidClientTokenId"):
        aws.client("sts", wrong).get_caller_identity()


def test_route53_rights_are_by_zone(aws: StrictAws) -> None:
    mine, other = Zone(aws, "a.internal"), Zone(aws, "b.internal")
    arn = f"arn:aws:route53:::hostedzone/{mine.id.rpartition('/')[2]}"
    client = aws.client("route53", user(aws, allow("route53:List*", arn)))
    client.list_resource_record_sets(HostedZoneId=mine.id)
    with pytest.raises(ClientError, match="AccessDenied"):
        client.list_resource_record_sets(HostedZoneId=other.id)


def test_route53_conditions_on_record_names(aws: StrictAws) -> None:
    zone = Zone(aws)
    key = "route53:ChangeResourceRecordSetsNormalizedRecordNames"
    condition = {"ForAllValues:StringLike": {key: ["*.example.internal"]}}
    zone.client = aws.client("route53", user(aws, allow("route53:Change*", "*", **condition)))
    zone.change(("CREATE", record("Web.example.internal", "10.0.0.1")))
    with pytest.raises(ClientError, match="AccessDenied"):
        zone.change(("CREATE", record("example.internal", "10.0.0.1")))


def test_dynamodb_rights_are_by_table_and_index(aws: StrictAws) -> None:
    aws.client("dynamodb").create_table(
        TableName="t",
        KeySchema=[{"AttributeName": "id", "KeyType": "HASH"}],
        AttributeDefinitions=[{"AttributeName": name, "AttributeType": "S"} for name in ("id", "living")],
        GlobalSecondaryIndexes=[
            {
                "IndexName": "living",
                "KeySchema": [{"AttributeName": "living", "KeyType": "HASH"}],
                "Projection": {"ProjectionType": "ALL"},
            }
        ],
        BillingMode="PAY_PER_REQUEST",
    )
    table = "arn:aws:dynamodb:us-east-1:123456789012:table/t"
    client = aws.client("dynamodb", user(aws, allow(["dynamodb:*Item", "dynamodb:Query"], table)))
    client.put_item(TableName="t", Item={"id": {"S": "1"}})
    client.batch_get_item(RequestItems={"t": {"Keys": [{"id": {"S": "1"}}]}})
    client.transact_write_items(TransactItems=[{"Put": {"TableName": "t", "Item": {"id": {"S": "2"}}}}])
    with pytest.raises(ClientError, match=r"dynamodb:Query on resource: .*table/t/index/living"):
        client.query(
            TableName="t",
            IndexName="living",
            KeyConditionExpression="living = :l",
            ExpressionAttributeValues={":l": {"S": "1"}},
        )
    with pytest.raises(ClientError, match=r"BatchGetItem on resource: .*table/u"):
        client.batch_get_item(
            RequestItems={name: {"Keys": [{"id": {"S": "1"}}]} for name in ("t", "u")},
        )


def test_kms_decrypt_conditions_and_key(aws: StrictAws) -> None:
    kms = aws.client("kms")
    mine, other = (kms.create_key()["KeyMetadata"]["Arn"] for _ in range(2))
    condition = {"StringEquals": {"kms:EncryptionContext:FunctionName": "f"}}
    client = aws.client("kms", user(aws, allow("kms:Decrypt", mine, **condition)))

    def sealed(key: str, name: str) -> dict[str, Any]:
        context = {"FunctionName": name}
        blob = kms.encrypt(KeyId=key, Plaintext=b"x", EncryptionContext=context)["CiphertextBlob"]
        return {"CiphertextBlob": blob, "EncryptionContext": context}

    assert client.decrypt(**sealed(mine, "f"))["Plaintext"] == b"x"
    for key, name in ((mine, "g"), (other, "f")):
        with pytest.raises(ClientError, match="AccessDeniedException"):
            client.decrypt(**sealed(key, name))


def test_key_policy_without_principals_denies_all(aws: StrictAws) -> None:
    kms = aws.client("kms")
    key = kms.create_key()["KeyMetadata"]["Arn"]
    client = aws.client("kms", user(aws, allow("kms:*")))
    client.describe_key(KeyId=key)
    other = {"Effect": "Allow", "Principal": {"AWS": "arn:aws:iam::123456789012:role/x"}, "Action": "kms:*"}
    policy = json.dumps({"Version": "2012-10-17", "Statement": [{**other, "Resource": "*"}]})
    kms.put_key_policy(KeyId=key, PolicyName="default", Policy=policy)
    with pytest.raises(ClientError, match="no resource-based policy allows"):
        client.describe_key(KeyId=key)


def test_logs_rights_are_on_the_streams_of_the_group(aws: StrictAws) -> None:
    aws.client("logs").create_log_group(logGroupName="/f")
    arn = "arn:aws:logs:us-east-1:123456789012:log-group:/f"
    credentials = user(aws, allow("logs:CreateLogStream", arn))  # without ":*", as often written by mistake
    with pytest.raises(ClientError, match="AccessDenied"):
        aws.client("logs", credentials).create_log_stream(logGroupName="/f", logStreamName="s")
    document = json.dumps({"Version": "2012-10-17", "Statement": [allow("logs:CreateLogStream", f"{arn}:*")]})
    aws.client("iam").put_user_policy(UserName="somebody", PolicyName="p", PolicyDocument=document)
    aws.client("logs", credentials).create_log_stream(logGroupName="/f", logStreamName="s")


def test_an_explicit_deny_wins(aws: StrictAws) -> None:
    deny = {"Effect": "Deny", "Action": "ec2:Describe*", "Resource": "*"}
    with pytest.raises(ClientError, match="with an explicit deny in an identity-based policy"):
        aws.client("ec2", user(aws, allow("*"), deny)).describe_instances()


def test_a_permissions_boundary_limits_a_role(aws: StrictAws) -> None:
    arn = role(aws, allow("ec2:*"))
    iam = aws.client("iam")
    document = json.dumps({"Version": "2012-10-17", "Statement": [allow("ec2:DescribeInstances")]})
    boundary = iam.create_policy(PolicyName="b", PolicyDocument=document)["Policy"]["Arn"]
    iam.put_role_permissions_boundary(RoleName="function", PermissionsBoundary=boundary)
    client = aws.client("ec2", aws.role_credentials(arn, "s"))
    client.describe_instances()
    with pytest.raises(ClientError, match="no permissions boundary allows"):
        client.describe_network_interfaces()


def test_unknown_condition_operator_is_an_error(aws: StrictAws) -> None:
    credentials = user(aws, allow("ec2:*", IpAddress={"aws:PrincipalArn": "10.0.0.0/8"}))
    with pytest.raises(ClientError) as error:
        aws.client("ec2", credentials).describe_instances()
    assert message(error) == "the testbed's IAM does not support the condition operator IpAddress"


# ---------------------------------------------------------------- calls and faults


def test_calls_are_counted(aws: StrictAws) -> None:
    credentials = user(aws, allow("ec2:*"))
    aws.reset_calls()
    aws.client("ec2", credentials).describe_instances()
    aws.client("ec2").describe_instances()
    assert aws.calls == {"ec2:DescribeInstances": 2}
    assert aws.calls_by["arn:aws:iam::123456789012:user/somebody", "ec2:DescribeInstances"] == 1
    assert aws.history[0].principal.endswith("user/somebody")


@pytest.mark.parametrize(
    ("fault", "kind", "match"),
    [
        (throttled(), ClientError, "Throttling"),
        (AwsError("PriorRequestNotComplete", "wait"), ClientError, "PriorRequestNotComplete"),
        (unavailable(500), ClientError, "ServiceUnavailable"),
        (garbage(), ResponseParserError, "Unable to parse"),
        (Hang(0.3), ConnectionClosedError, "closed"),
        (Drop(), ConnectionClosedError, "closed"),
    ],
)
def test_faults_do_not_affect_the_administrator(
    aws: StrictAws, fault: Any, kind: type[Exception], match: str
) -> None:
    client = aws.client("route53", user(aws, allow("route53:*")))
    asked = []

    def hook(service: str, operation: str, params: Any) -> Any:
        asked.append((service, operation, params["Name"]))
        return fault

    with aws.fault(hook):
        with pytest.raises(kind, match=match):
            client.create_hosted_zone(Name="x.internal", CallerReference="x")
        assert asked == [("route53", "CreateHostedZone", "x.internal")]
        assert aws.client("route53").list_hosted_zones()["HostedZones"] == []
    client.create_hosted_zone(Name="x.internal", CallerReference="x")


def test_answer_can_be_lost_after_the_change(aws: StrictAws) -> None:
    client = aws.client("sqs", user(aws, allow("sqs:*")))
    with aws.fault(lambda *_: Drop(after=True)), pytest.raises(ConnectionClosedError):
        client.create_queue(QueueName="q")
    assert len(client.list_queues()["QueueUrls"]) == 1


def test_hang_outlasts_the_clients_timeout(aws: StrictAws) -> None:
    impatient = boto3.session.Session().client(
        "sqs",
        region_name=aws.region,
        endpoint_url=aws.endpoint,
        aws_access_key_id=aws.credentials.access_key,
        aws_secret_access_key=aws.credentials.secret_key,
        config=Config(read_timeout=0.2, retries={"total_max_attempts": 1}),
    )
    with aws.fault(lambda *_: Hang(1), everyone=True), pytest.raises(ReadTimeoutError):
        impatient.list_queues()


def test_boto3_works_with_the_environment_only(aws: StrictAws, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in aws.environ().items():
        monkeypatch.setenv(name, value)
    assert boto3.session.Session().client("sts").get_caller_identity()["Arn"].endswith(":user/admin")


def test_only_one_at_a_time(aws: StrictAws) -> None:
    with pytest.raises(RuntimeError, match="another StrictAws is running"):
        StrictAws().start()
