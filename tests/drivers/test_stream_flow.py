"""How a CAR is read that is walked meanwhile: how far, in which order, and what is left of it."""

from __future__ import annotations

import random
import sys
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterator
from contextlib import aclosing, asynccontextmanager
from functools import cache
from pathlib import Path
from typing import Any, cast

import anyio
import httpx
import pytest

from repo_stream import (
    BlockOrder,
    CarError,
    CarReader,
    Cid,
    CidMismatch,
    DiskBuilder,
    DiskFull,
    DiskIOError,
    DriverBuilder,
    MaxSizeExceeded,
    MemLimitExceeded,
    MissingBlock,
    MissingCommit,
    ProcessError,
    RepoDriver,
    StoreClosed,
    TruncatedCar,
)
from repo_stream.mst.tables import KEY_COST
from repo_stream.process import Processor, noop
from repo_stream.store.memory import MemoryStore
from repo_stream.testing import (
    BuiltRepo,
    build_repo,
    car_header,
    cid_of,
    made_car,
    section,
    write_car,
)
from repo_stream.testing.car_server import CarServer
from support import columns, pieces_of
from support.cancelling import Pieces, usable
from support.driving import rest_of
from support.stores import becomes, file_size_limit, lasting_threads, names_in
from support.streams import Counted, budgeted, car_in, in_memory, streamed

REPO = build_repo(
    {
        f"app.test.{name}/{n:04}": {name: n, "text": "x" * (n % 90)}
        for name in "abc"
        for n in range(400)
    }
)
KEYS = list(REPO.records)
EXPECTED = [(key, REPO.blocks[cid]) for key, cid in REPO.records.items()]
CAR = REPO.to_car(order="stream")
BUILDER = DriverBuilder()
IN_ORDER = BlockOrder(streamable=True, early=0, most_early=0)


#: Records that come through the disk, and from memory.
LIMITED = pytest.mark.parametrize("limit", [0, 16], ids=["disk", "memory"])


# --- How far ------------------------------------------------------------------------------------


async def test_first_record_comes_with_the_first_hundredth_of_the_car() -> None:
    car = b"".join([piece async for piece in made_car(5000, order="stream")])
    for limit in (0, 16):
        source = Counted(car)
        async with BUILDER.with_mem_limit_mb(limit).stream_car(source) as (_, driver):
            assert source.given <= 4096
            first = await anext(driver)
            assert first[0] == "app.bsky.actor.profile/self"
            assert 0 < source.given < len(source.data) / 100


async def test_no_more_is_read_than_the_piece_that_is_needed() -> None:
    source = Counted(CAR, 1000)
    ends: dict[bytes, int] = {}
    at = len(car_header([REPO.commit_cid]))
    for cid, data in REPO.blocks.items():
        at += len(section(cid, data))
        ends[cid] = at
    async with BUILDER.stream_car(source) as (_, driver):
        async for output in driver.outputs():
            # A piece has been read to get at it, and none after that.
            assert source.given < ends[output.cid] + 1000 + 1000
        assert source.given == len(CAR)


async def test_without_drain_the_rest_of_the_car_is_not_read() -> None:
    garbage = [(cid_of(bytes([n])), bytes([n])) for n in range(200)]
    source = Counted(REPO.to_car(order="stream", extra_blocks=garbage), 500)
    async with BUILDER.stream_car(source, drain=False) as (_, driver):
        assert await rest_of(driver) == EXPECTED
        assert await driver.next_chunk() is None
        assert source.given < len(CAR) + 500
        assert driver.left_over is None


# --- In which order -----------------------------------------------------------------------------


async def order_of(car: bytes, **asked: Any) -> tuple[BlockOrder, int | None]:
    async with BUILDER.stream_car(pieces_of(car, 3000), **asked) as (_, driver):
        assert await rest_of(driver) == EXPECTED
        return driver.order, driver.left_over


async def test_streamable_car_is_reported_as_streamable() -> None:
    assert await order_of(CAR) == (IN_ORDER, 0)


