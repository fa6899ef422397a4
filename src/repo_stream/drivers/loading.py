"""Reading a CAR into memory: the commit is picked out, and all other blocks go to a memory store.

A block is processed as it comes, unless that is done late; see `Options.processes_late`. When a log
has been started (`writing`), everything that is read goes there as well.
"""

from __future__ import annotations

from itertools import accumulate, compress
from typing import Final, Generic, NamedTuple, TypeVar

from repo_stream.car.damage import DamageLog, Skip
from repo_stream.car.decoder import Columns
from repo_stream.car.encoder import section_size
from repo_stream.car.reader import BlockReader
from repo_stream.errors import (
    BadCommit,
    BadRoot,
    CarError,
    CommitError,
    MissingCommit,
    MissingRoot,
    NothingNew,
    RepoStreamError,
)
from repo_stream.ipld.cid import Cid, can_verify
from repo_stream.mst.commit import Commit
from repo_stream.process import Processor
from repo_stream.store.memory import MemoryStore
from repo_stream.store.repo_log import RepoLog
from repo_stream.turn import Turn

__all__ = ["BATCH", "LeftOut", "Loading", "Unstored", "no_commit", "root_of"]

T = TypeVar("T")

# How a commit starts: a map of six or five fields, of which `did` comes first.
_COMMIT_STARTS: Final = (b"\xa6\x63did", b"\xa5\x63did")

#: Blocks to process between two looks at the clock. A processor may take long for each, and larger
#: batches are not faster.
BATCH: Final = 128


class Unstored(NamedTuple):
    """Why a result is not on disk, or cannot be read from there.

    Attributes:
        message: the message of the error to raise if the walk reaches the record.
        cause: what the processor raised.
    """

    message: str
    cause: Exception


class LeftOut(NamedTuple):
    """A section among the blocks that were read, which is not one of them.

    It is that of the commit, or of a block that cannot be checked against its CID.

    Attributes:
        before: how many of the blocks come before it.
        size: its size in bytes.
    """

    before: int
    size: int


def root_of(reader: BlockReader) -> Cid:
    """Return the CID of a repo's commit.

    Raises:
        MissingRoot, BadRoot: if the header does not name a commit.
    """
    roots = reader.header.roots if reader.header is not None else ()
    if not roots:
        raise MissingRoot
    if not roots[0].is_ordinary:
        raise BadRoot(cid=roots[0])
    return roots[0]


def no_commit(reader: BlockReader) -> CommitError:
    """Return the error for a file that has been read to its end and does not have its commit."""
    root = root_of(reader)
    return MissingCommit(cid=root) if reader.blocks else NothingNew(cid=root)


def _may_be_commit(cid: bytes, data: bytes) -> bool:
    """Return whether a block may be a commit: it starts as one, and a root may have its CID."""
    return data.startswith(_COMMIT_STARTS) and Cid(cid).is_ordinary


