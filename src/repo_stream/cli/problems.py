"""Records that were left out, as a command was told to do with bad ones."""

from __future__ import annotations

import argparse
from typing import Any

from repo_stream import Repo
from repo_stream.cli.input import named
from repo_stream.cli.messages import complain
from repo_stream.cli.screen import explained

__all__ = ["report_left_out"]


def report_left_out(options: argparse.Namespace, repo: Repo[Any]) -> int:
    """Report how many records were left out, and why the first was; return the exit code.

    Args:
        options: the command line.
        repo: the repo, walked to its end. Any: what became of its records does not matter here.
    """
    bad = repo.problem_count
    if not bad:
        return 0
    left_out = f"{bad:,} {'record was' if bad == 1 else 'records were'} left out"
    return complain(
        f"{named(options.car)}: {left_out}; the first: {explained(repo.problems[0].error)}"
    )
