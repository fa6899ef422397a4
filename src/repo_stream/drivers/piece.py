"""The piece of a CAR that was read last, and where its blocks are in the log."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate

from repo_stream.car.decoder import Block
from repo_stream.car.encoder import section_size
from repo_stream.drivers.loading import LeftOut
from repo_stream.mst.blocks import Arrivals

__all__ = ["Piece", "starts_of"]


class Piece:
    """The blocks that were read last.

    Args:
        end: the offset in the log of the first block to come, in bytes.
    """

    def __init__(self, end: int) -> None:
        #: Its blocks, without the commit, and how many of them the walk has gone past.
        self.arrivals: Arrivals = Arrivals()
        #: How many of them have been kept or released.
        self.noted: int = 0
        #: Where in the log the piece starts, in bytes.
        self.start: int = 0
        self._end = end
        self._starts: list[int] | None = None
        self._left_out: Sequence[LeftOut] = ()

    def replace(self, arrivals: Arrivals, end: int, left_out: Sequence[LeftOut]) -> None:
        """Go on to the next piece.

        Args:
            arrivals: its blocks.
            end: the offset in the log at which it ends, in bytes.
            left_out: the sections among them that are not in `arrivals`.
        """
        self.drop()
        self.arrivals, self._left_out = arrivals, left_out
        self.start, self._end = self._end, end

    def drop(self) -> None:
        """Forget the blocks."""
        self.arrivals = Arrivals()
        self.noted = 0
        self._starts = None
        self._left_out = ()

    def starts(self) -> list[int]:
        """Return the offset in the log of each block."""
        if self._starts is None:
            arrivals = self.arrivals
            blocks = [*zip(arrivals.cids, arrivals.data, strict=True)]
            self._starts = starts_of(blocks, self.start)
            if self._left_out:
                sizes = [0] * (len(blocks) + 1)
                for before, size in self._left_out:
                    sizes[before] += size
                moved = zip(self._starts, accumulate(sizes[:-1]), strict=True)
                self._starts = [start + size for start, size in moved]
        return self._starts

    def rest(self) -> list[Block]:
        """Return the blocks that the walk has not gone past."""
        return [*zip(*self.arrivals.some(len(self.arrivals.cids)), strict=True)]

    def move(self, start: int, end: int) -> None:
        """Note that what is left of it was appended to a new log, from `start` to `end`."""
        self.start, self._end = start, end
        self._starts = [0] * self.arrivals.at + starts_of(self.rest(), start)


def starts_of(blocks: Sequence[Block], at: int) -> list[int]:
    """Return the offsets of the sections of blocks, the first of them at `at`."""
    sizes = [section_size(*block) for block in blocks]
    return [*accumulate(sizes, initial=at)][:-1]
