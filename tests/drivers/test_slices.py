"""CAR slices: what a walk gives of them, gap by gap.

Slices are cut from whole repos, so that the repo says what is true and the plain definitions of
`support.slices` say what can be known.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache
from itertools import cycle, product
from typing import Any, cast

import pytest

from repo_stream import (
    BlockReleased,
    Cid,
    DiskDriver,
    DriverBuilder,
    Gap,
    MemLimitExceeded,
    MissingBlock,
    NodeError,
    Output,
    ProcessError,
    TreeNode,
)
from repo_stream.car.files import OpenFile
from repo_stream.mst.blocks import Blocks
from repo_stream.mst.walker import Walker
from repo_stream.store.disk import Lease
from repo_stream.store.log import LOG_START
from repo_stream.store.places import locate
from repo_stream.testing import BuiltRepo, Order, build_repo
from support import pieces_of
from support.hostile import CASES, Hostile
from support.slices import (
    BEFORE,
    EVERY_WAY,
    KEYS,
    LIMITS,
    NO_RECORDS,
    REPO,
    SLICES,
    WAYS,
    Slice,
    changed,
    chunks,
    commit_slice,
    driver_of,
    gaps_of,
    gather,
    items,
    items_of,
    pairs_of,
    places,
    plain,
    slice_of,
    within,
)
from support.streams import budgeted

BUILDER = DriverBuilder()
GAPS = BUILDER.with_gaps()

WAYS_BUT_MEMORY = pytest.mark.parametrize("way", [way for way in WAYS if way != "memory"])


def test_slices_of_changes_are_true_parts() -> None:
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
    assert len([gap for gap in gaps_of(SLICES["several ops"]) if gap.key is None]) > 1


# --- Walking with gaps ----------------------------------------------------------------------------


def test_definition_leaves_nothing_out() -> None:
    """What the other tests expect covers the whole repo, in order, and its gaps have true sides."""
    for part in SLICES.values():
        check_definition(part)


def check_definition(part: Slice) -> None:
    keys = list(part.repo.records)
    found: list[str] = []
    for item in items_of(part):
        if isinstance(item, TreeNode):
            continue
        if isinstance(item, Output):
            assert part.repo.records[item.key] == item.cid
            found.append(item.key)
            continue
        assert item.cid not in part.blocks
        assert item.after is None or (item.after in keys and (not found or item.after <= found[-1]))
        assert item.before is None or item.before in keys
        if item.key is not None:
            assert part.repo.records[item.key] == item.cid
            assert (item.after or "") < item.key < (item.before or "\U0010ffff")
            found.append(item.key)
        else:
            assert item.cid in part.repo.nodes
            found += [
                key
                for key in keys
                if (item.after or "") < key and (item.before is None or key < item.before)
            ]
    assert found == keys


@EVERY_WAY
async def test_walk_gives_what_is_here_and_gaps_for_the_rest(way: str) -> None:
    for name, part in SLICES.items():
        async with driver_of(way, part.car(), GAPS) as driver:
            assert await chunks(driver) == pairs_of(part), name
            assert await driver.next_chunk() is None


@EVERY_WAY
async def test_every_way_of_asking_gives_the_gaps(way: str) -> None:
    for name in ("several ops", "no records", "getRecord"):
        await check_ways_of_asking(way, SLICES[name])


async def check_ways_of_asking(way: str, part: Slice) -> None:
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
async def test_keys_alone_have_gaps_for_nodes_only(way: str) -> None:
    for name, part in SLICES.items():
        keys: list[tuple[str, Cid]] = []
        async with driver_of(way, part.car(), GAPS) as driver:
            while chunk := await driver.next_keys(7):
                keys += chunk
            assert await driver.next_keys() is None
        assert keys == [
            (item.key or "", item.cid) for item in items_of(part) if not isinstance(item, TreeNode)
        ], name


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
                        each.value if isinstance(each.value, Gap) else each for each in more
                    ]
                case 1:
                    more = await driver.next_items(3)
                case 2:
                    more = await driver.next_keys(1)
                case _:
                    output = await anext(driver.outputs(), None)
                    more = output and [output.value if isinstance(output.value, Gap) else output]
            if not more:
                break
            got += [each for each in more if not isinstance(each, TreeNode)]
    assert len(got) == len(expected)
    for found, item in zip(got, expected, strict=True):
        assert found in (item, (item.key or "", item.cid))


@EVERY_WAY
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
                if isinstance(value, Gap) and value.key is not None:
                    assert value.after is None or value.after in keys
                    assert value.before is None or (value.before in keys and value.before < stop)
                    assert (value.after or "") < key < (value.before or "\U0010ffff")


@pytest.mark.parametrize("way", ["memory", "disk"])
async def test_gaps_at_the_end_of_a_key_range_name_no_key_beyond_it(way: str) -> None:
    car = NO_RECORDS.car()
    for stop in KEYS[1:]:
        async with driver_of(way, car, GAPS.with_key_range(None, stop)) as driver:
            gaps = [value for _, value in await chunks(driver) if isinstance(value, Gap)]
        assert [gap.key for gap in gaps] == KEYS[: KEYS.index(stop)]
        assert all(gap.before is None or gap.before < stop for gap in gaps)
        assert gaps[-1].before is None


@EVERY_WAY
async def test_seek_goes_to_any_place_of_a_slice(way: str) -> None:
    """From anywhere to anywhere, by way of chunks or of single records."""
    for name in ("several ops", "no records", "getRepo since", "no root"):
        await check_seeks(way, SLICES[name])


async def check_seeks(way: str, part: Slice) -> None:
    expected = pairs_of(part)
    car = part.car()
    async with driver_of("memory", car, GAPS) as reference, driver_of(way, car, GAPS) as driver:
        for turn, place in enumerate(places(part.repo)[::3] * 2):
            for _ in range(turn % 4):
                await anext(driver, None)
            await driver.seek(place.encode())
            await reference.seek(place.encode())
            rest = await chunks(driver) if turn % 5 == 0 else await driver.next_chunk(5)
            wanted = await chunks(reference) if turn % 5 == 0 else await reference.next_chunk(5)
            assert rest == wanted
            first = [plain(pair) for pair in expected if within(pair, place, None)]
            assert [plain(pair) for pair in rest or []] == first[: len(rest or [])]


@WAYS_BUT_MEMORY
async def test_seek_ahead_from_every_item_finds_what_it_finds_in_memory(way: str) -> None:
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


@WAYS_BUT_MEMORY
async def test_seek_beyond_a_key_range_finds_what_it_finds_in_memory(way: str) -> None:
    """A subtree may reach from the range into what lies beyond it, and the seek lead there."""
    for name in ("several ops", "no root"):
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
            # How far a stream has come decides what it has let go of.
            for count in range(0, taken, 1 if way == "stream" else 4):
                for place in (stop, keys[-1]):
                    async with driver_of(way, car, builder) as driver:
                        for _ in range(count):
                            await anext(driver)
                        await driver.seek(place)
                        assert await driver.next_chunk() == expected


@EVERY_WAY
async def test_seek_goes_past_a_bad_record_that_the_driver_has_met(way: str) -> None:
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


def test_walk_that_goes_back_forgets_the_keys_before_it() -> None:
    nodes = {cid: REPO.blocks[cid] for cid in REPO.nodes}
    blocks: Blocks[bytes] = Blocks(nodes, {})
    walker = Walker[bytes](REPO.root, bytes, LIMITS)
    assert walker.take(blocks, 5).keys == []
    before = walker.mark()
    assert walker.take_keys(blocks, 5)[0] == KEYS[:5]
    walker.go_back(before)
    gap = walker.gap()
    assert (gap.key, gap.after) == (KEYS[0], None)


@EVERY_WAY
async def test_processor_gets_no_gap(way: str) -> None:
    part = SLICES["several ops"]
    builder = BUILDER.with_block_processor(len).with_gaps()
    async with driver_of(way, part.car(), builder) as driver:
        assert await chunks(driver) == [
            (key, value if isinstance(value, Gap) else len(value)) for key, value in pairs_of(part)
        ]


def fussy(block: bytes) -> bytes:
    if block[-1] % 2:
        raise ValueError(f"ends with {block[-1]}")
    return block


@EVERY_WAY
async def test_gaps_are_no_problems_and_bad_records_are(way: str) -> None:
    """A missing block is a gap, and no problem; what the processor fails on is a problem."""
    part = SLICES["several ops"]
    good = [
        (key, value) for key, value in pairs_of(part) if isinstance(value, Gap) or not value[-1] % 2
    ]
    bad = [key for key, value in pairs_of(part) if not isinstance(value, Gap) and value[-1] % 2]
    assert bad
    for on_error, early in product(("skip", "yield"), (True, False)):
        builder: Any = BUILDER.with_block_processor(fussy)
        builder = (
            builder.with_gaps().with_on_error(on_error)
            if early
            else builder.with_on_error(on_error).with_gaps()
        )
        async with driver_of(way, part.car(), builder) as driver:
            pairs = await chunks(driver)
            assert [problem.key for problem in driver.problems] == bad
            assert all(isinstance(problem.error, ProcessError) for problem in driver.problems)
        errors = [key for key, value in pairs if isinstance(value, ProcessError)]
        assert errors == (bad if on_error == "yield" else [])
        assert [pair for pair in pairs if not isinstance(pair[1], ProcessError)] == good


@EVERY_WAY
async def test_bad_record_ends_a_walk_with_gaps_too(way: str) -> None:
    part = SLICES["several ops"]
    builder = BUILDER.with_block_processor(fussy).with_gaps()
    async with driver_of(way, part.car(), builder) as driver:
        with pytest.raises(ProcessError):
            await chunks(driver)
        with pytest.raises(ProcessError):
            await driver.next_items()


@EVERY_WAY
async def test_missing_block_ends_a_walk_without_gaps(way: str) -> None:
    part = SLICES["several ops"]
    first = gaps_of(part)[0]
    async with driver_of(way, part.car(), BUILDER) as driver:
        for call in (driver.next_chunk, driver.next_items):
            with pytest.raises(MissingBlock) as caught:
                await gather(cast("Any", call), 7, [])
            assert (caught.value.cid, caught.value.key) == (first.cid, first.key)


async def test_order_and_pieces_of_a_stream_do_not_matter() -> None:
    orders: list[Order] = ["stream", "export", "shuffled"]
    pieces = cycle((1, 40, 1000, 10**6))  # each with each order, as there are 3 and 4
    for (name, part), order in product(SLICES.items(), orders):
        piece = next(pieces)
        async with driver_of("stream", part.car(order), GAPS, piece=piece) as driver:
            assert await chunks(driver) == pairs_of(part), (name, order, piece)


async def test_stream_of_a_slice_leaves_no_block_over() -> None:
    part = SLICES["several ops"]
    async with GAPS.stream_car(pieces_of(part.car(), 100), spill=False) as (_, driver):
        assert await chunks(driver) == pairs_of(part)
        assert driver.left_over == 0


async def test_stream_that_was_kept_whole_leaves_no_block_over() -> None:
    async with BUILDER.stream_car(REPO.to_car()) as (_, driver):
        assert await driver.get(KEYS[5]) is not None
        assert len(await chunks(driver)) == len(KEYS)
        assert driver.left_over == 0


async def test_many_missing_blocks_are_not_looked_for_one_by_one(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The places in memory say of each that it is not in the log, which is read no more for it."""
    visits = 0
    visit = Lease.visit

    async def counted(lease: Lease, work: Callable[[OpenFile], Any]) -> Any:
        nonlocal visits
        visits += 1
        return await visit(lease, work)

    monkeypatch.setattr(Lease, "visit", counted)
    repo = build_repo({f"a.b.c/{n:04}": {"n": n, "text": "x" * 400} for n in range(2000)})
    part = slice_of(repo, repo.blocks.keys() - {*[*repo.records.values()][1000:]})
    builder = GAPS.with_mem_limit_mb(4)
    async with builder.stream_car(pieces_of(part.car("stream"), 4096)) as (_, driver):
        assert await chunks(driver, 100) == pairs_of(part)
        assert not driver.spilled
    assert 0 < visits < 20  # the log was gone through once, to find out where blocks are


