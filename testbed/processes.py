"""Starts server processes on loopback, waits until they are ready, and stops them by process id."""

from __future__ import annotations

import contextlib
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import TracebackType
from typing import Self

LOOPBACK = "127.0.0.1"

# Linux kills the child when the *thread* that started it ends, so one long-lived thread starts all children.
_SPAWNER = ThreadPoolExecutor(max_workers=1, thread_name_prefix="testbed-spawner")

# Runs in the child before the program, and asks the kernel to kill the child when its parent dies. A `preexec_fn` is
# not safe in a process with threads. The check of the parent's id covers a parent that dies before the request.
_DIE_WITH_PARENT = """
import ctypes, os, sys
ctypes.CDLL(None).prctl(1, 9, 0, 0, 0)
if os.getppid() != int(sys.argv[1]):
    os._exit(1)
try:
    os.execvp(sys.argv[2], sys.argv[2:])
except OSError as error:
    sys.exit(f"{sys.argv[2]} could not be run: {error.strerror}")
"""

# Below the range that Linux and macOS use for outgoing connections, so that a free port is still free when the server
# binds it.
_PORTS = range(10_000, 32_000)
_given_ports: set[int] = set()
_ports_lock = threading.Lock()
_random = random.SystemRandom()


class ServerError(RuntimeError):
    """A server failed to start or to become ready. The message names the server and its log."""


def free_port(address: str = LOOPBACK, *, consecutive: int = 1) -> int:
    """A port that is free for TCP and UDP on `address`, and that this process has not used before.

    Returns the first of `consecutive` free ports, for servers that also use the next port.
    """
    with _ports_lock:
        for _ in range(1000):
            first = _random.choice(_PORTS)
            ports = range(first, first + consecutive)
            if _given_ports.isdisjoint(ports) and all(_is_free(address, port) for port in ports):
                _given_ports.update(ports)
                return first
    raise ServerError(f"no free port found on {address}")


def free_ports(count: int, address: str = LOOPBACK) -> list[int]:
    """This many distinct free ports on `address`."""
    return [free_port(address) for _ in range(count)]


