"""Writing a CAR again in streamable order, in which it can be read in the least memory.

The atproto specification defines the order: the commit, then each node before what is below it, and
each record where its key comes (https://atproto.com/specs/repository#car-file-serialization). A
`StreamDriver` returns nodes and records in just this order (`next_items`), so each is written as it
comes.
"""

from __future__ import annotations

# `takes` fills in every keyword.
# pyright: reportTypedDictNotRequiredAccess=false
from collections.abc import AsyncGenerator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Final, Self, Unpack

import anyio

from repo_stream.car.decoder import Block
from repo_stream.car.encoder import write_header, write_section
from repo_stream.car.source import Source, check_source
from repo_stream.drivers.base import some_items_of
from repo_stream.drivers.builder import DriverBuilder
from repo_stream.drivers.destination import check_spill
from repo_stream.drivers.keywords import OrderKeywords, Spill, takes
from repo_stream.drivers.order import BlockOrder
from repo_stream.drivers.stream import StreamDriver, streamed
from repo_stream.errors import AlreadyWalked, LimitExceeded, RepoStreamError
from repo_stream.limits import KIB, Limits
from repo_stream.mst.commit import Commit
from repo_stream.mst.results import Gap, TreeNode

__all__ = ["OrderedCar", "order_car"]


# A piece is returned when it has so many bytes.
_PIECE: Final = 256 * KIB
# The most blocks to take from the walk at a time. Each can have 2 MiB, and more are not faster.
_ITEMS: Final = 32


class OrderedCar:
    """A CAR in streamable order: an async iterator over its pieces.

    `order_car` makes it, and `join_cars`, whose input is several CARs.

    If a call is cancelled, nothing is lost, and the next call returns the piece. If an error is
    raised, every further call raises it again. It is written once: a loop that begins after the end
    raises `AlreadyWalked`.

    Attributes:
        commit: the repo's commit. Its signature has not been checked.
        blocks_written: how many blocks are in the pieces so far and in the next one.
        bytes_written: how many bytes they have, with the header.
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
        # Whether the end has been returned.
        self._over = False
        self._error: RepoStreamError | None = None
        self._put(write_header([commit.cid]))
        self._waiting.append((commit.cid, commit.block))

    @property
    def blocks_read(self) -> int:
        """How many blocks of the input have been read so far, counting every copy."""
        return self._driver.blocks_read

    @property
    def bytes_read(self) -> int:
        """How many bytes of the input have been read so far, up to the end of a block."""
        return self._driver.bytes_read

    @property
    def fully_read(self) -> bool:
        """Whether the input has been read to its end."""
        return self._driver.fully_read

    @property
    def dropped(self) -> int | None:
        """How many blocks of the input were not used; `None` until it has been read to its end.

        They are blocks that the repo does not need, and copies. If several keys name a record, it
        is written for each of them. A copy in the input that does not come where such a key comes
        counts as dropped, although the record is written there.
        """
        return self._driver.left_over

    @property
    def order(self) -> BlockOrder:
        """In which order the blocks of the input have come so far."""
        return self._driver.order

    @property
    def in_place(self) -> bool:
        """Whether blocks are read again in the input's own file; see `StreamDriver.in_place`."""
        return self._driver.in_place

    @property
    def spilled(self) -> bool:
        """Whether the repo did not fit in memory and has gone to disk."""
        return self._driver.spilled

    def __aiter__(self) -> Self:
        if self._over:
            raise AlreadyWalked(can_seek=False)
        return self

    async def __anext__(self) -> bytes:
        """Return the next piece: 256 KiB and up to a block more, or what is left.

        The last piece is returned when the input has been read and checked to its end.

        Raises:
            CarError, CidMismatch, NodeError, MissingBlock, MemLimitExceeded, DiskError: if the
                input cannot be read.
            LimitExceeded: if the input or the output exceeds one of the limits.
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
                self._over = True
                raise StopAsyncIteration
            piece = b"".join(self._parts)
            self._parts, self._size = [], 0
            return piece

    async def _take_more(self) -> bool:
        """Take the next items of the tree; return whether there were any."""
        items = await some_items_of(self._driver, _ITEMS)
        for item in items or ():
            if not isinstance(item, Gap):  # the builder has no gaps
                data = item.data if isinstance(item, TreeNode) else item.value
                self._waiting.append((item.cid, data))
        return items is not None

    def _write(self) -> None:
        """Write blocks until the piece is full."""
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
        """Raise `LimitExceeded` if what has been written exceeds a limit."""
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


@takes(OrderKeywords)
def order_car(
    source: Source, **keywords: Unpack[OrderKeywords]
) -> AbstractAsyncContextManager[OrderedCar]:
    """Write a CAR again in streamable order, so that it can be read in little memory.

    The atproto specification defines the order: a header with one root; the commit; then each node
    before what is below it, in key order, and each record where its key comes. Blocks are not
    changed. Blocks that the repo does not need are left out. The output depends on the repo alone,
    and not on the order of the input, its copies or the memory limit. If the input is in this order
    already, no block has to be kept. Else blocks that come early are kept in memory, and if they
    exceed `mem_limit_mb`, the repo goes to disk.

    If several keys name a record, it is written for each of them. So a reader can drop every block
    when it has used it, and neither side has to remember which records there have been, which would
    take memory that grows with the repo. But the file can grow, and its author can make it grow on
    purpose: `Limits.repeated_bytes` limits that. `Limits.car_bytes` and `Limits.blocks` apply to
    the output as well, so a reader with these limits can read both.

    Args:
        source: see `Source`. It is not closed; only the file of a path is opened and closed here.
        **keywords: with their defaults

            - `mem_limit_mb=16`: how much memory the blocks may take before they go to disk, in MiB.
            - `spill=None`: where they go: the path of a database, which is emptied before and
              after; a `DiskStore`, which is empty again at the end and stays open; `None`, a
              temporary file; or `False`, nowhere.
            - `verify_cids=True`: check every block against its CID.
            - `limits=None`: limits on the input and the output; `None` is `Limits()`.

    Returns:
        A context manager that returns the `OrderedCar`. Entering it reads the input as far as its
        commit.

    Raises:
        CarError, CidMismatch, LimitExceeded: if the file cannot be read.
        CommitError: if its commit is missing or not valid; see `NothingNew`.
        MemLimitExceeded: if the blocks before the commit exceed the limit, and `spill` is `False`.
        DiskError: if the store fails.
        OSError: if `source` is a path that cannot be opened or read.
        TypeError: if `source` is not a supported source, if `spill` is of the wrong type, or if
            there is no such keyword.

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
        mem_limit_mb=keywords["mem_limit_mb"],
        verify_cids=keywords["verify_cids"],
        limits=keywords["limits"],
    )
    check_source(source)
    check_spill(keywords["spill"])
    return _ordered(builder, source, keywords["spill"])


@asynccontextmanager
async def _ordered(
    builder: DriverBuilder[bytes], source: Source, spill: Spill
) -> AsyncGenerator[OrderedCar]:
    async with streamed(
        builder, source, spill, drain=True, counting=True, kind=StreamDriver[bytes]
    ) as driver:
        yield OrderedCar(driver.commit, driver, builder.limits)
