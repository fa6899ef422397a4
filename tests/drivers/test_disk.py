"""The disk store, as its callers and its drivers see it."""

from __future__ import annotations

import gc
import sqlite3
import sys
import threading
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import closing
from functools import cache
from pathlib import Path

import anyio
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
    becomes,
    lasting_threads,
    load,
    locked_for_others,
    names_in,
    rest_of,
)


def block(size: int, name: int = 0) -> tuple[bytes, bytes]:
    """A block of a 36-byte key and as many bytes as make `size` together."""
    return b"key-%032d" % name, bytes([name % 251]) * (size - 36)


# --- Opening and closing ------------------------------------------------------------------------


async def test_open_can_be_awaited(tmp_path: Path) -> None:
    store = await DiskBuilder().open(tmp_path / "store.db")
    try:
        assert await rest_of(await load(store)) == EXPECTED
        assert (store.path, store.closed) == (tmp_path / "store.db", False)
    finally:
        await store.aclose()
    assert store.closed


async def test_open_can_be_a_context() -> None:
    async with DiskBuilder().open() as store:
        assert await rest_of(await load(store)) == EXPECTED
        assert (store.path, store.closed) == (None, False)
    assert store.closed


async def test_a_store_that_was_awaited_can_be_a_context() -> None:
    async with await DiskBuilder().open() as store:
        await store.reset()
    assert store.closed


async def test_the_context_closes_after_an_error() -> None:
    stores: list[DiskStore] = []

    async def use() -> None:
        async with DiskBuilder().open() as store:
            stores.append(store)
            raise LookupError("mine")

    with pytest.raises(LookupError, match="mine"):
        await use()
    assert stores[0].closed


async def test_closing_twice_does_nothing_more() -> None:
    async with DiskBuilder().open() as store:
        await store.aclose()
        await store.aclose()
    await store.aclose()


async def test_a_temporary_store_leaves_no_file() -> None:
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


async def test_a_path_keeps_its_file_and_nothing_beside_it(tmp_path: Path) -> None:
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


async def test_an_own_file_is_opened_again_and_emptied(tmp_path: Path) -> None:
    path = tmp_path / "store.db"
    async with DiskBuilder().open(path) as store:
        await load(store)
    full = path.stat().st_size
    async with DiskBuilder().open(path) as store:
        assert path.stat().st_size < full
        assert await rest_of(await load(store)) == EXPECTED


@pytest.mark.parametrize(
    "name", ["plain.db", "with space", "a?b#c%41", "größe", ":memory:", "file:x?mode=memory"]
)
async def test_any_name_is_a_file(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for _again in range(2):
        async with DiskBuilder().open(name) as store:
            assert await rest_of(await load(store)) == EXPECTED
            assert names_in(tmp_path) == [name]


async def test_a_relative_path_outlives_a_change_of_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path)
    async with DiskBuilder().open("store.db") as store:
        monkeypatch.chdir(tmp_path / "elsewhere")
        assert await rest_of(await load(store)) == EXPECTED
    assert names_in(tmp_path / "elsewhere") == []


async def test_a_link_is_followed(tmp_path: Path) -> None:
    (tmp_path / "link.db").symlink_to("real.db")
    async with DiskBuilder().open(tmp_path / "link.db") as store:
        assert await rest_of(await load(store)) == EXPECTED
    assert (tmp_path / "real.db").stat().st_size > 0
    assert (tmp_path / "link.db").is_symlink()


# --- Locks --------------------------------------------------------------------------------------


async def test_a_second_store_does_not_break_the_lock_of_the_first(tmp_path: Path) -> None:
    path = tmp_path / "store.db"
    async with DiskBuilder().open(path) as store:
        driver = await load(store)
        with pytest.raises(StoreLocked) as caught:
            await DiskBuilder().open(path)
        assert caught.value.path == path
        assert isinstance(caught.value.__cause__, sqlite3.OperationalError)
        assert await anyio.to_thread.run_sync(locked_for_others, path)
        assert await rest_of(driver) == EXPECTED
    assert not await anyio.to_thread.run_sync(locked_for_others, path)


# --- The limit ----------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["raw", "processed"])
async def test_the_limit_counts_keys_and_values(kind: str) -> None:
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
async def test_a_repo_over_the_limit_leaves_the_store_usable(where: str, tmp_path: Path) -> None:
    big = build_car({f"app.test.big/{n}": RawRecord(bytes([n]) * 300_000) for n in range(8)})
    path = tmp_path / "store.db" if where == "path" else None
    async with DiskBuilder(max_stored_mb=2).open(path) as store:
        for _again in range(2):
            with pytest.raises(MaxSizeExceeded) as caught:
                await load(store, big)
            assert caught.value.path == path
            assert store.stored == 0
            driver = await load(store)
            assert 0 < store.stored < MIB
            assert await rest_of(driver) == EXPECTED
            assert await driver.reset_store() is store


