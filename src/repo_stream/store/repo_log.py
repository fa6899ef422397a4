"""The blocks of one repo in a log: written there as they come, found by their places, read again.

A log is a file of sections. Of a source that is the path of a file it is that file, which somebody
else has written; of any other it is appended to here, and from its first byte on holds all that
comes: what was in memory by then, section by section, and then the CAR itself, byte by byte as it
is read. An *index* says where in the log each block is. It is built when a block is first asked
for, or when the whole repo goes to disk, and kept up from then on: a streamable CAR never needs it.

Results that a processor had made before the log was begun are sections, too, of a checksum and of
their dumped bytes. Where in the log they are is remembered, as is what could not be dumped.

Every block is checked again when it is read again, if CIDs are verified. What the log does not hold
any more is an error, never another block, and never one that is missing.
"""

from __future__ import annotations

from binascii import crc32
from bisect import bisect_right
from collections.abc import Awaitable, Callable, Generator, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from itertools import chain
from typing import TYPE_CHECKING, Final, NamedTuple, NoReturn, TypeVar

from repo_stream.car.decoder import (
    Block,
    CarDecoder,
    Columns,
    read_length,
    write_header,
    write_section,
)
from repo_stream.car.files import OpenFile
from repo_stream.car.reader import CarReader, checksum_of
from repo_stream.car.sections import HEAD, Head, read_sections
from repo_stream.errors import CarChanged, CarError, DiskError, InvalidCid, RepoStreamError
from repo_stream.ipld.cid import Cid, read_cid, verify
from repo_stream.ipld.digest import agreeing
from repo_stream.limits import MIB, Limits
from repo_stream.store.log import LOG_START
from repo_stream.store.places import Buckets, Places, are_alike, candidates, has_room_for, locate
from repo_stream.turn import Turn

if TYPE_CHECKING:
    from repo_stream.store.disk import Lease

__all__ = ["WRITE_BYTES", "Fetched", "RepoLog"]

R = TypeVar("R")


class Fetched(NamedTuple):
    """The blocks of an answer, by their CIDs.

    Attributes:
        raw: blocks as they came.
        processed: results, as the processor has dumped them.
        far: blocks that are there and too large for one answer; they come when they are nearer.
    """

    raw: dict[bytes, bytes]
    processed: dict[bytes, bytes]
    far: list[bytes]

    @property
    def all(self) -> Iterator[bytes]:
        """The CIDs of all that is there."""
        return chain(self.raw, self.processed, self.far)

    @property
    def sizes(self) -> Iterator[int]:
        """How many bytes each block has that came."""
        return map(len, chain(self.raw.values(), self.processed.values()))


#: The most that is written to a log at a time, in bytes, unless a section is longer. Pieces of 256
#: KiB take 1.05 of the time, and 1.2 under trio.
WRITE_BYTES: Final = MIB // 2
# Of what is longer than heads one answer has so many bytes, or one more than that.
_LONG_BYTES: Final = 2 * MIB
# Blocks that are located at a time, as each may need a bucket from disk. Those of a thousand are a
# MiB, which left holes of several in the memory of SQLite's thread.
_LOCATED: Final = 250
# Blocks whose places are noted between two looks at the clock, in a millisecond.
_NOTED: Final = 512
# The log is gone through in such pieces to find out where blocks are, in bytes.
_SCANNED: Final = MIB // 4

# A section: a CID, where that starts in the file, and how long it and its data are.
_Section = tuple[bytes, int, int]


