"""How many blocks of a CAR come before the walk needs them, exact to the block.

Who reads block by block keeps each one that is not the next in the walk. A file comes in pieces,
though, and what of a piece is early shows only as the walk goes on: of the blocks that it uses in
turn, each that came later than all before it had to be waited for, and until then all that had come
and was not used was early.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple

from repo_stream.mst.blocks import Arrivals

__all__ = ["BlockOrder", "PieceKept", "in_walk_order", "left_of"]


class BlockOrder(NamedTuple):
    """In which order the blocks of a CAR have come so far.

    Attributes:
        streamable: whether each came when the walk needed it: the order in which a repo can be read
            in little memory, whatever its size.
        early: how many blocks are kept at present, as they came early or are of no use.
        most_early: how many had to be kept at most by whoever reads block by block; of a repo that
            goes to disk it is what had to be kept before, so that it may be more.
    """

    streamable: bool
    early: int
    most_early: int


class PieceKept:
    """The piece that was kept last: how many blocks are early when one of it is needed.

    Args:
        arrivals: the piece.
        fresh: what came with it, in order, and was not kept before; none where it does not matter.
        early: how many blocks were kept before.
    """

    def __init__(self, arrivals: Arrivals, fresh: Sequence[bytes], early: int) -> None:
        self.arrivals = arrivals
        self._places = dict(zip(fresh, range(len(fresh)), strict=True))
        self._early = early
        self._used = 0
        self._furthest = -1

    def need(self, cid: bytes | None) -> int:
        """Say how many blocks are early when this one comes; without one, when all have come."""
        return self._early + self._places.get(cid or b"", len(self._places)) - self._used

    def most_needed(self, cids: Sequence[bytes], used: set[bytes]) -> int:
        """Say how many blocks were early at most as these were used; `used` were so before."""
        if not self._places:
            return 0
        most = 0
        places = self._places
        for cid in dict.fromkeys(cids):
            if cid in used:
                continue
            place = places.get(cid, -1)
            if place > self._furthest:
                self._furthest = place
                most = max(most, self._early + place - self._used)
            self._used += 1
        return most


def in_walk_order(cids: Sequence[bytes], opened: Sequence[tuple[bytes, int]]) -> Sequence[bytes]:
    """Put nodes among the records before which they were opened."""
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
    """Leave out, of these, `some`, which come in the same order."""
    left: list[bytes] = []
    at = 0
    for cid in cids:
        if at < len(some) and some[at] == cid:
            at += 1
        else:
            left.append(cid)
    return left