@pytest.mark.parametrize(
    "order", ["export", "shuffled", "reversed", "breadth first", "commit last", "swapped"]
)
async def test_another_order_is_not_reported_as_streamable(order: str) -> None:
    seen, left_over = await order_of(car_in(REPO, order))
    assert not seen.streamable
    assert seen.most_early > 0
    assert (seen.early, left_over) == (0, 0)


@pytest.mark.parametrize("piece", [50, 1000, 1_000_000], ids=["50-bytes", "1000-bytes", "whole"])
async def test_commit_that_is_not_first_is_out_of_order(piece: int) -> None:
    """However the file was cut into pieces."""
    first, second, *rest = REPO.blocks.items()
    car = car_header([REPO.commit_cid]) + b"".join(
        section(*each) for each in (second, first, *rest)
    )
    async with BUILDER.stream_car(pieces_of(car, piece)) as (commit, driver):
        assert commit.cid == first[0]
        assert not driver.order.streamable
        assert await rest_of(driver) == EXPECTED


async def test_commit_that_is_not_in_the_car_is_missing() -> None:
    car = REPO.to_car(order="stream", omit=[REPO.commit_cid])
    for limit in (0, 16):
        with pytest.raises(MissingCommit):
            async with BUILDER.with_mem_limit_mb(limit).stream_car(pieces_of(car, 1000)):
                pass


async def test_commit_that_comes_late_exceeds_the_memory_limit() -> None:
    car = car_in(REPO, "commit last")
    builder = BUILDER.with_mem_limit_mb(0.05)
    with pytest.raises(MemLimitExceeded) as caught:
        async with builder.stream_car(pieces_of(car, 1000), spill=False):
            pass
    assert caught.value.early > 0


@pytest.mark.parametrize("ask", ["next_keys", "next_items", "next_outputs"])
async def test_each_way_of_asking_sees_the_order(ask: str) -> None:
    for order in ("stream", "shuffled"):
        source = pieces_of(car_in(REPO, order), 3000)
        async with BUILDER.stream_car(source) as (_, driver):
            while await getattr(driver, ask)(100):
                pass
            assert driver.order.streamable == (order == "stream")
            assert (driver.order.most_early == 0) == (order == "stream")


# --- What is left over --------------------------------------------------------------------------

ODD = [
    (cid_of(b"raw", 0x55), b"raw"),
    (b"\x12\x20" + cid_of(b"pb")[4:], b"pb"),
    *[(cid_of(data), data) for data in (b"\xa0", b"not CBOR", b"\xa2aetail")],
]


@pytest.mark.parametrize(
    ("order", "process", "piece"),
    [
        ("stream", noop, 300),
        ("stream", len, 1_000_000),
        ("export", len, 300),
        ("shuffled", noop, 1_000_000),
        ("shuffled", len, 300),
        ("commit last", noop, 300),
        ("swapped", noop, 1_000_000),
        ("swapped", len, 300),
    ],
    ids=[
        "stream",
        "stream-processed",
        "export-processed",
        "shuffled",
        "shuffled-processed",
        "commit-last",
        "swapped",
        "swapped-processed",
    ],
)
async def test_blocks_that_nobody_needs_are_counted(order: str, process: Any, piece: int) -> None:
    car = car_in(REPO, order, extra=ODD)
    async with DriverBuilder(block_processor=process).stream_car(pieces_of(car, piece)) as (
        _,
        driver,
    ):
        counts = [driver.left_over]
        await rest_of(driver)
        counts.append(driver.left_over)
        assert await driver.get(KEYS[7]) is not None
        counts.append(driver.left_over)
        assert counts == [None, len(ODD), len(ODD)]


@pytest.mark.parametrize("order", ["stream", "shuffled"])
async def test_copies_that_nobody_needs_are_counted(order: str) -> None:
    car = car_in(REPO, order, copies=3)
    _, left_over = await order_of(car)
    assert left_over == 2 * len(REPO.blocks)


