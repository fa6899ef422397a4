"""While a repo is walked as it comes in, the other tasks get their turn; see test_responsive.py."""

from __future__ import annotations

import time
from functools import partial
from pathlib import Path
from statistics import quantiles
from typing import Any

import anyio
import pytest
import test_responsive

from repo_stream import DriverBuilder, RepoDriver
from repo_stream.process import record
from repo_stream.testing import Order, made_car
from support.ticks import (
    COUNTS_WAITS,
    LATE,
    ROOM,
    Walk,
    chunks,
    most,
    no_collector,
    ticks_during,
    write,
)

__all__ = ["no_collector"]

pytestmark = test_responsive.pytestmark


@pytest.fixture(scope="session")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("cars")
    orders: list[Order] = ["stream", "shuffled", "export"]
    for order in orders:
        anyio.run(write, folder / order, made_car(RECORDS, order=order))
    return {order: folder / order for order in orders}


async def keys(driver: RepoDriver[Any]) -> list[list[Any]]:
    kept: list[list[Any]] = []
    while part := await driver.next_keys(256):
        kept.append(part)
    return kept


async def behind(driver: RepoDriver[Any]) -> list[list[Any]]:
    kept = [await driver.next_chunk(RECORDS // 2) or []]
    await driver.get("app.bsky.actor.profile/self")
    return [*kept, *await chunks(driver, 256)]


RECORDS = 50_000  # 19 MB
FEW = partial(chunks, n=256)
RAW = DriverBuilder()
LENGTHS = DriverBuilder(block_processor=len)


@pytest.mark.parametrize(
    ("order", "builder", "walk", "count"),
    [
        pytest.param("stream", RAW, FEW, RECORDS, id="streamable"),
        pytest.param("stream", RAW, partial(chunks, n=10**6), RECORDS, id="streamable, huge n"),
        pytest.param(
            "stream", DriverBuilder(block_processor=record), FEW, RECORDS, id="streamable, records"
        ),
        pytest.param("stream", RAW.with_prefix("app.bsky.actor"), FEW, 1, id="streamable, a range"),
        pytest.param("stream", RAW.with_prefix("zzz"), FEW, 0, id="streamable, nothing"),
        pytest.param("stream", LENGTHS, keys, RECORDS, id="streamable, keys"),
        pytest.param("stream", LENGTHS, behind, RECORDS, id="streamable, behind"),
        pytest.param("shuffled", RAW, FEW, RECORDS, id="shuffled"),
        pytest.param("shuffled", LENGTHS, FEW, RECORDS, id="shuffled, lengths"),
        pytest.param("shuffled", RAW.with_mem_limit_mb(200), FEW, RECORDS, id="shuffled, memory"),
        pytest.param("export", RAW, FEW, RECORDS, id="export"),
        pytest.param("export", RAW.with_mem_limit_mb(20), FEW, RECORDS, id="export, 20 MiB"),
    ],
)
@pytest.mark.usefixtures("no_collector")
async def test_other_tasks_get_their_turn(
    files: dict[str, Path], order: Order, builder: DriverBuilder[Any], walk: Walk, count: int
) -> None:
    # Bytes in memory make nobody wait, so that this is up to the driver alone.
    source = files[order].read_bytes()
    idle = await ticks_during(partial(anyio.sleep, 0.2))
    kept: list[list[Any]] = []
    took = 0.0

    async def job() -> None:
        nonlocal kept, took
        began = time.perf_counter()
        async with builder.stream_car(source) as (_, driver):
            kept = await walk(driver)
        took = time.perf_counter() - began

    ticks = await ticks_during(job)
    assert sum(map(len, kept)) == count
    assert took > LATE, "too little work to be late by"
    if COUNTS_WAITS:
        assert most(ticks) <= LATE * ROOM
    *_, three_quarters = quantiles([tick.late for tick in ticks], n=4)
    assert three_quarters <= LATE + max(tick.late for tick in idle)
