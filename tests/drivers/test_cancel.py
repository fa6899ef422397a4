"""Cancellation at every await there is, of both kinds, and other ways to leave in the middle.

`every_stop` runs an operation again and again, and cancels it each time one suspension later than
the time before, until the operation comes to its end before that. Cancelled means by an anyio
scope, under asyncio and trio, or by `Task.cancel`, once or again and again, which anyio's shields
do not hold off.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import (
    AsyncIterator,
)
from pathlib import Path

import anyio
import anyio.lowlevel
import pytest

from repo_stream import (
    DiskBuilder,
    DiskDriver,
    DiskStore,
    Driver,
    DriverBuilder,
    MissingBlock,
    NeedDisk,
    RepoDriver,
    StoreClosed,
)
from repo_stream.testing import build_car, build_repo, encode, write_car
from support.cancelling import (
    Pieces,
    Stop,
    every_stop,
    in_every_way,
    leaving_nothing,
    rest_of,
    under_asyncio,
    usable,
)
from support.stores import CAR, EXPECTED, MANY, MANY_CAR, TO_DISK, load

IN_MEMORY = DriverBuilder(mem_limit_mb=100)


# --- Stopping at a suspension -------------------------------------------------------------------


async def paused_at(source: AsyncIterator[bytes] | Path | bytes) -> NeedDisk[bytes]:
    match await TO_DISK.load_car(source):
        case Driver.Disk(paused):
            return paused
        case Driver.Memory():
            pytest.fail("a limit of 0 sends every repo to disk")


async def in_memory(car: bytes = CAR) -> RepoDriver[bytes]:
    match await IN_MEMORY.load_car(car):
        case Driver.Memory(_, driver):
            return driver
        case Driver.Disk():
            pytest.fail("it is small")


# --- Opening, resetting, closing ----------------------------------------------------------------


@in_every_way
@pytest.mark.parametrize("where", ["path", "temporary"])
async def test_open(how: str, where: str, tmp_path: Path) -> None:
    path = tmp_path / "store.db" if where == "path" else None

    async def opened() -> DiskStore:
        return await DiskBuilder().open(path)

    async with leaving_nothing():
        for stop in every_stop(how, at_least=3):
            for store in await stop.run(opened):
                await store.aclose()
            async with DiskBuilder().open(path) as store:
                assert not store.closed, "what was cancelled must not hold the lock"
    async with DiskBuilder().open(path) as store:
        assert await usable(store)


@in_every_way
async def test_open_as_a_context(how: str, tmp_path: Path) -> None:
    """All the way through: opening, using, closing."""
    path = tmp_path / "store.db"

    async def use() -> None:
        async with DiskBuilder().open(path) as store:
            assert await usable(store)

    async with leaving_nothing():
        for stop in every_stop(how, at_least=10):
            await stop.run(use)
            async with DiskBuilder().open(path):
                pass
    async with DiskBuilder().open(path) as store:
        assert await usable(store)


@in_every_way
@pytest.mark.parametrize("where", ["path", "temporary"])
async def test_aclose(how: str, where: str, tmp_path: Path) -> None:
    async with leaving_nothing():
        for stop in every_stop(how, at_least=1):
            store = await DiskBuilder().open(tmp_path / "store.db" if where == "path" else None)
            await store.begin(0)
            await stop.run(store.aclose)
            assert store.closed
            with pytest.raises(StoreClosed):
                await store.reset()


@in_every_way
async def test_reset(how: str) -> None:
    async with leaving_nothing(), DiskBuilder().open() as store:
        for stop in every_stop(how, at_least=1):
            driver = await load(store)
            await driver.next_chunk(10)
            await stop.run(store.reset)
            assert await usable(store)


@in_every_way
async def test_reset_store(how: str) -> None:
    async with leaving_nothing(), DiskBuilder().open() as store:
        for stop in every_stop(how, at_least=1):
            driver = await load(store)
            if not await stop.run(driver.reset_store):
                assert await driver.reset_store() is store
            assert store.stored == 0
            assert await usable(store)


async def test_reset_store_in_a_scope_that_is_over() -> None:
    """Nothing has been done then, and the driver goes on."""
    async with DiskBuilder().open() as store:
        driver = await load(store)
        first = await driver.next_chunk(10)
        with anyio.CancelScope() as scope:
            scope.cancel()
            await driver.reset_store()
        assert scope.cancelled_caught
        assert await driver.reset_store() is store
        assert first == EXPECTED[:10]


# --- Loading ------------------------------------------------------------------------------------


@in_every_way
async def test_load_car(how: str) -> None:
    async with leaving_nothing():
        for stop in every_stop(how, at_least=4):
            source = Pieces()
            for outcome in await stop.run(lambda: IN_MEMORY.load_car(source)):  # noqa: B023 - run at once
                assert isinstance(outcome, Driver.Memory)
                assert await rest_of(outcome.driver) == EXPECTED
            assert not source.closed


@in_every_way
async def test_load_car_from_a_path(how: str, tmp_path: Path) -> None:
    path = tmp_path / "repo.car"
    path.write_bytes(CAR)
    async with leaving_nothing():
        for stop in every_stop(how, at_least=2):
            for outcome in await stop.run(lambda: TO_DISK.load_car(path)):
                assert isinstance(outcome, Driver.Disk)
                await outcome.paused.aclose()


@in_every_way
@pytest.mark.parametrize("where", ["path", "temporary"])
async def test_finish_loading(how: str, where: str, tmp_path: Path) -> None:
    async with (
        leaving_nothing(),
        DiskBuilder().open(tmp_path / "store.db" if where == "path" else None) as store,
    ):
        for stop in every_stop(how, at_least=8):
            source = Pieces()
            paused = await paused_at(source)
            outcomes = await stop.run(lambda: paused.finish_loading(store))  # noqa: B023 - run at once
            for _, driver in outcomes:
                assert await rest_of(driver) == EXPECTED
            if not outcomes:
                assert store.stored == 0
            assert not source.closed
            with pytest.raises(RuntimeError, match="already"):
                await paused.finish_loading(store)
            assert await usable(store)


@in_every_way
async def test_finish_loading_from_a_path(how: str, tmp_path: Path) -> None:
    path = tmp_path / "repo.car"
    path.write_bytes(MANY_CAR)  # read in several pieces
    async with DiskBuilder().open() as store, leaving_nothing():
        for stop in every_stop(how, at_least=5):
            paused = await paused_at(path)
            for _, driver in await stop.run(lambda: paused.finish_loading(store)):  # noqa: B023 - run at once
                assert [key for key, _ in await rest_of(driver)] == list(MANY)
            assert await usable(store)


# --- Walking ------------------------------------------------------------------------------------


@in_every_way
@pytest.mark.parametrize("chunk", [7, 120, 1000])
async def test_next_chunk(how: str, chunk: int) -> None:
    async with leaving_nothing(), DiskBuilder().open() as store:
        for stop in every_stop(how, at_least=2):
            driver = await load(store)
            first = await stop.run(lambda: driver.next_chunk(chunk))  # noqa: B023 - run at once
            records = first[0] if first else []
            assert records is not None
            assert records + await rest_of(driver) == EXPECTED


@in_every_way
async def test_every_chunk(how: str) -> None:
    """A whole walk, with every other call cancelled where it first suspends."""
    async with leaving_nothing(), DiskBuilder().open() as store:
        driver = await load(store)
        records: list[tuple[str, bytes]] = []
        part: list[tuple[str, bytes]] | None = []
        while part is not None:
            for part in await Stop(1, how).run(lambda: driver.next_chunk(3)):
                records += part or []
            part = await driver.next_chunk(2)
            records += part or []
        assert records == EXPECTED


@in_every_way
async def test_iteration(how: str) -> None:
    async with leaving_nothing(), DiskBuilder().open() as store:
        for stop in every_stop(how, at_least=2):
            driver = await load(store)
            records: list[tuple[str, bytes]] = []

            async def iterate() -> None:
                async for record in driver:  # noqa: B023 - run at once
                    records.append(record)  # noqa: B023 - run at once, and in part
                    if len(records) % 50 == 0:  # noqa: B023 - run at once
                        await anyio.lowlevel.checkpoint()

            await stop.run(iterate)
            assert records + await rest_of(driver) == EXPECTED


@in_every_way
async def test_a_walk_in_memory(how: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("repo_stream.load._TURN", -1.0)  # so that it pauses wherever it may
    many = {f"app.test.many/{n:04}": {"n": n} for n in range(2000)}
    car = build_car(many)
    expected = [(key, encode(value)) for key, value in many.items()]
    for stop in every_stop(how, at_least=3):
        driver = await in_memory(car)
        first = await stop.run(lambda: driver.next_chunk(1900))  # noqa: B023 - run at once
        records = first[0] if first else []
        assert records is not None
        assert records + await rest_of(driver) == expected


@in_every_way
@pytest.mark.parametrize("chunk", [20, 1000])
async def test_to_channel(how: str, chunk: int) -> None:
    async with leaving_nothing(), DiskBuilder().open() as store:
        for stop in every_stop(how, at_least=3):
            driver = await load(store)
            records: list[tuple[str, bytes]] = []

            async def drain() -> None:
                async with driver.to_channel(chunk) as chunks:  # noqa: B023 - run at once
                    async for part in chunks:
                        records.extend(part)  # noqa: B023 - run at once

            await stop.run(drain)
            assert records + await rest_of(driver) == EXPECTED


@pytest.mark.parametrize("chunks_before", [0, 1, 5, 10])
async def test_to_channel_cancelled_beside_the_walk(chunks_before: int) -> None:
    """After so many turns of the event loop, wherever the walk's own task is by then."""

    async def cancel(scope: anyio.CancelScope, turns: int) -> None:
        for _ in range(turns):
            await anyio.lowlevel.checkpoint()
        scope.cancel()

    lengths: set[int] = set()
    async with leaving_nothing(), DiskBuilder().open() as store:
        for turns in range(15):
            driver = await load(store)
            records: list[tuple[str, bytes]] = []
            async with anyio.create_task_group() as tasks, driver.to_channel(20) as chunks:
                if chunks_before == 0:
                    tasks.start_soon(cancel, tasks.cancel_scope, turns)
                async for part in chunks:
                    records += part
                    if len(records) == 20 * chunks_before:
                        tasks.start_soon(cancel, tasks.cancel_scope, turns)
            lengths.add(len(records))
            assert records + await rest_of(driver) == EXPECTED
    assert len(lengths) > 2 or (chunks_before == 0 and 0 in lengths)


