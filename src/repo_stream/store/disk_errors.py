"""Errors of the system as leaves of `DiskError`.

Each leaf stands for something that a caller can do: free some space, choose another path, wait. An
error that is in no table below is a plain `DiskIOError`. Those of SQLite are in `sqlite_errors`.
"""

from __future__ import annotations

import errno
import os
from pathlib import Path
from typing import Final

from repo_stream.errors import (
    DiskError,
    DiskFull,
    DiskIOError,
    StoreReadOnly,
    StoreUnavailable,
)

__all__ = ["disk_error", "from_os_error", "is_writable", "lack_of_descriptors", "temporary_folder"]

_FULL: Final = {errno.ENOSPC, getattr(errno, "EDQUOT", errno.ENOSPC)}
_READ_ONLY: Final = {errno.EACCES, errno.EPERM, errno.EROFS}
_UNAVAILABLE: Final = {errno.ENOENT, errno.ENOTDIR, errno.EISDIR}
_NO_DESCRIPTOR: Final = {errno.EMFILE, errno.ENFILE}

# Where SQLite has temporary files, so that both files of a temporary store are on one disk.
_TEMPORARY_NAMES: Final = ("SQLITE_TMPDIR", "TMPDIR")
_TEMPORARY_FOLDERS: Final = ("/var/tmp", "/usr/tmp", "/tmp")  # noqa: S108 - names are not made here

# What helps if a temporary store has failed in one of these ways.
_ELSEWHERE: Final = "; or set TMPDIR to another directory, or choose a path for the store"
_HELPED: Final = (DiskFull, DiskIOError, StoreReadOnly, StoreUnavailable)


def disk_error(kind: type[DiskError], message: str, store: Path | None) -> DiskError:
    """Return an error of a store. That of a temporary one names its directory, and what to do.

    Args:
        kind: the error.
        message: what happened, and what to do.
        store: the path of the store; `None` for a temporary one.
    """
    if store is not None or not issubclass(kind, _HELPED):
        return kind(message, path=store)
    return kind(f"{message}{_ELSEWHERE}", path=None, folder=temporary_folder())


def temporary_folder() -> str | None:
    """Return the directory for temporary files; `None` if the system decides where that is."""
    named = [os.environ[name] for name in _TEMPORARY_NAMES if os.environ.get(name)]
    for folder in (*named, *_TEMPORARY_FOLDERS):
        if os.path.isdir(folder) and os.access(folder, os.W_OK | os.X_OK):  # noqa: PTH112 - in a thread
            return folder
    return None


def from_os_error(error: OSError, store: Path | None) -> DiskError:
    """Return the `DiskError` for an error of the system.

    Args:
        error: the error.
        store: the path of the store; `None` for a temporary one.
    """
    why = error.strerror
    if error.errno in _FULL:
        message = f"no space is left on its disk ({why}); free some space"
        return disk_error(DiskFull, message, store)
    if error.errno in _READ_ONLY:
        message = f"it cannot be written ({why}); check its permissions"
        return disk_error(StoreReadOnly, message, store)
    if error.errno in _NO_DESCRIPTOR:
        return StoreUnavailable(
            f"no file descriptor is left to open it with ({why}); "
            "close files, or raise the limit (ulimit -n)",
            path=store,
        )
    if error.errno in _UNAVAILABLE:
        return disk_error(StoreUnavailable, f"it cannot be opened ({why}); check its path", store)
    return disk_error(DiskIOError, f"the system could not read or write it ({why})", store)


def lack_of_descriptors() -> OSError | None:
    """Return why no file can be opened now, if that is for lack of file descriptors."""
    try:
        os.close(os.open(os.devnull, os.O_RDONLY))
    except OSError as error:
        return error if error.errno in _NO_DESCRIPTOR else None
    return None


def is_writable(directory: Path) -> bool:
    """Return whether this process may create files in a directory."""
    effective = os.access in os.supports_effective_ids
    return os.access(directory, os.W_OK, effective_ids=effective)
