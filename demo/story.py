"""The demo's acts, in their order, and how they are shown."""

from __future__ import annotations

import json
import platform as machine
import re
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from testbed.lambda_service import Batch
from testbed.platform import Member, Platform, Trace
from testbed.processes import ServerError
from testbed.terraform import Stack, TerraformError
from testbed.tools import ToolMissing, python_for

ROOT = Path(__file__).resolve().parent.parent
EXAMPLE = ROOT / "examples" / "complete"
NAME = "ec2-decommission"
LAMBDA_ARCHITECTURES = {"x86_64": "x86_64", "AMD64": "x86_64", "aarch64": "arm64", "arm64": "arm64"}


class DemoError(Exception):
    """The demo did not show what it is there to show."""


class Story:
    """One run of the demo.

    Args:
        keep: leave everything running at the end, until SIGTERM.
        ready_file: written when everything stands and may be looked at.
    """

    def __init__(self, console: Console, run_directory: Path, *, keep: bool, ready_file: Path) -> None:
        self.console = console
        self.run_directory = run_directory
        self.keep = keep
        self.ready_file = ready_file
        self.began = time.monotonic()
        self.fleet: dict[str, Member] = {}

    def tell(self) -> int:
        """Returns the exit status."""
        try:
            self._tell()
        except (DemoError, ServerError, TerraformError, ToolMissing) as error:
            self.console.print(f"\n[bold red]The demo failed:[/] {error}", markup=True)
            self.console.print(f"Logs are in {self.run_directory.relative_to(ROOT)}/.")
            return 1
        return 0

    def _tell(self) -> None:
        self.run_directory.mkdir(parents=True, exist_ok=True)
        self._act("Start AWS, Consul, Chef and Vault on loopback")
        with Platform(self.run_directory, self._step) as platform:
            self.fleet = platform.fleet
            stack = self._stack(platform)
            self._act("terraform apply of examples/complete")
            with self._destroyed_at_the_end(platform, stack):
                self._events(platform)

    def _stack(self, platform: Platform) -> Stack:
        version = next((v for v in ("3.13", "3.12", "3.11") if _has_python(v)), None)
        if version is None:
            raise ToolMissing("no Python 3.11, 3.12 or 3.13 to run the function on")
        function = {
            "runtime": f"python{version}",
            "architecture": LAMBDA_ARCHITECTURES[machine.machine()],
        }
        return Stack(
            EXAMPLE,
            platform.aws,
            self.run_directory / "terraform",
            variables=platform.example_variables(function=function),
            environment={"VAULT_TOKEN": platform.vault_token()},
            progress=self._terraform,
        )

    @contextmanager
    def _destroyed_at_the_end(self, platform: Platform, stack: Stack) -> Iterator[None]:
        stack.init()
        try:
            stack.apply()
            self._step(f"applied: {NAME} takes events from now on")
            yield
            if self.keep:
                self._wait(platform, stack)
        finally:
            self._act("terraform destroy")
            stack.destroy()
        left = _resources_left(platform)
        if left:
            raise DemoError(f"terraform destroy left {', '.join(left)}")
        self._step("nothing of the module is left: no function, queue, rule, table, role, key alias or log group")
        self.console.print(f"\n[bold green]Done[/] in {time.monotonic() - self.began:.0f} s.")

    def _events(self, platform: Platform) -> None:
        self._act("Launch three instances; each leaves its traces")
        members = [platform.launch(name) for name in ("web-1", "web-2", "db-1")]
        self._deliver(platform)
        platform.aws.fire_schedule(f"{NAME}-sweep")
        self._deliver(platform)
        self._step("the hourly sweep ran: all three live, and the inventory has their addresses and tags")
        before = platform.traces()
        self._world(before, before)

        dead = members[1]
        self._act(f"Terminate {dead.name} ({dead.id}); its Consul agent is killed")
        platform.kill(dead)
        batches = self._deliver(platform)
        self._report(batches, dead)
        after = platform.traces()
        self._world(before, after)
        _check_only_gone(before, after, dead.name)

        self._act("Deliver the same event again")
        platform.aws.emit(platform.aws.state_change(dead.id, "terminated"))
        self._report(self._deliver(platform), dead)
        if platform.traces() != after:
            raise DemoError("the second event changed something")
        self._step("nothing has changed")

        lost = members[2]
        self._act(f"Terminate {lost.name} ({lost.id}), and lose the event; an hour later EC2 has forgotten it")
        platform.kill(lost, emit=False)
        platform.aws.forget(lost.id)
        self._deliver(platform)
        if platform.traces() == []:
            raise DemoError("nothing was to happen yet")
        self._step("no event, so nothing happened; now the sweep's schedule is due")
        platform.aws.fire_schedule(f"{NAME}-sweep")
        self._report(self._deliver(platform), lost)
        swept = platform.traces()
        self._world(after, swept)
        _check_only_gone(after, swept, lost.name)

    def _deliver(self, platform: Platform) -> list[Batch]:
        """Lambda's poller hands the queue's messages to the deployed function, until there are none."""
        batches = platform.poller.drain()
        for batch in batches:
            if batch.invocation.error is not None or batch.returned:
                lines = "\n".join(batch.invocation.logs[-20:])
                raise DemoError(f"the function returned messages; its log ends with:\n{lines}")
        return batches

    def _report(self, batches: list[Batch], member: Member) -> None:
        """The report as the function logged it."""
        for line in (line for batch in batches for line in batch.invocation.json_logs()):
            self._step(f"log: {line.get('message')}", style="dim")
        reports = [
            line["report"]
            for batch in batches
            for line in batch.invocation.json_logs()
            if line.get("report", {}).get("instance_id") == member.id
        ]
        if not reports:
            raise DemoError(f"the function reported nothing of {member.id}")
        table = Table(title=f"Report of {member.id} ({member.name})", title_justify="left")
        for column in ("Step", "Status", "Action", "Target", "Proof"):
            table.add_column(column, overflow="fold")
        for step in reports[-1]["steps"]:
            first = True
            actions: list[dict[str, Any]] = step["actions"] or [{}]
            for action in actions:
                head = (step["step"], step["status"]) if first else ("", "")
                proof = action.get("proof") or step["reason"] or ""
                table.add_row(*head, action.get("action", ""), action.get("target", ""), proof)
                first = False
        self.console.print(table)

    def _world(self, before: list[Trace], now: list[Trace]) -> None:
        """The traces by instance; what was there before and is gone is struck through."""
        owners = sorted({trace.owner for trace in before}, key=list(self.fleet).index)
        table = Table(title="What the instances have left", title_justify="left")
        table.add_column("System")
        for owner in owners:
            table.add_column(owner, overflow="fold")
        there = {(trace.owner, trace.thing) for trace in now}
        for system in dict.fromkeys(trace.system for trace in before):
            cells = []
            for owner in owners:
                things = []
                for trace in before:
                    if (trace.owner, trace.system) != (owner, system):
                        continue
                    kept = (owner, trace.thing) in there
                    things.append(trace.thing if kept else f"[red]gone[/]: [dim]{trace.thing}[/]")
                changed = [t.thing for t in now if (t.owner, t.system) == (owner, system) and t not in before]
                cells.append("\n".join([*things, *(f"[green]now[/]: {thing}" for thing in changed)]))
            table.add_row(system, *cells, end_section=True)
        self.console.print(table)

    def _wait(self, platform: Platform, stack: Stack) -> None:
        """Says how to look around, and keeps everything running until SIGTERM."""
        outputs = stack.outputs()
        self._act("Everything is left running; `make demo-stop` ends it")
        environment = {
            **platform.aws.environ(),
            "CONSUL_HTTP_ADDR": platform.consul.url,
            "CONSUL_HTTP_TOKEN": platform.consul.management_token,
            "VAULT_ADDR": platform.vault.address,
            "VAULT_TOKEN": platform.vault.root_token,
        }
        exports = self.run_directory / "environment.sh"
        exports.write_text("".join(f"export {key}='{value}'\n" for key, value in environment.items()))
        exports.chmod(0o600)
        function = outputs["function_name"]
        alive = next(member for member in platform.fleet.values() if member.name == "web-1")
        payload = json.dumps({"instance_id": alive.id, "dry_run": True})
        self.console.print(
            f"""
  . {exports.relative_to(ROOT)}            # AWS, Consul and Vault, with their tokens
  curl -s -H "X-Consul-Token: $CONSUL_HTTP_TOKEN" $CONSUL_HTTP_ADDR/v1/catalog/nodes
  curl -s -H "X-Vault-Token: $VAULT_TOKEN" $VAULT_ADDR/v1/secret/data/ec2-decommission/consul
  aws dynamodb scan --table-name {outputs["inventory_table_name"]}
  aws logs tail {outputs["log_group_name"]}
  aws lambda invoke --function-name {function} --cli-binary-format raw-in-base64-out \\
      --payload '{payload}' /dev/stdout

  Chef: {platform.chef.url} (as admin, key {(self.run_directory / "chef" / "admin.pem").relative_to(ROOT)})
  Consul: {platform.consul.url}   Vault: {platform.vault.address}   AWS: {platform.aws.endpoint}
""",
            markup=False,
            soft_wrap=True,
        )
        self.ready_file.write_text("ready\n")
        signal.pause()

    def _act(self, title: str) -> None:
        self.console.print(f"\n[bold]{title}[/]")

    def _terraform(self, line: str) -> None:
        """Terraform says much; what was made, what the build says, and the sum are worth a line."""
        made = re.fullmatch(r"module\.ec2_decommission\.(\S+): (Creation|Destruction) complete after .*", line)
        built = re.fullmatch(r"module\.ec2_decommission\.terraform_data\.package\[0\] \(local-exec\): (.*)", line)
        waited = re.fullmatch(r"module\.ec2_decommission\.(\S+): Still .*\[(.*), (\d+)s elapsed\]", line)
        if made:
            self._step(f"{'made' if made[2] == 'Creation' else 'gone'}: {made[1]}", style="dim")
        elif built and not built[1].startswith("Executing"):
            self._step(f"build: {built[1]}", style="dim")
        elif waited or "complete!" in line or line.startswith(("Error", "Terraform has been")):
            self._step(line.removeprefix("module.ec2_decommission."), style="dim" if waited else None)

    def _step(self, text: str, style: str | None = None) -> None:
        seconds = time.monotonic() - self.began
        self.console.print(f"  {seconds:5.1f} s  {text}", style=style, markup=False, soft_wrap=True)


