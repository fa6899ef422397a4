"""Commands that know nothing of this checkout, and environments that have a wheel of it."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
import venv
from pathlib import Path

import pytest

__all__ = ["PIP", "environment", "needs", "run"]

PIP = (sys.executable, "-m", "pip", "--disable-pip-version-check")


def run(*command: str | Path, cwd: Path) -> subprocess.CompletedProcess[str]:
    """Run a command that knows nothing of this checkout, and compiles nothing."""
    return subprocess.run(
        list(map(str, command)),
        cwd=cwd,
        env=clean_environ(),
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )


def clean_environ() -> dict[str, str]:
    """The variables of this process that have nothing to do with this checkout."""
    return {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("PYTHON", "MYPY", "PYTEST", "COV"))
    } | {"REPO_STREAM_COMPILE": "0"}


def needs(*modules: str) -> None:
    for module in modules:
        if importlib.util.find_spec(module) is None:
            pytest.skip(f"needs {module}, which is not installed")


def environment(folder: Path) -> Path:
    """The Python of a new environment that has nothing."""
    venv.create(folder, with_pip=False, symlinks=os.name != "nt")
    return folder / ("Scripts" if os.name == "nt" else "bin") / "python"
