"""Runs an HTTP step as the function does: from a configuration, with the real runner."""

from __future__ import annotations

import json
import time
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from ec2_decommission import deadline as deadlines
from ec2_decommission.config import Config
from ec2_decommission.deadline import Deadline
from ec2_decommission.live import Live
from ec2_decommission.metrics import Metrics
from ec2_decommission.recall import Known
from ec2_decommission.run import Run, StepFactory, Tools
from ec2_decommission.steps.http import HttpStep
from ec2_decommission.steps.http.client import Client
from ec2_decommission.together import side_by_side
from tests.fakes.ec2 import FakeEc2
from tests.fakes.http import Answer, Request
from tests.fakes.log import FakeLog

if TYPE_CHECKING:
    import ssl
    from collections.abc import Callable, Mapping, Sequence

    from ec2_decommission.instance import Instance
    from ec2_decommission.report import StepReport
    from ec2_decommission.steps.base import Removal
    from ec2_decommission.steps.http.settings import HttpStepSettings

DEAD, ALIVE = "i-00000000000000dea", "i-00000000000000a11"


def read(document: Mapping[str, Any], name: str = "rest") -> HttpStepSettings:
    """Parses the settings of a step from the configuration."""
    whole = {"name": "x", "account_id": "123456789012", "region": "us-east-1", "encryption_context": {"a": "b"}}
    return Config.parse(json.dumps({**whole, "http_steps": {name: document}})).http_steps[name]


class Audit:
    """An audit that stores removals in order. ``fault`` may raise."""

    def __init__(self) -> None:
        self.kept: list[Removal] = []
        self.fault: Callable[[], None] = lambda: None

    def keep(self, instance: Instance, step: str, removals: Sequence[Removal]) -> None:
        self.fault()
        self.kept += removals


class Deployment:
    """A deployment with one HTTP step. It keeps its client, like a warm environment."""

    def __init__(
        self,
        document: Mapping[str, Any],
        secrets: Mapping[str, str] | None = None,
        *,
        ec2: FakeEc2 | None = None,
        others: Sequence[FakeEc2] = (),
        tls: ssl.SSLContext | None = None,
        now: Callable[[], float] = time.monotonic,
        token_clock: Callable[[], float] = time.monotonic,
        seconds: float = 60,
        name: str = "rest",
    ) -> None:
        self.ec2 = ec2 or FakeEc2()
        self.audit = Audit()
        self.log = FakeLog()
        self._seconds = seconds
        self._name = name
        settings = read(document, name)
        self.client = Client(settings, secrets or {}, deadlines.current, tls, token_clock)
        live = Live({one.place: one for one in (self.ec2, *others)}, side_by_side, now)
        factory = StepFactory(name, lambda _: HttpStep(settings, self.client))
        self._tools = Tools(
            live, None, [factory], self.log, lambda: datetime.now(UTC), Metrics("x"), side_by_side, self.audit
        )

    def run(self, *instances: Instance, dry_run: bool = False) -> dict[str, StepReport]:
        """Runs the step. Returns the reports by instance id."""
        by_id = {instance.instance_id: instance for instance in instances}
        known = Known({i: instance.place for i, instance in by_id.items()})
        with deadlines.until(Deadline.after(self._seconds)):
            done = Run(self._tools, by_id, known, (), dry_run=dry_run).carry_out()
        assert self.log.messages("exception") == []
        return {instance_id: one.steps[0] for instance_id, one in done.items()}

    def one(self, instance: Instance, *, dry_run: bool = False) -> StepReport:
        """Runs the step for one instance, and returns its report."""
        return self.run(instance, dry_run=dry_run)[instance.instance_id]


@dataclass
class FakeApi:
    """A REST API: ``GET /items`` lists all items, ``DELETE /items/{id}`` removes one.

    Attributes:
        items: by id.
        before: called with each request. Its result is the answer, unless it is None.
    """

    items: dict[str, dict[str, Any]] = field(default_factory=dict)
    before: Callable[[Request], Answer] = lambda _: None

    def add(self, item_id: str, instance_id: str, **more: Any) -> None:
        self.items[item_id] = {"id": item_id, "instance": instance_id, **more}

    def __call__(self, request: Request) -> Answer:
        if (answer := self.before(request)) is not None:
            return answer
        path = request.path.partition("?")[0]
        if request.method == "DELETE" and path.startswith("/items/"):
            return (204, "") if self.items.pop(path.removeprefix("/items/"), None) else (404, "{}")
        if request.method == "GET" and path == "/items":
            return 200, json.dumps({"items": list(self.items.values())})
        return 400, '{"message": "no such thing"}'


def document(url: str, **changed: Any) -> dict[str, Any]:
    """The configuration of a step for ``FakeApi``. ``find`` and ``remove`` are merged, anything else is replaced."""
    find = {"method": "GET", "path": "/items", "items": "items", "id": "id", **changed.pop("find", {})}
    remove = {"method": "DELETE", "path": "/items/{id}", "gone": [404], **changed.pop("remove", {})}
    prove = {"field": "instance", "equals": "{instance_id}"}
    return {"url": url, "find": find, "prove": prove, "remove": remove, **changed}
