"""Sections of a CAR that lie here and there in a file, read and cut into CID and data.

The compiled wheel has this module in another form (`src/compile/sections.pyx`), which takes half
of the time. One test holds both forms.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Final, TypeAlias

if TYPE_CHECKING:
    from repo_stream.car.files import OpenFile

__all__ = ["HEAD", "Head", "read_sections"]


#: What is read of a section, in bytes: nearly all of them are shorter.
HEAD: Final = 1024

#: A CID, where its section should start, and what is there: `HEAD` bytes, or less at the end.
Head: TypeAlias = tuple[bytes, int, bytes]


def read_sections(
    file: OpenFile, cids: Sequence[bytes], starts: Sequence[int]
) -> tuple[dict[bytes, bytes], list[Head]]:
    """Read sections that are no longer than `HEAD`.

    Args:
        file: where they are.
        cids: their CIDs.
        starts: where they start in the file, in bytes.

    Returns:
        The blocks by their CIDs, and the heads of all that is no such section: longer, or
        something else.

    Raises:
        OSError: where the file cannot be read; `BlockingIOError` where it is not in memory, and
            was opened for what is.
    """
    read = file.read
    heads = [read(HEAD, start) for start in starts]
    blocks: dict[bytes, bytes] = {}
    others: list[Head] = []
    for cid, start, head in zip(cids, starts, heads, strict=True):
        if len(head) > 1:
            length, body = head[0], 1
            if length >= 0x80:
                length += (head[1] << 7) - 0x80  # far too much where there is a third byte
                body = 2
            data, end = body + len(cid), body + length
            if data <= end <= len(head) and head.startswith(cid, body):
                blocks[cid] = head[data:end]
                continue
        others.append((cid, start, head))
    return blocks, others
