"""The demo's acts, in order. Each act checks its results."""

from __future__ import annotations

import io
import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console

from demo import live
from demo.screen import Screen
from demo.world import MEMBER_ACCOUNT, NAME, ROOT, World, deployed
from testbed.aws import LaunchedInstance
from testbed.lambda_service import Batch
from testbed.platform import ZONE, Trace

CLI = ("python3", "cli", "--function-name", NAME)
STEPS = ("route53", "chef", "consul")


class DemoError(Exception):
    """An act did not have the expected result."""


def tell(screen: Screen, run_directory: Path, ready: Callable[[], None] | None, pictures: Path | None = None) -> None:
    """Runs all acts.

    Args:
        ready: called after the last act, to keep everything running. None stops the demo there.
        pictures: a directory for pictures of the terminal. Requires a recording screen.

    Raises:
        DemoError, ServerError, TerraformError, ToolMissing: the demo failed.
    """
    screen.act("Setup: start the servers and apply the module")
    with deployed(run_directory, screen.step) as world:
        story = Story(screen, world)
        story.sweep("The first sweep records the running instances")
        story.termination()
        story.replacement()
        story.chef_is_down()
        story.dry_run()
        story.lost_event()
        story.member_account()
        story.restore()
        screen.console.print(f"\n[bold green]All acts took {screen.seconds:.0f} s.[/]")
        if pictures is not None:
            screen.picture(pictures / "demo.svg", "make demo")
            terminal = Screen(Console(record=True, file=io.StringIO(), highlight=False, width=screen.width))
            Story(terminal, world).operator_looks()
            terminal.picture(pictures / "show.svg", "ec2-decommission show")
        if ready is not None:
            keep(screen, world, run_directory, ready)


