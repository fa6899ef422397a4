"""Drivers of repos that have been loaded with `DriverBuilder.load_car`: in memory, or on disk."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Mapping
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, TypeVar, cast

from repo_stream.arguments import check_whole
from repo_stream.car.damage import DamageLog
from repo_stream.drivers.base import DEFAULT_CHUNK, LAZY_SLICE, RepoDriver
from repo_stream.drivers.channel import Channel, walk_ahead
from repo_stream.drivers.fetch import Fetcher
from repo_stream.drivers.loading import Unstored
from repo_stream.drivers.options import Options
from repo_stream.errors import StoreClosed
from repo_stream.mst.blocks import Blocks
from repo_stream.mst.commit import Commit
from repo_stream.mst.walker import Walker
from repo_stream.store.repo_log import RepoLog

if TYPE_CHECKING:
    from repo_stream.store.disk import DiskStore, Lease

__all__ = ["DiskDriver", "MemDriver"]

T = TypeVar("T")


class MemDriver(RepoDriver[T]):
    """Walks a repo that is in memory. `DriverBuilder.load_car` makes it."""

    def _own_blocks(self) -> Blocks[T]:
        return self._blocks

    async def _supply(
        self, walker: Walker[T], blocks: Blocks[T], n: int, *, records: bool = True
    ) -> None:
        raise walker.missing()


class DiskDriver(RepoDriver[T]):
    """Walks a repo that is on disk: in a store, or in its file. `NeedDisk.finish_loading` makes it.

    The file is closed when the store is closed, reset or used for another repo.
    """

    def __init__(
        self,
        options: Options[T],
        commit: Commit,
        log: RepoLog,
        lease: Lease,
        unstored: Mapping[bytes, Unstored],
        *,
        damages: DamageLog | None = None,
    ) -> None:
        processor = options.block_processor
        self._alike = processor.keeps_bytes
        super().__init__(options, commit, self._own_blocks(), damages)
        if not self._alike:
            self._slice = LAZY_SLICE
        self._lease: Lease | None = lease
        self._fetcher: Fetcher[T] = Fetcher(log, processor, unstored)

    def _own_blocks(self) -> Blocks[T]:
        return Blocks[T].empty(alike=self._alike)

    @asynccontextmanager
    async def to_channel(self, n: int = DEFAULT_CHUNK) -> AsyncGenerator[Channel[T]]:
        """Walk ahead in a task of its own, while the caller works on the chunk before.

        Args:
            n: the most records that a chunk has.

        Yields:
            An async iterable of chunks, the same that `next_chunk(n)` returns. It raises what
            `next_chunk` would raise, and `AlreadyWalked` if a loop over it begins after the end
            of the walk. At most one chunk is ready beside the one that the walk is
            working on. Chunks that have not been taken when the block is left are returned by the
            driver again. Within the block every other use of the driver raises
            `anyio.BusyResourceError`.

        Raises:
            TypeError, ValueError: if `n` is not a whole number, or less than 1.

        Example:
            >>> async def example(driver: DiskDriver[int]) -> None:
            ...     async with driver.to_channel(512) as chunks:
            ...         async for chunk in chunks:
            ...             for key, size in chunk:
            ...                 print(key, size)
        """
        check_whole("n", n, least=1)
        with self._guard:
            self._ready.hold()
            ready, ending = self._ready, self._ending
            async with walk_ahead(lambda: self._next(n), ready.put_back, ending) as channel:
                yield channel

    async def reset_store(self) -> DiskStore:
        """Empty the store and return it, for the next repo. The driver cannot be used any more.

        Raises:
            StoreClosed: if it was called before, or the store has been closed or has another repo.
            DiskError: if the store cannot be emptied.
        """
        with self._guard:
            lease = self._require_lease()
            # An ended lease will do: a `reset_store` that was cancelled may have ended it.
            lease.check_last()
            store = await lease.store.reset()
            self._lease = None
            self._error = StoreClosed(
                "its driver returned it from reset_store; load the repo again", path=store.path
            )
            self._trace = None
            self._ready.clear()
            return store

    async def aclose(self) -> None:
        """End the walk, and empty the store unless another repo uses it. The store stays open.

        Afterwards the driver raises `StoreClosed`. A cancellation takes effect when it is done.

        Raises:
            anyio.BusyResourceError: if another task is using the driver, or in the block of
                `to_channel`. Nothing is closed then.
        """
        with self._guard:
            lease, self._lease = self._lease, None
            if lease is not None:
                self._error = StoreClosed(
                    "its driver was closed; load the repo again", path=lease.store.path
                )
                self._trace = None
                self._ready.clear()
                await lease.abandon()

    def _require_lease(self) -> Lease:
        if self._lease is None:
            # Without a lease, there is an error that says why.
            raise cast("StoreClosed", self._error).with_traceback(self._trace)
        return self._lease

    async def _supply(
        self, walker: Walker[T], blocks: Blocks[T], n: int, *, records: bool = True
    ) -> None:
        self._require_lease()
        await self._fetcher.fetch(walker, blocks, n, records=records)
