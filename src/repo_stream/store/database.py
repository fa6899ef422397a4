"""The database of a disk store: SQLite through `aiosqlite`, every failure by its name.

It records what has been appended to the log, keeps the places of blocks that are too many for the
memory, and takes care that a store's two files are nobody else's. Writing happens in one
transaction with its journal in memory; a crash can leave the file damaged, and then it is refused
as `StoreCorrupt` and can be deleted.

Every operation runs to its end before a cancellation gets through.
"""

from __future__ import annotations

import errno
import os
import sqlite3
import stat
import warnings
from collections.abc import Callable, Coroutine, Iterable, Sequence
from pathlib import Path
from threading import Thread
from typing import TYPE_CHECKING, Any, Final, TypeVar, cast

import anyio
import anyio.lowlevel
import anyio.to_thread
from anyio.lowlevel import RunVar

from repo_stream.car.files import OpenFile
from repo_stream.errors import (
    DiskError,
    DiskFull,
    DiskIOError,
    ForeignFile,
    StoreClosed,
    StoreCorrupt,
    StoreGone,
    StoreLocked,
    StoreReadOnly,
    StoreUnavailable,
)
from repo_stream.store.log import Log, identity, log_path, named_os_error, refuse_foreign_log
from repo_stream.store.loop import Loop, open_loop

if TYPE_CHECKING:
    import aiosqlite

__all__ = ["APPLICATION_ID", "Database"]

R = TypeVar("R")

#: What a store's file says it is, if SQLite keeps room for it (`PRAGMA application_id`).
APPLICATION_ID: Final = 0x52_53_50_59  # "RSPY"

_TABLES: Final = {
    "extents": "offset INTEGER PRIMARY KEY, length INT NOT NULL, blocks INT NOT NULL",
    "places": "bucket INT NOT NULL, entries BLOB NOT NULL",
}


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
    creates = [f"CREATE TABLE {name} ({columns})" for name, columns in _TABLES.items()]
    for statement in ("VACUUM", "PRAGMA journal_mode=MEMORY", *creates):
        await connection.execute_fetchall(statement)


async def _forget_tables(connection: aiosqlite.Connection) -> None:
    # A table that is dropped is journalled, and without a journal a fault in the middle damages the
    # file. A table that is forgotten need not even be read.
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
        drops = [f"DROP TABLE IF EXISTS {table}" for table in _TABLES]
        for statement in ("PRAGMA journal_mode=OFF", *drops):
            await connection.execute_fetchall(statement)


async def _begin(connection: aiosqlite.Connection, cache_kib: int) -> None:
    await connection.execute_fetchall(f"PRAGMA cache_size=-{cache_kib}")
    await connection.execute_fetchall("BEGIN")


async def _commit(connection: aiosqlite.Connection) -> None:
    await connection.commit()


async def _record(connection: aiosqlite.Connection, extent: tuple[int, int, int]) -> None:
    # Whoever was cancelled while this ran to its end writes the same once more.
    insert = "INSERT OR REPLACE INTO extents VALUES (?, ?, ?)"
    await connection.execute_fetchall(insert, extent)


async def _put_places(
    connection: aiosqlite.Connection, places: Iterable[tuple[int, bytearray]]
) -> None:
    cursor = await connection.executemany("INSERT INTO places VALUES (?, ?)", places)
    await cursor.close()


async def _places(
    connection: aiosqlite.Connection, buckets: Sequence[int]
) -> list[tuple[int, bytes]]:
    # Once it is asked for, and not for every row that is added before.
    index = "CREATE INDEX IF NOT EXISTS places_by_bucket ON places (bucket)"
    await connection.execute_fetchall(index)
    marks = ",".join("?" * len(buckets))
    query = (
        "SELECT bucket, entries FROM places "  # noqa: S608 - from above
        f"WHERE bucket IN ({marks}) ORDER BY bucket, rowid"
    )
    return cast("list[tuple[int, bytes]]", await connection.execute_fetchall(query, buckets))


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


