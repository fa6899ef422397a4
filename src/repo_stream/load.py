"""A repo on its way in: from the source to memory, and from there to disk.

The blocks of a CAR go into a memory store, all but the commit, until the file is over or the store
needs all that the limit leaves it. What is over the limit spills: the memory store becomes the
buffer of one write, and is emptied into the disk store whenever it is full. Only of a file that can
be read again the places of its blocks are noted instead, and what is in memory is let go.
"""

from __future__ import annotations

import sys
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from functools import lru_cache
from itertools import compress
from time import perf_counter
from typing import TYPE_CHECKING, Final, Generic, NamedTuple, TypeVar

from anyio.lowlevel import checkpoint

from repo_stream.car import Block, Columns
from repo_stream.cid import Cid
from repo_stream.errors import BadRoot, MissingCommit, MissingRoot, ProcessError
from repo_stream.in_place import InPlace
from repo_stream.limits import MIB
from repo_stream.memory import MemoryStore
from repo_stream.mst import Commit
from repo_stream.places import Places, has_room_for
from repo_stream.process import Processor, as_bytes
from repo_stream.reader import PIECE_SIZE, CarReader

if TYPE_CHECKING:
    from repo_stream.disk import DiskStore

__all__ = [
    "BATCH",
    "WRITE_BLOCKS",
    "WRITE_BYTES",
    "Budget",
    "Loading",
    "Turn",
    "Unstored",
    "link",
    "root_of",
    "spill",
]

T = TypeVar("T")

# How long a task may work before others get their turn, in seconds.
_TURN: Final = 0.010
#: Blocks that are processed between two looks at the clock. Whoever processes them may take long
#: for each; and no load gets faster with more.
BATCH: Final = 128

# Results that cannot be stored, for blocks that may be nobody's records. With more of them, it is
# the processor whose results cannot be.
_MOST_UNSTORED: Final = 100

# Blocks whose places are noted between two looks at the clock, in a millisecond.
_NOTED: Final = 512

#: What goes to disk with one write: up to so many blocks, and bytes, unless the last has more.
WRITE_BYTES: Final = MIB
WRITE_BLOCKS: Final = 4000


class Turn:
    """Says when a task has worked for long enough without letting others."""

    def __init__(self) -> None:
        self._began = perf_counter()

    async def pause_if_over(self) -> None:
        """Let other tasks work, where this one has worked for long enough."""
        if perf_counter() - self._began > _TURN:
            await checkpoint()
            self._began = perf_counter()