async def test_record_that_comes_back_from_disk_counts_once() -> None:
    """Gone past first, then used at several keys, and set aside after each."""
    records = {f"app.test.a/{n:03}": {"n": n, "text": "x" * 4000} for n in range(300)}
    for n in range(0, 300, 50):
        records[f"app.test.a/{n:03}"] = {"shared": n % 100}
    car = build_repo(records).to_car(order="stream")
    async with BUILDER.with_mem_limit_mb(0).stream_car(pieces_of(car, 999)) as (_, driver):
        assert [key for key, _ in await driver.next_keys(1) or ()] == ["app.test.a/000"]
        assert len(await rest_of(driver)) == 299
        assert driver.left_over == 0


async def test_copy_of_the_commit_moves_no_other_block() -> None:
    """It is not processed. A record behind it is passed, released, and used at another key."""
    records = {f"a/{n:04}": {"n": n, "text": "x" * 90} for n in range(400)}
    repo = build_repo(records | {f"b/{n:04}": records[f"a/{n:04}"] for n in range(300, 310)})
    blocks = [*repo.blocks.items()]
    at = blocks.index((repo.records["a/0300"], repo.blocks[repo.records["a/0300"]]))
    blocks[at:at] = [(repo.commit_cid, repo.commit)] * 2
    car = write_car([repo.commit_cid], blocks)
    builder = DriverBuilder(block_processor=len)
    with budgeted(released=0):  # what is released is in the log alone
        async with builder.stream_car(pieces_of(car, 2000)) as (_, driver):
            assert len(await driver.next_chunk(300) or []) == 300
            assert len(await driver.next_keys(10) or []) == 10
            assert len(await rest_of(driver)) == 100
            assert driver.left_over == 2


@pytest.mark.parametrize("order", ["stream", "shuffled"])
async def test_blocks_outside_the_ranges_are_left_over(order: str) -> None:
    car = car_in(REPO, order)
    async with BUILDER.with_collections("app.test.b").stream_car(pieces_of(car, 999)) as (
        _,
        driver,
    ):
        assert len(await rest_of(driver)) == 400
        left_over = driver.left_over
        assert left_over is not None
        # All the other records, and the nodes that lead to nothing else.
        assert 800 <= left_over <= 800 + len(REPO.nodes)


# --- The end of the file ------------------------------------------------------------------------

EXTRA = section(cid_of(b"extra"), b"extra")
TAILS = [
    pytest.param(CAR + EXTRA[:-2], TruncatedCar, id="cut short"),
    pytest.param(CAR + EXTRA[:-1] + b"!", CidMismatch, id="damaged"),
    pytest.param(CAR + b"\x00", CarError, id="junk"),
]


@pytest.mark.parametrize(("car", "error"), TAILS)
@LIMITED
async def test_bad_end_of_the_car_is_raised_after_all_records(
    car: bytes, error: type[Exception], limit: float
) -> None:
    for piece, size in ((100, 10_000_000), (len(car), 100), (len(car), 10_000_000)):
        async with BUILDER.with_mem_limit_mb(limit).stream_car(pieces_of(car, piece)) as (
            _,
            driver,
        ):
            records: list[tuple[str, bytes]] = []
            while len(records) < len(EXPECTED):
                records += await driver.next_chunk(size) or []
            assert records == EXPECTED
            for _ in range(2):
                with pytest.raises(error):
                    await driver.next_chunk(size)
            assert driver.left_over is None


@pytest.mark.parametrize(("car", "_error"), TAILS)
async def test_without_drain_a_bad_end_of_the_car_is_not_seen(car: bytes, _error: object) -> None:
    async with BUILDER.stream_car(pieces_of(car, 100), drain=False) as (_, driver):
        assert await rest_of(driver) == EXPECTED
        assert await driver.next_chunk() is None


