"""Finds a deployed call of the module, invokes its function and reads its inventory."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from decimal import Decimal
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from boto3.dynamodb.types import TypeDeserializer

from .aws import FAILED, Clients, Problem, explained, reason

if TYPE_CHECKING:
    import argparse
    from collections.abc import Iterator, Mapping

_ADVICE = (
    'Add one output with all of the module\'s outputs to the root module, output "ec2_decommission" { value = '
    "module.ec2_decommission }, or give --function-name."
)


class Deployment:
    """One deployed call of the module.

    Args:
        outputs: The known outputs of the module. Only ``function_name`` is required; the function's configuration has
            the rest.
    """

    def __init__(self, outputs: Mapping[str, Any], clients: Clients) -> None:
        self._outputs = outputs
        self.clients = clients
        self.function_name = str(outputs["function_name"])

    @cached_property
    def function(self) -> Mapping[str, Any]:
        """The function's configuration as Lambda returns it."""
        name = self.function_name
        with explained(
            f"read the configuration of function {name} in {self.clients.region} (lambda:GetFunctionConfiguration)"
        ):
            answer: dict[str, Any] = self.clients("lambda").get_function_configuration(FunctionName=name)
        return answer

    @cached_property
    def config(self) -> Mapping[str, Any]:
        """The configuration that the module gave the function."""
        variables = self.function.get("Environment", {}).get("Variables", {})
        try:
            config: dict[str, Any] = json.loads(variables["DECOMMISSION_CONFIG"])
            return {**config, **(self._outputs.get("effective_config") or {})}
        except (KeyError, TypeError, ValueError):
            raise Problem(
                f"Function {self.function_name} was not created by this module: it has no readable "
                "DECOMMISSION_CONFIG."
            ) from None

    @property
    def table_name(self) -> str | None:
        """The inventory's table; None if it is off."""
        if "inventory_table_name" in self._outputs:
            name = self._outputs["inventory_table_name"]
        else:
            name = (self.config.get("inventory") or {}).get("table_name")
        return str(name) if name else None

    # The function

    def ask(self, payload: Mapping[str, Any]) -> dict[str, Any]:
        """Invokes the function and returns its report.

        Raises:
            Problem: The function could not be invoked, or it failed. A failed step is part of the report instead.
        """
        name = self.function_name
        with explained(f"invoke function {name} in {self.clients.region} (lambda:InvokeFunction)"):
            answer = self.clients("lambda").invoke(FunctionName=name, Payload=json.dumps(payload).encode())
            body = answer["Payload"].read()
        try:
            report = json.loads(body)
        except ValueError:
            report = None
        if answer.get("FunctionError"):
            message = str((report or {}).get("errorMessage") or "Lambda gives no reason").strip()
            raise Problem(f"Function {name} failed: {message}", FAILED)
        if not isinstance(report, dict) or "steps" not in report:
            raise Problem(f"Function {name} returned no report. Was it created by this module?", FAILED)
        return report

    # The inventory

    def record(self, instance_id: str) -> dict[str, Any] | None:
        """The inventory's record of an instance."""
        if self.table_name is None:
            return None
        with explained(f"read table {self.table_name} (dynamodb:GetItem)"):
            answer = self.clients("dynamodb").get_item(
                TableName=self.table_name, Key={"instance_id": {"S": instance_id}}, ConsistentRead=True
            )
        return _plain(answer["Item"]) if "Item" in answer else None

    def records(self, condition: str | None = None, attributes: str | None = None) -> Iterator[dict[str, Any]]:
        """The records, in no particular order.

        Args:
            condition: A filter expression with ``#state`` and ``:ended``.
            attributes: A projection expression with ``#state`` and ``#region``, to read less.
        """
        if self.table_name is None:
            raise Problem("The inventory is off (inventory.enabled), so there is no list of instances.")
        request: dict[str, Any] = {"TableName": self.table_name, "ExpressionAttributeNames": {"#state": "state"}}
        if condition:
            request["FilterExpression"] = condition
            request["ExpressionAttributeValues"] = {":ended": {"S": "terminated"}}
        if attributes:
            request["ProjectionExpression"] = attributes
            request["ExpressionAttributeNames"]["#region"] = "region"
        with explained(f"read table {self.table_name} (dynamodb:Scan)"):
            for page in self.clients("dynamodb").get_paginator("scan").paginate(**request):
                yield from (_plain(item) for item in page["Items"])


def _plain(item: Mapping[str, Any]) -> dict[str, Any]:
    """A DynamoDB item with JSON types."""
    return {name: _json(TypeDeserializer().deserialize(value)) for name, value in item.items()}


