"""The command line: its commands, their options, and how their values are read."""

from __future__ import annotations

import argparse
import dataclasses
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import repo_stream
from repo_stream import DriverBuilder, Limits
from repo_stream._compiled import how_it_runs
from repo_stream.cli.accounts import kind_of, uri_in
from repo_stream.cli.blobs import blobs
from repo_stream.cli.completion import SHELLS, completion
from repo_stream.cli.export import export, get
from repo_stream.cli.fetching import fetch
from repo_stream.cli.file_forms import FORMS
from repo_stream.cli.inspection import inspect
from repo_stream.cli.joining import join
from repo_stream.cli.listing import ls
from repo_stream.cli.messages import PROGRAM
from repo_stream.cli.ordering import order
from repo_stream.cli.output import put
from repo_stream.cli.partial import add_partial, check_report
from repo_stream.cli.plot import picture_form
from repo_stream.cli.resolution import resolve
from repo_stream.cli.screen import one_line
from repo_stream.cli.several_cars import for_each
from repo_stream.cli.sql import sql
from repo_stream.cli.verification import verify
from repo_stream.keys import parse_key
from repo_stream.syntax import is_did, is_tid

__all__ = ["parse"]

_MOST_MEBIBYTES: Final = 2**44  # as much as 64 bits can address
_MOST_SECONDS: Final = 7 * 24 * 3600  # a week
_MOST_DIGITS: Final = 640  # as many as Python converts, whatever it is set to


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """Parse the command line; exit with the usage if it is wrong.

    Raises:
        OutputError: if what `--help` and `--version` show cannot be written.
    """
    try:
        options, more = _parser().parse_known_args(arguments)
    except SystemExit:
        put("")  # written now, as an error at the exit of the interpreter could not be handled
        raise
    _add_cars(options, more)
    options.car, options.several = options.cars[0], len(options.cars) > 1
    options.kept = {}  # files of CARs that are read more than once
    if [*options.cars, *options.slices].count("-") > 1:
        options.usage("standard input can be read only once")
    _check_names(options)
    _check_key(options)
    check_report(options)
    # Check the filters before the CAR is opened.
    try:
        DriverBuilder().with_key_range(*(options.key_range or ()))
    except ValueError as error:
        options.usage(f"argument --range: {one_line(str(error))}")
    try:
        DriverBuilder().with_collections(*(options.collections or ()))
    except ValueError as error:
        options.usage(one_line(str(error)))
    return options


def _add_cars(options: argparse.Namespace, more: list[str]) -> None:
    """Add the CARs, or the KEY, that come after an option: argparse takes them for too much."""
    if not more:
        return
    are_words = all(word == "-" or not word.startswith("-") for word in more)
    try:
        if are_words and options.takes_several:
            options.cars += map(_path, more)
            return
        if are_words and "exact" in options and options.key is None and len(more) == 1:
            options.key = _utf8(more[0])
            return
    except argparse.ArgumentTypeError as error:
        options.usage(one_line(str(error)))
    options.usage(one_line(f"unrecognized arguments: {' '.join(more)}"))


def _check_names(options: argparse.Namespace) -> None:
    """Exit with the usage if the names of accounts do not go with the command line."""
    if options.handle_server is not None and not options.allow_private:
        options.usage("argument --handle-server: only with --allow-private")
    if options.accounts_only and kind_of(options.car) == "url":
        options.usage(one_line(f"name the account, not a URL: {options.car}"))
    for car in (*options.cars, *options.slices):
        try:
            uri = uri_in(car)
        except ValueError as error:
            options.usage(one_line(str(error)))
            return  # not reached
        if uri is None or uri.collection is None or options.command in (get, resolve):
            continue
        if not options.takes_selection:
            options.usage(one_line(f"name the account alone: at://{uri.authority}, not {car}"))
        if options.collections or options.key_range:
            options.usage(one_line(f"{car} names what to read; leave out --collection and --range"))


