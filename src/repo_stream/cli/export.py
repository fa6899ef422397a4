"""`export` and `get`: records as JSON, CSV, Parquet or Arrow, in one file, or as a file each."""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import AsyncGenerator, Callable, Generator
from contextlib import (
    AbstractContextManager,
    AsyncExitStack,
    ExitStack,
    contextmanager,
    nullcontext,
)
from functools import partial
from pathlib import Path
from typing import Any, Final, Literal, NamedTuple, NoReturn, Protocol

import repo_stream
from repo_stream import Commit, Output, Processor, RepoStreamError
from repo_stream.arrow import row_processor, schema_of, typed_processor
from repo_stream.cli.accounts import is_account, network_of
from repo_stream.cli.arrow_files import ColumnarFile, columnar_file, require_pyarrow
from repo_stream.cli.downloads import who_in
from repo_stream.cli.failures import report_left_out
from repo_stream.cli.file_forms import FORMS, Form, choose_form
from repo_stream.cli.filters import report_unmatched
from repo_stream.cli.folder import folder, record_files
from repo_stream.cli.input import named, refuse_input
from repo_stream.cli.messages import WRONG_USAGE, complain
from repo_stream.cli.opened import Opened, opened
from repo_stream.cli.output import destination, is_terminal, put_json
from repo_stream.cli.partial import check_report, report_lost
from repo_stream.cli.rows import line_of, uri_of
from repo_stream.cli.screen import harmless_json, one_line, short_did
from repo_stream.cli.several_cars import each_car, selection_of_all
from repo_stream.cli.text_files import CsvTable, JsonLines, gzipped
from repo_stream.cli.typed import Schemas, TypedFiles, look_at, typed_file, typed_files
from repo_stream.keys import parse_key
from repo_stream.process import as_processor, atproto_json, dag_json
from repo_stream.syntax import is_at_uri

__all__ = ["export", "get"]

_SLASHES: Final = (os.sep, "/")
_PROCESSORS: Final = {"dag-json": dag_json, "atproto": atproto_json}


class _Sink(Protocol):
    """Writes records in some form."""

    def begin(self, commit: Commit, /) -> None:
        """Begin with the records of a repo."""
        ...

    # Any: a list of `Output[str]`, or for columnar forms a batch of Arrow; see `_chunks`.
    def write(self, chunk: Any, /) -> None:  # noqa: ANN401 - above
        """Write the next records."""
        ...


async def export(options: argparse.Namespace) -> int:
    """Write the records of each CAR in key order; return 1 if any could not be written."""
    form = _form(options)
    if not options.typed:
        return await _written(options, form)
    options.schemas = Schemas(options.to_folder or options.output)
    async with AsyncExitStack() as stack:
        await look_at(options, options.schemas, stack)
        return await _written(options, form)


async def _written(options: argparse.Namespace, form: Form) -> int:
    try:
        with _outlet(options, form) as outlet:
            code = await each_car(options, partial(_export_one, outlet=outlet))
            outlet.require_reports(code)
    except _NothingWritten as nothing:
        return nothing.code
    if not options.quiet:
        for line in outlet.reports:
            print(one_line(line), file=sys.stderr)
    return code


async def _export_one(options: argparse.Namespace, outlet: _Outlet) -> int:
    """Write the records of one CAR; return 1 if bad ones were left out."""
    on_error: Literal["raise", "skip"] = "skip" if options.skip_bad else "raise"
    found = 0
    if options.typed and options.car in options.schemas.failures:
        raise options.schemas.failures[options.car]
    try:
        async with opened(
            options,
            _processor(options, outlet.form),
            on_error=on_error,
            check_first=not outlet.at_once,
        ) as car:
            if outlet.is_terminal:
                car.meter.close()
            sink = outlet.open()
            sink.begin(car.repo.commit)
            async for chunk in _chunks(options, outlet.form, car):
                sink.write(chunk)
                found += len(chunk)
            await report_unmatched(options, car, found + car.repo.problem_count)
    except RepoStreamError:
        if found and options.several:
            complain(f"{named(options.car)}: {_count(found)} of it came before an error")
        raise
    outlet.report(options, car.repo.commit, found)
    return max(report_left_out(options, car.repo), report_lost(options, car, found))


def _processor(options: argparse.Namespace, form: Form) -> Processor[Any]:
    """Return what to make of each record. Any: text, or what Arrow's batches are made of."""
    if options.typed:
        return typed_processor()
    if form.columnar:
        return row_processor(options.columns, options.json_form)
    return as_processor(_PROCESSORS[options.json_form])


