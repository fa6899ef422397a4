"""Make repos to test with: any records, any block order, any size.

Three ways to a CAR file, from the handy to the huge:

- `build_car` turns `{rkey: record}` into the bytes of a valid CAR;
- `build_repo` does the same and keeps every part in reach, for tests that need to know them;
- `made_car` streams a CAR of as many made records as asked for, in little memory, and
  `made_records` says what a reader must find in it.

Below them lie the pieces (`encode`, `node`, `section` and so on), which check nothing, so that
they can build what no honest repo contains.

This module shares no code with the readers of this library, so it can serve as their oracle. That
is also why the small builder is the plain recursive definition of the tree, and the streaming one
is tested against it.

From the command line:

    python -m repo_stream.testing OUT.car --records 300000 --order shuffled --seed 0
"""

from __future__ import annotations

import argparse
import base64
import functools
import hashlib
import math
import random
import struct
from array import array
from collections.abc import (
    AsyncGenerator,
    Callable,
    Iterable,
    Iterator,
    Mapping,
    Sequence,
)
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Literal, TypeAlias, cast, get_args

import anyio
import anyio.lowlevel

__all__ = [
    "COLLECTIONS",
    "DID",
    "REV",
    "Entry",
    "Link",
    "Order",
    "RawRecord",
    "Repo",
    "build_car",
    "build_repo",
    "car_header",
    "cid_of",
    "commit",
    "encode",
    "key_height",
    "made_car",
    "made_records",
    "node",
    "section",
    "tid",
    "tree_of",
    "varint",
    "write_car",
]

Order: TypeAlias = Literal["shuffled", "stream", "export"]
"""How the blocks of a CAR follow each other.

- `"stream"`: as a walk needs them, each once: the commit, then each node before what is below it,
  and each record where its key comes. A reader can then walk while it reads.
- `"export"`: as the reference server exports them: newest revision first, and by descending CID
  text within one. The commit is among the first, not always the first. The keys that are TIDs
  tell the revisions; other keys count as the oldest.
- `"shuffled"`: at random, the commit included, the same way for the same seed.
"""

DID = "did:plc:testrepotestrepotestrepo"
"""The account of a built repo, unless another is given."""

REV = "3zzzzzzzzzzzz"
"""The revision of a built repo, unless another is given: a TID later than any of our time."""

Entry: TypeAlias = tuple[int, bytes, bytes, bytes | None]
"""An entry of a tree node, as it is written.

How many bytes of the key are those of the key before, the rest of the key, the CID of the record,
and the CID of the subtree after it or `None`.
"""

_DAG_CBOR = 0x71
_UNSIGNED = bytes(64)


# --- DAG-CBOR --------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Link:
    """A link to another block, for use inside a record.

    Attributes:
        cid: The binary CID, without the zero byte that CBOR puts before it.
    """

    cid: bytes


@dataclass(frozen=True, slots=True)
class RawRecord:
    """A record given as the bytes of its block, which may be anything at all.

    Attributes:
        data: The block, taken as it is.
    """

    data: bytes


def encode(value: object) -> bytes:
    """Encode a value as canonical DAG-CBOR.

    Args:
        value: `None`, a `bool`, `int`, `float`, `str`, `bytes`, `bytearray` or `Link`, or a
            sequence or a mapping of such values, as deep as Python's recursion limit allows.

    Returns:
        The one encoding that DAG-CBOR has for the value.

    Raises:
        TypeError: If the value, a map key or something within has no place in the data model.
        ValueError: If an integer does not fit in 64 bits, a float is not finite, or a string is
            not valid Unicode.
    """
    match value:
        case None:
            return b"\xf6"
        case bool():
            return b"\xf5" if value else b"\xf4"
        case int():
            return _head(0, value) if value >= 0 else _head(1, -1 - value)
        case float():
            if not math.isfinite(value):
                raise ValueError(f"DAG-CBOR has no {value}")
            return struct.pack(">Bd", 0xFB, value)
        case str():
            text = value.encode()
            return _head(3, len(text)) + text
        case bytes() | bytearray():
            return _head(2, len(value)) + value
        case Link():
            return _link(value.cid)
        case Mapping():
            return _map(cast("Mapping[object, object]", value))
        case Sequence():
            items = cast("Sequence[object]", value)
            return _head(4, len(items)) + b"".join(map(encode, items))
        case _:
            raise TypeError(f"DAG-CBOR has no {type(value).__name__}")


