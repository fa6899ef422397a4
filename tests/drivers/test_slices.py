"""CAR slices: what a walk gives of them, gap by gap, and what they prove, key by key.

Slices are cut from whole repos, so that the repo says what is true and the plain definitions of
`slices` say what can be known.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from itertools import pairwise
from typing import Any, cast

import anyio
import pytest
from hypothesis import given
from hypothesis import strategies as st

from repo_stream import (
    Absent,
    BlockReleased,
    ChildBelowLeaf,
    Cid,
    CidMismatch,
    DiskDriver,
    DriverBuilder,
    Gap,
    IncompleteRange,
    KeyOutOfRange,
    MemLimitExceeded,
    MissingBlock,
    NodeError,
    Output,
    Present,
    ProcessError,
    RepoDriver,
    TreeNode,
)
from repo_stream.released import Found, Released
from repo_stream.testing import (
    Repo,
    build_repo,
    cid_of,
    commit,
    key_height,
    node,
    tree_of,
    write_car,
)
from repo_stream.walk import Blocks, Walker
from support import pieces_of, shared
from support.hostile import CASES
from support.slices import (
    LIMITS,
    WAYS,
    Slice,
    chunks,
    commit_slice,
    dated_records,
    driver_of,
    gaps_of,
    gather,
    items,
    items_of,
    missing_in,
    neighbours,
    overlaps,
    pairs_of,
    proof_of,
    record_slice,
    since_slice,
    slice_of,
)
from support.strategies import FEW

EVERY_WAY = pytest.mark.parametrize("way", WAYS)
ON_ASYNCIO = pytest.mark.parametrize("anyio_backend", ["asyncio"])

BUILDER = DriverBuilder()
GAPS = BUILDER.with_gaps()

BEFORE = dated_records(24)
REPO = build_repo(BEFORE)
KEYS = list(REPO.records)
NEW_KEY = "app.bsky.feed.post/2223zzzzzzzzz"
EMPTY = build_repo({})


def changed(*, add: int = 0, update: int = 0, delete: int = 0) -> dict[str, object]:
    """The records after a commit that does so much of each."""
    after = dict(BEFORE)
    for n in range(add):
        after[f"{KEYS[(5 * n + 3) % len(KEYS)]}{n}"] = {"new": n}
    for n in range(update):
        after[KEYS[(7 * n + 1) % len(KEYS)]] = {"updated": n}
    for n in range(delete):
        del after[KEYS[(11 * n + 2) % len(KEYS)]]
    return after


NO_RECORDS = slice_of(REPO, REPO.nodes)
SOME_REV = sorted(REPO.revisions.values())[len(REPO.revisions) // 2]

SLICES: dict[str, Slice] = {
    "whole repo": slice_of(REPO, REPO.blocks),
    "created": commit_slice(BEFORE, changed(add=1)),
    "updated": commit_slice(BEFORE, changed(update=1)),
    "deleted": commit_slice(BEFORE, changed(delete=1)),
    "several ops": commit_slice(BEFORE, changed(add=3, update=2, delete=3)),
    "first record": commit_slice({}, dated_records(1)),
    "last record deleted": commit_slice(dated_records(1), {}),
    "nothing changed": commit_slice(BEFORE, BEFORE),
    "getRecord": record_slice(REPO, KEYS[9], record=True),
    "getRecord, no record": record_slice(REPO, KEYS[17], record=False),
    "getRepo since": since_slice(REPO, SOME_REV),
    "no records": NO_RECORDS,
    "no root": slice_of(REPO, REPO.blocks.keys() - {REPO.root}),
    "records only": slice_of(REPO, REPO.records.values()),
    "no leaf nodes": slice_of(REPO, REPO.blocks.keys() - set(REPO.nodes[len(REPO.nodes) // 2 :])),
    "empty repo": slice_of(EMPTY, EMPTY.blocks),
    "empty repo, no root": slice_of(EMPTY, []),
}
EVERY_SLICE = pytest.mark.parametrize("part", SLICES.values(), ids=SLICES.keys())


def places(repo: Repo) -> list[str]:
    """Every key of a repo, and places before, between and after all of them."""
    beside = [place for key in repo.records for place in (key[:-1], key + "\0", key + "z")]
    return sorted({*repo.records, *beside, "", "\0", "app", "zzz", "\U0010ffff"})


def test_slices_are_such_as_they_claim() -> None:
    """Each of the slices of changes is a true part, and the new records are in it."""
    for name in ("created", "updated", "deleted", "several ops", "getRepo since"):
        part = SLICES[name]
        assert part.repo.root in part.blocks
        assert 2 < len(part.blocks) < len(part.repo.blocks) - 5, name
    new = changed(add=3, update=2, delete=3)
    records = {
        SLICES["several ops"].repo.records[key] for key in new if new[key] not in BEFORE.values()
    }
    assert len(records) == 5
    assert records <= SLICES["several ops"].blocks
    assert len([gap for gap in gaps_of(SLICES["several ops"]) if gap.rkey is None]) > 1


# --- Walking with gaps ----------------------------------------------------------------------------


@EVERY_WAY
@EVERY_SLICE
@ON_ASYNCIO
async def test_walk_gives_what_is_here_and_gaps_for_the_rest(way: str, part: Slice) -> None:
    async with driver_of(way, part.car(), GAPS) as driver:
        assert await chunks(driver) == pairs_of(part)
        assert await driver.next_chunk() is None


@EVERY_SLICE
def test_definition_leaves_nothing_out(part: Slice) -> None:
    """What the other tests expect covers the whole repo, in order, and its gaps have true sides."""
    keys = list(part.repo.records)
    found: list[str] = []
    for item in items_of(part):
        if isinstance(item, TreeNode):
            continue
        if isinstance(item, Output):
            assert part.repo.records[item.rkey] == item.cid
            found.append(item.rkey)
            continue
        assert item.cid not in part.blocks
        assert item.after is None or (item.after in keys and (not found or item.after <= found[-1]))
        assert item.before is None or item.before in keys
        if item.rkey is not None:
            assert part.repo.records[item.rkey] == item.cid
            assert (item.after or "") < item.rkey < (item.before or "\U0010ffff")
            found.append(item.rkey)
        else:
            assert item.cid in part.repo.nodes
            found += [
                key
                for key in keys
                if (item.after or "") < key and (item.before is None or key < item.before)
            ]
    assert found == keys


@EVERY_WAY
@pytest.mark.parametrize("name", ["several ops", "no records", "getRecord"])
async def test_every_way_of_asking_gives_the_gaps(way: str, name: str) -> None:
    part = SLICES[name]
    car, expected = part.car(), pairs_of(part)
    cids = [item.cid for item in items_of(part) if not isinstance(item, TreeNode)]
    outputs = [Output(key, cid, value) for (key, value), cid in zip(expected, cids, strict=True)]
    async with driver_of(way, car, GAPS) as driver:
        assert [pair async for pair in driver] == expected
    async with driver_of(way, car, GAPS) as driver:
        assert [output async for output in driver.outputs()] == outputs
    async with driver_of(way, car, GAPS) as driver:
        assert await driver.next_outputs(10_000) == outputs
    async with driver_of(way, car, GAPS) as driver:
        assert await items(driver) == items_of(part)
    async with driver_of(way, car, GAPS) as driver:
        if isinstance(driver, DiskDriver):
            async with driver.to_channel(5) as channel:
                assert [pair async for chunk in channel for pair in chunk] == expected


@EVERY_WAY
@EVERY_SLICE
@ON_ASYNCIO
async def test_keys_alone_have_gaps_for_nodes_only(way: str, part: Slice) -> None:
    expected = [
        (item.rkey or "", item.cid) for item in items_of(part) if not isinstance(item, TreeNode)
    ]
    keys: list[tuple[str, Cid]] = []
    async with driver_of(way, part.car(), GAPS) as driver:
        while chunk := await driver.next_keys(7):
            keys += chunk
        assert await driver.next_keys() is None
    assert keys == expected


@EVERY_WAY
async def test_ways_of_asking_can_be_mixed(way: str) -> None:
    part = SLICES["several ops"]
    expected = [item for item in items_of(part) if not isinstance(item, TreeNode)]
    got: list[Any] = []
    async with driver_of(way, part.car(), GAPS) as driver:
        turn = 0
        while True:
            turn += 1
            match turn % 4:
                case 0:
                    more: Any = await driver.next_outputs(2)
                    more = more and [
                        each.data if isinstance(each.data, Gap) else each for each in more
                    ]
                case 1:
                    more = await driver.next_items(3)
                case 2:
                    more = await driver.next_keys(1)
                case _:
                    output = await anext(driver.outputs(), None)
                    more = output and [output.data if isinstance(output.data, Gap) else output]
            if not more:
                break
            got += [each for each in more if not isinstance(each, TreeNode)]
    assert len(got) == len(expected)
    for found, item in zip(got, expected, strict=True):
        assert found in (item, (item.rkey or "", item.cid))


@EVERY_WAY
@ON_ASYNCIO
async def test_key_ranges_give_the_gaps_that_they_may_hold(way: str) -> None:
    for name in ("several ops", "getRepo since", "no leaf nodes", "no root"):
        part = SLICES[name]
        keys = list(part.repo.records)
        car = part.car()
        for start, stop in [
            (keys[3], keys[15]),
            (keys[7] + "\0", keys[8]),
            ("", "b"),
            (keys[20], "z"),
        ]:
            async with driver_of(way, car, GAPS.with_key_range(start, stop)) as driver:
                pairs = await chunks(driver)
            assert [plain(pair) for pair in pairs] == [
                plain(pair) for pair in pairs_of(part) if within(pair, start, stop)
            ]
            for key, value in pairs:
                if isinstance(value, Gap) and value.rkey is not None:
                    assert value.after is None or value.after in keys
                    assert value.before is None or (value.before in keys and value.before < stop)
                    assert (value.after or "") < key < (value.before or "\U0010ffff")


@ON_ASYNCIO
@pytest.mark.parametrize("way", ["memory", "disk"])
async def test_gaps_at_the_end_of_a_key_range_name_no_key_beyond_it(way: str) -> None:
    car = NO_RECORDS.car()
    for stop in KEYS[1:]:
        async with driver_of(way, car, GAPS.with_key_range(None, stop)) as driver:
            gaps = [value for _, value in await chunks(driver) if isinstance(value, Gap)]
        assert [gap.rkey for gap in gaps] == KEYS[: KEYS.index(stop)]
        assert all(gap.before is None or gap.before < stop for gap in gaps)
        assert gaps[-1].before is None


def plain(pair: tuple[str, Any]) -> tuple[str, Any]:
    """A pair without what a gap of a record says of keys that the walk may not have come by."""
    key, value = pair
    if isinstance(value, Gap) and value.rkey is not None:
        return key, value._replace(after=None, before=None)
    return pair


def within(pair: tuple[str, Any], start: str, stop: str | None) -> bool:
    key, value = pair
    if isinstance(value, Gap) and value.rkey is None:
        return overlaps(value, start, stop)
    return start <= key and (stop is None or key < stop)


@EVERY_WAY
@ON_ASYNCIO
@pytest.mark.parametrize("name", ["several ops", "no records", "getRepo since", "no root"])
async def test_seek_goes_to_any_place_of_a_slice(way: str, name: str) -> None:
    """From anywhere to anywhere, by way of chunks or of single records."""
    part = SLICES[name]
    expected = pairs_of(part)
    car = part.car()
    async with driver_of("memory", car, GAPS) as reference, driver_of(way, car, GAPS) as driver:
        for turn, place in enumerate(places(part.repo)[::3] * 2):
            for _ in range(turn % 4):
                await anext(driver, None)
            await driver.seek(place)
            await reference.seek(place)
            rest = await chunks(driver) if turn % 5 == 0 else await driver.next_chunk(5)
            wanted = await chunks(reference) if turn % 5 == 0 else await reference.next_chunk(5)
            assert rest == wanted
            first = [plain(pair) for pair in expected if within(pair, place, None)]
            assert [plain(pair) for pair in rest or []] == first[: len(rest or [])]


@EVERY_WAY
@ON_ASYNCIO
async def test_seek_ahead_from_every_item_is_the_same_everywhere(way: str) -> None:
    part = SLICES["several ops"]
    car = part.car("stream")
    count = len(pairs_of(part))
    targets = [*part.repo.records][::4]
    for taken in range(count + 1):
        for by_one in (False, True):
            for place in targets:
                got: list[Any] = []
                for each in ("memory", way):
                    async with driver_of(each, car, GAPS) as driver:
                        if by_one:
                            for _ in range(taken):
                                await anext(driver)
                        elif taken:
                            await driver.next_chunk(taken)
                        await driver.seek(place)
                        got.append(await chunks(driver))
                assert got[0] == got[1]
        if way != "stream":
            return  # the others always start anew, so once is enough


@EVERY_WAY
@ON_ASYNCIO
@pytest.mark.parametrize("name", ["several ops", "no root"])
async def test_seek_beyond_a_key_range_finds_what_it_finds_in_memory(way: str, name: str) -> None:
    """A subtree may reach from the range into what lies beyond it, and the seek lead there."""
    part = SLICES[name]
    car = part.car("stream")
    keys = [*part.repo.records]
    for stop in keys[::3]:
        builder = GAPS.with_key_range(keys[0], stop)
        async with driver_of("memory", car, builder) as memory:
            taken = len(await chunks(memory))
            await memory.seek(stop)
            expected = await memory.next_chunk()
        assert (expected is None) == (name != "no root")
        for place in (stop, keys[-1]):
            for count in range(taken):
                async with driver_of(way, car, builder) as driver:
                    for _ in range(count):
                        await anext(driver)
                    await driver.seek(place)
                    assert await driver.next_chunk() == expected


@EVERY_WAY
async def test_seek_goes_past_a_bad_record_that_was_met_already(way: str) -> None:
    """What is given one by one is taken in larger parts, which may end before an error."""
    bad = REPO.blocks[REPO.records[KEYS[8]]]

    def process(block: bytes) -> bytes:
        if block == bad:
            raise ValueError
        return block

    async with driver_of(way, REPO.to_car(), BUILDER.with_block_processor(process)) as driver:
        assert [(await anext(driver))[0] for _ in range(8)] == KEYS[:8]
        await driver.seek(KEYS[9])
        assert (await anext(driver))[0] == KEYS[9]


def test_walk_that_goes_back_knows_the_keys_before_it_no_more() -> None:
    nodes = {cid: REPO.blocks[cid] for cid in REPO.nodes}
    blocks: Blocks[bytes] = Blocks(nodes, {})
    walker = Walker[bytes](REPO.root, bytes, LIMITS)
    assert walker.take(blocks, 5).rkeys == []
    before = walker.mark()
    assert walker.take_keys(blocks, 5)[0] == KEYS[:5]
    walker.go_back(before)
    gap = walker.gap()
    assert (gap.rkey, gap.after) == (KEYS[0], None)


@EVERY_WAY
async def test_processor_is_for_records_only(way: str) -> None:
    part = SLICES["several ops"]
    builder = BUILDER.with_block_processor(len).with_gaps()
    async with driver_of(way, part.car(), builder) as driver:
        assert await chunks(driver) == [
            (key, value if isinstance(value, Gap) else len(value)) for key, value in pairs_of(part)
        ]


def test_gaps_come_after_the_processor() -> None:
    with pytest.raises(ValueError, match="has to come after"):
        GAPS.with_block_processor(len)


def fussy(block: bytes) -> bytes:
    if block[-1] % 2:
        raise ValueError(f"ends with {block[-1]}")
    return block


@EVERY_WAY
@pytest.mark.parametrize("on_error", ["skip", "yield"])
async def test_gaps_and_bad_records_together(way: str, on_error: Any) -> None:
    """A missing block is a gap, and no problem; what the processor fails on is a problem."""
    part = SLICES["several ops"]
    good = [
        (key, value) for key, value in pairs_of(part) if isinstance(value, Gap) or not value[-1] % 2
    ]
    bad = [key for key, value in pairs_of(part) if not isinstance(value, Gap) and value[-1] % 2]
    assert bad
    for early in (True, False):
        builder: Any = BUILDER.with_block_processor(fussy)
        builder = (
            builder.with_gaps().with_on_error(on_error)
            if early
            else builder.with_on_error(on_error).with_gaps()
        )
        async with driver_of(way, part.car(), builder) as driver:
            pairs = await chunks(driver)
            assert [problem.rkey for problem in driver.problems] == bad
            assert all(isinstance(problem.error, ProcessError) for problem in driver.problems)
        errors = [key for key, value in pairs if isinstance(value, ProcessError)]
        assert errors == (bad if on_error == "yield" else [])
        assert [pair for pair in pairs if not isinstance(pair[1], ProcessError)] == good


@EVERY_WAY
async def test_bad_record_still_ends_a_walk_with_gaps(way: str) -> None:
    part = SLICES["several ops"]
    builder = BUILDER.with_block_processor(fussy).with_gaps()
    async with driver_of(way, part.car(), builder) as driver:
        with pytest.raises(ProcessError):
            await chunks(driver)
        with pytest.raises(ProcessError):
            await driver.next_items()


@EVERY_WAY
async def test_without_gaps_what_is_missing_ends_the_walk(way: str) -> None:
    part = SLICES["several ops"]
    first = gaps_of(part)[0]
    async with driver_of(way, part.car(), BUILDER) as driver:
        for call in (driver.next_chunk, driver.next_items):
            with pytest.raises(MissingBlock) as caught:
                await gather(cast("Any", call), 7, [])
            assert (caught.value.cid, caught.value.rkey) == (first.cid, first.rkey)


@pytest.mark.parametrize("order", ["stream", "export", "shuffled"])
@pytest.mark.parametrize("piece", [1, 40, 1000, 10**6])
@ON_ASYNCIO
async def test_order_and_pieces_of_a_stream_do_not_matter(order: Any, piece: int) -> None:
    for part in SLICES.values():
        async with driver_of("stream", part.car(order), GAPS, piece=piece) as driver:
            assert await chunks(driver) == pairs_of(part)


@ON_ASYNCIO
async def test_stream_of_a_slice_leaves_nothing_over() -> None:
    part = SLICES["several ops"]
    async with GAPS.stream_car(pieces_of(part.car(), 100), spill=False) as (_, driver):
        assert await chunks(driver) == pairs_of(part)
        assert driver.left_over == 0


@ON_ASYNCIO
async def test_stream_that_was_kept_whole_leaves_nothing_over() -> None:
    async with BUILDER.stream_car(REPO.to_car()) as (_, driver):
        assert await driver.get(KEYS[5]) is not None
        assert len(await chunks(driver)) == len(KEYS)
        assert driver.left_over == 0


@ON_ASYNCIO
async def test_many_missing_blocks_are_not_looked_for_one_by_one(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Each would be looked for in all that the walk has let go of before."""
    searched: list[bytes] = []
    find = Released[bytes].find

    def counted(released: Released[bytes], cid: bytes) -> Iterator[Found[bytes]]:
        searched.append(cid)
        return find(released, cid)

    monkeypatch.setattr(Released, "find", counted)
    repo = build_repo({f"a.b.c/{n:04}": {"n": n} for n in range(2000)})
    part = slice_of(repo, repo.blocks.keys() - {*[*repo.records.values()][1000:]})
    async with GAPS.stream_car(pieces_of(part.car("stream"), 4096)) as (_, driver):
        assert await chunks(driver, 100) == pairs_of(part)
    assert 0 < len(searched) < 300


