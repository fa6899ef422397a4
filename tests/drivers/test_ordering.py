"""`order_car`: any CAR in, the one streamable CAR of its repo out, and how far from it that was."""

from __future__ import annotations

import io
import random
from collections.abc import AsyncGenerator
from pathlib import Path
from typing import Any

import anyio.lowlevel
import pytest
from hypothesis import given, strategies as st

from repo_stream import (
    BlockOrder,
    CarReader,
    DiskBuilder,
    Driver,
    DriverBuilder,
    Gap,
    LimitExceeded,
    Limits,
    MemLimitExceeded,
    MissingBlock,
    OrderedCar,
    Output,
    RepoDriver,
    RepoStreamError,
    Source,
    TreeNode,
    TruncatedCar,
    load_commit,
    noop,
    open_car,
    order_car,
)
from repo_stream.drivers.order import PieceKept
from repo_stream.mst.blocks import Arrivals
from repo_stream.testing import BuiltRepo, RawRecord, build_repo, cid_of, encode, write_car
from support import pieces_of
from support.cancelling import every_stop, in_every_way, leaving_nothing
from support.hostile import FAMILIES, Hostile
from support.strategies import FEW
from support.streams import budgeted, streamable

LIMITS = [0, 0.2, 1, 16]
ORDERS = ["stream", "export", "shuffled"]
MIB = 1 << 20

