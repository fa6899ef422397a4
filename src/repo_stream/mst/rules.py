"""The rules that a node has to obey in its position in the tree, checked when a walk opens it.

What can be seen in the bytes of a node alone is checked by `node.decode_node`: the canonical form,
the links, the order of the keys, and how much of each is shared. Checked here:

    every key has the depth of the node                    WrongDepth
    every key is between the keys beside the subtree       KeyOutOfRange
    every key is UTF-8                                     InvalidKey
    a node at depth 0 has no subtrees                      ChildBelowLeaf
    a node below the root is not empty                     EmptyNode
    a root that has a subtree has a key                    BareRoot
    the root is not deeper than `Limits.mst_depth`         LimitExceeded

Nearly all nodes are *ordinary*: they obey the rules, and no part of a key, shared or not, is longer
than 255 bytes. `open_ordinary` checks and opens those in one go; its compiled form takes a quarter
of the time. `open_node_plainly` opens all others, and raises the error that names what is wrong.
"""

from __future__ import annotations

from hashlib import sha256
from typing import Final

from repo_stream._compiled import COMPILED
from repo_stream.arguments import check_kind
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

__all__ = ["DEPTH_BOUNDS", "key_depth", "open_node", "open_node_plainly", "open_ordinary"]


# --- The depth of a key -------------------------------------------------------------------------


def key_depth(key: bytes) -> int:
    """Return the depth of a key in a tree: half the number of leading zero bits of its SHA-256.

    See https://atproto.com/specs/repository#mst-structure.

    Example:
        >>> key_depth(b"app.bsky.feed.post/454397e440ec")
        4

    Raises:
        TypeError: if `key` is not bytes.
    """
    such_as = "the bytes of a key, as key.encode() returns them"
    check_kind("key", key, (bytes, bytearray, memoryview), such_as=such_as)
    digest = int.from_bytes(sha256(key).digest(), "big")
    return (256 - digest.bit_length()) // 2


def _depth_bounds(depth: int) -> tuple[bytes, bytes]:
    """Return the range of digests with `2 * depth` or `2 * depth + 1` leading zero bits."""
    lowest = (1 << 254 - 2 * depth) if depth < 128 else 0
    beyond = (1 << 256 - 2 * depth) if depth > 0 else None
    return (
        lowest.to_bytes(32, "big"),
        beyond.to_bytes(32, "big") if beyond is not None else b"\xff" * 33,
    )


#: For each depth, the lowest digest that a key there can have, and the first one that is too great.
DEPTH_BOUNDS: Final = tuple(_depth_bounds(depth) for depth in range(129))


# --- Opening a node -----------------------------------------------------------------------------


def open_node(subtree: Subtree, block: bytes, limits: Limits) -> list[Frame]:
    """Check the top node of a subtree; return the frames of what is in it, the first one last.

    Args:
        subtree: the subtree.
        block: the node's bytes.
        limits: `mst_depth`, `node_entries` and `key_bytes` apply.

    Raises:
        NodeError: if the node breaks a rule; see its leaves.
        LimitExceeded: if the node has too many entries, a key is too long, or the root too deep.
    """
    frames = open_ordinary(subtree, block, limits)
    return frames if frames is not None else open_node_plainly(subtree, block, limits)


def open_node_plainly(subtree: Subtree, block: bytes, limits: Limits) -> list[Frame]:
    """Do what `open_node` does for any node, rule by rule, and raise an error for the first fault.

    Raises:
        NodeError, LimitExceeded: as `open_node`.
    """
    cid, depth, lower, upper = subtree
    node = decode_node(block, cid, limits)
    left, raw_keys, _values, trees = node
    if not raw_keys:
        return _frames_of_keyless(subtree, left)
    if depth is None:
        depth = _depth_of_root(cid, raw_keys[0], limits)
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


def _depth_of_root(cid: bytes, key: bytes, limits: Limits) -> int:
    """Return the depth of the root, which is that of each of its keys."""
    depth = key_depth(key)
    if depth > limits.mst_depth:
        raise LimitExceeded(
            limit="mst_depth",
            maximum=limits.mst_depth,
            actual=depth,
            where=f"the root of the tree, MST node {Cid(cid)}",
        )
    return depth


def _frames_of_keyless(subtree: Subtree, left: bytes | None) -> list[Frame]:
    """Check a node without keys: one with only a subtree, or the root of an empty repo."""
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
    """Check an ordinary node and return the frames of what is in it, the first of them last.

    `None` says nothing about a node: it may break a rule, or follow all of them in an unusual way.
    Then `open_node_plainly` decides.

    Args:
        subtree: the subtree that the node is the top of.
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


if COMPILED:
    from repo_stream.mst._rules import open_ordinary