def _chunks(options: argparse.Namespace, form: Form, car: Opened[Any]) -> AsyncGenerator[Any]:
    """Walk the repo. Any: what the processor made of its records, and what a sink takes."""
    return car.batches(options.columns) if form.columnar and not options.typed else car.chunks()


def _form(options: argparse.Namespace) -> Form:
    """Return the form to write; exit if what the command line asks for does not go together."""
    path: str | None = options.output
    if options.typed and path is not None and (path.endswith(_SLASHES) or Path(path).is_dir()):
        options.to_folder, options.output = path, None
        check_report(options)
    if options.to_folder is not None:
        form = _form_in_folder(options)
        _settle_columns(options, form)
        return form
    if path is not None:
        refuse_input(options, "-o", path)
    try:
        form = choose_form(path, options.format)
    except ValueError as error:
        _refuse(options, one_line(str(error)))
    if options.typed:
        _check_typed(options, form)
    if path is None and is_terminal() and not form.is_text:
        options.usage(
            f"{form.title} cannot be shown on a terminal: name a file with -o, or use a pipe"
        )
    _settle_columns(options, form)
    return form


def _form_in_folder(options: argparse.Namespace) -> Form:
    form = FORMS["parquet" if options.typed else "jsonl"]
    if options.format not in (None, form.name if options.typed else None):
        what = "Parquet" if options.typed else "JSON"
        options.usage(f"--to-folder writes {what}; leave out --format")
    if options.several and not options.typed:
        options.usage("--to-folder takes one CAR; use a folder for each account")
    return form


def _check_typed(options: argparse.Namespace, form: Form) -> None:
    """Exit unless one collection is written to one file with columns."""
    names: list[str] = options.collections or []
    if form.columnar is None:
        options.usage("--typed writes Parquet or Arrow: name a folder with --to-folder, or a file")
    if len(names) != 1 or names[0].endswith("*"):
        options.usage(
            "--typed writes a file for each collection: name a folder with --to-folder, or the "
            "one collection with --collection"
        )


def _settle_columns(options: argparse.Namespace, form: Form) -> None:
    """Choose the form of JSON, and check the columns; all before a CAR is read."""
    for name in ("json_form", "columns"):
        if options.typed and getattr(options, name) is not None:
            options.usage(f"--{name.replace('_', '-')} does not go with --typed")
    if options.json_form is None:
        options.json_form = "atproto" if form.columnar else "dag-json"
    if form.columnar is None:
        if options.columns is not None:
            options.usage("--columns is for Parquet and Arrow")
        return
    require_pyarrow(form.columnar)
    try:
        _processor(options, form)
    except ValueError as error:
        options.usage(one_line(f"argument --columns: {error}"))


def _refuse(options: argparse.Namespace, message: str) -> NoReturn:
    options.usage(message)
    raise SystemExit(WRONG_USAGE)  # not reached


# --- Where to -----------------------------------------------------------------------------------


class _NothingWritten(Exception):
    """No CAR could be read, so the file is dropped.

    Attributes:
        code: the exit code.
    """

    def __init__(self, code: int) -> None:
        super().__init__(code)
        self.code = code


class _Outlet:
    """What the records of all CARs go to. It is opened when the first CAR has been opened.

    Attributes:
        form: the form to write.
        is_terminal: whether a person looks at the output.
        at_once: whether records are written before their CAR was read to its end.
        reports: what was written, a line for each CAR.
    """

    def __init__(self, options: argparse.Namespace, form: Form, stack: ExitStack) -> None:
        to_file = options.output is not None or options.to_folder is not None
        self.form = form
        self.is_terminal = not to_file and is_terminal()
        self.at_once = not to_file and form.kind == "arrow"
        self.reports: list[str] = []
        self._options = options
        self._stack = stack
        self._sink: _Sink | None = None

    def open(self) -> _Sink:
        """Return what to write to."""
        if self._sink is None:
            self._sink = self._stack.enter_context(_sink(self._options, self.form))
        return self._sink

    def require_reports(self, code: int) -> None:
        """Check that something was written, else end with this exit code.

        Raises:
            _NothingWritten: if no CAR could be read.
        """
        if not self.reports:
            raise _NothingWritten(code)

    def report(self, options: argparse.Namespace, commit: Commit, found: int) -> None:
        """Note that the records of a CAR were written."""
        folder_path: str | None = options.to_folder
        if folder_path is not None:
            target = f"files in {folder_path}"
        else:
            target = f"{options.output or 'standard output'} ({self.form.name})"
        self.reports.append(
            f"wrote {_count(found)} of {short_did(commit.did)}, rev {commit.rev}, "
            f"from {named(options.car)} to {target}"
        )