class Story:
    """The acts."""

    def __init__(self, screen: Screen, world: World) -> None:
        self.screen = screen
        self.platform = world.platform
        self.chef = world.chef
        self.fleet = world.platform.fleet
        self.before_the_end_of_web_1: list[Trace] = []

    # ------------------------------------------------------------ acts

    def termination(self) -> None:
        """1: only the terminated instance's objects are removed."""
        dead = self.fleet["web-1"]
        self.screen.act(f"1. {dead.name} is terminated, and everything it left behind is removed")
        before = self.before_the_end_of_web_1 = self.platform.traces()
        self._show(before, dead.name)
        self.platform.kill(dead)
        self._expect(self._deliver(dead.id), *["done"] * 3)
        self._only_removed(before, dead.name)

    def replacement(self) -> None:
        """2: a replacement that took over every name keeps them all."""
        dead = self.fleet["web-2"]
        self.screen.act("2. web-2 is replaced by an instance with the same names and address")
        heir = self.platform.replace(dead)
        self.screen.step(f"{heir.id} has replaced {dead.id}; now the termination event arrives")
        before = self.platform.traces()
        self.platform.aws.emit(self.platform.aws.state_change(dead.id, "terminated"))
        report = self._deliver(dead.id)
        self._expect(report, *["skipped"] * 3)
        if not all(heir.id in step["reason"] for step in report["steps"] if step["step"] != "consul"):
            raise DemoError(f"a reason does not name the replacement, {heir.id}")
        self._nothing_changed(before)

    def chef_is_down(self) -> None:
        """3: a message is retried while a system is down, and succeeds when it is back."""
        dead = self.fleet["db-1"]
        self.screen.act("3. Chef is down when db-1 is terminated: the message is retried until it is up")
        before = self.platform.traces()
        self.chef.refuses()
        self.platform.kill(dead)
        self._expect(self._deliver(dead.id, ["chef"]), "done", "failed", "done")
        [message] = self.platform.poller.messages(NAME)
        self.screen.step(f"the other steps are done; the message is retried in {message['visible_in_seconds']:.0f} s")
        self.chef.passes()
        self.platform.poller.skip_delays(NAME)
        self.screen.step("Chef is back up; the demo skips the delay")
        self._expect(self._deliver(dead.id, ["chef"]), *["done"] * 3)
        self._only_removed(before, dead.name)

    def dry_run(self) -> None:
        """4: a dry run shows the removals with their proofs, and changes nothing."""
        dead = self.fleet["cache-1"]
        self.screen.act("4. cache-1 is terminated, but its event is lost. The operator does a dry run")
        self.platform.kill(dead, emit=False)
        before = self.platform.traces()
        self._command("decommission", dead.id, "--dry-run")
        self._nothing_changed(before)

    def lost_event(self) -> None:
        """5: the sweep finds the missed termination."""
        dead = self.fleet["cache-1"]
        self.platform.aws.forget(dead.id)
        before = self.platform.traces()
        self.sweep("5. An hour later, EC2 no longer lists cache-1. The hourly sweep cleans it up", dead.id)
        self._only_removed(before, dead.name)

    def member_account(self) -> None:
        """6: the event of a member account's instance arrives through the members' event bus."""
        self.screen.act(f"6. An instance in member account {MEMBER_ACCOUNT} is terminated")
        aws, name = self.platform.aws, "batch-1"
        member: LaunchedInstance = aws.launch(name, "10.0.9.9", account=MEMBER_ACCOUNT)
        self.platform.change_record("CREATE", self.platform.zone_id, f"{name}.{ZONE}", "A", member.private_ip)
        self.platform.poller.drain()
        before = self.platform.traces()
        aws.terminate(member.id, account=MEMBER_ACCOUNT)
        report = self._deliver(member.id)
        self._expect(report, "done", "clean", "clean")
        if report["account_id"] != MEMBER_ACCOUNT:
            raise DemoError(f"the report names account {report['account_id']}")
        self._only_removed(before, name)

    def restore(self) -> None:
        """7: removed objects are restored from the audit."""
        dead = self.fleet["web-1"]
        self.screen.act("7. The operator restores the removed objects of web-1 from the audit")
        self._command("restore", dead.id, "--yes")
        things = {trace.thing for trace in self.platform.traces() if trace.owner == dead.name}
        wanted = {
            trace.thing
            for trace in self.before_the_end_of_web_1
            if trace.owner == dead.name and trace.system in ("Route 53", "Chef")
        }
        if not wanted <= things:
            raise DemoError(f"not restored: {', '.join(sorted(wanted - things))}")
        self._show(self.platform.traces(), dead.name)

    def operator_looks(self) -> None:
        """Runs `show` on a cleaned-up instance and on a live replacement."""
        self._command("show", self.fleet["db-1"].id)
        self.screen.console.print()
        self._command("show", self.fleet["web-2"].id)

    def sweep(self, title: str, instance_id: str | None = None) -> None:
        """Runs the scheduled sweep. With an instance, expects the sweep to find it and clean it up."""
        self.screen.act(title)
        self.platform.aws.fire_schedule(f"{NAME}-sweep")
        if instance_id is None:
            batches = self.platform.poller.drain()
            self._sweeps(batches)
            if any(batch.invocation.error or batch.returned for batch in batches):
                raise DemoError("the sweep failed")
        else:
            self._expect(self._deliver(instance_id, details=[]), *["done"] * 3)

    # ------------------------------------------------------------ parts of acts

    def _deliver(self, instance_id: str, details: Sequence[str] | None = None) -> dict[str, Any]:
        """Delivers the queue's messages. Shows and returns the last report of the instance."""
        batches = self.platform.poller.drain()
        self._sweeps(batches)
        reports = reports_of(batches, instance_id)
        if not reports:
            raise DemoError(f"the function reported nothing about {instance_id}")
        self.screen.report(reports[-1], details)
        return reports[-1]

    def _sweeps(self, batches: Sequence[Batch]) -> None:
        """Shows the sweeps' log lines."""
        for batch in batches:
            for line in batch.invocation.json_logs():
                if str(line.get("message")).startswith("sweep:"):
                    self.screen.step(f"{line['message']} in {line['account_id']}/{line['region']}")

    def _command(self, *arguments: str) -> None:
        """Runs the operator's command, and shows the command line and its output."""
        self.screen.command(f"  $ {' '.join(CLI)} \\\n      {' '.join(arguments)}")
        ran = subprocess.run(
            [sys.executable, *CLI[1:], *arguments],
            cwd=ROOT,
            env={**os.environ, **self.platform.aws.environ(), "COLUMNS": str(self.screen.width)},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
        )
        self.screen.output(ran.stdout)
        if ran.returncode != 0:
            raise DemoError(f"the command exited with status {ran.returncode}")

    def _show(self, traces: list[Trace], owner: str) -> None:
        """Shows an instance's objects in the three systems."""
        own = [trace for trace in traces if trace.owner == owner]
        for system in dict.fromkeys(trace.system for trace in own):
            things = ", ".join(trace.thing for trace in own if trace.system == system)
            self.screen.step(f"{system} has {things}")

    def _expect(self, report: dict[str, Any], *statuses: str) -> None:
        found = {step["step"]: step["status"] for step in report["steps"]}
        if found != dict(zip(STEPS, statuses, strict=True)):
            raise DemoError(f"expected {', '.join(statuses)}, found {found}")

    def _only_removed(self, before: list[Trace], owner: str) -> None:
        """Checks that the owner has only its lock's key left, and that other owners' objects are unchanged."""
        after = self.platform.traces()
        others = [trace for trace in before if trace.owner != owner]
        if others != [trace for trace in after if trace.owner != owner]:
            raise DemoError(f"objects that do not belong to {owner} have changed")
        left = [trace.thing for trace in after if trace.owner == owner and not trace.thing.endswith(" free")]
        if left:
            raise DemoError(f"not removed: {', '.join(left)}")
        self.screen.step(f"checked: {owner} is cleaned up; {len(others)} other objects are unchanged", "green")

    def _nothing_changed(self, before: list[Trace]) -> None:
        if self.platform.traces() != before:
            raise DemoError("objects have changed")
        self.screen.step(f"checked: all {len(before)} objects are unchanged", "green")


