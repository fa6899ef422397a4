"""A repo on its way in: from the source to memory, and from there to disk.

The blocks of a CAR go into a memory store, all but the commit, until the file is over or the store
needs all that the limit leaves it. Then the repo goes to its log (`repo_log`): what is in memory is
written there, or dropped if the file itself can be read again, and the rest follows.

A block that fits in memory is processed as it comes; one that does not is kept as it came, and
processed when the walk reaches it.
"""

from __future__ import annotations

from itertools import compress
from typing import Final, Generic, NamedTuple, TypeVar

from repo_stream.car.decoder import Block, Columns, section_size
from repo_stream.car.reader import CarReader
from repo_stream.errors import BadRoot, MissingCommit, MissingRoot, ProcessError
from repo_stream.ipld.cid import Cid
from repo_stream.mst.commit import Commit
from repo_stream.process import Processor, as_bytes
from repo_stream.store.memory import MemoryStore
from repo_stream.store.repo_log import RepoLog
from repo_stream.turn import Turn

__all__ = ["BATCH", "WRITE_BLOCKS", "Loading", "Unstored", "add_results", "root_of", "spill"]

T = TypeVar("T")

#: Blocks that are processed between two looks at the clock. Whoever processes them may take long
#: for each; and no load gets faster with more.
BATCH: Final = 128

# Results that cannot be stored, for blocks that may be nobody's records. With more of them, it is
# the processor whose results cannot be.
_MOST_UNSTORED: Final = 100

# Blocks that are taken out of memory at a time, to be written.
WRITE_BLOCKS: Final = 1000


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
        #: How many bytes its section has.
        self.commit_size: int = 0
        # It matters only if the walk needs them, so a few are put up with.
        self.unstored: dict[bytes, Unstored] = {}
        self._root = root_of(reader)
        self._reader = reader
        self._handed_over = False
        self.turn: Turn = Turn()
        #: Where the blocks are on disk, once they are to be read there.
        self.log: RepoLog | None = None
        # What has been read, and is not in the log as yet.
        self._coming: Columns | None = None

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
        """Give the blocks that come next, without the commit; `None` where the file is over.

        All of them go to the log, if it has been begun.
        """
        if self._coming is None:
            self._coming = await self._reader.next_columns()
            if self._coming is None:
                return None
            if self.log is not None:
                self.log.expect(*self._coming)
        if self.log is not None:
            # What has come waits here if it is cancelled.
            await self.log.note()
            await self.log.keep_up()
        cids, blocks = columns = self._coming
        self._coming = None
        if self.commit is None:
            self._pick_commit(cids, blocks)
        if not self.processor.keeps_bytes and self._root in cids:
            # A file that holds the commit twice must not show it to the processor either.
            others = [cid != self._root for cid in cids]
            return [*compress(cids, others)], [*compress(blocks, others)]
        return columns

    @property
    def reader(self) -> CarReader:
        """What reads the file."""
        return self._reader

    @property
    def offset(self) -> int:
        """How many bytes of the file have been decoded."""
        return self._reader.offset

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
        self.commit_size = section_size(cids[at], blocks[at])
        self.store.keep_raw(cids.pop(at), blocks.pop(at))
        self.before_commit = at

    def commit_found(self) -> Commit:
        """Give the commit, now that the file is over."""
        if self.commit is None:
            raise MissingCommit(cid=self._root)
        return self.commit

    def hand_over(self) -> None:
        """Leave it to the lease to close the file."""
        self._handed_over = True

    async def aclose(self) -> None:
        """Close the file where the source was given as a path, unless it was handed over."""
        if not self._handed_over:
            await self._reader.aclose()


async def spill(loading: Loading[T], log: RepoLog) -> None:
    """Move what is in memory to the log, and read the rest of the file, which goes there too.

    Raises:
        ProcessError: if more than a few results cannot be stored.
        DiskError: if the store fails.
        RepoStreamError: whatever reading the file raises.
    """
    store = loading.store
    if log.is_the_car:
        store.drop()
    while not store.empty:
        raw, results = store.drain(WRITE_BLOCKS, log.write_size)
        log.add(raw)
        while results:
            await add_results(loading, log, results)
            await log.keep_up()
        await log.keep_up()
    if not log.is_the_car:
        log.follow()
    loading.log = log
    await log.index()
    while await loading.next_columns() is not None:
        await loading.turn.pause_if_over()
    await log.seal()


async def add_results(loading: Loading[T], log: RepoLog, results: list[tuple[bytes, T]]) -> None:
    """Have some results added to the log, and take them off the list.

    Those that cannot be stored are remembered.

    Raises:
        ProcessError: if they are more than a few.
    """
    dumps = loading.processor.dumps
    dumped: list[Block] = []
    taken, room = 0, log.write_size
    for cid, value in reversed(results[-BATCH:]):
        if room <= 0:
            break
        taken += 1
        try:
            data = as_bytes(dumps(value))
        except Exception as error:
            message = _cannot_spill(value, error)
            if len(loading.unstored) == _MOST_UNSTORED and cid not in loading.unstored:
                raise ProcessError(message, key=None, cid=Cid(cid)) from error
            # Its traceback would hold on to all that is on its way to disk.
            loading.unstored[cid] = Unstored(message, error.with_traceback(None))
        else:
            dumped.append((cid, data))
            room -= len(data)
    log.add(dumped, results=True)
    del results[-taken:]
    await loading.turn.pause_if_over()


def _cannot_spill(value: object, error: Exception) -> str:
    return (
        f"the processor's result, a {type(value).__qualname__}, cannot be stored on disk: {error}; "
        "return plain values, or give Processor(..., dumps=..., loads=...)"
    )
