"""What is still to be walked of a tree, in the pieces that a walker's stack holds.

Such *frames* are of two kinds: *subtrees*, known by the CID of their top node, and *runs* of
records that follow each other without a subtree in between. They are plain tuples, told apart by
their length, for speed.
"""

from __future__ import annotations

from typing import TypeAlias

from repo_stream.mst.node import Node

__all__ = ["Frame", "Run", "Subtree", "frames_of"]


#: Keys as text, and the CIDs of their records.
Run: TypeAlias = tuple[list[str], list[bytes]]
#: A CID, a depth (`None` for the root, which may have any), and the keys on both sides, between
#: which all that is below must lie.
Subtree: TypeAlias = tuple[bytes, int | None, bytes, bytes | None]
Frame: TypeAlias = Run | Subtree


def frames_of(
    node: Node, keys: list[str], depth: int, lower: bytes, upper: bytes | None
) -> list[Frame]:
    """Give the frames of what is in a node, the first of them last.

    Args:
        node: the node; it has keys.
        keys: those as text.
        depth: the depth that it hangs at.
        lower: the key on its left, `b""` where there is none.
        upper: the key on its right.
    """
    left, raw_keys, values, trees = node
    if left is None and not trees:
        return [(keys, values)]
    frames: list[Frame] = []
    end = len(raw_keys)
    for at in reversed(trees):
        following = raw_keys[at + 1] if at + 1 < len(raw_keys) else upper
        if at + 1 < end:
            frames.append((keys[at + 1 : end], values[at + 1 : end]))
        frames.append((trees[at], depth - 1, raw_keys[at], following))
        end = at + 1
    frames.append((keys[:end], values[:end]))
    if left is not None:
        frames.append((left, depth - 1, lower, raw_keys[0]))
    return frames
