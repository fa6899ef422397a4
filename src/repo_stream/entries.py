"""Entries of eight bytes, which say where blocks are in a file: written to buckets, and found.

An entry is a number, little-endian: in its low 40 bits where the block's section starts, in the
others 24 bits of its CID's hash. Other bits of that say which bucket it is in.

The compiled wheel has this module in another form (`src/compile/entries.pyx`), which takes a third
of the time. One test holds both forms against the file itself.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from struct import Struct
from typing import Final

__all__ = ["BUCKETS", "HASH", "START", "WIDTH", "Buckets", "locate", "note"]

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