def _map(items: Mapping[object, object]) -> bytes:
    for key in items:
        if not isinstance(key, str):
            raise TypeError(f"a DAG-CBOR map key must be a string, not {type(key).__name__}")
    # The head of a key grows with its length: so this sorts by length first, as DAG-CBOR wants.
    pairs = sorted((encode(key), encode(value)) for key, value in items.items())
    return _head(5, len(pairs)) + b"".join(key + value for key, value in pairs)


def _head(major: int, number: int) -> bytes:
    """A CBOR head: three bits of type, and a number in as few bytes as it takes."""
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
    return b"\xd8\x2a" + _head(2, len(cid) + 1) + b"\0" + cid


# --- CIDs and CAR ----------------------------------------------------------------------------


def cid_of(data: bytes, codec: int = _DAG_CBOR) -> bytes:
    """Name a block by its content.

    Args:
        data: The bytes of the block.
        codec: The multicodec of the content: DAG-CBOR, unless given; raw blobs have 0x55.

    Returns:
        A binary CIDv1 with a SHA-256 digest: 36 bytes where the codec takes one.
    """
    return b"\x01" + varint(codec) + b"\x12\x20" + hashlib.sha256(data).digest()


def varint(number: int) -> bytes:
    """Encode a number as an unsigned varint (LEB128), seven bits a byte, low bits first.

    Args:
        number: Zero or more.

    Returns:
        The shortest encoding.

    Raises:
        ValueError: If the number is negative.
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
    """Encode the head of a CARv1 file, its length included.

    Args:
        roots: Binary CIDs. A repo has one root, the commit.

    Returns:
        The bytes a CAR file starts with.
    """
    header = encode({"roots": [Link(root) for root in roots], "version": 1})
    return varint(len(header)) + header


def section(cid: bytes, data: bytes) -> bytes:
    """Encode one block as a CAR file holds it.

    Args:
        cid: The binary CID, which may be a lie.
        data: The bytes of the block.

    Returns:
        A varint that counts both, the CID and the data.
    """
    return varint(len(cid) + len(data)) + cid + data


def write_car(roots: Iterable[bytes], blocks: Iterable[tuple[bytes, bytes]]) -> bytes:
    """Write a CARv1 file of exactly these blocks, with no checks.

    Args:
        roots: Binary CIDs for the header.
        blocks: The `(cid, data)` of each block, in order.

    Returns:
        The whole file.
    """
    return car_header(roots) + b"".join(section(cid, data) for cid, data in blocks)


# --- Repos -----------------------------------------------------------------------------------


def tid(number: int) -> str:
    """Write a number as a TID, the 13 characters that most record keys and all revisions are.

    Args:
        number: 63 bits: microseconds since 1970, times 1024, plus a clock identifier. The greater
            number gives the greater TID.

    Returns:
        The TID.

    Raises:
        ValueError: If the number is negative or has more than 63 bits.
    """
    if not 0 <= number < 1 << 63:
        raise ValueError("a TID has 63 bits")
    pairs = [_TID_PAIRS[number >> shift & 1023] for shift in (50, 40, 30, 20, 10, 0)]
    return _TID_ALPHABET[number >> 60] + "".join(pairs)


_TID_ALPHABET = "234567abcdefghijklmnopqrstuvwxyz"
_TID_PAIRS = [high + low for high in _TID_ALPHABET for low in _TID_ALPHABET]


def key_height(key: str | bytes) -> int:
    """Find the layer of the tree a key lives in.

    Args:
        key: The repo path, `collection/record-key`.

    Returns:
        How many pairs of zero bits the SHA-256 digest of the key starts with: 0 for three keys in
        four.
    """
    digest = hashlib.sha256(key.encode() if isinstance(key, str) else key).digest()
    return (256 - int.from_bytes(digest, "big").bit_length()) // 2


def node(left: bytes | None, entries: Iterable[Entry] = ()) -> bytes:
    """Encode a node of the Merkle search tree, with no checks.

    Args:
        left: The CID of the subtree before the first entry, or `None`.
        entries: Its entries, in order; see `Entry`.

    Returns:
        The block of the node.
    """
    encoded = [
        b"".join(
            (
                b"\xa4\x61k",
                _head(2, len(suffix)),
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
    start = b"\xa2\x61e" + _head(4, len(encoded))
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
        data: The CID of the root node.
        did: The account.
        rev: The revision, a TID.
        sign: Given the bytes of the commit without its signature, returns the signature, 64
            bytes. Without it the signature is 64 zero bytes.

    Returns:
        The block of the commit.
    """
    unsigned = {"data": Link(data), "did": did, "prev": None, "rev": rev, "version": 3}
    signature = sign(encode(unsigned)) if sign else _UNSIGNED
    return encode({**unsigned, "sig": signature})