async def test_record_outside_the_ranges_can_be_asked_for_after_draining() -> None:
    """A walk that leaves out records leaves them to others."""
    for limit in (0, 0.1, 16):
        builder = BUILDER.with_mem_limit_mb(limit)
        async with builder.with_collections("app.test.a").stream_car(CAR) as (_, driver):
            assert await rest_of(driver) == EXPECTED[:400]
            found = await driver.get(KEYS[-1])
            assert found is not None
            assert found.value == EXPECTED[-1][1]
        keys_first = car_in(REPO, "nodes first")
        async with builder.stream_car(pieces_of(keys_first, 1000)) as (_, driver):
            while await driver.next_keys(100):
                pass
            await driver.seek("")
            assert await rest_of(driver) == EXPECTED


# --- Ranges and seeking -------------------------------------------------------------------------

RANGES = {
    "collection": BUILDER.with_collections("app.test.b"),
    "two collections": BUILDER.with_collections("app.test.a", "app.test.c"),
    "prefix": BUILDER.with_prefix("app.test.b/00"),
    "range": BUILDER.with_key_range(KEYS[37], KEYS[503]),
    "one key": BUILDER.with_key_range(KEYS[700], KEYS[701]),
    "nothing": BUILDER.with_prefix("app.test.z"),
}


@pytest.mark.parametrize("name", RANGES)
@pytest.mark.parametrize("order", ["stream", "shuffled"])
async def test_ranges_give_what_memory_gives(name: str, order: str) -> None:
    car = car_in(REPO, order)
    wanted = (await in_memory(car, RANGES[name])).outputs
    for limit in (0, 16):
        async with (
            RANGES[name].with_mem_limit_mb(limit).stream_car(pieces_of(car, 999)) as (_, driver)
        ):
            got = [output async for output in driver.outputs()]
            assert got == wanted
            if order == "stream":
                assert driver.order == IN_ORDER
                assert not driver.spilled


async def test_record_that_keys_inside_and_outside_the_ranges_share_is_given() -> None:
    records: dict[str, object] = {f"{name}/{n:03}": {"n": n} for name in "abc" for n in range(90)}
    repo = build_repo(records)
    for order in ("stream", "export", "shuffled"):
        car = car_in(repo, order)
        for builder in (BUILDER.with_prefix("b/"), BUILDER.with_prefix("c/")):
            wanted = (await in_memory(car, builder)).outputs
            assert len(wanted) == 90
            for limit, piece in ((0, 100), (16, 100), (16, 100_000)):
                async with builder.with_mem_limit_mb(limit).stream_car(pieces_of(car, piece)) as (
                    _,
                    driver,
                ):
                    assert [output async for output in driver.outputs()] == wanted


@LIMITED
async def test_seeking_ahead_needs_no_disk(limit: float) -> None:
    source = Counted(CAR, 1000)
    async with BUILDER.with_mem_limit_mb(limit).stream_car(source) as (_, driver):
        for at in (3, 5, 100, 103, 640, 1150):
            await driver.seek(KEYS[at])
            assert await driver.next_chunk(2) == EXPECTED[at : at + 2]
            assert driver.order == IN_ORDER
        assert not driver.spilled


@LIMITED
async def test_seeking_past_a_bad_record_reads_no_more_than_walking(limit: float) -> None:
    bad = EXPECTED[10][1]

    def process(block: bytes) -> bytes:
        if block == bad:
            raise ValueError
        return block

    source = Counted(CAR, 999)
    builder = BUILDER.with_mem_limit_mb(limit).with_block_processor(process)
    async with builder.stream_car(source, spill=False) as (_, driver):
        assert await driver.next_chunk(100) == EXPECTED[:10]
        with pytest.raises(ProcessError):
            await driver.next_chunk()
        await driver.seek(KEYS[10])
        with pytest.raises(ProcessError):
            await driver.next_chunk()
        await driver.seek(KEYS[11])
        assert await driver.next_chunk(5) == EXPECTED[11:16]
        assert source.given < len(CAR) // 4
        assert await rest_of(driver) == EXPECTED[16:]


