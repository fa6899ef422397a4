"""The driver that walks a repo while its CAR is read.

It reads on until the block that the walk needs next has come (`_supply`). Blocks are used as they
come, if they come in the order of the walk; see `incoming`.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from typing import Any, TypeVar

from repo_stream.car.damage import DamageLog
from repo_stream.car.reader import PIECE_SIZE, BlockReader, CarReader
from repo_stream.car.source import Source
from repo_stream.drivers.backlog import columns_of
from repo_stream.drivers.base import LAZY_SLICE, RepoDriver
from repo_stream.drivers.incoming import Incoming
from repo_stream.drivers.joined import JoinedReader
from repo_stream.drivers.keywords import Spill
from repo_stream.drivers.loading import Loading
from repo_stream.drivers.options import Options
from repo_stream.drivers.order import BlockOrder
from repo_stream.drivers.spilling import Kept
from repo_stream.errors import ProcessError, StoreClosed, UncheckableBlock
from repo_stream.mst.blocks import Blocks
from repo_stream.mst.commit import Commit
from repo_stream.mst.results import Output, Taken, TreeNode
from repo_stream.mst.walker import Walker
from repo_stream.store.budget import Budget

__all__ = ["StreamDriver", "piece_size", "streamed"]

D = TypeVar("D", bound="StreamDriver[Any]")  # Any: of whatever results
T = TypeVar("T")


class StreamDriver(RepoDriver[T]):
    """Walks a repo while its CAR is read. `DriverBuilder.stream_car` makes it.

    It has the methods of the other drivers. `get`, `collections`, `prove`, `prove_range` and a
    `seek` back need the whole repo: they read the file to its end and keep its blocks, in memory or
    on disk. A `seek` forward, key ranges and `next_keys` need no more memory than a walk.

    If a call is cancelled, nothing that was read is lost. Whether the source can be read on depends
    on the source: an async generator, such as `aiter_bytes` of httpx, ends if it is cancelled.
    """

    def __init__(
        self,
        options: Options[T],
        commit: Commit,
        incoming: Incoming[T],
        kept: Kept[T],
        *,
        drain: bool,
    ) -> None:
        super().__init__(options, commit, kept.blocks, kept.damages)
        self._incoming = incoming
        self._kept = kept
        self._drain = drain
        # `left_over`, if the walk had ended before the repo went to disk.
        self._left_over: int | None = None
        self._walker.opened = kept.opened
        self._walker.passing = {}

    @property
    def order(self) -> BlockOrder:
        """In which order the blocks have come so far."""
        order = self._incoming.order
        most_early = order.most_early if order.in_order else max(order.most_early, 1)
        return BlockOrder(order.in_order, self._kept.early, most_early)

    @property
    def spilled(self) -> bool:
        """Whether the repo did not fit in memory and has gone to disk."""
        return self._kept.on_disk

    @property
    def in_place(self) -> bool:
        """Whether blocks are read again in the CAR's own file if they do not fit in memory.

        It must be the path of a regular file that is not compressed. From all other sources, blocks
        are copied.
        """
        return self._kept.in_place

    @property
    def blocks_read(self) -> int:
        """How many blocks of the file have been read so far, counting every copy."""
        return self._incoming.blocks

    @property
    def blocks_unchecked(self) -> int:
        """How many of them could not be checked against their CIDs, and so were left out.

        The hash functions of their CIDs are not known here. If the tree names one of them, that is
        an `UncheckableBlock`.
        """
        return self._incoming.unchecked

    @property
    def bytes_read(self) -> int:
        """How many bytes of the file have been read so far, up to the end of a block."""
        return self._incoming.offset

    @property
    def fully_read(self) -> bool:
        """Whether the file has been read to its end."""
        return self._incoming.over

    @property
    def left_over(self) -> int | None:
        """How many blocks the walk did not need; `None` until the file has been read to its end.

        It is also `None` if the repo went to disk before the walk had ended.
        """
        incoming = self._incoming
        if not incoming.over or not self._walker.done:
            return None
        return self._left_over if incoming.unused is None else incoming.unused

    async def read_all(self) -> None:
        """Read the file to its end, check its blocks, and keep them, in memory or on disk.

        Raises:
            CarError, CidMismatch, LimitExceeded: if the file cannot be read.
            MemLimitExceeded, DiskError: if its blocks cannot be kept.
        """
        with self._guard:
            await self._gather()

    # --- Taking from the piece, and from memory -------------------------------------------------

    def _take(self, n: int) -> Taken[T]:
        incoming = self._incoming
        arrivals = incoming.arrivals
        taken = self._ready.coming
        if arrivals.next is None:
            try:
                return self._walker.take(self._blocks, n, taken)
            finally:
                incoming.used_kept(taken.cids)
        try:
            return self._walker.take_along(arrivals, self._blocks, n, taken)
        finally:
            incoming.used_arrivals(taken)

    def _take_items(self, n: int) -> list[TreeNode | Output[T]]:
        incoming = self._incoming
        records: Taken[T] = Taken([], [], [])
        try:
            items = self._walker.take_items(self._blocks, n, incoming.arrivals)
            records = columns_of(items)
        finally:
            incoming.used_arrivals(records)
        return items

    def _take_keys(self, n: int) -> tuple[list[str], list[bytes]]:
        incoming = self._incoming
        try:
            keys, cids = self._walker.take_keys(self._blocks, n, incoming.arrivals)
        finally:
            incoming.used_arrivals(Taken([], [], []))
        incoming.used_kept([cid for cid in cids if cid in self._blocks])
        self._walker.pass_by([cid for cid in cids if cid not in self._blocks])
        return keys, cids

    # --- Reading on -----------------------------------------------------------------------------

    async def _supply(
        self, walker: Walker[T], blocks: Blocks[T], n: int, *, records: bool = True
    ) -> None:
        kept = self._kept
        self._incoming.catch_up()
        await kept.resume()
        if walker is not self._walker or kept.on_disk:
            if not self._options.block_processor.keeps_bytes:
                self._slice = LAZY_SLICE
            await kept.fetch(walker, blocks, n, records=records)
        else:
            await self._read_as_far_as_needed()

    async def _read_as_far_as_needed(self) -> None:
        """Read until the block that the walk needs is the next of the piece, or is kept."""
        walker, incoming = self._walker, self._incoming
        nearest = walker.nearest()
        walker.want(nearest)
        searched = False
        while nearest not in self._blocks and incoming.arrivals.next != nearest:
            await incoming.pause()
            if incoming.arrivals.next is None:
                if not await incoming.read_on(nearest):
                    await self._recall_at_end()
                    return
            elif not incoming.let_pass(walker):
                # Another block comes first. The one that is needed may have been released before,
                # if two keys name one record; else it comes later.
                if not searched and await self._kept.recall(walker):
                    return
                searched = True
                incoming.order.in_order = False
                if not await incoming.keep_arrivals(walker):
                    return

    async def _recall_at_end(self) -> None:
        """Keep a released block again; if it is not one, it is missing."""
        if not await self._kept.recall(self._walker):
            raise self._kept.gone(self._walker)

    async def _end(self) -> None:
        self._incoming.catch_up()
        if self._drain:
            everything = self._options.key_ranges.everything and not self._walker.left_out
            await self._incoming.drain(keep=not everything)

    # --- Going elsewhere ------------------------------------------------------------------------

    def _keep_repaired(self, blocks: Blocks[T], cid: bytes, data: bytes) -> None:
        if blocks is self._kept.blocks and not self._kept.on_disk:
            self._kept.keep_raw(cid, data)
        else:
            super()._keep_repaired(blocks, cid, data)

    async def _go_to(self, key: bytes) -> None:
        if self._error is None and self._ready.skip_to(key):
            return
        error = self._error
        # The error of a record, without which the walk goes on as if it were not there.
        of_record = isinstance(error, (ProcessError, UncheckableBlock)) and error.key is not None
        if (error is None or of_record) and self._walker.has_ahead(key):
            self._walker.skip_to(key)
        else:
            await self._gather()
            self._walker.seek(key)
        self._ready.clear()

    async def _gather(self) -> None:
        if isinstance(self._error, StoreClosed):
            raise self._error.with_traceback(self._trace)
        self._incoming.catch_up()
        if self._left_over is None and not self._walker.left_out:
            self._left_over = self.left_over
        await self._incoming.settle()

    def _own_blocks(self) -> Blocks[T]:
        if self._kept.on_disk:
            return Blocks[T].empty(alike=self._options.block_processor.keeps_bytes)
        return self._blocks

    async def aclose(self) -> None:
        """End the walk, and close what was opened for it. Afterwards it raises `StoreClosed`."""
        self._error, self._trace = StoreClosed.of_repo(), None
        self._ready.clear()
        await self._kept.aclose()


def piece_size(mem_limit_mb: float) -> int:
    """Return how much of a source to read at a time, in bytes, within a memory limit."""
    return min(2 * Budget.of(mem_limit_mb).piece, PIECE_SIZE)


@asynccontextmanager
async def streamed(
    options: Options[T],
    source: Source | JoinedReader,
    spill: Spill,
    *,
    drain: bool,
    counting: bool = False,
    kind: Callable[..., D],
) -> AsyncGenerator[D]:
    """Open a CAR to walk it while it is read; see `DriverBuilder.stream_car`.

    Args:
        options: how to read it.
        source: see `Source`; or a reader of several sources, which is closed at the end.
        spill: where blocks go that do not fit in memory.
        drain: read the file to its end when the walk is over.
        counting: make `left_over` right also if the repo has gone to disk.
        kind: the driver to make, a `StreamDriver`.
    """
    reader: BlockReader
    damages: DamageLog | None = None
    if isinstance(source, JoinedReader):
        reader = source
    else:
        reader = await CarReader.open(
            source,
            limits=options.limits,
            verify_cids=options.verify_cids,
            piece_size=piece_size(options.mem_limit_mb),
            rereadable=True,
            past_damage=options.past_damage,
        )
        damages = reader.damages if options.past_damage else None
    try:
        loading = Loading(
            reader, options.block_processor, late=options.processes_late, damages=damages
        )
        kept = Kept(loading, options.mem_limit_mb, spill, counting=counting)
        try:
            incoming = Incoming(loading, kept)
            commit = await incoming.commit()
            driver = kind(options, commit, incoming, kept, drain=drain)
            try:
                yield driver
            finally:
                await driver.aclose()
        finally:
            await kept.aclose()
    finally:
        await reader.aclose()
