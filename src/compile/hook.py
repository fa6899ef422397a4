"""The compiled wheel: where `REPO_STREAM_COMPILE=1` is set, a build compiles the hot modules.

Cython compiles the very sources of the package. For each module that it takes there lies a `.pxd`
file here, which says what types the variables of the hot loops have: the sources know nothing of
it, and an interpreter runs them as they are. One module, small and all calls of a C library, lies
here in another form instead, as a `.pyx` file. The wheel holds both; Python prefers what is
compiled.

Where the variable is not set, nothing here is used, and the wheel is of plain Python.
"""

from __future__ import annotations

import contextlib
import os
import shutil
from importlib import import_module
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

HERE = Path(__file__).resolve().parent
PACKAGE = HERE.parent / "repo_stream"
FILES = [
    *sorted(PACKAGE / f"{types.stem}.py" for types in HERE.glob("*.pxd")),
    *sorted(HERE.glob("*.pyx")),
]


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
            ValueError: where the install is editable, which runs from the sources.
        """
        if not _wanted():
            return
        if version == "editable":
            raise ValueError("REPO_STREAM_COMPILE=1 makes a wheel; an editable install has none")
        self._scratch = TemporaryDirectory(prefix="repo-stream-")
        for built in _compiled(Path(self._scratch.name)):
            build_data["force_include"][str(built)] = f"{PACKAGE.name}/{built.name}"
        build_data["pure_python"] = False
        build_data["infer_tag"] = True

    def finalize(self, version: str, build_data: dict[str, Any], artifact_path: str) -> None:
        """Clear up, once the wheel is written."""
        del version, build_data, artifact_path
        if self._scratch is not None:
            self._scratch.cleanup()


def _wanted() -> bool:
    return os.environ.get("REPO_STREAM_COMPILE") == "1"


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
            # What a debugger would need is four fifths of a module.
            extra_compile_args=["-g0"] if os.name == "posix" else [],
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
        build.ensure_finalized()
        build.run()
        return [scratch / output for output in build.get_outputs()]
