"""Some hundreds of hostile CARs, each with the error that it must give.

To add one, add a line to `CASES`:

    case("what is wrong", the_car, TheError, field_of_the_error=value)

For a node that is bad by itself use `bad_node`, which makes two cases of it: once it is the root of
the tree, once it hangs below a good root, whose record must be delivered before the error. For a
bad commit use `bad_commit`. A CAR that is big, or slow to make, is given as a function.

Three more arguments say how it is read and what must come out: `before`, the keys delivered before
the error (none, unless given); `verify=False` for CARs whose blocks lie about their CIDs, which is
the only way to a node that contains itself; and `limits`.

The bytes are put together from `repo_stream.testing`, which checks nothing.
"""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cache, partial
from typing import Any, Final

from repo_stream import (
    BadCarHeader,
    BadCommit,
    BadNodeLink,
    BadRoot,
    BadSectionCid,
    BadVarint,
    BareRoot,
    CarTrailingData,
    ChildBelowLeaf,
    CidMismatch,
    EmptyNode,
    EmptySection,
    InvalidKey,
    KeyOutOfOrder,
    KeyOutOfRange,
    LimitExceeded,
    Limits,
    MalformedNode,
    MissingBlock,
    MissingCommit,
    MissingRoot,
    NodePrefixNotMinimal,
    NodePrefixTooLong,
    NotACar,
    NothingNew,
    RepoStreamError,
    TruncatedCar,
    UnsupportedCarVersion,
    WrongDepth,
)
from repo_stream.testing import (
    DID,
    REV,
    Entry,
    Link,
    build_repo,
    car_header,
    cid_of,
    commit,
    encode,
    key_height,
    node,
    section,
    varint,
    write_car,
)

MIB: Final = 1 << 20


@dataclass(frozen=True)
class Hostile:
    """A hostile CAR, how to read it, and what must come of it."""

    name: str
    car: Callable[[], bytes]
    error: type[RepoStreamError]
    fields: dict[str, Any]
    before: tuple[str, ...]
    verify: bool
    limits: Limits


# --- Keys, records, trees -------------------------------------------------------------------------

RECORD: Final = encode({"text": "a record"})
RECORD_CID: Final = cid_of(RECORD)
#: The second of the two records that the corpus uses; no other key has it.
OTHER: Final = encode({"text": "another record"})
OTHER_CID: Final = cid_of(OTHER)
NULL: Final = b"\xf6"


@cache
def keys(height: int, count: int, start: bytes = b"com.example.k/") -> tuple[bytes, ...]:
    """Find keys of a height, in order; all begin with `start`."""
    numbered = (start + b"%06d" % number for number in itertools.count())
    return tuple(itertools.islice((key for key in numbered if key_height(key) == height), count))


def after(key: bytes, height: int, count: int) -> tuple[bytes, ...]:
    """Find keys of a height that sort after `key` and before the next key of `keys`."""
    return keys(height, count, key + b"-")


def link(cid: bytes) -> bytes:
    return encode(Link(cid))


def fake(name: str) -> bytes:
    """A CID as trees have them, with a name for a digest."""
    return b"\x01\x71\x12\x20" + name.encode().ljust(32, b"\0")


def shared_bytes(one: bytes, other: bytes) -> int:
    pairs = itertools.takewhile(lambda pair: pair[0] == pair[1], zip(one, other, strict=False))
    return sum(1 for _ in pairs)


#: A node and all that is below it, its own block first.
Nodes = list[bytes]


def made(
    *rows: bytes | tuple[bytes, Nodes], left: Nodes | None = None, record: bytes = RECORD_CID
) -> Nodes:
    """Make a node of keys, each alone or with the subtree after it; nothing is checked."""
    previous = b""
    entries: list[Entry] = []
    below = list(left or ())
    for row in rows:
        key, subtree = row if isinstance(row, tuple) else (row, None)
        prefix = shared_bytes(previous, key)
        tree_cid = cid_of(subtree[0]) if subtree is not None else None
        entries.append((prefix, key[prefix:], record, tree_cid))
        below += subtree or ()
        previous = key
    block = node(cid_of(left[0]) if left is not None else None, entries)
    return list(dict.fromkeys([block, *below]))


def car_of(head: bytes, *blocks: bytes) -> bytes:
    """A CAR with this commit and these blocks."""
    return write_car([cid_of(head)], [(cid_of(block), block) for block in (head, *blocks)])


def tree(nodes: Nodes, *more: bytes) -> bytes:
    """A CAR with these nodes, the first of them the root, and the record of all keys."""
    return car_of(commit(cid_of(nodes[0])), *nodes, RECORD, *more)


def forged(root: bytes, **nodes: bytes) -> bytes:
    """A CAR of nodes whose CIDs are the `fake` ones of their names; the root is a CID."""
    head = commit(root)
    blocks = [(fake(name), block) for name, block in nodes.items()]
    return write_car([cid_of(head)], [(cid_of(head), head), *blocks, (RECORD_CID, RECORD)])


def text(some: Iterable[bytes]) -> tuple[str, ...]:
    return tuple(key.decode() for key in some)


#: Two keys of height 1, keys of height 0 before, between and after them, and keys of height 2.
EARLY: Final = (b"com.example.a/1", b"com.example.a/3", b"com.example.a/6")
TOP, NEXT = keys(1, 2)
A, B, C = after(TOP, 0, 3)
LATE: Final = after(NEXT, 0, 3)
HIGH, HIGHER = keys(2, 2)
UNDER_HIGH: Final = after(HIGH, 1, 3)
for _key in EARLY:
    assert key_height(_key) == 0


# --- Nodes, byte by byte --------------------------------------------------------------------------


def item(
    *,
    k: bytes = encode(A),
    p: bytes = b"\0",
    t: bytes = NULL,
    v: bytes = link(RECORD_CID),
    start: bytes = b"\xa4",
    end: bytes = b"",
) -> bytes:
    """An entry from the CBOR of its four fields."""
    return start + b"\x61k" + k + b"\x61p" + p + b"\x61t" + t + b"\x61v" + v + end


def entry_of(names: str) -> bytes:
    """An entry with the fields of these names, in this order."""
    values = {"k": encode(A), "p": b"\0", "t": NULL, "v": link(RECORD_CID)}
    fields = [encode(name) + values.get(name, NULL) for name in names]
    return bytes([0xA0 + len(fields)]) + b"".join(fields)


