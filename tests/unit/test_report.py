"""The report: statuses and reasons."""

from __future__ import annotations

import pytest

from ec2_decommission.report import Report, StepReport
from ec2_decommission.steps.base import Finding, Left, Outcome, Removal

A, B = Removal("delete", "A x", "p", handle=object()), Removal("delete", "A y", "q")
LEFT = Left("A z", "somebody's")


@pytest.mark.parametrize(
    ("finding", "outcome", "status", "targets", "reason"),
    [
        (Finding(), Outcome(), "clean", [], None),
        (Finding((A,)), Outcome((A,)), "done", ["A x"], None),
        (Finding((A, B)), Outcome((B,)), "done", ["A y"], None),
        (Finding((A,)), Outcome(), "clean", [], None),
        (Finding(left=(LEFT,)), Outcome(), "skipped", [], "A z left: somebody's"),
        (Finding((A,), (LEFT,)), Outcome((A,)), "done", ["A x"], "A z left: somebody's"),
        (Finding((A,)), Outcome(left=(LEFT,)), "skipped", [], "A z left: somebody's"),
        (Finding((A,), (LEFT,)), Outcome((A,), (LEFT,)), "done", ["A x"], "A z left: somebody's"),
        (Finding(notes=("n",)), Outcome(), "clean", [], "n"),
        (Finding((A, B)), Outcome((A,), errors=("no", "no")), "failed", ["A x"], "no"),
        (
            Finding((A,), (LEFT,), ("n",), "e"),
            Outcome((A,), errors=("f",)),
            "failed",
            ["A x"],
            "e; f; A z left: somebody's; n",
        ),
        (Finding((A,)), None, "done", ["A x"], None),
        (Finding(left=(LEFT,)), None, "skipped", [], "A z left: somebody's"),
        (Finding((A,), error="e"), None, "failed", ["A x"], "e"),
    ],
)
def test_the_status_is_the_contracts(
    finding: Finding, outcome: Outcome | None, status: str, targets: list[str], reason: str | None
) -> None:
    report = StepReport.of("route53", finding, outcome)
    assert (report.step, report.status, report.reason) == ("route53", status, reason)
    assert [action["target"] for action in report.actions] == targets
    assert all(set(action) == {"action", "target", "proof"} for action in report.actions)


def test_a_failure_always_has_a_reason() -> None:
    assert StepReport.failed("chef", ValueError()).reason == "ValueError"
    assert StepReport.failed("chef", "no").reason == "no"


def test_what_is_remembered_reads_as_it_was_written() -> None:
    report = StepReport.of("chef", Finding((A,), (LEFT,)), Outcome((A,)))
    assert StepReport.remembered("chef", report.document()) == report
    settled = {**report.document(), "settled_at": "now"}
    assert StepReport.remembered("chef", settled).document() == settled
    assert StepReport.remembered("chef", {}).status == "None"


def test_the_document_is_the_contracts_and_holds_nothing_empty() -> None:
    step = StepReport.skipped("chef", "why")
    assert Report("i-1", "terminated", dry_run=True, steps=(step,)).document() == {
        "instance_id": "i-1",
        "state": "terminated",
        "dry_run": True,
        "steps": [{"step": "chef", "status": "skipped", "actions": [], "reason": "why"}],
    }
    full = Report("i-1", "x", dry_run=False, identity={"a": 1}, errors=("e",), note="n").document()
    assert (full["identity"], full["errors"], full["note"]) == ({"a": 1}, ["e"], "n")


def test_what_fails() -> None:
    failed, skipped = StepReport.failed("chef", "no"), StepReport.skipped("consul", "x")
    assert not Report("i", "t", dry_run=False, steps=(skipped,)).failed
    assert Report("i", "t", dry_run=False, steps=(skipped, failed)).failed
    assert Report("i", "t", dry_run=False, errors=("e",), steps=(failed,)).failures == "e; chef: no"