def _parser() -> argparse.ArgumentParser:
    whole = argparse.ArgumentParser(
        prog=PROGRAM,
        description="Read AT Protocol repos, of accounts or from CAR files, and verify what is "
        "read. CAR is a file, the name of an account (a handle, a DID or an at:// URI), or a URL.",
        epilog="Exit codes: 0, 1 (the repo cannot be read or is not valid), 2 (wrong usage).",
    )
    whole.add_argument(
        "--version",
        action=_ShowVersion,
        nargs=0,
        help="show the version, and whether it is compiled, and exit",
    )
    whole.add_argument(
        "--completion",
        action=_ShowCompletion,
        choices=tuple(SHELLS),
        help="write the script that completes this command in a shell, and exit; use it in bash "
        f'and zsh by: eval "$({PROGRAM} --completion bash)", in fish by: {PROGRAM} --completion '
        "fish | source",
    )
    commands = whole.add_subparsers(title="commands", metavar="COMMAND", required=True)
    network = _network(repos=False)
    common = _common()

    def add(
        name: str, summary: str, *, several: bool = False, query: bool = False
    ) -> argparse.ArgumentParser:
        command = commands.add_parser(
            name, parents=[common], help=summary, description=f"{summary[0].upper()}{summary[1:]}."
        )
        if query:
            command.add_argument("query", type=_utf8, metavar="QUERY", help="what to ask, in SQL")
        command.add_argument(
            "cars",
            nargs="+" if several else 1,
            type=_path,
            metavar="CAR",
            help='CAR file to read, with one repo, which may be compressed with gzip or zstd; "-" '
            "for standard input, which may not; or the account whose repo is to be downloaded and "
            "verified: a handle, a DID or an at:// URI; or an https URL; a file of that name comes "
            "first",
        )
        set_defaults(command, several=several)
        return command

    def add_of_account(name: str, summary: str) -> argparse.ArgumentParser:
        command = commands.add_parser(
            name,
            parents=[common if name == "fetch" else network],
            help=summary,
            description=f"{summary[0].upper()}{summary[1:]}.",
        )
        command.add_argument(
            "cars", nargs=1, metavar="WHO", help="the account: a handle, a DID or an at:// URI"
        )
        set_defaults(command, several=False)
        command.set_defaults(accounts_only=True)
        return command

    def set_defaults(command: argparse.ArgumentParser, *, several: bool) -> None:
        command.set_defaults(usage=command.error, takes_several=several)
        command.set_defaults(collections=None, key_range=None, slices=[])
        command.set_defaults(partial=False, report=None)
        command.set_defaults(accounts_only=False, takes_selection=False)

    command = add(
        "inspect",
        "show whose repo it is, its collections, when records were made, and its tree",
        several=True,
    )
    command.add_argument("--json", action="store_true", help="write JSON")
    command.add_argument(
        "--plot",
        type=_picture,
        metavar="FILE",
        help="also draw a picture of one CAR, records over time and sizes, by collection: a .png "
        "or .svg file, which appears once it is complete",
    )
    command.set_defaults(command=inspect, partial=True)

    command = add(
        "ls", "list the keys of records and their CIDs, one record per line", several=True
    )
    command.add_argument("--json", action="store_true", help="write JSON lines, with exact keys")
    _add_selection(command)
    add_partial(command)
    command.set_defaults(command=for_each(ls))

    command = add("get", "show one record")
    command.add_argument(
        "key",
        type=_utf8,
        nargs="?",
        metavar="KEY",
        help="key of the record, collection/rkey, such as app.bsky.actor.profile/self; or its "
        "URI, at://DID/collection/rkey, which can also stand alone, without CAR",
    )
    command.add_argument(
        "--exact",
        action="store_true",
        help="take KEY as it is, whatever its form: some repos have keys that break the rules, "
        "such as those without a slash",
    )
    command.add_argument("--json", action="store_true", help="write one line, to a terminal, too")
    _add_json_form(command)
    command.set_defaults(command=get)

    command = add(
        "export", "write records as JSON lines, CSV, Parquet or Arrow, or as files", several=True
    )
    command.description = (
        "Write records as JSON lines, CSV, Parquet or Arrow, or as files. JSON lines have key, cid "
        "and value; and did, if there are several CARs. CSV has uri, collection, rkey, cid and "
        "value, and a ' before a collection or rkey that spreadsheets would take for a formula. "
        "Parquet and Arrow have uri, did, collection, rkey, cid, rev, created_at (a time in UTC, "
        "null if createdAt is none) and record. An error of one of several CARs does not stop the "
        "others, and the exit code is 1; records of it that came before the error stay in the "
        "output, unless no CAR could be read to its end."
    )
    command.epilog = (
        "Arrow through a pipe: polars.read_ipc_stream(sys.stdin.buffer), or "
        "pyarrow.ipc.open_stream(sys.stdin.buffer), which duckdb.sql() takes for a table. DuckDB's "
        "shell needs its extension: install nanoarrow from community; load nanoarrow; from "
        "read_arrow('/dev/stdin')."
    )
    target = command.add_mutually_exclusive_group()
    target.add_argument(
        "-o",
        "--output",
        type=_output,
        metavar="PATH",
        help='file to write (default: "-", standard output); .jsonl, .csv, .parquet, .arrow (an '
        "Arrow file) or .arrows (a stream) at the end of its name chooses the format, and .gz "
        "after the first two compresses it",
    )
    target.add_argument(
        "--to-folder",
        type=_path,
        metavar="DIR",
        help="write a file for each record, DIR/COLLECTION/RKEY.json, or with --typed for each "
        "collection, with names that every file system takes: whatever could be a problem is "
        "percent-encoded, capitals, too; DIR is new, empty, or one that this has written of the "
        "same account, which is brought up to date",
    )
    command.add_argument(
        "--format",
        choices=tuple(FORMS),
        help="format of the output (default: as the name of the file ends, else jsonl); arrow is "
        "an Arrow IPC stream, unless the name ends in .arrow",
    )
    command.add_argument(
        "--columns",
        type=_names,
        metavar="NAME,...",
        help="columns of Parquet and Arrow, of those above; without created_at and record, no "
        "records are read, only their keys",
    )
    command.add_argument(
        "--typed",
        action="store_true",
        help="write columns of the types that records have: --to-folder DIR gets a Parquet file "
        "for each collection, DIR/COLLECTION.parquet; with one --collection, -o writes its file; "
        "what fits no column is JSON in the column other; records are read twice, and an account, "
        "a URL and standard input are kept in a temporary file meanwhile",
    )
    _add_json_form(command, None)
    _add_skip_bad(command)
    _add_selection(command)
    add_partial(command)
    command.set_defaults(command=export)

    command = add("sql", "query records by SQL, in DuckDB", several=True, query=True)
    command.description = (
        "Query records by SQL, in DuckDB. The table records has the columns uri, did, collection, "
        "rkey, cid, rev, created_at and record, which is JSON: record->>'text' is its text. The "
        'quoted name of a collection is a table with typed columns: "app.bsky.feed.post". Only '
        "what the query needs is read and checked: to count by collection no records, and with "
        "collection = '...' no others. An account, a URL and standard input are kept in a "
        "temporary file meanwhile. If a CAR cannot be read, the query fails. DuckDB takes up to "
        "1 GiB of memory, then a temporary folder; \"set memory_limit = '4GB'; select ...\" "
        "changes that."
    )
    command.epilog = (
        'Example: repo-stream sql "select collection, count(*) from records group by all" '
        "alice.example.com"
    )
    form = command.add_mutually_exclusive_group()
    form.add_argument("--json", action="store_true", help="write JSON lines, not a table")
    form.add_argument("--csv", action="store_true", help="write CSV, exactly, not a table")
    command.add_argument(
        "-o",
        "--output",
        type=_output,
        metavar="PATH",
        help='file to write (default: "-", standard output); .jsonl, .csv, .parquet or .arrow at '
        "the end of its name chooses the format",
    )
    _add_skip_bad(command)
    add_partial(command)
    command.set_defaults(command=sql)

    command = add("blobs", "list the blobs that records refer to, such as images", several=True)
    command.description = (
        "List the blobs that records refer to, such as images: CID, MIME type, size in bytes and "
        "key of the record, one reference per line. A CAR does not have the blobs themselves. The "
        "account's server returns one for com.atproto.sync.getBlob?did=DID&cid=CID. It is the "
        "right one if the SHA-256 of its bytes is the digest of the CID."
    )
    command.add_argument("--json", action="store_true", help="write JSON lines, with exact values")
    _add_skip_bad(command)
    _add_selection(command)
    add_partial(command)
    command.set_defaults(command=for_each(blobs))

    command = add_of_account("fetch", "keep the repo of an account as a CAR file, and up to date")
    command.description = (
        "Keep the repo of an account as a CAR file, verified, complete or not at all. If the file "
        "is there, it is brought up to date by what has changed since its rev."
    )
    command.add_argument(
        "-o", "--output", required=True, type=_kept_file, metavar="FILE", help="CAR file to keep"
    )
    command.add_argument(
        "--since",
        type=_rev,
        metavar="REV",
        help="fetch only what has changed since this rev: a slice, if the file is not there; else "
        "instead of the rev of the file, which heals it if it lacks blocks",
    )
    command.set_defaults(command=fetch)

    command = add_of_account("resolve", "show the account that a name leads to")
    command.description = (
        "Show the account that a name leads to: its DID, its handle if it holds both ways, its "
        "server, and the key that signs its repo."
    )
    command.add_argument("--json", action="store_true", help="write JSON, with the DID document")
    command.set_defaults(command=resolve, quiet=False)

    command = add("order", "write the CAR in streamable order, for readers with little memory")
    command.add_argument(
        "output",
        type=_output,
        metavar="OUT",
        help='CAR file to write, which appears once it is complete; "-" for standard output',
    )
    command.set_defaults(command=order)

    command = add("join", "write the newest repo of a CAR and slices of it, in streamable order")
    command.description = (
        "Write the newest repo of a CAR and slices of it, in streamable order. A slice is what the "
        "account's server returns for com.atproto.sync.getRepo?did=DID&since=REV, where REV is the "
        "rev of the CAR (see inspect). It brings a kept CAR up to date, and heals one that lacks "
        "blocks because the account wrote while it was downloaded. The order of slices does not "
        "matter, and one that has nothing new changes nothing."
    )
    command.add_argument(
        "slices",
        nargs="+",
        type=_path,
        metavar="SLICE",
        help='slice of that repo; "-" for standard input',
    )
    command.add_argument(
        "-o",
        "--output",
        type=_output,
        metavar="PATH",
        help="CAR file to write, which appears once it is complete, and is none of those that are "
        'read (default: "-", standard output)',
    )
    command.set_defaults(command=join)

    command = add("verify", "check everything in the CAR, and report on every check", several=True)
    command.description = (
        "Check everything in the CAR, and report on every check. A check that fails does not end "
        "the others; one is skipped only if it cannot be made, and the report says why."
    )
    command.add_argument(
        "--json",
        action="store_true",
        help="write JSON: ok, did, rev, commit, records, bad_records, problems, and checks, each "
        "with name, what, status (ok, failed, skipped), note, count and the first faults; keys "
        "may be added, and none is renamed",
    )
    command.add_argument(
        "--did",
        type=_did,
        metavar="DID",
        help="the account that the repo has to be of, such as did:plc:...; by default the one "
        "that is named in the place of CAR",
    )
    command.add_argument(
        "--key",
        metavar="DID_KEY",
        help="signing key of the account, did:key:..., to check the signature with; by default "
        "that of the account that is named in the place of CAR",
    )
    command.set_defaults(command=for_each(verify))
    return whole


