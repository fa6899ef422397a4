"""Records as JSON lines or CSV, compressed if that is asked for."""

from __future__ import annotations

import csv
import io
import zlib
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from typing import Final, Protocol

from repo_stream import Commit, Output
from repo_stream.cli.output import drop_output, is_terminal, writing_to
from repo_stream.cli.rows import Line, values_of
from repo_stream.cli.screen import harmless_json

__all__ = ["CsvTable", "JsonLines", "gzipped"]

# As `gzip` has it: much smaller than 1, and three times as fast as 9.
_LEVEL: Final = 6
_GZIP_BITS: Final = 16 + zlib.MAX_WBITS


class File(Protocol):
    """What is needed of a file."""

    def write(self, data: bytes, /) -> object:
        """Write bytes."""
        ...

    def flush(self) -> object:
        """Write what is in a buffer."""
        ...


class JsonLines:
    """Writes each record as a line of JSON, in UTF-8.

    Args:
        file: the file.
        path: its path, for errors; `None` for standard output.
        line: makes the line of a record.
    """

    def __init__(self, file: File, path: str | None, line: Line) -> None:
        self._file = file
        self._path = path
        self._line = line
        self._did = ""
        self._escaped = path is None and is_terminal()

    def begin(self, commit: Commit) -> None:
        """Begin with the records of a repo."""
        self._did = commit.did

    def write(self, chunk: Sequence[Output[str]]) -> None:
        """Write the next records."""
        with writing_to(self._path):
            for output in chunk:
                line = self._line(self._did, output)
                self._file.write((harmless_json(line) if self._escaped else line).encode() + b"\n")
            self._file.flush()


class CsvTable:
    """Writes each record as a row of CSV (RFC 4180): UTF-8, without a byte order mark.

    The columns are `uri`, `collection`, `rkey`, `cid` and `value`, which is JSON. A spreadsheet
    takes a cell for a formula if it begins with one of a few characters, such as `=`, and strangers
    choose the keys. So cells of `collection` and `rkey` that begin with one of those, or with `'`,
    get a `'` in front, which is taken off to read them back. The other columns are exact: they
    begin with `at:`, a letter and `{`. A value can be longer than the 128 KiB that Python's `csv`
    reads in a cell if `csv.field_size_limit` is not raised.

    Args:
        file: the file.
        path: its path, for errors; `None` for standard output.
    """

    def __init__(self, file: File, path: str | None) -> None:
        self._file = file
        self._path = path
        self._did = ""
        self._escaped = path is None and is_terminal()
        self._put([_CSV_COLUMNS])

    def begin(self, commit: Commit) -> None:
        """Begin with the records of a repo."""
        self._did = commit.did

    def write(self, chunk: Sequence[Output[str]]) -> None:
        """Write the next records."""
        self._put([list(map(_no_formula, _csv_values(self._did, output))) for output in chunk])

    def _put(self, rows: Sequence[Sequence[str]]) -> None:
        text = io.StringIO(newline="")
        shown = [map(harmless_json, row) for row in rows] if self._escaped else rows
        csv.writer(text).writerows(shown)
        with writing_to(self._path):
            self._file.write(text.getvalue().encode())
            self._file.flush()


_CSV_COLUMNS: Final = ("uri", "collection", "rkey", "cid", "value")
_csv_values: Final[Callable[[str, Output[str]], list[str]]] = values_of(_CSV_COLUMNS)
# With the wide `=`, `+`, `-` and `@`, which Excel takes for the same in some languages.
_BEGIN_FORMULAS: Final = tuple("'=+-@\t\r\n\uff1d\uff0b\uff0d\uff20")


def _no_formula(cell: str) -> str:
    return f"'{cell}" if cell.startswith(_BEGIN_FORMULAS) else cell


class _Gzip:
    """Compresses what is written. Unlike `gzip.GzipFile`, it writes nothing when it is dropped.

    The same records make the same file: no name and no time is in it.
    """

    def __init__(self, file: File) -> None:
        self._file = file
        self._deflate = zlib.compressobj(_LEVEL, wbits=_GZIP_BITS)

    def write(self, data: bytes, /) -> None:
        """Compress the next bytes."""
        self._file.write(self._deflate.compress(data))

    def flush(self) -> None:
        """Do nothing: it would compress less."""

    def finish(self) -> None:
        """Write what is left, and the checksum."""
        self._file.write(self._deflate.flush())
        self._file.flush()


@contextmanager
def gzipped(file: File, path: str | None) -> Generator[File]:
    """Compress what is written to a file, which is complete only if this block ends well.

    Args:
        file: the file.
        path: its path, for errors; `None` for standard output.
    """
    compressed = _Gzip(file)
    try:
        yield compressed
        with writing_to(path):
            compressed.finish()
    except BaseException:
        if path is None:
            drop_output()  # what is in its buffer is of no use any more
        raise
