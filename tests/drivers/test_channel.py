"""A channel: the driver walks ahead in a task of its own, on disk."""

from __future__ import annotations

from contextlib import suppress

import anyio
import pytest
from anyio.lowlevel import checkpoint

from repo_stream import DiskBuilder, DiskDriver, DriverBuilder, MissingBlock, Processor
from repo_stream.store.disk import Lease
from repo_stream.testing import build_car
from support.driving import (
    REPO,
    damaged,
    disk_driver,
    joined,
    pairs,
    paused_at,
    records,
    rest_of,
    until_error,
)

pytestmark = pytest.mark.both_loops


async def test_channel_gives_every_chunk() -> None:
    for n in (1, 7, 256, 512, 700, 10_000):
        async with disk_driver(REPO.to_car()) as driver:
            async with driver.to_channel(n) as channel:
                chunks = [chunk async for chunk in channel]
            assert joined(chunks) == pairs(REPO)
            whole, part = divmod(len(pairs(REPO)), n)
            assert [len(chunk) for chunk in chunks] == [n] * whole + [part] * (part > 0)
            assert await driver.next_chunk(n) is None


async def test_channel_of_an_empty_repo_is_empty() -> None:
    async with disk_driver(build_car({})) as driver, driver.to_channel() as channel:
        assert [chunk async for chunk in channel] == []


async def test_channel_with_chunks_of_less_than_one_record_is_refused() -> None:
    async with disk_driver(REPO.to_car()) as driver:
        for n in (0, -1):
            with pytest.raises(ValueError, match="at least 1"):
                async with driver.to_channel(n):
                    pytest.fail("it must not open")
        assert await rest_of(driver) == pairs(REPO)


class Left(Exception):
    pass


@pytest.mark.parametrize("way_out", ["break", "return", "raise", "cancel"])
async def test_channel_that_was_left_early_loses_nothing(way_out: str) -> None:
    got: list[tuple[str, bytes]] = []

    async def leave_early(driver: DiskDriver[bytes], taken: int) -> None:
        async with driver.to_channel(20) as channel:
            for _ in range(taken):
                got.extend(await anext(channel))
            await anyio.sleep(0.005)  # the walk goes on meanwhile
            if way_out == "return":
                return
            if way_out == "raise":
                raise Left
            if way_out == "cancel":
                scope.cancel()
                await checkpoint()

    for taken in (0, 1, 2, 5):
        got.clear()
        async with disk_driver(REPO.to_car()) as driver:
            with anyio.CancelScope() as scope:
                if way_out == "raise":
                    with pytest.raises(Left):
                        await leave_early(driver, taken)
                else:
                    await leave_early(driver, taken)
            assert scope.cancelled_caught == (way_out == "cancel")
            assert len(got) == 20 * taken
            chunk = await driver.next_chunk(30)
            assert chunk is not None
            assert len(chunk) == 30
            got += chunk
            async with driver.to_channel(50) as channel:
                got += joined([chunk async for chunk in channel])
        assert got == pairs(REPO)


async def test_ctrl_c_in_the_walk_of_a_channel_comes_out_as_it_is() -> None:
    """Under trio it is raised in whichever task is at work, and a task group would wrap it."""
    calls = 0

    def interrupted(block: bytes) -> bytes:
        nonlocal calls
        calls += 1
        if calls == 100:
            raise KeyboardInterrupt
        return block

    processor = Processor(interrupted, lazy=True)
    builder = DriverBuilder(mem_limit_mb=0).with_block_processor(processor)
    got: list[tuple[str, bytes]] = []
    async with DiskBuilder().open() as store:
        _, driver = await (await paused_at(REPO.to_car(), builder)).finish_loading(store)

        async def take_all() -> None:
            async with driver.to_channel(20) as channel:
                async for chunk in channel:
                    got.extend(chunk)

        with pytest.raises(KeyboardInterrupt):
            await take_all()
        got += [pair async for pair in driver]
    assert got == pairs(REPO)


class Halt(BaseException):
    """Raised by a processor to stop the program, as `SystemExit` is."""


@pytest.mark.parametrize("kind", [Halt, SystemExit], ids=["exception", "exit"])
async def test_whatever_a_processor_raises_comes_out_as_it_is(kind: type[BaseException]) -> None:
    def stops(_block: bytes) -> bytes:
        raise kind("stop")

    builder = DriverBuilder(mem_limit_mb=0, block_processor=Processor(stops, lazy=True))

    async def take_all(driver: DiskDriver[bytes]) -> None:
        async with driver.to_channel(20) as channel:
            async for _ in channel:
                pytest.fail("there is no record")

    async with DiskBuilder().open() as store:
        _, driver = await (await paused_at(REPO.to_car(), builder)).finish_loading(store)
        with pytest.raises(kind, match="stop"):
            await take_all(driver)


