"""`--mem-limit-mb` and `--disk`: whether a repo stays in memory, and where it goes if not."""

from __future__ import annotations

import os
import threading
from pathlib import Path

import pytest

from support import SAMPLE
from support.cli import Run, report


def test_repo_over_the_limit_goes_to_a_temporary_file(run: Run, car: Path) -> None:
    in_memory = report(run("inspect", car)[1])[1]
    code, out, err = run("inspect", car, "--mem-limit-mb", "0")
    facts, collections = report(out)
    assert (code, err) == (0, "")
    assert facts["Walked"] == "through the disk (memory limit 0 MiB): a temporary file"
    assert collections == in_memory
    assert os.listdir(car.parent) == ["repo.car"]  # noqa: PTH208 - names are what matters


def test_store_that_is_named_is_left_empty(run: Run, car: Path, tmp_path: Path) -> None:
    store = tmp_path / "spill.db"
    for _ in ("new", "there"):
        code, out, err = run("inspect", SAMPLE, "--mem-limit-mb", "0", "--disk", store)
        assert (code, err) == (0, "")
        assert report(out)[0]["Walked"].endswith(f": {store}")
        assert store.stat().st_size < SAMPLE.stat().st_size / 4
    assert sorted(path.name for path in tmp_path.iterdir()) == [car.name, store.name]


def test_no_store_is_made_if_the_repo_fits(run: Run, car: Path, tmp_path: Path) -> None:
    store = tmp_path / "spill.db"
    assert run("inspect", car, "--disk", store)[0] == 0
    assert not store.exists()


def test_limit_may_be_a_fraction_of_a_mebibyte(run: Run) -> None:
    out = run("inspect", SAMPLE, "--mem-limit-mb", "0.05")[1]
    assert report(out)[0]["Walked"].startswith("through the disk (memory limit 0.05 MiB)")


def test_foreign_file_is_refused_and_unharmed(run: Run, car: Path) -> None:
    before = car.read_bytes()
    code, out, err = run("inspect", car, "--mem-limit-mb", "0", "--disk", car)
    assert (code, out) == (1, "")
    assert str(car) in err
    assert err.count("\n") == 1
    assert car.read_bytes() == before


def test_store_that_cannot_be_opened_gives_one_line(
    run: Run, car: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # A thread of SQLite's that outlives the event loop prints a traceback after the line.
    troubles: list[object] = []
    monkeypatch.setattr(threading, "excepthook", troubles.append)
    store = tmp_path / "nowhere" / "spill.db"
    for _ in range(30):
        code, out, err = run("inspect", car, "--mem-limit-mb", "0", "--disk", store)
        assert (code, out) == (1, "")
        assert str(store) in err
        assert err.count("\n") == 1
    assert troubles == []