async def test_seeking_behind_the_walk_and_beyond_the_last_key() -> None:
    for order in ("stream", "shuffled"):
        for limit in (0, 16):
            source = pieces_of(car_in(REPO, order), 2000)
            async with BUILDER.with_mem_limit_mb(limit).stream_car(source) as (_, driver):
                for at in (1000, 2, 500, 499, 1199, 0):
                    await driver.seek(KEYS[at])
                    assert await driver.next_chunk(3) == EXPECTED[at : at + 3]
                # One by one, more is read ahead than was given.
                await driver.seek(KEYS[100])
                assert [await anext(driver) for _ in range(3)] == EXPECTED[100:103]
                for at in (102, 104, 103):
                    await driver.seek(KEYS[at])
                    assert await anext(driver) == EXPECTED[at]
                await driver.seek("zzz.")
                assert await driver.next_chunk() is None
                await driver.seek("")
                assert await rest_of(driver) == EXPECTED


@pytest.mark.parametrize("order", ["stream", "shuffled", "nodes first"])
@LIMITED
async def test_keys_are_given_without_records(order: str, limit: float) -> None:
    without = REPO.records.values()
    car = (
        REPO.to_car(omit=without)
        if order != "stream"
        else REPO.to_car(order="stream", omit=without)
    )
    async with BUILDER.with_mem_limit_mb(limit).stream_car(pieces_of(car, 500)) as (_, driver):
        keys: list[tuple[str, Cid]] = []
        while part := await driver.next_keys(100):
            keys += part
        assert keys == list(REPO.records.items())
        await driver.seek("")
        with pytest.raises(MissingBlock):
            await driver.next_chunk()


# --- Two tasks, and after the end ---------------------------------------------------------------


@pytest.mark.both_loops
@LIMITED
async def test_second_task_in_one_driver_is_refused(limit: float) -> None:
    source = Pieces(car_in(REPO, "shuffled"), 5000)
    async with BUILDER.with_mem_limit_mb(limit).stream_car(source) as (_, driver):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(driver.next_chunk)
            await anyio.lowlevel.checkpoint()
            await anyio.lowlevel.checkpoint()
            for call in calls_of(driver):
                with pytest.raises(anyio.BusyResourceError):
                    await call()
            tasks.cancel_scope.cancel()
        assert await rest_of(driver) == EXPECTED


def calls_of(driver: RepoDriver[Any]) -> list[Callable[[], Awaitable[object]]]:
    return [
        driver.next_chunk,
        driver.next_outputs,
        driver.next_keys,
        driver.next_items,
        driver.__anext__,
        driver.collections,
        driver.prove_range,
        lambda: driver.get("a/b"),
        lambda: driver.prove("a/b"),
        lambda: driver.seek("a/"),
    ]


@pytest.mark.parametrize(
    ("order", "limit", "first"),
    [("stream", 0, 0), ("stream", 16, 50), ("shuffled", 0, 50), ("shuffled", 16, 2000)],
    ids=["nothing-taken", "some-taken", "some-taken-through-the-disk", "all-taken"],
)
async def test_driver_is_closed_with_its_context(order: str, limit: float, first: int) -> None:
    car = car_in(REPO, order)
    async with BUILDER.with_mem_limit_mb(limit).stream_car(pieces_of(car, 3000)) as (_, driver):
        if first:
            await driver.next_chunk(first)
    for call in calls_of(driver):
        with pytest.raises(StoreClosed):
            await call()


async def test_closed_driver_reads_no_further_to_find_the_end() -> None:
    source = Counted(REPO.to_car(order="stream"), 500)
    keys = [*REPO.records][:20]
    builder = BUILDER.with_key_range(None, keys[-1] + "+")
    async with builder.stream_car(source, drain=True) as (_, driver):
        assert [key for key, _cid in await driver.next_keys(20) or []] == keys
    given = source.given
    for _ in range(2):
        with pytest.raises(StoreClosed):
            await driver.next_keys()
    assert source.given == given < len(source.data)


async def test_closed_driver_does_not_have_the_traceback_of_an_earlier_error() -> None:
    car = REPO.to_car(omit=[REPO.root])
    async with BUILDER.stream_car(car) as (_, driver):
        with pytest.raises(MissingBlock):
            await driver.next_chunk()
    with pytest.raises(StoreClosed) as caught:
        await driver.next_chunk()
    assert "_supply" not in [each.name for each in caught.traceback]


