"""Batches of Arrow as a Parquet file or in Arrow's own form, written by `pyarrow`, an extra."""

from __future__ import annotations

import io
from collections.abc import Generator
from contextlib import contextmanager, suppress
from importlib import import_module
from typing import IO, TYPE_CHECKING, Any, Final

import repo_stream
from repo_stream import Commit, MissingExtra
from repo_stream.cli.file_forms import Columnar, is_arrow_file
from repo_stream.cli.output import drop_output, writing_to

if TYPE_CHECKING:
    from typing_extensions import Buffer  # in `collections.abc` from Python 3.12 on

__all__ = ["ColumnarFile", "columnar_file", "require_pyarrow"]

# The most rows and bytes of a row group of Parquet, which is kept in memory until it is written.
_GROUP_ROWS: Final = 64 * 1024
_GROUP_BYTES: Final = 4 * 1024 * 1024
# Columns with few different values. The others would fill a dictionary for nothing.
_FEW_VALUES: Final = frozenset({"did", "collection", "rev"})
# Begins a message of an Arrow stream.
_CONTINUATION: Final = b"\xff\xff\xff\xff"


class ColumnarFile:
    """Writes batches of rows to a file. It begins with `begin`: without rows, it has its columns.

    Args:
        kind: the form of the file.
        schema: what is in it. Any, here and below: pyarrow has no types.
        file: the file.
        path: its path, for errors; `None` for standard output.
    """

    def __init__(self, kind: Columnar, schema: Any, file: IO[bytes], path: str | None) -> None:  # noqa: ANN401 - above
        self._kind = kind
        self._schema = schema
        self._file = _UntilItIsOver(file)
        self._path = path
        self._writer: Any = None
        self._group: list[Any] = []
        self._rows = self._bytes = 0

    def begin(self, commit: Commit | None) -> None:
        """Begin with the rows of a repo.

        Args:
            commit: its commit, which the metadata of the file names; `None` if it is of several.
        """
        if self._writer is None:
            with writing_to(self._path):
                about: dict[Any, Any] = {**(self._schema.metadata or {}), **_metadata(commit)}
                self._writer = self._new_writer(self._schema.with_metadata(about))

    def write(self, batch: Any) -> None:  # noqa: ANN401 - above
        """Write the next rows."""
        if self._kind == "arrow":
            with writing_to(self._path):
                self._writer.write_batch(batch)
                self._file.flush()
            return
        self._group.append(batch)
        self._rows += batch.num_rows
        self._bytes += batch.nbytes
        if self._rows >= _GROUP_ROWS or self._bytes >= _GROUP_BYTES:
            self.write_group()

    @property
    def collected(self) -> int:
        """How many bytes have been collected for a row group."""
        return self._bytes

    def write_group(self) -> None:
        """Write what has been collected as a row group."""
        if not self._group:
            return
        pyarrow = import_module("pyarrow")
        with writing_to(self._path):
            table = pyarrow.Table.from_batches(self._group)
            self._writer.write_table(table, row_group_size=self._rows)
        self._group, self._rows, self._bytes = [], 0, 0
        del table
        pyarrow.default_memory_pool().release_unused()

    def finish(self) -> None:
        """Write what is left, and the end of the file."""
        if self._writer is not None:
            self.write_group()
            with writing_to(self._path):
                self._writer.close()
                self._file.flush()
        self._file.over = True

    def drop(self, *, torn: bool) -> None:
        """Give the file up after an error.

        Args:
            torn: end a stream so that readers raise an error: a stream may end without any mark, so
                they would take it for complete.
        """
        if torn and self._kind == "arrow" and self._path is None and self._writer is not None:
            with suppress(OSError):
                self._file.write(_CONTINUATION)
                self._file.flush()
        # The writer writes the end of the file when it is closed or collected.
        self._file.over = True
        if self._path is None:
            drop_output()
        if self._writer is not None:
            with suppress(Exception):
                self._writer.close()

    def _new_writer(self, schema: Any) -> Any:  # noqa: ANN401 - above
        if self._kind == "arrow":
            ipc = import_module("pyarrow.ipc")
            new = ipc.new_file if is_arrow_file(self._path) else ipc.new_stream
            return new(self._file, schema)
        options: dict[str, Any] = {}
        if "record" in schema.names:  # not of typed columns
            options = {
                "use_dictionary": [name for name in schema.names if name in _FEW_VALUES] or False,
                # The smallest and largest JSON text are of no use to anyone.
                "write_statistics": [name for name in schema.names if name != "record"],
            }
        parquet = import_module("pyarrow.parquet")
        return parquet.ParquetWriter(self._file, schema, compression="zstd", **options)


def _metadata(commit: Commit | None) -> dict[str, str]:
    """Return what a file says about itself: what made it, and of which repo, if it is of one."""
    about = {"repo_stream.version": repo_stream.__version__}
    if commit is not None:
        of_repo = {"did": commit.did, "rev": commit.rev, "commit": str(commit.cid)}
        about |= {f"repo_stream.{name}": value for name, value in of_repo.items()}
    return about


class _UntilItIsOver(io.RawIOBase):
    """A file until it is complete, or a write to it fails; from then on, writes are dropped.

    After an error, pyarrow still writes the end of the file, and could block again on a full pipe.
    When this is collected, it is flushed once more, and the file may have been closed by then.
    """

    def __init__(self, file: IO[bytes]) -> None:
        super().__init__()
        self._file = file
        self.over = False

    def writable(self) -> bool:
        return True

    def write(self, data: Buffer, /) -> int:
        if self.over:
            return memoryview(data).nbytes
        try:
            return self._file.write(data)
        except BaseException:
            self.over = True
            raise

    def flush(self) -> None:
        if not self.over:
            self._file.flush()


def require_pyarrow(kind: Columnar) -> None:
    """Import `pyarrow`.

    Raises:
        MissingExtra: if it is not installed.
    """
    try:
        for module in ("pyarrow", "pyarrow.parquet", "pyarrow.ipc"):
            import_module(module)
    except ImportError as error:
        title = "Parquet" if kind == "parquet" else "Arrow"
        raise MissingExtra(extra=kind, package="pyarrow", feature=f"exporting {title}") from error


@contextmanager
def columnar_file(
    kind: Columnar,
    schema: Any,  # noqa: ANN401 - above
    file: IO[bytes],
    path: str | None,
) -> Generator[ColumnarFile]:
    """Write a file that is complete only if this block ends well.

    Args:
        kind: its form.
        schema: what is in it.
        file: the file.
        path: its path, for errors; `None` for standard output.
    """
    sink = ColumnarFile(kind, schema, file, path)
    try:
        yield sink
        sink.finish()
    except BaseException as error:
        sink.drop(torn=isinstance(error, Exception))
        raise