def body(*items: bytes, left: bytes = NULL, count: bytes | None = None) -> bytes:
    """A node from the bytes of its entries; `count` is the head of their array."""
    head = bytes([0x80 + len(items)]) if count is None else count
    return b"\xa2\x61e" + head + b"".join(items) + b"\x61l" + left


def growing(first: int, count: int) -> bytes:
    """A node whose keys all share the whole key before and add a byte."""
    rows: list[Entry] = [(0, b"k" * first, RECORD_CID, None)]
    rows += [(first + n, b"k", RECORD_CID, None) for n in range(count)]
    return node(None, rows)


def sharing(first: int, count: int) -> bytes:
    """A node whose keys share all but two bytes of a very long first key."""
    rows: list[Entry] = [(0, b"k" * first, RECORD_CID, None)]
    rows += [(first - 2, b"l" + bytes([n % 200]), RECORD_CID, None) for n in range(count)]
    return node(None, rows)


# --- The cases ------------------------------------------------------------------------------------

CASES: Final[list[Hostile]] = []


def maker(data: bytes | Callable[[], bytes]) -> Callable[[], bytes]:
    """What makes the data, once at most."""
    return partial(bytes, data) if isinstance(data, bytes) else cache(data)


def case(
    name: str,
    car: bytes | Callable[[], bytes],
    error: type[RepoStreamError],
    *,
    before: Sequence[str] = (),
    verify: bool = True,
    limits: Limits | None = None,
    **fields: Any,
) -> None:
    """Add a case; `fields` are those of the error."""
    CASES.append(
        Hostile(name, maker(car), error, fields, tuple(before), verify, limits or Limits())
    )


def bad_node(
    name: str,
    block: bytes | Callable[[], bytes],
    error: type[RepoStreamError],
    *,
    limits: Limits | None = None,
    **fields: Any,
) -> None:
    """Add two cases for a node that is bad by itself: as the root, and below a good root."""
    make = maker(block)

    def below() -> bytes:
        bad = make()
        return tree(made((TOP, [bad])))

    case(f"root node: {name}", lambda: tree([make()]), error, limits=limits, **fields)
    case(f"child node: {name}", below, error, before=text([TOP]), limits=limits, **fields)


COMMIT: Final[dict[str, object]] = {
    "did": DID,
    "version": 3,
    "data": Link(cid_of(made(A)[0])),
    "rev": REV,
    "prev": None,
    "sig": bytes(64),
}


def commit_with(**changes: object) -> bytes:
    return encode({**COMMIT, **changes})


def commit_without(name: str) -> bytes:
    return encode({key: value for key, value in COMMIT.items() if key != name})


def bad_commit(name: str, head: bytes, field: str | None, **more: Any) -> None:
    """Add a case for a bad commit above a good tree; `field` is the one at fault."""
    car = car_of(head, made(A)[0], RECORD)
    case(f"commit: {name}", car, BadCommit, cid=cid_of(head), field=field, **more)


def chosen(*names: str) -> list[Hostile]:
    """Get the cases of these names, and see that every error is among them."""
    by_name = {case.name: case for case in CASES}
    found = [by_name[name] for name in names]
    assert {case.error for case in found} == {case.error for case in CASES}
    return found


GOOD: Final = tree(made(A, B, C))
HEAD: Final = commit(cid_of(made(A)[0]))


def header_only(data: bytes) -> bytes:
    return varint(len(data)) + data


def at_end(data: bytes) -> bytes:
    return GOOD + data


