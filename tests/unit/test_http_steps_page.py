"""The example and its recipes: every step in them is one that the function takes, and the page lists them."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.fakes.http_step import read
from tests.fakes.recipes import EXAMPLE, PAGE, RECIPES, of_example, of_recipe, of_text

pytestmark = pytest.mark.servers  # Terraform evaluates the recipes


def test_the_page_lists_every_recipe_and_says_which_were_run() -> None:
    rows = re.findall(
        r"^\| \[[^]]+\]\(\.\./examples/http-steps/([^)]+)\) \| (tested|not run here)", PAGE.read_text(), re.M
    )
    assert {name for name, how in rows if how == "tested"} == {"zabbix.tf", "icinga.tf"}
    assert sorted(name for name, how in rows if how != "tested") == [f"recipes/{path.name}" for path in RECIPES]


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_a_recipe_is_a_step_that_the_function_takes(path: Path) -> None:
    settings = read(of_recipe(path), path.stem)
    assert settings.prove.equals == "{instance_id}"
    assert "https://" in settings.url


def test_the_first_example_is_a_step_that_the_function_takes() -> None:
    [text] = re.findall(r"^  (http_steps = \{\n.*?^  \})$", PAGE.read_text(), re.MULTILINE | re.DOTALL)
    assert read(of_text(text)["inventory"]).find.items.text == "hosts"


@pytest.mark.parametrize("name", ["zabbix", "icinga"])
def test_a_step_of_the_example_is_one_that_the_function_takes(name: str) -> None:
    settings = read(of_example(name), name)
    assert settings.url.startswith("https://")
    assert f"{name} = local.{name}" in (EXAMPLE / "main.tf").read_text()


@pytest.mark.parametrize(("before", "header", "body"), [("false", True, False), ("true", False, True)])
def test_where_zabbix_takes_its_token(before: str, header: bool, body: bool) -> None:
    step = of_example("zabbix", zabbix_before_6_4=before)
    assert ("Authorization" in step["headers"]) == header
    assert ('"auth"' in step["find"]["body"]) == ('"auth"' in step["remove"]["body"]) == body