def tree_of(records: Mapping[str, bytes]) -> tuple[bytes, dict[bytes, bytes]]:
    """Build the Merkle search tree over records.

    Args:
        records: The CID of the record at each key, in any order.

    Returns:
        The CID of the root, and all nodes by CID, each before those below it.
    """
    tree = _tree(records)
    return tree.cid, dict(tree.nodes())


@dataclass(frozen=True, slots=True)
class _Leaf:
    """A key, the CID of its record, and the layer it belongs to."""

    key: bytes
    value: bytes
    height: int


@dataclass(frozen=True, slots=True)
class _Tree:
    """A node with all that is below it: a subtree, then a leaf and a subtree for each entry."""

    cid: bytes
    data: bytes
    left: _Tree | None
    entries: list[tuple[_Leaf, _Tree | None]]

    def nodes(self) -> Iterator[tuple[bytes, bytes]]:
        """All nodes, each before those below it."""
        yield self.cid, self.data
        for tree in (self.left, *(tree for _, tree in self.entries)):
            if tree:
                yield from tree.nodes()

    def walk(self) -> Iterator[bytes]:
        """The CIDs of all nodes and records, as a walk in key order needs them."""
        yield self.cid
        if self.left:
            yield from self.left.walk()
        for leaf, tree in self.entries:
            yield leaf.value
            if tree:
                yield from tree.walk()

    def date(self, revisions: dict[bytes, str]) -> str:
        """Note for each CID the newest revision at or below it, and return that of this tree."""
        newest = self.left.date(revisions) if self.left else ""
        for leaf, tree in self.entries:
            revision = _revision(leaf.key.decode())
            # The server keeps a block that it has already: so the oldest of its dates counts.
            revisions[leaf.value] = min(revision, revisions.get(leaf.value, revision))
            newest = max(newest, revision, tree.date(revisions) if tree else "")
        revisions[self.cid] = min(newest, revisions.get(self.cid, newest))
        return newest


def _revision(key: str) -> str:
    """When the record of a key was written: a TID tells, anything else was there at the start."""
    name = key.rpartition("/")[2]
    return name if len(name) == 13 and set(name) <= set(_TID_ALPHABET) else ""


def _tree(records: Mapping[str, bytes]) -> _Tree:
    keys = sorted((key.encode(), value) for key, value in records.items())
    leaves = [_Leaf(key, value, key_height(key)) for key, value in keys]
    return _subtree(leaves, max((leaf.height for leaf in leaves), default=0))


def _subtree(leaves: list[_Leaf], layer: int) -> _Tree:
    """Build the tree of leaves in key order, none of them higher than the layer."""
    own = [index for index, leaf in enumerate(leaves) if leaf.height == layer]
    # What lies before, between and after this layer's own leaves, one layer down.
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
        prefix = _common_prefix(before, leaf.key)
        compressed.append((prefix, leaf.key[prefix:], leaf.value, tree.cid if tree else None))
        before = leaf.key
    return node(left.cid if left else None, compressed)


def _common_prefix(one: bytes, other: bytes) -> int:
    for index, (left, right) in enumerate(zip(one, other, strict=False)):
        if left != right:
            return index
    return min(len(one), len(other))


