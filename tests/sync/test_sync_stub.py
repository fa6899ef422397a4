"""One declaration serves both faces: names, signatures and docstrings are the same."""

from __future__ import annotations

import ast
import doctest
import inspect
import re
from collections.abc import Iterator
from typing import Any

import pytest

import repo_stream
from repo_stream import sync
from support.sync_stub import STUB, stub

ASYNC: list[str] = vars(repo_stream)["__getattr__"]("__all__")
NAMES: list[str] = [name for name in vars(sync)["__getattr__"]("__all__") if name != "Source"]


def documented() -> Iterator[tuple[str, Any]]:
    for name in NAMES:
        value = getattr(sync, name)
        yield name, value
        if inspect.isclass(value):
            for member, found in inspect.getmembers_static(value):
                if not member.startswith("_") and member in declared(name):
                    yield f"{name}.{member}", found


def declared(name: str) -> set[str]:
    """The public members of a class in the stub, with those of its base there."""
    kinds = {name, "Repo"} if name == "AccountRepo" else {name}
    return {
        each.name
        for node in ast.parse(STUB.read_text("utf-8")).body
        if isinstance(node, ast.ClassDef) and node.name in kinds
        for each in node.body
        if isinstance(each, ast.FunctionDef) and not each.name.startswith("_")
    }


def test_the_stub_is_what_the_script_writes() -> None:
    assert STUB.read_text("utf-8") == stub(), "run: cd tests && python -m support.sync_stub"


def test_every_name_is_there_at_run_time_with_its_docstring() -> None:
    found = dict(documented())
    assert len(found) > 60
    assert [name for name, value in found.items() if not inspect.getdoc(value)] == []
    for name in ("Repo", "AccountRepo", "OrderedCar", "Network"):
        assert declared(name) <= set(dir(getattr(sync, name)))


def test_signatures_are_those_of_the_async_siblings() -> None:
    for name in NAMES:
        mine, theirs = getattr(sync, name), getattr(repo_stream, name)
        if inspect.isfunction(mine):
            assert [*inspect.signature(mine).parameters.values()] == [
                *inspect.signature(theirs).parameters.values()
            ]
    shown = inspect.signature(sync.open_car)
    assert str(shown).endswith("-> 'AbstractContextManager[Repo[Any]]'")
    assert sync.open_car.__annotations__["return"] == shown.return_annotation
    assert list(inspect.signature(sync.Repo.next_chunk).parameters) == ["self", "n"]
    assert inspect.signature(sync.Network) == inspect.signature(repo_stream.Network)


def test_nothing_async_is_left_in_what_is_said() -> None:
    words = re.compile(
        r"\basync\b|\bawait\b|aclose|Async|\bcancelled\b|event loop|\b[Aa]n generator"
    )
    left = {
        name: words.findall(inspect.getdoc(value) or "")
        for name, value in documented()
        if words.search(inspect.getdoc(value) or "")
    }
    assert left == {"Network": left.get("Network")}  # its client is an `httpx.AsyncClient`
    assert "httpx.AsyncClient" in (sync.Network.__doc__ or "")


@pytest.mark.parametrize("name", NAMES)
def test_examples_do_what_they_show(name: str) -> None:
    names = {each: getattr(repo_stream, each) for each in ASYNC} | {"Any": Any}
    names |= {each: getattr(sync, each) for each in NAMES}
    test = doctest.DocTestParser().get_doctest(getattr(sync, name).__doc__, names, name, None, None)
    result = doctest.DocTestRunner().run(test)
    assert result.failed == 0
