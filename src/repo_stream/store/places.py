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
from collections.abc import Iterator, Mapping, Sequence
from struct import Struct
from typing import Final

__all__ = [
    "BUCKETS",
    "HASH",
    "START",
    "WIDTH",
    "Buckets",
    "Places",
    "are_alike",
    "bucket_of",
    "candidates",
    "has_room_for",
    "locate",
    "note",
]


_ENTRY: Final = Struct("<Q")
#: How many bytes an entry has.
WIDTH: Final = 8
_START_BITS: Final = 40
#: Which bits of an entry are the start, and which are of the hash.
START: Final = (1 << _START_BITS) - 1
HASH: Final = 0xFFFFFF << _START_BITS
_HASH_BYTES: Final = 3
_HASH_AT: Final = WIDTH - _HASH_BYTES

#: How many buckets there are: by other bits of the hash.
BUCKETS: Final = 1 << 14
_IN_BUCKET: Final = BUCKETS - 1

#: Buckets by their numbers.
Buckets = list[bytearray] | Mapping[int, bytes]


def note(
    buckets: Sequence[bytearray], cids: Sequence[bytes], blocks: Sequence[bytes], at: int
) -> tuple[int, int]:
    """Put entries into their buckets, for blocks that follow each other in a file.

    Of a block that comes more than once only the last gets one.

    Args:
        buckets: all of them.
        cids: the blocks' CIDs.
        blocks: their bytes.
        at: where the section of the first one starts.

    Returns:
        Where the last section ends, and how many entries there are more.
    """
    starts: dict[bytes, int] = {}
    for cid, data in zip(cids, blocks, strict=True):
        starts[cid] = at
        length = len(cid) + len(data)
        at += 1 if length < 0x80 else 2 if length < 0x4000 else (length.bit_length() + 6) // 7
        at += length
    entry = _ENTRY.pack
    for cid, start in starts.items():
        hashed = hash(cid)
        buckets[hashed & _IN_BUCKET].extend(entry(hashed & HASH | start))
    return at, len(starts)


def locate(buckets: Buckets, cids: Sequence[bytes]) -> list[int]:
    """Say where the sections of blocks start, in bytes; -1 for those that are nowhere.

    Of blocks that came twice it is the latest. A block that is nowhere may as well be said to be
    where another is.

    Args:
        buckets: all of those that the blocks' entries can be in.
        cids: their CIDs.
    """
    entry_at = _ENTRY.unpack_from
    starts: list[int] = []
    for cid in cids:
        hashed = hash(cid)
        bucket = buckets[hashed & _IN_BUCKET]
        sought = ((hashed & HASH) >> _START_BITS).to_bytes(_HASH_BYTES, "little")
        at = bucket.rfind(sought)
        while at >= 0 and at % WIDTH != _HASH_AT:  # across others, by accident
            at = bucket.rfind(sought, 0, at + _HASH_BYTES - 1)
        if at < 0:
            starts.append(-1)
        else:
            entry: int = entry_at(bucket, at - _HASH_AT)[0]
            starts.append(entry & START)
    return starts


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
