"""Only what is asked for: key ranges, seek, get, collections and keys alone.

A full walk, filtered and cut with plain list operations, says what must come.
"""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import AbstractAsyncContextManager
from dataclasses import replace

import anyio
import pytest
from hypothesis import given, strategies as st

from repo_stream import (
    Absent,
    Cid,
    Commit,
    DriverBuilder,
    Limits,
    MissingBlock,
    Output,
    Present,
    RepoDriver,
)
from repo_stream.mst.blocks import Blocks
from repo_stream.mst.ranges import KeyRanges
from repo_stream.mst.walker import Walker
from repo_stream.testing import BuiltRepo, build_repo
from support import pieces_of, walk
from support.driving import BOTH_WAYS, driving, rest_of
from support.slices import items_of, slice_of
from support.strategies import EXAMPLES

LIMITS = Limits()
NAMES = ["a.b.c.d", "a.b.c", "a.b.d", "zz.top.x"]
REPO = build_repo({f"{NAMES[n % 4]}/{n:04}": {"n": n % 90} for n in range(600)})
KEYS = list(REPO.records)
LINKS = [(key, Cid(cid)) for key, cid in REPO.records.items()]
ALL = [(key, REPO.blocks[cid]) for key, cid in REPO.records.items()]
DID = Commit.decode(REPO.commit, Cid(REPO.commit_cid)).did


def driver_of(
    mem_limit_mb: float, builder: DriverBuilder[bytes] | None = None, repo: BuiltRepo = REPO
) -> AbstractAsyncContextManager[RepoDriver[bytes]]:
    return driving(repo.to_car(), (builder or DriverBuilder()).with_mem_limit_mb(mem_limit_mb))


async def rest(driver: RepoDriver[bytes]) -> list[tuple[str, bytes]]:
    return await rest_of(driver, 50)


def since(key: str) -> list[tuple[str, bytes]]:
    return [pair for pair in ALL if pair[0] >= key]


# --- The ranges themselves ------------------------------------------------------------------------


texts = st.text(alphabet="ab/0\ud7ff\ue000\U0010ffff", max_size=4)
pairs = st.tuples(texts, st.none() | texts)


def ranges_from(asked: Iterable[tuple[str, str | None]]) -> KeyRanges:
    return KeyRanges.joined(
        (start.encode(), None if stop is None else stop.encode()) for start, stop in asked
    )


def held(ranges: KeyRanges, keys: list[str]) -> list[str]:
    return [key for span in ranges.spans(keys) for key in keys[span]]


def inside(text: str, ranges: Iterable[tuple[str, str | None]]) -> bool:
    return any(start <= text and (stop is None or text < stop) for start, stop in ranges)


@EXAMPLES
@given(st.lists(pairs, max_size=5), st.lists(texts, min_size=1, max_size=30, unique=True), texts)
def test_ranges_hold_what_a_filter_holds(
    asked: list[tuple[str, str | None]], keys: list[str], start: str
) -> None:
    keys.sort()
    ranges = ranges_from(asked)
    wanted = [key for key in keys if inside(key, asked)]
    assert held(ranges, keys) == wanted
    assert held(ranges.starting_at(start.encode()), keys) == [k for k in wanted if k >= start]
    for lower, upper in zip(keys, [*keys[1:], None], strict=True):
        between = [lower + "\0", *[start for start, _ in asked if start > lower]]
        if any(inside(key, asked) for key in between if upper is None or key < upper):
            assert ranges.may_hold(lower.encode(), None if upper is None else upper.encode())


@EXAMPLES
@given(st.lists(pairs, max_size=3), st.lists(pairs, max_size=3), st.lists(texts, min_size=1))
def test_intersection_of_ranges_holds_what_both_hold(
    one: list[tuple[str, str | None]], other: list[tuple[str, str | None]], keys: list[str]
) -> None:
    keys.sort()
    assert held(ranges_from(one) & ranges_from(other), keys) == [
        key for key in keys if inside(key, one) and inside(key, other)
    ]


