"""Any async source of bytes, as a stream of pieces.

What was given as a path is opened here, and closed here. Everything else belongs to the caller, who
closes it.
"""

from __future__ import annotations

import inspect
import io
import os
import stat
from collections.abc import AsyncIterable, Awaitable, Callable, Iterator
from functools import partial
from threading import Lock
from typing import Any, Final, NamedTuple, Protocol, TypeAlias, TypeVar, cast

import anyio
import anyio.to_thread
from anyio.abc import ByteReceiveStream
from anyio.lowlevel import checkpoint

__all__ = ["AsyncReadable", "AsyncReceivable", "OpenFile", "Pieces", "Source", "open_pieces"]

R = TypeVar("R")

# Says to Linux to read what it has in memory, and not to wait for anything else.
_NOWAIT: Final[int | None] = getattr(os, "RWF_NOWAIT", None)


class AsyncReadable(Protocol):
    """Anything with an async `read(n)` that gives at most `n` bytes, and none at the end.

    `anyio.AsyncFile`, `asyncio.StreamReader`, `aiohttp.StreamReader` and files of aiofiles are.
    """

    def read(self, n: int, /) -> Awaitable[bytes]:
        """Give up to `n` bytes; none means the end."""
        ...


class AsyncReceivable(Protocol):
    """Anything with an async `receive(n)`, such as the byte streams of anyio."""

    def receive(self, max_bytes: int, /) -> Awaitable[bytes]:
        """Give up to `max_bytes` bytes; `anyio.EndOfStream` or none means the end."""
        ...


#: Where a CAR can come from: a path, bytes in memory, or a source that is read asynchronously.
Source: TypeAlias = (
    AsyncReadable
    | AsyncReceivable
    | AsyncIterable[bytes | bytearray]
    | bytes
    | bytearray
    | memoryview
    | str
    | os.PathLike[str]
)


class OpenFile(NamedTuple):
    """A file that stays open while somebody reads here and there in it.

    Attributes:
        descriptor: its number, where the system reads at any place of it by that, as `os.pread`.
        read: reads so many bytes from a start on. What is cut off, or closed, comes shorter.
        flags: what `os.preadv` is told by whoever reads by the number. Where there are any, what
            does not come whole is not in memory: a `BlockingIOError`, as `read` raises it.
    """

    descriptor: int | None
    read: Callable[[int, int], bytes]
    flags: int = 0


class Pieces:
    """A source as one async method, `next`.

    Args:
        receive: gives the next piece, empty at the end; it may last until the next call only.
        close: releases what was opened for it.
        file: the source, where it is a file.
    """

    def __init__(
        self,
        receive: Callable[[], Awaitable[bytes | memoryview]],
        close: Callable[[], Awaitable[None]] | None = None,
        file: _File | None = None,
    ) -> None:
        self.next = receive
        self._close = close
        self._file = file

    @property
    def rereadable(self) -> bool:
        """Whether what has come can be read again: it is a regular file, and kept open for that."""
        return self._file is not None and self._file.rereadable

    @property
    def changed(self) -> bool:
        """Whether a rereadable source was written to since it was opened."""
        return self._file is not None and self._file.changed

    async def read_again(self, start: int, size: int) -> bytes:
        """Read what has come from a rereadable source: less than `size` bytes where it was cut."""
        return b"" if self._file is None else await self._file.read_again(start, size)

    async def visit(self, work: Callable[[OpenFile], R]) -> R:
        """Have work done that reads here and there in a rereadable source.

        It is done at once, and where not all that it reads is in memory, once more in a thread.
        """
        return work(_NOT_OPEN) if self._file is None else await self._file.visit(work)

    @property
    def size(self) -> int:
        """How many bytes a rereadable source had when it was opened."""
        return 0 if self._file is None else self._file.size

    async def aclose(self) -> None:
        """Close what was opened for this source; more than once does nothing more."""
        close, self._close = self._close, None
        if close is not None:
            with anyio.CancelScope(shield=True):
                await close()