# --- Proofs ---------------------------------------------------------------------------------------


async def check_key(driver: RepoDriver[bytes], part: Slice, key: str) -> None:
    """What is proven of a key, and what `get` says, against the whole repo."""
    expected = proof_of(part, key)
    if isinstance(expected, Gap):
        for asking in (driver.prove(key), driver.get(key)):
            with pytest.raises(IncompleteRange) as caught:
                await asking
            error = caught.value
            assert (error.cid, error.after, error.before) == (
                expected.cid,
                expected.after,
                expected.before,
            )
            assert (error.start, error.stop, error.kind, error.rkey) == (
                key,
                key + "\0",
                "node",
                None,
            )
            assert (error.after or "") < key or error.after is None
            assert error.before is None or key < error.before
        return
    proof = await driver.prove(key)
    assert proof == expected
    assert type(proof) is type(expected)
    cid = part.repo.records.get(key)
    if cid is None:
        assert isinstance(proof, Absent)
        assert await driver.get(key) is None
    elif cid in part.blocks:
        assert isinstance(proof, Present)
        assert await driver.get(key) == Output(key, Cid(cid), part.repo.blocks[cid])
    else:
        with pytest.raises(MissingBlock) as missing:
            await driver.get(key)
        assert not isinstance(missing.value, IncompleteRange)
        assert (missing.value.cid, missing.value.kind, missing.value.rkey) == (cid, "record", key)


