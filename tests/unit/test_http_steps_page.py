"""The page of recipes, and the example: every step in them is one that the function takes."""

from __future__ import annotations

import re
from typing import Any

import pytest

from tests.fakes.http_step import read
from tests.fakes.recipes import EXAMPLE, PAGE, of_example, of_page

pytestmark = pytest.mark.servers  # Terraform evaluates the recipes

NAMES = ["awx", "crowdstrike", "datadog", "inventory", "netbox", "sensu", "servicenow", "tailscale", "wazuh"]


def test_the_page_has_the_recipes_that_its_table_names() -> None:
    assert sorted([*of_page(), "inventory"]) == NAMES
    rows = re.findall(r"^\| \[([^]]+)\]\(([^)]+)\) \| (tested|not run here)", PAGE.read_text(), re.MULTILINE)
    assert len(rows) == len(NAMES) - 1 + 2
    tested = {name for name, _, how in rows if how == "tested"}
    assert tested == {"Zabbix", "Icinga 2"}


@pytest.mark.parametrize("name", [name for name in NAMES if name != "inventory"])
def test_a_recipe_is_a_step_that_the_function_takes(name: str) -> None:
    settings = read(of_page()[name], name)
    assert settings.prove.equals == "{instance_id}"
    assert "https://" in settings.url


def test_the_first_example_is_a_step_that_the_function_takes() -> None:
    [text] = re.findall(r"^  (http_steps = \{\n.*?^  \})$", PAGE.read_text(), re.MULTILINE | re.DOTALL)
    step: Any = of_page(f"```hcl\n{re.sub('^  ', '', text, flags=re.MULTILINE)}\n```")["inventory"]
    assert read(step).find.items.text == "hosts"


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
