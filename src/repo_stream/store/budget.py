"""How a memory limit is shared out, and so how full memory gets before blocks go to disk."""

from __future__ import annotations

import sys
from functools import lru_cache
from typing import NamedTuple

from repo_stream.car.reader import PIECE_SIZE
from repo_stream.limits import MIB
from repo_stream.store.repo_log import WRITE_BYTES

__all__ = ["Budget"]


class Budget(NamedTuple):
    """The shares of a memory limit, in bytes.

    Attributes:
        piece: how much is read from the source at a time.
        cache: the size of SQLite's page cache.
        released: what released blocks may cost before they go to disk: those that a walk has used.
        places: what the places of blocks may cost before they go to disk.
        write: how much is written to the log at a time.
        store: what the blocks in memory may cost before they go to disk. When that is reached,
            there are three copies of a piece (as it was read, joined to what was left over, and cut
            into blocks), and memory is about to be needed for the cache and for two writes (the
            blocks, and their bytes joined). All of them have to fit within the limit.
    """

    piece: int
    cache: int
    released: int
    places: int
    write: int
    store: int

    @classmethod
    @lru_cache(maxsize=8)  # a program that reads many small repos has one limit for all of them
    def of(cls, mem_limit_mb: float) -> Budget:
        """Share out a limit given in MiB."""
        limit = int(min(mem_limit_mb * MIB, sys.maxsize))
        piece = min(max(limit // 64, MIB // 16), PIECE_SIZE)
        cache = min(max(limit // 16, MIB // 4), 2 * MIB)
        released = min(max(limit // 16, MIB // 16), MIB // 2)
        write = min(max(limit // 32, MIB // 4), WRITE_BYTES)
        store = max(limit - 3 * piece - cache - 2 * write, limit // 2)
        # The memory that the store returns is fragmented: with half of it for places, a million
        # records took 19 MiB at a limit of 16. An empty index takes 1 MiB.
        places = max(store * 2 // 5, MIB * 5 // 4)
        return cls(piece, cache, released, places, write, store)
