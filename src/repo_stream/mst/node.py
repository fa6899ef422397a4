"""The signed commit and the nodes of the Merkle Search Tree, decoded strictly.

A node has one canonical form in DAG-CBOR
(https://atproto.com/specs/repository#mst-structure):

    a2 "e" [ a4 "k" suffix  "p" prefix length  "t" null or link  "v" link, ... ] "l" null or link

Two decoders read it. The fast one steps from digest to digest and looks up what stands between. It
accepts nearly every node of real repos, nothing that is not canonical, and never says what is
wrong. Whatever it does not accept goes to the plain one, which reads byte by byte and raises the
error that names the fault. The tests hold them against each other.
"""

from __future__ import annotations

from typing import Final

from repo_stream.errors import (
    BadNodeLink,
    InvalidKey,
    KeyOutOfOrder,
    LimitExceeded,
    MalformedNode,
    NodePrefixNotMinimal,
    NodePrefixTooLong,
)
from repo_stream.ipld.cid import ORDINARY_PREFIX, Cid
from repo_stream.limits import Limits

__all__ = ["Node", "decode_node", "decode_node_fast", "decode_node_plainly", "looks_like_node"]


# --- Nodes --------------------------------------------------------------------------------------

#: A node in columns, one row an entry: the subtree before the first key or `None`, the whole keys,
#: the records' CIDs, and by row the subtrees after a key. It is a plain tuple because making a
#: named one takes a tenth of the time of decoding the node.
Node = tuple[bytes | None, list[bytes], list[bytes], dict[int, bytes]]

#: What every node begins with: the head of a map of two, and the key "e".
_NODE_START: Final = b"\xa2\x61e"

_LINK: Final = b"\xd8\x2a\x58\x25\x00" + ORDINARY_PREFIX
# By its first four bytes, the length of the suffix of an entry; longer ones have one byte more.
_SHORT_SUFFIXES: Final = {b"\xa4\x61k" + bytes([0x40 + n]): n for n in range(1, 24)}
_LONG_SUFFIX: Final = b"\xa4\x61k\x58"
# By what stands between the suffix of an entry and its next digest, the length of the prefix. There
# a leaf goes on with the record, and a branch with the subtree, followed by `_RECORD`.
_PREFIX_HEADS: Final = [bytes([n]) if n < 24 else bytes([0x18, n]) for n in range(256)]
_LEAVES: Final = {
    b"\x61p" + head + b"\x61t\xf6\x61v" + _LINK: n for n, head in enumerate(_PREFIX_HEADS)
}
_BRANCHES: Final = {b"\x61p" + head + b"\x61t" + _LINK: n for n, head in enumerate(_PREFIX_HEADS)}
_RECORD: Final = b"\x61v" + _LINK
_LEFT: Final = b"\x61l" + _LINK
_NO_LEFT: Final = b"\x61l\xf6"
# What the suffix and the shortest entry need to the end of the node, at the least.
_AFTER_SUFFIX: Final = 17 + 32 + len(_NO_LEFT)
_SHORTEST_ENTRY: Final = 4 + 1 + _AFTER_SUFFIX
_NO_TREES: Final[dict[int, bytes]] = {}
# The fast decoder sees no longer suffix and no longer prefix, so it need not check the limit.
_MAX_FAST_KEY: Final = 255 + 255


def looks_like_node(block: bytes) -> bool:
    """Say whether a block could be a node, from its first bytes.

    A record can look like a node too: only a walk of the tree knows which it is.
    """
    return block[:3] == _NODE_START and b"\x80" <= block[3:4] < b"\xa0"


