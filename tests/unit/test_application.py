"""The application as the environment makes it, over the strict AWS."""

from __future__ import annotations

import json
import time
from typing import TYPE_CHECKING, Any

import pytest

from ec2_decommission import application, entry
from ec2_decommission.clients.aws import AwsClients
from ec2_decommission.clients.sqs import SqsQueue
from ec2_decommission.config import Config, ConsulSettings
from ec2_decommission.deadline import Deadline, until
from ec2_decommission.errors import AccessError, ConfigurationError, TransientError
from ec2_decommission.place import Place
from ec2_decommission.run import Circumstances
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
    "account_id": "123456789012",
    "region": "us-east-1",
    "route53": {"zones": [{"id": "Z1"}], "record_names": ["{tag:Name}.example.internal"]},
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
    entry._start.cache_clear()
    monkeypatch.setattr(application, "PACKAGE_ROOT", tmp_path)
    return aws


class Context:
    """Lambda's, as far as it is used."""

    aws_request_id = "request-1"

    def get_remaining_time_in_millis(self) -> int:
        return 60_000


def configure(monkeypatch: pytest.MonkeyPatch, **config: Any) -> None:
    monkeypatch.setenv("DECOMMISSION_CONFIG", json.dumps({**CONFIG, **config}))


def test_the_whole_story_of_one_instance(environment: StrictAws, monkeypatch: pytest.MonkeyPatch) -> None:
    route53, dynamodb = environment.client("route53"), environment.client("dynamodb")
    zone = route53.create_hosted_zone(Name="example.internal", CallerReference="1")["HostedZone"]["Id"]
    zone = zone.removeprefix("/hostedzone/")
    make_inventory_table(dynamodb, "t")
    config = {"zones": [{"id": zone}], "record_names": ["{tag:Name}.example.internal"]}
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
    assert {r["request_id"] for r in (recorded, report, again)} == {"request-1"}


def member_of(environment: StrictAws, **more: Any) -> dict[str, Any]:
    """A configuration that serves another region of the function's account, and another account."""
    organization = {"members": {"123456789012": ["eu-west-1"], "222222222222": ["us-east-1"]}, "role_name": "reader"}
    return {"organization": {**organization, **more}, "settings_file": True}


