"""Blocks on disk, in SQLite: where a repo goes that does not fit in memory nor stay in its file.

Three rooms, from the outside in: `DiskBuilder` and `DiskStore`, what callers see; `_Database`,
which speaks SQL through `aiosqlite` and gives every failure its name; and `_Loop`, which runs it on
whatever event loop there is. `aiosqlite` knows asyncio only, so under trio it runs in an asyncio
loop on a thread of its own.

A store is scratch space. Its table holds one repo at a time, without an index while it is filled:
the index is built once afterwards, which takes a fifth of the time of keeping it. It is of the last
eight bytes of each CID, as a number, which finds blocks in 0.8 of the time that whole CIDs take.
Those are indexed where two of a repo end alike: the same bytes under two codecs, or CIDs that were
made to, as nobody here has checked them. Writing happens in one transaction with its journal in
memory; a crash can leave the file damaged, and then it is refused as `StoreCorrupt` and can be
deleted.

Every operation runs to its end before a cancellation gets through, so that a store is always in a
known state: empty, being filled, or sealed and ready to read.
"""

from __future__ import annotations

import asyncio
import os
import sqlite3
import stat
import sys
import warnings
from collections.abc import Callable, Coroutine, Generator, Sequence
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path
from struct import Struct
from threading import Thread
from typing import TYPE_CHECKING, Any, Final, Literal, Self, TypeVar, cast

import anyio
import anyio.lowlevel
import anyio.to_thread
from anyio.from_thread import BlockingPortal
from anyio.lowlevel import RunVar

from repo_stream.car import Block
from repo_stream.cid import ORDINARY_LENGTH
from repo_stream.entries import BUCKETS
from repo_stream.errors import (
    DiskError,
    DiskFull,
    DiskIOError,
    ForeignFile,
    MaxSizeExceeded,
    StoreClosed,
    StoreCorrupt,
    StoreGone,
    StoreLocked,
    StoreReadOnly,
    StoreUnavailable,
)
from repo_stream.fetched import Fetched
from repo_stream.limits import MIB
from repo_stream.places import Places, bucket_of, without_copies

if TYPE_CHECKING:
    import aiosqlite

    from repo_stream.in_place import InPlace

__all__ = ["DiskBuilder", "DiskStore", "SegmentRow"]

R = TypeVar("R")

# A stored block: its raw CID, its bytes unless they are large, and whether they are a result.
_Row = tuple[bytes, bytes | None, int]
#: A segment of blocks that a walk let go of: their CIDs, their contents, and of which kind.
SegmentRow = tuple[bytes, bytes, int]
#: By what blocks are found.
_Column = Literal["ending", "key"]

#: What a store's file says it is, where SQLite keeps room for it (`PRAGMA application_id`).
APPLICATION_ID: Final = 0x52_53_50_59  # "RSPY"

# Of 100, 250 and 1,000 rows a statement all take 1.2 us a row; one row a statement takes twice
# that.
_ROWS_PER_INSERT: Final = 250
_INSERT: Final = {kind: f"INSERT INTO blocks VALUES (?,?,?,{kind})" for kind in (0, 1)}  # noqa: S608 - 0 or 1
_BULK_INSERT: Final = {
    processed: insert + f",(?,?,?,{processed})" * (_ROWS_PER_INSERT - 1)
    for processed, insert in _INSERT.items()
}
_SMALL_BYTES: Final = 4096
_SELECT: Final = "SELECT key, {}, processed{} FROM blocks WHERE {} IN ({})"
_SMALL: Final = f"iif(length(val) > {_SMALL_BYTES}, NULL, val)"
_BUCKETS_AT_ONCE: Final = 256
# What is at the end of an ordinary CID, as a number.
_ENDING: Final = Struct(f">{ORDINARY_LENGTH - 8}xq")
_DELETE_EARLIER: Final = (
    "DELETE FROM blocks WHERE rowid NOT IN (SELECT max(rowid) FROM blocks GROUP BY key, processed)"
)
_LARGE_BYTES: Final = 2 * MIB
_COLUMNS: Final = (
    "ending INT NOT NULL, key BLOB NOT NULL, val BLOB NOT NULL, processed INT NOT NULL"
)
_CREATE: Final = (
    f"CREATE TABLE blocks ({_COLUMNS})",
    "CREATE TABLE parts_of_places (bucket INT NOT NULL, entries BLOB NOT NULL)",
    "CREATE TABLE places (bucket INTEGER PRIMARY KEY, entries BLOB NOT NULL)",
    "CREATE TABLE released (cids BLOB NOT NULL, contents BLOB NOT NULL, processed INT NOT NULL)",
)


