"""The documents hold together: links lead somewhere, commands exist, and quoted errors are those that are printed."""

from __future__ import annotations

import ast
import re
from functools import cache
from pathlib import Path
from xml.etree import ElementTree

import pytest

ROOT = Path(__file__).resolve().parent.parent.parent
NOT_OURS = {".venv", ".cache", ".git", ".terraform", "build", "dist"}


def files(pattern: str) -> list[Path]:
    return [path for path in sorted(ROOT.rglob(pattern)) if not NOT_OURS & set(path.relative_to(ROOT).parts)]


DOCUMENTS = files("*.md")


def prose(document: Path) -> str:
    """The text without code blocks, in which nothing is a link or a heading."""
    return re.sub(r"^ *```.*?^ *```", "", document.read_text(), flags=re.MULTILINE | re.DOTALL)


@cache
def anchors(document: Path) -> set[str]:
    """GitHub's: lower case, without punctuation, blanks as hyphens, a repeated one numbered."""
    found: dict[str, int] = {}
    result = set()
    for heading in re.findall(r"^#+ (.+)$", prose(document), re.MULTILINE):
        text = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading)
        slug = re.sub(r"[^\w\- ]", "", text.strip().lower()).replace(" ", "-")
        result.add(f"{slug}-{found[slug]}" if slug in found else slug)
        found[slug] = found.get(slug, 0) + 1
    return result


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_every_relative_link_leads_somewhere(document: Path) -> None:
    broken = []
    for target in re.findall(r"\]\(([^)\s]+)\)", prose(document)):
        if re.match(r"[a-z]+:", target):
            continue
        path, _, anchor = target.partition("#")
        there = (document.parent / path).resolve() if path else document
        if not there.exists() or (anchor and there.suffix == ".md" and anchor not in anchors(there)):
            broken.append(target)
    assert broken == []


def test_every_make_target_that_is_quoted_exists() -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    places = [*DOCUMENTS, *files("*.yml"), *files("*.yaml"), ROOT / ".ci" / "run"]
    # In code only: "make sure" is prose.
    unknown = {
        (path.name, target)
        for path in places
        for target in re.findall(r"(?:^|`|: |\|\| |&& )make ([a-z][a-z-]*)", path.read_text(), re.MULTILINE)
        if target not in targets
    }
    assert unknown == set()


def test_every_target_with_a_help_text_is_phony() -> None:
    text = (ROOT / "Makefile").read_text()
    assert set(re.findall(r"^([a-z-]+):.*## ", text, re.MULTILINE)) <= set(re.findall(r"^\.PHONY: (.+)$", text, re.M))


@cache
def printed() -> str:
    """All texts of the product's sources, with an ellipsis for what is filled in."""
    texts = []
    for path in (p for d in ("lambda/src", "lambda/build", "cli") for p in sorted((ROOT / d).rglob("*.py"))):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.JoinedStr):
                parts = [str(p.value) if isinstance(p, ast.Constant) else "…" for p in node.values]
                texts.append("".join(parts))
            elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                texts.append(node.value)
    for path in sorted(ROOT.glob("*.tf")):
        texts += [
            re.sub(r"\$\{[^}]*\}", "…", text)
            for text in re.findall(r'error_message = "(.*)"$', path.read_text(), re.M)
        ]
    return "\n".join(texts)


def test_every_error_that_troubleshooting_quotes_is_one_that_the_product_prints() -> None:
    text = (ROOT / "docs" / "troubleshooting.md").read_text()
    quoted = re.findall(r"\*\*`([^`]+)`\*\*", re.sub(r"\s+", " ", text))
    assert len(quoted) > 30
    unknown = [quote for quote in quoted if quote.strip("… ") not in printed()]
    assert unknown == []


@pytest.mark.parametrize("picture", sorted((ROOT / "docs" / "pictures").glob("*.svg")), ids=lambda path: path.stem)
def test_a_picture_is_well_formed(picture: Path) -> None:
    assert ElementTree.parse(picture).getroot().tag == "{http://www.w3.org/2000/svg}svg"  # noqa: S314
