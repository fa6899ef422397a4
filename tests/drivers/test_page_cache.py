"""Files that are read at once if the system has them in memory, and in a thread otherwise."""

from __future__ import annotations

import errno
import itertools
import os
import random
import signal
import threading
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import anyio
import anyio.lowlevel
import anyio.to_thread
import pytest

from repo_stream import CarDecoder, CarReader
from repo_stream.car.files import OpenFile
from repo_stream.car.source import CarFile, open_pieces
from repo_stream.testing import build_car

CAR = build_car({f"app.test.note/{n:03}": {"text": "x" * (9 * n)} for n in range(30)})
BLOCKS = CarDecoder().feed(CAR)

NOWAIT: Any = getattr(os, "RWF_NOWAIT", None)
pytestmark = pytest.mark.skipif(
    NOWAIT is None, reason="this system cannot be asked for what it has in memory of a file"
)


async def read(path: Path, piece_size: int) -> list[tuple[bytes, bytes]]:
    async with await CarReader.open(path, piece_size=piece_size) as car:
        return [pair async for pair in car]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "repo.car"
    path.write_bytes(CAR)
    with path.open("rb") as file:
        try:
            os.preadv(file.fileno(), [bytearray(1)], 0, NOWAIT)
        except OSError as error:
            if error.errno == errno.EOPNOTSUPP:
                pytest.skip("this file system cannot be asked for what is in memory")
    return path


def unanswered(*_: object) -> int:
    raise OSError(errno.EOPNOTSUPP, "cannot be asked")


def not_at_hand(*_: object) -> int:
    raise BlockingIOError(errno.EAGAIN, "would wait")


def half_at_hand(_file: int, buffers: list[memoryview], _at: int, _flags: int) -> int:
    half = len(buffers[0]) // 2
    buffers[0][:half] = bytes(half)
    return half


@asynccontextmanager
async def visited(path: Path) -> AsyncGenerator[CarFile]:
    """Open a file that can be read again, and has been read."""
    pieces = await open_pieces(path, 1 << 20, rereadable=True)
    try:
        while await pieces.next():
            pass
        assert pieces.file is not None
        yield pieces.file
    finally:
        await pieces.aclose()


@pytest.fixture
def threads(monkeypatch: pytest.MonkeyPatch) -> list[object]:
    """What has been done in threads since."""
    done: list[object] = []
    run_sync = anyio.to_thread.run_sync

    async def noted(*given: Any, **options: Any) -> Any:
        done.append(given)
        return await run_sync(*given, **options)

    monkeypatch.setattr(anyio.to_thread, "run_sync", noted)
    return done