@EVERY_WAY
@EVERY_SLICE
@ON_ASYNCIO
async def test_proof_agrees_with_the_repo_for_every_key(way: str, part: Slice) -> None:
    async with driver_of(way, part.car(), BUILDER) as driver:
        for place in places(part.repo) if way in ("memory", "stream") else places(part.repo)[::4]:
            await check_key(driver, part, place)


@EVERY_WAY
async def test_proofs_do_not_move_the_walk_nor_mind_its_ranges(way: str) -> None:
    part = SLICES["several ops"]
    expected = [pair for pair in pairs_of(part) if within(pair, "", KEYS[15])]
    walked: list[Any] = []
    async with driver_of(way, part.car(), GAPS.with_key_range(None, KEYS[15])) as driver:
        asked = iter(places(part.repo) * 3)
        async for pair in driver:
            walked.append(pair)
            await check_key(cast("RepoDriver[bytes]", driver), part, next(asked))
    assert [plain(pair) for pair in walked] == [plain(pair) for pair in expected]


async def check_range(driver: RepoDriver[bytes], part: Slice, start: str, stop: str | None) -> None:
    missing = missing_in(part, start, stop)
    if missing:
        with pytest.raises(IncompleteRange) as caught:
            await driver.prove_range(start, stop)
        error = caught.value
        assert (error.cid, error.after, error.before) == (
            missing[0].cid,
            missing[0].after,
            missing[0].before,
        )
        assert (error.start, error.stop) == (start, stop)
        return
    proof = await driver.prove_range(start, stop)
    records = part.repo.records
    assert proof.keys == [
        (key, Cid(cid))
        for key, cid in records.items()
        if start <= key and (stop is None or key < stop)
    ]
    assert proof.after is None or (proof.after in records and proof.after < start)
    assert proof.before is None or (
        proof.before in records and stop is not None and proof.before >= stop
    )
    if not proof.keys and start != stop:
        after, before = neighbours(part.repo, start, stop or "\U0010ffff" * 2)
        assert (proof.after, proof.before) == (after, before)
    if start == stop:
        assert (proof.after, proof.before) == (None, None)


