"""Repos of given records, built in memory: the oracle that readers are tested against.

- `build_car` returns the bytes of a valid CAR for `{key: record}`.
- `build_repo` returns a `BuiltRepo`, with all its parts.

They are made of functions that check nothing (`encode`, `node`, `section` and so on), which can
therefore build repos that are not valid.

This module shares no code with the readers of the library. Its tree is the plain recursive
definition of a Merkle Search Tree.
"""

from __future__ import annotations

import base64
import hashlib
import math
import random
import struct
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, TypeAlias, cast

__all__ = [
    "BASE32",
    "DID",
    "REV",
    "TID_ALPHABET",
    "BuiltRepo",
    "Entry",
    "Link",
    "Order",
    "RawRecord",
    "build_car",
    "build_repo",
    "car_header",
    "cbor_head",
    "cid_of",
    "cid_text",
    "commit",
    "common_prefix",
    "encode",
    "key_height",
    "node",
    "section",
    "tid",
    "tree_of",
    "varint",
    "write_car",
]


Order: TypeAlias = Literal["shuffled", "stream", "export"]
"""The order of the blocks in a CAR.

- `"stream"`: as a walk needs them, each once: the commit, then each node before what is below it,
  and the records in key order. A reader can then walk while it reads.
- `"export"`: as the reference server exports them: newest revision first, and by descending text of
  the CID within a revision. The commit is among the first blocks, not always the first. Revisions
  are taken from the keys that are TIDs; other keys count as the oldest.
- `"shuffled"`: at random, including the commit, the same for the same seed.
"""

DID = "did:plc:testrepotestrepotestrepo"
"""The default account of a built repo."""

REV = "3zzzzzzzzzzzz"
"""The default revision of a built repo: a TID far in the future."""

Entry: TypeAlias = tuple[int, bytes, bytes, bytes | None]
"""An entry of a tree node, in the form of the node's block.

It has four parts: how many bytes the key shares with the key before, the rest of the key, the CID
of the record, and the CID of the subtree after it or `None`.
"""

_DAG_CBOR = 0x71
_UNSIGNED = bytes(64)


# --- DAG-CBOR --------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Link:
    """A link to another block, for use in a record.

    Attributes:
        cid: the binary CID, without the zero byte that precedes it in CBOR.
    """

    cid: bytes


@dataclass(frozen=True, slots=True)
class RawRecord:
    """A record given as the bytes of its block, which need not be valid.

    Attributes:
        data: the block.
        cid: the binary CID that the tree names it by, which need not be that of the block; `None`
            for the usual one.
    """

    data: bytes
    cid: bytes | None = None


def encode(value: object) -> bytes:
    """Encode a value as canonical DAG-CBOR.

    Args:
        value: `None`, a `bool`, `int`, `float`, `str`, `bytes`, `bytearray` or `Link`, or a
            sequence or a mapping of such values, nested as deep as Python's recursion limit allows.

    Returns:
        The only canonical encoding of the value.

    Raises:
        TypeError: if the value, or anything in it, has no encoding in DAG-CBOR.
        ValueError: if an integer does not fit in 64 bits, a float is not finite, or a string is
            not valid Unicode.
    """
    match value:
        case None:
            return b"\xf6"
        case bool():
            return b"\xf5" if value else b"\xf4"
        case int():
            return cbor_head(0, value) if value >= 0 else cbor_head(1, -1 - value)
        case float():
            if not math.isfinite(value):
                raise ValueError(f"DAG-CBOR has no {value}")
            return struct.pack(">Bd", 0xFB, value)
        case str():
            text = value.encode()
            return cbor_head(3, len(text)) + text
        case bytes() | bytearray():
            return cbor_head(2, len(value)) + value
        case Link():
            return _link(value.cid)
        case Mapping():
            return _map(cast("Mapping[object, object]", value))
        case Sequence():
            items = cast("Sequence[object]", value)
            return cbor_head(4, len(items)) + b"".join(map(encode, items))
        case _:
            raise TypeError(f"DAG-CBOR has no {type(value).__name__}")


def _map(items: Mapping[object, object]) -> bytes:
    for key in items:
        if not isinstance(key, str):
            raise TypeError(f"a DAG-CBOR map key must be a string, not {type(key).__name__}")
    # The head of a key grows with its length, so this sorts by length first, as DAG-CBOR requires.
    pairs = sorted((encode(key), encode(value)) for key, value in items.items())
    return cbor_head(5, len(pairs)) + b"".join(key + value for key, value in pairs)


