"""Here it is decided what goes to disk, and when.

`load_car` reads into memory until the blocks need their share of the memory limit (`Loading.fill`,
`store.budget`). Then the caller opens a store, and `load_to_disk` moves everything there at once.

`stream_car` decides block by block, in `Kept`. A block is in one of these states:

- *kept*: it came before the walk needed it, and is in memory (`blocks`), raw or processed;
- *used*: the walk has read it, but it is still among the kept blocks (`_used` has its CID);
- *released*: the walk has used it, or gone past it, and it has left the kept blocks. It is only
  needed again if two keys name one record, or if a method looks at another part of the repo;
- *on disk*: the whole repo is in a log, and the walk fetches blocks from there (`_shelf`).

The log is begun when released blocks take more than their share of memory, or when memory is full:
everything in memory is appended to it, and then everything that is read. From then on released
blocks are dropped, as the log has them. If the source is the path of a file, that file is the log
from the start. If there is nowhere to spill (`spill=False`), the oldest released blocks are lost.

If memory is full, used blocks are released first. If that does not help, the repo moves to disk:
the blocks in memory are dropped, as they are in the log, and the rest of the file is read to the
log without being walked.

Every step can be cancelled and is resumed by the next call. So each takes a few blocks, leaves them
where they are until they are where they should be, and remembers what it has begun: `_unwritten`
while the log is begun, `_moving` while the repo moves to disk. `resume` goes on with either.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Final, Generic, NamedTuple, TypeVar

from repo_stream.car.decoder import Block
from repo_stream.drivers.destination import Destination
from repo_stream.drivers.fetch import Shelf
from repo_stream.drivers.keywords import Spill
from repo_stream.drivers.loading import BATCH, Loading, Unstored
from repo_stream.drivers.piece import Piece, starts_of
from repo_stream.drivers.released import Marks, Released
from repo_stream.errors import (
    BlockReleased,
    MemLimitExceeded,
    MissingBlock,
    ProcessError,
    RepoStreamError,
)
from repo_stream.ipld.cid import Cid
from repo_stream.mst.blocks import Blocks
from repo_stream.mst.walker import Walker
from repo_stream.process import as_bytes
from repo_stream.store.budget import Budget
from repo_stream.store.repo_log import RepoLog

if TYPE_CHECKING:
    from repo_stream.store.disk import Lease

__all__ = ["Kept", "load_to_disk"]

T = TypeVar("T")

# Blocks to take out of memory at a time, to be written.
_WRITE_BLOCKS: Final = 1000

# How many results that cannot be stored are ignored, as their blocks may not be records at all. If
# there are more, it is the processor whose results cannot be stored.
_MOST_UNSTORED: Final = 100

# What it costs to note that the walk has used a kept block: its CID, as the tree has it, in a set.
# It counts as soon as the block is kept, as the walk may use all of them before the next one comes.
_NOTE_COST: Final = 120

# Releasing used blocks must free more than this, or else it would be done for every few blocks that
# come: if it leaves more of the memory in use, the repo goes to disk.
_ROOMY: Final = 7 / 8


# --- All at once --------------------------------------------------------------------------------


async def load_to_disk(loading: Loading[T], log: RepoLog) -> None:
    """Move the blocks in memory to the log, and then read the rest of the file to it.

    Raises:
        ProcessError: if too many results cannot be stored.
        DiskError: if the store fails.
        RepoStreamError: if the file cannot be read.
    """
    store = loading.store
    if log.is_the_car:
        store.drop()
    while not store.empty:
        raw, results = store.drain(_WRITE_BLOCKS, log.write_size)
        log.add(raw)
        while results:
            await _dump_results(loading, log, results)
            await log.keep_up()
        await log.keep_up()
    if not log.is_the_car:
        log.follow()
    loading.log = log
    await log.index()
    await _read_to_log(loading, log)


async def _read_to_log(loading: Loading[T], log: RepoLog) -> None:
    """Read the rest of the file, which goes to the log."""
    while await loading.next_columns() is not None:
        await loading.turn.pause_if_over()
    await log.seal()


async def _dump_results(loading: Loading[T], log: RepoLog, results: list[tuple[bytes, T]]) -> None:
    """Add some results to the log, from the end of the list, and remove them from it.

    Those that cannot be stored are remembered in `Loading.unstored`.

    Raises:
        ProcessError: if they are too many.
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
            message = _cannot_store(value, error)
            if len(loading.unstored) == _MOST_UNSTORED and cid not in loading.unstored:
                raise ProcessError(message, key=None, cid=Cid(cid)) from error
            # Without its traceback, which would keep the blocks of this call in memory.
            loading.unstored[cid] = Unstored(message, error.with_traceback(None))
        else:
            dumped.append((cid, data))
            room -= len(data)
    log.add(dumped, results=True)
    del results[-taken:]
    await loading.turn.pause_if_over()


