"""A user's own step: found in the package by its name, and held to the rules of the module's own."""

from __future__ import annotations

import json
import sys
from typing import TYPE_CHECKING, Any, cast

import pytest
from botocore.exceptions import ClientError

from ec2_decommission import application, custom_step
from ec2_decommission.clients.aws import AwsClients
from ec2_decommission.config import Config
from ec2_decommission.custom_step import (
    AccessError,
    Batch,
    ConfigurationError,
    Deadline,
    DecommissionError,
    Facts,
    Finding,
    Instance,
    InstanceStep,
    Left,
    Note,
    Outcome,
    OutOfTime,
    Removal,
    StepTools,
    TransientError,
)
from ec2_decommission.run import Circumstances, StepFactory
from ec2_decommission.steps.custom import CheckedStep, load
from tests.fakes.log import FakeLog
from tests.fakes.world import World, step_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from pathlib import Path

    from ec2_decommission.custom_step import Living

MODULE = """
class Step:
    def __init__(self, tools):
        self.tools = tools

    def look(self, batch): return {}
    def find(self, batch): return {}
    def remove(self, batch, findings): return {}


make_step = Step
"""


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    (tmp_path / "custom_steps" / "audit").mkdir(parents=True)
    monkeypatch.syspath_prepend(tmp_path)
    yield tmp_path / "custom_steps" / "audit"
    for name in [name for name in sys.modules if name.split(".")[0] == "custom_steps"]:
        del sys.modules[name]


def factory() -> StepFactory:
    step = {"settings": {"topic": "gone"}, "secrets": ["token"]}
    own = {"name": "x", "account_id": "111111111111", "region": "us-east-1"}
    document = {**own, "custom_steps": {"audit": step}, "encryption_context": {"FunctionName": "x"}}
    config, aws = Config.parse(json.dumps(document)), AwsClients()
    [only] = application._steps(config, aws, application._Systems(config, aws))
    return only


def tools_of(step: Any) -> StepTools:
    tools: StepTools = step._step.tools
    return tools


# Loading


def test_a_custom_step_is_given_its_settings_and_the_names_of_its_secrets(package: Path) -> None:
    (package / "__init__.py").write_text(MODULE)
    tools = tools_of(factory().make(Circumstances(dry_run=True)))
    assert (tools.name, tools.settings, list(tools.secrets), tools.dry_run) == (
        "audit",
        {"topic": "gone"},
        ["token"],
        True,
    )


def test_a_custom_steps_aws_client_keeps_to_the_deadline(package: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "test")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "eu-west-1")
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:1")
    (package / "__init__.py").write_text(MODULE)
    tools = tools_of(factory().make(Circumstances(dry_run=False)))
    assert tools.deadline.remaining() == 0
    with pytest.raises(OutOfTime):
        tools.aws("cloudwatch").describe_alarms()


def test_a_custom_step_that_is_not_in_the_package_is_named() -> None:
    with pytest.raises(ConfigurationError, match="custom step audit: the package does not contain the step"):
        factory().make(Circumstances(dry_run=False))


@pytest.mark.parametrize(
    ("source", "sentence"),
    [
        ("", "custom step audit: its __init__.py has no function make_step"),
        (
            "import none_such",
            "custom step audit: the package does not contain the step or a module it imports: .*none_such",
        ),
        ("make_step = lambda tools: object()", "the object that make_step returns has no look, find, remove"),
        ("make_step = lambda tools: tools.setting('zone')", r"custom_steps.audit.settings has no zone, which the"),
        ("make_step = lambda tools: tools.secret('key')", r"custom_steps.audit.secrets has no key, which the step"),
        ("raise KeyError('x')", "unexpected KeyError: 'x'"),
        ("def f(:", "unexpected SyntaxError"),
        ("import sys; sys.exit(3)", r"custom step audit called sys.exit\(3\)"),
    ],
)
def test_problems_of_a_custom_step_are_reported(package: Path, source: str, sentence: str) -> None:
    (package / "__init__.py").write_text(source)
    with pytest.raises(DecommissionError, match=sentence):
        factory().make(Circumstances(dry_run=False))


