"""What CAR slices prove, key by key and range by range, against the repos they are cut from."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from typing import Any, cast, get_args

import pytest
from hypothesis import given, strategies as st

from repo_stream import (
    Absent,
    ChildBelowLeaf,
    CidMismatch,
    DriverBuilder,
    IncompleteRange,
    KeyOutOfRange,
    NodeError,
    Present,
    RepoDriver,
    WrongDepth,
    noop,
    open_car,
)
from repo_stream.testing import Order, build_repo, cid_of, commit, key_height, node, write_car
from support.slices import (
    EVERY_WAY,
    KEYS,
    REPO,
    SLICES,
    WAYS,
    Slice,
    check_key,
    check_range,
    chunks,
    cut_proof,
    dated_records,
    driver_of,
    items,
    items_of,
    neighbours,
    pairs_of,
    path_to,
    places,
    plain,
    proof_of,
    slice_of,
    within,
)
from support.strategies import FEW

BUILDER = DriverBuilder()
GAPS = BUILDER.with_gaps()
ORDERS: tuple[Order, ...] = get_args(Order)

# --- Proofs ---------------------------------------------------------------------------------------


@EVERY_WAY
async def test_proof_agrees_with_the_repo_for_every_key(way: str) -> None:
    step = 1 if way in ("memory", "stream") else 5
    for part in SLICES.values():
        async with driver_of(way, part.car(), BUILDER) as driver:
            for place in places(part.repo)[::step]:
                await check_key(driver, part, place)


@EVERY_WAY
async def test_proof_neither_moves_the_walk_nor_minds_its_key_range(way: str) -> None:
    part = SLICES["several ops"]
    expected = [pair for pair in pairs_of(part) if within(pair, "", KEYS[15])]
    walked: list[Any] = []
    async with driver_of(way, part.car(), GAPS.with_key_range(None, KEYS[15])) as driver:
        asked = iter(places(part.repo) * 3)
        async for pair in driver:
            walked.append(pair)
            await check_key(cast("RepoDriver[bytes]", driver), part, next(asked))
    assert [plain(pair) for pair in walked] == [plain(pair) for pair in expected]


@pytest.mark.parametrize("way", ["memory", "stream"])
async def test_range_proof_agrees_with_the_repo_for_every_pair_of_bounds(way: str) -> None:
    for turn, part in enumerate(SLICES.values()):
        bounds = places(part.repo)
        if len(bounds) > 40:
            # Of each slice other places: keys, and what is before and after them.
            step = 5 if way == "memory" else 11
            bounds = bounds[turn % step :: step]
        async with driver_of(way, part.car(), BUILDER) as driver:
            for at, start in enumerate(bounds):
                for stop in (*bounds[at:], None):
                    await check_range(driver, part, start, stop)


@EVERY_WAY
async def test_every_driver_proves_ranges(way: str) -> None:
    part = SLICES["several ops"]
    async with driver_of(way, part.car(), BUILDER) as driver:
        for start, stop in pairwise([*places(part.repo)[::9], None]):
            await check_range(driver, part, start or "", stop)
        with pytest.raises(ValueError, match="stop must not come before start"):
            await driver.prove_range("b", "a")


async def test_error_of_a_proof_says_what_cannot_be_told() -> None:
    part = SLICES["no root"]
    async with driver_of("memory", part.car(), BUILDER) as driver:
        with pytest.raises(IncompleteRange, match="does not prove whether the repo has 'a/b'"):
            await driver.prove("a/b")
        with pytest.raises(
            IncompleteRange, match="does not prove what the repo has from 'a' to before 'c'"
        ):
            await driver.prove_range("a", "c")
        with pytest.raises(
            IncompleteRange, match="does not prove what the repo has from 'a' on"
        ) as caught:
            await driver.prove_range("a")
    assert str(caught.value.cid) in str(caught.value)


# --- Proofs that end at the depth of the key ------------------------------------------------------

SMALL = build_repo(dated_records(12))
# Keys of every depth up to one above the root, of which the repo has none.
BETWEEN = [
    next(key for n in range(9999) if key_height(key := f"{place}-{n}") == depth)
    for place in (KEYS[0], KEYS[13], KEYS[23])
    for depth in range(key_height(max(KEYS, key=key_height)) + 2)
]


@EVERY_WAY
async def test_proof_may_end_at_the_depth_of_the_key(way: str) -> None:
    cut = 0
    for turn, key in enumerate([*KEYS, *BETWEEN]):
        part = cut_proof(REPO, key)
        cut += not {cid for cid, _, _ in path_to(REPO, key)} <= part.blocks
        for order in ORDERS:
            async with driver_of(way, part.car(order, seed=turn), BUILDER) as driver:
                await check_key(driver, part, key)
                await check_range(driver, part, key, key + "\0")
                expected = Present if key in KEYS else Absent
                assert isinstance(await driver.prove(key), expected)
    assert cut > 5


@EVERY_WAY
async def test_proof_without_the_node_at_the_depth_of_the_key_is_none(way: str) -> None:
    missing = 0
    for key in [*KEYS, *BETWEEN]:
        if key_height(key) > key_height(max(KEYS, key=key_height)):
            continue  # the root alone proves it
        whole, part = cut_proof(REPO, key), cut_proof(REPO, key, above=1)
        async with driver_of(way, part.car(), BUILDER) as driver:
            for asking in (driver.prove(key), driver.get(key), driver.prove_range(key, key + "\0")):
                with pytest.raises(IncompleteRange) as caught:
                    await asking
                assert {bytes(caught.value.cid)} == whole.blocks - part.blocks
                missing += 1
    assert missing > 3 * len(KEYS)


@EVERY_WAY
async def test_every_deleted_key_is_proven_absent_by_the_nodes_down_to_its_depth(way: str) -> None:
    """As a server may prove the deletion of each record."""
    for key in SMALL.records:
        after = build_repo({other: {"n": 1} for other in SMALL.records if other != key})
        async with driver_of(way, cut_proof(after, key).car(), BUILDER) as driver:
            proof = await driver.prove(key)
            assert isinstance(proof, Absent)
            assert proof.after is None or (proof.after in after.records and proof.after < key)
            assert proof.before is None or (proof.before in after.records and key < proof.before)
            assert await driver.get(key) is None


async def test_proof_that_ends_at_the_depth_of_the_key_is_read_from_a_file(tmp_path: Path) -> None:
    path = tmp_path / "proof.car"
    for key in BETWEEN:
        part = cut_proof(REPO, key)
        path.write_bytes(part.car("export"))
        for limit in (0, 16):
            async with open_car(path, block_processor=noop, mem_limit_mb=limit) as repo:
                assert await repo.prove(key) == proof_of(part, key)
                assert await repo.get(key) is None


async def test_neighbours_of_an_absent_key_are_those_that_the_proof_names() -> None:
    """Below the node that lacks the key there can be nearer ones, which nobody needs to know."""
    nearer = 0
    for key in BETWEEN:
        async with driver_of("memory", cut_proof(REPO, key).car(), BUILDER) as driver:
            cut = await driver.prove(key)
        async with driver_of("memory", REPO.to_car(), BUILDER) as driver:
            whole = await driver.prove(key)
        assert isinstance(cut, Absent)
        assert isinstance(whole, Absent)
        assert (whole.after, whole.before) == neighbours(REPO, key, key)
        assert cut.after is None or (whole.after is not None and cut.after <= whole.after)
        assert cut.before is None or (whole.before is not None and cut.before >= whole.before)
        nearer += cut != whole
    assert nearer > 3


@EVERY_WAY
async def test_wider_range_needs_the_nodes_below(way: str) -> None:
    key = next(key for key in BETWEEN if key_height(key) == 2)
    part = cut_proof(REPO, key)
    async with driver_of(way, part.car(), BUILDER) as driver:
        assert not (await driver.prove_range(key, key + "\0")).keys
        for start, stop in (
            (key, key + "\1"),
            (key, key + "\0\0"),
            (key[:-1], key + "\0"),
            (key, None),
        ):
            with pytest.raises(IncompleteRange):
                await driver.prove_range(start, stop)


@EVERY_WAY
async def test_key_at_a_wrong_depth_is_no_proof_if_its_node_is_there(way: str) -> None:
    names = sorted(f"com.example.a/{n}" for n in range(99))
    high, top = [key for key in names if key_height(key) == 1][:2]
    low = next(key for key in names if key_height(key) == 0 and key > top)
    leaf = cid_of(b"")
    below = node(None, [(0, high.encode(), leaf, None)])
    same = next(n for n, char in enumerate(top) if char != low[n])
    cases = [
        # Below its depth: the root, where it should be, has another key.
        (high, node(cid_of(below), [(0, top.encode(), leaf, None)])),
        # Above its depth.
        (low, node(None, [(0, top.encode(), leaf, None), (same, low[same:].encode(), leaf, None)])),
    ]
    for key, root in cases:
        head = commit(cid_of(root))
        blocks = [(cid_of(data), data) for data in (head, root, below)]
        async with driver_of(way, write_car([cid_of(head)], blocks), BUILDER) as driver:
            for asking in (driver.prove(key), driver.get(key), driver.prove_range(key, key + "\0")):
                with pytest.raises(WrongDepth) as caught:
                    await asking
                assert caught.value.key == key.encode()


# --- Slices that pretend --------------------------------------------------------------------------


@EVERY_WAY
async def test_other_bytes_under_the_cid_of_a_node_are_no_proof(way: str) -> None:
    other = build_repo(dated_records(5))
    forged = {REPO.root: other.blocks[other.root]}
    car = write_car([REPO.commit_cid], [(REPO.commit_cid, REPO.commit), *forged.items()])
    with pytest.raises(CidMismatch) as caught:
        async with driver_of(way, car, BUILDER) as driver:
            await driver.prove(KEYS[0])
    assert caught.value.cid == REPO.root
    async with driver_of(way, car, GAPS) as driver:
        for asking in (driver.prove(KEYS[0]), driver.get(KEYS[0]), driver.prove_range()):
            with pytest.raises(IncompleteRange) as incomplete:
                await asking
            assert incomplete.value.cid == REPO.root
            assert isinstance(incomplete.value.__cause__, CidMismatch)


@EVERY_WAY
async def test_slice_with_a_node_at_a_wrong_place_proves_nothing(way: str) -> None:
    """Its hash is right, but a node above names it where its keys do not belong."""
    high = next(key for key in KEYS if key_height(key) == 0)
    below = next(key for key in KEYS if key_height(key) == 1 and key > high)
    other = next(f"{high}{n}" for n in range(99) if key_height(f"{high}{n}") == 0)
    block = node(None, [(0, high.encode(), cid_of(b""), None)])
    cases: list[tuple[bytes, type[NodeError]]] = [
        # To the right of a key that its own sorts before.
        (node(None, [(0, below.encode(), cid_of(b""), cid_of(block))]), KeyOutOfRange),
        # Below a key of its own depth.
        (node(cid_of(block), [(0, other.encode(), cid_of(b""), None)]), ChildBelowLeaf),
    ]
    for root, error in cases:
        head = commit(cid_of(root))
        blocks = [(cid_of(data), data) for data in (head, root, block)]
        async with driver_of(way, write_car([cid_of(head)], blocks), GAPS) as driver:
            with pytest.raises(error):
                await driver.prove_range()
            with pytest.raises(error):
                await chunks(driver)
            with pytest.raises(error):
                await driver.next_items()


# --- Any slice of any repo ------------------------------------------------------------------------

SMALL_KEYS = st.text("abc/0\u00e9\U0001f600", min_size=1, max_size=5) | st.integers(0, 99).map(
    lambda n: f"app.bsky.feed.post/{n:03}"
)
# Few different records, so that keys share them; the first looks like a node.
FEW_RECORDS: list[dict[str, object]] = [{"e": [], "l": None}, {"a": 1}, {"a": 2}, {"a": 3}]
RECORDS = st.sampled_from(FEW_RECORDS)
REPOS = st.dictionaries(SMALL_KEYS, RECORDS, max_size=30).map(build_repo)


@st.composite
def parts_of_repos(draw: st.DrawFn) -> Slice:
    repo = draw(REPOS)
    blocks = list(repo.blocks)
    # Mostly whole or mostly empty: else the first nodes decide everything.
    gone = draw(st.sets(st.sampled_from(blocks), max_size=4))
    return slice_of(repo, set(blocks) - gone if draw(st.booleans()) else gone)


@FEW
@given(
    part=parts_of_repos(),
    way=st.sampled_from(WAYS),
    order=st.sampled_from(["stream", "export", "shuffled"]),
    seed=st.integers(0, 9),
    piece=st.integers(1, 300),
    n=st.integers(1, 9),
)
async def test_any_slice_of_any_repo_gives_and_proves_what_can_be_known(
    *, part: Slice, way: str, order: Order, seed: int, piece: int, n: int
) -> None:
    car = part.car(order, seed)
    async with driver_of(way, car, GAPS, piece=piece) as driver:
        assert await chunks(driver, n) == pairs_of(part)
    async with driver_of(way, car, GAPS, piece=piece) as driver:
        assert await items(driver, n) == items_of(part)
    async with driver_of(way, car, BUILDER, piece=piece) as prover:
        bounds = places(part.repo)
        for place in bounds[seed % 5 :: 5]:
            await check_key(prover, part, place)
        for start in bounds[seed::11]:
            for stop in (*bounds[seed % 7 :: 7], None):
                if stop is None or start <= stop:
                    await check_range(prover, part, start, stop)