async def test_error_that_is_not_of_the_repo_comes_out_as_it_is(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """As if no thread could be started to read the log."""

    async def visit(_lease: Lease, _work: object) -> None:
        raise RuntimeError("can't start new thread")

    async def take_all(driver: DiskDriver[bytes]) -> None:
        async with driver.to_channel(20) as channel:
            async for _ in channel:
                pytest.fail("there is no record")

    async with disk_driver(REPO.to_car()) as driver:
        with monkeypatch.context() as patch:
            patch.setattr(Lease, "visit", visit)
            with pytest.raises(RuntimeError, match="new thread"):
                await take_all(driver)
        assert await rest_of(driver) == pairs(REPO)


async def test_channel_raises_after_the_records_before_an_error() -> None:
    for at, n in ((0, 1), (0, 1000), (1, 1), (255, 100), (300, 100), (699, 1), (699, 1000)):
        car, key = damaged(REPO, at)
        async with disk_driver(car) as driver:
            async with driver.to_channel(n) as channel:
                chunks, error = await until_error(aiter(channel))
            assert joined(chunks) == pairs(REPO)[:at], (at, n)
            assert isinstance(error, MissingBlock)
            assert error.key == key
            with pytest.raises(MissingBlock) as again:
                await driver.next_chunk()
            assert again.value is error


async def test_error_leaves_a_channel_as_it_is() -> None:
    """Not in a group, as the errors of a task group would be."""
    car, _ = damaged(REPO, 300)

    async def read(driver: DiskDriver[bytes]) -> None:
        async with driver.to_channel(100) as channel:
            async for chunk in channel:
                assert chunk

    async with disk_driver(car) as driver:
        with pytest.raises(MissingBlock):
            await read(driver)


async def test_channel_that_nobody_takes_from_walks_ahead_but_not_far() -> None:
    """One chunk is ready and one in the making; then the walk stands still."""
    loaded = 0

    def loads(data: bytes) -> bytes:
        nonlocal loaded
        loaded += 1
        return data

    builder = DriverBuilder(mem_limit_mb=0, block_processor=Processor(bytes, loads=loads))
    paused = await paused_at(build_car(records(5000)), builder)
    async with DiskBuilder().open() as store:
        _, driver = await paused.finish_loading(store)
        async with driver.to_channel(10) as channel:
            await anext(channel)
            before = -1
            while loaded > before:  # however long that takes, it is not all of the repo
                before = loaded
                await anyio.sleep(0.05)
            assert 10 <= loaded < 3000
            rest = [chunk async for chunk in channel]
        assert len(joined(rest)) == 4990


async def test_two_tasks_may_not_share_a_channel() -> None:
    async with disk_driver(build_car({})) as driver, driver.to_channel() as channel:
        outcomes: list[str] = []

        async def take() -> None:
            try:
                await anext(channel)
            except anyio.BusyResourceError:
                outcomes.append("busy")
            except StopAsyncIteration:
                outcomes.append("end")

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(take)
            tasks.start_soon(take)
        assert sorted(outcomes) == ["busy", "end"]


async def test_asking_the_driver_of_an_open_channel_takes_no_record_twice() -> None:
    """The walk belongs to the channel's task; whoever asks beside it gets an error."""
    got: list[tuple[str, bytes]] = []
    async with disk_driver(REPO.to_car()) as driver:
        async with driver.to_channel(7) as channel:
            await checkpoint()
            async for chunk in channel:
                got += chunk
                with suppress(anyio.BusyResourceError):
                    got += await driver.next_chunk(3) or []
        got += await rest_of(driver)
    assert sorted(got) == sorted(pairs(REPO))


async def test_loop_over_the_driver_of_an_open_channel_is_refused() -> None:
    """Also if records are ready that an earlier loop has left: the channel returns them."""
    async with disk_driver(REPO.to_car()) as driver:
        got = [await anext(driver) for _ in range(20)]
        async with driver.to_channel(7) as channel:
            for loop in (driver, driver.outputs()):
                with pytest.raises(anyio.BusyResourceError):
                    await anext(loop)
            async for chunk in channel:
                got += chunk
                with pytest.raises(anyio.BusyResourceError):
                    await anext(driver)
    assert got == pairs(REPO)
