"""How a CAR is read that is walked meanwhile: how far, in which order, and what is left of it."""

from __future__ import annotations

import random
import sys
import threading
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterator
from contextlib import aclosing, asynccontextmanager
from pathlib import Path
from typing import Any, cast

import anyio
import httpx
import pytest

from repo_stream import (
    BlockOrder,
    CarError,
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
from repo_stream.car_server import CarServer
from repo_stream.memory import MemoryStore
from repo_stream.process import Processor, noop
from repo_stream.tables import KEY_COST
from repo_stream.testing import build_repo, car_header, cid_of, made_car, section
from support import columns, pieces_of
from support.cancelling import Pieces, rest_of, usable
from support.stores import becomes, file_size_limit
from support.streams import car_in, in_memory, streamed

REPO = build_repo(
    {
        f"app.test.{name}/{n:04}": {name: n, "text": "x" * (n % 90)}
        for name in "abc"
        for n in range(400)
    }
)
KEYS = list(REPO.records)
EXPECTED = [(rkey, REPO.blocks[cid]) for rkey, cid in REPO.records.items()]
CAR = REPO.to_car(order="stream")
BUILDER = DriverBuilder()
ON_ASYNCIO = pytest.mark.parametrize("anyio_backend", ["asyncio"])
IN_ORDER = BlockOrder(streamable=True, early=0, most_early=0)


class Counted:
    """A source that knows how much has been taken from it."""

    def __init__(self, data: bytes, size: int = 4096) -> None:
        self.data = data
        self._size = size
        self.given = 0

    async def read(self, n: int) -> bytes:
        piece = self.data[self.given : self.given + min(n, self._size)]
        self.given += len(piece)
        return piece


# --- How far ------------------------------------------------------------------------------------


@pytest.mark.parametrize("limit", [0, 16])
async def test_the_first_record_comes_with_the_first_hundredth(limit: float) -> None:
    source = Counted(b"".join([piece async for piece in made_car(20_000, order="stream")]))
    async with BUILDER.with_mem_limit_mb(limit).stream_car(source) as (_, driver):
        assert source.given <= 4096
        first = await anext(driver)
        assert first[0] == "app.bsky.actor.profile/self"
        assert 0 < source.given < len(source.data) / 100


async def test_nothing_is_read_beyond_the_piece_that_is_needed() -> None:
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


async def test_without_drain_the_rest_is_not_read() -> None:
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


async def test_a_streamable_file_is_called_so() -> None:
    assert await order_of(CAR) == (IN_ORDER, 0)


@pytest.mark.parametrize(
    "order", ["export", "shuffled", "reversed", "breadth first", "commit last", "swapped"]
)
async def test_another_order_is_told_from_it(order: str) -> None:
    seen, left_over = await order_of(car_in(REPO, order))
    assert not seen.streamable
    assert seen.most_early > 0
    assert (seen.early, left_over) == (0, 0)


@pytest.mark.parametrize("piece", [50, 1000, 1_000_000])
async def test_a_commit_that_is_not_first_is_not_in_order(piece: int) -> None:
    """However the file was cut into pieces."""
    first, second, *rest = REPO.blocks.items()
    car = car_header([REPO.commit_cid]) + b"".join(
        section(*each) for each in (second, first, *rest)
    )
    async with BUILDER.stream_car(pieces_of(car, piece)) as (commit, driver):
        assert commit.cid == first[0]
        assert not driver.order.streamable
        assert await rest_of(driver) == EXPECTED


async def test_a_commit_that_is_not_there_is_missing() -> None:
    car = REPO.to_car(order="stream", omit=[REPO.commit_cid])
    for limit in (0, 16):
        with pytest.raises(MissingCommit):
            async with BUILDER.with_mem_limit_mb(limit).stream_car(pieces_of(car, 1000)):
                pass


async def test_a_commit_that_comes_late_fills_the_memory() -> None:
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


@pytest.mark.parametrize("order", ["stream", "export", "shuffled", "commit last", "swapped"])
@pytest.mark.parametrize("process", [noop, len])
@pytest.mark.parametrize("piece", [300, 1_000_000])
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


async def test_a_record_that_comes_back_from_disk_counts_once() -> None:
    """Gone past first, then used at several keys, and set aside after each."""
    records = {f"app.test.a/{n:03}": {"n": n, "text": "x" * 4000} for n in range(300)}
    for n in range(0, 300, 50):
        records[f"app.test.a/{n:03}"] = {"shared": n % 100}
    car = build_repo(records).to_car(order="stream")
    async with BUILDER.with_mem_limit_mb(0).stream_car(pieces_of(car, 999)) as (_, driver):
        assert [rkey for rkey, _ in await driver.next_keys(1) or ()] == ["app.test.a/000"]
        assert len(await rest_of(driver)) == 299
        assert driver.left_over == 0


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
@pytest.mark.parametrize("limit", [0, 16])
@pytest.mark.parametrize("size", [100, 10_000_000])
async def test_a_bad_end_is_told_after_all_records(
    car: bytes, error: type[Exception], limit: float, size: int
) -> None:
    for piece in (100, len(car)):
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
async def test_without_drain_a_bad_end_is_not_seen(car: bytes, _error: object) -> None:
    async with BUILDER.stream_car(pieces_of(car, 100), drain=False) as (_, driver):
        assert await rest_of(driver) == EXPECTED
        assert await driver.next_chunk() is None


async def test_what_was_drained_can_be_asked_for() -> None:
    """A walk that leaves out records leaves them to others."""
    for limit in (0, 0.1, 16):
        builder = BUILDER.with_mem_limit_mb(limit)
        async with builder.with_collections("app.test.a").stream_car(CAR) as (_, driver):
            assert await rest_of(driver) == EXPECTED[:400]
            found = await driver.get(KEYS[-1])
            assert found is not None
            assert found.data == EXPECTED[-1][1]
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
@pytest.mark.parametrize("order", ["stream", "export", "shuffled"])
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


async def test_a_record_in_and_out_of_the_ranges_is_given() -> None:
    records: dict[str, object] = {f"{name}/{n:03}": {"n": n} for name in "abc" for n in range(90)}
    repo = build_repo(records)
    for order in ("stream", "export", "shuffled"):
        car = car_in(repo, order)
        for builder in (BUILDER.with_collections("b"), BUILDER.with_collections("c")):
            wanted = (await in_memory(car, builder)).outputs
            assert len(wanted) == 90
            for limit in (0, 16):
                for piece in (100, 100_000):
                    async with builder.with_mem_limit_mb(limit).stream_car(
                        pieces_of(car, piece)
                    ) as (_, driver):
                        assert [output async for output in driver.outputs()] == wanted


@pytest.mark.parametrize("limit", [0, 16])
async def test_seeking_ahead_needs_no_more_than_walking(limit: float) -> None:
    source = Counted(CAR, 1000)
    async with BUILDER.with_mem_limit_mb(limit).stream_car(source) as (_, driver):
        for at in (3, 5, 100, 103, 640, 1150):
            await driver.seek(KEYS[at])
            assert await driver.next_chunk(2) == EXPECTED[at : at + 2]
            assert driver.order == IN_ORDER
        assert not driver.spilled


@pytest.mark.parametrize("limit", [0, 16])
async def test_seeking_past_a_bad_record_needs_no_more_than_walking(limit: float) -> None:
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


async def test_seeking_behind_and_beyond() -> None:
    for order in ("stream", "shuffled"):
        for limit in (0, 16):
            source = pieces_of(car_in(REPO, order), 2000)
            async with BUILDER.with_mem_limit_mb(limit).stream_car(source) as (_, driver):
                for at in (1000, 2, 500, 499, 1199, 0):
                    await driver.seek(KEYS[at])
                    assert await driver.next_chunk(3) == EXPECTED[at : at + 3]
                await driver.seek("zzz")
                assert await driver.next_chunk() is None
                await driver.seek("")
                assert await rest_of(driver) == EXPECTED


@pytest.mark.parametrize("order", ["stream", "shuffled", "nodes first"])
@pytest.mark.parametrize("limit", [0, 16])
async def test_keys_need_no_records(order: str, limit: float) -> None:
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


@pytest.mark.parametrize("limit", [0, 16])
async def test_two_tasks_in_one_driver(limit: float) -> None:
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
        lambda: driver.get("a"),
        lambda: driver.prove("a"),
        lambda: driver.seek("a"),
    ]


