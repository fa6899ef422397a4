"""Records as a Parquet file, written by `pyarrow`, which is an extra."""

from __future__ import annotations

import io
from collections.abc import Generator, Sequence
from contextlib import contextmanager, suppress
from importlib import import_module
from typing import IO, TYPE_CHECKING, Any, Final

from repo_stream import Commit, MissingExtra, Output
from repo_stream.cli.output import drop_output, writing_to
from repo_stream.cli.rows import values_of

if TYPE_CHECKING:
    from typing_extensions import Buffer  # in `collections.abc` from Python 3.12 on

__all__ = ["Parquet", "parquet", "pyarrow_and_parquet"]

# The most records and characters in a row group, which is kept in memory until it is written.
_GROUP_ROWS: Final = 8192
_GROUP_CHARACTERS: Final = 2 * 1024 * 1024


class Parquet:
    """Collects records until there are enough for a row group, and writes it.

    Args:
        pyarrow: the package.
        writer: a `ParquetWriter`.
        path: the file that it writes to; `None` for standard output.
        columns: what to write of a record, as `rows` names it.
    """

    def __init__(self, pyarrow: Any, writer: Any, path: str | None, columns: Sequence[str]) -> None:  # noqa: ANN401 - pyarrow has no types
        self._pyarrow = pyarrow
        self._writer = writer
        self._path = path
        self._columns = columns
        self._values_of = values_of(columns)
        self._did = ""
        self._rows: list[list[str]] = []
        self._characters = 0

    def begin(self, commit: Commit) -> None:
        """Begin with the records of a repo."""
        self._did = commit.did

    def write(self, chunk: Sequence[Output[str]]) -> None:
        """Write the next records."""
        for output in chunk:
            self._rows.append(self._values_of(self._did, output))
            self._characters += len(output.value)
            if len(self._rows) == _GROUP_ROWS or self._characters >= _GROUP_CHARACTERS:
                self.flush()

    def flush(self) -> None:
        """Write the records that have been collected."""
        if not self._rows:
            return
        columns = dict(zip(self._columns, zip(*self._rows, strict=True), strict=True))
        with writing_to(self._path):
            self._writer.write_table(self._pyarrow.table(columns, schema=self._writer.schema))
        self._rows, self._characters = [], 0


class _UntilItFails(io.RawIOBase):
    """A file until a write to it fails; from then on, writes are dropped.

    After an error, pyarrow still writes the end of the file, and could block again on a full pipe.
    """

    def __init__(self, file: IO[bytes]) -> None:
        super().__init__()
        self._file = file
        self.failed = False

    def writable(self) -> bool:
        return True

    def write(self, data: Buffer, /) -> int:
        if self.failed:
            return memoryview(data).nbytes
        try:
            return self._file.write(data)
        except BaseException:
            self.failed = True
            raise


def pyarrow_and_parquet() -> tuple[Any, Any]:  # Any: pyarrow has no types
    """Import `pyarrow` and `pyarrow.parquet`.

    Raises:
        MissingExtra: if `pyarrow` is not installed.
    """
    try:
        return import_module("pyarrow"), import_module("pyarrow.parquet")
    except ImportError as error:
        raise MissingExtra(
            extra="parquet", package="pyarrow", feature="exporting Parquet"
        ) from error


@contextmanager
def parquet(file: IO[bytes], path: str | None, columns: Sequence[str]) -> Generator[Parquet]:
    """Write a Parquet file with columns of text.

    Args:
        file: the file.
        path: its path, for errors; `None` for standard output.
        columns: what to write of a record, as `rows` names it.

    Raises:
        MissingExtra: if `pyarrow` is not installed.
    """
    pyarrow, pyarrow_parquet = pyarrow_and_parquet()
    schema = pyarrow.schema([(name, pyarrow.string()) for name in columns])
    output = _UntilItFails(file)
    with writing_to(path):
        writer = pyarrow_parquet.ParquetWriter(output, schema, compression="zstd")
    sink = Parquet(pyarrow, writer, path, columns)
    try:
        yield sink
        sink.flush()
        with writing_to(path):
            writer.close()
    except BaseException:
        # The writer writes the end of the file when it is closed or collected.
        output.failed = True
        if path is None:
            drop_output()
        with suppress(Exception):
            writer.close()
        raise
