"""What goes to disk, and when: that is decided here.

`load_car` reads into memory until the blocks need their share of the memory limit (`Loading.fill`,
`store.budget`). Then the caller opens a store, and everything goes there (`writing.load_to_disk`).

`stream_car` decides block by block, and that is here, in `Kept`. A block is in one of these states:

- *kept*: it came before the walk needed it, and is in memory (`blocks`), raw or processed;
- *used*: the walk has read it, but it is still among the kept blocks (`used` has its CID);
- *released*: the walk has used it, or gone past it, and it has left the kept blocks. It is only
  needed again if two keys name one record, or if a method looks at another part of the repo;
- *on disk*: the whole repo is in a log, and the walk fetches blocks from there (`_fetcher`).

The log is started when released blocks take more than their share of memory, or when memory is
full: everything in memory is appended to it, and then everything that is read (`writing.LogStart`).
From then on released blocks are dropped, as the log has them. If the source is the path of a file,
that file is the log from the start. If there is nowhere to spill (`spill=False`), the oldest
released blocks are lost.

If memory is full, used blocks are released first. If that does not help, the repo moves to disk:
the blocks in memory are dropped, as they are in the log, and the rest of the file is read to the
log without being walked.

Every step can be cancelled and is resumed by the next call. So each copies a few blocks at a
time, then removes them from where they were, and notes what it has begun:
`LogStart.under_way` while the log is started, `_moving` while the repo moves to disk. `resume` goes
on with either.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Final, Generic, TypeVar

from repo_stream.car.damage import DamageLog
from repo_stream.drivers.destination import Destination
from repo_stream.drivers.fetch import Fetcher
from repo_stream.drivers.keywords import Spill
from repo_stream.drivers.loading import BATCH, Loading
from repo_stream.drivers.piece import Piece
from repo_stream.drivers.released import Marks, Released
from repo_stream.drivers.writing import LogStart, read_to_log
from repo_stream.errors import (
    BlockReleased,
    MemLimitExceeded,
    MissingBlock,
    ProcessError,
    RepoStreamError,
)
from repo_stream.mst.blocks import Blocks
from repo_stream.mst.walker import Walker
from repo_stream.store.budget import Budget
from repo_stream.store.repo_log import RepoLog

if TYPE_CHECKING:
    from repo_stream.store.disk import Lease

__all__ = ["Kept"]

T = TypeVar("T")

# What it costs to note that the walk has used a kept block: its CID, as the tree has it, in a set.
# It counts as soon as the block is kept, as the walk may use all of them before the next one comes.
_NOTE_COST: Final = 120

# Releasing used blocks must free more than this, or else it would be done for every few blocks that
# come: if it leaves more of the memory in use, the repo goes to disk.
_ROOMY: Final = 7 / 8


class Kept(Generic[T]):
    """The blocks of a CAR that have been read: in memory, or in a log.

    Args:
        loading: reads the CAR.
        mem_limit_mb: how much memory the blocks may take, in MiB.
        spill: where they go then.
        counting: whether to count the blocks that the walk has used also if they are on disk.
    """

    def __init__(
        self, loading: Loading[T], mem_limit_mb: float, spill: Spill, *, counting: bool = False
    ) -> None:
        budget = Budget.of(mem_limit_mb)
        self._loading = loading
        self._budget = budget
        self._mem_limit_mb = mem_limit_mb
        #: The kept blocks, among them those in `used`.
        self.blocks: Blocks[T] = loading.store.blocks
        #: The CIDs of kept blocks that the walk has used.
        self.used: set[bytes] = set()
        #: How many blocks of the file the walk has used, counting every copy; of those on disk, if
        #: they are counted.
        self.used_count: int = 0
        #: The nodes that the walk has opened among `blocks`, as in `Walker.opened`.
        self.opened: list[tuple[bytes, int]] = []
        #: Whether all blocks of the file are to be kept, for walks to any part of the repo.
        self.everything: bool = False

        # Where blocks go.
        self._can_spill = spill is not False
        self._destination = Destination(spill, budget.cache)
        room = budget.places if self._can_spill else max(budget.store, budget.places)
        self._log = RepoLog(
            loading.reader, self._leased, room, budget.write, loading.turn, damages=loading.damages
        )
        # Whether the log has been started. Then everything that is read goes there.
        self._logged = self._log.is_the_car
        if self._logged:
            loading.log = self._log
        #: The blocks that were read last.
        self.piece: Piece = Piece(loading.reader.header_end)

        # Released blocks: those in memory, and whether there are others that only the log has.
        self._released = Released()
        self._released_to_log = False
        # How many released blocks were lost.
        self._lost = 0
        # Which sections in the log the walk has gone past without using them.
        self._passed = Marks()
        # Which sections in the log the walk has used, if they are counted.
        self._counted: Marks | None = Marks() if counting else None

        self._start = LogStart(
            loading,
            self._log,
            released=self._released,
            piece=self.piece,
            passed=self._passed,
            counted=self._counted,
        )
        # Whether the repo is moving to disk, and where it is afterwards.
        self._moving = False
        self._fetcher: Fetcher[T] | None = None

    @property
    def on_disk(self) -> bool:
        """Whether the whole repo is on disk."""
        return self._fetcher is not None

    @property
    def damages(self) -> DamageLog | None:
        """What is damaged in the CAR, if the walk goes past that."""
        return self._loading.damages

    @property
    def in_place(self) -> bool:
        """Whether the log is the file of the CAR itself."""
        return self._log.is_the_car

    @property
    def is_settled(self) -> bool:
        """Whether all kept blocks are in memory to stay, and none of them is released."""
        return not (self._released.blocks or self._released_to_log or self._moving)

    @property
    def counts(self) -> bool:
        """Whether it is known how many blocks the walk has used."""
        return self._counted is not None or not self.on_disk

    @property
    def early(self) -> int:
        """How many blocks in memory the walk has not used."""
        return 0 if self.on_disk else self._kept_count - len(self.used)

    @property
    def log_end(self) -> int:
        """The offset in the log of the next block to be read, in bytes."""
        return self._log.offset

    @property
    def _kept_count(self) -> int:
        raw, processed = self.blocks.raw, self.blocks.processed
        return len(raw) if processed is raw else len(raw) + len(processed)

    def new_among(self, cids: Iterable[bytes]) -> list[bytes]:
        """Return the CIDs of blocks that are not kept yet, each once."""
        raw, processed = self.blocks.raw, self.blocks.processed
        return [cid for cid in dict.fromkeys(cids) if cid not in raw and cid not in processed]

    def note_short_sections(self, start: int) -> None:
        """Note whether there may be short sections from an offset in the log on."""
        if self._loading.reader.has_short_sections:
            for marks in (self._passed, self._counted):
                if marks is not None:
                    # Before the log is started, nothing is marked.
                    marks.expect_short(start if self._logged else 0)

    # --- Using and releasing blocks -------------------------------------------------------------

    def keep(self, cids: Sequence[bytes], blocks: Sequence[bytes]) -> None:
        """Keep blocks in memory."""
        self._loading.store.add(cids, blocks)

    def keep_raw(self, cid: bytes, data: bytes) -> None:
        """Keep one block in memory without processing it."""
        self._loading.store.keep_raw(cid, data)

    def use(self, cids: Sequence[bytes]) -> None:
        """Note that the walk has used kept blocks."""
        known = len(self.used)
        self.used.update(cids)
        self.used_count += len(self.used) - known

    def use_copies(self, cids: Sequence[bytes]) -> None:
        """Note that the walk has used kept copies of blocks, if there are any."""
        if not self.on_disk:
            self.used.update([cid for cid in cids if cid in self.blocks])

    def release_arrivals(self) -> None:
        """Release the blocks of the piece that the walk has used since the last call."""
        arrivals, start = self.piece.arrivals, self.piece.noted
        end = arrivals.at
        if not self._released_to_log:
            self._released.add(arrivals.cids[start:end], arrivals.data[start:end], used=True)
        if self._counted is not None and self._logged:
            self._count(self.piece.starts()[start:end])
        # Without a call, so that no Ctrl-C comes in between.
        self.used_count += end - start
        self.piece.noted = end

    def pass_by(self, numbers: Sequence[int]) -> None:
        """Release blocks of the piece, by their indices, that the walk has gone past."""
        if self._released_to_log:
            starts = self.piece.starts() if numbers else []
            for n in numbers:
                self._passed.add(starts[n])
        else:
            cids, data = self.piece.arrivals.cids, self.piece.arrivals.data
            self._released.add([cids[n] for n in numbers], [data[n] for n in numbers], used=False)

    def _count(self, starts: Iterable[int]) -> int:
        """Note which sections the walk has used; return how many of them are new."""
        return 0 if self._counted is None else sum(map(self._counted.add, starts))

    async def _release_used(self) -> None:
        """Release the used blocks, a few at a time, as they may be all that is kept."""
        store, used = self._loading.store, self.used
        if used:
            await self._prepare_release()
        while used:
            raw, results = store.forget(self._pop_used())
            if not self._logged:
                self._released.add([cid for cid, _ in raw], [data for _, data in raw], used=True)
                self._lost += len(results)
            await self.limit_released()
            await self._loading.turn.pause_if_over()
        self.used = set()  # an emptied set stays large
        store.shrink()

    async def _prepare_release(self) -> None:
        """Have the used blocks in the log, if there can be one, and count them there.

        Raises:
            ProcessError: if there are results that cannot be stored.
        """
        if self._can_spill and not self._logged:
            await self._start_log()
        if not self._logged:
            return
        if self._start.unstorable is not None:
            raise self._start.unstorable
        if self._counted is not None:
            self._count(await self._log.starts_of([*self.used]))
        await self._leave_released_to_log()

    def _pop_used(self) -> list[bytes]:
        """Remove some CIDs from `used`: as many as are written at a time."""
        raw, used = self.blocks.raw, self.used
        some: list[bytes] = []
        size = 0
        while used and len(some) < BATCH and size < self._budget.write:
            some.append(used.pop())
            size += len(raw.get(some[-1], b""))
        return some

    # --- Finding blocks again -------------------------------------------------------------------

    async def recall(self, walker: Walker[T]) -> bool:
        """Keep a released block again, if the walk stands before one; return whether it does.

        Raises:
            ProcessError: if it was kept as a result, and the processor cannot load that.
            CarChanged, DiskError: if it cannot be read again.
        """
        cid = walker.nearest()
        block = self._released.blocks.get(cid)
        if block is not None:
            passed = cid in self._released.passed
            await self._release_used_if_full()
            if not self._released_to_log:  # else it was left to the log just now
                self._loading.store.put_back(cid, block=block, result=None)
                self._released.passed.discard(cid)
                if not passed:
                    self.used.add(cid)
                return True
        start = await self._released_start(cid)
        if start is None:
            return False
        fetched = await self._log.fetch([cid])
        block = fetched.raw.get(cid)
        result: T | None = None
        if block is None:
            if cid not in fetched.processed:
                return False  # another block has a place like it
            result = self._loaded(fetched.processed[cid], walker)
        await self._release_used_if_full()
        self._loading.store.put_back(cid, block=block, result=result)
        if not self._passed.discard(start):
            self.used.add(cid)
        return True

    def _loaded(self, dumped: bytes, walker: Walker[T]) -> T:
        """Load the stored result for the record that the walk stands before."""
        try:
            return self._loading.processor.loads(dumped)
        except Exception as error:
            missing, message = walker.missing(), f"its stored result cannot be read back: {error}"
            raise ProcessError(message, key=missing.key, cid=missing.cid) from error

    async def _released_start(self, cid: bytes) -> int | None:
        """Return the offset in the log of a released block; `None` if it is not one."""
        if not self._released_to_log:
            return None
        arrivals = self.piece.arrivals
        for start in await self._log.starts_of([cid]):
            # Blocks that have come and were not used yet are in the log as well.
            if start < self.piece.start or cid not in arrivals.cids[arrivals.at :]:
                return start
        return None

    def put_released_back(self) -> None:
        """Keep some released blocks again."""
        for cid, block in self._released.oldest(BATCH):
            self._loading.store.put_back(cid, block=block, result=None)
        # Only now, as `size_of` of the processor may have been interrupted.
        blocks, passed = self._released.take(BATCH)
        self.used.update([cid for cid, _ in blocks if cid not in passed])

    @property
    def released_in_memory(self) -> bool:
        """Whether there are released blocks in memory."""
        return bool(self._released.blocks)

    async def has_released(self, cid: bytes) -> bool:
        """Return whether a block has been released, to memory or to the log."""
        return cid in self._released.blocks or await self._released_start(cid) is not None

    def gone(self, walker: Walker[T]) -> RepoStreamError:
        """Return the error for the block that the walk stands before, if it is nowhere."""
        missing = walker.missing()
        if (unstored := self._loading.unstored.get(missing.cid)) is not None:
            error = ProcessError(unstored.message, key=missing.key, cid=missing.cid)
            error.__cause__ = unstored.cause
            return error
        if self._lost:
            return BlockReleased(cid=missing.cid, key=missing.key)
        return missing

    async def fetch(
        self, walker: Walker[T], blocks: Blocks[T], n: int, *, records: bool = True
    ) -> None:
        """Fetch the blocks that a walk needs next from disk; see `Fetcher.fetch`."""
        if self._fetcher is None:
            raise self.gone(walker)
        try:
            await self._fetcher.fetch(walker, blocks, n, records=records)
        except MissingBlock:
            raise self.gone(walker) from None
        finally:
            if (starts := self._log.starts) is not None:
                self.used_count += self._count(starts)
                starts.clear()

    # --- The memory limit -----------------------------------------------------------------------

    @property
    def _need(self) -> int:
        return self._kept_need + self._released.size + self._log.size

    @property
    def _kept_need(self) -> int:
        """What the kept blocks need, and what it will cost to note that the walk has used them."""
        return self._loading.store.need + _NOTE_COST * self._kept_count

    @property
    def _is_full(self) -> bool:
        return self._need >= self._budget.store

    async def limit_released(self) -> None:
        """Keep the released blocks within their share of the memory limit."""
        if self._released_to_log:
            self._released.clear()
        elif self._logged:
            if self._released.size > self._budget.released:
                await self._leave_released_to_log()
        elif not self._can_spill:
            most = max(self._budget.store * _ROOMY - self._kept_need, 0)
            while self._released.size > most:
                self._lost += len(self._released.take(BATCH)[0])
        elif self._released.size > self._budget.released or self._start.under_way:
            await self._start_log()

    async def _leave_released_to_log(self) -> None:
        """Drop the released blocks from memory, as the log has them."""
        if self._released_to_log:
            return
        if passed := self._released.passed:
            for start in await self._log.starts_of([*passed]):
                self._passed.add(start)
        self._released_to_log = True
        self._released.clear()

    async def _release_used_if_full(self) -> None:
        if self._is_full:
            await self._release_used()

    async def make_room(self) -> None:
        """If memory is full, release used blocks; if that is not enough, move to disk.

        Raises:
            MemLimitExceeded: if there is nowhere to spill.
        """
        if not self._is_full:
            return
        if not self._logged and self._can_spill:
            await self._start_log()
        if not self.everything:
            await self._release_used()
            await self.limit_released()
            if self._need < self._budget.store * (_ROOMY if self._can_spill else 1):
                return
        if not self._can_spill and not self._logged:
            # The walk can go on, if it only needs what is still to come.
            self.everything = False
            raise self._over_limit()
        await self.move_to_disk()

    def _over_limit(self) -> MemLimitExceeded:
        return MemLimitExceeded(mem_limit_mb=self._mem_limit_mb, early=self.early)

    async def move_if_only_logged(self) -> None:
        """Move to disk, if there are released blocks that only the log has."""
        if self._released_to_log and not self.on_disk:
            await self.move_to_disk()

    # --- The disk -------------------------------------------------------------------------------

    async def _leased(self) -> Lease:
        if not self._can_spill:  # the places of blocks do not fit in memory
            raise self._over_limit()
        return await self._destination.leased()

    async def move_to_disk(self) -> None:
        """Move the whole repo to disk: all that is kept, and the rest of the file."""
        self._moving = True
        await self.resume()

    async def resume(self) -> None:
        """Go on with what was cancelled: starting the log, and moving to disk."""
        if self._start.under_way:
            await self._start_log()
        if not self._moving or self.on_disk:
            return
        loading, log = self._loading, self._log
        if not self._logged:
            await self._start_log()
        if self._start.unstorable is not None:
            # The walk can go on, if it only needs what is in memory or still to come.
            self._moving = self.everything = False
            raise self._start.unstorable
        await log.index()
        if self._counted is not None:
            self._count(await log.starts_of([*self.used]))
            log.starts = []
        self._drop_all()
        start = log.offset
        try:
            await read_to_log(loading, log)
        finally:  # if it is cancelled, the next call starts later
            self.note_short_sections(start)
        self._fetcher = Fetcher(log, loading.processor, loading.unstored)

    def _drop_all(self) -> None:
        """Drop everything from memory, as the log has it."""
        self.used.clear()
        self._loading.store.drop()
        self._released.clear()
        self.opened.clear()
        self.piece.drop()

    async def _start_log(self) -> None:
        await self._start.run()
        self._logged = self._released_to_log = True
        await self._log.keep_up()

    async def aclose(self) -> None:
        """Close what was opened here, and empty a store that was given."""
        self._log.close()
        try:
            await self._loading.aclose()
        finally:
            await self._destination.aclose()
