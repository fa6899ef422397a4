"""The same without `async`: what comes out, what is read for it, and what is closed."""

from __future__ import annotations

import _thread
import asyncio
import gc
import io
import os
import signal
import sys
import threading
from collections import defaultdict
from collections.abc import AsyncGenerator, Callable, Iterator
from contextlib import suppress
from functools import partial
from pathlib import Path
from threading import Timer
from time import sleep
from typing import Any, Literal

import anyio
import pytest
import trio

import repo_stream
from repo_stream import (
    AlreadyWalked,
    BadName,
    MissingBlock,
    Output,
    Processor,
    RepoStreamError,
    StoreClosed,
    TruncatedCar,
    noop,
    sync,
)
from repo_stream.loop_thread import loop_thread
from repo_stream.testing import DID, REV, build_repo
from support.interrupts import each_press, handled_by, persistently

RECORDS = {f"app.test.{c}/{n:04}": {"n": n, "text": c * 200} for c in "ab" for n in range(200)}
REPO = build_repo(RECORDS)
STREAM = REPO.to_car(order="stream")
SHUFFLED = REPO.to_car(order="shuffled")
# The last two name records that came before.
FEW = build_repo({f"app.test.a/{n:04}": {"n": n % 18} for n in range(20)})


def pieces(car: bytes, read: list[int], size: int = 1000) -> Iterator[bytes]:
    """A source that notes how much of it has been read."""
    for start in range(0, len(car), size):
        read.append(start)
        yield car[start : start + size]


# --- What comes out -------------------------------------------------------------------------------


async def async_outputs(car: bytes, **keywords: Any) -> list[Output[Any]]:
    async with repo_stream.open_car(car, **keywords) as repo:
        return [output async for output in repo.outputs()]


@pytest.mark.parametrize("limit", [16, 0])
@pytest.mark.parametrize("processor", [repo_stream.record, len, noop])
@pytest.mark.parametrize("car", [STREAM, SHUFFLED], ids=["stream", "shuffled"])
def test_what_comes_out_is_the_same(car: bytes, processor: Any, limit: float) -> None:
    keywords: dict[str, Any] = {"block_processor": processor, "mem_limit_mb": limit}
    expected = asyncio.run(async_outputs(car, **keywords))
    assert len(expected) == len(RECORDS)
    with sync.open_car(car, **keywords) as repo:
        assert list(repo.outputs()) == expected
    with sync.open_car(car, **keywords) as repo:
        assert list(repo) == [(output.key, output.value) for output in expected]
    assert list(sync.records(car, **keywords)) == expected


def test_every_call_of_a_repo_is_there() -> None:
    with sync.open_car(SHUFFLED) as repo:
        assert repo.commit.did == DID
        assert (repo.next_chunk(2) or [])[1][0] == "app.test.a/0001"
        assert [output.key for output in repo.next_outputs(1) or []] == ["app.test.a/0002"]
        assert [key for key, _ in repo.next_keys(1) or []] == ["app.test.a/0003"]
        assert len(repo.next_items(5) or []) == 5
        assert repo.collections() == ["app.test.a", "app.test.b"]
        found = repo.get("app.test.b/0007")
        assert found is not None
        assert found.value["n"] == 7
        assert isinstance(repo.prove("app.test.b/0007"), repo_stream.Present)
        assert len(repo.prove_range("app.test.b/", None).keys) == 200
        repo.seek("app.test.b/0199")
        assert [key for key, _ in repo] == ["app.test.b/0199"]
        with pytest.raises(AlreadyWalked, match=r'call `repo\.seek\(""\)` first'):
            list(repo)
        assert repo.next_chunk() is None
        repo.seek("")
        assert next(repo)[0] == "app.test.a/0000"
        assert (repo.problems, repo.damage, repo.fully_read) == ((), (), True)
        repo.close()
        with pytest.raises(StoreClosed):
            repo.next_chunk()


