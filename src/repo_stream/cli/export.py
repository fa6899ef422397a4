"""`export` and `get`: records as DAG-JSON, one per line, or as a Parquet file."""

from __future__ import annotations

import argparse
import json
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from typing import IO, Final, Literal, Protocol

from repo_stream import Output
from repo_stream.cli.filters import report_unmatched
from repo_stream.cli.input import is_input
from repo_stream.cli.messages import WRONG_USAGE, complain
from repo_stream.cli.opened import opened
from repo_stream.cli.output import destination, is_terminal, put_json, writing_to
from repo_stream.cli.parquet import parquet, pyarrow_and_parquet
from repo_stream.cli.problems import report_left_out
from repo_stream.cli.screen import harmless_json
from repo_stream.keys import parse_key
from repo_stream.process import dag_json

__all__ = ["export", "get"]


class _Sink(Protocol):
    """Writes records in some format."""

    def write(self, chunk: Sequence[Output[str]]) -> None:
        """Write the next records."""
        ...


async def export(options: argparse.Namespace) -> int:
    """Write the records in key order; return 1 if bad ones were left out."""
    kind = _KINDS[options.format]
    path: str | None = options.output
    if path is not None and is_input(options.car, path):
        options.usage(f"-o names the CAR itself, which would be overwritten: {path}")
    if kind is parquet:
        pyarrow_and_parquet()  # if it is not installed, fail before the CAR is read
        if path is None and is_terminal():
            options.usage(
                "Parquet cannot be shown on a terminal: name a file with -o, or use a pipe"
            )
    on_error: Literal["raise", "skip"] = "skip" if options.skip_bad else "raise"
    found = 0
    async with opened(options, dag_json, on_error=on_error) as car:
        if path is None and is_terminal():
            car.meter.close()
        with destination(path) as file, kind(file, path) as sink:
            async for chunk in car.chunks():
                sink.write(chunk)
                found += len(chunk)
        bad = car.repo.problem_count
        await report_unmatched(options, car, found + bad)
    return report_left_out(options, car.repo)


async def get(options: argparse.Namespace) -> int:
    """Write one record; return 1 if there is none, 2 if the key is a URI of another account."""
    # The account is known before the file has been read to its end, which `Repo.get` sees to.
    async with opened(options, dag_json, check_first=False) as car:
        try:
            key = parse_key(options.key, car.repo.commit.did)
        except ValueError as error:
            return complain(f"{options.car}: {error}", WRONG_USAGE)
        output = await car.repo.get(key)
    if output is None:
        return complain(f"{options.car}: the repo has no record {key!r}")
    put_json(_shown(output))
    return 0


def _shown(output: Output[str]) -> str:
    """Return a record as one line of JSON, or indented if a person looks at it."""
    line = _line(output)
    if not is_terminal():
        return f"{line}\n"
    spread = json.dumps(json.loads(line), indent=2, ensure_ascii=False)
    return "".join(f"{harmless_json(part)}\n" for part in spread.split("\n"))


def _line(output: Output[str]) -> str:
    key = json.dumps(output.key, ensure_ascii=False)
    return f'{{"key":{key},"cid":"{output.cid}","value":{output.value}}}'


# --- JSON lines ---------------------------------------------------------------------------------


class _JsonLines:
    def __init__(self, file: IO[bytes], path: str | None) -> None:
        self._file = file
        self._path = path
        self._shown = path is None and is_terminal()

    def write(self, chunk: Sequence[Output[str]]) -> None:
        with writing_to(self._path):
            for output in chunk:
                line = _line(output)
                self._file.write((harmless_json(line) if self._shown else line).encode() + b"\n")
            self._file.flush()


@contextmanager
def _json_lines(file: IO[bytes], path: str | None) -> Generator[_Sink]:
    yield _JsonLines(file, path)


_KINDS: Final = {"jsonl": _json_lines, "parquet": parquet}
