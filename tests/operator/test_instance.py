"""`show`, `decommission` and `status`: one instance, and the deployment's health."""

from __future__ import annotations

import os
import pty
import subprocess
import sys

import pytest

from tests.operator.conftest import NAME, ROOT, TABLE, Site

pytestmark = pytest.mark.servers


def test_show_tells_what_would_be_removed_then_what_was(site: Site) -> None:
    dead = site.launch("web-1")
    site.aws.terminate(dead.id, emit=False)
    before = site.operator("show", dead.id)
    assert before.status == 0
    assert f"{dead.id}: running, as recorded in {TABLE}" in before.out
    assert "What was removed\n  nothing" in before.out
    dry = before.out.split("What would be removed now (dry run)")[1]
    assert f"A web-1.example.internal. {dead.private_ip}" in dry
    assert site.names() == ["web-1"]

    site.operator("decommission", dead.id, "--yes")
    after = site.operator("show", dead.id)
    assert after.status == 0
    removed = after.out.split("What was removed\n")[1].split("What would be removed")[0]
    assert f"A web-1.example.internal. {dead.private_ip}" in removed
    assert "nothing of this instance was there" in after.out.split("What would be removed")[1]
    assert "to be retried" not in after.out


def test_show_as_json_holds_record_and_dry_run(site: Site) -> None:
    dead = site.launch("web-1")
    site.aws.terminate(dead.id, emit=False)
    document = site.operator("--json", "show", dead.id).document
    assert document["record"]["facts"]["private_ips"] == [dead.private_ip]
    assert document["dry_run"]["steps"][0]["actions"][0]["action"] == "delete"
    assert document["dry_run"]["dry_run"] is True


def test_show_tells_the_record_even_where_the_function_fails(site: Site) -> None:
    dead = site.launch("web-1")
    site.configure(route53={"zone_ids": [], "record_names": []})
    ran = site.operator("show", dead.id)
    assert ran.status == 1
    assert f"{dead.id}: running, as recorded in {TABLE}" in ran.out
    assert "The function ec2-decommission failed: ConfigurationError: " in ran.err
    assert "route53.zone_ids: expected at least 1 entry" in ran.err


def test_show_of_an_unknown_instance_says_that_nobody_knows_it(site: Site) -> None:
    ran = site.operator("show", "i-0123456789abcdef0")
    assert f"the inventory {TABLE} does not know it" in ran.out


def test_what_failed_makes_the_status_1_and_is_told(site: Site) -> None:
    dead = site.launch("web-1")
    site.aws.terminate(dead.id, emit=False)
    site.configure(route53={**site.config["route53"], "zone_ids": ["Z0000000000000000000"]})
    ran = site.operator("decommission", dead.id, "--yes")
    assert ran.status == 1
    assert "failed (configuration)" in ran.out
    assert "the hosted zone does not exist" in ran.out
    shown = site.operator("show", dead.id)
    assert shown.status == 1
    assert "to be retried" in shown.out


def test_decommission_removes_the_dead_ones_record_and_nothing_of_the_living(site: Site) -> None:
    dead, living = site.launch("web-1"), site.launch("web-2")
    site.aws.terminate(dead.id, emit=False)
    ran = site.operator("decommission", dead.id, "--yes")
    assert (ran.status, site.names()) == (0, ["web-2"])
    assert "done" in ran.out
    spared = site.operator("decommission", living.id, "--yes")
    assert (spared.status, site.names()) == (0, ["web-2"])
    assert "nothing of it is removed while it lives" in spared.out


def test_decommission_dry_run_removes_nothing(site: Site) -> None:
    dead = site.launch("web-1")
    site.aws.terminate(dead.id, emit=False)
    ran = site.operator("decommission", dead.id, "--dry-run")
    assert (ran.status, site.names()) == (0, ["web-1"])
    assert "dry run: nothing was removed" in ran.out
    assert f"A web-1.example.internal. {dead.private_ip}" in ran.out


def test_decommission_asks_and_without_a_terminal_needs_yes(site: Site) -> None:
    dead = site.launch("web-1")
    site.aws.terminate(dead.id, emit=False)
    ran = site.operator("decommission", dead.id, stdin="y\n")
    assert (ran.status, site.names()) == (2, ["web-1"])
    assert "give --yes" in ran.err


def test_where_the_module_is_in_dry_run_the_operator_must_override_it(site: Site) -> None:
    dead = site.launch("web-1")
    site.aws.terminate(dead.id, emit=False)
    site.configure(dry_run=True)
    ran = site.operator("decommission", dead.id, "--yes")
    assert (ran.status, site.names()) == (1, ["web-1"])
    assert "the module is set to dry_run = true" in ran.err
    ran = site.operator("decommission", dead.id, "--yes", "--override-dry-run")
    assert (ran.status, site.names()) == (0, [])


def test_status_tells_queue_dead_letters_alarms_switches_and_the_last_sweep(site: Site) -> None:
    site.aws.client("cloudwatch").put_metric_alarm(
        AlarmName=f"{NAME}-dead-letters",
        AlarmDescription="Look at docs/runbook.md#dead-letters",
        Namespace="AWS/SQS",
        MetricName="ApproximateNumberOfMessagesVisible",
        Dimensions=[{"Name": "QueueName", "Value": f"{NAME}-dead-letters"}],
        ComparisonOperator="GreaterThanThreshold",
        Statistic="Maximum",
        EvaluationPeriods=1,
        Period=300,
        Threshold=0,
    )
    site.aws.client("cloudwatch").set_alarm_state(
        AlarmName=f"{NAME}-dead-letters", StateValue="ALARM", StateReason="test"
    )
    living, lost = site.launch("web-1"), site.launch("web-2")
    site.aws.terminate(lost.id, emit=False)
    site.send('{"source": "ec2-decommission", "detail-type": "EC2 Decommission Sweep", "detail": {}}')
    site.poller.poll()
    site.send("{}", to=site.dead_letter_queue_url)
    ran = site.operator("status")
    assert ran.status == 0, ran.err
    assert "route53" in ran.out
    assert "1 waiting, 0 under way" in ran.out  # what the sweep sent
    assert "dead letters  1\n" in ran.out
    assert f"{NAME}-dead-letters rings since" in ran.out
    assert "Look at docs/runbook.md#dead-letters" in ran.out
    document = site.operator("status", "--json").document
    assert (document["sweep"]["living"], document["sweep"]["gone"]) == (1, [lost.id])
    assert document["config"] == {"dry_run": False, "steps": ["route53"], "inventory": True, "sweep": True}
    assert living.id not in ran.out


def test_at_a_terminal_it_shows_what_would_go_and_waits_for_a_yes(site: Site) -> None:
    dead = site.launch("web-1")
    site.aws.terminate(dead.id, emit=False)
    for answer, status, left in (("n", 2, ["web-1"]), ("y", 0, [])):
        terminal, its_end = pty.openpty()
        os.write(terminal, f"{answer}\n".encode())
        done = subprocess.run(
            [sys.executable, str(ROOT / "operator"), *site.arguments, "decommission", dead.id],
            stdin=its_end,
            capture_output=True,
            text=True,
            check=False,
            env={**os.environ, **site.aws.environ()},
            timeout=60,
        )
        os.close(terminal)
        os.close(its_end)
        assert (done.returncode, site.names()) == (status, left), done.stderr
        assert f"{dead.id}: this would be removed" in done.stdout
        assert "Remove it? [y/N]" in done.stderr
