"""The examples in docstrings do what they show."""

from __future__ import annotations

import doctest
import importlib
import pkgutil
from importlib.util import find_spec
from pathlib import Path

import pytest

import repo_stream

MODULES = [
    module.name
    for module in pkgutil.walk_packages(repo_stream.__path__, "repo_stream.")
    # What is made from the async face has its examples run in tests/sync.
    if not module.name.endswith("__main__") and module.name != "repo_stream.sync"
    # It imports Ray, and has no examples: what people call is in the modules beside it.
    if module.name != "repo_stream.ray.datasource"
    # Examples of the Arrow stream need what reads it.
    if (find_spec("duckdb") or not module.name.startswith("repo_stream.arrow."))
]


def test_examples_in_docstrings_do_what_they_show(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(Path(__file__).parents[2])  # some read the sample repo
    results = {name: doctest.testmod(importlib.import_module(name)) for name in MODULES}
    assert [name for name, result in results.items() if result.failed] == []
    assert sum(result.attempted for result in results.values()) > 40
