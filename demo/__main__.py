"""The main job on this machine, end to end: see `make demo`."""

from __future__ import annotations

import argparse
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

from rich.console import Console

from demo.story import Story

ROOT = Path(__file__).resolve().parent.parent
RUN_DIRECTORY = ROOT / ".cache" / "demo"
PID_FILE = RUN_DIRECTORY / "demo.pid"
READY_FILE = RUN_DIRECTORY / "ready"
LOG_FILE = RUN_DIRECTORY / "demo.log"
START_LIMIT_SECONDS = 600


def main() -> int:
    parser = argparse.ArgumentParser(prog="make demo", description=__doc__)
    parser.add_argument("--keep", action="store_true", help="leave everything running, and say how to look around")
    parser.add_argument("--stop", action="store_true", help="end what --keep left running")
    parser.add_argument("--serve", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.stop:
        return stop()
    if arguments.keep:
        return keep()
    console = Console(highlight=False, width=None if sys.stdout.isatty() else 118)
    # SIGTERM ends it as Ctrl-C does: every server is stopped on the way out.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    story = Story(console, RUN_DIRECTORY, keep=arguments.serve, ready_file=READY_FILE)
    return story.tell()


def keep() -> int:
    """Starts the demo in a process of its own, shows what it says, and leaves it when it is ready."""
    if _running() is not None:
        print("The demo is running already; `make demo-stop` ends it.")
        return 1
    RUN_DIRECTORY.mkdir(parents=True, exist_ok=True)
    READY_FILE.unlink(missing_ok=True)
    with LOG_FILE.open("wb") as log:
        command = [sys.executable, "-m", "demo", "--serve"]
        process = subprocess.Popen(
            command, cwd=ROOT, stdout=log, stderr=log, stdin=subprocess.DEVNULL, start_new_session=True
        )
    PID_FILE.write_text(str(process.pid))
    end = time.monotonic() + START_LIMIT_SECONDS
    shown = 0
    while True:
        text = LOG_FILE.read_text(errors="replace")
        print(text[shown:], end="", flush=True)
        shown = len(text)
        if process.poll() is not None:
            PID_FILE.unlink(missing_ok=True)
            return process.returncode or 1
        if READY_FILE.exists():
            print(LOG_FILE.read_text(errors="replace")[shown:], end="", flush=True)
            return 0
        if time.monotonic() > end:
            print(f"The demo is not ready after {START_LIMIT_SECONDS} s; its log is {LOG_FILE.relative_to(ROOT)}.")
            stop()
            return 1
        time.sleep(0.2)


def stop() -> int:
    """Ends the demo that `--keep` left, and waits for it."""
    pid = _running()
    if pid is None:
        print("No demo is running.")
        return 0
    os.kill(pid, signal.SIGTERM)
    for _ in range(300):
        if _running() is None:
            print("The demo has ended.")
            return 0
        time.sleep(0.2)
    os.kill(pid, signal.SIGKILL)
    PID_FILE.unlink(missing_ok=True)
    print("The demo did not end in a minute and was killed.")
    return 1


def _running() -> int | None:
    """The process id of a demo that was kept; None where it has ended."""
    try:
        pid = int(PID_FILE.read_text())
        os.kill(pid, 0)
        command = subprocess.run(
            ["ps", "-o", "args=", "-p", str(pid)], capture_output=True, text=True, check=False
        ).stdout
    except (OSError, ValueError):
        PID_FILE.unlink(missing_ok=True)
        return None
    if "demo --serve" not in command:  # the number is another's now
        PID_FILE.unlink(missing_ok=True)
        return None
    return pid


if __name__ == "__main__":
    sys.exit(main())
