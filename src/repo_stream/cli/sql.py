"""`sql`: a query of the records of CARs, which DuckDB, an extra, runs in memory.

The table `records` has the columns of `repo_stream.arrow`, with `record` as JSON. A collection is a
table, too, with typed columns, by its quoted name: `"app.bsky.feed.post"`.

DuckDB reads as much of the CARs as the query needs, see `scanning`. It installs nothing, takes no
variable of this program for a table, and keeps what does not fit in memory in a temporary folder.
"""

from __future__ import annotations

import argparse
import os
import re
import sys
from collections.abc import AsyncGenerator, Callable, Generator, Iterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager, nullcontext
from importlib import import_module
from shutil import get_terminal_size
from tempfile import TemporaryDirectory
from typing import Any, Final, Protocol, TypeVar

import anyio
import anyio.to_thread
from anyio.from_thread import BlockingPortal
from anyio.lowlevel import checkpoint

from repo_stream import MissingExtra, RepoStreamError
from repo_stream.arrow import schema_of
from repo_stream.background import in_background
from repo_stream.cli.arrow_files import columnar_file
from repo_stream.cli.failures import report_failure
from repo_stream.cli.file_forms import Form, choose_form
from repo_stream.cli.input import refuse_input
from repo_stream.cli.messages import WRONG_USAGE, complain
from repo_stream.cli.opened import as_file
from repo_stream.cli.output import destination, is_terminal, put
from repo_stream.cli.partial import report_unread, reporting
from repo_stream.cli.results import CellError, CsvRows, JsonRows, Shown
from repo_stream.cli.scanning import Read, Scans, data_set
from repo_stream.cli.screen import one_line
from repo_stream.cli.text_files import gzipped
from repo_stream.syntax import is_nsid

__all__ = ["sql"]

T = TypeVar("T")

# Rows to take from DuckDB at a time.
_ROWS: Final = 2048
_NO_TABLE: Final = re.compile("Table with name (.+) does not exist!")
_NO_QUOTES: Final = re.compile('Table with name "(.+)" does not exist because schema')
_SETTINGS: Final = {
    "autoinstall_known_extensions": False,
    "memory_limit": "1GiB",
    "python_enable_replacements": False,
}


class _Sink(Protocol):
    """Writes the rows of a result."""

    def write(self, batch: Any, /) -> None:  # noqa: ANN401 - pyarrow has no types
        """Write the next rows."""
        ...


async def sql(options: argparse.Namespace) -> int:
    """Run a query; return 1 if a CAR could not be read, and 2 if the query is wrong."""
    form = _form(options)
    duckdb = _duckdb()
    async with AsyncExitStack() as stack:
        stack.enter_context(reporting(options))
        cars: list[argparse.Namespace] = []
        for car in options.cars:
            of_car = argparse.Namespace(**{**vars(options), "car": car})
            try:
                options.kept[car] = await stack.enter_async_context(as_file(of_car))
            except (RepoStreamError, OSError) as error:
                report_unread(of_car, error)
                return report_failure(of_car, error)
            cars.append(of_car)
        portal = await stack.enter_async_context(_portal())
        scans = Scans(portal, cars)
        database = await stack.enter_async_context(_database(duckdb, scans))
        failed: _QueryError | None = None
        try:
            await _run(options, form, database, scans)
        except _QueryError as error:
            failed = error
        code = scans.report()
        return code if failed is None else _report_failed(failed, scans)


def _report_failed(error: _QueryError, scans: Scans) -> int:
    """Report why there is no result; return the exit code."""
    if scans.failure is None:
        return complain(str(error), WRONG_USAGE)
    of_car, failure = scans.failure
    if isinstance(failure, (RepoStreamError, OSError)):
        report_unread(of_car, failure)
        return report_failure(of_car, failure)
    raise failure from error


def _form(options: argparse.Namespace) -> Form | None:
    """Return the form of the output; `None` for a table. Exit if it is not clear."""
    path: str | None = options.output
    if os.path.lexists(options.query):  # unlike others, it takes a long text
        options.usage(one_line(f"QUERY comes before CAR, and {options.query} is a file"))
    option = "json" if options.json else "csv" if options.csv else None
    asked = "jsonl" if option == "json" else option
    if path is not None:
        refuse_input(options, "-o", path)
    if path is None and asked is None:
        return None
    try:
        return choose_form(path, asked)
    except ValueError as error:
        message = str(error).replace(f"--format is {asked}", f"--{option} is given")
        options.usage(one_line(message.replace("--format", f"--{option}")))
        raise SystemExit(WRONG_USAGE) from error  # not reached


