"""Run asyncio code from any event loop, each operation to its end.

`aiosqlite` supports asyncio only. Under asyncio an operation is a task that no cancellation stops:
the caller waits until it has ended, and is cancelled then. Under trio, operations run in an asyncio
loop in a thread of its own.
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

__all__ = ["Loop", "open_loop"]

R = TypeVar("R")

# What an asyncio loop opens: a selector, and both ends of the socket that wakes it.
_LOOP_DESCRIPTORS: Final = 3


class _Operation(asyncio.Task[R]):
    """A task that runs to its end, even when `asyncio.run` cancels all tasks at its own end."""

    def cancel(self, msg: object = None) -> bool:
        return False


class Loop:
    """Runs operations on the running event loop, which is asyncio's."""

    async def run(
        self,
        operation: Callable[..., Coroutine[Any, Any, R]],
        *arguments: Any,  # noqa: ANN401 - passed on as they are
    ) -> R:
        """Run `operation`; a cancellation waits until it has ended."""
        task = _Operation(operation(*arguments), loop=asyncio.get_running_loop())
        with anyio.CancelScope(shield=True):
            try:
                await asyncio.shield(task)
            except asyncio.CancelledError:
                # Not by anyio, from which the scope shields: somebody cancelled the asyncio task.
                while not task.done():
                    with suppress(asyncio.CancelledError):
                        await asyncio.wait([task])
                task.exception()  # marks it as retrieved: the cancellation is raised instead
                raise
        return task.result()

    async def aclose(self) -> None:
        """Stop the loop, if it was started here."""

    def forget(self, release: Callable[[], object]) -> None:
        """Call `release` for a store that nobody closed, without waiting, and stop the loop."""
        # In a new thread, in which no event loop is running.
        _start_daemon(release)


class _PortalLoop(Loop):
    """Runs operations in an asyncio loop in a thread of its own, for trio."""

    def __init__(self) -> None:
        _require_descriptors(_LOOP_DESCRIPTORS)
        started: Future[BlockingPortal] = Future()
        # Not `start_blocking_portal`: one that is never stopped waits for its thread when the
        # interpreter exits, and by then daemon threads have stopped.
        self._thread = Thread(target=_serve, args=[started], daemon=True)
        self._thread.start()
        self._portal = started.result()

    async def run(
        self,
        operation: Callable[..., Coroutine[Any, Any, R]],
        *arguments: Any,  # noqa: ANN401 - passed on as they are
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

        _start_daemon(release_both)


def _require_descriptors(number: int) -> None:
    """Raise `OSError` if fewer are left: a loop that lacks one warns when it is freed."""
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
        started.set_exception(error)  # or the thread that waits for it would wait for ever


async def open_loop() -> Loop:
    """Return what runs operations from the running event loop.

    Raises:
        OSError: if an asyncio loop cannot be started beside trio's, for lack of file descriptors.
    """
    return await anyio.to_thread.run_sync(_PortalLoop) if _in_trio() else Loop()


def _in_trio() -> bool:
    trio = sys.modules.get("trio")
    return trio is not None and bool(trio.lowlevel.in_trio_task())


def _start_daemon(work: Callable[[], object]) -> None:
    """Call `work` in a thread that nobody waits for, if one can be started."""
    # An interpreter that is shutting down starts no new threads.
    if not sys.is_finalizing():
        with suppress(RuntimeError):
            Thread(target=work, daemon=True).start()