async def test_missing_block_whose_place_is_like_anothers_is_missing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """By accident, once in many billions; here always."""

    def mistaken(buckets: Any, cids: Sequence[bytes]) -> list[int]:
        return [start if start >= 0 else LOG_START for start in locate(buckets, cids)]

    monkeypatch.setattr("repo_stream.store.repo_log.locate", mistaken)
    repo = build_repo({f"a.b.c/{n:04}": {"n": n, "text": "x" * 400} for n in range(600)})
    part = slice_of(repo, repo.blocks.keys() - {*[*repo.records.values()][500::9]})
    for limit, spilled in ((4, False), (0, True)):
        builder = GAPS.with_mem_limit_mb(limit)
        with budgeted(released=1000):
            async with builder.stream_car(pieces_of(part.car("stream"), 4096)) as (_, driver):
                assert await chunks(driver, 100) == pairs_of(part)
                assert driver.spilled == spilled


@cache
def hostile_trees() -> list[Hostile]:
    """A CAR for each error of a tree: the one that gives the most records before it."""
    found: dict[type[Exception], Hostile] = {}
    for case in CASES:
        if issubclass(case.error, (NodeError, MissingBlock)) and len(case.car()) < 100_000:
            best = found.setdefault(case.error, case)
            if len(case.before) > len(best.before):
                found[case.error] = case
    return list(found.values())


