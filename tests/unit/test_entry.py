"""The function's entry, imported by a fresh interpreter as Lambda imports it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from ec2_decommission import entry
from ec2_decommission.errors import ConfigurationError
from tests.unit.test_application import CONFIG, Context

SOURCE = Path(__file__).resolve().parents[2] / "lambda" / "src"
FULL = {
    **CONFIG,
    "consul": {"url": "http://127.0.0.1:1"},
    "inventory": {"table_name": "t"},
    "queue": {"url": "https://sqs.us-east-1.amazonaws.com/123456789012/q"},
    "sweep": {"adopt": ["chef"]},
    "custom_steps": {"own": {}},
}
# Python tells what is opened, sent or looked up: https://docs.python.org/3/library/audit_events.html
INIT = """
import json, re, sys

sent, models = [], set()

def watch(event, arguments):
    if event in ("socket.connect", "socket.getaddrinfo"):
        sent.append(event)
    model = event == "open" and re.search(r"botocore/data/([^/]+)/[^/]+/service-2", str(arguments[0]))
    if model:
        models.add(model[1])

sys.addaudithook(watch)

from ec2_decommission import entry

class Context:
    aws_request_id = "request-1"

    def get_remaining_time_in_millis(self):
        return 60_000
"""


def run(program: str, config: Any, **environment: str) -> Any:
    """What the program, appended to the init, prints last."""
    environ = {
        "PATH": os.environ["PATH"],
        "PYTHONPATH": str(SOURCE),
        "PYTHONDONTWRITEBYTECODE": "1",
        "DECOMMISSION_CONFIG": json.dumps(config),
        # Lambda gives the role's credentials and the region in the environment.
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_ACCESS_KEY_ID": "testing",
        "AWS_SECRET_ACCESS_KEY": "testing",
        **environment,
    }
    code = f"{INIT}\n{program}"
    done = subprocess.run(
        [sys.executable, "-c", code], env=environ, capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def test_the_init_makes_the_clients_that_every_event_needs_and_sends_nothing() -> None:
    assert run("print(json.dumps([entry._start.cache_info().currsize == 1, sorted(models), sent]))", FULL) == [
        True,
        ["dynamodb"],
        [],
    ]


def test_the_init_imports_nothing_that_only_some_events_need() -> None:
    imported = set(run("print(json.dumps(sorted(sys.modules)))", FULL))
    theirs = {"chef", "consul", "cryptography", "requests", "pkg_resources", "custom_steps"}
    own = {"sweep", "orphans", "custom_step", "clients.chef", "clients.consul", "steps.chef", "steps.consul"}
    own |= {"clients.governor", "clients.route53", "steps.route53"}
    assert {"boto3", "ec2_decommission.application"} <= imported
    assert not imported & (theirs | {f"ec2_decommission.{name}" for name in own})


# A configuration that is wrong


def test_invalid_configuration_fails_invocations_and_not_the_init() -> None:
    program = """
lines = []
batch = {"Records": [{"messageId": "a", "body": "{}"}, {"messageId": "b", "body": "x"}]}
for event in (batch, batch, {"instance_id": "i-0123456789abcdef0"}):
    try:
        lines.append(entry.handle(event, Context()))
    except Exception as error:
        lines.append(f"{type(error).__name__}: {error}")
print(json.dumps(lines))
"""
    returned = {"batchItemFailures": [{"itemIdentifier": "a"}, {"itemIdentifier": "b"}]}
    *batches, raised = run(program, {})
    assert batches == [returned, returned]
    assert raised.startswith("ConfigurationError: ")
    assert "name: expected" in raised


def test_unexpected_error_fails_the_invocation_and_not_the_init() -> None:
    program = """
try:
    entry.handle({"instance_id": "i-0123456789abcdef0"}, Context())
except Exception as error:
    print(json.dumps(type(error).__name__))
"""
    assert run(program, FULL, AWS_ENDPOINT_URL="no address") == "ValueError"


def test_a_wrong_configuration_returns_every_message(monkeypatch: pytest.MonkeyPatch) -> None:
    entry._start.cache_clear()
    monkeypatch.setenv("DECOMMISSION_CONFIG", "{}")
    batch = {"Records": [{"messageId": "a", "body": "{}"}, {"messageId": "b", "body": "x"}]}
    assert entry.handle(batch, Context()) == {"batchItemFailures": [{"itemIdentifier": "a"}, {"itemIdentifier": "b"}]}
    with pytest.raises(ConfigurationError, match="name: expected"):
        entry.handle({"instance_id": "i-0123456789abcdef0"}, Context())
