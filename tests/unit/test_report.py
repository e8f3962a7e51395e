"""The report: statuses and reasons."""

from __future__ import annotations

import pytest

from ec2_decommission.errors import (
    AccessError,
    ConfigurationError,
    DecommissionError,
    MalformedEvent,
    PermanentError,
    StillAlive,
    TransientError,
    about,
)
from ec2_decommission.place import Place
from ec2_decommission.report import Report, StepReport
from ec2_decommission.steps.base import Finding, Left, Outcome, Removal

A, B = Removal("delete", "A x", "p", handle=object()), Removal("delete", "A y", "q")
LEFT = Left("A z", "somebody's")
PLACE = Place("111111111111", "eu-west-1")
NO, E, F = TransientError("no"), TransientError("e"), TransientError("f")


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
        (Finding((A, B)), Outcome((A,), errors=(NO, TransientError("no"))), "failed", ["A x"], "no"),
        (
            Finding((A,), (LEFT,), ("n",), (E,)),
            Outcome((A,), errors=(F,)),
            "failed",
            ["A x"],
            "e; f; A z left: somebody's; n",
        ),
        (Finding((A,)), None, "done", ["A x"], None),
        (Finding(left=(LEFT,)), None, "skipped", [], "A z left: somebody's"),
        (Finding((A,), errors=(E,)), None, "failed", ["A x"], "e"),
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
    assert StepReport.failed("chef", TransientError()).reason == "TransientError"
    assert StepReport.failed("chef", NO).reason == "no"


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (TransientError("e"), "transient"),
        (StillAlive("e"), "transient"),
        (ConfigurationError("e"), "configuration"),
        (AccessError("e"), "permission"),
        (PermanentError("e"), "permanent"),
        (MalformedEvent("e"), "permanent"),
    ],
)
def test_a_failure_tells_its_kind(error: DecommissionError, kind: str) -> None:
    of_a_thing = about("A x", error)
    assert (of_a_thing.kind, str(of_a_thing)) == (kind, "A x: e")
    for report in (
        StepReport.failed("chef", error),
        StepReport.of("chef", Finding(errors=(error,)), Outcome()),
        StepReport.of("chef", Finding((A,)), Outcome((A,), errors=(of_a_thing,))),
    ):
        assert report.document()["error_kind"] == kind
        assert StepReport.remembered("chef", report.document()) == report


def test_only_a_failure_has_a_kind() -> None:
    assert "error_kind" not in StepReport.of("chef", Finding((A,)), Outcome((A,))).document()
    assert "error_kind" not in Report("i", PLACE, "t", dry_run=False).document()


@pytest.mark.parametrize(
    ("errors", "kind"),
    [
        ([PermanentError(), TransientError()], "transient"),
        ([TransientError(), ConfigurationError(), PermanentError()], "configuration"),
        ([ConfigurationError(), AccessError()], "permission"),
        ([PermanentError(), PermanentError()], "permanent"),
    ],
)
def test_kind_of_several_errors_is_the_most_actionable(errors: list[DecommissionError], kind: str) -> None:
    assert (
        StepReport.of("chef", Finding(errors=tuple(errors[:1])), Outcome(errors=tuple(errors[1:]))).error_kind == kind
    )
    steps = tuple(StepReport.failed(f"s{n}", error) for n, error in enumerate(errors[1:]))
    report = Report("i", PLACE, "t", dry_run=False, steps=steps, errors=tuple(errors[:1]))
    assert report.document()["error_kind"] == kind
    assert report.permanent is (kind == "permanent")
    assert set(report.error_kinds) == {error.kind for error in errors}


@pytest.mark.parametrize(
    "errors", ["no", TransientError("no"), ["no"], [ValueError("no")], [TransientError("no"), ""]]
)
def test_what_a_custom_step_hands_over_as_an_error_is_one(errors: object) -> None:
    for holder in (Finding(errors=errors), Outcome(errors=errors)):  # type: ignore[arg-type]
        assert [(type(e), str(e)) for e in holder.errors] == [(TransientError, "no")]


def test_what_is_remembered_reads_as_it_was_written() -> None:
    report = StepReport.of("chef", Finding((A,), (LEFT,)), Outcome((A,)))
    assert StepReport.remembered("chef", report.document()) == report
    settled = {**report.document(), "settled_at": "now"}
    assert StepReport.remembered("chef", settled).document() == settled
    assert StepReport.remembered("chef", {}).status == "None"


def test_the_document_is_the_contracts_and_holds_nothing_empty() -> None:
    step = StepReport.skipped("chef", "why")
    assert Report("i-1", PLACE, "terminated", dry_run=True, steps=(step,)).document() == {
        "instance_id": "i-1",
        "account_id": "111111111111",
        "region": "eu-west-1",
        "request_id": "",
        "state": "terminated",
        "dry_run": True,
        "steps": [{"step": "chef", "status": "skipped", "actions": [], "reason": "why"}],
    }
    full = Report("i-1", PLACE, "x", dry_run=False, identity={"a": 1}, errors=(E,), note="n").document()
    assert (full["identity"], full["errors"], full["note"]) == ({"a": 1}, ["e"], "n")


def test_failures() -> None:
    failed, skipped = StepReport.failed("chef", NO), StepReport.skipped("consul", "x")
    assert not Report("i", PLACE, "t", dry_run=False, steps=(skipped,)).failed
    assert Report("i", PLACE, "t", dry_run=False, steps=(skipped, failed)).failed
    assert Report("i", PLACE, "t", dry_run=False, errors=(E,), steps=(failed,)).failures == "e; chef: no"
