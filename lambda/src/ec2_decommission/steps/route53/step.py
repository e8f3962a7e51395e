"""The step for one batch of instances."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from ...clients.route53 import LEAST_SECONDS
from ...deadline import until
from .apply import apply
from .observe import Snapshot, observe
from .plan import plan, question

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ...clients.route53 import Zones
    from ...config import Route53Settings
    from ...instance import Facts
    from ..base import Batch, Finding, Outcome


class Route53Step:
    """Removes the DNS records of terminated instances.

    Args:
        zones: Route 53; may cache pages for other batches (``CachedZones``).
    """

    name: ClassVar[str] = "route53"

    def __init__(self, settings: Route53Settings, zones: Zones) -> None:
        self._settings = settings
        self._zones = zones
        self._snapshot = Snapshot()

    def identify(self, batch: Batch) -> Mapping[str, Facts]:  # noqa: ARG002
        """Returns nothing: Route 53 does not know instance ids."""
        return {}

    def plan(self, batch: Batch) -> Mapping[str, Finding]:
        with until(batch.deadline.share(2, LEAST_SECONDS)):  # reserves half of the time for the removal
            self._snapshot = observe(self._settings, self._zones, batch.instances.values())
        with until(batch.deadline):
            asked = question(self._settings, batch.instances, self._snapshot)
            living = batch.live.ask(asked, gone=batch.instances).living
        return plan(self._settings, batch.instances, self._snapshot, living)

    def apply(self, batch: Batch, findings: Mapping[str, Finding]) -> Mapping[str, Outcome]:
        with until(batch.deadline):
            return apply(self._settings, self._zones, batch, findings, self._snapshot)
