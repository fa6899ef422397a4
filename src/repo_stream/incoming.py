"""A CAR that is walked while it comes in: what has come, what is kept, and what was let go of.

A block goes one of three ways. One that is next in the walk is used as it comes, and let go of. One
that comes early is kept in memory until the walk needs it. And when memory is full, all that is
kept goes to disk, with the rest of the file after it, and the walk goes on from there.

What was let go of is kept small (`repo_stream.released`), for the few records that two keys name:
in memory at first, then on disk, where nobody looks at it again unless a block is missing. Of a
file that can be read again only the place is kept.

Every step can be cancelled, and taken again: what is on its way from one place to the next is in
the old place until it is in the new one.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from itertools import chain, compress
from typing import TYPE_CHECKING, Final, Generic, Literal, TypeAlias, TypeVar

from repo_stream.car import Block
from repo_stream.cid import Cid
from repo_stream.early import PieceKept, in_walk_order, left_of
from repo_stream.errors import (
    BlockReleased,
    MemLimitExceeded,
    MissingBlock,
    ProcessError,
    RepoStreamError,
)
from repo_stream.fetch import Shelf
from repo_stream.limits import MIB
from repo_stream.load import BATCH, WRITE_BLOCKS, WRITE_BYTES, Budget, Loading, write
from repo_stream.mst import Commit, looks_like_node
from repo_stream.process import Processor
from repo_stream.released import Found, Released, Segment, tail, tails_of
from repo_stream.walk import Arrivals, Blocks, Taken, Walker

if TYPE_CHECKING:
    from repo_stream.disk import DiskStore

__all__ = ["Incoming", "Spill"]

T = TypeVar("T")

#: Where blocks go that do not fit in memory: a file, an open store, a temporary file, or nowhere.
Spill: TypeAlias = "str | os.PathLike[str] | DiskStore | Literal[False] | None"

# A block that was let go of is looked for only as often as that reads no more than so many times
# what has been read of the file, and this.
_SEARCHES: Final = 4
_SEARCH_BYTES: Final = MIB
# So much of a file counts as one byte, as blocks are cut and checked only where the CID is: to look
# through all of it takes a 25th of the time of a walk, and not to find again what two keys share
# takes three times as long, as all goes to disk.
_SEARCHED_AS_ONE: Final = 4
# What it costs to note that the walk has used a block: its CID, as the tree has it, in a set. It is
# counted as soon as the block is kept, as the walk may use all of them before the next one comes.
_NOTE_COST: Final = 120
# Blocks are let go of for good reason only: where it leaves less than this free, all go to disk.
_ROOMY: Final = 7 / 8


class Marks:
    """A set of numbers, a bit each."""

    def __init__(self) -> None:
        self._bits = bytearray()

    def add(self, number: int) -> bool:
        """Add a number; say whether it is new."""
        place, bit = number >> 3, 1 << (number & 7)
        if place >= len(self._bits):
            self._bits.extend(bytes(place + 1 - len(self._bits)))
        new = not self._bits[place] & bit
        self._bits[place] |= bit
        return new


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
        # Where in the file the arrivals are, where they can be read again.
        self._place: tuple[int, int] | None = None
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
        self._released: Released[T] = Released(processor)
        # Of the blocks that are kept, those that the walk has used.
        self._used: set[bytes] = set()
        # Of those, the ones that were read again and can be once more.
        self._recalled: set[bytes] = set()
        self._piece: PieceKept = PieceKept(Arrivals(), (), 0)
        # Blocks on disk that the walk has used, by their numbers, and up to which number they had
        # been used before they went there.
        self._counting = counting
        self._counted = Marks()
        self._used_before: int | None = None
        # CIDs that were set aside on disk, and those that were looked through there, in bytes.
        self._set_aside = 0
        self._searched = 0
        # Whether all that the file holds is to be kept together, for walks that go anywhere.
        self._everything = False
        # The disk: the store, whether it was opened here, and what shows that it is still ours.
        self._store: DiskStore | None = None
        self._owned = False
        self._lease = 0
        # A piece that was read again, and where in the file it is.
        self._again: tuple[tuple[int, int], dict[bytes, bytes]] | None = None
        # Results that the processor failed to load again, found when all was put back.
        self._unreadable: dict[bytes, Exception] = {}
        # A move to disk that has begun, and what of it is being written.
        self._moving = False
        self._writing: tuple[list[Block], list[tuple[bytes, T]]] | None = None
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
        self._place = self._loading.place
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
            passed = [not each for each in wanted]
            self._pass(compress(cids, passed), compress(blocks, passed))
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
        self._pass(cids[:passed], blocks[:passed])
        self.arrivals.at += passed
        return passed > 0

    async def drain(self, *, keep: bool) -> None:
        """Read the file to its end, and check what comes.

        Args:
            keep: keep it small, as what was let go of is, for walks to what this one left out.
                Else nobody can ask for it any more.
        """
        while self.arrivals.next is not None or await self._read_piece():
            while keep and self.arrivals.next is not None:
                cids, blocks = self.arrivals.some(BATCH)
                # No tree names any others.
                named = [Cid(cid).is_ordinary for cid in cids]
                self._pass(compress(cids, named), compress(blocks, named))
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
        if self._place is not None:
            self._released.add_places(cids, self._place, len(arrivals.cids))
        else:
            blocks = arrivals.data[at : arrivals.at]
            at_once = self._loading.processor is self._processor
            if at_once and aligned and not self._processor.keeps_bytes:
                self._release([(arrivals.cids[node], arrivals.data[node]) for node in nodes])
                for node in reversed(nodes):
                    del blocks[node - at]
                self._release_results(taken, blocks)
            else:
                self._released.add_blocks(cids, blocks)
        self.used_kept(kept)
        if not aligned and self._shelf is None:
            # Copies of what came just now may have been kept before.
            self._used.update([cid for cid in taken.cids if cid in self.blocks])

    def _release_results(self, taken: Taken[T], blocks: Sequence[bytes]) -> None:
        """Let go of records as results; those that could be nodes may be wanted as such, too."""
        _rkeys, cids, values = taken
        like_nodes = [
            at for at, data in enumerate(blocks) if data[1:2] == b"a" and looks_like_node(data)
        ]
        if like_nodes:
            self._release([(cids[at], blocks[at]) for at in like_nodes])
            others = sorted({*range(len(blocks))}.difference(like_nodes))
            cids, values = [cids[at] for at in others], [values[at] for at in others]
            blocks = [blocks[at] for at in others]
        self._released.add_results(cids, values, blocks)

    def _release(self, blocks: Sequence[Block]) -> None:
        self._released.add_blocks([cid for cid, _ in blocks], [data for _, data in blocks])

    def _pass(self, cids: Iterable[bytes], blocks: Iterable[bytes]) -> None:
        """Let go of blocks that the walk has gone past."""
        self._released.add_blocks([*cids], [*blocks], used=False)

    async def _let_go(self) -> None:
        """Let go of what the walk has used, little by little: it may be all that is kept."""
        store, used = self._loading.store, self._used
        while used:
            some: list[bytes] = []
            size = 0
            while used and len(some) < BATCH and size < WRITE_BYTES:
                some.append(used.pop())
                size += len(store.blocks.raw.get(some[-1], b""))
            raw, processed = store.forget(some)
            self._release([block for block in raw if block[0] not in self._recalled])
            self._released.add_results(
                [cid for cid, _ in processed], [each for _, each in processed]
            )
            self._recalled.difference_update(some)
            await self._limit_released()
            await self.pause()
        self._used = set()  # only a new one is small
        store.shrink()

    @property
    def can_search(self) -> bool:
        """Whether what was let go of has not been looked through too often yet."""
        searched = self._searched + self._released.searched
        return searched <= _SEARCHES * (self._loading.offset + _SEARCH_BYTES)

    async def recall(self, walker: Walker[T]) -> bool:
        """Keep a block again that the walk was through with; say whether there was such a block.

        It is looked for through all that was let go of, so not whenever a block is not at hand: it
        may as well come later.

        Args:
            walker: stands before the block.

        Raises:
            ProcessError: where it was kept as a result, and the processor cannot load that.
        """
        cid = walker.nearest()
        found = await self._find(cid)
        if found is None:
            return False
        if found.failure is not None:
            raise _unreadable(walker.missing(), found.failure) from found.failure
        if self._need >= self._budget.store:
            await self._let_go()
        self._loading.store.put_back(cid, block=found.block, result=found.result)
        if found.used:
            self._used.add(cid)
        if found.place is not None:
            self._recalled.add(cid)
        return True

    async def _find(self, cid: bytes) -> Found[T] | None:
        """Look for a block that was let go of: the latest first, and on disk after all others."""
        # Of pieces the one that is at hand comes first, for keys that share records in one order.
        at_hand = None if self._again is None else self._again[0]
        pieces = sorted(self._released.pieces, key=lambda place: place != at_hand)
        in_pieces = (Found[T](None, None, place=place) for place in pieces)
        there = await self._there(chain(self._released.find(cid), in_pieces), cid)
        if there is not None or self._store is None or not self._set_aside:
            return there
        self._searched += self._set_aside
        number: int | None = None
        while there is None:
            aside = await self._store.last_set_aside(self._lease, cid, tails_of(cid), number)
            if aside is None:
                break
            number, row = aside
            there = await self._there(self._released.find_in([Segment(*row)], cid), cid)
        return there

    async def _there(self, candidates: Iterable[Found[T]], cid: bytes) -> Found[T] | None:
        """Give the first that is the block, read again where it has to be."""
        for found in candidates:
            if found.place is None:
                return found
            if (block := await self._block_at(found.place, cid)) is not None:
                return Found(block, None, place=found.place)
        return None

    async def _block_at(self, place: tuple[int, int], cid: bytes) -> bytes | None:
        """Read a block again, if it is in this place.

        Two keys that share a record are often near each other, and to those that share others, so
        that one place is kept as it was read.
        """
        if self._again is None or self._again[0] != place:
            size = place[1] - place[0]
            self._searched += size // _SEARCHED_AS_ONE
            await self.pause()
            data = await self._loading.read_again(place)
            # Where the file was written to meanwhile, it is checked as well: what it said of the
            # block before may be what has been changed.
            if cid not in data and not self._loading.changed:
                return None
            self._searched += size
            columns = self._loading.cut_again(place, data)
            self._again = place, dict(zip(*columns, strict=True))
        return self._again[1].get(cid)

    def gone(self, walker: Walker[T]) -> RepoStreamError:
        """Give the error for a block that the walk stands before, and that nobody has."""
        missing = walker.missing()
        if (failure := self._unreadable.get(missing.cid)) is not None:
            error = _unreadable(missing, failure)
            error.__cause__ = failure
            return error
        if self._released.lost:
            return BlockReleased(cid=missing.cid, rkey=missing.rkey)
        return missing

    # --- Room -----------------------------------------------------------------------------------

    @property
    def _need(self) -> int:
        return self._kept_need + self._released.size

    @property
    def _kept_need(self) -> int:
        """What is kept costs, and what it will cost to note that the walk has used it."""
        return self._loading.store.need + _NOTE_COST * self._kept

    async def _limit_released(self) -> None:
        """Keep what was let go of within its part of the memory limit."""
        if self._spill is False:
            most = max(self._budget.store * _ROOMY - self._kept_need, 0)
            while not self._released.fits(most):
                self._released.lose_oldest()
        elif not self._released.fits(self._budget.released):
            await self._put_aside(self._budget.released // 2)

    async def _put_aside(self, rest: int) -> None:
        store = await self._opened_store()
        while not self._released.fits(rest):
            segments = self._released.oldest(WRITE_BYTES)
            await store.set_aside(self._lease, segments)
            self._released.drop(len(segments))
            self._set_aside += sum([len(segment.cids) for segment in segments])

    async def _make_room(self) -> None:
        """Let go of blocks, or move to disk, where what is kept is all that the limit allows."""
        if self._need < self._budget.store:
            return
        if not self._everything:
            await self._let_go()
            await self._limit_released()
            room = 1 if self._spill is False else _ROOMY
            if self._need < self._budget.store * room:
                return
        if self._spill is False:
            # The walk can go on where it needs no more than what it comes past.
            self._everything = False
            raise MemLimitExceeded(mem_limit_mb=self._mem_limit_mb, early=self.early)
        self._moving = True
        await self.move_on()

    async def settle(self) -> None:
        """Have all that the file holds together, in memory or on disk: for walks to anywhere."""
        if self._everything and self.over and not len(self._released) and not self._moving:
            return
        self._everything = True
        if self._set_aside and self._shelf is None:
            self._moving = True
        await self.move_on()
        while self._shelf is None:
            if len(self._released):
                await self._put_back_some()
                await self._loading.turn.pause_if_over()
                await self._make_room()
            elif self.arrivals.next is not None or await self._read_piece():
                await self.keep_arrivals()
            else:
                break

    async def _put_back_some(self) -> None:
        """Keep again some of what was let go of."""
        segment = self._released.first()
        if (place := segment.place) is None:
            raw, results, failures = self._released.items(segment)
            self._unreadable.update(failures)
            self._put_back(raw, results, used=segment.used)
        else:
            self._put_back(await self._read_again(place, segment.each_cid), [], used=True)
        self._released.drop_first()

    def _put_back(
        self, raw: Sequence[Block], results: Sequence[tuple[bytes, T]], *, used: bool
    ) -> None:
        self._recalled.clear()
        for cid, block in raw:
            self._loading.store.put_back(cid, block=block, result=None)
        for cid, result in results:
            self._loading.store.put_back(cid, block=None, result=result)
        if used:
            self._used.update([cid for cid, _ in (*raw, *results)])

    # --- The disk -------------------------------------------------------------------------------

    async def bring(
        self, walker: Walker[T], blocks: Blocks[T], n: int, *, records: bool = True
    ) -> None:
        """Fetch what a walk needs next from disk; see `Shelf.bring`."""
        if self._shelf is None:
            raise self.gone(walker)
        try:
            await self._shelf.bring(walker, blocks, n, records=records)
            self._count(self._shelf)
        except MissingBlock:
            raise self.gone(walker) from None

    def _count(self, shelf: Shelf[T]) -> None:
        """Count the blocks that came from disk, which the walk will use, each once."""
        if shelf.numbers is not None:
            used_before = self._used_before or 0
            for number in shelf.numbers:
                if number > used_before and self._counted.add(number):
                    self.used += 1
            shelf.numbers.clear()

    async def _opened_store(self) -> DiskStore:
        if self._store is None:
            # SQLite takes half of the time of the import, and most repos stay in memory.
            from repo_stream.disk import DiskBuilder, DiskStore  # noqa: PLC0415

            if isinstance(self._spill, DiskStore):
                self._store = self._spill
            else:
                self._store = await DiskBuilder().open(self._spill or None)
                self._owned = True
        if not self._lease:
            self._lease = await self._store.begin(self._budget.cache)
        return self._store

    async def move_on(self) -> None:
        """Go on with a move to disk that was begun, if one was: all that is kept, then the rest."""
        if not self._moving or self._shelf is not None:
            return
        store = await self._opened_store()
        lease = self._lease
        self._again = None
        while len(self._released):
            await store.put(lease, *await self._rows(self._released.first()))
            self._released.drop_first()
        while (aside := await store.first_set_aside(lease)) is not None:
            number, row = aside
            await store.put(lease, *await self._rows(Segment(*row)))
            await store.drop_set_aside(lease, number)
        if self._used_before is None:
            self._used_before = await store.last_number(lease)
        while await self._write_some(store):
            pass
        await store.seal(lease)
        self._used.clear()
        self._recalled.clear()
        self.opened.clear()
        self._shelf = Shelf(store, lease, self._processor, self._loading.unstored)
        self._shelf.numbers = [] if self._counting else None

    async def _rows(self, segment: Segment) -> tuple[Sequence[Block], Sequence[Block]]:
        if (place := segment.place) is None:
            return self._released.rows(segment)
        return await self._read_again(place, segment.each_cid), []

    async def _read_again(self, place: tuple[int, int], tails: Sequence[bytes]) -> list[Block]:
        """Read blocks again: those whose CIDs end like these, or all where there are none."""
        columns = self._loading.cut_again(place, await self._loading.read_again(place))
        wanted = {*tails}
        blocks = zip(*columns, strict=True)
        return [block for block in blocks if not wanted or tail(block[0]) in wanted]

    async def _write_some(self, store: DiskStore) -> bool:
        """Write some of what is kept, or of what comes; say whether there was any."""
        kept = self._loading.store
        while self._writing is None:
            if kept.empty and self.arrivals.next is None and not await self._read_piece():
                return False
            while kept.need < WRITE_BYTES and self.arrivals.next is not None:
                cids, blocks = self.arrivals.some(BATCH)
                kept.add(cids, blocks)
                self.arrivals.at += len(cids)
                await self._loading.turn.pause_if_over()
            if not kept.empty:
                self._writing = kept.drain(WRITE_BLOCKS, WRITE_BYTES)
        await write(self._loading, store, self._lease, *self._writing)
        self._writing = None
        return True

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
            if self._lease and (store.path is not None or not self._owned):
                await store.abandon(self._lease)
        finally:
            if self._owned:
                await store.aclose()


def _unreadable(missing: MissingBlock, failure: Exception) -> ProcessError:
    message = f"its stored result cannot be read back: {failure}"
    return ProcessError(message, rkey=missing.rkey, cid=missing.cid)
