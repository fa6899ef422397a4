"""The public names: what their docstrings have to say."""

from __future__ import annotations

import ast
import inspect
import re
import textwrap
from collections.abc import Collection, Iterator
from typing import Any

import repo_stream
from repo_stream import arrow, errors, keys, process, syntax, testing

NAMES = {
    f"{module.__name__}.{name}": getattr(module, name)
    for module in (repo_stream, arrow, keys, process, syntax, testing)
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


ITEMS = list(EVERYTHING.items())


def test_every_public_class_and_function_is_listed() -> None:
    assert len(EVERYTHING) > 120


def test_every_docstring_starts_with_a_summary() -> None:
    summaries = {name: (inspect.getdoc(it) or "").partition("\n")[0] for name, it in ITEMS}
    without = [name for name, summary in summaries.items() if not summary.endswith((".", ":"))]
    assert without == []
    # What a dataclass or a NamedTuple writes by itself is no description.
    automatic = [
        name
        for name, summary in summaries.items()
        if summary.startswith(name.rpartition(".")[2] + "(")
    ]
    assert automatic == []


def test_whatever_a_program_starts_with_has_an_example() -> None:
    without = [
        name for name in STARTS if ">>> " not in (inspect.getdoc(getattr(repo_stream, name)) or "")
    ]
    assert without == []


def test_sizes_in_megabytes_say_which_kind() -> None:
    """Megabytes can be of two kinds."""
    sized = [name for name, it in ITEMS if any(each.endswith("_mb") for each in parameters(it))]
    assert len(sized) > 5
    assert [name for name in sized if "MiB" not in (inspect.getdoc(EVERYTHING[name]) or "")] == []


def parameters(it: Any) -> Collection[str]:
    try:
        return inspect.signature(it).parameters
    except ValueError:  # an exception's that has no constructor of its own
        return ()


def test_docstrings_name_the_errors_that_a_function_raises() -> None:
    untold: list[str] = []
    raising = 0
    for name, it in ITEMS:
        if not inspect.isfunction(it):
            continue
        said = set(re.findall(r"\w+", inspect.getdoc(it) or ""))
        for error in raised(it):
            raising += 1
            kind = getattr(errors, error, None)
            families = {error} if kind is None else {parent.__name__ for parent in kind.__mro__}
            if not said & families:
                untold.append(f"{name} raises {error}")
    assert raising > 20
    assert untold == []


# What the functions of `arguments`, and the one like them of `limits`, raise for their callers.
RAISED_BY_CHECKS = {
    "check_flag": {"TypeError"},
    "check_kind": {"TypeError"},
    "check_limits": {"TypeError"},
    "check_number": {"TypeError", "ValueError"},
    "check_whole": {"TypeError", "ValueError"},
}


def raised(function: Any) -> set[str]:
    """The errors that a function raises by itself, or if its arguments are wrong."""
    tree = ast.parse(textwrap.dedent(inspect.getsource(function)))
    found = {node.exc for node in ast.walk(tree) if isinstance(node, ast.Raise)}
    made = {error.func if isinstance(error, ast.Call) else error for error in found}
    names = {error.id for error in made if isinstance(error, ast.Name)}
    called = {node.func for node in ast.walk(tree) if isinstance(node, ast.Call)}
    for call in called:
        if isinstance(call, ast.Name):
            names |= RAISED_BY_CHECKS.get(call.id, set())
    return {name for name in names if name[0].isupper()} - {"NotImplementedError"}
