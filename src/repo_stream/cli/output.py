"""Output: written at once, to standard output or a file, and dropped if nobody reads it."""

from __future__ import annotations

import io
import os
import secrets
import sys
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Final

from repo_stream.cli.interrupts import at_once

__all__ = [
    "OutputError",
    "buffer_output",
    "can_show",
    "destination",
    "drop_output",
    "is_terminal",
    "naming",
    "new_file",
    "put",
    "put_json",
    "writing_to",
]

# So much of its name a file has until it is complete, in characters, since a name has its limit.
_NAME: Final = 50


class OutputError(Exception):
    """The output could not be written.

    Attributes:
        cause: the error of the system.
    """

    def __init__(self, name: str, cause: OSError) -> None:
        super().__init__(f"{name}: {cause.strerror or cause}")
        self.cause = cause


def buffer_output() -> None:
    """Put a buffer before standard output if it has none (`python -u`, `PYTHONUNBUFFERED`).

    A buffer writes all that it is given, or raises an error. Without one, a pipe or a full disk may
    take less than that, and return how much.
    """
    if isinstance(getattr(sys.stdout, "buffer", None), io.RawIOBase):
        file = open(sys.stdout.fileno(), "wb", closefd=False)  # noqa: SIM115 - for the whole process
        sys.stdout = io.TextIOWrapper(file, sys.stdout.encoding, sys.stdout.errors)


def is_terminal() -> bool:
    """Return whether standard output is a terminal."""
    return sys.stdout.isatty()


def can_show(text: str) -> bool:
    """Return whether the encoding of standard output has all characters of a text."""
    try:
        text.encode(_encoding())
    except UnicodeEncodeError:
        return False
    return True


def put(text: str) -> None:
    """Write text to standard output; characters that its encoding lacks are escaped."""
    encoding = _encoding()
    with writing_to(None):
        sys.stdout.write(text.encode(encoding, "backslashreplace").decode(encoding))
        sys.stdout.flush()


def _encoding() -> str:
    return getattr(sys.stdout, "encoding", None) or "utf-8"


def put_json(text: str) -> None:
    """Write JSON to standard output, as UTF-8 in any locale."""
    with writing_to(None):
        sys.stdout.flush()
        sys.stdout.buffer.write(text.encode())
        sys.stdout.buffer.flush()


@contextmanager
def destination(path: str | None) -> Generator[IO[bytes]]:
    """Open a file to write to; it appears under its name only when it is complete.

    Args:
        path: the file; `None` for standard output.

    Raises:
        OutputError: if it cannot be written.
    """
    if path is None:
        with writing_to(None):
            sys.stdout.flush()
        yield sys.stdout.buffer
        with writing_to(None):
            sys.stdout.buffer.flush()
        return
    target = Path(path)
    if target.exists() and not target.is_file():  # a device or a pipe
        with writing_to(path):
            file = target.open("wb")
        with _closing(file, path):
            yield file
        return
    target = Path(os.path.realpath(path))  # keep a link, and replace what it leads to
    # In a container, the number of the process is often the same: a file that was left there when
    # one was killed would be in the way.
    part = target.with_name(f"{target.name[:_NAME]}.{secrets.token_hex(4)}.part")
    with naming(path):  # without `at_once`: a Ctrl-C here would leave the file behind
        file = part.open("xb")  # fails if anything has that name
    try:
        with _closing(file, path):
            yield file
        with writing_to(path):
            part.replace(target)
    except BaseException:
        part.unlink(missing_ok=True)
        raise


@contextmanager
def new_file(path: Path, name: str) -> Generator[IO[bytes]]:
    """Create a file, which is of no use after an error.

    Args:
        path: its path.
        name: what to call it in errors.

    Raises:
        OutputError: if it cannot be written.
    """
    with naming(name):
        file = path.open("xb")
    with _closing(file, name):
        yield file


@contextmanager
def _closing(file: io.BufferedWriter, path: str) -> Generator[None]:
    """Close a file at the end; after an error, without writing what is left in its buffer."""
    try:
        yield
        with writing_to(path):
            file.close()
    except BaseException:
        file.raw.close()  # `file.close()` would write the rest, and could wait or fail again
        raise


@contextmanager
def writing_to(path: str | None) -> Generator[None]:
    """Raise `OutputError` if this block fails to write, and `KeyboardInterrupt` on Ctrl-C."""
    with naming(path), at_once():
        yield


@contextmanager
def naming(path: str | None) -> Generator[None]:
    """Raise `OutputError`, which names the file, if this block fails to write."""
    try:
        yield
    except OSError as error:
        raise OutputError("standard output" if path is None else path, error) from error


def drop_output() -> None:
    """Drop what could not be written, so that the interpreter does not try to at its exit."""
    try:
        output = sys.stdout.fileno()
    except OSError:  # not a file, as in a test
        return
    nowhere = os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(nowhere, output)
    finally:
        os.close(nowhere)