def test_ranges_that_touch_are_one_range() -> None:
    assert ranges_from([("b", "c"), ("a", "b")]) == ranges_from([("a", "c")])
    assert ranges_from([("a", "b"), ("b", None), ("c", "d")]) == ranges_from([("a", None)])
    assert ranges_from([("a", "b"), ("b\0", "c")]) != ranges_from([("a", "c")])
    assert ranges_from([("a", "a"), ("c", "b")]) == ranges_from([])


@EXAMPLES
@given(texts, st.lists(texts, min_size=1, unique=True))
def test_prefix_holds_the_keys_that_begin_with_it(prefix: str, keys: list[str]) -> None:
    keys.sort()
    ranges = KeyRanges.prefixes([prefix])
    assert held(ranges, keys) == [key for key in keys if key.startswith(prefix)]


# --- The walker against a plain filter ------------------------------------------------------------


places = st.sampled_from([*KEYS, *[key[:-1] for key in KEYS], "", "a", "zzz", *NAMES])
ranges_of = st.lists(st.tuples(places, st.none() | places), min_size=1, max_size=4)


def taken(walker: Walker[bytes], blocks: Blocks[bytes], n: int) -> list[str]:
    keys: list[str] = []
    while part := walker.take(blocks, n).keys:
        keys += part
    assert walker.done
    return keys


@EXAMPLES
@given(ranges_of, st.integers(1, 99), st.lists(places, max_size=4))
def test_walk_of_ranges_is_the_full_walk_filtered(
    asked: list[tuple[str, str | None]], n: int, seeks: list[str]
) -> None:
    blocks = Blocks(REPO.blocks, REPO.blocks)
    walker = Walker[bytes](REPO.root, bytes, LIMITS, ranges_from(asked))
    expected = [key for key in KEYS if inside(key, asked)]
    assert taken(walker, blocks, n) == expected
    for place in seeks:
        walker.seek(place.encode())
        assert taken(walker, blocks, n) == [key for key in expected if key >= place]


@EXAMPLES
@given(ranges_of, st.integers(1, 99), st.lists(places, max_size=4))
def test_keys_alone_come_as_records_do(
    asked: list[tuple[str, str | None]], n: int, seeks: list[str]
) -> None:
    blocks = Blocks(REPO.blocks, REPO.blocks)
    walker = Walker[bytes](REPO.root, bytes, LIMITS, ranges_from(asked))
    for place in seeks:
        walker.seek(place.encode())
        left = [key for key in KEYS if inside(key, asked) and key >= place]
        assert walker.take_keys(blocks, n)[0] == left[:n]
        left = left[n:]
        assert walker.take(blocks, n).keys == left[:n]
        left = left[n:]


@EXAMPLES
@given(ranges_of, st.integers(1, 99), st.lists(places, max_size=4).map(sorted))
def test_skip_forward_leaves_the_keys_that_are_not_behind(
    asked: list[tuple[str, str | None]], n: int, skips: list[str]
) -> None:
    blocks = Blocks(REPO.blocks, REPO.blocks)
    walker = Walker[bytes](REPO.root, bytes, LIMITS, ranges_from(asked))
    left = [key for key in KEYS if inside(key, asked)]
    for place in skips:
        walker.skip_to(place.encode())
        left = [key for key in left if key >= place]
        assert walker.take_keys(blocks, n)[0] == left[:n]
        left = left[n:]


def test_blocks_that_are_skipped_are_known_when_they_come() -> None:
    """A stream does not keep them."""
    repo = build_repo({f"a.b.c/{n:03}": {"n": n} for n in range(100)})
    order = [bytes(item.cid) for item in items_of(slice_of(repo, repo.blocks))]
    keys, cids = list(repo.records), list(repo.records.values())
    blocks = Blocks(repo.blocks, repo.blocks)
    walker = Walker[bytes](repo.root, bytes, LIMITS)
    walker.passing = {}
    assert walker.take_keys(blocks, 1)[0] == keys[:1]
    walker.skip_to(keys[-1].encode())
    assert walker.take_keys(blocks, 9)[0] == keys[-1:]
    passed = {cid for cid in order if walker.passes(cid, repo.blocks[cid])}
    assert passed & set(cids) == set(cids[1:-1])
    assert not walker.passing