REPO = build_repo(
    {f"com.example.{n % 3}/{n:04}": {"n": n, "text": "x" * (n % 700)} for n in range(1_500)}
)
STREAM = REPO.to_car(order="stream")
EMPTY = build_repo({})
# One record for every 50 keys, and one that is a node of the tree as well.
SHARED = build_repo({f"com.example.s/{n:04}": {"n": n // 50} for n in range(600)})
LEAF = build_repo({"com.example.a/0": {"n": 0}})
SELF = build_repo(
    {"com.example.a/0": {"n": 0}, "com.example.b/1": RawRecord(LEAF.blocks[LEAF.root])}
)
REPOS = {"many-keys": REPO, "shared-records": SHARED, "record-is-a-node": SELF, "empty": EMPTY}
LIMITED = pytest.mark.parametrize("limit", [0, 16], ids=["disk", "memory"])
JUNK = [(cid_of(data), data) for data in (encode({"junk": n}) for n in range(20))]


async def ordered(source: Source, **options: Any) -> tuple[bytes, OrderedCar]:
    async with order_car(source, **options) as car:
        return b"".join([piece async for piece in car]), car


# --- What comes out -----------------------------------------------------------------------------


def test_the_oracle_agrees_with_the_builder() -> None:
    assert streamable(REPO) == STREAM


#: How the blocks come, how often each, and how many MB of them memory holds.
COMING = [
    ("stream", 1, 0),
    ("stream", 1, 1),
    ("stream", 2, 0.2),
    ("stream", 2, 16),
    ("export", 1, 0.2),
    ("export", 1, 16),
    ("export", 2, 0),
    ("shuffled", 1, 0),
    ("shuffled", 1, 1),
    ("shuffled", 2, 0.2),
    ("shuffled", 2, 16),
]


@pytest.mark.parametrize(
    ("order", "copies", "limit"),
    COMING,
    ids=[f"{order}-{copies}x-{limit}MB" for order, copies, limit in COMING],
)
async def test_any_order_becomes_the_streamable_one(order: Any, copies: int, limit: float) -> None:
    car = REPO.to_car(order=order, copies=copies, extra_blocks=JUNK, extra_roots=[JUNK[0][0]])
    out, found = await ordered(car, mem_limit_mb=limit)
    assert out == STREAM
    blocks = len(REPO.blocks)
    assert found.blocks_read == blocks * copies + len(JUNK)
    assert (found.blocks_written, found.bytes_written) == (blocks, len(STREAM))
    assert found.dropped == found.blocks_read - blocks
    assert found.order.streamable is (order == "stream" and copies == 1)
    assert (found.commit.cid, found.commit.block) == (REPO.commit_cid, REPO.commit)


@pytest.mark.parametrize("name", ["shared-records", "record-is-a-node"])
@pytest.mark.parametrize("order", ORDERS)
async def test_record_that_keys_share_is_written_at_every_key(order: Any, name: str) -> None:
    repo = REPOS[name]
    for limit in (0, 0.2, 16):
        out, found = await ordered(repo.to_car(order=order, extra_blocks=JUNK), mem_limit_mb=limit)
        assert out == streamable(repo)
        assert found.dropped == len(JUNK)
        assert found.blocks_written == 1 + len(repo.nodes) + len(repo.records)
    assert (await ordered(repo.to_car(order=order, copies=2), mem_limit_mb=0))[0] == out


@pytest.mark.parametrize("order", ORDERS)
async def test_dropped_blocks_are_counted_alike_in_memory_and_in_a_log(
    order: Any, tmp_path: Path
) -> None:
    """Whether a log was begun, or all has gone to disk, or the file itself is the log."""
    path = tmp_path / "repo.car"
    budgets = [(0, 0, 0), (0.02, 3000, 9 * MIB), (16, 0, 9 * MIB), (16, 3000, 0)]
    for repo in (SHARED, SELF):
        car = repo.to_car(order=order, extra_blocks=JUNK)
        path.write_bytes(car)
        for limit, released, places in budgets:
            with budgeted(released=released, places=places, write=9000):
                for source in (pieces_of(car, 700), path):
                    out, found = await ordered(source, mem_limit_mb=limit)
                    assert (out, found.dropped) == (streamable(repo), len(JUNK))


@pytest.mark.parametrize("name", REPOS)
async def test_ordering_a_streamable_car_changes_nothing(name: str) -> None:
    car = streamable(REPOS[name])
    for limit in LIMITS:
        out, found = await ordered(car, mem_limit_mb=limit)
        assert out == car
        assert found.dropped == 0
        assert found.order == BlockOrder(streamable=True, early=0, most_early=0)
        assert not found.spilled


@pytest.mark.parametrize("size", [1, 7, 1_000], ids=["1-byte", "7-bytes", "1000-bytes"])
@LIMITED
async def test_sizes_of_pieces_that_come_make_no_difference(size: int, limit: float) -> None:
    repo = build_repo({f"com.example.a/{n}": {"n": n // 2} for n in range(40)})
    out, found = await ordered(pieces_of(repo.to_car(), size), mem_limit_mb=limit)
    assert out == streamable(repo)
    assert found.dropped == 0


async def test_pieces_that_are_given_are_neither_small_nor_large() -> None:
    large = build_repo({f"com.example.a/{n}": {"text": f"{n}" * 1_900_000} for n in range(2)})
    small = build_repo({f"com.example.a/{n:05}": {"text": f"{n}" * 50} for n in range(2_500)})
    for repo in (large, small):
        async with order_car(repo.to_car()) as car:
            sizes = [len(piece) async for piece in car]
        assert sum(sizes) == len(repo.to_car())
        assert min(sizes[:-1]) >= 1 << 18
        assert max(sizes) < (1 << 18) + (2 << 20)


@pytest.mark.parametrize("name", ["shared-records", "record-is-a-node", "empty"])
async def test_every_reader_reads_the_ordered_car(name: str, tmp_path: Path) -> None:
    repo = REPOS[name]
    out, _ = await ordered(repo.to_car(copies=2, extra_blocks=JUNK))
    path = tmp_path / "out.car"
    path.write_bytes(out)
    expected = [(key, repo.blocks[cid]) for key, cid in repo.records.items()]
    assert (await load_commit(path)).block == repo.commit
    async with await CarReader.open(path) as reader:
        assert reader.header.roots == (repo.commit_cid,)
        assert {cid: data async for cid, data in reader} == repo.blocks
    for limit in (0, 16):
        async with open_car(path, block_processor=noop, mem_limit_mb=limit) as opened:
            assert [item async for item in opened] == expected
        builder = DriverBuilder(mem_limit_mb=limit)
        async with builder.stream_car(path, spill=False) as (_, driver):
            assert [item async for item in driver] == expected
            assert driver.order.streamable


@st.composite
def repos(draw: st.DrawFn) -> tuple[BuiltRepo, list[bytes]]:
    """A repo, and the CIDs of its blocks in some order, with copies."""
    keys = draw(st.lists(st.integers(0, 300), unique=True, max_size=40))
    repo = build_repo({f"com.example.a/{key}": {"n": draw(st.integers(0, 9))} for key in keys})
    copies = draw(st.lists(st.sampled_from(sorted(repo.blocks)), max_size=10))
    return repo, draw(st.permutations([*repo.blocks, *copies]))


@FEW
@given(
    made=repos(),
    limit=st.sampled_from(LIMITS),
    size=st.sampled_from([50, 700, 100_000]),
    released=st.sampled_from([0, 300, MIB]),
)
async def test_ordered_car_depends_on_the_repo_alone(
    made: tuple[BuiltRepo, list[bytes]], limit: float, size: int, released: int
) -> None:
    repo, cids = made
    car = write_car([repo.commit_cid], [(cid, repo.blocks[cid]) for cid in cids])
    with budgeted(released=released):
        out, found = await ordered(pieces_of(car, size), mem_limit_mb=limit)
    assert out == streamable(repo)
    assert found.blocks_read == len(cids)
    again = found.blocks_written - (found.blocks_read - (found.dropped or 0))
    assert 0 <= again <= len(repo.records)


# --- What does not come out ---------------------------------------------------------------------


@pytest.mark.parametrize("case", FAMILIES, ids=lambda case: case.name)
async def test_hostile_car_gives_the_error_of_a_stream(case: Hostile) -> None:
    for limit in (0, 16):
        await compare_errors(case, limit)


async def compare_errors(case: Hostile, limit: float) -> None:
    options: Any = {"mem_limit_mb": limit, "verify_cids": case.verify, "limits": case.limits}
    with pytest.raises(RepoStreamError) as caught:
        await ordered(case.car(), **options)
    # If a file has several faults, who walks while it comes in meets others first.
    streaming: DriverBuilder[bytes] = DriverBuilder(**options)
    with pytest.raises(RepoStreamError) as same:  # noqa: PT012 - entering raises, or walking
        async with streaming.stream_car(case.car()) as (_, driver):
            while await driver.next_items(100):
                pass
    assert type(caught.value) is type(same.value)
    assert str(caught.value) == str(same.value)


async def test_error_is_raised_again_and_nothing_comes_after_it() -> None:
    gone = REPO.records["com.example.2/1499"]
    async with order_car(REPO.to_car(order="stream", omit=[gone])) as car:
        with pytest.raises(MissingBlock) as caught:
            async for _ in car:
                pass
        for _ in range(2):
            with pytest.raises(MissingBlock) as again:
                await anext(car)
            assert again.value is caught.value


@pytest.mark.parametrize("order", ORDERS)
async def test_the_end_is_checked_before_the_last_piece(order: Any) -> None:
    repo = build_repo({f"com.example.a/{n}": {"n": n} for n in range(9)})
    async with order_car(repo.to_car(order=order, extra_blocks=JUNK)[:-1]) as car:
        with pytest.raises(TruncatedCar):
            await anext(car)


@pytest.mark.parametrize("name", ["car_bytes", "blocks", "repeated_bytes"])
@pytest.mark.parametrize("order", ORDERS)
async def test_repeated_records_are_limited(order: Any, name: str) -> None:
    limits = Limits(**{name: {"car_bytes": 50_000, "blocks": 700, "repeated_bytes": 10_000}[name]})
    repo = build_repo({f"com.example.a/{n:03}": {"text": "x" * 300} for n in range(600)})
    car = repo.to_car(order=order)
    assert len(car) <= 50_000
    for limit in (0, 16):
        with pytest.raises(LimitExceeded) as caught:
            await ordered(car, mem_limit_mb=limit, limits=limits)
        assert caught.value.limit == name
        assert caught.value.actual > caught.value.maximum == getattr(limits, name)


async def test_limits_are_reached_by_the_exact_size_without_repeats() -> None:
    assert (await ordered(REPO.to_car(), limits=Limits(repeated_bytes=0)))[0] == STREAM
    exact = Limits(car_bytes=len(STREAM), blocks=len(REPO.blocks), repeated_bytes=0)
    assert (await ordered(STREAM, limits=exact))[0] == STREAM


async def test_streamable_car_needs_no_place_to_spill() -> None:
    assert (await ordered(STREAM, mem_limit_mb=0, spill=False))[0] == STREAM
    with pytest.raises(MemLimitExceeded):
        await ordered(REPO.to_car(), mem_limit_mb=0, spill=False)


async def test_store_is_empty_afterwards(tmp_path: Path) -> None:
    path = tmp_path / "spill.db"
    out, found = await ordered(REPO.to_car(), mem_limit_mb=0, spill=path)
    assert found.spilled
    assert out == STREAM
    assert path.stat().st_size < len(STREAM) / 4


class Slow:
    """A source that lets others have their turn, and loses nothing if it is cancelled then."""

    def __init__(self, data: bytes) -> None:
        self._file = io.BytesIO(data)

    async def read(self, _n: int) -> bytes:
        await anyio.lowlevel.checkpoint()
        return self._file.read(2_000)


@in_every_way
@LIMITED
async def test_cancelled_ordering_loses_nothing(how: str, limit: float) -> None:
    repo = build_repo({f"com.example.a/{n}": {"n": n // 2} for n in range(60)})
    car = repo.to_car(extra_blocks=JUNK)
    expected = streamable(repo)
    async with leaving_nothing(), DiskBuilder().open() as store:
        for stop in every_stop(how, at_least=1):
            async with order_car(Slow(car), mem_limit_mb=limit, spill=store) as making:

                async def piece(making: OrderedCar = making) -> bytes:
                    return await anext(making)

                found = await stop.run(piece)
                found += [piece async for piece in making]
            assert b"".join(found) == expected
            assert making.dropped == len(JUNK)


# --- How far from it ----------------------------------------------------------------------------


def naive_order(repo: BuiltRepo, cids: list[bytes]) -> tuple[bool, int]:
    """Read block by block and keep what is early; say whether any was, and how many at most."""
    coming, kept, most = iter(cids), set[bytes](), 0
    for needed in repo.blocks:
        if needed in kept:
            kept.remove(needed)
            continue
        for cid in coming:
            if cid == needed:
                break
            kept.add(cid)
            most = max(most, len(kept))
    return most == 0, most


def slightly_off(repo: BuiltRepo, swaps: int, seed: int) -> list[bytes]:
    cids, chance = list(repo.blocks), random.Random(seed)
    for _ in range(swaps):
        at = chance.randrange(len(cids) - 1)
        cids[at], cids[at + 1] = cids[at + 1], cids[at]
    return cids


def orders_of(repo: BuiltRepo) -> list[list[bytes]]:
    named: list[Any] = ORDERS
    return [
        *[repo.ordered(order, seed) for order in named for seed in range(3)],
        *[slightly_off(repo, swaps, seed) for swaps in (1, 5, 50) for seed in range(5)],
        [*list(repo.blocks)[1:], repo.commit_cid],
        [*list(repo.blocks)[1:3], repo.commit_cid, *list(repo.blocks)[3:]],
        [repo.commit_cid, *reversed(list(repo.blocks)[1:])],
    ]


@pytest.mark.parametrize(
    ("way", "size", "length", "distinct"),
    [
        pytest.param("outputs", 200, False, 200, id="outputs-of-small-pieces"),
        pytest.param("outputs", 1 << 20, True, 200, id="outputs-of-the-whole-processed"),
        pytest.param("items", 200, True, 200, id="items-of-small-pieces-processed"),
        pytest.param("items", 5_000, False, 200, id="items-of-pieces"),
        pytest.param("one by one", 5_000, True, 200, id="one-by-one-of-pieces-processed"),
        pytest.param("one by one", 1 << 20, False, 200, id="one-by-one-of-the-whole"),
        pytest.param("outputs", 1 << 20, False, 100, id="shared-outputs-of-the-whole"),
        pytest.param("items", 200, False, 100, id="shared-items-of-small-pieces"),
        pytest.param("one by one", 5_000, True, 70, id="shared-one-by-one-of-pieces-processed"),
    ],
)
async def test_order_is_exact_to_the_block(
    way: str, size: int, distinct: int, *, length: bool
) -> None:
    """Also if two or three keys name one record, and so need it again."""
    repo = build_repo({f"com.example.a/{n:03}": {"n": n % distinct} for n in range(200)})
    for cids in orders_of(repo):
        car = write_car([repo.commit_cid], [(cid, repo.blocks[cid]) for cid in cids])
        builder: DriverBuilder[Any] = DriverBuilder()
        if length:
            builder = builder.with_block_processor(len)
        async with builder.stream_car(pieces_of(car, size)) as (_, driver):
            match way:
                case "outputs":
                    while await driver.next_outputs(50):
                        pass
                case "items":
                    while await driver.next_items(50):
                        pass
                case _:
                    assert len([item async for item in driver]) == 200
            found = driver.order
        assert (found.streamable, found.most_early) == naive_order(repo, cids)
        assert found.early == 0


def test_block_that_is_used_again_is_not_counted_as_early() -> None:
    one, two, three, four, again = (cid_of(bytes([n])) for n in range(5))
    piece = PieceKept(Arrivals(), [one, two, three, four], 0)
    assert piece.need(two) == 1
    assert piece.most_needed([two, one], set()) == 1
    # The fourth comes before the third is needed.
    assert piece.most_needed([again, four, three], {one, two, again}) == 1
    assert piece.need(None) == 0


@pytest.mark.parametrize("limit", [0, 0.05], ids=["0-MB", "0.05-MB"])
async def test_order_of_a_car_that_went_to_disk_is_not_overstated(limit: float) -> None:
    repo = build_repo({f"com.example.a/{n:04}": {"n": n, "text": "x" * n} for n in range(400)})
    for cids in orders_of(repo):
        car = write_car([repo.commit_cid], [(cid, repo.blocks[cid]) for cid in cids])
        _, found = await ordered(car, mem_limit_mb=limit)
        streamable, most = naive_order(repo, cids)
        assert found.order.streamable is streamable
        assert found.order.most_early <= most
        assert found.spilled or found.order.most_early == most
        assert found.order.most_early >= (not streamable)


# --- Nodes and records, from every driver -------------------------------------------------------

SMALL = build_repo({f"com.example.{n % 3}/{n:04}": {"n": n, "text": "x" * n} for n in range(400)})


async def test_large_records_are_written_before_many_more_are_read() -> None:
    repo = build_repo({f"a/{n:02}": {"n": n, "text": "x" * 300_000} for n in range(30)})
    async with order_car(repo.to_car(order="stream")) as car:
        async for _ in car:
            assert car.bytes_read < car.bytes_written + MIB


@pytest.mark.parametrize(
    ("limit", "n"),
    [(0, 1), (0, 5_000), (16, 1), (16, 30)],
    ids=["disk-singly", "disk-all-at-once", "memory-singly", "memory-in-chunks"],
)
async def test_next_items_gives_every_node(limit: float, n: int) -> None:
    expected = [cid for cid in SMALL.blocks if cid != SMALL.commit_cid]
    async with DiskBuilder().open() as store:
        match await DriverBuilder(mem_limit_mb=limit).load_car(SMALL.to_car()):
            case Driver.Memory(_, driver):
                loaded = driver
            case Driver.Disk(paused):
                _, loaded = await paused.finish_loading(store)
        assert [item.cid async for item in items_of(loaded, n)] == expected
    for order in ORDERS:
        named: Any = order
        car = SMALL.to_car(order=named)
        async with DriverBuilder(mem_limit_mb=limit).stream_car(car) as (_, streaming):
            assert [item.cid async for item in items_of(streaming, n)] == expected


async def items_of(
    driver: RepoDriver[bytes], n: int
) -> AsyncGenerator[TreeNode | Output[bytes] | Gap]:
    while items := await driver.next_items(n):
        for item in items:
            if isinstance(item, TreeNode):
                assert item.data == SMALL.blocks[item.cid]
            yield item


async def test_node_that_another_call_went_past_is_not_given_again() -> None:
    async with DriverBuilder(mem_limit_mb=0).stream_car(SMALL.to_car()) as (_, driver):
        seen: list[str] = []
        nodes: list[bytes] = []
        while True:
            items = await driver.next_items(7)
            nodes += [item.cid for item in items or () if isinstance(item, TreeNode)]
            seen += [item.key for item in items or () if isinstance(item, Output)]
            chunk = await driver.next_chunk(5)
            seen += [key for key, _ in chunk or ()]
            keys = await driver.next_keys(5)
            seen += [key for key, _ in keys or ()]
            if items is None and chunk is None and keys is None:
                break
        assert seen == list(SMALL.records)
        assert nodes == [cid for cid in SMALL.nodes if cid in set(nodes)]
