"""What a walk has let go of is read again where the source is a file, and gives what it gave."""

from __future__ import annotations

import os
import random
from collections.abc import Callable
from itertools import accumulate
from pathlib import Path
from typing import Any

import anyio
import anyio.to_thread
import pytest

from repo_stream import (
    BlockReleased,
    CarChanged,
    DiskStore,
    DriverBuilder,
    MemLimitExceeded,
    StreamDriver,
    key_depth,
)
from repo_stream.car.files import OpenFile, SharedFile
from repo_stream.car.reader import CarReader
from repo_stream.drivers.released import Marks, Released
from repo_stream.store.disk import Lease
from repo_stream.testing import BuiltRepo, RawRecord, build_repo, cid_of, encode, section, write_car
from support import Pieces
from support.streams import ORDERS, AnyBuilder, budgeted, car_in, in_memory, ordered, streamed

REPO = build_repo(
    {f"app.test.a/{n:04}": {"n": n, "text": "x" * 400} for n in range(1000)}
    | {f"app.test.b/{n:04}": {"n": n, "text": "x" * 400} for n in range(0, 1000, 90)}
)
STREAM = car_in(REPO, "stream")
FIRST = "app.test.a/0000"
UNNEEDED = [(cid_of(block), block) for block in (encode({"spare": n}) for n in range(200))]


@pytest.fixture
def car(tmp_path: Path) -> Path:
    path = tmp_path / "repo.car"
    path.write_bytes(STREAM)
    return path


@pytest.mark.parametrize("order", ORDERS)
async def test_file_that_is_read_again_gives_what_memory_gives(tmp_path: Path, order: str) -> None:
    car = tmp_path / "repo.car"
    car.write_bytes(car_in(REPO, order))
    plain: AnyBuilder = DriverBuilder()
    for builder in (plain, plain.with_block_processor(len)):
        wanted = await in_memory(car, builder)
        assert len(wanted.outputs) == len(REPO.records)
        for limit in (0, 0.3, 16):
            got = await streamed(car, builder.with_mem_limit_mb(limit))
            assert (got.outputs, got.fault) == (wanted.outputs, None)


async def test_file_needs_no_store_for_blocks_that_were_let_go_of(car: Path) -> None:
    """More goes by than the limit allows; a source that is no file has to give some of it up."""
    builder = DriverBuilder(mem_limit_mb=0.2)
    from_file = await streamed(car, builder, spill=False)
    assert (len(from_file.outputs), from_file.fault) == (len(REPO.records), None)
    assert isinstance((await streamed(STREAM, builder, spill=False)).error, BlockReleased)


async def half_way(driver: StreamDriver[Any]) -> None:
    for _ in range(10):
        assert len(await driver.next_chunk(50) or []) == 50


@pytest.mark.parametrize("limit", [0, 0.3, 16], ids=["0-MB", "0.3-MB", "16-MB"])
async def test_whole_repo_can_be_asked_for_after_half_a_walk(car: Path, limit: float) -> None:
    async with DriverBuilder(mem_limit_mb=limit).stream_car(car) as (_, driver):
        await half_way(driver)
        for key in (FIRST, "app.test.a/0400", "app.test.b/0990"):
            found = await driver.get(key)
            assert found is not None
            assert found.cid == REPO.records[key]
        assert await driver.collections() == ["app.test.a", "app.test.b"]
        rest = await driver.next_chunk(5000)
        assert rest is not None
        assert [key for key, _ in rest] == list(REPO.records)[500:]
        await driver.seek("")
        again = await driver.next_chunk(5000)
        assert again is not None
        assert [key for key, _ in again] == list(REPO.records)