# --- What callers see ---------------------------------------------------------------------------


@dataclass(frozen=True)
class DiskBuilder:
    """How a disk store is to be opened.

    Args:
        cache_size_mb: the most that SQLite may keep in memory, in MiB. Little is as good as much;
            a driver with a low memory limit takes less of it.
        max_stored_mb: the most that the keys and values of one repo may add up to, in MiB. The file
            takes about a tenth more. Of a repo that stays in its own file it is what the places of
            its blocks take, if they come here at all.

    Example:
        >>> async def example():
        ...     async with DiskBuilder(max_stored_mb=1024).open() as store:
        ...         ...  # hand it to NeedDisk.finish_loading
    """

    cache_size_mb: int = 32
    max_stored_mb: int = 10 * 1024

    def __post_init__(self) -> None:
        if self.cache_size_mb < 1:
            raise ValueError(f"cache_size_mb must be at least 1, not {self.cache_size_mb}")
        if self.max_stored_mb < 0:
            raise ValueError(f"max_stored_mb must not be negative, not {self.max_stored_mb}")

    def with_cache_size_mb(self, cache_size_mb: int) -> DiskBuilder:
        """Give a builder with another cache size, in MiB."""
        return replace(self, cache_size_mb=cache_size_mb)

    def with_max_stored_mb(self, max_stored_mb: int) -> DiskBuilder:
        """Give a builder with another bound on what is stored, in MiB."""
        return replace(self, max_stored_mb=max_stored_mb)

    def open(self, path: str | os.PathLike[str] | None = None) -> Opening:
        """Open a store: `await` it, or use it with `async with`, which also closes it.

        Args:
            path: its file, made where there is none. An existing file must be empty or a store's
                own; what a store's file held is gone. Without a path the store is a temporary file,
                in the directory that SQLite uses for those (`SQLITE_TMPDIR`, `TMPDIR`, else
                `/var/tmp` or `/tmp`); it has no name there and is gone with the store, even after
                a crash.

        Raises:
            ForeignFile: where the file is anything else. It has not been touched.
            StoreLocked: where another store has it in use.
            StoreReadOnly, StoreUnavailable: where it cannot be opened or written.
            StoreCorrupt: where it was a store's own and is damaged.
        """
        # Absolute, as the working directory may change while the store is open.
        return Opening(self, Path(path).absolute() if path is not None else None)


class Opening:
    """A store about to be opened, by `await` or by `async with`."""

    def __init__(self, builder: DiskBuilder, path: Path | None) -> None:
        self._builder = builder
        self._path = path
        self._store: DiskStore | None = None

    def __await__(self) -> Generator[Any, Any, DiskStore]:
        return self._open().__await__()

    async def __aenter__(self) -> DiskStore:
        self._store = await self._open()
        return self._store

    async def __aexit__(self, *_error: object) -> None:
        if self._store is not None:
            await self._store.aclose()

    async def _open(self) -> DiskStore:
        database = await _Database.open(self._path)
        store = DiskStore(database, self._builder)
        try:
            await store.reset()
        except BaseException:
            await store.aclose()
            raise
        return store


