"""Sources: all that a CAR can be read from, each made into a stream of pieces.

`open_pieces` tells the kinds of sources apart and returns `Pieces`, whose method `next` returns the
next bytes. The file of a path is opened and closed here (`CarFile`); everything else belongs to the
caller, who closes it.

Such a file is decompressed while it is read if it starts as gzip or zstd data does, whatever its
name (`_PathPieces`). Compressed bytes from other sources are not: whoever sends them says what they
are, and HTTP clients decompress them already.
"""

from __future__ import annotations

import errno
import inspect
import io
import os
import stat
from collections.abc import AsyncIterable, Awaitable, Callable, Iterator
from functools import partial
from typing import Any, Final, Protocol, TypeAlias, cast

import anyio
from anyio.abc import ByteReceiveStream
from anyio.lowlevel import checkpoint

from repo_stream.car.compression import Decompressor
from repo_stream.car.file_type import MARK_BYTES, compression_of, may_be_compressed
from repo_stream.car.files import OpenFile, SharedFile, fill
from repo_stream.errors import BadCompression
from repo_stream.turn import Turn

__all__ = [
    "AsyncReadable",
    "AsyncReceivable",
    "CarFile",
    "Pieces",
    "Source",
    "check_source",
    "open_pieces",
]


class AsyncReadable(Protocol):
    """Anything with an async `read(n)` that returns at most `n` bytes, and none at the end.

    Examples are `anyio.AsyncFile`, `asyncio.StreamReader`, `aiohttp.StreamReader` and the files of
    aiofiles.
    """

    def read(self, n: int, /) -> Awaitable[bytes]:
        """Return up to `n` bytes; none at the end."""
        ...


class AsyncReceivable(Protocol):
    """Anything with an async `receive(n)`, such as the byte streams of anyio."""

    def receive(self, max_bytes: int, /) -> Awaitable[bytes]:
        """Return up to `max_bytes` bytes; none, or raise `anyio.EndOfStream`, at the end."""
        ...


#: What a CAR can be read from: a path, bytes in memory, or an async source of bytes. The file of a
#: path may be compressed with gzip or, with the extra `zstd` before Python 3.14, with zstd.
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


class Pieces:
    """A source as a stream of pieces.

    Args:
        receive: returns the next piece, empty at the end. The piece may change with the next call.
        close: closes what was opened for the source, if anything.
        file: the file, if the source is a path.

    Attributes:
        next: the same as `receive`.
    """

    def __init__(
        self,
        receive: Callable[[], Awaitable[bytes | memoryview]],
        close: Callable[[], Awaitable[None]] | None = None,
        file: CarFile | None = None,
    ) -> None:
        self.next = receive
        self._close = close
        self._file = file

    @property
    def file(self) -> CarFile | None:
        """The file, if it can be read again at any offset: a regular one that is kept open."""
        return self._file if self._file is not None and self._file.rereadable else None

    async def aclose(self) -> None:
        """Close what was opened for this source; do nothing if that was done before."""
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
    """Return any source as a stream of pieces.

    Args:
        source: see `Source`.
        piece_size: the most to read at a time, in bytes. An async iterable decides for itself.
        first_piece_size: how much to read at first, in bytes, `piece_size` by default. It is
            doubled each time, up to `piece_size`.
        rereadable: keep a regular file open after its end, so that it can be read again.

    Raises:
        TypeError: if `source` is not a supported source; the message says what to pass instead.
        OSError: if it is a path that cannot be opened.
    """
    check_source(source)
    first = first_piece_size or piece_size
    if isinstance(source, (str, os.PathLike)):
        file = CarFile(os.fspath(source), _sizes(first, piece_size), keep=rereadable)
        return _PathPieces(file, _sizes(first, piece_size))
    sizes = _sizes(first, piece_size)
    if isinstance(source, (bytes, bytearray, memoryview)):
        return _from_memory(source, sizes)
    if isinstance(source, ByteReceiveStream):
        return _from_receive(source.receive, sizes, source)
    read = getattr(source, "read", None)
    if callable(read):
        return _from_read(read, sizes, source)
    if isinstance(source, AsyncIterable):
        return _from_iterable(source)
    return _from_receive(cast("AsyncReceivable", source).receive, sizes, source)


def _sizes(size: int, most: int) -> Iterator[int]:
    while True:
        yield size
        size = min(2 * size, most)


# --- What is not a source -----------------------------------------------------------------------


def check_source(source: object) -> None:
    """Check that an object is a supported source, as far as that can be told before it is read.

    Raises:
        TypeError: if it is not; the message says what to pass instead.
    """
    if isinstance(source, (str, os.PathLike, bytes, bytearray, memoryview, ByteReceiveStream)):
        return
    if isinstance(source, _NO_SOURCES) or _is_response(source):
        raise _not_a_source(source)
    if isinstance(source, AsyncIterable):
        return
    if not any(callable(getattr(source, name, None)) for name in ("read", "receive")):
        raise _not_a_source(source)


