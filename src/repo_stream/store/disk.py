"""The disk store: disk space for one repo at a time, if it does not fit in memory.

`DiskBuilder` holds the settings, `DiskStore` is what callers open, pass on, reset and close, and a
`Lease` is what a driver fills and reads. The repo's sections are in a log (`log`). The database
(`database`) records what was appended there, and keeps the places of blocks if they are too many
for the memory. If a repo is read in its own file, the store keeps places only.

A store has one lease at a time. A new lease ends the one before, and so do `reset` and `aclose`.
Every operation runs to its end before a cancellation takes effect, so that a store is always in a
known state.
"""

from __future__ import annotations

import os
from collections.abc import Awaitable, Callable, Generator, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final, Self, TypeVar

import anyio

from repo_stream.arguments import check_kind, check_number
from repo_stream.car.files import OpenFile
from repo_stream.errors import DiskError, MaxSizeExceeded, StoreClosed, StoreCorrupt
from repo_stream.limits import MIB
from repo_stream.store.buckets import bucket_of
from repo_stream.store.database import Database
from repo_stream.store.log import LOG_START
from repo_stream.store.places import Places

__all__ = ["DiskBuilder", "DiskStore", "Lease"]

R = TypeVar("R")

# SQLite's page cache has at least so many KiB.
_LEAST_CACHE_KIB: Final = 256


# --- Settings -----------------------------------------------------------------------------------


@dataclass(frozen=True)
class DiskBuilder:
    """The settings of a disk store.

    Args:
        cache_size_mb: the most memory that SQLite may use for its page cache, in MiB. A small cache
            is as fast as a large one; a driver with a low memory limit uses less.
        max_stored_mb: the most disk space that one repo may take, in MiB: its sections in the log,
            and the places of its blocks. A repo that is read in its own file takes space for places
            only, and only if they do not fit in memory.

    Raises:
        TypeError: if one of them is not a number.
        ValueError: if `cache_size_mb` is less than 1, or `max_stored_mb` is negative.

    Example:
        >>> async def example():
        ...     async with DiskBuilder(max_stored_mb=1024).open() as store:
        ...         ...  # pass it to NeedDisk.finish_loading
    """

    cache_size_mb: int = 32
    max_stored_mb: int = 10 * 1024

    def __post_init__(self) -> None:
        check_number("cache_size_mb", self.cache_size_mb, least=1, unit=" of MiB")
        check_number("max_stored_mb", self.max_stored_mb, unit=" of MiB")

    def with_cache_size_mb(self, cache_size_mb: int) -> DiskBuilder:
        """Return a builder with another cache size, in MiB."""
        return replace(self, cache_size_mb=cache_size_mb)

    def with_max_stored_mb(self, max_stored_mb: int) -> DiskBuilder:
        """Return a builder with another limit on disk space, in MiB."""
        return replace(self, max_stored_mb=max_stored_mb)

    def open(self, path: str | os.PathLike[str] | None = None) -> Opening:
        """Open a store: `await` it, or use it with `async with`, which also closes it.

        While a store with a path holds a repo, the repo's sections are in a log beside the
        database, which has the database's name and `-log` after it. Without a path both are
        temporary files in the directory that SQLite uses for those (`SQLITE_TMPDIR`, `TMPDIR`, else
        `/var/tmp` or `/tmp`); they have no names, and are gone when the store is closed or the
        process ends.

        Args:
            path: the database, which is created if it does not exist. An existing file must be
                empty or made by a store, and loses its contents. `None` for temporary files.

        Raises:
            ForeignFile: if the path, or the log's, holds a file that no store made. It is not
                touched.
            StoreLocked: if another store has it open.
            StoreReadOnly, StoreUnavailable: if it cannot be opened or written.
            StoreCorrupt: if it was made by a store and is damaged.
            TypeError: if `path` is not a path.
        """
        if path is not None:
            such_as = "a path, or None for a temporary store"
            check_kind("path", path, (str, os.PathLike), such_as=such_as)
        # Absolute, as the working directory may change while the store is open.
        return Opening(self, Path(path).absolute() if path is not None else None)


