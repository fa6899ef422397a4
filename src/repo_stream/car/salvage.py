"""Going past damage in a CAR: where is the next section that is sound?

A CAR has no marks between its sections: if a length is wrong, everything after it is read wrong.
But nearly every section has an ordinary CID, which begins with four bytes that are rare elsewhere,
and a block that has the hash in its CID cannot be an accident. So after anything that is wrong, the
next such prefix is looked for that has a length before it and a block after it with the right hash.
No block is trusted otherwise.

Links inside blocks begin with these four bytes, too, but have a zero before them, which is no
length of a section.

**Hostile files.** A file may consist of prefixes that all claim a block of 2 MiB. What is hashed in
vain is counted, and if that is far more than the file has, the rest of it is given up (`Effort`).
So the time is linear. What a long part without damage would earn is not saved up: it would be spent
at once, while other tasks wait. While it searches, a decoder keeps no more than a section of the
greatest length that is allowed.
"""

from __future__ import annotations

from collections.abc import Iterator
from hashlib import sha256
from typing import Final

from repo_stream.car.damage import DamageLog
from repo_stream.errors import BadSectionCid, CarError, CidMismatch, RepoStreamError
from repo_stream.ipld.cid import ORDINARY_LENGTH, ORDINARY_PREFIX, Cid, ordinary

__all__ = ["MOST_KEPT", "Effort", "Region", "list_damaged"]


#: The most bytes of a damaged region that are kept, so that its blocks can be repaired.
MOST_KEPT: Final = 64 * 1024
#: How many bytes before a prefix are kept, for its length.
BEFORE: Final = 16

# What may be hashed in vain: so many bytes, and so many for each byte of the file as it is read.
_FREE: Final = 32 * 1024 * 1024
_EFFORT: Final = 16
# How many damaged regions are gone past; each is remembered in 16 bytes.
_MOST_REGIONS: Final = 65_536


class Effort:
    """What going past damage has cost so far.

    Attributes:
        regions: how many damaged regions there were.
    """

    def __init__(self) -> None:
        self.regions: int = 0
        self._spent = 0
        self._is_spent = False

    @property
    def is_too_much(self) -> bool:
        """Whether it is too much, so that the rest of the file is given up."""
        return self._is_spent or self.regions > _MOST_REGIONS

    def spend(self, size: int, offset: int) -> None:
        """Note that bytes were hashed in vain.

        Args:
            size: how many.
            offset: where in the file that was. It must not depend on how much has been read.
        """
        earned = _EFFORT * offset
        self._spent = max(self._spent, earned) + size
        self._is_spent |= self._spent > _FREE + earned


class Region:
    """Damaged bytes, from the start of a section that is not sound to the next one that is.

    Args:
        start: the offset of the first byte.
        error: what is wrong with it.

    Attributes:
        is_whole: whether all of its bytes have been kept so far.
        needed: the offset of the byte up to which the file is needed to go on with the search; 0 if
            more of it is needed, whatever comes.
    """

    def __init__(self, start: int, error: RepoStreamError) -> None:
        self.start = start
        self.error = error
        self.is_whole = True
        self.needed: int = 0
        # The offset from which on the next prefix is looked for, and how many lengths before the
        # prefix there have been tried.
        self._at = start + 1
        self._tried = 0

    @property
    def kept_from(self) -> int:
        """The offset of the first byte that is still needed to find the next section."""
        return max(self._at - BEFORE, self.start)

    def find_sound(
        self, buffer: bytes, base: int, effort: Effort, *, longest: int, at_end: bool
    ) -> int:
        """Return the offset of the next sound section; -1 if it has not come.

        What comes out does not depend on how much of the file is in the buffer.

        Args:
            buffer: the bytes of the file from the offset `base` on.
            base: see `buffer`.
            effort: is added to.
            longest: the most bytes that a section may have, without its length prefix.
            at_end: whether the file ends with the buffer.
        """
        size = len(buffer)
        lowest = max(self.start + 1 - base, 0)
        while True:
            at = buffer.find(ORDINARY_PREFIX, self._at - base)
            if at < 0:
                self._look_from(max(self._at, base + size - len(ORDINARY_PREFIX) + 1))
                self.needed = 0
                return -1
            if base + at > self._at:
                self._look_from(base + at)
            for start, length in [*_lengths_before(buffer, at, lowest, longest)][self._tried :]:
                end = at + length
                if end > size and not at_end:
                    self.needed = base + end
                    return -1
                self._tried += 1
                if length < ORDINARY_LENGTH or end > size:
                    continue
                body = at + ORDINARY_LENGTH
                if sha256(buffer[body:end]).digest() == buffer[body - 32 : body]:
                    return base + start
                effort.spend(length, base + at)
                if effort.is_too_much:
                    return -1
            self._look_from(base + at + 1)

    def _look_from(self, offset: int) -> None:
        self._at, self._tried = offset, 0