class DiskStore:
    """A place on disk for the blocks of one repo at a time. `DiskBuilder.open` makes it.

    Hand it to `NeedDisk.finish_loading`. Afterwards `DiskDriver.reset_store` gives it back, empty,
    for the next repo. Whatever error or cancellation ends a load, the store can be reset or used
    again.

    Two tasks in one store at a time get `anyio.BusyResourceError`.
    """

    def __init__(self, database: _Database, builder: DiskBuilder) -> None:
        self._database = database
        self._builder = builder
        self._guard = anyio.ResourceGuard("storing or fetching blocks with")
        self._stored = 0
        self._lease = 0
        self._column: _Column = "key"
        # The file that a repo stays in, and whether the places of its blocks are here.
        self._file: InPlace | None = None
        self.has_places: bool = False

    @property
    def path(self) -> Path | None:
        """The store's file, or `None` for a temporary one."""
        return self._database.path

    @property
    def stored(self) -> int:
        """What is stored at present: bytes of keys and values, or of places in another file."""
        return self._stored

    @property
    def closed(self) -> bool:
        """Whether the store has been closed."""
        return self._database.closed

    async def reset(self) -> DiskStore:
        """Empty the store and give the disk space back, for the next repo.

        A driver that still walks in it gets `StoreClosed` from then on.

        Returns:
            The store itself.

        Raises:
            StoreClosed: where it has been closed.
            DiskError: where the file cannot be written; see its leaves.
        """
        with self._guard:
            await self._end_lease()
            await self._database.run(_reset)
        return self

    async def aclose(self) -> None:
        """Close the store. A temporary file is gone with it. Closing twice does nothing more."""
        with self._guard:
            try:
                await self._end_lease()
            finally:
                await self._database.aclose()

    async def _end_lease(self) -> None:
        """Take the store from whoever has it."""
        self._lease += 1
        self._stored = 0
        self.has_places = False
        file, self._file = self._file, None
        if file is not None:
            await file.aclose()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_error: object) -> None:
        await self.aclose()

    # What drivers use: begin, put, put, ..., seal, then fetch, fetch, ...

    async def begin(self, cache_bytes: int) -> int:
        """Make the store ready to be filled.

        Args:
            cache_bytes: what SQLite may keep in memory, unless the builder allows less.

        Returns:
            The lease, to be shown with every further call; the next `begin` or `reset` ends it.
        """
        with self._guard:
            await self._end_lease()
            lease = self._lease
            self._column = "key"
            cache_kib = min(self._builder.cache_size_mb * MIB, cache_bytes) // 1024
            await self._database.run(_reset)
            try:
                await self._database.run(_begin, max(cache_kib, 256))
            except BaseException:
                await self._undo()
                raise
        return lease

    async def put(self, lease: int, raw: Sequence[Block], processed: Sequence[Block]) -> None:
        """Store blocks.

        Raises:
            MaxSizeExceeded: where they are more than may be stored.
        """
        with self._guard:
            self.check(lease)
            for rows in (raw, processed):
                self._stored += sum([len(key) + len(value) for key, value in rows])
            self._require_room()
            await self._database.run(_put, raw, processed)

    async def seal(self, lease: int) -> None:
        """Finish the filling: keep the latest of blocks with the same CID, and index them."""
        with self._guard:
            self.check(lease)
            self._column = await self._database.run(_seal)

    async def put_places(self, lease: int, places: Places) -> None:
        """Store the places of blocks in a file, and take them out of memory.

        Raises:
            MaxSizeExceeded: where they are more than may be stored.
        """
        with self._guard:
            self.check(lease)
            self.has_places = True
            self._stored += places.entry_bytes
            self._require_room()
            await self._database.run(_put_places, places)

    async def seal_places(self, lease: int) -> None:
        """Put what was stored of each bucket together, the latest last."""
        with self._guard:
            self.check(lease)
            await self._database.run(_seal_places)

    def link(self, lease: int, file: InPlace) -> None:
        """Have blocks read from a file, which is closed with the lease."""
        self.check(lease)
        self._file = file

    async def set_aside(self, lease: int, segments: Sequence[SegmentRow]) -> None:
        """Store segments of blocks that a walk has let go of; see `repo_stream.released`.

        Raises:
            MaxSizeExceeded: where they are more than may be stored.
        """
        with self._guard:
            self.check(lease)
            self._stored += sum([len(cids) + len(contents) for cids, contents, _kind in segments])
            self._require_room()
            await self._database.run(_set_aside, segments)

    async def last_set_aside(
        self, lease: int, cid: bytes, tails: tuple[int, bytes], before: int | None = None
    ) -> tuple[int, SegmentRow] | None:
        """Give the last segment that was set aside and holds a CID, and its number.

        One block can be in any number of them, so they come one by one.

        Args:
            lease: shows that the store is still the caller's.
            cid: the CID; the segment may hold it by accident, across two others.
            tails: the kind of the segments that hold no more than the end of it, and that end.
            before: a number, where only the segments before it matter.
        """
        with self._guard:
            self.check(lease)
            return await self._database.run(_last_set_aside, cid, tails, before)

    async def first_set_aside(self, lease: int) -> tuple[int, SegmentRow] | None:
        """Give the first segment that is still set aside, and its number."""
        with self._guard:
            self.check(lease)
            return await self._database.run(_first_set_aside)

    async def drop_set_aside(self, lease: int, number: int) -> None:
        """Forget a segment that was set aside."""
        with self._guard:
            self.check(lease)
            self._stored -= await self._database.run(_drop_set_aside, number)

    async def last_number(self, lease: int) -> int:
        """Give the number of the block that was stored last, 0 where there is none."""
        with self._guard:
            self.check(lease)
            return await self._database.run(_last_number)

    async def fetch(
        self, lease: int, cids: Sequence[bytes], numbers: list[int] | None = None
    ) -> Fetched:
        """Read the blocks of these CIDs, as far as they are there.

        Of large ones only the first few come, so that an answer stays within some MiB; the others
        are `far`.

        Args:
            lease: shows that the store is still the caller's.
            cids: the CIDs.
            numbers: takes, for each block that comes, the number under which it was stored.
        """
        with self._guard:
            self.check(lease)
            if self._file is not None:
                return await self._file.fetch(cids, self._buckets_of if self.has_places else None)
            return await self._database.run(_fetch, cids, numbers, self._column)

    async def _buckets_of(self, cids: Sequence[bytes]) -> dict[int, bytes]:
        numbers = {*map(bucket_of, cids)}
        buckets = dict.fromkeys(numbers, b"")
        buckets.update(await self._database.run(_places, sorted(numbers)))
        return buckets

    async def abandon(self, lease: int) -> None:
        """Undo an unfinished filling, whatever happens meanwhile, unless the store has moved on."""
        if lease == self._lease:
            with self._guard:
                try:
                    await self._end_lease()
                finally:
                    await self._undo()

    async def _undo(self) -> None:
        with anyio.CancelScope(shield=True):
            # The error that led here is the one to hear of. What is wrong with the file will show
            # again when the store is used.
            with suppress(DiskError):
                await self._database.run(_reset)

    def _require_room(self) -> None:
        if self._stored > self._builder.max_stored_mb * MIB:
            raise MaxSizeExceeded(path=self.path, max_stored_mb=self._builder.max_stored_mb)

    def check(self, lease: int) -> None:
        """Raise `StoreClosed` where the store is no longer the caller's."""
        if lease != self._lease:
            raise StoreClosed("it was reset, closed or given to another repo", path=self.path)


