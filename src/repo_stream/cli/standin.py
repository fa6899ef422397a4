"""A stand-in for a commit that is not valid, so that the tree below it can be walked.

The CAR gets another header and another commit, whose `data` is that of the invalid one; its blocks
stay. The account, the rev and the signature of the stand-in mean nothing.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator
from hashlib import sha256
from typing import Final

from repo_stream import CarReader, Cid

__all__ = ["with_standin"]

# What comes before and after the one link of a header and of a commit, in DAG-CBOR.
_HEADER: Final = (b"\x3a\xa2\x65roots\x81", b"\x67version\x01")
_COMMIT: Final = (
    b"\xa6\x63did\x78\x20did:plc:%b\x63rev\x6d%b\x63sig\x58\x40%b\x64data"
    % (b"a" * 24, b"2" * 13, bytes(64)),
    b"\x64prev\xf6\x67version\x03",
)
_LINK: Final = b"\xd8\x2a\x58\x25\x00"  # before its CID
_CID_START: Final = b"\x01\x71\x12\x20"  # CIDv1, DAG-CBOR, SHA-256 of 32 bytes


async def with_standin(reader: CarReader, commit: Cid, tree: Cid) -> AsyncGenerator[bytes]:
    """Return the same CAR with a stand-in for its commit.

    Args:
        reader: reads the blocks of the CAR.
        commit: the invalid commit, which is left out.
        tree: the root node that it names.
    """
    block = (_LINK + tree).join(_COMMIT)
    cid = _CID_START + sha256(block).digest()
    yield (_LINK + cid).join(_HEADER) + _section(cid, block)
    while (blocks := await reader.next_blocks()) is not None:
        yield b"".join([_section(*each) for each in blocks if each[0] != commit])


def _section(cid: bytes, block: bytes) -> bytes:
    length, varint = len(cid) + len(block), bytearray()
    while length > 0x7F:
        varint.append(length & 0x7F | 0x80)
        length >>= 7
    return bytes((*varint, length)) + cid + block