def test_missing_secret_is_reported_by_its_full_name(package: Path) -> None:
    (package / "__init__.py").write_text("make_step = lambda tools: tools.secret('token')")
    with pytest.raises(ConfigurationError, match=r"neither the package nor a layer has sealed_secrets\.json"):
        factory().make(Circumstances())


# The rules, whatever the user's code does


class Broken:
    """A step whose answers are given."""

    def __init__(self, **answers: Any) -> None:
        self.answers = answers
        self.findings: Any = None

    def look(self, batch: Batch) -> Any:
        return self._answer("look", batch, {})

    def find(self, batch: Batch) -> Any:
        return self._answer("find", batch, {i: Finding((REMOVAL,)) for i in batch.instances})

    def remove(self, batch: Batch, findings: Any) -> Any:
        self.findings = findings
        return self._answer("remove", batch, {i: Outcome(f.removals) for i, f in findings.items()})

    def _answer(self, act: str, batch: Batch, default: Any) -> Any:
        answer = self.answers.get(act, default)
        if isinstance(answer, BaseException):
            raise answer
        return answer


REMOVAL = Removal("delete", "thing 1", "it says so")


def world_with(step: Any, tools: StepTools | None = None) -> World:
    def make(circumstances: Circumstances) -> CheckedStep:
        return CheckedStep(tools or StepTools("mine", dry_run=circumstances.dry_run, log=FakeLog()), step)

    return World(zones=False, more_steps=[StepFactory("mine", make)])


def report_of(step: Any, tools: StepTools | None = None, *, dry_run: bool = False) -> dict[str, Any]:
    """The step's report for one dead instance, i-1, as the function makes it."""
    world = world_with(step, tools)
    instance_id = world.launch("web-1")
    world.ec2.terminate(instance_id)
    return step_of(world.operate(instance_id, dry_run=dry_run), "mine")


def test_valid_step_result_is_accepted() -> None:
    assert report_of(Broken()) == {
        "step": "mine",
        "status": "done",
        "actions": [{"action": "delete", "target": "thing 1", "proof": "it says so"}],
        "reason": None,
    }


def test_dry_run_removes_nothing_and_reports_the_same() -> None:
    step = Broken()
    assert report_of(step, dry_run=True)["actions"] == [
        {"action": "delete", "target": "thing 1", "proof": "it says so"}
    ]
    assert step.findings is None


@pytest.mark.parametrize(
    ("answers", "reason", "kind"),
    [
        ({"look": None}, None, None),
        ({"look": {"i-elsewhere": Facts("mine")}}, None, None),
        ({"look": ["i-1"]}, "look returned a list; expected a mapping by id", "configuration"),
        ({"find": None}, "find returned a NoneType; expected a mapping by id", "configuration"),
        ({"find": {}}, "find returned no Finding for this instance", "configuration"),
        ({"remove": {}}, "remove returned no Outcome for this instance", "configuration"),
        ({"remove": None}, "remove returned a NoneType; expected a mapping by id", "configuration"),
        ({"look": ValueError("bad")}, "unexpected ValueError: bad", "transient"),
        ({"find": KeyError("x")}, "unexpected KeyError: 'x'", "transient"),
        ({"remove": ZeroDivisionError("by 0")}, "unexpected ZeroDivisionError: by 0", "transient"),
        ({"find": SystemExit(2)}, "custom step mine called sys.exit(2)", "transient"),
        ({"find": AccessError("may not")}, "may not", "permission"),
    ],
)
def test_a_step_that_breaks_a_rule_fails_and_never_looks_clean(
    answers: dict[str, Any], reason: str | None, kind: str | None
) -> None:
    report = report_of(Broken(**answers))
    assert report["status"] == ("failed" if reason else "done")
    assert report.get("error_kind") == kind
    if reason:
        assert reason in report["reason"]


def test_objects_without_a_proof_are_not_removed() -> None:
    class Unproven(Broken):
        def find(self, batch: Batch) -> Any:
            return {i: Finding((REMOVAL, Removal("delete", "thing 2", " "))) for i in batch.instances}

    step = Unproven()
    report = report_of(step)
    assert report["status"] == "failed"
    assert "a removal without action, target or proof; it is not removed" in report["reason"]
    assert [action["target"] for action in report["actions"]] == ["thing 1"]