# A plain file has a `read`, too.
_NO_SOURCES: Final[tuple[type, ...]] = (io.IOBase, list, tuple)
_ANY_SOURCE: Final = (
    "pass a path, bytes, an object with async read(n) or receive(n), or an async iterable of "
    "bytes; wrap a plain file with anyio.wrap_file(file)"
)


def _not_a_source(source: object) -> TypeError:
    name = type(source).__name__
    if _is_response(source):
        return TypeError(f"cannot read a CAR from {name}: {_from_response(source)}")
    first = _to_do_first(source)
    advice = f"{first}, or {_ANY_SOURCE}" if first else _ANY_SOURCE
    return TypeError(f"cannot read a CAR from {name}: {advice}")


def _is_response(source: object) -> bool:
    """Return whether an object is the response of an HTTP client, and not its bytes."""
    # Looked for in the class, as a property of the object may raise an error.
    kind = type(source)
    return hasattr(kind, "aiter_bytes") or (hasattr(kind, "content") and hasattr(kind, "headers"))


def _from_response(response: object) -> str:
    if hasattr(type(response), "aiter_bytes"):
        return "pass response.aiter_bytes(), or response.content if it has been read"
    return "pass response.content"


def _to_do_first(source: object) -> str | None:
    """Return what has to be done with an object to get a source; `None` if that is not known."""
    if isinstance(source, io.TextIOBase):
        return "it has text: open the file in binary mode"
    if inspect.isroutine(source):
        return "call it first"
    if hasattr(type(source), "__aenter__"):
        return "enter it first, with `async with`"
    if inspect.isawaitable(source):
        return "await it first"
    # A plain file is one, too: `anyio.wrap_file` is for that.
    if isinstance(source, Iterator) and not isinstance(source, io.IOBase):
        return "it is an iterator, but not an async one: join what it yields"
    return None


_URL: Final = (
    'it is a URL; download it, for example with httpx: `async with client.stream("GET", url) as '
    "response`, and pass response.aiter_bytes()"
)
_ACCOUNT: Final = (
    "it names an account; find its server, and pass a stream of com.atproto.sync.getRepo, as in "
    'the README under "From an account"'
)
# How a text begins that is no path, and what to do. A path may have lost the second slash.
_NO_PATHS: Final = {"https:/": _URL, "http:/": _URL, "at:/": _ACCOUNT, "did:": _ACCOUNT}


def _why_not_there(path: str | bytes) -> str | None:
    """Return what a path that does not exist is instead of a path; `None` if it may be one."""
    text = os.fsdecode(path).lower()
    return next((why for start, why in _NO_PATHS.items() if text.startswith(start)), None)


class CarFile(SharedFile):
    """The file of a path, read piece by piece.

    It is opened with the first read. A regular file is closed with the last one, unless it is kept
    open to be read again. So a small file takes one visit of a worker thread in all; to open, read
    and close it one by one takes three times as long for a repo of a few kB.

    Args:
        path: its path.
        sizes: yields the size of each next piece, in bytes.
        keep: keep a regular file open after its end.

    Attributes:
        size: its size when it was opened, in bytes.
    """

    def __init__(self, path: str, sizes: Iterator[int], *, keep: bool) -> None:
        super().__init__()
        self._path = path
        self._keep = keep
        self._sizes = sizes
        self.size: int = 0
        self._regular = False
        # The offset of the next piece.
        self._at = 0
        self._ended = False
        self._closed_early = False
        # What was read and not returned so far, of a pipe or the like: it is not read twice.
        self._unreturned: bytes | None = None
        # For pieces that are in memory. With a new one for each piece, most of the gain is lost.
        self._buffer = bytearray()

    async def next(self) -> bytes | memoryview:
        """Read the next piece, empty at the end.

        Raises:
            RuntimeError: if it was closed before the end, which would look like a truncated file.
        """
        if self._closed_early:
            raise RuntimeError("the file was closed before its end; read it within `async with`")
        if self._ended:
            return b""
        size = next(self._sizes)
        if self._regular and self._nowait is not None:
            await checkpoint()
            piece = self._at_once(partial(self._into_buffer, self._at, size))
            if piece is not None:
                self._at += size
                return piece
        # `_at` moves on only here, as the task can be cancelled although the thread has read.
        read = await self._in_thread(lambda: self._read(size))
        if self._ended or self._is_last(read, size):
            self._ended = True
            self._buffer = bytearray()
        self._at += len(read)
        self._unreturned = None
        return read

    def _is_last(self, piece: bytes, size: int) -> bool:
        """Return whether the file ends after the next piece, of which `size` bytes were asked for.

        Some file systems return less than that before the end, too.
        """
        if not piece:
            return True
        return self._regular and len(piece) < size and self._at + len(piece) >= self.size

    @property
    def rereadable(self) -> bool:
        """Whether it can be read again at any offset, until it is closed."""
        return self._keep and self._regular

    def _into_buffer(self, start: int, size: int, file: OpenFile) -> memoryview:
        if len(self._buffer) < size:
            self._buffer = bytearray(size)
        piece = memoryview(self._buffer)[:size]
        fill(piece, cast("int", file.descriptor), start, file.flags)
        return piece

    async def aclose(self) -> None:
        """Close the file; do nothing if that was done before."""
        self._closed_early |= not self._ended
        self._ended = True
        if self._regular or self._reading or self._file is None:
            await super().aclose()
        else:
            await self._close_in_thread()

    def _read(self, size: int) -> bytes:
        with self._lock:
            if self._ended:
                return b""
            if self._unreturned is not None:  # the task was cancelled while a thread read it
                return self._unreturned
            piece = self._read_piece(size)
            if not self._regular:
                self._unreturned = piece
            return piece

    def _read_piece(self, size: int) -> bytes:
        if self._file is None:
            self._file = _open(self._path)
            status = os.fstat(self._file.fileno())
            self._regular = stat.S_ISREG(status.st_mode)
            self.size = status.st_size
        if self._regular:
            self._file.seek(self._at)
        piece = self._file.read(size) or b""
        if self._is_last(piece, size) and not self.rereadable:
            self._file.close()
            self._file = None
        return piece


