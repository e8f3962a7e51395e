"""The application as the environment makes it, over the strict AWS."""

from __future__ import annotations

import json
import time
from typing import TYPE_CHECKING, Any

import boto3
import pytest
from aws_lambda_powertools import Logger

from ec2_decommission import entry, wiring
from ec2_decommission.clients.aws import AwsClients
from ec2_decommission.config import Config, ConsulSettings
from ec2_decommission.deadline import Deadline
from ec2_decommission.errors import AccessError, ConfigurationError, TransientError
from ec2_decommission.handler import FailedError
from ec2_decommission.run import Clock
from testbed.aws import StrictAws, throttled
from testbed.inventory import make_inventory_table
from tests.fakes.certificates import root
from tests.fakes.http import serving

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

CERTIFICATE = ("consul_client_certificate", "consul_client_key")
CONFIG: dict[str, Any] = {
    "name": "f",
    "route53": {"zone_ids": ["Z1"], "record_names": ["{tag:Name}.example.internal"]},
    "chef": {"server_url": "http://127.0.0.1:1", "client_name": "c", "node_name": None},
    "secrets": ["chef_client_key"],
    "encryption_context": {"FunctionName": "f"},
}


@pytest.fixture(scope="module")
def aws() -> Iterator[StrictAws]:
    with StrictAws() as strict:
        yield strict


