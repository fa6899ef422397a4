"""The shell command as a process of its own: its input, its output, how it ends."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import IO, cast

import pytest

from repo_stream.testing import RawRecord, build_car
from support import SAMPLE
from support.cli import POST, RECORDS, command, report, small_car

FULL = Path("/dev/full")  # a disk without room
STDOUT = Path("/dev/stdout")

pytestmark = pytest.mark.usefixtures("started_as_by_people")


def done(
    *arguments: str | Path,
    stdin: int | IO[bytes] | None = None,
    given: bytes | None = None,
    stdout: int | IO[bytes] = subprocess.PIPE,
    env: dict[str, str] | None = None,
) -> subprocess.CompletedProcess[bytes]:
    """Run the command to its end, with a standard input, or with what is given through a pipe."""
    with subprocess.Popen(
        command(*arguments),
        stdin=stdin if given is None else subprocess.PIPE,
        stdout=stdout,
        stderr=subprocess.PIPE,
        env=env,
    ) as process:
        try:
            out, err = process.communicate(given, timeout=120)
        finally:
            process.kill()
    return subprocess.CompletedProcess(process.args, process.returncode, out, err)


def test_module_is_the_command(car: Path) -> None:
    ended = done("inspect", car)
    assert (ended.returncode, ended.stderr) == (0, b"")
    assert report(ended.stdout.decode())[1]["Total"][0] == len(RECORDS)


def test_bad_input_leaves_no_traceback(tmp_path: Path) -> None:
    ended = done("inspect", tmp_path / "nowhere.car")
    assert (ended.returncode, ended.stdout, ended.stderr.count(b"\n")) == (1, b"", 1)


# --- Standard input -------------------------------------------------------------------------------


def test_file_as_standard_input(car: Path) -> None:
    with car.open("rb") as file:
        ended = done("ls", "-", stdin=file)
    assert (ended.returncode, ended.stderr) == (0, b"")
    assert len(ended.stdout.splitlines()) == len(RECORDS)


def test_pipe_as_standard_input(car: Path) -> None:
    ended = done("ls", "-", "--mem-limit-mb", "0", given=car.read_bytes())
    assert (ended.returncode, ended.stderr) == (0, b"")
    assert len(ended.stdout.splitlines()) == len(RECORDS)


def test_order_from_and_to_a_pipe(car: Path) -> None:
    ended = done("order", "-", "-", "-q", given=car.read_bytes())
    assert (ended.returncode, ended.stderr) == (0, b"")
    assert ended.stdout == small_car(order="stream")


def test_join_from_and_to_a_pipe(car: Path) -> None:
    for arguments in ((car, "-"), ("-", car)):
        ended = done("join", *arguments, "-q", given=small_car())
        assert (ended.returncode, ended.stderr) == (0, b"")
        assert ended.stdout == small_car(order="stream")
    ended = done("join", car, "-", given=small_car()[:-1])
    assert (ended.returncode, ended.stdout) == (1, b"")
    assert ended.stderr.startswith(b"repo-stream: slice 1: the CAR ends inside a section")


def test_empty_standard_input_gives_one_line() -> None:
    ended = done("inspect", "-", stdin=subprocess.DEVNULL)
    assert (ended.returncode, ended.stdout, ended.stderr.count(b"\n")) == (1, b"", 1)
    assert b"is empty" in ended.stderr


# --- Output that cannot be written ----------------------------------------------------------------


def test_order_does_not_append_to_its_own_car(car: Path) -> None:
    content = car.read_bytes()
    with car.open("ab") as appending:
        ended = done("order", car, "-", stdout=appending)
    assert ended.returncode == 2
    assert b"standard output is the CAR itself" in ended.stderr
    assert car.read_bytes() == content


def test_join_does_not_append_to_its_own_slice(car: Path, tmp_path: Path) -> None:
    since = tmp_path / "since.car"
    since.write_bytes(small_car())
    with since.open("ab") as appending:
        ended = done("join", car, since, stdout=appending)
    assert ended.returncode == 2
    assert b"standard output is one of the CARs to join: " in ended.stderr
    assert since.read_bytes() == small_car()


@pytest.mark.parametrize(
    "arguments",
    [
        pytest.param(("inspect", SAMPLE), id="report"),
        pytest.param(("--version",), id="version"),
        pytest.param(("--help",), id="help"),
        pytest.param(("get", "--help"), id="help on a command"),
    ],
)
def test_pipe_without_a_reader_ends_it_quietly(arguments: tuple[str | Path, ...]) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    try:
        ended = done(*arguments, stdout=writing)
    finally:
        os.close(writing)
    assert (ended.returncode, ended.stderr) == (141, b"")


@pytest.mark.parametrize(
    "arguments",
    [
        pytest.param(("ls", SAMPLE), id="ls"),
        pytest.param(("export", SAMPLE), id="export"),
        pytest.param(("export", "--format", "parquet", SAMPLE), id="parquet"),
        pytest.param(("export", "--format", "arrow", SAMPLE), id="Arrow"),
        pytest.param(
            ("export", "--typed", "--collection", POST, "--format", "arrow", SAMPLE), id="typed"
        ),
        pytest.param(("sql", "from records", SAMPLE), id="sql"),
        pytest.param(("sql", "--json", "from records", SAMPLE), id="sql, JSON"),
        pytest.param(("export", "--format", "csv", SAMPLE), id="CSV"),
        pytest.param(("export", "--format", "jsonl.gz", SAMPLE), id="gzip"),
        pytest.param(("order", SAMPLE, "-"), id="order"),
        pytest.param(("join", SAMPLE, SAMPLE), id="join"),
    ],
)
def test_reader_that_leaves_midway_ends_it_quietly(arguments: tuple[str | Path, ...]) -> None:
    process = subprocess.Popen(command(*arguments), stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert process.stdout is not None
    assert process.stderr is not None
    process.stdout.close()
    try:
        assert (process.wait(timeout=120), process.stderr.read()) == (141, b"")
    finally:
        process.kill()
        process.stderr.close()


@pytest.mark.skipif(not FULL.exists(), reason="needs /dev/full")
@pytest.mark.parametrize(
    "arguments",
    [
        pytest.param(("inspect", SAMPLE), id="report"),
        pytest.param(("--version",), id="version"),
        pytest.param(("--help",), id="help"),
    ],
)
def test_full_disk_behind_the_output_gives_one_line(arguments: tuple[str | Path, ...]) -> None:
    with FULL.open("wb") as full:
        ended = done(*arguments, stdout=full)
    assert ended.returncode == 1
    assert ended.stderr == b"repo-stream: standard output: No space left on device\n"


@pytest.mark.skipif(not FULL.exists(), reason="needs /dev/full")
@pytest.mark.parametrize("kind", ["jsonl", "csv.gz", "parquet", "arrow"])
def test_bad_record_and_full_disk_give_one_line(kind: str, tmp_path: Path) -> None:
    path = tmp_path / "bad.car"
    records = {f"{POST}/{n:013}": {"text": "x"} for n in range(300)}
    path.write_bytes(build_car(records | {f"{POST}/{299:013}": RawRecord(b"\xff\xff")}))
    with FULL.open("wb") as full:
        ended = done("export", path, "--format", kind, stdout=full)
    assert (ended.returncode, ended.stderr.count(b"\n")) == (1, 1), ended.stderr


@pytest.mark.parametrize(
    ("kind", "room"),
    [
        pytest.param("jsonl", 0, id="jsonl, no room"),
        pytest.param("jsonl", 10_000, id="jsonl, 10 kB"),
        pytest.param("csv", 10_000, id="CSV, 10 kB"),
        pytest.param("jsonl.gz", 0, id="gzip, no room"),
        pytest.param("jsonl.gz", 10_000, id="gzip, 10 kB"),
        pytest.param("parquet", 0, id="parquet, no room"),
        pytest.param("parquet", 100, id="parquet, 100 bytes"),
        pytest.param("parquet", 10_000, id="parquet, 10 kB"),
        pytest.param("arrow", 10_000, id="Arrow, 10 kB"),
    ],
)
def test_file_that_cannot_grow_is_named_and_removed(kind: str, room: int, tmp_path: Path) -> None:
    target = tmp_path / "records"
    program = f"""