def _network(*, repos: bool) -> argparse.ArgumentParser:
    """Return the options for the names of accounts, and if `repos`, for their repos and URLs."""
    parser = argparse.ArgumentParser(add_help=False)
    network = parser.add_argument_group("names of accounts" + (", and URLs" if repos else ""))
    network.add_argument(
        "--plc",
        type=_url,
        metavar="URL",
        default="https://plc.directory",
        help="directory of accounts to look up a did:plc in (default: %(default)s)",
    )
    network.add_argument(
        "--allow-private",
        action="store_true",
        help="connect to private addresses, too, by http and any port: for tests",
    )
    network.add_argument(
        "--handle-server",
        type=_url,
        metavar="URL",
        help="server that knows the handles below .test, with --allow-private",
    )
    network.add_argument(
        "--patience",
        type=_seconds,
        default=60,
        metavar="SECONDS",
        help="how long to ask a server again that is busy or failing (default: 60)",
    )
    if repos:
        network.add_argument(
            "--earlier-keys",
            action="store_true",
            help="accept a repo that is signed by a key that the account had before, as it may be "
            "after a move to another server",
        )
    return parser


def _common() -> argparse.ArgumentParser:
    common = argparse.ArgumentParser(add_help=False, parents=[_network(repos=True)])
    common.add_argument(
        "--mem-limit-mb",
        type=_mebibytes,
        default=16,
        metavar="N",
        help="memory that the repo may take, in MiB; a larger repo goes to disk (default: 16)",
    )
    common.add_argument(
        "--disk",
        type=_path,
        metavar="PATH",
        help="database file that a larger repo goes to, and that is empty at the end (default: a "
        "temporary file)",
    )
    common.add_argument(
        "--limit",
        dest="limits",
        type=_limit,
        action="append",
        metavar="NAME=N",
        help="change a limit on what the CAR may contain, such as block_bytes=4194304; may be "
        "repeated",
    )
    common.add_argument(
        "-q", "--quiet", action="store_true", help="show neither progress nor what was written"
    )
    return common


