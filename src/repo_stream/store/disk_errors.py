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

__all__ = ["from_os_error", "is_writable", "lack_of_descriptors"]

_FULL: Final = {errno.ENOSPC, getattr(errno, "EDQUOT", errno.ENOSPC)}
_READ_ONLY: Final = {errno.EACCES, errno.EPERM, errno.EROFS}
_UNAVAILABLE: Final = {errno.ENOENT, errno.ENOTDIR, errno.EISDIR}
_NO_DESCRIPTOR: Final = {errno.EMFILE, errno.ENFILE}


def from_os_error(error: OSError, store: Path | None) -> DiskError:
    """Return the `DiskError` for an error of the system.

    Args:
        error: the error.
        store: the path of the store; `None` for a temporary one.
    """
    why = error.strerror
    if error.errno in _FULL:
        return DiskFull(f"no space is left on its disk ({why}); free some space", path=store)
    if error.errno in _READ_ONLY:
        return StoreReadOnly(f"it cannot be written ({why}); check its permissions", path=store)
    if error.errno in _NO_DESCRIPTOR:
        return StoreUnavailable(
            f"no file descriptor is left to open it with ({why}); "
            "close files, or raise the limit (ulimit -n)",
            path=store,
        )
    if error.errno in _UNAVAILABLE:
        return StoreUnavailable(f"it cannot be opened ({why}); check its path", path=store)
    return DiskIOError(f"the system could not read or write it ({why})", path=store)


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
