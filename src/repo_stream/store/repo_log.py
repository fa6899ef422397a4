"""The blocks of one repo in a log: appended as they come, found by their places, read again.

A log is a file of sections that can be read at any offset. If the source of the repo is the path of
a file, that file is the log, and nothing is written. Otherwise a store's log is appended to: first
the blocks that are in memory, section by section, and then the rest of the CAR as it is read, in
large writes.

The *index* maps the CID of each block to its place in the log (`places`). It is built from the log
when a block is first asked for, or when the whole repo has to go to disk, and is kept up from then
on; the walk of a streamable CAR never needs it. What does not fit in memory goes to the store's
database.

Results that a processor made before the log was begun are appended as well, as sections of a
checksum and the dumped bytes. The log remembers which offsets hold results.

The file may be changed while it is read, by accident or on purpose, so every section that is read
is checked (`checked_sections`). If it is not the one that was asked for, the other places with the
same bits of the hash are tried. If none has the block, that is an error: a changed log never yields
another block, and a block is never reported missing because of a change.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Awaitable, Callable, Generator, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from itertools import chain
from typing import TYPE_CHECKING, Final, NamedTuple, NoReturn, TypeVar

from repo_stream.car.damage import DamageLog, Skip
from repo_stream.car.decoder import Block, CarDecoder, Columns
from repo_stream.car.encoder import write_header, write_section
from repo_stream.car.files import OpenFile
from repo_stream.car.reader import BlockReader, checksum_of
from repo_stream.errors import CarChanged, RepoStreamError, StoreClosed
from repo_stream.ipld.cid import Cid
from repo_stream.limits import MIB, Limits
from repo_stream.store.buckets import Buckets, candidates, has_room_for
from repo_stream.store.checked_sections import CheckedSections, is_lookalike, with_checksum
from repo_stream.store.log import LOG_START
from repo_stream.store.places import Places, locate
from repo_stream.turn import Turn

if TYPE_CHECKING:
    from repo_stream.store.disk import Lease

__all__ = ["WRITE_BYTES", "Fetched", "RepoLog"]

R = TypeVar("R")


class Fetched(NamedTuple):
    """The answer to `RepoLog.fetch`, by CIDs. What is in none of the three is not in the log.

    Attributes:
        raw: blocks as they came.
        processed: results, as dumped by the processor.
        far: blocks that are in the log, but too large for this answer. Ask for them again later.
    """

    raw: dict[bytes, bytes]
    processed: dict[bytes, bytes]
    far: list[bytes]

    @property
    def all(self) -> Iterator[bytes]:
        """The CIDs of all blocks that are in the log."""
        return chain(self.raw, self.processed, self.far)

    @property
    def sizes(self) -> Iterator[int]:
        """The sizes of the blocks and results in this answer, in bytes."""
        return map(len, chain(self.raw.values(), self.processed.values()))


#: The most to write to a log at a time, in bytes, unless a section is longer. Writes of 256 KiB
#: take 1.05 of the time, and 1.2 under trio.
WRITE_BYTES: Final = MIB // 2
# Blocks to locate at a time, as each may need a bucket from disk. The buckets of a thousand blocks
# are a MiB, which fragmented several MiB in the memory of SQLite's thread.
_LOCATED: Final = 250
# Blocks to put into the index between two looks at the clock; they take a millisecond.
_NOTED: Final = 512
# How much of the log to read at a time to build the index, in bytes.
_SCANNED: Final = MIB // 4


class RepoLog:
    """The blocks of a repo on disk.

    Args:
        reader: reads the repo.
        leased: returns the lease of a store; called once, when a store is needed.
        room: how much memory the index may take, in bytes; the rest goes to the store.
        write: how much to write to the log at a time, in bytes.
        turn: lets other tasks run.
        damages: which bytes of the repo are damaged, if any can be.
    """

    def __init__(
        self,
        reader: BlockReader,
        leased: Callable[[], Awaitable[Lease]],
        room: int,
        write: int,
        turn: Turn,
        *,
        damages: DamageLog | None = None,
    ) -> None:
        self._reader = reader
        self._file = reader.file
        if self._file is not None and not has_room_for(self._file.size):
            self._file = None
        self._leased = leased
        self._lease: Lease | None = None
        self._room = room
        #: How much to write at a time, in bytes.
        self.write_size: int = write
        self._turn = turn
        self._damages = damages
        self._sections = CheckedSections(reader.longest_section, verifies=reader.verifies_cids)
        # What is to be appended, how many blocks end in it, and the offset where it goes.
        self._parts: list[bytes] = []
        self._blocks = 0
        self._written = LOG_START
        # The offset of a section in the log, less its offset in the CAR, and from where on.
        self._ahead = self._ahead_from = 0
        # The checksum of the CIDs that were added before the rest of the CAR.
        self._checksum = 0
        # The index, how far it is built (`None` when all of it is), the blocks to add next (and how
        # many of them have been added), and the offset of the next one.
        self._places: Places | None = None
        self._scan: _Scan | None = None
        self._noting: _Noting | None = None
        self._noted = 0
        self._start = reader.header_end if self._file is not None else LOG_START
        #: The offsets of all blocks that were fetched, if a caller has set this to a list.
        self.starts: list[int] | None = None

    @property
    def is_the_car(self) -> bool:
        """Whether the log is the CAR itself, so that nothing has to be written."""
        return self._file is not None

    @property
    def size(self) -> int:
        """How much memory the index takes, in bytes; 0 if there is none."""
        return 0 if self._places is None else self._places.size

    async def hold(self) -> None:
        """Lease the store now, even if nothing will have to go there."""
        await self._store()

    def close(self) -> None:
        """Refer to the caller no more, so that a closed repo is freed at once.

        What refers to each other is only freed when garbage is collected, and that is rare: the
        blocks of several closed repos would take the memory of the next one.
        """
        self._leased = _no_store

    async def _store(self) -> Lease:
        if self._lease is None:
            self._lease = await self._leased()
        return self._lease

    # --- Writing --------------------------------------------------------------------------------

    @property
    def end(self) -> int:
        """The offset of the next section to be added, in bytes."""
        return self._written + sum(map(len, self._parts))

    @property
    def offset(self) -> int:
        """The offset in the log that the decoder of the CAR has come to, in bytes."""
        return self._reader.offset + self._ahead

    def add(self, blocks: Sequence[Block], *, results: bool = False) -> None:
        """Add blocks, or dumped results; `flush` or `keep_up` writes them."""
        if not blocks:
            return
        if results:
            blocks = [(cid, with_checksum(data)) for cid, data in blocks]
        start = self.end
        self._checksum = checksum_of([cid for cid, _ in blocks], self._checksum)
        self._parts.append(b"".join(chain.from_iterable([write_section(*each) for each in blocks])))
        self._blocks += len(blocks)
        if results:
            self._sections.note_results(start, self.end)

    def follow(self) -> None:
        """Add the rest of the CAR, from its next section on, as it is read."""
        if self._damages is not None:
            # A read that was cancelled, such as the last one, may have skipped some bytes. The log
            # does not have them.
            self._damages.take_skipped()
        self._ahead_from = self.end
        self._ahead = self._ahead_from - self._reader.offset
        self._reader.copy_to(self._parts, self._checksum)

    async def keep_up(self) -> None:
        """Write what has been added, if it is enough for one write."""
        if self._parts and self.end - self._written >= self.write_size:
            await self.flush()

    async def flush(self) -> None:
        """Write all that has been added.

        Raises:
            DiskError: if the store fails.
        """
        if self._parts:
            parts, blocks = self._parts[:], self._blocks
            lease = await self._store()
            with self._dropping_index_on_failure():
                await lease.append(self._written, parts, blocks)
            # If it was cancelled before this line, the same bytes are written again.
            self._written += sum(map(len, parts))
            del self._parts[: len(parts)]
            self._blocks -= blocks

    # --- The index ------------------------------------------------------------------------------

    def expect(
        self, cids: Sequence[bytes], blocks: Sequence[bytes], skipped: Sequence[Skip] = ()
    ) -> None:
        """Announce the next blocks of the CAR; `note` puts them into the index, if there is one.

        Args:
            cids: their CIDs.
            blocks: their bytes.
            skipped: the damaged bytes among them.
        """
        self._blocks += 0 if self._file is not None else len(cids)
        if self._is_indexed:
            self._noting = _Noting([*cids], [*blocks], skipped)

    @property
    def _is_indexed(self) -> bool:
        return self._places is not None and self._scan is None

    @contextmanager
    def _dropping_index_on_failure(self) -> Generator[None]:
        """Drop the index if the store fails, which may undo what was stored of it before.

        It is also dropped if the file was changed. It is built again when it is needed.
        """
        try:
            yield
        except RepoStreamError:
            self._places = self._scan = self._noting = None
            raise

    async def note(self) -> None:
        """Put the blocks of `expect` into the index, if there is one."""
        while self._places is not None and self._noting is not None:
            skipped, cids, blocks = self._noting.next_run()
            self._noted = self._places.add(cids, blocks, self._noted + skipped)
            if self._noting.over:
                self._noting = None
            if self._places.size > self._room:
                lease = await self._store()
                with self._dropping_index_on_failure():
                    await lease.put_places(self._places)
            await self._turn.pause_if_over()

    async def index(self) -> None:
        """Build the index of all that is in the log by now, unless there is one.

        If it is cancelled, the next call goes on where it was.

        Raises:
            CarError: if the file has been changed since it was read.
            DiskError: if the store fails.
        """
        if self._is_indexed:
            return
        await self.flush()
        end, checksum = self.offset, self._reader.checksum
        if self._places is None or self._scan is None:
            self._places, self._noted = Places(), self._start
            self._scan = _Scan(self._start)
        scan = self._scan
        with self._dropping_index_on_failure():
            await self.note()
            while scan.at < end:
                size = min(_SCANNED, end - scan.at)
                data = await self._visit(partial(_read, scan.at, size))
                self._noting = self._scanned(scan, data, size)
                await self.note()
            if self._noted != end:
                self._changed(self._noted)
            if scan.checksum != checksum:  # a block with another CID would be reported missing
                self._changed(self._start)
        self._scan = None

    def _scanned(self, scan: _Scan, data: bytes, size: int) -> _Noting:
        """Return the blocks in the next bytes of the log, of which there were `size` before."""
        if len(data) < size:
            self._changed(scan.at + len(data))
        found: Columns = [], []
        skipped: list[Skip] = []
        start = scan.at
        try:
            for damaged, end in self._damaged(start, start + size):
                scan.feed(data[scan.at - start : damaged - start], found)
                skipped.append(Skip(len(found[0]), end - damaged))
                scan.at = end
            scan.feed(data[scan.at - start :], found)
        except RepoStreamError:
            self._changed(scan.at)
        return _Noting(*found, skipped)

    def _damaged(self, start: int, end: int) -> Iterator[tuple[int, int]]:
        """Yield the runs of damaged bytes between two offsets in the log."""
        if self._damages is None:
            return
        # Those that were in memory before the log followed the CAR are not damaged.
        if end <= self._ahead_from:
            return
        at, end = max(start, self._ahead_from) - self._ahead, end - self._ahead
        skips = self._damages.skips
        number = bisect_right(skips, at) // 2 * 2
        while number < len(skips) and skips[number] < end:
            damaged = max(skips[number], at), min(skips[number + 1], end)
            yield damaged[0] + self._ahead, damaged[1] + self._ahead
            number += 2

    async def seal(self) -> None:
        """Write what is left, and commit: nothing more will be added."""
        await self.flush()
        if self._lease is not None:
            with self._dropping_index_on_failure():
                await self._lease.seal()

    # --- Reading --------------------------------------------------------------------------------

    async def fetch(self, cids: Sequence[bytes]) -> Fetched:
        """Read the blocks with these CIDs that are in the log.

        An answer stays within a few MiB: of long blocks it has the first few, and the others are
        `far`.

        Args:
            cids: the CIDs, in the order in which the walk needs them.

        Raises:
            CarChanged: if the file has been changed since it was read.
            DiskError: if the store fails, or its log has been changed.
            OSError: if the file cannot be read.
        """
        await self.index()
        await self.note()
        await self.flush()
        nearest = cids[0] if cids else b""
        starts = await self._located(cids)
        if -1 in starts:
            cids = [cid for cid, start in zip(cids, starts, strict=True) if start >= 0]
            starts = [start for start in starts if start >= 0]
        if not cids:
            return Fetched({}, {}, [])
        raw, processed, far, odd = await self._visit(partial(self._sections.read, cids, starts))
        fetched = Fetched(raw, processed, far)
        if self.starts is not None:
            self.starts += starts
        for cid in odd:
            await self._find(cid, fetched, nearest=cid == nearest)
        return fetched

    async def starts_of(self, cids: Sequence[bytes]) -> list[int]:
        """Return the offsets of the sections of blocks, of those that are in the log."""
        await self.index()
        await self.note()
        return [start for start in await self._located(cids) if start >= 0]

    async def _located(self, cids: Sequence[bytes]) -> list[int]:
        starts: list[int] = []
        for at in range(0, len(cids), _LOCATED):
            some = cids[at : at + _LOCATED]
            starts += locate(await self._buckets(some), some)
        return starts

    async def _buckets(self, cids: Sequence[bytes]) -> Buckets:
        """Return the buckets for some CIDs, with the places in the database and in memory."""
        here: Buckets = {} if self._places is None else self._places.buckets
        if self._lease is None or not self._lease.place_bytes:
            if self._lease is not None:
                self._lease.check()
            return here
        with self._dropping_index_on_failure():
            stored = await self._lease.buckets(cids)
        return {number: places + bytes(here[number]) for number, places in stored.items()}

    async def _visit(self, work: Callable[[OpenFile], R]) -> R:
        if self._file is None:
            return await (await self._store()).visit(work)
        done = await self._file.visit(work)
        if self._lease is not None:
            self._lease.check()  # if it has ended, the file has been closed
        return done

    async def _find(self, cid: bytes, fetched: Fetched, *, nearest: bool) -> None:
        """Look for a block in all of its places, and add it to what was fetched.

        A block that is no longer in the log is an error only if it is the `nearest`, so that the
        records before it come first.
        """
        if self._sections.refuses(cid):
            return
        changed_at = -1
        for start in candidates(await self._buckets([cid]), cid):
            body = await self._visit(partial(self._sections.body_at, start))
            content = self._sections.content(cid, start, body)
            if content is not None:
                of_kind = fetched.processed if self._sections.is_result(start) else fetched.raw
                of_kind[cid] = content
                return
            if not is_lookalike(body, cid):
                changed_at = start
        if changed_at < 0:
            return  # it was never in the log: only other blocks have its bits of the hash
        if nearest:
            self._changed(changed_at, cid)
        fetched.far.append(cid)

    def _changed(self, at: int, cid: bytes | None = None) -> NoReturn:
        if self._lease is not None:
            self._lease.check()
            if self._file is None:
                raise self._lease.damaged()
        raise CarChanged(offset=at, cid=None if cid is None else Cid(cid))


# All of a log has been decoded before. A result may be longer than any block.
_NO_LIMITS: Final = Limits(block_bytes=1 << 62)


class _Scan:
    """How far a log has been read again to build its index.

    Attributes:
        at: the offset of the next byte.
        checksum: the checksum of the CIDs so far.
    """

    def __init__(self, start: int) -> None:
        self.at = start
        self.checksum = 0
        self._decoder = CarDecoder(limits=_NO_LIMITS, verify_cids=False)
        self._decoder.feed(write_header([]))

    def feed(self, data: bytes, found: Columns) -> None:
        """Add the blocks that end in the next bytes to others."""
        cids, blocks = self._decoder.feed_columns(data)
        self.checksum = checksum_of(cids, self.checksum)
        self.at += len(data)
        found[0].extend(cids)
        found[1].extend(blocks)


class _Noting:
    """Blocks that are to be put into the index, a few at a time.

    Args:
        cids: their CIDs.
        blocks: their bytes.
        skipped: the damaged bytes among them.
    """

    def __init__(self, cids: list[bytes], blocks: list[bytes], skipped: Sequence[Skip]) -> None:
        self._cids = cids
        self._blocks = blocks
        self._skipped = [*reversed(skipped)]
        self._at = 0

    @property
    def over(self) -> bool:
        """Whether all of them have been returned."""
        return self._at == len(self._cids) and not self._skipped

    def next_run(self) -> tuple[int, list[bytes], list[bytes]]:
        """Return blocks that follow each other, after the number of damaged bytes before them."""
        at, damaged = self._at, 0
        while self._skipped and self._skipped[-1].before == at:
            damaged += self._skipped.pop().size
        self._at = min(at + _NOTED, len(self._cids))
        if self._skipped:
            self._at = min(self._at, self._skipped[-1].before)
        return damaged, self._cids[at : self._at], self._blocks[at : self._at]


async def _no_store() -> Lease:
    raise StoreClosed.of_repo()


def _read(start: int, size: int, file: OpenFile) -> bytes:
    return file.read(size, start)
