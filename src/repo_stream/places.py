"""Where the blocks of a file are, so that they can be read again where they lie.

A repo that does not fit in memory need not be copied where it comes from a file. What is kept of a
block is an *entry*, eight bytes: where its section starts in the file, and 24 bits of its CID's
hash. Entries are in 16,384 *buckets* by other bits of that hash, so that to find a block is to
search one string, of 190 bytes for a repo of 300,000 records. Where two blocks agree in all those
bits, the file says which is meant.

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
    "Buckets",
    "Places",
    "bucket_of",
    "candidates",
    "has_room_for",
    "locate",
    "without_copies",
]

# An entry: in its low bits the start, in the others those of the hash.
_ENTRY: Final = Struct("<Q")
_WIDTH: Final = _ENTRY.size
_START_BITS: Final = 40
_START: Final = (1 << _START_BITS) - 1
_HASH_BYTES: Final = 3
_HASH: Final = 0xFFFFFF << _START_BITS
_HASH_AT: Final = _WIDTH - _HASH_BYTES

#: How many buckets there are: by other bits of the hash.
BUCKETS: Final = 1 << 14
_IN_BUCKET: Final = BUCKETS - 1
# A bucket has an eighth to spare on average, as it grows.
_ENTRY_COST: Final = _WIDTH * 9 // 8
_EMPTY_COST: Final = BUCKETS * (sys.getsizeof(bytearray()) + 8)

# A bucket is long from so many bytes on, far more than it has for ten million blocks.
_LONG: Final = 16 * 1024
_COPIES: Final = 8

#: Buckets by their numbers.
Buckets = Sequence[bytes | bytearray] | Mapping[int, bytes]


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
        return _WIDTH * self._entries

    def add(self, cids: Sequence[bytes], blocks: Sequence[bytes], at: int) -> int:
        """Note where blocks are that follow each other in the file.

        Args:
            cids: their CIDs.
            blocks: their bytes.
            at: where the section of the first one starts.

        Returns:
            Where the last section ends.
        """
        starts: dict[bytes, int] = {}
        for cid, data in zip(cids, blocks, strict=True):
            starts[cid] = at
            length = len(cid) + len(data)
            at += 1 if length < 0x80 else 2 if length < 0x4000 else (length.bit_length() + 6) // 7
            at += length
        buckets, entry = self._buckets, _ENTRY.pack
        for cid, start in starts.items():
            hashed = hash(cid)
            buckets[hashed & _IN_BUCKET] += entry(hashed & _HASH | start)
        self._entries += len(starts)
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
    return file_size <= _START


def without_copies(entries: bytes) -> bytes:
    """Leave out of a long bucket all but the last entries of what came again and again.

    More than a few that agree in the bits of the hash are of one block.
    """
    if len(entries) <= _LONG:
        return entries
    kept: list[bytes] = []
    seen: dict[int, int] = {}
    for at in range(len(entries) - _WIDTH, -1, -_WIDTH):
        hashed = _ENTRY.unpack_from(entries, at)[0] & _HASH
        seen[hashed] = seen.get(hashed, 0) + 1
        if seen[hashed] <= _COPIES:
            kept.append(entries[at : at + _WIDTH])
    return b"".join(reversed(kept))


def bucket_of(cid: bytes) -> int:
    """Give the number of the bucket that a block's entry is in."""
    return hash(cid) & _IN_BUCKET


def locate(buckets: Buckets, cids: Sequence[bytes]) -> list[int]:
    """Say where the sections of blocks start, in bytes; -1 for those that are nowhere.

    Of blocks that came twice it is the latest, as for `Places.add`. A block that is nowhere may as
    well be said to be where another is.

    Args:
        buckets: all of those that the blocks' entries can be in.
        cids: their CIDs.
    """
    entry_at = _ENTRY.unpack_from
    starts: list[int] = []
    for cid in cids:
        hashed = hash(cid)
        bucket = buckets[hashed & _IN_BUCKET]
        sought = ((hashed & _HASH) >> _START_BITS).to_bytes(_HASH_BYTES, "little")
        at = bucket.rfind(sought)
        while at >= 0 and at % _WIDTH != _HASH_AT:  # across others, by accident
            at = bucket.rfind(sought, 0, at + _HASH_BYTES - 1)
        if at < 0:
            starts.append(-1)
        else:
            entry: int = entry_at(bucket, at - _HASH_AT)[0]
            starts.append(entry & _START)
    return starts


def candidates(buckets: Buckets, cid: bytes) -> Iterator[int]:
    """Give all the places where a block may be, the latest first."""
    sought = hash(cid) & _HASH
    for (entry,) in reversed([*_ENTRY.iter_unpack(buckets[bucket_of(cid)])]):
        if entry & _HASH == sought:
            yield entry & _START