# --- The disk -----------------------------------------------------------------------------------


async def test_path_to_spill_to_is_left_empty(tmp_path: Path) -> None:
    path = tmp_path / "spill.db"
    async with BUILDER.with_mem_limit_mb(0).stream_car(car_in(REPO, "shuffled"), spill=path) as (
        _,
        driver,
    ):
        assert await rest_of(driver) == EXPECTED
        assert driver.spilled
        assert names_in(tmp_path) == ["spill.db", "spill.db-log"]
        assert EXPECTED[5][1] in (tmp_path / "spill.db-log").read_bytes()
    assert names_in(tmp_path) == ["spill.db"]
    assert EXPECTED[5][1] not in path.read_bytes()
    # The tables alone.
    assert path.stat().st_size < 20_000


async def test_tiny_pieces_are_joined_on_their_way_to_the_log() -> None:
    """Whoever sends a repo byte by byte does not have it kept so."""
    for size in (1, 7, 1000):
        async with await CarReader.open(pieces_of(CAR, size)) as reader:
            first = await reader.next_columns()
            assert first is not None
            copied: list[bytes] = [b"before"]
            start = reader.offset
            reader.copy_to(copied, 0)
            while await reader.next_columns() is not None:
                pass
        assert b"".join(copied) == b"before" + CAR[start:]
        assert len(copied) < 2 + len(CAR) / 16_000


@pytest.mark.parametrize("order", ["stream", "shuffled"])
async def test_storing_more_than_allowed_is_an_error(order: str) -> None:
    repo = build_repo({f"a/{n:05}": {"n": n, "text": "x" * 500} for n in range(3000)})
    async with DiskBuilder(max_stored_mb=1).open() as store:
        builder = BUILDER.with_mem_limit_mb(0)
        outcome = await streamed(pieces_of(car_in(repo, order), 9000), builder, spill=store)
        assert isinstance(outcome.error, MaxSizeExceeded)
        assert [each.key for each in outcome.outputs] == list(repo.records)[: len(outcome.outputs)]
        assert store.stored == 0
        assert await usable(store)


@pytest.mark.both_loops
@pytest.mark.parametrize(
    ("order", "size"),
    [("stream", 0), ("stream", 100_000), ("shuffled", 100_000), ("shuffled", 1_000_000)],
    ids=["stream-0", "stream-100kB", "shuffled-100kB", "shuffled-1MB"],
)
async def test_full_disk_is_an_error(order: str, size: int, tmp_path: Path) -> None:
    repo = build_repo({f"a/{n:05}": {"n": n, "text": "x" * 500} for n in range(4000)})
    keys = list(repo.records)
    async with DiskBuilder(cache_size_mb=1).open(tmp_path / "store.db") as store:
        builder = BUILDER.with_mem_limit_mb(0)
        with file_size_limit(size):
            source = pieces_of(car_in(repo, order), 9000)
            outcome = await streamed(source, builder, spill=store)
        assert isinstance(outcome.error, (DiskFull, DiskIOError))
        assert [each.key for each in outcome.outputs] == keys[: len(outcome.outputs)]
        assert await usable(store)


@pytest.mark.both_loops
async def test_store_that_somebody_else_resets_is_closed_for_the_driver() -> None:
    repo = build_repo({f"a/{n:05}": {"n": n} for n in range(4000)})
    builder = BUILDER.with_mem_limit_mb(0)
    async with DiskBuilder().open() as store:
        async with builder.stream_car(repo.to_car(), spill=store) as (_, driver):
            await driver.next_chunk(5)
            await store.reset()
            with pytest.raises(StoreClosed):
                await rest_of(driver)
        assert await usable(store)


# --- What memory is said to cost ----------------------------------------------------------------


