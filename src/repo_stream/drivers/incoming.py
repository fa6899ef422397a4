"""A CAR that is walked while it comes in: what has come, what is kept, and what was let go of.

A block goes one of three ways. One that is next in the walk is used as it comes, and let go of. One
that comes early is kept in memory until the walk needs it. And when memory is full, all that is
kept goes to disk, with the rest of the file after it, and the walk goes on from there.

What was let go of may be asked for again, as two keys can name one record. A little of it stays in
memory. When that is too much, the log is begun (`repo_log`), which from then on holds everything
that comes, and is asked for what memory does not have. If the source is a file that can be read
again, that is the log, from the start. With nowhere to spill, what is too much is lost.

Every step can be cancelled, and taken again: what is on its way from one place to the next is in
the old place until it is in the new one.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from itertools import accumulate, compress, islice
from typing import TYPE_CHECKING, Final, Generic, Literal, TypeAlias, TypeVar

from repo_stream.car.decoder import Block, section_size
from repo_stream.drivers.fetch import Shelf
from repo_stream.drivers.loading import BATCH, Loading, add_results
from repo_stream.drivers.order import PieceKept, in_walk_order, left_of
from repo_stream.errors import (
    BlockReleased,
    MemLimitExceeded,
    MissingBlock,
    ProcessError,
    RepoStreamError,
)
from repo_stream.ipld.cid import Cid
from repo_stream.mst.blocks import Arrivals, Blocks
from repo_stream.mst.commit import Commit
from repo_stream.mst.results import Taken
from repo_stream.mst.walker import Walker
from repo_stream.process import Processor
from repo_stream.store.budget import Budget
from repo_stream.store.repo_log import WRITE_BYTES, RepoLog

if TYPE_CHECKING:
    from repo_stream.store.disk import DiskStore, Lease

__all__ = ["Incoming", "Spill"]

T = TypeVar("T")

#: Where blocks go that do not fit in memory: a file, an open store, a temporary file, or nowhere.
Spill: TypeAlias = "str | os.PathLike[str] | DiskStore | Literal[False] | None"

# What it costs to note that the walk has used a block: its CID, as the tree has it, in a set. It is
# counted as soon as the block is kept, as the walk may use all of them before the next one comes.
_NOTE_COST: Final = 120
# What a block costs that was let go of, beside its bytes: its CID, their headers, and its place.
_RELEASED_COST: Final = 140
# Blocks are let go of for good reason only: if it leaves less than this free, all go to disk.
_ROOMY: Final = 7 / 8
# A section has a CID of 36 bytes, so no two of those that are asked for start so near each other.
_LEAST_SECTION: Final = 37


class Marks:
    """A set of sections, by where they start in the log: a bit each."""

    def __init__(self) -> None:
        self._bits = bytearray()

    def __contains__(self, start: int) -> bool:
        place, bit = _place_of(start)
        return place < len(self._bits) and bool(self._bits[place] & bit)

    def add(self, start: int) -> bool:
        """Add a section; return whether it is new."""
        if start in self:
            return False
        place, bit = _place_of(start)
        self._bits.extend(bytes(max(place + 1 - len(self._bits), 0)))
        self._bits[place] |= bit
        return True

    def discard(self, start: int) -> bool:
        """Take a section out; return whether it was there."""
        if start not in self:
            return False
        place, bit = _place_of(start)
        self._bits[place] &= ~bit
        return True


def _place_of(start: int) -> tuple[int, int]:
    number = start // _LEAST_SECTION
    return number >> 3, 1 << (number & 7)


class Released:
    """Blocks that were let go of and are still in memory, the oldest first."""

    def __init__(self) -> None:
        self.blocks: dict[bytes, bytes] = {}
        #: Of those, the CIDs of blocks that the walk went past and has not used.
        self.passed: set[bytes] = set()
        #: What they cost in memory, in bytes, or a little less than what they were counted for.
        self.size: int = 0

    def add(self, cids: Sequence[bytes], blocks: Sequence[bytes], *, used: bool) -> None:
        """Take blocks in that the walk has used, or has gone past."""
        self.blocks.update(zip(cids, blocks, strict=True))
        self.size += sum(map(len, blocks)) + _RELEASED_COST * len(cids)
        if used and self.passed:
            self.passed.difference_update(cids)
        elif not used:
            self.passed.update(cids)

    def take(self, n: int) -> tuple[list[Block], set[bytes]]:
        """Give up to `n` of them away, the oldest first; return which of them were not used."""
        some = [(cid, self.blocks[cid]) for cid in islice(self.blocks, n)]
        cids = [cid for cid, _ in some]
        passed = self.passed.intersection(cids)
        self.passed.difference_update(cids)
        for cid, data in some:
            del self.blocks[cid]
            self.size -= len(data) + _RELEASED_COST
        if not self.blocks:
            self.clear()
        return some, passed

    def clear(self) -> None:
        """Let go of all of them."""
        self.blocks, self.passed, self.size = {}, set(), 0  # only new ones are small


class Incoming(Generic[T]):
    """The blocks of a CAR on their way to a walk.

    Args:
        loading: reads the file.
        processor: what is made of records in the end, at once or late.
        mem_limit_mb: what blocks may take in memory, in MiB.
        spill: where they go then.
        counting: whether blocks are counted that are used from disk.
    """

    def __init__(
        self,
        loading: Loading[T],
        processor: Processor[T],
        mem_limit_mb: float,
        spill: Spill,
        *,
        counting: bool = False,
    ) -> None:
        #: Blocks of the piece that was read last, as far as the walk has not gone past them.
        self.arrivals: Arrivals = Arrivals()
        #: Blocks that are kept.
        self.blocks: Blocks[T] = Blocks(loading.store.blocks.raw, {})
        if loading.processor is processor:
            self.blocks = loading.store.blocks
        #: Whether the file has been read to its end.
        self.over: bool = False
        #: Whether every block so far has come when the walk needed it.
        self.in_order: bool = True
        #: The most blocks that had to be kept at once, as far as the repo was in memory.
        self.most_early: int = 0
        #: How many blocks of the file the walk has used, each copy for itself; of those that went
        #: to disk, as far as that is counted.
        self.used: int = 0
        #: The nodes that the walk opens among `blocks`, as in `Walker.opened`.
        self.opened: list[tuple[bytes, int]] = []
        self._loading = loading
        self._processor = processor
        self._budget = Budget.of(mem_limit_mb)
        self._mem_limit_mb = mem_limit_mb
        self._spill: Spill = spill
        self._released: Released = Released()
        # How many blocks were given up: nobody can ask for them again.
        self._lost = 0
        # Of the blocks that are kept, those that the walk has used.
        self._used: set[bytes] = set()
        self._piece: PieceKept = PieceKept(Arrivals(), (), 0)
        # Where in the log blocks are that the walk has used, if that is counted.
        self._counting = counting
        self._counted = Marks()
        # Where in the log blocks are that the walk has gone past and not used.
        self._passed = Marks()
        # Where in the log the arrivals start, and where each of them does, once that is asked for.
        self._piece_start = 0
        self._piece_end = loading.reader.header_end
        self._starts: tuple[Arrivals, list[int]] = Arrivals(), []
        self._commit_piece: Arrivals | None = None
        # Whether all that the file holds is to be kept together, for walks that go anywhere.
        self._everything = False
        # The store, and whether it was opened here.
        self._store: DiskStore | None = None
        self._owned = False
        self._lease: Lease | None = None
        # The log, whether it has been begun, and whether blocks were let go of that only it has.
        budget = self._budget
        room = max(budget.store, budget.places) if spill is False else budget.places
        self._log = RepoLog(loading.reader, self._leased, room, budget.write, loading.turn)
        self._logged = self._log.is_the_car
        if self._logged:
            loading.log = self._log
        self._let_go_to_log = False
        # What is to be written as the log is begun: kept blocks, by their CIDs, and results; and
        # why that cannot be done, which matters once they are to leave the memory.
        self._to_log: tuple[list[bytes], list[tuple[bytes, T]]] | None = None
        self._unstorable: ProcessError | None = None
        # A move to disk that has begun.
        self._moving = False
        self._shelf: Shelf[T] | None = None

    @property
    def spilled(self) -> bool:
        """Whether the repo has gone to disk."""
        return self._shelf is not None

    @property
    def read(self) -> int:
        """How many blocks of the file have been read."""
        return self._loading.blocks

    @property
    def offset(self) -> int:
        """How many bytes of the file have been read."""
        return self._loading.offset

    @property
    def unused(self) -> int | None:
        """How many blocks of the file the walk has had no use for; `None` where nobody knows."""
        if self.spilled and not self._counting:
            return None
        return self.read - self.used

    @property
    def early(self) -> int:
        """How many blocks are kept in memory for later."""
        return 0 if self._shelf is not None else self._kept - len(self._used)

    @property
    def _kept(self) -> int:
        raw, processed = self.blocks.raw, self.blocks.processed
        return len(raw) if processed is raw else len(raw) + len(processed)

    # --- What comes -----------------------------------------------------------------------------

    async def commit(self) -> Commit:
        """Read on until the commit has come, keeping what comes before it.

        Raises:
            MissingCommit: where the file does not hold it.
        """
        while self._loading.commit is None and await self.read_on():
            if self._loading.commit is None:
                await self.keep_arrivals()
        commit = self._loading.commit_found()
        if self.spilled:
            self.used += 1
        else:
            self.used_kept([commit.cid])
        self.in_order = self._loading.commit_first
        self._commit_piece = self.arrivals
        if before := self._loading.before_commit:
            self._had_to_keep(self.early + len(self._fresh(self.arrivals.cids[:before])))
        return commit

    async def read_on(self) -> bool:
        """Read the next piece, as something is needed; say whether any block came with it."""
        self._had_to_keep(self.early)
        return await self._read_piece()

    async def _read_piece(self) -> bool:
        await self._limit_released()
        columns = None if self.over else await self._loading.next_columns()
        if columns is None:
            self.over = True
            return False
        self.arrivals = Arrivals(*columns)
        self._piece_start, self._piece_end = self._piece_end, self._log.offset
        return True

    async def keep_arrivals(self, walker: Walker[T] | None = None) -> bool:
        """Keep what has come, but for what the walk names and does not want.

        Returns:
            Whether it is in memory; else all has gone to disk.
        """
        self._look_at_piece(walker)
        while self.arrivals.next is not None:
            cids, blocks = self.arrivals.some(BATCH)
            self._keep(cids, blocks, walker)
            self.arrivals.at += len(cids)
            await self._loading.turn.pause_if_over()
        await self._make_room()
        return self._shelf is None

    def _keep(
        self, cids: Sequence[bytes], blocks: Sequence[bytes], walker: Walker[T] | None
    ) -> None:
        if walker is not None and walker.passing:
            wanted = [not walker.passes(*block) for block in zip(cids, blocks, strict=True)]
            self._pass([n for n, each in enumerate(wanted, self.arrivals.at) if not each])
            cids, blocks = [*compress(cids, wanted)], [*compress(blocks, wanted)]
        self._loading.store.add(cids, blocks)

    def let_pass(self, walker: Walker[T]) -> bool:
        """Go past blocks that the walk names and does not want; say whether such come next."""
        if not walker.passing:
            return False
        cids, blocks = self.arrivals.some(BATCH)
        passed = 0
        while passed < len(cids) and walker.passes(cids[passed], blocks[passed]):
            passed += 1
        at = self.arrivals.at
        self._pass(range(at, at + passed))
        self.arrivals.at += passed
        return passed > 0

    async def drain(self, *, keep: bool) -> None:
        """Read the file to its end, and check what comes.

        Args:
            keep: keep it as what was let go of is, for walks to what this one left out. Else
                nobody can ask for it any more.
        """
        while self.arrivals.next is not None or await self._read_piece():
            while keep and self.arrivals.next is not None:
                cids, at = self.arrivals.some(BATCH)[0], self.arrivals.at
                # No tree names any others.
                self._pass([n for n, cid in enumerate(cids, at) if Cid(cid).is_ordinary])
                self.arrivals.at += len(cids)
            self.arrivals = Arrivals()
            await self.pause()

    async def pause(self) -> None:
        """Let other tasks work, where this one has worked for long enough."""
        await self._loading.turn.pause_if_over()

    # --- How far from the order of the walk -----------------------------------------------------

    def _had_to_keep(self, blocks: int) -> None:
        self.most_early = max(self.most_early, blocks)

    def _fresh(self, cids: Iterable[bytes]) -> list[bytes]:
        """Give the blocks that are not kept as yet, each once."""
        raw, processed = self.blocks.raw, self.blocks.processed
        return [cid for cid in dict.fromkeys(cids) if cid not in raw and cid not in processed]

    def _look_at_piece(self, walker: Walker[T] | None) -> None:
        """See which blocks of the piece that is to be kept come before which.

        Who reads block by block keeps those that come before what is needed, and not the rest.
        """
        arrivals = self.arrivals
        if self._piece.arrivals is arrivals:
            return  # keeping it was cancelled
        rest, early = arrivals.cids[arrivals.at :], self.early
        if self._everything or early + len(rest) <= self.most_early:
            self._piece = PieceKept(arrivals, (), early)
            return
        self._piece = PieceKept(arrivals, self._fresh(rest), early)
        self._had_to_keep(self._piece.need(None if walker is None else walker.nearest()))

    # --- What the walk has used -----------------------------------------------------------------

    def used_kept(self, cids: Sequence[bytes]) -> None:
        """Note that the walk has used blocks that were kept, and the nodes that it has opened."""
        if self._shelf is None and (cids or self.opened):
            used = in_walk_order(cids, self.opened)
            known = len(self._used)
            if self._piece.arrivals is self.arrivals:
                self._had_to_keep(self._piece.most_needed(used, self._used))
            self._used.update(used)
            self.used += len(self._used) - known
        self.opened.clear()

    def used_arrivals(self, at: int, taken: Taken[T]) -> None:
        """Let go of the arrivals that the walk has used.

        Args:
            at: the first of them.
            taken: the records that it took.
        """
        arrivals = self.arrivals
        nodes, arrivals.nodes = arrivals.nodes, []
        cids = arrivals.cids[at : arrivals.at]
        self.used += len(cids)
        aligned = len(cids) == len(nodes) + len(taken.cids)
        kept: list[bytes] = []
        if not aligned:
            numbers = set(nodes)
            kept = left_of(taken.cids, [cid for n, cid in enumerate(cids, at) if n not in numbers])
        if not self._let_go_to_log:
            self._released.add(cids, arrivals.data[at : arrivals.at], used=True)
        if self._counting and self._logged:
            self._mark(self._arrival_starts()[at : arrivals.at])
        self.used_kept(kept)
        if not aligned and self._shelf is None:
            # Copies of what came just now may have been kept before.
            self._used.update([cid for cid in taken.cids if cid in self.blocks])

    def _pass(self, numbers: Sequence[int]) -> None:
        """Let go of arrivals that the walk has gone past."""
        if self._let_go_to_log:
            starts = self._arrival_starts() if numbers else []
            for n in numbers:
                self._passed.add(starts[n])
        else:
            cids, data = self.arrivals.cids, self.arrivals.data
            self._released.add([cids[n] for n in numbers], [data[n] for n in numbers], used=False)

    def _arrival_starts(self) -> list[int]:
        """Return where in the log the arrivals start, one by one."""
        arrivals, starts = self._starts
        if arrivals is not self.arrivals:
            arrivals, before = self.arrivals, self._loading.before_commit
            starts = _starts_of(
                [*zip(arrivals.cids, arrivals.data, strict=True)], self._piece_start
            )
            if arrivals is self._commit_piece:  # which is not among them
                size = self._loading.commit_size
                starts[before:] = [start + size for start in starts[before:]]
            self._starts = arrivals, starts
        return starts

    def _mark(self, starts: Iterable[int]) -> int:
        """Note where in the log blocks are that the walk uses; return how many are new."""
        return sum(map(self._counted.add, starts))

    async def _let_go(self) -> None:
        """Let go of what the walk has used, little by little: it may be all that is kept."""
        store, used = self._loading.store, self._used
        while used:
            some: list[bytes] = []
            size = 0
            while used and len(some) < BATCH and size < WRITE_BYTES:
                some.append(used.pop())
                size += len(store.blocks.raw.get(some[-1], b""))
            if self._logged and self._unstorable is not None:
                raise self._unstorable
            if self._counting and self._logged:
                self._mark(await self._log.starts_of(some))
            raw, results = store.forget(some)
            if self._logged:
                self._let_go_to_log = True
            else:
                self._released.add([cid for cid, _ in raw], [data for _, data in raw], used=True)
                self._lost += len(results)
            await self._limit_released()
            await self.pause()
        self._used = set()  # only a new one is small
        store.shrink()

    async def recall(self, walker: Walker[T]) -> bool:
        """Keep a block again that the walk was through with; return whether there was such a block.

        Args:
            walker: stands before the block.

        Raises:
            ProcessError: if it was kept as a result, and the processor cannot load that.
            CarChanged, DiskError: if it cannot be read again.
        """
        cid = walker.nearest()
        block = self._released.blocks.get(cid)
        passed = block is not None and cid in self._released.passed
        result: T | None = None
        start: int | None = None
        if block is None:
            start = await self._start_behind(cid)
            if start is None:
                return False
            passed = start in self._passed
            fetched = await self._log.fetch([cid])
            block = fetched.raw.get(cid)
            if block is None:
                if cid not in fetched.processed:
                    return False  # another block has a place like it
                try:
                    result = self._processor.loads(fetched.processed[cid])
                except Exception as error:
                    raise _unreadable(walker.missing(), error) from error
        if self._need >= self._budget.store:
            await self._let_go()
        self._loading.store.put_back(cid, block=block, result=result)
        if passed:
            self._released.passed.discard(cid)
            if start is not None:
                self._passed.discard(start)
        else:
            self._used.add(cid)
        return True

    async def _start_behind(self, cid: bytes) -> int | None:
        """Return where in the log a block is that the walk is past; `None` if there is none."""
        if not self._let_go_to_log:
            return None
        for start in await self._log.starts_of([cid]):
            # What has come and was not used is in the log as well.
            if start < self._piece_start or cid not in self.arrivals.cids[self.arrivals.at :]:
                return start
        return None

    def gone(self, walker: Walker[T]) -> RepoStreamError:
        """Return the error for a block that the walk stands before, and that nobody has."""
        missing = walker.missing()
        if (unstored := self._loading.unstored.get(missing.cid)) is not None:
            error = ProcessError(unstored.message, key=missing.key, cid=missing.cid)
            error.__cause__ = unstored.cause
            return error
        if self._lost:
            return BlockReleased(cid=missing.cid, key=missing.key)
        return missing

    # --- Room -----------------------------------------------------------------------------------

    @property
    def _need(self) -> int:
        return self._kept_need + self._released.size + self._log.size

    @property
    def _kept_need(self) -> int:
        """What is kept costs, and what it will cost to note that the walk has used it."""
        return self._loading.store.need + _NOTE_COST * self._kept

    async def _limit_released(self) -> None:
        """Keep what was let go of within its part of the memory limit."""
        if self._let_go_to_log:
            self._released.clear()
        elif self._logged:
            if self._released.size > self._budget.released:
                if passed := self._released.passed:
                    for start in await self._log.starts_of([*passed]):
                        self._passed.add(start)
                self._let_go_to_log = True
                self._released.clear()
        elif self._spill is False:
            most = max(self._budget.store * _ROOMY - self._kept_need, 0)
            while self._released.size > most:
                self._lost += len(self._released.take(BATCH)[0])
        elif self._released.size > self._budget.released or self._to_log is not None:
            await self._begin_log()

    async def _make_room(self) -> None:
        """Let go of blocks, or move to disk, if what is kept is all that the limit allows."""
        if self._need < self._budget.store:
            return
        if not self._logged and self._spill is not False:
            await self._begin_log()
        if not self._everything:
            await self._let_go()
            await self._limit_released()
            room = 1 if self._spill is False else _ROOMY
            if self._need < self._budget.store * room:
                return
        if self._spill is False and not self._logged:
            # The walk can go on if it needs no more than what it comes past.
            self._everything = False
            raise MemLimitExceeded(mem_limit_mb=self._mem_limit_mb, early=self.early)
        self._moving = True
        await self.move_on()

    async def settle(self) -> None:
        """Have all that the file holds together, in memory or on disk: for walks to anywhere."""
        if self._everything and self.over and not self._released.blocks and not self._moving:
            return
        self._everything = True
        if self._let_go_to_log and self._shelf is None:
            self._moving = True
        await self.move_on()
        while self._shelf is None:
            if self._released.blocks:
                blocks, passed = self._released.take(BATCH)
                for cid, block in blocks:
                    self._loading.store.put_back(cid, block=block, result=None)
                self._used.update([cid for cid, _ in blocks if cid not in passed])
                await self.pause()
                await self._make_room()
            elif self.arrivals.next is not None or await self._read_piece():
                await self.keep_arrivals()
            else:
                break
            if self._let_go_to_log and self._shelf is None:
                self._moving = True
                await self.move_on()

    # --- The disk -------------------------------------------------------------------------------

    async def bring(
        self, walker: Walker[T], blocks: Blocks[T], n: int, *, records: bool = True
    ) -> None:
        """Fetch what a walk needs next from disk; see `Shelf.bring`."""
        if self._shelf is None:
            raise self.gone(walker)
        try:
            await self._shelf.bring(walker, blocks, n, records=records)
        except MissingBlock:
            raise self.gone(walker) from None
        finally:
            if (starts := self._log.starts) is not None:
                self.used += self._mark(starts)
                starts.clear()

    async def _leased(self) -> Lease:
        if self._spill is False:  # the places of a file's blocks are too many
            raise MemLimitExceeded(mem_limit_mb=self._mem_limit_mb, early=self.early)
        if self._store is None:
            # SQLite takes half of the time of the import, and most repos stay in memory.
            from repo_stream.store.disk import DiskBuilder, DiskStore  # noqa: PLC0415

            if isinstance(self._spill, DiskStore):
                self._store = self._spill
            else:
                self._store = await DiskBuilder().open(self._spill or None)
                self._owned = True
        if self._lease is None:
            self._lease = await self._store.begin(self._budget.cache)
        return self._lease

    async def _begin_log(self) -> None:
        """Begin the log: with all that is in memory, and then whatever comes."""
        loading, log, blocks = self._loading, self._log, self._loading.store.blocks
        if self._to_log is None:
            results = [] if blocks.processed is blocks.raw else [*blocks.processed.items()]
            self._to_log = [*blocks.raw], results
        while self._released.blocks:
            some, passed = self._released.take(BATCH)
            for (cid, _), start in zip(some, _starts_of(some, log.end), strict=True):
                if cid in passed:
                    self._passed.add(start)
                elif self._counting:
                    self._counted.add(start)
            log.add(some)
            await log.keep_up()
            await self.pause()
        cids, results = self._to_log
        while cids:
            size = 0
            few: list[Block] = []
            for cid in cids[: -BATCH - 1 : -1]:
                few.append((cid, blocks.raw[cid]))
                size += len(few[-1][1])
                if size >= self._budget.write:
                    break
            log.add(few)
            del cids[-len(few) :]
            await log.keep_up()
            await self.pause()
        while results and self._unstorable is None:
            try:
                await add_results(loading, log, results)
            except ProcessError as error:
                self._unstorable = error
            await log.keep_up()
        arrivals = self.arrivals
        left = [*zip(*arrivals.some(len(arrivals.cids)), strict=True)]
        self._piece_start = log.end
        self._starts = arrivals, [0] * arrivals.at + _starts_of(left, log.end)
        log.add(left)
        log.follow()
        loading.log = log
        self._piece_end = log.offset
        self._to_log, self._logged, self._let_go_to_log = None, True, True
        await log.keep_up()

    async def move_on(self) -> None:
        """Go on with a move to disk that was begun, if one was: all that is kept, then the rest."""
        if self._to_log is not None:
            await self._begin_log()
        if not self._moving or self._shelf is not None:
            return
        loading, log = self._loading, self._log
        if not self._logged:
            await self._begin_log()
        if self._unstorable is not None:
            raise self._unstorable
        await log.index()
        if self._counting:
            self._mark(await log.starts_of([*self._used]))
            log.starts = []
        self._used.clear()
        loading.store.drop()
        self._released.clear()
        self.opened.clear()
        self.arrivals = Arrivals()
        while await loading.next_columns() is not None:
            await self.pause()
        await log.seal()
        self.over = True
        self._shelf = Shelf(log, self._processor, loading.unstored)

    async def aclose(self) -> None:
        """Close what was opened, and empty the store, unless it is a file that is gone with it."""
        store, self._store = self._store, None
        try:
            await self._loading.aclose()
        finally:
            if store is not None:
                await self._leave(store)

    async def _leave(self, store: DiskStore) -> None:
        try:
            # A temporary file is gone when it is closed.
            if self._lease is not None and (store.path is not None or not self._owned):
                await self._lease.abandon()
        finally:
            if self._owned:
                await store.aclose()


def _starts_of(blocks: Sequence[Block], at: int) -> list[int]:
    """Return where the sections of blocks start, the first of them at an offset."""
    sizes = [section_size(*block) for block in blocks]
    return [*accumulate(sizes, initial=at)][:-1]


def _unreadable(missing: MissingBlock, failure: Exception) -> ProcessError:
    message = f"its stored result cannot be read back: {failure}"
    return ProcessError(message, key=missing.key, cid=missing.cid)