class Opening:
    """A store that is opened by `await` or `async with`. `DiskBuilder.open` makes it."""

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
        database = await Database.open(self._path)
        store = DiskStore(database, self._builder)
        try:
            await store.reset()
        except BaseException:
            await store.aclose()
            raise
        return store


# --- The store ----------------------------------------------------------------------------------


class DiskStore:
    """Disk space for the blocks of one repo at a time. `DiskBuilder.open` makes it.

    Pass it to `NeedDisk.finish_loading`. Afterwards `DiskDriver.reset_store` returns it, empty, for
    the next repo. After any error or cancellation of a load it can be reset or used again.

    Two tasks that use one store at the same time get `anyio.BusyResourceError`.
    """

    def __init__(self, database: Database, builder: DiskBuilder) -> None:
        self._database = database
        self._builder = builder
        self._guard = anyio.ResourceGuard("storing or fetching blocks with")
        self._held = Held(ended=True)

    @property
    def path(self) -> Path | None:
        """The path of the database; `None` for a temporary one."""
        return self._database.path

    @property
    def stored(self) -> int:
        """How much disk space the present repo takes, in bytes: sections in the log, and places."""
        return 0 if self._held.ended else self._held.stored

    @property
    def closed(self) -> bool:
        """Whether the store has been closed."""
        return self._database.closed

    async def reset(self) -> DiskStore:
        """Empty the store and return its disk space to the system, for the next repo.

        A driver that still uses the store raises `StoreClosed` from then on.

        Returns:
            The store itself.

        Raises:
            StoreClosed: if it has been closed.
            DiskError: if the file cannot be written; see its leaves.
        """
        with self._guard:
            await self._held.end()
            await self._database.reset()
        return self

    def is_last(self, held: Held) -> bool:
        """Return whether a lease is the latest one."""
        return self._held is held

    async def aclose(self) -> None:
        """Close the store, which deletes its log and its temporary files.

        To close it again does nothing.
        """
        with self._guard:
            try:
                await self._held.end()
            finally:
                await self._database.aclose()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_error: object) -> None:
        await self.aclose()

    async def begin(self, cache_bytes: int) -> Lease:
        """Prepare the store for one repo.

        Args:
            cache_bytes: the size of SQLite's page cache, unless the builder allows less.
        """
        with self._guard:
            await self._held.end()
            cache_kib = min(self._builder.cache_size_mb * MIB, cache_bytes) // 1024
            await self._database.reset()
            try:
                await self._database.begin(max(cache_kib, _LEAST_CACHE_KIB))
            except BaseException:
                await _undo(self._database)
                raise
            self._held = Held()
        return Lease(self, self._held, self._database, self._guard, self._builder.max_stored_mb)


async def _undo(database: Database) -> None:
    """Empty a database after an error or cancellation, which is the one to be raised."""
    with anyio.CancelScope(shield=True):
        # Whatever is wrong with the file is raised again when the store is used.
        with suppress(DiskError):
            await database.reset()


# --- What a driver has of it --------------------------------------------------------------------


@dataclass
class Held:
    """What a store and its lease both know of the repo in the store.

    The store refers to this and not to the lease, which refers to the store. If they formed a
    cycle, a forgotten driver's objects would be finalized in any order, and the loop would warn of
    not being closed before the store can close it.

    Attributes:
        end_of_log: where the log ends, in bytes.
        place_bytes: how many bytes of places are in the database.
        ended: whether the lease has ended.
        at_end: called when the lease ends; `None` for nothing.
    """

    end_of_log: int = LOG_START
    place_bytes: int = 0
    ended: bool = False
    at_end: Callable[[], Awaitable[object]] | None = None

    @property
    def stored(self) -> int:
        """How many bytes are on disk."""
        return self.end_of_log - LOG_START + self.place_bytes

    async def end(self) -> None:
        """End the lease, if it has not ended."""
        if not self.ended:
            self.ended = True
            if self.at_end is not None:
                await self.at_end()


