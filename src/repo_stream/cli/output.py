"""Where output goes: written as it comes, and given up quietly when nobody reads it."""

from __future__ import annotations

import io
import os
import sys
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from repo_stream.cli.interrupts import at_once

__all__ = [
    "OutputError",
    "destination",
    "drop_output",
    "is_terminal",
    "put",
    "put_json",
    "writing_to",
]


class OutputError(Exception):
    """What was to be said could not be written.

    Attributes:
        cause: why.
    """

    def __init__(self, name: str, cause: OSError) -> None:
        super().__init__(f"{name}: {cause.strerror or cause}")
        self.cause = cause


def is_terminal() -> bool:
    """Whether a person looks at the output."""
    return sys.stdout.isatty()


def put(text: str) -> None:
    """Write text to standard output; what its encoding does not know is escaped."""
    encoding = getattr(sys.stdout, "encoding", None) or "utf-8"
    with writing_to(None):
        sys.stdout.write(text.encode(encoding, "backslashreplace").decode(encoding))
        sys.stdout.flush()


def put_json(text: str) -> None:
    """Write JSON to standard output, which is UTF-8 whatever the locale says."""
    with writing_to(None):
        sys.stdout.flush()
        sys.stdout.buffer.write(text.encode())
        sys.stdout.buffer.flush()


@contextmanager
def destination(path: str | None) -> Generator[IO[bytes]]:
    """Open a file to write, or standard output; a file is there only once it is whole.

    Raises:
        OutputError: where it cannot be written.
    """
    if path is None:
        with writing_to(None):
            sys.stdout.flush()
        yield sys.stdout.buffer
        with writing_to(None):
            sys.stdout.buffer.flush()
        return
    target = Path(path)
    if target.exists() and not target.is_file():  # a device or a pipe: written as it is
        with writing_to(path):
            file = target.open("wb")
        with _closing(file, path):
            yield file
        return
    target = Path(os.path.realpath(path))  # a link stays one
    part = target.with_name(f"{target.name}.{os.getpid()}.part")
    with _saying(path):  # and no Ctrl-C between the file and what deletes it again
        file = part.open("xb")  # never somebody else's file, nor what a link leads to
    try:
        with _closing(file, path):
            yield file
        with writing_to(path):
            part.replace(target)
    except BaseException:
        part.unlink(missing_ok=True)
        raise


@contextmanager
def _closing(file: io.BufferedWriter, path: str) -> Generator[None]:
    """Close a file at the end; after an error what has not been written of it is dropped."""
    try:
        yield
        with writing_to(path):
            file.close()
    except BaseException:
        file.raw.close()  # `file.close()` would try to write it, and wait or fail once more
        raise


@contextmanager
def writing_to(path: str | None) -> Generator[None]:
    """Write, saying where it was if that fails; Ctrl-C ends it."""
    with _saying(path), at_once():
        yield


@contextmanager
def _saying(path: str | None) -> Generator[None]:
    """Say where it was, if writing fails."""
    try:
        yield
    except OSError as error:
        raise OutputError("standard output" if path is None else path, error) from error


def drop_output() -> None:
    """Let what could not be written go nowhere, so that the interpreter does not try again."""
    try:
        output = sys.stdout.fileno()
    except OSError:  # no file, as in a test
        return
    nowhere = os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(nowhere, output)
    finally:
        os.close(nowhere)