def test_calls_can_be_mixed_with_loops_that_are_left() -> None:
    keys: list[str] = []
    with sync.open_car(STREAM) as repo:
        for key, _ in repo:
            keys.append(key)
            if len(keys) == 3:
                break
        keys += [key for key, _ in repo.next_chunk(4) or []]
        for output in repo.outputs():
            keys.append(output.key)
            if len(keys) == 9:
                break
        keys += [key for key, _ in repo.next_keys(5) or []]
        keys += [key for key, _ in repo]
    assert keys == sorted(RECORDS)


def test_a_car_is_written_in_order_and_is_a_source_of_its_own() -> None:
    with sync.order_car(SHUFFLED) as car:
        assert b"".join(car) == STREAM
        assert (car.fully_read, car.blocks_written > len(RECORDS)) == (True, True)
    with sync.order_car(SHUFFLED) as car, sync.open_car(car) as repo:
        assert sum(1 for _ in repo) == len(RECORDS)
    with sync.join_cars(SHUFFLED, STREAM) as car:
        assert b"".join(car) == STREAM


def test_a_commit_alone_takes_one_piece() -> None:
    read: list[int] = []
    assert sync.load_commit(pieces(STREAM, read)).rev == REV
    assert read == [0]


# --- Sources --------------------------------------------------------------------------------------

SOURCES: dict[str, Callable[[Path], Any]] = {
    "path": lambda path: path,
    "file": lambda _: io.BytesIO(STREAM),
    "list": lambda _: [STREAM[:500], b"", STREAM[500:]],
    "generator": lambda _: pieces(STREAM, []),
    "memoryview": lambda _: memoryview(STREAM),
}


@pytest.mark.parametrize("source", SOURCES)
def test_sources_that_need_no_loop_are_read(source: str, tmp_path: Path) -> None:
    path = tmp_path / "repo.car"
    path.write_bytes(STREAM)
    assert sum(1 for _ in sync.records(SOURCES[source](path))) == len(RECORDS)


def test_a_source_is_read_in_the_thread_that_waits_for_it() -> None:
    threads: set[int] = set()

    def read() -> Iterator[bytes]:
        threads.add(threading.get_ident())
        yield STREAM

    assert sum(1 for _ in sync.records(read())) == len(RECORDS)
    assert threads == {threading.get_ident()}


def test_a_source_is_read_no_further_than_the_loop_goes() -> None:
    async def read_for_each() -> list[int]:
        read: list[int] = []

        async def read_on() -> AsyncGenerator[bytes]:
            for piece in pieces(STREAM, read):
                yield piece

        async with repo_stream.open_car(read_on()) as repo:
            return [len(read) async for _ in repo]

    read: list[int] = []
    with sync.open_car(pieces(STREAM, read)) as repo:
        found = [len(read) for _ in repo]
    assert found == asyncio.run(read_for_each())
    assert found[0] < found[50] < found[-1] / 2


def test_a_loop_that_is_left_stops_the_reading() -> None:
    read: list[int] = []
    for _ in sync.records(pieces(STREAM, read)):
        break
    assert 0 < len(read) < 10


def test_an_error_of_a_source_comes_out_as_it_is() -> None:
    mine = OSError("the line broke")

    def read() -> Iterator[bytes]:
        yield STREAM[:5000]
        raise mine

    with pytest.raises(OSError, match="the line broke") as caught:
        list(sync.records(read()))
    assert caught.value is mine
    assert "read" in [entry.name for entry in caught.traceback]


@pytest.mark.parametrize(
    ("source", "says"),
    [
        (7, "pass a path, bytes, a file"),
        (io.StringIO(""), "open the file in binary mode"),
        (["text"], "returned str, not bytes"),
        ([None, STREAM], "returned NoneType, not bytes"),
        (len, "call it first"),
    ],
    ids=["number", "text file", "texts", "nothing", "function"],
)
def test_what_is_no_source_is_told(source: Any, says: str) -> None:
    with pytest.raises(TypeError, match=says):
        list(sync.records(source))


def test_a_store_of_another_loop_is_refused(tmp_path: Path) -> None:
    async def store() -> repo_stream.DiskStore:
        async with repo_stream.DiskBuilder().open(tmp_path / "work.db") as opened:
            return opened

    with pytest.raises(TypeError, match="spill must be a path"):
        sync.open_car(STREAM, spill=asyncio.run(store()))


