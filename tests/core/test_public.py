"""The public names: each says what it is, and each has types that a checker knows."""

from __future__ import annotations

import ast
import importlib.util
import inspect
import json
import os
import re
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import repo_stream
from repo_stream import errors, process, testing

NAMES = {
    f"{module.__name__}.{name}": getattr(module, name)
    for module in (repo_stream, process, testing)
    for name in module.__all__
}
# Where a program starts: here an example says more than a description.
STARTS = ["CarDecoder", "CarReader", "Cid", "DiskBuilder", "DriverBuilder", "Processor", "open_car"]


def documented(name: str, value: Any) -> Iterator[tuple[str, Any]]:
    """A name, and where it is a class, its public methods and properties."""
    if not inspect.isclass(value):
        yield name, value
        return
    yield name, value
    for kind in value.__mro__:
        if not kind.__module__.startswith("repo_stream"):
            continue
        for member, found in vars(kind).items():
            function: Any = getattr(found, "__func__", getattr(found, "fget", found))
            if not member.startswith("_") and (
                inspect.isroutine(function) or inspect.isclass(found)
            ):
                yield f"{name}.{member}", function


EVERYTHING = {
    full_name: member
    for name, value in NAMES.items()
    if inspect.isfunction(value) or type(value) is type
    for full_name, member in documented(name, value)
}


def test_there_is_something_to_see() -> None:
    assert len(EVERYTHING) > 120


@pytest.mark.parametrize("name", EVERYTHING)
def test_it_says_what_it_is(name: str) -> None:
    said = inspect.getdoc(EVERYTHING[name])
    assert said
    summary = said.splitlines()[0]
    assert summary.endswith((".", ":")), summary
    # What a dataclass or a NamedTuple writes by itself is no description.
    assert not summary.startswith(name.rpartition(".")[2] + "(")


@pytest.mark.parametrize("name", STARTS)
def test_it_has_an_example(name: str) -> None:
    assert ">>> " in (inspect.getdoc(getattr(repo_stream, name)) or "")


@pytest.mark.parametrize("name", EVERYTHING)
def test_sizes_have_their_unit(name: str) -> None:
    """Megabytes can be of two kinds."""
    value = EVERYTHING[name]
    try:
        parameters = inspect.signature(value).parameters
    except ValueError:  # an exception's that has no constructor of its own
        return
    if any(parameter.endswith("_mb") for parameter in parameters):
        assert "MiB" in (inspect.getdoc(value) or "")


@pytest.mark.parametrize(
    "name", [name for name, it in EVERYTHING.items() if inspect.isfunction(it)]
)
def test_what_it_raises_is_told(name: str) -> None:
    said = set(re.findall(r"\w+", inspect.getdoc(EVERYTHING[name]) or ""))
    for error in raised(EVERYTHING[name]):
        kind = getattr(errors, error, None)
        families = {error} if kind is None else {parent.__name__ for parent in kind.__mro__}
        assert said & families


def raised(function: Any) -> set[str]:
    """The errors that a function makes and raises by itself."""
    tree = ast.parse(textwrap.dedent(inspect.getsource(function)))
    found = {node.exc for node in ast.walk(tree) if isinstance(node, ast.Raise)}
    made = {error.func if isinstance(error, ast.Call) else error for error in found}
    names = {error.id for error in made if isinstance(error, ast.Name)}
    return {name for name in names if name[0].isupper()} - {"NotImplementedError"}


@pytest.mark.long
def test_types_are_complete(tmp_path: Path) -> None:
    if importlib.util.find_spec("pyright") is None:
        pytest.skip("needs pyright, which is not installed")
    package = Path(repo_stream.__file__).parent
    pyright = (sys.executable, "-m", "pyright", "--pythonpath", sys.executable)
    done = subprocess.run(
        [*pyright, "--verifytypes", "repo_stream", "--ignoreexternal", "--outputjson"],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(package.parent)},
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    found = json.loads(done.stdout)["typeCompleteness"]
    assert Path(found["pyTypedPath"]).parent.samefile(package)
    incomplete = [s["name"] for s in found["symbols"] if not s["isTypeKnown"] and s["isExported"]]
    assert incomplete == []
    assert found["completenessScore"] == 1
