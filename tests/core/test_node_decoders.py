"""Nodes of the tree: three decoders agree on them, and depths of keys are right."""

from __future__ import annotations

import itertools
import os
import random
import re
from collections import Counter
from collections.abc import Callable
from hashlib import sha256
from typing import Any, Final, cast

import cbor2
import pytest
from hypothesis import example, given, strategies as st

from repo_stream import (
    BadNodeLink,
    Cid,
    InvalidKey,
    KeyOutOfOrder,
    LimitExceeded,
    Limits,
    MalformedNode,
    NodePrefixNotMinimal,
    NodePrefixTooLong,
    RepoStreamError,
)
from repo_stream.mst.node import decode_node, decode_node_plainly, looks_like_node
from repo_stream.mst.rules import DEPTH_BOUNDS, key_depth
from repo_stream.testing import (
    Entry,
    build_repo,
    cid_of,
    encode,
    key_height,
    made_records,
    node,
    tid,
)
from support.decoding import CHECKED, NODE, UNCHECKED

LIMITS: Final = Limits()
CID: Final = Cid(cid_of(b"a node"))
VALUE: Final = cid_of(b"a record")
TREE: Final = cid_of(b"a subtree")
NULL: Final = b"\xf6"

# --- Keys -----------------------------------------------------------------------------------------


def naive_depth(key: bytes) -> int:
    bits = "".join(f"{byte:08b}" for byte in sha256(key).digest())
    return (len(bits) - len(bits.lstrip("0"))) // 2


@given(st.binary(max_size=100))
@example(b"app.bsky.feed.post/9adeb165882c")
@example(b"")
def test_key_depth_counts_pairs_of_leading_zero_bits(key: bytes) -> None:
    assert key_depth(key) == naive_depth(key) == key_height(key)


def test_depth_bounds_tell_depths_apart() -> None:
    for number in range(1000):
        key = b"%d" % number
        depth, digest = naive_depth(key), sha256(key).digest()
        fitting = [n for n, (low, beyond) in enumerate(DEPTH_BOUNDS) if low <= digest < beyond]
        assert fitting == [depth]


def test_depth_bounds_leave_no_gap_and_reach_the_end() -> None:
    for (low, _), (_, beyond) in itertools.pairwise(DEPTH_BOUNDS):
        assert low == beyond
    assert DEPTH_BOUNDS[0][1] > b"\xff" * 32
    assert DEPTH_BOUNDS[-1][0] == bytes(32)


def test_depth_bounds_are_right_at_their_edges() -> None:
    for depth, (low, beyond) in enumerate(DEPTH_BOUNDS[:128]):
        assert zero_pairs(int.from_bytes(low)) == depth
        if depth:
            assert zero_pairs(int.from_bytes(beyond)) == depth - 1
            assert zero_pairs(int.from_bytes(beyond) - 1) == depth


def zero_pairs(number: int) -> int:
    bits = f"{number:0256b}"
    return (256 - len(bits.lstrip("0"))) // 2


def shared_bytes(one: bytes, other: bytes) -> int:
    length = min(len(one), len(other))
    while one[:length] != other[:length]:
        length -= 1
    return length


# --- Three decoders of nodes ----------------------------------------------------------------------

Row = tuple[bytes, bytes, bytes | None]
#: A node as all decoders have to see it: the left subtree, then key, record and subtree by entry.
Seen = tuple[bytes | None, list[Row]]


def seen_by(decode: Callable[[bytes, bytes, Limits], Any], block: bytes) -> Seen | None:
    """What a decoder of the library makes of a block, `None` where it refuses."""
    try:
        left, keys, values, trees = decode(block, CID, LIMITS)
    except RepoStreamError:
        return None
    assert len(keys) == len(values)
    assert all(0 <= row < len(keys) for row in trees)
    subtrees = [trees.get(row) for row in range(len(keys))]
    return left, list(zip(keys, values, subtrees, strict=True))