def _duckdb() -> Any:  # noqa: ANN401 - it is an extra
    """Import DuckDB, and `pyarrow`, by which it reads.

    Raises:
        MissingExtra: if one is not installed.
    """
    for package in ("pyarrow", "duckdb"):
        try:
            import_module(package)
        except ImportError as error:
            raise MissingExtra(extra="sql", package=package, feature="repo-stream sql") from error
    return import_module("duckdb")


class _QueryError(Exception):
    """The query cannot be run, or its tables cannot be read."""


def _in_one_line(error: Exception) -> str:
    """Return what DuckDB says, without its picture of the query."""
    text, _, _ = str(error).partition("\n\nLINE ")
    said = " ".join(text.split())
    unquoted = _NO_QUOTES.search(said)
    if unquoted is None:
        return said
    return f"{said} The name of a collection has quotes, in a shell: 'from \"{unquoted[1]}\"'"


@asynccontextmanager
async def _portal() -> AsyncGenerator[BlockingPortal]:
    """Open a portal to this event loop; what the block raises comes out as it is."""
    failure: BaseException | None = None
    async with BlockingPortal() as portal:
        try:
            yield portal
        except anyio.get_cancelled_exc_class():
            raise
        except BaseException as error:  # noqa: BLE001 - raised again below, outside of its group
            failure = error
    if failure is not None:
        raise failure


# --- The database ---------------------------------------------------------------------------------


class _Database:
    """A connection to DuckDB with the tables that a query names. All methods block.

    Args:
        connection: the connection. Any, here: DuckDB is an extra.
        scans: reads the CARs.
    """

    def __init__(self, connection: Any, scans: Scans) -> None:  # noqa: ANN401 - above
        self.interrupt: Callable[[], None] = connection.interrupt
        duckdb: Any = import_module("duckdb")
        self._missing: type[Exception] = duckdb.CatalogException
        self._nothing = duckdb.ExpectedResultType.NOTHING
        self._connection = connection
        self._scans = scans
        self._added: set[str] = set()

    def result(self, query: str) -> Any:  # noqa: ANN401 - above
        """Run all statements but the last, and return its result, which is read as it is run.

        Returns:
            The result; `None` if the last statement has been run, too, because it returns no rows.
        """
        self._add_records()
        statements = self._connection.extract_statements(query)
        if not statements:
            raise _QueryError("QUERY has no statement")
        last = statements.pop()
        if last.expected_result_type == [self._nothing]:
            statements.append(last)
            last = None
        for statement in statements:
            self._with_tables(self._connection.execute, statement)
            self._connection.complete()
        return None if last is None else self._with_tables(self._connection.sql, last.query)

    def close(self) -> None:
        """End everything."""
        self._connection.close()
        self._scans.close()

    def _add_records(self) -> None:
        self._connection.execute("set TimeZone = 'UTC'")
        self._connection.register("_records", data_set(schema_of(), self._scans.records))
        self._connection.execute(
            "create temp view records as select * replace (record::json as record) from _records"
        )

    def _with_tables(self, call: Callable[[T], Any], statement: T) -> Any:  # noqa: ANN401 - above
        """Call a method with a statement, and add the collections that it takes for tables."""
        while True:
            try:
                return call(statement)
            except self._missing as error:
                missing = _NO_TABLE.search(str(error))
                if missing is None or missing[1] in self._added or not is_nsid(missing[1]):
                    raise
                self._add_collection(missing[1])

    def _add_collection(self, name: str) -> None:
        schema = self._scans.schema_of(name)
        if schema is None:
            raise _QueryError(f"there is no record in the collection {name}")
        self._connection.register(name, data_set(schema, self._reader_of(name, schema)))
        self._added.add(name)

    def _reader_of(self, collection: str, schema: Any) -> Read:  # noqa: ANN401 - pyarrow has no types
        def read(_columns: Sequence[str], _wanted: object) -> Iterator[Any]:
            return self._scans.typed(collection, schema)

        return read