@ON_ASYNCIO
@pytest.mark.parametrize("way", ["memory", "stream"])
@EVERY_SLICE
async def test_range_proof_agrees_with_the_repo_for_every_pair_of_bounds(
    way: str, part: Slice
) -> None:
    bounds = places(part.repo)
    bounds = (
        bounds if way == "memory" and len(bounds) < 40 else bounds[:: 2 if way == "memory" else 5]
    )
    async with driver_of(way, part.car(), BUILDER) as driver:
        for at, start in enumerate(bounds):
            for stop in (*bounds[at:], None):
                await check_range(driver, part, start, stop)


@EVERY_WAY
async def test_range_proof_on_every_driver(way: str) -> None:
    part = SLICES["several ops"]
    async with driver_of(way, part.car(), BUILDER) as driver:
        for start, stop in pairwise([*places(part.repo)[::9], None]):
            await check_range(driver, part, start or "", stop)
        with pytest.raises(ValueError, match="range ends"):
            await driver.prove_range("b", "a")


async def test_error_says_what_cannot_be_told() -> None:
    part = SLICES["no root"]
    async with driver_of("memory", part.car(), BUILDER) as driver:
        with pytest.raises(IncompleteRange, match="whether the repo has 'a/b' cannot be told"):
            await driver.prove("a/b")
        with pytest.raises(IncompleteRange, match="from 'a' to before 'c' cannot be told"):
            await driver.prove_range("a", "c")
        with pytest.raises(IncompleteRange, match="from 'a' on cannot be told") as caught:
            await driver.prove_range("a")
    assert str(caught.value.cid) in str(caught.value)


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
def test_any_slice_of_any_repo(
    *, part: Slice, way: str, order: Any, seed: int, piece: int, n: int
) -> None:
    async def check() -> None:
        car = part.car(order, seed)
        async with driver_of(way, car, GAPS, piece=piece) as driver:
            assert await chunks(driver, n) == pairs_of(part)
        async with driver_of(way, car, GAPS, piece=piece) as driver:
            assert await items(driver, n) == items_of(part)
        async with driver_of(way, car, BUILDER, piece=piece) as driver:
            bounds = places(part.repo)
            for place in bounds[seed % 5 :: 5]:
                await check_key(driver, part, place)
            for start in bounds[seed::11]:
                for stop in (*bounds[seed % 7 :: 7], None):
                    if stop is None or start <= stop:
                        await check_range(driver, part, start, stop)

    anyio.run(check)