@dataclass(frozen=True)
class Repo:
    """A repo with all its parts, made by `build_repo`.

    A repo with wrong bytes under a right CID is one with other blocks:
    `dataclasses.replace(repo, blocks={**repo.blocks, cid: b"wrong"})`.

    Attributes:
        commit_cid: The CID of the commit.
        commit: The block of the commit.
        root: The CID of the root node.
        nodes: The CIDs of all nodes, each before those below it.
        records: The CID of each record, in key order.
        blocks: All blocks by CID, in `"stream"` order.
        revisions: The TID that tells when each block was written, if the keys tell the history:
            the newest among those of the records at and below it. Keys that are no TIDs count as
            `""`, before all others.
    """

    commit_cid: bytes
    commit: bytes
    root: bytes
    nodes: tuple[bytes, ...]
    records: dict[str, bytes]
    blocks: dict[bytes, bytes] = field(repr=False)
    revisions: dict[bytes, str] = field(repr=False)

    def ordered(self, order: Order, seed: int = 0) -> list[bytes]:
        """List the CIDs of all blocks, each once, in an order.

        Args:
            order: Which order; see `Order`.
            seed: What `"shuffled"` depends on.

        Returns:
            The CIDs.

        Raises:
            ValueError: If there is no such order.
        """
        cids = list(self.blocks)
        match order:
            case "stream":
                pass
            case "export":
                cids.sort(key=lambda cid: (self.revisions.get(cid, ""), _text(cid)), reverse=True)
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
        """Write the repo as a CAR file.

        Args:
            order: How the blocks follow each other; see `Order`.
            seed: What `"shuffled"` depends on.
            copies: How often each block of the repo is written: in a row, or if the order is
                `"shuffled"` anywhere.
            extra_blocks: More `(cid, data)` to write, once each: at the end, or if the order is
                `"shuffled"` anywhere. Nothing is checked.
            omit: CIDs of blocks of the repo to leave out.
            extra_roots: CIDs for the header, after that of the commit.

        Returns:
            The whole file.

        Raises:
            ValueError: If there is no such order.
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


def _text(cid: bytes) -> bytes:
    """What the text of a CID sorts like."""
    return base64.b32encode(cid)


def build_repo(
    records: Mapping[str, object],
    *,
    did: str = DID,
    rev: str = REV,
    sign: Callable[[bytes], bytes] | None = None,
) -> Repo:
    """Build a repo and keep all its parts.

    Args:
        records: The record at each key (`collection/record-key`), in any order: a value that
            `encode` takes, or a `RawRecord`. Keys are not checked.
        did: The account.
        rev: The revision, a TID.
        sign: Given the bytes of the commit without its signature, returns the signature, 64
            bytes. Without it the signature is 64 zero bytes.

    Returns:
        The repo. Records that are equal share one block.

    Raises:
        TypeError: If a record has no encoding.
        ValueError: If a record has no encoding.
    """
    encoded = {
        key: value.data if isinstance(value, RawRecord) else encode(value)
        for key, value in sorted(records.items())
    }
    cids = {key: cid_of(data) for key, data in encoded.items()}
    tree = _tree(cids)
    head = commit(tree.cid, did=did, rev=rev, sign=sign)
    head_cid = cid_of(head)

    nodes = dict(tree.nodes())
    found = {head_cid: head, **nodes, **{cids[key]: data for key, data in encoded.items()}}
    revisions: dict[bytes, str] = {}
    revisions[head_cid] = tree.date(revisions)
    return Repo(
        commit_cid=head_cid,
        commit=head,
        root=tree.cid,
        nodes=tuple(nodes),
        records=cids,
        blocks={cid: found[cid] for cid in (head_cid, *tree.walk())},
        revisions=revisions,
    )


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
    """Build a repo and write it as a CAR file.

    Args:
        records: The record at each key (`collection/record-key`), in any order: a value that
            `encode` takes, or a `RawRecord`. Keys are not checked.
        did: The account.
        rev: The revision, a TID.
        sign: Given the bytes of the commit without its signature, returns the signature, 64
            bytes. Without it the signature is 64 zero bytes.
        order: How the blocks follow each other; see `Order`.
        seed: What `"shuffled"` depends on.
        copies: How often each block of the repo is written: in a row, or if the order is
            `"shuffled"` anywhere.
        extra_blocks: More `(cid, data)` to write, once each: at the end, or if the order is
            `"shuffled"` anywhere. Nothing is checked.
        omit: CIDs of blocks of the repo to leave out.
        extra_roots: CIDs for the header, after that of the commit.

    Returns:
        The whole file.

    Raises:
        TypeError: If a record has no encoding.
        ValueError: If a record has no encoding, or there is no such order.
    """
    return build_repo(records, did=did, rev=rev, sign=sign).to_car(
        order=order,
        seed=seed,
        copies=copies,
        extra_blocks=extra_blocks,
        omit=omit,
        extra_roots=extra_roots,
    )


# --- Made records ----------------------------------------------------------------------------
#
# A made record is a function of the seed and its number in time, so none is ever kept: whoever
# needs its bytes makes them again. What varies is cut from the hash of that number, and put into
# forms that the general encoder has made once.

COLLECTIONS: Mapping[str, float] = {
    "app.bsky.feed.like": 60,
    "app.bsky.feed.post": 27,
    "app.bsky.graph.follow": 13,
}
"""The collections of made records, each with its share."""

_PROFILE_KEY = "app.bsky.actor.profile/self"
_START = datetime(2023, 4, 1, tzinfo=UTC)
_START_US = int(_START.timestamp()) * 1_000_000
_STEP_US = 60_000_000
_ABOUT_POSTS = ("app.bsky.feed.like", "app.bsky.feed.repost")
_SLOTS = 1000
_PAUSE = 256

# What bytes of noise become: base32, TID characters, and the first and the last character of a
# digest in base32, which have fewer bits to spend.
_BASE32 = b"abcdefghijklmnopqrstuvwxyz234567" * 8
_SORTABLE = _TID_ALPHABET.encode() * 8
_DIGEST_FIRST = b"abcdefgh" * 32
_DIGEST_LAST = b"aeimquy4" * 32

# Blanks in forms, as long as what comes in their place, and made of bytes nothing else has.
_CID_BLANK = "\1" * 59
_DID_BLANK = "did:plc:" + "\2" * 24
_TID_BLANK = "\3" * 13
_TIME_BLANK = "\4" * 24
_DIGEST_BLANK = "\5" * 32
_POST_BLANKS = (_CID_BLANK, _DID_BLANK, _TID_BLANK)
_POST_BLANK = {"cid": _CID_BLANK, "uri": f"at://{_DID_BLANK}/app.bsky.feed.post/{_TID_BLANK}"}
_BLOB_BLANK = {
    "$type": "blob",
    "ref": Link(b"\x01\x55\x12\x20" + _DIGEST_BLANK.encode()),
    "mimeType": "image/jpeg",
    "size": 333_000,
}


def _form(value: object, *blanks: str) -> bytes:
    """Encode a value with blanks in it as a format for `%`, with a `%b` for each in turn."""
    form = encode(value).replace(b"%", b"%%")
    for blank in blanks:
        form = form.replace(blank.encode(), b"%b", 1)
    return form


def _item(name: str, value: object) -> bytes:
    return encode(name) + encode(value)


_TIME_FIELD = encode("createdAt") + _form(_TIME_BLANK, _TIME_BLANK)
_TYPE_FIELD = _item("$type", "app.bsky.feed.post")
_LANGS_FIELDS = [
    _item("langs", langs)
    for langs in (["en"], ["en"], ["en"], ["en"], ["pt"], ["ja"], ["de", "en"], ["en-GB"])
]
_REPLY_FIELD = encode("reply") + _form(
    {"parent": _POST_BLANK, "root": _POST_BLANK}, *_POST_BLANKS, *_POST_BLANKS
)
_EMBED_FIELD = encode("embed") + _form(
    {
        "$type": "app.bsky.embed.images",
        "images": [
            {"alt": "", "image": _BLOB_BLANK, "aspectRatio": {"width": 1500, "height": 2000}}
        ],
    },
    _DIGEST_BLANK,
)
_PROFILE_FORM = _form(
    {
        "$type": "app.bsky.actor.profile",
        "avatar": _BLOB_BLANK,
        "createdAt": _TIME_BLANK,
        "description": "Nobody wrote any of this.",
        "displayName": "Made Up",
    },
    _DIGEST_BLANK,
    _TIME_BLANK,
)

_WORDS = (
    "a about after again all and are as at back be because been before but by came can cloud come "
    "could day did do down each even every find first for from garden get give go good great had "
    "has have he her here him his home how i if in into is it just know last like little long look "
    "made make many may me more morning most much must my never new no not now of off old on one "
    "only or other our out over people place rain read right river said same say see she should "
    "small so some still such take tea than that the their them then there these they thing think "
    "this those thought time to today too tree two under up us very walk was way we well went were "
    "what when where which while who why will with work would write year you your "
    "café naïve schön über ação você où ça 日本 東京 空 привет мир ✨ 🌱 🐦 😂 ❤️"
)


@functools.cache
def _corpus() -> str:
    """The text that posts are cut from, over 65,536 characters of it and room for one more."""
    words = _WORDS.split()
    noise = hashlib.shake_128(b"corpus").digest(1 << 15)
    return " ".join(
        words[int.from_bytes(noise[at : at + 2], "big") % len(words)]
        for at in range(0, len(noise), 2)
    )


class _Made:
    """The made records of one seed, by their number in time and in key order.

    The first is the profile. Then a thousand slots, dealt to the collections, come round and round.
    """

    def __init__(self, count: int, seed: int, collections: Mapping[str, float]) -> None:
        if count < 0:
            raise ValueError("a repo cannot have fewer than no records")
        self.count = count
        self._seed = seed
        self._clock = seed & 1023
        self._slots = _deal(collections, seed)
        self._forms = {name: _subject_form(name) for name in collections}

    def in_key_order(self) -> Iterator[int]:
        """The numbers of all records, sorted by their keys."""
        members: dict[str, list[int]] = {name + "/": [] for name in self._forms}
        for slot, name in enumerate(self._slots):
            members[name + "/"].append(slot)
        for prefix in sorted([*members, _PROFILE_KEY]):
            if prefix != _PROFILE_KEY:
                for base in range(0, self.count, _SLOTS):
                    for slot in members[prefix]:
                        if 0 < base + slot < self.count:
                            yield base + slot
            elif self.count:
                yield 0

    def key(self, number: int) -> str:
        """The key of a record."""
        if number == 0:
            return _PROFILE_KEY
        return f"{self._slots[number % _SLOTS]}/{self.tid(number)}"

    def tid(self, number: int) -> str:
        """The TID of the moment of a number."""
        return tid((_START_US + self._moment(number)) << 10 | self._clock)

    def record(self, number: int) -> bytes:
        """The block of a record."""
        noise = hashlib.shake_128(b"%d/%d" % (self._seed, number)).digest(192)
        time = (_START + timedelta(microseconds=self._moment(number))).isoformat(
            timespec="milliseconds"
        )
        when = time[:23].encode() + b"Z"
        if number == 0:
            return _PROFILE_FORM % (noise[:32], when)
        name = self._slots[number % _SLOTS]
        if name == "app.bsky.feed.post":
            return _post(noise, when)
        if name in _ABOUT_POSTS:
            return self._forms[name] % (*_reference(noise), when)
        return self._forms[name] % (_did(noise), when)

    def _moment(self, number: int) -> int:
        """Microseconds since the start, unevenly, but ever more."""
        return number * _STEP_US + (number * 0x9E3779B1 + self._seed) % _STEP_US


def _deal(collections: Mapping[str, float], seed: int) -> list[str]:
    """Deal a thousand slots to the collections by their shares, and mix them."""
    total = sum(collections.values())
    if not total > 0 or min(collections.values()) < 0:
        raise ValueError("the shares of the collections must be positive")
    slots: list[str] = []
    dealt = 0.0
    for name, share in collections.items():
        dealt += share
        slots += [name] * (round(dealt / total * _SLOTS) - len(slots))
    mixed = sorted(range(_SLOTS), key=lambda slot: hashlib.sha256(b"%d/%d" % (seed, slot)).digest())
    return [slots[slot] for slot in mixed]


def _subject_form(name: str) -> bytes:
    """The form of a record about a post, or else about an account."""
    if name in _ABOUT_POSTS:
        record = {"$type": name, "subject": _POST_BLANK, "createdAt": _TIME_BLANK}
        return _form(record, *_POST_BLANKS, _TIME_BLANK)
    record = {"$type": name, "subject": _DID_BLANK, "createdAt": _TIME_BLANK}
    return _form(record, _DID_BLANK, _TIME_BLANK)


def _did(noise: bytes) -> bytes:
    """An account, from 24 bytes of noise."""
    return b"did:plc:" + noise[:24].translate(_BASE32)


def _reference(noise: bytes) -> tuple[bytes, bytes, bytes]:
    """The CID, account and record key of a post, from 87 bytes of noise."""
    return (
        b"bafyrei"
        + noise[24:25].translate(_DIGEST_FIRST)
        + noise[25:75].translate(_BASE32)
        + noise[75:76].translate(_DIGEST_LAST),
        _did(noise),
        b"3l" + noise[76:87].translate(_SORTABLE),
    )


def _post(noise: bytes, when: bytes) -> bytes:
    """A post, from 192 bytes of noise.

    The text has some 100 characters and never more than 300, one post in ten has a link, three in
    five are replies, one in four has an image.
    """
    *dice, high, low = noise[-8:]
    corpus = _corpus()
    start = corpus.find(" ", high << 8 | low) + 1
    text = corpus[start : start + min(270, 8 + dice[0] * dice[1] // 144)].rpartition(" ")[0]
    facets = None
    if dice[2] < 26:
        text, facets = _with_link(text, noise[:11].translate(_SORTABLE).decode())

    fields = [_item("text", text), _TYPE_FIELD]
    if dice[3] < 64:
        fields.append(_EMBED_FIELD % noise[:32])
    fields.append(_LANGS_FIELDS[dice[4] & 7])
    if dice[5] < 154:
        root = _reference(noise)
        parent = root if dice[5] < 77 else _reference(noise[87:174])
        fields.append(_REPLY_FIELD % (*parent, *root))
    if facets:
        fields.append(_item("facets", facets))
    fields.append(_TIME_FIELD % when)
    return _head(5, len(fields)) + b"".join(fields)


def _with_link(text: str, slug: str) -> tuple[str, list[object]]:
    """Put a link after a text, and tell where it is, in bytes."""
    uri = f"https://example.com/{slug}"
    start = len(text.encode()) + 1
    feature = {"$type": "app.bsky.richtext.facet#link", "uri": uri}
    index = {"byteStart": start, "byteEnd": start + len(uri)}
    return f"{text} {uri}", [{"index": index, "features": [feature]}]


def made_records(
    count: int, *, seed: int = 0, collections: Mapping[str, float] = COLLECTIONS
) -> Iterator[tuple[str, bytes]]:
    """Make records that look like those of an active account, in key order.

    One is a profile. The others have TID keys, and are like posts, likes, reposts, follows and
    blocks of `app.bsky`, by their collection; in any other, they are about an account, as follows
    are. All are different. They are made one at a time and not kept.

    Args:
        count: How many, the profile included.
        seed: What the records depend on, besides `count` and `collections`.
        collections: The share of each collection, precise to a thousandth of the repo.

    Yields:
        The key (`collection/record-key`) and the block of each record.

    Raises:
        ValueError: If `count` is negative, or if the shares are not positive numbers.
    """
    made = _Made(count, seed, collections)
    for number in made.in_key_order():
        yield made.key(number), made.record(number)


# --- Made repos ------------------------------------------------------------------------------


@dataclass(slots=True)
class _OpenNode:
    """A node to which entries are still being added."""

    left: bytes | None = None
    entries: list[Entry] = field(default_factory=list[Entry])
    key: bytes = b""
    group: int = -1


class _Forest:
    """The tree over keys that come in order, as the bytes of finished nodes.

    One node a layer is open. A key closes those of the layers below its own: nothing more can
    come into them. Each node is of a group, that the groups of its keys decide on.
    """

    def __init__(self, groups: int, choose: Callable[[int, int], int]) -> None:
        self._choose = choose
        self._open = [_OpenNode()]
        self._data = bytearray()
        self._ends = array("Q", [0])
        # Nodes of one group form a list, the latest first. Zero ends it: so nodes count from 1.
        self._latest = array("I", [0]) * groups
        self._next = array("I", [0])

    def __len__(self) -> int:
        """How many nodes are finished."""
        return len(self._next) - 1

    def add(self, key: bytes, cid: bytes, group: int) -> None:
        """Add the next key."""
        height = key_height(key)
        while len(self._open) <= height:
            self._open.append(_OpenNode())
        for layer in range(height):
            self._close(layer)
        parent = self._open[height]
        prefix = _common_prefix(parent.key, key)
        parent.entries.append((prefix, key[prefix:], cid, None))
        parent.key = key
        self._join(parent, group)

    def finish(self) -> bytes:
        """Finish the tree, and return the block of its root, which is in no group."""
        for layer in range(len(self._open) - 1):
            self._close(layer)
        root = self._open[-1]
        return node(root.left, root.entries)

    def block(self, number: int) -> bytes:
        """The block of a finished node, which count from 1."""
        return bytes(self._data[self._ends[number - 1] : self._ends[number]])

    def group(self, group: int) -> Iterator[bytes]:
        """The blocks of a group, the latest finished first: so a node before those below it."""
        number = self._latest[group]
        while number:
            yield self.block(number)
            number = self._next[number]

    def _close(self, layer: int) -> None:
        closed = self._open[layer]
        if not closed.entries and closed.left is None:
            return
        data = node(closed.left, closed.entries)
        self._data += data
        self._ends.append(len(self._data))
        self._next.append(self._latest[closed.group])
        self._latest[closed.group] = len(self._next) - 1

        parent = self._open[layer + 1]
        if parent.entries:
            parent.entries[-1] = (*parent.entries[-1][:3], cid_of(data))
        else:
            parent.left = cid_of(data)
        self._join(parent, closed.group)
        self._open[layer] = _OpenNode()

    def _join(self, parent: _OpenNode, group: int) -> None:
        parent.group = group if parent.group < 0 else self._choose(parent.group, group)


async def made_car(
    count: int,
    *,
    did: str = DID,
    rev: str | None = None,
    sign: Callable[[bytes], bytes] | None = None,
    order: Order = "shuffled",
    seed: int = 0,
    collections: Mapping[str, float] = COLLECTIONS,
    piece_size: int = 1 << 16,
) -> AsyncGenerator[bytes, None]:
    """Stream a CAR of `made_records`, of which there may be millions.

    It takes about 100 bytes of memory a record, and lets other tasks run now and then. The first
    piece comes when all records have been made once. Whoever stops early should close it
    (`contextlib.aclosing`), as any async generator.

    Args:
        count: How many records, the profile included.
        did: The account.
        rev: The revision; the TID of the moment after the last record, unless given.
        sign: Given the bytes of the commit without its signature, returns the signature, 64
            bytes. Without it the signature is 64 zero bytes.
        order: How the blocks follow each other; see `Order`.
        seed: What the records depend on, and the order if it is `"shuffled"`. The records are the
            same in any order.
        collections: The share of each collection, precise to a thousandth of the repo.
        piece_size: The size of each piece in bytes; the last may be smaller.

    Yields:
        The pieces of the file.

    Raises:
        ValueError: If there is no such order, `count` is negative, `piece_size` is not positive,
            or the shares are not positive numbers.
    """
    if order not in get_args(Order):
        raise ValueError(f"no such order: {order!r}")
    if piece_size < 1:
        raise ValueError("a piece has at least one byte")
    made = _Made(count, seed, collections)
    forest = _Forest(count, max if order == "export" else min)
    for place, number in enumerate(made.in_key_order()):
        group = number if order == "export" else place
        forest.add(made.key(number).encode(), cid_of(made.record(number)), group)
        if place % _PAUSE == 0:
            await anyio.lowlevel.checkpoint()

    root = forest.finish()
    head = commit(cid_of(root), did=did, rev=rev or made.tid(count), sign=sign)
    if order == "shuffled":
        blocks = _shuffled([head, root], made, forest, seed)
    elif order == "stream":
        blocks = _streamed([head, root], made, forest)
    else:
        blocks = _exported([head, root], made, forest)

    pieces = bytearray(car_header([cid_of(head)]))
    for place, data in enumerate(blocks):
        pieces += section(cid_of(data), data)
        while len(pieces) >= piece_size:
            yield bytes(pieces[:piece_size])
            del pieces[:piece_size]
        if place % _PAUSE == 0:
            await anyio.lowlevel.checkpoint()
    if pieces:
        yield bytes(pieces)


def _shuffled(top: list[bytes], made: _Made, forest: _Forest, seed: int) -> Iterator[bytes]:
    nodes = made.count + len(forest)
    places = array("I", range(nodes + len(top)))
    random.Random(seed).shuffle(places)  # noqa: S311 - no secret
    for place in places:
        if place < made.count:
            yield made.record(place)
        elif place < nodes:
            yield forest.block(place - made.count + 1)
        else:
            yield top[place - nodes]


def _streamed(top: list[bytes], made: _Made, forest: _Forest) -> Iterator[bytes]:
    """The nodes of a group are those whose first key has that place: they come right before it."""
    yield from top
    for place, number in enumerate(made.in_key_order()):
        yield from forest.group(place)
        yield made.record(number)


def _exported(top: list[bytes], made: _Made, forest: _Forest) -> Iterator[bytes]:
    """The nodes of a group are those whose newest record has that number, as the top has too."""
    batch = top
    for number in reversed(range(made.count)):
        batch = [*batch, *forest.group(number), made.record(number)]
        yield from sorted(batch, key=_cid_text, reverse=True)
        batch = []
    yield from sorted(batch, key=_cid_text, reverse=True)  # the top, where there are no records


def _cid_text(data: bytes) -> bytes:
    return _text(cid_of(data))


# --- Command line ----------------------------------------------------------------------------


def main(arguments: Sequence[str] | None = None) -> None:
    """Write a CAR of made records to a file, as the command line says.

    Args:
        arguments: The arguments; those of the process, unless given.
    """
    parser = argparse.ArgumentParser(
        prog="python -m repo_stream.testing", description="Write a CAR file of made records."
    )
    parser.add_argument("out", metavar="OUT.car")
    parser.add_argument("--records", type=int, default=1000, metavar="N")
    parser.add_argument("--order", choices=get_args(Order), default="shuffled")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--did", default=DID)
    options = parser.parse_args(arguments)
    pieces = made_car(options.records, did=options.did, order=options.order, seed=options.seed)
    anyio.run(_write, options.out, pieces)


async def _write(path: str, pieces: AsyncGenerator[bytes, None]) -> None:
    async with await anyio.open_file(path, "wb") as file:
        async for piece in pieces:
            await file.write(piece)


if __name__ == "__main__":
    main()
