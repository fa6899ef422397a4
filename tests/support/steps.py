"""How long a job keeps the event loop to itself.

A step is what a task does between two moments at which other tasks may run. It is measured by the
clock of the event loop's thread. That stands still while the thread waits, for a processor or for
other threads, so that on a busy machine no step takes longer than it would alone.
"""

from __future__ import annotations

import asyncio
import gc
from collections.abc import Awaitable, Callable, Generator
from contextlib import contextmanager
from time import thread_time
from typing import Any, TypeVar

import pytest
import trio
from anyio.lowlevel import checkpoint

T = TypeVar("T")


async def longest_share(backend: str, job: Callable[[], Awaitable[T]]) -> tuple[float, T]:
    """Do a job; give the share that its longest step has in all of its steps, and its result.

    What the job wants to be freed after it was measured is part of the result.
    """
    measuring = _asyncio_steps if backend == "asyncio" else _trio_steps
    with _no_collector(), measuring() as steps:
        await checkpoint()  # a step is counted as a whole, once it is over
        result = await job()
        await checkpoint()
        return max(steps) / sum(steps), result


@contextmanager
def _asyncio_steps() -> Generator[list[float]]:
    steps: list[float] = []
    run = asyncio.events.Handle._run

    def measured(handle: asyncio.Handle) -> None:
        began = thread_time()
        run(handle)
        steps.append(thread_time() - began)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(asyncio.events.Handle, "_run", measured)
        yield steps


class _Instrument(trio.abc.Instrument):
    def __init__(self) -> None:
        self.steps: list[float] = []
        self._began = thread_time()

    def before_task_step(self, task: Any) -> None:
        self._began = thread_time()

    def after_task_step(self, task: Any) -> None:
        self.steps.append(thread_time() - self._began)


@contextmanager
def _trio_steps() -> Generator[list[float]]:
    instrument = _Instrument()
    trio.lowlevel.add_instrument(instrument)
    try:
        yield instrument.steps
    finally:
        trio.lowlevel.remove_instrument(instrument)


@contextmanager
def _no_collector() -> Generator[None]:
    """Keep Python from looking through all that is kept, which takes longer than any step."""
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        gc.enable()
