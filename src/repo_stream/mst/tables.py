"""Tables: blocks, or what was made of them, by their CIDs.

Such a table is a `dict`. Where this module is compiled it is one that keeps the digests of ordinary
CIDs in rows of its own, takes half the memory, and can have what a walk needs next brought near the
processor before the walk gets there.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import Any, Final, TypeAlias, TypeVar

from repo_stream.mst.frames import Frame

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
]

V = TypeVar("V")

Table: TypeAlias = dict[bytes, V]

#: What a key costs beside the table, in bytes: a CID of 36, its header included, rounded up as the
#: allocator does.
KEY_COST: Final = 80
# A table of a million entries takes 30 bytes for each when it is full, a smaller one 27. One with
# less than this to each of its entries is about to grow.
_ROOMY_ENTRY = 32
# One with more than this has grown for four times as many.
_SPARSE_ENTRY = 120


def new() -> Table[V]:
    """Make a table with nothing in it."""
    return {}


def need(table: Table[Any]) -> int:
    """Say what a table has to have, to take more in, in bytes.

    That is its size, and twice that where it is about to grow: a full one is copied into one twice
    as large before it is let go, which can be a fifth of all that is in memory.
    """
    size = sys.getsizeof(table)
    return 3 * size if len(table) * _ROOMY_ENTRY > size else size


def shrink(table: Table[Any]) -> None:
    """Give back the memory of a table that once held much more than it does now."""
    if sys.getsizeof(table) > _SPARSE_ENTRY * (len(table) + 1000):
        # A table shrinks only when it is built anew.
        kept = dict(table)
        table.clear()
        table.update(kept)


def holds_any(table: Table[V], cids: Iterable[bytes]) -> bool:
    """Say whether any of these CIDs is in a table."""
    return not table.keys().isdisjoint(cids)


def finder(table: Table[V]) -> Callable[[Sequence[bytes]], Iterable[V]]:
    """Give what looks many CIDs up at once, and raises `KeyError` where one is not there."""
    return partial(map, table.__getitem__)


def expect(table: Table[V], cids: Sequence[bytes]) -> None:
    """Say that these CIDs will be looked up next, or put in. A `dict` makes nothing of it."""


def expect_all_of(frames: list[Frame], raw: Table[bytes], processed: Table[V]) -> None:
    """Say that all that these frames name will be looked up next. A `dict` makes nothing of it.

    Args:
        frames: what was found in a node.
        raw: where their nodes are.
        processed: where their records are.
    """
