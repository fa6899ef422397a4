"""Drivers of made repos: how they are opened, read to their end, and read to their error."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, TypeVar

import pytest

from repo_stream import (
    Cid,
    DiskBuilder,
    DiskDriver,
    DiskStore,
    Driver,
    DriverBuilder,
    NeedDisk,
    Output,
    RepoDriver,
    RepoStreamError,
)
from repo_stream.testing import BuiltRepo, build_repo

T = TypeVar("T")

#: Both ways: everything in memory, and nothing.
BOTH_WAYS = pytest.mark.parametrize(
    "mem_limit_mb", [pytest.param(16, id="memory"), pytest.param(0, id="disk")]
)


def records(count: int) -> dict[str, object]:
    """So many different records under keys of many depths."""
    return {
        f"com.example.{'abc'[number % 3]}/{number:05}": {"n": number, "text": "x" * (number % 300)}
        for number in range(count)
    }


# More than a driver walks between two looks at the clock.
REPO = build_repo(records(700))


def expected(repo: BuiltRepo) -> list[Output[bytes]]:
    return [Output(key, Cid(cid), repo.blocks[cid]) for key, cid in repo.records.items()]


def pairs(repo: BuiltRepo) -> list[tuple[str, bytes]]:
    return [(key, repo.blocks[cid]) for key, cid in repo.records.items()]


def damaged(repo: BuiltRepo, at: int) -> tuple[bytes, str]:
    """The repo without one of its records, and that record's key."""
    key = list(repo.records)[at]
    return repo.to_car(omit=[repo.records[key]]), key


@asynccontextmanager
async def driving(source: Any, builder: DriverBuilder[T]) -> AsyncGenerator[RepoDriver[T]]:
    """A driver for a source, through a temporary store if it does not fit in memory."""
    match await builder.load_car(source):
        case Driver.Memory(_, driver):
            yield driver
        case Driver.Disk(paused):
            async with DiskBuilder().open() as store:
                _, driver_on_disk = await paused.finish_loading(store)
                yield driver_on_disk


async def paused_at(source: Any, builder: DriverBuilder[T]) -> NeedDisk[T]:
    """A repo that is over the memory limit and waits for a store."""
    outcome = await builder.load_car(source)
    assert isinstance(outcome, Driver.Disk)
    return outcome.paused


async def on_disk(car: bytes, store: DiskStore) -> DiskDriver[bytes]:
    paused = await paused_at(car, DriverBuilder(mem_limit_mb=0))
    return (await paused.finish_loading(store))[1]


@asynccontextmanager
async def disk_driver(car: bytes) -> AsyncGenerator[DiskDriver[bytes]]:
    async with DiskBuilder().open() as store:
        yield await on_disk(car, store)


async def chunks_of(driver: RepoDriver[T], n: int) -> list[list[tuple[str, T]]]:
    chunks: list[list[tuple[str, T]]] = []
    while chunk := await driver.next_chunk(n):
        chunks.append(chunk)
    return chunks


def joined(chunks: list[list[tuple[str, T]]]) -> list[tuple[str, T]]:
    return [pair for chunk in chunks for pair in chunk]


async def rest_of(driver: RepoDriver[T], n: int = 256) -> list[tuple[str, T]]:
    """All records that are left, asked for in chunks of `n`."""
    return joined(await chunks_of(driver, n))


async def each_of(driver: RepoDriver[T], n: int) -> AsyncIterator[tuple[str, T]]:
    """The records of a driver one by one, asked for in chunks of `n`."""
    while (chunk := await driver.next_chunk(n)) is not None:
        assert chunk
        for pair in chunk:
            yield pair


async def until_error(
    records: AsyncIterator[T],
) -> tuple[list[T], RepoStreamError | None]:
    """Take what comes before an error, and the error."""
    got: list[T] = []
    try:
        async for record in records:
            got.append(record)  # noqa: PERF401 - what came before the error counts
    except RepoStreamError as error:
        return got, error
    return got, None
