"""What a log gives of the blocks it is asked for."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import chain
from typing import NamedTuple

__all__ = ["Fetched"]


class Fetched(NamedTuple):
    """The blocks of an answer, by their CIDs.

    Attributes:
        raw: blocks as they came.
        processed: results, as the processor has dumped them.
        far: blocks that are there and too large for one answer; they come when they are nearer.
    """

    raw: dict[bytes, bytes]
    processed: dict[bytes, bytes]
    far: list[bytes]

    @property
    def all(self) -> Iterator[bytes]:
        """The CIDs of all that is there."""
        return chain(self.raw, self.processed, self.far)

    @property
    def sizes(self) -> Iterator[int]:
        """How many bytes each block has that came."""
        return map(len, chain(self.raw.values(), self.processed.values()))
