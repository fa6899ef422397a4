"""A store that serves one repo after another, and tasks that ask for one thing at once."""

from __future__ import annotations

import time
from pathlib import Path

import anyio
import pytest
from anyio.lowlevel import checkpoint

from repo_stream import DiskBuilder, DiskDriver, Driver, DriverBuilder, StoreClosed
from repo_stream.testing import build_car, build_repo
from support.driving import REPO, disk_driver, on_disk, pairs, paused_at, records, rest_of

pytestmark = pytest.mark.both_loops


# --- One repo after another -----------------------------------------------------------------------


@pytest.mark.parametrize("named", [True, False], ids=["path", "temporary"])
async def test_store_serves_many_repos(tmp_path: Path, named: bool) -> None:
    async with DiskBuilder().open(tmp_path / "store.db" if named else None) as store:
        for count in (700, 0, 3, 1500):
            repo = build_repo(records(count) | {"com.example.d/self": {"of": count}})
            driver = await on_disk(repo.to_car(copies=2), store)
            assert await rest_of(driver) == pairs(repo)
            assert await driver.reset_store() is store
            assert store.stored == 0


async def test_store_can_be_taken_back_in_the_middle_of_a_walk() -> None:
    async with DiskBuilder().open() as store:
        driver = await on_disk(REPO.to_car(), store)
        assert await driver.next_chunk(10) == pairs(REPO)[:10]
        async for _ in driver:
            break
        assert await driver.reset_store() is store
        for ask in (driver.next_chunk, driver.next_outputs, driver.__anext__, driver.reset_store):
            with pytest.raises(StoreClosed):
                await ask()
        with pytest.raises(StoreClosed):
            async with driver.to_channel() as channel:
                await anext(channel)
        other = await on_disk(build_car({"a/b": {"other": True}}), store)
        assert [key async for key, _ in other] == ["a/b"]
        with pytest.raises(StoreClosed):
            await driver.next_chunk()


async def test_driver_whose_store_went_to_another_repo_says_so() -> None:
    async with DiskBuilder().open() as store:
        first = await on_disk(REPO.to_car(), store)
        second = await on_disk(build_car({"a/b": {}}), store)
        with pytest.raises(StoreClosed):
            await first.next_chunk()
        assert [key async for key, _ in second] == ["a/b"]


async def test_driver_whose_store_went_to_another_repo_does_not_empty_it() -> None:
    async with DiskBuilder().open() as store:
        first = await on_disk(REPO.to_car(), store)
        second = await on_disk(build_car({"a/b": {}}), store)
        with pytest.raises(StoreClosed):
            await first.reset_store()
        assert [key async for key, _ in second] == ["a/b"]
        await second.reset_store()
        with pytest.raises(StoreClosed):
            await first.reset_store()


async def test_driver_whose_store_was_closed_says_so() -> None:
    async with DiskBuilder().open() as store:
        driver = await on_disk(REPO.to_car(), store)
    with pytest.raises(StoreClosed):
        await driver.next_chunk()
    with pytest.raises(StoreClosed):
        await driver.reset_store()


# --- Two tasks ------------------------------------------------------------------------------------


async def test_two_tasks_share_a_disk_driver_without_losing_a_record() -> None:
    got: list[tuple[str, bytes]] = []
    busy = 0

    async def ask(driver: DiskDriver[bytes]) -> None:
        nonlocal busy
        for _ in range(2000):
            try:
                chunk = await driver.next_chunk(10)
            except anyio.BusyResourceError:
                busy += 1
                await anyio.sleep(0.001)
                continue
            if chunk is None:
                return
            got.extend(chunk)
            await checkpoint()
        pytest.fail("it never came to the end")

    async with disk_driver(REPO.to_car()) as driver, anyio.create_task_group() as tasks:
        tasks.start_soon(ask, driver)
        tasks.start_soon(ask, driver)
    assert busy > 0
    assert sorted(got) == sorted(pairs(REPO))


async def test_of_two_tasks_in_a_memory_driver_one_is_told_that_it_is_busy() -> None:
    outcome = await DriverBuilder().load_car(REPO.to_car())
    assert isinstance(outcome, Driver.Memory)
    driver = outcome.driver
    got: list[tuple[str, bytes]] = []
    outcomes: list[str] = []

    async def ask() -> None:
        try:
            got.extend(await driver.next_chunk(100_000) or [])
        except anyio.BusyResourceError:
            outcomes.append("busy")
        else:
            outcomes.append("done")

    # After so long without a pause the walk lets other tasks run, in the middle of a call.
    time.sleep(0.05)  # noqa: ASYNC251 - the pause is what is tested
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(ask)
        tasks.start_soon(ask)
    assert sorted(outcomes) == ["busy", "done"]
    assert got == pairs(REPO)


async def test_two_repos_may_not_be_loaded_into_one_store_at_once() -> None:
    busy = 0
    async with DiskBuilder().open() as store:

        async def load() -> None:
            nonlocal busy
            paused = await paused_at(REPO.to_car(), DriverBuilder(mem_limit_mb=0))
            try:
                await paused.finish_loading(store)
            except (anyio.BusyResourceError, StoreClosed):
                busy += 1

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(load)
            tasks.start_soon(load)
        assert busy >= 1
        assert await rest_of(await on_disk(REPO.to_car(), store), 99) == pairs(REPO)
