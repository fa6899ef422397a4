"""Sources of every kind give the same blocks, and what is no source is told what to be."""

from __future__ import annotations

import array
import asyncio
import ctypes
import errno
import gzip
import io
import itertools
import mmap
import os
import random
import signal
import threading
import time
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Iterator
from contextlib import aclosing, asynccontextmanager
from pathlib import Path
from typing import IO, Any, cast

import anyio
import anyio.lowlevel
import anyio.to_thread
import pytest
import trio
import trio.testing
from anyio.streams.buffered import BufferedByteReceiveStream
from anyio.streams.stapled import StapledByteStream

from repo_stream import CarDecoder, CarReader, DriverBuilder, Source, source
from repo_stream.testing import RawRecord, build_car
from support import pieces_of, walk


def car_of_length_divisible_by(number: int) -> bytes:
    records = {f"app.test.note/{n:03}": {"text": "x" * (9 * n)} for n in range(30)}
    for pad in range(number):
        car = build_car({**records, "app.test.pad/self": RawRecord(b"\x60" + bytes(200 + pad))})
        if len(car) % number == 0:
            return car
    raise AssertionError


# Items of eight bytes, in rows of two, must fill it.
CAR = car_of_length_divisible_by(16)
BLOCKS = CarDecoder().feed(CAR)
HALF = len(CAR) // 2


async def read(source: Source, piece_size: int = 1 << 20) -> list[tuple[bytes, bytes]]:
    async with await CarReader.open(source, piece_size=piece_size) as car:
        return [pair async for pair in car]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "repo.car"
    path.write_bytes(CAR)
    return path


# --- In memory --------------------------------------------------------------------------------


