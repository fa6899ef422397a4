"""The shell command: what it prints, what it says of bad input, how it ends."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import cast

import pytest

from repo_stream.cli import main
from repo_stream.testing import build_car, build_repo, write_car
from support import shared

SAMPLE = Path(__file__).parent / "cars" / "sample.car"

POST = "app.bsky.feed.post"
LIKE = "app.bsky.feed.like"
RECORDS = {f"{POST}/3jzfcijpj2z2{end}": {"text": end} for end in "abc"} | {f"{LIKE}/1": {"n": 1}}
SIZE = {POST: 3 * len(b"\xa1\x64text\x61a"), LIKE: len(b"\xa1\x61n\x01")}

Run = Callable[..., tuple[int, str, str]]


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
    path = tmp_path / "repo.car"
    path.write_bytes(build_car(RECORDS, did="did:plc:someone", rev="3jzfcijpj2z2a"))
    return path


def report(text: str) -> tuple[dict[str, str], dict[str, tuple[int, int]]]:
    """Read a report back: the lines above the table, and the table."""
    above, _, below = text.partition("\n\n")
    facts = {line.split(maxsplit=1)[0]: line.split(maxsplit=1)[1] for line in above.splitlines()}
    rows = [line.split() for line in below.splitlines()[1:] if not line.startswith("---")]
    return facts, {
        name: (int(records.replace(",", "")), int(size.replace(",", "")))
        for name, records, size in rows
    }


# --- What it prints -----------------------------------------------------------------------------


def test_prints_whose_repo_it_is_and_what_is_in_it(run: Run, car: Path) -> None:
    code, out, err = run(car)
    facts, collections = report(out)
    assert (code, err) == (0, "")
    assert facts == {
        "DID": "did:plc:someone",
        "Rev": "3jzfcijpj2z2a",
        "Walked": "in memory (limit 16 MiB)",
    }
    assert collections == {
        LIKE: (1, SIZE[LIKE]),
        POST: (3, SIZE[POST]),
        "Total": (4, SIZE[LIKE] + SIZE[POST]),
    }


def test_goes_through_a_temporary_file(run: Run, car: Path) -> None:
    in_memory = report(run(car)[1])[1]
    code, out, err = run(car, "--mem-limit-mb", "0")
    facts, collections = report(out)
    assert (code, err) == (0, "")
    assert facts["Walked"] == "through the disk (memory limit 0 MiB): a temporary file"
    assert collections == in_memory
    assert os.listdir(car.parent) == ["repo.car"]  # noqa: PTH208 - names are what matters


def test_goes_through_the_file_given_and_leaves_it_emptied(
    run: Run, car: Path, tmp_path: Path
) -> None:
    store = tmp_path / "spill.db"
    for _ in range(2):
        code, out, err = run(SAMPLE, "--mem-limit-mb", "0", "--disk", store)
        assert (code, err) == (0, "")
        assert report(out)[0]["Walked"].endswith(f": {store}")
        assert store.stat().st_size < SAMPLE.stat().st_size / 4
    assert sorted(path.name for path in tmp_path.iterdir()) == [car.name, store.name]


def test_makes_no_store_where_everything_fits(run: Run, car: Path, tmp_path: Path) -> None:
    store = tmp_path / "spill.db"
    assert run(car, "--disk", store)[0] == 0
    assert not store.exists()


def test_takes_a_fraction_of_a_mebibyte(run: Run) -> None:
    out = run(SAMPLE, "--mem-limit-mb", "0.05")[1]
    assert report(out)[0]["Walked"].startswith("through the disk (memory limit 0.05 MiB)")


@pytest.mark.parametrize("limit", ["16", "0"], ids=["in memory", "through the disk"])
@pytest.mark.parametrize(
    ("name", "records", "size"),
    [("empty", 0, 0), ("tiny", 8, 2_071), ("little", 278, 246_960), ("midsize", 11_585, 3_741_393)],
)
def test_counts_real_repos(run: Run, name: str, records: int, size: int, limit: str) -> None:
    code, out, _ = run(shared(f"cars/{name}.car"), "--mem-limit-mb", limit)
    assert code == 0
    assert out.splitlines()[-1].split() == ["Total", f"{records:,}", f"{size:,}"]


def test_empty_repo_has_a_total_of_nothing(run: Run, tmp_path: Path) -> None:
    path = tmp_path / "empty.car"
    path.write_bytes(build_car({}))
    code, out, _ = run(path)
    assert code == 0
    assert report(out)[1] == {"Total": (0, 0)}


def test_fits_80_columns_and_lines_up(run: Run, tmp_path: Path) -> None:
    path = tmp_path / "repo.car"
    long = "x" * 78
    path.write_bytes(build_car({f"{long}/a": {"n": 1}, f"{'y' * 60}/a": {"n": 2}, **RECORDS}))
    _, out, _ = run(path)
    table = out.partition("\n\n")[2].splitlines()
    assert max(map(len, table)) <= 80
    after_long = table[table.index(long) + 1]
    assert after_long.split() == ["1", "4"]
    assert {len(line) for line in table if line != long} == {len(table[0])}


@pytest.mark.parametrize(
    ("key", "shown"),
    [
        pytest.param("\x1b[2J\x07evil/a", r"\x1b[2J\x07evil", id="escape sequences"),
        pytest.param("two\nlines/a", r"two\nlines", id="line break"),
        pytest.param("caf\u00e9\u202e/a", r"caf\xe9\u202e", id="not ASCII"),
        pytest.param("nocollection", "(none)", id="no slash"),
        pytest.param("/a", "(none)", id="nothing before the slash"),
    ],
)
def test_hostile_names_are_shown_harmlessly(run: Run, tmp_path: Path, key: str, shown: str) -> None:
    path = tmp_path / "repo.car"
    path.write_bytes(build_car({key: {"n": 1}}))
    code, out, _ = run(path)
    assert code == 0
    assert out.splitlines()[6].split() == [shown, "1", "4"]
    assert out.replace("\n", "").isprintable()


# --- Bad input ----------------------------------------------------------------------------------


def bad_cars() -> list[object]:
    repo = build_repo(RECORDS)
    whole = build_car(RECORDS)
    kept = list(repo.blocks.items())
    missing = [(cid, data) for cid, data in kept if cid != repo.records[f"{POST}/3jzfcijpj2z2b"]]
    forged = [*missing, (repo.records[f"{POST}/3jzfcijpj2z2b"], b"\xa1\x64text\x61z")]
    return [
        pytest.param(b"", "is empty", id="nothing in it"),
        pytest.param(b"\x0a\xa1\x67version\x02", "CARv2", id="CARv2"),
        pytest.param(b"<!DOCTYPE html>", "CAR", id="a web page"),
        pytest.param(whole[:-1], "fetch it again", id="cut short"),
        pytest.param(
            write_car([repo.commit_cid], missing), "3jzfcijpj2z2b' is not in the CAR", id="missing"
        ),
        pytest.param(write_car([repo.commit_cid], forged), "has other bytes", id="forged"),
        pytest.param(write_car([repo.commit_cid], kept[1:]), "the commit", id="no commit"),
    ]


@pytest.mark.parametrize("limit", ["16", "0"], ids=["in memory", "through the disk"])
@pytest.mark.parametrize(("data", "message"), bad_cars())
def test_bad_car_gives_one_line(
    run: Run, tmp_path: Path, data: bytes, message: str, limit: str
) -> None:
    path = tmp_path / "bad.car"
    path.write_bytes(data)
    code, out, err = run(path, "--mem-limit-mb", limit)
    assert (code, out) == (1, "")
    assert err.startswith(f"python -m repo_stream: {path}: ")
    assert message in err
    assert err.count("\n") == 1


def test_missing_file_gives_one_line(run: Run, tmp_path: Path) -> None:
    path = tmp_path / "nowhere.car"
    expected = f"python -m repo_stream: {path}: No such file or directory\n"
    assert run(path) == (1, "", expected)


def test_directory_gives_one_line(run: Run, tmp_path: Path) -> None:
    assert run(tmp_path) == (1, "", f"python -m repo_stream: {tmp_path}: Is a directory\n")


def test_name_with_a_line_break_stays_on_one_line(run: Run, tmp_path: Path) -> None:
    code, _, err = run(tmp_path / "two\nlines\x1b.car")
    assert code == 1
    assert r"two\nlines\x1b.car" in err
    assert err.count("\n") == 1


def test_foreign_file_is_refused_and_unharmed(run: Run, car: Path) -> None:
    before = car.read_bytes()
    code, out, err = run(car, "--mem-limit-mb", "0", "--disk", car)
    assert (code, out) == (1, "")
    assert str(car) in err
    assert err.count("\n") == 1
    assert car.read_bytes() == before


def test_store_in_no_directory_gives_one_line(run: Run, car: Path, tmp_path: Path) -> None:
    store = tmp_path / "nowhere" / "spill.db"
    code, out, err = run(car, "--mem-limit-mb", "0", "--disk", store)
    assert (code, out) == (1, "")
    assert str(store) in err
    assert err.count("\n") == 1


def test_store_that_cannot_be_opened_leaves_no_thread_in_trouble(
    run: Run, car: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # A thread of SQLite's that outlives the event loop prints a traceback after the line.
    troubles: list[object] = []
    monkeypatch.setattr(threading, "excepthook", troubles.append)
    for _ in range(30):
        run(car, "--mem-limit-mb", "0", "--disk", tmp_path / "nowhere" / "spill.db")
    assert troubles == []


# --- Usage --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "arguments",
    [
        pytest.param([], id="no file"),
        pytest.param(["a.car", "b.car"], id="two files"),
        pytest.param(["a.car", "--wrong"], id="unknown option"),
        pytest.param(["a.car", "--disk"], id="option without its value"),
        *(
            pytest.param(["a.car", "--mem-limit-mb", limit], id=f"limit {limit}")
            for limit in ("x", "-1", "nan", "inf", "1e308")
        ),
    ],
)
def test_wrong_usage(run: Run, arguments: list[str]) -> None:
    code, out, err = run(*arguments)
    assert (code, out) == (2, "")
    assert err.startswith("usage: python -m repo_stream ")


def test_help(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    code, out, err = run("--help")
    assert (code, err) == (0, "")
    assert {"CAR", "--mem-limit-mb", "--disk"} <= set(out.split())
    assert max(map(len, out.splitlines())) <= 80


# --- As a process of its own --------------------------------------------------------------------


def command(*arguments: str | Path) -> list[str]:
    return [sys.executable, "-m", "repo_stream", *map(str, arguments)]


def test_runs_as_a_module(car: Path) -> None:
    done = subprocess.run(command(car), capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert report(done.stdout)[1]["Total"][0] == len(RECORDS)


def test_bad_input_leaves_no_traceback(tmp_path: Path) -> None:
    done = subprocess.run(
        command(tmp_path / "nowhere.car"), capture_output=True, text=True, timeout=60, check=False
    )
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.count("\n") == 1


def test_reader_that_goes_away_ends_it_quietly(car: Path) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    try:
        done = subprocess.run(
            command(car), stdout=writing, stderr=subprocess.PIPE, timeout=60, check=False
        )
    finally:
        os.close(writing)
    assert (done.returncode, done.stderr) == (141, b"")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_full_disk_behind_the_output_gives_one_line(car: Path) -> None:
    with Path("/dev/full").open("wb") as full:
        done = subprocess.run(
            command(car), stdout=full, stderr=subprocess.PIPE, text=True, timeout=60, check=False
        )
    assert done.returncode == 1
    assert done.stderr == "python -m repo_stream: standard output: No space left on device\n"


@pytest.mark.parametrize("limit", ["16", "0"], ids=["in memory", "through the disk"])
def test_ctrl_c_ends_it_quietly(tmp_path: Path, limit: str) -> None:
    # A pipe that never ends holds the load at a known place: it has read what was written.
    fifo = tmp_path / "repo.car"
    os.mkfifo(fifo)
    process = subprocess.Popen(
        command(fifo, "--mem-limit-mb", limit), stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    try:
        # Opening waits for the reader, so by then the command is at work.
        with fifo.open("wb", buffering=0) as pipe:
            pipe.write(SAMPLE.read_bytes()[:5_000])
            process.send_signal(signal.SIGINT)
            # The read that was under way ends with the file.
        out, err = process.communicate(timeout=60)
    finally:
        process.kill()
        process.wait()
    assert (process.returncode, out, err) == (130, b"", b"")


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "utf-8"])
def test_prints_in_any_encoding(car: Path, tmp_path: Path, encoding: str) -> None:
    store = tmp_path / "sp\u00efll\u2713.db"
    done = subprocess.run(
        command(car, "--mem-limit-mb", "0", "--disk", store),
        env={**os.environ, "PYTHONIOENCODING": f"{encoding}:strict"},
        capture_output=True,
        timeout=60,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, b"")
    assert store.name.encode(encoding, "backslashreplace") in done.stdout
