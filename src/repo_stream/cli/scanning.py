"""The records of CARs as a data set that DuckDB reads only as far as a query needs.

DuckDB asks an Arrow data set of `pyarrow` for the columns of a query, and for the rows that pass a
filter, as often as the query has the table. So a data set of our own is told both: without the
columns `created_at` and `record` no record is read, and if only one collection is asked for, no
other is walked.

DuckDB reads in threads of its own, while the CARs are read in the event loop of the command.
"""

from __future__ import annotations

import argparse
from collections.abc import AsyncGenerator, Callable, Generator, Iterator, Sequence
from contextlib import asynccontextmanager
from importlib import import_module
from typing import Any, Literal, NamedTuple, TypeAlias

from anyio.from_thread import BlockingPortal

from repo_stream import Processor
from repo_stream.arrow import Inferred, row_processor, typed_processor
from repo_stream.cli.failures import left_out
from repo_stream.cli.messages import complain
from repo_stream.cli.opened import Opened, opened
from repo_stream.cli.partial import Lost, lost_of
from repo_stream.cli.progress import Meter
from repo_stream.syntax import is_nsid

__all__ = ["Read", "Scans", "data_set"]

# Any, in this module: pyarrow has no types.
#: Reads some columns, and at least the rows that pass a filter: an expression, or `None` for all.
Read: TypeAlias = Callable[[Sequence[str], Any], Iterator[Any]]
#: Walks an open repo.
_Walk: TypeAlias = Callable[[Opened[Any]], AsyncGenerator[Any]]


class _Reading(NamedTuple):
    """What there is to report of a CAR that was read to its end.

    Attributes:
        faults: how much of it is bad, lost, or damaged.
        left_out: which records were left out; `None` if none were.
        lost: what was lost; `None` if nothing can be.
    """

    faults: int
    left_out: str | None
    lost: Lost | None


class Scans:
    """Reads CARs for threads, in an event loop.

    Args:
        portal: the event loop.
        cars: the command line with each of the CARs, which can be read more than once.

    Attributes:
        shows_progress: whether to show the progress of reading.
        failure: why a CAR could not be read, and which.
    """

    def __init__(self, portal: BlockingPortal, cars: Sequence[argparse.Namespace]) -> None:
        self.shows_progress: bool = True
        self.failure: tuple[argparse.Namespace, Exception] | None = None
        self.code: int = 0
        self._portal = portal
        self._cars = cars
        self._worst: dict[str, _Reading] = {}
        self._meters: list[Meter] = []
        self._on_disk = False
        self._running: list[Generator[Any]] = []

    def records(self, columns: Sequence[str], wanted: Any) -> Iterator[Any]:  # noqa: ANN401 - above
        """Read columns of records; in any thread but that of the event loop, as all of these."""
        processor = row_processor(columns)
        return self._scan(_only_collection(wanted), processor, lambda repo: repo.batches(columns))

    def schema_of(self, collection: str) -> Any:  # noqa: ANN401 - above
        """Return the schema of the records of a collection; `None` if there are none."""
        inferred: Inferred | None = None
        processor = typed_processor(times=False)
        for rows in self._scan(collection, processor, lambda repo: repo.chunks()):
            inferred = inferred or Inferred()
            for row in rows:
                inferred.add(row.value[0])
        return None if inferred is None else inferred.schema()

    def typed(self, collection: str, schema: Any) -> Iterator[Any]:  # noqa: ANN401 - above
        """Read the records of a collection with typed columns."""
        return self._scan(collection, typed_processor(), lambda repo: repo.typed_batches(schema))

    def report(self) -> int:
        """Report what was left out of CARs, and what is damaged; return the exit code."""
        self.close_meters()
        code = 0
        for _, message, losses in self._worst.values():
            if message is not None:
                code = max(code, complain(message))
            if losses is not None:
                code = max(code, losses.put())
        return code

    def close(self) -> None:
        """End what is still read, as by a query that needed no more of it."""
        while self._running:
            self._running.pop().close()

    def close_meters(self) -> None:
        """Show no progress any more, as something else is written to the terminal."""
        self.shows_progress = False
        for meter in self._meters:
            meter.close()

    def _scan(
        self, collection: str | None, processor: Processor[Any], walk: _Walk
    ) -> Generator[Any]:
        scan = self._read(collection, processor, walk)
        self._running.append(scan)
        return scan

    def _read(
        self, collection: str | None, processor: Processor[Any], walk: _Walk
    ) -> Generator[Any]:
        """Read the CARs one after the other."""
        for options in self._cars:
            try:
                with self._portal.wrap_async_context_manager(
                    self._opened(options, collection, processor)
                ) as repo:
                    walked, found = walk(repo), 0
                    while (batch := self._portal.call(_next, walked)) is not None:
                        found += len(batch)
                        yield batch
                    self._portal.call(self._note, options, repo, found)
            except Exception as error:
                self.failure = self.failure or (options, error)
                raise

    @asynccontextmanager
    async def _opened(
        self, options: argparse.Namespace, collection: str | None, processor: Processor[Any]
    ) -> AsyncGenerator[Opened[Any]]:
        quiet = options.quiet or not self.shows_progress or self._meters
        options = argparse.Namespace(**{**vars(options), "quiet": bool(quiet)})
        if collection is not None:
            options.collections = [collection]
        on_error: Literal["raise", "skip"] = "skip" if options.skip_bad else "raise"
        if self._on_disk:
            options.disk = None  # one reading at a time can use that file
        uses_disk = options.disk is not None
        self._on_disk = self._on_disk or uses_disk
        try:
            async with opened(options, processor, on_error=on_error, check_first=False) as repo:
                self._meters.append(repo.meter)
                try:
                    yield repo
                finally:
                    self._meters.remove(repo.meter)
        finally:
            if uses_disk:
                self._on_disk = False

    def _note(self, options: argparse.Namespace, repo: Opened[Any], found: int) -> None:
        """Note what there is to report of a CAR: the most, however often the query reads it."""
        losses = 0 if repo.losses is None else repo.losses.count
        faults = repo.repo.problem_count + repo.repo.damage_count + losses
        if options.car not in self._worst or faults > self._worst[options.car].faults:
            self._worst[options.car] = _Reading(
                faults, left_out(options, repo.repo), lost_of(options, repo, found)
            )


