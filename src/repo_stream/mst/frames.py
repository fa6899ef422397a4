"""Frames: the parts of a tree that are still ahead of a walk, as they are on its stack.

A frame is one of two plain tuples:

    run      (keys, cids)                   records that follow each other, no subtree in between
    subtree  (cid, depth, lower, upper)     a subtree that has not been opened

They are told apart by their length, `len(frame) == 2`, which type checkers understand. A walk
handles one for every few records, in its innermost loops: there a class, or a function that tells
them apart, takes time that can be measured.
"""

from __future__ import annotations

from typing import TypeAlias

from repo_stream.mst.node import Node

__all__ = ["Frame", "Run", "Subtree", "frames_of"]


#: The keys of the records as text, in order, and the CIDs of their blocks.
Run: TypeAlias = tuple[list[str], list[bytes]]
#: The CID of the top node; its depth, `None` for the root, which may have any; and the keys on both
#: sides, between which all keys of the subtree must lie: `b""` and `None` if there is none.
Subtree: TypeAlias = tuple[bytes, int | None, bytes, bytes | None]
Frame: TypeAlias = Run | Subtree


def frames_of(
    node: Node, keys: list[str], depth: int, lower: bytes, upper: bytes | None
) -> list[Frame]:
    """Return the frames of what is in a node, the first of them last.

    Args:
        node: the node; it has at least one key.
        keys: its keys as text.
        depth: its depth in the tree.
        lower: the key before the node's subtree, `b""` if there is none.
        upper: the key after it, `None` if there is none.
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