def test_removal_of_an_object_that_was_not_found_is_reported() -> None:
    class Overzealous(Broken):
        def remove(self, batch: Batch, findings: Any) -> Any:
            return {i: Outcome((REMOVAL, Removal("delete", "thing 3", "x"))) for i in findings}

    report = report_of(Overzealous())
    assert report["status"] == "failed"
    assert "remove reports thing 3, which find did not return" in report["reason"]


def test_a_custom_steps_failure_stops_no_other_step() -> None:
    world = world_with(Broken(find=RuntimeError("mine alone")))
    other = Broken()
    world.more_steps.append(StepFactory("other", lambda _: CheckedStep(StepTools("other"), other)))
    world.cold_start()
    instance_id = world.launch("web-1")
    world.ec2.terminate(instance_id)
    report = world.operate(instance_id)
    assert [(step["step"], step["status"]) for step in report["steps"]] == [("mine", "failed"), ("other", "done")]


# The short way to a step


class Things(InstanceStep):
    """Removes ``things``, by instance id; raises the fault that is set for a thing."""

    things: dict[str, list[str]]
    faults: dict[str, Exception]

    def __init__(self, tools: StepTools) -> None:
        super().__init__(tools)
        self.things, self.faults = {}, {}

    def find_one(self, instance: Instance, living: Living) -> Iterable[Removal | Left | Note]:
        yield Note("nothing said of the moon")
        for thing in self.things.get(instance.instance_id, ()):
            if thing.startswith("other"):
                yield Left(thing, "another's")
            elif thing.startswith("unreadable"):
                raise self.faults[thing]
            else:
                yield Removal("delete", thing, "in its list", handle=thing)

    def remove_one(self, instance: Instance, removal: Removal) -> bool | Left | None:
        if removal.target in self.faults:
            raise self.faults[removal.target]
        if removal.target == "gone":
            return False
        if removal.target == "changed":
            return Left("changed", "another's by now")
        self.things[instance.instance_id].remove(removal.handle)
        return None


class NoLiving:
    """Nothing lives."""

    def interfaces(self, addresses: Iterable[str]) -> dict[str, Any]:
        return {}

    def bearers(self, template: Any, names: Iterable[str]) -> dict[str, Any]:
        return {}


def batch(*ids: str) -> Batch:
    return Batch({i: Instance(i) for i in ids}, cast("Living", NoLiving()), Deadline.after(60))


def things(**by_id: list[str]) -> tuple[Things, Batch]:
    step = Things(StepTools("mine", log=FakeLog()))
    step.things = {key.replace("_", "-"): value for key, value in by_id.items()}
    return step, batch(*step.things)


def test_an_instance_step_sorts_what_it_finds() -> None:
    step, of = things(i_1=["a", "other b"], i_2=[])
    assert step.look(of) == {}
    found = step.find(of)
    assert found["i-1"].removals == (Removal("delete", "a", "in its list"),)
    assert found["i-1"].left == (Left("other b", "another's"),)
    assert found["i-1"].notes == found["i-2"].notes == ("nothing said of the moon",)


def test_instance_step_distinguishes_removed_gone_and_changed() -> None:
    step, of = things(i_1=["a", "gone", "changed"])
    outcome = step.remove(of, step.find(of))["i-1"]
    assert [removal.target for removal in outcome.removed] == ["a"]
    assert outcome.left == (Left("changed", "another's by now"),)
    assert outcome.errors == ()


def test_failure_affects_only_its_instance() -> None:
    step, of = things(i_1=["a", "unreadable"], i_2=["b", "c"])
    step.faults = {"unreadable": TimeoutError("no answer"), "b": OutOfTime("5 s are left")}
    found = step.find(of)
    assert [type(error) for error in found["i-1"].errors] == [TransientError]
    assert found["i-2"].errors == ()
    outcomes = step.remove(of, found)
    assert [removal.target for removal in outcomes["i-1"].removed] == ["a"]
    assert [removal.target for removal in outcomes["i-2"].removed] == ["c"]
    assert [str(error) for error in outcomes["i-2"].errors] == ["b: 5 s are left"]