@EVERY_WAY
async def test_hostile_tree_is_a_hostile_slice(way: str) -> None:
    """What breaks a rule is raised, with gaps or without, by items and by proofs."""
    cases = hostile_trees()
    assert len(cases) > 10
    for case in cases:
        car = case.car()
        builder = DriverBuilder(verify_cids=case.verify, limits=case.limits)
        found: list[Any] = []
        async with driver_of(way, car, builder, piece=4096) as driver:
            for _ in range(2):
                with pytest.raises(case.error) as caught:
                    await gather(driver.next_items, 5, found)
                error = caught.value
                assert type(error) is case.error, case.name
                assert {name: getattr(error, name) for name in case.fields} == case.fields
            keys = tuple(item.key for item in found if isinstance(item, Output))
            assert keys == case.before, case.name
            if issubclass(case.error, NodeError):
                with pytest.raises((NodeError, MissingBlock)):
                    await driver.prove_range()
        if issubclass(case.error, NodeError):
            async with driver_of(way, car, builder.with_gaps(), piece=4096) as driver:
                with pytest.raises(case.error):
                    await chunks(driver)


# --- Gaps and changes -----------------------------------------------------------------------------


@EVERY_WAY
async def test_gap_can_be_a_new_key_and_keys_with_cids_tell_what_has_changed(way: str) -> None:
    """The record of a new key may have been in the repo before, so it is not in the slice."""
    again, back, deleted, last = (KEYS[n] for n in (2, 5, 11, 20))
    after = dict(BEFORE)
    after[f"{again}-new"] = BEFORE[again]
    after[back] = BEFORE[last]
    after[last] = {"new": True}
    del after[deleted]
    part = commit_slice(BEFORE, after)
    async with driver_of(way, part.car(), GAPS) as driver:
        gaps = {key for key, value in await chunks(driver) if isinstance(value, Gap)}
        assert {f"{again}-new", back} <= gaps
        await driver.seek("")
        listed: list[tuple[str, Cid]] = []
        while some := await driver.next_keys(5):
            listed += some
    known = {key: Cid(cid) for key, cid in REPO.records.items()}
    changed = {key for key, cid in listed if key and known.get(key) != cid}
    assert changed == {f"{again}-new", back, last}
    # The records that are not in the slice are known under another key.
    cids = dict(listed)
    assert cids[f"{again}-new"] == known[again]
    assert cids[back] == known[last]
    # Keys that were there and are not listed are deleted, or in a subtree that is not there.
    assert deleted not in cids