# --- SQL ----------------------------------------------------------------------------------------
#
# These run inside the loop that `aiosqlite` lives in, one at a time.


async def _prepare(connection: aiosqlite.Connection) -> None:
    for pragma in (
        "locking_mode=EXCLUSIVE",
        # Before the first write, or a crash could leave a journal beside the file.
        "journal_mode=MEMORY",
        "synchronous=OFF",
        f"application_id={APPLICATION_ID}",
    ):
        await connection.execute_fetchall(f"PRAGMA {pragma}")


async def _reset(connection: aiosqlite.Connection) -> None:
    await connection.rollback()
    await _forget_tables(connection)
    for statement in ("VACUUM", "PRAGMA journal_mode=MEMORY", *_CREATE):
        await connection.execute_fetchall(statement)


async def _forget_tables(connection: aiosqlite.Connection) -> None:
    # A table that is dropped is journalled, 145 MB for a repo of 117, and without a journal a fault
    # in the middle damages the file. A table that is forgotten need not even be read.
    try:
        for statement in (
            "PRAGMA writable_schema=ON",
            "DELETE FROM sqlite_master",
            "PRAGMA writable_schema=RESET",
        ):
            await connection.execute_fetchall(statement)
    except sqlite3.OperationalError as error:
        if _primary_code(error) != sqlite3.SQLITE_ERROR:
            raise
        # Builds of SQLite that are on the defensive, such as Apple's, do not allow it.
        tables = ("blocks", "parts_of_places", "places", "released")
        drops = [f"DROP TABLE IF EXISTS {table}" for table in tables]
        for statement in ("PRAGMA journal_mode=OFF", *drops):
            await connection.execute_fetchall(statement)


async def _begin(connection: aiosqlite.Connection, cache_kib: int) -> None:
    await connection.execute_fetchall(f"PRAGMA cache_size=-{cache_kib}")
    await connection.execute_fetchall("BEGIN")


async def _put(
    connection: aiosqlite.Connection, raw: Sequence[Block], processed: Sequence[Block]
) -> None:
    for kind, rows in enumerate((raw, processed)):
        bulk = len(rows) - len(rows) % _ROWS_PER_INSERT
        if bulk:
            cuts = (rows[at : at + _ROWS_PER_INSERT] for at in range(0, bulk, _ROWS_PER_INSERT))
            await _close(await connection.executemany(_BULK_INSERT[kind], map(_values, cuts)))
        if bulk < len(rows):
            last = [_values([row]) for row in rows[bulk:]]
            await _close(await connection.executemany(_INSERT[kind], last))


def _values(rows: Sequence[Block]) -> list[object]:
    """Give what is stored of blocks, one after the other.

    For `bytes` Python's module looks for an adapter, which takes longer than all the rest. Of large
    ones a copy would cost more.
    """
    cids, contents = zip(*rows, strict=True)
    copies = [bytearray(each) if len(each) <= _SMALL_BYTES else each for each in contents]
    columns = zip(_endings(cids), map(bytearray, cids), copies, strict=True)
    return [*chain.from_iterable(columns)]


