"""The report of one instance: what each step found and did.

The statuses are ``done`` (something was removed; ``reason`` says what was left), ``clean`` (nothing of this instance
was found), ``skipped`` (everything found was left; ``reason`` says who owns it or why) and ``failed`` (``reason``
holds the error, ``error_kind`` says what to do about it; the message is retried).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from .errors import PERMANENT, TRANSIENT, DecommissionError, gravest

if TYPE_CHECKING:
    from collections.abc import Mapping

    from .place import Place
    from .steps.base import Finding, Outcome, Removal

DONE, CLEAN, SKIPPED, FAILED = "done", "clean", "skipped", "failed"


@dataclass(frozen=True)
class StepReport:
    """What one step did for one instance.

    Attributes:
        settled_at: set if the result was recorded by an earlier try.
        error_kind: the kind of the error of a failed step, as in ``errors``.
    """

    step: str
    status: str
    actions: tuple[Mapping[str, str], ...] = ()
    reason: str | None = None
    settled_at: str | None = None
    error_kind: str | None = None

    @classmethod
    def of(cls, step: str, finding: Finding, outcome: Outcome | None) -> StepReport:
        """Reports what was found and removed. A dry run has no outcome, and lists what would be removed."""
        removals = finding.removals if outcome is None else outcome.removed
        left = [*finding.left, *(outcome.left if outcome else ())]
        errors = [*finding.errors, *(outcome.errors if outcome else ())]
        told = [f"{item.target} left: {item.reason}" for item in dict.fromkeys(left)]
        if errors:
            status = FAILED
        elif removals:
            status = DONE
        else:
            status = SKIPPED if left else CLEAN
        reason = "; ".join([*dict.fromkeys(map(_text, errors)), *told, *finding.notes]) or None
        kind = gravest(error.kind for error in errors)
        return cls(step, status, tuple(_action(removal) for removal in removals), reason, error_kind=kind)

    @classmethod
    def failed(cls, step: str, error: DecommissionError) -> StepReport:
        """Reports a step that could not run."""
        return cls(step, FAILED, reason=_text(error), error_kind=error.kind)

    @classmethod
    def skipped(cls, step: str, reason: str) -> StepReport:
        """Reports a step that had to be skipped."""
        return cls(step, SKIPPED, reason=reason)

    @classmethod
    def remembered(cls, step: str, document: Mapping[str, Any]) -> StepReport:
        """Reads the report as recorded in the inventory."""
        return cls(
            step,
            str(document.get("status")),
            tuple(dict(action) for action in document.get("actions", ())),
            document.get("reason"),
            document.get("settled_at"),
            document.get("error_kind"),
        )

    def document(self) -> dict[str, Any]:
        """As JSON."""
        document: dict[str, Any] = {
            "step": self.step,
            "status": self.status,
            "actions": [dict(action) for action in self.actions],
            "reason": self.reason,
        }
        if self.error_kind:
            document["error_kind"] = self.error_kind
        if self.settled_at:
            document["settled_at"] = self.settled_at
        return document


def _text(error: Exception) -> str:
    return str(error) or type(error).__name__


def _action(removal: Removal) -> dict[str, str]:
    return {"action": removal.action, "target": removal.target, "proof": removal.proof}


@dataclass(frozen=True)
class Report:
    """What was done for one instance.

    Attributes:
        place: the instance's account and region.
        request_id: the AWS request id of the invocation.
        identity: the identity used, from ``Instance.identity``.
        errors: what failed outside the steps, for example the inventory; the message is retried.
        note: why no step ran, if none did.
        sweep: what a sweep found and did.
    """

    instance_id: str
    place: Place
    state: str
    dry_run: bool
    request_id: str = ""
    steps: tuple[StepReport, ...] = ()
    identity: Mapping[str, Any] = field(default_factory=dict)
    errors: tuple[DecommissionError, ...] = ()
    note: str | None = None
    sweep: Mapping[str, Any] | None = None

    @property
    def failed(self) -> bool:
        """Whether anything failed, so that the message is retried."""
        return bool(self.errors) or any(step.status == FAILED for step in self.steps)

    @property
    def failures(self) -> str:
        """All failures, in one line."""
        failed = (f"{step.step}: {step.reason}" for step in self.steps if step.status == FAILED)
        return "; ".join([*map(_text, self.errors), *failed])

    @property
    def error_kinds(self) -> tuple[str, ...]:
        """The distinct kinds of all failures."""
        steps = (step.error_kind or TRANSIENT for step in self.steps if step.status == FAILED)
        return tuple(sorted({*(error.kind for error in self.errors), *steps}))

    @property
    def permanent(self) -> bool:
        """Whether something failed and no retry can fix any of it."""
        return self.error_kinds == (PERMANENT,)

    def document(self) -> dict[str, Any]:
        """As JSON, in the documented form."""
        document: dict[str, Any] = {
            "instance_id": self.instance_id,
            "account_id": self.place.account_id,
            "region": self.place.region,
            "state": self.state,
            "dry_run": self.dry_run,
            "request_id": self.request_id,
            "steps": [step.document() for step in self.steps],
        }
        if self.identity:
            document["identity"] = dict(self.identity)
        if self.errors:
            document["errors"] = [_text(error) for error in self.errors]
        if self.failed:
            document["error_kind"] = gravest(self.error_kinds)
        if self.note:
            document["note"] = self.note
        if self.sweep is not None:
            document["sweep"] = dict(self.sweep)
        return document
