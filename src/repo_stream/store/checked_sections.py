"""Sections of a log, read at the offsets where they should be, and checked.

The file may be changed while it is read, by accident or on purpose. So every section that is read
must have a length that is possible, the CID that was asked for, and its hash if CIDs are verified.
A result is in a section of its block's CID, which says nothing about the result, so it has a
checksum in front.
"""

from __future__ import annotations

from binascii import crc32
from bisect import bisect_right
from collections.abc import Sequence
from typing import Final, NamedTuple

from repo_stream.car.decoder import read_length
from repo_stream.car.files import OpenFile
from repo_stream.car.sections import HEAD, Head, read_sections
from repo_stream.errors import CarError, InvalidCid
from repo_stream.ipld.cid import Cid, can_verify, read_cid, verify
from repo_stream.ipld.digest import agreeing
from repo_stream.limits import MIB
from repo_stream.store.buckets import are_alike

__all__ = ["CheckedSections", "Found", "is_lookalike", "with_checksum"]

# What is read at a time has so many bytes of sections longer than `HEAD`, or one section more.
_LONG_BYTES: Final = 2 * MIB

# The length of the checksum before a result, in bytes.
_CHECK: Final = 4

# A section: a CID, where in the file it starts, and the length of CID and data, in bytes.
_Section = tuple[bytes, int, int]


class Found(NamedTuple):
    """What was found at the offsets of some blocks, by their CIDs.

    Attributes:
        raw: blocks as they came.
        processed: results, as dumped by the processor.
        far: blocks that are there, but too large to be read now.
        odd: CIDs with something else at their offsets.
    """

    raw: dict[bytes, bytes]
    processed: dict[bytes, bytes]
    far: list[bytes]
    odd: list[bytes]


class CheckedSections:
    """The sections of one log.

    Args:
        longest: the most bytes that CID and data of a block may have.
        verifies: whether blocks are checked against their CIDs.
    """

    def __init__(self, longest: int, *, verifies: bool) -> None:
        self._longest = longest
        self._verifies = verifies
        # Which offsets hold results: the start and the end of each run of them.
        self._results: list[int] = []

    def note_results(self, start: int, end: int) -> None:
        """Note that the sections between two offsets hold results; the offsets only grow."""
        if self._results and self._results[-1] == start:
            self._results[-1] = end
        else:
            self._results += (start, end)

    def is_result(self, start: int) -> bool:
        """Return whether the section at an offset holds a result."""
        return bisect_right(self._results, start) % 2 == 1

    def read(self, cids: Sequence[bytes], starts: Sequence[int], file: OpenFile) -> Found:
        """Read blocks and results at their offsets.

        All of it is one visit: if visits go to a thread, a walk with two takes 1.1 of the time.
        """
        blocks, others = read_sections(file, cids, starts)
        long, odd = self._split(others)
        near, far = _near(long)
        for cid, start, length in near:
            section = file.read(length, start)
            if len(section) == length and section.startswith(cid):
                blocks[cid] = section[len(cid) :]
            else:
                odd.append(cid)
        results: dict[bytes, bytes] = {}
        if self._results:
            first, end = self._results[0], self._results[-1]
            for cid, start in zip(cids, starts, strict=True):
                # Most sections are of blocks that came after all results.
                if first <= start < end and cid in blocks and self.is_result(start):
                    data = blocks.pop(cid)
                    if _is_whole(data):
                        results[cid] = data[_CHECK:]
                    else:
                        odd.append(cid)
        if self._verifies:
            for cid in _mismatched(blocks):
                del blocks[cid]
                odd.append(cid)
        return Found(blocks, results, far, odd)

    def _split(self, heads: Sequence[Head]) -> tuple[list[_Section], list[bytes]]:
        """Split what `read_sections` left: long sections, and the CIDs of anything else."""
        long: list[_Section] = []
        odd: list[bytes] = []
        for cid, start, head in heads:
            try:
                length, body = read_length(head, 0, start)
            except CarError:
                length, body = 0, -1
            if body >= 0 and length <= self._longest_at(start) and head.startswith(cid, body):
                long.append((cid, start + body, length))
            else:
                odd.append(cid)
        return long, odd

    def body_at(self, start: int, file: OpenFile) -> bytes:
        """Return the CID and data of the section at an offset; nothing if there is no section."""
        head = file.read(HEAD, start)
        try:
            length, body = read_length(head, 0, start)
        except CarError:
            return b""
        if body < 0 or length > self._longest_at(start):
            return b""
        section = file.read(length, start + body)
        return section if len(section) == length else b""

    def content(self, cid: bytes, start: int, body: bytes) -> bytes | None:
        """Return the block, or the dumped result, in a section; `None` if it is another's."""
        if not body.startswith(cid):
            return None
        data = body[len(cid) :]
        if self.is_result(start):
            return data[_CHECK:] if _is_whole(data) else None
        right = not self._verifies or verify(Cid(cid), data)
        return data if right else None

    def refuses(self, cid: bytes) -> bool:
        """Return whether a block is never read, as it cannot be checked against its CID."""
        return self._verifies and not can_verify(Cid(cid))

    def _longest_at(self, start: int) -> int:
        """Return the most bytes that a section may have: a file that was changed may state any."""
        run = bisect_right(self._results, start)
        return self._results[run] - start if run % 2 else self._longest


def with_checksum(result: bytes) -> bytes:
    """Return a dumped result as its section holds it."""
    return crc32(result).to_bytes(_CHECK) + result


def _is_whole(result: bytes) -> bool:
    return crc32(result[_CHECK:]).to_bytes(_CHECK) == result[:_CHECK]


def is_lookalike(body: bytes, cid: bytes) -> bool:
    """Return whether a section is of another block that has the same bits of the hash."""
    try:
        other = body[: read_cid(body, 0, len(body))]
    except InvalidCid:
        return False
    return other != cid and are_alike(other, cid)


def _mismatched(blocks: dict[bytes, bytes]) -> list[bytes]:
    """Return the CIDs of blocks that do not have the hash in their CIDs, as far as is known."""
    cids, data = [*blocks], [*blocks.values()]
    mismatched: list[bytes] = []
    at = agreeing(cids, data)
    while at < len(cids):
        if not verify(Cid(cids[at]), data[at]):
            mismatched.append(cids[at])
        at += 1
        at += agreeing(cids[at:], data[at:])
    return mismatched


def _near(sections: Sequence[_Section]) -> tuple[list[_Section], list[bytes]]:
    """Return the sections that one answer has room for, and the CIDs of the others."""
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