def _endings(cids: Sequence[bytes]) -> list[int]:
    """Give the last eight bytes of CIDs, or all there are, as signed numbers."""
    if {*map(len, cids)} == {ORDINARY_LENGTH}:
        return [ending for (ending,) in _ENDING.iter_unpack(b"".join(cids))]
    return [int.from_bytes(cid[-8:], signed=True) for cid in cids]


async def _close(cursor: aiosqlite.Cursor) -> None:
    await cursor.close()


async def _set_aside(connection: aiosqlite.Connection, segments: Sequence[SegmentRow]) -> None:
    await _close(await connection.executemany("INSERT INTO released VALUES (?,?,?)", segments))


async def _put_places(connection: aiosqlite.Connection, places: Places) -> None:
    insert = "INSERT INTO parts_of_places VALUES (?, ?)"
    await _close(await connection.executemany(insert, places.take()))


async def _seal_places(connection: aiosqlite.Connection) -> None:
    # To add to rows that are there would have each of them journalled, in memory, each time.
    index = "CREATE INDEX IF NOT EXISTS parts_by_bucket ON parts_of_places (bucket)"
    await connection.execute_fetchall(index)
    some = "SELECT bucket, entries FROM parts_of_places WHERE bucket BETWEEN ? AND ? ORDER BY rowid"
    for first in range(0, BUCKETS, _BUCKETS_AT_ONCE):
        whole: dict[int, bytes] = {}
        between = (first, first + _BUCKETS_AT_ONCE - 1)
        for bucket, entries in await connection.execute_fetchall(some, between):
            whole[bucket] = without_copies(whole.get(bucket, b"") + entries)
        insert = "INSERT OR REPLACE INTO places VALUES (?, ?)"
        await _close(await connection.executemany(insert, whole.items()))
    await connection.commit()


async def _places(
    connection: aiosqlite.Connection, buckets: Sequence[int]
) -> list[tuple[int, bytes]]:
    marks = ",".join("?" * len(buckets))
    query = f"SELECT bucket, entries FROM places WHERE bucket IN ({marks})"  # noqa: S608 - from above
    return cast("list[tuple[int, bytes]]", await connection.execute_fetchall(query, buckets))


async def _first_set_aside(connection: aiosqlite.Connection) -> tuple[int, SegmentRow] | None:
    return await _one_set_aside(connection, "ORDER BY rowid", ())


async def _last_set_aside(
    connection: aiosqlite.Connection, cid: bytes, tails: tuple[int, bytes], before: int | None
) -> tuple[int, SegmentRow] | None:
    held = "instr(cids, CASE processed WHEN ?2 THEN ?3 ELSE ?1 END)"
    which = f"WHERE {held} AND (?4 IS NULL OR rowid < ?4) ORDER BY rowid DESC"
    return await _one_set_aside(connection, which, (cid, *tails, before))


async def _one_set_aside(
    connection: aiosqlite.Connection, which: str, values: Sequence[object]
) -> tuple[int, SegmentRow] | None:
    query = f"SELECT rowid, cids, contents, processed FROM released {which} LIMIT 1"  # noqa: S608 - from above
    for number, *segment in await connection.execute_fetchall(query, values):
        return number, cast("SegmentRow", tuple(segment))
    return None


async def _drop_set_aside(connection: aiosqlite.Connection, number: int) -> int:
    """Give how many bytes it had; none where it has gone already."""
    size = "SELECT sum(length(cids) + length(contents)) FROM released WHERE rowid = ?"
    ((bytes_there,),) = await connection.execute_fetchall(size, [number])
    await connection.execute_fetchall("DELETE FROM released WHERE rowid = ?", [number])
    return bytes_there or 0


async def _seal(connection: aiosqlite.Connection) -> _Column:
    """Keep the latest of blocks with the same CID, and index them; say by which column."""
    # Whoever was cancelled while this ran to its end does not know that it did.
    by_ending = "CREATE UNIQUE INDEX IF NOT EXISTS blocks_by_ending ON blocks (ending, processed)"
    by_key = "CREATE INDEX IF NOT EXISTS blocks_by_key ON blocks (key, processed)"
    column: _Column = "ending"
    try:
        await connection.execute_fetchall(by_ending)
    except sqlite3.IntegrityError:
        # Exports do contain blocks twice, and a hostile one can contain a block a million times.
        for statement in (
            by_key,
            _DELETE_EARLIER,
            "DROP INDEX blocks_by_key",  # the other takes its pages
        ):
            await connection.execute_fetchall(statement)
        try:
            await connection.execute_fetchall(by_ending)
        except sqlite3.IntegrityError:
            await connection.execute_fetchall(by_key)
            column = "key"
    await connection.commit()
    return column


