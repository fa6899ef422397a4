"""The disk store, as its callers and its drivers see it."""

from __future__ import annotations

import os
import sqlite3
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import closing
from functools import cache
from pathlib import Path

import pytest

from repo_stream import (
    DiskBuilder,
    DiskDriver,
    DiskStore,
    Driver,
    DriverBuilder,
    MaxSizeExceeded,
    MissingBlock,
    Processor,
    StoreClosed,
    StoreCorrupt,
    StoreLocked,
)
from repo_stream.store.buckets import bucket_of, candidates
from repo_stream.store.foreign import uri_for_sqlite
from repo_stream.store.log import LOG_START
from repo_stream.store.places import locate
from repo_stream.testing import RawRecord, build_car, build_repo, encode, key_height, write_car
from support import new_descriptors, pieces_of, traced
from support.stores import (
    CAR,
    EXPECTED,
    LOG_MARK,
    MANY_CAR,
    MIB,
    RECORDS,
    TO_DISK,
    cid,
    load,
    log_of,
    names_in,
    places_of,
    rest_of,
    section,
)

# --- Opening and closing ------------------------------------------------------------------------


@pytest.mark.both_loops
async def test_opening_can_be_awaited(tmp_path: Path) -> None:
    store = await DiskBuilder().open(tmp_path / "store.db")
    try:
        assert await rest_of(await load(store)) == EXPECTED
        assert (store.path, store.closed) == (tmp_path / "store.db", False)
    finally:
        await store.aclose()
    assert store.closed


@pytest.mark.both_loops
async def test_opening_can_be_a_context() -> None:
    async with DiskBuilder().open() as store:
        assert await rest_of(await load(store)) == EXPECTED
        assert (store.path, store.closed) == (None, False)
    assert store.closed


async def test_store_that_was_awaited_can_be_a_context() -> None:
    async with await DiskBuilder().open() as store:
        await store.reset()
    assert store.closed


async def test_context_closes_the_store_after_an_error() -> None:
    stores: list[DiskStore] = []

    async def use() -> None:
        async with DiskBuilder().open() as store:
            stores.append(store)
            raise LookupError("mine")

    with pytest.raises(LookupError, match="mine"):
        await use()
    assert stores[0].closed


@pytest.mark.both_loops
async def test_closing_twice_does_nothing_more() -> None:
    async with DiskBuilder().open() as store:
        await store.aclose()
        await store.aclose()
    await store.aclose()


@pytest.mark.both_loops
async def test_temporary_store_leaves_no_file() -> None:
    with new_descriptors() as opened:
        async with DiskBuilder(cache_size_mb=1).open() as store:
            lease = await store.begin(0)
            await lease.append(LOG_START, [section(MIB)], 1)
            assert len(opened()) == 1, "the log"
            await lease.put_places(places_of(50_000))
            files = [Path(name.removesuffix(" (deleted)")) for name in opened()]
            assert len(files) == 2, "so many places do not fit in the cache"
            assert files[0].parent == files[1].parent
            for file in files:
                assert file.name not in names_in(file.parent), "it has no name"
            await lease.seal()
            assert len(await lease.buckets([cid(7)])) == 1
            assert await lease.visit(lambda log: log.read(MIB, LOG_START)) == section(MIB)
        assert opened() == []
    for file in files:
        assert not [name for name in names_in(file.parent) if name.startswith(file.name)]