# --- Pieces ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("answer", "piece_size"),
    [
        pytest.param(unanswered, 100, id="unanswered-small-pieces"),
        pytest.param(unanswered, len(CAR), id="unanswered-one-piece"),
        pytest.param(not_at_hand, 7, id="not-at-hand-tiny-pieces"),
        pytest.param(not_at_hand, len(CAR) // 2, id="not-at-hand-halves"),
        pytest.param(not_at_hand, 1 << 20, id="not-at-hand-large-pieces"),
        pytest.param(half_at_hand, 100, id="half-at-hand-small-pieces"),
        pytest.param(half_at_hand, len(CAR), id="half-at-hand-one-piece"),
    ],
)
async def test_piece_that_is_not_in_memory_is_waited_for(
    path: Path, answer: Callable[..., int], piece_size: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = os.preadv
    answers = itertools.cycle([real, answer, answer])

    def preadv(file: int, buffers: list[memoryview], at: int, flags: int) -> int:
        return next(answers)(file, buffers, at, flags)

    monkeypatch.setattr(os, "preadv", preadv)
    assert await read(path, piece_size) == BLOCKS


async def test_pieces_that_are_in_memory_take_no_thread(path: Path, threads: list[object]) -> None:
    assert await read(path, 16) == BLOCKS  # now it is there
    threads.clear()
    assert await read(path, 16) == BLOCKS
    assert len(threads) == 2  # the first piece and the end


@pytest.mark.both_loops
async def test_reading_without_threads_lets_others_work_and_can_be_cancelled(path: Path) -> None:
    turns = 0
    async with (
        await CarReader.open(path, piece_size=16) as car,
        anyio.create_task_group() as tasks,
    ):

        async def tick() -> None:
            nonlocal turns
            while True:
                turns += 1
                await anyio.lowlevel.checkpoint()

        tasks.start_soon(tick)
        got = await car.next_blocks()
        assert got is not None
        assert turns >= len(got[0][1]) // 16
        with anyio.CancelScope() as scope:
            scope.cancel()
            await car.next_blocks()
        assert scope.cancelled_caught
        got += [(bytes(cid), data) async for cid, data in car]
        assert got == BLOCKS  # nothing was lost
        tasks.cancel_scope.cancel()


# --- Visits ---------------------------------------------------------------------------------------


async def test_visit_of_what_is_in_memory_takes_no_thread(
    path: Path, threads: list[object]
) -> None:
    async with visited(path) as file:
        threads.clear()
        assert await file.visit(lambda opened: opened.read(10, 5)) == CAR[5:15]
        assert await file.visit(lambda opened: opened.flags) == NOWAIT
        assert threads == []


@pytest.mark.parametrize(
    "answer",
    [unanswered, not_at_hand, half_at_hand],
    ids=["unanswered", "not-at-hand", "half-at-hand"],
)
async def test_visit_of_what_is_not_in_memory_is_done_again_in_a_thread(
    path: Path,
    answer: Callable[..., int],
    threads: list[object],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    flags: list[int] = []

    def work(file: OpenFile) -> list[bytes]:
        flags.append(file.flags)
        return [file.read(10, 5), file.read(20, 7)]

    async with visited(path) as file:
        threads.clear()
        monkeypatch.setattr(os, "preadv", answer)
        assert await file.visit(work) == [CAR[5:15], CAR[7:27]]
        assert len(threads) == 1
        assert [bool(each) for each in flags] == [True, False]
        assert await file.visit(work) == [CAR[5:15], CAR[7:27]]
        # A file system that cannot be asked is not asked again.
        again = [False] if answer is unanswered else [True, False]
        assert [bool(each) for each in flags[2:]] == again


async def test_visit_reads_less_at_the_end_and_nothing_once_it_is_closed(
    path: Path, threads: list[object]
) -> None:
    async with visited(path) as file:
        assert await file.visit(lambda opened: opened.read(100, len(CAR) - 10)) == CAR[-10:]
        assert await file.visit(lambda opened: opened.read(100, len(CAR))) == b""
    threads.clear()
    assert await file.visit(lambda opened: opened.read(10, 5)) == b"", "it is closed"


async def test_visit_reads_on_if_the_system_returns_less_before_the_end(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pread = os.pread

    def read_less(number: int, size: int, at: int) -> bytes:
        return pread(number, min(size, 70), at)

    async with visited(path) as file:
        monkeypatch.setattr(os, "preadv", not_at_hand)
        monkeypatch.setattr(os, "pread", read_less)
        assert await file.visit(lambda opened: opened.read(500, 100)) == CAR[100:600]
        assert await file.visit(lambda opened: opened.read(500, len(CAR) - 90)) == CAR[-90:]


@pytest.mark.both_loops
async def test_visit_can_be_cancelled_and_what_it_raises_comes_out(path: Path) -> None:
    def fail(file: OpenFile) -> None:
        calls.append(file)
        raise LookupError("not this one")

    calls: list[OpenFile] = []
    async with visited(path) as file:
        with anyio.CancelScope() as scope:
            scope.cancel()
            await file.visit(fail)
        assert scope.cancelled_caught
        assert calls == []
        with pytest.raises(LookupError, match="not this one"):
            await file.visit(fail)
        assert len(calls) == 1
        assert await file.visit(lambda opened: opened.read(10, 5)) == CAR[5:15]


@pytest.mark.both_loops
async def test_visit_while_a_thread_reads_is_done_in_a_thread(path: Path) -> None:
    entered, leave = threading.Event(), threading.Event()
    flags: list[int] = []

    def stay(file: OpenFile) -> None:
        if file.flags:
            raise BlockingIOError
        entered.set()
        leave.wait(10)

    def come(file: OpenFile) -> None:
        flags.append(file.flags)

    async with visited(path) as file:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(file.visit, stay)
            assert await anyio.to_thread.run_sync(entered.wait, 5)
            tasks.start_soon(file.visit, come)
            await anyio.sleep(0.01)
            leave.set()
        assert flags == [0], "else everybody would wait for who stays"


async def test_visit_after_one_that_raised_in_a_thread_takes_no_thread(path: Path) -> None:
    def fail(file: OpenFile) -> bytes:
        raise BlockingIOError if file.flags else LookupError("not this one")

    async with visited(path) as file:
        with pytest.raises(LookupError, match="not this one"):
            await file.visit(fail)
        assert await file.visit(lambda opened: opened.flags) == NOWAIT


async def test_ctrl_c_leaves_no_file_locked(path: Path) -> None:
    armed = False

    def interrupt(*_: object) -> None:
        if armed:
            raise KeyboardInterrupt

    def work(opened: OpenFile) -> bytes:
        return opened.read(10, 5)

    left_locked = interrupts = 0
    delays = random.Random(0)
    async with visited(path) as visited_file:
        file: Any = visited_file
        before = signal.signal(signal.SIGALRM, interrupt)
        try:
            for _ in range(700):
                try:
                    armed = True
                    signal.setitimer(signal.ITIMER_REAL, delays.uniform(5e-6, 1.5e-4))
                    for _again in range(10_000):
                        file._at_once(work)
                except KeyboardInterrupt:
                    armed = False
                    interrupts += 1
                if file._lock.locked():
                    left_locked += 1
                    file._lock.release()
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
            signal.signal(signal.SIGALRM, before)
    assert interrupts > 600
    assert left_locked == 0
