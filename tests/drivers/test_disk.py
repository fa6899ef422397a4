"""The disk store, as its callers and its drivers see it."""

from __future__ import annotations

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
    StoreLocked,
)
from repo_stream.fetched import Fetched
from repo_stream.testing import RawRecord, build_car, build_repo, encode, key_height, write_car
from support import new_descriptors, pieces_of, traced
from support.stores import (
    CAR,
    EXPECTED,
    MANY_CAR,
    MIB,
    RECORDS,
    TO_DISK,
    load,
    names_in,
    rest_of,
)


def block(size: int, name: int = 0) -> tuple[bytes, bytes]:
    """A block of a 36-byte key and as many bytes as make `size` together."""
    return b"key-%032d" % name, bytes([name % 251]) * (size - 36)


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
            for at in range(4):
                await store.put(lease, [block(MIB, at)], [])
            while_open = opened()
            assert len(while_open) == 1, "4 MiB do not fit in the cache"
            file = Path(while_open[0].removesuffix(" (deleted)"))
            assert file.name not in names_in(file.parent), "it has no name"
            await store.seal(lease)
            assert len((await store.fetch(lease, [block(MIB)[0]])).raw) == 1
        assert opened() == []
    assert not [name for name in names_in(file.parent) if name.startswith(file.name)]


@pytest.mark.both_loops
async def test_store_with_a_path_leaves_its_file_and_nothing_beside_it(tmp_path: Path) -> None:
    path = tmp_path / "store.db"
    with new_descriptors() as opened:
        async with DiskBuilder().open(path) as store:
            driver = await load(store)
            assert names_in(tmp_path) == ["store.db"]
            assert await rest_of(driver) == EXPECTED
        assert opened() == []
    assert names_in(tmp_path) == ["store.db"]
    with closing(sqlite3.connect(path)) as database:
        assert database.execute("PRAGMA application_id").fetchone() == (0x52535059,)
        assert database.execute("PRAGMA journal_mode").fetchone() == ("delete",)


async def test_own_file_is_opened_again_and_emptied(tmp_path: Path) -> None:
    path = tmp_path / "store.db"
    async with DiskBuilder().open(path) as store:
        await load(store)
    full = path.stat().st_size
    async with DiskBuilder().open(path) as store:
        assert path.stat().st_size < full
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
            assert names_in(tmp_path) == [name]


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


@pytest.mark.parametrize("kind", ["raw", "processed"])
async def test_limit_counts_keys_and_values(kind: str) -> None:
    async def put(lease: int, size: int, name: int) -> None:
        rows = [block(size, name)]
        await (store.put(lease, rows, []) if kind == "raw" else store.put(lease, [], rows))

    async with DiskBuilder().with_max_stored_mb(1).open() as store:
        lease = await store.begin(0)
        await put(lease, MIB - 100, 0)
        await put(lease, 100, 1)
        assert store.stored == MIB
        with pytest.raises(MaxSizeExceeded, match="1 MiB") as caught:
            await put(lease, 37, 2)
        assert (caught.value.max_stored_mb, caught.value.path) == (1, None)

        lease = await store.begin(0)
        assert store.stored == 0
        await put(lease, MIB, 3)
        await store.seal(lease)
        assert [*(await store.fetch(lease, [block(MIB, 3)[0]])).all] == [block(MIB, 3)[0]]


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


def sizes_in(directory: Path) -> list[int]:
    return [file.stat().st_size for file in directory.iterdir()]


def test_builder_refuses_sizes_that_make_no_sense() -> None:
    for field, value in [("cache_size_mb", 0), ("cache_size_mb", -1), ("max_stored_mb", -1)]:
        with pytest.raises(ValueError, match=field):
            DiskBuilder(**{field: value})


def test_builder_is_changed_by_making_another() -> None:
    builder = DiskBuilder()
    assert builder.with_cache_size_mb(3).with_max_stored_mb(5) == DiskBuilder(3, 5)
    assert builder == DiskBuilder(32, 10 * 1024)


# --- Filling and fetching -----------------------------------------------------------------------


