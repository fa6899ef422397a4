"""A copy of a download in a file: one that is kept under a name, or a temporary one.

A kept file appears under its name only when it is complete. Until then it has a name of its own in
the same directory, so that two downloads into one path do not disturb each other: the one that is
complete last stays. A temporary file has no name, so that nothing is left of it whatever happens.

What has come is written in large parts by a thread. The part is written again if its task was
cancelled meanwhile, at the same offset, so a cancellation does no harm.
"""

from __future__ import annotations

import errno
import io
import os
import secrets
from collections.abc import Generator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final

from repo_stream.arguments import check_kind
from repo_stream.car.files import SharedFile
from repo_stream.limits import KIB
from repo_stream.store.disk_errors import temporary_folder

__all__ = ["Copy", "check_target"]

# So much is collected before a thread writes it, in bytes.
_PART: Final = 256 * KIB
# So much of its name the file has until it is complete, in characters, since a name has its limit.
_NAME: Final = 50


def check_target(path: str | os.PathLike[str]) -> Path:
    """Return the file that a path stands for, past links, if a file can be kept there.

    Raises:
        TypeError: if it is no path of text.
        OSError: if it is something else than a file, or if its directory does not exist.
    """
    check_kind("keep", path, (str, os.PathLike), such_as="a path")
    named = os.fspath(path)
    target = Path(os.path.realpath(named))
    if target.is_dir():
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), named)
    if target.exists() and not target.is_file():
        raise OSError(errno.EINVAL, "it is not a regular file, so nothing can be kept there", named)
    if not target.parent.is_dir():
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), named)
    return target


class Copy(SharedFile):
    """A file that a download is copied to.

    Args:
        target: the file that it becomes when it is complete; `None` for a temporary one.

    Raises:
        OSError: if it cannot be opened.
    """

    def __init__(self, target: Path | None) -> None:
        self._target = target
        self._part: Path | None = None
        self._parts: list[bytes] = []
        self._waiting = 0
        self._at = 0
        self._failure: OSError | None = None
        super().__init__(self._open())

    def _open(self) -> io.FileIO:
        import tempfile  # noqa: PLC0415 - not for an import that is not used

        with self._naming():
            if self._target is None:
                return tempfile.TemporaryFile(buffering=0, dir=temporary_folder())
            name = self._target.name[:_NAME]
            part = self._target.with_name(f".{name}.{secrets.token_hex(4)}.part")
            file = io.FileIO(part, "x+")
        self._part = part
        return file

    @contextmanager
    def _naming(self) -> Generator[None]:
        """Say in errors of the system what could not be done, and with which file."""
        try:
            yield
        except OSError as error:
            name = str(self._target or temporary_folder() or "a temporary file")
            reason = f"the download could not be written: {error.strerror or error}"
            raise OSError(error.errno, reason, name) from error

    @property
    def path(self) -> Path | None:
        """The path of the file until it is complete; `None` for a temporary one."""
        return self._part

    def add(self, piece: bytes) -> None:
        """Add a piece at the end."""
        self._parts.append(piece)
        self._waiting += len(piece)

    async def keep_up(self) -> None:
        """Write what was added, if it is much."""
        if self._waiting >= _PART:
            await self.flush()

    async def flush(self) -> None:
        """Write what was added.

        Raises:
            OSError: if it cannot be written; every further call raises it again.
        """
        if self._failure is not None:
            raise self._failure
        if not self._parts:
            return
        data = b"".join(self._parts)
        try:
            with self._naming():
                await self._in_thread(lambda: self._write(data))
        except OSError as error:
            self._failure = error
            raise
        self._at += len(data)
        self._parts.clear()
        self._waiting = 0

    def _write(self, data: bytes) -> None:
        with self._lock:
            if self._file is None:
                return  # the task was cancelled
            self._file.seek(self._at)
            left = memoryview(data)
            while left:
                left = left[self._file.write(left) or 0 :]

    def reader(self) -> Reader:
        """Return a source that reads the file from its beginning; all of it has to be written."""
        return Reader(self)

    async def publish(self) -> None:
        """Give the file its name, in place of an older one.

        Raises:
            OSError: if that is not possible.
        """
        await self.flush()
        if self._target is None or self._part is None:
            return
        with self._naming():
            await self._in_thread(self._sync)
            self.close()
            self._part.replace(self._target)
        self._part = None

    def _sync(self) -> None:
        with self._lock:
            if self._file is not None:
                os.fsync(self._file.fileno())

    def discard(self) -> None:
        """Close the file, and delete it unless it has been published."""
        self.close()
        part, self._part = self._part, None
        if part is not None:
            with suppress(FileNotFoundError):
                part.unlink()


class Reader:
    """Reads a copy from its beginning; it is a source for `open_car`."""

    def __init__(self, copy: Copy) -> None:
        self._copy = copy
        self._at = 0

    async def read(self, n: int) -> bytes:
        """Return the next `n` bytes; fewer at the end."""
        at = self._at
        data = await self._copy.visit(lambda file: file.read(n, at))
        self._at += len(data)
        return data
