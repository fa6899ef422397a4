"""The build hook: compiles the hot modules into the wheel, if that is possible.

It needs a C compiler and Python's headers. Without them the wheel is plain Python, which behaves
alike and takes up to four times as long, and a file in the wheel says why: pip hides what a build
prints, so `repo-stream --version` shows it, and so does the command once it takes long.
`REPO_STREAM_COMPILE=0` asks for a plain wheel, `REPO_STREAM_COMPILE=1` for a compiled one or an
error. An editable install runs from the sources.

What is compiled lies beside its module: `ipld/_digest.pyx` beside `ipld/digest.py`, and its types
in `ipld/_digest.pyi`. A form that has a stub alone, such as `mst/_walker.pyi`, is the source of its
module as it is, `mst/walker.py`. Which form runs is decided at run time
(`repo_stream/_compiled.py`), so the wheel holds both. It also holds the `.pyx` files, so that
tracebacks can show their lines.
"""

from __future__ import annotations

import contextlib
import os
import shlex
import shutil
import sys
import sysconfig
import textwrap
from importlib import import_module
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

VARIABLE = "REPO_STREAM_COMPILE"
SOURCES = Path(__file__).resolve().parents[1]
PACKAGE = SOURCES / "repo_stream"
# The compiled forms have stubs, as a type checker cannot read them.
STUBS = sorted(stub for stub in PACKAGE.rglob("_*.pyi") if stub.stem != "__init__")
# See `_compiled.why_not_compiled`.
REASON = "repo_stream/_not_compiled.txt"
# Of what went wrong, in characters: a compiler's command line fills a page.
LONGEST = 200
AGAIN = "this package again, with pip's --force-reinstall --no-cache-dir"


class CompileHook(BuildHookInterface[Any]):
    """Adds extension modules to the wheel, or the reason why there are none."""

    PLUGIN_NAME = "custom"
    _scratch: TemporaryDirectory[str] | None = None

    def dependencies(self) -> list[str]:
        """Return what the build needs."""
        return ["cython>=3.1", "setuptools>=77"] if _obstacle() is None else []

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Compile the modules and have them put into the wheel.

        Raises:
            ValueError: if the variable is neither 0 nor 1, or is 1 and the install is editable.
            Exception: whatever compiling raises, if the variable is 1.
        """
        asked = _asked()
        if version == "editable":
            if asked:
                raise ValueError(f"{VARIABLE}=1 makes a wheel; an editable install has none")
            return
        self._scratch = TemporaryDirectory(prefix="repo-stream-")
        scratch = Path(self._scratch.name)
        obstacle = _obstacle()
        if obstacle is None:
            try:
                self._add(_compiled(scratch), build_data)
            except Exception as error:
                if asked:
                    self._scratch.cleanup()
                    raise
                obstacle = _failure(
                    f"compiling failed: {error}",
                    f"to see how, set {VARIABLE}=1, and install {AGAIN} -v",
                )
            else:
                return
        self.app.display_warning(f"The wheel is plain Python: {obstacle}")
        reason = scratch / "reason.txt"
        reason.write_text(obstacle, encoding="utf-8")
        build_data["force_include"][str(reason)] = REASON

    def _add(self, built: list[tuple[Path, str]], build_data: dict[str, Any]) -> None:
        for file, name in built:
            build_data["force_include"][str(file)] = name
        build_data["pure_python"] = False
        build_data["infer_tag"] = True

    def finalize(self, version: str, build_data: dict[str, Any], artifact_path: str) -> None:
        """Remove what is no longer needed, once the wheel is written."""
        del version, build_data, artifact_path
        if self._scratch is not None:
            self._scratch.cleanup()


def _asked() -> bool | None:
    """Return what the variable asks for; `None` if it is not set."""
    value = os.environ.get(VARIABLE, "")
    if value not in {"", "0", "1"}:
        raise ValueError(f"{VARIABLE} is 0 (never) or 1 (or fail), not {value!r}")
    return value == "1" if value else None


def _obstacle() -> str | None:
    """Return why nothing is compiled, and in a second line what to do; `None` if it can be tried.

    A build that compiles nothing needs no Cython. Hatch tells only later what is built, so an
    editable install fetches it for nothing.
    """
    asked = _asked()
    if asked is not None:
        return None if asked else f"{VARIABLE} was 0 when the wheel was built"
    # Cython has other Pythons run its modules slower than they run plain ones, or one at a time.
    if sys.implementation.name != "cpython":
        return f"{sys.implementation.name} runs it faster like this"
    if sysconfig.get_config_var("Py_GIL_DISABLED"):
        return "a free-threaded Python runs it like this"
    command = os.environ.get("CC") or sysconfig.get_config_var("CC") or "cc"
    # Elsewhere setuptools finds the compiler, as on Windows; if it does not, compiling says why.
    if os.name == "posix" and not _is_there(command):
        return _failure(
            f"no C compiler was found ({command.strip() or 'CC is blank'})",
            f"install a C compiler, then {AGAIN}",
        )
    headers = Path(sysconfig.get_path("include"), "Python.h")
    if not headers.is_file():
        return _failure(
            f"there is no {headers}",
            f"install Python's headers (python3-dev or python3-devel), then {AGAIN}",
        )
    return None


def _failure(what: str, remedy: str) -> str:
    short = textwrap.shorten(what, LONGEST, placeholder=" ...")
    return f"it could not be compiled when it was installed: {short}\n{remedy}"


def _is_there(command: str) -> bool:
    try:
        words = shlex.split(command, posix=os.name == "posix")
    except ValueError:  # no command
        return False
    return bool(words) and shutil.which(words[0]) is not None


def _source_of(stub: Path) -> Path:
    form = stub.with_suffix(".pyx")
    return form if form.exists() else stub.with_name(f"{stub.stem.removeprefix('_')}.py")


def _compiled(scratch: Path) -> list[tuple[Path, str]]:
    """Compile the modules in a scratch directory; return the files, with their names in a wheel."""
    # Only a build that compiles has these two.
    cythonize: Any = import_module("Cython.Build").cythonize
    setuptools: Any = import_module("setuptools")

    # Tracebacks name files as they are named here, and so find their lines in the wheel's sources.
    extensions = [
        setuptools.Extension(
            ".".join(stub.relative_to(SOURCES).with_suffix("").parts),
            [_source_of(stub).relative_to(SOURCES).as_posix()],
            # What a debugger would need is four fifths of a module, and `-O3` gains nothing.
            extra_compile_args=["-g0", "-O2"] if os.name == "posix" else [],
        )
        for stub in STUBS
    ]
    with contextlib.chdir(SOURCES):
        extensions = cythonize(
            extensions,
            build_dir=str(scratch / "c"),
            # To Cython an annotation with `bytes` would exclude a `Cid`.
            compiler_directives={"language_level": 3, "annotation_typing": False},
        )
        build = setuptools.Distribution({"ext_modules": extensions}).get_command_obj("build_ext")
        built = scratch / "built"
        build.build_lib = str(built)
        build.build_temp = str(scratch / "objects")
        build.parallel = min(os.cpu_count() or 1, 4)  # half a GB each
        build.ensure_finalized()
        build.run()
    files = [Path(output) for output in build.get_outputs()]
    return [(file, file.relative_to(built).as_posix()) for file in files]