class RepoLog:
    """The blocks of a repo on disk.

    Args:
        reader: reads the repo.
        leased: gives the store, when it is needed.
        room: what the places of blocks may take in memory, in bytes.
        write: what is written at a time, in bytes.
        turn: lets other tasks work.
    """

    def __init__(
        self,
        reader: CarReader,
        leased: Callable[[], Awaitable[Lease]],
        room: int,
        write: int,
        turn: Turn,
    ) -> None:
        self._reader = reader
        self._file = reader.file
        if self._file is not None and not has_room_for(self._file.size):
            self._file = None
        self._leased = leased
        self._lease: Lease | None = None
        self._room = room
        #: What is written at a time, in bytes.
        self.write_size: int = write
        self._turn = turn
        self._verifies = reader.verifies_cids
        self._longest = reader.longest_section
        # What is to be appended, how many blocks that is, and where.
        self._parts: list[bytes] = []
        self._blocks = 0
        self._written = LOG_START
        # By how much the offsets of the CAR are less than those of the log.
        self._ahead = 0
        # A checksum of the CIDs that were added before the CAR itself.
        self._checksum = 0
        # Where results are: the starts and the ends of runs of them.
        self._results: list[int] = []
        # The index, what comes next in it, and where in the log that starts.
        self._places: Places | None = None
        self._noting: tuple[Columns, int] | None = None
        self._noted = 0
        self._start = reader.header_end if self._file is not None else LOG_START
        #: For whoever counts blocks: where those are that were fetched.
        self.starts: list[int] | None = None

    @property
    def lease(self) -> Lease | None:
        """The store, if it has been needed."""
        return self._lease

    @property
    def is_the_car(self) -> bool:
        """Whether the log is the CAR itself, so that nothing has to be written."""
        return self._file is not None

    @property
    def indexed(self) -> bool:
        """Whether the index is kept up, so that what comes has to be noted."""
        return self._places is not None

    @property
    def size(self) -> int:
        """What the index takes in memory, in bytes."""
        return 0 if self._places is None else self._places.size

    async def hold(self) -> None:
        """Take the store now, although nothing may have to go there."""
        await self._store()

    async def _store(self) -> Lease:
        if self._lease is None:
            self._lease = await self._leased()
        return self._lease

    # --- Writing --------------------------------------------------------------------------------

    @property
    def end(self) -> int:
        """Where in the log the next section will start, in bytes."""
        return self._written + sum(map(len, self._parts))

    @property
    def offset(self) -> int:
        """Where in the log the sections end that have been read of the CAR, in bytes."""
        return self._reader.offset + self._ahead

    def add(self, blocks: Sequence[Block], *, results: bool = False) -> None:
        """Have blocks appended, or dumped results; `flush` or `keep_up` writes them."""
        if not blocks:
            return
        if results:
            blocks = [(cid, _checked(data)) for cid, data in blocks]
        start = self.end
        self._checksum = checksum_of([cid for cid, _ in blocks], self._checksum)
        self._parts.append(b"".join(chain.from_iterable([write_section(*each) for each in blocks])))
        self._blocks += len(blocks)
        if results:
            if self._results and self._results[-1] == start:
                self._results[-1] = self.end
            else:
                self._results += (start, self.end)

    def follow(self) -> None:
        """Have the CAR appended from its next section on, as it is read."""
        self._ahead = self.end - self._reader.offset
        self._reader.copy_to(self._parts, self._checksum)

    async def keep_up(self) -> None:
        """Write what has come to the log, once it is enough for one write."""
        if self._parts and self.end - self._written >= self.write_size:
            await self.flush()

    async def flush(self) -> None:
        """Write all that has come to the log.

        Raises:
            DiskError: if the store fails.
        """
        if self._parts:
            parts, blocks = self._parts[:], self._blocks
            lease = await self._store()
            with self._losing_places():
                await lease.append(self._written, parts, blocks)
            # A cancellation comes before this, and then the same is written once more.
            self._written += sum(map(len, parts))
            del self._parts[: len(parts)]
            self._blocks -= blocks

    # --- The index ------------------------------------------------------------------------------

    def expect(self, cids: Sequence[bytes], blocks: Sequence[bytes]) -> None:
        """Take in the blocks that the CAR has next; `note` puts them into the index."""
        self._blocks += 0 if self._file is not None else len(cids)
        if self._places is not None:
            self._noting = ([*cids], [*blocks]), 0

    @contextmanager
    def _losing_places(self) -> Generator[None]:
        """Forget the index if the store fails, which may undo all that was put there before.

        It is built once more when it is needed.
        """
        try:
            yield
        except DiskError:
            self._places = self._noting = None
            raise

    async def note(self) -> None:
        """Put what was expected into the index."""
        while self._places is not None and self._noting is not None:
            (cids, blocks), at = self._noting
            some = slice(at, at + _NOTED)
            self._noted = self._places.add(cids[some], blocks[some], self._noted)
            at += _NOTED
            self._noting = ((cids, blocks), at) if at < len(cids) else None
            if self._places.size > self._room:
                lease = await self._store()
                with self._losing_places():
                    await lease.put_places(self._places)
            await self._turn.pause_if_over()

    async def index(self) -> None:
        """Build the index, of all that is in the log by now, unless there is one.

        Raises:
            CarError: if the file has been changed since it was read.
            DiskError: if the store fails.
        """
        if self._places is not None:
            return
        await self.flush()
        end, expected = self.offset, self._reader.checksum
        checksum = 0
        places = Places()
        at = self._start
        # What is in the log has been decoded before. A result may be longer than any block.
        decoder = CarDecoder(limits=_NO_LIMITS, verify_cids=False)
        decoder.feed(write_header(self._reader.header.roots))
        for start in range(self._start, end, _SCANNED):
            size = min(_SCANNED, end - start)
            data = await self._visit(partial(_read, start, size))
            if len(data) < size:
                self._changed(start + len(data))
            try:
                cids, blocks = decoder.feed_columns(data)
            except RepoStreamError:
                self._changed(start)
            checksum = checksum_of(cids, checksum)
            for first in range(0, len(cids), _NOTED):
                some = slice(first, first + _NOTED)
                at = places.add(cids[some], blocks[some], at)
                await self._turn.pause_if_over()
            if places.size > self._room:
                await (await self._store()).put_places(places)
        if at != end:
            self._changed(at)
        if checksum != expected:  # a block whose CID is not there any more would be missing
            self._changed(self._start)
        self._places, self._noted = places, end

    async def seal(self) -> None:
        """Finish: nothing will come any more."""
        await self.flush()
        if self._lease is not None:
            with self._losing_places():
                await self._lease.seal()

    # --- Reading --------------------------------------------------------------------------------

    async def fetch(self, cids: Sequence[bytes]) -> Fetched:
        """Read the blocks of these CIDs, as far as they are there.

        Of long ones only the first few come, so that an answer stays within some MiB; the others
        are `far`.

        Args:
            cids: the CIDs, that which the walk needs next at first.

        Raises:
            CarChanged: if the file has been changed since it was read.
            DiskError: if the store fails, or its log has been changed.
            OSError: if the file cannot be read.
        """
        await self.index()
        await self.note()
        await self.flush()
        nearest = cids[0] if cids else b""
        starts: list[int] = []
        for at in range(0, len(cids), _LOCATED):
            some = cids[at : at + _LOCATED]
            starts += locate(await self._buckets(some), some)
        if -1 in starts:
            cids = [cid for cid, start in zip(cids, starts, strict=True) if start >= 0]
            starts = [start for start in starts if start >= 0]
        if not cids:
            return Fetched({}, {}, [])
        fetched, odd = await self._visit(partial(self._read, cids, starts))
        if self.starts is not None:
            self.starts += starts
        for cid in odd:
            await self._find(cid, fetched, nearest=cid == nearest)
        return fetched

    async def starts_of(self, cids: Sequence[bytes]) -> list[int]:
        """Return where the sections of blocks start, of those that are in the log."""
        await self.index()
        await self.note()
        return [start for start in locate(await self._buckets(cids), cids) if start >= 0]

    async def _buckets(self, cids: Sequence[bytes]) -> Buckets:
        """Return the buckets for some CIDs: those in the database, and what is in memory."""
        here: Buckets = {} if self._places is None else self._places.buckets
        if self._lease is None or not self._lease.place_bytes:
            if self._lease is not None:
                self._lease.check()
            return here
        with self._losing_places():
            stored = await self._lease.buckets(cids)
        return {number: entries + bytes(here[number]) for number, entries in stored.items()}

    async def _visit(self, work: Callable[[OpenFile], R]) -> R:
        if self._file is None:
            return await (await self._store()).visit(work)
        done = await self._file.visit(work)
        if self._lease is not None:
            self._lease.check()  # the file is closed with it
        return done

    def _read(
        self, cids: Sequence[bytes], starts: Sequence[int], file: OpenFile
    ) -> tuple[Fetched, list[bytes]]:
        """Read blocks where they should be; return also the CIDs for which something else is there.

        All of it is one visit: if that is to a thread, two take 1.1 of the time of a walk.
        """
        blocks, others = read_sections(file, cids, starts)
        long, odd = self._told_apart(others)
        near, far = _near(long)
        for cid, start, length in near:
            section = file.read(length, start)
            if len(section) == length and section.startswith(cid):
                blocks[cid] = section[len(cid) :]
            else:
                odd.append(cid)
        results: dict[bytes, bytes] = {}
        if self._results:
            for cid, start in zip(cids, starts, strict=True):
                if cid in blocks and self._is_result(start):
                    data = blocks.pop(cid)
                    if _is_whole(data):
                        results[cid] = data[_CHECK:]
                    else:
                        odd.append(cid)
        if self._verifies:
            for cid in _wrong(blocks):
                del blocks[cid]
                odd.append(cid)
        return Fetched(blocks, results, far), odd

    def _is_result(self, start: int) -> bool:
        return bisect_right(self._results, start) % 2 == 1

    def _told_apart(self, heads: Sequence[Head]) -> tuple[list[_Section], list[bytes]]:
        """Tell sections that are longer than their heads from what is not what it should be."""
        long: list[_Section] = []
        odd: list[bytes] = []
        for cid, start, head in heads:
            try:
                length, body = read_length(head, 0, start)
            except CarError:
                length, body = 0, -1
            right = body >= 0 and self._may_be(length, start) and head.startswith(cid, body)
            if right:
                long.append((cid, start + body, length))
            else:
                odd.append(cid)
        return long, odd

    def _may_be(self, length: int, start: int) -> bool:
        """Return whether a section may be so long. A file that has been changed may claim any."""
        return length <= (self._written - start if self._is_result(start) else self._longest)

    async def _find(self, cid: bytes, fetched: Fetched, *, nearest: bool) -> None:
        """Look for a block in whichever of its places it is, and add it to what was fetched.

        What the log does not hold any more is an error for the `nearest` alone, so that what comes
        before the others can be had.
        """
        changed_at = -1
        for start in candidates(await self._buckets([cid]), cid):
            body = await self._visit(partial(self._section, start))
            data = body[len(cid) :]
            if body.startswith(cid):
                if self._is_result(start) and _is_whole(data):
                    fetched.processed[cid] = data[_CHECK:]
                    return
                if not self._is_result(start) and self._holds(cid, data):
                    fetched.raw[cid] = data
                    return
            if not _is_another(body, cid):
                changed_at = start
        if changed_at < 0:
            return  # it was never there: another block has a place like it
        if nearest:
            self._changed(changed_at, cid)
        fetched.far.append(cid)

    def _section(self, start: int, file: OpenFile) -> bytes:
        """Read what is in a section, a CID and data; nothing if there is no section any more."""
        head = file.read(HEAD, start)
        try:
            length, body = read_length(head, 0, start)
        except CarError:
            return b""
        if body < 0 or not self._may_be(length, start):
            return b""
        section = file.read(length, start + body)
        return section if len(section) == length else b""

    def _holds(self, cid: bytes, data: bytes) -> bool:
        """Return whether a block has the hash that its CID claims, if that matters."""
        return not self._verifies or verify(Cid(cid), data) is not False

    def _changed(self, at: int, cid: bytes | None = None) -> NoReturn:
        if self._lease is not None:
            self._lease.check()
            if self._file is None:
                raise self._lease.damaged()
        raise CarChanged(offset=at, cid=None if cid is None else Cid(cid))


