"""The shell command: whose repo a CAR holds, and what is in it.

    python -m repo_stream CAR [--mem-limit-mb N] [--disk PATH]

It uses the public names of the package only. What it shows of a repo was written by strangers, so
nothing of it reaches the terminal but printable characters.

Exit codes: 0, 1 for a file that cannot be read, 2 for wrong usage, and what a shell says of a
command that was interrupted (130) or whose reader went away (141).
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Final

import anyio

from repo_stream import (
    Commit,
    DiskBuilder,
    Driver,
    DriverBuilder,
    RepoDriver,
    RepoStreamError,
)

__all__ = ["main"]

_PROGRAM: Final = "python -m repo_stream"
_BAD_INPUT: Final = 1
_INTERRUPTED: Final = 128 + 2  # SIGINT
_NO_READER: Final = 128 + 13  # SIGPIPE

_MOST_MEBIBYTES: Final = 2**44  # all that 64 bits can address
_WIDTH: Final = 80
_CHUNK: Final = 1024


def main(arguments: Sequence[str] | None = None) -> int:
    """Do what the command line says.

    Args:
        arguments: the arguments; those of the process, unless given.

    Returns:
        The exit code.
    """
    options = _parser().parse_args(arguments)
    try:
        return _run(options)
    except KeyboardInterrupt:
        return _INTERRUPTED


def _run(options: argparse.Namespace) -> int:
    try:
        report = anyio.run(_inspect, options)
    except RepoStreamError as error:
        return _complain(f"{options.car}: {error}")
    except OSError as error:
        return _complain(f"{error.filename or options.car}: {error.strerror or error}")
    return _print(report)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog=_PROGRAM,
        description="Read a repo from a CAR file, check all of it, and say what is in it.",
    )
    parser.add_argument("car", metavar="CAR", help="the file, a CARv1 export of one repo")
    parser.add_argument(
        "--mem-limit-mb",
        type=_mebibytes,
        default=16,
        metavar="N",
        help="memory that the repo may take, in MiB; what is over it goes through the disk "
        "(default: 16)",
    )
    parser.add_argument(
        "--disk",
        metavar="PATH",
        help="file to use for that, which stays, emptied (default: a temporary one)",
    )
    return parser


def _mebibytes(text: str) -> float:
    number = float(text)
    if not 0 <= number <= _MOST_MEBIBYTES:
        raise argparse.ArgumentTypeError(f"not a number of MiB: {text!r}")
    return number


_mebibytes.__name__ = "number of MiB"  # argparse says "invalid number of MiB value: 'x'"


# --- What is in the repo ------------------------------------------------------------------------


@dataclass
class _Tally:
    """Records and their bytes."""

    records: int = 0
    size: int = 0


@dataclass
class _Report:
    """What a walk found out."""

    commit: Commit
    way: str
    collections: dict[str, _Tally] = field(default_factory=dict[str, _Tally])

    async def count(self, driver: RepoDriver[int]) -> None:
        while chunk := await driver.next_chunk(_CHUNK):
            for rkey, size in chunk:
                collection, slash, _ = rkey.partition("/")
                tally = self.collections.setdefault(collection if slash else "", _Tally())
                tally.records += 1
                tally.size += size


async def _inspect(options: argparse.Namespace) -> str:
    limit: float = options.mem_limit_mb
    builder = DriverBuilder(mem_limit_mb=limit, block_processor=len)
    match await builder.load_car(options.car):
        case Driver.Memory(commit, driver):
            report = _Report(commit, f"in memory (limit {limit:g} MiB)")
            await report.count(driver)
        case Driver.Disk(paused):
            async with paused, DiskBuilder().open(options.disk) as store:
                commit, on_disk = await paused.finish_loading(store)
                place = "a temporary file" if store.path is None else _one_line(str(store.path))
                way = f"through the disk (memory limit {limit:g} MiB): {place}"
                report = _Report(commit, way)
                await report.count(on_disk)
                await on_disk.reset_store()
    return "\n".join(_lines(report))


# --- How it is shown ----------------------------------------------------------------------------


def _lines(report: _Report) -> Iterable[str]:
    yield f"DID     {report.commit.did}"
    yield f"Rev     {report.commit.rev}"
    yield f"Walked  {report.way}"
    yield ""
    collections = report.collections
    total = _Tally(
        sum(tally.records for tally in collections.values()),
        sum(tally.size for tally in collections.values()),
    )
    yield from _table(
        ("Collection", "Records", "Bytes"),
        [(_collection(name), *_figures(tally)) for name, tally in sorted(collections.items())],
        ("Total", *_figures(total)),
    )


def _collection(name: str) -> str:
    # Names that the specification allows are plain ASCII and stay as they are.
    return ascii(name)[1:-1] if name else "(none)"


def _figures(tally: _Tally) -> tuple[str, str]:
    return f"{tally.records:,}", f"{tally.size:,}"


_Row = tuple[str, str, str]


def _table(head: _Row, rows: Sequence[_Row], total: _Row) -> Iterable[str]:
    """Lay out a name and two figures; a name that is too long gets a line of its own."""
    everything = [head, *rows, total]
    records = max(len(row[1]) for row in everything)
    size = max(len(row[2]) for row in everything)
    room = _WIDTH - records - size - 4
    names = [len(row[0]) for row in everything]
    name = max(width for width in names if width <= room)

    def line(row: _Row) -> str:
        figures = f"  {row[1]:>{records}}  {row[2]:>{size}}"
        if len(row[0]) > name:
            return f"{row[0]}\n{'':{name}}{figures}"
        return f"{row[0]:{name}}{figures}"

    rule = "-" * (name + records + size + 4)
    yield line(head)
    yield rule
    yield from map(line, rows)
    if rows:
        yield rule
    yield line(total)


# --- Where it goes ------------------------------------------------------------------------------


def _print(text: str) -> int:
    encoding = getattr(sys.stdout, "encoding", None) or "utf-8"
    try:
        print(text.encode(encoding, "backslashreplace").decode(encoding), flush=True)
    except OSError as error:
        _drop_output()
        if isinstance(error, BrokenPipeError):
            return _NO_READER
        return _complain(f"standard output: {error.strerror or error}")
    return 0


def _drop_output() -> None:
    """Let what could not be written go nowhere, so that the interpreter does not try again."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(nowhere, sys.stdout.fileno())
    finally:
        os.close(nowhere)


def _complain(message: str) -> int:
    print(f"{_PROGRAM}: {_one_line(message)}", file=sys.stderr)
    return _BAD_INPUT


def _one_line(text: str) -> str:
    return "".join(char if char.isprintable() else ascii(char)[1:-1] for char in text)
