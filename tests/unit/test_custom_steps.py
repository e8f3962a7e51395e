"""A user's own step, found in the package by its name."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from ec2_decommission import wiring
from ec2_decommission.clients.aws import AwsClients
from ec2_decommission.config import Config
from ec2_decommission.errors import ConfigurationError
from ec2_decommission.run import Clock, StepFactory

MODULE = """
class Step:
    name = "audit"

    def __init__(self, settings):
        self.settings = settings


def make_step(settings, secrets):
    return Step(settings)
"""


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    (tmp_path / "custom_steps" / "audit").mkdir(parents=True)
    monkeypatch.syspath_prepend(tmp_path)
    yield tmp_path / "custom_steps" / "audit"
    for name in [name for name in sys.modules if name.split(".")[0] == "custom_steps"]:
        del sys.modules[name]


def factory() -> StepFactory:
    document = {"name": "x", "custom_steps": {"audit": {"settings": {"topic": "gone"}}}}
    clock = Clock()
    [only] = wiring._steps(Config.parse(json.dumps(document)), AwsClients(lambda: clock.deadline), clock)
    return only


def test_a_custom_step_is_made_with_its_settings(package: Path) -> None:
    (package / "__init__.py").write_text(MODULE)
    step = factory().make(False)
    assert (step.name, vars(step)["settings"]) == ("audit", {"topic": "gone"})


def test_a_custom_step_that_is_not_in_the_package_is_named() -> None:
    with pytest.raises(ConfigurationError, match="custom step audit: the package does not hold it"):
        factory().make(False)


def test_a_custom_step_without_make_step_is_told(package: Path) -> None:
    (package / "__init__.py").write_text("")
    with pytest.raises(ConfigurationError, match=r"custom step audit: .* no function make_step"):
        factory().make(False)
