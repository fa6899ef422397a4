"""`export` and `get`: records as DAG-JSON, one a line, or as a Parquet file."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from typing import IO, Final, Literal, Protocol

from repo_stream import Output
from repo_stream.cli.input import is_input
from repo_stream.cli.opened import opened
from repo_stream.cli.output import destination, is_terminal, put_json, writing_to
from repo_stream.cli.parquet import parquet, pyarrow_and_parquet
from repo_stream.cli.screen import explained, harmless_json, one_line
from repo_stream.process import dag_json

__all__ = ["export", "get"]


_STANDARD_OUTPUT: Final = "-"


class _Sink(Protocol):
    """Takes records, in whatever form."""

    def write(self, chunk: Sequence[Output[str]]) -> None:
        """Take the next records."""
        ...


async def export(options: argparse.Namespace) -> int:
    """Write the records as they are walked; give 0 only where none was left out."""
    kind = _KINDS[options.format]
    path: str | None = None if options.output == _STANDARD_OUTPUT else options.output
    if path is not None and is_input(options.car, path):
        options.usage(f"-o names the CAR itself, which would be gone: {path}")
    if kind is parquet:
        pyarrow_and_parquet()  # where it is not installed, nothing needs to be read
        if path is None and is_terminal():
            options.usage("Parquet is not for a terminal: give a file with -o, or a pipe")
    on_error: Literal["raise", "skip"] = "skip" if options.skip_bad else "raise"
    async with opened(options, dag_json, on_error=on_error) as car:
        if path is None and is_terminal():
            car.meter.close()
        with destination(path) as file, kind(file, path) as sink:
            async for chunk in car.chunks():
                sink.write(chunk)
    bad = car.repo.problem_count
    if not bad:
        return 0
    left_out = f"{bad:,} {'record was' if bad == 1 else 'records were'} left out"
    first = explained(car.repo.problems[0].error)
    message = f"{options.car}: {left_out}; the first: {first}"
    print(f"repo-stream: {one_line(message)}", file=sys.stderr)
    return 1


async def get(options: argparse.Namespace) -> int:
    """Write one record, or say that the tree has none of that key."""
    async with opened(options, dag_json) as car:
        output = await car.repo.get(options.key)
    if output is not None:
        put_json(_shown(output))
        return 0
    absent = f"{options.car}: the repo has no record {options.key!r}"
    print(f"repo-stream: {one_line(absent)}", file=sys.stderr)
    return 1


def _shown(output: Output[str]) -> str:
    """Give a record as a program wants it, or spread out where a person looks at it."""
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
