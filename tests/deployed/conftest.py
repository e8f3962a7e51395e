"""The module, applied to a strict AWS with real Consul, Chef and Vault servers. All tests here share it."""

from __future__ import annotations

import platform as machine
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from testbed.lambda_service import Batch, DeployedInvocation
from testbed.platform import Member, Platform
from testbed.terraform import Stack

ROOT = Path(__file__).resolve().parent.parent.parent
NAME = "ec2-decommission"
ARCHITECTURE = {"x86_64": "x86_64", "aarch64": "arm64", "arm64": "arm64"}[machine.machine()]


class Deployed:
    """The deployed function and everything around it."""

    def __init__(self, platform: Platform, stack: Stack) -> None:
        self.platform = platform
        self.stack = stack
        self._names = 0

    def name(self, prefix: str = "web") -> str:
        """A name that no other test uses."""
        self._names += 1
        return f"{prefix}-{self._names}"

    def deliver(self) -> list[Batch]:
        """Delivers the queue's visible messages to the function until none are left."""
        return self.platform.poller.drain()

    def terminate(self, member: Member) -> list[Batch]:
        """Kills the member's agent, terminates the instance, and delivers the event."""
        self.platform.kill(member)
        return self.deliver()

    def redrive(self) -> int:
        """Redrives the dead letters. Returns their number."""
        sqs, outputs = self.platform.aws.client("sqs"), self.stack.outputs()
        source, target = (
            sqs.get_queue_attributes(QueueUrl=outputs[name], AttributeNames=["QueueArn"])["Attributes"]["QueueArn"]
            for name in ("dead_letter_queue_url", "queue_url")
        )
        sqs.start_message_move_task(SourceArn=source, DestinationArn=target)
        [task] = sqs.list_message_move_tasks(SourceArn=source)["Results"]
        return int(task["ApproximateNumberOfMessagesMoved"])

    def invoke(self, payload: Any) -> DeployedInvocation:
        """Calls the function as an operator does."""
        return self.platform.functions.invoke(NAME, payload)

    def decommission(self, instance_id: str, *, dry_run: bool | None = None) -> dict[str, Any]:
        """Makes an operator's call and returns the report."""
        payload: dict[str, Any] = {"instance_id": instance_id}
        if dry_run is not None:
            payload["dry_run"] = dry_run
        ran = self.invoke(payload)
        assert ran.error is None, ran.error
        report: dict[str, Any] = ran.result
        return report

    def things(self, name: str) -> list[str]:
        """The objects of that name in the systems."""
        return [trace.thing for trace in self.platform.traces() if trace.owner == name]


def report_of(batches: list[Batch], instance_id: str) -> dict[str, Any]:
    """The last report of an instance in these batches' logs."""
    reports = [
        line["report"]
        for batch in batches
        for line in batch.invocation.json_logs()
        if line.get("report", {}).get("instance_id") == instance_id
    ]
    assert reports, [line for batch in batches for line in batch.invocation.logs]
    report: dict[str, Any] = reports[-1]
    return report


def step_of(report: dict[str, Any], name: str) -> dict[str, Any]:
    """One step of a report."""
    step: dict[str, Any] = next(step for step in report["steps"] if step["step"] == name)
    return step


@pytest.fixture(scope="session")
def platform(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Platform]:
    with Platform(tmp_path_factory.mktemp("platform")) as started:
        yield started


@pytest.fixture(scope="session")
def deployed(platform: Platform, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Deployed]:
    """Applies `examples/complete`. Destroys it at the end, and checks that nothing is left."""
    stack = Stack(
        ROOT / "examples" / "complete",
        platform.aws,
        tmp_path_factory.mktemp("terraform"),
        variables=platform.example_variables(function={"architecture": ARCHITECTURE}),
        environment={"VAULT_TOKEN": platform.vault_token()},
    )
    stack.apply()
    yield Deployed(platform, stack)
    stack.destroy()
    assert stack.resources() == []
