"""The README, cut into its sections and their blocks of code."""

from __future__ import annotations

import re

import pytest

from support import ROOT

README = (ROOT / "README.md").read_text(encoding="utf-8")


def section(title: str) -> str:
    """What stands under a heading of the second level."""
    found = re.search(
        rf"^## {re.escape(title)}\n(.*?)(?=^## |\Z)", README, re.DOTALL | re.MULTILINE
    )
    assert found is not None, f"the README has no section {title!r}"
    return found[1]


def blocks(text: str, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", text, re.DOTALL | re.MULTILINE)


def _named(title: str) -> list[object]:
    found = blocks(section(title), "python")
    numbered = [f"{title} {n}" for n in range(1, len(found) + 1)]
    return [
        pytest.param(block, id=name if len(found) > 1 else title)
        for block, name in zip(found, numbered, strict=True)
    ]


_TITLES = re.findall(r"^## (.*)$", README, re.MULTILINE)

PYTHON = [block for title in _TITLES for block in _named(title)]
#: Without the recipes, which have tests of their own.
PROGRAMS = [block for title in _TITLES if title != "Recipes" for block in _named(title)]