@pytest.mark.parametrize("order", ["stream", "shuffled"])
@pytest.mark.parametrize("limit", [0, 16])
@pytest.mark.parametrize("first", [0, 50, 2000])
async def test_a_driver_is_over_with_its_context(order: str, limit: float, first: int) -> None:
    car = car_in(REPO, order)
    async with BUILDER.with_mem_limit_mb(limit).stream_car(pieces_of(car, 3000)) as (_, driver):
        if first:
            await driver.next_chunk(first)
    for call in calls_of(driver):
        with pytest.raises(StoreClosed):
            await call()


# --- The disk -----------------------------------------------------------------------------------


async def test_a_path_is_left_empty(tmp_path: Path) -> None:
    path = tmp_path / "spill.db"
    async with BUILDER.with_mem_limit_mb(0).stream_car(car_in(REPO, "shuffled"), spill=path) as (
        _,
        driver,
    ):
        assert await rest_of(driver) == EXPECTED
        assert driver.spilled
        full = path.stat().st_size
    assert path.stat().st_size < full / 4
    assert EXPECTED[5][1] not in path.read_bytes()


@pytest.mark.parametrize("order", ["stream", "shuffled"])
async def test_more_than_may_be_stored_is_an_error(order: str) -> None:
    repo = build_repo({f"a/{n:05}": {"n": n, "text": "x" * 500} for n in range(4000)})
    async with DiskBuilder(max_stored_mb=1).open() as store:
        builder = BUILDER.with_mem_limit_mb(0)
        outcome = await streamed(pieces_of(car_in(repo, order), 9000), builder, spill=store)
        assert isinstance(outcome.error, MaxSizeExceeded)
        assert [each.rkey for each in outcome.outputs] == list(repo.records)[: len(outcome.outputs)]
        assert store.stored == 0
        assert await usable(store)