def cbor_head(major: int, number: int) -> bytes:
    """Return a CBOR head: three bits of type, and a number in as few bytes as possible."""
    kind = major << 5
    if number < 24:
        return bytes((kind | number,))
    if number < 1 << 8:
        return bytes((kind | 24, number))
    if number < 1 << 16:
        return struct.pack(">BH", kind | 25, number)
    if number < 1 << 32:
        return struct.pack(">BI", kind | 26, number)
    if number < 1 << 64:
        return struct.pack(">BQ", kind | 27, number)
    raise ValueError("DAG-CBOR integers have at most 64 bits")


def _link(cid: bytes) -> bytes:
    return b"\xd8\x2a" + cbor_head(2, len(cid) + 1) + b"\0" + cid


# --- CIDs and CAR ----------------------------------------------------------------------------


def cid_of(data: bytes, codec: int = _DAG_CBOR) -> bytes:
    """Return the CID of a block.

    Args:
        data: the bytes of the block.
        codec: the multicodec of the content, DAG-CBOR by default; that of raw bytes is 0x55.

    Returns:
        A binary CIDv1 with a SHA-256 digest: 36 bytes if the codec takes one byte.
    """
    return b"\x01" + varint(codec) + b"\x12\x20" + hashlib.sha256(data).digest()


def varint(number: int) -> bytes:
    """Encode a number as an unsigned varint (LEB128), seven bits a byte, low bits first.

    Args:
        number: zero or more.

    Returns:
        The shortest encoding.

    Raises:
        ValueError: if the number is negative.
    """
    if number < 0:
        raise ValueError("a varint cannot be negative")
    encoded = bytearray()
    while number > 0x7F:
        encoded.append(number & 0x7F | 0x80)
        number >>= 7
    encoded.append(number)
    return bytes(encoded)


def car_header(roots: Iterable[bytes]) -> bytes:
    """Encode the header of a CARv1 file, including its length prefix.

    Args:
        roots: binary CIDs. A repo has one root, the commit.

    Returns:
        The first bytes of the CAR file.
    """
    header = encode({"roots": [Link(root) for root in roots], "version": 1})
    return varint(len(header)) + header


def section(cid: bytes, data: bytes) -> bytes:
    """Encode a block as a section of a CAR file.

    Args:
        cid: the binary CID, which need not be that of the data.
        data: the bytes of the block.

    Returns:
        The section: the length of CID and data as a varint, the CID, and the data.
    """
    return varint(len(cid) + len(data)) + cid + data


def write_car(roots: Iterable[bytes], blocks: Iterable[tuple[bytes, bytes]]) -> bytes:
    """Return a CARv1 file of the given blocks, without any checks.

    Args:
        roots: binary CIDs for the header.
        blocks: the `(cid, data)` of each block, in order.

    Returns:
        The bytes of the file.
    """
    return car_header(roots) + b"".join(section(cid, data) for cid, data in blocks)


# --- Repos -----------------------------------------------------------------------------------


def tid(number: int) -> str:
    """Return the TID of a number: 13 characters, the form of all revisions and of most rkeys.

    Args:
        number: 63 bits: microseconds since 1970, times 1024, plus a clock identifier. A greater
            number has a greater TID.

    Returns:
        The TID.

    Raises:
        ValueError: if the number is negative or has more than 63 bits.
    """
    if not 0 <= number < 1 << 63:
        raise ValueError("a TID has 63 bits")
    pairs = [_TID_PAIRS[number >> shift & 1023] for shift in (50, 40, 30, 20, 10, 0)]
    return TID_ALPHABET[number >> 60] + "".join(pairs)


TID_ALPHABET = "234567abcdefghijklmnopqrstuvwxyz"
_TID_PAIRS = [high + low for high in TID_ALPHABET for low in TID_ALPHABET]


def key_height(key: str | bytes) -> int:
    """Return the height of a key in the tree, which readers call its depth.

    Args:
        key: the key, `collection/rkey`.

    Returns:
        How many pairs of zero bits the SHA-256 digest of the key starts with: 0 for three of four
        keys.
    """
    digest = hashlib.sha256(key.encode() if isinstance(key, str) else key).digest()
    return (256 - int.from_bytes(digest, "big").bit_length()) // 2