async def open_pieces(
    source: Source,
    piece_size: int,
    *,
    first_piece_size: int | None = None,
    rereadable: bool = False,
) -> Pieces:
    """Make a stream of pieces of any source.

    Args:
        source: see `Source`.
        piece_size: the most to ask for at a time, in bytes. An async iterable decides for itself.
        first_piece_size: how much to ask for at first, in bytes; each time twice as much as before,
            up to `piece_size`. Unless given it is `piece_size` from the start.
        rereadable: keep a regular file open after its end, so that it can be read again.

    Raises:
        TypeError: where it is no source; the message says what to give instead.
        OSError: where it is a path that cannot be opened.
    """
    sizes = _sizes(first_piece_size or piece_size, piece_size)
    if isinstance(source, (str, os.PathLike)):
        file = _File(os.fspath(source), sizes, keep=rereadable)
        return Pieces(file.next, file.aclose, file)
    if isinstance(source, (bytes, bytearray, memoryview)):
        return _from_memory(source, sizes)
    if isinstance(source, (io.IOBase, list, tuple)):
        raise _not_a_source(source)
    if isinstance(source, ByteReceiveStream):
        return _from_receive(source.receive, sizes, source)
    read = getattr(source, "read", None)
    if callable(read):
        return _from_read(read, sizes, source)
    if isinstance(source, AsyncIterable):
        return _from_iterable(source)
    receive: Any = getattr(source, "receive", None)
    if callable(receive):
        return _from_receive(receive, sizes, source)
    raise _not_a_source(source)


def _sizes(size: int, most: int) -> Iterator[int]:
    while True:
        yield size
        size = min(2 * size, most)


def _read_nothing(_size: int, _start: int) -> bytes:
    return b""


_NOT_OPEN: Final = OpenFile(None, _read_nothing)


def _not_a_source(source: object) -> TypeError:
    return TypeError(
        f"cannot read a CAR from {type(source).__name__}: give a path, bytes, an object with async "
        "read(n) or receive(n), or an async iterable of bytes; "
        "wrap a plain file with anyio.wrap_file(file)"
    )


class _File:
    """A file, read in worker threads where it takes time; a small one takes one visit in all.

    It opens with the first read, and a regular file closes with the last, unless it is kept for
    being read again. (Opening, reading and closing one by one takes three times as long for a repo
    of a few kB.)

    Of a regular file, what the system has in memory is read at once: a large CAR that is walked as
    it is read takes 0.94 of the time that it takes with a thread for every piece, and one that is
    walked in place, compiled, 0.9.
    """

    def __init__(self, path: str, sizes: Iterator[int], *, keep: bool) -> None:
        self._path = path
        self._keep = keep
        self._sizes = sizes
        self._file: io.FileIO | None = None
        # Whether it is a regular file, and where in it the next piece starts.
        self._regular = False
        self._at = 0
        self._opened = (0, 0)
        self._ended = False
        # How many threads may be reading. A task that is cancelled past anyio's shields leaves its.
        self._reading = 0
        self._lock = Lock()
        # What is read at once goes there. A new one for each piece would take most of the gain.
        self._buffer = bytearray()
        self._nowait = _NOWAIT

    async def next(self) -> bytes | memoryview:
        if self._ended:
            return b""
        size = next(self._sizes)
        if self._regular and self._nowait is not None:
            await checkpoint()
            piece = self._at_once(partial(self._into_buffer, self._at, size))
            if piece is not None:
                self._at += size
                return piece
        # Only what has arrived counts as read, as a task can be cancelled past anyio's shields.
        read = await self._in_thread(lambda: self._read(size))
        self._at += len(read)
        self._ended = self._ended or not read or (len(read) < size and self._regular)
        if self._ended:
            self._buffer = bytearray()
        return read

    @property
    def rereadable(self) -> bool:
        return self._keep and self._regular

    @property
    def changed(self) -> bool:
        return self._file is not None and _version(os.fstat(self._file.fileno())) != self._opened

    async def read_again(self, start: int, size: int) -> bytes:
        piece = self._at_once(partial(self._into_buffer, start, size))
        if piece is not None:
            return bytes(piece)
        return await self._in_thread(lambda: self._visited(lambda file: file.read(size, start)))

    async def visit(self, work: Callable[[OpenFile], R]) -> R:
        await checkpoint()
        done = self._at_once(work)
        return await self._in_thread(lambda: self._visited(work)) if done is None else done

    @property
    def size(self) -> int:
        return self._opened[1]

    async def _in_thread(self, read: Callable[[], R]) -> R:
        self._reading += 1
        try:
            data = await anyio.to_thread.run_sync(read)
        except Exception:
            self._reading -= 1
            raise
        self._reading -= 1
        return data

    def _at_once(self, work: Callable[[OpenFile], R]) -> R | None:
        """Have work done here, if all that it reads is in memory; `None` says that it is not."""
        if self._nowait is None or self._reading:
            return None
        try:
            # Nobody has it for longer than a file takes to close. By `with`, as a Ctrl-C that comes
            # between `acquire` and `try` would leave it taken for ever.
            with self._lock:
                return None if self._file is None else work(_at_hand(self._file, self._nowait))
        except BlockingIOError:
            return None
        except OSError:  # not every file system can be asked
            self._nowait = None
            return None

    def _into_buffer(self, start: int, size: int, file: OpenFile) -> memoryview:
        if len(self._buffer) < size:
            self._buffer = bytearray(size)
        piece = memoryview(self._buffer)[:size]
        _fill(piece, cast("int", file.descriptor), start, file.flags)
        return piece

    def _visited(self, work: Callable[[OpenFile], R]) -> R:
        with self._lock:  # nobody closes it meanwhile
            return work(_NOT_OPEN if self._file is None else _open_file(self._file))

    async def aclose(self) -> None:
        self._ended = True
        if self._regular and not self._reading:
            self._close()
        elif self._reading or self._file is not None:
            try:
                await anyio.to_thread.run_sync(self._close)
            except BaseException:
                # Cancelled before a thread had it. It takes no time, and nobody comes back for it.
                self._close()
                raise

    def _close(self) -> None:
        with self._lock:
            if self._file is not None:
                self._file.close()
                self._file = None

    def _read(self, size: int) -> bytes:
        with self._lock:
            return b"" if self._ended else self._read_piece(size)

    def _read_piece(self, size: int) -> bytes:
        if self._file is None:
            self._file = io.FileIO(self._path)
            status = os.fstat(self._file.fileno())
            self._regular = stat.S_ISREG(status.st_mode)
            self._opened = _version(status)
        if self._regular:
            self._file.seek(self._at)
        piece = self._file.read(size) or b""
        if (not piece or (len(piece) < size and self._regular)) and not self.rereadable:
            self._file.close()
            self._file = None
        return piece


