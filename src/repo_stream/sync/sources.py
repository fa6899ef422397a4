"""Sources that a program without a loop has: plain files, and iterables of bytes.

They are read in the thread that waits for the records, and no further than is asked for. So a file
or a response is used only by the thread that made it, and Ctrl-C ends a read that blocks.
"""

from __future__ import annotations

import inspect
import io
import os
from collections.abc import AsyncIterable, Callable, Iterable, Iterator
from typing import Any, Final, Protocol, TypeAlias, TypeVar, cast

from repo_stream.car.source import Source as AsyncSource
from repo_stream.loop_thread import in_caller

__all__ = ["Readable", "Source", "as_source"]

R = TypeVar("R")

_END: Final = object()


class Readable(Protocol):
    """Anything with a `read(n)` that returns at most `n` bytes, and none at the end."""

    def read(self, n: int, /) -> bytes:
        """Return up to `n` bytes; none at the end."""
        ...


#: What a CAR can be read from: a path, bytes in memory, a file that is open in binary mode, or an
#: iterable of bytes, such as `response.iter_content(65536)` of requests.
Source: TypeAlias = (
    Readable | Iterable[bytes | bytearray] | bytes | bytearray | memoryview | str | os.PathLike[str]
)


def as_source(source: object) -> AsyncSource:
    """Return a source as the async face takes it.

    Raises:
        TypeError: if `source` is not a supported source; the message says what to pass instead.
    """
    known = (str, os.PathLike, bytes, bytearray, memoryview, io.TextIOBase, AsyncIterable)
    if isinstance(source, known) or inspect.isroutine(source):
        return cast("AsyncSource", source)
    for method in ("iter_content", "iter_bytes"):
        if hasattr(type(source), method):
            size = "65536" if method == "iter_content" else ""
            raise TypeError(
                f"cannot read a CAR from {type(source).__name__}: pass response.{method}({size})"
            )
    read: Any = getattr(source, "read", None)
    if callable(read):
        is_async = inspect.iscoroutinefunction(read)
        return cast("AsyncSource", source) if is_async else _File(cast("Readable", source))
    if isinstance(source, Iterable):
        return _Pieces(cast("Iterable[bytes]", source))
    raise TypeError(
        f"cannot read a CAR from {type(source).__name__}: pass a path, bytes, a file that is open "
        "in binary mode, or an iterable of bytes"
    )


class _Kept:
    """Reads in the thread that waits, and keeps what was read until it is returned.

    Ctrl-C may come in between, and a file cannot be asked for the same again.
    """

    def __init__(self) -> None:
        self._found: list[Any] = []

    async def read(self, function: Callable[..., R], *arguments: object) -> R:
        def read() -> None:
            self._found.append(function(*arguments))

        if not self._found:
            await in_caller(read)
        found: R = self._found.pop()
        return found


class _File:
    """A plain file, for the loop."""

    def __init__(self, file: Readable) -> None:
        self._read = file.read
        self._kept = _Kept()

    async def read(self, n: int, /) -> bytes:
        return await self._kept.read(self._read, n)


class _Pieces:
    """An iterable of bytes, for the loop."""

    def __init__(self, pieces: Iterable[bytes]) -> None:
        self._pieces = pieces
        self._iterator: Iterator[bytes] | None = None
        self._kept = _Kept()

    def __aiter__(self) -> _Pieces:
        return self

    async def __anext__(self) -> bytes:
        piece = await self._kept.read(self._next)
        if piece is _END:
            raise StopAsyncIteration
        return cast("bytes", piece)

    def _next(self) -> object:
        if self._iterator is None:
            self._iterator = iter(self._pieces)
        return next(self._iterator, _END)
