"""`show`, `decommission`, `restore`, `sweep` and `status` on the real function."""

from __future__ import annotations

import os
import pty
import re
import shlex
import subprocess
import sys

import pytest

from testbed.aws import LaunchedInstance
from tests.operator.conftest import BUCKET, CLI, NAME, TABLE, Site

pytestmark = pytest.mark.servers

ISO = re.compile(r"\d{4}-\d{2}-\d{2}T\d{2}:\d{2}:\d{2}Z")


# show


def test_show_lists_planned_removals_and_then_past_removals(site: Site) -> None:
    instance_id = site.dead("web-1")
    before = site.cli("show", instance_id)
    assert before.status == 0, before.err
    assert before.out.startswith(f"{instance_id} in 123456789012/eu-west-1: running\n")
    assert "Removed" not in before.out
    assert "delete A web-1.example.internal." in before.out.split("(dry run)")[1]
    assert site.names() == ["web-1"]
    site.end(instance_id)
    after = site.cli("show", instance_id)
    removed = after.out.split("\nRemoved\n")[1].split("Last result of each step")[0]
    assert "route53 delete A web-1.example.internal." in removed
    assert ISO.search(removed)
    assert "nobody else has it now" in " ".join(removed.split())


def test_show_does_not_contradict_itself_after_a_second_event(site: Site) -> None:
    """The second event finds nothing, but the first event's removals still count."""
    instance_id = site.dead("web-1")
    site.end(instance_id)
    site.end(instance_id)
    shown = site.cli("show", instance_id)
    removed, last = shown.out.split("\nRemoved\n")[1].split("Last result of each step\n")
    assert "delete A web-1.example.internal." in removed
    look = " ".join(last.split("\n\n")[0].split())
    assert re.fullmatch(rf"route53: clean at {ISO.pattern}: nothing more was there", look)


def test_show_names_the_recorded_place_even_if_another_one_is_asked(site: Site) -> None:
    instance_id = site.dead("web-1")
    shown = site.cli("show", instance_id, "--account", "123456789012", "--region", "eu-central-1")
    assert shown.out.startswith(f"{instance_id} in 123456789012/eu-west-1: running\n")
    assert "123456789012/eu-central-1 is not served by this deployment" in " ".join(shown.out.split())


def test_show_as_json_holds_record_and_dry_run(site: Site) -> None:
    document = site.cli("show", site.dead("web-1"), "--json").document
    assert document["record"]["facts"]["tags"] == {"Name": "web-1"}
    assert document["record"]["request_id"]
    assert (document["dry_run"]["dry_run"], len(document["dry_run"]["steps"][0]["actions"])) == (True, 1)


def test_show_prints_the_record_even_if_the_function_fails(site: Site) -> None:
    instance_id = site.dead("web-1")
    site.configure(route53={"zones": [], "record_names": []})
    ran = site.cli("show", instance_id)
    assert (ran.status, "web-1" in ran.out) == (1, True)
    assert "route53.zones" in ran.said


def test_show_of_an_unknown_instance_says_so(site: Site) -> None:
    assert "not in the inventory" in site.cli("show", "i-0123456789abcdef0").out


def test_instance_names_cannot_inject_terminal_escapes(site: Site) -> None:
    instance_id = site.launch("web-1").id
    site.aws.client("dynamodb").update_item(
        TableName=TABLE,
        Key={"instance_id": {"S": instance_id}},
        UpdateExpression="SET facts.tags.#name = :name",
        ExpressionAttributeNames={"#name": "Name"},
        ExpressionAttributeValues={":name": {"S": "evil\x1b[2J\nroute53: done"}},
    )
    shown = site.cli("show", instance_id)
    assert "\x1b" not in shown.out
    assert "\nroute53: done" not in shown.out
    assert r"evil\x1b[2J route53: done" in shown.words


# decommission


def test_decommission_cleans_up_dead_instances_and_spares_live_ones(site: Site) -> None:
    living, dead = site.launch("web-2"), site.dead("web-1")
    ran = site.cli("decommission", dead, "--yes")
    assert (ran.status, site.names()) == (0, ["web-2"])
    assert "route53: done" in ran.out
    spared = site.cli("decommission", living.id, "--yes")
    assert (spared.status, site.names()) == (0, ["web-2"])
    assert "nothing is removed for a live instance" in spared.words


def test_decommission_dry_run_removes_nothing(site: Site) -> None:
    ran = site.cli("decommission", site.dead("web-1"), "--dry-run")
    assert (ran.status, site.names()) == (0, ["web-1"])
    assert "dry run, nothing was changed" in ran.words


def test_without_a_terminal_it_needs_yes(site: Site) -> None:
    ran = site.cli("decommission", site.dead("web-1"), stdin="y\n")
    assert (ran.status, site.names()) == (2, ["web-1"])
    assert "give --yes" in ran.said


def test_a_module_in_dry_run_must_be_overridden(site: Site) -> None:
    instance_id = site.dead("web-1")
    site.configure(dry_run=True)
    ran = site.cli("decommission", instance_id, "--yes")
    assert (ran.status, site.names()) == (1, ["web-1"])
    assert "the module has dry_run = true" in ran.said
    assert site.cli("decommission", instance_id, "--yes", "--override-dry-run").status == 0
    assert site.names() == []


def test_account_and_region_go_with_the_call(site: Site) -> None:
    instance_id = site.dead("web-1")
    ran = site.cli("decommission", instance_id, "--yes", "--account", "222222222222", "--region", "eu-west-1")
    assert (ran.status, site.names()) == (0, ["web-1"])
    assert "222222222222/eu-west-1 is not served by this deployment" in ran.words
    assert site.cli("decommission", instance_id, "--yes", "--account", site.aws.account).status == 0
    assert site.names() == []