_NO_LIMITS: Final = Limits(block_bytes=1 << 62)

# How long the checksum is that comes before a result, as no CID says what that should be.
_CHECK: Final = 4


def _checked(result: bytes) -> bytes:
    return crc32(result).to_bytes(_CHECK) + result


def _is_whole(result: bytes) -> bool:
    return crc32(result[_CHECK:]).to_bytes(_CHECK) == result[:_CHECK]


def _read(start: int, size: int, file: OpenFile) -> bytes:
    return file.read(size, start)


def _wrong(blocks: dict[bytes, bytes]) -> list[bytes]:
    """Return the CIDs of blocks that do not have the hash that those claim."""
    cids, data = [*blocks], [*blocks.values()]
    wrong: list[bytes] = []
    at = agreeing(cids, data)
    while at < len(cids):
        if verify(Cid(cids[at]), data[at]) is False:
            wrong.append(cids[at])
        at += 1
        at += agreeing(cids[at:], data[at:])
    return wrong


def _is_another(body: bytes, cid: bytes) -> bool:
    """Return whether a section is of a block whose place is like that of `cid`, by accident."""
    try:
        other = body[: read_cid(body, 0, len(body))]
    except InvalidCid:
        return False
    return other != cid and are_alike(other, cid)


def _near(sections: Sequence[_Section]) -> tuple[list[_Section], list[bytes]]:
    """Leave out what is too much for one answer; return the CIDs of that as well."""
    near: list[_Section] = []
    far: list[bytes] = []
    room = _LONG_BYTES
    for section in sections:
        if room <= 0:
            far.append(section[0])
        else:
            near.append(section)
            room -= section[2]
    return near, far
