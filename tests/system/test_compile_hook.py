"""When a build compiles, and what becomes of it if that fails: `src/compile/hook.py`."""

from __future__ import annotations

import importlib.util
import sys
import sysconfig
from pathlib import Path
from types import ModuleType
from typing import Any, TypeAlias

import pytest

from support import ROOT

pytest.importorskip("hatchling", reason="needs hatchling, which is not installed")

Hook: TypeAlias = Any  # its module is loaded from a file, unknown to type checkers
BUILD_NEEDS = ["cython>=3.1", "setuptools>=77"]


class App:
    """What Hatch lets a hook speak to people by."""

    def __init__(self) -> None:
        self.warnings: list[str] = []

    def display_warning(self, message: str) -> None:
        self.warnings.append(message)


@pytest.fixture(scope="module")
def module() -> ModuleType:
    spec = importlib.util.spec_from_file_location("hook", ROOT / "src" / "compile" / "hook.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def app() -> App:
    return App()


@pytest.fixture
def hook(module: ModuleType, app: App, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Hook:
    """A hook on a machine that has all that compiling needs, with nothing said of it."""
    monkeypatch.delenv("REPO_STREAM_COMPILE", raising=False)
    has_compiler(tmp_path, monkeypatch)
    (tmp_path / "Python.h").touch()
    monkeypatch.setattr(sysconfig, "get_path", {"include": str(tmp_path)}.get)
    monkeypatch.setattr(sysconfig, "get_config_var", dict[str, object]().get)
    monkeypatch.setattr(module, "_compiled", succeed)
    return module.CompileHook(str(ROOT), {}, None, None, "", "wheel", app=app)


def has_compiler(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    compiler = folder / ("cc.exe" if sys.platform == "win32" else "cc")
    compiler.touch(mode=0o755)
    monkeypatch.setenv("PATH", str(folder))
    monkeypatch.delenv("CC", raising=False)


def built(hook: Hook, version: str = "standard") -> dict[str, Any]:
    """What the wheel is made of, with the scratch directory cleared up."""
    build_data: dict[str, Any] = {"force_include": {}}
    hook.initialize(version, build_data)
    hook.finalize(version, build_data, "")
    assert not [folder for folder in FOLDERS if folder.exists()]
    FOLDERS.clear()
    return build_data


def is_compiled(build_data: dict[str, Any]) -> bool:
    included = [*build_data["force_include"].values()]
    kind = build_data.get("pure_python"), build_data.get("infer_tag")
    return kind == (False, True) and included == ["repo_stream/car.so"]


PLAIN: dict[str, Any] = {"force_include": {}}


def test_wheel_is_compiled_if_it_can_be(hook: Hook) -> None:
    assert hook.dependencies() == BUILD_NEEDS
    assert is_compiled(built(hook))


@pytest.mark.parametrize(
    "command",
    [
        pytest.param("no-such-compiler -O2", id="not there"),
        pytest.param(" ", id="blank"),
        pytest.param("cc '", id="unclosed quote"),
    ],
)
def test_wheel_is_plain_without_a_compiler(
    hook: Hook, monkeypatch: pytest.MonkeyPatch, command: str
) -> None:
    monkeypatch.setenv("CC", command)
    assert hook.dependencies() == []
    assert built(hook) == PLAIN


def test_wheel_is_plain_without_the_headers(hook: Hook, tmp_path: Path) -> None:
    (tmp_path / "Python.h").unlink()
    assert hook.dependencies() == []
    assert built(hook) == PLAIN


def test_wheel_is_plain_on_other_implementations(
    hook: Hook, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys.implementation, "name", "pypy")
    assert hook.dependencies() == []
    assert built(hook) == PLAIN


def test_wheel_is_plain_for_free_threads(hook: Hook, monkeypatch: pytest.MonkeyPatch) -> None:
    has = {"Py_GIL_DISABLED": 1}
    monkeypatch.setattr(sysconfig, "get_config_var", has.get)
    assert hook.dependencies() == []
    assert built(hook) == PLAIN


def test_zero_in_the_environment_never_compiles(
    hook: Hook, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("REPO_STREAM_COMPILE", "0")
    assert hook.dependencies() == []
    assert built(hook) == PLAIN


def test_one_in_the_environment_compiles_whatever_is_at_hand(
    hook: Hook, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("REPO_STREAM_COMPILE", "1")
    monkeypatch.setenv("CC", "no-such-compiler")
    assert hook.dependencies() == BUILD_NEEDS
    assert is_compiled(built(hook))


def test_anything_else_in_the_environment_is_an_error(
    hook: Hook, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("REPO_STREAM_COMPILE", "yes")
    with pytest.raises(ValueError, match=r"REPO_STREAM_COMPILE is 0 .* or 1 .*, not 'yes'"):
        hook.dependencies()


def test_editable_install_runs_from_the_sources(
    hook: Hook, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert built(hook, "editable") == PLAIN
    monkeypatch.setenv("REPO_STREAM_COMPILE", "1")
    with pytest.raises(ValueError, match="an editable install has none"):
        built(hook, "editable")


# Where something was compiled
FOLDERS: list[Path] = []


def succeed(scratch: Path) -> list[Path]:
    FOLDERS.append(scratch)
    return [scratch / "car.so"]


def fail(scratch: Path) -> list[Path]:
    FOLDERS.append(scratch)
    raise RuntimeError("command '/usr/bin/cc' failed with exit code 1")


def test_wheel_is_plain_if_compiling_fails(
    hook: Hook,
    module: ModuleType,
    app: App,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(module, "_compiled", fail)
    assert built(hook) == PLAIN
    (warning,) = app.warnings
    assert warning.startswith("The wheel is of plain Python, as compiling failed: command '/usr")


def test_failure_is_raised_if_compiling_was_asked_for(
    hook: Hook,
    module: ModuleType,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("REPO_STREAM_COMPILE", "1")
    monkeypatch.setattr(module, "_compiled", fail)
    with pytest.raises(RuntimeError, match="failed with exit code 1"):
        built(hook)
