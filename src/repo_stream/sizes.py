"""How much memory values take."""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Iterable
from typing import Any, Final, cast

from repo_stream.ipld.spilled_values import SCALARS, library_scalars

__all__ = [
    "BLOCK_OVERHEAD",
    "CID_COST",
    "INT_COST",
    "LARGE_INT",
    "excess_of_cid",
    "growth_of_dict",
    "is_sparse",
    "size_of",
]


# A key of a `dict` with so many references is a name in a program, which all results share.
_SHARED: Final = 20

# CPython has one object for each of these, from the start.
_LOWEST_CACHED_INT: Final = -5
_HIGHEST_CACHED_INT: Final = 256
#: An `int` less than this (and more than its negative) has at most two digits of 30 bits, which fit
#: into the smallest allocation.
LARGE_INT: Final = 1 << 60
#: What such an `int` costs in memory, in bytes, from 257 on.
INT_COST: Final = 32

# The header of a `bytes` object.
_BYTES_HEADER: Final = 33
#: What a block costs in memory beyond its bytes: that header, and half of the rounding up to 16 on
#: average.
BLOCK_OVERHEAD: Final = _BYTES_HEADER + 7.5
#: What an ordinary CID costs as a key of a `dict`, in bytes: 36 and its header, rounded up as the
#: allocator does.
CID_COST: Final = 80

# A `dict` of a million items takes 30 bytes for each when it is full, a smaller one 27. If it has
# less than this for each, it is about to grow.
_ROOMY_ITEM: Final = 32
# If it has more than this for each, it has grown for four times as many.
_SPARSE_ITEM: Final = 120


def excess_of_cid(cid: bytes) -> int:
    """Return how much more than `CID_COST` a CID costs, in bytes: nothing, unless it is long."""
    return max(_allocated(_BYTES_HEADER + len(cid)) - CID_COST, 0)


def growth_of_dict(table: dict[Any, Any]) -> int:
    """Return how much more memory a `dict` may need for a while to take more in, in bytes.

    That is twice its size if it is about to grow: a full one is copied into one twice as large
    before its memory is freed.
    """
    size = sys.getsizeof(table)
    return 2 * size if len(table) * _ROOMY_ITEM > size else 0


def is_sparse(table: dict[Any, Any]) -> bool:
    """Return whether a `dict` once held much more than it does now, and still has the memory."""
    return sys.getsizeof(table) > _SPARSE_ITEM * (len(table) + 1000)


def size_of(value: object) -> int:
    """Estimate how much memory a value takes, in bytes, with all that it refers to.

    What many values share costs nothing: `None`, a `bool`, an `int` up to 256, and the keys of a
    `dict` that many others have as well. What a value refers to twice is counted once.
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
        # A scalar refers to nothing; and to look for the `__dict__` of a Cid would create it.
        if type(item) not in SCALARS:
            waiting.extend(_parts_of(item))
    return total


def _parts_of(item: Any) -> Iterable[object]:  # noqa: ANN401 - of any type that a result may have
    """Return what an object refers to and is counted with it."""
    kind = cast("type[object]", type(item))
    if issubclass(kind, dict):
        own_keys = [key for key in item if sys.getrefcount(key) < _SHARED]
        return [*own_keys, *item.values()]
    if issubclass(kind, (list, tuple, set, frozenset)):
        return cast("Iterable[object]", item)
    if kind in library_scalars():
        return [getattr(item, "int", None)]  # which a UUID has
    if dataclasses.is_dataclass(item):
        return [getattr(item, field.name) for field in dataclasses.fields(item)]
    if hasattr(item, "__dict__"):
        return [cast("dict[str, object]", vars(item))]
    return []


def _size_of_int(value: int) -> int:
    if _LOWEST_CACHED_INT <= value <= _HIGHEST_CACHED_INT:
        return 0
    return INT_COST if -LARGE_INT < value < LARGE_INT else _allocated(sys.getsizeof(value))


def _allocated(size: int) -> int:
    """Round a size up as the allocators do: to 16 bytes; above 512, malloc adds 8 before that."""
    return size + 15 & ~15 if size <= 512 else size + 23 & ~15