def _open_file(file: io.FileIO) -> OpenFile:
    if hasattr(os, "pread"):
        number = file.fileno()
        return OpenFile(number, partial(os.pread, number))

    def read(size: int, start: int) -> bytes:  # as on Windows
        file.seek(start)
        return file.read(size) or b""

    return OpenFile(None, read)


def _at_hand(file: io.FileIO, flags: int) -> OpenFile:
    number = file.fileno()

    def read(size: int, start: int) -> bytes:
        data = bytearray(size)
        _fill(memoryview(data), number, start, flags)
        return bytes(data)

    return OpenFile(number, read, flags)


def _fill(piece: memoryview, descriptor: int, start: int, flags: int) -> None:
    if os.preadv(descriptor, [piece], start, flags) < len(piece):
        raise BlockingIOError


def _version(status: os.stat_result) -> tuple[int, int]:
    """Give what is different after a file was written to."""
    return status.st_mtime_ns, status.st_size


def _from_memory(source: bytes | bytearray | memoryview, sizes: Iterator[int]) -> Pieces:
    try:
        view = memoryview(source).cast("B")
    except TypeError:  # not in one run of memory, or of an exotic format
        view = memoryview(memoryview(source).tobytes())
    at = 0

    async def cut() -> memoryview:
        nonlocal at
        piece = view[at : at + next(sizes)]
        at += len(piece)
        return piece

    return Pieces(cut)


def _from_read(read: Callable[[int], Any], sizes: Iterator[int], source: object) -> Pieces:
    async def read_piece() -> bytes:
        piece = read(next(sizes))
        if not inspect.isawaitable(piece):
            raise _not_a_source(source)
        return _checked(await piece)

    return Pieces(read_piece)


def _from_receive(receive: Callable[[int], Any], sizes: Iterator[int], source: object) -> Pieces:
    async def receive_piece() -> bytes:
        try:
            piece = receive(next(sizes))
            if not inspect.isawaitable(piece):
                raise _not_a_source(source)
            return _checked(await piece)
        except anyio.EndOfStream:
            return b""

    return Pieces(receive_piece)


def _from_iterable(source: AsyncIterable[bytes | bytearray]) -> Pieces:
    iterator = aiter(source)

    async def next_piece() -> bytes:
        # An empty piece is no end here.
        async for item in iterator:
            if piece := _checked(item):
                return piece
        return b""

    return Pieces(next_piece)


def _checked(piece: object) -> bytes:
    if isinstance(piece, bytes):
        return piece
    if isinstance(piece, (bytearray, memoryview)):
        return bytes(cast("bytearray", piece))
    raise TypeError(f"the source gave {type(piece).__name__}, not bytes; open it in binary mode")
