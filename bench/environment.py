"""One execution environment of the function: a process of its own, which handles one event after the other.

Run as a program it is that process: it reads a line of JSON with the path of an event, handles it, and answers with a
line of JSON. It runs the function from the sources; secrets come from the parent, and not out of a bundle.
"""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

ROOT = Path(__file__).resolve().parent.parent


@dataclass(frozen=True)
class Handled:
    """What came of an event; times in seconds, memory in MB (the most so far)."""

    seconds: float
    cpu_seconds: float
    peak_memory: float
    answer: Any


class Environment:
    """The process, seen from outside."""

    def __init__(
        self,
        config: Mapping[str, Any],
        secrets: Mapping[str, str],
        aws: Mapping[str, str],
        directory: Path,
    ) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        self._event = directory / "event.json"
        self._log = (directory / "function.log").open("wb")
        self._process = subprocess.Popen(
            [sys.executable, __file__],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._log,
            env={
                "PATH": os.environ["PATH"],
                "PYTHONPATH": f"{ROOT / 'lambda/src'}:{ROOT}",
                "POWERTOOLS_SERVICE_NAME": "bench",
                "POWERTOOLS_LOG_LEVEL": "INFO",
                "DECOMMISSION_CONFIG": json.dumps(config),
                "BENCH_SECRETS": json.dumps(secrets),
                **aws,
            },
        )

    def handle(self, event: Any) -> Handled:
        """Lets the function handle an event; raises RuntimeError where it fails."""
        if self._process.stdin is None or self._process.stdout is None:
            raise RuntimeError("the process has no pipes")
        self._event.write_text(json.dumps(event))
        self._process.stdin.write(f"{json.dumps(str(self._event))}\n".encode())
        self._process.stdin.flush()
        line = self._process.stdout.readline()
        if not line:
            raise RuntimeError(f"the function's process ended; see {self._log.name}")
        answer = json.loads(line)
        if "error" in answer:
            raise RuntimeError(f"{answer['error']}; see {self._log.name}")
        return Handled(**answer)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._process.stdin:
            self._process.stdin.close()
        try:
            self._process.wait(10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        if self._process.stdout:
            self._process.stdout.close()
        self._log.close()


def main() -> None:
    """The process itself."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what the function logs goes to its log
    from ec2_decommission import application as made  # noqa: PLC0415  # in the process only
    from ec2_decommission.clients import aws  # noqa: PLC0415
    from ec2_decommission.deadline import Deadline  # noqa: PLC0415

    aws.READ_TIMEOUT_SECONDS = 60  # moto takes its time over a transaction of a hundred items
    secrets = json.loads(os.environ["BENCH_SECRETS"])
    vars(made)["SecretBundle"] = lambda *_, **__: secrets
    application = None
    for line in sys.stdin:
        event = json.loads(Path(json.loads(line)).read_text())
        begin, cpu = time.monotonic(), time.process_time()
        try:
            application = application or made.make_application()
            answer = application.handle(event, Deadline.after(900), "bench")
        except Exception as error:  # told to the parent
            told: dict[str, Any] = {"error": f"{type(error).__name__}: {error}"}
        else:
            told = {
                "seconds": time.monotonic() - begin,
                "cpu_seconds": time.process_time() - cpu,
                "peak_memory": peak_memory(),
                "answer": answer,
            }
        print(json.dumps(told), file=answers, flush=True)


def peak_memory() -> float:
    """The most memory that this process has had, in MB."""
    with suppress(OSError):  # Linux; getrusage would tell the parent's, if that had more
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) / 1024
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (1024 * 1024 if sys.platform == "darwin" else 1024)


if __name__ == "__main__":
    main()