def link_in(value: object) -> bytes:
    """The CID in what `cbor2` made of a link to a record."""
    assert isinstance(value, cbor2.CBORTag)
    assert value.tag == 42
    content = cast("object", value.value)
    assert type(content) is bytes
    assert content[:1] == b"\0"
    assert is_cid(content[1:])
    return content[1:]


def link_or_null(value: object) -> bytes | None:
    """The CID in what `cbor2` made of a link to a node."""
    if value is None:
        return None
    cid = link_in(value)
    assert len(cid) == 36
    assert cid[:4] == b"\x01\x71\x12\x20"
    return cid


VARINT: Final = rb"(?:[\x80-\xff]{0,8}[\x01-\x7f]|\x00)"
CID_V1: Final = re.compile(rb"\x01%b%b([\x00-\x7f]|\x80\x01)(.*)" % (VARINT, VARINT), re.DOTALL)


def is_cid(raw: bytes) -> bool:
    if raw.startswith(b"\x12\x20"):
        return len(raw) == 34
    found = CID_V1.fullmatch(raw)
    return found is not None and len(found[2]) == (128 if len(found[1]) > 1 else found[1][0])


def seen_naively(block: bytes) -> Seen | None:
    """Decode a node without any cleverness: loosely, rule by rule, then encode it again.

    Only one block decodes to what it decodes to and is what that encodes to.
    """
    try:
        return read_naively(block)
    except AssertionError:
        return None


def read_naively(block: bytes) -> Seen:
    try:
        loose: Any = cbor2.loads(block)
    except Exception as error:
        raise AssertionError from error
    assert type(loose) is dict
    fields = cast("dict[object, object]", loose)
    assert set(fields) == {"e", "l"}
    listed = fields["e"]
    assert type(listed) is list
    items = cast("list[object]", listed)
    assert len(items) <= LIMITS.node_entries
    left = link_or_null(fields["l"])
    rows: list[Row] = []
    entries: list[Entry] = []
    previous = b""
    for item in items:
        assert type(item) is dict
        entry = cast("dict[object, object]", item)
        assert set(entry) == {"k", "p", "t", "v"}
        suffix, prefix = entry["k"], entry["p"]
        assert type(suffix) is bytes
        assert type(prefix) is int
        assert 0 <= prefix <= len(previous)
        key = previous[:prefix] + suffix
        assert 0 < len(key) <= LIMITS.key_bytes
        assert previous < key
        assert prefix == shared_bytes(previous, key)
        value, tree = link_in(entry["v"]), link_or_null(entry["t"])
        rows.append((key, value, tree))
        entries.append((prefix, suffix, value, tree))
        previous = key
    assert node(left, entries) == block
    return left, rows


def check_agreement(block: bytes) -> bool:
    """Have all three decode a block, and say whether they accepted it."""
    expected = seen_naively(block)
    assert seen_by(decode_node, block) == expected, block.hex()
    assert seen_by(decode_node_plainly, block) == expected, block.hex()
    assert expected is None or looks_like_node(block)
    return expected is not None


# --- Valid nodes ----------------------------------------------------------------------------------


def compressed(*keys: bytes, trees: dict[int, bytes] | None = None) -> list[Entry]:
    """Entries with the right prefixes; `trees` are the subtrees by place."""
    previous = b""
    entries: list[Entry] = []
    for at, key in enumerate(keys):
        prefix = shared_bytes(previous, key)
        entries.append((prefix, key[prefix:], cid_of(key), (trees or {}).get(at)))
        previous = key
    return entries


def fake(digest: bytes) -> bytes:
    """A CID with a digest of our choice, its start or its end given."""
    return b"\x01\x71\x12\x20" + digest.rjust(32, b"\x07")