def _lengths_before(buffer: bytes, at: int, lowest: int, longest: int) -> Iterator[tuple[int, int]]:
    """Yield all lengths that end before an index, each with the index where it starts.

    Args:
        buffer: the bytes.
        at: the index after the length.
        lowest: the first index where it may start.
        longest: the greatest length to yield.
    """
    at -= 1
    if at < lowest or not 0 < buffer[at] < 0x80:
        return
    value = buffer[at]
    while value <= longest:
        yield at, value
        at -= 1
        if at < lowest or buffer[at] < 0x80:
            return
        value = value << 7 | buffer[at] & 0x7F


def list_damaged(
    damages: DamageLog, region: bytes | None, start: int, error: RepoStreamError
) -> None:
    """List the damaged sections of a region, and keep their data to be repaired.

    Args:
        damages: is added to.
        region: all bytes of the region; `None` if they were not kept.
        start: its offset.
        error: what is wrong with its first section.
    """
    if region is None:
        damages.add(start, _cid_of(error), error)
        return
    at = 0
    while at < len(region):
        body, end = _section_at(region, at)
        cid = Cid(region[body : body + ORDINARY_LENGTH])
        data = region[body + ORDINARY_LENGTH : end]
        known = cid if cid.is_ordinary else None
        if at:
            error = _error_of(known, start + at)
        number = damages.add(start + at, known or _cid_of(error), error)
        if data:
            damages.keep(known, data, number)
        at = end


def _section_at(region: bytes, at: int) -> tuple[int, int]:
    """Return where in a region the CID of a section starts, and where the section ends.

    If its length cannot be right, it is taken to end with the region.
    """
    size = len(region)
    last = at + _width_of_length(size - at)
    if at == 0 and ordinary(region[last + ORDINARY_LENGTH :]) == region[last:][:ORDINARY_LENGTH]:
        return last, size  # whatever its length says
    length, body = _read_length(region, at) or (0, at)
    end = body + length
    if length < ORDINARY_LENGTH or end > size or not region.startswith(ORDINARY_PREFIX, body):
        return last, size
    return body, end


def _width_of_length(size: int) -> int:
    """Return how many bytes the length has of a section that has so many bytes with it."""
    width = 1
    while (size - width) >> 7 * width:
        width += 1
    return width


def _read_length(buffer: bytes, at: int) -> tuple[int, int] | None:
    """Return a length and the index after it; `None` if it is not valid or does not end."""
    value = 0
    for count, byte in enumerate(buffer[at : at + 9]):
        value |= (byte & 0x7F) << (7 * count)
        if byte < 0x80:
            return (value, at + count + 1) if byte or not count else None
    return None


def _cid_of(error: RepoStreamError) -> Cid | None:
    return error.cid if isinstance(error, CidMismatch) else None


def _error_of(cid: Cid | None, offset: int) -> CarError:
    if cid is None:
        return BadSectionCid("a section does not start with a CID", offset=offset)
    return CidMismatch(cid=cid, offset=offset)
