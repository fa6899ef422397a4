"""Cancellation at every await there is, and other ways to leave a load or a walk in the middle.

`every_stop` runs an operation again and again, and cancels it each time one suspension later than
the time before, until the operation comes to its end before that.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
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
    LimitExceeded,
    Limits,
    NeedDisk,
    RepoDriver,
    StoreClosed,
)
from repo_stream.testing import build_car, build_repo, encode
from support.cancelling import (
    Pieces,
    Stop,
    every_stop,
    in_every_way,
    in_two_ways,
    leaving_nothing,
    rest_of,
    usable,
)
from support.stores import CAR, EXPECTED, MANY, MANY_CAR, TO_DISK, load

IN_MEMORY = DriverBuilder(mem_limit_mb=100)


async def paused_at(source: AsyncIterator[bytes] | Path | bytes) -> NeedDisk[bytes]:
    match await TO_DISK.load_car(source):
        case Driver.Disk(paused):
            return paused
        case Driver.Memory():
            pytest.fail("a limit of 0 sends every repo to disk")


async def in_memory(car: bytes, builder: DriverBuilder[bytes] = IN_MEMORY) -> RepoDriver[bytes]:
    match await builder.load_car(car):
        case Driver.Memory(_, driver):
            return driver
        case Driver.Disk():
            pytest.fail("it is small")


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "store.db"


# --- Opening, resetting, closing ----------------------------------------------------------------


@in_every_way
async def test_cancelled_open_leaves_no_lock(how: str, path: Path) -> None:
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


@in_two_ways
async def test_cancelled_context_of_a_store_leaves_nothing_open(how: str) -> None:
    """All the way through: opening, using, closing."""

    async def use() -> None:
        async with DiskBuilder().open() as store:
            assert await usable(store)

    async with leaving_nothing():
        for stop in every_stop(how, at_least=10):
            await stop.run(use)


@in_every_way
async def test_cancelled_aclose_closes_the_store(how: str, path: Path) -> None:
    async with leaving_nothing():
        for stop in every_stop(how, at_least=1):
            store = await DiskBuilder().open(path)
            await store.begin(0)
            await stop.run(store.aclose)
            assert store.closed
            with pytest.raises(StoreClosed):
                await store.reset()


@in_two_ways
async def test_cancelled_reset_leaves_the_store_usable(how: str) -> None:
    async with leaving_nothing(), DiskBuilder().open() as store:
        for stop in every_stop(how, at_least=1):
            driver = await load(store)
            await driver.next_chunk(10)
            await stop.run(store.reset)
            assert await usable(store)


@in_two_ways
async def test_cancelled_reset_store_can_be_called_again(how: str) -> None:
    async with leaving_nothing(), DiskBuilder().open() as store:
        for stop in every_stop(how, at_least=1):
            driver = await load(store)
            if not await stop.run(driver.reset_store):
                assert await driver.reset_store() is store
            assert store.stored == 0
            assert await usable(store)


@pytest.mark.both_loops
async def test_reset_store_in_a_cancelled_scope_does_nothing() -> None:
    async with DiskBuilder().open() as store:
        driver = await load(store)
        first = await driver.next_chunk(10)
        with anyio.CancelScope() as scope:
            scope.cancel()
            await driver.reset_store()
        assert scope.cancelled_caught
        assert await driver.reset_store() is store, "the driver goes on"
        assert first == EXPECTED[:10]


# --- Loading ------------------------------------------------------------------------------------


@in_every_way
async def test_cancelled_load_car_leaves_the_source_open(how: str) -> None:
    async with leaving_nothing():
        for stop in every_stop(how, at_least=4):
            source = Pieces()
            for outcome in await stop.run(lambda: IN_MEMORY.load_car(source)):  # noqa: B023 - run at once
                assert isinstance(outcome, Driver.Memory)
                assert await rest_of(outcome.driver) == EXPECTED
            assert not source.closed


@in_every_way
async def test_cancelled_load_car_closes_its_file(how: str, tmp_path: Path) -> None:
    path = tmp_path / "repo.car"
    path.write_bytes(CAR)
    async with leaving_nothing():
        for stop in every_stop(how, at_least=2):
            for outcome in await stop.run(lambda: TO_DISK.load_car(path)):
                assert isinstance(outcome, Driver.Disk)
                await outcome.paused.aclose()


@in_every_way
async def test_cancelled_finish_loading_leaves_the_store_usable(how: str, path: Path) -> None:
    async with leaving_nothing(), DiskBuilder().open(path) as store:
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
async def test_cancelled_finish_loading_in_place_leaves_the_store_usable(
    how: str, tmp_path: Path
) -> None:
    path = tmp_path / "repo.car"
    path.write_bytes(MANY_CAR)  # read in several pieces
    async with DiskBuilder().open() as store, leaving_nothing():
        for stop in every_stop(how, at_least=5):
            paused = await paused_at(path)
            for _, driver in await stop.run(lambda: paused.finish_loading(store)):  # noqa: B023 - run at once
                assert [key for key, _ in await rest_of(driver)] == list(MANY)
            assert await usable(store)
        await store.reset()  # with what that has loaded goes its log


# --- Walking ------------------------------------------------------------------------------------


@in_every_way
@pytest.mark.parametrize("chunk", [7, 1000])
async def test_cancelled_next_chunk_loses_no_record(how: str, chunk: int) -> None:
    async with leaving_nothing(), DiskBuilder().open() as store:
        for stop in every_stop(how, at_least=2):
            driver = await load(store)
            first = await stop.run(lambda: driver.next_chunk(chunk))  # noqa: B023 - run at once
            records = first[0] if first else []
            assert records is not None
            assert records + await rest_of(driver) == EXPECTED


@in_two_ways
async def test_walk_with_every_other_call_cancelled_loses_no_record(how: str) -> None:
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


@in_two_ways
async def test_cancelled_iteration_loses_no_record(how: str) -> None:
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


@in_two_ways
async def test_cancelled_walk_in_memory_loses_no_record(
    how: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("repo_stream.turn._TURN", -1.0)  # so that it pauses wherever it may
    some = {f"app.test.many/{n:04}": {"n": n} for n in range(900)}
    car = build_car(some)
    expected = [(key, encode(value)) for key, value in some.items()]
    for stop in every_stop(how, at_least=3):
        driver = await in_memory(car)
        first = await stop.run(lambda: driver.next_chunk(800))  # noqa: B023 - run at once
        records = first[0] if first else []
        assert records is not None
        assert records + await rest_of(driver) == expected


@in_two_ways
async def test_cancelled_next_keys_loses_no_key_before_an_error(
    how: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("repo_stream.turn._TURN", -1.0)  # so that it pauses wherever it may
    car = build_repo({f"a/{n:03}": {} for n in range(100)}).to_car()
    builder = DriverBuilder(limits=Limits(node_entries=11))
    for stop in every_stop(how, at_least=2):
        driver = await in_memory(car, builder)
        first = await stop.run(lambda: driver.next_keys(100))  # noqa: B023 - run at once
        keys = (first[0] if first else await driver.next_keys(100)) or []
        assert [key for key, _cid in keys] == [f"a/{n:03}" for n in range(6)]
        with pytest.raises(LimitExceeded):
            await driver.next_keys(100)


@in_every_way
@pytest.mark.parametrize("chunk", [20, 1000])
async def test_cancelled_channel_loses_no_record(how: str, chunk: int) -> None:
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


@pytest.mark.both_loops
@pytest.mark.parametrize("chunks_before", [0, 1, 10])
async def test_channel_cancelled_by_another_task_loses_no_record(chunks_before: int) -> None:
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


async def test_asyncio_timeout_loses_no_record() -> None:
    """At any time, not only as a suspension begins."""
    async with leaving_nothing(), DiskBuilder().open() as store:
        timed_out = 0
        for millis in range(20):
            driver: DiskDriver[bytes] | None = None
            records: list[tuple[str, bytes]] = []
            try:
                async with asyncio.timeout(millis / 2000):
                    driver = await load(store)
                    while part := await driver.next_chunk(50):
                        records += part
            except TimeoutError:
                timed_out += 1
            if driver is not None:
                assert records + await rest_of(driver) == EXPECTED
        assert timed_out > 0
        assert await usable(store)


async def test_failure_of_another_asyncio_task_leaves_the_store_usable() -> None:
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


def test_store_is_closed_if_all_tasks_are_cancelled(path: Path) -> None:
    """As `asyncio.run` does at its end, which cancels our inner tasks too."""
    for turns in range(0, 60, 4):

        async def work() -> None:
            async with DiskBuilder().open(path) as store:
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
            async with DiskBuilder().open(path) as store:
                assert await usable(store)

        asyncio.run(main())


# --- Sources that fail --------------------------------------------------------------------------


class BrokenSourceError(Exception):
    pass


@pytest.mark.parametrize(
    "at", [0, 1000, len(CAR) // 2, len(CAR)], ids=["first", "second", "midway", "last"]
)
async def test_error_of_a_source_comes_out_and_leaves_the_store_usable(at: int) -> None:
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


@pytest.mark.parametrize(
    ("chunks_before", "error"),
    [
        (0, LookupError("mine")),
        (1, LookupError("mine")),
        (10, LookupError("mine")),
        (1, StopIteration("mine")),
        (1, StopAsyncIteration("mine")),
        (1, KeyboardInterrupt("mine")),
        (1, ExceptionGroup("mine", [LookupError("inner")])),
        (0, anyio.EndOfStream("mine")),
        (1, anyio.EndOfStream("mine")),
    ],
    ids=lambda value: str(value) if isinstance(value, int) else type(value).__name__,
)
@pytest.mark.both_loops
async def test_error_in_the_body_of_a_channel_comes_out_as_itself(
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


@pytest.mark.both_loops
async def test_channel_that_was_left_gives_no_more() -> None:
    async with leaving_nothing(), DiskBuilder().open() as store:
        driver = await load(store)
        async with driver.to_channel(30) as chunks:
            pass
        with pytest.raises(RuntimeError, match="the channel is closed"):
            await anext(chunks)
        assert await rest_of(driver) == EXPECTED


@pytest.mark.both_loops
async def test_second_receiver_of_a_channel_gets_an_error_and_the_first_all_records() -> None:
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