async def test_file_stays_open_after_the_walk_and_is_closed_with_the_driver(
    car: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    readers: list[CarReader] = []
    opened = CarReader.open

    async def noted(*args: Any, **options: Any) -> CarReader:
        readers.append(await opened(*args, **options))
        return readers[-1]

    monkeypatch.setattr(CarReader, "open", noted)
    async with DriverBuilder().stream_car(car) as (_, driver):
        while await driver.next_chunk(100):
            pass
        os.unlink(car)  # noqa: PTH108 - no other task is kept waiting
        found = await driver.get(FIRST)
        assert found is not None
        (reader,) = readers
        file = reader.file
        assert file is not None
        assert await file.visit(lambda opened: opened.read(100, 5)) == STREAM[5:105]
    assert await file.visit(lambda opened: opened.read(100, 5)) == b""


def cut(path: Path) -> None:
    os.truncate(path, 1000)


def overwritten(path: Path) -> None:
    data = bytearray(STREAM)
    at = data.index(REPO.blocks[REPO.records[FIRST]])
    data[at + 20] ^= 1
    path.write_bytes(data)


def put_back(path: Path) -> None:
    status = path.stat()
    overwritten(path)
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))


@pytest.mark.parametrize("change", [cut, overwritten, put_back], ids=lambda change: change.__name__)
async def test_file_that_is_changed_meanwhile_gives_an_error(
    car: Path, change: Callable[[Path], None]
) -> None:
    async with DriverBuilder(mem_limit_mb=0.3).stream_car(car, drain=False) as (_, driver):
        await half_way(driver)
        change(car)
        with pytest.raises(CarChanged):
            await driver.get(FIRST)


def emptied(path: Path) -> None:
    path.write_bytes(bytes(len(STREAM)))


def renamed(path: Path) -> None:
    data = bytearray(STREAM)
    cid = REPO.records[FIRST]
    at = data.index(cid + REPO.blocks[cid])
    data[at + 20] ^= 1
    path.write_bytes(data)


@pytest.mark.parametrize("change", [emptied, renamed], ids=["emptied", "block-renamed"])
@pytest.mark.parametrize("gaps", [False, True], ids=["complete", "with-gaps"])
async def test_block_that_a_change_of_the_file_removed_is_not_called_missing(
    tmp_path: Path, change: Callable[[Path], None], gaps: bool
) -> None:
    """Its place says that it was there."""
    car = tmp_path / "repo.car"
    car.write_bytes(STREAM)
    os.utime(car, (0, 0))  # the clock of files is slow
    builder: AnyBuilder = DriverBuilder(mem_limit_mb=0.3)
    async with (builder.with_gaps() if gaps else builder).stream_car(car) as (_, driver):
        await driver.next_chunk(1000)
        change(car)
        with pytest.raises(CarChanged):
            await driver.next_chunk(100)


