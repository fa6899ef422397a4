"""What values cost in memory."""

from __future__ import annotations

import dataclasses
import sys
from typing import Any, Final, cast

from repo_stream.ipld.spilled_values import SCALARS, library_scalars

__all__ = [
    "BLOCK_OVERHEAD",
    "CID_COST",
    "INT_COST",
    "LARGE_INT",
    "growth_of_dict",
    "is_sparse",
    "size_of",
]


# A key with so many references is a name in some program, which all results have in common.
_SHARED: Final = 20


#: Below this an `int` has no more than two digits of 30 bits, which fit into the smallest
#: allocation.
LARGE_INT: Final = 1 << 60
#: What such an `int` costs in memory, in bytes, from 257 on.
INT_COST: Final = 32

#: What a block costs in memory beyond its bytes: the header of a `bytes` object, and half of the
#: rounding up to 16 on average.
BLOCK_OVERHEAD: Final = 33 + 7.5
#: What an ordinary CID costs as a key of a `dict`, in bytes: 36 and its header, rounded up as the
#: allocator does.
CID_COST: Final = 80

# A `dict` of a million entries takes 30 bytes for each when it is full, a smaller one 27. One with
# less than this to each of its entries is about to grow.
_ROOMY_ENTRY: Final = 32
# One with more than this to each has grown for four times as many.
_SPARSE_ENTRY: Final = 120


def growth_of_dict(table: dict[Any, Any]) -> int:
    """Return how much more memory a `dict` may need for a while to take more in, in bytes.

    That is twice its size if it is about to grow: a full one is copied into one twice as large
    before its memory is given back.
    """
    size = sys.getsizeof(table)
    return 2 * size if len(table) * _ROOMY_ENTRY > size else 0


def is_sparse(table: dict[Any, Any]) -> bool:
    """Return whether a `dict` once held much more than it does now, and still has the memory."""
    return sys.getsizeof(table) > _SPARSE_ENTRY * (len(table) + 1000)


def size_of(value: object) -> int:
    """Estimate what a value costs in memory, in bytes, everything in it included.

    A `bool`, `None` and an `int` below 257 cost nothing: there is one of each in the process. So do
    the keys of a `dict` that many others have as well.
    """
    kind = type(value)
    if kind is int:
        return _size_of_int(cast("int", value))
    if kind is bytes or kind is str:
        return _allocated(sys.getsizeof(value))
    total = 0
    waiting: list[Any] = [value]
    seen: set[int] = set()
    while waiting:
        item: Any = waiting.pop()
        if item is None or item is True or item is False or id(item) in seen:
            continue
        if type(item) is int:
            total += _size_of_int(item)
            continue
        seen.add(id(item))
        total += _allocated(sys.getsizeof(item))
        if issubclass(type(item), dict):
            waiting.extend([key for key in item if sys.getrefcount(key) < _SHARED])
            waiting.extend(item.values())
        elif issubclass(type(item), (list, tuple, set, frozenset)):
            waiting.extend(item)
        elif type(item) in SCALARS:
            pass  # asking a Cid for its __dict__ would make it one
        elif type(item) in library_scalars():
            waiting.append(getattr(item, "int", None))  # what a UUID holds
        elif dataclasses.is_dataclass(item):
            waiting.extend(getattr(item, field.name) for field in dataclasses.fields(item))
        elif hasattr(item, "__dict__"):
            waiting.append(vars(item))
    return total


def _size_of_int(value: int) -> int:
    if -6 < value < 257:
        return 0
    return INT_COST if -LARGE_INT < value < LARGE_INT else _allocated(sys.getsizeof(value))


def _allocated(size: int) -> int:
    """Round up as the allocators do: to 16 bytes, and malloc's 8 more over 512."""
    return size + 15 & ~15 if size <= 512 else size + 23 & ~15
