"""Nodes opened in one go, in both forms, against the careful way."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Callable
from itertools import pairwise, permutations
from typing import cast

import pytest
from hypothesis import given, settings, strategies as st

from repo_stream import Limits, RepoStreamError
from repo_stream.ipld.cid import ordinary
from repo_stream.mst.frames import Frame, Subtree
from repo_stream.mst.rules import key_depth, open_node_plainly, open_ordinary
from repo_stream.testing import Entry, build_repo, cid_of, made_records, node
from support.forms import both_forms
from support.strategies import EXAMPLES, mutated, shared_bytes

form = both_forms("repo_stream.mst.rules", __name__)

Open = Callable[[Subtree, bytes, Limits], list[Frame] | None]

# Keys by their depth: short ones, those of many bytes with most of them shared, and not ASCII. With
# 255 bytes and with 256 they stand on both sides of what an ordinary node can have in one piece.
ENDS = [f"{number:x}" for number in range(400)]
STARTS = [
    "a/",
    "app.bsky.feed.like/3k2",
    "b" * 250,
    "c" * 252,
    "c" * 253,
    "d" * 254,
    "e" * 400,
    "é/",
]
BY_DEPTH: dict[int, list[bytes]] = defaultdict(list)
for key in sorted((start + end).encode() for start in STARTS for end in ENDS):
    BY_DEPTH[key_depth(key)].append(key)
LINKS = st.integers(0, 3).map(lambda number: cid_of(bytes([number])))


def entries_of(keys: list[bytes], links: list[bytes | None]) -> list[Entry]:
    pairs = zip(pairwise([b"", *keys]), links, strict=True)
    return [
        (shared := shared_bytes(before, key), key[shared:], cid_of(key), link)
        for (before, key), link in pairs
    ]


@st.composite
def nodes(draw: st.DrawFn) -> tuple[int, bytes]:
    """A node whose keys hang where they should, and their depth."""
    depth = draw(st.sampled_from(sorted(BY_DEPTH)))
    keys = sorted(draw(st.sets(st.sampled_from(BY_DEPTH[depth]), max_size=30)))
    no_links = st.none() if depth == 0 and draw(st.integers(0, 9)) else st.none() | LINKS
    links = draw(st.lists(no_links, min_size=len(keys), max_size=len(keys)))
    return depth, node(draw(no_links), entries_of(keys, links))


BOUNDS = st.sampled_from([key for keys in BY_DEPTH.values() for key in keys])
LIMITS = st.sampled_from(
    [Limits()] * 4
    + [Limits(node_entries=5), Limits(mst_depth=1), Limits(key_bytes=300), Limits(key_bytes=510)]
)


@st.composite
def subtrees(draw: st.DrawFn) -> tuple[Subtree, bytes]:
    """A node, and where it is said to hang: as often as not it may hang there."""
    depth, block = draw(nodes())
    block = draw(st.just(block) | mutated(block))
    said = draw(st.just(depth) | st.none() | st.integers(0, 3))
    lower = draw(st.just(b"") | BOUNDS)
    upper = draw(st.none() | st.none() | BOUNDS)
    return (ordinary(block), said, lower, upper), block


def seen(way: Open, subtree: Subtree, block: bytes, limits: Limits) -> list[Frame] | None:
    try:
        return way(subtree, block, limits)
    except RepoStreamError:
        return None


@settings(EXAMPLES, max_examples=3 * EXAMPLES.max_examples)  # a fault of one kind is rare
@given(found=subtrees(), limits=LIMITS)
def test_a_node_opened_at_once_is_as_the_walk_opens_it(
    found: tuple[Subtree, bytes], limits: Limits
) -> None:
    frames = open_ordinary(*found, limits)
    assert frames is None or frames == seen(open_node_plainly, *found, limits)


@EXAMPLES
@given(found=nodes(), rooted=st.booleans())
def test_only_unusual_nodes_are_left_to_the_walk(found: tuple[int, bytes], rooted: bool) -> None:
    depth, block = found
    subtree: Subtree = (ordinary(block), None if rooted else depth, b"", None)
    frames = seen(open_node_plainly, subtree, block, Limits()) or []
    keys = keys_of(frames)
    if keys and all(key.isascii() and len(key) < 256 for key in keys):
        assert open_ordinary(subtree, block, Limits()) == frames


def keys_of(frames: list[Frame]) -> list[str]:
    return [key for frame in frames if len(frame) == 2 for key in frame[0]]


def test_every_node_with_keys_of_a_made_repo_is_ordinary() -> None:
    repo = build_repo(dict(made_records(1000)))
    waiting: list[Subtree] = [(repo.root, None, b"", None)]
    keys: list[str] = []
    while waiting:
        subtree = waiting.pop()
        block = repo.blocks[subtree[0]]
        frames = open_ordinary(subtree, block, Limits())
        if frames is None:
            frames = open_node_plainly(subtree, block, Limits())
            assert len(frames) == 1
            assert not keys_of(frames)
        waiting += [frame for frame in frames if len(frame) == 4]
        keys += keys_of(frames)
    assert sorted(keys) == sorted(repo.records)


# --- One by one ---------------------------------------------------------------------------------


def one_in_another(start: bytes, size: int) -> list[bytes]:
    """Two keys, the second of which starts with all of the first, which has so many bytes."""
    pairs = permutations([key for key in BY_DEPTH[0] if key.startswith(start)], 2)
    return next([one, other] for one, other in pairs if len(one) == size and other.startswith(one))


# The first has 23 bytes, the most that one byte can say.
LIKES = one_in_another(b"app.", 23)
LOWEST = [*one_in_another(b"a/", 3), *LIKES]
HIGHER = BY_DEPTH[1][:2]
GOOD = {
    "lowest": (0, node(None, entries_of(LOWEST, [None] * len(LOWEST)))),
    "higher": (1, node(cid_of(b"left"), entries_of(HIGHER, [cid_of(b"tree"), None]))),
}


@pytest.mark.parametrize("depth_and_block", GOOD.values(), ids=GOOD)
def test_every_change_of_one_byte_is_seen_as_the_walk_sees_it(
    depth_and_block: tuple[int, bytes],
) -> None:
    depth, block = depth_and_block
    subtree: Subtree = (ordinary(block), depth, b"", None)
    assert open_ordinary(subtree, block, Limits()) == open_node_plainly(subtree, block, Limits())
    digests = {at for start in starts_of_digests(block) for at in range(start + 1, start + 31)}
    for at, byte in enumerate(block):
        # One byte in the middle of a digest is as good as another.
        for other in {byte ^ 1} if at in digests else {*range(256)} - {byte}:
            changed = bytes([*block[:at], other, *block[at + 1 :]])
            frames = open_ordinary(subtree, changed, Limits())
            assert frames is None or frames == seen(open_node_plainly, subtree, changed, Limits())


def starts_of_digests(block: bytes) -> list[int]:
    return [found.end() for found in re.finditer(rb"\x01\x71\x12\x20", block)]


def test_a_node_that_is_cut_off_is_not_ordinary_at_any_offset() -> None:
    depth, block = GOOD["higher"]
    subtree: Subtree = (b"", depth, b"", None)
    assert open_ordinary(subtree, block, Limits()) is not None
    for size in range(len(block)):
        assert open_ordinary(subtree, block[:size], Limits()) is None


def by_hand(keys: list[bytes], **heads: bytes) -> bytes:
    """A node of two keys, with some numbers in it written in another way."""
    first, second = keys
    shared = shared_bytes(first, second)
    numbers = {"count": b"\x82", "first": head(2, len(first)), "prefix": head(0, shared)}
    numbers |= {"second": head(2, len(second) - shared)} | heads
    link = b"\xd8\x2a\x58\x25\x00"
    block = b"\xa2\x61e" + numbers["count"]
    block += b"\xa4\x61k" + numbers["first"] + first + b"\x61p\x00"
    block += b"\x61t\xf6\x61v" + link + cid_of(first)
    block += b"\xa4\x61k" + numbers["second"] + second[shared:] + b"\x61p" + numbers["prefix"]
    return block + b"\x61t\xf6\x61v" + link + cid_of(second) + b"\x61l\xf6"


def head(kind: int, number: int) -> bytes:
    return bytes([kind << 5 | number] if number < 24 else [kind << 5 | 24, number])


@pytest.mark.parametrize(
    "heads",
    [
        pytest.param({"count": b"\x98\x02"}, id="count"),
        pytest.param({"first": b"\x58\x17"}, id="suffix"),
        pytest.param({"prefix": b"\x18\x17"}, id="prefix"),
        pytest.param({"count": b"\x99\x00\x02"}, id="count of two bytes"),
        pytest.param({"first": b"\x59\x00\x17"}, id="suffix of two bytes"),
        pytest.param({"prefix": b"\x19\x00\x17"}, id="prefix of two bytes"),
    ],
)
def test_a_number_in_a_longer_form_is_not_ordinary(heads: dict[str, bytes]) -> None:
    subtree: Subtree = (b"", 0, b"", None)
    assert by_hand(LIKES) == node(None, entries_of(LIKES, [None, None]))
    assert open_ordinary(subtree, by_hand(LIKES), Limits()) is not None
    assert open_ordinary(subtree, by_hand(LIKES, **heads), Limits()) is None


@pytest.mark.parametrize(
    "bounds", [(None, None), (5, None), (b"", 5)], ids=["no lower", "number below", "number above"]
)
def test_a_bound_that_is_not_bytes_is_refused(bounds: tuple[object, object]) -> None:
    subtree = cast("Subtree", (b"", 0, *bounds))
    with pytest.raises(TypeError):
        open_ordinary(subtree, by_hand(LIKES), Limits())


def test_a_number_in_a_shorter_form_is_not_ordinary() -> None:
    keys = one_in_another(b"b" * 250, 251)
    subtree: Subtree = (b"", 0, b"", None)
    assert open_ordinary(subtree, by_hand(keys), Limits()) is not None
    assert open_ordinary(subtree, by_hand(keys, prefix=b"\xfb"), Limits()) is None


@pytest.mark.parametrize("depth_and_block", GOOD.values(), ids=GOOD)
def test_a_node_with_bytes_after_it_is_not_ordinary(depth_and_block: tuple[int, bytes]) -> None:
    depth, block = depth_and_block
    for more in (b"\0", b"\xf6", block[-41:], block):
        assert open_ordinary((b"", depth, b"", None), block + more, Limits()) is None


def test_a_key_at_a_bound_is_not_within_it() -> None:
    depth, block = GOOD["lowest"]
    first, last = LOWEST[0], LOWEST[-1]
    assert open_ordinary((b"", depth, first[:-1], last + b"\0"), block, Limits()) is not None
    assert open_ordinary((b"", depth, first, None), block, Limits()) is None
    assert open_ordinary((b"", depth, first + b"\0", None), block, Limits()) is None
    assert open_ordinary((b"", depth, b"", last), block, Limits()) is None
    assert open_ordinary((b"", depth, b"", last[:-1]), block, Limits()) is None


def test_a_node_at_its_limits_is_ordinary_and_one_over_is_not() -> None:
    root: Subtree = (b"", None, b"", None)
    block = GOOD["higher"][1]
    assert open_ordinary(root, block, Limits(node_entries=2, mst_depth=1)) is not None
    assert open_ordinary(root, block, Limits(node_entries=1)) is None
    assert open_ordinary(root, block, Limits(mst_depth=0)) is None
    long = next(key for key in BY_DEPTH[0] if len(key) == 255)
    block = node(None, entries_of([long], [None]))
    assert open_ordinary(root, block, Limits()) is not None
    assert open_ordinary(root, block, Limits(key_bytes=254)) is None
