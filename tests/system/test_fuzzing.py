"""`benches/fuzz.py` guided by coverage, in processes of its own: a short run, and a long one."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from pathlib import Path

import pytest

from support.fuzzing import FUZZ

TARGETS = pytest.mark.parametrize("target", ["car", "node", "walk"])


def run(target: str, folder: Path, *options: str, timeout: float) -> None:
    if importlib.util.find_spec("atheris") is None:
        pytest.skip("needs atheris, which is not installed")
    command = [sys.executable, str(FUZZ), target, *options]
    done = subprocess.run(
        command, cwd=folder, capture_output=True, text=True, timeout=timeout, check=False
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert "DONE" in done.stderr
    # An input that crashes is left there, one that is new is not.
    assert list(folder.iterdir()) == []


@pytest.mark.long
@TARGETS
def test_a_short_run_guided_by_coverage_finds_nothing(target: str, tmp_path: Path) -> None:
    run(target, tmp_path, "-runs=5000", "-max_total_time=3", "-seed=1", timeout=120)


@pytest.mark.fuzz
@pytest.mark.timeout(0)
@TARGETS
def test_a_run_for_as_long_as_asked_for_finds_nothing(
    target: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    seconds = int(request.config.getoption("--fuzz-seconds") or 60)
    run(target, tmp_path, f"-max_total_time={seconds}", timeout=2 * seconds + 120)


def test_a_run_without_a_target_says_which_there_are() -> None:
    done = subprocess.run(
        [sys.executable, str(FUZZ)], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1].startswith("usage: ")
    assert "car|node|walk" in done.stderr
