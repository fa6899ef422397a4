"""From the records of an open repo to Arrow batches.

Records are added to columns that grow as they come, some at a time. A column is made into an Arrow
array once there are enough: each array costs some microseconds, whatever its length.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import AsyncGenerator, Callable, Iterable, Sequence
from contextlib import aclosing
from itertools import compress
from typing import Any, Final, Literal, TypeAlias

from repo_stream.arguments import check_whole
from repo_stream.arrow.arrays import RepeatedTexts, Texts, Times
from repo_stream.arrow.columns import chosen, pyarrow, reads_records, schema_of
from repo_stream.drivers.base import RepoDriver
from repo_stream.errors import MissingBlock, ProcessError
from repo_stream.ipld.cid import Cid
from repo_stream.ipld.datamodel import cid_texts, decode_record, to_atproto_json, to_dag_json
from repo_stream.mst.results import Gap, Taken
from repo_stream.process import Processor, noop
from repo_stream.times import created_micros

__all__ = [
    "BATCH_BYTES",
    "BATCH_ROWS",
    "MOST_TEXT",
    "Collector",
    "JsonForm",
    "OnProblem",
    "Row",
    "batches",
    "row_processor",
    "walk",
    "with_last",
]

#: The form of JSON in the column `record`.
JsonForm: TypeAlias = Literal["atproto", "dag-json"]
#: Called with the key and the CID of a record that could not be read, and the error.
OnProblem: TypeAlias = Callable[[str, Cid, Exception], None]

#: How many records a batch has at most, and at how many bytes of JSON it ends.
BATCH_ROWS: Final = 4096
BATCH_BYTES: Final = 1024 * 1024

# The columns that have the same value for many records in a row.
_REPEATED: Final = frozenset({"did", "collection", "rev"})
# How many keys to take at a time.
_KEYS: Final = 1024
# How many records: the first time, and at most; fewer if they have more bytes of JSON than that.
_FIRST_RECORDS: Final = 4
_RECORDS: Final = 64
_CHUNK_BYTES: Final = 512 * 1024


# What stands in the place of a record that has no row.
_NO_ROWS: Final = (Gap, ProcessError, MissingBlock)
#: A column ends a batch if it has so many bytes of text: an array of `string` can have 2 GiB.
MOST_TEXT: Final = 1024**3

#: What `row_processor` makes of a record: the record as JSON, empty if that is not asked for; and
#: its time in microseconds since 1970, `None` if there is none or if it is not asked for. It is a
#: plain tuple, as the collector of garbage looks again and again into named ones.
Row: TypeAlias = tuple[str, int | None]


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
        return (
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
            `on_error="yield"`. Without it, the first one is raised.

    Yields:
        Each a `pyarrow.RecordBatch`. If the walk fails, what came before is yielded first. Gaps,
        of a repo that was opened with `gaps`, have no rows.

    Raises:
        RepoStreamError: as by `RepoDriver.next_chunk`.

    Example:
        >>> async def rows(path: str) -> int:
        ...     async with open_car(path, block_processor=row_processor()) as repo:
        ...         return sum([batch.num_rows async for batch in batches(repo)])
    """
    collector = Collector(chosen(columns), batch_rows=batch_rows, batch_bytes=batch_bytes)
    async with aclosing(with_last(walk(repo, collector, on_problem), collector)) as found:
        async for batch in found:
            yield batch


async def with_last(found: AsyncGenerator[Any], collector: Collector) -> AsyncGenerator[Any]:
    """Yield batches, and at last what the collector has left, also before an error is raised."""
    try:
        async with aclosing(found):
            async for batch in found:
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
        while (
            taken := await repo.next_columns(min(_KEYS, collector.free_rows), records=False)
        ) is not None:
            if "" in taken.keys:
                taken = _without(taken, [bool(key) for key in taken.keys])  # gaps in the tree
            collector.add(taken.keys, taken.cids)
            if collector.full:
                yield collector.take()
        return
    n = _FIRST_RECORDS
    ask = min(n, collector.free_rows)
    while (taken := await repo.next_columns(ask)) is not None:
        failure: Exception | None = None
        if any(issubclass(kind, _NO_ROWS) for kind in set(map(type, taken.values))):
            taken, failure = _rows_of(taken, on_problem)
        before = collector.size
        collector.add(taken.keys, taken.cids, taken.values)
        if failure is not None:
            raise failure
        # Large records come one at a time, and there is no telling how large the next ones are.
        mean = max(collector.size - before, 1) / max(len(taken.keys), 1)
        if collector.full:
            yield collector.take()
        n = max(1, min(2 * n, _RECORDS, int(_CHUNK_BYTES / mean)))
        ask = min(n, collector.free_rows, int(collector.free_bytes / mean) + 1)