# --- Errors ---------------------------------------------------------------------------------------


def fails(block: bytes) -> int:
    raise LookupError(len(block))


BAD: dict[str, tuple[bytes, dict[str, Any]]] = {
    "truncated": (STREAM[:-100], {}),
    "not a CAR": (b"\n\n\n\n", {}),
    "other bytes": (STREAM[:20000] + b"\0" + STREAM[20001:], {}),
    "processor": (STREAM, {"block_processor": Processor(fails, lazy=True)}),
    "memory": (SHUFFLED, {"mem_limit_mb": 0, "spill": False}),
}


@pytest.mark.parametrize("case", BAD)
def test_errors_are_those_of_the_async_face(case: str) -> None:
    car, keywords = BAD[case]

    def walk() -> list[str]:
        keys: list[str] = []
        try:
            with sync.open_car(car, **keywords) as repo:
                for key, _ in repo:
                    keys.append(key)
        except RepoStreamError as error:
            keys.append(f"{type(error).__name__}: {error} <- {error.__cause__!r}")
        return keys

    async def walk_async() -> list[str]:
        keys: list[str] = []
        try:
            async with repo_stream.open_car(car, **keywords) as repo:
                async for key, _ in repo:
                    keys.append(key)
        except RepoStreamError as error:
            keys.append(f"{type(error).__name__}: {error} <- {error.__cause__!r}")
        return keys

    found = walk()
    assert found == asyncio.run(walk_async())
    assert "<-" in found[-1]


def test_an_error_is_raised_again_by_every_call_and_shows_where_it_comes_from() -> None:
    with sync.open_car(STREAM[:-100]) as repo:
        with pytest.raises(TruncatedCar) as caught:
            list(repo)
        assert any("decoder" in str(entry.path) for entry in caught.traceback)
        with pytest.raises(TruncatedCar):
            next(repo)
        with pytest.raises(TruncatedCar):
            repo.next_chunk()


def test_bad_records_are_skipped_and_listed_or_come_as_values() -> None:
    processor = Processor(fails, lazy=True)
    with sync.open_car(STREAM, block_processor=processor, on_error="skip") as repo:
        assert list(repo) == []
        assert repo.problem_count == len(RECORDS)
    values = [o.value for o in sync.records(STREAM, block_processor=processor, on_error="yield")]
    assert {type(value) for value in values} == {repo_stream.ProcessError}


def test_wrong_arguments_are_told_at_once() -> None:
    with pytest.raises(TypeError, match="collections must be a list"):
        sync.records(STREAM, collections="app.test.a")  # pyright: ignore - it is wrong
    with pytest.raises(TypeError, match="unexpected keyword argument"):
        sync.open_car(STREAM, colections=[])  # type: ignore[call-overload] # pyright: ignore - see above
    with pytest.raises(BadName):
        sync.open_repo("no name")


# --- What is closed -------------------------------------------------------------------------------


FILES = Path("/proc/self/fd")


def open_files() -> set[str]:
    found: set[str] = set()
    for link in FILES.iterdir():
        with suppress(OSError):  # it may be that of the folder itself
            found.add(str(link.readlink()))
    return {name for name in found if name.endswith(".car") or "spill" in name or ".db" in name}


@pytest.mark.skipif(not FILES.is_dir(), reason="needs /proc")
@pytest.mark.parametrize("limit", [16, 0])
def test_a_loop_that_is_left_closes_files_and_temporary_files(limit: float, tmp_path: Path) -> None:
    path = tmp_path / "repo.car"
    path.write_bytes(SHUFFLED)
    before = open_files()
    for output in sync.records(path, mem_limit_mb=limit):
        assert output.key == "app.test.a/0000"
        break
    assert open_files() == before
    source = pieces(SHUFFLED, [])
    with sync.open_car(source, mem_limit_mb=limit, spill=tmp_path / "work.db") as repo:
        for _ in repo:
            break
    assert open_files() == before