def _has_python(version: str) -> bool:
    try:
        python_for(version)
    except ToolMissing:
        return False
    return True


def _check_only_gone(before: list[Trace], after: list[Trace], name: str) -> None:
    """The dead instance's traces are gone, and nobody else's have changed."""
    others_before = [trace for trace in before if trace.owner != name]
    others_after = [trace for trace in after if trace.owner != name]
    if others_before != others_after:
        raise DemoError(f"something changed that was not {name}'s: {set(others_before) ^ set(others_after)}")
    stays = [t for t in after if t.owner == name and not t.thing.endswith(" free")]
    if stays:
        raise DemoError(f"of {name} there is left: {', '.join(t.thing for t in stays)}")


def _resources_left(platform: Platform) -> list[str]:
    """What of the module AWS still has."""
    aws = platform.aws
    found = {
        "functions": aws.client("lambda").list_functions()["Functions"],
        "event source mappings": aws.client("lambda").list_event_source_mappings()["EventSourceMappings"],
        "queues": aws.client("sqs").list_queues().get("QueueUrls", []),
        "rules": aws.client("events").list_rules()["Rules"],
        "tables": aws.client("dynamodb").list_tables()["TableNames"],
        "roles": aws.client("iam").list_roles()["Roles"],
        "key aliases": [alias for alias in aws.client("kms").list_aliases()["Aliases"] if NAME in alias["AliasName"]],
        "log groups": aws.client("logs").describe_log_groups()["logGroups"],
        "alarms": aws.client("cloudwatch").describe_alarms()["MetricAlarms"],
    }
    return [f"{len(things)} {kind}" for kind, things in found.items() if things]
