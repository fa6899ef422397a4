"""Tables: blocks, or what was made of them, by their CIDs.

Such a table is a `dict`. The compiled form has a type of its own instead, which takes half the
memory, and which can load what a walk needs next into the processor's caches.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import Any, Final, TypeAlias, TypeVar

from repo_stream._compiled import COMPILED
from repo_stream.mst.frames import Frame
from repo_stream.sizes import CID_COST, growth_of_dict, is_sparse

__all__ = [
    "KEY_COST",
    "Table",
    "expect",
    "expect_all_of",
    "finder",
    "holds_any",
    "need",
    "new",
    "shrink",
    "total_size",
]

V = TypeVar("V")

Table: TypeAlias = dict[bytes, V]

#: What a key costs beside the table, in bytes. The compiled form holds them itself.
KEY_COST: Final = 0 if COMPILED else CID_COST


def new() -> Table[V]:
    """Return an empty table."""
    return {}


def need(table: Table[Any]) -> int:
    """Return how much memory a table needs to take more in, in bytes.

    That is its size, and what it takes for a while as it grows, which can be a fifth of all that is
    in memory.
    """
    return sys.getsizeof(table) + growth_of_dict(table)


def shrink(table: Table[Any]) -> None:
    """Free memory, if a table once held much more than it does now."""
    if is_sparse(table):
        # A table shrinks only when it is built anew.
        kept = dict(table)
        table.clear()
        table.update(kept)


def holds_any(table: Table[V], cids: Iterable[bytes]) -> bool:
    """Return whether any of these CIDs is in a table."""
    return not table.keys().isdisjoint(cids)


def finder(table: Table[V]) -> Callable[[Sequence[bytes]], Iterable[V]]:
    """Return a function that looks many CIDs up, and raises `KeyError` if one is missing."""
    return partial(map, table.__getitem__)


def total_size(blocks: list[bytes]) -> int:
    """Return how many bytes these blocks have together."""
    return sum(map(len, blocks))


def expect(table: Table[V], cids: Sequence[bytes]) -> None:
    """Announce that these CIDs will be looked up next, or put in. A `dict` ignores it."""


def expect_all_of(frames: list[Frame], raw: Table[bytes], processed: Table[V]) -> None:
    """Announce that all blocks in these frames will be looked up next. A `dict` ignores it.

    Args:
        frames: the frames of a node.
        raw: the table that their nodes are in.
        processed: the table that their records are in.
    """


if COMPILED:
    from repo_stream.mst._tables import (
        expect,
        expect_all_of,
        finder,
        holds_any,
        need,
        new,
        shrink,
        total_size,
    )