@pytest.mark.parametrize("json", [False, True])
def test_interactive_decommission_shows_the_removals_before_the_prompt(site: Site, json: bool) -> None:
    instance_id = site.dead("web-1")
    for answer, status, left in (("n", 2, ["web-1"]), ("y", 0, [])):
        terminal, its_end = pty.openpty()
        os.write(terminal, f"{answer}\n".encode())
        done = subprocess.run(
            [sys.executable, str(CLI), "decommission", instance_id, *site.arguments, *(["--json"] if json else [])],
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
        shown = done.stderr if json else done.stdout
        assert "delete A web-1.example.internal." in shown.split("Remove this? [y/N]")[0]
        assert "Remove this? [y/N]" in done.stderr
        if json:
            assert done.stdout.startswith("{") if answer == "y" else done.stdout == ""


# restore


def test_restore_lists_and_restores(site: Site) -> None:
    instance_id = site.dead("web-1")
    site.end(instance_id)
    dry = site.cli("restore", instance_id, "--dry-run")
    assert (dry.status, site.names()) == (0, [])
    assert "create A web-1.example.internal." in dry.out
    ran = site.cli("restore", instance_id, "--yes")
    assert (ran.status, site.names()) == (0, ["web-1"])
    assert "restored" in ran.out
    again = site.cli("restore", instance_id, "--yes")
    assert (again.status, "route53: clean" in again.out) == (0, True)
    shown = site.cli("show", instance_id)
    assert "\nRestored\n" in shown.out


def test_without_audit_restore_names_the_input(site: Site) -> None:
    site.configure(audit=None)
    ran = site.cli("restore", "i-0abc", "--yes")
    assert ran.status == 1
    assert "audit" in ran.said


# sweep


def lose(site: Site, count: int) -> list[LaunchedInstance]:
    """Terminates instances without events."""
    lost = [site.launch(f"web-{number}") for number in range(count)]
    site.launch("stays")
    for instance in lost:
        site.aws.terminate(instance.id, emit=False)
    return lost


def test_a_sweep_lists_and_removes(site: Site) -> None:
    lost = lose(site, 2)
    dry = site.cli("sweep", "--dry-run")
    assert dry.status == 0, dry.err
    assert all(instance.id in dry.out and instance.private_ip in dry.out for instance in lost)
    assert site.poller.messages(NAME) == []
    assert site.cli("sweep").status == 0
    site.poller.drain()
    assert site.names() == ["stays"]
    assert "No missed terminations found." in site.cli("sweep").out


def test_brake_explains_its_limit_and_prints_the_next_command(site: Site) -> None:
    lost = lose(site, 3)
    ran = site.cli("sweep")
    assert ran.status == 1
    assert "sweep.max_fraction 0.25 of 4 is 1, raised to 10, the minimum for small fleets" in ran.words
    assert "sweep.max_instances allows no more than 2" in ran.words
    assert site.poller.messages(NAME) == []
    line = ran.err.strip().splitlines()[-1].strip()
    assert line == f"python3 cli sweep --accept {' '.join(sorted(i.id for i in lost))} --function-name {NAME}"
    confirmed = site.cli(*shlex.split(line)[2:-2])
    assert confirmed.status == 0, confirmed.err
    site.poller.drain()
    assert site.names() == ["stays"]


def test_accepting_a_live_instance_is_reported(site: Site) -> None:
    living = site.launch("web-9")
    [lost] = lose(site, 1)
    ran = site.cli("sweep", "--accept", lost.id, living.id)
    assert ran.status == 1
    assert f"{living.id} is not removed: it is live: EC2 in 123456789012/eu-west-1 lists it" in ran.words
    site.poller.drain()
    assert "web-9" in site.names()
    assert "web-0" not in site.names()


def test_accept_listed_accepts_what_it_listed(site: Site) -> None:
    lose(site, 3)
    assert site.cli("sweep", "--accept-listed").status == 2  # nobody can be asked
    ran = site.cli("sweep", "--accept-listed", "--yes")
    assert ran.status == 0, ran.err
    site.poller.drain()
    assert site.names() == ["stays"]


# status


def test_status_shows_switches_queues_and_unfinished_instances(site: Site) -> None:
    instance_id = site.dead("web-1")
    site.configure(route53={**site.config["route53"], "zones": [{"id": "Z0000000000000000000"}]})
    site.send('{"detail-type": 1', to=site.dead_letter_queue_url)
    site.end(instance_id)
    ran = site.cli("status")
    assert ran.status == 0, ran.err
    told = dict(line.split("  ", 1) for line in ran.out.splitlines() if "  " in line and not line.startswith(" "))
    assert {key: value.strip() for key, value in told.items()} == {
        "function": f"{NAME} in eu-west-1, Active, python3.13",
        "removes": "yes",
        "events": "handled",
        "steps": "route53",
        "inventory": TABLE,
        "audit": f"s3://{BUCKET}/kept/",
        "queue": "0 waiting, 1 in flight or backing off",
        "dead letters": "1",
        "not finished": instance_id,
    }
    assert f"aws sqs start-message-move-task --source-arn arn:aws:sqs:eu-west-1:{site.aws.account}" in ran.out
    site.configure(dry_run=True, audit=None)
    document = site.cli("status", "--json").document
    assert (document["dry_run"], document["dead_letters"], document["audit"]) == (True, 1, None)