# --- The protocol's own proofs --------------------------------------------------------------------


def commit_proofs() -> list[dict[str, Any]]:
    text = shared("interop/commit-proof-fixtures.json").read_text("utf-8")
    return cast("list[dict[str, Any]]", json.loads(text))


def tree_repo(keys: set[str], leaf: Cid) -> Repo:
    """A repo whose every record is one that nobody has."""
    records = {key: bytes(leaf) for key in sorted(keys)}
    root, nodes = tree_of(records)
    head = commit(root)
    blocks = {cid_of(head): head, **nodes}
    return Repo(cid_of(head), head, root, tuple(nodes), records, blocks, {})


@EVERY_WAY
async def test_commit_proofs_prove_what_the_commit_did(way: str) -> None:
    for case in commit_proofs():
        leaf = Cid.parse(case["leafValue"])
        adds, dels = set(case["adds"]), set(case["dels"])
        before = set(case["keys"])
        repo = tree_repo((before | adds) - dels, leaf)
        assert repo.root == Cid.parse(case["rootAfterCommit"])
        proof = {bytes(Cid.parse(text)) for text in case["blocksInProof"]}
        assert proof <= repo.blocks.keys()
        part = slice_of(repo, proof)
        async with driver_of(way, part.car(), BUILDER) as driver:
            for key in adds:
                assert await driver.prove(key) == Present(key, leaf)
            for key in dels:
                assert await driver.prove(key) == Absent(key, *neighbours(repo, key, key))
            for place in {*places(repo), *before}:
                await check_key(driver, part, place)
            for start in sorted(before | adds):
                await check_range(driver, part, start, start + "z")
        async with driver_of(way, part.car(), GAPS) as driver:
            pairs = await chunks(driver)
            assert pairs == pairs_of(part)
        # The proof may be all of a small tree; else what it leaves out is a gap, and no more.
        missing = {value.cid for _, value in pairs if isinstance(value, Gap) and value.rkey is None}
        assert missing.isdisjoint(proof)
        assert bool(missing) == (repo.blocks.keys() - {repo.commit_cid} != proof)
        # The repo before it is another one: nothing there is proven by these blocks.
        old = tree_repo(before, leaf)
        assert old.root == Cid.parse(case["rootBeforeCommit"])
        foreign = write_car(
            [old.commit_cid],
            [(old.commit_cid, old.commit), *[(cid, repo.blocks[cid]) for cid in proof]],
        )
        async with driver_of(way, foreign, BUILDER) as driver:
            for key in adds | dels:
                await check_key(driver, slice_of(old, proof & old.blocks.keys()), key)