import resource, sys
resource.setrlimit(resource.RLIMIT_FSIZE, ({room}, {room}))
from repo_stream.cli import main
sys.exit(main(sys.argv[1:]))
"""
    ended = subprocess.run(
        [sys.executable, "-c", program, "export", SAMPLE, "--format", kind, "-o", target],
        capture_output=True,
        check=False,
        timeout=120,
        text=True,
    )
    assert (ended.returncode, ended.stdout) == (1, "")
    assert ended.stderr == f"repo-stream: {target}: File too large\n"
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("unbuffered", ["", "1"], ids=["buffered", "unbuffered"])
@pytest.mark.parametrize("command", ["ls", "export", "order"])
def test_standard_output_that_cannot_take_all_is_an_error(
    command: str, unbuffered: str, tmp_path: Path
) -> None:
    arguments = [command, str(SAMPLE), *(["-"] if command == "order" else [])]
    program = f"""
import resource, sys
resource.setrlimit(resource.RLIMIT_FSIZE, ({{}}, -1))
from repo_stream.cli import main
sys.exit(main({arguments!r}))
"""

    def run(room: int) -> tuple[int, str, int]:
        target = tmp_path / "out"
        with target.open("wb") as file:
            ended = subprocess.run(
                [sys.executable, "-c", program.format(room)],
                stdout=file,
                stderr=subprocess.PIPE,
                check=False,
                timeout=120,
                text=True,
                env={**os.environ, "PYTHONUNBUFFERED": unbuffered},
            )
        return ended.returncode, ended.stderr, target.stat().st_size

    code, _, size = run(2**30)
    assert (code, size > 10_000) == (0, True)
    code, err, _ = run(size - 10)
    assert (code, err) == (1, "repo-stream: standard output: File too large\n")


@pytest.mark.parametrize("room", [0, 1_000])
def test_folder_that_cannot_grow_is_named_and_removed(room: int, tmp_path: Path) -> None:
    target = tmp_path / "folder"
    program = f"""