@EXAMPLES
@given(places)
def test_one_key_needs_only_the_nodes_above_it(key: str) -> None:
    walker = Walker[bytes](REPO.root, bytes, LIMITS, KeyRanges.key(key.encode()))
    blocks = Blocks[bytes].empty(alike=True)
    while not walker.take(blocks, 1).keys and not walker.done:
        (cid,) = walker.wanted(blocks, 9)
        blocks.raw[cid] = REPO.blocks[cid]
    assert len(blocks.raw) <= 12


# --- Drivers --------------------------------------------------------------------------------------


@BOTH_WAYS
async def test_driver_gives_only_the_keys_of_its_ranges(mem_limit_mb: float) -> None:
    a, b = KEYS[100], KEYS[250]
    plain = DriverBuilder()
    for builder, expected in [
        (plain.with_key_range(a, b), ALL[100:250]),
        (plain.with_key_range(None, b), ALL[:250]),
        (plain.with_key_range(a, None), ALL[100:]),
        (plain.with_prefix("a.b.c"), [pair for pair in ALL if pair[0].startswith("a.b.c")]),
        (plain.with_prefix(""), ALL),
        (plain.with_prefix("no.such"), []),
        (plain.with_collections("a.b.c"), [p for p in ALL if p[0].startswith("a.b.c/")]),
        (
            plain.with_collections("zz.top.x", "a.b.c", "no.such.name"),
            [p for p in ALL if p[0].startswith(("a.b.c/", "zz.top.x/"))],
        ),
        (plain.with_collections("a.b.c.*"), [p for p in ALL if p[0].startswith("a.b.c.d/")]),
        (plain.with_collections("a.*", "a.b.c"), [p for p in ALL if p[0].startswith("a.")]),
        (plain.with_collections("zz.*", "no.*"), [p for p in ALL if p[0].startswith("zz.top.x/")]),
        (plain.with_collections("*"), ALL),
        (
            plain.with_collections("*").with_collections("a.b.*").with_prefix("a.b.d"),
            [p for p in ALL if p[0].startswith("a.b.d/")],
        ),
    ]:
        async with driver_of(mem_limit_mb, builder) as driver:
            assert await rest(driver) == expected
            assert await driver.next_chunk() is None


@BOTH_WAYS
async def test_records_outside_a_range_are_not_processed(mem_limit_mb: float) -> None:
    seen: list[bytes] = []

    def process(block: bytes) -> int:
        seen.append(block)
        return len(block)

    builder = DriverBuilder(mem_limit_mb=mem_limit_mb, block_processor=process)
    outputs = await walk(REPO.to_car(), builder.with_prefix(KEYS[7]))
    assert [(output.key, output.value) for output in outputs] == [(KEYS[7], len(ALL[7][1]))]
    assert seen == [ALL[7][1]]


@BOTH_WAYS
async def test_subtrees_outside_a_range_need_not_be_there(mem_limit_mb: float) -> None:
    prefix = "zz.top.x/"
    inner = [p for p in ALL if p[0].startswith(prefix)]
    walker = Walker[bytes](REPO.root, bytes, LIMITS, KeyRanges.prefixes([prefix]))
    needed = Blocks[bytes].empty(alike=True)
    while not walker.done:
        if not walker.take(needed, 99).keys:
            for cid in walker.wanted(needed, 99):
                needed.raw[cid] = REPO.blocks[cid]
    part = replace(REPO, blocks={REPO.commit_cid: REPO.commit, **needed.raw})
    assert len(part.blocks) < len(REPO.blocks)
    async with driver_of(mem_limit_mb, DriverBuilder().with_prefix(prefix), part) as driver:
        assert await rest(driver) == inner


@BOTH_WAYS
async def test_after_a_seek_come_the_keys_from_there_on(mem_limit_mb: float) -> None:
    async with driver_of(mem_limit_mb) as driver:
        for key in [KEYS[300], KEYS[20], KEYS[20] + "x", "", "zzz.", "b.", KEYS[-1]]:
            await driver.seek(key)
            assert await driver.next_chunk(10) == (since(key)[:10] or None)
            await anext(driver, None)  # what it took ahead is gone with the next seek
        await driver.seek(KEYS[550])
        assert await rest(driver) == ALL[550:]
        await driver.seek(KEYS[598])  # after the end
        assert await rest(driver) == ALL[598:]