def _add_json_form(command: argparse.ArgumentParser, default: str | None = "dag-json") -> None:
    """Add `--json-form`; if there is no default, it depends on the format."""
    default_in_words = default or "dag-json, and atproto for the record in Parquet and Arrow"
    command.add_argument(
        "--json-form",
        choices=("dag-json", "atproto"),
        default=default,
        help="how records are written: as DAG-JSON with key and cid, or as the API has them, with "
        f"uri, collection, rkey and cid (default: {default_in_words})",
    )


def _add_skip_bad(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--skip-bad",
        action="store_true",
        help="leave out records that are missing or not valid, report how many, and exit with 1",
    )


def _add_selection(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--collection",
        dest="collections",
        action="append",
        metavar="NSID",
        help="only this collection, such as app.bsky.feed.post, or these, as in "
        "'app.bsky.feed.*'; may be repeated",
    )
    command.set_defaults(takes_selection=True)
    command.add_argument(
        "--range",
        dest="key_range",
        nargs=2,
        type=_bound,
        metavar=("START", "STOP"),
        help='only keys from START up to, but not including, STOP; "" leaves a side open; both '
        "are keys or beginnings of keys",
    )


class _ShowCompletion(argparse.Action):
    """Write the script that completes the command line in a shell."""

    def __call__(
        self, parser: argparse.ArgumentParser, _: object, shell: object, *__: object
    ) -> None:
        put(completion(parser, str(shell)))
        parser.exit()


