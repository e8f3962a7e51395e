"""`examples/organization`: separate accounts for the hub, two members and the hosted zone."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from moto.ec2.models import ec2_backends

from testbed.aws import LaunchedInstance
from testbed.lambda_service import Batch
from testbed.platform import Platform
from testbed.terraform import Stack
from tests.deployed.conftest import ARCHITECTURE, ROOT, report_of, step_of

pytestmark = [pytest.mark.servers, pytest.mark.timeout(900)]

NAME = "hub"
MEMBER_A, MEMBER_B, DNS = "222222222222", "333333333333", "444444444444"
STRANGER = "555555555555"
TERRAFORM_ROLE = "OrganizationAccountAccessRole"


@dataclass
class Hub:
    """The stack, and its instances' records in the zone."""

    platform: Platform
    stack: Stack
    zone_id: str

    def __post_init__(self) -> None:
        aws = self.platform.aws
        self.route53 = aws.client("route53", aws.admin_of(DNS))

    def change(self, action: str, name: str, address: str) -> None:
        record = {"Name": name, "Type": "A", "TTL": 60, "ResourceRecords": [{"Value": address}]}
        self.route53.change_resource_record_sets(
            HostedZoneId=self.zone_id, ChangeBatch={"Changes": [{"Action": action, "ResourceRecordSet": record}]}
        )

    def records(self) -> dict[str, list[str]]:
        """The addresses, by the first label of the name."""
        listed = self.route53.list_resource_record_sets(HostedZoneId=self.zone_id)["ResourceRecordSets"]
        return {
            record["Name"].split(".")[0]: [value["Value"] for value in record["ResourceRecords"]]
            for record in listed
            if record["Type"] == "A"
        }

    def launch(self, account: str, name: str, private_ip: str | None = None) -> LaunchedInstance:
        """Launches an instance in that account, an hour ago, and lets the function record it."""
        aws = self.platform.aws
        instance = aws.launch(name, private_ip, account=account)
        launched = datetime.now(UTC) - timedelta(hours=1)
        ec2_backends[account][aws.region].get_instance(instance.id).launch_time = launched
        self.deliver()
        return instance

    def lose(self, account: str, *instances: LaunchedInstance) -> None:
        """Terminates instances without events, and removes them from EC2."""
        for instance in instances:
            self.platform.aws.terminate(instance.id, emit=False, account=account)
            self.platform.aws.forget(instance.id, account=account)

    def sweep(self) -> list[Batch]:
        self.platform.aws.fire_schedule(f"{NAME}-sweep")
        return self.deliver()

    def invoke(self, **payload: Any) -> dict[str, Any]:
        """Makes an operator's call."""
        ran = self.platform.functions.invoke(NAME, payload)
        assert ran.error is None, ran.error
        report: dict[str, Any] = ran.result
        return report

    def terminate(self, account: str, instance: LaunchedInstance) -> list[Batch]:
        self.platform.aws.terminate(instance.id, account=account)
        return self.deliver()

    def deliver(self) -> list[Batch]:
        assert self.platform.aws.undelivered == []
        return self.platform.poller.drain(only=NAME)


def policy(**statement: Any) -> str:
    return json.dumps({"Version": "2012-10-17", "Statement": [{"Effect": "Allow", **statement}]})