# --- asyncio's own ways -------------------------------------------------------------------------


@under_asyncio
async def test_asyncio_timeout() -> None:
    """At any time, not only at a suspension's beginning."""
    async with leaving_nothing(), DiskBuilder().open() as store:
        timed_out = 0
        for millis in range(40):
            driver: DiskDriver[bytes] | None = None
            records: list[tuple[str, bytes]] = []
            try:
                async with asyncio.timeout(millis / 4000):
                    driver = await load(store)
                    while part := await driver.next_chunk(50):
                        records += part
            except TimeoutError:
                timed_out += 1
            if driver is not None:
                assert records + await rest_of(driver) == EXPECTED
        assert timed_out > 0
        assert await usable(store)


@under_asyncio
async def test_asyncio_gathered_tasks_that_fail() -> None:
    async with leaving_nothing(), DiskBuilder().open() as store:

        async def fail() -> None:
            await asyncio.sleep(0.001)
            raise LookupError("mine")

        async def work() -> None:
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(load(store))
                tasks.create_task(fail())

        with pytest.raises(ExceptionGroup) as caught:
            await work()
        assert caught.group_contains(LookupError, match="mine")
        assert await usable(store)


def test_asyncio_run_that_is_interrupted(tmp_path: Path) -> None:
    """As `asyncio.run` does at its end, which cancels all tasks, our inner ones too."""
    for turns in range(0, 60, 3):

        async def work() -> None:
            async with DiskBuilder().open(tmp_path / "store.db") as store:
                while True:
                    await load(store)

        async def main(turns: int = turns) -> None:
            task = asyncio.create_task(work())
            for _ in range(turns):
                await asyncio.sleep(0)
            for each in asyncio.all_tasks() - {asyncio.current_task()}:
                each.cancel()
            await asyncio.wait([task])
            with contextlib.suppress(asyncio.CancelledError):
                await task
            async with DiskBuilder().open(tmp_path / "store.db") as store:
                assert await usable(store)

        asyncio.run(main())


