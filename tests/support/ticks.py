"""How late other tasks are while a job runs."""

from __future__ import annotations

import gc
import os
import sys
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterator
from contextlib import aclosing, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import anyio
import pytest

from repo_stream import (
    DiskDriver,
    RepoDriver,
)
from repo_stream.testing import made_car

PERIOD = 0.010


LATE = 0.100


# Machines that run other people's tests at the same time stand still now and then.
ROOM = 3 if os.environ.get("CI") else 1


TASKS = Path("/proc/self/task")


COUNTS_WAITS = sys.platform == "linux" and (TASKS / str(os.getpid()) / "schedstat").exists()


@dataclass(frozen=True)
class Tick:
    """How late it was, in seconds, and for how long threads of this process meanwhile waited."""

    late: float
    waited: float


def waits() -> dict[str, int]:
    """How long each thread has been ready to run and did not, in nanoseconds."""
    found: dict[str, int] = {}
    if COUNTS_WAITS:
        for name in os.listdir(TASKS):  # noqa: PTH208 - no file system's, and half the time
            with suppress(OSError):  # the thread is gone
                found[name] = int((TASKS / name / "schedstat").read_text().split()[1])
    return found


async def tick(ticks: list[Tick]) -> None:
    before = waits()
    while True:
        began = time.perf_counter()
        await anyio.sleep(PERIOD)
        late = time.perf_counter() - began - PERIOD
        after = waits()
        waited = sum(wait - before.get(name, 0) for name, wait in after.items()) / 1e9
        before = after
        ticks.append(Tick(late, waited))


async def ticks_during(job: Callable[[], Awaitable[object]]) -> list[Tick]:
    ticks: list[Tick] = []
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(tick, ticks)
        await anyio.sleep(2 * PERIOD)
        await job()
        await anyio.sleep(2 * PERIOD)
        tasks.cancel_scope.cancel()
    return ticks


def most(ticks: list[Tick]) -> float:
    """The worst that this process is to blame for."""
    return max(tick.late - tick.waited for tick in ticks)


needs_waits = pytest.mark.skipif(
    not COUNTS_WAITS, reason="needs Linux's schedstat to tell a busy loop from a busy machine"
)


async def write(path: Path, pieces: AsyncGenerator[bytes, None]) -> None:
    async with aclosing(pieces), await anyio.open_file(path, "wb") as file:
        async for piece in pieces:
            await file.write(piece)


def made(folder: Path, records: int) -> Path:
    path = folder / f"{records}.car"
    anyio.run(write, path, made_car(records))
    return path


Kept = list[list[Any]]
Walk = Callable[[RepoDriver[Any]], Awaitable[Kept]]


async def chunks(driver: RepoDriver[Any], n: int) -> Kept:
    kept: Kept = []
    while chunk := await driver.next_chunk(n):
        kept.append(chunk)
    return kept


async def outputs(driver: RepoDriver[Any], n: int) -> Kept:
    kept: Kept = []
    while chunk := await driver.next_outputs(n):
        kept.append(chunk)
    return kept


async def through_channel(driver: RepoDriver[Any]) -> Kept:
    assert isinstance(driver, DiskDriver)
    async with driver.to_channel(512) as channel:
        return [chunk async for chunk in channel]


async def singly(driver: RepoDriver[Any]) -> Kept:
    return [[record] async for record in driver]


@pytest.fixture
def no_collector() -> Iterator[None]:
    """To look through all that is kept takes Python's collector longer than there is time."""
    gc.disable()
    yield
    gc.enable()
