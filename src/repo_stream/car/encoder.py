"""Write a CARv1: its header and its sections, each with its length before it.

See https://ipld.io/specs/transport/car/carv1/ and `decoder`, which reads what is written here.
"""

from __future__ import annotations

from collections.abc import Sequence

from repo_stream.ipld import dagcbor
from repo_stream.ipld.cid import Cid

__all__ = ["section_size", "write_header", "write_section"]


def write_header(roots: Sequence[Cid]) -> bytes:
    """Return the header of a CAR, with its length prefix."""
    header = dagcbor.encode({"roots": [*roots], "version": 1})
    return _varint(len(header)) + header


def write_section(cid: bytes, data: bytes) -> tuple[bytes, bytes, bytes]:
    """Return the three parts of a section: length prefix, CID and data."""
    return _varint(len(cid) + len(data)), cid, data


def section_size(cid: bytes, data: bytes) -> int:
    """Return how many bytes a section has, with its length prefix."""
    length = len(cid) + len(data)
    return length + (1 if length < 0x80 else 2 if length < 0x4000 else len(_varint(length)))


def _varint(number: int) -> bytes:
    if number < 0x80:
        return bytes((number,))
    if number < 0x4000:  # the length of nearly every section
        return bytes((number & 0x7F | 0x80, number >> 7))
    groups = bytearray()
    while number >= 0x80:
        groups.append(number & 0x7F | 0x80)
        number >>= 7
    groups.append(number)
    return bytes(groups)
