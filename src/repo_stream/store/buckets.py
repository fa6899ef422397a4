"""Places: where blocks are in a log, eight bytes for each, in buckets by a hash of the CID.

A *place* is a number of 64 bits, written with its lowest byte first:

    bits 0 to 39     where the block's section starts in the log, in bytes
    bits 40 to 63    the same bits of the CID's hash

Places are in 16,384 *buckets*, by bits 0 to 13 of the hash, in the order in which they came. So
looking for a block is a search in one string of bytes, of 190 for a repo of 300,000 records. If two
blocks agree in all bits of the hash that are kept, only the log can tell which one is meant.

A few hundred blocks may come again and again, and would fill their buckets. So among the latest
places of a bucket, only a few with the same bits of the hash are kept. That is enough for blocks
that agree in these bits: of ten million, hardly ever more than two do. Only one that agrees with a
block that comes again and again could lose its place: in a repo of a million blocks, of which a
hundred come so often, that has a chance of less than one in a thousand.

The hash is Python's own of `bytes`. It has a random key in each process, unless `PYTHONHASHSEED`
sets it, so nobody can choose CIDs that all go into one bucket.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from struct import Struct
from typing import Final, TypeAlias

__all__ = [
    "BUCKETS",
    "COPIES",
    "HASH",
    "PLACE",
    "RECENT",
    "START",
    "START_BITS",
    "WIDTH",
    "Buckets",
    "are_alike",
    "bucket_of",
    "candidates",
    "has_room_for",
]

#: How many bytes a place has.
WIDTH: Final = 8
#: Which bits of a place are the start of the section: so many, the lowest.
START_BITS: Final = 40
START: Final = (1 << START_BITS) - 1
#: Which bits of a place are bits of the hash.
HASH: Final = (1 << 8 * WIDTH) - 1 - START
#: How many buckets there are, a power of two.
BUCKETS: Final = 1 << 14
#: How many bytes of places are looked through once they have been added to a bucket, and how many
#: of them are kept that have the same bits of the hash. If more blocks than that take turns in each
#: bucket, they are so many that no bucket is filled more than others.
RECENT: Final = 16 * WIDTH
COPIES: Final = 4

#: Buckets by their numbers.
Buckets: TypeAlias = list[bytearray] | Mapping[int, bytes]

#: A place as bytes.
PLACE: Final = Struct("<Q")


def bucket_of(cid: bytes) -> int:
    """Return the number of the bucket that a block's place is in."""
    return hash(cid) % BUCKETS


def has_room_for(file_size: int) -> bool:
    """Return whether a place can hold every start of a section in a file of so many bytes."""
    return file_size <= START


def are_alike(one: bytes, other: bytes) -> bool:
    """Return whether two CIDs agree in all bits of the hash that are kept of them."""
    return not (hash(one) ^ hash(other)) & (HASH | (BUCKETS - 1))


def candidates(buckets: Buckets, cid: bytes) -> Iterator[int]:
    """Yield all starts of sections that may be a block's, the latest first."""
    sought = hash(cid) & HASH
    for (place,) in reversed([*PLACE.iter_unpack(buckets[bucket_of(cid)])]):
        if place & HASH == sought:
            yield place & START