async def test_blocks_that_are_put_can_be_fetched() -> None:
    raw = [block(40 + n, n) for n in range(613)]
    processed = [block(60 + n, 1000 + n) for n in range(251)]
    async with DiskBuilder().open() as store:
        lease = await store.begin(0)
        await store.put(lease, raw, processed)
        await store.put(lease, [], [])
        await store.seal(lease)
        wanted = [key for key, _ in raw + processed] + [b"unknown"]
        some, others = (
            await store.fetch(lease, wanted[:500]),
            await store.fetch(lease, wanted[500:]),
        )
        assert {*some.all, *others.all} == {*wanted[:-1]}
        sizes = sum(some.sizes) + sum(others.sizes)
        assert sizes == sum([len(data) for _, data in raw + processed])
        assert some.raw | others.raw == dict(raw)
        assert some.processed | others.processed == dict(processed)
        assert await store.fetch(lease, [b"unknown"]) == Fetched({}, {}, [])


async def test_car_may_hold_blocks_more_than_once() -> None:
    async with DiskBuilder().open() as store:
        assert await rest_of(await load(store, build_car(RECORDS, copies=3))) == EXPECTED


async def test_of_blocks_with_one_cid_the_latest_counts() -> None:
    key = b"key"
    async with DiskBuilder().open() as store:
        lease = await store.begin(0)
        for value in (b"first", b"second", b"third"):
            await store.put(lease, [(key, value)], [(key, value.upper())])
        await store.seal(lease)
        assert await store.fetch(lease, [key]) == Fetched({key: b"third"}, {key: b"THIRD"}, [])


@pytest.mark.parametrize(
    ("size", "twice"),
    [(36, False), (36, True), (20, False), (5, True)],
    ids=["ordinary", "ordinary-twice", "short", "very-short-twice"],
)
async def test_blocks_whose_cids_end_alike_are_told_apart(size: int, *, twice: bool) -> None:
    # Whoever makes a file can make such CIDs, and a store does not check them.
    rows = [(bytes([n]).ljust(size, b"."), bytes([n]) * n * 100) for n in range(50)]
    async with DiskBuilder().open() as store:
        lease = await store.begin(0)
        if twice:
            await store.put(lease, [(key, b"earlier") for key, _ in rows], [])
        await store.put(lease, rows[:40], [(key, value[:9]) for key, value in rows[30:]])
        await store.seal(lease)
        raw = dict(rows[:40])
        if twice:
            raw |= dict.fromkeys([key for key, _ in rows[40:]], b"earlier")
        expected = Fetched(raw, {key: value[:9] for key, value in rows[30:]}, [])
        assert await store.fetch(lease, [key for key, _ in rows]) == expected
        assert await store.fetch(lease, [rows[7][0]]) == Fetched(dict([rows[7]]), {}, [])


async def test_absent_cid_that_ends_like_another_is_not_found() -> None:
    stored, sought = (bytes([n]).ljust(36, b".") for n in (1, 2))
    async with DiskBuilder().open() as store:
        lease = await store.begin(0)
        await store.put(lease, [(stored, b"content")], [])
        await store.seal(lease)
        numbers: list[int] = []
        assert await store.fetch(lease, [sought], numbers) == Fetched({}, {}, [])
        assert numbers == []
        assert await store.fetch(lease, [stored]) == Fetched({stored: b"content"}, {}, [])


async def test_large_blocks_come_a_few_at_a_time() -> None:
    rows = [block(MIB, n) for n in range(12)]
    async with DiskBuilder().open() as store:
        lease = await store.begin(0)
        for row in rows:
            await store.put(lease, [row], [block(50, 100)])
        await store.seal(lease)
        left = [key for key, _ in rows]
        asked = 0
        while left:
            answer = await store.fetch(lease, left)
            assert sorted(answer.all) == sorted(left), "it says of each that it is there"
            found = answer.raw
            assert left[0] in found, "the first one asked for has to come"
            assert sum(map(len, found.values())) <= 4 * MIB
            assert all(dict(rows)[key] == value for key, value in found.items())
            left = [key for key in left if key not in found]
            asked += 1
        assert asked > 3


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
        assert path.stat().st_size > max(2 * empty, store.stored)
        await driver.next_chunk(10)
        assert await driver.reset_store() is store
        assert (path.stat().st_size, store.stored) == (empty, 0)
        assert await rest_of(await load(store)) == EXPECTED
        await store.reset()
        assert path.stat().st_size == empty


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
    key, value = block(50)
    calls: list[Callable[[], Awaitable[object]]] = [
        store.reset,
        lambda: store.begin(0),
        lambda: store.put(lease, [(key, value)], []),
        lambda: store.seal(lease),
        lambda: store.fetch(lease, [key]),
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
