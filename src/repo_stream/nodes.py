"""Ordinary nodes, checked and opened in one go; the walk opens all others itself.

The compiled wheel has this module in another form (`src/compile/nodes.pyx`), which takes a quarter
of the time. One test holds both forms against the walk's own way.
"""

from __future__ import annotations

from repo_stream.digest import first_outside
from repo_stream.frames import Frame, Subtree, frames_of
from repo_stream.limits import Limits
from repo_stream.mst import DEPTH_BOUNDS, decode_node_fast, key_depth

__all__ = ["open_ordinary"]


def open_ordinary(subtree: Subtree, block: bytes, limits: Limits) -> list[Frame] | None:
    """Give the frames of what is in a node, the first of them last, or `None`.

    That means nothing: it may be a node that breaks a rule, or one that follows all of them in an
    unusual way. `walk.open_node` knows, and names the fault.

    Args:
        subtree: what the node is the top of.
        block: its bytes.
        limits: `mst_depth`, `node_entries` and `key_bytes` apply.
    """
    node = decode_node_fast(block, limits)
    if node is None:
        return None
    left, keys, _values, trees = node
    if not keys:
        return None
    _cid, depth, lower, upper = subtree
    if depth is None:
        depth = key_depth(keys[0])
        if depth > limits.mst_depth:
            return None
    if depth == 0 and (left is not None or trees):
        return None
    if first_outside(keys, *DEPTH_BOUNDS[depth]) is not None:
        return None
    if keys[0] <= lower or (upper is not None and keys[-1] >= upper):
        return None
    try:
        rkeys = [*map(bytes.decode, keys)]
    except UnicodeDecodeError:
        return None
    return frames_of(node, rkeys, depth, lower, upper)
