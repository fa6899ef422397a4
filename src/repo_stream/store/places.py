"""The places of many blocks at a time: added as the blocks go to a log, and looked up by CID.

See `buckets` for what a place is. Of blocks that come together only the last one with a CID gets a
place, and if it comes again later, it keeps few of them, as a block that comes a million times
would fill its bucket. A dictionary would take ten times the memory.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from typing import Final

from repo_stream._compiled import COMPILED
from repo_stream.store.buckets import (
    BUCKETS,
    COPIES,
    HASH,
    PLACE,
    RECENT,
    START,
    START_BITS,
    WIDTH,
    Buckets,
)

__all__ = ["Places", "add_places", "locate"]

_HASH_AT: Final = START_BITS // 8
_HASH_BYTES: Final = WIDTH - _HASH_AT
_IN_BUCKET: Final = BUCKETS - 1


def add_places(
    buckets: list[bytearray], cids: Sequence[bytes], blocks: Sequence[bytes], at: int
) -> tuple[int, int]:
    """Add the places of blocks that follow each other in a log.

    Of blocks with the same CID only the last gets one. If one comes again and again, only the
    latest places are kept; see `buckets.COPIES`.

    Args:
        buckets: all of them.
        cids: the blocks' CIDs.
        blocks: their bytes.
        at: where the section of the first one starts, in bytes.

    Returns:
        Where the last section ends, in bytes, and how many more places there are.
    """
    starts: dict[bytes, int] = {}
    for cid, data in zip(cids, blocks, strict=True):
        starts[cid] = at
        length = len(cid) + len(data)
        # As `section_size`, without a call for each.
        at += 1 if length < 0x80 else 2 if length < 0x4000 else (length.bit_length() + 6) // 7
        at += length
    pack = PLACE.pack
    dropped = 0
    for cid, start in starts.items():
        hashed = hash(cid)
        bucket = buckets[hashed & _IN_BUCKET]
        if not len(bucket) % RECENT and bucket:
            dropped += _drop_copies(bucket)
        bucket.extend(pack(hashed & HASH | start))
    return at, len(starts) - dropped


def _drop_copies(bucket: bytearray) -> int:
    """Drop what is more than `COPIES` among the latest places of a bucket; return how many."""
    places = [place for (place,) in PLACE.iter_unpack(bucket[-RECENT:])]
    hashes = [place & HASH for place in places]
    if len({*hashes}) == len(hashes):
        return 0
    kept = [place for n, place in enumerate(places) if hashes[n:].count(hashes[n]) <= COPIES]
    bucket[-RECENT:] = b"".join(map(PLACE.pack, kept))
    return len(places) - len(kept)


def locate(buckets: Buckets, cids: Sequence[bytes]) -> list[int]:
    """Return where the sections of blocks start, in bytes; -1 for those without a place.

    If a block came twice, it is the latest. A block that is not in the log may get the place of
    another one, whose hash agrees with its own in the bits that are kept.

    Args:
        buckets: all of those that the blocks' places can be in.
        cids: their CIDs.
    """
    place_at = PLACE.unpack_from
    starts: list[int] = []
    for cid in cids:
        hashed = hash(cid)
        bucket = buckets[hashed & _IN_BUCKET]
        sought = ((hashed & HASH) >> START_BITS).to_bytes(_HASH_BYTES, "little")
        at = bucket.rfind(sought)
        while at >= 0 and at % WIDTH != _HASH_AT:  # across two places, by accident
            at = bucket.rfind(sought, 0, at + _HASH_BYTES - 1)
        if at < 0:
            starts.append(-1)
        else:
            place: int = place_at(bucket, at - _HASH_AT)[0]
            starts.append(place & START)
    return starts


# A bucket has an eighth to spare on average, as it grows.
_PLACE_COST: Final = WIDTH * 9 // 8
_EMPTY_COST: Final = BUCKETS * (sys.getsizeof(bytearray()) + 8)


class Places:
    """The places of blocks, in memory; `take` moves them elsewhere if they get too many."""

    def __init__(self) -> None:
        self._buckets = [bytearray() for _ in range(BUCKETS)]
        self._count = 0

    @property
    def buckets(self) -> Buckets:
        """The buckets, for `locate`."""
        return self._buckets

    @property
    def size(self) -> int:
        """What they cost in memory, in bytes."""
        return _EMPTY_COST + _PLACE_COST * self._count

    @property
    def place_bytes(self) -> int:
        """How many bytes of places there are."""
        return WIDTH * self._count

    def add(self, cids: Sequence[bytes], blocks: Sequence[bytes], at: int) -> int:
        """Add the places of blocks that follow each other in the log.

        Args:
            cids: their CIDs.
            blocks: their bytes.
            at: where the section of the first one starts, in bytes.

        Returns:
            Where the last section ends, in bytes.
        """
        at, added = add_places(self._buckets, cids, blocks, at)
        self._count += added
        return at

    def take(self) -> Iterator[tuple[int, bytearray]]:
        """Take the places out, bucket by bucket, each with its number."""
        self._count = 0
        for number, bucket in enumerate(self._buckets):
            if bucket:
                yield number, bucket
                self._buckets[number] = bytearray()


if COMPILED:
    from repo_stream.store._places import add_places, locate