class _ShowVersion(argparse.Action):
    """Show the version, looked up only then: that takes longer than the rest of this module."""

    def __call__(self, parser: argparse.ArgumentParser, *_: object) -> None:
        put(f"{PROGRAM} {repo_stream.__version__} ({how_it_runs()})\n")
        parser.exit()


def _check_key(options: argparse.Namespace) -> None:
    """Exit with the usage if a key has no valid form, unless it is to be taken as it is."""
    if "exact" not in options:
        return
    key: str | None = options.key
    uri = uri_in(options.car)
    if uri is not None and uri.collection is not None:
        if key is not None:
            options.usage(one_line(f"{options.car} names a record already; leave out KEY"))
        key = options.key = options.car.removesuffix("/")
    if key is None:
        options.usage("the following arguments are required: KEY")
    elif not options.exact:
        _check_form(options, key)


def _check_form(options: argparse.Namespace, key: str) -> None:
    try:
        parse_key(key)
    except ValueError as error:
        hint = "" if key.startswith("at:") else "; if it has that form in the repo: --exact"
        options.usage(one_line(f"argument KEY: {error}{hint}"))


def _utf8(text: str) -> str:
    _check_utf8(text)
    return text


def _did(text: str) -> str:
    if not is_did(text):
        raise argparse.ArgumentTypeError(f"not a DID, such as did:plc:...: {text!r}")
    return text