# --- Slices that pretend --------------------------------------------------------------------------


@EVERY_WAY
async def test_other_bytes_under_the_cid_of_a_node_are_found_out(way: str) -> None:
    other = build_repo(dated_records(5))
    forged = {REPO.root: other.blocks[other.root]}
    car = write_car([REPO.commit_cid], [(REPO.commit_cid, REPO.commit), *forged.items()])
    with pytest.raises(CidMismatch) as caught:
        async with driver_of(way, car, GAPS) as driver:
            await driver.prove(KEYS[0])
    assert caught.value.cid == REPO.root


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


HOSTILE_TREES = [case for case in CASES if issubclass(case.error, (NodeError, MissingBlock))]


@EVERY_WAY
@ON_ASYNCIO
async def test_hostile_trees_are_hostile_slices(way: str) -> None:
    """What breaks a rule is raised, with gaps or without, by items and by proofs."""
    assert len(HOSTILE_TREES) > 50
    for case in HOSTILE_TREES:
        car = case.car()
        if len(car) > 100_000:
            continue
        builder = DriverBuilder(verify_cids=case.verify, limits=case.limits)
        found: list[Any] = []
        async with driver_of(way, car, builder, piece=4096) as driver:
            for _ in range(2):
                with pytest.raises(case.error) as caught:
                    await gather(driver.next_items, 5, found)
                error = caught.value
                assert type(error) is case.error, case.name
                assert {name: getattr(error, name) for name in case.fields} == case.fields
            rkeys = tuple(item.rkey for item in found if isinstance(item, Output))
            assert rkeys == case.before, case.name
            if issubclass(case.error, NodeError):
                with pytest.raises((NodeError, MissingBlock)):
                    await driver.prove_range()
        if issubclass(case.error, NodeError):
            async with driver_of(way, car, builder.with_gaps(), piece=4096) as driver:
                with pytest.raises(case.error):
                    await chunks(driver)


