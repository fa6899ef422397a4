"""The driver that walks a repo while its CAR comes in.

It asks for the blocks that the walk needs next, and reads on until they are there. Where they come
in that very order, each is used as it comes; what comes early is kept
(`repo_stream.drivers.incoming`).
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from typing import Any, TypeVar, cast

from repo_stream.car.reader import PIECE_SIZE, CarReader
from repo_stream.car.source import Source
from repo_stream.drivers.base import LAZY_SLICE, RepoDriver
from repo_stream.drivers.incoming import Incoming, Spill
from repo_stream.drivers.loading import Loading
from repo_stream.drivers.options import Options
from repo_stream.drivers.order import BlockOrder
from repo_stream.errors import ProcessError, StoreClosed
from repo_stream.mst.blocks import Blocks
from repo_stream.mst.commit import Commit
from repo_stream.mst.results import Gap, Output, Taken, TreeNode
from repo_stream.mst.walker import Walker
from repo_stream.process import Processor, noop
from repo_stream.store.budget import Budget

__all__ = ["StreamDriver", "streamed"]

D = TypeVar("D", bound="StreamDriver[Any]")
T = TypeVar("T")


class StreamDriver(RepoDriver[T]):
    """Walks a repo while its CAR comes in. `DriverBuilder.stream_car` makes it.

    It has the methods of the other drivers. `get`, `collections`, `prove`, `prove_range` and a
    `seek` to a key behind need the repo as a whole: they read the file to its end and keep what it
    holds, in memory or on disk. To seek a key ahead, keys alone and key ranges need no more memory
    than to walk.

    A cancelled call loses nothing that had come. Whether the source can go on is the source's
    affair: an async generator, such as `aiter_bytes` of httpx, ends when a read is cancelled.
    """

    def __init__(
        self,
        options: Options[T],
        commit: Commit,
        incoming: Incoming[T],
        *,
        drain: bool,
        counting: bool = False,
    ) -> None:
        super().__init__(options, commit, incoming.blocks)
        self._incoming = incoming
        self._drain = drain
        self._counting = counting
        # What was left over of a repo that had been walked to its end before it went to disk.
        self._left_over: int | None = None
        self._walker.opened = incoming.opened
        self._walker.passing = {}

    @property
    def order(self) -> BlockOrder:
        """In which order the blocks have come so far."""
        incoming = self._incoming
        most_early = incoming.most_early if incoming.in_order else max(incoming.most_early, 1)
        return BlockOrder(incoming.in_order, incoming.early, most_early)

    @property
    def spilled(self) -> bool:
        """Whether the repo did not fit in memory and has gone to disk."""
        return self._incoming.spilled

    @property
    def blocks_read(self) -> int:
        """How many blocks of the file have been read so far, copies included."""
        return self._incoming.read

    @property
    def bytes_read(self) -> int:
        """How many bytes of the file have been read so far, up to the end of a block."""
        return self._incoming.offset

    @property
    def left_over(self) -> int | None:
        """How many blocks the walk had no use for; `None` before the file is over.

        It is `None` as well if the repo went to disk before it had been walked to its end.
        """
        incoming = self._incoming
        if not incoming.over or not self._walker.done:
            return None
        return self._left_over if incoming.unused is None else incoming.unused

    async def read_all(self) -> None:
        """Read the file to its end, check what it holds, and keep it, in memory or on disk.

        Raises:
            CarError, CidMismatch, LimitExceeded: if the file cannot be read.
            MemLimitExceeded, DiskError: if what it holds cannot be kept.
        """
        with self._guard:
            await self._gather()

    def _take(self, n: int) -> Taken[T]:
        incoming = self._incoming
        arrivals = incoming.arrivals
        taken: Taken[T] = Taken([], [], [])
        if arrivals.next is None:
            try:
                taken = self._walker.take(self._blocks, n)
            finally:
                incoming.used_kept(taken.cids)
            return taken
        at = arrivals.at
        try:
            taken = self._walker.take_along(arrivals, self._blocks, n)
        finally:
            incoming.used_arrivals(at, taken)
        return taken

    def _take_items(self, n: int) -> list[TreeNode | Output[T]]:
        incoming = self._incoming
        at = incoming.arrivals.at
        records: Taken[T] = Taken([], [], [])
        try:
            items = self._walker.take_items(self._blocks, n, incoming.arrivals)
            outputs = [item for item in items if isinstance(item, Output)]
            records = Taken(
                [output.key for output in outputs],
                [bytes(output.cid) for output in outputs],
                [output.value for output in outputs],
            )
        finally:
            incoming.used_arrivals(at, records)
        return items

    def _take_keys(self, n: int) -> tuple[list[str], list[bytes]]:
        incoming = self._incoming
        at = incoming.arrivals.at
        try:
            keys, cids = self._walker.take_keys(self._blocks, n, incoming.arrivals)
        finally:
            incoming.used_arrivals(at, Taken([], [], []))
        incoming.used_kept([cid for cid in cids if cid in self._blocks])
        self._walker.pass_by([cid for cid in cids if cid not in self._blocks])
        return keys, cids

    async def _supply(
        self, walker: Walker[T], blocks: Blocks[T], n: int, *, records: bool = True
    ) -> None:
        """Read on until the block is there that the walk stands before."""
        incoming = self._incoming
        await incoming.move_on()
        if walker is not self._walker or incoming.spilled:
            if not self._options.block_processor.keeps_bytes:
                self._slice = LAZY_SLICE
            await incoming.bring(walker, blocks, n, records=records)
            return
        nearest = walker.nearest()
        walker.want(nearest)
        looked = False
        while nearest not in blocks and incoming.arrivals.next != nearest:
            await incoming.pause()
            if incoming.arrivals.next is None:
                if await incoming.read_on():
                    continue
                await self._find_again(walker)
                return
            if incoming.let_pass(walker):
                continue
            if not looked and await incoming.recall(walker):
                return
            looked = True
            incoming.in_order = False
            if not await incoming.keep_arrivals(walker):
                return

    async def _find_again(self, walker: Walker[T]) -> None:
        """Keep the block again that the walk stands before, now that the file is over."""
        if not await self._incoming.recall(walker):
            raise self._incoming.gone(walker)

    async def _end(self) -> None:
        if self._drain:
            everything = self._options.key_ranges.everything and not self._walker.left_out
            await self._incoming.drain(keep=not everything)

    async def _go_to(self, key: bytes) -> None:
        ahead = self._ahead.keys
        reached = ahead[self._given - 1] if self._given else None
        gaps = self._options.gaps and any(isinstance(value, Gap) for value in self._ahead.values)
        if (
            self._error is None
            and not gaps  # those of subtrees have no key to look for
            and reached is not None
            and reached.encode() < key <= ahead[-1].encode()
        ):
            self._given = bisect_left(ahead, key, self._given, key=str.encode)
            return
        error = self._error
        of_record = isinstance(error, ProcessError) and error.key is not None
        if (error is None or of_record) and self._walker.has_ahead(key):
            self._walker.skip_to(key)
        else:
            await self._gather()
            self._walker.seek(key)
        self._forget_taken()

    async def _gather(self) -> None:
        if isinstance(self._error, StoreClosed):
            raise self._error.with_traceback(self._trace)
        if self._left_over is None and not self._walker.left_out:
            self._left_over = self.left_over
        await self._incoming.settle()

    def _own_blocks(self) -> Blocks[T]:
        if self._incoming.spilled:
            return Blocks[T].empty(alike=self._options.block_processor.keeps_bytes)
        return self._blocks

    async def aclose(self) -> None:
        """Leave the walk, and close what was opened for it. Afterwards it raises `StoreClosed`."""
        self._error = StoreClosed("its CAR is no longer read", path=None)
        self._forget_taken()
        await self._incoming.aclose()


@asynccontextmanager
async def streamed(
    options: Options[T],
    source: Source,
    spill: Spill,
    *,
    drain: bool,
    counting: bool = False,
    kind: Callable[..., D],
) -> AsyncGenerator[D]:
    """Open a CAR to walk it while it comes in; see `DriverBuilder.stream_car`.

    Args:
        options: how to read it.
        source: see `Source`.
        spill: where blocks go that do not fit in memory.
        drain: read the file to its end when the walk is over.
        counting: count also what is left over of a repo that has gone to disk.
        kind: the driver to make, a `StreamDriver`.
    """
    reader = await CarReader.open(
        source,
        limits=options.limits,
        verify_cids=options.verify_cids,
        piece_size=min(2 * Budget.of(options.mem_limit_mb).piece, PIECE_SIZE),
        rereadable=True,
    )
    try:
        # Late, blocks are kept as they are, and only the walk knows the results' type.
        late = options.processes_late
        kept = cast("Processor[T]", Processor(noop)) if late else options.block_processor
        loading = Loading(reader, kept)
        incoming = Incoming(
            loading, options.block_processor, options.mem_limit_mb, spill, counting=counting
        )
        try:
            commit = await incoming.commit()
            driver = kind(options, commit, incoming, drain=drain, counting=counting)
            try:
                yield driver
            finally:
                await driver.aclose()
        finally:
            await incoming.aclose()
    finally:
        await reader.aclose()
