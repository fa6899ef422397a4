"""The database of a disk store: one SQLite file through `aiosqlite`, and the log beside it.

The database records what has been appended to the log, and keeps the places of blocks that are too
many for the memory. What is in neither does not exist: a log is removed with its database, and one
that a crash left behind is deleted when the store is opened.

Every operation runs to its end before a cancellation takes effect, so that the two files always
agree. Every failure is a leaf of `DiskError`.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Coroutine, Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TypeVar

import anyio
import anyio.lowlevel
import anyio.to_thread
from anyio.lowlevel import RunVar

from repo_stream.car.files import OpenFile
from repo_stream.errors import StoreClosed, StoreCorrupt, StoreGone, StoreReadOnly
from repo_stream.store import sql
from repo_stream.store.disk_errors import is_writable
from repo_stream.store.foreign import refuse_foreign
from repo_stream.store.log import Log, delete_log, identity
from repo_stream.store.loop import Loop, open_loop
from repo_stream.store.sqlite_errors import as_disk_errors

if TYPE_CHECKING:
    import aiosqlite

__all__ = ["Database"]

R = TypeVar("R")


# SQLite's threads hand Python's lock to each other for every row. Eight repos in one event loop,
# each in a store of its own, took 1.15 of the time that they take with two threads at a time.
_MOST_AT_WORK: Final = 2
_AT_WORK: Final[RunVar[anyio.Semaphore]] = RunVar("_AT_WORK")


def _at_work() -> anyio.Semaphore:
    """Return the semaphore that all stores of this event loop share."""
    try:
        return _AT_WORK.get()
    except LookupError:
        turns = anyio.Semaphore(_MOST_AT_WORK, fast_acquire=True)
        _AT_WORK.set(turns)
        return turns


class Database:
    """The two files of a store. `open` makes it.

    Args:
        path: the path of the database; `None` for a temporary one.
        loop: runs what speaks asyncio.
    """

    def __init__(self, path: Path | None, loop: Loop) -> None:
        self.path = path
        self._loop = loop
        self._connection: aiosqlite.Connection | None = None
        self._identity: tuple[int, int] | None = None
        # The log, once something has been appended.
        self._log: Log | None = None
        # Whether the places of each bucket are together.
        self._merged = False

    @classmethod
    async def open(cls, path: Path | None) -> Database:
        """Open a database, and lock it for this process alone.

        Args:
            path: its path; `None` for a temporary one.

        Raises:
            DiskError: if it cannot be opened; see its leaves.
        """
        has_log = path is not None and await anyio.to_thread.run_sync(refuse_foreign, path)
        await anyio.lowlevel.checkpoint()
        with as_disk_errors(path):
            database = cls(path, await open_loop())
        try:
            # Named while what has been opened is still open: it may have been the last descriptor.
            with as_disk_errors(path):
                await database._loop.run(database._connect)
                if path is not None and has_log:
                    # Only now is it certain that no other store appends to it.
                    await anyio.to_thread.run_sync(delete_log, path)
        except BaseException:
            await database.aclose()
            raise
        return database

    async def _connect(self) -> None:
        # Kept at once, so that a cancellation of the call cannot lose it.
        self._connection = await sql.connect(self.path)
        if self.path is not None:
            self._identity = identity(self.path, self.path)
            if not is_writable(self.path.resolve().parent):
                message = "its log needs a directory that can be written; choose another path"
                raise StoreReadOnly(message, path=self.path)

    @property
    def closed(self) -> bool:
        """Whether it has been closed."""
        return self._connection is None

    # --- The life of a repo ---------------------------------------------------------------------

    async def reset(self) -> None:
        """Empty the database, delete the log, and return their space to the system."""
        await self._run(self._reset)

    async def _reset(self, connection: aiosqlite.Connection) -> None:
        self._merged = False
        await self._remove_log()
        await sql.reset(connection)

    async def begin(self, cache_kib: int) -> None:
        """Begin to write, with a page cache of so many KiB."""
        await self._run(sql.begin, cache_kib)

    async def append(self, at: int, parts: Sequence[bytes], blocks: int) -> None:
        """Write sections to the log and record them.

        Args:
            at: where in the log, in bytes. It replaces what was recorded from there on.
            parts: the bytes.
            blocks: how many blocks end in them.
        """
        await self._run(self._append, at, parts, blocks)

    async def _append(
        self, connection: aiosqlite.Connection, at: int, parts: Sequence[bytes], blocks: int
    ) -> None:
        if self._log is None:
            self._log = await anyio.to_thread.run_sync(Log.open, self.path)
        self._log.check()
        await anyio.to_thread.run_sync(self._log.write, at, parts)
        await sql.record(connection, (at, sum(map(len, parts)), blocks))

    async def put_places(self, buckets: Iterable[tuple[int, bytearray]]) -> None:
        """Add places to buckets, each with its number."""
        self._merged = False
        await self._run(sql.put_places, buckets)

    async def places(self, buckets: Sequence[int]) -> list[tuple[int, bytes]]:
        """Return the places in buckets: one or more rows a bucket, in the order of `put_places`."""
        return await self._run(sql.merged_places if self._merged else sql.places, buckets)

    async def merge_places(self) -> None:
        """Move the places of each bucket together: all of them have been added."""
        await self._run(sql.merge_places)
        self._merged = True

    async def commit(self) -> None:
        """Commit what has been recorded."""
        await self._run(sql.commit)

    async def visit(self, work: Callable[[OpenFile], R]) -> R:
        """Call `work` with the open log; see `SharedFile.visit`.

        Raises:
            StoreCorrupt: if nothing has been appended.
            StoreGone: if a file was deleted or replaced.
            DiskIOError: if the log cannot be read.
        """
        log = self._log
        if log is None:
            raise StoreCorrupt("it has no log; load the repo again", path=self.path)
        self._check_file()
        log.check()
        with as_disk_errors(self.path):
            return await log.visit(work)

    async def _run(self, operation: Callable[..., Coroutine[Any, Any, R]], *arguments: object) -> R:
        """Run an operation to its end; a cancellation takes effect before it or after it."""
        connection = self._connection
        if connection is None:
            raise StoreClosed("it is closed; open a new store", path=self.path)
        self._check_file()
        await anyio.lowlevel.checkpoint_if_cancelled()
        with as_disk_errors(self.path):
            async with _at_work():
                return await self._loop.run(operation, connection, *arguments)

    def _check_file(self) -> None:
        """Raise `StoreGone` if the file was deleted or replaced: SQLite would not notice."""
        if self.path is not None and identity(self.path, self.path) != self._identity:
            raise StoreGone("its file was replaced; open a new store", path=self.path)

    # --- Closing --------------------------------------------------------------------------------

    async def aclose(self) -> None:
        """Close both files and delete the log; a temporary database is deleted as well."""
        connection, self._connection = self._connection, None
        with anyio.CancelScope(shield=True), as_disk_errors(self.path):
            try:
                if connection is not None:
                    await self._loop.run(self._close, connection)
            finally:
                await self._loop.aclose()

    async def _close(self, connection: aiosqlite.Connection) -> None:
        # While the database is still locked: after that another store may have a log of that name.
        await self._remove_log()
        await connection.close()

    async def _remove_log(self) -> None:
        log, self._log = self._log, None
        if log is not None:
            await anyio.to_thread.run_sync(log.remove)

    def __del__(self) -> None:
        connection, log = self._connection, self._log
        if connection is None:
            return
        self._connection = None

        def release() -> None:
            if log is not None:
                log.remove()
            connection.stop()  # pyright: ignore[reportUnknownMemberType] - it returns a bare Future

        self._loop.forget(release)
        warnings.warn(
            f"a disk store ({self.path or 'temporary'}) was not closed; use `async with`",
            ResourceWarning,
            stacklevel=2,
            source=self,
        )