async def _fetch(
    connection: aiosqlite.Connection,
    cids: Sequence[bytes],
    numbers: list[int] | None,
    column: _Column,
) -> Fetched:
    fetched = Fetched({}, {}, [])
    large = _sort_out(await _rows(connection, _SMALL, cids, column, numbers), fetched)
    # A thousand blocks of 2 MiB would be too many: large ones come one by one, the nearest first.
    room = _LARGE_BYTES
    for cid in [cid for cid in cids if cid in large]:
        if room <= 0:
            fetched.far.append(cid)
        else:
            rows = await _rows(connection, "val", [cid], column)
            _sort_out(rows, fetched)
            room -= sum(len(value) for _cid, value, _processed in rows if value is not None)
    return fetched


def _sort_out(rows: Sequence[_Row], fetched: Fetched) -> set[bytes]:
    """Put rows where they belong; give the CIDs of those that came without what they hold."""
    without: set[bytes] = set()
    raw, processed, _far = fetched
    for cid, value, is_processed in rows:
        if value is None:
            without.add(cid)
        elif is_processed:
            processed[cid] = value
        else:
            raw[cid] = value
    return without


async def _last_number(connection: aiosqlite.Connection) -> int:
    ((number,),) = await connection.execute_fetchall("SELECT max(rowid) FROM blocks")
    return number or 0


async def _rows(
    connection: aiosqlite.Connection,
    content: str,
    cids: Sequence[bytes],
    column: _Column,
    numbers: list[int] | None = None,
) -> list[_Row]:
    """Read the blocks of these CIDs, with what `content` says of their contents."""
    number = "" if numbers is None else ", rowid"
    query = _SELECT.format(content, number, column, ",".join("?" * len(cids)))
    sought = _endings(cids) if column == "ending" else cids
    wanted = {*cids}
    # Plain tuples, as no row factory is set.
    found = cast("list[_Row]", await connection.execute_fetchall(query, sought))
    rows = [row for row in found if row[0] in wanted]
    if numbers is None:
        return rows
    numbered = cast("list[tuple[bytes, bytes | None, int, int]]", rows)
    numbers += [number for _cid, _data, _processed, number in numbered]
    return [(cid, data, processed) for cid, data, processed, _number in numbered]


# --- The database -------------------------------------------------------------------------------


# SQLite's threads hand Python's lock to each other for every row. With eight repos in one event
# loop, each in a store of its own, that took 1.15 of the time that two threads at a time take.
_MOST_AT_WORK: Final = 2
_AT_WORK: Final[RunVar[anyio.Semaphore]] = RunVar("_AT_WORK")


def _at_work() -> anyio.Semaphore:
    """Give what the stores of this event loop take turns by."""
    try:
        return _AT_WORK.get()
    except LookupError:
        turns = anyio.Semaphore(_MOST_AT_WORK, fast_acquire=True)
        _AT_WORK.set(turns)
        return turns


class _Database:
    """One SQLite file, opened through `aiosqlite`; errors are `DiskError` leaves."""

    def __init__(self, path: Path | None, loop: _Loop) -> None:
        self.path = path
        self._loop = loop
        self._connection: aiosqlite.Connection | None = None
        self._identity: tuple[int, int] | None = None

    @classmethod
    async def open(cls, path: Path | None) -> _Database:
        if path is not None:
            await anyio.to_thread.run_sync(_refuse_foreign, path)
        await anyio.lowlevel.checkpoint()
        database = cls(path, await _open_loop())
        try:
            await database._loop.run(database._connect)
        except BaseException as error:
            await database.aclose()
            if isinstance(error, sqlite3.Error):
                raise _named(error, path) from error
            raise
        return database

    async def _connect(self) -> None:
        # Kept at once, where a cancellation of the call cannot lose it.
        self._connection = await _connect(self.path)
        if self.path is not None:
            self._identity = _identity(self.path)

    @property
    def closed(self) -> bool:
        return self._connection is None

    async def run(self, operation: Callable[..., Coroutine[Any, Any, R]], *arguments: object) -> R:
        """Run an operation to its end, then let a cancellation through.

        A cancellation that comes before it begins, in whatever it waits for, keeps it from it.
        """
        connection = self._connection
        if connection is None:
            raise StoreClosed("it has been closed", path=self.path)
        self._check_file()
        await anyio.lowlevel.checkpoint_if_cancelled()
        try:
            async with _at_work():
                return await self._loop.run(operation, connection, *arguments)
        except sqlite3.Error as error:
            raise _named(error, self.path) from error

    async def aclose(self) -> None:
        connection, self._connection = self._connection, None
        with anyio.CancelScope(shield=True):
            try:
                if connection is not None:
                    await self._loop.run(_disconnect, connection)
            except sqlite3.Error as error:
                raise _named(error, self.path) from error
            finally:
                await self._loop.aclose()

    def _check_file(self) -> None:
        """SQLite goes on writing to a file that was deleted; nobody would ever see it."""
        if self.path is not None and _identity(self.path) != self._identity:
            raise StoreGone("its file was replaced; open a new store", path=self.path)

    def __del__(self) -> None:
        connection = self._connection
        if connection is None:
            return
        self._connection = None
        self._loop.forget(connection)
        warnings.warn(
            f"a disk store ({self.path or 'temporary'}) was not closed; use `async with`",
            ResourceWarning,
            stacklevel=2,
            source=self,
        )


