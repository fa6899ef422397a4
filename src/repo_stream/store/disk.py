"""The disk store: where a repo goes that does not fit in memory.

A store is scratch space for one repo at a time. The repo's sections are in a log (`log`), and its
database (`database`) knows what was appended there and where blocks are, if that is too much for
the memory. Of a repo that is read in its own file the store only has the places.

Whoever fills a store or reads from it has a lease. The next one ends it, and so do `reset` and
`aclose`. Every operation runs to its end before a cancellation gets through, so that a store is
always in a known state.
"""

from __future__ import annotations

import os
from collections.abc import Awaitable, Callable, Generator, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Self, TypeVar

import anyio

from repo_stream.car.files import OpenFile
from repo_stream.errors import DiskError, MaxSizeExceeded, StoreClosed, StoreCorrupt
from repo_stream.limits import MIB
from repo_stream.store.database import Database
from repo_stream.store.log import LOG_START
from repo_stream.store.places import Places, bucket_of

__all__ = ["DiskBuilder", "DiskStore", "Lease"]

R = TypeVar("R")


@dataclass(frozen=True)
class DiskBuilder:
    """How a disk store is to be opened.

    Args:
        cache_size_mb: the most that SQLite may keep in memory, in MiB. Little is as good as much;
            a driver with a low memory limit takes less of it.
        max_stored_mb: the most that one repo may take on disk, in MiB: its sections in the log, and
            the places of its blocks. A repo that is read in its own file only takes the latter, if
            they do not fit in memory.

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
            path: its database, made if there is none. An existing file must be empty or a store's
                own; what a store's file held is gone. While it holds a repo, the repo's sections
                lie in a log beside it, which has the same name with `-log` behind it. Without a
                path both are temporary files, in the directory that SQLite uses for those
                (`SQLITE_TMPDIR`, `TMPDIR`, else `/var/tmp` or `/tmp`); they have no name there and
                are gone with the store, even after a crash.

        Raises:
            ForeignFile: if the path, or that of the log, holds anything else. It is not touched.
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
        database = await Database.open(self._path)
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

    def __init__(self, database: Database, builder: DiskBuilder) -> None:
        self._database = database
        self._builder = builder
        self._guard = anyio.ResourceGuard("storing or fetching blocks with")
        self._held = Held(ended=True)

    @property
    def path(self) -> Path | None:
        """The store's file, or `None` for a temporary one."""
        return self._database.path

    @property
    def stored(self) -> int:
        """How many bytes of the present repo are on disk: sections in the log, and places."""
        return 0 if self._held.ended else self._held.stored

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
            await self._database.reset()
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
        held = self._held
        if not held.ended:
            held.ended = True
            if held.at_end is not None:
                await held.at_end()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_error: object) -> None:
        await self.aclose()

    async def begin(self, cache_bytes: int) -> Lease:
        """Make the store ready to be filled, for one repo.

        Args:
            cache_bytes: what SQLite may keep in memory, unless the builder allows less.
        """
        with self._guard:
            await self._end_lease()
            cache_kib = min(self._builder.cache_size_mb * MIB, cache_bytes) // 1024
            await self._database.reset()
            try:
                await self._database.begin(max(cache_kib, 256))
            except BaseException:
                await self._undo()
                raise
            self._held = Held()
            return Lease(self, self._held)

    async def _undo(self) -> None:
        with anyio.CancelScope(shield=True):
            # The error that led here is the one to hear of. What is wrong with the file will show
            # again when the store is used.
            with suppress(DiskError):
                await self._database.reset()

    # What a lease does.

    async def append(self, lease: Lease, at: int, parts: Sequence[bytes], blocks: int) -> None:
        """See `Lease.append`."""
        with self._guard:
            lease.check()
            end = at + sum(map(len, parts))
            self._require_room(end + lease.place_bytes)
            await self._database.append(at, parts, blocks)
            lease.held.end = end

    async def put_places(self, lease: Lease, places: Places) -> None:
        """See `Lease.put_places`."""
        with self._guard:
            lease.check()
            self._require_room(lease.held.end + lease.place_bytes + places.entry_bytes)
            await self._database.put_places(_counted(places, lease.held))

    async def buckets(self, lease: Lease, cids: Sequence[bytes]) -> dict[int, bytes]:
        """See `Lease.buckets`."""
        numbers = {*map(bucket_of, cids)}
        buckets = dict.fromkeys(numbers, b"")
        with self._guard:
            lease.check()
            for number, entries in await self._database.places(sorted(numbers)):
                buckets[number] += entries
        return buckets

    async def visit(self, lease: Lease, work: Callable[[OpenFile], R]) -> R:
        """See `Lease.visit`."""
        with self._guard:
            lease.check()
            return await self._database.visit(work)

    async def commit(self, lease: Lease) -> None:
        """See `Lease.seal`."""
        with self._guard:
            lease.check()
            await self._database.commit()

    async def abandon(self, lease: Lease) -> None:
        """See `Lease.abandon`."""
        if not lease.held.ended:
            with self._guard:
                try:
                    await self._end_lease()
                finally:
                    await self._undo()

    def _require_room(self, stored: int) -> None:
        if stored > self._builder.max_stored_mb * MIB + LOG_START:
            raise MaxSizeExceeded(path=self.path, max_stored_mb=self._builder.max_stored_mb)