def _rows_of(
    taken: Taken[Any], on_problem: OnProblem | None
) -> tuple[Taken[Any], Exception | None]:
    """Return the records that could be read, and report the others; gaps are left out.

    Returns:
        The records; and the error of the one after them, if there is nothing to report it to.
    """
    good: list[bool] = []
    for key, cid, value in zip(*taken, strict=True):
        if isinstance(value, (ProcessError, MissingBlock)):
            if on_problem is None:
                return _without(taken, good), value
            on_problem(key, Cid(cid), value)
        good.append(not isinstance(value, _NO_ROWS))
    return _without(taken, good), None


def _without(taken: Taken[Any], good: Sequence[bool]) -> Taken[Any]:
    """Return the records that are good, of as many as are known to be good or not."""
    keys, cids, values = taken
    return Taken([*compress(keys, good)], [*compress(cids, good)], [*compress(values, good)])


class Collector:
    """Collects records, also of several repos, until there are enough for a batch.

    Args:
        columns: the columns of the batches.
        batch_rows: how many records a batch has at most.
        batch_bytes: at how many bytes of JSON it ends.
    """

    def __init__(self, columns: Sequence[str], *, batch_rows: int, batch_bytes: int) -> None:
        check_whole("batch_rows", batch_rows, least=1)
        check_whole("batch_bytes", batch_bytes, least=1)
        self.columns = columns
        self.schema: Any = schema_of(columns)  # Any: pyarrow has no types
        self._arrow = pyarrow()
        self._batch_rows = batch_rows
        self._batch_bytes = batch_bytes
        self._did = self._rev = self._authority = ""
        self._empty()

    def _empty(self) -> None:
        self._bytes = 0
        self._count = 0
        self._grown: dict[str, Any] = {  # Any: each has `array` and `size`
            name: RepeatedTexts() if name in _REPEATED else Texts() for name in self.columns
        }
        if "created_at" in self._grown:
            self._grown["created_at"] = Times()

    @property
    def rows(self) -> int:
        """How many records have been collected."""
        return self._count

    @property
    def size(self) -> int:
        """How many bytes of JSON have been collected."""
        return self._bytes

    @property
    def free_rows(self) -> int:
        """How many records more there are to be in the batch."""
        return self._batch_rows - self.rows

    @property
    def free_bytes(self) -> int:
        """How many bytes more there are to be in the batch."""
        return self._batch_bytes - self._bytes

    @property
    def full(self) -> bool:
        """Whether there are enough for a batch."""
        return self.free_rows <= 0 or self.free_bytes <= 0 or self._is_long

    @property
    def _is_long(self) -> bool:
        return any(column.size >= MOST_TEXT for column in self._grown.values())

    def begin(self, did: str, rev: str) -> None:
        """Begin with the records of a repo."""
        self._did, self._rev = did, rev
        self._authority = f"at://{did}/"

    def add(self, keys: Sequence[str], cids: Sequence[bytes], rows: Sequence[Any] = ()) -> None:
        """Add records of the repo, in key order.

        Args:
            keys: their keys.
            cids: their CIDs.
            rows: what `row_processor` made of each; nothing if no column needs that.
        """
        parted = False
        for name, column in self._grown.items():
            match name:
                case "uri":
                    authority = self._authority
                    column.extend([authority + key for key in keys])
                case "did":
                    column.add(self._did, len(keys))
                case "rev":
                    column.add(self._rev, len(keys))
                case "collection" | "rkey":
                    if not parted:
                        _part(keys, self._grown.get("collection"), self._grown.get("rkey"))
                        parted = True
                case "cid":
                    column.extend(cid_texts(cids))
                case "created_at":
                    column.extend([row[1] for row in rows])
                case _:
                    column.extend([row[0] for row in rows])
                    self._bytes = column.size
        self._count += len(keys)

    def take(self) -> Any:  # noqa: ANN401 - pyarrow has no types
        """Return what has been collected as a `pyarrow.RecordBatch`."""
        arrays = [self._array(name) for name in self.columns]
        self._empty()
        return self._arrow.RecordBatch.from_arrays(arrays, schema=self.schema)

    def _array(self, name: str) -> Any:  # noqa: ANN401 - pyarrow has no types
        return self._grown[name].array()


def _part(keys: Sequence[str], names: RepeatedTexts | None, rkeys: Texts | None) -> None:
    """Part the keys of a repo, which are in order, into collections and rkeys.

    Args:
        keys: the keys.
        names: to which the names of the collections are added, as those of `Output.collection`.
        rkeys: to which the rkeys are added, as those of `Output.rkey`.
    """
    at = 0
    while at < len(keys):
        name, slash, _ = keys[at].partition("/")
        if slash:
            # All that begin with the name and a slash; "0" comes after the slash.
            end = bisect_left(keys, f"{name}0", at)
            skip = len(name) + 1
        else:
            name, end, skip = "", at + 1, 0
        if names is not None:
            names.add(name, end - at)
        if rkeys is not None:
            rkeys.extend([key[skip:] for key in keys[at:end]])
        at = end
