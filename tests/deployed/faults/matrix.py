"""The fault matrix: every fault of every system, at the first try of an event and at its retry.

For each variant of a fault two instances die and their replacement, of the same name, lives. One of the two comes
for the first time while the fault is in force. The other had a first try that failed, as its system was not
available, and meets the fault in its retry. Both are in one batch, with a message that is not concerned.
"""

from __future__ import annotations

import traceback
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any

from testbed.lambda_service import Batch
from testbed.platform import LOCK_PREFIX
from tests.deployed.conftest import NAME, Deployed, report_of, step_of
from tests.deployed.faults.faults import HANGS, THROTTLES, Variant, down, variants
from tests.deployed.faults.fleet import Family, Fleet, Light
from tests.deployed.faults.lane import AWS, Lane, messages_of, send

FIRST, RETRY = "first try", "retry"
TRIES = (FIRST, RETRY)
# The module's default, and twice that; the queue's own time-out is longer.
RETRY_DELAY_SECONDS = {FIRST: 60, RETRY: 120}
STEPS = ("route53", "chef", "consul")
# The steps that fail with each system. EC2 and DynamoDB stand behind all of them.
FAILING = {"Chef": {"chef"}, "Consul": {"consul"}, "Route 53": {"route53"}, "KMS": {"chef", "consul"}}
_SPARE_SECONDS = 5  # that an invocation at the least leaves of Lambda's time


@dataclass
class Cell:
    """One cell of the matrix. It is green while `problems` is empty."""

    system: str
    fault: str
    attempt: str
    variants: list[str] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    seconds: float = 0.0  # of the longest invocation under the fault
    reasons: list[str] = field(default_factory=list)

    @property
    def text(self) -> str:
        return f"{len(self.problems)} problems" if self.problems else f"ok, {self.seconds:.0f} s"


Key = tuple[str, str, str]


@dataclass(frozen=True)
class _Scene:
    """One variant with its instances."""

    variant: Variant
    family: Family

    @property
    def lane(self) -> str:
        """What is waited for long has a lane of its own: the others are done meanwhile."""
        waits = self.variant.system in AWS and self.variant.fault in (HANGS, THROTTLES)
        return f"{self.variant.system}, waiting" if waits else self.variant.system

    @property
    def instances(self) -> dict[str, Light]:
        return dict(zip(TRIES, self.family.dying, strict=True))


