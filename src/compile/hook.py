"""The compiled wheel: a build compiles the hot modules, where it can.

That is where a C compiler and Python's headers are at hand. Elsewhere the wheel is of plain Python,
which behaves alike and takes up to four times as long. `REPO_STREAM_COMPILE=0` asks for a plain
wheel, and `REPO_STREAM_COMPILE=1` for a compiled one or an error. An editable install runs from the
sources. Why something was not compiled is a warning, which pip shows with `-v`.

Cython compiles the very sources of the package. For each module that it takes there lies a `.pxd`
file here, which says what types the variables of the hot loops have: the sources know nothing of
it, and an interpreter runs them as they are. Five modules, all about bytes, lie here in another
form instead, as `.pyx` files. The wheel holds both; Python prefers what is compiled.
"""

from __future__ import annotations

import contextlib
import os
import shlex
import shutil
import sys
import sysconfig
from importlib import import_module
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

HERE = Path(__file__).resolve().parent
VARIABLE = "REPO_STREAM_COMPILE"
PACKAGE = HERE.parent / "repo_stream"
FORMS = sorted(HERE.glob("*.pyx"))
TYPED = {types.stem for types in HERE.glob("*.pxd")} - {form.stem for form in FORMS}
FILES = [*sorted(PACKAGE / f"{name}.py" for name in TYPED), *FORMS]


class CompileHook(BuildHookInterface[Any]):
    """Adds extension modules to the wheel."""

    PLUGIN_NAME = "custom"
    _scratch: TemporaryDirectory[str] | None = None

    def dependencies(self) -> list[str]:
        """Name what the build needs."""
        return ["cython>=3.1", "setuptools>=77"] if _wanted() else []

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Compile the modules and have them put into the wheel.

        Raises:
            ValueError: where the variable is neither 0 nor 1, or is 1 and the install is editable.
            Exception: whatever compiling raises, where the variable is 1.
        """
        asked = _asked()
        if version == "editable":
            if asked:
                raise ValueError(f"{VARIABLE}=1 makes a wheel; an editable install has none")
            return
        if not _wanted():
            return
        self._scratch = TemporaryDirectory(prefix="repo-stream-")
        try:
            files = _compiled(Path(self._scratch.name))
        except Exception as error:
            self._scratch.cleanup()
            if asked:
                raise
            self.app.display_warning(f"The wheel is of plain Python, as compiling failed: {error}")
            return
        for built in files:
            build_data["force_include"][str(built)] = f"{PACKAGE.name}/{built.name}"
        build_data["pure_python"] = False
        build_data["infer_tag"] = True

    def finalize(self, version: str, build_data: dict[str, Any], artifact_path: str) -> None:
        """Clear up, once the wheel is written."""
        del version, build_data, artifact_path
        if self._scratch is not None:
            self._scratch.cleanup()


def _asked() -> bool | None:
    """Say what the variable asks for; `None` where it is not set."""
    value = os.environ.get(VARIABLE, "")
    if value not in {"", "0", "1"}:
        raise ValueError(f"{VARIABLE} is 0 (never) or 1 (or fail), not {value!r}")
    return value == "1" if value else None


def _wanted() -> bool:
    asked = _asked()
    return _can_be_tried() if asked is None else asked


def _can_be_tried() -> bool:
    """Say whether compiling is likely to work: else no build needs Cython.

    What is built Hatch says later, so an editable install fetches it for nothing.
    """
    # Cython has other Pythons run its modules slower than they run plain ones, or one at a time.
    if sys.implementation.name != "cpython" or sysconfig.get_config_var("Py_GIL_DISABLED"):
        return False
    command = os.environ.get("CC") or sysconfig.get_config_var("CC") or "cc"
    try:
        compiler = shlex.split(command, posix=os.name == "posix")
    except ValueError:  # no command
        return False
    headers = Path(sysconfig.get_path("include"), "Python.h")
    return bool(compiler) and shutil.which(compiler[0]) is not None and headers.is_file()


def _compiled(scratch: Path) -> list[Path]:
    """Compile the modules below a scratch directory; give the files that they became."""
    # Only a build that compiles has these two.
    cythonize: Any = import_module("Cython.Build").cythonize
    setuptools: Any = import_module("setuptools")

    sources = scratch / PACKAGE.name
    sources.mkdir()
    for file in (PACKAGE / "__init__.py", *FILES, *HERE.glob("*.pxd")):
        shutil.copy(file, sources)
    extensions = [
        setuptools.Extension(
            f"{PACKAGE.name}.{file.stem}",
            [f"{PACKAGE.name}/{file.name}"],
            # What a debugger would need is four fifths of a module, and `-O3` gains nothing.
            extra_compile_args=["-g0", "-O2"] if os.name == "posix" else [],
        )
        for file in FILES
    ]
    # Tracebacks name files as they are named here, and so find their lines in the wheel's sources.
    with contextlib.chdir(scratch):
        # To Cython an annotation with `bytes` would exclude a `Cid`.
        directives = {"language_level": 3, "annotation_typing": False}
        extensions = cythonize(extensions, compiler_directives=directives)
        build = setuptools.Distribution({"ext_modules": extensions}).get_command_obj("build_ext")
        build.build_lib = build.build_temp = "built"
        build.parallel = min(os.cpu_count() or 1, 4)  # half a GB each
        build.ensure_finalized()
        build.run()
        return [scratch / output for output in build.get_outputs()]