def node(left: bytes | None, entries: Iterable[Entry] = ()) -> bytes:
    """Encode a node of the Merkle Search Tree, without any checks.

    Args:
        left: the CID of the subtree before the first entry, or `None`.
        entries: its entries, in order; see `Entry`.

    Returns:
        The block of the node.
    """
    encoded = [
        b"".join(
            (
                b"\xa4\x61k",
                cbor_head(2, len(suffix)),
                suffix,
                b"\x61p",
                encode(prefix),
                b"\x61t",
                b"\xf6" if tree is None else _link(tree),
                b"\x61v",
                _link(value),
            )
        )
        for prefix, suffix, value, tree in entries
    ]
    start = b"\xa2\x61e" + cbor_head(4, len(encoded))
    return start + b"".join(encoded) + b"\x61l" + (b"\xf6" if left is None else _link(left))


def commit(
    data: bytes,
    *,
    did: str = DID,
    rev: str = REV,
    sign: Callable[[bytes], bytes] | None = None,
) -> bytes:
    """Encode a commit of repo version 3.

    Args:
        data: the CID of the root node.
        did: the account.
        rev: the revision, a TID.
        sign: returns the signature, 64 bytes, for the bytes of the commit without its signature.
            By default the signature is 64 zero bytes.

    Returns:
        The block of the commit.
    """
    unsigned = {"data": Link(data), "did": did, "prev": None, "rev": rev, "version": 3}
    signature = sign(encode(unsigned)) if sign else _UNSIGNED
    return encode({**unsigned, "sig": signature})


def tree_of(records: Mapping[str, bytes]) -> tuple[bytes, dict[bytes, bytes]]:
    """Build the Merkle Search Tree of records.

    Args:
        records: the CID of the record at each key, in any order.

    Returns:
        The CID of the root node, and all nodes by CID, each before those below it.
    """
    tree = _tree(records)
    return tree.cid, dict(tree.nodes())


@dataclass(frozen=True, slots=True)
class _Leaf:
    """A key, the CID of its record, and its height."""

    key: bytes
    value: bytes
    height: int


@dataclass(frozen=True, slots=True)
class _Tree:
    """A node and all that is below it: a subtree, then a leaf and a subtree for each entry."""

    cid: bytes
    data: bytes
    left: _Tree | None
    entries: list[tuple[_Leaf, _Tree | None]]

    def nodes(self) -> Iterator[tuple[bytes, bytes]]:
        """Yield all nodes, each before those below it."""
        yield self.cid, self.data
        for tree in (self.left, *(tree for _, tree in self.entries)):
            if tree:
                yield from tree.nodes()

    def walk(self) -> Iterator[bytes]:
        """Yield the CIDs of all nodes and records in the order in which a walk needs them."""
        yield self.cid
        if self.left:
            yield from self.left.walk()
        for leaf, tree in self.entries:
            yield leaf.value
            if tree:
                yield from tree.walk()

    def way(self, key: bytes) -> Iterator[bytes]:
        """Yield the CIDs of the nodes from here to a key, and of its record if there is one."""
        yield self.cid
        tree = self.left
        for leaf, right in self.entries:
            if leaf.key == key:
                yield leaf.value
                return
            if leaf.key > key:
                break
            tree = right
        if tree:
            yield from tree.way(key)

    def date(self, revisions: dict[bytes, str]) -> str:
        """Add for each CID the newest revision at or below it, and return that of this tree."""
        newest = self.left.date(revisions) if self.left else ""
        for leaf, tree in self.entries:
            revision = _revision(leaf.key.decode())
            # The server does not store a block again, so the oldest of its dates counts.
            revisions[leaf.value] = min(revision, revisions.get(leaf.value, revision))
            newest = max(newest, revision, tree.date(revisions) if tree else "")
        revisions[self.cid] = min(newest, revisions.get(self.cid, newest))
        return newest


def _revision(key: str) -> str:
    """Return the revision of a record: its rkey if that is a TID, else the oldest, an empty one."""
    name = key.rpartition("/")[2]
    return name if len(name) == 13 and set(name) <= set(TID_ALPHABET) else ""