OTHER_CIDS: Final = [*(make(NODE) for make in CHECKED.values()), *UNCHECKED.values()]
LINK: Final = b"\xd8\x2a\x58\x25\x00" + fake(b"")
ENTRY: Final = b"\xa4\x61k\x41a\x61p\x00\x61t\xf6\x61v" + LINK
BRANCH: Final = b"\xa4\x61k\x41a\x61p\x00\x61t" + LINK + b"\x61v" + LINK
POSTS: Final = [f"app.bsky.feed.post/{tid(n << 33)}".encode() for n in range(400)]
# Pieces of a node that a decoder could take for the real ones, where keys and digests hold them.
LURES: Final = [
    pytest.param(ENTRY, id="an entry"),
    pytest.param(ENTRY * 2, id="two entries"),
    pytest.param(BRANCH, id="an entry with a subtree"),
    pytest.param(ENTRY[:4], id="the start of an entry"),
    pytest.param(b"\xa4\x61k", id="the first bytes of an entry"),
    pytest.param(ENTRY[3:], id="an entry without its start"),
    pytest.param(b"a" + ENTRY[5:], id="the end of a key and the rest of its entry"),
    pytest.param(LINK, id="a link"),
    pytest.param(LINK * 3, id="three links"),
    pytest.param(LINK[:9], id="the start of a link"),
    pytest.param(b"\xd8\x2a\x58\x25\x00", id="the head of a link"),
    pytest.param(b"\x01\x71\x12\x20", id="the start of a CID"),
    pytest.param(b"\x61l\xf6", id="the end of a node"),
    pytest.param(b"\x61l" + LINK, id="a left link"),
    pytest.param(b"\x61t\xf6\x61v" + LINK, id="the end of an entry"),
    pytest.param(b"\x61p\x00\x61t\xf6\x61v", id="the fields between the links"),
    pytest.param(b"\x61v", id="a field name"),
    pytest.param(node(None, compressed(b"a", b"b")), id="a whole node"),
]

VALID: Final = {
    "empty": node(None),
    "only a subtree": node(TREE),
    "one entry": node(None, compressed(POSTS[0])),
    "one entry and a left subtree": node(TREE, compressed(POSTS[0])),
    "one entry and both subtrees": node(TREE, compressed(POSTS[0], trees={0: VALUE})),
    "a subtree after some": node(None, compressed(*POSTS[:6], trees={1: TREE, 4: VALUE})),
    "a subtree after all": node(TREE, compressed(*POSTS[:5], trees=dict.fromkeys(range(5), TREE))),
    "a subtree after the last": node(None, compressed(*POSTS[:3], trees={2: TREE})),
    "records of every kind of CID": node(
        TREE,
        [
            (prefix, suffix, cid, tree)
            for cid, (prefix, suffix, _, tree) in zip(
                OTHER_CIDS, compressed(*POSTS[: len(OTHER_CIDS)], trees={2: TREE}), strict=True
            )
        ],
    ),
    "one record with a CIDv0": node(None, [(0, b"a", OTHER_CIDS[2], None)]),
    **{f"{count} entries": node(None, compressed(*POSTS[:count])) for count in (23, 24, 25)},
    **{f"{n} entries, left": node(TREE, compressed(*POSTS[:n])) for n in (255, 256, 257)},
    **{f"a key of {n}": node(None, compressed(b"k" * n)) for n in (1, 23, 24, 25, 255, 256, 1024)},
    **{
        f"a prefix of {n}": node(None, compressed(b"k" * n, b"k" * n + b"z", b"k" * n + b"zz"))
        for n in (1, 22, 23, 24, 25, 254, 255, 256, 257, 1000)
    },
    "a whole key as prefix": node(None, compressed(b"a", b"ab", b"abc", b"abcd")),
    "no prefix at all": node(None, compressed(b"a", b"b", b"c")),
    "keys of any bytes": node(None, compressed(b"\0", b"\0\0", b"\x01", b"\xff", b"\xff\xff")),
}


@pytest.mark.parametrize("name", VALID)
def test_valid_nodes_are_accepted_by_all_decoders(name: str) -> None:
    assert check_agreement(VALID[name])


