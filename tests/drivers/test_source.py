"""Sources of every kind give the same blocks, and what is no source is told what to be."""

from __future__ import annotations

import array
import asyncio
import ctypes
import gzip
import io
import itertools
import mmap
import os
import threading
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Iterator
from contextlib import aclosing
from pathlib import Path
from typing import IO, Any, cast

import anyio
import anyio.to_thread
import pytest
import trio
import trio.testing
from anyio.streams.buffered import BufferedByteReceiveStream
from anyio.streams.stapled import StapledByteStream

from repo_stream import CarDecoder, CarReader, DriverBuilder, Source
from repo_stream.car import files
from repo_stream.car.source import CarFile
from repo_stream.testing import RawRecord, build_car, car_header, section
from support import new_descriptors, pieces_of, walk
from support.cancelling import Stop, every_stop
from support.stores import becomes


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


@pytest.mark.parametrize("piece_size", [1, 7, len(CAR), 1 << 20], ids=["1", "7", "whole", "larger"])
async def test_bytes_are_read_in_pieces_of_any_size(piece_size: int) -> None:
    assert await read(CAR, piece_size) == BLOCKS


@pytest.mark.parametrize(
    "source",
    [
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
async def test_bytes_in_memory_are_a_source(source: Any) -> None:
    assert await read(source, 1000) == BLOCKS


@pytest.mark.parametrize(
    "source",
    [b"", bytearray(), memoryview(b""), memoryview(array.array("I"))],
    ids=["bytes", "bytearray", "memoryview", "array"],
)
async def test_source_without_bytes_is_incomplete(source: Any) -> None:
    with pytest.raises(Exception, match="incomplete"):
        await read(source)


async def test_mmap_of_a_file_is_a_source(path: Path) -> None:
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


@pytest.mark.parametrize(
    "kind", [str, Path, OnlyAPath, anyio.Path], ids=["str", "Path", "os.PathLike", "anyio.Path"]
)
async def test_path_is_a_source(path: Path, kind: Callable[[Path], Any]) -> None:
    assert await read(kind(path)) == BLOCKS


async def test_relative_path_is_a_source(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(path.parent)
    assert await read("repo.car") == BLOCKS
    assert await read(Path("repo.car")) == BLOCKS


async def test_read_that_asyncio_cancels_loses_nothing(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its own cancellation goes past the shields of anyio, and leaves a thread reading."""
    read_piece: Any = vars(CarFile)["_read_piece"]
    slow = itertools.cycle([False, True, False])
    waiting: list[threading.Event] = []

    def read_slowly(file: object, size: int) -> Any:
        if next(slow):
            waiting.append(go_on := threading.Event())
            go_on.wait(10)
        return read_piece(file, size)

    monkeypatch.setattr(files, "_NOWAIT", None)
    monkeypatch.setattr(CarFile, "_read_piece", read_slowly)
    cancelled = 0
    got: list[tuple[bytes, bytes]] = []
    async with await CarReader.open(path, piece_size=len(CAR) // 20 + 1) as car:
        while True:
            reading = asyncio.create_task(car.next_blocks())
            assert await becomes(lambda: reading.done() or bool(waiting))  # noqa: B023 - now
            if waiting:
                reading.cancel()
                await asyncio.wait([reading])
                assert reading.cancelled()
                cancelled += 1
                waiting.pop().set()
            elif (blocks := await reading) is not None:
                got += blocks
            else:
                break
    assert cancelled > 5
    assert got == BLOCKS


class Halting(io.FileIO):
    """A file of a system that returns less than was asked for, and not only at the end."""

    def read(self, size: int | None = -1, /) -> bytes:
        return super().read(min(size or 0, 700))


@pytest.mark.parametrize("rereadable", [False, True])
async def test_file_is_read_to_its_end_though_less_comes_than_was_asked_for(
    rereadable: bool, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(files, "_NOWAIT", None)
    monkeypatch.setattr("repo_stream.car.source._open", Halting)
    async with await CarReader.open(path, rereadable=rereadable) as car:
        assert [pair async for pair in car] == BLOCKS


async def test_file_that_is_cut_while_it_is_read_ends_where_it_ends_by_then(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(files, "_NOWAIT", None)
    with new_descriptors() as opened:
        file = CarFile(str(path), itertools.repeat(1000), keep=False)
        got = bytes(await file.next())
        os.truncate(path, 2500)
        while piece := await file.next():
            got += piece
        assert not opened()
    assert got == CAR[:2500]


async def test_read_that_asyncio_cancels_at_the_end_of_a_damaged_file_loses_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its last blocks are found when it has ended: a damaged length had claimed all of them."""
    monkeypatch.setattr(files, "_NOWAIT", None)
    path = tmp_path / "damaged.car"
    sections = [section(*block) for block in BLOCKS]
    sections.insert(-5, b"\xa0\xc2\x1e")
    path.write_bytes(car_header([BLOCKS[0][0]]) + b"".join(sections))
    for stop in every_stop("task", at_least=3):
        got: list[tuple[bytes, bytes]] = []
        async with await CarReader.open(path, piece_size=4000, past_damage=True) as car:

            async def drain(car: CarReader = car, got: list[tuple[bytes, bytes]] = got) -> None:
                while part := await car.next_blocks():
                    got += part

            await Stop(1, "task").run(drain)  # from now on, a thread may be reading
            await stop.run(drain)
            await drain()
        assert got == BLOCKS


@pytest.mark.both_loops
async def test_named_pipe_is_read_to_its_end(tmp_path: Path) -> None:
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


async def test_read_of_a_pipe_that_asyncio_cancels_loses_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A pipe gives nothing twice, its end included."""
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    read_piece: Any = vars(CarFile)["_read_piece"]
    waiting: list[threading.Event] = []

    def read_slowly(file: object, size: int) -> Any:
        waiting.append(go_on := threading.Event())
        go_on.wait(10)
        return read_piece(file, size)

    monkeypatch.setattr(CarFile, "_read_piece", read_slowly)
    writer = threading.Thread(target=pipe.write_bytes, args=[CAR])
    writer.start()
    cancelled = 0
    got: list[tuple[bytes, bytes]] = []
    opening = asyncio.create_task(CarReader.open(pipe, piece_size=len(CAR) // 20 + 1))
    assert await becomes(lambda: bool(waiting))
    waiting.pop().set()
    async with await opening as car:
        pipe.unlink()  # rather than wait forever if it is opened again
        while cancelled < 100:
            reading = asyncio.create_task(car.next_blocks())
            assert await becomes(lambda: reading.done() or bool(waiting))  # noqa: B023 - now
            if waiting:
                reading.cancel()
                await asyncio.wait([reading])
                cancelled += 1
                waiting.pop().set()
            elif (blocks := await reading) is not None:
                got += blocks
            else:
                break
    writer.join()
    assert 15 < cancelled < 100
    assert got == BLOCKS


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
async def test_whatever_is_read_asynchronously_is_a_source(make: Callable[[], Any]) -> None:
    assert await read(make()) == BLOCKS


async def test_pieces_of_the_size_wanted_are_asked_for() -> None:
    asked: list[int] = []

    class Noting(OnlyReads):
        async def read(self, n: int, /) -> bytes:
            asked.append(n)
            return await super().read(n)

    assert await read(Noting(CAR), piece_size=77) == BLOCKS
    assert set(asked) == {77}


@pytest.mark.both_loops
async def test_file_of_anyio_is_a_source_and_stays_open(path: Path) -> None:
    async with await anyio.open_file(path, "rb") as file:
        assert await read(file) == BLOCKS
        assert not file.wrapped.closed


async def test_wrapped_plain_file_is_a_source(path: Path, tmp_path: Path) -> None:
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
async def test_stream_of_anyio_is_a_source(kind: str) -> None:
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


@pytest.mark.both_loops
async def test_stream_over_tcp_is_a_source() -> None:
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


async def test_stream_reader_of_asyncio_is_a_source() -> None:
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
async def test_streams_and_files_of_trio_are_sources(path: Path) -> None:
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
async def test_socket_of_trio_is_a_source() -> None:
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
async def test_what_is_no_source_is_refused_with_advice(make: Callable[[], Any]) -> None:
    source = make()
    with pytest.raises(TypeError, match=r"pass a path, bytes, .*async") as raised:
        await CarReader.open(source)
    assert type(source).__name__ in str(raised.value)
    assert "anyio.wrap_file" in str(raised.value)


async def test_driver_refuses_what_is_no_source() -> None:
    source: Any = io.BytesIO(CAR)
    with pytest.raises(TypeError, match=r"pass a path, bytes, .*async"):
        await walk(source, DriverBuilder())


@pytest.mark.parametrize("mode", ["rb", "r"], ids=["binary", "text"])
async def test_plain_file_is_refused_unread(path: Path, mode: str) -> None:
    with path.open(mode, encoding=None if mode == "rb" else "latin-1") as file:
        with pytest.raises(TypeError, match=r"anyio\.wrap_file"):
            await read(file)
        assert file.tell() == 0


async def test_text_file_is_refused_with_advice(path: Path) -> None:
    async with await anyio.open_file(path, encoding="latin-1") as file:
        with pytest.raises(TypeError, match="returned str, not bytes; open it in binary mode"):
            await read(file)  # type: ignore[arg-type]  # that is the point


@pytest.mark.parametrize(
    "item", ["text", "", 5, 0, None, [1]], ids=["text", "no-text", "int", "zero", "None", "list"]
)
async def test_iterable_of_something_else_is_refused(item: Any) -> None:
    async def items() -> AsyncGenerator[Any, None]:
        yield CAR[:100]
        yield item
        yield CAR[100:]

    async with aclosing(items()) as source:
        with pytest.raises(TypeError, match=f"returned {type(item).__name__}, not bytes"):
            await read(source)


@pytest.mark.parametrize(
    ("method", "item"),
    [("read", "text"), ("read", ""), ("receive", None), ("receive", 0)],
    ids=["read-text", "read-no-text", "receive-None", "receive-zero"],
)
async def test_method_that_gives_something_else_is_refused(method: str, item: Any) -> None:
    class Gives:
        pass

    async def give(_n: int) -> Any:
        return item

    source: Any = Gives()
    setattr(source, method, give)
    with pytest.raises(TypeError, match=f"returned {type(item).__name__}, not bytes"):
        await read(source)