@BOTH_WAYS
async def test_seek_stays_within_the_key_range(mem_limit_mb: float) -> None:
    builder = DriverBuilder().with_key_range(KEYS[100], KEYS[200])
    async with driver_of(mem_limit_mb, builder) as driver:
        await driver.seek(KEYS[150])
        assert await rest(driver) == ALL[150:200]
        await driver.seek("")
        assert await rest(driver) == ALL[100:200]
        await driver.seek(KEYS[300])
        assert await rest(driver) == []


@BOTH_WAYS
async def test_seek_goes_past_a_missing_record(mem_limit_mb: float) -> None:
    cid = REPO.records[KEYS[0]]
    broken = replace(REPO, blocks={c: b for c, b in REPO.blocks.items() if c != cid})
    keys = [key for key, link in REPO.records.items() if link == cid]
    async with driver_of(mem_limit_mb, repo=broken) as driver:
        for _ in range(2):
            with pytest.raises(MissingBlock):
                await driver.next_chunk()
        await driver.seek(keys[-1] + "\0")
        assert await rest(driver) == since(keys[-1])[1:]
        await driver.seek(keys[-1])
        with pytest.raises(MissingBlock):
            await rest(driver)


@BOTH_WAYS
async def test_missing_node_is_in_the_way_after_a_seek_too(mem_limit_mb: float) -> None:
    broken = replace(REPO, blocks={c: b for c, b in REPO.blocks.items() if c != REPO.nodes[-1]})
    async with driver_of(mem_limit_mb, repo=broken) as driver:
        with pytest.raises(MissingBlock) as first:
            await rest(driver)
        await driver.seek("")
        assert await driver.next_keys(600) is not None
        with pytest.raises(MissingBlock) as again:
            await driver.next_keys()
        assert again.value.cid == first.value.cid


@BOTH_WAYS
async def test_get_gives_any_record_and_leaves_the_walk_alone(mem_limit_mb: float) -> None:
    async with driver_of(mem_limit_mb) as driver:
        found = await driver.next_chunk(40) or []
        for at in (0, 39, 40, 41, 599):
            output = await driver.get(KEYS[at])
            assert output == Output(KEYS[at], LINKS[at][1], ALL[at][1])
        for absent in (b"", b"a", "a/b", KEYS[3] + "0", "zzz/z"):
            assert await driver.get(absent) is None
        assert found + await rest(driver) == ALL
        assert await driver.get(KEYS[7]) == Output(KEYS[7], LINKS[7][1], ALL[7][1])


@BOTH_WAYS
async def test_get_raises_if_the_record_is_missing(mem_limit_mb: float) -> None:
    cid = REPO.records[KEYS[50]]
    broken = replace(REPO, blocks={c: b for c, b in REPO.blocks.items() if c != cid})
    async with driver_of(mem_limit_mb, DriverBuilder().with_on_error("skip"), broken) as driver:
        with pytest.raises(MissingBlock) as caught:
            await driver.get(KEYS[50])
        assert (caught.value.kind, caught.value.key) == ("record", KEYS[50])
        assert await driver.get(KEYS[51]) is not None


@BOTH_WAYS
async def test_collections_are_listed_without_reading_records(mem_limit_mb: float) -> None:
    empty = replace(REPO, blocks={c: REPO.blocks[c] for c in (REPO.commit_cid, *REPO.nodes)})
    async with driver_of(mem_limit_mb, repo=empty) as driver:
        assert await driver.collections() == NAMES
        assert await driver.next_keys(5) == LINKS[:5]
        assert await driver.collections() == NAMES
    builder = DriverBuilder().with_key_range("a.b.c.d/", "z")
    async with driver_of(mem_limit_mb, builder, empty) as driver:
        expected = {key.split("/")[0]: None for key in KEYS if "a.b.c.d/" <= key < "z"}
        assert await driver.collections() == list(expected)
    builder = DriverBuilder().with_collections("zz.top.x", "a.b.c", "no.such.name")
    async with driver_of(mem_limit_mb, builder, empty) as driver:
        assert await driver.collections() == ["a.b.c", "zz.top.x"]
        assert await driver.collections(whole_repo=True) == NAMES
    async with driver_of(mem_limit_mb, repo=ODD) as driver:
        assert await driver.collections() == ["", "a", "alone.0", "alone", "at:", "y"]