# --- Sources that fail --------------------------------------------------------------------------


class BrokenSourceError(Exception):
    pass


@pytest.mark.parametrize("at", range(0, len(CAR), len(CAR) // 7))
async def test_a_source_that_raises_midway(at: int) -> None:
    async def pieces() -> AsyncIterator[bytes]:
        for start in range(0, at, 1000):
            yield CAR[start : min(start + 1000, at)]
        raise BrokenSourceError(at)

    async with leaving_nothing(), DiskBuilder().open() as store:
        with pytest.raises(BrokenSourceError) as caught:
            await IN_MEMORY.load_car(pieces())
        assert caught.value.args == (at,)
        with pytest.raises(BrokenSourceError) as caught:
            await (await paused_at(pieces())).finish_loading(store)
        assert caught.value.args == (at,)
        assert store.stored == 0
        assert await usable(store)


# --- Leaving a channel --------------------------------------------------------------------------


async def test_leaving_a_channel_early_loses_nothing() -> None:
    async with leaving_nothing(), DiskBuilder().open() as store:
        for wanted in range(12):
            driver = await load(store)
            records: list[tuple[str, bytes]] = []
            async with driver.to_channel(30) as chunks:
                for _ in range(wanted):
                    async for part in chunks:
                        records += part
                        break
                await anyio.sleep(0.002)  # the walk gets ahead
            assert len(records) == min(30 * wanted, 300)
            records += await driver.next_chunk(1) or []
            async with driver.to_channel(30) as chunks:
                async for part in chunks:
                    records += part
                    break
            assert records + await rest_of(driver) == EXPECTED


@pytest.mark.parametrize(
    "error",
    [
        LookupError("mine"),
        StopIteration("mine"),
        StopAsyncIteration("mine"),
        KeyboardInterrupt("mine"),
        ExceptionGroup("mine", [LookupError("inner")]),
        anyio.EndOfStream("mine"),
    ],
    ids=lambda error: type(error).__name__,
)
@pytest.mark.parametrize("chunks_before", [0, 1, 3])
async def test_an_error_in_a_channels_body_comes_out_as_itself(
    error: BaseException, chunks_before: int
) -> None:
    async with leaving_nothing(), DiskBuilder().open() as store:
        driver = await load(store)
        records: list[tuple[str, bytes]] = []

        async def work() -> None:
            async with driver.to_channel(30) as chunks:
                if chunks_before:
                    async for part in chunks:
                        records.extend(part)
                        if len(records) == 30 * chunks_before:
                            break
                raise error

        try:
            await work()
        except RuntimeError as wrapped:
            # A coroutine cannot raise these two: Python makes a RuntimeError of them.
            found: object = wrapped.__cause__
            assert isinstance(error, (StopIteration, StopAsyncIteration))
        except BaseException as raised:  # noqa: BLE001 - KeyboardInterrupt too
            found = raised
        else:
            pytest.fail("the error is lost")
        assert found is error
        assert records + await rest_of(driver) == EXPECTED


async def test_an_error_of_the_walk_comes_out_of_a_channel() -> None:
    records = {f"app.test.a/{n:03}": {"n": n} for n in range(100)}
    repo = build_repo(records)
    missing = repo.records["app.test.a/055"]
    car = write_car(
        [repo.commit_cid], [(cid, data) for cid, data in repo.blocks.items() if cid != missing]
    )
    async with leaving_nothing(), DiskBuilder().open() as store:
        driver = await load(store, car)
        found: list[str] = []

        async def drain() -> None:
            async with driver.to_channel(10) as chunks:
                async for part in chunks:
                    found.extend([key for key, _ in part])

        with pytest.raises(MissingBlock) as caught:
            await drain()
        assert found == list(records)[:55]
        with pytest.raises(MissingBlock) as again:
            await driver.next_chunk()
        assert again.value is caught.value
        assert caught.value.rkey == "app.test.a/055"


async def test_a_channel_that_was_left_is_at_its_end() -> None:
    async with leaving_nothing(), DiskBuilder().open() as store:
        driver = await load(store)
        async with driver.to_channel(30) as chunks:
            pass
        assert [part async for part in chunks] == []
        assert await rest_of(driver) == EXPECTED


async def test_two_receivers_of_a_channel_are_told() -> None:
    async with leaving_nothing(), DiskBuilder().open() as store:
        driver = await load(store)
        records: list[tuple[str, bytes]] = []
        busy = 0

        async def receive() -> None:
            nonlocal busy
            try:
                async for part in chunks:
                    records.extend(part)
            except anyio.BusyResourceError:
                busy += 1

        async with driver.to_channel(30) as chunks, anyio.create_task_group() as tasks:
            tasks.start_soon(receive)
            tasks.start_soon(receive)
        assert busy == 1
        assert records == EXPECTED
