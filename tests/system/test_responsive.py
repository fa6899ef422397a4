"""While a repo loads and walks in one task, the other tasks get their turn.

A task lets others work after 10 ms, as soon as it looks at the clock. How much later that is,
depends on the machine. So here a turn is over whenever the clock is looked at, and what is measured
is the work between two looks: at most as much as on so many records, however large the repo is.
`tests/drivers/test_turns.py` has the 10 ms.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from time import thread_time
from typing import Any, Literal

import anyio
import pytest

from repo_stream import (
    DiskBuilder,
    DiskDriver,
    Driver,
    DriverBuilder,
    Processor,
    RepoDriver,
    Source,
    TreeNode,
)
from repo_stream.process import noop, record
from repo_stream.testing import Order
from support.growth import Cars
from support.steps import longest_share

RECORDS = 20_000
MORE = 60_000
FEWER = 4_000  # for what takes long for each
HUGE = 1_000_000  # more than there are

# Drivers walk 512 records between two looks, and processors, which may be slow, make 128 results.
# The rest is room for what is not shared out evenly among records.
WALKED, PROCESSED = 4 * 512, 2 * 128

Kept = list[Any]
Walk = Callable[[RepoDriver[Any]], Awaitable[Kept]]
# To free a driver with all that it holds is not its own work, so it is kept as well.
Walked = tuple[RepoDriver[Any], Kept]
Load = Callable[[Source, DriverBuilder[Any], Walk], Awaitable[Walked]]


@pytest.fixture(autouse=True)
def short_turns(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("repo_stream.turn._TURN", -1.0)


# --- The jobs -------------------------------------------------------------------------------------


def slow(block: bytes) -> int:
    """Take about as long as it takes to decode a record and check it against a schema."""
    end = thread_time() + 50e-6
    while thread_time() < end:
        pass
    return len(block)


def containers(block: bytes) -> dict[str, Any]:
    return {"size": len(block), "parts": [block[at : at + 16] for at in range(0, len(block), 32)]}


async def calls(driver: RepoDriver[Any], method: str, n: int = 256) -> Kept:
    kept: Kept = []
    while part := await getattr(driver, method)(n):
        kept += part
    return kept


async def singly(driver: RepoDriver[Any]) -> Kept:
    return [pair async for pair in driver]


async def through_channel(driver: RepoDriver[Any]) -> Kept:
    assert isinstance(driver, DiskDriver)
    async with driver.to_channel(512) as channel:
        return [pair async for chunk in channel for pair in chunk]


async def behind(driver: RepoDriver[Any]) -> Kept:
    kept = await driver.next_chunk(RECORDS // 2) or []
    await driver.get("app.bsky.actor.profile/self")
    return kept + await calls(driver, "next_chunk")


async def proof(driver: RepoDriver[Any]) -> Kept:
    return (await driver.prove_range()).keys


async def lookups(driver: RepoDriver[Any]) -> Kept:
    """Calls that are short, again and again; among them, too, others get their turn."""
    keys = [key for key, _ in await driver.next_keys(256) or []]
    for key in keys:
        await driver.get(key)
    for key in 10 * keys:
        await driver.seek(key)
    for _ in range(10):
        await driver.collections()
    return []


def failing(block: bytes) -> None:
    raise ValueError(block[:9])


CHUNKS = partial(calls, method="next_chunk")
HUGE_CHUNK = partial(calls, method="next_chunk", n=HUGE)
HUGE_OUTPUTS = partial(calls, method="next_outputs", n=HUGE)
HUGE_KEYS = partial(calls, method="next_keys", n=HUGE)
HUGE_ITEMS = partial(calls, method="next_items", n=HUGE)
KEYS = partial(calls, method="next_keys")


async def in_memory(source: Source, builder: DriverBuilder[Any], walk: Walk) -> Walked:
    match await builder.load_car(source):
        case Driver.Memory(_, driver):
            return driver, await walk(driver)
        case Driver.Disk():
            pytest.fail("it does not fit in memory")


async def in_place(source: Source, builder: DriverBuilder[Any], walk: Walk) -> Walked:
    return await on_disk(source, builder, walk, stored=False)


async def copied(source: Source, builder: DriverBuilder[Any], walk: Walk) -> Walked:
    assert isinstance(source, Path)
    async with await anyio.open_file(source, "rb") as file:
        return await on_disk(file, builder, walk, stored=True)


async def on_disk(
    source: Source, builder: DriverBuilder[Any], walk: Walk, *, stored: bool
) -> Walked:
    match await builder.load_car(source):
        case Driver.Disk(paused):
            async with DiskBuilder().open() as store:
                _, driver = await paused.finish_loading(store)
                assert (store.stored > 0) == stored
                return driver, await walk(driver)
        case Driver.Memory():
            pytest.fail("it fits in memory")


async def streamed(source: Source, builder: DriverBuilder[Any], walk: Walk) -> Walked:
    async with builder.stream_car(source) as (_, driver):
        return driver, await walk(driver)


@pytest.mark.both_loops
async def test_step_that_keeps_the_loop_is_found_out(anyio_backend: str) -> None:
    async def job() -> None:
        for step in range(100):
            for _ in range(50 if step == 40 else 1):
                slow(b"")
            await anyio.lowlevel.checkpoint()

    share, _ = await longest_share(anyio_backend, job)
    assert 0.2 < share < 0.4


# --- The steps ------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Case:
    """What is read, and how; and the work on how many records a step may be."""

    load: Load
    walk: Walk
    limit: float = 16
    processor: Processor[Any] | Callable[[bytes], Any] = noop
    records: int = RECORDS
    order: Order = "shuffled"
    on_error: Literal["raise", "skip"] = "raise"
    part: str = ""  # of the keys, by their beginning
    left: int | None = None  # as many come
    most: int = WALKED


async def check(anyio_backend: str, cars: Cars, case: Case) -> None:
    path = cars.made(case.records, case.order)
    # Bytes in memory make nobody wait, so that it is up to the driver alone.
    source = path.read_bytes() if case.load is streamed else path
    builder = DriverBuilder(mem_limit_mb=case.limit).with_block_processor(case.processor)
    builder = builder.with_on_error(case.on_error)
    if case.part:
        builder = builder.with_prefix(case.part)

    async def job() -> Walked:
        return await case.load(source, builder, case.walk)

    # Others may make one step take longer, but hardly five times in a row.
    found: list[int] = []
    for _ in range(5):
        share, (_driver, kept) = await longest_share(anyio_backend, job)
        pairs = [item for item in kept if not isinstance(item, TreeNode)]
        assert len(pairs) == (case.records if case.left is None else case.left)
        found.append(round(share * case.records))
        if found[-1] <= case.most:
            return
    pytest.fail(f"steps as long as the work on {found} records, not {case.most}")


@pytest.mark.both_loops
@pytest.mark.parametrize(
    "case",
    [
        pytest.param(Case(in_memory, CHUNKS, 1024), id="memory"),
        pytest.param(Case(copied, through_channel, 1, len), id="copied, channel"),
        pytest.param(Case(in_place, HUGE_CHUNK, 4, len), id="in place, huge chunk"),
        pytest.param(Case(streamed, HUGE_CHUNK, order="stream"), id="streamable, huge chunk"),
        pytest.param(Case(streamed, CHUNKS, 4), id="streamed, to disk"),
    ],
)
async def test_steps_are_short(anyio_backend: str, cars: Cars, case: Case) -> None:
    await check(anyio_backend, cars, case)


@pytest.mark.parametrize(
    "case",
    [
        pytest.param(Case(in_memory, HUGE_OUTPUTS, 1024, records=MORE), id="memory, huge outputs"),
        pytest.param(Case(in_memory, HUGE_ITEMS, 1024), id="memory, huge items"),
        pytest.param(Case(in_memory, HUGE_KEYS, 1024), id="memory, huge keys"),
        pytest.param(Case(in_memory, proof, 1024), id="memory, proof of a range"),
        pytest.param(
            Case(in_memory, lookups, 1024, records=FEWER, left=0, most=PROCESSED),
            id="memory, lookups",
        ),
        pytest.param(
            Case(in_memory, CHUNKS, 1024, failing, FEWER, on_error="skip", left=0, most=PROCESSED),
            id="memory, bad records",
        ),
        pytest.param(
            Case(in_memory, CHUNKS, 1024, slow, FEWER, most=PROCESSED), id="memory, slow processor"
        ),
        pytest.param(
            Case(copied, singly, 0.5, slow, FEWER, most=PROCESSED), id="copied, slow processor"
        ),
        pytest.param(
            Case(copied, HUGE_CHUNK, 1, containers, most=2 * PROCESSED), id="copied, containers"
        ),
        pytest.param(
            Case(in_place, HUGE_CHUNK, 0.5, slow, FEWER, most=PROCESSED),
            id="in place, slow processor",
        ),
        pytest.param(
            Case(streamed, CHUNKS, order="stream", processor=record), id="streamable, records"
        ),
        pytest.param(Case(streamed, KEYS, order="stream", processor=len), id="streamable, keys"),
        pytest.param(
            Case(streamed, behind, order="stream", processor=len), id="streamable, behind"
        ),
        pytest.param(
            # The rest is hashed, and not walked.
            Case(streamed, CHUNKS, order="stream", part="app.bsky.actor", left=1, most=2 * WALKED),
            id="streamable, one record",
        ),
        pytest.param(
            Case(streamed, CHUNKS, order="stream", part="zzz", left=0), id="streamable, no record"
        ),
        pytest.param(
            Case(streamed, CHUNKS, 16, slow, FEWER, most=PROCESSED), id="streamed, slow processor"
        ),
        pytest.param(Case(streamed, CHUNKS, 1, len), id="streamed, lengths, to disk"),
        pytest.param(Case(streamed, CHUNKS, 200), id="streamed, memory"),
        pytest.param(Case(streamed, CHUNKS, 5, order="export"), id="streamed, export, to disk"),
    ],
)
async def test_steps_are_short_in_other_ways(anyio_backend: str, cars: Cars, case: Case) -> None:
    await check(anyio_backend, cars, case)
