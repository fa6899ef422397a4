"""The checks of `benches/fuzz.py`: on its seeds, on mutants, and guided by coverage."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

from support import ROOT

FUZZ = ROOT / "benches" / "fuzz.py"
TARGETS = ["car", "node", "walk"]


def load_fuzz() -> ModuleType:
    spec = importlib.util.spec_from_file_location("repo_stream_fuzz", FUZZ)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


fuzz = load_fuzz()


@pytest.mark.parametrize("target", TARGETS)
def test_the_seeds(target: str) -> None:
    seeds: list[bytes] = fuzz.seeds(target)
    assert len(seeds) >= 10
    for seed in seeds:
        fuzz.CHECKS[target](seed)


@pytest.mark.parametrize(
    "data", [b"", b"\0", b"\4", b"\0\0", b"\0\xa2", b"\0\xa2ae\x80al\xf6", b"\xff" * 50]
)
@pytest.mark.parametrize("target", TARGETS)
def test_inputs_of_a_few_bytes(target: str, data: bytes) -> None:
    fuzz.CHECKS[target](data)


@pytest.mark.parametrize(("target", "count"), [("car", 1500), ("node", 20_000)])
def test_mutants(target: str, count: int) -> None:
    for mutant in fuzz.mutants(target, count, seed=1):
        fuzz.CHECKS[target](mutant)


def test_mutants_of_whole_repos() -> None:
    walks = fuzz.Walks()
    try:
        for mutant in fuzz.mutants("walk", 800, seed=1):
            walks.check(mutant)
    finally:
        walks.close()


def test_the_checks_find_what_is_wrong(monkeypatch: pytest.MonkeyPatch) -> None:
    """A decoder that takes what it should not, in each of the three rooms."""
    plain = fuzz.decode_node_plainly

    def careless(block: bytes, cid: bytes, limits: object) -> object:
        return plain(block.rstrip(b"\0"), cid, limits)

    monkeypatch.setattr(fuzz, "decode_node_plainly", careless)
    with pytest.raises(AssertionError):
        fuzz.check_node(fuzz.seeds("node")[0] + b"\0")

    def without_length(cid: bytes, data: bytes) -> bytes:
        return cid + data

    monkeypatch.setattr(fuzz, "section", without_length)
    with pytest.raises(AssertionError):
        fuzz.check_car(fuzz.seeds("car")[0])

    calls: list[bytes] = []

    def never_the_same(block: bytes) -> int:
        calls.append(block)
        return len(calls)

    monkeypatch.setattr(fuzz, "_process", never_the_same)
    with pytest.raises(AssertionError):
        fuzz.check_walk(b"\0" + fuzz.seeds("walk")[-1][1:])


@pytest.mark.long
@pytest.mark.parametrize("target", TARGETS)
def test_a_bounded_run(target: str, tmp_path: Path) -> None:
    if importlib.util.find_spec("atheris") is None:
        pytest.skip("needs atheris, which is not installed")
    command = [sys.executable, str(FUZZ), target, "-runs=20000", "-max_total_time=10", "-seed=1"]
    done = subprocess.run(
        command, cwd=tmp_path, capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert "DONE" in done.stderr
    assert list(tmp_path.iterdir()) == []


def test_a_run_without_a_target_says_how() -> None:
    done = subprocess.run(
        [sys.executable, str(FUZZ)], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1].startswith("usage: ")
