"""The sweep: finds terminations whose event never came, and keeps what is recorded of the living up to date.

What it finds gone takes the same way as an event: a message in the queue. It trusts nothing that looks like
"all are dead": an error or an empty answer of EC2 fails it, and above the brake it removes nothing.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, Protocol

from .errors import ConfigurationError, DecommissionError, TransientError
from .inventory import facts_document

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from .clients.ec2 import Description, Ec2
    from .config import SweepSettings
    from .inventory import Inventory, Record

# EC2's answers lag behind: a young instance may not be in them yet.
YOUNG = timedelta(minutes=10)
# Below so many instances a share of the fleet says nothing: one of three is a third.
LEAST_ALLOWED = 10


class Outbox(Protocol):
    """Sends to the module's own queue."""

    def send(self, instances: Sequence[Mapping[str, str]]) -> None:
        """One termination event for each instance (``instance_id``, ``account_id``, ``region``)."""


@dataclass(frozen=True)
class SweepReport:
    """What a sweep saw and did.

    Attributes:
        living: how many instances live in EC2 now.
        recorded: how many the inventory records as living.
        refreshed: how many records were brought up to date.
        gone: the ids that are recorded as living and are gone, each now an event in the queue (not in a dry run).
        allowed: how many may go in one sweep.
        braked: why nothing was removed, where more is gone than that.
    """

    dry_run: bool
    living: int
    recorded: int
    refreshed: int
    gone: tuple[str, ...]
    allowed: int
    braked: str | None = None

    def document(self) -> dict[str, Any]:
        """As JSON."""
        return {
            "living": self.living,
            "recorded": self.recorded,
            "refreshed": self.refreshed,
            "allowed": self.allowed,
            "gone": list(self.gone),
        }


class Sweep:
    """One sweep.

    Args:
        region: this function's; what is recorded of another region is left alone.
        wanted: whether an instance is handled at all.
    """

    def __init__(
        self,
        settings: SweepSettings,
        ec2: Ec2,
        inventory: Inventory,
        outbox: Outbox,
        wanted: Callable[[Description], bool],
        region: str,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self._settings = settings
        self._ec2 = ec2
        self._inventory = inventory
        self._outbox = outbox
        self._wanted = wanted
        self._region = region
        self._now = now

    def run(self, *, dry_run: bool, accept: Iterable[str] = ()) -> SweepReport:
        """Sweeps once.

        Args:
            dry_run: list, change nothing.
            accept: ids that an operator has confirmed to be gone; they do not count for the brake.

        Raises:
            ConfigurationError: the inventory is another region's.
            TransientError: EC2 or the inventory could not be read to the end.
        """
        # The inventory first: what starts while EC2 is read is then not taken for gone.
        recorded = {record.instance_id: record for record in self._inventory.living()}
        living = {d.instance_id: d for d in self._ec2.living({})}
        if recorded and not living:
            raise TransientError(
                f"EC2 says that no instance lives, and {len(recorded)} are recorded: an empty answer is not believed"
            )
        elsewhere = {r.facts.region for r in recorded.values() if r.facts.region not in (None, self._region)}
        if elsewhere:
            raise ConfigurationError(
                f"the inventory records instances of {', '.join(sorted(map(str, elsewhere)))}, and this function "
                f"asks EC2 in {self._region}"
            )
        refreshed = self._refresh(living, recorded, dry_run=dry_run)
        gone = self._gone(recorded, living)
        report = SweepReport(
            dry_run, len(living), len(recorded), refreshed, tuple(gone), self._allowed(len(recorded))
        )
        if len(set(gone) - set(accept)) > report.allowed:
            return replace(report, braked=self._brake(report))
        if gone and not dry_run:
            self._outbox.send([_event_of(recorded[instance_id]) for instance_id in gone])
        return report

    def _brake(self, report: SweepReport) -> str:
        return (
            f"the sweep found {len(report.gone)} of {report.recorded} recorded instances gone, and one sweep may "
            f"remove {report.allowed} (max_instances {self._settings.max_instances}, max_fraction "
            f"{self._settings.max_fraction:g}): nothing was removed; confirm them by accept, or raise the limit: "
            f"{', '.join(report.gone)}"
        )

    def _allowed(self, recorded: int) -> int:
        share = max(LEAST_ALLOWED, int(recorded * self._settings.max_fraction))
        return min(self._settings.max_instances, share)

    def _gone(self, recorded: Mapping[str, Record], living: Mapping[str, Description]) -> list[str]:
        missing = [
            record.instance_id
            for record in recorded.values()
            if record.instance_id not in living and not self._young(record)
        ]
        # A second look, by id: what EC2 still calls alive, or on its way down, is not gone yet.
        found = self._ec2.describe(missing) if missing else {}
        return sorted(i for i in missing if i not in found or found[i].state == "terminated")

    def _young(self, record: Record) -> bool:
        try:
            launched = datetime.fromisoformat(record.facts.launch_time or "")
        except ValueError:
            return False
        launched = launched if launched.tzinfo else launched.replace(tzinfo=UTC)
        return self._now() - launched < YOUNG

    def _refresh(self, living: Mapping[str, Description], recorded: Mapping[str, Record], *, dry_run: bool) -> int:
        """Records what lives and is not recorded, or is recorded otherwise: tags come late, addresses change."""
        stale = []
        for description in living.values():
            record = recorded.get(description.instance_id)
            instance = description.instance()
            if self._wanted(description) and (
                record is None or facts_document(instance) != facts_document(record.instance())
            ):
                stale.append(instance)
        if not dry_run:
            for result in self._inventory.remember_running(stale).values():
                if isinstance(result, DecommissionError):
                    raise result
        return len(stale)


def _event_of(record: Record) -> dict[str, str]:
    known = {
        "instance_id": record.instance_id,
        "account_id": record.facts.account_id,
        "region": record.facts.region,
    }
    return {key: value for key, value in known.items() if value}