def foreign_endian() -> memoryview:
    """A view whose items are in the other byte order, a format that cannot be cast."""
    kind = ctypes.c_uint32.__ctype_be__ * (len(CAR) // 4)
    return memoryview(kind.from_buffer_copy(CAR))


def every_second() -> memoryview:
    doubled = bytearray(2 * len(CAR))
    doubled[::2] = CAR
    return memoryview(doubled)[::2]


@pytest.mark.parametrize("piece_size", [1, 7, 1000, 1 << 20])
@pytest.mark.parametrize(
    "source",
    [
        pytest.param(CAR, id="bytes"),
        pytest.param(bytearray(CAR), id="bytearray"),
        pytest.param(memoryview(CAR), id="memoryview"),
        pytest.param(memoryview(bytearray(CAR)), id="writable-memoryview"),
        pytest.param(memoryview(b"...." + CAR + b"....")[4:-4], id="slice"),
        pytest.param(every_second(), id="every-second-byte"),
        pytest.param(memoryview(CAR[::-1])[::-1], id="backwards"),
        pytest.param(memoryview(CAR).cast("Q"), id="of-integers"),
        pytest.param(memoryview(CAR).cast("b"), id="of-signed-bytes"),
        pytest.param(memoryview(CAR).cast("c"), id="of-characters"),
        pytest.param(memoryview(CAR).cast("B", (2, HALF)), id="two-dimensions"),
        pytest.param(memoryview(array.array("I", CAR)), id="of-an-array"),
        pytest.param(foreign_endian(), id="foreign-byte-order"),
    ],
)
async def test_bytes_in_memory(source: Any, piece_size: int) -> None:
    assert await read(source, piece_size) == BLOCKS


@pytest.mark.parametrize(
    "source",
    [b"", bytearray(), memoryview(b""), memoryview(array.array("I"))],
    ids=["bytes", "bytearray", "memoryview", "array"],
)
async def test_no_bytes_at_all(source: Any) -> None:
    with pytest.raises(Exception, match="incomplete"):
        await read(source)


async def test_a_map_of_a_file(path: Path) -> None:
    with (
        path.open("rb") as file,
        mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as mapped,
        memoryview(mapped) as view,
    ):
        assert await read(view) == BLOCKS


# --- Paths ------------------------------------------------------------------------------------


class OnlyAPath:
    def __init__(self, path: Path) -> None:
        self._path = path

    def __fspath__(self) -> str:
        return str(self._path)


@pytest.mark.parametrize("kind", [str, Path, OnlyAPath, anyio.Path])
async def test_paths(path: Path, kind: Callable[[Path], Any]) -> None:
    assert await read(kind(path)) == BLOCKS


async def test_a_relative_path(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(path.parent)
    assert await read("repo.car") == BLOCKS
    assert await read(Path("repo.car")) == BLOCKS


def unanswered(*_: object) -> int:
    raise OSError(errno.EOPNOTSUPP, "cannot be asked")


def not_at_hand(*_: object) -> int:
    raise BlockingIOError(errno.EAGAIN, "would wait")


def half_at_hand(_file: int, buffers: list[memoryview], _at: int, _flags: int) -> int:
    half = len(buffers[0]) // 2
    buffers[0][:half] = bytes(half)
    return half


@asynccontextmanager
async def visited(path: Path) -> AsyncGenerator[source.Pieces]:
    """Open a file that can be read again, and has been read."""
    pieces = await source.open_pieces(path, 1 << 20, rereadable=True)
    try:
        while await pieces.next():
            pass
        yield pieces
    finally:
        await pieces.aclose()


@pytest.mark.skipif(not hasattr(os, "RWF_NOWAIT"), reason="what is in memory cannot be asked for")
class TestFilesInMemory:
    """What the system has in memory of a file is read at once, and all else in a thread."""

    @pytest.mark.parametrize("piece_size", [7, 100, len(CAR) // 2, len(CAR), 1 << 20])
    @pytest.mark.parametrize("answer", [unanswered, not_at_hand, half_at_hand])
    async def test_what_is_not_there_is_waited_for(
        self,
        path: Path,
        piece_size: int,
        answer: Callable[..., int],
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        real = os.preadv
        answers = itertools.cycle([real, answer, answer])

        def preadv(file: int, buffers: list[memoryview], at: int, flags: int) -> int:
            return next(answers)(file, buffers, at, flags)

        monkeypatch.setattr(os, "preadv", preadv)
        assert await read(path, piece_size) == BLOCKS

    @pytest.fixture
    def threads(self, monkeypatch: pytest.MonkeyPatch) -> list[object]:
        """What has been done in threads since."""
        done: list[object] = []
        run_sync = anyio.to_thread.run_sync

        async def noted(*given: Any, **options: Any) -> Any:
            done.append(given)
            return await run_sync(*given, **options)

        monkeypatch.setattr(anyio.to_thread, "run_sync", noted)
        return done

    async def test_no_thread_is_asked_for_what_is_there(
        self, path: Path, threads: list[object]
    ) -> None:
        assert await read(path, 16) == BLOCKS  # now it is there
        threads.clear()
        assert await read(path, 16) == BLOCKS
        assert len(threads) == 2  # the first piece and the end

    async def test_who_visits_what_is_there_takes_no_thread(
        self, path: Path, threads: list[object]
    ) -> None:
        async with visited(path) as pieces:
            threads.clear()
            assert await pieces.visit(lambda file: file.read(10, 5)) == CAR[5:15]
            assert await pieces.visit(lambda file: file.flags) == vars(os)["RWF_NOWAIT"]
            assert await pieces.read_again(5, 10) == CAR[5:15]
            assert threads == []

    @pytest.mark.parametrize("answer", [unanswered, not_at_hand, half_at_hand])
    async def test_who_visits_what_is_not_there_comes_again_in_a_thread(
        self,
        path: Path,
        answer: Callable[..., int],
        threads: list[object],
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        flags: list[int] = []

        def work(file: source.OpenFile) -> list[bytes]:
            flags.append(file.flags)
            return [file.read(10, 5), file.read(20, 7)]

        async with visited(path) as pieces:
            threads.clear()
            monkeypatch.setattr(os, "preadv", answer)
            assert await pieces.visit(work) == [CAR[5:15], CAR[7:27]]
            assert len(threads) == 1
            assert [bool(each) for each in flags] == [True, False]
            assert await pieces.visit(work) == [CAR[5:15], CAR[7:27]]
            # A file system that cannot be asked is not asked again.
            again = [False] if answer is unanswered else [True, False]
            assert [bool(each) for each in flags[2:]] == again

    async def test_what_ends_with_the_file_comes_shorter(
        self, path: Path, threads: list[object]
    ) -> None:
        async with visited(path) as pieces:
            assert await pieces.visit(lambda file: file.read(100, len(CAR) - 10)) == CAR[-10:]
            assert await pieces.visit(lambda file: file.read(100, len(CAR))) == b""
        threads.clear()
        assert await pieces.visit(lambda file: file.read(10, 5)) == b"", "it is closed"

    async def test_a_visit_can_be_cancelled_and_what_it_raises_comes_out(self, path: Path) -> None:
        def fail(file: source.OpenFile) -> None:
            calls.append(file)
            raise LookupError("not this one")

        calls: list[source.OpenFile] = []
        async with visited(path) as pieces:
            with anyio.CancelScope() as scope:
                scope.cancel()
                await pieces.visit(fail)
            assert scope.cancelled_caught
            assert calls == []
            with pytest.raises(LookupError, match="not this one"):
                await pieces.visit(fail)
            assert len(calls) == 1
            assert await pieces.visit(lambda file: file.read(10, 5)) == CAR[5:15]

    async def test_who_visits_while_a_thread_reads_does_so_in_a_thread(self, path: Path) -> None:
        entered, leave = threading.Event(), threading.Event()
        flags: list[int] = []

        def stay(file: source.OpenFile) -> None:
            if file.flags:
                raise BlockingIOError
            entered.set()
            leave.wait(2)

        def come(file: source.OpenFile) -> None:
            flags.append(file.flags)

        async with visited(path) as pieces:
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(pieces.visit, stay)
                assert await anyio.to_thread.run_sync(entered.wait, 5)
                tasks.start_soon(pieces.visit, come)
                await anyio.sleep(0.01)
                leave.set()
            assert flags == [0], "else everybody would wait for who stays"

    async def test_a_visit_that_raises_in_a_thread_leaves_the_next_at_once(
        self, path: Path
    ) -> None:
        def fail(file: source.OpenFile) -> bytes:
            raise BlockingIOError if file.flags else LookupError("not this one")

        async with visited(path) as pieces:
            with pytest.raises(LookupError, match="not this one"):
                await pieces.visit(fail)
            assert await pieces.visit(lambda file: file.flags) == vars(os)["RWF_NOWAIT"]

    async def test_ctrl_c_leaves_no_file_locked(self, path: Path) -> None:
        armed = False

        def interrupt(*_: object) -> None:
            if armed:
                raise KeyboardInterrupt

        def work(opened: source.OpenFile) -> bytes:
            return opened.read(10, 5)

        left_locked = interrupts = 0
        delays = random.Random(0)
        async with visited(path) as pieces:
            file: Any = vars(pieces)["_file"]
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

    async def test_others_get_their_turn_and_it_can_be_cancelled(self, path: Path) -> None:
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


@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_a_read_that_asyncio_cancels_loses_nothing(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its own cancellation goes past the shields of anyio, and leaves a thread reading."""
    files: Any = vars(source)["_File"]
    read_piece = files._read_piece
    slow = itertools.cycle([False, True, False])

    def read_slowly(file: object, size: int) -> Any:
        if next(slow):
            time.sleep(0.05)
        return read_piece(file, size)

    monkeypatch.setattr(source, "_NOWAIT", None)
    monkeypatch.setattr(files, "_read_piece", read_slowly)
    cancelled = 0
    got: list[tuple[bytes, bytes]] = []
    async with await CarReader.open(path, piece_size=len(CAR) // 20 + 1) as car:
        for _ in range(200):
            try:
                blocks = await asyncio.wait_for(car.next_blocks(), 0.02)
            except TimeoutError:
                cancelled += 1
                await asyncio.sleep(0.06)
                continue
            if blocks is None:
                break
            got += blocks
    assert cancelled
    assert got == BLOCKS


async def test_a_named_pipe_is_read_to_its_end(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)

    def write() -> None:
        with pipe.open("wb", buffering=0) as file:
            for at in range(0, len(CAR), 1000):
                file.write(CAR[at : at + 1000])

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(anyio.to_thread.run_sync, write)
        with anyio.fail_after(20):
            assert await read(pipe) == BLOCKS


# --- Files and streams ------------------------------------------------------------------------


class OnlyReads:
    """The least of what `AsyncReadable` takes."""

    def __init__(self, data: bytes, most: int = 600) -> None:
        self._data = data
        self._at = 0
        self._most = most

    async def read(self, n: int, /) -> bytes:
        piece = self._data[self._at :][: min(n, self._most)]
        self._at += len(piece)
        return piece


class OnlyReceives:
    """The least of what `AsyncReceivable` takes; the end is nothing, or an exception."""

    def __init__(self, data: bytes, *, raises_at_end: bool) -> None:
        self._reads = OnlyReads(data)
        self._raises_at_end = raises_at_end

    async def receive(self, max_bytes: int, /) -> bytes:
        piece = await self._reads.read(max_bytes)
        if not piece and self._raises_at_end:
            raise anyio.EndOfStream
        return piece


class ReadsWithoutAsyncDef(OnlyReads):
    """Its `read` is no coroutine function, but gives something to await."""

    def read(self, n: int, /) -> Any:
        return super().read(n)


class GivesOtherBytes(OnlyReads):
    """Gives bytes of another type."""

    def __init__(self, data: bytes, kind: Callable[[bytes], Any]) -> None:
        super().__init__(data)
        self._kind = kind

    async def read(self, n: int, /) -> Any:
        return self._kind(await super().read(n))


async def with_empty_pieces() -> AsyncIterator[bytes]:
    yield b""
    async for piece in pieces_of(CAR, 300):
        yield b""
        yield piece
        yield b""
    yield b""
    yield b""


async def of_other_bytes() -> AsyncIterator[Any]:
    for at in range(0, len(CAR), 300):
        yield bytearray(CAR[at : at + 150])
        yield memoryview(CAR)[at + 150 : at + 300]


class Iterable:
    """Iterable, but not an iterator."""

    def __aiter__(self) -> AsyncIterator[bytes]:
        return pieces_of(CAR, 300)


@pytest.mark.parametrize(
    "make",
    [
        pytest.param(lambda: OnlyReads(CAR), id="read"),
        pytest.param(lambda: OnlyReads(CAR, most=1), id="read-one-byte"),
        pytest.param(lambda: ReadsWithoutAsyncDef(CAR), id="read-without-async-def"),
        pytest.param(lambda: GivesOtherBytes(CAR, bytearray), id="read-bytearray"),
        pytest.param(lambda: GivesOtherBytes(CAR, memoryview), id="read-memoryview"),
        pytest.param(lambda: OnlyReceives(CAR, raises_at_end=True), id="receive-and-raise"),
        pytest.param(lambda: OnlyReceives(CAR, raises_at_end=False), id="receive-and-nothing"),
        pytest.param(lambda: pieces_of(CAR, 1), id="generator-of-bytes"),
        pytest.param(lambda: pieces_of(CAR, 300), id="generator"),
        pytest.param(lambda: pieces_of(CAR, 1 << 20), id="generator-of-one"),
        pytest.param(with_empty_pieces, id="generator-with-empty-pieces"),
        pytest.param(of_other_bytes, id="generator-of-other-bytes"),
        pytest.param(Iterable, id="iterable"),
    ],
)
async def test_whatever_is_read_asynchronously(make: Callable[[], Any]) -> None:
    assert await read(make()) == BLOCKS


async def test_a_size_is_asked_for_and_kept_to() -> None:
    asked: list[int] = []

    class Noting(OnlyReads):
        async def read(self, n: int, /) -> bytes:
            asked.append(n)
            return await super().read(n)

    assert await read(Noting(CAR), piece_size=77) == BLOCKS
    assert set(asked) == {77}


async def test_a_file_of_anyio(path: Path) -> None:
    async with await anyio.open_file(path, "rb") as file:
        assert await read(file) == BLOCKS
        assert not file.wrapped.closed


async def test_a_plain_file_wrapped(path: Path, tmp_path: Path) -> None:
    async with anyio.wrap_file(path.open("rb")) as file:
        assert await read(file) == BLOCKS
    packed = tmp_path / "repo.car.gz"
    packed.write_bytes(gzip.compress(CAR))
    with gzip.open(packed) as plain:
        unpacking = anyio.wrap_file(cast("IO[bytes]", plain))
        assert await read(unpacking, 500) == BLOCKS
    async with anyio.wrap_file(io.BytesIO(CAR)) as in_memory:
        assert await read(in_memory, 500) == BLOCKS


async def send_in_pieces(send: Callable[[bytes], Awaitable[object]]) -> None:
    async for piece in pieces_of(CAR, 300):
        await send(piece)


@pytest.mark.parametrize("kind", ["memory", "buffered", "stapled"])
async def test_streams_of_anyio(kind: str) -> None:
    sending, receiving = anyio.create_memory_object_stream[bytes](3)
    buffered = BufferedByteReceiveStream(receiving)
    sources: dict[str, Any] = {
        "memory": receiving,
        "buffered": buffered,
        "stapled": StapledByteStream(sending, buffered),  # type: ignore[arg-type]  # sends objects
    }

    async def send() -> None:
        async with sending:
            await send_in_pieces(sending.send)

    async with receiving, anyio.create_task_group() as tasks:
        tasks.start_soon(send)
        with anyio.fail_after(20):
            assert await read(sources[kind]) == BLOCKS


async def test_a_stream_over_tcp() -> None:
    async with await anyio.create_tcp_listener(local_host="127.0.0.1") as listener:

        async def serve(stream: anyio.abc.SocketStream) -> None:
            async with stream:
                await send_in_pieces(stream.send)

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(listener.serve, serve)
            port = listener.extra_attributes[anyio.abc.SocketAttribute.local_port]()
            with anyio.fail_after(20):
                async with await anyio.connect_tcp("127.0.0.1", port) as stream:
                    assert await read(stream) == BLOCKS
                async with await anyio.connect_tcp("127.0.0.1", port) as stream:
                    outputs = await walk(stream, DriverBuilder().with_mem_limit_mb(0))
                    assert len(outputs) == 31
            tasks.cancel_scope.cancel()


@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_a_stream_reader_of_asyncio() -> None:
    fed = asyncio.StreamReader()
    fed.feed_data(CAR)
    fed.feed_eof()
    assert await read(fed, 500) == BLOCKS

    async def serve(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        async for piece in pieces_of(CAR, 300):
            writer.write(piece)
            await writer.drain()
        writer.close()
        await writer.wait_closed()

    server = await asyncio.start_server(serve, "127.0.0.1")
    async with server:
        reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname()[:2])
        with anyio.fail_after(20):
            assert await read(reader) == BLOCKS
        writer.close()
        await writer.wait_closed()


@pytest.mark.parametrize("anyio_backend", ["trio"])
async def test_streams_and_files_of_trio(path: Path) -> None:
    sending, receiving = trio.testing.memory_stream_one_way_pair()

    async def send() -> None:
        async with sending:
            await send_in_pieces(sending.send_all)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(send)
        with trio.fail_after(20):
            assert await read(receiving) == BLOCKS

    async with await trio.open_file(path, "rb") as file:
        assert await read(file, 500) == BLOCKS
    assert await read(trio.Path(path)) == BLOCKS


@pytest.mark.parametrize("anyio_backend", ["trio"])
async def test_a_socket_of_trio() -> None:
    async def serve(stream: trio.SocketStream) -> None:
        async with stream:
            await send_in_pieces(stream.send_all)

    async with trio.open_nursery() as nursery:
        [listener] = await trio.open_tcp_listeners(0, host="127.0.0.1")
        nursery.start_soon(trio.serve_listeners, serve, [listener])
        host, port = listener.socket.getsockname()
        with trio.fail_after(20):
            async with await trio.open_tcp_stream(host, port) as stream:
                assert await read(stream) == BLOCKS
        nursery.cancel_scope.cancel()


# --- What is no source ------------------------------------------------------------------------


def generator() -> Iterator[bytes]:
    yield CAR


class ReadsAtOnce:
    def read(self, n: int) -> bytes:
        return CAR[:n]


class ReceivesAtOnce:
    def receive(self, n: int) -> bytes:
        return CAR[:n]


class HasAttributes:
    read = b"not a method"
    receive = None


@pytest.mark.parametrize("through", ["CarReader", "DriverBuilder"])
@pytest.mark.parametrize(
    "make",
    [
        pytest.param(lambda: None, id="None"),
        pytest.param(lambda: 5, id="int"),
        pytest.param(object, id="object"),
        pytest.param(lambda: [CAR], id="list"),
        pytest.param(lambda: (CAR,), id="tuple"),
        pytest.param(lambda: {CAR}, id="set"),
        pytest.param(lambda: {"car": CAR}, id="dict"),
        pytest.param(generator, id="generator"),
        pytest.param(lambda: iter([CAR]), id="iterator"),
        pytest.param(lambda: iter("repo.car"), id="iterator-of-text"),
        pytest.param(lambda: with_empty_pieces, id="generator-not-called"),
        pytest.param(lambda: io.BytesIO(CAR), id="BytesIO"),
        pytest.param(lambda: io.StringIO(""), id="StringIO"),
        pytest.param(ReadsAtOnce, id="read-not-async"),
        pytest.param(ReceivesAtOnce, id="receive-not-async"),
        pytest.param(HasAttributes, id="read-is-no-method"),
        pytest.param(lambda: Path, id="class"),
        pytest.param(lambda: array.array("B", CAR), id="array"),
    ],
)
async def test_what_is_no_source(make: Callable[[], Any], through: str) -> None:
    source = make()
    with pytest.raises(TypeError, match=r"give a path, bytes, .*async") as raised:
        await (CarReader.open(source) if through == "CarReader" else walk(source, DriverBuilder()))
    assert type(source).__name__ in str(raised.value)
    assert "anyio.wrap_file" in str(raised.value)


@pytest.mark.parametrize("mode", ["rb", "r"])
async def test_a_plain_file_is_no_source(path: Path, mode: str) -> None:
    with path.open(mode, encoding=None if mode == "rb" else "latin-1") as file:
        with pytest.raises(TypeError, match=r"anyio\.wrap_file"):
            await read(file)
        assert file.tell() == 0


async def test_a_text_file_is_to_be_opened_in_binary_mode(path: Path) -> None:
    async with await anyio.open_file(path, encoding="latin-1") as file:
        with pytest.raises(TypeError, match="gave str, not bytes; open it in binary mode"):
            await read(file)  # type: ignore[arg-type]  # that is the point


@pytest.mark.parametrize("item", ["text", "", 5, 0, None, [1]], ids=repr)
async def test_an_iterable_of_something_else(item: Any) -> None:
    async def items() -> AsyncGenerator[Any, None]:
        yield CAR[:100]
        yield item
        yield CAR[100:]

    async with aclosing(items()) as source:
        with pytest.raises(TypeError, match=f"gave {type(item).__name__}, not bytes"):
            await read(source)


@pytest.mark.parametrize("item", ["text", "", None, 5], ids=repr)
@pytest.mark.parametrize("method", ["read", "receive"])
async def test_a_method_that_gives_something_else(method: str, item: Any) -> None:
    class Gives:
        pass

    async def give(_n: int) -> Any:
        return item

    source: Any = Gives()
    setattr(source, method, give)
    with pytest.raises(TypeError, match=f"gave {type(item).__name__}, not bytes"):
        await read(source)