class _PathPieces(Pieces):
    """The file of a path, decompressed if it is compressed.

    Args:
        file: the file.
        sizes: yields the size of each next piece of what was decompressed, in bytes.
    """

    def __init__(self, file: CarFile, sizes: Iterator[int]) -> None:
        super().__init__(self._first, file.aclose, file)
        self._compressed = file
        self._sizes = sizes
        # The first bytes, as long as there are too few to tell what the file is.
        self._start = b""
        self._decompressor: Decompressor | None = None
        # What has been decompressed of the next piece.
        self._parts: list[bytes] = []
        self._error: BadCompression | None = None
        self._turn = Turn()

    async def _first(self) -> bytes | memoryview:
        """Return the first piece, once there is enough of the file to tell what it is."""
        while True:
            piece = await self._compressed.next()
            start = self._start + piece if self._start else piece
            mark = bytes(start[:MARK_BYTES])
            if not piece or len(mark) == MARK_BYTES or not may_be_compressed(mark):
                break
            self._start = bytes(start)
        compression = compression_of(mark)
        if compression is None:
            self.next = self._compressed.next
            return start
        self._file = None  # offsets in it are not those in the CAR
        self._decompressor = Decompressor(compression)
        self._decompressor.feed(start)
        self.next = self._next
        return await self._next()

    async def _next(self) -> bytes:
        """Return the next piece of what is decompressed, empty at the end."""
        await checkpoint()
        if self._error is not None:
            raise self._error
        left = next(self._sizes) - sum(map(len, self._parts))
        try:
            while left > 0 and (part := await self._decompress(left)) is not None:
                if part:
                    self._parts.append(part)
                    left -= len(part)
                await self._turn.pause_if_over()  # there may be thousands of tiny parts
        except BadCompression as error:
            self._error = error
            if not self._parts:
                raise
        piece, self._parts = b"".join(self._parts), []
        return piece

    async def _decompress(self, most: int) -> bytes | None:
        """Return up to `most` bytes, or none if the file has to be read on; `None` at the end."""
        decompressor = cast("Decompressor", self._decompressor)
        if not decompressor.needs_input:
            return decompressor.take(most)
        piece = await self._compressed.next()
        if not piece:
            decompressor.finish()
            return None
        decompressor.feed(piece)
        return b""


def _open(path: str) -> io.FileIO:
    try:
        return io.FileIO(path)
    except OSError as error:
        # On Windows, a colon in a name is an error of its own.
        reason = _why_not_there(path) if error.errno in {errno.ENOENT, errno.EINVAL} else None
        if reason is None:
            raise
        message = f"there is no such file; {reason}"
        raise FileNotFoundError(errno.ENOENT, message, path) from None


def _from_memory(source: bytes | bytearray | memoryview, sizes: Iterator[int]) -> Pieces:
    try:
        view = memoryview(source).cast("B")
    except TypeError:  # not contiguous, or of an exotic format
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
        # An empty piece does not mean the end. A loop would begin again for each piece, which not
        # every iterator allows once it is exhausted.
        try:
            while not (piece := _checked(await anext(iterator))):
                pass
        except StopAsyncIteration:
            return b""
        return piece

    return Pieces(next_piece)


def _checked(piece: object) -> bytes:
    if isinstance(piece, bytes):
        return piece
    if isinstance(piece, (bytearray, memoryview)):
        return bytes(cast("bytearray", piece))
    kind = type(piece).__name__
    raise TypeError(f"the source returned {kind}, not bytes; open it in binary mode")
