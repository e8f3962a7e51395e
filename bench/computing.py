"""What the function computes, by what computes it."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import astuple, dataclass
from functools import wraps
from typing import Any, Self


@dataclass(frozen=True)
class Computing:
    """Seconds that a whole CPU computes for one instance of many.

    Attributes:
        describe: to ask EC2 what it is.
        recall: to read what the inventory remembers.
        remember_terminated: to write into the inventory what it was.
        read_ahead: to read the zones.
        find: to find and prove its records.
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
        for cls, names in {
            BotoEc2: ("describe",),
            DynamoInventory: ("recall", "remember_terminated", "remember_steps"),
            BotoZones: ("read_ahead",),
            Route53Step: ("find", "remove"),
        }.items():
            for name in names:
                self._watch(cls, name)

    def take(self) -> dict[str, float]:
        """The seconds since this was last asked."""
        taken, self._seconds = dict(self._seconds), defaultdict(float)
        return taken

    def _watch(self, cls: type, name: str) -> None:
        method = getattr(cls, name)

        @wraps(method)
        def watched(*args: Any, **kwargs: Any) -> Any:
            begin = time.thread_time()
            try:
                return method(*args, **kwargs)
            finally:
                self._seconds[name] += time.thread_time() - begin

        setattr(cls, name, watched)
