"""Whether the paths of a store are free or hold a store's own files, before anything is opened.

A store has two files: its database, marked by SQLite's `application_id`, and its log, marked by its
first bytes. A file without the mark belongs to somebody else: it is refused, and not touched.
"""

from __future__ import annotations

import sqlite3
import stat
from pathlib import Path
from typing import Final

from repo_stream.errors import ForeignFile, StoreUnavailable
from repo_stream.store.log import refuse_foreign_log
from repo_stream.store.sqlite_errors import from_sqlite_error, primary_code

__all__ = ["APPLICATION_ID", "refuse_foreign", "uri_for_sqlite"]

#: The mark of a store's database (`PRAGMA application_id`).
APPLICATION_ID: Final = 0x52_53_50_59  # "RSPY"


def refuse_foreign(store: Path) -> bool:
    """Check what the paths of a store hold, and touch nothing.

    Args:
        store: the path of the database.

    Returns:
        Whether there is a log, which may be deleted once the database is locked.

    Raises:
        ForeignFile: if any of the paths holds a file that no store made.
        StoreUnavailable, StoreReadOnly: if a path cannot be read.
    """
    try:
        status = store.stat()
    except FileNotFoundError:
        pass
    except OSError as error:
        message = f"it cannot be opened ({error.strerror}); check its path"
        raise StoreUnavailable(message, path=store) from error
    else:
        if not stat.S_ISREG(status.st_mode):
            raise StoreUnavailable("it is not a regular file; choose another path", path=store)
        if status.st_size > 0:
            _refuse_foreign_database(store)
    _refuse_foreign_journal(store)
    return refuse_foreign_log(store)


def _refuse_foreign_database(store: Path) -> None:
    # Reading the file's first bytes would do, but POSIX drops all the locks that a process has on a
    # file when it closes any descriptor of it: those of another store, or of somebody's database.
    # SQLite takes care of that. It neither locks nor recovers nor writes an immutable file.
    try:
        uri = uri_for_sqlite(store.as_uri())
        connection = sqlite3.connect(f"{uri}?mode=ro&immutable=1", uri=True)
        try:
            # Without this, the mark of a truncated file could not be read.
            connection.execute("PRAGMA writable_schema=ON")
            (mark,) = connection.execute("PRAGMA application_id").fetchone()
        finally:
            connection.close()
    except sqlite3.Error as error:
        if primary_code(error) in {sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_CORRUPT}:
            raise _foreign(store) from error
        raise from_sqlite_error(error, store) from error
    if mark != APPLICATION_ID:
        raise _foreign(store)


def uri_for_sqlite(uri: str) -> str:
    """Return the URI of a file as SQLite takes it.

    On Windows, the URI of a path such as `//server/share/work.db` has the server as its authority,
    which SQLite refuses. It takes an empty authority, and the server in the path.
    """
    return uri if uri.startswith("file:///") else uri.replace("file:", "file://", 1)


def _refuse_foreign_journal(store: Path) -> None:
    # SQLite would take these for the store's own, which has none.
    real = store.resolve()
    for suffix in ("-journal", "-wal"):
        if real.with_name(real.name + suffix).exists():
            message = f"{real.name}{suffix} of another database is beside it; choose another path"
            raise ForeignFile(message, path=store)


def _foreign(store: Path) -> ForeignFile:
    return ForeignFile(
        "the file was not made by a disk store, and has not been touched; choose another path",
        path=store,
    )