@pytest.mark.parametrize(
    ("field", "value"), [("cache_size_mb", 0), ("cache_size_mb", -1), ("max_stored_mb", -1)]
)
def test_a_builder_refuses_what_makes_no_sense(field: str, value: int) -> None:
    with pytest.raises(ValueError, match=field):
        DiskBuilder(**{field: value})


def test_a_builder_gives_new_ones() -> None:
    builder = DiskBuilder()
    assert builder.with_cache_size_mb(3).with_max_stored_mb(5) == DiskBuilder(3, 5)
    assert builder == DiskBuilder(32, 10 * 1024)


# --- Filling and fetching -----------------------------------------------------------------------


async def test_what_is_put_is_fetched() -> None:
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


@pytest.mark.parametrize("copies", [2, 3])
async def test_a_car_may_hold_blocks_more_than_once(copies: int) -> None:
    async with DiskBuilder().open() as store:
        assert await rest_of(await load(store, build_car(RECORDS, copies=copies))) == EXPECTED


async def test_of_blocks_with_one_key_the_latest_counts() -> None:
    key = b"key"
    async with DiskBuilder().open() as store:
        lease = await store.begin(0)
        for value in (b"first", b"second", b"third"):
            await store.put(lease, [(key, value)], [(key, value.upper())])
        await store.seal(lease)
        assert await store.fetch(lease, [key]) == Fetched({key: b"third"}, {key: b"THIRD"}, [])


@pytest.mark.parametrize("twice", [False, True])
@pytest.mark.parametrize("size", [36, 20, 5])
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


async def test_a_block_that_ends_like_another_is_not_taken_for_it() -> None:
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
    low = [key for key in (f"a.b.c/{n:06}" for n in range(16_000)) if key_height(key) == 0]
    high = [key for key in (f"a.b.c/{n:06}+" for n in range(16_000)) if key_height(key) == 1]
    keys = sorted([*low, *high[::1000]])
    return keys, build_car({key: RawRecord(key.encode()) for key in keys})


@pytest.mark.parametrize("stored", [0, 3000])
@pytest.mark.parametrize("meanwhile", ["nothing", "get", "prove"])
async def test_a_walk_lets_go_of_what_it_is_done_with(meanwhile: str, stored: int) -> None:
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


async def test_large_records_take_little_memory() -> None:
    records = {f"app.test.big/{n:02}": RawRecord(bytes([n]) * MIB) for n in range(40)}
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
async def test_a_driver_whose_store_moved_on_says_so(how: str) -> None:
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


async def test_a_second_reset_store_says_so() -> None:
    async with DiskBuilder().open() as store:
        driver = await load(store)
        await driver.reset_store()
        with pytest.raises(StoreClosed):
            await driver.reset_store()
        assert await rest_of(await load(store)) == EXPECTED


async def test_a_closed_store_says_so(tmp_path: Path) -> None:
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


async def test_a_load_whose_store_moved_on_does_not_disturb_the_next() -> None:
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


# --- Several tasks, threads and stores ----------------------------------------------------------


async def outcomes_of(*calls: Callable[[], Awaitable[object]]) -> list[object]:
    """What tasks that use one thing at the same time come to, in order of their ends."""
    outcomes: list[object] = []

    async def attempt(call: Callable[[], Awaitable[object]]) -> None:
        try:
            outcomes.append(await call())
        except anyio.BusyResourceError as error:
            outcomes.append(error)

    async with anyio.create_task_group() as tasks:
        for call in calls:
            tasks.start_soon(attempt, call)
    return outcomes


async def test_two_tasks_in_one_store_are_told() -> None:
    async with DiskBuilder().open() as store:
        outcomes = await outcomes_of(store.reset, store.reset)
        assert [type(each) for each in outcomes] == [anyio.BusyResourceError, DiskStore]
        assert "already storing or fetching blocks" in str(outcomes[0])
        assert await rest_of(await load(store)) == EXPECTED


async def test_closing_beneath_another_task_is_told() -> None:
    async with DiskBuilder().open() as store:
        outcomes = await outcomes_of(store.reset, store.aclose)
        assert type(outcomes[0]) is anyio.BusyResourceError
        assert store.closed == (outcomes[1] is None)
    assert store.closed