def _tree(records: Mapping[str, bytes]) -> _Tree:
    keys = sorted((key.encode(), value) for key, value in records.items())
    leaves = [_Leaf(key, value, key_height(key)) for key, value in keys]
    return _subtree(leaves, max((leaf.height for leaf in leaves), default=0))


def _subtree(leaves: list[_Leaf], layer: int) -> _Tree:
    """Build the tree of leaves in key order, none of them above the layer."""
    own = [index for index, leaf in enumerate(leaves) if leaf.height == layer]
    # The leaves before, between and after those of this layer, for the layer below.
    spans = [
        leaves[start:stop]
        for start, stop in zip([0, *(i + 1 for i in own)], [*own, len(leaves)], strict=True)
    ]
    left, *rights = [_subtree(span, layer - 1) if span else None for span in spans]
    entries = list(zip((leaves[index] for index in own), rights, strict=True))
    data = _node_of(left, entries)
    return _Tree(cid_of(data), data, left, entries)


def _node_of(left: _Tree | None, entries: list[tuple[_Leaf, _Tree | None]]) -> bytes:
    before = b""
    compressed: list[Entry] = []
    for leaf, tree in entries:
        prefix = common_prefix(before, leaf.key)
        compressed.append((prefix, leaf.key[prefix:], leaf.value, tree.cid if tree else None))
        before = leaf.key
    return node(left.cid if left else None, compressed)


def common_prefix(one: bytes, other: bytes) -> int:
    """Return how many bytes two keys have in common at their start."""
    for index, (left, right) in enumerate(zip(one, other, strict=False)):
        if left != right:
            return index
    return min(len(one), len(other))


@dataclass(frozen=True)
class BuiltRepo:
    """A repo with all its parts. `build_repo` makes it.

    For a repo with a block that does not match its CID, replace the blocks:
    `dataclasses.replace(repo, blocks={**repo.blocks, cid: b"wrong"})`.

    Attributes:
        commit_cid: the CID of the commit.
        commit: the block of the commit.
        root: the CID of the root node.
        nodes: the CIDs of all nodes, each before those below it.
        records: the CID of each record, in key order.
        blocks: all blocks by CID, in `"stream"` order.
        revisions: the revision of each block as a TID: the newest one of the records at and below
            it. That of a record is its rkey; an rkey that is not a TID counts as `""`, the oldest.
    """

    commit_cid: bytes
    commit: bytes
    root: bytes
    nodes: tuple[bytes, ...]
    records: dict[str, bytes]
    blocks: dict[bytes, bytes] = field(repr=False)
    revisions: dict[bytes, str] = field(repr=False)

    def ordered(self, order: Order, seed: int = 0) -> list[bytes]:
        """Return the CIDs of all blocks, each once, in an order.

        Args:
            order: the order; see `Order`.
            seed: the seed of `"shuffled"`.

        Returns:
            The CIDs.

        Raises:
            ValueError: if there is no such order.
        """
        cids = list(self.blocks)
        match order:
            case "stream":
                pass
            case "export":
                cids.sort(
                    key=lambda cid: (self.revisions.get(cid, ""), cid_text(cid)), reverse=True
                )
            case "shuffled":
                random.Random(seed).shuffle(cids)  # noqa: S311 - no secret
            case _:
                raise ValueError(f"no such order: {order!r}")
        return cids

    def to_car(
        self,
        *,
        order: Order = "shuffled",
        seed: int = 0,
        copies: int = 1,
        extra_blocks: Iterable[tuple[bytes, bytes]] = (),
        omit: Iterable[bytes] = (),
        extra_roots: Iterable[bytes] = (),
    ) -> bytes:
        """Return the repo as a CAR file.

        Args:
            order: the order of the blocks; see `Order`.
            seed: the seed of `"shuffled"`.
            copies: how often to write each block of the repo: one copy after the other, or anywhere
                if the order is `"shuffled"`.
            extra_blocks: the `(cid, data)` of more blocks, which are not checked: at the end, or
                anywhere if the order is `"shuffled"`.
            omit: the CIDs of blocks to leave out.
            extra_roots: CIDs for the header, after that of the commit.

        Returns:
            The bytes of the file.

        Raises:
            ValueError: if there is no such order.
        """
        omitted = frozenset(omit)
        blocks = [
            (cid, self.blocks[cid])
            for cid in self.ordered(order, seed)
            if cid not in omitted
            for _ in range(copies)
        ]
        extra = list(extra_blocks)
        blocks += extra
        if order == "shuffled" and (extra or copies > 1):
            random.Random(seed).shuffle(blocks)  # noqa: S311 - no secret
        return write_car([self.commit_cid, *extra_roots], blocks)

    def proof(self, key: str) -> list[bytes]:
        """Return the CIDs of the blocks that prove what the repo has at a key.

        Args:
            key: the key, whether or not there is a record.

        Returns:
            The commit, the nodes on the way to the key, and the record if there is one.
        """
        return [self.commit_cid, *_tree(self.records).way(key.encode())]