class Budget(NamedTuple):
    """How a memory limit is shared out, in bytes.

    Attributes:
        piece: what is read from the source at a time.
        cache: what SQLite may keep in memory.
        released: what blocks may cost that a walk has let go of, before they go to disk.
        places: what the places of blocks in a file may cost, before they go to disk.
        store: what the blocks in memory may cost. At the moment when that is reached, a piece is at
            hand three times (as it was read, joined to what was left, and cut into blocks), and a
            cache and a write are about to be needed; the limit has to hold for all of them.
    """

    piece: int
    cache: int
    released: int
    places: int
    store: int

    @classmethod
    @lru_cache(maxsize=8)  # whoever reads many small repos has them all within one limit
    def of(cls, mem_limit_mb: float) -> Budget:
        """Share out a limit given in MiB."""
        limit = int(min(mem_limit_mb * MIB, sys.maxsize))
        piece = min(max(limit // 64, MIB // 16), PIECE_SIZE)
        cache = min(max(limit // 16, MIB // 4), 2 * MIB)
        released = min(max(limit // 16, MIB // 16), MIB // 2)
        store = max(limit - 3 * piece - cache - WRITE_BYTES, limit // 2)
        # What the store leaves behind is in pieces: with half of it for places, a million records
        # grew by 19 MiB at a limit of 16. Empty, they take one.
        places = max(store * 2 // 5, MIB * 5 // 4)
        return cls(piece, cache, released, places, store)


class Unstored(NamedTuple):
    """Why a result is not on disk.

    Attributes:
        message: for people.
        cause: what was raised.
    """

    message: str
    cause: Exception


def root_of(reader: CarReader) -> Cid:
    """Give the CID of a repo's commit.

    Raises:
        MissingRoot, BadRoot: where the header names no commit.
    """
    roots = reader.header.roots
    if not roots:
        raise MissingRoot
    if not roots[0].is_ordinary:
        raise BadRoot(cid=roots[0])
    return roots[0]


class Loading(Generic[T]):
    """A CAR on its way in: the commit is picked out, everything else goes to a memory store.

    Args:
        reader: gives the blocks.
        processor: what to make of them.

    Raises:
        MissingRoot, BadRoot: where the header names no commit.
    """

    def __init__(self, reader: CarReader, processor: Processor[T]) -> None:
        self.processor = processor
        self.store: MemoryStore[T] = MemoryStore(processor)
        self.commit: Commit | None = None
        #: Whether the commit came first, and how many blocks of its piece came before it.
        self.commit_first: bool = False
        self.before_commit: int = 0
        # It matters only if the walk needs them, so a few are put up with.
        self.unstored: dict[bytes, Unstored] = {}
        self._root = root_of(reader)
        self._reader = reader
        self._handed_over = False
        self.turn: Turn = Turn()

    async def fill(self, limit: int) -> bool:
        """Read on until the store needs `limit` bytes, or the file is over, which it returns.

        At least the blocks that came with the header are taken, so that a commit among them is
        known whatever the limit.
        """
        store = self.store
        while (columns := await self.next_columns()) is not None:
            cids, blocks = columns
            for at in range(0, len(cids), BATCH):
                store.add(cids[at : at + BATCH], blocks[at : at + BATCH])
                await self.turn.pause_if_over()
            if store.need >= limit:
                return False
        return True

    async def next_columns(self) -> Columns | None:
        """Give the blocks that come next, without the commit; `None` where the file is over."""
        columns = await self._reader.next_columns()
        if columns is None:
            return None
        cids, blocks = columns
        if self.commit is None:
            self._pick_commit(cids, blocks)
        if not self.processor.keeps_bytes and self._root in cids:
            # A file that holds the commit twice must not show it to the processor either.
            others = [cid != self._root for cid in cids]
            return [*compress(cids, others)], [*compress(blocks, others)]
        return columns

    @property
    def can_stay(self) -> bool:
        """Whether the blocks can stay where they are, in a file that can be read again."""
        size = self._reader.file_size
        return size is not None and has_room_for(size)

    async def all_columns(self, piece_size: int) -> AsyncGenerator[Columns]:
        """Give all blocks of such a file, the commit included, and let go of those in memory.

        What was decoded before is read again.
        """
        self.store = MemoryStore(self.processor)
        async with aclosing(self._reader.decoded_again(piece_size)) as decoded:
            async for columns in decoded:
                yield columns
        while (following := await self._reader.next_columns()) is not None:
            yield following
            if self.commit is None:
                self._pick_commit(*following)

    @property
    def header_end(self) -> int:
        """Where the first section starts, in bytes."""
        return self._reader.header_end

    @property
    def offset(self) -> int:
        """How many bytes of the file have been decoded."""
        return self._reader.offset

    @property
    def place(self) -> tuple[int, int] | None:
        """Where in the file the last columns are, where they can be read again."""
        return self._reader.place

    async def read_again(self, place: tuple[int, int]) -> bytes:
        """Read bytes again; see `CarReader.read_again`."""
        return await self._reader.read_again(place)

    @property
    def changed(self) -> bool:
        """Whether what can be read again was written to since it was opened."""
        return self._reader.changed

    def cut_again(self, place: tuple[int, int], data: bytes) -> Columns:
        """Cut them into columns again; see `CarReader.cut_again`."""
        return self._reader.cut_again(place, data)

    @property
    def blocks(self) -> int:
        """How many blocks of the file have been decoded."""
        return self._reader.blocks

    def _pick_commit(self, cids: list[bytes], blocks: list[bytes]) -> None:
        """Take the commit out of the blocks: it is no record, so it is not processed."""
        if self._root not in cids:
            return
        at = cids.index(self._root)
        self.commit_first = self.blocks == len(cids) and at == 0
        self.commit = Commit.decode(blocks[at], self._root)
        self.store.keep_raw(cids.pop(at), blocks.pop(at))
        self.before_commit = at

    def commit_found(self) -> Commit:
        """Give the commit, now that the file is over."""
        if self.commit is None:
            raise MissingCommit(cid=self._root)
        return self.commit

    def in_place(self, places: Places) -> InPlace:
        """Give the blocks of the file, which has been read."""
        return InPlace(self._reader, places)

    def hand_over(self) -> None:
        """Leave it to `InPlace` to close the file."""
        self._handed_over = True

    async def aclose(self) -> None:
        """Close the file where the source was given as a path, unless it was handed over."""
        if not self._handed_over:
            await self._reader.aclose()


async def link(loading: Loading[T], store: DiskStore, lease: int, budget: Budget) -> Places:
    """Read a file to its end, and note where its blocks are, which stay there.

    Returns:
        The places, unless they took more than the budget has for them: then those are in the store.

    Raises:
        DiskError: where the store fails.
        RepoStreamError: whatever reading the file raises.
    """
    places = Places()
    at = loading.header_end
    async with aclosing(loading.all_columns(budget.piece)) as pieces:
        async for cids, blocks in pieces:
            for start in range(0, len(cids), _NOTED):
                some = slice(start, start + _NOTED)
                at = places.add(cids[some], blocks[some], at)
                await loading.turn.pause_if_over()
            store.check(lease)
            if places.size > budget.places:
                await store.put_places(lease, places)
    if store.has_places:
        await store.put_places(lease, places)
        await store.seal_places(lease)
    return places


async def spill(loading: Loading[T], store: DiskStore, lease: int) -> None:
    """Put what is in memory on disk, and the rest of the file after it.

    Raises:
        ProcessError: where more than a few results cannot be stored.
        DiskError: where the store fails.
        RepoStreamError: whatever reading the file raises.
    """
    over = False
    while True:
        while not loading.store.empty:
            await write(loading, store, lease, *loading.store.drain(WRITE_BLOCKS, WRITE_BYTES))
        if over:
            break
        over = await loading.fill(WRITE_BYTES)
    await store.seal(lease)


async def write(
    loading: Loading[T],
    store: DiskStore,
    lease: int,
    raw: list[Block],
    results: list[tuple[bytes, T]],
) -> None:
    """Put blocks and results on disk, a MiB at a time, and take off the lists what is there.

    Whoever is interrupted calls it again with what the lists still have.

    Raises:
        ProcessError: where more than a few results cannot be stored.
        DiskError: where the store fails.
    """
    while raw or results:
        room = WRITE_BYTES - sum([len(data) for _cid, data in raw])
        rows, done = await _dumped(loading, results, room)
        await store.put(lease, raw, rows)
        raw.clear()
        del results[:done]


async def _dumped(
    loading: Loading[T], results: Sequence[tuple[bytes, T]], room: int
) -> tuple[list[Block], int]:
    """Turn results into what is stored of them, until that has `room` bytes; say of how many.

    Those that cannot be stored are remembered.
    """
    dumps = loading.processor.dumps
    rows: list[Block] = []
    for at in range(0, len(results), BATCH):
        for done, (cid, value) in enumerate(results[at : at + BATCH], at):
            if room <= 0:
                return rows, done
            try:
                data = as_bytes(dumps(value))
            except Exception as error:
                message = _cannot_spill(value, error)
                if len(loading.unstored) == _MOST_UNSTORED and cid not in loading.unstored:
                    raise ProcessError(message, rkey=None, cid=Cid(cid)) from error
                # Its traceback would hold on to all that is on its way to disk.
                loading.unstored[cid] = Unstored(message, error.with_traceback(None))
            else:
                rows.append((cid, data))
                room -= len(data)
        await loading.turn.pause_if_over()
    return rows, len(results)


def _cannot_spill(value: object, error: Exception) -> str:
    return (
        f"the processor's result, a {type(value).__qualname__}, cannot be stored on disk: {error}; "
        "return plain values, or give Processor(..., dumps=..., loads=...)"
    )