# The file itself.
END: Final = len(GOOD)
ROOTS: Final = b"\x65roots\x81" + link(RECORD_CID)
VERSION: Final = b"\x67version\x01"
case("header: an empty file", b"", TruncatedCar, offset=0)
case("header: cut in its length", b"\xba", TruncatedCar, offset=0)
case("header: cut in the middle", GOOD[:30], TruncatedCar, offset=0, have=30)
case("header: of length zero", b"\0" + GOOD, BadCarHeader, offset=0)
case("header: a terabyte long", varint(1 << 40) + GOOD[1:9], LimitExceeded, limit="header_bytes")
case("header: length not minimal", b"\xba\x80\0" + GOOD[1:], BadVarint, offset=0)
case("header: length of ten bytes", b"\xff" * 9 + b"\1", BadVarint, offset=0)
case("header: CARv2", header_only(encode({"version": 2})), UnsupportedCarVersion, version=2)
case(
    "header: version 0", header_only(b"\xa2" + ROOTS + VERSION[:-1] + b"\0"), UnsupportedCarVersion
)
case("header: version true", header_only(b"\xa2" + ROOTS + VERSION[:-1] + b"\xf5"), BadCarHeader)
case("header: version 1.0", header_only(b"\xa2" + ROOTS + b"\x67version\xf9\x3c\0"), BadCarHeader)
case("header: version a text", header_only(encode({"roots": [], "version": "1"})), BadCarHeader)
case("header: no version", header_only(encode({"roots": [Link(RECORD_CID)]})), BadCarHeader)
case("header: no roots", header_only(encode({"version": 1})), BadCarHeader)
case("header: not CBOR", header_only(b"<!DOCTYPE html>"), NotACar)
case("header: a list", header_only(encode([1])), NotACar)
case("header: bytes after it", header_only(b"\xa2" + ROOTS + VERSION + b"\0"), BadCarHeader)
case("header: unsorted", header_only(b"\xa2" + VERSION + ROOTS), BadCarHeader)
case("header: indefinite", header_only(b"\xbf" + ROOTS + VERSION + b"\xff"), BadCarHeader)
case("header: a field twice", header_only(b"\xa3" + ROOTS + ROOTS + VERSION), BadCarHeader)
case("header: more fields", header_only(encode({"roots": [], "version": 1, "x": 0})), BadCarHeader)
case("header: roots a map", header_only(encode({"roots": {}, "version": 1})), BadCarHeader)
case("header: roots are bytes", header_only(encode({"roots": [b"\0"], "version": 1})), BadCarHeader)
case(
    "header: a tag on the root",
    header_only(encode({"roots": [Link(b"")], "version": 1})),
    BadCarHeader,
)
case("header: 60,000 nested lists", header_only(b"\x81" * 60_000), NotACar)
case(
    "header: claims 2^62 roots",
    header_only(b"\xa1\x65roots\x9b" + b"\x40" + bytes(7)),
    BadCarHeader,
)
case(
    "header: claims 2^62 bytes",
    header_only(b"\xa1\x65roots\x5b" + b"\x40" + bytes(7)),
    BadCarHeader,
)
case("root CID: none", car_header([]), MissingRoot)
case("root CID: of raw bytes", car_header([cid_of(HEAD, 0x55)]), BadRoot, cid=cid_of(HEAD, 0x55))
case("root CID: SHA-512", car_header([b"\x01\x71\x13\x40" + bytes(64)]), BadRoot)
case("root CID: BLAKE3", car_header([b"\x01\x71\x1e\x20" + bytes(32)]), BadRoot)
case("root CID: CIDv0", car_header([b"\x12\x20" + bytes(32)]), BadRoot)
case("root CID: identity", car_header([b"\x01\x71\x00\x01\xa0"]), BadRoot)
case(
    "root CID: its block is missing",
    write_car([cid_of(HEAD)], [(RECORD_CID, RECORD)]),
    MissingCommit,
    cid=cid_of(HEAD),
)
case("root CID: no block", write_car([cid_of(HEAD)], []), NothingNew, cid=cid_of(HEAD))
case(
    "root CID: the commit is the second root",
    write_car([RECORD_CID, cid_of(HEAD)], [(cid_of(HEAD), HEAD)]),
    MissingCommit,
    cid=RECORD_CID,
)
case("section: of length zero", at_end(b"\0"), EmptySection, offset=END)
case("section: padded with zeros", at_end(bytes(4096)), EmptySection, offset=END)
case("section: length not minimal", at_end(b"\x81\x00" + b"a"), BadVarint, offset=END)
case("section: length of ten bytes", at_end(b"\x80" * 10 + b"\1"), BadVarint, offset=END)
case("section: a terabyte long", at_end(varint(1 << 40)), LimitExceeded, actual=1 << 40)
case("section: 2^63 - 1 bytes long", at_end(varint((1 << 63) - 1)), LimitExceeded)
case("section: shorter than a CID", at_end(b"\x10" + bytes(16)), BadSectionCid, offset=END)
case("section: ends inside its CID", at_end(b"\x20" + RECORD_CID), BadSectionCid, offset=END)
case("section: CID version 2", at_end(section(b"\2" + RECORD_CID[1:], b"")), BadSectionCid)
case(
    "section: a vast digest", at_end(section(b"\1\x71\x12" + varint(1 << 40), b"x")), BadSectionCid
)
case("section: an endless CID", at_end(section(b"\xff" * 40, b"x")), BadSectionCid, offset=END)
case("section: cut in its length", at_end(b"\xff"), TruncatedCar, offset=END, have=1)
case("section: cut in its CID", at_end(b"\x50" + RECORD_CID[:9]), TruncatedCar, offset=END)
case("section: cut in its data", at_end(section(RECORD_CID, RECORD)[:-1]), TruncatedCar, offset=END)
case("section: text after the end", at_end(b"\r\n"), CarTrailingData, offset=END)
case("section: JSON after the end", at_end(b'{"error":"Oops"}'), CarTrailingData, offset=END)
case(
    "section: one byte over the limit",
    lambda: at_end(section(cid_of(bytes(2 * MIB - 35)), bytes(2 * MIB - 35))),
    LimitExceeded,
    limit="block_bytes",
    maximum=2 * MIB,
    actual=2 * MIB + 1,
)
case("limit: bytes of the CAR", GOOD, LimitExceeded, limits=Limits(car_bytes=99), limit="car_bytes")
case("limit: blocks", GOOD, LimitExceeded, limits=Limits(blocks=2), limit="blocks", actual=3)

# Hashes.
FLIPPED: Final = RECORD[:-1] + bytes([RECORD[-1] ^ 1])
case(
    "hash: a record", at_end(section(RECORD_CID, FLIPPED)), CidMismatch, cid=RECORD_CID, offset=END
)
case("hash: a record cut short", at_end(section(RECORD_CID, RECORD[:-1])), CidMismatch, offset=END)
case("hash: a record gone", at_end(section(RECORD_CID, b"")), CidMismatch, offset=END)
case("hash: a byte too many", at_end(section(RECORD_CID, RECORD + b"\0")), CidMismatch)
case(
    "hash: a block outside the tree", at_end(section(OTHER_CID, RECORD)), CidMismatch, cid=OTHER_CID
)
case("hash: one bit of the CID", at_end(section(OTHER_CID[:-1] + b"\0", OTHER)), CidMismatch)
case("hash: a commit", write_car([cid_of(HEAD)], [(cid_of(HEAD), HEAD + b"x")]), CidMismatch)
case(
    "hash: another account's commit",
    write_car([cid_of(HEAD)], [(cid_of(HEAD), commit(cid_of(made(A)[0]), did="did:plc:other"))]),
    CidMismatch,
    cid=cid_of(HEAD),
)
case(
    "hash: a forged node",
    car_of(HEAD) + section(cid_of(made(A)[0]), made(B)[0]),
    CidMismatch,
    cid=cid_of(made(A)[0]),
)
case("hash: raw bytes", at_end(section(cid_of(b"a", 0x55), b"b")), CidMismatch, offset=END)
case("hash: CIDv0", at_end(section(b"\x12\x20" + bytes(32), b"b")), CidMismatch, offset=END)
case("hash: SHA-512", at_end(section(b"\1\x71\x13\x40" + bytes(64), b"b")), CidMismatch)
case("hash: SHA-384", at_end(section(b"\1\x71\x20\x30" + bytes(48), b"b")), CidMismatch)
case("hash: SHA3-256", at_end(section(b"\1\x71\x16\x20" + bytes(32), b"b")), CidMismatch)
case("hash: BLAKE2b", at_end(section(b"\1\x71\xa0\xe4\2\x20" + bytes(32), b"b")), CidMismatch)
case("hash: identity of other bytes", at_end(section(b"\1\x55\0\1a", b"b")), CidMismatch)
case(
    "hash: SHA-256 cut to 20 bytes",
    at_end(section(b"\1\x71\x12\x14" + hashlib.sha256(OTHER).digest()[:20], OTHER)),
    CidMismatch,
)

