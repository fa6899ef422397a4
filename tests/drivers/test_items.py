"""Nodes beside records: all of a repo, in the order in which it can be written anew."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from itertools import count, product
from typing import Any

import anyio.lowlevel
import pytest

from repo_stream import (
    CarReader,
    Cid,
    DiskBuilder,
    DiskDriver,
    Driver,
    DriverBuilder,
    Gap,
    Output,
    ProcessError,
    RepoDriver,
    StoreClosed,
    TreeNode,
)
from repo_stream.mst.node import decode_node_plainly
from repo_stream.store.repo_log import Fetched, RepoLog
from repo_stream.testing import Order, build_repo, key_height, made_car, write_car
from repo_stream.turn import Turn
from support import pieces_of
from support.cancelling import every_stop, in_every_way
from support.slices import LIMITS, WAYS, driver_of, items, items_of, slice_of

EVERY_WAY = pytest.mark.parametrize("way", WAYS)
ORDERS: list[Order] = ["stream", "export", "shuffled"]

BUILDER = DriverBuilder()
# Every tenth record is one that another key has, too.
REPO = build_repo({f"{'abc'[n % 3]}.b.c/{n:04}": {"n": n // 10 * 9 + n % 9} for n in range(300)})
WHOLE = slice_of(REPO, REPO.blocks)
ITEMS = items_of(WHOLE)
OUTPUTS = [item for item in ITEMS if isinstance(item, Output)]
NODES = [item for item in ITEMS if isinstance(item, TreeNode)]


def records_of(found: list[Any]) -> list[Any]:
    return [item for item in found if not isinstance(item, TreeNode)]


@EVERY_WAY
async def test_nodes_and_records_come_in_pre_order(way: str) -> None:
    for order, n in product(ORDERS, (1, 7, 10_000)):
        async with driver_of(way, REPO.to_car(order=order), BUILDER, piece=500) as driver:
            assert await items(driver, n) == ITEMS, (order, n)
            assert await driver.next_items() is None
            assert await driver.next_items(1) is None
            assert await driver.next_chunk() is None


async def test_nodes_come_with_their_depth() -> None:
    async with driver_of("memory", REPO.to_car(), BUILDER) as driver:
        nodes = [item for item in await items(driver) if isinstance(item, TreeNode)]
    depths = {bytes(node.cid): node.depth for node in nodes}
    assert depths.keys() == set(REPO.nodes)
    assert depths[REPO.root] == max(map(key_height, REPO.records)) > 2
    for node in nodes:
        left, keys, _, trees = decode_node_plainly(node.data, node.cid, LIMITS)
        assert {key_height(key) for key in keys} <= {node.depth}
        below = [depths[cid] for cid in (left, *trees.values()) if cid is not None]
        assert set(below) <= {node.depth - 1}


@EVERY_WAY
async def test_commit_and_items_are_the_streamable_car(way: str) -> None:
    """Byte for byte, whatever the order of the file; no two keys share a record."""
    streamable = b"".join([piece async for piece in made_car(600, order="stream")])
    async with await CarReader.open(streamable) as reader:
        commit = await anext(reader)
    for order in ORDERS:
        car = b"".join([piece async for piece in made_car(600, order=order)])
        blocks = [commit]
        async with driver_of(way, car, BUILDER, piece=5000) as driver:
            while some := await driver.next_items(100):
                blocks += [
                    (item.cid, item.data if isinstance(item, TreeNode) else item.value)
                    for item in some
                    if not isinstance(item, Gap)
                ]
        assert write_car([commit[0]], blocks) == streamable, order


@EVERY_WAY
async def test_records_are_processed_and_nodes_are_not(way: str) -> None:
    async with driver_of(way, REPO.to_car(), BUILDER.with_block_processor(len)) as driver:
        found = await items(driver, 50)
    assert [item for item in found if isinstance(item, TreeNode)] == NODES
    assert records_of(found) == [item._replace(value=len(item.value)) for item in OUTPUTS]


@EVERY_WAY
async def test_key_range_gives_the_nodes_on_its_way(way: str) -> None:
    start, stop = OUTPUTS[120].key, OUTPUTS[130].key
    async with driver_of(way, REPO.to_car(), BUILDER.with_key_range(start, stop)) as driver:
        found = await items(driver, 50)
    assert records_of(found) == OUTPUTS[120:130]
    nodes = [item for item in found if isinstance(item, TreeNode)]
    assert nodes == [node for node in NODES if node in nodes]
    assert 0 < len(nodes) < len(NODES) // 3
    async with driver_of(way, REPO.to_car(), BUILDER) as driver:
        await driver.seek(start)
        rest = await items(driver, 50)
    assert records_of(rest) == OUTPUTS[120:]
    assert [node for node in rest if isinstance(node, TreeNode)][: len(nodes)] == nodes


@EVERY_WAY
async def test_items_can_be_mixed_with_other_calls(way: str) -> None:
    """No record is lost, and nodes come in order, those that other calls went past left out."""
    kinds = ["next_items", "next_outputs", "next_keys", "anext"]
    for first in range(4):
        got: list[Any] = []
        async with driver_of(way, REPO.to_car(), BUILDER, piece=700) as driver:
            for turn in count(first):
                kind = kinds[turn % 4]
                if kind == "anext":
                    output = await anext(driver.outputs(), None)
                    some: Any = None if output is None else [output]
                else:
                    some = await getattr(driver, kind)(5)
                if some is None:
                    break
                got += some
        assert [(item[0], item[1]) for item in records_of(got)] == [
            (output.key, output.cid) for output in OUTPUTS
        ]
        nodes = [item for item in got if isinstance(item, TreeNode)]
        assert nodes == [node for node in NODES if node in nodes]
        if kinds[first] == "next_items":
            assert nodes[0] == NODES[0]


async def test_less_than_one_item_is_refused() -> None:
    async with driver_of("memory", REPO.to_car(), BUILDER) as driver:
        for n in (0, -1):
            with pytest.raises(ValueError, match="n must be at least 1, not"):
                await driver.next_items(n)
        assert await driver.next_items(1) == ITEMS[:1]


@EVERY_WAY
async def test_empty_repo_is_one_node(way: str) -> None:
    repo = build_repo({})
    async with driver_of(way, repo.to_car(), BUILDER) as driver:
        assert await items(driver) == [TreeNode(Cid(repo.root), 0, repo.blocks[repo.root])]


# --- Cancelled ------------------------------------------------------------------------------------

SMALL = build_repo({f"a.b.c/{n:04}": {"n": n} for n in range(60)})
GONE = [SMALL.nodes[-2], *[*SMALL.records.values()][20::9]]
PART = slice_of(SMALL, SMALL.blocks.keys() - set(GONE))


class Source:
    """Pieces that suspend, every one."""

    def __init__(self, car: bytes) -> None:
        self._pieces = pieces_of(car, 400)

    def __aiter__(self) -> AsyncIterator[bytes]:
        return self

    async def __anext__(self) -> bytes:
        await anyio.lowlevel.checkpoint()
        return await anext(self._pieces)


@in_every_way
async def test_cancelled_items_of_a_stream_come_again(how: str) -> None:
    for limit, then in [
        (0, "next_items"),
        (0, "next_chunk"),
        (16, "next_items"),
        (16, "next_chunk"),
        (16, "next_keys"),
    ]:
        builder = BUILDER.with_gaps().with_mem_limit_mb(limit)
        for stop in every_stop(how, at_least=3):
            async with builder.stream_car(Source(PART.car("stream"))) as (_, driver):
                found = await driver.next_items(5) or []
                for some in await stop.run(lambda: driver.next_items(50)):
                    found += some or []
                await check_rest(driver, found, then)


@in_every_way
async def test_cancelled_items_on_disk_come_again(how: str) -> None:
    async with DiskBuilder().open() as store:
        for then in ("next_items", "next_chunk", "next_keys"):
            for stop in every_stop(how, at_least=1):
                driver = await on_disk(store)
                found: list[Any] = []
                for some in await stop.run(lambda: driver.next_items(50)):  # noqa: B023 - run at once
                    found += some or []
                await check_rest(driver, found, then)


@in_every_way
async def test_cancelled_keys_of_a_stream_come_again(how: str) -> None:
    """And the gaps after them are between the right keys all the same."""
    for limit in (0, 16):
        builder = BUILDER.with_gaps().with_mem_limit_mb(limit)
        for stop in every_stop(how, at_least=3):
            async with builder.stream_car(Source(PART.car("stream"))) as (_, driver):
                found: list[Any] = []
                for some in await stop.run(lambda: driver.next_keys(40)):
                    found += some or []
                await check_rest(driver, found, "next_chunk")


@in_every_way
async def test_seek_after_a_cancelled_call_finds_the_gaps_that_it_had_taken(
    how: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Those of subtrees have no key that could be looked for."""

    async def pause(_turn: Turn) -> None:
        await anyio.lowlevel.checkpoint()

    monkeypatch.setattr(Turn, "pause_if_over", pause)
    part = slice_of(SMALL, SMALL.blocks.keys() - {*SMALL.nodes[2:6]})
    keys = list(SMALL.records)
    car = part.car("stream")
    for place in (keys[2], keys[11], keys[20] + "z", keys[40]):
        async with driver_of("memory", car, BUILDER.with_gaps()) as reference:
            await reference.seek(place)
            expected = await reference.next_chunk(100)
        for stop in every_stop(how, at_least=10):
            builder = BUILDER.with_gaps()
            async with builder.stream_car(Source(car)) as (_, driver):
                await stop.run(lambda: driver.next_chunk(55))
                await anext(driver, None)
                await driver.seek(place)
                assert await driver.next_chunk(100) == expected