import resource, sys
resource.setrlimit(resource.RLIMIT_FSIZE, ({room}, {room}))
from repo_stream.cli import main
sys.exit(main(sys.argv[1:]))
"""
    ended = subprocess.run(
        [sys.executable, "-c", program, "export", SAMPLE, "--typed", "--to-folder", target],
        capture_output=True,
        check=False,
        timeout=120,
        text=True,
    )
    assert (ended.returncode, ended.stdout) == (1, "")
    assert ended.stderr == f"repo-stream: {target}: File too large\n"
    assert list(tmp_path.iterdir()) == []


# --- Output that can ------------------------------------------------------------------------------


@pytest.mark.skipif(not STDOUT.exists(), reason="needs /dev/stdout")
def test_export_to_a_pipe_that_has_a_path() -> None:
    named, plain = (done("export", "-q", SAMPLE, *flags) for flags in (("-o", STDOUT), ()))
    assert (named.returncode, named.stderr) == (0, b"")
    assert named.stdout == plain.stdout


def test_first_batch_comes_before_the_whole_car_was_read() -> None:
    ipc = pytest.importorskip("pyarrow.ipc")
    records = {f"{POST}/{n:013}": {"text": "x" * 500} for n in range(20_000)}
    car, came = build_car(records, order="stream"), threading.Event()
    with subprocess.Popen(
        command("export", "-", "--format", "arrow", "-q"),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    ) as process:
        assert process.stdout is not None

        def feed(pipe: IO[bytes]) -> None:
            with pipe:
                pipe.write(car[: len(car) // 2])
                pipe.flush()
                assert came.wait(60)
                pipe.write(car[len(car) // 2 :])

        with ThreadPoolExecutor(1) as thread:
            try:
                fed = thread.submit(feed, cast("IO[bytes]", process.stdin))
                rows = ipc.open_stream(process.stdout)
                first = rows.read_next_batch().num_rows
                came.set()
                assert first + sum([batch.num_rows for batch in rows]) == len(records)
                fed.result()
                assert process.wait(timeout=120) == 0
            finally:
                process.kill()


def test_stream_goes_into_a_query_of_another_program() -> None:
    pytest.importorskip("duckdb")
    query = (
        "import sys, duckdb, pyarrow; records = pyarrow.ipc.open_stream(sys.stdin.buffer); "
        "print(duckdb.sql('select count(*) from records').fetchall())"
    )
    with subprocess.Popen(
        command("export", SAMPLE, "--format", "arrow", "-q"), stdout=subprocess.PIPE
    ) as process:
        asked = subprocess.run(
            [sys.executable, "-c", query],
            stdin=process.stdout,
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
    assert (asked.stdout, asked.stderr, process.returncode) == ("[(500,)]\n", "", 0)


@pytest.mark.parametrize("encoding", ["ascii", "latin-1"])
def test_what_the_encoding_does_not_know_is_escaped(
    car: Path, tmp_path: Path, encoding: str
) -> None:
    store = tmp_path / "sp\u00efll\u2713.db"
    environment = {**os.environ, "PYTHONIOENCODING": f"{encoding}:strict"}
    # Through a pipe, as a file is read again where it is.
    flags = ("--mem-limit-mb", "0", "--disk", store)
    ended = done("inspect", "-", *flags, given=car.read_bytes(), env=environment)
    assert (ended.returncode, ended.stderr) == (0, b"")
    assert store.name.encode(encoding, "backslashreplace") in ended.stdout


NO_OUTPUT, NO_INPUT = "standard output: Bad file descriptor", "standard input: Bad file descriptor"


def test_picture_is_the_same_in_every_process(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    for form in ("png", "svg"):
        pictures: set[bytes] = set()
        for seed in ("1", "2"):
            path = tmp_path / f"{seed}.{form}"
            environment = {**os.environ, "PYTHONHASHSEED": seed, "TZ": f"UTC{seed}"}
            assert done("inspect", SAMPLE, "--plot", path, "-q", env=environment).stderr == b""
            pictures.add(path.read_bytes())
        assert len(pictures) == 1


@pytest.mark.skipif(os.name != "posix", reason="needs a shell's redirections")
@pytest.mark.parametrize(
    ("redirections", "arguments", "code", "complaint"),
    [
        pytest.param(">&-", ("ls", SAMPLE), 1, NO_OUTPUT, id="output, of text"),
        pytest.param(">&-", ("export", SAMPLE), 1, NO_OUTPUT, id="output, of bytes"),
        pytest.param(">&-", ("--version",), 1, NO_OUTPUT, id="output, of the version"),
        pytest.param(">&-", ("ls", "--help"), 1, NO_OUTPUT, id="output, of the help"),
        pytest.param("<&-", ("ls", "-"), 1, NO_INPUT, id="input"),
        pytest.param("2>&-", ("ls", SAMPLE), 0, "", id="errors, of which there is none"),
        pytest.param("2>&-", ("export", SAMPLE), 0, "", id="errors, of which export has a report"),
        pytest.param("2>&-", ("ls", "nowhere.car"), 1, "", id="errors, of which there is one"),
        pytest.param("2>&-", ("nonsense",), 2, "", id="errors, of which there is one in the usage"),
        pytest.param(">&- 2>&- <&-", ("ls", SAMPLE), 1, "", id="all of them"),
    ],
)
def test_closed_file_gives_one_line_at_most(
    redirections: str, arguments: tuple[str | Path, ...], code: int, complaint: str
) -> None:
    ended = subprocess.run(
        ["/bin/sh", "-c", f'exec "$@" {redirections}', "sh", *command(*arguments)],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert (ended.returncode, len(ended.stdout.splitlines())) == (code, 0 if code else 500)
    assert ended.stderr == (f"repo-stream: {complaint}\n" if complaint else "")