async def _next(walked: AsyncGenerator[Any]) -> Any:  # noqa: ANN401 - above
    return await anext(walked, None)


# --- For DuckDB -----------------------------------------------------------------------------------


def data_set(schema: Any, read: Read) -> Any:  # noqa: ANN401 - above
    """Return the data set of `pyarrow` that is read by a function.

    DuckDB registers no other object that it tells what a query needs. It uses `schema` and
    `scanner`; the methods of the base have nothing below them, and must not be called.

    Args:
        schema: all columns.
        read: returns batches with the columns that it is asked for, in that order.
    """
    dataset: Any = import_module("pyarrow.dataset")

    class Scanned(dataset.Dataset):  # type: ignore[misc] # only known now
        def __init__(self) -> None:
            """Do without the constructor of the base, which always fails."""

        @property
        def schema(self) -> Any:  # noqa: ANN401 - above
            return schema

        def scanner(
            self,
            columns: Sequence[str] | None = None,
            filter: Any = None,  # noqa: A002, ANN401 - the name is pyarrow's
            **_: object,
        ) -> _Scanner:
            return _Scanner(schema, read, columns or schema.names, filter)

        def __arrow_c_stream__(self, requested_schema: Any = None) -> Any:  # noqa: ANN401 - above
            """Return everything, for what does not know data sets of `pyarrow`."""
            return self.scanner().to_reader().__arrow_c_stream__(requested_schema)

    return Scanned()


class _Scanner:
    """What DuckDB asks a scanner of `pyarrow` for.

    Args:
        schema: all columns.
        read: reads some of them.
        columns: what to return.
        wanted: an expression: which rows to return; `None` for all.
    """

    def __init__(self, schema: Any, read: Read, columns: Sequence[str], wanted: Any) -> None:  # noqa: ANN401 - above
        self._schema = schema
        self._read = read
        self._columns = columns
        self._wanted = wanted

    def to_reader(self) -> Any:  # noqa: ANN401 - above
        """Return what reads the batches."""
        schema = import_module("pyarrow").schema(
            [self._schema.field(each) for each in self._columns]
        )
        return import_module("pyarrow").RecordBatchReader.from_batches(schema, self._batches())

    def _batches(self) -> Iterator[Any]:
        table: Any = import_module("pyarrow").Table
        for batch in self._read(self._needed(), self._wanted):
            rows = table.from_batches([batch])
            if self._wanted is not None:
                rows = rows.filter(self._wanted)
            yield from rows.select(self._columns).to_batches()

    def _needed(self) -> Sequence[str]:
        """Return the columns to read: to return, or to filter by."""
        if self._wanted is None:
            return self._columns
        return [
            name for name in self._schema.names if name in self._columns or self._filters_by(name)
        ]

    def _filters_by(self, name: str) -> bool:
        """Return whether there is no filtering without a column; an expression does not tell."""
        empty = self._schema.empty_table()
        try:
            empty.drop_columns([name]).filter(self._wanted)
        except _invalid():
            return True
        return False


def _only_collection(wanted: Any) -> str | None:  # noqa: ANN401 - above
    """Return the only collection whose records can pass a filter; `None` if that is not known."""
    if wanted is None:
        return None
    keys = import_module("pyarrow.dataset").get_partition_keys(wanted)
    collection: object = keys.get("collection")
    return collection if isinstance(collection, str) and is_nsid(collection) else None


def _invalid() -> Any:  # noqa: ANN401 - above
    return import_module("pyarrow").ArrowInvalid
