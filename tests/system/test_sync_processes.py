"""The sync face in processes of its own: Ctrl-C, the end of the interpreter, and after a fork."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import pytest

from repo_stream.testing import build_car

pytestmark = [
    pytest.mark.usefixtures("started_as_by_people"),
    pytest.mark.skipif(sys.platform == "win32", reason="a signal cannot be sent to a child"),
]

HEAD = """
import os, sys, threading, time
import repo_stream
from repo_stream import sync

path = sys.argv[1]

def slow():
    with open(path, "rb") as file:
        yield file.read(3000)
        print("ready", flush=True)
        time.sleep(60)
"""


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "repo.car"
    records = {f"app.test.a/{n:04}": {"n": n, "text": "x" * 100} for n in range(1000)}
    path.write_bytes(build_car(records))
    return path


def run(program: str, path: Path, *, interrupt: bool = False) -> tuple[int, str, str]:
    """Run a program; return its exit code, what it printed, and what it wrote to stderr."""
    command = [sys.executable, "-W", "always", "-c", HEAD + program, str(path)]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        try:
            if interrupt:
                assert process.stdout is not None
                assert process.stdout.readline() == "ready\n"
                process.send_signal(signal.SIGINT)
            printed, errors = process.communicate(timeout=60)
        finally:
            process.kill()
    return process.returncode, printed, errors


SILENT = ("Warning", "Exception ignored", "Exception in thread", "never retrieved", "was destroyed")


def assert_quiet(errors: str) -> None:
    assert [word for word in SILENT if word in errors] == [], errors


IN_THE_LOOP = """
from repo_stream.loop_thread import loop_thread
import anyio

async def wait():
    print("ready", flush=True)
    await anyio.sleep(60)

with loop_thread() as loop:
    loop.call(wait)
"""


@pytest.mark.parametrize(
    "work",
    [
        "for output in sync.records(slow()): pass",
        "with sync.open_car(slow()) as repo: repo.collections()",
        "sync.load_commit([time.sleep(0.1) or b'', *slow()])",
        IN_THE_LOOP,
    ],
    ids=["records", "collections", "load_commit", "in the loop"],
)
def test_ctrl_c_ends_the_program_at_once(work: str, path: Path) -> None:
    code, _, errors = run(work, path, interrupt=True)
    assert code == -signal.SIGINT
    assert errors.rstrip().endswith("KeyboardInterrupt")
    assert_quiet(errors)


def test_ctrl_c_can_be_caught_and_the_repo_read_on(path: Path) -> None:
    program = """
from repo_stream.loop_thread import loop_thread
import anyio

async def wait():
    print("ready", flush=True)
    await anyio.sleep(60)

with sync.open_car(path) as repo:
    keys = [key for key, _ in repo.next_chunk(10)]
    try:
        with loop_thread() as loop:
            loop.call(wait)
    except KeyboardInterrupt:
        print("interrupted")
    print(len(keys + [key for key, _ in repo]))
"""
    code, printed, errors = run(program, path, interrupt=True)
    assert (code, printed.split()) == (0, ["interrupted", "1000"]), errors
    assert_quiet(errors)


ENDINGS = {
    "falls off the end": ("pass", 0),
    "sys.exit": ("sys.exit(3)", 3),
    "an exception": ("raise LookupError('mine')", 1),
}


@pytest.mark.parametrize("ending", ENDINGS)
def test_a_loop_that_is_left_by_the_end_of_the_program_is_closed_without_a_word(
    ending: str, path: Path
) -> None:
    does, code = ENDINGS[ending]
    program = f"""
for output in sync.records(path, mem_limit_mb=0):
    {does}
    break
"""
    found, _, errors = run(program, path)
    assert found == code
    assert_quiet(errors)


@pytest.mark.parametrize("ending", ENDINGS)
def test_a_repo_that_was_forgotten_warns_and_lets_the_process_end(ending: str, path: Path) -> None:
    does, code = ENDINGS[ending]
    program = f"""
held = sync.open_car(open(path, "rb"), mem_limit_mb=0)
repo = held.__enter__()
repo.next_chunk(3)
{does}
"""
    found, _, errors = run(program, path)
    assert found == code, errors
    assert "was not closed; use `with`" in errors
    assert "Exception in thread" not in errors


def test_daemon_threads_that_are_reading_end_with_the_process_without_a_word(path: Path) -> None:
    program = """
started = threading.Event()

def read():
    while True:
        for output in sync.records(path, mem_limit_mb=0):
            started.set()

for _ in range(4):
    threading.Thread(target=read, daemon=True).start()
started.wait()
"""
    code, _, errors = run(program, path)
    assert (code, errors) == (0, "")


def test_a_daemon_thread_that_is_waited_for_at_the_end_ends(path: Path) -> None:
    program = """
import atexit
started = threading.Event()

def read():
    while True:
        with sync.open_car(path, mem_limit_mb=0) as repo:
            while repo.next_chunk(1):
                started.set()

thread = threading.Thread(target=read, daemon=True)
atexit.register(thread.join)  # after the loop has ended, as this comes before its first use
thread.start()
started.wait()
"""
    code, _, errors = run(program, path)
    assert code == 0
    assert "the interpreter is shutting down" in errors


def test_processes_that_are_forked_read_on_their_own(path: Path) -> None:
    program = """
import warnings
warnings.simplefilter("ignore", DeprecationWarning)  # of a fork beside threads
count = lambda: sum(1 for _ in sync.records(path))
print(count(), flush=True)
for _ in range(2):
    child = os.fork()
    if child == 0:
        print(count(), flush=True)
        os._exit(0)
    os.waitpid(child, 0)
print(count())
"""
    code, printed, errors = run(program, path)
    assert (code, printed.split()) == (0, ["1000"] * 4), errors
