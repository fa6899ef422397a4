"""The piece of a CAR that was read last, and where its blocks are in the log."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate

from repo_stream.car.decoder import Block
from repo_stream.car.encoder import section_size
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
        #: Where in the log the piece starts, in bytes.
        self.start: int = 0
        self._end = end
        self._starts: list[int] | None = None
        # How many blocks come before the commit, and the size of its section.
        self._before_commit = 0
        self._commit_size = 0

    def replace(self, arrivals: Arrivals, end: int) -> None:
        """Go on to the next piece, which ends at an offset in the log."""
        self.drop()
        self.arrivals = arrivals
        self.start, self._end = self._end, end

    def drop(self) -> None:
        """Forget the blocks."""
        self.arrivals = Arrivals()
        self._starts = None
        self._before_commit = self._commit_size = 0

    def had_commit(self, before: int, size: int) -> None:
        """Note that the commit was in this piece.

        Args:
            before: how many blocks come before it.
            size: the size of its section, in bytes.
        """
        self._before_commit, self._commit_size = before, size

    def starts(self) -> list[int]:
        """Return the offset in the log of each block."""
        if self._starts is None:
            arrivals = self.arrivals
            blocks = [*zip(arrivals.cids, arrivals.data, strict=True)]
            self._starts = starts_of(blocks, self.start)
            if self._commit_size:
                before = self._before_commit
                behind = [start + self._commit_size for start in self._starts[before:]]
                self._starts[before:] = behind
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
