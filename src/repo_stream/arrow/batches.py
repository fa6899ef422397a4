"""From the records of an open repo to Arrow batches.

Records are collected in Python's lists, which are made into Arrow arrays once there are enough:
each array costs some microseconds, whatever its length.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Iterable, Sequence
from typing import Any, Final, Literal, NamedTuple, TypeAlias, cast

from repo_stream.arguments import check_whole
from repo_stream.arrow.columns import chosen, pyarrow, reads_records, schema_of
from repo_stream.drivers.base import RepoDriver
from repo_stream.errors import MissingBlock, ProcessError
from repo_stream.ipld.cid import Cid
from repo_stream.ipld.datamodel import decode_record, to_atproto_json, to_dag_json
from repo_stream.mst.results import Output
from repo_stream.process import Processor, noop
from repo_stream.times import created_micros

__all__ = [
    "BATCH_BYTES",
    "BATCH_ROWS",
    "Collector",
    "JsonForm",
    "OnProblem",
    "Row",
    "batches",
    "row_processor",
    "walk",
]

#: The form of JSON in the column `record`.
JsonForm: TypeAlias = Literal["atproto", "dag-json"]
#: Called with the key and the CID of a record that could not be read, and the error.
OnProblem: TypeAlias = Callable[[str, Cid, Exception], None]

#: How many records and characters of JSON a batch has at most. The last record may exceed it.
BATCH_ROWS: Final = 8192
BATCH_BYTES: Final = 2 * 1024 * 1024

# How many keys to take at a time, and how many records, which can have 2 MiB each.
_KEYS: Final = 1024
_RECORDS: Final = 64


class Row(NamedTuple):
    """What `row_processor` makes of a record.

    Attributes:
        json: the record as JSON; empty if it was not asked for.
        micros: its time, in microseconds since 1970; `None` if there is none, or if it was not
            asked for.
    """

    json: str
    micros: int | None


def row_processor(
    columns: Iterable[str] | None = None, json_form: JsonForm = "atproto"
) -> Processor[Any]:  # Any: bytes if no record is needed
    """Return the block processor for some columns, with which to open the repo for `batches`.

    Args:
        columns: see `records`.
        json_form: see `records`.

    Raises:
        TypeError, ValueError: if an argument is not valid.
    """
    names = chosen(columns)
    if json_form not in _FORMS:
        raise ValueError(f'json_form must be "atproto" or "dag-json", not {json_form!r}')
    if not reads_records(names):
        return Processor(noop)
    with_json, with_time = "record" in names, "created_at" in names
    to_json = _FORMS[json_form]

    def row(block: bytes) -> Row:
        record = decode_record(block)
        return Row(
            to_json(record) if with_json else "",
            created_micros(record.get("createdAt")) if with_time else None,
        )

    return Processor(row, lazy=True)


_FORMS: Final = {"atproto": to_atproto_json, "dag-json": to_dag_json}


async def batches(
    repo: RepoDriver[Any],  # Any: bytes, or `Row`
    columns: Iterable[str] | None = None,
    *,
    batch_rows: int = BATCH_ROWS,
    batch_bytes: int = BATCH_BYTES,
    on_problem: OnProblem | None = None,
) -> AsyncGenerator[Any]:  # Any: pyarrow has no types
    """Walk an open repo, and yield its records as Arrow batches.

    This is what `records` does below its Arrow stream, for programs that have an event loop.

    Args:
        repo: the repo, opened with `block_processor=row_processor(columns)`.
        columns: see `records`.
        batch_rows: see `records`.
        batch_bytes: see `records`.
        on_problem: called for each record that could not be read, if the repo was opened with
            `on_error="yield"`.

    Yields:
        Each a `pyarrow.RecordBatch`. If the walk fails, what came before is yielded first.

    Raises:
        RepoStreamError: as by `RepoDriver.next_chunk`.

    Example:
        >>> async def rows(path: str) -> int:
        ...     async with open_car(path, block_processor=row_processor()) as repo:
        ...         return sum([batch.num_rows async for batch in batches(repo)])
    """
    collector = Collector(chosen(columns), batch_rows=batch_rows, batch_bytes=batch_bytes)
    try:
        async for batch in walk(repo, collector, on_problem):
            yield batch
    except Exception:
        if collector.rows:
            yield collector.take()
        raise
    if collector.rows:
        yield collector.take()


async def walk(
    repo: RepoDriver[Any], collector: Collector, on_problem: OnProblem | None = None
) -> AsyncGenerator[Any]:
    """Collect the records of a repo, and yield a batch each time that there are enough."""
    collector.begin(repo.commit.did, repo.commit.rev)
    if not reads_records(collector.columns):
        while keys := await repo.next_keys(_KEYS):
            collector.add(*cast("Any", zip(*keys, strict=True)))
            if collector.full:
                yield collector.take()
        return
    while outputs := await repo.next_outputs(_RECORDS):
        good = outputs if on_problem is None else _without_problems(outputs, on_problem)
        if good:
            collector.add(*cast("Any", zip(*good, strict=True)))
        if collector.full:
            yield collector.take()


def _without_problems(outputs: list[Output[Any]], on_problem: OnProblem) -> list[Output[Any]]:
    """Return the records that could be read, and report the others."""
    good: list[Output[Any]] = []
    for output in outputs:
        if isinstance(output.value, (ProcessError, MissingBlock)):
            on_problem(output.key, output.cid, output.value)
        else:
            good.append(output)
    return good


class Collector:
    """Collects records, also of several repos, until there are enough for a batch.

    Args:
        columns: the columns of the batches.
        batch_rows: how many records a batch has at most.
        batch_bytes: how many characters of JSON it has at most, but for the last record.
    """

    def __init__(self, columns: Sequence[str], *, batch_rows: int, batch_bytes: int) -> None:
        check_whole("batch_rows", batch_rows, least=1)
        check_whole("batch_bytes", batch_bytes, least=1)
        self.columns = columns
        self.schema = schema_of(columns)
        self._arrow = pyarrow()
        self._batch_rows = batch_rows
        self._batch_bytes = batch_bytes
        self._did = self._rev = ""
        self._empty()

    def _empty(self) -> None:
        self._dids: list[str] = []
        self._revs: list[str] = []
        self._keys: list[str] = []
        self._cids: list[Cid] = []
        self._rows: list[Row] = []
        self._bytes = 0

    @property
    def rows(self) -> int:
        """How many records have been collected."""
        return len(self._keys)

    @property
    def full(self) -> bool:
        """Whether there are enough for a batch."""
        return self.rows >= self._batch_rows or self._bytes >= self._batch_bytes

    def begin(self, did: str, rev: str) -> None:
        """Begin with the records of a repo."""
        self._did, self._rev = did, rev

    def add(self, keys: Sequence[str], cids: Sequence[Cid], rows: Sequence[Row] = ()) -> None:
        """Add records of the repo."""
        self._dids += [self._did] * len(keys)
        self._revs += [self._rev] * len(keys)
        self._keys += keys
        self._cids += cids
        if rows:
            self._rows += rows
            self._bytes += sum([len(row.json) for row in rows])

    def take(self) -> Any:  # noqa: ANN401 - pyarrow has no types
        """Return what has been collected as a `pyarrow.RecordBatch`."""
        arrays = [self._array(name) for name in self.columns]
        self._empty()
        return self._arrow.RecordBatch.from_arrays(arrays, schema=self.schema)

    def _array(self, name: str) -> Any:  # noqa: ANN401 - pyarrow has no types
        return self._arrow.array(self._values(name), self.schema.field(name).type)

    def _values(self, name: str) -> list[Any]:  # Any: text, or a number or `None`
        match name:
            case "uri":
                pairs = zip(self._dids, self._keys, strict=True)
                return [f"at://{did}/{key}" for did, key in pairs]
            case "did":
                return self._dids
            case "collection":
                return [key.partition("/")[0] if "/" in key else "" for key in self._keys]
            case "rkey":
                return [key.partition("/")[2] if "/" in key else key for key in self._keys]
            case "cid":
                return [str(cid) for cid in self._cids]
            case "rev":
                return self._revs
            case "created_at":
                return [row.micros for row in self._rows]
            case _:
                return [row.json for row in self._rows]
