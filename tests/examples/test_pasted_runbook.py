"""Each block of the runbook runs as pasted, with the real AWS CLI, for every example."""

from __future__ import annotations

import json
import os
import pty
import re
import subprocess
import sys
import termios
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from unittest.mock import patch

import pytest
from moto.ec2.models import ec2_backends
from moto.sqs.models import sqs_backends

from testbed.aws import AwsError
from testbed.aws_cli import AwsCli
from tests.deployed.conftest import report_of
from tests.examples.conftest import ROOT, Applied

pytestmark = [pytest.mark.servers, pytest.mark.timeout(900)]

RUNBOOK = (ROOT / "docs" / "runbook.md").read_text()
PAGES = re.split(r"^## (.+)$", RUNBOOK, flags=re.MULTILINE)[1:]
BLOCKS = {
    heading: re.findall(r"^```sh\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    for heading, text in zip(PAGES[::2], PAGES[1::2], strict=True)
}
# The functions of the examples. Those with a zone have it under their name.
WITH_ZONE = ("minimal", "existing-fleet", "prebuilt", "result-events", "left", "right")
NAMES = (*WITH_ZONE, "custom-step", "nothing-on")
# What the blocks name.
WEB_1, LOST = "i-0123456789abcdef0", "i-0fedcba9876543210"
HOST, ZONE_ID = "web-1.example.internal", "Z0123456789ABCDEFGHIJ"
OTHER = "lost-1.example.internal"


class Shell:
    """A shell in a checkout, with the AWS CLI on PATH. Its input is a terminal, and `sleep` does not wait."""

    def __init__(self, name: str, applied: Applied, cli: AwsCli, directory: Path) -> None:
        self.name, self.left = name, {block for page in BLOCKS.values() for block in page}
        self._block, self._errors = directory / "block", directory / "errors"
        (directory / "sleep").symlink_to("/bin/true")
        stack = applied.stacks["minimal"]
        path = [directory, cli.folder, Path(sys.executable).parent, os.environ["PATH"]]
        self._terminal, end = pty.openpty()
        modes = termios.tcgetattr(end)
        modes[3] &= ~termios.ECHO
        termios.tcsetattr(end, termios.TCSANOW, modes)
        with self._errors.open("wb") as errors:
            self._process = subprocess.Popen(
                ["sh", "-eu"],
                stdin=end,
                stdout=subprocess.PIPE,
                stderr=errors,
                text=True,
                cwd=ROOT,
                env={
                    **stack._environment(),
                    "PATH": ":".join(map(str, path)),
                    "TF_CLI_ARGS_apply": f"-auto-approve -lock=false -state={stack.state}",
                },
            )
        os.close(end)

    def paste(self, page: str, number: int = 0, *, refused: str = "", folder: Path = ROOT, instead: str = "") -> str:
        """What the block prints. No command fails or writes to standard error, unless it is `refused`.

        Questions are answered with yes. `instead` stands in for the option --no-enabled.
        """
        block = BLOCKS[page][number]
        self.left.discard(block)
        text = block.replace("name=ec2-decommission", f"name={self.name}")
        text = text.replace("--no-enabled", instead or "--no-enabled")
        self._block.write_text(f"cd {folder}\nset {'+' if refused else '-'}e\n{text}\nset -e\n")
        already = self._errors.stat().st_size
        # An answer without a question is a command that does nothing.
        os.write(self._terminal, f"y() {{ :; }}\n. {self._block}; echo; echo END\ny\n".encode())
        assert self._process.stdout
        lines = [""]
        while lines[-1] != "END\n" and (line := self._process.stdout.readline()):
            lines.append(line)
        ended, printed = lines[-1] == "END\n", "".join(lines[:-1])
        errors = re.sub(r".*\[y/N\] ", "", self._errors.read_text()[already:])
        assert ended, f"{text}\n{printed}\n{errors}"
        assert (refused in " ".join(errors.split())) if refused else not errors, f"{text}\n{printed}\n{errors}"
        return printed

    def close(self) -> None:
        os.close(self._terminal)
        self._process.communicate(timeout=60)


@pytest.fixture(scope="module")
def cli(applied: Applied, tmp_path_factory: pytest.TempPathFactory) -> Iterator[AwsCli]:
    """web-1 ended, and no function was allowed to clean up. lost-1 ended, and its event was lost."""
    aws, functions, fleet = applied.platform.aws, applied.platform.functions, applied.stacks["existing-fleet"]
    if fleet.variables.get("dry_run", True):
        fleet.variables["dry_run"] = False
        fleet.apply()
    for instance_id, host in ((WEB_1, HOST), (LOST, OTHER)):
        with patch("moto.ec2.models.instances.random_instance_id", return_value=instance_id):
            instance = aws.launch(host, emit=False)
        launched = datetime.now(UTC) - timedelta(hours=1)
        ec2_backends[aws.account][aws.region].get_instance(instance_id).launch_time = launched
        aws.emit(aws.state_change(instance_id, "running"))
        for zone in WITH_ZONE:
            applied.record(zone, host, instance.private_ip)
    for name in NAMES:
        applied.deliver(name)
    aws.terminate(WEB_1)
    denied = AwsError("AccessDenied", "User is not authorized to perform this", 403)
    with aws.fault(lambda service, *_: denied if service in ("route53", "cloudwatch") else None):
        for name in NAMES:
            applied.deliver(name)
    with aws.fault(lambda service, *_: denied if service == "ec2" else None):
        for name in NAMES:
            functions.invoke(name, {"sweep": True})
    with aws.fault(lambda service, *_: functions.kill("minimal") if service == "ec2" else None):
        functions.invoke("minimal", {"sweep": True})
    aws.terminate(LOST, emit=False)
    with patch("moto.route53.models.create_route53_zone_id", return_value=ZONE_ID):
        applied.platform.route53.create_hosted_zone(Name="example.internal", CallerReference="pasted")
    with AwsCli(aws.environ(), run_directory=tmp_path_factory.mktemp("cli")) as started:
        yield started


def bury(applied: Applied, name: str) -> None:
    """The queue's messages have had all their tries; a function without a rule gets one that was undeliverable."""
    aws, poller = applied.platform.aws, applied.platform.poller
    queues = sqs_backends[aws.account][aws.region].queues
    for message in queues[name]._messages:
        message.approximate_receive_count = 1000
    poller.skip_delays(name)
    applied.deliver(name)
    if name == "nothing-on":
        body = json.dumps(aws.state_change(WEB_1, "terminated"))
        sqs_backends[aws.account][aws.region].send_message(f"{name}-dead-letters", body)


def logged(applied: Applied, name: str) -> list[str]:
    """The errors that the function wrote."""
    runs = [ran for ran in applied.platform.functions.invocations if ran.function_name == name]
    return [line["message"] for ran in runs for line in ran.json_logs() if line.get("level") == "ERROR"]


@pytest.mark.parametrize("name", NAMES)
def test_each_block_runs_as_pasted(name: str, applied: Applied, cli: AwsCli, tmp_path: Path) -> None:
    shell = Shell(name, applied, cli, tmp_path)
    try:
        look_at_the_sweep(shell, applied)
        redrive(shell, applied)
        look_at_the_function(shell)
        put_back(shell, applied)
    finally:
        shell.close()
    # Terraform is slow, and knows only one of the root modules as the runbook does.
    assert not [block for block in shell.left if name == "minimal" or "terraform" not in block]


def look_at_the_sweep(shell: Shell, applied: Applied) -> None:
    """The first look, then the pages of the sweep. The function without an inventory refuses to sweep."""
    off = "the inventory that it needs, is off" if shell.name == "nothing-on" else ""
    shell.paste("Before you type", 0)
    first = shell.paste("Before you type", 1)
    assert f':{shell.name}"' in first
    errors = [message for message in logged(applied, shell.name) if message.startswith("failed: ")]
    assert len(errors) >= (0 if off else 2)
    assert all(message in first for message in errors)
    assert f"function      {shell.name} in" in shell.paste("Before you type", 2)
    braked = shell.paste("sweep-brake")
    assert '"Name": "terminated"' in braked
    assert (LOST in braked) == (not off)
    assert (" denies " in shell.paste("sweep-failed")) == (not off)
    accepted = shell.paste("Accept what the brake holds back", 0, refused=off)
    assert (OTHER in accepted) == (not off)
    assert '"state": "sweep"' in shell.paste("Accept what the brake holds back", 1)
    assert "AdmitTheRules" in shell.paste("undelivered", 0)
    assert "Sweep of" in shell.paste("undelivered", 1, refused=off)


def redrive(shell: Shell, applied: Applied) -> None:
    """The event of web-1 becomes a dead letter, is redriven, and is handled."""
    tried = shell.name != "nothing-on"
    asked = shell.paste("unfinished", 0)
    assert f'"instance_id": "{WEB_1}"' in asked
    assert ('"action": "delete"' in asked) == (shell.name in WITH_ZONE)
    assert (f"{WEB_1}\t" in asked) == tried
    assert (" denies " in shell.paste("configuration")) == tried
    bury(applied, shell.name)
    letters = shell.paste("dead-letters", 0)
    assert f'\\"{WEB_1}\\"' in letters
    assert (f"{WEB_1}\tfailed: " in letters) == tried
    applied.platform.poller.skip_delays(f"{shell.name}-dead-letters")  # 30 seconds later
    assert '"Status": "COMPLETED"' in shell.paste("dead-letters", 1)
    assert '"ApproximateNumberOfMessages": "0"' in shell.paste("dead-letters", 2)
    report = report_of(applied.deliver(shell.name), WEB_1)
    assert [step["status"] for step in report["steps"] if step["step"] == "route53"] == ["done"] * (
        shell.name in WITH_ZONE
    )
    for zone in WITH_ZONE:
        assert zone != shell.name or not {"web-1", "lost-1"} & set(applied.records(zone))
    assert WEB_1 in shell.paste("unfinished", 1)


def look_at_the_function(shell: Shell) -> None:
    assert "\tEnabled\t" in shell.paste("oldest-message")
    errors = shell.paste("errors")
    assert ("Runtime exited" in errors) == (shell.name == "minimal")
    used, of, longest = map(float, errors.strip().splitlines()[-1].split("\t"))
    assert 0 < used < of
    assert longest > 0
    assert '"UnreservedConcurrentExecutions": 1000' in shell.paste("throttles")
    assert '"State": "Disabled"' in shell.paste("Stop it at once")
    assert '"State": "Enabled"' in shell.paste("Stop it at once", instead="--enabled")
    if shell.name == "minimal":
        applied = shell.paste("Force a rebuild", 0, folder=ROOT / "examples" / "minimal")
        assert "aws_lambda_function.this: Modifications complete" in applied
    assert '"Successful"' in shell.paste("Force a rebuild", 1)


def put_back(shell: Shell, applied: Applied) -> None:
    recorded, zoned = shell.name != "nothing-on", shell.name in WITH_ZONE
    removed = shell.paste("A wrong deletion", 0, refused="" if recorded else "ResourceNotFoundException")
    assert (f"A {HOST}.{shell.name}.internal." in removed) == zoned
    assert (f"{HOST}.{shell.name}.internal" in shell.paste("A wrong deletion", 1)) == zoned
    shell.paste("A wrong deletion", 2, refused="needs the module's input audit")
    assert '"action": "DELETE"' in shell.paste("A wrong deletion", 3)
    change = {"Name": HOST, "Type": "A", "TTL": 60, "ResourceRecords": [{"Value": "10.0.0.5"}]}
    applied.platform.route53.change_resource_record_sets(
        HostedZoneId=ZONE_ID, ChangeBatch={"Changes": [{"Action": "DELETE", "ResourceRecordSet": change}]}
    )
