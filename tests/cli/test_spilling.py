"""`--mem-limit-mb` and `--disk`: whether a repo stays in memory, and where it goes if not."""

from __future__ import annotations

import gzip
import os
import threading
from collections.abc import Generator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from support import SAMPLE
from support.cli import Run, report
from support.stores import names_in

needs_pipes = pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs named pipes")


@contextmanager
def piped(folder: Path, car: bytes) -> Generator[Path]:
    """A pipe that a CAR comes through, so that it cannot be read again."""
    pipe = folder / "pipe"
    os.mkfifo(pipe)

    def write() -> None:
        with suppress(BrokenPipeError):
            pipe.write_bytes(car)

    thread = threading.Thread(target=write)
    thread.start()
    yield pipe
    while thread.is_alive():  # if nobody has read it, it waits for somebody who does
        os.close(os.open(pipe, os.O_RDONLY | os.O_NONBLOCK))
        thread.join(0.01)
    pipe.unlink()


def test_file_over_the_limit_is_read_again_where_it_is(run: Run, car: Path, tmp_path: Path) -> None:
    in_memory = report(run("inspect", car)[1])[1]
    for disk in ([], ["--disk", tmp_path / "spill.db"]):
        code, out, err = run("inspect", car, "--mem-limit-mb", "0", *disk)
        facts, collections = report(out)
        assert (code, err) == (0, "")
        assert facts["Walked"] == "on disk (memory limit 0 MiB), in its own file"
        assert collections == in_memory
        assert names_in(tmp_path) == [car.name]


def test_compressed_file_over_the_limit_goes_to_a_temporary_file(
    run: Run, car: Path, tmp_path: Path
) -> None:
    path = tmp_path / "repo.car.gz"
    path.write_bytes(gzip.compress(car.read_bytes()))
    facts, collections = report(run("inspect", path, "--mem-limit-mb", "0")[1])
    assert facts["Walked"] == "on disk (memory limit 0 MiB), in a temporary file"
    assert collections == report(run("inspect", car)[1])[1]


@needs_pipes
def test_download_over_the_limit_goes_to_a_temporary_file(
    run: Run, car: Path, tmp_path: Path
) -> None:
    in_memory = report(run("inspect", car)[1])[1]
    with piped(tmp_path, car.read_bytes()) as pipe:
        code, out, err = run("inspect", pipe, "--mem-limit-mb", "0")
    facts, collections = report(out)
    assert (code, err) == (0, "")
    assert facts["Walked"] == "on disk (memory limit 0 MiB), in a temporary file"
    assert collections == in_memory
    assert names_in(tmp_path) == [car.name]


@needs_pipes
def test_store_that_is_named_is_left_empty(run: Run, tmp_path: Path) -> None:
    store = tmp_path / "spill.db"
    for _ in ("new", "there"):
        with piped(tmp_path, SAMPLE.read_bytes()) as pipe:
            code, out, err = run("inspect", pipe, "--mem-limit-mb", "0", "--disk", store)
        assert (code, err) == (0, "")
        assert report(out)[0]["Walked"].endswith(f", in {store}")
        assert store.stat().st_size < SAMPLE.stat().st_size / 4
        assert names_in(tmp_path) == [store.name]


def test_no_store_is_made_if_the_repo_fits(run: Run, car: Path, tmp_path: Path) -> None:
    store = tmp_path / "spill.db"
    assert run("inspect", car, "--disk", store)[0] == 0
    assert not store.exists()


def test_limit_may_be_a_fraction_of_a_mebibyte(run: Run) -> None:
    out = run("inspect", SAMPLE, "--mem-limit-mb", "0.05")[1]
    assert report(out)[0]["Walked"].startswith("on disk (memory limit 0.05 MiB)")


@needs_pipes
def test_foreign_file_is_refused_and_unharmed(run: Run, tmp_path: Path) -> None:
    store, log = tmp_path / "spill.db", tmp_path / "spill.db-log"
    for foreign in (store, log):
        foreign.write_text("dear reader")
        with piped(tmp_path, SAMPLE.read_bytes()) as pipe:
            code, out, err = run("inspect", pipe, "--mem-limit-mb", "0", "--disk", store)
        assert (code, out) == (1, "")
        assert str(store) in err
        assert err.count("\n") == 1
        assert (foreign.read_text(), names_in(tmp_path)) == ("dear reader", [foreign.name])
        foreign.unlink()


def test_car_is_not_taken_for_its_own_store(run: Run, car: Path) -> None:
    before = car.read_bytes()
    code, _, err = run("inspect", car, "--mem-limit-mb", "0", "--disk", car)
    assert (code, err) == (0, "")  # it needs none
    assert (car.read_bytes(), names_in(car.parent)) == (before, [car.name])


@needs_pipes
def test_store_that_cannot_be_opened_gives_one_line(
    run: Run, car: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # A thread of SQLite's that outlives the event loop prints a traceback after the line.
    troubles: list[object] = []
    monkeypatch.setattr(threading, "excepthook", troubles.append)
    store = tmp_path / "nowhere" / "spill.db"
    data = car.read_bytes()
    for _ in range(30):
        with piped(tmp_path, data) as pipe:
            code, out, err = run("inspect", pipe, "--mem-limit-mb", "0", "--disk", store)
        assert (code, out) == (1, "")
        assert str(store) in err
        assert err.count("\n") == 1
    assert troubles == []
