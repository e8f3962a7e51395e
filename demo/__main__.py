"""Runs the module end to end on this machine: `make demo`."""

from __future__ import annotations

import argparse
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import FrameType

ROOT = Path(__file__).resolve().parent.parent
RUN_DIRECTORY = ROOT / ".cache" / "demo"
PID_FILE = RUN_DIRECTORY / "demo.pid"
READY_FILE = RUN_DIRECTORY / "ready"
LOG_FILE = RUN_DIRECTORY / "demo.log"
SECRETS_FILE = RUN_DIRECTORY / "environment.sh"
START_LIMIT_SECONDS = 600
STOP_LIMIT_SECONDS = 30


def main() -> int:
    parser = argparse.ArgumentParser(prog="make demo", description=__doc__)
    parser.add_argument("--keep", action="store_true", help="leave the servers running, and print commands to try")
    parser.add_argument("--stop", action="store_true", help="stop a demo started with --keep")
    parser.add_argument(
        "--pictures", type=Path, metavar="DIRECTORY", help="write pictures of the terminal to this directory"
    )
    parser.add_argument("--serve", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.stop:
        return stop()
    if arguments.keep:
        return keep()
    return run(serve=arguments.serve, pictures=arguments.pictures)


def run(*, serve: bool, pictures: Path | None = None) -> int:
    """Runs the demo in this process, with `serve` until SIGTERM."""
    signal.signal(signal.SIGINT, _interrupted)
    signal.signal(signal.SIGTERM, _interrupted)
    try:
        return _run(serve=serve, pictures=pictures)
    except KeyboardInterrupt:
        print("The demo has stopped. None of its processes are running.", flush=True)
        return 130


def _interrupted(*_: int | FrameType | None) -> None:
    # Ctrl-C and SIGTERM both stop the servers on exit. A second signal must not interrupt that.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    os.write(sys.stdout.fileno(), b"\nStopping the demo and its servers.\n")  # print is not safe in a signal handler
    raise KeyboardInterrupt


def _run(*, serve: bool, pictures: Path | None) -> int:
    print("Starting the demo.", flush=True)
    # Imported here, because moto takes a second to import and --stop does not need it.
    from rich.console import Console  # noqa: PLC0415
    from rich.markup import escape  # noqa: PLC0415

    from demo.screen import Screen  # noqa: PLC0415
    from demo.story import DemoError, tell  # noqa: PLC0415
    from testbed.processes import ServerError  # noqa: PLC0415
    from testbed.terraform import TerraformError  # noqa: PLC0415
    from testbed.tools import ToolMissing  # noqa: PLC0415

    RUN_DIRECTORY.mkdir(parents=True, exist_ok=True)
    width = None if not pictures and (sys.stdout.isatty() or "COLUMNS" in os.environ) else 80
    console = Console(highlight=False, width=width, record=pictures is not None)
    try:
        tell(Screen(console), RUN_DIRECTORY, READY_FILE.touch if serve else None, pictures)
    except (DemoError, ServerError, TerraformError, ToolMissing) as error:
        console.print(f"\n[bold red]The demo failed:[/] {escape(str(error))}")
        console.print(f"Logs are in {RUN_DIRECTORY.relative_to(ROOT)}/.")
        return 1
    if left := [pid for pid in _children(os.getpid()) if _is_alive(pid)]:
        console.print(f"[bold red]Processes are still running:[/] {', '.join(map(str, left))}")
        return 1
    console.print("The servers have stopped. No processes are running.")
    return 0


def keep() -> int:
    """Starts the demo in a background process, and shows its output until the acts are over."""
    if _running() is not None:
        print("The demo is already running. To stop it, run `make demo-stop`.")
        return 1
    RUN_DIRECTORY.mkdir(parents=True, exist_ok=True)
    READY_FILE.unlink(missing_ok=True)
    environment = {**os.environ, "COLUMNS": str(shutil.get_terminal_size((80, 24)).columns)}
    if sys.stdout.isatty():
        environment["FORCE_COLOR"] = "1"  # its output goes through a file to the terminal
    with LOG_FILE.open("wb") as log:
        command = [sys.executable, "-m", "demo", "--serve"]
        process = subprocess.Popen(
            command,
            cwd=ROOT,
            env=environment,
            stdout=log,
            stderr=log,
            stdin=subprocess.DEVNULL,
            start_new_session=True,
        )
    PID_FILE.write_text(str(process.pid))
    try:
        return _shown(process)
    except KeyboardInterrupt:
        print()
        stop()
        return 130


def _shown(process: subprocess.Popen[bytes]) -> int:
    end = time.monotonic() + START_LIMIT_SECONDS
    with LOG_FILE.open(encoding="utf-8", errors="replace") as log:
        while True:
            ended, ready = process.poll() is not None, READY_FILE.exists()
            print(log.read(), end="", flush=True)
            if ended:
                PID_FILE.unlink(missing_ok=True)
                return process.returncode or 1
            if ready:
                return 0
            if time.monotonic() > end:
                log_file = LOG_FILE.relative_to(ROOT)
                print(f"The demo is not ready after {START_LIMIT_SECONDS} s. Log: {log_file}")
                stop()
                return 1
            time.sleep(0.2)


def stop() -> int:
    """Stops a demo started with `--keep`, and checks that none of its processes are running."""
    pid = _running()
    if pid is None:
        print("No demo is running.")
        return 0
    started = [pid, *_children(pid)]
    os.kill(pid, signal.SIGTERM)
    end = time.monotonic() + STOP_LIMIT_SECONDS
    while (left := [one for one in started if _is_alive(one)]) and time.monotonic() < end:
        time.sleep(0.1)
    for one in left:
        os.kill(one, signal.SIGKILL)
    for file in (PID_FILE, READY_FILE, SECRETS_FILE):
        file.unlink(missing_ok=True)
    if left:
        print(f"The demo did not stop within {STOP_LIMIT_SECONDS} s. Killed {len(left)} of its processes.")
        return 1
    print(f"The demo and its {len(started)} processes have stopped.")
    return 0


def _running() -> int | None:
    """The process id of a demo started with `--keep`; None if it has ended."""
    try:
        pid = int(PID_FILE.read_text())
    except (OSError, ValueError):
        return None
    # The process id may have been reused.
    return pid if "demo --serve" in _ps("-o", "args=", "-p", str(pid)) else None


def _children(pid: int) -> list[int]:
    pairs = [line.split() for line in _ps("-A", "-o", "pid=,ppid=").splitlines()]
    return [int(child) for child, parent in pairs if int(parent) == pid]


def _is_alive(pid: int) -> bool:
    """Whether the process is running. A zombie is not."""
    state = _ps("-o", "stat=", "-p", str(pid)).strip()
    return bool(state) and not state.startswith("Z")


def _ps(*arguments: str) -> str:
    return subprocess.run(["ps", *arguments], capture_output=True, text=True, check=False).stdout


if __name__ == "__main__":
    sys.exit(main())