@dataclass
class Held:
    """What a store knows of the lease that it has given.

    The store has this and not the lease, which has the store: in a circle, what is forgotten would
    be finalized in any order, and complain of not being closed before the store can close it.

    Attributes:
        end: where the log ends, in bytes.
        place_bytes: how many bytes of places are in the database.
        ended: whether somebody else has the store by now.
        at_end: what is done when that happens.
    """

    end: int = LOG_START
    place_bytes: int = 0
    ended: bool = False
    at_end: Callable[[], Awaitable[object]] | None = None

    @property
    def stored(self) -> int:
        """How many bytes are on disk."""
        return self.end - LOG_START + self.place_bytes


def _counted(places: Places, held: Held) -> Iterator[tuple[int, bytearray]]:
    """Give places away, each counted as it goes: a cancellation may come before that, or after."""
    for number, entries in places.take():
        held.place_bytes += len(entries)
        yield number, entries


class Lease:
    """A store, for whoever has it until the next one.

    Args:
        store: the store.
        held: what it knows of this.
    """

    def __init__(self, store: DiskStore, held: Held) -> None:
        self.store = store
        self.held = held

    @property
    def place_bytes(self) -> int:
        """How many bytes of places are in the database."""
        return self.held.place_bytes

    def check(self) -> None:
        """Raise `StoreClosed` if the store is no longer the caller's."""
        if self.held.ended:
            raise StoreClosed("it was reset, closed or given to another repo", path=self.store.path)

    async def append(self, at: int, parts: Sequence[bytes], blocks: int) -> None:
        """Append sections to the log, and have the database record them.

        Whoever was cancelled does it again with what it still has: the same bytes at the same
        offset.

        Args:
            at: where in the log they start, in bytes.
            parts: the bytes.
            blocks: how many blocks they are.

        Raises:
            MaxSizeExceeded: if they are more than may be stored.
            DiskError: if the store fails.
        """
        await self.store.append(self, at, parts, blocks)

    async def put_places(self, places: Places) -> None:
        """Move the places of blocks to the database, behind those that are there.

        Raises:
            MaxSizeExceeded: if they are more than may be stored.
            DiskError: if the store fails.
        """
        await self.store.put_places(self, places)

    async def buckets(self, cids: Sequence[bytes]) -> dict[int, bytes]:
        """Return the entries of the buckets for some CIDs, as far as they are in the database."""
        return await self.store.buckets(self, cids)

    async def visit(self, work: Callable[[OpenFile], R]) -> R:
        """Have work done that reads here and there in the log."""
        return await self.store.visit(self, work)

    async def seal(self) -> None:
        """Finish the filling."""
        await self.store.commit(self)

    async def abandon(self) -> None:
        """Undo the filling, whatever happens meanwhile, unless somebody else has the store."""
        await self.store.abandon(self)

    def damaged(self) -> StoreCorrupt:
        """Return the error for a log that does not hold what was written to it."""
        return StoreCorrupt(
            "its log was cut short or overwritten while it was open; load the repo again",
            path=self.store.path,
        )
