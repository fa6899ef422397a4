"""The CAR that the command line names: a file, or standard input."""

from __future__ import annotations

import argparse
import io
import os
import stat
import sys
from pathlib import Path
from tempfile import SpooledTemporaryFile
from typing import IO, Any, Final, Protocol

import anyio
import anyio.to_thread

from repo_stream import Limits
from repo_stream.cli.interrupts import at_once

__all__ = [
    "Input",
    "KeptInput",
    "is_input",
    "is_standard_output",
    "limits_of",
    "named",
    "open_input",
    "refuse_input",
    "size_of_file",
]

_STANDARD_INPUT: Final = "-"
# How much of an input is kept in memory to be read again, in bytes.
_KEPT_IN_MEMORY: Final = 1024 * 1024


class Input:
    """Standard input, or a file that is not a regular one, as an async source."""

    def __init__(self, file: io.FileIO) -> None:
        mode = os.fstat(file.fileno()).st_mode
        self._file = file
        # A thread that waits for a pipe cannot be interrupted.
        self._waits = os.name == "posix" and (stat.S_ISFIFO(mode) or stat.S_ISSOCK(mode))

    async def read(self, n: int) -> bytes:
        """Read up to `n` bytes; none means the end."""
        if self._waits:
            await anyio.wait_readable(self._file)
            return self._file.read(n) or b""
        return await anyio.to_thread.run_sync(self._file.read, n) or b""


class _Readable(Protocol):
    """Something that is read a piece at a time."""

    async def read(self, n: int, /) -> bytes:
        """Read up to `n` bytes; none means the end."""
        ...


class KeptInput:
    """An input that can be read once more from its beginning, until `forget` is called.

    What has been read is kept in memory, and in a temporary file if it is long.

    Args:
        source: the input.
    """

    def __init__(self, source: _Readable) -> None:
        self._source = source
        # SIM115: `forget` closes it.
        self._kept: IO[bytes] | None = SpooledTemporaryFile(_KEPT_IN_MEMORY)  # noqa: SIM115 - above
        self._again = False

    async def read(self, n: int) -> bytes:
        """Read up to `n` bytes; none means the end."""
        if self._kept is None:
            return await self._source.read(n)
        if self._again:
            if piece := self._kept.read(n):
                return piece
            self.forget()
            return await self._source.read(n)
        piece = await self._source.read(n)
        self._kept.write(piece)
        return piece

    def rewind(self) -> None:
        """Go back to the beginning: what was read comes again, and then the rest."""
        if self._kept is not None:
            self._kept.seek(0)
            self._again = True

    def forget(self) -> None:
        """Drop what has been read."""
        if self._kept is not None:
            self._kept.close()
            self._kept = None


def limits_of(options: argparse.Namespace) -> Limits:
    """Return the limits that the command line sets on the CAR."""
    limits: dict[str, Any] = dict(options.limits or ())  # Any: by name, of their types
    return Limits(**limits)


def named(car: str) -> str:
    """Return what a CAR is called in messages."""
    return "standard input" if car == _STANDARD_INPUT else car


def size_of_file(car: str) -> int | None:
    """Return the size of the CAR in bytes; `None` if it is not a regular file."""
    if car == _STANDARD_INPUT:
        return None
    status = Path(car).stat()
    return status.st_size if stat.S_ISREG(status.st_mode) else None


def is_input(car: str, path: str) -> bool:
    """Return whether a path is that of the CAR itself."""
    try:
        return _is_input(car, Path(path).stat())
    except OSError:
        return False


def refuse_input(options: argparse.Namespace, option: str, path: str) -> None:
    """Exit if an option names one of the CARs as the file to write.

    Args:
        options: the command line.
        option: the name of the option.
        path: its value.
    """
    for car in options.cars:
        if is_input(car, path):
            options.usage(f"{option} names the CAR itself, which would be overwritten: {path}")


def is_standard_output(car: str) -> bool:
    """Return whether standard output goes to the CAR itself."""
    try:
        return _is_input(car, os.fstat(1))
    except OSError:
        return False


def _is_input(car: str, target: os.stat_result) -> bool:
    source = os.fstat(0) if car == _STANDARD_INPUT else Path(car).stat()
    return stat.S_ISREG(target.st_mode) and os.path.samestat(source, target)


def open_input(car: str) -> io.FileIO:
    """Open the CAR.

    Raises:
        OSError: if it cannot be opened, or is standard input from a terminal.
    """
    if car != _STANDARD_INPUT:
        with at_once():  # a pipe that nobody writes to yet has to be waited for
            return io.FileIO(car)
    if sys.stdin is not None and sys.stdin.isatty():
        raise OSError(0, "is a terminal; pipe a CAR into it", "standard input")
    return io.FileIO(0, closefd=False)