@pytest.mark.parametrize("records", [1, 10, 1000])
def test_nodes_of_made_repos_are_accepted_and_read_right(records: int) -> None:
    repo = build_repo({key: {"n": n} for n, (key, _) in enumerate(made_records(records))})
    found: dict[bytes, bytes] = {}
    for cid in repo.nodes:
        assert check_agreement(repo.blocks[cid])
        _, keys, values, _ = decode_node(repo.blocks[cid], cid, LIMITS)
        found |= dict(zip(keys, values, strict=True))
    assert found == {key.encode(): cid for key, cid in repo.records.items()}


cids = st.binary(min_size=32, max_size=32).map(fake)
any_cids = cids | st.sampled_from(OTHER_CIDS)
keys_in_order = st.lists(
    st.binary(min_size=1, max_size=12) | st.text(min_size=1, max_size=40).map(str.encode),
    unique=True,
    max_size=30,
).map(sorted)


@given(keys_in_order, st.none() | cids, st.data())
def test_any_valid_node_is_accepted_by_all_decoders(
    keys: list[bytes], left: bytes | None, data: st.DataObject
) -> None:
    trees = data.draw(st.dictionaries(st.integers(0, 30), cids, max_size=5))
    rows = compressed(*keys, trees=trees)
    values = data.draw(st.lists(any_cids, min_size=len(rows), max_size=len(rows)))
    rows = [(*row[:2], value, row[3]) for row, value in zip(rows, values, strict=True)]
    assert check_agreement(node(left, rows))


@pytest.mark.parametrize("lure", LURES)
def test_keys_that_hold_pieces_of_nodes_are_read_as_keys(lure: bytes) -> None:
    for key in (lure, b"k" + lure, lure + b"k", b"k" + lure + b"k", lure + b"k" + lure):
        for trees in ({}, {0: TREE}, {0: TREE, 1: TREE, 2: TREE}):
            for left in (None, TREE):
                for others in ([], [b"\xfe"], [key + b"\0"], [key + lure, b"\xfe" + lure]):
                    entries = compressed(*sorted([key, *others]), trees=trees)
                    assert check_agreement(node(left, entries))


@pytest.mark.parametrize("lure", LURES)
def test_digests_that_hold_pieces_of_nodes_are_read_as_digests(lure: bytes) -> None:
    for start in {*range(0, max(1, len(lure) - 31), 3), max(0, len(lure) - 32)}:
        piece = lure[start : start + 32]
        for digest in (piece.rjust(32, b"\x07"), piece.ljust(32, b"\x07"), piece.center(32)):
            odd = b"\x01\x71\x12\x20" + digest
            for left in (None, TREE, odd):
                for tree in (None, TREE, odd):
                    rows: list[Entry] = [(0, b"a", odd, tree), (0, b"b", VALUE, tree)]
                    assert check_agreement(node(left, rows))
                    assert check_agreement(node(left, rows[:1]))
                    assert check_agreement(node(left))


def test_a_left_link_that_ends_like_a_node_without_one_is_read() -> None:
    left = fake(b"\x61l\xf6")
    block = node(left, compressed(b"a", b"b"))
    assert block.endswith(b"\x61l\xf6")
    assert decode_node(block, CID, LIMITS)[0] == left


# --- Nodes that are not valid ---------------------------------------------------------------------


def item(
    key: bytes = b"\x41a", prefix: bytes = b"\0", tree: bytes = NULL, value: bytes = LINK
) -> bytes:
    return b"\xa4\x61k" + key + b"\x61p" + prefix + b"\x61t" + tree + b"\x61v" + value


def body(*items: bytes, head: bytes | None = None, left: bytes = NULL) -> bytes:
    start = bytes([0x80 + len(items)]) if head is None else head
    return b"\xa2\x61e" + start + b"".join(items) + b"\x61l" + left


