"""What is wrong with a CAR, as a person is told of it: it cannot be read, or records cannot."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from repo_stream import (
    BadSectionCid,
    BadVarint,
    CidMismatch,
    EmptySection,
    HandleNotFound,
    MissingBlock,
    MissingExtra,
    NodeError,
    ProcessError,
    Repo,
    RepoStreamError,
    TruncatedCar,
)
from repo_stream.cli.accounts import is_account
from repo_stream.cli.input import named
from repo_stream.cli.messages import BAD_REPO, WRONG_USAGE, complain
from repo_stream.cli.screen import explained

__all__ = ["left_out", "report_failure", "report_left_out"]


def report_failure(options: argparse.Namespace, error: RepoStreamError | OSError) -> int:
    """Report that a CAR cannot be read; return the exit code.

    Args:
        options: the command line, with that CAR.
        error: what happened.
    """
    if isinstance(error, RepoStreamError):  # some are an `ImportError` or the like as well
        hint = ""
        if _can_skip(options, error):
            hint = "; to leave out such records: --skip-bad"
        elif _can_go_past(options, error):
            hint = "; to get out what can be reached: --partial"
        code = WRONG_USAGE if isinstance(error, MissingExtra) else BAD_REPO
        what = "there is no such file, and " if _may_be_file(options, error) else ""
        source = error.source or named(options.car)
        return complain(f"{source}: {what}{explained(error)}{hint}", code)
    name = str(error.filename or named(options.car))
    if isinstance(error, FileNotFoundError):
        # As it was written: a path drops a slash of two.
        cars = [options.car, *options.slices]
        name = next((car for car in cars if Path(car) == Path(name)), name)
    return complain(f"{name}: {error.strerror or error}")


def report_left_out(options: argparse.Namespace, repo: Repo[Any]) -> int:
    """Report how many records were left out, and why the first was; return the exit code.

    Args:
        options: the command line.
        repo: the repo, walked to its end. Any: what became of its records does not matter here.
    """
    message = left_out(options, repo)
    return 0 if message is None else complain(message)


def left_out(options: argparse.Namespace, repo: Repo[Any]) -> str | None:
    """Return how many records were left out, and why the first was; `None` if none were.

    Args:
        options: see `report_left_out`.
        repo: see there.
    """
    bad = repo.problem_count
    if not bad:
        return None
    how_many = f"{bad:,} {'record was' if bad == 1 else 'records were'} left out"
    return f"{named(options.car)}: {how_many}; the first: {explained(repo.problems[0].error)}"


def _may_be_file(options: argparse.Namespace, error: RepoStreamError) -> bool:
    """Return whether a file may have been meant by the name of an account."""
    may_be = isinstance(error, (HandleNotFound, MissingExtra)) and not options.accounts_only
    return may_be and is_account(options.car) and ":" not in options.car


def _can_skip(options: argparse.Namespace, error: RepoStreamError) -> bool:
    """Return whether the command has an option to leave out the record with this error."""
    of_a_record = isinstance(error, (MissingBlock, ProcessError)) and error.key is not None
    return of_a_record and "skip_bad" in options


def _can_go_past(options: argparse.Namespace, error: RepoStreamError) -> bool:
    """Return whether the command has an option to go past what causes this error."""
    damage = (
        BadSectionCid,
        BadVarint,
        CidMismatch,
        EmptySection,
        MissingBlock,
        NodeError,
        TruncatedCar,
    )
    return isinstance(error, damage) and "report_file" in options and not options.partial