# Blocks that are not there.
case("missing: the root node", car_of(HEAD), MissingBlock, kind="node", cid=cid_of(made(A)[0]))
case(
    "missing: a record",
    car_of(commit(cid_of(made(A, B)[0])), made(A, B)[0]),
    MissingBlock,
    kind="record",
    key=A.decode(),
    cid=RECORD_CID,
)
case(
    "missing: a record after others",
    tree([node(None, [(0, A, RECORD_CID, None), (len(A) - 1, B[-1:], OTHER_CID, None)])]),
    MissingBlock,
    before=text([A]),
    kind="record",
    key=B.decode(),
    cid=OTHER_CID,
)
case(
    "missing: a subtree",
    tree(made((TOP, made(A)), NEXT)[:1]),
    MissingBlock,
    before=text([TOP]),
    kind="node",
    key=None,
    cid=cid_of(made(A)[0]),
)
case("missing: a subtree on the left", tree(made(TOP, left=made(A))[:1]), MissingBlock, kind="node")
case(
    "missing: a node that is there under the CID of raw bytes only",
    lambda: car_of(HEAD, RECORD) + section(cid_of(made(A)[0], 0x55), made(A)[0]),
    MissingBlock,
    kind="node",
    cid=cid_of(made(A)[0]),
)

# The commit.
bad_commit("empty", b"", None)
bad_commit("a text", encode("commit"), None)
bad_commit("a list", encode([]), None)
bad_commit("a node", made(B)[0], "data")
bad_commit("a record", OTHER, "data")
bad_commit("not CBOR", b"\xff\xff", None)
bad_commit("bytes after it", commit_with() + b"\0", None)
bad_commit("cut short", commit_with()[:-1], None)
bad_commit("indefinite", b"\xbf" + commit_with()[1:] + b"\xff", None)
bad_commit("unsorted", b"\xa6\x67version\x03" + commit_without("version")[1:], None)
bad_commit("a field twice", b"\xa7" + encode("did") + encode(DID) + commit_with()[1:], None)
bad_commit("version in two bytes", commit_with()[:-1] + b"\x18\x03", None)
bad_commit("long form of a text", commit_with().replace(b"\x63did", b"\x78\x03did"), None)
bad_commit("a tag", commit_with(sig=None).replace(b"sig\xf6", b"sig\xc2\x41\1"), None)
bad_commit("a key that is a number", b"\xa7\x01\x01" + commit_with()[1:], None)
bad_commit("60,000 nested maps", b"\xa1\x61a" * 60_000 + NULL, None)
bad_commit("claims 2^62 entries", b"\xbb\x40" + bytes(7) + commit_with()[1:], None)
bad_commit("claims 2^62 bytes", b"\xa1\x63did\x7b\x40" + bytes(7), None)
for _name in ("data", "did", "rev", "sig", "version"):
    bad_commit(f"{_name} missing", commit_without(_name), _name, reason="is missing")
bad_commit("a field too many", commit_with(extra=1), "extra")
bad_commit("version 2", commit_with(version=2), "version")
bad_commit("version 4", commit_with(version=4), "version")
bad_commit("version -3", commit_with(version=-3), "version")
bad_commit("version true", commit_with(version=True), "version")
bad_commit("version a text", commit_with(version="3"), "version")
bad_commit("version 3.0", commit_with(version=3.0), None)
bad_commit("did null", commit_with(did=None), "did")
bad_commit("did bytes", commit_with(did=DID.encode()), "did")
bad_commit("did empty", commit_with(did=""), "did")
bad_commit("did a handle", commit_with(did="alice.test"), "did")
bad_commit("did of a method in capitals", commit_with(did="did:PLC:abc"), "did")
bad_commit("did with a line after it", commit_with(did=DID + "\n"), "did")
bad_commit("did with a path", commit_with(did=DID + "/path"), "did")
bad_commit("did of 3,000 characters", commit_with(did="did:plc:" + "a" * 2_992), "did")
bad_commit("did of 100,000 characters", commit_with(did="did:plc:" + "a" * 99_992), None)
bad_commit("rev null", commit_with(rev=None), "rev")
bad_commit("rev a number", commit_with(rev=3), "rev")
bad_commit("rev too short", commit_with(rev=REV[:-1]), "rev")
bad_commit("rev too long", commit_with(rev=REV + "z"), "rev")
bad_commit("rev with a line after it", commit_with(rev=REV + "\n"), "rev")
bad_commit("rev over 63 bits", commit_with(rev="zzzzzzzzzzzzz"), "rev")
bad_commit("rev in capitals", commit_with(rev=REV.upper()), "rev")
bad_commit("data null", commit_with(data=None), "data")
bad_commit("data a text", commit_with(data="bafy"), "data")
bad_commit("data bytes", commit_with(data=RECORD_CID), "data")
bad_commit("data raw bytes", commit_with(data=Link(cid_of(b"", 0x55))), "data")
bad_commit("data with SHA-512", commit_with(data=Link(b"\1\x71\x13\x40" + bytes(64))), "data")
bad_commit("data with BLAKE3", commit_with(data=Link(b"\1\x71\x1e\x20" + bytes(32))), "data")
bad_commit("data a CIDv0", commit_with(data=Link(b"\x12\x20" + bytes(32))), "data")
bad_commit("data an empty link", commit_with(data=Link(b"")), None)
bad_commit("data with bytes after it", commit_with(data=Link(RECORD_CID + b"\0")), None)
bad_commit("prev a text", commit_with(prev="bafy"), "prev")
bad_commit("prev false", commit_with(prev=False), "prev")
bad_commit("sig null", commit_with(sig=None), "sig")
bad_commit("sig a text", commit_with(sig="0" * 64), "sig")