LONG: Final = b"k" * 30
TWO: Final = (item(), item(b"\x41b"))


@pytest.mark.parametrize(
    ("block", "error"),
    [
        pytest.param(body(item(b"\x58\x01a")), MalformedNode, id="head 0x58 for 1 byte"),
        pytest.param(body(item(b"\x58\x17" + b"a" * 23)), MalformedNode, id="head 0x58 for 23"),
        pytest.param(body(item(b"\x58\x00")), MalformedNode, id="head 0x58 for none"),
        pytest.param(body(item(b"\x59\x00\x1e" + LONG)), MalformedNode, id="head 0x59 for 30"),
        pytest.param(body(item(b"\x58\x1f" + LONG)), MalformedNode, id="a suffix one short"),
        pytest.param(body(item(b"\x58\x1d" + LONG)), MalformedNode, id="a suffix one long"),
        pytest.param(body(item(b"\x42a")), MalformedNode, id="a short suffix one short"),
        pytest.param(body(item(b"\x41ab")), MalformedNode, id="a short suffix one long"),
        pytest.param(body(item(b"\x40a")), MalformedNode, id="an empty suffix with a byte"),
        pytest.param(body(item(b"\x40")), InvalidKey, id="an empty key"),
        pytest.param(body(item(b"\x61a")), MalformedNode, id="a suffix that is text"),
        pytest.param(body(item(prefix=b"\x18\x00")), MalformedNode, id="prefix 0 in two bytes"),
        pytest.param(body(item(prefix=b"\x18\x17")), MalformedNode, id="prefix 23 in two bytes"),
        pytest.param(body(item(prefix=b"\x19\x00\x18")), MalformedNode, id="prefix 24 in three"),
        pytest.param(body(item(prefix=b"\x18\x18")), NodePrefixTooLong, id="prefix 24 of nothing"),
        pytest.param(body(item(prefix=b"\x18\xff")), NodePrefixTooLong, id="prefix 255 of nothing"),
        *(
            pytest.param(body(item(prefix=prefix)), error, id=name)
            for name, prefix, error in [
                ("prefix 255 in three", b"\x19\x00\xff", MalformedNode),
                ("prefix 256 of nothing", b"\x19\x01\x00", NodePrefixTooLong),
                ("prefix 2^16-1 in five", b"\x1a\x00\x00\xff\xff", MalformedNode),
                ("prefix 2^16 of nothing", b"\x1a\x00\x01\x00\x00", NodePrefixTooLong),
                ("prefix 2^32-1 in nine", b"\x1b" + b"\0" * 4 + b"\xff" * 4, MalformedNode),
                ("prefix 2^32 of nothing", b"\x1b\0\0\0\1" + b"\0" * 4, NodePrefixTooLong),
            ]
        ),
        pytest.param(body(item(), item(prefix=b"\x02")), NodePrefixTooLong, id="prefix 2 of 1"),
        pytest.param(body(item(), item()), KeyOutOfOrder, id="a key twice"),
        pytest.param(body(item(), item(b"\x40", b"\1")), KeyOutOfOrder, id="a key twice, shared"),
        pytest.param(body(*TWO[::-1]), KeyOutOfOrder, id="in the wrong order"),
        pytest.param(body(item(), item(b"\x42ab")), NodePrefixNotMinimal, id="a prefix left out"),
        pytest.param(body(*TWO, head=b"\x81"), MalformedNode, id="one entry more than said"),
        pytest.param(body(*TWO, head=b"\x83"), MalformedNode, id="one entry fewer than said"),
        pytest.param(body(*TWO, head=b"\x80"), MalformedNode, id="none said"),
        pytest.param(body(*TWO, head=b"\x98\x02"), MalformedNode, id="a long count"),
        pytest.param(body(*TWO, head=b"\x98"), MalformedNode, id="a long count without its byte"),
        pytest.param(body(*TWO, head=b"\x9f"), MalformedNode, id="an indefinite count"),
        pytest.param(
            body(*TWO, head=b"\x9b" + b"\xff" * 8), LimitExceeded, id="the greatest count"
        ),
        pytest.param(body(b"\0" + item()), MalformedNode, id="a byte before the entry"),
        pytest.param(body(item() + b"\0"), MalformedNode, id="a byte after the entry"),
        pytest.param(body(item(), b"\0", TWO[1], head=b"\x82"), MalformedNode, id="a byte between"),
        pytest.param(
            body(item(b"\x42a") + b"\0"), MalformedNode, id="a byte short and a byte between"
        ),
        pytest.param(
            body(item(b"\x41ab")[:-1]), MalformedNode, id="a byte too many and a byte missing"
        ),
        pytest.param(
            body(item(value=LINK[:-1]), TWO[1]), MalformedNode, id="a link one byte short"
        ),
        pytest.param(body(item(tree=b"\xf7")), MalformedNode, id="a tree undefined"),
        pytest.param(body(item(tree=LINK[:-1])), MalformedNode, id="a tree cut short"),
        pytest.param(body(item(tree=LINK + b"\0")), MalformedNode, id="a tree too long"),
        pytest.param(body(item(tree=LINK * 2)), MalformedNode, id="two trees"),
        pytest.param(body(item(value=LINK * 2)), MalformedNode, id="two values"),
        pytest.param(body(item(value=b"")), MalformedNode, id="no value"),
        pytest.param(body(item(value=NULL)), MalformedNode, id="a null value"),
        pytest.param(body(item(), left=LINK[:-1]), MalformedNode, id="left cut short"),
        pytest.param(body(item(), left=LINK + b"\0"), MalformedNode, id="left too long"),
        pytest.param(body(item(), left=LINK + NULL), MalformedNode, id="left and null"),
        pytest.param(body(item(), left=NULL + LINK), MalformedNode, id="null and left"),
        pytest.param(body(item(), left=LINK * 2), MalformedNode, id="left twice"),
        pytest.param(body(item(), left=NULL + b"\x61l\xf6"), MalformedNode, id="the end twice"),
        pytest.param(body(item(), left=LINK + b"\x61l\xf6"), MalformedNode, id="left, then none"),
        pytest.param(body(item())[:-1], MalformedNode, id="without its last byte"),
        pytest.param(body(item())[:-3], MalformedNode, id="without its last field"),
        pytest.param(
            body(item(tree=LINK[:5] + b"\x01\x55\x12\x20" + LINK[9:])), BadNodeLink, id="raw"
        ),
        pytest.param(
            body(item(), left=LINK[:5] + b"\x01\x71\x13\x20" + LINK[9:]), BadNodeLink, id="SHA-512"
        ),
        pytest.param(
            body(item(value=b"\xd8\x2a\x58\x24" + LINK[5:])), BadNodeLink, id="a link of 36"
        ),
        pytest.param(
            body(item(value=b"\xd8\x2a\x58\x26" + LINK[4:] + b"\0")), BadNodeLink, id="a link of 38"
        ),
        pytest.param(body(item(b"\x59\x04\x01" + b"k" * 1025)), LimitExceeded, id="a key too long"),
    ],
)
def test_a_node_that_is_not_valid_is_refused(block: bytes, error: type[RepoStreamError]) -> None:
    assert not check_agreement(block)
    with pytest.raises(error) as caught:
        decode_node(block, CID, LIMITS)
    assert type(caught.value) is error
    assert getattr(caught.value, "cid", CID) == CID


