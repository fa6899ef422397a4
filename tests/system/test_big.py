"""A big repo is the same in every way, and what went in, record by record."""

from __future__ import annotations

from pathlib import Path

import anyio
import pytest

from repo_stream import DiskBuilder, DiskStore, Driver, DriverBuilder, RepoDriver, Source
from repo_stream.testing import made_records
from support.growth import Cars

COUNT = 300_000
LIMITED = DriverBuilder(mem_limit_mb=16)


async def in_memory(path: Path) -> RepoDriver[bytes]:
    match await DriverBuilder(mem_limit_mb=1000).load_car(path):
        case Driver.Memory(_, driver):
            return driver
        case Driver.Disk():
            pytest.fail("it must fit")


async def on_disk(source: Source, store: DiskStore) -> RepoDriver[bytes]:
    match await LIMITED.load_car(source):
        case Driver.Disk(paused):
            return (await paused.finish_loading(store))[1]
        case Driver.Memory():
            pytest.fail("it must not fit")


async def walk_in_step(memory: RepoDriver[bytes], *others: RepoDriver[bytes]) -> int:
    """Walk all at once beside the records as they are made, so that none of them is kept."""
    made = made_records(COUNT)
    seen = 0
    while (chunk := await memory.next_chunk(1000)) is not None:
        for other in others:
            assert await other.next_chunk(1000) == chunk
        assert chunk == [next(made) for _ in chunk]
        seen += len(chunk)
    for other in others:
        assert await other.next_chunk(1000) is None
    assert next(made, None) is None
    return seen


@pytest.mark.long
async def test_big_repo_is_the_same_in_every_way(cars: Cars, tmp_path: Path) -> None:
    path = cars.made(COUNT)
    assert path.stat().st_size > 100_000_000
    memory = await in_memory(path)
    async with (
        await anyio.open_file(path, "rb") as file,
        DiskBuilder().open(tmp_path / "big.db") as copy,
        DiskBuilder().open() as places,
        LIMITED.stream_car(path) as (_, streamed),
    ):
        copied, in_place = await on_disk(file, copy), await on_disk(path, places)
        assert copy.stored > 100_000_000
        assert places.stored == 0
        assert await walk_in_step(memory, copied, in_place, streamed) == COUNT
        assert streamed.spilled
    # pytest keeps the directories of the last runs.
    (tmp_path / "big.db").unlink()