@pytest.fixture(scope="module")
def hub(platform: Platform, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Hub]:
    aws = platform.aws
    root = {"AWS": f"arn:aws:iam::{aws.account}:root"}
    for account in (MEMBER_A, MEMBER_B, DNS):
        iam = aws.client("iam", aws.admin_of(account))
        trust = policy(Principal=root, Action="sts:AssumeRole")
        iam.create_role(RoleName=TERRAFORM_ROLE, AssumeRolePolicyDocument=trust)
        iam.put_role_policy(
            RoleName=TERRAFORM_ROLE, PolicyName="all", PolicyDocument=policy(Action="*", Resource="*")
        )
    route53 = aws.client("route53", aws.admin_of(DNS))
    zone = route53.create_hosted_zone(Name="example.internal", CallerReference="hub")
    zone_id = str(zone["HostedZone"]["Id"]).rpartition("/")[2]
    stack = Stack(
        ROOT / "examples" / "organization",
        aws,
        tmp_path_factory.mktemp("organization"),
        variables={
            "name": NAME,
            "region": platform.region,
            "member_a_account_id": MEMBER_A,
            "member_b_account_id": MEMBER_B,
            "dns_account_id": DNS,
            "zone_id": zone_id,
            "function": {"architecture": ARCHITECTURE},
        },
    )
    stack.apply()
    hub = Hub(platform, stack, zone_id)
    for account in (MEMBER_A, MEMBER_B):
        hub.launch(account, "anchor")  # the brake stops a sweep that sees no instances at all
    yield hub
    stack.destroy()
    assert stack.resources() == []
    for account in (MEMBER_A, MEMBER_B, DNS):
        client = aws.client("iam", aws.admin_of(account))
        assert [role["RoleName"] for role in client.list_roles()["Roles"]] == [TERRAFORM_ROLE]


def test_the_second_plan_is_empty(hub: Hub) -> None:
    assert hub.stack.plan() == "empty"


def test_member_instance_is_cleaned_up_in_a_third_accounts_zone(hub: Hub) -> None:
    gone = hub.launch(MEMBER_A, "web-1")
    living = hub.launch(MEMBER_B, "web-2")
    hub.change("CREATE", "web-1.example.internal", gone.private_ip)
    hub.change("CREATE", "web-2.example.internal", living.private_ip)
    report = report_of(hub.terminate(MEMBER_A, gone), gone.id)
    assert (report["account_id"], report["region"]) == (MEMBER_A, hub.platform.region)
    assert step_of(report, "route53")["status"] == "done"
    assert hub.records() == {"web-2": [living.private_ip]}
    hub.terminate(MEMBER_B, living)
    assert hub.records() == {}


def test_record_stays_while_a_live_instance_in_another_member_has_its_name_and_address(hub: Hub) -> None:
    """The networks of both members have the same address range."""
    gone = hub.launch(MEMBER_A, "db", "10.0.7.7")
    living = hub.launch(MEMBER_B, "db", "10.0.7.7")
    hub.change("CREATE", "db.example.internal", "10.0.7.7")
    step = step_of(report_of(hub.terminate(MEMBER_A, gone), gone.id), "route53")
    assert step["status"] == "skipped"
    assert living.id in step["reason"]
    assert hub.records() == {"db": ["10.0.7.7"]}
    assert step_of(report_of(hub.terminate(MEMBER_B, living), living.id), "route53")["status"] == "done"
    assert hub.records() == {}


def test_event_from_a_foreign_account_removes_nothing_and_is_not_retried(hub: Hub) -> None:
    hub.change("CREATE", "stranger.example.internal", "10.0.8.8")
    event = hub.platform.aws.state_change("i-0123456789abcdef0", "terminated", account=STRANGER)
    queue = hub.stack.outputs()["queue_url"]
    hub.platform.aws.client("sqs").send_message(QueueUrl=queue, MessageBody=json.dumps(event))
    (batch,) = hub.deliver()
    assert batch.returned == []
    assert hub.records() == {"stranger": ["10.0.8.8"]}
    hub.change("DELETE", "stranger.example.internal", "10.0.8.8")


