"""SHA-256 of many texts at a time: what the blocks of a CAR and the keys of a tree are checked by.

Whole columns go in, because the compiled wheel has these two functions in another form, which takes
a third of the time for a short text (`src/compile/digest.pyx`). One test holds both forms.
"""

from __future__ import annotations

from collections.abc import Sequence
from hashlib import sha256

from repo_stream.ipld.cid import ORDINARY_PREFIX

__all__ = ["agreeing", "first_outside"]


def agreeing(cids: Sequence[bytes], blocks: Sequence[bytes]) -> int:
    """Count the blocks that have ordinary CIDs and are what those say, up to the first that is not.

    Args:
        cids: their CIDs.
        blocks: their bytes.
    """
    prefix = ORDINARY_PREFIX
    found = [prefix + sha256(block).digest() for block in blocks]
    if found == cids:
        return len(found)
    pairs = enumerate(zip(cids, found, strict=True))
    return next((at for at, (cid, right) in pairs if cid != right), len(found))


def first_outside(texts: Sequence[bytes], lowest: bytes, beyond: bytes) -> bytes | None:
    """Give the first text whose SHA-256 is less than `lowest`, or not less than `beyond`."""
    for text in texts:
        if not lowest <= sha256(text).digest() < beyond:
            return text
    return None
