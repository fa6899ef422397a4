"""Chunks that a walk has ready for whoever works on the one before."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from typing import Generic, TypeVar

import anyio

from repo_stream.mst.results import Taken

__all__ = ["Channel"]

T = TypeVar("T")


class Channel(Generic[T]):
    """Chunks that a walk has ready; `DiskDriver.to_channel` makes it."""

    def __init__(self) -> None:
        self._ready: deque[Taken[T]] = deque()
        self._ended = False
        self._error: Exception | None = None
        self._filled = anyio.Event()
        self._emptied = anyio.Event()
        self._guard = anyio.ResourceGuard("receiving chunks from")

    def put(self, chunk: Taken[T]) -> None:
        """Add a chunk, on the walk's side."""
        self._ready.append(chunk)
        self._filled.set()

    async def room(self) -> None:
        """Wait until the chunk before has been taken, on the walk's side."""
        while self._ready:
            self._emptied = anyio.Event()
            await self._emptied.wait()

    def end(self, error: Exception | None) -> None:
        """Say that no chunk will follow, and why, on the walk's side."""
        self._ended, self._error = True, error
        self._filled.set()

    def close(self) -> Sequence[Taken[T]]:
        """End the channel and give back what nobody took."""
        left = tuple(self._ready)
        self._ready.clear()
        self._ended = True
        return left

    def __aiter__(self) -> Channel[T]:
        return self

    async def __anext__(self) -> list[tuple[str, T]]:
        """Give the next chunk, as pairs of key and result."""
        with self._guard:
            while not self._ready:
                if self._error is not None:
                    raise self._error
                if self._ended:
                    raise StopAsyncIteration
                self._filled = anyio.Event()
                await self._filled.wait()
            taken = self._ready.popleft()
            self._emptied.set()
            return taken.pairs()
