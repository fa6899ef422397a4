"""Where in a log blocks are, so that they can be read again there.

What is kept of a block is an *entry* of eight bytes: see `entries`. They are in 16,384 *buckets*,
so that to find a block is to search one string, of 190 bytes for a repo of 300,000 records. If two
blocks agree in all bits of the hash that are kept, the log says which is meant.

The hash is Python's own of `bytes`, which has a random key in each process, unless
`PYTHONHASHSEED` fixes it: nobody can make CIDs that all go into one bucket. A block that comes a
million times would, so of those that come together only the last has an entry. A dictionary would
take ten times the memory.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from struct import Struct
from typing import Final

from repo_stream.entries import BUCKETS, HASH, START, WIDTH, Buckets, note

__all__ = ["Places", "are_alike", "bucket_of", "candidates", "has_room_for"]

_ENTRY: Final = Struct("<Q")

# A bucket has an eighth to spare on average, as it grows.
_ENTRY_COST: Final = WIDTH * 9 // 8
_EMPTY_COST: Final = BUCKETS * (sys.getsizeof(bytearray()) + 8)


class Places:
    """The places of blocks, in memory; `take` gives them away where they get too many."""

    def __init__(self) -> None:
        self._buckets = [bytearray() for _ in range(BUCKETS)]
        self._entries = 0

    @property
    def buckets(self) -> Buckets:
        """What there is, for `locate`."""
        return self._buckets

    @property
    def size(self) -> int:
        """What it costs in memory, in bytes."""
        return _EMPTY_COST + _ENTRY_COST * self._entries

    @property
    def entry_bytes(self) -> int:
        """How many bytes its entries are."""
        return WIDTH * self._entries

    def add(self, cids: Sequence[bytes], blocks: Sequence[bytes], at: int) -> int:
        """Note where blocks are that follow each other in the file.

        Args:
            cids: their CIDs.
            blocks: their bytes.
            at: where the section of the first one starts.

        Returns:
            Where the last section ends.
        """
        at, entries = note(self._buckets, cids, blocks, at)
        self._entries += entries
        return at

    def take(self) -> Iterator[tuple[int, bytearray]]:
        """Give what there is away, bucket by bucket, each with its number."""
        self._entries = 0
        for number, bucket in enumerate(self._buckets):
            if bucket:
                yield number, bucket
                self._buckets[number] = bytearray()


def has_room_for(file_size: int) -> bool:
    """Say whether an entry can tell where sections start, in a file of so many bytes."""
    return file_size <= START


def bucket_of(cid: bytes) -> int:
    """Give the number of the bucket that a block's entry is in."""
    return hash(cid) % BUCKETS


def are_alike(one: bytes, other: bytes) -> bool:
    """Return whether two CIDs agree in all bits of the hash that are kept of them."""
    return not (hash(one) ^ hash(other)) & (HASH | (BUCKETS - 1))


def candidates(buckets: Buckets, cid: bytes) -> Iterator[int]:
    """Give all the places where a block may be, the latest first."""
    sought = hash(cid) & HASH
    for (entry,) in reversed([*_ENTRY.iter_unpack(buckets[bucket_of(cid)])]):
        if entry & HASH == sought:
            yield entry & START