def decode_node(block: bytes, cid: bytes, limits: Limits) -> Node:
    """Decode a node and check everything that can be seen in it alone.

    That is: canonical DAG-CBOR of exactly the specified fields, links that a tree may have, keys
    that are not empty, in order and within the limits, and shared prefixes of the full length.
    Depth, range and UTF-8 of the keys are left to the walk.

    Args:
        block: its bytes.
        cid: its CID, for errors.
        limits: `node_entries` and `key_bytes` apply.

    Raises:
        NodeError: the leaf that names what is wrong.
        LimitExceeded: where it has too many entries, or a key is too long.
    """
    node = decode_node_fast(block, limits)
    return node if node is not None else decode_node_plainly(block, cid, limits)


def decode_node_fast(block: bytes, limits: Limits) -> Node | None:
    """Decode a node, or give `None` for whatever is not surely canonical.

    What stands between the suffix of a key and the next digest has few forms, which dictionaries
    know, so that two look-ups check every byte of it. It takes 0.6 us an entry, a fifth of what the
    plain decoder takes.
    """
    size = len(block)
    if size < 7 or block[:3] != _NODE_START or limits.key_bytes < _MAX_FAST_KEY:
        return None
    count = block[3] - 0x80
    at = 4
    if count == 24:
        count = block[4]
        at = 5
        if count < 24:
            return None
    elif not 0 <= count < 24:
        return None
    if count > limits.node_entries:
        return None
    keys: list[bytes] = []
    values: list[bytes] = []
    trees = _NO_TREES
    key = b""
    key_length = 0
    window = block  # whatever is cut out of these two lies within them: see mst.pxd
    previous = key
    last = size - _SHORTEST_ENTRY
    last_end = size - _AFTER_SUFFIX
    while at <= last:
        length = _SHORT_SUFFIXES.get(window[at : at + 4], 0)
        if not length:
            length = window[at + 4]
            if length < 24 or window[at : at + 4] != _LONG_SUFFIX:
                return None
            at += 1
        at += 4
        end = at + length
        if end > last_end:
            return None
        digest = end + 18 if window[end + 2] == 0x18 else end + 17
        shared = _LEAVES.get(window[end:digest], -1)
        if shared < 0:
            digest -= 3
            shared = _BRANCHES.get(window[end:digest], -1)
            tree_end = digest + 32
            if shared < 0 or tree_end + 46 > size or window[tree_end : tree_end + 11] != _RECORD:
                return None
            if trees is _NO_TREES:
                trees = {}
            trees[len(keys)] = window[digest - 4 : tree_end]
            digest = tree_end + 11
        # The first byte that is not shared says both that the key sorts after the one before it,
        # and that no more bytes could have been shared.
        if shared < key_length:
            if previous[shared] >= window[at]:
                return None
        elif shared > key_length:
            return None
        key = previous[:shared] + window[at:end]
        previous = key
        key_length = shared + length
        keys.append(key)
        at = digest + 32
        values.append(window[digest - 4 : at])
    if len(keys) != count:
        return None
    if size - at == 3:
        return (None, keys, values, trees) if block[at:] == _NO_LEFT else None
    if size - at != 43 or block[at : at + 11] != _LEFT:
        return None
    return block[-36:], keys, values, trees


def decode_node_plainly(block: bytes, cid: bytes, limits: Limits) -> Node:
    """Do what `decode_node` does, entry by entry, and name the first fault."""
    return _NodeReader(block, Cid(cid), limits).node()