async def test_each_block_is_fetched_from_disk_about_once(monkeypatch: pytest.MonkeyPatch) -> None:
    repo = build_repo({f"a.b.c/{n:05}": {"n": n} for n in range(1500)})
    fetched: list[int] = []
    fetch = RepoLog.fetch

    async def counted(log: RepoLog, cids: Sequence[bytes]) -> Fetched:
        found = await fetch(log, cids)
        fetched.append(len([*found.all]))
        return found

    monkeypatch.setattr(RepoLog, "fetch", counted)
    async with driver_of("disk", repo.to_car(), BUILDER) as driver:
        assert len(await items(driver, 256)) == len(repo.blocks) - 1
    assert len(repo.blocks) <= sum(fetched) + 1 < 1.2 * len(repo.blocks)


@in_every_way
async def test_cancelled_seek_back_in_a_stream_is_done_or_not(how: str) -> None:
    """It reads the file to its end first; where it is cancelled meanwhile the walk stays."""
    expected = [item for item in items_of(PART) if not isinstance(item, TreeNode)]
    pairs = [(item.key or "", item if isinstance(item, Gap) else item.value) for item in expected]
    for stop in every_stop(how, at_least=3):
        async with BUILDER.with_gaps().stream_car(Source(PART.car("stream"))) as (_, driver):
            found = [await anext(driver) for _ in range(3)]
            done = await stop.run(lambda: driver.seek(""))
            while some := await driver.next_chunk():
                found += some
            assert found == (pairs[:3] + pairs if done else pairs)