def _identity(path: Path) -> tuple[int, int]:
    try:
        status = path.stat()
    except OSError as error:
        raise StoreGone("its file is gone; open a new store", path=path) from error
    return status.st_dev, status.st_ino


def _refuse_foreign(path: Path) -> None:
    """Look at what the path holds, and touch nothing."""
    try:
        status = path.stat()
    except FileNotFoundError:
        pass
    except OSError as error:
        raise StoreUnavailable(f"it cannot be opened: {error.strerror}", path=path) from error
    else:
        if not stat.S_ISREG(status.st_mode):
            raise StoreUnavailable("it is not a regular file", path=path)
        if status.st_size > 0:
            _refuse_content(path)
    # SQLite would take these for the store's own, which has none.
    real = path.resolve()
    for suffix in ("-journal", "-wal"):
        if real.with_name(real.name + suffix).exists():
            raise ForeignFile(
                f"{real.name}{suffix} of another database lies beside it; choose another path",
                path=path,
            )


def _refuse_content(path: Path) -> None:
    # Reading the file's first bytes would do, but closing it again would drop all the locks that
    # this process has on it, as POSIX wants it: those of another store, or of somebody's database.
    # SQLite takes care of that. An immutable file it neither locks nor recovers nor writes.
    try:
        connection = sqlite3.connect(f"{path.as_uri()}?mode=ro&immutable=1", uri=True)
        try:
            # So that a truncated file can still say whose it is.
            connection.execute("PRAGMA writable_schema=ON")
            (found,) = connection.execute("PRAGMA application_id").fetchone()
        finally:
            connection.close()
    except sqlite3.Error as error:
        if _primary_code(error) in {sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_CORRUPT}:
            raise _foreign(path) from error
        raise _named(error, path) from error
    if found != APPLICATION_ID:
        raise _foreign(path)


def _foreign(path: Path) -> ForeignFile:
    return ForeignFile(
        "the file there was not made by a disk store, and has not been touched; "
        "choose another path",
        path=path,
    )


async def _connect(path: Path | None) -> aiosqlite.Connection:
    import aiosqlite  # noqa: PLC0415 - 60 ms that repos which stay in memory never need

    target = str(path) if path is not None else ""  # SQLite's name for a temporary file
    failure: list[sqlite3.Error] = []

    def connector() -> sqlite3.Connection:
        try:
            return sqlite3.connect(target, isolation_level=None, timeout=0)
        except sqlite3.Error as error:
            # Where this raises, aiosqlite does not wait for its thread to end, and the event loop
            # may be closed when the thread says that it did. What is open is closed in order.
            failure.append(error)
            return sqlite3.connect(":memory:")

    # aiosqlite's worker thread would keep a forgotten store's interpreter alive for ever. A thread
    # is a daemon where its maker is one, and then the interpreter does not wait for it.
    connection = await _in_daemon_thread(lambda: aiosqlite.Connection(connector, 64))
    await connection
    if failure:
        await connection.close()
        raise failure[0]
    try:
        await _prepare(connection)
    except BaseException:
        await connection.close()
        raise
    return connection


async def _in_daemon_thread(make: Callable[[], R]) -> R:
    made: list[R] = []
    thread = Thread(target=lambda: made.append(make()), daemon=True)
    thread.start()
    thread.join()
    return made[0]


async def _disconnect(connection: aiosqlite.Connection) -> None:
    await connection.close()


# By SQLite's primary result code.
_NAMES: Final[dict[int, tuple[type[DiskError], str]]] = {
    sqlite3.SQLITE_BUSY: (StoreLocked, "another store has it in use"),
    sqlite3.SQLITE_LOCKED: (StoreLocked, "another store has it in use"),
    sqlite3.SQLITE_READONLY: (StoreReadOnly, "it may not be written"),
    sqlite3.SQLITE_PERM: (StoreReadOnly, "it may not be written"),
    sqlite3.SQLITE_CANTOPEN: (StoreUnavailable, "it cannot be opened; is its directory there?"),
    sqlite3.SQLITE_CORRUPT: (StoreCorrupt, "it is damaged; delete it and load the repo again"),
    sqlite3.SQLITE_NOTADB: (StoreCorrupt, "it is damaged; delete it and load the repo again"),
    sqlite3.SQLITE_FULL: (DiskFull, "no room is left on its disk"),
    sqlite3.SQLITE_IOERR: (DiskIOError, "the system failed to read or write it"),
}


