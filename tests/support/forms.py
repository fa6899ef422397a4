"""Both forms of a hot module in one process: the plain one, and the compiled one if it is there."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Callable, Iterator, Sequence
from importlib import import_module
from types import ModuleType
from typing import Any

import pytest

from repo_stream import _compiled
from repo_stream._compiled import COMPILED

__all__ = ["both_forms", "plain_form"]


def both_forms(name: str, tests: str, *, below: Sequence[str] = ()) -> Callable[..., Any]:
    """A fixture that runs all tests of a file with either form of a module.

    Args:
        name: the full name of a module that has a compiled form.
        tests: the full name of the file's module. Both have the functions of one form, and then of
            the other.
        below: the full names of modules with compiled forms that it is made of, the lowest first.
            They are of the same form.
    """
    modules = [import_module(each) for each in (*below, name)]

    @pytest.fixture(scope="module", autouse=True, params=["plain", "compiled"][: 1 + COMPILED])
    def form(request: pytest.FixtureRequest) -> Iterator[None]:
        with pytest.MonkeyPatch.context() as patch:
            if request.param == "plain" and COMPILED:
                for module in modules:
                    _make_plain(module, sys.modules[tests], patch)
            yield

    return form


def plain_form(module: ModuleType) -> ModuleType:
    """A copy of a module as it is if `REPO_STREAM_PURE` is set."""
    spec = importlib.util.spec_from_file_location(f"{module.__name__}_plain", module.__file__)
    assert spec is not None
    assert spec.loader is not None
    copy = importlib.util.module_from_spec(spec)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(_compiled, "COMPILED", False)
        patch.setitem(sys.modules, spec.name, copy)
        spec.loader.exec_module(copy)
    return copy


def _make_plain(module: ModuleType, tests: ModuleType, patch: pytest.MonkeyPatch) -> None:
    for name, plain in _differences(module).items():
        compiled = vars(module)[name]
        for place in (module, tests):
            if vars(place).get(name) is compiled:
                patch.setattr(place, name, plain)


def _differences(module: ModuleType) -> dict[str, Any]:
    """The functions, and the number, that a plain module has of its own, by name."""
    plain = plain_form(module)
    compiled = f"._{module.__name__.rpartition('.')[2]}"
    return {
        name: getattr(plain, name)
        for name, value in vars(module).items()
        if str(getattr(value, "__module__", "")).endswith(compiled)
        or (isinstance(value, int) and value != getattr(plain, name))
    }