def test_denied_member_fails_closed_and_error_names_account_role_and_permission(hub: Hub) -> None:
    gone = hub.launch(MEMBER_A, "web-3")
    hub.change("CREATE", "web-3.example.internal", gone.private_ip)
    aws = hub.platform.aws
    iam = aws.client("iam", aws.admin_of(MEMBER_B))
    role = {"RoleName": "ec2-decommission-member", "PolicyName": "reader"}
    policy = iam.get_role_policy(**role)["PolicyDocument"]
    iam.delete_role_policy(**role)
    hub.platform.functions.forget_environments()
    try:
        step: dict[str, Any] = step_of(report_of(hub.terminate(MEMBER_A, gone), gone.id), "route53")
    finally:
        iam.put_role_policy(**role, PolicyDocument=json.dumps(policy))
    assert step["status"] == "failed"
    assert MEMBER_B in step["reason"]
    assert "ec2:Describe" in step["reason"]
    assert hub.records() == {"web-3": [gone.private_ip]}
    hub.platform.poller.skip_delays(NAME)
    assert step_of(report_of(hub.deliver(), gone.id), "route53")["status"] == "done"
    assert hub.records() == {}


def test_unserved_region_of_a_member_removes_nothing(hub: Hub) -> None:
    hub.change("CREATE", "far.example.internal", "10.0.8.9")
    event = hub.platform.aws.state_change("i-0123456789abcdef1", "terminated", account=MEMBER_A, region="us-west-2")
    queue = hub.stack.outputs()["queue_url"]
    hub.platform.aws.client("sqs").send_message(QueueUrl=queue, MessageBody=json.dumps(event))
    (batch,) = hub.deliver()
    assert batch.returned == []
    assert hub.records() == {"far": ["10.0.8.9"]}
    hub.change("DELETE", "far.example.internal", "10.0.8.9")


def test_operator_call_for_a_member_instance_needs_its_place(hub: Hub) -> None:
    gone = hub.launch(MEMBER_A, "web-4")
    hub.change("CREATE", "web-4.example.internal", gone.private_ip)
    hub.platform.aws.terminate(gone.id, emit=False, account=MEMBER_A)
    report = hub.invoke(instance_id=gone.id)
    assert [(step["status"], step["actions"]) for step in report["steps"]] == [("skipped", [])]
    assert f"{MEMBER_A}/{hub.platform.region}" in report["steps"][0]["reason"]
    assert hub.records() == {"web-4": [gone.private_ip]}
    report = hub.invoke(instance_id=gone.id, account_id=MEMBER_A)
    assert (report["account_id"], step_of(report, "route53")["status"]) == (MEMBER_A, "done")
    assert hub.records() == {}


def test_sweep_finds_missed_terminations_in_a_member(hub: Hub) -> None:
    gone = hub.launch(MEMBER_A, "web-5")
    hub.change("CREATE", "web-5.example.internal", gone.private_ip)
    hub.lose(MEMBER_A, gone)
    report = report_of(hub.sweep(), gone.id)
    assert (report["account_id"], step_of(report, "route53")["status"]) == (MEMBER_A, "done")
    assert hub.records() == {}


def test_brake_in_one_member_does_not_stop_the_sweep_of_another(hub: Hub) -> None:
    many = [hub.launch(MEMBER_A, f"node-{number}") for number in range(12)]
    one = hub.launch(MEMBER_B, "web-6")
    for instance in (*many, one):
        hub.change("CREATE", f"{instance.name}.example.internal", instance.private_ip)
    hub.lose(MEMBER_A, *many)
    hub.lose(MEMBER_B, one)
    batches = hub.sweep()
    assert step_of(report_of(batches, one.id), "route53")["status"] == "done"
    assert set(hub.records()) == {instance.name for instance in many}
    reports = [line["report"] for b in batches for line in b.invocation.json_logs() if "report" in line]
    errors = {report["account_id"]: report.get("errors") for report in reports if report["state"] == "sweep"}
    assert "Confirm them with accept" in str(errors.pop(MEMBER_A))
    assert set(errors.values()) == {None}
    hub.invoke(sweep=True, account_id=MEMBER_A, region=hub.platform.region, accept=[i.id for i in many])
    hub.deliver()
    assert hub.records() == {}