@pytest.mark.both_loops
async def test_move_to_disk_that_was_cancelled_early_loses_nothing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The store is open by then, and holds nothing that could be looked for."""
    records = {f"app.test.a/{n:04}": {"n": n, "text": "x" * 300} for n in range(400)}
    repo = build_repo(records | {"app.test.a/0220x": records["app.test.a/0005"]})
    blocks: list[tuple[bytes, bytes]] = []
    for cid in ordered(repo, "stream"):
        blocks.append((cid, repo.blocks[cid]))
        if len(blocks) > 290:
            blocks.append(UNNEEDED[len(blocks) % len(UNNEEDED)])
    begin = DiskStore.begin
    scope = anyio.CancelScope()

    async def cancelled_once(store: DiskStore, cache: int) -> Lease:
        if not scope.cancel_called:
            scope.cancel()
            await anyio.sleep_forever()
        return await begin(store, cache)

    monkeypatch.setattr(DiskStore, "begin", cancelled_once)
    car = write_car([repo.commit_cid], blocks)
    async with DriverBuilder(mem_limit_mb=0).stream_car(car) as (_, driver):
        with scope:
            while await driver.next_chunk(10):
                pass
        assert scope.cancelled_caught
        await driver.seek("app.test.a/0223")
        rest = await driver.next_chunk(5000)
        assert rest is not None
        assert [key for key, _ in rest] == [f"app.test.a/{n:04}" for n in range(223, 400)]


@pytest.mark.both_loops
@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs named pipes")
async def test_blocks_of_a_pipe_are_kept_on_disk_as_it_cannot_be_read_again(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(anyio.to_thread.run_sync, pipe.write_bytes, STREAM)
        with anyio.fail_after(20):
            got = await streamed(pipe, DriverBuilder(mem_limit_mb=0.3))
            assert [output.key for output in got.outputs] == list(REPO.records)


# Two pairs of records, one after the other, whose CIDs end in the same four bytes.
ALIKE = [{"n": n} for n in (125_939, 172_655, 119_184, 177_273)]
assert [len({cid_of(encode(one))[-4:] for one in pair}) for pair in (ALIKE[:2], ALIKE[2:])] == [
    1,
    1,
]
# The collections stand one behind the other, so that each record of the first is asked for again,
# after the one that is like it.
CONFUSING = build_repo(
    {f"app.test.{part}/{n}": record for part in "ac" for n, record in enumerate(ALIKE[::2])}
    | {f"app.test.b/{n}": record for n, record in enumerate(ALIKE[1::2])}
    | {f"app.test.{part}/x{n}": {part: n, "pad": "x" * 2000} for part in "abc" for n in range(99)}
)


@pytest.mark.parametrize("order", ORDERS)
async def test_records_whose_cids_end_alike_are_told_apart(tmp_path: Path, order: str) -> None:
    car = tmp_path / "repo.car"
    for limit, copies in ((0, 1), (0.02, 2), (0.02, 1), (16, 2)):
        car.write_bytes(car_in(CONFUSING, order, copies=copies))
        builder: AnyBuilder = DriverBuilder(mem_limit_mb=limit)
        wanted = await in_memory(car, builder)
        assert (len(wanted.outputs), wanted.fault) == (len(CONFUSING.records), None)
        got = await streamed(car, builder)
        assert (got.outputs, got.fault) == (wanted.outputs, None)
        async with builder.stream_car(car) as (_, driver):
            await driver.next_chunk(150)
            await driver.seek("")  # now all of it is needed at once
            again = await driver.next_outputs(1000)
            assert again == wanted.outputs


def spoilt(repo: BuiltRepo, piece: int) -> bytes:
    """A streamable CAR, but for a block that nobody needs near the end of each piece."""
    blocks: list[tuple[bytes, bytes]] = []
    size = 0
    for cid in ordered(repo, "stream"):
        blocks.append((cid, repo.blocks[cid]))
        size += len(section(*blocks[-1]))
        if size % piece > piece - 5000:
            blocks.append(UNNEEDED[len(blocks) % len(UNNEEDED)])
    return write_car([repo.commit_cid], blocks)


async def test_records_whose_cids_end_alike_need_no_store(tmp_path: Path) -> None:
    car = tmp_path / "repo.car"
    car.write_bytes(spoilt(CONFUSING, 128 * 1024))
    builder = DriverBuilder(mem_limit_mb=0.5)
    got = await streamed(car, builder, spill=False)
    assert (len(got.outputs), got.fault) == (len(CONFUSING.records), None)
    async with builder.stream_car(car, spill=False) as (_, driver):
        assert await driver.collections() == ["app.test.a", "app.test.b", "app.test.c"]
        assert await driver.next_outputs(1000) == got.outputs
    copied = builder.stream_car(car.read_bytes(), spill=False)
    async with copied as (_, driver):
        with pytest.raises(MemLimitExceeded):
            await driver.collections()


@pytest.mark.parametrize(
    ("taken", "unneeded"),
    [(0, 200), (40, 0), (600, 200), (len(REPO.records), 0)],
    ids=["none", "some", "many", "all"],
)
async def test_blocks_that_are_kept_again_are_those_that_were_used(
    tmp_path: Path, taken: int, unneeded: int
) -> None:
    car = tmp_path / "repo.car"
    car.write_bytes(car_in(REPO, "stream", extra=UNNEEDED[:unneeded]))
    async with DriverBuilder().stream_car(car) as (_, driver):
        walked = taken and len(await driver.next_chunk(taken) or [])
        assert walked == taken
        await driver.collections()  # reads on, and keeps all
        assert len(await driver.next_chunk(5000) or []) == len(REPO.records) - taken
        assert await driver.next_chunk() is None
        assert driver.left_over == unneeded


async def test_record_that_is_walked_past_and_used_later_is_not_left_over(tmp_path: Path) -> None:
    """Its first key is passed, then memory is full, and then another key names the record."""
    records = {f"a/{n:04}": {"n": n, "text": "x" * 9000} for n in range(400)}
    repo = build_repo(records | {f"b/{n:04}": records[f"a/{n:04}"] for n in range(20)})
    stream = list(repo.blocks)
    early = [repo.records[f"a/{n:04}"] for n in range(100, 200)]  # kept and used: can be released
    late = repo.records["a/0350"]  # comes before a record that is needed, which fills the memory
    cids = [stream[0], *early, *[cid for cid in stream[1:] if cid not in {*early, late}]]
    cids.insert(cids.index(repo.records["a/0340"]), late)
    car = tmp_path / "repo.car"
    car.write_bytes(write_car([repo.commit_cid], [(cid, repo.blocks[cid]) for cid in cids]))
    with budgeted(store=3_000_000, released=1 << 30):
        async with DriverBuilder().stream_car(car) as (_, driver):
            assert len(await driver.next_keys(20) or []) == 20
            assert len([pair async for pair in driver]) == 400
            assert not driver.spilled
            assert driver.left_over == 0


@pytest.mark.parametrize("released", [0, 1 << 30], ids=["in the log", "in memory"])
async def test_a_record_that_is_needed_again_is_not_waited_for(released: int) -> None:
    """What came after it was not early then; only T was, which came before S."""
    keys = [key for key in (f"app.test.a/{n}" for n in range(100)) if key_depth(key.encode()) == 0]
    r, s, t, u = ({"n": name} for name in "rstu")
    repo = build_repo(dict(zip(keys, (r, s, r, t, u), strict=False)))
    cids = [cid_of(encode(record)) for record in (r, t, s, u)]
    cids = [*repo.ordered("stream")[:2], *cids]
    blocks = [(cid, repo.blocks[cid]) for cid in cids]
    first, rest = write_car(cids[:1], blocks[:3]), b"".join(section(*each) for each in blocks[3:])
    with budgeted(write=1000, released=released):
        async with DriverBuilder().stream_car(Pieces([first, rest])) as (_, driver):
            assert len([key async for key, _ in driver]) == 5
            assert driver.order.most_early == 1


async def test_streamable_file_needs_no_store_for_records_that_keys_share(
    tmp_path: Path,
) -> None:
    """Most that are shared are near each other; those of a file can be had again and again."""
    shared = {f"app.test.a/{n:04}{twin}": {"n": n} for n in range(1500) for twin in "xy"}
    far = {f"app.test.b/{n:04}": {"n": 7 * n} for n in range(10)}
    repo = build_repo(shared | far)
    car = tmp_path / "repo.car"
    car.write_bytes(car_in(repo, "stream"))
    store = tmp_path / "store"
    builder = DriverBuilder(mem_limit_mb=0.25)
    async with builder.stream_car(car, spill=store) as (_, driver):
        walked: list[str] = []
        while chunk := await driver.next_chunk(1000):
            walked += [key for key, _ in chunk]
        assert walked == list(repo.records)
        assert driver.order.streamable
        assert driver.left_over == 0
        assert not store.exists()
    got = await streamed(car, builder, spill=False)
    assert (len(got.outputs), got.fault) == (len(walked), None)


async def test_missing_blocks_are_looked_for_in_a_bounded_number_of_bytes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A file can hold the CID of what it lacks in every piece, so that each would be cut again."""
    missing = [{"missing": n} for n in range(300)]
    lure = encode([cid_of(encode(record)) for record in missing])
    records: dict[str, object] = {f"app.test.b/{n:03}": each for n, each in enumerate(missing)}
    for n in range(300):
        records[f"app.test.a/{n:03}"] = RawRecord(lure + n.to_bytes(2, "big"))
    repo = build_repo(records)
    lacking = {repo.records[f"app.test.b/{n:03}"] for n in range(300)}
    blocks = [(cid, repo.blocks[cid]) for cid in repo.ordered("stream") if cid not in lacking]
    car = tmp_path / "repo.car"
    car.write_bytes(write_car([repo.commit_cid], blocks))
    read = 0
    visit = SharedFile.visit

    async def counted(file: SharedFile, work: Callable[[OpenFile], Any]) -> Any:
        def counting(opened: OpenFile) -> Any:
            def count(size: int, start: int) -> bytes:
                nonlocal read
                data = opened.read(size, start)
                read += len(data)
                return data

            return work(OpenFile(None, count))  # nothing can be read past it

        return await visit(file, counting)

    monkeypatch.setattr(SharedFile, "visit", counted)
    builder = DriverBuilder(mem_limit_mb=0.5).with_gaps()
    async with builder.stream_car(car) as (_, driver):
        walked = await driver.next_chunk(1000)
        assert walked is not None
        assert [key for key, _ in walked] == list(repo.records)
    assert 0 < read < 4 * car.stat().st_size


