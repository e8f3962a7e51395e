"""The build reads a user's step, and reports what would fail at its import."""

from __future__ import annotations

import sys

import pytest

from tests.package.conftest import BUILD  # its import makes the program's modules importable

assert BUILD
import step_check  # noqa: E402
from errors import SourceError  # noqa: E402

GOOD = "from ec2_decommission.custom_step import InstanceStep\n\n\ndef make_step(tools): ...\n"


HERE = f"{sys.version_info[0]}.{sys.version_info[1]}"


def check(source: str, runtime: str = f"python{HERE}", **more: str) -> list[str]:
    files = {
        "custom_steps/tidy/__init__.py": source,
        "yaml/__init__.py": "import libyaml",
        "_fast.cpython-313.so": "",
    }
    files |= {f"custom_steps/tidy/{name.replace('__', '/')}.py": text for name, text in more.items()}
    return step_check.check("tidy", {name: text.encode() for name, text in files.items()}, runtime)


def refused(source: str, **more: str) -> str:
    with pytest.raises(SourceError) as error:
        check(source, **more)
    return " ".join(error.value.problems)


@pytest.mark.parametrize(
    "source",
    [
        GOOD,
        "class make_step: ...",
        "make_step = lambda tools: None",
        "make_step: object = lambda tools: None",
        "from .tidy import make_step",
        "from .tidy import *",
        "from .tidy import Tidy as make_step",
        f"import json, yaml, _fast, boto3.session, urllib3\n{GOOD}",
        f"from . import tidy\nfrom .data import nothing\n{GOOD}",
        f"import custom_steps.tidy.tidy\n{GOOD}",
        f"try:\n    import ujson\nexcept ImportError:\n    import json\n{GOOD}",
        f"import typing\nif typing.TYPE_CHECKING:\n    import mypy_boto3_sns\nelse:\n    import json\n{GOOD}",
    ],
)
def test_passes(source: str) -> None:
    assert check(source, tidy="import json", data__list="") == []


@pytest.mark.parametrize(
    ("source", "sentence"),
    [
        ("", "The custom step tidy: its __init__.py does not define make_step, which the function calls."),
        (f"import requests\n{GOOD}", "__init__.py line 1 imports requests, which the package does not contain"),
        (
            f"{GOOD}def f():\n    from ldap3 import Server\n",
            "line 6 imports ldap3, which the package does not contain",
        ),
        (f"from .typo import x\n{GOOD}", "line 1 imports custom_steps.tidy.typo, but the step has no such file"),
        (f"from .tidy import x\n{GOOD}", "tidy.py line 2 imports ldap3, which the package does not contain"),
        (f"from . import tidy\n{GOOD}", "tidy.py line 2 imports ldap3, which the package does not contain"),
        (f"from .data.list import x\n{GOOD}", "data/list.py line 1 imports custom_steps.tidy.none, but the step has"),
        (f"def f(:\n{GOOD}", f"__init__.py line 1 is not valid Python {HERE}: "),
        ("x = 1\x00", f"is not valid Python {HERE}: "),
    ],
)
def test_refuses(source: str, sentence: str) -> None:
    assert sentence in refused(source, tidy="\nimport ldap3", data__list="from ..none import x")


def test_unimported_file_is_not_checked() -> None:
    assert check(GOOD, tests="import pytest") == []


def test_import_of_an_unstable_interface_is_warned_about() -> None:
    [warning] = check(f"from ec2_decommission.clients.aws import AwsClients\n{GOOD}")
    assert warning.startswith(
        "the custom step tidy: __init__.py line 1 imports ec2_decommission.clients.aws, which may"
    )
    assert "only ec2_decommission.custom_step is stable" in warning
    assert check(f"from ec2_decommission import custom_step\n{GOOD}") == []


def test_newer_syntax_than_the_functions_python_is_told() -> None:
    with pytest.raises(SourceError, match=r"line 1 is not valid Python 3\.11: "):
        check(f"type Names = list[str]\n{GOOD}", "python3.11")


@pytest.mark.skipif(sys.version_info[:2] >= (3, 13), reason="nothing is newer than this Python")
def test_older_python_skips_syntax_it_cannot_parse() -> None:
    assert check(f"def f(:\n{GOOD}", "python3.13") == []