def _json(value: Any) -> Any:
    if isinstance(value, Decimal):
        return int(value) if value == value.to_integral_value() else float(value)
    if isinstance(value, dict):
        return {key: _json(inner) for key, inner in value.items()}
    return [_json(inner) for inner in value] if isinstance(value, list) else value


# Finding it


def find(options: argparse.Namespace) -> Deployment:
    """The deployment that the options name.

    Raises:
        Problem: There is no such deployment, or more than one.
    """
    fallback = getattr(options, "region", None)
    if options.function_name:
        outputs = {"function_name": options.function_name}
        return Deployment(outputs, Clients(options.profile, options.function_region, fallback))
    if options.outputs:
        where = "standard input" if options.outputs == "-" else options.outputs
        outputs = _parsed(_read(options.outputs), where)
    else:
        where = str(Path(options.chdir).resolve())
        outputs = _parsed(_terraform_outputs(options.chdir), f"terraform output in {where}")
    chosen = _choose(dict(_deployments(outputs)), options.module, where)
    return Deployment(chosen, Clients(options.profile, options.function_region or _region(chosen), fallback))


def _read(path: str) -> str:
    try:
        return sys.stdin.read() if path == "-" else Path(path).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise Problem(f"--outputs {path} cannot be read: {reason(error)}.") from None


def _terraform_outputs(directory: str) -> str:
    if not Path(directory).is_dir():
        raise Problem(f"--chdir: there is no directory {directory}.")
    done = _terraform(directory, "output", "-json")
    if done.returncode != 0:
        raise Problem(f"`terraform output -json` failed in {Path(directory).resolve()}: {_plain_error(done.stderr)}")
    # `terraform output` prints the same for a root module without outputs and for one that is not applied.
    if done.stdout.strip() == "{}" and not _terraform(directory, "state", "list").stdout.strip():
        raise Problem(
            f"Nothing is applied in {Path(directory).resolve()}: there is no Terraform state. Apply it, name another "
            "root module with --chdir, or give --function-name."
        )
    return done.stdout


def _terraform(directory: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    program = shutil.which("terraform") or shutil.which("tofu")
    if program is None:
        raise Problem("terraform is not on PATH: give --outputs FILE (`terraform output -json`), or --function-name.")
    return subprocess.run(
        [program, f"-chdir={directory}", *arguments],
        capture_output=True,
        text=True,
        check=False,
        stdin=subprocess.DEVNULL,
    )


def _plain_error(text: str) -> str:
    """Terraform's error without its frame and colors."""
    lines = [line.strip(" │╷╵") for line in re.sub(r"\x1b\[[0-9;]*m", "", text).splitlines()]
    return " ".join(filter(None, lines))[:600]


def _parsed(text: str, where: str) -> dict[str, Any]:
    """The outputs by name, without the wrapping of ``terraform output -json``."""
    try:
        document = json.loads(text)
    except (ValueError, RecursionError):
        document = None
    if not isinstance(document, dict):
        raise Problem(f"{where} is not the JSON of `terraform output -json`.")
    wrapped = document and all(isinstance(output, dict) and "value" in output for output in document.values())
    return {name: output["value"] for name, output in document.items()} if wrapped else document


def _deployments(outputs: Mapping[str, Any], path: str = "") -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Finds the module's outputs: the root module's own, in an object, or in a map of objects (for_each)."""
    name = outputs.get("function_name")
    # The outputs of another module could have a function_name too.
    if isinstance(name, str) and name and (not path or "dead_letter_queue_url" in outputs):
        yield path, outputs
    if path.count(".") < 2:
        for key, value in outputs.items():
            if isinstance(value, dict):
                yield from _deployments(value, f"{path}.{key}" if path else key)


def _choose(found: Mapping[str, Mapping[str, Any]], module: str | None, where: str) -> Mapping[str, Any]:
    names = ", ".join(sorted(name or "(the root's own)" for name in found)) or "none"
    if module is not None:
        if module not in found:
            raise Problem(f"--module {module}: {where} has no such output of this module. Available: {names}.")
        return found[module]
    if not found:
        raise Problem(f"The outputs of {where} have no function_name. {_ADVICE}")
    if len(found) > 1:
        raise Problem(f"{where} has more than one deployment. Choose one with --module: {names}.")
    return next(iter(found.values()))


def _region(outputs: Mapping[str, Any]) -> str | None:
    parts = str(outputs.get("function_arn") or outputs.get("queue_arn") or "").split(":")
    return parts[3] if len(parts) > 5 and parts[3] else None