@pytest.fixture
def environment(aws: StrictAws, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> StrictAws:
    aws.reset()
    for name, value in aws.environ().items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(entry, "_application", None)
    monkeypatch.setattr(wiring, "PACKAGE_ROOT", tmp_path)
    return aws


class Context:
    """Lambda's, as far as it is used."""

    def get_remaining_time_in_millis(self) -> int:
        return 60_000


def configure(monkeypatch: pytest.MonkeyPatch, **config: Any) -> None:
    monkeypatch.setenv("DECOMMISSION_CONFIG", json.dumps({**CONFIG, **config}))


def test_the_whole_story_of_one_instance(environment: StrictAws, monkeypatch: pytest.MonkeyPatch) -> None:
    route53, dynamodb = environment.client("route53"), environment.client("dynamodb")
    zone = route53.create_hosted_zone(Name="example.internal", CallerReference="1")["HostedZone"]["Id"]
    zone = zone.removeprefix("/hostedzone/")
    make_inventory_table(dynamodb, "t")
    config = {"zone_ids": [zone], "record_names": ["{tag:Name}.example.internal"]}
    configure(monkeypatch, route53=config, chef=None, inventory={"table_name": "t"})
    launched = environment.launch("web-1", "10.0.0.15", emit=False)
    record = {"Name": "web-1.example.internal", "Type": "A", "TTL": 7, "ResourceRecords": [{"Value": "10.0.0.15"}]}
    route53.change_resource_record_sets(
        HostedZoneId=zone, ChangeBatch={"Changes": [{"Action": "CREATE", "ResourceRecordSet": record}]}
    )
    recorded = entry.handle(environment.state_change(launched.id, "running"), Context())
    assert recorded["note"] == "recorded in the inventory"
    report = entry.handle(environment.terminate(launched.id, emit=False), Context())
    assert [a["target"] for a in report["steps"][0]["actions"]] == ["A web-1.example.internal. 10.0.0.15"]
    sets = route53.list_resource_record_sets(HostedZoneId=zone)["ResourceRecordSets"]
    assert {r["Type"] for r in sets} == {"NS", "SOA"}
    again = entry.handle({"instance_id": launched.id}, Context())
    assert again["steps"][0]["status"] == "clean"


def test_all_invocations_share_the_rate_of_route53_by_the_inventory(
    environment: StrictAws, monkeypatch: pytest.MonkeyPatch
) -> None:
    route53, dynamodb = environment.client("route53"), environment.client("dynamodb")
    zone = route53.create_hosted_zone(Name="example.internal", CallerReference="1")["HostedZone"]["Id"]
    dynamodb.create_table(
        TableName="t",
        BillingMode="PAY_PER_REQUEST",
        KeySchema=[{"AttributeName": "instance_id", "KeyType": "HASH"}],
        AttributeDefinitions=[{"AttributeName": "instance_id", "AttributeType": "S"}],
    )
    settings = {
        "zone_ids": [zone.removeprefix("/hostedzone/")],
        "record_names": ["{instance_id}.example.internal"],
        "requests_per_second": 2.5,
    }
    event = {"instance_id": "i-0123456789abcdef0", "dry_run": True}

    def run(**more: Any) -> Any:
        monkeypatch.setattr(entry, "_application", None)  # as in an environment of its own
        configure(monkeypatch, chef=None, **more)
        environment.reset_calls()
        (step,) = entry.handle(event, Context())["steps"]
        assert step["status"] == "clean"
        return environment.calls["dynamodb:UpdateItem"]

    def full_at() -> float:
        item = dynamodb.get_item(TableName="t", Key={"instance_id": {"S": "route53-rate"}})["Item"]
        return float(item["full_at"]["N"])

    shared = {**settings, "max_requests_per_second": 1}
    assert run(route53=shared, inventory={"table_name": "t"}) == 1
    begin = time.time()
    first = full_at()
    assert begin < first < begin + 4.1  # four tokens, one a second
    # The second sees what the first took: it is refused once, and told.
    assert run(route53=shared, inventory={"table_name": "t"}) == 2
    assert full_at() == pytest.approx(first + 4)
    # Without the whole rate, or without the inventory, each has its share.
    assert run(route53=settings, inventory={"table_name": "t"}) == 0
    assert run(route53=shared) == 0
    assert full_at() == pytest.approx(first + 4)


def test_the_step_goes_on_while_the_shared_rate_is_out_of_reach(
    environment: StrictAws, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    zone = environment.client("route53").create_hosted_zone(Name="example.internal", CallerReference="1")
    settings = {
        "zone_ids": [zone["HostedZone"]["Id"].removeprefix("/hostedzone/")],
        "record_names": ["{instance_id}.example.internal"],
        "max_requests_per_second": 5,
    }
    configure(monkeypatch, chef=None, route53=settings, inventory={"table_name": "t"})  # there is no such table
    monkeypatch.setattr(wiring, "log", Logger("f"))
    for _ in range(2):
        report = entry.handle({"instance_id": "i-0123456789abcdef0", "dry_run": True}, Context())
        assert report["steps"][0]["status"] == "clean"
    told = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    (warning,) = [line["message"] for line in told if line.get("level") == "WARNING"]
    assert warning.startswith(
        "requests to Route 53 keep to this environment's share for a minute: could not take from"
    )
    assert "the table does not exist" in warning
    assert environment.calls["dynamodb:UpdateItem"] == 1


def test_a_step_whose_secret_is_not_in_the_package_fails_alone(
    environment: StrictAws, monkeypatch: pytest.MonkeyPatch
) -> None:
    configure(monkeypatch)
    report = entry.handle({"instance_id": "i-0123456789abcdef0"}, Context())
    steps = {step["step"]: step for step in report["steps"]}
    assert list(steps) == ["route53", "chef"]
    assert steps["chef"]["status"] == "failed"
    assert steps["chef"]["reason"] == "the package holds no sealed_secrets.json: build it again with secrets"


def test_a_package_without_a_step_that_is_on_does_not_start(
    environment: StrictAws, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    configure(monkeypatch)
    (tmp_path / "build_info.json").write_text('{"features": ["route53"]}')
    with pytest.raises(ConfigurationError, match="built without chef, which the module switches on"):
        entry.handle({"instance_id": "i-0123456789abcdef0"}, Context())
    (tmp_path / "build_info.json").write_text('{"features": ["route53", "chef", "consul"]}')
    assert entry.handle({"instance_id": "i-0123456789abcdef0"}, Context())["steps"]


def test_the_application_is_made_once(environment: StrictAws, monkeypatch: pytest.MonkeyPatch) -> None:
    configure(monkeypatch, chef=None)
    entry.handle({"instance_id": "i-0123456789abcdef0"}, Context())
    made = entry._application
    monkeypatch.setenv("DECOMMISSION_CONFIG", "{")
    entry.handle({"instance_id": "i-0123456789abcdef0"}, Context())
    assert entry._application is made


@pytest.mark.parametrize("custom_steps", [{}, {"audit": {}}])
def test_requests_are_checked_where_a_custom_step_may_make_some(
    environment: StrictAws, monkeypatch: pytest.MonkeyPatch, custom_steps: dict[str, Any]
) -> None:
    checked: dict[str, bool] = {}
    make = boto3.Session.client

    def client(session: boto3.Session, service: Any, **given: Any) -> Any:
        if "region_name" not in given:  # the function's; the testbed's own names it
            checked[service] = given["config"].parameter_validation
        return make(session, service, **given)

    monkeypatch.setattr(boto3.Session, "client", client)
    configure(monkeypatch, chef=None, secrets=[], custom_steps=custom_steps)
    launched = environment.launch("web-1", "10.0.0.15", emit=False)
    with pytest.raises(FailedError, match="NoSuchHostedZone"):
        entry.handle(environment.terminate(launched.id, emit=False), Context())
    assert checked == dict.fromkeys(("ec2", "route53"), bool(custom_steps))


def test_records_without_message_ids_do_not_hide_a_wrong_configuration(
    environment: StrictAws, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DECOMMISSION_CONFIG", "{")
    assert entry.handle({"Records": [{}, None, {"messageId": "m"}]}, Context()) == {
        "batchItemFailures": [{"itemIdentifier": "m"}]
    }


def test_the_packages_own_certificates_are_added_to_the_public_ones(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(wiring, "PACKAGE_ROOT", tmp_path)
    public = len(wiring._tls().get_ca_certs())
    assert public > 50
    (tmp_path / "ca_bundle.pem").write_text(root("Private CA").pem)
    assert len(wiring._tls().get_ca_certs()) == public + 1


@pytest.mark.parametrize("given", [(), CERTIFICATE, CERTIFICATE[:1]])
def test_consul_is_shown_the_certificate_of_the_secrets(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, given: tuple[str, ...]
) -> None:
    authority = root("Private CA")
    ours = authority.signed("function")
    (tmp_path / "ca_bundle.pem").write_text(authority.pem)
    monkeypatch.setattr(wiring, "PACKAGE_ROOT", tmp_path)
    nodes = '[{"Node": "a", "ModifyIndex": 1}]'
    tls = authority.signed("server").server(tmp_path, clients=authority)
    with serving(lambda _: (200, nodes, {"X-Consul-Index": "1"}), tls) as (url, _):
        clock = Clock()
        clock.deadline = Deadline.after(30)
        config = Config("x", consul=ConsulSettings(url), secrets=given)
        systems = wiring._Systems(config, AwsClients(lambda: clock.deadline), clock)
        texts = dict(zip(CERTIFICATE, (ours.pem, ours.key_pem), strict=True))
        systems.secrets._secrets = {name: texts[name] for name in given}
        if given == CERTIFICATE:
            assert [node.name for node in systems.consul().nodes("")] == ["a"]
        else:
            told = "no secret consul_client_key" if given else "a client certificate is missing"
            with pytest.raises(ConfigurationError, match=told):
                systems.consul().nodes("")


def test_what_fails_to_be_made_is_made_at_the_next_try() -> None:
    tries: Iterator[Exception | str] = iter([ValueError("no"), "made"])

    def make() -> str:
        item = next(tries)
        if isinstance(item, Exception):
            raise item
        return item

    get = wiring._once(make)
    with pytest.raises(ValueError, match="no"):
        get()
    assert get() == get() == "made"


# The queue


def queue(aws: StrictAws) -> tuple[wiring.SqsQueue, Any, str]:
    sqs = aws.client("sqs")
    url = sqs.create_queue(QueueName="q")["QueueUrl"]
    return wiring.SqsQueue(AwsClients(lambda: Deadline.after(60)), url), sqs, url


def test_puts_off_more_messages_than_one_call_takes(environment: StrictAws) -> None:
    own, sqs, url = queue(environment)
    for number in range(12):
        sqs.send_message(QueueUrl=url, MessageBody=str(number))
    received: list[Any] = []
    while len(received) < 12:
        received += sqs.receive_message(QueueUrl=url, MaxNumberOfMessages=10, VisibilityTimeout=600)["Messages"]
    environment.reset_calls()
    own.put_off({m["ReceiptHandle"]: 0 if int(m["Body"]) % 2 else 900 for m in received})
    assert environment.calls["sqs:ChangeMessageVisibilityBatch"] == 2
    time.sleep(0.05)
    again = sqs.receive_message(QueueUrl=url, MaxNumberOfMessages=10)["Messages"]
    assert sorted(int(m["Body"]) for m in again) == [1, 3, 5, 7, 9, 11]


def test_a_stale_receipt_harms_no_other(environment: StrictAws) -> None:
    own, sqs, url = queue(environment)
    sqs.send_message(QueueUrl=url, MessageBody="x")
    (message,) = sqs.receive_message(QueueUrl=url, VisibilityTimeout=600)["Messages"]
    own.put_off({"stale": 5, message["ReceiptHandle"]: 0})
    assert sqs.receive_message(QueueUrl=url)["Messages"]


def test_sends_terminations_as_ec2_would(environment: StrictAws) -> None:
    own, sqs, url = queue(environment)
    own.send([{"instance_id": f"i-{n:017x}", "region": "us-east-1"} for n in range(11)])
    bodies: list[Any] = []
    while len(bodies) < 11:
        messages = sqs.receive_message(QueueUrl=url, MaxNumberOfMessages=10)["Messages"]
        bodies += [json.loads(m["Body"]) for m in messages]
    assert {b["detail"]["instance-id"] for b in bodies} == {f"i-{n:017x}" for n in range(11)}
    assert {b["detail"]["state"] for b in bodies} == {"terminated"}


def test_errors_of_the_queue_are_of_their_kind(environment: StrictAws) -> None:
    own, _, url = queue(environment)
    message = [{"instance_id": "i-1"}]
    with environment.fault(lambda *_: throttled("AccessDenied"), everyone=True):
        with pytest.raises(AccessError, match="sqs:SendMessage"):
            own.send(message)
        with pytest.raises(AccessError, match="sqs:ChangeMessageVisibility"):
            own.put_off({"r": 1})
    with (
        environment.fault(lambda *_: throttled("InvalidAddress"), everyone=True),
        pytest.raises(TransientError, match="InvalidAddress"),
    ):
        own.send(message)
    environment.client("sqs").delete_queue(QueueUrl=url)
    with pytest.raises(ConfigurationError, match="the queue does not exist"):
        own.send(message)
