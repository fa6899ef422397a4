"""A CAR written anew, in the order in which it can be read in the least memory.

The atproto specification calls it the streamable order: the commit, then each node before what is
below it, and each record where its key comes. It is the order in which the driver of
`repo_stream.drivers.stream` gives nodes and records, so that what is written is what was walked.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Final, Self

import anyio

from repo_stream.car.decoder import Block, write_header, write_section
from repo_stream.car.source import Source
from repo_stream.drivers.builder import DriverBuilder
from repo_stream.drivers.incoming import Spill
from repo_stream.drivers.order import BlockOrder
from repo_stream.drivers.stream import StreamDriver, streamed
from repo_stream.errors import LimitExceeded, RepoStreamError
from repo_stream.limits import KIB, Limits
from repo_stream.mst.commit import Commit
from repo_stream.mst.results import Gap, TreeNode

__all__ = ["OrderedCar", "order_car"]


# A piece is given out as soon as it has so many bytes.
_PIECE: Final = 256 * KIB
# Blocks that are asked for at a time. Each can have 2 MiB, and none is faster with more.
_ITEMS: Final = 32


class OrderedCar:
    """A CAR in streamable order, in pieces; `order_car` makes it. Iterate over it to have it made.

    A call that was cancelled loses nothing: the piece comes again. Errors stick.

    Attributes:
        commit: the repo's commit. Its signature has not been checked.
        blocks_written: blocks in the pieces so far, and in the one that is being made.
        bytes_written: their bytes, the header's included.
    """

    def __init__(self, commit: Commit, driver: StreamDriver[bytes], limits: Limits) -> None:
        self.commit: Commit = commit
        self.blocks_written: int = 0
        self.bytes_written: int = 0
        self._driver = driver
        self._limits = limits
        self._guard = anyio.ResourceGuard("ordering this CAR with")
        self._waiting: list[Block] = []
        self._parts: list[bytes] = []
        self._size = 0
        self._ended = False
        self._error: RepoStreamError | None = None
        self._put(write_header([commit.cid]))
        self._waiting.append((commit.cid, commit.block))

    @property
    def blocks_read(self) -> int:
        """Blocks of the input that have been read so far, copies included."""
        return self._driver.blocks_read

    @property
    def bytes_read(self) -> int:
        """Bytes of the input that have been read so far, up to the end of a block."""
        return self._driver.bytes_read

    @property
    def dropped(self) -> int | None:
        """Blocks of the input that are not in the output; `None` before the input is over.

        They are those that the repo does not need, and copies. Where several keys name a record
        and the input has copies of it, too, a copy that did not come where a key needed it counts
        as dropped, although the record is written again: `blocks_read - dropped` were used.
        """
        return self._driver.left_over

    @property
    def order(self) -> BlockOrder:
        """In which order the blocks of the input have come so far."""
        return self._driver.order

    @property
    def spilled(self) -> bool:
        """Whether the repo did not fit in memory and has gone to disk."""
        return self._driver.spilled

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> bytes:
        """Give the next piece: 256 KiB and up to a block more, or what is left.

        The last piece comes once the input has been read and checked to its end.

        Raises:
            CarError, CidMismatch, NodeError, MissingBlock, MemLimitExceeded, DiskError: where the
                input cannot be read on.
            LimitExceeded: where the input, or what is written, is over one of the limits.
        """
        with self._guard:
            if self._error is not None:
                raise self._error
            while self._size < _PIECE and not self._ended:
                if self._waiting:
                    self._write()
                else:
                    self._ended = not await self._take_more()
            if not self._parts:
                raise StopAsyncIteration
            piece = b"".join(self._parts)
            self._parts, self._size = [], 0
            return piece

    async def _take_more(self) -> bool:
        """Take what comes next in the tree; say whether there was anything."""
        items = await self._driver.next_items(_ITEMS)
        for item in items or ():
            if not isinstance(item, Gap):  # the builder makes none
                data = item.data if isinstance(item, TreeNode) else item.value
                self._waiting.append((item.cid, data))
        return items is not None

    def _write(self) -> None:
        """Write what was taken, until the piece is full."""
        done = 0
        try:
            for cid, data in self._waiting:
                if self._size >= _PIECE:
                    break
                section = write_section(cid, data)
                self._put(*section)
                self.blocks_written += 1
                done += 1
        finally:
            del self._waiting[:done]
        self._check()

    def _put(self, *parts: bytes) -> None:
        size = sum(map(len, parts))
        self._parts += parts
        self._size += size
        self.bytes_written += size

    def _check(self) -> None:
        """Raise an error where what is written is too much."""
        limits = self._limits
        for limit, maximum, actual, where in (
            ("car_bytes", limits.car_bytes, self.bytes_written, "the CAR that is written"),
            ("blocks", limits.blocks, self.blocks_written, "the blocks of the CAR that is written"),
            (
                "repeated_bytes",
                limits.repeated_bytes,
                self.bytes_written - self._driver.bytes_read,
                "the records that are written again",
            ),
        ):
            if maximum is not None and actual > maximum:
                self._error = LimitExceeded(
                    limit=limit, maximum=maximum, actual=actual, where=where
                )
                raise self._error


def order_car(
    source: Source,
    *,
    mem_limit_mb: float = 16,
    spill: Spill = None,
    verify_cids: bool = True,
    limits: Limits | None = None,
) -> AbstractAsyncContextManager[OrderedCar]:
    """Write a CAR anew in streamable order, so that readers need little memory for it.

    That is the order of the atproto specification: a header with the one root; the commit; and then
    each node before what is below it, in key order, and each record where its key comes. Blocks
    stay as they are, byte for byte. What the repo does not need is left out. The output depends on
    the repo alone, whatever the order of the input, its copies, and the memory limit. From an input
    that is in that order already nothing is kept; of any other, blocks that come early are kept in
    memory, and beyond `mem_limit_mb` the repo goes to disk.

    A record that several keys name is written at each of them. So whoever reads the output can let
    go of every block at once, and nobody has to remember, here or there, which records there have
    been: that would take memory that grows with the repo. The price is that a file can grow, and
    that a stranger can make it: `Limits.repeated_bytes` says by how much. The output keeps to
    `Limits.car_bytes` and `Limits.blocks`, too, so that it can be read where the input was.

    Args:
        source: see `Source`. It stays the caller's; only a path's file is opened and closed here.
        mem_limit_mb: how much memory the blocks may take before they go to disk, in MiB.
        spill: where they go: the path of a database, which is emptied before and after; a
            `DiskStore`, which is empty again at the end and stays open; `None`, a temporary file;
            or `False`, nowhere.
        verify_cids: check every block against its CID.
        limits: bounds on what strangers may send, and on what is written for them.

    Returns:
        A context manager that gives the `OrderedCar`. Entering it reads the input as far as its
        commit.

    Raises:
        CarError, CidMismatch, LimitExceeded: where the file cannot be read.
        CommitError: where its commit is missing or not valid.
        MemLimitExceeded: where what comes before the commit fills the memory, and `spill` is
            `False`.
        DiskError: where the store fails.
        TypeError: where the source is none.

    Example:
        >>> async def ordered(source: Source) -> bytes:
        ...     async with order_car(source) as car:
        ...         return b"".join([piece async for piece in car])
        >>> from repo_stream.testing import build_repo
        >>> repo = build_repo({"app.bsky.feed.post/3k2": {"text": "hi"}})
        >>> anyio.run(ordered, repo.to_car(order="shuffled")) == repo.to_car(order="stream")
        True
    """
    builder = DriverBuilder(
        mem_limit_mb=mem_limit_mb,
        verify_cids=verify_cids,
        limits=limits if limits is not None else Limits(),
    )
    return _ordered(builder, source, spill)


@asynccontextmanager
async def _ordered(
    builder: DriverBuilder[bytes], source: Source, spill: Spill
) -> AsyncGenerator[OrderedCar]:
    async with streamed(
        builder, source, spill, drain=True, counting=True, kind=StreamDriver[bytes]
    ) as driver:
        yield OrderedCar(driver.commit, driver, builder.limits)