@pytest.mark.parametrize("process", [noop, len, bytes.hex], ids=["raw", "sizes", "texts"])
def test_counted_memory_is_that_of_a_store_filled_anew(process: Any) -> None:
    """Whatever is taken in, given away and put back, it is what a store filled anew counts."""
    processor: Processor[Any] = Processor(process)
    store = MemoryStore(processor)
    dice = random.Random(0)
    blocks = [(cid_of(data), data) for data in (encode_some(n) for n in range(60))]
    for _ in range(2000):
        cid, data = dice.choice(blocks)
        match dice.randrange(4):
            case 0:
                store.add(*columns(dice.sample(blocks, 5)))
            case 1:
                store.forget([cid, dice.choice(blocks)[0]])
            case 2:
                store.put_back(cid, block=data, result=None)
            case _:
                if not data.startswith(b"\xa2ae") and not processor.keeps_bytes:
                    store.put_back(cid, block=None, result=process(data))
        anew, both = MemoryStore(processor), 0
        for kept in store.blocks.raw.items():
            anew.keep_raw(*kept)
        if not processor.keeps_bytes:
            for key, value in store.blocks.processed.items():
                if key not in anew.blocks.raw:
                    anew.put_back(key, block=None, result=value)
                else:
                    both += processor.size_of(value) + KEY_COST
        assert contents(store) == pytest.approx(contents(anew) + both, abs=2)


def contents(store: MemoryStore[Any]) -> int:
    """What is in its tables, without the tables, whose size depends on what they once held."""
    tables = {id(table): table for table in (store.blocks.raw, store.blocks.processed)}
    return store.size - sum(map(sys.getsizeof, tables.values()))


def encode_some(n: int) -> bytes:
    return (b"\xa2ae" if n % 5 == 0 else b"\xa1") + b"x" * n


# --- HTTP ---------------------------------------------------------------------------------------

#: What sockets may hold on the way, on both sides.
BUFFERS = 8 << 20


@cache
def big() -> tuple[BuiltRepo, bytes]:
    repo = build_repo({f"a/{n:05}": {"n": n, "text": "x" * 10_000} for n in range(2000)})
    return repo, repo.to_car(order="stream")


@pytest.fixture
def server() -> Iterator[CarServer]:
    with CarServer() as server:
        yield server


@asynccontextmanager
async def body_of(url: str) -> AsyncGenerator[AsyncGenerator[bytes]]:
    async with httpx.AsyncClient() as client, client.stream("GET", url) as response:
        body = cast("AsyncGenerator[bytes]", response.aiter_bytes(65536))
        async with aclosing(body):
            yield body


async def settled(server: CarServer) -> int:
    """What the server has sent, once it sends no more."""
    sent = -1
    for _ in range(200):
        if sent == server.sent:
            break
        sent = server.sent
        await anyio.sleep(0.1)
    return sent


@pytest.mark.both_loops
async def test_slow_consumer_holds_the_download_back(server: CarServer) -> None:
    repo, car = big()
    assert len(car) > 2 * BUFFERS
    async with body_of(server.serve(car)) as body, BUILDER.stream_car(body) as (_, driver):
        assert len(await driver.next_chunk(10) or []) == 10
        assert await settled(server) < BUFFERS
        records = await rest_of(driver)
        assert len(records) == len(repo.records) - 10
        assert server.sent == len(car)


# Under asyncio only: httpx leaves a generator of its own to be collected, which trio warns about.
@pytest.mark.parametrize("how", ["left", "cancelled"])
async def test_download_is_closed_if_the_walk_ends_early(server: CarServer, how: str) -> None:
    _, car = big()
    reached = anyio.Event()
    threads = lasting_threads()

    async def walk() -> None:
        async with (
            body_of(server.serve(car)) as body,
            BUILDER.stream_car(body) as (_, driver),
        ):
            async for key, _record in driver:
                if key == "a/00100":
                    reached.set()
                    if how == "left":
                        return
                await anyio.lowlevel.checkpoint()

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(walk)
        await reached.wait()
        if how == "cancelled":
            tasks.cancel_scope.cancel()
    # The connection is gone, so the server's thread does not wait for anybody to read.
    assert await becomes(lambda: lasting_threads() <= threads)
    assert server.sent < len(car)
