"""A channel: chunks that a walk has ready while the caller works on the one before.

`walk_ahead` runs the walk in a task of its own, which puts chunks into a `Channel`. The task waits
until a chunk has been taken before it puts the next, so at most one is ready beside the one that
the walk is working on. Nothing is awaited between taking records and putting them, so a
cancellation loses none; chunks that nobody took are put back when the channel is closed.
"""

from __future__ import annotations

from collections import deque
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from functools import partial
from typing import Generic, TypeVar

import anyio

from repo_stream.background import in_background
from repo_stream.drivers.ending import Ending
from repo_stream.mst.results import Taken

__all__ = ["Channel", "walk_ahead"]

T = TypeVar("T")


class Channel(Generic[T]):
    """An async iterable of chunks; `DiskDriver.to_channel` makes it.

    Args:
        ending: the end of the walk.
    """

    def __init__(self, ending: Ending) -> None:
        self._ending = ending
        self._ready: deque[Taken[T]] = deque()
        self._ended = self._closed = False
        self._error: Exception | None = None
        self._filled = anyio.Event()
        self._emptied = anyio.Event()
        self._guard = anyio.ResourceGuard("receiving chunks from")

    def put(self, chunk: Taken[T]) -> None:
        """Add a chunk. The walk calls this."""
        self._ready.append(chunk)
        self._filled.set()

    async def room(self) -> None:
        """Wait until all chunks have been taken. The walk calls this."""
        while self._ready:
            self._emptied = anyio.Event()
            await self._emptied.wait()

    def end(self, error: Exception | None) -> None:
        """End the channel, with the error that the walk has raised, if any. The walk calls this."""
        self._ended, self._error = True, error
        self._filled.set()

    def close(self) -> Sequence[Taken[T]]:
        """End the channel, and return the chunks that have not been taken."""
        left = tuple(self._ready)
        self._ready.clear()
        self._closed = True
        self._filled.set()
        return left

    def __aiter__(self) -> Channel[T]:
        if self._error is None:
            self._ending.refuse_new_loop()
        return self

    async def __anext__(self) -> list[tuple[str, T]]:
        """Return the next chunk, as pairs of key and value.

        Raises:
            RuntimeError: if the channel has been closed before the end.
        """
        with self._guard:
            while not self._ready:
                if self._error is not None:
                    raise self._error
                if self._closed and not self._ending.returned:
                    raise RuntimeError("the channel is closed; take chunks within its `async with`")
                if self._ended or self._closed:
                    self._ending.returned = True
                    raise StopAsyncIteration
                self._filled = anyio.Event()
                await self._filled.wait()
            taken = self._ready.popleft()
            self._emptied.set()
            return taken.pairs()


@asynccontextmanager
async def walk_ahead(
    next_chunk: Callable[[], Awaitable[Taken[T] | None]],
    put_back: Callable[[Sequence[Taken[T]]], None],
    ending: Ending,
) -> AsyncGenerator[Channel[T]]:
    """Run a walk in a task of its own.

    Args:
        next_chunk: takes the next chunk from the walk; `None` at its end.
        put_back: is called at the end with the chunks that nobody took.
        ending: the end of the walk, which the channel returns.

    Yields:
        The channel that the chunks are put into.
    """
    channel: Channel[T] = Channel(ending)
    try:
        async with in_background(partial(_fill, channel, next_chunk)):
            yield channel
    finally:
        put_back(channel.close())


async def _fill(channel: Channel[T], next_chunk: Callable[[], Awaitable[Taken[T] | None]]) -> None:
    try:
        while (taken := await next_chunk()) is not None:
            channel.put(taken)
            await channel.room()
        channel.end(None)
    except Exception as error:  # noqa: BLE001 - the channel raises it
        channel.end(error)