def late_blocks(repo: Repo) -> Slice:
    """A slice whose first record is missing, so that a stream has to be kept to its end."""
    first = next(iter(repo.records.values()))
    return slice_of(repo, repo.blocks.keys() - {first})


@ON_ASYNCIO
async def test_first_record_missing_from_a_stream_that_must_not_spill() -> None:
    repo = build_repo({f"a.b.c/{n:05}": {"n": n, "text": "x" * 300} for n in range(5000)})
    part = late_blocks(repo)
    car = part.car("stream")
    async with GAPS.with_mem_limit_mb(16).stream_car(pieces_of(car, 5000), spill=False) as (
        _,
        kept,
    ):
        assert await chunks(kept, 500) == pairs_of(part)
        assert not kept.order.streamable
        assert kept.left_over == 0
    async with GAPS.with_mem_limit_mb(1).stream_car(pieces_of(car, 5000)) as (_, spilled):
        assert await chunks(spilled, 500) == pairs_of(part)
        assert spilled.spilled
    async with GAPS.with_mem_limit_mb(1).stream_car(pieces_of(car, 5000), spill=False) as (_, full):
        with pytest.raises((MemLimitExceeded, BlockReleased)):
            await chunks(full, 500)


@ON_ASYNCIO
async def test_block_that_was_given_up_is_never_called_a_gap() -> None:
    """Without the disk, and memory used up, nobody knows whether a block was there."""
    records: dict[str, object] = {f"a.b.c/{n:05}": {"n": n, "text": "x" * 300} for n in range(6000)}
    records["a.b.c/05999"] = records["a.b.c/00000"]
    repo = build_repo(records)
    shared_record = repo.records["a.b.c/05999"]
    for part, error in [
        (slice_of(repo, repo.blocks), BlockReleased),
        (slice_of(repo, repo.blocks.keys() - {repo.records["a.b.c/05990"]}), BlockReleased),
    ]:
        builder = GAPS.with_mem_limit_mb(0.5)
        got: list[Any] = []
        source = pieces_of(part.car("stream"), 5000)
        async with builder.stream_car(source, spill=False) as (_, driver):
            with pytest.raises(error):
                await gather(driver.next_chunk, 100, got)
        assert got == pairs_of(part)[: len(got)]
        assert len(got) > 5900
        async with builder.stream_car(pieces_of(part.car("stream"), 5000)) as (_, driver):
            assert await chunks(driver, 500) == pairs_of(part)
    assert shared_record in repo.blocks