def cid_text(cid: bytes) -> bytes:
    """Return bytes that sort as the text of a CID does."""
    return base64.b32encode(cid)


def build_repo(
    records: Mapping[str, object],
    *,
    did: str = DID,
    rev: str = REV,
    sign: Callable[[bytes], bytes] | None = None,
) -> BuiltRepo:
    """Build a repo, with all its parts.

    Args:
        records: the record of each key (`collection/rkey`), in any order: a value for `encode`, or
            a `RawRecord`. Keys are not checked.
        did: the account.
        rev: the revision, a TID.
        sign: returns the signature, 64 bytes, for the bytes of the commit without its signature.
            By default the signature is 64 zero bytes.

    Returns:
        The repo. Equal records share one block.

    Raises:
        TypeError, ValueError: if a record has no encoding; see `encode`.
    """
    encoded = {
        key: value.data if isinstance(value, RawRecord) else encode(value)
        for key, value in sorted(records.items())
    }
    cids = {key: _cid_of_record(records[key], data) for key, data in encoded.items()}
    tree = _tree(cids)
    head = commit(tree.cid, did=did, rev=rev, sign=sign)
    head_cid = cid_of(head)

    nodes = dict(tree.nodes())
    found = {head_cid: head, **nodes, **{cids[key]: data for key, data in encoded.items()}}
    revisions: dict[bytes, str] = {}
    revisions[head_cid] = tree.date(revisions)
    return BuiltRepo(
        commit_cid=head_cid,
        commit=head,
        root=tree.cid,
        nodes=tuple(nodes),
        records=cids,
        blocks={cid: found[cid] for cid in (head_cid, *tree.walk())},
        revisions=revisions,
    )


def _cid_of_record(record: object, data: bytes) -> bytes:
    given = record.cid if isinstance(record, RawRecord) else None
    return cid_of(data) if given is None else given


def build_car(
    records: Mapping[str, object],
    *,
    did: str = DID,
    rev: str = REV,
    sign: Callable[[bytes], bytes] | None = None,
    order: Order = "shuffled",
    seed: int = 0,
    copies: int = 1,
    extra_blocks: Iterable[tuple[bytes, bytes]] = (),
    omit: Iterable[bytes] = (),
    extra_roots: Iterable[bytes] = (),
) -> bytes:
    """Build a repo, and return it as a CAR file.

    Args:
        records: the record of each key (`collection/rkey`), in any order: a value for `encode`, or
            a `RawRecord`. Keys are not checked.
        did: the account.
        rev: the revision, a TID.
        sign: returns the signature, 64 bytes, for the bytes of the commit without its signature.
            By default the signature is 64 zero bytes.
        order: the order of the blocks; see `Order`.
        seed: the seed of `"shuffled"`.
        copies: how often to write each block; see `BuiltRepo.to_car`.
        extra_blocks: more blocks to write; see `BuiltRepo.to_car`.
        omit: the CIDs of blocks to leave out.
        extra_roots: CIDs for the header, after that of the commit.

    Returns:
        The bytes of the file.

    Raises:
        TypeError, ValueError: if a record has no encoding; see `encode`.
        ValueError: if there is no such order.
    """
    return build_repo(records, did=did, rev=rev, sign=sign).to_car(
        order=order,
        seed=seed,
        copies=copies,
        extra_blocks=extra_blocks,
        omit=omit,
        extra_roots=extra_roots,
    )


# For `bytes.translate`: turns noise into the characters of base32.
BASE32 = b"abcdefghijklmnopqrstuvwxyz234567" * 8