@pytest.mark.parametrize("name", VALID)
def test_a_valid_node_that_is_cut_off_or_goes_on_is_refused(name: str) -> None:
    block = VALID[name]
    # Of long ones each entry says the same, but for the first and the last.
    middle = range(100, len(block) - 100, 1 + len(block) // 30)
    for at in {*range(len(block))[:100], *middle, *range(len(block))[-100:]}:
        assert not check_agreement(block[:at])
    for tail in (b"\0", NULL, b"\x61l\xf6", ENTRY, block):
        assert not check_agreement(block + tail)


def test_a_count_of_entries_that_is_wrong_is_refused() -> None:
    counts = (0, 1, 2, 22, 23, 24, 25, 254, 255, 256, 257)
    for count in counts:
        entries = b"".join(item(encode(key)) for key in (b"%05d" % n for n in range(count)))
        for claimed in {*counts, count - 1, count + 1, 299} - {-1}:
            head = encode(list(range(claimed)))[: 1 if claimed < 24 else 2 if claimed < 256 else 3]
            block = body(entries, head=head)
            accepted = check_agreement(block)
            assert not accepted or claimed == count


@pytest.mark.parametrize(
    ("limits", "limit", "actual"),
    [
        pytest.param(Limits(node_entries=1), "node_entries", 2, id="entries"),
        pytest.param(Limits(node_entries=0), "node_entries", 2, id="no entries at all"),
        pytest.param(Limits(key_bytes=0), "key_bytes", 1, id="no keys at all"),
        pytest.param(Limits(key_bytes=29), "key_bytes", 30, id="key bytes"),
    ],
)
def test_a_node_over_a_limit_is_refused(limits: Limits, limit: str, actual: int) -> None:
    block = node(None, compressed(b"a", LONG))
    for decode in (decode_node, decode_node_plainly):
        with pytest.raises(LimitExceeded) as caught:
            decode(block, CID, limits)
        assert caught.value.limit == limit
        assert caught.value.actual == actual
        assert caught.value.maximum == getattr(limits, limit)
        assert str(CID) in caught.value.where


def test_a_node_at_its_limits_is_read() -> None:
    block = node(None, compressed(b"a", LONG))
    for decode in (decode_node, decode_node_plainly):
        _, keys, _, _ = decode(block, CID, Limits(node_entries=2, key_bytes=30))
        assert keys == [b"a", LONG]


def test_the_length_of_a_key_is_checked_before_it_is_put_together() -> None:
    rows: list[Entry] = [(0, b"k" * 1000, VALUE, None), (1000, b"k" * 24, VALUE, None)]
    assert check_agreement(node(None, rows))
    rows.append((1024, b"k", VALUE, None))
    with pytest.raises(LimitExceeded) as caught:
        decode_node(node(None, rows), CID, LIMITS)
    assert (caught.value.limit, caught.value.actual) == ("key_bytes", 1025)


@pytest.mark.parametrize(
    ("block", "is_one"),
    [
        pytest.param(b"", False, id="nothing"),
        pytest.param(b"\xa2\x61e", False, id="cut before the entries"),
        pytest.param(b"\xa2\x61e\x80", True, id="no entries"),
        pytest.param(b"\xa2\x61e\x97", True, id="23 entries"),
        pytest.param(b"\xa2\x61e\x98", True, id="a longer count"),
        pytest.param(b"\xa2\x61e\x9f", True, id="the last head of a list"),
        pytest.param(b"\xa2\x61e\xa0", False, id="the first head of a map"),
        pytest.param(b"\xa2\x61e\x7f", False, id="the last head of a text"),
        pytest.param(b"\xa2\x61l\xf6\x61e\x80", False, id="unsorted"),
        pytest.param(b"\xa1\x61e\x80", False, id="a map of one"),
        pytest.param(b"\xa3\x61e\x80", False, id="a map of three"),
        pytest.param(encode({"text": "a record"}), False, id="a record"),
    ],
)
def test_what_looks_like_a_node(block: bytes, is_one: bool) -> None:
    assert looks_like_node(block) is is_one


# --- Mutants --------------------------------------------------------------------------------------
#
# `REPO_STREAM_MUTANTS=3000000` tries as many; `REPO_STREAM_SEED` starts elsewhere.

MUTANTS: Final = int(os.environ.get("REPO_STREAM_MUTANTS", "10000"))
SEED: Final = int(os.environ.get("REPO_STREAM_SEED", "0"))

TOKENS: Final = [
    *(bytes([byte]) for byte in (0x00, 0x17, 0x18, 0x40, 0x41, 0x57, 0x58, 0x59, 0x80, 0x81, 0xF6)),
    *(
        b"\xa2\x61e",
        b"\xa4\x61k",
        b"\x61p",
        b"\x61t",
        b"\x61v",
        b"\x61l",
        b"\x61l\xf6",
        b"\x61t\xf6",
    ),
    *(
        LINK,
        LINK[:5],
        LINK[:9],
        ENTRY,
        BRANCH,
        b"\xd8\x2a\x58\x23\0\x12\x20",
        b"\0\x01\x55\x12\x20",
        b"\x61l" + LINK,
        b"\x18\x18",
        b"\x58\x18",
        b"\x18\xff",
    ),
]


def seeds() -> list[bytes]:
    """Small nodes of every kind, and some that hold what looks like pieces of others."""
    blocks = [block for block in VALID.values() if len(block) < 1500]
    for param in LURES:
        lure = cast("bytes", param.values[0])
        blocks.append(node(None, compressed(*sorted([b"a", b"a" + lure, lure, b"\xfe"]))))
        blocks.append(node(fake(lure[:32]), compressed(lure, trees={0: fake(lure[-32:])})))
    return blocks


def mutate(block: bytes, others: list[bytes], dice: random.Random) -> bytes:
    """Change a block in one place."""
    at = dice.randrange(len(block) + 1)
    to = min(len(block), at + dice.choice((1, 1, 2, 3, 9, 36, 41, 60)))
    match dice.randrange(9):
        case 0:  # flip a bit
            at = dice.randrange(len(block))
            return block[:at] + bytes([block[at] ^ 1 << dice.randrange(8)]) + block[at + 1 :]
        case 1:  # add or take a little, as lengths and counts do
            at = dice.randrange(len(block))
            changed = (block[at] + dice.choice((-2, -1, 1, 2))) % 256
            return block[:at] + bytes([changed]) + block[at + 1 :]
        case 2:  # put a token over
            token = dice.choice(TOKENS)
            return block[:at] + token + block[at + len(token) :]
        case 3:  # put a token in
            return block[:at] + dice.choice(TOKENS) + block[at:]
        case 4:  # take some out
            return block[:at] + block[to:]
        case 5:  # say some twice
            return block[:to] + block[at:to] + block[to:]
        case 6:  # move some
            rest = block[:at] + block[to:]
            target = dice.randrange(len(rest) + 1)
            return rest[:target] + block[at:to] + rest[target:]
        case 7:  # go on with another node, from anywhere
            other = dice.choice(others)
            return block[:at] + other[dice.randrange(len(other)) :]
        case _:  # exchange one token for another, wherever it stands
            old, new = dice.choice(TOKENS), dice.choice(TOKENS)
            return block.replace(old, new, dice.choice((1, 1, -1)))


@pytest.mark.timeout(0 if MUTANTS > 10_000 else 120)
def test_all_decoders_agree_on_mutants_of_nodes() -> None:
    dice = random.Random(SEED)
    blocks = seeds()
    verdicts: Counter[bool] = Counter()
    for _ in range(MUTANTS):
        mutant = dice.choice(blocks)
        for _ in range(dice.choice((1, 1, 1, 2, 3))):
            mutant = mutate(mutant, blocks, dice) or mutant
        verdicts[check_agreement(mutant)] += 1
    # Enough of both, or the mutants would be too wild or too tame to say anything.
    assert min(verdicts[True], verdicts[False]) > MUTANTS // 100
    print(f"{MUTANTS} mutants: {verdicts[True]} accepted by all, {verdicts[False]} refused by all")  # noqa: T201 - for those who ask for millions
