"""`ArrowStream`: batches from an async generator, as a stream that Arrow's libraries read.

    duckdb, polars, ...                                        the thread of the loop

    __arrow_c_stream__ --> pyarrow's reader --> batches() ---> _scan(): opens, walks, collects
       (C, any thread)       (C to Python)      (generator)       (async generator)

The C stream interface (https://arrow.apache.org/docs/format/CStreamInterface.html) has only a text
for an error, so that an error's class and the source go into its text.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Generator
from typing import Any

from repo_stream.arrow.columns import pyarrow
from repo_stream.arrow.problems import Problems
from repo_stream.loop_thread import iterate, loop_thread

__all__ = ["ArrowStream"]


class ArrowStream:
    """An Arrow stream that can be read again and again; each time is a scan of its own.

    Args:
        schema: the `pyarrow.Schema` of the stream; `None` if a subclass finds it out.
        listing: whether to list problems.
    """

    def __init__(self, schema: Any, *, listing: bool) -> None:  # noqa: ANN401 - pyarrow has no types
        self._schema: Any = schema  # Any: see above
        self._listing = listing
        self._problems = Problems(listing=listing)

    def _scan(self, problems: Problems) -> AsyncGenerator[Any]:
        """Return a generator of the batches of a scan."""
        raise NotImplementedError

    @property
    def schema(self) -> Any:  # noqa: ANN401 - see above
        """The `pyarrow.Schema` of the stream."""
        return self._schema

    @property
    def problems(self) -> Problems:
        """What the latest scan has left out so far, if `on_error` is not `"raise"`."""
        return self._problems

    def batches(self) -> Generator[Any]:
        """Scan, and yield each `pyarrow.RecordBatch`.

        Errors are raised as they are, with a note that names the source.

        Raises:
            RepoStreamError, OSError: if a source cannot be read.
        """
        problems = self._problems = Problems(listing=self._listing)
        with loop_thread() as loop:
            yield from iterate(loop, self._scan(problems))

    def to_reader(self) -> Any:  # noqa: ANN401 - pyarrow has no types
        """Return a `pyarrow.RecordBatchReader` of a new scan, which raises errors as they are."""
        return pyarrow().RecordBatchReader.from_batches(self.schema, self.batches())

    def __arrow_c_schema__(self) -> object:
        return self._schema_for_c().__arrow_c_schema__()

    def __arrow_c_stream__(self, requested_schema: object | None = None) -> object:
        schema = self._schema_for_c()
        reader = pyarrow().RecordBatchReader.from_batches(schema, self._batches_for_c())
        return reader.__arrow_c_stream__(requested_schema)

    def _schema_for_c(self) -> Any:  # noqa: ANN401 - see above
        try:
            return self.schema
        except Exception as error:
            # DuckDB shows the text of an error, but not its notes.
            raise pyarrow().ArrowInvalid(_text_of(error)) from error

    def _batches_for_c(self) -> Generator[Any]:
        try:
            yield from self.batches()
        except (Exception, KeyboardInterrupt) as error:  # noqa: BLE001 - all of it, as a text
            # Pyarrow appends the traceback to the message. The NUL ends it before that.
            raise pyarrow().ArrowInvalid(f"{_text_of(error)}\0") from None


def _text_of(error: BaseException) -> str:
    """Return an error in words that arrive whole: a C string ends at a NUL, and is UTF-8."""
    said = str(error) or "the scan was interrupted"
    notes = "".join(f" ({note})" for note in getattr(error, "__notes__", ()))
    text = f"{type(error).__name__}: {said}{notes}".replace("\0", "\\x00")
    return text.encode(errors="backslashreplace").decode()
