"""The shell command `repo-stream`.

    repo-stream inspect CAR      whose repo it is, its collections, when records were made
    repo-stream ls CAR           keys and CIDs
    repo-stream get CAR KEY      one record
    repo-stream export CAR       records, as JSON lines, CSV, Parquet or Arrow, or a file each
    repo-stream sql QUERY CAR    what DuckDB answers about records
    repo-stream blobs CAR        the blobs that records refer to
    repo-stream fetch WHO        the repo of an account as a CAR file, kept up to date
    repo-stream resolve WHO      the account that a name leads to
    repo-stream order CAR OUT    the same CAR in streamable order
    repo-stream join CAR SLICE   the newest repo of both
    repo-stream verify CAR       a report on every check

`CAR` is a file, `-` for standard input, the name of an account, `WHO`, or a URL; see `accounts`.
`inspect`, `ls`, `export`, `blobs` and `verify` take several, and an error of one does not stop the
others. `sql` takes several as well, and fails if one cannot be read. `--completion` teaches all
this to a shell.

The command uses the public names of the package, and `keys`, `syntax`, `process`, `background` and
`_compiled`, which know nothing of the rest. Strangers write what is in a repo, so only printable
characters of it are written to a terminal.

Exit codes: 0, 1 if the repo cannot be read or is not valid, 2 for wrong usage, and those of shells
for a command that was interrupted (130) or whose output nobody reads any more (141).
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import Final

import anyio

from repo_stream import (
    MissingExtra,
    RepoStreamError,
    UnsupportedKey,
)
from repo_stream.cli.failures import report_failure
from repo_stream.cli.interrupts import INTERRUPTED, interruptible
from repo_stream.cli.messages import WRONG_USAGE, complain
from repo_stream.cli.options import parse
from repo_stream.cli.output import OutputError, buffer_output, drop_output
from repo_stream.cli.slowness import explain_slowness

__all__ = ["main"]

_NO_READER: Final = 128 + 13  # SIGPIPE


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command.

    Args:
        arguments: its arguments; `None` for those of the process.

    Returns:
        The exit code.
    """
    buffer_output()
    try:
        options = parse(arguments)
    except OutputError as error:
        return _without_output(error)
    try:
        code = anyio.run(_run, options)
    except KeyboardInterrupt:  # before the command began
        return INTERRUPTED
    except OutputError as error:
        return _without_output(error)
    except (MissingExtra, UnsupportedKey) as error:
        if isinstance(error, MissingExtra) and error.extra == "network":
            return report_failure(options, error)
        return complain(str(error), WRONG_USAGE)
    except (RepoStreamError, OSError) as error:
        return report_failure(options, error)
    if code != INTERRUPTED:
        explain_slowness(options)
    return code


async def _run(options: argparse.Namespace) -> int:
    try:
        with interruptible():
            code: int = await options.command(options)
            return code
    except KeyboardInterrupt:
        pass
    drop_output()
    return INTERRUPTED


def _without_output(error: OutputError) -> int:
    drop_output()
    return _NO_READER if isinstance(error.cause, BrokenPipeError) else complain(str(error))
