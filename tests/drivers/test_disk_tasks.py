"""Stores that several tasks use, in several threads, many at once; and those that nobody closes."""

from __future__ import annotations

import gc
import sys
import threading
from collections.abc import Awaitable, Callable
from pathlib import Path

import anyio
import anyio.to_thread
import pytest

from repo_stream import DiskBuilder, DiskStore
from support import new_descriptors
from support.stores import EXPECTED, MANY_CAR, becomes, lasting_threads, load, rest_of

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


@pytest.mark.both_loops
async def test_second_task_in_a_store_gets_an_error() -> None:
    async with DiskBuilder().open() as store:
        outcomes = await outcomes_of(store.reset, store.reset)
        assert [type(each) for each in outcomes] == [anyio.BusyResourceError, DiskStore]
        assert "already storing or fetching blocks" in str(outcomes[0])
        assert await rest_of(await load(store)) == EXPECTED


@pytest.mark.both_loops
async def test_closing_while_another_task_uses_the_store_is_an_error() -> None:
    async with DiskBuilder().open() as store:
        outcomes = await outcomes_of(store.reset, store.aclose)
        assert type(outcomes[0]) is anyio.BusyResourceError
        assert store.closed == (outcomes[1] is None)
    assert store.closed


@pytest.mark.both_loops
async def test_second_task_in_a_driver_gets_an_error() -> None:
    async with DiskBuilder().open() as store:
        driver = await load(store)
        outcomes = await outcomes_of(*[lambda: driver.next_chunk(100)] * 2)
        assert type(outcomes[0]) is anyio.BusyResourceError
        assert "already walking this repo" in str(outcomes[0])
        assert outcomes[1] == EXPECTED[:100]
        assert await rest_of(driver) == EXPECTED[100:]


@pytest.mark.parametrize(
    "call", ["next_chunk", "next_outputs", "to_channel", "reset_store", "aclose"]
)
async def test_driver_with_an_open_channel_is_in_use(call: str) -> None:
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


@pytest.mark.both_loops
def test_store_works_in_any_thread(anyio_backend: str) -> None:
    found: list[list[tuple[str, bytes]]] = []

    async def work() -> None:
        async with DiskBuilder().open() as store:
            found.append(await rest_of(await load(store)))

    thread = threading.Thread(target=anyio.run, args=[work], kwargs={"backend": anyio_backend})
    thread.start()
    thread.join(20)
    assert found == [EXPECTED]


@pytest.mark.both_loops
async def test_more_stores_than_worker_threads_work_at_once(tmp_path: Path) -> None:
    """Half of them with a path."""
    found: list[list[tuple[str, bytes]]] = []

    async def work(path: Path | None) -> None:
        async with DiskBuilder().open(path) as store:
            driver = await load(store)
            found.append([pair async for pair in driver])

    threads = anyio.to_thread.current_default_thread_limiter()
    before, threads.total_tokens = threads.total_tokens, 4
    try:
        async with anyio.create_task_group() as tasks:
            for n in range(8):
                tasks.start_soon(work, tmp_path / f"{n}.db")
                tasks.start_soon(work, None)
    finally:
        threads.total_tokens = before
    assert found == [EXPECTED] * 16


@pytest.mark.both_loops
async def test_cancelled_load_beside_others_leaves_its_store_usable() -> None:
    """They take turns, so that some wait for others."""
    found: list[list[tuple[str, bytes]]] = []
    cancelled = 0

    async def work(seconds: float) -> None:
        nonlocal cancelled
        async with DiskBuilder().open() as store:
            with anyio.move_on_after(seconds) as scope:
                for _ in range(2):
                    await rest_of(await load(store, MANY_CAR), 100)
            cancelled += scope.cancelled_caught
            found.append(await rest_of(await load(store)))

    async with anyio.create_task_group() as tasks:
        for n in range(12):
            tasks.start_soon(work, 0.02 * n)
    assert found == [EXPECTED] * 12
    assert cancelled > 0


# --- Forgotten ----------------------------------------------------------------------------------


@pytest.mark.both_loops
@pytest.mark.parametrize("held", ["plainly", "in-a-cycle", "by-a-driver"])
async def test_forgotten_store_warns_and_is_closed(held: str, tmp_path: Path) -> None:
    path = tmp_path / "store.db"
    before = lasting_threads()

    async def forget() -> None:
        store = await DiskBuilder().open(path)
        keeper: list[object] = [store]
        if held == "in-a-cycle":
            keeper.append(keeper)
        elif held == "by-a-driver":
            keeper.append(await load(store))

    with new_descriptors() as opened:
        with pytest.warns(ResourceWarning, match=r"store\.db.* was not closed"):  # noqa: PT031 - when it is collected is not known
            await forget()
            gc.collect()
        assert await becomes(lambda: not opened())
    assert await becomes(lambda: lasting_threads() <= before)
    async with DiskBuilder().open(path) as store:
        assert await rest_of(await load(store)) == EXPECTED


@pytest.mark.both_loops
async def test_forgotten_store_is_closed_if_warnings_are_errors(
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
