"""Filters that match nothing: reported on standard error, with the collections that there are.

Such a filter is often misspelled, which an empty output does not show.
"""

from __future__ import annotations

import argparse
import shlex
from collections.abc import Sequence
from typing import Any, Final

from repo_stream import RepoStreamError
from repo_stream.cli.input import named
from repo_stream.cli.messages import complain
from repo_stream.cli.opened import Opened
from repo_stream.cli.screen import name_of
from repo_stream.keys import parse_collection

__all__ = ["report_unmatched", "selection"]

# Collections that are listed; the others are counted.
_MOST_LISTED: Final = 20


# Any: what the processor makes of records does not matter here.
async def report_unmatched(options: argparse.Namespace, car: Opened[Any], found: int) -> None:
    """Report the filters of the command line that no record matches, and the collections there are.

    The file is not read again for this: a few nodes are looked up for each collection, in memory or
    on disk.

    Args:
        options: the command line.
        car: the repo, walked to its end.
        found: how many records matched, bad ones included.
    """
    if car.losses is not None and car.losses.count:
        return  # it may match what is lost
    unmatched = await _unmatched_collections(options, car, found)
    if found and not unmatched:
        return
    flags = _flags(options, unmatched)
    if not flags:
        return
    there = await _what_there_is(car)
    message = f"{named(options.car)}: no record matches {shlex.join(flags)}{there}"
    car.meter.close()
    complain(message)


def selection(options: argparse.Namespace) -> list[str]:
    """Return the filters of the command line as it has them; the same ones for the same records."""
    return _flags(options, sorted({*(options.collections or ())}))


def _flags(options: argparse.Namespace, collections: Sequence[str]) -> list[str]:
    flags = [part for name in collections for part in ("--collection", name)]
    if options.key_range:
        flags += ["--range", *(bound or "" for bound in options.key_range)]
    return flags


async def _unmatched_collections(
    options: argparse.Namespace, car: Opened[Any], found: int
) -> list[str]:
    names: list[str] = options.collections or []
    if not found or not names:
        return names
    if len(names) == 1:
        return []
    return [name for name in names if not await _is_there(car, parse_collection(name))]


async def _is_there(car: Opened[Any], start: str) -> bool:
    """Return whether a key that begins so was walked.

    The names of collections would not tell: a wildcard also matches keys without a slash.
    """
    await car.repo.seek(start.encode())
    while keys := await car.repo.next_keys(1):
        [(key, _)] = keys
        if key:  # else it is a missing subtree
            return key.startswith(start)
    return False


async def _what_there_is(car: Opened[Any]) -> str:
    try:
        there = await car.repo.collections(whole_repo=True)
    except RepoStreamError:  # a slice may lack the rest of the tree
        return ""
    if not there:
        return "; there are no collections in the repo"
    listed = ", ".join(map(name_of, there[:_MOST_LISTED]))
    others = len(there) - _MOST_LISTED
    more = f" and {others:,} {'other' if others == 1 else 'others'}" if others > 0 else ""
    return f"; collections in the repo: {listed}{more}"
