"""From the records of an open repo to Arrow batches with typed columns."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from typing import Any, Final, TypeAlias

from repo_stream.arrow.arrays import nullable_text
from repo_stream.arrow.batching import BATCH_ROWS, MOST_TEXT, Collector, OnProblem, walk, with_last
from repo_stream.arrow.conversion import arrays_of
from repo_stream.arrow.shapes import FIXED, fields_of, schema_of_fields
from repo_stream.drivers.base import RepoDriver
from repo_stream.ipld.datamodel import decode_record
from repo_stream.process import Processor
from repo_stream.sizes import size_of
from repo_stream.times import created_micros

__all__ = ["TYPED_BATCH_BYTES", "TypedCollector", "TypedRow", "typed_batches", "typed_processor"]

#: How much memory the records of a batch take at most, decoded, but for the last, in bytes. Larger
#: batches are no faster.
TYPED_BATCH_BYTES: Final = 1024 * 1024

# How many times the memory of its block a usual record takes, decoded. A hostile one takes 70 times
# as much, so that of large ones is measured.
_DECODED: Final = 4
_LARGE: Final = 2048


#: What `typed_processor` makes of a record: the decoded record; its time in microseconds since
#: 1970, `None` if there is none; and how many bytes it takes in memory, by a rule of thumb.
TypedRow: TypeAlias = tuple[dict[str, Any], int | None, int]


def typed_processor(*, times: bool = True) -> Processor[TypedRow]:
    """Return the block processor with which to open repos for `typed_batches`.

    Its results are plain tuples. The first item is the decoded record.

    Args:
        times: whether the column `created_at` is needed, and not only the records.
    """
    return Processor(_row if times else _row_without_time, lazy=True)


def _row(block: bytes) -> TypedRow:
    record = decode_record(block)
    return record, created_micros(record.get("createdAt")), _memory_of(record, block)


def _row_without_time(block: bytes) -> TypedRow:
    record = decode_record(block)
    return record, None, _memory_of(record, block)


def _memory_of(record: dict[str, Any], block: bytes) -> int:
    """Return how much memory a record takes. To measure it takes as long as to decode it."""
    return _DECODED * len(block) if len(block) < _LARGE else size_of(record)


async def typed_batches(
    repo: RepoDriver[Any],  # Any: `TypedRow`, or an error
    schema: Any,  # noqa: ANN401 - pyarrow has no types
    *,
    batch_rows: int = BATCH_ROWS,
    batch_bytes: int = TYPED_BATCH_BYTES,
    on_problem: OnProblem | None = None,
) -> AsyncGenerator[Any]:  # Any: pyarrow has no types
    """Walk an open repo, and yield its records as Arrow batches with typed columns.

    This is what `table` does below its Arrow stream, for programs that have an event loop.

    Args:
        repo: the repo, opened with `block_processor=typed_processor()`, and with the collection as
            its only one.
        schema: the `pyarrow.Schema` of the columns; see `table`.
        batch_rows: see `table`.
        batch_bytes: how much memory the records of a batch take at most, but for the last.
        on_problem: called for each record that could not be read, if the repo was opened with
            `on_error="yield"`. Without it, the first one is raised.

    Yields:
        Each a `pyarrow.RecordBatch`. If the walk fails, what came before is yielded first. Gaps,
        of a repo that was opened with `gaps`, have no rows.

    Raises:
        RepoStreamError: as by `RepoDriver.next_chunk`.
        ValueError: if a column has a type that no value of a record has.

    Example:
        >>> async def posts(path: str) -> list[Any]:
        ...     processor, posts = typed_processor(), ["app.bsky.feed.post"]
        ...     inferred = Inferred()
        ...     async with open_car(path, block_processor=processor, collections=posts) as repo:
        ...         async for _, (record, *_) in repo:
        ...             inferred.add(record)
        ...     async with open_car(path, block_processor=processor, collections=posts) as repo:
        ...         return [batch async for batch in typed_batches(repo, inferred.schema())]
    """
    collector = TypedCollector(schema, batch_rows=batch_rows, batch_bytes=batch_bytes)
    async with aclosing(with_last(walk(repo, collector, on_problem), collector)) as found:
        async for batch in found:
            yield batch


class TypedCollector(Collector):
    """Collects decoded records until there are enough for a batch with typed columns.

    Args:
        schema: a `pyarrow.Schema`, such as `Inferred` returns.
        batch_rows: how many records a batch has at most.
        batch_bytes: how much memory they take at most, but for the last.

    Raises:
        ValueError: if a column has a type that no value of a record has.
    """

    def __init__(
        self,
        schema: Any,  # noqa: ANN401 - pyarrow has no types
        *,
        batch_rows: int = BATCH_ROWS,
        batch_bytes: int = TYPED_BATCH_BYTES,
    ) -> None:
        super().__init__(FIXED, batch_rows=batch_rows, batch_bytes=batch_bytes)
        # What is in a column has hardly more text than the decoded records.
        self._batch_bytes = min(batch_bytes, MOST_TEXT)
        self._fields = fields_of(schema)
        self.schema: Any = schema_of_fields(self._fields)  # Any: pyarrow has no types

    def _empty(self) -> None:
        super()._empty()
        self._records: list[dict[str, Any]] = []

    def add(self, keys: Sequence[str], cids: Sequence[bytes], rows: Sequence[Any] = ()) -> None:
        """Add records of the repo, each a `TypedRow`."""
        super().add(keys, cids, rows)
        self._records += [record for record, _, _ in rows]
        self._bytes += sum([size for _, _, size in rows])

    def take(self) -> Any:  # noqa: ANN401 - pyarrow has no types
        """Return what has been collected as a `pyarrow.RecordBatch`."""
        records = self._records
        arrays = [self._array(name) for name in self.columns]
        self._empty()
        typed, others = arrays_of(self._fields, records)
        other = nullable_text(others)
        return self._arrow.RecordBatch.from_arrays([*arrays, *typed, other], schema=self.schema)