def reports_of(batches: Sequence[Batch], instance_id: str | None = None) -> list[dict[str, Any]]:
    """The reports in the logs, for one instance or for all."""
    reports = [line["report"] for batch in batches for line in batch.invocation.json_logs() if "report" in line]
    return [report for report in reports if instance_id in (None, report.get("instance_id"))]


# ---------------------------------------------------------------- kept running


def keep(screen: Screen, world: World, run_directory: Path, ready: Callable[[], None]) -> None:
    """Prints commands to try, and keeps everything live until SIGTERM."""
    platform = world.platform
    exports = run_directory / "environment.sh"
    variables = {
        "PATH": f"{Path(sys.executable).parent}:$PATH",  # python3 with boto3
        **platform.aws.environ(),
        "CONSUL_HTTP_ADDR": platform.consul.url,
        "CONSUL_HTTP_TOKEN": platform.consul.management_token,
        "VAULT_ADDR": platform.vault.address,
        "VAULT_TOKEN": platform.vault.root_token,
    }
    exports.touch(mode=0o600)
    exports.write_text("".join(f'export {name}="{value}"\n' for name, value in variables.items()))
    living, dead = platform.fleet["web-3"].id, platform.fleet["db-1"].id
    cli = " ".join(CLI)
    screen.act("The demo keeps running. In another terminal, in this directory, try:")
    screen.command(
        f"""
  . {exports.relative_to(ROOT)}
  tail -n 0 -f {(run_directory / "demo.log").relative_to(ROOT)} &

  aws ec2 terminate-instances --instance-ids {living}

  {cli} status
  {cli} show {dead}
  {cli} report --since 1h
  {cli} sweep --dry-run
  {cli} show {living}

  aws dynamodb scan --table-name {NAME}-inventory
  aws s3 ls --recursive s3://demo-audit/
  curl -s -H "X-Consul-Token: $CONSUL_HTTP_TOKEN" \\
      $CONSUL_HTTP_ADDR/v1/catalog/nodes
""",
    )
    screen.step("to stop the demo, run `make demo-stop`")
    ready()

    def handled(batch: Batch) -> None:
        for report in reports_of([batch]):
            screen.step(f"{report['instance_id']} in {report['account_id']}: {report['state']}")
            screen.report(report)

    live.run(world, screen.step, handled)
