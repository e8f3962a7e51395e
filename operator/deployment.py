"""Finds the deployment: from Terraform's outputs, or from the function's name alone."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from aws import Clients, explained
from problems import Problem

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

_VARIABLE = "DECOMMISSION_CONFIG"
_REGION_OF_URL = re.compile(r"https://sqs\.([a-z0-9-]+)\.")

ADVICE = (
    'The root module needs the module\'s outputs, all in one: output "ec2_decommission" { value = '
    "module.ec2_decommission }, or at least its function_name as an output of that name. Else give --function-name."
)


class Deployment:
    """One deployed call of the module. What the outputs do not tell is read from the function's configuration.

    Args:
        outputs: the module's outputs, as many as are known; ``function_name`` is needed.
        clients: made in the deployment's region.
    """

    def __init__(self, outputs: Mapping[str, Any], clients: Clients) -> None:
        self._outputs = outputs
        self.clients = clients
        self.function_name: str = outputs["function_name"]

    @property
    def region(self) -> str:
        return self.clients.region

    @cached_property
    def function(self) -> Mapping[str, Any]:
        """The function's configuration as Lambda tells it."""
        name = self.function_name
        with explained(f"read the configuration of the function {name} (lambda:GetFunctionConfiguration)"):
            answer: dict[str, Any] = self.clients("lambda").get_function_configuration(FunctionName=name)
        return answer

    @cached_property
    def config(self) -> Mapping[str, Any]:
        """What the module configured, by ``DECOMMISSION_CONFIG``."""
        variables = self.function.get("Environment", {}).get("Variables", {})
        try:
            config: dict[str, Any] = json.loads(variables[_VARIABLE])
            str(config["queue"]["url"])
        except (KeyError, TypeError, ValueError):
            raise Problem(
                f"The function {self.function_name} is not one of this module: its environment holds no {_VARIABLE} "
                "that can be read."
            ) from None
        return config

    @property
    def queue_url(self) -> str:
        return str(self._outputs.get("queue_url") or self.config["queue"]["url"])

    @cached_property
    def dead_letter_queue_url(self) -> str:
        told = self._outputs.get("dead_letter_queue_url")
        if told:
            return str(told)
        with explained(f"read the attributes of {self.queue_url} (sqs:GetQueueAttributes)"):
            attributes = self.clients("sqs").get_queue_attributes(
                QueueUrl=self.queue_url, AttributeNames=["RedrivePolicy"]
            )
        try:
            arn = str(json.loads(attributes["Attributes"]["RedrivePolicy"])["deadLetterTargetArn"])
        except (KeyError, TypeError, ValueError):
            raise Problem(f"The queue {self.queue_url} has no dead-letter queue: it is not this module's.") from None
        return f"{self.queue_url.rpartition('/')[0]}/{arn.rpartition(':')[2]}"

    @property
    def inventory_table_name(self) -> str | None:
        """None where the inventory is off."""
        if "inventory_table_name" in self._outputs:
            told = self._outputs["inventory_table_name"]
        else:
            told = (self.config.get("inventory") or {}).get("table_name")
        return str(told) if told else None

    @property
    def log_group_name(self) -> str:
        return str(self._outputs.get("log_group_name") or f"/aws/lambda/{self.function_name}")


def find(
    *,
    function_name: str | None,
    outputs_file: str | None,
    directory: str | None,
    module: str | None,
    region: str | None,
    profile: str | None,
) -> Deployment:
    """The deployment that the options name.

    Raises:
        Problem: it cannot be found, or more than one is there.
    """
    if function_name:
        return Deployment({"function_name": function_name}, Clients(profile, region))
    if outputs_file:
        where = "standard input" if outputs_file == "-" else outputs_file
        outputs = _parsed(_read(outputs_file), where)
    else:
        where = str(Path(directory or ".").resolve())
        outputs = _parsed(_terraform_output(directory or "."), f"terraform output in {where}")
    chosen = _choose(dict(_deployments(outputs)), module, where)
    return Deployment(chosen, Clients(profile, region or _region(chosen)))


def _read(path: str) -> str:
    try:
        return sys.stdin.read() if path == "-" else Path(path).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise Problem(f"The outputs cannot be read from {path}: {error}.") from None


def _terraform_output(directory: str) -> str:
    if not Path(directory).is_dir():
        raise Problem(f"--chdir: there is no directory {directory}.")
    program = shutil.which("terraform") or shutil.which("tofu")
    if program is None:
        raise Problem(
            "terraform is not on PATH, so the outputs cannot be read: give --outputs FILE (written by `terraform "
            "output -json`), or --function-name."
        )
    done = subprocess.run(
        [program, f"-chdir={directory}", "output", "-json", "-no-color"],
        capture_output=True,
        text=True,
        check=False,
        stdin=subprocess.DEVNULL,
    )
    if done.returncode != 0:
        tail = " ".join(line.strip(" │╷╵") for line in done.stderr.splitlines() if line.strip(" │╷╵"))
        raise Problem(f"`terraform output -json` failed in {Path(directory).resolve()}: {tail[:600]}")
    return done.stdout


def _parsed(text: str, where: str) -> dict[str, Any]:
    """The outputs by name, without the wrapping of ``terraform output -json``."""
    try:
        document = json.loads(text)
    except (ValueError, RecursionError):
        document = None
    if not isinstance(document, dict):
        raise Problem(f"What {where} holds is not the JSON of `terraform output -json`.")
    wrapped = document and all(isinstance(output, dict) and "value" in output for output in document.values())
    return {name: output["value"] for name, output in document.items()} if wrapped else document


def _deployments(
    outputs: Mapping[str, Any], path: str = "", depth: int = 3
) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """The module's outputs, wherever they are: the root's own, or an object, or a map of objects (for_each)."""
    name = outputs.get("function_name")
    # Below the root another module's outputs could have a function_name too.
    if isinstance(name, str) and name and (not path or "dead_letter_queue_url" in outputs):
        yield path, outputs
    if depth:
        for key, value in outputs.items():
            if isinstance(value, dict):
                yield from _deployments(value, f"{path}.{key}" if path else key, depth - 1)


def _choose(found: dict[str, Mapping[str, Any]], module: str | None, where: str) -> Mapping[str, Any]:
    names = ", ".join(sorted(name or "(the root's own)" for name in found))
    if module is not None:
        if module not in found:
            raise Problem(
                f"--module {module}: {where} has no such output of this module; there is {names or 'none'}."
            )
        return found[module]
    if not found:
        raise Problem(f"No function_name is among the outputs of {where}. {ADVICE}")
    if len(found) > 1:
        raise Problem(f"{where} holds more than one deployment: choose one by --module: {names}.")
    return next(iter(found.values()))


def _region(outputs: Mapping[str, Any]) -> str | None:
    for name in ("function_arn", "queue_arn", "dead_letter_queue_arn", "event_rule_arn"):
        parts = str(outputs.get(name) or "").split(":")
        if len(parts) > 5 and parts[3]:
            return parts[3]
    match = _REGION_OF_URL.match(str(outputs.get("queue_url") or ""))
    return match[1] if match else None