async def test_two_tasks_in_one_driver_are_told() -> None:
    async with DiskBuilder().open() as store:
        driver = await load(store)
        outcomes = await outcomes_of(*[lambda: driver.next_chunk(100)] * 2)
        assert type(outcomes[0]) is anyio.BusyResourceError
        assert "already walking this repo" in str(outcomes[0])
        assert outcomes[1] == EXPECTED[:100]
        assert await rest_of(driver) == EXPECTED[100:]


@pytest.mark.parametrize("call", ["next_chunk", "next_outputs", "to_channel", "reset_store"])
async def test_a_driver_with_an_open_channel_is_in_use(call: str) -> None:
    async def use() -> None:
        if call == "to_channel":
            async with driver.to_channel(10):
                pytest.fail("one channel at a time")
        await getattr(driver, call)()

    async with DiskBuilder().open() as store:
        driver = await load(store)
        records: list[tuple[str, bytes]] = []
        async with driver.to_channel(50) as chunks:
            async for chunk in chunks:
                records += chunk
                with pytest.raises(anyio.BusyResourceError, match="walking this repo"):
                    await use()
        assert records == EXPECTED
        assert await driver.next_chunk() is None


def test_a_store_works_in_any_thread(anyio_backend: str) -> None:
    found: list[list[tuple[str, bytes]]] = []

    async def work() -> None:
        async with DiskBuilder().open() as store:
            found.append(await rest_of(await load(store)))

    thread = threading.Thread(target=anyio.run, args=[work], kwargs={"backend": anyio_backend})
    thread.start()
    thread.join(20)
    assert found == [EXPECTED]


async def test_many_stores_at_once(tmp_path: Path) -> None:
    """More than there are worker threads, half of them with a path."""
    found: list[list[tuple[str, bytes]]] = []

    async def work(path: Path | None) -> None:
        async with DiskBuilder().open(path) as store:
            driver = await load(store)
            found.append([pair async for pair in driver])

    async with anyio.create_task_group() as tasks:
        for n in range(30):
            tasks.start_soon(work, tmp_path / f"{n}.db")
            tasks.start_soon(work, None)
    assert found == [EXPECTED] * 60


async def test_one_of_many_stores_can_be_cancelled_wherever_it_waits() -> None:
    """They take turns, so that some wait for others."""
    found: list[list[tuple[str, bytes]]] = []
    cancelled = 0

    async def work(seconds: float) -> None:
        nonlocal cancelled
        async with DiskBuilder().open() as store:
            with anyio.move_on_after(seconds) as scope:
                for _ in range(3):
                    await rest_of(await load(store, MANY_CAR), 100)
            cancelled += scope.cancelled_caught
            found.append(await rest_of(await load(store)))

    async with anyio.create_task_group() as tasks:
        for n in range(20):
            tasks.start_soon(work, 0.02 * n)
    assert found == [EXPECTED] * 20
    assert cancelled > 0


# --- Forgotten ----------------------------------------------------------------------------------


@pytest.mark.parametrize("held", ["plainly", "in a cycle", "by a driver"])
async def test_a_forgotten_store_warns_and_is_closed(held: str, tmp_path: Path) -> None:
    path = tmp_path / "store.db"
    before = lasting_threads()

    async def forget() -> None:
        store = await DiskBuilder().open(path)
        keeper: list[object] = [store]
        if held == "in a cycle":
            keeper.append(keeper)
        elif held == "by a driver":
            keeper.append(await load(store))

    with new_descriptors() as opened:
        with pytest.warns(ResourceWarning, match=r"store\.db.* was not closed"):  # noqa: PT031 - when it is collected is not known
            await forget()
            gc.collect()
        assert await becomes(lambda: not opened())
    assert await becomes(lambda: lasting_threads() <= before)
    async with DiskBuilder().open(path) as store:
        assert await rest_of(await load(store)) == EXPECTED


async def test_a_forgotten_store_is_closed_where_warnings_are_errors(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The filter of this suite turns the warning into an error, inside a finalizer."""
    heard: list[BaseException | None] = []

    def hear(event: sys.UnraisableHookArgs) -> None:
        heard.append(event.exc_value)

    monkeypatch.setattr(sys, "unraisablehook", hear)
    before = lasting_threads()
    store = await DiskBuilder().open()
    del store
    gc.collect()
    assert await becomes(lambda: lasting_threads() <= before)
    assert [type(error) for error in heard] == [ResourceWarning]