def _cannot_store(value: object, error: Exception) -> str:
    return (
        f"the processor's result, a {type(value).__qualname__}, cannot be stored on disk: {error}; "
        "return plain values, or use Processor(..., dumps=..., loads=...)"
    )


# --- Block by block -----------------------------------------------------------------------------


class _Unwritten(NamedTuple, Generic[T]):
    """What has to be written before the log is complete: kept blocks by their CIDs, and results."""

    cids: list[bytes]
    results: list[tuple[bytes, T]]


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
        self._log = RepoLog(loading.reader, self._leased, room, budget.write, loading.turn)
        # Whether the log has been begun. Then everything that is read goes there.
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
        self._counting = counting
        self._counted = Marks()

        # A log that is being begun, and the reason why it cannot be finished.
        self._unwritten: _Unwritten[T] | None = None
        self._unstorable: ProcessError | None = None
        # Whether the repo is moving to disk, and where it is afterwards.
        self._moving = False
        self._shelf: Shelf[T] | None = None

    @property
    def on_disk(self) -> bool:
        """Whether the whole repo is on disk."""
        return self._shelf is not None

    @property
    def all_at_hand(self) -> bool:
        """Whether no block is released or about to move to disk."""
        return not self._released.blocks and not self._moving

    @property
    def counts(self) -> bool:
        """Whether it is known how many blocks the walk has used."""
        return self._counting or not self.on_disk

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

    # --- Using and releasing blocks -------------------------------------------------------------

    def keep(self, cids: Sequence[bytes], blocks: Sequence[bytes]) -> None:
        """Keep blocks in memory."""
        self._loading.store.add(cids, blocks)

    def use(self, cids: Sequence[bytes]) -> None:
        """Note that the walk has used kept blocks."""
        known = len(self.used)
        self.used.update(cids)
        self.used_count += len(self.used) - known

    def use_copies(self, cids: Sequence[bytes]) -> None:
        """Note that the walk has used kept copies of blocks, if there are any."""
        if not self.on_disk:
            self.used.update([cid for cid in cids if cid in self.blocks])

    def release_arrivals(self, start: int, end: int) -> None:
        """Release the blocks of the piece that the walk has used, from index `start` to `end`."""
        arrivals = self.piece.arrivals
        self.used_count += end - start
        if not self._released_to_log:
            self._released.add(arrivals.cids[start:end], arrivals.data[start:end], used=True)
        if self._counting and self._logged:
            self._count(self.piece.starts()[start:end])

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
        return sum(map(self._counted.add, starts))

    async def _release_used(self) -> None:
        """Release the used blocks, a few at a time, as they may be all that is kept."""
        store, used = self._loading.store, self.used
        while used:
            if self._logged and self._unstorable is not None:
                raise self._unstorable
            some = self._pop_used()
            if self._counting and self._logged:
                self._count(await self._log.starts_of(some))
            raw, results = store.forget(some)
            if self._logged:
                self._released_to_log = True
            else:
                self._released.add([cid for cid, _ in raw], [data for _, data in raw], used=True)
                self._lost += len(results)
            await self.limit_released()
            await self._loading.turn.pause_if_over()
        self.used = set()  # an emptied set stays large
        store.shrink()

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
            await self._release_used_if_full()  # it may drop the block from `_released`
            self._loading.store.put_back(cid, block=block, result=None)
            self._released.passed.discard(cid)
            if not passed:
                self.used.add(cid)
            return True
        start = await self._released_start(cid)
        if start is None:
            return False
        fetched = await self._log.fetch([cid])
        result: T | None = None
        if cid in fetched.processed:
            try:
                result = self._loading.processor.loads(fetched.processed[cid])
            except Exception as error:
                raise _unreadable(walker.missing(), error) from error
        elif cid not in fetched.raw:
            return False  # another block has a place like it
        await self._release_used_if_full()
        self._loading.store.put_back(cid, block=fetched.raw.get(cid), result=result)
        if not self._passed.discard(start):
            self.used.add(cid)
        return True

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
        blocks, passed = self._released.take(BATCH)
        for cid, block in blocks:
            self._loading.store.put_back(cid, block=block, result=None)
        self.used.update([cid for cid, _ in blocks if cid not in passed])

    @property
    def released_in_memory(self) -> bool:
        """Whether there are released blocks in memory."""
        return bool(self._released.blocks)

    def has_released(self, cid: bytes) -> bool:
        """Return whether a block has been released and is still in memory."""
        return cid in self._released.blocks

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

    async def bring(
        self, walker: Walker[T], blocks: Blocks[T], n: int, *, records: bool = True
    ) -> None:
        """Fetch the blocks that a walk needs next from disk; see `Shelf.bring`."""
        if self._shelf is None:
            raise self.gone(walker)
        try:
            await self._shelf.bring(walker, blocks, n, records=records)
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
        elif self._released.size > self._budget.released or self._unwritten is not None:
            await self._begin_log()

    async def _leave_released_to_log(self) -> None:
        """Drop the released blocks from memory, as the log has them."""
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
            await self._begin_log()
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
        """Have the whole repo on disk: all that is kept, and the rest of the file."""
        self._moving = True
        await self.resume()

    async def resume(self) -> None:
        """Go on with what was cancelled: beginning the log, and moving to disk."""
        if self._unwritten is not None:
            await self._begin_log()
        if not self._moving or self.on_disk:
            return
        loading, log = self._loading, self._log
        if not self._logged:
            await self._begin_log()
        if self._unstorable is not None:
            raise self._unstorable
        await log.index()
        if self._counting:
            self._count(await log.starts_of([*self.used]))
            log.starts = []
        self._drop_all()
        await _read_to_log(loading, log)
        self._shelf = Shelf(log, loading.processor, loading.unstored)

    def _drop_all(self) -> None:
        """Drop everything from memory, as the log has it."""
        self.used.clear()
        self._loading.store.drop()
        self._released.clear()
        self.opened.clear()
        self.piece.drop()

    async def _begin_log(self) -> None:
        """Begin the log with all that is in memory; then it follows the CAR."""
        if self._unwritten is None:
            raw, processed = self.blocks.raw, self.blocks.processed
            results = [] if processed is raw else [*processed.items()]
            self._unwritten = _Unwritten([*raw], results)
        await self._write_released()
        await self._write_blocks(self._unwritten.cids)
        await self._write_results(self._unwritten.results)
        self._follow_car()
        self._unwritten, self._logged, self._released_to_log = None, True, True
        await self._log.keep_up()

    async def _write_released(self) -> None:
        log = self._log
        while self._released.blocks:
            some, passed = self._released.take(BATCH)
            for (cid, _), start in zip(some, starts_of(some, log.end), strict=True):
                if cid in passed:
                    self._passed.add(start)
                elif self._counting:
                    self._counted.add(start)
            log.add(some)
            await self._keep_up()

    async def _write_blocks(self, cids: list[bytes]) -> None:
        while cids:
            some: list[Block] = []
            size = 0
            for cid in cids[: -BATCH - 1 : -1]:
                some.append((cid, self.blocks.raw[cid]))
                size += len(some[-1][1])
                if size >= self._budget.write:
                    break
            self._log.add(some)
            del cids[-len(some) :]
            await self._keep_up()

    async def _write_results(self, results: list[tuple[bytes, T]]) -> None:
        while results and self._unstorable is None:
            try:
                await _dump_results(self._loading, self._log, results)
            except ProcessError as error:
                # It matters only if results have to leave the memory.
                self._unstorable = error
            await self._log.keep_up()

    def _follow_car(self) -> None:
        """Append what is left of the piece to the log, and from now on all that is read."""
        log, start = self._log, self._log.end
        log.add(self.piece.rest())
        log.follow()
        self._loading.log = log
        self.piece.move(start, log.offset)

    async def _keep_up(self) -> None:
        await self._log.keep_up()
        await self._loading.turn.pause_if_over()

    async def aclose(self) -> None:
        """Close what was opened here, and empty a store that was given."""
        try:
            await self._loading.aclose()
        finally:
            await self._destination.aclose()


def _unreadable(missing: MissingBlock, failure: Exception) -> ProcessError:
    message = f"its stored result cannot be read back: {failure}"
    return ProcessError(message, key=missing.key, cid=missing.cid)