def _named(error: sqlite3.Error, path: Path | None) -> DiskError:
    code = _primary_code(error)
    kind, message = _NAMES.get(code, (DiskError, "SQLite failed"))
    if code == sqlite3.SQLITE_CANTOPEN and path is not None and _in_read_only_directory(path):
        kind, message = StoreReadOnly, "its directory may not be written"
    return kind(f"{message} ({error})", path=path)


def _primary_code(error: sqlite3.Error) -> int:
    # Errors of Python's own, such as ProgrammingError, may have none.
    return (getattr(error, "sqlite_errorcode", None) or 0) & 0xFF


def _in_read_only_directory(path: Path) -> bool:
    parent = path.resolve().parent
    effective = os.access in os.supports_effective_ids
    writable = os.access(parent, os.W_OK, effective_ids=effective)
    return parent.is_dir() and not path.exists() and not writable


# --- The loop -----------------------------------------------------------------------------------


class _Operation(asyncio.Task[R]):
    """A task that runs to its end. `asyncio.run` cancels all there are when it ends."""

    def cancel(self, msg: object = None) -> bool:
        return False


class _Loop:
    """The running event loop, where it is asyncio's."""

    async def run(
        self,
        operation: Callable[..., Coroutine[Any, Any, R]],
        *arguments: Any,  # noqa: ANN401 - passed on
    ) -> R:
        """Run `operation`; a cancellation waits until it is over."""
        task = _Operation(operation(*arguments), loop=asyncio.get_running_loop())
        with anyio.CancelScope(shield=True):
            try:
                await asyncio.shield(task)
            except asyncio.CancelledError:
                # Not one of anyio's, which the scope holds off: somebody cancelled the task itself.
                while not task.done():
                    with suppress(asyncio.CancelledError):
                        await asyncio.wait([task])
                task.exception()  # It has been seen, and the cancellation goes before it.
                raise
        return task.result()

    async def aclose(self) -> None:
        """Release what it holds."""

    def forget(self, connection: aiosqlite.Connection) -> None:
        """Release the connection of a store that nobody closed, without waiting."""
        # `stop` takes the running loop's future where it finds a loop; in a new thread it does not.
        _start_quietly(lambda: _stop(connection))


class _PortalLoop(_Loop):
    """An asyncio loop on a thread of its own, for trio."""

    def __init__(self) -> None:
        started: Future[BlockingPortal] = Future()
        # Not `start_blocking_portal`: when it is forgotten, it waits for its thread as the
        # interpreter exits, by when daemon threads have stopped.
        self._thread = Thread(target=_serve, args=[started], daemon=True)
        self._thread.start()
        self._portal = started.result()

    async def run(
        self,
        operation: Callable[..., Coroutine[Any, Any, R]],
        *arguments: Any,  # noqa: ANN401 - passed on
    ) -> R:
        return await anyio.to_thread.run_sync(self._portal.call, operation, *arguments)

    async def aclose(self) -> None:
        await anyio.to_thread.run_sync(self._stop)

    def _stop(self) -> None:
        if self._thread.is_alive():
            self._portal.call(self._portal.stop)
            self._thread.join()

    def forget(self, connection: aiosqlite.Connection) -> None:
        def release() -> None:
            _stop(connection)
            self._stop()

        _start_quietly(release)


def _serve(started: Future[BlockingPortal]) -> None:
    async def serve() -> None:
        async with BlockingPortal() as portal:
            started.set_result(portal)
            await portal.sleep_until_stopped()

    anyio.run(serve, backend="asyncio")


async def _open_loop() -> _Loop:
    return await anyio.to_thread.run_sync(_PortalLoop) if _in_trio() else _Loop()


def _in_trio() -> bool:
    trio = sys.modules.get("trio")
    return trio is not None and bool(trio.lowlevel.in_trio_task())


def _stop(connection: aiosqlite.Connection) -> None:
    connection.stop()  # pyright: ignore[reportUnknownMemberType] - it gives a bare Future


def _start_quietly(work: Callable[[], object]) -> None:
    # An interpreter that goes down takes the threads with it, and starts no new ones.
    if not sys.is_finalizing():
        with suppress(RuntimeError):
            Thread(target=work, daemon=True).start()