# Nodes that are not canonical DAG-CBOR of exactly their fields.
bad_node("an empty block", b"", MalformedNode, offset=0)
bad_node("one byte", b"\xa2", MalformedNode, offset=0)
bad_node("null", NULL, MalformedNode, offset=0)
bad_node("a list", encode([0, None]), MalformedNode, offset=0)
bad_node("a record", OTHER, MalformedNode, offset=0)
bad_node("the key e in long form", b"\xa2\x78\x01e\x80\x61l\xf6", MalformedNode, offset=0)
bad_node("an indefinite map", b"\xbf" + body(item())[1:] + b"\xff", MalformedNode, offset=0)
bad_node("a map in long form", b"\xb8\x02" + body(item())[1:], MalformedNode, offset=0)
bad_node("no field e", b"\xa1\x61l\xf6", MalformedNode, offset=0)
bad_node("no field l", b"\xa1\x61e\x80", MalformedNode, offset=0)
bad_node("no field l, for a map of two", b"\xa2\x61e\x80", MalformedNode)
bad_node("a third field", b"\xa3" + body(item())[1:] + b"\x61z\0", MalformedNode, offset=0)
bad_node("l before e", b"\xa2\x61l\xf6\x61e\x80", MalformedNode, offset=0)
bad_node("e twice", b"\xa2\x61e\x80\x61e\x80", MalformedNode, offset=4)
bad_node("l twice", b"\xa2\x61l\xf6\x61l\xf6", MalformedNode, offset=0)
bad_node("e null", b"\xa2\x61e\xf6\x61l\xf6", MalformedNode, offset=0)
bad_node("e a map", b"\xa2\x61e\xa0\x61l\xf6", MalformedNode, offset=0)
bad_node("e bytes", b"\xa2\x61e\x40\x61l\xf6", MalformedNode, offset=0)
bad_node("an indefinite array", body(item(), count=b"\x9f"), MalformedNode)
bad_node("an array in long form", body(item(), count=b"\x98\x01"), MalformedNode)
bad_node("an array in longer form", body(item(), count=b"\x99\0\x01"), MalformedNode)
bad_node("an array of reserved length", body(item(), count=b"\x9c"), MalformedNode)
bad_node("fewer entries than it says", body(item(), count=b"\x82"), MalformedNode)
bad_node("more entries than it says", body(item(), count=b"\x80"), MalformedNode)
bad_node("an entry that is null", body(NULL), MalformedNode, offset=4)
bad_node("an entry that is a list", body(b"\x84" + item()[1:]), MalformedNode, offset=4)
bad_node("an entry that is a link", body(link(RECORD_CID)), MalformedNode, offset=4)
bad_node("an indefinite entry", body(item(start=b"\xbf", end=b"\xff")), MalformedNode, offset=4)
bad_node("an entry in long form", body(item(start=b"\xb8\x04")), MalformedNode, offset=4)
bad_node("an entry of three", body(item(start=b"\xa3")), MalformedNode, offset=4)
bad_node("an entry of five", body(item(start=b"\xa5", end=b"\x61x\0")), MalformedNode, offset=4)
bad_node("a field more than it says", body(item(end=b"\x61x\0")), MalformedNode)
bad_node("an entry without fields", body(entry_of("")), MalformedNode)
for _names in ("ptv", "ktv", "kpv", "kpt", "pktv", "kptvv", "kpttv", "kpptv", "kkptv"):
    bad_node(f"an entry of the fields {_names}", body(entry_of(_names)), MalformedNode)
for _names in ("ktpv", "kpvt", "tkpv", "vkpt", "kpvv", "kptt", "kppv", "kktv", "KPTV", "kptx"):
    bad_node(f"an entry of the fields {_names}", body(entry_of(_names)), MalformedNode)
bad_node("bytes after it", body(item()) + b"\0", MalformedNode)
bad_node("another node after it", body(item()) * 2, MalformedNode)
bad_node("bytes before the field l", body(item(), b"\0", count=b"\x81"), MalformedNode)
bad_node("bytes between entries", body(item() + b"\0", item()), MalformedNode)
bad_node("cut at the end", body(item())[:-1], MalformedNode)
bad_node("cut in a link", body(item())[:-20], MalformedNode)

# Key suffixes.
bad_node("k a text", body(item(k=encode(A.decode()))), MalformedNode)
bad_node("k null", body(item(k=NULL)), MalformedNode)
bad_node("k a number", body(item(k=b"\x01")), MalformedNode)
bad_node("k in chunks", body(item(k=b"\x5f" + encode(A) + b"\xff")), MalformedNode)
bad_node("k in long form", body(item(k=b"\x58\x01k")), MalformedNode)
bad_node("k in longer form", body(item(k=b"\x59\x00" + bytes([len(A)]) + A)), MalformedNode)
bad_node("k of reserved length", body(item(k=b"\x5d" + A)), MalformedNode)
bad_node("k claims 2^62 bytes", body(item(k=b"\x5b\x40" + bytes(7))), MalformedNode)
bad_node("k reaches over the end", body(item(k=b"\x58\xff" + A)), MalformedNode)
bad_node("k empty", body(item(k=b"\x40")), InvalidKey, key=b"")
bad_node(
    "k of 1,025 bytes",
    body(item(k=encode(bytes(1025)))),
    LimitExceeded,
    limit="key_bytes",
    maximum=1024,
    actual=1025,
)
bad_node(
    "k over a limit of the caller's",
    body(item(k=encode(b"k" * 65))),
    LimitExceeded,
    limits=Limits(key_bytes=64),
    limit="key_bytes",
    actual=65,
)
NOT_UTF8: Final = keys(0, 1, TOP + b"-\xff\xfe")[0]
SURROGATE: Final = keys(0, 1, TOP + b"-\xed\xa0\x80")[0]
bad_node("a key that is not UTF-8", made(NOT_UTF8)[0], InvalidKey, key=NOT_UTF8)
bad_node("a key with half a surrogate", made(A, SURROGATE)[0], InvalidKey, key=SURROGATE)

