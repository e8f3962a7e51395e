"""The local Lambda runtime behaves as Lambda does."""

from __future__ import annotations

import io
import py_compile
import sys
import threading
import time
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from testbed.runtime import LambdaRuntime

pytestmark = pytest.mark.servers

CODE = """
import json, os, sys, time, logging
logging.getLogger().setLevel("INFO")
calls = 0

def handle(event, context):
    global calls
    calls += 1
    if event.get("raise"):
        raise ValueError("no " + event["raise"])
    if "exit" in event:
        os._exit(event["exit"])
    time.sleep(event.get("sleep", 0))
    if "say" in event:
        print(event["say"])
        logging.info("logged " + event["say"])
    if "import" in event:
        try:
            module = __import__(event["import"])
        except ImportError as error:
            return {"error": str(error)}
        return {"file": module.__file__}
    if event.get("environment"):
        return dict(os.environ)
    if "write" in event:
        return {"path": sys.path, "cwd": os.getcwd(), "writable": os.access("lambda_code.py", os.W_OK)}
    return {
        "event": event, "calls": calls, "pid": os.getpid(), "arn": context.invoked_function_arn,
        "request": context.aws_request_id, "left": context.get_remaining_time_in_millis(),
    }
"""


def package(code: str = CODE) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("lambda_code.py", code)
    return buffer.getvalue()


@pytest.fixture(scope="module")
def runtime() -> Iterator[LambdaRuntime]:
    with LambdaRuntime(
        package(), "lambda_code.handle", {"MINE": "1"}, credentials={"AWS_REGION": "eu-west-1"}, timeout=10
    ) as started:
        yield started


def test_passes_event_and_context(runtime: LambdaRuntime) -> None:
    invocation = runtime.invoke({"a": [1]}, timeout=20, request_id="00000000-0000-0000-0000-000000000001")
    assert invocation.error is None
    assert invocation.result["event"] == {"a": [1]}
    assert invocation.result["request"] == "00000000-0000-0000-0000-000000000001"
    assert invocation.result["arn"].endswith(":function:function")
    assert 15_000 < invocation.result["left"] <= 20_000


def test_a_packages_own_bytecode_is_what_runs(tmp_path: Path) -> None:
    compiled = tmp_path / "compiled.pyc"
    (tmp_path / "code.py").write_text("def handle(event, context):\n    return 'bytecode'\n")
    unchecked = py_compile.PycInvalidationMode.UNCHECKED_HASH
    py_compile.compile(str(tmp_path / "code.py"), str(compiled), doraise=True, invalidation_mode=unchecked)
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("lambda_code.py", "def handle(event, context):\n    return 'source'\n")
        archive.writestr(f"__pycache__/lambda_code.{sys.implementation.cache_tag}.pyc", compiled.read_bytes())
    version = f"{sys.version_info.major}.{sys.version_info.minor}"
    with LambdaRuntime(buffer.getvalue(), "lambda_code.handle", python=version) as started:
        assert started.invoke({}, timeout=20).result == "bytecode"


def test_the_second_call_is_warm(runtime: LambdaRuntime) -> None:
    first, second = runtime.invoke({}), runtime.invoke({})
    assert not second.cold
    assert second.result["pid"] == first.result["pid"]
    assert second.result["calls"] == first.result["calls"] + 1


def test_errors_come_as_lambda_words_them(runtime: LambdaRuntime) -> None:
    error = runtime.invoke({"raise": "luck"}).error
    assert error is not None
    assert (error["errorType"], error["errorMessage"]) == ("ValueError", "no luck")
    assert any("lambda_code.py" in line for line in error["stackTrace"])


def test_logs_belong_to_their_invocation(runtime: LambdaRuntime) -> None:
    first, second = runtime.invoke({"say": "one"}), runtime.invoke({"say": "two"})
    assert "one" in first.logs
    assert any("logged one" in line for line in first.logs)
    assert not any("one" in line for line in second.logs)


def test_a_timeout_kills_the_process_and_the_next_call_is_cold(runtime: LambdaRuntime) -> None:
    runtime.invoke({})
    slow = runtime.invoke({"sleep": 30}, timeout=0.5)
    assert slow.timed_out
    assert slow.error is not None
    assert slow.error["errorType"] == "Sandbox.Timedout"
    assert "Task timed out after 0.50 seconds" in slow.error["errorMessage"]
    again = runtime.invoke({})
    assert again.cold
    assert again.result["calls"] == 1


def test_an_exit_is_an_error(runtime: LambdaRuntime) -> None:
    error = runtime.invoke({"exit": 7}).error
    assert error is not None
    assert error["errorType"] == "Runtime.ExitError"
    assert "exit status 7" in error["errorMessage"]


def test_a_kill_in_the_middle_is_an_error(runtime: LambdaRuntime) -> None:
    runtime.invoke({})
    timer = threading.Timer(0.3, runtime.kill)
    timer.start()
    started = time.monotonic()
    invocation = runtime.invoke({"sleep": 30}, timeout=20)
    timer.join()
    assert time.monotonic() - started < 5
    assert invocation.error is not None
    assert invocation.error["errorType"] == "Runtime.ExitError"
    assert not invocation.timed_out


@pytest.mark.parametrize("module", ["ec2_decommission", "testbed", "moto", "pytest", "hvac", "aws_lambda_powertools"])
def test_nothing_of_the_project_can_be_imported(runtime: LambdaRuntime, module: str) -> None:
    assert runtime.invoke({"import": module}).result == {"error": f"No module named '{module}'"}


def test_the_runtime_brings_boto3(runtime: LambdaRuntime) -> None:
    assert "lambda-runtime" in runtime.invoke({"import": "boto3"}).result["file"]


def test_the_environment_is_the_functions_own(runtime: LambdaRuntime) -> None:
    environment = runtime.invoke({"environment": True}).result
    assert environment.pop("MINE") == "1"
    assert environment.pop("AWS_REGION") == "eu-west-1"
    rest = {name for name in environment if not name.startswith(("AWS_", "_"))}
    assert rest <= {"LANG", "LAMBDA_TASK_ROOT", "PATH", "TZ", "LC_CTYPE", "TENANT_ID"}
    assert not {name for name in environment if name.startswith("AWS_")} & {"AWS_PROFILE", "AWS_ACCESS_KEY_ID"}


def test_the_package_is_the_working_directory(runtime: LambdaRuntime) -> None:
    answer = runtime.invoke({"write": True}).result
    assert answer["path"][0] in ("", answer["cwd"])
    assert answer["cwd"].endswith("/task")


@pytest.mark.parametrize(
    ("code", "handler", "kind"),
    [
        ("import nowhere", "lambda_code.handle", "Runtime.ImportModuleError"),
        ("", "lambda_code.handle", "Runtime.HandlerNotFound"),
        ("raise KeyError('x')", "lambda_code.handle", "KeyError"),
    ],
)
def test_a_failed_start_is_an_error(code: str, handler: str, kind: str) -> None:
    with LambdaRuntime(package(code), handler) as runtime:
        error = runtime.invoke({}).error
    assert error is not None
    assert error["errorType"] == kind
