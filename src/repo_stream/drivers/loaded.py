"""Drivers of repos that have been loaded: in memory, or on disk."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Mapping
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, TypeVar

import anyio

from repo_stream.drivers.base import DEFAULT_CHUNK, LAZY_SLICE, RepoDriver
from repo_stream.drivers.channel import Channel
from repo_stream.drivers.fetch import Shelf
from repo_stream.drivers.loading import Unstored
from repo_stream.drivers.options import Options
from repo_stream.errors import RepoStreamError, StoreClosed
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

    With the store, by `aclose` and `reset_store` as well, the file is closed.
    """

    def __init__(
        self,
        options: Options[T],
        commit: Commit,
        log: RepoLog,
        lease: Lease,
        unstored: Mapping[bytes, Unstored],
    ) -> None:
        processor = options.block_processor
        self._alike = processor.keeps_bytes
        super().__init__(options, commit, self._own_blocks())
        if not self._alike:
            self._slice = LAZY_SLICE
        self._lease: Lease | None = lease
        self._shelf: Shelf[T] = Shelf(log, processor, unstored)

    def _own_blocks(self) -> Blocks[T]:
        return Blocks[T].empty(alike=self._alike)

    @asynccontextmanager
    async def to_channel(self, n: int = DEFAULT_CHUNK) -> AsyncGenerator[Channel[T]]:
        """Walk ahead in a task of its own while the caller works on the chunk before.

        Args:
            n: the most records a chunk may have.

        Yields:
            An async iterable of chunks, as `next_chunk(n)` gives them. It raises what `next_chunk`
            would raise. At most one chunk is ready beyond the one that the walk is working on; what
            has not been taken when the block is left comes from the driver again. Until then every
            other use of the driver is an `anyio.BusyResourceError`.

        Raises:
            ValueError: where `n` is less than 1.

        Example:
            >>> async def example(driver: DiskDriver[int]) -> None:
            ...     async with driver.to_channel(512) as chunks:
            ...         async for chunk in chunks:
            ...             for key, size in chunk:
            ...                 print(key, size)
        """
        if n < 1:
            raise ValueError(f"a chunk has at least 1 record, not {n}")
        channel: Channel[T] = Channel()
        failure: BaseException | None = None

        async def fill() -> None:
            nonlocal failure
            try:
                await self._fill(channel, n)
            except KeyboardInterrupt as error:  # trio raises it in whichever task is at work
                failure = error
                tasks.cancel_scope.cancel()

        with self._guard:
            try:
                async with anyio.create_task_group() as tasks:
                    tasks.start_soon(fill)
                    try:
                        yield channel
                    except anyio.get_cancelled_exc_class():
                        raise
                    except BaseException as error:  # noqa: BLE001 - raised again below
                        # Out of the task group's reach, which would wrap it.
                        failure = error
                    tasks.cancel_scope.cancel()
            finally:
                self._take_back(channel.close())
        if failure is not None:
            raise failure

    async def _fill(self, channel: Channel[T], n: int) -> None:
        try:
            while (taken := await self._next_unguarded(n)) is not None:
                # Nothing is awaited between taking and putting, so no cancellation can come
                # between.
                channel.put(taken)
                await channel.room()
            channel.end(None)
        except (RepoStreamError, OSError) as error:  # what reading the CAR again may raise
            channel.end(error)

    async def reset_store(self) -> DiskStore:
        """Empty the store and hand it back, for the next repo. The driver is at its end with it.

        Raises:
            StoreClosed: where it was called before, or the store has been closed.
            DiskError: where the store cannot be emptied.
        """
        with self._guard:
            store = self._require_lease().store
            await store.reset()
            self._lease = None
            self._error = StoreClosed("its driver handed it on with reset_store", path=store.path)
            self._forget_taken()
            return store

    async def aclose(self) -> None:
        """Leave the walk: empty the store, unless another repo has it by now. The store stays open.

        Afterwards the driver raises `StoreClosed`. A cancellation waits until it is done.
        """
        lease, self._lease = self._lease, None
        if lease is not None:
            self._error = StoreClosed("its driver has been closed", path=lease.store.path)
            self._forget_taken()
            await lease.abandon()

    def _require_lease(self) -> Lease:
        if self._lease is None:
            raise StoreClosed("its driver handed it on with reset_store", path=None)
        return self._lease

    async def _supply(
        self, walker: Walker[T], blocks: Blocks[T], n: int, *, records: bool = True
    ) -> None:
        self._require_lease()
        await self._shelf.bring(walker, blocks, n, records=records)
