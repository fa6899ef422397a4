"""The blocks of a repo that stays where it is: in its file, which is read again as a walk needs it.

Whether a file is still what was checked as it was read is the question here. Where it was written
to since, or cut short, blocks are checked once more, and what is no longer there is an error, not
a block that is missing.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from typing import Final

from repo_stream.car import read_length
from repo_stream.cid import Cid, verify
from repo_stream.entries import Buckets, locate
from repo_stream.errors import CarError, CidMismatch, TruncatedCar
from repo_stream.fetched import Fetched
from repo_stream.limits import MIB
from repo_stream.places import Places, candidates
from repo_stream.reader import CarReader
from repo_stream.sections import HEAD, Head, read_sections
from repo_stream.source import OpenFile

__all__ = ["InPlace"]

# Of what is longer than heads one answer has so many bytes, or one more than that.
_LONG_BYTES: Final = 2 * MIB
# Blocks that are located at a time, as each may need a bucket from disk. Those of a thousand are a
# MiB, which left holes of several in the memory of SQLite's thread.
_LOCATED: Final = 250

# A section: a CID, where that starts in the file, and how long it and its data are.
_Section = tuple[bytes, int, int]
#: Gives the buckets for some CIDs.
Stored = Callable[[Sequence[bytes]], Awaitable[Buckets]]


class InPlace:
    """The blocks of a file.

    Args:
        reader: has read the file, and is closed here.
        places: where its blocks are, as far as that is in memory.
    """

    def __init__(self, reader: CarReader, places: Places) -> None:
        self._reader = reader
        self._places = places
        # A file that has been changed may claim any length.
        self._longest = min(reader.longest_section, reader.offset)

    async def fetch(self, cids: Sequence[bytes], stored: Stored | None = None) -> Fetched:
        """Read the blocks of these CIDs, as far as they are there.

        Of long ones only the first few come, so that an answer stays within some MiB; the others
        are `far`.

        Args:
            cids: the CIDs, that which the walk needs next at first.
            stored: gives the buckets for CIDs, where places are on disk.

        Raises:
            CarError: where the file has been changed since it was read.
            OSError: where it cannot be read.
        """
        nearest = cids[0] if cids else b""
        starts: list[int] = []
        for at in range(0, len(cids), _LOCATED):
            some = cids[at : at + _LOCATED]
            starts += locate(await self._buckets(some, stored), some)
        if -1 in starts:
            cids = [cid for cid, start in zip(cids, starts, strict=True) if start >= 0]
            starts = [start for start in starts if start >= 0]
        fetched, odd = await self._reader.visit(partial(self._read, cids, starts))
        if self._reader.changed:
            changed = [cid for cid, data in fetched.raw.items() if not self._holds(cid, data)]
            for cid in changed:
                del fetched.raw[cid]
            odd += changed
        if odd:
            await self._find(odd, nearest, stored, fetched)
        return fetched

    async def _buckets(self, cids: Sequence[bytes], stored: Stored | None) -> Buckets:
        return self._places.buckets if stored is None else await stored(cids)

    def _read(
        self, cids: Sequence[bytes], starts: Sequence[int], file: OpenFile
    ) -> tuple[Fetched, list[bytes]]:
        """Read blocks where they should be; give also the CIDs for which something else is there.

        All of it is one visit: where that is to a thread, two take 1.1 of the time of a walk.
        """
        blocks, others = read_sections(file, cids, starts)
        long, odd = self._told_apart(others)
        near, far = _near(long)
        for cid, start, length in near:
            section = file.read(length, start)
            if len(section) == length and section.startswith(cid):
                blocks[cid] = section[len(cid) :]
            else:
                odd.append(cid)
        return Fetched(blocks, {}, far), odd

    def _told_apart(self, heads: Sequence[Head]) -> tuple[list[_Section], list[bytes]]:
        """Tell sections that are longer than their heads from what is not what it should be."""
        long: list[_Section] = []
        odd: list[bytes] = []
        for cid, start, head in heads:
            try:
                length, body = read_length(head, 0, start)
            except CarError:
                length, body = 0, -1
            if body >= 0 and length <= self._longest and head.startswith(cid, body):
                long.append((cid, start + body, length))
            else:
                odd.append(cid)
        return long, odd

    async def _find(
        self, odd: Sequence[bytes], nearest: bytes, stored: Stored | None, fetched: Fetched
    ) -> None:
        """Look for blocks where else they may be, and add them to what was fetched.

        What the file does not hold any more is an error for the `nearest` alone, so that what comes
        before the others can be had.
        """
        for cid in odd:
            try:
                data = await self._sought(await self._buckets([cid], stored), cid)
            except CarError:
                if cid == nearest:
                    raise
                fetched.far.append(cid)
            else:
                if data is not None:
                    fetched.raw[cid] = data

    async def _sought(self, buckets: Buckets, cid: bytes) -> bytes | None:
        """Read a block in whichever of its places it is; `None` where it was never in the file."""
        failure: CarError | None = None
        for start in candidates(buckets, cid):
            try:
                body = await self._reader.visit(partial(self._section, start))
            except CarError as error:
                failure = failure or error
                continue
            if body.startswith(cid) and self._holds(cid, body[len(cid) :]):
                return body[len(cid) :]
            failure = failure or CidMismatch(cid=Cid(cid), offset=start)
        if failure is not None and self._reader.changed:
            raise failure
        return None

    def _section(self, start: int, file: OpenFile) -> bytes:
        """Read what is in a section: a CID, and data.

        Raises:
            CarError: where there is none any more.
        """
        head = file.read(HEAD, start)
        length, body = read_length(head, 0, start)
        if body < 0:
            raise TruncatedCar(offset=start, have=len(head), need=None)
        section = file.read(min(length, self._longest), start + body)
        if len(section) < length:
            raise TruncatedCar(offset=start, have=body + len(section), need=body + length)
        return section

    def _holds(self, cid: bytes, data: bytes) -> bool:
        """Say whether a block has the hash that its CID claims, where that matters."""
        return not self._reader.verifies_cids or verify(Cid(cid), data) is not False

    async def aclose(self) -> None:
        """Close the file."""
        await self._reader.aclose()


def _near(sections: Sequence[_Section]) -> tuple[list[_Section], list[bytes]]:
    """Leave out what is too much for one answer; give the CIDs of that as well."""
    near: list[_Section] = []
    far: list[bytes] = []
    room = _LONG_BYTES
    for section in sections:
        if room <= 0:
            far.append(section[0])
        else:
            near.append(section)
            room -= section[2]
    return near, far