def test_an_instance_step_that_yields_something_else_fails() -> None:
    class Wrong(Things):
        def find_one(self, instance: Instance, living: Living) -> Any:
            return ["thing"]

    found = Wrong(StepTools("mine", log=FakeLog())).find(batch("i-1"))
    assert "find_one yielded a str; expected a Removal, Left or Note" in str(found["i-1"].errors[0])


def test_step_with_a_missing_method_is_rejected(package: Path) -> None:
    (package / "__init__.py").write_text(
        "from ec2_decommission.custom_step import InstanceStep\n"
        "class Half(InstanceStep):\n"
        "    def find_one(self, instance, living): return []\n"
        "make_step = Half\n"
    )
    with pytest.raises(
        TransientError, match=r"unexpected TypeError: Can't instantiate abstract class Half.*remove_one"
    ):
        load(StepTools("audit", log=FakeLog()))


# Errors


def client_error(code: str) -> ClientError:
    return ClientError({"Error": {"Code": code, "Message": "why"}}, "DeleteAlarms")


@pytest.mark.parametrize(
    ("error", "kind", "text"),
    [
        (client_error("AccessDenied"), "permission", "AWS denies the function's role the right to call DeleteAlarms"),
        (client_error("Throttling"), "transient", "could not call DeleteAlarms: Throttling: why"),
        (ValueError("not AWS's"), "transient", "unexpected ValueError: not AWS's"),
        (custom_step.PermanentError("never"), "permanent", "never"),
    ],
)
def test_errors_map_to_error_types(error: Exception, kind: str, text: str) -> None:
    told = StepTools("mine", log=FakeLog()).explain(error)
    assert told.kind == kind
    assert text in str(told)


def test_an_unexpected_error_is_logged_with_its_place() -> None:
    log = FakeLog()
    step = Things(StepTools("mine", log=log))
    step.things, step.faults = {"i-1": ["unreadable"]}, {"unreadable": KeyError("x")}
    step.find(batch("i-1"))
    [line] = log.lines
    assert line.extra["step"] == "mine"
    assert "in find_one" in line.extra["stack_trace"]


@pytest.mark.parametrize("make", [KeyError, TransientError], ids=["unexpected", "told"])
def test_errors_do_not_contain_secrets(make: Callable[[str], Exception]) -> None:
    log = FakeLog()
    tools = StepTools("mine", secrets={"token": "hunter2"}, log=log)
    step = Things(tools)
    step.things, step.faults = {"i-1": ["unreadable"]}, {"unreadable": make("GET /?token=hunter2 failed")}
    found = step.find(batch("i-1"))["i-1"]
    told = [str(found.errors[0]), *(json.dumps(line.extra) for line in log.lines), repr(tools)]
    assert "token=***" in told[0]
    assert not any("hunter2" in text for text in told)


def test_secrets_are_decrypted_on_first_use_and_only_the_steps_own_are_visible() -> None:
    opened = []

    def open_one(name: str) -> str:
        opened.append(name)
        return f"value of {name}"

    tools = StepTools("mine", secrets=custom_step.OwnSecrets(["a", "b"], open_one), log=FakeLog())
    tools.explain(KeyError("x"))
    assert (list(tools.secrets), len(tools.secrets), opened) == (["a", "b"], 2, [])
    assert tools.secret("a") == tools.secret("a") == "value of a"
    with pytest.raises(ConfigurationError, match=r"custom_steps\.mine\.secrets has no c"):
        tools.secret("c")
    assert opened == ["a"]


def test_tools_without_aws_say_so() -> None:
    with pytest.raises(ConfigurationError, match=r"StepTools\(aws=boto3.client\)"):
        StepTools("mine").aws("sns")


# The promise to those who wrote a step long ago


def test_version_1_of_the_interface_keeps_its_names() -> None:
    promised = {
        *("InstanceStep", "StepTools", "Removal", "Left", "Note", "Finding", "Outcome", "Facts", "Instance"),
        *("Batch", "Living", "Interface", "Template", "Deadline", "API_VERSION"),
        *("DecommissionError", "ConfigurationError", "AccessError", "TransientError", "PermanentError"),
        *("OutOfTime", "StillAlive"),
    }
    assert custom_step.API_VERSION == 1
    assert promised <= set(custom_step.__all__)
    assert all(hasattr(custom_step, name) for name in custom_step.__all__)