# Key prefixes.
MANY: Final = 1 << 40
bad_node("p negative", body(item(p=b"\x20")), MalformedNode)
bad_node("p true", body(item(p=b"\xf5")), MalformedNode)
bad_node("p false", body(item(p=b"\xf4")), MalformedNode)
bad_node("p null", body(item(p=NULL)), MalformedNode)
bad_node("p 0.0 in two bytes", body(item(p=b"\xf9\0\0")), MalformedNode)
bad_node("p 0.0 in eight bytes", body(item(p=b"\xfb" + bytes(8))), MalformedNode)
bad_node("p a text", body(item(p=encode("0"))), MalformedNode)
bad_node("p a bignum", body(item(p=b"\xc2\x41\0")), MalformedNode)
bad_node("p in long form", body(item(p=b"\x18\0")), MalformedNode)
bad_node("p in the longest form", body(item(p=b"\x1b" + bytes(8))), MalformedNode)
bad_node(
    "p 1 in the first entry", body(item(p=b"\1")), NodePrefixTooLong, prefix_len=1, previous=b""
)
bad_node("p 2^40", body(item(p=encode(MANY))), NodePrefixTooLong, prefix_len=MANY)
bad_node("p 2^64 - 1", body(item(p=b"\x1b" + b"\xff" * 8)), NodePrefixTooLong)
bad_node(
    "p longer than the key before",
    body(item(), item(k=encode(b"z"), p=encode(len(A) + 1))),
    NodePrefixTooLong,
    prefix_len=len(A) + 1,
    previous=A,
)
bad_node(
    "p zero where bytes are shared",
    body(item(), item(k=encode(B))),
    NodePrefixNotMinimal,
    key=B,
    prefix_len=0,
    expected=shared_bytes(A, B),
)
bad_node(
    "p one short",
    body(item(), item(k=encode(B[shared_bytes(A, B) - 1 :]), p=encode(shared_bytes(A, B) - 1))),
    NodePrefixNotMinimal,
    key=B,
    expected=shared_bytes(A, B),
)
bad_node(
    "p one short of the whole key before",
    body(item(k=encode(b"ab")), item(k=encode(b"bc"), p=b"\1")),
    NodePrefixNotMinimal,
    key=b"abc",
    prefix_len=1,
    expected=2,
)
bad_node("a key twice", body(item(), item()), KeyOutOfOrder, key=A, previous=A)
bad_node(
    "a key twice, as all prefix",
    body(item(), item(k=b"\x40", p=encode(len(A)))),
    KeyOutOfOrder,
    key=A,
    previous=A,
)
bad_node("two keys the wrong way round", made(B, A)[0], KeyOutOfOrder, key=A, previous=B)
bad_node(
    "a key after one that it begins",
    body(item(), item(k=b"\x40", p=encode(len(A) - 1))),
    KeyOutOfOrder,
    key=A[:-1],
    previous=A,
)

# Links.
bad_node("v null", body(item(v=NULL)), MalformedNode)
bad_node("v bytes without a tag", body(item(v=encode(b"\0" + RECORD_CID))), MalformedNode)
bad_node("v a text", body(item(v=encode("bafy"))), MalformedNode)
bad_node("v with another tag", body(item(v=b"\xd8\x2b" + link(RECORD_CID)[2:])), MalformedNode)
bad_node(
    "v with a tag in long form", body(item(v=b"\xd9\0\x2a" + link(RECORD_CID)[2:])), MalformedNode
)
bad_node(
    "v with a length in long form",
    body(item(v=b"\xd8\x2a\x59\0\x25\0" + RECORD_CID)),
    MalformedNode,
)
bad_node(
    "v in chunks", body(item(v=b"\xd8\x2a\x5f\x58\x25\0" + RECORD_CID + b"\xff")), MalformedNode
)
bad_node("v with text under the tag", body(item(v=b"\xd8\x2a\x61a")), MalformedNode)
bad_node("v without its zero", body(item(v=b"\xd8\x2a\x58\x24" + RECORD_CID)), BadNodeLink)
bad_node(
    "v with another byte for zero", body(item(v=b"\xd8\x2a\x58\x25\1" + RECORD_CID)), BadNodeLink
)
bad_node("v empty", body(item(v=b"\xd8\x2a\x40")), BadNodeLink)
bad_node("v with a byte after it", body(item(v=link(RECORD_CID + b"\0"))), BadNodeLink)
bad_node("v cut short", body(item(v=link(RECORD_CID[:-1]))), BadNodeLink)
bad_node("v of version 2", body(item(v=link(b"\2" + RECORD_CID[1:]))), BadNodeLink)
bad_node("v a CIDv0 cut short", body(item(v=link(b"\x12\x20" + bytes(31)))), BadNodeLink)
bad_node("v a longer CIDv0", body(item(v=link(b"\x12\x20" + bytes(33)))), BadNodeLink)
bad_node(
    "v with a long form", body(item(v=link(b"\1\xf1\0\x12\x20" + RECORD_CID[4:]))), BadNodeLink
)
bad_node(
    "v with 129 bytes of digest",
    body(item(v=link(b"\1\x71\x13\x81\1" + bytes(129)))),
    BadNodeLink,
    kind="record",
)
bad_node("t undefined", body(item(t=b"\xf7")), MalformedNode)
bad_node("t false", body(item(t=b"\xf4")), MalformedNode)
bad_node("t zero", body(item(t=b"\0")), MalformedNode)
bad_node("t raw bytes", body(item(t=link(cid_of(RECORD, 0x55)))), BadNodeLink, kind="node")
bad_node("t dag-pb", body(item(t=link(cid_of(RECORD, 0x70)))), BadNodeLink)
bad_node("t a CIDv0", body(item(t=link(b"\x12\x20" + bytes(32)))), BadNodeLink)
bad_node("t with SHA-512", body(item(t=link(b"\1\x71\x13\x40" + bytes(64)))), BadNodeLink)
bad_node("t with BLAKE3", body(item(t=link(b"\1\x71\x1e\x20" + bytes(32)))), BadNodeLink)
bad_node(
    "t with 31 bytes of digest", body(item(t=link(b"\1\x71\x12\x1f" + bytes(31)))), BadNodeLink
)
bad_node("l undefined", body(item(), left=b"\xf7"), MalformedNode)
bad_node("l an empty list", body(item(), left=b"\x80"), MalformedNode)
bad_node("l raw bytes", body(item(), left=link(cid_of(RECORD, 0x55))), BadNodeLink, kind="node")
bad_node("l a CIDv0", body(item(), left=link(b"\x12\x20" + bytes(32))), BadNodeLink)
bad_node("l with SHA-512", body(item(), left=link(b"\1\x71\x13\x40" + bytes(64))), BadNodeLink)
bad_node("l cut short", body(item(), left=link(RECORD_CID)[:-1]), MalformedNode)

# Big nodes.
bad_node("10,000 entries", lambda: made(*after(TOP, 0, 10_000))[0], LimitExceeded, actual=10_000)
bad_node(
    "8,193 entries",
    lambda: made(*after(TOP, 0, 8193))[0],
    LimitExceeded,
    limit="node_entries",
    maximum=8192,
    actual=8193,
)
bad_node("claims 2^40 entries", body(count=b"\x9b" + MANY.to_bytes(8)), LimitExceeded, actual=MANY)
bad_node(
    "entries over a limit of the caller's",
    made(A, B, C)[0],
    LimitExceeded,
    limits=Limits(node_entries=2),
    limit="node_entries",
    actual=3,
)
bad_node("1 MB that spells 4 GiB", lambda: sharing(500_000, 8000), LimitExceeded, actual=500_000)
bad_node("keys that grow and grow", lambda: growing(1000, 2000), LimitExceeded, actual=1025)
bad_node(
    "2 MB of beginnings of entries",
    lambda: body(b"\xa4\x61k\x41" * 500_000, count=b"\x81"),
    MalformedNode,
)
bad_node(
    "2 MB of beginnings of entries in a key",
    lambda: body(item(k=encode(b"\xa4\x61k\x41" * 500_000)), count=b"\x81"),
    LimitExceeded,
    limit="key_bytes",
    actual=2_000_000,
)
bad_node(
    "2 MB of almost entries",
    lambda: body(item()[:-1] * 16_000, count=b"\x99\x1f\xff"),
    MalformedNode,
)


