"""Runs a Lambda package as Lambda does: with awslambdaric, AWS's own runtime client, and a local Runtime API.

The function's process has only the package, the runtime's packages (boto3, awslambdaric) and a clean environment. It
cannot import from this project's environment.
"""

from __future__ import annotations

import fcntl
import hashlib
import io
import json
import queue
import re
import shutil
import stat
import subprocess
import sys
import tempfile
import threading
import time
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import TracebackType
from typing import Any, Self
from uuid import uuid4

from testbed import tools
from testbed.processes import LOOPBACK, Server

# The packages in Lambda's Python runtime, at the tests' locked versions.
_RUNTIME_PACKAGES = (
    "awslambdaric",
    "boto3",
    "botocore",
    "jmespath",
    "python-dateutil",
    "s3transfer",
    "simplejson",
    "six",
    "snapshot-restore-py",
    "urllib3",
)
_LOCK = tools.REPOSITORY / "requirements" / "dev.txt"
_API = "/2018-06-01/runtime"
_INIT_SECONDS = 10.0  # https://docs.aws.amazon.com/lambda/latest/dg/lambda-runtime-environment.html


@dataclass(frozen=True)
class Invocation:
    """The outcome of an invocation: either `result` or `error` is set."""

    request_id: str
    result: Any = None
    error: dict[str, Any] | None = None
    """Lambda's `errorType` and `errorMessage`, and `stackTrace` if the function raised."""
    logs: list[str] = field(default_factory=list)
    """The function's log lines, without Lambda's START, END and REPORT."""
    duration: float = 0.0
    """Seconds."""
    timed_out: bool = False
    cold: bool = False
    max_memory_mb: int = 0

    def json_logs(self) -> list[dict[str, Any]]:
        """The log lines that are JSON objects, parsed, without metrics."""
        found = []
        for line in self.logs:
            try:
                parsed = json.loads(line)
            except ValueError:
                continue
            if isinstance(parsed, dict) and "_aws" not in parsed:
                found.append(parsed)
        return found

    def metric_lines(self) -> list[str]:
        """The log lines in CloudWatch's embedded metric format."""
        return [line for line in self.logs if line.startswith('{"_aws"')]


