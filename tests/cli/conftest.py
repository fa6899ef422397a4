"""What runs the command in this process, and what it reads."""

from __future__ import annotations

from pathlib import Path
from typing import cast

import pytest

from repo_stream.cli import main
from support.cli import Run, small_car


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Run:
    """Run the command in this process; give its exit code, output and errors."""

    def run(*arguments: str | Path) -> tuple[int, str, str]:
        try:
            code: object = main([str(argument) for argument in arguments])
        except SystemExit as usage:
            code = usage.code
        out, err = capsys.readouterr()
        return cast("int", code), out, err

    return run


@pytest.fixture
def car(tmp_path: Path) -> Path:
    """The file of a small repo."""
    path = tmp_path / "repo.car"
    path.write_bytes(small_car())
    return path