# The shape of the tree.
def tree_case(
    name: str,
    nodes: Nodes,
    error: type[RepoStreamError],
    before: Iterable[bytes] = (),
    *,
    limits: Limits | None = None,
    **fields: Any,
) -> None:
    """Add a case for a tree of nodes that are good by themselves."""
    case(name, tree(nodes), error, before=text(before), limits=limits, **fields)


UNDER: Final = made(A, B)
tree_case("tree: an empty leaf on the left", made(TOP, left=made()), EmptyNode, depth=0)
tree_case("tree: an empty leaf on the right", made((TOP, made())), EmptyNode, [TOP], depth=0)
tree_case("tree: an empty leaf between", made((TOP, made()), NEXT), EmptyNode, [TOP], depth=0)
tree_case("tree: an empty node above leaves", made(HIGH, left=made()), EmptyNode, depth=1)
tree_case(
    "tree: an empty node at the end of a chain",
    made((HIGH, made(left=made()))),
    EmptyNode,
    [HIGH],
    depth=0,
)
tree_case("tree: a root with only a subtree", made(left=UNDER), BareRoot)
tree_case("tree: a root with only an empty subtree", made(left=made()), BareRoot)
tree_case("tree: a subtree below depth 0", made(A, left=made(*EARLY)), ChildBelowLeaf, depth=0)
tree_case("tree: a subtree below depth 0, after a key", made((A, made(B))), ChildBelowLeaf, depth=0)
tree_case("tree: a missing subtree below depth 0", made((A, made(B)))[:1], ChildBelowLeaf, depth=0)
tree_case("tree: a level left out", made((HIGH, UNDER)), WrongDepth, [HIGH], key=A, expected=1)
tree_case("tree: a level too many", made((TOP, made(left=UNDER))), ChildBelowLeaf, [TOP])
tree_case("tree: a key too low", made(TOP, A), WrongDepth, key=A, depth=0, expected=1)
tree_case("tree: a key too high", made(A, NEXT), WrongDepth, key=NEXT, depth=1, expected=0)
tree_case("tree: a child as high", made((TOP, made(NEXT))), WrongDepth, [TOP], key=NEXT, depth=1)
tree_case("tree: a child higher", made((TOP, made(HIGHER))), WrongDepth, [TOP], depth=2, expected=0)
tree_case("tree: a record for a root", [RECORD], MalformedNode, cid=RECORD_CID, offset=0)
tree_case("tree: a record for a child", made((TOP, [RECORD])), MalformedNode, [TOP], cid=RECORD_CID)
tree_case("tree: a commit for a root", [HEAD], MalformedNode, cid=cid_of(HEAD), offset=0)
tree_case(
    "tree: over the limit of depth",
    made(HIGH),
    LimitExceeded,
    limits=Limits(mst_depth=1),
    limit="mst_depth",
    maximum=1,
    actual=2,
)

# Order and range across nodes.
tree_case(
    "range: keys too small on the right",
    made((TOP, made(*EARLY))),
    KeyOutOfRange,
    [TOP],
    key=EARLY[0],
    lower=TOP,
    upper=None,
)
tree_case(
    "range: keys too great on the left",
    made(TOP, left=UNDER),
    KeyOutOfRange,
    key=B,
    lower=None,
    upper=TOP,
)
tree_case(
    "range: keys too great between two",
    made((TOP, made(*LATE)), NEXT),
    KeyOutOfRange,
    [TOP],
    key=LATE[-1],
    lower=TOP,
    upper=NEXT,
)
tree_case("range: the last too great", made((TOP, made(A, *LATE)), NEXT), KeyOutOfRange, [TOP])
tree_case("range: the first too small", made((TOP, made(EARLY[0], A))), KeyOutOfRange, [TOP])
tree_case(
    "range: a key repeated in another node",
    made((TOP, made(EARLY[-1], A)), left=made(*EARLY)),
    KeyOutOfRange,
    [*EARLY, TOP],
    key=EARLY[-1],
)
tree_case(
    "range: a subtree twice",
    made((TOP, UNDER), (NEXT, UNDER)),
    KeyOutOfRange,
    [TOP, A, B, NEXT],
    cid=cid_of(UNDER[0]),
    key=A,
    lower=NEXT,
)
tree_case(
    "range: two levels down, left of the right",
    made((HIGH, made(UNDER_HIGH[0], left=made(*EARLY)))),
    KeyOutOfRange,
    [HIGH],
    key=EARLY[0],
    lower=HIGH,
    upper=UNDER_HIGH[0],
)
tree_case(
    "range: two levels down, right of the left",
    made(HIGH, left=made((TOP, made(*after(HIGH, 0, 2))))),
    KeyOutOfRange,
    [TOP],
    key=after(HIGH, 0, 2)[1],
    lower=TOP,
    upper=HIGH,
)
tree_case(
    "range: through a node without keys",
    made((HIGH, made(left=made(*EARLY)))),
    KeyOutOfRange,
    [HIGH],
    key=EARLY[0],
    lower=HIGH,
    upper=None,
)


# Trees that contain themselves, and trees that share.
def looped(name: str, error: type[RepoStreamError], **nodes: bytes) -> None:
    """Add a case for nodes that name each other; `a` is the root."""
    case(name, forged(fake("a"), **nodes), error, verify=False)


