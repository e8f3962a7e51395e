"""HTTP steps in the form in which Terraform passes them to the function: the example, its recipes, and their page."""

from __future__ import annotations

import base64
import json
import os
import shutil
import subprocess
import tempfile
from functools import lru_cache
from pathlib import Path
from typing import Any

from testbed.tools import REPOSITORY, terraform_binary

EXAMPLE = REPOSITORY / "examples" / "http-steps"
RECIPES = sorted((EXAMPLE / "recipes").glob("*.tf"))
PAGE = REPOSITORY / "docs" / "http-steps.md"


def of_example(name: str, **variables: str) -> dict[str, Any]:
    """A step of the example, with these values of its variables."""
    files = [EXAMPLE / f"{name}.tf", EXAMPLE / "variables.tf"]
    texts = "\n".join(path.read_text() for path in files)
    return _step(_evaluated(texts, f"local.{name}", tuple(sorted(variables.items()))))


def of_recipe(path: Path) -> dict[str, Any]:
    """The step in a recipe: the local value with the file's name."""
    return _step(_evaluated(path.read_text(), f"local.{path.stem}", ()))


def of_text(text: str) -> dict[str, dict[str, Any]]:
    """All steps in the text ``http_steps = {...}``, by name."""
    return {name: _step(step) for name, step in _evaluated(f"locals {{\n{text}\n}}", "local.http_steps", ()).items()}


def _step(step: dict[str, Any]) -> dict[str, Any]:
    """The step as the module writes it, with only the names of secrets."""
    return {**step, "secrets": sorted(step.get("secrets", {}))}


@lru_cache
def _evaluated(text: str, expression: str, variables: tuple[tuple[str, str], ...]) -> Any:
    folder = Path(tempfile.mkdtemp(prefix="recipe-"))
    try:
        (folder / "main.tf").write_text(text)
        options = [f"-var={name}={value}" for name, value in variables]
        answer = subprocess.run(
            [terraform_binary(), "console", *options],
            cwd=folder,
            input=f"base64encode(jsonencode({expression}))",
            env={**os.environ, "CHECKPOINT_DISABLE": "1"},
            capture_output=True,
            text=True,
            check=False,
            timeout=60,
        )
    finally:
        shutil.rmtree(folder)
    if answer.returncode != 0:
        raise RuntimeError(answer.stderr)
    return json.loads(base64.b64decode(answer.stdout.strip().strip('"')))