class _NodeReader:
    """A cursor over the bytes of one node."""

    def __init__(self, block: bytes, cid: Cid, limits: Limits) -> None:
        self._block = block
        self._at = 0
        self._cid = cid
        self._limits = limits

    def node(self) -> Node:
        if not looks_like_node(self._block):
            raise self._malformed('it does not start as a map of "e" and "l"')
        self._at = len(_NODE_START)
        count = self._head(4, "the array of entries")
        limits = self._limits
        if count > limits.node_entries:
            raise LimitExceeded(
                limit="node_entries",
                maximum=limits.node_entries,
                actual=count,
                where=f"MST node {self._cid}",
            )
        keys: list[bytes] = []
        values: list[bytes] = []
        trees: dict[int, bytes] = {}
        key = b""
        for row in range(count):
            self._expect(b"\xa4\x61k", 'an entry, a map of four that starts with "k"')
            suffix = self._take(self._head(2, "the key suffix, a byte string"), "the key suffix")
            self._expect(b"\x61p", 'the field "p"')
            shared = self._head(0, "the prefix length, a whole number")
            key = self._key(key, shared, suffix)
            self._expect(b"\x61t", 'the field "t"')
            tree = self._link_or_null()
            if tree is not None:
                trees[row] = tree
            self._expect(b"\x61v", 'the field "v"')
            values.append(self._link())
            keys.append(key)
        self._expect(b"\x61l", 'the field "l"')
        left = self._link_or_null()
        if self._at != len(self._block):
            raise self._malformed("bytes follow after the node")
        return left, keys, values, trees

    def _key(self, previous: bytes, shared: int, suffix: bytes) -> bytes:
        """Expand one key, once it is sure to be short enough, and check it."""
        cid = self._cid
        if shared > len(previous):
            raise NodePrefixTooLong(cid=cid, prefix_len=shared, previous=previous)
        if shared + len(suffix) > self._limits.key_bytes:
            raise LimitExceeded(
                limit="key_bytes",
                maximum=self._limits.key_bytes,
                actual=shared + len(suffix),
                where=f"a key in MST node {cid}",
            )
        key = previous[:shared] + suffix
        if not key:
            raise InvalidKey(cid=cid, key=key, reason="is empty")
        if key <= previous:
            raise KeyOutOfOrder(cid=cid, key=key, previous=previous)
        if previous[shared : shared + 1] == suffix[:1]:
            expected = _common_prefix_length(previous, key)
            raise NodePrefixNotMinimal(cid=cid, key=key, prefix_len=shared, expected=expected)
        return key

    def _link_or_null(self) -> bytes | None:
        if self._block[self._at : self._at + 1] == b"\xf6":
            self._at += 1
            return None
        return self._link()

    def _link(self) -> bytes:
        """Read tag 42 over a byte string of zero and a CID."""
        start = self._at
        self._expect(b"\xd8\x2a", "a link or null")
        content = self._take(self._head(2, "the bytes of a link"), "the bytes of a link")
        if len(content) != 37 or not content.startswith(b"\0" + ORDINARY_PREFIX):
            raise BadNodeLink(cid=self._cid, offset=start)
        return content[1:]

    def _head(self, kind: int, what: str) -> int:
        """Read the head of a CBOR item of major type `kind`, in its shortest form."""
        first = self._block[self._at : self._at + 1]
        if not first or first[0] >> 5 != kind:
            raise self._malformed(f"{what} should be here")
        info = first[0] & 0x1F
        if info < 24:
            self._at += 1
            return info
        if info > 27:
            raise self._malformed(f"{what} has an indefinite or reserved length")
        size = 1 << (info - 24)
        number = self._block[self._at + 1 : self._at + 1 + size]
        if len(number) < size:
            raise self._malformed(f"the node ends inside {what}")
        value = int.from_bytes(number, "big")
        if value < (24, 0x100, 0x10000, 0x100000000)[info - 24]:
            raise self._malformed(f"{what} is not in its shortest form")
        self._at += 1 + size
        return value

    def _take(self, length: int, what: str) -> bytes:
        if length > len(self._block) - self._at:
            raise self._malformed(f"the node ends inside {what}")
        self._at += length
        return self._block[self._at - length : self._at]

    def _expect(self, token: bytes, what: str) -> None:
        if not self._block.startswith(token, self._at):
            raise self._malformed(f"{what} should be here")
        self._at += len(token)

    def _malformed(self, reason: str) -> MalformedNode:
        return MalformedNode(cid=self._cid, reason=reason, offset=self._at)


def _common_prefix_length(left: bytes, right: bytes) -> int:
    length = 0
    for a, b in zip(left, right, strict=False):
        if a != b:
            break
        length += 1
    return length
