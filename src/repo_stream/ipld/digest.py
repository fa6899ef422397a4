"""SHA-256 of many texts at a time: what the blocks of a CAR and the keys of a tree are checked by.

Whole columns go in, because that takes the compiled form a third of the time for a short text.
"""

from __future__ import annotations

from collections.abc import Sequence
from hashlib import sha256

from repo_stream._compiled import COMPILED
from repo_stream.ipld.cid import ORDINARY_PREFIX

__all__ = ["agreeing", "first_outside"]


def agreeing(cids: Sequence[bytes], blocks: Sequence[bytes]) -> int:
    """Count the blocks that match their CIDs, up to the first that does not.

    A block whose CID is not an ordinary one counts as one that does not.

    Args:
        cids: their raw CIDs.
        blocks: their bytes.
    """
    prefix = ORDINARY_PREFIX
    found = [prefix + sha256(block).digest() for block in blocks]
    if found == cids:
        return len(found)
    pairs = enumerate(zip(cids, found, strict=True))
    return next((at for at, (cid, right) in pairs if cid != right), len(found))


def first_outside(texts: Sequence[bytes], lowest: bytes, beyond: bytes) -> bytes | None:
    """Return the first text whose SHA-256 is less than `lowest`, or not less than `beyond`.

    Args:
        texts: what is hashed.
        lowest: the lowest digest that is inside, 32 bytes.
        beyond: the first digest that is not, 32 bytes or more.
    """
    for text in texts:
        if not lowest <= sha256(text).digest() < beyond:
            return text
    return None


if COMPILED:
    from repo_stream.ipld._digest import agreeing, first_outside