def test_other_accounts_use_their_role_and_other_regions_the_functions_role(
    environment: StrictAws, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    make_inventory_table(environment.client("dynamodb"), "t")
    settings = member_of(environment, external_id="secret-word")
    trust: dict[str, Any] = {"Effect": "Allow", "Principal": {"AWS": "123456789012"}, "Action": "sts:AssumeRole"}
    trust["Condition"] = {"StringEquals": {"sts:ExternalId": "secret-word"}}
    iam = environment.client("iam", environment.admin_of("222222222222"))
    iam.create_role(
        RoleName="reader", AssumeRolePolicyDocument=json.dumps({"Version": "2012-10-17", "Statement": [trust]})
    )
    read = {"Effect": "Allow", "Action": "ec2:Describe*", "Resource": "*"}
    iam.put_role_policy(
        RoleName="reader",
        PolicyName="read",
        PolicyDocument=json.dumps({"Version": "2012-10-17", "Statement": [read]}),
    )
    (tmp_path / "settings.json").write_text(json.dumps({"organization": settings["organization"]}))
    configure(monkeypatch, chef=None, route53=None, inventory={"table_name": "t"}, settings_file=True)
    environment.reset_calls()
    report = entry.handle({"instance_id": "i-0123456789abcdef0"}, Context())
    assert report["steps"] == []
    assert environment.calls["sts:AssumeRole"] == 1
    assert environment.calls["ec2:DescribeInstances"] == 3
    entry.handle({"instance_id": "i-0123456789abcdef0"}, Context())
    assert environment.calls["sts:AssumeRole"] == 1  # the credentials are kept


def test_a_role_that_cannot_be_assumed_names_account_role_and_right(
    environment: StrictAws, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    settings = member_of(environment)
    (tmp_path / "settings.json").write_text(json.dumps({"organization": settings["organization"]}))
    configure(monkeypatch, chef=None, settings_file=True)

    def deny(_service: str, operation: str, _params: Any) -> Any:
        return throttled("AccessDenied") if operation == "AssumeRole" else None

    member = {"account_id": "222222222222", "region": "us-east-1"}
    with environment.fault(deny, everyone=True):
        report = entry.handle({"instance_id": "i-0123456789abcdef0", **member}, Context())
    (step,) = report["steps"]
    assert step["status"] == "failed"
    for part in ("222222222222", "arn:aws:iam::222222222222:role/reader", "sts:AssumeRole"):
        assert part in step["reason"]


def test_a_configuration_without_its_settings_file_does_not_start(
    environment: StrictAws, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    configure(monkeypatch, chef=None, settings_file=True)
    with pytest.raises(ConfigurationError, match=r"has settings\.json"):
        entry.handle({"instance_id": "i-0123456789abcdef0"}, Context())
    layer = tmp_path / "layer"
    layer.mkdir()
    (layer / "settings.json").write_text("{}")
    monkeypatch.setenv("DECOMMISSION_LAYER_DIR", str(layer))
    assert entry.handle({"instance_id": "i-0123456789abcdef0"}, Context())["steps"]


def test_a_step_whose_secret_is_not_in_the_package_fails_alone(
    environment: StrictAws, monkeypatch: pytest.MonkeyPatch
) -> None:
    configure(monkeypatch)
    report = entry.handle({"instance_id": "i-0123456789abcdef0"}, Context())
    steps = {step["step"]: step for step in report["steps"]}
    assert list(steps) == ["route53", "chef"]
    assert steps["chef"]["status"] == "failed"
    assert steps["chef"]["reason"].startswith("neither the package nor a layer has sealed_")


def test_a_package_without_a_step_that_is_on_does_not_start(
    environment: StrictAws, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    configure(monkeypatch)
    (tmp_path / "build_info.json").write_text('{"features": ["route53"]}')
    with pytest.raises(ConfigurationError, match="built without chef, which the module enables"):
        entry.handle({"instance_id": "i-0123456789abcdef0"}, Context())
    (tmp_path / "build_info.json").write_text('{"features": ["route53", "chef", "consul"]}')
    assert entry.handle({"instance_id": "i-0123456789abcdef0"}, Context())["steps"]


def test_the_application_is_made_once(environment: StrictAws, monkeypatch: pytest.MonkeyPatch) -> None:
    configure(monkeypatch, chef=None)
    entry.handle({"instance_id": "i-0123456789abcdef0"}, Context())
    made = entry._start()
    monkeypatch.setenv("DECOMMISSION_CONFIG", "{")
    entry.handle({"instance_id": "i-0123456789abcdef0"}, Context())
    assert entry._start() is made


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
    monkeypatch.setattr(application, "PACKAGE_ROOT", tmp_path)
    public = len(application._tls().get_ca_certs())
    assert public > 50
    (tmp_path / "ca_bundle.pem").write_text(root("Private CA").pem)
    assert len(application._tls().get_ca_certs()) == public + 1


@pytest.mark.parametrize("given", [(), CERTIFICATE, CERTIFICATE[:1]])
def test_consul_client_uses_the_certificate_from_the_secrets(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, given: tuple[str, ...]
) -> None:
    authority = root("Private CA")
    ours = authority.signed("function")
    (tmp_path / "ca_bundle.pem").write_text(authority.pem)
    monkeypatch.setattr(application, "PACKAGE_ROOT", tmp_path)
    nodes = '[{"Node": "a", "ModifyIndex": 1}]'
    tls = authority.signed("server").server(tmp_path, clients=authority)
    answers = serving(lambda _: (200, nodes, {"X-Consul-Index": "1"}), tls)
    with answers as (url, _), until(Deadline.after(30)):
        config = Config("x", "111111111111", "us-east-1", consul=ConsulSettings(url), secrets=given)
        systems = application._Systems(config, AwsClients())
        texts = dict(zip(CERTIFICATE, (ours.pem, ours.key_pem), strict=True))
        systems.secrets._secrets = {name: texts[name] for name in given}
        if given == CERTIFICATE:
            assert [node.name for node in systems.consul().nodes("")] == ["a"]
        else:
            told = "no secret consul_client_key" if given else "a client certificate is missing"
            with pytest.raises(ConfigurationError, match=told):
                systems.consul().nodes("")


def test_the_consul_step_is_told_when_the_instances_ended() -> None:
    document = {**CONFIG, "route53": None, "chef": None, "consul": {"url": "http://127.0.0.1:1"}, "secrets": []}
    config = Config.parse(json.dumps(document))
    aws = AwsClients()
    [factory] = application._steps(config, aws, application._Systems(config, aws))
    assert factory.make(Circumstances(ended_at=1_800_000_000.0))._ended_at == 1_800_000_000.0  # type: ignore[attr-defined]


def test_failed_initialization_is_retried() -> None:
    tries: Iterator[Exception | str] = iter([ValueError("no"), "made"])

    def make() -> str:
        item = next(tries)
        if isinstance(item, Exception):
            raise item
        return item

    get = application.once(make)
    with pytest.raises(ValueError, match="no"):
        get()
    assert get() == get() == "made"


# The queue


PLACE = Place("123456789012", "us-east-1")


def queue(aws: StrictAws) -> tuple[SqsQueue, Any, str]:
    sqs = aws.client("sqs")
    url = sqs.create_queue(QueueName="q")["QueueUrl"]
    own = AwsClients(lambda: Deadline.after(60))
    return SqsQueue(lambda: own("sqs"), url), sqs, url


def test_backs_off_more_messages_than_one_call_takes(environment: StrictAws) -> None:
    own, sqs, url = queue(environment)
    for number in range(12):
        sqs.send_message(QueueUrl=url, MessageBody=str(number))
    received: list[Any] = []
    while len(received) < 12:
        received += sqs.receive_message(QueueUrl=url, MaxNumberOfMessages=10, VisibilityTimeout=600)["Messages"]
    environment.reset_calls()
    own.back_off({m["ReceiptHandle"]: 0 if int(m["Body"]) % 2 else 900 for m in received})
    assert environment.calls["sqs:ChangeMessageVisibilityBatch"] == 2
    time.sleep(0.05)
    again = sqs.receive_message(QueueUrl=url, MaxNumberOfMessages=10)["Messages"]
    assert sorted(int(m["Body"]) for m in again) == [1, 3, 5, 7, 9, 11]


def test_stale_receipt_does_not_affect_other_messages(environment: StrictAws) -> None:
    own, sqs, url = queue(environment)
    sqs.send_message(QueueUrl=url, MessageBody="x")
    (message,) = sqs.receive_message(QueueUrl=url, VisibilityTimeout=600)["Messages"]
    own.back_off({"stale": 5, message["ReceiptHandle"]: 0})
    assert sqs.receive_message(QueueUrl=url)["Messages"]


def test_sends_terminations_as_ec2_would(environment: StrictAws) -> None:
    own, sqs, url = queue(environment)
    own.send_terminations([f"i-{n:017x}" for n in range(11)], PLACE)
    bodies: list[Any] = []
    while len(bodies) < 11:
        messages = sqs.receive_message(QueueUrl=url, MaxNumberOfMessages=10)["Messages"]
        bodies += [json.loads(m["Body"]) for m in messages]
    assert {b["detail"]["instance-id"] for b in bodies} == {f"i-{n:017x}" for n in range(11)}
    assert {(b["detail"]["state"], b["account"], b["region"]) for b in bodies} == {
        ("terminated", "123456789012", "us-east-1")
    }


def test_queue_errors_map_to_error_types(environment: StrictAws) -> None:
    own, _, url = queue(environment)
    with environment.fault(lambda *_: throttled("AccessDenied"), everyone=True):
        with pytest.raises(AccessError, match="sqs:SendMessage"):
            own.send_terminations(["i-1"], PLACE)
        with pytest.raises(AccessError, match="sqs:ChangeMessageVisibility"):
            own.back_off({"r": 1})
    with (
        environment.fault(lambda *_: throttled("InvalidAddress"), everyone=True),
        pytest.raises(TransientError, match="InvalidAddress"),
    ):
        own.send_terminations(["i-1"], PLACE)
    environment.client("sqs").delete_queue(QueueUrl=url)
    with pytest.raises(ConfigurationError, match="the queue does not exist"):
        own.send_terminations(["i-1"], PLACE)