def can_bind(address: str) -> bool:
    """Whether this machine has the address (macOS has only 127.0.0.1 of 127.0.0.0/8)."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.bind((address, 0))
        except OSError:
            return False
    return True


def port_answers(port: int, address: str = LOOPBACK) -> bool:
    """Whether the port accepts TCP connections."""
    try:
        with socket.create_connection((address, port), timeout=1):
            return True
    except OSError:
        return False


def wait_until(condition: Callable[[], bool], *, timeout: float, what: str, interval: float = 0.05) -> None:
    """Waits until the condition holds. Raises ServerError with `what` after `timeout` seconds."""
    deadline = time.monotonic() + timeout
    while not condition():
        if time.monotonic() >= deadline:
            raise ServerError(f"{what}: not within {timeout:g} seconds")
        time.sleep(interval)


def _is_free(address: str, port: int) -> bool:
    for kind in (socket.SOCK_STREAM, socket.SOCK_DGRAM):
        with socket.socket(socket.AF_INET, kind) as probe:
            if kind is socket.SOCK_STREAM:
                # Allow ports with connections in TIME_WAIT from earlier tests, as servers do.
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((address, port))
            except OSError:
                return False
    return True


class Part(ABC):
    """A part of the testbed: its servers, and the directory with their logs and data.

    Without `run_directory`, it creates a temporary directory. That is removed when the part stops, but kept if the
    part fails to start.
    """

    def __init__(self, name: str, run_directory: Path | None) -> None:
        self.name = name
        self._temporary = run_directory is None
        self.run_directory = run_directory or Path(tempfile.mkdtemp(prefix=f"testbed-{name}-"))

    @abstractmethod
    def _start(self) -> None: ...

    @abstractmethod
    def _stop(self) -> None: ...

    def start(self) -> Self:
        self.run_directory.mkdir(parents=True, exist_ok=True)
        try:
            self._start()
        except BaseException:
            self._stop()
            raise
        return self

    def stop(self) -> None:
        self._stop()
        if self._temporary:
            shutil.rmtree(self.run_directory, ignore_errors=True)

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()


class Server:
    """A server process.

    `ready` is polled until it returns True. It may raise OSError, which includes connection errors of `requests`, for
    "not yet". The output goes to `<run_directory>/<name>.log`. A restart appends to it.

    The child has its own session, so that Ctrl-C reaches only the parent, which then stops its servers in order. On
    Linux, the kernel kills the child if the parent dies.
    """

    def __init__(
        self,
        name: str,
        arguments: Sequence[str | os.PathLike[str]],
        *,
        run_directory: Path,
        ready: Callable[[], bool] | None = None,
        environment: Mapping[str, str] | None = None,
        working_directory: Path | None = None,
        ready_timeout: float = 30,
        stop_timeout: float = 5,
        stop_signal: signal.Signals = signal.SIGTERM,
    ) -> None:
        """`environment` replaces the inherited environment. None means a copy of this process's environment."""
        self.name = name
        self.arguments = [os.fspath(argument) for argument in arguments]
        self.run_directory = run_directory
        self.log = run_directory / f"{name}.log"
        self._ready = ready
        self._environment = environment
        self._working_directory = working_directory
        self._ready_timeout = ready_timeout
        self._stop_timeout = stop_timeout
        self._stop_signal = stop_signal
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> Self:
        """Starts the process and waits until it is ready. Stops it on failure."""
        if self.running:
            raise ServerError(f"{self.name} is already running")
        self.run_directory.mkdir(parents=True, exist_ok=True)
        self._process = _SPAWNER.submit(self._spawn).result()
        try:
            self._wait_ready()
        except BaseException:
            self.stop()
            raise
        return self

    def stop(self) -> None:
        """Terminates the process, kills it if needed, and waits until it has ended."""
        self._end(self._stop_signal)

    def kill(self) -> None:
        """Kills the process (SIGKILL), like a failing machine, and waits until it has ended."""
        self._end(signal.SIGKILL)

    def pause(self) -> None:
        """Pauses the process (SIGSTOP). It still accepts connections, but never answers."""
        os.kill(self.pid, signal.SIGSTOP)

    def resume(self) -> None:
        """Resumes a paused process."""
        os.kill(self.pid, signal.SIGCONT)

    def wait(self, timeout: float) -> int:
        """Waits until the process ends by itself, and returns its exit status."""
        if self._process is None:
            raise ServerError(f"{self.name} was not started")
        try:
            return self._process.wait(timeout)
        except subprocess.TimeoutExpired as error:
            raise ServerError(f"{self.name} did not end within {timeout:g} seconds (log: {self.log})") from error

    @property
    def running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    @property
    def pid(self) -> int:
        if self._process is None:
            raise ServerError(f"{self.name} was not started")
        return self._process.pid

    @property
    def exit_status(self) -> int | None:
        """None if it is running or was never started. Negative for the signal that ended it."""
        return None if self._process is None else self._process.poll()

    def log_tail(self, lines: int = 15) -> str:
        """The last lines of the log."""
        if not self.log.exists():
            return ""
        return "\n".join(self.log.read_text(errors="replace").splitlines()[-lines:])

    def __enter__(self) -> Self:
        return self if self.running else self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def _spawn(self) -> subprocess.Popen[bytes]:
        arguments = self.arguments
        if sys.platform == "linux":
            shim = [sys.executable, "-I", "-S", "-c", _DIE_WITH_PARENT, str(os.getpid())]
            arguments = [*shim, *arguments]
        with self.log.open("ab") as log:
            try:
                return subprocess.Popen(
                    arguments,
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=subprocess.STDOUT,
                    env=None if self._environment is None else dict(self._environment),
                    cwd=self._working_directory,
                    start_new_session=True,
                )
            except OSError as error:
                raise ServerError(f"{self.name} could not be started: {error}") from error

    def _wait_ready(self) -> None:
        if self._ready is None:
            return
        deadline = time.monotonic() + self._ready_timeout
        while True:
            # Check the process last: another process on the same port could answer in place of a failed server.
            answered = False
            with contextlib.suppress(OSError):
                answered = self._ready()
            if not self.running:
                raise ServerError(self._failure(f"ended with status {self.exit_status} before it was ready"))
            if answered:
                return
            if time.monotonic() >= deadline:
                raise ServerError(self._failure(f"was not ready within {self._ready_timeout:g} seconds"))
            time.sleep(0.05)

    def _failure(self, what: str) -> str:
        return f"{self.name} {what}. Its log is {self.log}; the last lines:\n{self.log_tail()}"

    def _end(self, first: signal.Signals) -> None:
        process = self._process
        if process is None or process.poll() is not None:
            return
        process.send_signal(first)
        # A paused process receives the signal only when it resumes.
        process.send_signal(signal.SIGCONT)
        try:
            process.wait(self._stop_timeout)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
