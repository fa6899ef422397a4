"""A task in the background of a block of code."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager

import anyio

__all__ = ["in_background"]


@asynccontextmanager
async def in_background(work: Callable[[], Awaitable[object]]) -> AsyncGenerator[None]:
    """Run `work` in a task while the block runs, and cancel it at the end of the block.

    What either of them raises comes out as it is; a task group alone would wrap it in an exception
    group. If `work` raises, such as `KeyboardInterrupt`, which trio raises in any task that is
    running, the block is cancelled.
    """
    failure: BaseException | None = None

    async def run() -> None:
        nonlocal failure
        try:
            await work()
        except (anyio.get_cancelled_exc_class(), GeneratorExit):
            raise
        except BaseException as error:  # noqa: BLE001 - raised again below, outside the group
            failure = error
            tasks.cancel_scope.cancel()

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(run)
        try:
            yield
        except anyio.get_cancelled_exc_class():
            raise
        except BaseException as error:  # noqa: BLE001 - raised again below, outside the group
            failure = error
        tasks.cancel_scope.cancel()
    if failure is not None:
        raise failure
