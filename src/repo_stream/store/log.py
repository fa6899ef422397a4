"""The log of a disk store: a file of sections, one after the other, beside its database.

Blocks are appended to it in large writes, and read again at the offsets that their places state. It
has the database's name and `-log`, as SQLite's own journal has `-journal`; the log of a temporary
store has no name. Only the store that wrote a log reads it, and it is deleted when the store is
emptied or closed. Its first bytes are a mark, so that a log which a crash left behind is known for
a store's own.
"""

from __future__ import annotations

import errno
import io
import os
import stat
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from repo_stream.car.files import SharedFile
from repo_stream.errors import ForeignFile, StoreGone
from repo_stream.store.disk_errors import from_os_error, temporary_folder

__all__ = ["LOG_START", "Log", "delete_log", "identity", "refuse_foreign_log"]


_MARK: Final = b"repo-stream log\n"
#: Where the first section of a log starts, in bytes.
LOG_START: Final = len(_MARK)


class Log(SharedFile):
    """An open log.

    Args:
        file: the file.
        path: its path; `None` for a temporary one.
        store: the path of the store, for errors.
    """

    def __init__(self, file: io.FileIO, path: Path | None, store: Path | None) -> None:
        super().__init__(file)
        self._path = path
        self._store = store
        self._identity = None if path is None else _identity_of(os.fstat(file.fileno()))

    @classmethod
    def open(cls, store: Path | None) -> Log:
        """Open an empty log.

        Args:
            store: the path of the store; `None` for a temporary one.

        Raises:
            ForeignFile: if the log's path holds a file that no store made. It is not touched.
            OSError: if it cannot be opened or written.
        """
        log = cls._open_temporary() if store is None else cls._open_beside(store)
        try:
            log.write(0, [_MARK])
        except BaseException:
            log.remove()
            raise
        return log

    @classmethod
    def _open_temporary(cls) -> Log:
        import tempfile  # noqa: PLC0415 - most repos stay in memory

        folder = temporary_folder()
        file = tempfile.TemporaryFile(buffering=0, dir=folder)  # noqa: SIM115 - the store closes it
        return cls(file, None, None)

    @classmethod
    def _open_beside(cls, store: Path) -> Log:
        path = _log_path(store)
        refuse_foreign_log(store)
        flags = os.O_RDWR | os.O_CREAT
        flags |= getattr(os, "O_BINARY", 0) | getattr(os, "O_NOFOLLOW", 0)
        file = io.FileIO(os.open(path, flags, 0o600), "r+")
        try:
            _refuse_other_start(file, path, store)
            file.truncate(0)
        except BaseException:
            file.close()
            raise
        return cls(file, path, store)

    def write(self, at: int, parts: Sequence[bytes]) -> None:
        """Write bytes at an offset, in this thread. What is behind them no longer counts.

        Raises:
            OSError: if not all of them could be written.
        """
        with self._lock:
            if self._file is None:
                raise OSError(errno.EBADF, "the log is closed")
            for part in parts:
                left = memoryview(part)
                while left:
                    if hasattr(os, "pwrite"):
                        written = os.pwrite(self._file.fileno(), left, at)
                    else:  # as on Windows
                        self._file.seek(at)
                        written = self._file.write(left) or 0
                    at += written
                    left = left[written:]

    def check(self) -> None:
        """Raise `StoreGone` if the file was deleted or replaced: writes to it would be lost."""
        if self._path is not None and identity(self._path, self._store) != self._identity:
            raise StoreGone("its log was replaced; open a new store", path=self._store)

    def remove(self) -> None:
        """Close the file and delete it, unless another file has its name by now."""
        self.close()
        if self._path is not None:
            try:
                if _identity_of(self._path.stat()) == self._identity:
                    self._path.unlink()
            except OSError:
                pass  # it is gone, or the next store with this path finds the mark and deletes it


def _log_path(store: Path) -> Path:
    real = store.resolve()
    return real.with_name(real.name + "-log")


def refuse_foreign_log(store: Path) -> bool:
    """Return whether a store has a log, which may be deleted once the store is locked.

    Raises:
        ForeignFile: if the log's path holds anything else.
        StoreUnavailable, StoreReadOnly: if the path cannot be read.
    """
    path = _log_path(store)
    try:
        if not stat.S_ISREG(path.lstat().st_mode):
            raise _foreign(path, store)
        with path.open("rb", buffering=0) as file:
            _refuse_other_start(file, path, store)
    except FileNotFoundError:
        return False
    except OSError as error:
        raise from_os_error(error, store) from error
    return True


def delete_log(store: Path) -> None:
    """Delete the log of a store that is locked, if there is one.

    Raises:
        ForeignFile: if the log's path holds anything else by now.
    """
    if refuse_foreign_log(store):
        _log_path(store).unlink(missing_ok=True)


def _refuse_other_start(file: io.FileIO, path: Path, store: Path) -> None:
    # A crash may have come before the whole mark was written.
    file.seek(0)
    if not _MARK.startswith(file.read(len(_MARK)) or b""):
        raise _foreign(path, store)


def _foreign(path: Path, store: Path) -> ForeignFile:
    return ForeignFile(
        f"the file {path.name} is where its log would be, was not made by a disk store, and has "
        "not been touched; choose another path",
        path=store,
    )


def identity(path: Path, store: Path | None) -> tuple[int, int]:
    """Return what identifies the file at a path: it changes if the file is replaced.

    Args:
        path: the path.
        store: the path of the store, for the error.

    Raises:
        StoreGone: if there is no file.
    """
    try:
        return _identity_of(path.stat())
    except OSError as error:
        raise StoreGone("its file is gone; open a new store", path=store) from error


def _identity_of(status: os.stat_result) -> tuple[int, int]:
    return status.st_dev, status.st_ino
