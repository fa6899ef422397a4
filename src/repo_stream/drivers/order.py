"""How far a CAR is from streamable order: how many blocks come before the walk needs them.

The count is exact to the block, as if the file were read block by block, and each one that is not
the next in the walk were kept. But a file is read in pieces, and which blocks of a piece are early
only shows as the walk goes on. Of the blocks of a piece, in the order in which the walk uses them,
each one that came later than all that were used before it had to be waited for; and while it was
waited for, all blocks that had come and were not used were early.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple

from repo_stream.mst.blocks import Arrivals

__all__ = ["BlockOrder", "OrderMeter", "PieceKept", "in_walk_order", "left_of"]


class BlockOrder(NamedTuple):
    """In which order the blocks of a CAR have come so far.

    Attributes:
        streamable: whether each block came when the walk needed it. A repo in this order can be
            read in little memory, whatever its size.
        early: how many blocks are kept at present, because they came early or are not needed.
        most_early: how many blocks had to be kept at most, if the file is read block by block. If
            the repo goes to disk, only the time before that is counted.
    """

    streamable: bool
    early: int
    most_early: int


class OrderMeter:
    """Measures in which order the blocks of a CAR come.

    Attributes:
        in_order: whether every block so far came when the walk needed it.
        most_early: how many blocks had to be kept at most.
    """

    def __init__(self) -> None:
        self.in_order: bool = True
        self.most_early: int = 0
        self._piece = PieceKept(Arrivals(), (), 0)

    def had_to_keep(self, blocks: int) -> None:
        """Note that so many blocks were early at some moment."""
        self.most_early = max(self.most_early, blocks)

    def has_seen(self, arrivals: Arrivals) -> bool:
        """Return whether `keep` has been called for a piece."""
        return self._piece.arrivals is arrivals

    def keep(
        self, arrivals: Arrivals, new: Sequence[bytes] | None, early: int, needed: bytes | None
    ) -> None:
        """Note that a piece is about to be kept.

        Args:
            arrivals: the piece.
            new: the CIDs of its blocks that were not kept before, in the order in which they came;
                `None` if they cannot make `most_early` greater.
            early: how many blocks were kept before.
            needed: the CID that the walk needs; `None` if it needs all of them.
        """
        self._piece = PieceKept(arrivals, new or (), early)
        if new is not None:
            self.had_to_keep(self._piece.need(needed))

    def use(self, arrivals: Arrivals, cids: Sequence[bytes], before: set[bytes]) -> None:
        """Note that the walk has used kept blocks.

        Args:
            arrivals: the piece that was read last.
            cids: the blocks, in the order in which they were used.
            before: the blocks that were used before.
        """
        if self._piece.arrivals is arrivals:
            self.had_to_keep(self._piece.most_needed(cids, before))


class PieceKept:
    """The piece that was kept last: how many blocks are early when one of its blocks is needed.

    Args:
        arrivals: the piece.
        new: its blocks that were not kept before, in order; none if they are not to be counted.
        early: how many blocks were kept before.
    """

    def __init__(self, arrivals: Arrivals, new: Sequence[bytes], early: int) -> None:
        self.arrivals = arrivals
        self._numbers = dict(zip(new, range(len(new)), strict=True))
        self._early = early
        self._used = 0
        self._furthest = -1

    def need(self, cid: bytes | None) -> int:
        """Return how many blocks are early when this one comes; if `None`, when all have come."""
        return self._early + self._numbers.get(cid or b"", len(self._numbers)) - self._used

    def most_needed(self, cids: Sequence[bytes], used: set[bytes]) -> int:
        """Return how many blocks were early at most while these were used.

        Args:
            cids: the blocks, in the order in which they were used.
            used: the blocks that were used before; they are not counted again.
        """
        if not self._numbers:
            return 0
        most = 0
        numbers = self._numbers
        for cid in dict.fromkeys(cids):
            if cid in used:
                continue
            number = numbers.get(cid, -1)
            if number > self._furthest:
                self._furthest = number
                most = max(most, self._early + number - self._used)
            self._used += 1
        return most


def in_walk_order(cids: Sequence[bytes], opened: Sequence[tuple[bytes, int]]) -> Sequence[bytes]:
    """Merge records with the nodes that were opened among them.

    Args:
        cids: the records.
        opened: the nodes, each with the number of records that come before it.
    """
    if not opened:
        return cids
    merged: list[bytes] = []
    at = 0
    for node, after in opened:
        merged += cids[at:after]
        merged.append(node)
        at = after
    merged += cids[at:]
    return merged


def left_of(cids: Iterable[bytes], some: Sequence[bytes]) -> list[bytes]:
    """Return `cids` without `some`, which come in the same order."""
    left: list[bytes] = []
    at = 0
    for cid in cids:
        if at < len(some) and some[at] == cid:
            at += 1
        else:
            left.append(cid)
    return left