def runtime_python(version: str) -> Path:
    """A Python of that version ("3.13") with only the runtime's packages. Built once and cached."""
    requirements = _runtime_requirements()
    digest = hashlib.sha256(requirements.encode()).hexdigest()[:12]
    home = tools.CACHE / "lambda-runtime" / f"python{version}-{digest}"
    python = home / "bin" / "python"
    home.parent.mkdir(parents=True, exist_ok=True)
    with (home.parent / f"python{version}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (home / ".made").exists():
            shutil.rmtree(home, ignore_errors=True)
            _run([str(tools.python_for(version)), "-m", "venv", str(home)])
            wanted = home / "requirements.txt"
            wanted.write_text(requirements)
            pip = [str(python), str(tools.REPOSITORY / "scripts" / "pip"), "install", "--quiet", "--require-hashes"]
            _run([*pip, "--no-deps", "-r", str(wanted)])
            (home / ".made").touch()
    return python


def _runtime_requirements() -> str:
    """The lock's entries (version and hashes) of the runtime's packages."""
    entries = re.split(r"\n(?=\S)", _LOCK.read_text())
    chosen = [entry for entry in entries if re.split(r"[=\s]", entry, maxsplit=1)[0] in _RUNTIME_PACKAGES]
    if len(chosen) != len(_RUNTIME_PACKAGES):
        raise tools.ToolMissing(f"{_LOCK} does not lock all of {', '.join(_RUNTIME_PACKAGES)}; run `make lock`")
    return "\n".join(chosen) + "\n"


def _run(command: list[str]) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise tools.ToolMissing(f"`{' '.join(command)}` failed:\n{done.stdout}{done.stderr}")


@dataclass
class _Exchange:
    """An invocation in progress in the Runtime API."""

    request_id: str
    payload: bytes
    deadline_ms: int
    result: bytes | None = None
    error: bytes | None = None
    ended: threading.Event = field(default_factory=threading.Event)


class Packages:
    """Unpacked packages in a directory, each unpacked once. Functions cannot write to them."""

    def __init__(self, directory: Path | None = None) -> None:
        self._directory = Path(tempfile.mkdtemp(prefix="packages-", dir=directory))
        self._unpacked: dict[str, Path] = {}
        self._lock = threading.Lock()

    def unpack(self, zip_bytes: bytes) -> Path:
        """The directory of a package's files."""
        digest = hashlib.sha256(zip_bytes).hexdigest()
        with self._lock:
            if digest not in self._unpacked:
                target = self._directory / digest / "task"
                _unpack(zip_bytes, target)
                self._unpacked[digest] = target
            return self._unpacked[digest]

    def close(self) -> None:
        """Removes them."""
        _make_writable(self._directory)
        shutil.rmtree(self._directory, ignore_errors=True)


class LambdaRuntime:
    """An execution environment of a function: a process that starts on demand and stays warm.

    `environment` holds the function's variables. `credentials` holds the role's variables (`AWS_ACCESS_KEY_ID` and so
    on, with region and endpoint), and takes precedence. `memory_size` is visible to the function, but not enforced.
    Environments with the same `packages` share the unpacked files.
    """

    def __init__(
        self,
        zip_bytes: bytes,
        handler: str,
        environment: Mapping[str, str] | None = None,
        python: str = "3.13",
        *,
        credentials: Mapping[str, str] | None = None,
        function_name: str = "function",
        function_arn: str = "arn:aws:lambda:us-east-1:123456789012:function:function",
        memory_size: int = 128,
        log_group: str | None = None,
        timeout: float = 3,
        run_directory: Path | None = None,
        packages: Packages | None = None,
    ) -> None:
        self._handler = handler
        self._environment = dict(environment or {})
        self.credentials = dict(credentials or {})
        self._version = python
        self._python = runtime_python(python)
        self._name = function_name
        self._memory_size = memory_size
        self._log_group = log_group or f"/aws/lambda/{function_name}"
        self._timeout = timeout
        self._directory = Path(tempfile.mkdtemp(prefix="lambda-", dir=run_directory))
        self._own_packages = None
        if packages is None:
            packages = self._own_packages = Packages(self._directory)
        self._task_root = packages.unpack(zip_bytes)
        self._log = self._directory / "function.log"
        self._log.touch()
        self._log_offset = 0
        self._api = _RuntimeApi(function_arn)
        self._process: Server | None = None
        self._lock = threading.Lock()

    # ------------------------------------------------------------ use

    @property
    def warm(self) -> bool:
        """Whether a process is waiting for the next invocation."""
        return self._process is not None and self._process.running

    def invoke(self, payload: Any, timeout: float | None = None, request_id: str | None = None) -> Invocation:
        """Runs the function once, with `payload` as JSON. Only one invocation at a time."""
        with self._lock:
            return self._invoke(payload, self._timeout if timeout is None else timeout, request_id or str(uuid4()))

    def kill(self) -> None:
        """Kills the process immediately, even during an invocation. The next invocation starts cold."""
        process = self._process
        if process is not None:
            process.kill()

    def close(self) -> None:
        """Ends the process and removes its files."""
        self.kill()
        self._api.close()
        if self._own_packages:
            self._own_packages.close()
        shutil.rmtree(self._directory, ignore_errors=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    # ------------------------------------------------------------ one invocation

    def _invoke(self, payload: Any, timeout: float, request_id: str) -> Invocation:
        cold = not self.warm
        if cold and (init_error := self._start()) is not None:
            return Invocation(request_id, error=init_error, logs=self._new_log_lines(), cold=True)
        assert self._process is not None
        started = time.monotonic()
        deadline_ms = int((time.time() + timeout) * 1000)
        exchange = _Exchange(request_id, json.dumps(payload).encode(), deadline_ms)
        self._api.submit(exchange)
        timed_out = False
        while not exchange.ended.wait(0.02):
            if not self._process.running:
                exchange.ended.wait(0.05)  # an answer may have arrived just before the process ended
                break
            if time.monotonic() - started > timeout:
                timed_out = True
                self._process.kill()
                break
        duration, memory = time.monotonic() - started, self._max_memory_mb()
        self._api.withdraw()
        result, error = None, None
        if exchange.error is not None:
            error = json.loads(exchange.error)
        elif exchange.result is not None:
            result = json.loads(exchange.result) if exchange.result else None
        elif timed_out:
            message = f"RequestId: {request_id} Error: Task timed out after {timeout:.2f} seconds"
            error = {"errorType": "Sandbox.Timedout", "errorMessage": message}
        else:
            error = self._exit_error(request_id)
        return Invocation(request_id, result, error, self._new_log_lines(), duration, timed_out, cold, memory)

    def _max_memory_mb(self) -> int:
        """The most memory that the process ever used; 0 if it has ended, or the machine does not tell."""
        try:
            status = Path(f"/proc/{self._process.pid if self._process else 0}/status").read_text()
        except OSError:
            return 0
        return int((re.search(r"^VmHWM:\s+(\d+) kB", status, re.MULTILINE) or ("", "0"))[1]) // 1024

    def _exit_error(self, request_id: str) -> dict[str, Any]:
        status = self._process.exit_status if self._process else None
        how = f"signal: {-status}" if status is not None and status < 0 else f"exit status {status}"
        message = f"RequestId: {request_id} Error: Runtime exited with error: {how}"
        return {"errorType": "Runtime.ExitError", "errorMessage": message}

    def _start(self) -> dict[str, Any] | None:
        """Starts the process. Returns the error if its initialization fails."""
        self._api.renew()
        self._process = Server(
            "function",
            [self._python, "-B", "-m", "awslambdaric", self._handler],  # Lambda's file system takes no bytecode
            run_directory=self._directory,
            environment=self._process_environment(),
            working_directory=self._task_root,
        )
        self._process.start()
        deadline = time.monotonic() + _INIT_SECONDS * 3  # a loaded machine is slower than Lambda
        while not self._api.asked.wait(0.02):
            if self._api.init_error is not None:
                self._process.kill()
                error: dict[str, Any] = json.loads(self._api.init_error)
                return error
            if not self._process.running:
                return self._exit_error("init")
            if time.monotonic() > deadline:
                self._process.kill()
                return {"errorType": "Sandbox.Timedout", "errorMessage": "Init phase timed out"}
        return None

    def _process_environment(self) -> dict[str, str]:
        """https://docs.aws.amazon.com/lambda/latest/dg/configuration-envvars.html"""
        return {
            **self._environment,
            **self.credentials,
            "AWS_EXECUTION_ENV": f"AWS_Lambda_python{self._version}",
            "AWS_LAMBDA_FUNCTION_MEMORY_SIZE": str(self._memory_size),
            "AWS_LAMBDA_FUNCTION_NAME": self._name,
            "AWS_LAMBDA_FUNCTION_VERSION": "$LATEST",
            "AWS_LAMBDA_INITIALIZATION_TYPE": "on-demand",
            "AWS_LAMBDA_LOG_GROUP_NAME": self._log_group,
            "AWS_LAMBDA_LOG_STREAM_NAME": f"{time.strftime('%Y/%m/%d')}/[$LATEST]{uuid4().hex}",
            "AWS_LAMBDA_RUNTIME_API": self._api.address,
            "LAMBDA_TASK_ROOT": str(self._task_root),
            "LANG": "en_US.UTF-8",
            "PATH": "/usr/local/bin:/usr/bin:/bin",
            "TZ": ":UTC",
            "_HANDLER": self._handler,
            "_X_AMZN_TRACE_ID": f"Root=1-{int(time.time()):08x}-{uuid4().hex[:24]};Sampled=0",
        }

    def _new_log_lines(self) -> list[str]:
        """The function's log lines since the last call. The file is complete when the answer has arrived."""
        with self._log.open("rb") as log:
            log.seek(self._log_offset)
            text = log.read()
        self._log_offset += len(text)
        return text.decode(errors="replace").splitlines()


def _unpack(zip_bytes: bytes, target: Path) -> None:
    with zipfile.ZipFile(io.BytesIO(zip_bytes)) as archive:
        archive.extractall(target)
        for entry in archive.infolist():
            mode = entry.external_attr >> 16
            if mode and not entry.is_dir():
                (target / entry.filename).chmod(stat.S_IMODE(mode))
    # In Lambda, the package is on a read-only file system.
    for path in [target, *target.rglob("*")]:
        path.chmod(path.stat().st_mode & ~(stat.S_IWUSR | stat.S_IWGRP | stat.S_IWOTH))


def _make_writable(directory: Path) -> None:
    for path in [directory, *directory.rglob("*")]:
        if path.is_dir():
            path.chmod(0o755)


class _QuietServer(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, request: object, client_address: object) -> None:
        """Ignores broken connections of a killed function."""
        if not isinstance(sys.exception(), ConnectionError):
            super().handle_error(request, client_address)  # type: ignore[arg-type]  # as the base class has it


class _RuntimeApi:
    """https://docs.aws.amazon.com/lambda/latest/dg/runtimes-api.html on loopback."""

    def __init__(self, function_arn: str) -> None:
        self.function_arn = function_arn
        self.asked = threading.Event()
        self.init_error: bytes | None = None
        self._pending: queue.Queue[_Exchange | None] = queue.Queue()
        self._current: _Exchange | None = None
        api = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            # Headers and body are two writes. With Nagle's algorithm, the second waits 40 ms for an acknowledgement.
            disable_nagle_algorithm = True

            def do_GET(self) -> None:
                api.next(self)

            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
                api.posted(self, body)

            def log_message(self, format: str, *args: object) -> None:  # noqa: A002
                pass

        self._server = _QuietServer((LOOPBACK, 0), Handler)
        self.address = f"{LOOPBACK}:{self._server.server_port}"
        threading.Thread(target=self._server.serve_forever, args=(0.05,), name="runtime-api", daemon=True).start()

    def renew(self) -> None:
        """Prepares for a new process. Pending requests of the previous process get no more invocations."""
        self.asked.clear()
        self.init_error = None
        stale, self._pending = self._pending, queue.Queue()
        stale.put(None)

    def submit(self, exchange: _Exchange) -> None:
        self._current = exchange
        self._pending.put(exchange)

    def withdraw(self) -> None:
        self._current = None

    def close(self) -> None:
        self._pending.put(None)
        self._server.shutdown()
        self._server.server_close()

    def next(self, handler: BaseHTTPRequestHandler) -> None:
        pending = self._pending
        self.asked.set()
        exchange = pending.get()
        if exchange is None:
            handler.close_connection = True
            return
        handler.send_response(200)
        handler.send_header("Content-Type", "application/json")
        handler.send_header("Content-Length", str(len(exchange.payload)))
        handler.send_header("Lambda-Runtime-Aws-Request-Id", exchange.request_id)
        handler.send_header("Lambda-Runtime-Deadline-Ms", str(exchange.deadline_ms))
        handler.send_header("Lambda-Runtime-Invoked-Function-Arn", self.function_arn)
        handler.end_headers()
        handler.wfile.write(exchange.payload)

    def posted(self, handler: BaseHTTPRequestHandler, body: bytes) -> None:
        path = handler.path
        current = self._current
        if path == f"{_API}/init/error":
            self.init_error = body
        elif current is not None and path == f"{_API}/invocation/{current.request_id}/response":
            current.result = body
            current.ended.set()
        elif current is not None and path == f"{_API}/invocation/{current.request_id}/error":
            current.error = body
            current.ended.set()
        answer = b'{"status":"OK"}\n'
        handler.send_response(202)
        handler.send_header("Content-Type", "application/json")
        handler.send_header("Content-Length", str(len(answer)))
        handler.end_headers()
        handler.wfile.write(answer)
