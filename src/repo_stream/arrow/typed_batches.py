"""From the records of an open repo to Arrow batches with typed columns."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final, NamedTuple, cast

from repo_stream.arrow.batches import BATCH_BYTES, BATCH_ROWS, Collector
from repo_stream.arrow.conversion import arrays_of
from repo_stream.arrow.shapes import FIXED, fields_of, schema_of_fields
from repo_stream.ipld.cid import Cid
from repo_stream.ipld.datamodel import decode_record
from repo_stream.process import Processor
from repo_stream.times import created_micros

__all__ = ["TypedCollector", "TypedRow", "typed_processor"]

# How many times the memory of its block a decoded record takes.
_DECODED: Final = 5


class TypedRow(NamedTuple):
    """What `typed_processor` makes of a record.

    Attributes:
        record: the decoded record.
        micros: its time, in microseconds since 1970; `None` if there is none.
        size: how many bytes it takes, by a rule of thumb.
    """

    record: dict[str, Any]
    micros: int | None
    size: int


def typed_processor() -> Processor[TypedRow]:
    """Return the block processor with which to open the repos for a `TypedCollector`."""
    return Processor(_row, lazy=True)


def _row(block: bytes) -> TypedRow:
    record = decode_record(block)
    return TypedRow(record, created_micros(record.get("createdAt")), _DECODED * len(block))


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
        batch_bytes: int = BATCH_BYTES,
    ) -> None:
        super().__init__(FIXED, batch_rows=batch_rows, batch_bytes=batch_bytes)
        self._fields = fields_of(schema)
        self.schema = schema_of_fields(self._fields)

    def add(self, keys: Sequence[str], cids: Sequence[Cid], rows: Sequence[Any] = ()) -> None:
        """Add records of the repo, each a `TypedRow`."""
        super().add(keys, cids)
        self._rows += rows
        self._bytes += sum([row.size for row in rows])

    def take(self) -> Any:  # noqa: ANN401 - pyarrow has no types
        """Return what has been collected as a `pyarrow.RecordBatch`."""
        records = [row.record for row in cast("list[TypedRow]", self._rows)]
        arrays = [self._array(name) for name in self.columns]
        self._empty()
        typed, others = arrays_of(self._fields, records)
        other = self._arrow.array(others, self._arrow.string())
        return self._arrow.RecordBatch.from_arrays([*arrays, *typed, other], schema=self.schema)