# --- What a stream remembers --------------------------------------------------------------------


def test_marks_are_a_set_of_sections() -> None:
    """Of sections of 37 bytes or more, wherever they start."""
    dice = random.Random(0)
    for least in (37, 38, 74, 1000):
        starts = [*accumulate((least + dice.randrange(9) for _ in range(500)), initial=16)]
        marks, true = Marks(), set[int]()
        for _ in range(3000):
            start = dice.choice(starts)
            assert (start in marks) == (start in true)
            if dice.random() < 0.6:
                assert marks.add(start) == (start not in true)
                true.add(start)
            else:
                assert marks.discard(start) == (start in true)
                true.discard(start)
        assert [start for start in starts if start in marks] == sorted(true)
        assert starts[-1] + 10**6 not in marks
        assert not marks.discard(starts[-1] + 10**6)


def test_released_blocks_with_long_cids_cost_more() -> None:
    ordinary, long = Released(), Released()
    ordinary.add([b"%036d" % n for n in range(9)], [b"data"] * 9, used=True)
    long.add([b"%0149d" % n for n in range(9)], [b"data"] * 9, used=True)
    assert long.size - ordinary.size == 9 * (149 - 36)


def test_released_blocks_are_given_away_oldest_first_and_cost_nothing_then() -> None:
    blocks = [(b"%03d" % n, bytes(n)) for n in range(300)]
    released = Released()
    for at in range(0, 300, 7):
        cids, data = zip(*blocks[at : at + 7], strict=True)
        released.add(cids, data, used=at % 2 == 0)
    before = released.size
    assert before > sum(len(cid) + len(data) for cid, data in blocks)
    given, passed = released.take(100)
    assert given == blocks[:100]
    assert passed == {cid for n, (cid, _) in enumerate(blocks[:100]) if n // 7 % 2}
    assert released.size < before
    # What comes again and is used is no longer passed, and a copy has no place of its own.
    released.add([blocks[105][0]], [blocks[105][1]], used=True)
    rest, passed = released.take(1000)
    assert rest == blocks[100:]
    assert blocks[105][0] not in passed
    assert (released.take(5), released.size, released.passed) == (([], set()), 0, set())
