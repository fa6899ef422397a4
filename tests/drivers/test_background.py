"""A task in the background of a block: it ends with the block, and errors come out as they are."""

from __future__ import annotations

import anyio
import pytest

from repo_stream.background import in_background

pytestmark = pytest.mark.both_loops


async def test_task_runs_beside_the_block_and_ends_with_it() -> None:
    events: list[str] = []

    async def work() -> None:
        try:
            events.append("works")
            await anyio.sleep_forever()
        finally:
            events.append("ends")

    async with in_background(work):
        await anyio.wait_all_tasks_blocked()
        events.append("block")
    assert events == ["works", "block", "ends"]


async def test_error_of_the_block_is_not_wrapped() -> None:
    async def block() -> None:
        async with in_background(anyio.sleep_forever):
            await anyio.wait_all_tasks_blocked()
            raise KeyError("block")

    with pytest.raises(KeyError, match="block"):
        await block()


@pytest.mark.parametrize("kind", [ValueError, KeyboardInterrupt])
async def test_error_of_the_task_cancels_the_block_and_is_not_wrapped(
    kind: type[BaseException],
) -> None:
    async def work() -> None:
        raise kind("task")

    with pytest.raises(kind, match="task"):
        async with in_background(work):
            await anyio.sleep_forever()


async def test_cancelled_block_ends_with_its_scope() -> None:
    with anyio.CancelScope() as scope:
        async with in_background(anyio.sleep_forever):
            scope.cancel()
            await anyio.sleep_forever()
    assert scope.cancelled_caught