# --- Streams that may not spill -------------------------------------------------------------------


def late_blocks(repo: BuiltRepo) -> Slice:
    """A slice whose first record is missing, so that a stream has to be kept to its end."""
    first = next(iter(repo.records.values()))
    return slice_of(repo, repo.blocks.keys() - {first})


async def test_stream_of_a_slice_without_its_first_record_is_kept() -> None:
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


async def test_block_that_was_given_up_is_never_called_a_gap() -> None:
    """Without the disk, and memory used up, nobody knows whether a block was there."""
    records: dict[str, object] = {f"a.b.c/{n:05}": {"n": n, "text": "x" * 300} for n in range(3000)}
    records["a.b.c/02999"] = records["a.b.c/00000"]
    repo = build_repo(records)
    shared_record = repo.records["a.b.c/02999"]
    for part, error in [
        (slice_of(repo, repo.blocks), BlockReleased),
        (slice_of(repo, repo.blocks.keys() - {repo.records["a.b.c/02990"]}), BlockReleased),
    ]:
        builder = GAPS.with_mem_limit_mb(0.5)
        got: list[Any] = []
        source = pieces_of(part.car("stream"), 5000)
        async with builder.stream_car(source, spill=False) as (_, driver):
            with pytest.raises(error):
                await gather(driver.next_chunk, 100, got)
        assert got == pairs_of(part)[: len(got)]
        assert len(got) > 2900
        async with builder.stream_car(pieces_of(part.car("stream"), 5000)) as (_, driver):
            assert await chunks(driver, 500) == pairs_of(part)
    assert shared_record in repo.blocks
