"""How long it takes to load and walk a CAR, in memory and through the disk.

From the top of the repository, in an environment with the package and the group `bench`:

    python -m pytest benches

The CARs are those of the Rust crate's benches, from `../shared/cars`; where they are absent, made
ones with as many records. `HUGE_CAR=path python -m pytest benches -k huge` takes a huge one of your
own; without it one of 300,000 records is made on the spot.

Every record's length is taken, in chunks of 256, and every block is verified. Small CARs are read
from memory, the huge one from its file.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from pytest_benchmark.fixture import BenchmarkFixture

from repo_stream import DiskBuilder, DiskDriver, DiskStore, Driver, DriverBuilder, MemDriver, Source
from repo_stream.testing import made_car

SHARED = Path(__file__).resolve().parents[2] / "shared" / "cars"
RECORDS = {"empty": 0, "tiny": 8, "little": 278, "midsize": 11_585, "huge": 300_000}

IN_MEMORY = DriverBuilder(mem_limit_mb=1 << 20, block_processor=len)
THROUGH_DISK = DriverBuilder(mem_limit_mb=16, block_processor=len)
ALWAYS_THROUGH_DISK = DriverBuilder(mem_limit_mb=0, block_processor=len)


@dataclass(frozen=True)
class Car:
    """A CAR to read, and where it comes from."""

    name: str
    origin: str
    source: Source


async def write_made(path: Path, records: int) -> None:
    with path.open("wb") as file:
        async for piece in made_car(records):
            file.write(piece)


@pytest.fixture(scope="module", params=RECORDS)
def car(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Car]:
    name: str = request.param
    path = SHARED / f"{name}.car"
    if name == "huge" and "HUGE_CAR" in os.environ:
        path = Path(os.environ["HUGE_CAR"]).resolve(strict=True)
    made = not path.exists()
    if made:
        path = tmp_path_factory.mktemp("cars") / f"{name}.car"
        asyncio.run(write_made(path, RECORDS[name]))
    yield Car(name, "made" if made else str(path), path if name == "huge" else path.read_bytes())
    if made:
        path.unlink()


@pytest.fixture
def runner() -> Iterator[asyncio.Runner]:
    """An event loop that stays, so that starting one is not measured."""
    with asyncio.Runner() as runner:
        yield runner


async def walk(driver: MemDriver[int] | DiskDriver[int]) -> tuple[int, int]:
    records = size = 0
    while chunk := await driver.next_chunk(256):
        records += len(chunk)
        for _, length in chunk:
            size += length
    return records, size


async def in_memory(source: Source) -> tuple[int, int]:
    match await IN_MEMORY.load_car(source):
        case Driver.Memory(_, driver):
            return await walk(driver)
        case Driver.Disk():
            pytest.fail("it does not fit in memory")


async def through_disk(
    source: Source, store: DiskStore, builder: DriverBuilder[int]
) -> tuple[int, int]:
    match await builder.load_car(source):
        case Driver.Memory():
            pytest.fail("it fits in memory; take a larger HUGE_CAR")
        case Driver.Disk(paused):
            _, driver = await paused.finish_loading(store)
            counted = await walk(driver)
            await driver.reset_store()
            return counted


def note(benchmark: BenchmarkFixture, car: Car, counted: tuple[int, int]) -> None:
    """Write beside the figures what they are about; a bench of nothing must not look fast."""
    records, size = counted
    assert (records > 0) == (car.name != "empty")
    benchmark.extra_info.update(origin=car.origin, records=records, bytes=size)


def bench_memory(benchmark: BenchmarkFixture, runner: asyncio.Runner, car: Car) -> None:
    benchmark.group = car.name

    def once() -> tuple[int, int]:
        return runner.run(in_memory(car.source))

    counted = benchmark.pedantic(once, rounds=3) if car.name == "huge" else benchmark(once)
    note(benchmark, car, counted)


def bench_disk(benchmark: BenchmarkFixture, runner: asyncio.Runner, car: Car) -> None:
    """Small CARs go through the disk by a limit of 0, the huge one by the usual 16 MiB."""
    benchmark.group = car.name
    builder = THROUGH_DISK if car.name == "huge" else ALWAYS_THROUGH_DISK

    async def open_store() -> DiskStore:
        return await DiskBuilder().open()

    store = runner.run(open_store())

    def once() -> tuple[int, int]:
        return runner.run(through_disk(car.source, store, builder))

    try:
        counted = benchmark.pedantic(once, rounds=3) if car.name == "huge" else benchmark(once)
    finally:
        runner.run(store.aclose())
    note(benchmark, car, counted)
