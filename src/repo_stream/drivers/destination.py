"""The store that the blocks of a streamed repo go to: opened when it is first needed."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from repo_stream.drivers.keywords import Spill

if TYPE_CHECKING:
    from repo_stream.store.disk import DiskStore, Lease

__all__ = ["Destination", "check_spill"]


class Destination:
    """A store that was given, or one that is opened here and closed at the end.

    Args:
        spill: the store, or the path of its database; `None` for a temporary file.
        cache: the size of SQLite's page cache, in bytes.

    Raises:
        TypeError: if `spill` is anything else.
    """

    def __init__(self, spill: Spill, cache: int) -> None:
        check_spill(spill)
        self._spill: Spill = spill
        self._cache = cache
        self._store: DiskStore | None = None
        self._opened_here = False
        self._lease: Lease | None = None

    async def leased(self) -> Lease:
        """Return the lease of the store, which is opened if it is not open yet."""
        if self._store is None:
            # Importing SQLite takes half of the time of the import, and most repos fit in memory.
            from repo_stream.store.disk import DiskBuilder, DiskStore  # noqa: PLC0415 - see above

            if isinstance(self._spill, DiskStore):
                self._store = self._spill
            else:
                self._store = await DiskBuilder().open(self._spill or None)
                self._opened_here = True
        if self._lease is None:
            self._lease = await self._store.begin(self._cache)
        return self._lease

    async def aclose(self) -> None:
        """Empty the store, and close it if it was opened here."""
        store, self._store = self._store, None
        if store is None:
            return
        try:
            # A temporary file is gone when it is closed.
            if self._lease is not None and (store.path is not None or not self._opened_here):
                await self._lease.abandon()
        finally:
            if self._opened_here:
                await store.aclose()


def check_spill(spill: object) -> None:
    """Raise `TypeError` for what cannot be a store, before one is needed."""
    if spill is None or spill is False or isinstance(spill, (str, os.PathLike)):
        return
    from repo_stream.store.disk import DiskStore  # noqa: PLC0415 - imported if there is one

    if not isinstance(spill, DiskStore):
        raise TypeError(f"spill must be a path, a DiskStore, None or False, not {spill!r}")