@pytest.mark.skipif(os.name != "posix", reason="elsewhere temporary files have names")
@pytest.mark.parametrize("variable", ["SQLITE_TMPDIR", "TMPDIR"])
async def test_log_of_a_temporary_store_is_where_sqlite_would_have_its_files(
    variable: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("SQLITE_TMPDIR", "TMPDIR"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv(variable, str(tmp_path))
    with new_descriptors() as opened:
        async with DiskBuilder().open() as store:
            await load(store)
            assert [Path(name).parent for name in opened()] == [tmp_path]


@pytest.mark.both_loops
async def test_store_with_a_path_leaves_its_file_and_nothing_beside_it(tmp_path: Path) -> None:
    path = tmp_path / "store.db"
    with new_descriptors() as opened:
        async with DiskBuilder().open(path) as store:
            assert names_in(tmp_path) == ["store.db"]
            driver = await load(store)
            assert names_in(tmp_path) == ["store.db", "store.db-log"], "while it holds a repo"
            assert log_of(path).read_bytes().startswith(LOG_MARK)
            assert log_of(path).stat().st_mode & 0o077 == 0, "it is nobody else's"
            assert await rest_of(driver) == EXPECTED
        assert opened() == []
    assert names_in(tmp_path) == ["store.db"]
    with closing(sqlite3.connect(path)) as database:
        assert database.execute("PRAGMA application_id").fetchone() == (0x52535059,)
        assert database.execute("PRAGMA journal_mode").fetchone() == ("delete",)


async def test_own_file_is_opened_again_and_emptied(tmp_path: Path) -> None:
    path = tmp_path / "store.db"
    async with DiskBuilder().open(path) as store:
        lease = await store.begin(0)
        await lease.append(LOG_START, [section(100)], 1)
        await lease.put_places(places_of(20_000))
        await lease.seal()
        log = log_of(path).read_bytes()
    full = path.stat().st_size
    log_of(path).write_bytes(log)  # as if it had crashed
    async with DiskBuilder().open(path) as store:
        assert path.stat().st_size < full / 2
        assert names_in(tmp_path) == ["store.db"]
        assert await rest_of(await load(store)) == EXPECTED


@pytest.mark.parametrize("left", range(len(LOG_MARK) + 1))
async def test_log_that_a_crash_left_half_begun_is_emptied(left: int, tmp_path: Path) -> None:
    log_of(tmp_path / "store.db").write_bytes(LOG_MARK[:left])
    async with DiskBuilder().open(tmp_path / "store.db") as store:
        assert names_in(tmp_path) == ["store.db"]
        assert await rest_of(await load(store)) == EXPECTED


@pytest.mark.parametrize(
    "name",
    ["plain.db", "with space", "a?b#c%41", "größe", ":memory:", "file:x?mode=memory"],
    ids=["plain", "space", "escapes", "umlaut", "memory", "uri"],
)
async def test_any_name_is_a_file(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for _again in range(2):
        async with DiskBuilder().open(name) as store:
            assert await rest_of(await load(store)) == EXPECTED
            assert names_in(tmp_path) == [name, f"{name}-log"]
            await store.reset()
            assert names_in(tmp_path) == [name]


@pytest.mark.parametrize(
    ("uri", "expected"),
    [
        ("file:///srv/a%20b.db", "file:///srv/a%20b.db"),
        ("file:///C:/a%20b.db", "file:///C:/a%20b.db"),
        ("file://server/share/a%20b.db", "file:////server/share/a%20b.db"),
    ],
    ids=["posix", "drive", "share"],
)
def test_sqlite_gets_no_uri_with_an_authority(uri: str, expected: str) -> None:
    """It would refuse it: a store on a share of Windows could be made, but not opened again."""
    assert uri_for_sqlite(uri) == expected


async def test_relative_path_outlives_a_change_of_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path)
    async with DiskBuilder().open("store.db") as store:
        monkeypatch.chdir(tmp_path / "elsewhere")
        assert await rest_of(await load(store)) == EXPECTED
    assert names_in(tmp_path / "elsewhere") == []


async def test_symlink_is_followed(tmp_path: Path) -> None:
    (tmp_path / "link.db").symlink_to("real.db")
    async with DiskBuilder().open(tmp_path / "link.db") as store:
        assert await rest_of(await load(store)) == EXPECTED
        assert names_in(tmp_path) == ["link.db", "real.db", "real.db-log"]
    assert names_in(tmp_path) == ["link.db", "real.db"]
    assert (tmp_path / "real.db").stat().st_size > 0
    assert (tmp_path / "link.db").is_symlink()


# --- Locks --------------------------------------------------------------------------------------


@pytest.mark.both_loops
async def test_second_store_of_a_file_is_locked_out(tmp_path: Path) -> None:
    path = tmp_path / "store.db"
    async with DiskBuilder().open(path) as store:
        driver = await load(store)
        with pytest.raises(StoreLocked) as caught:
            await DiskBuilder().open(path)
        assert caught.value.path == path
        assert isinstance(caught.value.__cause__, sqlite3.OperationalError)
        assert await rest_of(driver) == EXPECTED


# --- The limit ----------------------------------------------------------------------------------


async def test_limit_counts_the_log_and_places() -> None:
    async with DiskBuilder().with_max_stored_mb(1).open() as store:
        lease = await store.begin(0)
        await lease.append(LOG_START, [section(MIB - 1000, 0)], 1)
        await lease.append(LOG_START + MIB - 1000, [section(200, 1)], 1)
        await lease.put_places(places_of(50))
        await lease.put_places(places_of(50))
        assert store.stored == MIB
        with pytest.raises(MaxSizeExceeded, match="1 MiB") as caught:
            await lease.append(LOG_START + MIB - 800, [b"."], 0)
        assert (caught.value.max_stored_mb, caught.value.path) == (1, None)
        with pytest.raises(MaxSizeExceeded, match="1 MiB"):
            await lease.put_places(places_of(1))

        lease = await store.begin(0)
        assert store.stored == 0
        await lease.append(LOG_START, [section(MIB, 3)], 1)
        assert store.stored == MIB
        await lease.seal()
        assert await lease.visit(lambda log: log.read(2 * MIB, LOG_START)) == section(MIB, 3)


@pytest.mark.parametrize("where", ["temporary", "path"])
async def test_repo_over_the_limit_leaves_the_store_usable(where: str, tmp_path: Path) -> None:
    big = build_car({f"app.test.big/{n}": RawRecord(bytes([n]) * 300_000) for n in range(8)})
    path = tmp_path / "store.db" if where == "path" else None
    async with DiskBuilder(max_stored_mb=2).open(path) as store:
        empty = sizes_in(tmp_path)
        for _again in range(2):
            with pytest.raises(MaxSizeExceeded) as caught:
                await load(store, big)
            assert caught.value.path == path
            assert store.stored == 0
            assert sizes_in(tmp_path) == empty, "what was stored is gone"
            driver = await load(store)
            assert 0 < store.stored < MIB
            assert await rest_of(driver) == EXPECTED
            assert await driver.reset_store() is store


def sizes_in(directory: Path) -> dict[str, int]:
    return {file.name: file.stat().st_size for file in directory.iterdir()}


def test_builder_refuses_sizes_that_make_no_sense() -> None:
    for field, value in [("cache_size_mb", 0), ("cache_size_mb", -1), ("max_stored_mb", -1)]:
        with pytest.raises(ValueError, match=field):
            DiskBuilder(**{field: value})


def test_builder_is_changed_by_making_another() -> None:
    builder = DiskBuilder()
    assert builder.with_cache_size_mb(3).with_max_stored_mb(5) == DiskBuilder(3, 5)
    assert builder == DiskBuilder(32, 10 * 1024)


# --- Leases -------------------------------------------------------------------------------------


async def test_what_is_appended_can_be_read_at_its_offset() -> None:
    sections = [section(size, n) for n, size in enumerate([38, 127, 128, 130, 5000, 3 * MIB, 40])]
    async with DiskBuilder().open() as store:
        lease = await store.begin(0)
        at = LOG_START
        for n in range(0, len(sections), 2):
            parts = sections[n : n + 2]
            await lease.append(at, parts, len(parts))
            at += sum(map(len, parts))
            assert store.stored == at - LOG_START
        await lease.append(at, [], 0)
        await lease.seal()
        at = LOG_START
        for each in sections:
            assert await lease.visit(lambda log: log.read(len(each), at)) == each  # noqa: B023 - now
            at += len(each)
        assert await lease.visit(lambda log: log.read(10, at)) == b"", "the end"
        assert (
            await lease.visit(lambda log: log.read(1000, 0)) == LOG_MARK + b"".join(sections)[:984]
        )


async def test_what_is_appended_again_at_an_offset_is_there_once(tmp_path: Path) -> None:
    """As whoever was cancelled does, who may have more to append by then."""
    path = tmp_path / "store.db"
    first, second, third = (section(1000 * (n + 1), n) for n in range(3))
    async with DiskBuilder().open(path) as store:
        lease = await store.begin(0)
        await lease.append(LOG_START, [first], 1)
        at = LOG_START + len(first)
        await lease.append(at, [second], 1)
        await lease.append(at, [second], 1)
        assert store.stored == len(first + second)
        await lease.append(at, [second, third], 2)
        assert store.stored == len(first + second + third)
        await lease.seal()
        assert log_of(path).read_bytes() == LOG_MARK + first + second + third
        await store.aclose()
    with closing(sqlite3.connect(path)) as database:
        extents = database.execute("SELECT offset, length, blocks FROM extents").fetchall()
    assert extents == [(LOG_START, len(first), 1), (at, len(second + third), 2)]


async def test_places_come_back_in_the_order_they_were_put() -> None:
    async with DiskBuilder().open() as store:
        lease = await store.begin(0)
        assert lease.place_bytes == 0
        for at in (1000, 500, 2000):
            await lease.put_places(places_of(300, at))
        assert (lease.place_bytes, store.stored) == (3 * 300 * 8, 3 * 300 * 8)
        await lease.seal()
        sought = [cid(7), cid(299)]
        buckets = await lease.buckets([*sought, cid(300)])
        assert {*buckets} == {*map(bucket_of, sought), bucket_of(cid(300))}, "empty ones as well"
        size = len(section(138))
        assert [*candidates(buckets, cid(7))] == [at + 7 * size for at in (2000, 500, 1000)]
        assert locate(buckets, sought) == [2000 + 7 * size, 2000 + 299 * size]


async def test_lease_to_which_nothing_was_appended_has_no_log() -> None:
    async with DiskBuilder().open() as store:
        lease = await store.begin(0)
        await lease.seal()
        with pytest.raises(StoreCorrupt, match="no log"):
            await lease.visit(lambda log: log.read(10, 0))


async def test_abandoned_lease_leaves_the_store_empty_and_the_next_one_alone(
    tmp_path: Path,
) -> None:
    async with DiskBuilder().open(tmp_path / "store.db") as store:
        lease = await store.begin(0)
        await lease.append(LOG_START, [section(1000)], 1)
        await lease.put_places(places_of(10))
        await lease.abandon()
        assert store.stored == 0
        assert names_in(tmp_path) == ["store.db"]
        other = await load(store)
        await lease.abandon()
        assert await rest_of(other) == EXPECTED


# --- What is read -------------------------------------------------------------------------------


async def test_car_may_hold_blocks_more_than_once() -> None:
    async with DiskBuilder().open() as store:
        assert await rest_of(await load(store, build_car(RECORDS, copies=3))) == EXPECTED


async def test_records_of_all_sizes_come_back() -> None:
    sizes = [0, 1, 4095, 4096, 4097, 65_536, MIB, 2 * MIB - 36]
    records = {
        f"app.test.size/{at:02}": RawRecord(bytes([at]) * size) for at, size in enumerate(sizes)
    }
    async with DiskBuilder().open() as store:
        driver = await load(store, build_car(records))
        assert await rest_of(driver, 3) == [(key, each.data) for key, each in records.items()]


class Result:
    """Something that counts itself."""

    alive = 0
    most = 0

    def __init__(self) -> None:
        Result.alive += 1
        Result.most = max(Result.most, Result.alive)

    def __del__(self) -> None:
        Result.alive -= 1


@cache
def wide_repo() -> tuple[list[str], bytes]:
    """Few nodes, each with many keys, so that what is at hand are mostly records."""
    low = [key for key in (f"a.b.c/{n:06}" for n in range(9000)) if key_height(key) == 0]
    high = [key for key in (f"a.b.c/{n:06}+" for n in range(9000)) if key_height(key) == 1]
    keys = sorted([*low, *high[::1000]])
    return keys, build_car({key: RawRecord(key.encode()) for key in keys})


@pytest.mark.parametrize(
    ("meanwhile", "stored"), [("nothing", 0), ("nothing", 3000), ("get", 0), ("prove", 3000)]
)
async def test_walk_lets_go_of_what_it_is_done_with(meanwhile: str, stored: int) -> None:
    keys, car = wide_repo()
    results = Processor(lambda _: Result(), dumps=lambda _: bytes(stored), loads=lambda _: Result())
    builder = DriverBuilder(mem_limit_mb=0, block_processor=results)
    async with DiskBuilder().open() as store:
        match await builder.load_car(car):
            case Driver.Disk(paused):
                _, driver = await paused.finish_loading(store)
            case Driver.Memory():
                pytest.fail("a limit of 0 sends every repo to disk")
        Result.most = 0
        walked: list[str] = []
        while chunk := await driver.next_chunk(500):
            walked += [key for key, _ in chunk]
            del chunk
            if meanwhile == "get":
                await driver.get(keys[-1])
            elif meanwhile == "prove":
                await driver.prove(keys[-1])
        assert walked == keys
        assert Result.most < 6000 < len(keys)


async def test_large_records_on_disk_take_little_memory() -> None:
    records = {f"app.test.big/{n:02}": RawRecord(bytes([n]) * MIB) for n in range(24)}
    car = build_car(records)
    async with DiskBuilder().open() as store:
        with traced() as peak:
            match await TO_DISK.load_car(pieces_of(car, 65_536)):
                case Driver.Disk(paused):
                    _, driver = await paused.finish_loading(store)
                case Driver.Memory():
                    pytest.fail("a limit of 0 sends every repo to disk")
            keys: list[str] = []
            while part := await driver.next_chunk(1):
                keys += [key for key, value in part if len(value) == MIB]
            most = peak()
    assert keys == list(records)
    assert most < 12 * MIB


# --- From repo to repo --------------------------------------------------------------------------


async def test_reset_store_gives_the_space_back(tmp_path: Path) -> None:
    path = tmp_path / "store.db"
    async with DiskBuilder().open(path) as store:
        empty = path.stat().st_size
        driver = await load(store)
        assert log_of(path).stat().st_size == LOG_START + store.stored
        await driver.next_chunk(10)
        assert await driver.reset_store() is store
        assert (sizes_in(tmp_path), store.stored) == ({"store.db": empty}, 0)
        assert await rest_of(await load(store)) == EXPECTED
        await store.reset()
        assert sizes_in(tmp_path) == {"store.db": empty}
        await (await store.begin(0)).put_places(places_of(20_000))
        await store.reset()
        assert sizes_in(tmp_path) == {"store.db": empty}


@pytest.mark.parametrize("how", ["reset_store", "reset", "nothing"])
async def test_nothing_of_the_last_repo_is_left(how: str) -> None:
    repo = build_repo({"app.test.a/1": {"a": 1}, "app.test.a/2": {"a": 2}})
    missing = repo.records["app.test.a/2"]
    partial = write_car(
        [repo.commit_cid], [(cid, data) for cid, data in repo.blocks.items() if cid != missing]
    )
    async with DiskBuilder().open() as store:
        driver = await load(store, write_car([repo.commit_cid], repo.blocks.items()))
        assert len(await rest_of(driver)) == 2
        if how == "reset_store":
            await driver.reset_store()
        elif how == "reset":
            await store.reset()
        driver = await load(store, partial)
        assert await driver.next_chunk() == [("app.test.a/1", encode({"a": 1}))]
        with pytest.raises(MissingBlock):
            await driver.next_chunk()


@pytest.mark.parametrize("how", ["reset_store", "reset", "aclose", "another"])
async def test_driver_raises_store_closed_after_its_store_moved_on(how: str) -> None:
    async with DiskBuilder().open() as store:
        driver = await load(store, MANY_CAR)
        assert await driver.next_chunk(1) == [("app.test.many/0000", encode({"n": 0}))]
        other = None
        match how:
            case "reset_store":
                await driver.reset_store()
            case "reset":
                await store.reset()
            case "aclose":
                await store.aclose()
            case _:
                other = await load(store)
        with pytest.raises(StoreClosed) as caught:
            await rest_of(driver)
        for _again in range(2):
            with pytest.raises(StoreClosed) as again:
                await driver.next_chunk()
            assert again.value is caught.value
        if other is not None:
            assert await rest_of(other) == EXPECTED


@pytest.mark.parametrize(
    ("leave", "reason"), [("aclose", "was closed"), ("reset_store", "returned it")]
)
async def test_every_call_to_a_driver_without_its_store_says_why(
    leave: str, reason: str, tmp_path: Path
) -> None:
    path = tmp_path / "store.db"
    async with DiskBuilder().open(path) as store:
        driver = await load(store)
        await getattr(driver, leave)()
        calls: list[Callable[[], Awaitable[object]]] = [
            driver.next_chunk,
            driver.next_keys,
            driver.collections,
            driver.prove_range,
            lambda: driver.get(EXPECTED[0][0]),
            lambda: driver.seek(""),
            driver.reset_store,
        ]
        for call in calls:
            with pytest.raises(StoreClosed, match=reason) as caught:
                await call()
            assert caught.value.path == path


async def test_second_reset_store_raises_store_closed() -> None:
    async with DiskBuilder().open() as store:
        driver = await load(store)
        await driver.reset_store()
        with pytest.raises(StoreClosed):
            await driver.reset_store()
        assert await rest_of(await load(store)) == EXPECTED


async def test_every_call_to_a_closed_store_raises_store_closed(tmp_path: Path) -> None:
    path = tmp_path / "store.db"
    async with DiskBuilder().open(path) as store:
        driver = await load(store)
        lease = await store.begin(0)
    calls: list[Callable[[], Awaitable[object]]] = [
        store.reset,
        lambda: store.begin(0),
        lambda: lease.append(LOG_START, [section(50)], 1),
        lambda: lease.put_places(places_of(1)),
        lambda: lease.buckets([cid(1)]),
        lambda: lease.visit(lambda log: log.read(1, 0)),
        lease.seal,
        lambda: load(store),
        driver.reset_store,
        lambda: rest_of(driver),
    ]
    for call in calls:
        with pytest.raises(StoreClosed) as caught:
            await call()
        assert caught.value.path == path


async def test_load_whose_store_moved_on_does_not_disturb_the_next() -> None:
    """The first load fails once it goes on, and must not empty what the second has put there."""
    async with DiskBuilder().open() as store:
        second: list[DiskDriver[bytes]] = []

        async def interrupted() -> AsyncIterator[bytes]:
            half = len(CAR) // 2
            yield CAR[:half]
            await store.reset()
            second.append(await load(store))
            yield CAR[half:]

        match await TO_DISK.load_car(interrupted()):
            case Driver.Disk(paused):
                with pytest.raises(StoreClosed):
                    await paused.finish_loading(store)
            case Driver.Memory():
                pytest.fail("a limit of 0 sends every repo to disk")
        assert await rest_of(second[0]) == EXPECTED
