"""How a memory limit is shared out."""

from __future__ import annotations

import sys
from functools import lru_cache
from typing import NamedTuple

from repo_stream.car.reader import PIECE_SIZE
from repo_stream.limits import MIB
from repo_stream.store.repo_log import WRITE_BYTES

__all__ = ["Budget"]


class Budget(NamedTuple):
    """How a memory limit is shared out, in bytes.

    Attributes:
        piece: what is read from the source at a time.
        cache: what SQLite may keep in memory.
        released: what blocks may cost that a walk has let go of, before they go to disk.
        places: what the places of blocks in a file may cost, before they go to disk.
        write: what is written to the log at a time.
        store: what the blocks in memory may cost. At the moment when that is reached, a piece is at
            hand three times (as it was read, joined to what was left, and cut into blocks), and a
            cache and a write are about to be needed, and what is written next to it; the limit has
            to hold for all of them.
    """

    piece: int
    cache: int
    released: int
    places: int
    write: int
    store: int

    @classmethod
    @lru_cache(maxsize=8)  # whoever reads many small repos has them all within one limit
    def of(cls, mem_limit_mb: float) -> Budget:
        """Share out a limit given in MiB."""
        limit = int(min(mem_limit_mb * MIB, sys.maxsize))
        piece = min(max(limit // 64, MIB // 16), PIECE_SIZE)
        cache = min(max(limit // 16, MIB // 4), 2 * MIB)
        released = min(max(limit // 16, MIB // 16), MIB // 2)
        write = min(max(limit // 32, MIB // 4), WRITE_BYTES)
        store = max(limit - 3 * piece - cache - 2 * write, limit // 2)
        # What the store leaves behind is in pieces: with half of it for places, a million records
        # grew by 19 MiB at a limit of 16. Empty, they take one.
        places = max(store * 2 // 5, MIB * 5 // 4)
        return cls(piece, cache, released, places, write, store)
