"""Every block of the runbook runs as pasted, with the real AWS CLI, for every applied example."""

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
from typing import Any
from unittest.mock import patch

import pytest
from moto.ec2.models import ec2_backends
from moto.sqs.models import sqs_backends

from testbed.aws import AwsError
from testbed.aws_cli import AwsCli
from tests.examples.conftest import ROOT, Applied

pytestmark = [pytest.mark.servers, pytest.mark.timeout(900)]

RUNBOOK = (ROOT / "docs" / "runbook.md").read_text()
# By the example's function: those with a DNS zone have it under their name.
ZONES = ("minimal", "existing-fleet", "prebuilt", "result-events", "left", "right")
NAMES = (*ZONES, "custom-step", "nothing-on")
# What the blocks name.
WEB_1, WEB_2 = "i-0123456789abcdef0", "i-0fedcba9876543210"
HOST, ZONE_ID = "web-1.example.internal", "Z0123456789ABCDEFGHIJ"
END = "--- end of the block ---"


def blocks() -> dict[str, list[str]]:
    """The shell blocks by the page's heading."""
    parts = re.split(r"^##? (.+)$", RUNBOOK, flags=re.MULTILINE)[1:]
    return {
        heading: re.findall(r"^```sh\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
        for heading, text in zip(parts[::2], parts[1::2], strict=True)
    }


class Shell:
    """A shell on a terminal, in a checkout, with the AWS CLI on PATH. Its output goes to pipes and files."""

    def __init__(self, applied: Applied, cli: AwsCli, directory: Path) -> None:
        self.pasted: set[str] = set()
        self._block, self._errors = directory / "block", directory / "errors"
        self._terminal, end = pty.openpty()
        modes = termios.tcgetattr(end)
        modes[3] &= ~termios.ECHO
        termios.tcsetattr(end, termios.TCSANOW, modes)
        sleep = directory / "sleep"
        sleep.write_text("#!/bin/sh\n")
        sleep.chmod(0o755)
        path = [str(directory), str(cli.folder), str(Path(sys.executable).parent), "/usr/bin", "/bin"]
        with self._errors.open("wb") as errors:
            self._process = subprocess.Popen(
                ["sh", "-eu"],
                stdin=end,
                stdout=subprocess.PIPE,
                stderr=errors,
                text=True,
                cwd=ROOT,
                env={**applied.platform.aws.environ(), "PATH": ":".join(path), "HOME": str(directory)},
            )
        os.close(end)

    def paste(self, block: str, answer: str = "") -> str:
        """What the block prints. No command of it fails, and none writes to standard error."""
        self.pasted.add(block)
        self._block.write_text(block)
        already = self._errors.stat().st_size
        os.write(self._terminal, f". {self._block}; echo; echo '{END}'\n{answer}".encode())
        assert self._process.stdout
        lines = list(iter(self._process.stdout.readline, ""))if False else []
        for line in self._process.stdout:
            if line.rstrip() == END:
                break
            lines.append(line)
        else:
            lines.append("the shell ended")
        self.errors = self._errors.read_text()[already:]
        with open(f"/tmp/paste-transcript-{os.environ.get('PASTE_NAME', '')}.txt", "a") as f:
            f.write(f"$ {block}\n{''.join(lines)}\nERR: {self.errors}\n\n")
        assert lines[-1:] != ["the shell ended"], f"{block}\n{''.join(lines)}\n{self.errors}"
        return "".join(lines)

    def close(self) -> None:
        os.close(self._terminal)
        self._process.kill()
        self._process.wait()
        self._process.stdout.close()


def denied() -> AwsError:
    return AwsError("AccessDenied", "User is not authorized to perform this", 403)


@pytest.fixture(scope="module")
def scene(applied: Applied, tmp_path_factory: pytest.TempPathFactory) -> Iterator[AwsCli]:
    """web-1 ended, and no function may remove what it left. web-2 ended, and nobody told them."""
    aws = applied.platform.aws
    for instance_id, host in ((WEB_1, HOST), (WEB_2, HOST.replace("1", "2"))):
        with patch("moto.ec2.models.instances.random_instance_id", return_value=instance_id):
            instance = aws.launch(host, emit=False)
        launched = datetime.now(UTC) - timedelta(hours=1)
        ec2_backends[aws.account][aws.region].get_instance(instance_id).launch_time = launched
        aws.emit(aws.state_change(instance_id, "running"))
        for zone in ZONES:
            applied.record(zone, host, instance.private_ip)
    with patch("moto.route53.models.create_route53_zone_id", return_value=ZONE_ID):
        applied.platform.route53.create_hosted_zone(Name="example.internal", CallerReference="pasted")
    for name in NAMES:
        applied.deliver(name)
    aws.terminate(WEB_1)
    aws.terminate(WEB_2, emit=False)
    with aws.fault(lambda service, *_: denied() if service in ("route53", "cloudwatch") else None):
        for name in NAMES:
            applied.deliver(name)
    with aws.fault(lambda service, *_: denied() if service == "ec2" else None):
        for name in NAMES:
            applied.platform.functions.invoke(name, {"sweep": True})
    with aws.fault(lambda service, *_: applied.platform.functions.kill("minimal") if service == "ec2" else None):
        applied.platform.functions.invoke("minimal", {"sweep": True})
    with AwsCli(aws.environ(), run_directory=tmp_path_factory.mktemp("cli")) as cli:
        yield cli


@pytest.mark.parametrize("name", NAMES)
def test_every_block_runs_as_pasted(name: str, applied: Applied, scene: AwsCli, tmp_path: Path) -> None:
    os.environ["PASTE_NAME"] = name
    shell = Shell(applied, scene, tmp_path)
    try:
        for heading, found in blocks().items():
            for block in found:
                if "terraform apply" in block: continue
                try:
                    shell.paste(block.replace("name=ec2-decommission", f"name={name}"), answer="y\n" if "python3" in block and "decommission i-" in block else "")
                except AssertionError as e:
                    print(e)
                    shell.close()
                    shell = Shell(applied, scene, tmp_path)
                    shell.paste(blocks()["Before you type"][0].replace("name=ec2-decommission", f"name={name}"))
    finally:
        shell.close()
