"""Which modules run compiled: all that can, or none; and what is said about it.

With `REPO_STREAM_COMPILED=1` in the environment it has to be all: for a run of the whole suite
against a compiled wheel. That both forms of a module do the same is tested in the module's own
tests: see `support.forms`.
"""

from __future__ import annotations

import ast
import importlib
import inspect
import os
import traceback
from collections.abc import Iterator
from importlib.metadata import distribution
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType

import pytest

import repo_stream
from repo_stream import CarDecoder, Cid, _compiled
from repo_stream._compiled import COMPILED, how_it_runs, why_not_compiled
from repo_stream.ipld import digest
from repo_stream.testing import build_car
from support.forms import plain_form

PACKAGE = Path(str(repo_stream.__file__)).parent
# A stub is the public face of a compiled form.
STUBS = sorted(PACKAGE.rglob("_[a-z]*.pyi"))
HOT = [
    "repo_stream.car.decoder",
    "repo_stream.car.sections",
    "repo_stream.ipld.digest",
    "repo_stream.mst.cursor",
    "repo_stream.mst.lookahead",
    "repo_stream.mst.rules",
    "repo_stream.mst.tables",
    "repo_stream.mst.walker",
    "repo_stream.store.memory",
    "repo_stream.store.places",
]
BUILT = find_spec("repo_stream.ipld._digest") is not None

needs_compiled = pytest.mark.skipif(not COMPILED, reason="nothing runs compiled here")


def hot_module(stub: Path) -> ModuleType:
    """The module that a compiled form lies beside."""
    parts = stub.relative_to(PACKAGE.parent).with_name(stub.stem.removeprefix("_")).parts
    return importlib.import_module(".".join(parts))


def hot_functions() -> Iterator[tuple[ModuleType, str]]:
    """The functions and classes that have a compiled form, each with its module."""
    for stub in STUBS:
        module = hot_module(stub)
        for statement in ast.parse(stub.read_text("utf-8")).body:
            # What only a compiled form has is for tests.
            if isinstance(statement, ast.FunctionDef) and hasattr(module, statement.name):
                yield module, statement.name
            # The stub of a form that is the module's own source refers to the module.
            elif isinstance(statement, ast.ImportFrom) and statement.module == module.__name__:
                yield from ((module, each.name) for each in statement.names)


def test_it_runs_compiled_if_it_has_to() -> None:
    assert COMPILED or os.environ.get("REPO_STREAM_COMPILED") != "1"


def test_all_hot_modules_run_compiled_or_none() -> None:
    assert {module.__name__ for module, _ in hot_functions()} == {*HOT}
    for module, name in hot_functions():
        package, _, room = module.__name__.rpartition(".")
        expected = f"{package}._{room}" if COMPILED else module.__name__
        assert getattr(module, name).__module__ == expected, name


def test_both_forms_of_a_function_take_the_same_arguments() -> None:
    for module, name in hot_functions():
        plain, here = getattr(plain_form(module), name), getattr(module, name)
        expected, found = (inspect.signature(each).parameters for each in (plain, here))
        assert [*found] == [*expected], name
        for each in expected:
            assert found[each].kind is expected[each].kind, name


def test_a_wheel_with_compiled_modules_is_for_one_platform() -> None:
    wheel = distribution("atproto-repo-stream").read_text("WHEEL")
    assert wheel is not None
    assert ("Tag: py3-none-any" in wheel, "Root-Is-Purelib: true" in wheel) == (
        (False, False) if BUILT else (True, True)
    )


@needs_compiled
def test_tracebacks_name_the_lines_of_the_sources() -> None:
    with pytest.raises(ValueError, match="not as many CIDs as blocks") as raised:
        digest.agreeing([b""], [])
    frame = traceback.extract_tb(raised.value.__traceback__)[-1]
    assert Path(frame.filename) == Path("repo_stream/ipld/_digest.pyx")
    lines = (PACKAGE.parent / frame.filename).read_text("utf-8").splitlines()
    assert "raise ValueError" in lines[(frame.lineno or 0) - 1]


def test_bytes_of_a_subclass_are_bytes() -> None:
    car = build_car({"app.bsky.feed.post/3jzfcijpj2z2a": {"text": "hi"}})
    blocks = CarDecoder().feed(Cid(car))
    assert blocks == CarDecoder().feed(car)
    assert {type(part) for block in blocks for part in block} == {bytes}


def find_spec_of_this(_: str) -> object:
    return find_spec(__name__)


# --- What is said about it ----------------------------------------------------------------------


@pytest.fixture
def installed_plain(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where the reason is, for a package that has no compiled forms."""
    reason = tmp_path / "reason.txt"
    monkeypatch.setattr(_compiled, "COMPILED", False)
    monkeypatch.setattr(_compiled, "_TURNED_OFF", False)
    monkeypatch.setattr(_compiled, "_REASON", str(reason))
    monkeypatch.setattr(_compiled, "find_spec", dict[str, object]().get)
    return reason


def test_a_package_that_runs_compiled_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_compiled, "COMPILED", True)
    assert how_it_runs() == "compiled"


@pytest.mark.usefixtures("installed_plain")
def test_an_editable_install_says_that_it_is_one() -> None:
    assert how_it_runs() == "plain Python: an editable install"
    assert why_not_compiled()[1] == ""


def test_an_install_that_could_not_compile_says_why(installed_plain: Path) -> None:
    installed_plain.write_text("there was no compiler\ninstall one", encoding="utf-8")
    assert how_it_runs() == "plain Python: there was no compiler"
    assert why_not_compiled() == ("there was no compiler", "install one")


def test_a_reason_need_not_come_with_a_remedy(installed_plain: Path) -> None:
    installed_plain.write_text("nobody asked for it", encoding="utf-8")
    assert why_not_compiled() == ("nobody asked for it", "")


@pytest.mark.usefixtures("installed_plain")
def test_compiled_forms_that_are_turned_off_are_said_to_be(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_compiled, "_TURNED_OFF", True)
    assert how_it_runs() == "plain Python: REPO_STREAM_PURE is set"


def test_a_package_with_compiled_forms_has_no_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_compiled, "find_spec", find_spec_of_this)
    assert why_not_compiled() == ("", "")