def _url(text: str) -> str:
    if not re.fullmatch(r"https?://[!-~]+", text):
        raise argparse.ArgumentTypeError(f"not a URL, such as https://plc.directory: {text!r}")
    return text


def _kept_file(text: str) -> str:
    if text == "-" or (Path(text).exists() and not Path(text).is_file()):
        raise argparse.ArgumentTypeError(f"name a file, which can be kept up to date, not {text!r}")
    if text.endswith((".gz", ".zst")):
        raise argparse.ArgumentTypeError(f"the file is not compressed; name it *.car: {text!r}")
    return text


def _rev(text: str) -> str:
    if not is_tid(text):
        raise argparse.ArgumentTypeError(f"not a rev, such as 3jzfcijpj2z2a: {text!r}")
    return text


def _path(text: str) -> str:
    if not text:
        raise argparse.ArgumentTypeError("it is empty")  # as of a variable that is not set
    return text


def _picture(text: str) -> str:
    try:
        picture_form(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from error
    return text


def _output(text: str) -> str | None:
    return None if text == "-" else _path(text)


def _names(text: str) -> list[str]:
    return [name.strip() for name in text.split(",")]


def _bound(text: str) -> str | None:
    _check_utf8(text)
    return text or None


def _check_utf8(text: str) -> None:
    """Refuse an argument that is not UTF-8; a shell passes any bytes."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise argparse.ArgumentTypeError(f"not UTF-8: {text!r}") from error


def _limit(text: str) -> tuple[str, int]:
    name, _, number = text.partition("=")
    names = [field.name for field in dataclasses.fields(Limits)]
    is_number = number.isascii() and number.isdecimal() and len(number) <= _MOST_DIGITS
    if name not in names or not is_number:
        shown = f"{', '.join(names[:-1])} or {names[-1]}"
        raise argparse.ArgumentTypeError(f"not NAME=N, where NAME is {shown}: {text!r}")
    return name, int(number)


def _mebibytes(text: str) -> float:
    number = float(text)
    if not 0 <= number <= _MOST_MEBIBYTES:
        raise argparse.ArgumentTypeError(f"not a number of MiB: {text!r}")
    return number


def _seconds(text: str) -> float:
    number = float(text)
    if not 0 <= number <= _MOST_SECONDS:
        raise argparse.ArgumentTypeError(f"not a number of seconds: {text!r}")
    return number


_seconds.__name__ = "number of seconds"
_mebibytes.__name__ = "number of MiB"  # argparse says "invalid number of MiB value: 'x'"
