"""Runs the function cold: a new process handles one event.

The process runs this file as a program. It gets the secrets from its parent instead of the sealed bundle.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

SOURCES = Path(__file__).resolve().parent.parent / "lambda" / "src"


@dataclass(frozen=True)
class Handled:
    """The answer, and the process's CPU seconds until it was ready for the event and until it answered."""

    answer: Any
    ready: float
    cpu: float


def handle(
    event: Any, config: Mapping[str, Any], secrets: Mapping[str, str], aws: Mapping[str, str], code: Path = SOURCES
) -> Handled:
    """Handles an event with a cold function.

    Args:
        aws: boto3's environment variables.
        code: the directory to import the function from: the sources or an unpacked package.

    Raises:
        RuntimeError: the function failed.
    """
    environment = {
        "PATH": os.environ["PATH"],
        "PYTHONPATH": str(code),
        "POWERTOOLS_SERVICE_NAME": "bench",
        "DECOMMISSION_CONFIG": json.dumps(config),
        "BENCH_SECRETS": json.dumps(secrets),
        **aws,
    }
    done = subprocess.run(
        [sys.executable, __file__],
        input=json.dumps(event),
        capture_output=True,
        text=True,
        env=environment,
        timeout=900,
        check=False,
    )
    if done.returncode:
        raise RuntimeError(f"the function failed: {done.stdout[-1000:]}{done.stderr[-2000:]}")
    return Handled(**json.loads(done.stdout.splitlines()[-1]))  # the last line; the function's log comes before it


def main() -> None:
    """Runs in the new process."""
    from ec2_decommission import application as made  # noqa: PLC0415  # only in the new process
    from ec2_decommission.clients import aws  # noqa: PLC0415
    from ec2_decommission.deadline import Deadline  # noqa: PLC0415

    aws.READ_TIMEOUT_SECONDS = 60  # moto is slow with a transaction of 100 items
    secrets = json.loads(os.environ["BENCH_SECRETS"])
    vars(made)["SecretBundle"] = lambda *_, **__: secrets
    application = made.make_application()
    ready = time.process_time()
    answer = application.handle(json.load(sys.stdin), Deadline.after(900), "bench")
    print(json.dumps({"answer": answer, "ready": ready, "cpu": time.process_time()}), flush=True)


if __name__ == "__main__":
    main()