@asynccontextmanager
async def _database(duckdb: Any, scans: Scans) -> AsyncGenerator[_Database]:  # noqa: ANN401 - above
    """Open a database in memory; what it runs ends if this block is cancelled."""
    with TemporaryDirectory(prefix="repo-stream-") as folder:
        settings = {**_SETTINGS, "temp_directory": folder}
        database = _Database(duckdb.connect(":memory:", config=settings), scans)

        async def interrupt_in_time() -> None:
            try:
                await anyio.sleep_forever()
            finally:
                database.interrupt()

        try:
            async with in_background(interrupt_in_time):
                yield database
        finally:
            with anyio.CancelScope(shield=True):
                await anyio.to_thread.run_sync(database.close)


async def _run(
    options: argparse.Namespace, form: Form | None, database: _Database, scans: Scans
) -> None:
    """Run the query, and write its result."""
    result = await _asked(database.result, options.query)
    if result is None:
        if options.output is not None:
            reason = f"the last statement returns no rows, so {options.output} is not written"
            raise _QueryError(reason)
        return
    rows = await _asked(_reader, result)
    count = 0
    with _sink(options, form, result, rows.schema) as sink:
        while (batch := await _asked(_next, rows)) is not None:
            if options.output is None and is_terminal():
                scans.close_meters()
            try:
                sink.write(batch)
            except CellError as error:
                raise _QueryError(str(error)) from error
            count += batch.num_rows
    if options.output is not None and not options.quiet:
        many = f"{count:,} {'row' if count == 1 else 'rows'}"
        print(one_line(f"wrote {many} to {options.output}"), file=sys.stderr)


async def _asked(ask: Callable[[T], Any], what: T) -> Any:  # noqa: ANN401 - above
    """Call a function that asks DuckDB, in a thread.

    Raises:
        _QueryError: if it fails. Batches that cannot be read are of no type of DuckDB.
    """
    try:
        return await anyio.to_thread.run_sync(ask, what)
    except _QueryError:
        raise
    except Exception as error:
        await checkpoint()  # if this was cancelled, that is why it failed
        raise _QueryError(_in_one_line(error)) from error


def _reader(result: Any) -> Any:  # noqa: ANN401 - above
    """Return what reads the batches of a result."""
    rows = result.to_arrow_reader(_ROWS)
    names = _distinct(rows.schema.names)
    if names == rows.schema.names:
        return rows
    schema = import_module("pyarrow").schema(
        [field.with_name(name) for field, name in zip(rows.schema, names, strict=True)]
    )
    renamed = (batch.rename_columns(names) for batch in rows)
    return import_module("pyarrow").RecordBatchReader.from_batches(schema, renamed)


def _next(rows: Any) -> Any:  # noqa: ANN401 - above
    return next(rows, None)


# --- The output -----------------------------------------------------------------------------------


@contextmanager
def _sink(
    options: argparse.Namespace,
    form: Form | None,
    result: Any,  # noqa: ANN401 - above
    schema: Any,  # noqa: ANN401 - above
) -> Generator[_Sink]:
    names: list[str] = schema.names
    shows = options.output is None and is_terminal()
    if form is None:
        table = Shown(put, names, get_terminal_size().columns if shows else None)
        yield table
        table.finish()
        return
    path: str | None = options.output
    with (
        destination(path) as file,
        gzipped(file, path) if form.gzipped else nullcontext(file) as written,
    ):
        match form.kind:
            case "jsonl":
                types = zip(names, result.types, strict=True)
                json = [name for name, kind in types if str(kind) == "JSON"]
                yield JsonRows(written, path, names, json=json, escaped=shows)
            case "csv":
                yield CsvRows(written, path, names, escaped=shows)
            case kind:
                with columnar_file(kind, schema, file, path) as columnar:
                    try:
                        columnar.begin(None)
                    except NotImplementedError as error:
                        raise _QueryError(
                            f"{path}: {form.title} lacks the type of a column: {error}; "
                            "cast it to text, as in name::varchar"
                        ) from error
                    yield columnar


def _distinct(names: Sequence[str]) -> list[str]:
    """Return names each of which comes once, as DuckDB changes them in a table: `a`, `a_1`."""
    found: list[str] = []
    for name in names:
        number, other = 1, name
        while other in found:
            number, other = number + 1, f"{name}_{number}"
        found.append(other)
    return found
