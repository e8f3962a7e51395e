"""`dead-letters`: none is hidden, none is lost, each has its reason, and all go back."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading

import pytest

from testbed.aws import AwsError, Drop, Hang, unavailable
from tests.operator.conftest import NAME, ROOT, Site

pytestmark = pytest.mark.servers


def exhaust(site: Site) -> None:
    """Lets what is in the queue use up its tries."""
    site.poller.drain(skip_delays=True)


def test_the_whole_circle_from_an_outage_back(site: Site) -> None:
    dead = site.launch("web-1")
    site.aws.terminate(dead.id, emit=False)
    event = json.dumps(site.aws.state_change(dead.id, "terminated"))
    outage = site.aws.fault(lambda service, *_: unavailable() if service == "route53" else None)
    site.send(event)
    exhaust(site)
    assert site.names() == ["web-1"]
    outage.remove()

    listed = site.operator("dead-letters", "list", "--json").document
    [letter] = listed["dead_letters"]
    assert (letter["event"], letter["instance_id"], letter["body"]) == ("terminated", dead.id, event)
    assert letter["reason"].startswith("route53: ")
    assert "ServiceUnavailable" in letter["reason"]
    table = site.operator("dead-letters", "list", COLUMNS="80").out
    # Ids are there to be copied, and so are whole on a narrow screen.
    assert letter["id"] in table
    assert dead.id in table
    assert "resend --all" in table

    resent = site.operator("dead-letters", "resend", "--all")
    assert resent.status == 0, resent.err
    assert site.dead() == []
    exhaust(site)
    assert (site.names(), site.dead()) == ([], [])


def test_a_list_sees_all_and_leaves_all(site: Site) -> None:
    site.send(*(json.dumps({"number": number}) for number in range(57)), to=site.dead_letter_queue_url)
    before = {message["id"] for message in site.dead()}
    for _ in range(2):
        document = site.operator("dead-letters", "list", "--json").document
        assert {letter["id"] for letter in document["dead_letters"]} == before
        assert {message["id"] for message in site.dead() if message["visible_in_seconds"] == 0} == before


def test_reasons_come_from_the_parser_the_log_and_eventbridge(site: Site) -> None:
    instance = site.launch("web-1")  # lives, whatever the event says
    site.send("no JSON", json.dumps(site.aws.state_change(instance.id, "terminated")))
    exhaust(site)
    refused = {"ERROR_CODE": "NO_PERMISSIONS", "ERROR_MESSAGE": "not authorized"}
    site.send(
        json.dumps(site.aws.state_change("i-0abc", "running")),
        to=site.dead_letter_queue_url,
        MessageAttributes={k: {"StringValue": v, "DataType": "String"} for k, v in refused.items()},
    )
    letters = site.operator("dead-letters", "list", "--json").document["dead_letters"]
    reasons = {letter["event"]: letter["reason"] for letter in letters}
    assert reasons["unreadable"].startswith("the function cannot read it: ")
    assert "the event says terminated, EC2 says running" in reasons["terminated"]
    assert reasons["running"] == "EventBridge could not deliver it: NO_PERMISSIONS: not authorized"


def test_ids_or_their_beginnings_choose_and_the_others_stay(site: Site) -> None:
    bodies = [json.dumps(site.aws.state_change(f"i-{number}", "running")) for number in range(3)]
    first, second, third = site.send(*bodies, to=site.dead_letter_queue_url)
    assert site.operator("dead-letters", "resend", first, second[:13]).status == 0
    assert [(m["id"], m["visible_in_seconds"]) for m in site.dead()] == [(third, 0)]
    assert sorted(message["body"] for message in site.poller.messages(NAME)) == sorted(bodies[:2])


def test_an_unknown_id_sends_nothing_at_all(site: Site) -> None:
    [known] = site.send("{}", to=site.dead_letter_queue_url)
    ran = site.operator("dead-letters", "resend", known, "no-such-id")
    assert ran.status == 1
    assert "no-such-id (not there)" in ran.err
    assert [(m["id"], m["visible_in_seconds"]) for m in site.dead()] == [(known, 0)]
    assert site.poller.messages(NAME) == []


def test_all_leaves_out_what_would_come_back_and_discard_deletes_it(site: Site) -> None:
    event = json.dumps(site.aws.state_change("i-0abc", "running"))
    site.send("unreadable", event, to=site.dead_letter_queue_url)
    ran = site.operator("dead-letters", "resend", "--all")
    assert ran.status == 0
    assert "1 that the function cannot read were left" in ran.out
    assert [m["body"] for m in site.poller.messages(NAME)] == [event]
    assert site.operator("dead-letters", "discard", "--all").status == 2  # nobody to ask
    assert [m["body"] for m in site.dead()] == ["unreadable"]
    assert site.operator("dead-letters", "discard", "--all", "--yes").status == 0
    assert site.dead() == []


def test_one_whose_deletion_fails_is_in_both_places_and_none_is_lost(site: Site) -> None:
    event = json.dumps(site.aws.state_change("i-0abc", "running"))
    site.send(event, to=site.dead_letter_queue_url)

    def refuse(service: str, operation: str, _params: object) -> AwsError | None:
        return unavailable() if operation == "DeleteMessageBatch" else None

    with site.aws.fault(refuse, everyone=True):
        ran = site.operator("dead-letters", "resend", "--all")
    assert ran.status == 1
    assert "still a dead letter too, which is harmless" in ran.out
    assert [m["body"] for m in site.poller.messages(NAME)] == [event]
    assert [(m["body"], m["visible_in_seconds"]) for m in site.dead()] == [(event, 0)]


def test_one_that_cannot_be_sent_stays(site: Site) -> None:
    site.send(json.dumps(site.aws.state_change("i-0abc", "running")), to=site.dead_letter_queue_url)
    lost = site.aws.fault(lambda _, name, __: Drop() if name == "SendMessageBatch" else None, everyone=True)
    with lost:
        ran = site.operator("dead-letters", "resend", "--all")
    assert ran.status == 1
    assert "sqs:SendMessage" in ran.err
    assert [m["visible_in_seconds"] for m in site.dead()] == [0]


def test_what_somebody_else_has_taken_is_told(site: Site) -> None:
    site.send("{}", to=site.dead_letter_queue_url)
    site.aws.client("sqs").receive_message(QueueUrl=site.dead_letter_queue_url, VisibilityTimeout=60)
    ran = site.operator("dead-letters", "list")
    assert ran.status == 0
    assert "About 1 more are taken by somebody else just now" in ran.out


def test_a_list_that_is_ended_in_the_middle_gives_back_what_it_has_taken(site: Site) -> None:
    sent = site.send(*(json.dumps({"number": number}) for number in range(12)), to=site.dead_letter_queue_url)
    received = threading.Event()

    def hang_at_the_second(_service: str, operation: str, _parameters: object) -> Hang | None:
        if operation != "ReceiveMessage":
            return None
        if site.aws.calls["sqs:ReceiveMessage"] < 2:
            return None
        received.set()
        return Hang(30)

    site.aws.reset_calls()
    with site.aws.fault(hang_at_the_second, everyone=True):
        command = subprocess.Popen(
            [sys.executable, str(ROOT / "operator"), *site.arguments, "dead-letters", "list"],
            env={**os.environ, **site.aws.environ()},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        assert received.wait(30)
        assert any(message["visible_in_seconds"] > 0 for message in site.dead())
        command.terminate()
        out, _ = command.communicate(timeout=30)
    assert (command.returncode, out) == (130, b"")
    assert sorted(m["id"] for m in site.dead() if m["visible_in_seconds"] == 0) == sorted(sent)
