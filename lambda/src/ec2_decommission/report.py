"""The report of one instance: what each step found and did.

The statuses are the contract's: ``done`` (something was removed; ``reason`` tells what was left), ``clean`` (looked;
nothing of this instance was there), ``skipped`` (left all that was found; ``reason`` says whose it is or why) and
``failed`` (``reason`` holds the error; the message is retried).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping

    from .steps.base import Finding, Outcome, Removal

DONE, CLEAN, SKIPPED, FAILED = "done", "clean", "skipped", "failed"


@dataclass(frozen=True)
class StepReport:
    """What one step did for one instance."""

    step: str
    status: str
    actions: tuple[Mapping[str, str], ...] = ()
    reason: str | None = None
    settled_at: str | None = None  # set where the outcome is remembered from an earlier try

    @classmethod
    def of(cls, step: str, finding: Finding, outcome: Outcome | None) -> StepReport:
        """The report of what was found and removed; a dry run has no outcome, and tells what would be removed."""
        removals = finding.removals if outcome is None else outcome.removed
        left = [*finding.left, *(outcome.left if outcome else ())]
        errors = [*([finding.error] if finding.error else []), *(outcome.errors if outcome else ())]
        told = [f"{item.target} left: {item.reason}" for item in dict.fromkeys(left)]
        if errors:
            status = FAILED
        elif removals:
            status = DONE
        else:
            status = SKIPPED if left else CLEAN
        reason = "; ".join([*dict.fromkeys(errors), *told, *finding.notes]) or None
        return cls(step, status, tuple(_action(removal) for removal in removals), reason)

    @classmethod
    def failed(cls, step: str, error: object) -> StepReport:
        """The report of a step that could not be carried out."""
        return cls(step, FAILED, reason=str(error) or type(error).__name__)

    @classmethod
    def skipped(cls, step: str, reason: str) -> StepReport:
        """The report of a step that was not to be carried out."""
        return cls(step, SKIPPED, reason=reason)

    @classmethod
    def remembered(cls, step: str, document: Mapping[str, Any]) -> StepReport:
        """The report as the inventory remembers it."""
        return cls(
            step,
            str(document.get("status")),
            tuple(dict(action) for action in document.get("actions", ())),
            document.get("reason"),
            document.get("settled_at"),
        )

    def document(self) -> dict[str, Any]:
        """As JSON."""
        document = {
            "step": self.step,
            "status": self.status,
            "actions": [dict(action) for action in self.actions],
            "reason": self.reason,
        }
        return {**document, "settled_at": self.settled_at} if self.settled_at else document


def _action(removal: Removal) -> dict[str, str]:
    return {"action": removal.action, "target": removal.target, "proof": removal.proof}


@dataclass(frozen=True)
class Report:
    """What was done for one instance.

    Attributes:
        identity: which identity was used, by ``Instance.identity``.
        errors: what failed outside the steps, for example the inventory; the message is retried.
        note: why no step was carried out, where none was.
        sweep: what a sweep saw and did.
    """

    instance_id: str
    state: str
    dry_run: bool
    steps: tuple[StepReport, ...] = ()
    identity: Mapping[str, Any] = field(default_factory=dict)
    errors: tuple[str, ...] = ()
    note: str | None = None
    sweep: Mapping[str, Any] | None = None

    @property
    def failed(self) -> bool:
        """Whether anything failed, so that the message is to be retried."""
        return bool(self.errors) or any(step.status == FAILED for step in self.steps)

    @property
    def failures(self) -> str:
        """All that failed, in one line."""
        return "; ".join([*self.errors, *(f"{s.step}: {s.reason}" for s in self.steps if s.status == FAILED)])

    def document(self) -> dict[str, Any]:
        """As JSON, in the form of the contract."""
        document: dict[str, Any] = {
            "instance_id": self.instance_id,
            "state": self.state,
            "dry_run": self.dry_run,
            "steps": [step.document() for step in self.steps],
        }
        if self.identity:
            document["identity"] = dict(self.identity)
        if self.errors:
            document["errors"] = list(self.errors)
        if self.note:
            document["note"] = self.note
        if self.sweep is not None:
            document["sweep"] = dict(self.sweep)
        return document
