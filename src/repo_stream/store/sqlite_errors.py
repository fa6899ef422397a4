"""Errors of SQLite as leaves of `DiskError`; those of the system are in `disk_errors`.

This is a module of its own as SQLite takes half of the time of an import, and most repos stay in
memory.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from repo_stream.errors import (
    DiskError,
    DiskFull,
    DiskIOError,
    StoreCorrupt,
    StoreLocked,
    StoreReadOnly,
    StoreUnavailable,
)
from repo_stream.store.disk_errors import (
    disk_error,
    from_os_error,
    is_writable,
    lack_of_descriptors,
)

__all__ = ["as_disk_errors", "from_sqlite_error", "primary_code"]


@contextmanager
def as_disk_errors(store: Path | None) -> Generator[None]:
    """Raise errors of the system and of SQLite as the leaves of `DiskError` that they are.

    Args:
        store: the path of the store; `None` for a temporary one.
    """
    try:
        yield
    except sqlite3.Error as error:
        raise from_sqlite_error(error, store) from error
    except OSError as error:
        raise from_os_error(error, store) from error


_LOCKED: Final = (StoreLocked, "it is in use by another store; use one path for each store")
_UNWRITABLE: Final = (StoreReadOnly, "it cannot be written; check its permissions")
_DAMAGED: Final = (StoreCorrupt, "it is damaged; delete it and load the repo again")

# By SQLite's primary result code.
_BY_CODE: Final[dict[int, tuple[type[DiskError], str]]] = {
    sqlite3.SQLITE_BUSY: _LOCKED,
    sqlite3.SQLITE_LOCKED: _LOCKED,
    sqlite3.SQLITE_READONLY: _UNWRITABLE,
    sqlite3.SQLITE_PERM: _UNWRITABLE,
    sqlite3.SQLITE_CORRUPT: _DAMAGED,
    sqlite3.SQLITE_NOTADB: _DAMAGED,
    sqlite3.SQLITE_CANTOPEN: (
        StoreUnavailable,
        "it cannot be opened; check that its directory exists",
    ),
    sqlite3.SQLITE_FULL: (DiskFull, "no space is left on its disk; free some space"),
    sqlite3.SQLITE_IOERR: (DiskIOError, "the system could not read or write it"),
}


def from_sqlite_error(error: sqlite3.Error, store: Path | None) -> DiskError:
    """Return the `DiskError` for an error of SQLite.

    Args:
        error: the error.
        store: the path of the store; `None` for a temporary one.
    """
    code = primary_code(error)
    kind, message = _BY_CODE.get(code, (DiskError, "SQLite failed"))
    if code == sqlite3.SQLITE_CANTOPEN:
        if (no_descriptor := lack_of_descriptors()) is not None:
            return from_os_error(no_descriptor, store)
        if store is not None and _would_be_created_in_read_only_directory(store):
            kind, message = StoreReadOnly, "its directory cannot be written; choose another path"
    return disk_error(kind, f"{message} ({error})", store)


def primary_code(error: sqlite3.Error) -> int:
    """Return SQLite's primary result code; 0 if the error is one of Python's own."""
    return (getattr(error, "sqlite_errorcode", None) or 0) & 0xFF


def _would_be_created_in_read_only_directory(store: Path) -> bool:
    directory = store.resolve().parent
    return directory.is_dir() and not store.exists() and not is_writable(directory)
