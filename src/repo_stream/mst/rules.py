"""Ordinary nodes, checked and opened in one go; the walk opens all others itself.

The compiled wheel has this module in another form (`src/compile/nodes.pyx`), which takes a quarter
of the time. One test holds both forms against the walk's own way.
"""

from __future__ import annotations

from hashlib import sha256
from typing import Final

from repo_stream.errors import (
    BareRoot,
    ChildBelowLeaf,
    EmptyNode,
    InvalidKey,
    KeyOutOfRange,
    LimitExceeded,
    WrongDepth,
)
from repo_stream.ipld.cid import Cid
from repo_stream.ipld.digest import first_outside
from repo_stream.limits import Limits
from repo_stream.mst.frames import Frame, Subtree, frames_of
from repo_stream.mst.node import decode_node, decode_node_fast

__all__ = ["DEPTH_BOUNDS", "key_depth", "open_ordinary"]


# --- Keys ---------------------------------------------------------------------------------------


def key_depth(key: bytes) -> int:
    """Give the depth at which a key hangs: half the leading zero bits of its SHA-256.

    Example:
        >>> key_depth(b"app.bsky.feed.post/454397e440ec")
        4
    """
    digest = int.from_bytes(sha256(key).digest(), "big")
    return (256 - digest.bit_length()) // 2


def _depth_bounds(depth: int) -> tuple[bytes, bytes]:
    lowest = (1 << 254 - 2 * depth) if depth < 128 else 0
    beyond = (1 << 256 - 2 * depth) if depth > 0 else None
    return (
        lowest.to_bytes(32, "big"),
        beyond.to_bytes(32, "big") if beyond is not None else b"\xff" * 33,
    )


#: For each depth the lowest digest that a key there can have, and the first that is too great.
DEPTH_BOUNDS: Final = tuple(_depth_bounds(depth) for depth in range(129))


def open_node(subtree: Subtree, block: bytes, limits: Limits) -> list[Frame]:
    """Check a subtree's node and give the frames of what is in it, the first of them last."""
    frames = open_ordinary(subtree, block, limits)
    return frames if frames is not None else open_carefully(subtree, block, limits)


def open_carefully(subtree: Subtree, block: bytes, limits: Limits) -> list[Frame]:
    """Do what `open_node` does, whatever the node, and name the first fault."""
    cid, depth, lower, upper = subtree
    node = decode_node(block, cid, limits)
    left, raw_keys, _values, trees = node
    if not raw_keys:
        return _open_without_keys(subtree, left)
    if depth is None:
        depth = _root_depth(cid, raw_keys[0], limits)
    lowest, beyond = DEPTH_BOUNDS[depth]
    if (raw_key := first_outside(raw_keys, lowest, beyond)) is not None:
        raise WrongDepth(cid=Cid(cid), key=raw_key, depth=key_depth(raw_key), expected=depth)
    if raw_keys[0] <= lower or (upper is not None and raw_keys[-1] >= upper):
        raise _out_of_range(cid, raw_keys, lower, upper)
    try:
        keys = [*map(bytes.decode, raw_keys)]
    except UnicodeDecodeError as error:
        raise InvalidKey(cid=Cid(cid), key=bytes(error.object), reason="is not UTF-8") from error
    if depth == 0 and (left is not None or trees):
        raise ChildBelowLeaf(cid=Cid(cid))
    return frames_of(node, keys, depth, lower, upper)


def _root_depth(cid: bytes, key: bytes, limits: Limits) -> int:
    depth = key_depth(key)
    if depth > limits.mst_depth:
        raise LimitExceeded(
            limit="mst_depth",
            maximum=limits.mst_depth,
            actual=depth,
            where=f"the root of the tree, MST node {Cid(cid)}",
        )
    return depth


def _open_without_keys(subtree: Subtree, left: bytes | None) -> list[Frame]:
    """Open a node that only leads to a subtree, or that is the root of an empty repo."""
    cid, depth, lower, upper = subtree
    if depth is None:
        if left is not None:
            raise BareRoot(cid=Cid(cid))
        return []
    if left is None:
        raise EmptyNode(cid=Cid(cid), depth=depth)
    if depth == 0:
        raise ChildBelowLeaf(cid=Cid(cid))
    return [(left, depth - 1, lower, upper)]


def _out_of_range(
    cid: bytes, keys: list[bytes], lower: bytes, upper: bytes | None
) -> KeyOutOfRange:
    key = keys[0] if keys[0] <= lower else keys[-1]
    return KeyOutOfRange(cid=Cid(cid), key=key, lower=lower or None, upper=upper)


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
    left, raw_keys, _values, trees = node
    if not raw_keys:
        return None
    _cid, depth, lower, upper = subtree
    if depth is None:
        depth = key_depth(raw_keys[0])
        if depth > limits.mst_depth:
            return None
    if depth == 0 and (left is not None or trees):
        return None
    if first_outside(raw_keys, *DEPTH_BOUNDS[depth]) is not None:
        return None
    if raw_keys[0] <= lower or (upper is not None and raw_keys[-1] >= upper):
        return None
    try:
        keys = [*map(bytes.decode, raw_keys)]
    except UnicodeDecodeError:
        return None
    return frames_of(node, keys, depth, lower, upper)
