"""When a build compiles, and what the wheel says if it does not: `src/compile/hook.py`."""

from __future__ import annotations

import importlib.util
import sys
import sysconfig
from dataclasses import dataclass
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


@dataclass
class Wheel:
    """What the hook makes of a wheel.

    Attributes:
        is_compiled: whether it is for this Python and this platform alone.
        modules: the compiled modules in it.
        reason: why it is plain, as the installed package says it.
    """

    is_compiled: bool
    modules: list[str]
    reason: str | None


def built(hook: Hook, version: str = "standard") -> Wheel:
    """What a wheel is made of; afterwards nothing is left of the scratch directory."""
    build_data: dict[str, Any] = {"force_include": {}}
    hook.initialize(version, build_data)
    names = {name: Path(file) for file, name in build_data["force_include"].items()}
    reason = names.pop("repo_stream/_not_compiled.txt", None)
    wheel = Wheel(
        (build_data.get("pure_python"), build_data.get("infer_tag")) == (False, True),
        [*names],
        None if reason is None else reason.read_text(encoding="utf-8"),
    )
    hook.finalize(version, build_data, "")
    assert not [folder for folder in FOLDERS if folder.exists()]
    assert reason is None or not reason.exists()
    FOLDERS.clear()
    return wheel


COMPILED = Wheel(is_compiled=True, modules=["repo_stream/ipld/_digest.so"], reason=None)
FAILED = "it could not be compiled when it was installed: "


def plain(reason: str) -> Wheel:
    return Wheel(is_compiled=False, modules=[], reason=reason)


def test_wheel_is_compiled_if_it_can_be(hook: Hook) -> None:
    assert hook.dependencies() == BUILD_NEEDS
    assert built(hook) == COMPILED


@pytest.mark.parametrize(
    ("command", "shown"),
    [
        pytest.param("no-such-compiler -O2", "no-such-compiler -O2", id="not there"),
        pytest.param(" ", "CC is blank", id="blank"),
        pytest.param("cc '", "cc '", id="unclosed quote"),
    ],
)
def test_wheel_is_plain_without_a_compiler(
    hook: Hook, app: App, monkeypatch: pytest.MonkeyPatch, command: str, shown: str
) -> None:
    monkeypatch.setenv("CC", command)
    assert hook.dependencies() == []
    reason = (
        f"{FAILED}no C compiler was found ({shown})\n"
        "install a C compiler, then this package again, with pip's --force-reinstall --no-cache-dir"
    )
    assert built(hook) == plain(reason)
    assert app.warnings == [f"The wheel is plain Python: {reason}"]


def test_wheel_is_plain_without_the_headers(hook: Hook, tmp_path: Path) -> None:
    (tmp_path / "Python.h").unlink()
    assert hook.dependencies() == []
    why, remedy = str(built(hook).reason).splitlines()
    assert why == f"{FAILED}there is no {tmp_path / 'Python.h'}"
    assert remedy.startswith("install Python's headers")


def test_wheel_is_plain_on_other_implementations(
    hook: Hook, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys.implementation, "name", "pypy")
    assert hook.dependencies() == []
    assert built(hook) == plain("pypy runs it faster like this")


def test_wheel_is_plain_for_free_threads(hook: Hook, monkeypatch: pytest.MonkeyPatch) -> None:
    has = {"Py_GIL_DISABLED": 1}
    monkeypatch.setattr(sysconfig, "get_config_var", has.get)
    assert hook.dependencies() == []
    assert built(hook) == plain("a free-threaded Python runs it like this")


def test_zero_in_the_environment_never_compiles(
    hook: Hook, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("REPO_STREAM_COMPILE", "0")
    assert hook.dependencies() == []
    assert built(hook) == plain("REPO_STREAM_COMPILE was 0 when the wheel was built")


def test_one_in_the_environment_compiles_whatever_is_at_hand(
    hook: Hook, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("REPO_STREAM_COMPILE", "1")
    monkeypatch.setenv("CC", "no-such-compiler")
    assert hook.dependencies() == BUILD_NEEDS
    assert built(hook) == COMPILED


def test_anything_else_in_the_environment_is_an_error(
    hook: Hook, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("REPO_STREAM_COMPILE", "yes")
    with pytest.raises(ValueError, match=r"REPO_STREAM_COMPILE is 0 .* or 1 .*, not 'yes'"):
        hook.dependencies()


def test_editable_install_runs_from_the_sources(
    hook: Hook, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert built(hook, "editable") == Wheel(is_compiled=False, modules=[], reason=None)
    monkeypatch.setenv("REPO_STREAM_COMPILE", "1")
    with pytest.raises(ValueError, match="an editable install has none"):
        built(hook, "editable")


# Where something was compiled
FOLDERS: list[Path] = []


def succeed(scratch: Path) -> list[tuple[Path, str]]:
    FOLDERS.append(scratch)
    return [(scratch / "built" / "_digest.so", "repo_stream/ipld/_digest.so")]


def fail(scratch: Path) -> list[tuple[Path, str]]:
    FOLDERS.append(scratch)
    raise RuntimeError("command '/usr/bin/cc' failed\nwith exit code 1")


HOW = (
    "to see how, set REPO_STREAM_COMPILE=1, and install this package again, with pip's "
    "--force-reinstall --no-cache-dir -v"
)


def test_wheel_is_plain_if_compiling_fails(
    hook: Hook,
    module: ModuleType,
    app: App,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(module, "_compiled", fail)
    reason = f"{FAILED}compiling failed: command '/usr/bin/cc' failed with exit code 1\n{HOW}"
    assert built(hook) == plain(reason)
    assert app.warnings == [f"The wheel is plain Python: {reason}"]


def test_a_long_failure_is_cut_to_what_a_person_reads(
    hook: Hook, module: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail_at_length(scratch: Path) -> list[tuple[Path, str]]:
        FOLDERS.append(scratch)
        raise RuntimeError(f"command 'cc{' -O2' * 500}' failed")

    monkeypatch.setattr(module, "_compiled", fail_at_length)
    why, remedy = str(built(hook).reason).splitlines()
    assert why.startswith(f"{FAILED}compiling failed: command 'cc -O2")
    assert why.endswith(" ...")
    assert len(why) < 300
    assert remedy == HOW


def test_failure_is_raised_if_compiling_was_asked_for(
    hook: Hook,
    module: ModuleType,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("REPO_STREAM_COMPILE", "1")
    monkeypatch.setattr(module, "_compiled", fail)
    with pytest.raises(RuntimeError, match=r"failed\nwith exit code 1"):
        built(hook)