TALL: Final = keys(5, 1)[0]
looped(
    "cycle: the subtree on the left", WrongDepth, a=node(fake("a"), [(0, TOP, RECORD_CID, None)])
)
looped("cycle: a root without keys", BareRoot, a=node(fake("a")))
looped("cycle: a leaf", ChildBelowLeaf, a=node(None, [(0, A, RECORD_CID, fake("a"))]))
looped(
    "cycle: a node without keys",
    ChildBelowLeaf,
    a=node(fake("b"), [(0, TALL, RECORD_CID, None)]),
    b=node(fake("b")),
)
looped(
    "cycle: two nodes without keys",
    ChildBelowLeaf,
    a=node(fake("b"), [(0, TALL, RECORD_CID, None)]),
    b=node(fake("c")),
    c=node(fake("b")),
)
looped(
    "cycle: two nodes in turn",
    WrongDepth,
    a=node(fake("b"), [(0, HIGH, RECORD_CID, None)]),
    b=node(fake("a"), [(0, TOP, RECORD_CID, None)]),
)
case(
    "cycle: the subtree on the right",
    forged(fake("a"), a=node(None, [(0, TOP, RECORD_CID, fake("a"))])),
    WrongDepth,
    before=text([TOP]),
    verify=False,
    cid=fake("a"),
    key=TOP,
    depth=1,
    expected=0,
)
case(
    "cycle: the commit's tree is the commit",
    write_car([fake("a")], [(fake("a"), commit(fake("a")))]),
    MalformedNode,
    verify=False,
    cid=fake("a"),
)


def chain(length: int) -> Nodes:
    """Nodes with nothing but the next on their left."""
    nodes = [node(None)]
    for _ in range(length):
        nodes.append(node(cid_of(nodes[-1])))
    return nodes[::-1]


def under_a_key(nodes: Nodes) -> Nodes:
    """A root with a key that belongs at depth 5, and a subtree before it."""
    return [node(cid_of(nodes[0]), [(0, TALL, RECORD_CID, None)]), *nodes]


case("chain: 1,000 nodes without keys", lambda: tree(chain(1000)), BareRoot)
case(
    "chain: 10,000 nodes without keys, under a key",
    lambda: tree(under_a_key(chain(10_000))),
    ChildBelowLeaf,
    depth=0,
)


def rows_of_laughs(levels: int, width: int) -> list[tuple[bytes, ...]]:
    """Keys for each level from the top, each between the first two of the level above."""
    rows = [keys(levels, width, b"com.example.laugh/")]
    for level in range(levels - 1, -1, -1):
        rows.append(after(rows[-1][0], level, width))
    return rows


def laughs(levels: int, width: int) -> bytes:
    """On each level one node, and every subtree of the level above is that node."""
    *rows, last = rows_of_laughs(levels, width)
    below = made(*last)
    for row in reversed(rows):
        below = made(*((key, below) for key in row))
    return tree(below)


def before_it_repeats(levels: int, width: int) -> tuple[str, ...]:
    """The keys down to the lowest node and over it, up to where it comes a second time."""
    *rows, last = rows_of_laughs(levels, width)
    return text([*(row[0] for row in rows), *last, rows[-1][1]])


def one_big_leaf(width: int) -> bytes:
    """A root whose first subtree is good, while all the others are one and the same big leaf.

    Whoever looks ahead for blocks that will be needed must not open that leaf again and again.
    """
    first, *others = keys(1, width)
    big = made(*keys(0, 4000, b"com.example.big/"))
    good = made(*after(first, 0, 3), record=OTHER_CID)
    return tree(made((first, good), *((key, big) for key in others)), OTHER)


case(
    "billion laughs: 2 subtrees on 6 levels",
    lambda: laughs(5, 2),
    KeyOutOfRange,
    before=before_it_repeats(5, 2),
)
case(
    "billion laughs: 200 subtrees on 3 levels",
    lambda: laughs(2, 200),
    KeyOutOfRange,
    before=before_it_repeats(2, 200),
)
case(
    "billion laughs: one node without keys, 1,000 times",
    lambda: tree(made(*((key, made(left=made(*EARLY))) for key in keys(2, 1000)))),
    KeyOutOfRange,
    before=text(keys(2, 1)),
)
case(
    "billion laughs: one big leaf, 1,000 times",
    lambda: one_big_leaf(1000),
    KeyOutOfRange,
    before=text([TOP, *after(TOP, 0, 3), NEXT]),
)

# Faults that come late.
_late = build_repo({f"com.example.late/{number:05}": {"n": number} for number in range(1500)})
_order = list(_late.records)
#: How long the records of the corpus are, by CID.
LENGTHS: Final = {cid_of(data): len(data) for data in (RECORD, OTHER, *_late.blocks.values())}
case(
    "late: a record missing after a thousand others",
    _late.to_car(omit=[_late.records[_order[1100]]]),
    MissingBlock,
    before=_order[:1100],
    kind="record",
    key=_order[1100],
)

# --- Families -------------------------------------------------------------------------------------

#: One telling case for each error, and one for each branch that another part of the library takes:
#: for drivers that are built on what the whole corpus is read with.
FAMILIES: Final[list[Hostile]] = chosen(
    "header: an empty file",
    "header: a terabyte long",
    "header: length not minimal",
    "header: CARv2",
    "header: no version",
    "header: not CBOR",
    "root CID: none",
    "root CID: of raw bytes",
    "root CID: its block is missing",
    "root CID: no block",
    "section: of length zero",
    "section: length not minimal",
    "section: a terabyte long",
    "section: ends inside its CID",
    "section: cut in its data",
    "section: text after the end",
    "limit: bytes of the CAR",
    "limit: blocks",
    "hash: a record",
    "hash: another account's commit",
    "hash: a forged node",
    "hash: SHA-512",
    "missing: the root node",
    "missing: a record after others",
    "missing: a subtree",
    "missing: a subtree on the left",
    "commit: a record",
    "commit: version 2",
    "root node: an entry that is null",
    "child node: an entry that is null",
    "child node: k empty",
    "child node: k of 1,025 bytes",
    "child node: p longer than the key before",
    "child node: p one short",
    "root node: a key twice",
    "child node: two keys the wrong way round",
    "child node: t raw bytes",
    "child node: l raw bytes",
    "child node: entries over a limit of the caller's",
    "tree: an empty leaf on the right",
    "tree: a root with only a subtree",
    "tree: a subtree below depth 0, after a key",
    "tree: a level left out",
    "tree: a child as high",
    "tree: a record for a child",
    "tree: over the limit of depth",
    "range: keys too small on the right",
    "range: keys too great on the left",
    "range: keys too great between two",
    "range: a subtree twice",
    "cycle: a root without keys",
    "cycle: the subtree on the right",
    "late: a record missing after a thousand others",
)
