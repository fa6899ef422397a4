"""Read sections anywhere in a file, and cut them into CID and data.

The compiled form takes half of the time.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeAlias

from repo_stream._compiled import COMPILED
from repo_stream.car.files import HEAD, OpenFile

__all__ = ["HEAD", "Head", "read_sections"]


#: A CID, where its section should start, and what is there: `HEAD` bytes, or less at the end.
Head: TypeAlias = tuple[bytes, int, bytes]


def read_sections(
    file: OpenFile, cids: Sequence[bytes], starts: Sequence[int]
) -> tuple[dict[bytes, bytes], list[Head]]:
    """Read sections that are no longer than `HEAD`.

    Args:
        file: the file that they are in.
        cids: their CIDs.
        starts: where they start in the file, in bytes.

    Returns:
        The blocks by their CIDs, and the heads of those that were not read: because the section is
        longer, or because there is none with this CID.

    Raises:
        OSError: if the file cannot be read; `BlockingIOError` if it was opened for what the system
            has in memory, and this is not.
    """
    read = file.read
    heads = [read(HEAD, start) for start in starts]
    blocks: dict[bytes, bytes] = {}
    others: list[Head] = []
    for cid, start, head in zip(cids, starts, heads, strict=True):
        if len(head) > 1:
            length, body = head[0], 1
            if length >= 0x80:
                length += (head[1] << 7) - 0x80  # if there is a third byte, far too much
                body = 2
            data, end = body + len(cid), body + length
            if data <= end <= len(head) and head.startswith(cid, body):
                blocks[cid] = head[data:end]
                continue
        others.append((cid, start, head))
    return blocks, others


if COMPILED:
    from repo_stream.car._sections import read_sections
