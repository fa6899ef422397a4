"""Ctrl-C ends the shell command, quietly and in good order, whatever it is at."""

from __future__ import annotations

import os
import random
import signal
import socket
import subprocess
import sys
import threading
import time
import tomllib
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import anyio
import pytest

from repo_stream.cli import main
from repo_stream.cli.interrupts import at_once, interruptible
from repo_stream.testing import build_car
from support import ROOT, SAMPLE
from support.cli import BOTH_WAYS, POST, command

pytestmark = pytest.mark.usefixtures("started_as_by_people")

SECONDS = 60  # to come to an end
LONG = "long.car"
PARQUET = ["export", LONG, "--format", "parquet"]


@contextmanager
def running(
    arguments: list[str], *, stdin: int | None = None
) -> Generator[subprocess.Popen[bytes]]:
    """Start a process, which is over when this is."""
    process = subprocess.Popen(
        arguments, stdin=stdin, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def entry_points() -> list[Any]:
    """The command as the installed script starts it, and as a module."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    module, _, function = project["scripts"]["repo-stream"].partition(":")
    script = f"import sys; from {module} import {function}; sys.exit({function}())"
    return [
        pytest.param([sys.executable, "-c", script], id="script"),
        pytest.param(command(), id="module"),
    ]


# --- While it begins and ends ---------------------------------------------------------------------


@pytest.mark.parametrize("entry", entry_points())
@pytest.mark.parametrize(
    ("imported", "heard_as"),
    [("argparse", "KeyboardInterrupt"), ("anyio", "ImportError"), ("asyncio", "ImportError")],
)
def test_ctrl_c_while_it_imports(
    entry: list[str], imported: str, heard_as: str, tmp_path: Path
) -> None:
    # What it imports sends Ctrl-C to it; some modules make another exception of that.
    interrupting = f"""
import os, signal, time
try:
    os.kill(os.getpid(), signal.SIGINT)
    time.sleep(30)
except KeyboardInterrupt as error:
    raise {heard_as} from error
"""
    (tmp_path / f"{imported}.py").write_text(interrupting)
    path = os.pathsep.join(filter(None, [str(tmp_path), os.environ.get("PYTHONPATH")]))
    done = subprocess.run(
        [*entry, "inspect", str(SAMPLE)],
        env={**os.environ, "PYTHONPATH": path},
        capture_output=True,
        timeout=SECONDS,
        check=False,
    )
    assert (done.returncode, done.stdout, done.stderr) == (130, b"", b"")


@pytest.mark.parametrize("entry", entry_points())
def test_ctrl_c_again_and_again(entry: list[str], tmp_path: Path) -> None:
    target, store = tmp_path / "records.jsonl", tmp_path / "spill.db"
    reading, writing = os.pipe()
    arguments = ["export", "-", "-o", str(target), "--mem-limit-mb", "0", "--disk", str(store)]
    try:
        with running([*entry, *arguments], stdin=reading) as process:
            os.write(writing, SAMPLE.read_bytes()[:60_000])
            for _ in range(100 * SECONDS):
                if store.exists():
                    break
                time.sleep(0.01)
            for _ in range(200):
                process.send_signal(signal.SIGINT)
                if process.poll() is not None:
                    break
                time.sleep(0.001)
            out, err = process.communicate(timeout=SECONDS)
    finally:
        os.close(reading)
        os.close(writing)
    # At its very end Python turns the signal back into the system's own, which says the same.
    assert process.returncode in {130, -signal.SIGINT}
    assert (out, err) == (b"", b"")
    assert os.listdir(tmp_path) == [store.name]  # noqa: PTH208 - names are what matters


def test_ctrl_c_that_was_turned_off_stays_off(tmp_path: Path) -> None:
    # As by `nohup` or `&`
    deaf = """
import os, signal, sys
signal.signal(signal.SIGINT, signal.SIG_IGN)
os.execv(sys.argv[1], sys.argv[1:])
"""
    fifo = tmp_path / "repo.car"
    os.mkfifo(fifo)
    with running([sys.executable, "-c", deaf, *command("ls", fifo)]) as process:
        with fifo.open("wb", buffering=0) as pipe:  # opened by both: it is at work
            process.send_signal(signal.SIGINT)
            pipe.write(SAMPLE.read_bytes())
        out, err = process.communicate(timeout=SECONDS)
    assert (process.returncode, len(out.splitlines()), err) == (0, 500, b"")


def test_handlers_of_others_are_left_in_place(capsys: pytest.CaptureFixture[str]) -> None:
    def ours(_number: int, _frame: object) -> None:
        raise KeyboardInterrupt

    hears, tells = socket.socketpair()
    with hears, tells:
        tells.settimeout(0)
        handler = signal.signal(signal.SIGINT, ours)
        wakeup = signal.set_wakeup_fd(tells.fileno())
        try:
            assert main(["ls", str(SAMPLE)]) == 0
            assert signal.getsignal(signal.SIGINT) is ours
            assert signal.set_wakeup_fd(wakeup) == tells.fileno()
        finally:
            signal.set_wakeup_fd(wakeup)
            signal.signal(signal.SIGINT, handler)
    assert len(capsys.readouterr().out.splitlines()) == 500


# --- While it waits for input ---------------------------------------------------------------------


@BOTH_WAYS
def test_ctrl_c_while_it_reads(tmp_path: Path, limit: str) -> None:
    # A pipe that never ends holds the load at a known place: it has read what was written.
    fifo = tmp_path / "repo.car"
    os.mkfifo(fifo)
    with running(command("inspect", fifo, "--mem-limit-mb", limit)) as process:
        # Opening waits for the reader, so by then the command is at work.
        with fifo.open("wb", buffering=0) as pipe:
            pipe.write(SAMPLE.read_bytes()[:5_000])
            process.send_signal(signal.SIGINT)
            # The read that was under way ends with the file.
        out, err = process.communicate(timeout=SECONDS)
    assert (process.returncode, out, err) == (130, b"", b"")


def test_ctrl_c_while_it_opens_a_pipe_that_nobody_writes_to(tmp_path: Path) -> None:
    fifo = tmp_path / "repo.car"
    os.mkfifo(fifo)
    with running(command("ls", fifo)) as process:
        time.sleep(0.5)
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=SECONDS)
    assert (process.returncode, out, err) == (130, b"", b"")


def test_ctrl_c_while_it_waits_for_more() -> None:
    with running(command("inspect", "-"), stdin=subprocess.PIPE) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        assert process.stderr is not None
        # More than a pipe holds: when it is written, the command is at work.
        process.stdin.write(SAMPLE.read_bytes()[:150_000])
        process.stdin.flush()
        process.send_signal(signal.SIGINT)
        process.wait(timeout=SECONDS)
        assert (process.returncode, process.stdout.read(), process.stderr.read()) == (130, b"", b"")


def test_ctrl_c_before_a_call_that_waits() -> None:
    async def interrupted() -> None:
        with interruptible():
            signal.raise_signal(signal.SIGINT)
            with at_once():
                pytest.fail("it would wait for ever, and keep the event loop from ending it")

    with pytest.raises(KeyboardInterrupt):
        anyio.run(interrupted)


def test_ctrl_c_wakes_a_loop_that_is_just_falling_asleep() -> None:
    # Another thread hears the signal, so that it does not interrupt what the main thread waits for.
    async def asleep() -> float:
        with interruptible() as scope:
            timer = threading.Timer(0.2, signal.raise_signal, [signal.SIGINT])
            began = time.monotonic()
            timer.start()
            await anyio.sleep(SECONDS)
        timer.join()
        assert scope.cancelled_caught
        return time.monotonic() - began

    assert anyio.run(asleep) < SECONDS / 2


# --- While it waits for room in a pipe ------------------------------------------------------------


@pytest.fixture(scope="module")
def long_car(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A repo of which no command's output fits into a pipe, however it is compressed."""
    path = tmp_path_factory.mktemp("long") / LONG
    noise = random.Random(1)
    records = {f"{POST}/{n:013}": {"text": noise.randbytes(40).hex()} for n in range(3000)}
    path.write_bytes(build_car(records))
    return path


@pytest.mark.parametrize(
    ("arguments", "delay"),
    [
        pytest.param(["ls", LONG], 0.0, id="ls, at once"),
        pytest.param(["ls", LONG], 0.3, id="ls"),
        pytest.param(["export", LONG], 0.3, id="export"),
        pytest.param(["export", LONG, "-o", "/dev/stdout"], 0.0, id="export to a path, at once"),
        pytest.param(["export", LONG, "-o", "/dev/stdout"], 0.3, id="export to a path"),
        pytest.param(["export", LONG, "--format", "csv"], 0.3, id="CSV"),
        pytest.param(["export", LONG, "--format", "csv.gz"], 0.3, id="gzip"),
        pytest.param(PARQUET, 0.0, id="parquet, at once"),
        pytest.param(PARQUET, 0.3, id="parquet"),
        pytest.param([*PARQUET, "-o", "/dev/stdout"], 0.3, id="parquet to a path"),
        pytest.param(["export", LONG, "--format", "arrow"], 0.3, id="Arrow"),
        pytest.param(["sql", "--json", "from records", LONG], 0.3, id="sql"),
        pytest.param(["order", LONG, "-"], 0.3, id="order"),
        pytest.param(["order", LONG, "/dev/stdout"], 0.3, id="order to a path"),
        pytest.param(["join", LONG, LONG], 0.3, id="join"),
    ],
)
def test_ctrl_c_while_nobody_reads(arguments: list[str], delay: float, long_car: Path) -> None:
    chosen = [str(long_car) if argument == LONG else argument for argument in arguments]
    with running(command(*chosen)) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.read(1)  # it is at work, and the pipe is too small for the rest
        time.sleep(delay)
        process.send_signal(signal.SIGINT)
        process.wait(timeout=SECONDS)
        assert (process.returncode, process.stderr.read()) == (130, b"")


@pytest.mark.parametrize(
    "query",
    [
        pytest.param("select count(*) from records a, records b, records c, records d", id="joins"),
        pytest.param("select count(*) from range(100000000000000)", id="no record"),
    ],
)
@pytest.mark.parametrize("delay", [0.0, 0.3, 1.0])
def test_ctrl_c_ends_a_query(query: str, delay: float, long_car: Path, tmp_path: Path) -> None:
    pytest.importorskip("duckdb")
    environment = {**os.environ, "TMPDIR": str(tmp_path)}
    process = subprocess.Popen(
        command("sql", query, long_car),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=environment,
    )
    try:
        for _ in range(100 * SECONDS):
            if any(tmp_path.iterdir()):
                break  # DuckDB has been opened
            time.sleep(0.01)
        time.sleep(delay)
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=SECONDS)
    finally:
        process.kill()
    assert (process.returncode, out, err) == (130, b"", b"")
    assert list(tmp_path.iterdir()) == []


# --- While it writes files ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("flags", "begun"),
    [
        pytest.param(["--to-folder"], POST, id="json"),
        pytest.param(["--typed", "--to-folder"], f"{POST}.parquet", id="typed"),
    ],
)
@pytest.mark.parametrize("is_there", [False, True], ids=["new", "there"])
def test_ctrl_c_leaves_a_folder_as_it_was(
    *, tmp_path: Path, long_car: Path, is_there: bool, flags: list[str], begun: str
) -> None:
    target, empty = tmp_path / "records", tmp_path / "empty.car"
    if is_there:
        empty.write_bytes(build_car({}))
        assert main(["export", "-q", str(empty), *flags, str(target)]) == 0
    with running(command("export", long_car, *flags, target)) as process:
        for _ in range(1000 * SECONDS):
            if any(target.glob(f"_part-*/{begun}")) or process.poll() is not None:
                break
            time.sleep(0.001)
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=SECONDS)
        assert (process.returncode, out, err) == (130, b"", b"")
    assert target.exists() == is_there
    assert not is_there or [item.name for item in target.iterdir()] == ["_repo.json"]
