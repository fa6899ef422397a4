"""The SQL of a store's database.

`extents` records what has been appended to the log (an *extent* is one write: where it starts, how
long it is, how many blocks end in it). Nothing here reads it: it shows what a store was given.

`places` keeps the places of blocks that are too many for the memory. A bucket has a row there for
each time that places were added. Once all have been added, they move to `merged`, where a bucket is
one row: otherwise each of a million blocks would be looked for in eight rows.

All writes are in one transaction whose journal is in memory. A crash can leave the file damaged; it
is then refused as `StoreCorrupt` and can be deleted.

These functions run in the event loop that `aiosqlite` lives in, one at a time.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from threading import Thread
from typing import TYPE_CHECKING, Final, TypeVar, cast

from repo_stream.store.buckets import BUCKETS
from repo_stream.store.foreign import APPLICATION_ID
from repo_stream.store.sqlite_errors import primary_code

if TYPE_CHECKING:
    import aiosqlite

__all__ = [
    "begin",
    "commit",
    "connect",
    "merge_places",
    "merged_places",
    "places",
    "put_places",
    "record",
    "reset",
]

R = TypeVar("R")

# Buckets that are merged at a time. Of a million blocks they have half a MiB of places.
_MERGED_AT_ONCE: Final = 1024

_TABLES: Final = {
    "extents": "offset INTEGER PRIMARY KEY, length INT NOT NULL, blocks INT NOT NULL",
    "places": "bucket INT NOT NULL, places BLOB NOT NULL",
    "merged": "bucket INTEGER PRIMARY KEY, places BLOB NOT NULL",
}


# --- Connecting ---------------------------------------------------------------------------------


async def connect(path: Path | None) -> aiosqlite.Connection:
    """Open a database, lock it and mark it as a store's.

    Args:
        path: its file; `None` for a temporary one.

    Raises:
        sqlite3.Error: if that fails.
    """
    import aiosqlite  # noqa: PLC0415 - 60 ms that repos which stay in memory never need

    target = str(path) if path is not None else ""  # SQLite's name for a temporary file
    failure: list[sqlite3.Error] = []

    def connector() -> sqlite3.Connection:
        try:
            return sqlite3.connect(target, isolation_level=None, timeout=0)
        except sqlite3.Error as error:
            # If this raised, aiosqlite would not wait for its thread to end, and the event loop
            # could be closed before the thread reports back. What is open is closed in order.
            failure.append(error)
            return sqlite3.connect(":memory:")

    # The worker thread of a store that was never closed would keep the interpreter alive for ever.
    # A thread is a daemon if its maker is one, and the interpreter does not wait for daemons.
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


async def _prepare(connection: aiosqlite.Connection) -> None:
    for pragma in (
        "locking_mode=EXCLUSIVE",
        # Before the first write, or a crash could leave a journal beside the file.
        "journal_mode=MEMORY",
        "synchronous=OFF",
        f"application_id={APPLICATION_ID}",
    ):
        await connection.execute_fetchall(f"PRAGMA {pragma}")


# --- Emptying -----------------------------------------------------------------------------------


async def reset(connection: aiosqlite.Connection) -> None:
    """Empty the database and return its space to the system."""
    await connection.rollback()
    await _forget_tables(connection)
    creates = [f"CREATE TABLE {name} ({columns})" for name, columns in _TABLES.items()]
    for statement in ("VACUUM", "PRAGMA journal_mode=MEMORY", *creates):
        await connection.execute_fetchall(statement)


async def _forget_tables(connection: aiosqlite.Connection) -> None:
    # To drop a table, SQLite journals all of it, and without a journal a failure on the way damages
    # the file. To forget a table, SQLite need not even read it.
    try:
        for statement in (
            "PRAGMA writable_schema=ON",
            "DELETE FROM sqlite_master",
            "PRAGMA writable_schema=RESET",
        ):
            await connection.execute_fetchall(statement)
    except sqlite3.OperationalError as error:
        if primary_code(error) != sqlite3.SQLITE_ERROR:
            raise
        # Builds of SQLite in defensive mode, such as Apple's, do not allow it.
        drops = [f"DROP TABLE IF EXISTS {table}" for table in _TABLES]
        for statement in ("PRAGMA journal_mode=OFF", *drops):
            await connection.execute_fetchall(statement)


# --- Writing ------------------------------------------------------------------------------------


async def begin(connection: aiosqlite.Connection, cache_kib: int) -> None:
    """Begin the transaction, with a page cache of so many KiB."""
    await connection.execute_fetchall(f"PRAGMA cache_size=-{cache_kib}")
    await connection.execute_fetchall("BEGIN")


async def record(connection: aiosqlite.Connection, extent: tuple[int, int, int]) -> None:
    """Record an extent: its offset and length in bytes, and how many blocks end in it."""
    # A write that was cancelled while it ran to its end is repeated, and replaces itself.
    insert = "INSERT OR REPLACE INTO extents VALUES (?, ?, ?)"
    await connection.execute_fetchall(insert, extent)


async def put_places(
    connection: aiosqlite.Connection, buckets: Iterable[tuple[int, bytearray]]
) -> None:
    """Add places to buckets, a row for each bucket."""
    cursor = await connection.executemany("INSERT INTO places VALUES (?, ?)", buckets)
    await cursor.close()


async def merge_places(connection: aiosqlite.Connection) -> None:
    """Move the places to `merged`, a row for each bucket.

    They are deleted as they go, so that their pages are used again. None of these pages was there
    when the transaction began, so the journal has none of them.
    """
    await _index_places(connection)
    some = "SELECT bucket, places FROM places WHERE bucket BETWEEN ? AND ? ORDER BY rowid"
    for first in range(0, BUCKETS, _MERGED_AT_ONCE):
        buckets: dict[int, bytes] = {}
        between = (first, first + _MERGED_AT_ONCE - 1)
        for bucket, rows in await connection.execute_fetchall(some, between):
            buckets[bucket] = buckets.get(bucket, b"") + rows
        insert = "INSERT OR REPLACE INTO merged VALUES (?, ?)"
        cursor = await connection.executemany(insert, buckets.items())
        await cursor.close()
        delete = "DELETE FROM places WHERE bucket BETWEEN ? AND ?"
        await connection.execute_fetchall(delete, between)


async def commit(connection: aiosqlite.Connection) -> None:
    """Commit the transaction."""
    await connection.commit()


# --- Reading ------------------------------------------------------------------------------------


async def places(
    connection: aiosqlite.Connection, buckets: Sequence[int]
) -> list[tuple[int, bytes]]:
    """Return the rows of buckets, in the order in which they were added to each."""
    await _index_places(connection)
    marks = ",".join("?" * len(buckets))
    query = (
        "SELECT bucket, places FROM places "  # noqa: S608 - `marks` has nothing but marks
        f"WHERE bucket IN ({marks}) ORDER BY bucket, rowid"
    )
    return cast("list[tuple[int, bytes]]", await connection.execute_fetchall(query, buckets))


async def merged_places(
    connection: aiosqlite.Connection, buckets: Sequence[int]
) -> list[tuple[int, bytes]]:
    """Return the row of each of some buckets, after `merge_places`."""
    marks = ",".join("?" * len(buckets))
    query = f"SELECT bucket, places FROM merged WHERE bucket IN ({marks})"  # noqa: S608 - as above
    return cast("list[tuple[int, bytes]]", await connection.execute_fetchall(query, buckets))


async def _index_places(connection: aiosqlite.Connection) -> None:
    # Built when it is first needed: to keep it up with each added row takes longer.
    index = "CREATE INDEX IF NOT EXISTS places_by_bucket ON places (bucket)"
    await connection.execute_fetchall(index)
