"""Hostile CARs give their error, in memory and through the disk, and take little memory."""

from __future__ import annotations

from collections.abc import AsyncGenerator

import pytest

from repo_stream import DiskBuilder, DiskStore, DriverBuilder
from repo_stream.testing import build_repo
from support import pieces_of
from support.hostile import CASES, FAMILIES, Hostile
from support.hostile_reading import AnyBuilder, bounded, check, read

WAYS: dict[str, AnyBuilder] = {
    "memory": DriverBuilder(mem_limit_mb=10_000),
    "disk": DriverBuilder(mem_limit_mb=0),
}

GOOD = build_repo({f"com.example.good/{n}": {"n": n} for n in range(20)})
GOOD_CAR = GOOD.to_car()


def builder_for(case: Hostile, way: str) -> AnyBuilder:
    return WAYS[way].with_cid_verification(case.verify).with_limits(case.limits)


@pytest.fixture(scope="module")
def anyio_backend() -> str:
    """One event loop for all, as they share a store."""
    return "asyncio"


@pytest.fixture(scope="module")
async def store() -> AsyncGenerator[DiskStore]:
    async with DiskBuilder().open() as store:
        yield store


def test_hostile_cars_are_many_and_each_has_its_name() -> None:
    assert len(CASES) >= 400
    assert len({case.name for case in CASES}) == len(CASES)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
async def test_hostile_car_gives_its_error(case: Hostile, store: DiskStore) -> None:
    car = case.car()
    with bounded(len(car)):
        outcome = await read(car, builder_for(case, "memory"))
    check(outcome, case, "memory")
    check(await read(car, builder_for(case, "disk"), store), case, "disk")


@pytest.mark.parametrize("case", FAMILIES, ids=lambda case: case.name)
async def test_hostile_car_takes_little_memory_through_the_disk_and_leaves_the_store_usable(
    case: Hostile, store: DiskStore
) -> None:
    car = case.car()
    with bounded(len(car)):  # which makes the disk several times as slow
        outcome = await read(car, builder_for(case, "disk"), store)
    check(outcome, case, "disk")
    following = await read(GOOD_CAR, WAYS["disk"], store)
    assert following.error is None
    assert following.keys == tuple(GOOD.records)


@pytest.mark.parametrize("case", FAMILIES, ids=lambda case: case.name)
async def test_hostile_car_gives_its_error_if_records_are_processed_or_bytes_come_singly(
    case: Hostile, store: DiskStore
) -> None:
    car = case.car()
    for way in WAYS:
        builder = builder_for(case, way)
        outcome = await read(car, builder.with_block_processor(len), store)
        check(outcome, case, f"{way}, processed")
        if len(car) < 10_000:
            check(await read(pieces_of(car, 1), builder, store), case, f"{way}, byte by byte")