class Lease:
    """The use of a store for one repo, until the next lease, a `reset` or `aclose` ends it.

    Args:
        store: the store.
        held: what it knows of the lease.
        database: the store's database.
        guard: raises if two tasks use the store at the same time.
        max_stored_mb: the most disk space that the repo may take, in MiB.
    """

    def __init__(
        self,
        store: DiskStore,
        held: Held,
        database: Database,
        guard: anyio.ResourceGuard,
        max_stored_mb: int,
    ) -> None:
        self.store = store
        self.held = held
        self._database = database
        self._guard = guard
        self._max_stored_mb = max_stored_mb

    @property
    def place_bytes(self) -> int:
        """How many bytes of places are in the database."""
        return self.held.place_bytes

    def check(self) -> None:
        """Raise `StoreClosed` if the lease has ended."""
        if self.held.ended:
            raise StoreClosed(
                "it was reset, closed or passed to another repo; load the repo again",
                path=self.store.path,
            )

    def check_last(self) -> None:
        """Raise `StoreClosed` if the store has had another lease since."""
        if not self.store.is_last(self.held):
            self.check()

    async def append(self, at: int, parts: Sequence[bytes], blocks: int) -> None:
        """Append sections to the log, and record them in the database.

        After a cancellation, call it again with the same bytes at the same offset.

        Args:
            at: where in the log they start, in bytes.
            parts: the bytes.
            blocks: how many blocks they are.

        Raises:
            MaxSizeExceeded: if the repo would take more disk space than is allowed.
            DiskError: if the store fails.
        """
        with self._guard:
            self.check()
            end = at + sum(map(len, parts))
            self._require_space(end - LOG_START + self.place_bytes)
            await self._database.append(at, parts, blocks)
            self.held.end_of_log = end

    async def put_places(self, places: Places) -> None:
        """Move the places of blocks from memory to the database, after those that are there.

        Raises:
            MaxSizeExceeded: if the repo would take more disk space than is allowed.
            DiskError: if the store fails.
        """
        with self._guard:
            self.check()
            self._require_space(self.held.stored + places.place_bytes)
            await self._database.put_places(_counted(places, self.held))

    async def buckets(self, cids: Sequence[bytes]) -> dict[int, bytes]:
        """Return the buckets for some CIDs by their numbers, with the places in the database."""
        numbers = {*map(bucket_of, cids)}
        buckets = dict.fromkeys(numbers, b"")
        with self._guard:
            self.check()
            for number, places in await self._database.places(sorted(numbers)):
                buckets[number] += places
        return buckets

    async def visit(self, work: Callable[[OpenFile], R]) -> R:
        """Call `work` with the open log; see `SharedFile.visit`."""
        with self._guard:
            self.check()
            return await self._database.visit(work)

    async def seal(self) -> None:
        """Merge the places and commit what has been recorded: nothing more will be added."""
        with self._guard:
            self.check()
            if self.place_bytes:
                await self._database.merge_places()
            await self._database.commit()

    async def abandon(self) -> None:
        """End the lease and empty the store, unless the lease has ended. Nothing cancels it."""
        if not self.held.ended:
            with self._guard:
                try:
                    await self.held.end()
                finally:
                    await _undo(self._database)

    def damaged(self) -> StoreCorrupt:
        """Return the error for a log that does not have what was written to it."""
        return StoreCorrupt(
            "its log was truncated or overwritten while it was open; load the repo again",
            path=self.store.path,
        )

    def _require_space(self, stored: int) -> None:
        if stored > self._max_stored_mb * MIB:
            raise MaxSizeExceeded(path=self.store.path, max_stored_mb=self._max_stored_mb)


def _counted(places: Places, held: Held) -> Iterator[tuple[int, bytearray]]:
    """Yield the buckets of places, each counted as it goes: a cancellation may come at any time."""
    for number, bucket in places.take():
        held.place_bytes += len(bucket)
        yield number, bucket