class Database:
    """One SQLite file, opened through `aiosqlite`; errors are `DiskError` leaves."""

    def __init__(self, path: Path | None, loop: Loop) -> None:
        self.path = path
        self._loop = loop
        self._connection: aiosqlite.Connection | None = None
        self._identity: tuple[int, int] | None = None
        # The file that blocks are appended to, once there are any.
        self._log: Log | None = None

    @classmethod
    async def open(cls, path: Path | None) -> Database:
        """Open a store's file, and take it for this process alone.

        Args:
            path: where it is; `None` for a temporary one.

        Raises:
            DiskError: if that cannot be done; see its leaves.
        """
        log_left = path is not None and await anyio.to_thread.run_sync(_refuse_foreign, path)
        await anyio.lowlevel.checkpoint()
        try:
            database = cls(path, await open_loop())
        except OSError as error:
            raise named_os_error(error, path) from error
        try:
            await database._loop.run(database._connect)
            if path is not None and log_left:
                # Only now is it sure that no other store appends to it.
                await anyio.to_thread.run_sync(_delete_log, path)
        except BaseException as error:
            # Named while what has been opened is still open: it may have been the last descriptor.
            named = error
            if isinstance(error, sqlite3.Error):
                named = _named(error, path)
            elif isinstance(error, OSError):
                named = named_os_error(error, path)
            await database.aclose()
            if named is error:
                raise
            raise named from error
        return database

    async def _connect(self) -> None:
        # Kept at once, where a cancellation of the call cannot lose it.
        self._connection = await _connect(self.path)
        if self.path is not None:
            self._identity = identity(self.path, self.path)
            if not _writable(self.path.resolve().parent):
                message = "its directory may not be written, and its log would be there"
                raise StoreReadOnly(message, path=self.path)

    @property
    def closed(self) -> bool:
        """Whether it has been closed."""
        return self._connection is None

    async def reset(self) -> None:
        """Empty both files and return their space to the system."""
        await self._run(self._reset)

    async def begin(self, cache_kib: int) -> None:
        """Begin to write, with so much memory for SQLite, in KiB."""
        await self._run(_begin, cache_kib)

    async def append(self, at: int, parts: Sequence[bytes], blocks: int) -> None:
        """Write sections to the log and record them.

        Args:
            at: where in the log, in bytes. What was recorded from there on is replaced.
            parts: the bytes.
            blocks: how many blocks they are, or end with them.
        """
        await self._run(self._append, at, parts, blocks)

    async def put_places(self, places: Iterable[tuple[int, bytearray]]) -> None:
        """Add entries to buckets."""
        await self._run(_put_places, places)

    async def places(self, buckets: Sequence[int]) -> list[tuple[int, bytes]]:
        """Return the entries of buckets, one or more rows a bucket, in the order they came in."""
        return await self._run(_places, buckets)

    async def commit(self) -> None:
        """Make what was recorded last."""
        await self._run(_commit)

    async def visit(self, work: Callable[[OpenFile], R]) -> R:
        """Have work done that reads here and there in the log; see `SharedFile.visit`.

        Raises:
            DiskIOError: if the log cannot be read.
        """
        log = self._log
        if log is None:
            raise StoreCorrupt("it has no log", path=self.path)
        self._check_file()
        log.check()
        try:
            return await log.visit(work)
        except OSError as error:
            raise named_os_error(error, self.path) from error

    async def _reset(self, connection: aiosqlite.Connection) -> None:
        await self._remove_log()
        await _reset(connection)

    async def _remove_log(self) -> None:
        log, self._log = self._log, None
        if log is not None:
            await anyio.to_thread.run_sync(log.remove)

    async def _append(
        self, connection: aiosqlite.Connection, at: int, parts: Sequence[bytes], blocks: int
    ) -> None:
        if self._log is None:
            self._log = await anyio.to_thread.run_sync(Log.open, self.path)
        self._log.check()
        await anyio.to_thread.run_sync(self._log.write, at, parts)
        await _record(connection, (at, sum(map(len, parts)), blocks))

    async def _run(self, operation: Callable[..., Coroutine[Any, Any, R]], *arguments: object) -> R:
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
        except OSError as error:
            raise named_os_error(error, self.path) from error

    async def aclose(self) -> None:
        """Close both files. The log is gone with it, and so is the database without a path."""
        connection, self._connection = self._connection, None
        with anyio.CancelScope(shield=True):
            try:
                if connection is not None:
                    await self._loop.run(self._close, connection)
            except sqlite3.Error as error:
                raise _named(error, self.path) from error
            finally:
                await self._loop.aclose()

    async def _close(self, connection: aiosqlite.Connection) -> None:
        # While the database is still locked: after that another store may have a log of that name.
        await self._remove_log()
        await connection.close()

    def _check_file(self) -> None:
        """SQLite goes on writing to a file that was deleted; nobody would ever see it."""
        if self.path is not None and identity(self.path, self.path) != self._identity:
            raise StoreGone("its file was replaced; open a new store", path=self.path)

    def __del__(self) -> None:
        connection, log = self._connection, self._log
        if connection is None:
            return
        self._connection = None

        def release() -> None:
            if log is not None:
                log.remove()
            connection.stop()  # pyright: ignore[reportUnknownMemberType] - it gives a bare Future

        self._loop.forget(release)
        warnings.warn(
            f"a disk store ({self.path or 'temporary'}) was not closed; use `async with`",
            ResourceWarning,
            stacklevel=2,
            source=self,
        )


def _delete_log(store: Path) -> None:
    if refuse_foreign_log(store):
        log_path(store).unlink(missing_ok=True)


def _refuse_foreign(path: Path) -> bool:
    """Look at what the paths of the store hold, and touch nothing; return whether it has a log."""
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
    return refuse_foreign_log(path)


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
    if code == sqlite3.SQLITE_CANTOPEN and (no_descriptor := _no_descriptor()) is not None:
        return named_os_error(no_descriptor, path)
    if code == sqlite3.SQLITE_CANTOPEN and path is not None and _in_read_only_directory(path):
        kind, message = StoreReadOnly, "its directory may not be written"
    return kind(f"{message} ({error})", path=path)


def _no_descriptor() -> OSError | None:
    """Return why no file can be opened now, if that is for want of file descriptors."""
    try:
        os.close(os.open(os.devnull, os.O_RDONLY))
    except OSError as error:
        return error if error.errno in {errno.EMFILE, errno.ENFILE} else None
    return None


def _primary_code(error: sqlite3.Error) -> int:
    # Errors of Python's own, such as ProgrammingError, may have none.
    return (getattr(error, "sqlite_errorcode", None) or 0) & 0xFF


def _in_read_only_directory(path: Path) -> bool:
    parent = path.resolve().parent
    return parent.is_dir() and not path.exists() and not _writable(parent)


def _writable(directory: Path) -> bool:
    effective = os.access in os.supports_effective_ids
    return os.access(directory, os.W_OK, effective_ids=effective)
