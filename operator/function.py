"""Asks the deployed function."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from aws import explained
from problems import FAILED, Problem

if TYPE_CHECKING:
    from collections.abc import Mapping

    from deployment import Deployment


def ask(deployment: Deployment, payload: Mapping[str, Any]) -> dict[str, Any]:
    """The report that the function returns.

    Raises:
        Problem: it could not be invoked, or failed itself; a step that failed is in the report.
    """
    name = deployment.function_name
    with explained(f"invoke the function {name} in {deployment.region} (lambda:InvokeFunction)"):
        answer = deployment.clients("lambda").invoke(FunctionName=name, Payload=json.dumps(payload).encode())
        body = answer["Payload"].read()
    try:
        report = json.loads(body)
    except ValueError:
        report = None
    if answer.get("FunctionError"):
        raise Problem(f"The function {name} failed: {_words(report)} Its log is {deployment.log_group_name}.", FAILED)
    if not isinstance(report, dict) or "steps" not in report:
        raise Problem(f"The function {name} answered with no report: is it one of this module?", FAILED)
    return report


def failed(report: Mapping[str, Any]) -> bool:
    """Whether anything failed, as the function itself counts it."""
    return bool(report.get("errors")) or any(step["status"] == "failed" for step in report["steps"])


def _words(error: Any) -> str:
    """Lambda's document of an error, without the stack trace."""
    if not isinstance(error, dict):
        return "Lambda does not say why."
    message = str(error.get("errorMessage") or "").strip().rstrip(".")
    kind = str(error.get("errorType") or "")
    # Lambda writes a timeout as "<time> <request id> Task timed out after 120.00 seconds".
    if "Task timed out" in message:
        return message[message.index("Task timed out") :] + "."
    return f"{kind}: {message}." if kind else f"{message}."