@BOTH_WAYS
@pytest.mark.parametrize(
    ("keys", "names"),
    [
        pytest.param(["/a", "a/1", "b"], ["", "a"], id="nothing before the slash"),
        pytest.param(["a/1", "b", "b/1"], ["a", "", "b"], id="no slash"),
        pytest.param(["b", "c", "d", "e/1"], ["", "e"], id="several without"),
        pytest.param(["//", "b", "b.c/1", "c"], ["", "b.c"], id="both kinds"),
        pytest.param(["b"], [""], id="nothing else"),
    ],
)
async def test_keys_without_a_collection_are_listed_under_an_empty_name(
    mem_limit_mb: float, keys: list[str], names: list[str]
) -> None:
    """As `Output.collection` has it."""
    async with driver_of(mem_limit_mb, repo=build_repo({key: {} for key in keys})) as driver:
        assert await driver.collections() == names
        assert names == [*dict.fromkeys([each.collection async for each in driver.outputs()])]


# --- Keys, as a caller writes them ----------------------------------------------------------------


# A tree takes keys that are not `collection/rkey`.
ODD = build_repo(
    {key: {} for key in ["alone", "a/b/c", "alone.0/x", "alone/x", "/", "at://x", "y/"]}
)


@BOTH_WAYS
async def test_every_key_of_an_odd_repo_can_be_asked_for_as_bytes(mem_limit_mb: float) -> None:
    keys = sorted(ODD.records)
    async with driver_of(mem_limit_mb, repo=ODD) as driver:
        for at, key in enumerate(keys):
            cid = Cid(ODD.records[key])
            assert await driver.get(key.encode()) == Output(key, cid, ODD.blocks[cid])
            assert await driver.prove(key.encode()) == Present(key, cid)
            await driver.seek(key.encode() + b"\0")
            assert [k for k, _ in await driver.next_keys() or []] == keys[at + 1 :]
        assert await driver.get(b"alon") is None
        assert await driver.prove(b"at://y") == Absent("at://y", "at://x", "y/")


@BOTH_WAYS
async def test_uri_of_a_record_is_its_key(mem_limit_mb: float) -> None:
    uri = f"at://{DID}/{KEYS[7]}"
    async with driver_of(mem_limit_mb) as driver:
        assert await driver.get(uri) == Output(KEYS[7], LINKS[7][1], ALL[7][1])
        assert await driver.prove(uri) == Present(*LINKS[7])
        assert await driver.get(uri + "0") is None
        await driver.seek(uri)
        assert await driver.next_chunk(5) == ALL[7:12]
        await driver.seek(f"at://{DID}/a.b.d")
        assert await driver.next_chunk(5) == since("a.b.d/")[:5]
        await driver.seek(f"at://{DID}")
        assert await driver.next_chunk(5) == ALL[:5]


@BOTH_WAYS
async def test_wrong_keys_are_errors_and_leave_the_walk_alone(mem_limit_mb: float) -> None:
    other, handle = f"at://did:plc:other/{KEYS[7]}", f"at://alice.example.com/{KEYS[7]}"
    async with driver_of(mem_limit_mb) as driver:
        assert await driver.next_chunk(3) == ALL[:3]
        for ask in (driver.get, driver.prove, driver.seek):
            with pytest.raises(ValueError, match="a key is collection/rkey"):
                await ask("0007")
            with pytest.raises(ValueError, match=f"did:plc:other; this repo is of {DID}"):
                await ask(other)
            with pytest.raises(ValueError, match="use the DID"):
                await ask(handle)
        for look_up in (driver.get, driver.prove):
            for wrong in ("", "a.b.c", "a.b.c/", "/0007", "a.b.c/d/e", f"at://{DID}/a.b.c"):
                with pytest.raises(ValueError, match=r"collection/rkey"):
                    await look_up(wrong)
        assert await driver.next_chunk(3) == ALL[3:6]


