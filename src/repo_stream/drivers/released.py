"""Blocks that a walk has used or gone past. It needs one again if two keys name the same record."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from itertools import islice
from typing import Final

from repo_stream.car.decoder import ORDINARY_SECTION, Block

__all__ = ["Marks", "Released"]

# What a released block costs beside its bytes and its CID: their headers, and space in a `dict`.
_RELEASED_COST: Final = 104
# A section has at least one byte of length and one byte for each of the four parts of a CID, and no
# two of them start nearer to each other than this.
_LEAST_SECTION: Final = 5


class Marks:
    """A set of sections, by their offsets in the log.

    It takes a bit for every 37 bytes, which is what the shortest section of an ordinary CID has. If
    there are shorter ones, it takes a bit for every 5 bytes from there on.

    That is 3.4 MB for a GB of the file, or 25 MB. It does not count towards the memory limit, as it
    would not be freed if the repo moved to disk.
    """

    def __init__(self) -> None:
        self._bits = bytearray()
        # From which offset on sections may be shorter, and the number of the first bit for them.
        self._short_from = sys.maxsize
        self._first_short = 0

    def expect_short(self, start: int) -> None:
        """Expect sections of other CIDs, which may be shorter, from an offset on.

        No section behind that may have been added before. Only the first call counts.
        """
        if self._short_from == sys.maxsize:
            self._short_from = start
            self._first_short = start // ORDINARY_SECTION + 1

    def __contains__(self, start: int) -> bool:
        byte, bit = self._bit_of(start)
        return byte < len(self._bits) and bool(self._bits[byte] & bit)

    def add(self, start: int) -> bool:
        """Add a section; return whether it is new."""
        if start in self:
            return False
        byte, bit = self._bit_of(start)
        self._bits.extend(bytes(max(byte + 1 - len(self._bits), 0)))
        self._bits[byte] |= bit
        return True

    def discard(self, start: int) -> bool:
        """Remove a section; return whether it was in the set."""
        if start not in self:
            return False
        byte, bit = self._bit_of(start)
        self._bits[byte] &= ~bit
        return True

    def _bit_of(self, start: int) -> tuple[int, int]:
        if start < self._short_from:
            number = start // ORDINARY_SECTION
        else:
            number = self._first_short + (start - self._short_from) // _LEAST_SECTION
        return number >> 3, 1 << (number & 7)


class Released:
    """Released blocks that are still in memory, oldest first."""

    def __init__(self) -> None:
        self.blocks: dict[bytes, bytes] = {}
        #: The CIDs of those that the walk went past without using them.
        self.passed: set[bytes] = set()
        #: How much memory they take, in bytes, or a little more.
        self.size: int = 0

    def add(self, cids: Sequence[bytes], blocks: Sequence[bytes], *, used: bool) -> None:
        """Add blocks that the walk has used, or has gone past."""
        self.blocks.update(zip(cids, blocks, strict=True))
        self.size += sum(map(len, blocks)) + sum(map(len, cids)) + _RELEASED_COST * len(cids)
        if used and self.passed:
            self.passed.difference_update(cids)
        elif not used:
            self.passed.update(cids)

    def oldest(self, n: int) -> list[Block]:
        """Return the oldest `n` blocks."""
        return [(cid, self.blocks[cid]) for cid in islice(self.blocks, n)]

    def take(self, n: int) -> tuple[list[Block], set[bytes]]:
        """Remove and return the oldest `n` blocks, and which of them were not used."""
        some = self.oldest(n)
        cids = [cid for cid, _ in some]
        passed = self.passed.intersection(cids)
        self.passed.difference_update(cids)
        for cid, data in some:
            del self.blocks[cid]
            self.size -= len(data) + len(cid) + _RELEASED_COST
        if not self.blocks:
            self.clear()
        return some, passed

    def clear(self) -> None:
        """Remove all blocks."""
        self.blocks, self.passed, self.size = {}, set(), 0  # an emptied dict or set stays large