@pytest.mark.parametrize("order", ["stream", "shuffled"])
@pytest.mark.parametrize("size", [0, 100_000, 1_000_000])
async def test_a_full_disk_is_an_error(order: str, size: int, tmp_path: Path) -> None:
    repo = build_repo({f"a/{n:05}": {"n": n, "text": "x" * 500} for n in range(6000)})
    keys = list(repo.records)
    async with DiskBuilder(cache_size_mb=1).open(tmp_path / "store.db") as store:
        builder = BUILDER.with_mem_limit_mb(0)
        with file_size_limit(size):
            source = pieces_of(car_in(repo, order), 9000)
            outcome = await streamed(source, builder, spill=store)
        assert isinstance(outcome.error, (DiskFull, DiskIOError))
        assert [each.rkey for each in outcome.outputs] == keys[: len(outcome.outputs)]
        assert await usable(store)


async def test_a_store_that_somebody_else_takes_is_gone() -> None:
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


@pytest.mark.parametrize("process", [noop, len, bytes.hex])
def test_the_count_of_memory_stays_true(process: Any) -> None:
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

BIG = build_repo({f"a/{n:05}": {"n": n, "text": "x" * 2000} for n in range(10_000)})
BIG_CAR = BIG.to_car(order="stream")
#: What sockets may hold on the way, on both sides.
BUFFERS = 8 << 20


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


async def test_a_slow_consumer_holds_the_download(server: CarServer) -> None:
    assert len(BIG_CAR) > 2 * BUFFERS
    async with body_of(server.serve(BIG_CAR)) as body, BUILDER.stream_car(body) as (_, driver):
        assert len(await driver.next_chunk(10) or []) == 10
        assert await settled(server) < BUFFERS
        records = await rest_of(driver)
        assert len(records) == len(BIG.records) - 10
        assert server.sent == len(BIG_CAR)


@ON_ASYNCIO  # httpx leaves a generator of its own to be collected, which trio warns about
@pytest.mark.parametrize("how", ["left", "cancelled"])
async def test_a_download_that_is_left_is_released(server: CarServer, how: str) -> None:
    reached = anyio.Event()
    threads = threading.active_count()

    async def walk() -> None:
        async with (
            body_of(server.serve(BIG_CAR)) as body,
            BUILDER.stream_car(body) as (_, driver),
        ):
            async for rkey, _record in driver:
                if rkey == "a/00500":
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
    assert await becomes(lambda: threading.active_count() <= threads)
    assert server.sent < len(BIG_CAR)