async def test_wrong_key_is_an_error_before_the_file_is_read_on() -> None:
    async with DriverBuilder().stream_car(pieces_of(REPO.to_car(), 500)) as (_, driver):
        read = driver.bytes_read
        for ask in (driver.get, driver.prove, driver.seek):
            with pytest.raises(ValueError, match="a key is collection/rkey"):
                await ask("0007")
        assert driver.bytes_read == read


async def test_uri_is_no_bound_of_a_range() -> None:
    uri = f"at://{DID}/{KEYS[7]}"
    with pytest.raises(ValueError, match="is a URI; a bound or a prefix"):
        DriverBuilder().with_prefix(uri)
    for start, stop in ((uri, None), (None, uri)):
        with pytest.raises(ValueError, match="is a URI; a bound or a prefix"):
            DriverBuilder().with_key_range(start, stop)
    async with driver_of(16) as driver:
        for first, stop in ((uri, None), ("", uri)):
            with pytest.raises(ValueError, match="is a URI; a bound or a prefix"):
                await driver.prove_range(first, stop)


# --- Keys alone -----------------------------------------------------------------------------------


@BOTH_WAYS
async def test_keys_alone_need_no_record(mem_limit_mb: float) -> None:
    empty = replace(REPO, blocks={c: REPO.blocks[c] for c in (REPO.commit_cid, *REPO.nodes)})
    for n in (1, 7, 256, 600, 601, 5000):
        found: list[tuple[str, Cid]] = []
        async with driver_of(mem_limit_mb, repo=empty) as driver:
            while keys := await driver.next_keys(n):
                assert len(keys) == n or len(found) + len(keys) == len(KEYS)
                found += keys
            assert await driver.next_keys(n) is None
        assert found == LINKS, n


@BOTH_WAYS
async def test_keys_after_a_loop_that_was_left_are_as_many_as_asked(mem_limit_mb: float) -> None:
    async with driver_of(mem_limit_mb) as driver:
        async for _ in driver:  # it has taken more than it gave
            break
        assert await driver.next_keys(5) == LINKS[1:6]
        assert await driver.next_keys(500) == LINKS[6:506]
        assert await driver.next_chunk(1) == ALL[506:507]


@BOTH_WAYS
async def test_keys_before_a_missing_node_come_first(mem_limit_mb: float) -> None:
    broken = replace(REPO, blocks={c: b for c, b in REPO.blocks.items() if c != REPO.nodes[-1]})
    async with driver_of(mem_limit_mb, repo=broken) as driver:
        async for _ in driver:
            break
        found = await driver.next_keys(5000) or []
        assert found == LINKS[1 : 1 + len(found)]
        for _ in range(2):
            with pytest.raises(MissingBlock):
                await driver.next_keys()


@BOTH_WAYS
async def test_keys_and_records_can_be_mixed(mem_limit_mb: float) -> None:
    async with driver_of(mem_limit_mb) as driver:
        keys: list[str] = []
        while True:
            keys += [key for key, _ in await driver.next_chunk(3) or []]
            keys += [key for key, _ in await driver.next_keys(5) or []]
            pair = await anext(driver, None)
            if pair is None:
                break
            keys.append(pair[0])
            keys += [key for key, _ in await driver.next_keys(300) or []]
            keys += [output.key for output in await driver.next_outputs(2) or []]
        assert keys == KEYS


async def test_less_than_one_key_is_refused() -> None:
    async with driver_of(16) as driver:
        with pytest.raises(ValueError, match="at least 1"):
            await driver.next_keys(0)


@pytest.mark.both_loops
@BOTH_WAYS
async def test_cancelled_calls_lose_nothing(mem_limit_mb: float) -> None:
    async with driver_of(mem_limit_mb) as driver:
        keys: list[str] = []
        done = False
        for turn in range(2000):
            with anyio.CancelScope() as scope:
                if turn % 2:
                    scope.cancel()
                match turn % 8:
                    case 0 | 1:
                        part = await driver.next_keys(9)
                        done = part is None
                        keys += [key for key, _ in part or []]
                    case 2 | 3:
                        keys += [key for key, _ in await driver.next_chunk(5) or []]
                    case 4 | 5:
                        await driver.get(KEYS[turn % 600])
                    case _:
                        await driver.collections()
            if done:
                break
        assert keys == KEYS
