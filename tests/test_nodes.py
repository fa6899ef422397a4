"""Nodes opened in one go, against the walk's own way: in the compiled wheel they share no code."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from repo_stream import Limits, RepoStreamError
from repo_stream.cid import ordinary
from repo_stream.frames import Frame, Subtree
from repo_stream.mst import key_depth
from repo_stream.nodes import open_ordinary
from repo_stream.testing import Entry, build_repo, cid_of, made_records, node
from repo_stream.walk import open_carefully
from test_properties import EXAMPLES, mutated, shared_bytes

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


@settings(EXAMPLES, max_examples=5 * EXAMPLES.max_examples)  # a fault of one kind is rare
@given(found=subtrees(), limits=LIMITS)
def test_what_is_opened_at_once_is_what_the_walk_opens(
    found: tuple[Subtree, bytes], limits: Limits
) -> None:
    frames = open_ordinary(*found, limits)
    assert frames is None or frames == seen(open_carefully, *found, limits)


@EXAMPLES
@given(found=nodes(), rooted=st.booleans())
def test_only_what_is_unusual_is_left_to_the_walk(found: tuple[int, bytes], rooted: bool) -> None:
    depth, block = found
    subtree: Subtree = (ordinary(block), None if rooted else depth, b"", None)
    frames = seen(open_carefully, subtree, block, Limits()) or []
    keys = keys_of(frames)
    if keys and all(key.isascii() and len(key) < 256 for key in keys):
        assert open_ordinary(subtree, block, Limits()) == frames


def keys_of(frames: list[Frame]) -> list[str]:
    return [rkey for frame in frames if len(frame) == 2 for rkey in frame[0]]


def test_every_node_with_keys_of_a_large_repo_is_ordinary() -> None:
    repo = build_repo(dict(made_records(3000)))
    waiting: list[Subtree] = [(repo.root, None, b"", None)]
    keys: list[str] = []
    while waiting:
        subtree = waiting.pop()
        block = repo.blocks[subtree[0]]
        frames = open_ordinary(subtree, block, Limits())
        if frames is None:
            frames = open_carefully(subtree, block, Limits())
            assert len(frames) == 1
            assert not keys_of(frames)
        waiting += [frame for frame in frames if len(frame) == 4]
        keys += keys_of(frames)
    assert sorted(keys) == sorted(repo.records)


@pytest.mark.parametrize("size", range(130))
def test_a_node_that_is_cut_off_is_none(size: int) -> None:
    keys = BY_DEPTH[1][:2]
    block = node(cid_of(b"left"), entries_of(keys, [cid_of(b"tree"), None]))
    subtree: Subtree = (b"", 1, b"", None)
    assert open_ordinary(subtree, block, Limits()) is not None
    assert len(block) > 130
    for cut in (block[:size], block[: len(block) - size - 1]):
        assert open_ordinary(subtree, cut, Limits()) is None
