"""What the function computes, by what computes it."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import astuple, dataclass
from functools import wraps
from threading import Lock, local
from typing import Any, Self


@dataclass(frozen=True)
class Computing:
    """Seconds that a whole CPU computes for one instance of many.

    Attributes:
        describe: to ask EC2 what it is.
        recall: to read what the inventory remembers.
        remember_terminated: to write into the inventory what it was.
        read_ahead: to read the zones.
        find: to find and prove its records, and to ask EC2 for interfaces.
        remove: to remove these.
        remember_steps: to write into the inventory what became of the steps.
        others: for Chef and Consul, and the report.
    """

    describe: float = 0.0
    recall: float = 0.0
    remember_terminated: float = 0.0
    read_ahead: float = 0.0
    find: float = 0.0
    remove: float = 0.0
    remember_steps: float = 0.0
    others: float = 0.0

    @property
    def total(self) -> float:
        return float(sum(astuple(self)))

    @classmethod
    def of(cls, number: int, seconds: float, parts: Mapping[str, float]) -> Self:
        """As it was measured for so many instances: the whole, and what parts of it took."""
        return cls(
            **{part: taken / number for part, taken in parts.items()},
            others=(seconds - sum(parts.values())) / number,
        )


# A thousand on real servers; what `make bench` measures takes its place.
USUAL = Computing(0.00025, 0.00012, 0.00023, 0.00025, 0.0002, 0.0001, 0.00042, 0.0042)


class Watch:
    """Counts the CPU seconds of the function's parts, each in the thread that it runs in."""

    def __init__(self) -> None:
        from ec2_decommission.clients.ec2 import BotoEc2  # noqa: PLC0415  # in the function's process only
        from ec2_decommission.clients.route53 import BotoZones  # noqa: PLC0415
        from ec2_decommission.inventory import DynamoInventory  # noqa: PLC0415
        from ec2_decommission.steps.route53 import Route53Step  # noqa: PLC0415

        self._seconds: defaultdict[str, float] = defaultdict(float)
        self._counting, self._within = Lock(), local()
        self._remembering = "remember_terminated"
        parts: dict[type, dict[str, str | None]] = {
            BotoEc2: {"_describe_some": "describe", "_interfaces_with": "find"},
            DynamoInventory: {
                "_recall_some": "recall",
                "remember_terminated": "remember_terminated",
                "remember_steps": "remember_steps",
                "_write_some": None,  # of what is just remembered, in another thread
            },
            BotoZones: {"read_ahead": "read_ahead"},
            Route53Step: {"find": "find", "remove": "remove"},
        }
        for cls, names in parts.items():
            for name, part in names.items():
                self._watch(cls, name, part)

    def take(self) -> dict[str, float]:
        """The seconds since this was last asked."""
        taken, self._seconds = dict(self._seconds), defaultdict(float)
        return taken

    def _watch(self, cls: type, name: str, part: str | None) -> None:
        method = getattr(cls, name)

        @wraps(method)
        def watched(*args: Any, **kwargs: Any) -> Any:
            if part and part.startswith("remember"):
                self._remembering = part
            # What is watched within counts there, and not here.
            begin, before = time.thread_time(), getattr(self._within, "seconds", 0.0)
            self._within.seconds = 0.0
            try:
                return method(*args, **kwargs)
            finally:
                taken = time.thread_time() - begin
                with self._counting:
                    self._seconds[part or self._remembering] += taken - self._within.seconds
                self._within.seconds = before + taken

        setattr(cls, name, watched)