class Matrix:
    """Runs it all once; `cells` then tells what came of it."""

    def __init__(self, deployed: Deployed) -> None:
        self.deployed = deployed
        self.cells: dict[Key, Cell] = {}
        self._fleet = Fleet(deployed.platform)
        self._timeout = float(deployed.platform.functions._function(NAME).timeout)
        self._scenes: list[_Scene] = []
        self._lanes: dict[str, Lane] = {}
        self._held_back: set[str] = set()  # ids of those all of whose steps failed under the fault

    def run(self) -> dict[Key, Cell]:
        aws = self.deployed.platform.aws
        found = variants()
        self._scenes = [_Scene(*pair) for pair in zip(found, self._fleet.start(len(found), dying=2), strict=True)]
        for scene in self._scenes:
            for attempt in TRIES:
                cell = self._cell(scene, attempt)
                cell.variants.append(scene.variant.name)
        dying = [light for scene in self._scenes for light in scene.family.dying]
        heirs = [scene.family.heir for scene in self._scenes]
        before = self._fleet.world()
        lacking = set().union(*(light.traces for light in [*dying, *heirs])) - before
        assert not lacking, lacking
        messages = messages_of(self.deployed, (light.id for light in dying), "terminated")
        with ExitStack() as stack:
            names = dict.fromkeys(scene.lane for scene in self._scenes)
            self._lanes = {name: stack.enter_context(Lane(self.deployed, name)) for name in names}
            self._side_by_side(lambda lane, scenes: self._first_tries(lane, scenes, messages))
            self._side_by_side(
                lambda lane, scenes: self._under_faults(
                    lane, [scene for scene in scenes if not scene.variant.everywhere], messages
                )
            )
            for name, lane in self._lanes.items():
                rights = [scene for scene in self._of(name) if scene.variant.everywhere]
                self._guarded(lambda lane, scenes: self._under_faults(lane, scenes, messages), lane, rights)
            self._side_by_side(lambda lane, scenes: self._recover(lane, scenes, messages))
            for light in dying:
                aws.emit(aws.state_change(light.id, "terminated"))
            again = messages_of(self.deployed, (light.id for light in dying), "terminated")
            self._side_by_side(lambda lane, scenes: self._second_event(lane, scenes, again))
        dead = set().union(*(light.traces for light in dying))
        freed = {f"lock {LOCK_PREFIX}{light.node} free" for light in dying}
        if (after := self._fleet.world()) != (before - dead) | freed:
            told = f"the world at the end: {sorted(after ^ ((before - dead) | freed))}"
            for cell in self.cells.values():
                cell.problems.append(told)
        return self.cells

    # ------------------------------------------------------------ the acts

    def _first_tries(self, lane: Lane, scenes: list[_Scene], messages: dict[str, str]) -> None:
        """The ones that will meet the fault in their retry fail once before, for another cause."""
        [system] = {scene.variant.system for scene in scenes}
        down(lane, system)
        ids = {scene.instances[RETRY].id for scene in scenes}
        batch = lane.deliver([messages[i] for i in ids])
        lane.passes()
        for scene in scenes:
            if messages[scene.instances[RETRY].id] not in batch.returned:
                self._problem(scene, RETRY, "the first try did not fail")

    def _under_faults(self, lane: Lane, scenes: list[_Scene], messages: dict[str, str]) -> None:
        for scene in scenes:
            bystander = self._bystander(scene)
            # KMS is asked at a cold start only; and a warm function may have read the zone that it may not read now.
            if scene.variant.system == "KMS" or (scene.variant.system == "Route 53" and scene.variant.everywhere):
                lane.kill()
            with scene.variant.during(lane):
                wanted = [messages[light.id] for light in scene.family.dying]
                batch = lane.deliver([*wanted, bystander])
            for attempt, light in scene.instances.items():
                for problem in self._judge(scene, attempt, light, batch, messages[light.id]):
                    self._problem(scene, attempt, problem)
                if bystander in batch.returned:
                    self._problem(scene, attempt, "a message that is not concerned was returned")
        world = self._fleet.world()
        for scene in scenes:
            for attempt, light in scene.instances.items():
                if not scene.family.heir.traces <= world:
                    self._problem(scene, attempt, f"gone of the living: {scene.family.heir.traces - world}")
                if light.id in self._held_back and not light.traces <= world:
                    gone = sorted(light.traces - world)
                    self._problem(scene, attempt, f"removed, though all steps failed: {gone}")

    def _bystander(self, scene: _Scene) -> str:
        """A message that the fault does not concern: the replacement runs; or an event that is nobody's business."""
        heir = scene.family.heir
        platform = self.deployed.platform
        state = "stopped" if scene.variant.system in ("EC2", "DynamoDB") else "running"
        return send(self.deployed, platform.aws.state_change(heir.id, state))

    def _judge(self, scene: _Scene, attempt: str, light: Light, batch: Batch, message_id: str) -> Iterable[str]:
        """What is wrong with an invocation under the fault, for one instance."""
        variant, ran = scene.variant, batch.invocation
        cell = self._cell(scene, attempt)
        cell.seconds = max(cell.seconds, ran.duration)
        if ran.error is not None:
            yield f"the invocation failed: {ran.error}"
            return
        if ran.duration > self._timeout - _SPARE_SECONDS:
            yield f"the invocation took {ran.duration:.0f} s of {self._timeout:.0f} s"
        if variant.fault != HANGS and ran.duration > self._timeout / 2:
            yield f"the invocation took {ran.duration:.0f} s for a fault that answers at once"
        if message_id not in batch.returned:
            yield "the message was not returned"
        if not 0 < (delay := self._delay(message_id)) <= RETRY_DELAY_SECONDS[attempt]:
            warned = [line["message"] for line in ran.json_logs() if line.get("level") == "WARNING"]
            yield f"the message was not put off as it is to be, but for {delay:.0f} s: {warned}"
        report = report_of([batch], light.id)
        told = "; ".join([*report.get("errors", ()), *_reasons(report)])
        cell.reasons.append(told)
        if lacking := [word for word in variant.words if word not in told]:
            yield f"the reason does not name {lacking}: {told}"
        if (kind := report.get("error_kind")) not in variant.kinds:
            yield f"the error is told to be {kind}, not {' or '.join(variant.kinds)}: {told}"
        statuses = {step["step"]: step["status"] for step in report["steps"]}
        failed = {step for step, status in statuses.items() if status == "failed"}
        if variant.system not in FAILING:
            # EC2 and the inventory stand behind all steps. Those that need them fail, and then remove nothing; only
            # the inventory is missed so late that the first try of a retry may have removed what it found.
            if not failed and not report.get("errors"):
                yield f"the steps were {statuses}"
            if failed == set(STEPS) and (variant.system, attempt) != ("DynamoDB", RETRY):
                self._held_back.add(light.id)
            return
        if failed != FAILING[variant.system]:
            yield f"failed were {sorted(failed)}: {told}"
        for step in set(STEPS) - failed:
            if statuses.get(step) != "done":
                yield f"step {step} is {statuses.get(step)}"
            if attempt == RETRY and "settled_at" not in step_of(report, step):
                yield f"step {step} was done again"

    def _recover(self, lane: Lane, scenes: list[_Scene], messages: dict[str, str]) -> None:
        batch = lane.deliver([messages[light.id] for scene in scenes for light in scene.family.dying])
        world = self._fleet.world()
        for scene in scenes:
            for attempt, light in scene.instances.items():
                report = report_of([batch], light.id)
                if messages[light.id] in batch.returned:
                    self._problem(scene, attempt, f"not recovered: {_reasons(report)} {report.get('errors')}")
                if left := light.traces & world:
                    self._problem(scene, attempt, f"left of the dead after recovery: {sorted(left)}")
                if not scene.family.heir.traces <= world:
                    gone = sorted(scene.family.heir.traces - world)
                    self._problem(scene, attempt, f"gone of the living after recovery: {gone}")

    def _second_event(self, lane: Lane, scenes: list[_Scene], messages: dict[str, str]) -> None:
        lane.forget()
        batch = lane.deliver([messages[light.id] for scene in scenes for light in scene.family.dying])
        changes = lane.changes()
        for scene in scenes:
            for attempt, light in scene.instances.items():
                report = report_of([batch], light.id)
                statuses = {step["status"] for step in report["steps"]}
                if statuses - {"clean", "skipped"} or messages[light.id] in batch.returned:
                    self._problem(scene, attempt, f"the second event: {report['steps']}")
                if changes:
                    self._problem(scene, attempt, f"the second event changed something: {changes}")

    # ------------------------------------------------------------ tools

    def _side_by_side(self, act: Callable[[Lane, list[_Scene]], None]) -> None:
        with ThreadPoolExecutor(max_workers=len(self._lanes)) as pool:
            for name, lane in self._lanes.items():
                pool.submit(self._guarded, act, lane, self._of(name))

    def _guarded(self, act: Callable[[Lane, list[_Scene]], None], lane: Lane, scenes: list[_Scene]) -> None:
        try:
            act(lane, scenes)
        except Exception:  # told in the cells that it leaves without a judgement
            for scene in scenes:
                for attempt in TRIES:
                    self._problem(scene, attempt, traceback.format_exc())
            lane.passes()

    def _of(self, lane: str) -> list[_Scene]:
        return [scene for scene in self._scenes if scene.lane == lane]

    def _cell(self, scene: _Scene, attempt: str) -> Cell:
        key = (scene.variant.system, scene.variant.fault, attempt)
        return self.cells.setdefault(key, Cell(*key))

    def _problem(self, scene: _Scene, attempt: str, what: str) -> None:
        self._cell(scene, attempt).problems.append(f"{scene.variant.name}: {what}")

    def _delay(self, message_id: str) -> float:
        """Seconds until the message may be received again."""
        [message] = [m for m in self.deployed.platform.poller.messages(NAME) if m["id"] == message_id]
        return float(message["visible_in_seconds"])


def _reasons(report: dict[str, Any]) -> list[str]:
    return [f"{step['step']}: {step['reason']}" for step in report["steps"] if step["status"] == "failed"]