async def on_disk(store: Any) -> DiskDriver[bytes | Gap]:
    match await BUILDER.with_gaps().with_mem_limit_mb(0).load_car(PART.car()):
        case Driver.Disk(paused):
            return (await paused.finish_loading(store))[1]
        case Driver.Memory():
            pytest.fail("a limit of 0 sends every repo to disk")


async def check_rest(driver: RepoDriver[Any], found: list[Any], then: str) -> None:
    """What was found, and what comes now, is all that there is."""
    expected = items_of(PART)
    while some := await getattr(driver, then)(20):
        found += some
    if then == "next_items":
        assert found == expected
        return
    plain = records_of(found)
    wanted = records_of(expected)
    assert len(plain) == len(wanted)
    for got, item in zip(plain, wanted, strict=True):
        value = item if isinstance(item, Gap) else item.value
        assert got in (item, (item.key or "", value), (item.key or "", item.cid))


@in_every_way
async def test_items_that_a_cancelled_call_had_taken_go_with_the_driver(how: str) -> None:
    async with DiskBuilder().open() as store:
        for leave in ("reset_store", "aclose"):
            for stop in every_stop(how, at_least=1):
                driver = await on_disk(store)
                await stop.run(lambda: driver.next_items(3))  # noqa: B023 - run at once
                await getattr(driver, leave)()
                for call in (driver.next_items, driver.next_chunk, driver.next_keys):
                    with pytest.raises(StoreClosed):
                        await call(5)


@in_every_way
async def test_items_that_a_cancelled_call_had_taken_go_with_the_stream(how: str) -> None:
    for stop in every_stop(how, at_least=1):
        async with BUILDER.stream_car(Source(SMALL.to_car(order="stream"))) as (_, driver):
            await stop.run(lambda: driver.next_items(3))
        with pytest.raises(StoreClosed):
            await driver.next_items(5)


@EVERY_WAY
async def test_items_before_a_record_that_fails_come_first(way: str) -> None:
    bad = OUTPUTS[-2]

    def process(block: bytes) -> bytes:
        if block == bad.value:
            raise ValueError("made to fail")
        return block

    expected = ITEMS[: ITEMS.index(next(one for one in OUTPUTS if one.value == bad.value))]
    async with driver_of(way, REPO.to_car(), BUILDER.with_block_processor(process)) as driver:
        found: list[Any] = []
        error: ProcessError | None = None
        try:
            while some := await driver.next_items(7):
                found += some
        except ProcessError as raised:
            error = raised
    assert found == expected
    assert error is not None
    assert error.key == bad.key
