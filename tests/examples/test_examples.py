"""Each example does what its README says, on the deployed function."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from testbed.aws import throttled
from testbed.terraform import Stack
from tests.deployed.conftest import report_of, step_of
from tests.examples.conftest import EXAMPLES, Applied, Leftover

if TYPE_CHECKING:
    from collections.abc import Callable

pytestmark = [pytest.mark.servers, pytest.mark.timeout(900)]  # the first one waits for all applies

# These need several accounts, or a mailbox: Terraform checks them against the module and the provider.
VALIDATED = ("organization", "result-events")

# What the operator's command, and whoever looks after the stack, needs of any of them.
OUTPUTS = {
    *("function_name", "queue_url", "dead_letter_queue_url", "inventory_table_name", "log_group_name"),
    "effective_config",
}


def test_every_example_is_tried_here_or_with_the_deployed_function() -> None:
    tried = {"minimal", "custom-step", "existing-fleet", "prebuilt-package", "result-events"}
    # The recipes of http-steps run on the real servers: tests/servers/test_zabbix.py and test_icinga.py.
    elsewhere = {"complete", "http-steps", *VALIDATED}
    assert {path.name for path in EXAMPLES.iterdir() if path.is_dir()} == {*tried, *elsewhere}


@pytest.mark.parametrize("name", VALIDATED)
def test_terraform_accepts_the_example(name: str, applied: Applied, tmp_path: Path) -> None:
    Stack(EXAMPLES / name, applied.platform.aws, tmp_path).validate()


def test_the_second_plan_of_each_is_empty(applied: Applied) -> None:
    assert applied.every(Stack.plan) == dict.fromkeys(applied.stacks, "empty")


@pytest.mark.parametrize("name", ["minimal", "custom-step", "existing-fleet", "prebuilt"])
def test_each_tells_what_an_operator_needs(applied: Applied, name: str) -> None:
    outputs = applied.stacks[name].outputs()
    assert set(outputs) == OUTPUTS
    assert outputs["function_name"] == outputs["effective_config"]["name"] == name


def dead(applied: Applied, zone: str, name: str) -> str:
    """An instance with a record in that zone, heard of when it began and when it ended."""
    instance = applied.platform.aws.launch(name)
    applied.record(zone, name, instance.private_ip)
    applied.deliver(zone)
    applied.platform.aws.terminate(instance.id)
    return instance.id


# minimal


def test_minimal_removes_the_record_of_the_dead_and_no_other(applied: Applied) -> None:
    living = applied.platform.aws.launch("web-2")
    applied.record("minimal", "web-2", living.private_ip)
    instance_id = dead(applied, "minimal", "web-1")
    report = report_of(applied.deliver("minimal"), instance_id)
    assert [(step["step"], step["status"]) for step in report["steps"]] == [("route53", "done")]
    assert applied.records("minimal") == ["web-2"]


# result-events


def listen(applied: Applied, name: str) -> Callable[[], list[str]]:
    """Subscribes a queue to a topic of the example; what is returned takes the messages out of it."""
    sqs, sns = applied.platform.aws.client("sqs"), applied.platform.aws.client("sns")
    queue_url = sqs.create_queue(QueueName=f"heard-{name}")["QueueUrl"]
    topic = applied.stacks["result-events"].outputs()[f"{name}_topic_arn"]
    queue = f"arn:aws:sqs:{applied.platform.region}:{applied.platform.aws.account}:heard-{name}"
    subscription = sns.subscribe(TopicArn=topic, Protocol="sqs", Endpoint=queue)["SubscriptionArn"]

    def heard() -> list[str]:
        received = sqs.receive_message(QueueUrl=queue_url, MaxNumberOfMessages=10).get("Messages", [])
        sns.unsubscribe(SubscriptionArn=subscription)
        sqs.delete_queue(QueueUrl=queue_url)
        return [json.loads(message["Body"])["Message"] for message in received]

    return heard


def test_result_events_reach_mail_and_chat(applied: Applied) -> None:
    """What was removed goes to the chat, what failed to both, and an end without a trace to none."""
    mail, chat = listen(applied, "email"), listen(applied, "slack")
    aws = applied.platform.aws
    traceless = aws.launch("ev-2")  # first, or it would get the address of the dead
    done = dead(applied, "result-events", "ev-1")
    applied.deliver("result-events")
    failing = dead(applied, "result-events", "ev-3")
    with aws.fault(lambda service, *_: throttled() if service == "route53" else None):
        applied.deliver("result-events")
    aws.terminate(traceless.id)
    applied.deliver("result-events")
    notices = [json.loads(text) for text in chat()]
    assert {(one["version"], one["source"], one["content"]["textType"]) for one in notices} == {
        ("1.0", "custom", "client-markdown")
    }
    told = [(one["content"]["title"], one["content"]["description"].split(" ")[0]) for one in notices]
    # SQS keeps no order.
    assert sorted(told) == [("EC2 Instance Decommission Failed", failing), ("EC2 Instance Decommissioned", done)]
    assert all(one["id"] and one["metadata"]["additionalContext"]["request"] for one in notices)
    [text] = mail()
    first, second, third = text.strip().splitlines()
    assert first == '"EC2 Instance Decommission Failed"'
    assert second.startswith(f'"{failing} (ev-3) in {aws.account}/{applied.platform.region}: route53 failed: ')
    assert third.startswith(f'"Account {aws.account}, region {applied.platform.region}. Request ')
    assert not [failure for failure in aws.undelivered if "result-events" in failure[0]]


def test_result_events_plans_the_slack_channel(applied: Applied) -> None:
    """moto does not know the chat service, so its resource is planned and not applied."""
    stack = applied.stacks["result-events"]
    stack.variables["slack"] = {"team_id": "T0123456789", "channel_id": "C0123456789"}
    try:
        assert stack.plan() == "changes"
        planned = (stack.logs / "terraform-plan.log").read_text()
    finally:
        del stack.variables["slack"]
    assert "aws_chatbot_slack_channel_configuration.this[0] will be created" in planned
    assert "2 to add, 0 to change, 0 to destroy" in planned


# custom-step


def put_alarm(applied: Applied, name: str, instance_id: str) -> None:
    applied.platform.aws.client("cloudwatch").put_metric_alarm(
        AlarmName=name,
        Namespace="AWS/EC2",
        MetricName="CPUUtilization",
        Dimensions=[{"Name": "InstanceId", "Value": instance_id}],
        Statistic="Average",
        Period=60,
        EvaluationPeriods=1,
        Threshold=90,
        ComparisonOperator="GreaterThanThreshold",
    )


def alarms(applied: Applied, prefix: str) -> list[str]:
    answer = applied.platform.aws.client("cloudwatch").describe_alarms(AlarmNamePrefix=prefix)
    return sorted(alarm["AlarmName"] for alarm in answer["MetricAlarms"])


def test_custom_step_deletes_the_alarms_of_the_dead_as_the_role_that_it_asked_for(applied: Applied) -> None:
    living, gone = (applied.platform.aws.launch(name) for name in ("api-2", "api-1"))
    for instance in (living, gone):
        put_alarm(applied, f"host-{instance.name}-cpu", instance.id)
    applied.deliver("custom-step")
    applied.platform.aws.terminate(gone.id)
    dry = applied.invoke("custom-step", instance_id=gone.id, dry_run=True)
    assert alarms(applied, "host-") == ["host-api-1-cpu", "host-api-2-cpu"]
    step = step_of(report_of(applied.deliver("custom-step"), gone.id), "cloudwatch_alarms")
    assert step["status"] == "done"
    assert step["actions"] == step_of(dry, "cloudwatch_alarms")["actions"]
    assert step["actions"] == [
        {
            "action": "delete",
            "target": "alarm host-api-1-cpu",
            "proof": f"its dimension InstanceId is {gone.id}",
        }
    ]
    assert alarms(applied, "host-") == ["host-api-2-cpu"]


def test_custom_step_fails_with_its_name_and_is_tried_again(applied: Applied) -> None:
    instance = applied.platform.aws.launch("api-3")
    put_alarm(applied, "host-api-3-cpu", instance.id)
    applied.deliver("custom-step")
    applied.platform.aws.terminate(instance.id)
    aws = applied.platform.aws

    def refuse(service: str, operation: str, _params: Any) -> None:
        if (service, operation) == ("cloudwatch", "DeleteAlarms"):
            raise throttled()

    with aws.fault(refuse):
        step = step_of(report_of(applied.deliver("custom-step"), instance.id), "cloudwatch_alarms")
    assert (step["status"], step["error_kind"]) == ("failed", "transient")
    assert "alarm host-api-3-cpu: could not call DeleteAlarms: Throttling" in step["reason"]
    applied.platform.poller.skip_delays("custom-step")
    assert step_of(report_of(applied.deliver("custom-step"), instance.id), "cloudwatch_alarms")["status"] == "done"
    assert alarms(applied, "host-api-3") == []


# prebuilt-package


def test_prebuilt_package_runs_with_the_secret_that_the_other_job_sealed(applied: Applied) -> None:
    instance = applied.platform.aws.launch("db-1")
    applied.record("prebuilt", "db-1", instance.private_ip)
    applied.platform.consul.register_node("db-1", instance.private_ip, {"instance_id": instance.id})
    session = applied.platform.consul.create_session("db-1")
    applied.platform.consul.acquire("locks/db-1", session)
    applied.deliver("prebuilt")
    applied.platform.aws.terminate(instance.id)
    report = report_of(applied.deliver("prebuilt"), instance.id)
    assert [(step["step"], step["status"]) for step in report["steps"]] == [("route53", "done"), ("consul", "done")]
    assert applied.records("prebuilt") == []
    assert not (applied.platform.consul.kv("locks/db-1") or {}).get("Session")


# Two calls in one root


def test_two_calls_in_one_root_keep_to_their_own(applied: Applied) -> None:
    instance = applied.platform.aws.launch("twin")
    for name in ("left", "right"):
        applied.record(name, "twin", instance.private_ip)
        applied.deliver(name)
    entry = f"instances/{instance.id}"
    applied.platform.vault.write_kv2("secret", entry, {"bootstrap": "x"})
    applied.platform.aws.terminate(instance.id)
    left = report_of(applied.deliver("left"), instance.id)
    assert [(step["step"], step["status"]) for step in left["steps"]] == [("route53", "done")]
    assert (applied.records("left"), applied.records("right")) == ([], ["twin"])
    # The other has a custom step besides, with a secret and a library of its own.
    batches = applied.deliver("right")
    right = report_of(batches, instance.id)
    assert [(step["step"], step["status"]) for step in right["steps"]] == [
        ("route53", "done"),
        ("vault_entries", "done"),
    ]
    assert step_of(right, "vault_entries")["actions"][0]["target"] == f"secret/{entry}"
    assert applied.records("right") == []
    assert not any(applied.entries_token in line for batch in batches for line in batch.invocation.logs)


# Nothing on


def test_with_everything_off_the_stack_stands_there_and_harms_nobody(applied: Applied) -> None:
    outputs = applied.stacks["side-by-side"].outputs()["nothing_on"]
    config = outputs["effective_config"]
    assert [config[step] for step in ("route53", "chef", "consul", "inventory", "sweep")] == [None] * 5
    assert (config["custom_steps"], outputs["kms_key_arn"]) == ({}, None)
    instance = applied.platform.aws.launch("idle")
    assert "nothing-on-instance-state" not in applied.platform.aws.emit(
        applied.platform.aws.state_change(instance.id, "terminated")
    )
    applied.platform.aws.terminate(instance.id, emit=False)
    assert applied.invoke("nothing-on", instance_id=instance.id)["steps"] == []
    rights = [
        statement["Sid"]
        for name in applied.platform.aws.client("iam").list_role_policies(RoleName=_role(applied))["PolicyNames"]
        for statement in _policy(applied, name)["Statement"]
    ]
    assert sorted(rights) == ["ReadInstances", "TakeEvents", "WriteLogs"]


def _role(applied: Applied) -> str:
    function = applied.platform.aws.client("lambda").get_function(FunctionName="nothing-on")
    return str(function["Configuration"]["Role"].rpartition("/")[2])


def _policy(applied: Applied, name: str) -> dict[str, Any]:
    answer = applied.platform.aws.client("iam").get_role_policy(RoleName=_role(applied), PolicyName=name)
    document = answer["PolicyDocument"]
    policy: dict[str, Any] = document if isinstance(document, dict) else json.loads(document)
    return policy


# existing-fleet: last, as it is switched on


def things(applied: Applied, of: Leftover) -> list[str]:
    """What the systems hold of it."""
    platform = applied.platform
    found = ["record"] if of.host in applied.records("existing-fleet") else []
    found += ["chef node"] if of.name in platform.chef.nodes() else []
    found += ["chef client"] if of.name in platform.chef.clients() else []
    return found + (["consul node"] if platform.consul.node(of.name) else [])


ALL = ["record", "chef node", "chef client", "consul node"]


def test_existing_fleet_first_lists_what_was_left_over_the_years_then_removes_it(applied: Applied) -> None:
    ids = sorted(leftover.instance_id for leftover in applied.leftovers)
    seen = applied.invoke("existing-fleet", sweep=True)
    assert seen["dry_run"]
    assert set(ids) <= set(seen["sweep"]["adopted"])
    assert applied.survivor
    assert applied.survivor.instance_id not in seen["sweep"]["adopted"]
    one = applied.invoke("existing-fleet", instance_id=ids[0])
    assert one["dry_run"]
    assert {step["step"]: step["status"] for step in one["steps"]} == {
        "route53": "done",
        "chef": "done",
        "consul": "done",
    }, one["steps"]
    assert [things(applied, leftover) for leftover in applied.leftovers] == [ALL, ALL]

    stack = applied.stacks["existing-fleet"]
    stack.variables["dry_run"] = False
    stack.apply()
    applied.platform.aws.fire_schedule("existing-fleet-sweep")
    batches = applied.deliver("existing-fleet")
    for leftover in applied.leftovers:
        steps = report_of(batches, leftover.instance_id)["steps"]
        assert [step["status"] for step in steps] == ["done", "done", "done"], steps
        assert things(applied, leftover) == []
    assert things(applied, applied.survivor) == ALL
    assert applied.invoke("existing-fleet", sweep=True, dry_run=True)["sweep"]["adopted"] == []
