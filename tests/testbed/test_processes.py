"""The testbed starts, watches and ends its processes as it says."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import requests

from testbed.processes import Server, ServerError, free_port, free_ports, port_answers, wait_until

REPOSITORY = Path(__file__).resolve().parents[2]


def web_server(run_directory: Path, port: int) -> Server:
    return Server(
        "web",
        [sys.executable, "-m", "http.server", str(port), "--bind", "127.0.0.1"],
        run_directory=run_directory,
        ready=lambda: port_answers(port),
    )


@pytest.fixture
def port() -> int:
    return free_port()


@pytest.fixture
def server(tmp_path: Path, port: int) -> Iterator[Server]:
    with web_server(tmp_path, port) as server:
        yield server


def is_running(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    # One that ended and that nobody has waited for still has an id.
    status = subprocess.run(["ps", "-o", "stat=", "-p", str(pid)], capture_output=True, text=True, check=False)
    return not status.stdout.strip().startswith("Z") and bool(status.stdout.strip())


def test_ports_differ() -> None:
    assert len(set(free_ports(50))) == 50


def test_port_of_a_server_is_not_free(server: Server, port: int) -> None:
    assert port not in free_ports(50)


def test_runs_until_it_is_stopped(server: Server, port: int) -> None:
    assert server.running
    assert requests.get(f"http://127.0.0.1:{port}/", timeout=5).ok
    server.stop()
    assert not server.running
    assert not is_running(server.pid)
    assert not port_answers(port)


def test_starts_again_on_its_port_and_keeps_its_log(server: Server, port: int) -> None:
    server.kill()
    assert server.exit_status == -signal.SIGKILL
    server.start()
    assert port_answers(port)
    assert server.log_tail().count("Serving HTTP") <= 2


def test_paused_accepts_and_does_not_answer(server: Server, port: int) -> None:
    server.pause()
    with pytest.raises(requests.exceptions.ReadTimeout):
        requests.get(f"http://127.0.0.1:{port}/", timeout=0.5)
    server.resume()
    assert requests.get(f"http://127.0.0.1:{port}/", timeout=5).ok


def test_paused_is_stopped_without_delay(server: Server) -> None:
    server.pause()
    begin = time.monotonic()
    server.stop()
    assert time.monotonic() - begin < 3
    assert not server.running


def test_early_end_names_part_log_and_last_lines(tmp_path: Path) -> None:
    server = Server(
        "bad",
        [sys.executable, "-c", "print('the reason'); raise SystemExit(3)"],
        run_directory=tmp_path,
        ready=lambda: False,
    )
    with pytest.raises(ServerError, match=r"bad ended with status 3 before it was ready") as caught:
        server.start()
    assert "the reason" in str(caught.value)
    assert str(tmp_path / "bad.log") in str(caught.value)


def test_missing_program_is_told(tmp_path: Path) -> None:
    server = Server("none", ["/no/such/program"], run_directory=tmp_path, ready=lambda: False)
    with pytest.raises(ServerError, match=r"(?s)none.*No such file"):
        server.start()


def test_server_that_never_gets_ready_is_stopped(tmp_path: Path) -> None:
    server = Server(
        "slow",
        [sys.executable, "-c", "import time; time.sleep(60)"],
        run_directory=tmp_path,
        ready=lambda: False,
        ready_timeout=0.3,
    )
    with pytest.raises(ServerError, match="was not ready within"):
        server.start()
    assert not server.running


def test_process_that_ignores_the_signal_is_killed(tmp_path: Path) -> None:
    code = (
        "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('on', flush=True); time.sleep(60)"
    )
    server = Server("deaf", [sys.executable, "-c", code], run_directory=tmp_path, stop_timeout=0.3)
    server.start()
    wait_until(lambda: "on" in server.log_tail(), timeout=10, what="the process's start")
    server.stop()
    assert server.exit_status == -signal.SIGKILL


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux ends a process with its parent")
def test_server_ends_with_a_parent_that_is_killed(tmp_path: Path) -> None:
    code = (
        "import sys, time; from pathlib import Path; from testbed.processes import Server\n"
        "server = Server('child', ['sleep', '60'], run_directory=Path(sys.argv[1])).start()\n"
        "print(server.pid, flush=True); time.sleep(60)"
    )
    parent = subprocess.Popen(
        [sys.executable, "-c", code, str(tmp_path)],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": str(REPOSITORY)},
    )
    assert parent.stdout is not None
    with parent.stdout:
        child = int(parent.stdout.readline())
    try:
        assert is_running(child)
    finally:
        parent.kill()
        parent.wait()
    wait_until(lambda: not is_running(child), timeout=10, what="the child's end")


def test_server_outlives_the_thread_that_started_it(tmp_path: Path, port: int) -> None:
    from concurrent.futures import ThreadPoolExecutor  # noqa: PLC0415

    with ThreadPoolExecutor(max_workers=1) as pool:
        server = pool.submit(web_server(tmp_path, port).start).result()
    try:
        time.sleep(0.2)
        assert server.running
    finally:
        server.stop()
