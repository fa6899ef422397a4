"""Runs what speaks asyncio on whatever event loop there is, each time to its end.

`aiosqlite` knows asyncio only, so under trio it runs in an asyncio loop on a thread of its own.
"""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import Callable, Coroutine
from concurrent.futures import Future
from contextlib import suppress
from threading import Thread
from typing import Any, Final, TypeVar

import anyio
import anyio.to_thread
from anyio.from_thread import BlockingPortal

__all__ = ["Loop", "open_loop", "start_quietly"]

R = TypeVar("R")

# A selector, and two ends of what wakes it.
_OF_A_LOOP: Final = 3


class _Operation(asyncio.Task[R]):
    """A task that runs to its end. `asyncio.run` cancels all there are when it ends."""

    def cancel(self, msg: object = None) -> bool:
        return False


class Loop:
    """The running event loop, where it is asyncio's."""

    async def run(
        self,
        operation: Callable[..., Coroutine[Any, Any, R]],
        *arguments: Any,  # noqa: ANN401 - passed on
    ) -> R:
        """Run `operation`; a cancellation waits until it is over."""
        task = _Operation(operation(*arguments), loop=asyncio.get_running_loop())
        with anyio.CancelScope(shield=True):
            try:
                await asyncio.shield(task)
            except asyncio.CancelledError:
                # Not one of anyio's, which the scope holds off: somebody cancelled the task itself.
                while not task.done():
                    with suppress(asyncio.CancelledError):
                        await asyncio.wait([task])
                task.exception()  # It has been seen, and the cancellation goes before it.
                raise
        return task.result()

    async def aclose(self) -> None:
        """Release what it holds."""

    def forget(self, release: Callable[[], object]) -> None:
        """Release what a store holds that nobody closed, without waiting, and then the loop."""
        # In a new thread, where nothing finds a running loop.
        start_quietly(release)


class _PortalLoop(Loop):
    """An asyncio loop on a thread of its own, for trio."""

    def __init__(self) -> None:
        _require_descriptors(_OF_A_LOOP)
        started: Future[BlockingPortal] = Future()
        # Not `start_blocking_portal`: when it is forgotten, it waits for its thread as the
        # interpreter exits, by when daemon threads have stopped.
        self._thread = Thread(target=_serve, args=[started], daemon=True)
        self._thread.start()
        self._portal = started.result()

    async def run(
        self,
        operation: Callable[..., Coroutine[Any, Any, R]],
        *arguments: Any,  # noqa: ANN401 - passed on
    ) -> R:
        return await anyio.to_thread.run_sync(self._portal.call, operation, *arguments)

    async def aclose(self) -> None:
        await anyio.to_thread.run_sync(self._stop)

    def _stop(self) -> None:
        if self._thread.is_alive():
            self._portal.call(self._portal.stop)
            self._thread.join()

    def forget(self, release: Callable[[], object]) -> None:
        def release_both() -> None:
            release()
            self._stop()

        start_quietly(release_both)


def _require_descriptors(number: int) -> None:
    """Raise `OSError` if there are fewer: a loop that lacks one complains when it is freed."""
    opened: list[int] = []
    try:
        for _ in range(number):
            opened.append(os.open(os.devnull, os.O_RDONLY))  # noqa: PERF401 - what was opened is closed
    finally:
        for descriptor in opened:
            os.close(descriptor)


def _serve(started: Future[BlockingPortal]) -> None:
    async def serve() -> None:
        async with BlockingPortal() as portal:
            started.set_result(portal)
            await portal.sleep_until_stopped()

    try:
        anyio.run(serve, backend="asyncio")
    except BaseException as error:
        if started.done():
            raise
        started.set_exception(error)  # or whoever waits for it would do so for ever


async def open_loop() -> Loop:
    """Give what runs operations on the running event loop.

    Raises:
        OSError: if an asyncio loop beside trio's cannot be started, as without file descriptors.
    """
    return await anyio.to_thread.run_sync(_PortalLoop) if _in_trio() else Loop()


def _in_trio() -> bool:
    trio = sys.modules.get("trio")
    return trio is not None and bool(trio.lowlevel.in_trio_task())


def start_quietly(work: Callable[[], object]) -> None:
    """Have work done in a thread that nobody waits for, if one can be started."""
    # An interpreter that goes down takes the threads with it, and starts no new ones.
    if not sys.is_finalizing():
        with suppress(RuntimeError):
            Thread(target=work, daemon=True).start()