class Loading(Generic[T]):
    """A CAR that is being read.

    Args:
        reader: reads its blocks.
        processor: what to make of them.
        late: keep blocks as they are; they are processed when the walk reaches them.
        damages: what is damaged, if the reader goes past that. The commit is then found without a
            right header, and repaired if one byte of it is damaged.

    Raises:
        MissingRoot, BadRoot: if the header does not name a commit.
    """

    def __init__(
        self,
        reader: BlockReader,
        processor: Processor[T],
        *,
        late: bool = False,
        damages: DamageLog | None = None,
    ) -> None:
        self.reader: BlockReader = reader
        self.processor: Processor[T] = processor
        self.store: MemoryStore[T] = MemoryStore(processor, late=late)
        self.turn: Turn = Turn()
        self.commit: Commit | None = None
        #: Whether the commit was the first block, and how many blocks of its piece came before it.
        self.commit_first: bool = False
        self.before_commit: int = 0
        #: The sections that were left out of the blocks that were read last.
        self.left_out: list[LeftOut] = []
        #: The log that all blocks go to, once it has been started.
        self.log: RepoLog | None = None
        #: Results that could not be stored, by the CIDs of their blocks.
        self.unstored: dict[bytes, Unstored] = {}
        #: What is damaged; `None` if nothing can be.
        self.damages: DamageLog | None = damages
        # Why the header does not name the commit, and the first block that is a valid one.
        self._rootless: CarError | None = None
        self._candidate: Commit | None = None
        # What was skipped among the blocks that have been read, and are not in the log yet.
        self._skipped: list[Skip] = []
        # The CID of the commit; `None` as long as it is not known.
        self._root = self._find_root()
        self._handed_over = False
        # How many blocks so far could not be checked against their CIDs.
        self._unchecked = 0
        # The blocks that have been read, and are not in the log yet.
        self._coming: Columns | None = None

    @property
    def offset(self) -> int:
        """How many bytes of the file have been decoded."""
        return self.reader.offset

    @property
    def blocks(self) -> int:
        """How many blocks of the file have been decoded."""
        return self.reader.blocks

    async def fill(self, limit: int) -> bool:
        """Read until the file ends, or until the store needs `limit` bytes.

        The blocks that came with the header are always read, so that a commit among them is known
        whatever the limit.

        Returns:
            Whether the file has been read to its end.
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
        """Return the next blocks, without the commit; `None` at the end of the file.

        Blocks that cannot be checked against their CIDs are left out. If the walk needs one, that
        is an `UncheckableBlock`. There may be no block at all; see `CarReader.next_columns`.

        If it is cancelled while they are added to the log, the next call returns them.
        """
        if self._coming is None:
            self._coming = await self.reader.next_columns()
            if self._coming is None:
                if self.damages is not None:
                    await self._rescue_commit()
                return None
            if self.damages is not None:
                self._skipped = self.damages.take_skipped()
            if self.log is not None:
                self.log.expect(*self._coming, self._skipped)
        if self.log is not None:
            await self.log.note()
            await self.log.keep_up()
        if self.damages is not None:
            await self._rescue_commit()
        if not self._coming[0]:
            await self.turn.pause_if_over()  # there may be damage without end
        cids, blocks = columns = self._coming
        self._coming = None
        self.left_out = [LeftOut(*skip) for skip in self._skipped]
        if self.commit is None:
            self._pick_commit(cids, blocks)
        if self.store.processes and self._root in cids:
            columns = self._without_copies(cids, blocks)
        if self._unchecked < self.reader.unchecked:
            self._unchecked = self.reader.unchecked
            columns = self._without_unchecked(*columns)
        return columns

    def _pick_commit(self, cids: list[bytes], blocks: list[bytes]) -> None:
        """Take the commit out of the blocks: it is not a record, so it is not processed."""
        if self._root is None:
            self._root = self._find_root()
        damages = self.damages
        if damages is not None and damages.everything and self._root not in cids:
            self._find_candidate(cids, blocks)
        if self._root is None or self._root not in cids:
            return
        at = cids.index(self._root)
        self.commit_first = self.blocks == len(cids) and at == 0
        self.commit = Commit.decode(blocks[at], self._root)
        self.left_out = [LeftOut(n - (n > at), size) for n, size in self.left_out]
        self.left_out.append(LeftOut(at, section_size(cids[at], blocks[at])))
        self.store.keep_raw(cids.pop(at), blocks.pop(at))
        self.before_commit = at

    def _without_copies(self, cids: list[bytes], blocks: list[bytes]) -> Columns:
        """Leave out copies of the commit: they must not be processed either."""
        others: Columns = [], []
        copies: list[LeftOut] = []
        # By how many blocks came before: how many of them are left.
        left: list[int] = []
        for cid, data in zip(cids, blocks, strict=True):
            left.append(len(others[0]))
            if cid == self._root:
                copies.append(LeftOut(len(others[0]), section_size(cid, data)))
            else:
                others[0].append(cid)
                others[1].append(data)
        left.append(len(others[0]))
        self.left_out = [LeftOut(left[n], size) for n, size in self.left_out] + copies
        return others

    def _without_unchecked(self, cids: list[bytes], blocks: list[bytes]) -> Columns:
        """Leave out blocks that could not be checked against their CIDs."""
        checked = [can_verify(Cid(cid)) for cid in cids]
        # By how many blocks came before: how many of them are left.
        left = [*accumulate(checked, initial=0)]
        out = [
            LeftOut(left[at], section_size(cids[at], blocks[at]))
            for at, was_checked in enumerate(checked)
            if not was_checked
        ]
        self.left_out = [LeftOut(left[each.before], each.size) for each in self.left_out] + out
        if self.before_commit < len(left):
            self.before_commit = left[self.before_commit]
        return [*compress(cids, checked)], [*compress(blocks, checked)]

    # --- If the header or the commit is damaged -------------------------------------------------

    def _find_root(self) -> Cid | None:
        """Return the CID of the commit; `None` if it has to be found by the blocks."""
        if self.reader.header is None:
            return None
        try:
            return root_of(self.reader)
        except (MissingRoot, BadRoot) as error:
            if self.damages is None or not self.damages.everything:
                raise
            self._rootless = error
            return None

    def _find_candidate(self, cids: list[bytes], blocks: list[bytes]) -> None:
        """Find the first block that is a valid commit, in case that the root is none."""
        for cid, data in zip(cids, blocks, strict=True):
            if self._candidate is None and _may_be_commit(cid, data):
                try:
                    self._candidate = Commit.decode(data, Cid(cid))
                except BadCommit:
                    continue
        if self._root is None and self._candidate is not None:
            self._use(self._candidate, self._rootless)

    def _use(self, commit: Commit, error: CarError | CommitError | None) -> None:
        """Walk from a commit that the header does not name."""
        damages = self.damages
        if damages is not None and error is not None and not damages.has_bad_header:
            root = self._root
            # If the root is among what is damaged, this is another commit.
            repaired = root is None or damages.error_of(root) is None
            damages.add(0, root, error, repaired=repaired)
        self._root = commit.cid

    async def _rescue_commit(self) -> None:
        """Look for the commit among damaged blocks, if there are new ones."""
        damages = self.damages
        if damages is None or self.commit is not None or self._root is None:
            return
        for data in damages.rescue(self._root):
            if data is not None:
                self.commit = Commit.decode(data, self._root)
                self.store.keep_raw(self._root, data)
                return
            await self.turn.pause_if_over()

    def commit_found(self) -> Commit:
        """Return the commit.

        Raises:
            MissingCommit, NothingNew: if the file, which was read to its end, did not have it.
        """
        if self.commit is None and self._candidate is not None:
            self.commit = self._candidate
            self._use(self._candidate, no_commit(self.reader))
        if self.commit is None:
            raise self._why_no_commit()
        return self.commit

    def _why_no_commit(self) -> RepoStreamError:
        """Return why there is no commit: it is damaged, or all is, or it is not there."""
        if self.damages is not None and self._root is not None:
            damaged = self.damages.error_of(self._root)
            if damaged is not None:
                return damaged
            if self.damages.listed and not self.reader.blocks:
                return self.damages.listed[0].error
        return no_commit(self.reader)

    def hand_over(self) -> None:
        """Leave it to the lease of a store to close the file."""
        self._handed_over = True

    async def aclose(self) -> None:
        """Close the file if the source is a path, unless it was handed over."""
        if not self._handed_over:
            await self.reader.aclose()