@contextmanager
def _outlet(options: argparse.Namespace, form: Form) -> Generator[_Outlet]:
    with ExitStack() as stack:
        yield _Outlet(options, form, stack)


@contextmanager
def _sink(options: argparse.Namespace, form: Form) -> Generator[_Sink]:
    path: str | None = options.output
    line = line_of(options.json_form, several=options.several)
    if options.to_folder is not None:
        with folder(
            options.to_folder,
            _typed_files(options) if options.typed else partial(record_files, line=line),
            form="parquet" if options.typed else "json",
            partial=options.partial or options.skip_bad,
            selection=selection_of_all(options),
        ) as files:
            yield files
        return
    if options.typed and form.columnar is not None:
        (collection,) = options.collections
        several = options.several
        with typed_file(form.columnar, path, options.schemas, collection, several=several) as typed:
            yield typed
        return
    with (
        destination(path) as file,
        gzipped(file, path) if form.gzipped else nullcontext(file) as written,
    ):
        match form.kind:
            case "jsonl":
                yield JsonLines(written, path, line)
            case "csv":
                yield CsvTable(written, path)
            case kind:
                schema = schema_of(options.columns)
                with columnar_file(kind, schema, file, path) as table:
                    yield _Table(table, several=options.several)


def _typed_files(
    options: argparse.Namespace,
) -> Callable[[Path], AbstractContextManager[TypedFiles]]:
    return lambda part: typed_files(part, options.schemas, several=options.several)


class _Table:
    """A columnar file, which names its repo if it is of one alone."""

    def __init__(self, file: ColumnarFile, *, several: bool) -> None:
        self._file = file
        self._several = several
        self.write = file.write

    def begin(self, commit: Commit) -> None:
        """Begin with the records of a repo."""
        self._file.begin(None if self._several else commit)


def _count(records: int) -> str:
    return f"{records:,} {'record' if records == 1 else 'records'}"


# --- One record ---------------------------------------------------------------------------------


async def get(options: argparse.Namespace) -> int:
    """Write one record; return 1 if there is none, 2 if the key is a URI of another account."""
    try:
        found = await (_fetched if is_account(options.car) else _found)(options)
    except _WrongKey as error:
        return complain(f"{named(options.car)}: {error}", WRONG_USAGE)
    if found.output is None:
        return complain(f"{named(options.car)}: the repo has no record {found.key!r}")
    line = line_of(options.json_form, several=False)(found.did, found.output)
    put_json(_shown(line, in_one=options.json))
    return 0


class _WrongKey(Exception):
    """The key is the URI of a record of another account."""


class _Found(NamedTuple):
    """A record that was looked for.

    Attributes:
        did: the account.
        key: its key.
        output: the record; `None` if there is none.
    """

    did: str
    key: str
    output: Output[str] | None


async def _found(options: argparse.Namespace) -> _Found:
    """Look for the record in a CAR, or in the whole repo of an account."""
    # The account is known before the file has been read to its end, which `Repo.get` sees to.
    async with opened(options, _PROCESSORS[options.json_form], check_first=False) as car:
        did = car.repo.commit.did
        key = _key_of(options, did)
        return _Found(did, key, await car.repo.get(key.encode()))


async def _fetched(options: argparse.Namespace) -> _Found:
    """Fetch the record of an account with its proof."""
    async with network_of(options) as network:
        account = await network.resolve(who_in(options.car))
        key = _key_of(options, account.did)
        uri = uri_of(account.did, key)
        if is_at_uri(uri):
            output = await repo_stream.get_record(
                uri,
                network=network,
                block_processor=_PROCESSORS[options.json_form],
                earlier_keys=options.earlier_keys,
            )
            return _Found(account.did, key, output)
    return await _found(options)  # no server can be asked for such a key


def _key_of(options: argparse.Namespace, did: str) -> str:
    """Return the key that the command line means.

    Raises:
        _WrongKey: if it is the URI of a record of another account.
    """
    key: str = options.key
    if options.exact and key != options.car:
        return key
    by_same_name = is_account(options.car) and key.startswith(f"at://{who_in(options.car)}/")
    try:
        return parse_key(key, None if by_same_name else did)
    except ValueError as error:
        raise _WrongKey(str(error)) from error


def _shown(line: str, *, in_one: bool) -> str:
    """Return a record as one line of JSON, or indented if a person looks at it."""
    if not is_terminal():
        return f"{line}\n"
    if in_one:
        return f"{harmless_json(line)}\n"
    spread = json.dumps(json.loads(line), indent=2, ensure_ascii=False)
    return "".join(f"{harmless_json(part)}\n" for part in spread.split("\n"))