def test_a_repo_cannot_be_used_after_its_block() -> None:
    with sync.open_car(STREAM) as repo:
        pass
    for use in (repo.next_chunk, repo.collections, lambda: next(repo)):
        with pytest.raises(StoreClosed, match="use it within its `with` block"):
            use()
    assert repo.commit.rev == REV


def test_a_repo_that_is_dropped_warns_and_is_closed() -> None:
    opening = sync.open_car(STREAM)
    opening.__enter__()
    with pytest.warns(ResourceWarning, match="was not closed; use `with`"):
        del opening
    gc.collect()


# --- Beside others --------------------------------------------------------------------------------


def count() -> int:
    return sum(1 for _ in sync.records(SHUFFLED, mem_limit_mb=0))


def test_it_works_beside_a_running_loop() -> None:
    async def beside() -> int:
        return count()

    assert asyncio.run(beside()) == len(RECORDS)
    assert trio.run(beside) == len(RECORDS)
    assert anyio.run(anyio.to_thread.run_sync, count) == len(RECORDS)


def test_several_threads_read_at_once() -> None:
    found: list[int] = []
    threads = [threading.Thread(target=lambda: found.append(count())) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert found == [len(RECORDS)] * 4


def test_a_processor_in_the_loop_that_waits_for_the_loop_is_refused() -> None:

    def nested(block: bytes) -> int:
        return len(list(sync.records(STREAM))) + len(block)

    with pytest.raises(RepoStreamError) as caught:
        list(sync.records(SHUFFLED, block_processor=nested))
    assert "wait for itself" in str(caught.value.__cause__)


@pytest.mark.skipif(sys.platform == "win32", reason="a signal cannot be sent to a thread")
@pytest.mark.parametrize("way", ["loop", "next_chunk"])
def test_ctrl_c_interrupts_and_loses_nothing(way: str) -> None:
    keys: list[str] = []
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with sync.open_car(Interrupted(STREAM)) as repo:
            interrupted = 0
            while True:
                try:
                    if way == "loop":
                        for key, _ in repo:
                            keys.append(key)
                        break
                    chunk = repo.next_chunk(7)
                    if chunk is None:
                        break
                    keys += [key for key, _ in chunk]
                except KeyboardInterrupt:
                    interrupted += 1
    finally:
        signal.signal(signal.SIGINT, before)
    assert interrupted == 1
    assert keys == sorted(RECORDS)


@pytest.mark.skipif(sys.platform == "win32", reason="a signal cannot be sent to a thread")
@pytest.mark.parametrize("call", ["next_chunk", "next_outputs", "next_items", "next_columns"])
def test_ctrl_c_in_the_middle_of_a_chunk_does_not_lose_it(call: str) -> None:
    pressed = False

    def process(block: bytes) -> bytes:
        nonlocal pressed
        if not pressed and threading.current_thread() is not threading.main_thread():
            pressed = True
            os.kill(os.getpid(), signal.SIGINT)
        return block

    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    found: list[Any] = []
    interrupted = 0
    try:
        processor = Processor(process, lazy=True)
        with sync.open_car(STREAM, block_processor=processor) as repo:
            while True:
                try:
                    chunk = getattr(repo, call)(10)
                    if chunk is None:
                        break
                    found += chunk.keys if call == "next_columns" else chunk
                except KeyboardInterrupt:
                    interrupted += 1
    finally:
        signal.signal(signal.SIGINT, before)
    records = [each for each in found if not isinstance(each, repo_stream.TreeNode)]
    assert len(records) == len(RECORDS)
    assert interrupted == 1


@pytest.mark.skipif(sys.platform == "win32", reason="a signal cannot be sent to a thread")
def test_ctrl_c_that_comes_too_late_for_a_call_interrupts_what_follows() -> None:
    async def too_late() -> int:
        os.kill(os.getpid(), signal.SIGINT)
        sleep(0.05)  # noqa: ASYNC251 - the loop is busy, and so is not cancelled
        return 7

    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    found = 0
    try:
        with loop_thread() as loop, pytest.raises(KeyboardInterrupt):  # noqa: PT012 - both at once
            found = loop.call(too_late)
            sleep(30)
    finally:
        signal.signal(signal.SIGINT, before)
    assert found == 7


@pytest.mark.parametrize("order", ["stream", "shuffled"])
@pytest.mark.parametrize("way", ["pairs", "outputs"])
def test_ctrl_c_that_comes_as_records_have_been_taken_does_not_lose_them(
    order: Literal["stream", "shuffled"], way: str
) -> None:
    # Each record presses it once. As that is no Python code, compiled code goes on to its end, and
    # the interrupt comes before its caller has received the result.
    pressed: defaultdict[bytes, None] = defaultdict(_thread.interrupt_main)
    keys: list[str] = []

    def read() -> None:
        for key, *_ in repo if way == "pairs" else repo.outputs():
            keys.append(key)

    processor = Processor(pressed.__getitem__, lazy=True)
    with (
        handled_by(signal.default_int_handler),
        sync.open_car(FEW.to_car(order=order), block_processor=processor) as repo,
    ):
        persistently(read)
    assert keys == sorted(FEW.records)


@pytest.mark.long
@pytest.mark.parametrize("order", ["stream", "shuffled"])
@pytest.mark.parametrize("way", ["pairs", "outputs"])
def test_ctrl_c_in_a_loop_loses_nothing_wherever_it_comes(
    order: Literal["stream", "shuffled"], way: str
) -> None:
    car = FEW.to_car(order=order)
    processor = Processor(fails_now_and_then, lazy=True)
    keys: list[str] = []

    def read() -> None:
        with suppress(AlreadyWalked), press.within():  # if it comes after the end
            for key, *_ in repo if way == "pairs" else repo.outputs():
                keys.append(key)

    points = 0
    for press in each_press():
        points += 1
        keys.clear()
        with (
            handled_by(signal.SIG_IGN),
            sync.open_car(car, block_processor=processor, on_error="yield") as repo,
        ):
            persistently(read)
            assert not any(isinstance(each.error, MissingBlock) for each in repo.problems), press
        assert keys == sorted(FEW.records), press
    assert points > 20


def fails_now_and_then(block: bytes) -> bytes:
    if block[-1] % 8 == 7:
        raise ValueError
    return block


class Interrupted:
    """A file in which Ctrl-C comes once, and loses nothing."""

    def __init__(self, car: bytes) -> None:
        self._file = io.BytesIO(car)
        self._pressed = False

    def read(self, _n: int, /) -> bytes:
        if not self._pressed and self._file.tell() > 20_000:
            self._pressed = True
            os.kill(os.getpid(), signal.SIGINT)
        return self._file.read(1000)


@pytest.mark.skipif(sys.platform == "win32", reason="a signal cannot be sent to a thread")
@pytest.mark.parametrize("kind", ["file", "pieces"])
def test_ctrl_c_between_a_read_and_its_use_does_not_lose_what_was_read(kind: str) -> None:
    car = PressedAfterRead(STREAM)
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    keys: list[str] = []
    interrupted = 0
    try:
        with sync.open_car(car if kind == "file" else iter(partial(car.read, 0), b"")) as repo:
            while True:
                try:
                    for key, _ in repo:
                        keys.append(key)
                    break
                except KeyboardInterrupt:
                    interrupted += 1
    finally:
        signal.signal(signal.SIGINT, before)
    assert (interrupted, keys) == (1, sorted(RECORDS))


class PressedAfterRead:
    """A file. Ctrl-C comes when one of its reads has ended, and the loop does not know of that."""

    def __init__(self, car: bytes) -> None:
        self._file = io.BytesIO(car)
        self._pressed = False

    def read(self, _n: int, /) -> bytes:
        if not self._pressed and self._file.tell() > 20_000:
            self._pressed = True
            with loop_thread() as loop:
                loop.tell(lambda: sleep(0.1))
            Timer(0.05, os.kill, [os.getpid(), signal.SIGINT]).start()
        return self._file.read(1000)
